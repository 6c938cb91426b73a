from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from datamodules import FaceDataModule, FolderFaces, ReleasedFaces
from lightning_app.core.key_file import load_key, write_secret
from lightning_app.desensitize import Desensitizer, Mosaic
from lightning_app.masks import guarded, mask_hash, save_mask
from lightning_app.release.audit.against_raw import compare_images
from lightning_app.release.audit.run import Compared, audit
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import is_image_file
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.public import made_with
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain, refused
from tests.release.by_hand import (
    CROP,
    KEY,
    SIZE,
    as_written,
    blur,
    images,
    oval,
    png,
    relist,
    set_times,
    write_release,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of the drawn people, under a mask, blurred and as mosaic, and the key."""
    home = tmp_path_factory.mktemp("made")
    write_release(home / "masked", drawn_root)
    write_release(home / "blurred", drawn_root, blur())
    write_release(home / "mosaic", drawn_root, Mosaic(8))
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    return home


def test_a_report_takes_the_place_of_reports_alone(made: Path, tmp_path: Path) -> None:
    key, photo, released = tmp_path / "key", tmp_path / "photo.png", str(made / "masked")
    shutil.copy(made / "key", key)
    photo.write_bytes(b"no report")
    (tmp_path / "other.json").write_text('{"verdict": 1}')
    for path in (key, photo, tmp_path / "other.json"):
        before = path.read_bytes()
        with pytest.raises(
            FileExistsError, match=r"is there already, and is no report of an audit; give another"
        ):
            audit_command(released, json_path=str(path))
        assert path.read_bytes() == before
    for _ in range(2):
        audit_command(released, json_path=str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text())["passed"]


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of the masked release to spoil."""
    return Path(shutil.copytree(made / "masked", tmp_path / "masked"))


def found(run_main: RunMain, *args: object) -> dict[str, list[str]]:
    """Audit what has faults: exit code 1, and the findings by file."""
    with pytest.raises(SystemExit) as stop:
        run_main("audit", *args, "--json", "audit.json")
    assert stop.value.code == 1
    report = json.loads(Path("audit.json").read_text())
    assert report["passed"] is False
    files: dict[str, list[str]] = {}
    for finding in report["findings"]:
        files.setdefault(finding["file"], []).append(finding["what"])
    return files


@pytest.mark.parametrize("method", ["masked", "blurred", "mosaic"])
def test_a_good_release_passes(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    run_main("audit", made / method)
    printed = capsys.readouterr().out
    assert "audit PASSED; 48 images of 6 identities decoded" in printed
    assert "0 released again" in printed
    run_main("audit", made / method, "--raw", drawn_root, "--key", made / "key", "--json", "audit.json")
    assert "audit PASSED" in capsys.readouterr().out
    report = json.loads(Path("audit.json").read_text())
    assert (report["passed"], report["images"], report["released_again"]) == (True, 48, 48)
    assert report["findings"] == []


def test_findings_are_shown_by_file_and_all_written(
    spoilt: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(30):
        (spoilt / f"stray{number:02d}.txt").write_text("x")
    set_times(spoilt)
    everything = found(run_main, spoilt)
    assert len(everything) == 30
    printed = capsys.readouterr()
    assert "stray00.txt" in printed.out
    assert "stray25.txt" not in printed.out
    assert "and 10 more; all of them: audit.json" in printed.out
    assert "audit FAILED: 30 findings in 30 files" in printed.out
    assert "Traceback" not in printed.err


def test_a_name_of_the_raw_set_is_found_wherever_it_stands(
    spoilt: Path, drawn_root: Path, run_main: RunMain
) -> None:
    one = images(spoilt)[0]
    one.rename(one.with_name("Drawn_00003_0001.png"))
    (spoilt / "drawn-00004.txt").write_text("")
    facts = json.loads((spoilt / "mask.json").read_text())
    (spoilt / "mask.json").write_text(json.dumps(facts | {"seen_on": ["DRAWN 00005"]}))
    set_times(spoilt)
    everything = found(run_main, spoilt, "--raw", drawn_root)
    bears = "bears the name of an identity or a file of the raw set"
    holds = "holds the name of an identity or a file of the raw set"
    assert bears in everything[one.with_name("Drawn_00003_0001.png").relative_to(spoilt).as_posix()]
    assert bears in everything["drawn-00004.txt"]
    assert holds in everything["mask.json"]
    assert not any("Drawn_0000" in what for whats in everything.values() for what in whats if what == bears)
    without = found(run_main, spoilt)
    assert not any(what in (bears, holds) for whats in without.values() for what in whats)
    path = spoilt / "manifest.json"
    whole = json.loads(path.read_text()) | {"refused": {"truncated: Drawn_00002_0004.png": 1}}
    path.write_text(as_written(whole))
    set_times(spoilt)
    (what,) = found(run_main, spoilt)["manifest.json"]  # with the raw set or not
    assert what.startswith("refused has a reason that is none of FaceVeil's")


def test_a_name_in_the_place_of_a_key_is_found(spoilt: Path, drawn_root: Path, run_main: RunMain) -> None:
    facts = json.loads((spoilt / "mask.json").read_text())
    (spoilt / "mask.json").write_text(json.dumps(facts | {"Drawn 00005": True}, indent=2) + "\n")
    set_times(spoilt)
    holds = "holds the name of an identity or a file of the raw set"
    assert holds in found(run_main, spoilt, "--raw", drawn_root)["mask.json"]
    description = Manifest.read(spoilt).method
    for changed, words in (
        (
            {"method": description | {"brush": {"DRAWN_00003": 1}}},
            "method: it has entries that MaskOut is not described by",
        ),
        ({"versions": made_with() | {"drawn-00004": "1"}}, "its versions have an entry that is no package's"),
    ):  # fmt: skip
        relist(spoilt, method=description, versions=made_with())
        relist(spoilt, **changed)
        for args in ((), ("--raw", drawn_root)):
            (what,) = found(run_main, spoilt, *args)["manifest.json"]
            assert what.startswith(words)
            assert "rawn" not in what.lower()


def test_names_of_files_that_are_our_own_words_are_no_finding(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain
) -> None:
    raw = Path(shutil.copytree(drawn_root, tmp_path / "raw"))
    for name in ("mask.png", "size.txt", "version.txt", "desensitize.yaml"):
        (raw / name).write_text("")
    run_main("audit", made / "masked", "--raw", raw, "--key", made / "key")


def test_a_raw_set_without_the_key_fails_since_nothing_could_be_compared(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_main("audit", made / "masked", "--raw", drawn_root)
    assert stop.value.code == 1
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "audit FAILED: 1 finding in 1 file" in told
    assert "could not be compared with the raw set: give the owner's --key as well" in told


def test_strays_whose_names_a_terminal_cannot_show(
    spoilt: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (b"Andr\xe9.txt", b"red\x1b[31m.txt", "Zoë.txt".encode()):
        with open(bytes(spoilt) + b"/" + name, "wb"):
            pass
    set_times(spoilt)
    everything = found(run_main, spoilt)
    assert {"Andr\udce9.txt", "red\x1b[31m.txt", "Zoë.txt"} == everything.keys()
    assert Path("audit.json").read_bytes().isascii()
    shown = capsys.readouterr().out
    assert "Andr\\udce9.txt" in shown
    assert "red\\x1b[31m.txt" in shown
    assert "Zoë.txt" in shown
    assert "\x1b[31m" not in shown


def _forge(one: Path, change: Callable[[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]], None]) -> None:
    pixels = np.array(Image.open(one).convert("RGB"))
    change(pixels)
    one.write_bytes(png(pixels))


def test_a_forgery_that_its_own_manifest_confirms_is_found_with_the_raw_set(
    spoilt: Path, drawn_root: Path, made: Path, run_main: RunMain
) -> None:
    row, column = np.argwhere(oval()[0].numpy() == 1)[0].tolist()
    one, two, three = images(spoilt)[5:8]

    def brighter(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        pixels[row, column] ^= 0x80

    _forge(one, brighter)
    second, third = two.read_bytes(), three.read_bytes()
    two.write_bytes(third)
    three.write_bytes(second)
    relist(spoilt)
    run_main("audit", spoilt)  # by itself it is a release like any other
    everything = found(run_main, spoilt, "--raw", drawn_root, "--key", made / "key")
    names = [path.relative_to(spoilt).as_posix() for path in (one, two, three)]
    assert sorted(everything) == sorted(names)
    assert everything[names[0]] == ["differs in 1 pixels from its raw image released again"]
    for name in names[1:]:
        assert "pixels from its raw image released again" in everything[name][0]


def test_the_same_pixels_in_other_bytes_are_found(
    spoilt: Path, drawn_root: Path, made: Path, run_main: RunMain
) -> None:
    one = images(spoilt)[5]
    Image.open(one).save(one, "PNG")  # Pillow's own way to encode
    relist(spoilt)
    args = (spoilt, "--raw", drawn_root, "--key", made / "key")
    for versions in (made_with(), made_with() | {"zlib": "1.3.1"}):  # another zlib writes the same at level 1
        relist(spoilt, versions=versions)
        (fault,) = found(run_main, *args)[one.relative_to(spoilt).as_posix()]
        assert fault.startswith("its bytes are not those that `desensitize` writes of its pixels")


@pytest.mark.parametrize("method", ["blurred", "mosaic"])
def test_a_clean_file_among_blurred_ones_is_found(
    made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain, method: str
) -> None:
    root = Path(shutil.copytree(made / method, tmp_path / method))
    clean = tmp_path / "clean"

    class Nothing(Desensitizer):
        def desensitize(self, image: Tensor) -> Tensor:
            return image

    write_release(clean, drawn_root, Nothing())
    one = images(root)[11]
    one.write_bytes((clean / one.relative_to(root)).read_bytes())
    relist(root)
    name = one.relative_to(root).as_posix()
    (alone,) = found(run_main, root)[name]
    assert alone.startswith(
        {"blurred": "is not blurred as its method says", "mosaic": "is no mosaic"}[method]
    )
    assert found(run_main, root, "--raw", drawn_root, "--key", made / "key") == {
        name: ["is clean: its pixels are those of the raw image", alone]
    }


def test_a_method_that_looks_under_the_mask_is_found(made: Path) -> None:
    root = made / "masked"
    report = audit(root)
    assert report.manifest is not None
    names = sorted(name for name in report.manifest.files if is_image_file(name))
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (len(names), 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)

    def leaky(images: Tensor) -> Tensor:
        mean = images.float().mean((-2, -1), keepdim=True).round().to(torch.uint8)
        return (images // 2 + mean // 2) * oval().to(torch.uint8)

    origin = {name: number for number, name in enumerate(names)}
    compare_images(root, report, origin, lambda n: raw[n], leaky, oval(), 5, 0)
    assert report.compared == Compared(5, 0)
    assert [finding.what for finding in report.findings] == [
        "depends on hidden pixels: releasing it with others under the mask gives another image"
    ] * 5


def test_another_key_or_set_is_found(made: Path, drawn_root: Path, tmp_path: Path, run_main: RunMain) -> None:
    write_secret(tmp_path / "other", KEY[::-1].hex().encode())
    everything = found(run_main, made / "masked", "--raw", drawn_root, "--key", tmp_path / "other")
    assert everything == {
        "images": ["no image bears the pseudonym of a raw one: other raw images, or another --key"]
    }
    fewer = Path(shutil.copytree(drawn_root, tmp_path / "fewer"))
    shutil.rmtree(fewer / "Drawn_00000")
    everything = found(run_main, made / "masked", "--raw", fewer, "--key", made / "key")
    assert len(everything) == 8
    assert set(map(tuple, everything.values())) == {("bears the pseudonym of no raw image",)}


def test_the_sample_is_drawn_by_the_seed(made: Path, drawn_root: Path, run_main: RunMain) -> None:
    args = ("audit", made / "masked", "--raw", drawn_root, "--key", made / "key", "--json", "audit.json")

    def report(*more: object) -> dict[str, Any]:
        run_main(*args, *more)
        found: dict[str, Any] = json.loads(Path("audit.json").read_text())
        return found

    drawn = report("--sample", 5, "--seed", 3)
    assert (drawn["released_again"], drawn["seed"]) == (5, 3)
    assert drawn["compared_share"] == pytest.approx(5 / 48)
    assert drawn["detection"] == {
        "one": pytest.approx(5 / 48), "ten": pytest.approx(1 - comb(38, 5) / comb(48, 5)),
        "one_percent": pytest.approx(5 / 48),
    }  # fmt: skip
    assert report("--sample", 1000)["released_again"] == 48
    whole = report("--all")
    assert (whole["released_again"], whole["compared_share"]) == (48, 1)
    assert set(whole["detection"].values()) == {1}
    seeds = {report("--sample", 5)["seed"] for _ in range(3)}
    assert len(seeds) == 3, "drawn anew each time, by nobody's choice"
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_an_unforeseen_sample_finds_what_seed_0_would_not(
    spoilt: Path, made: Path, drawn_root: Path, run_main: RunMain
) -> None:
    """Of 48 images 24 are compared: one who knows the seed leaks in the others."""
    report, sampled = audit(spoilt), list[int]()
    assert report.manifest is not None
    names = sorted(name for name in report.manifest.files if is_image_file(name))
    raw = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    origin = {name: number for number, name in enumerate(names)}

    def read(number: int) -> Tensor:
        sampled.append(number)
        return raw

    compare_images(spoilt, report, origin, read, lambda images: images, oval(), 24, 0)
    row, column = np.argwhere(oval()[0].numpy() == 1)[0].tolist()
    left = [name for number, name in enumerate(names) if number not in sampled]
    assert len(left) == 24

    def brighter(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        pixels[row, column] ^= 0x80

    for name in left:
        _forge(spoilt / name, brighter)
    relist(spoilt)
    args = (spoilt, "--raw", drawn_root, "--key", made / "key")
    run_main("audit", *args, "--sample", 24, "--seed", 0)  # passes, as it did unasked
    for more in (("--sample", 24), ("--all",)):  # missed by chance: once in 3e13
        assert set(found(run_main, *args, *more)) <= set(left)
    assert set(found(run_main, *args, "--all")) == set(left)


def verdict(text: str) -> str:
    """The verdict's first line, which is one line."""
    (line,) = [line for line in text.splitlines() if line.startswith("audit ") and " of " not in line[:9]]
    return line


def test_the_first_line_says_how_much_is_hidden_and_what_is_not_proven(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = ("--raw", drawn_root, "--key", made / "key")
    mask = ("--mask", made / "masked" / "mask.png")

    def line(name: str, *args: object) -> str:
        run_main("audit", made / name, *args, "--json", "audit.json")
        printed = verdict(capsys.readouterr().out)
        report = json.loads(Path("audit.json").read_text())
        assert report["verdict"][:90] == printed[:90]
        assert printed.endswith("; NOT PROVEN: " + "; ".join(report["not_proven"]))
        return printed

    said = line("masked")
    assert "mask ratio 0.7188, 0 released again" in said
    for open_ in ("which mask was agreed on (--mask, --mask-hash)", "pseudonyms and counts carry nothing else (--raw,"
                  " --key)", "who released it (not signed)"):  # fmt: skip
        assert open_ in said
    assert "which mask" not in line("masked", *mask)
    said = line("masked", *mask, *raw)
    assert said.endswith("48 released again, 0.1 MB, " + said.split("MB, ")[1])
    assert said.endswith("NOT PROVEN: who released it (not signed)")
    said = line("masked", *mask, *raw, "--sample", 40)
    assert "that the 8 images not compared carry nothing else (--all)" in said
    for name, description in (("blurred", "GaussianBlur kernel 9 sigma 1.7"), ("mosaic", "Mosaic block 8")):
        said = line(name)
        assert "no mask, 0 released again" in said
        assert f"NOT PROVEN: that any pixel is hidden (no mask, {description})" in said
        assert "that the faces are desensitized (--raw, --key)" in said
        said = line(name, *raw)
        assert f"NOT PROVEN: that any pixel is hidden (no mask, {description})" in said
        assert "desensitized (--raw" not in said


def test_what_was_compared_is_told(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--raw", drawn_root, "--key", made / "key", "--sample", 12, "--seed", 7)
    run_main("audit", made / "masked", *args)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compared with")]
    ten = 1 - comb(38, 12) / comb(48, 12)
    assert line == (
        "compared with the raw set: 12 of 48 images (25.0%), drawn by --seed 7; this finds one image that leaks with "
        f"probability 0.25, ten with probability {ten:.3g}, 1 % of them with probability 0.25"
    )
    run_main("audit", made / "masked", *args[:-4], "--all", "--seed", 7)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compared with")]
    assert (
        line
        == "compared with the raw set: all 48 images (noise by --seed 7), so that any one that leaks is found"
    )
    run_main("audit", made / "blurred", *args)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compared with")]
    assert re.search(r"; dSSIM from the raw images 0\.[1-5]\d\d on average$", line)


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


BAD: dict[str, tuple[list[str], str]] = {
    "no folder": (["nowhere"], "nowhere: no such folder"),
    "no raw folder": (["RELEASED", "--raw", "nowhere"], "raw: nowhere: no such folder"),
    "key without raw": (["RELEASED", "--key", "KEY"], "give --raw RAW_DIR too"),
    "no key": (["RELEASED", "--raw", "RAW", "--key", "nokey"], "key nokey: no such file"),
    "no public key": (["RELEASED", "--public-key", "nokey"], "public key nokey: no such file"),
    "no sample": (["RELEASED", "--sample", "0"], "sample: 0; give at least 1 image"),
    "no workers": (["RELEASED", "--workers", "0"], "workers: 0; give at least 1 process"),
    "report in the release": (["RELEASED", "--json", "RELEASED/a.json"], "--json"),
    "no reader": (["RELEASED", "--config", "empty.yaml"], "has no `reader`"),
    "no config": (["RELEASED", "--config", "gone.yaml"], "no config 'gone.yaml'"),
    "no mask": (["RELEASED", "--mask", "gone.png"], "mask gone.png: no such file"),
    "short hash": (["RELEASED", "--mask-hash", "ab12"], "mask_hash: 'ab12' is not 64 hexadecimal digits"),
    "no share": (["RELEASED", "--min-mask-ratio", "75"], "min_mask_ratio: 75.0 is not a share in [0,1]"),
    "no number": (["RELEASED", "--min-mask-ratio", ".nan"], "min_mask_ratio: nan is not a share in [0,1]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(
    made: Path, drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    args, words = BAD[case]
    Path("empty.yaml").write_text("output: elsewhere")
    places = {"RELEASED": str(made / "masked"), "RAW": str(drawn_root), "KEY": str(made / "key")}
    given = [places.get(arg, arg.replace("RELEASED", places["RELEASED"])) for arg in args]
    assert words in refused(capsys, lambda: run_main("audit", *given))


VEILS: dict[str, dict[str, object]] = {
    "mask": {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"freeform": [0.7, 0.8]}},
    "block": {"class_path": "lightning_app.desensitize.CentreBlock"},
    "blur": {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}},
    "centre blur": {"class_path": "lightning_app.desensitize.CentreBlur"},
    "mosaic": {"class_path": "lightning_app.desensitize.Mosaic", "init_args": {"block": 8}},
}


@pytest.mark.parametrize("method", VEILS)
def test_what_desensitize_releases_passes_and_trains(
    drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    init = {"root": str(drawn_root), "size": SIZE, "crop": CROP}
    reader = {"class_path": "datamodules.FolderFaces", "init_args": init}
    config = {"reader": reader, "desensitizer": VEILS[method], "output": "released", "sign_key": "sign"}
    Path("give.yaml").write_text(yaml.safe_dump(config))
    run_main("desensitize", "--make-sign-key", "sign")
    run_main("desensitize", "--config", "give.yaml")
    key = "runs/give/pseudonyms.key"
    capsys.readouterr()
    for raw in (("--raw", drawn_root), ("--config", "give.yaml")):
        run_main("audit", "released", *raw, "--key", key, "--public-key", "sign.pub", "--json", "audit.json")
        report = json.loads(Path("audit.json").read_text())
        assert (report["images"], report["released_again"], report["findings"]) == (48, 48, [])
    assert capsys.readouterr().out.count("audit PASSED") == 2

    there = ReleasedFaces("released", public_key="sign.pub").open()
    raw_faces = FolderFaces(drawn_root, size=SIZE, crop=CROP, cache_index=False).open()
    trained = FaceDataModule(there)  # desensitizes clean images as the release was
    by_hand = trained.desensitized(raw_faces.__getitems__(range(48))["image"])["image"]
    names = Pseudonyms(load_key(key))
    at = {Path(there.name(i)).stem: i for i in range(48)}
    order = [
        at[names.image(raw_faces.identities[int(raw_faces.labels[i])], raw_faces.stable_name(i))]
        for i in range(48)
    ]
    assert torch.equal(there.__getitems__(order)["image"].float() / 255, by_hand)

    next(Path("released/images").rglob("*.png")).write_bytes(b"")
    assert len(found(run_main, "released", "--ignore-times")) == 1


@pytest.mark.parametrize(
    ("how", "good"), [("full", True), ("full", False), ("no folder", True), ("a folder", True)]
)
def test_a_report_that_cannot_be_written_hides_no_verdict(
    made: Path, spoilt: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, how: str, good: bool,
) -> None:  # fmt: skip
    root = made / "masked" if good else spoilt
    if not good:
        for one in images(spoilt):
            one.unlink()
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    path = {"full": "audit.json", "no folder": "file/audit.json", "a folder": "folder"}[how]
    if how == "full":

        def full(path: str, content: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("lightning_app.studies.audit.write_atomically", full)
    with pytest.raises(SystemExit) as ended:
        run_main("audit", root, "--json", tmp_path / path)
    assert ended.value.code not in (0, None)
    printed = capsys.readouterr()
    assert f"audit {'PASSED' if good else 'FAILED'}" in printed.out
    assert "more; --json PATH writes them all" in printed.out or good, "not: all of them are there"
    assert f"{path}: was not written (" in printed.err
    assert printed.err.strip().endswith("the verdict above stands")
    assert not list(tmp_path.glob("**/*.tmp"))


def test_all_without_a_raw_set_or_its_key_compares_nothing_and_is_refused(
    made: Path, drawn_root: Path
) -> None:
    for raw in (None, str(drawn_root)):
        with pytest.raises(ValueError, match=r"--all: .* takes --key and the raw set"):
            audit_command(str(made / "masked"), raw=raw, compare_all=True)


def test_a_copy_without_its_times_is_told_of_the_option(
    made: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "masked", tmp_path / "one")
    os.utime(tmp_path / "one" / "mask.png")  # one alone, and below all of them
    shutil.copytree(made / "masked", tmp_path / "all", copy_function=shutil.copy)
    shutil.copytree(tmp_path / "one", tmp_path / "more")
    (tmp_path / "more" / "notes.txt").write_text("more")
    hint = "only time stamps differ, as in a copy made without them: --ignore-times checks all else"
    for name in ("one", "all", "more"):
        with pytest.raises(SystemExit):
            run_main("audit", tmp_path / name)
        assert (hint in " ".join(capsys.readouterr().out.split())) == (name != "more")
    for name in ("one", "all"):
        run_main("audit", tmp_path / name, "--ignore-times")


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
