"""`audit` of a release alone: what passes, what is found, what it prints and writes, and which arguments it refuses."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from datamodules import FaceDataModule, FolderFaces, ReleasedFaces
from lightning_app.core.key_file import load_key
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain, refused
from tests.commands.audited import found, verdict
from tests.release.by_hand import CROP, SIZE, images, set_times


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
    assert "that nothing else is in the 8 images not compared (--all)" in said
    assert "that nothing else is in the 1 image not compared (--all)" in line(
        "masked", *mask, *raw, "--sample", 47
    )
    for name, description in (("blurred", "GaussianBlur kernel 9 sigma 1.7"), ("mosaic", "Mosaic block 8")):
        said = line(name)
        assert "no mask, 0 released again" in said
        assert f"NOT PROVEN: that any pixel is hidden (no mask, {description})" in said
        assert "that the faces are desensitized (--raw, --key)" in said
        said = line(name, *raw)
        assert f"NOT PROVEN: that any pixel is hidden (no mask, {description})" in said
        assert "desensitized (--raw" not in said


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
