"""A run that was stopped and gone on with equals one that was not: weights, optimiser, order, validations."""

from __future__ import annotations

import ast
import hashlib
import random
import re
import shutil
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks import RunCheckpoint
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Chain, InstaHide, MaskOut
from lightning_app.runs.folder import has_checkpoint
from tests.forked import Forked
from tests.small_run import STEPS, Collector, Diary, fit, state, write_small_config

pytestmark = pytest.mark.slow

LAST = Path("checkpoints/last.ckpt")
EPOCHS = 12  # 48 steps: ten kills, each after at most 3 steps and 0.02 s, come before the end
MODES: dict[str, dict[str, Any]] = {
    "epochs": {"max_epochs": 3},
    "steps, to the end of an epoch": {"max_steps": 3 * STEPS},
    "steps, cut short": {"max_steps": 2 * STEPS + 2},
    "validation every second epoch": {"max_epochs": 4, "check_val_every_n_epoch": 2},
    "validation every second epoch, steps": {"max_steps": 4 * STEPS, "check_val_every_n_epoch": 2},
    "two validations an epoch": {"max_epochs": 2, "val_check_interval": 2},
    "validation over the epochs' ends": {
        "max_epochs": 3,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
    },
    "accumulated": {"max_epochs": 3, "accumulate_grad_batches": 3},
    "part of the epoch, steps": {"max_steps": 9, "limit_train_batches": 3},
}


@pytest.mark.parametrize("mode", MODES)
def test_from_every_checkpoint_the_rest_is_as_it_was(tmp_path: Path, mode: str) -> None:
    diary = Diary()
    (tmp_path / "copies").mkdir()
    collector = Collector(tmp_path / "copies", diary)
    fit(tmp_path / "whole", None, diary, logger=collector, **MODES[mode])
    whole = state(tmp_path / "whole" / LAST)
    assert len(collector.copies) >= 6
    for copy, before in collector.copies[:-1]:
        again = Diary()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not resumable.*")
            # it saves as the whole run did, or at the epochs' ends alone: that decides nothing and costs half of it
            saves = RunCheckpoint(every_n_steps=1) if copy == collector.copies[0][0] else RunCheckpoint()
            fit(tmp_path / copy.stem, copy, again, checkpoint=saves, **MODES[mode])
        rest = diary.events[before:]
        if "max_steps" in MODES[mode] and all(event[0] != "step" for event in rest):
            rest = []  # Lightning ends at once: only the figures of the last validation are missing
        assert again.events == rest, copy
        if rest:
            found = state(tmp_path / copy.stem / LAST)
            assert {key for key in whole if whole[key] != found.get(key)} == set(), copy


def test_mixes_are_the_same_in_a_run_that_goes_on(tmp_path: Path) -> None:
    key = tmp_path / "owner.key"
    make_key(key)

    def desensitize() -> Chain:  # anew, as another process makes it
        return Chain([MaskOut(freeform=(0.4, 0.8)), InstaHide(3, key=key, redraw="epoch")])

    (tmp_path / "copies").mkdir()
    collector = Collector(tmp_path / "copies", Diary())
    fit(tmp_path / "whole", None, logger=collector, desensitizer=desensitize(), max_epochs=3)
    whole = state(tmp_path / "whole" / LAST)
    for number in (1, 5):  # within the first and the second epoch
        copy, _ = collector.copies[number]
        fit(tmp_path / copy.stem, copy, desensitizer=desensitize(), max_epochs=3)
        found = state(tmp_path / copy.stem / LAST)
        assert {key for key in whole if whole[key] != found.get(key)} == set(), copy
    make_key(tmp_path / "other.key")
    fit(
        tmp_path / "other", None, desensitizer=Chain([InstaHide(3, key=tmp_path / "other.key")]), max_epochs=3
    )
    assert state(tmp_path / "other" / LAST) != whole


@pytest.mark.parametrize("limit", ["max_steps", "max_epochs"])
def test_a_run_that_was_too_short_is_made_longer(tmp_path: Path, limit: str) -> None:
    """Six steps end in the middle of the second epoch."""
    short: dict[str, Any] = {"max_steps": 6} if limit == "max_steps" else {"max_epochs": 1}
    long: dict[str, Any] = {"max_steps": 12} if limit == "max_steps" else {"max_epochs": 3}
    whole, first, second = Diary(), Diary(), Diary()
    fit(tmp_path / "whole", None, whole, schedule="constant", checkpoint=RunCheckpoint(), **long)
    fit(tmp_path / "run", None, first, schedule="constant", checkpoint=RunCheckpoint(), **short)
    last = tmp_path / "run" / LAST
    fit(tmp_path / "run", last, second, schedule="constant", checkpoint=RunCheckpoint(), **long)
    assert first.events[-1][0] == "end"
    kept = first.events[:-1] if limit == "max_steps" else first.events  # the second epoch had not ended
    assert [*kept, *second.events] == whole.events
    assert state(last) == state(tmp_path / "whole" / LAST)


@pytest.fixture(scope="module")
def forked() -> Iterator[Forked]:
    with Forked() as process:
        yield process


class Small:
    """A run in a folder of its own."""

    def __init__(self, forked: Forked, folder: Path, epochs: int, *args: object, ranks: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        self.forked, self.folder, self.ranks = forked, folder, ranks
        self.run_dir = folder / "runs" / "small"
        several = ["--trainer.strategy", "ddp", "--trainer.devices", ranks] if ranks > 1 else []
        self.args = ["fit", "--config", write_small_config(folder, epochs, 2), *args, *several]

    def go(self, *args: object, **how: Any) -> list[int | None]:
        on = ["--ckpt_path", "last"] if has_checkpoint(self.run_dir) else ["--overwrite"]
        return self.forked.run(self.folder, *self.args, *on, *args, ranks=self.ranks, **how)

    @property
    def state(self) -> dict[str, Any]:
        return state(self.run_dir / LAST)

    @property
    def weights(self) -> str:
        """SHA-256 of all weights and buffers."""
        found = self.state  # read once
        weights = [found[key] for key in sorted(found) if key.startswith("/state_dict")]
        return hashlib.sha256(b"".join(weights)).hexdigest()

    @property
    def log(self) -> str:
        return " ".join((self.folder / "log.txt").read_text().split())

    def order(self) -> dict[int, list[int]]:
        """Optimiser step → its images on all ranks, in the ranks' order; of the attempt that did it last."""
        steps: dict[tuple[int, int], list[int]] = {}
        for line in (self.folder / "diary.txt").read_text().splitlines():
            event = ast.literal_eval(line)
            if event[0] == "step":
                steps[event[2], event[1]] = event[4]
        return {
            step: [i for rank in range(2) for i in steps.get((step, rank), [])]
            for step in {s for s, _ in steps}
        }


def differing(whole: Small, run: Small) -> set[str]:
    """What is not the same, bit for bit, in the last checkpoints of two runs."""
    theirs, found = whole.state, run.state
    return {key for key in theirs if theirs[key] != found.get(key)}


@pytest.fixture(scope="module")
def whole(forked: Forked, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A run that nobody disturbed."""
    run = Small(forked, tmp_path_factory.mktemp("whole"), EPOCHS)
    assert run.go() == [0]
    return run


def test_ten_kills_leave_no_trace(forked: Forked, whole: Small, tmp_path: Path) -> None:
    run, draw = Small(forked, tmp_path / "killed", EPOCHS), random.Random(0)
    for attempt in range(10):
        kill = {"signal": signal.SIGKILL, "after": draw.randint(0, 3), "delay": draw.uniform(0, 0.02)}
        workers = 2 * (attempt % 2)  # neither may matter
        assert run.go("--data.init_args.num_workers", workers, kill=kill) == [-signal.SIGKILL], run.log[
            -2000:
        ]
    assert run.go() == [0]
    assert run.weights == whole.weights
    assert differing(whole, run) == set()
    assert run.order() == whole.order()


def test_ten_kills_of_a_run_that_learns_to_mix_leave_no_trace(forked: Forked, tmp_path: Path) -> None:
    """A kill comes anywhere: before, within and after the strategy's update of a batch."""
    make_key(tmp_path / "owner.key")
    mixing = {"class_path": "lightning_app.desensitize.RandomMixUp",
              "init_args": {"k": [2, 3, 4], "key": str(tmp_path / "owner.key")}}  # fmt: skip

    def learner(folder: Path) -> Small:
        made, config = Small(forked, folder, 4), folder / "small.yaml"
        settings = yaml.safe_load(config.read_text())
        settings["model"]["class_path"] = "tests.small_run.SmallLearner"
        settings["model"]["init_args"]["strategy_width"] = 8
        settings["data"]["init_args"]["desensitizer"] = mixing
        config.write_text(yaml.safe_dump(settings))
        return made

    undisturbed, run, draw = learner(tmp_path / "whole"), learner(tmp_path / "killed"), random.Random(1)
    assert undisturbed.go() == [0], undisturbed.log[-2000:]
    for after in (1, 0, 2, 1, 0, 1, 2, 0, 1, 1):
        kill = {"signal": signal.SIGKILL, "after": after, "delay": draw.uniform(0, 0.1)}
        assert run.go(kill=kill) == [-signal.SIGKILL], run.log[-2000:]
    assert run.go() == [0], run.log[-2000:]
    assert any(name.startswith("/mix_strategy/network") for name in undisturbed.state)
    assert differing(undisturbed, run) == set()


@pytest.mark.parametrize("patch", ["slow file", "slow rename"])
def test_a_kill_while_a_checkpoint_is_written(
    forked: Forked, whole: Small, tmp_path: Path, patch: str
) -> None:
    run = Small(forked, tmp_path / "killed", EPOCHS)
    folder = run.run_dir / "checkpoints"
    assert run.go(patch=patch, kill={"signal": signal.SIGKILL, "mark": "H", "after": 1}) == [-signal.SIGKILL]
    left = {path.name for path in folder.iterdir()}
    if patch == "slow file":
        assert {"last.ckpt", "previous.ckpt"} <= left
        assert any(name.endswith(".tmp") for name in left)
    else:
        assert left == {"previous.ckpt", "next.ckpt"}
    assert run.go() == [0]
    assert ("last.ckpt: missing. Taking" in run.log) == (patch == "slow rename")
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert run.weights == whole.weights
    assert run.order() == whole.order()


@pytest.mark.parametrize("group", [False, True])
def test_a_signal_saves_at_the_step_and_ends(
    forked: Forked, whole: Small, tmp_path: Path, group: bool
) -> None:
    run = Small(forked, tmp_path / "stopped", EPOCHS, "--data.init_args.num_workers", 2)
    number = signal.SIGTERM if group else signal.SIGUSR1  # SLURM signals the workers too
    assert run.go(kill={"signal": number, "after": 7, "group": group}) == [128 + number]
    step = run.state["/global_step"]
    assert step >= 7
    assert f"Stopped by {number.name} after step {step}, saved in" in run.log
    assert "Go on with the same command and --ckpt_path last" in run.log
    assert "Traceback" not in run.log
    assert max(run.order()) == step
    assert not (run.run_dir / "metrics.json").exists()
    assert run.go() == [0]
    assert run.weights == whole.weights
    assert run.order() == whole.order()


def test_two_ranks(forked: Forked, tmp_path: Path) -> None:
    calm = Small(forked, tmp_path / "calm", 6, ranks=2)
    assert calm.go() == [0, 0], calm.log[-3000:]
    run = Small(forked, tmp_path / "killed", 6, ranks=2)
    draw = random.Random(1)
    for _ in range(10):
        kill = {"signal": signal.SIGKILL, "after": draw.randint(0, 4), "delay": draw.uniform(0, 0.03)}
        assert run.go(kill=kill) == [-signal.SIGKILL] * 2, run.log[-2000:]
    # one rank hears it, all stop at the same step; Lightning's own child must not end with another code than 0
    stopped = run.go(
        "--data.init_args.num_workers", 1, kill={"signal": signal.SIGTERM, "after": 2, "ranks": [1]}
    )
    assert stopped == [128 + signal.SIGTERM, 0], run.log[-3000:]
    assert run.log.count("Stopped by SIGTERM") == 1
    shutil.copytree(run.folder, tmp_path / "alone")
    assert run.go() == [0, 0]
    assert run.weights == calm.weights
    assert differing(calm, run) == set()
    assert run.order() == calm.order()
    # on one rank: the same images at the same steps
    alone = Small(forked, tmp_path / "alone", 6)
    (alone.folder / "diary.txt").unlink()
    assert alone.go() == [0]
    steps = alone.order()
    assert 1 < min(steps) <= 24 == max(steps)
    assert steps == {step: images for step, images in calm.order().items() if step in steps}


def test_a_full_disk_on_two_ranks(forked: Forked, tmp_path: Path) -> None:
    run = Small(forked, tmp_path / "full", 3, ranks=2)
    assert run.go(patch="full disk") == [1, 1], run.log[-3000:]
    assert max(run.order()) == 12  # it trained to the end
    # whichever of the two is first to fail
    assert re.search(r"error: (rank 1 failed: )?the last checkpoint of step 12 could not be written", run.log)
    assert "Traceback" not in run.log
    assert not (run.run_dir / "metrics.json").exists()
    assert run.go() == [0, 0]
    assert run.state["/global_step"] == 12
