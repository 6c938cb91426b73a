"""Methods that leak, releases to plant a leak in, and an audit of one, signed or not, with the raw set or without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from torch import Tensor

from lightning_app.desensitize import Desensitizer
from lightning_app.release.audit.run import Audit
from lightning_app.release.format.signing import fingerprint
from lightning_app.studies.audit import audit
from tests.release.by_hand import SIZE, set_times, sign_as_it_is, write_release


class Nothing(Desensitizer):
    """Releases clean faces, under a name of its own."""

    def desensitize(self, image: Tensor) -> Tensor:
        return image


class Grain(Desensitizer):
    """Changes every pixel by a grey level at most."""

    def desensitize(self, image: Tensor) -> Tensor:
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return (image + noise / 128).clamp(0, 1)


class Speck(Desensitizer):
    """Changes one pixel."""

    def desensitize(self, image: Tensor) -> Tensor:
        changed = image.clone()
        changed[..., 9, 9] = 1 - changed[..., 9, 9]
        return changed


_good: dict[tuple[Path, str], Path] = {}  # releases that are made once and copied


def good(root: Path, raw: Path, desensitizer: Desensitizer | None = None) -> None:
    """A good release to spoil."""
    name = "mask" if desensitizer is None else type(desensitizer).__name__
    if (raw, name) not in _good:
        write_release(raw.parent / name, raw, desensitizer)
        _good[raw, name] = raw.parent / name
    shutil.copytree(_good[raw, name], root)


def pixels_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(Image.open(path).convert("RGB"))


Owner = tuple[Ed25519PrivateKey, Path, Path]


def audited(root: Path, raw: Path, owner: Owner, signed: bool, with_raw: bool) -> Audit:
    key, public, pseudonyms = owner
    if signed:
        path = root / "manifest.json"
        mine = f'"signer": "{fingerprint(key.public_key())}"'.encode()
        path.write_bytes(path.read_bytes().replace(b'"signer": null', mine))
        sign_as_it_is(root, key)
    set_times(root)
    return audit(
        str(root), raw=str(raw) if with_raw else None, key=str(pseudonyms) if with_raw else None,
        public_key=str(public) if signed else None,
    )  # fmt: skip


def config_of(raw: Path, desensitizer: str) -> str:
    init = {"root": str(raw), "size": SIZE, "crop": 44, "cache_index": False}
    reader = {"class_path": "datamodules.FolderFaces", "init_args": init}
    return json.dumps({"reader": reader, "desensitizer": {"class_path": desensitizer}})
