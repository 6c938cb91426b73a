"""What the tests of AdaMixUp share: an owner's key, and a strategy that takes no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_app.core.key_file import make_key
from tests.models.mixing_run import TinyStrategy


@pytest.fixture(scope="module")
def small_network() -> Iterator[None]:
    """A network that is no ResNet-18, in all tests of a file from the first that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_app.models.mix_strategy.StrategyNetwork", TinyStrategy)
        yield


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owner's key."""
    path = tmp_path_factory.mktemp("keys") / "owner.key"
    make_key(path)
    return path
