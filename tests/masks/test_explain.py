from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import Attribution, GuidedGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.masks import ExcitationBackprop, mean_saliency
from lightning_app.masks.saliency.explain import Explainer, Template, find_template
from lightning_app.models import ResNet
from tests.masks.test_ebp import seeded_net, shaken
from tests.masks.test_template import Classifier

OURS = "lightning_app.masks.ExcitationBackprop"
HERE = "tests.masks.test_explain."
IDENTITIES = torch.tensor([0, 1, 2, 0])


class Draws(Attribution):  # type: ignore[misc]  # captum ships no types
    """Maps out of the three global generators."""

    def attribute(self, inputs: Tensor, target: object = None) -> Tensor:
        maps = torch.rand(len(inputs), 1, *inputs.shape[2:])
        maps[..., :4] *= float(np.random.rand())  # noqa: NPY002
        maps[..., 4:8] *= random.random()
        return maps


class Fails(Draws):
    """Draws, then runs out of memory."""

    def attribute(self, inputs: Tensor, target: object = None, gpu: bool = True) -> Tensor:
        super().attribute(inputs)
        raise torch.OutOfMemoryError("CUDA out of memory") if gpu else MemoryError


def recogniser() -> nn.Module:
    return shaken(seeded_net(lambda: ResNet(backbone="resnet18", num_classes=3, input_size=32)))


def faces(count: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def ready(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.5


def found(
    class_path: str,
    args: dict[str, Any] | None = None,
    attribute: dict[str, Any] | None = None,
    *,
    net: nn.Module | None = None,
    images: Tensor | None = None,
    **settings: Any,
) -> Template:
    images = faces() if images is None else images
    explainer = Explainer(class_path, args or {}, attribute or {})
    labels = settings.pop("labels", IDENTITIES[: len(images)])
    options: dict[str, Any] = {"threshold": 0.3, "sigma": 0.0} | settings
    return find_template(recogniser() if net is None else net, images, labels, explainer, **options)


def states() -> list[str]:
    return [str(s) for s in (torch.get_rng_state().tolist(), np.random.get_state(), random.getstate())]  # noqa: NPY002


@pytest.mark.parametrize(
    ("method", "args", "mate", "message"),
    [
        ("captum.attr.Occlusion", {}, False, r"fails with explainer_args=\{\} and attribute_args=\{\} \(TypeError: "
         r".*'sliding_window_shapes'\); give what is missing under attribute_args"),
        ("captum.attr.DeepLift", {}, False, r"attribute_args=\{\} \(RuntimeError: \S.*\); mend its arguments, or"),
        ("captum.attr.NoiseTunnel", {}, False, r"\(AttributeError: .*\); mend its arguments, or take another"),
        ("captum.attr.LayerActivation", {"layer": "backbone.layer1"}, False,
         r"explainer_args=\{'layer': 'backbone.layer1'\} .*\(TypeError: .*'target'\); mend its arguments"),
        ("captum.attr.LayerGradCam", {"layer": 4}, False, r"explainer_args=\{'layer': 4\} .*; mend its arguments"),
        ("captum.attr.Attribution", {}, False, "not a captum Attribution"),
        ("captum.attr.DeepLift", {}, True, "cannot explain the likeness to a mate; use target=identity, or"),
        ("captum.attr.GuidedGradCam", {"layer": "backbone.layer4"}, True, "cannot explain the likeness to a mate"),
        ("captum.attr.NoiseTunnel", {}, True, "cannot explain the likeness to a mate"),
    ],    ids=["no window", "reused ReLU", "of a method", "no target", "no layer", "abstract", "deep mate", "cam mate",
         "tunnel mate"],
)  # fmt: skip
def test_a_method_that_does_not_fit_is_told_in_one_line(
    method: str, args: dict[str, Any], mate: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^explainer={re.escape(method)}: .*{message}") as error:
        found(method, args, mates=faces(seed=1) if mate else None)
    assert "\n" not in str(error.value)
    assert ("fails with" in str(error.value)) == (error.value.__cause__ is not None)


def test_own_errors_and_a_lack_of_memory_pass() -> None:
    with pytest.raises(ValueError, match=r"^layer: 'conv1' is not one a map is read from"):
        found(OURS, {"layer": "conv1"})
    with pytest.raises(ValueError, match=r"^target: identity 7 is not among the model's 3"):
        found(OURS, labels=torch.tensor([0, 1, 2, 7]))
    with pytest.raises(
        ValueError, match=r"^explainer_args\.layer='backbone.layer9': the model has no such layer"
    ):
        found("captum.attr.GuidedGradCam", {"layer": "backbone.layer9"})
    before = states()
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory$"):
        found(f"{HERE}Fails")
    with pytest.raises(MemoryError):
        found(f"{HERE}Fails", attribute={"gpu": False})
    assert states() == before


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_a_layer_by_name_for_a_method_that_takes_the_model() -> None:
    template = found("captum.attr.GuidedGradCam", {"layer": "backbone.layer3"})
    net = recogniser()
    direct = GuidedGradCam(net, net.get_submodule("backbone.layer3"))
    maps = direct.attribute(ready(faces()), target=IDENTITIES)
    torch.testing.assert_close(template.raw, mean_saliency(maps, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "attribute"),
    [
        (f"{HERE}Draws", {}),
        ("captum.attr.ShapleyValueSampling", {"n_samples": 1, "perturbations_per_eval": 64}),
    ],
)
def test_what_a_method_draws_comes_from_the_seed(method: str, attribute: dict[str, Any]) -> None:
    net, images = shaken(seeded_net(Classifier)), faces(2, size=8)
    before = states()
    first, again, other = (
        found(method, attribute=attribute, net=net, images=images, seed=s) for s in (0, 0, 1)
    )
    assert states() == before
    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
    later = found(method, attribute=attribute, net=net, images=images)
    assert torch.equal(first.raw, again.raw)
    assert torch.equal(first.raw, later.raw)
    assert not torch.equal(first.raw, other.raw)


def test_every_step_draws_anew() -> None:
    net, images = shaken(seeded_net(Classifier)), faces(2, size=8)
    both, alone = (found(f"{HERE}Draws", net=net, images=i, batch_size=1).raw for i in (images, images[:1]))
    assert not torch.equal(both, alone), "the mean of two equal maps is that map"


def test_contrastive_with_mates_takes_the_mean_of_other_identities() -> None:
    net, images, mates = recogniser(), faces(), faces(seed=1)
    template = found(OURS, {"contrastive": True}, net=net, mates=mates)
    embed: Any = net.embed
    with torch.no_grad():
        unit, mate = F.normalize(embed(ready(images))), embed(ready(mates))
    others = torch.stack(
        [unit[[1, 2]].mean(0), unit[[0, 2, 3]].mean(0), unit[[0, 1, 3]].mean(0), unit[[1, 2]].mean(0)]
    )
    maps = ExcitationBackprop(net, contrastive=True).attribute(ready(images), mate, others)
    torch.testing.assert_close(template.raw, mean_saliency(maps, 32), rtol=0, atol=1e-4)
    one_by_one = found(OURS, {"contrastive": True}, net=net, mates=mates, batch_size=1)
    torch.testing.assert_close(one_by_one.raw, template.raw, rtol=0, atol=1e-3)
    assert not torch.allclose(found(OURS, net=net, mates=mates).raw, template.raw, atol=0.05)
    with pytest.raises(
        ValueError, match=r"^target=mate: a contrastive map needs faces of other identities, and all 4 show"
    ):
        found(OURS, {"contrastive": True}, net=net, mates=mates, labels=torch.zeros(4, dtype=torch.int64))


def test_a_mate_for_captums_methods() -> None:
    net = recogniser()
    for method, args, attribute in (
        ("captum.attr.LayerGradCam", {"layer": "backbone.layer2"}, {}),
        ("captum.attr.Occlusion", {}, {"sliding_window_shapes": [3, 16, 16], "strides": [3, 16, 16]}),
    ):
        one, two = (found(method, args, attribute, net=net, mates=faces(seed=s)).raw for s in (1, 2))
        assert not torch.equal(one, two), method


def test_faces_without_a_map_are_counted() -> None:
    images = faces()
    images[2] = 0  # x · gradient is 0 where x is 0
    template = found("captum.attr.InputXGradient", images=images, mean=0.0, std=1.0)
    assert template.constant == 1
    assert found(OURS).constant == 0
