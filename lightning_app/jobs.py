"""Runs of other commands as processes of their own: done once, gone on with after a kill, each with its log."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_app.configs import CONFIGS
from lightning_app.files import write_atomically
from lightning_app.report.tables import read_metrics
from lightning_app.runs import has_checkpoint

log = logging.getLogger("faceveil")
_MAIN = CONFIGS.parent / "main.py"
# by which a run is asked to save and end; Windows has no SIGUSR1
_STOP = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def slug(label: str) -> str:
    """Make a folder's name of a label: letters, digits, dot, dash and underscore stay."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in label)


def check_labels(kind: str, labels: Sequence[str]) -> None:
    """Refuse labels that would share a folder.

    Args:
        kind: what they are, for the message.
        labels: all of them.

    Raises:
        ValueError: two have the same `slug`.
    """
    if len({slug(label) for label in labels}) < len(labels):
        raise ValueError(f"{kind}: two of {', '.join(labels)} have the same folder name; rename one")


def do(
    args: Sequence[str], run: Path, output: Path, group: str, *, figure: str = "lfw/accuracy"
) -> bool:  # fmt: skip
    """Do a `fit` or `validate` unless it is done, going on where it was killed; tell whether it is done.

    Args:
        args: the command line after `main.py`, with `--name` and `--runs` of the run's folder.
        run: that folder.
        output: file that keeps what the command prints.
        group: W&B group of the run.
        figure: a key that only a finished run's `metrics.json` has.
    """
    if finished(run, figure):
        return True
    again = has_checkpoint(run)
    going_on = [] if args[0] != "fit" else ["--ckpt_path", "last"] if again else ["--overwrite"]
    done = call([*args, *going_on], output, group)
    if done and args[0] == "fit" and not finished(run, figure):
        # killed between its last epoch and its figures: nothing was left to train
        done = call(["validate", *args[1:], "--ckpt_path", "last"], output, group)
    return done and finished(run, figure)


def finished(run: Path, figure: str = "lfw/accuracy") -> bool:
    """Tell whether a run ended well and left this figure."""
    # Lightning's teardown, which writes the file, comes only to runs that ended well
    return (run / "metrics.json").is_file() and figure in read_metrics(run / "metrics.json")


def check_record(record: Path, made: Path, about: Mapping[str, object]) -> None:
    """Refuse what was made otherwise under the same name.

    Args:
        record: the JSON file that says how, if there is one yet.
        made: what is made, for the message.
        about: how; JSON-able.

    Raises:
        ValueError: there is a record, and it says something else.
    """
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != about:
        raise ValueError(
            f"{made} was made with other settings or another mask than now asked for ({record}): remove both, or give "
            "another --name"
        )


def keep_record(record: Path, made: Path, about: Mapping[str, object]) -> None:
    """Write down how something is made, and refuse what was made otherwise under the same name.

    Args:
        record: the JSON file.
        made: what is made, for the message.
        about: how; JSON-able.

    Raises:
        ValueError: there is a record, and it says something else.
    """
    check_record(record, made, about)
    write_atomically(record, json.dumps(about, indent=2) + "\n")


def call(args: Sequence[str], output: Path, group: str) -> bool:
    """Run a command line of FaceVeil's in a process of its own, its output kept in a file.

    Args:
        args: the command line after `main.py`.
        output: the file; lines are added to it.
        group: W&B group, where the environment names none.

    Returns:
        Whether it ended with 0; otherwise its last line is logged.

    Raises:
        SystemExit: this process was asked to stop (SIGTERM, SIGUSR1), and the other has saved what it had and ended.
        KeyboardInterrupt: likewise, by Ctrl-C.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as kept:
        kept.write(f"$ python main.py {' '.join(args)}\n")
        kept.flush()
        code = _end_with(subprocess.Popen(
            [sys.executable, str(_MAIN), *args], stdout=kept, stderr=subprocess.STDOUT,
            env=os.environ | {"WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", group)},
        ))  # fmt: skip
    if code:
        last = [
            line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        said = [line for line in last if line.startswith("error: ")] or last
        log.error("%s failed (exit code %d): %s", " ".join(args[:3]), code, said[-1] if said else "")
    return code == 0


def _end_with(child: subprocess.Popen[bytes]) -> int:
    """Wait for a process, and leave none behind: what asks us to stop is passed on, and it is given time to save.

    Ctrl-C reaches it by itself; a second one kills it.
    """
    asked = 0

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        asked = number
        child.send_signal(number)

    here = threading.current_thread() is threading.main_thread()
    earlier = {number: signal.signal(number, pass_on) for number in _STOP if here}
    try:
        code = child.wait()
    except KeyboardInterrupt:
        log.warning("Interrupted: the run under way saves what it has; Ctrl-C again ends it at once")
        child.wait()
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        child.kill()  # nothing, where it has ended
        child.wait()
    if asked:
        log.warning(
            "Stopped by %s; the same command goes on with what is missing", signal.Signals(asked).name
        )
        sys.exit(128 + asked)
    return code
