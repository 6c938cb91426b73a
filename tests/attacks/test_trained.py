"""What `TrainedRestorer` takes, and what it refuses; a whole training is in tests/models/test_inpainter.py."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_app.attacks import TrainedRestorer
from lightning_app.networks.rfr import RFRNet
from tests.attacks.contract import AttackContract, released

SIZE = 32


def checkpoint(path: Path, masked: bool = True, **changed: Any) -> Path:
    """A checkpoint as `fit` writes it, of a network nobody trained."""
    torch.manual_seed(0)
    state = {f"network.{k}": v for k, v in RFRNet(8, 2, 2).state_dict().items()}
    content = {
        "state_dict": state,
        "hyper_parameters": {"width": 8, "recurrences": 2, "depth": 2, "input_size": SIZE},
        "inpainter": {"masked": masked},
        "global_step": 7,
        "FaceDataModule": {"desensitizer": {"method": "MaskOut", "mask": "m.png"}},
    }
    torch.save(content | changed, path)
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_it_restores_in_parts_what_it_restores_at_once(tmp_path: Path, images: Tensor) -> None:
    file = checkpoint(tmp_path / "a.ckpt")
    masks = (torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) > 0.6).float()
    which = torch.tensor([1, 0, 0, 1, 0])
    seen = images * masks[which]
    at_once = TrainedRestorer(file).restore(released(seen, masks, which))
    torch.testing.assert_close(TrainedRestorer(file, 2).restore(released(seen, masks, which)), at_once)
    visible = masks[which].expand_as(seen) == 1
    assert torch.equal(at_once[visible], seen[visible])
    network = TrainedRestorer(file).restorer.network
    with torch.no_grad():
        expected = network(seen, masks, which).clamp(0, 1)
    torch.testing.assert_close(at_once[~visible], expected[~visible])
    assert TrainedRestorer(file).describe() == {
        "attack": "TrainedRestorer", "width": 8, "recurrences": 2, "depth": 2, "input_size": SIZE, "step": 7,
        "trained_on": {"method": "MaskOut", "mask": "m.png"},
    }  # fmt: skip


def test_a_call_of_train_changes_nothing(tmp_path: Path, images: Tensor) -> None:
    attack = TrainedRestorer(checkpoint(tmp_path / "a.ckpt", masked=False))
    first = attack.restore(released(images))
    attack.train()
    assert torch.equal(attack.restore(released(images)), first)


def test_one_trained_under_masks_needs_them(tmp_path: Path, images: Tensor) -> None:
    with pytest.raises(ValueError, match="mask: None, but TrainedRestorer fills in what a mask hides"):
        TrainedRestorer(checkpoint(tmp_path / "a.ckpt")).restore(released(images))


def test_another_size_is_refused(tmp_path: Path, images: Tensor) -> None:
    attack = TrainedRestorer(checkpoint(tmp_path / "a.ckpt", masked=False))
    with pytest.raises(ValueError, match=r"a\.ckpt: was trained on images of 32 px, these are 24 px"):
        attack.restore(released(images[..., :24, :24]))


def test_another_kind_is_refused(tmp_path: Path, fitted: Path) -> None:
    with pytest.raises(ValueError, match="is not of an Inpainter but of ResNetFSM; give one that"):
        TrainedRestorer(fitted / "runs" / "tiny")
    with pytest.raises(ValueError, match="is not of an Inpainter"):
        TrainedRestorer(checkpoint(tmp_path / "b.ckpt", hyper_parameters={}))
    settings = {"width": 16, "recurrences": 2, "depth": 2, "input_size": SIZE}
    with pytest.raises(ValueError, match="its weights do not fit its settings"):
        TrainedRestorer(checkpoint(tmp_path / "c.ckpt", hyper_parameters=settings))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*gone\.ckpt: no such file"):
        TrainedRestorer(tmp_path / "gone.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no last\.ckpt in"):
        TrainedRestorer(tmp_path)
    whole = checkpoint(tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.ckpt: the file is truncated"):
        TrainedRestorer(tmp_path / "half.ckpt")
    torch.save({"state_dict": {}, "evil": Path}, tmp_path / "evil.ckpt", pickle_module=pickle)
    with pytest.raises(ValueError, match="holds more than weights"):
        TrainedRestorer(tmp_path / "evil.ckpt")


class TestTrainedRestorer(AttackContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = checkpoint(tmp_path / "a.ckpt")

    def make(self) -> TrainedRestorer:
        return TrainedRestorer(self.file)
