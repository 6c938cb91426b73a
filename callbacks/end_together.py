"""A rank that fails ends all of them."""

from __future__ import annotations

import signal

import lightning as L

from lightning_app.distributed.failure import Watch


class EndTogether(L.Callback):
    """End every rank of a run when one of them fails, with its message (see `lightning_app.distributed.failure`).

    The command line puts it before all other callbacks: those that save something when a run breaks wait for
    ranks that may have gone.
    """

    def __init__(self) -> None:
        self._watch: Watch | None = None

    def watch(self, trainer: L.Trainer) -> None:
        """Watch from now on, where there are several ranks; before anything can fail, hence no hook.

        Args:
            trainer: whose ranks.
        """
        if trainer.world_size == 1:
            return

        def end_children() -> None:
            # those that Lightning started beside this process; torchrun and SLURM look after their own
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGKILL)

        self._watch = Watch(end_children)
        self._watch.start()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Tell the others, unless the run was asked to stop, which all of them are."""
        if self._watch is None:
            return
        if isinstance(exception, KeyboardInterrupt | SystemExit):
            self._watch.stop()
        else:
            self._watch.failed(exception)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop watching: all went well."""
        if self._watch is not None:
            self._watch.stop()
