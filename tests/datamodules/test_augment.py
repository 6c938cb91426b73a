import pytest
import torch
from torch import Tensor

from datamodules.augment import Augment
from lightning_app.core.batch import Batch, DrawKey


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
    after = Augment()(before, DrawKey(5, 2))
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
    whole = augment(batch, DrawKey(1, 1, step=7))
    again = augment(batch, DrawKey(1, 1, step=99))
    assert torch.equal(whole["image"], again["image"])
    order = torch.tensor([9, 3, 12])
    part: Batch = {"image": batch["image"][order], "index": batch["index"][order], "mask": batch["mask"],
                   "mask_index": batch["mask_index"][order]}  # fmt: skip
    torch.testing.assert_close(augment(part, DrawKey(1, 1))["image"], whole["image"][order])
    assert not torch.equal(augment(batch, DrawKey(1, 2))["image"], whole["image"])
    assert not torch.equal(augment(batch, DrawKey(2, 1))["image"], whole["image"])


def test_moved_images_stay_hidden_under_their_moved_masks() -> None:
    after = Augment(rotate=20, scale=0.2, shift=0.2)(a_batch(), DrawKey())
    mask = mask_of_each(after)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(after["image"] * mask, after["image"])
    assert after["image"].max() > 0


def test_shift_moves_in_hidden_pixels() -> None:
    batch = a_batch()
    batch["mask"] = torch.ones(1, 1, 16, 16)
    after = Augment(flip=0, shift=0.5)(batch, DrawKey())
    assert 0 < float(mask_of_each(after).mean()) < 1


def test_light_keeps_hidden_pixels_black_and_others_in_range() -> None:
    before = a_batch()
    after = Augment(flip=0, light=0.5)(before, DrawKey())
    assert torch.equal(after["image"] == 0, before["image"] == 0)
    assert after["image"].max() <= 1
    assert not torch.equal(after["image"], before["image"])


@pytest.mark.parametrize("masks", [1, 2, 16, None])
def test_a_crop_moves_image_mask_and_clean_face_by_the_same_whole_pixels(masks: int | None) -> None:
    before, most = a_batch(masks=masks), 3
    before["clean"] = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(4)) + 0.1
    after = Augment(flip=0, crop=most)(before, DrawKey(1, 2))
    wide = torch.nn.functional.pad(before["clean"], (most,) * 4)
    places = set()
    for i in range(16):
        found = [
            (dy, dx) for dy in range(2 * most + 1) for dx in range(2 * most + 1)
            if torch.equal(after["clean"][i], wide[i, :, dy : dy + 16, dx : dx + 16])
        ]  # fmt: skip
        assert len(found) == 1
        (dy, dx) = found[0]
        places.add((dy, dx))
        own = [(before["image"], after["image"])]
        own += [] if masks is None else [(mask_of_each(before), mask_of_each(after))]
        for was, now in own:
            piece = torch.nn.functional.pad(was[i], (most,) * 4)[:, dy : dy + 16, dx : dx + 16]
            assert torch.equal(now[i], piece)
    assert len(places) > 8  # of 49; the border moves either way
    assert {0, 2 * most} <= {dy for dy, _ in places} | {dx for _, dx in places}
    assert (after["mask"] is None) == (masks is None)


@pytest.mark.parametrize("masks", [1, 16])
def test_all_together_leave_hidden_pixels_exactly_0(masks: int) -> None:
    before = a_batch(masks=masks)
    after = Augment(crop=4, contrast=0.5, light=0.5, rotate=10, scale=0.1)(before, DrawKey(0, 1))
    mask = mask_of_each(after)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert bool((after["image"][(mask == 0).expand_as(after["image"])] == 0).all())
    assert 0 <= float(after["image"].min()) <= float(after["image"].max()) <= 1
    again = Augment(crop=4, contrast=0.5, light=0.5, rotate=10, scale=0.1)(
        a_batch(masks=masks), DrawKey(0, 1, step=9)
    )
    assert torch.equal(again["image"], after["image"])
    other = Augment(crop=4, contrast=0.5)(before, DrawKey(0, 2))
    assert not torch.equal(other["image"], Augment(crop=4, contrast=0.5)(before, DrawKey(0, 1))["image"])


def test_contrast_changes_visible_pixels_about_their_own_mean() -> None:
    before = a_batch(masks=2)
    before["image"] = before["image"] * 0.2 + 0.4 * mask_of_each(before)  # nothing is clamped
    before["clean"] = torch.full_like(before["image"], 0.5)
    after = Augment(flip=0, contrast=0.4)(before, DrawKey(3, 0))
    gains = []
    for i in range(16):
        seen = mask_of_each(before)[i].expand(3, -1, -1) > 0
        was, now = before["image"][i], after["image"][i]
        assert bool((now[~seen] == 0).all())
        mean = was[seen].mean()
        torch.testing.assert_close(now[seen].mean(), mean)
        gains.append(float((now[seen] - mean).std() / (was[seen] - mean).std()))
        # the clean face by the same draw, about the same mean
        torch.testing.assert_close(
            after["clean"][i].mean(), mean + gains[-1] * (0.5 - mean), rtol=1e-4, atol=1e-5
        )
    assert 0.6 <= min(gains) < 0.8
    assert 1.2 < max(gains) <= 1.4


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip", 1.5), ("scale", -0.1), ("rotate", 200), ("light", 2), ("contrast", -1), ("crop", -2)],
)
def test_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"augment\.{name}={value}"):
        Augment(**{name: value})  # type: ignore[arg-type]
