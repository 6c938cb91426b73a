"""Large tensors made anew for every batch."""

from __future__ import annotations

import torch

from lightning_app.core.large import empty


def test_it_has_the_shape_and_is_the_callers_to_write_to() -> None:
    made = empty(3, 64, 64, device=torch.device("cpu")).fill_(2)
    assert (made.shape, made.dtype) == ((3, 64, 64), torch.float32)
    assert made.is_contiguous()
    assert float(made.sum()) == 2 * 3 * 64 * 64


def test_on_another_device_that_device_allocates_it() -> None:
    made = empty(2, 5, device=torch.device("meta"))
    assert (made.device.type, made.shape, made.dtype) == ("meta", (2, 5), torch.float32)
