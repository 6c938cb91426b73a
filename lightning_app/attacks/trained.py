"""An attacker that was trained on the way these images were desensitized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_app.attacks.base import Attack
from lightning_app.core.batch import Batch
from lightning_app.networks.partial_conv import of_images
from lightning_app.networks.rfr import RFRNet
from lightning_app.runs.checkpoint_bounds import DATA_STATE, check_claim
from lightning_app.runs.folder import resolve_checkpoint

SHAPE = ("width", "recurrences", "depth", "input_size")  # settings that make another network
_PREFIX = "network."
_MOST_RECURRENCES = 64  # share their weights, so that nothing in the file bounds them; the paper takes 6


@dataclass(frozen=True)
class Restorer:
    """A network out of the checkpoint of an `Inpainter`, and what else the file says.

    Attributes:
        path: the file.
        network: in `eval()`, fp32, on the CPU, without gradients.
        settings: `width`, `recurrences`, `depth`, `input_size`.
        masked: whether it was trained under masks.
        step: optimiser steps done.
        desensitizer: how the faces it was trained on were desensitized, as `Desensitizer.describe` tells.
    """

    path: Path
    network: RFRNet
    settings: dict[str, int]
    masked: bool
    step: int
    desensitizer: dict[str, Any]

    def check_size(self, size: int) -> None:
        """Raise ValueError unless it was trained on images of this side."""
        trained = self.settings["input_size"]
        if size != trained:
            raise ValueError(
                f"checkpoint {self.path}: was trained on images of {trained} px, these are {size} px; give one that "
                "was trained on this size"
            )


class TrainedRestorer(Attack):
    """Restore with a network that `fit` trained as an `Inpainter` on other people's faces, desensitized the same way.

    Args:
        checkpoint: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken.
        batch_size: images the network sees at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is not an Inpainter's; `restore`: the images are of
            another size, or it was trained under masks and none is given.
    """

    def __init__(self, checkpoint: str | Path, batch_size: int = 32) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size}; give at least 1")
        self.restorer, self.batch_size = load_restorer(checkpoint), batch_size
        self.network = self.restorer.network
        self.needs_mask = self.restorer.masked

    def guess(self, released: Batch) -> Tensor:
        """Return what the network makes of every image."""
        desensitized, mask, mask_index = released["image"], released["mask"], released["mask_index"]
        for side in desensitized.shape[2:]:
            self.restorer.check_size(side)
        self.network.to(desensitized.device).eval()
        done = []
        for rows in torch.arange(len(desensitized), device=desensitized.device).split(self.batch_size):
            image = desensitized[rows].float()
            own = None if mask is None else of_images(mask, mask_index[rows])
            done.append(self.network(image, own).float())
        return torch.cat(done)

    def describe(self) -> dict[str, object]:
        """Return the attack, its network's settings, steps of training, and what it was trained to undo."""
        found = self.restorer
        facts = {**found.settings, "step": found.step, "trained_on": found.desensitizer}
        return super().describe() | facts


def load_restorer(path: str | Path) -> Restorer:
    """Build the network that the checkpoint of an `Inpainter` holds. Nothing in the file is run.

    Args:
        path: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is not an Inpainter's.
    """
    path = Path(path)
    try:
        # absolute: a file may be called `last`
        file = (
            resolve_checkpoint("last", path)
            if path.is_dir()
            else resolve_checkpoint(str(path.absolute()), path)
        )
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("--ckpt_path", "checkpoint", 1)) from error
    checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    state, saved = state_of_network(checkpoint, f"checkpoint {path}"), checkpoint["hyper_parameters"]
    try:
        settings = {key: int(saved[key]) for key in SHAPE}
        if settings["recurrences"] > _MOST_RECURRENCES:
            raise ValueError(f"recurrences {settings['recurrences']}, more than {_MOST_RECURRENCES}")
        shape = settings["width"], settings["recurrences"], settings["depth"]
        check_claim(lambda: RFRNet(*shape), state)
        network = RFRNet(*shape)
        network.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"checkpoint {path}: its weights do not fit its settings ({reason})") from error
    network.eval().requires_grad_(False)
    data = checkpoint.get(DATA_STATE)
    return Restorer(
        path=file,
        network=network,
        settings=settings,
        masked=bool(checkpoint["inpainter"]["masked"]),
        step=int(checkpoint.get("global_step", 0)),
        desensitizer=dict((data or {}).get("desensitizer") or {}),
    )


def state_of_network(checkpoint: dict[str, Any], what: str) -> dict[str, Tensor]:
    """Take the network's weights out of the checkpoint of an `Inpainter`.

    Args:
        checkpoint: as Lightning wrote it.
        what: to call it in the message.

    Raises:
        ValueError: it is another model's.
    """
    saved = checkpoint.get("hyper_parameters") or {}
    state = {k.removeprefix(_PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(_PREFIX)}
    if not state or "inpainter" not in checkpoint or any(key not in saved for key in SHAPE):
        kind = str(saved.get("_class_path", "")).rpartition(".")[2] or "another model"
        raise ValueError(
            f"{what} is not of an Inpainter but of {kind}; give one that `python main.py fit --config "
            "lfwa_quick_inpaint.yaml` wrote"
        )
    return state
