"""The config of an ablation, read by who works on what it left, or runs it in another way."""

from __future__ import annotations

from pathlib import Path

from lightning_app.cli.configs import FindConfig
from lightning_app.cli.nulls import NestedNulls
from lightning_app.cli.parse_error import OneReason
from lightning_app.studies.ablate.plan import AblationPlan, System, Variant
from lightning_app.studies.ablate.study import ablate


class AblationParser(OneReason, NestedNulls):
    """A parser of an ablation's config, with the errors of `ablate`'s own."""


def read_plan(config: str, runs: str | Path) -> AblationPlan:
    """Return the runs of an ablation; nothing that its config names is made, such as a logger.

    Args:
        config: its file, or the bare name of a shipped one.
        runs: folder in which the ablation's folder lies.

    Raises:
        FileNotFoundError: there is no such config.
        SystemExit: it says nothing that can be used.
    """
    parser = AblationParser(prog="main.py ablate")
    parser.add_argument("--config", action=FindConfig)
    parser.add_function_arguments(ablate)
    given = parser.parse_args(["--config", config])
    return AblationPlan(
        Path(runs) / given.name,
        {label: Variant(**vars(one)) for label, one in given.variants.items()},
        {label: System(**vars(one)) for label, one in given.systems.items()},
        given.seeds or [0], given.args or [], given.figures or {}, given.search, Path(given.masks), given.accuracy,
    )  # fmt: skip
