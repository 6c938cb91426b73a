"""A network's training pass as CUDA graphs: launched at once, not kernel by kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_app.networks.backbones import Backbone

log = logging.getLogger("faceveil")
_MOST = 8  # shapes that are captured; each keeps its activations
Pass = Callable[..., Tensor]


class GraphedBackbone:
    """Run a backbone's forward and backward as CUDA graphs, captured at the first batch of each shape.

    Kernels of small networks and batches are shorter than it takes to launch them: of a ResNet-34 at 112 px, 128 images
    a step, an H200 was idle 86 % of the time. The numbers are those of the same kernels launched one by one. What
    cannot be captured is run as usual, and a line says why.

    It is no module: neither in the state dict nor in the optimiser.

    Args:
        backbone: whose parameters stay where they are from the first batch on.

    Source: torch.cuda.make_graphed_callables.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._made: dict[object, Pass] = {}
        self._told = False

    def __call__(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed images, in training mode with gradients on a GPU by a graph, else as the backbone does.

        What is returned is overwritten by the next call.

        Args:
            image: `[B,C,H,W]`, normalised.
            mask: `[M,1,H,W]`, 1 = visible; None means all visible.
            mask_index: `[B]` int64 into the masks.

        Returns:
            `[B,D]`.
        """
        if not (self.backbone.training and torch.is_grad_enabled() and image.is_cuda):
            return self.backbone(image, mask, mask_index)  # type: ignore[no-any-return]
        args = (image,) if mask is None or not self.backbone.looks_at_masks else (image, mask, mask_index)
        given = [arg for arg in args if arg is not None]
        key = (
            len(args),
            *((arg.shape, arg.dtype, arg.stride()) for arg in given),
            torch.get_autocast_dtype("cuda"),
        )
        if key not in self._made:
            if len(self._made) >= _MOST:
                return self.backbone(*args)  # type: ignore[no-any-return]
            self._made[key] = self._captured(args) if len(given) == len(args) else self.backbone
        return self._made[key](*args)

    def _captured(self, args: tuple[Any, ...]) -> Pass:
        """Capture the pass for batches of this shape; the backbone itself where that cannot be."""
        if any(isinstance(part, _DropoutNd) and part.p > 0 for part in self.backbone.modules()):
            return self._tell("it has dropout, whose draws are another at every step")
        before = [buffer.clone() for buffer in self.backbone.buffers()]
        try:
            with torch.autocast(
                "cuda",
                dtype=torch.get_autocast_dtype("cuda"),
                enabled=torch.is_autocast_enabled("cuda"),
                cache_enabled=False,  # weights are cast within the graph, at every step
            ):
                made: Any = torch.cuda.make_graphed_callables(
                    _Pass(self.backbone), tuple(arg.detach().clone() for arg in args)
                )
        except RuntimeError as error:
            return self._tell(str(error).splitlines()[0])
        finally:
            # the passes that warm up count as batches in the statistics of batch norms: take them back
            with torch.no_grad():
                for buffer, kept in zip(self.backbone.buffers(), before, strict=True):
                    buffer.copy_(kept)
        captured: Pass = made
        return captured

    def _tell(self, reason: str) -> Pass:
        if not self._told:
            self._told = True
            log.warning("cuda_graphs: this network cannot be captured (%s): it is trained as usual.", reason)
        return self.backbone


class _Pass(nn.Module):
    """A backbone's forward, for `make_graphed_callables` to replace in place of the backbone's own."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, *args: Tensor) -> Tensor:
        """Embed images."""
        return self.backbone(*args)  # type: ignore[no-any-return]
