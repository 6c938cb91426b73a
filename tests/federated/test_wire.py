"""Messages as Flower carries them: exact, and nothing in them is run."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from lightning_app.federated.messages import Failure, Invitation, Joined, Task, Update
from lightning_app.federated.wire import decode, encode

WEIGHTS = {
    "conv": torch.randn(2, 3, 3, 3).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, -0.0], dtype=torch.float16),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3.25),
}
UPDATE = Update(2, 7, "abc", 48, 6, 1.25, 0.05, 3.5, WEIGHTS)


@pytest.mark.parametrize(
    "message",
    [
        Invitation("0" * 16, 8, 1, True, 3, torch.eye(4).to(torch.uint8)[None], "abc"),
        Invitation("0" * 16, 8, 1, False, 3, None, "abc"),
        Joined(0, 10, 6, "", "model", "abc"),
        Task("0" * 16, 7, "abc", WEIGHTS),
        UPDATE,
        Failure(1, "ValueError: no"),
        Failure("at node 5", "late"),
    ],
)
def test_there_and_back(message: Any) -> None:
    found: Any = decode(encode(message))
    assert type(found) is type(message)
    for key, value in vars(message).items():
        if key == "weights":
            assert list(found.weights) == list(value)  # Flower's privacy mods go by the order
            assert all(torch.equal(found.weights[name], one) for name, one in value.items())
            assert all(found.weights[name].dtype == one.dtype for name, one in value.items())
        elif isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, key), value)
        else:
            assert getattr(found, key) == value
            assert type(getattr(found, key)) is type(value)


def with_array(array: Array) -> RecordDict:
    content = encode(UPDATE)
    content["weights"] = ArrayRecord({"conv": array})
    return content


def saved(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **how)
    return buffer.getvalue()


def test_a_pickle_is_refused_and_not_opened() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return pytest.fail, ("a pickle was opened",)

    data = saved(np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="conv is of type object, which does not travel"):
        decode(with_array(Array("object", (1,), "numpy.ndarray", data)))


def test_arrays_that_are_not_what_they_say() -> None:
    data = saved(np.zeros(3, np.float32))
    huge = data.replace(b"(3,), }" + b" " * 14, b"(900000000000000,), }")
    assert len(huge) == len(data)
    for array, message in (
        (Array("float32", (3,), "pickle", data), "came as 'pickle'"),
        (Array("float32", (3,), "numpy.ndarray", b"PK\3\4nonsense"), "is no numpy array"),
        (
            Array("float32", (3,), "numpy.ndarray", data[:-4]),
            r"says it is \(3,\) of float32, and has 8 bytes",
        ),
        (Array("float32", (3,), "numpy.ndarray", huge), r"says it is \(900000000000000,\) of float32"),
        (Array("int64", (3,), "numpy.ndarray", saved(np.zeros(3, np.int64))), "is of type int64"),
    ):
        with pytest.raises(ValueError, match=message):
            decode(with_array(array))


def test_messages_that_are_none_of_ours() -> None:
    with pytest.raises(ValueError, match="none of ours"):
        decode(RecordDict({"facts": ConfigRecord({"kind": "Parts"})}))
    facts = {key: value for key, value in vars(UPDATE).items() if key not in ("weights", "images", "round")}
    with pytest.raises(ValueError, match="a Update whose round, images cannot be read"):
        decode(RecordDict({"facts": ConfigRecord({"kind": "Update", **facts, "round": "7"})}))
    with pytest.raises(ValueError, match=r"w is torch\.bfloat16, which cannot travel"):
        encode(Task("0" * 16, 1, "", {"w": torch.zeros(1, dtype=torch.bfloat16)}))
