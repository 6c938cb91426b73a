"""What a model is made of, in a short table when a fit begins."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary.model_summary import get_human_readable_count
from rich import get_console

from lightning_app.report import print_table


class Summary(ModelSummary):
    """Print the parts of a model with their parameters, in place of Lightning's table.

    Lightning's also counts FLOPs, which are 0 unless a model has an example input, and modes.
    """

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int = 0,
        **summarize_kwargs: Any,
    ) -> None:
        """Print the table; see `lightning.pytorch.callbacks.ModelSummary.summarize`."""
        columns = {name.strip(): values for name, values in summary_data}
        shown = [column for column in ("Name", "Type", "Params") if column in columns]
        rows = zip(*(columns[column] for column in shown), strict=True)
        print_table("model", [list(row) for row in rows], [column.lower() for column in shown])
        count, learnt = map(get_human_readable_count, (int(total_parameters), int(trainable_parameters)))
        learnt = (
            "all of them trained" if total_parameters == trainable_parameters else f"{learnt} of them trained"
        )
        get_console().print(
            f"{count} parameters, {learnt}; {model_size:.1f} MB", markup=False, highlight=False
        )
