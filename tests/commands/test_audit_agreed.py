"""`audit` of what was agreed on: a mask, how much it hides, and the owner's config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from lightning_app.masks import guarded, mask_hash, save_mask
from tests.command_line import RunMain, refused
from tests.commands.audited import found, verdict
from tests.release.by_hand import CROP, SIZE, oval, relist, write_release


def test_the_mask_that_was_agreed_on(made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain) -> None:
    root = made / "masked"
    other = tmp_path / "other.png"
    save_mask(oval().roll(1, -1), other)
    run_main(
        "audit",
        root,
        "--mask",
        root / "mask.png",
        "--mask-hash",
        mask_hash(oval()),
        "--min-mask-ratio",
        "0.7",
    )
    report = found(run_main, root, "--mask", other, "--min-mask-ratio", "0.72")
    assert report == {
        "mask.png": [
            "hides 0.7188 of the pixels, less than --min-mask-ratio 0.72",
            "is not the mask that was agreed on (--mask)",
        ]
    }
    assert found(run_main, root, "--mask-hash", "ab" * 32) == {
        "mask.png": ["is not the mask that was agreed on (--mask-hash)"]
    }
    args = ("--mask", other, "--mask-hash", "ab" * 32, "--min-mask-ratio", "0.5")
    assert found(run_main, made / "blurred", *args) == {
        "manifest.json": [
            f"it has no mask, but {option} was agreed on"
            for option in ("--mask", "--mask-hash", "--min-mask-ratio")
        ]
    }
    larger = tmp_path / "larger.png"
    save_mask(torch.nn.functional.pad(oval(), (0, 8, 0, 8), value=1.0), larger)
    assert "is not the mask" in found(run_main, root, "--mask", larger)["mask.png"][0]


def test_a_mask_agreed_on_may_be_widened_by_the_guard(
    drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    write_release(tmp_path / "out", drawn_root, hides=guarded(oval(), 1))
    facts = tmp_path / "out" / "mask.json"
    facts.write_text(facts.read_text().replace('"guard": 0', '"guard": 1'))
    old = json.loads((tmp_path / "out" / "manifest.json").read_text())
    relist(tmp_path / "out", mask=old["mask"] | {"guard": 1}, method=old["method"] | {"guard": 1})
    save_mask(oval(), tmp_path / "agreed.png")
    run_main("audit", tmp_path / "out", "--mask", tmp_path / "agreed.png")
    assert (
        "is not the mask"
        in found(run_main, tmp_path / "out", "--mask-hash", mask_hash(oval()))["mask.png"][0]
    )


def test_few_hidden_pixels_pass_only_where_that_is_asked_for(
    drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    mask = torch.ones(1, SIZE, SIZE)
    mask[0, 3, 4] = 0
    write_release(tmp_path / "out", drawn_root, hides=mask)
    (what,) = found(run_main, tmp_path / "out", "--mask", tmp_path / "out" / "mask.png")["mask.png"]
    assert what == "its mask hides 0.0010 of the pixels, less than 0.1: images are as good as clean"
    run_main("audit", tmp_path / "out", "--min-mask-ratio", "0.0001")


def desensitizer_config(path: str, raw: Path, name: str, **init: object) -> str:
    reader = {
        "class_path": "datamodules.FolderFaces",
        "init_args": {"root": str(raw), "size": SIZE, "crop": CROP},
    }
    desensitizing = {"class_path": f"lightning_app.desensitize.{name}", "init_args": init}
    Path(path).write_text(
        yaml.safe_dump({"reader": reader, "desensitizer": desensitizing, "output": "elsewhere"})
    )
    return path


def test_the_configs_desensitizer_must_be_the_releases(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.png"
    save_mask(oval().roll(1, -1), other)
    same = desensitizer_config("a.yaml", drawn_root, "MaskOut", mask=str(made / "masked" / "mask.png"))
    run_main("audit", made / "masked", "--config", same, "--key", made / "key")
    assert "which mask was agreed" not in verdict(capsys.readouterr().out)
    cases: list[tuple[str, str, dict[str, object], str, str]] = [
        ("masked", "MaskOut", {"mask": str(other)}, "mask.png", "is not the mask of --config's MaskOut"),
        (
            "masked",
            "MaskOut",
            {"mask": str(made / "masked" / "mask.png"), "guard": 1},
            "mask.png",
            "is not the mask",
        ),
        (
            "masked",
            "GaussianBlur",
            {"kernel": 9},
            "manifest.json",
            "it has a mask, --config's GaussianBlur has none",
        ),
        ("blurred", "GaussianBlur", {"kernel": 18}, "manifest.json", "GaussianBlur: kernel, sigma, taps"),
        (
            "blurred",
            "GaussianBlur",
            {"kernel": 9, "sigma": 1.8},
            "manifest.json",
            "--config's GaussianBlur: sigma",
        ),
        (
            "blurred",
            "Mosaic",
            {"block": 8},
            "manifest.json",
            "--config's Mosaic: block, kernel, method, sigma, taps",
        ),
        (
            "blurred",
            "MaskOut",
            {"mask": str(other)},
            "manifest.json",
            "it has no mask, --config's MaskOut has one",
        ),
        ("blurred", "Identity", {}, "manifest.json", "--config's desensitizer cannot have made this release"),
    ]
    for name, kind, init, file, words in cases:
        config = desensitizer_config("a.yaml", drawn_root, kind, **init)
        assert any(words in what for what in found(run_main, made / name, "--config", config)[file]), words
        images = found(run_main, made / name, "--config", config, "--key", made / "key")["images"]
        assert images == [
            "could not be compared with the raw set: --config's desensitizer has not made this release; give the "
            "config that did"
        ]
    good = desensitizer_config("a.yaml", drawn_root, "GaussianBlur", kernel=9)
    run_main("audit", made / "blurred", "--config", good, "--key", made / "key")


def test_a_config_of_another_crop_or_a_missing_mask(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = desensitizer_config("a.yaml", drawn_root, "MaskOut", mask=str(made / "masked" / "mask.png"))
    part = yaml.safe_load(Path(config).read_text())
    part["reader"]["init_args"]["crop"] = 40
    Path(config).write_text(yaml.safe_dump(part))
    assert (
        "its crop is 44, --config's reader cuts 40"
        in found(run_main, made / "masked", "--config", config)["manifest.json"]
    )
    config = desensitizer_config("a.yaml", drawn_root, "MaskOut", mask="gone.png")
    assert "gone.png" in refused(capsys, lambda: run_main("audit", made / "masked", "--config", config))


def test_a_config_brings_another_reader(made: Path, drawn_root: Path, run_main: RunMain) -> None:
    reader = {
        "class_path": "datamodules.FolderFaces",
        "init_args": {"root": str(drawn_root), "size": SIZE, "crop": CROP},
    }
    Path("desensitize.yaml").write_text(yaml.safe_dump({"reader": reader, "output": "elsewhere"}))
    run_main(
        "audit", made / "masked", "--config", "desensitize.yaml", "--key", made / "key", "--json", "a.json"
    )
    assert json.loads(Path("a.json").read_text())["released_again"] == 48


def test_overrides_of_the_config_as_desensitize_takes_them(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = {
        "class_path": "datamodules.FolderFaces",
        "init_args": {"root": "gone", "size": SIZE, "crop": CROP},
    }
    config = tmp_path / "release.yaml"
    config.write_text(yaml.safe_dump({"reader": reader}))
    fit = tmp_path / "fit.yaml"
    fit.write_text(yaml.safe_dump({"data": {"init_args": {"reader": reader}}}))
    checks = ("audit", made / "masked", "--key", made / "key", "--config")
    assert "root=gone: no such folder" in refused(capsys, lambda: run_main(*checks, config))
    for file, key in (
        (config, "--reader.init_args.root"), (config, "--reader.root"), (fit, "--data.init_args.reader.init_args.root"),
        (fit, "--data.reader.root"),
    ):  # fmt: skip
        run_main(*checks, file, key, drawn_root)
        run_main(*checks, file, f"{key}={drawn_root}")
        assert " 0 released again" not in capsys.readouterr().out
    said = refused(capsys, lambda: run_main("audit", made / "masked", "--reader.root", drawn_root))
    assert "--reader.root: overrides what --config says; give --config too" in said
    with pytest.raises(SystemExit):
        run_main(*checks, config, "--reader.rot", drawn_root)
    assert "did you mean 'root'?" in capsys.readouterr().err
