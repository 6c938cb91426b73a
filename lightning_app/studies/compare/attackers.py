"""Attackers that are trained on a method of a comparison: their runs, and from whom they learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.face import FaceDataModule
from lightning_app.attacks import Attack, Unshuffle
from lightning_app.cli.fit_config import difference, read_fit_settings
from lightning_app.evaluation import Judge
from lightning_app.evaluation.judges.named import NAMES
from lightning_app.runs.folder import LAST
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare.candidate import ComparedMethod, plain, typed
from lightning_app.studies.compare.methods import AttackerRun, Linking
from lightning_app.studies.config_place import said_at

# what else lies in a comparison's folder
_WRITTEN = ("jobs", "logs", "parts", "metrics.json", "compare.csv", "compare.png", "attackers.png", "report.html",
            "report.csv", "report.json")  # fmt: skip
TRAINED = "time/fit_s"  # a metric that every `fit` leaves, whatever it trains


def train_attacker(
    candidate: ComparedMethod, restorer: AttackerRun, seed: int, more: Sequence[str] = (), clean: bool = False,
    before: Unshuffle | None = None,
) -> Path | None:  # fmt: skip
    """Train an attacker on a method, of other people's faces, unless that is done.

    Args:
        candidate: the method.
        restorer: what to train.
        seed: of its run.
        more: further overrides.
        clean: train it on clean faces instead, once for all methods: a linker's ceiling.
        before: what puts channels back before it attacks: it is trained on that one's reference.

    Returns:
        Its checkpoint; None where the run failed.

    Raises:
        ValueError: the config cannot be used, or a run of that name was made otherwise.
    """
    run = attacker_run(candidate, restorer, clean)
    common = [*attacker_args(candidate, restorer, seed, clean, before), *more]
    args = ["fit", *common, "--runs", str(run.parent), "--name", run.name]
    candidate.commands.append(typed(args))
    jobs.write_record(
        _record(candidate, run), run, _described(candidate, common, clean or before is not None)
    )
    output = candidate.folder / "logs" / f"{run.name}.log"
    done = jobs.do(args, run, output, candidate.folder.name, figure=TRAINED)
    return run / LAST if done else None


def check_attacker(
    candidate: ComparedMethod, restorer: AttackerRun, seed: int, more: Sequence[str] = (), clean: bool = False,
    before: Unshuffle | None = None,
) -> None:  # fmt: skip
    """Refuse an attacker that was trained on a method with other settings under the same name; trains nothing.

    Args:
        candidate: the method.
        restorer: the attacker.
        seed: of its run.
        more: further overrides.
        clean: of the one that is trained on clean faces.
        before: what puts channels back before it attacks.

    Raises:
        ValueError: it was; the message says which setting differs.
    """
    run = attacker_run(candidate, restorer, clean)
    record = _record(candidate, run)
    if not record.is_file():
        return
    common = [*attacker_args(candidate, restorer, seed, clean, before), *more]
    wanted = _described(candidate, common, clean or before is not None)
    made: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    parts = (("about", ""), ("veil", "desensitizer."))
    differing = (difference(made.get(key) or {}, wanted[key], name) for key, name in parts)
    where = f"{restorer.label} on {'clean faces' if clean else f'methods.{candidate.label}'}"
    if (other := next(filter(None, differing), None)) is not None:
        raise ValueError(
            f"{where}: {run} holds a run with other settings ({other}): give the settings of before, or another "
            f"--name, or remove {run} and {record}"
        )
    with said_at(where):
        jobs.check_record(record, run, wanted)


def teacher_args(
    linker: AttackerRun, judges: Mapping[str, str | Judge], candidates: Mapping[str, ComparedMethod]
) -> list[str]:
    """Return the override that names a linker's teacher; empty of any other attacker, or where its config names it.

    Args:
        linker: the attacker.
        judges: as the config has them.
        candidates: the methods.
    """
    given = judges.get(linker.teacher) if isinstance(linker, Linking) else None
    path = candidates[given].checkpoint if isinstance(given, str) and given in candidates else given
    return ["--model.teacher", str(path)] if isinstance(path, str | Path) and path not in NAMES else []


def _record(candidate: ComparedMethod, run: Path) -> Path:
    return candidate.folder / "jobs" / f"{run.name}.json"


def _described(candidate: ComparedMethod, common: list[str], other: bool) -> dict[str, Any]:
    """Return what a run's record says of it; `other` where it does not attack the method as it is."""
    setting = read_fit_settings(common)
    desensitizer = setting.data.desensitizer if other else candidate.setting.data.desensitizer
    return plain({"about": setting.description, "veil": desensitizer.describe()})


def attacker_run(candidate: ComparedMethod, restorer: AttackerRun, clean: bool = False) -> Path:
    """Return the folder of an attacker's run.

    Args:
        candidate: the method.
        restorer: the attacker.
        clean: of the one that is trained on clean faces.
    """
    of = "clean" if clean else jobs.slug(candidate.label)
    return candidate.folder / f"{of}_{jobs.slug(restorer.label)}"


def check_folders(candidates: Mapping[str, ComparedMethod], attackers: Sequence[AttackerRun]) -> None:
    """Refuse labels by which two runs of a comparison, or a run and a file of its own, would share a folder.

    Args:
        candidates: the methods.
        attackers: what is trained on each that hides anything; linkers are trained on clean faces as well.

    Raises:
        ValueError: two would; names both and their folder.
    """
    first = next(iter(candidates.values()))
    taken = dict.fromkeys(_WRITTEN, "what the comparison writes there")
    runs = [(jobs.slug(label), f"methods.{label}") for label, c in candidates.items() if c.method.train]
    # linkers of one student have one run on clean faces, the first one's
    students = {one.student: one for one in reversed(attackers) if isinstance(one, Linking)}
    runs += [
        (attacker_run(first, one, clean=True).name, f"{one.label} on clean faces")
        for one in students.values()
    ]
    runs += [
        (attacker_run(c, one).name, f"{one.label} on methods.{label}")
        for one in attackers
        for label, c in candidates.items()
        if c.setting.desensitizer
    ]
    for name, what in runs:
        if name in taken:
            raise ValueError(
                f"{what} and {taken[name]} would share the folder {first.folder / name}: rename one of them"
            )
        taken[name] = what


def home_of(checkpoint: str | Path) -> Path:
    """Return the folder of the run that a checkpoint is of.

    Args:
        checkpoint: a file in `checkpoints/`, or that folder itself.
    """
    given = Path(checkpoint)
    return given if given.is_dir() else given.parent.parent


def attacker_args(
    candidate: ComparedMethod,
    restorer: AttackerRun,
    seed: int,
    clean: bool = False,
    before: Unshuffle | None = None,
) -> list[str]:
    """Return the command line that trains an attacker on a method, after `fit`.

    Args:
        candidate: the method.
        restorer: the attacker.
        seed: of its run.
        clean: on clean faces instead.
        before: what puts channels back: on its reference instead.
    """
    desensitizer = None if clean else candidate.setting.desensitizer
    if before is not None and not clean:
        description = dict(before.reference.describe())
        name = description.pop("method")
        desensitizer = {"class_path": f"{type(before.reference).__module__}.{name}", "init_args": description}
    return ["--config", restorer.config, "--seed_everything", str(seed), *restorer.args,
            "--data.init_args.desensitizer", json.dumps(desensitizer)]  # fmt: skip


def meets(
    candidate: ComparedMethod, restorer: AttackerRun, seed: int, before: Unshuffle | None = None
) -> bool:
    """Return whether an attacker can be trained on a method: it hides, and the attacker takes what it releases.

    Args:
        candidate: the method.
        restorer: the attacker; some take pictures alone (`pictures_only`).
        seed: of its run.
        before: what puts channels back before it: it attacks what that one can be mounted on.

    Raises:
        FileNotFoundError, ValueError: its config cannot be used.
    """
    if not candidate.setting.desensitizer:
        return False
    if before is not None and before.against(candidate.setting.data.desensitizer) is None:
        return False
    if candidate.setting.data.desensitizer.is_image:
        return True
    model = read_fit_settings(attacker_args(candidate, restorer, seed)).model
    return not getattr(model, "pictures_only", False)


def clean_data(candidate: ComparedMethod, restorer: AttackerRun, seed: int) -> FaceDataModule:
    """Return an attacker's data without any desensitizer.

    Args:
        candidate: the method.
        restorer: the attacker.
        seed: of its run.

    Raises:
        FileNotFoundError, ValueError: its config cannot be used.
    """
    return read_fit_settings(attacker_args(candidate, restorer, seed, clean=True)).data


def mounted_before(learners: list[AttackerRun], attacks: Mapping[str, Attack]) -> dict[str, Unshuffle]:
    """Find what puts channels back before an attacker; see `AttackerRun.after`.

    Args:
        learners: attackers that are trained.
        attacks: label -> attack.

    Returns:
        Label of the attacker -> what is mounted before it.

    Raises:
        ValueError: an attacker names none of the attacks, or one that puts nothing back.
    """
    found = {}
    for one in learners:
        attack = attacks.get(one.after)
        if one.after and not isinstance(attack, Unshuffle):
            raise ValueError(
                f"{one.label}.after: {one.after!r}; give the label of an Unshuffle among the attacks: "
                f"{', '.join(label for label, a in attacks.items() if isinstance(a, Unshuffle)) or 'there are none'}"
            )
        if isinstance(attack, Unshuffle):
            found[one.label] = attack
    return found
