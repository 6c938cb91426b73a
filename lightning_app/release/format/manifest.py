"""What a release says of itself: `manifest.json`, a function of the released files and nothing else.

A released folder holds `manifest.json`, `manifest.sig` where it is signed, `mask.png` and `mask.json` where
the method has a mask, and `images/<identity's pseudonym>/<image's pseudonym>.png`. Nothing else. A release of
representations (version 3) holds `shards/NNNNNN.safetensors` in place of the images, see `tensors`, and
`pairs.txt` where it is made to verify on. Version 4 is one of either whose images have a mask each (`masks/`, see
`each_mask`), or that names the classes of a task.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

from lightning_app.core.files import read_bounded
from lightning_app.core.plain import is_count, short_json
from lightning_app.release.format.classes import class_faults
from lightning_app.release.format.each_mask import Masks
from lightning_app.release.format.entries import (
    FORMAT,
    READ,
    VERSION,
    absent,
    check_entries,
    check_mask,
    check_tables,
    of_tensors,
)
from lightning_app.release.format.listed import check_files
from lightning_app.release.format.names import MANIFEST
from lightning_app.release.format.schema import check_method
from lightning_app.release.format.strict_json import strict_json
from lightning_app.release.format.tensors import Tensors, is_shard_file

SMALL = 1 << 20  # bytes: more than small files of a release have
_LINE = 300  # bytes of a manifest's line
_ENOUGH = 64 << 20  # bytes: a smaller manifest is read before anything is counted


def most_bytes(folder: str | Path) -> int:
    """Return how many bytes the manifest of a folder can have: a line for each of its files, and some.

    Args:
        folder: of the release; its files are counted, no link is followed.
    """
    count, left = 0, [os.fspath(folder)]  # a stack: a tree may be deeper than Python's
    while left:
        with (
            suppress(OSError),
            os.scandir(left.pop()) as listed,
        ):  # whoever walks through it says what is closed
            for entry in listed:
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return SMALL + _LINE * count


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
        for key in absent(self.version):
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
        where = str(where)
        try:
            found = strict_json(content)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error}); the release is damaged") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f'{where} is no manifest of a release ("format": "{FORMAT}" is missing)')
        number = found.get("version")
        if not is_count(number) or number not in READ:
            raise ValueError(
                f"{where} has version {short_json(number)}, this FaceVeil reads {READ[0]} to {READ[-1]}: "
                "install the one that made it, or a newer one"
            )
        own = {key: value for key, value in found.items() if key != "format"}
        for key in absent(number):
            own.setdefault(key, None)
        check_entries(own, where)
        tensors = of_tensors(own, number, where)
        if tensors:
            own["tensors"] = Tensors.parse(own["tensors"], f"{where}: tensors")
            if own["mask"] is not None or own["channels"] != own["tensors"].shape[0]:
                odd = "mask" if own["mask"] is not None else "channels"
                raise ValueError(f"{where}: {odd} is not that of its tensors; the release is damaged")
        elif own["channels"] not in (1, 3):
            raise ValueError(f"{where}: channels is {own['channels']}, not 1 or 3; the release is damaged")
        check_tables(own, where)
        if own["mask"] is not None:
            check_mask(own["mask"], own["size"], f"{where}: mask")
            own["mask"] = MaskEntry(**own["mask"])
        if own["masks"] is not None:
            if own["mask"] is not None or tensors:
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
        check_files(manifest, where)
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
        most = _ENOUGH if path.stat().st_size <= _ENOUGH else most_bytes(folder)
        return cls.parse(read_bounded(path, most), path)

    @property
    def pairs(self) -> int:
        """How many pairs `pairs.txt` has; 0 where there is none."""
        return next((part.pairs for part in (self.tensors, self.masks) if part is not None), 0)

    @property
    def shards(self) -> list[str]:
        """Paths of the shards, in the order of `tensors.rows`; none of a release of pictures."""
        return sorted(name for name in self.files if is_shard_file(name))
