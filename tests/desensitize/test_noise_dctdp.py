"""DCTDP: ranges and scales of its coefficients, and the budget that a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from lightning_app.desensitize import DCTDP, BlockDCT
from lightning_app.desensitize.dct import block_dct, coefficient_ranges
from tests.desensitize.contract import faces
from tests.desensitize.noisy import SMALL, checkpoint
from tests.desensitize.test_contract import Ours


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


def test_a_budget_from_before_lists_were_sorted_is_read(tmp_path: Path, key: Path) -> None:
    path = checkpoint(tmp_path / "budget.ckpt", channels=[1, 2, 3])
    kept = torch.load(path, weights_only=True)
    kept["FaceDataModule"]["desensitizer"]["channels"] = [3, 1, 2]
    torch.save(kept, path)
    assert DCTDP(path, key=key).channels == [1, 2, 3]
