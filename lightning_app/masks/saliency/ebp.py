"""Excitation backprop on ResNets: where in a face the recogniser looked, as a captum attribution.

Source: Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018 (marginal: section 3.2,
contrastive: section 3.3); Williford et al., "Explainable Face Recognition", ECCV 2020 (a mate's embedding as
the target). Which choices are ours: design, section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from lightning_app.masks.saliency.ebp_layers import (
    STAGES,
    Block,
    Layer,
    Ledger,
    Pool,
    Row,
    Stem,
    average_back,
    exact_fp32,
    resnet_within,
)
from lightning_app.networks import Head


@dataclass(frozen=True)
class _Classes:
    """What a class target needs of a head: how many there are, and `[B]` classes to their weights `[B,D]`."""

    classes: int
    weight_of: Callable[[Tensor], Tensor]


class ExcitationBackprop(Attribution):  # type: ignore[misc]  # captum ships no types
    """Excitation backprop: the marginal winning probability of every cell of a feature map.

    Each image starts with mass 1 at its target and passes it down: convolutions and linear layers share it out
    as `p_in = x ⊙ W₊ᵀ(p_out / (W₊ x))`, without bias; batch norms (running statistics) are folded into the
    convolution before them; residual sums split it in proportion to their branches clamped at 0; the average
    pool is a linear layer; the max pool passes it as the gradient does, and ReLU unchanged, for a cell at 0 has
    no mass. Where W₊x is 0 mass is lost; `conservation` says how much.

    Always fp32 (autocast and TF32 are off inside) and always in evaluation, whatever mode the model is in. The
    model's weights, mode, gradients and hooks are left alone; weights are folded anew at every call, which costs
    some per cent of a batch and can never be out of date.

    Args:
        model: a recogniser (`.backbone` and `.head`), a backbone alone, or torchvision's ResNet; made of basic or
            bottleneck blocks, without gates.
        layer: where the map is read, the output of `relu` (stem), `maxpool`, `layer1` … `layer4` or of one block
            such as `layer2.1`. Not the pixels: the rule needs inputs ≥ 0.
        contrastive: subtract the map of what speaks against the target, and clamp at 0 (see `attribute`).

    Raises:
        ValueError: another kind of network, one with gates, or an unknown layer.
    """

    def __init__(self, model: nn.Module, layer: str = "maxpool", contrastive: bool = False) -> None:
        super().__init__(model)
        self.model, self.layer, self.contrastive = model, layer, contrastive
        known = self._names()
        if self._position() is None:
            stages = ", ".join(f"{s}.0 … {s}.{sum(k.startswith(s) for k in known) - 1}" for s in STAGES)
            raise ValueError(
                f"layer: {layer!r} is not one a map is read from; choose relu (the stem's output), maxpool, "
                f"{', '.join(STAGES)} or a block: {stages}"
            )

    @torch.no_grad()
    def attribute(self, inputs: Tensor, target: int | Tensor, nonmate: Tensor | None = None) -> Tensor:
        """Return a saliency map of each image.

        Args:
            inputs: `[B,C,H,W]` float, normalised.
            target: classification: the identity, one for all images or `[B]` int64. Verification: `[B,D]` float,
                a mate's embedding; mass then starts in proportion to ReLU(embedding) ⊙ ReLU(mate).
            nonmate: `[B,D]` float, somebody else's embedding, for contrastive verification only. There is no
                default: taken from the batch it would make a map depend on its neighbours.

        Returns:
            `[B,1,h,w]` fp32 ≥ 0 at the layer's resolution, channels summed; it sums to 1 less what was lost,
            to 0 where the target excites nothing. Contrastive: the difference to the map of the identity's
            negated weights (classification) or of the nonmate (verification), clamped at 0. Read at a strided
            layer it shows a checkerboard when enlarged: see `lightning_app.masks.saliency.template.enlarge`.

        Raises:
            ValueError: inputs or target of the wrong kind, shape or range, a class target without a head, a
                nonmate missing or out of place, values that are not finite.
        """
        return self._map(inputs, target, nonmate, None)

    @torch.no_grad()
    def conservation(self, inputs: Tensor, target: int | Tensor) -> list[Row]:
        """Return where the mass goes, layer by layer, from the target down; marginal also where `contrastive` is set.

        Args:
            inputs: as in `attribute`.
            target: as in `attribute`.

        Returns:
            (name, mass `[B]`, lost `[B]`) per layer: ΣP below it and what was lost in it, so that mass + lost is
            the mass of the row before, and 1 in the first row. Within a block the mass is that of both its ways.

        Raises:
            ValueError: as `attribute`.
        """
        ledger = Ledger()
        self._map(inputs, target, None, ledger)
        return ledger.rows

    def _map(
        self, inputs: Tensor, target: int | Tensor, nonmate: Tensor | None, ledger: Ledger | None
    ) -> Tensor:
        self._check_inputs(inputs)
        contrastive = self.contrastive and ledger is None
        with exact_fp32(inputs.device):
            x = inputs.float()
            passed: list[Layer] = []
            position = self._position()
            assert position is not None
            for number, layer in enumerate(self._layers()):
                x = layer.forward(x, keep=number > position)
                if number > position:
                    passed.append(layer)
            embedding = x.mean(dim=(2, 3))  # [B,D]
            if not bool(embedding.isfinite().all()):
                raise ValueError(self._not_finite(inputs))
            p, lost = self._start(embedding, target)
            if contrastive:
                p = p - self._against(embedding, target, nonmate)
            elif nonmate is not None:
                raise ValueError(
                    "nonmate: only contrastive maps need it; set contrastive=True or leave it out"
                )
            if ledger is not None:
                ledger.add("target", (p,), lost)
            p, lost = average_back(p, x)
            if ledger is not None:
                ledger.add("avgpool", (p,), lost)
            del x
            while passed:  # popped, so that what a layer kept is freed once it is passed
                p = passed.pop().back(p, ledger)
        return p.sum(dim=1, keepdim=True).clamp_(min=0)

    def _start(self, embedding: Tensor, target: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return P of the embedding `[B,D]`, of sum 1 or 0, and what is lost by it `[B]`."""
        if isinstance(target, Tensor) and target.is_floating_point():
            return _shared(embedding * _embeddings("target", target, embedding).relu())
        return _shared(embedding * self._identity_weights(embedding, target).relu())

    def _against(self, embedding: Tensor, target: int | Tensor, nonmate: Tensor | None) -> Tensor:
        """Return what a contrastive map takes off P of the embedding, `[B,D]`."""
        if not (isinstance(target, Tensor) and target.is_floating_point()):
            if nonmate is not None:
                raise ValueError("nonmate: goes with a mate's embedding as target, not with identities")
            return _shared(embedding * self._identity_weights(embedding, target).neg().relu())[0]
        if nonmate is None:
            raise ValueError(
                "nonmate: contrastive maps for a mate need somebody else's embedding beside it; give [B, D], "
                "for instance the mean embedding of other identities"
            )
        return _shared(embedding * _embeddings("nonmate", nonmate, embedding).relu())[0]

    def _identity_weights(self, embedding: Tensor, target: int | Tensor) -> Tensor:
        """Return the head's weights `[B,D]` (fp32) for each image's identity."""
        head = _head_of(self.model)
        if head is None:
            raise ValueError(
                "target: an identity needs a model with a classification head, this one has none; give a model "
                "trained on identities, or [B, D] embeddings of mates as target"
            )
        number = torch.as_tensor(target, device=embedding.device)
        if number.dtype == torch.bool or number.is_floating_point() or number.is_complex():
            raise ValueError(
                f"target: {number.dtype} is neither identities (integers) nor embeddings [B, D] (floats)"
            )
        if number.ndim > 1 or (number.ndim == 1 and len(number) != len(embedding)):
            raise ValueError(
                f"target: shape {list(number.shape)} for {len(embedding)} images; give one identity, or [B] of them"
            )
        number = number.long().expand(len(embedding))
        low, high = (int(number.min()), int(number.max())) if len(number) else (0, 0)
        if low < 0 or high >= head.classes:
            raise ValueError(
                f"target: identity {low if low < 0 else high} is not among the model's {head.classes} "
                f"(0 … {head.classes - 1})"
            )
        weights = head.weight_of(number).detach().float()
        if not bool(weights.isfinite().all()):
            raise ValueError(
                "model: the head's weights are not finite; use a checkpoint from before it diverged"
            )
        return weights

    def _names(self) -> list[str]:
        backbone = resnet_within(self.model)
        blocks = ((f"{s}.{i}" for i in range(len(getattr(backbone, s)))) for s in STAGES)
        return ["relu", "maxpool", *chain.from_iterable(blocks)]

    def _position(self) -> int | None:
        """Return the index of the layer the map is read from, a stage being its last block; None if unknown."""
        names = self._names()
        found = [i for i, name in enumerate(names) if self.layer in (name, name.split(".")[0])]
        return found[-1] if found else None

    def _layers(self) -> list[Layer]:
        resnet = resnet_within(self.model)
        stem = Stem(resnet.get_submodule("conv1"), resnet.get_submodule("bn1"))
        blocks = [Block(name, resnet.get_submodule(name)) for name in self._names()[2:]]
        return [stem, Pool("maxpool", resnet.get_submodule("maxpool")), *blocks]

    def _check_inputs(self, inputs: Tensor) -> None:
        weight = resnet_within(self.model).get_parameter("conv1.weight")
        if inputs.ndim != 4 or inputs.shape[1] != weight.shape[1] or not inputs.is_floating_point():
            raise ValueError(
                f"inputs: {inputs.dtype} of shape {list(inputs.shape)}; give normalised images, floats of shape "
                f"[B, {weight.shape[1]}, H, W]"
            )
        if inputs.device != weight.device:
            raise ValueError(
                f"inputs: on {inputs.device}, the model is on {weight.device}; bring them together"
            )

    def _not_finite(self, inputs: Tensor) -> str:
        if not bool(inputs.isfinite().all()):
            return "inputs: hold NaN or infinite values"
        tensors = chain(self.model.named_parameters(), self.model.named_buffers())
        bad = next((name for name, value in tensors if not bool(value.isfinite().all())), None)
        if bad is None:
            return "model: its embeddings of these images are not finite; are they normalised as in training?"
        return f"model: {bad} holds NaN or infinite values; use a checkpoint from before it diverged"


def _head_of(model: nn.Module) -> _Classes | None:
    head = getattr(model, "head", None)
    if isinstance(head, Head):
        return _Classes(head.num_classes, head.weight_of) if head.num_classes else None
    for linear in (head, getattr(resnet_within(model), "fc", None)):  # torchvision's, or anybody's
        if isinstance(linear, nn.Linear):
            return _Classes(linear.out_features, linear.weight.__getitem__)
    return None


def _shared(excitation: Tensor) -> tuple[Tensor, Tensor]:
    """Scale `[B,D]` ≥ 0 to sum 1 per image; where it is 0 all of the mass is lost `[B]`."""
    total = excitation.sum(dim=1, keepdim=True)
    dead = total <= 0
    return excitation / total.masked_fill(dead, 1), dead[:, 0].float()


def _embeddings(name: str, given: Tensor, own: Tensor) -> Tensor:
    if given.shape != own.shape:
        raise ValueError(
            f"{name}: embeddings of shape {list(given.shape)}; this model needs {list(own.shape)} for these images"
        )
    if not bool(given.isfinite().all()):
        raise ValueError(f"{name}: holds NaN or infinite values")
    return given.detach().to(own)
