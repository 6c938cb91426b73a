"""Which images an attacker can see the bits of."""

from __future__ import annotations

from lightning_app.desensitize import Desensitizer


def check_bit_planes(asked: bool, desensitizer: Desensitizer) -> None:
    """Refuse bits of what are no pixels.

    Args:
        asked: whether the attacker is to see bits.
        desensitizer: the one attacked.

    Raises:
        ValueError: it releases a representation.
    """
    if asked and not desensitizer.is_image:
        raise ValueError(
            f"model.bit_planes: {type(desensitizer).__name__} releases no pictures, whose pixels have eight bits: set "
            "it to false"
        )
