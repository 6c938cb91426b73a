"""Finals of a search: the best candidates, judged by a recogniser that is trained on under each."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.draws import hashed
from lightning_app.masks import MaskScorer, TrainedScorer, finals
from lightning_app.masks.search.finals import _ORDER, rounds_of
from lightning_app.networks import SoftmaxHead
from lightning_app.networks.backbones import make_backbone

SIDE, CLASSES = 16, 4
LEFT = torch.zeros(1, SIDE, SIDE)
LEFT[..., : SIDE // 2] = 1
RIGHT = 1 - LEFT


class Tiny(nn.Module):
    """A small recogniser: a backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = make_backbone("resnet18", 3, SIDE, 8).place_gates((), SIDE)
        self.head = SoftmaxHead(self.backbone.dim, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.head.logits(self.backbone(image, None, None))


def faces(count: int, seed: int, left: float, right: float) -> tuple[Tensor, Tensor]:
    """Noise, over it the class as a horizontal bar on the left and on the right, each of its own contrast."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator) * 60 + 90
    for n, label in enumerate(labels.tolist()):
        rows = slice(4 * label, 4 * label + 4)
        images[n, :, rows, : SIDE // 2] += left
        images[n, :, rows, SIDE // 2 :] += right
    return images.clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def right_eyed() -> Tiny:
    """A recogniser that learnt from faces whose class stands on the right alone."""
    images, labels = faces(96, 1, 0, 100)
    model = TrainedScorer(Tiny(), images, labels, images, labels, lr=0.1).trained(
        torch.ones(1, SIDE, SIDE), 8
    )
    assert isinstance(model, Tiny)
    return model


def scorer_of(model: nn.Module, lr: float = 0.1, seed: int = 0) -> TrainedScorer:
    """Of faces whose class stands on the left, and a little on the right."""
    return TrainedScorer(model, *faces(96, 2, 100, 12), *faces(64, 3, 100, 12), lr=lr, seed=seed)


def test_rounds_double_the_passes_of_the_better_half() -> None:
    assert rounds_of(8) == [(8, 1), (4, 2), (2, 4)]
    assert rounds_of(3) == [(3, 1), (2, 2)]
    assert rounds_of(2) == [(2, 1)]
    for few in (1, 0, -3):
        with pytest.raises(ValueError, match=f"finalists: {few}; give 0 for none, or at least 2"):
            rounds_of(few)


def test_training_is_plain_sgd_under_the_mask() -> None:
    """Against every step written out: momentum, decay, the falling rate, the mask before normalising."""
    model = Tiny()
    images, labels = faces(96, 4, 80, 80)
    scorer = TrainedScorer(model, images, labels, images, labels, 0.4, 0.3, lr=1e-3, seed=7)
    before = copy.deepcopy(model.state_dict())
    trained = scorer.trained(LEFT, 2)
    assert isinstance(trained, Tiny)
    assert not trained.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    other = copy.deepcopy(model).train()
    moving = [torch.zeros_like(weight) for weight in other.parameters()]
    step, steps = 0, 4  # 96 images are batches of 64 and 32, twice
    for number in range(2):
        order = torch.argsort(hashed(torch.arange(96), _ORDER, 7, number))
        for rows in (order[:64], order[64:]):
            image = (images[rows].float() / 255 * LEFT - 0.4) / 0.3
            other.zero_grad()
            F.cross_entropy(other(image), labels[rows]).backward()
            with torch.no_grad():
                for weight, moment in zip(other.parameters(), moving, strict=True):
                    assert weight.grad is not None
                    moment.mul_(0.9).add_(weight.grad + 5e-4 * weight)
                    weight.sub_(1e-3 * (1 - step / steps) * moment)
            step += 1
    for name, value in other.state_dict().items():
        change, wanted = trained.state_dict()[name] - before[name], value - before[name]
        # at a small rate, or a difference in the last digit grows with every step
        torch.testing.assert_close(
            change, wanted, rtol=0, atol=3e-3 * float(wanted.abs().max()) + 1e-7, msg=name
        )
    held = MaskScorer(trained, images, labels, 0.4, 0.3)
    assert scorer.score(LEFT, 2) == pytest.approx(held.score(LEFT), rel=1e-4)


def test_training_finds_the_better_mask_where_the_first_model_is_mistaken(right_eyed: Tiny) -> None:
    images, labels = faces(64, 3, 100, 12)
    untrained = MaskScorer(right_eyed, images, labels)
    assert untrained.score(RIGHT) < untrained.score(LEFT), "or the case shows nothing"
    state = torch.get_rng_state()
    first, second = finals(scorer_of(right_eyed), {5: RIGHT, 9: LEFT}, gamma=1.0)
    assert (first.number, second.number) == (9, 5)
    assert first.F < second.F / 2
    assert first.P == second.P == 0.5
    assert first.objective == pytest.approx(first.F - 0.5)
    assert torch.equal(torch.get_rng_state(), state), "drew from the global generator"


def test_the_mask_ratio_counts(right_eyed: Tiny) -> None:
    less = LEFT.clone()
    less[..., 0] = 0
    both = {1: LEFT, 2: less}
    assert finals(scorer_of(right_eyed), both, gamma=1e4)[0].number == 2


def test_finals_that_were_killed_go_on_and_others_are_refused(
    right_eyed: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = {n: torch.maximum(LEFT, torch.eye(SIDE).roll(n, 1)[None]) for n in range(3)} | {3: RIGHT}
    path, told = tmp_path / "finals.jsonl", list[tuple[int, int]]()
    whole = finals(scorer_of(right_eyed), masks, 1.0, path, progress=lambda *at: told.append(at))
    assert [one.passes for one in whole] == [2, 2, 1, 1]
    assert whole[-1].number == 3
    assert told[-1] == (8 * 96, 8 * 96)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["images"] for line in lines[1:]] == [96] * 4 + [192] * 2
    path.write_text("".join(lines[:3]) + lines[3][:7])
    trained: list[int] = []
    first = TrainedScorer.trained

    def counted(self: TrainedScorer, mask: Tensor, passes: int, tick: object = None) -> nn.Module:
        trained.append(passes)
        return first(self, mask, passes)

    monkeypatch.setattr(TrainedScorer, "trained", counted)
    again = finals(scorer_of(right_eyed), masks, 1.0, path, progress=lambda *at: told.append(at))
    assert trained == [1, 1, 2, 2]
    assert [one.number for one in again] == [one.number for one in whole]
    assert [one.F for one in again] == pytest.approx([one.F for one in whole], rel=1e-3)
    assert told[-1] == (8 * 96, 8 * 96)
    with pytest.raises(
        ValueError, match=r"finals\.jsonl is of a search with another lr \(lr was 0\.1, is 0\.2\)"
    ):
        finals(scorer_of(right_eyed, lr=0.2), masks, 1.0, path)


def test_what_cannot_be_trained_is_told(right_eyed: Tiny) -> None:
    images, labels = faces(64, 3, 100, 12)
    with pytest.raises(ValueError, match="has no backbone with a head that can be trained"):
        TrainedScorer(nn.Flatten(), images, labels, images, labels)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"finalist_lr: \S+ is no learning rate; give one above 0"):
            scorer_of(right_eyed, lr=rate)
    with pytest.raises(ValueError, match=r"diverged at 1e\+30; give a smaller rate"):
        scorer_of(right_eyed, lr=1e30).score(LEFT, 2)


def test_one_image_more_than_batches_is_left_out() -> None:
    """Batch norm has no variance of one image."""
    images, labels = faces(65, 4, 80, 80)
    ticks: list[int] = []
    TrainedScorer(Tiny(), images, labels, images, labels).trained(LEFT, 1, ticks.append)
    assert ticks == [64]
