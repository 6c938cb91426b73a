"""What a mask gives away, taken apart for a fresh predictor: the mask alone, what it hides, or what is released."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize.base import Desensitizer

Shown = Literal["released", "mask", "hidden"]


class Part(Desensitizer):
    """Show a part of what another desensitizer makes, to train a predictor on it that knows nothing else.

    How well a *fresh* predictor does on the masks alone says how much of the answer is in their shape; on the hidden
    part alone, how much of it is taken away. Neither protects anybody: for studies, and never released.

    Args:
        of: what is taken apart; one without a mask, such as a blur, has no part but `released`.
        part: `released`, what it returns; `mask`, its masks as grey images, white = visible; `hidden`, the raw image
            where the mask hides it, black elsewhere.

    Raises:
        ValueError: there is no such part, what is taken apart returns no pictures, or it has no mask and a part other
            than `released` is asked for: all such images would be white, or black.
    """

    has_mask: bool | None = None  # `released` has the method's masks; of the others one shows what is hidden
    hides_only = False

    def __init__(self, of: Desensitizer, part: Shown = "released") -> None:
        super().__init__()
        if part not in get_args(Shown):
            raise ValueError(f"part: {part!r} is none of {', '.join(get_args(Shown))}")
        if not of.is_image or of.mixes > 1:
            raise ValueError(f"of: {type(of).__name__} returns no pictures of one face; give one that does")
        if of.has_mask is False and part != "released":
            raise ValueError(
                f"part: {part!r} of {type(of).__name__}, which has no mask: its images would all be "
                f"{'white' if part == 'mask' else 'black'}; take part: released"
            )
        self.of, self.part = of, part
        self.keyed, self.flips, self.hides = of.keyed, of.flips, of.hides or part != "released"

    def prepare(self, size: tuple[int, int]) -> None:
        """Prepare what is taken apart."""
        self.of.prepare(size)

    @property
    def may_show_hidden(self) -> bool:
        """Whether what is hidden may be seen: a part is shown to study just that."""
        return True

    @property
    def lacks_key(self) -> bool:
        """Whether what is taken apart lacks its key."""
        return self.of.lacks_key

    def why_not_released(self) -> str:
        """Return that it protects nobody."""
        return f"Part: shows the {self.part} part for studies alone; release {type(self.of).__name__} itself"

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Show the part; arguments as in `Desensitizer.forward`. Parts other than `released` come without a mask."""
        out = self.of.forward(batch, draw_key)
        if self.part == "released":
            return out
        shown = out.copy()
        shown["mask"], shown["mask_index"] = None, batch["index"].new_zeros(len(batch["image"]))
        visible = _visible(out, batch["image"])
        shown["image"] = (
            visible.expand(-1, 3, -1, -1).contiguous()
            if self.part == "mask"
            else batch["image"] * (1 - visible)
        )
        return shown

    def describe(self) -> dict[str, object]:
        """Return which part of what."""
        return super().describe() | {"part": self.part, "of": self.of.describe()}


def _visible(out: Batch, image: Tensor) -> Tensor:
    """Return each image's mask `[B,1,H,W]`; all visible where there is none."""
    mask = out["mask"]
    if mask is None:
        return torch.ones_like(image[:, :1])
    return mask.index_select(0, out["mask_index"]).to(image.dtype)
