"""What the entries of a manifest may be, each by itself and beside the others; its files are for `listed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_app.core.plain import Schema, is_count, is_hash, is_share, short_json
from lightning_app.release.format.names import MASK
from lightning_app.release.format.png import LARGEST
from lightning_app.release.format.schema import LONGEST, PACKAGES, is_crop, is_version, most_refused
from lightning_app.release.format.tensors import MOST_CHANNELS

FORMAT, VERSION = "faceveil-release", 2
TENSORS = 3  # the version of a release of representations
EACH = 4  # of one whose images have a mask each, or whose classes have names
# 1 says more of MaskOut's masks than what they are, and not the level of compression
READ = (1, VERSION, TENSORS, EACH)
OTHER = "other"
# why a file was refused, as the readers and `desensitize` word it: no other words stand in a manifest, where a
# reader of one's own could put a name into them
REASONS = frozenset({
    "broken link", "cannot be decoded", "cannot be read", "empty file", "folder within an identity's", "hidden name",
    "lossy WebP", "not upright (EXIF)", OTHER, "outside the identities' folders", "outside the tree",
    "smaller than the crop", "special file", "truncated", "unknown format",
})  # fmt: skip


def absent(number: int) -> list[str]:
    """Return the entries that a version of the format has not."""
    if number == EACH:
        return []
    old = ["masks", "classes"]
    return [
        *old,
        *(["compression"] if number in (1, TENSORS) else []),
        *(["tensors"] if number != TENSORS else []),
    ]


def check_entries(own: dict[str, Any], where: str) -> None:
    """Check the entries of a manifest: that all are there, nothing else, and what each may be.

    Args:
        own: entry -> what was found; those that its version has not are None.
        where: it stands, for messages.

    Raises:
        ValueError: names the entry and what was found.
    """
    _check(own, _SCHEMA, where, f"{where}: ", beside=frozenset({"version"}))


def check_mask(found: dict[str, Any], size: int, where: str) -> None:
    """Check the entries of the one mask of a release.

    Args:
        found: `mask` of a manifest.
        size: side of the images in pixels.
        where: it stands, for messages.

    Raises:
        ValueError: names the entry and what was found.
    """
    _check(found, _MASK_SCHEMA, where, f"{where}.")
    if found["guard"] > size:
        raise ValueError(
            f"{where}.guard is {found['guard']}, wider than the images of {size} px; the release is damaged"
        )


def of_tensors(own: dict[str, Any], number: int, where: str) -> bool:
    """Check that a manifest has the entries of its version, and return whether it is of representations.

    Args:
        own: entry -> what was found.
        number: the version.
        where: it stands, for messages.

    Raises:
        ValueError: an entry is of another version; names it.
    """
    tensors = own["tensors"] is not None if number == EACH else number == TENSORS
    compressed = number == VERSION or (number == EACH and not tensors)
    for key, is_of in (("compression", compressed), ("tensors", tensors)):
        if (own[key] is not None) != is_of:
            raise ValueError(f"{where}: {key} is of another version; the release is damaged")
    told = (own["masks"], own["classes"]) != (None, None)
    if number != EACH and told:
        raise ValueError(f"{where}: masks or classes is of another version; the release is damaged")
    if number == EACH and not told:
        raise ValueError(f"{where}: has neither masks nor classes, as version 4 has; the release is damaged")
    return tensors


def check_tables(own: dict[str, Any], where: str) -> None:
    """Check reasons, counts and versions; what is odd is not shown, it may be a name.

    Args:
        own: entry -> what was found.
        where: it stands, for messages.

    Raises:
        ValueError: one is none of FaceVeil's, or out of range.
    """
    if not own["refused"].keys() <= REASONS:
        raise ValueError(f"{where}: refused has a reason that is none of FaceVeil's; the release is damaged")
    most = most_refused(own["images"])
    if sum(own["refused"].values()) > most:
        raise ValueError(
            f"{where}: refused counts more than {most} files for {own['images']} images; the release is damaged"
        )
    if not own["versions"].keys() <= set(PACKAGES):
        raise ValueError(f"{where}: its versions have an entry that is no package's; the release is damaged")
    if not all(is_version(package, text) for package, text in own["versions"].items()):
        raise ValueError(f"{where}: its versions have one that is no version; the release is damaged")


def short_name(name: str) -> str:
    """Return a name as a message shows it: quoted, its end left out where it is long."""
    text = repr(name)
    return text if len(text) <= 40 else text[:36] + " …"


def _check(
    found: dict[str, Any], schema: Schema, where: str, prefix: str, beside: frozenset[str] = frozenset()
) -> None:
    wanted = schema.keys() | beside
    for word, keys in (
        ("is missing", wanted - found.keys()),
        ("does not belong there", found.keys() - wanted),
    ):
        if keys:
            raise ValueError(f"{where}: {short_name(min(keys))} {word}; the release is damaged")
    for key, (check, words) in schema.items():
        if not check(found[key]):
            raise ValueError(
                f"{prefix}{key} is {short_json(found[key])}, not {words}; the release is damaged"
            )


def _table(value: object, check: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(check(item) for item in value.values())


_SCHEMA: Schema = {
    "method": (lambda v: isinstance(v, dict) and isinstance(v.get("method"), str), "a method with its name"),
    "size": (lambda v: is_count(v, 1, LARGEST), f"a number of pixels from 1 to {LARGEST}"),
    "channels": (lambda v: is_count(v, 1, MOST_CHANNELS), "a number of channels"),
    "crop": (is_crop, f"null, a number of pixels, or four (left, top, right, bottom) up to {LONGEST}"),
    "mask": (lambda v: v is None or isinstance(v, dict), "null or an object"),
    "identities": (lambda v: is_count(v, 1), "a positive number"),
    "images": (lambda v: is_count(v, 1), "a positive number"),
    "refused": (lambda v: _table(v, lambda n: is_count(n, 1)), "a count for each reason"),
    "versions": (lambda v: _table(v, lambda n: isinstance(n, str)), "a version for each package"),
    "files": (lambda v: _table(v, is_hash), "a SHA-256 for each file"),
    "signer": (lambda v: v is None or is_hash(v), "null or a SHA-256"),
    "compression": (lambda v: v is None or is_count(v, 0, 9), "a zlib level from 0 to 9"),
    "tensors": (lambda v: v is None or isinstance(v, dict), "null or an object"),
    "masks": (lambda v: v is None or isinstance(v, dict), "null or an object"),
    "classes": (
        lambda v: v is None or (_table(v, lambda n: isinstance(n, str)) and v),
        "a name for each class",
    ),
}
_MASK_SCHEMA: Schema = {
    "file": (lambda v: v == MASK, MASK),
    "sha256": (is_hash, "a SHA-256"),
    "mask_hash": (is_hash, "a SHA-256"),
    "mask_ratio": (is_share, "a share in (0,1)"),
    "guard": (is_count, "a number of pixels"),
}
