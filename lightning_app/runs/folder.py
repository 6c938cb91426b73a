"""The folder of a run: `runs/<name>/` with config, checkpoints, metrics.json, CSV and pictures."""

from __future__ import annotations

import io
import logging
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_app.core.csv_text import read_csv_table
from lightning_app.core.files import read_bounded
from lightning_app.runs.checkpoint_bounds import archive_flaw, values_flaw
from lightning_app.runs.lock import check_free, release
from lightning_app.runs.state import STATE, read_state

log = logging.getLogger("faceveil")
RECORD = "federation.json"  # what a federation is called, and what its result depends on
LAST = Path("checkpoints") / "last.ckpt"
PREVIOUS = LAST.with_name("previous.ckpt")  # the one before, see callbacks.RunCheckpoint
_MOST_LOG = 128 << 20  # bytes of a log that is read: some 500,000 rows
_MARKS = ("config.yaml", "checkpoints", "metrics.json", "metrics.csv")  # what only a run leaves behind
# all that a run leaves and a new one does not write over; W&B's folders stay, they may not be synced yet
_REMAINS = ("checkpoints", "metrics.json", "metrics.*.json", "metrics.csv", "metrics.*.csv", "faces.png",
            "restored.png", "masks.png", "mean_mask.png", "mixing.png", "budget.png", "confusion_*", "scores",
            "embeddings*.safetensors", "embeddings*.csv", "hparams.yaml", "curves.png", STATE, "validate", "test",
            "predict")  # fmt: skip


def has_checkpoint(run_dir: Path) -> bool:
    """Return whether a run can be gone on with: it has `last.ckpt`, or at least the checkpoint before it.

    Args:
        run_dir: `runs/<name>`.
    """
    return (run_dir / LAST).is_file() or (run_dir / PREVIOUS).is_file()


def read_given(path: Path) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint that an argument `checkpoint` means, as `read_checkpoint` does for `--ckpt_path`.

    Args:
        path: a file, whatever it is called, or the folder of a run, whose last it then is.

    Returns:
        As `read_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`.
    """
    if path.is_dir() and not has_checkpoint(path):
        raise FileNotFoundError(
            f"checkpoint {path}: no last.ckpt in {path / LAST.parent}; give a .ckpt, or the folder of a run that has "
            "trained"
        )
    try:
        # absolute: a file may be called `last`
        return read_checkpoint("last" if path.is_dir() else str(path.absolute()), path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("--ckpt_path", "checkpoint", 1)) from error


def resolve_checkpoint(ckpt_path: str, run_dir: Path) -> Path:
    """Turn `last` into the run's newest whole checkpoint and refuse a file that is no whole checkpoint.

    Args:
        ckpt_path: `last`, a path, or the folder of a run, whose last it then is. `last` is `last.ckpt`; where that is
            missing or damaged, `previous.ckpt`, and a line says so.
        run_dir: `runs/<name>`.

    Raises:
        FileNotFoundError: there is no such checkpoint; names the folder.
        ValueError: the file is truncated, no checkpoint, or carries more than weights; of `last`, both are.
    """
    return read_checkpoint(ckpt_path, run_dir)[0]


def read_checkpoint(ckpt_path: str, run_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Read a checkpoint once: what was checked is what is used.

    Args:
        ckpt_path: as in `resolve_checkpoint`.
        run_dir: `runs/<name>`.

    Returns:
        The file; and its weights and plain values. Weights are on the CPU, and not read before they are used.

    Raises:
        FileNotFoundError, ValueError: see `resolve_checkpoint`.
    """
    if ckpt_path != "last":
        path = Path(ckpt_path)
        if path.is_dir():
            return read_checkpoint("last", path)
        if not path.is_file():
            raise FileNotFoundError(
                f"--ckpt_path {ckpt_path}: no such file; give a .ckpt of a run, the run's folder, or 'last'"
            )
        content = _content(path)
        if isinstance(content, str):
            raise ValueError(f"--ckpt_path {path}: {content}")
        return path, content
    last, previous = run_dir / LAST, run_dir / PREVIOUS
    if not has_checkpoint(run_dir):
        raise FileNotFoundError(
            f"--ckpt_path last: no last.ckpt in {last.parent}; train first (fit without --ckpt_path) or give "
            "--name of the run to go on with"
        )
    of_last = read_whole(last) if last.is_file() else "missing"
    if not isinstance(of_last, str):
        return last, of_last
    of_previous = read_whole(previous) if previous.is_file() else "missing"
    if isinstance(of_previous, str):
        raise ValueError(
            f"--ckpt_path last: neither checkpoint of {last.parent} can be used (last.ckpt: {of_last}; "
            f"previous.ckpt: {of_previous}): train anew with --overwrite"
        )
    log.warning("%s: %s. Taking %s, the checkpoint before it.", last, of_last.partition(";")[0], previous)
    return previous, of_previous


def read_whole(path: Path) -> dict[str, Any] | str:
    """Read a checkpoint that we wrote; return what is wrong with it in its place, its bytes' checksums included.

    Args:
        path: an existing file.
    """
    return _torn(path) or _content(path)


def _torn(path: Path) -> str | None:
    """Return what is wrong with the bytes of a file that we wrote, with their checksums; None where nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "the file is damaged" if archive.testzip() else None
    except zipfile.BadZipFile:
        return "the file is truncated or no checkpoint"


def _content(path: Path) -> dict[str, Any] | str:
    """Read a checkpoint; return what is wrong with it in its place, where something is."""
    # torch writes a zip archive whose directory stands at the end: a truncated file has none
    if not zipfile.is_zipfile(path):
        return "the file is truncated or no checkpoint; take an earlier one"
    try:
        if flaw := archive_flaw(path):
            return flaw
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return "holds more than weights and plain values (code, perhaps): refused"
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError) as error:
        return f"the file is damaged ({str(error).splitlines()[0]}); take an earlier one"
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        return "not a Lightning checkpoint (no state_dict); take a run's last.ckpt"
    return values_flaw(checkpoint) or checkpoint


def check_run(run_dir: Path, checkpoint: Path | None, overwrite: bool) -> None:
    """Refuse to `fit` into a folder that has a run, unless it is gone on with or may be replaced.

    Args:
        run_dir: `runs/<name>`.
        checkpoint: what is gone on with, if anything.
        overwrite: whether an earlier run may be replaced.

    Raises:
        FileExistsError: the folder has a run.
        ValueError: another process trains there now, or `overwrite` would remove the checkpoint that is gone on with.
    """
    own = checkpoint is not None and run_dir.resolve() in checkpoint.resolve().parents
    if own and overwrite:
        raise ValueError(
            f"--overwrite would remove {checkpoint}, which --ckpt_path goes on with: leave one out"
        )
    ours = [(run_dir / name).resolve() for name in (LAST, PREVIOUS)]
    going_on = checkpoint is not None and checkpoint.resolve() in ours
    if not going_on and not overwrite and any((run_dir / mark).exists() for mark in _MARKS):
        check_free(run_dir)
        done = read_state(run_dir)[0] == "finished"
        raise FileExistsError(
            f"{run_dir} holds a {'finished run' if done else 'run'} already: go on with it (--ckpt_path last"
            f"{', a larger --trainer.max_epochs' if done else ''}), replace it (--overwrite) or choose another --name"
        )


def put_log_aside(run_dir: Path) -> None:
    """Rename `metrics.csv` to `metrics.N.csv`: Lightning's CSVLogger deletes the one it finds."""
    if (run_dir / "metrics.csv").exists():
        (run_dir / "metrics.csv").rename(next_log(run_dir))


def next_log(run_dir: Path) -> Path:
    """Return `metrics.N.csv` with the lowest N above those that are there.

    Args:
        run_dir: `runs/<name>`.
    """
    taken = [int(path.suffixes[0][1:]) for path in logs_of(run_dir) if path.name != "metrics.csv"]
    return run_dir / f"metrics.{max(taken, default=0) + 1}.csv"


def logs_of(run_dir: Path) -> list[Path]:
    """Return the logs of a run that are there, that of its first start first: `metrics.1.csv` … `metrics.csv`.

    Args:
        run_dir: `runs/<name>`.
    """
    earlier = sorted(
        (int(number), path)
        for path in run_dir.glob("metrics.*.csv")
        if (number := path.suffixes[0][1:]).isdecimal()
    )
    return [path for path in (*(path for _, path in earlier), run_dir / "metrics.csv") if path.is_file()]


def read_log(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a run's log, which may have come from somebody else.

    Args:
        path: one of `logs_of`.

    Raises:
        ValueError: it is no file, larger than 128 MB, or no UTF-8.
        csv.Error: it is no CSV.
        OSError: it cannot be read.
    """
    content = read_bounded(path, _MOST_LOG)
    yield from read_csv_table(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline=""))


def clear_run(run_dir: Path) -> None:
    """Remove what an earlier run left in its folder, and nothing else."""
    for pattern in _REMAINS:
        for path in run_dir.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def forget_start(run_dir: Path) -> None:
    """Remove the folder of a run that failed before its first step, so that the same command can be given again.

    Only what a start writes is removed; the folder stays where anything else lies in it.

    Args:
        run_dir: `runs/<name>`, made by this process.
    """
    for name in ("config.yaml", "hparams.yaml", "metrics.csv", STATE):
        (run_dir / name).unlink(missing_ok=True)
    release(run_dir)
    if run_dir.is_dir() and not any(run_dir.iterdir()):
        run_dir.rmdir()
