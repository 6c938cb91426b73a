"""What every head keeps to: subclass `HeadContract` and say how yours is made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_app.models.parts import described, same
from lightning_app.networks import Head
from lightning_app.networks.heads import HeadMaker, classes_in, make_head

DIM, CLASSES, BATCH = 6, 5, 4


class HeadContract:
    """Tests of a head; `maker` is the class, or a functools.partial of it."""

    maker: HeadMaker

    @pytest.fixture
    def head(self) -> Head:
        torch.manual_seed(3)
        return make_head(type(self).maker, DIM, CLASSES)

    @pytest.fixture
    def embedding(self) -> Tensor:
        return torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1))

    def test_it_says_what_it_takes_and_gives(self, head: Head, embedding: Tensor) -> None:
        assert (head.dim, head.num_classes) == (DIM, CLASSES)
        loss, logits = head(embedding, torch.tensor([0, 1, 4, 2]))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert logits.shape == (BATCH, CLASSES)

    def test_the_scores_know_no_target(self, head: Head, embedding: Tensor) -> None:
        first, second = torch.zeros(BATCH, dtype=torch.int64), torch.full((BATCH,), CLASSES - 1)
        assert torch.equal(head(embedding, first)[1], head.logits(embedding))
        assert torch.equal(head(embedding, second)[1], head.logits(embedding))

    def test_a_label_mixed_with_none_is_the_label(self, head: Head, embedding: Tensor) -> None:
        target, weight = torch.tensor([[0, 1], [1, 2], [4, 4], [2, 0]]), torch.tensor([[1.0, 0.0]] * BATCH)
        mixed, plain = head(embedding, target, weight)[0], head(embedding, target[:, 0])[0]
        torch.testing.assert_close(mixed, plain, rtol=1e-5, atol=1e-6)

    def test_a_mix_lies_between_its_labels_and_its_order_is_nothing(
        self, head: Head, embedding: Tensor
    ) -> None:
        target, share = torch.tensor([[0, 1], [1, 2], [4, 3], [2, 0]]), torch.tensor([[0.25, 0.75]] * BATCH)
        ends = sorted(float(head(embedding, target[:, column])[0].detach()) for column in (0, 1))
        found = head(embedding, target, share)[0].detach()
        assert ends[0] - 1e-5 <= float(found) <= ends[1] + 1e-5
        again = head(embedding, target.flip(1), share.flip(1))[0].detach()
        torch.testing.assert_close(found, again, rtol=1e-5, atol=1e-6)

    def test_mixed_labels_without_shares_are_refused(self, head: Head, embedding: Tensor) -> None:
        with pytest.raises(ValueError, match=r"target of shape \[4, 2\]"):
            head(embedding, torch.zeros(BATCH, 2, dtype=torch.int64))

    def test_steps_down_the_loss_make_it_smaller(self, head: Head, embedding: Tensor) -> None:
        target, optimizer = torch.tensor([0, 1, 4, 2]), torch.optim.SGD(head.parameters(), lr=0.05)
        before = float(head(embedding, target)[0].detach())
        for _ in range(20):
            optimizer.zero_grad()
            loss = head(embedding, target)[0]
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < before

    def test_what_speaks_for_a_class_raises_its_score(self, head: Head) -> None:
        classes = torch.arange(CLASSES)
        towards = head.weight_of(classes)
        assert towards.shape == (CLASSES, DIM)
        near = head.logits(towards).diagonal()
        assert bool((near > head.logits(-towards).diagonal()).all())

    def test_saved_weights_tell_their_classes(self, head: Head) -> None:
        maker = type(self).maker
        drawn = torch.random.get_rng_state()
        assert classes_in(maker, DIM, head.state_dict()) == CLASSES
        assert classes_in(maker, DIM, {"nothing.of_the_kind": torch.zeros(2)}) is None
        assert torch.equal(torch.random.get_rng_state(), drawn), "asking must draw nothing"
        other = make_head(maker, DIM, CLASSES)
        other.load_state_dict(head.state_dict())
        probe = torch.ones(1, DIM)
        assert torch.equal(other.logits(probe), head.logits(probe))

    def test_it_can_be_described_in_plain_values(self) -> None:
        description = described(type(self).maker, Head)
        assert set(description) == {"class_path", "init_args"}
        assert same(description, description)
        assert same(description, None) is description["class_path"].endswith(".SoftmaxHead")
