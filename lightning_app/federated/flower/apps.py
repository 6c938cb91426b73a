"""Flower's two apps around our server and clients, and its simulation of them."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid, ServerApp

from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.link import answer, late
from lightning_app.federated.protocol.messages import (
    Failure,
    Invitation,
    Joined,
    Late,
    Link,
    Task,
    Unreached,
    Update,
    discreet,
    one_line,
    plain,
)
from lightning_app.federated.protocol.plan import Parts, Plan
from lightning_app.federated.protocol.wire import decode, encode

log = logging.getLogger("faceveil")
_LOOK_S, _LOOK_SHARE = (0.05, 1.0), 0.05  # between two looks for answers; of the time already waited
# A message lives in Flower as long as its answer is waited for, and a minute, so that no owner is handed an old round;
# without a timeout a year, as Flower takes no "for ever", and 12 hours by default.
_SPARE_S, _YEAR_S = 60.0, 365 * 86400.0
_HERE: dict[Path, Client] = {}  # the owners of this process, with their images in memory, by folder
_GONE = "it is not connected any more"
_T = TypeVar("_T", Joined, Update)


class FlowerLink:
    """Reaches the clients through Flower's grid.

    Args:
        grid: of the ServerApp.
        clients: how many are waited for before the first round.
        wait: seconds to wait for them, and for their answers to an invitation.
        timeout: seconds a client has for a round, and at most for an invitation; None waits a year for a round.
    """

    def __init__(self, grid: Grid, clients: int, wait: float, timeout: float | None) -> None:
        self.grid, self.clients, self.wait, self.timeout = grid, clients, wait, timeout
        self._numbers: dict[int, int] = {}  # node → owner
        self._names: dict[int, str] = {}  # node → what its key is called, owner-2 of owner-2.pub
        self._first = True
        self._late: set[int] = set()  # nodes that gave the last question no answer
        self._past: dict[str, tuple[int, str]] = {}  # message nobody waits for any more → node, what it was
        # node → invitations it let pass, rounds it is spared
        self._silent: dict[int, tuple[int, int]] = {}

    def newcomers(self, invitation: Invitation, members: set[int]) -> Iterator[Joined | Failure]:
        """Invite every node whose owner is not a member.

        That an owner was started again shows in two ways: its node is another, which takes the number of one that is
        gone and answers for a member; or the server made it no member because it had left it out of a round. A node
        that lets an invitation pass is spared the next round, then 2, 4, … rounds: each time costs the others
        the whole wait.
        """
        nodes = set(self._nodes())
        begun = time.monotonic()
        end = begun + (self.wait if self._first else 0.0)
        while len(nodes) < self.clients and time.monotonic() < end:
            _pause(begun)
            nodes = set(self._nodes())
        self._first = False
        here = {node: owner for node, owner in self._numbers.items() if node in nodes}
        self._silent = {node: (times, left) for node, (times, left) in self._silent.items() if node in nodes}
        asked = []
        for node in sorted(nodes):
            times, left = self._silent.get(node, (0, 0))
            if left:
                self._silent[node] = times, left - 1
            elif here.get(node) not in members:
                asked.append(node)
        wait = self.wait if self.timeout is None else min(self.wait, self.timeout)
        for node, given in self._ask(invitation, "query.join", asked, wait, Joined):
            if isinstance(given, Joined):
                if given.client in here.values() and here.get(node) != given.client:
                    yield Failure(self._called(node), f"its number {given.client} is another owner's")
                    continue
                self._numbers = {n: o for n, o in self._numbers.items() if o != given.client} | {
                    node: given.client
                }
                here[node] = given.client
            yield given
        for node in asked:
            times = self._silent.pop(node, (0, 0))[0]
            if node in self._late:
                self._silent[node] = times + 1, 2**times

    def train(self, task: Task, members: set[int]) -> Iterator[Update | Failure]:
        """Send a task to the members, and give their answers as they come."""
        there = set(self._nodes())
        nodes = [node for node, owner in self._numbers.items() if owner in members and node in there]
        for owner in sorted(members - {self._numbers[node] for node in nodes}):
            yield Unreached(owner, _GONE)
        for node, given in self._ask(task, "train", nodes, self.timeout, Update):
            owner = self._numbers[node]
            if isinstance(given, Update) and given.client != owner:
                given = Failure(owner, f"it answers as owner {given.client}")
            yield given

    def _nodes(self) -> list[int]:
        there = list(self.grid.get_nodes())
        self._names = {int(node.node_id): plain(node.name) for node in there}
        return list(self._names)

    def _ask(
        self, what: Invitation | Task, kind: str, nodes: list[int], timeout: float | None, wanted: type[_T]
    ) -> Iterator[tuple[int, _T | Failure]]:
        content = encode(what)
        lives = _YEAR_S if timeout is None else timeout + _SPARE_S
        waiting: dict[str, int] = {}
        gone = []
        for node in nodes:
            # no name, or none at all: the node has left in between
            number = next(iter(self.grid.push_messages([Message(content, node, kind, ttl=lives)])), "")
            if number:
                waiting[number] = node
            else:
                gone.append(node)
        for node in gone:
            yield node, Unreached(self._called(node), _GONE)
        begun = time.monotonic()
        end = None if timeout is None else begun + timeout
        while waiting and (end is None or time.monotonic() < end):
            for reply in self.grid.pull_messages([*waiting, *self._past]):
                number = reply.metadata.reply_to_message_id
                if number in waiting:
                    node = waiting.pop(number)
                    yield node, self._read(node, reply, wanted)
                elif number in self._past:
                    self._too_late(*self._past.pop(number), reply)
            _pause(begun)
        self._late = set(waiting.values())
        called = f"round {what.round}" if isinstance(what, Task) else "an invitation"
        self._past |= {number: (node, called) for number, node in waiting.items()}
        for node in waiting.values():
            assert timeout is not None
            yield node, Late(self._called(node), late(timeout))

    def _too_late(self, node: int, called: str, reply: Message) -> None:
        if not reply.has_error():  # that would be Flower's word that nothing comes any more
            log.warning("owner %s: a stale answer, to %s: it is not taken", self._called(node), called)

    def _read(self, node: int, reply: Message, wanted: type[_T]) -> _T | Failure:
        if reply.has_error():
            return Failure(self._called(node), " ".join(str(reply.error.reason).split())[-500:])
        try:
            given = decode(reply.content)
        except Exception as error:  # whatever an owner sends, the round is not its to end
            if not isinstance(error, ValueError):
                log.warning("the answer of owner %s cannot be read", self._called(node), exc_info=True)
            return Failure(self._called(node), one_line(error))
        if isinstance(given, Failure):
            return Failure(self._called(node), given.reason)
        if not isinstance(given, wanted):
            return Failure(self._called(node), f"it answered with a {type(given).__name__}")
        return given

    def _called(self, node: int) -> int | str:
        name = self._names.get(node, "")
        return self._numbers.get(node, f"at node {node} ({name})" if name else f"at node {node}")


def _pause(begun: float) -> None:
    """Wait between two looks: a look is a request to the SuperLink, and takes time from the owners of this host."""
    time.sleep(min(max(_LOOK_SHARE * (time.monotonic() - begun), _LOOK_S[0]), _LOOK_S[1]))


def make_server_app(
    serve: Callable[[Context], Callable[[Link], object]], plan: Callable[[Context], Plan]
) -> ServerApp:
    """Make a ServerApp.

    Args:
        serve: makes of the app's context what does the rounds over a link.
        plan: makes of the context the plan.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        chosen = plan(context)
        serve(context)(FlowerLink(grid, chosen.clients, chosen.wait, chosen.timeout))

    return app


def make_client_app(
    open_client: Callable[[Context], Client],
    mods: list[Mod] | None = None,
    words: Callable[[BaseException], str] = discreet,
) -> ClientApp:
    """Make a ClientApp.

    Args:
        open_client: makes of the app's context the owner; what it raises is the owner's answer.
        mods: of Flower, such as `LocalDpMod`, around every training.
        words: makes of an error what the server is told; by default no more than its kind.
    """
    app = ClientApp()

    def reply(message: Message, context: Context, kind: type[Invitation] | type[Task]) -> Message:
        def done() -> Joined | Update:
            asked = decode(message.content)
            if not isinstance(asked, kind):
                raise ValueError(f"a {type(asked).__name__} where a {kind.__name__} was due")
            client = open_client(context)
            return client.join(asked) if isinstance(asked, Invitation) else client.train(asked)

        return Message(encode(answer(f"at node {context.node_id}", done, words)), reply_to=message)

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        return reply(message, context, Invitation)

    @app.train(mods=mods or [])
    def train(message: Message, context: Context) -> Message:
        return reply(message, context, Task)

    return app


def client_here(plan: Plan, parts: Parts, number: int, folder: Path) -> Client:
    """Return this process's client of an owner, made once.

    Args:
        plan: how the federation goes.
        parts: of the owner.
        number: of the owner, from 0.
        folder: of the owner's files.
    """
    known = _HERE.get(folder)
    if known is None or (known.plan, known.parts, known.number) != (plan, parts, number):
        known = _HERE[folder] = Client(plan, parts, number, folder)
    return known


def simulate(plan: Plan, parts: Parts, folder: Path, serve: Callable[[Link], object]) -> None:
    """Run the clients in Flower's simulation, and the server in this process.

    Args:
        plan: how the federation goes.
        parts: of every owner.
        folder: of the owners' files, a folder each.
        serve: does the rounds over a link.

    Raises:
        ValueError: what the server raises.
    """
    from flwr.simulation import run_simulation

    here, home = os.getcwd(), folder.resolve()

    def open_client(context: Context) -> Client:
        os.chdir(here)  # a config's relative paths start here
        number = int(context.node_config["partition-id"])
        return client_here(plan, parts, number, home / str(number))

    cpus = os.cpu_count() or 1
    # Ray's workers are nicer than all else (15) and stand still beside any other work; here they are the work
    os.environ.setdefault("RAY_worker_niceness", "0")
    logging.getLogger("flwr").setLevel(logging.ERROR)
    # Ray's remark on GPUs for those who ask for none
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    run_simulation(
        server_app=make_server_app(lambda _: serve, lambda _: plan),
        client_app=make_client_app(open_client, words=one_line),  # one machine, one log
        num_supernodes=plan.clients,
        backend_config={
            "client_resources": {"num_cpus": cpus / plan.at_once, "num_gpus": plan.gpus_per_client},
            "init_args": {
                "num_cpus": cpus,
                "include_dashboard": False,
                "log_to_driver": False,
                "configure_logging": False,
            },
        },
    )
