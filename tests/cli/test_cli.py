"""Every behaviour of the command line end to end, on tiny drawn sets."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from callbacks import RunCheckpoint, results
from datamodules import DrawnFaces
from lightning_app.cli.configs import CONFIGS, find_config, shipped
from lightning_app.commands import COMMANDS
from lightning_app.runs import lock
from tests.command_line import RunMain, refused, write_config
from tests.other_process import other_process, said


def test_fit_leaves_a_whole_run_behind(fitted: Path) -> None:
    run = fitted / "runs" / "tiny"
    metrics = json.loads((run / "metrics.json").read_text())
    accuracies = [f"lfw/accuracy{s}" for s in ("", "_s1", "_s2", "_s3", "_low", "_high")]
    for key in (
        *accuracies,
        "lfw/auc",
        "lfw/eer",
        "privacy/dssim",
        "train/loss",
        "val/accuracy",
        "time/fit_s",
    ):
        assert isinstance(metrics[key], float), key
    assert 0.7 <= metrics["privacy/mask_ratio"] <= 0.8
    assert metrics["lfw/accuracy"] == metrics["lfw/accuracy_s1"]
    assert metrics["run/epochs"] == 2
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}
    assert (run / "faces.png").is_file()
    assert "train/loss" in (run / "metrics.csv").read_text()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["global_batch_size"] == 16


def test_validate_gives_the_figures_of_fit_again(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run_main: RunMain
) -> None:
    copytree(fitted / "runs", tmp_path / "runs")  # what others look at stays as it was trained
    before = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    run_main("validate", "--config", fitted / "tiny.yaml", "--ckpt_path", "last")
    after = json.loads(
        (tmp_path / "runs/tiny/metrics.validate.json").read_text()
    )  # metrics.json keeps the fit's
    for key in ("lfw/accuracy", "lfw/auc", "lfw/accuracy_s3", "val/loss", "privacy/dssim"):
        assert after[key] == pytest.approx(before[key], rel=1e-6, abs=1e-6), key
    assert f"{before['lfw/accuracy']:.4f}"[:4] in capsys.readouterr().out


def test_validate_needs_no_training_set(
    fitted: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetFSM")
    text = yaml.safe_load(config.read_text())
    text["data"]["init_args"]["reader"]["init_args"]["root"] = str(tmp_path / "gone")
    config.write_text(yaml.safe_dump(text))
    run_main("validate", "--config", config, "--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt")
    metrics = json.loads((tmp_path / "runs/tiny/metrics.json").read_text())
    fit = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    assert metrics["lfw/accuracy"] == pytest.approx(fit["lfw/accuracy"], abs=1e-6)


def test_test_and_predict_run(fitted: Path, run_main: RunMain) -> None:
    last = fitted / "runs/tiny/checkpoints/last.ckpt"
    run_main("test", "--config", fitted / "tiny.yaml", "--ckpt_path", last)
    assert "lfw/accuracy" in json.loads(Path("runs/tiny/metrics.json").read_text())
    run_main("predict", "--config", fitted / "tiny.yaml", "--ckpt_path", last)
    found = load_file("runs/tiny/embeddings.safetensors")
    assert found["embedding"].shape == (48, 64)
    assert found["index"].tolist() == list(range(48))
    assert found["identity"].tolist() == [i // 8 for i in range(48)]
    names = Path("runs/tiny/embeddings.csv")
    for private in (names, names.with_suffix(".safetensors")):
        assert private.stat().st_mode & 0o077 == 0
    head, *rows = csv.reader(names.read_text().splitlines())
    assert head == ["index", "identity", "image"]
    assert rows == [
        [str(i), f"Drawn_{i // 8:05d}", f"Drawn_{i // 8:05d}/Drawn_{i // 8:05d}_{i % 8 + 1:04d}.png"]
        for i in range(48)
    ]


def test_predict_never_writes_over_another_sets_embeddings(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    def predict(*more: object) -> None:
        last = fitted / "runs/tiny/checkpoints/last.ckpt"
        run_main("predict", "--config", fitted / "tiny.yaml", "--ckpt_path", last, *more)

    DrawnFaces(3, 2, 48, first_identity=90).write_images(tmp_path / "others")
    others = ("--data.init_args.reader.init_args.root", tmp_path / "others")
    ours = Path("runs/tiny/embeddings.safetensors")
    predict()
    before = ours.read_bytes()
    predict()  # the same set: anew
    for more in (others, ("--data.init_args.reader.init_args.crop", 40)):
        said = refused(capsys, lambda more=more: predict(*more))  # type: ignore[misc]
        assert f"{ours} is there and not known to hold embeddings of this set (FolderFaces, " in said
        assert "--output" in said
    assert ours.read_bytes() == before
    predict(*others, "--output", "elsewhere/theirs.safetensors")
    assert load_file("elsewhere/theirs.safetensors")["embedding"].shape == (6, 64)
    assert "Drawn_00090/Drawn_00090_0002.png" in Path("elsewhere/theirs.csv").read_text()
    assert ours.read_bytes() == before
    mine = Path("mine.safetensors")
    mine.write_text("of no kind")
    assert "mine.safetensors is there" in refused(capsys, lambda: predict("--output", mine))
    assert mine.read_text() == "of no kind"
    predict("--output", mine, "--overwrite")
    assert load_file(mine)["embedding"].shape == (48, 64)
    assert "ends in .safetensors" in refused(capsys, lambda: predict("--output", "mine.npy"))
    Path("notes.csv").write_text("my,own")
    assert "notes.csv is there and not known" in refused(
        capsys, lambda: predict("--output", "notes.safetensors")
    )
    assert Path("notes.csv").read_text() == "my,own"
    # neither clean faces nor other people's pictures under the same names
    assert "is there and not known" in refused(capsys, lambda: predict("--data.desensitizer", "null"))
    same = tmp_path / "same names"
    config = yaml.safe_load((fitted / "tiny.yaml").read_text())
    root = Path(config["data"]["init_args"]["reader"]["init_args"]["root"])
    for number, path in enumerate(sorted(root.glob("*/*.png"))):
        there = same / path.relative_to(root)
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (number, 0, 0)).save(there)
    renamed = ("--data.init_args.reader.init_args.root", same)
    assert "is there and not known" in refused(capsys, lambda: predict(*renamed))
    assert ours.read_bytes() == before


def test_every_epoch_has_a_row_with_its_loss_and_the_run_a_picture(fitted: Path) -> None:
    """Two epochs of three steps, and Lightning logs every 50 steps; of the drawn people this one logs every step."""
    with (fitted / "runs/tiny/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/accuracy"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for row in rows:
        assert all(
            float(row[key]) > 0 for key in ("train/loss", "train/mean_loss", "lfw/accuracy", "privacy/dssim")
        )
    metrics = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    assert float(rows[-1]["train/mean_loss"]) == pytest.approx(metrics["train/mean_loss"], rel=1e-5)
    assert float(rows[-1]["train/loss"]) == pytest.approx(metrics["train/loss"], rel=1e-5)
    with Image.open(fitted / "runs/tiny/curves.png") as picture:
        assert picture.size == (760, 300)
    assert json.loads((fitted / "runs/tiny/state.json").read_text())["state"] == "finished"


def test_the_loss_is_there_however_few_steps_an_epoch_has(
    drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    config = write_config(tmp_path / "few.yaml", drawn_root)
    run_main("fit", "--config", config, "--trainer.log_every_n_steps", 50, "--trainer.callbacks", "null")
    with Path("runs/few/metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["epoch"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(row["train/loss"] and row["train/mean_loss"] and row["train/lr"] for row in rows)


def test_a_picture_that_cannot_be_drawn_ends_no_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,train/loss\n0,abc\n")
    with caplog.at_level("WARNING", "faceveil"):
        results._draw_curves(tmp_path)
    assert "curves.png could not be drawn (could not convert string to float: 'abc')" in caplog.text


@pytest.mark.slow
def test_going_on_trains_further(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    config = write_config(tmp_path / "go.yaml", drawn_root)
    run_main("fit", "--config", config)
    with caplog.at_level("INFO", "faceveil"):
        run_main("fit", "--config", config, "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert "The run goes on to 3 epochs, until now it was to have 2" in caplog.text
    assert json.loads(Path("runs/go/metrics.json").read_text())["run/epochs"] == 3
    state = torch.load("runs/go/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 3 * 2
    left = {name: Path("runs/go", name).read_bytes() for name in ("metrics.json", "metrics.csv")}
    metrics = left["metrics.json"]
    run_main(
        "fit", "--config", config, "--ckpt_path", "last", "--trainer.max_epochs", 3
    )  # nothing is left to do
    assert {name: Path("runs/go", name).read_bytes() for name in left} == left
    with Path("runs/go/metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file) if row["lfw/accuracy"]] == ["0", "1", "2"]
    assert not list(Path("runs/go").glob("metrics.*.csv"))
    # fewer epochs than there were: the run is what it was
    left["state.json"] = Path("runs/go/state.json").read_bytes()
    message = refused(capsys, lambda: run_main("fit", "--config", config, "--ckpt_path", "last"))
    assert (
        "trainer.max_epochs=2: the run that --ckpt_path goes on with has had 3 epochs already; give more"
        in message
    )
    assert {name: Path("runs/go", name).read_bytes() for name in left} == left
    assert json.loads(left["state.json"])["state"] == "finished"
    assert b"lfw/accuracy" in metrics


_FAILS = """
import sys
import callbacks.verification
from main import main

def verification(*args, **kwargs):
    raise ValueError("a pair too many")

callbacks.verification.Verification = verification
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_an_error_with_workers_at_hand_ends_the_command(drawn_root: Path, tmp_path: Path) -> None:
    """Workers leave SIGTERM to the main process: at its end Python would wait for them for ever."""
    config = write_config(tmp_path / "fails.yaml", drawn_root)
    args = ["fit", "--config", str(config), "--data.num_workers", "1", "--trainer.max_epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _FAILS, *args], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: a pair too many" in done.stderr


@pytest.mark.slow
def test_a_saved_config_does_again_what_was_done(drawn_root: Path, tmp_path: Path) -> None:
    """In processes of their own: here a warning is an error, and what a library writes after a warning is not seen."""
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetFSM")
    main = str(Path(__file__).resolve().parents[2] / "main.py")

    def run(*args: object) -> dict[str, float]:
        command = [sys.executable, main, *map(str, args)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        metrics: dict[str, float] = json.loads((tmp_path / "runs/tiny/metrics.json").read_text())
        return metrics

    trained = run("fit", "--config", config, "--trainer.max_epochs", 1)
    saved = tmp_path / "runs/tiny/config.yaml"
    wanted = yaml.safe_load(config.read_text())["model"]["init_args"]
    told = yaml.safe_load(saved.read_text())["model"]["init_args"]
    assert {key: told[key] for key in wanted} == wanted
    again = run("validate", "--config", saved, "--ckpt_path", "last", "--name", "tiny")
    assert again["lfw/accuracy"] == trained["lfw/accuracy"]


def test_another_checkpoint_and_overwrite_leave_nothing_of_the_run_before(
    fitted: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(fitted / "runs/tiny", tmp_path / "runs/tiny")
    monkeypatch.setattr(RunCheckpoint, "_keep", lambda *args: None)  # as if killed before the first save
    run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt",
         "--overwrite", "--trainer.max_epochs", 3)  # fmt: skip
    assert not list((tmp_path / "runs/tiny").rglob("*.ckpt"))


def test_a_folder_with_a_run_is_not_overwritten_unasked(
    fitted: Path, capsys: pytest.CaptureFixture[str], run_main: RunMain
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main("fit", "--config", fitted / "tiny.yaml", "--runs", fitted / "runs")
    assert stop.value.code == 1
    assert (
        "holds a finished run already: go on with it (--ckpt_path last, a larger --trainer.max_epochs), replace it"
        in capsys.readouterr().err
    )


def test_a_saved_config_neither_overwrites_nor_goes_on_unasked(
    fitted: Path, tmp_path: Path, run_main: RunMain
) -> None:
    copytree(fitted / "runs", tmp_path / "runs")
    saved = yaml.safe_load((fitted / "runs/tiny/config.yaml").read_text())
    assert (saved["name"], saved["overwrite"], saved["ckpt_path"]) == ("tiny", False, None)
    # the name stands in it, so that `last` is found
    runs = tmp_path / "runs"
    run_main("validate", "--config", fitted / "runs/tiny/config.yaml", "--runs", runs, "--ckpt_path", "last")
    assert (runs / "tiny/metrics.validate.json").is_file()


def test_a_folder_in_which_another_process_trains_is_left_alone(
    drawn_root: Path,
    tmp_path: Path,
    run_main: RunMain,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNet")
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.0)
    with other_process(tmp_path / "runs/tiny") as other:
        assert said(other) == "holds it"
        for option in ((), ("--overwrite",)):
            with pytest.raises(SystemExit):
                run_main("fit", "--config", config, *option)
            assert (
                "runs/tiny: another process is writing here (process 7 on elsewhere)"
                in capsys.readouterr().err
            )
        assert [path.name for path in (tmp_path / "runs/tiny").iterdir()] == [lock.LOCK]
        (
            tmp_path / "runs/tiny/metrics.csv"
        ).touch()  # what the other has written so far is no reason to replace it
        with pytest.raises(SystemExit):
            run_main("fit", "--config", config)
        said_then = capsys.readouterr().err
        assert "another process is writing here (process 7 on elsewhere): wait for its end" in said_then
        assert "--overwrite" not in said_then


def test_overwrite_replaces_the_run_and_nothing_else(fitted: Path, tmp_path: Path, run_main: RunMain) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    (run / "notes.txt").write_text("mine")
    (run / "src").mkdir()
    (run / "src" / "precious.py").write_text("mine")
    (run / "embeddings.safetensors").write_text("of the earlier run")
    run_main("fit", "--config", fitted / "tiny.yaml", "--overwrite", "--trainer.max_epochs", 1)
    assert (run / "notes.txt").read_text() == (run / "src" / "precious.py").read_text() == "mine"
    assert not (run / "embeddings.safetensors").exists()
    assert json.loads((run / "metrics.json").read_text())["run/epochs"] == 1


def test_a_fit_that_cannot_begin_leaves_the_earlier_run_whole(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    where = "--data.init_args.reader.init_args.root"
    refused(
        capsys, lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--overwrite", where, "nowhere")
    )
    for name in ("checkpoints/last.ckpt", "metrics.json", "metrics.csv", "config.yaml", "faces.png"):
        assert (run / name).read_bytes() == (fitted / "runs/tiny" / name).read_bytes(), name


def test_going_on_from_another_run_does_not_take_over_a_folder(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(fitted / "runs" / "tiny", tmp_path / "runs" / "tiny")
    other = fitted / "runs/tiny/checkpoints/last.ckpt"
    message = refused(capsys, lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", other))
    assert "holds a finished run already" in message
    message = refused(
        capsys,
        lambda: run_main("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", "last", "--overwrite"),
    )
    assert "--overwrite would remove" in message


@pytest.mark.parametrize("name", ["..", "a/b", "."])
def test_a_name_is_a_plain_name(name: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plain name" in refused(capsys, lambda: run_main("fit", "--config", "demo.yaml", "--name", name))


def test_a_gpu_that_is_not_there(run_main: RunMain, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    message = refused(
        capsys, lambda: run_main("fit", "--config", "demo.yaml", "--trainer.accelerator", "gpu")
    )
    assert "gpu" in message


def test_a_model_is_loaded_from_a_run_in_python(fitted: Path) -> None:
    from lightning_app.models import ResNetFSM

    model = ResNetFSM.load_from_checkpoint(
        fitted / "runs/tiny/checkpoints/last.ckpt", map_location="cpu"
    ).eval()
    mask = torch.ones(1, 1, 32, 32)
    assert model.embed(torch.zeros(2, 3, 32, 32), mask).shape == (2, 64)
    assert model(torch.zeros(2, 3, 32, 32), mask).shape == (2, 6)
    assert set(model.gate(mask)) == {"layer2"}


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
