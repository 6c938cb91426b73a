"""From an explainer, ours or any of captum's, to the critical template of an image set."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.masks.io import mask_hash
from lightning_app.masks.template import MeanSaliency, critical_template, saliency_maps


@dataclass(frozen=True)
class Explainer:
    """Which method makes the saliency maps, by `class_path`.

    Attributes:
        class_path: ours, or any captum `Attribution` such as `captum.attr.IntegratedGradients`, `LayerGradCam`
            or `Occlusion`.
        init_args: its arguments beyond the model; a captum layer is given by name, such as
            `layer: backbone.layer4`.
        attribute_args: further arguments of its `attribute`; lists become tuples, such as
            `sliding_window_shapes: [3, 15, 15]`.
    """

    class_path: str = "lightning_app.masks.ExcitationBackprop"
    init_args: dict[str, Any] = field(default_factory=dict)
    attribute_args: dict[str, Any] = field(default_factory=dict)

    def build(self, model: nn.Module, forward: Callable[..., Tensor]) -> Attribution:
        """Make the attribution.

        Args:
            model: a recogniser; ours takes it as it is, and layers are found in it by name.
            forward: what captum's methods explain, images to scores.

        Raises:
            ValueError: there is no such class, it is no captum attribution, or its arguments do not fit.
        """
        module, _, name = self.class_path.rpartition(".")
        try:
            kind: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"explainer={self.class_path}: no such class ({error})") from error
        if not (inspect.isclass(kind) and issubclass(kind, Attribution)):
            raise ValueError(f"explainer={self.class_path}: not a captum Attribution; see captum.attr")
        make: Any = kind  # narrowed to a class of which mypy knows no arguments
        takes_model = next(iter(inspect.signature(kind).parameters), "") == "model"
        given = dict(self.init_args)
        if not takes_model and isinstance(given.get("layer"), str):
            try:
                given["layer"] = model.get_submodule(given["layer"])
            except AttributeError as error:
                raise ValueError(
                    f"explainer_args.layer={given['layer']!r}: the model has no such layer"
                ) from error
        try:
            return make(model if takes_model else forward, **given)
        except TypeError as error:
            raise ValueError(
                f"explainer_args={self.init_args}: {self.class_path} refuses them ({error})"
            ) from error


@dataclass(frozen=True)
class Template:
    """A critical template and what it was made of.

    Attributes:
        mask: `[1,H,W]`, 1 = must stay visible (formula 4).
        saliency: the mean saliency map `[1,H,W]` in [0,1], smoothed.
        raw: the same without smoothing.
        explainer: the method's name.
    """

    mask: Tensor
    saliency: Tensor
    raw: Tensor
    explainer: str

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
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Template:
    """Make the critical template of K faces (formula 4).

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
        device: where to; the model must be there.
        progress: told (done, K) after each step.

    Raises:
        ValueError: the explainer does not fit, T is out of range or leaves nothing; see `critical_template`.
    """
    device = device or torch.device("cpu")
    size = (int(images.shape[2]), int(images.shape[3]))
    smooth, raw = MeanSaliency(size, sigma), MeanSaliency(size, 0.0)
    attribution = explainer.build(model, _similarity(model) if mates is not None else model)
    takes_embedding = "nonmate" in inspect.signature(attribution.attribute).parameters
    further: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in explainer.attribute_args.items()
    }

    def ready(pixels: Tensor) -> Tensor:
        return (pixels.to(device).float() / 255 - mean) / std

    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        target: Tensor | None = targets[part].to(device)
        own: dict[str, Any] = dict(further)
        if mates is not None:
            with torch.no_grad():
                mate = model.embed(ready(mates[part])).float()  # type: ignore[operator]
            target = mate if takes_embedding else None
            if not takes_embedding:
                own["additional_forward_args"] = (mate,)
        for maps in saliency_maps(attribution, [(ready(images[part]), target)], **own):
            smooth.update(maps)
            raw.update(maps)
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    found = smooth.compute()
    return Template(
        critical_template(found, threshold).cpu(), found.cpu(), raw.compute().cpu(), explainer.class_path
    )


def _similarity(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def similarity(image: Tensor, mate: Tensor) -> Tensor:
        embedding: Tensor = model.embed(image)  # type: ignore[operator]
        repeats = len(embedding) // len(mate)  # captum's methods enlarge the batch
        return F.cosine_similarity(embedding, mate.repeat(repeats, 1))

    return similarity
