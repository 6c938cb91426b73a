"""Images that lie on their side in their files: told of once, since a release refuses what training turns."""

from __future__ import annotations

import logging

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from datamodules.readers.decode import is_turned

log = logging.getLogger("faceveil")
_LOOKED_AT = 100  # images of a set, spread over it: a set of millions is not read for this


def tell_of_turned(reader: FaceReader, what: str) -> None:
    """Say in a line how many of a set's images are turned while they are read, as their EXIF says.

    Args:
        reader: the set, looked through.
        what: it is called, such as `data.reader`.
    """
    count = min(_LOOKED_AT, len(reader))
    at = sorted({round(place * (len(reader) - 1) / max(1, count - 1)) for place in range(count)})
    turned = [index for index in at if _is_turned(reader, index)]
    if turned:
        log.warning(
            "%s: %d of %d images looked at are to be turned, says their EXIF, the first is %s. They are turned upright "
            "here; desensitize refuses them: align the set.", what, len(turned), len(at), reader.name(turned[0]),
        )  # fmt: skip


def _is_turned(reader: FaceReader, index: int) -> bool:
    try:
        data = reader.encoded(index)
    except BadImage:  # told of where it is read
        return False
    return data is not None and is_turned(data)
