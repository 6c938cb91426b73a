"""A release that was stopped: killed, gone on with, begun otherwise, damaged in between."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from datamodules import DrawnFaces, FolderFaces, RecordIOFaces
from datamodules.readers.base import Pixels
from lightning_app.desensitize import GaussianBlur, MaskOut
from lightning_app.release.write import finish, work
from lightning_app.release.write.journal import Done, Journal
from tests.datamodules.face_files import encoded, insightface_records, picture, write_records
from tests.release.released import CONSTANT, KEY, SIZE, contents, mask_file, raw_tree, release, times

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_tree(tmp_path / "raw")


class Counted(DrawnFaces):
    """Slow enough to be killed in its midst; notes every image read in a file."""

    def __init__(self, log: Path, pause: float = 0.004) -> None:
        super().__init__(identities=20, images_per_identity=10, size=SIZE)
        self.log, self.pause = log, pause

    def read(self, index: int) -> Pixels:
        with self.log.open("ab", buffering=0) as file:
            file.write(b"%d\n" % index)
        time.sleep(self.pause)
        return super().read(index)


def reads(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def in_a_process(home: Path, reader: Counted, workers: int) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=release, args=(home, home), kwargs={"reader": reader, "workers": workers})
    process.start()
    return process


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path: Path, workers: int) -> None:
    release(tmp_path, tmp_path, "undisturbed", reader=Counted(tmp_path / "plain.log", 0))
    expected = contents(tmp_path / "undisturbed")
    log, draw = tmp_path / "reads.log", random.Random(workers)
    killed = 0
    while killed < 10:
        before = len(reads(log))
        process = in_a_process(tmp_path, Counted(log), workers)
        wanted = before + draw.randrange(0, 25)  # reads; what a batch writes comes after them
        while process.is_alive() and len(reads(log)) < wanted:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.01))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert process.exitcode == -signal.SIGKILL, "finished before it was killed"
        there = {name: data for name, data in contents(tmp_path / "out").items() if ".part" not in name} \
            if (tmp_path / "out").exists() else {}  # fmt: skip
        assert "manifest.json" not in there
        for name, data in there.items():
            assert data == expected[name], f"{name} is half a file"
    last = release(tmp_path, tmp_path, reader=Counted(log), workers=workers)
    assert last.kept > 0, "all was done anew"
    assert contents(tmp_path / "out") == expected
    assert times(tmp_path / "out") == CONSTANT
    # what was under way when a kill came is done again: the batch of three in hand, and two for each worker
    assert len(set(reads(log))) == 200
    assert len(reads(log)) <= 200 + 10 * 3 * (1 + 2 * workers)


def dying(home: Path, raw: Path, key: Ed25519PrivateKey, name: str, calls: int) -> None:
    """Release, and be killed in the last step: instead of that call of that function."""
    count, kept = itertools.count(), getattr(finish, name)

    def dies(*args: Any, **more: Any) -> Any:
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(*args, **more)

    setattr(finish, name, dies)
    release(home, raw, signer=key)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("save_mask", 0), ("walk_release", 0), ("write_atomically", 0), ("write_atomically", 1), ("stamp", 3)],
)
def test_a_kill_in_the_last_step(raw: Path, tmp_path: Path, name: str, calls: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    release(tmp_path, raw, "undisturbed", signer=key)
    process = FORK.Process(target=dying, args=(tmp_path, raw, key, name, calls))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "out" / "manifest.json").exists() == (name == "stamp")
    again = release(tmp_path, raw, signer=key)
    assert again.made == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
    assert times(tmp_path / "out") == CONSTANT


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    log = tmp_path / "reads.log"
    process = in_a_process(tmp_path, Counted(log, 0.05), 2)
    while len(reads(log)) < 4:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    time.sleep(0.2)
    count = len(reads(log))
    time.sleep(0.3)
    assert len(reads(log)) == count


def test_a_second_run_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_app.release.write.writer._PATIENCE", 0.1)
    log = tmp_path / "reads.log"
    process = in_a_process(tmp_path, Counted(log, 0.05), 0)
    while len(reads(log)) < 2:
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another desensitize is at work there"):
        release(tmp_path, tmp_path, reader=Counted(log))
    process.kill()
    process.join()


def test_a_second_run_into_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_app.release.write.writer._PATIENCE", 0.1)
    log = tmp_path / "reads.log"
    process = in_a_process(tmp_path, Counted(log, 0.05), 0)
    while len(reads(log)) < 2:
        time.sleep(0.01)
    with pytest.raises(
        ValueError, match=r"out: another desensitize is at work there; .* give another --output"
    ):
        release(tmp_path, tmp_path, reader=Counted(log), owner=tmp_path / "another owner", overwrite=True)
    process.kill()
    process.join()
    assert (tmp_path / "out" / "images").exists()


def test_a_worker_whose_parent_is_gone_already_ends() -> None:
    process = FORK.Process(target=work._begin, args=(None, os.getpid() + 1))
    process.start()
    process.join()
    assert process.exitcode == 1


def replace_in_place(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Return a file other content and, where asked for, the time stamp it had."""
    path.write_bytes(data)
    if like is not None:
        os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))


def test_a_source_that_was_replaced_is_made_again(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    replace_in_place(raw / "Person 1" / "2.jpg", encoded(picture(70, "L"), "JPEG"))
    again = release(tmp_path, raw)
    assert again.made in (2, 3), "its batch"
    assert again.manifest == release(tmp_path, raw, "fresh").manifest
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")
    assert times(tmp_path / "out") == CONSTANT
    assert release(tmp_path, raw).made == 0


def test_records_that_were_replaced_are_made_again(tmp_path: Path) -> None:
    for seed in (0, 50):  # stored without compression, so that every record stays in its place
        images = [
            (label, encoded(picture(seed + n, "L"), "PNG", compress_level=0))
            for n, label in enumerate((1, 1, 2, 2))
        ]
        write_records(tmp_path / "train.rec", insightface_records(images))
        reader = RecordIOFaces(tmp_path / "train.rec", size=SIZE, cache_index=False)
        assert release(tmp_path, tmp_path, reader=reader).made == 4
        assert release(tmp_path, tmp_path, reader=reader).made == 0


@pytest.mark.parametrize("how", ["repaired", "repaired without a trace", "still bad"])
def test_a_refused_file_is_tried_again(raw: Path, tmp_path: Path, how: str) -> None:
    path = raw / "Person 0" / "0.jpg"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)) if how == "repaired without a trace" else whole[:700])
    bad = path.stat()
    first = release(tmp_path, raw)
    assert first.manifest.refused
    if how != "still bad":
        replace_in_place(path, whole, bad if how == "repaired without a trace" else None)
    again = release(tmp_path, raw)
    assert again.made in ((0,) if how == "still bad" else (2, 3)), "its batch"
    fresh = release(tmp_path, raw, "fresh")
    assert again.manifest == fresh.manifest
    assert again.manifest.images == (19 if how == "still bad" else 20)
    assert [why for _, why, _ in again.refused] == [why for _, why, _ in fresh.refused]
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_overwrite_begins_anew_with_the_same_settings(raw: Path, tmp_path: Path) -> None:
    path = raw / "Person 3" / "1.png"
    path.write_bytes(encoded(picture(16, "RGB"), "PNG", compress_level=0))
    release(tmp_path, raw)
    other = encoded(picture(71, "RGB"), "PNG", compress_level=0)
    replace_in_place(path, other, path.stat())  # of the same length, at the same time: nobody can see that
    assert release(tmp_path, raw).made == 0
    again = release(tmp_path, raw, overwrite=True)
    assert (again.made, again.kept) == (20, 0)
    release(tmp_path, raw, "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_journal_that_does_not_know_its_sources_is_not_believed(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    journal = tmp_path / "out of the owner" / "journal.jsonl"
    head, *lines = journal.read_text().splitlines()
    old = [[batch, [image[:4] for image in images]] for batch, images in map(json.loads, lines)]
    journal.write_text("\n".join([head, *map(json.dumps, old)]) + "\n")
    again = release(tmp_path, raw)
    assert (again.made, again.kept) == (20, 0)


def test_a_finished_release_is_left_as_it_is(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    before = contents(tmp_path / "out")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "out" / "images").rglob("*.png")}
    again = release(tmp_path, raw)
    assert (again.made, again.kept) == (0, 20)
    assert contents(tmp_path / "out") == before
    assert {path: path.stat().st_ino for path in (tmp_path / "out" / "images").rglob("*.png")} == inodes
    assert times(tmp_path / "out") == CONSTANT


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "linked"])
def test_a_file_that_changed_is_made_again(raw: Path, tmp_path: Path, how: str) -> None:
    release(tmp_path, raw)
    before = contents(tmp_path / "out")
    victim = sorted((tmp_path / "out" / "images").rglob("*.png"))[7]
    data = victim.read_bytes()
    victim.unlink()
    if how == "flipped":
        victim.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    elif how == "cut":
        victim.write_bytes(data[:50])
    elif how == "linked":
        (tmp_path / "copy.png").write_bytes(data)
        victim.symlink_to(tmp_path / "copy.png")
    again = release(tmp_path, raw)
    assert (again.made, again.kept) == (3, 17), "its batch of three"
    assert contents(tmp_path / "out") == before
    assert times(tmp_path / "out") == CONSTANT


def test_an_image_that_went_bad_leaves_the_release(raw: Path, tmp_path: Path) -> None:
    made = release(tmp_path, raw)
    place = next(p for p in range(20) if made.plan.index(p) == 0)
    (tmp_path / "out" / made.plan.file(place)).write_bytes(b"changed")
    (raw / "Person 0" / "0.jpg").write_bytes(b"")
    again = release(tmp_path, raw)
    assert again.manifest.images == 19
    assert set(again.manifest.files) == set(made.manifest.files) - {made.plan.file(place)}
    assert not (tmp_path / "out" / made.plan.file(place)).exists()


Change = Callable[[Path, Path], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda home, raw: {"desensitizer": GaussianBlur(9)}, r"another method\."),
        (
            lambda home, raw: {"desensitizer": MaskOut(mask=mask_file(home / "m.png", 2))},
            r"method\.mask_hash",
        ),
        (
            lambda home, raw: {"desensitizer": MaskOut(mask=home / "mask.png", guard=1)},
            r"method\.guard.* is 1",
        ),
        (lambda home, raw: {"key": KEY[::-1]}, "another images, key"),
        (lambda home, raw: {"compression": 6}, r"another compression \(compression was 1, is 6\)"),
        (
            lambda home, raw: {"reader": FolderFaces(raw, crop=30, size=SIZE, cache_index=False)},
            r"crop was 40, is 30",
        ),
        (lambda home, raw: {"reader": FolderFaces(raw, crop=40, size=SIZE, max_images=4)}, "another images"),
        (lambda home, raw: {"output": home / "elsewhere"}, "another output"),
    ],
)
def test_other_settings_are_refused(change: Change, message: str, raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=message) as found:
        release(tmp_path, raw, **change(tmp_path, raw))
    assert "--overwrite" in str(found.value)
    assert "\n" not in str(found.value)
    assert contents(tmp_path / "out") == before
    if "elsewhere" not in str(change(tmp_path, raw)):
        replaced = release(tmp_path, raw, overwrite=True, **change(tmp_path, raw))
        assert replaced.kept == 0
        fresh = release(tmp_path, raw, "fresh", **change(tmp_path, raw))
        assert fresh.manifest == replaced.manifest
        assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_folder_with_something_else_in_it(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="out: is not empty; name another --output"):
        release(tmp_path, raw)
    (tmp_path / "out" / "manifest.json").write_bytes(b"of a web page")
    with pytest.raises(
        FileExistsError, match=r"holds images/holiday\.png, which is of no release; move it away"
    ):
        release(tmp_path, raw, overwrite=True)
    assert contents(tmp_path / "out") == {"images/holiday.png": b"mine", "manifest.json": b"of a web page"}
    assert not (tmp_path / "out of the owner" / "journal.jsonl").exists()


@pytest.mark.parametrize("stray", ["notes.txt", "images/x.png", "images/.DS_Store", ".git/config"])
def test_a_stray_file_is_not_released(raw: Path, tmp_path: Path, stray: str) -> None:
    release(tmp_path, raw)
    path = tmp_path / "out" / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="that the manifest does not list; put it right"):
        release(tmp_path, raw)
    assert path.read_bytes() == b"mine"
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_line_that_a_kill_cut_short(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    expected = contents(tmp_path / "out")
    journal = tmp_path / "out of the owner" / "journal.jsonl"
    whole = journal.read_bytes()
    for length in (len(whole) - 1, len(whole) - 30, len(whole.split(b"\n")[0]) + 1, 20, 0):
        journal.write_bytes(whole[:length])
        (tmp_path / "out" / "manifest.json").unlink()
        if length <= 20:  # nothing is known of what is in the folder
            with pytest.raises(FileExistsError, match="is not empty"):
                release(tmp_path, raw)
        release(tmp_path, raw, overwrite=length <= 20)
        assert contents(tmp_path / "out") == expected
        assert journal.read_bytes() == whole


def test_a_damaged_journal(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    journal = tmp_path / "out of the owner" / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([lines[0], b"{}", *lines[2:]]))
    with pytest.raises(ValueError, match=r"line 2 of .*journal\.jsonl is damaged"):
        release(tmp_path, raw)
    for content in (b"no journal\n", b"[1]\n", b'{"a": 1}\n'):
        journal.write_bytes(content)
        with pytest.raises(ValueError, match="is no journal of a release"):
            release(tmp_path, raw)


def test_the_journal_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path, {"a": 1})
    assert journal.is_new
    assert not path.exists(), "nothing is begun before it is opened"
    journal.open()
    images = [Done("ab" * 32, 1), Done(reason="truncated", message="raw/\udcff.jpg: cut")]
    journal.add(3, images)
    journal.close()
    again = Journal(path, {"a": 1})
    assert not again.is_new
    assert list(again.batches()) == [(3, images)]
    assert json.loads(path.read_text().splitlines()[0]) == {"a": 1}
