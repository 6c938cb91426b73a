"""Parts of `export` by themselves: which mask a checkpoint was trained under, and a folder that is there whole."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.readers.decode import fit
from lightning_app.desensitize import CentreBlock, Desensitizer, MaskOut
from lightning_app.export import find_model_input
from lightning_app.export.card import opening, plain_text, render, thresholds
from lightning_app.export.folder import check_output, folder_at_once
from lightning_app.export.source import TrainedRun, normalisation, read_run, training_data
from lightning_app.export.weights import to_safetensors
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.models import ResNet
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.report import write_metrics
from lightning_app.runs.checkpoint_bounds import check_described

SIZE = 32


def facts_of(folder: Path, desensitizer: Desensitizer | None, **data: Any) -> CheckpointFacts:
    description = None
    if desensitizer is not None:
        desensitizer.prepare((SIZE, SIZE))
        description = desensitizer.describe()
    return CheckpointFacts(folder / "checkpoints/last.ckpt", "ab", "ResNetFSM", SIZE, 3, 8,
                           {"desensitizer": description} | data)  # fmt: skip


def mask_file(path: Path, seed: int) -> Path:
    # wide visible parts, so that a guard leaves some
    save_mask(freeform_masks(1, SIZE, (0.2, 0.3), generator=torch.Generator().manual_seed(seed))[0], path)
    return path


def config(**data: Any) -> dict[str, Any]:
    return {"data": {"init_args": data}}


@pytest.mark.parametrize(
    "desensitizer",
    [CentreBlock(0.4), MaskOut(freeform=(0.7, 0.8), seed=4), MaskOut(freeform=(0.2, 0.3), seed=4, guard=1)],
    ids=["centre", "drawn", "guarded"],
)
def test_a_described_mask_is_made_again(tmp_path: Path, desensitizer: Any) -> None:
    model_input = find_model_input(facts_of(tmp_path, desensitizer), {}, None, gated=True)
    assert model_input.mask is not None
    assert torch.equal(model_input.mask, desensitizer.mask)
    assert (model_input.multiplies, model_input.chosen) == (True, False)


def test_a_masks_path_is_as_from_where_the_run_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MaskOut(mask=mask_file(tmp_path / "own.png", 1))
    facts = replace(facts_of(tmp_path, made), path=tmp_path / "runs/mine/checkpoints/last.ckpt")
    named = config(desensitizer={"class_path": "MaskOut", "init_args": {"mask": "own.png"}})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = find_model_input(facts, named, None, True)
    assert found.mask is not None
    assert made.mask is not None
    assert torch.equal(found.mask, made.mask)


@pytest.mark.parametrize("guard", [0, 1])
def test_a_mask_file_is_found_by_its_hash(tmp_path: Path, guard: int) -> None:
    own, other = mask_file(tmp_path / "own.png", 1), mask_file(tmp_path / "mask.png", 2)
    made = MaskOut(mask=own, guard=guard)
    facts = facts_of(tmp_path, made)
    named = config(desensitizer={"class_path": "MaskOut", "init_args": {"mask": str(own)}})
    for found in (find_model_input(facts, named, None, True), find_model_input(facts, {}, own, True)):
        assert found.mask is not None
        assert made.mask is not None
        assert torch.equal(found.mask, made.mask)
        assert "own" not in str(found.description)
    # the file was replaced, another lies in the released folder: neither is taken on trust
    replaced = config(
        desensitizer={"class_path": "MaskOut", "init_args": {"mask": str(other)}},
        reader={"class_path": "ReleasedFaces", "init_args": {"root": str(tmp_path)}},
    )
    with pytest.raises(
        ValueError, match=r"is not found \(.*mask\.png is another mask; .*\): give --mask PNG"
    ):
        find_model_input(facts, replaced, None, True)
    with pytest.raises(ValueError, match=r"no such file.*give --mask PNG"):
        find_model_input(
            facts, config(desensitizer={"init_args": {"mask": str(tmp_path / "gone.png")}}), None, False
        )
    own.rename(tmp_path / "mask.png")  # in the place of the other one
    assert (
        find_model_input(facts, {"data": {"init_args": replaced["data"]["init_args"]}}, None, True).mask
        is not None
    )


def test_a_checkpoint_that_tells_nothing(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, None)
    assert find_model_input(facts, {}, None, gated=False).mask is None
    with pytest.raises(ValueError, match="ResNetFSM whose checkpoint does not name its mask"):
        find_model_input(facts, {}, None, gated=True)
    assert find_model_input(facts, {}, mask_file(tmp_path / "m.png", 1), gated=True).chosen
    run = read_run(facts.path, facts)
    with pytest.raises(ValueError, match="give --mean and --std"):
        normalisation(facts, run, None, 0.5)
    assert normalisation(facts, run, 0.1, 0.2) == (0.1, 0.2)


def test_figures_of_other_weights_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    facts = facts_of(tmp_path, None)
    write_metrics(tmp_path / "metrics.json", {"lfw/accuracy": 0.9, "run/steps": 8, "run/model": "ResNet"})
    assert read_run(tmp_path, facts).metrics == {"lfw/accuracy": 0.9}
    write_metrics(tmp_path / "metrics.json", {"lfw/accuracy": 0.9, "run/steps": 16})
    assert read_run(tmp_path, facts).metrics == {}
    assert "is of step 16, the checkpoint of step 8" in caplog.text
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is no YAML"):
        read_run(tmp_path, facts)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    with folder_at_once(out) as folder:
        (folder / "a").write_text("one")
        assert not out.exists()
    assert (out / "a").read_text() == "one"

    def fails() -> None:
        with folder_at_once(out) as again:
            (again / "a").write_text("two")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fails()
    assert (out / "a").read_text() == "one"
    with folder_at_once(out) as folder:
        (folder / "b").write_text("three")
    assert [path.name for path in out.iterdir()] == ["b"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_output(out, {"b": "b"}, overwrite=False)
    check_output(out, {"b": "b"}, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        check_output(out / "b", {"b": "b"}, overwrite=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"brush": {"min_vertex": 1, "max_vertex": 10**9}}, "beyond all images"),
        ({"brush": {"max_brush_width": 1e9}}, "not a positive number of pixels"),
        ({"guard": 10**9}, "guard of 1000000000 px"),
        ({"guard": "x"}, "invalid literal"),
        ({"brush": 3}, "mapping"),
        ({"seed": 10**30}, "Overflow"),
    ],
)
def test_a_mask_that_a_checkpoint_describes_absurdly(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    description = {
        "method": "MaskOut",
        "freeform": [0.7, 0.8],
        "seed": 0,
        "brush": {},
        "mask_hash": "0" * 64,
    } | more
    facts = CheckpointFacts(tmp_path / "last.ckpt", "", "ResNet", 32, 3, 1, {"desensitizer": description})
    with pytest.raises(ValueError, match=rf"is not found \(its description: .*{said}"):
        find_model_input(facts, {}, None, gated=True)


HOSTILE = "<img src=x onerror=alert(1)>`|\n# [a](http://b) *c*"


def test_a_card_shows_hostile_names_letter_by_letter() -> None:
    """What a checkpoint and the config beside it say is neither HTML nor Markdown in the card, nor a row of its own."""
    card: dict[str, Any] = {
        "name": HOSTILE, "files": {}, "licence": HOSTILE, "trained_on": HOSTILE, "head": False, "figures": {},
        "desensitizer": {"method": HOSTILE, HOSTILE: HOSTILE}, "mask": None, "command": HOSTILE + "\n```\n<b>",
        "input": {"channels": 3, "size": 32, "mean": 0.5, "std": 0.5, "range": [0, 1], "pixels": 32},
        "output": {"dimensions": 512, "unit": True},
        "model": {"class": "ResNet", "backbone": HOSTILE, "insertion_points": [], "parameters": 3},
        "checkpoint": {"sha256": "0" * 64, "step": 3},
        "agreement": {"difference": 1e-5, "cosine": 1.0, "batches": [1]},
        "training": {"images": 1, "identities": 2, "steps": 3, "epochs": None, "precision": HOSTILE, "crop": [HOSTILE],
                     "federation": {"owners": 2, "partition": HOSTILE, "rounds": 1, "local_epochs": 1, "images": 1}},
        "measured_on": [{"name": HOSTILE, "list": HOSTILE, "flip": False}],
        "versions": {HOSTILE: HOSTILE},
    }  # fmt: skip
    text = render(card, [[HOSTILE, "0.77  [0.7, 0.8]"]])
    assert yaml.safe_load(text.split("---\n")[1])["license_name"] == "see-the-card"
    page, command = text.split("---\n", 2)[2].split("````\n", 1)
    outside = re.sub(r"``(?!`).+?``", "", page)  # code spans hold anything
    assert "<img" not in outside
    assert "&lt;img" in outside
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == ["# " + str(plain_text(HOSTILE)), *(h for h in headings[1:] if h.startswith("## "))]
    assert "](http" not in outside.replace("\\](http", "").replace("[FaceVeil](http", "")
    for line in (line for line in page.splitlines() if line.startswith("| ")):
        assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4), line
    assert command.rstrip().endswith("````")
    plain = dict(
        card, name="face", desensitizer={"method": "Mosaic", "block": 8}, versions={"torch": "2.14.1+cpu"}
    )
    assert "as in training: `Mosaic` (block 8). The graph does not desensitize" in render(plain, [])
    assert "torch 2.14.1+cpu." in render(plain, [])
    began = dict(plain, training={**card["training"], "origins": {"init_from": "0" * 64}})
    assert f"| began from the weights of | checkpoint of SHA-256 `{'0' * 64}`" in render(began, [])
    assert "began from" not in render(plain, [])
    assert "A face recogniser trained on desensitized faces" in render(plain, [])
    earlier = [{"method": "Identity"}, {"method": HOSTILE}]
    told = render(dict(plain, training={**card["training"], "earlier_desensitizers": earlier}), [])
    assert "A face recogniser trained on clean and desensitized faces" in told
    assert "| desensitizer in earlier epochs | Identity: clean faces |" in told
    assert f"| desensitizer in earlier epochs | {plain_text(HOSTILE)} |\n| desensitizer | Mosaic |" in told


def test_a_checkpoint_of_several_desensitizers_says_so(tmp_path: Path) -> None:
    """The clean one is first, whichever came first, and it goes along with the weights."""
    earlier = [{"method": "Mosaic", "block": 4}, {"method": "Identity"}]
    facts = facts_of(tmp_path, CentreBlock(0.5), earlier_desensitizers=earlier)
    assert training_data(facts, TrainedRun(tmp_path))["earlier_desensitizers"] == earlier[::-1]
    model = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=SIZE)
    (tmp_path / "model.safetensors").write_bytes(to_safetensors(model, facts, facts.desensitizer, 0.5, 0.5))
    assert read_recogniser(tmp_path / "model.safetensors")[1].data["earlier_desensitizers"] == earlier


@pytest.mark.parametrize("earlier", ["Identity", ["Identity"], [{}], [{"method": 3}]])
def test_earlier_desensitizers_of_another_kind_are_refused(earlier: object) -> None:
    with pytest.raises(
        ValueError, match=r"of its data is damaged: (earlier_desensitizers|desensitizer\.method)"
    ):
        check_described({"earlier_desensitizers": earlier}, "it")


@pytest.mark.parametrize(
    ("crop", "taken"),
    [
        (44, 44),
        ([1, 2, 45, 46], [1, 2, 45, 46]),
        ([HOSTILE] * 4, None),
        ([1, 2], None),
        ("44", None),
        (True, None),
    ],
)
def test_a_crop_of_the_config_is_numbers(crop: object, taken: object, tmp_path: Path) -> None:
    reader = {"class_path": "datamodules.FolderFaces", "init_args": {"crop": crop}}
    run = TrainedRun(tmp_path, {"data": {"init_args": {"reader": reader}}})
    facts = CheckpointFacts(tmp_path / "last.ckpt", "", "ResNet", 32, 3, 1, {})
    assert training_data(facts, run)["crop"] == taken


@pytest.mark.parametrize("crop", [None, 44, [3, 1, 47, 45]])
def test_the_cards_example_cuts_as_the_reader(crop: int | list[int] | None) -> None:
    card: dict[str, Any] = {
        "desensitizer": {"method": "Identity"}, "mask": None, "input": {"size": 32}, "training": {"crop": crop},
    }  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (51, 50, 3), np.uint8)
    found: dict[str, Any] = {"image": Image.fromarray(noise), "Image": Image}
    exec("\n".join(opening(card)), found)
    cut = crop if crop is None or isinstance(crop, int) else (crop[0], crop[1], crop[2], crop[3])
    wanted = fit(Image.fromarray(noise), cut, 32, "a.png")
    assert np.array_equal(np.asarray(found["image"]).transpose(2, 0, 1), wanted)
    # what is to be desensitized before is no photograph any more
    assert opening({**card, "desensitizer": {"method": "Mosaic", "block": 8}}) == []


@pytest.mark.parametrize(("low", "guessed"), [(0.55, False), (0.5, True), (None, False)])
def test_a_threshold_of_who_guesses_is_not_recommended(low: float | None, guessed: bool) -> None:
    ends = {} if low is None else {"own/accuracy_low": 0.6, "own/auc_low": low}
    card = {
        "figures": {"own/accuracy": 0.7, "own/threshold": 0.25, "lfw/accuracy": 0.9, **ends},
        "measured_on": [{"name": "own", "list": "my_pairs.csv"}],
    }
    assert thresholds(card) == [("my_pairs.csv", 0.25, guessed)], "lfw has none"
