from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.functional import avg_pool2d

from callbacks import FaceSimilarityReport
from lightning_app.attacks import Telea
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.evaluation.judges import Judge
from lightning_app.metrics.face_similarity import face_similarity
from tests.callbacks.tiny_run import SIZE, LowerHalf, MakeTrainer, Open, TinyData, TinyModel
from tests.command_line import RunMain, write_config


class Squares(Judge):
    """Embeds the means of squares of 8 pixels; counts the images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def embed(self, images: Tensor) -> Tensor:
        self.given += len(images)
        return avg_pool2d(images, 8).flatten(1)


class LeftHalf(Desensitizer):
    """Hides the left half, where the images differ."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out, mask = batch.copy(), torch.ones(1, 1, SIZE, SIZE)
        mask[..., : SIZE // 2] = 0
        out["mask"], out["mask_index"] = mask, torch.zeros(len(batch["image"]), dtype=torch.int64)
        out["image"] = batch["image"] * mask
        return out


class Large(Squares):
    """Takes images of 64 pixels alone."""

    def check_size(self, size: int) -> None:
        if size != 64:
            raise ValueError(f"takes 64 px, not {size}")


def test_the_figures_are_those_of_the_judge_before_and_after_the_attack(make_trainer: MakeTrainer) -> None:
    data = TinyData(LeftHalf())
    trainer = make_trainer(FaceSimilarityReport(Squares(), images=6, attack=Telea()), epochs=1)
    trainer.fit(TinyModel(), datamodule=data)
    clean = data.raw[:6].float() / 255
    seen = clean.clone()
    seen[..., :16] = 0
    assert face_similarity(Squares().embed(seen), Squares().embed(clean)).mean < 0.9
    filled = Telea().restore(LeftHalf()({"image": clean, "index": torch.arange(6)}))
    for tail, images in (("", seen), ("_restored", filled)):
        wanted = face_similarity(Squares().embed(images), Squares().embed(clean))
        found = trainer.callback_metrics
        assert found[f"privacy/face_similarity{tail}"].item() == pytest.approx(wanted.mean, abs=1e-5)
        assert found[f"privacy/face_similarity{tail}_low"].item() == pytest.approx(wanted.low, abs=1e-5)
        assert found[f"privacy/face_similarity{tail}_high"].item() == pytest.approx(wanted.high, abs=1e-5)
        impostor = found[f"privacy/face_similarity_impostor{tail}"].item()
        assert impostor == pytest.approx(wanted.impostor, abs=1e-5)
        assert found[f"privacy/rank1{tail}"].item() == pytest.approx(wanted.rank1, abs=1e-6)


@pytest.mark.parametrize(("moving", "given"), [(False, 16), (True, 32)])
def test_a_judge_embeds_each_image_once(make_trainer: MakeTrainer, moving: bool, given: int) -> None:
    judge = Squares()
    make_trainer(FaceSimilarityReport(judge), epochs=3).fit(
        TinyModel(), datamodule=TinyData(LowerHalf(moving=moving))
    )
    assert judge.given == given  # eight clean faces, and eight desensitized ones as often as they are others


def test_an_attack_that_has_nothing_to_do_leaves_no_figures(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(FaceSimilarityReport(Squares(), attack=Telea()), epochs=1)
    trainer.fit(TinyModel(), datamodule=TinyData(Open()))
    assert trainer.callback_metrics["privacy/rank1"] == 1
    assert trainer.callback_metrics["privacy/face_similarity"].item() == pytest.approx(1, abs=1e-5)
    assert "privacy/rank1_restored" not in trainer.callback_metrics


def test_in_validate_and_test_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(FaceSimilarityReport(Squares()))
    (found,) = trainer.validate(TinyModel(), datamodule=TinyData(LeftHalf()), verbose=False)
    assert -1 <= found["privacy/face_similarity"] < 0.9
    (found,) = trainer.test(TinyModel(), datamodule=TinyData(), verbose=False)
    assert "privacy/rank1" in found


def test_through_the_command_line_and_into_the_table(
    tmp_path: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = write_config(tmp_path / "tiny.yaml", drawn_root, "ResNetMask")
    description = yaml.safe_load(config.read_text())
    description["trainer"]["max_epochs"] = 1
    description["trainer"]["callbacks"] = [
        {
            "class_path": "callbacks.FaceSimilarityReport",
            "init_args": {
                "judge": {"class_path": "tests.callbacks.test_face_similarity_report.Squares"},
                "attack": {"class_path": "lightning_app.attacks.Telea"},
                "images": 6,
            },
        }
    ]
    config.write_text(yaml.safe_dump(description))
    run_main("fit", "--config", str(config), "--runs", str(tmp_path / "runs"), "--name", "seen")
    told = capsys.readouterr().out
    for words in ("face similarity ", "face similarity of strangers, restored", "rank-1, restored"):
        assert words in told
    found: dict[str, float] = json.loads((tmp_path / "runs" / "seen" / "metrics.json").read_text())
    assert -1 <= found["privacy/face_similarity_low"] <= found["privacy/face_similarity"] <= 1


def test_bad_arguments_are_told(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="FaceSimilarityReport: images=1: give at least 2"):
        FaceSimilarityReport(Squares(), images=1)
    with pytest.raises(ValueError, match="FaceSimilarityReport needs a FaceDataModule"):
        make_trainer(FaceSimilarityReport(Squares())).validate(
            TinyModel(), TinyData().val_dataloader(), verbose=False
        )
    with pytest.raises(ValueError, match="takes 64 px, not 32"):
        make_trainer(FaceSimilarityReport(Large())).validate(
            TinyModel(), datamodule=TinyData(), verbose=False
        )
