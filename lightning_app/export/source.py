"""What a run's folder tells of its recogniser beside the checkpoint: data, metrics, on whom they were measured."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.same_description import earlier_desensitizers
from datamodules.verification.readers import read_pairs
from lightning_app.core.files import file_sha256
from lightning_app.core.foreign import read_json, read_yaml
from lightning_app.desensitize import is_clean
from lightning_app.models.checkpoints import CheckpointFacts
from lightning_app.report.tables import read_metrics
from lightning_app.report.trained import read_trained
from lightning_app.runs.folder import RECORD

log = logging.getLogger("faceveil")
_NOT_METRICS = (
    "time/",
    "memory/",
    "run/",
    "train/lr",
    "federated/",
)  # of the machine, and of how it was trained


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder, read.

    Attributes:
        folder: the folder; None where the checkpoint lies in none.
        config: its `config.yaml`; empty where there is none.
        metrics: log key → value, of its `metrics.json`; empty where they are of other weights.
        epochs: trained.
        federation: of several owners: `owners`, `partition`, `local_epochs` of a round, and, where the metrics are of
            these weights, `rounds` and `images` trained on in all of them; None where one owner trained.
    """

    folder: Path | None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int | None = None
    federation: dict[str, Any] | None = None


def read_run(checkpoint: str | Path, facts: CheckpointFacts) -> TrainedRun:
    """Read what lies beside a checkpoint.

    Args:
        checkpoint: as the user gave it: a run's folder or a file.
        facts: of the checkpoint.

    Raises:
        ValueError: the config, the metrics or a federation's record are no YAML or JSON.
    """
    given = Path(checkpoint)
    inside = facts.path.parent.name == "checkpoints"
    folder = given if given.is_dir() else facts.path.parent.parent if inside else None
    if folder is None:
        return TrainedRun(None)
    config: Any = None
    if (folder / "config.yaml").is_file():
        try:
            config = read_yaml(folder / "config.yaml")
        except ValueError as error:
            raise ValueError(f"{error}; move it away") from error
    parts = ("data", "trainer", "model")
    config = config if isinstance(config, dict) else {}
    config = {key: value for key, value in config.items() if key not in parts or isinstance(value, dict)}
    federation = _federation(folder / RECORD)
    if not (folder / "metrics.json").is_file():
        return TrainedRun(folder, config, federation=federation)
    written = read_trained(folder) or read_metrics(folder / "metrics.json")
    steps = written.get("run/steps")
    if steps is not None and steps != facts.step:
        log.warning("%s is of step %s, the checkpoint of step %d: the card gives no metrics.",
                    folder / "metrics.json", steps, facts.step)  # fmt: skip
        return TrainedRun(folder, config, federation=federation)
    metrics = {
        key: float(value)
        for key, value in written.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not key.startswith(_NOT_METRICS)
    }
    epochs = written.get("run/epochs")
    if federation is not None:
        federation |= {key: written.get(f"federated/{key}") for key in ("rounds", "images")}
    known = int(epochs) if isinstance(epochs, int | float) and math.isfinite(epochs) else None
    return TrainedRun(folder, config, metrics, known, federation)


def normalisation(
    facts: CheckpointFacts, run: TrainedRun, mean: float | None, std: float | None
) -> tuple[float, float]:
    """Return what was subtracted from the pixels in training, and what they were divided by.

    Args:
        facts: of the checkpoint, which knows since FaceVeil writes it down.
        run: whose config knows, where the checkpoint does not.
        mean: the user's.
        std: the user's.

    Raises:
        ValueError: nobody knows, or the user's are others.
    """
    settings = _arguments(run.config.get("data"))
    found = []
    for name, given in (("mean", mean), ("std", std)):
        known = facts.data.get(name, settings.get(name))
        if known is not None and not isinstance(known, int | float):
            raise ValueError(
                f"checkpoint {facts.path}: the config beside it gives {name}={str(known)[:80]!r}: mend it"
            )
        value = given if known is None else float(known)
        if value is None:
            raise ValueError(
                f"checkpoint {facts.path}: does not tell how its images were normalised: give --mean and --std, those "
                "of its data (FaceDataModule's are 0.5 and 0.5)"
            )
        if given is not None and value != given:
            raise ValueError(f"--{name} {given}: the model was trained with {value}; leave --{name} out")
        found.append(value)
    if found[1] <= 0:
        raise ValueError(f"--std {found[1]}: give a positive number")
    return found[0], found[1]


def training_data(facts: CheckpointFacts, run: TrainedRun) -> dict[str, Any]:
    """Describe the training set in numbers; None where they are not known.

    Args:
        facts: of the checkpoint.
        run: of the same.

    Returns:
        `images`, `identities`, `held_out`, `epochs`, `steps`, `precision`, `reader` (its class), `crop`,
        `federation` (see `Run`), `origins` (see `CheckpointFacts`), `earlier_desensitizers`: descriptions of others
        than the checkpoint's that the run trained under before, that of clean faces first.
    """
    split = facts.data.get("split") or {}
    reader = _arguments(run.config.get("data")).get("reader")
    crop = _arguments(reader).get("crop")
    images, held_out = split.get("images"), split.get("held_out")
    return {
        "images": None if images is None or held_out is None else images - held_out,
        "identities": facts.data.get("num_classes"),
        "held_out": held_out,
        "epochs": run.epochs,
        "steps": facts.step,
        "precision": (run.config.get("trainer") or {}).get("precision"),
        "reader": _class_name(reader),
        "crop": crop if _is_crop(crop) else None,
        "federation": run.federation,
        "origins": facts.origins,
        "earlier_desensitizers": sorted(earlier_desensitizers(facts.data), key=lambda one: not is_clean(one)),
    }


def measured_on(run: TrainedRun) -> list[dict[str, Any]]:
    """Describe the sets that the run was verified on, without a name of anybody.

    Args:
        run: whose config names them.

    Returns:
        For each: `name` (first part of the log keys), `list` (the file's name), `flip` (mirrored images too) and,
        where the list is there, its `sha256`, `pairs`, `same` (pairs of one person), `folds`, `images`.
    """
    callbacks = (run.config.get("trainer") or {}).get("callbacks") or []
    found = []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if _class_name(callback) != "LFWVerification":
            continue
        settings = _arguments(callback)
        description: dict[str, Any] = {
            "name": settings.get("name") or "lfw",
            "list": None,
            "flip": bool(settings.get("flip")),
        }
        root, listed, packed = (settings.get(key) for key in ("root", "pairs", "bin"))
        file = Path(str(listed)) if listed else None
        if file is None and root:
            beside = (Path(str(root)) / "pairs.txt", Path(str(root)).parent / "pairs.txt")
            file = next((path for path in beside if path.is_file()), None)
        if packed:
            description["list"] = Path(str(packed)).name
        elif file is not None:
            description["list"] = file.name
            if file.is_file():
                description |= _pairs(file)
        elif settings.get("reader"):
            description["list"] = _class_name(settings["reader"])
        found.append(description)
    return found


def _pairs(file: Path) -> dict[str, Any]:
    pairs = read_pairs(file)
    return {
        "sha256": file_sha256(file),
        "pairs": len(pairs),
        "same": int(pairs.same.sum()),
        "folds": len(pairs.folds.unique()),
        "images": len(pairs.names),
    }


def _federation(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    try:
        plan = read_json(record)["settings"]["plan"]
        found = {
            "owners": plan["clients"],
            "partition": plan["partition"],
            "local_epochs": plan["local_epochs"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record} is damaged ({error!r}); move it away") from error
    return found | {"rounds": None, "images": None}


def _is_crop(value: object) -> bool:
    """Return whether a config's crop is one: the side of a square, or the four sides of a box."""
    box = isinstance(value, list) and len(value) == 4 and all(type(side) is int for side in value)
    return type(value) is int or box


def _arguments(part: Any) -> dict[str, Any]:
    found = part.get("init_args") if isinstance(part, dict) else None
    return found if isinstance(found, dict) else {}


def _class_name(part: Any) -> str | None:
    name = part.get("class_path") if isinstance(part, dict) else None
    return None if name is None else str(name).rpartition(".")[2]
