"""The runs there are: how each stands and its main metrics."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard

from lightning_app.core.foreign import read_json
from lightning_app.core.log_keys import accuracies
from lightning_app.core.printing import printable
from lightning_app.runs.folder import read_log
from lightning_app.runs.state import STATE, State, read_state

# what only a command leaves, and which one; of `fit` what stands first in the list
_LEFT_BY = {
    "federation.json": "federate", "compare.csv": "compare", "ablation.png": "ablate", "sweep.png": "sweep-levels",
    "search.png": "search-mask", "align.jsonl": "align", "journal.jsonl": "desensitize", "report.html": "compare",
}  # fmt: skip
_RUN = ("config.yaml", "metrics.json", "metrics.csv", "checkpoints", STATE, *_LEFT_BY)


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        name: of the folder, below the one that was looked through.
        what: the command that left it, such as `fit`.
        model: class of the model; empty where there is none.
        state: how it stands, see `read_state`.
        reason: what it failed with.
        changed: when it last wrote its state, metrics or log, UTC, ISO 8601.
        epochs: how many were trained; None where that is not known.
        accuracy: verification accuracy by the name of the set, shares of 1.
        mask_ratio: hidden share of the pixels; None where nothing is hidden, or it is not known.
        dssim: of the desensitized faces; None where it was not measured.
    """

    name: str
    what: str
    model: str
    state: State
    reason: str
    changed: str
    epochs: int | None
    accuracy: dict[str, float]
    mask_ratio: float | None
    dssim: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)


def list_runs(folder: str | Path) -> list[Run]:
    """Scan the folders of runs, those that changed last first.

    Args:
        folder: such as `runs`.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"runs={root}: no such folder; `fit` makes it, or give --runs FOLDER")
    runs = [_run(path) for path in root.iterdir() if os.access(path, os.X_OK) and _is_run(path)]
    return sorted(runs, key=lambda run: (run.changed, run.name), reverse=True)


def _is_run(path: Path) -> bool:
    return any((path / mark).exists() for mark in _RUN)


def _run(path: Path) -> Run:
    metrics = _figures(path / "metrics.json") or _logged(path)
    state, reason = read_state(path)
    return Run(
        name=path.name,
        what=_what(path),
        model=str(metrics.get("run/model") or ""),
        state=state,
        reason=reason,
        changed=_changed(path),
        epochs=_number(metrics, "run/epochs", int),
        accuracy={
            name: float(metrics[key])
            for name, key in sorted(accuracies(metrics).items())
            if _is_finite(metrics[key])
        },
        mask_ratio=_number(metrics, "privacy/mask_ratio", float),
        dssim=_number(metrics, "privacy/dssim", float),
    )


def _what(path: Path) -> str:
    """Return the command that left a folder; one that only verified has no checkpoint of its own."""
    left = next((what for mark, what in _LEFT_BY.items() if (path / mark).exists()), None)
    if left is not None:
        return left
    looked = next(
        (stage for stage in ("validate", "test") if (path / f"metrics.{stage}.json").exists()), "fit"
    )
    return "fit" if (path / "checkpoints").exists() else looked


def _figures(path: Path) -> Mapping[str, Any]:
    """Read the metrics of a run; none where they are not there or damaged: other runs are still to be listed."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _logged(path: Path) -> Mapping[str, Any]:
    """Return the last value of each metric that a run has logged which has not come to its end."""
    found: dict[str, Any] = {}
    try:
        for row in read_log(path / "metrics.csv"):
            for key, text in row.items():
                with suppress(ValueError):  # an empty cell
                    found[key] = float(text)
    except (OSError, ValueError, csv.Error):  # none, or damaged: other runs are still to be listed
        return {}
    return found


def _number(metrics: Mapping[str, Any], key: str, kind: Callable[[float], Any]) -> Any:
    value = metrics.get(key)
    return kind(value) if _is_finite(value) else None


def _is_finite(value: object) -> TypeGuard[float]:
    """Return whether a metric is a number that can be shown; a run that diverged has others."""
    return isinstance(value, int | float) and abs(value) < sys.float_info.max


def _changed(path: Path) -> str:
    times = [file.stat().st_mtime for name in (*_RUN, ".lock") if (file := path / name).exists()]
    moment = datetime.fromtimestamp(max(times, default=path.stat().st_mtime), timezone.utc)
    return moment.isoformat(timespec="seconds")


def row_of(run: Run) -> list[str]:
    """Return the cells of a run's row: name, what, state, date, epochs, accuracy, mask ratio and dSSIM.

    Args:
        run: one of `list_runs`.
    """
    local = datetime.fromisoformat(run.changed).astimezone()
    accuracy = ", ".join(f"{name} {value:.4f}" for name, value in run.accuracy.items())
    return [
        printable(run.name), f"{run.what} {run.model}".strip(), run.state,
        f"{local:%Y-%m-%dT%H:%M}", "" if run.epochs is None else str(run.epochs), accuracy,
        *("" if value is None else f"{value:.4f}" for value in (run.mask_ratio, run.dssim)),
    ]  # fmt: skip


COLUMNS = ["run", "what", "state", "last change", "epochs", "accuracy", "mask ratio", "dSSIM"]
# of these a narrow terminal shows fewer, the first goes first
SPARE = ["last change", "what", "dSSIM", "mask ratio", "epochs"]
