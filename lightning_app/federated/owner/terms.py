"""What an owner insists on, whatever the server says: by its own file, and by what it has agreed to before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from datamodules import FaceDataModule
from datamodules.same_description import key_hashes
from lightning_app.desensitize import Desensitizer
from lightning_app.federated.protocol.messages import Invitation, Refusal
from lightning_app.federated.protocol.plan import Plan
from lightning_app.federated.protocol.shared_mask import mask_and_hash
from lightning_app.masks import mask_hash, mask_ratio
from lightning_app.masks.bits import as_array

log = logging.getLogger("faceveil")
LEAST = 0.5  # mask ratio of a mask that nobody said more of
_ROUNDS, _SEEDS = 10**6, 2**63


def recorded(invitation: Invitation) -> dict[str, Any]:
    """Return what an owner writes down of an invitation: all of it, and of the mask whether there is one."""
    return asdict(replace(invitation, mask=None)) | {"mask": invitation.mask is not None}


def check_invitation(invitation: Invitation, plan: Plan) -> None:
    """Refuse an invitation that asks more of an owner than its own file allows.

    Args:
        invitation: of the server.
        plan: of the owner's own file.

    Raises:
        Refusal: it does.
    """
    for key, low, high in (
        ("rounds", 1, _ROUNDS),
        ("local_epochs", 1, plan.max_local_epochs),
        ("seed", -_SEEDS, _SEEDS),
    ):
        value = getattr(invitation, key)
        if not low <= value <= high:
            own = " (max_local_epochs of this owner's file)" if key == "local_epochs" else ""
            raise Refusal(f"the server's {key}={value} is not within {low} to {high}{own}")
    if plan.heads_stay and not invitation.private_heads:
        said = "says" if plan.private_heads else "is silent, which means"
        raise Refusal(
            "the server asks for the head, a row for each person (private_heads: false), and this owner's file "
            f"{said} private_heads: true: its head stays; write private_heads: false there to give it away"
        )


def check_accepted(kept: Mapping[str, Any], invitation: Invitation) -> None:
    """Refuse an invitation to a run that differs from the one this owner has accepted.

    Args:
        kept: what `recorded` gave of that one.
        invitation: as it comes now.

    Raises:
        Refusal: it does; names the field.
    """
    now = recorded(invitation)
    other = next((key for key in now if kept.get(key) != now[key]), None)
    if other is not None:
        raise Refusal(
            f"the server's {other} has changed since this owner joined the run {invitation.run} "
            f"({kept.get(other)} then, {now[other]} now): an owner keeps to what it accepted; a new run of the server "
            "has another name"
        )


def servers_mask(
    invitation: Invitation, data: FaceDataModule, own: Mapping[str, Any] | str | None, plan: Plan
) -> Tensor | None:
    """Return the mask that the server wants, where the owner's own file does not speak against it.

    Args:
        invitation: of the server.
        data: of the owner, as its file has it.
        plan: of the owner's own file.
        own: the desensitizer in that file; None where it names none.

    Returns:
        `[1,H,W]` uint8, 1 = visible; None where the owner hides its faces by what its own file, or its released set,
        names.

    Raises:
        Refusal: the mask cannot be used, or nothing would be hidden.
    """
    if own is None and not data.desensitizer.hides:
        if data.released:
            raise Refusal(
                "data.reader: the released set hides nothing; if that is meant, write none as desensitizer"
            )
        if invitation.mask is None:
            raise Refusal(
                "the server sends no mask, and this owner's file names no desensitizer (data.desensitizer: null): its "
                "faces would be trained on as they are; write the desensitizer that all have agreed on there, or none"
            )
    if data.released:
        return None
    if invitation.mask is None:
        _check_agreed(invitation, data)
        return None
    if data.desensitizer.hides:
        theirs = mask_and_hash(data.desensitizer, data.size)[1]
        if theirs != invitation.mask_hash:
            raise Refusal(
                f"data.desensitizer: this owner's desensitizer has the hash {theirs[:12]}…, the federation's "
                f"{invitation.mask_hash[:12]}…: leave it out (desensitizer: null), the server sends the mask"
            )
    mask, size = invitation.mask, data.size
    if tuple(mask.shape) != (1, size, size):
        raise Refusal(f"the server's mask is {list(mask.shape)}, this owner's images need {[1, size, size]}")
    try:
        pixels = torch.from_numpy(as_array(mask))
    except ValueError as error:
        raise Refusal(f"the server's {error}") from error
    if mask_hash(pixels) != invitation.mask_hash:
        raise Refusal(
            f"the server's mask has the hash {mask_hash(pixels)[:12]}…, its invitation says "
            f"{invitation.mask_hash[:12]}…"
        )
    ratio = float(mask_ratio(pixels[0]))
    if not 0 < ratio < 1:
        raise Refusal(f"the server's mask hides {'every' if ratio else 'no'} pixel")
    _check_masks({"mask_hash": invitation.mask_hash, "mask_ratio": ratio}, plan, LEAST)
    return pixels


def _check_agreed(invitation: Invitation, data: FaceDataModule) -> None:
    """Refuse another desensitizer than the server's, which sends no mask, but a hash of what all must agree on."""
    theirs = mask_and_hash(data.desensitizer, data.size)[1]
    if invitation.mask_hash in ("", theirs):
        return
    keyed = key_hashes(data.desensitizer.agreed())
    key = f", and one key file (this owner's key has the hash {keyed[0][:12]}…)" if keyed else ""
    raise Refusal(
        f"data.desensitizer: this owner's {data.desensitizer.describe()['method']} has the hash {theirs[:12]}…, the "
        f"federation's {invitation.mask_hash[:12]}…: all owners and the server need the same settings{key}"
    )


def check_desensitizer(desensitizer: Desensitizer, plan: Plan) -> None:
    """Refuse what hides less than an owner's own file asks for, or than half where it puts masks on and that is silent.

    Args:
        desensitizer: prepared.
        plan: of the owner's own file.

    Raises:
        Refusal: see `_check_masks`.
    """
    least = 0.0 if desensitizer.masking_step() is None else LEAST
    _check_masks(masking_facts(desensitizer), plan, least)


def masking_facts(desensitizer: Desensitizer) -> dict[str, object]:
    """Describe what puts masks on the images, such as the first step of a `Chain`; else the desensitizer itself."""
    return (desensitizer.masking_step() or desensitizer).describe()


def _check_masks(facts: Mapping[str, object], plan: Plan, usual: float) -> None:
    """Check masks against an owner's own file.

    Args:
        facts: what is said of them (`describe`).
        plan: of the owner's own file.
        usual: the least mask ratio, where the file names neither a ratio nor a mask.

    Raises:
        Refusal: another mask than `mask_hash`, or one with a mask ratio below `min_mask_ratio`.
    """
    found = str(facts.get("mask_hash", ""))
    if plan.mask_hash is not None and found != plan.mask_hash:
        there = f"this one is {found[:12]}…" if found else f"{facts['method']} has none"
        raise Refusal(f"mask_hash: this owner's file asks for the mask {plan.mask_hash[:12]}…, {there}")
    least = plan.min_mask_ratio
    if least is None:
        least = usual if plan.mask_hash is None else 0.0
    ratio = lowest_ratio(facts)
    if ratio is not None and ratio < least:
        raise Refusal(
            f"the mask hides {ratio:.4f} of the pixels, this owner asks for {least:g} or more: another mask, or, where "
            "that is agreed on, min_mask_ratio or mask_hash in this owner's file"
        )


def check_changes(data: FaceDataModule) -> None:
    """Refuse a desensitizer that leaves images as they are, such as a blur whose sigma does nothing.

    Args:
        data: of the owner; noise is desensitized with it.

    Raises:
        Refusal: not one pixel is changed.
    """
    draw = torch.Generator().manual_seed(0)
    count = max(2, data.desensitizer.mixes)
    noise = torch.randint(256, (count, 3, data.size, data.size), generator=draw, dtype=torch.uint8)
    with torch.random.fork_rng(devices=[]):
        image = data.desensitized(noise, draw_key=data.as_trained(count))["image"]
    if image.shape == noise.shape and torch.equal((image * 255).round(), noise.float()):
        raise Refusal(
            f"data.desensitizer: {data.desensitizer.describe()} changes no pixel: this owner's faces would be trained "
            "on as they are; if that is meant, write none"
        )


def lowest_ratio(facts: Mapping[str, object]) -> float | None:
    """Return the lowest mask ratio of the masks that a description speaks of; None where it has none.

    Args:
        facts: as `Desensitizer.describe` gives them.
    """
    ratios: Any = facts.get("mask_ratio_range") or [facts.get("mask_ratio")]
    return None if ratios[0] is None else float(ratios[0])
