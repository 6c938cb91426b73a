"""Names of classes in a release held against the raw set: a name is a text, and a text may carry a message."""

from __future__ import annotations

from collections.abc import Iterator

from datamodules.readers.base import FaceReader
from lightning_app.release.format.classes import public_classes
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.pseudonyms import Pseudonyms


def class_names_faults(manifest: Manifest, reader: FaceReader, pseudonyms: Pseudonyms) -> Iterator[str]:
    """Yield what of a manifest's classes is not the raw set's.

    Args:
        manifest: of the release.
        reader: the raw set, as `desensitize` read it.
        pseudonyms: the owner's.
    """
    if manifest.classes is None:
        return
    if reader.classes_are_people:
        yield "it names classes, and those of the raw set are people"
        return
    names = public_classes(reader.identities) or {}
    wanted = {pseudonyms.identity(name): public for name, public in names.items()}
    if not manifest.classes.items() <= wanted.items():
        yield "its classes are called otherwise than those of the raw set"
