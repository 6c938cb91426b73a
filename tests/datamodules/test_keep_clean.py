"""`keep_clean`: an attacker's batches hold the clean faces, moved as the images are."""

from __future__ import annotations

import torch

from datamodules import Augment, DrawnFaces, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import CentreBlock, Desensitizer, MaskOut, Mosaic

SIZE = 40


def raw() -> Batch:
    return DrawnFaces(identities=4, images_per_identity=4, size=SIZE).__getitems__(list(range(16)))


def data(desensitizer: Desensitizer, augment: Augment | None = None, keep: bool = True) -> FaceDataModule:
    return FaceDataModule(
        DrawnFaces(identities=4, images_per_identity=4, size=SIZE),
        desensitizer,
        augment,
        seed=0,
        keep_clean=keep,
    )


def trained(module: FaceDataModule, batch: Batch) -> Batch:
    """What a training step gets, not normalised."""
    draw_key = DrawKey(0, 3, 0)
    out: Batch = module.augment(module.desensitize_batch(batch, draw_key), draw_key)
    return out


def test_clean_is_the_raw_image_in_validation() -> None:
    batch = raw()
    for module in (data(MaskOut(freeform=(0.4, 0.5))), data(Mosaic(8))):
        out = module.on_after_batch_transfer(raw(), 0)
        assert torch.equal(out["clean"], batch["image"].float() / 255)
        assert not torch.equal(out["image"], out["clean"])


def test_nobody_gets_it_unasked() -> None:
    assert "clean" not in data(Mosaic(8), keep=False).on_after_batch_transfer(raw(), 0)


def test_clean_is_flipped_with_its_image() -> None:
    out = trained(data(MaskOut(freeform=(0.4, 0.5))), raw())
    clean, mask = raw()["image"].float() / 255, out["mask"]
    assert mask is not None
    flipped = out["mask_index"].bool()
    assert 0 < int(flipped.sum()) < 16
    assert torch.equal(out["clean"], torch.where(flipped.view(-1, 1, 1, 1), clean.flip(-1), clean))
    torch.testing.assert_close(out["image"], out["clean"] * mask[out["mask_index"]], atol=1e-6, rtol=0)


def test_clean_moves_and_is_relit_with_its_image() -> None:
    augment = Augment(rotate=20, scale=0.1, shift=0.1, light=0.3)
    out = trained(data(CentreBlock(0.4), augment), raw())
    mask = out["mask"]
    assert mask is not None
    inner = -torch.nn.functional.max_pool2d(
        -mask, 5, 1, 2
    )  # away from the edge, where bilinear mixes in black
    gap = (out["image"] - out["clean"]) * inner
    assert inner.mean() > 0.3
    assert gap.abs().max() < 1e-5
