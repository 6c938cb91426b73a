"""Messages as Flower carries them: arrays in numpy's format without pickles, and plain values."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from lightning_app.federated.messages import Failure, Invitation, Joined, Task, Update, Weights

_ARRAYS, _FACTS = "weights", "facts"
_NUMPY = "numpy.ndarray"  # the one kind of array that Flower itself writes
_DTYPES = ("float32", "float64", "float16", "uint8")
_MASK = "mask"


def encode(message: Invitation | Joined | Task | Update | Failure) -> RecordDict:
    """Write a message as Flower's records.

    A message with weights has exactly one `ArrayRecord`, with the names in the model's order, as Flower's privacy
    mods ask.

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
        content[_ARRAYS] = ArrayRecord({name: _packed(name, value) for name, value in arrays.items()})
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
    record = content.array_records.get(_ARRAYS)
    if "weights" in hints:
        values["weights"] = _unpacked(record or {})
    elif "mask" in hints:
        values["mask"] = _unpacked(record or {}).get(_MASK)
    return kind(**values)  # type: ignore[no-any-return]


def _is(value: object, hint: str) -> bool:
    if hint == "bool":
        return isinstance(value, bool)
    if hint == "float":
        return isinstance(value, int | float)
    kinds = tuple(kind for name, kind in (("int", int), ("str", str)) if name in hint)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _packed(name: str, value: Tensor) -> Array:
    if str(value.dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(
            f"{name} is {value.dtype}, which cannot travel: train with precision 32-true or …-mixed"
        )
    return Array(value.detach().cpu().contiguous().numpy())


def _unpacked(record: Any) -> Weights:
    return {name: _tensor(name, array) for name, array in record.items()}


def _tensor(name: str, array: Array) -> Tensor:
    if array.stype != _NUMPY:
        raise ValueError(f"{name} came as {array.stype!r}, not as {_NUMPY}")
    data = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(data)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(data)
    except Exception as error:  # whatever a hostile header makes of numpy's parser
        raise ValueError(f"{name} is no numpy array ({error})") from error
    if str(dtype) not in _DTYPES:  # of Python objects, for one, which would be a pickle
        raise ValueError(f"{name} is of type {dtype}, which does not travel")
    if not all(type(length) is int and length >= 0 for length in shape):  # numpy's parser lets True pass
        raise ValueError(f"{name} says its shape is {shape}")
    body = array.data[data.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{name} says it is {shape} of {dtype}, and has {len(body)} bytes")
    values = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.array(values, order="C"))
