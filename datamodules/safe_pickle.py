"""Read InsightFace's `.bin` pickles without running what they carry.

A pickle is a program: it may call any function it can name. This unpickler resolves no name to anything but
the stand-ins below, which hold bytes and call nothing: not even NumPy is reached from the file.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# what the unpickler raises on bytes that are no pickle, or half of one
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
)


class _Type:
    """Stands in for `numpy.dtype` and `numpy.ndarray`: remembers a type's code."""

    def __init__(self, code: str | bytes = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields: only one-byte types are taken."""


class _Array:
    """Stands in for an array of bytes or booleans: holds its buffer."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def __setstate__(self, state: Any) -> None:
        # numpy: (version, shape, dtype, is_fortran, buffer)
        _, _, dtype, _, data = state
        self.data = _buffer(data, dtype)


def _buffer(data: object, dtype: object) -> bytes:
    if not isinstance(dtype, _Type) or dtype.code.lstrip("|") not in ("u1", "i1", "b1"):
        raise pickle.UnpicklingError(f"an array of {getattr(dtype, 'code', dtype)!r}, not of bytes")
    if isinstance(data, str):  # a Python 2 string of an array
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array without a buffer")
    return bytes(data)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _scalar(dtype: object, data: object) -> bool:
    return _buffer(data, dtype) != b"\0"


def _frombuffer(data: object, dtype: object, *_: object) -> _Array:
    return _Array(_buffer(data, dtype))


def _encode(text: str, codec: str = "latin1") -> bytes:
    # how Python 3 writes bytes in protocols before 3
    if not isinstance(text, str) or codec not in ("latin1", "latin-1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes encoded as {codec!r}")
    return text.encode("latin1")


def _empty() -> bytes:
    return b""  # how Python 3 writes b"" in protocols before 3


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _empty,
    ("__builtin__", "bytes"): _empty,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Type,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
}


class Refused(pickle.UnpicklingError):
    """A pickle that names something other than bytes."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object]:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise Refused(f"{module}.{name}")
        return stand_in


def load_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """Read an InsightFace `.bin`, written by Python 2 or 3, images as bytes or as uint8 arrays.

    Args:
        path: the file.

    Returns:
        2P encoded images and P flags: whether images 2i and 2i + 1 show the same person.

    Raises:
        ValueError: the file names any function or class but those that hold bytes; it is truncated or no
            pickle; or it is not two lists of such lengths.
    """
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
    except Refused as error:
        raise ValueError(
            f"{path}: the file carries code ({error}): refused, it is not a plain .bin set"
        ) from error
    except _BROKEN as error:
        raise ValueError(f"{path}: truncated, or no InsightFace .bin set ({error})") from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise ValueError(
            f"{path}: no InsightFace .bin set (a pair of lists is needed, not {type(content).__name__})"
        )
    images, same = content
    if isinstance(same, _Array):
        same = [byte != 0 for byte in same.data]
    if not _listed(images, (bytes, bytearray, _Array)) or not _listed(same, (bool, int)):
        raise ValueError(f"{path}: no InsightFace .bin set (lists of encoded images and of flags are needed)")
    if not same or len(images) != 2 * len(same):
        raise ValueError(
            f"{path}: {len(images)} images for {len(same)} pairs, twice as many as pairs are needed"
        )
    return [image.data if isinstance(image, _Array) else bytes(image) for image in images], [*map(bool, same)]


def _listed(values: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, kinds) for value in values)
