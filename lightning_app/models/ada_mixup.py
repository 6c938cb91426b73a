"""AdaMixUp: a recogniser that learns how many images to mix, against itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import mixer_of
from lightning_app.models.base import Recogniser
from lightning_app.models.mix_strategy import MixStrategy, shares_of
from lightning_app.models.resnet import ResNet
from lightning_app.models.resnet_fsm import ResNetFSM
from lightning_app.networks.backbones import WIDTH

log = logging.getLogger("faceveil")
STRATEGY = "mix_strategy"  # under this name a checkpoint keeps it
_ENTROPY = 0.01
_WAYS = ("as_in_paper", "paired")  # to learn: each has another baseline, or none
_WEIGHTS = ("reward1", "reward2", "entropy", "strategy_lr")


class LearnsToMix(Recogniser):
    """What makes AdaMixUp of a recogniser: `class Mine(LearnsToMix, MyRecogniser)`.

    Of every training batch a strategy network π sees the images, desensitized and not yet mixed. A k is drawn from π,
    the batch is mixed, and the reward is λ1·L1 + λ2·L2: L1 is the loss of the mix, L2 its loss after one step of plain
    gradient descent on L1, which is then forgotten. π learns to make rewards high (REINFORCE), so it looks for the k
    that is hard to learn. Then k is drawn again from the same probabilities, and the recogniser learns the mix.

    The recogniser's update is Lightning's own; the strategy's is made by hand within `training_step`. So steps,
    schedules, checkpoints and limits count batches. Data needs `lightning_app.desensitize.RandomMixUp`, whose
    candidates π chooses among. Verification never mixes.

    Logs, beside a recogniser's metrics: `mixing/reward1`, `mixing/reward2`, `mixing/entropy`, `mixing/mean_k`, and for
    each candidate `mixing/share_K` and `mixing/probability_K`.

    Args:
        strategy_width: channels of the first stage of the strategy's ResNet-18, 64 in the paper.
        strategy_lr: learning rate of its Adam.
        reward1: λ1, weight of the loss of the mix, 0 or more.
        reward2: λ2, weight of the loss one step ahead, 0 or more; 0 spares two of four more passes.
        entropy: weight of the strategy's entropy in its loss, in nats; by default 0.01.
        as_in_paper: neither baseline nor entropy: rewards as they are.
        paired: compare a reward with the loss of the mix that the recogniser learns of the same batch, whose k is drawn
            from the same probabilities. What both have in common, such as a loss that rises with a margin's ramp, then
            counts for nothing. By default a reward is compared with the rewards of the batches before.
        **kwargs: as for the recogniser.

    Raises:
        ValueError: a weight is below 0, both rewards are 0, or `entropy` is given with `as_in_paper`.

    Source: Adaptive Hybrid Masking Strategy for Privacy-Preserving Face Recognition Against Model Inversion Attack,
    formulas 2 to 8.
    """

    mixes_itself = True

    def __init__(
        self,
        strategy_width: int = WIDTH,
        strategy_lr: float = 1e-4,
        reward1: float = 1.0,
        reward2: float = 1.0,
        entropy: float | None = None,
        as_in_paper: bool = False,
        paired: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not (reward1 >= 0 and reward2 >= 0 and 0 < reward1 + reward2 < math.inf):
            raise ValueError(f"model.reward1={reward1}, model.reward2={reward2}: give 0 or more, not both 0")
        if as_in_paper and (entropy or paired):
            given = "paired=True" if paired else f"entropy={entropy}"
            raise ValueError(f"model.{given}: as_in_paper has none; leave out either")
        if not (0 <= (entropy or 0) < math.inf and 0 < strategy_lr < math.inf):
            raise ValueError(
                f"model.entropy={entropy}, model.strategy_lr={strategy_lr}: give 0 or more, and a positive rate"
            )
        self.strategy_width, self.strategy_lr = strategy_width, strategy_lr
        self.reward1, self.reward2, self.as_in_paper, self.paired = reward1, reward2, as_in_paper, paired
        self.entropy = 0.0 if as_in_paper else _ENTROPY if entropy is None else entropy
        self.drawn_k: int | None = None  # of the last batch
        # in a list: neither in the state dict nor in the optimiser nor in DDP; it stays with its owner
        self._strategies: list[MixStrategy] = []
        self._to_load: tuple[Mapping[str, Tensor], str] | None = None

    @property
    def strategy(self) -> MixStrategy | None:
        """Return what chooses k; None before `fit`."""
        return self._strategies[0] if self._strategies else None

    def prepare_data(self) -> None:
        """Make the strategy for the data's candidates, in `fit`, before a run is written.

        Raises:
            ValueError: the data leave k to nobody, or no strategy can be made for their images.
        """
        super().prepare_data()
        if self.trainer.state.fn != "fit" or self._strategies:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        mixer = None if data is None else mixer_of(data.desensitizer)
        if mixer is None:
            raise ValueError(
                f"{type(self).__name__} chooses how many images are mixed: end data.desensitizer with "
                "lightning_app.desensitize.RandomMixUp, which leaves it open, or take another model"
            )
        self._strategies = [
            MixStrategy(
                mixer.candidates, data.in_channels, data.input_size, self.strategy_width, self.strategy_lr,
                self.entropy, not self.as_in_paper, data.seed,
            )
        ]  # fmt: skip
        if self.channels_last:
            self._strategies[0].network.to(memory_format=torch.channels_last)

    def on_train_start(self) -> None:
        """Bring the strategy to the device, with what a checkpoint, or an earlier round, knew."""
        super().on_train_start()
        (strategy,) = self._strategies
        if self._to_load is not None:
            strategy.load(*self._to_load)
            self._to_load = None
        strategy.to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Let the strategy learn of a batch, and return the loss of its mix; see the class."""
        mixed, learn = self._mixed(batch, batch_idx)
        if not self.paired:
            learn(0.0)
        loss = super().training_step(mixed, batch_idx)
        if self.paired:
            learn((self.reward1 + self.reward2) * float(self._mean(loss.detach().float())))
        return loss

    def _mixed(self, batch: Batch, batch_idx: int) -> tuple[Batch, Callable[[float], None]]:
        """Return the mix to learn, and how the strategy learns, given what its reward is compared with."""
        (strategy,) = self._strategies
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        draw_key = DrawKey(data.seed, self.current_epoch, self.global_step, mix=True)
        logits = self._look(strategy, batch["image"])
        tried, self.drawn_k = strategy.draw(0), strategy.draw(1)
        strategy.counts[strategy.candidates.index(self.drawn_k)] += 1
        rewards = self.rewards(data.mixed(batch, draw_key, tried))
        on_cpu = rewards.cpu()
        reward = sum(share * float(one) for share, one in self._shares(on_cpu))
        self._tell(strategy, on_cpu, len(batch["index"]), self._log_anew or batch_idx == 0)

        def learn(compared: float) -> None:
            strategy.learn(logits, tried, reward - compared, self._mean)

        return data.mixed(batch, draw_key, self.drawn_k), learn

    def _look(self, strategy: MixStrategy, image: Tensor) -> Tensor:
        """Return the strategy's logits, in the run's precision; in fp16, whose gradients vanish, in fp32."""
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind)
        lower = torch.is_autocast_enabled(kind) and dtype is not torch.float16
        with torch.autocast(kind, dtype, enabled=lower):
            if self.channels_last:
                image = image.contiguous(memory_format=torch.channels_last)
            return strategy.look(image.float(), self._mean)

    def rewards(self, mixed: Batch) -> Tensor:
        """Return the loss of a mix, and its loss one step of gradient descent ahead, of all ranks.

        Neither weights and statistics of batch norm nor optimiser and generators are touched: the passes are made on
        copies.

        Args:
            mixed: a training batch, mixed.

        Returns:
            `[2]` float32 without a graph: L1 and L2; L2 is not computed where `reward2` is 0, and NaN.
        """
        ahead = self.reward2 > 0
        # aliases: a gradient, or a cast that autocast keeps, is not the weights' own
        weights = {
            name: one.detach().requires_grad_(ahead)
            for name, one in self.named_parameters() if one.requires_grad
        }  # fmt: skip
        on_gpu = [self.device] if self.device.type == "cuda" else []
        graphed, self._graphed = self._graphed, []  # CUDA graphs hold the weights they were captured with
        try:
            with torch.random.fork_rng(devices=on_gpu), torch.set_grad_enabled(ahead):
                first = self._loss_with(weights, mixed)
            second = first.new_tensor(float("nan"))
            if ahead:
                stepped = self._stepped(weights, first)
                with torch.random.fork_rng(devices=on_gpu), torch.no_grad():
                    second = self._loss_with(stepped, mixed)
        finally:
            self._graphed = graphed
        return self._mean(torch.stack([first.detach().float(), second.detach().float()]))

    def _loss_with(self, weights: Mapping[str, Tensor], mixed: Batch) -> Tensor:
        state = {name: one.clone() for name, one in self.named_buffers()}  # batch norm writes there
        given = {f"model.{name}": one for name, one in {**state, **weights}.items()}
        loss: Tensor = functional_call(_Loss(self), given, (mixed,))
        return loss

    def _stepped(self, weights: Mapping[str, Tensor], loss: Tensor) -> dict[str, Tensor]:
        """Return θ′ = θ − η∇L1, the gradient being that of all ranks, clipped as the run clips."""
        names = list(weights)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of 16-mixed
        scale = 1.0 if scaler is None else scaler.get_scale()
        found = torch.autograd.grad(loss * scale, [weights[name] for name in names], allow_unused=True)
        sizes = [weights[name].numel() for name in names]
        parts = [
            weights[name].new_zeros(size) if one is None else one.flatten()
            for name, size, one in zip(names, sizes, found, strict=True)
        ]
        flat = self._mean(torch.cat(parts)) / scale
        if most := self.trainer.gradient_clip_val:
            by_value = str(self.trainer.gradient_clip_algorithm or "norm").endswith("value")
            flat = flat.clamp(-most, most) if by_value else flat * (most / flat.norm().clamp(min=most))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        with torch.no_grad():
            return {
                name: weights[name] - rate * one.view_as(weights[name])
                for name, one in zip(names, flat.split(sizes), strict=True)
            }

    def _mean(self, value: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return value
        mean: Tensor = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean

    def _shares(self, rewards: Tensor) -> list[tuple[float, Tensor]]:
        weights = (self.reward1, self.reward2)
        return [(share, one) for share, one in zip(weights, rewards, strict=True) if share > 0]

    def _tell(self, strategy: MixStrategy, rewards: Tensor, count: int, anew: bool) -> None:
        probability = strategy.probability
        metrics = {"mixing/reward1": rewards[0]}
        if self.reward2:
            metrics["mixing/reward2"] = rewards[1]
        metrics["mixing/entropy"] = -(probability * probability.clamp(min=1e-300).log()).sum().float()
        for one, share in zip(strategy.candidates, probability.float(), strict=True):
            metrics[f"mixing/probability_{one}"] = share
        metrics |= shares_of(strategy.candidates, strategy.counts)
        for name, value in metrics.items():
            self.note(anew, name, value, count)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the strategy with its optimiser, its baseline and how many batches it has seen."""
        super().on_save_checkpoint(checkpoint)
        if (strategy := self.strategy) is not None:
            checkpoint[STRATEGY] = strategy.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the strategy up again, in `fit`; see the base class.

        Raises:
            ValueError: the checkpoint holds another network, or a strategy for other candidates, or one that learnt
                in another way.
        """
        super().on_load_checkpoint(checkpoint)
        if (strategy := self.strategy) is None:
            return
        kept = checkpoint.get(STRATEGY)
        if kept is None:
            log.warning("The checkpoint has no strategy of how much to mix: it begins anew.")
            return
        self._check_learning(checkpoint.get("hyper_parameters") or {})
        strategy.load(kept, "this checkpoint")

    def _check_learning(self, before: Mapping[str, Any]) -> None:
        """Refuse another way to learn, whose baseline the checkpoint has not; say so where rewards are weighed anew."""
        now = {name: self.hparams.get(name) for name in (*_WAYS, *_WEIGHTS)}
        other = [
            f"model.{name} {before[name]}, here {value}"
            for name, value in now.items()
            if name in before and before[name] != value
        ]
        if any(name in before and before[name] != now[name] for name in _WAYS):
            raise ValueError(
                f"the checkpoint's strategy learnt in another way ({'; '.join(other)}): go on as it did, or begin "
                "a new run with another --name"
            )
        if other:
            log.warning("The strategy goes on otherwise than it has learnt (%s).", "; ".join(other))

    def stays(self) -> dict[str, Tensor]:
        """Return the strategy: in a federation it stays with its owner."""
        return {} if self.strategy is None else self.strategy.state()

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `stays` returned after an earlier round; without it anew."""
        self._strategies, self._to_load = [], (state, "this owner's strategy") if state else None


class _Loss(nn.Module):
    """A recogniser as a function from a batch to its loss, whose weights can be replaced for a call."""

    def __init__(self, model: LearnsToMix) -> None:
        super().__init__()
        self.model = model

    def forward(self, mixed: Batch) -> Tensor:
        return self.model._judged(mixed)[0]


class AdaMixUp(LearnsToMix, ResNet):
    """A recogniser, of any backbone and head, that learns how many images to mix."""


class AdaMixUpFSM(LearnsToMix, ResNetFSM):
    """A `ResNetFSM` that learns how many images to mix, under one mask for all images."""
