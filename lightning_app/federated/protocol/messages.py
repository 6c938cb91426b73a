"""What the server and its clients say to each other, whatever carries it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor

log = logging.getLogger("faceveil")
Weights: TypeAlias = dict[str, Tensor]
_LINE = 500  # characters of a reason


@dataclass(frozen=True)
class Invitation:
    """What a client is told before its first round: the mask, and what all have to do alike.

    Attributes:
        run: 16 hexadecimal digits that name this federation; a client keeps its files under it.
        rounds: of the whole federation; the learning rate's schedule spans them.
        local_epochs: epochs of a client's own images per round.
        private_heads: every client keeps a classification head of its own, which never travels.
        seed: of the orders of images and of private heads.
        mask: `[1,H,W]` uint8, 1 = visible; None where the images are not desensitized by one shared mask.
        mask_hash: of the mask (`mask_hash`), or of the description of another desensitizer.
    """

    run: str
    rounds: int
    local_epochs: int
    private_heads: bool
    seed: int
    mask: Tensor | None
    mask_hash: str


@dataclass(frozen=True)
class Joined:
    """What a client answers to an invitation.

    Attributes:
        client: its number, from 0.
        images: it has to train on.
        identities: among them where heads are private, else of the classes all owners share.
        classes_hash: SHA-256 of the shared classes' names in order; empty where heads are private.
        model_hash: SHA-256 of the model's class and settings.
        mask_hash: of what its images are desensitized with, measured by the client.
    """

    client: int
    images: int
    identities: int
    classes_hash: str
    model_hash: str
    mask_hash: str


@dataclass(frozen=True)
class Task:
    """What a client is told in a round.

    Attributes:
        run: names the federation, as in its invitation.
        round: its number, from 1.
        mask_hash: what the client's has to be.
        weights: the global ones.
    """

    run: str
    round: int
    mask_hash: str
    weights: Weights


@dataclass(frozen=True)
class Update:
    """What a client answers to a task.

    Attributes:
        client: its number.
        round: the round it trained for.
        mask_hash: of what its images were desensitized with, measured by the client.
        images: seen in the round, repetitions counted.
        batches: seen in the round.
        loss: mean of the round's last epoch, in nats.
        lr: learning rate of the round's last step.
        seconds: of its own training.
        weights: its own after the round.
    """

    client: int
    round: int
    mask_hash: str
    images: int
    batches: int
    loss: float
    lr: float
    seconds: float
    weights: Weights


@dataclass(frozen=True)
class Failure:
    """In the place of an answer.

    Attributes:
        client: its number, or how it is called where the number is not known.
        reason: in one line; what comes from elsewhere is made one (`plain`).
    """

    client: int | str
    reason: str

    def __post_init__(self) -> None:
        """Make the reason fit for a log."""
        object.__setattr__(self, "reason", plain(self.reason))


@dataclass(frozen=True)
class Late(Failure):
    """A client that was asked and has not answered in time; it may still be at it."""


@dataclass(frozen=True)
class Unreached(Failure):
    """A client that could not be asked: nothing was sent to it."""


class Refusal(ValueError):
    """An owner's no to the server, in words that name no file and no person: they may leave the house."""


class Link(Protocol):
    """How the server reaches its clients."""

    def newcomers(self, invitation: Invitation, members: set[int]) -> Iterator[Joined | Failure]:
        """Invite every client that is not a member, and give the answers as they come."""
        ...

    def train(self, task: Task, members: set[int]) -> Iterator[Update | Failure]:
        """Send a task to the members and give the answers as they come, one for each, `Late` and `Unreached` too."""
        ...


def one_line(error: BaseException) -> str:
    """Return an error in one line: its class, and what it says."""
    return plain(f"{type(error).__name__}: {error}")


def discreet(error: BaseException) -> str:
    """Return an owner's error for a server elsewhere: of all but a `Refusal` the kind alone.

    What readers and the system say of an error names files, and with them people. The owner's own log has all of it.

    Args:
        error: of the owner.
    """
    if isinstance(error, Refusal):
        return one_line(error)
    log.error("The server is told of this no more than its kind: %s", one_line(error))
    why = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {f'{why}; ' if why else ''}its words are in the owner's own log"


def plain(text: str) -> str:
    """Make a text that others wrote fit for a log: one line of printable characters, 500 at most.

    Args:
        text: as it came.
    """
    # four times as much is looked at, so that a text of megabytes costs nothing
    line = " ".join(text[: 4 * _LINE].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_LINE]
