"""The attack that restores no picture: it embeds what was released where a recogniser embeds the clean face."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_app.core.batch import Batch
from lightning_app.networks.linking import LinkStudent
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.checkpoint_part import of_another, rebuilt, settings_of, weights_under
from lightning_app.runs.folder import read_given

KEPT = "linker"  # under this name its checkpoint keeps what it says of itself
SHAPE = ("backbone", "width", "in_channels", "input_size")  # settings that make another network
_PREFIX = "network."
_LARGEST = 4096  # px, and dimensions of an embedding


class LinkAttack(nn.Module):
    """Link released faces to clean ones with a student that `fit` trained as a `Linker`.

    It gives embeddings, not pictures, so that no measure of likeness sees it: those of released images, to be compared
    by cosine with the recogniser's of clean faces (`lightning_app.evaluation.LinkJudge` does).

    Args:
        checkpoint: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken. Nothing in it is run.

    Attributes:
        teacher: what the recogniser is: the SHA-256 of its checkpoint, or what the judge said of itself.
        trained_on: how the faces it was trained on were desensitized, as `Desensitizer.describe` tells.
        step: batches it was trained on.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or is not a Linker's.

    Source: FaceLinkGen, 2026: a student from protected templates to a clean recogniser's embeddings.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        super().__init__()
        path = Path(checkpoint)
        self.path, content = read_given(path)
        state = student_state(content, f"checkpoint {path}")
        saved, description = content["hyper_parameters"], content[KEPT]
        with settings_of(path):
            pixels, dim = (_number(description, key) for key in ("pixels", "dim"))
            given_shape = (
                str(saved["backbone"]),
                int(saved["in_channels"]),
                pixels,
                dim,
                int(saved["width"]),
                bool(saved.get("bit_planes")),
            )
            self.network = rebuilt(lambda: LinkStudent(*given_shape), state)
        self.settings = {key: saved[key] for key in SHAPE}
        self.settings |= {"bit_planes": True} if saved.get("bit_planes") else {}
        self.teacher, self.step = str(description["teacher"]), int(description["batches"])
        self.trained_on: dict[str, Any] = dict((content.get(DATA_STATE) or {}).get("desensitizer") or {})

    @torch.no_grad()
    def embed(self, released: Batch) -> Tensor:
        """Embed what a method released.

        Args:
            released: of which `image` `[B,C,h,w]` is looked at, as released: not normalised.

        Returns:
            `[B,D]` float32, not of length 1, on the images' device.

        Raises:
            ValueError: the images have other channels or another size than those it was trained on.
        """
        image = released["image"].float()
        channels, side = self.settings["in_channels"], self.settings["input_size"]
        if image.shape[1:] != (channels, side, side):
            raise ValueError(
                f"checkpoint {self.path}: was trained on {channels} channels of {side} px, these images have "
                f"{image.shape[1]} of {image.shape[-1]} px; give one that was trained on this method"
            )
        self.network.to(image.device).eval()
        found: Tensor = self.network(image)
        return found.float()

    def describe(self) -> dict[str, object]:
        """Return what goes into tables and reports: the attack, its network, how long and on what it was trained."""
        return {"attack": type(self).__name__, **self.settings, "step": self.step, "teacher": self.teacher[:64],
                "trained_on": self.trained_on}  # fmt: skip


def student_state(checkpoint: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """Take the student's weights out of the checkpoint of a `Linker`.

    Args:
        checkpoint: as Lightning wrote it.
        what: to call it in the message.

    Raises:
        ValueError: it is another model's.
    """
    saved, description = checkpoint.get("hyper_parameters") or {}, checkpoint.get(KEPT)
    state = weights_under(checkpoint, _PREFIX)
    complete = (
        isinstance(description, Mapping) and {"pixels", "dim", "teacher", "batches"} <= description.keys()
    )
    if not state or not complete or any(key not in saved for key in SHAPE):
        raise of_another(checkpoint, what, "a Linker", "lfwa_quick_linker.yaml`")
    return state


def _number(description: Mapping[str, Any], key: str) -> int:
    value = int(description[key])
    if not 0 < value <= _LARGEST:
        raise ValueError(f"{key} {value}, not 1 to {_LARGEST}")
    return value
