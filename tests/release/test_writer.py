from __future__ import annotations

import errno
import io
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from torch import Tensor

from datamodules import DrawnFaces, FaceDataModule, FolderFaces, RecordIOFaces
from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.png import encode_png
from lightning_app.desensitize import (
    CentreBlock,
    CentreBlur,
    Desensitizer,
    GaussianBlur,
    Identity,
    MaskOut,
    Mosaic,
)
from lightning_app.masks import load_mask, mask_hash, mask_ratio
from lightning_app.release import Manifest, Pseudonyms
from lightning_app.release.format.signing import fingerprint, signature_holds
from tests.datamodules.face_files import encoded, insightface_records, picture, write_records
from tests.release.released import (
    CONSTANT,
    KEY,
    SIZE,
    chunks,
    contents,
    mask_file,
    raw_tree,
    reader_of,
    release,
    times,
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return raw_tree(tmp_path / "raw")


def on_the_fly(reader: FaceReader, desensitizer: Desensitizer) -> dict[int, Tensor]:
    """What `fit` makes in a validation, as uint8 by number of the image."""
    data = FaceDataModule(reader, desensitizer)
    data.setup("validate")
    batch = data.desensitize_batch(reader.__getitems__(range(len(reader))))
    return dict(enumerate((batch["image"] * 255).round().to(torch.uint8)))


def released_pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        pixels = np.asarray(image)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(channels.copy()).expand(3, -1, -1)


class Brighter(MaskOut):
    """More than its mask: what is exact for `MaskOut` alone must not be done to it."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        desensitized["image"] = desensitized["image"].sqrt()
        return desensitized


@pytest.mark.parametrize("make", [
    lambda mask: MaskOut(mask=mask), lambda mask: MaskOut(mask=mask, guard=1), Brighter,
    lambda mask: MaskOut(freeform=(0.4, 0.5), seed=3), lambda mask: CentreBlock(), lambda mask: CentreBlur(),
    lambda mask: GaussianBlur(9), lambda mask: GaussianBlur(18), lambda mask: Mosaic(8),
])  # fmt: skip
def test_pixels_equal_those_made_on_the_fly(
    make: Callable[[Path], Desensitizer], raw: Path, tmp_path: Path
) -> None:
    desensitizer = make(mask_file(tmp_path / "mask.png"))
    made = release(tmp_path, raw, desensitizer=desensitizer)
    expected = on_the_fly(reader_of(raw), desensitizer)
    assert made.made == len(made.plan) == 20
    for place in range(20):
        found = released_pixels(tmp_path / "out" / made.plan.file(place))
        assert torch.equal(found, expected[made.plan.index(place)])
    batch = desensitizer({"image": torch.rand(1, 3, SIZE, SIZE), "index": torch.zeros(1, dtype=torch.int64)})
    mask = batch["mask"]
    if mask is None:
        assert made.manifest.mask is None
        assert not (tmp_path / "out" / "mask.png").exists()
    else:
        assert torch.equal(load_mask(tmp_path / "out" / "mask.png"), mask[0])
        entry = made.manifest.mask
        assert entry is not None
        assert (entry.mask_hash, entry.mask_ratio) == (mask_hash(mask), mask_ratio(mask[0]))
        assert entry.guard == getattr(desensitizer, "guard", 0)


def test_the_layout_and_nothing_else(raw: Path, tmp_path: Path) -> None:
    made = release(tmp_path, raw)
    out = tmp_path / "out"
    names = Pseudonyms(KEY)
    wanted = {
        f"images/{names.identity(f'Person {p}')}/{names.image(f'Person {p}', f'Person {p}/{n}.{kind}')}.png"
        for p, kind in enumerate(["jpg", "jpg", "jpg", "png"]) for n in range(5)
    }  # fmt: skip
    found = contents(out)
    assert set(found) == wanted | {"manifest.json", "mask.png", "mask.json"}
    assert times(out) == CONSTANT
    for name, data in found.items():
        assert b"Person" not in data
        if name.endswith(".png"):
            assert set(chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}, name
    assert Manifest.read(out) == made.manifest
    assert made.manifest.to_bytes() == found["manifest.json"]
    facts = json.loads(found["manifest.json"])
    assert (facts["identities"], facts["images"], facts["channels"], facts["crop"]) == (4, 20, 3, 40)
    assert facts["refused"] == {}
    assert facts["signer"] is None
    assert "mask" not in facts["method"]
    assert {"faceveil", "python", "torch", "torchvision", "pillow", "numpy"} <= set(facts["versions"])
    assert not [p for p in out.rglob("*") if p.is_dir() and not any(p.iterdir())]


def test_the_same_bytes_whoever_does_the_work(raw: Path, tmp_path: Path) -> None:
    alone = release(tmp_path, raw, "alone")
    together = release(tmp_path, raw, "together", workers=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")
    assert alone.manifest == together.manifest
    moved = (tmp_path / "raw").rename(tmp_path / "elsewhere")
    assert release(tmp_path, moved, "moved").manifest == alone.manifest


def test_grey_sources_stay_grey(raw: Path, tmp_path: Path) -> None:
    for path in (raw / "Person 3").iterdir():
        path.unlink()
    (raw / "Person 3" / "0.png").write_bytes(
        encoded(picture(0, "L").convert("RGB"), "PNG")
    )  # grey all the same
    made = release(tmp_path, raw)
    assert made.manifest.channels == 1
    for place in range(len(made.plan)):
        with Image.open(tmp_path / "out" / made.plan.file(place)) as image:
            assert image.mode == "L"


@pytest.mark.parametrize("compression", [0, 1, 2, 6, 9])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (1, 1), (24, 24, 3)])
def test_png_without_loss(compression: int, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_png(pixels, compression)
    assert chunks(data) == [b"IHDR", b"IDAT", b"IEND"]
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_other_readers(tmp_path: Path) -> None:
    images = [(label, encoded(picture(number, "RGB"))) for number, label in enumerate([3, 3, 5, 5, 5])]
    write_records(tmp_path / "train.rec", insightface_records(images))
    records = RecordIOFaces(tmp_path / "train.rec", size=SIZE, cache_index=False)
    drawn = DrawnFaces(identities=3, images_per_identity=2, size=SIZE)
    for name, reader in (("records", records), ("drawn", drawn)):
        made = release(tmp_path, tmp_path, name, reader=reader, workers=2)
        desensitizer = MaskOut(mask=tmp_path / "mask.png")
        expected = on_the_fly(reader, desensitizer)
        for place in range(len(made.plan)):
            found = released_pixels(tmp_path / name / made.plan.file(place))
            assert torch.equal(found, expected[made.plan.index(place)])
    part = Subset(drawn, torch.tensor([1, 5]))
    assert release(tmp_path, tmp_path, "part", reader=part).manifest.images == 2
    assert set(contents(tmp_path / "part")) < set(contents(tmp_path / "drawn"))


def test_a_signature_that_holds(raw: Path, tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    plain = release(tmp_path, raw)
    signed = release(tmp_path, raw, signer=key)  # a finished release may be signed later
    assert (signed.made, signed.kept) == (0, 20)
    assert signed.manifest.signer == fingerprint(key.public_key())
    content = (tmp_path / "out" / "manifest.json").read_bytes()
    signature = (tmp_path / "out" / "manifest.sig").read_text()
    assert len(bytes.fromhex(signature.strip())) == 64
    key.public_key().verify(bytes.fromhex(signature.strip()), content)
    assert signature_holds(content, signature, key.public_key())
    assert not signature_holds(content + b" ", signature, key.public_key())
    assert not signature_holds(content, signature, other.public_key())
    assert not signature_holds(content, "no hex", key.public_key())
    assert times(tmp_path / "out") == CONSTANT
    for signer, words in ((None, "not given"), (other, "another one")):
        with pytest.raises(ValueError, match=f"is signed by .*, --sign-key is {words}"):
            release(tmp_path, raw, signer=signer)
    assert (tmp_path / "out" / "manifest.sig").read_text() == signature
    again = release(tmp_path, raw, signer=None, overwrite=True)
    assert again.manifest == plain.manifest
    assert not (tmp_path / "out" / "manifest.sig").exists()


class Odd(Desensitizer):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0
        self.is_image = how != "frequencies"

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        self.calls += 1
        desensitized = batch.copy()
        mask = torch.ones(1, 1, SIZE, SIZE)
        mask[..., : 3 + self.calls if self.how == "another mask" else 5, :] = 0
        desensitized["image"] = batch["image"] * (1 if self.how == "leaves pixels" else mask)
        if self.how == "too bright":
            desensitized["image"] = desensitized["image"] + 0.5
        if self.how == "NaN":
            desensitized["image"] = desensitized["image"] / 0
        if self.how == "mixes":
            desensitized["identity"] = torch.eye(2)
        desensitized["mask"], desensitized["mask_index"] = mask, batch["index"] * 0
        return desensitized


@pytest.mark.parametrize(
    ("desensitizer", "message"),
    [
        (lambda: Identity(), "Identity changes nothing, the release would be the raw set"),
        (
            lambda: MaskOut(freeform=(0.4, 0.5), count=9),
            "MaskOut has a mask for each image, and a release has one for all",
        ),
        (lambda: Odd("frequencies"), "Odd returns no pictures"),
        (lambda: Odd("mixes"), "Odd mixes identities"),
        (lambda: Odd("another mask"), "Odd changed its mask"),
        (lambda: Odd("leaves pixels"), "Odd left something under its mask"),
        (lambda: Odd("too bright"), r"Odd returned \[3, 3, 24, 24\] in 0\.5 … 1\.\d+, not .* in 0 … 1"),
        (lambda: Odd("NaN"), "Odd returned .* not"),
    ],
)
def test_what_cannot_be_released(
    desensitizer: Callable[[], Desensitizer], message: str, raw: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as found:
        release(tmp_path, raw, desensitizer=desensitizer())
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not [name for name in contents(tmp_path) if name.startswith("out/")]


class OwnPlace(FolderFaces):
    """A reader of somebody else's that keeps its folder under a name of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, size=SIZE, cache_index=False)
        self.mine = Path(folder)

    def places(self) -> list[Path]:
        return [self.mine]


def test_a_release_never_lies_in_the_raw_set_whatever_reads_it(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the raw set .* and the release must not lie in one another"):
        release(tmp_path, raw, reader=OwnPlace(raw), output=raw / "out")


def test_bad_arguments(raw: Path, tmp_path: Path) -> None:
    for changed, message in (
        ({"compression": 10}, "compression: 10; give a zlib level from 0 to 9"),
        ({"batch_size": 0}, "batch_size: 0; give at least 1"),
        ({"workers": -1}, "workers: -1; give at least 0"),
        ({"output": raw / "out"}, "the raw set .* and the release must not lie in one another"),
        ({"output": tmp_path}, "the release must not lie in one another|lies in the released folder"),
        ({"owner": tmp_path / "out" / "mine"}, "the owner's folder .*: lies in the released folder"),
        ({"reader": CachedReader(reader_of(raw))}, "give the reader without a cache"),
        ({"key": b"short"}, "key: 5 bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            release(tmp_path, raw, **changed)
    assert not (tmp_path / "out").exists()


def small_disk(where: Path) -> Iterator[Path]:
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    yield from small_disk(tmp_path / "small")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk(full: Path, tmp_path: Path, workers: int) -> None:
    raw = raw_tree(tmp_path / "many", people=10, each=6)
    with pytest.raises(
        OSError, match=r"no space left on the disk .*: \d+ of 60 images are done in .*goes on"
    ) as found:
        release(tmp_path, raw, output=full / "out", workers=workers)
    assert "\n" not in str(found.value)
    done = contents(full / "out")
    assert done
    assert all(name.startswith("images/") for name in done), done.keys()
    whole = release(tmp_path, raw, "elsewhere")
    assert done.items() <= contents(tmp_path / "elsewhere").items()
    assert whole.manifest.images == 60
    subprocess.run(["mount", "-o", "remount,size=4m", full], check=True)
    rest = release(tmp_path, raw, output=full / "out", workers=workers)
    assert rest.kept > 0
    assert contents(full / "out") == contents(tmp_path / "elsewhere")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_write_that_fails(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    count = 0

    def stamp(path: int) -> None:
        nonlocal count
        count += 1
        if count > 8:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("lightning_app.release.write.work.stamp", stamp)
    words = "no space left on the disk" if number != errno.EROFS else "Read-only file system"
    with pytest.raises(OSError, match=words):
        release(tmp_path, raw)
    assert len(contents(tmp_path / "out")) == 8
    monkeypatch.undo()
    assert release(tmp_path, raw).kept == 6, "two batches of three were journalled"


def test_refused_files_are_for_the_owner(raw: Path, tmp_path: Path) -> None:
    (raw / "Person 0" / "1.jpg").write_bytes(b"")
    made = release(tmp_path, raw)
    assert made.refused == [(str(raw / "Person 0" / "1.jpg"), "empty file", made.refused[0][2])]
    assert "Person" not in json.dumps(made.manifest.refused)
    assert made.manifest.refused == {"empty file": 1}
