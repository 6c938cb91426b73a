"""`ResNetPartial`: a checkpoint tells it from a ResNet, whose weights have the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.export import Deployed, compare, to_onnx, to_safetensors
from lightning_app.export.graph import OPSET
from lightning_app.masks import ExcitationBackprop
from lightning_app.models import ResNetMask, ResNetPartial
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.networks.backbones.partial import PartialResNet
from tests.models.test_checkpoints import write
from tests.networks.test_backbones import ToyBackbone

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 8, "num_classes": 4, "input_size": 32}


@pytest.fixture(scope="module")
def model() -> ResNetPartial:
    torch.manual_seed(0)
    return ResNetPartial("layer2", **SMALL).eval()


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    return (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.7).float()


def test_it_comes_back_from_its_checkpoint(model: ResNetPartial, mask: torch.Tensor, tmp_path: Path) -> None:
    settings = dict(model.hparams)  # as Python code writes it, without a class path
    image = torch.randn(2, 3, 32, 32)
    for at in (
        write(tmp_path / "cli.ckpt", model),
        write(tmp_path / "own.ckpt", model, hyper_parameters=settings),
    ):
        loaded, facts = read_recogniser(at)
        assert isinstance(loaded, ResNetPartial)
        assert isinstance(loaded.backbone, PartialResNet)
        assert (facts.model, loaded.backbone.until) == ("ResNetPartial", "layer2")
        with torch.no_grad():
            assert torch.equal(loaded.embed(image, mask), model.embed(image, mask))
    exported = tmp_path / "model.safetensors"
    exported.write_bytes(to_safetensors(model, facts, None, 0.5, 0.5))
    back = read_recogniser(exported)[0]
    assert isinstance(back.backbone, PartialResNet)
    with torch.no_grad():
        assert torch.equal(back.embed(image, mask), model.embed(image, mask))


def test_a_resnet_does_not_take_its_weights_for_its_own(model: ResNetPartial, tmp_path: Path) -> None:
    saved = torch.load(write(tmp_path / "a.ckpt", model), weights_only=True)
    with pytest.raises(
        ValueError, match=r"of another network \(resnet18, partial until layer2, .*partial_until"
    ):
        ResNetMask(**SMALL).on_load_checkpoint(saved)
    with pytest.raises(ValueError, match="partial until layer4, 32 px; 1 weights or settings differ"):
        ResNetPartial(**SMALL).on_load_checkpoint(saved)
    plain = torch.load(write(tmp_path / "b.ckpt", ResNetMask(**SMALL)), weights_only=True)
    with pytest.raises(ValueError, match="the first is partial_until"):
        ResNetPartial("layer2", **SMALL).on_load_checkpoint(plain)
    ResNetPartial("layer2", **SMALL).on_load_checkpoint(saved)


def test_other_backbones_have_no_partial_convolutions() -> None:
    with pytest.raises(ValueError, match="ToyBackbone has no partial convolutions; give resnet18"):
        ResNetPartial(**(SMALL | {"backbone": ToyBackbone, "width": 64}))
    with pytest.raises(ValueError, match="partial_until='roof': choose one of stem"):
        ResNetPartial("roof", **SMALL)  # type: ignore[arg-type]


def test_excitation_backprop_has_no_rule_for_them(model: ResNetPartial) -> None:
    with pytest.raises(ValueError, match="its convolutions are partial"):
        ExcitationBackprop(model)


def test_what_is_deployed_holds_one_mask(model: ResNetPartial, mask: torch.Tensor) -> None:
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model.embed((pixels * mask - 0.5) / 0.5, mask)
        found = Deployed(model.backbone, mask, multiplies=True, unit=False)(pixels)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        bare = Deployed(model.backbone, unit=False)(pixels)
        torch.testing.assert_close(bare, model.embed((pixels - 0.5) / 0.5), rtol=1e-5, atol=1e-6)
        model.embed(pixels, 1 - mask)  # the model itself takes every mask, as before


@pytest.mark.slow
def test_an_onnx_graph_computes_the_same(model: ResNetPartial, mask: torch.Tensor) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = Deployed(model.backbone, mask, multiplies=True)
    graph = to_onnx(network, 3, 32, {}, OPSET)

    def embed(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(model.embed((image - 0.5) / 0.5, mask))

    agreement = compare(graph, embed, lambda image: image * mask, 3, 32)  # raises where they differ
    assert agreement.difference <= 1e-4
