"""What every judge must do; a judge of your own inherits this class in its test and makes itself in `make`."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from datamodules import DrawnFaces
from lightning_app.evaluation import Judge
from lightning_app.metrics.reidentification import EmbeddingMetric, similarity

SIZE = 32  # of the faces a judge is shown, where it takes any
SMALLEST = 16  # faces that are drawn


class JudgeContract:
    """Override `make`; pytest runs the rest.

    Attributes:
        refuses_other_sizes: than `input_size`, by `check_size`; else they are resized.
        of_released: it looks at what a method released, and another judge at the clean faces, see `clean_side`.
    """

    refuses_other_sizes = False
    of_released = False

    def make(self) -> Judge:
        """Return a new judge, the same each time."""
        raise NotImplementedError

    @pytest.fixture
    def judge(self) -> Judge:
        return self.make().eval()

    @pytest.fixture
    def faces(self, judge: Judge) -> Tensor:
        """Five drawn people, one face each, float `[5,3,H,W]` in [0,1]."""
        size = judge.input_size or SIZE
        drawn = DrawnFaces(5, 1, max(size, SMALLEST))  # smaller ones are not drawn
        return adaptive_avg_pool2d(drawn.__getitems__(range(5))["image"].float() / 255, size)

    def test_embeds_every_image_by_itself(self, judge: Judge, faces: Tensor) -> None:
        before = faces.clone()
        with torch.no_grad():
            found, again = judge.embed(faces), judge.embed(faces)
            alone = judge.embed(faces[2:3])
        assert torch.equal(faces, before)
        assert found.ndim == 2
        assert len(found) == 5
        assert found.is_floating_point()
        assert bool(found.isfinite().all())
        assert torch.equal(found, again)
        torch.testing.assert_close(alone[0], found[2], rtol=1e-4, atol=1e-5)

    def test_the_very_picture_is_the_most_alike(self, judge: Judge, faces: Tensor) -> None:
        with torch.no_grad():
            found = judge(faces)
        assert found.device == faces.device
        alike = similarity(found, found, judge.metric)
        others = similarity(found, found.roll(1, 0), judge.metric)
        assert bool((alike >= others).all())
        assert not torch.equal(found[0], found[1]), "it tells nobody apart"

    def test_images_of_another_size_are_resized_or_refused(self, judge: Judge) -> None:
        if self.of_released:  # of one size, by one method: whoever releases sees to that
            return
        other = (judge.input_size or SIZE) + 16
        images = DrawnFaces(2, 1, other).__getitems__(range(2))["image"].float() / 255
        if self.refuses_other_sizes:
            with pytest.raises(ValueError, match=f"{other} px"):
                judge.check_size(other)
            return
        judge.check_size(other)
        with torch.no_grad():
            assert len(judge(images)) == 2

    def test_whom_it_asks_about_clean_faces(self, judge: Judge, faces: Tensor) -> None:
        clean = judge.clean_side()
        assert judge.of_released == self.of_released
        assert (clean is judge) == (not self.of_released)
        assert clean.clean_side() is clean
        assert not clean.of_released
        with torch.no_grad():
            assert clean(faces).shape == judge(faces).shape, "the two cannot be compared"

    def test_a_mask_may_be_told(self, judge: Judge, faces: Tensor) -> None:
        mask = torch.ones(1, 1, *faces.shape[2:])
        with torch.no_grad():
            found = judge(faces, mask, torch.zeros(len(faces), dtype=torch.int64))
            assert found.shape == judge(faces).shape

    def test_says_what_it_is(self, judge: Judge) -> None:
        description = judge.describe()
        assert next(iter(description)) == "judge"
        assert isinstance(description["judge"], str)
        assert json.loads(json.dumps(description)) == description
        assert str(description["judge"]) in judge.title
        assert judge.description == self.make().description, (
            "equal judges are equal, or all is measured again"
        )
        assert judge.metric in get_args(EmbeddingMetric)
        assert judge.input_size is None or judge.input_size > 0
