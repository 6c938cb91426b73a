"""A copy of a plain ResNet that only infers: batch norms folded, each convolution one step with what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck

from lightning_app.distributed.precision import computes_in
from lightning_app.networks.backbones import Backbone
from lightning_app.networks.backbones.resnet import INSERTION_POINTS, ResNetBackbone

_SMALL = 4  # side of the largest output map that is joined to strips for a 3×3 convolution in bf16 on the CPU
_STRIP = 16  # images joined to one strip


class InferenceBackbone(nn.Module):
    """What a plain `ResNetBackbone` computes in eval mode, faster; the backbone given is left as it is.

    Batch norms are folded into the convolutions before them, in fp32. On a CPU that has bf16 kernels, and in
    bf16, bias, sum and ReLU are part of the convolution (oneDNN), which otherwise cost a third of the time, and
    3×3 convolutions of maps of 4×4 or less see the maps of 16 images side by side, since oneDNN's convolution
    works row by row and such short rows fill a quarter of the CPU's tiles. Elsewhere they are torch's ordinary
    operations.

    Args:
        backbone: of torchvision's blocks, without gates.
        dtype: of the weights, and of the images it is then given.

    Raises:
        ValueError: the backbone depends on masks, is in training mode, or is no ResNet.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if not isinstance(backbone, ResNetBackbone):
            raise ValueError(f"backbone: {type(backbone).__name__} is no ResNet; only one can be folded")
        if backbone.looks_at_masks:
            raise ValueError(
                "backbone: has FSM gates or partial convolutions, which depend on the mask; only a plain one can be "
                "folded"
            )
        if backbone.training:
            raise ValueError(
                "backbone: is in training mode, and its batch norms would change; call eval() first"
            )
        blocks = [block for point in INSERTION_POINTS for block in getattr(backbone, point)]
        conv, bn = backbone.conv1, backbone.bn1
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, nn.BatchNorm2d)
        self.stem = _Step(conv, bn, True, dtype)
        self.maxpool, self.avgpool = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        self.blocks = nn.Sequential(*[_Block(block, dtype) for block in blocks])

    def forward(self, image: Tensor) -> Tensor:
        """Embed normalised images `[B,C,H,W]` of the weights' dtype: `[B,D]`."""
        return torch.flatten(self.avgpool(self.blocks(self.maxpool(self.stem(image)))), 1)


class _Block(nn.Module):
    def __init__(self, block: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        assert isinstance(block, BasicBlock | Bottleneck)
        names = "12" if isinstance(block, BasicBlock) else "123"
        pairs = [(getattr(block, f"conv{i}"), getattr(block, f"bn{i}")) for i in names]
        self.steps = nn.ModuleList(_Step(conv, bn, True, dtype) for conv, bn in pairs)
        down = block.downsample
        self.shortcut = None if down is None else _Step(down[0], down[1], False, dtype)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for step in self.steps[:-1]:
            out = step(out)
        last: Tensor = self.steps[-1](out, x if self.shortcut is None else self.shortcut(x))
        return last


class _Step(nn.Module):
    """Convolution with its batch norm folded in, then, where asked, a sum and a ReLU.

    The second operand of the sum is overwritten: no block needs its input after that.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d, relu: bool, dtype: torch.dtype) -> None:
        super().__init__()
        folded = fuse_conv_bn_eval(conv, bn)
        self.relu, self.kernel = relu, folded.kernel_size
        self.stride = [int(side) for side in folded.stride]
        self.padding = [int(side) for side in folded.padding]
        weight = folded.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        assert folded.bias is not None
        bias = folded.bias.detach().to(dtype)
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        self._packed: Tensor | None = None  # the weight as oneDNN wants it

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if x.dtype != torch.bfloat16 or not _has_fused_steps(x.device):
            return self._finish(F.conv2d(x, self.weight, self.bias, self.stride, self.padding), other)
        if self.kernel == (3, 3) and -(-max(x.shape[-2:]) // self.stride[0]) <= _SMALL:
            out = self._in_strips(x, "relu" if self.relu and other is None else "none")
            return out if other is None else self._finish(out, other)
        if other is None:
            return self._fused(x, "relu" if self.relu else "none")
        shape = self.padding, self.stride, [1, 1], 1
        overwrite = torch.ops.mkldnn._convolution_pointwise_.binary
        then = "relu" if self.relu else None
        return _tensor(overwrite(other, x, self._weight(x), self.bias, *shape, "add", 1.0, then, [], None))

    def _fused(self, x: Tensor, then: str) -> Tensor:
        shape = self.padding, self.stride, [1, 1], 1
        convolve = torch.ops.mkldnn._convolution_pointwise
        return _tensor(convolve(x, self._weight(x), self.bias, *shape, then, [], None))

    def _weight(self, x: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), self.padding, self.stride, [1, 1], 1, list(x.shape)
            )
        return self._packed

    def _finish(self, x: Tensor, other: Tensor | None) -> Tensor:
        if other is not None:
            x = x.add_(other)
        return x.relu_() if self.relu else x

    def _in_strips(self, x: Tensor, then: str) -> Tensor:
        """Convolve maps laid side by side, between them the column of zeros that is each one's padding."""
        count, channels, height, width = x.shape
        step = self.stride[0]
        gap = step - width % step if width % step else step  # at least 1, and every map starts on the stride
        joined = _STRIP if count % _STRIP == 0 else count
        strips = x.new_zeros(count // joined, height, joined, width + gap, channels)
        strips[..., :width, :] = x.permute(0, 2, 3, 1).unflatten(0, (-1, joined)).transpose(1, 2)
        found = self._fused(strips.flatten(2, 3).permute(0, 3, 1, 2), then).permute(0, 2, 3, 1)
        out = found.unflatten(2, (joined, -1))[:, :, :, : -(-width // step)]  # [S,h,J,w,O]
        maps: Tensor = out.transpose(1, 2).flatten(0, 1).permute(0, 3, 1, 2)
        return maps.contiguous(memory_format=torch.channels_last)


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _has_fused_steps(device: torch.device) -> bool:
    if device.type != "cpu" or not computes_in(torch.bfloat16, device):
        return False
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return all(hasattr(torch.ops.mkldnn, name) for name in names)
