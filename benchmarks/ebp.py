"""Excitation backprop against three forward passes and captum's LRP, and its memory against a training step's.

ResNet-34, 112 px, 32 faces, maps read at the max pool. A convolutional network takes a forward pass and, for each
convolution above the read-out, two more convolutions (W₊x and the way back): three forward passes in all, which
is the arithmetic of either side. That is the bound: 1.1 of them. Captum's LRP does the same convolutions, its own
forward pass with hooks on every layer and some passes over memory beside them: it is beaten (bound 1 in a batch, as
we call it for the comparison, and one by one, as its rules are written), but never by more than it spends beyond three.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from typing import Any

import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck

from benchmarks.timing import Row, interleaved
from lightning_app.masks.saliency.ebp import ExcitationBackprop

CLASSES = 100
TINY: dict[str, Any] = {"repeats": 1, "network": "resnet18", "faces": 2, "size": 32, "memory": False}
TINY_SLOW: dict[str, Any] = TINY | {"memory": True}
_BOUND = 1.1  # of three forward passes


class Sum(nn.Module):
    """The residual sum as a module, for LRP has rules for modules only; under `ClampedRule` it clamps."""

    clamped = False

    def forward(self, branch: Tensor, identity: Tensor) -> Tensor:
        """Add two `[B,C,h,w]`."""
        return branch.relu() + identity.relu() if self.clamped else branch + identity


class ClampedRule(EpsilonRule):  # type: ignore[misc]  # captum ships no types
    """Share relevance in proportion to the branches clamped at 0, as excitation backprop does."""

    def _manipulate_weights(self, module: Sum, inputs: object, outputs: object) -> None:
        module.clamped = True  # captum runs the network twice: first as it is, then with what this changes


class LrpBlock(nn.Module):
    """torchvision's residual block with a ReLU per use, not in place, and folded batch norms."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        numbers = (1, 2, 3) if isinstance(block, Bottleneck) else (1, 2)
        names = [(f"conv{number}", f"bn{number}") for number in numbers]
        parts: list[nn.Module] = []
        for conv, norm in names:
            parts += [_fused(getattr(block, conv), getattr(block, norm)), nn.ReLU()]
        self.branch = nn.Sequential(*parts[:-1])
        down = getattr(block, "downsample", None)
        self.shortcut = _fused(*down) if isinstance(down, nn.Sequential) else None
        self.sum, self.relu = Sum(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return `[B,C',h',w']` of `[B,C,h,w]`."""
        y: Tensor = self.relu(self.sum(self.branch(x), x if self.shortcut is None else self.shortcut(x)))
        return y


class LrpTail(nn.Module):
    """A torchvision ResNet from the stem's output or the max pool's up, rebuilt as captum's LRP needs it."""

    def __init__(self, resnet: nn.Module, pool: bool = False) -> None:
        super().__init__()
        resnet = copy.deepcopy(resnet).eval()
        stages = [resnet.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)]
        blocks = [LrpBlock(block) for stage in stages for block in stage.children()]
        before = [resnet.get_submodule("maxpool")] if pool else []
        self.features = nn.Sequential(*before, *blocks, resnet.get_submodule("avgpool"))
        self.fc = resnet.get_submodule("fc")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[B,classes]` of `[B,64,h,w]`."""
        logits: Tensor = self.fc(self.features(x).flatten(1))
        return logits

    def relevance(self, x: Tensor, target: Tensor, clamp: bool = True) -> Tensor:
        """Return LRP's map `[B,1,h,w]` of a feature map, of sum 1 where nothing is lost.

        Args:
            x: `[B,64,h,w]` ≥ 0.
            target: `[B]` int64.
            clamp: whether residual sums share by clamped branches, else by the branches as they are.
        """
        for module in self.modules():  # captum deletes rules after every call
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
            elif isinstance(module, Sum):
                module.rule, module.clamped = (ClampedRule() if clamp else EpsilonRule()), False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "required_grads has been set automatically"
            found, delta = LRP(self).attribute(x.clone(), target=target, return_convergence_delta=True)
        found = found.detach().sum(1, keepdim=True)
        logit = (delta.detach() + found.flatten(1).sum(1)).view(-1, 1, 1, 1)  # which captum multiplies by
        relevance: Tensor = found / logit
        return relevance


def stem(resnet: nn.Module, x: Tensor) -> Tensor:
    """Return the output `[B,64,h,w]` of a torchvision ResNet's stem, max pool excluded."""
    for name in ("conv1", "bn1", "relu"):
        x = resnet.get_submodule(name)(x)
    return x


def _fused(conv: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)


def _timed(repeats: int, network: str, count: int, size: int) -> list[Row]:
    torch.manual_seed(0)
    net = get_model(network, weights=None, num_classes=CLASSES).eval()
    tail, ebp = LrpTail(net), ExcitationBackprop(net)
    faces, target = torch.randn(count, 3, size, size), torch.arange(count) % CLASSES

    def ours() -> Tensor:
        found: Tensor = ebp.attribute(faces, target)
        return found

    def lrp(images: Tensor, identities: Tensor) -> Tensor:
        with torch.no_grad():
            below = net.get_submodule("maxpool")(stem(net, images))
        return tail.relevance(below, identities)

    def one_by_one() -> None:
        for face, identity in zip(faces.split(1), target.split(1), strict=True):
            lrp(face, identity)

    @torch.no_grad()
    def three_passes() -> None:
        for _ in range(3):
            net(faces)

    together, apart = lrp(faces, target), ours()
    difference = float((together - apart).abs().max() / together.max())
    what = f"{network}, {size} px, {count} faces"
    note = f"largest difference {difference:.1e} of the largest value"
    arithmetic = interleaved(three_passes, lambda: lrp(faces, target), repeats).ratio
    return [
        Row(f"EBP ÷ three forward passes, {what}", *interleaved(ours, three_passes, repeats), bound=_BOUND,
            note="its arithmetic: the way up, and W₊x and the way back of every convolution"),
        Row(f"EBP ÷ captum LRP in a batch, {what}", *interleaved(ours, lambda: lrp(faces, target), repeats), bound=1,
            note=f"{note}; three forward passes ÷ the same peer: {arithmetic:.2f}"),
        Row(f"EBP ÷ captum LRP one by one, {what}", *interleaved(ours, one_by_one, repeats), bound=1, note=note),
    ]  # fmt: skip


_STEP = """
import sys, torch
from torchvision.models import get_model
from lightning_app.core.memory import peak_memory as peak
from lightning_app.masks.saliency.ebp import ExcitationBackprop
what, network, count, size, classes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.manual_seed(0)
net = get_model(network, weights=None, num_classes=classes)
faces, target = torch.randn(count, 3, size, size), torch.arange(count) % classes
before = peak()
if what == "ebp":
    for _ in range(2):
        ExcitationBackprop(net).attribute(faces, target)
else:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(faces), target).backward()
        optimizer.step()
print("PEAK", peak() - before)
"""


def _peak(what: str, network: str, count: int, size: int) -> int:
    """Return by how many bytes two steps of `ebp` or `fit` raise the peak of a process of their own."""
    command = [sys.executable, "-c", _STEP, what, network, str(count), str(size), str(CLASSES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, f"two steps of {what}: {done.stderr.strip().splitlines()[-1:]}"
    return int(next(line for line in done.stdout.splitlines() if line.startswith("PEAK")).split()[1])


def measure(
    repeats: int = 3, network: str = "resnet34", faces: int = 32, size: int = 112, memory: bool = True
) -> list[Row]:
    """Return a row against three forward passes, two against captum, and one for memory (in GB).

    Args:
        repeats: timed runs of each.
        network: of torchvision.
        faces: of a batch.
        size: side of the images in pixels.
        memory: measure it too, in processes of their own.
    """
    rows = _timed(repeats, network, faces, size)
    return [*rows, _memory(repeats, network, faces, size)] if memory else rows


def _memory(repeats: int, network: str, faces: int, size: int) -> Row:
    pairs = [
        (_peak("ebp", network, faces, size), max(1, _peak("fit", network, faces, size)))
        for _ in range(repeats)
    ]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    ours, theirs = (sorted(column)[repeats // 2] for column in zip(*pairs, strict=True))
    note = "memory beyond that of the process before, fp32, SGD with momentum (the columns are GB)"
    return Row(
        f"memory of EBP ÷ a training step, {network}, {size} px, {faces} faces",
        ours / 1e9, theirs / 1e9, ratios[repeats // 2], ratios[0], ratios[-1], 2, note,
    )  # fmt: skip
