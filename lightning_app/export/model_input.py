"""Which mask a recogniser was trained under: found again by its hash, never taken on trust."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer, MaskEach, described
from lightning_app.masks import guarded, load_mask, mask_hash, mask_ratio
from lightning_app.models.checkpoints import CheckpointFacts
from lightning_app.release.format.names import MASK
from lightning_app.release.format.public import public_method

log = logging.getLogger("faceveil")


@dataclass(frozen=True)
class ModelInput:
    """How the images that a recogniser takes are desensitized.

    Attributes:
        description: what the checkpoint says of its desensitizer, without names of files; None where it does not tell.
        mask: `[1,1,H,W]`, the one mask of all images; None where there is none, or several.
        multiplies: whether multiplying by the mask is all that the desensitizer does.
        chosen: whether the mask was the user's choice, the checkpoint having been trained under several or not
            telling under which.
        each: whether every image has a mask of its own, which a gated recogniser takes as a second input.
    """

    description: dict[str, Any] | None
    mask: Tensor | None = None
    multiplies: bool = False
    chosen: bool = False
    each: bool = False

    @property
    def method(self) -> str | None:
        """Return the desensitizer's description; None where it is not known."""
        return None if self.description is None else str(self.description["method"])

    @property
    def masks(self) -> int:
        """Return how many masks it was trained under."""
        if self.description is None or "mask_hash" not in self.description:
            return 0
        masks = self.description.get("masks")
        return 1 if masks is None else int(masks)


def find_model_input(
    facts: CheckpointFacts, config: dict[str, Any], given: str | Path | None, gated: bool
) -> ModelInput:
    """Find the mask that a checkpoint was trained under, or check the one given.

    It is looked for, in this order: in what the checkpoint says (a drawn mask can be drawn again), in the files
    that the run's config names, and beside the checkpoint.

    Args:
        facts: of the checkpoint.
        config: the run's `config.yaml`; empty where there is none.
        given: a mask file of the user's.
        gated: whether the recogniser looks at masks: has FSMs, or partial convolutions.

    Raises:
        FileNotFoundError: the mask given is not there.
        ValueError: it is not the checkpoint's, there is none to be given, or one is needed and is not found.
    """
    trained_under = facts.desensitizer
    model_input = ModelInput(None if trained_under is None else public_method(trained_under))
    kind = described(model_input.description)
    if kind is not None and kind.describes_each(model_input.description or {}):
        if given is not None:
            raise ValueError(
                f"--mask {given}: the checkpoint was trained under a mask for each image: leave --mask out, a gated "
                "recogniser takes them as a second input"
            )
        return ModelInput(model_input.description, each=True)
    # without a mask a gate is 1, in training too
    maskless, hides = kind is not None and kind.has_mask is False, kind is not None and kind.hides_only
    if given is None:
        if model_input.masks == 1:
            return ModelInput(model_input.description, _found(facts, config), hides)
        if gated and not maskless:
            trained = (
                f"trained under {model_input.masks:,} masks"
                if model_input.masks
                else "whose checkpoint does not name its mask"
            )
            raise ValueError(
                f"checkpoint {facts.path}: a {facts.model} {trained}, and an export holds what one mask decides: give "
                "--mask PNG, that of the images it is to be used on"
            )
        return model_input
    mask = load_mask(given, facts.input_size)
    if model_input.masks == 1:
        assert trained_under is not None
        kept = _matching(mask, trained_under)
        if kept is None:
            raise ValueError(
                f"--mask {given}: its hash is {mask_hash(mask)[:12]}, the checkpoint was trained under "
                f"{str(trained_under['mask_hash'])[:12]}: give that mask, or leave --mask out to have it looked for"
            )
        return ModelInput(model_input.description, kept, hides)
    if maskless:
        raise ValueError(
            f"--mask {given}: the checkpoint was trained on faces desensitized by {model_input.method}, which "
            "has no mask: leave --mask out"
        )
    spread = None if model_input.description is None else model_input.description.get("mask_ratio_range")
    ratio = mask_ratio(mask)
    if spread is not None and not spread[0] <= ratio <= spread[1]:
        log.warning("--mask %s: mask ratio %.4f, but the masks trained under have %.4f … %.4f.",
                    given, ratio, spread[0], spread[1])  # fmt: skip
    return ModelInput(model_input.description, mask[None], hides or trained_under is None, chosen=True)


def _found(facts: CheckpointFacts, config: dict[str, Any]) -> Tensor:
    description = facts.desensitizer
    assert description is not None
    looked = []
    for name, make in _sources(facts, config, description):
        try:
            mask = make()
            kept = None if mask is None else _matching(mask.reshape(1, *mask.shape[-2:]), description)
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
            looked.append(f"{name}: {error}")
            continue
        if kept is not None:
            return kept
        looked.append(f"{name} is another mask")
    raise ValueError(
        f"checkpoint {facts.path}: the mask it was trained under (hash {str(description['mask_hash'])[:12]}) is not "
        f"found ({'; '.join(looked) or 'the run has no config'}): give --mask PNG"
    )


def _sources(
    facts: CheckpointFacts, config: dict[str, Any], description: dict[str, Any]
) -> Iterator[tuple[str, Callable[[], Tensor | None]]]:
    size = facts.input_size
    kind = described(description)
    if kind is not None and kind.has_mask and not kind.needs_file(description):
        yield "its description", lambda: _again(kind, description, size)
    data = config.get("data")
    masker = _argument(data, "desensitizer", "checkpoint")
    if kind is not None and issubclass(kind, MaskEach) and masker:
        yield masker, lambda: kind.one_mask(description, masker, size)
    named = _argument(data, "desensitizer", "mask")
    beside = [
        Path(folder) / MASK for folder in (_argument(data, "reader", "root"), facts.path.parent) if folder
    ]
    # a path of a config is as from where the run was begun: mostly the folder in which `runs` lies
    begun = (
        [above / named for above in facts.path.parents[2:4]]
        if named and not Path(named).is_absolute()
        else []
    )
    there = [path for path in (*begun, *beside) if path.is_file()]
    for file in ([Path(named)] if named else []) + there:
        yield str(file), lambda path=file: load_mask(path, size)  # type: ignore[misc]


def _argument(data: object, part: str, name: str) -> str | None:
    """Take a path out of the config beside a checkpoint, which may hold anything."""
    found = data
    for key in ("init_args", part, "init_args", name):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


def _again(kind: type[Desensitizer], description: dict[str, Any], size: int) -> Tensor | None:
    """Make the one mask `[1,1,H,W]` again that a checkpoint describes, which may be somebody else's."""
    made = kind.from_description({**description, "count": 1, "guard": _guard(description, size)})
    made.prepare((size, size))
    # what it returns of black images: how a class keeps its mask is its own affair
    black: Batch = {"image": torch.zeros(1, 3, size, size), "index": torch.zeros(1, dtype=torch.int64)}
    return made.forward(black)["mask"]


def _guard(description: dict[str, Any], size: int) -> int:
    guard = int(description.get("guard", 0))
    if not 0 <= guard <= size:
        raise ValueError(f"its guard of {guard} px is none for images of {size} px")
    return guard


def _matching(mask: Tensor, description: dict[str, Any]) -> Tensor | None:
    """Convert a mask to `[1,1,H,W]` if it is the one described, as it is or with the guard; None where it is not."""
    guard = _guard(description, mask.shape[-1])
    for candidate in (mask, guarded(mask, guard)) if guard else (mask,):
        if mask_hash(candidate) == description["mask_hash"]:
            return candidate[None]
    return None
