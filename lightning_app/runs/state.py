"""How a run stands: `state.json` in its folder says whether it trains, has finished, was stopped or failed."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from lightning_app.core.files import write_atomically
from lightning_app.core.foreign import read_json
from lightning_app.core.printing import one_line
from lightning_app.runs.lock import is_held

STATE = "state.json"
Written = Literal["running", "finished", "stopped", "failed"]
State = Literal["running", "finished", "stopped", "failed", "killed", "unfinished"]
_WORDS = 300  # of a reason


def write_state(run_dir: Path, state: Written, reason: str = "") -> None:
    """Write down how a run stands, with the time.

    Args:
        run_dir: `runs/<name>`.
        state: `running` when training begins; `finished`, `stopped` (Ctrl-C, SIGTERM) or `failed` when it ends.
        reason: what it failed with.
    """
    facts = {"state": state, "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if reason:
        facts["reason"] = one_line(reason)[:_WORDS]
    write_atomically(run_dir / STATE, json.dumps(facts, indent=2) + "\n")


def read_state(run_dir: Path) -> tuple[State, str]:
    """Return how a run stands, and what it failed with.

    `killed` is one that says it trains while no process does. A folder without `state.json` (of another command, or of
    an earlier version) is `finished` where it has `metrics.json`, else `unfinished`.

    Args:
        run_dir: `runs/<name>`.
    """
    known: tuple[State, ...] = ("running", "finished", "stopped", "failed")
    try:
        facts = read_json(run_dir / STATE)
    except (OSError, ValueError):  # none, or damaged: then the other files tell
        facts = None
    said = facts.get("state") if isinstance(facts, dict) else None
    state = next((one for one in known if one == said), None)
    if state is None:
        state = "finished" if (run_dir / "metrics.json").is_file() else "unfinished"
    if state in ("running", "unfinished"):
        state = "running" if is_held(run_dir) else "killed" if state == "running" else "unfinished"
    reason = facts.get("reason") if isinstance(facts, dict) and state == "failed" else ""
    return state, one_line(str(reason or ""))[:_WORDS]
