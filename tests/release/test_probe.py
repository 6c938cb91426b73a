"""Desensitizers that let hidden pixels through: `desensitize` itself never lets their images out."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import CentreBlock, Desensitizer, GaussianBlur, MaskOut
from lightning_app.desensitize.base import only_hides
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.probe import under_noise
from tests.release.released import SIZE, contents, mask_file, raw_tree, release

LETS_THROUGH = r"lets hidden pixels reach visible ones: with noise under the mask \d of \d images of a batch"
EACH_TIME = (
    r"makes another image each time it is asked, of \d of \d images of a batch .* not on what it saw before"
)


class Leaky(MaskOut):
    """A mask, and whatever `add` makes of the raw images on top of the visible pixels."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        mask = desensitized["mask"]
        assert mask is not None
        desensitized["image"] = (desensitized["image"] + self.add(batch, mask) * mask).clamp(0, 1)
        return desensitized

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        raise NotImplementedError


def hidden_mean(batch: Batch, mask: Tensor) -> Tensor:
    """`[B,1,1,1]`, the mean of what each mask hides."""
    hidden = 1 - mask
    mean = (batch["image"] * hidden).sum((1, 2, 3)) / (3 * hidden.sum())
    return mean.view(-1, 1, 1, 1)


class Blurs(Leaky):
    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        return F.avg_pool2d(batch["image"], 3, 1, 1) - batch["image"]


class Mean(Leaky):
    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        return hidden_mean(batch, mask) / 4


class OfTheBatch(Leaky):
    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        return hidden_mean(batch, mask).mean() / 4


class OnePixel(Leaky):
    """A visible pixel gets the colour of one hidden pixel."""

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        rows, columns = torch.nonzero(mask[0, 0] == 0)[7]
        added = torch.zeros_like(batch["image"])
        y, x = torch.nonzero(mask[0, 0])[0]
        added[:, :, y, x] = batch["image"][:, :, rows, columns] - batch["image"][:, :, y, x]
        return added


class AtThisSize(Mean):
    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        found = super().add(batch, mask)
        return found if batch["image"].shape[-1] == SIZE and len(batch["image"]) > 1 else found * 0


class WhenSmooth(Mean):
    """A branch that noise never takes: what is hidden has little contrast, as faces have."""

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        spread = (batch["image"][..., 1:] - batch["image"][..., :-1]).abs().mean((1, 2, 3)).view(-1, 1, 1, 1)
        return super().add(batch, mask) * (spread < 0.15)


class OneIdentity(Mean):
    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        return super().add(batch, mask) * (batch["identity"] == 2).view(-1, 1, 1, 1)


class OneImage(Leaky):
    """Eight visible pixels of one image get the colours of hidden ones.

    The mean of one image will not do: once in two hundred times the noise's own rounds to the same level.
    """

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        rows, columns = torch.nonzero(mask[0, 0] == 0)[:8].T
        y, x = torch.nonzero(mask[0, 0])[:8].T
        added = torch.zeros_like(batch["image"])
        added[:, :, y, x] = batch["image"][:, :, rows, columns] - batch["image"][:, :, y, x]
        return added * (batch["index"] == 11).view(-1, 1, 1, 1)


class Keeps(Leaky):
    """Puts the batch before into this one."""

    last: float = 0.0

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        found = torch.full((len(batch["image"]), 1, 1, 1), self.last)
        self.last = float(hidden_mean(batch, mask).mean())
        return found


class KeepsForAll(Keeps):
    """The same, kept where every object of the class sees it."""

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        found = torch.full((len(batch["image"]), 1, 1, 1), KeepsForAll.last)
        KeepsForAll.last = float(hidden_mean(batch, mask).mean())
        return found


class EverySecondCall(Mean):
    calls: ClassVar[int] = 0

    def add(self, batch: Batch, mask: Tensor) -> Tensor:
        EverySecondCall.calls += 1
        return super().add(batch, mask) * (EverySecondCall.calls % 2)


class InPlace(MaskOut):
    """Writes into the batch it is given, and returns that very tensor."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        mask = desensitized["mask"]
        assert mask is not None
        batch["image"].add_(hidden_mean(batch, mask) / 4).clamp_(0, 1).mul_(mask)
        batch["identity"] = batch["identity"].clone()
        desensitized["image"] = batch["image"]
        return desensitized


plain_forward = MaskOut.forward


def leaky_forward(self: MaskOut, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
    desensitized = plain_forward(self, batch, draw_key)
    mask = desensitized["mask"]
    assert mask is not None
    desensitized["image"] = (desensitized["image"] + hidden_mean(batch, mask) / 4 * mask).clamp(0, 1)
    return desensitized


def patched(mask: Path) -> Desensitizer:
    """A plain `MaskOut` whose own object was given another `forward`."""
    made = MaskOut(mask=mask)
    made.forward = types.MethodType(leaky_forward, made)  # type: ignore[method-assign]
    return made


def method_replaced(mask: Path) -> Desensitizer:
    made = CentreBlock()

    def desensitize(image: Tensor) -> Tensor:
        kept = made._made((SIZE, SIZE))
        return (image + image.mean()).clamp(0, 1) * kept

    made.desensitize = desensitize  # type: ignore[method-assign]
    return made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw tree, a mask and its honest release."""
    home = tmp_path_factory.mktemp("probed")
    raw_tree(home / "raw")
    mask_file(home / "mask.png")
    release(home, home / "raw", "honest")
    return home


def leaks_nothing(home: Path, out: Path) -> None:
    """Whatever images got out before it was found are those of the plain mask."""
    found = {name: data for name, data in contents(out).items() if name.startswith("images/")}
    assert found.items() <= contents(home / "honest").items()
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize(("make", "message"), [
    (Blurs, LETS_THROUGH), (Mean, LETS_THROUGH), (OfTheBatch, LETS_THROUGH), (OnePixel, LETS_THROUGH),
    (AtThisSize, LETS_THROUGH), (WhenSmooth, LETS_THROUGH), (OneIdentity, LETS_THROUGH), (OneImage, LETS_THROUGH),
    (InPlace, LETS_THROUGH), (patched, LETS_THROUGH), (Keeps, EACH_TIME), (KeepsForAll, EACH_TIME),
    (EverySecondCall, EACH_TIME),
])  # fmt: skip
def test_what_leaks_is_never_released(
    make: Callable[..., Desensitizer], message: str, home: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "out", "owner": tmp_path / "owner"}
    with pytest.raises(ValueError, match=message) as found:
        release(home, home / "raw", desensitizer=make(home / "mask.png"), **settings)
    assert "\n" not in str(found.value)
    leaks_nothing(home, tmp_path / "out")


def test_in_worker_processes_too(home: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "out", "owner": tmp_path / "owner", "workers": 2}
    with pytest.raises(ValueError, match=LETS_THROUGH):
        release(home, home / "raw", desensitizer=OneImage(home / "mask.png"), **settings)
    leaks_nothing(home, tmp_path / "out")


def test_a_method_replaced_on_the_object(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CentreBlock " + LETS_THROUGH):
        release(
            home, home / "raw", desensitizer=method_replaced(home), output=tmp_path / "out", owner=tmp_path
        )
    assert not contents(tmp_path / "out")


def test_a_class_that_was_changed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desensitizer = PixelDesensitizer(MaskOut(mask=home / "mask.png"), SIZE)
    monkeypatch.setattr(MaskOut, "forward", leaky_forward)
    assert not only_hides(MaskOut(mask=home / "mask.png"))
    with pytest.raises(ValueError, match=LETS_THROUGH):
        release(home, home / "raw", output=tmp_path / "out", owner=tmp_path / "owner")
    leaks_nothing(home, tmp_path / "out")
    face = np.full((1, SIZE, SIZE), 90, np.uint8)  # and where it is changed while a release is being made
    with pytest.raises(ValueError, match="MaskOut does more to image number 5 than multiply it by its mask"):
        desensitizer([face], [0], [5])


class FirstSight(MaskOut):
    """Knows an image again by what is visible of it, and shows it as it was at first sight, hidden mean and all."""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        mask = desensitized["mask"]
        assert mask is not None
        kept: dict[bytes, Tensor] = self.__dict__.setdefault("kept", {})
        mean = hidden_mean(batch, mask)
        seen = [
            kept.setdefault(one.numpy().tobytes(), m)
            for one, m in zip(desensitized["image"], mean, strict=True)
        ]
        desensitized["image"] = (desensitized["image"] + torch.stack(seen) / 4 * mask).clamp(0, 1)
        return desensitized


def test_what_is_kept_of_an_image_is_kept_of_noise(home: Path) -> None:
    desensitizer = FirstSight(home / "mask.png")
    with pytest.raises(ValueError, match=LETS_THROUGH):
        release(home, home / "raw", "first", desensitizer=desensitizer)
    assert not contents(home / "first")


def test_the_desensitizer_that_makes_a_release_never_gets_hidden_pixels(home: Path) -> None:
    shown: dict[int, list[Tensor]] = {}

    class Watched(MaskOut):
        def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
            shown.setdefault(id(self), []).append(batch["image"].clone())
            return super().forward(batch, draw_key)

    made = Watched(home / "mask.png")
    desensitizer = PixelDesensitizer(made, SIZE)
    shown.clear()
    face = np.full((1, SIZE, SIZE), 90, np.uint8)
    for number in (0, 1):
        (picture,) = desensitizer([face], [0], [number])
        assert desensitizer.mask is not None
        np.testing.assert_array_equal(picture, 90 * desensitizer.mask[0, 0].numpy())
    noisy, raw = shown.values() if id(made) != next(iter(shown)) else reversed(list(shown.values()))
    assert all(torch.equal(image, torch.full_like(image, 90 / 255)) for image in raw)
    assert desensitizer.mask is not None
    hidden = desensitizer.mask.expand(1, 3, -1, -1) == 0
    assert [float(image[~hidden].min()) for image in noisy] == [pytest.approx(90 / 255)] * 2
    assert not torch.equal(noisy[0][hidden], noisy[1][hidden]), "each time other noise"
    assert all(float((image[hidden] - 90 / 255).abs().mean()) > 0.1 for image in noisy)


def test_noise_under_the_mask_alone() -> None:
    raw = torch.full((64, 3, 20, 20), 200, dtype=torch.uint8)
    hidden = torch.zeros(64, 1, 20, 20, dtype=torch.uint8)
    for number in range(64):  # a mask per image
        hidden[number, :, : number // 4] = 255
    found, other = under_noise(raw, hidden), under_noise(raw, hidden)
    under = hidden.bool().expand_as(raw)
    assert torch.equal(found[~under], raw[~under])
    noise = found[under].double()
    assert torch.equal(raw, torch.full_like(raw, 200)), "the raw images stay as they are"
    assert float(noise.mean()) == pytest.approx(127.5, abs=1.5)  # of 36,000 bytes: 4 standard errors
    assert float(noise.std()) == pytest.approx(73.9, abs=1.5)
    assert float((found[under] == other[under]).double().mean()) < 0.01, "one of 256 by chance"


class Odd(MaskOut):
    """Breaks the contract in one way or another."""

    how = ""

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        desensitized = super().forward(batch, draw_key)
        mask = desensitized["mask"]
        assert mask is not None
        if self.how == "no mask":
            desensitized["mask"] = None
        if self.how == "soft":
            desensitized["mask"], desensitized["image"] = (
                mask.clamp(min=0.02),
                batch["image"] * mask.clamp(min=0.02),
            )
        if self.how == "small":
            desensitized["mask"] = mask[..., ::2, ::2]
        if self.how == "all":
            desensitized["mask"], desensitized["image"] = torch.ones_like(mask), batch["image"]
        if self.how == "less":
            smaller = mask.clone()
            smaller[0, 0].view(-1)[mask.flatten().argmin()] = 1
            desensitized["mask"], desensitized["image"] = smaller, batch["image"] * smaller
        if self.how == "dice":
            desensitized["image"] = desensitized["image"] * torch.rand(len(batch["image"]), 1, 1, 1)
        if self.how == "mixes in place":
            batch["identity"].zero_()
        if self.how == "grows":
            mask[..., 0, :] = 1 - mask[..., 0, :]
        return desensitized


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no mask", "Odd is a MaskOut or CentreBlock or LearnedMask, but returns no mask"),
        ("soft", r"Odd has a mask of shape \[1, 1, 24, 24\] in 0\.02 … 1; a release needs"),
        ("small", r"Odd has a mask of shape \[1, 1, 12, 12\] in 0 … 1; a release needs \[1, 1, 24, 24\]"),
        ("all", "the mask of Odd hides nothing"),
        ("less", "Odd describes another mask than it returns"),
        (
            "dice",
            "Odd makes another image each time it is asked, of 3 of 3 images of a batch .* `index` alone",
        ),
        ("mixes in place", "Odd mixes identities"),
        ("grows", "Odd (changed its mask|describes another mask)"),
        (
            "lock",
            r"Odd cannot be copied \(cannot pickle '_thread.lock' object\), and the noise probe needs two",
        ),
    ],
)
def test_broken_contracts(how: str, message: str, home: Path, tmp_path: Path) -> None:
    made = Odd(home / "mask.png")
    made.how = how
    if how == "lock":
        made.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=message) as found:
        release(home, home / "raw", desensitizer=made, output=tmp_path / "out", owner=tmp_path / "owner")
    assert "\n" not in str(found.value)
    assert not contents(tmp_path / "out")


class Unchanged(Desensitizer):
    """As a blur of a thousandth of a pixel was, which GaussianBlur takes no more."""

    def desensitize(self, image: Tensor) -> Tensor:
        return image


def test_without_a_mask_nothing_is_left_as_it_was(home: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output": tmp_path / "out", "owner": tmp_path / "owner"}
    with pytest.raises(
        ValueError, match=r"Unchanged left image number \d+ as it was, and has no mask: .* clean"
    ):
        release(home, home / "raw", desensitizer=Unchanged(), **settings)
    assert not contents(tmp_path / "out")
    flat = np.full((1, SIZE, SIZE), 7, np.uint8)
    (picture,) = PixelDesensitizer(GaussianBlur(9), SIZE)([flat], [0], [0])
    np.testing.assert_array_equal(picture, flat[0])


def test_what_is_told_of_a_plain_mask(home: Path) -> None:
    mask = home / "mask.png"
    assert only_hides(MaskOut(mask=mask))
    assert only_hides(MaskOut(mask=mask, guard=1, size=SIZE).eval())
    assert only_hides(CentreBlock())
    assert not only_hides(Mean(mask))
    assert not only_hides(patched(mask))
    assert not only_hides(method_replaced(mask))
    assert not only_hides(GaussianBlur(9))
