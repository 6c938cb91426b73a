"""The comparison from beginning to end: what is asked for, what is trained, what is measured, what is reported."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from lightning.pytorch.loggers import Logger

from lightning_app.attacks import Attack
from lightning_app.core.progress import progress_bar
from lightning_app.distributed.device import choose_device
from lightning_app.distributed.precision import Precision, warn_of_emulation
from lightning_app.evaluation import Judge
from lightning_app.evaluation.privacy import Subjects
from lightning_app.models.known import trusting
from lightning_app.report.compare import parse_axis
from lightning_app.runs.send import every_logger
from lightning_app.studies.compare.attackers import mounted_before
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.choosing import chosen, longer, with_args
from lightning_app.studies.compare.contaminated import contaminated
from lightning_app.studies.compare.early import check_asked, check_early
from lightning_app.studies.compare.judges import OWN, GivenJudge, JudgeMaker, in_words
from lightning_app.studies.compare.measurer import Measurer
from lightning_app.studies.compare.measuring import measure_all
from lightning_app.studies.compare.methods import AttackerRun, Linking, Method
from lightning_app.studies.compare.named_run import renamed
from lightning_app.studies.compare.outcome import Outcome
from lightning_app.studies.compare.report import write_report
from lightning_app.studies.compare.strangers import check_same_people, check_strangers
from lightning_app.studies.compare.training import train_all, train_linkers

log = logging.getLogger("faceveil")


def compare(
    name: str,
    methods: dict[str, Method],
    judges: dict[str, str | Judge] | None = None,
    recognisers: dict[str, str | Judge] | None = None,
    attacks: dict[str, Attack] | None = None,
    restorer: AttackerRun | None = None,
    attackers: dict[str, AttackerRun] | None = None,
    linker: Linking | None = None,
    linkers: dict[str, Linking] | None = None,
    args: list[str] | None = None,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    budget: float = 1.0,
    privacy_axis: str = "rank1",
    seed: int = 0,
    examples: int = 4,
    show_faces: bool = False,
    mean: float = 0.5,
    std: float = 0.5,
    batch_size: int = 64,
    precision: Precision = "32-true",
    bootstrap: int = 1000,
    device: str = "auto",
    logger: Logger | list[Logger] | None = None,
    runs: str = "runs",
    command: str | None = None,
) -> dict[str, dict[str, float]]:
    """Desensitize by every method, train on each, attack each, and say what it keeps and what it gives away.

    The recogniser of each method is an ordinary, resumable `fit`, and so is its trained attacker. Then, on the
    images of the verification set: likeness of the released and of the restored images with the clean ones, and
    who is found again in a gallery of one clean image per person. A run or an attack that fails does not stop
    the others; given again, the command does only what is missing. In `<runs>/<name>/`: `metrics.json`,
    `compare.csv`, `compare.png`, `report.html`, `parts/` (metrics per image and pair; no face).

    Args:
        name: the comparison's name, and its folder's.
        methods: label -> method, the rows.
        judges: label -> who tries to recognise people, by `class_path`. Shorthand: the label of a method (its
            recogniser), a checkpoint (a RecogniserJudge of it), or `dlib` (a DlibJudge). How well each tells
            clean faces apart is reported beside what it says of methods.
        recognisers: label -> who compares two faces as seen (Table 2): as in `judges`, or `own`, the method's; by
            default `own`.
        attacks: label -> attack, by `class_path`; one that needs a mask is left out where there is none, and one that
            needs pictures where a method releases none. None may have learnt from people who are attacked, nor from
            faces of another size than the methods', nor may the three below.
        restorer: an attacker to train for each method that hides anything and releases pictures.
        attackers: label -> a further attacker to train for each method that hides anything and releases what it takes:
            a UNetRestorer or a CGAN takes representations too. Nobody who is attacked may be among their people.
        linker: a Linker to train for each method that hides anything, which then competes as a judge, as released
            alone; its own ceiling, the same trained and tested on clean faces, stands where judges' accuracy does.
        linkers: label -> a further linker, such as one that goes on from what `after` puts back.
        args: overrides of every run, recognisers' and attackers', before their own, such as
            `[--data.reader.init_args.size=64]`. The readers of `attacks` and `restorer` by checkpoint are not runs.
        only: labels of the methods that are compared; by default all.
        skip: labels of attacks, attackers or the linker that are left out.
        budget: how many times as many epochs attackers are trained as their configs say, and at most how many times as
            many steps where these have both; the same for every method.
        privacy_axis: what stands for privacy in the picture: rank1, rank5, verification, similarity (each also
            as MEASURE/JUDGE), dssim, psnr or psnr_hidden, after the strongest attack.
        seed: seed of the runs.
        examples: faces shown in the report; drawn ones.
        show_faces: show faces of the verification set as well, clean ones among them: the report must not leave.
        mean: subtracted from every channel, on [0,1] pixels, for judges given as a checkpoint.
        std: what every channel is divided by then.
        batch_size: images at a time.
        precision: precision of judges and recognisers; `bf16-mixed` and `16-mixed` embed under autocast.
        bootstrap: resamples behind the 95 % intervals; 0 for none.
        device: `cpu`, `cuda`, `cuda:1`; auto takes the GPU where there is one.
        logger: loggers by `class_path`; W&B gets the table and the picture, others the numbers. No face is logged.
        runs: folder in which `<name>/` lies.
        command: the command line, for the report.

    Returns:
        Method -> metrics; those of an attack under `ATTACK/`.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: something failed; names it, after all else was done.
        ValueError: an argument cannot be used.

    Source: On Mask-based Image Set Desensitization with Recognition Support, section 4.3, Tables 2, 4 and 5.
    """
    who: dict[str, GivenJudge] = dict(judges or {})
    compared: dict[str, GivenJudge] = dict(recognisers or {OWN: OWN})
    methods = {label: with_args(m, args) for label, m in chosen("only", methods, only).items()}
    learners = ([restorer] if restorer else []) + [replace(r, label=n) for n, r in (attackers or {}).items()]
    learners = [with_args(one, args) for one in learners]
    linking = ([linker] if linker else []) + [replace(r, label=n) for n, r in (linkers or {}).items()]
    linking = [with_args(one, args) for one in linking]
    there = [*(attacks or {}), *(one.label for one in (*learners, *linking))]
    left = set(chosen("skip", dict.fromkeys(there), skip)) if skip else set()
    mounted: dict[str, Attack] = {label: one for label, one in (attacks or {}).items() if label not in left}
    learners = [longer(one, budget) for one in learners if one.label not in left]
    restorer = next((one for one in learners if restorer and one.label == restorer.label), None)
    linking = [longer(one, budget) for one in linking if one.label not in left]
    trained_ones = [*learners, *linking]
    check_asked(name, methods, who, compared, mounted, learners, linking, examples, bootstrap)
    before = mounted_before(trained_ones, mounted)
    axis = parse_axis(privacy_axis, [*who, *(one.label for one in linking)])
    where = choose_device(device)
    warn_of_emulation(precision, where, "--precision")
    candidates = {label: ComparedMethod(label, m, name, Path(runs), seed) for label, m in methods.items()}
    check_same_people(candidates)
    # what stands in a config of the user's own is trusted where checkpoints name it again
    with trusting(frozenset().union(*(one.setting.classes for one in candidates.values()))):
        maker = JudgeMaker(who, compared, candidates, where, mean, std, precision)
        early = check_early(
            candidates,
            maker,
            who,
            compared,
            mounted,
            trained_ones,
            seed,
            where,
            before,
            restorer,
        )
        for line in early:
            log.info("Time: %s", line)
        unknown = check_strangers(candidates, mounted, trained_ones, seed, restorer)
        trained = restorer or (AttackerRun("") if any(m.restorer for m in methods.values()) else None)
        labels = [*mounted, *([trained.label] if trained else []), *(one.label for one in learners)]
        linked = {one.label: f"trained on each method; learnt from {one.teacher}" for one in linking}
        out = Outcome(
            name=name, folder=Path(runs) / name, candidates=candidates, axis=axis,
            attacks=list(dict.fromkeys(labels)),
            judges=in_words(who) | linked,
            recognisers=in_words(compared),
            linkers=list(linked),
            contaminated=contaminated({"judges": who, "recognisers": compared}, linking, candidates),
            loggers=every_logger(logger),
            command=command or f"python main.py compare ({name})",
        )  # fmt: skip
        if other := renamed(candidates):
            log.info("Runs of seed %d: %s", seed, other)
            out.facts[f"runs of seed {seed}"] = other
        if unknown:
            out.facts["people that attackers have learnt from"] = " ".join(unknown)
        with progress_bar(share=True) as bar:
            maker.ready, restorers = train_all(candidates, learners, trained, seed, out, bar, before)
            first = next(iter(candidates.values())).setting
            assert first.verification is not None
            subjects = Subjects(first.verification.open(first.data), batch_size, where)
            out.count(subjects)
            measurer = Measurer(subjects, maker.judges(subjects, out), bootstrap, out.folder / "parts")
            out.cosine = [label for label, one in measurer.judges.items() if one.metric == "cosine"]
            links, ceilings = train_linkers(candidates, linking, who, measurer, seed, out, before)
            blind: dict[str, str] = {}
            clean = out.tried("judges on clean faces", partial(measurer.clean, blind)) or {}
            for label, error in blind.items():
                out.tell(f"judge {label}: {error}")
            out.judged(clean | ceilings)
            measure_all(
                out,
                measurer,
                maker,
                mounted,
                restorers,
                links,
                bar,
                partial(write_report, out),
                examples,
                show_faces,
                before,
            )
        write_report(out, final=True)
        if out.failed:
            raise ChildProcessError(
                f"{len(out.failed)} steps failed ({'; '.join(out.failed[:3])}{'; …' if len(out.failed) > 3 else ''}): "
                f"logs of runs are in {out.folder / 'logs'}; given again, the command does only what is missing"
            )
        return out.results
