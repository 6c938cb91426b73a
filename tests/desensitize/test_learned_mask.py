"""The four kinds of learned masks: their contract, what a mask may tell of what it hides, and what they refuse."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.core.batch import Batch
from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import LearnedMask
from lightning_app.desensitize.base import only_hides
from lightning_app.desensitize.masker import load_masker, masker_hash
from lightning_app.masks import save_mask
from lightning_app.masks.learned import shown_pixels, top_mask
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.each import EachDesensitizer
from tests.desensitize.contract import DesensitizerContract, faces
from tests.desensitize.test_contract import Ours
from tests.masker import images, write_masker

SIZE = 16
KINDS = ("population", "codebook", "core_first", "free")


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masker(tmp_path_factory.mktemp("masker") / "free.ckpt")


@pytest.fixture(scope="module")
def core_masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masker(tmp_path_factory.mktemp("masker") / "core.ckpt", rounds=3)


def batch_of(count: int, seed: int = 3) -> Batch:
    return {"image": images(count, SIZE, seed), "index": torch.arange(count), "identity": torch.arange(count)}


class OfAMasker(DesensitizerContract):
    size = SIZE
    kind = "population"
    rounds = 0
    more: dict[str, Any] = {}  # noqa: RUF012  (never written to)

    @pytest.fixture(autouse=True)
    def _checkpoint(self, masker: Path, core_masker: Path) -> None:
        self.checkpoint = core_masker if self.rounds else masker

    def make(self) -> LearnedMask:
        return LearnedMask(self.checkpoint, kind=self.kind, **self.more)  # type: ignore[arg-type]


class TestPopulation(OfAMasker, Ours):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "mask.png"

    def mask_file(self) -> Path:
        made = self.made()
        assert isinstance(made, LearnedMask)
        assert made.mask is not None
        save_mask(made.mask[0], self.path)
        return self.path


class TestCoreFirst(OfAMasker):
    kind, rounds, from_description = "core_first", 3, False


class PerImage(OfAMasker):
    """Whose masks depend on what they hide."""

    from_description = False

    def test_what_is_under_the_mask_reaches_nothing(self) -> None:
        made = self.made()
        assert made.has_mask is None
        assert not made.hides_only

    def test_promises_are_not_inherited(self) -> None:
        assert not only_hides(self.made())


class TestCodebook(PerImage):
    kind = "codebook"

    def test_the_index_forced_gives_the_same(self) -> None:
        made, batch = self.made(), batch_of(12)
        out = made(batch)
        mask = out["mask"][out["mask_index"]]
        noise = torch.where(mask == 1, batch["image"], torch.rand(batch["image"].shape))
        assert torch.equal(noise * mask, out["image"])


class TestFree(PerImage):
    kind = "free"


class TestExponential(PerImage):
    kind = "codebook"

    @pytest.fixture(autouse=True)
    def _key(self, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text(hashlib.sha256(b"one").hexdigest())
        key.chmod(0o600)
        self.more = {"choice": "exponential", "epsilon": 2.0, "key": key}


# -- what is shown, and of what it is a function


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.24, 0.7])
def test_exactly_so_many_pixels_are_shown(kind: Any, share: float, masker: Path) -> None:
    out = LearnedMask(masker, share, kind)(batch_of(5))
    shown = out["mask"].flatten(1).sum(1)
    assert shown.tolist() == [shown_pixels(share, SIZE)] * len(out["mask"])
    assert torch.equal(out["image"], batch_of(5)["image"] * out["mask"][out["mask_index"]])
    assert LearnedMask(masker, share, kind).describe()["kind"] == kind


def changed_under_noise(made: LearnedMask, count: int = 1000) -> int:
    """Count the masks of so many images that noise under them changes."""
    batch = batch_of(count)
    out = made(batch)
    mask = out["mask"][out["mask_index"]]
    noise = torch.rand(batch["image"].shape, generator=torch.Generator().manual_seed(9))
    again = made({**batch, "image": torch.where(mask == 1, batch["image"], noise)})
    other = again["mask"][again["mask_index"]]
    return int((mask != other).flatten(1).any(1).sum())


def test_noise_under_the_mask_of_1000_images(masker: Path, core_masker: Path) -> None:
    assert changed_under_noise(LearnedMask(core_masker, kind="core_first")) == 0
    assert changed_under_noise(LearnedMask(core_masker, kind="core_first", rounds=5, core=0.6), 50) == 0
    assert changed_under_noise(LearnedMask(masker, kind="core_first"), 50) == 0
    assert changed_under_noise(LearnedMask(masker, kind="population"), 50) == 0
    assert changed_under_noise(LearnedMask(masker, kind="free")) > 990, "or the test is blind"


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_and_64(kind: Any, masker: Path, core_masker: Path) -> None:
    made, batch = LearnedMask(core_masker if kind == "core_first" else masker, kind=kind), batch_of(64)
    out = made(batch)
    for i in range(64):
        one = made({"image": batch["image"][i : i + 1], "index": batch["index"][i : i + 1]})
        assert torch.equal(one["image"], out["image"][i : i + 1])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("free", {}),
        ("core_first", {}),
        ("codebook", {}),
        ("codebook", {"choice": "exponential", "epsilon": 3.0}),
    ],
)
def test_what_is_remembered_is_what_is_made(
    kind: Any, more: dict[str, Any], masker: Path, core_masker: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Three epochs, in three orders and in batches of three sizes, ask the masker in the first alone."""
    if more:
        write_secret(tmp_path / "key", hashlib.sha256(b"an owner").hexdigest().encode() + b"\n")
        more = more | {"key": tmp_path / "key"}
    path = core_masker if kind == "core_first" else masker
    plain, made = (LearnedMask(path, kind=kind, remember=remember, **more) for remember in (False, True))
    asked: list[int] = []
    make = made.made

    def counted(image: torch.Tensor) -> torch.Tensor:
        asked.append(len(image))
        return make(image)

    monkeypatch.setattr(made, "made", counted)
    whole = batch_of(12)
    for order, size in ((torch.arange(12), 4), (torch.arange(12).flip(0), 3), (torch.randperm(12), 6)):
        for part in order.split(size):
            batch: Batch = {"image": whole["image"][part], "index": whole["index"][part]}
            one, other = plain(batch), made(batch)
            for found in (one, other):
                assert found["mask"] is not None
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["mask"][one["mask_index"]], other["mask"][other["mask_index"]])
    assert asked == [4, 4, 4]


def test_masks_are_ranked_in_fp32_within_autocast(masker: Path) -> None:
    made = LearnedMask(masker, kind="free")
    with torch.autocast("cpu", torch.bfloat16):
        low = made(batch_of(8))["mask"]
    assert torch.equal(low, made(batch_of(8))["mask"])


def test_masks_of_images_differ(masker: Path, core_masker: Path) -> None:
    for made in (LearnedMask(masker, kind="free"), LearnedMask(core_masker, kind="core_first")):
        masks = made(batch_of(20))["mask"]
        assert len(masks.flatten(1).unique(dim=0)) > 10


def test_population_is_the_top_of_the_mean(masker: Path) -> None:
    made = LearnedMask(masker, 0.3)
    made.prepare((SIZE, SIZE))
    assert torch.equal(made.mask, top_mask(load_masker(masker).mean[None, None], 76))  # type: ignore[arg-type]


def test_codebook_takes_the_best(masker: Path) -> None:
    made, batch = LearnedMask(masker, kind="codebook"), batch_of(30)
    out = made(batch)
    (own,) = made._masker
    soft = own.network((batch["image"] - 0.5) / 0.5).sigmoid()
    worth = torch.stack([(soft * code).sum((1, 2, 3)) for code in out["mask"]], 1)
    assert torch.equal(out["mask_index"], worth.argmax(1))
    assert len(out["mask_index"].unique()) > 1


def test_the_exponential_choice(masker: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(hashlib.sha256(b"two").hexdigest())
    key.chmod(0o600)
    count, epsilon = 20_000, 6.0
    made = LearnedMask(masker, kind="codebook", choice="exponential", epsilon=epsilon, key=key)
    made.prepare((SIZE, SIZE))
    assert made.keyed
    assert made.mask is not None
    soft = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    soft = (soft * made.mask[1]).expand(count, -1, -1, -1)
    index = torch.arange(count)
    chosen = made.choose(soft, index)
    worth = torch.tensor([float((soft[0] * code).sum() / code.sum()) for code in made.mask])
    expected = (worth * epsilon / 2).softmax(0)
    share = torch.bincount(chosen, minlength=len(expected)) / count
    assert float((share - expected).abs().max()) < 4 * 0.5 / math.sqrt(count)
    assert torch.equal(chosen, made.choose(soft, index)), "once per image and key"
    other = LearnedMask(masker, kind="codebook", choice="exponential", epsilon=epsilon)
    other.prepare((SIZE, SIZE))
    assert not torch.equal(chosen, other.choose(soft, index)), "another key"
    assert float(worth.max() - worth.min()) <= 1, "what ε rests on"


# -- what it says


def test_bits(masker: Path, core_masker: Path) -> None:
    bits = {}
    for kind in KINDS:
        made = LearnedMask(core_masker if kind == "core_first" else masker, kind=kind)  # type: ignore[arg-type]
        made.prepare((SIZE, SIZE))
        bits[kind] = made.describe()["bits"]
        if kind == "codebook":
            assert made.mask is not None
            assert bits[kind] == round(math.log2(len(made.mask)), 3)
    assert bits["population"] == bits["core_first"] == 0
    assert bits["free"] == round(math.log2(math.comb(256, 64)), 3)
    bounded = LearnedMask(masker, kind="codebook", choice="exponential", epsilon=0.1)
    bounded.prepare((SIZE, SIZE))
    assert bounded.describe()["bits"] == round(0.1 * math.log2(math.e), 3)


def test_it_names_the_maskers_weights(masker: Path, tmp_path: Path) -> None:
    own = load_masker(masker)
    assert own.hash == LearnedMask(masker).describe()["masker_hash"] == masker_hash(own.network.state_dict())
    checkpoint = torch.load(masker, weights_only=True)
    checkpoint["state_dict"]["masker.last.bias"] += 1
    torch.save(checkpoint, tmp_path / "other.ckpt")
    assert load_masker(tmp_path / "other.ckpt").hash != own.hash
    assert str(masker) not in str(LearnedMask(masker).describe())


@pytest.mark.parametrize("kind", ["codebook", "core_first", "free"])
def test_masks_for_each_image_are_no_mask_for_all(kind: Any, masker: Path) -> None:
    made = LearnedMask(masker, kind=kind)
    assert made.masks_each
    assert bool(made.interference) == (kind == "free")
    with pytest.raises(
        ValueError, match="LearnedMask gives each image a mask of its own, here one is needed for all"
    ):
        PixelDesensitizer(made, SIZE)


def test_no_codebook_of_few_faces(masker: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(masker, weights_only=True)
    checkpoint["masker"]["faces"] = 15
    torch.save(checkpoint, tmp_path / "15.ckpt")
    with pytest.raises(ValueError, match="its public masks are means over 15 faces"):
        EachDesensitizer(LearnedMask(tmp_path / "15.ckpt", kind="codebook"), SIZE)


def test_no_release_of_the_mean_over_few_faces(masker: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(masker, weights_only=True)
    for count in (15, 16):
        checkpoint["masker"]["faces"] = count
        torch.save(checkpoint, tmp_path / f"{count}.ckpt")
    with pytest.raises(ValueError, match=r"the mean over 15 faces, .*; train the masker on 16 or more"):
        PixelDesensitizer(LearnedMask(tmp_path / "15.ckpt"), SIZE)
    PixelDesensitizer(LearnedMask(tmp_path / "16.ckpt"), SIZE)


# -- what it refuses


@pytest.mark.parametrize(("setting", "message"), [
    ({"kind": "best"}, "kind: 'best' is none of population, codebook, core_first, free"),
    ({"choice": "worst"}, "choice: 'worst' is neither"),
    ({"choice": "exponential", "epsilon": 1.0}, "choice=exponential: is for kind codebook"),
    ({"kind": "codebook", "choice": "exponential"}, "epsilon=None: choice exponential needs a number above 0"),
    ({"kind": "codebook", "choice": "exponential", "epsilon": 0.0}, r"epsilon=0\.0: choice exponential needs"),
    ({"epsilon": 1.0}, "epsilon=1.0: is for choice exponential"),
    ({"kind": "codebook", "key": "k"}, "key=k: is for choice exponential"),
    ({"rounds": 3}, "rounds=3: is for kind core_first"),
    ({"remember": True}, "remember=True: is for kinds with a mask for each image"),
    ({"core": 0.1}, "core=0.1: is for kind core_first"),
    ({"kind": "core_first", "rounds": 0}, "rounds=0: core_first needs at least 1"),
    ({"kind": "core_first", "core": 1.0}, "core=1.0: give a share"),
    ({"share": 1.0}, "share=1.0: give the share of pixels that stay visible"),
    ({"share": 1e-9}, "share=1e-09: give 6 decimals at most"),
    ({"kind": "core_first", "rounds": 65}, "rounds=65: give 0 to 64"),
    ({"kind": "codebook", "choice": "exponential", "epsilon": 0.12345678},
     "epsilon=0.12345678: give 1,000,000 at most, of 6 decimals at most"),
])  # fmt: skip
def test_settings_that_do_not_go(setting: dict[str, Any], message: str, masker: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedMask(masker, **setting)


def test_images_of_another_size(masker: Path) -> None:
    with pytest.raises(ValueError, match=r"the masker was trained on images of 16×16, these are 24×24"):
        LearnedMask(masker).prepare((24, 24))
    made = LearnedMask(masker, kind="free")
    made.prepare((SIZE, SIZE))
    with pytest.raises(ValueError, match="these are 24×24"):
        made(faces(24))


def test_checkpoints_that_are_no_maskers(tmp_path: Path, masker: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*gone\.ckpt"):
        LearnedMask(tmp_path / "gone.ckpt")
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run: no last\.ckpt in .*run/checkpoints; give a \.ckpt"):
        LearnedMask(tmp_path / "run")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt"):
        LearnedMask(tmp_path / "text.ckpt")
    checkpoint = torch.load(masker, weights_only=True)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"masker": None}, "is not of an AdversarialMasker but of another model"),
        ({"masker": checkpoint["masker"] | {"mean": None}}, "before the end of its first epoch"),
        ({"masker": checkpoint["masker"] | {"mean": torch.zeros(3, 3)}}, "mean mask .3, 3. and codes"),
        ({"masker": checkpoint["masker"] | {"faces": -1}}, "its weights do not fit its settings"),
        ({"hyper_parameters": checkpoint["hyper_parameters"] | {"masker_width": 4096}}, "settings ask for"),
        ({"hyper_parameters": checkpoint["hyper_parameters"] | {"share": 2.0}}, "share=2.0"),
        ({"hyper_parameters": {"_class_path": "lightning_app.models.ResNet"}}, "but of ResNet"),
    ]
    for number, (changed, message) in enumerate(cases):
        file = tmp_path / f"{number}.ckpt"
        torch.save(checkpoint | changed, file)
        with pytest.raises(ValueError, match=message):
            LearnedMask(file)


def test_a_description_of_another_mask(masker: Path, tmp_path: Path) -> None:
    made = LearnedMask(masker)
    made.prepare((SIZE, SIZE))
    assert made.mask is not None
    description = made.describe()
    save_mask(1 - made.mask[0], tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png is not the mask described"):
        LearnedMask.from_description(description, tmp_path / "other.png")
    save_mask(made.mask[0], tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"does not show the share of pixels that is described, 0\.5"):
        LearnedMask.from_description(description | {"share": 0.5}, tmp_path / "mask.png")


@pytest.mark.parametrize(("kind", "rounds", "told"), [("free", 3, True), ("core_first", 0, True), ("free", 0, False),
                                                      ("core_first", 3, False), ("population", 3, False)])  # fmt: skip
def test_a_masker_trained_to_look_otherwise(
    kind: Any, rounds: int, told: bool, masker: Path, core_masker: Path, caplog: pytest.LogCaptureFixture
) -> None:
    LearnedMask(core_masker if rounds else masker, kind=kind)
    assert ("of a masker that was trained to look at" in caplog.text) == told


def test_a_core_of_many_decimals_is_rounded_as_a_share_is(masker: Path) -> None:
    """Else the manifest would refuse it, after all images were desensitized."""
    made = LearnedMask(masker, kind="core_first", share=1 / 3, core=1 / 3)
    made.prepare((SIZE, SIZE))
    assert (made.share, made.growth.core) == (0.333333, 0.333333)


@pytest.mark.parametrize("what", ["weights", "mean", "codes"])
def test_a_masker_that_is_not_finite(what: str, masker: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(
        masker / "checkpoints/last.ckpt" if masker.is_dir() else masker, weights_only=True
    )
    if what == "weights":
        checkpoint["state_dict"]["masker.last.weight"][0, 0] = float("nan")
    else:
        checkpoint["masker"][what].view(-1)[0] = float("inf")
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match="holds values that are not finite; take an earlier checkpoint"):
        LearnedMask(tmp_path / "damaged.ckpt")
