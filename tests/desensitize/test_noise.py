"""Methods with a privacy budget: what they promise, what of it is told, and that nobody draws their noise again."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from datamodules import DrawnFaces, FaceDataModule
from datamodules.augment import Augment
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import (
    DCTDP,
    BlockDCT,
    Chain,
    Desensitizer,
    EigenfaceNoise,
    GaussianBlur,
    LaplaceNoise,
    Mosaic,
)
from lightning_app.desensitize.dct import block_dct, coefficient_ranges
from lightning_app.desensitize.eigenfaces import Eigenfaces
from lightning_app.desensitize.noise import composed
from tests.desensitize.contract import faces
from tests.desensitize.test_contract import Ours

SMALL = {"block": 4, "upsample": 1, "stride": 4}


def checkpoint(path: Path, logits: Tensor | None = None, **settings: object) -> Path:
    """What `fit` writes for a DCTDPRecogniser, of it what is read here."""
    made = BlockDCT(**(SMALL | settings))  # type: ignore[arg-type]
    logits = torch.linspace(-1, 1, made.out_channels) if logits is None else logits
    torch.save(
        {
            "state_dict": {"noise.logits": logits, "backbone.weight": torch.zeros(3)},
            "hyper_parameters": {"_class_path": "lightning_app.models.DCTDPRecogniser"},
            "FaceDataModule": {"desensitizer": made.describe()},
        },
        path,
    )
    return path


def other_people(path: Path, components: int = 4, side: int = 8) -> Path:
    generator = torch.Generator().manual_seed(77)
    return Eigenfaces.of(
        [torch.randint(0, 256, (20, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in range(2)],
        components, side,
    ).write(path)  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The same in every run: of random ones, one in a hundred fails a test at a level of one in a hundred."""
    write_secret(tmp_path / "owner.key", hashlib.sha256(b"the noise of these tests").hexdigest().encode())
    return tmp_path / "owner.key"


def every(folder: Path, key: Path | None, **options: Any) -> list[Desensitizer]:
    """One of each."""
    return [
        LaplaceNoise(key=key, **options),
        EigenfaceNoise(other_people(folder / "other.safetensors"), key=key, **options),
        DCTDP(checkpoint(folder / "budget.ckpt"), key=key, **options),
    ]


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


class TestDCTDP(Ours):
    from_description = False

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = checkpoint(tmp_path / "budget.ckpt", colour="ycbcr")

    def make(self) -> DCTDP:
        return DCTDP(self.path)

    def test_its_manifest_is_closed(self) -> None:
        """It is no picture, so no manifest of pictures has it; its description is a closed list all the same."""
        description = self.made().describe()
        (schema,) = (one for one in DCTDP.entries(self.size, 2) if {*description} == {*one, "method"})
        assert all(check(description[name]) for name, (check, _) in schema.items())


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


def test_components_are_refused_their_own_faces_on_every_device(tmp_path: Path, key: Path) -> None:
    levels = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    path = Eigenfaces.of([levels.to(torch.uint8)], 4, 8).write(tmp_path / "own.safetensors")
    on_gpu = levels[:2].float() * torch.tensor(1 / 255)
    with pytest.raises(ValueError, match="were made of 2 of these images"):
        EigenfaceNoise(path, key=key)({"image": on_gpu, "index": torch.arange(2)})
    with pytest.raises(ValueError, match="were made of 2 of these images"):  # as flips come before it
        EigenfaceNoise(path, key=key)({"image": on_gpu.flip(-1), "index": torch.arange(2)})


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


@pytest.mark.parametrize("settings", [SMALL, {}, {"colour": "ycbcr", **SMALL}, {"upsample": 1, "stride": 1}])
def test_the_range_of_a_coefficient_is_that_of_the_transform(settings: dict[str, Any]) -> None:
    """No image goes beyond it, and one reaches it: white where a weight is positive, black where it is not."""
    made = BlockDCT(**settings)
    size = (16, 16)
    ranges = coefficient_ranges(made.blocks, made.keep, size)
    found = made.transform(made.planes(torch.rand(64, 3, *size).round()), torch.arange(64), None)
    assert bool((found.amax((0, 2, 3)) - found.amin((0, 2, 3)) <= ranges + 1e-4).all())
    plane = torch.eye(256).view(256, 1, 16, 16)
    weights = block_dct(
        plane, made.blocks, [k for k in made.keep if k < made.blocks.block**2]
    )  # [pixel,C,h,w]
    widest = weights.double().abs().sum(0).amax((1, 2))
    torch.testing.assert_close(ranges[: len(widest)], widest, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(0), torch.zeros_like(weights[0]), rtol=0, atol=1e-5)  # around 0


def test_the_budget_sums_to_what_was_asked_and_without_end_is_block_dct(tmp_path: Path, key: Path) -> None:
    batch = faces(32)
    path = checkpoint(tmp_path / "budget.ckpt")
    plain = BlockDCT(**SMALL)(batch)["image"]  # type: ignore[arg-type]
    far = []
    for epsilon in (3.0, 300.0, 1e9):
        made = DCTDP(path, epsilon, key=key)
        assert float(made.epsilons.sum()) == pytest.approx(15 * epsilon, rel=1e-9)
        assert bool((made.epsilons.diff() > 0).all()), "as the logits rise"
        far.append(float((made(batch)["image"] - plain).abs().max()))
    assert far[0] > 0.5 > far[1] > far[2]
    torch.testing.assert_close(made(batch)["image"], plain, rtol=1e-6, atol=1e-6)
    even = DCTDP(checkpoint(tmp_path / "even.ckpt", torch.zeros(15)), 3.0, key=key)
    torch.testing.assert_close(even.epsilons, torch.full((15,), 3.0, dtype=torch.float64))
    none = DCTDP(
        checkpoint(tmp_path / "all.ckpt", torch.zeros(15).index_fill_(0, torch.tensor(3), 1e4)), key=key
    )
    assert bool(none(batch)["image"].isfinite().all()), "all of it for one channel"
    assert float(none.epsilons.min()) == pytest.approx(0.003)


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 12.0])
def test_a_coefficients_noise_has_its_channels_scale(tmp_path: Path, key: Path, epsilon: float) -> None:
    made = DCTDP(checkpoint(tmp_path / "budget.ckpt"), epsilon, key=key)
    batch = faces(32, tuple(range(60)))
    noise = (made(batch)["image"] - BlockDCT(**SMALL)(batch)["image"]).double()  # type: ignore[arg-type]
    scale = coefficient_ranges(made.blocks, made.keep, (32, 32)) / made.epsilons
    for channel in (0, 14):
        found = noise[:, channel].flatten().numpy()
        assert stats.kstest(found, "laplace", args=(0, float(scale[channel]))).pvalue > 0.01


def test_eigenfaces_of_a_small_case(tmp_path: Path, key: Path) -> None:
    """Without noise worth the name a face comes back as its components show it, within their bounds."""
    path = other_people(tmp_path / "other.safetensors", 5)
    made = EigenfaceNoise(path, 1e6, key=key)
    own = load_file(path)
    batch = faces(32)
    grey = torch.nn.functional.interpolate(
        (batch["image"] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True),
        (8, 8), mode="bilinear", antialias=True,
    ).flatten(1)  # fmt: skip
    share = ((grey - own["mean"]) @ own["components"].T - own["low"]) / (own["high"] - own["low"])
    back = own["mean"] + (share.clamp(0, 1) * (own["high"] - own["low"]) + own["low"]) @ own["components"]
    seen = torch.nn.functional.interpolate(made(batch)["image"][:, :1], (8, 8), mode="area").flatten(1)
    assert float((seen - back.clamp(0, 1)).abs().mean()) < 0.02
    torch.testing.assert_close(own["components"] @ own["components"].T, torch.eye(5), rtol=0, atol=1e-5)


def test_components_and_bounds_are_never_of_the_faces_themselves(tmp_path: Path, key: Path) -> None:
    mine = faces(32, tuple(range(40)))
    path = Eigenfaces.of([(mine["image"][:30] * 255).round().to(torch.uint8)], 4, 8).write(
        tmp_path / "own.safetensors"
    )
    made = EigenfaceNoise(path, key=key)
    with pytest.raises(
        ValueError, match=r"were made of 1 of these images \(numbers 2\): make them of other people's"
    ):
        made({**faces(32, (2, 38)), "index": torch.tensor([2, 38])})
    assert made(faces(32, (38, 39)))["image"].shape == (2, 3, 32, 32)
    hidden = {**load_file(path)}
    for name, value in hidden.items():  # nothing in the file is an image
        assert value.shape[0] <= 64 or name == "seen" or value.ndim == 1
    assert hidden["seen"].shape == (30,)
    description = made.describe()
    again = EigenfaceNoise(other_people(tmp_path / "other.safetensors"), key=key).describe()
    assert description["set_hash"] != again["set_hash"]
    assert description["set_hash"] == hashlib.sha256(hidden["seen"].numpy().tobytes()).hexdigest()


def test_files_of_eigenfaces_that_are_none(tmp_path: Path) -> None:
    good = load_file(other_people(tmp_path / "good.safetensors"))

    def refused(match: str, **changed: Tensor) -> None:
        path = tmp_path / "bad.safetensors"
        save_file({**good, **changed}, path, {"faceveil": "eigenfaces/2"})
        with pytest.raises(ValueError, match=match):
            Eigenfaces.read(path)

    refused("components are not orthonormal", components=good["components"] * 2)
    refused("a coefficient has no range", low=good["high"].clone())
    refused("no finite numbers", mean=good["mean"] * float("nan"))
    refused("fewer than 4 images a component", seen=good["seen"][:9])
    refused(r"mean is \[3\], not \[64\]", mean=torch.zeros(3))
    refused("no squares", components=torch.eye(4, 65))
    refused("holds no eigenfaces", face=torch.zeros(3))
    save_file(good, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="holds no eigenfaces"):
        Eigenfaces.read(tmp_path / "bad.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated or no safetensors"):
        Eigenfaces.read(tmp_path / "torn.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no such file; `python main.py eigenfaces"):
        Eigenfaces.read(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="components: 8 of 31 images; give at least 4 images for each"):
        Eigenfaces.of([torch.zeros(31, 3, 16, 16, dtype=torch.uint8)], 8, 8)


def test_checkpoints_that_hold_no_budget(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "budget.ckpt")
    good = torch.load(path, weights_only=True)

    def refused(match: str, **changed: Any) -> None:
        torch.save({**good, **changed}, path)
        with pytest.raises(ValueError, match=match):
            DCTDP(path)

    description = good["FaceDataModule"]["desensitizer"]
    refused(
        "is not of a DCTDPRecogniser but of ResNet; give one that",
        state_dict={"backbone.weight": torch.zeros(3)},
        hyper_parameters={"_class_path": "lightning_app.models.ResNet"},
    )
    refused("no row of finite numbers", state_dict={"noise.logits": torch.full((15,), float("inf"))})
    refused("over 14 channels, and its transform has 15", state_dict={"noise.logits": torch.zeros(14)})
    refused(
        "stride of its BlockDCT is not a number",
        FaceDataModule={"desensitizer": description | {"stride": "4"}},
    )
    refused(
        "other channels than those of BlockDCT", FaceDataModule={"desensitizer": description | {"dc": True}}
    )
    refused(
        "other channels than those of BlockDCT",
        FaceDataModule={"desensitizer": description | {"method": "FrequencyMask"}},
    )
    refused("holds more than weights and plain values", extra=Path("x"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        DCTDP(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        DCTDP(tmp_path / "none.ckpt")


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


def test_whose_faces_they_are_is_looked_at_before_anything_else(tmp_path: Path, key: Path) -> None:
    """A blurred face has another fingerprint: bounds of the very faces that are released would not be noticed."""
    noise = EigenfaceNoise(other_people(tmp_path / "other.safetensors"), key=key)
    with pytest.raises(ValueError, match=r"steps.1: EigenfaceNoise compares the faces .* put it first"):
        Chain([GaussianBlur(3), noise])
    chain = Chain([noise, Mosaic(8)])
    chain.prepare((32, 32))
    steps = chain.describe()["steps"]
    (schema,) = Chain.entries(32, 3)
    check, _ = schema["steps"]
    assert check(json.loads(json.dumps(steps)))
    assert not check(json.loads(json.dumps(steps))[::-1])


def test_a_budget_from_before_lists_were_sorted_is_read(tmp_path: Path, key: Path) -> None:
    path = checkpoint(tmp_path / "budget.ckpt", channels=[1, 2, 3])
    kept = torch.load(path, weights_only=True)
    kept["FaceDataModule"]["desensitizer"]["channels"] = [3, 1, 2]
    torch.save(kept, path)
    assert DCTDP(path, key=key).channels == [1, 2, 3]
