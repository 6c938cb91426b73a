"""Masks out of a masker's scores: exactly so many pixels, ties broken by position, and masks grown in rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_app.masks.bits import Size, as_size

MOST_ROUNDS = 64  # in which a mask grows: each is a pass of the masker
FEWEST_FACES = 16  # the mean of fewer masks shows what single ones look like
_HALF = 0.5  # pixels in [0,1] are shown to a masker as −1 … 1
Network = Callable[[Tensor], Tensor]


def shown_pixels(share: float, size: Size) -> int:
    """Count the pixels that a mask shows: at most the share, at least 1, and never all of them.

    Args:
        share: shown pixels / all pixels, in (0,1).
        size: side or (height, width).

    Raises:
        ValueError: the share is not in (0,1), or there is no more than one pixel.

    Example:
        >>> shown_pixels(0.25, 112), shown_pixels(0.24, 112), shown_pixels(0.001, 4)
        (3136, 3010, 1)
    """
    check_share(share)
    height, width = as_size(size)
    if height * width < 2:
        raise ValueError(f"size: an image of {height}×{width} has no pixel to hide")
    # a product such as 0.29 · 100 is a little below 29 in binary
    return min(max(math.floor(share * height * width + 1e-6), 1), height * width - 1)


def check_share(share: float) -> None:
    """Raise ValueError unless a share of shown pixels lies in (0,1)."""
    if not 0 < share < 1:
        raise ValueError(f"share={share}: give the share of pixels that stay visible, above 0 and below 1")


@torch.no_grad()
def top_mask(scores: Tensor, count: int) -> Tensor:
    """Show the pixels of the highest scores, exactly so many of each image, whatever the scores.

    Of equal scores those pixels are shown that come first, row by row. NaN counts as the lowest score. Scores of less
    than fp32 are ranked in fp32.

    Args:
        scores: `[B,1,H,W]`.
        count: pixels shown of each image, 0 … H·W.

    Returns:
        `[B,1,H,W]` float32, 1 = visible, 0 = hidden.

    Raises:
        ValueError: there are not so many pixels.
    """
    flat = scores.detach().flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    if not 0 <= count <= flat.shape[1]:
        raise ValueError(f"count={count}: an image has {flat.shape[1]} pixels")
    if count == 0 or len(flat) == 0:
        return torch.zeros_like(scores, dtype=torch.float32)
    flat = torch.where(flat.isnan(), -torch.inf, flat)
    # values of topk are the same on every device, their order among equals is not: only the lowest is used
    lowest = flat.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, equal = flat > lowest, flat == lowest
    left = count - above.sum(1, keepdim=True)
    shown = above | (equal & (equal.cumsum(1) <= left))
    return shown.view(scores.shape).to(torch.float32)


def core_mask(count: int, size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Show the pixels nearest to the centre of the image: what `grown` starts from. It depends on no image.

    Args:
        count: pixels shown.
        size: side or (height, width).
        device: of the mask.

    Returns:
        `[1,1,H,W]` float32, 1 = visible, 0 = hidden.
    """
    height, width = as_size(size)
    # in half pixels: whole numbers, exact on every device
    rows = (2 * torch.arange(height, device=device) - (height - 1)).square()
    columns = (2 * torch.arange(width, device=device) - (width - 1)).square()
    return top_mask(-(rows[:, None] + columns[None, :]).float()[None, None], count)


def masker_input(image: Tensor, shown: Tensor | None = None) -> Tensor:
    """Make what a masker looks at: pixels as −1 … 1, hidden ones as 0.

    On the uint8 grid no pixel is 0 then, for 255 is odd: what is hidden is told from what is shown.

    Args:
        image: `[B,3,H,W]` in [0,1].
        shown: `[B,1,H,W]` or `[1,1,H,W]`, 1 = visible; None where all is.
    """
    centred = (image - _HALF) / _HALF
    return centred if shown is None else centred * shown


@dataclass(frozen=True)
class Growth:
    """How a mask grows: in rounds from a start core, each of which looks at what is shown already and at nothing else.

    Attributes:
        rounds: how many; 0 looks at the whole image, once.
        core: share of the shown pixels that the start core takes, in [0,1); it lies around the centre.

    Raises:
        ValueError: a number is out of range.
    """

    rounds: int = 0
    core: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.rounds <= MOST_ROUNDS:
            raise ValueError(f"rounds={self.rounds}: give 0 to {MOST_ROUNDS}")
        if not 0 <= self.core < 1:
            raise ValueError(f"core={self.core}: give a share of the shown pixels, 0 up to, not including, 1")

    def counts(self, shown: int) -> list[int]:
        """Return how many pixels are shown before each round, and at the end.

        Args:
            shown: pixels shown at the end.

        Returns:
            `rounds + 1` numbers, of which the first is the core's and the last is `shown`.
        """
        if self.rounds == 0:
            return [0, shown]
        start = max(1, math.floor(self.core * shown))
        return [start + (shown - start) * done // self.rounds for done in range(self.rounds + 1)]


def grown(
    network: Network, image: Tensor, shown: int, growth: Growth
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Grow a mask for each image.

    With rounds, what is under the final mask reaches nothing: by induction every round's mask is a function of pixels
    that the final mask shows. A batch goes through the network `rounds` times, once where there are none.

    Args:
        network: maps `[B,3,H,W]` to logits `[B,1,H,W]`.
        image: `[B,3,H,W]` in [0,1].
        shown: pixels shown at the end, exactly.
        growth: rounds and core.

    Returns:
        Masks `[B,1,H,W]` float32; and of each round the logits and what it added, both `[B,1,H,W]`.
    """
    counts = growth.counts(shown)
    if growth.rounds == 0:
        logits = network(masker_input(image))
        mask = top_mask(logits, shown)
        return mask, [(logits, mask)]
    size = (int(image.shape[-2]), int(image.shape[-1]))
    mask = core_mask(counts[0], size, image.device).expand(len(image), -1, -1, -1)
    rounds = []
    for before, after in zip(counts, counts[1:], strict=False):
        logits = network(masker_input(image, mask))
        added = _added(logits, mask, after - before)
        rounds.append((logits, added))
        mask = mask + added
    return mask, rounds


def soft_mask(mask: Tensor, rounds: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return how much a masker would show each pixel of an image, in [0,1]: what means and codebooks are made of.

    Args:
        mask: `[B,1,H,W]`, as `grown` gives it.
        rounds: likewise.

    Returns:
        `[B,1,H,W]`: σ(logits); of a masker with several rounds 1 where the mask shows, else σ of the last logits.
    """
    soft = rounds[-1][0].detach().float().sigmoid()
    return soft if len(rounds) == 1 else torch.maximum(mask, soft)


@torch.no_grad()
def _added(logits: Tensor, mask: Tensor, count: int) -> Tensor:
    """Choose pixels that are not shown yet; a logit of −∞ or NaN still comes before one that is shown."""
    lowest = torch.finfo(torch.float32).min
    free = torch.nan_to_num(logits.detach().float(), nan=lowest, neginf=lowest)
    return top_mask(free.masked_fill(mask == 1, -torch.inf), count)


def bits_of_choice(pixels: int, shown: int) -> float:
    """Return log₂ of the number of masks that show so many pixels: what a free mask may tell, in bits.

    Args:
        pixels: of an image.
        shown: of them.

    Example:
        >>> round(bits_of_choice(12544, 3136))
        10170
    """
    log_count = math.lgamma(pixels + 1) - math.lgamma(shown + 1) - math.lgamma(pixels - shown + 1)
    return log_count / math.log(2)


def codebook_of(maps: Tensor, codes: int, least: int = 5, steps: int = 10) -> Tensor:
    """Cluster soft masks by k-means; every call gives the same.

    A mean over few faces is nearly the mask of one of them, so a cluster of fewer than `least` faces is given up, and
    its faces go to the others.

    Args:
        maps: `[N,H,W]`, one per face.
        codes: clusters asked for; there may be fewer.
        least: faces of a cluster.
        steps: of Lloyd's algorithm, between two clusters given up.

    Returns:
        `[C,H,W]` float32, the clusters' means; C is at least 1.
    """
    flat = maps.float().flatten(1)
    count = max(1, min(codes, len(flat) // least))
    centres = flat[torch.linspace(0, len(flat) - 1, count).round().long()]
    while True:
        for _ in range(steps):
            nearest = torch.cdist(flat, centres).argmin(1)
            sizes = torch.bincount(nearest, minlength=len(centres))
            sums = torch.zeros_like(centres).index_add_(0, nearest, flat)
            centres = torch.where(sizes[:, None] == 0, centres, sums / sizes.clamp(min=1)[:, None])
        # of what these centres are means of: the assignment that the last step used
        if len(centres) == 1 or int(sizes.min()) >= least:
            return centres.view(len(centres), *maps.shape[1:])
        keep = torch.arange(len(centres)) != int(sizes.argmin())
        centres = centres[keep.to(centres.device)]
