"""Releases whose images have a mask each: written by FaceVeil, then spoilt by hand, signed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from lightning_app.core.png import encode_png
from lightning_app.desensitize import LearnedMask
from lightning_app.release.format.png import read_png
from lightning_app.release.write.writer import Release
from tests.masker import write_masker
from tests.release.by_hand import relist, sign_as_it_is, signed
from tests.release.released import SIZE, release

KINDS = ("core_first", "codebook", "free")
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SHOWN = 138  # of 24×24, a share of 0.24


def checkpoint(home: Path, kind: str) -> Path:
    """The checkpoint of a masker for this kind, at `home/<kind>.ckpt`."""
    path = home / f"{kind}.ckpt"
    return path if path.exists() else write_masker(path, size=SIZE, rounds=3 * (kind == "core_first"))


def learned(home: Path, kind: str, **more: Any) -> LearnedMask:
    return LearnedMask(checkpoint(home, kind), 0.24, kind, **more)  # type: ignore[arg-type]


def release_each(home: Path, raw: Path, kind: str, name: str | None = None, **changed: Any) -> Release:
    """Release a tree under masks of a kind to `home/<kind>`."""
    accept = {"accept_interference": True} if kind == "free" else {}
    given = {"desensitizer": learned(home, kind), "batch_size": 4} | accept | changed
    return release(home, raw, name or kind, **given)


def pairs_of_files(root: Path) -> list[tuple[Path, Path]]:
    """List images with their masks."""
    images = sorted((root / "images").rglob("*.png"))
    return [(image, root / "masks" / image.relative_to(root / "images")) for image in images]


def pixels(path: Path) -> Any:
    """Decode a PNG of a release: `[H,W,C]`."""
    found = read_png(path.read_bytes())
    assert found.pixels is not None
    return found.pixels.copy()


def put_mask(path: Path, mask: Any) -> None:
    """Write a mask `[H,W]` of 0 and 1 as `desensitize` does."""
    path.write_bytes(encode_png(np.ascontiguousarray(mask).astype(np.uint8) * np.uint8(255)))


def put_image(path: Path, image: Any) -> None:
    """Write an image `[H,W,C]` as `desensitize` does."""
    flat = image[..., 0] if image.shape[2] == 1 or (image == image[..., :1]).all() else image
    path.write_bytes(encode_png(np.ascontiguousarray(flat)))


def forge(root: Path, sign: bool, **method: object) -> None:
    """Give the manifest the hashes of the files as they are now, and the owner's signature."""
    changed: dict[str, object] = {}
    if method:
        changed["method"] = json.loads((root / "manifest.json").read_text())["method"] | method
    if sign:
        signed(root, SIGNER)
    relist(root, **changed)
    if sign:
        sign_as_it_is(root, SIGNER)


def brightest(image: Tensor) -> Any:
    """The mask `[H,W]` that shows the brightest pixels of a raw face: a drawing of it."""
    flat = image.float().mean(0).flatten()
    mask = torch.zeros_like(flat)
    mask[flat.topk(SHOWN).indices] = 1
    return mask.view(image.shape[1:]).numpy()
