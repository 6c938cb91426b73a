"""The folder of a federation: its lock, its settings, the configs it keeps."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.federated.server.state import open_run
from lightning_app.runs import lock
from lightning_app.runs.folder import RECORD
from lightning_app.runs.lock import LOCK
from tests.federated.tiny import plan_and_parts
from tests.other_process import other_process, said


def opened(run_dir: Path, overwrite: bool = False, **more: Any) -> str:
    plan, parts = plan_and_parts(**more)
    return open_run(run_dir, plan, parts, overwrite)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the lock of `tmp_path`."""
    with other_process(tmp_path) as process:
        yield process


def test_two_processes_do_not_federate_in_one_folder(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(other) == "holds it"
    patience = lock._PATIENCE_S
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"another process is writing here \(process 7 on elsewhere\)"):
            opened(tmp_path, overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    monkeypatch.setattr(lock, "_PATIENCE_S", patience)
    threading.Timer(
        0.3, other.kill
    ).start()  # SIGKILL leaves nothing stale; who is about to end is waited for
    assert opened(tmp_path) == opened(tmp_path)  # this process may ask again


def test_the_lock_outlasts_what_this_process_does_in_the_folder(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    opened(tmp_path)
    opened(tmp_path, overwrite=True)
    assert said(request.getfixturevalue("other")) == "refused"


def test_where_and_how_fast_may_change_and_what_decides_may_not(tmp_path: Path) -> None:
    run = opened(tmp_path)
    elsewhere = {"accelerator": "auto", "devices": 2, "benchmark": True}
    fast = {"num_workers": 3, "cache": True}
    assert opened(tmp_path, trainer=elsewhere, data=fast, model={"compile": True}) == run
    for more, difference in (
        ({"trainer": {"precision": "bf16-mixed"}}, 'trainer.precision is null, not "bf16-mixed"'),
        ({"data": {"global_batch_size": 4}}, "data.init_args.global_batch_size is 8, not 4"),
        ({"rounds": 3}, "plan.rounds is 2, not 3"),
    ):
        words = f"other settings ({difference}): go on with those, replace it (--overwrite)"
        with pytest.raises(ValueError, match=re.escape(words)):
            opened(tmp_path, **more)
    assert opened(tmp_path, overwrite=True, rounds=3) != run


def test_a_record_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    """It held all of `data` and `trainer`."""
    plan, parts = plan_and_parts(data={"num_workers": 2})
    settings = {"plan": plan.decisive(), "seed": 0, "model": parts.model, "data": parts.data}
    description = {"run": "0123456789abcdef", "settings": settings | {"trainer": parts.trainer}}
    (tmp_path / RECORD).write_text(json.dumps(description, default=str))
    assert opened(tmp_path) == "0123456789abcdef"
    with pytest.raises(ValueError, match=r"trainer\.limit_train_batches is null, not 1"):
        opened(tmp_path, trainer={"limit_train_batches": 1})


def test_both_configs_are_there_from_the_beginning(tmp_path: Path) -> None:
    opened(tmp_path / "three", data={"val_share": 0.25}, trainer={"callbacks": [], "max_epochs": 3})
    fit, again = (
        yaml.safe_load((tmp_path / "three" / name).read_text()) for name in ("config.yaml", "federate.yaml")
    )
    assert set(fit) == {"name", "runs", "seed_everything", "trainer", "model", "data"}
    assert (fit["name"], fit["runs"]) == ("three", str(tmp_path))
    assert fit["data"]["init_args"].pop("val_share") == 0.0  # the owners have held out images of their own
    assert again["data"]["init_args"].pop("val_share") == 0.25
    assert again.items() >= fit.items()
    assert (again["rounds"], again["engine"]) == (2, "local")


def test_a_federation_from_before_there_were_teachers_goes_on(tmp_path: Path) -> None:
    run = opened(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    before = record["settings"]["model"]["init_args"]
    assert not {"init_from", "teacher", "distillation"} & before.keys()
    assert opened(tmp_path) == run


@pytest.mark.parametrize(
    ("name", "value"), [("init_from", "a.ckpt"), ("teacher", "a.ckpt"), ("distillation", 1.0)]
)
def test_a_federation_begins_from_its_seed_and_learns_from_its_owners_alone(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"model\.init_args\.{name}: .* begins from its seed"):
        plan_and_parts(model={name: value})
