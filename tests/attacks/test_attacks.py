"""What every attack promises, and the three that need no training."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules import DrawnFaces
from lightning_app.attacks import Attack, MeanFace, NavierStokes, Telea
from lightning_app.core.batch import Batch
from lightning_app.masks import freeform_masks
from lightning_app.metrics import psnr
from tests.attacks.contract import AttackContract, released

SIZE = 48


class Noise(Attack):
    """Guesses noise outside [0,1], for visible pixels as well."""

    def guess(self, released: Batch) -> Tensor:
        return torch.randn(released["image"].shape, dtype=torch.float64) * 3


class Oracle(Attack):
    """Knows the answer."""

    needs_mask = True

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean

    def guess(self, released: Batch) -> Tensor:
        return self.clean


@pytest.fixture(scope="module")
def reader() -> DrawnFaces:
    return DrawnFaces(identities=4, images_per_identity=3, size=SIZE)


@pytest.fixture(scope="module")
def clean(reader: DrawnFaces) -> Tensor:
    return reader.__getitems__(list(range(6)))["image"].float() / 255


@pytest.fixture(scope="module")
def masks() -> Tensor:
    return freeform_masks(3, (SIZE, SIZE), (0.4, 0.6), generator=torch.Generator().manual_seed(0))


def attacks(reader: DrawnFaces, clean: Tensor) -> list[Attack]:
    return [Noise(), Oracle(clean), MeanFace(reader), MeanFace.of(clean), Telea(), NavierStokes(5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_no_attack_changes_a_visible_pixel(
    reader: DrawnFaces, clean: Tensor, masks: Tensor, dtype: torch.dtype
) -> None:
    which = torch.tensor([2, 0, 1, 1, 0, 2])
    seen = (clean + 1e-3).clamp(0, 1).to(dtype)  # not on the uint8 grid, so rounding would show
    own = masks[which]
    for attack in attacks(reader, clean):
        restored = attack.restore(released(seen * own.to(dtype), masks, which))
        assert restored.dtype == dtype
        assert restored.shape == seen.shape
        assert 0 <= restored.min() <= restored.max() <= 1
        visible = own.expand_as(seen) == 1
        assert torch.equal(restored[visible], seen[visible])
        assert not torch.equal(restored[~visible], (seen * own.to(dtype))[~visible])


def test_a_shared_mask_and_one_per_image_need_no_index(clean: Tensor, masks: Tensor) -> None:
    attack = Telea()
    shared = attack.restore(released(clean * masks[:1], masks[:1]))
    assert torch.equal(shared, attack.restore(released(clean * masks[:1], masks[:1].expand(6, -1, -1, -1))))
    assert torch.equal(
        shared, attack.restore(released(clean * masks[:1], masks[:1].bool(), torch.zeros(6).long()))
    )


def test_without_a_mask_the_picture_is_the_attacks_own(clean: Tensor) -> None:
    restored = Noise().restore(released(clean))
    assert 0 <= restored.min() <= restored.max() <= 1
    assert (restored != clean).float().mean() > 0.9


def test_an_empty_batch_stays_empty(clean: Tensor, masks: Tensor) -> None:
    assert Telea().restore(released(clean[:0], masks[:1])).shape == (0, 3, SIZE, SIZE)
    assert Noise().restore(released(clean[:0])).shape == (0, 3, SIZE, SIZE)


def test_a_perfect_restorer_has_infinite_psnr(clean: Tensor, masks: Tensor) -> None:
    which = torch.tensor([0, 1, 2, 0, 1, 2])
    restored = Oracle(clean).restore(released(clean * masks[which], masks, which))
    assert torch.equal(restored, clean)
    assert torch.isinf(psnr(restored, clean)).all()
    hidden = psnr(restored, clean, 1 - masks[which])
    assert all(math.isinf(value) and value > 0 for value in hidden.tolist())


def test_what_cannot_be_attacked_is_refused(clean: Tensor, masks: Tensor) -> None:
    attack = Telea()
    with pytest.raises(ValueError, match="mask: None, but Telea fills in what a mask hides"):
        attack.restore(released(clean))
    with pytest.raises(ValueError, match="mask_index: None, but there are 3 masks for 6 images"):
        attack.restore(released(clean, masks))
    with pytest.raises(ValueError, match=r"mask_index: \[2\]; give one number per image, \[6\]"):
        attack.restore(released(clean, masks, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"mask: \[1, 1, 40, 48\]; give \[M, 1, 48, 48\]"):
        attack.restore(released(clean, masks[:1, :, :40]))
    with pytest.raises(ValueError, match="values other than 0"):
        attack.restore(released(clean, masks[:1] * 0.5))
    with pytest.raises(ValueError, match="values from 0 to 2"):
        attack.restore(released(torch.zeros(1, 3, SIZE, SIZE).index_fill(1, torch.tensor(1), 2.0), masks[:1]))
    with pytest.raises(ValueError, match="give pixels in"):
        attack.restore(released(torch.full((1, 3, SIZE, SIZE), float("nan")), masks[:1]))
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        attack.restore(released((clean * 255).byte(), masks[:1]))
    with pytest.raises(ValueError, match="an attack restores pictures"):
        attack.restore(released(torch.zeros(2, 5, SIZE, SIZE), masks[:1]))


def test_mean_face_against_numpy(reader: DrawnFaces, clean: Tensor, masks: Tensor) -> None:
    every = np.stack([reader.read(i) for i in range(len(reader))]).astype(np.float64) / 255
    restored = MeanFace(reader).restore(released(clean * masks[:1], masks[:1]))
    expected = np.where(masks[:1].numpy() == 1, clean.numpy(), every.mean(0))
    np.testing.assert_allclose(restored.numpy(), expected, atol=1e-6)
    some = MeanFace(reader, images=3)  # first, middle and last of 12: 0, 5.5 rounded to even, 11
    restored = some.restore(released(clean * masks[:1], masks[:1]))
    expected = np.where(masks[:1].numpy() == 1, clean.numpy(), every[[0, 6, 11]].mean(0))
    np.testing.assert_allclose(restored.numpy(), expected, atol=1e-6)
    assert some.describe() == {"attack": "MeanFace", "images": 3}


def test_mean_face_of_a_tensor(clean: Tensor, masks: Tensor) -> None:
    grey = MeanFace.of((clean * 255).round().byte()).restore(released(clean * masks[:1], masks[:1]))
    real = MeanFace.of(clean).restore(released(clean * masks[:1], masks[:1]))
    torch.testing.assert_close(grey, real, atol=1e-6, rtol=0)


def test_mean_face_says_what_it_lacks(reader: DrawnFaces, clean: Tensor, masks: Tensor) -> None:
    with pytest.raises(ValueError, match="reader: MeanFace has no faces to average"):
        MeanFace().restore(released(clean, masks[:1]))
    with pytest.raises(ValueError, match="its faces are 48×48, the images attacked 32×32"):
        MeanFace(reader).restore(released(clean[..., :32, :32], masks[:1, :, :32, :32]))
    with pytest.raises(ValueError, match="images: 0"):
        MeanFace(reader, images=0)
    with pytest.raises(ValueError, match=r"faces: \[3, 48, 48\]"):
        MeanFace.of(clean[0])


@pytest.mark.parametrize(
    ("attack", "flag"), [(Telea(4), cv2.INPAINT_TELEA), (NavierStokes(4), cv2.INPAINT_NS)]
)
def test_opencv_is_opencv_image_by_image(attack: Attack, flag: int, clean: Tensor, masks: Tensor) -> None:
    which = torch.tensor([2, 0, 1, 1, 0, 2])
    desensitized = clean * masks[which]
    restored = attack.restore(released(desensitized, masks, which))
    for number in range(6):
        pixels = (desensitized[number] * 255).round().byte().permute(1, 2, 0).numpy()
        hole = np.uint8(1) - masks[which[number], 0].byte().numpy()
        expected = cv2.inpaint(np.ascontiguousarray(pixels), hole, 4, flag)
        found = (restored[number] * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, expected)
    assert attack.describe() == {"attack": type(attack).__name__, "radius": 4}


@pytest.mark.parametrize("radius", [0, -1, 101, float("nan")])
def test_opencvs_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="radius"):
        Telea(radius)


def test_inpainting_comes_nearer_than_black(clean: Tensor, masks: Tensor) -> None:
    hidden = 1 - masks[:1]
    black = psnr(clean * masks[:1], clean, hidden).mean()
    for attack in (Telea(), NavierStokes()):
        assert psnr(attack.restore(released(clean * masks[:1], masks[:1])), clean, hidden).mean() > black + 3


class TestMeanFace(AttackContract):
    def make(self) -> MeanFace:
        return MeanFace(DrawnFaces(identities=2, images_per_identity=2, size=self.size))


class TestTelea(AttackContract):
    def make(self) -> Telea:
        return Telea()


class TestNavierStokes(AttackContract):
    def make(self) -> NavierStokes:
        return NavierStokes()


class OldGuess(Attack):
    """Of before attacks took the batch."""

    def _restore(self, desensitized: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        return desensitized


class OldRestore(Attack):
    def restore(self, image: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override,misc]
        return image


class OldMeanFace(MeanFace):
    def _restore(self, desensitized: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        return desensitized


@pytest.mark.parametrize(
    ("kind", "name"), [(OldGuess, "_restore"), (OldRestore, "restore"), (OldMeanFace, "_restore")]
)
def test_an_attack_of_the_old_form_is_told_so(kind: type[Attack], name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}: overrides {name}; an attack overrides guess\(released\)"
    ):
        kind()


class Small(Attack):
    """Returns pictures of another size."""

    def guess(self, released: Batch) -> Tensor:
        return released["image"][..., ::2, ::2]


def test_a_guess_that_is_no_picture_of_that_size(clean: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"Small: guess returned \[6, 3, 24, 24\], not pictures \[6, 3, 48, 48\]"
    ):
        Small().restore(released(clean))


class Channels(Attack):
    """Takes any number of channels."""

    needs_image = False

    def guess(self, released: Batch) -> Tensor:
        return released["image"].mean(1, keepdim=True).expand(-1, 3, -1, -1)


def test_a_representation_goes_to_an_attack_that_takes_one(clean: Tensor) -> None:
    twelve = (clean.repeat(1, 4, 1, 1) - 0.5) * 8  # neither three channels nor in [0,1]
    restored = Channels().restore(released(twelve))
    assert restored.shape == clean.shape
    assert 0 <= restored.min() <= restored.max() <= 1


class Twice(Attack):
    """Somebody else's attack, around one of ours."""

    def __init__(self, inner: Attack) -> None:
        super().__init__()
        self.inner = inner


def test_an_attack_around_another_tells_what_that_one_learnt_from() -> None:
    faces = DrawnFaces(3, 1, size=16)
    attack = Twice(MeanFace(faces))
    assert attack.readers() == [faces]
    assert attack.people() == faces.identities
    assert not attack.checkpoints()
