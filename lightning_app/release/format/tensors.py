"""How representations are stored in a release: quantised, in safetensors shards whose every byte is known beforehand.

A shard is `length of the header (8 bytes) | header | weight | name | identity | image`. The header is a function of the
manifest and the number of rows alone, so that whoever reads a shard compares it and parses nothing, and the file's
length follows. Any safetensors library reads it.

| tensor | |
| --- | --- |
| `weight` | F32 `[n,k]`, shares of a mix, rows sum to 1; only where images are mixed |
| `name` | U8 `[n,10]`, pseudonym of the image, ascending within and over shards |
| `identity` | U8 `[n,k,10]`, pseudonyms of who is on it; k = 1 where nothing is mixed |
| `image` | U8 or F16 `[n,C,h,w]`, value = (stored − offset) / scale |
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_app.core.plain import is_count, short_json
from lightning_app.release.format.pseudonyms import DIGITS

SHARDS, PAIRS = "shards", "pairs.txt"
NAME = DIGITS // 2  # bytes of a pseudonym
MOST_CHANNELS, MOST_SIDE, MOST_MIXED, MOST_ROWS, MOST_BATCH = 4096, 4096, 64, 1 << 20, 1 << 16
DType = Literal["uint8", "float16"]
DTYPES: Mapping[str, tuple[str, int]] = {
    "uint8": ("U8", 1),
    "float16": ("F16", 2),
}  # safetensors' name, bytes
LARGEST = 65504.0  # of float16
_SHARD = re.compile(rf"{SHARDS}/([0-9]{{6}})\.safetensors")
_LENGTH = 8  # bytes of a safetensors file before its header, which is padded to a multiple of as many


@dataclass(frozen=True)
class Stored:
    """How the values of a representation are stored.

    Attributes:
        dtype: `uint8` or `float16`.
        shape: (C, h, w) of an image.
        scale: stored levels in a unit; 1 of float16.
        offset: the level of 0; 0 of float16.
    """

    dtype: str
    shape: tuple[int, int, int]
    scale: int = 1
    offset: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of an image."""
        return math.prod(self.shape) * DTYPES[self.dtype][1]

    def store(self, values: Tensor, cut: bool = False) -> tuple[NDArray[Any], int]:
        """Round values to what is stored of them.

        Args:
            values: `[B,C,h,w]` float32.
            cut: cut off what is too large for float16, as noise may be (`Desensitizer.has_tails`).

        Returns:
            `[B,C,h,w]` uint8 or float16; and how many values lay beyond the grid, or float16, and were cut off.

        Raises:
            ValueError: a value is not finite, or too large for float16.
        """
        # the ends are NaN where a value is; one pass, where `isfinite` takes twenty times as long
        if values.numel() and not all(map(math.isfinite, map(float, torch.aminmax(values)))):
            raise ValueError(
                "the desensitizer returned a value that is not finite; nothing of the batch is released"
            )
        if self.dtype == "float16":
            beyond = int((values.abs() > LARGEST).sum()) if cut else 0
            values = values.clamp(-LARGEST, LARGEST) if beyond else values
            half = (
                values.to(torch.float16) + 0.0
            )  # a zero has no sign: that would be a bit to hide something in
            if not bool(torch.isfinite(half).all()):
                raise ValueError(
                    f"a value of {float(values.abs().max()):.4g} is too large for float16; nothing of it is released"
                )
            return half.numpy(), beyond
        out, level, beyond = np.empty(values.shape, np.uint8), values.new_empty(values.shape[1:]), 0
        seen = level.numpy()  # the same memory; NumPy counts and converts three times as fast
        for image, row in zip(values, out, strict=True):  # one at a time stays in a CPU's cache
            torch.mul(image, self.scale, out=level).add_(self.offset).round_()
            low, high = torch.aminmax(level)
            if low < 0 or high > 255:
                beyond += int(np.count_nonzero(seen < 0)) + int(np.count_nonzero(seen > 255))
                level.clamp_(0, 255)
            np.copyto(row, seen, casting="unsafe")
        return out, beyond

    def values(self, stored: Tensor) -> Tensor:
        """Return the values that stored ones stand for.

        Args:
            stored: of the dtype stored, any shape.

        Returns:
            float32 of that shape, on its device.
        """
        found = stored.float()
        if self.offset:
            found = found.sub_(self.offset)
        return found.div_(self.scale) if self.scale != 1 else found  # as pixels are: divided, not multiplied


@dataclass(frozen=True)
class Tensors:
    """What the manifest of a release of representations says of its shards.

    Attributes:
        dtype: `uint8` or `float16`.
        shape: [C, h, w] of an image.
        scale: stored levels in a unit: value = (stored − offset) / scale.
        offset: the level of 0.
        batch: how many images were desensitized at a time: the rows of a shard in their order, so many by so many.
        mixed: of how many images each is mixed, once for all; 1 of none.
        rows: images of each shard, in the order of their names.
        pairs: lines of `pairs.txt`, in a release to verify on; 0 where there is none.
    """

    dtype: str
    shape: list[int]
    scale: int
    offset: int
    batch: int
    mixed: int
    rows: list[int]
    pairs: int = 0

    @property
    def stored(self) -> Stored:
        """Return how values are stored."""
        channels, height, width = self.shape
        return Stored(self.dtype, (channels, height, width), self.scale, self.offset)

    @classmethod
    def parse(cls, found: object, where: str) -> Tensors:
        """Read the entry of a manifest.

        Args:
            found: in it.
            where: it stands, for messages.

        Raises:
            ValueError: it is not whole, or a value is out of range; names it.
        """
        if not isinstance(found, dict) or found.keys() != _SCHEMA.keys():
            raise ValueError(f"{where} has not the entries {', '.join(_SCHEMA)}; the release is damaged")
        for key, (check, wanted) in _SCHEMA.items():
            if not check(found[key]):
                raise ValueError(
                    f"{where}.{key} is {short_json(found[key])}, not {wanted}; the release is damaged"
                )
        if found["dtype"] == "float16" and (found["scale"], found["offset"]) != (1, 0):
            raise ValueError(f"{where}: float16 has scale 1 and offset 0; the release is damaged")
        return cls(**found)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def shard_file(number: int) -> str:
    """Return the path of a shard in a release.

    Args:
        number: from 0.
    """
    return f"{SHARDS}/{number:06d}.safetensors"


def is_shard_file(name: str) -> bool:
    """Return whether a path, as `files` has it, is that of a shard."""
    return _SHARD.fullmatch(name) is not None


class TensorPlace(NamedTuple):
    """Where a tensor lies in a shard.

    Attributes:
        kind: NumPy's name of its dtype.
        shape: with its rows first.
        start: of its bytes in the file.
        stop: after them.
    """

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Which bytes of a shard are what; a function of how values are stored, of `mixed` and of the number of rows.

    Attributes:
        head: the first bytes of the file: length of the header, and header.
        parts: tensor -> where it lies.
        size: bytes of the file.
    """

    head: bytes
    parts: Mapping[str, TensorPlace]
    size: int

    @classmethod
    def of(cls, stored: Stored, mixed: int, rows: int) -> Layout:
        """Lay out a shard.

        Args:
            stored: how values are stored.
            mixed: of how many images each is mixed.
            rows: how many images the shard has.
        """
        code, size = DTYPES[stored.dtype]
        wanted: list[tuple[str, str, str, int, tuple[int, ...]]] = [
            ("name", "U8", "uint8", 1, (rows, NAME)),
            ("identity", "U8", "uint8", 1, (rows, mixed, NAME)),
            ("image", code, stored.dtype, size, (rows, *stored.shape)),
        ]
        if mixed > 1:  # first, where four bytes lie as a reader of floats may need them
            wanted.insert(0, ("weight", "F32", "float32", 4, (rows, mixed)))
        header: dict[str, Any] = {}
        at = 0
        for name, kind, _, each, shape in wanted:
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": (at, at + each * math.prod(shape))}
            at += each * math.prod(shape)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH)
        head = len(text).to_bytes(_LENGTH, "little") + text
        parts = {
            name: TensorPlace(kind, shape, *(len(head) + offset for offset in header[name]["data_offsets"]))
            for name, _, kind, _, shape in wanted
        }
        return cls(head, parts, len(head) + at)

    def view(self, data: bytes | bytearray | memoryview, name: str) -> NDArray[Any]:
        """Return a tensor of a shard that is in memory; nothing is copied.

        Args:
            data: the file, or its beginning up to the end of that tensor.
            name: of the tensor.
        """
        part = self.parts[name]
        kind = np.dtype(part.kind).newbyteorder("<")
        return np.frombuffer(data, kind, math.prod(part.shape), part.start).reshape(part.shape)


_Check = Callable[[Any], bool]
_SCHEMA: Mapping[str, tuple[_Check, str]] = {
    "dtype": (lambda v: isinstance(v, str) and v in DTYPES, "uint8 or float16"),
    "shape": (
        lambda v: isinstance(v, list) and len(v) == 3 and is_count(v[0], 1, MOST_CHANNELS)
        and is_count(v[1], 1, MOST_SIDE) and is_count(v[2], 1, MOST_SIDE),
        "three numbers: channels, height and width",
    ),
    "scale": (lambda v: is_count(v, 1, 1 << 16), "a number of levels"),
    "offset": (lambda v: is_count(v, 0, 255), "a level from 0 to 255"),
    "batch": (lambda v: is_count(v, 1, MOST_BATCH), f"a number from 1 to {MOST_BATCH}"),
    "mixed": (lambda v: is_count(v, 1, MOST_MIXED), f"a number from 1 to {MOST_MIXED}"),
    "rows": (
        lambda v: isinstance(v, list) and len(v) > 0 and all(is_count(n, 1, MOST_ROWS) for n in v),
        "a number of images for each shard",
    ),
    "pairs": (is_count, "a number of pairs"),
}  # fmt: skip
