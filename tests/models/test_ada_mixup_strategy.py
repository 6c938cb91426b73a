"""AdaMixUp's strategy by itself: its gradient, its baseline, how k is drawn, and settings that make none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_app.models.mix_strategy import MixStrategy, RunningBaseline
from lightning_app.networks.strategy import StrategyNetwork, pick, reinforce_loss
from tests.models.mixing_run import K, small
from tests.small_run import SmallBackbone


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


@pytest.mark.slow
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


def test_as_in_the_paper() -> None:
    model = small(as_in_paper=True)
    assert model.entropy == 0
    assert small().entropy == 0.01
    assert isinstance(model.backbone, SmallBackbone)
    assert isinstance(model.dropout, nn.Dropout)
