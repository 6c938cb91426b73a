"""What stands for a masker that a trainer has not: it says how the images' masks came about, and makes none."""

from __future__ import annotations

from typing import Any

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.keyed import no_key
from lightning_app.release.format.manifest import Manifest


class OwnMasks(Desensitizer):
    """The method of a release whose images have a mask each, by its description alone.

    Released images come with their masks. Raw images cannot be put through it: that takes the masker.

    Args:
        manifest: the release's, with masks.
    """

    has_mask = True

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        assert manifest.masks is not None
        self._description = manifest.method

    @property
    def lacks_key(self) -> bool:
        """Whether raw images cannot be put through it: always."""
        return True

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Refuse: raw images need the masker.

        Raises:
            ValueError: always.
        """
        raise ValueError(no_masker(str(self._description["kind"])))

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of the method, its name first."""
        return {"method": self._description["method"], **self._description}


def no_masker(kind: str) -> str:
    """Return a line: that raw images cannot be verified on without the masker, and what to do.

    Args:
        kind: of the masks.
    """
    return (
        f"the release was made by LearnedMask of kind {kind}, whose masker is not here: raw images get no mask. Ask "
        "the owner for a release to verify on (LFWVerification's reader: datamodules.ReleasedPairs), or for the "
        "masker's checkpoint, and give it to the reader (own_desensitizer)"
    )


def no_way(desensitizer: Desensitizer) -> str:
    """Return why raw images cannot be put through what a release went through, and what to do.

    Args:
        desensitizer: that lacks the owner's key, or the masker.
    """
    description = desensitizer.describe()
    if isinstance(desensitizer, OwnMasks):
        return no_masker(str(description["kind"]))
    return no_key(str(description["method"]))
