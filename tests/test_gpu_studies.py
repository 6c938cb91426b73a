"""Studies on a lent GPU: which runs there are, in which order, what becomes of each; and the tables made of them."""

from __future__ import annotations

import json
import re
import tarfile
import time
from pathlib import Path

import pytest
import torch
import yaml

import main as command_line
from benchmarks import gpu_studies
from lightning_app.cli.configs import find_config


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ablation of three kinds of run: one needs another's checkpoint, one a file that nobody makes."""
    monkeypatch.chdir(tmp_path)
    Path("fit.yaml").write_text("seed_everything: 0\n")
    config = Path("study.yaml")
    config.write_text(
        "name: study\n"
        "variants:\n"
        "  second: {args: [--model.init_from=runs/study/first_one_s1/last.ckpt]}\n"
        "  first: {args: []}\n"
        "  never: {args: [--model.init_from=nowhere.ckpt]}\n"
        "  failing: {args: [--fail]}\n"
        "systems: {one: {config: fit.yaml}}\n"
        "seeds: [1, 2]\n"
    )
    return config


def fake_main(args: list[str]) -> None:
    """Stand for a run: it prints, writes what a run leaves, or fails."""
    print("run of", *args)
    if "--fail" in args:
        raise SystemExit(1)
    given = dict(zip(args, args[1:], strict=False))
    for wanted in [part.partition("=")[2] for part in args if part.startswith("--model.init_from=")]:
        assert Path(wanted).is_file(), "begun before what it needs was there"
    run = Path(given["--runs"]) / given["--name"]
    run.mkdir(parents=True)
    (run / "last.ckpt").touch()
    (run / "metrics.json").write_text(json.dumps({"lfw/accuracy": 0.75}))


def test_first_seeds_come_first_and_a_run_waits_for_what_it_names(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "main", fake_main)
    # another test of this process may have asked for a GPU
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    plan = gpu_studies.read_study(str(study), ["--extra"], None, "runs")
    tasks = gpu_studies.tasks_of(plan, 3)
    assert [t.order for t in tasks] == [(1, 3), (2, 3)] * 4
    assert {t.name: t.needs for t in tasks}["second_one_s2"] == (Path("runs/study/first_one_s1/last.ckpt"),)
    assert all("--extra" in t.args and "--overwrite" in t.args for t in tasks)
    said: list[str] = []
    state = gpu_studies.run_all(tasks, 2, time.monotonic() + 60, said.append)
    assert state == {
        **{f"study/{kind}_one_s{seed}": "done" for kind in ("first", "second") for seed in (1, 2)},
        **{f"study/never_one_s{seed}": "not begun" for seed in (1, 2)},
        **{f"study/failing_one_s{seed}": "FAILED" for seed in (1, 2)},
    }
    # which of two is told first is chance: a run may begin once the other's checkpoint is there; see `fake_main`
    assert "exit code 1" in Path("runs/study/logs/failing_one_s1.log").read_text()
    again = gpu_studies.run_all(tasks, 1, time.monotonic() + 60, said.append)
    assert again["study/first_one_s1"] == "done before"


def test_single_runs_come_first_and_studies_wait_for_their_folders(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "main", fake_main)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    study.write_text(
        "name: masks\n"
        "variants:\n"
        "  learned: {args: ['--data.desensitizer={class_path: X, init_args: {checkpoint: runs/masker_s{seed}}}']}\n"
        "  other: {args: [--data.desensitizer.init_args.checkpoint=runs/nobody]}\n"
        "systems: {one: {config: fit.yaml}}\n"
    )
    fit = {"config": "fit.yaml", "name": "masker_s{seed}", "seeds": [1], "args": ["--of={seed}"]}
    fit |= {"without": ["--model.graphs"], "figure": "lfw/accuracy"}
    plan = {"args": ["--all", "--model.graphs=true"], "fits": [fit]}
    plan["studies"] = [{"config": "study.yaml", "seeds": [1]}]
    Path("plan.yaml").write_text(json.dumps(plan))
    gpu_studies.main(["plan.yaml", "--workers", "2", "--seconds", "60", "--out", "out"])
    state = json.loads(Path("out/state.json").read_text())
    assert state == {
        "fits/masker_s1": "done",
        "masks/learned_one_s1": "done",
        "masks/other_one_s1": "not begun",
    }
    said = Path("runs/fits/logs/masker_s1.log").read_text()
    assert (
        "run of fit --config fit.yaml --all --of=1 --runs runs --name masker_s1 --seed_everything 1" in said
    )
    assert "--all --model.graphs=true" in Path("runs/masks/logs/learned_one_s1.log").read_text()
    with tarfile.open("out/runs.tar.gz") as archive:
        assert {"runs/masker_s1/metrics.json", "runs/fits/logs/masker_s1.log"} <= {*archive.getnames()}
    assert "3 runs of 1 studies on 2 workers" in capsys.readouterr().out


def test_the_shipped_plan_names_configs_and_runs_that_there_are() -> None:
    plan = yaml.safe_load(Path(gpu_studies.__file__).with_name("gpu_studies.yaml").read_text())
    for fit in plan["fits"]:
        find_config(fit["config"])
    for study in plan["studies"]:
        names = [
            t.name for t in gpu_studies.tasks_of(gpu_studies.read_study(study["config"], [], [1], "runs"), 0)
        ]
        assert any(re.search(study.get("only", ""), name) for name in names), study


def test_a_run_is_done_by_the_studys_own_accuracy(study: Path) -> None:
    study.write_text(study.read_text() + "accuracy: val/accuracy\n")
    task = gpu_studies.tasks_of(gpu_studies.read_study(str(study), [], [1], "runs"), 0)[0]
    task.run.mkdir(parents=True)
    for key, done in (("lfw/accuracy", False), ("val/accuracy", True)):
        (task.run / "metrics.json").write_text(json.dumps({key: 0.75}))
        assert task.done is done


def test_no_run_is_begun_when_the_time_is_up(study: Path) -> None:
    plan = gpu_studies.read_study(str(study), [], [1], "runs")
    state = gpu_studies.run_all(gpu_studies.tasks_of(plan, 0), 1, time.monotonic() - 1, print)
    assert set(state.values()) == {"not begun"}
