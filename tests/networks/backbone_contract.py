"""What every backbone keeps to: subclass `BackboneContract` and say how yours is made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_app.models import ResNetFSM
from lightning_app.networks import Backbone
from lightning_app.networks.backbones import BackboneMaker, make_backbone

SIZE = 32


class BackboneContract:
    """Tests of a backbone; `maker` makes one of (in_channels, input_size).

    Attributes:
        looks_at_masks: without a gate too.
    """

    maker: BackboneMaker
    looks_at_masks = False

    def make(self, channels: int = 3, size: int = SIZE) -> Backbone:
        torch.manual_seed(2)
        return make_backbone(type(self).maker, channels, size).eval()

    @pytest.fixture
    def image(self) -> Tensor:
        return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def half(self) -> Tensor:
        """A mask that hides the left half."""
        mask = torch.ones(1, 1, SIZE, SIZE)
        mask[..., : SIZE // 2] = 0
        return mask

    def maps(self, net: Backbone, image: Tensor) -> dict[str, Tensor]:
        x, found = net.stem_of(image), {}
        for point in net.points:
            x = found[point] = net.stage_of(point, x)
        return found

    @pytest.mark.parametrize("channels", [1, 3, 12])
    def test_it_embeds_images_of_any_number_of_channels(self, channels: int) -> None:
        net = self.make(channels)
        with torch.no_grad():
            found = net(torch.randn(2, channels, SIZE, SIZE))
        assert found.shape == (2, net.dim)
        assert bool(found.isfinite().all())

    @pytest.mark.parametrize("size", [SIZE, 48])
    def test_its_stages_are_as_it_states(self, size: int) -> None:
        net = self.make(size=size)
        stated = net.stages(size)
        assert tuple(stated) == net.points
        with torch.no_grad():
            found = self.maps(net, torch.randn(1, 3, size, size))
        assert {point: tuple(x.shape[1:]) for point, x in found.items()} == {
            point: (stage.channels, stage.size, stage.size) for point, stage in stated.items()
        }

    def test_a_gate_sits_after_each_stage_and_all_visible_changes_nothing(
        self, image: Tensor, half: Tensor
    ) -> None:
        net = self.make()
        assert net.looks_at_masks == self.looks_at_masks
        points = [point for point, stage in net.stages(SIZE).items() if stage.size > 1]
        assert points, "no FSM could sit anywhere"
        with torch.no_grad():
            plain, without = net(image), net(image, half)
            assert torch.equal(without, plain) == (not self.looks_at_masks)
            for point in points:
                torch.manual_seed(4)
                net.place_gates([point], SIZE)
                net.eval()
                assert list(net.gates) == [point]
                assert net.looks_at_masks
                assert torch.equal(net(image), plain)
                assert torch.equal(net(image, torch.ones_like(half)), plain)
                gated = net(image, half)
                assert not torch.allclose(gated, without)
                with net.gates_off(point):
                    assert torch.equal(net(image, half), without)
                net.freeze_gate(half)
                assert torch.equal(net(image, half), gated)
            assert len(net.place_gates((), SIZE).gates) == 0

    def test_a_recogniser_gates_it(self, image: Tensor, half: Tensor) -> None:
        point = next(p for p, stage in self.make().stages(SIZE).items() if stage.size > 1)
        model = ResNetFSM([point], backbone=type(self).maker, num_classes=3, input_size=SIZE)
        loss, _ = model.head(model.embed(image, half), torch.tensor([0, 2]))
        loss.backward()
        assert all(p.grad is not None for p in model.backbone.gates.parameters())

    def test_where_no_gate_can_sit(self) -> None:
        net = self.make()
        with pytest.raises(
            ValueError, match=f"insertion point 'attic': choose among {', '.join(net.points)}"
        ):
            net.place_gates(["attic"], SIZE)
        if net.smallest > 1:
            with pytest.raises(ValueError, match=f"takes images of {net.smallest} px or more"):
                net.place_gates((), net.smallest - 1)
        size = net.smallest
        with torch.no_grad():
            assert self.make(size=size)(torch.randn(2, 3, size, size)).shape == (2, net.dim)

    def test_the_mask_is_of_the_image_it_lies_on(self, image: Tensor) -> None:
        point = next(p for p, stage in self.make().stages(SIZE).items() if stage.size > 1)
        net = self.make().place_gates([point], SIZE).eval()
        masks = torch.stack([torch.zeros(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE)])
        with torch.no_grad():
            both = net(image, masks, torch.tensor([1, 0]))
            torch.testing.assert_close(both[:1], net(image[:1], masks[1:]), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(both[1:], net(image[1:], masks[:1]), rtol=1e-4, atol=1e-5)
