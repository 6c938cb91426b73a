"""What the values of a manifest may be: a closed list, so that it carries nothing but what it says.

A manifest leaves the house in clear text. A value that nobody checks is room for a face: every one is a number in
a range, a word of a list, or a hash of something that lies beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning_app.release.format.strict_json import LARGEST

PACKAGES = ("faceveil", "numpy", "pillow", "python", "torch", "torchvision", "zlib")
# as PEP 440 has it, with builds of PyTorch, Python and zlib that are met; no room for a text, see `plain_version`
_VERSION = re.compile(
    r"\d{1,4}(\.\d{1,4}){0,3}((a|b|rc)\d{1,2})?(\.post\d{1,2})?(\.dev\d{1,8})?"
    r"(\+(cpu|xpu|cu\d{2,3}|rocm\d(\.\d{1,2}){1,2}|git[0-9a-f]{7}|[0-9a-f]{7,10}\.nv\d\d\.\d\d)?|\.zlib-ng|-motley)?",
    re.ASCII,
)
LONGEST = 1 << 14  # pixels of a side of what a crop is cut out of
_OTHER = "other"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_REFUSED_EACH, _REFUSED_FREE = 10, 1000  # a set has no more refused files than so many an image, and so many
_DECIMALS = 3  # of a parameter in pixels or as a share
_MASK_DECIMALS = 4  # of a range of mask ratios
_MOST_LEVELS = 16

Check = Callable[[Any], bool]
Schema = Mapping[str, tuple[Check, str]]


def is_count(value: object, least: int = 0, most: int = LARGEST) -> bool:
    """Tell whether a value is a whole number in a range; True and 3.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_hash(value: object) -> bool:
    """Tell whether a value is a SHA-256, 64 hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_share(value: object) -> bool:
    """Tell whether a value is a fraction in (0,1); 1 and True are none."""
    return isinstance(value, float) and 0 < value < 1


def is_version(package: str, value: object) -> bool:
    """Tell whether a value looks like the version of a package.

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
    """Tell whether a value is a reader's crop: None, the side of a square, or left, top, right, bottom."""
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
    """Tell how many refused files a release of so many images may give account of, together."""
    return _REFUSED_EACH * images + _REFUSED_FREE


def canonical(value: object) -> str:
    """Return a JSON value as text that tells 1, 1.0 and true apart; the order of keys does not count."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def brief(value: object) -> str:
    """Return a JSON value as text of 40 characters at most, for messages."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " …"


def check_method(about: Mapping[str, Any], size: int, masked: bool, version: int) -> None:
    """Check a release's method, before anything is made of it: its entries, their types and ranges.

    Whether they describe the mask that lies beside them is for `lightning_app.release.format.method` to find.

    Args:
        about: `method` of a manifest.
        size: side of the images in pixels.
        masked: whether the release has a mask.
        version: of the manifest's format.

    Raises:
        ValueError: an entry is none of the class's, is missing or out of range; names it.
    """
    name = about.get("method")
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        raise ValueError(f"method.method is {brief(name)}, not the name of a class")
    for schema in _schemas(name, size, masked, version):
        if set(schema) == set(about) - {"method"} | ({"guard"} & set(schema)):
            _check_values(about, schema)
            return
    missing = sorted(set(_schemas(name, size, masked, version)[0]) - set(about) - {"guard"})
    if missing:
        raise ValueError(f"method: {missing[0]!r} is missing, which {name} is described by")
    raise ValueError(
        f"method: it has entries that {name} is not described by"
    )  # not shown: they may be a name


def _check_values(about: Mapping[str, Any], schema: Schema) -> None:
    for key, (check, wanted) in schema.items():
        if key in about and not check(about[key]):
            raise ValueError(f"method.{key} is {brief(about[key])}, not {wanted}")


def _schemas(name: str, size: int, masked: bool, version: int) -> list[Schema]:
    """What the entries of a class may be, beside its name; `guard` may be left out."""
    kernel: Schema = {
        # half of it must fit into the image, see `lightning_app.desensitize.blur.blur`
        "kernel": (lambda v: is_count(v, 2, 2 * size - 1), f"a number of pixels from 2 to {2 * size - 1}"),
        "taps": (lambda v: is_count(v, 3, 2 * size - 1), f"an odd number of weights up to {2 * size - 1}"),
        "sigma": (lambda v: _number(v, 0, size, None), f"a number of pixels up to {size}"),
    }
    fraction: Schema = {
        "fraction": (
            lambda v: _number(v, 0, 1, _DECIMALS),
            f"a share in (0,1) of {_DECIMALS} decimals at most",
        )
    }
    lies: Schema = {
        "size": (
            lambda v: v == [size, size] and canonical(v) == canonical([size, size]),
            f"[{size}, {size}]",
        ),
        "mask_hash": (is_hash, "a SHA-256"),
        "mask_ratio": (is_share, "a share in (0,1)"),
    }
    guard: Schema = {"guard": (lambda v: is_count(v, 1, size), f"a number of pixels from 1 to {size}")}
    if not masked:
        block: Schema = {"block": (lambda v: is_count(v, 2, size), f"a number of pixels from 2 to {size}")}
        return [{"GaussianBlur": kernel, "CentreBlur": {**kernel, **fraction}, "Mosaic": block}.get(name, {})]
    if name == "CentreBlock":
        return [{**fraction, **lies}]
    if name != "MaskOut":
        return [guard]
    one: Schema = {**lies, **guard, "masks": (lambda v: is_count(v, 1, 1), "1")}
    return [one] if version > 1 else [one, {**one, **_drawn()}, {**one, **_chosen()}]


def _drawn() -> Schema:
    """What version 1 said of a free-form mask beside what it is."""
    return {
        "freeform": (lambda v: _range(v), "a range of mask ratios"),
        "count": (lambda v: is_count(v, 1, 1), "1"),
        "seed": (is_count, "a whole number"),
        "brush": (_brush, "a brush"),
        "draw": (lambda v: v in ("batch", "image"), "batch or image"),
    }


def _chosen() -> Schema:
    """What version 1 said of the only mask of a folder beside what it is."""
    return {
        "levels": (
            lambda v: v is None or (isinstance(v, list) and len(v) <= _MOST_LEVELS and all(map(_range, v))),
            "null or ranges of mask ratios",
        ),
        "hidden": (lambda v: v in ("white", "black"), "white or black"),
        "draw": (lambda v: v in ("batch", "image"), "batch or image"),
    }


_BRUSH: Schema = {
    "min_vertex": (lambda v: is_count(v, 1, 100), ""),
    "max_vertex": (lambda v: is_count(v, 1, 100), ""),
    "max_length": (lambda v: _number(v, 0, 1000, _DECIMALS), ""),
    "max_brush_width": (lambda v: _number(v, 0, 1000, _DECIMALS), ""),
    "max_angle": (lambda v: _number(v, 0, 360, _DECIMALS), ""),
    "strokes": (lambda v: v in ("hide", "reveal"), ""),
}


def _brush(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == _BRUSH.keys() and all(
        check(value[key]) for key, (check, _) in _BRUSH.items()
    )  # fmt: skip


def _number(value: object, above: float, most: float, decimals: int | None) -> bool:
    """Tell whether a value is a number in (above, most] of so few decimals; a whole one may be written as one."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not above < value <= most:
        return False
    return decimals is None or round(value, decimals) == value


def _range(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_number(bound, -1, 1, _MASK_DECIMALS) and bound >= 0 for bound in value)
        and value[0] < value[1]
    )
