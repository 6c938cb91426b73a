"""`cache: device`: batches are gathered where the set lies, and are those of `cache: true`, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules import Augment, DrawnFaces, FaceDataModule, FolderFaces
from datamodules.on_device import Places, gathered
from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.split import Share
from lightning_app.core.batch import Batch
from lightning_app.desensitize import CentreBlur, Desensitizer, Identity, MaskOut, Mosaic

SIZE = 24
Cache = Literal["device"] | bool


class NoFlips(Mosaic):
    """A mosaic that may not be mirrored, so that raw images are."""

    flips = False


class Recorder(L.LightningModule):
    """Keeps every batch it is given and learns next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * SIZE * SIZE, 8)
        self.seen: list[Batch] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return nn.functional.cross_entropy(self.net(batch["image"].flatten(1)), batch["identity"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.seen.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def drawn() -> FaceReader:
    return DrawnFaces(identities=4, images_per_identity=6, size=SIZE)


def grey_with_bad_ones(root: Path) -> FaceReader:
    """200 grey images of four people; two of one person cannot be decoded, and of another's three of eight."""
    drawing = np.random.default_rng(0)
    for who in range(4):
        (root / f"p{who}").mkdir(parents=True)
        for i in range(50):
            pixels = drawing.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"p{who}" / f"{i:02d}.png")
    for name in ("p0/03.png", "p2/07.png"):
        (root / name).write_bytes(b"no image")
    return FolderFaces(root, size=SIZE, cache_index=False)


def fit(
    folder: Path,
    cache: Cache,
    desensitizer: Desensitizer,
    reader: FaceReader | None = None,
    ckpt_path: Path | None = None,
    epochs: int = 2,
    **more: Any,
) -> list[Batch]:
    """Every batch of a fit of two epochs, with its validations."""
    model = Recorder()
    settings: dict[str, Any] = {
        "global_batch_size": 5,
        "val_share": 0.34,
        "augment": Augment(0.5, rotate=5),
        **more,
    }
    data = FaceDataModule(reader or drawn(), desensitizer, cache=cache, **settings)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    if ckpt_path is None:
        trainer.save_checkpoint(folder / "end.ckpt")
    return model.seen


def same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 4
    for a, b in zip(one, other, strict=True):
        assert set(a) - {"bad"} == set(b) - {"bad"}
        for key in a:
            left, right = a[key], b[key]  # type: ignore[literal-required]
            assert torch.equal(left, right) if isinstance(left, Tensor) else left is right, key


@pytest.mark.parametrize(
    ("desensitizer", "more"),
    [
        (Identity(), {}),
        (MaskOut(freeform=(0.4, 0.8), count=50, draw="batch"), {"keep_clean": True}),
        (MaskOut(freeform=(0.4, 0.8), count=50, draw="image"), {"val_share": 0.0}),
        (CentreBlur(), {"num_workers": 2}),
        (NoFlips(4), {}),
    ],
    ids=["clean", "mask per batch", "mask per image", "blur", "moved before"],
)
def test_batches_are_those_of_the_cache_in_memory(
    desensitizer: Desensitizer, more: dict[str, Any], tmp_path: Path
) -> None:
    same(fit(tmp_path, "device", desensitizer, **more), fit(tmp_path, True, desensitizer, **more))


def test_grey_images_take_one_channel_and_bad_ones_are_replaced_within_their_part(tmp_path: Path) -> None:
    reader, desensitizer = grey_with_bad_ones(tmp_path / "grey"), MaskOut(freeform=(0.4, 0.8))
    more: dict[str, Any] = {"reader": reader, "global_batch_size": 33}
    same(fit(tmp_path, "device", desensitizer, **more), fit(tmp_path, True, desensitizer, **more))
    cached = CachedReader(reader)
    assert cached.pixels.shape[1] == 1
    places = Places(cached)
    assert places.__getitems__([0, 1])["bad"].tolist() == []
    assert (
        places.__getitems__([3, 107, 1])["bad"].tolist()
        == cached.__getitems__([3, 107, 1])["bad"].tolist()
        == [3, 107]
    )


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    desensitizer = MaskOut(freeform=(0.4, 0.8), count=50, draw="batch")
    whole = fit(tmp_path, "device", desensitizer, epochs=4)
    fit(tmp_path, "device", desensitizer, epochs=2)
    rest = fit(tmp_path, "device", desensitizer, epochs=4, ckpt_path=tmp_path / "end.ckpt")
    same(rest, whole[len(whole) // 2 :])


def test_each_rank_gets_its_share_of_the_held_out_images() -> None:
    cached = CachedReader(drawn())
    for rank in (0, 1, 2):
        batch = gathered(Share(Places(cached), rank, 3).__getitems__([0, 2, 5]), cached)
        for key, value in Share(cached, rank, 3).__getitems__([0, 2, 5]).items():
            assert key == "bad" or torch.equal(batch[key], value)  # type: ignore[literal-required, arg-type]


def test_no_image_is_read_in_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(CachedReader, "__getitems__", lambda self, indices: read.extend(indices))
    fit(tmp_path, "device", Identity())
    assert not read


def test_raw_samples_come_from_the_device_too() -> None:
    samples = []
    for cache in (True, "device"):
        data = FaceDataModule(drawn(), cache=cache, val_share=0.34)
        data.setup("fit")
        samples.append(data.raw_samples(4))
    assert torch.equal(*samples)


def test_too_little_memory_on_the_device_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedReader(drawn())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    with pytest.raises(
        ValueError, match=r"^data\.cache: device: 24 images of 3×24×24 take 0\.0 GiB on cuda:0, .*true"
    ):
        cached.to(torch.device("cuda:0"))
    assert cached.pixels.device.type == "cpu"


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.cache='gpu': give true, false or device"):
        FaceDataModule(drawn(), cache="gpu")  # type: ignore[arg-type]
