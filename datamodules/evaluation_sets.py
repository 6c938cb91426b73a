"""Sets that a FaceDataModule is given to validate and test on, beside its training set."""

from __future__ import annotations

import os
from copy import copy
from functools import cache

import torch

from datamodules.readers.base import FaceReader
from datamodules.readers.stored import tell_of_stored
from datamodules.same_description import check_same
from datamodules.serving import Served
from datamodules.split import digest
from lightning_app.core.text_file import composed
from lightning_app.desensitize import Desensitizer
from lightning_app.distributed.ranks import agree


class EvaluationSets:
    """The readers of `data.validation` and `data.test`, each opened once.

    Args:
        training: the reader of the training set; it is not looked through here.
        desensitizer: of the data.
        given: `validation`, `test` → reader; None where there is none.

    Raises:
        ValueError: one does not go with the training set.
    """

    def __init__(
        self, training: FaceReader, desensitizer: Desensitizer, given: dict[str, FaceReader | None]
    ) -> None:
        self.readers = {name: reader for name, reader in given.items() if reader is not None}
        self.opened: dict[str, Served] = {}
        for name, reader in self.readers.items():
            _check(f"data.{name}", reader, training, desensitizer)

    def open(self, name: str, classes: list[str], training: FaceReader | None, cache: object) -> Served:
        """Scan a set, number its classes as the training set's, and cache it; every rank comes here.

        Args:
            name: `validation` or `test`; it must be given.
            classes: names of the training set's, in the order of their numbers.
            training: the training set, of which no image may be in this one; None where it is not at hand.
            cache: see `Served.of`.

        Raises:
            FileNotFoundError, ValueError: it cannot be used; the message says why.
        """
        if name not in self.opened:
            what = f"data.{name}"
            reader = with_classes(self.readers[name], classes, what)
            if training is not None:
                check_apart(training, reader, what)
            tell_of_stored(reader, what)
            agree(what, lambda: {"images": len(reader), "order": digest(reader)[:12]})
            self.opened[name] = Served.of(reader, cache, reader.desensitizer() is not None)
        return self.opened[name]


def _check(what: str, reader: FaceReader, training: FaceReader, desensitizer: Desensitizer) -> None:
    if reader.size != training.size:
        raise ValueError(f"{what}: images of {reader.size} px, the training set's have {training.size}")
    if reader.classes_are_people != training.classes_are_people:
        kinds = (
            "people, the training set's are not"
            if reader.classes_are_people
            else "no people, the training set's are"
        )
        raise ValueError(f"{what}: its classes are {kinds}; give sets of one task")
    already, released = reader.desensitizer(), training.desensitizer() is not None
    if already is not None and not released:
        raise ValueError(
            f"{what}: a released set, and the training set is raw: give both raw or both released"
        )
    if already is not None:
        check_same(already, desensitizer, reader.size)


def with_classes(reader: FaceReader, classes: list[str], what: str) -> FaceReader:
    """Number a set's classes as another set does, by their names.

    Args:
        reader: of the set.
        classes: names in the order of their numbers.
        what: the set is called in messages, such as `data.validation`.

    Returns:
        A copy of the reader, with these classes.

    Raises:
        ValueError: it has a class that is not among them.
    """
    number = {composed(name): place for place, name in enumerate(classes)}
    foreign = [name for name in reader.identities if composed(name) not in number]
    if foreign:
        kind = "people" if reader.classes_are_people else f"classes, which are {', '.join(classes[:8])}"
        raise ValueError(
            f"{what}: {len(foreign)} of its {len(reader.identities)} classes are none of the training set's {kind}; "
            f"the first is {foreign[0]!r}"
        )
    found = copy(reader)
    numbers = torch.tensor([number[composed(name)] for name in reader.identities], dtype=torch.int64)
    found.identities, found.labels = classes, numbers[reader.labels]
    return found


def check_apart(training: FaceReader, given: FaceReader, what: str) -> None:
    """Refuse a set of which images are trained on.

    Args:
        training: the training set.
        given: the set to measure on.
        what: it is called, such as `data.validation`.

    Raises:
        ValueError: they have images in common: files of one place, by whatever path it was given, or copies of them
            under the same name within the set.
    """
    place = cache(os.path.realpath)  # of folders, of which there are few

    def of(name: str) -> tuple[str, str]:
        folder, file = os.path.split(name)
        return place(folder), file

    places = {of(given.name(index)) for index in range(len(given))}
    both = [name for index in range(len(training)) if of(name := training.name(index)) in places]
    if both:
        raise ValueError(
            f"{what}: {len(both)} of its {len(given)} images are in the training set too, the first is {both[0]}: give "
            "images that are not trained on"
        )
    names = {given.stable_name(index): index for index in range(len(given))}
    both = [
        training.name(index)
        for index in range(len(training))
        if (other := names.get(training.stable_name(index))) is not None
        and (stored := training.content(index)) != b""
        and stored == given.content(other)
    ]
    if both:
        raise ValueError(
            f"{what}: {len(both)} of its {len(given)} images are copies of such as are trained on, the first of "
            f"{both[0]}: give images that are not trained on"
        )
