"""Desensitizers and an attack from outside FaceVeil, by class_path, from `fit` to the model card."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from datamodules import DrawnFaces, FaceDataModule, ReleasedFaces
from datamodules.augment import Augment
from lightning_app import load_recogniser
from lightning_app.attacks import Attack
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.manifest import Manifest
from lightning_app.studies import runner as jobs
from tests.attacks.contract import AttackContract, released
from tests.command_line import RunMain, refused, write_config
from tests.desensitize.contract import DesensitizerContract

HERE = "tests.desensitize.test_plug_ins"


class Invert(Desensitizer):
    """Inverts the colours of a share of the columns, from the left; no pixel is hidden."""

    has_mask = False
    flips = False

    def __init__(self, share: float = 0.75) -> None:
        super().__init__()
        self.share = share

    def desensitize(self, image: Tensor) -> Tensor:
        part = round(self.share * image.shape[-1])
        return torch.cat([1 - image[..., :part], image[..., part:]], -1)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"share": self.share}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        return cls(description["share"])


class SpaceToDepth(Desensitizer):
    """Moves every 2×2 square of pixels into channels, in an order of its own: twelve channels of half the size."""

    out_channels = 12
    is_image = False
    flips = False
    has_mask = False

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = batch.copy()
        order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).to(batch["image"].device)
        out["image"] = F.pixel_unshuffle(batch["image"], 2).index_select(1, order)
        out["mask"], out["mask_index"] = None, torch.zeros_like(batch["index"])
        return out

    def out_size(self, size: int) -> int:
        return size // 2

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        return cls()


class Enlarge(Attack):
    """Takes whatever is released, averages its channels and enlarges that to the size it is told."""

    needs_image = False

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.size = size

    def guess(self, released: Batch) -> Tensor:
        mean = released["image"].mean(1, keepdim=True).expand(-1, 3, -1, -1)
        return F.interpolate(mean, (self.size, self.size), mode="bilinear")


class Upright(Attack):
    """Inverts what `Invert` inverts."""

    def guess(self, released: Batch) -> Tensor:
        return Invert().desensitize(released["image"])


class OldForm(Attack):
    """Of before attacks took the batch."""

    def restore(self, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override,misc]
        return image


class TestInvert(DesensitizerContract):
    def make(self) -> Desensitizer:
        return Invert()


class TestSpaceToDepth(DesensitizerContract):
    def make(self) -> Desensitizer:
        return SpaceToDepth()


class TestUpright(AttackContract):
    def make(self) -> Attack:
        return Upright()


class TestEnlarge(AttackContract):
    def make(self) -> Attack:
        return Enlarge(self.size)

    def images(self, attack: Attack) -> Tensor:
        return torch.randn(4, 12, self.size, self.size, generator=torch.Generator().manual_seed(0))


def test_ones_own_base_may_be_abstract() -> None:
    class Shifted(Desensitizer, ABC):
        """What several of somebody's classes share."""

        @abstractmethod
        def by(self) -> float:
            """Return by how much."""

        def desensitize(self, image: Tensor) -> Tensor:
            return (image + self.by()).clamp(0, 1)

    class Brighter(Shifted):
        """Makes images brighter."""

        def by(self) -> float:
            return 0.25

    with pytest.raises(TypeError, match="abstract"):
        Shifted()  # type: ignore[abstract]
    assert (
        Brighter()({"image": torch.zeros(1, 3, 4, 4), "index": torch.zeros(1, dtype=torch.int64)})[
            "image"
        ].max()
        == 0.25
    )


def test_another_size_comes_out_of_half() -> None:
    half = torch.rand(2, 12, 16, 16)
    assert Enlarge(32).restore(released(half)).shape == (2, 3, 32, 32)


def config_of(path: Path, root: Path, kind: type[Desensitizer]) -> Path:
    """A `fit` of one epoch on images desensitized by a class of this file."""
    config = yaml.safe_load(write_config(path, root).read_text())
    config["trainer"]["max_epochs"] = 1
    config["data"]["init_args"]["desensitizer"] = {"class_path": f"{HERE}.{kind.__name__}"}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which `fit` has run once with each toy."""
    from main import main

    home = tmp_path_factory.mktemp("plug_ins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        for kind in (Invert, SpaceToDepth):
            config = config_of(home / f"{kind.__name__}.yaml", drawn_root, kind)
            main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home


def metrics(fits: Path, kind: type[Desensitizer]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((fits / "runs" / kind.__name__ / "metrics.json").read_text())
    return found


def test_they_are_trained_and_verified(fits: Path) -> None:
    image, other = metrics(fits, Invert), metrics(fits, SpaceToDepth)
    assert {"lfw/accuracy_s1", "lfw/accuracy_s2", "lfw/accuracy_s3", "privacy/dssim"} <= {*image}
    # a network that takes twelve channels takes no clean face; what is no picture is compared as it looks
    assert {"lfw/accuracy_s1", "privacy/dssim"} <= {*other}
    assert not {"lfw/accuracy_s2", "lfw/accuracy_s3"} & {*other}
    checkpoint = torch.load(fits / "runs/SpaceToDepth/checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["hyper_parameters"]["in_channels"], checkpoint["hyper_parameters"]["input_size"]) == (
        12,
        16,
    )


def release_config(path: Path, root: Path, kind: type[Desensitizer]) -> Path:
    path.write_text(yaml.safe_dump({
        "name": "mine", "output": "released", "workers": 0,
        "reader": {"class_path": "datamodules.FolderFaces", "init_args": {"root": str(root), "size": 32, "crop": 44}},
        "desensitizer": {"class_path": f"{HERE}.{kind.__name__}"},
    }))  # fmt: skip
    return path


def test_pictures_are_released_and_audited_with_the_raw_set(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = release_config(tmp_path / "mine.yaml", drawn_root, Invert)
    run_main("desensitize", "--config", config)
    # a manifest is a closed list: of a class that is not ours it gives the name, and no parameter
    assert Manifest.read("released").method == {"method": "Invert"}
    with pytest.raises(SystemExit):
        run_main("audit", "released")
    assert "its method Invert is none of FaceVeil's, and it has no mask" in " ".join(
        capsys.readouterr().out.split()
    )
    run_main(
        "audit", "released", "--config", config, "--raw", drawn_root, "--key", "runs/mine/pseudonyms.key"
    )


def test_a_representation_of_ones_own_that_is_the_image_fails_its_audit(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = release_config(tmp_path / "mine.yaml", drawn_root, SpaceToDepth)
    run_main("desensitize", "--config", config)
    with pytest.raises(SystemExit):
        run_main("audit", "released")
    assert "its method SpaceToDepth is none of FaceVeil's" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        run_main("audit", "released", "--config", config, "--key", "runs/mine/pseudonyms.key")
    assert "is as good as the clean image" in " ".join(capsys.readouterr().out.split())


def compare_config(path: Path, fits: Path, **attacks: str) -> Path:
    path.write_text(yaml.safe_dump({
        "name": "toys",
        "methods": {
            kind.__name__: {"config": str(fits / f"{kind.__name__}.yaml"),
                            "checkpoint": str(fits / f"runs/{kind.__name__}/checkpoints/last.ckpt")}
            for kind in (Invert, SpaceToDepth)
        },
        "attacks": {label: {"class_path": path} for label, path in attacks.items()},
        "judges": {"invert": "Invert"}, "bootstrap": 20, "examples": 2, "device": "cpu",
    }, sort_keys=False))  # fmt: skip
    return path


def test_they_are_compared(
    fits: Path,
    tmp_path: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "call", lambda *rest: pytest.fail("nothing is to be trained"))
    config = compare_config(
        tmp_path / "toys.yaml", fits, enlarge=f"{HERE}.Enlarge", upright=f"{HERE}.Upright",
        telea="lightning_app.attacks.Telea",
    )  # fmt: skip
    run_main("compare", "--config", config)
    found = json.loads(Path("runs/toys/metrics.json").read_text())
    for kind in (Invert, SpaceToDepth):
        own = metrics(fits, kind)
        assert found[f"compare/{kind.__name__}/accuracy"] == own["lfw/accuracy"]
        # its own recogniser takes what it releases: the same faces, the same figure
        assert found[f"compare/{kind.__name__}/accuracy/own"] == pytest.approx(own["lfw/accuracy"], abs=1e-6)
        for seen in ("", "enlarge/"):
            for key in ("dssim", "psnr", "rank1/invert", "verification/invert"):
                assert isinstance(found[f"compare/{kind.__name__}/{seen}{key}"], float), (kind, seen, key)
    assert found["compare/Invert/upright/psnr"] > found["compare/Invert/psnr"], "the attack sees more"
    names = {
        key.removeprefix("compare/SpaceToDepth/").split("/")[0] for key in found if "/SpaceToDepth/" in key
    }
    # who restores pictures alone, or fills in a mask, is not mounted; no recogniser takes an attacker's pictures
    assert not {"upright", "telea"} & names
    assert "compare/SpaceToDepth/enlarge/accuracy/own" not in found
    shown = " ".join(capsys.readouterr().out.split())
    assert "* releases no pictures: seen as its `look` shows it" in shown
    assert "SpaceToDepth *" in shown
    page = Path("runs/toys/report.html").read_text()
    assert "no picture: 12 channels; seen as its `look` shows it" in page


def test_an_attack_of_the_old_form_is_told_in_a_line(
    fits: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compare_config(tmp_path / "toys.yaml", fits, old=f"{HERE}.OldForm")
    line = refused(capsys, lambda: run_main("compare", "--config", config))
    assert "OldForm: overrides restore; an attack overrides guess(released)" in line


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "channels", "size"), [(Invert, 3, 32), (SpaceToDepth, 12, 16)])
def test_they_are_exported(
    kind: type[Desensitizer], channels: int, size: int, fits: Path, tmp_path: Path, run_main: RunMain
) -> None:
    checkpoint = fits / f"runs/{kind.__name__}/checkpoints/last.ckpt"
    run_main("export", "--ckpt_path", checkpoint, "--output", tmp_path / "out")
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert (card["input"]["channels"], card["input"]["size"]) == (channels, size)
    assert card["desensitizer"]["method"] == kind.__name__
    words = next((tmp_path / "out").glob("*.md")).read_text()
    assert f"**Images must be desensitized before**, as in training: `{kind.__name__}`" in words


def in_fit(data: FaceDataModule, epoch: int = 0) -> FaceDataModule:
    """Return it a trainer in the middle of `fit`."""

    class Trainer:
        training, current_epoch, global_step = True, epoch, 3
        precision_plugin = type("Plain", (), {"convert_input": staticmethod(lambda batch: batch)})

    data.trainer = Trainer()  # type: ignore[assignment]
    return data


@pytest.mark.parametrize("kind", [Invert, SpaceToDepth])
def test_raw_images_are_flipped_before_what_cannot_be(kind: type[Desensitizer]) -> None:
    reader = DrawnFaces(4, 4, 32)
    data = in_fit(
        FaceDataModule(reader, kind(), Augment(flip=0.5), seed=1, mean=0.0, std=1.0, keep_clean=True)
    )
    raw = reader.__getitems__(list(range(16)))
    out = data.on_after_batch_transfer(raw, 0)
    # who is flipped is the same as without a desensitizer
    plain = in_fit(FaceDataModule(reader, None, Augment(flip=0.5), seed=1, mean=0.0, std=1.0))
    flipped = plain.on_after_batch_transfer(raw, 0)["image"]
    assert not torch.equal(flipped, raw["image"].float() / 255)
    torch.testing.assert_close(out["clean"], flipped, rtol=0, atol=1e-6)
    expected = kind().forward({"image": flipped, "index": raw["index"]})["image"]
    torch.testing.assert_close(out["image"], expected, rtol=0, atol=1e-6)


def test_a_released_set_is_not_flipped(drawn_root: Path, tmp_path: Path, run_main: RunMain) -> None:
    run_main("desensitize", "--config", release_config(tmp_path / "mine.yaml", drawn_root, Invert))
    reader = ReleasedFaces("released", own_desensitizer=Invert())
    data = in_fit(FaceDataModule(reader, augment=Augment(flip=1.0), seed=1, mean=0.0, std=1.0))
    raw = reader.__getitems__([0, 5, 9])
    out = data.on_after_batch_transfer(dict(raw), 0)  # type: ignore[arg-type]
    assert torch.equal(out["image"], raw["image"].float() / 255)


def test_the_front_door(fits: Path) -> None:
    channels = load_recogniser(fits / "runs/SpaceToDepth", trust=[f"{HERE}.SpaceToDepth"])
    assert (channels.size, channels.facts.input_size) == (32, 16)
    pixels = DrawnFaces(2, 2, 32).__getitems__([0, 1, 2])["image"]
    made = SpaceToDepth()({"image": pixels.float() / 255, "index": torch.arange(3)})["image"]
    expected = F.normalize(channels.model.embed(made, None, None))
    found = channels.embed_images(pixels.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(torch.from_numpy(found), expected)
    with pytest.raises(ValueError, match="give --trust"):
        load_recogniser(fits / "runs/Invert")
    loaded = load_recogniser(fits / "runs/Invert", desensitize=True, trust=[f"{HERE}.Invert"])
    images = DrawnFaces(2, 2, 32).__getitems__([0, 1, 2])["image"]
    upright = loaded.embed_images(images.permute(0, 2, 3, 1).numpy())
    inverted = (Invert().desensitize(images.float() / 255) * 255).round().byte()
    asis = load_recogniser(fits / "runs/Invert", desensitize=False)
    torch.testing.assert_close(
        torch.from_numpy(asis.embed_images(inverted.permute(0, 2, 3, 1).numpy())), torch.from_numpy(upright)
    )
