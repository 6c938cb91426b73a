"""What V100s should give, on paper: FLOPs and bytes counted here, published figures for the rest.

`python -m benchmarks.scale` prints the tables of docs/scale.md. Nothing is timed: a network is run on torch's
meta device, which computes shapes alone. A roofline of one V100 is scaled by what NVIDIA publishes for
ResNet-50 (DeepLearningExamples, ResNet50 v1.5 for PyTorch, DGX-1 32GB, commit 291f0d0): 1,156 images/s on one
GPU in mixed precision at 256 images a step, 8,056 on eight, 13.4 ms a forward pass of a few images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich import get_console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_app.networks import Backbone
from lightning_app.networks.backbones.resnet import BackboneName, InsertionPoint

PEAK, BANDWIDTH = 125e12, 900e9  # V100 SXM2: fp16 matrix FLOP/s, bytes/s of its memory (NVIDIA's data sheet)
PUBLISHED = 1156.0  # images/s: ResNet-50, 224 px, mixed precision, one V100 32GB
SCALING = 8056 / (8 * 1156)  # of eight GPUs, 256 images each, in one DGX-1
FORWARD_FLOOR_S = 0.0134 / 53  # published latency of 1 to 8 images ÷ ResNet-50's 53 convolutions
HALF, FULL = 2, 4  # bytes of fp16 and fp32
_LOGITS = 6 * (
    HALF + FULL
)  # bytes moved per image and identity: logits, their softmax, their gradients, read and written
_SGD = 5 * FULL  # bytes moved per weight and step: weight, gradient and momentum read, two of them written


@dataclass(frozen=True)
class Cost:
    """What a training step costs per image, and per step.

    Attributes:
        flops: floating-point operations of forward and backward per image (a multiplication and an addition are two).
        roofline_s: seconds per image on one V100 if every layer ran at the peak of arithmetic or memory.
        traffic: bytes moved per image between layers, in fp16.
        parameters: of the backbone and its gates.
        dim: of the embedding.
        convolutions: launched one after the other in a forward pass.
    """

    flops: float
    roofline_s: float
    traffic: float
    parameters: int
    dim: int
    convolutions: int


def cost(name: BackboneName, size: int = 224, points: tuple[InsertionPoint, ...] = ()) -> Cost:
    """Count what a network costs, by running it on the meta device.

    Args:
        name: the backbone.
        size: height and width of the images, in pixels.
        points: insertion points of FSMs; their gates run once per step, and count for nothing per image.
    """
    with torch.device("meta"):
        net = Backbone(name, points, input_size=size)
        images = torch.empty(2, 3, size, size)
    found: list[tuple[float, float]] = []  # of each layer: FLOPs, bytes, both per image and forward pass

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        moved = HALF * (inputs[0].numel() + output.numel()) / len(output)
        work = 0.0
        if isinstance(module, nn.Conv2d):
            work = 2.0 * output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.BatchNorm2d):
            moved += HALF * inputs[0].numel() / len(output)  # statistics first, then the normalisation
        found.append((work, moved))

    leaves = [m for m in net.modules() if not list(m.children()) and not _gate(net, m)]
    hooks = [m.register_forward_hook(note) for m in leaves]
    with FlopCounterMode(display=False) as counter:
        net(images).sum().backward()
    for hook in hooks:
        hook.remove()
    # backward does a layer's work twice: for its input and its weights
    roofline = sum(3 * max(work / PEAK, moved / BANDWIDTH) for work, moved in found)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in leaves)
    parameters = sum(p.numel() for p in net.parameters())
    return Cost(
        counter.get_total_flops() / 2,
        roofline,
        3 * sum(b for _, b in found),
        parameters,
        net.dim,
        convolutions,
    )


def _gate(net: Backbone, module: nn.Module) -> bool:
    return any(module is part for part in net.gates.modules())


def images_per_s(
    net: Cost, reference: Cost, batch: int, gpus: int, classes: int, bus: float
) -> tuple[float, str]:
    """Estimate the training speed of a number of V100s.

    Args:
        net: the network.
        reference: ResNet-50 at 224 px, whose speed is published.
        batch: images per step over all GPUs.
        gpus: how many.
        classes: identities of the training set.
        bus: bytes/s of an all-reduce, as NCCL counts (bus bandwidth).

    Returns:
        images/s, and what bounds it: `arithmetic and memory`, `kernel launches` or `all-reduce`.
    """
    own = batch / gpus
    achieved = PUBLISHED * reference.roofline_s  # share of the roofline that ResNet-50 reaches
    head = (net.dim + 1) * classes
    # the head: forward and backward of a matrix product; every step SGD reads and writes all weights and momenta
    compute = own * (net.roofline_s + 6 * head / PEAK + _LOGITS * classes / BANDWIDTH) / achieved
    compute += _SGD * (net.parameters + head) / BANDWIDTH
    launches = 3 * FORWARD_FLOOR_S * net.convolutions
    gradients = FULL * (net.parameters + head)
    reduce = 2 * (gpus - 1) / gpus * gradients / bus
    busy = max(compute, launches)
    waiting = max(0.0, reduce - busy * 2 / 3)  # DDP reduces during the backward pass
    rest = 1.0 if gpus == 1 else SCALING ** (1 / 3 * (gpus.bit_length() - 1))
    step = (busy + waiting) / rest
    bound = (
        "all-reduce"
        if waiting > busy / 2
        else "kernel launches"
        if launches > compute
        else "arithmetic and memory"
    )
    return batch / step, bound


def head_bytes(classes: int, dim: int, own: int) -> tuple[float, float]:
    """Count what a softmax head takes on every GPU.

    Args:
        classes: identities.
        dim: of the embedding.
        own: images per step and GPU.

    Returns:
        Bytes of weights, momentum, gradient and DDP's bucket in fp32; bytes of the logits, in fp16 and fp32, with
        their gradients.
    """
    return 4.0 * FULL * (dim + 1) * classes, 2.0 * (HALF + FULL) * own * classes


_VGGFACE2 = 8631  # identities of its training part
SETTINGS = [  # name, GPUs, bytes/s of an all-reduce
    ("1 × V100", 1, 1.0),
    ("4 × V100, NVLink", 4, 60e9),
    ("4 × V100, PCIe", 4, 10e9),
    ("8 nodes of 4, 100 Gbit/s", 32, 10e9),
    ("8 nodes of 4, 25 Gbit/s", 32, 2.5e9),
]


def main() -> None:
    """Print the tables of docs/scale.md."""
    console = get_console()
    reference = cost("resnet50")
    counted = Table("network", "GFLOP an image", "MB moved an image", "million parameters", "one V100, images/s",
                    title="counted on the meta device, per training image")  # fmt: skip
    networks: list[tuple[str, BackboneName, int, tuple[InsertionPoint, ...]]] = [
        ("ResNet-34, 224 px", "resnet34", 224, ()),
        ("ResNet-34 with FSM at layer3, 224 px", "resnet34", 224, ("layer3",)),
        ("ResNet-50, 224 px", "resnet50", 224, ()),
        ("ResNet-34, 112 px", "resnet34", 112, ()),
    ]
    costs = [cost(name, size, points) for _, name, size, points in networks]
    for (label, *_), net in zip(networks, costs, strict=True):
        speed, _ = images_per_s(net, reference, 256, 1, _VGGFACE2, 1.0)
        counted.add_row(label, f"{net.flops / 1e9:.1f}", f"{net.traffic / 1e6:.0f}", f"{net.parameters / 1e6:.1f}",
                        f"{speed:,.0f}")  # fmt: skip
    console.print(counted)
    share = reference.roofline_s * PUBLISHED
    console.print(f"ResNet-50's published speed is {share:.0%} of its roofline, "
                  f"{PUBLISHED * reference.flops / PEAK:.0%} of the matrix peak.")  # fmt: skip
    speeds = Table("machine", "images a step", "images/s", "hours for 1M steps", "bound by",
                   title="ResNet-34, 224 px, 16-mixed, 8,631 identities")  # fmt: skip
    for label, gpus, bus in SETTINGS:
        for batch in (64, 64 * gpus, 256 * gpus) if gpus > 1 else (64, 256):
            speed, bound = images_per_s(costs[0], reference, batch, gpus, _VGGFACE2, bus)
            speeds.add_row(label, str(batch), f"{speed:,.0f}", f"{1e6 * batch / speed / 3600:.1f}", bound)
    console.print(speeds)
    heads = Table("identities", "weights and optimiser, GB", "logits (64 a GPU), GB", "all-reduce, MB",
                  "4 × V100 NVLink, 256 a step", "bound by", title="the softmax head, ResNet-34, per GPU")  # fmt: skip
    for classes in (_VGGFACE2, 85_742, 360_232, 1_000_000, 2_000_000):
        weights, logits = head_bytes(classes, 512, 64)
        speed, bound = images_per_s(costs[0], reference, 256, 4, classes, 60e9)
        reduced = FULL * (costs[0].parameters + 513 * classes) / 1e6
        heads.add_row(f"{classes:,}", f"{weights / 1e9:.2f}", f"{logits / 1e9:.2f}", f"{reduced:,.0f}",
                      f"{speed:,.0f}", bound)  # fmt: skip
    console.print(heads)


if __name__ == "__main__":
    main()
