"""What a round is remembered by: one flat record, as a line of a table, of a CSV file, and of the logs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_app.core.csv_text import csv_table
from lightning_app.core.files import write_atomically
from lightning_app.core.log_keys import accuracies, set_of
from lightning_app.federated.protocol.messages import plain
from lightning_app.report import png_bytes
from lightning_app.report.rounds import rounds_chart
from lightning_app.report.tables import Scalar

log = logging.getLogger("faceveil")
Record = dict[str, Any]
ACCURACY = "lfw/accuracy"
_CLIENT = "client"
_TIMES = ("clients", "overhead", "verify", "join", "round")


def client_key(number: int | str, figure: str) -> str:
    """Return the key under which a record has a metric of one client, such as `client0/loss`.

    Args:
        number: the client's.
        figure: such as `loss`.
    """
    return f"{_CLIENT}{number}/{figure}"


def client_of(key: str) -> int | None:
    """Return the number of the client that a key of a record speaks of; None where it speaks of none.

    Args:
        key: see `client_key`.
    """
    number = set_of(key).removeprefix(_CLIENT)
    return int(number) if number.isdecimal() and key.startswith(_CLIENT) else None


def client_keys(rounds: Sequence[Record], figure: str) -> list[str]:
    """Return the keys of a metric of all clients, such as `client0/loss`, in the order of their numbers.

    Args:
        rounds: records.
        figure: such as `loss`.
    """
    numbers = {number for record in rounds for key in record if (number := client_of(key)) is not None}
    keys = [client_key(number, figure) for number in sorted(numbers)]
    return [key for key in keys if any(key in record for record in rounds)]


def heads_and_rows(rounds: Sequence[Record]) -> tuple[list[str], list[list[object]]]:
    """Make the table of the rounds.

    Args:
        rounds: records.

    Returns:
        Heads and rows: round, owners, accuracy, loss and drift of each owner in the order of their numbers, MB
        both ways, seconds of the owners' training and beside it; `rounds.csv` has the rest.
    """
    losses, norms = client_keys(rounds, "loss"), client_keys(rounds, "drift")
    accuracy = accuracy_key(rounds)
    heads = ["round", "owners"]
    heads += [] if accuracy is None else ["accuracy"]
    heads += ["losses", "drifts", "MB", "train s", "rest s"]
    rows: list[list[object]] = []
    for record in rounds:
        row: list[object] = [str(record["round"]), record["clients"]]
        row += [] if accuracy is None else [_text(record.get(accuracy), 4)]
        row += [
            " ".join(_text(record.get(key), digits) for key in keys)
            for keys, digits in ((losses, 2), (norms, 1))
        ]
        row += [f"{(record['bytes_down'] + record['bytes_up']) / 1e6:.0f}"]
        row += [f"{record[key]:.1f}" for key in ("time/clients_s", "time/overhead_s")]
        rows.append(row)
    return heads, rows


def accuracy_key(rounds: Sequence[Record]) -> str | None:
    """Return the verification accuracy that is shown: LFW's, else the first there is.

    Args:
        rounds: records.
    """
    keys = accuracies(key for record in rounds for key in record).values()
    return ACCURACY if ACCURACY in keys else next(iter(keys), None)


def write_rounds(run_dir: Path, rounds: Sequence[Record]) -> Image.Image | None:
    """Write `rounds.csv`, a line for each round, and the figure `rounds.png`.

    A figure that cannot be drawn is named in the log: the rounds go on.

    Args:
        run_dir: `runs/<name>`.
        rounds: records.

    Returns:
        The figure; None where it could not be drawn.

    Raises:
        OSError: the folder cannot be written.
    """
    keys = list(dict.fromkeys(key for record in rounds for key in record))
    write_atomically(run_dir / "rounds.csv", csv_table(keys, rounds))
    accuracy = accuracy_key(rounds)
    at = [int(record["round"]) for record in rounds]
    series: dict[str, list[float]] = {}
    if accuracy is not None:
        series = {
            end: [_number(record.get(accuracy + end)) for record in rounds] for end in ("", "_low", "_high")
        }
    lines = {
        figure: {
            f"owner {client_of(key)}": [_number(record.get(key)) for record in rounds]
            for key in client_keys(rounds, figure)
        }
        for figure in ("loss", "drift", "cosine")
    }
    try:
        picture = rounds_chart(at, series, lines, accuracy or "", title=run_dir.name)
        drawn = png_bytes(picture)
    except Exception as error:  # whatever strange metrics make of a drawing, the round is done
        log.warning("%s is not drawn (%s)", run_dir / "rounds.png", plain(str(error)), exc_info=True)
        return None
    write_atomically(run_dir / "rounds.png", drawn)
    return picture


def summary(rounds: Sequence[Record], clients: int, epochs: int) -> dict[str, Scalar]:
    """Make the flat metrics of a federation.

    Args:
        rounds: records, at least one.
        clients: owners that were planned.
        epochs: of a round.

    Returns:
        The last round's verification under its log keys, `federated/…` and `time/…` over all rounds.
    """
    last = rounds[-1]
    spared = ("round", "clients", "images", "batches", "bytes_down", "bytes_up", "hash", "classes")
    metrics: dict[str, Scalar] = {
        key: value for key, value in last.items()
        if key not in spared and client_of(key) is None and not key.startswith(("time/", "refused"))
    }  # fmt: skip
    summed = ("bytes_down", "bytes_up", *(f"time/{key}_s" for key in _TIMES))
    total = {key: sum(record[key] for record in rounds) for key in summed}
    training = total["time/clients_s"]
    metrics |= {f"federated/{key}_per_round": total[key] / len(rounds) for key in ("bytes_down", "bytes_up")}
    metrics |= {
        "federated/rounds": len(rounds), "federated/clients": clients, "federated/hash": last["hash"],
        "federated/images": sum(record["images"] for record in rounds),
        "federated/left_out": sum(len(client_keys([record], "refused")) for record in rounds),
        "federated/overhead_share": total["time/overhead_s"] / training if training > 0 else math.nan,
        "run/epochs": len(rounds) * epochs, "run/steps": sum(record["batches"] for record in rounds),
        **{key: total[key] for key in total if key.startswith("time/")},
    }  # fmt: skip
    metrics |= {f"federated/{key}": value for key, value in last.items() if client_of(key) is not None}
    return metrics


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _text(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
