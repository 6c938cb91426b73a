"""How a set's images lie in their files: what training makes do with is told of once, before it starts."""

from __future__ import annotations

import logging

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from datamodules.readers.decode import is_turned, upright_size

log = logging.getLogger("faceveil")
_LOOKED_AT = 100  # images of a set, spread over it: a set of millions is not read for this


def tell_of_stored(reader: FaceReader, what: str) -> None:
    """Say how many of a set's images are turned as their EXIF says, or squeezed into a square, while they are read.

    A release refuses images that are turned. An image that is not square is squeezed where there is no crop.

    Args:
        reader: the set, looked through.
        what: it is called, such as `data.reader`.
    """
    count = min(_LOOKED_AT, len(reader))
    at = sorted({round(place * (len(reader) - 1) / max(1, count - 1)) for place in range(count)})
    turned: list[int] = []
    squeezed: list[tuple[int, str]] = []
    for index in at:
        data = _encoded(reader, index)
        if data is None:
            continue
        if is_turned(data):
            turned.append(index)
        if reader.crop is None and (found := upright_size(data)) is not None and found[0] != found[1]:
            squeezed.append((index, f"{found[0]}×{found[1]}"))
    if turned:
        log.warning(
            "%s: %d of %d images looked at are to be turned, says their EXIF, the first is %s. They are turned upright "
            "here; desensitize refuses them: align the set.", what, len(turned), len(at), reader.name(turned[0]),
        )  # fmt: skip
    if squeezed:
        index, pixels = squeezed[0]
        log.warning(
            "%s: %d of %d images looked at are not square, the first is %s of %s pixels. They are squeezed into a "
            "square with crop: null; align the set, or give `crop`: the side of the central square that the face fills",
            what, len(squeezed), len(at), reader.name(index), pixels,
        )  # fmt: skip


def _encoded(reader: FaceReader, index: int) -> bytes | None:
    try:
        return reader.encoded(index)
    except BadImage:  # told of where it is read
        return None
