"""Releases of representations that are spoilt: what an audit finds without the raw set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from datamodules import ReleasedFaces
from lightning_app.desensitize import Chain, RandomMixUp
from lightning_app.release.format.manifest import Manifest
from tests.release.tensor_release import (
    findings,
    method,
    owner_key,
    put_hashes_right,
    reader_of,
    released,
    rewrite,
)


def swap_names(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["name"][[0, 1]] = values["name"][[1, 0]]


def minus_zero(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"][0, 0, 0, 0] = -0.0


def not_finite(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"].view(np.uint16)[0, 0, 0, 0] = 0x7E55  # a NaN with something in it


def a_face(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"][:, 3] = 20


def greedy(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["weight"][0] = (0.9, 0.05, 0.05)


def a_stranger(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["identity"][0, 1] = 7


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("plain", swap_names, "its images are not in the order of their names"),
        ("half", minus_zero, "holds a value of minus zero"),
        ("half", not_finite, "holds a value that is not finite"),
        ("plain", a_face, "channel 3 of image"),
        ("mixed", greedy, "holds a share of a mix above its method's cap of 0.55"),
        ("mixed", a_stranger, "1 people are in mixes, and on no image"),
    ],
)
def test_tensors_that_no_honest_release_holds(
    spoilt: Callable[[str], Path], name: str, change: Any, words: str
) -> None:
    root = spoilt(name)
    rewrite(root, change)
    assert words in " ".join(findings(root))


def extra_tensor(path: Path) -> None:
    save_file({**load_file(path), "zzz": np.zeros(9, np.uint8)}, path)


def metadata(path: Path) -> None:
    save_file(load_file(path), path, metadata={"face": "hidden"})


def padding(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        (length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8 + data[8 + length :]
    )


def reordered_header(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(reversed(told.items())), separators=(",", ":")).encode()
    path.write_bytes(data[:8] + text.ljust(length) + data[8 + length :])


def trailing(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_dtype(path: Path) -> None:
    values = load_file(path)
    save_file(values | {"image": values["image"].view(np.int8)}, path)


FRAMES: list[tuple[Callable[[Path], None], str]] = [
    (extra_tensor, "holds 1 tensors that the manifest does not name"),
    (metadata, "its header holds __metadata__"),
    (padding, "its header is not written as"),
    (reordered_header, "its header is not written as"),
    (trailing, "has bytes after its tensors"),
    (cut_off, "it is cut off"),
    (other_dtype, "its tensor image has another dtype"),
]


@pytest.mark.parametrize(("change", "words"), FRAMES)
def test_a_shard_that_holds_more_or_less_than_its_tensors(
    spoilt: Callable[[str], Path], change: Callable[[Path], None], words: str
) -> None:
    root = spoilt("plain")
    change(root / "shards" / "000001.safetensors")
    assert "000001.safetensors its SHA-256 is not the manifest's" in " ".join(findings(root))
    put_hashes_right(root)
    found = findings(root)
    assert any(line.startswith("shards/000001.safetensors") and words in line for line in found), found
    with pytest.raises(ValueError, match="is not what its manifest says"):
        ReleasedFaces(root).open()


def test_shards_that_are_swapped(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    one, other = root / "shards" / "000001.safetensors", root / "shards" / "000003.safetensors"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    put_hashes_right(root)
    assert "its images are not in the order of their names" in " ".join(findings(root))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": 17}, "tensors has scale 17 and offset 128, its method's are"),
        ({"offset": 127}, "tensors has scale 16 and offset 127"),
        ({"mixed": 2}, "tensors.mixed is 2, its method mixes 1"),
    ],
)
def test_a_manifest_whose_tensors_are_not_its_methods(
    spoilt: Callable[[str], Path], changed: dict[str, int], words: str
) -> None:
    root = spoilt("plain")
    told = json.loads((root / "manifest.json").read_text())
    put_hashes_right(root, tensors=told["tensors"] | changed)
    assert words in " ".join(findings(root))


@pytest.mark.parametrize(
    ("changed", "facts", "words"),
    [
        (
            {"shape": [4096, 4096, 4096]},
            {"channels": 4096},
            "has 9 images, more than `desensitize` puts into a shard",
        ),
        (
            {"rows": [1 << 20] * 5},
            {"images": 5 << 20},
            "has 1048576 images, more than `desensitize` puts into",
        ),
        ({"rows": [1, *[10] * 3, 17], "shape": [4096, 4096, 4096]}, {"channels": 4096}, "it is cut off"),
    ],
)
def test_a_manifest_of_a_size_that_no_memory_has(
    spoilt: Callable[[str], Path], changed: dict[str, Any], facts: dict[str, Any], words: str
) -> None:
    root = spoilt("plain")
    told = json.loads((root / "manifest.json").read_text())
    put_hashes_right(root, tensors=told["tensors"] | changed, **facts)
    assert words in " ".join(findings(root))
    with pytest.raises(ValueError, match="is not what its manifest says"):
        ReleasedFaces(root, verify="list").open()


def test_the_numbers_of_shards_hold_nothing(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    (root / "shards" / "000004.safetensors").rename(root / "shards" / "719203.safetensors")
    told = json.loads((root / "manifest.json").read_text())
    told["files"]["shards/719203.safetensors"] = told["files"].pop("shards/000004.safetensors")
    (root / "manifest.json").write_text(json.dumps(told))
    assert "the shards are numbered up to 719203, and there are 5" in " ".join(findings(root))
    told["refused"] = {"truncated": 2}  # a shard whose images are all refused is none
    told["files"]["shards/000006.safetensors"] = told["files"].pop("shards/719203.safetensors")
    assert Manifest.parse(json.dumps(told).encode()).shards[-1] == "shards/000006.safetensors"


def test_a_number_of_images_that_is_left_open_is_mixed_of_none(
    home: Path, drawn_root: Path, spoilt: Callable[[str], Path], tmp_path: Path
) -> None:
    mixer = RandomMixUp([2, 4], key=owner_key(home))
    with pytest.raises(ValueError, match=r"mixed of another number of images, .*; take MixUp, with one k"):
        released(tmp_path, reader_of(drawn_root), "open", Chain([method(home), mixer]), mix_once=True)
    root = spoilt("mixed")
    told = json.loads((root / "manifest.json").read_text())["method"]
    told["steps"][1] |= {"method": "RandomMixUp", "k": [2, 3]}
    put_hashes_right(root, method=told)
    assert "its method leaves open how many images are mixed" in " ".join(findings(root))


def test_people_are_counted(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    put_hashes_right(root, identities=5)
    assert "identities is 5, its shards have 6" in " ".join(findings(root))
