from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.desensitize import BlockDCT, Chain, Desensitizer, FrequencyMask, InstaHide, MaskOut, MixUp
from lightning_app.models import ResNet, ResNetFSM, ResNetMask
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.known import MODELS
from lightning_app.models.saved_network import warn_of_kept

VEILED = {"desensitizer": {"method": "MaskOut", "mask_hash": "ab"}, "num_classes": 5}


def write(path: Path, model: Recogniser, **other: Any) -> Path:
    """A checkpoint as Lightning's CLI leaves it, without the optimiser."""
    settings = {**model.hparams, "_class_path": f"lightning_app.models.{type(model).__name__}"}
    kept = {"epoch": 1, "global_step": 8, "hyper_parameters": settings, "state_dict": model.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept | {"FaceDataModule": VEILED} | other, path)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ResNetMask]:
    torch.manual_seed(0)
    model = ResNetMask(backbone="resnet18", num_classes=5, input_size=32, lr=0.3)
    return write(tmp_path_factory.mktemp("run") / "checkpoints" / "last.ckpt", model), model.eval()


def test_a_recogniser_comes_back_as_it_was(plain: tuple[Path, ResNetMask]) -> None:
    path, model = plain
    loaded, facts = read_recogniser(path)
    assert type(loaded) is ResNetMask
    assert not any(module.training for module in loaded.modules())
    assert not any(p.requires_grad for p in loaded.parameters())
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded.embed(image), model.embed(image))
        assert torch.equal(loaded(image), model(image))
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts.path, facts.model, facts.input_size, facts.in_channels) == (path, "ResNetMask", 32, 3)
    assert (facts.step, facts.data, facts.clean) == (8, VEILED, False)
    assert facts.desensitizer == {"method": "MaskOut", "mask_hash": "ab"}


def test_a_run_folder_will_do(plain: tuple[Path, ResNetMask]) -> None:
    run = plain[0].parent.parent
    assert read_recogniser(run)[1].sha256 == read_recogniser(plain[0])[1].sha256
    with pytest.raises(FileNotFoundError, match=r"the folder has no checkpoints/last\.ckpt"):
        read_recogniser(plain[0].parent)


def test_the_class_follows_from_the_weights(plain: tuple[Path, ResNetMask], tmp_path: Path) -> None:
    torch.manual_seed(0)
    gated = ResNetFSM(("layer1", "layer2"), backbone="resnet18", num_classes=4, input_size=32).eval()
    loaded, facts = read_recogniser(
        write(tmp_path / "gated.ckpt", gated, FaceDataModule={"desensitizer": {"method": "Identity"}})
    )
    assert isinstance(loaded, ResNetFSM)
    assert facts.clean is True
    image, mask = torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    with torch.no_grad():
        assert torch.equal(loaded.embed(image, mask), gated.embed(image, mask))
    # one that Python code wrote has no class path, and may know nothing of its data
    bare = dict(plain[1].hparams) | {"num_classes": None}
    loaded, facts = read_recogniser(
        write(tmp_path / "bare.ckpt", plain[1], hyper_parameters=bare, FaceDataModule=None)
    )
    assert type(loaded) is ResNet
    assert (facts.clean, facts.desensitizer, facts.data) == (None, None, {})
    assert loaded(image).shape == (2, 5)


class Own(ResNet):
    """A recogniser that somebody adds to ours, whose weights look like a ResNet's."""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    model = ResNetMask(backbone="resnet18", num_classes=5, input_size=32)
    with torch.no_grad():
        model.state_dict()["backbone.layer2.0.bn1.weight"][3] = value
    said = r"checkpoint .*last\.ckpt: backbone\.layer2\S+ holds values that are not finite; take an earlier checkpoint"
    with pytest.raises(ValueError, match=said):
        read_recogniser(write(tmp_path / "last.ckpt", model))


def test_a_class_of_ours_that_weights_cannot_tell_is_taken_by_its_name(
    plain: tuple[Path, ResNetMask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "Own", Own)
    settings = {**plain[1].hparams, "_class_path": f"{Own.__module__}.Own"}
    loaded, facts = read_recogniser(write(tmp_path / "own.ckpt", plain[1], hyper_parameters=settings))
    assert type(loaded) is Own
    assert facts.model == "Own"


def test_lightnings_own_checkpoint(fitted: Path) -> None:
    path = fitted / "runs/tiny/checkpoints/last.ckpt"
    loaded, facts = read_recogniser(fitted / "runs/tiny")
    theirs = ResNetFSM.load_from_checkpoint(path, map_location="cpu").eval()
    image, mask = torch.rand(2, 3, 32, 32), (torch.rand(1, 1, 32, 32) > 0.5).float()
    with torch.no_grad():
        assert torch.equal(loaded.embed(image, mask), theirs.embed(image, mask))
    assert facts.data["num_classes"] == 6
    assert facts.desensitizer is not None
    assert facts.desensitizer["method"] == "MaskOut"
    assert facts.step == 4


def test_what_is_refused(plain: tuple[Path, ResNetMask], tmp_path: Path) -> None:
    def refused(path: Path, message: str, kind: type[Exception] = ValueError) -> None:
        with pytest.raises(kind, match=message) as error:
            read_recogniser(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
        assert "--ckpt_path" not in str(error.value)

    refused(tmp_path / "none.ckpt", "checkpoint .*none.ckpt: no such file", FileNotFoundError)
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(plain[0].read_bytes()[:1000])
    refused(cut, "checkpoint .*truncated or no checkpoint")
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": {"lr": 0.1}}, other)
    refused(other, "not of a recogniser")
    torch.save({"weights": torch.zeros(2)}, other)
    refused(other, "not a Lightning checkpoint")
    torch.save({"state_dict": {}, "code": Path("a")}, other)
    refused(other, "holds more than weights")
    changed = {**plain[1].hparams, "backbone": "resnet34"}
    refused(write(tmp_path / "changed.ckpt", plain[1], hyper_parameters=changed), "do not fit a ResNet ")


@pytest.mark.parametrize(
    ("desensitizer", "pictures"),
    [
        (InstaHide(3), True),  # a single image is taken as it is
        (Chain([MaskOut(freeform=(0.5, 0.6), size=32), MixUp()]), True),
        (Chain([FrequencyMask(channels=[1, 8, 9]), MixUp()]), False),
        (Chain([FrequencyMask(channels=[1, 8, 9]), InstaHide()]), False),
        (BlockDCT(channels=[1, 8, 9]), False),  # as many channels as a picture has
    ],
    ids=["InstaHide", "mask and mixes", "frequency and mixes", "frequency and signs", "three channels"],
)
def test_whether_it_takes_pictures(desensitizer: Desensitizer, pictures: bool, tmp_path: Path) -> None:
    facts = CheckpointFacts(
        tmp_path / "x.ckpt", "0" * 64, "ResNet", 32, 3, 1, {"desensitizer": desensitizer.describe()}
    )
    assert facts.pictures == pictures


def test_what_is_not_used_is_not_kept_either(caplog: pytest.LogCaptureFixture) -> None:
    own = {"lr": 0.5, "momentum": 0.9}
    with caplog.at_level("WARNING", "faceveil"):
        warn_of_kept(("lr", "momentum"), {"lr": 0.1, "momentum": 0.9}, own)
    assert caplog.messages == ["model.lr=0.5 is not used: the checkpoint goes on with 0.1"]
    assert own == {"lr": 0.1, "momentum": 0.9}
