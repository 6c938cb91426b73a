"""The tables of a comparison's page: the methods, and everything measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_app.core.measurement import Measurement
from lightning_app.report.columns import RELEASED, columns_of, find_metric
from lightning_app.report.compare import Axis, strongest
from lightning_app.report.frontier import Measured


@dataclass(frozen=True)
class PageCell:
    """A cell of a table: what is read, its interval, and what it is sorted by."""

    text: str
    interval: str = ""
    order: float | str = ""


@dataclass(frozen=True)
class PageHead:
    """The head of a column, and the judge whose column it is; empty for nobody's."""

    text: str
    judge: str = ""


def method_table(found: Measured) -> tuple[list[str], list[list[PageCell]]]:
    """Make the table of methods: utility, what the release looks like, what the strongest attack sees.

    Args:
        found: what is shown.

    Returns:
        Heads and rows.
    """
    heads = ["method", "accuracy s1", "s2", "s3", "hidden", "dSSIM", "PSNR", found.axis.title, "by"]
    rows = []
    for label, metrics in found.results.items():
        row = [PageCell(label, order=label)]
        row += [cell_of(find_metric(metrics, f"accuracy{s}"), 100) for s in ("", "_s2", "_s3")]
        row += [cell_of(find_metric(metrics, "mask_ratio"), 100)]
        row += [cell_of(find_metric(metrics, name)) for name in ("dssim", "psnr")]
        rows.append([*row, *strongest_cells(found, label, found.axis)])
    return heads, rows


def strongest_cells(found: Measured, label: str, axis: Axis) -> tuple[PageCell, PageCell]:
    """Make two cells: what the strongest attack on a method sees, and which it is, by whom.

    Args:
        found: what is shown.
        label: of the method.
        axis: what is looked at.

    Returns:
        Both; where its attackers failed, a named hole.
    """
    seen = strongest(found.results[label], found.attacks, list(found.judges), axis)
    if seen is None:
        return PageCell("–"), PageCell("–")
    whom = seen[3] if not seen[4] or len(found.judges) == 1 else f"{seen[3]}, {seen[4]}"
    cell = number(*seen[:3], axis.scale)
    hole = found.hole(label, axis)
    if found.open_on(label, axis):  # an attacker that failed, or could have learnt more, may see more
        cell = PageCell(f"{axis.bound} {cell.text}", cell.interval, cell.order)
    if hole is None:
        return cell, PageCell(whom, order=whom)
    # what is not known is not ranked: it is sorted as what was not measured
    if hole.attacked:
        return PageCell(cell.text, cell.interval), PageCell(whom, hole.words, whom)
    return PageCell("–", f"{cell.text} {seen[3]}"), PageCell(hole.words)


def state_heads(found: Measured, recognisers: list[str]) -> list[PageHead]:
    """List the heads of the table of everything measured.

    Args:
        found: what is shown.
        recognisers: labels.
    """
    columns = columns_of(list(found.judges), recognisers, found.results)
    named = [PageHead(c.head.format(label), label if c.of == "judges" else "") for c, label in columns]
    return [PageHead("method"), PageHead("seen"), *named]


def state_rows(found: Measured, recognisers: list[str]) -> list[list[PageCell]]:
    """Make the rows of the table of everything measured: one for each method and attack.

    Args:
        found: what is shown.
        recognisers: labels.
    """
    columns = list(columns_of(list(found.judges), recognisers, found.results))
    rows = []
    for label, metrics in found.results.items():
        for attack in (RELEASED, *found.attacks):
            if attack != RELEASED and find_metric(metrics, "dssim", attack=attack) is None:
                if why := found.open.get(label, {}).get(attack):  # a hole has a name
                    rows.append(
                        [
                            PageCell(label, order=label),
                            PageCell(attack, why, attack),
                            *(PageCell("–") for _ in columns),
                        ]
                    )
                continue  # not mounted on this method
            measured = [(find_metric(metrics, c.figure, whom, attack), c.scale) for c, whom in columns]
            cells = [cell_of(one, scale) for one, scale in measured]
            why = found.open.get(label, {}).get(attack, "")
            rows.append([PageCell(label, order=label), PageCell(attack, why, attack), *cells])
    return rows


def cell_of(one: Measurement | None, scale: float = 1) -> PageCell:
    """Make the cell of a measurement.

    Args:
        one: what was measured; None where nothing was.
        scale: what it is multiplied by to be shown.
    """
    return PageCell("–") if one is None else number(one.value, one.low, one.high, scale)


def number(value: float, low: float | None, high: float | None, scale: float = 1) -> PageCell:
    """Make the cell of a number with its interval.

    Args:
        value: the number.
        low: lower end; None where there is none.
        high: upper end.
        scale: what they are multiplied by to be shown.
    """
    digits = 1 if scale == 100 or abs(value) >= 2 else 3
    if not math.isfinite(value):
        return PageCell("∞" if value > 0 else "−∞", order=1e9 if value > 0 else -1e9)
    text = f"{scale * value:.{digits}f}"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return PageCell(text, order=scale * value)
    return PageCell(text, f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]", scale * value)
