from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_app.masks import MaskLevels, freeform_masks, mask_hash, mask_ratio
from lightning_app.masks.search.candidates import BrushRange
from lightning_app.masks.search.objective import MaskScorer
from lightning_app.masks.search.run import SearchResult, Strategy, search, write_candidates
from lightning_app.masks.search.strategies import SearchRow, rungs

SIZE, CLASSES, IMAGES = 24, 4, 40
RATIO = (0.5, 0.6)
STRATEGIES: tuple[Strategy, ...] = ("random", "halving", "evolve")


@pytest.fixture
def scorer() -> MaskScorer:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
    model = nn.Sequential(
        conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, CLASSES)
    )
    with torch.no_grad():
        next(reversed(list(model.children()))).weight.mul_(10)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return MaskScorer(model, images, torch.randint(0, CLASSES, (IMAGES,), generator=generator))


def template() -> Tensor:
    return (torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) < 0.1).float()


def run(scorer: MaskScorer, strategy: Strategy = "random", **changes: Any) -> SearchResult:
    options: dict[str, Any] = {"candidates": 24, "seed": 5, "min_images": 5} | changes
    return search(scorer, SIZE, options.pop("ratio", RATIO), strategy=strategy, **options)


def ratio_of(mask: Tensor) -> float:
    found = mask_ratio(mask)
    assert isinstance(found, float)
    return found


def facts(result: SearchResult) -> tuple[object, ...]:
    return result.best, mask_hash(result.mask), result.candidate, result.rows, result.asked


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_mask_contains_the_template_and_lies_in_the_range(
    scorer: MaskScorer, strategy: Strategy
) -> None:
    result = run(scorer, strategy, template=template(), gamma=0.7)
    assert [row.number for row in result.rows] == list(range(24))
    for row in result.rows:
        mask = result.mask_of(row.number)
        assert bool((mask >= template()).all())
        assert RATIO[0] <= ratio_of(mask) <= RATIO[1]
        assert ratio_of(mask) == row.P
        assert row.mask_hash == mask_hash(mask)
        assert (row.objective is None) == (row.images < IMAGES)
        assert (row.estimate is None) == (row.images == IMAGES)
        assert row.value == pytest.approx(scorer.score(mask, row.images) - 0.7 * row.P, abs=1e-5)
    whole = [row for row in result.rows if row.objective is not None]
    assert result.best == min(whole, key=lambda row: (row.objective, row.number))
    assert result.candidate is not None
    assert torch.equal(result.candidate.mask(SIZE, template()), result.mask)
    assert result.candidate.brush == result.best.brush
    assert len({row.mask_hash for row in result.rows}) == 24
    assert result.ranked(3)[0] == result.best


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seed_same_mask(scorer: MaskScorer, strategy: Strategy) -> None:
    first = run(scorer, strategy)
    state = torch.get_rng_state()
    assert facts(run(scorer, strategy)) == facts(first)
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"
    assert run(scorer, strategy, seed=6).best.mask_hash != first.best.mask_hash


def test_gamma_moves_the_choice(scorer: MaskScorer) -> None:
    free, dear = run(scorer, gamma=0.0), run(scorer, gamma=1e6)
    assert [row.F for row in free.rows] == [row.F for row in dear.rows]
    assert min(row.F for row in free.rows) == free.best.F
    assert free.best.objective == free.best.F
    assert max(row.P for row in dear.rows) == dear.best.P
    assert free.best.number != dear.best.number


def test_halving_with_all_images_is_random(scorer: MaskScorer) -> None:
    assert run(scorer, "halving", min_images=IMAGES).rows == run(scorer).rows


def test_halving_keeps_the_better_half(scorer: MaskScorer) -> None:
    result = run(scorer, "halving")
    assert rungs(24, IMAGES, 5) == [(24, 5), (12, 10), (6, 20), (3, 40)]
    assert result.passes == result.asked == 24 * 5 + 12 * 5 + 6 * 10 + 3 * 20
    for rung, (count, images) in enumerate(rungs(24, IMAGES, 5)):
        alive = [row for row in result.rows if row.rung >= rung]
        assert len(alive) == count
        left = [row for row in alive if row.rung == rung]
        assert {row.images for row in left} == {images}
        stay = [row for row in alive if row.rung > rung]

        def value(row: SearchRow, images: int = images) -> float:
            return scorer.score(result.mask_of(row.number), images) - row.P

        if stay:
            assert max(map(value, stay)) < min(map(value, left))
    assert rungs(3, 1000, 16) == [(3, 16), (2, 32), (1, 1000)], "one that is left needs no more rounds"
    assert rungs(1, 16, 16) == [(1, 16)]
    exhaustive = run(scorer)
    expected = exhaustive.rows[result.best.number].objective
    assert result.best.objective == pytest.approx(expected, abs=1e-5)


def test_evolve_improves_on_its_first_generation(scorer: MaskScorer) -> None:
    result = run(scorer, "evolve", candidates=80)
    assert result.passes == 80 * IMAGES
    first = [row for row in result.rows if row.rung == 0]
    assert [row.number for row in first] == list(range(16))
    assert all(not row.parents for row in first)
    best = [min(row.value for row in result.rows if row.rung <= rung) for rung in range(5)]
    assert best == sorted(best, reverse=True)
    assert best[-1] < best[0], "sixty-four children of the best, and none better, would be strange"
    for row in result.rows[16:]:
        assert 1 <= len(row.parents) <= 2
        earlier = [other for other in result.rows if other.rung < row.rung]
        elite = sorted(earlier, key=lambda other: (other.value, other.number))[:8]
        assert set(row.parents) <= {other.number for other in elite}
    # the same number of passes, drawn
    assert result.best.value < run(scorer, candidates=80).best.value


class KilledError(Exception):
    pass


def killer(after: int) -> Callable[[int, int, SearchRow], None]:
    calls = 0

    def progress(done: int, total: int, best: SearchRow) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KilledError

    return progress


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_search_goes_on(scorer: MaskScorer, strategy: Strategy, tmp_path: Path) -> None:
    whole = run(scorer, strategy)
    journal = tmp_path / "new" / "search.jsonl"
    before = scorer.passes
    with pytest.raises(KilledError):
        run(scorer, strategy, journal=journal, progress=killer(18))
    spent = scorer.passes - before
    assert len(journal.read_text().splitlines()) == 19, "a fingerprint, and a line for every score"
    again = run(scorer, strategy, journal=journal)
    assert facts(again) == facts(whole)
    assert again.passes == whole.passes - spent < whole.passes
    done = run(scorer, strategy, journal=journal)
    assert (facts(done), done.passes) == (facts(whole), 0)


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_truncated_last_line_is_cut_off(scorer: MaskScorer, cut: int, tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    whole = run(scorer, "halving", journal=journal)
    content = journal.read_bytes()
    line = len(content.splitlines(keepends=True)[-1])
    journal.write_bytes(content[:-cut])
    missing = 1 if cut <= line else 2
    again = run(scorer, "halving", journal=journal)
    assert facts(again) == facts(whole)
    assert again.passes == 20 * missing
    assert journal.read_bytes() == content, "what was cut off is written again, line by line the same"
    journal.write_bytes(content[:40])
    assert facts(run(scorer, "halving", journal=journal)) == facts(whole)
    assert journal.read_bytes() == content, "killed within the first line"


def test_another_search_does_not_take_the_journal(scorer: MaskScorer, tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    run(scorer, "halving", journal=journal)
    kept = journal.read_bytes()
    others: list[tuple[str, dict[str, Any]]] = [
        ("seed", {"seed": 6}),
        ("ratio", {"ratio": (0.5, 0.61)}),
        ("template", {"template": template()}),
        ("min_images", {"min_images": 6}),
        ("brushes", {"brushes": BrushRange(max_angle=(100, 360))}),
    ]
    for name, change in others:
        message = (
            rf"journal: .*search.jsonl is of a search with another {name} .*remove it or choose another name"
        )
        with pytest.raises(ValueError, match=message):
            run(scorer, "halving", journal=journal, **change)
    with pytest.raises(ValueError, match="another min_images, strategy"):
        run(scorer, "random", journal=journal)
    # neither gamma nor the number of candidates changes a score
    assert run(scorer, "halving", journal=journal, gamma=0.0).passes < 60
    assert journal.read_bytes().startswith(kept)
    bright = MaskScorer(scorer._model, scorer._images, scorer._labels, mean=0.4)
    with pytest.raises(ValueError, match="with another images, mean "):
        run(bright, "halving", journal=journal)
    journal.write_bytes(kept[:-30] + b"\n" + kept.splitlines(keepends=True)[-1])
    with pytest.raises(ValueError, match=r"journal: line \d+ of .*search.jsonl is damaged"):
        run(scorer, "halving", journal=journal)
    for strange in (b"number,F\n1,2\n", b"nothing", b"[1]\n"):
        journal.write_bytes(strange)
        with pytest.raises(ValueError, match="is no journal of a search; choose another name"):
            run(scorer, journal=journal)
        assert journal.read_bytes() == strange, "a file that is none of ours is left alone"
    with pytest.raises(ValueError, match="is a folder; name a file"):
        run(scorer, journal=tmp_path)


def test_a_journal_is_replaced_only_where_it_cannot_be_gone_on_with(
    scorer: MaskScorer, tmp_path: Path
) -> None:
    journal = tmp_path / "search.jsonl"
    whole = run(scorer, "halving", journal=journal)
    kept = journal.read_bytes()
    assert run(scorer, "halving", journal=journal, replace=True).passes == 0
    other = run(scorer, "halving", journal=journal, replace=True, seed=6)
    assert facts(other) == facts(run(scorer, "halving", seed=6))
    for damaged in (kept[:-30] + b"\n" + kept.splitlines(keepends=True)[-1], b"nothing"):
        journal.write_bytes(damaged)
        again = run(scorer, "halving", journal=journal, replace=True)
        assert (facts(again), again.passes) == (facts(whole), whole.passes)
        assert journal.read_bytes() == kept


@pytest.mark.parametrize("strategy", ["random", "halving"])
def test_a_given_set(scorer: MaskScorer, strategy: Strategy) -> None:
    given = freeform_masks(20, SIZE, (0.45, 0.65), generator=torch.Generator().manual_seed(3))
    fitting = [i for i, mask in enumerate(given) if RATIO[0] <= ratio_of(mask) <= RATIO[1]]
    assert 2 < len(fitting) < 20
    result = run(scorer, strategy, given=given, candidates=None)
    assert [row.number for row in result.rows] == fitting
    assert torch.equal(result.mask, given[result.best.number])
    assert result.candidate is None
    assert result.best.brush is None
    if strategy == "random":
        values = [scorer.score(given[i]) - ratio_of(given[i]) for i in fitting]
        assert result.best.number == fitting[values.index(min(values))]
    joined = run(scorer, strategy, given=given, candidates=None, template=template(), ratio=None)
    assert len(joined.rows) == 20
    for row in joined.rows:
        assert torch.equal(joined.mask_of(row.number), torch.maximum(given[row.number], template()))
    few = run(scorer, strategy, given=given, candidates=3)
    assert len(few.rows) == 3
    assert {row.number for row in few.rows} < set(fitting)
    assert {r.number for r in run(scorer, strategy, given=given, candidates=3, seed=1).rows} != {
        row.number for row in few.rows
    }


def test_a_folder_is_a_given_set(scorer: MaskScorer, tmp_path: Path) -> None:
    masks = freeform_masks(6, SIZE, (0.2, 0.5), generator=torch.Generator().manual_seed(3))
    for i, mask in enumerate(masks):
        Image.fromarray(((1 - mask[0]) * 255).byte().numpy()).save(tmp_path / f"{i}.png")
    levels = MaskLevels(tmp_path, SIZE)
    result = run(scorer, given=levels, ratio=None)
    expected = run(scorer, given=masks, ratio=None)
    assert result.rows == expected.rows
    assert torch.equal(result.mask, masks[result.best.number])


def test_blank_masks_of_a_given_set_are_left_out(scorer: MaskScorer) -> None:
    given = freeform_masks(3, SIZE, (0.5, 0.6), generator=torch.Generator().manual_seed(3))
    blank = torch.cat([torch.zeros(1, 1, SIZE, SIZE), given, torch.ones(1, 1, SIZE, SIZE)])
    assert [row.number for row in run(scorer, given=blank, ratio=None).rows] == [1, 2, 3]


def test_ties_go_to_the_lowest_number(scorer: MaskScorer) -> None:
    one = freeform_masks(1, SIZE, (0.5, 0.6), generator=torch.Generator().manual_seed(3))
    result = run(scorer, given=one.repeat(4, 1, 1, 1))
    assert (result.best.number, len(result.rows)) == (0, 4)
    assert result.passes == IMAGES, "the same mask is scored once"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_progress_reaches_its_total(scorer: MaskScorer, strategy: Strategy) -> None:
    seen: list[tuple[int, int, SearchRow]] = []
    result = run(scorer, strategy, progress=lambda *what: seen.append(what))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {result.asked}
    assert seen[-1][0] == result.asked
    assert seen[-1][2] == result.best
    if strategy == "random":
        values = [best.value for _, _, best in seen]
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_best_is_the_argmin_of_the_file(scorer: MaskScorer, strategy: Strategy, tmp_path: Path) -> None:
    result = run(scorer, strategy)
    path = write_candidates(result.rows, tmp_path / "candidates.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    whole = [row for row in rows if row["objective"]]
    assert all(bool(row["estimate"]) != bool(row["objective"]) for row in rows)
    best = min(whole, key=lambda row: float(row["objective"]))
    assert int(best["number"]) == result.best.number
    assert float(best["F"]) - 1.0 * float(best["P"]) == result.best.objective, "read back exactly"
    assert best["mask_hash"] == mask_hash(result.mask)
    assert result.candidate is not None
    assert json.loads(json.dumps(result.candidate.to_dict()))["brush"]["max_length"] == float(
        best["max_length"]
    )
    if strategy == "evolve":
        assert rows[20]["parents"] == " ".join(map(str, result.rows[20].parents)) != ""


def test_bad_arguments(scorer: MaskScorer) -> None:
    most = torch.ones(1, SIZE, SIZE)
    most[:, :6] = 0
    given = freeform_masks(2, SIZE, (0.2, 0.3), generator=torch.Generator().manual_seed(3))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"template": most}, r"ratio: \[0.5, 0.6\] is out of reach.*mask ratio possible is 0.2500"),
        ({"template": torch.ones(1, 8, 8)}, r"template: shape \[1, 8, 8\] does not fit masks of 24×24"),
        ({"template": most * 0.5}, "mask: holds values other than 0"),
        ({"ratio": (0.7, 0.6)}, r"ratio: \[0.7, 0.6\] is not a range"),
        ({"ratio": None}, "ratio and candidates: None is for a given set"),
        ({"candidates": 0}, "candidates: 0 is not a positive number"),
        ({"candidates": None}, "ratio and candidates: None is for a given set"),
        ({"strategy": "halving", "min_images": 41}, r"min_images: 41 is not in 1 … 40"),
        ({"strategy": "halving", "min_images": 0}, r"min_images: 0 is not in 1 … 40"),
        ({"strategy": "best"}, "strategy: 'best' is none of random, halving, evolve"),
        ({"gamma": -1.0}, "gamma: -1.0 is not a finite number"),
        ({"gamma": float("nan")}, "gamma: nan is not a finite number"),
        ({"given": given}, r"given: none of the 2 masks has a mask ratio in \[0.5, 0.6\]; they are 0.2"),
        ({"given": given[0]}, r"given: \[1, 24, 24\] of"),
        ({"given": given[..., :8]}, r"given: \[2, 1, 24, 8\] of"),
        ({"given": given, "strategy": "evolve"}, "strategy: 'evolve' breeds strokes"),
        ({"given": given, "brushes": BrushRange()}, "brushes: are for drawn candidates"),
    ]
    for change, message in cases:
        options = {"strategy": "random"} | change
        with pytest.raises(ValueError, match=message):
            run(scorer, **options)
    with pytest.raises(ValueError, match="size: 32×32 is not that of the images, 24×24"):
        search(scorer, 32, RATIO)


@pytest.mark.parametrize("strategy", ["random", "halving"])
def test_masks_that_join_the_drawn_ones(strategy: Strategy, scorer: MaskScorer, tmp_path: Path) -> None:
    plain = run(scorer, strategy, template=template())
    extra = torch.stack([plain.mask, 1 - template()])  # the second contains no template, nor the ratio
    result = run(scorer, strategy, template=template(), extra=extra, journal=tmp_path / "kept.jsonl")
    assert [row.number for row in result.rows] == list(range(26))
    assert result.rows[24].mask_hash == plain.best.mask_hash
    assert torch.equal(result.mask_of(25), extra[1])
    again = run(scorer, strategy, template=template(), extra=extra, journal=tmp_path / "kept.jsonl")
    assert (facts(again), again.passes) == (facts(result), 0)
    with pytest.raises(ValueError, match=r"journal|another search"):
        run(scorer, strategy, template=template(), journal=tmp_path / "kept.jsonl")


def test_a_better_mask_that_joins_is_found(scorer: MaskScorer) -> None:
    shown = torch.ones(1, 1, SIZE, SIZE)
    shown[..., 0] = 0
    result = run(scorer, gamma=0.0, extra=shown, candidates=1)
    expected = min((scorer.score(result.mask_of(n)), n) for n in (0, 1))[1]
    assert result.best.number == expected
    assert (result.candidate is None) == (expected == 1)


@pytest.mark.parametrize(("changes", "message"), [
    ({"strategy": "evolve", "extra": torch.ones(1, 1, SIZE, SIZE)}, "do not go with strategy evolve"),
    ({"given": torch.ones(2, 1, SIZE, SIZE), "extra": torch.ones(1, 1, SIZE, SIZE)}, "do not go with a given set"),
    ({"extra": torch.ones(1, 1, 8, 8)}, r"extra: \[1, 1, 8, 8\] are not masks \[E,1,24,24\]"),
    ({"extra": torch.full((1, 1, SIZE, SIZE), 0.5)}, "values other than 0"),
])  # fmt: skip
def test_masks_that_cannot_join(changes: dict[str, Any], message: str, scorer: MaskScorer) -> None:
    with pytest.raises(ValueError, match=message):
        run(scorer, **changes)
