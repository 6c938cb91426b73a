"""Lightning's own CLI with run folders, bare config names, and checkpoints that are checked first."""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ModelSummary, WeightAveraging
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.strategies import ParallelStrategy

from callbacks import (
    Embeddings,
    EndTogether,
    EpochRow,
    FiniteLoss,
    HeadFirst,
    ProgressBar,
    Results,
    RunCheckpoint,
    RunState,
    Summary,
    Throughput,
    TrainerOptions,
)
from lightning_app.cli.command_parser import add_run_arguments
from lightning_app.cli.configs import CONFIGS, FindConfig
from lightning_app.cli.nulls import NestedNulls
from lightning_app.cli.parse_error import OneReason
from lightning_app.cli.surroundings import is_rank_zero
from lightning_app.core.files import is_plain_name, write_atomically
from lightning_app.distributed.device import unsupported_gpu
from lightning_app.distributed.failure import rank_error
from lightning_app.distributed.precision import warn_of_emulation
from lightning_app.models.base import Recogniser
from lightning_app.runs import loggers
from lightning_app.runs.checkpoint_io import with_atomic_writes
from lightning_app.runs.csv_log import CSVLog
from lightning_app.runs.folder import check_run, clear_run, put_log_aside, resolve_checkpoint
from lightning_app.runs.lock import hold
from lightning_app.runs.loggers import place_loggers
from lightning_app.runs.trainer_options import callback_error, check_asked, check_made

log = logging.getLogger("faceveil")
# the class path that configs gave W&B's logger before its module lay in a room
sys.modules.setdefault("lightning_app.loggers", loggers)


class _Parser(OneReason, NestedNulls, LightningArgumentParser):
    """A parser whose errors are the line that says what is wrong, without three screens of usage above it."""


class RunConfig(SaveConfigCallback):
    """Writes the whole config of a `fit` into its run folder."""

    _waits = False

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write `config.yaml`; on rank zero only. Where a run goes on, not before its checkpoint is accepted."""
        if stage != "fit":
            return
        # by now data, mask and verification set have been found good: the earlier run can go
        self._waits = bool(self.config.get("ckpt_path"))
        if not self._waits:
            self._write(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the config of a run that goes on: by now its data have been held against the checkpoint's."""
        if self._waits and trainer.is_global_zero:
            self._write(trainer)
        self._waits = False

    def _write(self, trainer: L.Trainer) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        origin = self.config.get("ckpt_path")
        if not origin or folder.resolve() not in Path(origin).resolve().parents:
            clear_run(folder)
        config = self.config.clone()  # a saved config must neither replace a run nor go on with one unasked
        config.name, config.overwrite, config.ckpt_path = folder.name, False, None
        # the parser's own `save` would write through a link, in a folder that came from somebody else
        write_atomically(
            folder / "config.yaml", self.parser.dump(config, skip_unset=False, skip_validation=True)
        )


class FaceVeilCLI(LightningCLI):
    """LightningCLI with bare config names, one folder per run and checkpoints that are checked first."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose `--config` finds bare names."""
        parser = _Parser(**kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=FindConfig,
            help="Config file, or the bare name of one in configs/; repeatable.",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name and folder, and tell the model what the data knows."""
        add_run_arguments(parser)
        if [*self.subcommands()] == ["predict"]:
            parser.add_argument("--output", type=str | None, default=None,
                                help="File of the embeddings, NAME.safetensors; else in the run folder.")  # fmt: skip
        parser.link_arguments("data.input_size", "model.init_args.input_size", apply_on="instantiate")
        parser.link_arguments("data.in_channels", "model.init_args.in_channels", apply_on="instantiate")
        parser.set_defaults(
            {
                "model": {"class_path": "lightning_app.models.ResNet"},
                "data": {"class_path": "datamodules.FaceDataModule"},
                # the DataModule deals images to ranks itself, without padding
                "trainer.use_distributed_sampler": False,
                "trainer.num_sanity_val_steps": 0,
            }
        )

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's hyperparameters silently override --model.*; ours are compared
        # in Recogniser.on_load_checkpoint instead. No public hook comes before it.
        return

    def _dump_config(self) -> None:
        # Lightning's own checks every value again; they have just been parsed. No public hook comes before it.
        if not hasattr(self, "config_dump"):
            whole = self.parser.dump(  # as JSON: in YAML it would take three times as long
                self.config, format="json", skip_unset=False, skip_link_targets=False, skip_validation=True
            )
            self.config_dump = json.loads(whole)
            if "subcommand" in self.config:
                self.config_dump = self.config_dump[self.config.subcommand]

    def before_instantiate_classes(self) -> None:
        """Find the run's folder and its checkpoint before anything expensive is made."""
        config = self.config[self.subcommand]
        files = [str(p) for p in config.get("config") or [] if p is not None]
        if not files and config.data.get("init_args.reader", 0) is None:
            raise ValueError(
                f"{self.subcommand} needs a config: give --config NAME.yaml, one of your own or of "
                f"{CONFIGS}; `python main.py fit --config demo.yaml` draws its own faces"
            )
        name = config.name or (Path(files[0]).stem if files else "run")
        if not is_plain_name(name):
            raise ValueError(f"--name {name!r}: give a plain name, the folder is {config.runs}/<name>")
        self.run_dir = Path(config.runs) / name
        checkpoint = resolve_checkpoint(config.ckpt_path, self.run_dir) if config.get("ckpt_path") else None
        if checkpoint is None and self.subcommand in ("validate", "test", "predict"):
            raise ValueError(
                f"{self.subcommand} needs a trained model: give --ckpt_path last (the one of {self.run_dir}), or a path"
            )
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        for name in ("trainer", "model", "data"):
            if config.get(name) is None:
                raise ValueError(f"{name}: null; give its settings, or leave it out of the file that says so")
        check_asked(config.trainer, "FaceDataModule" in str(config.data.class_path), str(self.subcommand))
        # the launcher starts the other ranks with the same command line when rank zero has begun already
        if self.subcommand == "fit" and is_rank_zero() and not config.trainer.fast_dev_run:
            check_run(self.run_dir, checkpoint, config.overwrite)
        if "verbose" in config:  # Lightning's table of every key; Results prints ours
            config.verbose = False
        unsupported = unsupported_gpu()
        if unsupported:
            log.warning(unsupported)

    def before_fit(self) -> None:
        """Keep other processes out of the run's folder; put a log aside that Lightning's logger would delete."""
        if is_rank_zero() and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            fresh = not self.run_dir.exists()
            hold(self.run_dir)
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, RunState):
                    callback.fresh = fresh
            if not any(isinstance(one, CSVLog) for one in self.trainer.loggers):
                put_log_aside(self.run_dir)
        if isinstance(self.model, Recogniser):  # its prepare_data comes before Lightning tells
            self.model.goes_on = bool(self.config[self.subcommand].ckpt_path)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Make the trainer with the run's folder, loggers and callbacks."""
        trainer = self.config_init[self.subcommand].trainer
        given = trainer.get("logger")
        loggers: list[Logger] = (
            given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        )
        bare = bool(trainer.get("barebones"))  # Lightning refuses then what we would add
        if given is not False and not bare and not any(isinstance(x, CSVLogger) for x in loggers):
            fits = self.subcommand == "fit"
            version = "" if fits else str(self.subcommand)
            loggers = [*loggers, CSVLog(self.run_dir, version, goes_on=fits)]
        wanted = trainer.get("callbacks") or []
        callbacks = list(wanted) if isinstance(wanted, list) else [wanted]
        # of every command: it reads no code out of a checkpoint
        kwargs["plugins"] = with_atomic_writes(trainer.get("plugins"), trainer.get("strategy"))
        if self.subcommand != "fit":
            callbacks = [c for c in callbacks if not isinstance(c, ModelCheckpoint)]
            kwargs["enable_checkpointing"] = False
        else:
            keeps = trainer.get("enable_checkpointing") is not False and not bare
            if keeps and not any(isinstance(c, RunCheckpoint) for c in callbacks):
                callbacks.append(RunCheckpoint())
        shown = trainer.get("enable_progress_bar") is not False and not bare
        if shown and not any(isinstance(c, AnyProgressBar) for c in callbacks):
            callbacks.append(ProgressBar())
        asked = not bare and trainer.get("enable_model_summary") is not False
        if asked and self.subcommand == "fit" and not any(isinstance(c, ModelSummary) for c in callbacks):
            callbacks.append(Summary())
            kwargs["enable_model_summary"] = False  # Lightning's own
        ending = Embeddings if self.subcommand == "predict" else Results
        if not any(isinstance(c, ending) for c in callbacks):
            callbacks.append(self._embeddings() if ending is Embeddings else ending())
        if self.subcommand == "fit":
            callbacks.append(RunState())  # behind what writes results
        for watch in (EpochRow, Throughput, FiniteLoss) if self.subcommand == "fit" else ():
            if not any(isinstance(c, watch) for c in callbacks):
                callbacks.insert(0, watch())  # a spoilt model is found out before anything measures it
        if any(isinstance(c, WeightAveraging) for c in callbacks):
            callbacks.insert(0, HeadFirst())
        together = EndTogether()
        callbacks.insert(0, together)
        try:
            made = super().instantiate_trainer(
                default_root_dir=str(self.run_dir), logger=loggers or (None if bare else False), callbacks=callbacks,
                **kwargs,
            )  # fmt: skip
        except (
            TypeError,
            ImportError,
            RuntimeError,
        ) as error:  # of a value that Lightning does not look at itself
            raise ValueError(f"trainer: {error}") from error
        check_made(made)
        warn_of_emulation(made.precision, made.strategy.root_device, "--trainer.precision")
        parallel, device = isinstance(made.strategy, ParallelStrategy), made.strategy.root_device.type
        if trainer.get("sync_batchnorm") and parallel and device == "cpu":
            raise ValueError(
                "trainer.sync_batchnorm: true needs GPUs, torch has no SyncBatchNorm for the CPU: leave it out "
                "(--trainer.sync_batchnorm false), batch norm then counts each rank's share"
            )
        if self.subcommand == "fit":  # behind Lightning's own timer and before what saves
            saving = [number for number, c in enumerate(made.callbacks) if isinstance(c, Checkpoint)]  # type: ignore[attr-defined]
            made.callbacks.insert(min(saving, default=len(made.callbacks)), TrainerOptions())  # type: ignore[attr-defined]
        place_loggers(made)
        together.watch(made)
        return made

    def _embeddings(self) -> Embeddings:
        config = self.config[self.subcommand]
        return Embeddings(config.get("output"), config.overwrite)


def run_lightning(args: list[str]) -> None:
    """Run one of Lightning's commands: fit, validate, test, predict.

    Args:
        args: the command and its options.

    Raises:
        ValueError, OSError: something the user can mend, in one line.
    """
    # Lightning's launcher starts the other ranks with sys.argv, and warns of args given beside it
    previous, own = sys.argv, args == sys.argv[1:]
    if not own:
        sys.argv = sys.argv[:1]
    try:
        _with_parsers(args[0])(
            L.LightningModule,
            L.LightningDataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            args=None if own else args,
        )
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        if (said := rank_error(callback_error(error))) is error:
            raise
        raise said from error
    finally:
        sys.argv = previous
        if sys.exc_info()[0] is not None:
            _end_workers()


def _with_parsers(command: str) -> type[FaceVeilCLI]:
    """Return a CLI that makes the parser of one command alone: four take longer than all the rest of a start."""
    known = FaceVeilCLI.subcommands()
    if command not in known:
        return FaceVeilCLI
    only = {command: known[command]}
    return type(FaceVeilCLI.__name__, (FaceVeilCLI,), {"subcommands": staticmethod(lambda: only)})


def _end_workers() -> None:
    """Kill the workers of DataLoaders that an error has left behind.

    They leave SIGTERM to the main process (`datamodules.resumable`), and Python would wait for them for ever.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
