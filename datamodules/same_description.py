"""Whether two descriptions are of one way to desensitize faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from lightning_app.desensitize import Desensitizer, described
from lightning_app.desensitize.block_dct import in_order
from lightning_app.release.format.method import key_hashes

__all__ = [
    "EARLIER",
    "alone",
    "check_key",
    "check_learnt",
    "check_same",
    "earlier_desensitizers",
    "key_hashes",
    "refuse_desensitizer",
    "same_desensitizer",
    "summary",
]
EARLIER = "earlier_desensitizers"  # of a DataModule's state in a checkpoint
# entries of a description that say what a desensitizer has learnt, and what people call that
_LEARNT = {"masker_hash": "masker", "budget_hash": "budget", "eigenfaces_hash": "eigenfaces"}


def same_desensitizer(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Compare what `Desensitizer.describe` gave: equal masks where both have any, else all of it.

    Of a codebook all of it, too: the same public masks may be chosen otherwise.

    Args:
        theirs: of a checkpoint or a released set.
        ours: of a desensitizer at hand.
    """
    theirs, ours = _one_spelling(theirs), _one_spelling(ours)
    if ("settings" in theirs) != (
        "settings" in ours
    ):  # checkpoints of before kept no hash of a user's settings
        theirs, ours = ({k: v for k, v in one.items() if k != "settings"} for one in (theirs, ours))
    hashes = [description.get("mask_hash") for description in (theirs, ours)]
    if any(
        "choice" in description for description in (theirs, ours)
    ):  # which of a codebook's masks, is chosen in several ways
        return theirs == ours
    return hashes[0] == hashes[1] if all(hashes) else theirs == ours


def _one_spelling(description: dict[str, Any]) -> dict[str, Any]:
    """Sort the lists of channels, which earlier versions kept as they were given; they always meant the same."""
    found = dict(description)
    if isinstance(found.get("channels"), list):
        found["channels"] = in_order(found["channels"])
    if isinstance(found.get("steps"), list):
        found["steps"] = [_one_spelling(step) if isinstance(step, dict) else step for step in found["steps"]]
    return found


def alone(description: dict[str, Any]) -> dict[str, Any]:
    """Describe what is done to a single image by a method of ours so described: who mixes does nothing to it.

    Args:
        description: what `Desensitizer.describe` gave.
    """
    kind = described(description)
    return description if kind is None else dict(kind.for_one(description))


def check_key(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse another owner's key than the one that a checkpoint was trained with.

    Args:
        theirs: description of the checkpoint's desensitizer.
        ours: of the one at hand.

    Raises:
        ValueError: both are of one method, and their keys differ.
    """
    keys = [key_hashes(description) for description in (theirs, ours)]
    if theirs.get("method") != ours.get("method") or len(keys[0]) != len(keys[1]) or keys[0] == keys[1]:
        return
    before, now = next(pair for pair in zip(*keys, strict=True) if pair[0] != pair[1])
    raise ValueError(
        f"data.desensitizer.key: the checkpoint was trained with the owner's key {before[:12]}…, here {ours['method']} "
        f"draws from {now[:12]}…: give the file of that key (a random one, which is taken where none is given, ends "
        "with its process)"
    )


def check_learnt(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse another masker, noise budget or set of eigenfaces than the one that a run was begun under.

    Args:
        theirs: description of the checkpoint's desensitizer.
        ours: of the one at hand.

    Raises:
        ValueError: both are of one method that makes other images, and has learnt otherwise.
    """
    trained, here = _learnt(theirs), _learnt(ours)
    same = theirs.get("method") != ours.get("method") or same_desensitizer(theirs, ours)
    if same or len(trained) != len(here) or trained == here:
        return
    (name, before), (_, now) = next(pair for pair in zip(trained, here, strict=True) if pair[0] != pair[1])
    raise ValueError(
        f"data.desensitizer: the checkpoint was trained under the {name} {before[:12]}…, here is {now[:12]}…: give "
        "that one, or begin anew (--overwrite; model.init_from takes the weights along)"
    )


def refuse_desensitizer(theirs: dict[str, Any], ours: dict[str, Any]) -> NoReturn:
    """Refuse to go on under another desensitizer.

    Args:
        theirs: description of the checkpoint's desensitizer.
        ours: of the one at hand.

    Raises:
        ValueError: always; names both.
    """
    raise ValueError(
        f"data.desensitizer: the checkpoint was trained on faces desensitized by {summary(theirs)}, here they are "
        f"desensitized by {summary(ours)}: go on with that of its config.yaml, or begin a new run with another --name "
        "(model.init_from takes the weights along; data.other_data: accept goes on all the same)"
    )


def earlier_desensitizers(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the other desensitizers under which a run trained before its last one, oldest first.

    Args:
        state: of the DataModule, as a checkpoint keeps it.
    """
    return [dict(one) for one in state.get(EARLIER) or []]


def _learnt(description: object) -> list[tuple[str, str]]:
    """List what a description, or a part of it, says of what was learnt: name and hash."""
    if isinstance(description, dict):
        own = [(name, str(description[key])) for key, name in _LEARNT.items() if description.get(key)]
        return own + [one for value in description.values() for one in _learnt(value)]
    return (
        [one for value in description for one in _learnt(value)]
        if isinstance(description, list | tuple)
        else []
    )


def check_same(released: Desensitizer, given: Desensitizer | None, size: int) -> None:
    """Refuse a desensitizer other than the one that a released set went through.

    Args:
        released: of the set.
        given: by the user, if any.
        size: side of the images in pixels.

    Raises:
        ValueError: they differ.
    """
    if given is None:
        return
    given.prepare((size, size))
    theirs, ours = released.describe(), given.describe()
    if not same_desensitizer(theirs, ours):
        raise ValueError(
            f"data.desensitizer: the released set was desensitized by {summary(theirs)}, this is {summary(ours)}: "
            "leave it out (desensitizer: null), the set brings its own"
        )


def summary(description: dict[str, Any]) -> str:
    """Return a description in short: method, of masks ratio and start of the hash, of a key or a masker its start."""
    ratio, digest = description.get("mask_ratio"), str(description.get("mask_hash", ""))[:12]
    parts = [f"key {one[:12]}" for one in key_hashes(description)] + [
        f"{name} {h[:12]}" for name, h in _learnt(description)
    ]
    if ratio is not None and digest:
        parts = [f"mask ratio {ratio:.4f}, hash {digest}"]
    return str(description["method"]) + (f" ({', '.join(parts)})" if parts else "")


def but_keys(description: object) -> object:
    """Return a description without the hashes of keys.

    Args:
        description: of a desensitizer, or a part of one.
    """
    if isinstance(description, dict):
        return {name: but_keys(value) for name, value in description.items() if name != "key_hash"}
    return [but_keys(one) for one in description] if isinstance(description, list | tuple) else description
