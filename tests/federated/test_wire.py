"""Messages as Flower carries them: exact, and nothing in them is run."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from lightning_app.federated.protocol.messages import Failure, Invitation, Joined, Task, Update
from lightning_app.federated.protocol.wire import decode, encode

WEIGHTS = {
    "conv": torch.randn(2, 3, 3, 3).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, -0.0], dtype=torch.float16),
    "empty": torch.zeros(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
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
            assert list(found.weights) == list(value)
            assert all(torch.equal(found.weights[name], one) for name, one in value.items())
            assert all(found.weights[name].dtype == one.dtype for name, one in value.items())
        elif isinstance(value, torch.Tensor):
            assert torch.equal(getattr(found, key), value)
        else:
            assert getattr(found, key) == value
            assert type(getattr(found, key)) is type(value)


def with_array(array: Array, kind: str = "float32", shape: str = "3") -> RecordDict:
    content = encode(UPDATE)
    content["weights"] = ArrayRecord({kind: array})
    content["layout"] = ConfigRecord({"names": ["conv"], "types": [kind], "shapes": [shape]})
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
    for kind in ("object", "float32"):
        with pytest.raises(ValueError, match=f"{kind} is of type object, which does not travel"):
            decode(with_array(Array(kind, (1,), "numpy.ndarray", data), kind, "1"))


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


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"shapes": ["4"]}, r"conv says it is \(4,\) of float32: 3 numbers are left"),
        ({"shapes": ["2"]}, "numbers that belong to no weight"),
        ({"shapes": ["-3"]}, "conv says it is '-3' of 'float32'"),
        ({"shapes": ["3x"]}, "conv says it is '3x'"),
        ({"shapes": ["x".join(["9" * 12] * 16)]}, "numbers are left"),
        ({"shapes": [3]}, "three lists of words"),
        ({"names": "conv"}, "three lists of words"),
        ({"types": ["float64"]}, "of 'float64': no such array came"),
        ({"names": ["conv", "bias"]}, "a layout of 2 names, 1 types and 1 shapes"),
        (
            {"names": ["conv"] * 2, "types": ["float32"] * 2, "shapes": ["1", "2"]},
            "a layout of 2 names",
        ),
        ({"names": [], "types": [], "shapes": []}, "numbers that belong to no weight"),
    ],
)
def test_a_layout_that_does_not_fit_its_arrays(layout: dict[str, Any], message: str) -> None:
    content = with_array(Array(np.zeros(3, np.float32)))
    assert torch.equal(decode(content).weights["conv"], torch.zeros(3))  # type: ignore[union-attr]
    content["layout"] = ConfigRecord({**content.config_records["layout"], **layout})
    with pytest.raises(ValueError, match=message):
        decode(content)


def test_a_network_travels_as_one_array() -> None:
    weights = {f"conv{number}": torch.randn(4, 3) for number in range(60)}
    content = encode(Task("0" * 16, 1, "", weights))
    assert list(content.array_records["weights"]) == ["float32"]
    assert len(content.array_records["weights"]["float32"].data) < 60 * 12 * 4 + 200


def test_messages_that_are_none_of_ours() -> None:
    with pytest.raises(ValueError, match="none of ours"):
        decode(RecordDict({"facts": ConfigRecord({"kind": "Parts"})}))
    facts = {key: value for key, value in vars(UPDATE).items() if key not in ("weights", "images", "round")}
    with pytest.raises(ValueError, match="a Update whose round, images cannot be read"):
        decode(RecordDict({"facts": ConfigRecord({"kind": "Update", **facts, "round": "7"})}))
    with pytest.raises(ValueError, match=r"w is torch\.bfloat16, which cannot travel"):
        encode(Task("0" * 16, 1, "", {"w": torch.zeros(1, dtype=torch.bfloat16)}))
