"""What a run found: a table on the console, `metrics.json` in the run folder, both for the loggers."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import lightning as L
import torch

from callbacks.clock import Clocked
from callbacks.media import log_media
from callbacks.place import steps_done
from lightning_app.core.log_keys import accuracies
from lightning_app.core.measurement import find, seven_digits
from lightning_app.core.memory import peak_memory
from lightning_app.report import png_bytes, print_table, rows_of, write_atomically
from lightning_app.report.curves import curves_chart, read_curves
from lightning_app.report.trained import write_later, write_trained
from lightning_app.runs.folder import LAST

log = logging.getLogger("faceveil")
_GUESSED = 0.5  # accuracy of who guesses, of as many pairs of one person as of two


class Results(Clocked):
    """Print the final metrics, write `metrics.json` and log the table, when `fit`, `validate` or `test` ends.

    `metrics.json` is flat, its names are the log keys. `fit` writes it anew, unless
    nothing was left to train. `validate` and `test` bring
    their metrics into what is there: a key in both takes the newest value, the others stay, so that the
    metrics of a fit outlive a validation. A command that fails or is killed writes nothing. `fit` also draws
    `curves.png` of what it logged.

    Beside what was logged: `time/fit_s`, seconds of this command without its set-up; `time/images_per_s`, in
    training, validation left out; `time/data_wait_share`, share 0 … 1 of that time in which the next batch was
    waited for, where the DataModule tells; `memory/peak_mb`, the highest resident memory of the main process since it
    began; `memory/gpu_peak_mb`, the highest allocated on the GPU; `run/epochs`, `run/steps`, trained from the
    beginning, over resumptions; `run/model`. `validate` and `test` have times and memory of their own:
    `time/validate_s`, `memory/validate_peak_mb`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun = time.perf_counter()
        self._device = torch.device("cpu")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of `validate`."""
        super().on_validation_start(trainer, pl_module)
        if trainer.state.fn == "validate":
            self._start(pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._start(pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Report after every other callback had its say; Lightning tears down only what ended well."""
        if stage == "fit":
            if not self.clock.batches and (Path(trainer.default_root_dir) / "metrics.json").is_file():
                log.info("Nothing was left to train: metrics.json keeps the metrics of the earlier run.")
                return
            metrics: dict[str, float] = {
                "run/epochs": trainer.current_epoch,
                "run/steps": steps_done(trainer),
            }
            if (speed := self.clock.images_per_s) is not None:
                metrics["time/images_per_s"] = speed
            if (waiting := self.clock.data_wait_share) is not None:
                metrics["time/data_wait_share"] = waiting
            self._report(trainer, pl_module, metrics)
        elif stage in ("validate", "test"):
            self._report(trainer, pl_module, {})

    def _start(self, pl_module: L.LightningModule) -> None:
        self._begun = time.perf_counter()
        self._device = pl_module.device  # at the end of a fit the model is back on the CPU
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, own: Mapping[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        stage = str(trainer.state.fn.value) if trainer.state.fn is not None else "run"
        own = {
            **own,
            f"time/{stage}_s": time.perf_counter() - self._begun,
            **_peak_memory(self._device, "" if stage == "fit" else f"{stage}_"),
        }
        logged = {
            key: seven_digits(value) for key, value in trainer.callback_metrics.items() if value.numel() == 1
        }
        metrics = {**_without_twins(logged), **own}
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        born = [one for callback in callbacks for one in getattr(callback, "measurements", ())]
        columns, rows = ["metric", "value"], [["model", type(pl_module).__name__], *rows_of(metrics, born)]
        run_dir = Path(trainer.default_root_dir)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            written: dict[str, float | str] = {"run/model": type(pl_module).__name__, **metrics}
            if stage == "fit":
                write_trained(run_dir, written)
            else:
                write_later(run_dir, stage, written)
            for logger in trainer.loggers:
                logger.log_metrics(dict(own), step=steps_done(trainer))
            log_media(trainer, f"results/{stage}", table=(columns, rows))
            if stage == "fit":
                _draw_curves(run_dir)
        print_table(f"{stage}: {run_dir.name}", rows, columns)
        for line in _remarks(metrics):
            print(line)
        if stage == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            parts = {"metrics": Path("metrics.json"), "curves": Path("curves.png"), "checkpoints": LAST}
            left = [word for word, name in parts.items() if (run_dir / name).exists()]
            words = " and ".join(filter(None, (", ".join(left[:-1]), *left[-1:])))
            found = "; --ckpt_path last finds it" if "checkpoints" in left else ""
            print(f"The run lies in {run_dir}{': ' if left else ''}{words}{found}.")


def _remarks(metrics: Mapping[str, float]) -> list[str]:
    """Return what a reader of the table should know: what ± and brackets are, and where a recogniser only guesses."""
    keys = [key for name, key in accuracies(metrics).items() for key in (key, f"{name}/auc")]
    verified = [one for key in keys if (one := find(metrics, key)) is not None]
    guessed = [
        f"{one.key} {one.value:.3f}: by its interval no better than guessing (0.5); train longer, or look at what is "
        "shown to the network (callbacks.Pictures)"
        for one in verified
        if one.low is not None and one.low <= _GUESSED
    ]
    spread = any(one.low is not None for one in verified)
    return [*(["± over the folds, [95 % interval over the pairs]"] if spread else []), *guessed]


def _draw_curves(run_dir: Path) -> None:
    """Draw `curves.png`; a picture that cannot be drawn or written ends no run."""
    try:
        picture = curves_chart(read_curves(run_dir), run_dir.name)
        if picture is not None:
            write_atomically(run_dir / "curves.png", png_bytes(picture))
    except Exception as error:
        log.warning("%s could not be drawn (%s): the run goes on without it", run_dir / "curves.png", error)


def _without_twins(logged: Mapping[str, float]) -> dict[str, float]:
    """Drop Lightning's second names: `KEY_step` and `KEY_epoch` beside KEY."""
    return {
        key: value
        for key, value in logged.items()
        if not any(key.endswith(end) and key[: -len(end)] in logged for end in ("_step", "_epoch"))
    }


def _peak_memory(device: torch.device, stage: str) -> dict[str, float]:
    """Measure peak memory in MB (10⁶ bytes), as far as the system tells."""
    metrics = {}
    if (peak := peak_memory()) is not None:
        metrics[f"memory/{stage}peak_mb"] = peak / 1e6
    if device.type == "cuda":
        metrics[f"memory/{stage}gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / 1e6
    return metrics
