"""What the files of a release are called, and when all of them were last changed."""

from __future__ import annotations

import re

from lightning_app.release.format.pseudonyms import DIGITS

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MASK, MASK_FACTS, IMAGES = "mask.png", "mask.json", "images"
TIMESTAMP = 315532800  # 1980-01-01 00:00:00 UTC: when every file and folder of a release was last changed

_IMAGE = re.compile(rf"{IMAGES}/([0-9a-f]{{{DIGITS}}})/[0-9a-f]{{{DIGITS}}}\.png")


def image_file(identity: str, image: str) -> str:
    """Return the path of an image in a release.

    Args:
        identity: pseudonym of the identity.
        image: pseudonym of the image.
    """
    return f"{IMAGES}/{identity}/{image}.png"


def is_image_file(name: str) -> bool:
    """Return whether a path, as `files` has it, is that of an image of a release."""
    return identity_of(name) is not None


def identity_of(name: str) -> str | None:
    """Return the pseudonym of the identity that an image's path names; None of any other path.

    Args:
        name: path, as `files` of a manifest has it.
    """
    match = _IMAGE.fullmatch(name)
    return match[1] if match else None
