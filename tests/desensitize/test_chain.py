"""A chain says of itself what follows from its steps, and promises nothing that they alone promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import (
    CentreBlock,
    Chain,
    Desensitizer,
    GaussianBlur,
    Identity,
    InstaHide,
    MaskOut,
    MixUp,
    Mosaic,
    described,
    is_clean,
)
from lightning_app.desensitize.base import only_hides
from lightning_app.export.card import desensitizing
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.format.public import public_method
from lightning_app.release.write.desensitizing import PixelDesensitizer
from tests.desensitize.contract import DesensitizerContract, faces

INDEX = (4, 9, 2, 7)
NOW = DrawKey(mix=True)


class Halves(Desensitizer):
    """A toy representation of 12 channels, half the size; the first three show it."""

    out_channels = 12
    is_image = False
    flips = False
    has_mask = False

    def desensitize(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, 2) - 0.5

    def out_size(self, size: int) -> int:
        return size // 2

    def look(self, image: Tensor) -> Tensor:
        return (image[:, ::4] + 0.5).clamp(0, 1)


class TestAChainOfARepresentation(DesensitizerContract):
    from_description = False

    def make(self) -> Chain:
        return Chain([Mosaic(4), Halves(), MixUp(3)])


def test_what_it_says_of_itself() -> None:
    chain = Chain([Mosaic(4), Halves(), InstaHide(3)])
    assert (chain.out_channels, chain.is_image, chain.flips, chain.mixes) == (12, False, False, 3)
    assert chain.out_size(32) == 16
    pictures = Chain([Mosaic(4), MixUp(2)])
    assert (pictures.out_channels, pictures.is_image, pictures.flips, pictures.mixes) == (3, True, True, 2)
    signed = Chain([Mosaic(4), InstaHide(2)])
    assert (signed.out_channels, signed.is_image, signed.flips) == (3, False, False)
    assert not Chain([Identity(), Identity()]).hides
    assert Chain([Identity(), Mosaic(4)]).hides


def test_its_promises_are_its_own() -> None:
    for steps in ([CentreBlock()], [MaskOut(freeform=(0.4, 0.6))], [CentreBlock(), MixUp(2)]):
        chain = Chain(list(steps))
        assert chain.has_mask is None
        assert not chain.hides_only
        assert not only_hides(chain)


def test_mixing_follows_a_representation() -> None:
    batch = faces(16)
    before, after = Halves()(batch), Chain([Halves(), MixUp(2)])(batch, NOW)
    which, weight = after["target"], after["weight"]  # identities are positions here
    expected = (before["image"][which] * weight[..., None, None, None]).sum(1)
    torch.testing.assert_close(after["image"], expected)
    assert float(after["image"].min()) < 0, "what is no picture is not kept within [0,1]"
    signed = Chain([Halves(), InstaHide(2)])(batch, NOW)
    torch.testing.assert_close(signed["image"].abs(), expected.abs())  # around a mean of 0


def test_it_looks_as_the_representation_does() -> None:
    chain = Chain([Halves(), MixUp(2)])
    out = chain(faces(16), NOW)["image"]
    assert torch.equal(chain.look(out), Halves().look(out))
    signed = Chain([Mosaic(4), InstaHide(2)])
    out = signed(faces(16), NOW)["image"]
    assert torch.equal(signed.look(out), out.clamp(0, 1))
    assert chain.pictures(chain(faces(16))["image"], (16, 16)).shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [], "steps: 0 of them; give 1 to 8"),
        (lambda: [Mosaic(4)] * 9, "steps: 9 of them"),
        (
            lambda: [Halves(), Mosaic(4)],
            r"steps\.1: Mosaic takes pictures, and what comes from Halves is none",
        ),
        (
            lambda: [InstaHide(2), GaussianBlur(9)],
            r"steps\.1: GaussianBlur takes pictures, .* from InstaHide",
        ),
        (
            lambda: [GaussianBlur(9), CentreBlock()],
            r"steps\.1: CentreBlock hides pixels .* GaussianBlur may have",
        ),
        (lambda: [Chain([Mosaic(4)])], r"steps\.0: a Chain in a Chain; write its steps here"),
        (
            lambda: [MixUp(2), InstaHide(3)],
            "steps: MixUp and InstaHide both mix images; mix once, with a larger k",
        ),
    ],
)
def test_what_cannot_be_chained(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Chain(make())


def test_its_steps_are_prepared() -> None:
    chain = Chain([MaskOut(freeform=(0.4, 0.6)), GaussianBlur(9)])
    chain.prepare((16, 16))
    mask = chain.in_order[0]
    assert isinstance(mask, MaskOut)
    assert mask.size == (16, 16)


def test_a_masks_file_reaches_the_step_that_needs_it(tmp_path: Path) -> None:
    drawn = freeform_masks(1, (16, 16), (0.4, 0.6), generator=torch.Generator().manual_seed(1))[0]
    save_mask(drawn, tmp_path / "mask.png")
    chain = Chain([MaskOut(mask=tmp_path / "mask.png"), GaussianBlur(9)])
    description = chain.describe()
    assert Chain.needs_file(description)
    again = Chain.from_description(description, tmp_path / "mask.png")
    assert torch.equal(again(faces(16))["image"], chain(faces(16))["image"])


@pytest.mark.parametrize(
    "steps",
    [None, [], "Mosaic", [3], [{"method": "os.system"}], [{"method": "Chain", "steps": []}], [{}] * 9],
)
def test_descriptions_of_others_are_bounded(steps: object) -> None:
    with pytest.raises(ValueError, match=r"FaceVeil's own methods|a list of 1 to 8"):
        Chain.from_description({"method": "Chain", "steps": steps})
    assert isinstance(Chain.for_one({"method": "Chain", "steps": steps}), dict)
    assert Chain.for_one({"method": "Chain"}) == {"method": "Chain"}


def test_files_of_the_owner_are_not_told() -> None:
    steps = [{"method": "MaskOut", "mask": "ann.png", "masks": 1}, {"method": "MixUp", "k": 2}]
    assert public_method({"method": "Chain", "steps": steps})["steps"] == [
        {"method": "MaskOut", "masks": 1}, {"method": "MixUp", "k": 2},
    ]  # fmt: skip


def test_it_is_weak_where_all_its_steps_are() -> None:
    weak: dict[str, object] = {"method": "Mosaic", "block": 2}
    strong: dict[str, object] = {"method": "Mosaic", "block": 16}
    clean: dict[str, object] = {"method": "Identity"}

    def faults(*steps: dict[str, object]) -> list[str]:
        return Chain.weaknesses({"method": "Chain", "steps": list(steps)}, 512)

    assert not faults(weak, strong)
    assert any("as good as clean" in fault for fault in faults(weak, clean))
    assert Chain.leaves({"steps": [clean, strong]}, 112) == {"block": 16}


def test_a_single_image_is_not_mixed_and_the_card_says_so() -> None:
    mixing = MixUp(2).describe()
    assert is_clean(MixUp.for_one(mixing))
    chain = Chain([Mosaic(8), MixUp(2)]).describe()
    assert Chain.for_one(chain) == Mosaic(8).describe()
    two = Chain([Mosaic(8), GaussianBlur(9), InstaHide(2)])
    assert Chain.for_one(two.describe()) == Chain([Mosaic(8), GaussianBlur(9)]).describe()
    assert described(two.describe()) is Chain
    words = desensitizing({"desensitizer": chain, "mask": None, "input": {}})
    assert "Training images were mixed together" in words
    assert "**Images must be desensitized before**, as in training: `Mosaic` (block 8)" in words
    words = desensitizing({"desensitizer": mixing, "mask": None, "input": {}})
    assert "those to be embedded are not" in words
    assert "takes clean faces" in words


@pytest.mark.parametrize("made", [MixUp(2), InstaHide(2), Chain([Mosaic(8), MixUp(2)])])
def test_mixes_are_not_released(made: Desensitizer) -> None:
    with pytest.raises(ValueError, match=r"mixes images, which is done in training|returns no pictures"):
        PixelDesensitizer(made, 32)


def test_a_chain_of_pictures_is_released_as_it_is() -> None:
    chain = Chain([Mosaic(8), GaussianBlur(9)])
    raw = faces(32)
    pixels = (raw["image"] * 255).round().byte()
    made = PixelDesensitizer(chain, 32)([one.numpy() for one in pixels], [0, 1, 2, 3], list(INDEX))
    expected = (chain(Batch(image=pixels / 255, index=raw["index"]))["image"] * 255).round().byte()
    assert torch.equal(torch.from_numpy(made[2]).permute(2, 0, 1), expected[2])
