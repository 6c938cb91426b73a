"""How long a study's runs will take: by the records of runs like them, or else by a few timed steps."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lightning_app.cli.fit_config import FitSettings, saved_fit_settings
from lightning_app.core.progress import hms
from lightning_app.desensitize import OURS
from lightning_app.report.tables import read_metrics

_TOOK = "time/fit_s"  # of metrics.json
_NEWEST = 80  # run folders that are looked at
_STEPS = 2  # that are timed, after one that is not


@dataclass(frozen=True)
class Planned:
    """A run that is to be trained.

    Attributes:
        kind: what it is, such as `recogniser` or `U-Net`.
        setting: what its config says.
    """

    kind: str
    setting: FitSettings


def estimate(planned: Iterable[Planned], runs: Path, device: torch.device | None = None) -> list[str]:
    """Return how long runs will take, a line for each kind, and where that is known from.

    Args:
        planned: the runs.
        runs: folder in which runs of earlier studies lie, or folders of such.
        device: where steps are timed; the CPU by default.

    Returns:
        Lines; none where nothing is to be trained. Of runs like no earlier one, networks of models that have
        `rehearse` are timed for two steps; of others it says that nothing is known.
    """
    groups: dict[tuple[str, str], list[Planned]] = {}
    for one in planned:
        groups.setdefault((one.kind, _likeness(one.setting.description)), []).append(one)
    if not groups:
        return []
    records = _records(runs)
    lines, total, unknown = [], 0.0, 0
    for (kind, likeness), same in groups.items():
        named = f"{len(same)} × {kind}" if len(same) > 1 else kind
        if took := records.get(likeness):
            each, where = (
                median(took),
                f"as {len(took)} earlier run{'s' if len(took) > 1 else ''} in {runs} took",
            )
        elif (timed := _timed(same[0].setting, device or torch.device("cpu"))) is not None:
            each, where = timed, f"by {_STEPS} timed steps of the network; reading and verifying come on top"
        else:
            unknown += len(same)
            lines.append(f"{named}: not known, for {runs} has no run like it")
            continue
        total += each * len(same)
        lines.append(f"{named}: about {hms(each * len(same))} ({hms(each)} each, {where})")
    rest = f", and {unknown} runs of which nothing is known" if unknown else ""
    lines.append(f"in all about {hms(total)} of training{rest}; measuring comes on top")
    return lines


def _likeness(description: Mapping[str, Any]) -> str:
    """Write down what decides how long a run takes: network, length, images, batch, representation; no seed.

    A method that leaves pictures takes no time to speak of; the 63 channels of a representation take a network's stem
    longer than the rest of it.
    """
    model, data = description.get("model") or {}, (description.get("data") or {}).get("init_args") or {}
    inner = model.get("init_args") or {}
    return json.dumps(
        [model.get("class_path"), {key: inner.get(key) for key in ("backbone", "width", "depth")},
         description.get("trainer"), data.get("reader"), data.get("global_batch_size"),
         [path for path in _classes(data.get("desensitizer")) if not _leaves_pictures(path)]],
        sort_keys=True, default=str,
    )  # fmt: skip


def _leaves_pictures(class_path: str) -> bool:
    """Return whether a class is a desensitizer of ours that returns pictures, or a chain, whose steps tell."""
    kind = OURS.get(class_path.rpartition(".")[2])
    return kind is not None and kind.is_image


def _classes(part: object) -> Iterator[str]:
    """Yield the class paths in a part of a config, the outer one first."""
    if isinstance(part, Mapping):
        if isinstance(part.get("class_path"), str):
            yield part["class_path"]
        part = [*part.values()]
    if isinstance(part, list):
        for inner in part:
            yield from _classes(inner)


def _records(runs: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    files = [*runs.glob("*/metrics.json"), *runs.glob("*/*/metrics.json")]
    files = sorted(
        (f for f in files if (f.parent / "config.yaml").is_file()), key=lambda file: file.stat().st_mtime
    )
    for file in files[-_NEWEST:]:
        try:
            took = read_metrics(file).get(_TOOK)
            description = saved_fit_settings(file.parent)
        except (ValueError, OSError):  # a damaged one says nothing; who goes on with it is told
            continue
        if isinstance(took, int | float) and took > 0 and description is not None:
            found.setdefault(_likeness(description), []).append(float(took))
    return found


def _timed(setting: FitSettings, device: torch.device) -> float | None:
    """Time a few steps of a model's network; None of models that cannot rehearse one."""
    model, data, length = setting.model, setting.data, setting.description["trainer"]
    rehearse: Callable[..., Tensor] | None = getattr(model, "rehearse", None)
    if model is None or rehearse is None:
        return None
    per_epoch = math.ceil(len(data.reader) / data.global_batch_size)
    epochs, most = length.get("max_epochs"), length.get("max_steps")
    steps = [epochs * per_epoch] if isinstance(epochs, int) and epochs > 0 else []
    steps += [most] if isinstance(most, int) and most > 0 else []
    if not steps:
        return None
    model.to(device).train()
    side, size = data.input_size, min(data.global_batch_size, 32)  # a step's time grows with its images
    image = torch.rand(size, data.in_channels, side, side, device=device)
    mask, index = (
        torch.ones(1, 1, side, side, device=device),
        torch.zeros(size, dtype=torch.int64, device=device),
    )
    began = 0.0
    for step in range(1 + _STEPS):
        if step == 1:
            began = time.perf_counter()
        rehearse(image, mask, index, data.size).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    each = (time.perf_counter() - began) / _STEPS
    model.zero_grad(set_to_none=True)
    return each * data.global_batch_size / size * min(steps)
