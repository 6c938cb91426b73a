"""The ClientApp of a real deployment: `lightning_app.federated.flower.clientapp:app` in Flower's pyproject.

Its node config, of each owner's `flower-supernode`: `config`, the owner's own YAML (as of `federate`, with its own
`data`); `partition-id`, the owner's number from 0; `folder` of the owner's files, `owner-<number>` by default.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context

from lightning_app.cli.surroundings import set_up_logging
from lightning_app.federated.flower.apps import client_here, make_client_app
from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.config import read_config


def _open(context: Context) -> Client:
    set_up_logging()
    plan, parts = read_config(context.node_config)
    number = int(context.node_config.get("partition-id", 0))
    folder = Path(str(context.node_config.get("folder", f"owner-{number}")))
    return client_here(plan, parts, number, folder.resolve())


app = make_client_app(_open)
