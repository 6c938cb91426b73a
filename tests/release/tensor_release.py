"""Small releases of representations that tests begin from, what is in one, and how to spoil it unseen by its hashes."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from datamodules import FaceDataModule, FolderFaces
from datamodules.readers.base import FaceReader
from lightning_app.desensitize import Chain, Desensitizer, FrequencyMask, MixUp
from lightning_app.release.audit.run import audit
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import TIMESTAMP
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.tensors import Layout
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


def three(home: Path, root: Path) -> Path:
    """Release a tree to `home` as `plain`, as `half` (float16), and as `mixed`."""
    raw = reader_of(root)
    released(home, raw, "plain", method(home))
    released(home, raw, "half", method(home), dtype="float16")
    released(home, raw, "mixed", mixing(home), rows=24, mix_once=True)
    return home


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


def tensors(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    parts = [load_file(path) for path in sorted((root / "shards").iterdir())]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def findings(root: Path) -> list[str]:
    return [f"{finding.file} {finding.what}" for finding in audit(root).findings]


def on_the_fly(home: Path, drawn_root: Path) -> tuple[dict[bytes, int], torch.Tensor]:
    """Place of every image in the raw set by its pseudonym, and what `fit` makes of all of them."""
    raw = reader_of(drawn_root).open()
    names = Pseudonyms(KEY)
    at = {
        bytes.fromhex(names.image(raw.identities[int(raw.labels[i])], raw.stable_name(i))): i
        for i in range(len(raw))
    }
    images = raw.__getitems__(range(len(raw)))["image"]
    return at, FaceDataModule(raw, method(home)).desensitized(images)["image"]


def rewrite(root: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], None], **facts: Any) -> None:
    """Change the tensors of the first shard and write it by the safetensors library, laid out as ours."""
    path = root / "shards" / "000000.safetensors"
    values = {name: value.copy() for name, value in load_file(path).items()}
    change(values)
    manifest = Manifest.read(root)
    assert manifest.tensors is not None
    layout = Layout.of(manifest.tensors.stored, manifest.tensors.mixed, len(values["name"]))
    path.write_bytes(layout.head + b"".join(values[name].tobytes() for name in layout.parts))
    put_hashes_right(root, **facts)
