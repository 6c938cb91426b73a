"""`Recogniser`: what a batch teaches, how it is counted, and whose checkpoint is taken."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_app.core.batch import Batch, learnt
from lightning_app.models import ResNet
from lightning_app.models.base import Recogniser
from lightning_app.networks import Backbone, SoftmaxHead
from tests.networks.test_backbones import ToyBackbone
from tests.networks.test_heads import ToyHead, reference

CLASSES, SIZE = 4, 8


def small(**settings: Any) -> ResNet:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "backbone": partial(ToyBackbone, channels=8),
        "num_classes": CLASSES,
        "input_size": SIZE,
    }
    return ResNet(**(given | settings))


def batch(**more: Tensor) -> Batch:
    image = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    plain: dict[str, Any] = {
        "image": image, "identity": torch.tensor([0, 1, 3]), "index": torch.arange(3), "mask": None,
        "mask_index": torch.zeros(3, dtype=torch.int64),
    }  # fmt: skip
    made: Batch = plain | more  # type: ignore[assignment]
    return made


def logged(model: Recogniser, data: list[Batch], fitting: bool = True) -> dict[str, float]:
    """Run one epoch of batches through Lightning."""
    loader: Any = DataLoader(data, batch_size=None)  # type: ignore[arg-type]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    if fitting:
        trainer.fit(model, loader)
    else:
        trainer.validate(model, loader, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


MIXED = {
    "target": torch.tensor([[0, 1], [2, 2], [3, 0]]),
    "weight": torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]]),
}


def test_a_target_is_learnt_in_place_of_the_identity() -> None:
    target = torch.tensor([3, 2, 0])
    assert learnt(batch(target=target))[0] is target
    identity = batch()["identity"]
    assert learnt(batch(identity=identity)) == (identity, None)
    nobody = batch(target=target, identity=torch.full((3,), -1))
    model = small()
    expected = F.cross_entropy(model.train()(nobody["image"]), target)
    found = logged(small(), [nobody])
    assert found["train/loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    with pytest.raises(
        ValueError, match=r"target of shape \[3, 2\]: mixed labels need a weight of that shape"
    ):
        learnt(batch(target=MIXED["target"]))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_labels_are_trained_on_and_counted_by_the_heaviest(smoothing: float) -> None:
    mixed = batch(**MIXED)
    logits = small().train()(mixed["image"]).detach()
    found = logged(small(label_smoothing=smoothing), [mixed])
    assert found["train/loss"] == pytest.approx(
        reference(logits, MIXED["target"], MIXED["weight"], smoothing), rel=1e-5
    )
    right = logits.argmax(1) == torch.tensor([1, 2, 3])
    assert found["train/accuracy"] == pytest.approx(float(right.float().mean()))


def test_held_out_images_count_once_each_and_without_smoothing() -> None:
    first, second = batch(), batch(identity=torch.tensor([2, 2, 1]))
    second = {key: value[:1] if isinstance(value, Tensor) else value for key, value in second.items()}  # type: ignore[assignment]
    model = small(label_smoothing=0.3, dropout=0.5).eval()
    logits = torch.cat([model(first["image"]), model(second["image"])]).detach()
    identity = torch.cat([first["identity"], second["identity"]])
    found = logged(small(label_smoothing=0.3, dropout=0.5), [first, second], fitting=False)
    assert found["val/loss"] == pytest.approx(float(F.cross_entropy(logits, identity)), rel=1e-5)
    assert found["val/accuracy"] == pytest.approx(float((logits.argmax(1) == identity).float().mean()))


def test_a_seeded_head_is_drawn_as_the_linear_layer_was() -> None:
    model = small(num_classes=None)
    torch.manual_seed(7)
    head = model.make_head(CLASSES)
    torch.manual_seed(7)
    linear = nn.Linear(model.backbone.dim, CLASSES)
    assert isinstance(head, SoftmaxHead)
    assert torch.equal(head.weight, linear.weight)
    assert torch.equal(head.bias, linear.bias)


def test_an_old_checkpoint_knows_nothing_of_heads() -> None:
    trained, fresh = small(), small(num_classes=None)
    old = {key: value for key, value in trained.hparams.items() if key != "head"}
    state = trained.state_dict()
    fresh.on_load_checkpoint({"state_dict": state, "hyper_parameters": old})
    fresh.load_state_dict(state)
    image = batch()["image"]
    assert torch.equal(fresh.eval()(image), trained.eval()(image))
    with pytest.raises(ValueError, match=r"another head \(SoftmaxHead; yours: ToyHead"):
        small(head=ToyHead).on_load_checkpoint({"state_dict": state, "hyper_parameters": old})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"head": partial(ToyHead, scale=3.0)},
            r"another head \(ToyHead; yours: ToyHead, or other settings of it\)",
        ),
        (
            {"backbone": partial(ToyBackbone, channels=16)},
            r"another network \(ToyBackbone, no FSM, 8 px; yours: ToyB",
        ),
        (
            {"backbone": "resnet18"},
            r"another network \(ToyBackbone, no FSM, 8 px; yours: resnet18, no FSM, 8 px",
        ),
    ],
)
def test_a_checkpoint_of_another_part_is_refused(other: dict[str, Any], message: str) -> None:
    trained = small(head=ToyHead)
    saved = {"state_dict": trained.state_dict(), "hyper_parameters": dict(trained.hparams)}
    small(head=ToyHead).on_load_checkpoint(saved)
    with pytest.raises(ValueError, match=message) as error:
        small(**({"head": ToyHead} | other)).on_load_checkpoint(saved)
    assert "\n" not in str(error.value)


def test_without_a_head_it_embeds_only() -> None:
    trained, fresh = small(head=ToyHead), small(num_classes=None)
    state = {key: value for key, value in trained.state_dict().items() if not key.startswith("head.")}
    fresh.on_load_checkpoint({"state_dict": state, "hyper_parameters": dict(trained.hparams)})
    assert fresh.classes_in(state) is None
    assert fresh.embed(batch()["image"]).shape == (3, fresh.backbone.dim)
    with pytest.raises(ValueError, match="without the head: they embed, and do not classify"):
        fresh(batch()["image"])
    assert logged(fresh, [batch()], fitting=False) == {}


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="ToyHead smooths no labels"):
        small(head=ToyHead, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"backbone: .* is no Backbone class; give a class_path"):
        small(backbone=lambda channels, size: ToyBackbone(channels, size))
    with pytest.raises(ValueError, match=r"num_classes: give it, or train on a DataModule that has it"):
        logged(small(num_classes=None), [batch()])


def test_parts_are_described_in_the_settings() -> None:
    description = small(head=partial(ToyHead, scale=2.0)).hparams
    assert description["head"] == {
        "class_path": "tests.networks.test_heads.ToyHead",
        "init_args": {"scale": 2.0},
    }
    assert description["backbone"] == {
        "class_path": "tests.networks.test_backbones.ToyBackbone",
        "init_args": {"channels": 8},
    }
    plain = ResNet(backbone="resnet18", width=8, input_size=32)
    assert (plain.hparams["backbone"], plain.hparams["head"]) == ("resnet18", None)
    assert isinstance(plain.backbone, Backbone)
