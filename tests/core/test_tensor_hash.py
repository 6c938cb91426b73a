"""Hashes of weights stand in files: checkpoints' descriptions, a federation's state, a search's progress."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_app.core.tensor_hash import tensors_hash
from lightning_app.desensitize.masker import masker_hash
from lightning_app.evaluation.judges.base import state_hash
from lightning_app.federated.protocol.weights import weights_hash
from lightning_app.masks.search.objective import _state_hash, _tensors_hash

MASKER = "68e66f1ef7d813207395c1201f4021e8246d71dfbcff82e15630101cdc25aeb5"
WEIGHTS = "5d9707ab4687ee7dfa15fb34fdd654463d45cb9b1d40d310855793d56c42c1fd"
STATE = "ea9d7cab651bfcb6bc1be1ab3f41cdc48fc1cd33a306e2794bdef9f30561e614"
SEARCH = "6ac1991554af5b3aed4cca7617279068ee7be49c4a75b070e646c82b2afb415f"
IMAGES = "5ca36e4fe27aa3b4dcc4d4cf78dba9da4b4e0bdf02a4cdd2b9c3549d497b5836"


def constant() -> nn.Module:
    """Make a module of whole numbers, with a buffer that is not saved and one that is an integer."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module.register_buffer("unsaved", torch.arange(4.0), persistent=False)
    with torch.no_grad():
        for number, value in enumerate([*module.parameters(), *module.buffers()]):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) + number)
    return module


def test_hashes_in_files_stay_what_they_were() -> None:
    """Each of the four says another thing of a tensor before its bytes; the values are those of before."""
    module, images = constant(), torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3)
    state = module.state_dict()
    assert (masker_hash(state), weights_hash(state), state_hash(module)) == (MASKER, WEIGHTS, STATE)
    assert (_state_hash(module), _tensors_hash(images, torch.tensor([5]))) == (SEARCH, IMAGES)


@pytest.mark.parametrize(
    "value", [torch.tensor(3.0), torch.zeros(0, 2), torch.ones(2, 3).t(), torch.ones(2, dtype=torch.bfloat16)]
)
def test_every_tensor_has_a_hash(value: Tensor) -> None:
    """A number, no values, other strides and half precision: equal values have equal hashes."""
    again = value.clone(memory_format=torch.contiguous_format)
    assert tensors_hash([("a", value)], lambda name, _: name) == tensors_hash(
        [("a", again)], lambda name, _: name
    )
