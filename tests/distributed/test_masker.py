"""A masker on two ranks: equal weights and masks, whatever the turn, over a resume in the middle of a cycle."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lightning.pytorch.strategies import DDPStrategy

from lightning_app.cli.configs import CONFIGS
from lightning_app.models.masker_settings import check_strategy
from tests import masker_ranks
from tests.distributed.test_ddp import free_port
from tests.processes import pool

PATIENCE_S = 280


@pytest.mark.slow
def test_two_ranks_hold_equal_weights(tmp_path: Path) -> None:
    port = free_port()
    with pool(2) as processes:
        jobs = [processes.submit(masker_ranks.rank_of, 2, rank, port, tmp_path) for rank in range(2)]
        one, two = (job.result(timeout=PATIENCE_S) for job in jobs)
    assert one == two
    assert one["6 steps"]["kinds"] == [
        (turn, True, not turn) for turn in (False, False, False, True, False, False)
    ]
    assert one["8 steps"]["kinds"] == [(False, True, True), (True, True, False)]
    assert (one["6 steps"]["batches"], one["8 steps"]["batches"]) == (6, 8)
    assert one["6 steps"]["weights"] != one["8 steps"]["weights"]


@pytest.mark.parametrize("unused", [False, True])
def test_ranks_that_would_wait_for_gradients_are_refused(unused: bool) -> None:
    strategy = DDPStrategy(find_unused_parameters=unused)
    trainer = SimpleNamespace(strategy=strategy, world_size=2)
    refused = pytest.raises(ValueError, match=r"add --config overlays/masker_ddp\.yaml")
    with nullcontext() if unused else refused:
        check_strategy(trainer)  # type: ignore[arg-type]
    check_strategy(SimpleNamespace(strategy=DDPStrategy(), world_size=1))  # type: ignore[arg-type]


def test_the_overlay_looks_for_unused_weights() -> None:
    overlay = yaml.safe_load((CONFIGS / "overlays/masker_ddp.yaml").read_text())
    assert overlay["trainer"]["strategy"] == "ddp_find_unused_parameters_true"
