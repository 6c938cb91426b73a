"""`python main.py federate` end to end, on the engine of one process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.command_line import refused, write_config
from tests.federated.tiny import config

Veil = Callable[..., None]
WATCH = {
    "class_path": "callbacks.LFWVerification",
    "init_args": {
        "bootstrap": 20,
        "reader": {
            "class_path": "datamodules.DrawnPairs",
            "init_args": {
                "identities": 8, "images_per_identity": 4, "first_identity": 5000, "size": 32, "folds": 2,
                "pairs_per_fold": 10,
            },
        },
    },
}  # fmt: skip


def written(path: Path, **more: object) -> Path:
    path.write_text(yaml.safe_dump(config(real=True, trainer={"callbacks": [WATCH]}, **more)))
    return path


def test_rounds_table_figure_checkpoint_and_what_takes_it(
    veil: Veil, tmp_path: Path, drawn_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written(tmp_path / "three.yaml")
    veil("federate", "--config", given)
    said = capsys.readouterr().out
    assert "round 2 of 2" in said
    assert "nobody else's" in said
    run = tmp_path / "runs" / "three"
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["federated/rounds"] == 2
    assert figures["federated/images"] == 3 * 16 * 2
    assert 0 <= figures["lfw/accuracy_low"] <= figures["lfw/accuracy"] <= figures["lfw/accuracy_high"] <= 1
    # fp32 weights of ResNet-18, its gate and the head, to three owners and back
    assert figures["federated/bytes_down_per_round"] == figures["federated/bytes_up_per_round"] > 3 * 4 * 11e6
    assert figures["time/overhead_s"] > 0
    lines = (run / "rounds.csv").read_text().splitlines()
    assert len(lines) == 3
    assert {"lfw/accuracy", "client2/loss", "client0/drift", "client1/cosine"} <= set(lines[0].split(","))
    assert (run / "rounds.png").stat().st_size > 1000
    assert "bn1" not in (run / "config.yaml").read_text()

    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    veil("federate", "--config", given)  # all is done
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before

    fit = write_config(tmp_path / "fit.yaml", drawn_root, "ResNetFSM")
    veil("validate", "--config", fit, "--ckpt_path", run / "checkpoints" / "last.ckpt", "--name", "checked",
         "--data.init_args.val_share", "0")  # fmt: skip
    assert "lfw/accuracy" in json.loads((tmp_path / "runs" / "checked" / "metrics.json").read_text())

    line = refused(capsys, lambda: veil("federate", "--config", given, "--rounds", "3"))
    assert "was made with other settings" in line
    veil("federate", "--config", given, "--rounds", "1", "--overwrite", "--verify_every", "5")
    assert len((run / "rounds.csv").read_text().splitlines()) == 2
    assert "lfw/accuracy" in (run / "rounds.csv").read_text()  # the last round is always verified


def test_without_flower_one_line_names_the_extra(
    veil: Veil, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "flwr" else found(name, *a)
    )
    line = refused(
        capsys, lambda: veil("federate", "--config", written(tmp_path / "a.yaml"), "--engine", "flower")
    )
    assert "pip install 'faceveil[federated]'" in line
    assert "--engine local" in line
    assert not (tmp_path / "runs").exists()


def test_bad_input(veil: Veil, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = written(tmp_path / "a.yaml")
    for options, words in (
        (["--partition", "own"], "partition: own is of a real deployment"),
        (["--clients", "0"], "clients=0: give at least 1"),
        (["--name", "a/b"], "give a plain name"),
        (["--partition", "identities", "--clients", "7"], "would have no image"),
        (["--engine", "rsync"], "engine"),
    ):
        assert words in refused(capsys, lambda options=options: veil("federate", "--config", given, *options))  # type: ignore[misc]
