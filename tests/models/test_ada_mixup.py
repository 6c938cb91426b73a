"""AdaMixUp: what the strategy learns, what a reward leaves alone, how k is drawn, and how a run goes on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from callbacks import MixingShares, RunCheckpoint
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import CentreBlock, Chain, Desensitizer, MixUp, RandomMixUp
from lightning_app.models import AdaMixUp, AdaMixUpFSM, ResNet
from lightning_app.models.ada_mixup import STRATEGY, LearnsToMix
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.mix_strategy import MixStrategy, RunningBaseline
from lightning_app.networks.strategy import StrategyNetwork, pick, reinforce_loss
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO
from tests.desensitize.test_chain import Halves
from tests.small_run import SmallBackbone, SmallLearner, SmallRecogniser, state

LAST = Path("checkpoints/last.ckpt")
K = (2, 3, 4)


class TinyStrategy(nn.Module):
    """In place of a ResNet-18, where the network does not matter."""

    def __init__(self, in_channels: int, input_size: int, choices: int, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(in_channels, width, 4, stride=4)
        self.choose = nn.Linear(width, choices)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.choose(self.features(image).relu().mean((0, 2, 3)))
        return logits


@pytest.fixture(scope="module")
def small_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_app.models.mix_strategy.StrategyNetwork", TinyStrategy)
        yield


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "owner.key"
    make_key(path)
    return path


def data(desensitizer: Desensitizer, size: int = 16) -> FaceDataModule:
    """Four batches of eight an epoch."""
    reader = DrawnFaces(identities=4, images_per_identity=8, size=size)
    return FaceDataModule(reader, desensitizer, global_batch_size=8, cache=True, seed=3)


def small(**more: Any) -> SmallLearner:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "strategy_width": 8,
        "input_size": 16,
        "dropout": 0.3,
        "lr": 0.1,
        "weight_decay": 1e-3,
    }
    return SmallLearner(**settings | {"schedule": "one_cycle"} | more)


def fit(
    folder: Path,
    model: L.LightningModule,
    module: FaceDataModule,
    *callbacks: L.Callback,
    ckpt_path: Path | None = None,
    **limits: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0, limit_val_batches=0,
        plugins=[AtomicCheckpointIO()], callbacks=[*callbacks, RunCheckpoint(every_n_steps=1)],
        **{"max_epochs": 2, **limits},
    )  # fmt: skip
    trainer.fit(model, datamodule=module, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def strategy_of(seed: int = 0, **more: Any) -> MixStrategy:
    settings: dict[str, Any] = {"width": 8, "lr": 1e-2, "entropy": 0.0, "baseline": True}
    return MixStrategy(K, 3, 16, seed=seed, **settings | more)


def alone(value: Tensor) -> Tensor:
    """The mean over one rank."""
    return value


# REINFORCE


def test_the_update_is_the_gradient_of_the_expected_reward() -> None:
    """Averaged over what π draws, the loss's gradient is minus that of Σ π(k)·R(k), by finite differences."""
    rewards = torch.tensor([3.0, 1.0, 7.5], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64, requires_grad=True)
    probability = logits.detach().softmax(0)
    gradient = torch.zeros(3, dtype=torch.float64)
    for choice in range(3):
        loss = reinforce_loss(logits, choice, float(rewards[choice]))
        # in float64: what the strategy's network gives is float32
        gradient += probability[choice] * torch.autograd.grad(loss, logits)[0]
    for one in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[one] = 1e-5
        up, down = (((logits.detach() + s).softmax(0) * rewards).sum() for s in (step, -step))
        assert float(-gradient[one]) == pytest.approx(float((up - down) / 2e-5), rel=1e-6)


def test_the_entropy_is_pushed_up() -> None:
    logits = torch.tensor([2.0, 0.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(reinforce_loss(logits, 0, 0.0, entropy=1.0), logits)
    probability = logits.detach().softmax(0)
    assert float(reinforce_loss(logits.detach(), 0, 0.0, 1.0)) == pytest.approx(
        float((probability * probability.log()).sum())
    )
    assert gradient[0] > 0, "the likeliest loses"


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("best", K)
@pytest.mark.parametrize("baseline", [True, False])
def test_the_strategy_goes_where_the_reward_is(best: int, baseline: bool) -> None:
    strategy = strategy_of(baseline=baseline)
    image = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    for _ in range(60):
        logits = strategy.look(image, alone)
        k = strategy.draw(0)
        # without a baseline rewards around zero: else whatever is drawn first is reinforced
        strategy.learn(logits, k, (20.0 if baseline else 0.0) + (1.0 if k == best else -1.0), alone)
    strategy.look(image, alone)
    assert float(strategy.probability[K.index(best)]) > 0.9


@pytest.mark.usefixtures("small_network")
def test_a_paired_baseline_finds_a_small_difference_below_what_all_have_in_common() -> None:
    """Rewards rise, and batches differ by more than candidates do: of the same batch only the difference counts."""

    def likeliest(paired: bool, seed: int) -> float:
        strategy, generator = strategy_of(seed, lr=1e-3), torch.Generator().manual_seed(seed)
        for step in range(400):
            logits = strategy.look(torch.rand(8, 3, 16, 16, generator=generator), alone)
            common, one, other = torch.randn(3, generator=generator).tolist()
            common = 0.02 * step + 0.3 * common
            tried, learnt = strategy.draw(0), strategy.draw(1)
            reward, compared = common + 0.1 * (tried + one), common + 0.1 * (learnt + other)
            strategy.learn(logits, tried, reward - (compared if paired else 0.0), alone)
        return float(strategy.probability[K.index(4)])

    found = {paired: sum(likeliest(paired, seed) for seed in range(4)) / 4 for paired in (False, True)}
    assert found[True] > 0.75
    assert found[True] > found[False] + 0.1


@pytest.mark.usefixtures("small_network")
def test_a_reward_is_compared_with_the_mix_that_is_learnt(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards, learn, seen, taught = LearnsToMix.rewards, MixStrategy.learn, list[Tensor](), list[float]()

    def watched(self: LearnsToMix, mixed: Any) -> Tensor:
        seen.append(rewards(self, mixed))
        return seen[-1]

    def learning(self: MixStrategy, logits: Tensor, k: int, reward: float, mean: Any) -> None:
        taught.append(reward)
        learn(self, logits, k, reward, mean)

    monkeypatch.setattr(LearnsToMix, "rewards", watched)
    monkeypatch.setattr(MixStrategy, "learn", learning)
    model = small(paired=True, reward1=0.5, reward2=2.0, dropout=0.0)
    trainer = fit(tmp_path, model, data(RandomMixUp(K, key=key)), max_epochs=1, limit_train_batches=1)
    loss = float(trainer.callback_metrics["train/loss"])
    (found,) = seen
    assert taught == [pytest.approx(0.5 * float(found[0]) + 2.0 * float(found[1]) - 2.5 * loss, abs=1e-4)]


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


def test_without_a_baseline_the_reward_itself_counts() -> None:
    """As in the paper: one step of plain gradient on a reward of 20 makes what was drawn likelier."""
    strategy = strategy_of(baseline=False)
    assert strategy.baseline is None
    image = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    logits = strategy.look(image, alone)
    before = strategy.probability
    strategy.learn(logits, 3, 20.0, alone)
    strategy.look(image, alone)
    assert strategy.probability[1] > before[1]
    with_one = strategy_of()
    with_one.learn(with_one.look(image, alone), 3, 20.0, alone)
    with_one.look(image, alone)
    # the first reward says nothing yet
    torch.testing.assert_close(with_one.probability, before, rtol=0, atol=1e-7)


def test_the_baseline() -> None:
    baseline = RunningBaseline()
    assert baseline.advantage(10.0) == 0
    assert baseline.advantage(14.0) == 0
    assert (baseline.mean, baseline.variance) == (12.0, 4.0)
    assert baseline.advantage(13.0) == pytest.approx(0.5)
    assert baseline.advantage(1e9) == 5.0
    draw = torch.Generator().manual_seed(0)
    found = RunningBaseline()
    seen = [found.advantage(30 + 2 * float(torch.randn(1, generator=draw))) for _ in range(400)][20:]
    assert abs(sum(seen) / len(seen)) < 0.2
    assert float(torch.tensor(seen).std()) == pytest.approx(1, abs=0.2)


def test_draws_follow_the_probabilities_and_a_counter_alone() -> None:
    assert [pick(torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), at) for at in (0, 0.19, 0.21, 0.5, 0.99)] == [
        0, 0, 1, 2, 2,
    ]  # fmt: skip
    strategy = strategy_of()
    strategy.probability = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)
    drawn = []
    for strategy.batches in range(2000):
        drawn += [strategy.draw(0), strategy.draw(1)]
    share = torch.tensor([drawn.count(k) / len(drawn) for k in K], dtype=torch.float64)
    torch.testing.assert_close(share, strategy.probability, rtol=0, atol=0.03)
    strategy.batches = 7
    assert [strategy.draw(0), strategy.draw(1)] == drawn[14:16]


def test_a_reward_that_is_not_finite_teaches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    strategy = strategy_of()
    before = {name: value.clone() for name, value in strategy.network.state_dict().items()}
    logits = strategy.look(torch.rand(4, 3, 16, 16), alone)
    strategy.learn(logits, 2, math.inf, alone)
    assert all(torch.equal(value, before[name]) for name, value in strategy.network.state_dict().items())
    assert strategy.batches == 1
    assert "a reward is inf: the strategy learns nothing" in caplog.text


def test_the_network_averages_features_over_the_batch() -> None:
    network = StrategyNetwork(5, 32, 4, width=8)
    assert not list(network.buffers()), "no running statistics"
    image = torch.rand(6, 5, 32, 32)
    logits = network(image)
    assert logits.shape == (4,)
    torch.testing.assert_close(network(image.flip(0)), logits, rtol=1e-4, atol=1e-5)
    features = network.backbone(image, None, None)
    torch.testing.assert_close(network.choose(features).mean(0), logits, rtol=1e-4, atol=1e-5)


# within a training


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


def test_the_recogniser_begins_with_the_weights_it_has_without_a_strategy(key: Path) -> None:
    torch.manual_seed(1)
    plain = SmallRecogniser(input_size=16, dropout=0.3, lr=0.1, weight_decay=1e-3, schedule="one_cycle")
    mine = small().state_dict()
    assert mine.keys() == plain.state_dict().keys(), "the strategy is no part of its weights"
    assert all(torch.equal(value, mine[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("pictures", [True, False])
def test_with_a_single_candidate_it_is_a_fixed_k_bit_for_bit(
    pictures: bool, tmp_path: Path, key: Path, small_network: None
) -> None:
    """The reward passes and the strategy change nothing of what the recogniser learns."""

    def chain(last: Desensitizer) -> Desensitizer:
        return last if pictures else Chain([Halves(), last])

    settings: dict[str, Any] = {
        "input_size": 16,
        "backbone": "resnet18",
        "width": 8,
        "lr": 0.1,
        "dropout": 0.3,
    }
    settings["in_channels"] = 3 if pictures else 12
    size = 16 if pictures else 32
    torch.manual_seed(1)
    learns = AdaMixUp(strategy_width=8, **settings)
    fit(
        tmp_path / "learns",
        learns,
        data(chain(RandomMixUp([3], key=key)), size),
        max_epochs=1,
        limit_train_batches=2,
    )
    torch.manual_seed(1)
    fixed = ResNet(**settings)
    fit(
        tmp_path / "fixed",
        fixed,
        data(chain(RandomMixUp([3], key=key)), size),
        max_epochs=1,
        limit_train_batches=2,
    )
    mine = learns.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in fixed.state_dict().items())


def digest(model: LearnsToMix, trainer: L.Trainer) -> str:
    """Of weights, statistics of batch norm, gradients, optimiser and generators."""
    found = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    for moments in trainer.optimizers[0].state.values():
        tensors += [value for value in moments.values() if isinstance(value, Tensor)]
    for value in tensors:
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.usefixtures("small_network")
def test_rewards_touch_nothing(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, list[float]]] = []
    rewards = LearnsToMix.rewards

    def watched(self: LearnsToMix, mixed: Any) -> Tensor:
        before = digest(self, self.trainer)
        found = rewards(self, mixed)
        seen.append((before, digest(self, self.trainer), found.tolist()))
        return found

    monkeypatch.setattr(LearnsToMix, "rewards", watched)
    fit(tmp_path, small(), data(RandomMixUp(K, key=key)), max_epochs=1)
    assert len(seen) == 4
    assert all(before == after for before, after, _ in seen)
    assert all(ahead < now for _, _, (now, ahead) in seen), "a step on a mix makes its loss smaller"


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_second_reward_is_the_loss_after_a_step_of_gradient_descent(
    clip: float | None, tmp_path: Path, key: Path
) -> None:
    """Against a step that is really made, on a copy of the model."""
    found: list[tuple[float, float]] = []

    class Check(L.Callback):
        def on_train_batch_start(
            self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            mixed = MixUp(3, key=key)(batch, trainer.datamodule.as_trained(8))  # type: ignore[attr-defined]
            first, second = pl_module.rewards(mixed).tolist()
            kept = {name: value.clone() for name, value in pl_module.state_dict().items()}
            loss = pl_module._judged(mixed)[0]
            weights = list(pl_module.parameters())
            gradients = torch.autograd.grad(loss, weights)
            length = float(torch.cat([one.flatten() for one in gradients]).norm())
            assert length > 0.05
            share = 1.0 if clip is None else clip / length
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= trainer.optimizers[0].param_groups[0]["lr"] * share * gradient
                found.extend([(first, float(loss)), (second, float(pl_module._judged(mixed)[0]))])
            pl_module.load_state_dict(kept)

    fit(
        tmp_path,
        small(dropout=0.0),
        data(RandomMixUp(K, key=key)),
        Check(),
        max_epochs=1,
        gradient_clip_val=clip,
    )
    assert len(found) == 8
    for mine, expected in found:
        assert mine == pytest.approx(expected, rel=1e-5)


def test_without_the_second_reward_nothing_is_looked_ahead(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, small_network: None
) -> None:
    monkeypatch.setattr(LearnsToMix, "_stepped", lambda *args: pytest.fail("looked ahead"))
    trainer = fit(tmp_path, small(reward2=0.0), data(RandomMixUp(K, key=key)), max_epochs=1)
    assert "mixing/reward2" not in trainer.callback_metrics
    assert float(trainer.callback_metrics["mixing/reward1"]) > 0


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


@pytest.mark.parametrize(
    ("changed", "odd"),
    [
        ({"batches": None}, "batches"),
        ({"counts": torch.tensor([1])}, "counts"),
        ({"baseline": torch.tensor([1.0, 2.0])}, "baseline"),
        ({"adam.0.step": torch.tensor(1.0)}, "adam.0.exp_avg"),
        ({"network.choose.bias": torch.full((3,), math.nan)}, "network.choose.bias"),
    ],
)
def test_a_damaged_strategy_is_refused(changed: dict[str, Tensor | None], odd: str) -> None:
    mine = MixStrategy([2, 3, 4], 3, 32, 8, 1e-4, 0.01, True, 0)
    state = {name: value for name, value in {**mine.state(), **changed}.items() if value is not None}
    with pytest.raises(
        ValueError, match=rf"^it: what it holds of the strategy is damaged \({odd}\); take an"
    ):
        mine.load(state, "it")


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


# bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward1": -1.0}, r"model\.reward1=-1\.0, model\.reward2=1\.0: give 0 or more, not both 0"),
        ({"reward1": 0.0, "reward2": 0.0}, "not both 0"),
        ({"as_in_paper": True, "entropy": 0.1}, r"model\.entropy=0\.1: as_in_paper has none"),
        ({"as_in_paper": True, "paired": True}, r"model\.paired=True: as_in_paper has none"),
        ({"strategy_lr": 0.0}, r"model\.strategy_lr=0\.0: give 0 or more, and a positive rate"),
        ({"strategy_lr": math.nan}, r"model\.strategy_lr=nan: give 0 or more, and a positive rate"),
        ({"entropy": math.nan}, r"model\.entropy=nan, .*: give 0 or more, and a positive rate"),
        ({"reward2": math.inf}, r"model\.reward2=inf: give 0 or more, not both 0"),
    ],
)
def test_settings_that_make_no_strategy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_data_that_leave_k_to_nobody(tmp_path: Path, key: Path) -> None:
    with pytest.raises(
        ValueError, match=r"SmallLearner chooses how many .*: end data\.desensitizer with .*RandomMixUp"
    ):
        fit(tmp_path, small(), data(MixUp(2, key=key)))
    assert not (tmp_path / LAST).exists()


def test_as_in_the_paper() -> None:
    model = small(as_in_paper=True)
    assert model.entropy == 0
    assert small().entropy == 0.01
    assert isinstance(model.backbone, SmallBackbone)
    assert isinstance(model.dropout, nn.Dropout)
