"""What stands for a method whose owner's key a trainer has not: it says what its images are, and makes none."""

from __future__ import annotations

from typing import Any

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.tensors import Stored, Tensors


class WithoutKey(Desensitizer):
    """The method of a release of representations, by its description alone.

    A recogniser is built and trained on it, and its checkpoint says by what method and key its images were made. Raw
    images cannot be put through it: that takes the owner's key.

    Args:
        manifest: the release's, with tensors.
    """

    has_mask = False
    is_image = False
    flips = False
    keyed = True

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        assert manifest.tensors is not None
        self._description, self._tensors, self._size = manifest.method, manifest.tensors, manifest.size
        self.out_channels = manifest.tensors.shape[0]
        self.is_image = manifest.tensors.stored == Stored("uint8", (3, self._size, self._size), 255, 0)

    @property
    def called(self) -> str:
        """What messages call it: the class that made the release."""
        return str(self._description["method"])

    @property
    def lacks_key(self) -> bool:
        """Whether it lacks the owner's key: always."""
        return True

    @property
    def tensors(self) -> Tensors:
        """Return what the manifest says of the release's tensors."""
        return self._tensors

    def out_size(self, size: int) -> int:
        """Return the side of its images.

        Raises:
            ValueError: the raw images had another size than those of the release.
        """
        if size != self._size:
            raise ValueError(f"the release was made of images of {self._size} px, not {size}")
        return self._tensors.shape[1]

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Refuse: raw images need the owner's key.

        Raises:
            ValueError: always.
        """
        raise ValueError(no_key(str(self._description["method"])))

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of the method, its name first."""
        return {"method": self._description["method"], **self._description}


def no_key(method: str) -> str:
    """Return a line: that raw images cannot be verified on without the owner's key, and what to do.

    Args:
        method: class of the desensitizer.
    """
    return (
        f"the release was made by {method} with the owner's key, which is not here: raw images cannot be made what its "
        "network takes. Ask the owner for a release to verify on (LFWVerification's reader: "
        "datamodules.ReleasedPairs) or "
        "to verify the checkpoint himself; the owner gives the method with its key to the reader (own_desensitizer)"
    )
