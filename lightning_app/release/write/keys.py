"""The owner's keys that a release is drawn from: from files, once for all, and never inside of the release."""

from __future__ import annotations

from pathlib import Path

from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.pseudonyms import refuse_inside


def check_draws(desensitizer: Desensitizer, key_file: bool = True) -> None:
    """Refuse a method that draws anew in every epoch, or from a key that ends with this process.

    Args:
        desensitizer: prepared.
        key_file: whether a keyed method must have its key from a file; False for an audit's own check of a config.

    Raises:
        ValueError: it does; the message says what to give.
    """
    name = type(desensitizer).__name__
    for step in desensitizer.modules():
        if getattr(step, "redraw", None) == "epoch":
            raise ValueError(
                f"desensitizer: {getattr(step, 'method', type(step).__name__)} has redraw: epoch, and a release is "
                "drawn once; give redraw: once"
            )
    if not key_file or not desensitizer.keyed:
        return
    keys = desensitizer.owner_keys()
    if not keys or not all(key.from_file for key in keys):
        raise ValueError(
            f"desensitizer: {name} draws from the owner's key, and none is given as a file: a random one ends with "
            "this process, and then nobody can verify, audit or go on with the release. Make one, "
            "`(umask 077; mkdir -p keys; openssl rand -hex 32 > keys/owner.key)`, and give `key: keys/owner.key`"
        )


def keep_keys_out(desensitizer: Desensitizer, output: str | Path) -> None:
    """Refuse an owner's key that would leave the house with the release.

    Args:
        desensitizer: whose keys they are.
        output: folder of the release.

    Raises:
        ValueError: a key lies in it.
    """
    for key in desensitizer.owner_keys():
        if key.path is not None:
            refuse_inside(key.path, output, "the owner's key")
