"""Names of the classes of a task in a release, such as emotions: a closed form, for what is no person's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from lightning_app.release.format.pseudonyms import DIGITS

MOST = 256  # classes that have names
_NAME = re.compile(r"[a-z][a-z0-9]{0,23}(_[a-z0-9]{1,23}){0,3}")
_PSEUDONYM = re.compile(rf"[0-9a-f]{{{DIGITS}}}")
# of FER-2013, FER+ and CelebA: known to name nobody
KNOWN = frozenset({
    "anger", "angry", "contempt", "disgust", "fear", "happiness", "happy", "neutral", "sad", "sadness", "surprise",
    "bald", "black_hair", "blond_hair", "brown_hair", "gray_hair", "female", "male", "no", "yes",
})  # fmt: skip


def is_class_name(name: str) -> bool:
    """Return whether a class may be called so in a manifest: small letters, digits, `_` between words."""
    return _NAME.fullmatch(name) is not None


def public_name(name: str) -> str:
    """Bring the name of a class to the form that a manifest has: `Black_Hair` to `black_hair`."""
    return re.sub(r"[ _-]+", "_", name.strip().lower())


def public_classes(names: Iterable[str]) -> dict[str, str] | None:
    """Bring the names of classes to the form that a manifest has.

    Args:
        names: as the reader gives them.

    Returns:
        Name -> public name; None where one cannot be brought to it, two become the same, or there are too many.
    """
    found = {name: public_name(name) for name in names}
    fits = all(map(is_class_name, found.values())) and len(set(found.values())) == len(found) <= MOST
    return found if fits else None


def class_faults(classes: Mapping[str, str] | None, identities: int) -> Iterator[str]:
    """Yield what is wrong with the classes of a manifest; what is odd is not shown, it may be a name.

    Args:
        classes: pseudonym -> name; None of people.
        identities: how many folders, or people in shards, there are.
    """
    if classes is None:
        return
    if not all(_PSEUDONYM.fullmatch(key) for key in classes):
        yield "classes has a key that is no pseudonym"
    if not all(map(is_class_name, classes.values())) or len(classes) > MOST:
        yield f"classes has a name that is none (small letters, digits, _), or more than {MOST} of them"
    if len(set(classes.values())) != len(classes) or len(classes) != identities:
        yield "classes has a name twice, or another number of classes than there are"


def unknown(classes: Mapping[str, str] | None) -> int:
    """Count the names that are none of the tasks known here: only their owner can tell that they name nobody."""
    return 0 if classes is None else sum(name not in KNOWN for name in classes.values())
