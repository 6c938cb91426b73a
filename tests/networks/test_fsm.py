import pytest
import torch
import torchvision
from torch import Tensor, nn

from lightning_app.networks import FSM, Backbone
from lightning_app.networks.backbones.base import apply_gate
from lightning_app.networks.backbones.resnet import feature_sizes
from lightning_app.networks.fsm import resized_mask


def random_masks(count: int, size: int, share: float = 0.3, seed: int = 0) -> Tensor:
    """Blocky masks, so that some cells of a feature map show and some do not."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(count, 1, size // 8, size // 8, generator=generator) < share).float()
    return nn.functional.interpolate(cells, size=size, mode="nearest")


@pytest.mark.parametrize("normalise", ["sigmoid", "hardsigmoid", "minmax"])
@pytest.mark.parametrize("training", [True, False])
def test_gate_is_formula_6_and_exactly_1_where_the_resized_mask_shows(normalise: str, training: bool) -> None:
    fsm = FSM(32, 7, 56, normalise).train(training)  # type: ignore[arg-type]  # parametrised
    masks = random_masks(3, 56)
    gate = fsm(masks)
    shown = resized_mask(masks, 7)
    assert gate.shape == (3, 32, 7, 7)
    assert 0 < shown.mean() < 1
    assert torch.equal(
        gate[(shown == 1).expand_as(gate)], torch.ones_like(gate[(shown == 1).expand_as(gate)])
    )
    hidden = (shown == 0).expand_as(gate)
    assert torch.equal(gate[hidden], fsm.eval().blocks(masks)[hidden]) or training
    assert gate.min() >= 0
    assert gate.max() <= 1
    assert (gate[hidden] < 1).any()


def test_resized_mask_shows_from_half_of_its_pixels_on() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[0, 0, :2, 0] = 1  # half of the first cell
    mask[0, 0, 3, 3] = 1  # a quarter of the last
    assert resized_mask(mask, 2).flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("size", [32, 64, 96, 112, 128, 160, 224])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_feature_sizes_and_channels_are_those_of_the_network(size: int, name: str) -> None:
    width = 64 if size in (32, 224) else 8  # a wide network takes a second to draw
    net = Backbone(name, input_size=size, width=width)
    points = [p for p, s in feature_sizes(size).items() if s > 1]
    gated = Backbone(name, points, size, width=width).eval()
    seen: dict[str, torch.Size] = {}
    for point in points:
        getattr(net, point).register_forward_hook(
            lambda module, inputs, output, point=point: seen.__setitem__(point, output.shape)
        )
    net.eval()(torch.randn(1, 3, size, size))
    for name_of_gate, gate in gated.gate(torch.ones(1, 1, size, size)).items():
        assert gate.shape == seen[name_of_gate]


@pytest.mark.parametrize(
    ("name", "width", "dim"), [("resnet18", 8, 64), ("resnet50", 16, 512), ("resnet34", 8, 64)]
)
def test_a_narrow_network_has_gates_and_embedding_to_match(name: str, width: int, dim: int) -> None:
    net = Backbone(name, ["layer1", "layer3"], 64, width=width).eval()
    assert net.dim == dim
    assert net(torch.randn(2, 3, 64, 64), random_masks(1, 64)).shape == (2, dim)
    assert [gate.shape[1] for gate in net.gate(random_masks(1, 64)).values()] == [dim // 8, dim // 2]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_at_width_64_the_weights_are_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    ours = Backbone(name).state_dict()
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().state_dict()
    assert set(theirs) - set(ours) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_a_width_of_0_is_refused() -> None:
    for width in (0, 7):
        with pytest.raises(ValueError, match=rf"^width: {width} channels, give 8 or more"):
            Backbone("resnet18", width=width)


def test_feature_sizes_at_224_are_the_papers() -> None:
    assert list(feature_sizes(224).values()) == [56, 28, 14, 7]


def test_fsm_runs_once_per_distinct_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Backbone("resnet18", ["layer2", "layer3"], 64)
    calls: list[int] = []
    for fsm in net.gates.values():
        fsm.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    image, masks = torch.randn(6, 3, 64, 64), random_masks(2, 64)
    net(image, masks, torch.tensor([0, 1, 0, 0, 1, 1]))
    assert calls == [2, 2]
    calls.clear()
    net(image, masks[:1], torch.zeros(6, dtype=torch.int64))
    assert calls == [1, 1]


def test_each_image_meets_the_gate_of_its_own_mask() -> None:
    net = Backbone("resnet18", ["layer2"], 64).eval()
    image, masks = torch.randn(4, 3, 64, 64), random_masks(2, 64)
    index = torch.tensor([1, 0, 0, 1])
    together = net(image, masks, index)
    for i in range(4):
        alone = net(image[i : i + 1], masks[index[i]][None])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert (net(image, masks, 1 - index) - together).abs().max() > 1e-4


def test_no_mask_means_a_gate_of_1() -> None:
    plain, gated = Backbone("resnet18", input_size=64).eval(), Backbone("resnet18", ["layer1"], 64).eval()
    gated.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(plain(image), gated(image))
    torch.testing.assert_close(gated(image, torch.ones(1, 1, 64, 64)), plain(image), rtol=0, atol=0)


def test_frozen_gate_changes_nothing_refuses_another_mask_and_is_cleared_by_train() -> None:
    net = Backbone("resnet18", ["layer1", "layer3"], 64).eval()
    image, masks = torch.randn(2, 3, 64, 64), random_masks(2, 64)
    mask, other = masks[:1], masks[1:]
    expected = net(image, mask)
    net.freeze_gate(mask)
    calls: list[int] = []
    for fsm in net.gates.values():
        fsm.register_forward_hook(lambda module, inputs, output: calls.append(1))
    torch.testing.assert_close(net(image, mask.clone()), expected, rtol=0, atol=1e-6)
    assert calls == []
    with pytest.raises(ValueError, match="differs from the one the gate was frozen for"):
        net(image, other)
    mask[0, 0, 0, 0] = 1 - mask[0, 0, 0, 0]  # the same tensor, changed in place, is another mask too
    with pytest.raises(ValueError, match="differs"):
        net(image, mask)
    net.train()
    net.eval()
    net(image, other)
    assert calls == [1, 1]
    net.train()
    with pytest.raises(RuntimeError, match="call eval"):
        net.freeze_gate(other)


def test_gate_learns() -> None:
    net = Backbone("resnet18", ["layer2"], 64)
    net(torch.randn(4, 3, 64, 64), random_masks(1, 64)).pow(2).sum().backward()
    for parameter in net.gates.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_several_masks_need_an_index() -> None:
    with pytest.raises(ValueError, match="mask_index says which lies on which"):
        apply_gate(torch.ones(4, 2, 3, 3), torch.ones(2, 2, 3, 3), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 1, 32), "larger than 1×1"),
        ((8, 5, 32), "halving input_size=32 gives 16, 8, 4"),
        ((8, 64, 32), "nothing smaller"),
        ((8, 4, 32, "softmax"), "choose one of sigmoid"),
    ],
)
def test_fsm_refuses_what_it_cannot_gate(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FSM(*arguments)


def test_fsm_refuses_a_mask_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"\[N, 1, 32, 32\]"):
        FSM(8, 4, 32)(torch.ones(1, 1, 64, 64))


def test_backbone_refuses_unknown_names_and_maps_of_1x1() -> None:
    with pytest.raises(ValueError, match="choose one of resnet18"):
        Backbone("resnet99")
    with pytest.raises(ValueError, match="choose among layer1"):
        Backbone("resnet18", ["layer5"])
    with pytest.raises(ValueError, match="1×1 there"):
        Backbone("resnet18", ["layer4"], 32)
