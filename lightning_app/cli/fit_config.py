"""What a `fit` config says, read without running it: the data, who verifies, and what decides the metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser

from callbacks.verification import LFWVerification
from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader
from lightning_app.cli.app import FaceVeilCLI
from lightning_app.cli.configs import find_config
from lightning_app.cli.parse_error import the_reason
from lightning_app.cli.places import FILES
from lightning_app.core.foreign import read_yaml
from lightning_app.core.printing import reason
from lightning_app.desensitize import Desensitizer
from lightning_app.models.known import make_known, named_classes

_DECISIVE = ("max_epochs", "max_steps")  # of the trainer; the rest is where and how fast
_IDLE = ("num_workers", "cache")  # of the data: how fast, not what
_VERIFIERS = ("callbacks.LFWVerification", "callbacks.verification.LFWVerification")
_WHEN = ("every_n_epochs", "batch_size")  # of the verification: when and how fast, not what


@dataclass(frozen=True)
class FitSettings:
    """One `fit`, read.

    Attributes:
        data: the DataModule, not yet set up.
        verification: the callback that verifies; None where the config has none.
        description: what decides the metrics of the run, JSON-able: seed, epochs, model, data.
        desensitizer: `class_path` and `init_args`, as a config has them; None where nothing is hidden.
        measured: what decides the metrics of a recogniser that is there, JSON-able: who verifies, on what pixels.
        classes: every `class_path` the config names.
        verifier: `class_path` of `verification` where that is a class of the user's own; else empty.
        model: what would be trained, as it is made; its head has no classes yet.
    """

    data: FaceDataModule
    verification: LFWVerification | None
    description: dict[str, Any]
    desensitizer: dict[str, Any] | None
    measured: dict[str, Any]
    classes: frozenset[str] = frozenset()
    verifier: str = ""
    model: L.LightningModule | None = None


class _Parsed(FaceVeilCLI):
    """A command line of `fit`, parsed; nothing is made of it."""

    def before_instantiate_classes(self) -> None:
        """Leave run folders alone."""

    def instantiate_classes(self) -> None:
        """Keep what was read, and from which files."""
        self.files = tuple(FILES.read)
        self.plain = self.parser.dump(self.config, format="json", skip_unset=False, skip_validation=True)


# a comparison asks for one command line up to five times, and parsing is most of reading it
@lru_cache(maxsize=64)
def _parsed(folder: str, args: tuple[str, ...], contents: tuple[bytes, ...]) -> _Parsed:
    """Parse a command line of `fit`; `folder` is the one that relative paths begin in, `contents` the files'."""
    return _Parsed(
        L.LightningModule, L.LightningDataModule, save_config_callback=None, subclass_mode_model=True,
        subclass_mode_data=True, auto_configure_optimizers=False, seed_everything_default=0, run=False,
        args=list(args), parser_kwargs={"exit_on_error": False},
    )  # fmt: skip


def _contents(args: Sequence[str]) -> Iterator[bytes]:
    """Yield a digest of every file that a parser may read: configs, and values that are in a file of their own."""
    for before, arg in zip(("", *args), args, strict=False):
        option, _, value = arg.rpartition("=")
        is_config = before in ("-c", "--config") or option == "--config"
        path = find_config(value) if is_config else Path(value)
        if is_config or (path.suffix in (".yaml", ".yml", ".json") and path.is_file()):
            yield hashlib.sha256(path.read_bytes()).digest()


def read_trainer(args: Sequence[str]) -> dict[str, Any]:
    """Read what `fit` would give the trainer, from configs and overrides of any form; nothing is made of it.

    Args:
        args: the command line after `fit`: `--config NAME.yaml` and overrides.

    Returns:
        Its arguments, JSON-able, those that nobody gives with their defaults.

    Raises:
        FileNotFoundError: a config is not there.
        ValueError: an argument or value is wrong.
    """
    try:
        with _quietly():
            read = _parsed(os.getcwd(), tuple(args), tuple(_contents(args)))
    except ArgumentError as error:
        raise ValueError(FILES.place(str(error)) + the_reason(str(error))) from error
    except (ValueError, OSError) as error:
        raise ValueError(reason(error)) from error
    trainer: dict[str, Any] = json.loads(read.plain)["trainer"]
    return trainer


def read_fit_settings(args: Sequence[str]) -> FitSettings:
    """Read what `fit` would be run with.

    Args:
        args: the command line after `fit`: `--config NAME.yaml` and overrides.

    Raises:
        FileNotFoundError: a config or a file it names is not there.
        ValueError: an argument or value is wrong, or the data is not a FaceDataModule.
    """
    try:
        with _quietly():
            read = _parsed(os.getcwd(), tuple(args), tuple(_contents(args)))
            FILES.read = list(read.files)
            read._set_seed()  # as the parser of another command line would
            made = read.parser.instantiate(read.config)
    except ArgumentError as error:
        raise ValueError(FILES.place(str(error)) + the_reason(str(error))) from error
    except (ValueError, OSError) as error:  # jsonargparse wraps what a class refused in what it was tried as
        raise ValueError(reason(error)) from error
    data = made.data
    if not isinstance(data, FaceDataModule):
        raise ValueError(
            f"{' '.join(args)}: data is a {type(data).__name__}; give a datamodules.FaceDataModule"
        )
    callbacks = made.trainer.callbacks or []
    watching = _listed(callbacks)
    verifying = [c for c in watching if isinstance(c, LFWVerification)]
    plain = json.loads(read.plain)
    verifier = ""
    if verifying and type(verifying[0]) is not LFWVerification:
        named = _listed(plain["trainer"]["callbacks"])[watching.index(verifying[0])]
        verifier = str(named["class_path"])
    return FitSettings(
        data=data,
        verification=verifying[0] if verifying else None,
        description=_decisive(plain),
        desensitizer=plain["data"]["init_args"].get("desensitizer"),
        measured=_measured(plain, verifier),
        verifier=verifier,
        classes=frozenset(named_classes(plain)),
        model=made.model,
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep Lightning from telling of the seed, and from warning of arguments beside the command line's own."""
    own, disabled = sys.argv, logging.root.manager.disable
    sys.argv = own[:1]
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        sys.argv = own
        logging.disable(disabled)


def saved_fit_settings(run: Path) -> dict[str, Any] | None:
    """Read what decided the metrics of a run that is there; None where its folder has no config.

    Args:
        run: the run's folder.

    Raises:
        ValueError: its config is damaged.
    """
    config = _saved(run)
    return None if config is None else _taken(_decisive, config, run)


def saved_measured(run: Path, verifier: str = "") -> dict[str, Any] | None:
    """Read what decided the metrics that a run's recogniser got; None where its folder has no config, or no verifier.

    Args:
        run: the run's folder.
        verifier: `class_path` of a `callbacks.LFWVerification` of the user's own, see `FitSettings`.

    Raises:
        ValueError: its config is damaged.
    """
    config = _saved(run)
    found = None if config is None else _taken(partial(_measured, own=verifier), config, run)
    return found if found is not None and found["verification"] else None


def _saved(run: Path) -> Any:
    """Read a run's `config.yaml`, which may be somebody else's; None where there is none."""
    config = run / "config.yaml"
    return read_yaml(config) if config.is_file() else None


def _taken(what: Callable[[Any], dict[str, Any]], config: Any, run: Path) -> dict[str, Any]:
    try:
        return what(config)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{run / 'config.yaml'} is not the config of a run ({error!r}); move it away"
        ) from error


def make_reader(part: object) -> FaceReader:
    """Make a reader as a config describes it.

    Args:
        part: `class_path` and `init_args`.

    Raises:
        FileNotFoundError, ValueError: it cannot be made; the message says why.
    """
    made: FaceReader = make_part("reader", FaceReader, part)
    return made


def make_desensitizer(part: object) -> Desensitizer:
    """Make a desensitizer as a config describes it.

    Args:
        part: `class_path` and `init_args`.

    Raises:
        FileNotFoundError, ValueError: it cannot be made; the message says why.
    """
    made: Desensitizer = make_part("desensitizer", Desensitizer, part)
    return made


def make_part(name: str, kind: object, part: object) -> Any:
    """Make what a config of the user's own describes.

    Args:
        name: what it is, for messages.
        kind: its base class.
        part: `class_path` and `init_args`.

    Raises:
        OSError, ValueError: it cannot be made; the message says why.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    try:
        return parser.instantiate(parser.parse_object({name: part}))[name]
    except ArgumentError as error:
        raise ValueError(the_reason(str(error))) from error


def saved_reader(run: Path, trust: Collection[str] = ()) -> FaceReader:
    """Make the reader that a run was trained with; its folder may be somebody else's, and no code of its runs.

    Args:
        run: the run's folder.
        trust: class paths that may be imported, beside our own and those of `trusting`.

    Raises:
        FileNotFoundError, ValueError: its config is not there, names a class that is neither ours nor trusted, or
            the reader cannot be made.
    """
    config = run / "config.yaml"
    saved = _saved(run)
    if saved is None:
        raise FileNotFoundError(f"{config} is not there")
    part = _taken(lambda found: {"reader": found["data"]["init_args"]["reader"]}, saved, run)["reader"]
    return make_known(part, FaceReader, f"{config}: data.reader", trust)  # type: ignore[type-abstract]


def difference(made: dict[str, Any], wanted: dict[str, Any], path: str = "") -> str | None:
    """Return the first setting in which two runs differ, with both values; None where they agree.

    A setting that only one of them knows does not count: it came with another version of FaceVeil.

    Args:
        made: `FitSettings.description` of the one that is there.
        wanted: of the one asked for.
        path: what stands before the setting's name.
    """
    for key in sorted({*made} & {*wanted}):
        theirs, ours = made[key], wanted[key]
        if isinstance(theirs, dict) and isinstance(ours, dict):
            found = difference(theirs, ours, f"{path}{key}.")
            if found is not None:
                return found
        elif theirs != ours:
            return f"{path}{key} is {_short(theirs)}, not {_short(ours)}"
    return None


def decisive_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a DataModule's config what only decides how fast it reads.

    Args:
        data: `class_path` and `init_args`.
    """
    arguments = {key: value for key, value in data["init_args"].items() if key not in _IDLE}
    return {**data, "init_args": arguments}


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed_everything": config["seed_everything"],
        "trainer": {key: config["trainer"].get(key) for key in _DECISIVE},
        "model": config["model"],
        "data": decisive_data(config["data"]),
    }


def _measured(config: dict[str, Any], own: str = "") -> dict[str, Any]:
    """Return what decides a recogniser's metrics; `own` is the class of the user's that verifies, where one does."""
    paths = (own,) if own else _VERIFIERS
    verifying = [
        (callback.get("init_args") or {}) | ({"class_path": own} if own else {})
        for callback in _listed(config["trainer"].get("callbacks") or [])
        if callback["class_path"] in paths
    ]
    data = config["data"].get("init_args") or {}
    reader = (data.get("reader") or {}).get("init_args") or {}
    first = verifying[0] if verifying else {}
    return {
        "verification": {key: value for key, value in first.items() if key not in _WHEN},
        "pixels": {key: data.get(key) for key in ("mean", "std")}
        | {key: reader.get(key) for key in ("size", "crop")},
        "precision": config["trainer"].get("precision"),
    }


def _listed(callbacks: Any) -> list[Any]:
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
