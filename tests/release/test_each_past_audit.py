"""What was hidden past the audit of masks for each image, and is found or said now; and what it claimed too much."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import LearnedMask
from lightning_app.desensitize import masker as masker_module
from lightning_app.masks.learned import grown
from lightning_app.release.audit import each_against_raw
from lightning_app.release.audit.odds import detection, typical
from lightning_app.studies.audit import audit as audit_command
from tests.masker import images, write_masker
from tests.release.by_hand import relist
from tests.release.each import checkpoint, forge, learned, pairs_of_files, pixels, release_each
from tests.release.released import KEY, SIZE, raw_tree, release
from tests.release.test_each_leaks import hidden_pixel, lay, raw_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("past")
    raw_tree(home / "raw")
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    release_each(home, home / "raw", "core_first")
    return home


def audited(home: Path, root: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "raw": str(home / "raw"), "key": str(home / "key"), "masker": str(checkpoint(home, "core_first")),
        "compare_all": True,
    }  # fmt: skip
    where = root.parent / "audit.json"
    audit_command(str(root), json_path=str(where), **(given | more))
    found: dict[str, Any] = json.loads(where.read_text())
    return found


# -- what the first line says


def test_a_sample_proves_nothing_of_the_rest(home: Path) -> None:
    found = audited(home, home / "core_first", compare_all=False, sample=5, seed=1)
    assert "none of 8 compared depends on what it hides" in found["verdict"]


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run maskers as on another machine, where rounding has changed an early round, and with it much of the mask."""

    def otherwise(network: Any, image: torch.Tensor, shown: int, growth: Any) -> Any:
        mask, rounds = grown(network, image.flip(-1), shown, growth)
        return mask.flip(-1), [(logits.flip(-1), added.flip(-1)) for logits, added in rounds]

    monkeypatch.setattr(masker_module, "grown", otherwise)


def test_a_failed_audit_and_pixels_of_others_prove_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    found = audited(home, home / "core_first")
    assert found["passed"], found["findings"]
    assert found["mask_pixels_apart"] > 100
    assert re.search(r"that nothing else is in the \d+ pixels? of masks", found["verdict"]) is not None
    assert "depends on what it hides" not in found["verdict"]
    root = Path(shutil.copytree(home / "core_first", tmp_path / "out"))
    hidden_pixel(root, home / "raw")
    forge(root, False)
    monkeypatch.undo()
    found = audited(home, root)
    assert "audit FAILED" in found["verdict"]
    assert "depends on what it hides" not in found["verdict"]


def test_a_single_pixel_that_was_moved_is_found(home: Path, tmp_path: Path) -> None:
    """No share of pixels is free: what another machine may move are near ties alone."""
    root = Path(shutil.copytree(home / "core_first", tmp_path / "out"))
    image, mask = pairs_of_files(root)[0]
    shape = pixels(mask)[..., 0] // 255
    shape[tuple(np.argwhere(shape == 1)[0])] = 0
    shape[tuple(np.argwhere(shape == 0)[-1])] = 1
    lay(image, mask, raw_of(root, home / "raw", image), shape)
    forge(root, False)
    assert "it differs in 2 pixels" in str(audited(home, root)["findings"])


def test_another_machine_may_choose_another_public_mask_that_is_as_good(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_secret(tmp_path / "owner.key", bytes(range(7, 39)).hex().encode())
    drawn: dict[str, Any] = {"choice": "exponential", "epsilon": 4.0, "key": tmp_path / "owner.key"}
    for name, more in (("best", {}), ("drawn", drawn)):
        made = learned(home, "codebook", **more)
        made.prepare((SIZE, SIZE))
        soft = made.made(images(1, SIZE))
        index = torch.tensor([3])
        chosen = int(made.choose(soft, index))
        assert made.may_choose(soft, index, chosen, 0)
        others = [code for code in range(3) if code != chosen]
        assert not any(made.may_choose(soft, index, code, 1e-9) for code in others), name
        assert all(made.may_choose(soft, index, code, 1.0) for code in others), name
    release_each(tmp_path, home / "raw", "codebook", desensitizer=learned(home, "codebook"))
    elsewhere(monkeypatch)
    found = audited(home, tmp_path / "codebook", masker=str(checkpoint(home, "codebook")))
    assert found["passed"], found["findings"]


def test_leaking_images_lie_together() -> None:
    """Batches are drawn, so ten leaking images in two of them are as hard to find as two."""
    assert typical(800, 80, 8)["ten"] == detection(100, 10, 2) < typical(800, 80)["ten"]
    assert typical(800, 80, 8)["one"] == detection(100, 10, 1)
    assert typical(20, 20, 8) == {"one": 1, "ten": 1, "one_percent": 1}


def test_the_audit_says_so(home: Path) -> None:
    found = audited(home, home / "core_first", compare_all=False, sample=5, seed=1)
    assert found["detection"]["ten"] == detection(5, 2, 3)


def test_a_batch_that_is_said_to_be_everything_is_not_compared_at_once(home: Path, tmp_path: Path) -> None:
    """The manifest says how many images were made together: nobody's memory, and no sample, may hang on that."""
    root = Path(shutil.copytree(home / "core_first", tmp_path / "out"))
    masks = json.loads((root / "manifest.json").read_text())["masks"]
    forge_masks(root, masks | {"batch": 1 << 16})
    seen: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(each_against_raw, "CHUNK", 6)
        honest = each_against_raw._compare

        def compare(root: Path, audit: Any, batch: Any, *more: Any) -> Any:
            seen.append(len(batch.names))
            return honest(root, audit, batch, *more)

        patch.setattr(each_against_raw, "_compare", compare)
        assert audited(home, root)["passed"]
    assert sorted(seen) == [2, 6, 6, 6]


def forge_masks(root: Path, masks: dict[str, Any]) -> None:
    relist(root, masks=masks)


# -- one mask for all


def test_a_population_mask_is_held_against_its_masker(home: Path, tmp_path: Path) -> None:
    masker = write_masker(tmp_path / "masker.ckpt", size=SIZE)
    release(tmp_path, home / "raw", desensitizer=LearnedMask(masker, 0.24))
    found = audited(home, tmp_path / "out", masker=str(masker))
    assert found["passed"], found["findings"]
    assert not any("--masker" in note for note in found["notes"])
    assert "its masker's" not in str(found["not_proven"])
    # whoever wrote the manifest may have made the mask of one face
    found = audited(home, tmp_path / "out", masker=None)
    assert found["passed"]
    assert "that the mask is its masker's, made of many faces and not of one (--masker" in str(
        found["not_proven"]
    )
    with pytest.raises(FileNotFoundError, match=r"masker: .*nowhere\.ckpt: no such checkpoint"):
        audited(home, tmp_path / "out", masker=str(tmp_path / "nowhere.ckpt"))
    saved = torch.load(masker, weights_only=True)
    saved["masker"]["mean"] = -saved["masker"]["mean"]
    torch.save(saved, tmp_path / "other.ckpt")
    found = audited(home, tmp_path / "out", masker=str(tmp_path / "other.ckpt"))
    assert "mask.png" in str(found["findings"])
    assert "of it comes another mask_hash than the release has" in str(found["findings"])
