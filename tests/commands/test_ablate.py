from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.commands.ablate import run
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.runs.loggers import WandbLogger
from lightning_app.studies import runner as jobs
from lightning_app.studies.ablate import early as checks
from lightning_app.studies.ablate import study
from lightning_app.studies.ablate.early import Cell
from main import main
from tests.command_line import RunMain, write_config


@pytest.fixture
def table(tmp_path: Path, drawn_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ablation over two masks: one system that is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, mask in enumerate(freeform_masks(2, 32)):
        save_mask(mask, tmp_path / f"m{number}.png")
    fit = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetMask")
    text = yaml.safe_load(fit.read_text())
    text["trainer"] |= {"max_epochs": 1, "callbacks": text["trainer"]["callbacks"][:2]}
    text["data"]["init_args"]["desensitizer"]["init_args"] = {"mask": "nowhere.png"}
    fit.write_text(yaml.safe_dump(text))
    description = {
        "name": "pair",
        "variants": {"first one": {"mask": "m0.png"}, "second": {"mask": "m1.png"}},
        "systems": {"resnet-mask": {"config": str(fit)}},
        "seeds": [1],
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(description))
    return tmp_path / "pair.yaml"


@pytest.fixture
def early() -> None:
    """Check before the first run."""


@pytest.fixture(autouse=True)
def _no_early_checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs that are not really done be of configs that are none; see the tests of `early`."""
    if "early" not in request.fixturenames:
        monkeypatch.setattr(study, "check_cells", lambda *rest: [])
        monkeypatch.setattr(checks, "check_named", lambda *rest: None)


class RunsHere:
    """Runs in this process, which has imported torch already; `tests/studies/test_runner.py` has those of their own."""

    def __init__(self) -> None:
        self.args: list[list[str]] = []

    def __call__(self, args: Sequence[str], output: Path, group: str) -> bool:
        self.args.append(list(args))
        try:
            main([*args])
        except SystemExit as stop:
            return stop.code in (0, None)
        return True


@pytest.mark.slow
def test_every_cell_is_run_once_and_only_what_is_missing_again(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "call", RunsHere())
    run(["--config", str(table)])
    figures = json.loads(Path("runs/pair/metrics.json").read_text())
    for label, folder in (("first one", "first_one"), ("second", "second")):
        own = json.loads(Path(f"runs/pair/{folder}_resnet-mask_s1/metrics.json").read_text())
        assert figures[f"ablation/{label}/resnet-mask/accuracy"] == pytest.approx(own["lfw/accuracy"])
        assert figures[f"ablation/{label}/mask_ratio"] == pytest.approx(own["privacy/mask_ratio"])
    assert Path("runs/pair/ablation.png").stat().st_size > 1000
    assert "first one" in capsys.readouterr().out

    monkeypatch.setattr(jobs, "call", again := RunsHere())
    run(["--config", str(table)])
    assert again.args == []
    Path("runs/pair/second_resnet-mask_s1/metrics.json").unlink()  # killed before its end: it goes on
    run(["--config", str(table)])
    assert [args[0] for args in again.args] == ["fit", "validate"]
    assert all(args[-2:] == ["--ckpt_path", "last"] for args in again.args)


def test_another_mask_under_the_same_name_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "call", lambda *rest: False)
    with pytest.raises(ChildProcessError, match=r"2 of 4 steps failed \(first_one_resnet-mask_s1"):
        run(["--config", str(table)])
    save_mask(freeform_masks(1, 32, (0.5, 0.6))[0], "m0.png")
    with pytest.raises(ValueError, match="was made with other settings or another mask"):
        run(["--config", str(table)])


def test_a_search_with_other_settings_under_the_same_name_is_refused(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "call", lambda *rest: False)
    description = yaml.safe_load(table.read_text())
    for threshold in (0.5, 0.6):
        description["variants"] = {"T": {"search": {"threshold": threshold}}}
        table.write_text(yaml.safe_dump(description))
        error, words = (
            (ChildProcessError, "T: search-mask") if threshold == 0.5 else (ValueError, "made with other")
        )
        with pytest.raises(error, match=words):
            run(["--config", str(table)])


@pytest.fixture
def finished(table: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ablation that is done: a searched mask, a system that is trained under it, one that is verified."""
    calls: list[str] = []

    def call(args: Sequence[str], output: Path, group: str) -> bool:
        calls.append(args[0])
        at = {args[i]: args[i + 1] for i in range(len(args) - 1)}
        if args[0] == "search-mask":
            save_mask(freeform_masks(1, 32)[0], Path(at["--output"]) / at["--name"] / "mask.png")
            return True
        home = Path(at["--runs"]) / at["--name"]
        home.mkdir(parents=True)
        (home / "metrics.json").write_text('{"lfw/accuracy": 0.8}')
        return True

    monkeypatch.setattr(jobs, "call", call)
    for name in ("clean.ckpt", "scorer.ckpt", "verified.ckpt"):
        Path(name).write_bytes(name.encode())
    Path("s.yaml").write_text("{checkpoint: clean.ckpt, gamma: 1.0}")
    Path("overlay.yaml").write_text("{trainer: {max_epochs: 3}}")
    description = yaml.safe_load(table.read_text()) | {
        "search": "s.yaml",
        "variants": {"T": {"search": {"scorer": "scorer.ckpt"}, "args": ["--config", "overlay.yaml"]}},
    }
    description["systems"]["clean"] = {"config": "lfwa_quick_mask.yaml", "checkpoint": "verified.ckpt"}
    table.write_text(yaml.safe_dump(description, sort_keys=False))
    run(["--config", str(table)])
    assert calls == ["search-mask", "fit", "validate"]
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be run"))
    return table


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("s.yaml", "masks/pair-T/mask.png"),
        ("clean.ckpt", "masks/pair-T/mask.png"),
        ("scorer.ckpt", "masks/pair-T/mask.png"),
        ("tiny.yaml", "runs/pair/T_resnet-mask_s1"),
        ("overlay.yaml", "runs/pair/T_resnet-mask_s1"),
        ("verified.ckpt", "runs/pair/T_clean"),
    ],
)
def test_a_file_that_has_changed_since_is_refused_by_name(finished: Path, name: str, made: str) -> None:
    run(["--config", str(finished)])
    Path(name).write_text("{trainer: {max_epochs: 9}, gamma: 50.0, checkpoint: clean.ckpt}")
    with pytest.raises(
        ValueError, match=rf"^{made} was made with other settings .*{name} has changed: SHA-256"
    ):
        run(["--config", str(finished)])


def test_records_of_an_earlier_version_are_taken_as_they_are(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = sorted(Path("runs/pair/jobs").iterdir())
    for record in records:
        kept = json.loads(record.read_text())
        assert kept.pop("files")
        record.write_text(json.dumps(kept))
    before = [record.read_bytes() for record in records]
    Path("s.yaml").write_text("{checkpoint: clean.ckpt, gamma: 50.0}")
    with caplog.at_level("WARNING", "faceveil"):
        run(["--config", str(finished)])
    assert [record.read_bytes() for record in records] == before
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "3 runs and searches are of an earlier version" in line
    assert "search_T, T_resnet-mask_s1, T_clean" in line


def test_facts_without_a_mask_are_no_finished_search(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("masks/pair-T/mask.png").unlink()  # killed between the two
    monkeypatch.setattr(jobs, "call", lambda *rest: False)
    with pytest.raises(ChildProcessError, match="T: search-mask"):
        run(["--config", str(finished)])


@pytest.mark.slow
def test_a_run_that_fails_does_not_lose_the_others(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "call", RunsHere())
    description = yaml.safe_load(table.read_text())
    description["variants"]["first one"]["args"] = ["--model.lr", "fast"]
    table.write_text(yaml.safe_dump(description))
    with pytest.raises(ChildProcessError, match=r"1 of 4 steps failed \(first_one_resnet-mask_s1\)"):
        run(["--config", str(table)])
    assert Path("runs/pair/second_resnet-mask_s1/metrics.json").is_file()


class FakeRuns:
    """Runs that leave figures at once; some fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.done, self.args = set(failing), list[str](), dict[str, list[str]]()

    def __call__(self, args: Sequence[str], output: Path, group: str) -> bool:
        at = {args[i]: args[i + 1] for i in range(len(args) - 1)}
        name, seed = at["--name"], int(at["--seed_everything"])
        self.args[name] = list(args)
        if name in self.failing:
            return False
        self.done.append(name)
        figures = {"lfw/accuracy": 0.8 + seed / 100, "lfw/auc": 0.9, "privacy/mask_ratio": 0.75}
        if name.startswith("gated"):
            figures |= {"fsm/accuracy_without_all": 0.7, "fsm/contribution_all": 0.1 + seed / 100}
        home = Path(at["--runs"]) / name
        home.mkdir(parents=True)
        (home / "metrics.json").write_text(json.dumps(figures))
        return True


@pytest.fixture
def gated(table: Path) -> Path:
    """An ablation of a plain and a gated network, two seeds, with a paper's column."""
    description: dict[str, Any] = yaml.safe_load(table.read_text())
    description["variants"] = {
        "plain": {"mask": "m0.png", "config": "lfwa_quick_mask.yaml", "paper": 79.78},
        "gated": {"mask": "m0.png", "args": ["--model.insertion_points", "[layer2]"], "paper": 89.12},
        "other": {"mask": "m1.png"},
    }
    figures = {"gate off": "fsm/accuracy_without_all", "gate contributes": "fsm/contribution_all"}
    table.write_text(yaml.safe_dump(description | {"seeds": [1, 2], "figures": figures}, sort_keys=False))
    return table


def test_failed_runs_are_missing_in_the_table_named_at_the_end_and_alone_done_again(
    gated: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["gated_resnet-mask_s2", "other_resnet-mask_s1", "other_resnet-mask_s2"]
    monkeypatch.setattr(jobs, "call", first := FakeRuns(*names))
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as stop:
        run_main("ablate", "--config", gated)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert f"3 of 9 steps failed ({', '.join(names)})" in printed.err
    rows = {line.split()[0]: " ".join(line.split()) for line in printed.out.splitlines() if line.strip()}
    assert rows["plain"] == "plain 0.7500 – 81.5 ± 0.7 (2 seeds) – – 79.78"
    assert rows["gated"] == "gated 0.7500 – 81.0 (1 of 2 seeds) 70.0 11.0 89.12"
    assert rows["other"] == "other – – missing – – –"
    assert len(first.done) == 3

    monkeypatch.setattr(jobs, "call", again := FakeRuns())
    run_main("ablate", "--config", gated)
    assert again.done == names
    figures = json.loads(Path("runs/pair/metrics.json").read_text())
    assert figures["ablation/gated/resnet-mask/gate contributes"] == pytest.approx(0.115)
    assert figures["ablation/gated/resnet-mask/gate contributes_std"] == pytest.approx(0.005 * 2**0.5)
    assert figures["ablation/gated/resnet-mask/seeds"] == 2
    assert figures["ablation/gated/paper"] == pytest.approx(0.8912)
    assert "gated 0.7500 – 81.5 ± 0.7 (2 seeds) 70.0 ± 0.0 11.5 ± 0.7 89.12" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_variants_config_and_arguments_of_all_runs_reach_them(
    gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "call", runs := FakeRuns())
    run(["--config", str(gated), "--args", "[--config, overlays/wandb.yaml]"])
    plain, own = runs.args["plain_resnet-mask_s1"], runs.args["gated_resnet-mask_s1"]
    assert plain[:3] == ["fit", "--config", "lfwa_quick_mask.yaml"]
    assert own[2].endswith("tiny.yaml")
    for args in (plain, own):
        at = args.index("overlays/wandb.yaml")
        assert args[at - 3 : at] == ["--data.desensitizer.init_args.mask", "m0.png", "--config"]
    assert own.index("[layer2]") > own.index("overlays/wandb.yaml")


def test_a_variant_has_cells_in_its_own_systems_alone(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    description = yaml.safe_load(finished.read_text())
    description["variants"]["trained alone"] = {"mask": "m0.png", "systems": ["resnet-mask"]}
    finished.write_text(yaml.safe_dump(description, sort_keys=False))
    names: list[str] = []

    def call(args: Sequence[str], output: Path, group: str) -> bool:
        names.append(args[args.index("--name") + 1])
        home = Path("runs/pair") / names[-1]
        home.mkdir()
        (home / "metrics.json").write_text('{"lfw/accuracy": 0.7}')
        return True

    monkeypatch.setattr(jobs, "call", call)
    run(["--config", str(finished)])
    assert names == ["trained_alone_resnet-mask_s1"]  # none under `clean`, the other system
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "70.0" in line]
    assert row[-2:] == ["70.0", "–"]  # not "missing"


def test_seed_in_an_argument_is_the_runs_own_and_each_is_checked(
    gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = yaml.safe_load(gated.read_text())
    description["variants"]["gated"]["args"] = [
        "--data.desensitizer={checkpoint: runs/masker_s{seed}, share: 0.2}"
    ]
    gated.write_text(yaml.safe_dump(description | {"seeds": [1, 2]}))
    checked: list[Cell] = []
    monkeypatch.setattr(jobs, "call", runs := FakeRuns())

    def check(folder: Path, cells: Sequence[Cell], device: object) -> list[str]:
        checked.extend(cells)
        return []

    monkeypatch.setattr(study, "check_cells", check)
    run(["--config", str(gated)])
    for seed in (1, 2):
        assert (
            f"--data.desensitizer={{checkpoint: runs/masker_s{seed}, share: 0.2}}"
            in runs.args[f"gated_resnet-mask_s{seed}"]
        )
    of_seeds = [cell.runs for cell in checked if "gated" in cell.where]
    assert [[run.name for run in runs] for runs in of_seeds] == [
        ["gated_resnet-mask_s1"], ["gated_resnet-mask_s2"],
    ]  # fmt: skip
    assert [len(cell.runs) for cell in checked if "plain" in cell.where] == [2]


def test_seed_in_an_argument_of_what_is_only_verified_is_refused(gated: Path) -> None:
    description = yaml.safe_load(gated.read_text())
    Path("x.ckpt").touch()
    system = {"config": "demo.yaml", "checkpoint": "x.ckpt", "args": ["--trainer.default_root_dir=r{seed}"]}
    gated.write_text(yaml.safe_dump(description | {"systems": {"clean": system}}))
    with pytest.raises(
        ValueError, match=r"systems\.clean: \{seed\} in args, but clean is verified, not trained"
    ):
        run(["--config", str(gated)])


def test_loggers_get_table_figure_and_numbers_in_the_group_of_the_runs(
    gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}

    def take(self: WandbLogger, key: str, *values: Any) -> None:
        sent[key] = values
        sent["group"], sent["name"] = self._wandb_init["group"], self._wandb_init["name"]

    groups: set[str] = set()
    fake = FakeRuns()

    def call(args: Sequence[str], output: Path, group: str) -> bool:
        groups.add(group)
        return fake(args, output, group)

    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setattr(jobs, "call", call)
    monkeypatch.setattr(WandbLogger, "log_table", take)
    monkeypatch.setattr(WandbLogger, "log_image", take)
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda self, figures: sent.update(figures))
    run(["--config", str(gated), "--logger", "lightning_app.runs.loggers.WandbLogger"])
    heads, rows = sent["ablation/table"]
    assert heads == ["variant", "mask ratio", "dSSIM", "resnet-mask", "gate off", "gate contributes", "paper"]
    assert [row[0] for row in rows] == ["plain", "gated", "other"]
    assert sent["ablation/picture"][0][0].size[0] > 400
    assert sent["ablation/plain/resnet-mask/accuracy"] == pytest.approx(0.815)
    assert groups == {"pair"} == {sent["group"]} == {sent["name"]}


def test_what_cannot_be_run_is_told_before_hours_of_training(
    gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "call", runs := FakeRuns())
    description: dict[str, Any] = yaml.safe_load(gated.read_text())

    def told(words: str, **change: Any) -> None:
        gated.write_text(yaml.safe_dump(description | change))
        with pytest.raises((ValueError, OSError), match=words):
            run(["--config", str(gated)])
        assert runs.done == []

    plain, gate = description["variants"]["plain"], description["variants"]["gated"]
    told("gone.png: no such file", variants={"plain": plain, "b": {"mask": "gone.png"}})
    told("no config 'gone.yaml'", variants={"plain": plain, "b": {"config": "gone.yaml"}})
    told("figures.accuracy: the table has a metric of that name", figures={"accuracy": "fsm/accuracy"})
    Path("runs/pair/jobs").mkdir(parents=True)
    Path("runs/pair/jobs/gated_resnet-mask_s1.json").write_text('{"args": ["otherwise"]}')
    told("made with other settings", variants={"plain": plain, "gated": gate})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": {"a": {"config": "none.yaml"}}}, "no config 'none.yaml'"),
        (
            {"systems": {"a": {"config": "demo.yaml", "checkpoint": "x.ckpt"}}},
            "checkpoint x.ckpt: no such file",
        ),
        ({"variants": {"a": {"mask": "m0.png", "search": {}}}}, "variants.a: has both search and mask"),
        ({"variants": {"a": {"mask": "gone.png"}}}, "gone.png: no such file"),
        ({"variants": {}}, "give at least one of variants"),
        (
            {"variants": {"a": {"systems": ["resnet"]}}},
            "variants.a.systems: there is no system 'resnet', but resnet-mask",
        ),
        ({"variants": {"a": {"systems": []}}}, "variants.a.systems: is empty; name one, or leave it out"),
        ({"name": "../x"}, r"^name: '\.\./x'; give a plain name, the folder is runs/<name>$"),
        ({"variants": {"a b": {"mask": "m0.png"}, "a_b": {"mask": "m1.png"}}}, "have the same folder name"),
    ],
)
def test_bad_input_is_told(table: Path, change: dict[str, object], message: str) -> None:
    table.write_text(yaml.safe_dump(yaml.safe_load(table.read_text()) | change))
    with pytest.raises((ValueError, OSError), match=message):
        run(["--config", str(table)])
