"""The runs of an ablation: its rows and columns as the config has them, and the command line of every cell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_app.report import read_metrics
from lightning_app.studies import runner as jobs
from lightning_app.studies.ablate.report import ACCURACY, AblationOutcome
from lightning_app.studies.runner import slug

SEED = "{seed}"  # in an argument it stands for the run's seed


@dataclass(frozen=True)
class Variant:
    """One row of the table: how its mask comes to be, and what else differs.

    Attributes:
        search: arguments of `search-mask` beyond those of the ablation's `search`, by name.
        mask: a mask file, in place of a search.
        args: arguments of `fit` and `validate`, such as `[--model.insertion_points, "[layer2]"]`; `{seed}` in one of
            them is the run's seed, such as `runs/masker_s{seed}`.
        config: in place of the system's.
        paper: a paper's accuracy to show beside ours, in %.
        systems: those that it is trained or verified in, where a column means nothing for it, such as the mask alone
            of a method without a mask; all by default.
    """

    search: dict[str, Any] | None = None
    mask: str | None = None
    args: list[str] = field(default_factory=list)
    config: str | None = None
    paper: float | None = None
    systems: list[str] | None = None


@dataclass(frozen=True)
class System:
    """One column of the table: a recogniser that is trained, or one that is only verified.

    Attributes:
        config: of `fit`, or of `validate` where a checkpoint is given.
        checkpoint: verify this one under the variant's mask, with the desensitizer of `config`.
        args: arguments of `fit` and `validate`, after the variant's.
    """

    config: str
    checkpoint: str | None = None
    args: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AblationRun:
    """One run: a cell of the table for one seed.

    Attributes:
        seed: of the run; None for one that is only verified.
        run: name of the run's folder.
        args: the command line after `main.py`.
    """

    seed: int | None
    run: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class AblationPlan:
    """The runs of an ablation.

    Attributes:
        folder: `<runs>/<name>`.
        variants: name → variant, the rows.
        systems: name → system, the columns.
        seeds: of the runs that train.
        args: arguments of every run.
        figures: further figures: name → log key.
        search: config that searches start from.
        masks: folder of the masks that are searched for.
        accuracy: log key of the accuracy.
    """

    folder: Path
    variants: Mapping[str, Variant]
    systems: Mapping[str, System]
    seeds: Sequence[int]
    args: Sequence[str]
    figures: Mapping[str, str]
    search: str = "search_mask.yaml"
    masks: Path = Path("masks")
    accuracy: str = ACCURACY

    @property
    def wanted(self) -> dict[str, int]:
        """Return how many runs a cell of each system has."""
        return {column: 1 if s.checkpoint else len(self.seeds) for column, s in self.systems.items()}

    @property
    def steps(self) -> int:
        """Return how many steps there are: a mask for each variant, and the runs of its cells."""
        return sum(1 + sum(self.wanted[column] for column in self.columns(label)) for label in self.variants)

    def columns(self, label: str) -> list[str]:
        """Return the systems that a variant is trained or verified in, in the table's order.

        Args:
            label: of the variant.
        """
        own = self.variants[label].systems
        return [column for column in self.systems if own is None or column in own]

    def mask(self, label: str) -> Path | None:
        """Return where a variant's mask lies, or will lie; None where it has none.

        Args:
            label: of the variant.
        """
        variant = self.variants[label]
        if variant.search is not None:
            return searched_mask(self.folder.name, label, self.masks)
        return None if variant.mask is None else Path(variant.mask)

    def search_job(self, label: str) -> AblationRun:
        """Return the search of a variant that has one, but for where its mask goes.

        Args:
            label: of the variant.
        """
        args = ["search-mask", "--config", self.search]
        for key, value in (self.variants[label].search or {}).items():
            args += [f"--{key}", *(_as_text(v) for v in (value if isinstance(value, list) else [value]))]
        return AblationRun(None, f"search_{slug(label)}", tuple(args))

    def record(self, job: AblationRun) -> Path:
        """Return where it is kept what a run or search was made with.

        Args:
            job: the run, or the search.
        """
        return self.folder / "jobs" / f"{job.run}.json"

    def jobs(self, label: str, mask: Path | None = None, column: str | None = None) -> Iterator[AblationRun]:
        """Return the runs of a variant, of all systems or of one.

        Args:
            label: of the variant.
            mask: file of its mask.
            column: of the system.
        """
        variant = self.variants[label]
        mask_args = [] if mask is None else ["--data.desensitizer.init_args.mask", str(mask)]
        for name in self.columns(label):
            if column not in (None, name):
                continue
            system = self.systems[name]
            config = variant.config or system.config
            own = [*self.args, *variant.args, *system.args]
            common = ["--config", config, *mask_args, *own, "--runs", str(self.folder)]
            if system.checkpoint is not None:
                if any(SEED in word for word in own):
                    raise ValueError(
                        f"variants.{label}, systems.{name}: {SEED} in args, but {name} is verified, not trained, and "
                        "has no seed; give its systems in an ablation of their own"
                    )
                run = f"{slug(label)}_{slug(name)}"
                args = ["validate", *common, "--name", run, "--ckpt_path", system.checkpoint]
                yield AblationRun(None, run, tuple(args))
                continue
            for seed in self.seeds:
                run = f"{slug(label)}_{slug(name)}_s{seed}"
                seeded = [word.replace(SEED, str(seed)) for word in common]
                args = ["fit", *seeded, "--name", run, "--seed_everything", str(seed)]
                yield AblationRun(seed, run, tuple(args))

    def outcome(self, name: str, loggers: Sequence[Logger] = ()) -> AblationOutcome:
        """Gather what is done so far.

        Args:
            name: of the ablation.
            loggers: where copies of the report go.
        """
        found = {
            label: {
                column: [
                    read_metrics(self.folder / job.run / "metrics.json")
                    for job in self.jobs(label, column=column)
                    if jobs.finished(self.folder / job.run, self.accuracy)
                ]
                for column in self.columns(label)
            }
            for label in self.variants
        }
        paper = {label: v.paper for label, v in self.variants.items() if v.paper is not None}
        return AblationOutcome(
            name, self.folder, found, self.wanted, self.figures, paper, loggers, self.accuracy
        )


def searched_mask(name: str, label: str, masks: Path) -> Path:
    """Return where the mask lies that an ablation searches for one of its variants.

    Args:
        name: of the ablation.
        label: of the variant.
        masks: folder of masks.
    """
    return masks / f"{name}-{slug(label)}" / "mask.png"


def _as_text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | dict) or value is None else str(value)
