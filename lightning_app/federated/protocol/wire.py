"""Messages as Flower carries them: arrays in numpy's format without pickles, and plain values."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from lightning_app.federated.protocol.messages import Failure, Invitation, Joined, Task, Update, Weights

_ARRAYS, _FACTS, _LAYOUT = "weights", "facts", "layout"
_NUMPY = "numpy.ndarray"  # the one kind of array that Flower itself writes
_DTYPES = ("float32", "float64", "float16", "uint8")
_MASK = "mask"
_SHAPE = re.compile(r"([0-9]{1,12}(x[0-9]{1,12}){0,15})?", re.ASCII)


def encode(message: Invitation | Joined | Task | Update | Failure) -> RecordDict:
    """Write a message as Flower's records.

    Flower sends every array as an object of its own, a signed request at every hop, so all weights of one type
    travel end to end in one flat array, with names, types and shapes beside it: a ResNet-18 is one array, not 62.
    A message with weights has exactly one `ArrayRecord`, as Flower's privacy mods ask.

    Args:
        message: any of ours.

    Raises:
        ValueError: a weight has a type that numpy lacks, such as bfloat16.
    """
    facts: dict[str, Any] = {"kind": type(message).__name__}
    arrays: dict[str, Tensor] | None = None
    for key, value in vars(message).items():
        if key == "weights":
            arrays = value
        elif key == "mask":
            arrays = {} if value is None else {_MASK: value}
        else:
            facts[key] = value
    content = RecordDict({_FACTS: ConfigRecord({key: value for key, value in facts.items() if value != ""})})
    if arrays is not None:
        content[_ARRAYS], content[_LAYOUT] = _packed(arrays)
    return content


def decode(content: RecordDict) -> Invitation | Joined | Task | Update | Failure:
    """Read a message; nothing in it is run, and no array takes more memory than its bytes.

    Args:
        content: what came.

    Raises:
        ValueError: it is none of ours, or an array is not what it says it is.
    """
    kinds = {kind.__name__: kind for kind in (Invitation, Joined, Task, Update, Failure)}
    facts = dict(content.config_records[_FACTS]) if _FACTS in content.config_records else {}
    kind: Any = kinds.get(str(facts.pop("kind", "")))
    if kind is None:
        raise ValueError(f"a message that is none of ours (it has {', '.join(content) or 'nothing'})")
    hints = {key: str(hint) for key, hint in kind.__annotations__.items()}
    wrong = [key for key, value in facts.items() if not _is(value, hints.get(key, ""))]
    missing = [key for key, hint in hints.items() if hint != "str" and key not in (*facts, "weights", "mask")]
    if wrong or missing:
        raise ValueError(f"a {kind.__name__} whose {', '.join(wrong + missing)} cannot be read")
    values: dict[str, Any] = {key: "" for key, hint in hints.items() if hint == "str"} | facts
    if "weights" in hints:
        values["weights"] = _unpacked(content)
    elif "mask" in hints:
        values["mask"] = _unpacked(content).get(_MASK)
    return kind(**values)  # type: ignore[no-any-return]


def _is(value: object, hint: str) -> bool:
    if hint == "bool":
        return isinstance(value, bool)
    if hint == "float":
        return isinstance(value, int | float)
    kinds = tuple(kind for name, kind in (("int", int), ("str", str)) if name in hint)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _packed(arrays: Weights) -> tuple[ArrayRecord, ConfigRecord]:
    kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in arrays.items()}
    for name, kind in kinds.items():
        if kind not in _DTYPES:
            raise ValueError(
                f"{name} is torch.{kind}, which cannot travel: train with precision 32-true or …-mixed"
            )
    flat: dict[str, list[Tensor]] = {}
    for name, value in arrays.items():
        flat.setdefault(kinds[name], []).append(value.detach().cpu().flatten())
    layout: dict[str, Any] = {
        "names": list(arrays),
        "types": list(kinds.values()),
        "shapes": ["x".join(map(str, value.shape)) for value in arrays.values()],
    }
    packed = {kind: Array(torch.cat(values).numpy()) for kind, values in flat.items()}
    return ArrayRecord(packed), ConfigRecord(layout)


def _unpacked(content: RecordDict) -> Weights:
    """Cut the flat arrays up again; whatever the layout says, nothing outside them is read."""
    flat = {kind: _flat(kind, array) for kind, array in content.array_records.get(_ARRAYS, {}).items()}
    given: Any = content.config_records.get(_LAYOUT, {})
    columns: list[Any] = [given.get(key, []) for key in ("names", "types", "shapes")]
    if not all(
        isinstance(column, list) and all(isinstance(one, str) for one in column) for column in columns
    ):
        raise ValueError("a layout that is not three lists of words")
    names, types, shapes = columns
    if not len(set(names)) == len(names) == len(types) == len(shapes):
        raise ValueError(f"a layout of {len(names)} names, {len(types)} types and {len(shapes)} shapes")
    weights, used = {}, dict.fromkeys(flat, 0)
    for name, kind, words in zip(names, types, shapes, strict=True):
        if kind not in flat or not _SHAPE.fullmatch(words):
            raise ValueError(f"{name} says it is {words!r} of {kind!r}: no such array came")
        shape = tuple(int(word) for word in words.split("x")) if words else ()
        begin, end = used[kind], used[kind] + math.prod(shape)
        if end > len(flat[kind]):
            raise ValueError(
                f"{name} says it is {shape} of {kind}: {len(flat[kind]) - begin} numbers are left"
            )
        weights[name], used[kind] = flat[kind][begin:end].reshape(shape), end
    if any(used[kind] != len(values) for kind, values in flat.items()):
        raise ValueError("numbers that belong to no weight")
    return weights


def _flat(kind: str, array: Array) -> Tensor:
    if array.stype != _NUMPY:
        raise ValueError(f"{kind} came as {array.stype!r}, not as {_NUMPY}")
    data = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(data)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(data)
    except Exception as error:  # whatever a hostile header makes of numpy's parser
        raise ValueError(f"{kind} is no numpy array ({error})") from error
    if kind not in _DTYPES or str(dtype) != kind:  # of Python objects, for one, which would be a pickle
        raise ValueError(f"{kind} is of type {dtype}, which does not travel")
    body = array.data[data.tell() :]
    # numpy's parser lets True pass for a length
    if len(shape) != 1 or type(shape[0]) is not int or shape[0] * dtype.itemsize != len(body):
        raise ValueError(f"{kind} says it is {shape} of {dtype}, and has {len(body)} bytes")
    return torch.from_numpy(np.frombuffer(body, dtype).copy())
