"""What every attack promises: one class of tests, which those of our attacks and of a plug-in's author inherit."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from datamodules.readers.base import FaceReader
from lightning_app.attacks import Attack
from lightning_app.core.batch import Batch
from lightning_app.masks import freeform_masks


def released(image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Batch:
    """What a method hands out; entries that are None are left out."""
    batch: Batch = {"image": image}
    if mask is not None:
        batch["mask"] = mask
    if mask_index is not None:
        batch["mask_index"] = mask_index
    return batch


class AttackContract:
    """Override `make`; `size` where it takes another, `channels` and `side` where it attacks a representation."""

    size = 32  # px, side of the raw images

    def make(self) -> Attack:
        """Make the attack; called anew by every test."""
        raise NotImplementedError

    def images(self, attack: Attack) -> Tensor:
        """What was released, `[4,C,h,w]`; pictures by default."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(4, 3, self.size, self.size, generator=generator)

    def batch(self, attack: Attack) -> Batch:
        """A released batch: four images under three masks where it needs them or works on pictures."""
        image = self.images(attack)
        if not attack.needs_image:
            return released(image)
        masks = freeform_masks(
            3, (self.size, self.size), (0.4, 0.6), generator=torch.Generator().manual_seed(1)
        )
        which = torch.tensor([2, 0, 1, 0])
        return released(image * masks[which], masks, which)

    def test_it_returns_pictures(self) -> None:
        attack = self.make()
        batch = self.batch(attack)
        before = {key: value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
        restored = attack.restore(batch)
        assert restored.shape == (4, 3, self.size, self.size)
        assert restored.dtype == batch["image"].dtype
        assert restored.device == batch["image"].device
        assert 0 <= float(restored.min()) <= float(restored.max()) <= 1
        for key, value in before.items():
            assert torch.equal(batch[key], value), f"changed {key} of its input"  # type: ignore[literal-required]

    def test_what_is_visible_stays(self) -> None:
        attack = self.make()
        if not attack.needs_image:
            return
        batch = self.batch(attack)
        assert batch["mask"] is not None
        visible = (batch["mask"][batch["mask_index"]] == 1).expand(-1, 3, -1, -1)
        restored = attack.restore(batch)
        assert torch.equal(restored[visible], batch["image"][visible])
        assert not torch.equal(restored, batch["image"]), "it does something under the mask"

    def test_it_is_the_same_again_and_in_parts(self) -> None:
        attack = self.make()
        batch = self.batch(attack)
        whole = attack.restore(batch)
        assert torch.equal(attack.restore(batch), whole)
        mask, which = batch.get("mask"), batch.get("mask_index")
        some = released(batch["image"][1:3], mask, None if which is None else which[1:3])
        torch.testing.assert_close(attack.restore(some), whole[1:3], rtol=1e-5, atol=1e-6)
        none = released(batch["image"][:0], mask, None if which is None else which[:0])
        assert attack.restore(none).shape == (0, 3, *batch["image"].shape[2:])

    def test_without_a_mask(self) -> None:
        attack = self.make()
        plain = released(self.images(attack))
        if attack.needs_mask:
            with pytest.raises(ValueError, match="mask: None"):
                attack.restore(plain)
        else:
            assert attack.restore(plain).shape == (4, 3, self.size, self.size)

    def test_other_entries_do_not_disturb(self) -> None:
        attack = self.make()
        batch = self.batch(attack)
        more = batch.copy()
        more["index"], more["identity"] = torch.arange(4), torch.zeros(4, dtype=torch.int64)
        assert torch.equal(attack.restore(more), attack.restore(batch))

    def test_what_is_no_batch_is_refused(self) -> None:
        attack = self.make()
        with pytest.raises(ValueError, match="restore: got Tensor; it takes the released batch"):
            attack.restore(self.images(attack))  # type: ignore[arg-type]

    def test_its_description(self) -> None:
        description = self.make().describe()
        assert json.loads(json.dumps(description)) == description
        assert next(iter(description)) == "attack"
        assert description["attack"] == type(self.make()).__name__

    def test_its_people(self) -> None:
        attack = self.make()
        kept = [value for value in vars(attack).values() if isinstance(value, FaceReader)]
        assert all(any(reader is known for known in attack.readers()) for reader in kept), (
            "readers() tells of all"
        )
        assert {name for reader in attack.readers() for name in reader.identities} <= {*attack.people()}
        assert all(path.is_file() for path in attack.checkpoints())
