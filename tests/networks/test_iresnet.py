from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from lightning_app.export.graph import OPSET, Deployed, compare, to_onnx
from lightning_app.masks import ExcitationBackprop
from lightning_app.models import ResNet
from lightning_app.models.parts import described
from lightning_app.networks import IR50, IRSE50, Backbone, iresnet50, irse50
from lightning_app.networks.backbones import BACKBONES, make_backbone
from lightning_app.networks.backbones.iresnet import IResNet
from tests.networks.backbone_contract import BackboneContract


class Short(IRSE50):
    """With a unit or two a stage: the order of things is the same, and much time is saved."""

    units = (1, 2, 1, 1)


class ShortIR(IR50):
    """The same without squeeze-and-excitation."""

    units = (2, 1, 1, 1)


class TestIRSE50(BackboneContract):
    maker = partial(Short, width=8)


class TestIR50(BackboneContract):
    maker = partial(ShortIR, width=8)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("maker", "channels", "expected"),
    [
        (iresnet50, 3, 43_574_976), (irse50, 3, 43_797_696), (irse50, 63, 43_832_256), (irse50, 1, 43_796_544),
        (irse50, 189, 43_797_696 + 186 * 9 * 64),
    ],
)  # fmt: skip
def test_as_many_parameters_as_the_public_ones(maker: Any, channels: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(maker(channels)) == expected
        by_name = make_backbone("irse50" if maker is irse50 else "ir50", channels, 112)
        assert parameters(by_name) == expected


@pytest.mark.parametrize("channels", [1, 3, 63, 189])
def test_shapes_stage_by_stage(channels: int) -> None:
    with torch.device("meta"):
        net = irse50(channels)
        x = net.stem_of(torch.empty(2, channels, 112, 112))
        shapes = [tuple(x.shape[1:])]
        for point in net.points:
            x = net.stage_of(point, x)
            shapes.append(tuple(x.shape[1:]))
        assert shapes == [
            (64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7),
        ]  # fmt: skip
        assert net.embedding_of(x).shape == (2, 512)
    assert [len(getattr(net, point)) for point in net.points] == [3, 4, 14, 3]


def test_a_unit_by_hand() -> None:
    """BN → conv → PReLU → conv with stride → BN → excitation, plus every second cell of the input."""
    torch.manual_seed(0)
    net = IRSE50(3, 32, width=8).eval()
    unit, x = net.get_submodule("layer1.0"), torch.randn(2, 8, 32, 32)
    parts: list[Any] = list(unit.get_submodule("residual").children())
    bn1, conv1, prelu, conv2, bn2, excite = parts
    with torch.no_grad():
        for norm in (bn1, bn2):
            norm.running_mean.normal_()
        y = bn2(conv2(prelu(conv1(bn1(x)))))
        weights = excite.fc1.weight[:, :, 0, 0], excite.fc2.weight[:, :, 0, 0]
        hidden = (y.mean((2, 3)) @ weights[0].T).clamp_min(0)
        scale = 1 / (1 + (-(hidden @ weights[1].T)).exp())
        expected = y * scale[:, :, None, None] + x[:, :, ::2, ::2]
        torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)
    assert (conv1.stride, conv2.stride, excite.fc1.bias, excite.fc2.bias) == ((1, 1), (2, 2), None, None)
    wider = net.get_submodule("layer2.0.shortcut")
    assert [type(part) for part in wider.children()] == [nn.Conv2d, nn.BatchNorm2d]


def test_by_name_by_class_and_by_width() -> None:
    torch.manual_seed(1)
    direct = IRSE50(3, 32, width=8)
    torch.manual_seed(1)
    named = make_backbone("irse50", 3, 32, 8)
    torch.manual_seed(1)
    other = Backbone("irse50", input_size=32, width=8)
    for net in (named, other):
        assert type(net) is IResNet
        assert net.dim == 64
        state = direct.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert {"IR50", "IRSE50", "IResNet", "ResNetBackbone"} <= BACKBONES.keys()
    assert described(partial(IRSE50, dropout=0.2), Backbone) == {
        "class_path": "lightning_app.networks.backbones.iresnet.IRSE50",
        "init_args": {"width": 64, "dropout": 0.2},
    }


def test_dropout_is_of_training_alone() -> None:
    net, image = IR50(3, 16, width=8, dropout=0.5), torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(net(image), net(image))
        net.eval()
        assert torch.equal(net(image), net(image))
    assert iresnet50(1, 16, 8).get_submodule("output.1").p == 0.4
    assert irse50(1, 16, 8, 0.0).get_submodule("output.1").p == 0.0


def test_what_it_refuses() -> None:
    for size in (15, 1):
        with pytest.raises(ValueError, match=f"^input_size={size}: IRSE50 takes images of 16 px or more$"):
            IRSE50(3, size, width=8)
    with pytest.raises(ValueError, match=r"^images of 48×32 px: this IR50 was made for 32 px, its linear"):
        IR50(3, 32, width=8)(torch.zeros(1, 3, 48, 32))
    with pytest.raises(ValueError, match=r"^one image in a step: the embedding of IR50 is batch-normalised"):
        IR50(3, 16, width=8).train()(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"^width: 4 is below 8 channels; 64 is the paper's"):
        ResNet(backbone="irse50", width=4, input_size=32)
    with pytest.raises(ValueError, match=r"^dropout: 40 of the backbone is not within 0 … 1; 0\.4 is the"):
        IRSE50(3, 32, width=8, dropout=40)
    with pytest.raises(ValueError, match=r"^backbone='ir101': choose one of ir50, irse50"):
        IResNet("ir101")  # type: ignore[arg-type]  # the mistake under test


def test_excitation_backprop_says_that_it_has_no_rule() -> None:
    model = ResNet(backbone=partial(IRSE50, width=8), input_size=32, num_classes=2)
    with pytest.raises(
        ValueError, match=r"its IRSE50 is no ResNet, and there is no rule for its stem\.2, a PReLU"
    ):
        ExcitationBackprop(model)


def test_it_can_be_written_as_onnx() -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = Deployed(Short(5, 16, width=8).eval())
    found = compare(to_onnx(network, 5, 16, {}, OPSET), network, lambda image: image, 5, 16)
    assert found.difference < 1e-4
