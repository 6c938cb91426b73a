from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from shutil import copy2, copytree

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch.nn import functional as F

from datamodules import FaceDataModule, FolderFaces
from lightning_app import LoadedRecogniser, load_recogniser
from lightning_app.desensitize import GaussianBlur, LearnedMask, MaskOut
from lightning_app.masks import mask_ratio, save_mask
from lightning_app.models import ResNet, ResNetFSM, checkpoints
from tests.command_line import RunMain, write_config
from tests.masker import write_masker
from tests.warm import COLD


@pytest.fixture(scope="module")
def files(drawn_root: Path) -> list[Path]:
    return sorted(drawn_root.glob("*/*.png"))[:5] or sorted(drawn_root.glob("*/*.jpg"))[:5]


@pytest.fixture(scope="module")
def pixels(drawn_root: Path, files: list[Path]) -> NDArray[np.uint8]:
    """The same files as arrays, as the reader of the run gives them."""
    reader = FolderFaces(drawn_root, size=32, crop=44, cache_index=False).open()
    names = [str(Path(reader.name(i))) for i in range(len(reader))]
    at = [
        next(i for i, name in enumerate(names) if name.endswith(f"{f.parent.name}/{f.name}")) for f in files
    ]
    return np.stack([reader.read(i).transpose(1, 2, 0) for i in at])


@pytest.fixture(scope="module")
def loaded(fitted: Path) -> LoadedRecogniser:
    return load_recogniser(fitted / "runs/tiny")


def by_hand(fitted: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mask, normalise, embed: written out with the DataModule's own desensitizer."""
    model, facts = checkpoints.read_recogniser(fitted / "runs/tiny")
    desensitizer = MaskOut(freeform=(0.7, 0.8), seed=0, size=32)
    data = FaceDataModule(desensitizer=desensitizer)
    assert facts.desensitizer is not None
    assert desensitizer.describe()["mask_hash"] == facts.desensitizer["mask_hash"]
    batch = data.prepare(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.no_grad():
        embedding = model.embed(batch["image"], batch["mask"], batch["mask_index"])
    found: NDArray[np.float32] = F.normalize(embedding).numpy()
    return found


def test_arrays_and_files_give_what_training_would(
    fitted: Path, loaded: LoadedRecogniser, pixels: NDArray[np.uint8], files: list[Path]
) -> None:
    found = loaded.embed_images(pixels)
    assert found.dtype == np.float32
    assert np.abs(found - by_hand(fitted, pixels)).max() < 1e-5
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(loaded.embed_images(pixels, batch_size=2) - found).max() < 1e-5
    assert np.abs(loaded.embed_images(files) - found).max() < 1e-5
    opened = [Image.open(path) for path in files[:2]]
    assert np.abs(loaded.embed_images([*opened, *files[2:]]) - found).max() < 1e-5
    assert loaded.embed_images(pixels[:0]).shape == (0, found.shape[1])


def test_what_lies_under_the_mask_changes_nothing(
    loaded: LoadedRecogniser, pixels: NDArray[np.uint8]
) -> None:
    mask = MaskOut(freeform=(0.7, 0.8), seed=0, size=32).mask
    assert mask is not None
    hidden = mask.reshape(32, 32).numpy() == 0
    noisy = pixels.copy()
    noisy[:, hidden] = 255 - noisy[:, hidden]
    assert np.array_equal(loaded.embed_images(noisy), loaded.embed_images(pixels))
    assert f"{mask_ratio(mask.reshape(1, 32, 32)):.1%} of every image is hidden" in loaded.hides


def test_images_that_are_desensitized_already(
    fitted: Path, loaded: LoadedRecogniser, pixels: NDArray[np.uint8]
) -> None:
    mask = MaskOut(freeform=(0.7, 0.8), seed=0, size=32).mask
    assert mask is not None
    desensitized = (pixels * mask.reshape(1, 32, 32, 1).numpy()).astype(np.uint8)
    again = load_recogniser(fitted / "runs/tiny", desensitize=False)
    assert np.abs(again.embed_images(desensitized) - loaded.embed_images(pixels)).max() < 1e-5
    assert np.abs(again.embed_images(pixels) - loaded.embed_images(pixels)).max() > 1e-3
    assert "as they are" in again.hides


def test_it_is_said_what_is_hidden(
    fitted: Path, fitted_clean: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "faceveil"):
        load_recogniser(fitted / "runs/tiny")
        load_recogniser(fitted / "runs/tiny", desensitize=True)
        load_recogniser(fitted_clean / "runs/clean")
    unasked, asked, clean = caplog.records[-3:]
    assert "of every image is hidden under its mask" in unasked.message
    assert "of every image is hidden under its mask" in asked.message
    assert "trained on clean faces, nothing is hidden" in clean.message
    assert [record.levelname for record in (unasked, asked, clean)] == ["WARNING", "INFO", "INFO"]


def test_a_method_without_a_mask_comes_from_the_run(
    drawn_root: Path, run_main: RunMain, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    config = write_config(tmp_path / "blur.yaml", drawn_root, "ResNet")
    blur = "{class_path: lightning_app.desensitize.GaussianBlur, init_args: {kernel: 9}}"
    run_main("fit", "--config", config, "--trainer.max_epochs", 1, "--trainer.callbacks=[]",
         "--data.desensitizer", blur)  # fmt: skip
    found = load_recogniser(tmp_path / "runs/blur").embed_images(pixels)
    alone = copy2(
        tmp_path / "runs/blur/checkpoints/last.ckpt", tmp_path / "alone.ckpt"
    )  # no config beside it
    assert np.array_equal(load_recogniser(alone).embed_images(pixels), found)
    model, _ = checkpoints.read_recogniser(tmp_path / "runs/blur")
    batch = FaceDataModule(desensitizer=GaussianBlur(9)).prepare(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.no_grad():
        assert np.abs(found - F.normalize(model.embed(batch["image"])).numpy()).max() < 1e-5


def test_a_masker_that_was_trained_again_is_another_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masker, run = tmp_path / "masker.ckpt", tmp_path / "runs/learned"
    (run / "checkpoints").mkdir(parents=True)
    part = {"checkpoint": str(write_masker(masker, 32, rounds=2)), "share": 0.25, "kind": "core_first"}
    made = LearnedMask(masker, 0.25, "core_first")
    made.prepare((32, 32))
    model = ResNet(backbone="resnet18", width=8, input_size=32, num_classes=2)
    torch.save({
        "state_dict": model.state_dict(), "epoch": 1, "global_step": 8,
        "hyper_parameters": {**model.hparams, "_class_path": "lightning_app.models.ResNet"},
        "FaceDataModule": {"desensitizer": made.describe(), "mean": 0.5, "std": 0.5},
    }, run / "checkpoints/last.ckpt")  # fmt: skip
    desensitizer = {"class_path": "lightning_app.desensitize.LearnedMask", "init_args": part}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"desensitizer": desensitizer}}}))
    with caplog.at_level(logging.INFO, "faceveil"):
        load_recogniser(run, desensitize=True)
    assert "every image is desensitized by LearnedMask, as in training" in caplog.text
    write_masker(masker, 32, rounds=2, seed=5)
    with pytest.raises(
        ValueError, match=r"LearnedMask \(masker \w{12}\), and its config.yaml leads to LearnedMask \(masker"
    ):
        load_recogniser(run, desensitize=True)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "float32; give pixels as uint8"),
        (np.zeros((32, 32, 3), np.uint8), r"shape \(32, 32, 3\); give \[N,H,W,3\]"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"shape \(2, 3, 32, 32\)"),
        (np.zeros((2, 48, 48, 3), np.uint8), "48×48 pixels, and the model takes 32×32"),
        (["nowhere.png"], "nowhere.png: cannot be read"),
        ("face.png", "a str; give a NumPy array"),
        (Image.new("RGB", (32, 32)), "an? Image; give a NumPy array"),
        ([Image.new("F", (32, 32))], "of mode F, 32×32 pixels; give 8 bits"),
        ([Image.new("RGB", (0, 0))], "of mode RGB, 0×0 pixels"),
        ([None], "a list with a NoneType; give a NumPy array .* or a list of paths or of PIL images"),
        (torch.zeros(2, 3, 32, 32), "a Tensor; give a NumPy array"),
    ],
)
def test_what_is_no_image_is_refused(loaded: LoadedRecogniser, images: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        loaded.embed_images(images)  # type: ignore[arg-type]


def test_what_is_done_to_an_odd_image_is_told_once(
    loaded: LoadedRecogniser,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loaded, "crop", None)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    wide, lying = tmp_path / "wide.png", tmp_path / "lying.jpg"
    Image.new("RGB", (40, 20)).save(wide)
    Image.new("RGB", (32, 32)).save(lying, exif=exif)
    loaded.embed_images([wide, lying, wide, lying])
    assert [one.getMessage() for one in caplog.records if one.levelname == "WARNING"] == [
        f"{wide} has 40×20 pixels, and is squeezed into a square, as others may be: align faces first.",
        f"{lying} is turned upright, as its EXIF says, and others may be: align faces first.",
    ]


def test_another_mask_is_refused(fitted: Path, tmp_path: Path) -> None:
    mask = torch.ones(1, 32, 32)
    mask[:, :16] = 0
    save_mask(mask, tmp_path / "other.png")
    with pytest.raises(ValueError, match="the checkpoint was trained under"):
        load_recogniser(fitted / "runs/tiny", mask=tmp_path / "other.png")


def test_what_is_no_image_is_named_by_its_kind(fitted: Path, pixels: NDArray[np.uint8]) -> None:
    recogniser = load_recogniser(fitted / "runs/tiny", desensitize=True)
    with pytest.raises(ValueError, match=r"^images: a list with a ndarray; give a NumPy array \[N,H,W,3\]"):
        recogniser.embed_images(list(pixels))
    with pytest.raises(ValueError, match=r"^images: a str; give a NumPy array"):
        recogniser.embed_images("a.jpg")


def test_a_checkpoint_that_does_not_tell_is_refused(fitted: Path, tmp_path: Path) -> None:
    copytree(fitted / "runs/tiny", tmp_path / "run")
    file = tmp_path / "run/checkpoints/last.ckpt"
    state = torch.load(file, weights_only=True)
    del state["FaceDataModule"]["desensitizer"]
    torch.save(state, file)
    with pytest.raises(ValueError, match="whose checkpoint does not name its mask"):
        load_recogniser(tmp_path / "run")


def test_raw_pixels_given_to_the_network_are_warned_of(
    fitted: Path, pixels: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    model = ResNetFSM.load_from_checkpoint(
        fitted / "runs/tiny/checkpoints/last.ckpt", weights_only=True
    ).eval()
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad(), caplog.at_level(logging.WARNING, "faceveil"):
        model.embed((image - 0.5) / 0.5)
        assert not caplog.messages
        again = ResNetFSM.load_from_checkpoint(
            fitted / "runs/tiny/checkpoints/last.ckpt", weights_only=True
        ).eval()
        again.embed(image)
        again.embed(image)
    assert len(caplog.messages) == 1
    assert "as if they were not normalised" in caplog.messages[0]


@pytest.mark.slow
def test_the_package_imports_no_lightning_for_a_desensitizer() -> None:
    code = (
        "import sys, lightning_app.desensitize\n"
        "print([m for m in ('lightning', 'matplotlib', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([COLD, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
