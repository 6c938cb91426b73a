"""A trained masker out of its checkpoint: the network, and what it was at the end of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_app.core.plain import is_count
from lightning_app.core.tensor_hash import tensors_hash
from lightning_app.masks.learned import Growth, check_share, grown, soft_mask
from lightning_app.masks.rounding import runs
from lightning_app.networks.unet import UNet
from lightning_app.runs.checkpoint_bounds import DATA_STATE
from lightning_app.runs.checkpoint_part import (
    check_finite,
    of_another,
    rebuilt,
    settings_of,
    weights_under,
)
from lightning_app.runs.folder import read_given

MASKER = "masker"  # key of a checkpoint, and, with a dot, prefix of the network's weights
SHAPE = ("masker_width", "masker_depth")  # settings that make another network
CHUNK = 64  # images that a masker sees at a time
_LARGEST = 4096  # px


@dataclass(frozen=True)
class Masker:
    """A network out of the checkpoint of an `AdversarialMasker`, and what else the file says.

    Attributes:
        path: the file.
        network: in `eval()`, fp32, on the CPU, without gradients.
        input_size: side of the images it was trained on, in pixels.
        share: of pixels shown in its training.
        growth: how its masks grew in its training.
        mean: `[H,W]` float32, the mean of its soft masks over `faces` training images.
        codes: `[C,H,W]` float32, means of clusters of these.
        faces: how many training images both were made of.
        hash: SHA-256 of the network's weights, see `masker_hash`.
        data: what the file says of the images it was trained on, see `FaceDataModule.state_dict`.
    """

    path: Path
    network: UNet
    input_size: int
    share: float
    growth: Growth
    mean: Tensor
    codes: Tensor
    faces: int
    hash: str
    data: dict[str, Any]

    @torch.no_grad()
    def masks(self, image: Tensor, shown: int, growth: Growth, soft: bool = False) -> Tensor:
        """Make of each image its mask, on the image's device.

        Args:
            image: `[B,3,H,W]` float in [0,1].
            shown: pixels that a mask shows.
            growth: how masks grow.
            soft: make soft masks, in [0,1], see `soft_mask`.

        Returns:
            `[B,1,H,W]` float32.
        """
        self.network.to(image.device)
        parts = list[Tensor]()
        with _exact(image.device):
            for part in image.float().split(CHUNK):
                mask, rounds = grown(self.network, part, shown, growth)
                parts.append(soft_mask(mask, rounds) if soft else mask)
        return torch.cat(parts) if parts else image.new_zeros(0, 1, *image.shape[2:])

    def possible(
        self, image: Tensor, shown: int, growth: Growth, within: Tensor | None = None, soft: bool = False
    ) -> Iterator[Tensor]:
        """Yield what `masks` may make of one image on another machine, the likeliest first.

        Args:
            image: `[1,3,H,W]` float in [0,1].
            shown: see `masks`.
            growth: see `masks`.
            within: `[1,1,H,W]`, the mask that it must be; by default any.
            soft: see `masks`.
        """
        found = runs(self.network, image.float(), shown, growth, within)
        while True:
            with _exact(image.device):
                one = next(found, None)
            if one is None:
                return
            yield soft_mask(*one) if soft else one[0]


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Compute in fp32 whatever training does: TF32 and bf16 change the ranks of pixels."""
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


def masker_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a masker's weights: names, shapes and bytes, in the order of names.

    Args:
        state: of the network.
    """
    ordered = ((name, state[name]) for name in sorted(state))
    return tensors_hash(ordered, lambda name, value: f"{name}:{value.dtype}:{tuple(value.shape)}")


def load_masker(path: str | Path) -> Masker:
    """Build the network that the checkpoint of an `AdversarialMasker` holds. Nothing in the file is run.

    Args:
        path: a `.ckpt`, or the folder of a run, of which `checkpoints/last.ckpt` is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, is not a masker's, or of a training that had not come to
            the end of its first epoch.
    """
    path = Path(path)
    file, checkpoint = read_given(path)
    state, kept = state_of_masker(checkpoint, f"checkpoint {path}")
    saved: dict[str, Any] = checkpoint["hyper_parameters"]
    if kept.get("mean") is None:
        raise ValueError(
            f"checkpoint {path}: its masker was saved before the end of its first epoch and has no mean mask yet; "
            "train on"
        )
    with settings_of(path):
        width, depth = (int(saved[key]) for key in SHAPE)
        growth = Growth(int(saved["rounds"]), float(saved["core"]))
        share, size = float(saved["share"]), saved["input_size"]
        check_share(share)
        mean, codes, faces = kept["mean"], kept["codes"], kept["faces"]
        if not is_count(size, 1, _LARGEST) or not is_count(faces, 1):
            raise ValueError(f"input_size {size!r} or faces {faces!r}")
        if mean.shape != (size, size) or codes.ndim != 3 or codes.shape[1:] != mean.shape or not len(codes):
            raise ValueError(
                f"mean mask {list(mean.shape)} and codes {list(codes.shape)} of {size} px images"
            )
        check_finite({"its mean mask": mean, "its codes": codes})
        network = rebuilt(lambda: UNet(3, 1, width, depth), state)
    data = checkpoint.get(DATA_STATE)
    return Masker(
        file, network, size, share, growth, mean.float().clone(), codes.float().clone(), faces,
        masker_hash(network.state_dict()), dict(data) if isinstance(data, Mapping) else {},
    )  # fmt: skip


def state_of_masker(checkpoint: Mapping[str, Any], what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take a masker's weights, and what was noted beside them, out of the checkpoint of an `AdversarialMasker`.

    Args:
        checkpoint: as Lightning wrote it.
        what: to call it in the message.

    Raises:
        ValueError: it is another model's.
    """
    saved, kept = checkpoint.get("hyper_parameters") or {}, checkpoint.get(MASKER)
    state = weights_under(checkpoint, f"{MASKER}.")
    if not state or not isinstance(kept, Mapping) or any(key not in saved for key in SHAPE):
        raise of_another(checkpoint, what, "an AdversarialMasker", "lfwa_quick_masker.yaml`")
    return state, dict(kept)
