"""EigenfaceNoise: a small case, and components that must be of other people's faces."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_app.desensitize import Chain, EigenfaceNoise, GaussianBlur, Mosaic
from lightning_app.desensitize.eigenfaces import Eigenfaces
from tests.desensitize.contract import faces
from tests.desensitize.noisy import other_people


def test_components_are_refused_their_own_faces_on_every_device(tmp_path: Path, key: Path) -> None:
    levels = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    path = Eigenfaces.of([levels.to(torch.uint8)], 4, 8).write(tmp_path / "own.safetensors")
    on_gpu = levels[:2].float() * torch.tensor(1 / 255)
    with pytest.raises(ValueError, match="were made of 2 of these images"):
        EigenfaceNoise(path, key=key)({"image": on_gpu, "index": torch.arange(2)})
    with pytest.raises(ValueError, match="were made of 2 of these images"):  # as flips come before it
        EigenfaceNoise(path, key=key)({"image": on_gpu.flip(-1), "index": torch.arange(2)})


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
