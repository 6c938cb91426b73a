from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules import DrawnFaces, FaceDataModule
from lightning_app.desensitize import MaskOut
from lightning_app.masks import freeform_masks, mask_ratio, save_mask
from lightning_app.masks.search.objective import MaskScorer, objective
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.networks import Backbone
from lightning_app.networks.inference import InferenceBackbone, _has_fused_steps, _Step

CLASSES, SIZE = 5, 32


def shaken(model: nn.Module) -> nn.Module:
    """Return batch norms statistics and weights of both signs, as training would, so that folding shows."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                (module.weight.data, -0.5, 1.5), (module.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                assert value is not None
                value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
    for name, value in model.named_parameters():
        if name == "head.weight":
            value.data *= 20  # otherwise all logits are much the same
    return model


@cache
def _resnet() -> ResNet:
    torch.manual_seed(0)
    model = ResNet(backbone="resnet18", width=16, num_classes=CLASSES, input_size=SIZE)
    shaken(model)
    return model


def resnet() -> ResNet:
    return copy.deepcopy(_resnet())


def small() -> nn.Module:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
    return nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES))


def faces(count: int = 11) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)


def one_mask(seed: int = 0) -> Tensor:
    return freeform_masks(1, SIZE, (0.4, 0.5), generator=torch.Generator().manual_seed(seed))[0]


def naive(model: nn.Module, images: Tensor, labels: Tensor, mask: Tensor, gated: bool = False) -> list[float]:
    """Image by image, with NumPy's pixels and logarithms."""
    model = copy.deepcopy(model).eval()
    losses = []
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        x = ((image.astype(np.float32) / 255) * mask.numpy() - 0.5) / 0.5
        with torch.no_grad():
            batch = torch.from_numpy(x.astype(np.float32))[None]
            logits = (model(batch, mask[None]) if gated else model(batch))[0].double().numpy()
        losses.append(float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]))
    return losses


def test_equals_a_naive_loop() -> None:
    model, (images, labels) = resnet(), faces()
    for batch_size in (None, 1, 4):
        scorer = MaskScorer(model, images, labels, batch_size=batch_size)
        assert isinstance(scorer._model, nn.Sequential), "a plain recogniser is folded"
        expected = torch.tensor(naive(model, images, labels, one_mask()))
        torch.testing.assert_close(scorer.losses(one_mask()), expected[scorer.order], rtol=1e-5, atol=1e-5)
        assert scorer.score(one_mask()) == pytest.approx(float(expected.mean()), rel=1e-5)
        few = float(expected[scorer.order][:4].mean())
        assert scorer.score(one_mask(), images=4) == pytest.approx(few, rel=1e-5)
        assert scorer.passes == 11 + 11 + 4
    assert sorted(scorer.order.tolist()) == list(range(11))
    assert scorer.order.tolist() != list(range(11)), "a drawn order"
    assert float(expected.std()) > 0.1, "the images differ, or their order would not show"


def test_equals_the_datamodule_with_the_saved_mask(tmp_path: object) -> None:
    path = f"{tmp_path}/mask.png"
    save_mask(one_mask(), path)
    data = FaceDataModule(
        DrawnFaces(identities=CLASSES, images_per_identity=2, size=SIZE), MaskOut(path), mean=0.4, std=0.3
    )
    raw = data.reader.__getitems__(range(10))
    model = resnet().eval()
    batch = data.prepare(raw["image"])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(batch["image"]), raw["identity"])
    scorer = MaskScorer(model, raw["image"], raw["identity"], mean=0.4, std=0.3)
    assert scorer.score(one_mask()) == pytest.approx(float(expected), rel=1e-5)
    ratio = mask_ratio(one_mask())
    assert isinstance(ratio, float)
    assert objective(float(expected), ratio, 2.0) == pytest.approx(float(expected) - 2 * ratio)


def test_hidden_pixels_do_not_count() -> None:
    images, labels = faces()
    mask = one_mask()
    other = torch.where(mask.bool(), images, 255 - images).to(torch.uint8)
    assert not torch.equal(images, other)
    model = resnet()
    assert torch.equal(
        MaskScorer(model, images, labels).losses(mask), MaskScorer(model, other, labels).losses(mask)
    )


def test_gates_get_the_mask() -> None:
    torch.manual_seed(0)
    model = shaken(ResNetFSM(["layer1"], backbone="resnet18", num_classes=CLASSES, input_size=SIZE))
    images, labels = faces()
    expected = torch.tensor(naive(model, images, labels, one_mask(), gated=True))
    scorer = MaskScorer(model, images, labels)
    torch.testing.assert_close(scorer.losses(one_mask()), expected[scorer.order], rtol=1e-5, atol=1e-5)
    blind = torch.tensor(naive(model, images, labels, one_mask()))
    assert float((expected - blind).abs().max()) > 1e-2, "the gate matters here"
    low = MaskScorer(model, images, labels, bf16=True).score(one_mask())
    assert low == pytest.approx(float(expected.mean()), rel=0.03)


def test_a_model_of_ones_own_is_not_folded() -> None:
    class Doubled(ResNet):
        def forward(
            self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None
        ) -> Tensor:
            return 2 * super().forward(image)

    torch.manual_seed(0)
    model = Doubled(backbone="resnet18", num_classes=CLASSES, input_size=SIZE)
    images, labels = faces()
    assert MaskScorer(model, images, labels).score(one_mask()) == pytest.approx(
        float(np.mean(naive(model, images, labels, one_mask()))), rel=1e-5
    )


def test_bf16_is_near_fp32() -> None:
    # measured 0.5 % apart for this net of random weights
    model, (images, labels) = resnet(), faces(16)
    exact, low = MaskScorer(model, images, labels), MaskScorer(model, images, labels, bf16=True)
    for seed in range(2):
        assert low.score(one_mask(seed)) == pytest.approx(exact.score(one_mask(seed)), rel=0.03)
    assert low.score(one_mask()) != exact.score(one_mask())


def test_same_mask_same_score_whatever_came_before() -> None:
    images, labels = faces()
    scorer = MaskScorer(resnet(), images, labels)
    first = scorer.losses(one_mask(0), 2, 9)
    scorer.losses(one_mask(1))
    assert torch.equal(scorer.losses(one_mask(0), 2, 9), first)
    assert torch.equal(MaskScorer(resnet(), images, labels).losses(one_mask(0), 2, 9), first)
    torch.testing.assert_close(scorer.losses(one_mask(0))[2:9], first, rtol=1e-5, atol=1e-5)


def test_the_model_is_untouched() -> None:
    model = resnet().train()
    images, labels = faces()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kept = images.clone()
    for bf16 in (False, True):
        MaskScorer(model, images, labels, bf16=bf16).score(one_mask())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(images, kept)
    model(
        torch.rand(2, 3, SIZE, SIZE)
    ).sum().backward()  # still trainable: nothing of it is an inference tensor


def test_the_fingerprint_knows_what_matters() -> None:
    model, (images, labels) = small(), faces()
    one = MaskScorer(model, images, labels).fingerprint()
    assert MaskScorer(copy.deepcopy(model), images.clone(), labels).fingerprint() == one
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters())[0] += 1e-3
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    for scorer in (
        MaskScorer(other, images, labels), MaskScorer(model, changed, labels),
        MaskScorer(model, images, labels.flip(0)), MaskScorer(model, images, labels, seed=1),
        MaskScorer(model, images, labels, mean=0.4), MaskScorer(model, images, labels, bf16=True),
    ):  # fmt: skip
        assert scorer.fingerprint() != one


@pytest.mark.parametrize(
    ("name", "size", "count", "width"),
    [("resnet18", 40, 2, 64), ("resnet34", 112, 16, 16), ("resnet50", 72, 3, 16)],
)
def test_the_folded_backbone_embeds_alike(name: str, size: int, count: int, width: int) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, input_size=size, width=width)
    shaken(backbone).eval()
    images = torch.rand(count, 3, size, size)
    with torch.inference_mode():
        expected = backbone(images)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            InferenceBackbone(backbone)(images), expected, rtol=1e-4, atol=1e-5 * scale
        )
        low = InferenceBackbone(backbone, torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            peer = backbone(images)  # bf16 as torch does it: ours may err as much, twice over
        error = float((peer.float() - expected).abs().max())
        assert float((low(images.bfloat16()).float() - expected).abs().max()) < 2 * error


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (3, 1), (2, 1), (7, 2), (8, 2), (5, 2)])
def test_maps_side_by_side_are_convolved_alike(side: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(side)
    conv, norm = nn.Conv2d(16, 24, 3, stride, 1, bias=False), nn.BatchNorm2d(24)
    step = _Step(conv.eval(), norm.eval(), True, torch.bfloat16)
    if not _has_fused_steps(torch.device("cpu")):
        pytest.skip("this CPU or this torch has no bf16 kernels of oneDNN")
    for count in (1, 3, 32):
        x = torch.randn(count, 16, side, side, generator=generator).bfloat16()
        found = step._in_strips(x.contiguous(memory_format=torch.channels_last), "relu")
        exact = torch.relu(nn.functional.conv2d(x.double(), step.weight.double(), None, stride, 1))
        # bf16 rounds to 8 bits once, at the end
        torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-3)


def test_bad_arguments() -> None:
    model, (images, labels) = small(), faces()
    with pytest.raises(ValueError, match=r"labels: \d … 5 do not fit the model's 5 classes"):
        MaskScorer(model, images, labels.clone().fill_(5).index_fill(0, torch.tensor([0]), 1))
    with pytest.raises(ValueError, match="labels: -1 … 4"):
        MaskScorer(model, images, (labels * 0 - 1).index_fill(0, torch.tensor([0]), 4))
    with pytest.raises(ValueError, match=r"labels: torch.int64 of shape \[10\] is not int64 \[11\]"):
        MaskScorer(model, images, labels[1:])
    with pytest.raises(ValueError, match=r"images: torch\.float32 of shape"):
        MaskScorer(model, images.float(), labels)
    with pytest.raises(ValueError, match="model: has no head"):
        MaskScorer(ResNet(backbone="resnet18"), images, labels)
    with pytest.raises(ValueError, match="std: 0 is not"):
        MaskScorer(model, images, labels, std=0)
    with pytest.raises(ValueError, match="batch_size: 0 is not"):
        MaskScorer(model, images, labels, batch_size=0)
    with pytest.raises(ValueError, match="backbone: is in training mode"):
        InferenceBackbone(Backbone("resnet18"))
    with pytest.raises(ValueError, match="backbone: has FSM gates"):
        InferenceBackbone(Backbone("resnet18", ["layer1"], 32).eval())
    scorer = MaskScorer(model, images, labels)
    with pytest.raises(ValueError, match=r"mask: shape \[1, 16, 16\] is not \[1, 32, 32\]"):
        scorer.score(torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match="mask: holds values other than 0"):
        scorer.score(one_mask() * 0.5)
    with pytest.raises(ValueError, match="images: 0 to 12 is not a range within the 11"):
        scorer.score(one_mask(), images=12)
    with pytest.raises(ValueError, match="images: 3 to 3"):
        scorer.losses(one_mask(), 3, 3)
    with torch.no_grad():
        next(reversed(list(model.parameters())))[0] = float("nan")
    with pytest.raises(ValueError, match=r"model: its loss on image \d+ is not finite"):
        MaskScorer(model, images, labels).score(one_mask())
