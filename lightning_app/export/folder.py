"""Where an export goes: a folder that is there whole or not at all, or files that share a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_app.runs.atomic import files_at_once, folder_at_once, recover

__all__ = ["check_output", "files_at_once", "folder_at_once", "named_after", "renamed"]


def named_after(output: str, files: Sequence[str]) -> dict[str, str]:
    """Return the files of an export: as they are in a folder, after NAME where the output is `NAME.onnx`.

    Args:
        output: a folder, or a file that ends in `.onnx`.
        files: what they are called in a folder.
    """
    path = Path(output)
    if path.suffix.lower() != ".onnx":
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

    What a killed export has left there is put right first.

    Args:
        output: the folder, or a file that ends in `.onnx`.
        names: see `named_after`.
        overwrite: whether an earlier export may be replaced.

    Raises:
        FileExistsError: it has files, and overwrite is off.
        ValueError: it is another kind of file, or the folder holds something else.
    """
    recover(output)
    if output.suffix.lower() == ".onnx":
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
