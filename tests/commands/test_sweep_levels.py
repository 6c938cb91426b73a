from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import cosine_similarity
from torchmetrics.functional import spearman_corrcoef

from datamodules import FaceDataModule
from datamodules.verification.readers import PairFaces
from lightning_app.commands import draw_mask_set
from lightning_app.commands.sweep_levels import run
from lightning_app.desensitize import MaskOut
from lightning_app.masks import MaskLevels
from lightning_app.metrics import verification
from lightning_app.metrics.rank import rank_correlation
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.studies.sweep import Faces
from lightning_app.studies.sweep_levels import cells_of

LEVELS = [(0.1, 0.3), (0.3, 0.5)]
MODELS = ("plain", "gated")
Metrics = dict[str, Any]
Sweep = Callable[..., Metrics]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Masks in two levels, two recognisers with random weights, and the config of a sweep."""
    home = tmp_path_factory.mktemp("sweep")
    draw_mask_set.run(["--output", str(home / "masks"), "--per-level", "6", "--size", "64", "--levels", "0.1", "0.3",
                       "0.5", "--workers", "1"])  # fmt: skip
    torch.manual_seed(0)
    made: dict[str, Recogniser] = {
        "plain": ResNet(backbone="resnet18", width=8, num_classes=3, input_size=32),
        "gated": ResNetFSM(("layer1",), backbone="resnet18", width=8, num_classes=3, input_size=32),
    }
    for name, model in made.items():
        kept = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
        torch.save(kept, home / f"{name}.ckpt")
    config = {
        "checkpoints": {name: str(home / f"{name}.ckpt") for name in made},
        "masks": str(home / "masks"), "levels": [list(level) for level in LEVELS], "repeats": 2, "masks_ranked": 5,
        "root": str(drawn_root), "crop": 44, "size": 32, "batch_size": 20, "bootstrap": 20, "device": "cpu",
    }  # fmt: skip
    (home / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return home


@pytest.fixture(scope="module")
def swept(home: Path) -> Path:
    """The folder of a finished sweep."""
    run(["--config", str(home / "tiny.yaml"), "--runs", str(home / "runs")])
    return home / "runs" / "tiny"


@pytest.fixture
def again(home: Path, swept: Path, tmp_path: Path) -> Sweep:
    """Sweep with other options on a copy of the finished one: its `metrics.json`."""
    shutil.copytree(swept, tmp_path / "tiny")

    def sweep(*more: object) -> Metrics:
        run(["--config", str(home / "tiny.yaml"), "--runs", str(tmp_path), *map(str, more)])
        return figures_in(tmp_path / "tiny")

    return sweep


def figures_in(run_dir: Path) -> Metrics:
    metrics: Metrics = json.loads((run_dir / "metrics.json").read_text())
    return metrics


def cells_in(run_dir: Path) -> list[Metrics]:
    return [json.loads(line) for line in (run_dir / "cells.jsonl").read_text().splitlines()]


def bank_of(home: Path) -> MaskLevels:
    return MaskLevels(home / "masks", 32, LEVELS)


def test_accuracies_recompute_image_by_image(home: Path, swept: Path, drawn_root: Path) -> None:
    """One image at a time, from the PNG of its own mask, with PIL and plain arithmetic."""
    metrics, bank = figures_in(swept), bank_of(home)
    reader = PairFaces(drawn_root, crop=44, size=32)
    pairs = reader.pairs
    found: dict[str, dict[str, list[float]]] = {name: {} for name in MODELS}
    for name in MODELS:
        model, facts = read_recogniser(home / f"{name}.ckpt")
        for cell, numbers in cells_of(name, facts.sha256, bank, LEVELS, len(reader), 2, 0, seed=0):
            embeddings = []
            for i in range(len(reader)):
                image, mask = torch.from_numpy(reader.read(i).copy()).float() / 255, None
                if numbers is not None:
                    png = Image.open(home / "masks" / bank.files[int(numbers[i])])
                    hides = (
                        np.asarray(png)[1::2, 1::2] > 127
                    )  # the centre of pixel i of 32 is pixel 2i + 1 of 64
                    image[:, hides] = 0
                    mask = torch.from_numpy(~hides).float()[None, None]
                with torch.no_grad():
                    embeddings.append(model.embed((image[None] - 0.5) / 0.5, mask)[0])
            e = torch.stack(embeddings)
            result = verification(
                cosine_similarity(e[pairs.a], e[pairs.b]), pairs.same, pairs.folds, bootstrap=0
            )
            found[name].setdefault(cell["level"], []).append(result.accuracy)
    for level in ("none", "0.1-0.3", "0.3-0.5"):
        several = level != "none"
        for name in MODELS:
            # a batch of 20 adds up in another order than a batch of 1: at most one of 48 pairs may differ
            own = found[name][level]
            assert len(own) == (2 if several else 1)
            assert metrics[f"sweep/{name}/{level}/accuracy"] == pytest.approx(mean(own), abs=1e-9)
            spread = metrics[f"sweep/{name}/{level}/std"]
            assert spread == pytest.approx(stdev(own), abs=1e-9) if several else spread is None
            low, high = (metrics[f"sweep/{name}/{level}/accuracy_{end}"] for end in ("low", "high"))
            assert low <= mean(own) <= high
        deltas = [g - p for g, p in zip(found["gated"][level], found["plain"][level], strict=True)]
        assert metrics[f"sweep/delta/gated/{level}/accuracy"] == pytest.approx(mean(deltas), abs=1e-9)
        if several:
            assert metrics[f"sweep/delta/gated/{level}/std"] == pytest.approx(stdev(deltas), abs=1e-9)
    # figures that are all alike would show nothing
    assert len({round(value, 6) for by in found.values() for own in by.values() for value in own}) > 4


def test_single_masks_agree_with_the_datamodule(
    home: Path, swept: Path, drawn_root: Path, tmp_path: Path
) -> None:
    """The same mask on all images, through FaceDataModule and MaskOut as `fit` and `validate` do it."""
    reader = PairFaces(drawn_root, crop=44, size=32)
    images = reader.__getitems__(range(len(reader)))["image"]
    cells = [cell for cell in cells_in(swept) if cell["mask"]]
    assert [cell["level"] for cell in cells] == (["0.1-0.3"] * 3 + ["0.3-0.5"] * 2) * 2
    assert len({cell["mask"] for cell in cells}) == 5
    for number, cell in enumerate(cells):
        alone = tmp_path / str(number)
        alone.mkdir()
        shutil.copy(home / "masks" / cell["mask"], alone)
        data = FaceDataModule(reader, MaskOut(folder=alone, size=32))
        data.desensitizer.eval()
        batch = data.prepare(images)
        model, _ = read_recogniser(home / f"{cell['model']}.ckpt")
        with torch.no_grad():
            e = model.embed(batch["image"], batch["mask"], batch["mask_index"])
        scores = cosine_similarity(e[reader.pairs.a], e[reader.pairs.b])
        result = verification(scores, reader.pairs.same, reader.pairs.folds, bootstrap=0)
        assert cell["accuracy"] == pytest.approx(result.accuracy, abs=1e-9)
    metrics = figures_in(swept)
    a, b = (torch.tensor([c["accuracy"] for c in cells if c["model"] == name]) for name in MODELS)
    assert metrics["sweep/rank/masks"] == 5
    assert metrics["sweep/rank/gated/rho"] == pytest.approx(spearman_corrcoef(a, b).item(), abs=1e-5)


def test_what_a_sweep_leaves(swept: Path, home: Path) -> None:
    assert {p.name for p in swept.iterdir()} == {
        "cells.jsonl",
        "metrics.json",
        "table.csv",
        "sweep.png",
        "config.yaml",
    }
    metrics, rows = figures_in(swept), list(csv.DictReader((swept / "table.csv").open()))
    assert [row["level"] for row in rows] == ["none", "0.1-0.3", "0.3-0.5"]
    for row in rows:
        for name in MODELS:
            for figure in ("accuracy", "accuracy_high"):
                assert float(row[f"{name} {figure}"]) == metrics[f"sweep/{name}/{row['level']}/{figure}"]
        assert float(row["delta/gated accuracy"]) == metrics[f"sweep/delta/gated/{row['level']}/accuracy"]
    ratios = bank_of(home).ratios
    assert float(rows[1]["mask_ratio"]) == pytest.approx(ratios[ratios < 0.3].mean().item(), abs=1e-6)
    assert metrics["sweep/masks/0.3-0.5/count"] == 6
    assert (metrics["sweep/pairs"], metrics["sweep/repeats"]) == (48, 2)
    assert metrics["sweep/plain/checkpoint"] == read_recogniser(home / "plain.ckpt")[1].sha256
    with Image.open(swept / "sweep.png") as picture:
        assert picture.width > 1000, "two panels, since single masks were ranked"
    saved = yaml.safe_load((swept / "config.yaml").read_text())
    assert (saved["name"], saved["overwrite"], saved["repeats"]) == ("tiny", False, 2)
    assert tuple(saved["checkpoints"]) == MODELS, "their order says what differences are to"


def test_the_table_is_printed(
    again: Sweep, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    metrics = again()
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "0.3-0.5" in line)
    for name in MODELS:
        accuracy, std = (metrics[f"sweep/{name}/0.3-0.5/{figure}"] for figure in ("accuracy", "std"))
        assert f"{accuracy:.4f} ± {std:.4f}" in line
    assert f"{metrics['sweep/delta/gated/0.3-0.5/accuracy']:+.4f} ± " in line
    assert "Spearman's rho" in out


def test_only_what_is_missing_is_measured(
    again: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    measure = Faces.measure

    def counted(self: Faces, *args: Any) -> dict[str, float]:
        calls.append(1)
        return measure(self, *args)

    monkeypatch.setattr(Faces, "measure", counted)
    kept = tmp_path / "tiny" / "cells.jsonl"
    whole = kept.read_text()
    before = figures_in(tmp_path / "tiny")
    assert again() == before
    assert not calls, "a finished sweep measures nothing"
    lines = whole.splitlines(keepends=True)
    kept.write_text("".join(lines[:-3]) + lines[-3][:40])  # killed while writing
    after = again()
    assert len(calls) == 3
    before.pop("time/sweep_s"), after.pop("time/sweep_s")
    assert after == before
    clocked = [{k: v for k, v in cell.items() if k != "seconds"} for cell in map(json.loads, lines)]
    assert [
        {k: v for k, v in cell.items() if k != "seconds"} for cell in cells_in(tmp_path / "tiny")
    ] == clocked
    again("--repeats", 3)
    assert len(calls) == 3 + 2 * 2, "one more repeat of two levels for two recognisers"


def test_other_settings_are_refused_unless_overwritten(again: Sweep, tmp_path: Path) -> None:
    before = figures_in(tmp_path / "tiny")
    with pytest.raises(
        FileExistsError, match=r"tiny holds a sweep with other settings \(seed 0, not 1\): replace it"
    ):
        again("--seed", 1)
    with pytest.raises(FileExistsError, match=r"\(images "):
        again("--crop", 40)
    assert figures_in(tmp_path / "tiny") == before
    after = again("--seed", 1, "--overwrite", "--masks_ranked", 0, "--repeats", 1)
    assert "sweep/rank/masks" not in after
    assert after["sweep/plain/none/accuracy"] == before["sweep/plain/none/accuracy"]
    assert len(cells_in(tmp_path / "tiny")) == 2 * (1 + 2)
    (tmp_path / "tiny" / "cells.jsonl").unlink()
    with pytest.raises(FileExistsError, match=r"holds another run \(metrics.json\): choose another --name"):
        again("--overwrite")


def test_bad_input(home: Path, tmp_path: Path, drawn_root: Path) -> None:
    def refused(message: str, kind: type[Exception] = ValueError, **changed: object) -> None:
        config = yaml.safe_load((home / "tiny.yaml").read_text()) | changed
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        with pytest.raises(kind, match=message) as error:
            run(["--config", str(tmp_path / "bad.yaml"), "--runs", str(tmp_path / "runs")])
        assert "\n" not in str(error.value)

    gone, other = str(tmp_path / "gone.ckpt"), tmp_path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, other)
    refused(
        r"checkpoints\.a: checkpoint .*gone\.ckpt: no such file", FileNotFoundError, checkpoints={"a": gone}
    )
    refused(r"checkpoints\.a: checkpoint .*other\.ckpt: not of a recogniser", checkpoints={"a": str(other)})
    refused("checkpoints: 0; give at least 1", checkpoints={})
    refused("checkpoints: 'a/b' is no name", checkpoints={"a/b": gone})
    refused(
        r"levels: no mask in .* has a mask ratio in 0.5–0.6; there are 0.1–0.3: 6",
        levels=[[0.1, 0.3], [0.5, 0.6]],
    )
    refused("takes images of 3 channels and 32 px, not of 3 and 48 px", size=48)
    refused("no such folder of masks", FileNotFoundError, masks=str(tmp_path / "none"))
    refused("no such folder", FileNotFoundError, root=str(tmp_path / "none"))
    refused("repeats: 0; give at least 1", repeats=0)
    refused("std: 0.0; give a positive number", std=0)
    known = torch.load(home / "plain.ckpt", weights_only=True) | {"FaceDataModule": {"mean": 0.4, "std": 0.5}}
    torch.save(known, other)
    refused(
        r"checkpoints\.a: .*normalised with mean 0.4 and std 0.5; give mean and std so, not 0.5 and 0.5",
        checkpoints={"a": str(other)},
    )
    refused("name: '../x'; give a plain name", name="../x")
    refused("device: 'abacus' cannot be used", device="abacus")
    assert not (tmp_path / "runs").exists()


def test_rank_correlation_against_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 12, 40) / 12  # with ties
    b = np.round(a + rng.normal(0, 0.3, 40), 2)
    groups = np.repeat([0, 1], 20)
    found = rank_correlation(a, b, groups, 200)
    expected = spearman_corrcoef(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert found["rho"] == pytest.approx(expected, abs=1e-6)
    assert found["rho_low"] < found["rho"] < found["rho_high"]
    assert found == rank_correlation(a, b, groups, 200)


def test_rank_correlation_within_levels() -> None:
    # both fall from level to level, and within a level one falls as the other rises
    a, b = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([0.7, 0.8, 0.9, 0.4, 0.5, 0.6])
    groups = np.array([0, 0, 0, 1, 1, 1])
    found = rank_correlation(a, b, groups, 0)
    assert found["rho"] == pytest.approx(1 - 6 * (4 + 0 + 4 + 4 + 0 + 4) / (6 * 35))  # 1 − 6 Σd² / n(n² − 1)
    assert found["rho_within"] == pytest.approx(-1)
    assert np.isnan(found["rho_low"])
    assert np.isnan(rank_correlation(np.ones(6), b, groups, 5)["rho"])
