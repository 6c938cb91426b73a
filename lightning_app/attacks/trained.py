"""An attacker that was trained on the way these images were desensitized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_app.attacks.base import Attack
from lightning_app.core.batch import Batch
from lightning_app.networks.partial_conv import of_images
from lightning_app.networks.pix2pix import Pix2PixGenerator, RestorationUNet, Restoring
from lightning_app.networks.rfr import RFRNet
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.checkpoint_part import of_another, rebuilt, settings_of, weights_under
from lightning_app.runs.folder import read_given

SHAPE = ("width", "recurrences", "depth", "input_size")  # settings that make another network
DRAWN_SHAPE = ("width", "depth", "in_channels", "input_size")  # of the two that take representations too
BITS = "bit_planes"  # a setting that those before it lack
KEPT = "restorer"  # under this name their checkpoint keeps what `Drawn` says
_PREFIX = "network."
_MOST_RECURRENCES = 64  # share their weights, so that nothing in the file bounds them; the paper takes 6
_LARGEST = 4096  # px; nothing in the weights bounds the side of what is drawn
_CONFIG = "lfwa_quick_inpaint.yaml` (or lfwa_quick_unet, lfwa_quick_cgan)"


@dataclass(frozen=True)
class Kind:
    """What a checkpoint's settings are, and the network they make."""

    shape: tuple[str, ...]
    make: Callable[[Mapping[str, int]], nn.Module]


KINDS: Mapping[str, Kind] = {
    "Inpainter": Kind(SHAPE, lambda s: RFRNet(s["width"], s["recurrences"], s["depth"])),
    "UNetRestorer": Kind(
        DRAWN_SHAPE, lambda s: RestorationUNet(s["in_channels"], s["width"], s["depth"], bool(s.get(BITS)))
    ),
    "CGAN": Kind(
        DRAWN_SHAPE,
        lambda s: Pix2PixGenerator(s["in_channels"], s["width"], s["depth"], bit_planes=bool(s.get(BITS))),
    ),
}


@dataclass(frozen=True)
class Restorer:
    """A network out of the checkpoint of an `Inpainter`, a `UNetRestorer` or a `CGAN`, and what else the file says.

    Attributes:
        path: the file.
        network: in `eval()`, fp32, on the CPU, without gradients.
        settings: what makes the network, and `input_size`, the side of what it takes.
        masked: whether it was trained under masks.
        step: batches it was trained on.
        desensitizer: how the faces it was trained on were desensitized, as `Desensitizer.describe` tells.
        kind: the class it was trained as.
        pictures: whether it takes pictures; a representation otherwise.
        pixels: side of the pictures it draws.
    """

    path: Path
    network: nn.Module
    settings: dict[str, int]
    masked: bool
    step: int
    desensitizer: dict[str, Any]
    kind: str = "Inpainter"
    pictures: bool = True
    pixels: int = 0

    def check_size(self, size: int) -> None:
        """Raise ValueError unless it was trained on images of this side."""
        trained = self.settings["input_size"]
        if size != trained:
            raise ValueError(
                f"checkpoint {self.path}: was trained on images of {trained} px, these are {size} px; give one that "
                "was trained on this size"
            )


class TrainedRestorer(Attack):
    """Restore with a network that `fit` trained on other people's faces, desensitized the same way.

    It was trained as an `Inpainter`, a `UNetRestorer` or a `CGAN`; the last two also attack a method that releases no
    pictures, if it is the one they were trained on. CGAN's dropout is off: the same images are restored alike again.

    Args:
        checkpoint: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken.
        batch_size: images the network sees at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is none of these's; `restore`: the images are of
            another size, have other channels, or it was trained under masks and none is given.
    """

    def __init__(self, checkpoint: str | Path, batch_size: int = 32) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size}; give at least 1")
        self.restorer, self.batch_size = load_restorer(checkpoint), batch_size
        self.network = self.restorer.network
        self.needs_mask, self.needs_image = self.restorer.masked, self.restorer.pictures

    def guess(self, released: Batch) -> Tensor:
        """Return what the network makes of every image."""
        desensitized, mask, mask_index = released["image"], released["mask"], released["mask_index"]
        for side in desensitized.shape[2:]:
            self.restorer.check_size(side)
        channels = self.restorer.settings.get("in_channels", 3)
        if desensitized.shape[1] != channels:
            raise ValueError(
                f"checkpoint {self.restorer.path}: was trained on {channels} channels, these images have "
                f"{desensitized.shape[1]}; give one that was trained on this method"
            )
        self.network.to(desensitized.device).eval()
        whole = (self.restorer.pixels, self.restorer.pixels)
        size = (whole,) if isinstance(self.network, Restoring) else ()
        done = []
        for rows in torch.arange(len(desensitized), device=desensitized.device).split(self.batch_size):
            image = desensitized[rows].float()
            own = None if mask is None else of_images(mask, mask_index[rows])
            done.append(self.network(image, own, None, *size).float())
        return torch.cat(done)

    def checkpoints(self) -> list[Path]:
        """Return the one it was read from."""
        return [self.restorer.path]

    def describe(self) -> dict[str, object]:
        """Return the attack, its network's settings, steps of training, and what it was trained to undo."""
        found = self.restorer
        kind = {} if found.kind == "Inpainter" else {"kind": found.kind, "pixels": found.pixels}
        facts = {**kind, **found.settings, "step": found.step, "trained_on": found.desensitizer}
        return super().describe() | facts


def load_restorer(path: str | Path) -> Restorer:
    """Build the network that the checkpoint of an attacker holds. Nothing in the file is run.

    Args:
        path: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is of none of the `KINDS`.
    """
    path = Path(path)
    file, checkpoint = read_given(path)
    kind = kind_of(checkpoint)
    state, saved = state_of_network(checkpoint, f"checkpoint {path}", kind), checkpoint["hyper_parameters"]
    description = checkpoint["inpainter" if kind == "Inpainter" else KEPT]
    with settings_of(path):
        settings = {key: int(saved[key]) for key in KINDS[kind].shape} | (
            {BITS: 1} if saved.get(BITS) else {}
        )
        if settings.get("recurrences", 0) > _MOST_RECURRENCES:
            raise ValueError(f"recurrences {settings['recurrences']}, more than {_MOST_RECURRENCES}")
        network = rebuilt(lambda: KINDS[kind].make(settings), state)
        pixels = int(description.get("pixels", settings["input_size"]))
        if not 0 < pixels <= _LARGEST:
            raise ValueError(f"pixels {pixels}, not 1 to {_LARGEST}")
    data = checkpoint.get(DATA_STATE)
    return Restorer(
        path=file,
        network=network,
        settings=settings,
        masked=bool(description["masked"]),
        step=int(description.get("batches", checkpoint.get("global_step", 0))),
        desensitizer=dict((data or {}).get("desensitizer") or {}),
        kind=kind,
        pictures=bool(description.get("pictures", True)),
        pixels=pixels,
    )


def kind_of(checkpoint: Mapping[str, Any]) -> str:
    """Return the attacker that a checkpoint says it is of, one of `KINDS`; `Inpainter` where it says nothing."""
    description = checkpoint.get(KEPT)
    kind = description.get("kind") if isinstance(description, Mapping) else None
    return kind if isinstance(kind, str) and kind in KINDS else "Inpainter"


def state_of_network(checkpoint: Mapping[str, Any], what: str, kind: str = "Inpainter") -> dict[str, Tensor]:
    """Take the network's weights out of the checkpoint of an attacker.

    Args:
        checkpoint: as Lightning wrote it.
        what: to call it in the message.
        kind: which attacker's it has to be, one of `KINDS`.

    Raises:
        ValueError: it is another model's.
    """
    saved = checkpoint.get("hyper_parameters") or {}
    state = weights_under(checkpoint, _PREFIX)
    description = checkpoint.get("inpainter" if kind == "Inpainter" else KEPT)
    if (
        not state
        or not isinstance(description, Mapping)
        or kind_of(checkpoint) != kind
        or any(key not in saved for key in KINDS[kind].shape)
    ):
        raise of_another(checkpoint, what, f"{'an' if kind == 'Inpainter' else 'a'} {kind}", _CONFIG)
    return state
