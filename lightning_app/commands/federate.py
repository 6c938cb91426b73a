"""`python main.py federate`: several owners train one recogniser; their faces stay with them (paper, 3.4)."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from lightning_app.cli.command_parser import add_run_arguments
from lightning_app.commands.parser import CommandParser, command_parser, name_run
from lightning_app.core.files import is_plain_name
from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.messages import Link
from lightning_app.federated.protocol.partition import GIVES
from lightning_app.federated.protocol.plan import Parts, Plan, add_arguments, read_plan
from lightning_app.federated.server.run import Server
from lightning_app.report import print_table
from lightning_app.report.tables import Scalar

log = logging.getLogger("faceveil")


def federate(plan: Plan, parts: Parts, run_dir: Path, overwrite: bool = False) -> dict[str, Scalar]:
    """Train one recogniser at several owners: each on its own faces under the same mask; only parameters travel.

    The owners are simulated on this machine. In every round each trains on its own images, starting from the global
    weights; the server averages what they send by number of images and verifies the result. Given again, the command
    goes on after the last whole round, with the result it would have had. In `runs/<name>/`: the checkpoints of the
    newest `keep` (3) rounds, `config.yaml`, with which `validate` takes them (`export` takes the folder),
    `federate.yaml`, with which this command does the same again, `metrics.json`, `rounds.csv`, `rounds.png`, and each
    owner's files in `clients/<number>/`.

    Args:
        plan: how it goes.
        parts: model, data and trainer.
        run_dir: folder of the run.
        overwrite: replace a run that is there.

    Returns:
        What `metrics.json` holds.

    Raises:
        FileExistsError: the folder holds another kind of run.
        ValueError: too few owners are left in a round, another process federates in the folder, Flower is not
            installed, or the parts cannot be used.

    Source: On Mask-based Image Set Desensitization with Recognition Support, sections 3.4 and 4.1 (steps I to VI).
    """
    if plan.engine == "flower" and importlib.util.find_spec("flwr") is None:
        raise ValueError(
            "engine: flower needs Flower: pip install 'faceveil[federated]', or take --engine local, which gives the "
            "same result in one process"
        )
    if plan.partition == "own":
        raise ValueError(
            "partition: own is of a real deployment, where every owner has a config of its own; here choose images, "
            "identities or dirichlet"
        )
    server = Server(plan, parts, run_dir, overwrite)
    assert server.dealt is not None
    heads, rows = server.dealt
    print_table(f"partition: {plan.partition} ({GIVES[plan.partition]})", rows, heads)
    folder = run_dir / "clients"
    found: list[dict[str, Scalar]] = []

    def serve(link: Link) -> None:
        found.append(server.serve(link))

    if plan.engine == "flower" and len(server.rounds) < plan.rounds:
        from lightning_app.federated.flower.apps import simulate

        simulate(plan, parts, folder, serve)
    else:
        owners = [Client(plan, parts, number, folder / str(number)) for number in range(plan.clients)]
        serve(LocalLink(owners, plan.timeout))
    return found[0]


def build_parser() -> CommandParser:
    """Return the parser of `federate`."""
    parser = command_parser(federate)
    add_run_arguments(parser)
    add_arguments(parser)
    return parser


def run(args: list[str]) -> None:
    """Run `federate` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "federated.yaml"]`.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `federate`.
    """
    config = name_run(build_parser().parse_args(args), "federated")
    if not is_plain_name(config.name):
        raise ValueError(f"--name {config.name!r}: give a plain name, the folder is {config.runs}/<name>")
    plan, parts = read_plan(config)
    run_dir = Path(config.runs) / config.name
    federate(plan, parts, run_dir, config.overwrite)
