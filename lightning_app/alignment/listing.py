"""A whole set: which images there are, where each goes and which landmarks it has."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from datamodules.readers.decode import SUFFIXES
from datamodules.readers.folder import TreeScan, natural
from datamodules.readers.index import Names
from datamodules.readers.not_read import is_read, kind_of, said
from lightning_app.alignment.landmarks import LandmarkFile
from lightning_app.alignment.place import FaceFile, Reason
from lightning_app.alignment.similarity import Points
from lightning_app.core.files import is_temporary

log = logging.getLogger("faceveil")


def list_images(root: Path) -> list[str]:
    """List a set: images in the folder itself, and in the folders of its identities.

    Args:
        root: the set's folder.

    Returns:
        Paths relative to it, with `/`; names that start with a dot, other files and folders further down are
        passed over, as `FolderFaces` does.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no images.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"root: {root} is no folder; give one with images, or with a folder of images per identity"
        )
    flat, others = list[str](), list[tuple[str, int]]()
    with os.scandir(root) as entries:
        for entry in entries:
            if is_read(entry):
                flat.append(entry.name)
            elif not entry.is_dir():
                others += kind_of(entry).items()
    scan = TreeScan(root).get(cache=False)
    folders = Names(scan["folders"], scan["folder_ends"])
    files = Names(scan["files"], scan["file_ends"])
    found, start = sorted(flat, key=natural), 0
    for number, count in enumerate(scan["counts"].tolist()):
        found += [f"{folders[number]}/{files[at]}" for at in range(start, start + count)]
        start += count
    kinds = Names(scan["other_kinds"], scan["other_ends"])
    others += [(kinds[number], count) for number, count in enumerate(scan["other_counts"].tolist())]
    line = said(others, len(found))
    if not found:
        raise ValueError(
            f"root: {root} has no {', '.join(SUFFIXES)} in it or in the folders right below; give the set's folder"
            + (f" ({line})" if line else "")
        )
    if line:
        log.warning("root: %s: %s.", root, line)
    return found


def make_jobs(
    root: Path,
    files: Sequence[str],
    suffix: str,
    landmarks: LandmarkFile | None,
    corrections: LandmarkFile | None,
) -> list[FaceFile]:
    """Return for every image where it goes and which landmarks it has.

    Args:
        root: the set's folder.
        files: of the set, see `list_images`.
        suffix: of the aligned files.
        landmarks: of the set; None looks for faces.
        corrections: landmarks that take precedence.

    Returns:
        One job for each file, in their order.

    Raises:
        ValueError: no image is in `landmarks`, or `corrections` name one that is not in the set.
    """
    targets = [str(Path(file).with_suffix(suffix)) for file in files]
    taken = Counter(targets)
    jobs, corrected, listed = [], set(), 0
    for file, target in zip(files, targets, strict=True):
        refused: Reason | None = "same name" if taken[target] > 1 else None
        source = corrections
        found = None if corrections is None else corrections.find(file)
        if found is not None:
            corrected.add(found[0])
        elif landmarks is not None:
            source, found = landmarks, landmarks.find(file)
            listed += found is not None
            refused = refused or ("no landmarks" if found is None else None)
        points = None if found is None else found[1]
        if found is not None and source is not None and source.is_ambiguous(found[0]):
            refused = refused or "two sets of landmarks"
        jobs.append(FaceFile(file, target, _stamp(root / file, points, refused), points, refused))
    if landmarks is not None and not listed:
        raise ValueError(
            f"landmarks: {landmarks.path} has none of the {len(files)} images of {root}: it starts with "
            f"{landmarks.names[0]!r}, the set with {files[0]!r}; give a list with paths relative to the set's folder"
        )
    unknown = [] if corrections is None else [name for name in corrections.names if name not in corrected]
    if corrections is not None and unknown:
        raise ValueError(f"corrections: {corrections.path} names {unknown[0]!r}, which is not in {root}")
    return jobs


def other_files(output: Path, ours: Iterable[str]) -> tuple[list[str], list[str]]:
    """List the files of a folder that are not ours; nothing is changed.

    Args:
        output: the folder; it need not be there.
        ours: paths relative to it.

    Returns:
        Foreign files, and half-written ones that a kill has left of ours.
    """
    known: dict[str, set[str]] = {}
    for path in ours:
        folder, _, name = path.rpartition("/")
        known.setdefault(folder, set()).add(name)
    foreign: list[str] = []
    left: list[str] = []
    for at, _, names in os.walk(output):
        folder = Path(at).relative_to(output).as_posix()
        own = known.get("" if folder == "." else folder, set())
        for name in names:
            if name in own:
                continue
            half = name.startswith(".") and any(is_temporary(name, of) for of in own)
            (left if half else foreign).append((Path(folder) / name).as_posix())
    return sorted(foreign), left


def _stamp(path: Path, points: Points | None, refused: Reason | None) -> str:
    try:
        facts = os.stat(path)
    except OSError:  # gone since it was listed; the worker finds out and says so
        return "gone"
    how = "search" if points is None else hashlib.blake2b(points.tobytes(), digest_size=8).hexdigest()
    return f"{facts.st_size}:{facts.st_mtime_ns}:{refused or how}"
