"""What lies in a released folder, and what of it does not belong there."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightning_app.release.manifest import IMAGES, MANIFEST, SIGNATURE, TIMESTAMP, Manifest

_FEW = 8  # time stamps that are told file by file
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # as FUSE and network file systems say it


@dataclass(frozen=True, order=True)
class Finding:
    """Something that a release must not have.

    Attributes:
        file: its path in the release; `.` is the folder itself.
        what: in words; neither a name of the raw set nor what was hidden.
    """

    file: str
    what: str


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


def walk_release(root: str | Path, manifest: Manifest, times: bool = False) -> Tree:
    """List a released folder and compare it with its manifest; no link is followed.

    Args:
        root: the folder.
        manifest: its own.
        times: also compare every time stamp with the one all releases bear, and look for extended attributes.

    Returns:
        The files there are, and findings: files, folders, links and others that the manifest does not list,
        and those it lists that are missing. Of many time stamps that differ one finding tells.
    """
    wanted = {*manifest.files, MANIFEST, *([SIGNATURE] if manifest.signer else [])}
    folders = {IMAGES, *(name.rpartition("/")[0] for name in manifest.files if "/" in name)}
    files: set[str] = set()
    findings: list[Finding] = []
    marks = _Marks()
    if times:
        findings += marks.of(".", str(root), os.stat(root))
    for name, entry in entries(root):
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
        if times and not entry.is_symlink():
            findings += marks.of(name, entry.path, entry.stat(follow_symlinks=False))
    findings += [*marks.times(), *(Finding(name, "is missing") for name in _missing(wanted, files))]
    return Tree(frozenset(files), sorted(findings), marks.notes)


def _missing(wanted: Collection[str], files: Collection[str]) -> Iterator[str]:
    return (name for name in wanted if name not in files)


def entries(folder: str | Path, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all that lies in a folder, at any depth, with its path from there; no link is followed.

    Args:
        folder: where to look.
        below: what its entries' paths begin with.
    """
    with os.scandir(folder) as found:
        for entry in found:
            name = f"{below}{entry.name}"
            yield name, entry
            if entry.is_dir(follow_symlinks=False):
                yield from entries(entry.path, f"{name}/")


def _hidden(name: str) -> str:
    return "a hidden " if name.rpartition("/")[2].startswith(".") else "a "


class _Marks:
    """What a file system says of files beside their content.

    Attributes:
        notes: what it does not tell.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._other: list[str] = []  # names of what bears another time stamp

    def of(self, name: str, path: str, stat: os.stat_result) -> Iterator[Finding]:
        """Look at the extended attributes of one of them, and remember it where its time stamp is another."""
        if stat.st_mtime_ns != TIMESTAMP * 10**9:
            self._other.append(name)
        if hasattr(os, "listxattr") and not self.notes:
            try:
                extra = [key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user.")]
            except OSError as error:
                if error.errno not in _NO_ATTRIBUTES:
                    raise
                self.notes.append("extended attributes were not checked: this file system keeps none")
                return
            if extra:
                yield Finding(name, f"has {len(extra)} extended attributes")

    def times(self) -> list[Finding]:
        """Name those with another time stamp; a copy that has lost all of them is one finding."""
        if len(self._other) <= _FEW:
            what = "its time stamp is not the one that every released file bears"
            return [Finding(name, what) for name in self._other]
        return [
            Finding(
                ".",
                f"{len(self._other)} files and folders bear other time stamps than every released file does, as after "
                "`cp -r`: copy with `cp -a`, or audit with --ignore-times",
            )
        ]
