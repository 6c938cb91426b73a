"""Read InsightFace's `.bin` pickles without running what they carry.

A pickle is a program: it may call any function it can name. This unpickler resolves no name to anything but
the stand-ins below, which hold bytes and call nothing: not even NumPy is reached from the file. Nor does it take more
memory than the file has bytes, some times over: what it claims is compared with the file before anything is built.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

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
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


class _Type:
    """Stands in for `numpy.dtype` and `numpy.ndarray`: remembers a type's code."""

    def __init__(self, code: str | bytes = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and fields: only one-byte types are taken."""


class _Budget:
    """Counts the bytes that a file's values stand for: no more than the file has, however often it names them."""

    def __init__(self, bytes_left: int) -> None:
        self.bytes_left = bytes_left

    def take(self, data: bytes) -> bytes:
        """Count a value that is about to be kept, and give it back."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise pickle.UnpicklingError("its values stand for more bytes than the file has")
        return data


class _Array:
    """Stands in for an array of bytes or booleans: holds its buffer."""

    def __init__(self, budget: _Budget, data: bytes = b"") -> None:
        self.budget, self.data = budget, data

    def __setstate__(self, state: Any) -> None:
        # numpy: (version, shape, dtype, is_fortran, buffer)
        _, _, dtype, _, data = state
        self.data = _buffer(data, dtype, self.budget)


def _buffer(data: object, dtype: object, budget: _Budget) -> bytes:
    if not isinstance(dtype, _Type) or dtype.code.lstrip("|") not in ("u1", "i1", "b1"):
        raise pickle.UnpicklingError(f"an array of {getattr(dtype, 'code', dtype)!r}, not of bytes")
    if isinstance(data, str):  # a Python 2 string of an array
        return budget.take(data.encode("latin1"))
    if not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array without a buffer")
    return data if isinstance(data, bytes) else budget.take(bytes(data))


def _empty() -> bytes:
    return b""  # how Python 3 writes b"" in protocols before 3


def _stand_ins(budget: _Budget) -> dict[tuple[str, str], Callable[..., object]]:
    def reconstruct(*_: object) -> _Array:
        return _Array(budget)

    def scalar(dtype: object, data: object) -> bool:
        return _buffer(data, dtype, budget) != b"\0"

    def frombuffer(data: object, dtype: object, *_: object) -> _Array:
        return _Array(budget, _buffer(data, dtype, budget))

    def encode(text: str, codec: str = "latin1") -> bytes:
        # how Python 3 writes bytes in protocols before 3
        if not isinstance(text, str) or codec not in ("latin1", "latin-1", b"latin1"):
            raise pickle.UnpicklingError(f"bytes encoded as {codec!r}")
        return budget.take(text.encode("latin1"))

    return {
        ("_codecs", "encode"): encode,
        ("builtins", "bytes"): _empty,
        ("__builtin__", "bytes"): _empty,
        ("numpy", "dtype"): _Type,
        ("numpy", "ndarray"): _Type,
        **{
            (f"numpy.{core}.multiarray", name): stand_in
            for core in ("core", "_core")
            for name, stand_in in (("_reconstruct", reconstruct), ("scalar", scalar))
        },
        ("numpy.core.numeric", "_frombuffer"): frombuffer,
        ("numpy._core.numeric", "_frombuffer"): frombuffer,
    }


class Refused(pickle.UnpicklingError):
    """A pickle that names something other than bytes."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: mmap.mmap) -> None:
        super().__init__(file, encoding="bytes")
        self._stand_ins = _stand_ins(_Budget(len(file)))

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        stand_in = self._stand_ins.get((module, name))
        if stand_in is None:
            raise Refused(f"{module}.{name}")
        return stand_in


def _check_claims(file: mmap.mmap) -> None:
    """Walk through a pickle without building anything: every length and every number in it must fit the file.

    Python's unpickler allocates first and reads then: a few bytes that claim a string of 2 GB, or a place in the memo
    beyond all others, take that much.

    Raises:
        ValueError: something is longer than what is left of the file.
    """
    for opcode, argument, position in pickletools.genops(cast(BinaryIO, file)):  # it has what a file has
        place = position or 0
        if opcode.name in _MEMO and int(argument or 0) > place:
            raise ValueError(f"byte {place} names the place {argument} of its memo")
        if opcode.name == "FRAME" and int(argument or 0) > len(file) - place:
            raise ValueError(f"the frame at byte {place} is said to have {argument} bytes")
    file.seek(0)


def load_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """Read an InsightFace `.bin`, written by Python 2 or 3, images as bytes or as uint8 arrays.

    Args:
        path: the file.

    Returns:
        2P encoded images and P flags: whether images 2i and 2i + 1 show the same person.

    Raises:
        ValueError: the file names any function or class but those that hold bytes; it is truncated or no
            pickle, or claims more than it has; or it is not two lists of such lengths.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            _check_claims(mapped)
            content = _Unpickler(mapped).load()
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
    # one that is named a thousand times stays one
    plain = {id(image): image.data if isinstance(image, _Array) else bytes(image) for image in images}
    return [plain[id(image)] for image in images], [*map(bool, same)]


def _listed(values: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, kinds) for value in values)
