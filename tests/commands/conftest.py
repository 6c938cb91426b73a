"""Releases that the tests of `audit` begin from, and the comparison that those of `compare` run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import Mosaic
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import report
from tests.commands.compared import BLUR, verified
from tests.release.by_hand import KEY, blur, write_release


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of the drawn people, under a mask, blurred and as mosaic, and the key; nobody changes them."""
    home = tmp_path_factory.mktemp("made")
    write_release(home / "masked", drawn_root)
    write_release(home / "blurred", drawn_root, blur())
    write_release(home / "mosaic", drawn_root, Mosaic(8))
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    return home


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of the masked release to spoil."""
    return Path(shutil.copytree(made / "masked", tmp_path / "masked"))


@pytest.fixture
def picture() -> None:
    """Draw the scatter as it is."""


@pytest.fixture
def blank_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no scatter but where a test asks for it: it takes half a second each time."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(report, "compare_chart", lambda *rest: Image.new("RGB", (2, 2)))


@pytest.fixture
def config(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank_picture: None
) -> Callable[..., Path]:
    """Write a comparison of three methods whose recogniser is the one that `fitted` holds: nothing is trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jobs, "call", lambda args, *rest: verified(fitted, args))
    last = str(fitted / "runs/tiny/checkpoints/last.ckpt")
    fit = str(fitted / "tiny.yaml")

    def write(**more: object) -> Path:
        description: dict[str, object] = {
            "name": "both",
            "methods": {
                "none": {
                    "config": fit,
                    "checkpoint": last,
                    "args": ["--data.init_args.desensitizer", "null"],
                },
                "blur 9": {
                    "config": fit,
                    "checkpoint": last,
                    "args": ["--data.init_args.desensitizer", BLUR],
                },
                "mask": {"config": fit, "checkpoint": last},
            },
            "attacks": {
                "mean face": {
                    "class_path": "lightning_app.attacks.MeanFace",
                    "init_args": {
                        "reader": {
                            "class_path": "datamodules.DrawnFaces",
                            "init_args": {
                                "size": 32,
                                "identities": 8,
                                "images_per_identity": 4,
                                "first_identity": 900,
                            },
                        }
                    },
                },
                "Telea": {"class_path": "lightning_app.attacks.Telea"},
            },
            "judges": {"clean": "none"},
            "bootstrap": 20,
            "examples": 2,
            "device": "cpu",
        }
        path = tmp_path / "both.yaml"
        path.write_text(yaml.safe_dump(description | more, sort_keys=False, allow_unicode=True))
        return path

    return write
