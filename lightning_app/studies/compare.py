"""The methods of a comparison: each one's setting, the runs that train it, and what those say."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader
from datamodules.same_description import brief, same_desensitizer
from lightning_app.attacks import Attack, TrainedRestorer
from lightning_app.attacks.trained import load_restorer
from lightning_app.cli.fit_config import (
    FitSettings,
    difference,
    read_fit_settings,
    saved_fit_settings,
    saved_measured,
    saved_reader,
)
from lightning_app.core.files import is_plain_name
from lightning_app.core.measurement import Measurement, find
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.known import Untrusted
from lightning_app.report.tables import read_metrics
from lightning_app.runs.folder import LAST
from lightning_app.studies import runner as jobs

log = logging.getLogger("faceveil")
_AT_A_TIME = 64  # images read for their hashes
_SITUATIONS = ("", "_s2", "_s3")
_TRAINED = "time/fit_s"  # a figure that every `fit` leaves, whatever it trains


@dataclass(frozen=True)
class Method:
    """A way to desensitize, and the recogniser that is trained on what it releases.

    Attributes:
        config: of `fit`.
        args: overrides, such as `[--data.desensitizer, lightning_app.desensitize.Mosaic]`.
        checkpoint: of a finished run; nothing is trained then. Its folder's metrics.json gives the accuracies where it
            was trained with this very desensitizer and verified alike; otherwise it is verified anew.
        run: name of the run's folder in `runs`, to share a run with others; by default one of the comparison's own.
        restorer: checkpoint of an attacker trained on this method, where the comparison shall not train one.
    """

    config: str
    args: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    run: str | None = None
    restorer: str | None = None


@dataclass(frozen=True)
class Restorer:
    """An attacker that is trained for each method, on faces of other people desensitized by that method.

    Attributes:
        config: of `fit`, of a `lightning_app.models.Inpainter`, `UNetRestorer` or `CGAN`.
        args: overrides; the desensitizer is the method's.
        label: what tables call it.
    """

    config: str
    args: list[str] = field(default_factory=list)
    label: str = "trained restorer"


@dataclass(frozen=True)
class Linking(Restorer):
    """A linker that is trained for each method, and once on clean faces: its own ceiling.

    Attributes:
        config: of `fit`, of a `lightning_app.models.Linker`.
        args: overrides; the desensitizer is the method's.
        label: what tables call it, as a judge.
        teacher: label of the judge whose embeddings of clean faces it learns. Of one that is given by `class_path`, the
            config names the same as `model.teacher`.
    """

    label: str = "linker"
    teacher: str = ""


class Candidate:
    """One method, read and checked, before anything is trained.

    Args:
        label: its name in tables.
        method: as the config has it.
        name: of the comparison.
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
        try:
            self.setting: FitSettings = read_fit_settings(self.common)
            data = self.setting.data
            data.desensitizer.prepare((data.size, data.size))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"methods.{label}: {error}") from error
        except (ValueError, OSError) as error:
            raise ValueError(f"methods.{label}: {error}") from error
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
        self.run = runs / method.run if method.run else own
        self.about: dict[str, object] = {
            "about": self.setting.about,
            "veil": self.setting.data.desensitizer.describe(),
        }
        self._read: tuple[tuple[object, ...], CheckpointFacts] | None = None
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
            # its run's figures are another desensitizer's, or of other pairs? then it is verified anew, here
            self.run = home if self._is_measured_in(home, facts) else own
            if self.run == own:
                self.about |= {"checkpoint": facts.sha256, "measured": self.setting.measured}
                jobs.check_record(self._record, own, _plain(self.about))
            return
        made = saved_fit_settings(self.run)
        other = None if made is None else difference(made, self.setting.about)
        # figures that are there were measured as its config says, not as ours does
        measured = saved_measured(self.run) if jobs.finished(self.run, self.figure) else None
        if other is None and measured is not None:
            ours = self.setting.measured["verification"]
            other = difference(measured["verification"], ours, "verification.")
        if other is not None:
            raise ValueError(
                f"methods.{self.label}: {self.run} holds a run with other settings ({other}): change the method, or "
                "name another run"
            )

    def _is_measured_in(self, home: Path, facts: CheckpointFacts) -> bool:
        """Return whether a run's figures are this method's: of its desensitizer, and of the same verification."""
        ours, made = self.setting.data.desensitizer.describe(), saved_measured(home)
        return (
            jobs.finished(home, self.figure)
            and facts.desensitizer is not None
            and same_desensitizer(facts.desensitizer, ours)
            and made is not None
            and difference(made, self.setting.measured) is None
        )

    def _check_restorer(self, path: str) -> None:
        """Say so where the attacker that was given is one of another method."""
        try:
            theirs = load_restorer(path).desensitizer
        except (ValueError, OSError) as error:
            raise ValueError(f"methods.{self.label}.restorer: {error}") from error
        ours = self.setting.data.desensitizer.describe()
        if not same_desensitizer(theirs, ours):
            log.warning(
                "methods.%s.restorer: %s was trained against %s, this is %s: an attacker of this very method may do "
                "better.", self.label, path, brief(theirs) if theirs else "a method it does not tell", brief(ours),
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
        self.commands.append(_typed(args))
        jobs.write_record(self._record, self.run, _plain(self.about))
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
                f"methods.{self.label}: {facts.path} was trained on faces desensitized by {brief(theirs)}, this is "
                f"{brief(ours)}"
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

    def train_restorer(
        self, restorer: Restorer, seed: int, more: Sequence[str] = (), clean: bool = False
    ) -> Path | None:
        """Train an attacker on this method, of other people's faces, unless that is done.

        Args:
            restorer: what to train.
            seed: of its run.
            more: further overrides.
            clean: train it on clean faces instead, once for all methods: a linker's ceiling.

        Returns:
            Its checkpoint; None where the run failed.

        Raises:
            ValueError: the config cannot be used, or a run of that name was made otherwise.
        """
        of = "clean" if clean else jobs.slug(self.label)
        run = self.folder / f"{of}_{jobs.slug(restorer.label)}"
        common = [*self.restorer_args(restorer, seed, clean), *more]
        args = ["fit", *common, "--runs", str(run.parent), "--name", run.name]
        self.commands.append(_typed(args))
        setting = read_fit_settings(common)
        desensitizer = setting.data.desensitizer if clean else self.setting.data.desensitizer
        about = {"about": setting.about, "veil": desensitizer.describe()}
        jobs.write_record(self.folder / "jobs" / f"{run.name}.json", run, _plain(about))
        output = self.folder / "logs" / f"{run.name}.log"
        done = jobs.do(args, run, output, self.folder.name, figure=_TRAINED)
        return run / LAST if done else None

    def restorer_args(self, restorer: Restorer, seed: int, clean: bool = False) -> list[str]:
        """Return the command line that trains an attacker on this method, after `fit`.

        Args:
            restorer: the attacker.
            seed: of its run.
            clean: on clean faces instead.
        """
        desensitizer = None if clean else self.setting.desensitizer
        return ["--config", restorer.config, "--seed_everything", str(seed), *restorer.args,
                "--data.init_args.desensitizer", json.dumps(desensitizer)]  # fmt: skip

    def meets(self, restorer: Restorer, seed: int) -> bool:
        """Tell whether an attacker can be trained on this method: it hides, and the attacker takes what it releases.

        Args:
            restorer: the attacker; an `Inpainter` takes pictures alone.
            seed: of its run.

        Raises:
            FileNotFoundError, ValueError: its config cannot be used.
        """
        if not self.setting.desensitizer:
            return False
        if self.setting.data.desensitizer.is_image:
            return True
        model = read_fit_settings(self.restorer_args(restorer, seed)).about["model"]
        return str(model["class_path"]).rpartition(".")[2] != "Inpainter"

    def clean_data(self, restorer: Restorer, seed: int) -> FaceDataModule:
        """Return an attacker's data without any desensitizer.

        Args:
            restorer: the attacker.
            seed: of its run.

        Raises:
            FileNotFoundError, ValueError: its config cannot be used.
        """
        return read_fit_settings(self.restorer_args(restorer, seed, clean=True)).data

    def known_to(self, restorer: Restorer | None, seed: int) -> Sequence[str]:
        """Name the identities that its trained attacker learns from.

        Args:
            restorer: what is trained where the method brings none; there must be one then.
            seed: of its run.

        Raises:
            FileNotFoundError, ValueError: the config, or the set it names, cannot be read.
        """
        if self.method.restorer is not None:
            given = Path(self.method.restorer)
            home = given if given.is_dir() else given.parent.parent
            return saved_reader(home, self.setting.classes).identities
        assert restorer is not None, "the method has no attacker"
        return read_fit_settings(self.restorer_args(restorer, seed)).data.reader.identities

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


def check_same_people(candidates: Mapping[str, Candidate]) -> None:
    """Refuse methods that are verified on different pairs: their figures could not be compared.

    Raises:
        ValueError: names the first two that differ.
        FileNotFoundError: a list or its images are not there.
    """
    first: tuple[str, list[Any]] | None = None
    for label, candidate in candidates.items():
        verification = candidate.setting.verification
        assert verification is not None
        reader = verification.open(candidate.setting.data)
        pairs = getattr(reader, "pairs", None)
        about = [reader.size, getattr(reader, "crop", None), getattr(pairs, "names", None)]
        about += [getattr(pairs, key).tolist() for key in ("a", "b", "same", "folds")] if pairs else []
        if first is None:
            first = label, about
        elif first[1] != about:
            raise ValueError(
                f"methods.{label} is verified on other pairs, crop or size than methods.{first[0]}: give all methods "
                "the same callbacks.LFWVerification and size"
            )


def warn_of_known_people(
    candidates: Mapping[str, Candidate], attacks: Mapping[str, Attack], restorer: Restorer | None, seed: int
) -> None:
    """Say so where an attacker has learnt from people whose images are attacked: it would look better than it is.

    Args:
        candidates: label -> method; all are verified on the same images.
        attacks: label -> attack.
        restorer: the attacker that is trained for each method, if any.
        seed: of its runs.

    Raises:
        FileNotFoundError, ValueError: the verification's list or its images cannot be read, or the config beside an
            attacker's checkpoint names a class that is not trusted.
    """
    first = next(iter(candidates.values())).setting
    assert first.verification is not None
    people = set(first.verification.open(first.data).identities)
    learnt: dict[str, Callable[[], Sequence[str]]] = {
        label: partial(_known_to, attack, first.classes) for label, attack in attacks.items()
    }
    for label, candidate in candidates.items():
        if candidate.method.restorer is not None:
            learnt[f"methods.{label}.restorer"] = partial(candidate.known_to, restorer, seed)
        elif restorer is not None and candidate.setting.desensitizer is not None:
            learnt.setdefault(restorer.label, partial(candidate.known_to, restorer, seed))
    for name, known in learnt.items():
        try:
            those = set(known())
        except Untrusted as error:  # for the user to decide, before anything is trained
            raise ValueError(f"{name}: {error}") from error
        except (ValueError, OSError) as error:
            log.warning(
                "%s: whether it has learnt from people who are attacked cannot be checked (%s).", name, error
            )
            continue
        if those and not people:
            log.warning(
                "%s: whether it has learnt from people who are attacked cannot be checked: %s does not tell who is on "
                "its images.", name, first.verification.name,
            )  # fmt: skip
        elif shared := those & people:
            log.warning(
                "%s: %d of the %d people who are attacked are among those it has learnt from: it looks better than it "
                "is. Give it other people's faces.", name, len(shared), len(people),
            )  # fmt: skip


def _known_to(attack: Attack, trust: Collection[str]) -> Sequence[str]:
    """Name the identities that an attack has learnt from; those of a trained network stand in its run's config."""
    trained = attack if isinstance(attack, TrainedRestorer) else getattr(attack, "then", None)
    if not isinstance(trained, TrainedRestorer):
        return attack.people()
    return [*attack.people(), *saved_reader(trained.restorer.path.parent.parent, trust).identities]


def check_strangers(candidate: Candidate, attackers: Sequence[Restorer], seed: int) -> None:
    """Refuse attackers that would learn from people who are attacked, by name or by picture.

    Args:
        candidate: a method; all are verified on the same images, and an attacker's people are the same for all.
        attackers: what is trained for each.
        seed: of their runs.

    Raises:
        FileNotFoundError, ValueError: somebody is among both, or a set cannot be read.
    """
    assert candidate.setting.verification is not None
    attacked = candidate.setting.verification.open(candidate.setting.data) if attackers else None
    found: dict[str, tuple[set[str], int]] = {}  # attackers mostly learn from the same people
    for attacker in attackers:
        assert attacked is not None
        setting = read_fit_settings(candidate.restorer_args(attacker, seed))
        key = json.dumps(setting.about["data"]["init_args"].get("reader"), default=str)
        if key not in found:
            found[key] = in_common(setting.data.reader.open(), attacked)
        shared_people, shared_images = found[key]
        if shared_people or shared_images:
            raise ValueError(
                f"{attacker.label}: {len(shared_people)} of the people who are attacked, and {shared_images} of their "
                f"images, are among those it would learn from{_named(shared_people)}: give it other people's faces"
            )


def in_common(one: FaceReader, other: FaceReader) -> tuple[set[str], int]:
    """Find who and what is in two sets of faces.

    Args:
        one: faces.
        other: faces.

    Returns:
        Names of people in both, and how many images of `other` are in `one`, by the SHA-256 of their pixels.
    """
    theirs = _hashes(one)
    return set(one.identities) & set(other.identities), sum(digest in theirs for digest in _hashes(other))


def _hashes(reader: FaceReader) -> set[str]:
    found = set()
    for rows in torch.arange(len(reader)).split(_AT_A_TIME):
        images = reader.__getitems__(rows.tolist())["image"]
        found |= {hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images}
    return found


def _named(people: set[str]) -> str:
    return f" ({', '.join(sorted(people)[:3])}{', …' if len(people) > 3 else ''})" if people else ""


def describe(candidate: Candidate) -> str:
    """Say in a few words what a method does.

    Args:
        candidate: the method.
    """
    about = dict(candidate.setting.data.desensitizer.describe())
    method = str(about.pop("method"))
    if not candidate.setting.data.desensitizer.hides:
        return "nothing is hidden"
    desensitizer = candidate.setting.data.desensitizer
    if not desensitizer.is_image:
        method = f"{method} (no picture: {desensitizer.out_channels} channels; seen as its `look` shows it)"
    if isinstance(steps := about.pop("steps", None), list):
        method += f": {' + '.join(str(step['method']) for step in steps)}"
    if "key_hash" in about:
        about["key"] = str(about.pop("key_hash"))[:12]
    if "mask_hash" in about:
        about = {
            "mask": about.get("mask", "drawn"),
            "hidden": f"{100 * float(str(about.get('mask_ratio', 'nan'))):.1f} %",
            "hash": str(about["mask_hash"])[:12],
        }
    return ", ".join([method, *(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                                for key, value in about.items() if value is not None)])  # fmt: skip


def _typed(args: list[str]) -> str:
    quoted = [f"'{a}'" if any(c in a for c in ' "{}*') else a for a in args]
    return f"python main.py {' '.join(quoted)}"


def _plain(value: object) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value, default=str))
    return plain
