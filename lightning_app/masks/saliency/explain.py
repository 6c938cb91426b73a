"""From an explainer, ours or any of captum's, to the critical template of an image set."""

from __future__ import annotations

import importlib
import inspect
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.draws import seed_from
from lightning_app.core.normalise import normalised
from lightning_app.masks.io import mask_hash
from lightning_app.masks.saliency.ebp import ExcitationBackprop
from lightning_app.masks.saliency.template import MeanSaliency, critical_template, saliency_maps

_DRAWN = 350  # salt of what a stochastic method draws
# what a library raises where a method and a model, or its arguments, do not fit
_MISFITS = (TypeError, AttributeError, AssertionError, RuntimeError, LookupError, ArithmeticError)


@dataclass(frozen=True)
class Explainer:
    """Which method makes the saliency maps, by `class_path`.

    Attributes:
        class_path: ours, or any captum `Attribution` such as `captum.attr.IntegratedGradients`, `LayerGradCam`
            or `Occlusion`.
        init_args: arguments beyond the model; a captum layer is given by name, such as
            `layer: backbone.layer4`.
        attribute_args: further arguments of its `attribute`; lists become tuples, such as
            `sliding_window_shapes: [3, 15, 15]`.
    """

    class_path: str = "lightning_app.masks.ExcitationBackprop"
    init_args: dict[str, Any] = field(default_factory=dict)
    attribute_args: dict[str, Any] = field(default_factory=dict)

    def build(self, model: nn.Module, mate: bool = False) -> Attribution:
        """Make the attribution.

        Args:
            model: a recogniser; layers are found in it by name.
            mate: whether it explains the likeness to a mate's embedding, not the score of an identity.

        Raises:
            ValueError: there is no such class, it is no captum attribution, its arguments do not fit, or it can
                take no mate and there is one.
        """
        module, _, name = self.class_path.rpartition(".")
        try:
            kind: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"explainer={self.class_path}: no such class ({error})") from error
        if not (inspect.isclass(kind) and issubclass(kind, Attribution) and hasattr(kind, "attribute")):
            raise ValueError(f"explainer={self.class_path}: not a captum Attribution; see captum.attr")
        make: Any = kind  # narrowed to a class of which mypy knows no arguments
        ours = issubclass(kind, ExcitationBackprop)
        takes_model = next(iter(inspect.signature(kind).parameters), "") == "model"
        further = inspect.signature(make.attribute).parameters
        if mate and not ours and (takes_model or "additional_forward_args" not in further):
            raise ValueError(
                f"explainer={self.class_path}: cannot explain the likeness to a mate; use target=identity, or a "
                "method that can, such as lightning_app.masks.ExcitationBackprop, captum.attr.IntegratedGradients "
                "or captum.attr.LayerGradCam"
            )
        given = dict(self.init_args)
        if not ours and isinstance(given.get("layer"), str):
            try:
                given["layer"] = model.get_submodule(given["layer"])
            except AttributeError as error:
                raise ValueError(
                    f"explainer_args.layer={given['layer']!r}: the model has no such layer"
                ) from error
        with self.one_line():
            return make(_similarity(model) if mate and not ours else model, **given)

    @contextmanager
    def one_line(self) -> Iterator[None]:
        """Raise in one line what the method raises; a ValueError and a lack of memory pass as they are.

        Raises:
            ValueError: from the method's own error.
        """
        try:
            yield
        except torch.OutOfMemoryError:  # a RuntimeError, and no fault of the arguments
            raise
        except _MISFITS as error:
            first = next(iter(str(error).strip().splitlines()), "")
            advice = "mend its arguments, or take another method"
            if isinstance(error, TypeError) and re.search(r"\battribute\(\) missing", first):
                advice = "give what is missing under attribute_args"
            raise ValueError(
                f"explainer={self.class_path}: fails with explainer_args={self.init_args} and attribute_args="
                f"{self.attribute_args} ({type(error).__name__}: {first}); {advice}"
            ) from error


@dataclass(frozen=True)
class Template:
    """A critical template and what it was made of.

    Attributes:
        mask: `[1,H,W]`, 1 = must stay visible (formula 4).
        saliency: the mean saliency map `[1,H,W]` in [0,1], smoothed.
        raw: the same without smoothing.
        explainer: the method's name.
        constant: how many of the faces had a constant map, which says nothing and counts as 0.
    """

    mask: Tensor
    saliency: Tensor
    raw: Tensor
    explainer: str
    constant: int

    @property
    def hash(self) -> str:
        """SHA-256 of the template, see `mask_hash`."""
        return mask_hash(self.mask)


def find_template(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    explainer: Explainer,
    *,
    mates: Tensor | None = None,
    threshold: float = 0.5,
    sigma: float = 3.0,
    mean: float = 0.5,
    std: float = 0.5,
    batch_size: int = 32,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Template:
    """Make the critical template of K faces (formula 4).

    Methods that draw at random (`ShapleyValueSampling`, `KernelShap`) are seeded for every step, so that two runs
    of the same batch_size agree; the global generators of torch, NumPy and Python stay as they are.

    Contrastive excitation backprop with mates gets as nonmate, for each face, the mean embedding of those of the K
    faces that show other identities, each embedding scaled to length 1: nothing is drawn, no further face is
    looked at, and a map does not depend on its neighbours in the batch.

    Args:
        model: a recogniser in eval; it stays as it is.
        images: uint8 `[K,3,H,W]`.
        targets: `[K]` int64, the faces' identities.
        explainer: what makes the saliency maps.
        mates: uint8 `[K,3,H,W]`, another image of each identity: then the target is the mate's embedding
            (verification), not the identity (classification).
        threshold: T.
        sigma: of the smoothing, in pixels.
        mean: subtracted from the pixels in [0,1].
        std: what they are divided by then.
        batch_size: faces per step.
        seed: of what the method draws, if it draws.
        device: where to; the model must be there.
        progress: told (done, K) after each step.

    Raises:
        ValueError: the explainer does not fit or fails, a contrastive one has mates and a single identity, T is
            out of range or leaves nothing; see `critical_template`.
    """
    device = device or torch.device("cpu")
    size = (int(images.shape[2]), int(images.shape[3]))
    smooth, raw = MeanSaliency(size, sigma), MeanSaliency(size, 0.0)
    attribution = explainer.build(model, mate=mates is not None)
    ours = isinstance(attribution, ExcitationBackprop)
    further: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in explainer.attribute_args.items()
    }

    def ready(pixels: Tensor) -> Tensor:
        return normalised(pixels.to(device).float() / 255, mean, std)

    @torch.no_grad()
    def embedded(pixels: Tensor) -> Tensor:
        embedding: Tensor = model.embed(ready(pixels))  # type: ignore[operator]
        return embedding.float()

    others = None
    if mates is not None and ours and attribution.contrastive:
        if len(targets.unique()) < 2:
            raise ValueError(
                f"target=mate: a contrastive map needs faces of other identities, and all {len(images)} show one "
                "identity; give more faces, or contrastive: false"
            )
        others = _means_of_others(torch.cat([embedded(p).cpu() for p in images.split(batch_size)]), targets)

    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        inputs = ready(images[part])
        target: Tensor | None = targets[part].to(device)
        own: dict[str, Any] = dict(further)
        if mates is not None:
            mate = embedded(mates[part])
            target = mate if ours else None
            if not ours:
                own["additional_forward_args"] = (mate,)
            if others is not None:
                own["nonmate"] = others[part].to(device)
        with explainer.one_line(), _seeded(seed_from(_DRAWN, seed, start), device):
            (maps,) = saliency_maps(attribution, [(inputs, target)], **own)
        smooth.update(maps)
        raw.update(maps)
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    found = smooth.compute()
    return Template(
        critical_template(found, threshold).cpu(),
        found.cpu(),
        raw.compute().cpu(),
        explainer.class_path,
        smooth.constant,
    )


def _means_of_others(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return for each face `[K,D]` the mean unit embedding of the faces of other identities, on the CPU."""
    _, identity = targets.cpu().unique(return_inverse=True)
    unit = F.normalize(embeddings).double()
    count = torch.bincount(identity)
    own = unit.new_zeros(len(count), unit.shape[1]).index_add_(0, identity, unit)
    means = (unit.sum(dim=0) - own) / (len(unit) - count).unsqueeze(1)
    return means.float()[identity]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of the CPU, the device, NumPy and Python, and put them back at the end.

    For methods that draw from them and take no generator of their own.
    """
    cuda = [device] if device.type == "cuda" else []
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=cuda):
        # not torch.manual_seed: it seeds every GPU, and only this one is put back
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


def _similarity(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def similarity(image: Tensor, mate: Tensor) -> Tensor:
        embedding: Tensor = model.embed(image)  # type: ignore[operator]
        repeats = len(embedding) // len(mate)  # captum's methods enlarge the batch
        return F.cosine_similarity(embedding, mate.repeat(repeats, 1))

    return similarity
