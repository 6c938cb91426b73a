from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_app.commands.draw_mask_set import run
from lightning_app.masks import MaskLevels, mask_hash, save_mask
from lightning_app.masks.draw_set import LevelTask, draw_task
from tests.processes import fork_server

EDGES = ["0.1", "0.3", "0.5"]
LEVELS = ((0.1, 0.3), (0.3, 0.5))


def draw(root: Path, *more: str, per_level: int = 3, workers: int = 1) -> None:
    run(["--output", str(root), "--per-level", str(per_level), "--size", "64", "--levels", *EDGES, "--workers",
         str(workers), *more])  # fmt: skip


def pixels(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.png"))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("masks") / "levels"
    draw(root)
    return root


def test_a_folder_of_masks_in_levels(drawn: Path) -> None:
    assert list(pixels(drawn)) == [
        f"{level}/0000{k}.png" for level in ("0.1-0.3", "0.3-0.5") for k in range(3)
    ]
    for path in drawn.rglob("*.png"):
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("L", (64, 64))
            white = np.asarray(picture)
        assert set(np.unique(white)) == {0, 255}
        low, high = map(float, path.parent.name.split("-"))
        inset = 0.05 * (high - low)
        assert low + inset <= (white == 255).mean() <= high - inset, "white is what is hidden"
    for size in (64, 28, 56):
        assert list(MaskLevels(drawn, size, edges=LEVELS).counts.values()) == [3, 3]
    facts = json.loads((drawn / "set.json").read_text())
    found = MaskLevels(drawn, 64)
    assert facts["mask_hash"] == mask_hash(found.masks(torch.arange(6)))
    assert (facts["hidden"], facts["seed"], facts["masks"], facts["size"]) == ("white", 0, 6, [64, 64])
    assert facts["mask_ratio"]["0.1-0.3"] == pytest.approx(found.ratios[:3].mean().item(), abs=1e-6)


def test_ratios_are_spread_over_the_level(tmp_path: Path) -> None:
    assert draw_task(LevelTask(tmp_path, (0.2, 0.6), tuple(range(60)), 32, 1)) == 60
    ratios = MaskLevels(tmp_path, 32).ratios
    counts = torch.histc(ratios, 4, 0.2, 0.6)
    assert counts.min() >= 7, counts  # even: 15 each; a window as wide as the level leaves none in the last


def test_a_mask_is_a_function_of_seed_level_and_number(drawn: Path, tmp_path: Path) -> None:
    draw_task(LevelTask(tmp_path / "same", (0.3, 0.5), (2,), 64, 0))
    assert pixels(tmp_path / "same") == {"0.3-0.5/00002.png": pixels(drawn)["0.3-0.5/00002.png"]}
    draw_task(LevelTask(tmp_path / "seed", (0.3, 0.5), (2,), 64, 1))
    assert pixels(tmp_path / "seed") != pixels(tmp_path / "same")
    assert len(set(pixels(drawn).values())) == 6


@pytest.mark.slow
def test_two_processes_draw_what_one_does(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_app.masks.draw_set._CHUNK", 2)
    # two spawned processes would import torch, each by itself
    server = fork_server()
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: server)
    draw(tmp_path / "two", workers=2)
    assert pixels(tmp_path / "two") == pixels(drawn)


def test_a_second_start_draws_what_is_missing(drawn: Path, tmp_path: Path) -> None:
    root = tmp_path / "levels"
    draw(root, per_level=2)
    (root / "0.1-0.3/00001.png").unlink()
    (root / "0.3-0.5/.00001.png.x.tmp").write_bytes(b"what a kill left")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    draw(root, per_level=3)
    assert pixels(root) == pixels(drawn)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((root / "set.json").read_text())["per_level"] == 3


def test_another_set_is_not_replaced_unasked(tmp_path: Path) -> None:
    root = tmp_path / "levels"
    draw(root)
    before = pixels(root)
    with pytest.raises(FileExistsError, match="holds a set with seed 0, not 1; give --overwrite"):
        draw(root, "--seed", "1")
    with pytest.raises(FileExistsError, match="a set of 3 masks per level, not 2"):
        draw(root, per_level=2)
    assert pixels(root) == before
    draw(root, "--seed", "1", "--overwrite", per_level=2)
    assert len(pixels(root)) == 4
    assert not set(pixels(root).values()) & set(before.values())


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    draw(tmp_path)
    Image.new("L", (64, 64)).save(tmp_path / "mine.png")
    for more in ([], ["--overwrite"]):
        with pytest.raises(
            FileExistsError, match=r"of no set drawn here, such as mine\.png; give another --output"
        ):
            draw(tmp_path, *more)
    assert len(pixels(tmp_path)) == 7
    (tmp_path / "set.json").write_text("{")
    with pytest.raises(ValueError, match=r"set\.json is not JSON"):
        draw(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--per-level", "0"], "per-level: 0 is not a positive number of masks"),
        (["--levels", "0.2"], r"levels: \[0.2\] are no edges"),
        (["--levels", "0.3", "0.2"], r"levels: \[0.3, 0.2\] are no edges"),
        (["--levels", "0.3", "1.2"], r"levels: \[0.3, 1.2\] is not a range"),
        (["--size", "0"], "size: 0 is neither"),
        (["--workers", "0"], "workers: 0 is not a positive number"),
    ],
)
def test_bad_arguments(args: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(["--output", str(tmp_path / "levels"), *args])
    assert not (tmp_path / "levels").exists()


def test_help_explains_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    out = capsys.readouterr().out
    for words in (
        "--per-level",
        "--levels EDGE",
        "edges of the levels",
        "side of the masks",
        "replace the set",
    ):
        assert words in out


def test_templates_stay_visible_in_every_mask_of_theirs(drawn: Path, tmp_path: Path) -> None:
    boxes = []
    for k, at in enumerate((8, 36)):
        box = torch.zeros(1, 64, 64)
        box[:, at : at + 20, at : at + 20] = 1
        save_mask(box, tmp_path / f"t{k}.png")
        boxes.append(box)
    files = [str(tmp_path / "t0.png"), str(tmp_path / "t1.png")]
    root = tmp_path / "set"
    draw(root, "--templates", *files, per_level=4)
    found = MaskLevels(root, 64)
    assert len(found) == 8
    masks = found.masks(torch.arange(8))
    for number, file in enumerate(found.files):
        mine, other = (boxes[(int(Path(file).stem) + k) % 2] for k in (0, 1))
        assert bool((masks[number] >= mine).all()), file
        low, high = map(float, Path(file).parent.name.split("-"))
        assert low < float(found.ratios[number]) <= high
        assert not bool((masks[number] >= other).all()) or high < 0.4, file
    assert json.loads((root / "set.json").read_text())["templates"] == [mask_hash(box) for box in boxes]
    with pytest.raises(FileExistsError, match="holds a set with templates"):
        draw(root, "--templates", files[0])
    with pytest.raises(FileExistsError, match="holds a set with templates"):
        draw(root)
    with pytest.raises(ValueError, match="48×48"):
        run(["--output", str(tmp_path / "small"), "--size", "48", "--templates", *files])
    assert not (tmp_path / "small").exists()
