from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch.utils.data import DataLoader

from datamodules.readers.base import whole
from datamodules.readers.decode import decode
from datamodules.readers.record_file import RecordFile
from datamodules.readers.record_scan import RecordScan
from datamodules.readers.recordio import RecordIOFaces
from lightning_app.core.batch import Batch
from tests.datamodules.face_files import (
    MAGIC,
    encoded,
    framed,
    insightface_records,
    picture,
    record,
    write_records,
)

IMAGES = [(label, encoded(picture(i), "PNG")) for i, label in enumerate([0, 0, 0, 1, 2, 2, 7, 7, 7, 7])]


def _expected(i: int, size: int = 20) -> torch.Tensor:
    return torch.from_numpy(decode(IMAGES[i][1], None, size, "x").copy())


def test_insightface(tmp_path: Path) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    reader = RecordIOFaces(tmp_path, size=20).open()
    assert len(reader) == 10  # neither the header nor the four identities' records
    assert reader.identities == ["0", "1", "2", "7"]
    assert reader.labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
    batch = reader.__getitems__([9, 0, 4])
    for row, i in enumerate([9, 0, 4]):
        assert torch.equal(batch["image"][row], _expected(i))
    assert batch["identity"].tolist() == [3, 0, 2]


def test_labels_that_are_not_the_header_s(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The identities' records say which images are theirs; the third image's own label is another's."""
    records = insightface_records(IMAGES)
    write_records(tmp_path / "train.rec", records)
    RecordIOFaces(tmp_path, cache_index=False).open()
    assert not caplog.records
    records[3] = record([1, 1.0], IMAGES[2][1], 3)
    write_records(tmp_path / "train.rec", records)
    assert RecordIOFaces(tmp_path, cache_index=False).open().labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert "1 of 4 identities have images of several labels, 0 share one with another" in caplog.text
    caplog.clear()
    records[3] = insightface_records(IMAGES)[3]
    records[4] = record([0, 1.0], IMAGES[3][1], 4)  # all of the second person's
    write_records(tmp_path / "train.rec", records)
    RecordIOFaces(tmp_path, cache_index=False).open()
    assert "0 of 4 identities have images of several labels, 1 share one with another" in caplog.text


@pytest.mark.parametrize("left", [slice(1), slice(3), slice(5), slice(-6)])
def test_an_index_that_is_too_short_is_left_aside(
    left: slice, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[left]))
    assert len(RecordIOFaces(tmp_path, cache_index=False).open()) == 10
    assert f"promises 10 images, its index {tmp_path / 'train.idx'} names " in caplog.text


@pytest.mark.parametrize("index", [True, False])
def test_identities_records_are_no_images_without_record_0(
    index: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES)[1:], index)
    reader = RecordIOFaces(tmp_path, size=20, cache_index=False).open()
    assert reader.labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
    assert "no record 0 says which of its 14 records are images; 4 that hold none are left out" in caplog.text


def test_an_index_without_record_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[1:]), "utf-8-sig")
    assert len(RecordIOFaces(tmp_path, cache_index=False).open()) == 10
    assert "4 that hold none are left out" in caplog.text


def test_more_records_than_record_0_promises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = insightface_records(IMAGES)
    write_records(tmp_path / "train.rec", [*records, record([9], IMAGES[0][1], len(records))])
    assert len(RecordIOFaces(tmp_path, cache_index=False).open()) == 10
    assert "promises 10 images; 1 records more are left out" in caplog.text


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_file_cut_between_two_records_is_refused(kept: int, tmp_path: Path) -> None:
    records = insightface_records(IMAGES)
    for index in (True, False):
        write_records(tmp_path / "train.rec", records[: 1 + kept], index)
        with pytest.raises(ValueError, match=f"promises 10 images, there are {kept}: fetch the file again"):
            RecordIOFaces(tmp_path, cache_index=False).open()


@pytest.mark.parametrize("there", [3, 8])
def test_an_index_of_another_file(there: int, tmp_path: Path) -> None:
    """The index names records that the file does not have, or ones that begin elsewhere."""
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    index = (tmp_path / "train.idx").read_text()
    write_records(tmp_path / "train.rec", insightface_records([(i, d + b"1234" * i) for i, d in IMAGES]))
    (tmp_path / "train.idx").write_text(index)
    if there == 3:
        (tmp_path / "train.rec").write_bytes((tmp_path / "train.rec").read_bytes()[:1000])
    whole = r"its index .*train\.idx is cut off or of another file .*, and the file itself is whole: fetch the index"
    with pytest.raises(ValueError, match=whole if there == 8 else r"train\.rec: .*: fetch the file again"):
        RecordIOFaces(tmp_path, cache_index=False).open()


def test_an_index_that_was_cut_off_in_a_line(tmp_path: Path) -> None:
    """Nobody fetches gigabytes again for it."""
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    index = tmp_path / "train.idx"
    index.write_text(index.read_text().rstrip("\n")[:-1])
    with pytest.raises(
        ValueError, match=r"train\.idx is cut off or of another file .* or remove it: the file is"
    ):
        RecordIOFaces(tmp_path, cache_index=False).open()
    index.unlink()
    assert len(RecordIOFaces(tmp_path, cache_index=False).open()) == len(IMAGES)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_plain_records_in_any_order(tmp_path: Path, index: bool, extended: bool) -> None:
    order = [9, 0, 4, 1, 3, 2, 8, 7, 6, 5]
    write_records(
        tmp_path / "faces.rec",
        [record([IMAGES[i][0]], IMAGES[i][1], extended=extended) for i in order],
        index,
    )
    reader = RecordIOFaces(tmp_path / "faces.rec", size=20).open()
    assert reader.labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]
    found = reader.__getitems__(range(10))["image"]
    for row, i in enumerate([0, 1, 2, 3, 4, 5, 9, 8, 7, 6]):  # the file's order within a label
        assert torch.equal(found[row], _expected(i))


def test_insightface_without_index(tmp_path: Path) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES), index=False)
    assert RecordIOFaces(tmp_path).open().labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3]


def test_records_in_parts(tmp_path: Path) -> None:
    """A payload that holds the magic number is cut there; one at an odd place is not."""
    payloads = [
        b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC + b"xy",
        MAGIC,
        b"a" + MAGIC + b"bcd",
        b"",
        b"plain" * 7,
    ]
    path = tmp_path / "parts.rec"
    path.write_bytes(b"".join(map(framed, payloads)))
    file = RecordFile(path)
    offsets = file.walk()
    assert [file.record(at) for at in offsets.tolist()] == payloads
    assert file.record(0, most=9) == payloads[0][:9]
    assert file.record(0, most=3) == payloads[0][:3]
    file.close()


def test_image_in_parts(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    info = PngInfo()
    info.add(b"teSt", b"\0\0\0" + MAGIC * 4 + b"\0" + MAGIC * 4)  # at a multiple of four, and beside it
    data = encoded(Image.fromarray(noise), "PNG", pnginfo=info)
    assert framed(record([0], data)).count(MAGIC) > 1 + 4
    write_records(tmp_path / "train.rec", [record([0], data), record([1], data, key=0xCED7230A)])
    batch = RecordIOFaces(tmp_path, size=20).open().__getitems__([0, 1])
    assert torch.equal(batch["image"][1, 0], torch.from_numpy(noise))
    assert torch.equal(batch["image"][0], batch["image"][1])


def test_selection(tmp_path: Path) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    reader = RecordIOFaces(tmp_path, min_images=2, max_images=2, size=20).open()
    assert reader.identities == ["0", "2", "7"]
    assert reader.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(reader[5]["image"][0], _expected(7))
    (tmp_path / "people.txt").write_text("7\n1\n")
    assert RecordIOFaces(tmp_path, people=tmp_path / "people.txt").open().identities == ["1", "7"]
    (tmp_path / "people.txt").write_text("7\n5\n")
    with pytest.raises(ValueError, match=r"1 of 2 people have no images in .*: 5"):
        RecordIOFaces(tmp_path, people=tmp_path / "people.txt").open()


def test_labels_are_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.rec"
    write_records(path, insightface_records(IMAGES))
    scans: list[int] = []
    plain = RecordScan._label

    def noted(self: RecordScan, file: RecordFile, offset: int) -> int:
        scans.append(offset)
        return plain(self, file, offset)

    monkeypatch.setattr(RecordScan, "_label", noted)
    RecordIOFaces(tmp_path).open()
    RecordIOFaces(tmp_path).open()
    assert len(scans) == 10
    write_records(path, insightface_records(IMAGES[:-1]))
    assert len(RecordIOFaces(tmp_path).open()) == 9
    os.utime(path, ns=(10**18, 10**18))
    scans.clear()
    RecordIOFaces(tmp_path).open()
    assert len(scans) == 9


def test_pickled_and_in_workers(tmp_path: Path) -> None:
    write_records(tmp_path / "train.rec", insightface_records(IMAGES))
    reader = RecordIOFaces(tmp_path, size=20).open()
    expected = reader.__getitems__(range(10))["image"]  # the file is open when it is forked and pickled
    assert torch.equal(pickle.loads(pickle.dumps(reader)).__getitems__(range(10))["image"], expected)
    loader: DataLoader[Batch] = DataLoader(
        reader, batch_size=3, num_workers=2, collate_fn=whole, multiprocessing_context="fork"
    )
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), expected)


def test_bad_image_is_replaced(tmp_path: Path) -> None:
    images = [*IMAGES[:4], (2, b"\x89PNG broken"), *IMAGES[5:]]
    write_records(tmp_path / "train.rec", insightface_records(images))
    reader = RecordIOFaces(tmp_path, size=20).open()
    batch = reader.__getitems__([4])
    assert batch["bad"].tolist() == [4]
    assert torch.equal(batch["image"][0], _expected(5))
    with pytest.raises(ValueError, match=r"train\.rec\[identity 2, byte \d+\]: cannot be decoded"):
        RecordIOFaces(tmp_path, on_bad_image="error").open().__getitems__([4])


class TestBadInput:
    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"path=.*: no such \.rec file .*another `path`"):
            RecordIOFaces(tmp_path).open()
        with pytest.raises(FileNotFoundError, match=r"no such \.rec file"):
            RecordIOFaces(tmp_path / "none.rec").open()

    def test_several_files(self, tmp_path: Path) -> None:
        for name in ("a.rec", "b.rec"):
            write_records(tmp_path / name, insightface_records(IMAGES))
        with pytest.raises(FileNotFoundError, match=r"2 \.rec files, none of them train\.rec"):
            RecordIOFaces(tmp_path).open()
        write_records(tmp_path / "train.rec", insightface_records(IMAGES))
        assert len(RecordIOFaces(tmp_path).open()) == 10

    @pytest.mark.parametrize("index", [True, False])
    def test_truncated(self, tmp_path: Path, index: bool) -> None:
        path = tmp_path / "train.rec"
        write_records(path, [record([label], image) for label, image in IMAGES], index)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(
            ValueError, match=r"^path=.*train\.rec: truncated: \d+ bytes, .*: fetch the file again$"
        ):
            RecordIOFaces(tmp_path).open()

    def test_truncated_later(self, tmp_path: Path) -> None:
        path = tmp_path / "train.rec"
        write_records(path, [record([label], image) for label, image in IMAGES])
        reader = RecordIOFaces(tmp_path, size=20).open()
        path.write_bytes(path.read_bytes()[:-500])
        batch = reader.__getitems__([9])
        assert batch["bad"].tolist() == [9]
        assert torch.equal(batch["image"][0], _expected(6))

    @pytest.mark.parametrize("index", [True, False])
    def test_no_recordio(self, tmp_path: Path, index: bool) -> None:
        (tmp_path / "train.rec").write_bytes(b"something else altogether")
        if index:
            (tmp_path / "train.idx").write_text("0\t0\n")
        with pytest.raises(ValueError, match="no RecordIO record at byte 0"):
            RecordIOFaces(tmp_path).open()

    def test_empty(self, tmp_path: Path) -> None:
        (tmp_path / "train.rec").touch()
        with pytest.raises(ValueError, match="has no records"):
            RecordIOFaces(tmp_path).open()

    @pytest.mark.parametrize("text", ["0\tzero\n", "0\n1\n", "0 0 0\n"])
    def test_broken_index(self, tmp_path: Path, text: str) -> None:
        write_records(tmp_path / "train.rec", insightface_records(IMAGES))
        (tmp_path / "train.idx").write_text(text)
        with pytest.raises(ValueError, match=r"its index .*train\.idx is broken"):
            RecordIOFaces(tmp_path).open()

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ("1\t-8\n2\t0\n", r"idx is broken \(it names the record at byte -8\)"),
            ("-1\t0\n2\t8\n", r"idx is broken \(it names the key -1\)"),
            (f"1\t{2**63 - 8}\n2\t0\n", r"truncated: \d+ bytes, no record at byte 9223372036854775800"),
            (f"1\t{10**30}\n", "idx is broken"),
            ("1\t400000000\n2\t0\n", "truncated: .* no record at byte 400000000"),
            ("1\t0\n2\t4\n", "no RecordIO record at byte 4"),
            ("1\t0\n2\t6\n", "no record at byte 6: records begin at multiples of 4"),
            ("1\t0\n2\t0\n", r"it names the record at byte 0 more than once"),
            ("1\t0\n1\t40\n", r"it names the key 1 more than once"),
            ("", "idx is broken|has no records"),
        ],
    )  # fmt: skip
    def test_an_index_that_leads_elsewhere(self, tmp_path: Path, lines: str, said: str) -> None:
        write_records(tmp_path / "train.rec", [record([label], image) for label, image in IMAGES])
        (tmp_path / "train.idx").write_text(lines)
        with pytest.raises(ValueError, match=said):
            RecordIOFaces(tmp_path, cache_index=False).open()

    def test_an_index_that_is_a_folder(self, tmp_path: Path) -> None:
        write_records(
            tmp_path / "train.rec", [record([label], image) for label, image in IMAGES], index=False
        )
        (tmp_path / "train.idx").mkdir()
        with pytest.raises(ValueError, match=r"its index .*train\.idx is no file"):
            RecordIOFaces(tmp_path, cache_index=False).open()

    def test_an_index_that_names_a_later_part(self, tmp_path: Path) -> None:
        """The 28 bytes of a label lie in it, but it is no record's beginning."""
        payloads = [record([0], b"x" * 40), record([1], b"abcd" * 4 + MAGIC + record([5], b"y" * 40))]
        write_records(tmp_path / "train.rec", payloads)
        at = (tmp_path / "train.rec").read_bytes().rindex(MAGIC)
        (tmp_path / "train.idx").write_text(f"0\t0\n1\t{at}\n")
        with pytest.raises(ValueError, match=f"the record at byte {at} starts in its middle"):
            RecordIOFaces(tmp_path, cache_index=False).open()

    @pytest.mark.parametrize("label", [1e30, -1e30])
    def test_a_label_beyond_all_classes(self, tmp_path: Path, label: float) -> None:
        write_records(tmp_path / "train.rec", [record([label], IMAGES[0][1])])
        with pytest.raises(ValueError, match="which is no class"):
            RecordIOFaces(tmp_path).open()

    @pytest.mark.parametrize("count", [float("inf"), float("nan"), 1e30])
    def test_a_first_record_with_an_absurd_count(self, tmp_path: Path, count: float) -> None:
        write_records(tmp_path / "train.rec", [record([count, 3.0]), *insightface_records(IMAGES)[1:]])
        with pytest.raises(ValueError, match="its first record gives"):
            RecordIOFaces(tmp_path).open()

    def test_lengths_beyond_the_file_take_no_memory(self, tmp_path: Path) -> None:
        (tmp_path / "train.rec").write_bytes(MAGIC + struct.pack("<I", (1 << 29) - 1) + b"x" * 40)
        with pytest.raises(ValueError, match="truncated: 48 bytes, the record at byte 0 needs more"):
            RecordIOFaces(tmp_path).open()
        head = struct.pack("<IfQQ", 2**32 - 1, 0.0, 0, 0) + b"x" * 40  # so many labels
        write_records(tmp_path / "train.rec", [head, *insightface_records(IMAGES)[1:]])
        with pytest.raises(ValueError, match="a record of 64 bytes has no 4294967295 labels"):
            RecordIOFaces(tmp_path).open()

    def test_broken_chain(self, tmp_path: Path) -> None:
        first = MAGIC + struct.pack("<I", 1 << 29 | 4) + b"abcd"
        (tmp_path / "train.rec").write_bytes(first + framed(record([0], b"")))
        with pytest.raises(ValueError, match="the record before byte 12 has no end"):
            RecordIOFaces(tmp_path).open()

    @pytest.mark.parametrize("label", [0.5, float("nan"), float("inf")])
    def test_label(self, tmp_path: Path, label: float) -> None:
        write_records(tmp_path / "train.rec", [record([label], IMAGES[0][1])])
        with pytest.raises(ValueError, match="which is no class"):
            RecordIOFaces(tmp_path).open()

    def test_one_identity(self, tmp_path: Path) -> None:
        write_records(tmp_path / "train.rec", insightface_records(IMAGES[:3]))
        with pytest.raises(ValueError, match="1 of 1 identities left"):
            RecordIOFaces(tmp_path).open()
