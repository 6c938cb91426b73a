"""What `fit` reaches of a bare PyTorch loop, and of the card, with the set in device memory (`cache: device`).

`python -m benchmarks.gpu --out DIR [--quick] [--budget SECONDS]`, on any CUDA device; on the CPU at tiny sizes.
Writes `gpu.json` after every line, `profile.txt` of a fit at the end, and prints the table last.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import logging
import pstats
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_steps import (
    HIDDEN,
    BareLoop,
    Bench,
    Line,
    Sizes,
    data_of,
    fit_step,
    flops_of,
    interleave,
    matmul_peak,
    model_of,
    wait_for,
)
from benchmarks.timing import PRECISION
from datamodules.readers.cached import CachedReader
from lightning_app.core.files import write_atomically
from lightning_app.desensitize import Identity, MaskOut
from lightning_app.networks.backbones.base import Backbone


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
        wait_for(bench.device)
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
        wait_for(bench.device)
    report("bare loop", seen)
    python = cProfile.Profile()
    fit_step(bench, sizes, model, data, _Profiled(sizes, python.enable, python.disable))
    for key in ("tottime", "cumtime"):
        words = io.StringIO()
        pstats.Stats(python, stream=words).strip_dirs().sort_stats(key).print_stats(45)
        parts.append(f"== fit, Python's functions by {key}: {head}\n{words.getvalue()}")
    return "\n".join(parts)


def _busy(seen: profile) -> str:
    """Return how long the device had nothing to do, and between which kernels."""
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
