"""Which image becomes which file of a release, in an order that says nothing."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from datamodules.readers.base import FaceReader
from lightning_app.release.format.manifest import image_file
from lightning_app.release.format.pseudonyms import DIGITS, Pseudonyms

_BYTES = DIGITS // 2  # of a pseudonym


class Plan:
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
        for index, label in enumerate(labels):
            image = pseudonyms.image(reader.identities[label], reader.stable_name(index))
            packed += people[label] + bytes.fromhex(image)
        names = np.frombuffer(bytes(packed), dtype=f"S{2 * _BYTES}")
        self.order: NDArray[np.int64] = np.argsort(names, kind="stable")
        names = names[self.order]
        if len(set(people)) < len(people) or bool((names[1:] == names[:-1]).any()):
            raise ValueError(
                "two identities or images of the set get one pseudonym: their names are equal, or the key is unlucky; "
                "give another --key file"
            )
        self._names = names.view(np.uint8).reshape(-1, 2 * _BYTES)

    def __len__(self) -> int:
        return len(self.order)

    def index(self, place: int) -> int:
        """Tell which position in the reader the image at this place of the release has."""
        return int(self.order[place])

    def file(self, place: int) -> str:
        """Tell the path in the release of the image at this place."""
        name = self._names[place].tobytes().hex()
        return image_file(name[:DIGITS], name[DIGITS:])

    @property
    def hash(self) -> str:
        """SHA-256 of all pseudonyms: changes with the key and with the images of the set."""
        return hashlib.sha256(self._names.tobytes()).hexdigest()
