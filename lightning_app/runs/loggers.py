"""Weights & Biases where it can be reached, and a run on disk where it cannot."""

from __future__ import annotations

import logging
import netrc
import os
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import lightning.pytorch as pl
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_app.core.log_keys import higher_is_better
from lightning_app.core.measurement import Measurement
from lightning_app.runs.wandb_privacy import UNTOLD, no_error_reports, without_places

if TYPE_CHECKING:  # wandb takes a second to import: only when a run begins
    from lightning.pytorch.callbacks import ModelCheckpoint

log = logging.getLogger("faceveil")

_STEP = "trainer/global_step"
_PROBE_S = 2.0
_INIT_S = 20.0  # the probe answered, so a longer silence is a refusal
_FINISH_S = 60.0  # a network that went away must not hold the process for ever
_CLOSED_S = 1.0  # the service closes its file, and may fail to, after it has answered


class WandbLogger(LightningWandbLogger):
    """Log to Weights & Biases, online only where that works.

    Online needs a key (`WANDB_API_KEY`, `~/.netrc`, or W&B's own settings) and a server that answers within
    two seconds; otherwise the run is written to disk, one line says so, and `wandb sync PATH` sends it later.
    `WANDB_MODE=online`, `offline`, `disabled` and `WANDB_BASE_URL` are respected. Steps are the axis of
    every chart; the summary holds the last and the best value of what has a best. Trouble with W&B while
    training is reported once and counted, and never stops the run.

    Args:
        project: W&B project.
        name: name of the run; by default that of the run folder.
        save_dir: where W&B's files go; by default the run folder.
        offline: never try the network.
        log_model: upload checkpoints (`all`: each, at once; `true`: at the end). Needs the network: with
            `offline` it is an error, and where the server is out of reach the checkpoints stay on disk.
        id: W&B's id of a run to go on with.
        entity: W&B user or team.
        group: W&B group of runs.
        tags: W&B tags.
        notes: W&B notes.
        machine: also let W&B collect what it does by default: hostname, command line, folders, git's remote, installed
            packages, hardware. Off, it is told none of these, and paths in the configuration are shortened.

    Raises:
        ValueError: `log_model` together with `offline`.
    """

    _better: Mapping[str, bool | None] = {}  # log key -> whether higher is better, as measurements say

    def __init__(
        self,
        project: str = "faceveil",
        name: str | None = None,
        save_dir: str | None = None,
        offline: bool = False,
        log_model: Literal["all"] | bool = False,
        id: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        machine: bool = False,
    ) -> None:
        if not machine:
            no_error_reports()
        self._machine = machine
        if offline and log_model:
            raise ValueError(
                f"WandbLogger: log_model={log_model} needs the network and offline=true forbids it: drop one"
            )
        super().__init__(
            name=name, save_dir=save_dir or "", project=os.environ.get("WANDB_PROJECT", project), id=id,
            log_model=log_model, entity=entity, group=group, tags=tags, notes=notes,
        )  # fmt: skip
        self._wandb_init.pop("anonymous", None)  # newer W&B warns of it even when it is None
        self._refused = "offline=true" if offline else ""  # why the network is not tried
        self._placed = save_dir is not None
        self._charted: set[str] = set()
        self._lost = 0

    def use_run_dir(self, run_dir: str | Path) -> None:
        """Write below the run folder and take its name, where the user gave neither.

        Args:
            run_dir: `runs/<name>`.
        """
        if not self._placed:
            self._save_dir = self._wandb_init["dir"] = str(run_dir)
        if self._name is None:
            self._name = self._wandb_init["name"] = Path(run_dir).resolve().name

    def use_group(self, group: str) -> None:
        """Join a W&B group, where neither the user nor `WANDB_RUN_GROUP` gave one.

        Args:
            group: its name.
        """
        if self._wandb_init.get("group") is None and not os.environ.get("WANDB_RUN_GROUP"):
            self._wandb_init["group"] = group

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # wandb has no public name for 'a run or a disabled one' over its versions
        """W&B's run, begun when first asked for, on rank zero alone."""
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        import wandb

        Path(self._wandb_init["dir"] or ".").mkdir(parents=True, exist_ok=True)
        mode, why = _mode(self._refused)
        given_id = self._wandb_init["id"]
        self._charted.clear()
        try:
            self._begin_as(mode)
        except (wandb.Error, OSError) as error:
            if mode != "online":
                raise
            mode = "offline"
            why = self._refused = f"W&B refused ({_one_line(error)})"
            self._wandb_init["id"] = None  # W&B's service holds the refused run's id as one in use
            self._begin_as(mode)
        if mode == "offline":
            shown = _shown(self._experiment)
            renamed = f"--id {given_id} " if given_id not in (None, self._experiment.id) else ""  # type: ignore[union-attr]
            log.warning("W&B is offline: %s; send the run later with: wandb sync %s%s", why, renamed, shown)
            if self._log_model:
                self._log_model = False
                log.warning("W&B is offline: log_model is off, the checkpoints stay in the run folder")

    def _begin_as(self, mode: str) -> None:
        import wandb

        # offline there is no network to wait for, and a slow machine must not lose its metrics to a timeout
        settings: dict[str, Any] = (
            {"init_timeout": _INIT_S, "finish_timeout": _FINISH_S, "finish_timeout_raises": True}
            if mode == "online"
            else {"silent": True}
        )
        settings |= {"console": UNTOLD["console"]} if self._machine else UNTOLD
        # finish_timeout and its fellow are younger than the oldest W&B we run with
        known = {key: value for key, value in settings.items() if key in _setting_names(wandb.Settings)}
        self._wandb_init["mode"] = mode
        self._wandb_init["settings"] = wandb.Settings(**known)
        _ = super().experiment

    def know(self, measurements: Iterable[Measurement]) -> None:
        """Take from measurements which way their values are better, for the summary.

        Args:
            measurements: such as a callback logs for the first time.
        """
        self._better = {**self._better, **{one.key: one.higher_is_better for one in measurements}}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics at a step; what W&B cannot take is counted, see the class."""

        def send() -> None:
            for key in set(metrics) - self._charted:
                if best := _best(key, self._better):
                    self.experiment.define_metric(key, step_metric=_STEP, summary=f"{best},last")
                self._charted.add(key)
            super(WandbLogger, self).log_metrics(metrics, step)

        self._guarded(send)

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration, without the folders of this machine."""
        logged = (
            params
            if self._machine
            else without_places(vars(params) if isinstance(params, Namespace) else params)
        )
        self._guarded(lambda: super(WandbLogger, self).log_hyperparams(logged))

    def log_table(self, key: str, columns: Any = None, data: Any = None, *args: Any, **kwargs: Any) -> None:
        """Log a table: `columns` are its heads, `data` its rows."""
        self._guarded(lambda: super(WandbLogger, self).log_table(key, columns, data, *args, **kwargs))

    def log_image(self, key: str, images: list[Any], *args: Any, **kwargs: Any) -> None:
        """Log pictures: tensors, arrays, PIL pictures or paths."""
        self._guarded(lambda: super(WandbLogger, self).log_image(key, images, *args, **kwargs))

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Upload a checkpoint, where `log_model` says so."""
        self._guarded(lambda: super(WandbLogger, self).after_save_checkpoint(checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what is left and end the run; a later call begins it again under the same id."""
        run = self._experiment
        if run is None:
            return

        def end() -> None:
            super(WandbLogger, self).finalize(status)
            self._id = self._wandb_init["id"] = run.id
            try:
                run.finish(exit_code=0 if status == "success" else 1)
            except TimeoutError:
                log.warning("W&B's server did not take everything within %g s; send the rest with: wandb sync %s",
                            _FINISH_S, _shown(run))  # fmt: skip
            if trouble := _not_written(run):
                log.warning(
                    "W&B could not write its folder (%s); the CSV in the run folder has every metric", trouble
                )
            self._experiment = None

        self._guarded(end)
        if self._lost:
            log.warning("W&B lost %d calls; the CSV in the run folder has every metric", self._lost)
        if (
            self._experiment is not None
        ):  # W&B's service has gone, and would be missed again at exit, at length
            self._guarded(_let_go)

    @rank_zero_only
    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not _is_wandbs(error):
                raise
            if not self._lost:
                log.warning("W&B does not answer (%s); training goes on without it", _one_line(error))
            self._lost += 1


def place_loggers(trainer: pl.Trainer) -> None:
    """Let every logger without a folder of its own write below the trainer's `default_root_dir`.

    Call it before `fit`: Lightning begins the loggers' runs before any callback is asked.

    Args:
        trainer: a trainer whose `default_root_dir` is the run folder.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.use_run_dir(trainer.default_root_dir)
        elif isinstance(logger, LightningWandbLogger):
            log.warning(
                "Lightning's own WandbLogger sends W&B the hostname, command line, folders and packages: take "
                "lightning_app.runs.loggers.WandbLogger, which does not."
            )


def _is_wandbs(error: Exception) -> bool:
    """Return whether an error is W&B's own, of service, server or disk, and not a mistake in what calls it."""
    # not all of them are wandb.Errors, and their names change; ConnectionError and TimeoutError are OSErrors
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] == "wandb"


def _let_go() -> None:
    """Forget W&B's service, so that it is not waited for at exit."""
    import wandb

    wandb.teardown()


def _not_written(run: Any) -> str:
    """Read in the log of W&B's service, which tells nobody else, why a run's file is not whole; '' where it is."""
    path = getattr(getattr(run, "settings", None), "log_internal", None)
    if not path or not Path(path).is_file():
        return ""
    end = time.monotonic() + _CLOSED_S
    lines = Path(path).read_text(errors="replace").splitlines()
    while not any('"stream: all finished"' in line for line in lines) and time.monotonic() < end:
        time.sleep(0.02)
        lines = Path(path).read_text(errors="replace").splitlines()
    found = [line for line in lines if '"ERROR"' in line and '"msg":"writer: ' in line]
    return found[0].split('"msg":"writer: ')[1].split('"')[0] if found else ""


def _shown(run: Any) -> str:
    """Return a run's folder, as short as it may be."""
    folder = Path(run.settings.sync_dir)
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)


def _mode(refused: str) -> tuple[Literal["online", "offline", "disabled"], str]:
    """Choose W&B's mode and give the reason for it."""
    import wandb

    asked = os.environ.get("WANDB_MODE") or str(getattr(wandb.setup().settings, "mode", None) or "online")
    if asked == "disabled":
        return "disabled", "WANDB_MODE=disabled"
    if refused:
        return "offline", refused
    if asked in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE={asked}"
    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    if not has_key(url):
        return "offline", "no key is set (wandb login)"
    if not reachable(url):
        return "offline", f"{url} does not answer within {_PROBE_S:g} s"
    return "online", ""


def has_key(url: str) -> bool:
    """Return whether a W&B key is set for a server.

    Args:
        url: the server, with its scheme.
    """
    import wandb

    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        entries = netrc.netrc(os.environ.get("NETRC") or None)
    except (OSError, netrc.NetrcParseError):  # no file, or one that W&B cannot read either
        entries = None
    if entries is not None and entries.authenticators(urlsplit(url).netloc):
        return True
    return bool(getattr(wandb.setup().settings, "api_key", None))


def reachable(url: str, timeout: float = _PROBE_S) -> bool:
    """Return whether a server, or the proxy that stands before it, takes a connection.

    Args:
        url: the server, with its scheme.
        timeout: seconds for the look-up of the name and the connection together.
    """
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    answered = threading.Event()

    def probe() -> None:
        port = target.port or (80 if target.scheme == "http" else 443)
        try:
            with socket.create_connection((target.hostname or "", port), timeout):
                answered.set()
        except OSError:  # refused, no route, no such name: all of them mean 'not reachable'
            pass

    # in a thread of its own, because looking up a name knows no timeout
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def _best(key: str, known: Mapping[str, bool | None] | None = None) -> str | None:
    """Return the aggregate that is a metric's best: for a score the highest, for an error the lowest."""
    better = known[key] if known and key in known else higher_is_better(key)
    return None if better is None else "max" if better else "min"


def _setting_names(settings: Any) -> set[str]:
    # a pydantic model since 0.19, a dataclass before
    return set(getattr(settings, "model_fields", None) or getattr(settings, "__annotations__", {}))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
