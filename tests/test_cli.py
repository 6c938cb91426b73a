"""Every behaviour of the command line end to end, on tiny drawn sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lightning_app.configs import CONFIGS, find_config, shipped

Veil = Callable[..., None]


def write_config(path: Path, root: Path, model: str = "ResNet", **more: object) -> Path:
    """A `fit` of two epochs on 6 drawn people at 48 px, verified on the same tree."""
    config: dict[str, object] = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "callbacks.LFWVerification",
                    "init_args": {"root": str(root), "bootstrap": 20},
                },
                {"class_path": "callbacks.DSSIMReport", "init_args": {"images": 4}},
                {"class_path": "callbacks.Pictures", "init_args": {"images": 2}},
            ],
        },
        "model": {
            "class_path": f"lightning_app.models.{model}",
            "init_args": {"backbone": "resnet18"}
            | ({"insertion_points": ["layer2"]} if "FSM" in model else {}),
        },
        "data": {
            "class_path": "datamodules.FaceDataModule",
            "init_args": {
                "batch_size": 16,
                "val_share": 0.2,
                "reader": {
                    "class_path": "datamodules.FolderFaces",
                    "init_args": {"root": str(root), "size": 32, "crop": 44},
                },
                "desensitizer": {
                    "class_path": "lightning_app.desensitize.MaskOut",
                    "init_args": {"freeform": [0.7, 0.8]},
                },
            },
        },
    }
    config.update(more)
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which `fit --config tiny.yaml` has run once: ResNet-FSM."""
    from main import main

    home = tmp_path_factory.mktemp("fitted")
    config = write_config(home / "tiny.yaml", drawn_root, "ResNetFSM")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home


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
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (run / "faces.png").is_file()
    assert "train/loss" in (run / "metrics.csv").read_text()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["batch_size"] == 16


def test_validate_gives_the_figures_of_fit_again(
    fitted: Path, capsys: pytest.CaptureFixture[str], veil: Veil
) -> None:
    before = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    veil("validate", "--config", fitted / "tiny.yaml", "--runs", fitted / "runs", "--ckpt_path", "last")
    after = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    for key in ("lfw/accuracy", "lfw/auc", "lfw/accuracy_s3", "val/loss", "privacy/dssim"):
        assert after[key] == pytest.approx(before[key], abs=1e-6), key
    assert f"{before['lfw/accuracy']:.4f}"[:4] in capsys.readouterr().out


def test_validate_needs_no_training_set(fitted: Path, drawn_root: Path, tmp_path: Path, veil: Veil) -> None:
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetFSM")
    text = yaml.safe_load(config.read_text())
    text["data"]["init_args"]["reader"]["init_args"]["root"] = str(tmp_path / "gone")
    config.write_text(yaml.safe_dump(text))
    veil("validate", "--config", config, "--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt")
    metrics = json.loads((tmp_path / "runs/tiny/metrics.json").read_text())
    fit = json.loads((fitted / "runs/tiny/metrics.json").read_text())
    assert metrics["lfw/accuracy"] == pytest.approx(fit["lfw/accuracy"], abs=1e-6)


def test_test_and_predict_run(fitted: Path, veil: Veil) -> None:
    last = fitted / "runs/tiny/checkpoints/last.ckpt"
    veil("test", "--config", fitted / "tiny.yaml", "--ckpt_path", last)
    assert "lfw/accuracy" in json.loads(Path("runs/tiny/metrics.json").read_text())
    veil("predict", "--config", fitted / "tiny.yaml", "--ckpt_path", last)
    found = load_file("runs/tiny/embeddings.safetensors")
    assert found["embedding"].shape == (48, 512)
    assert found["index"].tolist() == list(range(48))
    assert found["identity"].tolist() == [i // 8 for i in range(48)]


def test_going_on_trains_further(fitted: Path, drawn_root: Path, tmp_path: Path, veil: Veil) -> None:
    config = write_config(tmp_path / "go.yaml", drawn_root)
    veil("fit", "--config", config)
    veil("fit", "--config", config, "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert json.loads(Path("runs/go/metrics.json").read_text())["run/epochs"] == 3
    state = torch.load("runs/go/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 3 * 2


def test_a_folder_with_a_run_is_not_overwritten_unasked(
    fitted: Path, capsys: pytest.CaptureFixture[str], veil: Veil
) -> None:
    with pytest.raises(SystemExit) as stop:
        veil("fit", "--config", fitted / "tiny.yaml", "--runs", fitted / "runs")
    assert stop.value.code == 1
    assert (
        "holds a run already: go on with it (--ckpt_path last), replace it (--overwrite)"
        in capsys.readouterr().err
    )


def test_a_saved_config_neither_overwrites_nor_goes_on_unasked(fitted: Path, veil: Veil) -> None:
    saved = yaml.safe_load((fitted / "runs/tiny/config.yaml").read_text())
    assert (saved["name"], saved["overwrite"], saved["ckpt_path"]) == ("tiny", False, None)
    # the name stands in it, so that `last` is found
    veil(
        "validate",
        "--config",
        fitted / "runs/tiny/config.yaml",
        "--runs",
        fitted / "runs",
        "--ckpt_path",
        "last",
    )


def test_overwrite_replaces_the_run_and_nothing_else(fitted: Path, tmp_path: Path, veil: Veil) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    (run / "notes.txt").write_text("mine")
    (run / "src").mkdir()
    (run / "src" / "precious.py").write_text("mine")
    (run / "embeddings.safetensors").write_text("of the earlier run")
    veil("fit", "--config", fitted / "tiny.yaml", "--overwrite", "--trainer.max_epochs", 1)
    assert (run / "notes.txt").read_text() == (run / "src" / "precious.py").read_text() == "mine"
    assert not (run / "embeddings.safetensors").exists()
    assert json.loads((run / "metrics.json").read_text())["run/epochs"] == 1


def test_a_fit_that_cannot_begin_leaves_the_earlier_run_whole(
    fitted: Path, tmp_path: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "tiny"
    copytree(fitted / "runs" / "tiny", run)
    where = "--data.init_args.reader.init_args.root"
    refused(capsys, lambda: veil("fit", "--config", fitted / "tiny.yaml", "--overwrite", where, "nowhere"))
    for name in ("checkpoints/last.ckpt", "metrics.json", "config.yaml", "faces.png"):
        assert (run / name).read_bytes() == (fitted / "runs/tiny" / name).read_bytes(), name
    assert (run / "metrics.1.csv").read_bytes() == (fitted / "runs/tiny/metrics.csv").read_bytes()


def test_going_on_from_another_run_does_not_take_over_a_folder(
    fitted: Path, tmp_path: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    copytree(fitted / "runs" / "tiny", tmp_path / "runs" / "tiny")
    other = fitted / "runs/tiny/checkpoints/last.ckpt"
    message = refused(capsys, lambda: veil("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", other))
    assert "holds a run already" in message
    message = refused(
        capsys, lambda: veil("fit", "--config", fitted / "tiny.yaml", "--ckpt_path", "last", "--overwrite")
    )
    assert "--overwrite would remove" in message


@pytest.mark.parametrize("name", ["..", "a/b", "."])
def test_a_name_is_a_plain_name(name: str, veil: Veil, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plain name" in refused(capsys, lambda: veil("fit", "--config", "demo.yaml", "--name", name))


def test_a_gpu_that_is_not_there(veil: Veil, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    message = refused(capsys, lambda: veil("fit", "--config", "demo.yaml", "--trainer.accelerator", "gpu"))
    assert "gpu" in message


def test_a_model_is_loaded_from_a_run_in_python(fitted: Path) -> None:
    from lightning_app.models import ResNetFSM

    model = ResNetFSM.load_from_checkpoint(
        fitted / "runs/tiny/checkpoints/last.ckpt", map_location="cpu"
    ).eval()
    mask = torch.ones(1, 1, 32, 32)
    assert model.embed(torch.zeros(2, 3, 32, 32), mask).shape == (2, 512)
    assert model(torch.zeros(2, 3, 32, 32), mask).shape == (2, 6)
    assert set(model.gate(mask)) == {"layer2"}


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_config_parses(name: str, veil: Veil, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--config", "demo.yaml"] if name.startswith("overlays/") else []
    with pytest.raises(SystemExit) as stop:
        veil("fit", *base, "--config", name, "--print_config")
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["class_path"].startswith("lightning_app.models.")


def test_shipped_configs_are_those_the_readme_promises() -> None:
    wanted = {"demo", "resnet", "resnet_mask", "lfwa_resnet", "lfwa_mask", "lfwa_fsm_layer3", "overlays/cpu",
              "overlays/ddp_4gpu", "overlays/wandb", *(f"fsm_layer{i}" for i in range(1, 5))}  # fmt: skip
    assert wanted <= {name.removesuffix(".yaml") for name in shipped()}


def test_bare_names_are_found_here_then_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("demo.yaml") == find_config("demo") == CONFIGS / "demo.yaml"
    (tmp_path / "demo.yaml").write_text("{}")
    assert find_config("demo.yaml") == Path("demo.yaml")


def refused(capsys: pytest.CaptureFixture[str], run: Callable[[], None]) -> str:
    """Run what must fail: its message, one line, exit code ≠ 0, no traceback."""
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line = [line for line in error.splitlines() if "error:" in line][-1]
    return line


def test_an_unknown_config_lists_those_there_are(veil: Veil, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, lambda: veil("fit", "--config", "fsm_layer9.yaml"))
    assert "fsm_layer9.yaml" in message
    assert "fsm_layer3.yaml" in message
    assert "demo.yaml" in message


def test_last_without_a_checkpoint_names_the_folder(veil: Veil, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, lambda: veil("fit", "--config", "demo.yaml", "--ckpt_path", "last"))
    assert "no last.ckpt in runs/demo/checkpoints" in message
    assert "--ckpt_path" in refused(capsys, lambda: veil("validate", "--config", "demo.yaml"))


@pytest.mark.parametrize("name", ["fsm_layer3.yaml", "lfwa_resnet.yaml", "resnet.yaml"])
def test_a_shipped_config_without_its_data_says_what_it_looked_for(
    name: str, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, lambda: veil("fit", "--config", name))
    assert "data/" in message or "masks/free76" in message
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))


def bad_roots(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    from PIL import Image

    empty, files, one = tmp_path / "empty", tmp_path / "files", tmp_path / "one"
    for folder in (empty / "someone", files, one / "only"):
        folder.mkdir(parents=True)
    Image.new("L", (32, 32)).save(files / "a.png")
    Image.new("L", (32, 32)).save(one / "only" / "a.png")
    return {"nowhere": (tmp_path / "nowhere", "no such folder"), "empty": (empty, "image"),
            "files": (files, "identity"), "one": (one, "identit")}  # fmt: skip


@pytest.mark.parametrize("case", ["nowhere", "empty", "files", "one"])
def test_bad_data_roots(
    case: str, tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    root, expected = bad_roots(tmp_path)[case]
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    message = refused(
        capsys, lambda: veil("fit", "--config", config, "--data.init_args.reader.init_args.root", root)
    )
    assert str(root) in message
    assert expected in message


@pytest.mark.parametrize("case", ["size", "grey", "black", "missing"])
def test_bad_masks(
    case: str, tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    from PIL import Image

    mask = np.zeros((32, 32), np.uint8)
    mask[:8] = 255
    if case == "size":
        mask = mask[:16, :16]
    elif case == "grey":
        mask[20] = 127
    elif case == "black":
        mask[:] = 0
    path = tmp_path / "mask.png"
    if case != "missing":
        Image.fromarray(mask).save(path)
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    text["data"]["init_args"]["desensitizer"]["init_args"] = {"mask": str(path)}
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: veil("fit", "--config", config))
    assert "mask.png" in message
    assert {"size": "16", "grey": "127", "black": "all", "missing": "draw-mask"}[case] in message


def test_a_pairs_file_with_a_bad_line_names_the_line(
    tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (drawn_root / "pairs.txt").read_text().splitlines()
    lines[4] = "what is this"
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    text["trainer"]["callbacks"][0]["init_args"]["pairs"] = str(tmp_path / "pairs.txt")
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: veil("fit", "--config", config))
    assert "line 5" in message or ":5" in message
    assert "what is this" in message


def test_missing_pair_images_are_counted_and_can_be_skipped(
    tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = (drawn_root / "pairs.txt").read_text().replace("Drawn_00003", "Nobody")
    (tmp_path / "pairs.txt").write_text(pairs)
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    given = text["trainer"]["callbacks"][0]["init_args"]
    given["pairs"] = str(tmp_path / "pairs.txt")
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: veil("fit", "--config", config))
    assert "missing: skip" in message
    assert "Nobody_0" in message
    given["missing"] = "skip"
    config.write_text(yaml.safe_dump(text))
    veil("fit", "--config", config, "--trainer.max_epochs", 1)
    assert "lfw/accuracy" in json.loads(Path("runs/bad/metrics.json").read_text())


def test_a_checkpoint_of_another_network(
    fitted: Path, tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "other.yaml", drawn_root)
    last = fitted / "runs/tiny/checkpoints/last.ckpt"
    for args in (["--model.init_args.backbone", "resnet34"], []):
        message = refused(capsys, partial(veil, "validate", "--config", config, "--ckpt_path", last, *args))
        assert "another network" in message
        assert "resnet18, layer2" in message


def test_a_truncated_checkpoint(
    fitted: Path, tmp_path: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (fitted / "runs/tiny/checkpoints/last.ckpt").read_bytes()
    for kept in (len(whole) // 2, 10, 0):
        (tmp_path / "cut.ckpt").write_bytes(whole[:kept])
        message = refused(
            capsys,
            lambda: veil("validate", "--config", fitted / "tiny.yaml", "--ckpt_path", tmp_path / "cut.ckpt"),
        )
        assert "truncated" in message
        assert "cut.ckpt" in message


def test_a_checkpoint_that_carries_code_runs_none(
    fitted: Path, tmp_path: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    message = refused(
        capsys,
        lambda: veil("validate", "--config", fitted / "tiny.yaml", "--ckpt_path", tmp_path / "evil.ckpt"),
    )
    assert "evil.ckpt" in message
    assert not (tmp_path / "ran").exists()


def test_a_bin_that_carries_code_runs_none(
    tmp_path: Path, drawn_root: Path, veil: Veil, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object]]:
            return Path.touch, (Path(tmp_path / "ran"),)

    (tmp_path / "evil.bin").write_bytes(pickle.dumps(([Evil()], [True])))
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    text["trainer"]["callbacks"][0]["init_args"] = {"bin": str(tmp_path / "evil.bin")}
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: veil("fit", "--config", config))
    assert "evil.bin" in message
    assert "code" in message
    assert not (tmp_path / "ran").exists()
