"""`compare` end to end: methods trained or taken as they are, measured once, shown in a table and a page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_app.commands.compare import run
from lightning_app.core.key_file import make_key
from lightning_app.evaluation import privacy
from lightning_app.runs.loggers import WandbLogger
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import measurer, study
from tests.command_line import RunMain, write_config
from tests.commands.compared import ANEW, BLUR, verified


@pytest.mark.slow
@pytest.mark.usefixtures("picture")
def test_everything_is_measured_once_and_shown(
    config: Callable[..., Path], fitted: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = config()
    run_main("compare", "--config", path)
    home = Path("runs/both")
    found = json.loads((home / "metrics.json").read_text())
    run = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    assert found["compare/mask/accuracy"] == run["lfw/accuracy"] != ANEW
    # the checkpoint's own figures are of faces under the mask, not of clean or blurred ones
    assert found["compare/none/accuracy"] == found["compare/blur 9/accuracy"] == ANEW
    assert {path.name for path in (home / "jobs").iterdir()} == {"none.json", "blur_9.json"}
    assert found["compare/mask/accuracy_s2"] == run["lfw/accuracy_s2"]
    assert found["compare/mask/accuracy_low"] == run["lfw/accuracy_low"]
    assert found["compare/mask/mask_ratio"] == pytest.approx(run["privacy/mask_ratio"])
    assert found["compare/none/dssim"] == 0
    assert found["compare/none/psnr"] is None  # infinite: strict JSON has no such number
    for key in ("dssim", "psnr", "psnr_hidden", "rank1/clean", "verification/clean", "similarity/clean",
                "accuracy/own", "worst/similarity/clean", "worst/dssim", "rank1_low/clean"):  # fmt: skip
        assert isinstance(found[f"compare/mask/Telea/{key}"], float), key
        assert isinstance(found[f"compare/mask/{key}"], float), key
    # what is verified under the mask by the recogniser that `fit` verified is the same figure
    assert found["compare/mask/accuracy/own"] == pytest.approx(run["lfw/accuracy"], abs=1e-6)
    assert not [key for key in found if key.startswith(("compare/blur 9/Telea", "compare/none/mean face"))]
    assert found["compare/mask/strongest/attack"] in ("as released", "mean face", "Telea")
    lines = list(csv.DictReader((home / "compare.csv").open()))
    assert [(line["method"], line["seen"]) for line in lines] == [
        ("none", "as released"), ("blur 9", "as released"), ("mask", "as released"),
        ("mask", "mean face"), ("mask", "Telea"),
    ]  # fmt: skip
    assert float(lines[4]["dssim"]) == found["compare/mask/Telea/dssim"]
    assert (home / "compare.png").stat().st_size > 5000
    page = (home / "report.html").read_text()
    assert page.count("data:image/png") == 1 + 1 + 1 + 3  # clean, and each method in each state
    assert f"compare --config {path}" in page
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("blur 9", "Telea", "rank-1"))

    parts = {part: part.stat().st_mtime_ns for part in (home / "parts").iterdir()}
    assert len(parts) == 5 + 1  # and the judge on clean faces
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be run"))
    judged: list[int] = []
    real = privacy.measure

    def counted(*args: Any) -> Any:
        judged.append(len(args[3]))
        return real(*args)

    monkeypatch.setattr(measurer, "measure", counted)
    (home / "parts" / next(part.name for part in parts if "Telea" in part.name)).unlink()  # killed there
    run_main("compare", "--config", path)
    again = {part: part.stat().st_mtime_ns for part in (home / "parts").iterdir()}
    assert {part for part in parts if parts[part] == again[part]} == {
        p for p in parts if "Telea" not in p.name
    }
    assert judged == [1] * 5
    assert json.loads((home / "metrics.json").read_text()) == found


@pytest.mark.slow
def test_faces_of_the_set_are_shown_only_when_asked(config: Callable[..., Path], run_main: RunMain) -> None:
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods={"none": methods["none"], "blur 9": methods["blur 9"]}, attacks={})
    run_main("compare", "--config", path)
    assert "verification set" not in Path("runs/both/report.html").read_text()
    run_main("compare", "--config", path, "--show-faces")
    page = Path("runs/both/report.html").read_text()
    assert "This file shows faces of real people" in page
    assert (
        page.count("verification set: ") == 3 * 3
    )  # by what the filter finds them, heads and the pictures' words


@pytest.mark.usefixtures("picture")
def test_loggers_get_the_table_and_no_face(
    config: Callable[..., Path], run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(WandbLogger, "log_table", lambda self, key, heads, rows: sent.append((key, rows)))
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, key, images: sent.append((key, images)))
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods={"mask": methods["mask"]}, attacks={}, judges={}, privacy_axis="dssim",
                  logger={"class_path": "lightning_app.runs.loggers.WandbLogger"})  # fmt: skip
    run_main("compare", "--config", path)
    assert [key for key, _ in sent] == ["compare/table", "compare/picture"]
    assert sent[0][1][0][0] == "mask"
    assert sent[1][1][0].size[0] > 1000  # the scatter; faces stay in the page


@pytest.mark.slow
def test_runs_are_trained_shared_and_their_failures_told(
    drawn_root: Path,
    fitted: Path,
    tmp_path: Path,
    config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetFSM")
    calls: list[list[str]] = []

    def fake(args: Sequence[str], output: Path, group: str) -> bool:
        """A `fit` that ends with what another one left; one that is to blur fails."""
        calls.append(list(args))
        if BLUR in args:
            return False
        at = {args[i]: args[i + 1] for i in range(len(args) - 1)}
        home = Path(at["--runs"]) / at["--name"]
        (home / "checkpoints").mkdir(parents=True)
        for name in ("checkpoints/last.ckpt", "metrics.json", "config.yaml"):
            (home / name).write_bytes((fitted / "runs/tiny" / name).read_bytes())
        return True

    monkeypatch.setattr(jobs, "call", fake)
    methods: dict[str, Any] = {
        "blur 9": {"config": str(fit), "args": ["--data.init_args.desensitizer", BLUR]},
        "mask": {"config": str(fit), "run": "shared"},
    }
    batch = ["--data.init_args.global_batch_size", "16"]  # of every run, and what the other run had
    path = config(methods=methods, attacks={}, judges={"m": "mask", "b": "blur 9"}, args=batch)
    with pytest.raises(
        ChildProcessError, match=r"2 steps failed \(blur 9: its run .*; judge b: blur 9 is not trained"
    ):
        run(["--config", str(path)])
    assert [call[0] for call in calls] == ["fit", "fit"]
    assert [*batch, *methods["blur 9"]["args"]] == calls[0][5:9]
    assert calls[1][5:7] == batch
    assert calls[1][-1] == "--overwrite"
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert "compare/blur 9/accuracy" not in found
    assert found["compare/blur 9/dssim"] > 0  # what does not need its recogniser is there
    assert found["compare/mask/accuracy"] > 0
    assert "blur 9: its run" in Path("runs/both/report.html").read_text()
    calls.clear()
    with pytest.raises(ChildProcessError):
        run(["--config", str(path)])
    assert [call[0] for call in calls] == ["fit"]  # the finished run is reused
    methods["mask"]["args"] = ["--model.init_args.lr", "0.5"]
    path = config(methods=methods, attacks={}, judges={"m": "mask"})
    with pytest.raises(
        ValueError, match=r"methods.mask: runs/shared holds a run with other settings \(model.init"
    ):
        run(["--config", str(path)])


@pytest.mark.slow
def test_a_method_that_mixes_is_trained_and_measured(
    drawn_root: Path,
    tmp_path: Path,
    config: Callable[..., Path],
    run_main: RunMain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its utility is of faces alone, its privacy of mixes; both steps in this process."""
    make_key(tmp_path / "owner.key")
    mixed = {"class_path": "lightning_app.desensitize.MixUp",
             "init_args": {"k": 3, "key": str(tmp_path / "owner.key")}}  # fmt: skip
    fit = yaml.safe_load(write_config(tmp_path / "mixed.yaml", drawn_root).read_text())
    fit["data"]["init_args"]["desensitizer"] = mixed
    fit["trainer"] |= {"max_epochs": 1, "callbacks": fit["trainer"]["callbacks"][:1]}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(fit))
    calls: list[str] = []

    def here(args: Sequence[str], output: Path, group: str) -> bool:
        calls.append(args[0])
        run_main(*args)
        return True

    monkeypatch.setattr(jobs, "call", here)
    path = config(methods={"MixUp": {"config": str(tmp_path / "mixed.yaml")}}, judges={"own eyes": "MixUp"})
    run_main("compare", "--config", path)
    assert calls == ["fit"]
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert found["compare/MixUp/dssim"] > 0.02
    (own,) = [path for path in Path("runs").rglob("metrics.json") if path != Path("runs/both/metrics.json")]
    run = json.loads(own.read_text())
    assert found["compare/MixUp/accuracy"] == run["lfw/accuracy"] == run["lfw/accuracy_s3"]
    assert found["compare/MixUp/accuracy/own"] == pytest.approx(run["lfw/accuracy"], abs=1e-6)
    with Path("runs/both/compare.csv").open() as table:
        seen = [line["seen"] for line in csv.DictReader(table)]
    assert seen == ["as released"]  # nothing is hidden that Telea or a mean face could fill in
    assert "MixUp" in Path("runs/both/report.html").read_text()


@pytest.mark.slow
def test_a_restorer_is_trained_on_each_method_that_hides(
    config: Callable[..., Path], fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def fake(args: Sequence[str], output: Path, group: str) -> bool:
        if args[0] == "validate":
            return verified(fitted, args)
        calls.append(list(args))
        return False

    monkeypatch.setattr(jobs, "call", fake)
    # a shipped config, whose data are not here: nothing is trained on them
    monkeypatch.setattr(study, "check_early", lambda *parts, **settings: [])
    monkeypatch.setattr(study, "check_strangers", lambda *parts, **settings: [])
    path = config(restorer={"config": "lfwa_quick_inpaint.yaml", "label": "RFR-Net"}, attacks={})
    with pytest.raises(ChildProcessError, match="blur 9: training of RFR-Net; mask: training of RFR-Net"):
        run(["--config", str(path)])
    assert len(calls) == 2
    for call, method in zip(calls, ("GaussianBlur", "MaskOut"), strict=True):
        desensitizer = json.loads(call[call.index("--data.init_args.desensitizer") + 1])
        assert desensitizer["class_path"] == f"lightning_app.desensitize.{method}"
        assert call[:3] == ["fit", "--config", "lfwa_quick_inpaint.yaml"]
    assert json.loads(Path("runs/both/metrics.json").read_text())["compare/mask/accuracy"] > 0
