"""What an ablation's config says, and the table of what its runs found."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_app.report.ablation import ablation_chart
from lightning_app.runs.loggers import WandbLogger
from lightning_app.studies.ablate.plan import SEED
from lightning_app.studies.ablate.read import read_plan
from lightning_app.studies.ablate.report import AblationOutcome, _cell, _over, write_report
from tests.command_line import RunMain


def test_a_plan_is_read_and_nothing_of_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = {
        "name": "pair",
        "variants": {"all": {"args": [f"--x={SEED}"]}, "searched": {"search": {"gamma": 2.0}, "systems": ["one"]}},
        "systems": {"one": {"config": "a.yaml"}, "clean": {"config": "b.yaml", "checkpoint": "c.ckpt"}},
        "logger": {"class_path": "lightning_app.runs.loggers.WandbLogger"},
    }  # fmt: skip
    monkeypatch.setattr(WandbLogger, "__init__", lambda *rest, **more: pytest.fail("made"))
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    plan = read_plan(str(tmp_path / "pair.yaml"), tmp_path)
    assert (plan.folder, plan.seeds, plan.steps) == (tmp_path / "pair", [0], 5)
    assert plan.wanted == {"one": 1, "clean": 1}
    assert plan.search_job("searched").args == (
        "search-mask",
        "--config",
        "search_mask.yaml",
        "--gamma",
        "2.0",
    )
    assert plan.mask("searched") == Path("masks/pair-searched/mask.png")
    (job,) = plan.jobs("all", column="one")
    assert (job.seed, job.run) == (0, "all_one_s0")
    assert "--x=0" in job.args


@pytest.mark.parametrize("label", ["none", "layer2"])
def test_the_shipped_ablations_runs_are_configs_that_parse(
    label: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = read_plan("fsm_ablation.yaml", "runs")
    assert [job.seed for job in plan.jobs(label)] == [1, 2]
    mask = plan.variants[label].mask
    assert mask is not None
    with pytest.raises(SystemExit) as stop:
        run_main(*next(plan.jobs(label, Path(mask))).args, "--print_config")
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    watching = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    own = [] if label == "none" else ["callbacks.FSMAblation"]
    assert watching == ["callbacks.LFWVerification", "callbacks.DSSIMReport", "callbacks.Pictures", *own]
    assert config["model"]["init_args"].get("insertion_points") == (None if label == "none" else ["layer2"])
    assert config["model"]["class_path"].endswith("ResNetMask" if label == "none" else "ResNetFSM")
    assert config["data"]["init_args"]["desensitizer"]["init_args"]["mask"] == mask


def test_a_figure_that_no_run_of_a_system_has_needs_no_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "free": {
            "released": [{"val/accuracy": 0.75, "privacy/rank1": 0.05}],
            "mask alone": [{"val/accuracy": 0.7}],
        },
        "none": {"released": [{"val/accuracy": 0.8}], "mask alone": []},
    }
    wanted, figures = {"released": 1, "mask alone": 1}, {"rank-1": "privacy/rank1", "gate": "fsm/x"}
    outcome = AblationOutcome("kinds", tmp_path, found, wanted, figures, {}, accuracy="val/accuracy")
    write_report(outcome, final=True)
    head, _, *rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][-4:]
    assert " ".join(head) == "variant mask ratio dSSIM released released, rank-1 mask alone"
    assert rows == [["free", "–", "–", "75.0", "5.0", "70.0"], ["none", "–", "–", "80.0", "–", "missing"]]


def test_one_runs_interval_stands_in_table_and_figure() -> None:
    run = {"lfw/accuracy": 0.881, "lfw/accuracy_low": 0.869, "lfw/accuracy_high": 0.893, "fsm/gap": 0.1}
    one = _over([run], "lfw/accuracy")
    assert one is not None
    assert _cell(one, 1) == "88.1 [86.9, 89.3]"
    assert one.reach == pytest.approx((0.012, 0.012))
    two = _over([run, run | {"lfw/accuracy": 0.871}], "lfw/accuracy")
    assert two is not None
    assert _cell(two, 2) == "87.6 ± 0.7 (2 seeds)"
    assert two.reach == pytest.approx((0.00707, 0.00707), rel=1e-3)
    bare = _over([run], "fsm/gap")
    assert bare is not None
    assert (bare.reach, _cell(bare, None)) == ((0.0, 0.0), "10.0")
    assert ablation_chart({"FSM": {"a": (one.mean, *one.reach)}}, ["a"]).size[0] > 100
