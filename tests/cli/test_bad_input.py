"""What the command line says to bad input: one line, exit code ≠ 0."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from tests.command_line import RunMain, refused, write_config


def test_an_unknown_config_lists_those_there_are(
    run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, lambda: run_main("fit", "--config", "fsm_layer9.yaml"))
    assert "fsm_layer9.yaml" in message
    assert "fsm_layer3.yaml" in message
    assert "demo.yaml" not in message  # the nearest alone
    message = refused(capsys, lambda: run_main("fit", "--config", "qqq.yaml"))
    assert re.search(r"nor in .*configs, which has \d+, such as align\.yaml, ", message)
    assert len(message) < 500


def test_last_without_a_checkpoint_names_the_folder(
    run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, lambda: run_main("fit", "--config", "demo.yaml", "--ckpt_path", "last"))
    assert "no last.ckpt in runs/demo/checkpoints" in message
    assert "--ckpt_path" in refused(capsys, lambda: run_main("validate", "--config", "demo.yaml"))


@pytest.mark.parametrize("name", ["fsm_layer3.yaml", "lfwa_resnet.yaml", "resnet.yaml"])
def test_a_shipped_config_without_its_data_says_what_it_looked_for(
    name: str, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, lambda: run_main("fit", "--config", name))
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
    case: str, tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    root, expected = bad_roots(tmp_path)[case]
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    message = refused(
        capsys, lambda: run_main("fit", "--config", config, "--data.init_args.reader.init_args.root", root)
    )
    assert str(root) in message
    assert expected in message


@pytest.mark.parametrize("case", ["size", "grey", "black", "missing"])
def test_bad_masks(
    case: str, tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
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
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert "mask.png" in message
    assert {"size": "16", "grey": "127", "black": "all", "missing": "draw-mask"}[case] in message


def test_a_pairs_file_with_a_bad_line_names_the_line(
    tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (drawn_root / "pairs.txt").read_text().splitlines()
    lines[4] = "what is this"
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    text["trainer"]["callbacks"][0]["init_args"]["pairs"] = str(tmp_path / "pairs.txt")
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert "line 5" in message or ":5" in message
    assert "what is this" in message


def test_missing_pair_images_are_counted_and_can_be_skipped(
    tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = (drawn_root / "pairs.txt").read_text().replace("Drawn_00003", "Nobody")
    (tmp_path / "pairs.txt").write_text(pairs)
    config = write_config(tmp_path / "bad.yaml", drawn_root)
    text = yaml.safe_load(config.read_text())
    given = text["trainer"]["callbacks"][0]["init_args"]
    given["pairs"] = str(tmp_path / "pairs.txt")
    config.write_text(yaml.safe_dump(text))
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert "missing: skip" in message
    assert "Nobody_0" in message
    given["missing"] = "skip"
    config.write_text(yaml.safe_dump(text))
    run_main("fit", "--config", config, "--trainer.max_epochs", 1)
    assert "lfw/accuracy" in json.loads(Path("runs/bad/metrics.json").read_text())


def test_a_checkpoint_of_another_network(
    fitted: Path, tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "other.yaml", drawn_root)
    last = fitted / "runs/tiny/checkpoints/last.ckpt"
    for args in (["--model.init_args.backbone", "resnet34"], []):
        message = refused(
            capsys, partial(run_main, "validate", "--config", config, "--ckpt_path", last, *args)
        )
        assert "another network" in message
        assert "resnet18, layer2" in message


def test_a_truncated_checkpoint(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (fitted / "runs/tiny/checkpoints/last.ckpt").read_bytes()
    for kept in (len(whole) // 2, 10, 0):
        (tmp_path / "cut.ckpt").write_bytes(whole[:kept])
        message = refused(
            capsys,
            lambda: run_main(
                "validate", "--config", fitted / "tiny.yaml", "--ckpt_path", tmp_path / "cut.ckpt"
            ),
        )
        assert "truncated" in message
        assert "cut.ckpt" in message


def test_a_checkpoint_that_carries_code_runs_none(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    message = refused(
        capsys,
        lambda: run_main("validate", "--config", fitted / "tiny.yaml", "--ckpt_path", tmp_path / "evil.ckpt"),
    )
    assert "evil.ckpt" in message
    assert not (tmp_path / "ran").exists()


def test_a_bin_that_carries_code_runs_none(
    tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
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
    message = refused(capsys, lambda: run_main("fit", "--config", config))
    assert "evil.bin" in message
    assert "code" in message
    assert not (tmp_path / "ran").exists()
