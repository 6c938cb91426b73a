import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import Augment, DrawnFaces, FaceDataModule, FolderFaces
from datamodules.readers.cached import CachedReader
from datamodules.split import held_out
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import (
    CentreBlock,
    CentreBlur,
    Desensitizer,
    GaussianBlur,
    Identity,
    LearnedMask,
    MaskOut,
    Mosaic,
)
from tests.masker import write_masker

SIZE = 32
DESENSITIZERS = [
    Identity(),
    MaskOut(freeform=(0.5, 0.8)),
    MaskOut(freeform=(0.3, 0.8), count=8, draw="image"),
    GaussianBlur(9),
    GaussianBlur(18),
    Mosaic(8),
    Mosaic(5),
    CentreBlock(),
    CentreBlur(),
]


def faces(**more: int) -> DrawnFaces:
    return DrawnFaces(identities=4, images_per_identity=6, size=SIZE, **more)


def pixels(reader: DrawnFaces) -> Batch:
    return reader.__getitems__(list(range(len(reader))))


@pytest.mark.parametrize("desensitizer", DESENSITIZERS, ids=lambda d: str(d.describe()["method"]))
def test_a_batch_made_on_the_fly_equals_the_one_read_back_from_saved_pngs(
    desensitizer: Desensitizer, tmp_path: Path
) -> None:
    data = FaceDataModule(faces(), desensitizer)
    batch = pixels(faces())
    desensitized = data.desensitize_batch(batch)
    for i, image in enumerate(desensitized["image"]):
        folder = tmp_path / f"p{int(batch['identity'][i])}"
        folder.mkdir(exist_ok=True)
        array = (image * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{i:03d}.png")
    released = FolderFaces(tmp_path, size=SIZE, cache_index=False)
    back = released.__getitems__(list(range(len(released))))
    # a released set hides nothing more
    again = FaceDataModule(faces(), Identity()).desensitize_batch(back)
    assert torch.equal(again["image"], desensitized["image"])
    if isinstance(desensitizer, (MaskOut, CentreBlock)):  # hiding again what is hidden changes nothing
        twice = data.desensitize_batch({**back, "index": batch["index"]})
        assert torch.equal(twice["image"], desensitized["image"])
        assert torch.equal(mask_of_each(twice), mask_of_each(desensitized))
    augment, draw_key = Augment(rotate=5), DrawKey(1, 2)
    both = [
        augment(data.desensitize_batch(batch), draw_key),
        augment({**again, "mask": desensitized["mask"], "mask_index": desensitized["mask_index"]}, draw_key),
    ]
    assert torch.equal(both[0]["image"], both[1]["image"])
    if desensitized["mask"] is not None:
        assert torch.equal(mask_of_each(both[0]), mask_of_each(both[1]))


def mask_of_each(batch: Batch) -> Tensor:
    assert batch["mask"] is not None
    return batch["mask"][batch["mask_index"]]


@pytest.mark.parametrize(
    "desensitizer", [d for d in DESENSITIZERS if isinstance(d, (MaskOut, CentreBlock))], ids=str
)
def test_pixels_under_the_mask_change_nothing_downstream(desensitizer: Desensitizer) -> None:
    data = FaceDataModule(faces(), desensitizer, augment=Augment(rotate=10, shift=0.1, light=0.2))
    batch = pixels(faces())
    hidden = mask_of_each(data.desensitize_batch(batch)) == 0
    noise = torch.randint(0, 256, batch["image"].shape, dtype=torch.uint8)
    other = batch.copy()
    other["image"] = torch.where(hidden, noise, batch["image"])
    assert not torch.equal(other["image"], batch["image"])
    draw_key = DrawKey(0, 1)
    ready = [data._normalised(data.augment(data.desensitize_batch(b), draw_key)) for b in (batch, other)]
    assert torch.equal(ready[0]["image"], ready[1]["image"])


def test_visible_pixels_pass_unchanged_and_on_the_uint8_grid() -> None:
    data = FaceDataModule(faces(), MaskOut(freeform=(0.5, 0.8)))
    batch = pixels(faces())
    desensitized = data.desensitize_batch(batch)
    assert torch.equal(
        (desensitized["image"] * 255).to(torch.uint8),
        batch["image"] * mask_of_each(desensitized).to(torch.uint8),
    )
    blurred = FaceDataModule(faces(), GaussianBlur(9)).desensitize_batch(batch)["image"]
    assert torch.equal(blurred, (blurred * 255).round() / 255)


def test_held_out_images_are_a_share_of_each_identity_and_never_all() -> None:
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 2, 10, 25]))
    held = held_out(labels, 0.2, seed=3)
    assert torch.bincount(labels[held], minlength=4).tolist() == [0, 0, 2, 5]
    assert torch.equal(held, held_out(labels, 0.2, seed=3))
    assert not torch.equal(held, held_out(labels, 0.2, seed=4))
    most = held_out(labels, 0.99, seed=3)
    assert (torch.bincount(labels[~most], minlength=4) >= 1).all()
    assert not held_out(labels, 0.0, 3).any()


def test_training_and_validation_images_are_disjoint_and_complete() -> None:
    data = FaceDataModule(faces(), val_share=0.34)
    data.setup("fit")
    assert data.training is not None
    assert data.held_out is not None
    train = {data.training.number(i) for i in range(len(data.training))}
    val = {data.held_out.number(i) for i in range(len(data.held_out))}
    assert len(val) == 8
    assert train | val == set(range(24))
    assert not train & val
    assert data.training.identities == data.held_out.identities


def test_cached_images_are_the_readers() -> None:
    reader = faces()
    cached, plain = CachedReader(reader).__getitems__([3, 0, 17]), reader.__getitems__([3, 0, 17])
    for key in ("image", "identity", "index"):
        assert torch.equal(cached[key], plain[key])


def test_raw_samples_are_validation_images_and_the_same_every_time() -> None:
    data = FaceDataModule(faces(), val_share=0.34)
    data.setup("fit")
    first = data.raw_samples(5)
    assert first.shape == (5, 3, SIZE, SIZE)
    assert first.dtype == torch.uint8
    assert torch.equal(first, data.raw_samples(5))
    assert data.held_out is not None
    held = data.held_out.__getitems__(list(range(len(data.held_out))))["image"]
    assert all((image == held).flatten(1).all(1).any() for image in first)
    assert len(data.raw_samples(1000)) == 8


def test_prepare_gives_clean_and_desensitized_normalised_images() -> None:
    data = FaceDataModule(faces(), MaskOut(freeform=(0.5, 0.8)), mean=0.5, std=0.25)
    images = pixels(faces())["image"][:3]
    clean, desensitized = data.prepare(images, desensitize=False), data.prepare(images)
    assert clean["mask"] is None
    torch.testing.assert_close(clean["image"], (images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(
        desensitized["image"], (images / 255 * mask_of_each(desensitized) - 0.5) / 0.25
    )


def test_only_fit_minds_a_missing_training_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = FaceDataModule(FolderFaces(tmp_path / "nowhere", size=SIZE), val_share=0.5)
    assert data.size == SIZE
    with caplog.at_level(logging.WARNING, "faceveil"):
        data.setup("validate")
    assert "No held-out images to validate on" in caplog.text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.setup("fit")


def test_bad_images_are_counted_named_once_and_refused_above_1_percent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for who in "ab":
        (tmp_path / who).mkdir()
        for i in range(100):
            Image.new("L", (16, 16), color=i).save(tmp_path / who / f"{i}.png")
    for i in range(3):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"no image")
    data = FaceDataModule(FolderFaces(tmp_path, size=16, cache_index=False))
    data.setup("fit")
    assert data.training is not None
    reader = data.training
    data.on_before_batch_transfer(reader.__getitems__([0, 50]), 0)
    data.on_before_batch_transfer(reader.__getitems__([0, 1]), 0)
    with caplog.at_level(logging.WARNING, "faceveil"):
        data._warn_of_bad_images()
        data._warn_of_bad_images()
    assert len(caplog.records) == 1
    assert "2 of 200 images cannot be decoded and were replaced" in caplog.text
    assert "0.png" in caplog.text
    with pytest.raises(ValueError, match=r"3 of 200 images cannot be decoded, more than 1%"):
        data.on_before_batch_transfer(reader.__getitems__([2, 3]), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"val_share": 1.0}, r"data\.val_share=1\.0"),
        ({"global_batch_size": 0}, r"data\.global_batch_size=0"),
        ({"std": 0.0}, r"data\.std=0\.0"),
    ],
)
def test_out_of_range_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaceDataModule(**arguments)  # type: ignore[arg-type]


def test_a_checkpoint_of_faces_desensitized_otherwise_is_told(caplog: pytest.LogCaptureFixture) -> None:
    one, other = (
        FaceDataModule(faces(), MaskOut(freeform=(0.5, 0.8), seed=seed, size=SIZE)) for seed in (0, 1)
    )
    with caplog.at_level(logging.WARNING, "faceveil"):
        one.load_state_dict(one.state_dict())
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "faceveil"):
        other.load_state_dict(one.state_dict())
    assert "trained on faces desensitized by MaskOut (mask ratio 0." in caplog.text


def test_going_on_under_another_desensitizer_is_refused_or_kept_in_mind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def under(desensitizer: Desensitizer, **more: Any) -> FaceDataModule:
        return FaceDataModule(faces(), desensitizer, **more)

    clean, masked = under(Identity()), under(CentreBlock(0.5), other_data="accept")
    monkeypatch.setattr(FaceDataModule, "_stage", "fit")
    with pytest.raises(
        ValueError,
        match=r"data\.desensitizer: the checkpoint was trained on faces desensitized by Identity, here they are "
        r"desensitized by CentreBlock: go on with that of its config\.yaml.*data\.other_data: accept",
    ):
        under(CentreBlock(0.5)).load_state_dict(clean.state_dict())
    masked.load_state_dict(clean.state_dict())
    assert "trained on faces desensitized by Identity; these are" in caplog.text
    assert [one["method"] for one in masked.state_dict()["earlier_desensitizers"]] == ["Identity"]
    # it is not forgotten where the run goes on once more, under the same or under a third
    again, third = under(CentreBlock(0.5)), under(Mosaic(4), other_data="accept")
    again.load_state_dict(masked.state_dict())
    assert [one["method"] for one in again.state_dict()["earlier_desensitizers"]] == ["Identity"]
    third.load_state_dict(again.state_dict())
    assert [one["method"] for one in third.state_dict()["earlier_desensitizers"]] == [
        "Identity",
        "CentreBlock",
    ]
    back = under(Identity(), other_data="accept")
    back.load_state_dict(third.state_dict())
    assert [one["method"] for one in back.state_dict()["earlier_desensitizers"]] == ["CentreBlock", "Mosaic"]
    assert "earlier_desensitizers" not in clean.state_dict()
    # to see how one does under another desensitizer is allowed
    monkeypatch.setattr(FaceDataModule, "_stage", "validate")
    under(CentreBlock(0.5)).load_state_dict(clean.state_dict())


def test_going_on_under_another_masker_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [write_masker(tmp_path / f"{seed}.ckpt", SIZE, seed=seed) for seed in (1, 2)]
    one, other = (
        FaceDataModule(faces(), LearnedMask(path, 0.25, "free"), global_batch_size=4) for path in made
    )
    kept = one.state_dict()
    monkeypatch.setattr(FaceDataModule, "_stage", "fit")
    with pytest.raises(
        ValueError, match=r"trained under the masker [0-9a-f]{12}…, here is [0-9a-f]{12}…: give that one"
    ):
        other.load_state_dict(kept)
    monkeypatch.setattr(
        FaceDataModule, "_stage", "validate"
    )  # to see how one does under another's masks is allowed, and told
    with caplog.at_level(logging.WARNING, "faceveil"):
        other.load_state_dict(kept)
    told = re.findall(r"desensitized by LearnedMask \(masker ([0-9a-f]{12})\)", caplog.text)
    assert len(set(told)) == 2


def test_a_checkpoint_tells_which_images_were_held_out() -> None:
    def split(share: float, seed: int) -> dict[str, int | str]:
        data = FaceDataModule(faces(), val_share=share, seed=seed)
        data.setup("fit")
        facts: dict[str, int | str] = data.state_dict()["split"]
        assert facts["held_out"] == (0 if data.held_out is None else len(data.held_out))
        return facts

    assert split(0.3, 0) == split(0.3, 0)
    assert split(0.3, 0)["hash"] != split(0.3, 1)["hash"]
    assert split(0.0, 0)["held_out"] == 0
    assert FaceDataModule(faces(), val_share=0.3).state_dict()["split"] is None
