from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_app.commands.draw_mask import run
from lightning_app.masks import freeform_masks, load_mask, mask_hash, mask_ratio


def test_draws_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "masks" / "free76.png"
    run(["--ratio", "0.74", "0.78", "--size", "64", "--seed", "3", "--output", str(path)])
    mask = load_mask(path, 64)
    ratio = mask_ratio(mask)
    assert isinstance(ratio, float)
    assert 0.74 <= ratio <= 0.78
    assert torch.equal(mask, freeform_masks(1, 64, generator=torch.Generator().manual_seed(3))[0])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"mask ratio {ratio:.4f}, 64×64, seed 3" in out
    assert out.endswith(f"{path}\n")
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts.pop("version")
    assert facts.pop("file_hash")
    assert facts == {
        "mask_ratio": ratio,
        "size": [64, 64],
        "mask_hash": mask_hash(mask),
        "method": "freeform",
        "seed": 3,
        "ratio": [0.74, 0.78],
        "min_vertex": 4,
        "max_vertex": 11,
        "max_length": 90.0,
        "max_brush_width": 40.0,
        "max_angle": 360.0,
        "strokes": "hide",
    }


def test_the_five_parameters_reach_the_generator(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    five = {"min_vertex": 2, "max_vertex": 3, "max_length": 40.0, "max_brush_width": 30.0, "max_angle": 90.0}
    args = [word for name, value in five.items() for word in (f"--{name}", str(value))]
    run([*args, "--ratio", "0.5", "0.6", "--size", "64", "--strokes", "reveal", "--output", str(path)])
    generator = torch.Generator().manual_seed(0)
    expected = freeform_masks(1, 64, (0.5, 0.6), 2, 3, 40.0, 30.0, 90.0, "reveal", generator)[0]
    assert torch.equal(load_mask(path), expected)
    assert five.items() <= json.loads(path.with_suffix(".json").read_text()).items()


def test_never_replaces_unasked(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    args = ["--size", "32", "--output", str(path)]
    run(args)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"m\.png is there already; give --overwrite"):
        run([*args, "--seed", "1"])
    assert path.read_bytes() == before
    run([*args, "--seed", "1", "--overwrite"])
    assert path.read_bytes() != before
    path.unlink()
    with pytest.raises(FileExistsError, match=r"m\.json is there already"):
        run(args)


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"ratio: \[0.9, 0.2\] is not a range"):
        run(["--ratio", "0.9", "0.2", "--output", path])
    with pytest.raises(ValueError, match=r"seed: 9{26}; give a whole number of 64 bits"):
        run(["--seed", "9" * 26, "--output", path])
    with pytest.raises(
        ValueError, match=r"max_brush_width: 1e\+308 is not a positive number of pixels, up to 10,000"
    ):
        run(["--max_brush_width", "1e308", "--output", path])
    with pytest.raises(ValueError, match=r"output: m\.jpg does not end in \.png"):
        run(["--output", "m.jpg"])
    for args, message in ((["--ratio", "0.9"], "expected 2 arguments"), (["--size", "big"], "size")):
        with pytest.raises(SystemExit) as error:
            run(args)
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_help_explains_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    out = capsys.readouterr().out
    for words in ("--ratio LOW HIGH", "lowest and highest mask ratio", "side of the mask", "widest brush"):
        assert words in out


def test_a_rectangle_hides_all_outside_it(tmp_path: Path) -> None:
    path = tmp_path / "box.png"
    run(["--rectangle", "10", "20", "50", "44", "--size", "64", "--output", str(path)])
    expected = torch.zeros(1, 64, 64)
    expected[:, 20:44, 10:50] = 1
    assert torch.equal(load_mask(path, 64), expected)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (facts["method"], facts["rectangle"]) == ("rectangle", [10, 20, 50, 44])
    with pytest.raises(ValueError, match=r"rectangle 10 20 90 44: need 0 <= left < right <= 64"):
        run(["--rectangle", "10", "20", "90", "44", "--size", "64", "--output", str(tmp_path / "b.png")])
