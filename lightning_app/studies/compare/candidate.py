"""One method of a comparison: its setting, the run that trains its recogniser, and what that says."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from datamodules.same_description import same_desensitizer, summary
from lightning_app.attacks.trained import load_restorer
from lightning_app.cli.fit_config import (
    FitSettings,
    difference,
    read_fit_settings,
    saved_fit_settings,
    saved_measured,
)
from lightning_app.core.files import is_plain_name
from lightning_app.core.measurement import Measurement, find
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.known import trusting
from lightning_app.report.tables import read_metrics
from lightning_app.runs.folder import LAST
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare.methods import Method
from lightning_app.studies.compare.named_run import run_of_seed
from lightning_app.studies.config_place import said_at

log = logging.getLogger("faceveil")
_SITUATIONS = ("", "_s2", "_s3")


class ComparedMethod:
    """One method, read and checked, before anything is trained.

    Args:
        label: its name in tables.
        method: as the config has it.
        name: the comparison's name, and its folder's.
        runs: folder of runs.
        seed: of its run.

    Attributes:
        setting: what its config says.
        run: folder of its run.
        commands: the command lines that were needed, as they are typed.

    Raises:
        FileNotFoundError, ValueError: the config, or what it names, cannot be used; begins with `methods.LABEL`.
    """

    def __init__(self, label: str, method: Method, name: str, runs: Path, seed: int) -> None:
        self.label, self.method, self.folder = label, method, runs / name
        self.common = ["--config", method.config, "--seed_everything", str(seed), *method.args]
        with said_at(f"methods.{label}"):
            self.setting: FitSettings = read_fit_settings(self.common)
            data = self.setting.data
            data.desensitizer.prepare((data.size, data.size))
        if self.setting.verification is None:
            raise ValueError(
                f"methods.{label}: {method.config} has no callbacks.LFWVerification, which says on whom to measure"
            )
        for kind, given in (("checkpoint", method.checkpoint), ("restorer", method.restorer)):
            if given is not None and not Path(given).exists():
                raise FileNotFoundError(f"methods.{label}.{kind} {given}: no such file; train it first")
        if method.run and not is_plain_name(method.run):
            raise ValueError(
                f"methods.{label}.run: {method.run!r}; give a plain name, the folder is {runs}/<run>"
            )
        own = self.folder / jobs.slug(label)
        with said_at(f"methods.{label}"):
            own_seed = int(self.setting.description["seed_everything"])  # its args may give it another
            self.run = run_of_seed(runs, method.run, own_seed) if method.run else own
        self.description: dict[str, object] = {
            "about": self.setting.description,
            "veil": self.setting.data.desensitizer.describe(),
        }
        self._read: tuple[tuple[object, ...], CheckpointFacts] | None = None
        with trusting(self.setting.classes):  # what the user's own config names may be named by a checkpoint
            self._checked(own)
        self.commands: list[str] = []

    @property
    def figure(self) -> str:
        """The log key of its accuracy."""
        assert self.setting.verification is not None
        return f"{self.setting.verification.name}/accuracy"

    def _checked(self, own: Path) -> None:
        """Refuse a run that was made otherwise, before anything is trained."""
        if self.method.restorer is not None:
            self._check_restorer(self.method.restorer)
        if self.method.checkpoint is not None:
            given = Path(self.method.checkpoint)
            try:
                facts = self._stored()
                facts.check_normalised(self.setting.data.mean, self.setting.data.std)
            except (ValueError, OSError) as error:
                raise ValueError(f"methods.{self.label}: {error}") from error
            home = given if given.is_dir() else given.parent.parent
            # its run's metrics are another desensitizer's, or of other pairs? then it is verified anew, here
            self.run = home if self._is_measured_in(home, facts) else own
            if self.run == own:
                self.description |= {"checkpoint": facts.sha256, "measured": self.setting.measured}
                jobs.check_record(self._record, own, plain(self.description))
            return
        made = saved_fit_settings(self.run)
        other = None if made is None else difference(made, self.setting.description)
        # metrics that are there were measured as its config says, not as ours does
        measured = (
            saved_measured(self.run, self.setting.verifier) if jobs.finished(self.run, self.figure) else None
        )
        if other is None and measured is not None:
            ours = self.setting.measured["verification"]
            other = difference(measured["verification"], ours, "verification.")
        if other is not None:
            raise ValueError(
                f"methods.{self.label}: {self.run} holds a run with other settings ({other}): change the method, or "
                "name another run"
            )

    def _is_measured_in(self, home: Path, facts: CheckpointFacts) -> bool:
        """Return whether a run's metrics are this method's: of its desensitizer, and of the same verification."""
        ours, made = self.setting.data.desensitizer.describe(), saved_measured(home, self.setting.verifier)
        return (
            jobs.finished(home, self.figure)
            and facts.desensitizer is not None
            and same_desensitizer(facts.desensitizer, ours)
            and made is not None
            and difference(made, self.setting.measured) is None
        )

    def _check_restorer(self, path: str) -> None:
        """Warn where the attacker that was given is one of another method."""
        try:
            theirs = load_restorer(path).desensitizer
        except (ValueError, OSError) as error:
            raise ValueError(f"methods.{self.label}.restorer: {error}") from error
        ours = self.setting.data.desensitizer.describe()
        if not same_desensitizer(theirs, ours):
            log.warning(
                "methods.%s.restorer: %s was trained against %s, this is %s: an attacker of this very method may do "
                "better.", self.label, path, summary(theirs) if theirs else "a method it does not tell", summary(ours),
            )  # fmt: skip

    @property
    def _record(self) -> Path:
        return self.folder / "jobs" / f"{jobs.slug(self.label)}.json"

    @property
    def checkpoint(self) -> Path:
        """Where the recogniser lies, or will lie."""
        return self.run / LAST if self.method.checkpoint is None else Path(self.method.checkpoint)

    def train(self) -> bool:
        """Train or verify the recogniser unless that is done; tell whether it is done."""
        place = ["--runs", str(self.run.parent), "--name", self.run.name]
        if self.method.checkpoint is None:
            args = ["fit", *self.common, *place]
        elif jobs.finished(self.run, self.figure):
            return True
        else:
            args = ["validate", *self.common, *place, "--ckpt_path", str(self.checkpoint)]
        self.commands.append(typed(args))
        jobs.write_record(self._record, self.run, plain(self.description))
        return jobs.do(args, self.run, self._log(""), self.folder.name, figure=self.figure)

    def facts(self) -> CheckpointFacts:
        """Return what the trained recogniser's checkpoint says of itself.

        Raises:
            ValueError: a run of that name was trained on faces desensitized in another way.
        """
        facts = self._stored()
        theirs, ours = facts.desensitizer, self.setting.data.desensitizer.describe()
        if theirs is not None and not same_desensitizer(theirs, ours):
            text = (
                f"methods.{self.label}: {facts.path} was trained on faces desensitized by {summary(theirs)}, this is "
                f"{summary(ours)}"
            )
            if self.method.checkpoint is None:
                raise ValueError(f"{text}: name another run")
            log.warning(text)
        return facts

    def _stored(self) -> CheckpointFacts:
        """Read the checkpoint's facts; a file that is still the same is read once."""
        file = self.checkpoint / LAST if self.checkpoint.is_dir() else self.checkpoint
        found = file.stat() if file.is_file() else None
        key = () if found is None else (file, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._read is None or not key or self._read[0] != key:
            self._read = key, read_recogniser(self.checkpoint)[1]
        return self._read[1]

    def utility(self) -> dict[str, float]:
        """Return accuracies with their intervals as the run tells them, and the share of pixels hidden.

        Keys: `accuracy` (situation 1), `accuracy_s2`, `accuracy_s3`, each with `_low` and `_high`, `std`, `auc`;
        `mask_ratio` where there is a mask. Where nothing is hidden the three situations are one.
        """
        out: dict[str, float] = {}
        desensitizer = self.setting.data.desensitizer
        ratio = desensitizer.describe().get("mask_ratio")
        if isinstance(ratio, float):
            out["mask_ratio"] = ratio
        if not jobs.finished(self.run, self.figure):
            return out
        read = read_metrics(self.run / "metrics.json")
        found = {key: float(value) for key, value in read.items() if isinstance(value, int | float)}
        for situation in _SITUATIONS:
            source = situation if desensitizer.hides else ""
            if (one := find(found, f"{self.figure}{source}", source)) is not None:
                out |= Measurement(f"accuracy{situation}", one.value, one.low, one.high).flat()
        head = self.figure.removesuffix("accuracy")
        return out | {key: found[head + key] for key in ("std", "auc") if head + key in found}

    def _log(self, tail: str) -> Path:
        return self.folder / "logs" / f"{jobs.slug(self.label)}{tail}.log"


def typed(args: list[str]) -> str:
    """Write a command line as it is typed.

    Args:
        args: after `main.py`.
    """
    quoted = [f"'{a}'" if any(c in a for c in ' "{}*') else a for a in args]
    return f"python main.py {' '.join(quoted)}"


def plain(value: object) -> dict[str, Any]:
    """Make what JSON keeps of a value.

    Args:
        value: a mapping; what JSON has no form for becomes its words.
    """
    made: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return made
