"""A margin beside the hidden area: what a lossy source let ring across the mask's edge is hidden too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def guarded(mask: Tensor, guard: int) -> Tensor:
    """Hide N more pixels on the visible side of a mask's edge (erosion of the visible area).

    A pixel stays visible where no pixel within N rows and N columns is hidden: the neighbourhood is a square,
    not a disc, since JPEG codes square blocks: within one, a pixel leaves traces on all others,
    along the diagonals too. What lies beyond the image counts as visible.

    In a JPEG a pixel leaves traces up to 7 pixels away (its block has 8 a side), 15 where colours are stored
    at half the size. To keep them all out, take that times size / crop, rounded up, and one more for the resize.
    Of a lossless source that one does, `size / crop` rounded up where images are made larger. In a WebP coded with
    loss traces go anywhere: no guard keeps them out, and `desensitize` refuses it.

    Args:
        mask: `[H,W]`, `[1,H,W]` or `[N,1,H,W]` of 0 (hidden) and 1 (visible).
        guard: N in pixels, at least 0; 0 changes nothing.

    Returns:
        Float32 of the same shape, on the mask's device; it may hide every pixel.

    Raises:
        ValueError: guard is below 0.
    """
    if guard < 0:
        raise ValueError(f"guard: {guard} is below 0; give a number of pixels")
    hidden = 1 - mask.to(torch.float32)
    if guard == 0 or mask.numel() == 0:
        return 1 - hidden
    guard = min(guard, max(mask.shape[-2:]))  # more reaches no further
    planes = hidden.reshape(-1, 1, *mask.shape[-2:])
    # the square's maximum is that of the columns of the rows: 2·(2N+1) pixels looked at, not (2N+1)²
    wide = F.max_pool2d(planes, (1, 2 * guard + 1), stride=1, padding=(0, guard))
    square = F.max_pool2d(wide, (2 * guard + 1, 1), stride=1, padding=(guard, 0))
    return 1 - square.reshape(mask.shape)


def has_margin(mask: Tensor, guard: int) -> bool:
    """Return whether a mask can be a guarded one: whether some mask, given this guard, becomes it.

    The hidden area of a guarded mask is a union of squares of 2·N + 1 pixels, cut off at the image's edge; so what
    is left of it when N pixels are taken away and given back again is all of it (a morphological opening).

    Args:
        mask: `[H,W]`, `[1,H,W]` or `[N,1,H,W]` of 0 (hidden) and 1 (visible).
        guard: N in pixels, at least 0; every mask has a margin of 0.

    Raises:
        ValueError: guard is below 0.
    """
    before = 1 - guarded(1 - mask.to(torch.float32), guard)  # the visible area, wider by N
    return torch.equal(guarded(before, guard), mask.to(torch.float32))
