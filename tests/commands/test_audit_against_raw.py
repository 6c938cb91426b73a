"""`audit` against the raw set: names, forgeries, clean files among blurred ones, and the sample it draws."""

from __future__ import annotations

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
from PIL import Image
from torch import Tensor

from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import Desensitizer
from lightning_app.release.audit.against_raw import compare_images, find_names
from lightning_app.release.audit.run import Audit, Compared, audit
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.names import is_image_file
from lightning_app.release.format.public import made_with
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain
from tests.commands.audited import found
from tests.release.by_hand import KEY, SIZE, as_written, images, oval, png, relist, set_times, write_release


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


@pytest.mark.skipif(os.name != "posix", reason="sparse files are POSIX's")
def test_of_a_sparse_file_of_facts_no_more_is_read_than_such_a_one_has(spoilt: Path) -> None:
    os.truncate(spoilt / "mask.json", 10**12)  # it takes no room on a disk
    everything = Audit(manifest=Manifest.read(spoilt))
    find_names(spoilt, everything, ["Drawn_00003"])
    assert everything.findings == [], "whether it is the manifest's, its hash says"
    facts = json.dumps({"seen_on": "Drawn_00003"}).encode()
    (spoilt / "mask.json").write_bytes(facts + bytes(99))
    os.truncate(spoilt / "mask.json", 10**12)
    find_names(spoilt, everything, ["Drawn_00003"])
    what = "holds the name of an identity or a file of the raw set"
    assert [(one.file, one.what) for one in everything.findings] == [("mask.json", what)]


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


def test_all_without_a_raw_set_or_its_key_compares_nothing_and_is_refused(
    made: Path, drawn_root: Path
) -> None:
    for raw in (None, str(drawn_root)):
        with pytest.raises(ValueError, match=r"--all: .* takes --key and the raw set"):
            audit_command(str(made / "masked"), raw=raw, compare_all=True)
