from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lightning_app.masks import ExcitationBackprop
from lightning_app.models import ResNet
from lightning_app.networks import Backbone
from lightning_app.networks.backbones import Stage, make_backbone
from lightning_app.networks.backbones.resnet import ResNetBackbone
from lightning_app.networks.inference import InferenceBackbone
from tests.networks.backbone_contract import BackboneContract


class ToyBackbone(Backbone):
    """Two stages of one convolution each: what somebody else's backbone may look like."""

    points = ("early", "late")
    smallest = 8

    def __init__(self, in_channels: int = 3, input_size: int = 224, channels: int = 8) -> None:
        super().__init__()
        self.dim, self.channels = 2 * channels, channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU()
        )
        self.early = nn.Sequential(nn.Conv2d(channels, channels, 3, 2, 1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(channels, self.dim, 3, 2, 1), nn.ReLU())

    def stages(self, input_size: int) -> dict[str, Stage]:
        return {
            "early": Stage(self.channels, -(-input_size // 4)),
            "late": Stage(self.dim, -(-input_size // 8)),
        }

    def stem_of(self, image: Tensor) -> Tensor:
        found: Tensor = self.stem(image)
        return found


class NamedResNet(ResNetBackbone):
    """Ours as a class_path would make it, small."""

    def __init__(self, in_channels: int = 3, input_size: int = 224, name: str = "resnet18") -> None:
        super().__init__(name, (), input_size, in_channels=in_channels, width=8)  # type: ignore[arg-type]


class TestResNet(BackboneContract):
    maker = NamedResNet


class TestBottleneck(BackboneContract):
    maker = partial(NamedResNet, name="resnet50")


class TestToyBackbone(BackboneContract):
    maker = ToyBackbone


def test_a_name_makes_ours_as_it_was() -> None:
    assert list(Backbone.names)[:3] == ["resnet18", "resnet34", "resnet50"]
    torch.manual_seed(1)
    direct = ResNetBackbone("resnet18", ["layer2"], 32, width=8)
    torch.manual_seed(1)
    named = Backbone("resnet18", ["layer2"], 32, width=8)
    torch.manual_seed(1)
    later = make_backbone("resnet18", 3, 32, 8).place_gates(["layer2"], 32)
    for net in (named, later):
        assert type(net) is ResNetBackbone
        assert list(net.state_dict()) == list(direct.state_dict())  # the gates last
        state = direct.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_what_makes_no_backbone() -> None:
    with pytest.raises(
        ValueError, match=r"backbone='resnet99': choose one of resnet18, resnet34, resnet50, .*or give"
    ):
        make_backbone("resnet99", 3, 32)
    with pytest.raises(
        ValueError, match=r"backbone: Conv2d is no subclass of lightning_app\.networks\.Backbone"
    ):
        make_backbone(partial(nn.Conv2d, kernel_size=3), 3, 32)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=r"backbone: cannot be made of \(in_channels, input_size\)"):
        make_backbone(partial(ToyBackbone, depth=3), 3, 32)  # type: ignore[call-arg]  # likewise
    with pytest.raises(ValueError, match="width: 8 is of our backbones by name; give yours in"):
        ResNet(backbone=ToyBackbone, width=8, input_size=32)
    with pytest.raises(ValueError, match="backbone: ToyBackbone is no ResNet; only one can be folded"):
        InferenceBackbone(ToyBackbone().eval())
    with pytest.raises(ValueError, match="input_size=4: ToyBackbone takes images of 8 px or more"):
        ResNet(backbone=ToyBackbone, input_size=4)


def test_a_new_file_is_found_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "names", dict(Backbone.names))

    class Named(ToyBackbone, names=("toy",)):
        def __init__(self, name: str, in_channels: int = 3, input_size: int = 224) -> None:
            super().__init__(in_channels, input_size)

    assert type(ResNet(backbone="toy", input_size=32).backbone) is Named
    with pytest.raises(ValueError, match="width: 8, but toy has none: leave it out"):
        ResNet(backbone="toy", input_size=32, width=8)


def test_excitation_backprop_says_where_it_has_no_rule() -> None:
    with pytest.raises(
        ValueError,
        match=r"its ToyBackbone is no ResNet, and there is no rule for its stem\.2, a SiLU\); give a ResNet",
    ) as error:
        ExcitationBackprop(ResNet(backbone=ToyBackbone, input_size=32, num_classes=2))
    assert "\n" not in str(error.value)
