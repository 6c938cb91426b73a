"""What `fit` reaches of a bare PyTorch loop, and of the card, with the set in device memory (`cache: device`).

`python -m benchmarks.gpu --out DIR [--quick] [--budget SECONDS]`, on any CUDA device; on the CPU at tiny sizes.
Writes `gpu.json` after every line, `profile.txt` of a fit at the end, and prints the table last.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import io
import json
import logging
import pstats
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import PRECISION
from callbacks.finite import FiniteLoss
from callbacks.throughput import Throughput
from datamodules import FaceDataModule
from datamodules.readers.base import FaceReader, Pixels
from datamodules.readers.cached import CachedReader
from lightning_app.core.files import write_atomically
from lightning_app.desensitize import Desensitizer, Identity, MaskOut
from lightning_app.distributed.precision import autocast
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.networks.backbones.base import Backbone

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
        """Give one of 64 images."""
        image: Pixels = self._some[index % len(self._some)]
        return image

    def name(self, index: int) -> str:
        """Give the number."""
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
        about = {
            "card": card, "torch": torch.__version__, "lightning": L.__version__, "precision": self.precision,
            "matmul_tflops": self.peak / 1e12, "seconds": time.monotonic() - self.begun,
            "lines": [asdict(line) for line in self.lines], "left_out": self.left_out,
        }  # fmt: skip
        write_atomically(self.out / "gpu.json", json.dumps(about, indent=1) + "\n")

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


class _Window(L.Callback):
    """Seconds of the timed steps, the device waited for at both ends."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.first, self.last, self.device = sizes.warmup, sizes.warmup + sizes.steps, device
        self.done, self.ends = 0, [0.0]

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.done in (self.first, self.last):
            _wait(self.device)
            self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[-2]


def _wait(device: torch.device) -> None:
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
    window = _Window(sizes, bench.device)
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
        _wait(device)
        begun = time.perf_counter()
        for number in range(sizes.warmup, sizes.warmup + sizes.steps):
            self.step(order, number)
        _wait(device)
        return (time.perf_counter() - begun) / sizes.steps


def matmul_peak(device: torch.device, side: int) -> float:
    """Measure the FLOP/s of a large bf16 matrix product of random numbers: what MFU is a share of."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        _wait(device)
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        _wait(device)
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


def _line(
    what: str, sizes: Sizes, pairs: Sequence[tuple[float, float]], goal: str, inverse: bool = False
) -> Line:
    ratios = [b / a if inverse else a / b for a, b in pairs]
    mine, theirs = (sizes.batch / statistics.median(each) for each in zip(*pairs, strict=True))
    return Line(
        what, sizes.network, sizes.size, sizes.batch, mine, theirs,
        statistics.median(ratios), min(ratios), max(ratios), goal, note=f"{sizes.steps} steps × {sizes.repeats}",
    )  # fmt: skip


def against_bare(bench: Bench, sizes: Sizes, flops: float, graphs: bool = False) -> None:
    """Time `fit`, with CUDA graphs where asked, against the bare loop, which launches its kernels one by one."""
    data = data_of(sizes, Identity())
    whole = data.training
    assert isinstance(whole, CachedReader)
    whole.to(bench.device)
    bare, model = BareLoop(bench, sizes, whole.pixels, whole.given), model_of(sizes, graphs=graphs)
    pairs = interleave(partial(fit_step, bench, sizes, model, data), bare.seconds, sizes.repeats)
    what = "fit with CUDA graphs ÷ bare loop, images/s" if graphs else "fit ÷ bare loop, images/s"
    line = _line(what, sizes, pairs, "≥ 0.95", inverse=True)
    line.mfu, line.peer_mfu = (s * flops / bench.peak for s in (line.images_per_s, line.peer_images_per_s))
    bench.lines.append(line)


def against_fit(bench: Bench, sizes: Sizes, kind: str) -> None:
    """Time masks on the fly against none, an FSM against none, or the set in memory against that on the device."""
    masked = data_of(sizes, MaskOut(freeform=HIDDEN, size=sizes.size))
    model = model_of(sizes)
    if kind == "masks":
        peer = partial(fit_step, bench, sizes, model_of(sizes), data_of(sizes, Identity()))
        ours, name, goal = (
            partial(fit_step, bench, sizes, model, masked),
            "masks on the fly ÷ none, s",
            "≤ 1.01",
        )
    elif kind == "fsm":
        peer = partial(fit_step, bench, sizes, model, masked)
        ours = partial(fit_step, bench, sizes, model_of(sizes, gated=True), masked)
        name, goal = "FSM (layer3) ÷ none, both masked, s", "≤ 1.03"
    else:
        peer = partial(fit_step, bench, sizes, model, masked)
        memory = data_of(sizes, MaskOut(freeform=HIDDEN, size=sizes.size), cache=True)
        ours, name, goal = (
            partial(fit_step, bench, sizes, model_of(sizes), memory),
            "cache: true ÷ device, s",
            "",
        )
    bench.lines.append(_line(name, sizes, interleave(ours, peer, sizes.repeats), goal))


class _Profiled(L.Callback):
    """Profiles the timed steps: torch's own, or Python's."""

    def __init__(self, sizes: Sizes, start: Callable[[], object], stop: Callable[[], object]) -> None:
        self.first, self.last, self.start, self.stop, self.done = (
            sizes.warmup,
            sizes.warmup + sizes.steps,
            start,
            stop,
            0,
        )

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        if self.done == self.first:
            self.start()
        elif self.done == self.last:
            self.stop()


def profiled(bench: Bench, sizes: Sizes) -> str:
    """Profile steps of a masked fit and of the bare loop: tables, how busy the device was, Python's functions."""
    data = data_of(sizes, MaskOut(freeform=HIDDEN, size=sizes.size))
    model = model_of(sizes)
    cuda = bench.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    head = f"{sizes.network}, {sizes.size} px, batch {sizes.batch}, {sizes.steps} steps"
    parts = []

    def report(name: str, seen: profile) -> None:
        parts.append(f"== {name}: {head}\n{_busy(seen)}")
        table = seen.key_averages()
        keys = ["self_cpu_time_total", *(["self_cuda_time_total"] if cuda else [])]
        tables = (table.table(sort_by=key, row_limit=25, max_name_column_width=70) for key in keys)
        parts.extend(f"-- by {key}\n{words}" for key, words in zip(keys, tables, strict=True))

    def stop() -> None:
        _wait(bench.device)
        seen.stop()

    seen = profile(activities=kinds)
    fit_step(bench, sizes, model, data, _Profiled(sizes, seen.start, stop))
    report("fit", seen)
    assert isinstance(data.training, CachedReader)
    bare = BareLoop(bench, sizes, data.training.pixels, data.training.given)
    bare.seconds()
    order = torch.randperm(len(bare.pixels), device=bench.device)
    with profile(activities=kinds) as seen:
        for number in range(sizes.steps):
            bare.step(order, number)
        _wait(bench.device)
    report("bare loop", seen)
    python = cProfile.Profile()
    fit_step(bench, sizes, model, data, _Profiled(sizes, python.enable, python.disable))
    for key in ("tottime", "cumtime"):
        words = io.StringIO()
        pstats.Stats(python, stream=words).strip_dirs().sort_stats(key).print_stats(45)
        parts.append(f"== fit, Python's functions by {key}: {head}\n{words.getvalue()}")
    return "\n".join(parts)


def _busy(seen: profile) -> str:
    """Tell how long the device had nothing to do, and between which kernels."""
    found = [
        e
        for e in seen.events() or ()
        if str(e.device_type).endswith("CUDA") and e.time_range.elapsed_us() > 0
    ]
    found = [
        e
        for e in found
        if not getattr(e, "is_user_annotation", False) and not e.name.startswith("Optimizer.")
    ]
    spans = sorted((e.time_range.start, e.time_range.end, e.name) for e in found)
    if not spans:
        return "no kernels of a device"
    gaps, end, last = [], spans[0][1], spans[0][2]
    for start, stop, name in spans:
        if start > end:
            gaps.append((start - end, last, name))
        if stop >= end:
            end, last = stop, name
    whole, idle = end - spans[0][0], sum(gap for gap, _, _ in gaps)
    lines = [
        f"{len(spans)} kernels in {whole / 1e3:.2f} ms, the device idle {idle / whole:.1%} of it; longest gaps, µs:"
    ]
    lines += [
        f"  {gap:9.1f}  after {before[:60]}  before {after[:60]}"
        for gap, before, after in sorted(gaps)[:-11:-1]
    ]
    return "\n".join(lines)


def table_of(bench: Bench) -> Table:
    """Lay out what was measured."""
    card = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "CPU"
    table = Table(
        title=f"{card}, torch {torch.__version__}, {bench.precision}, matmul {bench.peak / 1e12:.4g} TFLOP/s"
    )
    for name in (
        "what",
        "network",
        "px",
        "batch",
        "images/s",
        "peer",
        "ratio (low – high)",
        "goal",
        "MFU",
        "peer's",
    ):
        table.add_column(name, no_wrap=True, justify="left" if name in ("what", "network") else "right")
    for line in bench.lines:
        shares = ["" if share is None else f"{share:.1%}" for share in (line.mfu, line.peer_mfu)]
        table.add_row(
            line.what, line.network, str(line.size), str(line.batch), f"{line.images_per_s:.0f}",
            f"{line.peer_images_per_s:.0f}", f"{line.ratio:.3f} ({line.low:.3f} – {line.high:.3f})", line.goal, *shares,
        )  # fmt: skip
    return table


def plan(quick: bool, cuda: bool) -> list[tuple[str, Sizes]]:
    """List the cases, the most telling first: `graphs`, `bare`, `masks`, `fsm`, `memory`."""
    if not cuda:
        tiny = Sizes("resnet18", 32, 4, 1, 2, 1)
        return [(kind, tiny) for kind in (("bare", "fsm") if quick else ("bare", "masks", "fsm", "memory"))]

    def of(network: str, size: int, batch: int) -> Sizes:
        # about half a second a run: an H100 trains some 10,000 images/s of ResNet-34 at 112 px, a quarter at 224
        steps = max(8, min(60, round(0.5 * 10_000 * (112 / size) ** 2 / batch)))
        return Sizes(network, size, batch, 6, steps, 2 if quick else 3)

    networks = ["resnet34", *(["irse50"] if "irse50" in Backbone.names else [])]
    first = "resnet34"
    cases = [("graphs", of(first, 112, batch)) for batch in (128, 512)]
    cases += [(kind, of(first, 112, 128)) for kind in ("bare", "fsm", "masks")]
    if quick:
        return cases
    cases += [("bare", of(first, 224, 128)), *(("bare", of(n, 112, 128)) for n in networks[1:])]
    cases += [("bare", of(first, 112, batch)) for batch in (64, 256, 512)]
    cases += [("bare", of(first, 224, batch)) for batch in (64, 256, 512)]
    cases += [(kind, of(first, 112, 512)) for kind in ("masks", "fsm")] + [("memory", of(first, 112, 128))]
    cases += [(kind, of(first, 224, 128)) for kind in ("masks", "fsm")]
    cases += [
        ("bare", of(n, size, batch)) for n in networks[1:] for size in (112, 224) for batch in (64, 256, 512)
    ]
    return cases


def main(args: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the table last.

    Args:
        args: of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.json and profile.txt")
    parser.add_argument("--quick", action="store_true", help="a few cases alone")
    parser.add_argument(
        "--budget", type=float, default=150, help="seconds; what is left then is not measured"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(args)
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    cuda = device.type == "cuda"
    bench = Bench(device, "bf16-mixed" if cuda else PRECISION, options.out, options.budget)
    bench.peak = matmul_peak(device, 8192 if cuda else 128)
    flops: dict[tuple[str, int], float] = {}
    longest = 0.0
    for kind, sizes in plan(options.quick, cuda):
        name = f"{kind}, {sizes.network}, {sizes.size} px, batch {sizes.batch}"
        spent = time.monotonic() - bench.begun
        if spent + longest + (20 if cuda else 0) > bench.budget:  # the profile comes last
            bench.left_out.append(f"{name}: the budget of {bench.budget:g} s")
            continue
        with bench.case(name):
            if kind in ("bare", "graphs"):
                key = sizes.network, sizes.size
                flops[key] = flops.get(key) or flops_of(sizes)
                against_bare(bench, sizes, flops[key], graphs=kind == "graphs")
            else:
                against_fit(bench, sizes, kind)
        longest = max(longest, time.monotonic() - bench.begun - spent)
        print(f"{time.monotonic() - bench.begun:6.1f} s  {name}", flush=True)
    with bench.case("profile"):
        sizes = Sizes("resnet34", 112, 128, 6, 20, 1) if cuda else Sizes("resnet18", 32, 4, 1, 2, 1)
        write_atomically(options.out / "profile.txt", profiled(bench, sizes) + "\n")
    for words in bench.left_out:
        print(f"left out: {words}")
    Console(width=180).print(table_of(bench))
    return 0


if __name__ == "__main__":
    sys.exit(main())
