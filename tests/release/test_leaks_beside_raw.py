"""What only the raw set and the owner's key show of a release: names, counts, channels, files that are none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from datamodules import FolderFaces
from lightning_app.desensitize import CentreBlock, GaussianBlur
from lightning_app.release.write.writer import write_release as release
from lightning_app.studies.audit import audit
from tests.release.by_hand import KEY, SIZE, as_written, images, png, relist, write_release
from tests.release.leaks import Owner, audited, config_of, good, pixels_of

pytestmark = pytest.mark.usefixtures("quiet")


def test_another_file_name_is_found_with_the_key_alone(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """80 bits of a name: without key and raw set nobody can tell, and the first line says so."""
    root = tmp_path / "released"
    write_release(root, raw)
    one = images(root)[0]
    other = one.with_name("a" * 20 + ".png")
    one.rename(other)
    whole = json.loads((root / "manifest.json").read_text())
    old, new = (path.relative_to(root).as_posix() for path in (one, other))
    whole["files"][new] = whole["files"].pop(old)
    (root / "manifest.json").write_text(as_written(whole))
    alone = audited(root, raw, owner, signed=False, with_raw=False)
    assert alone.findings == []
    assert any("pseudonyms and counts carry nothing else (--raw, --key)" in words for words in alone.unproven)
    beside = audited(root, raw, owner, signed=False, with_raw=True)
    assert [(f.file, f.what) for f in beside.findings] == [(new, "bears the pseudonym of no raw image")]


def test_refused_counts_are_counted_with_the_raw_set(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """A count that the schema allows still carries bits: with the raw set it is held against what is there."""
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "Drawn_00000" / "none.png").write_bytes(b"")
    write_release(tmp_path / "released", raw)  # of the good ones
    relist(tmp_path / "released", refused={"outside the identities' folders": 1, "empty file": 7})
    config = tmp_path / "d.yaml"
    config.write_text(config_of(tmp_path / "raw", "lightning_app.desensitize.MaskOut"))
    part = json.loads(config.read_text())
    part["desensitizer"]["init_args"] = {"mask": str(tmp_path / "released" / "mask.png")}
    config.write_text(json.dumps(part))
    too_many = audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2]))
    assert [f.what for f in too_many.findings] == [
        "refused counts 7 files for 'empty file', the raw set has 1"
    ]
    relist(tmp_path / "released", refused={"outside the identities' folders": 1})
    assert audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2])).findings == []
    exact = audit(str(tmp_path / "released"), config=str(config), key=str(owner[2]))
    assert [f.what for f in exact.findings] == ["refused counts 0 files for 'empty file', the raw set has 1"]
    relist(tmp_path / "released", refused={"outside the identities' folders": 1, "empty file": 1})
    assert audit(str(tmp_path / "released"), config=str(config), key=str(owner[2])).findings == []


def test_channels_are_those_of_the_images(tmp_path: Path, raw: Path) -> None:
    root = tmp_path / "released"
    write_release(root, raw)
    for one in images(root):
        one.write_bytes(png(pixels_of(one)[..., :1].repeat(3, 2)))
    relist(root)
    assert [f.what for f in audit(str(root)).findings] == ["channels is 3, no image has more than 1"]
    relist(root, channels=1)
    assert audit(str(root)).findings == []


@pytest.mark.parametrize("allowed", [False, True])
def test_lossy_sources_are_counted_as_they_were_refused(
    tmp_path: Path, raw: Path, owner: Owner, allowed: bool
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    with Image.open(raw / "Drawn_00000" / "Drawn_00000_0001.png") as image:
        image.save(tmp_path / "raw" / "Drawn_00000" / "lossy.webp", quality=80)
    config = tmp_path / "d.yaml"
    config.write_text(config_of(tmp_path / "raw", "lightning_app.desensitize.GaussianBlur"))
    reader = FolderFaces(tmp_path / "raw", size=SIZE, crop=44, cache_index=False)
    made = release(
        reader, GaussianBlur(), tmp_path / "out", tmp_path / "owner", KEY, workers=0, allow_lossy_webp=allowed
    )
    assert made.manifest.images == 6 + allowed
    assert made.manifest.refused.get("lossy WebP", 0) == (not allowed)
    for folder, given in ((str(tmp_path / "raw"), None), (None, str(config))):
        found = audit(str(tmp_path / "out"), raw=folder, config=given, key=str(owner[2]))
        assert found.findings == []
        assert found.compared is not None
        assert found.compared.images == 6 + allowed


def test_nothing_compared_is_a_finding(tmp_path: Path, raw: Path, owner: Owner) -> None:
    write_release(tmp_path / "released", raw)
    shutil.copytree(raw, tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*.png"):
        path.write_bytes(b"\x89PNG")
    found = audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2]))
    said = {f.what for f in found.findings}
    assert "none of 6 images could be compared with its raw one" in said
    assert "was released, but its raw image cannot be decoded" in said
    assert found.compared is not None
    assert found.compared.images == 0


def test_a_good_release_of_a_centre_block(tmp_path: Path, raw: Path, owner: Owner) -> None:
    block = CentreBlock(0.5)
    block.prepare((SIZE, SIZE))
    assert block.mask is not None
    write_release(tmp_path / "released", raw, hides=block.mask[0])
    description = block.describe()
    mask_json = tmp_path / "released" / "mask.json"
    mask_json.write_text(mask_json.read_text().replace("MaskOut", "CentreBlock"))
    relist(tmp_path / "released", method=description)
    found = audited(tmp_path / "released", raw, owner, signed=False, with_raw=True)
    assert found.findings == []
    relist(
        tmp_path / "released", method=description | {"fraction": 0.49}
    )  # another fraction, the same pixels
    assert audited(tmp_path / "released", raw, owner, signed=False, with_raw=True).findings == []
    relist(tmp_path / "released", method=description | {"fraction": 0.4})
    (finding,) = audited(tmp_path / "released", raw, owner, signed=False, with_raw=True).findings
    assert "is not what CentreBlock says of itself" in finding.what


def test_a_pipe_for_a_mask_is_not_waited_for(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """With the raw set the audit opened it, and never ended."""
    good(tmp_path / "released", raw)
    (tmp_path / "released" / "mask.png").unlink()
    os.mkfifo(tmp_path / "released" / "mask.png")
    found = audited(tmp_path / "released", raw, owner, False, True)
    said = [finding.what for finding in found.findings if finding.file in ("images", "mask.png")]
    assert any("is neither file nor folder: name one PNG file" in what for what in said)
    assert "is missing" in said
