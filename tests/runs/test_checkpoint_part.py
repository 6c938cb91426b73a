"""A network out of a checkpoint: whose it is not, what its settings raise, and that it takes no gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_app.runs.checkpoint_part import of_another, rebuilt, settings_of, weights_under


@pytest.mark.parametrize(
    ("saved", "whose"),
    [
        ({"_class_path": "lightning_app.models.ResNet"}, "ResNet"),
        ({}, "another model"),
        (None, "another model"),
    ],
)
def test_the_message_says_whose_it_is(saved: object, whose: str) -> None:
    """The class is the last part of its path; where there is none it is another model."""
    error = of_another({"hyper_parameters": saved}, "checkpoint a.ckpt", "a Linker", "linker.yaml`")
    assert str(error) == (
        f"checkpoint a.ckpt is not of a Linker but of {whose}; give one that `python main.py fit --config "
        "linker.yaml` wrote"
    )


@pytest.mark.parametrize(
    "raised", [ValueError, RuntimeError, TypeError, KeyError, OverflowError, AttributeError]
)
def test_what_settings_raise_is_one_line(raised: type[Exception]) -> None:
    """Every error that a file's values can cause is a ValueError that names the file as it was given."""
    line = "^checkpoint runs/x: its weights do not fit its settings .'?a size.*$"
    with pytest.raises(ValueError, match=line), settings_of(Path("runs/x")):
        raise raised("a size")


def test_a_network_is_made_of_its_own_weights_alone() -> None:
    """Names lose their prefix; other weights are left out; larger settings than the file's are refused."""
    made = nn.Linear(2, 3)
    state = {f"network.{key}": value for key, value in made.state_dict().items()} | {"head.x": torch.ones(9)}
    own = weights_under({"state_dict": state}, "network.")
    again = rebuilt(lambda: nn.Linear(2, 3), own)
    assert torch.equal(again.weight, made.weight)
    assert (again.training, again.weight.requires_grad) == (False, False)
    with pytest.raises(ValueError, match="ask for 12 values, it has 9"):
        rebuilt(lambda: nn.Linear(3, 3), own)
