"""Hiding pixels under masks that a trained masker makes: one for all images, one of a few, or one for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_app.core import draws
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.image_memory import ImageMemory
from lightning_app.core.owner_key import OwnerKey
from lightning_app.core.plain import Schema
from lightning_app.desensitize.base import Desensitizer
from lightning_app.desensitize.learned_entries import (
    DECIMALS,
    bits_of,
    derived,
    each_entries,
    population_entries,
)
from lightning_app.desensitize.mask_each import MaskEach
from lightning_app.desensitize.mask_kinds import MASK_KINDS, Kind, mask_kind
from lightning_app.desensitize.masker import Masker, load_masker
from lightning_app.desensitize.public_choice import Choice, chances, check_settings, worth
from lightning_app.masks.bits import pack_masks, size_text, unpack_masks
from lightning_app.masks.io import load_mask, mask_hash
from lightning_app.masks.learned import (
    FEWEST_FACES,
    Growth,
    check_share,
    shown_pixels,
    top_mask,
)

log = logging.getLogger("faceveil")
_KEYS = 4  # of `draws.secret`
_ROUNDS = 4  # of core_first, of a masker that was trained without


class LearnedMask(MaskEach):
    """Multiply images by masks of a trained masker: hidden pixels are exactly 0, visible ones stay as they are.

    The masks come in four kinds, which differ in what a mask may tell of the pixels under it:

    - `population`: one mask for all images: the pixels of the highest mean score over K training faces. It tells
      nothing of an image.
    - `codebook`: C public masks, made of K training faces; each image gets one of them. It tells at most log₂ C bits.
    - `core_first`: a mask for each image, grown in rounds from a core around the centre. Each round looks at what is
      already shown and at nothing else, so that what is hidden in the end reaches nothing.
    - `free`: the third paper's: a mask for each image, made of the whole image. Its shape may be a drawing of what it
      hides: it can tell log₂ of the number of all masks, which is no bound at all.

    Exactly as many pixels of each image are shown as `share` says. A release can be made of all kinds; of `free` with
    --accept-interference alone.

    Args:
        checkpoint: checkpoint of an `AdversarialMasker`: a `.ckpt`, or the folder of a run.
        share: share of the pixels that are shown, in (0,1), of 6 decimals; by default as in the masker's training. Mask
            ratio is 1 − share, or a little more.
        kind: see above.
        choice: how `codebook` picks a mask: `best`, the one that covers most of the masker's own for the image; or
            `exponential`, a random one that is the likelier the more it covers: the choice is then ε-locally private.
        epsilon: ε of `exponential`, above 0.
        key: the owner's key file, which `exponential` draws from; without one a random key that ends with the process.
        rounds: rounds of `core_first`; by default as in the masker's training, or 4.
        core: share of the shown pixels that the start core of `core_first` takes; by default as in the training.
        remember: keep the masks of images that were seen (256 MB of them at most), so that a training asks the masker
            once for each image and not in every epoch. For images that stay the same from epoch to epoch.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no masker's, an argument is out of range or does not go with the kind, or images are of
            another size than those of the masker's training.

    Source: Gupta et al., Adversarial Mask Generation for Preserving Visual Privacy (`free`); the other kinds are ours.
    """

    in_words = (
        "A network has learnt which pixels recognition needs least; those are painted black, as many in each "
        "face."
    )
    has_mask: bool | None = True
    hides_only = True
    explains_masks = True
    mask: Tensor | None  # [M,1,H,W] float32: population's one, codebook's C

    def __init__(
        self,
        checkpoint: str | Path,
        share: float | None = None,
        kind: Kind = "population",
        choice: Choice = "best",
        epsilon: float | None = None,
        key: str | Path | None = None,
        rounds: int | None = None,
        core: float | None = None,
        remember: bool = False,
    ) -> None:
        super().__init__()
        check_settings(kind, choice, epsilon, key, rounds, core, remember)
        masker = load_masker(checkpoint)
        self.kind, self.choice, self.epsilon = kind, choice, epsilon
        self.promises = MASK_KINDS[kind]
        asked = masker.share if share is None else share
        check_share(asked)
        self.share = round(asked, DECIMALS)
        if not 0 < self.share < 1:
            raise ValueError(f"share={asked}: give {DECIMALS} decimals at most")
        own = masker.growth
        # means and codes were made of masks that grew as in the training
        self.growth = own if kind != "free" else Growth(0, own.core)
        if kind == "core_first":
            self.growth = Growth(
                rounds or own.rounds or _ROUNDS, round(own.core if core is None else core, DECIMALS)
            )
        if not MASK_KINDS[kind].public and (own.rounds > 0) != (kind == "core_first"):
            looked = "what was already shown" if own.rounds else "whole images"
            log.warning(
                "LearnedMask: kind %s, of a masker that was trained to look at %s; train one with rounds: %s.",
                kind, looked, 0 if own.rounds else _ROUNDS,
            )  # fmt: skip
        self.owner = OwnerKey.of(key) if choice == "exponential" else None
        self.keyed = self.owner is not None
        self._promise()
        self._facts: dict[str, Any] = {"masker_hash": masker.hash}
        if self.promises.public:
            self._facts["faces"] = masker.faces
        self._masker: list[Masker] = [masker]  # in a list: its network moves when `forward` says so
        self._memory = ImageMemory() if remember else None
        self.size: tuple[int, int] | None = None
        self.register_buffer("mask", None, persistent=False)

    def _promise(self) -> None:
        """Take back, for kinds whose masks depend on what they hide, what the class promises."""
        if self.promises.interferes:
            self.has_mask, self.hides_only = None, False

    def prepare(self, size: tuple[int, int]) -> None:
        """Make the mask or masks that are the same for all images, and check that the images fit the masker.

        Args:
            size: (height, width) of the images.

        Raises:
            ValueError: the masker was trained on another size.
        """
        if self.size is not None:
            self._check_size(size, self.size)
            return
        (masker,) = self._masker
        self._check_size(size, (masker.input_size, masker.input_size))
        shown = shown_pixels(self.share, size)
        if self.kind == "population":
            self.mask = top_mask(masker.mean[None, None], shown)
        elif self.kind == "codebook":
            masks = top_mask(masker.codes[:, None], shown)
            # two means may show the same pixels: a mask counts once, so that the bound in bits is tight
            self.mask = torch.stack(list({mask_hash(mask): mask for mask in masks}.values()))
        self.size = size

    def _check_size(self, size: tuple[int, int], own: tuple[int, int]) -> None:
        if size != own:
            raise ValueError(
                f"LearnedMask: the masker was trained on images of {size_text(own)}, these are {size_text(size)} "
                "(height×width): set the images' size to the masker's, or train one at theirs"
            )

    @property
    def data(self) -> dict[str, Any]:
        """Return what the checkpoint says of the images that its masker was trained on; empty where there is none."""
        return self._masker[0].data if self._masker else {}

    @property
    def bits(self) -> float:
        """Bits that the mask of an image may tell of the pixels that it hides; prepared."""
        assert self.size is not None, "prepare came before"
        masks = 1 if self.mask is None else len(self.mask)
        return bits_of(self.kind, self.size, self.share, masks, self.epsilon)

    @property
    def shared_mask(self) -> Tensor | None:
        """The one mask `[1,1,H,W]` of kind `population`, once prepared."""
        return self.mask if self.promises.one_for_all else None

    @property
    def masks_each(self) -> bool:
        """Whether each image gets a mask of its own: of all kinds but `population`."""
        return not self.promises.one_for_all

    @property
    def interference(self) -> str:
        """What of `free` a release must say: the mask is made of what it hides."""
        return "" if self.promises.bounded else f"LearnedMask of kind {self.kind}: {self.promises.interferes}"

    def why_not_released(self) -> str:
        """Return why no release can be made of it: its public masks are means over too few faces."""
        faces = int(self._facts.get("faces", FEWEST_FACES))
        if faces >= FEWEST_FACES:
            return ""
        what = "its mask is the mean" if self.promises.one_for_all else "its public masks are means"
        return (
            f"LearnedMask: {what} over {faces} faces, and may show what single ones look like; train the masker on "
            f"{FEWEST_FACES} or more"
        )

    @torch.no_grad()
    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Hide pixels of a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1], `index [B]`; other entries are passed on.
            draw_key: not used: what is drawn is a function of the owner's key and the image's number.

        Returns:
            A new dict: `image` with hidden pixels 0; `mask` `[1,1,H,W]` of `population`, `[C,1,H,W]` of `codebook`,
            `[B,1,H,W]` of the others, with `mask_index [B]`.
        """
        image = batch["image"]
        # the first batch may be a validation's, but the masks serve training too
        with torch.inference_mode(False):
            self.prepare((int(image.shape[-2]), int(image.shape[-1])))
            if self.mask is not None and self.mask.device != image.device:
                self.to(image.device)
            mask, which = self._masks(image, batch["index"])
        desensitized = batch.copy()
        desensitized["image"] = image * (mask if len(mask) == 1 else mask.index_select(0, which))
        desensitized["mask"], desensitized["mask_index"] = mask, which
        return desensitized

    def _masks(self, image: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks `[M,1,H,W]`, and which lies on each image `[B]`."""
        if self.kind == "population":
            assert self.mask is not None, "prepare came before"
            return self.mask, torch.zeros(len(index), dtype=torch.int64, device=image.device)
        if self.kind == "codebook":
            public = self.mask
            assert public is not None

            def make(raw: Tensor) -> Tensor:
                return worth(public, self.made(raw))

            worths = make(image) if self._memory is None else self._memory.rows(image, make)
            return public, self._chosen(worths, index)
        which = torch.arange(len(index), device=image.device)
        if self._memory is None:
            return self.made(image), which
        assert self.size is not None
        bits = self._memory.rows(image, lambda raw: pack_masks(self.made(raw)))
        return unpack_masks(bits.to(image.device), self.size), which

    def made(self, image: Tensor) -> Tensor:
        """Have the masker make of each image its mask; of kind `codebook` its soft mask. Prepared.

        Args:
            image: `[B,3,H,W]` float in [0,1].

        Returns:
            `[B,1,H,W]` float32, of 0 and 1 or in [0,1].
        """
        (masker,) = self._masker
        assert self.size is not None
        return masker.masks(
            image, shown_pixels(self.share, self.size), self.growth, soft=self.kind == "codebook"
        )

    def possible(self, image: Tensor, within: Tensor | None = None) -> Iterator[Tensor]:
        """Yield what `made` may make of one image on another machine, the likeliest first. Prepared."""
        (masker,) = self._masker
        assert self.size is not None
        shown = shown_pixels(self.share, self.size)
        yield from masker.possible(image, shown, self.growth, within, soft=self.kind == "codebook")

    def choose(self, soft: Tensor, index: Tensor) -> Tensor:
        """Choose one of the public masks for each image, of kind `codebook`, see `public_choice`.

        Args:
            soft: `[B,1,H,W]` in [0,1], the masker's own for each image.
            index: `[B]` numbers of the images.

        Returns:
            `[B]` int64 into the masks.
        """
        assert self.mask is not None, "prepare came before"
        return self._chosen(worth(self.mask, soft), index)

    def _chosen(self, worths: Tensor, index: Tensor) -> Tensor:
        if self.owner is None or self.epsilon is None:
            return worths.argmax(1)
        likely = chances(worths, self.epsilon)
        return (self._drawn(index) >= likely).sum(1).clamp(max=likely.shape[1] - 1)

    def _drawn(self, index: Tensor) -> Tensor:
        """Return what is drawn for each image by the owner's key, `[B,1]` float64 in [0,1)."""
        assert self.owner is not None
        keys = [self.owner.integer("LearnedMask", number) for number in range(_KEYS)]
        return draws.as_uniform(draws.secret(index, keys)).double()[:, None]

    def may_choose(self, soft: Tensor, index: Tensor, code: int, slack: float) -> bool:
        """Return whether `choose` may choose this public mask for one image, were its worth rounded otherwise."""
        assert self.mask is not None, "prepare came before"
        found = worth(self.mask, soft)
        if self.owner is None or self.epsilon is None:
            return bool(found.max() - found[0, code] <= slack)
        likely, drawn = chances(found, self.epsilon)[0], float(self._drawn(index))
        low = 0.0 if code == 0 else float(likely[code - 1])
        return low - slack <= drawn <= float(likely[code]) + slack

    def describe(self) -> dict[str, object]:
        """Return method, kind, share and the masker's hash; once prepared the bound in bits, and facts of its masks."""
        described: dict[str, object] = {"method": type(self).__name__, "kind": self.kind, "share": self.share}
        described |= self._facts
        if self.kind == "core_first":
            described |= {"rounds": self.growth.rounds, "core": self.growth.core}
        if self.kind == "codebook":
            described |= {"choice": self.choice}
        if self.owner is not None:
            described |= {"epsilon": self.epsilon, "key_hash": self.owner.hash}
        if self.size is None:
            return described
        return described | derived(described, self.size, self.mask)

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of the file of its one mask, of kind `population`: without the masker.

        A release of the other kinds is put through its masker again by `with_masker`.

        Raises:
            ValueError: it is of another kind, there is no mask, or the mask is not the one described.
        """
        if description.get("kind") != "population":
            raise ValueError(
                "its masks come from a masker: give its checkpoint, the description is not enough"
            )
        if mask is None:
            raise ValueError(
                "its mask came from a masker: give the mask, the description alone is not enough"
            )
        one = load_mask(mask)
        size = int(one.shape[-2]), int(one.shape[-1])
        share = float(description["share"])
        wanted = description.get("mask_hash")
        if wanted is not None and mask_hash(one) != wanted:
            raise ValueError(f"{mask} is not the mask described: its hash is {mask_hash(one)[:12]}")
        if int(one.sum()) != shown_pixels(share, size):
            raise ValueError(f"{mask} does not show the share of pixels that is described, {share:g}")
        made = cls.__new__(cls)
        Desensitizer.__init__(made)
        made.kind, made.choice, made.epsilon, made.owner = "population", "best", None, None
        made.share, made.growth, made._masker, made.size = share, Growth(), [], size
        made._memory = None
        made._facts = {key: description[key] for key in ("masker_hash", "faces")}
        made.register_buffer("mask", one[None], persistent=False)
        return made

    @classmethod
    def with_masker(
        cls, description: Mapping[str, Any], checkpoint: str | Path, key: str | Path | None = None
    ) -> Self:
        """Make it of its description and its masker's checkpoint, and hold the one against the other; prepared."""
        described = dict(description)
        core = {name: described[name] for name in ("rounds", "core") if name in described}
        chosen = {name: described[name] for name in ("choice", "epsilon") if name in described}
        made = cls(checkpoint, described["share"], described["kind"], key=key, **core, **chosen)
        made.prepare((described["size"][0], described["size"][1]))
        ours = made.describe()
        odd = sorted(name for name in ours.keys() | described.keys() if ours.get(name) != described.get(name))
        if "masker_hash" in odd:
            raise ValueError(
                f"checkpoint {checkpoint}: its masker's hash is {str(ours['masker_hash'])[:12]}, the release was made "
                f"by {str(described.get('masker_hash'))[:12]}: give that one"
            )
        if odd:
            raise ValueError(
                f"checkpoint {checkpoint}: of it comes another {', '.join(odd)} than the release has"
                + (
                    "; the key that the masks were drawn with is named by --config"
                    if "key_hash" in odd
                    else ""
                )
            )
        return made

    @classmethod
    def one_mask(cls, description: Mapping[str, Any], checkpoint: str | Path, size: int) -> Tensor | None:
        """Make the mask of kind `population` again of its masker's checkpoint."""
        made = cls(checkpoint, share=float(description["share"]), kind="population")
        made.prepare((size, size))
        return made.mask

    @classmethod
    def describes_each(cls, description: Mapping[str, Any]) -> bool:
        """Return whether the kind described is any but `population`."""
        return not mask_kind(description).one_for_all

    @classmethod
    def needs_file(cls, description: Mapping[str, Any]) -> bool:
        """Return True: its description is not enough, its masks come from a masker."""
        return True

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it, of kind `population`: what its mask is, and of which masker."""
        return [population_entries(size)]

    @classmethod
    def entries_each(cls, size: int) -> list[Schema]:
        """List what a manifest may say of the other kinds."""
        return each_entries(size)
