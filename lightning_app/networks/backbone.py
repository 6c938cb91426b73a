"""torchvision's ResNets with room for gates after any of their four stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lightning_app.networks.fsm import FSM, Normaliser

BackboneName = Literal["resnet18", "resnet34", "resnet50"]
InsertionPoint = Literal["layer1", "layer2", "layer3", "layer4"]
INSERTION_POINTS: tuple[InsertionPoint, ...] = ("layer1", "layer2", "layer3", "layer4")
STEM = ("conv1", "bn1", "relu", "maxpool")
WIDTH = 64  # channels of torchvision's first stage
_LAYOUTS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class _Net(ResNet):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's ResNet with the channels of every stage scaled; the stem keeps its 64."""

    def __init__(self, name: str, width: int) -> None:
        self.width = width
        super().__init__(*_LAYOUTS[name])

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        scaled = planes // WIDTH * self.width  # 64, 128, 256 and 512 in torchvision's
        layer: nn.Sequential = super()._make_layer(block, scaled, *args, **kwargs)
        return layer


def feature_sizes(input_size: int) -> dict[InsertionPoint, int]:
    """Height (= width) of the feature map after each stage; 56, 28, 14 and 7 at 224 px."""
    # every stride-2 layer is padded, so it halves and rounds up, which divides by a power of 2 and rounds up
    return {point: -(-input_size // (4 << stage)) for stage, point in enumerate(INSERTION_POINTS)}


class Backbone(nn.Module):
    """A ResNet without its head: images in, embeddings (avgpool output) out, gated where asked.

    Module names are torchvision's (`conv1`, `layer1`, …), so that its state dicts load.

    Args:
        name: which of torchvision's networks.
        insertion_points: stages after which an FSM gates the feature map; empty for a plain ResNet.
        input_size: height and width of images and masks; only gates depend on it.
        normalise: how the FSMs come to (0,1).
        in_channels: channels of the image, a desensitizer's `out_channels`.
        width: channels of the first stage, 64 in torchvision's; the later ones, and the embedding, grow and shrink
            with it.

    Raises:
        ValueError: an unknown network or insertion point, a feature map too small for a gate, or a width below 1.
    """

    def __init__(
        self,
        name: BackboneName = "resnet34",
        insertion_points: Sequence[InsertionPoint] = (),
        input_size: int = 224,
        normalise: Normaliser = "sigmoid",
        in_channels: int = 3,
        width: int = WIDTH,
    ) -> None:
        super().__init__()
        if name not in _LAYOUTS:
            raise ValueError(f"backbone={name!r}: choose one of {', '.join(_LAYOUTS)}")
        if width < 1:
            raise ValueError(f"width: {width} is not a positive number of channels; torchvision's is {WIDTH}")
        net = _Net(name, width)
        for part in (*STEM, *INSERTION_POINTS):
            self.add_module(part, getattr(net, part))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        sizes = feature_sizes(input_size)
        channels = {p: getattr(self, p)[-1].bn1.num_features * _expansion(self, p) for p in INSERTION_POINTS}
        self.dim = channels["layer4"]
        self.gates = nn.ModuleDict()
        for point in insertion_points:
            if point not in INSERTION_POINTS:
                raise ValueError(f"insertion point {point!r}: choose among {', '.join(INSERTION_POINTS)}")
            if sizes[point] <= 1:
                raise ValueError(
                    f"insertion point {point!r}: the feature map of {input_size} px images is 1×1 there; "
                    "use larger images or an earlier insertion point"
                )
            self.gates[point] = FSM(channels[point], sizes[point], input_size, normalise)
        self._frozen: tuple[Tensor, dict[str, Tensor]] | None = None
        self._off: frozenset[str] = frozenset()

    def gate(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the gate of each mask at each insertion point.

        Args:
            mask: `[M,1,H,W]`, 1 = visible.

        Returns:
            insertion point → `[M,C,h,w]` in [0,1].
        """
        return {point: fsm(mask) for point, fsm in self.gates.items()}

    @torch.no_grad()
    def freeze_gate(self, mask: Tensor) -> None:
        """Cache the gate of a mask for inference; `train()` clears it.

        Args:
            mask: `[M,1,H,W]`, the only mask that `forward` then takes.

        Raises:
            RuntimeError: the network is in training mode, where the gate changes every step.
        """
        if self.training:
            raise RuntimeError("freeze_gate in training mode: call eval() first")
        self._frozen = (mask.detach().clone(), self.gate(mask))

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training or evaluation; training clears a frozen gate."""
        if mode:
            self._frozen = None
        super().train(mode)
        return self

    @contextmanager
    def gates_off(self, *points: str) -> Iterator[None]:
        """Leave gates out of `forward` while it lasts: each is then exactly 1, as with no mask.

        `gate` and `freeze_gate` still see them. Contexts within one another add up.

        Args:
            *points: insertion points; `*backbone.gates` for all, none leaves all on.

        Raises:
            ValueError: the network has no gate there.
        """
        unknown = [point for point in points if point not in self.gates]
        if unknown:
            raise ValueError(
                f"gates_off({unknown[0]!r}): this network has the gates {', '.join(self.gates) or '(none)'}; choose "
                "among these"
            )
        before = self._off
        self._off = before.union(points)
        try:
            yield
        finally:
            self._off = before

    def _gates_of(self, mask: Tensor) -> dict[str, Tensor]:
        if self._frozen is None:
            return {point: fsm(mask) for point, fsm in self.gates.items() if point not in self._off}
        frozen, gates = self._frozen
        if not torch.equal(mask, frozen):
            raise ValueError(
                "mask differs from the one the gate was frozen for: call freeze_gate with this mask, or train() "
                "to clear it"
            )
        return {point: gate for point, gate in gates.items() if point not in self._off}

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed images.

        Args:
            image: `[B,C,H,W]`, normalised.
            mask: `[M,1,H,W]`, 1 = visible; None means all visible, hence a gate of 1.
            mask_index: `[B]` int64, which mask lies on each image; may be None where M is 1 or B.

        Returns:
            `[B,D]`, the avgpool output.
        """
        gates = self._gates_of(mask) if mask is not None and len(self.gates) else {}
        x = image
        for stem in STEM:
            x = getattr(self, stem)(x)
        for point in INSERTION_POINTS:
            x = getattr(self, point)(x)
            if point in gates:
                x = apply_gate(x, gates[point], mask_index)
        return torch.flatten(self.avgpool(x), 1)


def _expansion(net: Backbone, point: InsertionPoint) -> int:
    return int(getattr(net, point)[-1].expansion)


def apply_gate(x: Tensor, gate: Tensor, mask_index: Tensor | None) -> Tensor:
    """Multiply a feature map by each image's gate.

    Args:
        x: `[B,C,h,w]`.
        gate: `[M,C,h,w]`.
        mask_index: `[B]` int64 into the M gates; None where M is 1 or B.

    Returns:
        `[B,C,h,w]` in x's dtype and memory format.

    Raises:
        ValueError: several gates, not one per image, and no `mask_index`.
    """
    gate = gate.to(x.dtype)
    if len(gate) == 1 or (mask_index is None and len(gate) == len(x)):
        return x * gate
    if mask_index is None:
        raise ValueError(
            f"{len(gate)} masks for {len(x)} images: mask_index says which lies on which; pass it"
        )
    return x * gate.index_select(0, mask_index)
