"""What every way to desensitize an image set looks like from outside, and what others need to know of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.owner_key import OwnerKey
from lightning_app.core.plain import Schema
from lightning_app.desensitize.given import given_hash, remembering

LEAST_HIDDEN = 0.1  # of the pixels: a mask, or a blurred centre, of less leaves a clean face
# pixels a side that recognisers take: a mosaic of more blocks, or a blur as fine, is a clean face
SHARPEST = 112
# What a class promises of the safety of what it returns, and what is assumed where it promises nothing. A subclass
# may do anything else than its base, so it never inherits one of these: it states it, or gets the cautious value.
PROMISES: Mapping[str, bool | None] = {"has_mask": None, "hides_only": False, "explains_masks": False}


class Desensitizer(nn.Module):
    """Batch in, batch out, vectorised, on the batch's device; the base class changes nothing.

    A simple desensitizer overrides `desensitize` on images alone; one that mixes labels, returns other channels or
    draws masks overrides `forward`. Release, audit, export, verification, compare and the model card ask the
    class, and no list of names, for what they need to know:

    Attributes:
        out_channels: channels of the image it returns; 3 for pictures.
        is_image: whether its output is a picture: `[B,3,H,W]` in [0,1], of the raw image's size, to be shown and
            compared with it. What is none is a representation, see `look`.
        hides: whether it changes images at all; False for `Identity` alone. Nobody relies on True: a release, an
            owner and `Pictures` look at the pixels as well.
        flips: whether its output may be mirrored as an image may. Where it may not, raw images are mirrored before it
            in `fit`, and those of a released set never are.
        keyed: whether it draws from an owner's key, so that its description is not enough to make it again.
        takes_any: whether it also takes what another one returned, with any number of channels and any values, and
            returns as many: it may then follow a representation in a `Chain`.
        mixes: how many images each image it returns is mixed of, where `DrawKey.mix` asks for it; 1 of none.
        flips_signs: whether it flips signs of pixels at random where it mixes, so that no sum of images is left.
        elsewhere: whether its pictures were made by another program, and are found by an image's name.
        raw_alone: whether it looks at whose faces it gets, so that no step of a chain may change them before.
        in_words: what it does, in a few plain words, for people who read no code; see `words`.
        has_tails: whether its values have no end, as noise has none: a release cuts off what its numbers cannot hold.
        has_mask: True: every batch gets a mask, and what it hides reaches nothing that is returned. False: none
            does, and every pixel counts as visible. None: not said. A promise, which no subclass inherits.
        hides_only: it multiplies by its mask and does nothing else. A promise, which no subclass inherits.
        explains_masks: where each image has a mask of its own, it says what that is a function of (`MaskEach`). A
            release of such masks needs it, and is made of our own classes alone. A promise, which no subclass inherits.
    """

    out_channels: int = 3
    is_image: bool = True
    hides: bool = True
    flips: bool = True
    keyed: bool = False
    takes_any: bool = False
    mixes: int = 1
    flips_signs: bool = False
    has_tails: bool = False
    elsewhere: bool = False
    raw_alone: bool = False
    in_words: ClassVar[str] = ""
    has_mask: bool | None = None
    hides_only: bool = False
    explains_masks: bool = False
    _as_written: ClassVar[dict[str, object]] = {}

    @property
    def called(self) -> str:
        """What messages call it: the name of its class."""
        return type(self).__name__

    def __init_subclass__(cls, **more: Any) -> None:
        """Put the cautious value where a class does not state a promise itself, and keep what it is made of."""
        super().__init_subclass__(**more)
        for name, cautious in PROMISES.items():
            if name not in vars(cls):
                setattr(cls, name, cautious)
        if "__init__" in vars(cls) and cls.describe is Desensitizer.describe:
            setattr(cls, "__init__", remembering(vars(cls)["__init__"]))  # noqa: B010  (mypy: no assignment to a method)
        cls._as_written = _functions(cls)

    def prepare(self, size: tuple[int, int]) -> None:
        """Check early, before anything is trained, that images of this size can be desensitized; draw what is needed.

        Args:
            size: (height, width) of the images.

        Raises:
            ValueError: they cannot; the message says why.
        """

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation that what it returns is normalised by, where the user gives none."""
        return (0.5, 0.5) if self.is_image else (0.0, 1.0)

    def after(self, is_image: bool) -> None:
        """Take from a `Chain` what comes to it: pictures or a representation.

        Args:
            is_image: whether they are pictures in [0,1].
        """

    def desensitize(self, image: Tensor) -> Tensor:
        """Desensitize images.

        Args:
            image: `[B,3,H,W]` float in [0,1].

        Returns:
            The same shape and range; the caller rounds to the uint8 grid.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither desensitize nor forward")

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Desensitize a batch.

        Args:
            batch: `image [B,3,H,W]` float in [0,1], `index [B]`; other entries are passed on.
            draw_key: what random draws are a function of; None means `DrawKey()`.

        Returns:
            A new dict: `image` desensitized, `mask [M,1,H,W]` or None, `mask_index [B]`.
        """
        desensitized = batch.copy()
        desensitized["image"] = self.desensitize(batch["image"])
        desensitized["mask"] = None
        desensitized["mask_index"] = batch["index"].new_zeros(len(batch["image"]))
        return desensitized

    @property
    def shared_mask(self) -> Tensor | None:
        """The one mask `[1,1,H,W]` that lies on all images, once prepared; None where there is none, or several."""
        return None

    @property
    def in_order(self) -> list[Desensitizer]:
        """The steps it consists of, in their order: by default itself alone."""
        return [self]

    @property
    def may_show_hidden(self) -> bool:
        """Whether what is hidden may be seen in what it returns, or in the shape of its masks."""
        return bool(self.interference)

    def masking_step(self) -> Desensitizer | None:
        """Return what puts masks on the images: itself, where its class or a base says so; None where nothing does."""
        return None if self.mask_promised_by() is None else self

    def out_size(self, size: int) -> int:
        """Return the side of what it returns in pixels; for pictures that of the images.

        Args:
            size: side of the images in pixels.
        """
        return size

    def look(self, image: Tensor) -> Tensor:
        """Make pictures of what it returns, for reports and for judges; a picture is its own.

        A representation's channels are averaged, and each image is stretched to [0,1]; override it where there is a
        better way to look at one.

        Args:
            image: `[B,C,H,W]`, as `forward` returns it.

        Returns:
            `[B,3,h,w]` float in [0,1].
        """
        if self.is_image:
            return image
        mean = image.float().mean(1, keepdim=True)
        low, high = mean.amin((1, 2, 3), keepdim=True), mean.amax((1, 2, 3), keepdim=True)
        return ((mean - low) / (high - low).clamp(min=1e-12)).expand(-1, 3, -1, -1)

    def pictures(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Return what `look` shows, enlarged or reduced to the size of the raw images.

        Args:
            image: `[B,C,H,W]`, as `forward` returns it.
            size: (height, width) of the raw images.

        Raises:
            ValueError: `look` returns no pictures.
        """
        if self.is_image:
            return image
        seen = self.look(image)
        low, high = (float(value) for value in seen.aminmax()) if seen.numel() else (0.0, 0.0)
        if seen.ndim != 4 or seen.shape[:2] != (len(image), 3) or not (low >= 0 and high <= 1):
            raise ValueError(
                f"desensitizer: look of {type(self).__name__} returned {list(seen.shape)} in {low:.4g} … {high:.4g}, "
                f"not [{len(image)}, 3, h, w] in 0 … 1"
            )
        return seen if seen.shape[2:] == size else F.interpolate(seen, size, mode="bilinear", antialias=True)

    def owner_keys(self) -> list[OwnerKey]:
        """List the owner's keys that it draws from, once prepared: all that it, or a module in it, holds."""
        held = (value for module in self.modules() for value in vars(module).values())
        return list(dict.fromkeys(value for value in held if isinstance(value, OwnerKey)))

    @property
    def lacks_key(self) -> bool:
        """Whether it cannot be put to a raw image, for want of the owner's key."""
        return False

    @property
    def masks_each(self) -> bool:
        """Whether each image gets a mask of its own, made of the image: a release then holds a mask for each."""
        return False

    @property
    def interference(self) -> str:
        """Return that an image's mask is made of what it hides, where a release of it must be asked for; else empty."""
        return ""

    def describe(self) -> dict[str, object]:
        """Return what goes into manifests and checkpoints: JSON-able, method name first, no face data.

        Of a class that does not override it: its name and a hash of what it was made with (`settings`), so that a run
        under other settings is not taken for one under these. A class that knows better what makes two alike, such as
        the hash of a mask rather than its path, overrides it.
        """
        found: dict[str, object] = {"method": type(self).__name__}
        if given := given_hash(self):
            found["settings"] = given
        return found

    @property
    def words(self) -> str:
        """What it does, in plain words: `in_words` of its class, else the first paragraph of the class's docstring."""
        kind = type(self)
        if said := vars(kind).get("in_words"):
            return str(said)
        return " ".join(inspect.cleandoc(vars(kind).get("__doc__") or "").split("\n\n")[0].split())

    def why_not_released(self) -> str:
        """Return why no release can be made of it, in one line; empty where one can."""
        return ""

    def agreed(self) -> dict[str, object]:
        """Return what several owners who train one model must have in common: `describe`, or a part of it."""
        return self.describe()

    @classmethod
    def for_one(cls, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Describe what is done to a single image, to be verified or embedded, by one so described.

        Args:
            description: what `describe` gave; what mixes does nothing to a single image.
        """
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make the desensitizer that a description is of; it is not prepared.

        Args:
            description: what `describe` gave; from somebody else's file it may hold anything.
            mask: file of the mask that lies on all images, where `needs_file` says that one is needed.

        Raises:
            ValueError, TypeError, KeyError: it cannot be made from that.
        """
        raise ValueError(f"{cls.__name__} cannot be made from its description")

    @classmethod
    def needs_file(cls, description: Mapping[str, Any]) -> bool:
        """Return whether `from_description` needs a mask's file: the description alone is not enough.

        Args:
            description: what `describe` gave.
        """
        return False

    @classmethod
    def describes_each(cls, description: Mapping[str, Any]) -> bool:
        """Return whether by its description each image gets a mask of its own, made of the image: see `masks_each`.

        Args:
            description: what `describe` gave.
        """
        return False

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return on which 256 levels a release stores what it returns: level = value · scale + offset, rounded.

        Args:
            description: what `describe` gave.

        Returns:
            Scale and offset, (255, 0) of pictures. None where no such grid serves all values: a release then stores
            float16. What lies beyond the grid is cut off.
        """
        return (255, 0) if cls.is_image else None

    def own_steps(self, size: int) -> Tensor | None:
        """Return on which multiples the values of each channel lie, where rounding to them is part of the method.

        On another machine a value at the middle between two of them may go the other way; an audit allows for that.

        Args:
            size: side of the images in pixels.

        Returns:
            `[C]`; None where there are no such multiples.
        """
        return None

    @classmethod
    def shape(cls, description: Mapping[str, Any], size: int) -> tuple[int, int, int] | None:
        """Return how many channels of what height and width it returns, for an audit; None where that is not known.

        Args:
            description: what `describe` gave, checked against `entries`.
            size: side of the images in pixels.
        """
        return (3, size, size) if cls.is_image else None

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return in words how an image becomes what it returns: for cards of recognisers that take a representation.

        Args:
            description: what `describe` gave; from somebody else's file it may hold anything.

        Returns:
            Sentences; empty where the description says it all.
        """
        return ""

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it, beside its name: one schema for each way to describe it, newest first.

        A manifest is a closed list, so that only classes of FaceVeil's own table are asked; of another class it gives
        the name.

        Args:
            size: side of the images in pixels.
            version: of the manifest's format.
        """
        return [{}]

    @classmethod
    def entries_each(cls, size: int) -> list[Schema]:
        """List what a manifest may say of it where every image has a mask of its own; empty where none has.

        Args:
            size: side of the images in pixels.
        """
        return []

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with parameters that change next to nothing of an image.

        Args:
            description: what `describe` gave, checked against `entries`.
            size: side of the images in pixels.
        """
        return []

    @classmethod
    def inconsistencies(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return which parameters do not follow from the others, though they must.

        Of a description that a class can be made of again, an audit compares all; this is for those that it cannot,
        since the owner's key is in none.

        Args:
            description: what `describe` gave, checked against `entries`.
            size: side of the images in pixels.
        """
        return []

    @classmethod
    def leaves(cls, description: Mapping[str, Any], size: int) -> dict[str, Any] | None:
        """Return what it leaves in every image, for an audit to look for; None where nothing is known.

        Args:
            description: what `describe` gave.
            size: side of the images in pixels.

        Returns:
            Arguments of `lightning_app.release.format.traces.Traces`: `block`, or `taps` and `box`.

        Raises:
            ValueError: a parameter is out of range.
        """
        return None

    @classmethod
    def mask_promised_by(cls) -> type[Desensitizer] | None:
        """Find the class among its bases, itself first, that says to return a mask; None where none does.

        The promise is not inherited, what follows from breaking it is: what is made of a class that hides pixels is
        not taken for one that hides none.
        """
        return next((kind for kind in cls.__mro__ if vars(kind).get("has_mask") is True), None)


def only_hides(desensitizer: Desensitizer) -> bool:
    """Return whether a desensitizer multiplies by its mask and does nothing else.

    It does where its very class says so (`hides_only`) and is as it was written: no function replaced in the class,
    in a base or on the object.

    Args:
        desensitizer: the one in question.
    """
    kind = type(desensitizer)
    # an object may take back what its class promises, never add to it
    if vars(kind).get("hides_only") is not True or desensitizer.hides_only is not True:
        return False
    if kind._as_written.keys() & vars(desensitizer).keys():
        return False
    return kind._as_written == _functions(kind)


def _functions(kind: type[Desensitizer]) -> dict[str, object]:
    """List what can be called on a class, and what its bases have that it may call in turn."""
    # an abstract class lists `__abstractmethods__`, and has none while it is made
    found = {name: one for name in dir(kind) if callable(one := getattr(kind, name, None))}
    for base in kind.__mro__:
        if issubclass(base, Desensitizer):
            found |= {f"{base.__qualname__}.{name}": one for name, one in vars(base).items() if callable(one)}
    return found
