"""Attacks that solve equations: least squares of linear methods, mixes taken apart, signs taken away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules import DrawnFaces
from lightning_app.attacks import AbsoluteValues, LeastSquares, TrainedRestorer, UnMix, Unshuffle
from lightning_app.attacks.unmix import equations_known, mixing_matrix
from lightning_app.core.batch import AS_TRAINED, Batch
from lightning_app.desensitize import (
    BlockDCT,
    Chain,
    FrequencyMask,
    GaussianBlur,
    InstaHide,
    MaskOut,
    MixUp,
    Precomputed,
)
from lightning_app.evaluation.judges.base import state_hash
from lightning_app.metrics import psnr
from tests.attacks.contract import AttackContract
from tests.attacks.test_trained import checkpoint
from tests.desensitize.test_mixing import key_file

SIZE = 32


def others(count: int = 60) -> DrawnFaces:
    return DrawnFaces(identities=count, images_per_identity=1, size=SIZE, first_identity=900)


def attacked(count: int = 6, each: int = 1) -> Batch:
    faces = DrawnFaces(identities=count, images_per_identity=each, size=SIZE)
    read = faces.__getitems__(range(count * each))
    return {"image": read["image"].float() / 255, "index": read["index"], "identity": read["identity"]}


class TestLeastSquares(AttackContract):
    def make(self) -> LeastSquares:
        made = LeastSquares(others(), images=8).against(GaussianBlur(5))
        assert made is not None
        return made


class TestUnMix(AttackContract):
    def make(self) -> UnMix:
        return UnMix()


class TestAbsoluteValues(AttackContract):
    def make(self) -> AbsoluteValues:
        return AbsoluteValues()


def test_what_other_people_taught_it_decides_whose_figures_are_taken() -> None:
    """`compare` takes figures that are there by description and state: other faces are another attack."""
    batch, states, described = attacked(2), [], []
    for first in (900, 900, 5000):
        faces = DrawnFaces(identities=20, images_per_identity=1, size=SIZE, first_identity=first)
        made = LeastSquares(faces, images=20, neighbours=0).against(GaussianBlur(5))
        assert made is not None
        made.restore(GaussianBlur(5)(batch))
        states.append(state_hash(made))
        described.append(made.describe())
        assert not made.state_dict()
    assert states[0] == states[1] != states[2]
    assert described[0] == described[2]


def test_a_linear_representation_comes_back_up_to_what_was_dropped() -> None:
    batch = attacked()
    whole = BlockDCT(upsample=1, colour="ycbcr", dc=True)
    made = LeastSquares(others(), neighbours=0).against(whole)
    assert made is not None
    assert psnr(made.restore(whole(batch)), batch["image"]).min() > 50
    # without the DC what is left is exact: blocks differ from the true ones by a constant each
    dropped = BlockDCT(upsample=1, colour="ycbcr")
    made = LeastSquares(others(), neighbours=0).against(dropped)
    assert made is not None
    gap = made.guess(dropped(batch)) - batch["image"]
    blocks = gap.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4)
    assert (blocks - blocks.mean(4, keepdim=True)).abs().max() < 1e-3
    # one order of the channels for all images, drawn by a key that the attack does not hold: a linear map all the same
    shuffled = FrequencyMask(upsample=1, colour="ycbcr", mix=False)
    found = LeastSquares(others(200), images=200, neighbours=0).against(shuffled)
    assert found is not None
    before = psnr(shuffled.pictures(shuffled(batch)["image"], (SIZE, SIZE)), batch["image"])
    assert psnr(found.restore(shuffled(batch)), batch["image"]).mean() > before.mean() + 1


def test_it_stops_at_masks_and_says_what_is_missing(tmp_path: Path) -> None:
    assert LeastSquares(others()).against(MaskOut(freeform=(0.4, 0.6))) is None
    # nobody makes more of these pictures
    assert LeastSquares(others()).against(Precomputed(tmp_path)) is None
    with pytest.raises(ValueError, match="against which method is not known"):
        LeastSquares(others()).restore(attacked())
    made = LeastSquares().against(GaussianBlur(5))
    assert made is not None
    with pytest.raises(ValueError, match="reader: LeastSquares has no faces to learn from"):
        made.restore(attacked())
    with pytest.raises(ValueError, match=r"neighbours: 9 of 3 channels are 1083 values|neighbours: 20"):
        LeastSquares(others(), neighbours=20).against(GaussianBlur(5)).restore(attacked())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="images: 0; give at least 1"):
        LeastSquares(others(), images=0)


def test_mixes_are_taken_apart_where_labels_and_coefficients_travel() -> None:
    batch = attacked(8)
    for k in (2, 4):
        mixing = MixUp(k=k)
        mixed = mixing(batch, AS_TRAINED)
        assert psnr(mixed["image"], batch["image"]).max() < 30
        attack = UnMix().against(mixing)
        assert attack is not None
        assert psnr(attack.restore(mixed), batch["image"]).min() > 60
    # mixed channels are taken apart, then seen as the method that made them shows them
    chain = Chain([BlockDCT(upsample=1, colour="ycbcr", dc=True), MixUp(k=2)])
    attack = UnMix().against(chain)
    assert attack is not None
    assert psnr(attack.restore(chain(batch, AS_TRAINED)), batch["image"]).min() > 50


def test_people_with_several_images_are_blurred_into_each_other(tmp_path: Path) -> None:
    batch, gained = attacked(4, each=2), []
    for start in ("5e3a91", "b40c7d", "91f2e8", "07d6a3"):  # a little is gained, and of some mixes nothing
        mixed = MixUp(k=2, key=key_file(tmp_path / f"{start}.key", start))(batch, AS_TRAINED)
        expected = written_out(mixed["target"], mixed["weight"])
        assert torch.allclose(mixing_matrix(mixed["target"], mixed["weight"]), expected, atol=1e-12)
        assert torch.allclose(expected.sum(1), torch.ones(8, dtype=torch.float64))
        restored = UnMix().restore(mixed)
        gained.append(psnr(restored, batch["image"]).mean() - psnr(mixed["image"], batch["image"]).mean())
    assert sum(gained) / len(gained) > 0.3


def test_mixes_whose_people_have_one_image_are_solved_beside_others() -> None:
    """One person with two images costs those alone who are mixed with her, not the whole batch."""
    many = attacked(9)
    double = attacked(2, each=2)
    batch = {key: torch.cat([many[key][1:], double[key][:2]]) for key in ("image", "identity")}
    target = torch.tensor([[1, 2], [2, 3], [3, 1], [4, 5], [5, 0], [6, 7], [7, 8], [8, 6], [0, 0], [0, 4]])
    weight = torch.tensor([[0.55, 0.45]]).repeat(10, 1)
    # of who else is in a mix: 5's other is one of two images of person 0
    partner = torch.tensor([1, 2, 0, 4, 8, 6, 7, 5, 9, 3])
    assert batch["identity"].tolist() == target[:, 0].tolist()
    faces = batch["image"]
    mixes = 0.55 * faces + 0.45 * faces[partner]
    assert equations_known(target).tolist() == [True] * 4 + [False] + [True] * 5
    solved = UnMix().solved({"image": mixes, "target": target, "weight": weight})
    gained = psnr(solved.clamp(0, 1), faces) - psnr(mixes, faces)
    assert gained[[0, 1, 2, 5, 6, 7]].min() > 20  # circles of people with one image each
    assert gained.min() > -1


def test_a_restorer_goes_on_from_what_was_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on the method without its mixing, it sees what it knows; on another method it is not mounted."""
    chain = Chain([FrequencyMask(upsample=1), MixUp(k=2)])
    chain.prepare((SIZE, SIZE))
    frequency = next(iter(chain.in_order))
    file = checkpoint(tmp_path / "a.ckpt", False, FaceDataModule={"desensitizer": frequency.describe()})
    shown: list[Tensor] = []

    def guess(self: TrainedRestorer, released: Batch) -> Tensor:
        shown.append(released["image"])
        return released["image"].new_full((len(released["image"]), 3, SIZE, SIZE), 0.25)

    monkeypatch.setattr(TrainedRestorer, "guess", guess)
    attack = UnMix(file)
    made = attack.against(chain)
    assert made is not None
    batch = attacked()
    restored = made.restore(chain(batch, AS_TRAINED))
    assert restored.shape == (6, 3, SIZE, SIZE)
    assert (restored == 0.25).all()
    torch.testing.assert_close(shown[0], frequency(batch)["image"], rtol=0, atol=1e-3)
    assert made.checkpoints() == attack.checkpoints() == [file]
    assert made.describe() == {"attack": "UnMix", "then": TrainedRestorer(file).describe()}
    assert UnMix().describe() == {"attack": "UnMix"}
    assert attack.against(MixUp(k=2)) is None
    assert attack.against(Chain([FrequencyMask(upsample=1, stride=4), MixUp(k=2)])) is None


def written_out(target: Tensor, weight: Tensor) -> Tensor:
    made = torch.zeros(len(target), len(target), dtype=torch.float64)
    for mix in range(len(target)):
        made[mix, mix] = weight[mix, 0]
        for place in range(1, target.shape[1]):
            same = [i for i in range(len(target)) if i != mix and target[i, 0] == target[mix, place]]
            for image in same:
                made[mix, image] += weight[mix, place].double() / len(same)
    return made


def test_signs_are_taken_away_and_mixes_with_signs_are_left_alone() -> None:
    batch, hiding = attacked(), InstaHide(k=2)
    mixed = hiding(batch, AS_TRAINED)
    assert UnMix().against(hiding) is None
    attack = AbsoluteValues().against(hiding)
    assert attack is not None
    plain = MixUp(k=2, key=None)
    plain._owner = hiding.owner
    truth = (plain(batch, AS_TRAINED)["image"] - 0.5).abs() * 2
    assert torch.allclose(attack.restore(mixed), truth, atol=1e-5)
    assert AbsoluteValues().against(MixUp()) is None
    with pytest.raises(ValueError, match="mean: 2; give a pixel's value"):
        AbsoluteValues(2)


def test_an_attack_is_mounted_where_it_fits() -> None:
    shuffle = Unshuffle(BlockDCT(), others())
    assert shuffle.against(FrequencyMask()) is shuffle
    assert shuffle.against(GaussianBlur(5)) is None
    assert shuffle.against(FrequencyMask(channels=8)) is None
