"""Frequency masking: what it returns, whose key it takes, and what an attacker without it gets."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from datamodules import DrawnFaces, FaceDataModule
from datamodules.same_description import check_key, summary
from lightning_app.core import draws
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import make_key, write_secret
from lightning_app.core.owner_key import OwnerKey
from lightning_app.desensitize import BlockDCT, FrequencyMask
from lightning_app.desensitize.dct import Blocks, block_dct, grey
from lightning_app.desensitize.frequency import Permutation
from lightning_app.release.format.method import describe
from tests.desensitize.test_contract import Ours


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The key files of two owners."""
    home = tmp_path_factory.mktemp("keys")
    for name in ("one", "two"):  # the same in every run of the tests, unlike those that `make_key` makes
        write_secret(home / name, hashlib.sha256(name.encode()).hexdigest().encode())
    return home / "one", home / "two"


def drawn(count: int = 4, size: int = 32) -> Batch:
    """Faces with something to see on them."""
    read = DrawnFaces(count, 1, size).__getitems__(list(range(count)))
    return Batch(image=read["image"].float() / 255, identity=read["identity"], index=read["index"])


class TestBlockDCT(Ours):
    def make(self) -> BlockDCT:
        return BlockDCT()

    def test_its_manifest_is_closed(self) -> None:
        """No release is made of it, since anybody turns it back; its description is a closed list all the same."""
        made = self.made()
        with pytest.raises(ValueError, match="its channels are the image, which anybody turns back"):
            describe(made, self.size, None)
        description = json.loads(json.dumps(made.describe()))
        (schema,) = BlockDCT.entries(self.size, 3)
        assert {*description} == {*schema, "method"}
        assert all(check(description[name]) for name, (check, _) in schema.items())


class TestColourBlockDCT(TestBlockDCT):
    def make(self) -> BlockDCT:
        return BlockDCT(colour="ycbcr", align_corners=False, channels=["y1", "y8", "cb1", 3], normalise=True)


class TestSlidingBlockDCT(TestBlockDCT):
    def make(self) -> BlockDCT:
        return BlockDCT(upsample=1, stride=1, channels=36, dc=True)


class TestFrequencyMask(Ours):
    from_description = False
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _key(self, keys: tuple[Path, Path]) -> None:
        self.key = keys[0]

    def make(self) -> FrequencyMask:
        return FrequencyMask(key=self.key, **self.options)

    def test_mean_and_deviation(self) -> None:
        out = self.made()(drawn(size=self.size))["image"].double()
        assert float(out.mean((2, 3)).abs().max()) < 1e-5
        deviation = out.std((2, 3), correction=0)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-4)

    def test_a_black_image(self) -> None:
        for level in (0.0, 0.7, 1.0):
            black: Batch = {
                "image": torch.full((2, 3, self.size, self.size), level),
                "index": torch.arange(2),
            }
            out = self.made()(black)["image"]
            assert int(out.count_nonzero()) == 0


class TestPerImage(TestFrequencyMask):
    options: ClassVar[dict[str, Any]] = {"permutation": "image", "redraw": "epoch"}


class TestSliding(TestFrequencyMask):
    options: ClassVar[dict[str, Any]] = {"upsample": 1, "stride": 1, "mix": False, "channels": [1, 8, 9, 2]}


def test_it_is_the_papers_steps_one_by_one(keys: tuple[Path, Path]) -> None:
    made = FrequencyMask(permutation="image", key=keys[0])
    batch = drawn()
    out = made(batch)["image"]
    first, second = (made.order(name, batch["index"]) for name in ("first", "second"))

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), keepdim=True, correction=0)

    for i, image in enumerate(batch["image"]):
        x = block_dct(grey(image[None]), Blocks())[0, 1:].double()
        x = normal(x[first[i]])
        x = (x + x.roll(-1, 0)) / 2**0.5
        expected = normal(x[second[i]])
        torch.testing.assert_close(out[i].double(), expected, rtol=0, atol=2e-3)


def test_a_chunk_is_as_the_whole(keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FrequencyMask(permutation="image", key=keys[0])(drawn())["image"]
    monkeypatch.setattr("lightning_app.desensitize.dct._CACHED", 1)
    torch.testing.assert_close(FrequencyMask(permutation="image", key=keys[0])(drawn())["image"], whole)


def test_channels_that_carry_nothing_are_named_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "faceveil"):
        assert BlockDCT(align_corners=False).out_channels == 48
    assert "BlockDCT: 15 of 63 channels carry nothing and are dropped: 4, 12, 20, 28, 32, 33" in caplog.text
    assert BlockDCT().out_channels == 63
    assert BlockDCT(colour="ycbcr").out_channels == 189
    with pytest.raises(ValueError, match=r"channels: \[4, 12\] carry nothing with align_corners: false"):
        BlockDCT(align_corners=False, channels=[4, 12])


def test_neighbours_that_cancel_give_zeros_not_noise(keys: tuple[Path, Path]) -> None:
    # 1 and 7 of one line differ by a factor without align_corners: normalised they are the same up to the sign
    both = FrequencyMask(align_corners=False, channels=[1, 7], key=keys[0])
    out = both(drawn())["image"]
    deviation = out.std((2, 3), correction=0)
    assert bool(((deviation < 1e-6) | ((deviation - 1).abs() < 1e-4)).all())


def test_one_key_equal_values_another_key_others(keys: tuple[Path, Path]) -> None:
    for permutation in get_args(Permutation):
        mine, again, other = (
            FrequencyMask(permutation=permutation, key=key)(drawn())["image"] for key in (keys[0], *keys)
        )
        assert torch.equal(mine, again)
        assert not torch.equal(mine, other)


def test_permutations(keys: tuple[Path, Path]) -> None:
    index = torch.tensor([3, 8, 3])
    fixed = FrequencyMask(key=keys[0]).order("first", index)
    assert torch.equal(fixed[0], fixed[1])
    made = FrequencyMask(permutation="image", key=keys[0])
    each = made.order("first", index)
    assert not torch.equal(each[0], each[1])
    assert torch.equal(each[0], each[2]), "an image keeps its own"
    assert torch.equal(each.sort(1).values, torch.arange(63).expand(3, -1))
    assert not torch.equal(made.order("first", index), made.order("second", index))
    assert torch.equal(made.order("first", index, DrawKey(1, 2, 3)), each), "once"
    anew = FrequencyMask(permutation="image", redraw="epoch", key=keys[0])
    epochs = [anew.order("first", index, DrawKey(seed, epoch)) for seed, epoch in ((0, 0), (7, 0), (0, 1))]
    assert torch.equal(epochs[0], epochs[1]), "a seed that is written down draws nothing"
    assert not torch.equal(epochs[0], epochs[2])
    assert torch.equal(anew.order("first", index), each), "outside training by key and number alone"


def test_orders_are_uniform(keys: tuple[Path, Path]) -> None:
    order = FrequencyMask(permutation="image", key=keys[0]).order("first", torch.arange(2000))
    share = torch.nn.functional.one_hot(order, 63).float().mean(0)  # [place, channel]
    assert float((share * 63 - 1).abs().max()) < 0.9  # 31.7 each, five deviations are 0.88
    assert float((order[:, 1:] == order[:, :-1] + 1).float().mean()) == pytest.approx(1 / 63, rel=0.1)


def recovered(released: Tensor, salts: tuple[list[int], list[int]], index: Tensor) -> Tensor:
    """Undo both shuffles as somebody would who knows what they were drawn from: the share of channels put back.

    Without mixing the two are one, and a channel is known by its correlation with the frequencies of the face.
    """
    counter = torch.arange(released.shape[1])
    orders = [draws.secret(draws.secret(index, keys)[:, None] + counter, keys).argsort(1) for keys in salts]
    back = orders[0].gather(1, orders[1]).argsort(1)
    return released.flatten(2).gather(1, back[..., None].expand(-1, -1, released[0, 0].numel()))


def test_a_public_seed_recovers_nothing_the_key_all(keys: tuple[Path, Path]) -> None:
    made, batch = FrequencyMask(permutation="image", mix=False, key=keys[0]), drawn()
    released = made(batch)["image"]
    clean = block_dct(grey(batch["image"]), Blocks(), range(1, 64)).flatten(2)
    clean = (clean - clean.mean(2, keepdim=True)) / clean.std(2, keepdim=True, correction=0)

    def put_back(salts: tuple[list[int], list[int]]) -> float:
        found = recovered(released, salts, batch["index"])
        return float(((found * clean).mean(2) > 0.999).float().mean())

    # what stands in a config or a checkpoint: the data seed, the hash of the key
    public = [0, 1, 42, *(int(made.key.hash[start : start + 15], 16) for start in (0, 15, 30))]
    for seed in public:
        for pair in ((seed, seed), (seed, seed + 1), (draws.seed_from(seed), draws.seed_from(seed, 1))):
            assert put_back(([pair[0]] * 4, [pair[1]] * 4)) < 0.1

    def with_key(path: Path) -> float:
        key = OwnerKey.of(path)
        first, second = (
            [key.integer("FrequencyMask", "shuffle", name, -1, number) for number in range(4)]
            for name in ("first", "second")
        )
        return put_back((first, second))

    assert with_key(keys[1]) < 0.1
    assert with_key(keys[0]) == 1


def test_a_description_holds_the_keys_hash_alone(keys: tuple[Path, Path]) -> None:
    made = FrequencyMask(key=keys[0])
    text = json.dumps(made.describe()) + repr(made) + str(made.state_dict())
    assert made.describe()["key_hash"] == OwnerKey.of(keys[0]).hash
    for secret in (keys[0].read_text().strip(), str(keys[0]), str(keys[0].parent)):
        assert secret not in text
    assert "key 0" not in summary(made.describe())
    assert made.key.hash[:12] in summary(made.describe())


def test_a_random_key_serves_the_process(keys: tuple[Path, Path]) -> None:
    assert FrequencyMask().key == FrequencyMask().key
    assert not FrequencyMask().key.from_file
    assert FrequencyMask().key != FrequencyMask(key=keys[0]).key


def test_another_key_than_the_checkpoints_is_refused(keys: tuple[Path, Path]) -> None:
    mine, other = (FrequencyMask(key=key).describe() for key in keys)
    check_key(mine, dict(mine))
    check_key(mine, BlockDCT().describe())
    with pytest.raises(
        ValueError, match=r"trained with the owner's key .{12}…, here FrequencyMask draws from"
    ):
        check_key(mine, other)
    with pytest.raises(ValueError, match="here Chain draws"):
        check_key({"method": "Chain", "steps": [mine]}, {"method": "Chain", "steps": [other]})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"block": 1}, "block: 1; give a whole number from 2 to 16"),
        ({"stride": 9}, "stride: 9; give a whole number from 1 to 8"),
        ({"upsample": 0}, "upsample: 0; give"),
        ({"colour": "rgb"}, "colour: 'rgb'; give grey or ycbcr"),
        ({"channels": 64}, "channels: 64; give a number from 1 to 63"),
        ({"channels": [0, 1]}, "channels: 0 is the DC, .* never kept"),
        ({"channels": [64]}, "channels: 64 is no coefficient here; give numbers from 1 to 63, or y0"),
        ({"channels": ["cb1"]}, "channels: 'cb1' is no coefficient here"),
        ({"channels": [1, "y1"]}, "names one twice"),
        ({"channels": []}, "names none"),
        ({"permutation": "batch"}, "permutation: 'batch'; give fixed or image"),
        ({"redraw": "step"}, "redraw: 'step'; give once or epoch"),
        ({"redraw": "epoch"}, "redraw: epoch has nothing to draw anew with permutation: fixed"),
        ({"block": 3, "upsample": 2, "stride": 2}, "block 3, upsample 2, stride 2: fill images of no size"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        FrequencyMask(**options)


def test_a_key_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        FrequencyMask(key=tmp_path / "none.key")
    make_key(tmp_path / "open.key")
    os.chmod(tmp_path / "open.key", 0o644)
    with pytest.raises(PermissionError, match="others may read it"):
        FrequencyMask(key=tmp_path / "open.key")


def test_images_that_blocks_do_not_fill_are_told_early() -> None:
    with pytest.raises(ValueError, match="stride 8: do not fill a side of 36 pixels"):
        FaceDataModule(DrawnFaces(2, 2, 36), FrequencyMask(upsample=1)).setup("fit")


def test_a_representation_is_not_normalised_as_pixels_are(keys: tuple[Path, Path]) -> None:
    data = FaceDataModule(DrawnFaces(2, 2, 32), FrequencyMask(key=keys[0]))
    assert (data.mean, data.std, data.in_channels, data.input_size) == (0, 1, 63, 32)
    assert (FaceDataModule(DrawnFaces(2, 2, 32)).mean, FaceDataModule(DrawnFaces(2, 2, 32)).std) == (0.5, 0.5)
    raw = data.reader.__getitems__([0, 1])
    assert torch.equal(data.prepare(raw["image"])["image"], data.desensitized(raw["image"])["image"])


def test_how_it_looks(keys: tuple[Path, Path]) -> None:
    batch = drawn()
    whole = BlockDCT(dc=True)
    torch.testing.assert_close(
        whole.look(whole(batch)["image"]), grey(batch["image"]).expand(-1, 3, -1, -1), rtol=0, atol=1e-5
    )
    coloured = BlockDCT(dc=True, colour="ycbcr", upsample=1)
    torch.testing.assert_close(coloured.look(coloured(batch)["image"]), batch["image"], rtol=0, atol=1e-5)
    plain = BlockDCT()
    seen = plain.look(plain(batch)["image"])
    assert seen.amin((1, 2, 3)).tolist() == [0] * 4
    torch.testing.assert_close(seen.amax((1, 2, 3)), torch.ones(4))
    black = plain.look(torch.zeros(2, 63, 32, 32))
    assert int(black.count_nonzero()) == 0
    # laid out in order, without the key: not what the face's own coefficients show
    shuffled = FrequencyMask(permutation="image", key=keys[0])
    lost = shuffled.look(shuffled(batch)["image"])
    own = BlockDCT(normalise=True)
    kept = own.look(own(batch)["image"])
    alike = [
        float(np.corrcoef(a[0].flatten(), b[0].flatten())[0, 1]) for a, b in zip(lost, kept, strict=True)
    ]
    assert sum(map(abs, alike)) / len(alike) < 0.5


def test_a_fresh_shuffle_per_image_is_undone_by_statistics(keys: tuple[Path, Path]) -> None:
    """Why `image` protects little: sliding channels, not mixed, are told apart by how they look (docs)."""
    made = FrequencyMask(upsample=1, stride=1, mix=False, permutation="image", key=keys[0])
    batch = drawn(12)
    plain = BlockDCT(upsample=1, stride=1, normalise=True)(batch)["image"]
    released = made(batch)["image"]

    def looks(channels: Tensor) -> Tensor:
        across, down = (
            channels.diff(dim=-1).square().mean((-2, -1)),
            channels.diff(dim=-2).square().mean((-2, -1)),
        )
        far = [channels.diff(dim=axis)[..., ::2].square().mean((-2, -1)) for axis in (-1, -2)]
        steep = channels.abs().pow(4).mean((-2, -1)).log()
        two = [(channels.roll(2, axis) * channels).mean((-2, -1)) for axis in (-1, -2)]
        three = [(channels.roll(3, axis) * channels).mean((-2, -1)) for axis in (-1, -2)]
        return torch.stack([across, down, *far, steep, *two, *three], -1)

    known = looks(plain[:8]).mean(0)
    spread = looks(plain[:8]).std(0).mean(0)
    order = made.order("first", batch["index"]).gather(1, made.order("second", batch["index"]))
    right = []
    for i in range(8, 12):
        cost = torch.cdist(looks(released[i]) / spread, known / spread)
        place, channel = linear_sum_assignment(cost.numpy())
        right.append(float((order[i][place] == torch.from_numpy(channel)).float().mean()))
    assert min(right) > 0.5  # chance is 1/63


def test_no_image_gives_no_image() -> None:
    none: Batch = {"image": torch.zeros(0, 3, 32, 32), "index": torch.zeros(0, dtype=torch.int64)}
    assert FrequencyMask()(none)["image"].shape == (0, 63, 32, 32)
