"""The parts that a mask takes an image into; and a planted masker that writes the label into the mask's shape."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules import FaceDataModule
from datamodules.augment import Augment
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import CentreBlock, Desensitizer, FrequencyMask, GaussianBlur, Identity, Part
from lightning_app.desensitize.part import Shown
from lightning_app.models import ResNet
from lightning_app.release.write.desensitizing import PixelDesensitizer
from tests.desensitize.contract import DesensitizerContract, faces
from tests.models.masker_run import CLASSES, Small, Spots


class TestReleased(DesensitizerContract):
    from_description = False

    def make(self) -> Part:
        return Part(CentreBlock(0.5), "released")


class TestMaskAlone(TestReleased):
    def make(self) -> Part:
        return Part(CentreBlock(0.5), "mask")


def test_the_parts_of_an_image() -> None:
    batch = faces(16)
    out = CentreBlock(0.5)(batch)
    mask = out["mask"]
    shown = {part: Part(CentreBlock(0.5), part)(batch) for part in ("released", "mask", "hidden")}
    assert torch.equal(shown["released"]["image"], out["image"])
    assert torch.equal(shown["mask"]["image"], mask.expand(4, 3, -1, -1))
    assert torch.equal(shown["hidden"]["image"] + out["image"], batch["image"])
    assert torch.equal(shown["released"]["mask"], mask)
    assert all(shown[part]["mask"] is None for part in ("mask", "hidden"))
    blurred = Part(GaussianBlur(9))(batch)["image"]
    assert torch.equal(blurred, GaussianBlur(9)(batch)["image"])


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="part: 'both' is none of released, mask, hidden"):
        Part(CentreBlock(0.5), "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of: FrequencyMask returns no pictures"):
        Part(FrequencyMask())
    parts: tuple[tuple[Shown, str], ...] = (("mask", "white"), ("hidden", "black"))
    for part, colour in parts:
        with pytest.raises(
            ValueError, match=f"'{part}' of GaussianBlur, which has no mask.* all be {colour}"
        ):
            Part(GaussianBlur(9), part)
        with pytest.raises(ValueError, match=f"'{part}' of Identity, which has no mask.* all be {colour}"):
            Part(Identity(), part)
    for part in ("released", "mask", "hidden"):
        with pytest.raises(
            ValueError, match=f"Part: shows the {part} part for studies alone; release CentreBlock"
        ):
            PixelDesensitizer(Part(CentreBlock(0.5), part), 16)


class WritesTheLabel(Desensitizer):
    """A planted masker: a quarter of the pixels is shown everywhere, and which one says the class."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out, size = batch.copy(), batch["image"].shape[-1]
        half = size // 2
        masks = torch.zeros(CLASSES, 1, size, size)
        for label in range(CLASSES):
            row, column = divmod(label, 2)
            masks[label, :, row * half :, column * half :][..., :half, :half] = 1
        out["mask"], out["mask_index"] = masks, batch["identity"]
        out["image"] = batch["image"] * masks[batch["identity"]]
        return out


class Blind(Desensitizer):
    """The same masks, by the image's number: they tell nothing of the class."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        other = batch["index"] * 7 % 31 % CLASSES
        found: Batch = WritesTheLabel()({**batch, "identity": other})
        found["identity"] = batch["identity"]
        return found


def accuracy(desensitizer: Desensitizer, part: Any) -> float:
    """Of a fresh predictor on images that it was not trained on."""
    torch.manual_seed(0)
    data = FaceDataModule(
        Spots(20), Part(desensitizer, part), augment=Augment(flip=0.0), global_batch_size=16, val_share=0.25,
        cache=True, seed=1,
    )  # fmt: skip
    model = ResNet(backbone=Small, input_size=16, lr=0.1, schedule="constant", warmup=0)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=12, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, num_sanity_val_steps=0, check_val_every_n_epoch=12,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    found: Tensor = trainer.callback_metrics["val/accuracy"]
    return float(found)


def test_a_masker_that_writes_the_label_is_caught_by_the_mask_alone() -> None:
    assert accuracy(WritesTheLabel(), "mask") > 0.9
    assert accuracy(Blind(), "mask") < 0.6  # of four classes, 20 images
    # Spots' one spot lies in the second quarter: other masks hide it
    assert accuracy(Blind(), "released") < accuracy(WritesTheLabel(), "released")
