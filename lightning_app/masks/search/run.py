"""Search one mask for a whole set of faces: Algorithm 1, faster strategies, and the search in a given set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_app.core.csv_text import csv_text
from lightning_app.core.draws import hashed
from lightning_app.core.files import write_atomically
from lightning_app.masks.bits import Size, as_array, as_size, size_text
from lightning_app.masks.freeform import check_ratio, free_pixels
from lightning_app.masks.io import bits_hash, mask_hash, mask_ratio
from lightning_app.masks.levels import MaskLevels
from lightning_app.masks.search.candidates import BrushRange, Candidate, Range, drawn_candidate, united
from lightning_app.masks.search.journal import SearchJournal
from lightning_app.masks.search.objective import MaskScorer, check_gamma
from lightning_app.masks.search.strategies import (
    GENERATION,
    CandidateScores,
    Drawing,
    Progress,
    SearchRow,
    evolve,
    exhaustive,
    halving,
    preference,
    rungs,
)

Strategy = Literal["random", "halving", "evolve"]
Given = Tensor | MaskLevels
_CHOICE = 340  # salt of the choice among a given set
_CHUNK = 1024  # given masks opened at a time
_COLUMNS = ("number", "rung", "images", "F", "P", "objective", "estimate", "mask_hash", "parents")
_BRUSH = ("min_vertex", "max_vertex", "max_length", "max_brush_width", "max_angle", "strokes")


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: the row of the lowest objective among those scored on all images, of ties the lowest number; or the one
            that finals chose.
        mask: `[1,H,W]` of it, the template included.
        candidate: its strokes; None in a given set.
        rows: one for each candidate, by number.
        passes: images passed through the model in this call; those found in the journal are not counted.
        asked: images the search asked for, in this call or found in the journal.
        finalists: numbers of the candidates that finals put in an order of their own, the chosen one first.
    """

    best: SearchRow
    mask: Tensor
    candidate: Candidate | None
    rows: list[SearchRow]
    passes: int
    asked: int
    _mask: Callable[[int], Tensor] = field(repr=False, compare=False)
    _candidate: Callable[[int], Candidate | None] = field(repr=False, compare=False)
    finalists: tuple[int, ...] = ()

    def ranked(self, count: int | None = None) -> list[SearchRow]:
        """Return the first so many rows, best first: finalists, then those scored on more images before all others."""
        place = {number: at for at, number in enumerate(self.finalists)}
        first = len(place)
        return sorted(self.rows, key=lambda row: (place.get(row.number, first), preference(row)))[:count]

    def chosen(self, finalists: Sequence[int]) -> SearchResult:
        """Return the same search with the first of these as its best.

        Args:
            finalists: numbers of candidates that were scored on all images.
        """
        best = next(row for row in self.rows if row.number == finalists[0])
        mask, candidate = self._mask(best.number), self._candidate(best.number)
        return dataclasses.replace(
            self, best=best, mask=mask, candidate=candidate, finalists=tuple(finalists)
        )

    def mask_of(self, number: int) -> Tensor:
        """Return the mask `[1,H,W]` of a candidate, by its number."""
        return self._mask(number)


def search(
    scorer: MaskScorer,
    size: Size,
    ratio: Range | None,
    *,
    template: Tensor | None = None,
    gamma: float = 1.0,
    strategy: Strategy = "random",
    candidates: int | None = 64,
    brushes: BrushRange | None = None,
    seed: int = 0,
    min_images: int = 16,
    journal: str | Path | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    given: Given | None = None,
    extra: Tensor | None = None,
) -> SearchResult:
    """Search the mask of the lowest F − γ·P, each candidate united with the template.

    `random` scores every candidate on all images, as the paper does; `halving` scores all on `min_images`, the
    better half on twice as many, until the rest is scored on all; `evolve` draws 16, then breeds 16 at a time
    from the best 8, each scored on all images. All candidates meet the same images in the same order.

    Args:
        scorer: finds F of a mask; its images should be held out, of identities the model knows.
        size: side or (height, width) of the masks: that of the scorer's images.
        ratio: (low, high) that the mask ratio of max(mask, template) must lie in, both included; None, for a
            given set only, takes any.
        template: `[1,H,W]` or `[H,W]` of 0 and 1, 1 = always visible; None keeps nothing.
        gamma: nats per unit of mask ratio, at least 0.
        strategy: how forward passes are spent.
        candidates: how many masks are looked at, at least 1; of a given set that has more, so many are drawn.
            None takes all of a given set.
        brushes: ranges of the five hyper-parameters of drawn candidates; None takes the defaults.
        seed: the candidates are a function of it.
        min_images: of `halving`: images that every candidate is scored on.
        journal: a JSON-lines file that scores are written to as they come; a search that was killed goes on
            from it and ends as it would have. `gamma` and `candidates` may differ, nothing else.
        replace: whether a journal of another search is written anew rather than refused.
        progress: called with (forward passes so far, all of them, the best row so far) after every score.
        given: `[N,1,H,W]` masks of 0 and 1, or a folder's, to search in instead of drawing; those whose mask
            ratio, united with the template, is outside `ratio` are left out.
        extra: `[E,1,H,W]` masks of 0 and 1 that join the drawn candidates as they are, whatever their mask ratio and
            without the template: numbers follow those of the candidates. Not with `evolve`, nor with `given`.

    Raises:
        ValueError: an argument is out of range or does not fit the others, the range is out of reach, or the
            journal is another search's and not to be replaced.

    Source: Algorithm 1 and formulas 3 and 5; of a given set Table 2.
    """
    shape = as_size(size)
    template = _checked(scorer, shape, template, gamma, strategy, candidates, min_images)
    settings: dict[str, object] = {
        "seed": seed,
        "strategy": strategy,
        "size": list(shape),
        "given": _given_hash(given),
    }
    settings |= {"template": None if template is None else mask_hash(template)}
    settings |= {"min_images": min_images if strategy == "halving" else None}
    if extra is not None:
        extra = _checked_extra(extra, shape, strategy, given)
        settings["extra"] = mask_hash(extra)
    draw: Callable[[int], Drawing]
    if given is not None:
        if strategy == "evolve":
            raise ValueError(
                "strategy: 'evolve' breeds strokes, a given set has none; take random or halving"
            )
        if brushes is not None:
            raise ValueError("brushes: are for drawn candidates; leave them out where a set is given")
        numbers = _eligible(given, shape, ratio, template, candidates, seed)
        settings |= {"ratio": None if ratio is None else list(check_ratio(ratio)), "brushes": None}

        def draw(number: int) -> Drawing:
            return _opened(given, torch.tensor([number]), template)[0], None
    else:
        if ratio is None or candidates is None:
            raise ValueError("ratio and candidates: None is for a given set; say which masks to draw")
        asked, ranges = check_ratio(ratio), brushes or BrushRange()
        free_pixels(shape, asked, template)
        drawn, numbers = candidates, list(range(candidates + (0 if extra is None else len(extra))))
        settings |= {"ratio": list(asked), "brushes": asdict(ranges)}

        def draw(number: int) -> Drawing:
            if extra is not None and number >= drawn:
                return extra[number - drawn], None
            candidate = drawn_candidate(number, seed, shape, asked, ranges, template)
            return candidate.mask(shape, template), candidate

    plan = [(len(numbers), len(scorer))]
    if strategy == "halving":
        plan = rungs(len(numbers), len(scorer), min_images)
    before = [0, *(images for _, images in plan)]
    total = sum(count * (images - less) for (count, images), less in zip(plan, before, strict=False))
    passes = scorer.passes
    with SearchJournal(journal, settings | scorer.fingerprint(), replace) as kept:
        bench = CandidateScores(scorer, kept, draw, gamma, total, progress)
        if strategy == "random":
            exhaustive(bench, numbers)
        elif strategy == "halving":
            halving(bench, numbers, min_images)
        else:
            evolve(bench, len(numbers), seed, asked, ranges, template, GENERATION)
    best = min(bench.rows.values(), key=preference)
    return SearchResult(
        best, bench.mask(best.number), bench.candidates.get(best.number),
        [bench.rows[number] for number in sorted(bench.rows)], scorer.passes - passes, bench.done, bench.mask,
        bench.candidates.get,
    )  # fmt: skip


def write_candidates(rows: Sequence[SearchRow], path: str | Path) -> Path:
    """Write the candidates of a search as CSV, atomically.

    `objective` is filled for candidates scored on all images, `estimate` for the others, so that the best mask
    is the argmin of `objective`. Numbers are written so that they are read back exactly; `parents` are
    separated by spaces.

    Args:
        rows: of a `SearchResult`.
        path: where to.

    Raises:
        OSError: it cannot be written.
    """
    lines: list[list[object]] = [[*_COLUMNS, *_BRUSH]]
    for row in rows:
        own = [getattr(row, name) for name in _COLUMNS[:-1]]  # csv writes None as nothing, floats by repr
        brush = [None if row.brush is None else getattr(row.brush, name) for name in _BRUSH]
        lines.append([*own, " ".join(map(str, row.parents)), *brush])
    return write_atomically(path, csv_text(lines))


def _checked(
    scorer: MaskScorer,
    size: tuple[int, int],
    template: Tensor | None,
    gamma: float,
    strategy: str,
    candidates: int | None,
    min_images: int,
) -> Tensor | None:
    """Check what is common to all searches and return the template as `[1,H,W]` float32."""
    if size != scorer.size:
        raise ValueError(
            f"size: {size_text(size)} is not that of the images, {size_text(scorer.size)} (height×width)"
        )
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy: {strategy!r} is none of {', '.join(get_args(Strategy))}")
    check_gamma(gamma)
    if candidates is not None and candidates < 1:
        raise ValueError(f"candidates: {candidates} is not a positive number of masks")
    if strategy == "halving" and not 1 <= min_images <= len(scorer):
        raise ValueError(
            f"min_images: {min_images} is not in 1 … {len(scorer)}, the images there are; make it smaller or "
            "give more images"
        )
    if template is None:
        return None
    free_pixels(size, None, template)
    return torch.from_numpy(as_array(template)).to(torch.float32)


def _checked_extra(extra: Tensor, size: tuple[int, int], strategy: str, given: Given | None) -> Tensor:
    if strategy == "evolve" or given is not None:
        where = "strategy evolve, which breeds strokes" if given is None else "a given set"
        raise ValueError(f"extra: masks that join the candidates do not go with {where}; leave them out")
    if extra.ndim != 4 or tuple(extra.shape[1:]) != (1, *size):
        raise ValueError(
            f"extra: {list(extra.shape)} are not masks [E,1,{size[0]},{size[1]}], the images' size"
        )
    return torch.from_numpy(as_array(extra))[:, None].to(torch.float32)


def _given_hash(given: Given | None) -> str | None:
    if given is None:
        return None
    return bits_hash(given.bits, given.size) if isinstance(given, MaskLevels) else mask_hash(given)


def _opened(given: Given, numbers: Tensor, template: Tensor | None) -> Tensor:
    """Return given masks united with the template, `[K,1,H,W]`."""
    masks = given.masks(numbers) if isinstance(given, MaskLevels) else given[numbers.to(given.device)]
    return united(masks.cpu().to(torch.float32), template)


def _eligible(
    given: Given,
    size: tuple[int, int],
    ratio: Range | None,
    template: Tensor | None,
    candidates: int | None,
    seed: int,
) -> list[int]:
    """Return the numbers of given masks to score, in order."""
    have = given.size if isinstance(given, MaskLevels) else tuple(given.shape[-2:])
    if tuple(have) != size or (isinstance(given, Tensor) and given.ndim != 4) or len(given) == 0:
        shape = "masks" if isinstance(given, MaskLevels) else list(given.shape)
        raise ValueError(
            f"given: {shape} of {have} are not masks [N,1,{size[0]},{size[1]}], the images' size"
        )
    low, high = (0.0, 1.0) if ratio is None else check_ratio(ratio)
    found = []
    for numbers in torch.arange(len(given)).split(_CHUNK):
        ratios = mask_ratio(_opened(given, numbers, template))
        assert isinstance(ratios, Tensor)
        found.append(ratios)
    all_ratios = torch.cat(found).double()
    # float32 ratios: half a pixel of leeway, no two ratios are closer than a pixel
    leeway = 0.5 / (size[0] * size[1])
    inside = (all_ratios > low - leeway) & (all_ratios < high + leeway)
    inside &= (all_ratios > 0) & (all_ratios < 1)  # a mask that hides nothing, or everything, is none
    fitting = inside.nonzero().flatten()
    if not len(fitting):
        united_with = "" if template is None else ", united with the template,"
        raise ValueError(
            f"given: none of the {len(given)} masks{united_with} has a mask ratio in [{low:g}, {high:g}]; they "
            f"are {float(all_ratios.min()):.4f} … {float(all_ratios.max()):.4f}"
        )
    if candidates is not None and candidates < len(fitting):
        chosen = torch.argsort(hashed(fitting, _CHOICE, seed))[:candidates]
        fitting = fitting[chosen].sort().values
    numbers_: list[int] = fitting.tolist()
    return numbers_
