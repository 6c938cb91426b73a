"""Which class a name in somebody else's file may stand for: one of ours, or one that the user trusts by name.

A `class_path` is a piece of code: to import it runs it. So one is only ever taken from a config that the user named.
What a checkpoint or a run's folder calls a class is looked up in the tables here, and nothing is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import datamodules
from datamodules.readers.base import FaceReader
from lightning_app.desensitize import OURS, Desensitizer
from lightning_app.models.base import Recogniser
from lightning_app.networks import Backbone, Head
from lightning_app.networks.backbones import BACKBONES
from lightning_app.networks.heads import HEADS

_T = TypeVar("_T")


class Untrusted(ValueError):
    """Somebody else's file names a class that is neither ours nor trusted; the message says how to trust it."""


READERS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        datamodules.BinFaces, datamodules.CelebAFaces, datamodules.ClassFolders, datamodules.DrawnFaces,
        datamodules.DrawnPairs, datamodules.FERFaces, datamodules.FolderFaces, datamodules.PairFaces,
        datamodules.RecordIOFaces, datamodules.ReleasedFaces, datamodules.ReleasedPairs,
    )
}  # fmt: skip
DESENSITIZERS: dict[str, type[Any]] = dict(OURS)
MODELS: dict[str, type[Any]] = {}  # filled by `lightning_app.models`: one of them reads checkpoints itself
OTHERS: dict[str, type[Any]] = {datamodules.FaceDataModule.__name__: datamodules.FaceDataModule}
_TABLES: list[tuple[type[Any], dict[str, type[Any]]]] = [
    (FaceReader, READERS), (Desensitizer, DESENSITIZERS), (Recogniser, MODELS), (Head, HEADS), (Backbone, BACKBONES),
]  # fmt: skip


def add_known(base: type[Any], *kinds: type[Any]) -> None:
    """Add classes of ours from a room above this one, such as judges.

    Args:
        base: what they are.
        *kinds: the classes.
    """
    _TABLES.append((base, {kind.__name__: kind for kind in kinds}))


_TRUSTED: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@contextmanager
def trusting(class_paths: Collection[str]) -> Iterator[None]:
    """Let these classes be imported where a file beside a checkpoint, or the checkpoint, names them.

    Args:
        class_paths: such as `my_package.MyReader`; their code runs.
    """
    token = _TRUSTED.set(_TRUSTED.get() | frozenset(class_paths))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def ours(class_path: str) -> type[Any] | None:
    """Return a class of ours by its path; nothing is imported.

    Args:
        class_path: such as `datamodules.FolderFaces` or `datamodules.readers.folder.FolderFaces`.

    Returns:
        The class; None where it is none of ours.
    """
    package, _, name = class_path.rpartition(".")
    for table in (*(table for _, table in _TABLES), OTHERS):
        kind = table.get(name)
        # another package may have a class of that name
        if kind is not None and package in _packages(kind):
            return kind
    return None


def _packages(kind: type[Any]) -> set[str]:
    parts = kind.__module__.split(".")
    return {".".join(parts[: at + 1]) for at in range(len(parts))}


def known_class(class_path: str, base: type[_T], where: str, trust: Collection[str] = ()) -> type[_T]:
    """Return the class that somebody else's file names: one of ours, or one that is trusted; else it is not imported.

    Args:
        class_path: as the file has it.
        base: what it must be a subclass of.
        where: it was found, for messages.
        trust: class paths that may be imported, beside those of `trusting`.

    Raises:
        Untrusted: it is neither ours nor trusted.
        ValueError: it is not there, or is no `base`.
    """
    kind = ours(class_path)
    if kind is None and class_path in _TRUSTED.get().union(trust):
        kind = _imported(class_path, where)
    if kind is None:
        raise Untrusted(
            f"{where}: names the class {class_path!r}, which is none of FaceVeil's: not imported, for that would run "
            f'its code. Where you know it, give --trust {class_path} (in Python trust=["{class_path}"])'
        )
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(f"{where}: class_path {class_path!r} is no {base.__name__}")
    return kind


def make_known(part: object, base: type[_T], where: str, trust: Collection[str] = ()) -> _T:
    """Make what somebody else's file describes, of our own classes and of those that are trusted.

    Args:
        part: `class_path` and `init_args`; arguments may be such parts again.
        base: what it must be.
        where: the part was found, for messages.
        trust: class paths that may be imported, beside those of `trusting`.

    Raises:
        Untrusted: it names a class that is neither ours nor trusted.
        ValueError: it is no `base`, or cannot be made so.
        OSError: what it names is not there.
    """
    maker = known_maker(part, base, where, trust)
    try:
        return maker()
    except (TypeError, AttributeError, LookupError) as error:
        path = f"{maker.func.__module__}.{maker.func.__qualname__}"
        raise ValueError(f"{where}: {path} cannot be made of its init_args ({error})") from error


def known_maker(part: object, base: type[_T], where: str, trust: Collection[str] = ()) -> partial[_T]:
    """Return what makes the part that somebody else's file describes; as `make_known`, but nothing is made yet.

    Args:
        part: see `make_known`.
        base: likewise.
        where: likewise.
        trust: likewise.

    Returns:
        The class with its arguments; it takes further ones before them.

    Raises:
        Untrusted, ValueError: as `make_known`.
    """
    if not isinstance(part, Mapping) or not isinstance(part.get("class_path"), str):
        raise ValueError(f"{where}: describes no {base.__name__} (a class_path is needed)")
    path = part["class_path"]
    kind = known_class(path, base, where, trust)
    given = part.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: init_args of {path} are no mapping")
    return partial(kind, **{key: _argument(value, f"{where}, {key}", trust) for key, value in given.items()})


def _argument(value: object, where: str, trust: Collection[str]) -> object:
    if isinstance(value, list):  # of steps, say
        return [_argument(one, where, trust) for one in value]
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    path = str(value["class_path"])
    kind = ours(path)
    base = next((base for base, table in _TABLES if kind in table.values()), object)
    return make_known(value, base, where, trust)


def _imported(class_path: str, where: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: --trust {class_path}: no such class ({error})") from error


def named_classes(config: object) -> set[str]:
    """Collect the class paths that a config names: what stands in a config of the user's own is trusted.

    Args:
        config: plain values.
    """
    if isinstance(config, Mapping):
        own = config.get("class_path")
        found = {own} if isinstance(own, str) else set()
        return found.union(*(named_classes(value) for value in config.values()))
    if isinstance(config, (list, tuple)):
        return set().union(*(named_classes(value) for value in config))
    return set()
