"""Every reader, desensitizer, attack, head, backbone and judge of ours passes its contract, or is told here why not."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import modules

TESTS = Path(__file__).parent
# a base -> the classes of tests that its implementations pass,
CONTRACTS = {
    "FaceReader": {"ReaderContract"},
    "Desensitizer": {"DesensitizerContract", "KeylessContract"},
    "Attack": {"AttackContract"},
    "Head": {"HeadContract"},
    "Backbone": {"BackboneContract"},
    "Judge": {"JudgeContract"},
}
# classes that no contract is for, and why
SPARED = {
    "FilesPerPerson": "what readers of trees share: it scans nothing itself",
    "IResNet": "what IR50 and IRSE50 share, which are it by a name",
    "MaskEach": "what others ask of LearnedMask: it makes no mask itself",
    "MarginHead": "what ArcFace and CosFace share: it has no margin itself",
    "NoHead": "stands where no head is: it gives no scores, and says so",
    "_Inpainting": "what OpenCV's two methods share: it inpaints by neither",
    "_Masked": "a part of load_recogniser alone: it is not described, and nobody else is given it",
}
Classes = dict[str, list[ast.ClassDef]]


@cache
def ours() -> Classes:
    """Return the classes of our own packages by name; no two have one name (tests/test_architecture.py)."""
    return _classes(list(modules().values()))


@cache
def of_tests() -> Classes:
    """Return the classes of all tests by name."""
    return _classes(sorted(TESTS.rglob("*.py")))


def _classes(files: list[Path]) -> Classes:
    found: Classes = defaultdict(list)
    for path in files:
        if "class " in (text := path.read_text(encoding="utf-8")):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(node)
    return found


def bases(node: ast.ClassDef) -> set[str]:
    """Return the names of the classes that a class is derived from: `Dataset` of `Dataset[Batch]`."""
    return {ast.unparse(base).split("[")[0].rpartition(".")[2] for base in node.bases}


def derived(classes: Classes, roots: set[str]) -> set[str]:
    """Return the names of classes derived from others, through however many between."""
    found = set(roots)
    while more := {name for name, nodes in classes.items() if any(bases(n) & found for n in nodes)} - found:
        found |= more
    return found - roots


def made_by(node: ast.ClassDef) -> set[str]:
    """Return the names that a contract's test says it makes: what `make` returns, or what `maker` is of."""
    found: set[str] = set()
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "make" and part.returns is not None:
            found.add(ast.unparse(part.returns))  # mypy holds it to that
        elif isinstance(part, ast.Assign) and [ast.unparse(to) for to in part.targets] == ["maker"]:
            found |= {name.id for name in ast.walk(part.value) if isinstance(name, ast.Name)}
    return found


def covered(contracts: set[str]) -> set[str]:
    """Return the classes that pass a contract; a small one of a test stands for that which it is derived from."""
    tests = of_tests()
    made = {name for test in derived(tests, contracts) for node in tests[test] for name in made_by(node)}
    return made | {base for name in made for node in tests.get(name, []) for base in bases(node)}


@pytest.mark.parametrize("base", CONTRACTS)
def test_every_implementation_passes_its_contract(base: str) -> None:
    kinds = derived(ours(), {base})
    assert len(kinds) > 3, "the walk sees too few"
    missing = kinds - covered(CONTRACTS[base]) - SPARED.keys()
    assert not missing, f"derive a test from {' or '.join(CONTRACTS[base])} for each"


def test_nobody_is_spared_without_need() -> None:
    every = set().union(*(derived(ours(), {base}) for base in CONTRACTS))
    assert SPARED.keys() <= every, "there is no such class any more"
    assert not SPARED.keys() & set().union(*map(covered, CONTRACTS.values()))


def test_the_walk_sees_who_is_made() -> None:
    (toy,) = ast.parse("class TestToy(XContract):\n    maker = partial(Small, width=8)\n").body
    assert isinstance(toy, ast.ClassDef)
    assert bases(toy) == {"XContract"}
    assert made_by(toy) == {"partial", "Small"}
    assert {"PartialResNet", "NamedPartial"} <= covered({"BackboneContract"})
    assert "CachedReader" in covered({"ReaderContract"})  # through `make`
    assert "CachedReader" not in covered({"JudgeContract"})
