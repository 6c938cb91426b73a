"""What must be right before a release is begun, and what is told of it then."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.readers.decode import size_of
from datamodules.readers.subset import Subset
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import MANIFEST
from lightning_app.release.format.png import LARGEST
from lightning_app.release.format.pseudonyms import refuse_inside
from lightning_app.release.format.signing import fingerprint

log = logging.getLogger("faceveil")
_JPEG_REACH = (
    7,
    15,
)  # pixels that a JPEG's pixel leaves traces in: of full colours, and of colours of half the size
_LOOKED_AT = 16  # images whose size is looked at where the whole of them is taken


def check_arguments(
    reader: FaceReader, output: Path, owner: Path, compression: int, batch_size: int, workers: int | None
) -> None:
    """Refuse arguments that no release can be made with.

    Args:
        reader: the raw set.
        output: the folder that may leave the house.
        owner: the folder that stays.
        compression: zlib's level.
        batch_size: images desensitized at a time.
        workers: processes, or None.

    Raises:
        ValueError: naming the argument and the value received.
    """
    if not 0 <= compression <= 9:
        raise ValueError(f"compression: {compression}; give a zlib level from 0 to 9")
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name}: {value}; give at least {least}")
    if reader.size > LARGEST:
        raise ValueError(
            f"reader.init_args.size: {reader.size}; a release has images of at most {LARGEST} pixels a side"
        )
    if reader.desensitizer() is not None:
        raise ValueError("reader: is a released set already; give the raw one")
    refuse_inside(owner, output, "the owner's folder")
    for raw in reader.places():
        inner, outer = output.resolve(), raw.resolve()
        if inner == outer or outer in inner.parents or inner in outer.parents:
            raise ValueError(
                f"output {output}: the raw set {raw} and the release must not lie in one another"
            )


def be_strict(reader: FaceReader, allow_lossy_webp: bool) -> None:
    """Make a reader refuse what a release must not make do with.

    Args:
        reader: the raw set, not yet looked through.
        allow_lossy_webp: whether it takes WebP images coded with loss all the same.

    Raises:
        ValueError: its images were read already.
    """
    if isinstance(reader, CachedReader):
        raise ValueError(
            "reader: a release reads every image once, from its file: give the reader without a cache"
        )
    reader.strict, reader.allow_lossy_webp = True, allow_lossy_webp
    if isinstance(reader, Subset):
        be_strict(reader.reader, allow_lossy_webp)


def check_people(reader: FaceReader) -> None:
    """Refuse a set that does not say of every image who is on it.

    Args:
        reader: the raw set, looked through.

    Raises:
        ValueError: it does not, as sets of pairs do not.
    """
    unknown = len(reader) if not reader.identities else int((reader.labels < 0).sum())
    if unknown:
        raise ValueError(
            f"reader: {type(reader).__name__} does not say who is on {unknown} of its {len(reader)} images, and a "
            "release has a folder for each person; give a set of identities, such as datamodules.FolderFaces"
        )


def warn_of_resize(reader: FaceReader, guard: int) -> None:
    """Warn where images are resized and the mask has no margin for it.

    A resized pixel is a mean of source pixels around it, those beside it too: at the mask's edge of hidden ones.
    They are at most one pixel away where images are made smaller, `size` / `crop` where they are made larger.

    Args:
        reader: the raw set, looked through.
        guard: pixels by which the mask's visible side was narrowed.
    """
    size = reader.size
    other = [sides for sides in _sides(reader) if sides != (size, size)]
    if not other:
        return
    shortest = min(side for sides in other for side in sides)
    needed, *of_jpeg = [math.ceil(reach * size / shortest) for reach in (1, *_JPEG_REACH)]
    if guard < needed:
        log.warning(
            "The images are resized (%d×%d → %d×%d): visible pixels at the mask's edge are hidden ones to an eighth on "
            "average, to more where images are enlarged. A guard of %d keeps lossless sources apart "
            "(desensitizer.init_args.guard), of %d JPEG that is grey or 4:4:4, of %d JPEG with colours of half the "
            "size: docs/threat_model.md, 'The margin'.",
            *other[0], size, size, needed, *(one + 1 for one in of_jpeg),
        )  # fmt: skip


def _sides(reader: FaceReader) -> list[tuple[int, int]]:
    """Return width and height of what is cut out of the images, of a few images where that is their whole."""
    crop = reader.crop
    if isinstance(crop, int):
        return [(crop, crop)]
    if crop is not None:
        left, top, right, bottom = crop
        return [(right - left, bottom - top)]
    step = max(1, len(reader) // _LOOKED_AT)
    return [sides for index in range(0, len(reader), step) if (sides := _whole(reader, index)) is not None]


def _whole(reader: FaceReader, index: int) -> tuple[int, int] | None:
    try:
        data = reader.encoded(index)
    except BadImage:  # which will be refused
        return None
    return None if data is None else size_of(data)


def check_signature(output: Path, signer: Ed25519PrivateKey | None, overwrite: bool) -> None:
    """Refuse to take a release's signature away, or to replace it by another one's, unasked.

    Args:
        output: the released folder.
        signer: the key given now.
        overwrite: whether the release may be replaced.

    Raises:
        ValueError: the release is signed by another key.
    """
    if overwrite or not (output / MANIFEST).is_file():
        return
    theirs = Manifest.read(output).signer
    ours = None if signer is None else fingerprint(signer.public_key())
    if theirs not in (None, ours):
        given = "not given" if ours is None else f"another one ({ours[:16]})"
        raise ValueError(
            f"{output} is signed by {theirs[:16]}, --sign-key is {given}: give the key it was signed with, or replace "
            "the release (--overwrite)"
        )
