from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lightning_app.models.parts import described
from lightning_app.networks import ArcFaceHead, CosFaceHead
from lightning_app.networks.heads import HEADS, heaviest, make_head, merged, mixed_cross_entropy
from lightning_app.networks.margin_heads import MarginHead, arc_cosine
from tests.networks.head_contract import HeadContract

KINDS = [ArcFaceHead, CosFaceHead]


class TestArcFace(HeadContract):
    maker = ArcFaceHead


class TestArcFaceAsWritten(HeadContract):
    maker = partial(ArcFaceHead, s=8.0, monotone=False, ramp=0.5)


class TestCosFace(HeadContract):
    maker = CosFaceHead


def head_of(kind: type[MarginHead], dim: int = 16, classes: int = 7, **settings: Any) -> MarginHead:
    torch.manual_seed(3)
    return kind(dim, classes, **settings)


def faces(dim: int = 16, count: int = 5) -> Tensor:
    return 3 * torch.randn(count, dim, generator=torch.Generator().manual_seed(1))


def mixes(count: int = 5, k: int = 3, classes: int = 7) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    target, weight = (
        torch.randint(0, classes, (count, k), generator=draw),
        torch.rand(count, k, generator=draw),
    )
    target[0], target[1, 2] = target[0, 0], target[1, 0]  # one person three times, another twice
    return target, weight / weight.sum(1, keepdim=True)


def algorithm_1(
    head: MarginHead, embedding: Tensor, target: Tensor, weight: Tensor, monotone: bool
) -> tuple[float, NDArray[np.float64]]:
    """The paper's Algorithm 1, dense, in NumPy and float64: the loss, and the scores with their margins."""
    x, rows = embedding.double().numpy(), head.weight.detach().double().numpy()
    x, rows = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, rows))
    cosine = x @ rows.T
    dense = np.zeros_like(cosine)
    for row, (labels, shares) in enumerate(zip(target.tolist(), weight.tolist(), strict=True)):
        for label, share in zip(labels, shares, strict=True):
            dense[row, label] += share
    if isinstance(head, ArcFaceHead):
        harder = np.cos(np.arccos(cosine) + head.m)
        if monotone:
            beyond = np.arccos(cosine) > np.pi - head.m
            harder = np.where(beyond, cosine - head.m * np.sin(head.m), harder)
    else:
        harder = cosine - head.m
    scores = head.s * (cosine + dense * (harder - cosine))
    logs = scores - np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True))
    logs -= scores.max(1, keepdims=True)
    return float(-(dense * logs).sum(1).mean()), scores


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("monotone", [True, False])
def test_algorithm_1_in_numpy(kind: type[MarginHead], monotone: bool) -> None:
    given = {"monotone": monotone} if kind is ArcFaceHead else {}
    head, embedding = head_of(kind, **given), faces()
    embedding[3] = -2 * head.weight.detach()[4] + 0.01 * embedding[3]  # an angle beyond π − m
    target, weight = mixes()
    target[3] = torch.tensor([4, 0, 1])
    loss, logits = head(embedding, target, weight)
    expected, _ = algorithm_1(head, embedding, target, weight, monotone)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    one = target[:, :1]
    plain = head(embedding, one[:, 0])[0]
    whole = torch.ones(len(one), 1)
    assert float(plain.detach()) == pytest.approx(
        algorithm_1(head, embedding, one, whole, monotone)[0], rel=1e-4
    )
    unit = F.normalize(embedding), F.normalize(head.weight)
    torch.testing.assert_close(logits, 64 * F.linear(*unit), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind: type[MarginHead]) -> None:
    """Two orthogonal classes, a face at 60° of the first: cos θ are 1/2 and √3/2."""
    head = head_of(kind, dim=2, classes=2, s=2.0, m=0.4)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    face = torch.tensor([[3 * math.cos(math.pi / 3), 3 * math.sin(math.pi / 3)]])
    angles = (math.pi / 3, math.pi / 6)
    harder = [math.cos(a + 0.4) if kind is ArcFaceHead else math.cos(a) - 0.4 for a in angles]
    share = (0.75, 0.25)
    scores = [
        2 * (math.cos(a) + y * (h - math.cos(a))) for a, h, y in zip(angles, harder, share, strict=True)
    ]
    total = math.log(sum(map(math.exp, scores)))
    expected = sum(y * (total - z) for y, z in zip(share, scores, strict=True))
    found, logits = head(face, torch.tensor([[0, 1]]), torch.tensor([share]))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    assert logits[0].detach().tolist() == pytest.approx([1.0, math.sqrt(3)], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_fp64(kind: type[MarginHead]) -> None:
    head, embedding = head_of(kind, 4, 5, s=6.0, m=0.3).double(), faces(4, 3).double().requires_grad_()
    target, weight = mixes(3, 3, 5)

    def loss(x: Tensor, rows: Tensor) -> Tensor:
        found = torch.func.functional_call(head, {"weight": rows}, (x, target, weight.double()))
        first: Tensor = found[0]
        return first

    rows = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (embedding, rows))
    assert head(embedding, target, weight)[0].dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_ends_of_the_cosine(kind: type[MarginHead], dtype: torch.dtype) -> None:
    head = head_of(kind)
    embedding = torch.stack([head.weight[0].detach(), -head.weight[1].detach()]).to(dtype).requires_grad_()
    loss, logits = head(embedding, torch.tensor([0, 1]))
    loss.backward()
    assert logits.dtype == loss.dtype == torch.float32
    assert float(logits[0, 0].detach()) == pytest.approx(64, rel=1e-2)
    for gradient in (embedding.grad, head.weight.grad):
        assert gradient is not None
        assert bool(gradient.isfinite().all())
    exact = arc_cosine(torch.tensor([1.0, -1.0, 0.0]), 0.5, monotone=False)
    assert exact.tolist() == pytest.approx([math.cos(0.5), -math.cos(0.5), -math.sin(0.5)], abs=1e-3)


def test_the_score_never_rises_with_the_angle() -> None:
    cosine = torch.cos(torch.linspace(0.01, math.pi, 200))
    assert bool((arc_cosine(cosine, 0.5).diff() <= 0).all())
    assert not bool((arc_cosine(cosine, 0.5, monotone=False).diff() <= 0).all()), "what the fallback is for"


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_margin_it_is_a_scaled_softmax(kind: type[MarginHead]) -> None:
    head, embedding, (target, weight) = head_of(kind, m=0.0, s=16.0), faces(), mixes()
    scores = 16 * F.linear(F.normalize(embedding), F.normalize(head.weight))
    expected = F.cross_entropy(scores, target[:, 0])
    torch.testing.assert_close(head(embedding, target[:, 0])[0], expected, rtol=1e-5, atol=1e-5)
    expected = mixed_cross_entropy(scores, target, weight)
    torch.testing.assert_close(head(embedding, target, weight)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_seen_twice_adds_up(kind: type[MarginHead]) -> None:
    head, embedding = head_of(kind), faces(count=2)
    twice = head(embedding, torch.tensor([[3, 3, 1], [2, 6, 6]]), torch.tensor([[0.2, 0.3, 0.5]] * 2))[0]
    once = head(embedding, torch.tensor([[3, 1], [2, 6]]), torch.tensor([[0.5, 0.5], [0.2, 0.8]]))[0]
    torch.testing.assert_close(twice, once, rtol=1e-6, atol=1e-6)


def test_shares_of_one_label_are_merged() -> None:
    target = torch.tensor([[3, 3, 1, 3], [2, 6, 2, 6], [0, 1, 2, 3]])
    found = merged(target, torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3))
    expected = [[0.7, 0.0, 0.3, 0.0], [0.4, 0.6, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("name", ["SoftmaxHead", "ArcFaceHead", "CosFaceHead"])
def test_a_mix_of_one_is_plain_training_bit_for_bit(name: str) -> None:
    torch.manual_seed(3)
    head, embedding = HEADS[name](32, 1000), faces(32, 64)
    target, found = torch.arange(64) * 15, []
    for given in ((target,), (target[:, None], torch.ones(64, 1))):
        head.zero_grad()
        x = embedding.clone().requires_grad_()
        loss, _ = head(x, *given)
        loss.backward()
        found.append((loss.detach(), x.grad, *(p.grad for p in head.parameters())))
    assert len(found[0]) > 2
    for first, second in zip(*found, strict=True):
        assert first is not None
        assert torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_fp32_within_autocast(kind: type[MarginHead]) -> None:
    head, embedding, (target, weight) = head_of(kind), faces(), mixes()
    expected = head(embedding, target, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(embedding, target, weight)
    for ours, plain in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_the_margin_rises_with_the_run_alone(kind: type[MarginHead]) -> None:
    head, embedding, target = head_of(kind, m=0.4, ramp=0.5, s=32.0, s_start=8.0), faces(), torch.arange(5)
    assert (head.margin, head.scale) == (0.4, 32.0), "of who trains without a run: the full ones"
    plain = head_of(kind, m=0.4, s=32.0)
    evaluated = plain.eval()(embedding, target)[0]
    for progress, margin, scale in ((0.0, 0.0, 8.0), (0.25, 0.2, 20.0), (0.5, 0.4, 32.0), (0.9, 0.4, 32.0)):
        head.train().at(progress)
        assert (head.margin, head.scale) == pytest.approx((margin, scale))
        at_step = head_of(kind, m=margin, s=scale)(embedding, target)[0]
        torch.testing.assert_close(head(embedding, target)[0], at_step, rtol=1e-5, atol=1e-5)
        assert torch.equal(head.eval()(embedding, target)[0], evaluated), "a validation has the full margin"
    assert list(head.state_dict()) == ["weight"], "the step tells the margin, and no checkpoint has to"


def test_they_may_be_named_by_a_checkpoint() -> None:
    assert {"ArcFaceHead", "CosFaceHead"} <= HEADS.keys()
    assert described(partial(ArcFaceHead, s=32.0), ArcFaceHead) == {
        "class_path": "lightning_app.networks.margin_heads.ArcFaceHead",
        "init_args": {"s": 32.0, "m": 0.5, "ramp": 0.0, "s_start": None, "monotone": True},
    }
    arc, cos = ArcFaceHead(4, 3), CosFaceHead(4, 3)
    assert (arc.s, arc.m, cos.s, cos.m) == (64.0, 0.5, 64.0, 0.4)
    assert arc.weight.shape == (3, 4)
    assert heaviest(torch.tensor([[1, 2]]), torch.tensor([[0.4, 0.6]])).tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"s": 0.0}, r"s: 0\.0 is not above 0; 16 … 64 is usual"),
        ({"s": math.nan}, r"s: nan is not above 0"),
        ({"m": -0.1}, r"m: -0\.1 is not within 0 … "),
        ({"m": 28.6}, r"m: 28\.6 is not within 0 … "),
        ({"ramp": 5}, r"ramp: 5 is not within 0 … 1; it is a share of the run"),
        ({"s_start": 8.0}, r"s_start: 8\.0, but ramp is 0: give a share of the run, or leave s_start out"),
        ({"s_start": -8.0, "ramp": 0.5}, r"s_start: -8\.0 is not above 0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_out_of_range(kind: type[MarginHead], settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        kind(4, 3, **settings)
    with pytest.raises(ValueError, match=r"label_smoothing: 0\.1, but \w+ smooths no labels: set it to 0"):
        make_head(kind, 4, 3, label_smoothing=0.1)
