"""`rank-scorers` end to end, on a recogniser of six drawn people and an ablation's recorded accuracies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from datamodules import FaceDataModule, FolderFaces
from lightning_app.commands.rank_scorers import run
from lightning_app.masks import freeform_masks, load_mask, mask_hash, save_mask
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.report import write_metrics
from lightning_app.studies.faces import SCORED, drawn_numbers, load_faces
from tests.command_line import RunMain

RATIOS = [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6), (0.7, 0.8), (0.85, 0.95)]


@pytest.fixture
def home(tmp_path: Path, fitted_clean: Path, run_main: RunMain) -> Path:
    """A clean checkpoint, five masks, and an ablation over them that says the fewer hidden the better."""
    fit = Path(shutil.copy(fitted_clean / "clean.yaml", tmp_path))
    text = yaml.safe_load(fit.read_text())
    shutil.copytree(fitted_clean / "runs", tmp_path / "runs")
    variants, metrics = {}, {}
    for number, ratio in enumerate(RATIOS):
        drawn = freeform_masks(1, 32, ratio, generator=torch.Generator().manual_seed(number))[0]
        save_mask(drawn, tmp_path / f"m{number}.png")
        variants[f"mask {number}"] = {"mask": f"m{number}.png"}
        record = tmp_path / f"runs/five/jobs/mask_{number}_resnet-mask_s0.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"args": [], "mask_hash": mask_hash(drawn)}))
        metrics[f"ablation/mask {number}/resnet-mask/accuracy"] = 0.9 - number / 10
    ablation = {"name": "five", "variants": variants, "systems": {"resnet-mask": {"config": str(fit)}}}
    (tmp_path / "five.yaml").write_text(yaml.safe_dump(ablation))
    write_metrics(tmp_path / "runs/five/metrics.json", metrics)
    ranked = {
        "ablation": "five.yaml",
        "scorers": {"clean": "runs/clean/checkpoints/last.ckpt"},
        "data": text["data"] | {"init_args": text["data"]["init_args"] | {"seed": 0}},
        "images": 6,
        "bootstrap": 50,
    }
    (tmp_path / "rank.yaml").write_text(yaml.safe_dump(ranked))
    return tmp_path


def test_rho_is_that_of_losses_recomputed_by_hand(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["--config", "rank.yaml"])
    found = json.loads(Path("runs/five/scorers.json").read_text())
    text = yaml.safe_load((home / "rank.yaml").read_text())
    data = FaceDataModule(
        FolderFaces(**text["data"]["init_args"]["reader"]["init_args"]), val_share=0.2, seed=0
    )
    data.setup("fit")
    assert data.held_out is not None
    pixels, labels = load_faces(data.held_out, drawn_numbers(len(data.held_out), 6, SCORED, 0, "images"))
    model, _ = read_recogniser(text["scorers"]["clean"])
    losses = []
    for number in range(len(RATIOS)):
        mask = load_mask(f"m{number}.png", 32)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model((pixels.float() / 255 * mask - 0.5) / 0.5), labels)))
        assert found[f"scorers/clean/mask {number}/F"] == pytest.approx(losses[-1], rel=1e-4)
    # accuracy falls with the number, so rho of −F and accuracy is 1 − 6 Σd²/(n(n²−1)) with these ranks
    ranks = [sorted(losses).index(loss) for loss in losses]
    d2 = sum((rank - number) ** 2 for number, rank in enumerate(ranks))
    assert found["scorers/clean/resnet-mask/rho"] == pytest.approx(1 - 6 * d2 / (5 * 24))
    assert found["scorers/masks"] == 5
    assert "rho" in capsys.readouterr().out
    assert Image.open("runs/five/scorers.png").size[0] > 300


def test_an_ablation_that_was_not_run_is_refused(home: Path, run_main: RunMain) -> None:
    Path("runs/five/metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"five has no metrics.json; run `python main.py ablate"):
        run(["--config", "rank.yaml"])


def test_a_mask_that_was_replaced_after_training_is_refused(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record = Path("runs/five/jobs/mask_0_resnet-mask_s0.json")
    now, then = mask_hash(load_mask("m1.png")), json.loads(record.read_text())["mask_hash"]
    save_mask(load_mask("m1.png"), "m0.png")
    with pytest.raises(
        ValueError, match=rf"mask m0\.png: its hash is {now[:12]}…, .* {then[:12]}… \({record}\)"
    ):
        run(["--config", "rank.yaml"])
    record.unlink()
    with caplog.at_level("WARNING", "faceveil"):
        run(["--config", "rank.yaml", "--bootstrap", "2"])
    assert "cannot be checked, their runs left no record: mask 0." in caplog.text


def test_three_masks_are_too_few(home: Path) -> None:
    write_metrics(
        "runs/five/metrics.json", {f"ablation/mask {n}/resnet-mask/accuracy": 0.5 + n / 10 for n in range(3)}
    )
    with pytest.raises(ValueError, match=r"3 masks have an accuracy .* needs 4 or more"):
        run(["--config", "rank.yaml"])
