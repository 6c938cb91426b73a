"""From an image file's bytes to the pixels everything else speaks of.

The pixels equal those of torchvision's ImageFolder with PIL and
`Compose([CenterCrop(crop), Resize((size, size)), PILToTensor()])`, bit for bit, of images that lie upright in their
files. What makes it quicker: a grey image stays one channel until the batch is filled, and no tensor is made per image.
An image whose EXIF says that it must be turned is turned first, as OpenCV, browsers and people's viewers do; aligned
sets have none. A release refuses such an image: should its EXIF be wrong, its face would not lie under the mask.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import Pixels
from datamodules.readers.webp import is_lossy_webp
from lightning_app.core.files import read_bounded
from lightning_app.core.modes import grey_or_rgb
from lightning_app.core.pixel_limit import check_pixels

Crop = tuple[int, int, int, int] | int | None

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
# by EXIF's orientation; 1 is upright, and any other number is none (cameras write 0)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ON_ITS_SIDE = tuple(_TURNS[number] for number in (5, 6, 7, 8))
# what PIL raises of a damaged file; of a palette that is not there an assertion
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, AssertionError, LookupError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def check_geometry(crop: Crop, size: int) -> None:
    """Refuse a crop or size no image can have.

    Raises:
        ValueError: naming the argument and the value received.
    """
    if size < 1:
        raise ValueError(f"size={size}: give the side of the images in pixels, at least 1")
    if isinstance(crop, int):
        if crop < 1:
            raise ValueError(f"crop={crop}: give the side of the central square in pixels, at least 1")
    elif crop is not None:
        left, top, right, bottom = crop
        if not (0 <= left < right and 0 <= top < bottom):
            raise ValueError(
                f"crop={list(crop)}: give left, top, right, bottom in pixels, left < right, top < bottom"
            )


def read_bytes(path: str, most: int | None = None) -> bytes:
    """Read an image file.

    Args:
        path: of the file.
        most: bytes that such a one has at most; None reads it whatever its size.

    Raises:
        BadImage: it cannot be read, or is larger.
    """
    try:
        if most is not None:
            return read_bounded(path, most)
        with open(path, "rb") as file:
            return file.read()
    except ValueError as error:
        raise BadImage(str(error), "cannot be read") from error
    except OSError as error:
        raise BadImage(f"{path}: cannot be read ({error.strerror})", "cannot be read") from error


def stored(path: str) -> bytes:
    """Read a file to tell it from another; one that cannot be read is empty.

    Args:
        path: of the file.
    """
    try:
        return read_bytes(path)
    except BadImage:
        return b""


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an encoded image in pixels, without decoding it; None where it is none.

    Args:
        data: the file's bytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            return opened.width, opened.height
    except _BROKEN:
        return None


def upright_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an encoded image in pixels once it is turned as its EXIF says; None of no image.

    Args:
        data: the file's bytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            on_its_side = _turn(opened) in _ON_ITS_SIDE
            return (opened.height, opened.width) if on_its_side else (opened.width, opened.height)
    except _BROKEN:
        return None


def decode(
    data: bytes, crop: Crop, size: int, name: str, upright: bool = False, lossy_webp: bool = True
) -> Pixels:
    """Decode a JPEG, PNG or WebP image, crop it and resize it to a square.

    Args:
        data: the file's bytes. Transparency is dropped, palettes and CMYK become RGB, of 16 bits the upper 8
            are taken.
        crop: box (left, top, right, bottom) in pixels of the upright image, right and bottom excluded; an
            integer is the side of the central square; None takes the whole image, whatever its proportions.
        size: side of the result; PIL's bilinear filter with antialiasing.
        name: of the image, for messages.
        upright: refuse an image whose EXIF or XMP says that it must be turned to be upright.
        lossy_webp: take a WebP that is coded with loss, see `datamodules.readers.webp`; else refuse it.

    Returns:
        uint8 `[1,size,size]` for a grey image, else `[3,size,size]`.

    Raises:
        BadImage: truncated, not an image of these formats, smaller than the crop, not upright, or coded with loss
            as WebP.
    """
    if not lossy_webp and is_lossy_webp(data):
        raise BadImage(
            f"{name}: is a WebP coded with loss: what is hidden leaves traces all over it; take a JPEG, PNG or "
            "lossless WebP made of the original, or allow it (allow_lossy_webp)",
            "lossy WebP",
        )
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            check_pixels(opened)
            image = grey_or_rgb(opened)
            turn = _turn(opened)
    except _BROKEN as error:
        words = str(error).splitlines()[0] if str(error) else repr(error)
        if isinstance(error, UnidentifiedImageError):  # PIL would name the buffer and its address
            words = "no JPEG, PNG or WebP" if data else "an empty file"
        raise BadImage(f"{name}: cannot be decoded ({words})", _reason(data, error)) from error
    if turn is not None and upright:
        raise BadImage(f"{name}: is to be turned, says its EXIF: align it first", "not upright (EXIF)")
    return fit(image if turn is None else image.transpose(turn), crop, size, name)


def pixels_of(image: Image.Image, crop: Crop, size: int, name: str) -> Pixels:
    """Crop and resize an image that is open already as `decode` does one in a file; one that is to be turned is.

    Args:
        image: of any mode of PIL's but F, whose numbers have no range.
        crop: see `decode`.
        size: likewise.
        name: likewise.

    Returns:
        uint8 `[1,size,size]` for a grey image, else `[3,size,size]`.

    Raises:
        BadImage: it cannot be decoded, or it is empty, or smaller than the crop.
    """
    if image.mode == "F" or min(image.size) < 1:
        raise BadImage(
            f"{name}: of mode {image.mode}, {image.width}×{image.height} pixels; give 8 bits, such as RGB"
        )
    try:
        found, turn = grey_or_rgb(image), _turn(image)
    except _BROKEN as error:
        raise BadImage(f"{name}: cannot be decoded ({error})") from error
    return fit(found if turn is None else found.transpose(turn), crop, size, name)


def is_turned(data: bytes) -> bool:
    """Return whether an image's EXIF or XMP says that it must be turned to be upright; False of what is no image.

    Args:
        data: the file's bytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            return _turn(opened) is not None
    except _BROKEN:
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))


def fit(image: Image.Image, crop: Crop, size: int, name: str) -> Pixels:
    """Crop an image and resize it to a square.

    Args:
        image: of mode L or RGB.
        crop: see `decode`.
        size: likewise.
        name: likewise.

    Returns:
        uint8 `[1,size,size]` for a grey image, else `[3,size,size]`.

    Raises:
        BadImage: it is smaller than the crop.
    """
    if crop is not None:
        box = _central(crop, image.size) if isinstance(crop, int) else crop
        if min(box) < 0 or box[2] > image.width or box[3] > image.height:
            raise BadImage(
                f"{name}: crop={crop} does not lie within its {image.width}×{image.height} pixels",
                "smaller than the crop",
            )
        image = image.crop(box)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return "truncated" if "truncat" in str(error).lower() else "cannot be decoded"


def _central(side: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = size
    # rounding half to even, as torchvision's CenterCrop
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side
