"""Studies on a GPU that is lent for minutes: the runs of several `ablate` configs, many at a time.

    python -m benchmarks.gpu_studies benchmarks/gpu_studies.yaml --workers 3 --seconds 480 --out results

Small networks leave most of a GPU idle between their kernels, and starting a process takes longer than training one. So
everything is imported once, worker processes are forked from that, and each does one run after another in its own
process, with the command line that `ablate` would give it. First seeds come before second ones, so that a study that
is cut short has whole tables. A run waits for the checkpoints and masks that its command line names. What is found goes
to `--out`: each study's table, figure and metrics.json, and of each run its metrics.json, scores, log and record; no
checkpoint, no picture of a face.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import queue
import re
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_app.cli.configs import CONFIGS, find_config
from lightning_app.studies import runner
from lightning_app.studies.ablate import AblationPlan
from lightning_app.studies.ablate.plan import SEED
from lightning_app.studies.ablate.read import read_plan
from lightning_app.studies.ablate.report import write_report

FITS = "fits"  # in place of a study's name
KEPT = ("metrics.json", "scores/*", "config.yaml")  # of a run's folder
_FILE = re.compile(r"[\w./+-]+\.(?:ckpt|png|safetensors)\b")
_RUN = re.compile(r"\bcheckpoint[=:\s]\s*([\w./+-]+)")  # a checkpoint may be given as the folder of its run


@dataclass(frozen=True)
class StudyTask:
    """One run, or one search.

    Attributes:
        study: name of the ablation.
        name: of the run.
        args: the command line after `main.py`.
        run: folder of the run; of a search the mask that it makes.
        log: file that keeps what is printed.
        needs: files that must be there first.
        order: first come lower ones.
        figure: log key that only a finished run has.
    """

    study: str
    name: str
    args: tuple[str, ...]
    run: Path
    log: Path
    needs: tuple[Path, ...]
    order: tuple[int, ...]
    figure: str = "lfw/accuracy"

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.run.is_file() if self.run.suffix else runner.finished(self.run, self.figure)


def read_study(config: str, args: Sequence[str], seeds: Sequence[int] | None, runs: str) -> AblationPlan:
    """Read an ablation's config.

    Args:
        config: its file, or the bare name of a shipped one.
        args: arguments of every run, before the config's own.
        seeds: in place of the config's.
        runs: folder in which the ablation's folder lies.

    Raises:
        FileNotFoundError: there is no such config.
        SystemExit: it says nothing that can be used.
    """
    plan = read_plan(config, runs)
    return replace(plan, seeds=seeds or plan.seeds, args=[*args, *plan.args])


def tasks_of(plan: AblationPlan, rank: int, search_args: Sequence[str] = ()) -> list[StudyTask]:
    """List the runs of an ablation, and its searches, in the order in which they shall be done.

    Args:
        plan: of the ablation.
        rank: of the study among the others, lower comes first.
        search_args: further arguments of its searches.
    """
    found = []
    for label, variant in plan.variants.items():
        mask = plan.mask(label)
        if variant.search is not None:
            assert mask is not None
            job = plan.search_job(label)
            place = ["--name", mask.parent.name, "--output", str(plan.masks)]
            found.append(_task(plan, job.run, (*job.args, *place, *search_args), mask, (0, rank)))
        for job in plan.jobs(label, mask):
            seed = 0 if job.seed is None else list(plan.seeds).index(job.seed)
            found.append(_task(plan, job.run, job.args, plan.folder / job.run, (seed + 1, rank)))
    return found


def _task(
    plan: AblationPlan, name: str, args: tuple[str, ...], run: Path, order: tuple[int, ...]
) -> StudyTask:
    words = " ".join(args)
    needs = [Path(word) for word in _FILE.findall(words)]
    needs += [Path(word) / "metrics.json" for word in _RUN.findall(words) if not _FILE.fullmatch(word)]
    if args[0] == "search-mask" and "--checkpoint" not in args:
        said = yaml.safe_load(Path(find_config(plan.search)).read_text(encoding="utf-8"))
        needs.append(Path(said["checkpoint"]))
    more = [] if args[0] == "search-mask" else ["--overwrite"]
    return StudyTask(
        plan.folder.name,
        name,
        (*args, *more),
        run,
        plan.folder / "logs" / f"{name}.log",
        tuple(needs),
        order,
        plan.accuracy,
    )


def fits_of(fit: dict[str, Any], args: Sequence[str], rank: int, runs: str) -> list[StudyTask]:
    """List single runs that studies wait for, such as a masker for each seed.

    Args:
        fit: `config`, `name` (`{seed}` in it is the seed), and where they are asked for `seeds` (0 by default), `args`,
            and `figure`, the log key that only a finished run has (`train/loss` by default).
        args: arguments of every run, before the fit's own.
        rank: of the fit among the studies, lower comes first.
        runs: folder in which the run's folder lies.
    """
    found = []
    for n, seed in enumerate(fit.get("seeds") or [0]):
        name = fit["name"].replace(SEED, str(seed))
        own = [word.replace(SEED, str(seed)) for word in [*args, *(fit.get("args") or [])]]
        line = ("fit", "--config", fit["config"], *own, "--runs", runs, "--name", name, "--seed_everything")
        log = Path(runs) / FITS / "logs" / f"{name}.log"
        order = (fit.get("group", 0), n + 1, rank)
        figure = fit.get("figure", "train/loss")
        found.append(
            StudyTask(
                FITS, name, (*line, str(seed), "--overwrite"), Path(runs) / name, log, (), order, figure
            )
        )
    return found


def work(todo: Any, done: Any) -> None:
    """Do runs until there are none: the loop of a worker process.

    Args:
        todo: queue of tasks; None ends it.
        done: queue of (task, whether it ended well, seconds).
    """
    from main import main

    gc.freeze()  # what is there stays: `gc.collect` has no need to look through it, nor the fork to copy it
    while (task := todo.get()) is not None:
        began = time.monotonic()
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            task.log.open("a", encoding="utf-8", buffering=1) as file,
            redirect_stdout(file),
            redirect_stderr(file),
        ):
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            print("$ python main.py", *task.args, flush=True)
            os.environ.pop("PL_GLOBAL_SEED", None)
            try:
                if (
                    torch.cuda._is_in_bad_fork()
                ):  # somebody asked for the GPU before the fork: then in its own process
                    subprocess.run([sys.executable, str(CONFIGS.parent / "main.py"), *task.args], check=False)
                else:
                    main(list(task.args))
            except SystemExit as end:
                print(f"exit code {end.code}", flush=True)
            except Exception:
                traceback.print_exc()
            sys.stdout.flush()
        gc.collect()
        done.put((task, task.done, time.monotonic() - began))


def run_all(tasks: Sequence[StudyTask], workers: int, until: float, say: Any) -> dict[str, str]:
    """Do runs, several at a time, until the time is up.

    Args:
        tasks: all of them.
        workers: processes.
        until: `time.monotonic()` after which no run is begun; those under way are ended a minute later.
        say: prints a line.

    Returns:
        study/run -> what became of it.
    """
    context = multiprocessing.get_context("fork")
    todo, done = context.Queue(), context.Queue()
    processes = [context.Process(target=work, args=(todo, done), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    waiting = sorted((task for task in tasks if not task.done), key=lambda task: task.order)
    state = {f"{t.study}/{t.name}": "done before" if t.done else "not begun" for t in tasks}
    under_way = 0
    while waiting or under_way:
        late = time.monotonic() > until
        while not late and under_way < workers:
            ready = next((t for t in waiting if all(need.exists() for need in t.needs)), None)
            if ready is None:
                break
            waiting.remove(ready)
            todo.put(ready)
            under_way += 1
            state[f"{ready.study}/{ready.name}"] = "cut short"
        if under_way == 0 or time.monotonic() > until + 60:
            break
        try:
            task, well, seconds = done.get(timeout=1)
        except queue.Empty:
            if not any(process.is_alive() for process in processes):
                break
            continue
        under_way -= 1
        state[f"{task.study}/{task.name}"] = "done" if well else "FAILED"
        say(
            f"{'done' if well else 'FAILED'} {task.study}/{task.name} {seconds:.0f} s, {len(waiting)} waiting"
        )
    for process in processes:
        process.kill()
    return state


def pack(plans: Sequence[AblationPlan], fits: Sequence[StudyTask], state: dict[str, str], out: Path) -> None:
    """Write what was found: tables, figures, and of each run what is no checkpoint.

    Args:
        plans: the studies.
        fits: the single runs.
        state: what became of each run.
        out: folder of the results.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    with tarfile.open(out / "runs.tar.gz", "w:gz") as archive:
        for fit in fits:
            for path in [fit.log, *(f for kept in KEPT for f in fit.run.glob(kept))]:
                if path.is_file():
                    archive.add(path, str(path))
        for plan in plans:
            if not plan.folder.is_dir():
                continue
            write_report(plan.outcome(plan.folder.name), final=True)
            wanted = [*plan.folder.glob("*.json"), *plan.folder.glob("*.png"), *plan.folder.glob("jobs/*")]
            wanted += [
                *plan.folder.glob("logs/*"),
                *(f for kept in KEPT for f in plan.folder.glob(f"*/{kept}")),
            ]
            for path in wanted:
                archive.add(path, str(path))
            for label in plan.variants:
                mask = plan.mask(label)
                if plan.variants[label].search is not None and mask is not None and mask.is_file():
                    archive.add(mask.parent, str(mask.parent))


def main(args: list[str] | None = None) -> None:
    """Do the studies that a plan lists.

    Args:
        args: the command line; `sys.argv[1:]` by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_studies", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "plan", type=Path, help="YAML: `args` of every run, `fits` and `studies`, see gpu_studies.yaml"
    )
    parser.add_argument("--workers", type=int, default=3, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no run is begun")
    parser.add_argument("--more", type=yaml.safe_load, default=[], help="further arguments of every run")
    parser.add_argument("--only", default="", help="regular expression: study/run of those that are done")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(args)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # to ask for a GPU here would spoil it for the forked
    plan = yaml.safe_load(given.plan.read_text(encoding="utf-8"))
    plans: list[AblationPlan] = []
    tasks: list[StudyTask] = []

    def shared(one: dict[str, Any]) -> list[str]:
        """Return the arguments of all runs, but those that these do not know."""
        unknown = tuple(one.get("without") or ())
        return [
            arg
            for arg in [*(plan.get("args") or []), *given.more]
            if not unknown or not arg.startswith(unknown)
        ]

    for rank, fit in enumerate(plan.get("fits") or []):
        tasks += fits_of(fit, shared(fit), rank, given.runs)
    for rank, study in enumerate(plan["studies"]):
        more = [*shared(study), *(study.get("args") or [])]
        one = read_study(study["config"], more, study.get("seeds"), given.runs)
        plans.append(replace(one, folder=one.folder.parent / study["name"]) if "name" in study else one)
        more_tasks = tasks_of(plans[-1], rank, plan.get("search_args") or [])
        wanted = re.compile(study.get("only", ""))
        tasks += [
            replace(t, order=(study.get("group", 0), *t.order)) for t in more_tasks if wanted.search(t.name)
        ]
    tasks = [task for task in tasks if re.search(given.only, f"{task.study}/{task.name}")]
    __import__("lightning_app.cli.app")  # before the fork, once for all
    say(f"{len(tasks)} runs of {len(plans)} studies on {given.workers} workers")
    state = run_all(tasks, given.workers, began + given.seconds, say)
    pack(plans, [task for task in tasks if task.study == FITS], state, given.out)
    for name in sorted(name for name, what in state.items() if what == "FAILED")[:10]:
        study, _, run = name.partition("/")
        log = Path(given.runs) / study / "logs" / f"{run}.log"
        say(f"{name}: …{log.read_text(encoding='utf-8', errors='replace')[-600:]}")
    say(str({what: list(state.values()).count(what) for what in sorted(set(state.values()))}))


if __name__ == "__main__":
    main()
