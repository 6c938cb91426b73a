"""What a recogniser takes from another one's checkpoint in `fit`: weights to begin with, embeddings to learn from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_app.core.normalise import normalised
from lightning_app.core.plain import is_hash
from lightning_app.networks import Backbone

log = logging.getLogger("faceveil")
ORIGINS = "origins"  # under this name a checkpoint keeps the hashes of others: neither path nor name
_NAMES = ("init_from", "teacher")
OF_OTHERS = (*_NAMES, "distillation")  # a recogniser's arguments that speak of others
_GATES = "gates."
_SHOWN = 12  # digits of a hash in a message


# gives a recogniser and its `CheckpointFacts`, whose modules stand above this one
Loader = Callable[[Path], tuple[Any, Any]]
# filled by `lightning_app.models`: what reads checkpoints makes recognisers, and knows their classes
LOADERS: list[Loader] = []


def origins_in(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """Return what a checkpoint says it took from others: `init_from`, `teacher` → SHA-256 of their files.

    Args:
        checkpoint: read from a file, which may be somebody else's: what is no hash is left out.
    """
    found = checkpoint.get(ORIGINS)
    if not isinstance(found, Mapping):
        return {}
    return {name: found[name] for name in _NAMES if is_hash(found.get(name))}


def start_from(path: Path, backbone: Backbone, data: Any) -> str:
    """Give a backbone the weights of another recogniser's; its head is not taken.

    Args:
        path: a checkpoint, an export's safetensors, or the folder of a run; gates may be missing in it.
        backbone: takes the weights; gates that the other has not stay as they are.
        data: the DataModule; images must be normalised as the other's were.

    Returns:
        SHA-256 of the other's file.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no recogniser's, or of another network; names the first weight that differs.
    """
    other, facts = LOADERS[0](path)
    if data is not None:
        facts.check_normalised(data.mean, data.std)
    theirs: dict[str, Tensor] = other.backbone.state_dict()
    mine = backbone.state_dict()
    gated = any(name.startswith(_GATES) for name in theirs)
    wanted = {name for name in mine if gated or not name.startswith(_GATES)}
    differ = sorted(
        name for name in wanted | theirs.keys()
        if name not in wanted or name not in theirs or mine[name].shape != theirs[name].shape
    )  # fmt: skip
    if differ:
        first = differ[0]
        raise ValueError(
            f"model.init_from {facts.path}: a {facts.model} of another network, {len(differ)} weights differ, the "
            f"first is backbone.{first} ({_shape(theirs, first)} there, {_shape(mine, first)} here): give a "
            "checkpoint of this backbone, width and gates; gates alone may be missing"
        )
    backbone.load_state_dict({**mine, **theirs})
    return str(facts.sha256)


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, state[name].shape)) or "one number" if name in state else "missing"


def read_teacher(path: Path, size: int) -> tuple[Any, Any]:
    """Read a clean recogniser whose embeddings of clean faces another network learns.

    Args:
        path: its checkpoint, an export's safetensors, or the folder of its run.
        size: side of the clean faces in pixels.

    Returns:
        The recogniser and what its checkpoint says, see `LOADERS`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no recogniser's, was trained on desensitized faces, or takes no pictures of that size.
    """
    model, facts = LOADERS[0](path)
    if facts.clean is False:
        raise ValueError(
            f"model.teacher {facts.path}: was trained on desensitized faces; give a recogniser of clean ones"
        )
    if (facts.input_size, facts.in_channels) != (size, 3):
        raise ValueError(
            f"model.teacher {facts.path}: takes {facts.in_channels} channels of {facts.input_size} px, the clean "
            f"faces have 3 of {size} px: give one trained on such"
        )
    return model, facts


class Teacher:
    """A clean recogniser whose embeddings of clean faces another one learns; frozen, and no part of the learner.

    It is no module of the learner's: neither in its state dict nor in its optimiser or export.

    Args:
        path: its checkpoint, an export's safetensors, or the folder of its run.
        dim: D, the width of the learner's embeddings.
        data: the DataModule: gives clean faces, as large and as normalised as the teacher's.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is no recogniser's, was trained on desensitized faces, or embeds in another width; or the data
            give no clean faces, or others than it takes.
    """

    def __init__(self, path: Path, dim: int, data: Any) -> None:
        if not getattr(data, "keep_clean", False):
            if getattr(data, "released", False):
                raise ValueError(
                    "model.teacher embeds clean faces, and a released set has none: distil where the raw images are, "
                    "or leave teacher and distillation out"
                )
            raise ValueError("model.teacher embeds clean faces: set data.keep_clean to true")
        if getattr(getattr(data, "desensitizer", None), "mixes", 1) > 1:
            raise ValueError(
                "model.teacher: data.desensitizer mixes images, and a mixed one has no clean face to be like; leave "
                "teacher and distillation out"
            )
        model, facts = read_teacher(path, data.size)
        if model.backbone.dim != dim:
            raise ValueError(
                f"model.teacher {facts.path}: embeds in {model.backbone.dim} dimensions, this backbone in {dim}: give "
                "a teacher as wide (resnet18 and resnet34 are)"
            )
        # its own, whatever the learner's representation takes; 0.5 where its checkpoint does not tell
        self._mean, self._std = (float(facts.data.get(name, 0.5)) for name in ("mean", "std"))
        self.sha256 = str(facts.sha256)
        self._model: Any = model.eval().requires_grad_(False)

    def check_same(self, sha256: str | None) -> None:
        """Refuse to go on with another teacher than a checkpoint's.

        Args:
            sha256: of the checkpoint's teacher; None where it tells of none.

        Raises:
            ValueError: it is another.
        """
        if sha256 is not None and sha256 != self.sha256:
            raise ValueError(
                f"model.teacher: its hash is {self.sha256[:_SHOWN]}, this run learnt from {sha256[:_SHOWN]}: give that "
                "one, or start anew with --overwrite"
            )

    def to(self, module: nn.Module) -> None:
        """Move it to where the learner is, in its precision.

        Args:
            module: the learner.
        """
        like = next(module.parameters())
        self._model.to(device=like.device, dtype=like.dtype)

    def loss(self, embedding: Tensor, clean: Tensor) -> Tensor:
        """Return 1 − cosine of the learner's embeddings and the teacher's of the clean faces, the batch's mean.

        Args:
            embedding: `[B,D]`, the learner's.
            clean: `[B,3,H,W]` float in [0,1], moved as the learner's images were.
        """
        with torch.no_grad():
            like = next(self._model.parameters())
            target: Tensor = self._model.embed(normalised(clean, self._mean, self._std).to(like.dtype))
        return 1 - F.cosine_similarity(embedding.float(), target.float(), dim=1).mean()


def check_teacher(
    origins: Mapping[str, str],
    teachers: Sequence[Teacher],
    saved: Mapping[str, Any],
    weight: float,
    fits: bool,
) -> None:
    """Check that a run goes on with the teacher it learnt from, in `fit` with the same weight too.

    Args:
        origins: what the checkpoint took from others (`origins_in`).
        teachers: this recogniser's teacher, or none.
        saved: the checkpoint's hyper-parameters.
        weight: this recogniser's `distillation`.
        fits: whether training goes on.

    Raises:
        ValueError: it is another teacher or weight.
    """
    if fits and "teacher" in origins and not teachers:
        log.warning(
            "The checkpoint's run learnt from a teacher; it goes on without one: the loss is another."
        )
    for teacher in teachers:
        teacher.check_same(origins.get("teacher"))
        if fits and saved.get("distillation", weight) != weight:
            raise ValueError(
                f"model.distillation={weight}, this run learnt with {saved['distillation']}: give that, or start anew "
                "with --overwrite"
            )
