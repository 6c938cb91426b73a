"""`python main.py rank-scorers`: whether a scorer's F ranks masks as the accuracy after training does."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.face import FaceDataModule
from lightning_app.cli.configs import find_config
from lightning_app.commands import ablate
from lightning_app.commands.faces import drawn_numbers, load_faces, refuse_released
from lightning_app.commands.parser import CommandParser, add_trust, command_parser, parsed
from lightning_app.commands.search_mask import check_checkpoint
from lightning_app.core.files import write_atomically
from lightning_app.masks import MaskScorer, load_mask, mask_hash, mask_ratio
from lightning_app.metrics.rank import rank_correlation
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.known import trusting
from lightning_app.report import png_bytes, print_table, read_metrics, write_metrics
from lightning_app.report.scorers import scorers_chart
from lightning_app.report.tables import Scalar

log = logging.getLogger("faceveil")
_SCORED = 312  # salt of the draw of images, that of `search-mask`
_FEWEST = 4  # masks below which a rank correlation says nothing


def rank_scorers(
    ablation: str,
    scorers: dict[str, str],
    data: FaceDataModule,
    images: int | None = 1024,
    batch_size: int = 64,
    seed: int = 0,
    bootstrap: int = 2000,
    runs: str = "runs",
) -> dict[str, Scalar]:
    """Correlate what scorers say of masks before training with the accuracy after it.

    Each variant of an ablation has a mask, and each of its systems an accuracy under it. Every scorer gives each
    mask its F, on held-out images as `search-mask` takes them. Spearman's rho of −F and accuracy is 1 where the
    scorer ranks the masks as training does. In `<runs>/<ablation>/`: `scorers.json` and `scorers.png`.

    Args:
        ablation: config of an `ablate` that was run, with a mask in every variant.
        scorers: name -> checkpoint, such as the clean model and one trained under random masks.
        data: the image set, as in the config that the checkpoints were trained with: same val_share and seed.
        images: how many held-out images F is the mean of, drawn by the seed; null takes all.
        batch_size: images per step.
        seed: of the images' draw and of the resamples.
        bootstrap: resamples of the masks behind the 95 % intervals.
        runs: folder in which the ablation's folder lies.

    Returns:
        What `scorers.json` holds: `scorers/<scorer>/<mask>/F`, `scorers/<scorer>/<system>/rho`, `_low`, `_high`.

    Raises:
        FileNotFoundError: the ablation was not run, or a mask or checkpoint is not there.
        ValueError: fewer than four masks have an accuracy, a mask is not the one that was trained under, or a
            checkpoint does not fit the data.

    Source: ours; the paper (3.2) scores with the clean model without testing it.
    """
    plan, masks = _masks(ablation, Path(runs))
    folder = plan.folder
    measured = read_metrics(folder / "metrics.json")
    accuracy = {label: _accuracies(label, plan.systems, measured) for label in masks}
    masks = {label: path for label, path in masks.items() if accuracy[label]}
    if len(masks) < _FEWEST:
        raise ValueError(
            f"ablation {ablation}: {len(masks)} masks have an accuracy in {folder / 'metrics.json'}; a rank "
            f"correlation needs {_FEWEST} or more, run `ablate` to its end first"
        )
    _check_masks(plan, masks)
    refuse_released(data, "rank-scorers")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data.setup("fit")
    models, hashes = {}, {}
    for name, path in scorers.items():
        models[name], facts = read_recogniser(path)
        check_checkpoint(path, facts, data, clean=False)
        hashes[name] = facts.sha256
    held = data.held_out or data.training
    assert held is not None
    count = len(held) if images is None else min(images, len(held))
    pixels, labels = load_faces(held, drawn_numbers(len(held), count, _SCORED, seed, "images"))
    loaded = {label: load_mask(path, data.size) for label, path in masks.items()}
    figures: dict[str, Any] = {"scorers/images": count, "scorers/masks": len(masks)}
    for label, mask in loaded.items():
        figures |= {f"scorers/{label}/P": mask_ratio(mask), f"scorers/{label}/mask_hash": mask_hash(mask)}
    losses: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        scorer = MaskScorer(model, pixels, labels, mean=data.mean, std=data.std, batch_size=batch_size,
                            device=device)  # fmt: skip
        figures[f"scorers/{name}/checkpoint"] = hashes[name]
        losses[name] = {}
        for label, mask in loaded.items():
            losses[name][label] = scorer.score(mask)
            log.info("%s, %s: F %.3f", name, label, losses[name][label])
        figures |= {f"scorers/{name}/{label}/F": F for label, F in losses[name].items()}
    rows: list[list[object]] = []
    for name, of in losses.items():
        for system in dict.fromkeys(s for found in accuracy.values() for s in found):
            both = [label for label in masks if system in accuracy[label]]
            rho = rank_correlation(
                np.array([-of[label] for label in both]),
                np.array([accuracy[label][system] for label in both]),
                np.zeros(len(both), dtype=np.int64), bootstrap, seed,
            )  # fmt: skip
            for key in ("rho", "rho_low", "rho_high"):
                figures[f"scorers/{name}/{system}/{key}"] = rho[key]
            rows.append(
                [name, system, len(both), rho["rho"], f"{rho['rho_low']:.2f} … {rho['rho_high']:.2f}"]
            )
    written = write_metrics(folder / "scorers.json", figures)
    picture = scorers_chart(losses, accuracy, title=f"{folder.name}: F on {count} held-out images")
    write_atomically(folder / "scorers.png", png_bytes(picture))
    print_table(
        f"rank-scorers: Spearman's rho of −F and accuracy after training; see {folder / 'scorers.png'}",
        rows,
        ["scorer", "system", "masks", "rho", "95 % interval"],
    )
    return written


def _masks(ablation: str, runs: Path) -> tuple[ablate.AblationPlan, dict[str, Path]]:
    """Return the ablation's runs and its variants' masks, of those that have one."""
    config = ablate.build_parser().parse_args(["--config", str(find_config(ablation))])
    folder = runs / config.name
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(
            f"ablation {ablation}: {folder} has no metrics.json; run `python main.py ablate --config {ablation}` first"
        )
    variants = {label: ablate.Variant(**vars(one)) for label, one in config.variants.items()}
    systems = {label: ablate.System(**vars(one)) for label, one in config.systems.items()}
    plan = ablate.AblationPlan(folder, variants, systems, config.seeds or [0], config.args or [], {}, config.search,
                       Path(config.masks))  # fmt: skip
    found = {label: plan.mask(label) for label in variants}
    return plan, {label: mask for label, mask in found.items() if mask is not None}


def _check_masks(plan: ablate.AblationPlan, masks: dict[str, Path]) -> None:
    """Refuse masks that are not those whose accuracies the ablation has."""
    unknown = []
    for label, path in masks.items():
        now, records = mask_hash(load_mask(path)), [plan.record(job) for job in plan.jobs(label, path)]
        kept = {
            record: json.loads(record.read_text(encoding="utf-8")) for record in records if record.is_file()
        }
        for record, description in kept.items():
            if (then := description["mask_hash"]) != now:
                raise ValueError(
                    f"mask {path}: its hash is {now[:12]}…, but {plan.folder / record.stem} was made under one of "
                    f"{str(then)[:12]}… ({record}): put that mask back, or remove run and record and `ablate` again"
                )
        unknown += [] if kept else [label]
    if unknown:
        log.warning(
            "%s: whether these masks are those that were trained under cannot be checked, their runs left no record: "
            "%s.", plan.folder / "jobs", ", ".join(unknown),
        )  # fmt: skip


def _accuracies(label: str, systems: Iterable[str], measured: dict[str, Scalar]) -> dict[str, float]:
    """System → accuracy of a variant."""
    keys = {f"ablation/{label}/{system}/accuracy": system for system in systems}
    return {keys[key]: value for key, value in measured.items() if key in keys and isinstance(value, float)}


def build_parser() -> CommandParser:
    """Return the parser of `rank-scorers`; its help comes from `rank_scorers`'s docstring."""
    parser = command_parser(rank_scorers)
    add_trust(parser)
    parser.add_function_arguments(rank_scorers)
    return parser


def run(args: list[str]) -> None:
    """Run `rank-scorers` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "rank_scorers.yaml"]`.

    Raises:
        ValueError, OSError: see `rank_scorers`.
    """
    values = parsed(build_parser(), args)
    with trusting(values.pop("trust")):
        rank_scorers(**values)
