"""Learning from mixed labels: one of weight 1 is plain training, k are the written-out sum, on two ranks too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import MixUp
from lightning_app.models import ResNet
from lightning_app.networks import Backbone
from tests.desensitize.contract import faces

INDEX = (4, 9, 2, 7, 30, 31, 57, 8)


class Smooth(Backbone):
    """A convolution and a linear layer, no batch norm: each image on its own."""

    def __init__(self, in_channels: int = 3, input_size: int = 16) -> None:
        nn.Module.__init__(self)
        self.dim = 8
        self.conv, self.wide = nn.Conv2d(in_channels, 8, 3, stride=2), nn.Linear(8, 8)

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        embedding: Tensor = self.wide(torch.relu(self.conv(image)).mean((2, 3)))
        return embedding


class Plain(ResNet):
    """A recogniser of the small network, which logs nothing."""

    def configure_backbone(self, backbone: object, input_size: int, in_channels: int) -> Backbone:
        return Smooth()


def made(smoothing: float = 0.0) -> Plain:
    torch.manual_seed(3)
    return Plain(num_classes=8, input_size=16, label_smoothing=smoothing)


def gradients(batch: Batch, smoothing: float = 0.0) -> dict[str, Tensor]:
    model = made(smoothing)
    model._judged(batch)[0].backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def ready() -> Batch:
    return {**faces(16, INDEX), "mask": None, "mask_index": torch.zeros(8, dtype=torch.int64)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_label_of_weight_one_is_plain_training(smoothing: float) -> None:
    plain = ready()
    one = plain.copy()
    one["target"], one["weight"] = plain["identity"][:, None], torch.ones(8, 1)
    for first, second in zip(made(smoothing)._judged(plain), made(smoothing)._judged(one), strict=True):
        assert torch.equal(first, second), "loss, logits, accuracy, bit for bit"
    expected, found = gradients(plain, smoothing), gradients(one, smoothing)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name


@pytest.fixture
def mixing(tmp_path: Path) -> MixUp:
    make_key(tmp_path / "owner.key")
    return MixUp(3, key=tmp_path / "owner.key")


def test_the_loss_of_a_mix_is_the_written_out_sum(mixing: MixUp) -> None:
    batch = mixing(ready(), DrawKey(mix=True))
    loss, logits, accuracy, _ = made()._judged(batch)
    logs = F.log_softmax(logits.detach(), 1)
    rows = [
        -sum(float(w) * logs[i, t] for t, w in zip(batch["target"][i], batch["weight"][i], strict=True))
        for i in range(8)
    ]
    torch.testing.assert_close(loss.detach(), torch.stack(rows).mean())  # type: ignore[arg-type]
    heaviest = batch["target"][torch.arange(8), batch["weight"].argmax(1)]
    assert float(accuracy) == float((logits.argmax(1) == heaviest).float().mean())


def test_two_ranks_have_the_gradients_of_one_process_given_their_mixes(mixing: MixUp) -> None:
    """Each rank mixes within its share; DDP averages what they find."""
    whole = ready()
    shares: list[Batch] = []
    for at in (slice(0, 4), slice(4, 8)):
        part = Batch(image=whole["image"][at], identity=whole["identity"][at], index=whole["index"][at])
        shares.append(mixing(part, DrawKey(mix=True)))
        assert set(shares[-1]["target"].flatten().tolist()) == set(range(8)[at]), "of its own share alone"
    together = Batch(
        image=torch.cat([share["image"] for share in shares]), mask=None, mask_index=whole["mask_index"],
        target=torch.cat([share["target"] for share in shares]),
        weight=torch.cat([share["weight"] for share in shares]), identity=whole["identity"], index=whole["index"],
    )  # fmt: skip
    one, ranks = gradients(together), [gradients(share) for share in shares]
    assert {*one} >= {"backbone.conv.weight", "head.weight"}
    whole_gradient = torch.cat([gradient.flatten() for gradient in one.values()])
    averaged = torch.cat([(ranks[0][name] + ranks[1][name]).flatten() / 2 for name in one])
    # of all together: where parts of a weight's gradient cancel, it is made of rounding
    assert float((whole_gradient - averaged).norm() / whole_gradient.norm()) < 1e-5
