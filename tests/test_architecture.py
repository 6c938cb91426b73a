"""The house as a graph of imports: rooms in layers, arrows downwards, no circle, nothing lazy but what has a reason."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from lightning_app.commands import COMMANDS as TABLE

ROOT = Path(__file__).parents[1]
# from top to bottom; rooms of one line do not import each other. The longest name that fits is a module's room
LAYERS = (
    ("main",),
    ("lightning_app",),
    ("lightning_app.commands",),
    ("lightning_app.studies", "lightning_app.federated", "lightning_app.inference"),
    ("lightning_app.cli",),
    ("callbacks",),
    ("lightning_app.export", "lightning_app.evaluation"),
    ("lightning_app.models",),
    ("lightning_app.release.audit",),
    ("lightning_app.release.write",),
    ("lightning_app.alignment",),
    ("datamodules",),
    ("lightning_app.release", "lightning_app.release.format"),
    ("lightning_app.attacks",),
    ("lightning_app.desensitize",),
    ("lightning_app.masks",),
    ("lightning_app.networks",),
    ("lightning_app.metrics",),
    ("lightning_app.report",),
    ("lightning_app.runs",),
    ("lightning_app.distributed",),
    ("lightning_app.core",),
)
COMMANDS = "lightning_app.commands"
# what commands may import of their room; all else that two of them need lies in a lower one
SHARED = {
    f"{COMMANDS}.parser": "what all parsers have in common",
}
PLAIN = ("networks", "masks", "desensitize", "attacks", "metrics")  # rooms that know no Lightning
# imports within functions of our own modules, and why
LAZY = {
    "lightning_app": "load_recogniser, without Lightning for who imports a desensitizer",
    "lightning_app.commands": "a command is imported when it is called: --help imports no torch",
    "lightning_app.commands.federate": "Flower is an extra",
    "lightning_app.federated.flower.superexec": "a forked process imports the app, the one that forks does not",
    "lightning_app.masks": "captum brings matplotlib: who hides pixels under a mask does not wait for it",
}
# arrows upwards that the interpreter never follows: under TYPE_CHECKING, for mypy and for jsonargparse, which checks
# the class of a `reader` in a config against the hint
TYPED = {
    f"lightning_app.attacks.{name}": {"datamodules.readers.base", "datamodules"}
    for name in ("base", "least_squares", "mean_face", "unshuffle")
}


@cache
def modules() -> dict[str, Path]:
    found = [ROOT / "main.py"]
    for package in ("lightning_app", "datamodules", "callbacks"):
        found += sorted((ROOT / package).rglob("*.py"))
    return {_name(path): path for path in found}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(module: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names that a module imports when it is imported itself, names that its functions import, and names of types."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for branch in node.body  # what `else` has is imported
        for inner in ast.walk(branch)
    }
    now, lazy, typed = set[str](), set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module":
            found = named(node.args[0], module)
        else:
            continue
        (typed if id(node) in typing else lazy if id(node) in later else now).update(found)
    return frozenset(now), frozenset(lazy), frozenset(typed)


def named(argument: ast.expr, module: str) -> set[str]:
    """Return the names that the argument of `import_module` can have; none where a user gives it, as of a class path.

    Args:
        argument: a string, or an f-string: its `__name__` is the module's, its other values may be any name of ours.
        module: that calls it.
    """
    if isinstance(argument, ast.Constant):
        return {str(argument.value)}
    if not isinstance(argument, ast.JoinedStr):
        return set()
    pattern = ""
    for part in argument.values:
        if isinstance(part, ast.Constant):
            pattern += re.escape(str(part.value))
        elif isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "__name__":
            pattern += re.escape(module)
        else:
            pattern += r"\w+"
    return {name for name in modules() if re.fullmatch(pattern, name)}


def own(names: frozenset[str]) -> set[str]:
    """Those of our own modules that import statements name: a module itself, or the one that a name is taken from."""
    found = set()
    for name in names:
        found |= {name, name.rpartition(".")[0]} & modules().keys() if name not in modules() else {name}
    return found


def layer(module: str) -> int:
    depth = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (found := depth.get(".".join(parts[:end]))) is not None:
            return found
    raise AssertionError(f"{module} lies in no room")


def room(module: str) -> str:
    rooms = [room for row in LAYERS for room in row if f"{module}.".startswith(f"{room}.")]
    return max(rooms, key=len)


def test_the_walk_sees_the_imports() -> None:
    now, lazy, _ = imports("lightning_app.models.checkpoints")
    assert "lightning_app.models.base" in own(now)
    assert not lazy
    # a name is taken from a module, or is one
    assert own(frozenset({"lightning_app.core.draws.seed_from", "os.path"})) == {"lightning_app.core.draws"}
    assert own(frozenset({"lightning_app.core.draws"})) == {"lightning_app.core.draws"}
    assert "lightning_app.inference.recogniser" in {*own(imports("lightning_app")[1])} | {
        f"{found}.recogniser" for found in own(imports("lightning_app")[1])
    }
    assert len(modules()) > 200


def test_the_walk_sees_import_module() -> None:
    assert "lightning_app.masks.saliency.template" in own(imports("lightning_app.masks")[1])
    assert {"lightning_app.cli.app", "lightning_app.commands.draw_mask"} <= own(
        imports("lightning_app.commands")[1]
    )
    # what a package imports of itself at once is not late
    now, lazy, _ = imports("lightning_app.networks.backbones")
    assert "lightning_app.networks.backbones.resnet" in own(now)
    assert not own(lazy)
    # a class path that a user gives names nothing of ours
    assert not own(imports("lightning_app.models.known")[1])


def test_every_module_lies_in_a_room() -> None:
    loose = [p.name for p in (ROOT / "lightning_app").glob("*.py") if p.name != "__init__.py"]
    assert loose == []
    assert {room(module) for module in modules()} == {room for row in LAYERS for room in row}


def test_there_is_no_circle() -> None:
    graph = {module: own(imports(module)[0]) - {module} for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_arrows_go_downwards() -> None:
    wrong = [
        f"{module} -> {target}"
        for module in modules()
        for target in own(frozenset().union(*imports(module))) - TYPED.get(module, set())
        if room(target) != room(module)
        and not target.startswith(f"{module}.")  # a package shows what lies in it
        and layer(target) <= layer(module)
    ]
    assert wrong == []


def test_no_command_imports_another() -> None:
    """A command is parsed, called and shown; what two commands need is a study, or lies lower."""
    # the table of commands is what finds a command by its name, and `write_help` writes down the help of all
    every = {COMMANDS, f"{COMMANDS}.write_help"}
    commands = {module for module in modules() if room(module) == COMMANDS} - every - SHARED.keys()
    assert {name.replace("-", "_") for name in TABLE} == {one.rpartition(".")[2] for one in commands}
    across = {
        (module, target)
        for module in commands | SHARED.keys()
        for target in own(frozenset().union(*imports(module)))
        if room(target) == COMMANDS
    }
    assert {(module, target) for module, target in across if target not in SHARED} == set()
    assert {target for _, target in across} == SHARED.keys(), "what is shared is used"


def test_nothing_of_ours_is_imported_late_without_a_reason() -> None:
    late = {module: sorted(own(imports(module)[1])) for module in modules() if own(imports(module)[1])}
    assert set(late) == set(LAZY), late


def test_no_two_classes_have_one_name() -> None:
    seen: dict[str, list[str]] = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                seen.setdefault(node.name, []).append(module)
    assert len(seen) > 300
    assert {name: where for name, where in seen.items() if len(where) > 1} == {}


def test_plain_rooms_know_no_lightning() -> None:
    for name in PLAIN:
        for module in modules():
            if module.startswith(f"lightning_app.{name}"):
                now, lazy, _ = imports(module)
                assert not {n for n in now | lazy if n.split(".")[0] in ("lightning", "wandb")}, module


def test_ruff_looks_at_every_file() -> None:
    """A folder called `runs` is a room here; excluded by its name it was not looked at, and nobody was told."""
    shown = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "."], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    seen = {Path(line).resolve() for line in shown.splitlines()}
    packages = ("lightning_app", "callbacks", "datamodules", "benchmarks", "tests", "docs", "deploy")
    files = {path.resolve() for package in packages for path in (ROOT / package).rglob("*.py")}
    assert len(files) > 500
    assert sorted(str(path.relative_to(ROOT)) for path in files - seen) == []
