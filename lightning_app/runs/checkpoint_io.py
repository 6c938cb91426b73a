"""Checkpoints that are on the disk whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from lightning_app.core.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's own way to write checkpoints, made safe against kills, power cuts and full disks.

    The checkpoint is streamed to a temporary file in the same folder (`.NAME.*.tmp`), never held in memory a
    second time; file and folder are synced (fsync) before and after it takes its name (`os.replace`). Whatever
    happens, the name stands for a whole checkpoint: the old one or the new one. Writing to a
    remote path (`s3://…`) is Lightning's; so is reading, but that code is never read, whatever the environment says.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: weights and plain values.
            path: the file.
            storage_options: not taken, as in Lightning's own.

        Raises:
            OSError: it could not be written (a full disk, for one); an older file of that name stays.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(path, sync=True) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:
            # torch closes its archive over the file's own error and raises one of its own about positions
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> Any:
        """Read a checkpoint: weights and plain values alone, whatever is asked for.

        Args:
            path: the file.
            map_location: as in Lightning's own.
            weights_only: not taken; code is never read out of a checkpoint.
        """
        return super().load_checkpoint(path, map_location, weights_only=True)


def with_atomic_writes(plugins: Any, strategy: Any) -> list[Any]:
    """Add `AtomicCheckpointIO` to a trainer's plugins, unless the user chose how checkpoints are written.

    Args:
        plugins: `Trainer`'s argument: one, several or None.
        strategy: `Trainer`'s argument; an object may bring its own.
    """
    given = list(plugins) if isinstance(plugins, Sequence) and not isinstance(plugins, str) else [plugins]
    kept = [plugin for plugin in given if plugin is not None]
    # the strategy's property would make one where there is none
    chosen = getattr(strategy, "_checkpoint_io", None) is not None
    if not chosen and not any(isinstance(plugin, CheckpointIO) for plugin in kept):
        kept.append(AtomicCheckpointIO())
    return kept
