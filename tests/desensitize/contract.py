"""What every desensitizer promises: one class of tests, which those of our own and of a plug-in's author inherit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.desensitize.base import PROMISES, only_hides

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def faces(size: int, index: tuple[int, ...] = (4, 9, 2, 7)) -> Batch:
    """A batch of noise on the uint8 grid, each image a function of its index alone."""
    images = [
        torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(i)) for i in index
    ]
    return Batch(
        image=torch.stack(images) / 255, identity=torch.arange(len(index)), index=torch.tensor(index),
        bad=torch.tensor([3]),
    )  # fmt: skip


class DescribedContract:
    """What holds of a method whether or not raw images can be put through it."""

    size = 32

    def make(self) -> Desensitizer:
        """Make the desensitizer; called anew by every test."""
        raise NotImplementedError

    def made(self) -> Desensitizer:
        """Make and prepare it, as validation and releases have it."""
        made = self.make().eval()
        made.prepare((self.size, self.size))
        return made

    def returned(self, made: Desensitizer) -> Tensor:
        """Four images that it returns."""
        raise NotImplementedError

    def method(self, made: Desensitizer) -> str:
        """Name of the class that its description is of."""
        return type(made).__name__

    def test_its_description(self) -> None:
        made = self.made()
        self.returned(made)
        description = made.describe()
        assert next(iter(description)) == "method"
        assert description["method"] == self.method(made)
        assert json.loads(json.dumps(description)) == description
        assert self.made().describe() == description, "equal desensitizers say the same"
        assert len(json.dumps(description)) < 2000, "there is no room for a face"

    def test_promises_are_not_inherited(self) -> None:
        kind = type(self.make())
        derived = type("Derived", (kind,), {})
        for name, cautious in PROMISES.items():
            assert vars(derived)[name] is cautious
        made = self.made()
        assert only_hides(made) == (vars(kind)["hides_only"] is True)
        made.__class__ = derived
        assert not only_hides(made)

    def test_how_it_looks(self) -> None:
        made = self.made()
        out = self.returned(made)
        seen, size = made.look(out), (self.size, self.size)
        assert seen.shape[:2] == (4, 3)
        assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
        assert made.pictures(out, size).shape == (4, 3, *size)
        if made.is_image:
            assert torch.equal(made.pictures(out, size), out)


class DesensitizerContract(DescribedContract):
    """Override `make`; `size` where it takes another, `mask_file` where it reads one, and what it does not promise.

    Attributes:
        size: side of the images in pixels.
        from_description: whether it can be made from its description.
    """

    from_description = True

    def mask_file(self) -> Path | None:
        """File of its one mask, where its description alone is not enough."""
        return None

    def returned(self, made: Desensitizer) -> Tensor:
        """Return what it makes of noise."""
        image: Tensor = made(faces(self.size))["image"]
        return image

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("training", [False, True])
    def test_a_batch(self, training: bool, device: str) -> None:
        made = self.made().train(training)
        assert not made.lacks_key
        batch = faces(self.size)
        for key in ("image", "identity", "index", "bad"):
            batch[key] = batch[key].to(device)
        before = {key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
        out = made.to(device)(batch, DrawKey(step=3, mix=True))
        assert all(torch.equal(batch[key], value) for key, value in before.items()), "changed its input"  # type: ignore[literal-required]
        labels = {"target", "weight"} if made.mixes > 1 else set()
        assert {*out} == {*batch, "mask", "mask_index", *labels}
        if labels:
            k = out["weight"].shape[1]
            assert k in getattr(made, "candidates", [made.mixes])
            assert out["target"].shape == out["weight"].shape == (4, k)
            torch.testing.assert_close(out["weight"].sum(1).cpu(), torch.ones(4))
        assert all(out[key] is batch[key] for key in ("index", "bad"))
        side = made.out_size(self.size)
        assert out["image"].shape == (4, made.out_channels, side, side)
        assert out["image"].dtype == torch.float32
        assert out["image"].device == batch["image"].device
        assert bool(out["image"].isfinite().all())
        assert out["mask_index"].shape == (4,)
        assert out["mask_index"].dtype == torch.int64
        mask = out["mask"]
        if mask is not None:
            assert mask.shape[1:] == (1, self.size, self.size)
            assert bool(((mask == 0) | (mask == 1)).all())
            assert int(out["mask_index"].max()) < len(mask)
        if made.has_mask is not None:
            assert made.has_mask == (mask is not None)
        if made.is_image:
            assert (made.out_channels, side) == (3, self.size)
            assert 0 <= float(out["image"].min()) <= float(out["image"].max()) <= 1
            assert made.hides == (not torch.equal(out["image"], batch["image"]))

    def test_nothing_is_mixed_unless_the_moment_says_so(self) -> None:
        for training in (False, True):
            made = self.made().train(training)
            for draw_key in (None, DrawKey(5, 2, 9)):
                assert not {"target", "weight"} & {*made(faces(self.size), draw_key)}

    def test_draws_are_a_function_of_the_draw_key(self) -> None:
        for training in (False, True):
            made = self.made().train(training)
            now = DrawKey(seed=5, epoch=2, step=9, mix=True)
            first = made(faces(self.size), now)
            made(
                faces(self.size, (1, 3, 6, 8)), DrawKey(7, 1, 1, mix=True)
            )  # what was between does not count
            for again in (made(faces(self.size), now), self.made().train(training)(faces(self.size), now)):
                assert torch.equal(first["image"], again["image"])
                assert (first["mask"] is None) == (again["mask"] is None)

    def test_outside_training_an_image_does_not_depend_on_its_batch(self) -> None:
        made = self.made()
        together, alone = made(faces(self.size)), made(faces(self.size, (9,)))
        torch.testing.assert_close(together["image"][1], alone["image"][0], rtol=0, atol=1e-6)

    def test_it_can_be_made_from_its_description(self) -> None:
        made = self.made()
        description, file = made.describe(), self.mask_file()
        if not self.from_description:
            with pytest.raises(ValueError, match="description"):
                type(made).from_description(description, file)
            return
        assert type(made).needs_file(description) == (file is not None)
        again = type(made).from_description(json.loads(json.dumps(description)), file).eval()
        again.prepare((self.size, self.size))
        assert torch.equal(again(faces(self.size))["image"], made(faces(self.size))["image"])
        if file is not None:
            with pytest.raises(ValueError, match="description alone is not enough"):
                type(made).from_description(description)

    def test_what_is_under_the_mask_reaches_nothing(self) -> None:
        made = self.made()
        batch = faces(self.size)
        out = made(batch)
        if out["mask"] is None:
            return
        mask = out["mask"][out["mask_index"]]
        noise = torch.rand(batch["image"].shape, generator=torch.Generator().manual_seed(99))
        other = batch.copy()
        other["image"] = torch.where(mask == 1, batch["image"], noise)
        assert torch.equal(made(other)["image"], out["image"])
        if made.hides_only:
            assert torch.equal(out["image"], batch["image"] * mask)


class KeylessContract(DescribedContract):
    """What stands for a method whose owner's key, or masker, is not here: it says what was done, and does it not."""

    def method(self, made: Desensitizer) -> str:
        """Name of the class that made the release; override it."""
        raise NotImplementedError

    def returned(self, made: Desensitizer) -> Tensor:
        """Return noise of the form of what it stands for."""
        side = made.out_size(self.size)
        return torch.rand(4, made.out_channels, side, side, generator=torch.Generator().manual_seed(0))

    def test_raw_images_are_refused(self) -> None:
        made = self.made()
        assert made.lacks_key
        for training in (False, True):
            with pytest.raises(
                ValueError, match=rf"the release was made by {self.method(made)} .* is not here"
            ):
                made.train(training)(faces(self.size), DrawKey(step=3, mix=True))

    def test_it_cannot_be_made_from_its_description(self) -> None:
        made = self.made()
        with pytest.raises(ValueError, match="cannot be made from its description"):
            type(made).from_description(made.describe())
        assert self.method(made) != type(made).__name__, "its description is of another class"
