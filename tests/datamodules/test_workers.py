"""What fails in a process that reads images is one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.readers.base import FaceReader, Pixels, whole
from datamodules.readers.folder import FolderFaces
from datamodules.resumable import ResumableLoader
from datamodules.workers import reason_of
from tests.datamodules.face_files import make_tree

TRACE = 'Original Traceback (most recent call last):\n  File "x.py", line 1, in f\n    raise\n'
CAUGHT = "Caught {0} in DataLoader worker process 0.\n" + TRACE + "{0}: {1}\n"
NO_ROOM = "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"


class Failing(FaceReader):
    """Raises when an image is read."""

    def __init__(self, error: Exception) -> None:
        self.error, self.size, self.identities = error, 8, ["a", "b"]
        self.labels = torch.tensor([0, 0, 1, 1])

    def read(self, index: int) -> Pixels:
        raise self.error

    def name(self, index: int) -> str:
        return str(index)


def _read(reader: FaceReader, workers: int) -> list[object]:
    loader = ResumableLoader(
        reader, batch_size=2, collate_fn=whole, num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    return list(loader)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError(NO_ROOM),
            r"data\.num_workers=1: no room in /dev/shm .*num_workers 1, or 0, .*--shm-size",
        ),
        (OSError(28, "No space left on device"), r"no room in /dev/shm.*--shm-size"),
        (OSError(24, "Too many open files"), r"too many open files.*ulimit -n"),
        (ValueError("a.jpg: cannot be decoded\nat all"), r"^a\.jpg: cannot be decoded\nat all$"),
        (FileNotFoundError("a.jpg: no such file"), r"^a\.jpg: no such file$"),
    ],
)
def test_one_line_of_a_process(error: Exception, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message) as raised:
        _read(Failing(error), 1)
    assert "Traceback" not in str(raised.value)


def test_a_bug_stays_one() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Caught RuntimeError in DataLoader worker.*a bug"):
        _read(Failing(RuntimeError("a bug")), 1)


def test_without_processes_nothing_is_changed() -> None:
    error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left") as raised:
        _read(Failing(error), 0)
    assert raised.value is error


def test_a_bad_image(tmp_path: Path) -> None:
    make_tree(tmp_path, {"ann": 2, "bob": 2})
    (tmp_path / "bob" / "bob_0002.jpg").write_bytes(b"no image")
    reader = FolderFaces(tmp_path, size=16, on_bad_image="error", cache_index=False).open()
    with pytest.raises(ValueError, match=r"^/.*bob_0002\.jpg: cannot be decoded \(no JPEG, PNG or WebP\)$"):
        _read(reader, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CAUGHT.format("RuntimeError", NO_ROOM), "no room in /dev/shm"),
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
         "out of shared memory. Please try to raise your shared memory limit.", "no room in /dev/shm"),
        ("unable to write to file </torch_1>: No space left on device (28)", "no room in /dev/shm"),
        ("received 0 items of ancdata", "too many open files"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "was killed, for want of memory perhaps"),
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "was killed, for want of memory perhaps"),
    ],
)  # fmt: skip
def test_messages_of_torch(text: str, message: str) -> None:
    said = reason_of(RuntimeError(text), 4)
    assert isinstance(said, OSError)
    assert message in str(said)
    assert "--data.num_workers 4, or 0" in str(said)
