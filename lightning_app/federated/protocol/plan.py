"""What a federation is made of: its plan, and the model, data and trainer that every client makes for itself."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import lightning as L
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.loggers import Logger

from datamodules import FaceDataModule
from lightning_app.cli.fit_config import make_part
from lightning_app.core.plain import is_hash
from lightning_app.distributed.precision import warn_of_emulation
from lightning_app.federated.protocol.partition import Partition
from lightning_app.federated.protocol.strategy import FEDAVG, Strategy
from lightning_app.models.base import Recogniser
from lightning_app.models.other_checkpoints import OF_OTHERS
from lightning_app.runs.trainer_options import check_asked

log = logging.getLogger("faceveil")

# What of `trainer` a client's own training takes; rounds, loggers and checkpoints are the federation's.
_TAKEN = (
    "accelerator", "devices", "strategy", "precision", "limit_train_batches", "accumulate_grad_batches",
    "gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm", "deterministic", "benchmark", "detect_anomaly",
)  # fmt: skip
_ELSEWHERE = ("callbacks", "logger", "num_sanity_val_steps", "use_distributed_sampler", "log_every_n_steps")
_OF_AN_OWNER = ("min_mask_ratio", "mask_hash", "max_local_epochs", "names_key")
_SPAWNED = ("ddp_spawn", "ddp_fork", "ddp_forkserver")


@dataclass(frozen=True)
class Plan:
    """How a federation goes; fields of the config beside `model`, `data` and `trainer`.

    Args:
        rounds: rounds of training and averaging; the learning rate's schedule spans all of them.
        clients: how many owners there are.
        partition: how the set lies with the owners: `images` dealt at random (paper), `identities` dealt at random,
            `dirichlet` shares of each person's images, or `own`: every client's `data` is its own, as in a real
            deployment.
        alpha: the α of the Dirichlet shares; the smaller, the more unequal.
        private_heads: every owner keeps its own head, and only backbone and FSM travel. By default for `identities`
            and `own`, where the owners' classes are different people.
        local_epochs: epochs of its own images that a client trains in a round.
        min_clients: updates a round needs; with fewer the federation stops, and can be gone on with. By default 2,
            or 1 for one client.
        engine: `flower` runs the clients in Flower's simulation, `local` one after the other in this process, with
            the same result.
        timeout: seconds a client has for a round; it is left out of the round then. None waits for ever.
        wait: seconds to wait for the clients to connect.
        verify_every: rounds between verifications of the global model; after the last it is always verified.
        at_once: clients of the simulation that train at the same time; they share the CPU's threads.
        gpus_per_client: GPUs, or a share of one, that each client of the simulation takes.
        keep: newest rounds whose checkpoints are kept, beside last.ckpt.
        max_update_norm: an owner whose update is longer is left out of the round; the Euclidean norm of all that
            travels minus the global weights, batch-norm statistics as well, as `norm` in rounds.csv. By default, with
            standard deviations in place of batch norm's variances, 100 times the norm of the global weights, and, of
            three owners or more, 10 times the middle one of the others' (per batch, where it trained on more of
            them): no healthy run comes near. `.inf` takes any.
        max_images_ratio: an owner's images count for at most so many times the middle one of the other owners' images
            in the round, and the log says so. The number is the owner's word: one that says more than 100 times that
            limit, or than 10 times what it has said in earlier rounds, is left out. `.inf` takes any.
        min_mask_ratio: an owner sets it in its own file: it trains under no mask that hides a smaller share of the
            pixels, whatever the server says. By default 0.5, or any where `mask_hash` names the mask.
        mask_hash: an owner sets it in its own file: it trains under this very mask and no other, 64 hexadecimal
            digits, as `mask_hash` in the JSON beside a mask.
        max_local_epochs: an owner sets it in its own file: the most `local_epochs` that it takes from the server.
        names_key: an owner sets it in its own file, for a shared head: a file of 64 hexadecimal digits that all owners
            have and the server has not (`openssl rand -hex 32`, mode 0600). With it the server can compare hashes of
            the people's names, and cannot test names it guesses. Without one nothing of them is sent, nor compared.
    """

    rounds: int = 8
    clients: int = 3
    partition: Partition = "images"
    alpha: float = 0.5
    private_heads: bool | None = None
    local_epochs: int = 1
    min_clients: int | None = None
    engine: Literal["flower", "local"] = "flower"
    timeout: float | None = None
    wait: float = 600.0
    verify_every: int = 1
    at_once: int = 1
    gpus_per_client: float = 0.0
    keep: int = 3
    max_update_norm: float | None = None
    max_images_ratio: float = 10.0
    min_mask_ratio: float | None = None
    mask_hash: str | None = None
    max_local_epochs: int = 100
    names_key: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "rounds",
            "clients",
            "local_epochs",
            "verify_every",
            "at_once",
            "keep",
            "max_local_epochs",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1")
        if not 1 <= self.least <= self.clients:
            raise ValueError(f"min_clients={self.least}: give 1 to clients={self.clients}")
        if self.partition == "identities" and self.private_heads is False:
            raise ValueError(
                "private_heads: false with partition: identities would average the heads of different people: leave it "
                "out"
            )
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"timeout={self.timeout}: give seconds above 0, or leave it out")
        if self.max_update_norm is not None and not self.max_update_norm > 0:
            raise ValueError(f"max_update_norm={self.max_update_norm}: give a norm above 0, or leave it out")
        if not self.max_images_ratio >= 1:
            raise ValueError(
                f"max_images_ratio={self.max_images_ratio}: give at least 1, or .inf for no limit"
            )
        if self.min_mask_ratio is not None and not 0 <= self.min_mask_ratio < 1:
            raise ValueError(f"min_mask_ratio={self.min_mask_ratio}: give a share of the pixels, 0 up to 1")
        if self.mask_hash is not None and not is_hash(self.mask_hash):
            raise ValueError(
                f"mask_hash={self.mask_hash!r}: give all 64 hexadecimal digits, as in the JSON beside the mask"
            )

    @property
    def least(self) -> int:
        """Updates a round needs."""
        return min(2, self.clients) if self.min_clients is None else self.min_clients

    @property
    def heads_stay(self) -> bool:
        """Whether heads are private."""
        return self.partition in ("identities", "own") if self.private_heads is None else self.private_heads

    @property
    def places(self) -> int:
        """Clients that train at the same time."""
        if self.engine == "local":
            return 1
        return self.clients if self.partition == "own" else self.at_once

    def decisive(self) -> dict[str, Any]:
        """Return the fields that the result depends on."""
        spared = (
            "engine",
            "timeout",
            "wait",
            "verify_every",
            "at_once",
            "gpus_per_client",
            "keep",
            "min_clients",
            "max_update_norm",
            "max_images_ratio",
            *_OF_AN_OWNER,
        )
        fields = {key: value for key, value in asdict(self).items() if key not in spared}
        return fields | {"private_heads": self.heads_stay}


@dataclass(frozen=True)
class Parts:
    """The parts that server and clients make for themselves out of one config; plain values, so that it travels.

    Attributes:
        model: class and arguments of a `Recogniser`.
        data: class and arguments of a `FaceDataModule`.
        trainer: arguments of a client's trainer, see `client_trainer`.
        callbacks: class and arguments of what the server verifies with.
        logger: class and arguments of the server's loggers.
        seed: `seed_everything`.
        threads: of a client; None leaves them as they are.
        matmul: torch's float32 matmul precision.
        strategy: class and arguments of how the server combines updates; the owners make none.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: list[Any]
    logger: list[Any]
    seed: int = 0
    threads: int | None = None
    matmul: str = "highest"
    strategy: dict[str, Any] = field(default_factory=lambda: FEDAVG)

    def make(self) -> tuple[Recogniser, FaceDataModule]:
        """Make the model and the DataModule; the model's weights are a function of the seed.

        Raises:
            ValueError: the parts do not fit.
        """
        L.seed_everything(self.seed, verbose=False)
        parser = ArgumentParser(exit_on_error=False)
        _add_model_and_data(parser)
        made = parser.instantiate(parser.parse_object({"model": self.model, "data": self.data}))
        return made.model, made.data

    def watchers(self) -> list[L.Callback]:
        """Make the callbacks the server verifies with."""
        return self._listed(L.Callback, self.callbacks)

    def loggers(self) -> list[Logger]:
        """Make the server's loggers."""
        return self._listed(Logger, self.logger)

    def combiner(self) -> Strategy:
        """Make what combines the owners' updates.

        Raises:
            ValueError: its arguments cannot be used.
        """
        made: Strategy = make_part("strategy", Strategy, self.strategy)
        return made

    def use(self) -> None:
        """Bring this process to what the result depends on: threads and matmul precision."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul)

    @staticmethod
    def _listed(kind: type, given: list[Any]) -> list[Any]:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--made", type=list[kind], default=[])  # type: ignore[valid-type]
        made: list[Any] = parser.instantiate(parser.parse_object({"made": given})).made
        return made


def add_arguments(parser: ArgumentParser) -> None:
    """Add what a federation is made of to a parser: the groups of a `fit`, and the plan.

    Args:
        parser: of `federate`, or of an owner's config.
    """
    parser.add_argument(
        "--seed_everything", type=int, default=0, help="Of initial weights, orders and partition."
    )
    parser.add_class_arguments(Plan)
    parser.add_argument(
        "--strategy", type=Strategy, default=FEDAVG,
        help="How the server combines the owners' updates, by class_path; the default is their mean by images.",
    )  # fmt: skip
    parser.add_class_arguments(L.Trainer, "trainer", instantiate=False)
    _add_model_and_data(parser)


def read_plan(config: Namespace) -> tuple[Plan, Parts]:
    """Take plan and parts out of what `add_arguments`'s parser gave.

    Args:
        config: parsed, not instantiated.

    Raises:
        ValueError: an argument is out of range, or a trainer's option cannot be used here.
    """
    values = config.as_dict()
    given_model = values["model"].get("init_args", {})
    for key in OF_OTHERS:
        if given_model.get(key):
            raise ValueError(
                f"model.init_args.{key}: {given_model[key]}, but a federation's model begins from its seed and learns "
                "from its owners alone: leave it out"
            )
    plan = Plan(**{key: values[key] for key in Plan.__dataclass_fields__})
    trainer = values["trainer"]
    defaults = ArgumentParser()
    defaults.add_class_arguments(L.Trainer, "trainer", instantiate=False)
    usual = defaults.get_defaults().as_dict()["trainer"]
    given = {key: value for key, value in trainer.items() if value != usual[key]}
    _check_trainer(given)
    unused = sorted(given.keys() - {*_TAKEN, *_ELSEWHERE})
    if unused:
        log.info(
            "federate: not used of trainer: %s; rounds and local_epochs take their place.", ", ".join(unused)
        )
    listed = {key: _as_list(trainer[key]) for key in ("callbacks", "logger")}
    taken = {key: value for key, value in given.items() if key in _TAKEN}
    client_trainer(taken)
    warn_of_emulation(
        taken.get("precision"), _device(taken.get("accelerator", "auto")), "--trainer.precision"
    )
    parts = Parts(
        values["model"], values["data"], taken, listed["callbacks"], listed["logger"],
        values["seed_everything"], max(1, torch.get_num_threads() // plan.at_once),
        torch.get_float32_matmul_precision(), values["strategy"] or FEDAVG,
    )  # fmt: skip
    return plan, parts


def _check_trainer(given: dict[str, Any]) -> None:
    """Refuse options of Lightning's Trainer that `fit` refuses, or by which nobody would train.

    Args:
        given: those that are not Lightning's defaults.

    Raises:
        ValueError: names the option and what to give instead.
    """
    check_asked(given, deals_images=True)
    if given.get("fast_dev_run"):
        raise ValueError(
            f"trainer.fast_dev_run={given['fast_dev_run']}: a federation makes no trial run, and every round would be "
            "whole; leave it out, and give rounds: 1 and trainer.limit_train_batches: 1 to try it"
        )
    limit = given.get("limit_train_batches")
    if limit is not None and (not limit > 0 or (isinstance(limit, float) and limit > 1)):
        raise ValueError(
            f"trainer.limit_train_batches={limit}: an owner has to train in every round; give a number of batches from "
            "1, a share above 0.0 up to 1.0, or leave it out"
        )


def client_trainer(options: dict[str, Any]) -> dict[str, Any]:
    """Return a client's trainer devices and a strategy whose processes are spawned, not started by the command line.

    Lightning's `ddp` starts the other ranks with this process's own command line, which is not a client's to repeat:
    it belongs to `federate` or to Flower.

    Args:
        options: of the user; without `devices`, one device.

    Returns:
        The same with `devices` and `strategy` set.

    Raises:
        ValueError: several devices with a strategy that repeats the command line.
    """
    devices = options.get("devices", 1)
    devices = 1 if devices == "auto" else devices
    several = len(devices) > 1 if isinstance(devices, list) else str(devices) not in ("0", "1")
    strategy = options.get("strategy", "auto")
    if several and strategy in ("auto", "ddp"):
        strategy = "ddp_spawn"
    if several and strategy not in _SPAWNED:
        raise ValueError(
            f"trainer.strategy: {strategy} starts its processes by the command line, which a client cannot: give "
            f"{', '.join(_SPAWNED)}, or leave it out"
        )
    return options | {"devices": devices, "strategy": strategy}


def _add_model_and_data(parser: ArgumentParser) -> None:
    parser.add_subclass_arguments(Recogniser, "model", required=True)
    parser.add_subclass_arguments(FaceDataModule, "data", required=True)
    parser.link_arguments("data.input_size", "model.init_args.input_size", apply_on="instantiate")
    parser.link_arguments("data.in_channels", "model.init_args.in_channels", apply_on="instantiate")


def _device(accelerator: Any) -> torch.device:
    """Return the device of a client's trainer: the CPU where it is asked for, or where there is no GPU."""
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _as_list(given: Any) -> list[Any]:
    if given is None or isinstance(given, bool):
        return []
    return list(given) if isinstance(given, list) else [given]
