"""DCTDP: block DCT with Laplace noise, of a privacy budget that a recogniser learnt to spread over the frequencies."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import DrawKey
from lightning_app.core.laplace import PER_SCALE
from lightning_app.core.plain import Schema, is_hash, is_number
from lightning_app.desensitize.block_dct import BlockDCT, in_order, transform_entries
from lightning_app.desensitize.dct import block_dct, coefficient_ranges, from_ycbcr, images_at_a_time
from lightning_app.desensitize.noise import (
    NEXT_TO_NOTHING,
    KeyedNoise,
    Redraw,
    budget_faults,
    in_words,
    noise_entries,
)
from lightning_app.networks.budget_noise import shares_of
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.checkpoint_part import of_another
from lightning_app.runs.folder import read_given

log = logging.getLogger("faceveil")
LOGITS = "noise.logits"  # of the budget's shares, in the weights of a `DCTDPRecogniser`
_DIGITS = 6  # behind the point of `clip`: more could say something else
_SETTINGS = ("block", "upsample", "stride", "align_corners", "colour", "channels")


@dataclass(frozen=True)
class Budget:
    """How a privacy budget is spread over the channels of a block DCT.

    Attributes:
        shares: `[C]` float64, summing to 1.
        transform: settings of the `BlockDCT` whose channels they are.
        hash: SHA-256 of both, in hexadecimal.
        clip: share of what a coefficient can be beyond which it was cut off where the shares were learnt.
    """

    shares: Tensor
    transform: dict[str, Any]
    hash: str
    clip: float = 1.0

    @classmethod
    def of(cls, logits: Tensor, transform: Mapping[str, Any], clip: float = 1.0) -> Self:
        """Make it of a recogniser's logits.

        Args:
            logits: `[C]` float32.
            transform: settings of the `BlockDCT`.
            clip: see `DCTDP`.
        """
        shares = shares_of(logits.detach().cpu())
        settings = {key: transform[key] for key in _SETTINGS}
        content = json.dumps(settings, sort_keys=True).encode() + shares.numpy().tobytes()
        return cls(shares, settings, hashlib.sha256(content).hexdigest(), clip)


class DCTDP(BlockDCT):
    """Add Laplace noise to the channels of a block DCT, less where recognition needs it.

    First the owner trains a `lightning_app.models.DCTDPRecogniser`, which learns how to spread the budget. This class
    takes the frozen shares from its checkpoint, and draws the noise from the owner's key. A coefficient of channel c
    has ε_c = epsilon·C·share_c, so that the mean over channels is `epsilon`, and by composition an image has
    epsilon·C·h·w. Its noise has the scale range_c/ε_c; range_c is how far the coefficient can lie apart whatever the
    image is, by the transform alone and not by anybody's faces. Natural coefficients lie far closer to 0 than they
    could: `clip` cuts off what is larger, and there is as much less noise. **Shares were learnt from the owner's
    faces, without a promise of their own**: C numbers of all images together (docs/noise.md).

    What it returns cannot be mirrored, so training mirrors images before: an image and its mirror image count as two.
    Other augmentations make another image in every epoch, and spend the budget every time.

    Args:
        checkpoint: a `DCTDPRecogniser`'s, or the folder of its run; the transform is the one it was trained with.
        epsilon: budget of a coefficient, averaged over the channels; 3 in the paper.
        redraw: `once` per image; `epoch` draws anew in every epoch of training and spends the budget every time.
        key: the owner's key: a file of 64 hexadecimal digits, mode 0600 (`openssl rand -hex 32`). Without one a random
            key serves this process and ends with it.
        clip: share, above 0 and up to 1, of what a coefficient can be: what is larger is cut off before the noise. The
            promise stays, for it holds whatever the share is: choose it without looking at the faces. By default that
            which the shares were learnt under.

    Raises:
        ValueError: an option is out of range, or the checkpoint is damaged, holds more than weights, or is another
            model's.
        FileNotFoundError, PermissionError: checkpoint or key cannot be used.

    Source: A.2 of the adaptive hybrid masking paper; Ji et al., "Privacy-preserving face recognition with learnable
    privacy budgets in frequency domain", ECCV 2022.
    """

    in_words = (
        "Each small block of the picture is written as waves, and noise is added to each wave: less where "
        "recognition needs it, which the owner's network has learnt. What is released is no picture."
    )
    has_mask = False
    keyed = True
    has_tails = True

    def __init__(
        self,
        checkpoint: str | Path,
        epsilon: float = 3.0,
        redraw: Redraw = "once",
        key: str | Path | None = None,
        clip: float | None = None,
    ) -> None:
        self.budget = read_budget(checkpoint)
        self.clip = check_clip(self.budget.clip if clip is None else clip)
        super().__init__(**self.budget.transform)
        if len(self.budget.shares) != self.out_channels:
            raise ValueError(
                f"checkpoint {checkpoint}: spreads its budget over {len(self.budget.shares)} channels, and its "
                f"transform has {self.out_channels}: it is damaged"
            )
        self.noise = KeyedNoise("DCTDP", epsilon, redraw, key)
        self._values: int | None = None

    @property
    def epsilons(self) -> Tensor:
        """The budget of a coefficient of each channel: `[C]` float64, `epsilon` on average."""
        return self.budget.shares * len(self.budget.shares) * self.noise.epsilon

    def prepare(self, size: tuple[int, int]) -> None:
        """Check that blocks fill images of this size, and say what it costs to draw anew.

        Raises:
            ValueError: they do not.
        """
        height, width = (self.blocks.count(side) for side in size)
        if self._values is None:
            self.noise.tell(self.out_channels * height * width)
        self._values = self.out_channels * height * width

    def transform(self, planes: Tensor, index: Tensor, draw_key: DrawKey | None) -> Tensor:
        """Return the noisy channels of image planes.

        Args:
            planes: `[B,P,H,W]` float32, see `planes`.
            index: `[B]` int64, which does not count: noise is drawn by what the image shows.
            draw_key: of which `redraw: epoch` takes the epoch; None outside training.

        Returns:
            `[B,C,h,w]` float32, multiples of each channel's step.
        """
        found = block_dct(planes, self.blocks, self.keep)
        self._values = found[0].numel() if len(found) else self._values
        steps = self._steps(planes.shape[-2], planes.shape[-1]).float().to(found.device)[:, None, None]
        # a coefficient lies between −range/2 and range/2 (the steps are as much smaller as is cut off); rounded it
        # shall not lie further apart
        most = (self.epsilons * PER_SCALE / 2).floor().float().to(found.device)[:, None, None]
        settings = {"budget": self.budget.hash} | ({} if self.clip == 1 else {"clip": repr(self.clip)})
        shown = (
            planes if planes.shape[1] == 1 else from_ycbcr(planes)
        )  # chroma lies on no grid, see `image_hash`
        for part, own in zip(*(x.split(images_at_a_time(found)) for x in (found, shown)), strict=True):
            part.div_(steps).round_().clamp_(-most, most)
            self.noise.add(part.flatten(1), PER_SCALE, own, settings, draw_key)
            part.mul_(steps)
        return found

    def _steps(self, height: int, width: int) -> Tensor:
        """Return a 1024th of each channel's scale of noise: `[C]` float64."""
        ranges = coefficient_ranges(self.blocks, self.keep, (height, width)) * self.clip
        return ranges / self.epsilons / PER_SCALE

    def own_steps(self, size: int) -> Tensor:
        """Return the step of each channel's grid, see `Desensitizer.own_steps`: `[C]` float64.

        Args:
            size: side of the images in pixels.
        """
        return self._steps(size, size)

    def describe(self) -> dict[str, object]:
        """Return method and transform, the budget and its shares' hash, what is cut off, and the key's hash."""
        description = {
            key: value for key, value in super().describe().items() if key not in ("dc", "normalise")
        }
        description |= self.noise.describe(self._values) | {"budget_hash": self.budget.hash}
        return description if self.clip == 1 else description | {"clip": self.clip}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Refuse: neither the shares nor the owner's key are in a description.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{cls.__name__} cannot be made from its description: the budget's shares and the owner's key are not in it"
        )

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return None: every channel has another scale of noise, which the description does not tell."""
        return None

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with noise that is small."""
        epsilon = description["epsilon"]
        if epsilon <= NEXT_TO_NOTHING:
            return []
        return [
            f"epsilon {epsilon:g} adds noise of a scale of less than 1/{NEXT_TO_NOTHING:g} of a coefficient's "
            "range on average: its channels are the image"
        ]

    @classmethod
    def inconsistencies(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return which budgets are not those of an image's coefficients together."""
        try:
            shape = cls.shape(description, size)
        except ValueError:  # blocks that do not fill the images, which an audit says by itself
            return []
        return budget_faults(description, None if shape is None else math.prod(shape))

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return how channels are made of an image, and that they have noise."""
        clip = description.get("clip", 1)
        cut = "" if clip == 1 else f" Then cut every coefficient off beyond {clip:g} of what it can be."
        return f"{super().recipe(description)}{cut} Then every coefficient has noise. {in_words(description)}"

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a description may say of it."""
        own: Schema = {
            **transform_entries(),
            **noise_entries(),
            "budget_hash": (is_hash, "a hash of 64 digits"),
        }
        clipped: Schema = {
            "clip": (
                lambda v: is_number(v, 0, 1, _DIGITS) and v < 1,
                f"a share above 0 and below 1 of {_DIGITS} digits at most",
            )
        }
        return [{**own, **clipped}, own]


def check_clip(clip: float) -> float:
    """Return a share of what coefficients can be.

    Raises:
        ValueError: it is not above 0 and up to 1.
    """
    if not is_number(clip, 0, 1, _DIGITS):
        raise ValueError(
            f"clip: {clip}; give a share above 0 and up to 1 (1 cuts nothing off), of {_DIGITS} digits at most"
        )
    return float(clip)


def read_budget(checkpoint: str | Path) -> Budget:
    """Read how a recogniser spreads its budget. Nothing in the file is run.

    Args:
        checkpoint: a `DCTDPRecogniser`'s, or the folder of its run, of which `checkpoints/last.ckpt` is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is another model's.
    """
    path = Path(checkpoint)
    _, found = read_given(path)
    logits = found["state_dict"].get(LOGITS)
    data = found.get(DATA_STATE)
    description = data.get("desensitizer") if isinstance(data, dict) else None
    if not isinstance(logits, Tensor) or not isinstance(description, dict):
        raise of_another(found, f"checkpoint {path}", "a DCTDPRecogniser", "lfwa_quick_dctdp_budget.yaml`")
    damaged = f"checkpoint {path}: what it says of its budget is damaged"
    if logits.ndim != 1 or logits.dtype != torch.float32 or not bool(logits.isfinite().all()):
        raise ValueError(f"{damaged}: its logits are no row of finite numbers")
    description = description | {
        "channels": in_order(description.get("channels"))
    }  # once kept as it was given
    for name, (check, wanted) in transform_entries().items():
        if name not in description or not check(description[name]):
            raise ValueError(f"{damaged}: {name} of its BlockDCT is not {wanted}")
    if (
        description.get("method") != "BlockDCT"
        or description.get("normalise") is not False
        or description.get("dc") is not False
    ):
        raise ValueError(f"{damaged}: it was trained on other channels than those of BlockDCT alone")
    clip = (found.get("hyper_parameters") or {}).get("clip", 1.0)
    if not is_number(clip, 0, 1, _DIGITS):
        raise ValueError(f"{damaged}: clip is no share above 0 and up to 1")
    return Budget.of(logits, description, float(clip))
