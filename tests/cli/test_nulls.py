"""A null on the command line takes the place of a config's value, however deep its class lies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Optional, Union

import pytest
import yaml
from jsonargparse import ArgumentParser

from datamodules import FaceDataModule
from lightning_app.cli.app import _Parser
from lightning_app.cli.whole_numbers import whole_first
from lightning_app.commands.parser import CommandParser
from tests import warm

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [_Parser, CommandParser])
@pytest.mark.parametrize(
    "key", ["data.reader.init_args.crop", "data.init_args.reader.init_args.crop", "data.reader.crop"]
)
def test_a_nested_null_is_one(kind: type[ArgumentParser], key: str, tmp_path: Path) -> None:
    reader = {"class_path": "datamodules.FolderFaces",
              "init_args": {"root": "None", "crop": 44, "size": 32, "max_images": 7}}  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"data": {"class_path": "datamodules.FaceDataModule", "init_args": {"reader": reader}}}
        )
    )
    parser = kind()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(FaceDataModule, "data")
    given = ["--config", str(config)]
    read = parser.parse_args([*given, f"--{key}=null", "--data.mean=null"]).data.init_args
    assert read.reader.init_args.crop is None
    assert (read.reader.init_args.root, read.reader.init_args.max_images) == ("None", 7)
    assert read.mean is None
    assert parser.parse_args(given).data.init_args.reader.init_args.crop == 44


@pytest.mark.slow
def test_one_batch_is_no_share_of_all(tmp_path: Path) -> None:
    """In a process of its own: which library is imported first decides how `typing` orders int and float."""
    args = [
        "--trainer.limit_train_batches",
        "1",
        "--trainer.limit_val_batches",
        "1.0",
        "--trainer.limit_test_batches=1",
    ]
    done = subprocess.run(
        [warm.COLD, str(TOP / "main.py"), "fit", "--config", "demo.yaml", *args, "--print_config"], cwd=tmp_path,
        capture_output=True, text=True, timeout=280, check=True, env=os.environ | {"PYTHONPATH": str(TOP)},
    )  # fmt: skip
    trainer = yaml.safe_load(done.stdout)["trainer"]
    kept = [trainer[f"limit_{stage}_batches"] for stage in ("train", "val", "test")]
    assert kept == [1, 1, 1]
    assert [type(value) for value in kept] == [int, float, int]


def test_int_comes_before_float() -> None:
    assert str(whole_first(Optional[Union[float, int]])) == "int | float | None"  # noqa: UP007, UP045
    assert whole_first(float | None) == float | None
    assert whole_first("float") == "float"
