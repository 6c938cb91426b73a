"""Releases of format version 1 are audited by all that can be held against them.

Those under `fixtures/version1` were written by FaceVeil at commit 6d1f852, of drawn faces of 16 px:
`desensitize` with `FolderFaces(raw, size=16)`, the key 00 01 … 1f, and MaskOut(freeform=(0.4, 0.5), seed=3) (masked),
MaskOut of a mask file with guard 1 (guarded), CentreBlock() (block), GaussianBlur(9) (blurred, signed), Mosaic(4).
Git keeps no time stamps, so these are not looked at.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import FaceDataModule, ReleasedFaces
from lightning_app.release import Manifest
from lightning_app.studies.audit import audit
from tests.release.by_hand import KEY, as_written

OLD = Path(__file__).parent / "fixtures" / "version1"
NAMES = ("masked", "guarded", "block", "blurred", "mosaic")
RATIO = {"masked": 0.4296875, "guarded": 0.64453125, "block": 0.25}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("owner") / "key"
    path.write_text(KEY.hex() + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_they_pass_and_the_first_line_says_what_is_not_proven(
    name: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(OLD / name)
    assert (manifest.version, manifest.compression, manifest.images) == (1, None, 6)
    assert manifest.to_bytes() == (OLD / name / "manifest.json").read_bytes()
    alone = audit(str(OLD / name), ignore_times=True)
    assert alone.findings == []
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("audit ")]
    assert line.startswith("audit PASSED; 6 images of 3 identities decoded, ")
    assert (f"mask ratio {RATIO[name]:.4f}" if name in RATIO else "no mask") in line
    assert "NOT PROVEN: " in line
    public = str(OLD / "sign.pub") if name == "blurred" else None
    with_raw = audit(str(OLD / name), raw=str(OLD / "raw"), key=key, public_key=public, ignore_times=True)
    assert with_raw.findings == []
    assert with_raw.compared is not None
    assert with_raw.compared.images == 6
    assert not any("who released it (--public-key)" in words for words in with_raw.unproven)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_trained_on(name: str) -> None:
    data = FaceDataModule(ReleasedFaces(OLD / name, verify="list"))
    clean = torch.randint(
        0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert data.desensitized(clean)["image"].shape == (2, 3, 16, 16)
    assert (data.desensitized(clean)["mask"] is None) == (name not in RATIO)


def _method(**changed: object) -> Callable[[dict[str, Any]], object]:
    return lambda m: m["method"].update(changed)


FACE = "/9j/" + "A" * 3000
SPOILT: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "seed": ("masked", _method(seed=2**40 + 1), "is not what MaskOut says of itself"),
    "range": ("masked", _method(freeform=[0.44, 0.5]), "is not what MaskOut says of itself"),
    "range's digits": ("masked", _method(freeform=[0.4000000001, 0.5]), "not a range of mask ratios"),
    "draw": ("masked", _method(draw=FACE), "not batch or image"),
    "count": ("masked", _method(count=2), "method.count is 2"),
    "brush": ("masked", _method(brush=FACE), "not a brush"),
    "strokes": ("masked", lambda m: m["method"]["brush"].update(strokes=FACE), "not a brush"),
    "more of a brush": ("masked", lambda m: m["method"]["brush"].update(note=FACE), "not a brush"),
    "huge brush": ("masked", lambda m: m["method"]["brush"].update(max_vertex=2**50), "not a brush"),
    "kernel": ("blurred", _method(kernel=10**9), "method.kernel is 1000000000"),
    "sigma": ("blurred", _method(sigma=0.01), "blurs next to nothing"),
    "block": ("mosaic", _method(block=2**40), "method.block is"),
    "another block": ("mosaic", _method(block=8), "is no mosaic"),
    "fraction": ("block", _method(fraction=0.8), "is not what CentreBlock says of itself"),
    "guard": ("guarded", lambda m: (m["mask"].update(guard=2), m["method"].update(guard=2)), "has no margin of 2"),
    "folder": ("guarded", _method(folder=FACE), "entries that MaskOut is not described by"),
    "version": ("guarded", lambda m: m["versions"].update(python=FACE), "one that is no version"),
    "reason": ("guarded", lambda m: m.update(refused={FACE: 1}), "a reason that is none of FaceVeil's"),
    "compression": ("guarded", lambda m: m.update(compression=1), "compression is of another version"),
    "of version 2": ("guarded", lambda m: m.update(compression=1, version=2), "its bytes are not those"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_the_same_is_held_against_them(case: str, tmp_path: Path) -> None:
    name, change, words = SPOILT[case]
    shutil.copytree(OLD / name, tmp_path / name)
    path = tmp_path / name / "manifest.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(as_written(whole))
    found = audit(str(tmp_path / name), ignore_times=True)
    said = [finding.what for finding in found.findings]
    assert any(words in what for what in said), said
    assert not any(FACE[:60] in what for what in said)


@pytest.mark.parametrize("levels", [None, [[0.6, 0.7]], [[0.1, 0.2], [0.6, 0.65]]])
def test_the_only_mask_of_a_folder(levels: list[list[float]] | None, tmp_path: Path) -> None:
    """What 6d1f852 says of MaskOut(folder=…) with one mask in it."""
    shutil.copytree(OLD / "guarded", tmp_path / "folder")
    path = tmp_path / "folder" / "manifest.json"
    whole = json.loads(path.read_text())
    whole["method"] |= {"levels": levels, "hidden": "black", "draw": "batch"}
    path.write_text(as_written(whole))
    assert audit(str(tmp_path / "folder"), ignore_times=True).findings == []
    for odd in ({"hidden": "grey"}, {"levels": [[0.6, FACE]]}, {"levels": [[0.2, 0.2000000001]] * 3}):
        path.write_text(as_written(whole | {"method": whole["method"] | odd}))
        (finding,) = audit(str(tmp_path / "folder"), ignore_times=True).findings
        assert finding.what.startswith(f"method.{next(iter(odd))} is")
