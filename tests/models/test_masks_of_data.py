"""Which masks a network that looks at masks gets with a representation."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import pytest
import torch
from torch.nn import functional as F

from datamodules import DrawnFaces, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import BlockDCT, Chain, Desensitizer, GaussianBlur, MaskOut
from lightning_app.models import ResNet, ResNetFSM, ResNetPartial
from lightning_app.models.base import Recogniser


class HalfWithMask(Desensitizer):
    """A representation of half the size whose masks are of the images' pixels, as every desensitizer's are."""

    out_channels = 12
    is_image = False
    flips = False
    has_mask = True

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = batch.copy()
        mask = torch.ones(1, 1, *batch["image"].shape[2:])
        mask[..., :10] = 0
        out["image"] = F.pixel_unshuffle(batch["image"] * mask, 2)
        out["mask"], out["mask_index"] = mask, torch.zeros_like(batch["index"])
        return out

    def out_size(self, size: int) -> int:
        return size // 2


def fit(kind: type[Recogniser], desensitizer: Desensitizer) -> Recogniser:
    """One step on drawn faces of 32 px."""
    data = FaceDataModule(
        DrawnFaces(identities=2, images_per_identity=4, size=32), desensitizer, global_batch_size=4
    )
    more: dict[str, Any] = {"insertion_points": ["layer1"]} if kind is ResNetFSM else {}
    model = kind(
        backbone="resnet18", width=8, input_size=data.input_size, in_channels=data.in_channels, **more
    )
    L.Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    ).fit(model, datamodule=data)  # fmt: skip
    return model


@pytest.mark.parametrize("kind", [ResNetFSM, ResNetPartial])
def test_masks_of_another_size_than_the_input_are_refused_before_training(kind: type[Recogniser]) -> None:
    with pytest.raises(
        ValueError, match=rf"model: {kind.__name__} looks at masks of .* 16 px, .* HalfWithMask are 32"
    ):
        fit(kind, HalfWithMask())
    assert fit(ResNet, HalfWithMask()).global_step == 1


@pytest.mark.parametrize("desensitizer", [
    BlockDCT(upsample=1, stride=4), Chain([MaskOut(freeform=(0.7, 0.8)), BlockDCT(upsample=1, stride=4)]),
])  # fmt: skip
def test_a_smaller_representation_without_masks_is_trained_on_and_told(
    desensitizer: Desensitizer, caplog: pytest.LogCaptureFixture
) -> None:
    """32 px become 7: `layer1` is 2 px there, and the gate is 1 everywhere."""
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert fit(ResNetFSM, desensitizer).global_step == 1
    name = type(desensitizer).__name__
    assert (
        f"ResNetFSM looks at masks, and {name} returns none: it is a plain ResNet here; take ResNet."
        in caplog.text
    )


def test_nothing_is_said_of_pictures(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "faceveil"):
        fit(ResNetFSM, GaussianBlur(9))
    assert "looks at masks" not in caplog.text


def test_a_stage_that_is_too_small_for_a_gate_is_one_line() -> None:
    with pytest.raises(
        ValueError, match="insertion point 'layer3': the feature map of 7 px images is 1×1 there"
    ):
        ResNetFSM(backbone="resnet18", width=8, input_size=7, in_channels=63, insertion_points=["layer3"])
