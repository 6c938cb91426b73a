"""What a release says of itself: `manifest.json`, a function of the released files and nothing else.

A released folder holds `manifest.json`, `manifest.sig` where it is signed, `mask.png` and `mask.json` where
the method has a mask, and `images/<identity's pseudonym>/<image's pseudonym>.png`. Nothing else.
"""

from __future__ import annotations

import json
import math
import platform
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from typing_extensions import Self

from lightning_app.release.png import LONGEST
from lightning_app.release.pseudonyms import DIGITS
from lightning_app.release.strict_json import LARGEST, strict_json
from lightning_app.version import version

FORMAT, VERSION = "faceveil-release", 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MASK, MASK_FACTS, IMAGES = "mask.png", "mask.json", "images"
OTHER = "other"
# why a file was refused, as the readers and `desensitize` word it: no other words stand in a manifest, where a
# reader of one's own could put a name into them
REASONS = frozenset({
    "broken link", "cannot be decoded", "cannot be read", "empty file", "folder within an identity's", "hidden name",
    "lossy WebP", "not upright (EXIF)", OTHER, "outside the identities' folders", "outside the tree",
    "smaller than the crop", "special file", "truncated", "unknown format",
})  # fmt: skip
TIMESTAMP = 315532800  # 1980-01-01 00:00:00 UTC: when every file and folder of a release was last changed

_IMAGE = re.compile(rf"{IMAGES}/([0-9a-f]{{{DIGITS}}})/[0-9a-f]{{{DIGITS}}}\.png")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MaskEntry:
    """The mask of a release.

    Attributes:
        file: its name in the release, `mask.png`.
        sha256: of the file's bytes, 64 hexadecimal digits.
        mask_hash: of its pixels, see `lightning_app.masks.mask_hash`.
        mask_ratio: hidden pixels / all pixels, in (0,1).
        guard: pixels by which the visible side was narrowed; 0 where it was not.
    """

    file: str
    sha256: str
    mask_hash: str
    mask_ratio: float
    guard: int = 0


@dataclass(frozen=True)
class Manifest:
    """The manifest of a release.

    Attributes:
        method: `Desensitizer.describe()` without names of files, see `public_method`.
        size: side of the images in pixels.
        channels: 1 where every image is grey (three equal channels) and stored as grey PNG; 3 otherwise,
            each image being stored as grey PNG where it is grey, and as RGB where it is not.
        crop: the reader's: box (left, top, right, bottom), side of the central square, or None.
        mask: where the method has one.
        identities: how many folders `images/` has.
        images: how many files they hold.
        refused: reason, one of `REASONS` -> how many files of the raw set were refused for it.
        versions: package -> version, of what made the pixels and the PNG files.
        files: path in the release -> SHA-256 of the file's bytes, for all files but the manifest and its
            signature.
        signer: fingerprint of the public key that `manifest.sig` verifies with; None where it is not signed.
    """

    method: dict[str, Any]
    size: int
    channels: int
    crop: list[int] | int | None
    mask: MaskEntry | None
    identities: int
    images: int
    refused: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    signer: str | None = None

    def to_bytes(self) -> bytes:
        """Return the content of `manifest.json`: sorted keys, no time, no host, the same for the same release."""
        whole = {"format": FORMAT, "version": VERSION} | asdict(self)
        return json.dumps(whole, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes, where: str | Path = MANIFEST) -> Self:
        """Read a manifest and check that it is one, whole and consistent in itself.

        Args:
            content: of the file.
            where: it comes from, for messages.

        Raises:
            ValueError: it is not; names the entry and what was found.
        """
        try:
            found = strict_json(content)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error}); the release is damaged") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f'{where} is no manifest of a release ("format": "{FORMAT}" is missing)')
        if found.get("version") != VERSION:
            raise ValueError(
                f"{where} has version {found.get('version')!r}, this FaceVeil reads {VERSION}: install the one that "
                "made it, or a newer one"
            )
        own = {key: value for key, value in found.items() if key not in ("format", "version")}
        _check_keys(own, {f.name for f in fields(cls)}, str(where))
        for key, check, wanted in _SCHEMA:
            if not check(own[key]):
                raise ValueError(
                    f"{where}: {key} is {_brief(own[key])}, not {wanted}; the release is damaged"
                )
        if own["mask"] is not None:
            own["mask"] = _mask_entry(own["mask"], f"{where}: mask", own["size"])
        manifest = cls(**own)
        manifest._check_files(str(where))
        return manifest

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the manifest of a released folder.

        Args:
            folder: of the release.

        Raises:
            FileNotFoundError: there is no such folder, or it has no manifest: then it is no finished release.
            ValueError: the manifest is none, or damaged; names the entry and what was found.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give the one that `desensitize` wrote")
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {MANIFEST}: it is no release, or one whose `desensitize` was stopped; run that again "
                "to finish it"
            )
        return cls.parse(path.read_bytes(), path)

    def _check_files(self, where: str) -> None:
        wanted = set() if self.mask is None else {MASK, MASK_FACTS}
        found = set()
        folders = set()
        for name in self.files:
            if match := _IMAGE.fullmatch(name):
                folders.add(match[1])
            else:
                found.add(name)
        if found != wanted:
            odd = sorted(found ^ wanted)[0]
            raise ValueError(
                f"{where}: files: {odd!r} {'is missing' if odd in wanted else 'does not belong there'}"
            )
        counts = {
            "identities": (self.identities, len(folders)),
            "images": (self.images, len(self.files) - len(found)),
        }
        for what, (said, listed) in counts.items():
            if said != listed:
                raise ValueError(
                    f"{where}: {what} is {said}, but its files have {listed}; the release is damaged"
                )
        if self.mask is not None and self.mask.sha256 != self.files[MASK]:
            raise ValueError(f"{where}: mask.sha256 is not that of {MASK} in files; the release is damaged")


def guard_of(method: Mapping[str, object]) -> int:
    """Tell by how many pixels a method narrows what its mask shows; 0 where its description tells none.

    Args:
        method: as a manifest has it, see `public_method`.
    """
    guard = method.get("guard", 0)
    return guard if isinstance(guard, int) and _count(guard) else 0


def image_file(identity: str, image: str) -> str:
    """Return the path of an image in a release.

    Args:
        identity: pseudonym of the identity.
        image: pseudonym of the image.
    """
    return f"{IMAGES}/{identity}/{image}.png"


def is_image_file(name: str) -> bool:
    """Tell whether a path, as `files` has it, is that of an image of a release."""
    return _IMAGE.fullmatch(name) is not None


def public_method(about: Mapping[str, object]) -> dict[str, Any]:
    """Take out of a desensitizer's description what names a file or folder of the owner's.

    Args:
        about: what `Desensitizer.describe` gives.

    Returns:
        The rest: entries that are text and are called as files are, or look like one, are left out.
    """
    kept: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, Mapping):
            kept[key] = public_method(value)
        elif not (isinstance(value, str) and (key in _FILE_KEYS or _FILE_LIKE.search(value))):
            kept[key] = value
    return kept


_FILE_KEYS = ("mask", "folder", "file", "path", "root", "checkpoint", "ckpt_path")
_FILE_LIKE = re.compile(r"[/\\]|\.[A-Za-z0-9]{2,12}$")


def made_with() -> dict[str, str]:
    """Return the versions of what decodes, veils and encodes images, for the manifest."""
    found = {"faceveil": version(), "python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    return found | {name: installed(name) for name in ("torch", "torchvision", "pillow", "numpy")}


def _mask_entry(found: dict[str, Any], where: str, size: int) -> MaskEntry:
    _check_keys(found, {f.name for f in fields(MaskEntry)}, where)
    for key, check, wanted in _MASK_SCHEMA:
        if not check(found[key]):
            raise ValueError(f"{where}.{key} is {_brief(found[key])}, not {wanted}; the release is damaged")
    if found["guard"] > size:
        raise ValueError(
            f"{where}.guard is {found['guard']}, wider than the images of {size} px; the release is damaged"
        )
    return MaskEntry(**found)


def _check_keys(found: dict[str, Any], wanted: set[str], where: str) -> None:
    for word, keys in (
        ("is missing", wanted - found.keys()),
        ("does not belong there", found.keys() - wanted),
    ):
        if keys:
            raise ValueError(f"{where}: {min(keys)!r} {word}; the release is damaged")


def _count(value: object, least: int = 0, most: int = LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _hash(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _table(value: object, check: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(check(item) for item in value.values())


def _box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_count(side) for side in value)


_Schema = tuple[tuple[str, Callable[[Any], bool], str], ...]
_SCHEMA: _Schema = (
    ("method", lambda v: isinstance(v, dict) and isinstance(v.get("method"), str), "a method with its name"),
    ("size", lambda v: _count(v, 1, LONGEST), f"a number of pixels from 1 to {LONGEST}"),
    ("channels", lambda v: _count(v) and v in (1, 3), "1 or 3"),
    ("crop", lambda v: v is None or _count(v, 1) or _box(v), "null, a number or four"),
    ("mask", lambda v: v is None or isinstance(v, dict), "null or an object"),
    ("identities", lambda v: _count(v, 1), "a positive number"),
    ("images", lambda v: _count(v, 1), "a positive number"),
    ("refused", lambda v: _table(v, lambda n: _count(n, 1)), "a count for each reason"),
    ("versions", lambda v: _table(v, lambda n: isinstance(n, str)), "a version for each package"),
    ("files", lambda v: _table(v, _hash), "a SHA-256 for each file"),
    ("signer", lambda v: v is None or _hash(v), "null or a SHA-256"),
)
_MASK_SCHEMA: _Schema = (
    ("file", lambda v: v == MASK, MASK),
    ("sha256", _hash, "a SHA-256"),
    ("mask_hash", _hash, "a SHA-256"),
    ("mask_ratio", lambda v: isinstance(v, float) and math.isfinite(v) and 0 < v < 1, "a share in (0,1)"),
    ("guard", _count, "a number of pixels"),
)


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + " …"
