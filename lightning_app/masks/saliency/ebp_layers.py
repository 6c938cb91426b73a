"""The rules of excitation backprop, one small class per kind of layer, without autograd.

Every layer goes forward on its own folded weights and keeps what its way back needs; `back` takes the marginal
winning probability P above the layer to the one below it. Shapes: B images, C channels, h×w cells.

Source: Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018, section 3; design, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_app.networks import Backbone
from lightning_app.networks.backbones.partial import PartialResNet
from lightning_app.networks.backbones.resnet import ResNetBackbone

_KNOWN = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
STAGES = ("layer1", "layer2", "layer3", "layer4")
_PARTS = ("conv1", "bn1", "relu", "maxpool", *STAGES, "avgpool")
# Share of an image's largest W₊x below which a W₊x counts as 0: fast convolutions (Winograd on a GPU) leave
# rounding there instead of zeros, and P divided by rounding is noise. What arrives there is counted as lost.
_FLOOR = 1e-6
_WIDE = 10  # cells a side from which oneDNN convolves channels-last faster: a tenth off a whole map at 112 px
_TINY = torch.finfo(torch.float32).tiny  # makes 0 / 0 a 0; normal, so it stays where denormals are flushed

Row = tuple[str, Tensor, Tensor]  # layer, ΣP below it [B], mass lost in it [B]


class Ledger:
    """What became of each image's mass on the way down, layer by layer."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, name: str, parts: tuple[Tensor, ...], lost: Tensor) -> None:
        """Note a layer.

        Args:
            name: of the layer passed.
            parts: every P `[B,…]` alive below it, two within a residual block.
            lost: `[B]`, the mass that found no way down.
        """
        self.rows.append((name, torch.stack([p.flatten(1).sum(1) for p in parts]).sum(0), lost))


class Layer(Protocol):
    """One step of the network between the read-out and the embedding."""

    name: str

    def forward(self, x: Tensor, keep: bool) -> Tensor:
        """Go up: `[B,C,h,w]` ≥ 0 in, `[B,C',h',w']` ≥ 0 out; if asked, keep what `back` needs."""

    def back(self, p: Tensor, ledger: Ledger | None) -> Tensor:
        """Go down: P above the layer in (and used up), P below it out."""


@contextmanager
def exact_fp32(device: torch.device) -> Iterator[None]:
    """Switch autocast and cuDNN's TF32 off for a while: neither keeps 1e-4 of the mass."""
    tf32 = torch.backends.cudnn.allow_tf32
    with torch.autocast(device.type, enabled=False):
        try:
            if device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = False
            yield
        finally:
            if device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = tf32


@dataclass
class FoldedConv:
    """A convolution with the batch norm behind it (running statistics) folded in, in fp32.

    Folding comes before the positive part is taken: a negative scale of the batch norm turns a channel's
    excitatory weights into inhibitory ones.

    Attributes:
        weight: `[C',C/groups,kh,kw]`, a tensor of its own.
        bias: `[C']`.
        options: stride, padding, dilation and groups as torch's functions take them.
    """

    weight: Tensor
    bias: Tensor
    options: dict[str, Any]

    @classmethod
    def of(cls, conv: nn.Module, norm: nn.Module) -> FoldedConv:
        """Fold a batch norm into the convolution before it; neither is changed."""
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var.float() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.float()
        shift = -norm.running_mean.float()
        if conv.bias is not None:
            shift = shift + conv.bias.float()
        bias = shift * scale
        if norm.bias is not None:
            bias = bias + norm.bias.float()
        options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        return cls(conv.weight.float() * scale[:, None, None, None], bias, options | {"groups": conv.groups})

    def laid_out(self, layout: torch.memory_format) -> FoldedConv:
        """Bring the weight to a memory format; convolutions then answer in it, both ways."""
        self.weight = self.weight.contiguous(memory_format=layout)
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve `[B,C,h,w]` → `[B,C',h',w']`."""
        return F.conv2d(x, self.weight, self.bias, **self.options)

    def positive(self) -> FoldedConv:
        """Keep W₊ only, in place; after this `back` works and a call no longer does."""
        self.weight.clamp_(min=0)
        return self

    def back(self, p: Tensor, x: Tensor, account: bool) -> tuple[Tensor, Tensor | None]:
        """Share P out over the inputs: `x ⊙ W₊ᵀ(p / (W₊ x))`, no bias.

        Args:
            p: `[B,C',h',w']`, P of the outputs.
            x: `[B,C,h,w]` ≥ 0, the inputs.
            account: whether to count what is lost.

        Returns:
            P of the inputs `[B,C,h,w]`, and the mass lost where W₊x is 0 `[B]`, None unless asked for.
        """
        z = F.conv2d(x, self.weight, None, **self.options)
        dead = z <= z.amax(dim=(1, 2, 3), keepdim=True).mul_(_FLOOR)
        lost = (p * dead).flatten(1).sum(1) if account else None
        ratio = torch.div(p, z.masked_fill_(dead, torch.inf), out=z)
        below = conv2d_input(x.shape, self.weight, ratio, **self.options)
        return below.mul_(x), lost


class Stem:
    """`conv1`, `bn1`, `relu`; always above the pixels, never passed on the way down: they are negative too."""

    name = "relu"

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        self.conv = FoldedConv.of(conv, norm)

    def forward(self, x: Tensor, keep: bool) -> Tensor:
        """Compute `[B,C,H,W]` normalised pixels → `[B,64,h,w]` ≥ 0."""
        layout = _layout(x)
        return self.conv.laid_out(layout)(x.contiguous(memory_format=layout)).relu_()

    def back(self, p: Tensor, ledger: Ledger | None) -> Tensor:
        """Refuse: the rule needs inputs ≥ 0."""
        raise AssertionError("excitation backprop does not reach the pixels")


class Pool:
    """Max pool: P goes where the maximum was, as the gradient does."""

    def __init__(self, name: str, pool: nn.Module) -> None:
        assert isinstance(pool, nn.MaxPool2d)
        self.name, self.pool = name, pool

    def forward(self, x: Tensor, keep: bool) -> Tensor:
        """Compute `[B,C,h,w]` → `[B,C,h',w']`."""
        pool, self.shape = self.pool, x.shape
        options: dict[str, Any] = {"stride": pool.stride, "padding": pool.padding, "dilation": pool.dilation}
        options |= {"kernel_size": pool.kernel_size, "ceil_mode": pool.ceil_mode}
        if not keep:  # without indices it is faster
            y: Tensor = F.max_pool2d(x, **options)
            return y
        y, self.index = F.max_pool2d(x, **options, return_indices=True)
        return y

    def back(self, p: Tensor, ledger: Ledger | None) -> Tensor:
        """Send mass down, `[B,C,h',w']` → `[B,C,h,w]`; windows overlap, so what meets in a cell adds up."""
        below = p.new_zeros(self.shape).flatten(2)
        below.scatter_add_(2, self.index.flatten(2), p.flatten(2))
        if ledger is not None:
            ledger.add(self.name, (below,), p.new_zeros(len(p)))
        return below.view(self.shape)


class Block:
    """A residual block of torchvision's, basic or bottleneck.

    Args:
        name: `layer2.1` and so on.
        block: a `BasicBlock` or `Bottleneck`.
    """

    def __init__(self, name: str, block: nn.Module) -> None:
        assert isinstance(block, BasicBlock | Bottleneck)
        self.name, self.block = name, block

    def forward(self, x: Tensor, keep: bool) -> Tensor:
        """Compute `[B,C,h,w]` ≥ 0 → `[B,C',h',w']` ≥ 0; each weight is folded just before its use."""
        layout = _layout(x)
        x = x.contiguous(memory_format=layout)
        block, branch = self.block, x
        self.convs: list[FoldedConv] = []
        self.inputs: list[Tensor] = []
        for number in (1, 2, 3) if isinstance(block, Bottleneck) else (1, 2):
            above = branch.relu_() if number > 1 else x
            conv = FoldedConv.of(getattr(block, f"conv{number}"), getattr(block, f"bn{number}"))
            branch = conv.laid_out(layout)(above)
            if keep:
                self.convs.append(conv.positive())
                self.inputs.append(above)
        self.shortcut: FoldedConv | None = None
        identity = x
        if block.downsample is not None:
            shortcut = FoldedConv.of(*block.downsample)
            identity = shortcut.laid_out(layout)(x)
            self.shortcut = shortcut.positive()
        y = (branch + identity).relu_()
        if not keep:
            return y
        # share of the branch in the sum of both, each clamped at 0
        total = branch.relu_() + (identity if self.shortcut is None else identity.relu_())
        self.share = branch.div_(total.clamp_(min=_TINY))
        return y

    def back(self, p: Tensor, ledger: Ledger | None) -> Tensor:
        """Send mass down, `[B,C',h',w']` → `[B,C,h,w]`: split at the sum, both ways, together again at the input."""
        branch = p * self.share
        shortcut = p.sub_(branch)
        del self.share
        if ledger is not None:
            ledger.add(f"{self.name}.add", (branch, shortcut), p.new_zeros(len(p)))
        if self.shortcut is not None:
            shortcut, lost = self.shortcut.back(shortcut, self.inputs[0], ledger is not None)
            if ledger is not None and lost is not None:
                ledger.add(f"{self.name}.downsample", (branch, shortcut), lost)
        for number in range(len(self.convs), 0, -1):
            branch, lost = self.convs.pop().back(branch, self.inputs.pop(), ledger is not None)
            if ledger is not None and lost is not None:
                ledger.add(f"{self.name}.conv{number}", (branch, shortcut), lost)
        return branch.add_(shortcut)


def _layout(x: Tensor) -> torch.memory_format:
    wide = x.device.type == "cpu" and min(x.shape[-2:]) >= _WIDE
    return torch.channels_last if wide else torch.contiguous_format


def average_back(p: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take P through the average pool, a linear layer of equal weights.

    Args:
        p: `[B,D]`, P of the embedding.
        x: `[B,D,h,w]` ≥ 0, what was pooled.

    Returns:
        `[B,D,h,w]`, and the mass lost where a channel is 0 everywhere `[B]`.
    """
    total = x.sum(dim=(2, 3))
    dead = total <= 0
    ratio = torch.where(dead, 0, p / total.masked_fill(dead, 1))
    return x * ratio[:, :, None, None], (p * dead).sum(1)


def resnet_within(model: nn.Module) -> nn.Module:
    """Return the ResNet that the rules are written for: the model's `backbone`, or the model itself.

    Args:
        model: a recogniser, a backbone, or torchvision's ResNet.

    Raises:
        ValueError: another network, or one that depends on masks.
    """
    resnet = getattr(model, "backbone", model)
    fault = _fault(resnet)
    if fault:
        raise ValueError(
            f"model: excitation backprop does not know this {type(model).__name__} ({fault}); give a ResNet-18, "
            "34 or 50 without gates, such as the clean recogniser"
        )
    assert isinstance(resnet, nn.Module)
    return resnet


def _fault(resnet: object) -> str:
    if isinstance(resnet, Backbone) and not isinstance(resnet, ResNetBackbone):
        leaves = [part for part in resnet.named_modules() if not list(part[1].children())]
        name, layer = next((part for part in leaves if not isinstance(part[1], _KNOWN)), leaves[0])
        kind = type(resnet).__name__
        return f"its {kind} is no ResNet, and there is no rule for its {name}, a {type(layer).__name__}"
    missing = [part for part in _PARTS if not isinstance(getattr(resnet, part, None), nn.Module)]
    if missing or not isinstance(resnet, nn.Module):
        return f"it has no {missing[0]}"
    gates = getattr(resnet, "gates", None)
    if isinstance(gates, nn.ModuleDict) and len(gates):
        return f"it is gated after {', '.join(gates)}"
    if isinstance(resnet, PartialResNet):
        return "its convolutions are partial"
    for stage in STAGES:
        for name, block in resnet.get_submodule(stage).named_children():
            if not isinstance(block, BasicBlock | Bottleneck):
                return f"{stage}.{name} is a {type(block).__name__}"
    for name, module in resnet.named_modules():
        kind = name.rsplit(".", 1)[-1]
        if kind.startswith("bn") and getattr(module, "running_var", None) is None:
            return f"{name} is no batch norm with running statistics"
        if kind == "relu" and not isinstance(module, nn.ReLU):
            return f"{name} is a {type(module).__name__}"
    if not isinstance(resnet.maxpool, nn.MaxPool2d):
        return f"maxpool is a {type(resnet.maxpool).__name__}"
    if getattr(resnet.avgpool, "output_size", None) not in (1, (1, 1)):
        return "avgpool leaves more than one cell"
    return ""
