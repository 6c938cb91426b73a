"""The ServerApp of a real deployment: `lightning_app.federated.flower.serverapp:app` in Flower's pyproject.

Its run config: `config`, the federation's YAML (as of `federate`, with `partition: own`); `name` and `runs` of the
run's folder, `runs/federated` by default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context

from lightning_app.cli.surroundings import set_up_logging
from lightning_app.distributed.parent import Bond, end_with_parent
from lightning_app.federated.flower.apps import make_server_app
from lightning_app.federated.owner.config import read_config
from lightning_app.federated.protocol.messages import Link
from lightning_app.federated.protocol.plan import Plan
from lightning_app.federated.server.run import Server


def _plan(context: Context) -> Plan:
    return read_config(context.run_config)[0]


def _serve(context: Context) -> Callable[[Link], object]:
    set_up_logging()
    _end_with(os.getppid())
    plan, parts = read_config(context.run_config)
    parts.use()
    run_dir = Path(str(context.run_config.get("runs", "runs"))) / str(
        context.run_config.get("name", "federated")
    )
    return Server(plan, parts, run_dir).serve


def _end_with(parent: int) -> None:
    """End this process when Flower's, which started it, is gone: Flower's own exit waits for the SuperLink for ever.

    Where that works, it gets 5 s. A round's files are whole or not there.
    """
    end_with_parent(Bond(parent, lasting=False), grace=5.0)


app = make_server_app(_serve, _plan)
