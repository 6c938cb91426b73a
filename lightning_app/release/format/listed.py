"""What the files that a manifest lists must be: those that its other entries speak of, as many, and no others."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from lightning_app.release.format.each_mask import check_masks, is_code_file, is_mask_file
from lightning_app.release.format.entries import short_name
from lightning_app.release.format.names import MASK, MASK_FACTS, identity_of
from lightning_app.release.format.tensors import PAIRS, Tensors, is_shard_file

if TYPE_CHECKING:
    from lightning_app.release.format.manifest import Manifest


def check_files(manifest: Manifest, where: str) -> None:
    """Check the files that a manifest lists.

    Args:
        manifest: whose entries are what they may be.
        where: it stands, for messages.

    Raises:
        ValueError: a file is missing, does not belong there, or is counted otherwise; names it.
    """
    if manifest.tensors is not None:
        _check_shards(manifest, manifest.tensors, where)
        return
    wanted = set() if manifest.mask is None else {MASK, MASK_FACTS}
    if manifest.masks is not None and manifest.masks.pairs:
        wanted.add(PAIRS)
    found, beside, images = set(), 0, list[str]()
    folders = set()
    for name in manifest.files:
        if identity := identity_of(name):
            folders.add(identity)
            images.append(name)
        elif manifest.masks is not None and (is_mask_file(name) or is_code_file(name)):
            beside += 1
        else:
            found.add(name)
    if found != wanted:
        odd = sorted(found ^ wanted)[0]
        raise ValueError(
            f"{where}: files: {short_name(odd)} {'is missing' if odd in wanted else 'does not belong there'}"
        )
    counts = {
        "identities": (manifest.identities, len(folders)),
        "images": (manifest.images, len(manifest.files) - len(found) - beside),
    }
    for what, (said, listed) in counts.items():
        if said != listed:
            raise ValueError(
                f"{where}: {what} is {said}, but its files have {listed}; the release is damaged"
            )
    if manifest.mask is not None and manifest.mask.sha256 != manifest.files[MASK]:
        raise ValueError(f"{where}: mask.sha256 is not that of {MASK} in files; the release is damaged")
    if manifest.masks is not None:
        check_masks(manifest.masks, images, manifest.files, where)
    if manifest.classes is not None and manifest.classes.keys() != folders:
        raise ValueError(f"{where}: classes names other folders than its files have; the release is damaged")


def _check_shards(manifest: Manifest, tensors: Tensors, where: str) -> None:
    shards = [name for name in manifest.files if is_shard_file(name)]
    wanted = {PAIRS} if tensors.pairs else set()
    found = manifest.files.keys() - set(shards)
    if found != wanted:
        odd = min(found ^ wanted)
        raise ValueError(
            f"{where}: files: {short_name(odd)} {'is missing' if odd in wanted else 'does not belong there'}"
        )
    for what, said, counted in (
        ("images", manifest.images, sum(tensors.rows)),
        ("tensors.rows", len(tensors.rows), len(shards)),
    ):
        if said != counted:
            raise ValueError(
                f"{where}: {what} has {said}, but its shards have {counted}; the release is damaged"
            )
    last = int(PurePath(max(shards)).stem)
    if last >= len(shards) + sum(
        manifest.refused.values()
    ):  # where all images of one are refused there is none
        raise ValueError(
            f"{where}: files: the shards are numbered up to {last}, and there are {len(shards)}; "
            "the release is damaged"
        )
    if manifest.identities > manifest.images:
        raise ValueError(
            f"{where}: identities is {manifest.identities}, of {manifest.images} images; the release is damaged"
        )
