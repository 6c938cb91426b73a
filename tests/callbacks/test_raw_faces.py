"""Callbacks that look at raw faces take the same ones every time and say a thing once."""

from __future__ import annotations

import logging

import pytest
import torch

from callbacks.raw_faces import OnRawFaces, mean_mask_ratio
from lightning_app.core.batch import Batch


class Raw:
    """Gives other images every time."""

    def raw_samples(self, count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8)


def test_the_images_are_read_once_and_a_line_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "faceveil")
    callback = OnRawFaces(images=2)
    first = callback.raw_faces(Raw(), torch.device("cpu"))
    assert first.shape == (2, 3, 4, 4)
    assert torch.equal(callback.raw_faces(Raw(), torch.device("cpu")), first)
    callback.tell("first", logging.INFO)
    callback.tell("second")
    assert [(record.levelname, record.message) for record in caplog.records] == [("INFO", "first")]
    with pytest.raises(ValueError, match=r"^OnRawFaces: images=0: give at least 1$"):
        OnRawFaces(images=0)


def test_the_mean_mask_ratio_counts_every_image() -> None:
    mask = torch.ones(2, 1, 4, 4)
    mask[1] = 0
    batch: Batch = {"mask": mask, "mask_index": torch.tensor([0, 0, 0, 1])}
    assert mean_mask_ratio(batch) == 0.25
    assert mean_mask_ratio({"mask": None, "mask_index": torch.zeros(4, dtype=torch.int64)}) is None
