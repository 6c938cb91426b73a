"""After a kill at any point the old or the new is there whole, and nothing is left over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.core import files
from lightning_app.export.folder import check_output
from lightning_app.masks import load_mask, mask_hash, save_mask
from lightning_app.runs import atomic as at_once
from lightning_app.runs.atomic import files_at_once, folder_at_once, recover, swap

FORK = multiprocessing.get_context("fork")
OLD, NEW = ({"a": "1", "b": "1"}, {"a": "2", "c": "2"})
NAMES = {"a": "x.a", "b": "x.b", "c": "x.c"}


class Dies:
    """`os.rename`, `os.replace` and the like, which kill the process with -9 before or after the n-th call."""

    def __init__(self, calls: int, after: bool) -> None:
        self.left, self.after = calls, after

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            self.left -= 1
            now = self.left == 0
            if now and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*args, **more)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return called


def killed(does: Callable[[], None], calls: int, after: bool, swaps: bool) -> bool:
    """Do something in a process that is killed at one of its steps; tell whether it came so far."""

    def run() -> None:
        dies = Dies(calls, after)
        for name in ("rename", "replace", "unlink"):
            setattr(os, name, dies(getattr(os, name)))
        setattr(at_once, "swap", dies(swap) if swaps else lambda *_: False)  # noqa: B010
        does()

    process = FORK.Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}


def write(folder: Path, what: dict[str, str]) -> None:
    for name, text in what.items():
        (folder / name).write_text(text)


def make_folder(output: Path, what: dict[str, str]) -> None:
    with folder_at_once(output) as folder:
        write(folder, what)


def make_files(folder: Path, what: dict[str, str]) -> None:
    with files_at_once(folder, NAMES) as work:
        write(work, what)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_after_a_kill_at_any_step(tmp_path: Path, swaps: bool) -> None:
    """`export` killed between its two renames lost the earlier export."""
    found, calls = set(), 0
    while True:
        calls += 1
        for after in (False, True):
            out = tmp_path / f"{calls}-{after}" / "out"
            make_folder(out, OLD)
            came = killed(partial(make_folder, out, NEW), calls, after, swaps)
            if swaps and came:  # before anybody has put anything right
                assert content(out) in (OLD, NEW)
            recover(out)
            assert content(out) in (OLD, NEW)
            found.add(content(out)["a"])
            assert [path.name for path in out.parent.iterdir()] == ["out"]
        if not came:
            break
    assert calls > 1
    assert found == {"1", "2"}


def test_files_after_a_kill_at_any_step(tmp_path: Path) -> None:
    """Never some of each; the next look at the place ends what was decided."""
    old, new = ({NAMES[key]: text for key, text in what.items()} for what in (OLD, NEW))
    found, calls = set(), 0
    while True:
        calls += 1
        for after in (False, True):
            folder = tmp_path / f"{calls}-{after}"
            make_files(folder, OLD)
            came = killed(partial(make_files, folder, NEW), calls, after, True)
            assert content(folder) in (old, new) or "x.a" not in content(folder)
            recover(folder / "x.a")
            assert content(folder) in (old, new)
            found.add(content(folder)["x.a"])
            assert not [path for path in folder.iterdir() if path.is_dir()]
        if not came:
            break
    assert calls > 3
    assert found == {"1", "2"}


def test_a_mask_and_its_facts_after_a_kill_at_any_step(tmp_path: Path) -> None:
    masks = [torch.zeros(8, 8), torch.zeros(8, 8)]
    masks[0][:4], masks[1][:2] = 1, 1
    found, calls = set(), 0
    while True:
        calls += 1
        for after in (False, True):
            path = tmp_path / f"{calls}-{after}" / "mask.png"
            save_mask(masks[0], path)
            came = killed(partial(save_mask, masks[1], path), calls, after, True)
            read = load_mask(path)
            assert json.loads(path.with_suffix(".json").read_text())["mask_hash"] == mask_hash(read)
            found.add(mask_hash(read))
        if not came:
            break
    assert calls > 2
    assert found == {mask_hash(mask) for mask in masks}


def test_what_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder_at_once(out) as folder:
        (folder / "a").write_text("1")
        read, write_end = os.pipe()

        def look() -> None:
            recover(out)
            os.write(write_end, b".")

        looks = FORK.Process(target=look)
        looks.start()
        looks.join()
        assert os.read(read, 1) == b"."
        assert (folder / "a").exists()
    assert content(out) == {"a": "1"}


def test_a_folder_that_another_process_took_for_a_killed_ones_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks write beside each other: one may look for what is left as another has made its folder, not yet locked."""
    made: list[str] = []
    make = tempfile.mkdtemp

    def looked_at(**more: Any) -> str:
        made.append(make(**more))
        if len(made) == 1:
            recover(tmp_path / "x.a")
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", looked_at)
    make_files(tmp_path, OLD)
    assert len(made) == 2
    assert content(tmp_path) == {NAMES[key]: text for key, text in OLD.items()}


def test_an_export_looks_for_what_a_killed_one_has_left(tmp_path: Path) -> None:
    """Of an earlier version, or where names cannot be swapped: the earlier export lies in the temporary folder."""
    work = tmp_path / ".out.abcd_123.tmp"
    (work / "old").mkdir(parents=True)
    (work / "old" / "a").write_text("1")
    (work / "new").mkdir()
    with pytest.raises(FileExistsError, match="there is an export already; give --overwrite"):
        check_output(tmp_path / "out", {"a": "a"}, overwrite=False)
    assert content(tmp_path / "out") == {"a": "1"}
    assert not work.exists()


def test_swapping_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    if not swap(tmp_path / "here", tmp_path / "here"):
        pytest.skip("this system cannot swap names")
    with pytest.raises(FileNotFoundError, match="No such file"):
        swap(tmp_path / "here", tmp_path / "there")


def test_old_parts_of_a_mask_go_and_new_ones_stay(tmp_path: Path) -> None:
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    parts = [tmp_path / f".mask.png.abcdefg{number}.tmp" for number in range(2)]
    for part in parts:
        part.write_bytes(b"half")
    os.utime(parts[0], (0, 0))
    save_mask(mask, tmp_path / "mask.png")
    assert [part.exists() for part in parts] == [False, True]
    assert files.is_temporary(parts[1].name, "mask.png")


@pytest.mark.parametrize(
    "steps",
    [
        [["evil", "../.bashrc", True]],
        [["a", "none", False], ["b", "{home}/thesis.txt", False]],
        [["../thesis.txt", "a", True]],
        [["link", "a", True]],
        [["folder", "a", True]],
        [["evil", "..", True]],
        [["evil", 3, True]],
        {"evil": "a"},
        [],
    ],
)
def test_a_folder_that_came_with_somebody_elses_run_leads_nowhere(tmp_path: Path, steps: object) -> None:
    home = tmp_path / "home"
    work = home / "run" / ".faceveil-files.abcdefgh.tmp"
    work.mkdir(parents=True)
    (home / "thesis.txt").write_text("mine")
    (home / ".bashrc").write_text("mine")
    (work / "evil").write_text("evil")
    (work / "folder").mkdir()
    (work / "link").symlink_to(home / "thesis.txt")
    (work / ".names").write_text(json.dumps(steps).replace("{home}", str(home)))
    with pytest.raises(
        ValueError, match=r"faceveil-files.abcdefgh.tmp: is no folder that a killed export or search"
    ):
        recover(home / "run")
    assert (home / "thesis.txt").read_text() == (home / ".bashrc").read_text() == "mine"
    assert work.is_dir()


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    assert files.write_atomically("/dev/null", "text") == Path("/dev/null")
    assert Path("/dev/null").is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_atomically(pipe, "text")
        assert os.read(reader, 99) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically("/dev/full", "text")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm")
def test_a_file_on_a_ram_disk_is_a_file() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "file"
        path.write_text("old")
        path.chmod(0o644)
        with suppress(RuntimeError), files.replacing(path) as file:
            file.write(b"half")
            raise RuntimeError
        assert path.read_text() == "old"
        files.write_atomically(path, "new", mode=files.PRIVATE)
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
