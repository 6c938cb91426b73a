"""Mixes drawn on the GPU are the CPU's, and nothing of them waits for the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.draws import secret
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import InstaHide, MixUp
from lightning_app.desensitize.mixing_draws import mix_weights, partners, random_signs

KEYS = (11, 222, 3333, 2**62 + 5)
NOW = DrawKey(mix=True)


def test_draws_are_the_same_bits(gpu: torch.device) -> None:
    index = torch.arange(100) * 37
    there = index.to(gpu)
    assert torch.equal(secret(there, KEYS).cpu(), secret(index, KEYS))
    assert torch.equal(partners(there, 4, KEYS).cpu(), partners(index, 4, KEYS))
    assert torch.equal(random_signs(there, (5, 7, 9), KEYS).cpu(), random_signs(index, (5, 7, 9), KEYS))
    for k in (2, 5):
        torch.testing.assert_close(mix_weights(there, k, 0.55, KEYS).cpu(), mix_weights(index, k, 0.55, KEYS))


@pytest.mark.parametrize("channels", [3, 63])
@pytest.mark.parametrize("kind", [MixUp, InstaHide])
def test_a_mix_is_the_cpus_and_waits_for_nothing(
    kind: type[MixUp], channels: int, gpu: torch.device, tmp_path: Path
) -> None:
    make_key(tmp_path / "owner.key")
    made = kind(3, key=tmp_path / "owner.key")
    made.after(channels == 3)
    here = Batch(
        image=torch.rand(16, channels, 24, 24), identity=torch.arange(16), index=torch.arange(16) * 5
    )
    there = Batch(image=here["image"].to(gpu), identity=here["identity"].to(gpu), index=here["index"].to(gpu))
    made.forward(there, NOW)  # what is made once
    if gpu.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = made.forward(there, NOW)
    finally:
        if gpu.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    expected = made.forward(here, NOW)
    torch.testing.assert_close(found["image"].cpu(), expected["image"], rtol=0, atol=1e-5)
    assert torch.equal(found["target"].cpu(), expected["target"])
