"""How a fit ends is written down, and one that failed before its first step leaves no folder."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_app.core.printing import reason
from lightning_app.runs.folder import forget_start
from lightning_app.runs.state import write_state


class RunState(L.Callback):
    """Keep `state.json` of a run folder: `running`, then `finished`, `stopped` or `failed`.

    The command line adds it to `fit`. A process that is killed leaves `running`, and no lock: that is how `runs` tells.

    Attributes:
        fresh: this fit made the folder: where it fails before its first step, the folder goes again.
    """

    def __init__(self) -> None:
        self.fresh = self._trains = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that it trains."""
        self._trains = True
        if _writes(trainer):
            write_state(Path(trainer.default_root_dir), "running")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Say how it ended; a start that failed leaves an earlier run's state as it was, or no folder."""
        if not _writes(trainer) or trainer.state.fn != "fit":
            return
        folder = Path(trainer.default_root_dir)
        stopped = isinstance(exception, KeyboardInterrupt | SystemExit | SIGTERMException)
        if self.fresh and trainer.global_step == 0:
            forget_start(folder)
        elif self._trains and folder.is_dir():
            why = "" if stopped else reason(exception) or type(exception).__name__
            write_state(folder, "stopped" if stopped else "failed", why)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say that it has finished; Lightning tears down only what ended well."""
        if stage == "fit" and _writes(trainer):
            write_state(Path(trainer.default_root_dir), "finished")


def _writes(trainer: L.Trainer) -> bool:
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
