"""What a checkpoint may claim: no more memory than its file has bytes.

`torch.load(weights_only=True)` runs no code out of a file, but it allocates what the file asks for: a compressed part
unpacks to a thousand times its size, `bytearray(10**10)` is a plain value to it, and a tensor of stride 0 has as many
elements as it says. None of these is in a checkpoint that `torch.save` wrote of a model.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_app.core.foreign import check_plain

_MAKERS = {"bytearray", "Tensor"} | {
    kind.__name__ for kind in torch._tensor_classes
}  # of any size, from a number
_REBUILT = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"}
_ENCODE = "_codecs encode"
_SPARE = 1 << 20  # bytes
_DATA_KINDS: dict[str, tuple[type, ...]] = {
    "mean": (float, int), "std": (float, int), "num_classes": (int,), "split": (dict,), "desensitizer": (dict,),
    "classes": (list,), "earlier_desensitizers": (list,),
}  # fmt: skip
_VEIL_KINDS: dict[str, tuple[type, ...]] = {
    "method": (str,), "mask_hash": (str,), "mask_ratio": (float, int), "masks": (int,), "guard": (int,),
    "mask_ratio_range": (list, tuple),
}  # fmt: skip
_SPLIT_KINDS: dict[str, tuple[type, ...]] = {"images": (int,), "held_out": (int,)}
DATA_STATE = "FaceDataModule"  # under its class's name Lightning keeps a DataModule's state


def archive_flaw(path: Path) -> str | None:
    """Return what in a checkpoint's archive would take more memory than its bytes; None where nothing does.

    Args:
        path: an existing zip archive; nothing of it is unpickled.
    """
    length = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            return "its parts are compressed, which torch.save never does: refused"
        if sum(part.file_size for part in parts) > length:
            return "its parts claim more bytes than the file has: refused"
        for part in parts:
            if part.filename.endswith(".pkl") and (flaw := _pickle_flaw(archive.read(part), length)):
                return flaw
    return None


def _pickle_flaw(content: bytes, length: int) -> str | None:
    encodes, reduces, longest = False, 0, 0
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                encodes = encodes or argument == _ENCODE
                if name in _MAKERS or (module == "torch._utils" and name not in _REBUILT):
                    return f"holds more than weights and plain values ({module}.{name}): refused"
            elif opcode.name == "REDUCE":
                reduces += 1
            elif isinstance(argument, str):
                longest = max(longest, len(argument))
    except ValueError:
        return "the file is damaged; take an earlier one"
    if encodes and reduces * longest > max(length, _SPARE):
        return "its values stand for more bytes than the file has: refused"
    return None


def values_flaw(checkpoint: Mapping[str, object]) -> str | None:
    """Return what in a checkpoint stands for more than it takes, or is of another kind than ours; None if nothing is.

    Args:
        checkpoint: as `torch.load(weights_only=True, mmap=True)` gave it, with a `state_dict`.
    """
    try:
        check_plain(checkpoint, "its content")
        check_described(checkpoint.get(DATA_STATE), "its content")
    except ValueError as error:
        return f"{error}: refused"
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint.get(key, {}), Mapping):
            return f"its {key} are no mapping: refused"
    state = checkpoint["state_dict"]
    assert isinstance(state, Mapping)
    for key, value in state.items():
        if not isinstance(value, Tensor) and not str(key).endswith("_extra_state"):
            return f"its state_dict holds {type(value).__name__} at {str(key)[:80]!r}, which is no tensor: refused"
    for tensor in _tensors(checkpoint, set()):
        if tensor.is_meta or tensor.layout != torch.strided:
            return f"holds a tensor without values of its own ({list(tensor.shape)}): refused"
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            return f"holds a tensor that claims more values than the file has ({list(tensor.shape)}): refused"
    return None


def check_claim(make: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> None:
    """Refuse settings that ask for more weights than a file has, before they take any memory.

    Args:
        make: makes the module of the file's settings.
        state: the file's weights.

    Raises:
        ValueError: the module would have more values than the file; or what `make` raises.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        asked = sum(value.numel() for value in make().state_dict().values())
    there = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if asked > there:
        raise ValueError(f"its settings ask for {asked} values, it has {there}")


def check_described(data: object, what: str) -> None:
    """Refuse a DataModule's state in a checkpoint whose values are of other kinds than ours: cards word them.

    Args:
        data: the state, if there is any.
        what: to call the file in the message.

    Raises:
        ValueError: names the first that is of another kind.
    """
    if not isinstance(data, Mapping):
        return
    description = data.get("desensitizer")
    found = {name: data.get(name) for name in _DATA_KINDS}
    earlier = data.get("earlier_desensitizers")
    for one in earlier if isinstance(earlier, list) else []:
        if not isinstance(one, Mapping) or not one:
            raise ValueError(
                f"{what}: what it says of its data is damaged: earlier_desensitizers hold {str(one)[:80]!r}"
            )
        check_described({"desensitizer": one}, what)
    if isinstance(description, Mapping) and description:
        found |= {f"desensitizer.{name}": description.get(name) for name in _VEIL_KINDS}
        found["desensitizer.method"] = description.get("method", ())  # which it must have
        ends = description.get("mask_ratio_range")
        if isinstance(ends, (list, tuple)) and [type(end) for end in ends] != [float, float]:
            raise ValueError(
                f"{what}: what it says of its data is damaged: mask_ratio_range is {str(ends)[:80]}"
            )
    names = data.get("classes")
    if isinstance(names, list) and not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what}: what it says of its data is damaged: classes are {str(names)[:80]}")
    split = data.get("split")
    if isinstance(split, Mapping):
        found |= {f"split.{name}": split.get(name) for name in _SPLIT_KINDS}
    kinds = _DATA_KINDS | {f"split.{name}": kind for name, kind in _SPLIT_KINDS.items()}
    kinds |= {f"desensitizer.{name}": kind for name, kind in _VEIL_KINDS.items()}
    for name, value in found.items():
        if value is not None and not isinstance(value, kinds[name]):
            raise ValueError(f"{what}: what it says of its data is damaged: {name} is {str(value)[:80]!r}")


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)
