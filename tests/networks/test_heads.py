from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.models.parts import described
from lightning_app.networks import Head, SoftmaxHead
from lightning_app.networks.heads import NoHead, heaviest, make_head, mixed_cross_entropy
from tests.networks.head_contract import HeadContract


class ToyHead(Head):
    """Scores are cosines times a scale: what somebody else's head may look like."""

    def __init__(self, dim: int, classes: int, scale: float = 8.0) -> None:
        super().__init__(dim, classes)
        self.scale, self.weight = scale, nn.Parameter(torch.randn(classes, dim))

    def forward(
        self, embedding: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = self.logits(embedding)
        return mixed_cross_entropy(logits, target, weight), logits

    def logits(self, embedding: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(embedding), F.normalize(self.weight))

    def weight_of(self, classes: Tensor) -> Tensor:
        return F.normalize(self.weight)[classes]


class TestSoftmaxHead(HeadContract):
    maker = SoftmaxHead


class TestToyHead(HeadContract):
    maker = partial(ToyHead, scale=4.0)


def reference(logits: Tensor, target: Tensor, weight: Tensor, smoothing: float) -> float:
    """The dense way, in NumPy and float64."""
    scores = logits.double().numpy()
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    dense = np.zeros_like(logs)
    for row, (labels, shares) in enumerate(zip(target.tolist(), weight.tolist(), strict=True)):
        for label, share in zip(labels, shares, strict=True):
            dense[row, label] += share
    dense = (1 - smoothing) * dense + smoothing / logs.shape[1]
    return float(-(dense * logs).sum(1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_are_the_dense_ones_of_numpy(smoothing: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=draw)
    target = torch.randint(0, 5, (7, 3), generator=draw)
    target[0] = target[0, 0]  # a person mixed with themselves
    weight = torch.rand(7, 3, generator=draw)
    weight = weight / weight.sum(1, keepdim=True)
    found = float(mixed_cross_entropy(logits, target, weight, smoothing))
    assert found == pytest.approx(reference(logits, target, weight, smoothing), rel=1e-5)
    one = target[:, 0]
    plain = float(F.cross_entropy(logits, one, label_smoothing=smoothing))
    assert float(mixed_cross_entropy(logits, one, None, smoothing)) == plain
    assert reference(logits, one[:, None], torch.ones(7, 1), smoothing) == pytest.approx(plain, rel=1e-5)


def test_mixed_labels_have_the_gradient_of_dense_ones() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target, weight = (
        torch.tensor([[0, 1], [2, 2], [3, 0]]),
        torch.tensor([[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]]),
    )
    ours, dense = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mixed_cross_entropy(ours, target, weight).backward()
    F.cross_entropy(dense, torch.zeros(3, 4).scatter_add_(1, target, weight).double()).backward()
    torch.testing.assert_close(ours.grad, dense.grad, rtol=1e-5, atol=1e-7)


def test_the_heaviest_label_counts() -> None:
    target, weight = (
        torch.tensor([[4, 1], [2, 3], [0, 5]]),
        torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]]),
    )
    assert heaviest(target, weight).tolist() == [1, 2, 0]
    assert heaviest(target[:, 0]).tolist() == [4, 2, 0]


@pytest.mark.parametrize(
    ("target", "weight"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), None),
        (torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 2)),
        (torch.zeros(2, dtype=torch.int64), torch.ones(2)),
    ],
)
def test_labels_and_shares_that_do_not_fit(target: Tensor, weight: Tensor | None) -> None:
    with pytest.raises(
        ValueError, match=r"^target of shape .*: give \[B\] without a weight, or \[B, k\] with"
    ):
        mixed_cross_entropy(torch.zeros(2, 4), target, weight)


def test_softmax_is_the_linear_layer_it_was() -> None:
    torch.manual_seed(5)
    linear, after = nn.Linear(6, 4), torch.rand(1)
    torch.manual_seed(5)
    head = SoftmaxHead(6, 4, label_smoothing=0.2)
    assert torch.equal(torch.rand(1), after), "it draws as much as the layer"
    assert list(head.state_dict()) == list(linear.state_dict()) == ["weight", "bias"]
    assert all(torch.equal(head.state_dict()[key], value) for key, value in linear.state_dict().items())
    embedding, target = torch.randn(3, 6), torch.tensor([0, 3, 1])
    loss, logits = head(embedding, target)
    assert torch.equal(logits, linear(embedding))
    assert torch.equal(loss, F.cross_entropy(linear(embedding), target, label_smoothing=0.2))
    assert torch.equal(head.eval()(embedding, target)[0], F.cross_entropy(linear(embedding), target))
    with pytest.raises(ValueError, match=r"label_smoothing: 1\.5 is not within 0 … 1"):
        SoftmaxHead(6, 4, 1.5)


def test_without_a_head_there_are_no_scores() -> None:
    head = NoHead(6)
    assert (head.num_classes, list(head.state_dict())) == (0, [])
    for call in (lambda: head.logits(torch.zeros(1, 6)), lambda: head.weight_of(torch.zeros(1).long()),
                 lambda: head(torch.zeros(1, 6), torch.zeros(1).long())):  # fmt: skip
        with pytest.raises(ValueError, match="without the head: they embed, and do not classify"):
            call()


def test_what_makes_no_head() -> None:
    with pytest.raises(ValueError, match=r"head: Linear is no subclass of lightning_app\.networks\.Head"):
        make_head(nn.Linear, 6, 4)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=r"head: cannot be made of \(dim, classes\) and its init_args"):
        make_head(partial(ToyHead, size=3), 6, 4)  # type: ignore[call-arg]  # the mistake under test
    with pytest.raises(
        ValueError, match=r"label_smoothing: 0\.1, but ToyHead smooths no labels: set it to 0"
    ):
        make_head(ToyHead, 6, 4, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"head: .* is no Head class; give a class_path"):
        described(lambda dim, classes: ToyHead(dim, classes), Head)
    assert described(ToyHead, Head) == {"class_path": f"{__name__}.ToyHead", "init_args": {"scale": 8.0}}
