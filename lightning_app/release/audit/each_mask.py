"""The part of an audit that knows masks which images have one each: the codebook, and what the verdict must say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from lightning_app.desensitize.mask_kinds import mask_kind
from lightning_app.masks import mask_hash
from lightning_app.release.audit.findings import Findings
from lightning_app.release.audit.images import read_at_most
from lightning_app.release.format.each_mask import code_file, mask_faults
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.tree import Tree

_INTERFERES = "THE MASK OF AN IMAGE DEPENDS ON WHAT IT HIDES"


def check_codes(root: Path, manifest: Manifest, tree: Tree, found: Findings) -> Tensor | None:
    """Check the public masks of a release: bytes, pixels shown, hash of all.

    Args:
        root: the released folder.
        manifest: its own, with masks.
        tree: what lies in the folder.
        found: gets the findings.

    Returns:
        `[C,1,H,W]`; None where there are none, or where one is not what the manifest says.
    """
    assert manifest.masks is not None
    codes: list[Tensor] = []
    for name in map(code_file, range(manifest.masks.codes)):
        if name not in tree.files:
            continue  # said already
        data = read_at_most(root / name, manifest.size)
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            found.add(name, "its SHA-256 is not the manifest's")
        faults, mask = mask_faults(data, manifest.size, manifest.masks.shown)
        for fault in faults:
            found.add(name, fault)
        if mask is not None and not faults:
            codes.append(torch.from_numpy(mask).float())
    if not manifest.masks.codes:
        return None
    if len(codes) < manifest.masks.codes:
        return None
    every = torch.stack(codes)[:, None]
    if mask_hash(every) != manifest.method.get("mask_hash"):
        found.add("codebook", "its masks are not those whose hash the manifest gives")
        return None
    return every


def tells(manifest: Manifest) -> str:
    """Return in the verdict's first line how much of what it hides the mask of an image may tell; empty where nothing.

    Args:
        manifest: of the release.
    """
    if manifest.masks is None:
        return ""
    description = manifest.method
    kind = mask_kind(description)
    if not kind.bounded:
        bits = f"up to {description['bits']:g} bits an image, which may be a drawing of it"
        return f"{_INTERFERES} (kind {description['kind']}: {bits})"
    if kind.public and not kind.one_for_all:
        local = f", {description['epsilon']:g}-locally private" if "epsilon" in description else ""
        return (
            f"which of {description['masks']} public masks lies on an image may tell {description['bits']:g} bits "
            f"of what it hides{local}"
        )
    return ""
