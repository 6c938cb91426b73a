"""`compare` with attackers of its own for every method: restorers of representations, and a linker with its ceiling."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from lightning_app.commands.compare import run
from lightning_app.metrics import lpips
from lightning_app.models import ResNet
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import measurer, report
from tests.command_line import RunMain, refused

SIZE = 32
FACES = {
    "class_path": "datamodules.DrawnFaces",
    "init_args": {"identities": 12, "images_per_identity": 1, "size": 32, "first_identity": 900},
}
DCT = {"class_path": "lightning_app.desensitize.BlockDCT"}
BLUR = {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}}


def attacker(path: Path, model: str, first: int = 0, **arguments: object) -> str:
    config: dict[str, Any] = {
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1},
        "model": {"class_path": f"lightning_app.models.{model}", "init_args": {"width": 8} | arguments},
        "data": {
            "class_path": "datamodules.FaceDataModule",
            "init_args": {
                "global_batch_size": 8,
                "keep_clean": True,
                "reader": {
                    "class_path": "datamodules.DrawnFaces",
                    "init_args": {
                        "identities": 4, "images_per_identity": 4, "size": SIZE, "first_identity": first,
                    },
                },
            },
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def comparison(
    fitted: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[list[str]]]:
    """Run a comparison whose attackers are trained in this process; tell what was run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "compare_chart", lambda *rest: Image.new("RGB", (2, 2)))
    torch.manual_seed(0)
    made = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=SIZE)
    torch.save({"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams)}, "clean.ckpt")
    fit = str(fitted / "tiny.yaml")

    def write(methods: dict[str, object], fails: str = "", **more: object) -> list[list[str]]:
        calls: list[list[str]] = []

        def call(args: Sequence[str], *rest: object) -> bool:
            if "LFWVerification" in Path(args[args.index("--config") + 1]).read_text():
                return False  # no recogniser is trained here
            calls.append(list(args))
            if fails and fails in args:
                return False
            run_main(*args)
            return True

        monkeypatch.setattr(jobs, "call", call)
        description = {
            "name": "both",
            "methods": {
                label: {"config": fit, "args": ["--data.init_args.desensitizer", json.dumps(one)]}
                for label, one in methods.items()
            },
            "judges": {"clean": "clean.ckpt"},
            "recognisers": {"clean": "clean.ckpt"},
            "bootstrap": 20,
            "examples": 1,
            "device": "cpu",
        }
        Path("both.yaml").write_text(yaml.safe_dump(description | more, sort_keys=False))
        with pytest.raises(ChildProcessError, match="its run"):
            run(["--config", "both.yaml"])
        return calls

    return write


def test_every_method_meets_its_attackers(
    comparison: Callable[..., list[list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {"none": None, "blur": BLUR, "dct": DCT}
    capsys.readouterr()
    unet = attacker(tmp_path / "unet.yaml", "UNetRestorer", first=900, depth=2)
    linker = attacker(tmp_path / "linker.yaml", "Linker", first=900)
    more = {
        "attackers": {"U-Net": {"config": unet}},
        "linker": {"config": linker, "teacher": "clean"},
        "privacy_axis": "verification",
    }
    calls = comparison(methods, **more)
    names = [call[call.index("--name") + 1] for call in calls]
    assert names == ["blur_U-Net", "dct_U-Net", "clean_linker", "blur_linker", "dct_linker"]
    found = json.loads(Path("runs/both/metrics.json").read_text())
    for method in ("blur", "dct"):
        assert f"compare/{method}/verification/linker" in found
        assert f"compare/{method}/rank1/linker" in found
        assert f"compare/{method}/U-Net/verification/clean" in found
        assert f"compare/{method}/U-Net/verification/linker" not in found  # it looks at what is released
    assert "compare/none/verification/linker" not in found
    assert 0 < found["compare/judge_accuracy/linker"] <= 1
    assert found["compare/judge_accuracy_low/linker"] <= found["compare/judge_accuracy/linker"]
    for method in ("blur", "dct"):  # a few batches say nothing of where the loss would go
        assert found[f"compare/{method}/strongest/at_least"] is True
        assert "whether its loss still falls is not known" in found[f"compare/{method}/U-Net/open"]
        assert found[f"compare/{method}/U-Net/batches"] == found[f"compare/{method}/linker/batches"] > 0
    assert found["compare/none/strongest/at_least"] is False
    assert found["compare/blur/strongest/judge"] in ("clean", "linker")
    assert Path("runs/both/attackers.png").stat().st_size > 5000
    page = Path("runs/both/report.html").read_text()
    assert "linker on clean faces" in page
    assert "budget of U-Net" in page
    shown = capsys.readouterr().out
    assert "what the strongest attack sees of each method" in shown
    assert "≥ " in shown
    assert comparison(methods, **more) == []  # all is there already


def test_an_attacker_that_failed_is_a_hole_with_a_name(
    comparison: Callable[..., list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = attacker(tmp_path / "unet.yaml", "UNetRestorer", first=900, depth=2)
    mosaic = {"class_path": "lightning_app.desensitize.Mosaic", "init_args": {"block": 8}}
    more = {"attackers": {"U-Net": {"config": unet}}, "only": ["blur"], "skip": ["linker"],
            "linker": {"config": unet, "teacher": "clean"}}  # fmt: skip
    comparison({"blur": BLUR, "mosaic": mosaic}, fails="blur_U-Net", **more)
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert found["compare/blur/U-Net/open"] == "its training failed"
    assert found["compare/blur/strongest/at_least"] is True
    assert "compare/blur/U-Net/dssim" not in found
    assert not [key for key in found if key.startswith("compare/mosaic/")]
    comparison({"blur": BLUR, "mosaic": mosaic}, **more)  # given again, it is trained, and the hole is closed
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert "compare/blur/U-Net/dssim" in found
    assert found["compare/blur/U-Net/open"] != "its training failed"
    monkeypatch.setattr(measurer, "applies", lambda attack, data: attack is None)
    comparison({"blur": BLUR, "mosaic": mosaic}, **more)
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert "it cannot be mounted on what the method releases" in found["compare/blur/U-Net/open"]


def test_an_attacker_of_other_settings_is_refused_and_the_report_stays(
    comparison: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    unet = attacker(tmp_path / "unet.yaml", "UNetRestorer", first=900, depth=2)
    linker = {"config": attacker(tmp_path / "linker.yaml", "Linker", first=900), "teacher": "clean"}
    more: dict[str, Any] = {"attackers": {"U-Net": {"config": unet}}, "linker": linker}
    comparison({"blur": BLUR}, **more)
    files = [Path("runs/both") / name for name in ("metrics.json", "report.html")]
    before = [file.read_bytes() for file in files]
    wide = ["--model.init_args.width", "16"]
    for change, message in (
        (
            {"budget": 2},
            r"U-Net on methods.blur: runs/both/blur_U-Net .*trainer.max_epochs is 1, not 2\): give the",
        ),
        (
            {"attackers": {"U-Net": {"config": unet, "args": wide}}},
            r"blur_U-Net .*\(model.init_args.width is 8, not 16",
        ),
        ({"linker": linker | {"args": wide}}, r"linker on methods.blur: .*blur_linker .*width is 8, not 16"),
        ({"seed": 2, "only": ["blur"]}, "seed_everything is 0, not 2"),
    ):
        with pytest.raises(ValueError, match=message):
            comparison({"blur": BLUR}, **(more | change))
    Path("runs/both/jobs/blur_linker.json").unlink()  # the student of clean faces is asked too
    with pytest.raises(
        ValueError, match=r"linker on clean faces: runs/both/clean_linker .*width is 8, not 16"
    ):
        comparison({"blur": BLUR}, **(more | {"linker": linker | {"args": wide}}))
    assert [file.read_bytes() for file in files] == before
    # a method that brings the attacker has none trained: nothing is there that could have other settings
    written = yaml.safe_load(Path("both.yaml").read_text())
    written["methods"]["blur"]["restorer"] = "runs/both/blur_U-Net/checkpoints/last.ckpt"
    restorer = {"config": unet, "label": "U-Net", "args": wide}
    del written["attackers"], written["linker"]
    Path("both.yaml").write_text(yaml.safe_dump(written | {"restorer": restorer}))
    with pytest.raises(ChildProcessError, match=r"^1 steps failed \(blur: its run"):
        run(["--config", "both.yaml"])


@pytest.mark.parametrize("model", ["UNetRestorer", "Inpainter"])
def test_a_perceptual_loss_without_its_weights_is_refused_before_the_first_run(
    comparison: Callable[..., list[list[str]]], tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lpips, "weights_file", lambda: None)
    option, value = ("features", "lpips") if model == "Inpainter" else ("perceptual", 1.0)
    config = attacker(tmp_path / "unet.yaml", model, first=900, **{option: value})
    with pytest.raises(
        ValueError, match=rf"^U-Net: model\.{option}: LPIPS: its weights are not installed; get"
    ):
        comparison({"blur": BLUR}, attackers={"U-Net": {"config": config}})
    assert not Path("runs/both").exists()


def test_a_linker_without_clean_faces_is_refused_before_the_first_run(
    comparison: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    config = attacker(tmp_path / "linker.yaml", "Linker", first=900)
    linker = {"config": config, "teacher": "clean", "args": ["--data.init_args.keep_clean=false"]}
    with pytest.raises(
        ValueError, match=r"^linker: Linker learns from clean faces: set data\.keep_clean to true"
    ):
        comparison({"blur": BLUR}, attacks={}, linker=linker, privacy_axis="verification")
    assert not list(Path("runs").glob("*/*"))


@pytest.mark.slow
def test_every_kind_of_method_meets_a_linker_and_what_needs_no_training(
    comparison: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    """A tiny version of each kind of row in compare_all.yaml."""

    def of(name: str, **arguments: object) -> dict[str, object]:
        return {"class_path": f"lightning_app.desensitize.{name}", "init_args": arguments}

    shuffled = of("FrequencyMask", upsample=1, stride=2, permutation="image", mix=False)
    methods: dict[str, object] = {
        "none": None,
        "block": of("CentreBlock", fraction=0.5),
        "shuffled": shuffled,
        "MixUp": of("MixUp", k=2),
        "InstaHide": of("InstaHide", k=2),
        "both": of("Chain", steps=[of("FrequencyMask", upsample=1, stride=2), of("MixUp", k=2)]),
        "Laplace": of("LaplaceNoise", epsilon=3.0),
    }
    reference = of("BlockDCT", upsample=1, stride=2, normalise=True)
    attacks = {
        "Telea": {"class_path": "lightning_app.attacks.Telea"},
        "least squares": {
            "class_path": "lightning_app.attacks.LeastSquares",
            "init_args": {"reader": FACES, "neighbours": 0},
        },
        "un-mixing": {"class_path": "lightning_app.attacks.UnMix"},
        "absolute values": {"class_path": "lightning_app.attacks.AbsoluteValues"},
        "unshuffle": {
            "class_path": "lightning_app.attacks.Unshuffle",
            "init_args": {"reference": reference, "reader": FACES},
        },
    }
    unet = attacker(tmp_path / "unet.yaml", "UNetRestorer", first=900, depth=2)
    linker = attacker(tmp_path / "linker.yaml", "Linker", first=900)
    calls = comparison(
        methods, attacks=attacks, attackers={"U-Net after": {"config": unet, "after": "unshuffle"}},
        linker={"config": linker, "teacher": "clean"}, privacy_axis="verification",
    )  # fmt: skip
    names = [call[call.index("--name") + 1] for call in calls]
    assert [name for name in names if "U-Net" in name] == ["shuffled_U-Net_after"]
    found = json.loads(Path("runs/both/metrics.json").read_text())
    mounted = {
        method: {
            attack for attack in (*attacks, "U-Net after") if f"compare/{method}/{attack}/dssim" in found
        }
        for method in methods
    }
    assert mounted == {
        "none": set(),
        "block": {"Telea"},
        "shuffled": {"least squares", "unshuffle", "U-Net after"},
        "MixUp": {"least squares", "un-mixing"},
        "InstaHide": {"least squares", "absolute values"},
        "both": {"least squares", "un-mixing"},
        "Laplace": {"least squares"},
    }
    for method in [*methods][1:]:
        assert 0 < found[f"compare/{method}/verification/linker"] <= 1
    assert found["compare/MixUp/un-mixing/psnr"] > found["compare/MixUp/psnr"]


@pytest.mark.slow
def test_a_linker_goes_on_from_unshuffle(comparison: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    options = {"upsample": 1, "stride": 2}
    shuffled = {"class_path": "lightning_app.desensitize.FrequencyMask",
                "init_args": {**options, "permutation": "image", "mix": False}}  # fmt: skip
    reference = {
        "class_path": "lightning_app.desensitize.BlockDCT",
        "init_args": {**options, "normalise": True},
    }
    unshuffle = {"class_path": "lightning_app.attacks.Unshuffle",
                 "init_args": {"reference": reference, "reader": FACES}}  # fmt: skip
    linker = {"config": attacker(tmp_path / "linker.yaml", "Linker", first=900), "teacher": "clean"}
    calls = comparison(
        {"blur": BLUR, "shuffled": shuffled}, attacks={"unshuffle": unshuffle}, linker=linker,
        linkers={"unshuffled": linker | {"after": "unshuffle"}}, privacy_axis="verification",
    )  # fmt: skip
    found = json.loads(Path("runs/both/metrics.json").read_text())
    assert 0 < found["compare/shuffled/verification/unshuffled"] <= 1
    assert (
        0 < found["compare/shuffled/verification/linker"] <= 1
    )  # side by side with one that is given the shuffle
    assert found["compare/judge_accuracy/unshuffled"] == found["compare/judge_accuracy/linker"]
    assert "compare/blur/verification/unshuffled" not in found
    names = [call[call.index("--name") + 1] for call in calls]
    assert names == ["clean_linker", "blur_linker", "shuffled_linker", "shuffled_unshuffled"]
    with pytest.raises(
        ValueError, match=r"linker\.after: 'gone'; give the label of an Unshuffle among the attacks"
    ):
        comparison({"blur": BLUR}, linker=linker | {"after": "gone"})


def test_nobody_attacked_is_learnt_from(
    comparison: Callable[..., list[list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = attacker(tmp_path / "unet.yaml", "UNetRestorer", depth=2)
    with pytest.raises(
        ValueError, match=r"U-Net: \d of the \d people who are attacked are among those it learns from"
    ):
        comparison({"blur": BLUR}, attackers={"U-Net": {"config": known}})
    with pytest.raises(ValueError, match=r"linker\.teacher: 'gone'; give the label of the judge"):
        comparison({"blur": BLUR}, linker={"config": known, "teacher": "gone"})
    assert callable(refused)


@pytest.mark.parametrize(
    ("teacher", "judges", "message"),
    [
        (
            {"class_path": "tests.models.test_linker.Corners"},
            {"clean": {"class_path": "tests.commands.compared.Pool"}},
            r"^linker: model\.teacher in .*linker\.yaml has the hash \w{12}, the judge 'clean', which "
            r"linker\.teacher names, has \w{12}: give both the same class_path",
        ),
        (
            None,
            {"clean": {"class_path": "tests.commands.compared.Pool"}},
            r"^linker: model\.teacher: None; give the recogniser of clean faces",
        ),
        (
            "nowhere.ckpt",
            {"clean": {"class_path": "tests.commands.compared.Pool"}},
            r"^linker: .*nowhere\.ckpt.*no such",
        ),
        (
            None,
            {"clean": "blur"},
            r"^linker: teacher: 'clean' is the recogniser of blur, which is trained on desensitized faces; give",
        ),
    ],
)
def test_a_linker_that_would_learn_from_another_is_refused_before_the_first_run(
    comparison: Callable[..., list[list[str]]], tmp_path: Path, teacher: object, judges: dict[str, object],
    message: str,
) -> None:  # fmt: skip
    config = attacker(tmp_path / "linker.yaml", "Linker", first=900, teacher=teacher)
    with pytest.raises((ValueError, OSError), match=message):
        comparison({"blur": BLUR}, linker={"config": config, "teacher": "clean"}, judges=judges)
    assert not list(Path("runs").glob("*/*"))


def test_an_attacker_and_a_linker_of_one_label_are_refused(
    comparison: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    config = attacker(tmp_path / "linker.yaml", "Linker", first=900)
    more = {
        "attackers": {"it": {"config": config}},
        "linker": {"config": config, "teacher": "clean", "label": "it"},
    }
    with pytest.raises(
        ValueError, match=r"^attacks and linkers: two of as released, it, it have the same folder"
    ):
        comparison({"blur": BLUR}, **more)
    with pytest.raises(ValueError, match=r"^linker on methods\.clean and linker on clean faces would share"):
        comparison(
            {"clean": BLUR}, linker={"config": config, "teacher": "clean"}, judges={"clean": "clean.ckpt"}
        )


def test_a_linker_that_is_none_is_refused_before_the_first_run(
    comparison: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    unet = attacker(tmp_path / "unet.yaml", "UNetRestorer", first=900, depth=2)
    judges = {"clean": {"class_path": "tests.commands.compared.Pool"}}
    with pytest.raises(ValueError, match=r"^linker: config: .*unet\.yaml trains a UNetRestorer; give one"):
        comparison({"blur": BLUR}, linker={"config": unet, "teacher": "clean"}, judges=judges)
