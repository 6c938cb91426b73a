from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from benchmarks.ebp import LrpTail, stem
from lightning_app.masks.saliency.ebp import ExcitationBackprop
from lightning_app.masks.saliency.ebp_layers import FoldedConv
from lightning_app.models import ResNet
from lightning_app.networks import Backbone

Floats = npt.NDArray[np.float64]


class TinyResNet(nn.Module):
    """torchvision's names and blocks, a few channels wide, one block a stage."""

    def __init__(self, block: type[BasicBlock | Bottleneck] = BasicBlock, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(4)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        width = 4
        for number, planes in enumerate((4, 6, 6, 8), start=1):
            wide, stride = planes * block.expansion, 1 if number == 1 else 2
            down = None
            if stride > 1 or width != wide:
                down = nn.Sequential(nn.Conv2d(width, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            self.add_module(f"layer{number}", nn.Sequential(block(width, planes, stride, down)))
            width = wide
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width, classes)


@torch.no_grad()
def shaken(net: nn.Module, seed: int = 0) -> nn.Module:
    """Draw batch norms as training leaves them, a third of their scales negative, in evaluation."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            sign = torch.where(torch.rand(shape, generator=generator) < 1 / 3, -1.0, 1.0)
            module.weight.copy_(sign * (0.5 + torch.rand(shape, generator=generator)))
            module.bias.copy_(0.3 + 0.3 * torch.randn(shape, generator=generator))
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(0.3 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
    return net.eval()


def seeded_net(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the written-out reference, float64, loops over every connection --------------------------------------


def _array(value: Any) -> Floats:
    return np.asarray(value.detach().double().numpy())


def _connections(x: Floats, weight: Floats, conv: nn.Conv2d) -> Any:
    """Yield (output index, input index, weight) of every connection of a convolution on one image."""
    (out, _, kh, kw), (channels, height, width) = weight.shape, x.shape
    stride, pad = conv.stride[0], int(conv.padding[0])
    for o in range(out):
        for i in range((height + 2 * pad - kh) // stride + 1):
            for j in range((width + 2 * pad - kw) // stride + 1):
                for c, u, v in np.ndindex(channels, kh, kw):
                    row, column = i * stride + u - pad, j * stride + v - pad
                    if 0 <= row < height and 0 <= column < width:
                        yield (o, i, j), (c, row, column), weight[o, c, u, v]


def _scale(norm: nn.BatchNorm2d) -> Floats:
    assert norm.running_var is not None
    return _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)


def _conv_up(x: Floats, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Floats:
    stride, pad, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    y = np.zeros((conv.out_channels, *(((side + 2 * pad - kernel) // stride + 1) for side in x.shape[1:])))
    for above, below, weight in _connections(x, _array(conv.weight), conv):
        y[above] += weight * x[below]
    assert norm.running_mean is not None
    shift = _array(norm.bias) - _array(norm.running_mean) * _scale(norm)
    return np.asarray(y * _scale(norm)[:, None, None] + shift[:, None, None])


def _conv_down(p: Floats, x: Floats, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Floats:
    positive = np.maximum(_array(conv.weight) * _scale(norm)[:, None, None, None], 0)
    z, below_p = np.zeros_like(p), np.zeros_like(x)
    for above, below, weight in _connections(x, positive, conv):
        z[above] += weight * x[below]
    for above, below, weight in _connections(x, positive, conv):
        if z[above] > 0:
            below_p[below] += x[below] * weight * p[above] / z[above]
    return below_p


def reference(net: Any, image: Tensor, head: Floats, layer: str) -> Floats:
    """Return the map `[h,w]` of one image, P starting at the embedding in proportion to `head` ⊙ embedding."""
    stem_out = np.maximum(_conv_up(_array(image), net.conv1, net.bn1), 0)
    channels, height, width = stem_out.shape
    x, winner = np.zeros((channels, (height + 1) // 2, (width + 1) // 2)), {}
    for c, i, j in np.ndindex(*x.shape):
        window = [
            (stem_out[c, row, column], (c, row, column))
            for row in range(max(0, 2 * i - 1), min(height, 2 * i + 2))
            for column in range(max(0, 2 * j - 1), min(width, 2 * j + 2))
        ]
        x[c, i, j], winner[c, i, j] = max(window, key=lambda pair: pair[0])
    down = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        (block,) = getattr(net, name)
        inner = np.maximum(_conv_up(x, block.conv1, block.bn1), 0)
        branch = _conv_up(inner, block.conv2, block.bn2)
        identity = x if block.downsample is None else _conv_up(x, *block.downsample)
        down.append((name, block, x, inner, branch, identity))
        x = np.maximum(branch + identity, 0)
    weight = np.maximum(head, 0) * x.mean((1, 2))
    total = x.sum((1, 2))
    p = x * np.divide(weight / weight.sum(), total, out=np.zeros_like(total), where=total > 0)[:, None, None]
    for name, block, x, inner, branch, identity in reversed(down):
        if name == layer:
            return np.asarray(p.sum(0))
        total = np.maximum(branch, 0) + np.maximum(identity, 0)
        share = np.divide(np.maximum(branch, 0), total, out=np.zeros_like(total), where=total > 0)
        side = p * (1 - share) * (total > 0)
        if block.downsample is not None:
            side = _conv_down(side, x, *block.downsample)
        p = _conv_down(_conv_down(p * share, inner, block.conv2, block.bn2), x, block.conv1, block.bn1) + side
    if layer == "maxpool":
        return np.asarray(p.sum(0))
    stem_p = np.zeros_like(stem_out)
    for above, below in winner.items():
        stem_p[below] += p[above]
    return np.asarray(stem_p.sum(0))


@pytest.mark.parametrize("layer", ["relu", "maxpool", "layer1", "layer3"])
def test_equals_the_written_out_reference(layer: str) -> None:
    net: Any = shaken(seeded_net(TinyResNet))
    images, mate = drawn(2, 3, 24, 24), drawn(2, 8, seed=4)
    of_identity = ExcitationBackprop(net, layer).attribute(images, torch.tensor([3, 1]))
    of_mate = ExcitationBackprop(net, layer).attribute(images, mate)
    for number, identity in enumerate((3, 1)):
        for found, head in ((of_identity, net.fc.weight[identity]), (of_mate, mate[number])):
            wanted = reference(net, images[number], _array(head), layer)
            assert wanted.max() > 0.01
            np.testing.assert_allclose(_array(found[number, 0]), wanted, rtol=0, atol=1e-5)


def test_two_layers_by_hand() -> None:
    conv, norm = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0).eval()
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 3.0]]).view(2, 2, 1, 1))
        norm.weight.copy_(torch.tensor([-1.0, 1.0]))  # the first unit's weights become -1 and 1
        folded = FoldedConv.of(conv, norm)
        x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
        assert folded(x).flatten().tolist() == [1, 8]
        # linear layer of weights 4 and 1 above: 4·1 and 1·8 of 12, hence 1/3 and 2/3; the first passes all to
        # the second input, the second 2·1 and 3·2 of 8
        p, lost = folded.positive().back(torch.tensor([1 / 3, 2 / 3]).view(1, 2, 1, 1), x, account=True)
    torch.testing.assert_close(p.flatten(), torch.tensor([1 / 6, 5 / 6]))
    assert lost is not None
    assert lost.tolist() == [0]


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("layer", ["relu", "maxpool"])
def test_equals_captum_lrp(block: type[BasicBlock | Bottleneck], layer: str) -> None:
    net = shaken(seeded_net(lambda: TinyResNet(block)))
    images, target = drawn(3, 3, 48, 48), torch.tensor([0, 4, 2])
    below = stem(net, images).detach()
    if layer == "maxpool":
        below = net.get_submodule("maxpool")(below)
    lrp = LrpTail(net, pool=layer == "relu").relevance(below, target)
    assert float(lrp.max()) > 0.005
    torch.testing.assert_close(
        ExcitationBackprop(net, layer).attribute(images, target), lrp, rtol=0, atol=1e-5
    )


def test_equals_captum_lrp_with_plain_sums_where_both_branches_are_positive() -> None:
    net = shaken(seeded_net(TinyResNet))
    for module in net.modules():
        if isinstance(module, BasicBlock):
            for norm in [module.bn2, *(module.downsample or ())][::2]:
                nn.init.constant_(norm.bias, 8.0)
                norm.weight.data.mul_(0.02)
    images, target = drawn(3, 3, 48, 48), torch.tensor([0, 4, 2])
    below = net.get_submodule("maxpool")(stem(net, images)).detach()
    lrp = LrpTail(net).relevance(below, target, clamp=False)
    torch.testing.assert_close(ExcitationBackprop(net).attribute(images, target), lrp, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_mass_is_conserved_layer_by_layer(name: str) -> None:
    net = seeded_net(lambda: getattr(torchvision.models, name)(num_classes=7)).eval()
    convs = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    blocks = sum(isinstance(module, BasicBlock | Bottleneck) for module in net.modules())
    images, target = drawn(2, 3, 48, 48), torch.tensor([1, 6])
    for norms in ("untrained", "drawn"):
        if norms == "drawn":
            shaken(net)
        ebp = ExcitationBackprop(net, "relu")
        rows = ebp.conservation(images, target)
        assert len(rows) == 3 + (convs - 1) + blocks, (
            "target, avgpool, maxpool; all but one convolution; sums"
        )
        before = torch.ones(2)
        for layer, mass, lost in rows:
            torch.testing.assert_close(
                mass + lost, before, rtol=1e-4, atol=0, msg=f"{norms} {layer}: {mass} {lost}"
            )
            before = mass
        assert float(before.min()) > 0.1
        torch.testing.assert_close(ebp.attribute(images, target).sum((1, 2, 3)), before, rtol=1e-5, atol=0)


def test_what_is_lost_is_counted() -> None:
    net: Any = shaken(seeded_net(TinyResNet))
    block = net.layer3[0]
    with torch.no_grad():  # no excitatory weight, a branch that is positive by its bias alone
        block.conv2.weight.copy_(-block.conv2.weight.abs() * block.bn2.weight.sign()[:, None, None, None])
        block.bn2.bias.fill_(50.0)
    rows = {
        name: (mass, lost)
        for name, mass, lost in ExcitationBackprop(net).conservation(drawn(2, 3, 32, 32), 1)
    }
    mass, lost = rows["layer3.0.conv2"]
    assert float(lost.min()) > 0.5
    torch.testing.assert_close(mass + lost, rows["layer3.0.downsample"][0], rtol=1e-4, atol=0)
    with torch.no_grad():
        net.fc.weight[1] = -1
    name, mass, lost = ExcitationBackprop(net).conservation(drawn(2, 3, 32, 32), 1)[0]
    assert (name, mass.tolist(), lost.tolist()) == ("target", [0, 0], [1, 1])
    assert not ExcitationBackprop(net).attribute(drawn(2, 3, 32, 32), 1).any()


@pytest.mark.parametrize("layer", ["maxpool", "layer2"])
def test_contrastive_is_a_difference_clamped(layer: str) -> None:
    net: Any = shaken(seeded_net(TinyResNet))
    images, mate, nonmate = drawn(2, 3, 32, 32), drawn(2, 8, seed=1), drawn(2, 8, seed=2)
    plain, contrastive = ExcitationBackprop(net, layer), ExcitationBackprop(net, layer, contrastive=True)
    found = contrastive.attribute(images, 2)
    of_mate = contrastive.attribute(images, mate, nonmate)
    wanted = plain.attribute(images, 2)
    with torch.no_grad():
        net.fc.weight.neg_()
    wanted_difference = wanted - plain.attribute(images, 2)
    assert float(wanted_difference.min()) < 0 < float(found.max())
    # channels cancel before the clamp in neither: the map is clamped once channels are summed
    torch.testing.assert_close(found, wanted_difference.clamp(min=0), rtol=0, atol=1e-6)
    difference = plain.attribute(images, mate) - plain.attribute(images, nonmate)
    torch.testing.assert_close(of_mate, difference.clamp(min=0), rtol=0, atol=1e-6)


def test_every_read_out_layer() -> None:
    net = shaken(seeded_net(lambda: torchvision.models.resnet18(num_classes=3)))
    image = drawn(1, 3, 64, 64)
    sides = {"relu": 32, "maxpool": 16, "layer1": 16, "layer2": 8, "layer3": 4, "layer4": 2}
    maps = {
        layer: ExcitationBackprop(net, layer).attribute(image, 0)
        for layer in (*sides, "layer2.0", "layer2.1")
    }
    for layer, side in sides.items():
        assert maps[layer].shape == (1, 1, side, side)
        assert maps[layer].dtype == torch.float32
        assert float(maps[layer].min()) >= 0
    assert torch.equal(maps["layer2"], maps["layer2.1"])
    assert not torch.equal(maps["layer2"], maps["layer2.0"])


def test_batch_of_one_and_of_32() -> None:
    ebp = ExcitationBackprop(shaken(seeded_net(lambda: torchvision.models.resnet18(num_classes=9))))
    images, target = drawn(32, 3, 48, 48), torch.arange(32) % 9
    together = ebp.attribute(images, target)
    alone = torch.cat([ebp.attribute(images[i : i + 1], int(target[i])) for i in (0, 13, 31)])
    torch.testing.assert_close(together[[0, 13, 31]], alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_model_is_left_alone(training: bool) -> None:
    net = shaken(seeded_net(TinyResNet))
    images = drawn(4, 3, 32, 32)
    wanted = ExcitationBackprop(net).attribute(images, 1)
    net.train(training)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
    ]
    given = images.clone()
    with torch.enable_grad():
        found = ExcitationBackprop(net).attribute(given, 1)
    assert torch.equal(found, wanted), "training mode changed the map"
    assert torch.equal(given, images)
    assert not found.requires_grad
    assert all(module.training == training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert hooks == [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()
    ]


def test_weights_are_never_out_of_date_and_always_fp32() -> None:
    net: Any = shaken(seeded_net(TinyResNet))
    ebp, images = ExcitationBackprop(net), drawn(2, 3, 32, 32)
    first = ebp.attribute(images, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ebp.attribute(images, 1), first)
    net.layer4[0].conv1.weight.data = -net.layer4[
        0
    ].conv1.weight.data  # .data leaves the version counter alone
    assert not torch.equal(ebp.attribute(images, 1), first)


@pytest.mark.parametrize("drawn_norms", [False, True])
def test_black_image(drawn_norms: bool) -> None:
    net = seeded_net(lambda: torchvision.models.resnet18(num_classes=3)).eval()
    if drawn_norms:
        shaken(net)
    images = torch.stack([torch.zeros(3, 48, 48), drawn(3, 48, 48)])
    targets: list[tuple[int | Tensor, int | Tensor]] = [(1, 1), (torch.ones(2, 512), torch.ones(1, 512))]
    for both, second in targets:
        found = ExcitationBackprop(net).attribute(images, both)
        assert bool(found.isfinite().all())
        alone = ExcitationBackprop(net).attribute(images[1:], second)
        torch.testing.assert_close(found[1:], alone, rtol=1e-5, atol=1e-7)


def test_recogniser_backbone_and_torchvision_agree() -> None:
    recogniser = seeded_net(lambda: ResNet(backbone="resnet18", num_classes=4, input_size=32))
    shaken(recogniser)
    plain = torchvision.models.resnet18(num_classes=4).eval()
    head = {f"fc.{key}": value for key, value in recogniser.get_submodule("head").state_dict().items()}
    plain.load_state_dict(recogniser.get_submodule("backbone").state_dict() | head)
    images, mates = drawn(2, 3, 32, 32), drawn(2, 512, seed=3)
    wanted = ExcitationBackprop(plain).attribute(images, 3)
    torch.testing.assert_close(
        ExcitationBackprop(recogniser).attribute(images, 3), wanted, rtol=1e-5, atol=1e-7
    )
    wanted = ExcitationBackprop(plain).attribute(images, mates)
    backbone = ExcitationBackprop(recogniser.get_submodule("backbone"))
    torch.testing.assert_close(backbone.attribute(images, mates), wanted, rtol=1e-5, atol=1e-7)


def _with_nan(where: str) -> nn.Module:
    net = shaken(seeded_net(TinyResNet))
    with torch.no_grad():
        net.get_parameter(where).view(-1)[0] = float("nan")
    return net


@pytest.mark.parametrize(
    ("net", "options", "arguments", "message"),
    [
        (TinyResNet, {"layer": "conv1"}, {}, "layer: 'conv1' is not one a map is read from; choose relu"),
        (TinyResNet, {"layer": "layer2.7"}, {}, "or a block: layer1.0 … layer1.0, layer2.0"),
        (lambda: nn.Sequential(nn.Flatten()), {}, {}, "does not know this Sequential (it has no conv1)"),
        (lambda: torchvision.models.resnet18(norm_layer=nn.InstanceNorm2d), {}, {}, "is no batch norm"),
        (lambda: Backbone("resnet18", ["layer2"], 64), {}, {}, "it is gated after layer2"),
        (TinyResNet, {}, {"target": 5}, "target: identity 5 is not among the model's 5 (0 … 4)"),
        (TinyResNet, {}, {"target": torch.tensor([0, -1])}, "target: identity -1 is not among"),
        (TinyResNet, {}, {"target": torch.tensor([0, 1, 2])}, "target: shape [3] for 2 images"),
        (TinyResNet, {}, {"target": torch.ones(2, 9)}, "target: embeddings of shape [2, 9]; this model needs [2, 8]"),
        (TinyResNet, {}, {"target": torch.full((2, 8), torch.inf)}, "target: holds NaN or infinite values"),
        (TinyResNet, {}, {"target": torch.tensor([True, False])}, "target: torch.bool is neither identities"),
        (TinyResNet, {}, {"nonmate": torch.ones(2, 8)}, "nonmate: only contrastive maps need it"),
        (TinyResNet, {"contrastive": True}, {"nonmate": torch.ones(2, 8)}, "nonmate: goes with a mate's embedding"),
        (TinyResNet, {"contrastive": True}, {"target": torch.ones(2, 8)}, "nonmate: contrastive maps for a mate need"),
        (TinyResNet, {}, {"inputs": torch.zeros(2, 1, 32, 32)}, "inputs: torch.float32 of shape [2, 1, 32, 32]"),
        (TinyResNet, {}, {"inputs": torch.zeros(2, 3, 32, 32).byte()}, "inputs: torch.uint8 of shape"),
        (TinyResNet, {}, {"inputs": torch.full((2, 3, 32, 32), torch.nan)}, "inputs: hold NaN or infinite values"),
        (lambda: _with_nan("layer2.0.conv2.weight"), {}, {}, "model: layer2.0.conv2.weight holds NaN or infinite"),
        (lambda: _with_nan("fc.weight"), {}, {}, "model: the head's weights are not finite"),
        (lambda: Backbone("resnet18"), {}, {}, "target: an identity needs a model with a classification head"),
        (lambda: ResNet("resnet18"), {}, {}, "target: an identity needs a model with a classification head"),
    ],
)  # fmt: skip
def test_bad_input(
    net: Callable[[], nn.Module], options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"inputs": torch.zeros(2, 3, 32, 32), "target": 0} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        ExcitationBackprop(net(), **options).attribute(**given)
