"""A desensitizer as a release of representations uses it: checked beforehand, its values quantised batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.readers.base import FaceReader
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.tensors import MOST_CHANNELS, MOST_SIDE, DType, Stored
from lightning_app.release.write.desensitizing import Picture, stack
from lightning_app.release.write.keys import check_draws

_UNMIXED = 1e-3  # greatest weight that leaves a face as good as alone is 1 less this


class Made(NamedTuple):
    """What became of some images.

    Attributes:
        image: `[n,C,h,w]` as it is stored.
        labels: `[n,k]` int64 class indices of who is on each; k = 1 where nothing is mixed.
        weight: `[n,k]` float32; None where nothing is mixed.
        clipped: how many values were cut off, being beyond the grid.
    """

    image: NDArray[Any]
    labels: NDArray[np.int64]
    weight: NDArray[np.float32] | None
    clipped: int


def needs_tensors(desensitizer: Desensitizer, reader: FaceReader) -> bool:
    """Return whether what a desensitizer returns is released as tensors, not as PNG.

    It is where it is no picture, or has mixed labels; and keyed pictures of a list of pairs are, which a trainer
    without the key verifies on: the list is of the tensors' format.

    Args:
        desensitizer: the one in question.
        reader: the raw set.
    """
    keyed_pairs = reader.pairs is not None and desensitizer.keyed
    return not desensitizer.is_image or desensitizer.mixes > 1 or keyed_pairs


class Representer:
    """Desensitize batches of a reader's pixels as `FaceDataModule` does on the fly, on the CPU, and quantise them.

    There is no mask, hence no noise probe: every value depends on the face.

    Args:
        desensitizer: put into `eval()` and prepared.
        size: side of the images in pixels.
        dtype: how values are stored; None takes uint8 where the method has a grid (`Desensitizer.grid`), else float16.
        mix_once: mix images once for all, where the method mixes.
        key_file: whether a keyed method must have its key from a file; False for an audit's own check of a config.

    Attributes:
        stored: how values are stored.
        mixed: of how many images each is mixed; 1 of none.
        own_steps: `[C]`, to whose multiples the method itself rounds each channel; None where it does not.

    Raises:
        ValueError: of what it returns no release can be made; the message says why and what to do.
    """

    def __init__(
        self,
        desensitizer: Desensitizer,
        size: int,
        dtype: DType | None = None,
        mix_once: bool = False,
        key_file: bool = True,
    ) -> None:
        self._name = name = type(desensitizer).__name__
        self._desensitizer = desensitizer
        if not desensitizer.hides:
            raise ValueError(
                f"desensitizer: {name} changes nothing, the release would be the raw set; give another"
            )
        if why := desensitizer.why_not_released():
            raise ValueError(f"desensitizer: {why}")
        if desensitizer.mixes > 1 and not mix_once:
            raise ValueError(
                f"desensitizer: {name} mixes images of each batch anew in training; a release holds each image once, "
                "and unmixed it would hold each face alone. Give mix_once: true to mix once for all: mixed labels then "
                "travel with their shares, and tell who is in a mix and how much; the trainer sees one mix of each "
                "image, not another in every epoch. Or leave the mixing out"
            )
        if mix_once and desensitizer.mixes < 2:
            raise ValueError(f"mix_once: true, but {name} mixes nothing; leave it out")
        desensitizer.eval()
        desensitizer.to("cpu")
        desensitizer.prepare((size, size))
        self.mixed = desensitizer.mixes
        check_draws(desensitizer, key_file)
        self.stored = self._stored(desensitizer, size, dtype)
        steps = desensitizer.own_steps(size)
        self.own_steps = None if steps is None else steps.double().numpy()

    def _stored(self, desensitizer: Desensitizer, size: int, dtype: DType | None) -> Stored:
        channels, side = desensitizer.out_channels, desensitizer.out_size(size)
        if not (1 <= channels <= MOST_CHANNELS and 1 <= side <= MOST_SIDE):
            raise ValueError(
                f"desensitizer: {self._name} returns {channels} channels of {side} px; a release has at most "
                f"{MOST_CHANNELS} of {MOST_SIDE}"
            )
        grid = type(desensitizer).grid(desensitizer.describe())
        if dtype == "uint8" and grid is None:
            raise ValueError(
                f"dtype: uint8, but the values of {self._name} lie on no grid of 256 levels that serves all of them: "
                "give dtype: float16, or normalise them (BlockDCT: normalise: true)"
            )
        shape = (channels, side, side)
        if grid is None or dtype == "float16":
            return Stored("float16", shape)
        return Stored("uint8", shape, *grid)

    @torch.no_grad()
    def __call__(self, pixels: Sequence[Picture], labels: Sequence[int], numbers: Sequence[int]) -> Made:
        """Desensitize a batch and quantise it; where images are mixed, with each other.

        Args:
            pixels: B images, uint8 `[1,H,W]` or `[3,H,W]`, as `FaceReader.read` gives them.
            labels: B class indices.
            numbers: B numbers of the images in the reader, by which is drawn what is drawn per image.

        Raises:
            ValueError: the desensitizer breaks its contract: another shape, values that are not finite, labels that do
                not fit, a mask, an image as it was.
        """
        raw = stack(pixels)
        batch: Batch = {
            "image": raw.float().div_(255),
            "index": torch.from_numpy(np.array(numbers, np.int64)),
            "identity": torch.from_numpy(np.array(labels, np.int64)),
        }
        draw_key = DrawKey(mix=True) if self.mixed > 1 else None
        if self.mixed > len(pixels):
            raise ValueError(
                f"desensitizer: {self._name} mixes k={self.mixed} images, and only {len(pixels)} of a shard can be "
                "read; mend the set, or give a smaller k"
            )
        found = self._desensitizer.forward(batch, draw_key)
        image = found["image"]
        if image.shape != (len(pixels), *self.stored.shape):
            raise ValueError(
                f"desensitizer: {self._name} returned {list(image.shape)}, and says {list(self.stored.shape)} "
                "of an image"
            )
        if found.get("mask") is not None:
            raise ValueError(
                f"desensitizer: {self._name} returns no pictures, but a mask: a release cannot hold that"
            )
        image = image.float()
        if image.shape == raw.shape:
            self._refuse_raw(raw.float().div_(255), image, numbers)
        made, clipped = self.stored.store(image, self._desensitizer.has_tails)
        return Made(made, *self._labels(found, labels), clipped)

    def _refuse_raw(self, raw: torch.Tensor, made: torch.Tensor, numbers: Sequence[int]) -> None:
        """Refuse images that came out as they were."""
        same = (made - raw).abs().flatten(1).amax(1) < _UNMIXED
        same &= raw.flatten(1).amin(1) < raw.flatten(1).amax(1)
        if bool(same.any()):
            first = numbers[int(same.int().argmax())]
            raise ValueError(
                f"desensitizer: {self._name} left image number {first} as it was: it would be released clean; nothing "
                "of the batch is released"
            )

    def _labels(
        self, found: Batch, labels: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        own = np.array(labels, np.int64)[:, None]
        if self.mixed == 1:
            if "weight" in found or found["identity"].tolist() != list(labels):
                raise ValueError(f"desensitizer: {self._name} mixes labels, and does not say so (`mixes`)")
            return own, None
        target, weight = found.get("target"), found.get("weight")
        if (
            target is None
            or weight is None
            or target.shape != (len(own), self.mixed)
            or weight.shape != target.shape
        ):
            raise ValueError(
                f"desensitizer: {self._name} mixes {self.mixed} images, and returns no target and weight "
                f"[{len(own)}, {self.mixed}]"
            )
        shares = weight.float() + 0.0  # no zero with a sign
        if not bool((shares >= 0).all() & ((shares.sum(1) - 1).abs() < 1e-4).all()) or bool(
            (target[:, 0].numpy() != own[:, 0]).any()
        ):
            raise ValueError(
                f"desensitizer: {self._name} returned weights that are no shares, or another label than the "
                "image's first"
            )
        return target.numpy().astype(np.int64), shares.numpy()
