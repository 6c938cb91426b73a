"""Runs of other commands as processes of their own: done once, gone on with after a kill, each with its log."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import yaml

from lightning_app.cli.configs import CONFIGS, find_config
from lightning_app.core.files import append_to, file_sha256, write_atomically
from lightning_app.distributed.parent import bonded
from lightning_app.report.tables import read_metrics
from lightning_app.runs.folder import LAST, has_checkpoint
from lightning_app.studies.nested import NestedCheckpoints

log = logging.getLogger("faceveil")
FILES = "files"  # key of a record under which `named_files` stand
_CHECKPOINTS = ("ckpt_path", "checkpoint", "scorer")  # options of `fit`, `validate`, `search-mask`
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
        # killed between its last epoch and its metrics: nothing was left to train
        done = call(["validate", *args[1:], "--ckpt_path", "last"], output, group)
    return done and finished(run, figure)


def finished(run: Path, figure: str = "lfw/accuracy") -> bool:
    """Return whether a run ended well and left this metric."""
    # Lightning's teardown, which writes the file, comes only to runs that ended well
    return (run / "metrics.json").is_file() and figure in read_metrics(run / "metrics.json")


def check_record(record: Path, made: Path, description: Mapping[str, object]) -> None:
    """Refuse what was made otherwise under the same name.

    Files that have changed since (`FILES`) count only once something is made of them: a config that failed may be
    mended. A file that only one side knows does not count, as in a record of an earlier version, which knows none,
    or a checkpoint that was not there yet.

    Args:
        record: the JSON file that says how, if there is one yet.
        made: what is made, a run's folder or a file.
        description: how; JSON-able.

    Raises:
        ValueError: there is a record, and it says something else; names the files that have changed.
    """
    if not record.is_file():
        return
    kept: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    then, now = _files(kept), _files(description)
    changed = [
        f"{name} has changed: SHA-256 {then[name][:12]}… then, {now[name][:12]}… now; "
        for name in sorted(then.keys() & now.keys())
        if then[name] != now[name]
    ]
    if {**kept, FILES: None} == {**description, FILES: None} and not (changed and _is_made(made)):
        return
    raise ValueError(
        f"{made} was made with other settings or another mask than now asked for ({''.join(changed)}{record}): remove "
        "both, or give another --name"
    )


def write_record(record: Path, made: Path, description: Mapping[str, object]) -> None:
    """Write down how something is made, and refuse what was made otherwise under the same name.

    Args:
        record: the JSON file; left as it is once something is made, for what its files hold now says nothing of then.
        made: what is made, a run's folder or a file.
        description: how; JSON-able.

    Raises:
        ValueError: there is a record, and it says something else, see `check_record`.
    """
    check_record(record, made, description)
    if not (record.is_file() and _is_made(made)):
        write_atomically(record, json.dumps(description, indent=2) + "\n")


def is_old(record: Path, made: Path) -> bool:
    """Return whether something was made by an earlier version, whose records do not hash files.

    Args:
        record: the JSON file, if there is one.
        made: what is made, a run's folder or a file.
    """
    return record.is_file() and FILES not in json.loads(record.read_text(encoding="utf-8")) and _is_made(made)


def named_files(args: Sequence[str]) -> dict[str, str | None]:
    """Hash the files that a command line names, so that it can be told later whether they have changed.

    Configs are hashed by what they say: comments and layout do not count. Checkpoints are those of the command line
    and of the configs, whichever comes last, and those that their classes take, such as a desensitizer's masker.

    Args:
        args: the command line after `main.py`.

    Returns:
        Name as given → SHA-256 in hexadecimal; None for a checkpoint that is not there.

    Raises:
        FileNotFoundError: there is no such config.
    """
    words = [part for word in args for part in (word.split("=", 1) if word.startswith("-") else [word])]
    hashes: dict[str, str | None] = {}
    settings: dict[str, object] = {}
    within = NestedCheckpoints()
    for option, value in pairwise(words):
        if option in ("-c", "--config"):
            hashes[value], said = _read_config(find_config(value))
            settings |= said if isinstance(said, dict) else {}
            within.config(said)
        elif value.endswith((".yaml", ".yml")) and Path(value).is_file():  # such as `--model model.yaml`
            hashes[value] = _read_config(Path(value))[0]
        else:
            settings[option.removeprefix("--")] = value
            if option.startswith("--"):
                within.option(option, value)
    for name in (*(settings.get(key) for key in _CHECKPOINTS), *within.names):
        if isinstance(name, str):
            file = Path(name) / LAST if Path(name).is_dir() else Path(name)
            hashes[name] = _hash_of(file.resolve(), file.stat().st_mtime_ns) if file.is_file() else None
    return hashes


def _read_config(path: Path) -> tuple[str, object]:
    content: bytes = path.read_bytes()
    said: object = None
    try:
        said = yaml.safe_load(content)
        content = yaml.safe_dump(said).encode()
    except yaml.YAMLError:
        log.debug("%s is not plain YAML", path)  # the command that is run with it says what is wrong
    return hashlib.sha256(content).hexdigest(), said


@cache
def _hash_of(file: Path, mtime_ns: int) -> str:
    """Hash a file once, however many runs name it, unless it is written meanwhile."""
    return file_sha256(file)


def _files(description: Mapping[str, object]) -> dict[str, str]:
    files = description.get(FILES)
    return {k: v for k, v in files.items() if v is not None} if isinstance(files, dict) else {}


def _is_made(made: Path) -> bool:
    """Return whether something was made: a file, a run's metrics, or a checkpoint that it goes on from."""
    return made.is_file() or (made / "metrics.json").is_file() or has_checkpoint(made)


def call(args: Sequence[str], output: Path, group: str) -> bool:
    """Run a command line of FaceVeil's in a process of its own, its output kept in a file; it ends with this one.

    Args:
        args: the command line after `main.py`.
        output: the file; lines are added to it. Where it cannot be written, the command is run all the same.
        group: W&B group, where the environment names none.

    Returns:
        Whether it ended with 0; otherwise its last line is logged.

    Raises:
        SystemExit: this process was asked to stop (SIGTERM, SIGUSR1), and the other has saved what it had and ended.
        KeyboardInterrupt: likewise, by Ctrl-C.
    """
    with _kept(output, f"$ python main.py {' '.join(args)}\n") as kept:
        code = _end_with(subprocess.Popen(
            [sys.executable, str(_MAIN), *args], stdout=kept, stderr=subprocess.STDOUT,
            **bonded(os.environ | {
                "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", group), "PYTHONIOENCODING": "utf-8",
            }),
        ))  # fmt: skip
    if code:
        last = [line for line in _read(output).splitlines() if line.strip()]
        said = [line for line in last if line.startswith("error: ")] or last
        log.error("%s failed (exit code %d): %s", " ".join(args[:3]), code, said[-1] if said else "")
    return code == 0


def _kept(output: Path, head: str) -> IO[str]:
    """Open the file that keeps what a run prints, and begin it; nowhere, where the disk takes nothing.

    Raises:
        ValueError: it is a link, or has a second name.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with append_to(output) as begun:
            begun.write(head)
        return append_to(output)
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): what this run prints is lost", output, error.strerror or error
        )
        return open(os.devnull, "w", encoding="utf-8")


def _read(output: Path) -> str:
    try:
        return output.read_text(encoding="utf-8", errors="replace")
    except OSError:  # see `_kept`
        return ""


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
