"""How many masks of a masker another machine's rounding changes, and how far its scores are off.

`python -m benchmarks.near_ties ROOT [--count 200]` on a folder of folders of faces, such as LFW-a's 112 px images: the
measurement behind `lightning_app.masks.rounding.SLACK`. Another machine is stood for by PyTorch's own convolutions in
place of oneDNN's, and the masker by a U-Net that was not trained, its batch norms set by the images; or it is the one
of `--masker CHECKPOINT`, whose images have `--size`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from datamodules import FolderFaces
from lightning_app.core.threads import one_thread
from lightning_app.desensitize.masker import load_masker
from lightning_app.masks.learned import Growth, grown, masker_input, shown_pixels
from lightning_app.masks.rounding import SLACK, runs, spread
from lightning_app.networks.unet import UNet

GROWTHS = (Growth(4), Growth(8), Growth(0))
_BATCH = 8
_SHARE = 0.24


@contextmanager
def own_convolutions() -> Iterator[None]:
    """Compute with PyTorch's own convolutions while it lasts, not with oneDNN's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # of Intel's GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@dataclass(frozen=True)
class Changed:
    """What another library for convolutions changes.

    Attributes:
        growth: how masks grow.
        images: how many there are.
        differing: of these, how many have another mask.
        most: pixels that differ in one of them.
        followed: of the differing ones, how many `runs` comes to.
    """

    growth: Growth
    images: int
    differing: int
    most: int
    followed: int


def masker_of(images: Tensor, width: int = 16, depth: int = 4) -> UNet:
    """Return an untrained masker whose batch norms have the statistics of images.

    Args:
        images: `[N,3,H,W]` in [0,1].
        width: channels of its outermost maps.
        depth: how often they are halved.
    """
    torch.manual_seed(0)
    network = UNet(3, 1, width, depth).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for part in images.split(_BATCH):
            network(masker_input(part, None))
    return network.eval()


def score_error(network: nn.Module, images: Tensor) -> float:
    """Return how far scores are off, at most, in the spread of an image's scores.

    Args:
        network: the masker.
        images: `[N,3,H,W]` in [0,1].
    """
    worst = 0.0
    with torch.no_grad(), one_thread():
        for part in images.split(_BATCH):
            one = network(masker_input(part, None))
            with own_convolutions():
                other = network(masker_input(part, None))
            unit = spread(one)
            worst = max(worst, float(((one - other).abs().flatten(1).amax(1) / unit).max()))
    return worst


def changed(network: nn.Module, images: Tensor, growth: Growth) -> Changed:
    """Compare masks made with oneDNN's convolutions and with PyTorch's own.

    Args:
        network: the masker.
        images: `[N,3,H,W]` in [0,1].
        growth: how masks grow.
    """
    size = int(images.shape[-2]), int(images.shape[-1])
    shown = shown_pixels(_SHARE, size)
    differing = most = followed = 0
    with torch.no_grad(), one_thread():
        for part in images.split(_BATCH):
            one = grown(network, part, shown, growth)[0]
            with own_convolutions():
                other = grown(network, part, shown, growth)[0]
            pixels = (one != other).flatten(1).sum(1)
            for row in pixels.nonzero().flatten().tolist():
                wanted = other[row : row + 1]
                differing, most = differing + 1, max(most, int(pixels[row]))
                followed += any(True for _ in runs(network, part[row : row + 1], shown, growth, wanted))
    return Changed(growth, len(images), differing, most, followed)


def main(args: Sequence[str] | None = None) -> None:
    """Print the table for the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_ties", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--masker", type=Path, help="checkpoint of a trained masker")
    given = parser.parse_args(args)
    reader = FolderFaces(given.root, size=given.size, cache_index=False).open()
    numbers = torch.linspace(0, len(reader) - 1, min(given.count, len(reader))).long().tolist()
    images = reader.__getitems__(numbers)["image"].expand(-1, 3, -1, -1).float() / 255
    network = masker_of(images) if given.masker is None else load_masker(given.masker).network
    made = Table("rounds", "images", "another mask", "most pixels of one", "followed by the audit")
    for growth in GROWTHS:
        one = changed(network, images, growth)
        made.add_row(*map(str, (growth.rounds, one.images, one.differing, one.most, one.followed)))
    console = Console(width=140)
    console.print(made)
    console.print(
        f"scores are off by {score_error(network, images):.1e} of their spread at most; SLACK is {SLACK:g}"
    )


if __name__ == "__main__":
    main()
