"""What learns how much to mix: the strategy network with its optimiser, its baseline and its draws."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_app.core.draws import seed_from
from lightning_app.networks.strategy import StrategyNetwork, pick, reinforce_loss

log = logging.getLogger("faceveil")
_MADE, _DRAWN = 0x73747261, 0x7374726B  # "stra", "strk": name the draws
_KEPT_SHARE = 0.95  # of the running mean that a reward leaves
_STEEPEST = 5.0  # deviations of a reward from its mean
Mean = Callable[[Tensor], Tensor]  # of a tensor over the ranks


class RunningBaseline:
    """The running mean and deviation of rewards: an exponential mean, of the first few the plain one.

    Rewards are losses, always above 0: without a baseline whatever was drawn is reinforced.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.variance = 0, 0.0, 0.0

    def advantage(self, reward: float) -> float:
        """Return by how many deviations a reward is above the mean of those before, at most 5; then count it in.

        Args:
            reward: finite.

        Returns:
            0 for the first two, which have no deviation before them.
        """
        away = reward - self.mean
        deviation = math.sqrt(self.variance)
        known = self.count > 1 and deviation > 0
        found = min(max(away / deviation, -_STEEPEST), _STEEPEST) if known else 0.0
        rate = max(1 / (self.count + 1), 1 - _KEPT_SHARE)
        self.count += 1
        self.mean += rate * away
        self.variance = (1 - rate) * (self.variance + rate * away**2)
        return found


class MixStrategy:
    """The strategy π, and how it learns by REINFORCE; outside the model's own weights, optimiser and DDP.

    Args:
        candidates: the k it chooses among.
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the network's first stage.
        lr: Adam's learning rate.
        entropy: weight of the entropy in the loss.
        baseline: whether rewards are compared with those before.
        seed: seed of the first weights and of the draws.

    Raises:
        ValueError: no network can be made for such images.
    """

    def __init__(
        self, candidates: Sequence[int], in_channels: int, input_size: int, width: int, lr: float,
        entropy: float, baseline: bool, seed: int,
    ) -> None:  # fmt: skip
        self.candidates, self.entropy, self.seed = tuple(candidates), entropy, seed
        with torch.random.fork_rng(devices=[]):  # the recogniser's first weights are what they are without
            torch.manual_seed(seed_from(_MADE, seed))
            self.network = StrategyNetwork(in_channels, input_size, len(candidates), width)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.baseline = RunningBaseline() if baseline else None
        self.batches = 0  # it has seen
        self.counts = [0] * len(candidates)  # batches of the run that were mixed with each
        self.probability = torch.full((len(candidates),), 1 / len(candidates), dtype=torch.float64)
        self._told = False

    def to(self, device: torch.device) -> None:
        """Move network and moments to where the model is."""
        self.network.to(device)
        for moments in self.optimizer.state.values():
            for name, value in moments.items():
                moments[name] = value.to(device) if name != "step" else value

    def look(self, image: Tensor, mean: Mean) -> Tensor:
        """Look at a desensitized batch, and note the probability of each candidate.

        Args:
            image: `[B,C,H,W]`, this process's share.
            mean: over the ranks.

        Returns:
            Logits `[K]`, the same bits on every rank, with this rank's graph.
        """
        own: Tensor = self.network(image)
        shared = mean(own.detach().clone())
        self.probability = shared.double().cpu().softmax(0)
        return shared + (own - own.detach())

    def draw(self, which: int) -> int:
        """Draw a k from the probabilities noted last, by (seed, batches seen, which of its draws).

        Args:
            which: number of the draw in this batch.
        """
        at = seed_from(_DRAWN, self.seed, self.batches, which) / 2**63
        return self.candidates[pick(self.probability, at)]

    def learn(self, logits: Tensor, k: int, reward: float, mean: Mean) -> None:
        """Make a k likelier that had a high reward, and others less likely; one step of Adam.

        Args:
            logits: what `look` returned.
            k: that was drawn.
            reward: it had, of all ranks. Where it is not finite, nothing is learnt of it.
            mean: over the ranks.
        """
        self.batches += 1
        if not math.isfinite(reward):
            if not self._told:
                log.warning(
                    "AdaMixUp: a reward is %s: the strategy learns nothing from such batches.", reward
                )
            self._told = True
            return
        advantage = reward if self.baseline is None else self.baseline.advantage(reward)
        weights = list(self.network.parameters())
        loss = reinforce_loss(logits, self.candidates.index(k), advantage, self.entropy)
        # each rank's graph leads to its own images alone: the mean is the gradient of the shared logits
        flat = mean(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
        for weight, own in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.grad = own.view_as(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Return all it knows, for a checkpoint or a safetensors file: tensors on the CPU, sharing no memory."""
        kept = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            kept |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        kept["candidates"] = torch.tensor(self.candidates)
        kept["batches"], kept["counts"] = torch.tensor(self.batches), torch.tensor(self.counts)
        if (own := self.baseline) is not None:
            kept["baseline"] = torch.tensor([own.count, own.mean, own.variance], dtype=torch.float64)
        return {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in kept.items()
        }

    def load(self, state: Mapping[str, Tensor], whose: str) -> None:
        """Go on from what `state` returned.

        Args:
            state: of a strategy with the same candidates and width.
            whose: for the message.

        Raises:
            ValueError: it is of another strategy, or damaged.
        """
        theirs = state.get("candidates", torch.tensor([])).tolist()
        network = _part(state, "network.")
        mine = {name: value.shape for name, value in self.network.state_dict().items()}
        if theirs != list(self.candidates) or {name: v.shape for name, v in network.items()} != mine:
            raise ValueError(
                f"{whose}: holds another strategy (k of {theirs}; yours: {list(self.candidates)}, or another "
                "strategy_width or image): use the config it was trained with"
            )
        if odd := self._odd(state):
            raise ValueError(
                f"{whose}: what it holds of the strategy is damaged ({odd}); take an earlier one"
            )
        self.network.load_state_dict(network)
        self.batches, self.counts = int(state["batches"]), state["counts"].tolist()
        made = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "adam.").items():
            number, _, key = name.partition(".")
            moments.setdefault(int(number), {})[key] = value.clone()
        self.optimizer.load_state_dict({**made, "state": moments})
        if self.baseline is not None and "baseline" in state:
            count, self.baseline.mean, self.baseline.variance = state["baseline"].tolist()
            self.baseline.count = int(count)

    def _odd(self, state: Mapping[str, Tensor]) -> str | None:
        """Return what is missing, of another shape or not finite, where the network fits."""
        shapes: dict[str, torch.Size] = {
            "batches": torch.Size(()),
            "counts": torch.Size([len(self.candidates)]),
        }
        if "baseline" in state:
            shapes["baseline"] = torch.Size([3])
        if _part(state, "adam."):  # none before the first step
            for number, weight in enumerate(self.network.parameters()):
                shapes[f"adam.{number}.step"] = torch.Size(())
                shapes |= {f"adam.{number}.{name}": weight.shape for name in ("exp_avg", "exp_avg_sq")}
        known = shapes.keys() | {"candidates"} | {f"network.{name}" for name in self.network.state_dict()}
        wrong = [name for name, shape in shapes.items() if name not in state or state[name].shape != shape]
        wrong += [
            name for name, value in state.items() if name not in known or not bool(value.isfinite().all())
        ]
        return min(wrong, default=None)


def shares_of(candidates: Sequence[int], counts: Sequence[int]) -> dict[str, Tensor]:
    """Return the log keys of how much was mixed: the share of batches that had each k, and their mean.

    Args:
        candidates: the k.
        counts: batches that had each; at least one in all.
    """
    total = sum(counts)
    found = {f"mixing/share_{k}": count / total for k, count in zip(candidates, counts, strict=True)}
    mean = sum(k * count for k, count in zip(candidates, counts, strict=True)) / total
    return {name: torch.tensor(value) for name, value in {**found, "mixing/mean_k": mean}.items()}


def _part(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
