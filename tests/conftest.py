"""What several folders of tests share: a drawn set on disk and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules import DrawnFaces
from tests.command_line import write_config

os.environ.setdefault("WANDB_MODE", "disabled")
# tiny networks gain nothing from threads, and two of them on busy cores wait for each other at every layer
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


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
