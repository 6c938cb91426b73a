"""CUDA graphs, as far as a CPU shows them; what they train is held in tests/gpu/test_fits.py."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from lightning_app.networks.backbones import make_backbone
from lightning_app.networks.graphed import GraphedBackbone

IMAGES = torch.rand(4, 3, 32, 32)
# a CPU build says so of every autocast for CUDA
no_cuda = pytest.mark.filterwarnings("ignore:.*CUDA is not available:UserWarning")


def graphed(**more: Any) -> GraphedBackbone:
    torch.manual_seed(0)
    return GraphedBackbone(make_backbone("resnet18", 3, 32, 8, **more))


def test_on_the_cpu_it_is_the_backbone() -> None:
    run = graphed()
    run.backbone.eval()
    assert torch.equal(run(IMAGES), run.backbone(IMAGES))
    run.backbone.train()
    assert run(IMAGES).requires_grad
    assert not run._made, "nothing is captured"


@no_cuda
def test_passes_that_warm_up_leave_batch_norms_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def warm_up(module: nn.Module, args: tuple[torch.Tensor, ...]) -> nn.Module:
        for _ in range(3):
            module(*args)
        seen.extend(tuple(arg.shape) for arg in args)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", warm_up)
    run = graphed()
    before = {name: value.clone() for name, value in run.backbone.state_dict().items()}
    made = run._captured((IMAGES,))
    assert seen == [(4, 3, 32, 32)]
    assert all(torch.equal(value, before[name]) for name, value in run.backbone.state_dict().items())
    made(IMAGES)
    assert run.backbone.state_dict()["bn1.num_batches_tracked"] == 1


@no_cuda
def test_what_cannot_be_captured_is_trained_as_usual_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(module: nn.Module, args: object) -> nn.Module:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fails)
    run = graphed()
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert run._captured((IMAGES,)) is run.backbone
        assert run._captured((IMAGES[:2],)) is run.backbone
    assert caplog.text.count("cannot be captured (operation not permitted when stream is capturing)") == 1


def test_dropout_is_not_captured(caplog: pytest.LogCaptureFixture) -> None:
    run = graphed()
    run.backbone.add_module("more", nn.Dropout(0.4))
    with caplog.at_level(logging.WARNING, "faceveil"):
        assert run._captured((IMAGES,)) is run.backbone
    assert "it has dropout" in caplog.text
