"""What the values of a manifest may be: a closed list, so that it carries nothing but what it says.

A manifest leaves the house in clear text. A value that nobody checks is room for a face: every one is a number in
a range, a word of a list, or a hash of something that lies beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning_app.core.plain import Schema, is_count, short_json
from lightning_app.desensitize import OURS

PACKAGES = ("faceveil", "numpy", "pillow", "python", "torch", "torchvision", "zlib")
# as PEP 440 has it, with builds of PyTorch, Python and zlib that are met; no room for a text, see `plain_version`
_VERSION = re.compile(
    r"\d{1,4}(\.\d{1,4}){0,3}((a|b|rc)\d{1,2})?(\.post\d{1,2})?(\.dev\d{1,8})?"
    r"(\+(cpu|xpu|cu\d{2,3}|rocm\d(\.\d{1,2}){1,2}|git[0-9a-f]{7}|[0-9a-f]{7,10}\.nv\d\d\.\d\d)?|\.zlib-ng|-motley)?",
    re.ASCII,
)
LONGEST = 1 << 14  # pixels of a side of what a crop is cut out of
_OTHER = "other"
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_REFUSED_EACH, _REFUSED_FREE = 10, 1000  # a set has no more refused files than so many an image, and so many


def is_version(package: str, value: object) -> bool:
    """Return whether a value looks like the version of a package.

    Args:
        package: its name, as `versions` of a manifest has it.
        value: found there.
    """
    if not isinstance(value, str) or package not in PACKAGES:
        return False
    return value == _OTHER or _VERSION.fullmatch(value) is not None


def plain_version(found: str) -> str:
    """Return a version as a manifest may have it: as it is, or `other` where it is of no form known here."""
    return found if _VERSION.fullmatch(found) else _OTHER


def is_crop(value: object) -> bool:
    """Return whether a value is a reader's crop: None, the side of a square, or left, top, right, bottom."""
    if value is None or is_count(value, 1, LONGEST):
        return True
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(is_count(side, 0, LONGEST) for side in value)
    ):
        return False
    left, top, right, bottom = value
    return bool(left < right and top < bottom)


def most_refused(images: int) -> int:
    """Return how many refused files a release of so many images may give account of, together."""
    return _REFUSED_EACH * images + _REFUSED_FREE


def check_method(
    description: Mapping[str, Any], size: int, masked: bool, version: int, each: bool = False
) -> None:
    """Check a release's method, before anything is made of it: its entries, their types and ranges.

    Whether they describe the mask that lies beside them is for `lightning_app.release.format.method` to find.

    Args:
        description: `method` of a manifest.
        size: side of the images in pixels.
        masked: whether the release has a mask.
        version: of the manifest's format.
        each: whether every image has a mask of its own.

    Raises:
        ValueError: an entry is none of the class's, is missing or out of range; names it.
    """
    name = description.get("method")
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        raise ValueError(f"method.method is {short_json(name)}, not the name of a class")
    schemas = _schemas(name, size, masked, version, each)
    for schema in schemas:
        if set(schema) == set(description) - {"method"} | ({"guard"} & set(schema)):
            _check_values(description, schema)
            return
    missing = sorted(set(schemas[0] if schemas else ()) - set(description) - {"guard"})
    if missing:
        raise ValueError(f"method: {missing[0]!r} is missing, which {name} is described by")
    raise ValueError(
        f"method: it has entries that {name} is not described by"
    )  # not shown: they may be a name


def _check_values(description: Mapping[str, Any], schema: Schema) -> None:
    for key, (check, wanted) in schema.items():
        if key in description and not check(description[key]):
            raise ValueError(f"method.{key} is {short_json(description[key])}, not {wanted}")


def _schemas(name: str, size: int, masked: bool, version: int, each: bool) -> list[Schema]:
    """Return what the entries of a class may be, beside its name; `guard` may be left out."""
    kind = OURS.get(name)
    if each:  # of a class that is not ours nobody could say what its masks are functions of
        return [] if kind is None else kind.entries_each(size)
    if kind is not None and bool(kind.has_mask) == masked:
        return kind.entries(size, version)
    # of a class that is not ours nobody could check more
    return (
        [{"guard": (lambda v: is_count(v, 1, size), f"a number of pixels from 1 to {size}")}]
        if masked
        else [{}]
    )
