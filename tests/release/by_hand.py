"""A small release, written without the code that releases: what an audit is tried on."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from datamodules import FolderFaces
from lightning_app.core.png import encode_png
from lightning_app.core.version import version
from lightning_app.desensitize import Desensitizer, GaussianBlur
from lightning_app.masks import load_mask, mask_hash, mask_ratio, save_mask
from lightning_app.release import Manifest, MaskEntry, Pseudonyms
from lightning_app.release.audit.run import Audit
from lightning_app.release.format.names import TIMESTAMP
from lightning_app.release.format.public import made_with
from lightning_app.release.format.signing import fingerprint, sign

KEY = bytes(range(32))
SIZE = 32
CROP = 44


def oval() -> Tensor:
    """A mask `[1,32,32]` that shows a slanted band, another one when mirrored."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((rows + 2 * columns) % 40) < 12).float()[None]


def write_release(
    root: Path,
    raw: Path,
    desensitizer: Desensitizer | None = None,
    hides: Tensor | None = None,
    **changed: object,
) -> Manifest:
    """Release a tree of faces under `oval` or another mask, or otherwise; `changed` goes into the manifest."""
    reader = FolderFaces(raw, size=SIZE, crop=CROP, cache_index=False)
    names, files = Pseudonyms(KEY), {}
    mask = None
    if desensitizer is None:
        facts = {"made_by": "desensitize", "method": "MaskOut", "guard": 0, "version": version()}
        save_mask(oval() if hides is None else hides, root / "mask.png", **facts)
        mask = load_mask(root / "mask.png")
    for index in range(len(reader)):
        folder, file = Path(reader.name(index)).parts[-2:]
        image = names.image(folder, f"{folder}/{file}")
        pixels = reader[index]["image"]
        if mask is not None:
            pixels = pixels * mask.to(torch.uint8)
        elif desensitizer is not None:
            pixels = (desensitizer.desensitize(pixels.float() / 255) * 255).round().to(torch.uint8)
        at = root / "images" / names.identity(folder) / f"{image}.png"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(png(pixels[0].permute(1, 2, 0).numpy()))
        files[at.relative_to(root).as_posix()] = sha256(at)
    entry = None
    if mask is not None:
        files |= {name: sha256(root / name) for name in ("mask.png", "mask.json")}
        entry = MaskEntry("mask.png", files["mask.png"], mask_hash(mask), float(mask_ratio(mask)))
    if desensitizer is not None:
        description = {"method": type(desensitizer).__name__} | (
            {} if is_own(desensitizer) else desensitizer.describe()
        )
    else:
        assert entry is not None
        lies = {
            "size": [SIZE, SIZE],
            "masks": 1,
            "mask_hash": entry.mask_hash,
            "mask_ratio": entry.mask_ratio,
        }
        description = {"method": "MaskOut"} | lies
    entries: dict[str, object] = {
        "method": description, "size": SIZE, "channels": 3, "crop": CROP, "mask": entry, "files": files,
        "identities": len(reader.identities), "images": len(reader),
        "versions": made_with(), "refused": dict(Counter(reason for _, reason in reader.passed_over())),
    }  # fmt: skip
    manifest = Manifest(**(entries | changed))  # type: ignore[arg-type]
    (root / "manifest.json").write_bytes(manifest.to_bytes())
    set_times(root)
    return manifest


def is_own(desensitizer: Desensitizer) -> bool:
    """Whether a class is none of FaceVeil's: a manifest gives its name alone."""
    return not type(desensitizer).__module__.startswith("lightning_app.")


def signed(root: Path, key: Ed25519PrivateKey) -> None:
    """Sign a release as it is now: what a forger who has the owner's key can do."""
    relist(root, signer=fingerprint(key.public_key()))
    sign_as_it_is(root, key)


def sign_as_it_is(root: Path, key: Ed25519PrivateKey) -> None:
    """Sign the bytes of a manifest, whatever they are."""
    (root / "manifest.sig").write_text(sign((root / "manifest.json").read_bytes(), key))
    set_times(root)


def relist(root: Path, **changed: object) -> None:
    """Return the manifest the hashes that the files have now: what a forger without the signing key can do.

    Whatever else is changed is written as it is given, right or wrong.
    """
    old = json.loads((root / "manifest.json").read_text())
    files = {name: sha256(root / name) for name in old["files"]}
    whole = old | {"files": files} | changed
    if whole["version"] == 1:
        whole.pop("compression", None)
    (root / "manifest.json").write_text(as_written(whole))
    set_times(root)


def as_written(manifest: dict[str, Any]) -> str:
    """Write a manifest as `desensitize` does."""
    return json.dumps(manifest, indent=1, sort_keys=True, default=asdict) + "\n"


def images(root: Path) -> list[Path]:
    """List the images of a release."""
    return sorted((root / "images").rglob("*.png"))


def said(found: Audit) -> dict[str, list[str]]:
    """What an audit found, by file."""
    files: dict[str, list[str]] = {}
    for finding in found.findings:
        files.setdefault(finding.file, []).append(finding.what)
    return files


def set_times(root: Path) -> None:
    """Return every file and folder the time that released ones bear."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (TIMESTAMP, TIMESTAMP), follow_symlinks=False)


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Encode `[H,W,3]` as PNG; grey where it is."""
    grey = bool((pixels == pixels[..., :1]).all())
    return encode_png(np.ascontiguousarray(pixels[..., 0]) if grey else pixels)


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blur() -> GaussianBlur:
    """A method without a mask."""
    return GaussianBlur(9)
