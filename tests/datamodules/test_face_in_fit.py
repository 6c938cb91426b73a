"""What FaceDataModule feeds a model while Lightning trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from datamodules import DrawnFaces, FaceDataModule
from lightning_app.core.batch import Batch
from lightning_app.desensitize import MaskOut

SIZE = 24


class Recorder(L.LightningModule):
    """Keeps every batch it is given and learns next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * SIZE * SIZE, 4)
        self.seen: list[Batch] = []
        self.held: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["identity"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(
    tmp_path: Path, desensitizer: MaskOut, epochs: int = 2, ckpt_path: Path | None = None, **more: Any
) -> Recorder:
    model = Recorder()
    reader = DrawnFaces(identities=4, images_per_identity=6, size=SIZE)
    data = FaceDataModule(reader, desensitizer, global_batch_size=5, val_share=0.34, **more)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path, use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    if ckpt_path is None:
        trainer.save_checkpoint(tmp_path / "end.ckpt")
    return model


def masks(batches: list[Batch]) -> list[Tensor]:
    found = []
    for batch in batches:
        assert batch["mask"] is not None
        found.append(batch["mask"])
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_every_run_with_the_same_seed_sees_the_same_batches(tmp_path: Path, workers: int) -> None:
    def desensitize() -> MaskOut:
        return MaskOut(freeform=(0.4, 0.8), count=50, draw="batch")

    one, two = fit(tmp_path, desensitize()), fit(tmp_path, desensitize(), num_workers=workers)
    assert len(one.seen) == 6
    for a, b in zip(one.seen + one.held, two.seen + two.held, strict=True):
        for key in ("image", "identity", "index", "mask_index"):
            assert torch.equal(a[key], b[key]), key
        assert torch.equal(masks([a])[0], masks([b])[0])
    other = fit(tmp_path, desensitize(), seed=1)
    assert any(not torch.equal(a["index"], b["index"]) for a, b in zip(one.seen, other.seen, strict=True))


def test_a_mask_per_batch_is_drawn_at_every_step_and_none_twice_in_a_row(tmp_path: Path) -> None:
    found = masks(fit(tmp_path, MaskOut(freeform=(0.4, 0.8), count=50, draw="batch")).seen)
    assert [len(m) for m in found] == [2] * 6  # one mask, as it is and mirrored
    assert len({m.numpy().tobytes() for m in found}) >= 5


def test_a_mask_per_image_differs_within_the_batch_and_between_epochs(tmp_path: Path) -> None:
    seen = fit(tmp_path, MaskOut(freeform=(0.4, 0.8), count=50, draw="image")).seen
    assert all(len(m) == 5 for m in masks(seen))
    of_image: dict[int, set[bytes]] = {}
    for batch in seen:
        mask = masks([batch])[0]
        for index, which in zip(batch["index"].tolist(), batch["mask_index"].tolist(), strict=True):
            of_image.setdefault(index, set()).add(mask[which].numpy().tobytes())
    assert max(len(drawn) for drawn in of_image.values()) == 2


def test_validation_is_the_same_in_every_epoch(tmp_path: Path) -> None:
    held = fit(tmp_path, MaskOut(freeform=(0.4, 0.8), count=50, draw="batch")).held
    first, second = held[: len(held) // 2], held[len(held) // 2 :]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["image"], b["image"])


def test_hidden_pixels_are_black_before_normalisation(tmp_path: Path) -> None:
    for batch in fit(tmp_path, MaskOut(freeform=(0.4, 0.8))).seen:
        mask = masks([batch])[0][batch["mask_index"]]
        assert (batch["image"][(mask == 0).expand_as(batch["image"])] == -1).all()
        assert ((mask == 0).float().mean() - 0.6).abs() < 0.21


def orders(model: Recorder) -> list[list[int]]:
    """The images of each epoch of 3 steps, in order."""
    steps = [batch["index"].tolist() for batch in model.seen]
    return [[*steps[i], *steps[i + 1], *steps[i + 2]] for i in range(0, len(steps), 3)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_epoch_has_its_own_order_and_a_resumed_one_that_of_the_whole_run(
    tmp_path: Path, workers: int
) -> None:
    whole = fit(tmp_path, MaskOut(freeform=(0.4, 0.8)), epochs=4, num_workers=workers)
    found = orders(whole)
    assert len(found) == len({tuple(order) for order in found}) == 4
    fit(tmp_path, MaskOut(freeform=(0.4, 0.8)), epochs=2, num_workers=workers)
    resumed = fit(
        tmp_path, MaskOut(freeform=(0.4, 0.8)), epochs=4, ckpt_path=tmp_path / "end.ckpt", num_workers=workers
    )
    assert orders(resumed) == found[2:]
    for a, b in zip(resumed.seen, whole.seen[6:], strict=True):
        assert torch.equal(a["image"], b["image"])
