"""Every shipped config is read by the command it is for, and every command is found by its name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from lightning_app.cli.configs import CONFIGS, find_config, shipped
from lightning_app.commands import COMMANDS
from tests.command_line import RunMain, refused

# configs of other commands than Lightning's own: the module in lightning_app.commands that reads them
OF_COMMANDS = {
    **{f"compare{which}.yaml": "compare" for which in ("", "_all", "_demo")},
    "table2.yaml": "compare",
    "frontier_64.yaml": "compare",
    "judged_112.yaml": "compare",
    "judged_masks.yaml": "compare",
    "align.yaml": "align",
    **{f"desensitize{which}.yaml": "desensitize" for which in ("", "_dctdp", "_frequency", "_frequency_pairs")},
    "desensitize_learned.yaml": "desensitize",
    "fsm_ablation.yaml": "ablate",
    "lfwa_eigenfaces.yaml": "eigenfaces",
    **{f"{task}_masks.yaml": "ablate" for task in ("celeba", "fer3", "lfwa")},
    "rank_masks.yaml": "ablate",
    "table3_masks.yaml": "ablate",
    "rank_scorers.yaml": "rank_scorers",
    "search_mask.yaml": "search_mask",
    "federated.yaml": "federate",
    "federated_demo.yaml": "federate",
    "sweep_levels.yaml": "sweep_levels",
    **{f"table{number}.yaml": "ablate" for number in (3, 6, 8)},
    **{f"{study}.yaml": "ablate" for study in ("confound", "epochs", "frequency", "frequency_adamixup", "frequency_dp",
                                               "gates", "hidden85", "recipes", "recipes_owner")},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in shipped() if name not in OF_COMMANDS])
def test_every_shipped_config_parses(
    name: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--config", "demo.yaml"] if name.startswith("overlays/") else []
    with pytest.raises(SystemExit) as stop:
        run_main("fit", *base, "--config", name, "--print_config")
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].startswith("lightning_app.models.")


@pytest.mark.parametrize(("name", "command"), OF_COMMANDS.items())
def test_every_config_of_a_command_parses(name: str, command: str) -> None:
    module = import_module(f"lightning_app.commands.{command}")
    parsed = module.build_parser().parse_args(["--config", name]).as_dict()
    written = yaml.safe_load((CONFIGS / name).read_text())
    plain = {key: value for key, value in written.items() if isinstance(value, str | int | float)}
    assert plain
    assert {key: parsed[key] for key in plain} == plain


def test_shipped_configs_are_those_the_readme_promises() -> None:
    wanted = {"demo", "resnet", "resnet_mask", "lfwa_resnet", "lfwa_mask", "lfwa_fsm_layer3", "overlays/cpu",
              "overlays/ddp_4gpu", "overlays/wandb", *(f"fsm_layer{i}" for i in range(1, 5))}  # fmt: skip
    assert wanted <= {name.removesuffix(".yaml") for name in shipped()}


def test_bare_names_are_found_here_then_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml") == find_config("demo") == CONFIGS / "demo.yaml"
    (tmp_path / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("demo.yaml")


def test_every_command_is_shown_and_an_unknown_one_named(
    run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main("--help")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("fit", "predict", *COMMANDS))
    line = refused(capsys, lambda: run_main("search_mask"))
    assert (
        "no command 'search_mask'; did you mean search-mask? There are: fit, validate, test, predict, ablate"
        in line
    )
