"""Eigenfaces of other people: principal components and the bounds of their coefficients, in a file of safetensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.core.laplace import image_hash
from lightning_app.desensitize.dct import grey

FORMAT = "eigenfaces/2"  # metadata `faceveil` of the file
SMALLEST, LARGEST = 8, 128  # side of the small grey faces in pixels
EACH = 4  # images for each component, at least: of fewer a component may be somebody's face
MOST_BYTES = 1 << 30
_PUBLIC = [311, 1213, 4177, 7919]  # keys that anybody may know: with them equal images are found
_TENSORS = ("components", "mean", "low", "high", "seen")


@dataclass(frozen=True)
class Eigenfaces:
    """Principal components of small grey faces, and the range of each coefficient among them.

    No image is in it: components and mean are of all images together, and an image has left a hash of 64 bits.

    Attributes:
        components: `[K,n]` float32, rows of length 1; n = side².
        mean: `[n]` float32, of faces in [0,1].
        low: `[K]` float32, the least coefficient.
        high: `[K]` float32, the greatest.
        seen: `[N]` int64, hashes of the images, ascending.
    """

    components: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    seen: Tensor

    @property
    def side(self) -> int:
        """Side of the small faces in pixels."""
        return math.isqrt(self.components.shape[1])

    @property
    def set_hash(self) -> str:
        """Return which set of images it was made from: SHA-256 of their hashes."""
        return hashlib.sha256(self.seen.numpy().tobytes()).hexdigest()

    @property
    def hash(self) -> str:
        """SHA-256 of all of it."""
        found = hashlib.sha256()
        for name in _TENSORS:
            found.update(getattr(self, name).contiguous().numpy().tobytes())
        return found.hexdigest()

    @classmethod
    def of(cls, batches: Iterable[Tensor], components: int = 64, side: int = 32) -> Self:
        """Compute them, batch by batch; the faces are not held in memory, their small grey copies are.

        Args:
            batches: uint8 `[B,3,H,W]` each: faces of people whose images will never go through it.
            components: K.
            side: side of the small grey faces in pixels.

        Raises:
            ValueError: an argument is out of range, or there are too few images.

        Source: Turk and Pentland, "Eigenfaces for recognition", 1991.
        """
        if not SMALLEST <= side <= LARGEST:
            raise ValueError(f"side: {side} pixels; give {SMALLEST} to {LARGEST}")
        if not 1 <= components <= side**2:
            raise ValueError(f"components: {components}; give 1 to {side**2}, the pixels of a small face")
        faces, seen = [], []
        for batch in batches:
            image = batch.float() / 255
            seen.append(fingerprints(image))
            faces.append(small_grey(image, side))
        count = sum(len(one) for one in faces)
        if count < EACH * components:
            raise ValueError(
                f"components: {components} of {count} images; give at least {EACH} images for each, so that no "
                "component is somebody's face"
            )
        small = torch.cat(faces).double()
        mean = small.mean(0)
        small -= mean
        _, vectors = torch.linalg.eigh(small.mT @ small)
        rows = vectors.mT.flip(0)[:components].contiguous()
        rows *= rows.sum(1, keepdim=True).sign() + (rows.sum(1, keepdim=True) == 0)  # one of two signs
        found = small @ rows.mT
        return cls(
            rows.float(), mean.float(), found.amin(0).float(), found.amax(0).float(), torch.cat(seen).unique()
        )

    def write(self, path: str | Path) -> Path:
        """Write the file, whole or not at all, for its owner alone (mode 0600).

        Args:
            path: where to; missing folders are made.
        """
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        return write_atomically(path, save(tensors, {"faceveil": FORMAT}), mode=PRIVATE)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the file; nothing in it is run.

        Args:
            path: what `python main.py eigenfaces` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged or no file of eigenfaces.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"eigenfaces {path}: no such file; `python main.py eigenfaces --config lfwa_eigenfaces.yaml` makes one "
                "of other people's faces"
            )
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(
                f"eigenfaces {path}: is larger than {MOST_BYTES >> 20} MB, which none of ours is"
            )
        try:
            with safe_open(path, framework="pt") as opened:
                description = opened.metadata() or {}
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
        except SafetensorError as error:
            raise ValueError(
                f"eigenfaces {path}: the file is truncated or no safetensors ({error})"
            ) from error
        if description.get("faceveil") != FORMAT or {*found} != {*_TENSORS}:
            raise ValueError(f"eigenfaces {path}: holds no eigenfaces ({FORMAT}); make it by `eigenfaces`")
        made = cls(**found)
        if flaw := made._flaw():
            raise ValueError(f"eigenfaces {path}: is damaged: {flaw}; make it again")
        return made

    def _flaw(self) -> str | None:
        rows, seen = self.components, self.seen
        if rows.ndim != 2 or not 1 <= rows.shape[0] <= rows.shape[1]:
            return f"components are {list(rows.shape)}"
        count, pixels = rows.shape
        if self.side**2 != pixels or not SMALLEST <= self.side <= LARGEST:
            return f"components of {pixels} pixels are no squares of {SMALLEST} to {LARGEST} pixels a side"
        for name, shape in (("mean", (pixels,)), ("low", (count,)), ("high", (count,))):
            if getattr(self, name).shape != shape:
                return f"{name} is {list(getattr(self, name).shape)}, not {list(shape)}"
        floats = (rows, self.mean, self.low, self.high)
        if any(one.dtype != torch.float32 or not bool(one.isfinite().all()) for one in floats):
            return "its values are no finite numbers of 32 bits"
        if not bool((self.high > self.low).all()):
            return "a coefficient has no range"
        if not torch.allclose(rows.double() @ rows.double().mT, torch.eye(count).double(), atol=1e-3):
            return "its components are not orthonormal"
        if seen.dtype != torch.int64 or seen.ndim != 1 or len(seen) < EACH * count:
            return f"it was made of fewer than {EACH} images a component"
        return None


def small_grey(image: Tensor, side: int) -> Tensor:
    """Make small grey faces: `[B,3,H,W]` float in [0,1] → `[B,side²]` float32 in [0,1]."""
    small = F.interpolate(grey(image), (side, side), mode="bilinear", antialias=True, align_corners=False)
    return small.clamp(0, 1).flatten(1)


def fingerprints(image: Tensor) -> Tensor:
    """Hash images, so that equal ones are found: `[B,3,H,W]` float in [0,1] → `[B]` int64."""
    return image_hash(image, _PUBLIC)
