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

import lightning as L
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.timing import Row
from callbacks import FiniteLoss, ProgressBar, RunCheckpoint, Throughput
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.checkpoint_io import AtomicCheckpointIO
from lightning_app.desensitize import MaskOut
from lightning_app.models import ResNetFSM

SIZE, BATCH, STEPS, EVERY = 112, 64, 24, 1000
_OURS = ("_TrainingEpochLoop].train_dataloader_next", "FaceDataModule.on_after_batch_transfer",
         "FaceDataModule.on_before_batch_transfer", "[Callback]", "ResNetFSM.on_train_batch_start")  # fmt: skip
_STEP = "[LightningModule]ResNetFSM.optimizer_step"  # with the closure: forward, backward (and all-reduce), update
_PARTS = {"forward": "DDPStrategy.training_step", "backward and all-reduce": "DDPStrategy.backward"}


class _Recorder(SimpleProfiler):
    """Lightning's profiler, asked for sums of the steps' parts instead of a table."""

    def seconds(self, *parts: str) -> float:
        """Sum what was recorded under names that contain one of the parts, without the first steps."""
        found = [
            times for name, times in self.recorded_durations.items() if any(part in name for part in parts)
        ]
        return sum(sum(times[3:]) for times in found if len(times) >= STEPS)


class _Window(L.Callback):
    """Wall seconds of the steps that the profiler's sums are of."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[2]


def worker(output: Path) -> None:
    """Train one rank of `torchrun` for a few steps and write what it cost.

    Args:
        output: folder for `rank.json`: seconds of the whole, of the work, of what is ours, of a checkpoint.
    """
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    people = DrawnFaces(identities=16, images_per_identity=STEPS * BATCH // 16, size=SIZE)
    data = FaceDataModule(
        people, MaskOut(freeform=(0.755, 0.765), size=SIZE), global_batch_size=BATCH, cache=True
    )
    model = ResNetFSM(backbone="resnet18", insertion_points=["layer3"], input_size=SIZE)
    profiler, window = _Recorder(), _Window()
    trainer = L.Trainer(
        accelerator="cpu", devices=int(os.environ["LOCAL_WORLD_SIZE"]), strategy="ddp", precision="bf16-mixed",
        max_steps=STEPS, logger=CSVLogger(str(output)), default_root_dir=output, enable_model_summary=False,
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


def _run(ranks: int) -> dict[str, float]:
    """Train on a number of ranks: seconds, the mean over ranks."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks),
                   "-m", "benchmarks.ddp", folder]  # fmt: skip
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"benchmarks.ddp on {ranks} ranks: {done.stderr.strip().splitlines()[-1]}")
        found: list[Mapping[str, float]] = [
            json.loads(p.read_text()) for p in sorted(Path(folder).glob("?.json"))
        ]
    assert len(found) == ranks
    return {key: statistics.mean(one[key] for one in found) for key in found[0]}


def _row(name: str, part: str, runs: list[dict[str, float]], whole: float, bound: float, note: str) -> Row:
    shares = [run[part] / (run["all"] * whole) for run in runs]
    times = [run[part] for run in runs], [run["all"] * whole for run in runs]
    return Row(name, statistics.median(times[0]), statistics.median(times[1]), statistics.median(shares),
               min(shares), max(shares), bound, note)  # fmt: skip


def measure(repeats: int = 3) -> list[Row]:
    """Return the shares of a step on two gloo ranks.

    Args:
        repeats: runs.
    """
    runs = [_run(2) for _ in range(repeats)]
    for run in runs:
        run["rest"] = run["all"] - run["work"]
    steps = STEPS - 3
    parts = {name: statistics.median(run[name] / run["all"] for run in runs) for name in _PARTS}
    parts["optimiser"] = statistics.median(run["work"] / run["all"] for run in runs) - sum(parts.values())
    note = (
        f"ResNet-18, FSM at layer3, {SIZE} px, {BATCH} images a step, bf16, two ranks of one thread: "
        + ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    )
    return [
        _row("neither forward, backward nor optimiser ÷ step, 2 ranks", "rest", runs, 1, 1.0, note),
        _row("reader, sampler, masks and callbacks ÷ step, 2 ranks", "ours", runs, 1, 0.02, note),
        _row(f"a checkpoint ÷ {EVERY:,} steps, 2 ranks", "save", runs, EVERY / steps, 0.01, note),
    ]


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
