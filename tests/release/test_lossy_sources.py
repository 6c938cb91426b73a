"""What a source carries from hidden into visible pixels before a mask is laid on it: refused, or told."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import BinFaces, DrawnFaces, FolderFaces, RecordIOFaces
from datamodules.readers.base import FaceReader
from datamodules.readers.decode import decode
from datamodules.readers.subset import Subset
from lightning_app.desensitize import CentreBlock, GaussianBlur, MaskOut
from lightning_app.masks import save_mask
from lightning_app.release.format.entries import REASONS
from tests.datamodules.face_files import encoded, insightface_records, picture, write_records
from tests.release.released import CROP, SIZE, mask_file, raw_tree, reader_of, release

WARNED = "The images are resized"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Of the first person two images become WebP with loss, one of them under another name, and one without."""
    root = raw_tree(tmp_path / "raw", people=2, each=4)
    first = root / "Person 0"
    (first / "lossy.webp").write_bytes(encoded(picture(40), "WEBP"))
    (first / "film.jpg").write_bytes(encoded(picture(41), "WEBP", save_all=True, append_images=[picture(42)]))
    (first / "lossless.webp").write_bytes(encoded(picture(43), "WEBP", lossless=True))
    return root


def reach(kind: str, **options: object) -> int:
    """Return how far from a black square its content still shows: rows and columns beyond its lower right corner."""
    rng = np.random.default_rng(0)
    one = np.asarray(picture(3, width=160, height=160)).copy()
    other = one.copy()
    other[32:48, 32:48] = rng.integers(0, 256, (16, 16, 3))
    a, b = (decode(encoded(Image.fromarray(x), kind, **options), None, 160, "x") for x in (one, other))
    rows, columns = np.nonzero((a != b).any(0))
    return int(max(rows.max(), columns.max())) - 47


def test_a_webp_with_loss_has_no_margin() -> None:
    """The reason of it all: what the docstrings of `datamodules.readers.webp` and `guarded` say of reach."""
    assert reach("WEBP", quality=90) > 64
    assert reach("WEBP", lossless=True) == 0
    assert reach("PNG") == 0
    assert reach("JPEG", quality=90, subsampling=0) <= 7
    assert reach("JPEG", quality=90, subsampling=0, progressive=True) <= 7
    assert reach("JPEG", quality=90, subsampling=2) <= 15


@pytest.mark.parametrize("workers", [0, 2])
def test_lossy_webp_is_refused_unless_allowed(raw: Path, tmp_path: Path, workers: int) -> None:
    made = release(tmp_path, raw, workers=workers)
    assert made.manifest.refused == {"lossy WebP": 2}
    assert "lossy WebP" in REASONS
    assert sorted(Path(file).name for file, _, _ in made.refused) == ["film.jpg", "lossy.webp"]
    assert all("allow_lossy_webp" in message for _, _, message in made.refused)
    assert made.manifest.images == 9
    allowed = release(tmp_path, raw, "allowed", workers=workers, allow_lossy_webp=True)
    assert allowed.manifest.refused == {}
    assert allowed.manifest.images == 11
    assert made.manifest.files.items() <= allowed.manifest.files.items()


def test_going_on_with_the_other_setting(raw: Path, tmp_path: Path) -> None:
    release(tmp_path, raw)
    assert release(tmp_path, raw).kept == 11
    with pytest.raises(ValueError, match=r"was made with another allow_lossy_webp .* is true\)"):
        release(tmp_path, raw, allow_lossy_webp=True)
    release(tmp_path, raw, allow_lossy_webp=True, overwrite=True)
    with pytest.raises(ValueError, match=r"was made with another allow_lossy_webp \(.* was true"):
        release(tmp_path, raw)


def test_a_set_of_nothing_else(tmp_path: Path) -> None:
    for person in "ab":
        (tmp_path / "raw" / person).mkdir(parents=True)
        (tmp_path / "raw" / person / "1.webp").write_bytes(encoded(picture(1), "WEBP"))
    with pytest.raises(ValueError, match=r"\(lossy WebP: 2\); give originals, or --allow_lossy_webp"):
        release(tmp_path, tmp_path / "raw")


def test_in_records_and_in_parts_too(raw: Path, tmp_path: Path) -> None:
    images = [(number // 2, encoded(picture(number), "WEBP", lossless=number != 1)) for number in range(4)]
    write_records(tmp_path / "train.rec", insightface_records(images))
    records = RecordIOFaces(tmp_path / "train.rec", size=SIZE, cache_index=False)
    assert release(tmp_path, tmp_path, reader=records).manifest.refused == {"lossy WebP": 1}
    part = Subset(reader_of(raw).open(), torch.arange(7))
    assert release(tmp_path, tmp_path, "part", reader=part).manifest.refused == {"lossy WebP": 2}
    assert release(
        tmp_path, tmp_path, "all", reader=part, allow_lossy_webp=True
    ).manifest.refused == {}  # fmt: skip


def test_training_reads_it(raw: Path) -> None:
    batch = reader_of(raw).__getitems__(range(11))
    assert not len(batch["bad"])


def test_a_set_of_pairs_has_no_people(tmp_path: Path) -> None:
    faces = [encoded(picture(number)) for number in range(4)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((faces, [True, False])))
    reader = BinFaces(tmp_path / "lfw.bin", size=SIZE)
    with pytest.raises(ValueError, match="BinFaces does not say who is on 4 of its 4 images") as found:
        release(tmp_path, tmp_path, reader=reader)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({"crop": CROP}, f"({CROP}×{CROP} → 24×24)"),
        ({"crop": (0, 0, 24, 30)}, "(24×30 → 24×24)"),
        ({"crop": None}, "(60×50 → 24×24)"),
        ({"crop": 12}, "(12×12 → 24×24)"),
        ({"crop": 24}, ""),
        ({"crop": (5, 5, 29, 29)}, ""),
    ],
)
def test_a_resize_is_told_once(
    settings: dict[str, Any], sides: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = raw_tree(tmp_path / "raw", people=2, each=2)
    reader = FolderFaces(root, size=SIZE, cache_index=False, **settings)
    with caplog.at_level(logging.WARNING, "faceveil"):
        release(tmp_path, root, reader=reader, batch_size=1)
    told = [line for line in caplog.messages if WARNED in line]
    assert len(told) == (1 if sides else 0)
    if sides:
        assert sides in told[0]
        guard = 2 if settings["crop"] == 12 else 1
        assert f"A guard of {guard} keeps lossless sources apart (desensitizer.init_args.guard)" in told[0]
        side = {CROP: CROP, 12: 12, None: 50}.get(settings["crop"], 24)
        grey, colours = math.ceil(7 * SIZE / side) + 1, math.ceil(15 * SIZE / side) + 1
        assert (
            f"of {grey} JPEG that is grey or 4:4:4, of {colours} JPEG with colours of half the size"
            in told[0]
        )
        assert "docs/threat_model.md" in told[0]


def test_a_resize_that_needs_no_telling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = raw_tree(tmp_path / "raw", people=2, each=2)
    mask = mask_file(tmp_path / "mask.png")
    drawn: FaceReader = DrawnFaces(identities=2, images_per_identity=2, size=SIZE)
    with caplog.at_level(logging.WARNING, "faceveil"):
        release(tmp_path, root, "guarded", desensitizer=MaskOut(mask=mask, guard=1))
        release(tmp_path, root, "blurred", desensitizer=GaussianBlur(9))
        release(tmp_path, root, "drawn", reader=drawn)
    assert not [line for line in caplog.messages if WARNED in line]
    with caplog.at_level(logging.WARNING, "faceveil"):
        release(tmp_path, root, "block", desensitizer=CentreBlock())
        release(tmp_path, root, "part", reader=Subset(reader_of(root).open(), torch.arange(3)))
    assert len([line for line in caplog.messages if WARNED in line]) == 2


@pytest.mark.parametrize(("size", "guard"), [(24, 1), (60, 2), (96, 3)])
def test_the_guard_that_is_named_keeps_hidden_pixels_out(tmp_path: Path, size: int, guard: int) -> None:
    """Of a lossless source at 40 px, whose hidden part is another one: with the guard not a bit, without it some."""
    mask = torch.ones(1, size, size)
    mask[:, size // 3 : 2 * size // 3, size // 4 : 3 * size // 4] = 0
    save_mask(mask, tmp_path / "mask.png")
    rng = np.random.default_rng(0)
    side = (np.arange(CROP) + 0.5) * size / CROP  # where a source pixel's centre comes to lie
    hidden = mask[0].numpy()[side.astype(int)][:, side.astype(int)] == 0
    faces = np.asarray(picture(5, width=CROP, height=CROP))
    noisy = np.where(hidden[..., None], rng.integers(0, 256, faces.shape), faces).astype(np.uint8)
    for name, pixels in (("one", faces), ("other", noisy)):
        for person in "ab":
            (tmp_path / name / person).mkdir(parents=True)
            (tmp_path / name / person / "1.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    for margin, equal in ((guard, True), (0, False)):
        files = [
            release(
                tmp_path, tmp_path / name, f"{name} {margin}",
                desensitizer=MaskOut(tmp_path / "mask.png", guard=margin),
                reader=FolderFaces(tmp_path / name, size=size, cache_index=False),
            ).manifest.files
            for name in ("one", "other")
        ]  # fmt: skip
        assert (files[0] == files[1]) is equal, margin
