import pytest
import torch
from torch import Tensor

from lightning_app.networks import Backbone

POINTS = ("layer1", "layer3")


def network(*points: str, of: Backbone | None = None) -> Backbone:
    """One with gates at these points, with the weights of another as far as it has them."""
    torch.manual_seed(0)
    net = Backbone("resnet18", points, 64).eval()
    if of is not None:
        net.load_state_dict({k: v for k, v in of.state_dict().items() if k in net.state_dict()})
    return net


@pytest.fixture
def net() -> Backbone:
    return network(*POINTS)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 20:, :] = 0
    return mask


@pytest.mark.parametrize("off", [(), ("layer1",), ("layer3",), POINTS])
def test_what_is_off_is_a_network_without_it(
    net: Backbone, image: Tensor, mask: Tensor, off: tuple[str, ...]
) -> None:
    without = network(*(p for p in POINTS if p not in off), of=net)
    with torch.no_grad(), net.gates_off(*off):
        torch.testing.assert_close(net(image, mask), without(image, mask), rtol=0, atol=1e-6)
        if off:
            assert (network(*POINTS, of=net)(image, mask) - net(image, mask)).abs().max() > 1e-3
        if off == POINTS:
            torch.testing.assert_close(net(image, mask), net(image), rtol=0, atol=0)


def test_contexts_add_up_and_are_undone_after_an_error_too(
    net: Backbone, image: Tensor, mask: Tensor
) -> None:
    whole, plain = net(image, mask), net(image)
    third = network("layer3", of=net)(image, mask)
    with net.gates_off("layer1"):
        with net.gates_off("layer3"):
            assert torch.equal(net(image, mask), plain)
        with pytest.raises(RuntimeError), net.gates_off("layer3"):
            net(image[:, :2], mask)  # two channels
        torch.testing.assert_close(net(image, mask), third, rtol=0, atol=1e-6)
    assert torch.equal(net(image, mask), whole)


def test_a_frozen_gate_can_be_off_and_one_is_frozen_whole_while_off(
    net: Backbone, image: Tensor, mask: Tensor
) -> None:
    whole, plain = net(image, mask), net(image)
    with net.gates_off(*POINTS):
        net.freeze_gate(mask)
        assert torch.equal(net(image, mask), plain)
    torch.testing.assert_close(net(image, mask), whole, rtol=0, atol=1e-6)
    with net.gates_off(*POINTS):
        assert torch.equal(net(image, mask), plain)
        with pytest.raises(ValueError, match="differs from the one the gate was frozen for"):
            net(image, 1 - mask)


def test_what_is_off_is_not_computed_but_can_still_be_looked_at(
    net: Backbone, image: Tensor, mask: Tensor
) -> None:
    calls: list[str] = []
    for point, fsm in net.gates.items():
        fsm.register_forward_hook(lambda module, inputs, output, point=point: calls.append(point))
    net.train()
    with net.gates_off("layer1"):
        net(image, mask)
        assert calls == ["layer3"]  # its batch norms learn nothing meanwhile
        assert set(net.eval().gate(mask)) == set(POINTS)


def test_a_gate_that_is_not_there_is_named(net: Backbone) -> None:
    with (
        pytest.raises(ValueError, match=r"gates_off\('layer2'\): .* the gates layer1, layer3"),
        net.gates_off("layer2"),
    ):
        pass
    with pytest.raises(ValueError, match=r"the gates \(none\)"), network().gates_off("layer1"):
        pass
