"""What lies in a released folder, and what of it does not belong there."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.marks import Finding, Marks
from lightning_app.release.format.names import IMAGES, MANIFEST, SIGNATURE, TIMESTAMP
from lightning_app.release.format.tensors import SHARDS


@dataclass(frozen=True)
class Tree:
    """A released folder as it is found.

    Attributes:
        files: regular files, whether they belong there or not; paths with `/`.
        findings: what does not belong there, and what is missing.
        notes: what could not be looked at.
    """

    files: frozenset[str]
    findings: list[Finding]
    notes: list[str] = field(default_factory=list)


def walk_release(root: str | Path, manifest: Manifest, marks: bool = False, times: bool = True) -> Tree:
    """List a released folder and compare it with its manifest; no link is followed.

    Args:
        root: the folder.
        manifest: its own.
        marks: also look at what the file system says of each beside its content, see `Marks`.
        times: of that, also compare every time stamp with the one all releases bear.

    Returns:
        The files there are, and findings: files, folders, links and others that the manifest does not list,
        and those it lists that are missing. Of many marks that differ one finding tells.
    """
    wanted = {*manifest.files, MANIFEST, *([SIGNATURE] if manifest.signer else [])}
    kept = IMAGES if manifest.tensors is None else SHARDS
    folders = {kept, *(name.rpartition("/")[0] for name in manifest.files if "/" in name)}
    folders |= {name.partition("/")[0] for name in folders}
    files: set[str] = set()
    findings: list[Finding] = []
    seen = Marks(TIMESTAMP if times else None)
    if marks:
        findings += seen.of(".", str(root), os.stat(root))

    def closed(name: str, error: OSError) -> None:
        findings.append(Finding(name, f"cannot be looked into ({error.strerror})"))

    for name, entry in entries(root, closed):
        if entry.is_symlink():
            findings.append(Finding(name, "is a symbolic link"))
        elif entry.is_dir(follow_symlinks=False):
            if name not in folders:
                findings.append(Finding(name, f"is {_hidden(name)}folder that the manifest does not list"))
        elif entry.is_file(follow_symlinks=False):
            files.add(name)
            if name not in wanted:
                findings.append(Finding(name, f"is {_hidden(name)}file that the manifest does not list"))
        else:
            findings.append(Finding(name, "is neither file nor folder"))
        if marks and not entry.is_symlink():
            try:
                findings += seen.of(name, entry.path, entry.stat(follow_symlinks=False))
            except OSError as error:
                closed(name, error)
    findings += [*seen.differing(), *(Finding(name, "is missing") for name in _missing(wanted, files))]
    return Tree(frozenset(files), sorted(findings), seen.notes)


def _missing(wanted: Collection[str], files: Collection[str]) -> Iterator[str]:
    return (name for name in wanted if name not in files)


def entries(
    folder: str | Path, closed: Callable[[str, OSError], None] | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all that lies in a folder, at any depth, with its path from there; no link is followed.

    Args:
        folder: where to look.
        closed: told the path of a folder below that cannot be looked into, because its rights forbid it or its path
            is longer than the system allows, and why; by default it is passed over.

    Raises:
        OSError: the folder itself cannot be looked into.
    """
    left = [("", os.fspath(folder))]  # a stack, not a recursion: a tree may be deeper than Python's
    while left:
        name, path = left.pop()
        try:
            with os.scandir(path) as listed:
                found = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            if not name:
                raise
            if closed is not None:
                closed(name, error)
            continue
        below = f"{name}/" if name else ""
        yield from ((below + entry.name, entry) for entry in found)
        folders = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
        left += [(below + entry.name, entry.path) for entry in reversed(folders)]


def _hidden(name: str) -> str:
    return "a hidden " if name.rpartition("/")[2].startswith(".") else "a "
