"""What several folders of tests share: a drawn set on disk and the command line."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import rich

from tests import warm
from tests.command_line import clean_config, write_config
from tests.spared import keep_onnx_operators, spare

# files that take long, most of them for the processes they start: first, so that two workers share the rest
LONG = (
    "test_deployment.py",
    "test_ddp.py",
    "test_resume.py",
    "test_export.py",
    "test_compare.py",
    "test_flower.py",
    "test_benchmarks.py",
    "test_cli.py",
    "test_trainer_options.py",
    "test_trainer_callbacks.py",
    "test_compare_killed.py",
    "test_shipped_configs.py",
    "test_ada_mixup_strategy.py",
)
STARTED = time.monotonic()
TESTS = Path(__file__).parent

spare()
os.environ.setdefault("WANDB_MODE", "disabled")
# tiny networks gain nothing from threads, and two of them on busy cores wait for each other at every layer; before
# torch is imported, and only where it is used: the process that deals tests to two workers has no need of it
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"
# how wide and how coloured this terminal is changes no table
for setting in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(setting, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of `tests/gpu` be tried on the CPU."""
    parser.addoption(
        "--gpu-device", default="cuda", help="device of the tests marked gpu; cpu is to try them"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of warm processes, once for all workers, which are forked from it as well."""
    if warm.FOLDER not in os.environ:
        warm.start()
    warm.use()


def pytest_collection(session: pytest.Session) -> None:
    """Import the test files, each worker from another place on: it finds compiled what the others have been at."""
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if own == 0 or session.config.args != session.config.getini("testpaths"):
        return
    files = sorted(TESTS.rglob("test_*.py"))
    first = len(files) * own // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for file in files[first:]:
        # what is wrong with one, or why it is skipped, the collection tells
        with suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(file.relative_to(TESTS.parent).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the others stay as they are."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Keep thousands of tests, which stay until the end, out of every search for garbage."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how long it took, and what was skipped and why."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.section(f"{time.monotonic() - STARTED:.0f} s, {sum(skipped.values())} skipped")
    for reason, count in sorted(skipped.items()):
        terminalreporter.line(f"skipped {count}: {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    file, _, words = report.longrepr if isinstance(report.longrepr, tuple) else (report.nodeid, 0, "")
    return f"{os.path.relpath(file)}: {words.removeprefix('Skipped: ')}"


@pytest.fixture(autouse=True)
def _nothing_of_another_test() -> None:
    """Forget what an earlier test left behind: the seed of its `seed_everything`, and how rich's console is set."""
    os.environ.pop("PL_GLOBAL_SEED", None)
    rich.reconfigure()
    keep_onnx_operators()


@pytest.fixture(autouse=True)
def _faces_drawn_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same faces once, but where the drawing is looked at."""
    if "datamodules" in sys.modules and "drawn" not in request.path.name:
        from tests.drawn_once import remember_drawn_faces

        remember_drawn_faces(monkeypatch)


@pytest.fixture(autouse=True)
def _curves_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the curves of fits that log the same keys once."""
    if "callbacks.results" in sys.modules:
        from tests.charts_once import remember_curves

        remember_curves(monkeypatch)


@pytest.fixture(scope="session")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder tree of 6 drawn people with 8 images of 48 px each, and its pairs.txt (4 folds)."""
    from datamodules import DrawnFaces

    root = tmp_path_factory.mktemp("faces") / "drawn"
    DrawnFaces(identities=6, images_per_identity=8, size=48, seed=1).write(root, count_per_class=6, folds=4)
    return root


@pytest.fixture
def run_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
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
    home = tmp_path_factory.mktemp("fitted")
    return _fit(home, write_config(home / "tiny.yaml", drawn_root, "ResNetFSM"))


@pytest.fixture(scope="session")
def fitted_clean(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which `fit --config clean.yaml` has run once: ResNet on clean faces, verified on none."""
    home = tmp_path_factory.mktemp("fitted_clean")
    return _fit(home, clean_config(home / "clean.yaml", drawn_root))


def _fit(home: Path, config: Path) -> Path:
    from main import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home
