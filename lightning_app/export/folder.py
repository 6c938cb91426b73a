"""Where an export goes: a folder that is there whole or not at all, or files that share a name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def named_after(output: str, files: Sequence[str]) -> dict[str, str]:
    """Name the files of an export: as they are in a folder, after NAME where the output is `NAME.onnx`.

    Args:
        output: a folder, or a file that ends in `.onnx`.
        files: what they are called in a folder.
    """
    path = Path(output)
    if path.suffix != ".onnx":
        return {file: file for file in files}
    ends = {"model": "", "README": "", "card": "_card", "mask": "_mask"}
    return {file: f"{path.stem}{ends[Path(file).stem]}{Path(file).suffix}" for file in files}


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Call the files in a text by their own names.

    Args:
        text: which calls them as they are called in a folder.
        names: that name → theirs.
    """
    for file, own in names.items():
        for quoted in ("`{}`", '"{}"'):
            text = text.replace(quoted.format(file), quoted.format(own))
    return text


def check_output(output: Path, names: Mapping[str, str], overwrite: bool) -> None:
    """Refuse an output that would be written over unasked, or a folder that holds anything but an earlier export.

    Args:
        output: the folder, or a file that ends in `.onnx`.
        names: see `named_after`.
        overwrite: whether an earlier export may be replaced.

    Raises:
        FileExistsError: it has files, and overwrite is off.
        ValueError: it is another kind of file, or the folder holds something else.
    """
    if output.suffix == ".onnx":
        there = [name for name in names.values() if (output.parent / name).exists()]
        if there and not overwrite:
            raise FileExistsError(
                f"--output {output}: {output.parent / there[0]} is there already; give --overwrite, or another"
            )
        return
    if not output.exists():
        return
    if not output.is_dir():
        raise ValueError(f"--output {output}: is a file; give a folder, or a name that ends in .onnx")
    held = sorted(path.name for path in output.iterdir())
    other = [name for name in held if name not in names]
    if other:
        raise ValueError(
            f"--output {output}: holds {other[0]}, which no export wrote, and the whole folder is replaced; give "
            "another folder"
        )
    if held and not overwrite:
        raise FileExistsError(f"--output {output}: there is an export already; give --overwrite, or another")


@contextmanager
def files_at_once(folder: Path, names: Mapping[str, str]) -> Iterator[Path]:
    """Give a folder to write into, whose files take their places, each whole or not at all, when all went well.

    Args:
        folder: where they go; made where it is missing.
        names: see `named_after`; the first of them comes last.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder, prefix=".export.", suffix=".tmp"))
    try:
        yield work
        for file, own in reversed(list(names.items())):
            if (work / file).exists():
                os.replace(work / file, folder / own)
            else:
                (folder / own).unlink(
                    missing_ok=True
                )  # of an earlier export, such as the mask of a model that had one
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def folder_at_once(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` to write into, which takes its place when all went well.

    After an error nothing is left of it, and an earlier folder is as it was.

    Args:
        output: the folder; its parents are made where they are missing.
    """
    output = output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}.", suffix=".tmp"))
    made, old = work / "new", work / "old"
    try:
        made.mkdir()  # with the umask's rights, as mkdtemp's own are 0700
        yield made
        if output.exists():
            os.rename(output, old)
        try:
            os.rename(made, output)
        except OSError:
            if old.exists():
                os.rename(old, output)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
