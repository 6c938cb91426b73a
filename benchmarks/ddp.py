"""Two gloo ranks here: what of a step is neither forward, backward nor optimiser, and what checkpoints cost."""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.timing import PRECISION, Row
from callbacks import FiniteLoss, ProgressBar, RunCheckpoint, Throughput
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.desensitize import MaskOut
from lightning_app.models import ResNetFSM
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO

EVERY, WARMUP = 1000, 3  # steps between checkpoints, steps that do not count
TINY_SLOW: dict[str, Any] = {"repeats": 1, "ranks": 1, "size": 32, "batch": 4, "steps": 5}
_OURS = ("_TrainingEpochLoop].train_dataloader_next", "FaceDataModule.on_after_batch_transfer",
         "FaceDataModule.on_before_batch_transfer", "[Callback]", "ResNetFSM.on_train_batch_start")  # fmt: skip
_STEP = "[LightningModule]ResNetFSM.optimizer_step"  # with the closure: forward, backward (and all-reduce), update
_PARTS = {"forward": "DDPStrategy.training_step", "backward and all-reduce": "DDPStrategy.backward"}


class _Recorder(SimpleProfiler):
    """Lightning's profiler, asked for sums of the steps' parts instead of a table.

    Args:
        steps: of the run; what happens less often is no part of a step.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def seconds(self, *parts: str) -> float:
        """Sum what was recorded under names that contain one of the parts, without the first steps."""
        found = [
            times for name, times in self.recorded_durations.items() if any(part in name for part in parts)
        ]
        return sum(sum(times[WARMUP:]) for times in found if len(times) >= self.steps)


class _Window(L.Callback):
    """Wall seconds of the steps that the profiler's sums are of."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[WARMUP - 1]


def worker(output: Path, size: int, batch: int, steps: int) -> None:
    """Train one rank of `torchrun` for a few steps and write what it cost.

    Args:
        output: folder for `rank.json`: seconds of the whole, of the work, of what is ours, of a checkpoint.
        size: side of the images in pixels.
        batch: images a step.
        steps: how many.
    """
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    people = DrawnFaces(identities=16, images_per_identity=-(-steps * batch // 16), size=size)
    data = FaceDataModule(
        people, MaskOut(freeform=(0.74, 0.78), size=size), global_batch_size=batch, cache=True
    )
    model = ResNetFSM(backbone="resnet18", insertion_points=["layer3"], input_size=size)
    profiler, window = _Recorder(steps), _Window()
    trainer = L.Trainer(
        accelerator="cpu", devices=int(os.environ["LOCAL_WORLD_SIZE"]), strategy="ddp", precision=PRECISION,
        max_steps=steps, logger=CSVLogger(str(output)), default_root_dir=output, enable_model_summary=False,
        use_distributed_sampler=False, limit_val_batches=0, profiler=profiler,
        callbacks=[Throughput(), FiniteLoss(), RunCheckpoint(), ProgressBar(), window], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    saved = []
    for _ in range(3):
        begun = time.perf_counter()
        trainer.save_checkpoint(output / "one.ckpt")
        saved.append(time.perf_counter() - begun)
    found = {
        "all": window.seconds, "work": profiler.seconds(_STEP), "ours": profiler.seconds(*_OURS),
        "save": statistics.median(saved),
    } | {name: profiler.seconds(action) for name, action in _PARTS.items()}  # fmt: skip
    (output / f"{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _run(ranks: int, *sizes: int) -> dict[str, float]:
    """Train on a number of ranks: seconds, the mean over ranks."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks),
                   "-m", "benchmarks.ddp", folder, *map(str, sizes)]  # fmt: skip
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"benchmarks.ddp on {ranks} ranks: {done.stderr.strip().splitlines()[-1]}")
        found: list[Mapping[str, float]] = [
            json.loads(p.read_text()) for p in sorted(Path(folder).glob("?.json"))
        ]
    assert len(found) == ranks, f"{len(found)} of {ranks} ranks wrote what they measured"
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def _row(name: str, part: str, runs: list[dict[str, float]], whole: float, bound: float, note: str) -> Row:
    shares = [run[part] / (run["all"] * whole) for run in runs]
    times = [run[part] for run in runs], [run["all"] * whole for run in runs]
    return Row(name, statistics.median(times[0]), statistics.median(times[1]), statistics.median(shares),
               min(shares), max(shares), bound, note)  # fmt: skip


def measure(repeats: int = 3, ranks: int = 2, size: int = 112, batch: int = 64, steps: int = 24) -> list[Row]:
    """Return the shares of a step on two gloo ranks.

    Args:
        repeats: runs.
        ranks: processes.
        size: side of the images in pixels.
        batch: images a step, of all ranks together.
        steps: of a run.
    """
    runs = [_run(ranks, size, batch, steps) for _ in range(repeats)]
    for run in runs:
        run["rest"] = run["all"] - run["work"]
    parts = {name: statistics.median(run[name] / run["all"] for run in runs) for name in _PARTS}
    parts["optimiser"] = statistics.median(run["work"] / run["all"] for run in runs) - sum(parts.values())
    note = (
        f"ResNet-18, FSM at layer3, {size} px, {batch} images a step, {PRECISION}, {ranks} ranks of one thread: "
        + ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    )
    return [
        _row(f"neither forward, backward nor optimiser ÷ step, {ranks} ranks", "rest", runs, 1, 1.0, note),
        _row(f"reader, sampler, masks and callbacks ÷ step, {ranks} ranks", "ours", runs, 1, 0.02, note),
        _row(
            f"a checkpoint ÷ {EVERY:,} steps, {ranks} ranks",
            "save",
            runs,
            EVERY / (steps - WARMUP),
            0.01,
            note,
        ),
    ]


if __name__ == "__main__":
    worker(Path(sys.argv[1]), *map(int, sys.argv[2:]))
