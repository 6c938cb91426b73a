"""Releases of representations as a trainer reads them: rows, mixed labels, and pairs to verify on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from datamodules import FaceDataModule, ReleasedFaces, ReleasedPairs
from datamodules.drawing.pairs import DrawnPairs
from datamodules.readers.base import whole
from lightning_app.core.batch import DrawKey
from lightning_app.release.audit.run import audit
from lightning_app.release.format.pseudonyms import Pseudonyms
from tests.release.tensor_release import (
    KEY,
    SIZE,
    findings,
    method,
    mixing,
    on_the_fly,
    put_hashes_right,
    reader_of,
    released,
)


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
