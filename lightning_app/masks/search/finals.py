"""The last round of a search: the best candidates, each judged by a recogniser that is trained on under it.

F of a model that never saw a hidden pixel says little about what a mask costs whoever trains under it. Training says
it, and costs too much for hundreds of candidates; for a few it does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_app.core.draws import hashed, seed_from
from lightning_app.core.normalise import normalised
from lightning_app.masks.io import mask_hash, mask_ratio
from lightning_app.masks.search.journal import SearchJournal
from lightning_app.masks.search.objective import MaskScorer, objective
from lightning_app.networks import Backbone, Head

_ORDER, _DROPOUT = 350, 351  # salts
_BATCH = 64
_MOMENTUM, _DECAY = 0.9, 5e-4
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Finalist:
    """What became of one candidate in the finals.

    Attributes:
        number: of the candidate.
        passes: over the training images under its mask, in the last round that it took part in.
        F: mean cross-entropy in nats on held-out images under the mask, after that training.
        P: mask ratio.
        objective: F − γ·P.
    """

    number: int
    passes: int
    F: float
    P: float
    objective: float


class TrainedScorer:
    """Find F(mask) of a recogniser that is trained on under that very mask before.

    Training begins with the model's weights each time: SGD with momentum, the rate falling to 0 in a straight line,
    without augmentation, hidden pixels made 0 as `MaskOut` makes them. The order of images is the same for all masks.
    A score is a function of the mask and the number of passes alone, on one machine and number of threads.

    Args:
        model: with a `backbone` and a `head`, such as a `Recogniser`; it is copied.
        images: `[N,C,H,W]` uint8 to train on.
        labels: `[N]` int64 classes of the model.
        held: `[M,C,H,W]` uint8 that F is measured on; of the same identities, not among `images`.
        held_labels: `[M]` int64.
        mean: as the model's data had it.
        std: likewise.
        lr: learning rate to begin with.
        bf16: train and score in bfloat16.
        device: where to; None where the model is.
        seed: of the order of images, and of dropout.

    Raises:
        ValueError: there is nothing to train, or the rate is not above 0.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor, mean: float = 0.5,
        std: float = 0.5, lr: float = 0.01, bf16: bool = False, device: torch.device | str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
        if not isinstance(backbone, Backbone) or not isinstance(head, Head) or not head.num_classes:
            raise ValueError(
                "model: has no backbone with a head that can be trained; give a recogniser's checkpoint"
            )
        check_rate(lr)
        self._model = model
        self._scored = {"mean": mean, "std": std, "bf16": bf16, "seed": seed}
        self.device = next(model.parameters()).device if device is None else torch.device(device)
        self._images, self._labels = images.to(self.device), labels.to(self.device)
        self._held = held, held_labels
        self.mean, self.std, self.lr, self.bf16, self.seed = mean, std, lr, bf16, seed

    def __len__(self) -> int:
        """Return how many images a pass trains on."""
        return len(self._images)

    def fingerprint(self) -> dict[str, object]:
        """Return what decides every score but mask and passes, in JSON's types: hashes and settings, no pixels."""
        own = MaskScorer(self._model, self._images, self._labels, self.mean, self.std, device=self.device)
        scored = self._scorer(self._model).fingerprint()
        return {"scored": scored, "trained": own.fingerprint()["images"], "lr": self.lr, "batch_size": _BATCH,
                "momentum": _MOMENTUM, "weight_decay": _DECAY}  # fmt: skip

    def score(self, mask: Tensor, passes: int, tick: Callable[[int], None] | None = None) -> float:
        """Train a copy of the model under a mask and return its F on the held-out images, in nats.

        Args:
            mask: `[1,H,W]`, 1 = visible, 0 = hidden.
            passes: over the training images, at least 1.
            tick: called with the number of images of every step.

        Raises:
            ValueError: training diverges.
        """
        return self._scorer(self.trained(mask, passes, tick)).score(mask)

    def trained(self, mask: Tensor, passes: int, tick: Callable[[int], None] | None = None) -> nn.Module:
        """Return a copy of the model that was trained on under a mask, in `eval()`; arguments as in `score`."""
        model = copy.deepcopy(self._model).to(self.device).to(memory_format=torch.channels_last)
        model.requires_grad_(True).train()
        backbone, head, dropout = model.backbone, model.head, getattr(model, "dropout", nn.Identity())
        assert isinstance(backbone, Backbone)
        assert isinstance(head, Head)
        head.at(1.0)  # a margin that grew in training is whole
        optimiser = torch.optim.SGD(model.parameters(), self.lr, _MOMENTUM, weight_decay=_DECAY)
        steps = passes * math.ceil(len(self) / _BATCH)
        falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        visible = mask.to(self.device, torch.uint8)[None]  # [1,1,H,W]
        shown = mask.to(self.device, torch.float32)[None]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(seed_from(_DROPOUT, self.seed))
            for number in range(passes):
                order = torch.argsort(hashed(torch.arange(len(self)), _ORDER, self.seed, number))
                for rows in order.to(self.device).split(_BATCH):
                    if len(rows) == 1:
                        continue  # batch norm has no variance of one image
                    pixels = (self._images[rows] * visible).float() / 255
                    image = normalised(pixels, self.mean, self.std).contiguous(
                        memory_format=torch.channels_last
                    )
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                        embedding = backbone(image, shown, None)
                    loss, _ = head(dropout(embedding.float()), self._labels[rows])
                    if not bool(loss.isfinite()):
                        raise ValueError(
                            f"finalist_lr: training under a candidate diverged at {self.lr:g}; give a smaller rate"
                        )
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    falling.step()
                    if tick is not None:
                        tick(len(rows))
        return model.eval().requires_grad_(False)

    def _scorer(self, model: nn.Module) -> MaskScorer:
        return MaskScorer(model, *self._held, device=self.device, **self._scored)  # type: ignore[arg-type]


def check_rate(lr: float) -> None:
    """Refuse what is no learning rate.

    Args:
        lr: to begin with.

    Raises:
        ValueError: it is not above 0, or not finite.
    """
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"finalist_lr: {lr:g} is no learning rate; give one above 0, such as 0.01")


def rounds_of(finalists: int) -> list[tuple[int, int]]:
    """Return (candidates, passes) of each round: twice the passes for the better half, until one is left.

    Args:
        finalists: candidates of the first round, at least 2.

    Raises:
        ValueError: fewer.
    """
    if finalists < 2:
        raise ValueError(f"finalists: {finalists}; give 0 for none, or at least 2")
    rounds, passes = list[tuple[int, int]](), 1
    while finalists > 1:
        rounds.append((finalists, passes))
        finalists, passes = math.ceil(finalists / 2), 2 * passes
    return rounds


def finals(
    scorer: TrainedScorer, masks: Mapping[int, Tensor], gamma: float, journal: str | Path | None = None,
    replace: bool = False, progress: Tick | None = None,
) -> list[Finalist]:  # fmt: skip
    """Choose among the best candidates of a search by training: successive halving, the honest objective.

    All candidates are trained under for one pass, the better half anew for two, and so on until one is left. Each round
    costs about the same.

    Args:
        scorer: trains, and finds F.
        masks: number → mask `[1,H,W]` of each candidate, the best first; at least 2.
        gamma: nats per unit of mask ratio.
        journal: a JSON-lines file that scores are written to as they come; finals that were killed go on from it.
        replace: whether a journal of other finals is written anew rather than refused.
        progress: called with (images trained on so far, all of them).

    Returns:
        One for each candidate, the chosen one first: those of more passes before others, then by F − γ·P.

    Raises:
        ValueError: fewer than two masks, training diverges, or the journal is another's.
    """
    rounds = rounds_of(len(masks))
    total = sum(count * passes for count, passes in rounds) * len(scorer)
    done = 0

    def tick(images: int) -> None:
        nonlocal done
        done = min(done + images, total)
        if progress is not None:
            progress(done, total)

    found: dict[int, Finalist] = {}
    left, ended = list(masks), 0
    with SearchJournal(journal, scorer.fingerprint(), replace) as kept:
        for count, passes in rounds:
            left = left[:count]
            for number in left:
                name, images = mask_hash(masks[number]), passes * len(scorer)
                if images not in kept.sums.get(name, {}):
                    kept.add(name, images, scorer.score(masks[number], passes, tick))
                ended += images
                tick(ended - done)  # what the journal knew, and batches of one image
                loss, share = kept.sums[name][images], mask_ratio(masks[number])
                assert isinstance(share, float)
                found[number] = Finalist(number, passes, loss, share, objective(loss, share, gamma))
            left.sort(key=lambda number: found[number].objective)  # of ties the better one by F stays first
    return sorted(found.values(), key=lambda one: (-one.passes, one.objective))
