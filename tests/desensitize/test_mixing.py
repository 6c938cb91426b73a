"""MixUp and InstaHide: who is mixed, how much, with which labels, and when."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Chain, GaussianBlur, InstaHide, MaskOut, MixUp
from lightning_app.desensitize.mixing import Redraw
from lightning_app.desensitize.mixing_draws import mix, mix_weights, partners, random_signs
from tests.desensitize.contract import faces

NOW = DrawKey(seed=3, epoch=1, step=5, mix=True)
KEYS = (11, 222, 3333, 44444)
INDEX = (4, 9, 2, 7, 30, 31, 57, 8)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return key_file(tmp_path / "owner.key", "5e3a91")


def key_file(path: Path, start: str) -> Path:
    digits = "0123456789abcdef"
    path.write_text(start + "".join(digits[i * 7 % 16] + digits[i * i % 13] for i in range(29)))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("cap", [0.55, 0.65])
def test_coefficients_sum_to_one_and_none_is_above_the_cap(k: int, cap: float) -> None:
    weight = mix_weights(torch.arange(10_000), k, cap, KEYS)
    assert weight.shape == (10_000, k)
    assert float(weight.max()) <= cap  # as Python counts, not as float32 does
    assert float(weight.min()) >= 0
    torch.testing.assert_close(weight.sum(1), torch.ones(10_000), rtol=0, atol=1e-6)
    # no place is preferred, and next to no row comes twice
    assert weight.mean(0).sub(1 / k).abs().max() < 0.01
    assert len(weight.unique(dim=0)) > 9_900


@pytest.mark.parametrize(("k", "cap"), [(2, 0.55), (2, 0.65), (4, 0.55)])
def test_coefficients_are_half_normals_that_pass_the_cap(k: int, cap: float) -> None:
    half = torch.randn(400_000, k, generator=torch.Generator().manual_seed(0)).abs()
    rows = half / half.sum(1, keepdim=True)
    expected = rows[rows.amax(1) <= cap][:, 0]
    found = mix_weights(torch.arange(100_000), k, cap, KEYS)[:, 0]
    at = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(found.quantile(at), expected.quantile(at), rtol=0, atol=0.005)


def test_a_cap_that_nothing_passes_is_still_kept() -> None:
    weight = mix_weights(torch.arange(1000), 4, 0.2501, KEYS)
    assert float(weight.max()) <= 0.2501
    torch.testing.assert_close(weight.sum(1), torch.ones(1000), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "k"), [(2, 2), (3, 3), (7, 4), (64, 6)])
def test_nobody_is_mixed_with_itself_nor_twice(count: int, k: int) -> None:
    for start in range(20):
        which = partners(torch.arange(count) * 13 + start, k, KEYS)
        assert torch.equal(which[:, 0], torch.arange(count))
        assert all(len(row.unique()) == k for row in which)
        assert which.flatten().bincount(minlength=count).tolist() == [k] * count, "every image is in k mixes"


def test_partners_depend_on_who_is_there_and_not_on_the_order() -> None:
    index = torch.tensor(INDEX)
    order = torch.tensor([3, 0, 7, 5, 1, 2, 6, 4])
    one, other = (batch[partners(batch, 3, KEYS)] for batch in (index, index[order]))
    assert torch.equal(one[order], other)
    with_others = partners(torch.tensor([*INDEX[:7], 99]), 3, KEYS)
    assert not torch.equal(with_others, partners(index, 3, KEYS))


def test_signs() -> None:
    signs = random_signs(torch.arange(40), (3, 11, 7), KEYS)
    assert signs.shape == (40, 3, 11, 7)
    assert set(signs.unique().tolist()) == {-1, 1}
    assert abs(float(signs.float().mean())) < 5 / math.sqrt(signs.numel())
    flat = signs.flatten(1).float()
    alike = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0).abs()
    assert float(alike.max()) < 6 / math.sqrt(flat.shape[1]), (
        "of two images they have nothing to do with each other"
    )
    assert torch.equal(random_signs(torch.tensor([17, 3]), (3, 11, 7), KEYS), signs[[17, 3]])


@pytest.mark.parametrize("channels", [3, 63])
@pytest.mark.parametrize("k", [2, 5])
def test_images_and_labels_are_mixed_alike(k: int, channels: int, key: Path) -> None:
    """An image that says who is on it, in every pixel, says after mixing what its labels say."""
    identity = torch.tensor([5, 1, 6, 2, 0, 4, 3, 7])
    says = torch.nn.functional.one_hot(identity, channels if channels > 8 else 8).float()
    image = says[..., None, None].expand(-1, -1, 2, 2)
    out = MixUp(k, key=key)(Batch(image=image, identity=identity, index=torch.tensor(INDEX)), NOW)
    target, weight = out["target"], out["weight"]
    assert target.shape == weight.shape == (8, k)
    assert (target.dtype, weight.dtype) == (torch.int64, torch.float32)
    dense = torch.zeros(8, image.shape[1]).scatter_add_(1, target, weight)
    torch.testing.assert_close(out["image"][..., 0, 1], dense)
    assert torch.equal(out["identity"], identity)
    assert torch.equal(target[:, 0], identity), "its own label comes first"
    assert out["mask"] is None


def test_a_target_is_mixed_where_there_is_one(key: Path) -> None:
    batch = faces(8, INDEX)
    batch["target"] = torch.tensor([1, 0, 2, 0, 1, 1, 2, 0])
    made = MixUp(3, key=key)
    out = made(batch, NOW)
    assert torch.equal(out["target"], batch["target"][made.draw(batch["index"])[0]])


def test_images_without_labels_are_mixed_too(key: Path) -> None:
    whole = faces(8, INDEX)
    bare = Batch(image=whole["image"], index=whole["index"])
    out = MixUp(3, key=key)(bare, NOW)
    assert "target" not in out
    assert not torch.equal(out["image"], bare["image"])


@pytest.mark.parametrize("kind", [MixUp, InstaHide])
def test_one_key_and_one_batch_give_one_mix(kind: type[MixUp], key: Path, tmp_path: Path) -> None:
    def made(draw_key: DrawKey, redraw: Redraw = "once", path: Path = key) -> Tensor:
        return kind(3, key=path, redraw=redraw).forward(faces(8, INDEX), draw_key)["image"]

    first = made(NOW)
    assert torch.equal(first, made(NOW))
    assert torch.equal(first, made(DrawKey(9, 4, 77, mix=True))), (
        "once per image: no epoch, step or seed counts"
    )
    assert not torch.equal(first, made(NOW, path=key_file(tmp_path / "other.key", "0a1b2c")))
    anew = [made(DrawKey(epoch=epoch, mix=True), "epoch") for epoch in (0, 1)]
    assert not torch.equal(*anew)
    assert torch.equal(anew[1], made(DrawKey(epoch=1, step=8, mix=True), "epoch"))


@pytest.mark.parametrize("kind", [MixUp, InstaHide])
def test_without_a_word_nothing_is_mixed(kind: type[MixUp], key: Path) -> None:
    batch = faces(8, INDEX)
    for training in (True, False):
        made = kind(3, key=key).train(training)
        for draw_key in (None, DrawKey(1, 2, 3)):
            out = made(batch, draw_key)
            assert torch.equal(out["image"], batch["image"])
            assert not {"target", "weight"} & {*out}
        assert not torch.equal(made(batch, NOW)["image"], batch["image"]), "whatever the module's mode"


def test_instahide_is_a_mix_with_signs_around_the_mean(key: Path) -> None:
    batch = faces(8, INDEX)
    plain, signed = MixUp(2, key=key)(batch, NOW), InstaHide(2, key=key)(batch, NOW)
    torch.testing.assert_close((signed["image"] - 0.5).abs(), (plain["image"] - 0.5).abs())
    flipped = (signed["image"] - 0.5) * (plain["image"] - 0.5) < 0
    assert 0.45 < float(flipped.float().mean()) < 0.55
    assert torch.equal(signed["weight"], plain["weight"])
    other = InstaHide(2, key=key, mean=0.2)(batch, NOW)["image"]
    torch.testing.assert_close((other - 0.2).abs(), (plain["image"] - 0.2).abs())


def test_who_has_the_key_takes_the_mix_apart_and_nobody_else(key: Path, tmp_path: Path) -> None:
    batch = faces(8, INDEX)
    handed_out = InstaHide(3, key=key)(batch, NOW)["image"].double()

    def undone(path: Path) -> Tensor:
        """Undo the signs and solve the linear system of the batch's mixes."""
        guess = InstaHide(3, key=path)
        signs = random_signs(batch["index"], (3, 8, 8), guess._drawn_from(None)["signs"])
        which, weight = guess.draw(batch["index"])
        system = torch.zeros(8, 8, dtype=torch.float64).scatter_(1, which, weight.double())
        mixes = ((handed_out - 0.5) * signs + 0.5).flatten(1)
        solved: Tensor = torch.linalg.lstsq(system, mixes, driver="gelsd").solution
        return solved.view(8, 3, 8, 8)

    clean = batch["image"].double()
    torch.testing.assert_close(undone(key), clean, rtol=0, atol=1e-4)
    public = key_file(tmp_path / "public.key", "abcdef")  # everybody can draw from it
    error = (undone(public) - clean).abs().mean()
    assert float(error) > (clean - clean.mean()).abs().mean(), "no better than grey"


def test_the_module_holds_no_key_to_be_written_down(key: Path) -> None:
    made = InstaHide(2, key=key)
    made(faces(8, INDEX), NOW)
    secret = key.read_text().strip()
    assert made.describe()["key_hash"] == made.owner.hash
    assert secret not in f"{made.describe()} {made.state_dict()} {made!r} {made.owner!r}"
    assert not made.state_dict()


def test_a_mask_is_kept_where_all_images_share_it(key: Path) -> None:
    batch = faces(16, INDEX)
    shared = Chain([MaskOut(freeform=(0.4, 0.6)), MixUp(3, key=key)])(batch, NOW)
    assert shared["mask"] is not None
    assert len(shared["mask"]) == 1
    assert bool((shared["image"] * (1 - shared["mask"]) == 0).all())
    several = Chain([MaskOut(freeform=(0.4, 0.6), count=6, draw="image"), MixUp(3, key=key)])(batch, NOW)
    assert several["mask"] is None
    assert several["mask_index"].tolist() == [0] * 8


def test_mix_is_the_written_out_sum() -> None:
    values = torch.arange(12.0).view(3, 1, 2, 2)
    which, weight = (
        torch.tensor([[0, 2], [1, 0], [2, 1]]),
        torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]),
    )
    expected = torch.stack(
        [0.25 * values[0] + 0.75 * values[2], 0.5 * values[1] + 0.5 * values[0], values[2]]
    )
    assert torch.equal(mix(values, which, weight), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 1}, "k: 1 images in a mix; give 2 to 64"),
        ({"k": 65}, "k: 65 images in a mix"),
        ({"k": 2.5}, r"k: 2\.5 images in a mix"),
        ({"k": 3, "cap": 1 / 3}, r"cap: 0.333\d* is not above 1/k = 0.3333 and at most 1: of 3 coefficients"),
        ({"cap": 0.5}, "cap: 0.5 is not above 1/k = 0.5"),
        ({"cap": 1.1}, "cap: 1.1 is not above"),
        ({"cap": math.nan}, "cap: nan is not above"),
        ({"redraw": "step"}, "redraw: 'step' is neither 'once' nor 'epoch'"),
    ],
)
@pytest.mark.parametrize("kind", [MixUp, InstaHide])
def test_bad_arguments(kind: type[MixUp], arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("mean", [math.nan, math.inf, -1e30, 2000.0])
def test_a_mean_that_is_no_number_to_subtract(mean: float) -> None:
    with pytest.raises(ValueError, match=r"mean: .*; give a number from -1000 to 1000"):
        InstaHide(mean=mean)


def test_bad_batches(key: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ValueError, match="mixes k=4 images of a batch, and this one has 3: give larger batches"
    ):
        MixUp(4, key=key)(faces(8, (1, 2, 3)), NOW)
    mixed = MixUp(2, key=key)(faces(8, INDEX), NOW)
    with pytest.raises(ValueError, match="labels are mixed already; mix once, with a larger k"):
        MixUp(2, key=key)(mixed, NOW)
    made = MixUp.from_description(MixUp(2, key=key).describe())
    with pytest.raises(ValueError, match="made from its description, which holds no key: it cannot mix"):
        made(faces(8, INDEX), NOW)
    with pytest.raises(
        FileNotFoundError, match=r"owner's key .*gone\.key: no such file; `\(umask 077; openssl rand"
    ):
        MixUp(2, key=key.with_name("gone.key")).prepare((8, 8))
    InstaHide(2, key=key, redraw="epoch").prepare((8, 8))
    assert "coefficients and signs anew in every epoch. Who sees several epochs" in caplog.text


def test_mixes_of_blurred_pictures_stay_pictures(key: Path) -> None:
    out = Chain([GaussianBlur(9), MixUp(2, key=key)])(
        {**faces(16, INDEX), "image": torch.ones(8, 3, 16, 16)}, NOW
    )["image"]
    assert float(out.max()) <= 1
