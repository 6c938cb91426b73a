"""What a release says of itself: `manifest.json`, a function of the released files and nothing else.

A released folder holds `manifest.json`, `manifest.sig` where it is signed, `mask.png` and `mask.json` where
the method has a mask, and `images/<identity's pseudonym>/<image's pseudonym>.png`. Nothing else. A release of
representations (version 3) holds `shards/NNNNNN.safetensors` in place of the images, see `tensors`, and
`pairs.txt` where it is made to verify on. Version 4 is one of either whose images have a mask each (`masks/`, see
`each_mask`), or that names the classes of a task.
"""

from __future__ import annotations

import json
import platform
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path, PurePath
from typing import Any

from typing_extensions import Self

from lightning_app.core.plain import is_count, is_hash, is_share, short_json
from lightning_app.core.version import version
from lightning_app.release.format.classes import class_faults
from lightning_app.release.format.each_mask import Masks, check_masks, is_code_file, is_mask_file
from lightning_app.release.format.png import LARGEST
from lightning_app.release.format.pseudonyms import DIGITS
from lightning_app.release.format.schema import (
    LONGEST,
    PACKAGES,
    check_method,
    is_crop,
    is_version,
    most_refused,
    plain_version,
)
from lightning_app.release.format.strict_json import strict_json
from lightning_app.release.format.tensors import MOST_CHANNELS, PAIRS, Tensors, is_shard_file

FORMAT, VERSION = "faceveil-release", 2
TENSORS = 3  # the version of a release of representations
EACH = 4  # of one whose images have a mask each, or whose classes have names
# 1 says more of MaskOut's masks than what they are, and not the level of compression
_READ = (1, VERSION, TENSORS, EACH)
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
        method: what the desensitizer's class says of itself and of the mask, see
            `lightning_app.release.format.method.describe`.
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
        compression: zlib's level that all images were encoded at; None in version 1, which does not say, and of
            tensors, which are not compressed.
        version: of the format: 1 or 2; 3 of representations; 4 with masks for each image, or with classes.
        tensors: what the shards of a release of representations hold; None of pictures.
        masks: where every image has a mask of its own; None elsewhere.
        classes: pseudonym -> name of the class of a task, where the classes are no people; None where they are, or
            where they are not told.
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
    compression: int | None = 1
    version: int = VERSION
    tensors: Tensors | None = None
    masks: Masks | None = None
    classes: dict[str, str] | None = None

    def to_bytes(self) -> bytes:
        """Return the content of `manifest.json`: sorted keys, no time, no host, the same for the same release."""
        whole = {"format": FORMAT} | asdict(self)
        for key in _absent(self.version):
            del whole[key]
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
        number = found.get("version")
        if not is_count(number) or number not in _READ:
            raise ValueError(
                f"{where} has version {short_json(number)}, this FaceVeil reads {_READ[0]} to {_READ[-1]}: "
                "install the one that made it, or a newer one"
            )
        own = {key: value for key, value in found.items() if key != "format"}
        for key in _absent(number):
            own.setdefault(key, None)
        _check_keys(own, {f.name for f in fields(cls)}, str(where))
        for key, check, wanted in _SCHEMA:
            if not check(own[key]):
                raise ValueError(
                    f"{where}: {key} is {short_json(own[key])}, not {wanted}; the release is damaged"
                )
        of_tensors = own["tensors"] is not None if number == EACH else number == TENSORS
        compressed = number == VERSION or (number == EACH and not of_tensors)
        for key, is_of in (("compression", compressed), ("tensors", of_tensors)):
            if (own[key] is not None) != is_of:
                raise ValueError(f"{where}: {key} is of another version; the release is damaged")
        if number != EACH and (own["masks"], own["classes"]) != (None, None):
            raise ValueError(f"{where}: masks or classes is of another version; the release is damaged")
        if number == EACH and (own["masks"], own["classes"]) == (None, None):
            raise ValueError(
                f"{where}: has neither masks nor classes, as version 4 has; the release is damaged"
            )
        if of_tensors:
            own["tensors"] = Tensors.parse(own["tensors"], f"{where}: tensors")
            if own["mask"] is not None or own["channels"] != own["tensors"].shape[0]:
                odd = "mask" if own["mask"] is not None else "channels"
                raise ValueError(f"{where}: {odd} is not that of its tensors; the release is damaged")
        elif own["channels"] not in (1, 3):
            raise ValueError(f"{where}: channels is {own['channels']}, not 1 or 3; the release is damaged")
        _check_tables(own, f"{where}")
        if own["mask"] is not None:
            own["mask"] = _mask_entry(own["mask"], f"{where}: mask", own["size"])
        if own["masks"] is not None:
            if own["mask"] is not None or of_tensors:
                raise ValueError(
                    f"{where}: masks stand beside another mask or tensors; the release is damaged"
                )
            own["masks"] = Masks.parse(own["masks"], own["size"], f"{where}: masks")
        try:
            check_method(
                own["method"], own["size"], (own["mask"], own["masks"]) != (None, None), own["version"],
                each=own["masks"] is not None,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{where}: {error}; the release is damaged") from error
        manifest = cls(**own)
        for what in class_faults(manifest.classes, manifest.identities):
            raise ValueError(f"{where}: {what}; the release is damaged")
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
        if self.tensors is not None:
            self._check_shards(self.tensors, where)
            return
        wanted = set() if self.mask is None else {MASK, MASK_FACTS}
        if self.masks is not None and self.masks.pairs:
            wanted.add(PAIRS)
        found, beside, images = set(), 0, list[str]()
        folders = set()
        for name in self.files:
            if match := _IMAGE.fullmatch(name):
                folders.add(match[1])
                images.append(name)
            elif self.masks is not None and (is_mask_file(name) or is_code_file(name)):
                beside += 1
            else:
                found.add(name)
        if found != wanted:
            odd = sorted(found ^ wanted)[0]
            raise ValueError(
                f"{where}: files: {_short(odd)} {'is missing' if odd in wanted else 'does not belong there'}"
            )
        counts = {
            "identities": (self.identities, len(folders)),
            "images": (self.images, len(self.files) - len(found) - beside),
        }
        for what, (said, listed) in counts.items():
            if said != listed:
                raise ValueError(
                    f"{where}: {what} is {said}, but its files have {listed}; the release is damaged"
                )
        if self.mask is not None and self.mask.sha256 != self.files[MASK]:
            raise ValueError(f"{where}: mask.sha256 is not that of {MASK} in files; the release is damaged")
        if self.masks is not None:
            check_masks(self.masks, images, self.files, where)
        if self.classes is not None and self.classes.keys() != folders:
            raise ValueError(
                f"{where}: classes names other folders than its files have; the release is damaged"
            )

    def _check_shards(self, tensors: Tensors, where: str) -> None:
        shards = [name for name in self.files if is_shard_file(name)]
        wanted = {PAIRS} if tensors.pairs else set()
        found = self.files.keys() - set(shards)
        if found != wanted:
            odd = min(found ^ wanted)
            raise ValueError(
                f"{where}: files: {_short(odd)} {'is missing' if odd in wanted else 'does not belong there'}"
            )
        for what, said, counted in (
            ("images", self.images, sum(tensors.rows)),
            ("tensors.rows", len(tensors.rows), len(shards)),
        ):
            if said != counted:
                raise ValueError(
                    f"{where}: {what} has {said}, but its shards have {counted}; the release is damaged"
                )
        last = int(PurePath(max(shards)).stem)
        if last >= len(shards) + sum(
            self.refused.values()
        ):  # where all images of one are refused there is none
            raise ValueError(
                f"{where}: files: the shards are numbered up to {last}, and there are {len(shards)}; "
                "the release is damaged"
            )
        if self.identities > self.images:
            raise ValueError(
                f"{where}: identities is {self.identities}, of {self.images} images; the release is damaged"
            )

    @property
    def pairs(self) -> int:
        """How many pairs `pairs.txt` has; 0 where there is none."""
        return next((part.pairs for part in (self.tensors, self.masks) if part is not None), 0)

    @property
    def shards(self) -> list[str]:
        """Paths of the shards, in the order of `tensors.rows`; none of a release of pictures."""
        return sorted(name for name in self.files if is_shard_file(name))


def _absent(number: int) -> list[str]:
    """Return the entries that a version of the format has not."""
    if number == EACH:
        return []
    old = ["masks", "classes"]
    return [
        *old,
        *(["compression"] if number in (1, TENSORS) else []),
        *(["tensors"] if number != TENSORS else []),
    ]


def guard_of(method: Mapping[str, object]) -> int:
    """Return by how many pixels a method narrows what its mask shows; 0 where its description tells none.

    Args:
        method: as a manifest has it, see `public_method`.
    """
    guard = method.get("guard", 0)
    return guard if isinstance(guard, int) and is_count(guard) else 0


def image_file(identity: str, image: str) -> str:
    """Return the path of an image in a release.

    Args:
        identity: pseudonym of the identity.
        image: pseudonym of the image.
    """
    return f"{IMAGES}/{identity}/{image}.png"


def is_image_file(name: str) -> bool:
    """Return whether a path, as `files` has it, is that of an image of a release."""
    return _IMAGE.fullmatch(name) is not None


def public_method(description: Mapping[str, object]) -> dict[str, Any]:
    """Take out of a desensitizer's description what names a file or folder of the owner's.

    Args:
        description: what `Desensitizer.describe` gives.

    Returns:
        The rest: entries that are text and are called as files are, or look like one, are left out.
    """
    kept: dict[str, Any] = {}
    for key, value in description.items():
        if isinstance(value, Mapping):
            kept[key] = public_method(value)
        elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):  # of a chain's steps
            kept[key] = [public_method(one) for one in value]
        elif not (isinstance(value, str) and (key in _FILE_KEYS or _FILE_LIKE.search(value))):
            kept[key] = value
    return kept


_FILE_KEYS = ("mask", "folder", "file", "path", "root", "checkpoint", "ckpt_path")
_FILE_LIKE = re.compile(r"[/\\]|\.[A-Za-z0-9]{2,12}$")


def made_with() -> dict[str, str]:
    """Return the versions of what decodes, desensitizes and encodes images, for the manifest."""
    return dict(_installed())


@cache
def _installed() -> Mapping[str, str]:
    found = {"faceveil": version(), "python": platform.python_version(), "zlib": zlib.ZLIB_RUNTIME_VERSION}
    found |= {name: installed(name) for name in ("torch", "torchvision", "pillow", "numpy")}
    return {name: plain_version(text) for name, text in found.items()}


def _mask_entry(found: dict[str, Any], where: str, size: int) -> MaskEntry:
    _check_keys(found, {f.name for f in fields(MaskEntry)}, where)
    for key, check, wanted in _MASK_SCHEMA:
        if not check(found[key]):
            raise ValueError(
                f"{where}.{key} is {short_json(found[key])}, not {wanted}; the release is damaged"
            )
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
            raise ValueError(f"{where}: {_short(min(keys))} {word}; the release is damaged")


def _short(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 40 else text[:36] + " …"


def _check_tables(own: dict[str, Any], where: str) -> None:
    """Check reasons, counts and versions; what is odd is not shown, it may be a name."""
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


def _table(value: object, check: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(check(item) for item in value.values())


_Schema = tuple[tuple[str, Callable[[Any], bool], str], ...]
_SCHEMA: _Schema = (
    ("method", lambda v: isinstance(v, dict) and isinstance(v.get("method"), str), "a method with its name"),
    ("size", lambda v: is_count(v, 1, LARGEST), f"a number of pixels from 1 to {LARGEST}"),
    ("channels", lambda v: is_count(v, 1, MOST_CHANNELS), "a number of channels"),
    ("crop", is_crop, f"null, a number of pixels, or four (left, top, right, bottom) up to {LONGEST}"),
    ("mask", lambda v: v is None or isinstance(v, dict), "null or an object"),
    ("identities", lambda v: is_count(v, 1), "a positive number"),
    ("images", lambda v: is_count(v, 1), "a positive number"),
    ("refused", lambda v: _table(v, lambda n: is_count(n, 1)), "a count for each reason"),
    ("versions", lambda v: _table(v, lambda n: isinstance(n, str)), "a version for each package"),
    ("files", lambda v: _table(v, is_hash), "a SHA-256 for each file"),
    ("signer", lambda v: v is None or is_hash(v), "null or a SHA-256"),
    ("compression", lambda v: v is None or is_count(v, 0, 9), "a zlib level from 0 to 9"),
    ("tensors", lambda v: v is None or isinstance(v, dict), "null or an object"),
    ("masks", lambda v: v is None or isinstance(v, dict), "null or an object"),
    (
        "classes",
        lambda v: v is None or (_table(v, lambda n: isinstance(n, str)) and v),
        "a name for each class",
    ),
)
_MASK_SCHEMA: _Schema = (
    ("file", lambda v: v == MASK, MASK),
    ("sha256", is_hash, "a SHA-256"),
    ("mask_hash", is_hash, "a SHA-256"),
    ("mask_ratio", is_share, "a share in (0,1)"),
    ("guard", is_count, "a number of pixels"),
)
