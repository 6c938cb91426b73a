"""A run's folder may come from somebody else: what its names lead to, anywhere, is not written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from jsonargparse import ArgumentParser

from lightning_app.alignment.journal import AlignJournal
from lightning_app.cli.app import RunConfig
from lightning_app.core import files
from lightning_app.masks.search.journal import SearchJournal
from lightning_app.release.write.journal import Journal
from lightning_app.runs import lock
from lightning_app.runs.csv_log import CSVLog
from lightning_app.studies.runner import _kept
from lightning_app.studies.sweep import Cells

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
Open = Callable[[Path], object]


def _release_journal(path: Path) -> None:
    journal = Journal(path, {"a": 1})
    journal.open()
    journal.close()


def _sweep(path: Path) -> None:
    cells = Cells(path.parent, {}, False, ())
    cells.path = path
    cells.add({"model": "a", "level": 1, "repeat": 0, "mask": "b"}, {})


ALIGN = '{"centre_margin": 1}\n'
SEARCH = '{"a": 1}\n'
OPENED: list[tuple[str, str, Open]] = [
    (lock.LOCK, "process 7 on elsewhere\n", lambda path: lock.hold(path.parent)),
    ("align.jsonl", ALIGN + "{}", lambda path: AlignJournal(path, {"centre_margin": 1})),
    ("search.jsonl", SEARCH + "cut", lambda path: SearchJournal(path, {"a": 1})),
    ("journal.jsonl", SEARCH + "cut", _release_journal),
    ("cells.jsonl", "", _sweep),
    ("output.txt", "", lambda path: _kept(path, "$ main.py\n")),
]


@pytest.mark.parametrize(("name", "content", "opened"), OPENED, ids=[one[0] for one in OPENED])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_what_a_link_leads_to_is_not_written(
    name: str, content: str, opened: Open, link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """Not even where it holds what we write ourselves."""
    victim, path = tmp_path / "victim", tmp_path / "run" / name
    path.parent.mkdir()
    victim.write_text(content)
    victim.chmod(0o644)
    link(victim, path)
    words = rf"{name}: is a link, or no file, and might be anything else of yours: not written; remove it"
    with pytest.raises(ValueError, match=words):
        opened(path)
    assert victim.read_text() == content
    assert victim.stat().st_mode & 0o777 == 0o644


def test_a_link_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="link: is a link"):
        files.append_to(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: is a link, or no file"):
        files.open_in_place(tmp_path / "pipe", os.O_RDWR)


@pytest.mark.parametrize("content", ["PRECIOUS KEY\n", "process 7 on elsewhere\nPRECIOUS KEY\n", "\0"])
def test_what_is_no_lock_text_is_not_emptied(content: str, tmp_path: Path) -> None:
    path = tmp_path / lock.LOCK
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"\.lock: is no lock file of FaceVeil: it is left as it is; remove it"
    ):
        lock.hold(tmp_path)
    assert path.read_text() == content
    assert not lock.is_held(tmp_path)


@pytest.mark.parametrize("content", ["", "proc", "process 77777777 on a host with a long name\n"])
def test_what_a_killed_process_left_of_a_lock_is_taken_over(content: str, tmp_path: Path) -> None:
    (tmp_path / lock.LOCK).write_text(content)
    lock.hold(tmp_path)
    assert (tmp_path / lock.LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert lock.is_held(tmp_path)
    lock.release(tmp_path)


def test_a_folder_whose_lock_is_a_link_is_held_by_nobody(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    lock.hold(ours)
    other.mkdir()
    (other / lock.LOCK).symlink_to(ours / lock.LOCK)
    assert not lock.is_held(other)
    lock.release(other)
    assert lock.is_held(ours)
    lock.release(ours)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_log_that_goes_on_becomes_a_file_of_its_own(
    link: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "run" / "metrics.csv"
    path.parent.mkdir()
    victim.write_text("step,train/loss\r\n1,0.5\r\n")
    link(victim, path)
    logger = CSVLog(path.parent, goes_on=True)
    logger.log_metrics({"train/loss": 0.25}, 2)
    logger.save()
    assert path.read_text().splitlines() == ["step,train/loss", "1,0.5", "2,0.25"]
    assert not path.is_symlink()
    assert victim.read_text().splitlines() == ["step,train/loss", "1,0.5"]


def test_a_config_takes_the_place_of_a_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    folder.mkdir()
    victim.write_text("mine")
    (folder / "config.yaml").symlink_to(victim)
    parser = ArgumentParser()
    for name in ("name", "overwrite", "ckpt_path"):
        parser.add_argument(f"--{name}")
    callback = RunConfig(parser, parser.parse_args([]))  # type: ignore[arg-type]
    callback._write(SimpleNamespace(default_root_dir=str(folder)))  # type: ignore[arg-type]
    assert victim.read_text() == "mine"
    assert (folder / "config.yaml").read_text() == "name: run\noverwrite: false\nckpt_path: null\n"


def test_a_link_to_a_device_is_replaced(tmp_path: Path) -> None:
    """A link to a disk could stand in the folder, and whoever trains may be allowed to write it."""
    path = tmp_path / "metrics.json"
    path.symlink_to("/dev/full")
    files.write_atomically(path, "{}")
    assert not path.is_symlink()
    assert path.read_text() == "{}"
