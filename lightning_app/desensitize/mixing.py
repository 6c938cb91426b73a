"""Mixing images of a batch, labels alike: MixUp, and InstaHide, which flips signs as well."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey, learnt
from lightning_app.core.owner_key import OwnerKey
from lightning_app.core.plain import Schema, is_count, is_hash, is_number
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.mixing_draws import Keys, mix, mix_weights, partners, random_signs

log = logging.getLogger("faceveil")
_MOST = 64  # images of a mix: more than anybody would recognise a face in
_ROUNDS = 4  # keys of `draws.secret`
_CLEAR = 0.9  # a coefficient above it leaves a picture of one face
_DECIMALS, _FAR = 6, 1e3  # of a cap and a mean that are released; the largest mean
_GREY = 0.5  # the mean of pixels in [0,1] that a FaceDataModule subtracts by default

Redraw = Literal["once", "epoch"]


class MixUp(Desensitizer):
    """Mix every image with k−1 others of its batch; their labels are mixed alike.

    The coefficients of a mix are half-normals |N(0,1)|, normalised to sum to one, of which the largest is at most
    `cap`. They are drawn by (key, index), once per image. The partners are drawn by (key, images of the batch): every
    image is in k mixes of its batch, never twice in one. So one key and one batch give one mix, whenever it comes. In
    `fit` the batches change from epoch to epoch, and the partners with them.

    Mixes where `DrawKey.mix` says so: training images. Verification, validation and `predict` get images unmixed. It
    follows any other method in a `Chain`. Under one mask for all images the mix keeps it; else it has none.

    Args:
        k: how many images are mixed, 2 to 64.
        cap: the largest coefficient, above 1/k and at most 1. The paper takes 0.55, MixUp and InstaHide 0.65.
        key: the owner's key file, of 64 hexadecimal digits and mode 0600; without one a random key that ends with the
            process. `openssl rand -hex 32` makes one.
        redraw: `once`: coefficients and signs are drawn once per image. `epoch`: anew in every epoch. Who sees what
            several epochs draw gets that many equations for the same images, and can solve for them.

    Raises:
        ValueError: k, cap or redraw is out of range.

    Source: Adaptive Hybrid Masking Strategy for Privacy-Preserving Face Recognition Against Model Inversion Attack,
    section 4.1; half-normals as in InstaHide's public code.
    """

    in_words = (
        "Several faces are laid over each other, each with its own strength, and so are their labels. Who trains "
        "on it never sees one face alone."
    )
    has_mask = False
    takes_any = True
    keyed = True

    def __init__(
        self, k: int = 2, cap: float = 0.55, key: str | Path | None = None, redraw: Redraw = "once"
    ) -> None:
        super().__init__()
        if not is_count(k, 2, _MOST):
            raise ValueError(f"k: {k} images in a mix; give 2 to {_MOST}")
        if not 1 / k < cap <= 1:
            raise ValueError(
                f"cap: {cap} is not above 1/k = {1 / k:.4g} and at most 1: of {k} coefficients that sum to one, the "
                "largest is at least 1/k (the paper takes 0.55)"
            )
        if redraw not in ("once", "epoch"):
            raise ValueError(f"redraw: {redraw!r} is neither 'once' nor 'epoch'")
        self.k, self.cap, self.redraw, self.path = k, cap, redraw, key
        self.mixes = k
        self._owner: OwnerKey | None = None
        self._told: str | None = None  # the key's hash, where it was made from its description
        self._pictures = True
        self._keys: tuple[int, dict[str, Keys]] = (-1, {})  # of an epoch

    @property
    def owner(self) -> OwnerKey:
        """The owner's key, read when it is first needed.

        Raises:
            FileNotFoundError, PermissionError, ValueError: it cannot be read, or it was made from a description.
        """
        if self._told is not None:
            raise ValueError(
                f"{type(self).__name__}: made from its description, which holds no key: it cannot mix"
            )
        if self._owner is None:
            self._owner = OwnerKey.of(self.path)
        return self._owner

    def prepare(self, size: tuple[int, int]) -> None:
        """Read the key, and say what it costs to draw anew in every epoch."""
        if self._told is None and self._owner is None and self.redraw == "epoch":
            log.warning(
                "%s: redraw: epoch draws every image's coefficients%s anew in every epoch. Who sees several epochs of "
                "mixes can solve for the images, and what noise promises holds for one of them alone.",
                type(self).__name__, self._also,
            )  # fmt: skip
        if self._told is None:
            _ = self.owner

    def after(self, is_image: bool) -> None:
        """Note what comes to it; what is no picture is not kept within [0,1]."""
        self._pictures = is_image

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Mix a batch, where the draw key says so; else pass it on.

        Args:
            batch: `image [B,C,H,W]`, `index [B]` of B different images; `target` or `identity` `[B]`, if there are any.
            draw_key: says whether to mix; None does not.

        Returns:
            A new dict: `image` mixed, `target [B,k]` and `weight [B,k]` float32, the image's own label first;
            `identity` as it was.

        Raises:
            ValueError: the batch has fewer than k images, or its labels are mixed already.
        """
        mixed = batch.copy()
        mixed.setdefault("mask", None)
        if "mask_index" not in mixed:
            mixed["mask_index"] = batch["index"].new_zeros(len(batch["image"]))
        if draw_key is None or not draw_key.mix:
            return mixed
        return self.mixed(mixed, draw_key, self.images_of(batch["index"], draw_key))

    def images_of(self, index: Tensor, draw_key: DrawKey) -> int:
        """Return k, the number of images in a mix.

        Args:
            index: `[B]` int64 numbers of its images.
            draw_key: of the batch.
        """
        return self.k

    def mixed(self, batch: Batch, draw_key: DrawKey, k: int) -> Batch:
        """Mix a batch of k images each; see `forward`.

        Args:
            batch: as `forward` takes it, with `mask` and `mask_index`.
            draw_key: of which the epoch counts, with `redraw: epoch`.
            k: images in a mix.

        Raises:
            ValueError: the batch has fewer than k images, or its labels are mixed already.
        """
        mixed = batch.copy()
        which, weight = self.draw(batch["index"], draw_key, k)
        if "target" in batch or "identity" in batch:
            target, shares = learnt(batch)
            if shares is not None:
                raise ValueError(
                    f"{type(self).__name__}: the batch's labels are mixed already; mix once, with a larger k"
                )
            mixed["target"], mixed["weight"] = target[which], weight
        image = mix(batch["image"], which, weight)
        mixed["image"] = (
            image.clamp_(0, 1) if self._pictures else image
        )  # the coefficients' last bit may not sum to 1
        if mixed["mask"] is not None and len(mixed["mask"]) > 1:
            mixed["mask"], mixed["mask_index"] = None, torch.zeros_like(mixed["mask_index"])
        return mixed

    def draw(
        self, index: Tensor, draw_key: DrawKey | None = None, k: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw who is mixed, and how much of each.

        Args:
            index: `[B]` int64 numbers of different images.
            draw_key: of which the epoch counts, with `redraw: epoch`.
            k: images in a mix; by default its own.

        Returns:
            Positions in the batch `[B,k]` int64, an image's own first; coefficients `[B,k]` float32, rows sum to 1.

        Raises:
            ValueError: B is below k.
        """
        k = self.k if k is None else k
        if len(index) < k:
            raise ValueError(
                f"{type(self).__name__}: mixes k={k} images of a batch, and this one has {len(index)}: give "
                "larger batches (data.global_batch_size, over all processes), more images, or a smaller k"
            )
        keys = self._drawn_from(draw_key)
        return partners(index, k, keys["partners"]), mix_weights(index, k, self.cap, keys["coefficients"])

    def _drawn_from(self, draw_key: DrawKey | None) -> dict[str, Keys]:
        """Derive the keys of each draw, of the epoch where that counts."""
        epoch = draw_key.epoch if draw_key is not None and self.redraw == "epoch" else 0
        if self._keys[0] != epoch:
            names = ("partners", "coefficients", "signs")
            made: dict[str, Keys] = {
                name: tuple(self.owner.integer("mix", name, epoch, n) for n in range(_ROUNDS))
                for name in names
            }
            self._keys = epoch, made
        return self._keys[1]

    _also = ""

    def describe(self) -> dict[str, object]:
        """Return method, k, cap, when it is drawn anew, and the key's hash."""
        return self.agreed() | {"key_hash": self.owner.hash if self._told is None else self._told}

    def agreed(self) -> dict[str, object]:
        """Return all but the key: every owner mixes with its own."""
        return {"method": type(self).__name__, "k": self.k, "cap": self.cap, "redraw": self.redraw}

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with a mix that may be little else than one face."""
        if description["cap"] <= _CLEAR:
            return []
        return [
            f"cap {description['cap']:g} lets a mix be one face's picture and little else; give 0.55, as the paper"
        ]

    @classmethod
    def for_one(cls, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the description of what changes nothing: a single image is not mixed."""
        return {"method": "Identity"}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of k and cap; without the key it passes images on, and cannot mix."""
        made = cls(description["k"], description["cap"], redraw=description["redraw"])
        made._told = str(description["key_hash"])
        return made

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: k, cap, when it is drawn, the key's hash."""
        return [{
            "k": (lambda v: is_count(v, 2, _MOST), f"a number of images from 2 to {_MOST}"),
            "cap": (lambda v: is_number(v, 0, 1, _DECIMALS), f"a share in (0,1] of {_DECIMALS} decimals at most"),
            "redraw": (lambda v: v in ("once", "epoch"), "once or epoch"),
            "key_hash": (is_hash, "the hash of a key"),
        }]  # fmt: skip


class InstaHide(MixUp):
    """Mix images as `MixUp` does, then flip the sign of every pixel and channel at random, of mean-subtracted images.

    What it returns is mean + σ·(mix − mean), σ = ±1, so that the images of verification, neither mixed nor with
    flipped signs, stay as they are. The signs are drawn by (key, index), once per image. They are not to be mirrored,
    so raw images are, before them.

    Args:
        k: how many images are mixed, 2 to 64; InstaHide's authors take 4, the paper 2.
        cap: the largest coefficient, see `MixUp`.
        key: the owner's key file, see `MixUp`.
        redraw: see `MixUp`; InstaHide's public code draws anew in every epoch.
        mean: what is subtracted before signs are flipped; by default 0.5 of pixels, as the data's `mean`, and 0 of a
            representation.

    Raises:
        ValueError: k, cap or redraw is out of range.

    Source: Huang et al., "InstaHide: Instance-hiding Schemes for Private Distributed Learning", ICML 2020; the paper,
    Table 1.
    """

    in_words = (
        "Several faces are laid over each other as in MixUp, and then the sign of every value is turned or left "
        "by the toss of a coin that the owner's key decides."
    )
    has_mask = False
    is_image = False
    flips = False
    flips_signs = True
    _also = " and signs"

    def __init__(
        self,
        k: int = 2,
        cap: float = 0.55,
        key: str | Path | None = None,
        redraw: Redraw = "once",
        mean: float | None = None,
    ) -> None:
        super().__init__(k, cap, key, redraw)
        if mean is not None and not is_number(mean, -_FAR, _FAR, None):
            raise ValueError(
                f"mean: {mean}; give a number from {-_FAR:g} to {_FAR:g}, of pixels one from 0 to 1, or leave it out"
            )
        self.mean = mean

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Mix a batch and flip signs, where the draw key says so; else pass it on. See `MixUp.forward`."""
        mixed = super().forward(batch, draw_key)
        if draw_key is None or not draw_key.mix:
            return mixed
        image = mixed["image"]
        signs = random_signs(batch["index"], image.shape[1:], self._drawn_from(draw_key)["signs"])
        mean = self.mean if self.mean is not None else _GREY if self._pictures else 0.0
        mixed["image"] = image.sub_(mean).mul_(signs).add_(mean) if mean else image.mul_(signs)
        return mixed

    @property
    def scale(self) -> tuple[float, float]:
        """Normalise signed pixels as pixels are: their mean is where signs were flipped."""
        return (_GREY, _GREY) if self._pictures else super().scale

    def look(self, image: Tensor) -> Tensor:
        """Show pixels with the signs they have, within [0,1]; of another number of channels see the base class."""
        return image.float().clamp(0, 1) if image.shape[1] == 3 else super().look(image)

    def agreed(self) -> dict[str, object]:
        """Return all but the key."""
        return super().agreed() | {"mean": self.mean}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of k, cap and mean; without the key it passes images on, and cannot mix."""
        made = super().from_description(description, mask)
        made.mean = description["mean"]
        return made

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return the grid of pictures: with signs flipped about the middle grey they stay in [0,1]."""
        return (255, 0) if description.get("mean") in (None, _GREY) else None

    @classmethod
    def shape(cls, description: Mapping[str, Any], size: int) -> tuple[int, int, int] | None:
        """Return the shape of pictures, which it takes."""
        return 3, size, size

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: what it may of MixUp, and the mean."""
        mean = (
            lambda v: v is None or is_number(v, -_FAR, _FAR, _DECIMALS),
            f"null or a number of {_DECIMALS} decimals at most",
        )
        return [{**one, "mean": mean} for one in super().entries(size, version)]
