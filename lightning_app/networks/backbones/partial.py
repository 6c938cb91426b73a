"""A ResNet whose convolutions are partial: renormalised by what their windows see of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_app.networks.backbones.base import Backbone, apply_gate
from lightning_app.networks.backbones.resnet import INSERTION_POINTS, WIDTH, BackboneName, ResNetBackbone
from lightning_app.networks.fsm import Normaliser
from lightning_app.networks.partial_conv import of_images

PartialUntil = Literal["stem", "layer1", "layer2", "layer3", "layer4"]
PARTIAL_UNTIL: tuple[PartialUntil, ...] = get_args(PartialUntil)


@dataclass(frozen=True)
class Window:
    """What the windows of one layer see of each mask; None where all of it is visible.

    Attributes:
        scale: `[M,1,h,w]`, window / Σm, what the layer's output is multiplied with.
        seen: `[M,1,h,w]` of 0 and 1, where the layer's output counts.
    """

    scale: Tensor | None
    seen: Tensor | None


class PartialResNet(ResNetBackbone):
    """A `ResNetBackbone` with partial convolutions up to a stage (Liu et al. 2018, formulas 1 and 2).

    `out = conv(x ⊙ m) · (window / Σm)` where the window sees a visible value, else 0; the new mask is 1 there. A
    window counts k·k cells. Those of the zero padding count as visible: under a mask of ones every factor is exactly
    1, and the network is the ResNet whose weights and names it has; but what sees padding alone stays hidden. (The
    authors count padding as hidden, which scales up a border even where nothing is hidden.) Max pooling takes the
    largest visible value. After a block its two ways are added where its last convolution sees anything, which is
    everywhere the shortcut does.

    All that depends on masks alone is computed once per distinct mask, without gradients, in float32.

    Args:
        name: which of torchvision's networks.
        input_size: height and width of images and masks.
        in_channels: channels of the image.
        width: channels of the first stage.
        until: the last part whose convolutions are partial; from there on they are ordinary, and see 0 where still
            nothing was seen.

    Raises:
        ValueError: an unknown part; see also `ResNetBackbone`.

    Source: Liu et al., "Image inpainting for irregular holes using partial convolutions", ECCV 2018.
    """

    def __init__(
        self,
        name: BackboneName = "resnet34",
        input_size: int = 224,
        in_channels: int = 3,
        width: int = WIDTH,
        until: PartialUntil = "layer4",
    ) -> None:
        super().__init__(name, input_size=input_size, in_channels=in_channels, width=width)
        if until not in PARTIAL_UNTIL:
            raise ValueError(f"partial_until={until!r}: choose one of {', '.join(PARTIAL_UNTIL)}")
        self.until = until

    _fixed: tuple[Tensor, list[Window]] | None = None
    _constant: bool = False

    @property
    def looks_at_masks(self) -> bool:
        """True: every partial convolution does."""
        return True

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed images; arguments as of every backbone. Without a mask all is visible, as in a ResNet."""
        if mask is None:
            return super().forward(image)
        alike = torch.compiler.is_exporting() or len(mask) in (1, len(image))
        if mask_index is None and not alike:
            raise ValueError(
                f"{len(mask)} masks for {len(image)} images: mask_index says which lies on which; pass it"
            )
        gates = self._gates_of(mask) if len(self.gates) else {}
        windows = iter(self._windows_of(mask))
        x = self._stem(_kept(image, mask, mask_index), windows, mask_index)
        for point in INSERTION_POINTS:
            if self._is_partial(point):
                for block in getattr(self, point):
                    x = _block(block, x, windows, mask_index)
            else:
                x = self.stage_of(point, x)
            if point in gates:
                x = apply_gate(x, gates[point], mask_index)
        return self.embedding_of(x)

    @torch.no_grad()
    def windows(self, mask: Tensor) -> list[Window]:
        """Compute what the layers' windows see of masks, layer by layer in the order of their use.

        Where every mask is seen whole from some layer on, the CPU leaves the multiplications by 1 out; a GPU would
        have to be waited for to know.

        Args:
            mask: `[M,1,H,W]`, 1 = visible.
        """
        with torch.autocast(mask.device.type, enabled=False):
            found = list(self._seen(mask.float()))
        if mask.device.type != "cpu" or torch.compiler.is_compiling():
            return found
        return [_without_ones(window) for window in found]

    def place_gates(
        self, insertion_points: Sequence[str], input_size: int, normalise: Normaliser = "sigmoid"
    ) -> Backbone:
        """Put an FSM after each of some stages, see `Backbone`; what was frozen is cleared, the windows too."""
        self._fixed, self._constant = None, False
        return super().place_gates(insertion_points, input_size, normalise)

    @torch.no_grad()
    def freeze_gate(self, mask: Tensor) -> None:
        """Cache what the windows see of a mask for inference; another mask then raises, `train()` clears it."""
        super().freeze_gate(mask)
        self._fixed = (mask.detach().clone(), [_without_ones(window) for window in self.windows(mask)])

    def hold_constant(self, mask: Tensor) -> None:
        """Take this mask for every image from now on, whatever `forward` is given: what an export writes."""
        self.freeze_gate(mask)
        self._constant = True

    def train(self, mode: bool = True) -> PartialResNet:
        """Switch to training or evaluation; training clears what was frozen."""
        if mode:
            self._fixed, self._constant = None, False
        super().train(mode)
        return self

    def _is_partial(self, part: str) -> bool:
        return PARTIAL_UNTIL.index(cast(PartialUntil, part)) <= PARTIAL_UNTIL.index(self.until)

    def _windows_of(self, mask: Tensor) -> list[Window]:
        if self._fixed is None:
            return self.windows(mask)
        frozen, found = self._fixed
        if not self._constant and not torch.equal(mask, frozen):
            raise ValueError(
                "mask differs from the one the windows were frozen for: call freeze_gate with this mask, or train() "
                "to clear it"
            )
        return found

    def _seen(self, mask: Tensor) -> Iterator[Window]:
        """Follow masks `[M,1,H,W]` through the layers, in the order in which `_stem` and `_block` ask for windows."""
        window = _window(self.conv1, mask)
        yield window
        seen = F.max_pool2d(_there(window.seen), 3, 2, 1)
        yield Window(None, seen)
        for point in INSERTION_POINTS:
            if not self._is_partial(point):
                return
            for block in getattr(self, point):
                for conv in _convolutions(block):
                    window = _window(conv, seen)
                    seen = _there(window.seen)
                    yield window

    def _stem(self, x: Tensor, windows: Iterator[Window], mask_index: Tensor | None) -> Tensor:
        window = next(windows)
        x = _kept(self.conv1(x), window.scale, mask_index)
        for part in ("bn1", "relu"):
            x = getattr(self, part)(x)
        # after the ReLU 0 is the least there is: a maximum over visible values ignores what is hidden
        next(windows)  # a pooled cell of hidden ones alone is 0 already
        pooled: Tensor = self.get_submodule("maxpool")(_kept(x, window.seen, mask_index))
        return pooled


def _block(block: nn.Module, x: Tensor, windows: Iterator[Window], mask_index: Tensor | None) -> Tensor:
    """Compute a residual block of maps that are 0 where nothing was seen; so is what it returns."""
    steps = _convolutions(block)
    out, window = x, Window(None, None)
    for number, conv in enumerate(steps, 1):
        window = next(windows)
        out = block.get_submodule(f"bn{number}")(_kept(conv(out), window.scale, mask_index))
        if number < len(steps):
            out = _kept(F.relu(out), window.seen, mask_index)
    shortcut = block.downsample
    if shortcut is not None:
        # a window of one cell: its factor is 1 where it is seen, and a map that is 0 elsewhere gives 0 there
        x = cast(nn.Module, shortcut)(x)
    return _kept(F.relu(out + x), window.seen, mask_index)


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    assert isinstance(block, BasicBlock | Bottleneck)
    names = ("conv1", "conv2") if isinstance(block, BasicBlock) else ("conv1", "conv2", "conv3")
    return [cast(nn.Conv2d, getattr(block, name)) for name in names]


def _window(conv: nn.Conv2d, mask: Tensor) -> Window:
    """Count what a convolution's windows see of masks `[M,1,H,W]` float32; padding counts as visible."""
    side, step, border = int(conv.kernel_size[0]), int(conv.stride[0]), int(cast(int, conv.padding[0]))
    if side == 1:
        return Window(None, mask[:, :, ::step, ::step])  # of one cell the factor is 1
    padded = F.pad(mask, (border,) * 4, value=1.0)
    if torch.compiler.is_exporting():  # ONNX has no divisor of one's own
        total = F.avg_pool2d(padded, side, step).mul(side * side).round()
    else:
        total = F.avg_pool2d(padded, side, step, divisor_override=1)
    return Window(side * side / total.clamp_min(1), F.max_pool2d(mask, side, step, border))


def _kept(x: Tensor, factor: Tensor | None, mask_index: Tensor | None) -> Tensor:
    return x if factor is None else x * of_images(factor, mask_index).to(x.dtype)


def _there(seen: Tensor | None) -> Tensor:
    assert seen is not None
    return seen


def _without_ones(window: Window) -> Window:
    scale, seen = (
        None if part is None or bool((part == 1).all()) else part for part in (window.scale, window.seen)
    )
    return Window(scale, seen)
