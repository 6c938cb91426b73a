"""Seconds of a step of Lightning's `fit` and of a bare loop of the same network, with the set on the device."""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from callbacks.finite import FiniteLoss
from callbacks.throughput import Throughput
from datamodules import FaceDataModule
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.core.files import write_atomically
from lightning_app.desensitize import Desensitizer
from lightning_app.distributed.precision import autocast
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.models.base import Recogniser

CLASSES = 1000
HIDDEN = (0.74, 0.78)  # mask ratio of what is masked


class Noise(FaceReader):
    """Random pixels: how fast training goes does not hang on what is seen.

    Args:
        count: images.
        size: side in pixels.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size, self.identities = size, [f"{n:04d}" for n in range(CLASSES)]
        self.labels = torch.arange(count) % CLASSES
        self._some = np.random.default_rng(0).integers(0, 256, (64, 3, size, size), dtype=np.uint8)

    def read(self, index: int) -> Pixels:
        """Return one of 64 images."""
        image: Pixels = self._some[index % len(self._some)]
        return image

    def name(self, index: int) -> str:
        """Return the number."""
        return str(index)


@dataclass(frozen=True)
class Sizes:
    """Of a case: network, side in pixels, images a step, untimed and timed steps of a run, runs."""

    network: str
    size: int
    batch: int
    warmup: int
    steps: int
    repeats: int

    @property
    def images(self) -> int:
        """Enough for one epoch: what comes between two is not timed."""
        return (self.warmup + self.steps + 2) * self.batch


@dataclass
class Line:
    """One line of the table. `ratio` is that of seconds a step, ours ÷ peer; for `fit`, of images/s, ours ÷ bare."""

    what: str
    network: str
    size: int
    batch: int
    images_per_s: float
    peer_images_per_s: float
    ratio: float
    low: float
    high: float
    goal: str
    mfu: float | None = None
    peer_mfu: float | None = None
    note: str = ""


@dataclass
class Bench:
    """What has been measured, on what, and how much time is left for more."""

    device: torch.device
    precision: str
    out: Path
    budget: float
    peak: float = 0.0
    lines: list[Line] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def write(self) -> None:
        """Write what there is."""
        card = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        description = {
            "card": card, "torch": torch.__version__, "lightning": L.__version__, "precision": self.precision,
            "matmul_tflops": self.peak / 1e12, "seconds": time.monotonic() - self.begun,
            "lines": [asdict(line) for line in self.lines], "left_out": self.left_out,
        }  # fmt: skip
        write_atomically(self.out / "gpu.json", json.dumps(description, indent=1) + "\n")

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Go on where a case does not fit into the card's memory, and free what it held."""
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            self.left_out.append(f"{name}: does not fit into the card's memory")
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.write()


class TimedSteps(L.Callback):
    """Seconds of the timed steps, the device waited for at both ends."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.first, self.last, self.device = sizes.warmup, sizes.warmup + sizes.steps, device
        self.done, self.ends = 0, [0.0]

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the time before the first and after the last step that is timed."""
        self.done += 1
        if self.done in (self.first, self.last):
            wait_for(self.device)
            self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the one to the other."""
        return self.ends[-1] - self.ends[-2]


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def data_of(sizes: Sizes, desensitizer: Desensitizer, **more: Any) -> FaceDataModule:
    """Make a data module of noise with the set on the device."""
    settings = {"cache": "device", "global_batch_size": sizes.batch, "seed": 0, **more}
    data = FaceDataModule(Noise(sizes.images, sizes.size), desensitizer, **settings)
    data.setup("fit")
    return data


def model_of(sizes: Sizes, gated: bool = False, graphs: bool = False) -> Recogniser:
    """Make the network, with an FSM after layer3 where asked."""
    settings: dict[str, Any] = {"num_classes": CLASSES, "input_size": sizes.size, "cuda_graphs": graphs}
    return (
        ResNetFSM(["layer3"], backbone=sizes.network, **settings)
        if gated
        else ResNet(sizes.network, **settings)
    )


def fit_step(bench: Bench, sizes: Sizes, model: Recogniser, data: FaceDataModule, *more: L.Callback) -> float:
    """Return the seconds of a step of Lightning's `fit`, with what the command line puts into every fit."""
    window = TimedSteps(sizes, bench.device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="gpu" if bench.device.type == "cuda" else "cpu", devices=1, precision=bench.precision,  # type: ignore[arg-type]
            max_steps=sizes.warmup + sizes.steps, logger=CSVLogger(folder), enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
            callbacks=[FiniteLoss(), Throughput(), window, *more], default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(model, datamodule=data)
    return window.seconds / sizes.steps


class BareLoop:
    """The same network, batch, precision, flip and normalisation, with no framework; data on the device."""

    def __init__(self, bench: Bench, sizes: Sizes, pixels: Tensor, identity: Tensor) -> None:
        self.bench, self.sizes = bench, sizes
        self.pixels, self.identity = pixels.to(bench.device), identity.to(bench.device)
        self.model = model_of(sizes).to(bench.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self, order: Tensor, number: int) -> None:
        """Train on one batch of an order of images."""
        at = order[number * self.sizes.batch : (number + 1) * self.sizes.batch]
        image = self.pixels[at].float() / 255
        flip = torch.rand(len(at), device=at.device) < 0.5
        image = torch.where(flip.view(-1, 1, 1, 1), image.flip(-1), image)
        image = ((image - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        with autocast(self.bench.precision, self.bench.device):
            logits = self.model.head.logits(self.model.backbone(image))
            loss = F.cross_entropy(logits.float(), self.identity[at])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def seconds(self) -> float:
        """Return the seconds of a step."""
        device, sizes = self.bench.device, self.sizes
        order = torch.randperm(len(self.pixels), device=device)
        for number in range(sizes.warmup):
            self.step(order, number)
        wait_for(device)
        begun = time.perf_counter()
        for number in range(sizes.warmup, sizes.warmup + sizes.steps):
            self.step(order, number)
        wait_for(device)
        return (time.perf_counter() - begun) / sizes.steps


def matmul_peak(device: torch.device, side: int) -> float:
    """Measure the FLOP/s of a large bf16 matrix product of random numbers: what MFU is a share of."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        wait_for(device)
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        wait_for(device)
        times.append((time.perf_counter() - begun) / 4)
    return 2 * side**3 / statistics.median(times[3:])


def flops_of(sizes: Sizes) -> float:
    """Count the FLOPs of a training step per image, forward and backward, two for each multiply-add."""
    model = model_of(sizes)
    with FlopCounterMode(display=False) as counter:
        logits = model.head.logits(model.backbone(torch.zeros(2, 3, sizes.size, sizes.size)))
        logits.sum().backward()
    return float(counter.get_total_flops()) / 2


def interleave(
    ours: Callable[[], float], peer: Callable[[], float], repeats: int
) -> list[tuple[float, float]]:
    """Run two that time themselves in turn, once untimed; another goes first every time."""
    ours(), peer()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            theirs = peer()
            pairs.append((ours(), theirs))
        else:
            mine = ours()
            pairs.append((mine, peer()))
    return pairs
