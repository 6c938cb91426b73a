from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import pytest
import torch
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import CentreBlock, Desensitizer, MaskOut
from lightning_app.masks import Brush, MaskLevels, freeform_masks, load_mask, mask_hash, mask_ratio

Faces = Callable[..., Batch]


def mask_of(batch: Batch) -> Tensor:
    """Return the mask each image of a batch lies under, [B,1,H,W]."""
    assert batch["mask"] is not None
    return batch["mask"][batch["mask_index"]]


def bank(draw: Literal["batch", "image"], count: int = 50) -> MaskOut:
    return MaskOut(freeform=(0.3, 0.7), count=count, draw=draw, size=(24, 20))


def test_one_file_for_all(mask_file: Path, batch: Batch) -> None:
    desensitizer = MaskOut(mask=mask_file)
    before = batch["image"].clone()
    out = desensitizer(batch, DrawKey())
    mask = load_mask(mask_file)
    assert torch.equal(out["mask"], mask[None])
    assert out["mask_index"].tolist() == [0, 0, 0, 0]
    assert torch.equal(out["image"], torch.where(mask.bool(), before, torch.zeros(())))
    assert torch.equal(batch["image"], before)
    assert "mask" not in batch
    assert all(out[key] is batch[key] for key in ("identity", "index", "bad"))
    assert desensitizer.hides
    assert (desensitizer.out_channels, desensitizer.is_image) == (3, True)


@pytest.mark.parametrize("draw", ["batch", "image"])
def test_pixels_under_the_mask_change_nothing(batch: Batch, draw: Literal["batch", "image"]) -> None:
    desensitizer = bank(draw)
    out = desensitizer(batch, DrawKey(step=3))
    noisy = batch.copy()
    hidden = (mask_of(out) == 0).expand_as(batch["image"])
    assert hidden.any()
    noisy["image"] = torch.where(hidden, torch.rand_like(batch["image"]), batch["image"])
    again = desensitizer(noisy, DrawKey(step=3))
    assert torch.equal(again["image"], out["image"])
    assert bool((out["image"][hidden] == 0).all())
    assert torch.equal(out["image"][~hidden], batch["image"][~hidden])


def test_one_mask_per_batch_is_a_function_of_seed_and_step(faces: Faces, batch: Batch) -> None:
    desensitizer = bank("batch")
    seen = set()
    for step in range(40):
        out = desensitizer(batch, DrawKey(seed=1, step=step))
        assert out["mask"].shape == (1, 1, 24, 20)
        assert out["mask_index"].tolist() == [0] * 4
        other = bank("batch")(faces(index=(1, 5)), DrawKey(seed=1, epoch=8, step=step))
        assert torch.equal(other["mask"], out["mask"])
        seen.add(mask_hash(out["mask"]))
    assert len(seen) > 20, "the steps hardly differ"
    steps = [desensitizer(batch, DrawKey(seed=seed, step=2))["mask"] for seed in range(10)]
    assert len({mask_hash(mask) for mask in steps}) > 5, "the seeds hardly differ"


def test_one_mask_per_image_is_a_function_of_seed_epoch_and_index(faces: Faces, batch: Batch) -> None:
    desensitizer = bank("image")
    out = desensitizer(batch, DrawKey(seed=1, epoch=2))
    assert out["mask"].shape == (4, 1, 24, 20)
    assert out["mask_index"].tolist() == [0, 1, 2, 3]
    assert len({mask_hash(mask) for mask in out["mask"]}) > 1
    for number, index in enumerate((4, 9, 2, 7)):
        alone = bank("image")(faces(index=(index,)), DrawKey(seed=1, epoch=2, step=99))
        assert torch.equal(alone["mask"][0], out["mask"][number])
        assert torch.equal(alone["image"][0], out["image"][number])
    many = faces(index=tuple(range(60)))
    first, epoch, seed = (
        mask_of(desensitizer(many, draw_key)) for draw_key in (DrawKey(), DrawKey(epoch=1), DrawKey(seed=1))
    )
    for other in (epoch, seed):
        assert float((first != other).flatten(1).any(1).float().mean()) > 0.8


def test_outside_training_every_image_has_its_own(faces: Faces, batch: Batch) -> None:
    expected = bank("image")(batch, DrawKey())
    evaluating = bank("batch").eval()(batch, DrawKey(step=5))
    without_draw_key = bank("batch")(batch)
    for out in (evaluating, without_draw_key):
        assert torch.equal(out["mask"], expected["mask"])
        assert torch.equal(out["image"], expected["image"])
    reordered = bank("batch")(faces(index=(7, 9)))
    assert torch.equal(reordered["image"], expected["image"][[3, 1]])


def test_draws_spread_evenly(faces: Faces) -> None:
    desensitizer = bank("image", count=4)
    out = desensitizer(faces(index=tuple(range(400))))
    assert out["mask"] is not None
    assert (
        len(out["mask"]) == 4
    )  # fewer masks than images: each once, so that a gate is computed once for each
    masks = mask_of(out)
    counts = torch.unique(masks.flatten(1), dim=0, return_counts=True)[1]
    assert len(counts) == 4
    assert int(counts.min()) > 60  # 100 expected, σ 8.7


def test_folder_and_levels(mask_folder: Path, faces: Faces) -> None:
    desensitizer = MaskOut(folder=mask_folder, levels=[(0.5, 0.6)], hidden="black", draw="image")
    out = desensitizer(faces(index=tuple(range(100))))
    found = mask_ratio(mask_of(out))
    assert isinstance(found, Tensor)
    assert float(found.min()) > 0.5
    assert float(found.max()) <= 0.6
    there = MaskLevels(mask_folder, (24, 20), [(0.5, 0.6)], "black")
    hashes = {mask_hash(mask) for mask in there.masks(torch.arange(len(there)))}
    assert {mask_hash(mask) for mask in mask_of(out)} == hashes
    description = desensitizer.describe()
    assert description["masks"] == len(there)
    assert description["mask_ratio"] == pytest.approx(float(there.ratios.mean()), abs=1e-6)
    assert description["mask_ratio_range"] == pytest.approx(
        [float(there.ratios.min()), float(there.ratios.max())]
    )


def test_freeform_is_a_function_of_its_seed(batch: Batch) -> None:
    brush = Brush(max_brush_width=30.0)
    one = MaskOut(freeform=(0.4, 0.5), seed=7, brush=brush)
    generator = torch.Generator().manual_seed(7)
    expected = freeform_masks(1, (24, 20), (0.4, 0.5), **asdict(brush), generator=generator)
    for draw_key in (None, DrawKey(step=1), DrawKey(epoch=3)):
        assert torch.equal(one(batch, draw_key)["mask"], expected)
    other = MaskOut(freeform=(0.4, 0.5), seed=8, brush=brush)
    assert not torch.equal(other(batch)["mask"], expected)


def test_describe(mask_file: Path, mask_folder: Path, batch: Batch) -> None:
    mask = load_mask(mask_file)
    description = MaskOut(mask=mask_file).describe()
    assert description == {
        "method": "MaskOut",
        "mask": "free.png",
        "size": [24, 20],
        "masks": 1,
        "mask_hash": mask_hash(mask),
        "mask_ratio": mask_ratio(mask),
    }
    for desensitizer in (bank("image"), MaskOut(folder=mask_folder, levels=[(0.2, 0.3)], hidden="black")):
        desensitizer(batch)
        description = desensitizer.describe()
        assert next(iter(description)) == "method"
        assert json.loads(json.dumps(description)) == description
        assert str(mask_folder.parent) not in json.dumps(description)


def test_masks_are_no_parameters(mask_file: Path) -> None:
    for desensitizer in (MaskOut(mask=mask_file), bank("image")):
        assert not desensitizer.state_dict()
        assert not list(desensitizer.parameters())
    assert [name for name, _ in MaskOut(mask=mask_file).named_buffers()] == ["mask"]
    moved = bank("image").to("meta")
    assert moved.bits is not None
    assert moved.bits.device.type == "meta"
    assert moved.bits.numel() == 50 * 60, "the bank is kept as bits"


def test_masks_first_used_in_a_validation_serve_training(batch: Batch) -> None:
    for desensitizer in (MaskOut(freeform=(0.3, 0.7)), CentreBlock()):
        with torch.inference_mode():
            desensitizer(batch)
        mask = desensitizer(batch, DrawKey())["mask"]
        assert mask is not None
        weight = torch.ones(1, 1, 3, 3, requires_grad=True)
        out = torch.nn.functional.conv2d(mask, weight)  # raises on a tensor made for inference alone
        assert out.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu(batch: Batch) -> None:
    there: Any = {key: value.to("cuda") for key, value in batch.items() if isinstance(value, Tensor)}
    for draw in ("batch", "image"):
        out, other = (bank(draw)(images, DrawKey(step=2)) for images in (batch, there))
        assert torch.equal(out["image"], other["image"].cpu())
        assert torch.equal(out["mask"], other["mask"].cpu())


def test_a_mask_of_another_size(mask_file: Path, mask_folder: Path, faces: Faces) -> None:
    small = faces(size=(16, 16))
    with pytest.raises(
        ValueError, match=r"is 24×20, the images are 16×16 \(height×width\): draw one with .*--size 16"
    ):
        MaskOut(mask=mask_file)(small)
    with pytest.raises(ValueError, match=r"is 24×20, 16×16 is needed"):
        MaskOut(mask=mask_file, size=16)
    with pytest.raises(
        ValueError, match="size: the masks of freeform were made at 24×20, the images are 16×16"
    ):
        bank("batch")(small)
    lazy = MaskOut(folder=mask_folder, hidden="black")
    lazy(faces())
    with pytest.raises(ValueError, match="size: the masks of folder were made at 24×20"):
        lazy(small)
    with pytest.raises(ValueError, match="size: say for images of which size the masks of freeform are"):
        MaskOut(freeform=(0.7, 0.8)).prepare(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of mask, folder and freeform, not none"),
        ({"mask": "m.png", "freeform": (0.7, 0.8)}, "not mask, freeform"),
        ({"freeform": (0.8, 0.7)}, "freeform: [0.8, 0.7] is not a range"),
        ({"freeform": (0.7, 0.8), "count": 0}, "count: 0 is not"),
        ({"freeform": (0.7, 0.8), "draw": "epoch"}, "draw: 'epoch' is neither 'batch' nor 'image'"),
        ({"freeform": (0.7, 0.8), "levels": [(0.1, 0.2)]}, "levels: choose among the masks of a folder"),
        ({"freeform": (0.7, 0.8), "size": -3}, "size: -3 is neither"),
        ({"mask": "m.png", "size": 112}, "mask m.png: no such file; draw one with"),
        ({"folder": "nowhere"}, "folder nowhere: no such folder"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        MaskOut(**arguments)


def as_user(desensitize: Desensitizer) -> Desensitizer:
    """Return what a config's class_path and init_args become."""
    return desensitize


def test_from_a_config() -> None:
    options = {"freeform": [0.3, 0.4], "count": 3, "draw": "image", "size": 32, "brush": {"max_angle": 90.0}}
    config = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": options}
    desensitizer = jsonargparse.auto_cli(
        as_user, args=["--desensitize", json.dumps(config)], as_positional=False
    )
    assert isinstance(desensitizer, MaskOut)
    assert desensitizer.describe()["brush"] == asdict(Brush(max_angle=90.0))
    assert desensitizer.freeform == (0.3, 0.4)
    assert desensitizer.describe()["masks"] == 3
