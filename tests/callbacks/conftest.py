from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import wandb
from lightning.pytorch.callbacks import Checkpoint

from callbacks import ProgressBar
from tests.callbacks.tiny_run import MakeTrainer


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    def make(*callbacks: L.Callback, epochs: int = 2, logger: Any = False, **more: Any) -> L.Trainer:
        return L.Trainer(
            default_root_dir=tmp_path / "run", callbacks=list(callbacks), max_epochs=epochs, logger=logger,
            accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0,
            enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
            enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
            log_every_n_steps=1, **more,
        )  # fmt: skip

    return make


@pytest.fixture
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no mode, no host: neither in the environment, nor in a home folder, nor in W&B's memory."""
    wandb.teardown()  # W&B reads its settings once per process
    for name in ("MODE", "API_KEY", "BASE_URL", "PROJECT", "IDENTITY_TOKEN_FILE", "NAME", "DIR", "SILENT"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
