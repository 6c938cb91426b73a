"""How large a picture may be before it is decoded: a file of kilobytes may claim gigabytes of pixels.

Light, for every worker process imports it.
"""

from __future__ import annotations

import warnings

from PIL import Image

MOST_PIXELS = 89_478_485  # where Pillow begins to warn; as RGB a quarter of a gigabyte
# Pillow's own word to it, which names no file, and comes before `check_pixels` refuses the picture
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def check_pixels(picture: Image.Image) -> None:
    """Refuse a picture with more pixels than any photograph of a face.

    Args:
        picture: opened, not yet decoded.

    Raises:
        ValueError: it claims more than `MOST_PIXELS`.
    """
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(
            f"it claims {picture.width}×{picture.height} pixels, more than {MOST_PIXELS:,}: not decoded"
        )
