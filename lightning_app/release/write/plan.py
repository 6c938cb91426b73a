"""Which image becomes which file of a release, in an order that says nothing."""

from __future__ import annotations

import hashlib
import logging

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.base import FaceReader
from lightning_app.release.format.classes import public_classes
from lightning_app.release.format.names import image_file
from lightning_app.release.format.pseudonyms import DIGITS, Pseudonyms
from lightning_app.release.format.tensors import shard_file

log = logging.getLogger("faceveil")
_BYTES = DIGITS // 2  # of a pseudonym


class ReleasePlan:
    """Pseudonyms of a whole set, sorted: the order in which images are made and written.

    It is the files' own order, so that neither their inodes nor an archive's order tell the raw one.
    Takes 28 bytes an image.

    Args:
        reader: the raw set, looked through.
        pseudonyms: the owner's.

    Raises:
        ValueError: two images get one pseudonym.
    """

    def __init__(self, reader: FaceReader, pseudonyms: Pseudonyms) -> None:
        people = [bytes.fromhex(pseudonyms.identity(name)) for name in reader.identities]
        labels = reader.labels.tolist()
        packed = bytearray()
        self._people = people
        for index, label in enumerate(labels):
            image = pseudonyms.image(reader.identities[label], reader.stable_name(index))
            packed += self._packed(people[label], bytes.fromhex(image))
        names = np.frombuffer(bytes(packed), dtype=f"S{2 * _BYTES}")
        self.order: NDArray[np.int64] = np.argsort(names, kind="stable")
        names = names[self.order]
        if len(set(people)) < len(people) or bool((names[1:] == names[:-1]).any()):
            raise ValueError(
                "two identities or images of the set get one pseudonym: their names are equal, or the key is unlucky; "
                "give another --key file"
            )
        self._names = names.view(np.uint8).reshape(-1, 2 * _BYTES)

    @staticmethod
    def _packed(person: bytes, image: bytes) -> bytes:
        """Join two pseudonyms to what images are sorted by."""
        return person + image

    def __len__(self) -> int:
        return len(self.order)

    def index(self, place: int) -> int:
        """Return which position in the reader the image at this place of the release has."""
        return int(self.order[place])

    def file(self, place: int) -> str:
        """Return the path in the release of the image at this place."""
        name = self._names[place].tobytes().hex()
        return image_file(name[:DIGITS], name[DIGITS:])

    def label(self, place: int) -> str:
        """Return how the owner's table names the image at this place: its path in the release."""
        return self.file(place)

    def person(self, label: int) -> str:
        """Return the pseudonym of a class."""
        return self._people[label].hex()

    @property
    def hash(self) -> str:
        """SHA-256 of all pseudonyms: changes with the key and with the images of the set."""
        return hashlib.sha256(self._names.tobytes()).hexdigest()


def released_classes(reader: FaceReader, plan: ReleasePlan) -> dict[str, str] | None:
    """Return what a manifest says of the classes of a task: pseudonym -> name; None where they are people.

    Args:
        reader: the raw set, looked through.
        plan: its own.
    """
    if reader.classes_are_people:
        return None
    names = public_classes(reader.identities)
    if names is None:
        log.warning(
            "The names of the %d classes do not fit a manifest (small letters, digits and _, 256 classes at most): "
            "the release has pseudonyms in their place.", len(reader.identities),
        )  # fmt: skip
        return None
    return {plan.person(label): names[name] for label, name in enumerate(reader.identities)}


class ShardPlan(ReleasePlan):
    """The same for a release of representations: by the image's pseudonym alone, so many to a shard.

    So a shard holds images of many people, in an order that is as good as drawn: what is mixed is mixed with anybody's,
    and a shard tells nothing by itself of how many images somebody has.

    Args:
        reader: the raw set, looked through.
        pseudonyms: the owner's.
        rows: images of a shard.
    """

    def __init__(self, reader: FaceReader, pseudonyms: Pseudonyms, rows: int) -> None:
        super().__init__(reader, pseudonyms)
        self.rows = rows
        self._shards = max(1, -(-len(self) // rows))
        images = self._names[:, :_BYTES]
        if bool((images[1:] == images[:-1]).all(axis=1).any()):
            raise ValueError(
                "two images of the set get one pseudonym: the key is unlucky; give another --key file"
            )

    @staticmethod
    def _packed(person: bytes, image: bytes) -> bytes:
        return image + person

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return self._shards

    def places(self, shard: int) -> range:
        """Return the places of a shard's images; all shards have as many, or one more."""
        count = len(self)
        return range(shard * count // self._shards, (shard + 1) * count // self._shards)

    def file(self, place: int) -> str:
        """Return the shard of the image at this place."""
        return shard_file(((place + 1) * self._shards - 1) // len(self))

    def label(self, place: int) -> str:
        """Return the pseudonyms of the image at this place: identity/image."""
        name = self._names[place].tobytes().hex()
        return f"{name[DIGITS:]}/{name[:DIGITS]}"

    def name(self, place: int) -> NDArray[np.uint8]:
        """Return the pseudonym of the image at this place, `[10]`."""
        return self._names[place, :_BYTES]

    def people(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pseudonyms of classes.

        Args:
            labels: class indices of the reader, of any shape.

        Returns:
            uint8 of that shape and 10 more.
        """
        table = np.frombuffer(b"".join(self._people), np.uint8).reshape(-1, _BYTES)
        return table[labels]
