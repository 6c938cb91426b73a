"""`fit`, `validate`, `test` and `predict` end to end, on tiny drawn sets: what each leaves behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from callbacks import results
from datamodules import DrawnFaces
from tests.command_line import RunMain, refused, write_config


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
