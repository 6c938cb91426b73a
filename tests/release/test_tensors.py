"""Releases of representations: what is in them, what an audit finds in spoilt ones, what a trainer makes of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from datamodules import DrawnFaces, FaceDataModule, ReleasedFaces, ReleasedPairs
from datamodules.drawing.pairs import DrawnPairs
from datamodules.readers.base import Pixels, whole
from lightning_app.core.batch import DrawKey
from lightning_app.desensitize import (
    BlockDCT,
    Chain,
    FrequencyMask,
    InstaHide,
    MaskOut,
    MixUp,
    Mosaic,
    RandomMixUp,
)
from lightning_app.release.audit import shards
from lightning_app.release.audit.run import audit
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.tensors import Layout, Stored
from lightning_app.studies.audit import audit as command
from tests.release.released import CONSTANT, contents, times
from tests.release.tensor_release import (
    KEY,
    SIZE,
    method,
    mixing,
    owner_key,
    put_hashes_right,
    reader_of,
    released,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """Releases of 6 drawn people with 8 images each: `plain`, `half` (float16), `mixed`; nobody changes them."""
    home = tmp_path_factory.mktemp("tensors")
    raw = reader_of(drawn_root)
    released(home, raw, "plain", method(home))
    released(home, raw, "half", method(home), dtype="float16")
    released(home, raw, "mixed", mixing(home), rows=24, mix_once=True)
    return home


@pytest.fixture
def spoilt(home: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(home / name, tmp_path / name))


def tensors(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    parts = [load_file(path) for path in sorted((root / "shards").iterdir())]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def findings(root: Path) -> list[str]:
    return [f"{finding.file} {finding.what}" for finding in audit(root).findings]


def on_the_fly(home: Path, drawn_root: Path) -> tuple[dict[bytes, int], torch.Tensor]:
    """Place of every image in the raw set by its pseudonym, and what `fit` makes of all of them."""
    raw = reader_of(drawn_root).open()
    names = Pseudonyms(KEY)
    at = {
        bytes.fromhex(names.image(raw.identities[int(raw.labels[i])], raw.stable_name(i))): i
        for i in range(len(raw))
    }
    images = raw.__getitems__(range(len(raw)))["image"]
    return at, FaceDataModule(raw, method(home)).desensitized(images)["image"]


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


def rewrite(root: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], None], **facts: Any) -> None:
    """Change the tensors of the first shard and write it by the safetensors library, laid out as ours."""
    path = root / "shards" / "000000.safetensors"
    values = {name: value.copy() for name, value in load_file(path).items()}
    change(values)
    manifest = Manifest.read(root)
    assert manifest.tensors is not None
    layout = Layout.of(manifest.tensors.stored, manifest.tensors.mixed, len(values["name"]))
    path.write_bytes(layout.head + b"".join(values[name].tobytes() for name in layout.parts))
    put_hashes_right(root, **facts)


def swap_names(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["name"][[0, 1]] = values["name"][[1, 0]]


def minus_zero(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"][0, 0, 0, 0] = -0.0


def not_finite(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"].view(np.uint16)[0, 0, 0, 0] = 0x7E55  # a NaN with something in it


def a_face(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["image"][:, 3] = 20


def greedy(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["weight"][0] = (0.9, 0.05, 0.05)


def a_stranger(values: dict[str, np.ndarray[Any, Any]]) -> None:
    values["identity"][0, 1] = 7


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("plain", swap_names, "its images are not in the order of their names"),
        ("half", minus_zero, "holds a value of minus zero"),
        ("half", not_finite, "holds a value that is not finite"),
        ("plain", a_face, "channel 3 of image"),
        ("mixed", greedy, "holds a share of a mix above its method's cap of 0.55"),
        ("mixed", a_stranger, "1 people are in mixes, and on no image"),
    ],
)
def test_tensors_that_no_honest_release_holds(
    spoilt: Callable[[str], Path], name: str, change: Any, words: str
) -> None:
    root = spoilt(name)
    rewrite(root, change)
    assert words in " ".join(findings(root))


def extra_tensor(path: Path) -> None:
    save_file({**load_file(path), "zzz": np.zeros(9, np.uint8)}, path)


def metadata(path: Path) -> None:
    save_file(load_file(path), path, metadata={"face": "hidden"})


def padding(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        (length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8 + data[8 + length :]
    )


def reordered_header(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(reversed(told.items())), separators=(",", ":")).encode()
    path.write_bytes(data[:8] + text.ljust(length) + data[8 + length :])


def trailing(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_dtype(path: Path) -> None:
    values = load_file(path)
    save_file(values | {"image": values["image"].view(np.int8)}, path)


FRAMES: list[tuple[Callable[[Path], None], str]] = [
    (extra_tensor, "holds 1 tensors that the manifest does not name"),
    (metadata, "its header holds __metadata__"),
    (padding, "its header is not written as"),
    (reordered_header, "its header is not written as"),
    (trailing, "has bytes after its tensors"),
    (cut_off, "it is cut off"),
    (other_dtype, "its tensor image has another dtype"),
]


@pytest.mark.parametrize(("change", "words"), FRAMES)
def test_a_shard_that_holds_more_or_less_than_its_tensors(
    spoilt: Callable[[str], Path], change: Callable[[Path], None], words: str
) -> None:
    root = spoilt("plain")
    change(root / "shards" / "000001.safetensors")
    assert "000001.safetensors its SHA-256 is not the manifest's" in " ".join(findings(root))
    put_hashes_right(root)
    found = findings(root)
    assert any(line.startswith("shards/000001.safetensors") and words in line for line in found), found
    with pytest.raises(ValueError, match="is not what its manifest says"):
        ReleasedFaces(root).open()


def test_shards_that_are_swapped(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    one, other = root / "shards" / "000001.safetensors", root / "shards" / "000003.safetensors"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    put_hashes_right(root)
    assert "its images are not in the order of their names" in " ".join(findings(root))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": 17}, "tensors has scale 17 and offset 128, its method's are"),
        ({"offset": 127}, "tensors has scale 16 and offset 127"),
        ({"mixed": 2}, "tensors.mixed is 2, its method mixes 1"),
    ],
)
def test_a_manifest_whose_tensors_are_not_its_methods(
    spoilt: Callable[[str], Path], changed: dict[str, int], words: str
) -> None:
    root = spoilt("plain")
    told = json.loads((root / "manifest.json").read_text())
    put_hashes_right(root, tensors=told["tensors"] | changed)
    assert words in " ".join(findings(root))


@pytest.mark.parametrize(
    ("changed", "facts", "words"),
    [
        (
            {"shape": [4096, 4096, 4096]},
            {"channels": 4096},
            "has 9 images, more than `desensitize` puts into a shard",
        ),
        (
            {"rows": [1 << 20] * 5},
            {"images": 5 << 20},
            "has 1048576 images, more than `desensitize` puts into",
        ),
        ({"rows": [1, *[10] * 3, 17], "shape": [4096, 4096, 4096]}, {"channels": 4096}, "it is cut off"),
    ],
)
def test_a_manifest_of_a_size_that_no_memory_has(
    spoilt: Callable[[str], Path], changed: dict[str, Any], facts: dict[str, Any], words: str
) -> None:
    root = spoilt("plain")
    told = json.loads((root / "manifest.json").read_text())
    put_hashes_right(root, tensors=told["tensors"] | changed, **facts)
    assert words in " ".join(findings(root))
    with pytest.raises(ValueError, match="is not what its manifest says"):
        ReleasedFaces(root, verify="list").open()


def test_the_numbers_of_shards_hold_nothing(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    (root / "shards" / "000004.safetensors").rename(root / "shards" / "719203.safetensors")
    told = json.loads((root / "manifest.json").read_text())
    told["files"]["shards/719203.safetensors"] = told["files"].pop("shards/000004.safetensors")
    (root / "manifest.json").write_text(json.dumps(told))
    assert "the shards are numbered up to 719203, and there are 5" in " ".join(findings(root))
    told["refused"] = {"truncated": 2}  # a shard whose images are all refused is none
    told["files"]["shards/000006.safetensors"] = told["files"].pop("shards/719203.safetensors")
    assert Manifest.parse(json.dumps(told).encode()).shards[-1] == "shards/000006.safetensors"


def test_a_number_of_images_that_is_left_open_is_mixed_of_none(
    home: Path, drawn_root: Path, spoilt: Callable[[str], Path], tmp_path: Path
) -> None:
    mixer = RandomMixUp([2, 4], key=owner_key(home))
    with pytest.raises(ValueError, match=r"mixed of another number of images, .*; take MixUp, with one k"):
        released(tmp_path, reader_of(drawn_root), "open", Chain([method(home), mixer]), mix_once=True)
    root = spoilt("mixed")
    told = json.loads((root / "manifest.json").read_text())["method"]
    told["steps"][1] |= {"method": "RandomMixUp", "k": [2, 3]}
    put_hashes_right(root, method=told)
    assert "its method leaves open how many images are mixed" in " ".join(findings(root))


def test_people_are_counted(spoilt: Callable[[str], Path]) -> None:
    root = spoilt("plain")
    put_hashes_right(root, identities=5)
    assert "identities is 5, its shards have 6" in " ".join(findings(root))


def config(home: Path, root: Path, mixed: bool = False) -> Path:
    """The config of `desensitize`."""
    step = {
        "class_path": "lightning_app.desensitize.FrequencyMask",
        "init_args": {
            "block": 4,
            "upsample": 1,
            "stride": 4,
            "permutation": "image",
            "key": str(owner_key(home)),
        },
    }
    mix = {
        "class_path": "lightning_app.desensitize.MixUp",
        "init_args": {"k": 3, "key": str(owner_key(home))},
    }
    chain = {"class_path": "lightning_app.desensitize.Chain", "init_args": {"steps": [step, mix]}}
    reader = {"class_path": "datamodules.FolderFaces",
              "init_args": {"root": str(root), "crop": 44, "size": SIZE, "cache_index": False}}  # fmt: skip
    path = home / f"config{mixed}.yaml"
    path.write_text(json.dumps({"reader": reader, "desensitizer": chain if mixed else step}))
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "pseudonyms.key"
    path.write_text(KEY.hex())
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("name", ["plain", "half", "mixed"])
def test_the_owner_makes_it_again(
    home: Path, drawn_root: Path, name: str, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = command(
        str(home / name),
        key=key_file,
        config=str(config(home, drawn_root, name == "mixed")),
        compare_all=True,
    )
    assert found.findings == []
    assert found.compared is not None
    assert (found.compared.images, found.compared.apart) == (48, 0)
    assert found.compared.values == tensors(home / name)["image"].size
    said = " ".join(capsys.readouterr().out.split())
    assert "all on the same level" in said
    assert ("0 of 144 shares differ" in said) == (name == "mixed")


def by(step: int, share: float) -> Callable[[dict[str, np.ndarray[Any, Any]]], None]:
    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        one = values["image"][0].reshape(-1)
        count = max(1, round(share * one.size))
        some = np.flatnonzero((one > 5) & (one < 250))[:count]
        one[some] += np.uint8(step)

    return change


@pytest.mark.parametrize(
    ("step", "share", "words"),
    [
        (1, 0.005, None),
        (1, 0.5, "more than another machine's rounding leaves"),
        (2, 0.0, "differs by more than a level in 1 of 960 values"),
    ],
)
def test_a_level_may_differ_and_no_more(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, step: int, share: float,
    words: str | None,
) -> None:  # fmt: skip
    root = spoilt("plain")
    rewrite(root, by(step, share))
    found = command(str(root), key=key_file, config=str(config(home, drawn_root)), compare_all=True)
    told = " ".join(finding.what for finding in found.findings)
    if words is None:
        assert told == ""
        assert found.compared is not None
        assert found.compared.apart == 5
        assert any("5 of 46,080 values carry nothing else" in line for line in found.unproven)
    else:
        assert words in told


@pytest.mark.parametrize(("bits", "sign"), [(1, True), (1, False), (6, True)])
def test_a_message_in_the_shares_of_mixes_is_counted_or_found(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, bits: int, sign: bool,
) -> None:  # fmt: skip
    """The lowest bits of float32 shares have room for a name; what rounding may leave is told as not proven."""

    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        raw = values["weight"].view(np.uint32)
        raw ^= np.uint32((1 << bits) - 1) if sign else np.uint32(0)

    root = spoilt("mixed")
    rewrite(root, change)
    found = command(str(root), key=key_file, config=str(config(home, drawn_root, True)), compare_all=True)
    told = " ".join(finding.what for finding in found.findings)
    assert found.compared is not None
    assert found.compared.shares == 48 * 3
    assert found.compared.shares_apart == (24 * 3 if sign else 0)  # of the first shard
    open_ = [line for line in found.unproven if "72 of 144 shares of mixes carry nothing else" in line]
    assert len(open_) == int(sign)
    assert ("holds other shares of a mix" in told) == (bits == 6)
    assert bool(told) == (bits == 6)


def test_images_that_change_places_are_found_by_the_owner(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str
) -> None:
    """Where `permutation: image` draws by number, another place is another image; so are the people on it."""

    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        values["image"][[0, 1]] = values["image"][[1, 0]]

    root = spoilt("plain")
    rewrite(root, change)
    assert findings(root) == []  # nobody else can tell
    found = command(str(root), key=key_file, config=str(config(home, drawn_root)), compare_all=True)
    assert sum("differs by more than a level" in finding.what for finding in found.findings) == 2


def test_other_labels_and_other_keys_are_found_by_the_owner(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, tmp_path: Path
) -> None:
    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        values["identity"][0, 1] = values["identity"][5, 0]
        values["identity"][1, 1] = values["identity"][6, 0]
        values["identity"][2, 1] = values["identity"][7, 0]

    root = spoilt("mixed")
    rewrite(root, change)
    found = command(str(root), key=key_file, config=str(config(home, drawn_root, True)), compare_all=True)
    assert any("other people are on them" in finding.what for finding in found.findings)
    other = tmp_path / "other"
    other.mkdir()
    found = command(str(home / "plain"), key=key_file, config=str(config(other, drawn_root)))
    assert any(
        "its method is not that of --config's FrequencyMask: key_hash" in f.what for f in found.findings
    )
    found = command(str(home / "plain"), raw=str(drawn_root), key=key_file)
    assert any("whose desensitizer names the owner's key file" in finding.what for finding in found.findings)


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


def test_the_trainer_reads_it_row_by_row(home: Path, drawn_root: Path) -> None:
    at, made = on_the_fly(home, drawn_root)
    reader = ReleasedFaces(home / "plain").open()
    names = Pseudonyms(KEY)
    assert reader.identities == sorted(names.identity(f"Drawn_{i:05d}") for i in range(6))
    data = FaceDataModule(reader)
    assert (data.in_channels, data.input_size, data.size) == (15, 8, SIZE)
    batch = reader.__getitems__([40, 3, 17])
    assert batch["image"].shape == (3, 15, 8, 8)
    order = [at[bytes.fromhex(reader.stable_name(i).split("/")[1])] for i in (40, 3, 17)]
    ready = data._desensitized_once(batch)["image"]
    assert float((ready - made[order].clamp(-8, 127 / 16)).abs().max()) <= 0.5 / 16 + 1e-4
    loader = torch.utils.data.DataLoader(reader, batch_size=16, collate_fn=whole, num_workers=1)
    everything = torch.cat([one["image"] for one in loader])
    assert torch.equal(everything, reader.__getitems__(range(48))["image"])
    few = ReleasedFaces(home / "plain", max_images=2).open()
    assert torch.bincount(few.labels).tolist() == [2] * 6


def test_mixed_labels_come_with_the_images(home: Path, drawn_root: Path) -> None:
    reader = ReleasedFaces(home / "mixed").open()
    batch = reader.__getitems__(range(48))
    assert torch.equal(batch["target"][:, 0], batch["identity"])
    torch.testing.assert_close(batch["weight"].sum(1), torch.ones(48))
    loader = torch.utils.data.DataLoader(reader, batch_size=16, collate_fn=whole, num_workers=1)
    assert torch.equal(torch.cat([one["target"] for one in loader]), batch["target"])
    # a mix of one shard, by hand: the same images, in the order of their names
    shard = load_file(home / "mixed" / "shards" / "000000.safetensors")
    raw = reader_of(drawn_root).open()
    at, _ = on_the_fly(home, drawn_root)
    order = [at[bytes(name)] for name in shard["name"]]
    images = raw.__getitems__(order)
    fed = images | {"image": images["image"].float() / 255, "index": torch.tensor(order)}
    mixer = mixing(home)
    mixer.prepare((SIZE, SIZE))
    by_hand = mixer.forward(fed, DrawKey(mix=True))
    values = (torch.from_numpy(shard["image"]).float() - 128) / 16
    assert float((values - by_hand["image"].clamp(-8, 127 / 16)).abs().max()) <= 0.5 / 16 + 1e-4
    np.testing.assert_allclose(shard["weight"], by_hand["weight"].numpy(), atol=1e-6)
    with pytest.raises(ValueError, match=r"val_share=0\.2, but the images of this release are mixes"):
        FaceDataModule(ReleasedFaces(home / "mixed"), val_share=0.2)
    with pytest.raises(ValueError, match="min_images=2"):
        ReleasedFaces(home / "mixed", min_images=2)


def test_raw_images_need_the_owners_key(home: Path, drawn_root: Path) -> None:
    data = FaceDataModule(ReleasedFaces(home / "plain"))
    clean = reader_of(drawn_root).__getitems__([0, 1])["image"]
    with pytest.raises(
        ValueError, match="the release was made by FrequencyMask with the owner's key, which is not here"
    ):
        data.desensitized(clean)
    owner = FaceDataModule(ReleasedFaces(home / "plain", own_desensitizer=method(home)))
    assert owner.desensitized(clean)["image"].shape == (2, 15, 8, 8)
    with pytest.raises(ValueError, match=r"the released set was desensitized by FrequencyMask"):
        FaceDataModule(ReleasedFaces(home / "plain", own_desensitizer=method(home, permutation="fixed")))


def test_a_cache_holds_what_is_stored(home: Path) -> None:
    from datamodules.readers.cached import CachedReader

    reader = ReleasedFaces(home / "half").open()
    cached = CachedReader(reader)
    assert cached.pixels.dtype == torch.float16
    assert torch.equal(cached.__getitems__([5, 2])["image"], reader.__getitems__([5, 2])["image"])


@pytest.fixture(scope="module")
def verified(home: Path) -> Path:
    pairs = DrawnPairs(4, 5, folds=2, pairs_per_fold=10, size=SIZE)
    released(home, pairs, "pairs", method(home))
    return home / "pairs"


def test_a_release_to_verify_on(verified: Path, spoilt: Callable[[str], Path]) -> None:
    assert audit(verified).findings == []
    reader = ReleasedPairs(verified)
    raw = DrawnPairs(4, 5, folds=2, pairs_per_fold=10, size=SIZE)
    names = Pseudonyms(KEY)
    called = [names.image(raw.identities[int(raw.labels[i])], raw.stable_name(i)) for i in range(len(raw))]
    wanted = {
        (*sorted((called[a], called[b])), same, fold)
        for a, b, same, fold in zip(
            raw.pairs.a.tolist(),
            raw.pairs.b.tolist(),
            raw.pairs.same.tolist(),
            raw.pairs.folds.tolist(),
            strict=True,
        )
    }
    listed = reader.pairs
    found = {
        (*sorted((listed.names[a], listed.names[b])), same, fold)
        for a, b, same, fold in zip(
            listed.a.tolist(), listed.b.tolist(), listed.same.tolist(), listed.folds.tolist(), strict=True
        )
    }
    assert found == wanted
    for change, words in (
        (lambda text: text.replace(" 1 0\n", " 0 0\n", 1), "otherwise than its shards"),
        (lambda text: "\n".join(reversed(text.split("\n"))).lstrip("\n") + "\n", "is not in its place"),
        (lambda text: text[text.index("\n") + 1 :], "has 39 pairs, the manifest says 40"),
        (lambda text: text * 2, "is longer than the 40 pairs that the manifest says"),
    ):
        root = spoilt("pairs")
        path = root / "pairs.txt"
        path.write_text(change(path.read_text()))
        put_hashes_right(root)
        assert words in " ".join(findings(root)), words
        shutil.rmtree(root)


def test_a_release_without_pairs_is_not_verified_on(home: Path) -> None:
    with pytest.raises(ValueError, match="this release has no pairs to verify on"):
        ReleasedPairs(home / "plain")


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
