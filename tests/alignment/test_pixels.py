from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.readers.decode import decode
from lightning_app.alignment.pixels import Undecodable, encode, read_upright
from tests.datamodules.face_files import encoded, picture
from tests.warm import COLD


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGBA", "PNG"),
     ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG")],
)  # fmt: skip
def test_pixels_are_those_of_the_readers(tmp_path: Path, mode: str, kind: str) -> None:
    deep = Image.fromarray((np.arange(48 * 48) * 28).astype(np.uint16).reshape(48, 48))
    data = encoded(deep if mode == "I;16" else picture(4, mode, 48, 48), kind)
    path = tmp_path / "image"
    path.write_bytes(data)
    ours, theirs = read_upright(str(path)), decode(data, None, 48, "image")
    np.testing.assert_array_equal(ours if ours.ndim == 2 else ours.transpose(2, 0, 1), theirs.squeeze())


def test_all_orientations_come_out_upright(tmp_path: Path) -> None:
    upright = np.asarray(picture(1, "RGB", 40, 30))
    lying = {  # how the file stores an upright picture, EXIF 2.3, tag 274
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: np.rot90(upright)[:, ::-1][::-1, ::-1].copy(), 8: np.rot90(upright, -1),
    }  # fmt: skip
    lying[7] = np.rot90(upright, 2).transpose(1, 0, 2)
    for orientation, stored in lying.items():
        exif = Image.Exif()
        exif[274] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
        np.testing.assert_array_equal(read_upright(str(path)), upright, err_msg=str(orientation))


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    whole = encoded(picture(2))
    for name, data in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "gif": encoded(picture(2), "GIF"),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Undecodable, match=f"{name}: cannot be decoded"):
            read_upright(str(tmp_path / name))
    with pytest.raises(Undecodable, match="missing: cannot be decoded"):
        read_upright(str(tmp_path / "missing"))


def test_png_is_lossless_and_bare() -> None:
    pixels = np.asarray(picture(3))
    data = encode(pixels)
    assert [data[at + 4 : at + 8] for at in (8,)] == [b"IHDR"]
    assert not any(chunk in data for chunk in (b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"iCCP", b"tIME", b"pHYs"))
    assert encode(pixels, 90)[:2] == b"\xff\xd8"


def test_a_worker_process_starts_without_torch() -> None:
    code = "import sys, lightning_app.alignment.work; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    done = subprocess.run([COLD, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
