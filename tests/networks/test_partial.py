"""`PartialResNet` against partial convolutions written out, and against the ResNet that it is without a mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from lightning_app.masks import freeform_masks
from lightning_app.networks.backbones.partial import PARTIAL_UNTIL, PartialResNet, PartialUntil
from lightning_app.networks.backbones.resnet import BackboneName, ResNetBackbone
from lightning_app.networks.feature_maps import FeatureMaps
from lightning_app.networks.inference import InferenceBackbone
from tests.networks.backbone_contract import BackboneContract

SIZE = 48


def made(name: BackboneName = "resnet18", until: PartialUntil = "layer4") -> PartialResNet:
    """With norms that are not the identity: their constants must not show where nothing was seen."""
    torch.manual_seed(3)
    net = PartialResNet(name, SIZE, width=8, until=until)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, 0.1, 0.9)
            nn.init.uniform_(module.get_buffer("running_mean"), -0.2, 0.2)
    return net.eval()


class NamedPartial(PartialResNet):
    """Ours as a class_path would make it, small."""

    def __init__(self, in_channels: int = 3, input_size: int = 224) -> None:
        super().__init__("resnet18", input_size, in_channels, width=8)


class TestPartialResNet(BackboneContract):
    maker = NamedPartial
    looks_at_masks = True


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def masks() -> Tensor:
    drawn = freeform_masks(1, SIZE, (0.74, 0.78), generator=torch.Generator().manual_seed(2))
    corner = torch.zeros(1, 1, SIZE, SIZE)
    corner[..., 30:34, 12:20] = 1  # so little that some layers' windows see nothing
    return torch.cat([drawn, corner])


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_where_all_is_visible_it_is_the_resnet(name: BackboneName, training: bool, images: Tensor) -> None:
    net = made(name)
    plain = ResNetBackbone(name, width=8)
    assert list(plain.state_dict()) == list(net.state_dict())
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        for mask in (None, torch.ones(1, 1, SIZE, SIZE), torch.ones(4, 1, SIZE, SIZE)):
            plain.train(training)
            net.train(training)
            assert torch.equal(net(images, mask), plain(images))


def slow_conv(conv: nn.Conv2d, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Liu et al., formulas 1 and 2, of one image `[C,H,W]` and its mask `[H,W]`, window by window."""
    k, step, border = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    shown = F.pad(x * mask, (border,) * 4)
    counts = F.pad(mask, (border,) * 4, value=1.0)  # padding counts as visible
    real = F.pad(mask, (border,) * 4, value=0.0)  # but shows nothing
    height, width = ((side + 2 * border - k) // step + 1 for side in mask.shape)
    out, seen = x.new_zeros(conv.out_channels, height, width), x.new_zeros(height, width)
    for i in range(height):
        for j in range(width):
            here = slice(i * step, i * step + k), slice(j * step, j * step + k)
            if real[here].sum() > 0:
                patch = shown[:, here[0], here[1]]
                product = (conv.weight.detach().to(x.dtype) * patch).sum(dim=(1, 2, 3))
                out[:, i, j] = product * (k * k / counts[here].sum())
                seen[i, j] = 1
    return out, seen


def slow_norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.BatchNorm2d)
    mean, var, weight, bias = (
        value.detach().to(x.dtype).view(-1, 1, 1)
        for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        if value is not None
    )
    return (x - mean) / (var + norm.eps).sqrt() * weight + bias


def slow_embedding(net: PartialResNet, image: Tensor, mask: Tensor) -> Tensor:
    x, m = image.double(), mask.double()
    x, m = slow_conv(net.conv1, x, m)
    x = slow_norm(net.get_submodule("bn1"), x).clamp_min(0) * m
    x, m = (F.max_pool2d(values[None], 3, 2, 1)[0] for values in (x, m[None]))
    m = m[0]
    for point in net.points:
        for block in net.get_submodule(point).children():
            assert isinstance(block, BasicBlock)
            y, seen = slow_conv(block.conv1, x, m)
            y = slow_norm(block.bn1, y).clamp_min(0)
            y, seen = slow_conv(block.conv2, y, seen)
            y = slow_norm(block.bn2, y)
            if block.downsample is not None:
                x = slow_norm(block.downsample[1], slow_conv(block.downsample[0], x, m)[0])
            x, m = (y + x).clamp_min(0) * seen, seen
    return x.mean(dim=(1, 2))


def test_the_network_against_the_written_out_one(images: Tensor, masks: Tensor) -> None:
    net = made()
    which = torch.tensor([1, 0])
    with torch.no_grad():
        found = net(images[:2], masks, which)
    expected = torch.stack([slow_embedding(net, images[i], masks[which[i], 0]) for i in range(2)])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("until", PARTIAL_UNTIL)
@torch.no_grad()
def test_what_is_hidden_does_not_count(until: PartialUntil, images: Tensor, masks: Tensor) -> None:
    net, which = made(until=until), torch.tensor([0, 1, 1, 0])
    own = masks[which]
    other = torch.where(own > 0, images, 7 * torch.randn_like(images))
    found = net(images, masks, which)
    assert torch.equal(found, net(other, masks, which))
    assert not torch.allclose(found, net(images))
    torch.testing.assert_close(found, net(images, own), rtol=1e-4, atol=1e-5)
    for i in range(4):
        alone = net(images[i : i + 1], masks[which[i] : which[i] + 1])
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_up_to_which_stage_they_are_partial(images: Tensor, masks: Tensor) -> None:
    with torch.no_grad():
        found = [made(until=until)(images, masks[1:]) for until in PARTIAL_UNTIL]
    assert all(not torch.allclose(a, b) for a, b in zip(found[:2], found[1:3], strict=True))
    counts = [len(made(until=until).windows(masks)) for until in PARTIAL_UNTIL]
    assert counts == [2, 6, 10, 14, 18]
    with pytest.raises(ValueError, match="partial_until='attic': choose one of stem, layer1"):
        PartialResNet("resnet18", SIZE, until="attic")  # type: ignore[arg-type]


def test_padding_shows_nothing(masks: Tensor) -> None:
    first = made().windows(masks[1:])[0]
    assert first.seen is not None
    assert first.scale is not None
    assert first.seen[0, 0, 0, 0] == 0  # a corner: padding, and pixels that are hidden
    assert set(first.seen.unique().tolist()) == {0.0, 1.0}
    assert float(first.scale.min()) >= 1


@torch.no_grad()
def test_frozen_windows_give_the_same_and_take_no_other_mask(images: Tensor, masks: Tensor) -> None:
    net = made()
    expected = net(images, masks[:1])
    net.freeze_gate(masks[:1])
    assert torch.equal(net(images, masks[:1]), expected)
    with pytest.raises(ValueError, match="mask differs from the one the windows were frozen for"):
        net(images, masks[1:])
    net.train().eval()
    assert not torch.allclose(net(images, masks[1:]), expected)
    with pytest.raises(RuntimeError, match="freeze_gate in training mode"):
        made().train().freeze_gate(masks[:1])
    with pytest.raises(ValueError, match="2 masks for 4 images: mask_index says which lies on which"):
        net(images, masks)


def test_who_takes_a_plain_backbone_refuses_it() -> None:
    with pytest.raises(ValueError, match="partial convolutions, which depend on the mask"):
        InferenceBackbone(made())
    with pytest.raises(ValueError, match="a ResNetPartial's depend on masks"):
        FeatureMaps(made())


def test_gradients_reach_every_weight(images: Tensor, masks: Tensor) -> None:
    net = made().train()
    net(images, masks, torch.tensor([0, 1, 0, 1])).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
