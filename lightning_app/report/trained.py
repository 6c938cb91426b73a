"""What a run's training measured, apart from what `validate` and `test` measure of it later."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from lightning_app.report.tables import Scalar, read_metrics, write_metrics

log = logging.getLogger("faceveil")

METRICS = "metrics.json"
TRAINED = "metrics.fit.json"


def write_trained(run_dir: Path, metrics: Mapping[str, SupportsFloat | str | None]) -> dict[str, Scalar]:
    """Write what a training measured: `metrics.json`, and `metrics.fit.json`, which nothing later changes.

    Args:
        run_dir: `runs/<name>`.
        metrics: log keys and their values.

    Returns:
        What the files hold.
    """
    write_metrics(run_dir / TRAINED, metrics)
    return write_metrics(run_dir / METRICS, metrics)


def write_later(run_dir: Path, command: str, metrics: Mapping[str, SupportsFloat | str | None]) -> None:
    """Write what `validate` or `test` measured of a run: `metrics.validate.json`, and to `metrics.json` what is new.

    Pairs, mask and images may be others than those of the training. So what the training measured stays as it is: the
    card of an export, `runs` and studies speak of it.

    Args:
        run_dir: `runs/<name>`.
        command: `validate` or `test`.
        metrics: log keys and their values.
    """
    path = run_dir / METRICS
    trained = read_trained(run_dir) if path.is_file() else {}
    if trained and not (run_dir / TRAINED).is_file():  # of a version that did not keep it
        write_metrics(run_dir / TRAINED, trained)
    own = write_metrics(run_dir / f"metrics.{command}.json", metrics)
    write_metrics(path, {key: value for key, value in own.items() if key not in trained}, merge=True)
    other = sorted(key for key, value in own.items() if key in trained and trained[key] != value)
    if other:
        log.warning(
            "%s keeps what the training measured: %d metrics are other ones now (%s%s), see metrics.%s.json.",
            path, len(other), ", ".join(other[:3]), ", …" if len(other) > 3 else "", command,
        )  # fmt: skip


def read_trained(run_dir: Path) -> dict[str, Scalar]:
    """Read what a training measured, whatever was validated since; empty where the folder holds no training's metrics.

    Args:
        run_dir: `runs/<name>`.

    Raises:
        ValueError: a file is not a flat JSON object.
    """
    if (run_dir / TRAINED).is_file():
        return read_metrics(run_dir / TRAINED)
    found = read_metrics(run_dir / METRICS) if (run_dir / METRICS).is_file() else {}
    return found if "run/steps" in found else {}
