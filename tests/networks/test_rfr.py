"""Partial convolutions, attention and RFR-Net against written-out references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.networks.partial_conv import PartialConv2d
from lightning_app.networks.rfr import RFRNet
from lightning_app.networks.rfr_attention import Attended, KnowledgeConsistentAttention

Array = NDArray[np.float64]


def slow_partial_conv(
    x: Array, mask: Array, weight: Array, bias: Array | None, stride: int, padding: int
) -> tuple[Array, Array]:
    """Liu et al. 2018, formulas 1 and 2, place by place; mask `[B,C,H,W]`."""
    count, channels, height, width = x.shape
    outs, _, k, _ = weight.shape
    sizes = [(side + 2 * padding - k) // stride + 1 for side in (height, width)]
    out, seen = np.zeros((count, outs, *sizes)), np.zeros((count, 1, *sizes))
    for b in range(count):
        for i in range(sizes[0]):
            for j in range(sizes[1]):
                total, valid = np.zeros(outs), 0.0
                for c in range(channels):
                    for di in range(k):
                        for dj in range(k):
                            row, column = i * stride + di - padding, j * stride + dj - padding
                            if 0 <= row < height and 0 <= column < width and mask[b, c, row, column]:
                                valid += 1
                                total += weight[:, c, di, dj] * x[b, c, row, column]
                if valid:
                    seen[b, 0, i, j] = 1
                    out[b, :, i, j] = total * (k * k * channels / valid) + (0 if bias is None else bias)
    return out, seen


@pytest.mark.parametrize(("stride", "bias", "channels"), [(1, False, 1), (2, True, 1), (1, True, 3)])
def test_partial_convolution_against_numpy(stride: int, bias: bool, channels: int) -> None:
    torch.manual_seed(0)
    conv = PartialConv2d(3, 4, 5, stride, 2, bias=bias)
    x = torch.randn(3, 3, 11, 9)
    masks = (torch.rand(2, channels, 11, 9) > 0.85).float()
    masks[0, :, :7] = 0  # windows that see nothing
    which = torch.tensor([1, 0, 0])
    found, seen = conv(x, masks, which)
    own = masks[which].expand(-1, 3, -1, -1).double().numpy()
    expected, expected_seen = slow_partial_conv(
        x.double().numpy(), own, conv.weight.detach().double().numpy(),
        conv.bias.detach().double().numpy() if conv.bias is not None else None, stride, 2,
    )  # fmt: skip
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(seen[which].numpy(), expected_seen)
    assert (expected_seen == 0).any()
    assert (found.detach().numpy()[np.broadcast_to(expected_seen == 0, found.shape)] == 0).all()


def test_under_a_mask_of_ones_it_is_an_ordinary_convolution_but_for_the_border() -> None:
    torch.manual_seed(0)
    conv = PartialConv2d(3, 4, 7, 1, 3)
    x = torch.randn(2, 3, 20, 20)
    found, seen = conv(x, torch.ones(1, 1, 20, 20))
    plain = F.conv2d(x, conv.weight, conv.bias, padding=3)
    torch.testing.assert_close(found[..., 3:-3, 3:-3], plain[..., 3:-3, 3:-3], atol=1e-6, rtol=1e-5)
    assert bool((seen == 1).all())


def test_many_visible_values_are_counted_exactly_in_bf16() -> None:
    conv = PartialConv2d(64, 8, 7, 1, 3, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        scale, _ = conv.windows(torch.ones(1, 64, 9, 9, dtype=torch.bfloat16), 64)
    assert scale[0, 0, 4, 4] == 1
    assert scale[0, 0, 0, 0].item() == pytest.approx(49 / 16)


def slow_attention(x: Array, ratio: float, before: Array | None, mask: Array | None) -> tuple[Array, Array]:
    """One image `[C,h,w]`: the rebuilt map and the scores `[source, h, w]`, written out."""
    channels, height, width = x.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    units = [x[:, i, j] / np.sqrt((x[:, i, j] ** 2).sum()) for i, j in places]
    alike = np.zeros((len(places), height, width))
    for s, unit in enumerate(units):
        for i, j in places:
            alike[s, i, j] = unit @ x[:, i, j]
    around = np.zeros_like(alike)
    for i, j in places:
        for a in range(max(0, i - 1), min(height, i + 2)):
            for b in range(max(0, j - 1), min(width, j + 2)):
                around[:, i, j] += alike[:, a, b]
    scores = np.exp(around) / np.exp(around).sum(0)
    if before is not None and mask is not None:
        for i, j in places:
            known = mask[i, j]
            scores[:, i, j] = (before[:, i, j] * known + ratio * scores[:, i, j]) / (known + ratio)
    rebuilt = np.zeros_like(x)
    for i, j in places:
        rebuilt[:, i, j] = sum(scores[s, i, j] * unit for s, unit in enumerate(units))
    assert channels == rebuilt.shape[0]
    return rebuilt, scores


def test_attention_against_a_written_out_reference() -> None:
    torch.manual_seed(0)
    attention = KnowledgeConsistentAttention(4)
    with torch.no_grad():
        attention.ratio.fill_(-0.7)  # its absolute value counts
        attention.combine.weight.zero_()  # the sum of the rebuilt map and x itself
        attention.combine.bias.zero_()  # type: ignore[union-attr]
        for channel in range(4):
            attention.combine.weight[channel, [channel, channel + 4]] = 1
    first, second = torch.rand(2, 4, 3, 5), torch.rand(2, 4, 3, 5)
    masks = (torch.rand(2, 1, 3, 5) > 0.5).float()
    found_1, remembered = attention(first, masks)
    found_2, last = attention(second, torch.ones(1, 1, 3, 5), None, remembered)
    for b in range(2):
        rebuilt, scores = slow_attention(first[b].double().numpy(), 0.7, None, None)
        np.testing.assert_allclose(
            found_1[b].detach().numpy(), rebuilt + first[b].numpy(), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(remembered.scores[b].detach().numpy(), scores, rtol=1e-5, atol=1e-6)
        rebuilt, scores = slow_attention(
            second[b].double().numpy(), 0.7, scores, masks[b, 0].double().numpy()
        )
        np.testing.assert_allclose(
            found_2[b].detach().numpy(), rebuilt + second[b].numpy(), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(last.scores[b].detach().numpy(), scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last.scores.sum(1).detach().numpy(), 1, atol=1e-5)


def test_attention_samples_a_larger_mask_and_survives_a_map_of_zeros() -> None:
    attention = KnowledgeConsistentAttention(4)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    out, remembered = attention(torch.zeros(1, 4, 4, 4), mask)
    assert isinstance(remembered, Attended)
    assert torch.equal(remembered.mask, mask[..., ::2, ::2])
    assert bool(out.isfinite().all())


def test_full_width_has_the_parameters_of_the_paper() -> None:
    count = sum(p.numel() for p in RFRNet().parameters())
    assert count == 31_224_065  # the paper's 31.2 M


def fresh(width: int = 8, recurrences: int = 2, depth: int = 2) -> RFRNet:
    torch.manual_seed(0)
    net = RFRNet(width, recurrences, depth).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that evaluation is not the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


@pytest.mark.parametrize(("size", "depth"), [(112, 3), (128, 3), (50, 2), (33, 4)])
@torch.no_grad()
def test_any_size_comes_back(size: int, depth: int) -> None:
    masks = (torch.rand(2, 1, size, size) > 0.7).float()
    net = fresh(depth=depth)
    out = net(torch.rand(3, 3, size, size), masks, torch.tensor([0, 1, 1]))
    assert out.shape == (3, 3, size, size)
    assert bool(out.isfinite().all())


@torch.no_grad()
def test_what_is_hidden_has_no_influence() -> None:
    net, image = fresh(), torch.rand(2, 3, 44, 44)
    mask = (torch.rand(1, 1, 44, 44) > 0.7).float()
    other = torch.where(mask == 1, image, torch.rand(2, 3, 44, 44))
    assert torch.equal(net(image, mask), net(other, mask))
    assert not torch.equal(net(image, mask), net(other))


@torch.no_grad()
def test_shared_masks_are_the_same_masks_repeated() -> None:
    net, image, masks = fresh(), torch.rand(3, 3, 48, 48), (torch.rand(2, 1, 48, 48) > 0.6).float()
    which = torch.tensor([1, 0, 1])
    torch.testing.assert_close(net(image, masks, which), net(image, masks[which]), atol=1e-5, rtol=1e-5)
    one = net(image, masks[:1])
    torch.testing.assert_close(one, net(image, masks[:1].expand(3, -1, -1, -1)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(image), net(image, torch.ones(1, 1, 48, 48)), atol=0, rtol=0)


@torch.no_grad()
def test_every_recurrence_reaches_further_into_a_hole() -> None:
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., :4, :4] = 1
    image = torch.rand(1, 3, 96, 96)
    # half-size columns known: 3 after the first convolution, 6 after the second, 12 after one recurrence, 30
    # after four; five pixels more for the convolutions at the end
    for recurrences, reached in ((1, False), (4, True)):
        net = fresh(recurrences=recurrences)
        change = (net(image, mask) - net(1 - image, mask)).abs()[..., 45:55, 45:55]
        assert bool((change > 0).any()) == reached


def test_every_weight_learns() -> None:
    net = RFRNet(8, 2, 2)
    net(torch.rand(2, 3, 48, 48), (torch.rand(1, 1, 48, 48) > 0.6).float()).abs().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((12, 2, 2), "width"), ((0, 2, 2), "width"), ((8, 0, 2), "recurrences"), ((8, 2, 1), "depth")],
)
def test_settings_out_of_range(arguments: tuple[int, int, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RFRNet(*arguments)


@torch.no_grad()
def test_bf16_follows_fp32() -> None:
    net, image, mask = fresh(16), torch.rand(2, 3, 48, 48), (torch.rand(1, 1, 48, 48) > 0.6).float()
    exact: Tensor = net(image, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough: Tensor = net(image, mask)
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
