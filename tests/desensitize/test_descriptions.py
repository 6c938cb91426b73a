"""What a description may say: one spelling of each thing, and nothing hidden behind a step that does nothing."""

from __future__ import annotations

import pytest

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
