"""From whom the linkers of a comparison learn: it has to be the judge that is named, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

from lightning_app.cli.fit_config import FitSettings, read_fit_settings
from lightning_app.desensitize import is_clean
from lightning_app.evaluation import Judge
from lightning_app.evaluation.judges.linking import teacher_hashes
from lightning_app.models.linker import Linker
from lightning_app.studies.compare.attackers import attacker_args, teacher_args
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.judges import GivenJudge, JudgeMaker
from lightning_app.studies.compare.methods import Linking
from lightning_app.studies.config_place import said_at

_SHOWN = 12  # digits of a hash in a message


def linker_settings(
    linker: Linking, judges: Mapping[str, GivenJudge], candidates: Mapping[str, ComparedMethod], seed: int
) -> FitSettings:
    """Read what a linker would be trained with on clean faces, its teacher among it.

    Args:
        linker: what is trained.
        judges: as the config has them.
        candidates: the methods.
        seed: of its run.

    Raises:
        FileNotFoundError, ValueError: its config cannot be used; begins with its label.
    """
    first = next(iter(candidates.values()))
    with said_at(linker.label):
        return read_fit_settings(
            [*attacker_args(first, linker, seed, clean=True), *teacher_args(linker, judges, candidates)]
        )


def check_teacher(linker: Linking, setting: FitSettings, judge: Judge) -> bool:
    """Check that what a linker would learn from is there, and is the judge that it is compared by.

    Args:
        linker: what is trained.
        setting: see `linker_settings`.
        judge: the one that `Linking.teacher` names.

    Returns:
        True, always.

    Raises:
        FileNotFoundError: the checkpoint that its config names is not there.
        ValueError: its config names no teacher, one that cannot be learnt from, or another than the judge; or it trains
            no `Linker`.
    """
    with said_at(linker.label):
        taught = _linker(linker, setting).teacher_hash(setting.data.size)
        known = teacher_hashes(judge)
        if taught not in known:
            raise ValueError(
                f"model.teacher in {linker.config} has the hash {taught[:_SHOWN]}, the judge {linker.teacher!r}, which "
                f"{linker.label}.teacher names, has {known[0][:_SHOWN]}: give both the same class_path and init_args, "
                "or another judge's label"
            )
    return True


def check_teacher_early(
    linker: Linking,
    judges: Mapping[str, GivenJudge],
    candidates: Mapping[str, ComparedMethod],
    maker: JudgeMaker,
    seed: int,
) -> None:
    """Check a linker's teacher before the first training; one that is still to be trained is asked by its config.

    Args:
        linker: what is trained.
        judges: as the config has them.
        candidates: the methods.
        maker: of judges.
        seed: of its run.

    Raises:
        FileNotFoundError, ValueError: see `check_teacher`.
    """
    setting, who = linker_settings(linker, judges, candidates, seed), judges[linker.teacher]
    if not (isinstance(who, str) and who in candidates):
        check_teacher(linker, setting, maker.made(who, next(iter(candidates.values())).setting.data.size))
        return
    with said_at(linker.label):
        model, method = _linker(linker, setting), candidates[who].setting.data
        if candidates[who].method.checkpoint is not None:  # which may be of another method
            model.teacher_hash(setting.data.size)
        elif not is_clean(method.desensitizer.describe()):
            raise ValueError(
                f"teacher: {linker.teacher!r} is the recogniser of {who}, which is trained on desensitized faces; give "
                "the label of a judge that is trained on clean ones"
            )
        elif method.size != setting.data.size:
            raise ValueError(
                f"teacher: {linker.teacher!r} is the recogniser of {who}, which takes faces of {method.size} px, those "
                f"of {linker.config} have {setting.data.size}; give both the same size"
            )


def _linker(linker: Linking, setting: FitSettings) -> Linker:
    if not isinstance(setting.model, Linker):
        raise ValueError(
            f"config: {linker.config} trains a {type(setting.model).__name__}; give one that trains a Linker, such as "
            "lfwa_quick_linker.yaml"
        )
    return setting.model
