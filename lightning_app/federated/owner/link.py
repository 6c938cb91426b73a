"""Clients in this process, one after the other: what tests and studies on a CPU use."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from lightning_app.federated.protocol.messages import (
    Failure,
    Invitation,
    Joined,
    Late,
    Task,
    Update,
    one_line,
)

log = logging.getLogger("faceveil")
_T = TypeVar("_T")


class Owner(Protocol):
    """What a link needs of a client, see `Client`."""

    number: int

    def join(self, invitation: Invitation) -> Joined:
        """Answer an invitation."""
        ...

    def train(self, task: Task) -> Update:
        """Answer a task."""
        ...


class LocalLink:
    """Owners in this process, asked in the order of their numbers.

    Args:
        clients: the owners.
        timeout: seconds for an answer. A client of this process cannot be stopped: one that took longer is left out
            of the round when it has ended.
    """

    def __init__(self, clients: Sequence[Owner], timeout: float | None = None) -> None:
        self.clients, self.timeout = sorted(clients, key=lambda client: client.number), timeout

    def newcomers(self, invitation: Invitation, members: set[int]) -> Iterator[Joined | Failure]:
        """Invite every client that is not a member."""
        for client in self.clients:
            if client.number not in members:
                yield answer(client.number, lambda client=client: client.join(invitation))  # type: ignore[misc]

    def train(self, task: Task, members: set[int]) -> Iterator[Update | Failure]:
        """Let the members train, one after the other."""
        for client in self.clients:
            if client.number not in members:
                continue
            given = answer(client.number, lambda client=client: client.train(task))  # type: ignore[misc]
            if self.timeout is not None and isinstance(given, Update) and given.seconds > self.timeout:
                given = Late(client.number, late(self.timeout))
            yield given


def answer(
    client: int | str, ask: Callable[[], _T], words: Callable[[BaseException], str] = one_line
) -> _T | Failure:
    """Ask a client; whatever goes wrong there is its answer, and the federation goes on.

    Args:
        client: how it is called.
        ask: what it is asked.
        words: makes of an error the reason that the server is given.
    """
    try:
        return ask()
    except Exception as error:  # an owner's failure, of any kind, is the server's to judge
        log.debug("owner %s failed", client, exc_info=True)
        if os.environ.get("FACEVEIL_TRACEBACK"):
            log.exception("owner %s failed", client)
        return Failure(client, words(error))


def late(timeout: float) -> str:
    """Return the message that a client did not answer in time.

    Args:
        timeout: seconds it had.
    """
    return f"no answer within timeout={timeout:g} s"
