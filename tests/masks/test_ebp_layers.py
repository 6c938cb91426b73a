from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torchvision

from lightning_app.masks.ebp import ExcitationBackprop
from tests.masks.test_ebp import drawn, seeded_net


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
