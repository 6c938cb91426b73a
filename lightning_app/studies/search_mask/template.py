"""The critical template of a search: from which faces, by which method, against which target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from datamodules.face import FaceDataModule
from lightning_app.masks.saliency.explain import Explainer, Template, find_template
from lightning_app.models.base import Recogniser
from lightning_app.studies.faces import drawn_numbers, load_faces, mates_of

_EXPLAINED, _MATES = 310, 311  # salts of the draws of the faces that are explained, and of their mates
_AT_A_TIME = 32  # faces, at most: of a saliency map gradients are kept


@dataclass(frozen=True)
class AskedTemplate:
    """What template a search is asked for.

    Attributes:
        threshold: T of formula 4.
        faces: K of formula 4.
        sigma: width of the Gaussian that smooths saliency maps, in pixels.
        target: target of the excitation: the face's own `identity`, or the embedding of a `mate`.
        explainer: what makes the saliency maps.
    """

    threshold: float
    faces: int
    sigma: float
    target: Literal["identity", "mate"]
    explainer: Explainer

    @property
    def facts(self) -> dict[str, Any]:
        """Return what template.json and the table say of it."""
        return {"T": self.threshold, "K": self.faces, "sigma": self.sigma, "target": self.target}


@dataclass(frozen=True)
class MadeTemplate:
    """A template as it was made.

    Attributes:
        asked: what was asked for.
        template: it.
        private: how many private faces it is made of, mates among them.
    """

    asked: AskedTemplate
    template: Template
    private: int

    @property
    def metrics(self) -> dict[str, Any]:
        """Return what a search says of its template."""
        return self.asked.facts | {
            "explainer": self.template.explainer,
            "template_ratio": float(1 - self.template.mask.mean()),
            "template_hash": self.template.hash,
            "constant_maps": self.template.constant,
        }


def make_template(
    model: Recogniser, data: FaceDataModule, asked: AskedTemplate, batch_size: int, seed: int,
    device: torch.device, progress: Callable[[int, int], None],
) -> MadeTemplate:  # fmt: skip
    """Make the critical template of K training images, drawn by the seed.

    Args:
        model: the clean model, in eval, on the device.
        data: the image set, set up for `fit`.
        asked: what template.
        batch_size: of the search.
        seed: of the faces, their mates, and what the method draws.
        device: where to.
        progress: told (done, K) after each step.

    Raises:
        ValueError: there are not so many faces, an identity has no mate, or see `find_template`.
    """
    assert data.training is not None
    chosen = drawn_numbers(len(data.training), asked.faces, _EXPLAINED, seed, "faces: K")
    pixels, labels = load_faces(data.training, chosen)
    mates = mates_of(data.training.labels, chosen, _MATES, seed) if asked.target == "mate" else None
    made = find_template(
        model, pixels, labels, asked.explainer, threshold=asked.threshold, sigma=asked.sigma,
        mates=None if mates is None else load_faces(data.training, mates)[0], mean=data.mean,
        std=data.std, batch_size=min(batch_size, _AT_A_TIME), seed=seed, device=device, progress=progress,
    )  # fmt: skip
    others = set() if mates is None else set(mates.tolist()) - set(chosen.tolist())
    return MadeTemplate(asked, made, asked.faces + len(others))
