"""The U-Net: any size, its logits in fp32, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from lightning_app.networks import UNet


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 23), (32, 32)])
def test_any_size(size: tuple[int, int]) -> None:
    network = UNet(3, 2, width=8, depth=3).eval()
    assert network(torch.rand(2, 3, *size)).shape == (2, 2, *size)


def test_every_weight_learns() -> None:
    network = UNet(3, 1, width=8, depth=2)
    network(torch.rand(4, 3, 9, 9)).square().mean().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())


def test_logits_are_fp32_in_bf16() -> None:
    network = UNet(3, 1, width=8, depth=2).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = network(image)
    assert low.dtype == torch.float32
    assert len(low.unique()) > 5 * len(low.bfloat16().unique()), "bf16 has 8 bits: most pixels would tie"
    assert network.to(torch.bfloat16)(image).dtype == torch.float32


@pytest.mark.parametrize(("setting", "message"), [
    ({"width": 0}, "width=0: give at least 8"), ({"width": 7}, "width=7: give at least 8"),
    ({"depth": 9}, "depth=9: give 1 to 8"),
    ({"in_channels": 0}, "in_channels=0"), ({"out_channels": -1}, "out_channels=-1"),
])  # fmt: skip
def test_what_it_refuses(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**setting)
