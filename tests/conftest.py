"""What several folders of tests share: a drawn set on disk and the command line."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules import DrawnFaces
from tests.command_line import write_config

# files whose tests start many processes and wait for them: first, so that two workers share the rest
LONG = (
    "test_deployment.py",
    "test_ddp.py",
    "test_resume.py",
    "test_export.py",
    "test_compare.py",
    "test_flower.py",
)
STARTED = time.monotonic()

os.environ.setdefault("WANDB_MODE", "disabled")
# tiny networks gain nothing from threads, and two of them on busy cores wait for each other at every layer
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the others stay as they are."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how long it took, and what was skipped and why."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.section(f"{time.monotonic() - STARTED:.0f} s, {sum(skipped.values())} skipped")
    for reason, count in sorted(skipped.items()):
        terminalreporter.line(f"skipped {count}: {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    file, _, words = report.longrepr if isinstance(report.longrepr, tuple) else (report.nodeid, 0, "")
    return f"{os.path.relpath(file)}: {words.removeprefix('Skipped: ')}"


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of 6 drawn people with 8 images of 48 px each, and its pairs.txt (4 folds)."""
    root = tmp_path_factory.mktemp("faces") / "drawn"
    DrawnFaces(identities=6, images_per_identity=8, size=48, seed=1).write(root, count_per_class=6, folds=4)
    return root


@pytest.fixture
def veil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command line, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*args: object) -> None:
        from main import main

        main([str(arg) for arg in args])

    return run


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which `fit --config tiny.yaml` has run once: ResNet-FSM."""
    from main import main

    home = tmp_path_factory.mktemp("fitted")
    config = write_config(home / "tiny.yaml", drawn_root, "ResNetFSM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home
