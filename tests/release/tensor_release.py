"""Small releases of representations that tests begin from, and how to spoil one so that its hashes still hold."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from datamodules import FolderFaces
from datamodules.readers.base import FaceReader
from lightning_app.desensitize import Chain, Desensitizer, FrequencyMask, MixUp
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import TIMESTAMP
from lightning_app.release.write import writer
from lightning_app.release.write.finish import stamp
from lightning_app.release.write.writer import Release, write_release

KEY, SIZE, ROWS = bytes(range(32)), 32, 10


def owner_key(home: Path) -> Path:
    path = home / "owner.key"
    if not path.exists():
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
    return path


def method(home: Path, **changed: Any) -> FrequencyMask:
    settings: dict[str, Any] = {
        "block": 4,
        "upsample": 1,
        "stride": 4,
        "permutation": "image",
        "key": owner_key(home),
    }
    return FrequencyMask(**settings | changed)


def mixing(home: Path, k: int = 3) -> Chain:
    return Chain([method(home), MixUp(k=k, key=owner_key(home))])


def reader_of(root: Path) -> FolderFaces:
    return FolderFaces(root, crop=44, size=SIZE, cache_index=False)


def released(
    home: Path, raw: FaceReader, name: str, desensitizer: Desensitizer, rows: int = ROWS, **more: Any
) -> Release:
    """Release a set to `home/name`, so many images a shard."""
    settings: dict[str, Any] = {"workers": 0, "batch_size": 4} | more
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "rows_of_a_shard", lambda stored, mixed: rows)
        return write_release(raw, desensitizer, home / name, home / f"{name} of the owner", KEY, **settings)


def put_hashes_right(root: Path, **changed: Any) -> None:
    """Have the manifest say what the files are now: whoever changes a release can do that, where it is not signed."""
    path = root / "manifest.json"
    told = json.loads(path.read_text())
    for name in told["files"]:
        told["files"][name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    told |= changed
    path.write_bytes(Manifest.parse(json.dumps(told).encode()).to_bytes())
    for one in [*root.rglob("*"), root]:
        stamp(one)
    assert root.stat().st_mtime == TIMESTAMP
