"""AdaMixUp within a training: steps, figures, going on after a kill, and what it is read as afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from callbacks import MixingShares
from lightning_app.desensitize import CentreBlock, Chain, MixUp, RandomMixUp
from lightning_app.models import AdaMixUpFSM
from lightning_app.models.ada_mixup import STRATEGY, LearnsToMix
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.mix_strategy import MixStrategy
from tests.models.mixing_run import LAST, K, data, fit, small
from tests.small_run import SmallRecogniser, state


class Watch(L.Callback):
    """Keeps k and rates of every batch, and what else a test asks for."""

    def __init__(self) -> None:
        self.k: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        assert isinstance(pl_module, LearnsToMix)
        self.k.append(int(pl_module.drawn_k or 0))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, key: Path, small_network: None
) -> tuple[Path, L.Trainer, Watch]:
    """Two epochs of four batches, every checkpoint written."""
    folder, watch = tmp_path_factory.mktemp("whole"), Watch()
    trainer = fit(folder, small(), data(RandomMixUp(K, key=key)), watch, MixingShares())
    return folder, trainer, watch


def test_steps_count_batches(whole: tuple[Path, L.Trainer, Watch], tmp_path: Path, key: Path) -> None:
    folder, trainer, watch = whole
    assert trainer.global_step == 8
    checkpoint = torch.load(folder / LAST, weights_only=True)
    assert (checkpoint["global_step"], int(checkpoint[STRATEGY]["batches"])) == (8, 8)
    # the schedule is laid over the batches, as without a strategy
    plain = SmallRecogniser(input_size=16, lr=0.1, schedule="one_cycle")
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *rest: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(tmp_path / "plain", plain, data(MixUp(2, key=key)), Rates())
    assert watch.rates == rates
    cut = fit(tmp_path / "cut", small(), data(RandomMixUp(K, key=key)), max_epochs=-1, max_steps=3)
    assert cut.global_step == 3
    assert int(torch.load(tmp_path / "cut" / LAST, weights_only=True)[STRATEGY]["batches"]) == 3


def test_what_is_logged(whole: tuple[Path, L.Trainer, Watch]) -> None:
    folder, trainer, watch = whole
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for k in K:  # of the whole run, as in the paper's Table 3
        assert found[f"mixing/share_{k}"] == pytest.approx(watch.k.count(k) / 8)
    assert found["mixing/mean_k"] == pytest.approx(sum(watch.k) / 8)
    assert sum(found[f"mixing/probability_{k}"] for k in K) == pytest.approx(1, abs=1e-6)
    assert 0 < found["mixing/entropy"] <= math.log(3) + 1e-6
    assert found["mixing/reward1"] > 0
    assert found["mixing/reward2"] > 0
    assert (folder / "mixing.png").stat().st_size > 5000


# going on


class Dies(BaseException):
    """Like a kill: nothing gets to write."""


@pytest.mark.parametrize("between", [False, True])
def test_a_run_that_is_killed_goes_on_bit_for_bit(
    between: bool,
    whole: tuple[Path, L.Trainer, Watch],
    tmp_path: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten deaths, before a batch, or between the strategy's update and the recogniser's."""
    learn, at = MixStrategy.learn, iter([0, 1, 0, 2, 1, 0, 0, 1, 2, 0])
    left = [0]

    def dying(self: MixStrategy, *args: Any) -> None:
        if not between and left[0] == 0:
            raise Dies
        learn(self, *args)
        if left[0] == 0:
            raise Dies
        left[0] -= 1

    monkeypatch.setattr(MixStrategy, "learn", dying)
    shares = MixingShares()
    deaths = 0
    for left[0] in at:
        path = tmp_path / LAST
        with pytest.raises(Dies):
            fit(
                tmp_path,
                small(),
                data(RandomMixUp(K, key=key)),
                MixingShares(),
                ckpt_path=path if path.exists() else None,
            )
        deaths += 1
    assert deaths == 10
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 7
    monkeypatch.setattr(MixStrategy, "learn", learn)
    fit(tmp_path, small(), data(RandomMixUp(K, key=key)), shares, ckpt_path=tmp_path / LAST)
    assert state(tmp_path / LAST) == state(whole[0] / LAST)
    assert sum(part[0] for part in shares._parts) == 8, "its picture is of the whole run"


@pytest.mark.usefixtures("small_network")
def test_a_paired_run_that_is_killed_goes_on_bit_for_bit(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strategy learns after the recogniser's loss is known, and before its update."""
    fit(tmp_path / "whole", small(paired=True), data(RandomMixUp(K, key=key)))
    learn, left = MixStrategy.learn, [3]

    def dying(self: MixStrategy, *args: Any) -> None:
        learn(self, *args)
        left[0] -= 1
        if left[0] < 0:
            raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(MixStrategy, "learn", dying)
        with pytest.raises(Dies):
            fit(tmp_path, small(paired=True), data(RandomMixUp(K, key=key)))
    fit(tmp_path, small(paired=True), data(RandomMixUp(K, key=key)), ckpt_path=tmp_path / LAST)
    assert state(tmp_path / LAST) == state(tmp_path / "whole" / LAST)


@pytest.mark.usefixtures("small_network")
def test_another_strategy_is_refused(whole: tuple[Path, L.Trainer, Watch], tmp_path: Path, key: Path) -> None:
    with pytest.raises(ValueError, match=r"holds another strategy \(k of \[2, 3, 4\]; yours: \[2, 3\]"):
        fit(tmp_path, small(), data(RandomMixUp([2, 3], key=key)), ckpt_path=whole[0] / LAST, max_epochs=3)
    for way in ("as_in_paper", "paired"):
        again = small(**{way: True})
        with pytest.raises(ValueError, match=rf"learnt in another way \(model.{way} False, here True\)"):
            fit(tmp_path, again, data(RandomMixUp(K, key=key)), ckpt_path=whole[0] / LAST, max_epochs=3)


@pytest.mark.usefixtures("small_network")
def test_other_weights_of_the_rewards_are_told(
    whole: tuple[Path, L.Trainer, Watch], tmp_path: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other, same = small(reward2=0.5), data(RandomMixUp(K, key=key))
    fit(tmp_path, other, same, MixingShares(), ckpt_path=whole[0] / LAST, max_epochs=3)
    assert "goes on otherwise than it has learnt (model.reward2 1.0, here 0.5)" in caplog.text


def test_it_is_read_as_the_recogniser_it_is(tmp_path: Path, key: Path) -> None:
    torch.manual_seed(1)
    model = AdaMixUpFSM(
        strategy_width=8, width=8, backbone="resnet18", input_size=32, insertion_points=["layer1"], lr=0.05
    )
    chain = Chain([CentreBlock(0.5), RandomMixUp(K, key=key)])
    trainer = fit(tmp_path, model, data(chain, 32), max_epochs=1, limit_train_batches=2)
    assert float(trainer.callback_metrics["train/loss"]) > 0
    loaded, facts = read_recogniser(tmp_path / LAST)
    assert type(loaded).__name__ == "ResNetFSM"
    assert facts.step == 2
    image = torch.rand(2, 3, 32, 32)
    model.eval()
    with torch.no_grad():
        assert torch.equal(loaded.embed(image), model.embed(image))


def test_data_that_leave_k_to_nobody(tmp_path: Path, key: Path) -> None:
    with pytest.raises(
        ValueError, match=r"SmallLearner chooses how many .*: end data\.desensitizer with .*RandomMixUp"
    ):
        fit(tmp_path, small(), data(MixUp(2, key=key)))
    assert not (tmp_path / LAST).exists()
