"""What tests of the command line share: a config, and a run that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

RunMain = Callable[..., None]


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
            "init_args": {"backbone": "resnet18", "width": 8}  # wider takes longer and shows nothing more
            | ({"insertion_points": ["layer2"]} if "FSM" in model else {}),
        },
        "data": {
            "class_path": "datamodules.FaceDataModule",
            "init_args": {
                "global_batch_size": 16,
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


def clean_config(path: Path, root: Path) -> Path:
    """The same `fit` of a plain ResNet without a desensitizer and without callbacks."""
    config = yaml.safe_load(write_config(path, root, "ResNet").read_text())
    config["trainer"]["callbacks"] = []
    del config["data"]["init_args"]["desensitizer"]
    path.write_text(yaml.safe_dump(config))
    return path


def refused(capsys: pytest.CaptureFixture[str], run: Callable[[], object]) -> str:
    """Run what must fail: its message, one line, exit code ≠ 0, no traceback."""
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code not in (0, None)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line = [line for line in error.splitlines() if "error:" in line][-1]
    return line
