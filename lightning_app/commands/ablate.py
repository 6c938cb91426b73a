"""`python main.py ablate`: the same recognisers under several masks or settings, run after run, into one table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lightning_app import jobs
from lightning_app.configs import FindConfig, find_config
from lightning_app.files import write_atomically
from lightning_app.jobs import slug
from lightning_app.masks import load_mask, mask_hash
from lightning_app.report import png_bytes, print_table, read_metrics, write_metrics
from lightning_app.report.ablation import ablation_figure

_FIGURES = {
    "accuracy": "lfw/accuracy",
    "auc": "lfw/auc",
    "dssim": "privacy/dssim",
    "mask_ratio": "privacy/mask_ratio",
}


@dataclass(frozen=True)
class Variant:
    """One row of the table: how its mask comes to be, and what else differs.

    Attributes:
        search: arguments of `search-mask` beyond those of the ablation's `search`, by name.
        mask: a mask file, in place of a search.
        args: arguments of `fit` and `validate`, such as `[--model.insertion_points, "[layer2]"]`.
    """

    search: dict[str, Any] | None = None
    mask: str | None = None
    args: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class System:
    """One column of the table: a recogniser that is trained, or one that is only verified.

    Attributes:
        config: of `fit`, or of `validate` where a checkpoint is given.
        checkpoint: verify this one under the variant's mask, with the desensitizer of `config`.
    """

    config: str
    checkpoint: str | None = None


@dataclass(frozen=True)
class Job:
    """One run: a cell of the table for one seed.

    Attributes:
        seed: of the run; None for one that is only verified.
        run: name of the run's folder.
        args: the command line after `main.py`.
    """

    seed: int | None
    run: str
    args: tuple[str, ...]


def ablate(
    name: str,
    variants: dict[str, Variant],
    systems: dict[str, System],
    search: str = "search_mask.yaml",
    seeds: list[int] | None = None,
    runs: str = "runs",
    masks: str = "masks",
) -> None:
    """Train or verify every system under every variant, one run after the other, into one table.

    Each run is an ordinary `fit` or `validate` in `<runs>/<name>/`. A run that fails does not stop the others;
    given again, the command does only what is missing and goes on with a run that was killed.

    Args:
        name: of the ablation: folder of its runs, prefix of its masks.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        search: config of `search-mask` that variants with `search` start from.
        seeds: of the runs; each is trained once per seed.
        runs: folder in which `<name>/` lies.
        masks: folder of masks; a variant's searched mask is `<masks>/<name>-<variant>/mask.png`.

    Raises:
        FileNotFoundError: a config, mask or checkpoint is not there.
        ChildProcessError: some runs failed; names them and their logs, after all others were done.
        ValueError: a variant with both a search and a mask, or a finished run that was made otherwise.
    """
    if not variants or not systems:
        raise ValueError("ablate: give at least one of variants and of systems")
    folder = Path(runs) / name
    for kind, labels in (("variants", list(variants)), ("systems", list(systems))):
        jobs.check_labels(kind, labels)
    for system in systems.values():
        find_config(system.config)
        if system.checkpoint is not None and not Path(system.checkpoint).is_file():
            raise FileNotFoundError(
                f"checkpoint {system.checkpoint}: no such file; train it first (see the config)"
            )
    failed: list[str] = []
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn())  # fmt: skip
    with bar:
        total = len(variants) * (1 + sum(1 if s.checkpoint else len(seeds or [0]) for s in systems.values()))
        task = bar.add_task(name, total=total)
        for label, variant in variants.items():
            bar.update(task, description=f"{label}: mask")
            mask = _mask_of(label, variant, name, search, Path(masks), folder)
            bar.advance(task)
            own = list(_jobs(label, variant, systems, seeds or [0], mask, folder))
            for job in own if isinstance(mask, Path) or variant.search is None else ():
                bar.update(task, description=job.run)
                if not _run(job, mask, folder):
                    failed.append(job.run)
                bar.advance(task)
            if variant.search is not None and mask is None:
                failed.append(f"{label}: search-mask")
                bar.advance(task, len(own))
            rows = _report(name, folder, variants, systems, seeds or [0])
    print_table(
        f"ablate {name}: verification accuracy in %, mean ± std over seeds; see {folder}",
        rows,
        ["variant", "mask ratio", "dSSIM", *systems],
    )
    if failed:
        raise ChildProcessError(
            f"{len(failed)} of {total} steps failed ({', '.join(failed[:3])}{', …' if len(failed) > 3 else ''}): "
            f"see their logs in {folder / 'logs'}; given again, the command does only what is missing"
        )


def _mask_of(label: str, variant: Variant, name: str, search: str, masks: Path, folder: Path) -> Path | None:
    """Return the variant's mask, searched for where it is not there yet; None for no mask or a failed search."""
    if variant.search is not None and variant.mask is not None:
        raise ValueError(f"variants.{label}: has both search and mask; give one of them")
    if variant.mask is not None:
        load_mask(variant.mask)
        return Path(variant.mask)
    if variant.search is None:
        return None
    found = searched_mask(name, label, masks)
    own = found.parent.name
    args = ["search-mask", "--config", search]
    for key, value in variant.search.items():
        args += [f"--{key}", *(_word(v) for v in (value if isinstance(value, list) else [value]))]
    _keep_record(folder / "jobs" / f"search_{slug(label)}.json", found.parent, args, None)
    if not found.is_file():
        jobs.call(
            [*args, "--name", own, "--output", str(masks)],
            folder / "logs" / f"search_{slug(label)}.log",
            name,
        )
    return found if found.is_file() else None


def searched_mask(name: str, label: str, masks: Path) -> Path:
    """Tell where the mask lies that an ablation searches for one of its variants.

    Args:
        name: of the ablation.
        label: of the variant.
        masks: folder of masks.
    """
    return masks / f"{name}-{slug(label)}" / "mask.png"


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) or value is None else str(value)


def _jobs(
    label: str,
    variant: Variant,
    systems: Mapping[str, System],
    seeds: Sequence[int],
    mask: Path | None,
    folder: Path,
) -> Iterator[Job]:
    veil = [] if mask is None else ["--data.desensitizer.init_args.mask", str(mask)]
    for column, system in systems.items():
        common = ["--config", system.config, *veil, *variant.args, "--runs", str(folder)]
        if system.checkpoint is not None:
            run = f"{slug(label)}_{slug(column)}"
            args = ["validate", *common, "--name", run, "--ckpt_path", system.checkpoint]
            yield Job(None, run, tuple(args))
            continue
        for seed in seeds:
            run = f"{slug(label)}_{slug(column)}_s{seed}"
            args = ["fit", *common, "--name", run, "--seed_everything", str(seed)]
            yield Job(seed, run, tuple(args))


def _run(job: Job, mask: Path | None, folder: Path) -> bool:
    """Do a run unless it is done, going on where it was killed; tell whether it is done."""
    run = folder / job.run
    _keep_record(folder / "jobs" / f"{job.run}.json", run, list(job.args), mask)
    return jobs.do(job.args, run, folder / "logs" / f"{job.run}.log", folder.name)


def _keep_record(record: Path, made: Path, args: list[str], mask: Path | None) -> None:
    about = {"args": args, "mask_hash": None if mask is None else mask_hash(load_mask(mask))}
    jobs.keep_record(record, made, about)


def _report(
    name: str,
    folder: Path,
    variants: Mapping[str, Variant],
    systems: Mapping[str, System],
    seeds: Sequence[int],
) -> list[list[object]]:
    """Gather what is done so far into metrics.json and the figure; return the rows of the table."""
    flat: dict[str, float] = {}
    rows: list[list[object]] = []
    points: dict[str, dict[str, tuple[float, float]]] = {column: {} for column in systems}
    for label, variant in variants.items():
        cells: list[object] = []
        about: dict[str, float] = {}
        for column, system in systems.items():
            found = [
                read_metrics(folder / job.run / "metrics.json")
                for job in _jobs(label, variant, {column: system}, seeds, None, folder)
                if jobs.finished(folder / job.run)
            ]
            for short, key in _FIGURES.items():
                values = [float(f[key]) for f in found if isinstance(f.get(key), int | float)]  # type: ignore[arg-type]
                if not values:
                    continue
                mean, spread = statistics.fmean(values), statistics.pstdev(values)
                if short in ("dssim", "mask_ratio"):
                    about[short] = mean
                    flat[f"ablation/{label}/{short}"] = mean
                    continue
                flat[f"ablation/{label}/{column}/{short}"] = mean
                flat[f"ablation/{label}/{column}/{short}_std"] = spread
                if short == "accuracy":
                    points[column][label] = (mean, spread)
                    flat[f"ablation/{label}/{column}/seeds"] = len(values)
            point = points[column].get(label)
            cells.append("–" if point is None else _cell(point, len(found)))
        shown = [f"{about[key]:.4f}" if key in about else "–" for key in ("mask_ratio", "dssim")]
        rows.append([label, *shown, *cells])
    write_metrics(folder / "metrics.json", flat)
    if any(points.values()):
        write_atomically(
            folder / "ablation.png", png_bytes(ablation_figure(points, list(variants), title=name))
        )
    return rows


def _cell(point: tuple[float, float], seeds: int) -> str:
    return f"{100 * point[0]:.1f}" + (f" ± {100 * point[1]:.1f} ({seeds} seeds)" if seeds > 1 else "")


def build_parser() -> ArgumentParser:
    """Return the parser of `ablate`; its help comes from `ablate`'s docstring."""
    parser = ArgumentParser(prog="main.py ablate", description=(ablate.__doc__ or "").splitlines()[0])
    parser.add_argument(
        "-c", "--config", action=FindConfig, help="Config file, or the bare name of one in configs/."
    )
    parser.add_function_arguments(ablate)
    return parser


def run(args: list[str]) -> None:
    """Run `ablate` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "table8.yaml"]`.

    Raises:
        ValueError, OSError: see `ablate`.
    """
    parser = build_parser()
    values = parser.instantiate(parser.parse_args(args)).as_dict()
    values.pop("config", None)
    for key, kind in (("variants", Variant), ("systems", System)):
        values[key] = {k: v if isinstance(v, kind) else kind(**v) for k, v in values[key].items()}
    ablate(**values)
