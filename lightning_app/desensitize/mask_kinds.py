"""The kinds of learned masks: what each promises of the pixels that its masks hide, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["population", "codebook", "core_first", "free"]


@dataclass(frozen=True)
class MaskKind:
    """What release, audit and checkpoints need to know of a kind.

    Attributes:
        one_for_all: every image has the same mask.
        public: its masks are made of training faces, before an image is seen; else the masker makes them of the image.
            Where there are several, the release has them all.
        looks_at_shown: a mask is a function of the pixels that it shows, so noise under it changes nothing.
        bounded: it is known how many bits of what it hides a mask may tell; else a release takes accept_interference.
        interferes: in words, how the mask of an image depends on what it hides; empty where it does not.
        probed: what the noise probe of a release has shown.
        unproven: what an audit without the raw set leaves open.
    """

    one_for_all: bool = False
    public: bool = False
    looks_at_shown: bool = False
    bounded: bool = True
    interferes: str = ""
    probed: str = "passed with every batch: no hidden pixel reaches a visible one"
    unproven: str = "that the masks are their masker's"


MASK_KINDS: Mapping[Kind, MaskKind] = {
    "population": MaskKind(
        one_for_all=True,
        public=True,
        looks_at_shown=True,
        unproven="that the mask is its masker's, made of many faces and not of one",
    ),
    "codebook": MaskKind(
        public=True,
        interferes="which of the public masks lies on an image depends on the whole image",
        probed="passed under masks held fast; which of the public masks lies on an image depends on all of it",
    ),
    "core_first": MaskKind(
        looks_at_shown=True,
        probed="passed with every image: noise under a mask changes neither the mask nor a visible pixel",
        unproven="that no mask depends on what it hides",
    ),
    "free": MaskKind(
        bounded=False,
        interferes="an image's mask depends on what it hides",
        probed="none: a mask depends on what it hides, and may be a drawing of it",
    ),
}


def mask_kind(description: Mapping[str, object]) -> MaskKind:
    """Return what the kind in a description promises; of a kind that there is not, nothing.

    Args:
        description: of a `LearnedMask`, as its release's manifest has it.
    """
    return next((kind for name, kind in MASK_KINDS.items() if name == description.get("kind")), MaskKind())
