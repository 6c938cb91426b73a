"""How a search spends its forward passes: all candidates on all images, halving, or evolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_app.core.draws import seed_from
from lightning_app.masks.bits import pack_masks, unpack_masks
from lightning_app.masks.freeform import Brush
from lightning_app.masks.io import mask_hash, mask_ratio
from lightning_app.masks.search.candidates import BrushRange, Candidate, Range, cross, drawn_candidate, mutate
from lightning_app.masks.search.journal import SearchJournal
from lightning_app.masks.search.objective import MaskScorer, objective

Progress = Callable[[int, int, "SearchRow"], None]
Drawing = tuple[Tensor, Candidate | None]
_BRED = 330  # salt of the choice of parents
GENERATION = 16  # candidates drawn first, and bred in every generation


@dataclass(frozen=True)
class SearchRow:
    """What is known of one candidate at the end of a search.

    Attributes:
        number: of the candidate: of the draw, or of the mask in the given set.
        rung: the last round it took part in, from 0: of halving, or the generation it was bred in.
        images: how many images it was scored on.
        F: mean cross-entropy over these in nats.
        P: mask ratio.
        objective: F − γ·P where it was scored on all images, else None.
        estimate: F − γ·P where it was scored on some, else None.
        mask_hash: SHA-256 of the mask's pixels.
        parents: numbers of the candidates it was bred from.
        brush: its five hyper-parameters; None in a given set.
    """

    number: int
    rung: int
    images: int
    F: float
    P: float
    objective: float | None
    estimate: float | None
    mask_hash: str
    parents: tuple[int, ...] = ()
    brush: Brush | None = None

    @property
    def value(self) -> float:
        """F − γ·P on the images it was scored on."""
        found = self.estimate if self.objective is None else self.objective
        assert found is not None
        return found


def preference(row: SearchRow) -> tuple[int, float, int]:
    """Return a key that sorts rows best first: scored on more images, then the lower value, then number."""
    return -row.images, row.value, row.number


class CandidateScores:
    """Scores candidates by number: masks are made when first asked for, scores known already are not made again.

    Args:
        scorer: finds F.
        journal: keeps sums of losses.
        draw: number → mask `[1,H,W]` and, where it was drawn, the candidate.
        gamma: nats per unit of mask ratio.
        total: forward passes that the search will ask for, for `progress`.
        progress: called with (passes asked for so far, total, best row so far) after every score.

    Attributes:
        rows: number → its last row.
        candidates: number → candidate, of those drawn or bred.
        done: forward passes asked for, whether made or found in the journal.
    """

    def __init__(
        self,
        scorer: MaskScorer,
        journal: SearchJournal,
        draw: Callable[[int], Drawing],
        gamma: float,
        total: int,
        progress: Progress | None = None,
    ) -> None:
        self.scorer, self.journal, self.gamma = scorer, journal, gamma
        self.rows: dict[int, SearchRow] = {}
        self.candidates: dict[int, Candidate] = {}
        self.done, self.total = 0, total
        self._draw, self._progress = draw, progress
        self._bits: dict[int, Tensor] = {}  # one bit a pixel: 12,000 masks of 112×112 take 19 MB
        self._facts: dict[int, tuple[str, float]] = {}  # hash and mask ratio
        self._best: SearchRow | None = None

    def add(self, candidate: Candidate, mask: Tensor) -> None:
        """Add a bred candidate with its mask `[1,H,W]`."""
        self.candidates[candidate.number] = candidate
        self._keep(candidate.number, mask)

    def mask(self, number: int) -> Tensor:
        """Return a candidate's mask `[1,H,W]`."""
        if number not in self._bits:
            mask, candidate = self._draw(number)
            if candidate is not None:
                self.candidates[number] = candidate
            self._keep(number, mask)
        return unpack_masks(self._bits[number], self.scorer.size)[0]

    def score(self, number: int, images: int, rung: int = 0) -> SearchRow:
        """Score a candidate on the first so many images and return its row, which replaces an earlier one."""
        mask = self.mask(number)
        key, ratio = self._facts[number]
        F = self._sum(key, mask, images) / images
        value = objective(F, ratio, self.gamma)
        whole = images == len(self.scorer)
        bred = self.candidates.get(number)
        row = SearchRow(
            number, rung, images, F, ratio, value if whole else None, None if whole else value, key,
            () if bred is None else bred.parents, None if bred is None else bred.brush,
        )  # fmt: skip
        self.done += images - (self.rows[number].images if number in self.rows else 0)
        self.rows[number] = row
        if self._best is None or preference(row) < preference(self._best):
            self._best = row
        if self._progress is not None:
            self._progress(self.done, self.total, self._best)
        return row

    def _keep(self, number: int, mask: Tensor) -> None:
        self._bits[number] = pack_masks(mask)
        self._facts[number] = mask_hash(mask), float(mask_ratio(mask))

    def _sum(self, key: str, mask: Tensor, images: int) -> float:
        known = self.journal.sums.get(key, {})
        if images in known:
            return known[images]
        before = max((n for n in known if n < images), default=0)
        more = float(self.scorer.losses(mask, before, images).double().sum())
        total = known.get(before, 0.0) + more
        self.journal.add(key, images, total)
        return total


def rungs(candidates: int, images: int, min_images: int) -> list[tuple[int, int]]:
    """Return what `halving` does: (candidates, images) of each round.

    The better half, rounded up, goes on to twice as many images; one that is left alone goes to all of them.
    """
    plan = [(candidates, min_images)]
    while plan[-1][1] < images:
        left = (plan[-1][0] + 1) // 2
        plan.append((left, images if left == 1 else min(2 * plan[-1][1], images)))
    return plan


def exhaustive(bench: CandidateScores, numbers: Sequence[int]) -> None:
    """Score every candidate on all images (the paper's Algorithm 1)."""
    for number in numbers:
        bench.score(number, len(bench.scorer))


def halving(bench: CandidateScores, numbers: Sequence[int], min_images: int) -> None:
    """Score all candidates on few images, the better half on twice as many, until all images are reached.

    Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification" (successive halving), AISTATS 2016.
    """
    alive = list(numbers)
    for rung, (count, images) in enumerate(rungs(len(numbers), len(bench.scorer), min_images)):
        alive = alive[:count]
        rows = [bench.score(number, images, rung) for number in alive]
        alive = [row.number for row in sorted(rows, key=preference)]


def evolve(
    bench: CandidateScores,
    candidates: int,
    seed: int,
    ratio: Range,
    brushes: BrushRange,
    template: Tensor | None,
    generation: int = GENERATION,
) -> None:
    """Draw a generation, then breed from the best half as many of all so far, until the candidates are spent.

    Each child has one parent (mutated) or two (crossed) with equal chance, chosen uniformly among the best,
    which are distinct masks. Every candidate is scored on all images, so the best is never lost: (μ+λ) with
    λ = `generation`, μ = λ/2.
    """
    images, size = len(bench.scorer), bench.scorer.size
    rows = [bench.score(number, images) for number in range(min(generation, candidates))]
    for start in range(len(rows), candidates, generation):
        best = {
            row.mask_hash: row for row in sorted(rows, key=preference, reverse=True)
        }  # the lowest number stays
        parents = sorted(best.values(), key=preference)[: max(2, generation // 2)]
        family = [bench.candidates[row.number] for row in parents]
        for number in range(start, min(start + generation, candidates)):
            child = _child(family, number, seed, size, ratio, brushes, template)
            bench.add(child, child.mask(size, template))
            rows.append(bench.score(number, images, start // generation))


def _child(
    family: Sequence[Candidate],
    number: int,
    seed: int,
    size: tuple[int, int],
    ratio: Range,
    brushes: BrushRange,
    template: Tensor | None,
) -> Candidate:
    generator = torch.Generator().manual_seed(seed_from(_BRED, seed, number))
    alone = torch.rand(1, generator=generator, dtype=torch.float64).item() < 0.5 or len(family) == 1
    chosen = torch.randperm(len(family), generator=generator)[:2].tolist()
    first, second = family[chosen[0]], family[chosen[-1]]
    try:
        if alone:
            return mutate(first, number, seed, size, ratio, template)
        return cross(first, second, number, seed, size, ratio, template)
    except ValueError:  # this brush could not repair it, in a narrow range: a drawn one takes its place
        return drawn_candidate(number, seed, size, ratio, brushes, template)
