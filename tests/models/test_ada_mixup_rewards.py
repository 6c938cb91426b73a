"""AdaMixUp's rewards: what they are compared with, and that they leave the recogniser alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_app.desensitize import Chain, Desensitizer, MixUp, RandomMixUp
from lightning_app.models import AdaMixUp, ResNet
from lightning_app.models.ada_mixup import LearnsToMix
from lightning_app.models.mix_strategy import MixStrategy
from tests.desensitize.test_chain import Halves
from tests.models.mixing_run import K, data, fit, small
from tests.small_run import SmallRecogniser


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
