"""A comparison that is killed goes on: no run is trained and no attack measured twice, and the end is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_app.commands.compare import run
from lightning_app.evaluation.privacy import keep
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import measurer, report
from tests.command_line import write_config

FORK = multiprocessing.get_context("fork")
DIARY = "diary.txt"  # what was trained and what was measured, by every process
WRITERS = {"trained": jobs, "measured": measurer, "reported": report}
NAMES = {"trained": "call", "measured": "keep", "reported": "write_atomically"}


def note(line: str) -> None:
    with Path(DIARY).open("a") as diary:
        diary.write(f"{line}\n")


def fake_fit(fitted: Path, args: Sequence[str]) -> bool:
    """A `fit` that ends with what another one left."""
    at = {args[i]: args[i + 1] for i in range(len(args) - 1)}
    home = Path(at["--runs"]) / at["--name"]
    shutil.rmtree(home, ignore_errors=True)
    (home / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints/last.ckpt", "config.yaml", "metrics.json"):
        shutil.copy(fitted / "runs/tiny" / name, home / name)
    note(f"trained {at['--name']}")
    return True


def compared(
    fitted: Path, path: Path, patch: Callable[[object, str, Any], None], at: str = "", after: int = -1
) -> None:
    """Compare; be killed in place of call number `after` of what `at` names."""
    patch(jobs, "call", lambda args, *rest: fake_fit(fitted, args))

    def kept(file: Path, part: dict[str, Any]) -> None:
        keep(file, part)
        note(f"measured {file.stem}")

    patch(measurer, "keep", kept)
    if at:
        module, name, left = WRITERS[at], NAMES[at], [after]
        honest = getattr(module, name)

        def dies(*args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(*args, **more)

        patch(module, name, dies)
    run(["--config", str(path)])


def diary() -> list[str]:
    return Path(DIARY).read_text().splitlines() if Path(DIARY).exists() else []


def found() -> dict[str, Any]:
    text: dict[str, Any] = json.loads(Path("runs/both/metrics.json").read_text())
    return {key: value for key, value in text.items() if not key.startswith(("time/", "memory/"))}


@pytest.mark.slow
def test_a_comparison_that_was_killed_anywhere_goes_on(
    fitted: Path,
    drawn_root: Path,
    tmp_path: Path,
    config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = str(write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetFSM"))
    path = config(methods={"mask": {"config": fit}, "again": {"config": fit}}, judges={"m": "mask"})
    compared(fitted, path, monkeypatch.setattr)
    whole, wanted = found(), diary()
    trained = [line for line in wanted if line.startswith("trained")]
    assert len(trained) == 2
    assert len(set(wanted)) == len(wanted) > 5
    for at, after in (("trained", 1), ("measured", 3), ("reported", 7)):
        shutil.rmtree("runs")
        Path(DIARY).unlink()
        process = FORK.Process(target=compared, args=(fitted, path, setattr, at, after))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"{at} {after}"
        before = diary()
        assert len(before) < len(wanted) or at == "reported"
        compared(fitted, path, monkeypatch.setattr)
        assert found() == whole, f"{at} {after}"
        assert sorted(diary()) == sorted(wanted), f"{at} {after}: something was done twice, or not at all"
        assert not list(Path("runs").rglob("*.tmp"))
        monkeypatch.setattr(jobs, "call", lambda *args: pytest.fail("a run that is there was trained again"))
        run(["--config", str(path)])
