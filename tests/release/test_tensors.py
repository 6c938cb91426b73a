"""Releases of representations: what stands in them, and how one is written, refused and gone on with."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from datamodules import DrawnFaces, FaceDataModule, ReleasedFaces
from datamodules.readers.base import Pixels
from lightning_app.desensitize import BlockDCT, Chain, FrequencyMask, InstaHide, MaskOut, MixUp, Mosaic
from lightning_app.release.audit import shards
from lightning_app.release.audit.run import audit
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.tensors import Layout, Stored
from tests.release.released import CONSTANT, contents, times
from tests.release.tensor_release import (
    SIZE,
    method,
    mixing,
    on_the_fly,
    owner_key,
    reader_of,
    released,
    tensors,
)


def test_a_release_is_what_fit_makes_on_the_fly_within_half_a_level(home: Path, drawn_root: Path) -> None:
    at, made = on_the_fly(home, drawn_root)
    there = tensors(home / "plain")
    order = [at[bytes(name)] for name in there["name"]]
    assert sorted(order) == list(range(48))
    assert order != sorted(order)
    values = (torch.from_numpy(there["image"]).float() - 128) / 16
    inside = made[order].clamp(-8, 127 / 16)
    assert float((values - inside).abs().max()) <= 0.5 / 16 + 1e-4
    half = tensors(home / "half")
    torch.testing.assert_close(torch.from_numpy(half["image"]).float(), made[order], rtol=1e-3, atol=1e-4)
    manifest = Manifest.read(home / "plain")
    assert manifest.tensors is not None
    assert (manifest.version, manifest.channels, manifest.tensors.rows) == (3, 15, [9, 10, 9, 10, 10])
    assert (manifest.tensors.scale, manifest.tensors.offset, manifest.tensors.dtype) == (16, 128, "uint8")
    assert times(home / "plain") == CONSTANT


def test_a_shard_is_a_safetensors_file_of_known_bytes(home: Path) -> None:
    for name, k in (("plain", 1), ("half", 1), ("mixed", 3)):
        manifest = Manifest.read(home / name)
        assert manifest.tensors is not None
        for shard, rows in zip(manifest.shards, manifest.tensors.rows, strict=True):
            layout = Layout.of(manifest.tensors.stored, k, rows)
            data = (home / name / shard).read_bytes()
            assert data.startswith(layout.head)
            assert len(data) == layout.size
            with safe_open(home / name / shard, "np") as file:
                assert file.metadata() is None
                assert set(file.keys()) == {"name", "identity", "image"} | ({"weight"} if k > 1 else set())
                for part in file.keys():  # noqa: SIM118  # no dict
                    assert np.array_equal(file.get_tensor(part), layout.view(data, part))


def test_an_honest_release_passes(home: Path) -> None:
    for name in ("plain", "half", "mixed"):
        found = audit(home / name)
        assert found.findings == []
        assert found.files == 48
        assert any("every value depends on the face" in note for note in found.notes)
    assert any("tell who is in each mix" in note for note in audit(home / "mixed").notes)


def test_what_cannot_be_released(home: Path, drawn_root: Path, tmp_path: Path) -> None:
    raw = reader_of(drawn_root)
    for desensitizer, more, words in (
        (method(home, key=None), {}, "none is given as a file"),
        (mixing(home), {}, "Give mix_once: true to mix once for all"),
        (method(home), {"mix_once": True}, "mix_once: true, but FrequencyMask mixes nothing"),
        (MixUp(3, cap=0.95, key=owner_key(home)), {"mix_once": True}, "cap 0.95 lets a mix be one face's picture"),
        (method(home, redraw="epoch"), {}, "redraw: epoch, and a release is drawn once"),
        (BlockDCT(block=4, upsample=1, stride=4), {"dtype": "uint8"}, "lie on no grid of 256 levels"),
        (BlockDCT(block=4, upsample=1, stride=4), {}, "its channels are the image, which anybody turns back"),
        (MaskOut(freeform=(0.4, 0.5)), {"dtype": "float16"}, "are released as PNG; leave it out"),
        (method(home), {"compression": 6}, "representations are not compressed"),
        (Chain([method(home), MixUp(k=30, key=owner_key(home))]), {"mix_once": True}, "mixes k=30 images, and only 24"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            released(tmp_path, raw, "out", desensitizer, rows=24, **more)
    inside = tmp_path / "out"
    inside.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="lies in the released folder"):
        released(tmp_path, raw, "out", method(inside))


def test_the_size_is_told_and_a_full_disk_said_before(
    home: Path,
    drawn_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with (
        caplog.at_level("INFO", "faceveil"),
        pytest.raises(OSError, match="are free there: make room, or release less"),
    ):
        released(tmp_path, reader_of(drawn_root), "out", method(home))
    size = sum(path.stat().st_size for path in (home / "plain" / "shards").iterdir())
    assert f"The release takes {size / 1e6:.1f} MB: 48 images of 15×8×8 uint8, in 5 shards" in caplog.text
    assert not (tmp_path / "out").exists()


def test_mixed_pictures_and_instahide_keep_to_the_pixel_grid(
    home: Path, drawn_root: Path, tmp_path: Path
) -> None:
    raw = reader_of(drawn_root)
    for name, desensitizer in (
        ("mixup", MixUp(k=2, key=owner_key(home))), ("instahide", InstaHide(k=2, key=owner_key(home))),
        ("chain", Chain([Mosaic(8), MixUp(k=2, key=owner_key(home))])),
    ):  # fmt: skip
        made = released(tmp_path, raw, name, desensitizer, rows=24, mix_once=True)
        assert made.manifest.tensors is not None
        assert made.manifest.tensors.stored == Stored("uint8", (3, SIZE, SIZE), 255, 0)
        assert made.clipped == 0
        assert audit(tmp_path / name).findings == []
        data = FaceDataModule(ReleasedFaces(tmp_path / name))
        clean = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
        alone = FaceDataModule(DrawnFaces(size=SIZE), Mosaic(8) if name == "chain" else None)
        assert torch.equal(data.desensitized(clean)["image"], alone.desensitized(clean)["image"])  # not mixed
        assert (data.mean, data.std) == (0.5, 0.5)


def test_small_channels_with_random_signs_pass(
    home: Path, drawn_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of 64 values of random signs deviates by an eighth. Every image is looked at here, not some."""
    monkeypatch.setattr(shards, "_LOOKED_AT", 1000)
    signed = Chain([method(home), InstaHide(k=2, key=owner_key(home))])
    released(tmp_path, reader_of(drawn_root), "signed", signed, rows=24, mix_once=True)
    assert audit(tmp_path / "signed").findings == []


def test_it_is_gone_on_with(home: Path, drawn_root: Path, tmp_path: Path) -> None:
    """A shard that is changed or gone is made again, the rest kept; the bytes are the same, of many processes too."""
    raw = reader_of(drawn_root)
    released(tmp_path, raw, "out", method(home), workers=2)
    assert contents(tmp_path / "out") == contents(home / "plain")
    (tmp_path / "out" / "shards" / "000002.safetensors").unlink()
    path = tmp_path / "out" / "shards" / "000004.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    again = released(tmp_path, raw, "out", method(home))
    assert (again.made, again.kept) == (19, 29)
    assert contents(tmp_path / "out") == contents(home / "plain")
    with pytest.raises(ValueError, match=r"was made with another .*tensors\.dtype"):
        released(tmp_path, raw, "out", method(home), dtype="float16")
    released(tmp_path, raw, "out", MaskOut(freeform=(0.4, 0.5)), overwrite=True)  # pictures in its place
    assert not (tmp_path / "out" / "shards").exists()


def test_a_bad_image_is_refused_and_mended(home: Path, drawn_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn_root, tmp_path / "raw"))
    bad = sorted(root.rglob("*.*"))[5]
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    made = released(tmp_path, reader_of(root), "out", method(home))
    assert made.manifest.images == 47
    assert audit(tmp_path / "out").findings == []
    bad.write_bytes(good)
    assert released(tmp_path, reader_of(root), "out", method(home)).manifest.images == 48
    assert contents(tmp_path / "out") == contents(home / "plain")


def test_levels_are_told_apart() -> None:
    stored = Stored("uint8", (1, 1, 4), 16, 128)
    made, clipped = stored.store(torch.tensor([[[[-9.0, 0.0, 0.03126, 7.9375]]]]))
    assert made.tolist() == [[[[0, 128, 129, 255]]]]
    assert clipped == 1
    for odd in ("nan", "inf", "-inf"):
        with pytest.raises(ValueError, match="not finite"):
            stored.store(torch.tensor([[[[0.0, float(odd), 1.0, 2.0]]]]))
    half = Stored("float16", (1, 1, 2))
    made, _ = half.store(torch.tensor([[[[-1e-9, 2.0]]]]))
    assert made.tobytes() == np.array([0.0, 2.0], np.float16).tobytes()  # a zero without a sign
    with pytest.raises(ValueError, match="too large for float16"):
        half.store(torch.tensor([[[[1e6, 0.0]]]]))


def test_drawn_faces_of_many_people_are_spread_over_the_shards(home: Path, tmp_path: Path) -> None:
    """Sorted by the image's pseudonym, a shard holds several people: what is mixed is mixed with others."""
    released(tmp_path, DrawnFaces(6, 8, size=SIZE), "out", FrequencyMask(
        block=4, upsample=1, stride=4, key=owner_key(home)
    ))  # fmt: skip
    for shard in sorted((tmp_path / "out" / "shards").iterdir()):
        assert len(np.unique(load_file(shard)["identity"][:, 0], axis=0)) > 2


class Slow(DrawnFaces):
    """Slow enough to be killed in its midst; notes every image read in a file."""

    def __init__(self, log: Path, pause: float = 0.004) -> None:
        super().__init__(identities=20, images_per_identity=6, size=SIZE)
        self.log, self.pause = log, pause

    def read(self, index: int) -> Pixels:
        with self.log.open("ab", buffering=0) as file:
            file.write(b"x")
        time.sleep(self.pause)
        return super().read(index)


@pytest.mark.slow
def test_ten_kills_leave_no_trace(home: Path, tmp_path: Path) -> None:
    log, draw = tmp_path / "reads.log", random.Random(3)
    log.touch()
    released(tmp_path, Slow(tmp_path / "plain.log", 0), "undisturbed", method(home), rows=3)
    expected = contents(tmp_path / "undisturbed")
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        before = log.stat().st_size
        process = fork.Process(target=released, args=(tmp_path, Slow(log), "out", method(home), 3))
        process.start()
        wanted = before + draw.randrange(3, 15)
        while process.is_alive() and log.stat().st_size < wanted:
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "finished before it was killed"
        there = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
        assert "manifest.json" not in there
        for name, data in there.items():
            assert ".part" in name or data == expected[name], f"{name} is half a file"
    last = released(tmp_path, Slow(log, 0), "out", method(home), rows=3)
    assert last.kept > 0, "all was done anew"
    assert contents(tmp_path / "out") == expected
    assert times(tmp_path / "out") == CONSTANT
