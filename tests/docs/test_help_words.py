"""What `--help` says of an argument begins with a subject, or with what it does: it is read alone."""

from __future__ import annotations

import ast
import re

from lightning_app.commands import COMMANDS, HELP
from tests.test_contracts import CONTRACTS, derived, ours

# classes that a config names, and settings that are a command's own options
ROOTS = {*CONTRACTS, "Callback", "LightningModule", "LightningDataModule"}
SETTINGS = {"Explainer", "LossWeights", "Plan"}
ORPHANS = "of|for|to|that|in|by|at|on|with|from|as|whose|than|when|before|after|under|over|within|between|likewise|its"
_ARGUMENTS = re.compile(r"^(?:Args|Attributes):\n((?: {4}.*\n?|\n)+)", re.MULTILINE)
_ORPHAN = re.compile(rf"^ {{4}}(\w+): (?:{ORPHANS})\b", re.MULTILINE)


def orphans(node: ast.ClassDef) -> list[str]:
    """Return the arguments of a class whose words have no subject."""
    found = _ARGUMENTS.search(f"{ast.get_docstring(node) or ''}\n")
    return _ORPHAN.findall(found[1]) if found else []


def test_no_argument_of_a_class_that_users_name_begins_with_an_orphan() -> None:
    named = (derived(ours(), ROOTS) | SETTINGS) & ours().keys()
    assert len(named) > 70
    wrong = {name: words for name in sorted(named) for node in ours()[name] if (words := orphans(node))}
    assert wrong == {}


def test_no_option_of_a_command_begins_with_an_orphan() -> None:
    option = re.compile(r"^  (?:-\w, )?(-[-\w.]+)[^\n]*?(?:\n {20,}| {2,})([\w`][^\n]*)", re.MULTILINE)
    said = [
        (command, name, words)
        for command in COMMANDS
        for name, words in option.findall((HELP / f"{command}.txt").read_text())
        if not name.startswith("--trainer.")  # Lightning's
    ]
    assert len(said) > 200
    assert [one for one in said if re.match(rf"(?:{ORPHANS})\b", one[2])] == []


def test_an_orphan_is_found() -> None:
    (node,) = ast.parse(
        'class A:\n    """B.\n\n    Args:\n        seed: of the draw.\n        a: b.\n    """'
    ).body
    assert isinstance(node, ast.ClassDef)
    assert orphans(node) == ["seed"]
