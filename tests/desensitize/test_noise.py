"""Methods with a privacy budget: what they promise, what of it is told, and that nobody draws their noise again."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

from datamodules import DrawnFaces, FaceDataModule
from datamodules.augment import Augment
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import DCTDP, BlockDCT, Desensitizer, EigenfaceNoise, LaplaceNoise
from lightning_app.desensitize.dct import coefficient_ranges
from lightning_app.desensitize.noise import composed
from tests.desensitize.contract import faces
from tests.desensitize.noisy import SMALL, checkpoint, every, other_people
from tests.desensitize.test_contract import Ours


class Noisy(Ours):
    def test_it_can_be_made_from_its_description(self) -> None:
        """Of pictures it says the same again, which an audit compares; but it draws nothing without the key."""
        made = self.made()
        again = type(made).from_description(json.loads(json.dumps(made.describe())))
        again.prepare((self.size, self.size))
        assert again.describe() == made.describe()
        with pytest.raises(ValueError, match="holds no key: it cannot draw its noise"):
            again(faces(self.size))


class TestLaplaceNoise(Noisy):
    def make(self) -> LaplaceNoise:
        return LaplaceNoise(2.0)


class TestEigenfaceNoise(Noisy):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = other_people(tmp_path / "other.safetensors")

    def make(self) -> EigenfaceNoise:
        return EigenfaceNoise(self.path)


def test_pixels_have_the_noise_that_was_asked_for(key: Path) -> None:
    """Of a grey pixel, within the range where nothing is cut off: Laplace of the scale 255/ε, rounded."""
    batch = Batch(image=torch.full((40, 3, 32, 32), 128 / 255), index=torch.arange(40))
    batch["image"][:, 0, 0, 0] = torch.arange(40) / 255  # other images
    noise = LaplaceNoise(12.0, key=key)(batch)["image"][:, 1].mul(255).round().sub(128).flatten().numpy()
    inside = noise[abs(noise) < 100]
    scale = 255 / 12
    # a fraction of a step, spread evenly, makes of whole numbers what SciPy knows
    spread = inside + torch.rand(len(inside), generator=torch.Generator().manual_seed(0)).numpy() - 0.5
    cut = stats.laplace.cdf(99.5, scale=scale) - stats.laplace.cdf(-99.5, scale=scale)
    low = stats.laplace.cdf(-99.5, scale=scale)
    assert stats.kstest(spread, lambda x: (stats.laplace.cdf(x, scale=scale) - low) / cut).pvalue > 0.01


def test_budgets_are_counted_by_hand(tmp_path: Path, key: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8×8 pixels: 3·64 values; 4 components; 15 channels of 2×2 blocks. At ε = 2."""
    assert (composed(2, 192), composed(2, 192, epochs=5)) == (384, 1920)
    with caplog.at_level(logging.WARNING, "faceveil"):
        once, anew = ([*every(tmp_path, key, epsilon=2.0, redraw=how)] for how in ("once", "epoch"))
        for made in once:
            made.prepare((8, 8))
        assert "redraw" not in caplog.text
        for made in anew:
            made.prepare((8, 8))
    assert [made.describe()["epsilon_image"] for made in once] == [384, 8, 120]
    assert [made.describe()["epsilon_total"] for made in once] == [384, 8, 120]
    assert [made.describe()["epsilon_total"] for made in anew] == ["epsilon_image times the epochs"] * 3
    for words in (
        "LaplaceNoise: redraw: epoch spends ε = 2 per value, 384 per image",
        "EigenfaceNoise",
        "DCTDP",
    ):
        assert words in caplog.text
    for made in once + anew:
        words = type(made).recipe(made.describe())
        assert "ε = 2 per value" in words
        assert ("as many times that" in words) == (made in anew)


def test_an_image_has_one_noise_and_two_have_none_in_common(tmp_path: Path, key: Path) -> None:
    batch = faces(32)
    for made in every(tmp_path, key):
        for other in (faces(32, (4, 9)), batch | {"index": torch.tensor([4, 4, 4, 4])}):
            assert torch.equal(made(other)["image"][:2], made(batch)["image"][:2]), (
                "whatever its number, its batch"
            )
        now, later = (made(batch, DrawKey(seed=seed, epoch=seed, step=seed))["image"] for seed in (1, 2))
        assert torch.equal(now, later)
    twice = Batch(image=torch.full((2, 3, 32, 32), 128 / 255), index=torch.tensor([5, 5]))
    twice["image"][1, 0, 0, 0] = 0
    noisy = LaplaceNoise(key=key)(twice)["image"]
    assert float((noisy[0] == noisy[1]).float().mean()) < 0.3, "two images of one number"
    mirrored = LaplaceNoise(key=key)({**faces(32), "image": faces(32)["image"].flip(3)})["image"].flip(3)
    assert float((mirrored == LaplaceNoise(key=key)(faces(32))["image"]).float().mean()) < 0.3


def test_an_image_has_one_noise_on_every_device(tmp_path: Path, key: Path) -> None:
    """A GPU multiplies by 1/255 where a CPU divides; two draws would be two equations for the face."""
    levels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()
    index = torch.arange(3)
    colour = DCTDP(checkpoint(tmp_path / "colour.ckpt", colour="ycbcr"), key=key)
    for made in [*every(tmp_path, key), colour]:
        here, there = (
            made({"image": image, "index": index})["image"]
            for image in (levels / 255, levels * torch.tensor(1 / 255))
        )
        # a value may be rounded to the next step of its grid
        assert float((here - there).abs().max()) < 0.01 * float(here.std()), type(made).__name__


def test_augmented_images_have_noise_of_their_own_and_it_is_said(
    tmp_path: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = DrawnFaces(identities=2, images_per_identity=2, size=32)
    methods = every(tmp_path, key)
    for made in methods:
        for augment, says, twice in (
            (Augment(flip=0.5), False, not made.flips),
            (Augment(flip=0), False, False),
            (Augment(crop=2), not made.flips, False),
            (Augment(light=0.1), not made.flips, False),
        ):
            caplog.clear()
            with caplog.at_level("INFO", "faceveil"):
                FaceDataModule(reader, made, augment=augment).setup("fit")
            assert ("That spends ε in every epoch" in caplog.text) == says
            assert ("noise of their own: twice epsilon_total" in caplog.text) == twice
    assert [made.flips for made in methods].count(False) == 1, "of DCTDP alone"


def test_redraw_epoch_draws_anew_in_training_alone(tmp_path: Path, key: Path) -> None:
    batch = faces(32)
    for made in every(tmp_path, key, redraw="epoch"):
        first, second = (made(batch, DrawKey(epoch=epoch))["image"] for epoch in (0, 1))
        assert not torch.equal(first, second)
        assert torch.equal(made(batch, DrawKey(step=9, epoch=1))["image"], second)
        assert torch.equal(made(batch)["image"], made(batch)["image"])


def test_two_budgets_share_no_noise(tmp_path: Path, key: Path) -> None:
    """Else two releases at ε = 3 and 6 would be two equations for the face: the noise is the same, twice as large."""
    batch = Batch(image=torch.full((1, 3, 32, 32), 128 / 255), index=torch.tensor([0]))
    first, second = (LaplaceNoise(one, key=key)(batch)["image"][0] * 255 - 128 for one in (8.0, 16.0))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.1
    budgets = [checkpoint(tmp_path / f"{n}.ckpt", torch.full((15,), float(n)).index_fill_(0, torch.tensor(0), 0))
               for n in (0, 1)]  # fmt: skip
    found = [DCTDP(one, key=key)({**batch, "image": batch["image"]})["image"].flatten() for one in budgets]
    assert abs(float(torch.corrcoef(torch.stack(found))[0, 1])) < 0.3


def test_nobody_draws_the_noise_from_what_is_published(tmp_path: Path, key: Path) -> None:
    """Not with the key's hash, the seeds, the hashes of budget or components, nor with numbers in place of a key."""
    batch = faces(32)
    for made in every(tmp_path, key):
        made.prepare((32, 32))
        description = made.describe()
        told = json.dumps(description)
        assert key.read_text().strip() not in told
        published = [str(value) for name, value in description.items() if name.endswith("hash")]
        published += [
            hashlib.sha256(str(seed).encode()).hexdigest() for seed in (0, 1, description["key_hash"])
        ]
        right = made(batch)["image"]
        for number, guess in enumerate(published):
            guessed = tmp_path / f"{type(made).__name__}{number}"
            write_secret(guessed, guess.encode())
            again = next(one for one in every(tmp_path, guessed) if type(one) is type(made))
            assert again.describe()["key_hash"] != description["key_hash"]
            other = again(batch)["image"]
            assert not torch.equal(other, right)
            assert _noise_in_common(right, other, batch, made) < 0.1


def _noise_in_common(first: Tensor, second: Tensor, batch: Batch, made: Desensitizer) -> float:
    """Correlate what two draws differ by from the mean of 40 others."""
    kind = {"LaplaceNoise": 0, "EigenfaceNoise": 1, "DCTDP": 2}[type(made).__name__]
    if kind == 1:  # four numbers an image: no correlation tells; equality does
        return float((first == second).all())
    clean = batch["image"] if kind == 0 else BlockDCT(**SMALL)(batch)["image"]  # type: ignore[arg-type]
    weight = (first - clean).std((0, 2, 3), keepdim=True)
    pair = torch.stack([((one - clean) / weight).flatten() for one in (first, second)])
    if kind == 0:  # cut off at black and white: what is not
        inside = ((first > 0) & (first < 1) & (second > 0) & (second < 1)).flatten()
        near = ((clean - 0.5).abs() < 0.1).flatten()
        pair = pair[:, inside & near]
    return abs(float(torch.corrcoef(pair)[0, 1]))


def test_the_noise_leaves_no_trace_of_a_float(tmp_path: Path, key: Path) -> None:
    """Mironov's attack: which sums come out must not depend on the value. All are multiples of the steps."""
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))  # between the grid's steps
    batch = Batch(image=image, index=torch.arange(4))
    pixels = LaplaceNoise(key=key)(batch)["image"] * 255
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)
    made = DCTDP(checkpoint(tmp_path / "budget.ckpt"), key=key)
    step = coefficient_ranges(made.blocks, made.keep, (32, 32)) / made.epsilons / 1024
    steps = made(batch)["image"].double() / step[:, None, None]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=0.05)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e-9, True])
def test_an_epsilon_that_is_none(bad: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon: .*; give a number from 0\.01 to 1e\+09"):
        LaplaceNoise(bad)
    with pytest.raises(ValueError, match="redraw: 'never'; give once or epoch"):
        LaplaceNoise(redraw="never")  # type: ignore[arg-type]


def test_next_to_no_noise_is_told(tmp_path: Path) -> None:
    for made in (LaplaceNoise(1000.0), EigenfaceNoise(other_people(tmp_path / "o.safetensors"), 1000.0)):
        made.prepare((32, 32))
        assert type(made).weaknesses(made.describe(), 32)
    assert LaplaceNoise.weaknesses(LaplaceNoise(3.0).describe(), 32) == []
