from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn

from lightning_app.masks.saliency.ebp import ExcitationBackprop
from lightning_app.models import ResNet
from tests.masks.test_ebp import drawn, seeded_net


def trained(name: str, width: int) -> nn.Module:
    """Eight steps on eight images, a third of the batch norms' scales negative before them."""
    net = seeded_net(lambda: ResNet(backbone=name, num_classes=4, input_size=32, width=width))
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data[::3] *= -1
    images, labels = drawn(8, 3, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    return net.eval()


@pytest.mark.parametrize(("name", "width"), [("resnet18", 64), ("resnet34", 16), ("resnet50", 16)])
def test_mass_is_conserved_on_a_trained_network(name: str, width: int) -> None:
    rows = ExcitationBackprop(trained(name, width), "relu").conservation(drawn(4, 3, 32, 32), torch.arange(4))
    before = torch.ones(4)
    for layer, mass, lost in rows:
        assert (lost >= 0).all(), layer
        torch.testing.assert_close(mass + lost, before, rtol=1e-4, atol=0, msg=layer)
        before = mass
    assert (before > 0).all()


@pytest.fixture
def flushing() -> Iterator[None]:
    """Numbers below the smallest normal one become 0."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    yield
    torch.set_flush_denormal(False)


def test_a_black_image_has_a_map_where_denormals_are_flushed(flushing: None) -> None:
    assert float(torch.tensor(1e-38) * 1) == 0, "they are flushed"
    ebp = ExcitationBackprop(seeded_net(lambda: torchvision.models.resnet18(num_classes=3)).eval(), "relu")
    found = ebp.attribute(torch.stack([torch.zeros(3, 48, 48), drawn(3, 48, 48)]), 1)
    assert found.isfinite().all()
    assert not found[0].any()
    torch.testing.assert_close(found[1:], ebp.attribute(drawn(1, 3, 48, 48), 1), rtol=1e-5, atol=1e-7)
