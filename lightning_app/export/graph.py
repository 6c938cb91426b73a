"""The network as it is run elsewhere: released pixels in, embeddings out, mask and gates constant; as ONNX."""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightning_app.core.normalise import normalised
from lightning_app.networks import Backbone

INPUT, MASK, OUTPUT = "image", "mask", "embedding"
OPSET = 18  # the exporter's own: nothing is converted, and every runtime since 2023 reads it
TOLERANCE = 1e-4  # greatest difference of a component, as a share of the embedding's length
LEAST_COSINE = 1 - 1e-6
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SMALLEST = 1e-12  # length below which an embedding is not divided by it, as torch's normalize has it
_SEED = 0x6F6E6E78
_VISIBLE = 0.3  # of the pixels of masks that are drawn to compare
Embed = Callable[[Tensor, Tensor | None], Tensor]


class Deployed(nn.Module):
    """From pixels in [0,1] to embeddings: mask, normalisation, backbone with constant gates, unit length.

    Where every image has a mask of its own (`each`) the mask is a second input: images are multiplied by it, and the
    gates are computed from it. The backbone given is left as it is.

    Args:
        backbone: in eval mode.
        mask: `[1,1,H,W]` of 0 (hidden) and 1 (visible), which the gates are computed for; None for gates of 1.
        desensitizes: multiply images by the mask.
        mean: subtracted from every channel then.
        std: what every channel is divided by then.
        unit: scale embeddings to length 1.
        each: take a mask for each image.

    Raises:
        ValueError: the backbone is in training mode, or there is nothing to desensitize with.
    """

    mask: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        mask: Tensor | None = None,
        multiplies: bool = False,
        mean: float = 0.5,
        std: float = 0.5,
        unit: bool = True,
        each: bool = False,
    ) -> None:
        super().__init__()
        if backbone.training:
            raise ValueError("backbone: is in training mode; call eval() first")
        if multiplies and mask is None:
            raise ValueError("desensitizes: True, but there is no mask to multiply images by")
        # weights as they lie in a file: the exporter would transpose channels_last ones at every run
        self.backbone = copy.deepcopy(backbone).to(memory_format=torch.contiguous_format)
        if backbone.foldable:
            _fold(self.backbone)
        self.gated = mask is not None and backbone.looks_at_masks
        if mask is not None:
            self.backbone.hold_constant(mask)
        self.each = each
        for point, fsm in () if each else backbone.gates.items():
            with torch.no_grad():
                self.backbone.gates[point] = _Constant(fsm(mask) if mask is not None else torch.ones(()))
        self.register_buffer("mask", mask)
        self.multiplies, self.unit, self.mean, self.std = multiplies, unit, mean, std
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed images `[B,C,H,W]` float32 in [0,1]: `[B,D]`; under masks `[B,1,H,W]`, where each has its own."""
        if mask is not None:
            image = image * mask
        elif self.multiplies and self.mask is not None:
            image = image * self.mask
        image = normalised(image, self.mean, self.std)
        gated_by = mask if self.each else self.mask if self.gated else None
        embedding: Tensor = self.backbone(image, gated_by)
        if not self.unit:
            return embedding
        length: Tensor = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
        return embedding / length.clamp_min(_SMALLEST)


def _fold(module: nn.Module) -> None:
    """Fold batch norms into the convolutions that stand right before them.

    The exporter does as much, but takes every norm to pieces first: half of its time.
    """
    before: tuple[nn.Module, str] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None:
            convolution = getattr(*before)
            setattr(*before, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, nn.Identity())
        before = (module, name) if isinstance(child, nn.Conv2d) else None
        _fold(child)


class _Constant(nn.Module):
    """What an FSM made of one mask."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, mask: Tensor) -> Tensor:
        return self.value


@dataclass(frozen=True)
class Agreement:
    """How far what onnxruntime computes is from PyTorch.

    Attributes:
        difference: the greatest difference of a component, each image's as a share of its embedding's length
            in PyTorch; of unit-length embeddings the greatest difference itself.
        cosine: the lowest cosine similarity of an image's two embeddings.
        batches: sizes of the batches compared.
    """

    difference: float
    cosine: float
    batches: tuple[int, ...]


def require() -> dict[str, str]:
    """Return the versions of what an export needs.

    Raises:
        ValueError: one of them is not installed; says what to install.
    """
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return str(importlib.import_module(name).__version__)
    except ImportError as error:
        raise ValueError(f"export needs {name} ({error}): pip install 'faceveil[export]'") from error


def to_onnx(network: Deployed, channels: int, size: int, metadata: Mapping[str, str], opset: int) -> bytes:
    """Write the network as ONNX, weights included, with nothing in it that tells of this machine.

    Batch norms are folded into the convolutions by the exporter. Input `image` `[batch,C,H,W]` float32, and, where
    every image has a mask of its own, `mask` `[batch,1,H,W]` float32 of 0 and 1; output `embedding` `[batch,D]`
    float32; the batch's size is free.

    Args:
        network: what is written.
        channels: C.
        size: H and W.
        metadata: properties of the model.
        opset: version of ONNX's operators.

    Returns:
        The file's bytes.

    Raises:
        ValueError: a package is missing, or the opset is one that cannot be had.
    """
    require()
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ValueError(
            f"opset={opset}: give a number from {OPSET} to {newest}, what the installed onnx knows"
        )
    # two images, as the exporter takes a size of 1 for a constant
    example: tuple[Tensor, ...] = (torch.zeros(2, channels, size, size),)
    names = [INPUT]
    if network.each:
        example, names = (*example, torch.ones(2, 1, size, size)), [INPUT, MASK]
    batch = {0: torch.export.Dim("batch", min=1)}
    with _quietly():
        try:
            program = torch.onnx.export(
                network, example, dynamo=True, input_names=names, output_names=[OUTPUT], opset_version=opset,
                dynamic_shapes=(batch,) * len(example), external_data=False, verbose=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            words = " ".join(str(error).split())[:300]
            raise ValueError(f"opset={opset}: the network cannot be written as ONNX ({words})") from error
        assert program is not None
        proto = program.model_proto
    made = {entry.domain: entry.version for entry in proto.opset_import}
    if made.get("") != opset:
        raise ValueError(f"opset={opset}: the exporter made {made.get('')} of it; take that one")
    _strip(proto)
    proto.graph.name = "faceveil"
    for key, value in sorted(metadata.items()):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString(deterministic=True))


def compare(
    model: bytes,
    embed: Embed | Callable[[Tensor], Tensor],
    multiply: Callable[[Tensor], Tensor],
    channels: int,
    size: int,
    each: bool = False,
) -> Agreement:
    """Run a model in onnxruntime on random, black and white images and hold it against PyTorch.

    onnxruntime is given the images as they are, PyTorch the desensitized ones.

    Args:
        model: bytes of the ONNX file.
        embed: PyTorch's way from desensitized images `[B,C,H,W]` in [0,1] to `[B,D]`.
        multiply: what the graph has to do to images by itself; the identity where it has no mask.
        channels: C.
        size: H and W.
        each: every image has a mask of its own; drawn ones are given to both.

    Raises:
        ValueError: they differ by more than 1e-4 of the embedding's length, or their cosine is below 1 − 1e-6.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.randint(0, 256, (33, channels, size, size), generator=generator) / 255
    special = torch.stack([noise[32], torch.zeros_like(noise[0]), torch.ones_like(noise[0])])
    difference, cosine, batches = 0.0, 1.0, []
    masks = (torch.rand(33, 1, size, size, generator=generator) < _VISIBLE).float()
    for images in (noise[:1], special, noise[:32]):
        given = {INPUT: images.numpy()} | ({MASK: masks[: len(images)].numpy()} if each else {})
        theirs = torch.from_numpy(session.run([OUTPUT], given)[0]).double()
        with torch.inference_mode():
            seen: tuple[Any, ...] = (multiply(images),)
            if each:
                seen = images * masks[: len(images)], masks[: len(images)]
            ours = embed(*seen).double()
        length = torch.linalg.vector_norm(ours, dim=1).clamp_min(_SMALLEST)
        difference = max(difference, float(((theirs - ours).abs().amax(1) / length).max()))
        cosine = min(cosine, float(torch.cosine_similarity(theirs, ours, dim=1, eps=_SMALLEST).min()))
        batches.append(len(images))
    if not (difference <= TOLERANCE and cosine >= LEAST_COSINE):  # false for NaN too
        raise ValueError(
            f"model.onnx: onnxruntime differs from PyTorch by {difference:.2g} of the embedding's length (at most "
            f"{TOLERANCE:.0e}), lowest cosine {cosine:.7f}: not written; try another --opset, or other versions of "
            "torch and onnxruntime"
        )
    return Agreement(difference, cosine, tuple(batches))


def _strip(proto: object) -> None:
    """Drop what the exporter notes on every node: stack traces, with the files of this machine in them."""
    from onnx import ModelProto

    assert isinstance(proto, ModelProto)
    graph = proto.graph
    for part in (
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's warnings and its log from the terminal; its errors are exceptions and come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
