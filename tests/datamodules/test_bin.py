from __future__ import annotations

import codecs
import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import KFold

from datamodules.readers.decode import decode
from datamodules.verification.readers import BinFaces
from datamodules.verification.safe_pickle import load_bin
from tests.datamodules.face_files import encoded, picture

IMAGES = [encoded(picture(i), "PNG" if i % 3 else "JPEG") for i in range(8)]
SAME = [True, False, False, True]


def _python2(images: list[bytes], same: list[bool]) -> bytes:
    """Protocol 2 as Python 2 writes it: bytes as its `str`, opcode BINSTRING."""
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in images)
    flags = b"".join(b"\x88" if flag else b"\x89" for flag in same)
    return b"\x80\x02](" + strings + b"e](" + flags + b"e\x86."


def _arrays(images: list[bytes]) -> list[Any]:
    return [np.frombuffer(image, np.uint8).copy() for image in images]


def _python2_array(image: bytes) -> bytes:
    """A uint8 array as Python 2's NumPy pickled it, with its strings as BINSTRING."""
    shape = b"K" + bytes([len(image)]) + b"\x85"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01" + shape
        + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(image)]) + image + b"tb"
    )  # fmt: skip


WAYS: dict[str, Callable[[], bytes]] = {
    **{f"protocol{p}": partial(pickle.dumps, (IMAGES, SAME), p) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
    **{f"arrays{p}": partial(pickle.dumps, (_arrays(IMAGES), SAME), p) for p in (2, 4, 5)},
    "python2": lambda: _python2(IMAGES, SAME),
    "flags as array": lambda: pickle.dumps((IMAGES, np.array(SAME))),
    "flags of numpy": lambda: pickle.dumps([IMAGES, [np.bool_(flag) for flag in SAME]], 2),
    "flags 0 and 1": lambda: pickle.dumps((IMAGES, [1, 0, 0, 1])),
    **{
        f"flags of {code}": partial(pickle.dumps, (IMAGES, np.array(SAME).astype(code)), protocol)
        for code in ("int64", "uint8", "int32", ">i8", "float64", "float32", object)
        for protocol in (2, 5)
    },
    "numbers of numpy": lambda: pickle.dumps((IMAGES, [np.int64(flag) for flag in SAME]), 2),
    "images as array": lambda: pickle.dumps((np.array(IMAGES, object), np.array(SAME, np.int64)), 4),
    "bytearrays": lambda: pickle.dumps(([bytearray(image) for image in IMAGES], SAME), 5),
    "old numpy": lambda: pickle.dumps((_arrays(IMAGES), SAME), 2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_read(tmp_path: Path, way: str) -> None:
    (tmp_path / "lfw.bin").write_bytes(WAYS[way]())
    reader = BinFaces(tmp_path / "lfw.bin", size=20)
    assert len(reader) == 8
    assert reader.pairs.a.tolist() == [0, 2, 4, 6]
    assert reader.pairs.b.tolist() == [1, 3, 5, 7]
    assert reader.pairs.same.tolist() == SAME
    found = reader.__getitems__(range(8))["image"]
    for i, data in enumerate(IMAGES):
        np.testing.assert_array_equal(found[i].numpy(), decode(data, None, 20, "x"))


def test_arrays_of_python2(tmp_path: Path) -> None:
    images = [encoded(picture(i, "L", 4, 4), "PNG") for i in range(4)]
    assert max(map(len, images)) < 256
    content = b"\x80\x02](" + b"".join(map(_python2_array, images)) + b"e](\x88\x89e\x86."
    (tmp_path / "old.bin").write_bytes(content)
    assert BinFaces(tmp_path / "old.bin", size=4).__getitems__(range(4))["image"].shape == (4, 3, 4, 4)


def test_equal_images_are_kept_once(tmp_path: Path) -> None:
    first, second, third = IMAGES[:3]
    images = [first, second, third, first, bytes(second), third]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, [True, False, True])))
    reader = BinFaces(tmp_path / "lfw.bin", size=20)
    assert len(reader) == 3
    assert reader.pairs.a.tolist() == [0, 2, 1]
    assert reader.pairs.b.tolist() == [1, 0, 2]
    assert [reader.name(i) for i in range(3)] == [f"{tmp_path / 'lfw.bin'}[{i}]" for i in range(3)]
    batch = pickle.loads(pickle.dumps(reader)).__getitems__([2])
    np.testing.assert_array_equal(batch["image"][0].numpy(), decode(third, None, 20, "x"))
    assert batch["identity"].tolist() == [-1]
    assert reader.identities == []


@pytest.mark.parametrize("count", [40, 63, 20])
def test_folds_are_insightface_s(tmp_path: Path, count: int) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps((IMAGES[:2] * count, [i % 2 == 0 for i in range(count)])))
    found = BinFaces(tmp_path / "a.bin").pairs.folds
    expected = torch.empty(count, dtype=torch.int64)
    for fold, (_, rows) in enumerate(KFold(min(10, count), shuffle=False).split(np.arange(count))):
        expected[torch.from_numpy(rows)] = fold
    assert torch.equal(found, expected)


def test_crop(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps((IMAGES, SAME)))
    found = BinFaces(tmp_path / "a.bin", size=30, crop=30)[1]["image"][0]
    np.testing.assert_array_equal(found.numpy(), decode(IMAGES[1], 30, 30, "x"))


class _Runs:
    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.args


class TestCode:
    """Files that carry code are refused, and the code does not run."""

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    @pytest.mark.parametrize("deep", [False, True])
    def test_system(self, tmp_path: Path, protocol: int, deep: bool) -> None:
        proof = tmp_path / "ran"
        bomb = _Runs(os.system, f"touch {proof}")
        content = ([*IMAGES, bomb], SAME) if deep else bomb
        (tmp_path / "lfw.bin").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(
            ValueError, match=r"^.*lfw\.bin: the file carries code \(posix\.system\): refused"
        ):
            BinFaces(tmp_path / "lfw.bin")
        assert not proof.exists()

    @pytest.mark.parametrize(
        ("call", "args"),
        [
            (eval, ("1",)),
            (getattr, (1, "real")),
            (np.load, ("x",)),
            (io.open, ("x",)),
            (np.frombuffer, (b"x",)),
        ],
    )
    def test_other_calls(self, tmp_path: Path, call: Callable[..., object], args: tuple[object, ...]) -> None:
        (tmp_path / "lfw.bin").write_bytes(pickle.dumps(_Runs(call, *args)))
        with pytest.raises(ValueError, match=r"carries code \(\w+.*\): refused"):
            BinFaces(tmp_path / "lfw.bin")

    def test_attributes_of_what_is_allowed(self, tmp_path: Path) -> None:
        # protocol 4 may name `a.b`: a way from an allowed name to everything it can reach
        (tmp_path / "lfw.bin").write_bytes(b"\x80\x04\x8c\x07_codecs\x8c\x10encode.__class__\x93.")
        with pytest.raises(ValueError, match=r"carries code \(_codecs\.encode\.__class__\)"):
            BinFaces(tmp_path / "lfw.bin")


class TestClaims:
    """A file takes no more memory than it has bytes, some times over."""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"\x80\x04Nr\x00\x00\x00\x10.", "names the place 268435456 of its memo"),  # ten bytes, 2.3 GB
            (b"Np268435456\n.", "names the place 268435456 of its memo"),
            (b"\x80\x04\x95\x00\x00\x00\x00\x01\x00\x00\x00.", "is said to have 4294967296 bytes"),
            (b"\x80\x04B\x00\x00\x00\x70.", "expected 1879048192 bytes"),
            (b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00.", "expected 4294967296 bytes"),
            (b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.", "expected 4294967296 bytes"),
            (b"\x80\x04\x8d\x00\x00\x00\x00\x01\x00\x00\x00.", "expected 4294967296 bytes"),
            (b"\x80\x02X\x00\x00\x00\x70.", "expected 1879048192 bytes"),
            (b"\x80\x02T\x00\x00\x00\x70.", "expected 1879048192 bytes"),
            (b"\x80\x02T\xff\xff\xff\xff.", "byte count < 0"),
            (b"\x80\x02\x8b\x00\x00\x00\x70.", "not enough data in stream to read long4"),
            (b"\x80\x02\x8b\xff\xff\xff\xff.", "byte count < 0"),
        ],
    )
    def test_lengths_and_places(self, tmp_path: Path, content: bytes, said: str) -> None:
        (tmp_path / "a.bin").write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=rf"a\.bin: truncated, or no InsightFace \.bin set .*{said}"):
                load_bin(tmp_path / "a.bin")
            assert tracemalloc.get_traced_memory()[1] < 1 << 22
        finally:
            tracemalloc.stop()

    def test_one_value_that_is_copied_often(self, tmp_path: Path) -> None:
        text = "x" * 10_000
        copies = [_Runs(codecs.encode, text, "latin1") for _ in range(50)]  # 10 bytes each
        (tmp_path / "a.bin").write_bytes(pickle.dumps((copies, [True] * 25), 2))
        with pytest.raises(ValueError, match="its values stand for more bytes than the file has"):
            load_bin(tmp_path / "a.bin")

    @pytest.mark.parametrize("opcode", [b"s", b"u"])
    def test_a_key_whose_hash_takes_for_ever(self, tmp_path: Path, opcode: bytes) -> None:
        """60 tuples of a tuple twice, as the key of a mapping: its hash has 2⁶⁰ steps, in C, which no signal ends."""
        twice = b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
        mark = b"(" if opcode == b"u" else b""
        content = b"\x80\x02K\x01q\x00}" + mark + twice + b"K\x02" + opcode + b"."
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(ValueError, match="makes a mapping or a set"):
            load_bin(tmp_path / "a.bin")

    @pytest.mark.parametrize("deep", [40, 100_000])
    def test_a_type_that_takes_for_ever_to_write_down(self, tmp_path: Path, deep: int) -> None:
        """Lists of a list twice stand where an array's type should; 100,000 within each other cannot be written."""
        twice = 2 if deep == 40 else 1
        places = [(bytes([n % 250]), bytes([(n + 1) % 250])) for n in range(deep)]
        lists = b"]q\x00" + b"".join(b"](" + (b"h" + old) * twice + b"eq" + new for old, new in places)
        array = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)" + lists + b"\x89C\x00tb"
        (tmp_path / "a.bin").write_bytes(b"\x80\x03" + array + b".")
        with pytest.raises(ValueError, match=r"a\.bin: truncated, or no InsightFace"):
            load_bin(tmp_path / "a.bin")

    def test_one_image_that_is_named_often(self, tmp_path: Path) -> None:
        image = bytearray(IMAGES[0])
        (tmp_path / "a.bin").write_bytes(pickle.dumps(([image] * 1000, [True, False] * 250), 5))
        images, _ = load_bin(tmp_path / "a.bin")
        assert len({id(one) for one in images}) == 1
        assert len(BinFaces(tmp_path / "a.bin")) == 1


class TestBadInput:
    @pytest.mark.parametrize(
        "content",
        [b"", b"no pickle", b"\x80", pickle.dumps((IMAGES, SAME))[:-9], pickle.dumps((IMAGES, SAME))[:5000],
         b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", pickle.dumps((IMAGES, SAME), 0)[:3000]],
    )  # fmt: skip
    def test_truncated(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.bin: truncated, or no InsightFace \.bin set"):
            BinFaces(tmp_path / "a.bin")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"a": 1}, "makes a mapping or a set, and such a file has lists alone"),
            ((IMAGES, SAME, 1), "a pair of lists is needed, not tuple"),
            ((IMAGES, 5), "lists of encoded images and of flags"),
            ((["text"] * 8, SAME), "lists of encoded images and of flags"),
            ((IMAGES[:-1], SAME), "7 images for 4 pairs, twice as many"),
            (([], []), "0 images for 0 pairs"),
            (
                (IMAGES, np.array([1, -1, -1, 1])),
                r"its flags hold -1; 1 \(the same person\) and 0 are needed",
            ),
            ((IMAGES, [1, 2, 2, 1]), "its flags hold 2"),
            ((IMAGES, np.array(["1", "0", "0", "1"])), "an array of 'U1'"),
            ((np.zeros((8, 4)), SAME), "lists of encoded images and of flags"),
        ],
    )
    def test_other_content(self, tmp_path: Path, content: object, message: str) -> None:
        (tmp_path / "a.bin").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            BinFaces(tmp_path / "a.bin")

    @pytest.mark.parametrize("dtype", [np.float32, object])
    def test_other_arrays(self, tmp_path: Path, dtype: type) -> None:
        (tmp_path / "a.bin").write_bytes(pickle.dumps(([np.zeros(4, dtype)] * 8, SAME), 4))
        with pytest.raises(ValueError, match="not of bytes"):
            BinFaces(tmp_path / "a.bin")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"bin=.*a\.bin: no such file"):
            BinFaces(tmp_path / "a.bin")

    def test_bad_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(pickle.dumps(([*IMAGES[:7], b"broken"], SAME)))
        with pytest.raises(ValueError, match=r"a\.bin\[7\]: cannot be decoded"):
            BinFaces(tmp_path / "a.bin").__getitems__([7])
