from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_app.desensitize import CentreBlock, CentreBlur, GaussianBlur, MaskOut, Mosaic
from lightning_app.masks import save_mask
from lightning_app.release import Manifest, MaskEntry
from lightning_app.release.audit.against_raw import _OWN_WORDS
from lightning_app.release.audit.run import strings
from lightning_app.release.format.names import is_image_file
from lightning_app.release.format.public import public_method
from tests.release.test_guard import dotted

PERSON, OTHER, FACE = "0a" * 10, "0b" * 10, "cd" * 10
DIGEST = "ab" * 32


def whole(masked: bool = True) -> Manifest:
    files = {f"images/{PERSON}/{FACE}.png": DIGEST, f"images/{OTHER}/{FACE}.png": "cd" * 32}
    mask = MaskEntry("mask.png", "ef" * 32, "01" * 32, 0.75, 2) if masked else None
    if masked:
        files |= {"mask.png": "ef" * 32, "mask.json": "12" * 32}
    lies = {"size": [112, 112], "masks": 1, "mask_hash": "01" * 32, "mask_ratio": 0.75, "guard": 2}
    blur = {"method": "GaussianBlur", "kernel": 9, "taps": 9, "sigma": 1.7}
    return Manifest(
        method={"method": "MaskOut"} | lies if masked else blur, size=112, channels=1, crop=[1, 2, 3, 4], mask=mask,
        identities=2, images=2, refused={"truncated": 3}, versions={"torch": "2.4"}, files=files,
    )  # fmt: skip


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_written_is_read(masked: bool, tmp_path: Path) -> None:
    manifest = whole(masked)
    content = manifest.to_bytes()
    (tmp_path / "manifest.json").write_bytes(content)
    assert Manifest.read(tmp_path) == manifest
    found = json.loads(content)
    assert (found["format"], found["version"]) == ("faceveil-release", 2)
    assert set(found) == {
        "format", "version", "method", "size", "channels", "crop", "mask", "identities", "images", "refused",
        "versions", "signer", "files", "compression",
    }  # fmt: skip
    assert list(found) == sorted(found)
    assert list(found["files"]) == sorted(found["files"])


def test_the_bytes_do_not_depend_on_the_order_of_files() -> None:
    manifest = whole()
    turned = Manifest(**{**vars(manifest), "files": dict(reversed(manifest.files.items()))})
    assert turned.to_bytes() == manifest.to_bytes()


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="none: no such folder; give the one that `desensitize` wrote"
    ):
        Manifest.read(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json: it is no release, or one whose"):
        Manifest.read(tmp_path)


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="zip"), "is no manifest of a release"),
        (lambda m: m.update(version=5), "has version 5, this FaceVeil reads 1 to 4"),
        (lambda m: m.update(version=3), "'tensors' is missing|compression is of another version"),
        (lambda m: m.update(version=True), "has version true, this FaceVeil reads 1 to 4"),
        (lambda m: m.update(version=1.0), r"has version 1\.0, this FaceVeil reads 1 to 4"),
        (lambda m: m.update(version=1), "compression is of another version"),
        (lambda m: m.pop("size"), "'size' is missing"),
        (lambda m: m.update(host="mine"), "'host' does not belong there"),
        (lambda m: m.update(size="112"), 'size is "112", not a number of pixels'),
        (lambda m: m.update(size=True), "size is true"),
        (lambda m: m.update(channels=2), "channels is 2, not 1 or 3"),
        (lambda m: m.update(crop=[1, 2]), r"crop is \[1, 2\], not null, a number of pixels, or four"),
        (lambda m: m.update(method={}), "method is {}"),
        (lambda m: m.update(images=3), "images is 3, but its files have 2"),
        (lambda m: m.update(identities=1), "identities is 1, but its files have 2"),
        (lambda m: m.update(refused={"truncated": 0}), "refused is"),
        (lambda m: m.update(signer="me"), 'signer is "me"'),
        (lambda m: m["mask"].update(mask_ratio=1.0), r"mask\.mask_ratio is 1\.0, not a share"),
        (lambda m: m["mask"].update(file="../mask.png"), r"mask\.file is"),
        (lambda m: m["mask"].pop("guard"), "mask: 'guard' is missing"),
        (lambda m: m["mask"].update(sha256=DIGEST), r"mask\.sha256 is not that of mask\.png in files"),
        (lambda m: m["files"].pop("mask.json"), r"files: 'mask\.json' is missing"),
        (
            lambda m: m.update(mask=None, method={"method": "Own"}),
            r"files: 'mask\.json' does not belong there",
        ),
        (lambda m: m.update(mask=None), "method: it has entries that MaskOut is not described by"),
        (
            lambda m: m["files"].update({"../../etc/passwd": DIGEST}),
            "'../../etc/passwd' does not belong there",
        ),
        (lambda m: m["files"].update({f"images/{PERSON}/Ann.png": DIGEST}), "does not belong there"),
        (lambda m: m["files"].update({"mask.png": "x"}), "files is .*, not a SHA-256 for each file"),
    ],
)
def test_a_damaged_manifest_names_the_entry(change: Change, message: str, tmp_path: Path) -> None:
    found = json.loads(whole().to_bytes())
    change(found)
    (tmp_path / "manifest.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message) as error:
        Manifest.read(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "is no manifest"),
        (b'{"format": "faceveil-release", "format": "faceveil-release"}', "a name stands in it twice"),
    ],
)
def test_no_json(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest.parse(content)


def test_names_of_images() -> None:
    assert is_image_file(f"images/{PERSON}/{FACE}.png")
    for name in (
        f"images/{PERSON}/../{FACE}.png",
        f"images/{PERSON}/{FACE}.png\n",
        f"images/{FACE}.png",
        "mask.png",
    ):
        assert not is_image_file(name)


def test_words_of_our_own_methods_are_known(tmp_path: Path) -> None:
    save_mask(dotted(24)[0], tmp_path / "mask.png")
    folder = tmp_path / "set"
    save_mask(dotted(24)[0], folder / "mask.png")
    block = CentreBlock()
    block.prepare((24, 24))
    for desensitizer in (
        MaskOut(mask=tmp_path / "mask.png", guard=1), MaskOut(freeform=(0.3, 0.4), count=2, size=24),
        MaskOut(folder=folder, hidden="black", size=24), GaussianBlur(9), CentreBlur(), block, Mosaic(8),
    ):  # fmt: skip
        method = {k: v for k, v in public_method(desensitizer.describe()).items() if k != "method"}
        words = {text for text in strings(method) if not re.fullmatch("[0-9a-f]{64}", text)}
        assert words <= _OWN_WORDS, type(desensitizer).__name__


def test_the_method_names_no_files(tmp_path: Path) -> None:
    save_mask(dotted(24)[0], tmp_path / "of Ann Lee.png")
    description = MaskOut(mask=tmp_path / "of Ann Lee.png").describe()
    assert description["mask"] == "of Ann Lee.png"
    assert public_method(description) == {key: value for key, value in description.items() if key != "mask"}
    assert public_method(GaussianBlur(9).describe()) == GaussianBlur(9).describe()
    odd = {
        "method": "X",
        "net": {"weights": "a/b.pt", "width": 3},
        "note": "C:\\faces",
        "levels": [[0.1, 0.2]],
    }
    assert public_method(odd) == {"method": "X", "net": {"width": 3}, "levels": [[0.1, 0.2]]}
