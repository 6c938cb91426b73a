"""The mean of the owners' weights, what is refused, and drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_app.federated.protocol.aggregate import aggregate, drifts, refusal
from lightning_app.federated.protocol.messages import Update, Weights
from lightning_app.federated.protocol.weights import weights_hash

DRAW = torch.Generator().manual_seed(0)
START: Weights = {
    "conv.weight": torch.randn(4, 3, 3, 3, generator=DRAW),
    "bn.running_mean": torch.randn(4, generator=DRAW),
    "bn.running_var": torch.rand(4, generator=DRAW),
}


def update(client: int, images: int) -> Update:
    weights = {name: value + 0.1 * torch.randn(value.shape, generator=DRAW) for name, value in START.items()}
    weights["bn.running_var"].abs_()
    return Update(client, 3, "mask", images, 5, 1.0, 0.1, 1.0, weights)


THREE = [update(0, 8), update(1, 24), update(2, 16)]


def test_the_mean_is_weighted_by_images_against_numpy() -> None:
    mean = aggregate(THREE)
    for name in START:
        reference = np.average(
            [u.weights[name].numpy().astype(np.float64) for u in THREE], axis=0, weights=[8, 24, 16]
        )
        np.testing.assert_allclose(mean[name].numpy(), reference, rtol=1e-7)
        assert mean[name].dtype == torch.float32


def test_the_order_of_answers_does_not_matter() -> None:
    assert weights_hash(aggregate(THREE)) == weights_hash(aggregate([THREE[2], THREE[0], THREE[1]]))


def test_of_one_client_it_is_its_weights_bit_for_bit() -> None:
    one = update(0, 12345677)
    one.weights["conv.weight"][0, 0, 0, 0] = -0.0
    mean = aggregate([one])
    for name, value in one.weights.items():
        assert torch.equal(mean[name].view(torch.int32), value.view(torch.int32)), name


def test_a_variance_below_0_becomes_0() -> None:
    noisy = update(0, 1)
    noisy.weights["bn.running_var"][2] = -0.5
    noisy.weights["bn.running_mean"][2] = -0.5
    mean = aggregate([noisy])
    assert mean["bn.running_var"][2] == 0
    assert mean["bn.running_mean"][2] == -0.5


def test_the_hash_sees_names_types_shapes_and_bytes() -> None:
    base = {"a": torch.zeros(2, 2)}
    others: list[Weights] = [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.float64)},
        {"a": torch.tensor([[0.0, 0.0], [0.0, 1e-30]])},
    ]
    assert len({weights_hash(weights) for weights in (base, *others)}) == 5
    assert weights_hash({"a": torch.ones(2, 2).t()}) == weights_hash({"a": torch.ones(2, 2)})


def changed(**weights: torch.Tensor) -> Update:
    return replace(
        THREE[0], weights=THREE[0].weights | {k.replace("_0_", "."): v for k, v in weights.items()}
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (replace(THREE[0], round=2), "a stale update: of round 2, this is round 3"),
        (replace(THREE[0], mask_hash="other"), "another mask: its hash is other"),
        (replace(THREE[0], images=0), "images=0 is not within 1 to 1e+12"),
        (changed(conv_0_weight=torch.full((4, 3, 3, 3), torch.nan)), "108 values of conv.weight are NaN"),
        (changed(conv_0_weight=torch.full((4, 3, 3, 3), torch.inf)), "108 values of conv.weight are NaN"),
        (changed(conv_0_weight=torch.zeros(4, 3, 3, 2)), "another shape: conv.weight is (4, 3, 3, 2), not"),
        (
            changed(conv_0_weight=torch.zeros(4, 3, 3, 3).double()),
            "another type: conv.weight is torch.float64",
        ),
        (changed(more=torch.zeros(1)), "other weights: more is not among ours"),
        (replace(THREE[0], weights={}), "other weights: bn.running_mean is missing (3 missing"),
    ],
)
def test_what_is_refused_and_why(given: Update, reason: str) -> None:
    assert refusal(THREE[0], START, 3, "mask") is None
    assert (refusal(given, START, 3, "mask") or "").startswith(reason)


def test_drift_by_hand() -> None:
    start = {"w": torch.zeros(2), "bn.running_mean": torch.zeros(1)}

    def to(client: int, *at: float) -> Update:
        return replace(
            THREE[0], client=client, images=1,
            weights={"w": torch.tensor(at), "bn.running_mean": torch.full((1,), 9.0)},
        )  # fmt: skip

    pair = [to(0, 3.0, 4.0), to(1, 3.0, -4.0)]
    found = drifts(start, pair, aggregate(pair))  # the mean is (3, 0)
    assert (found[0].norm, found[1].norm) == pytest.approx((5.0, 5.0))
    assert (found[0].cosine, found[1].cosine) == pytest.approx((0.6, 0.6))
    still = [to(0, 0.0, 0.0)]
    assert drifts(start, still, aggregate(still))[0].cosine == 0
