"""The folder of a run: `runs/<name>/` with config, checkpoints, metrics.json, CSV and pictures."""

from __future__ import annotations

import logging
import pickle
import shutil
import zipfile
from pathlib import Path

import torch

log = logging.getLogger("faceveil")
LAST = Path("checkpoints") / "last.ckpt"
_MARKS = ("config.yaml", "checkpoints", "metrics.json", "metrics.csv")  # what only a run leaves behind


def resolve_checkpoint(ckpt_path: str, run_dir: Path) -> Path:
    """Turn `last` into the run's `last.ckpt` and refuse a file that is no whole checkpoint.

    Args:
        ckpt_path: `last` or a path.
        run_dir: `runs/<name>`.

    Raises:
        FileNotFoundError: there is no such checkpoint; names the folder.
        ValueError: the file is truncated, no checkpoint, or carries more than weights.
    """
    path = run_dir / LAST if ckpt_path == "last" else Path(ckpt_path)
    if not path.is_file():
        if ckpt_path == "last":
            raise FileNotFoundError(
                f"--ckpt_path last: no last.ckpt in {path.parent}; train first (fit without --ckpt_path) or give "
                "--name of the run to go on with"
            )
        raise FileNotFoundError(f"--ckpt_path {ckpt_path}: no such file; give a .ckpt of a run, or 'last'")
    # torch writes a zip archive whose directory stands at the end: a truncated file has none
    if not zipfile.is_zipfile(path):
        raise ValueError(f"--ckpt_path {path}: the file is truncated or no checkpoint; take an earlier one")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"--ckpt_path {path}: holds more than weights and plain values (code, perhaps): refused"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--ckpt_path {path}: the file is damaged ({reason}); take an earlier one"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(
            f"--ckpt_path {path}: not a Lightning checkpoint (no state_dict); take a run's last.ckpt"
        )
    return path


def open_run(run_dir: Path, going_on: bool, overwrite: bool) -> None:
    """Claim the folder for `fit`.

    Args:
        run_dir: `runs/<name>`.
        going_on: whether a checkpoint is gone on with; the CSV log there is then kept as `metrics.N.csv`.
        overwrite: remove what an earlier run left.

    Raises:
        FileExistsError: the folder has a run and neither is asked for.
    """
    log_file = run_dir / "metrics.csv"
    if going_on and log_file.exists():  # CSVLogger deletes the file it finds
        earlier = len(list(run_dir.glob("metrics.*.csv"))) + 1
        log_file.rename(run_dir / f"metrics.{earlier}.csv")
    there = [mark for mark in _MARKS if (run_dir / mark).exists()]
    if not there or going_on:
        return
    if not overwrite:
        raise FileExistsError(
            f"{run_dir} holds a run already: go on with it (--ckpt_path last), replace it (--overwrite) or choose "
            "another --name"
        )
    log.info("Removing the earlier run in %s", run_dir)
    for child in run_dir.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def unsupported_gpu() -> str | None:
    """Word one line where a GPU is there that the installed torch has no code for; None where all is well."""
    if not torch.cuda.is_available():
        return None
    built = torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    arch = f"sm_{major}{minor}"
    same_major = any(
        a.startswith(f"sm_{major}") and int(a[len(f"sm_{major}") :] or 0) <= minor for a in built
    )
    if not built or same_major or f"compute_{major}{minor}" in built:
        return None
    return (
        f"{torch.cuda.get_device_name()} ({arch}) is not supported by torch {torch.__version__} (built for "
        f"{', '.join(built)}): install a build with {arch} (see the README), or use --trainer.accelerator cpu"
    )
