"""Image files to upright pixels, and aligned pixels to files; light, for every worker process imports it.

`datamodules.readers.decode` brings torch with it, ten seconds of processor time a process; a test holds the two equal.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lightning_app.alignment.similarity import Pixels
from lightning_app.core.modes import grey_or_rgb
from lightning_app.core.pixel_limit import check_pixels

_FORMATS = ("JPEG", "PNG", "WEBP")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Undecodable(ValueError):
    """An image that cannot be read or decoded; its message names the file."""


def read_upright(path: str) -> Pixels:
    """Decode an image and turn it as its EXIF orientation says.

    Args:
        path: a JPEG, PNG or WebP file. Transparency is dropped, palettes and CMYK become RGB, of 16 bits the
            upper 8 are taken.

    Returns:
        uint8 `[H,W]` where it is grey, else `[H,W,3]`.

    Raises:
        Undecodable: it is missing, truncated, or not an image of these formats.
    """
    return read_oriented(path)[0]


def read_oriented(path: str) -> tuple[Pixels, int]:
    """Decode an image as `read_upright` does, and tell how it lies in its file.

    Args:
        path: see `read_upright`.

    Returns:
        The upright pixels; EXIF's orientation, 1 (upright) … 8.

    Raises:
        Undecodable: see `read_upright`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            check_pixels(opened)
            orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
            pixels = np.array(grey_or_rgb(ImageOps.exif_transpose(opened)), np.uint8)
            return pixels, orientation if orientation in range(1, 9) else 1
    except _BROKEN as error:
        raise Undecodable(f"{path}: cannot be decoded ({error})") from error


def encode(pixels: Pixels, jpeg_quality: int | None = None) -> bytes:
    """Encode an aligned face: pixels and nothing else, no metadata of the source.

    Args:
        pixels: uint8 `[S,S]` or `[S,S,3]`.
        jpeg_quality: 1 … 100, colours at full resolution; None encodes as PNG, without loss.
    """
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels)
    if jpeg_quality is None:
        picture.save(buffer, format="PNG")
    else:
        picture.save(buffer, format="JPEG", quality=jpeg_quality, subsampling=0)
    return buffer.getvalue()
