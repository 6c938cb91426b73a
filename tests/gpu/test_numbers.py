"""Numbers computed on the GPU are the CPU's, within stated bounds; fp32, TF32 off."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules import Augment, DrawnFaces, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.draws import hashed, integers, uniform
from lightning_app.desensitize import (
    CentreBlock,
    CentreBlur,
    Desensitizer,
    GaussianBlur,
    Identity,
    MaskOut,
    Mosaic,
)
from lightning_app.evaluation.embed import Shown, embed_images
from lightning_app.masks import ExcitationBackprop, MaskScorer, search
from lightning_app.metrics import dssim, psnr, ssim
from lightning_app.models import ResNet, ResNetFSM

SIZE, COUNT = 64, 24
RTOL = 1e-4  # of norms: fp32 sums in another order; tf32 would be ten times that


def faces() -> Tensor:
    return DrawnFaces(identities=4, images_per_identity=6, size=SIZE).__getitems__(range(COUNT))["image"]


def apart(one: Tensor, other: Tensor) -> float:
    """‖one − other‖ / ‖other‖, in float64."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).norm() / other.norm())


def network(kind: type[ResNet] | type[ResNetFSM], **more: Any) -> Any:
    """A network whose batch norms have statistics and scales of their own, in evaluation."""
    torch.manual_seed(0)
    model = kind(backbone="resnet18", width=16, num_classes=5, input_size=SIZE, **more)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
                module.bias.uniform_(-0.2, 0.2)
    return model.eval()


def test_draws_are_the_same_bits(gpu: torch.device) -> None:
    index = torch.arange(1000)
    for draw in (hashed, uniform):
        assert torch.equal(draw(index.to(gpu), 101, -7, 3).cpu(), draw(index, 101, -7, 3))
    assert torch.equal(integers(index.to(gpu), 50, 1, 2).cpu(), integers(index, 50, 1, 2))


@pytest.mark.parametrize(
    ("desensitizer", "steps"),
    [
        (Identity(), 0),
        (MaskOut(freeform=(0.5, 0.8)), 0),
        (MaskOut(freeform=(0.3, 0.8), count=8, draw="image"), 0),
        (CentreBlock(), 0),
        # means of many pixels, summed in another order: where one falls between two levels it may go either way
        (GaussianBlur(9), 1),
        (GaussianBlur(18), 1),
        (Mosaic(8), 1),
        (Mosaic(5), 1),
        (CentreBlur(), 1),
    ],
    ids=lambda d: str(d.describe()["method"]) if isinstance(d, Desensitizer) else str(d),
)
def test_desensitized_pixels(desensitizer: Desensitizer, steps: int, gpu: torch.device) -> None:
    data = FaceDataModule(DrawnFaces(size=SIZE), desensitizer)
    here, there = data.desensitized(faces()), data.desensitized(faces().to(gpu))
    levels = [(found["image"].cpu() * 255).round() for found in (here, there)]
    off = (levels[0] - levels[1]).abs()
    assert float(off.max()) <= steps
    assert float((off > 0).float().mean()) <= 0.005 * steps
    if here["mask"] is not None:
        assert there["mask"] is not None
        assert torch.equal(
            here["mask"].cpu()[here["mask_index"].cpu()], there["mask"].cpu()[there["mask_index"].cpu()]
        )
    desensitizer.cpu()


def test_augmented_pixels(gpu: torch.device) -> None:
    def batch(device: torch.device | str) -> Batch:
        image = (faces().float() / 255).to(device)
        return {"image": image, "mask": None, "index": torch.arange(COUNT, device=device),
                "mask_index": torch.zeros(COUNT, dtype=torch.int64, device=device)}  # fmt: skip

    draw_key = DrawKey(3, 2, 1)
    flip = [Augment()(batch(device), draw_key)["image"].cpu() for device in (gpu, "cpu")]
    assert torch.equal(*flip)
    more = Augment(rotate=10, scale=0.1, shift=0.1, light=0.2)
    moved = [more(batch(device), draw_key)["image"] for device in (gpu, "cpu")]
    assert apart(*moved) < RTOL


def test_image_metrics(gpu: torch.device) -> None:
    one = faces().float() / 255
    other = (one + 0.1 * torch.rand(one.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mask = torch.ones(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 0
    for metric in (ssim, dssim, psnr):
        torch.testing.assert_close(
            metric(one.to(gpu), other.to(gpu)).cpu(), metric(one, other), rtol=1e-4, atol=1e-5
        )
    found = psnr(one.to(gpu), other.to(gpu), mask.to(gpu)).cpu()
    torch.testing.assert_close(found, psnr(one, other, mask), rtol=1e-4, atol=1e-5)


def test_embeddings(gpu: torch.device) -> None:
    data = FaceDataModule(DrawnFaces(size=SIZE), MaskOut(freeform=(0.5, 0.8)))
    here = network(ResNet)
    there = copy.deepcopy(here).to(gpu)
    found = []
    for model, device in ((here, torch.device("cpu")), (there, gpu)):
        shown = []
        for desensitize in (False, True):
            ready = data.prepare(faces().to(device), desensitize=desensitize)
            shown.append(
                [Shown(ready["image"], {str(desensitize): model.embed}, ready["mask"], ready["mask_index"])]
            )
        with torch.inference_mode():
            found.append(embed_images(shown, flip=True))
    for state in ("False", "True"):
        assert apart(found[1][state], found[0][state]) < RTOL
        assert found[1][state].device.type == gpu.type
    data.desensitizer.cpu()


def test_a_frozen_gate(gpu: torch.device) -> None:
    data = FaceDataModule(DrawnFaces(size=SIZE), MaskOut(freeform=(0.5, 0.8)))
    here = network(ResNetFSM, insertion_points=["layer2", "layer3"])
    there = copy.deepcopy(here).to(gpu)
    with torch.inference_mode():
        ready = data.prepare(faces())
        wanted = here.embed(ready["image"], ready["mask"], ready["mask_index"])
        ready = data.prepare(faces().to(gpu))
        mask = ready["mask"]
        assert mask is not None
        for point, gate in there.gate(mask).items():
            assert apart(gate, here.gate(mask.cpu())[point]) < RTOL
        free = there.embed(ready["image"], mask, ready["mask_index"])
        there.freeze_gate(mask)
        frozen = there.embed(ready["image"], mask, ready["mask_index"])
        with pytest.raises(ValueError, match="mask"):
            there.embed(ready["image"], 1 - mask, ready["mask_index"])
    assert apart(frozen, free) < 1e-6
    assert apart(frozen, wanted) < RTOL
    data.desensitizer.cpu()


@pytest.mark.parametrize("contrastive", [False, True])
def test_excitation_backprop(contrastive: bool, gpu: torch.device) -> None:
    here = network(ResNet)
    there = copy.deepcopy(here).to(gpu)
    image = (faces()[:6].float() / 255 - 0.5) / 0.5
    target = torch.arange(6) % 5
    wanted = ExcitationBackprop(here, contrastive=contrastive).attribute(image, target)
    found = ExcitationBackprop(there, contrastive=contrastive).attribute(image.to(gpu), target.to(gpu))
    # a unit near 0 may be passed over on one of them; contrastive maps are differences
    assert apart(found, wanted) < (5e-3 if contrastive else 1e-3)


@pytest.mark.parametrize("strategy", ["random", "halving", "evolve"])
def test_a_search_finds_the_same_mask(strategy: Any, gpu: torch.device) -> None:
    labels = torch.arange(COUNT) // 6
    model = network(ResNet)
    with torch.no_grad():
        model.head.weight.mul_(10)
    found = [
        search(MaskScorer(copy.deepcopy(model), faces(), labels, device=device), SIZE, (0.5, 0.6), strategy=strategy,
               candidates=16, seed=5, min_images=6)
        for device in (gpu, torch.device("cpu"))
    ]  # fmt: skip
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        assert pytest.approx(other.F, rel=RTOL, abs=RTOL) == one.F
        assert (one.mask_hash, one.rung) == (other.mask_hash, other.rung)
    assert torch.equal(found[0].mask.cpu(), found[1].mask.cpu())
