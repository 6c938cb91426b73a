from __future__ import annotations

import csv
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from PIL import Image

from datamodules import FaceDataModule, FolderFaces
from lightning_app.core.key_file import load_key, make_key
from lightning_app.desensitize import MaskOut
from lightning_app.release import Manifest, Pseudonyms
from tests.command_line import RunMain, refused

READER = "datamodules.FolderFaces"
MASK_OUT = "lightning_app.desensitize.MaskOut"


def config_of(path: Path, root: Path, **more: object) -> Path:
    """A release of the drawn set of 6 people with 8 images each under a free-form mask."""
    config: dict[str, object] = {
        "reader": {"class_path": READER, "init_args": {"root": str(root), "crop": 44, "size": 32}},
        "desensitizer": {"class_path": MASK_OUT, "init_args": {"freeform": [0.5, 0.6], "guard": 1}},
        "output": "released/set",
        "workers": 0,
    }
    path.write_text(yaml.safe_dump(config | more))
    return path


def test_a_whole_set(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path / "mine.yaml", drawn_root, workers=2)
    run_main("desensitize", "--config", config, "--pseudonym_table")
    shown = capsys.readouterr().out
    assert "released: released/set/manifest.json" in shown
    assert "48 of 6 identities" in shown
    assert re.search(r"outside the identities' folders +1 ", shown)  # pairs.txt
    out, owner = Path("released/set"), Path("runs/mine")
    manifest = Manifest.read(out)
    assert (manifest.images, manifest.identities, manifest.channels) == (48, 6, 3)
    assert manifest.refused == {"outside the identities' folders": 1}
    assert manifest.mask is not None
    assert manifest.mask.guard == 1
    assert {p.name for p in owner.iterdir()} == {
        "config.yaml", "desensitize.lock", "journal.jsonl", "metrics.json", "pseudonyms.csv", "pseudonyms.key",
        "refused.csv",
    }  # fmt: skip
    for name in ("pseudonyms.key", "pseudonyms.csv", "refused.csv", "journal.jsonl"):
        assert stat.S_IMODE((owner / name).stat().st_mode) == 0o600, name
    metrics = json.loads((owner / "metrics.json").read_text())
    assert metrics["release/images"] == 48
    assert metrics["release/mask_hash"] == manifest.mask.mask_hash
    assert metrics["release/peak_memory_mb"] > 10
    with (owner / "refused.csv").open() as rows:
        assert list(csv.reader(rows)) == [
            ["file", "reason", "message"], [str(drawn_root / "pairs.txt"), "outside the identities' folders", ""],
        ]  # fmt: skip
    names = Pseudonyms(load_key(owner / "pseudonyms.key"))
    with (owner / "pseudonyms.csv").open() as rows:
        table = {row["file"]: row["pseudonym"] for row in csv.DictReader(rows)}
    assert len(table) == 48
    reader = FolderFaces(drawn_root, crop=44, size=32, cache_index=False)
    data = FaceDataModule(reader, MaskOut(freeform=(0.5, 0.6), guard=1))
    batch = data.desensitize_batch(reader.__getitems__(range(48)))["image"]
    for index in (0, 11, 47):
        who = reader.identities[index // 8]
        file = reader.stable_name(index)
        assert table[file] == f"images/{names.identity(who)}/{names.image(who, file)}.png"
        with Image.open(out / table[file]) as image:
            expected = (batch[index] * 255).round().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_it_goes_on_and_never_replaces_unasked(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path / "mine.yaml", drawn_root)
    run_main("desensitize", "--config", config)
    before = Path("released/set/manifest.json").read_bytes()
    key = Path("runs/mine/pseudonyms.key").read_bytes()
    run_main("desensitize", "--config", "runs/mine/config.yaml")
    assert "made earlier" in capsys.readouterr().out
    assert Path("released/set/manifest.json").read_bytes() == before
    guard = "--desensitizer.init_args.guard"
    line = refused(capsys, lambda: run_main("desensitize", "--config", config, guard, 2))
    assert "was made with another method.guard" in line
    assert "(method.guard was 1, is 2)" in line
    assert Path("released/set/manifest.json").read_bytes() == before
    run_main("desensitize", "--config", config, guard, 2, "--overwrite")
    assert Manifest.read("released/set").method["guard"] == 2
    assert Path("runs/mine/pseudonyms.key").read_bytes() == key
    assert yaml.safe_load(Path("runs/mine/config.yaml").read_text())["overwrite"] is False
    line = refused(capsys, lambda: run_main("desensitize", "--config", config, "--name", "other"))
    assert "released/set: is not empty" in line


def test_signed(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    run_main("desensitize", "--make-sign-key", "keys/release.pem")
    assert stat.S_IMODE(Path("keys/release.pem").stat().st_mode) == 0o600
    assert "already" in refused(capsys, lambda: run_main("desensitize", "--make-sign-key=keys/release.pem"))
    run_main(
        "desensitize",
        "--config",
        config_of(tmp_path / "mine.yaml", drawn_root),
        "--sign-key",
        "keys/release.pem",
    )
    signature = bytes.fromhex(Path("released/set/manifest.sig").read_text().strip())
    content = Path("released/set/manifest.json").read_bytes()
    public = serialization.load_pem_public_key(Path("keys/release.pem.pub").read_bytes())
    public.verify(signature, content)  # type: ignore[union-attr, call-arg]
    Path("signature").write_bytes(signature)
    checked = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "keys/release.pem.pub", "-rawin", "-in",
         "released/set/manifest.json", "-sigfile", "signature"], capture_output=True, text=True,
    )  # fmt: skip
    assert "Verified Successfully" in checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "released/set/names.key"], "--key released/set/names.key: lies in the released folder"),
        (["--sign-key", "released/set/a.pem"], "--sign-key released/set/a.pem: lies in the released folder"),
        (["--runs", "released/set"], "the owner's folder released/set/mine: lies in the released folder"),
        (["--sign-key", "none.pem"], "sign key none.pem: no such file; make one with"),
        (["--sign-key", "mine.yaml"], "sign key mine.yaml: is no PEM private key"),
        (["--key", "mine.yaml"], "key mine.yaml: holds"),
        (["--name", "../x"], "name: '../x'; give a plain name"),
        (["--compression", "11"], "compression: 11; give a zlib level from 0 to 9"),
        (["--reader.init_args.root", "nowhere"], "root=nowhere: no such folder"),
        (
            ["--desensitizer.init_args.count", "5"],
            "MaskOut has a mask for each image, and a release has one for all",
        ),
        (["--desensitizer.init_args.guard", "40"], "guard: with 40 more pixels hidden"),
        (["--desensitizer", "lightning_app.desensitize.Identity"], "Identity changes nothing"),
    ],
)
def test_what_is_refused_in_one_line(
    options: list[str],
    message: str,
    drawn_root: Path,
    tmp_path: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = config_of(tmp_path / "mine.yaml", drawn_root)
    line = refused(capsys, lambda: run_main("desensitize", "--config", config, *options))
    assert message in line
    assert not Path("released").exists()


def test_a_mask_that_is_not_there_is_drawn_as_large_as_the_images(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path / "mine.yaml", drawn_root)
    mask = ["--desensitizer", MASK_OUT, "--desensitizer.mask", "masks/gone.png"]
    line = refused(capsys, lambda: run_main("desensitize", "--config", config, *mask))
    assert "mask masks/gone.png: no such file" in line
    assert "--size 32 --seed 0 --output masks/gone.png" in line


@pytest.mark.parametrize("has_key", [False, True])
def test_where_nothing_can_be_released_nothing_is_left_behind(
    has_key: bool, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = Image.Exif()
    turned[0x112] = 6
    for person in "ab":
        (tmp_path / "raw" / person).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (44, 44), 99 + number).save(tmp_path / f"raw/{person}/{number}.jpg", exif=turned)
    config = config_of(tmp_path / "mine.yaml", tmp_path / "raw")
    key = Path("runs/mine/pseudonyms.key")
    if has_key:
        key.parent.mkdir(parents=True)
        make_key(key)
    line = refused(capsys, lambda: run_main("desensitize", "--config", config))
    assert "no image of the set can be released (not upright (EXIF): 4); `align` writes them upright" in line
    assert not Path("released/set").exists()
    assert key.exists() == has_key, "a key that was there stays"
    assert not Path("runs/mine/journal.jsonl").exists()
    assert key.parent.exists() == has_key


def test_a_changed_set_is_released_anew(
    drawn_root: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Path(shutil.copytree(drawn_root, tmp_path / "raw"))
    config = config_of(tmp_path / "mine.yaml", raw, batch_size=1)
    run_main("desensitize", "--config", config)
    before = Manifest.read("released/set").files
    faces = sorted(raw.glob("*/*.*"))
    faces[3].write_bytes(faces[30].read_bytes())
    capsys.readouterr()
    run_main("desensitize", "--config", config)
    assert re.search(r"made now +1 in", capsys.readouterr().out)
    after = Manifest.read("released/set").files
    assert sum(before[name] != after[name] for name in before) == 1
    run_main("desensitize", "--config", config, "--overwrite")
    assert re.search(r"made now +48 in", capsys.readouterr().out)
    assert Manifest.read("released/set").files == after


def test_names_that_are_no_utf8(tmp_path: Path, run_main: RunMain) -> None:
    good = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for person in (b"Andr\xe9", b"Zo\xeb"):
        folder = bytes(tmp_path / "raw") + b"/" + person
        Path(folder.decode("utf-8", "surrogateescape")).mkdir(parents=True)
        with open(folder + b"/\xff.png", "wb") as file:
            good.save(file, format="PNG")
        with open(folder + b"/bad\xfe.png", "wb"):
            pass
    config = config_of(tmp_path / "mine.yaml", tmp_path / "raw")
    size = ["--reader.init_args.crop", "null", "--reader.init_args.size", "16"]
    run_main(
        "desensitize", "--config", config, *size, "--pseudonym_table", "--desensitizer.init_args.guard", 0
    )
    assert Manifest.read("released/set").refused == {"empty file": 2}
    assert b"Andr\xe9/bad\xfe.png,empty file" in Path("runs/mine/refused.csv").read_bytes()
    assert b"Zo\xeb/\xff.png,images/" in Path("runs/mine/pseudonyms.csv").read_bytes()
