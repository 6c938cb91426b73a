"""`python main.py compare`: every method to desensitize, utility against privacy, in one table, picture and page."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger

from lightning_app.attacks import Attack, Unshuffle
from lightning_app.cli.configs import find_config
from lightning_app.cli.fit_config import make_part
from lightning_app.commands.parser import CommandParser, add_trust, command_parser
from lightning_app.core.files import is_plain_name
from lightning_app.core.printing import reason
from lightning_app.core.progress import progress_bar
from lightning_app.distributed.device import choose_device
from lightning_app.distributed.precision import Precision, warn_of_emulation
from lightning_app.evaluation import Judge
from lightning_app.evaluation.judges.named import known_name
from lightning_app.evaluation.privacy import Subjects
from lightning_app.models.known import trusting
from lightning_app.report.compare import RELEASED, parse_axis
from lightning_app.runs.send import every_logger
from lightning_app.studies import runner as jobs
from lightning_app.studies.compare import AttackerRun, ComparedMethod, Linking, Method
from lightning_app.studies.compare.bench import Bench
from lightning_app.studies.compare.choosing import chosen, longer, with_args
from lightning_app.studies.compare.early import check_early
from lightning_app.studies.compare.eyes import OWN, Eyes, Who, in_words
from lightning_app.studies.compare.measuring import measure_all
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
    `compare.csv`, `compare.png`, `report.html`, `parts/` (figures per image and pair; no face).

    Args:
        name: of the comparison.
        methods: label -> method, the rows.
        judges: label -> who tries to recognise people, by `class_path`. Shorthand: the label of a method (its
            recogniser), a checkpoint (a RecogniserJudge of it), or `dlib` (a DlibJudge). How well each tells
            clean faces apart is reported beside what it says of methods.
        recognisers: label -> who compares two faces as seen (Table 2): as in `judges`, or `own`, the method's; by
            default `own`.
        attacks: label -> attack, by `class_path`; one that needs a mask is left out where there is none, and one that
            needs pictures where a method releases none. None may have learnt from people who are attacked, nor may
            the three below.
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
        budget: how many times as many epochs attackers are trained as their configs say, the same for every method.
        privacy_axis: what stands for privacy in the picture: rank1, rank5, verification, similarity (each also
            as MEASURE/JUDGE), dssim, psnr or psnr_hidden, after the strongest attack.
        seed: of the runs.
        examples: faces shown in the report; drawn ones.
        show_faces: show faces of the verification set as well, clean ones among them: the report must not leave.
        mean: subtracted from every channel, on [0,1] pixels, for judges given as a checkpoint.
        std: what every channel is divided by then.
        batch_size: images at a time.
        precision: of judges and recognisers; `bf16-mixed` and `16-mixed` embed under autocast.
        bootstrap: resamples behind the 95 % intervals; 0 for none.
        device: `cpu`, `cuda`, `cuda:1`; auto takes the GPU where there is one.
        logger: by `class_path`; W&B gets the table and the picture, others the figures. No face is logged.
        runs: folder in which `<name>/` lies.
        command: the command line, for the report.

    Returns:
        Method -> figures; those of an attack under `ATTACK/`.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: something failed; names it, after all else was done.
        ValueError: an argument cannot be used.

    Source: On Mask-based Image Set Desensitization with Recognition Support, section 4.3, Tables 2, 4 and 5.
    """
    who: dict[str, Who] = dict(judges or {})
    compared: dict[str, Who] = dict(recognisers or {OWN: OWN})
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
    _check(name, methods, who, compared, mounted, learners, linking, examples, bootstrap)
    before = _before(trained_ones, mounted)
    axis = parse_axis(privacy_axis, [*who, *(one.label for one in linking)])
    where = choose_device(device)
    warn_of_emulation(precision, where, "--precision")
    candidates = {label: ComparedMethod(label, m, name, Path(runs), seed) for label, m in methods.items()}
    check_same_people(candidates)
    # what stands in a config of the user's own is trusted where checkpoints name it again
    with trusting(frozenset().union(*(one.setting.classes for one in candidates.values()))):
        eyes = Eyes(who, compared, candidates, where, mean, std, precision)
        early = check_early(
            candidates,
            eyes,
            who,
            compared,
            mounted,
            trained_ones,
            seed,
            where,
            before,
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
            loggers=every_logger(logger),
            command=command or f"python main.py compare ({name})",
        )  # fmt: skip
        if unknown:
            out.facts["people that attackers have learnt from"] = " ".join(unknown)
        with progress_bar(share=True) as bar:
            eyes.ready, restorers = train_all(candidates, learners, trained, seed, out, bar, before)
            first = next(iter(candidates.values())).setting
            assert first.verification is not None
            subjects = Subjects(first.verification.open(first.data), batch_size, where)
            out.count(subjects)
            bench = Bench(subjects, eyes.judges(subjects, out), bootstrap, out.folder / "parts")
            out.cosine = [label for label, one in bench.judges.items() if one.metric == "cosine"]
            links, ceilings = train_linkers(candidates, linking, who, bench, seed, out, before)
            out.judged((out.tried("judges on clean faces", bench.clean) or {}) | ceilings)
            measure_all(
                out,
                bench,
                eyes,
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


def _check(
    name: str, methods: Mapping[str, Method], judges: Mapping[str, Who], recognisers: Mapping[str, Who],
    attacks: Mapping[str, Attack], learners: list[AttackerRun], linking: list[Linking], examples: int, bootstrap: int,
) -> None:  # fmt: skip
    """Refuse what cannot be meant, before anything is read or trained."""
    if not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is runs/<name>")
    if not methods:
        raise ValueError("methods: none given; give at least one, label: {config: NAME.yaml}")
    if examples < 1:
        raise ValueError(f"examples: {examples}; give at least 1")
    if bootstrap < 0:
        raise ValueError(f"bootstrap: {bootstrap}; give the number of resamples, 0 for none")
    named = {"methods": [*methods], "judges": [*judges, *(one.label for one in linking)],
             "recognisers": [*recognisers],
             "attacks": [RELEASED, *attacks, *(one.label for one in learners)]}  # fmt: skip
    for kind, labels in named.items():
        jobs.check_labels(kind, labels)
        wrong = [label for label in labels if not label.strip() or "/" in label]
        if wrong:
            raise ValueError(f"{kind}: {wrong[0]!r} is no label; give one without a slash")
    for linker in linking:
        if linker.teacher not in judges:
            raise ValueError(
                f"{linker.label}.teacher: {linker.teacher!r}; give the label of the judge whose embeddings it learns: "
                f"{', '.join(judges) or 'there are none'}"
            )
    for config in [m.config for m in methods.values()] + [one.config for one in (*learners, *linking)]:
        find_config(config)
    for kind, given in (("judges", judges), ("recognisers", recognisers)):
        for label, one in given.items():
            special = one in methods or (one == OWN and kind == "recognisers")
            if isinstance(one, str) and not special and not known_name(one):
                raise FileNotFoundError(
                    f"{kind}.{label} {one}: no such checkpoint, nor a method of that label; methods are "
                    f"{', '.join(methods)}"
                )


def _before(learners: list[AttackerRun], attacks: Mapping[str, Attack]) -> dict[str, Unshuffle]:
    """Find what puts channels back before an attacker; see `Restorer.after`."""
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


def build_parser() -> CommandParser:
    """Return the parser of `compare`; its help comes from `compare`'s docstring."""
    parser = command_parser(compare)
    parser.add_argument("--show-faces", "--show_faces", type=bool, nargs="?", const=True, default=False,
                        help="Show faces of the verification set in the report, a file to keep.")  # fmt: skip
    add_trust(parser)
    parser.add_function_arguments(compare, skip={"show_faces", "command"})
    return parser


def run(args: list[str]) -> None:
    """Run `compare` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "compare.yaml"]`.

    Raises:
        ValueError, OSError: see `compare`.
    """
    parser = build_parser()
    parsed = parser.parse_args(args)
    with trusting(parsed.pop("trust")):
        # apart from the rest: of what cannot be made, jsonargparse would say that it is no `str` either
        judges = {kind: _made(kind, parsed.pop(kind)) for kind in ("judges", "recognisers")}
        values = parser.instantiate(parsed).as_dict() | judges
        values.pop("config", None)
        values["methods"] = {
            k: m if isinstance(m, Method) else Method(**m) for k, m in values["methods"].items()
        }
        if isinstance(values["restorer"], dict):
            values["restorer"] = AttackerRun(**values["restorer"])
        values["attackers"] = {
            k: a if isinstance(a, AttackerRun) else AttackerRun(**a)
            for k, a in (values["attackers"] or {}).items()
        }
        if isinstance(values["linker"], dict):
            values["linker"] = Linking(**values["linker"])
        values["linkers"] = {
            k: one if isinstance(one, Linking) else Linking(**one)
            for k, one in (values["linkers"] or {}).items()
        }
        compare(**values, command=f"python main.py compare {shlex.join(args)}")


def _made(kind: str, given: Mapping[str, str | Namespace] | None) -> dict[str, Who]:
    """Make the judges that are given by `class_path`; what stands for one stays."""
    return {
        label: one if isinstance(one, str) else _judge(f"{kind}.{label}", one.as_dict())
        for label, one in (given or {}).items()
    }


def _judge(where: str, part: object) -> Judge:
    try:
        made: Judge = make_part("judge", Judge, part)
        return made
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{where}: {error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {reason(error)}") from error
