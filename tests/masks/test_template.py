from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from lightning_app.masks.saliency.ebp import ExcitationBackprop
from lightning_app.masks.saliency.template import (
    MeanSaliency,
    critical_template,
    enlarge,
    mean_saliency,
    nonnegative,
    saliency_maps,
)
from tests.masks.test_ebp import TinyResNet, seeded_net, shaken


class Classifier(TinyResNet):
    """The tiny network with a forward of its own, for captum's methods."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_enlarge_is_bilinear_then_scipys_gaussian() -> None:
    maps = rand(3, 1, 7, 7)
    large = nn.functional.interpolate(maps, (28, 20), mode="bilinear", align_corners=False)
    assert torch.equal(enlarge(maps, (28, 20), 0), large)
    for sigma in (2.0, 5.0):  # 5 px: a window wider than the map
        smooth = [gaussian_filter(m[0].double().numpy(), sigma, mode="nearest", truncate=3) for m in large]
        np.testing.assert_allclose(enlarge(maps, (28, 20), sigma)[:, 0].numpy(), smooth, rtol=0, atol=1e-5)


def test_smoothing_takes_a_checkerboard_away() -> None:
    board = (torch.arange(28)[:, None] + torch.arange(28)[None]).remainder(2).float()[None, None]
    rough, smooth = (enlarge(board, 112, sigma)[..., 8:-8, 8:-8].std() for sigma in (0.0, 4.0))
    assert float(rough) > 0.1
    assert float(smooth) < 0.01


def test_mean_saliency_is_the_mean_of_normalised_maps_normalised() -> None:
    maps = rand(5, 1, 16, 16) * torch.tensor([1, 10, 0.01, 3, 7]).view(5, 1, 1, 1)
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in maps.double().numpy()]
    wanted = np.mean(scaled, axis=0)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    found = mean_saliency(maps, 16)
    assert found.shape == (1, 16, 16)
    assert (float(found.min()), float(found.max())) == (0, 1)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)


def test_streaming_gives_the_same() -> None:
    maps = rand(10, 3, 8, 8) - 0.4
    stream = MeanSaliency(24, 1.5)
    for part in maps.split(3):
        stream.update(part)
    assert stream.count == 10
    torch.testing.assert_close(stream.compute(), mean_saliency(maps, 24, 1.5), rtol=0, atol=1e-6)


def test_a_constant_map_counts_as_zero() -> None:
    maps = rand(4, 1, 8, 8)
    flat = torch.cat([torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.7)])
    mean = MeanSaliency(20, 2.0)
    mean.update(torch.cat([maps, flat]))
    assert (mean.count, mean.constant) == (6, 2)
    torch.testing.assert_close(mean.compute(), mean_saliency(maps, 20, 2.0), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"maps: the mean of 2 is constant \(2 of them are\)"):
        mean_saliency(flat, 20, 2.0)
    with pytest.raises(ValueError, match="maps: none to average"):
        MeanSaliency(20).compute()


def test_signed_maps() -> None:
    maps = torch.tensor([[2.0, -3.0], [-1.0, 5.0]]).view(1, 2, 2, 1)  # two channels of two cells
    assert nonnegative(maps).flatten().tolist() == [1, 2]
    assert nonnegative(-maps).flatten().tolist() == [0, 0]
    assert nonnegative(maps, "absolute").flatten().tolist() == [3, 8]
    with pytest.raises(ValueError, match="signed: 'square' is neither"):
        nonnegative(maps, "square")  # type: ignore[arg-type]


def test_template_is_above_the_threshold() -> None:
    mean = torch.tensor([[0.0, 0.3, 0.5], [0.7, 0.71, 1.0]])[None]
    assert critical_template(mean, 0.5).tolist() == [[[0, 0, 0], [1, 1, 1]]]  # 0.5 is not above 0.5
    maps = rand(6, 1, 16, 16)
    found = critical_template(maps, 0.6)
    assert torch.equal(found, (mean_saliency(maps, 16) > 0.6).float())
    assert found.shape == (1, 16, 16)
    assert found.dtype == torch.float32
    shares = [float(critical_template(maps, t).mean()) for t in (0.0, 0.3, 0.5, 0.7)]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 4


def test_empty_template_says_which_threshold_to_try() -> None:
    mean = rand(1, 32, 32) * 0.5
    with pytest.raises(ValueError, match=r"threshold: 0.6 leaves nothing visible; any T below") as error:
        critical_template(mean, 0.6)
    found = re.search(r"below (\S+) leaves something, try (\S+)$", str(error.value))
    assert found
    assert abs(float(found[1]) - float(mean.max())) < 1e-4
    assert 0.02 < float(critical_template(mean, float(found[2])).mean()) < 0.2
    with pytest.raises(ValueError, match="0 everywhere"):
        critical_template(torch.zeros(1, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critical_template(rand(2, 1, 8, 8), 1.0), "threshold: 1.0 is not in [0, 1)"),
        (lambda: critical_template(rand(2, 1, 8, 8), -0.1), "threshold: -0.1 is not in [0, 1)"),
        (lambda: critical_template(rand(2, 1, 8, 8), float("nan")), "threshold: nan is not in [0, 1)"),
        (lambda: critical_template(rand(8, 8), 0.5), "maps: shape [8, 8] is neither"),
        (lambda: critical_template(rand(2, 3, 8, 8), 0.5), "maps: shape [2, 3, 8, 8] is neither"),
        (lambda: critical_template(3 + rand(1, 8, 8), 0.5), "maps: a mean saliency map lies in [0, 1]"),
        (lambda: critical_template(torch.full((1, 8, 8), torch.nan), 0.5), "this one in [nan, nan]"),
        (lambda: mean_saliency(torch.full((1, 1, 8, 8), torch.nan), 8), "maps: hold NaN or infinite values"),
        (lambda: mean_saliency(rand(8, 8), 8), "maps: torch.float32 of shape [8, 8]"),
        (lambda: enlarge(rand(1, 1, 8, 8), 8, -1), "sigma: -1 is not a number of pixels"),
        (lambda: enlarge(rand(1, 1, 8, 8), 0), "size: 0 is neither"),
    ],
)
def test_bad_arguments(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_any_captum_method_gives_maps() -> None:
    net: Any = shaken(seeded_net(Classifier))
    batches = [(rand(n, 3, 32, 32, seed=n) - 0.5, torch.arange(n)) for n in (3, 2)]
    methods: list[tuple[Any, int, dict[str, Any]]] = [
        (ExcitationBackprop(net), 8, {}),
        (IntegratedGradients(net), 32, {"n_steps": 4}),
        (LayerGradCam(net, net.layer1), 8, {}),
        (Occlusion(net), 32, {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}),
    ]
    for method, side, options in methods:
        mean = MeanSaliency(32, 2.0)
        for (images, _), maps in zip(batches, saliency_maps(method, batches, **options), strict=True):
            assert maps.shape == (len(images), 1, side, side), type(method).__name__
            assert not maps.requires_grad
            assert float(maps.min()) >= 0
            assert float(maps.max()) > 0
            mean.update(maps)
        assert critical_template(mean.compute(), 0.5).any()
    maps = next(saliency_maps(IntegratedGradients(net), batches, n_steps=4))
    wanted = IntegratedGradients(net).attribute(batches[0][0], target=batches[0][1], n_steps=4)
    torch.testing.assert_close(maps, wanted.sum(1, keepdim=True).clamp(min=0).float())


def test_arguments_of_one_batch() -> None:
    net = shaken(seeded_net(Classifier))
    images, mate, nonmate = rand(2, 3, 32, 32), rand(2, 8, seed=1), rand(2, 8, seed=2)
    ebp = ExcitationBackprop(net, contrastive=True)
    (found,) = saliency_maps(ebp, [(images, mate, {"nonmate": nonmate})])
    assert torch.equal(found, ebp.attribute(images, mate, nonmate))


def test_training_mode_is_refused_for_methods_that_run_the_model() -> None:
    net = shaken(seeded_net(Classifier)).train()
    batch = [(rand(2, 3, 32, 32), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="model is in training mode, where IntegratedGradients"):
        next(saliency_maps(IntegratedGradients(net), batch))
    assert next(saliency_maps(ExcitationBackprop(net), batch)).any()
