"""What owner and trainer agreed on, held against what a release is: its mask, how much that hides, its method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lightning_app.core.plain import canonical
from lightning_app.desensitize import Desensitizer
from lightning_app.masks import guarded, mask_hash
from lightning_app.release.format.entries import VERSION
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.method import describe, weak_mask
from lightning_app.release.format.names import MASK
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.each import EachDesensitizer


@dataclass(frozen=True)
class Agreed:
    """What was agreed; what is None was not.

    Attributes:
        mask: `[1,H,W]`, 1 = visible, from --mask. A release under it, widened by the manifest's guard, is as agreed.
        mask_hash: of the released mask, see `lightning_app.masks.mask_hash`.
        min_mask_ratio: least share of hidden pixels. Without it, `LEAST_HIDDEN`.
        desensitizer: of the config that was to be released by.
    """

    mask: Tensor | None = None
    mask_hash: str | None = None
    min_mask_ratio: float | None = None
    desensitizer: Desensitizer | None = None

    @property
    def names_a_mask(self) -> bool:
        """Whether it tells which mask a release must have, or that it must have none."""
        return any(one is not None for one in (self.mask, self.mask_hash, self.desensitizer))

    def faults(self, manifest: Manifest) -> Iterator[tuple[str, str]]:
        """Yield what of a release is not as agreed: file and words.

        Args:
            manifest: of the release, whose mask was found to be what it says.
        """
        entry = manifest.mask
        if manifest.masks is not None:
            for option, one in (("--mask", self.mask), ("--mask-hash", self.mask_hash)):
                if one is not None:
                    yield "manifest.json", f"it has a mask for each image, but {option} was agreed on"
            yield from self._too_little("masks", 1 - manifest.masks.shown / manifest.size**2)
        elif entry is None:
            for option, value in (
                ("--mask", self.mask),
                ("--mask-hash", self.mask_hash),
                ("--min-mask-ratio", self.min_mask_ratio),
            ):
                if value is not None:
                    yield "manifest.json", f"it has no mask, but {option} was agreed on"
        else:
            if self.mask is not None and entry.mask_hash not in _hashes(self.mask, entry.guard):
                yield MASK, "is not the mask that was agreed on (--mask)"
            if self.mask_hash not in (None, entry.mask_hash):
                yield MASK, "is not the mask that was agreed on (--mask-hash)"
            yield from self._too_little(MASK, entry.mask_ratio)
        if self.desensitizer is not None:
            yield from _other_method(manifest, self.desensitizer)

    def has_made(self, manifest: Manifest) -> bool:
        """Return whether the config's desensitizer can have made a release; True where no config says.

        Args:
            manifest: of the release.
        """
        return self.desensitizer is None or not any(_other_method(manifest, self.desensitizer))

    def _too_little(self, file: str, ratio: float) -> Iterator[tuple[str, str]]:
        if self.min_mask_ratio is None:
            yield from ((file, what) for what in weak_mask(ratio))
        elif ratio < self.min_mask_ratio:
            yield file, f"hides {ratio:.4f} of the pixels, less than --min-mask-ratio {self.min_mask_ratio}"


def _hashes(mask: Tensor, guard: int) -> set[str]:
    return {mask_hash(mask), mask_hash(guarded(mask, guard))}


def _other_method(manifest: Manifest, desensitizer: Desensitizer) -> Iterator[tuple[str, str]]:
    """Hold a manifest against the desensitizer of a config."""
    name, entry = type(desensitizer).__name__, manifest.mask
    try:
        mask, each = None, manifest.masks is not None
        if each:
            EachDesensitizer(
                desensitizer, manifest.size, bool(desensitizer.interference), key_file=False
            )  # prepares it
        elif manifest.tensors is None:
            mask = PixelDesensitizer(desensitizer, manifest.size, key_file=False).mask
        else:
            desensitizer.prepare((manifest.size, manifest.size))
        number = manifest.version if manifest.version > 1 else VERSION
        description = describe(desensitizer, manifest.size, mask, number, each)
    except (ValueError, FileNotFoundError) as error:
        yield "manifest.json", f"--config's desensitizer cannot have made this release ({error})"
        return
    if (mask is None) != (entry is None):
        has, other = ("no", "one") if entry is None else ("a", "none")
        yield "manifest.json", f"it has {has} mask, --config's {name} has {other}"
    elif mask is not None and entry is not None and mask_hash(mask) != entry.mask_hash:
        yield MASK, f"is not the mask of --config's {name}"
    # version 1 says more of MaskOut
    theirs = {
        key: value for key, value in manifest.method.items() if key in description or manifest.version > 1
    }
    if canonical(theirs) != canonical(description):
        odd = sorted(
            key for key in description.keys() | theirs.keys() if description.get(key) != theirs.get(key)
        )
        yield "manifest.json", f"its method is not that of --config's {name}: {', '.join(odd)}"
