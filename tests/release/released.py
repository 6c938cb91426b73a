"""What the tests of the writer share: a small raw tree, a mask, a release, and its bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import torch

from datamodules import FolderFaces
from lightning_app.desensitize import MaskOut
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.release.format.names import TIMESTAMP
from lightning_app.release.write.writer import Release, write_release
from tests.datamodules.face_files import encoded, picture

KEY = bytes(range(32))
SIZE, CROP = 24, 40
Write = Callable[..., Release]


def raw_tree(root: Path, people: int = 4, each: int = 5) -> Path:
    """Grey JPEGs of 60×50, but for the last person's, which are RGB PNGs."""
    for person in range(people):
        folder = root / f"Person {person}"
        folder.mkdir(parents=True)
        for number in range(each):
            last = person == people - 1
            image = picture(person * each + number, "RGB" if last else "L")
            name = f"{number}.png" if last else f"{number}.jpg"
            (folder / name).write_bytes(encoded(image, "PNG" if last else "JPEG"))
    return root


def mask_file(path: Path, seed: int = 1) -> Path:
    mask = freeform_masks(1, SIZE, (0.5, 0.6), generator=torch.Generator().manual_seed(seed))[0]
    save_mask(mask, path)
    return path


def reader_of(root: Path) -> FolderFaces:
    return FolderFaces(root, crop=CROP, size=SIZE, cache_index=False)


def release(home: Path, root: Path, name: str = "out", **changed: object) -> Release:
    """Release a tree under the mask at `home/mask.png` to `home/<name>`."""
    mask = home / "mask.png"
    settings: dict[str, object] = {
        "reader": reader_of(root), "desensitizer": MaskOut(mask=mask if mask.exists() else mask_file(mask)),
        "output": home / name, "owner": home / f"{name} of the owner", "key": KEY, "workers": 0, "batch_size": 3,
    }  # fmt: skip
    return write_release(**(settings | changed))  # type: ignore[arg-type]


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder; anything that is no plain file is an error."""
    found = {}
    for path in root.rglob("*"):
        assert not path.is_symlink(), path
        if not path.is_dir():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def chunks(data: bytes) -> list[bytes]:
    """The names of a PNG's chunks, by hand; they must fill the file."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, names = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        names.append(data[at + 4 : at + 8])
        at += 12 + length
    assert at == len(data)
    return names


def times(root: Path) -> set[int]:
    """The time stamps of a folder and all that lies in it, in nanoseconds."""
    return {path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}


CONSTANT = {TIMESTAMP * 10**9}
