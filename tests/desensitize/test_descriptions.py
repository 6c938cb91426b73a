"""What a description may say: one spelling of each thing, and nothing hidden behind a step that does nothing."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
from torch import Tensor

from datamodules.same_description import same_desensitizer
from lightning_app.desensitize import BlockDCT, Chain, GaussianBlur, Identity, Mosaic
from lightning_app.desensitize.base import Desensitizer


@pytest.mark.parametrize("last", [GaussianBlur(18), Mosaic(8)])
def test_a_step_that_does_nothing_leaves_what_the_one_before_left(last: Desensitizer) -> None:
    chain = Chain([last, Identity()])
    chain.prepare((64, 64))
    left = type(last).leaves(last.describe(), 64)
    assert left is not None
    assert Chain.leaves(chain.describe(), 64) == left
    assert Chain.leaves({"steps": [{"method": "Identity"}]}, 64) is None


def test_a_list_of_channels_has_one_spelling() -> None:
    made = BlockDCT(channels=["cr2", 9, "cb10", 1, "cb3"], colour="ycbcr")
    assert made.channels == [1, 9, "cb3", "cb10", "cr2"]
    assert made.keep == BlockDCT(channels=[1, 9, "cb3", "cb10", "cr2"], colour="ycbcr").keep


@pytest.mark.parametrize(
    "channels", [["y007"], ["y01", "y2"], [9, 1], ["y3", "y2"], ["y2", 1], ["cb1", "y2"]]
)
def test_other_spellings_are_none(channels: list[int | str]) -> None:
    """Leading zeros and an order of its own would carry some bits of a face for each channel."""
    described = {key: value for key, value in BlockDCT(channels=[1, 2]).describe().items() if key != "method"}
    check, words = BlockDCT.entries(32, 1)[0]["channels"]
    assert check(described["channels"])
    assert not check(channels)
    assert words.endswith("a list of them in their order")


def test_a_checkpoint_from_before_lists_were_sorted_is_of_the_same_channels() -> None:
    now = BlockDCT(channels=[9, 3, 5]).describe()
    assert now["channels"] == [3, 5, 9]
    before = now | {"channels": [9, 3, 5]}
    assert same_desensitizer(before, now)
    assert same_desensitizer({"method": "Chain", "steps": [before]}, {"method": "Chain", "steps": [now]})
    assert not same_desensitizer(now | {"channels": [3, 5]}, now)
    with pytest.raises(ValueError, match="is no coefficient here"):
        BlockDCT(channels=[None, 3])  # type: ignore[list-item]


def test_a_chain_whose_blocks_do_not_fill_the_images_is_no_error_here() -> None:
    """A stranger's manifest may say so; an audit finds it by itself."""
    step = BlockDCT(block=5, upsample=1, stride=5).describe()
    with pytest.raises(ValueError, match="5"):
        BlockDCT.shape(step, 32)
    keyed = [{"method": "MixUp", "key_hash": hash} for hash in ("0" * 64, "1" * 64)]
    assert Chain.inconsistencies({"steps": [step, keyed[0]]}, 32) == []
    (fault,) = Chain.inconsistencies({"steps": [step, *keyed]}, 32)
    assert "have keys of their own" in fault


class Dim(Desensitizer):
    """Somebody else's class, which describes nothing."""

    has_mask = False

    def __init__(
        self, strength: float = 0.5, *, after: Desensitizer | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        self.strength = strength

    def desensitize(self, image: Tensor) -> Tensor:
        return image * self.strength


class Dimmer(Dim):
    """Takes what its base takes, and one thing more."""

    def __init__(self, by: int, **rest: Any) -> None:
        super().__init__(0.1 * by, **rest)


class Plain(Desensitizer):
    """Takes nothing."""

    def __init__(self) -> None:
        super().__init__()


class Told(Dim):
    """Says itself what it is."""

    def describe(self) -> dict[str, object]:
        return {"method": "Told", "strength": self.strength}


def test_a_class_that_describes_nothing_is_told_by_what_it_was_made_with() -> None:
    made = [Dim(0.5), Dim(), Dim(strength=0.5), Dim(1), Dim(1.0), Dim(0.25), Dim(0.5, name="a")]
    said = [one.describe() for one in made]
    assert said[0] == said[1] == said[2]
    assert said[3] == said[4]
    assert len({str(one) for one in said}) == 4
    assert said[0].keys() == {"method", "settings"}
    assert len(str(said[0]["settings"])) == 16
    assert "0.5" not in str(said[6])  # a hash: a path or a name stays with its owner
    assert Dimmer(1).describe() != Dimmer(2).describe()
    assert Dimmer(1).describe() == Dimmer(by=1).describe()
    inner = [Dim(after=Mosaic(block)).describe() for block in (4, 8, 4)]
    assert inner[0] == inner[2] != inner[1]
    assert Plain().describe() == {"method": "Plain"}
    assert Told(0.5).describe() == {"method": "Told", "strength": 0.5}
    assert Identity().describe() == {"method": "Identity"}
    assert copy.deepcopy(Dim(0.3)).describe() == Dim(0.3).describe()
    with pytest.raises(TypeError, match="unexpected keyword argument 'strenght'"):
        Dim(strenght=0.5)  # type: ignore[call-arg]


def test_runs_under_other_settings_are_not_the_same_and_older_ones_are_believed() -> None:
    theirs, ours = Dim(0.5).describe(), Dim(0.25).describe()
    assert not same_desensitizer(theirs, ours)
    assert same_desensitizer(theirs, Dim(0.5).describe())
    assert same_desensitizer({"method": "Dim"}, ours)  # of before there were settings
    assert not same_desensitizer({"method": "Other"}, ours)


def test_the_signature_stays_what_it_was() -> None:
    """The command line asks it which options there are."""
    assert [*inspect.signature(Dim).parameters] == ["strength", "after", "name"]
    assert "self.strength = strength" in inspect.getsource(Dim.__init__)
