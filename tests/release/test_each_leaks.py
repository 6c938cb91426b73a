"""Leaks planted in releases under a mask for each image: signed by the owner or not, each is found where it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lightning_app.core.key_file import write_secret
from lightning_app.core.png import encode_png
from lightning_app.release import Pseudonyms
from lightning_app.release.audit.run import audit
from lightning_app.studies.audit import audit as audit_command
from tests.release.by_hand import as_written, said, set_times
from tests.release.each import (
    KINDS,
    SHOWN,
    SIGNER,
    brightest,
    checkpoint,
    forge,
    pairs_of_files,
    pixels,
    put_image,
    put_mask,
    release_each,
)  # fmt: skip
from tests.release.released import KEY, SIZE, raw_tree, reader_of

Plant = Callable[[Path, Path], None]  # the release, and the raw set


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("leaks")
    raw_tree(home / "raw")
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    key = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (home / "key.pub").write_bytes(key)
    for kind in KINDS:
        release_each(home, home / "raw", kind, signer=SIGNER)
    return home


def first(root: Path) -> tuple[Path, Path]:
    return pairs_of_files(root)[0]


def raw_of(root: Path, raw: Path, image: Path) -> torch.Tensor:
    """The raw image of a released one, uint8 `[3,H,W]`."""
    reader, names = reader_of(raw), Pseudonyms(KEY)
    for index in range(len(reader)):
        person = reader.identities[int(reader.labels[index])]
        if names.image(person, reader.stable_name(index)) == image.stem:
            return reader[index]["image"][0]
    raise AssertionError(image)


def lay(image: Path, mask: Path, raw: torch.Tensor, shape: Any) -> None:
    """Put another mask on an image, as honestly as one can."""
    put_mask(mask, shape)
    put_image(image, raw.permute(1, 2, 0).numpy() * shape[..., None].astype(np.uint8))


def mask_is_a_drawing(root: Path, raw: Path) -> None:
    image, mask = first(root)
    face = raw_of(root, raw, image)
    lay(image, mask, face, brightest(face))


def few_pixels_moved(root: Path, raw: Path) -> None:
    image, mask = first(root)
    shape = pixels(mask)[..., 0] // 255
    on, off = np.argwhere(shape == 1), np.argwhere(shape == 0)
    for at in range(3):
        shape[tuple(on[at])], shape[tuple(off[at])] = 0, 1
    lay(image, mask, raw_of(root, raw, image), shape)


def one_pixel_more(root: Path, raw: Path) -> None:
    image, mask = first(root)
    shape = pixels(mask)[..., 0] // 255
    shape[tuple(np.argwhere(shape == 0)[0])] = 1
    lay(image, mask, raw_of(root, raw, image), shape)


def hidden_pixel(root: Path, raw: Path) -> None:
    image, mask = first(root)
    found = pixels(image)
    found[tuple(np.argwhere(pixels(mask)[..., 0] == 0)[0])] = 1
    put_image(image, found)


def visible_pixel(root: Path, raw: Path) -> None:
    image, mask = first(root)
    found = pixels(image)
    found[tuple(np.argwhere(pixels(mask)[..., 0] == 255)[5])] ^= 1
    put_image(image, found)


def swapped(root: Path, raw: Path) -> None:
    files = pairs_of_files(root)
    mask = files[0][1]
    other = next(found for _, found in files if found.read_bytes() != mask.read_bytes())
    kept = mask.read_bytes()
    mask.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def trailing(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.write_bytes(mask.read_bytes() + b"a face")


def other_level(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.write_bytes(encode_png(pixels(mask)[..., 0], 6))


def grey_mask(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.write_bytes(encode_png(pixels(mask)[..., 0] & 254 | 1))


def coloured_mask(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.write_bytes(encode_png(np.repeat(pixels(mask), 3, axis=2)))


def smaller_mask(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.write_bytes(encode_png(np.ascontiguousarray(pixels(mask)[:-1, :, 0])))


def extra_file(root: Path, raw: Path) -> None:
    (root / "masks" / "more.png").write_bytes(first(root)[1].read_bytes())


def no_mask(root: Path, raw: Path) -> None:
    mask = first(root)[1]
    mask.unlink()
    mask.parent.joinpath("kept").mkdir()


CASES: list[tuple[str, Plant, str]] = [
    ("core_first", one_pixel_more, "shows 139 pixels, the manifest says 138"),
    ("core_first", hidden_pixel, "1 hidden pixel is not 0"),
    ("core_first", swapped, "hidden pixels are not 0"),
    ("core_first", trailing, "has 6 bytes after IEND"),
    ("core_first", other_level, "its bytes are not those that `desensitize` writes of its pixels"),
    ("core_first", grey_mask, "is not a mask of 0 (hidden) and 255 (visible)"),
    ("core_first", coloured_mask, "has 24×24 pixels of 3 channels, not 24×24 of one"),
    ("core_first", smaller_mask, "has 24×23 pixels of 1 channels"),
    ("core_first", extra_file, "is a file that the manifest does not list"),
    ("free", swapped, "hidden pixels are not 0"),
    ("free", hidden_pixel, "1 hidden pixel is not 0"),
    ("free", one_pixel_more, "shows 139 pixels, the manifest says 138"),
    ("codebook", hidden_pixel, "1 hidden pixel is not 0"),
    ("codebook", swapped, "hidden pixels are not 0"),
    ("codebook", mask_is_a_drawing, "the mask of 1 images is none of the codebook's 3"),
    ("codebook", few_pixels_moved, "the mask of 1 images is none of the codebook's 3"),
    ("codebook", one_pixel_more, "the mask of 1 images is none of the codebook's 3"),
    ("codebook", trailing, "the mask of 1 images is none of the codebook's 3"),
]


@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize(("kind", "plant", "what"), CASES)
def test_found_without_raw(
    kind: str, plant: Plant, what: str, sign: bool, home: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(home / kind, tmp_path / "out"))
    plant(root, home / "raw")
    forge(root, sign)
    found = audit(root, SIGNER.public_key() if sign else None)
    assert what in str(said(found)), said(found)
    if not sign:
        assert audit(root, SIGNER.public_key()).findings, "nor does the signature hold"


RAW_CASES: list[tuple[str, Plant, str]] = [
    ("core_first", mask_is_a_drawing, "is not the masker's: run again on the raw image it differs in"),
    ("free", mask_is_a_drawing, "is not the masker's: run again on the raw image it differs in"),
    (
        "core_first",
        few_pixels_moved,
        "is not the masker's: run again on the raw image it differs in 6 pixels",
    ),
    ("core_first", visible_pixel, "differs in 1 pixels from its raw image under its mask"),
    ("codebook", visible_pixel, "differs in 1 pixels from its raw image under its mask"),
]


def another_code(root: Path, raw: Path) -> None:
    image, mask = first(root)
    other = next(
        code for code in sorted((root / "codebook").iterdir()) if code.read_bytes() != mask.read_bytes()
    )
    lay(image, mask, raw_of(root, raw, image), pixels(other)[..., 0] // 255)


@pytest.mark.parametrize(("kind", "plant", "what"), [
    *RAW_CASES, ("codebook", another_code, "the masker run again chooses"),
])  # fmt: skip
def test_found_with_raw_though_signed(kind: str, plant: Plant, what: str, home: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(home / kind, tmp_path / "out"))
    plant(root, home / "raw")
    forge(root, sign=True)
    assert not audit(root, SIGNER.public_key()).findings, "the raw set alone can tell"
    audit_command(
        str(root), raw=str(home / "raw"), key=str(home / "key"), masker=str(checkpoint(home, kind)), compare_all=True,
        public_key=str(home / "key.pub"), json_path=str(tmp_path / "audit.json"),
    )  # fmt: skip
    found = json.loads((tmp_path / "audit.json").read_text())
    assert what in str(found["findings"])


def test_a_free_release_that_says_it_is_core_first(home: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(home / "free", tmp_path / "out"))
    description = json.loads((home / "core_first" / "manifest.json").read_text())["method"]
    forge(root, True, **description)
    audit_command(
        str(root), raw=str(home / "raw"), key=str(home / "key"), masker=str(checkpoint(home, "core_first")),
        compare_all=True, json_path=str(tmp_path / "audit.json"),
    )  # fmt: skip
    found = json.loads((tmp_path / "audit.json").read_text())
    assert "is not the masker's: run again" in str(found["findings"])


@pytest.mark.parametrize(("kind", "entry", "value", "what"), [
    ("core_first", "bits", 3.0, "method.bits is 3.0, not 0.0"),
    ("core_first", "rounds", 65, "method.rounds is 65"),
    ("core_first", "core", 0.1234567, "method.core is 0.1234567"),
    ("core_first", "share", 0.5, "masks.shown is 138, a share of 0.5 is 288 pixels"),
    ("core_first", "masker_hash", "me", "method.masker_hash is"),
    ("core_first", "kind", "free", 'method.kind is "free", not core_first'),
    ("core_first", "faces", 40, "it has entries that LearnedMask is not described by"),
    ("core_first", "mask_ratio", 0.75, "method.mask_ratio does not follow from its masks and its share"),
    ("codebook", "bits", 1.0, "method.bits does not follow from its masks and its share"),
    ("codebook", "mask_hash", "0" * 64, "its masks are not those whose hash the manifest gives"),
    ("codebook", "faces", 15, "method.faces is 15"),
    ("codebook", "masks", 4, "method.masks does not follow"),
    ("free", "bits", 0.0, "method.bits does not follow from its masks and its share"),
    ("free", "size", [24, 25], "method.size is"),
])  # fmt: skip
def test_a_forged_description(
    kind: str, entry: str, value: object, what: str, home: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(home / kind, tmp_path / "out"))
    forge(root, True, **{entry: value})
    assert what in str(said(audit(root, SIGNER.public_key())))


def shown(masks: dict[str, Any]) -> None:
    masks["shown"] = SIZE * SIZE


@pytest.mark.parametrize(("change", "what"), [
    (shown, "masks.shown is 576, not a number from 1 to 575"),
    (lambda masks: masks.update(shown=True), "masks.shown is true"),
    (lambda masks: masks.update(batch=0), "masks.batch is 0"),
    (lambda masks: masks.update(note=1), "masks has other entries than batch, codes, pairs, shown"),
    (lambda masks: masks.update(codes=1), "codebook/0000.png is missing"),
    (lambda masks: masks.update(pairs=3), "'pairs.txt' is missing"),
])  # fmt: skip
def test_a_forged_entry_of_masks(
    change: Callable[[dict[str, Any]], None], what: str, home: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(home / "core_first", tmp_path / "out"))
    manifest = json.loads((root / "manifest.json").read_text())
    change(manifest["masks"])
    (root / "manifest.json").write_text(as_written(manifest))
    set_times(root)
    assert what in str(said(audit(root)))


def test_a_codebook_with_an_odd_mask(home: Path, tmp_path: Path) -> None:
    """A public mask that nobody wears is room for a face, too."""
    root = Path(shutil.copytree(home / "codebook", tmp_path / "out"))
    used = {mask.read_bytes() for _, mask in pairs_of_files(root)}
    code = sorted((root / "codebook").iterdir())[0]
    shape = np.zeros((SIZE, SIZE), np.uint8)
    shape.reshape(-1)[: SHOWN + 1] = 1
    worn = code.read_bytes() in used
    for _, mask in pairs_of_files(root):
        if worn and mask.read_bytes() == code.read_bytes():
            put_mask(mask, shape)
    put_mask(code, shape)
    forge(root, True)
    text = str(said(audit(root, SIGNER.public_key())))
    assert "shows 139 pixels, the manifest says 138" in text
    two = sorted((root / "codebook").iterdir())
    two[1].write_bytes(two[0].read_bytes())
    forge(root, True)
    assert "two masks of the codebook are the same" in str(said(audit(root, SIGNER.public_key())))
