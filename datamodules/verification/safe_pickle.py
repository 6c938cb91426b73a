"""Read InsightFace's `.bin` pickles without running what they carry.

A pickle is a program: it may call any function it can name. This unpickler resolves no name to anything but
the stand-ins below, which hold bytes and call nothing: not even NumPy is reached from the file; numbers are made of
bytes afterwards, by the types of a short list. Nor does it take more
memory than the file has bytes, some times over: what it claims is compared with the file before anything is built.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

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
    RecursionError,
)
_BYTES = ("u1", "i1", "b1")
_NUMBERS = ("i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")  # of flags, as NumPy makes them of a list
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
# of keys the hash is computed: of tuples within tuples, each named twice, it takes for ever
_HASHED = ("DICT", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET")


class _Type:
    """Stands in for `numpy.dtype` and `numpy.ndarray`: remembers a type's code."""

    def __init__(self, code: str | bytes = "", *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Take the byte order, as `>`; fields are ignored."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
        if order in (">", b">"):
            self.code = f">{self.code}"


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
    """Stands in for an array of bytes, numbers or objects: holds its buffer and type, or its list of objects."""

    def __init__(self, budget: _Budget, data: bytes | list[Any] = b"", code: str = "u1") -> None:
        self.budget, self.data, self.code = budget, data, code

    def __setstate__(self, state: Any) -> None:
        # numpy: (version, shape, dtype, is_fortran, buffer)
        _, _, dtype, _, data = state
        self.code = _code(dtype)
        whole = isinstance(data, list) and self.code.startswith("O")
        self.data = cast(list[Any], data) if whole else _buffer(data, self.code, self.budget)

    def bytes(self) -> bytes:
        """Return the buffer of an array of bytes.

        Raises:
            UnpicklingError: it is of another type.
        """
        if self.code not in _BYTES or isinstance(self.data, list):
            raise pickle.UnpicklingError(f"an array of {self.code!r}, not of bytes")
        return self.data

    def items(self) -> list[Any]:
        """List its objects, or its numbers."""
        if isinstance(self.data, list):
            return self.data
        try:
            found: list[Any] = np.frombuffer(self.data, np.dtype(self.code)).tolist()
        except ValueError as error:
            raise pickle.UnpicklingError(f"an array of {self.code!r} with a broken buffer") from error
        return found


def _code(dtype: object) -> str:
    if not isinstance(dtype, _Type):
        raise pickle.UnpicklingError(f"an array of {type(dtype).__name__}, not of bytes")
    return dtype.code.lstrip("|<=")


def _buffer(data: object, code: str, budget: _Budget) -> bytes:
    if code not in _BYTES and code.lstrip(">") not in _NUMBERS:
        raise pickle.UnpicklingError(f"an array of {code!r}, not of bytes")
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

    def scalar(dtype: object, data: object) -> object:
        code = _code(dtype)
        items = _Array(budget, _buffer(data, code, budget), code).items()
        if len(items) != 1:
            raise pickle.UnpicklingError(f"a number of {code!r} with a broken buffer")
        return items[0]

    def frombuffer(data: object, dtype: object, *_: object) -> _Array:
        code = _code(dtype)
        return _Array(budget, _buffer(data, code, budget), code)

    def encode(text: str, codec: str = "latin1") -> bytes:
        # how Python 3 writes bytes in protocols before 3
        if not isinstance(text, str) or codec not in ("latin1", "latin-1", b"latin1"):
            raise pickle.UnpicklingError("bytes encoded otherwise than as latin1")
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
        if opcode.name in _HASHED:
            raise ValueError(f"byte {place} makes a mapping or a set, and such a file has lists alone")
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
    try:
        return _images_and_flags(path, *(x.items() if isinstance(x, _Array) else x for x in content))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: truncated, or no InsightFace .bin set ({error})") from error


def _images_and_flags(path: Path, images: Any, same: Any) -> tuple[list[bytes], list[bool]]:
    if not _listed(images, (bytes, bytearray, _Array)) or not _listed(same, (bool, int, float)):
        raise ValueError(f"{path}: no InsightFace .bin set (lists of encoded images and of flags are needed)")
    if not same or len(images) != 2 * len(same):
        raise ValueError(
            f"{path}: {len(images)} images for {len(same)} pairs, twice as many as pairs are needed"
        )
    if other := sorted({*same} - {0, 1}):
        raise ValueError(f"{path}: its flags hold {other[0]!r}; 1 (the same person) and 0 are needed")
    # one that is named a thousand times stays one
    plain = {id(image): image.bytes() if isinstance(image, _Array) else bytes(image) for image in images}
    return [plain[id(image)] for image in images], [*map(bool, same)]


def _listed(values: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(values, Sequence) and all(isinstance(value, kinds) for value in values)
