import pytest
import torch
from torch import Tensor

from datamodules.augment import Augment
from lightning_app.core.batch import Batch, Moment


def a_batch(count: int = 16, masks: int | None = 1) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, 16, 16), generator=generator).float() / 255
    batch: Batch = {"image": image, "index": torch.arange(100, 100 + count), "mask": None,
                    "mask_index": torch.zeros(count, dtype=torch.int64)}  # fmt: skip
    if masks is not None:
        mask = (torch.rand(masks, 1, 16, 16, generator=generator) < 0.4).float()
        batch["mask"], batch["mask_index"] = mask, torch.arange(count) % masks
        batch["image"] = image * mask[batch["mask_index"]]
    return batch


def mask_of_each(batch: Batch) -> Tensor:
    assert batch["mask"] is not None
    return batch["mask"][batch["mask_index"]]


@pytest.mark.parametrize("masks", [1, 2, 16])
def test_a_flipped_image_meets_its_flipped_mask(masks: int) -> None:
    before = a_batch(masks=masks)
    after = Augment()(before, Moment(5, 2))
    flipped = (after["image"] != before["image"]).flatten(1).any(1)
    assert 0 < int(flipped.sum()) < 16
    for i in range(16):
        image, mask = before["image"][i], mask_of_each(before)[i]
        expected = (image.flip(-1), mask.flip(-1)) if flipped[i] else (image, mask)
        assert torch.equal(after["image"][i], expected[0])
        assert torch.equal(mask_of_each(after)[i], expected[1])
    if masks == 1:
        assert after["mask"] is not None
        assert len(after["mask"]) == 2


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    augment, batch = Augment(rotate=10, shift=0.1, light=0.2), a_batch()
    whole = augment(batch, Moment(1, 1, step=7))
    again = augment(batch, Moment(1, 1, step=99))
    assert torch.equal(whole["image"], again["image"])
    order = torch.tensor([9, 3, 12])
    part: Batch = {"image": batch["image"][order], "index": batch["index"][order], "mask": batch["mask"],
                   "mask_index": batch["mask_index"][order]}  # fmt: skip
    torch.testing.assert_close(augment(part, Moment(1, 1))["image"], whole["image"][order])
    assert not torch.equal(augment(batch, Moment(1, 2))["image"], whole["image"])
    assert not torch.equal(augment(batch, Moment(2, 1))["image"], whole["image"])


def test_moved_images_stay_hidden_under_their_moved_masks() -> None:
    after = Augment(rotate=20, scale=0.2, shift=0.2)(a_batch(), Moment())
    mask = mask_of_each(after)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(after["image"] * mask, after["image"])
    assert after["image"].max() > 0


def test_shift_moves_in_hidden_pixels() -> None:
    batch = a_batch()
    batch["mask"] = torch.ones(1, 1, 16, 16)
    after = Augment(flip=0, shift=0.5)(batch, Moment())
    assert 0 < float(mask_of_each(after).mean()) < 1


def test_light_keeps_hidden_pixels_black_and_others_in_range() -> None:
    before = a_batch()
    after = Augment(flip=0, light=0.5)(before, Moment())
    assert torch.equal(after["image"] == 0, before["image"] == 0)
    assert after["image"].max() <= 1
    assert not torch.equal(after["image"], before["image"])


@pytest.mark.parametrize(("name", "value"), [("flip", 1.5), ("scale", -0.1), ("rotate", 200), ("light", 2)])
def test_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"augment\.{name}={value}"):
        Augment(**{name: value})
