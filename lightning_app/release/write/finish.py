"""The end of a release: its mask, nothing that does not belong there, its manifest, constant time stamps."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from lightning_app.core.files import file_sha256, write_atomically
from lightning_app.core.version import version
from lightning_app.masks import mask_hash, mask_ratio, save_mask
from lightning_app.release.format.each_mask import (
    CODES,
    MASKS,
    code_file,
    encode_mask,
    is_code_file,
    is_mask_file,
    mask_file,
)
from lightning_app.release.format.manifest import Manifest, MaskEntry
from lightning_app.release.format.names import (
    IMAGES,
    MANIFEST,
    MASK,
    MASK_FACTS,
    SIGNATURE,
    TIMESTAMP,
    is_image_file,
)
from lightning_app.release.format.signing import sign
from lightning_app.release.format.tensors import PAIRS, SHARDS, is_shard_file
from lightning_app.release.format.tree import entries, walk_release

FILE, FOLDER = 0o644, 0o755  # rights of all that is released, whatever the umask
PARTS = ".part"  # of the released folder: where files are written before they take their names
_TOP = (MANIFEST, SIGNATURE, MASK, MASK_FACTS, PAIRS)
_OURS = (is_image_file, is_shard_file, is_mask_file, is_code_file)
_LEFT = re.compile(rf"\.({'|'.join(re.escape(name) for name in _TOP)})\..*\.tmp")  # write_atomically's


def stamp(path: str | Path | int) -> None:
    """Give a file or folder, or an open file by its number, the time stamp that all of a release bear."""
    os.utime(path, (TIMESTAMP, TIMESTAMP))


def make_room(output: Path, overwrite: bool) -> None:
    """Check that a new release finds an empty folder, or none.

    Args:
        output: the folder.
        overwrite: remove the release that is there: files of its names, and nothing else.

    Raises:
        FileExistsError: something is there, and overwrite is off or it is no release's.
    """
    if not overwrite:
        if output.exists() and any(output.iterdir()):
            raise FileExistsError(
                f"output {output}: is not empty; name another --output, or replace the release in it (--overwrite)"
            )
        return
    if foreign := next(_foreign(output), None):
        raise FileExistsError(f"output {output}: holds {foreign}, which is of no release; move it away")
    open_release(output)
    for name in (MASK, MASK_FACTS, PAIRS):
        (output / name).unlink(missing_ok=True)
    for file in _shards(output):
        file.unlink()
    remove_if_empty(output / SHARDS)
    for folder in _folders(output):
        for file in folder.iterdir():
            name = file.relative_to(output).as_posix()
            if is_image_file(name) or is_mask_file(name):
                file.unlink()
        remove_if_empty(folder)
    remove_if_empty(output / IMAGES)
    remove_if_empty(output / MASKS)


def _foreign(output: Path) -> Iterator[str]:
    """Yield what lies in a folder and is neither of a release nor what a killed one left."""
    for name, entry in entries(output) if output.exists() else ():
        head, *rest = name.split("/")
        if entry.is_dir(follow_symlinks=False):
            known = (head in (IMAGES, MASKS, PARTS) and len(rest) < 2) or name in (SHARDS, CODES)
        else:
            ours = any(check(name) for check in _OURS) or name in _TOP or (head == CODES and len(rest) == 1)
            known = ours or bool(_LEFT.fullmatch(name)) or head == PARTS
        if not known:
            yield name


def open_release(output: Path) -> None:
    """Turn a release into an unfinished one: without manifest, and without what a kill left half written."""
    for name in (MANIFEST, SIGNATURE):
        (output / name).unlink(missing_ok=True)
    if output.exists():
        _remove_parts(output)
        _remove_codes(output)


def write_mask(output: Path, mask: Tensor, guard: int, method: str) -> tuple[MaskEntry, dict[str, str]]:
    """Write the release's mask with its facts.

    Args:
        output: the released folder.
        mask: `[1,1,H,W]`.
        guard: that it was widened by, in pixels.
        method: class of the desensitizer.

    Returns:
        Its entry in the manifest, and the hashes of both files by name.
    """
    save_mask(mask, output / MASK, **mask_facts(guard, method, version()))
    hashes = {name: file_sha256(output / name) for name in (MASK, MASK_FACTS)}
    ratio = mask_ratio(mask[0])
    assert isinstance(ratio, float)
    return MaskEntry(MASK, hashes[MASK], mask_hash(mask), ratio, guard), hashes


def write_codes(output: Path, codes: Tensor | None) -> dict[str, str]:
    """Write the public masks of a release, anew each time.

    Args:
        output: the released folder.
        codes: `[C,1,H,W]`; None where there are none.

    Returns:
        The files' hashes by name.
    """
    _remove_codes(output)
    found = {}
    for number, code in enumerate(() if codes is None else codes):
        data = encode_mask(code)
        write_atomically(output / code_file(number), data)
        found[code_file(number)] = hashlib.sha256(data).hexdigest()
    return found


def _remove_codes(output: Path) -> None:
    """Remove the codebook, and what a kill left of it: it is written at the end, within a moment."""
    if (output / CODES).is_dir() and not (output / CODES).is_symlink():
        shutil.rmtree(output / CODES)


def mask_facts(guard: int, method: str, made_with: str) -> dict[str, object]:
    """Return all that a released `mask.json` says beside what is measured from the mask, in its order.

    Args:
        guard: that the mask was widened by, in pixels.
        method: class of the desensitizer.
        made_with: version of FaceVeil.
    """
    return {"made_by": "desensitize", "method": method, "guard": guard, "version": made_with}


def finish(
    output: Path, manifest: Manifest, signer: Ed25519PrivateKey | None, refused: Iterable[str] = ()
) -> None:
    """Close a release: refuse what does not belong there, write signature and manifest, set rights and time stamps.

    Args:
        output: the released folder, with all its images and its mask.
        manifest: of what is in it.
        signer: signs it.
        refused: paths that images which were refused would have: removed where an earlier run wrote them.

    Raises:
        ValueError: something is in the folder that is not of this release, or a file of it is missing.
    """
    for image in refused:
        for name in (image, mask_file(image)):
            (output / name).unlink(missing_ok=True)
            remove_if_empty((output / name).parent)
    _remove_parts(output)
    findings = [f for f in walk_release(output, manifest).findings if f.file not in (MANIFEST, SIGNATURE)]
    if findings:
        raise ValueError(
            f"output {output}: {findings[0].file} {findings[0].what}; put it right and give the same command again"
        )
    content = manifest.to_bytes()
    if signer is not None:
        write_atomically(output / SIGNATURE, sign(content, signer))
    write_atomically(output / MANIFEST, content)  # last: without it, it is no release
    for file in _codes(output):
        file.chmod(FILE)
        stamp(file)
    tops = [output / name for name in (IMAGES, SHARDS, MASKS, CODES)]
    for folder in [*_folders(output), *(top for top in tops if top.is_dir())]:
        folder.chmod(FOLDER)
        stamp(folder)
    for name in _TOP:
        if (output / name).exists():
            (output / name).chmod(FILE)
            stamp(output / name)
    stamp(output)


def _folders(output: Path) -> Iterator[Path]:
    """Yield the folders of identities, none that is a link, of images and of their masks."""
    for top in (output / IMAGES, output / MASKS):
        if top.is_dir() and not top.is_symlink():
            yield from (f for f in top.iterdir() if f.is_dir() and not f.is_symlink())


def _codes(output: Path) -> Iterator[Path]:
    """Yield the public masks."""
    if (output / CODES).is_dir() and not (output / CODES).is_symlink():
        yield from (f for f in (output / CODES).iterdir() if is_code_file(f"{CODES}/{f.name}"))


def _shards(output: Path) -> Iterator[Path]:
    """Yield the shards of a release of representations; its folder must not be a link."""
    if (output / SHARDS).is_dir() and not (output / SHARDS).is_symlink():
        yield from (f for f in (output / SHARDS).iterdir() if is_shard_file(f"{SHARDS}/{f.name}"))


def _remove_parts(output: Path) -> None:
    shutil.rmtree(output / PARTS, ignore_errors=True)
    for path in output.iterdir():
        if _LEFT.fullmatch(path.name):
            path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; one that is not there is none."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
