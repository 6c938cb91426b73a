from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from lightning_app.models import ResNet
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO, with_atomic_writes
from lightning_app.runs.folder import check_run, clear_run, has_checkpoint, resolve_checkpoint
from tests.models.test_checkpoints import write

CALLBACKS = Path(__file__).parents[2] / "callbacks"

STATE = {"state_dict": {"a": torch.arange(300_000.0), "b": torch.ones(300_000)}, "global_step": 3}


def test_what_is_written_is_what_lightning_would_write(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    found = TorchCheckpointIO().load_checkpoint(path, weights_only=True)
    assert found["global_step"] == 3
    assert all(torch.equal(found["state_dict"][key], STATE["state_dict"][key]) for key in "ab")  # type: ignore[index]
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint(STATE, path, {"a": 1})


def test_file_and_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).suffix or 'folder'}")
        fsync(handle)

    def renamed(source: Any, target: Any) -> None:
        done.append(f"{Path(source).suffix} to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    AtomicCheckpointIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert done == ["sync .tmp", ".tmp to last.ckpt", "sync folder"]


@pytest.mark.parametrize("room", [100, 500_000, 1_200_000, 2_400_100])
def test_no_room_is_an_oserror_and_the_old_file_stays(tmp_path: Path, room: int) -> None:
    """Torch answers with a RuntimeError about positions where the middle of a file cannot be written."""
    path = tmp_path / "last.ckpt"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            AtomicCheckpointIO().save_checkpoint(STATE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_users_own_way_of_writing_is_kept() -> None:
    kinds = [type(plugin) for plugin in with_atomic_writes(None, "auto")]
    assert kinds == [AtomicCheckpointIO]
    own = TorchCheckpointIO()
    assert with_atomic_writes(own, "ddp") == [own]
    assert with_atomic_writes(["a", own], "ddp") == ["a", own]
    assert len(with_atomic_writes(["a"], "ddp")) == 2
    assert len(with_atomic_writes("a", DDPStrategy())) == 2
    assert with_atomic_writes(None, DDPStrategy(checkpoint_io=own)) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step, name in enumerate(("previous", "last")):
        AtomicCheckpointIO().save_checkpoint(
            STATE | {"global_step": step}, tmp_path / "runs/a/checkpoints" / f"{name}.ckpt"
        )
    return tmp_path / "runs/a"


@pytest.mark.parametrize(
    ("harm", "words"),
    [(cut, "truncated"), (flip, "the file is damaged"), (empty, "truncated"), (Path.unlink, "missing")],
)
def test_last_falls_back_to_the_one_before(
    run: Path, harm: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    last, previous = (run / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    assert resolve_checkpoint("last", run) == last
    assert resolve_checkpoint(str(run), run.parent / "other") == last  # a run's folder
    assert not caplog.records
    harm(last)
    assert has_checkpoint(run)
    assert resolve_checkpoint("last", run) == previous
    (record,) = caplog.records
    assert f"{last}: " in record.getMessage()
    assert words in record.getMessage()
    assert f"Taking {previous}" in record.getMessage()
    check_run(run, previous, overwrite=False)
    with pytest.raises(FileExistsError, match="holds a run already"):
        check_run(run, None, overwrite=False)
    harm(previous)
    if harm is Path.unlink:
        assert not has_checkpoint(run)
        return
    with pytest.raises(ValueError, match=r"neither checkpoint of .*runs/a/checkpoints can be used") as error:
        resolve_checkpoint("last", run)
    assert f"(last.ckpt: {'the file is ' if words == 'truncated' else ''}{words}" in str(error.value)
    assert "previous.ckpt: the file is" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"neither checkpoint of .* can be used"):
        read_recogniser(run)


def test_a_path_is_taken_at_its_word(run: Path) -> None:
    last = run / "checkpoints/last.ckpt"
    cut(last)
    with pytest.raises(ValueError, match=r"last\.ckpt: the file is truncated or no checkpoint"):
        resolve_checkpoint(str(last), run)


def test_a_recogniser_comes_from_the_one_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=32)
    previous = write(tmp_path / "checkpoints/previous.ckpt", model)
    (tmp_path / "checkpoints/last.ckpt").write_bytes(previous.read_bytes()[:1000])
    loaded, facts = read_recogniser(tmp_path)
    assert facts.path == previous
    assert torch.equal(
        loaded.state_dict()["backbone.conv1.weight"], model.state_dict()["backbone.conv1.weight"]
    )


def test_no_picture_of_the_run_before_is_left(tmp_path: Path) -> None:
    """Of any callback, by the names in their code: one may show masks of faces that another run must not."""
    code = "".join(path.read_text() for path in sorted(CALLBACKS.glob("*.py")))
    names = re.findall(r"(?:save_as=f?|save_picture\(trainer, f?)\"([^\"]+)\"", code)
    assert {"faces.png", "masks.png", "mean_mask.png", "mixing.png", "budget.png"} <= {*names}
    for name in [*names, "confusion_{stage}.csv"]:
        (tmp_path / name.format(stage="val")).touch()
    (tmp_path / "scores").mkdir()
    (tmp_path / "notes.txt").touch()
    clear_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
