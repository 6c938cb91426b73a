from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from lightning_app import jobs
from lightning_app.commands.ablate import run
from lightning_app.masks import freeform_masks, save_mask
from tests.command_line import write_config


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
    about = {
        "name": "pair",
        "variants": {"first one": {"mask": "m0.png"}, "second": {"mask": "m1.png"}},
        "systems": {"resnet-mask": {"config": str(fit)}},
        "seeds": [1],
    }
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(about))
    return tmp_path / "pair.yaml"


def test_every_cell_is_run_once_and_only_what_is_missing_again(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["--config", str(table)])
    figures = json.loads(Path("runs/pair/metrics.json").read_text())
    for label, folder in (("first one", "first_one"), ("second", "second")):
        own = json.loads(Path(f"runs/pair/{folder}_resnet-mask_s1/metrics.json").read_text())
        assert figures[f"ablation/{label}/resnet-mask/accuracy"] == pytest.approx(own["lfw/accuracy"])
        assert figures[f"ablation/{label}/mask_ratio"] == pytest.approx(own["privacy/mask_ratio"])
    assert Path("runs/pair/ablation.png").stat().st_size > 1000
    assert "first one" in capsys.readouterr().out

    calls: list[str] = []
    real = jobs.call

    def counted(args: Sequence[str], output: Path, group: str) -> bool:
        calls.append(args[0])
        return real(args, output, group)

    monkeypatch.setattr(jobs, "call", counted)
    run(["--config", str(table)])
    assert calls == []
    Path("runs/pair/second_resnet-mask_s1/metrics.json").unlink()  # killed before its end: it goes on
    run(["--config", str(table)])
    assert calls == ["fit", "validate"]
    assert "--ckpt_path last" in Path("runs/pair/logs/second_resnet-mask_s1.log").read_text()


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
    about = yaml.safe_load(table.read_text())
    for threshold in (0.5, 0.6):
        about["variants"] = {"T": {"search": {"threshold": threshold}}}
        table.write_text(yaml.safe_dump(about))
        error, words = (
            (ChildProcessError, "T: search-mask") if threshold == 0.5 else (ValueError, "made with other")
        )
        with pytest.raises(error, match=words):
            run(["--config", str(table)])


def test_a_run_that_fails_does_not_lose_the_others(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = yaml.safe_load(table.read_text())
    about["variants"]["first one"]["args"] = ["--model.lr", "fast"]
    table.write_text(yaml.safe_dump(about))
    with pytest.raises(ChildProcessError, match=r"1 of 4 steps failed \(first_one_resnet-mask_s1\)"):
        run(["--config", str(table)])
    assert Path("runs/pair/second_resnet-mask_s1/metrics.json").is_file()


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
        ({"variants": {"a b": {"mask": "m0.png"}, "a_b": {"mask": "m1.png"}}}, "have the same folder name"),
    ],
)
def test_bad_input_is_told(table: Path, change: dict[str, object], message: str) -> None:
    table.write_text(yaml.safe_dump(yaml.safe_load(table.read_text()) | change))
    with pytest.raises((ValueError, OSError), match=message):
        run(["--config", str(table)])
