"""`search-mask` end to end, on a recogniser of six drawn people."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from datamodules import FaceDataModule, FolderFaces
from lightning_app.commands.search_mask import run
from lightning_app.desensitize import LearnedMask
from lightning_app.masks import freeform_masks, load_mask, mask_hash, save_mask
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.report.search import search_chart
from lightning_app.studies.faces import SCORED, drawn_numbers, load_faces
from lightning_app.studies.search_mask import report, study
from tests.command_line import RunMain, write_config
from tests.masker import write_masker


@pytest.fixture(autouse=True)
def _blank_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no picture but where a test asks for it: drawing takes longer than searching."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(report, "search_chart", lambda *rest: Image.new("RGB", (2, 2)))


@pytest.fixture
def picture() -> None:
    """Draw the picture as it is."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, fitted_clean: Path) -> Path:
    """A folder with `search.yaml`, which names the checkpoint of a clean model."""
    home = tmp_path_factory.mktemp("clean")
    text = yaml.safe_load((fitted_clean / "clean.yaml").read_text())
    search = {
        "checkpoint": str(fitted_clean / "runs/clean/checkpoints/last.ckpt"),
        "data": text["data"] | {"init_args": text["data"]["init_args"] | {"seed": 0}},
        "faces": 12, "candidates": 8, "images": 6, "min_images": 2, "ratio": [0.6, 0.8], "threshold": 0.7,
        "output": str(home / "masks"), "bf16": False,
    }  # fmt: skip
    (home / "search.yaml").write_text(yaml.safe_dump(search))
    return home


def _searched(home: Path, tmp_path: Path, *args: str) -> Path:
    run(["--config", str(home / "search.yaml"), "--output", str(tmp_path), *args])
    return tmp_path / "searched"


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "candidates.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("picture")
def test_the_mask_contains_the_template_and_its_figures_recompute(clean: Path, tmp_path: Path) -> None:
    folder = _searched(clean, tmp_path)
    facts = json.loads((folder / "mask.json").read_text())
    mask, template = load_mask(folder / "mask.png", 32), load_mask(folder / "template.png", 32)
    assert (mask >= template).all()
    assert 0.6 <= facts["mask_ratio"] <= 0.8
    assert facts["P"] == facts["mask_ratio"] == pytest.approx(1 - float(mask.mean()))
    assert (facts["T"], facts["K"], facts["template_from_private_faces"]) == (0.7, 12, 12)
    assert facts["held_out"] is True

    # F by hand: the checkpoint on the masked images, hidden pixels black before normalising
    text = yaml.safe_load((clean / "search.yaml").read_text())
    reader = FolderFaces(**text["data"]["init_args"]["reader"]["init_args"])
    data = FaceDataModule(reader, val_share=0.2, seed=0)
    data.setup("fit")
    assert data.held_out is not None
    pixels, labels = load_faces(data.held_out, drawn_numbers(len(data.held_out), 6, SCORED, 0, "images"))
    model, description = read_recogniser(text["checkpoint"])
    model.eval()
    with torch.no_grad():
        loss = F.cross_entropy(model((pixels.float() / 255 * mask - 0.5) / 0.5), labels)
    assert facts["F"] == pytest.approx(float(loss), rel=1e-4)
    assert facts["objective"] == pytest.approx(facts["F"] - facts["P"], abs=1e-9)
    assert facts["checkpoint"] == description.sha256

    scored = [row for row in _rows(folder) if row["objective"]]
    best = min(scored, key=lambda row: float(row["objective"]))
    assert int(best["number"]) == facts["number"]
    assert float(best["objective"]) == pytest.approx(facts["objective"], abs=1e-4)
    assert all(0.6 <= float(row["P"]) <= 0.8 for row in _rows(folder))
    for name in ("search.png", "saliency.png"):
        Image.open(folder / name).verify()
    assert Image.open(folder / "search.png").width > 1000
    assert json.loads((folder / "metrics.json").read_text())["search/F"] == pytest.approx(facts["F"])


def test_the_same_seed_gives_the_same_mask_and_a_killed_search_goes_on(clean: Path, tmp_path: Path) -> None:
    first = _searched(clean, tmp_path / "a")
    again = _searched(clean, tmp_path / "b", "--seed", "0")
    other = _searched(clean, tmp_path / "c", "--seed", "1")
    digest = [json.loads((f / "mask.json").read_text())["mask_hash"] for f in (first, again, other)]
    assert digest[0] == digest[1] != digest[2]

    half = tmp_path / "d" / "searched"  # killed: half of the journal, no mask
    half.mkdir(parents=True)
    lines = (first / "search.jsonl").read_text().splitlines(keepends=True)
    (half / "search.jsonl").write_text("".join(lines[: len(lines) // 2]) + lines[-1][:9])
    resumed = json.loads((_searched(clean, tmp_path / "d") / "mask.json").read_text())
    whole = json.loads((first / "mask.json").read_text())
    assert resumed["mask_hash"] == digest[0]
    assert resumed["passes"] == whole["passes"] == whole["passes_made"]
    assert 0 < resumed["passes_made"] < whole["passes"]


def test_in_bf16_the_figures_are_those_of_fp32(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _searched(clean, tmp_path, "--bf16", "true", "--strategy", "random")
    facts = json.loads((folder / "mask.json").read_text())
    row = next(row for row in _rows(folder) if int(row["number"]) == facts["number"])
    assert facts["bf16"] is True
    assert float(row["F"]) != facts["F"]
    assert float(row["F"]) == pytest.approx(facts["F"], rel=0.03)
    # by default as the device has it
    monkeypatch.setattr(study, "computes_in", lambda dtype, device: False)
    exact = _searched(clean, tmp_path / "exact", "--strategy", "random", "--bf16", "null")
    assert json.loads((exact / "mask.json").read_text())["bf16"] is False
    ours = next(float(row["F"]) for row in _rows(exact) if int(row["number"]) == facts["number"])
    assert facts["F"] == pytest.approx(ours, rel=1e-4)


def test_a_killed_search_that_replaces_goes_on_and_another_gamma_takes_its_scores(
    clean: Path, tmp_path: Path
) -> None:
    folder = _searched(clean, tmp_path)
    journal, once = folder / "search.jsonl", json.loads((folder / "mask.json").read_text())
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:4]))
    again = json.loads((_searched(clean, tmp_path, "--overwrite") / "mask.json").read_text())
    assert again["mask_hash"] == once["mask_hash"]
    assert 0 < again["passes_made"] < again["passes"] == once["passes"]
    free = ["--overwrite", "--strategy", "random", "--gamma"]
    made = [
        json.loads((_searched(clean, tmp_path, *free, g) / "mask.json").read_text()) for g in ("0", "1e6")
    ]
    assert made[0]["passes_made"] == made[0]["passes"] > made[1]["passes_made"] == 0
    rows = [(float(row["F"]), float(row["P"])) for row in _rows(folder)]
    assert made[0]["F"] == pytest.approx(min(F for F, _ in rows), abs=1e-4)
    assert made[1]["P"] == pytest.approx(max(P for _, P in rows), abs=1e-4)
    assert made[0]["F"] <= made[1]["F"]


def test_the_facts_say_how_template_and_candidates_were_made(clean: Path, tmp_path: Path) -> None:
    args = [
        "--target",
        "mate",
        "--explainer_args",
        '{"layer": "layer1"}',
        "--brushes.max_angle",
        "[200, 300]",
    ]
    facts = json.loads((_searched(clean, tmp_path, *args) / "mask.json").read_text())
    assert facts["explainer_args"] == {"layer": "layer1"}
    assert facts["attribute_args"] == {}
    assert facts["min_images"] == 2
    assert facts["brushes"]["max_angle"] == [200, 300]
    assert facts["ratio"] == [0.6, 0.8]
    assert 12 < facts["template_from_private_faces"] <= 24  # the mates are private faces as well


def test_the_picture_shows_twelve_candidates_scored_on_all_images_or_not(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def figure(masks: list[tuple[str, object]], *rest: object) -> Image.Image:
        shown.extend(caption for caption, _ in masks)
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(report, "search_chart", figure)
    _searched(clean, tmp_path, "--candidates", "14")
    assert len(shown) == 12
    estimates = [caption.splitlines()[1:] for caption in shown]
    assert estimates[0] == []
    assert ["on 2 of 6 images"] in estimates
    sizes = [6 if not lines else int(lines[0].split()[1]) for lines in estimates]
    assert sizes == sorted(sizes, reverse=True)


def test_gamma_moves_the_choice(clean: Path, tmp_path: Path) -> None:
    args = ["--strategy", "random", "--gamma"]
    none, huge = (_searched(clean, tmp_path / g, *args, g) for g in ("0", "1e6"))
    rows = _rows(none)
    facts = [json.loads((f / "mask.json").read_text()) for f in (none, huge)]
    assert facts[0]["number"] == int(min(rows, key=lambda row: float(row["F"]))["number"])
    assert facts[1]["P"] == pytest.approx(max(float(row["P"]) for row in rows))


def test_without_ebp_there_is_no_template(clean: Path, tmp_path: Path) -> None:
    folder = _searched(clean, tmp_path, "--ebp", "false")
    assert not (folder / "template.png").exists()
    facts = json.loads((folder / "mask.json").read_text())
    assert facts["template_from_private_faces"] == 0
    assert "T" not in facts


@pytest.mark.slow
def test_a_captum_method_and_a_mate_as_target(clean: Path, tmp_path: Path) -> None:
    gradients = ["--explainer", "captum.attr.IntegratedGradients", "--attribute_args", '{"n_steps": 4}']
    cam = ["--explainer", "captum.attr.LayerGradCam", "--explainer_args", '{"layer": "backbone.layer3"}']
    asked = {"ig": gradients, "cam": cam, "mate": ["--target", "mate"], "igmate": [*gradients, "--target", "mate"],
             "early": ["--explainer_args", '{"layer": "relu"}']}  # fmt: skip
    maps = [(_searched(clean, tmp_path / k, *v) / "saliency.png").read_bytes() for k, v in asked.items()]
    assert len(set(maps)) == len(asked)


def test_search_in_a_given_set(clean: Path, tmp_path: Path) -> None:
    for number, mask in enumerate(freeform_masks(6, 32, (0.41, 0.49))):
        save_mask(mask, tmp_path / "set" / f"{number}.png")
    given = {"folder": str(tmp_path / "set"), "level": [0.4, 0.5], "hidden": "black"}
    folder = _searched(clean, tmp_path, "--given", json.dumps(given), "--strategy", "random")
    facts = json.loads((folder / "mask.json").read_text())
    given_file = facts["given"].pop("file")
    assert facts["given"] == {"folder": "set", "level": [0.4, 0.5]}, "no path leaves the house"
    assert torch.equal(load_mask(tmp_path / "set" / given_file, 32), load_mask(folder / "mask.png", 32))
    assert str(tmp_path) not in (folder / "mask.json").read_text()
    assert "ratio" not in facts, "a given set is not asked for one"
    assert (facts["ebp"], facts["template_from_private_faces"]) == (False, 0)
    assert not (folder / "template.png").exists()
    found = load_mask(folder / "mask.png", 32)
    assert any(torch.equal(found, load_mask(p, 32)) for p in (tmp_path / "set").glob("*.png"))
    assert len(_rows(folder)) == 6
    with pytest.raises(ValueError, match=r"no mask in .*set has a mask ratio in 0\.1–0\.2"):
        _searched(clean, tmp_path / "x", "--given", json.dumps(given | {"level": [0.1, 0.2]}))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--faces", "4000"], r"faces: K=4000: the set has \d+ images; give a number from 1 to"),
        (["--threshold", "1"], r"threshold: 1\.0 is not in \[0, 1\)"),
        (["--threshold", "0.01", "--ratio", "0.9", "0.99"], "ratio"),
        (["--checkpoint", "gone.ckpt"], r"gone\.ckpt: no such file"),
        (
            ["--explainer", "captum.attr.Nothing"],
            r"explainer=captum\.attr\.Nothing: no such class",
        ),
        (["--explainer", "torch.nn.Linear"], "not a captum Attribution"),
        (["--explainer_args", '{"layer": "x"}'], "layer: 'x' is not one a map is read from"),
        (["--name", "a/b"], "name 'a/b': give a plain name"),
        (
            ["--data.mean", "0", "--data.std", "1"],
            "normalised with mean 0.5 and std 0.5; give mean and std so, not 0 and 1",
        ),
        (["--data.reader.size", "48"], "trained on 32 px images, these have 48 px"),
        (["--data.reader.min_images", "100"], "min_images"),
    ],
)
def test_bad_input_is_told(clean: Path, tmp_path: Path, args: list[str], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        _searched(clean, tmp_path, *args)
    assert not list(tmp_path.rglob("mask.png"))


def test_a_mask_is_not_replaced_unasked(clean: Path, tmp_path: Path) -> None:
    folder = _searched(clean, tmp_path)
    with pytest.raises(FileExistsError, match="holds a mask already: give --overwrite"):
        _searched(clean, tmp_path)
    before = (folder / "mask.json").read_text()
    with pytest.raises(ValueError, match="out of reach"):  # what was there stays
        _searched(clean, tmp_path, "--overwrite", "--threshold", "0.01", "--ratio", "0.9", "0.99")
    assert (folder / "mask.json").read_text() == before
    _searched(clean, tmp_path, "--overwrite", "--seed", "5")
    assert (folder / "mask.json").read_text() != before
    _searched(clean, tmp_path, "--overwrite", "--ebp", "false")
    assert not list(folder.glob("template.*")) + list(folder.glob("saliency.png"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--data.seed", "3"), r"data\.seed 0, here 3"),
        (("--data.val_share", "0.3"), r"data\.val_share 0\.2, here 0\.3"),
        (("--data.reader.max_images", "7"), "images 48, here 42"),
    ],
)
def test_a_checkpoint_of_other_held_out_images_is_refused(
    clean: Path, tmp_path: Path, other: tuple[str, str], named: str
) -> None:
    with pytest.raises(
        ValueError, match=rf"checkpoint .* was made with other data \({named}.*held-out images may be"
    ):
        _searched(clean, tmp_path, *other)
    assert not (tmp_path / "searched").exists()


@pytest.mark.slow
def test_what_says_little_is_warned_of(
    clean: Path, fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "faceveil"):
        _searched(clean, tmp_path / "a")
    assert not any("held out" in r.message or "val_share" in r.message for r in caplog.records)
    facts = json.loads((tmp_path / "a/searched/mask.json").read_text())
    told = any("above chance (log 6 = 1.79)" in record.message for record in caplog.records)
    assert told == (facts["F"] > math.log(6))
    copytree(fitted / "runs", tmp_path / "runs")
    desensitized = tmp_path / "runs/tiny/checkpoints/last.ckpt"
    with caplog.at_level(logging.WARNING, "faceveil"):
        _searched(clean, tmp_path / "c", "--data.val_share", "0")
        _searched(clean, tmp_path / "e", "--scorer", str(desensitized))
    said = [record.message for record in caplog.records]
    assert any("val_share holds no image out" in line for line in said)
    assert not any("trained on desensitized" in line for line in said)  # a scorer may be
    facts = json.loads((tmp_path / "e/searched/mask.json").read_text())
    assert facts["scorer"] != facts["checkpoint"]


@pytest.mark.parametrize("args", [["--gamma", "-1"], ["--threshold", "1"], ["--ratio", "0.8", "0.6"]])
def test_settings_are_refused_before_any_face_is_read(
    clean: Path, tmp_path: Path, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "read_recogniser", lambda *rest: pytest.fail("too late"))
    with pytest.raises(ValueError, match=args[0].strip("-")):
        _searched(clean, tmp_path, *args)


def test_a_checkpoint_of_desensitized_faces_is_warned_of(
    clean: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "desensitized.yaml", drawn_root, "ResNetMask")
    text = yaml.safe_load(config.read_text())
    text["trainer"] |= {"callbacks": [], "max_epochs": 1}
    config.write_text(yaml.safe_dump(text))
    run_main("fit", "--config", config)
    with caplog.at_level(logging.WARNING, "faceveil"):
        _searched(clean, tmp_path, "--checkpoint", str(tmp_path / "runs/desensitized"))
    said = [record.getMessage() for record in caplog.records]
    assert any(
        "was trained on desensitized faces: its saliency shows what the desensitizer left" in s for s in said
    )


def test_a_maskers_mask_joins_the_candidates(
    clean: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    masker = write_masker(tmp_path / "masker.ckpt", size=32)
    folder = _searched(clean, tmp_path / "a", "--from_masker", str(masker))
    assert "does not tell which images its masker held out" in caplog.text
    rows = {int(row["number"]): row for row in _rows(folder)}
    learned = LearnedMask(masker, 0.4)
    learned.prepare((32, 32))
    assert learned.mask is not None
    assert sorted(rows) == list(range(9)), "the eight drawn ones stay as they are"
    assert rows[8]["mask_hash"] == mask_hash(learned.mask)
    plain = {int(row["number"]): row for row in _rows(_searched(clean, tmp_path / "b"))}
    assert [rows[n]["mask_hash"] for n in range(8)] == [plain[n]["mask_hash"] for n in range(8)]
    facts = json.loads((folder / "mask.json").read_text())
    assert facts["from_masker"]["masker_hash"] == learned.describe()["masker_hash"]
    assert facts["from_masker"]["found"] == (facts["number"] == 8)
    own, others = rows[8], [row for number, row in rows.items() if number != 8]
    longer = sum(int(row["images"]) > int(own["images"]) for row in others)
    alike = [row for row in others if row["images"] == own["images"]]
    score = float(own["objective"] or own["estimate"])
    better = sum(float(row["objective"] or row["estimate"]) < score for row in alike)
    assert facts["from_masker"]["place"] == 1 + longer + better
    assert (facts["from_masker"]["of"], facts["from_masker"]["images"]) == (9, int(own["images"]))
    assert f"The masker's mask is candidate 8: F {float(own['F']):.4f} on" in caplog.text
    assert str(tmp_path) not in json.dumps(facts)

    alone = _searched(clean, tmp_path / "c", "--from_masker", str(masker), "--candidates", "1", "--gamma", "0",
                      "--ratio", "0.30", "0.31", "--threshold", "0.9", "--strategy", "random")  # fmt: skip
    best = min(_rows(alone), key=lambda row: float(row["objective"]))
    facts = json.loads((alone / "mask.json").read_text())
    assert facts["number"] == int(best["number"])
    assert facts["from_masker"]["found"] == ("candidate" not in facts)


@pytest.mark.parametrize("other", [["--strategy", "evolve"], ["--given.folder", "masks"]])
def test_a_maskers_mask_joins_drawn_candidates_alone(other: list[str], clean: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from_masker: joins drawn candidates"):
        _searched(clean, tmp_path, "--from_masker", "gone.ckpt", *other)


@pytest.mark.usefixtures("picture")
def test_finals_choose_by_training(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best three by F − γ·P are trained under; killed, they go on; the search before is not made again."""
    captions: list[str] = []
    first = search_chart

    def figure(masks: Any, *rest: Any) -> Image.Image:
        captions.extend(caption for caption, _ in masks)
        return first(masks, *rest)

    monkeypatch.setattr(report, "search_chart", figure)
    options = ("--strategy", "random", "--finalists", "3", "--finalist_images", "20", "--finalist_lr", "0.05")
    folder = _searched(clean, tmp_path, *options)
    with (folder / "finalists.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_F = sorted(_rows(folder), key=lambda row: float(row["objective"]))[:3]
    assert {row["number"] for row in rows} == {row["number"] for row in by_F}
    assert [(row["place"], row["passes"]) for row in rows] == [("1", "2"), ("2", "2"), ("3", "1")]
    for row in rows:
        assert by_F[int(row["place_by_F"]) - 1]["number"] == row["number"]
        assert float(row["objective_trained"]) == pytest.approx(
            float(row["F_trained"]) - float(row["P"]), abs=1e-9
        )
    facts = json.loads((folder / "mask.json").read_text())
    found = json.loads((folder / "metrics.json").read_text())
    chosen = rows[0]
    assert (facts["finalists"], facts["finalist_images"], facts["finalist_passes"]) == (3, 20, 2)
    assert str(facts["number"]) == chosen["number"]
    assert facts["F_trained"] == found["search/F_trained"] == float(chosen["F_trained"])
    assert facts["place_by_F"] == int(chosen["place_by_F"])
    of_it = next(row for row in _rows(folder) if row["number"] == chosen["number"])
    assert facts["mask_hash"] == mask_hash(load_mask(folder / "mask.png", 32)) == of_it["mask_hash"]
    assert facts["candidate"]["number"] == facts["number"]
    assert captions[0].endswith(f"F {float(chosen['F_trained']):.3f} after 2 passes under it")

    journal = folder / "finals.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 3 + 2
    journal.write_text("".join(lines[:3]))
    (folder / "mask.png").unlink()
    again = json.loads((_searched(clean, tmp_path, *options) / "mask.json").read_text())
    assert (again["mask_hash"], again["passes_made"]) == (facts["mask_hash"], 0)
    assert again["F_trained"] == pytest.approx(facts["F_trained"], rel=1e-3)
    assert journal.read_text().splitlines()[:3] == [line.strip() for line in lines[:3]]


def test_finals_that_cannot_be_are_refused_at_once(clean: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--finalists", "1"), "finalists: 1; give 0 for none, or at least 2"),
        (("--finalists", "4", "--finalist_lr", "0"), "finalist_lr: 0 is no learning rate; give one above 0"),
        (("--finalists", "4", "--finalist_images", "1"), "finalist_images: 1; give at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            _searched(clean, tmp_path, *options)
        assert not (tmp_path / "searched").exists()
    with pytest.raises(
        ValueError, match=r"finalists: data\.val_share holds no image out.*give data\.val_share 0\.2"
    ):
        _searched(clean, tmp_path, "--finalists", "2", "--data.val_share", "0", "--data.other_data", "accept")
    assert not (tmp_path / "searched").exists()
    with pytest.raises(ValueError, match="finalists: one candidate alone was scored on all images"):
        _searched(clean, tmp_path, "--finalists", "2", "--strategy", "random", "--candidates", "1")
