from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from lightning_app.masks import Brush, Stroke, draw_strokes, freeform_strokes, mask_hash, mask_ratio
from lightning_app.masks.search.candidates import (
    BrushRange,
    Candidate,
    cross,
    drawn_candidate,
    mutate,
    united,
)

RATIO = (0.6, 0.65)
SIZE = 48


def dots(size: int = SIZE, share: float = 0.15) -> Tensor:
    return (torch.rand(1, size, size, generator=torch.Generator().manual_seed(9)) < share).float()


def check(candidate: Candidate, template: Tensor | None, ratio: tuple[float, float] = RATIO) -> Tensor:
    mask = candidate.mask(SIZE, template)
    assert mask.shape == (1, SIZE, SIZE)
    assert set(mask.unique().tolist()) == {0, 1}
    found = mask_ratio(mask)
    assert isinstance(found, float)
    assert ratio[0] <= found <= ratio[1]
    if template is not None:
        assert bool((mask >= template).all()), "the template shows through every mask"
    return mask


@pytest.mark.parametrize("side", ["hide", "reveal"])
@pytest.mark.parametrize("with_template", [True, False])
def test_drawn_mutated_and_crossed_lie_in_the_range(
    side: Literal["hide", "reveal"], with_template: bool
) -> None:
    template, brushes = dots() if with_template else None, BrushRange(strokes=side)
    drawn = [drawn_candidate(i, 3, SIZE, RATIO, brushes, template) for i in range(6)]
    children = [mutate(drawn[i % 6], 6 + i, 3, SIZE, RATIO, template) for i in range(12)]
    children += [cross(drawn[i % 6], drawn[(i + 1) % 6], 18 + i, 3, SIZE, RATIO, template) for i in range(12)]
    hashes = {mask_hash(check(one, template)) for one in [*drawn, *children]}
    assert len(hashes) == 30, "all differ"
    assert children[0].parents == (0,)
    assert children[12].parents == (0, 1)


def test_same_seed_same_mask_whatever_was_drawn_before() -> None:
    template = dots()
    state = torch.get_rng_state()
    first = drawn_candidate(4, 7, SIZE, RATIO, None, template)
    drawn_candidate(3, 7, SIZE, RATIO, None, template)
    assert drawn_candidate(4, 7, SIZE, RATIO, None, template) == first
    assert drawn_candidate(4, 8, SIZE, RATIO, None, template) != first
    other = drawn_candidate(5, 7, SIZE, RATIO, None, template)
    assert other.brush != first.brush, "every candidate draws its own brush"
    assert mutate(first, 9, 7, SIZE, RATIO, template) == mutate(first, 9, 7, SIZE, RATIO, template)
    assert cross(first, other, 9, 7, SIZE, RATIO) == cross(first, other, 9, 7, SIZE, RATIO)
    assert mutate(first, 9, 7, SIZE, RATIO).strokes != mutate(first, 10, 7, SIZE, RATIO).strokes
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"


def test_a_child_is_like_its_parent() -> None:
    parents = [drawn_candidate(i, 0, SIZE, RATIO) for i in range(20)]
    masks = [parent.mask(SIZE) for parent in parents]

    def near(other: Callable[[int], Candidate]) -> float:
        return sum(float((masks[i] == other(i).mask(SIZE)).float().mean()) for i in range(20)) / 20

    child = near(lambda i: mutate(parents[i], 100 + i, 0, SIZE, RATIO))
    stranger = near(lambda i: parents[(i + 1) % 20])
    assert child > stranger + 0.1, "a mutation keeps most of a mask"
    mixed = cross(parents[0], parents[1], 50, 0, SIZE, RATIO)
    kept = set(mixed.strokes) & {*parents[0].strokes, *parents[1].strokes}
    assert len(kept) >= len(mixed.strokes) / 2


def test_a_narrow_range_is_reached() -> None:
    narrow = (0.6, 0.603)
    parent = drawn_candidate(0, 1, SIZE, narrow, None, dots())
    for number in range(1, 9):
        check(mutate(parent, number, 1, SIZE, narrow, dots()), dots(), narrow)


def test_brushes_lie_in_their_ranges() -> None:
    brushes = BrushRange((2, 3), (5, 7), (30, 60), (20, 22), (100, 110))
    drawn = [drawn_candidate(i, 0, SIZE, RATIO, brushes).brush for i in range(40)]
    assert {brush.min_vertex for brush in drawn} == {2, 3}
    assert {brush.max_vertex for brush in drawn} == {5, 6, 7}
    assert all(30 <= brush.max_length <= 60 and 20 <= brush.max_brush_width <= 22 for brush in drawn)
    assert all(100 <= brush.max_angle <= 110 for brush in drawn)
    assert max(b.max_length for b in drawn) - min(b.max_length for b in drawn) > 20, "spread over the range"


def test_json_draws_the_same_mask() -> None:
    parent = drawn_candidate(0, 1, SIZE, RATIO)
    one = mutate(parent, 1, 1, SIZE, RATIO)
    read = json.loads(json.dumps(one.to_dict()))
    strokes = [Stroke(**stroke) for stroke in read["strokes"]]
    assert torch.equal(draw_strokes(strokes, SIZE, read["brush"]["strokes"]), one.mask(SIZE))
    assert (read["number"], read["parents"]) == (1, [0])


def test_keep_counts_the_union() -> None:
    keep = torch.zeros(1, 32, 32)
    keep[:, :16] = 1
    strokes = freeform_strokes(4, 32, (0.4, 0.45), generator=torch.Generator().manual_seed(0), keep=keep)
    for some in strokes:
        drawn = draw_strokes(some, 32)
        union = mask_ratio(united(drawn, keep))
        assert isinstance(union, float)
        assert 0.4 <= union <= 0.45
        assert union == float((1 - drawn[:, 16:]).sum()) / 1024, "counted by hand: only the lower half hides"
    any_ratio = freeform_strokes(4, 32, None, generator=torch.Generator().manual_seed(0), keep=keep)
    assert all(float((1 - united(draw_strokes(some, 32), keep)).sum()) > 0 for some in any_ratio)
    everything = torch.ones(1, 32, 32)
    everything[0, 0, 0] = 0
    (one,) = freeform_strokes(
        1, 32, (0.0005, 0.5), generator=torch.Generator().manual_seed(0), keep=everything
    )
    assert torch.equal(united(draw_strokes(one, 32), everything), everything), "all that may be hidden is"


def test_bad_arguments() -> None:
    half = torch.zeros(1, 32, 32)
    half[:, :16] = 1
    for draw in (
        lambda: drawn_candidate(0, 0, 32, (0.6, 0.7), None, half),
        lambda: freeform_strokes(1, 32, (0.6, 0.7), keep=half),
    ):
        with pytest.raises(
            ValueError, match=r"ratio: \[0.6, 0.7\] is out of reach.*possible is 0\.5000; ask"
        ):
            draw()
    with pytest.raises(ValueError, match="template: keeps every pixel visible"):
        drawn_candidate(0, 0, 32, (0.6, 0.7), None, torch.ones(1, 32, 32))
    with pytest.raises(
        ValueError, match=re.escape("template: shape [1, 16, 32] does not fit masks of 32×32")
    ):
        drawn_candidate(0, 0, 32, (0.6, 0.7), None, half[:, :16])
    with pytest.raises(ValueError, match="template: is 32×32, the mask 48×48"):
        drawn_candidate(0, 0, SIZE, RATIO).mask(SIZE, half)
    with pytest.raises(ValueError, match=r"max_length: \[9, 3\] is not a range"):
        BrushRange(max_length=(9, 3))
    with pytest.raises(ValueError, match=r"max_angle: 400 is not in \(0, 360\]"):
        BrushRange(max_angle=(300, 400))
    with pytest.raises(ValueError, match="candidate 0: none of 4 brushes will do; ratio: no mask of 16×16"):
        drawn_candidate(0, 0, 16, (0.001, 0.002))
    a = Candidate(0, Brush(), ())
    with pytest.raises(ValueError, match="strokes: 'hide' and 'reveal' cannot be crossed"):
        cross(a, Candidate(1, Brush(strokes="reveal"), ()), 2, 0, 32, RATIO)
    with pytest.raises(ValueError, match=r"max_brush_width 4000 did not come into \[0.6, 0.65\]"):
        mutate(Candidate(0, Brush(max_brush_width=4000), ()), 1, 0, 32, RATIO)
