"""A null on the command line takes the place of a config's value, however deep its class lies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from datamodules import FaceDataModule
from lightning_app.cli.app import _Parser
from lightning_app.commands.parser import CommandParser


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
