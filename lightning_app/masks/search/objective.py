"""What a mask is searched for: F − γ·P, and a scorer that finds F of many masks on the same images, fast."""

from __future__ import annotations

import copy
import hashlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_app.core.draws import hashed
from lightning_app.core.normalise import normalised
from lightning_app.core.tensor_hash import tensors_hash
from lightning_app.masks.bits import as_array
from lightning_app.networks import Backbone, Head
from lightning_app.networks.backbones.resnet import ResNetBackbone
from lightning_app.networks.inference import InferenceBackbone

_ORDER = 310  # salt of the order in which images are scored
_PROBE = 2  # images that two forms of the model are compared on
_BATCH = {"cpu": 32}  # larger ones leave the CPU's caches and its allocator's pool: 15 % slower
_BATCH_ELSEWHERE = 256


def objective(F: float, P: float, gamma: float) -> float:
    """Return F − γ·P, which the searched mask makes least.

    Args:
        F: mean cross-entropy in nats of the recogniser on images under the mask.
        P: mask ratio, hidden pixels / all pixels, in [0,1].
        gamma: nats per unit of mask ratio.

    Source: formula 3; P as the design reads formula 2.
    """
    return F - gamma * P


def check_gamma(gamma: float) -> float:
    """Return γ; refuse one that would make no objective.

    Args:
        gamma: nats per unit of mask ratio.

    Raises:
        ValueError: it is negative or not finite.
    """
    if not (math.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma: {gamma} is not a finite number of nats per unit of mask ratio, at least 0")
    return gamma


class MaskScorer:
    """Find F(mask): the mean cross-entropy of a recogniser on fixed images under a mask.

    Images are brought to [0,1], hidden pixels are made 0, then (x − mean) / std, as `FaceDataModule` does it,
    so that F can be computed again from `mask.png` and the checkpoint. What masks have in common is done once:
    images are decoded, kept as uint8 on the device, in an order drawn from the seed; the model is copied and
    put in eval mode, a plain backbone gets its batch norms folded in (`InferenceBackbone`). The model given is
    never touched. A score is a function of the mask and the range of images alone, not of what was scored
    before. In bf16 the number of images in a batch changes the last digits, so that F of 64 images in one call
    and in two may differ by some 1e-3; in fp32 by 1e-6.

    A model whose backbone has FSM gates is given the mask too, its gates stay fp32.

    Args:
        model: images `[B,C,H,W]` to logits `[B,classes]`; a recogniser with gates takes `(image, mask)`.
        images: `[N,C,H,W]` uint8, as a reader yields them.
        labels: `[N]` int64 classes of the model.
        mean: as the model's data had it.
        std: likewise.
        batch_size: images per forward pass; None takes 32 on a CPU and 256 elsewhere.
        bf16: infer with bf16 weights and activations; F then differs from fp32 by about a hundredth of itself.
        device: where to score; None where the model is.
        seed: of the order in which images are scored.

    Attributes:
        order: `[N]` int64, the number in `images` of each image in the order scored.
        size: (height, width) of images and masks.
        passes: images passed through the model so far.

    Raises:
        ValueError: images that are none, labels outside the model's classes, or a model without a head.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        mean: float = 0.5,
        std: float = 0.5,
        batch_size: int | None = None,
        bf16: bool = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        _check_images(images, labels)
        if std <= 0:
            raise ValueError(f"std: {std} is not a positive number; give the one the model was trained with")
        first = next(model.parameters(), None)
        given = torch.device("cpu") if first is None else first.device
        self.device = given if device is None else torch.device(device)
        self.batch_size = _BATCH.get(self.device.type, _BATCH_ELSEWHERE) if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} is not a positive number of images")
        self.mean, self.std, self.seed, self.bf16 = mean, std, seed, bf16
        self.size = (int(images.shape[-2]), int(images.shape[-1]))
        self.order = torch.argsort(hashed(torch.arange(len(images)), _ORDER, seed))
        self.passes = 0
        self._images = images[self.order.to(images.device)].to(self.device)
        self._images = self._images.contiguous(memory_format=torch.channels_last)
        self._labels = labels[self.order.to(labels.device)].to(self.device)
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        self._hashes = {"model": _state_hash(model), "images": _tensors_hash(images, labels)}
        self._model, self._gated = self._ready(model)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._images)

    def score(self, mask: Tensor, images: int | None = None) -> float:
        """Return F of a mask in nats, on the first so many images of the drawn order.

        Args:
            mask: `[1,H,W]`, 1 = visible, 0 = hidden.
            images: 1 … N; None takes all.

        Raises:
            ValueError: as `losses`.
        """
        return float(self.losses(mask, 0, images).double().mean())

    @torch.inference_mode()
    def losses(self, mask: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the cross-entropy of each image under a mask.

        Args:
            mask: `[1,H,W]`, 1 = visible, 0 = hidden.
            start: first image, in the drawn order.
            stop: one past the last; None for all.

        Returns:
            `[stop − start]` float32 in nats, on the CPU.

        Raises:
            ValueError: the mask has another size or other values, the range is empty or beyond the images, or a
                loss is not finite.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"images: {start} to {stop} is not a range within the {len(self)} there are")
        visible = self._visible(mask)
        spans = [(at, min(at + self.batch_size, stop)) for at in range(start, stop, self.batch_size)]
        found = torch.cat(
            [
                functional.cross_entropy(
                    self._logits(self._desensitized(a, b, visible), mask).float(),
                    self._labels[a:b],
                    reduction="none",
                )
                for a, b in spans
            ]
        ).cpu()
        self.passes += stop - start
        if not bool(found.isfinite().all()):
            number = int(self.order[start + int((~found.isfinite()).nonzero()[0])])
            raise ValueError(
                f"model: its loss on image {number} is not finite; the checkpoint is no use here"
            )
        return found

    def fingerprint(self) -> dict[str, object]:
        """Return what decides every score but the mask, in JSON's types: hashes and settings, no pixels."""
        settings: dict[str, object] = {
            "mean": self.mean,
            "std": self.std,
            "batch_size": self.batch_size,
            "bf16": self.bf16,
            "image_count": len(self),
            "image_order": self.seed,
        }
        return self._hashes | settings

    def _visible(self, mask: Tensor) -> Tensor:
        """Return the mask as `[1,C,H,W]` uint8 on the device, laid out as the images are."""
        if mask.ndim != 3 or tuple(mask.shape) != (1, *self.size):
            raise ValueError(
                f"mask: shape {list(mask.shape)} is not [1, {self.size[0]}, {self.size[1]}], that of the images"
            )
        visible = torch.from_numpy(as_array(mask)).to(self.device).unsqueeze(1)
        shape = (1, *self._images.shape[1:])
        return visible.expand(shape).contiguous(memory_format=torch.channels_last)

    def _desensitized(self, start: int, stop: int, visible: Tensor) -> Tensor:
        pixels = (
            self._images[start:stop] * visible
        ).float()  # uint8 until here: a quarter of the memory moved
        return pixels.div_(255).sub_(self.mean).div_(self.std).to(self._dtype)

    def _logits(self, images: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor
        if self._gated:
            logits = self._model(images, mask.to(self.device, torch.float32).unsqueeze(0))
        else:
            logits = self._model(images)
        return logits

    @torch.inference_mode()
    def _ready(self, model: nn.Module) -> tuple[nn.Module, bool]:
        """Return the copy that scores, and whether it takes the mask."""
        backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
        if isinstance(head, Head) and not head.num_classes:
            raise ValueError("model: has no head, and F needs logits; give one that was trained or loaded")
        own = copy.deepcopy(model).eval().to(self.device).to(memory_format=torch.channels_last)
        gated = isinstance(backbone, Backbone) and backbone.looks_at_masks
        everything = torch.ones(1, 1, *self.size, device=self.device)
        probe = normalised(self._images[:_PROBE].float() / 255, self.mean, self.std)
        logits = own(probe, everything) if gated else own(probe)
        if logits.ndim != 2:
            raise ValueError(f"model: gives shape {list(logits.shape)}, not logits [B, classes]")
        lowest, highest = int(self._labels.min()), int(self._labels.max())
        if lowest < 0 or highest >= logits.shape[1]:
            raise ValueError(
                f"labels: {lowest} … {highest} do not fit the model's {logits.shape[1]} classes; take images of "
                "the identities it was trained on"
            )
        backbone, head = getattr(own, "backbone", None), getattr(own, "head", None)
        if isinstance(backbone, ResNetBackbone) and isinstance(head, Head) and not gated:
            folded = nn.Sequential(InferenceBackbone(backbone), _Scores(head))
            # a subclass may compute more than head(backbone(x)): then it is left as it is
            if bool((folded(probe) - logits).abs().max() <= 1e-3 * logits.abs().max()):
                own = nn.Sequential(InferenceBackbone(backbone, self._dtype), _Scores(head))
        own = own.to(self._dtype)
        if isinstance(backbone, Backbone):
            backbone.gates.float()  # on one mask, and bf16 would round the share a cell shows to a half
        return own, gated


class _Scores(nn.Module):
    """The class scores of embeddings."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, embedding: Tensor) -> Tensor:
        return self.head.logits(embedding)


def _check_images(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8 or 0 in images.shape:
        raise ValueError(
            f"images: {images.dtype} of shape {list(images.shape)} is not uint8 [N,C,H,W]; give a reader's pixels"
        )
    if labels.dtype != torch.int64 or tuple(labels.shape) != (len(images),):
        raise ValueError(
            f"labels: {labels.dtype} of shape {list(labels.shape)} is not int64 [{len(images)}], one per image"
        )


def _state_hash(model: nn.Module) -> str:
    state = model.state_dict()
    names = "\n".join(state).encode()
    return hashlib.sha256(names + _tensors_hash(*state.values()).encode()).hexdigest()


def _tensors_hash(*tensors: Tensor) -> str:
    return tensors_hash(
        (("", value) for value in tensors), lambda _, value: f"{value.dtype}{list(value.shape)}"
    )
