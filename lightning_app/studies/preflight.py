"""What can be checked before the first training of a study: hours later it would be a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from datamodules.precomputed import check_pictures
from lightning_app.cli.fit_config import FitSettings
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.masks import check_masks
from lightning_app.models.saved_network import check_network
from lightning_app.studies.config_place import said_at

_BYTES = 4  # of a number in fp32
_KEPT = 3  # numbers a parameter: itself, and what the optimiser remembers of it
_FILES = 2  # checkpoints on disk at a time: the last one, and the one that is being written
_SPARE = 64 << 20  # bytes of logs, pictures and metrics of a run


def check_fit(where: str, setting: FitSettings, learns: bool = True) -> None:
    """Check that a run can begin: its data are there, its masks and its model go together.

    Args:
        where: of the study's config it stands, for messages.
        setting: what its config says.
        learns: whether it is trained, and not only verified; then the training set is looked through.

    Raises:
        FileNotFoundError, ValueError: it cannot begin; begins with `where`.
    """
    data, model = setting.data, setting.model
    with said_at(where):
        data.desensitizer.prepare((data.size, data.size))
        if isinstance(model, Recogniser) and model.backbone.looks_at_masks:
            check_masks(type(model).__name__, data)
        verified = None if setting.verification is None else setting.verification.open(data)
        check_pictures(data.desensitizer, verified)
        if learns:
            reader = data.reader.open()
            if len(reader.identities) < 2:
                raise ValueError(f"{len(reader.identities)} class in the training set: give two or more")
            if data.global_batch_size < data.desensitizer.mixes:
                raise ValueError(
                    f"data.global_batch_size={data.global_batch_size}: images are mixed of {data.desensitizer.mixes}; "
                    "give as many or more"
                )
            check_pictures(data.desensitizer, reader)
            for name in ("init_from", "teacher"):
                given = getattr(model, name, None)
                if isinstance(given, str | Path) and not Path(given).exists():
                    raise FileNotFoundError(f"model.{name}={given}: no such file; train it first")


def check_checkpoint(where: str, config: str, setting: FitSettings, checkpoint: str | Path) -> None:
    """Check that a checkpoint goes into the network of a config, as `validate` would 90 seconds later.

    Args:
        where: of the study's config it stands, for messages.
        config: name of the config.
        setting: what it says.
        checkpoint: file or run folder.

    Raises:
        FileNotFoundError, ValueError: it does not, or cannot be read; begins with `where`.
    """
    with said_at(where, f"{checkpoint} under {config}"):
        held, facts = read_recogniser(checkpoint)
        facts.check_normalised(setting.data.mean, setting.data.std)
        if isinstance(setting.model, Recogniser):
            check_network(held.state_dict(), held.hparams, setting.model.backbone, setting.model.hparams)


def check_room(folder: Path, settings: Sequence[FitSettings]) -> None:
    """Check that what runs leave has room on the disk, and that the folder can be written.

    Args:
        folder: of the study.
        settings: of the runs that are to be trained.

    Raises:
        OSError: it has not, or cannot; says how much is needed and how much is there.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{there}: cannot be written, and {folder} would lie there")
    needed = sum(_bytes(one) for one in settings)
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"{folder}: {len(settings)} runs leave about {_gb(needed)}, and {_gb(free)} are free on its disk: make "
            "room, or give another --runs"
        )


def _bytes(setting: FitSettings) -> int:
    count = 0 if setting.model is None else sum(one.numel() for one in setting.model.parameters())
    return count * _BYTES * _KEPT * _FILES + _SPARE


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
