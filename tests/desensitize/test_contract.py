"""Our own desensitizers keep the contract; what a subclass promises it says itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import (
    OURS,
    CentreBlock,
    CentreBlur,
    Chain,
    Desensitizer,
    GaussianBlur,
    Identity,
    InstaHide,
    MaskOut,
    MixUp,
    Mosaic,
    RandomMixUp,
    described,
    is_clean,
)
from lightning_app.desensitize.base import only_hides
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.format.method import describe
from lightning_app.release.format.schema import check_method
from tests.desensitize.contract import DesensitizerContract, faces


class Ours(DesensitizerContract):
    def test_it_stands_in_the_table(self) -> None:
        assert OURS[type(self.make()).__name__] is type(self.make())

    def test_its_manifest_is_closed(self) -> None:
        made = self.made()
        if not made.hides:
            return
        mask = made(faces(self.size))["mask"]
        if mask is not None and len(mask) > 1:  # of which no release is made
            return
        description = json.loads(json.dumps(describe(made, self.size, mask)))
        check_method(description, self.size, mask is not None, 2)
        with pytest.raises(ValueError, match=r"it has entries that .* is not described by"):
            check_method(description | {"face": "0f3a"}, self.size, mask is not None, 2)


class TestIdentity(Ours):
    def make(self) -> Identity:
        return Identity()


class TestGaussianBlur(Ours):
    def make(self) -> GaussianBlur:
        return GaussianBlur(9)


class TestCentreBlur(Ours):
    def make(self) -> CentreBlur:
        return CentreBlur(0.6, 9, 2.5)


class TestMosaic(Ours):
    def make(self) -> Mosaic:
        return Mosaic(5)


class TestMixUp(Ours):
    def make(self) -> MixUp:
        return MixUp(3)


class TestInstaHide(Ours):
    def make(self) -> InstaHide:
        return InstaHide(2, mean=0.4)


class TestRandomMixUp(Ours):
    def make(self) -> RandomMixUp:
        return RandomMixUp([2, 4])


class TestChain(Ours):
    def make(self) -> Chain:
        return Chain([Mosaic(5), GaussianBlur(9)])


class TestChainThatMixes(Ours):
    def make(self) -> Chain:
        return Chain([Mosaic(5), InstaHide(4)])


class TestChainUnderAMask(DesensitizerContract):
    def make(self) -> Chain:
        return Chain([CentreBlock(0.5), MixUp(2, cap=0.65)])


class TestCentreBlock(Ours):
    def make(self) -> CentreBlock:
        return CentreBlock(0.5)


class TestDrawnMask(Ours):
    def make(self) -> MaskOut:
        return MaskOut(freeform=(0.4, 0.6), seed=3, guard=1)


class TestDrawnMasks(Ours):
    def make(self) -> MaskOut:
        return MaskOut(freeform=(0.4, 0.6), count=6, draw="image")


class TestMaskFile(Ours):
    guard = 0

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "mask.png"
        generator = torch.Generator().manual_seed(1)
        save_mask(freeform_masks(1, (self.size, self.size), (0.4, 0.6), generator=generator)[0], self.path)

    def mask_file(self) -> Path:
        return self.path

    def make(self) -> MaskOut:
        return MaskOut(mask=self.path, guard=self.guard)

    def test_another_file_is_not_its_mask(self, tmp_path: Path) -> None:
        other = tmp_path / "other.png"
        save_mask(1 - MaskOut(mask=self.path).mask[0], other)  # type: ignore[index]
        with pytest.raises(ValueError, match=r"other\.png is not the mask described"):
            MaskOut.from_description(self.made().describe(), other)


class TestGuardedMaskFile(TestMaskFile):
    guard = 1

    def test_a_release_holds_the_guarded_mask(self, tmp_path: Path) -> None:
        made = self.made()
        assert isinstance(made, MaskOut)
        assert made.mask is not None
        save_mask(made.mask[0], tmp_path / "released.png")
        again = MaskOut.from_description(made.describe(), tmp_path / "released.png")
        assert torch.equal(again.mask, made.mask)  # type: ignore[arg-type]


class Leaks(MaskOut):
    """Says nothing of what it promises."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        desensitized["mask"] = None
        return desensitized


class Honest(MaskOut):
    """Says that it does nothing more than `MaskOut`."""

    has_mask = True
    hides_only = True


class Derived(Honest):
    """Of one that says so."""


def test_a_subclass_says_itself_what_it_promises() -> None:
    assert [(kind.has_mask is None, kind.hides_only) for kind in (Leaks, Derived)] == [(True, False)] * 2
    assert (Honest.has_mask, Honest.hides_only) == (True, True)
    assert not only_hides(Leaks(freeform=(0.4, 0.6)))
    assert only_hides(Honest(freeform=(0.4, 0.6)))
    assert not only_hides(Derived(freeform=(0.4, 0.6)))
    # who is made of a class that hides is not taken for one that hides nothing
    assert Leaks.mask_promised_by() is MaskOut
    assert Derived.mask_promised_by() is Honest
    assert GaussianBlur.mask_promised_by() is None


def test_a_promise_on_the_object_is_none() -> None:
    made = Leaks(freeform=(0.4, 0.6))
    made.hides_only = True
    assert not only_hides(made)


def test_a_class_that_was_changed_after_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only_hides(CentreBlock())
    monkeypatch.setattr(Desensitizer, "forward", lambda self, batch, draw_key=None: batch)
    assert not only_hides(CentreBlock()), "a function of its base was replaced"


def test_descriptions_of_others_are_known_by_name_alone() -> None:
    assert described({"method": "MaskOut"}) is MaskOut
    assert described({"method": "os.system"}) is None
    assert described(None) is None
    assert is_clean({"method": "Identity"})
    assert not is_clean({"method": "Mosaic", "block": 8})
    assert not is_clean({"method": "Unknown"})
    assert not is_clean(None)


class Plain(Desensitizer):
    """States nothing at all."""

    def desensitize(self, image: Tensor) -> Tensor:
        return 1 - image


def test_what_states_nothing_gets_cautious_values() -> None:
    made = Plain()
    assert made.has_mask is None
    assert not made.hides_only
    assert made.hides
    assert made.is_image
    assert made.flips
    with pytest.raises(ValueError, match="Plain cannot be made from its description"):
        Plain.from_description(made.describe())


class Odd(Plain):
    """Looks like nothing that can be shown."""

    is_image = False

    def look(self, image: Tensor) -> Tensor:
        return image * 3


def test_a_look_that_is_no_picture_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"look of Odd returned \[1, 3, 4, 4\] in 3 … 3, not \[1, 3, h, w\] in 0 … 1"
    ):
        Odd().pictures(torch.ones(1, 3, 4, 4), (4, 4))


def test_a_huge_brush_of_somebody_elses_is_not_drawn() -> None:
    description = json.loads(json.dumps(MaskOut(freeform=(0.4, 0.6)).describe()))
    description["brush"]["max_length"] = 1e9
    with pytest.raises(
        ValueError, match=r"max_length: 1000000000\.0 is not a positive number of pixels, up to 10,000"
    ):
        MaskOut.from_description(description)
    description["brush"] |= {"max_length": 90.0, "max_vertex": 10**9}
    with pytest.raises(ValueError, match="is beyond all images"):
        MaskOut.from_description(description)
