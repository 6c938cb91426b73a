"""The server's memory: one checkpoint after every round, out of which it goes on exactly where it was."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace

from datamodules import FaceDataModule
from lightning_app.cli.fit_config import decisive_data, difference
from lightning_app.core.files import replacing, write_atomically
from lightning_app.federated.protocol.plan import Parts, Plan
from lightning_app.federated.protocol.strategy import FEDAVG
from lightning_app.federated.protocol.weights import check_run_id
from lightning_app.models.base import Recogniser
from lightning_app.models.other_checkpoints import OF_OTHERS
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO
from lightning_app.runs.folder import LAST, RECORD, clear_run, read_whole
from lightning_app.runs.lock import hold

log = logging.getLogger("faceveil")
_AGAIN = "federate.yaml"  # the whole config; config.yaml is what `fit`, `validate` and `export` know of it
_ROUNDS = "round-*.ckpt"
_KEY = "federated"  # of the checkpoint: round, and the rounds' records
_LEFT = ("config.yaml", "checkpoints", "metrics.json", "metrics.fit.json", "metrics.csv")
_DECISIVE = (  # of a client's trainer
    "precision", "limit_train_batches", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm",
    "sync_batchnorm",
)  # fmt: skip
_SPEED = ("compile", "channels_last", "cuda_graphs")  # of the model
_ASIDE = (*_SPEED, *OF_OTHERS)  # the latter are refused, and records from before know none
_OWN = (RECORD, _AGAIN, "rounds.csv", "rounds.png", "clients")


def open_run(run_dir: Path, plan: Plan, parts: Parts, overwrite: bool) -> str:
    """Begin a federation's folder, or find that of one that was begun; it is this process's alone from now on.

    From the beginning it holds `config.yaml`, which `validate` takes and in which `export` looks for the mask, and
    `federate.yaml`, with which `federate` does the same again.

    Args:
        run_dir: `runs/<name>`.
        plan: how it goes.
        parts: what it is made of.
        overwrite: replace a run that is there.

    Returns:
        What names it: 16 hexadecimal digits.

    Raises:
        FileExistsError: the folder holds another kind of run.
        ValueError: it holds a federation with other settings, or another process federates in it.
    """
    record = run_dir / RECORD
    there = [name for name in _LEFT if (run_dir / name).exists() and not overwrite]
    if there and not record.is_file():
        raise FileExistsError(
            f"{run_dir} holds another run ({there[0]}): replace it (--overwrite) or choose another --name"
        )
    hold(run_dir)
    for left in (run_dir / LAST).parent.glob(".*.ckpt.*.tmp"):  # of a server that was killed while it wrote
        left.unlink()
    if overwrite:
        clear_run(run_dir)
        for name in _OWN:
            path = run_dir / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    settings = {"plan": plan.decisive(), "seed": parts.seed, "strategy": _plain(parts.strategy)}
    settings |= _decisive(parts.model, parts.data, parts.trainer)
    begun = secrets.token_hex(8)
    if record.is_file():
        made = json.loads(record.read_text(encoding="utf-8"))
        begun, then = made["run"], {"strategy": FEDAVG} | made["settings"]  # which once was the only one
        other = difference(then | _decisive(then["model"], then["data"], then["trainer"]), settings)
        if other is not None:
            # of a deployment no command replaces it
            anew = "remove it" if plan.partition == "own" else "replace it (--overwrite)"
            raise ValueError(
                f"{run_dir} was made with other settings ({other}): go on with those, {anew} or give another --name"
            )
    run = check_run_id(begun)
    write_atomically(record, json.dumps({"run": run, "settings": settings}, indent=2) + "\n")
    _write_configs(run_dir, plan, parts)
    return run


def _decisive(model: dict[str, Any], data: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    """Return what the result depends on; where it is computed, and how fast, may change from one start to the next."""
    arguments = {key: value for key, value in model["init_args"].items() if key not in _ASIDE}
    return _plain({
        "model": model | {"init_args": arguments},
        "data": decisive_data(data),
        "trainer": {key: trainer.get(key) for key in _DECISIVE},
    })  # fmt: skip


def _write_configs(run_dir: Path, plan: Plan, parts: Parts) -> None:
    trainer = parts.trainer | {"callbacks": parts.callbacks, "logger": parts.logger}
    config = _plain({
        "name": run_dir.resolve().name, "runs": str(run_dir.parent), "seed_everything": parts.seed,
        "trainer": trainer, "model": parts.model, "data": parts.data,
    })  # fmt: skip
    again = {"strategy": _plain(parts.strategy)}
    write_atomically(run_dir / _AGAIN, yaml.safe_dump(asdict(plan) | again | config, sort_keys=False))
    # every owner has held out images of its own: what a draw from the whole set holds out was mostly trained on
    config["data"]["init_args"]["val_share"] = 0.0
    write_atomically(run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: object) -> object:
        return (
            value.as_dict() if isinstance(value, Namespace) else str(value)
        )  # in lists they stay Namespaces

    found: dict[str, Any] = json.loads(json.dumps(values, default=plain))
    return found


def last_round(run_dir: Path) -> dict[str, Any] | None:
    """Read the checkpoint of the last whole round; None where there is none.

    It is `last.ckpt`; where that is missing or damaged, the newest whole `round-*.ckpt`, and a line says so.

    Args:
        run_dir: `runs/<name>`.

    Returns:
        The checkpoint.

    Raises:
        ValueError: there are some, and none is whole and a federation's.
    """
    last = run_dir / LAST
    rounds = sorted(last.parent.glob(_ROUNDS), reverse=True)
    flaws: list[str] = []
    for path in (last, *rounds):
        found = read_whole(path) if path.is_file() else "missing"
        if isinstance(found, dict):
            if isinstance(found.get(_KEY), dict):
                if flaws:
                    log.warning("%s cannot be used (%s): taking %s, the newest whole round.", last.parent,
                                "; ".join(flaws), path.name)  # fmt: skip
                return found
            found = "no federation's checkpoint"
        flaws.append(f"{path.name}: {found.partition(';')[0]}")
    if rounds or last.is_file():
        raise ValueError(
            f"{last.parent} has no whole round left ({'; '.join(flaws)}): put one back, or start anew with --overwrite"
        )
    return None


def history_of(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of the rounds that a checkpoint knows.

    Args:
        checkpoint: as `last_round` gives it.
    """
    rounds: list[dict[str, Any]] = checkpoint[_KEY]["rounds"]
    return rounds


def write_round(
    run_dir: Path,
    model: Recogniser,
    data: FaceDataModule,
    rounds: list[dict[str, Any]],
    classes: int | None,
    plan: Plan,
) -> None:
    """Write the checkpoint of a round, a FaceVeil checkpoint like any other, and forget old ones.

    `last.ckpt` is the newest, in a file of its own. Both are on the disk (fsync) before they take their names, and an
    old round goes when both have: neither a kill nor a power cut nor one damaged file loses more than the round.

    Args:
        run_dir: `runs/<name>`.
        model: the global one; without a head where heads are private.
        data: of the server, which knows how faces were desensitized and normalised.
        rounds: the records of all rounds so far.
        classes: of the shared head; None where heads are private.
        plan: how the federation goes.
    """
    number, steps = len(rounds), sum(int(record["batches"]) for record in rounds)
    kind = f"{type(model).__module__}.{type(model).__name__}"
    checkpoint = {
        "epoch": number * plan.local_epochs,
        "global_step": steps,
        "pytorch-lightning_version": L.__version__,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams) | {"_class_path": kind, "num_classes": classes},
        type(data).__name__: {
            "desensitizer": data.desensitizer.describe(),
            "num_classes": classes,
            "split": None,
            "mean": data.mean,
            "std": data.std,
        },
        _KEY: {"round": number, "rounds": rounds},
    }
    last = run_dir / LAST
    newest = last.with_name(f"round-{number:05d}.ckpt")
    AtomicCheckpointIO().save_checkpoint(checkpoint, newest)
    with newest.open("rb") as source, replacing(last, sync=True) as copy:
        shutil.copyfileobj(source, copy)
    for old in sorted(last.parent.glob(_ROUNDS))[: -plan.keep]:
        old.unlink()
