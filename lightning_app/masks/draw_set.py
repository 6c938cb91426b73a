"""A folder of free-form masks, so many in each level of mask ratio."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich import get_console
from torch import Tensor

from lightning_app.core.draws import seed_from, uniform
from lightning_app.core.files import write_atomically
from lightning_app.core.progress import progress_bar
from lightning_app.core.version import version
from lightning_app.distributed.parent import Bond, bond, end_with_parent
from lightning_app.masks import (
    NVIDIA_LEVELS,
    Brush,
    MaskLevels,
    draw_strokes,
    freeform_strokes,
    load_mask,
    mask_hash,
)
from lightning_app.masks.bits import as_array, as_size
from lightning_app.masks.freeform import check_ratio
from lightning_app.masks.io import bits_hash
from lightning_app.masks.levels import Level, level_name
from lightning_app.masks.search.candidates import united
from lightning_app.report import print_table

FACTS = "set.json"
LEVEL_EDGES = [NVIDIA_LEVELS[0][0], *(high for _, high in NVIDIA_LEVELS)]
_SALT = 0x6C65766C  # "levl": names the draw, so that others with the same seed differ
_INSET = 0.05  # of a level's width: how far from its edges ratios stay, since resizing moves them
_WINDOW = 0.1  # of what is left: the range one mask is asked for, at a place drawn evenly over the level
_CHUNK = 50  # masks a process draws at a time
_GROWS = ("per_level", "version", "masks", "mask_ratio", "mask_hash")  # facts that may change in a folder


@dataclass(frozen=True)
class LevelTask:
    """Masks of one level that one process draws.

    Attributes:
        root: folder of the set.
        level: (low, high) of the mask ratio.
        numbers: which masks of the level.
        size: side in pixels.
        seed: of the set.
        templates: mask files; what is visible in the one that a mask takes stays visible.
    """

    root: Path
    level: Level
    numbers: tuple[int, ...]
    size: int
    seed: int
    templates: tuple[str, ...] = ()


def draw_mask_set(
    output: str = "masks/levels",
    per_level: int = 2000,
    size: int = 256,
    seed: int = 0,
    levels: Sequence[float] = tuple(LEVEL_EDGES),
    workers: int | None = None,
    templates: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Draw a folder of free-form masks in levels of mask ratio (hidden share), each a PNG, white = hidden.

    By default as many and as large as NVIDIA's test masks: 6 levels of 2,000, 256 px; its rule that half of
    them leave the border visible is not followed. Mask k of a level is a function of (seed, level, size, k)
    alone. Its ratio stays 5 % of the level's width inside the level, so that it is in it also after resizing
    to an image's size, and is spread evenly over what is left. A second start draws what is missing; a larger
    per-level adds to a set that is there.

    Args:
        output: folder of the set; `0.01-0.1/00000.png` and so on, and `set.json`, which says how it was made.
        per_level: masks in each level.
        size: side of the masks in pixels.
        seed: the masks are a function of it.
        levels: edges of the levels, rising, in [0,1]: n + 1 of them make n levels.
        workers: processes that draw; by default one per CPU.
        templates: mask files of this size, such as the template.png of searches: each mask is the union of its strokes
            with one of them, whose visible pixels stay visible. The ratio is that of the union.
        overwrite: replace the set that is in the folder.

    Raises:
        FileExistsError: if the folder holds another set and overwrite is off, or PNG files of no set at all.
        ValueError: if an argument is out of range, or a mask of a level cannot be drawn.
    """
    root, edges = Path(output), _checked(levels, per_level, workers)
    as_size(size)
    facts: dict[str, Any] = {
        "method": "freeform", "hidden": "white", "size": [size, size], "seed": seed,
        "levels": [list(level) for level in edges], "per_level": per_level, "inset": _INSET,
        "window": _WINDOW, **asdict(Brush()), "version": version(),
    }  # fmt: skip
    if templates:  # left out otherwise, as in sets from before there were any
        facts["templates"] = [mask_hash(load_mask(file, size)) for file in templates]
    _claim(root, facts, overwrite)
    write_atomically(root / FACTS, _json(facts))
    numbers = {level: _missing(root, level, per_level) for level in edges}
    tasks = [
        LevelTask(root, level, tuple(absent[start : start + _CHUNK]), size, seed, tuple(templates))
        for level, absent in numbers.items()
        for start in range(0, len(absent), _CHUNK)
    ]
    _draw_all(tasks, per_level * len(edges), workers or os.cpu_count() or 1)
    found = MaskLevels(root, size, edges=edges)
    ratios = {level_name(level): _ratios_in(found, level) for level in edges}
    facts |= {
        "masks": len(found),
        "mask_ratio": {key: round(float(values.mean()), 6) for key, values in ratios.items()},
        "mask_hash": bits_hash(found.bits, size),
    }
    write_atomically(root / FACTS, _json(facts))
    rows = [
        [key, len(values), *(f"{float(value):.4f}" for value in (values.min(), values.mean(), values.max()))]
        for key, values in ratios.items()
    ]
    print_table(f"{root}: {len(found)} masks of {size}×{size}, seed {seed}", rows,
                ["level", "masks", "lowest ratio", "mean", "highest"])  # fmt: skip
    get_console().print(
        f"hash {facts['mask_hash'][:12]}: {root}", markup=False, highlight=False, soft_wrap=True
    )


def draw_task(task: LevelTask) -> int:
    """Draw and write the masks of a task, white = hidden.

    Args:
        task: which masks.

    Returns:
        How many they are.

    Raises:
        ValueError: if no mask of such a ratio is found; see `freeform_strokes`.
    """
    low, high = task.level
    kept: list[Tensor | None] = [load_mask(file, task.size) for file in task.templates]
    kept = kept or [None]
    keys = (_SALT, task.seed, round(low * 1e9), round(high * 1e9))
    places = uniform(torch.tensor(task.numbers, dtype=torch.int64), *keys).tolist()
    inside = (1 - 2 * _INSET) * (high - low)
    for number, place in zip(task.numbers, places, strict=True):
        start = low + _INSET * (high - low) + place * (1 - _WINDOW) * inside
        generator = torch.Generator().manual_seed(seed_from(*keys, number))
        template = kept[number % len(kept)]
        window = (start, start + _WINDOW * inside)
        strokes = freeform_strokes(1, task.size, window, None, generator, template)[0]
        mask = united(draw_strokes(strokes, task.size), template)
        buffer = io.BytesIO()
        Image.fromarray((1 - as_array(mask)[0]) * np.uint8(255)).save(buffer, format="PNG")
        write_atomically(_path(task.root, task.level, number), buffer.getvalue())
    return len(task.numbers)


def _checked(levels: Sequence[float], per_level: int, workers: int | None) -> list[Level]:
    if per_level < 1:
        raise ValueError(f"per-level: {per_level} is not a positive number of masks")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: {workers} is not a positive number of processes")
    edges = [float(edge) for edge in levels]
    if len(edges) < 2 or edges != sorted(set(edges)):
        raise ValueError(f"levels: {edges} are no edges of levels; give two or more, rising, in [0,1]")
    return [check_ratio(pair, "levels") for pair in zip(edges[:-1], edges[1:], strict=True)]


def _claim(root: Path, facts: dict[str, Any], overwrite: bool) -> None:
    """Check that the folder is free, or holds the beginning of the very set that is asked for."""
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"output: {root} is a file; give a folder as --output")
    earlier = _read(root / FACTS)
    known = [tuple(level) for level in earlier.get("levels", [])]
    ours = {
        file
        for level in known
        for file in (root / level_name(level)).glob("*.png")
        if re.fullmatch(r"\d{5,}", file.stem)
    }
    foreign = sorted({file for file in root.rglob("*.png") if not file.name.startswith(".")} - ours)
    if foreign:
        raise FileExistsError(
            f"output: {root} holds PNG files that are of no set drawn here, such as "
            f"{foreign[0].relative_to(root)}; give another --output"
        )
    if overwrite:
        for file in ours:
            file.unlink()
        return
    if not earlier:
        return
    asked = {"templates": None, **facts}  # a fact only of sets that have some
    other = [key for key in asked if key not in _GROWS and earlier.get(key) != asked[key]]
    if other:
        raise FileExistsError(
            f"output: {root} holds a set with {other[0]} {earlier.get(other[0])}, not {asked[other[0]]}; give "
            "--overwrite, or another --output"
        )
    if earlier["per_level"] > facts["per_level"]:
        raise FileExistsError(
            f"output: {root} holds a set of {earlier['per_level']} masks per level, not {facts['per_level']}; "
            "ask for as many or more, or give --overwrite, or another --output"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"output: {path} is not JSON ({error}); give another --output") from error
    if not isinstance(facts, dict) or not {"levels", "per_level"} <= facts.keys():
        raise ValueError(f"output: {path} does not describe a set of masks; give another --output")
    return facts


def _missing(root: Path, level: Level, per_level: int) -> list[int]:
    folder = root / level_name(level)
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    return [number for number in range(per_level) if _path(root, level, number).name not in there]


def _path(root: Path, level: Level, number: int) -> Path:
    return root / level_name(level) / f"{number:05d}.png"


def _draw_all(tasks: list[LevelTask], total: int, workers: int) -> None:
    left = sum(len(task.numbers) for task in tasks)
    with progress_bar() as bar:
        line = bar.add_task("Drawing masks", total=total, completed=total - left)
        for done in _results(tasks, min(workers, len(tasks))):
            bar.advance(line, done)


def _results(tasks: list[LevelTask], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(draw_task, tasks)
        return
    # spawn: a fork would copy the locks of the progress bar's and torch's threads
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(bond(),))
    try:
        for future in as_completed([pool.submit(draw_task, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(parent: Bond) -> None:
    end_with_parent(parent)
    torch.set_num_threads(1)


def _ratios_in(found: MaskLevels, level: Level) -> torch.Tensor:
    return found.ratios[(found.ratios > level[0]) & (found.ratios <= level[1])]


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2) + "\n"
