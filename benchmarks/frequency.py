"""The frequency desensitizer against the field's way (112 px, batch 64), and its share of a step of `fit`; on the CPU.

The field's way (TFace and others): bilinear ×8, unfold, product with the DCT matrix, the DC dropped; ours up to the
same tensor. Memory is that of the tensors which live at once, counted as they are made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.fit import _fit_step, _paired
from benchmarks.timing import CPU, PRECISION, Row, interleaved
from datamodules import DrawnFaces, FaceDataModule
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import BlockDCT, Desensitizer, FrequencyMask
from lightning_app.desensitize.dct import Blocks, block_dct, dct_matrix
from lightning_app.models import ResNet

TINY: dict[str, Any] = {
    "repeats": 1, "size": 32, "batch": 2, "fit_batch": 2, "steps": 1, "warmup": 0, "networks": ("resnet18",),
}  # fmt: skip
BOUND = 0.35
_APART = 5e-4  # greatest difference of a coefficient of pixels in [0,1]
_MEMORY = 0.2  # beyond the output, as a share of it
_SEEN = 1 << 24  # values of the output; of fewer a small share is a few images' scratch


class _Drawn(Desensitizer):
    """Gives the same tensor of as many channels every time: what a desensitizer costs is the difference to it."""

    is_image = False
    flips = False
    has_mask = False

    def __init__(self, channels: int, size: int, batch: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.drawn = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = batch.copy()
        out["image"] = self.drawn[: len(batch["index"])]
        out["mask"], out["mask_index"] = None, torch.zeros_like(batch["index"])
        return out


class _Held(TorchDispatchMode):
    """Count the bytes of tensors made within it that live at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._alive: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what an operation returns."""
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, list | tuple) else [made]:
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                self._alive[storage._cdata] = (
                    torch.multiprocessing.reductions.StorageWeakRef(storage),
                    storage.nbytes(),
                )
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return made


def fields_way(image: Tensor, align_corners: bool, matrix: Tensor) -> Tensor:
    """Do what public code does: `[B,1,H,W]` → `[B,63,H,W]`.

    Args:
        image: of pixels in [0,1].
        align_corners: see `torch.nn.functional.interpolate`.
        matrix: `[64,64]`, the DCT of a block.
    """
    large = F.interpolate(image, scale_factor=8, mode="bilinear", align_corners=align_corners)
    blocks = F.unfold(large, 8, stride=8)
    found: Tensor = (matrix @ blocks)[:, 1:].unflatten(-1, image.shape[-2:])
    return found


def _transform(align_corners: bool, image: Tensor, repeats: int) -> Row:
    blocks = Blocks(align_corners=align_corners)
    keep = BlockDCT(align_corners=align_corners).keep
    matrix = torch.kron(dct_matrix(8), dct_matrix(8)).float()
    theirs = fields_way(image, align_corners, matrix)[:, [k - 1 for k in keep]]
    with _Held() as held:
        ours = block_dct(image, blocks, keep)
    apart = (ours - theirs).abs().max().item()
    size = ours.numel() * ours.element_size()
    beyond = held.most / size - 1
    if apart > _APART:
        raise ValueError(
            f"align_corners={align_corners}: {apart:.1e} from the field's way, more than {_APART:.0e}"
        )
    if beyond > _MEMORY and ours.numel() > _SEEN:
        raise ValueError(
            f"align_corners={align_corners}: {beyond:.3f} of the output in memory beyond it, more than {_MEMORY}"
        )
    del ours, theirs
    timing = interleaved(
        lambda: block_dct(image, blocks, keep), lambda: fields_way(image, align_corners, matrix), repeats
    )
    return Row(
        f"block DCT ÷ the field's way, align_corners: {str(align_corners).lower()}", *timing, bound=BOUND,
        note=f"{list(image.shape)} → {len(keep)} channels; {apart:.1e} apart (bound {_APART:.0e}); memory beyond the "
        f"output {beyond:.3f} of it (bound {_MEMORY})",
    )  # fmt: skip


def measure(
    repeats: int = 5,
    size: int = 112,
    batch: int = 64,
    fit_batch: int = 8,
    steps: int = 4,
    networks: Sequence[str] = ("irse50", "resnet18"),
    warmup: int = 1,
) -> list[Row]:
    """Return the rows of the transform, and of a step of `fit` with either permutation.

    The transform takes as long whatever the network is. So its share of a step is the network's: the second paper's
    IR-SE-50, and ResNet-18 of the quick study, which takes a seventh of the time.

    Args:
        repeats: timed runs of each.
        size: side of the images in pixels.
        batch: images that are transformed at a time.
        fit_batch: images a step of `fit`: few, so that the 24 runs of each network end in minutes.
        steps: of a run of `fit`.
        networks: the backbones.
        warmup: untimed runs of `fit` before.
    """
    for noisy in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    image = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(0))
    rows = [_transform(align_corners, image, repeats) for align_corners in (False, True)]
    each = (steps + 3) * fit_batch // 16 + 1

    def data(desensitizer: Desensitizer) -> FaceDataModule:
        people = DrawnFaces(identities=16, images_per_identity=each, size=size)
        made = FaceDataModule(people, desensitizer, global_batch_size=fit_batch, cache=True)
        made.setup("fit")
        return made

    def model(network: str) -> ResNet:
        return ResNet(network, num_classes=16, input_size=size, in_channels=masked.out_channels)

    masked = FrequencyMask()
    drawn = data(_Drawn(masked.out_channels, size, fit_batch))
    for network in networks:
        two = model(network), model(network)
        note = f"{size} px, {masked.out_channels} channels, batch {fit_batch}, {PRECISION} on {CPU}, per step"
        for permutation in ("fixed", "image"):
            ours = data(FrequencyMask(permutation=permutation))
            rows.append(_paired(
                f"fit of {network} under FrequencyMask ({permutation}) ÷ on a tensor drawn before",
                lambda ours=ours, two=two: _fit_step(two[0], ours, steps),  # type: ignore[misc]
                lambda two=two: _fit_step(two[1], drawn, steps), repeats, warmup, 1.05, note,  # type: ignore[misc]
            ))  # fmt: skip
    return rows
