"""The study behind `sweep-levels`: recognisers under random masks of each level, one measurement after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.readers.decode import Crop
from datamodules.verification.readers import PairFaces
from lightning_app.core.draws import hashed, integers
from lightning_app.core.files import is_plain_name
from lightning_app.core.progress import progress_bar
from lightning_app.distributed.device import choose_device
from lightning_app.distributed.precision import Precision, warn_of_emulation
from lightning_app.masks import NVIDIA_LEVELS, MaskLevels
from lightning_app.masks.io import bits_hash, bits_ratio
from lightning_app.masks.levels import Hidden, Level, level_name
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.studies.sweep import Cells, Faces, SweepCell, summarise
from lightning_app.studies.sweep_report import SWEPT_FILES, SweptLevels, write_sweep

log = logging.getLogger(__name__)

CLEAN = "none"  # the level of clean images, as the paper's table calls it
_PER_IMAGE, _ONE_BY_ONE = 0x7377706C, 0x72616E6B  # "swpl", "rank": name the draws


def sweep_levels(
    checkpoints: dict[str, str],
    masks: str,
    root: str,
    pairs: str | None = None,
    hidden: Hidden = "white",
    levels: list[Level] | None = None,
    repeats: int = 5,
    masks_ranked: int = 0,
    crop: Crop = None,
    size: int = 112,
    mean: float = 0.5,
    std: float = 0.5,
    batch_size: int = 64,
    precision: Precision = "32-true",
    bootstrap: int = 1000,
    seed: int = 0,
    device: str = "auto",
    name: str | None = None,
    runs: str = "runs",
    overwrite: bool = False,
) -> SweptLevels:
    """Measure recognisers on clean pairs and under random masks of each level of mask ratio.

    Both images of a pair are masked (situation 1). In each repeat every image draws a mask of the level, a
    function of (seed, level, repeat, image), the same for all recognisers; so differences between recognisers
    are paired. A second start goes on where the first was stopped. In `runs/<name>/`: the table as
    `table.csv`, `metrics.json`, `sweep.png`, and every single measurement in `cells.jsonl`.

    Args:
        checkpoints: name -> .ckpt file or run folder; differences are to the first one.
        masks: folder of PNG masks of any size, such as draw-mask-set draws.
        root: folder of the images the pairs name.
        pairs: list of pairs; `pairs.txt` in or beside the root by default.
        hidden: the colour that hides in the masks.
        levels: list of [low, high] mask ratios; those of NVIDIA's set by default.
        repeats: draws of the masks per level.
        masks_ranked: masks, spread over the levels, to rank one by one: each lies on all images; 0 for none.
        crop: box, or side of the central square, in pixels of the files; the whole image by default.
        size: side of the images in pixels, that of the training.
        mean: subtracted from every channel, on [0,1] pixels, as in the training.
        std: what every channel is divided by then.
        batch_size: images per step.
        precision: `bf16-mixed` and `16-mixed` embed under autocast, as `fit` does.
        bootstrap: resamples behind the 95 % intervals over pairs, and over masks; 0 for none.
        seed: seed of the masks' draws.
        device: `cpu`, `cuda`, `cuda:1`; auto takes the GPU where there is one.
        name: name of the results' folder; by default the config's.
        runs: folder in which `<name>/` lies.
        overwrite: replace an earlier sweep in that folder.

    Returns:
        The metrics, and what a table of them needs.

    Raises:
        FileNotFoundError: a checkpoint, the images, the pairs or the masks are not there.
        FileExistsError: the folder holds another run, or a sweep with other settings.
        ValueError: an argument is out of range, a checkpoint is no recogniser's, or a level has no masks.

    Source: On Mask-based Image Set Desensitization with Recognition Support, section 4.2 and table 1. Ours:
    the spread over repeats, the intervals, and the rank correlation over single masks.
    """
    for argument, value, least in (
        ("repeats", repeats, 1), ("masks_ranked", masks_ranked, 0), ("batch_size", batch_size, 1),
        ("bootstrap", bootstrap, 0), ("checkpoints", len(checkpoints), 1),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{argument}: {value}; give at least {least}")
    if std <= 0:
        raise ValueError(f"std: {std}; give a positive number")
    if name is None or not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is {runs}/<name>")
    chosen: list[Level] = [(float(low), float(high)) for low, high in levels or NVIDIA_LEVELS]
    run_dir, where = Path(runs) / name, choose_device(device)
    warn_of_emulation(precision, where, "--precision")
    models = {key: _loaded(key, path, size, mean, std) for key, path in checkpoints.items()}
    bank = MaskLevels(masks, size, chosen, hidden, edges=chosen)
    faces = Faces(PairFaces(root, pairs, crop=crop, size=size), bank, mean, std, batch_size, precision,
                  bootstrap, where)  # fmt: skip
    origin: SweepCell = {"seed": seed, "mean": mean, "std": std, "precision": precision, "bootstrap": bootstrap,
                    "images": faces.hash}  # fmt: skip
    kept = Cells(run_dir, origin, overwrite, SWEPT_FILES)
    wanted = [
        pair
        for key, (_, facts) in models.items()
        for pair in cells_of(key, facts.sha256, bank, chosen, len(faces), repeats, masks_ranked, seed)
    ]
    kept.check([cell for cell, _ in wanted])
    _measure(wanted, kept, {key: model.to(where) for key, (model, _) in models.items()}, faces)
    found = [kept.get(cell) for cell, _ in wanted]
    names = [CLEAN, *map(level_name, chosen)]
    summary = summarise(found, list(models), names, bootstrap, seed)
    summary |= {f"sweep/{key}/checkpoint": facts.sha256 for key, (_, facts) in models.items()}
    for level in chosen:
        ratios = bits_ratio(bank.bits[members(bank, level)], bank.size)
        summary[f"sweep/masks/{level_name(level)}/count"] = len(ratios)
        summary[f"sweep/masks/{level_name(level)}/mask_ratio"] = float(ratios.mean())
    summary |= {"sweep/pairs": len(faces.pairs), "sweep/images": len(faces), "sweep/repeats": repeats,
                "sweep/seed": seed}  # fmt: skip
    swept = SweptLevels(name, summary, list(models), names)
    write_sweep(run_dir, swept, found)
    return swept


def cells_of(
    key: str, sha256: str, bank: MaskLevels, levels: Sequence[Level], images: int, repeats: int,
    masks_ranked: int, seed: int,
) -> list[tuple[SweepCell, Tensor | None]]:  # fmt: skip
    """List what is measured of one recogniser.

    Args:
        key: the recogniser's name.
        sha256: of its checkpoint.
        bank: the masks.
        levels: (low, high) of each level.
        images: how many images there are.
        repeats: draws of the masks per level.
        masks_ranked: single masks to lay on all images, dealt to the levels in turn; each level's come in an
            order drawn from the seed, so that more of them include the fewer.
        seed: of the draws.

    Returns:
        Pairs of what identifies a measurement, and the masks' numbers in the bank: `[images]` int64, one mask
        for each image; `[1]`, one for all; None for clean images.
    """
    base: SweepCell = {"model": key, "checkpoint": sha256}
    cells: list[tuple[SweepCell, Tensor | None]] = [
        (base | {"level": CLEAN, "repeat": 0, "mask": "", "masks": ""}, None)
    ]
    index = torch.arange(images)
    for place, level in enumerate(levels):
        inside = members(bank, level)
        salt = (seed, round(level[0] * 1e9), round(level[1] * 1e9))
        digest = bits_hash(bank.bits[inside], bank.size)
        for repeat in range(repeats):
            drawn = inside[integers(index, len(inside), _PER_IMAGE, *salt, repeat)]
            cells.append(
                (base | {"level": level_name(level), "repeat": repeat, "mask": "", "masks": digest}, drawn)
            )
        order = torch.argsort(hashed(torch.arange(len(inside)), _ONE_BY_ONE, *salt), stable=True)
        share = len(range(place, masks_ranked, len(levels)))
        for number in inside[order[:share]].tolist():
            digest = bits_hash(bank.bits[number : number + 1], bank.size)
            description = {
                "level": level_name(level),
                "repeat": 0,
                "mask": bank.files[number],
                "masks": digest,
            }
            cells.append((base | description, torch.tensor([number])))
    return cells


def members(bank: MaskLevels, level: Level) -> Tensor:
    """Return the numbers `[K]` int64 of the masks with low < mask ratio <= high."""
    ratios = bits_ratio(bank.bits, bank.size)  # float64: bank.ratios is not, and an edge is an edge
    return torch.nonzero((ratios > level[0]) & (ratios <= level[1])).flatten()


def _measure(
    wanted: Sequence[tuple[SweepCell, Tensor | None]],
    kept: Cells,
    models: dict[str, Recogniser],
    faces: Faces,
) -> None:
    left = [(cell, numbers) for cell, numbers in wanted if not kept.get(cell)]
    if len(left) < len(wanted):
        log.info("%d of %d measurements are there already", len(wanted) - len(left), len(wanted))
    with progress_bar(share=True) as bar:
        line = bar.add_task("", total=len(left) * len(faces))
        for cell, numbers in left:
            bar.update(line, description=f"{cell['model']}, {cell['level']}")
            begun = time.perf_counter()
            metrics = faces.measure(models[cell["model"]], numbers, lambda done: bar.advance(line, done))
            kept.add(cell, metrics | {"seconds": time.perf_counter() - begun})
            if not bar.console.is_terminal:  # a log file shows no bar
                log.info("%s, %s %s: %.4f", cell["model"], cell["level"], cell["mask"] or cell["repeat"],
                         metrics["accuracy"])  # fmt: skip


def _loaded(key: str, path: str, size: int, mean: float, std: float) -> tuple[Recogniser, CheckpointFacts]:
    if not key or "/" in key:
        raise ValueError(f"checkpoints: {key!r} is no name for a recogniser; give one without a slash")
    try:
        model, facts = read_recogniser(path)
        facts.check_normalised(mean, std)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"checkpoints.{key}: {error}") from error
    except ValueError as error:
        raise ValueError(f"checkpoints.{key}: {error}") from error
    if facts.input_size != size or facts.in_channels != 3:
        raise ValueError(
            f"checkpoints.{key}: {facts.path} takes images of {facts.in_channels} channels and {facts.input_size} "
            f"px, not of 3 and {size} px; set size to the training's"
        )
    desensitized = (facts.desensitizer or {}).get("method", "in a way not known")
    log.info("%s: %s, trained on %s, %s", key, facts.model,
             "clean faces" if facts.clean else f"faces desensitized: {desensitized}", facts.path)  # fmt: skip
    return model, facts
