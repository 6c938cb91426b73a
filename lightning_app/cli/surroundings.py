"""What stands around every command: log messages on the terminal, and warnings of Lightning's that help no user."""

from __future__ import annotations

import logging
import warnings

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.enums import StrEnum
from rich.logging import RichHandler

from lightning_app.cli.whole_numbers import try_whole_numbers_first

# of Lightning's messages; that a GPU is there is shown
_OF_NO_USE = (
    "💡", "TPU available: False", "GPU available: False", "Loading `train_dataloader` to estimate",
    "Restoring states from",  # "Restored all states from" follows
)  # fmt: skip
_SEED = "Seed set to"  # behind a rank's name, where there are several; config.yaml has it

try_whole_numbers_first(L.Trainer.__init__)  # whoever reads its arguments


def set_up() -> None:
    """Set up logging, warnings, YAML and matrix products for a command; a second time changes nothing."""
    set_up_logging()
    for noise in (
        r".*isinstance\(treespec, LeafSpec\).*",
        r"Be aware that when using `ckpt_path`.*",
        r"torch.distributed.nn.functional.all_gather is deprecated.*",
        r"It is recommended to use `self.log\(.*sync_dist=True\)`.*",  # ours are summed over the ranks before
        r"The number of training batches \(\d+\) is smaller than the logging interval.*",  # every epoch logs its losses
        r"Experiment logs directory .* exists and is not empty.*",  # CSVLog goes on with it, or it was put aside
    ):
        warnings.filterwarnings("ignore", message=noise)  # Lightning's own affairs, of no use to a user
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).addFilter(_of_use)
    # as which YAML writes a default such as `Interval.step` of Lightning's Timer
    yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(value.value))
    torch.set_float32_matmul_precision("high")


def is_rank_zero() -> bool:
    """Return whether this is the first of all ranks, before they have met too."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _of_use(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not message.startswith(_OF_NO_USE) and _SEED not in message


def set_up_logging() -> None:
    """Send FaceVeil's own messages to the terminal, one line each, once."""
    for name in ("faceveil", "lightning_app", "datamodules", "callbacks"):
        ours = logging.getLogger(name)
        if not ours.handlers:
            ours.addHandler(RichHandler(show_time=False, show_path=False, markup=False))
            # of several ranks one speaks; the others are heard where they fail
            ours.setLevel(logging.INFO if is_rank_zero() else logging.ERROR)
