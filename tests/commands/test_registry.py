"""The commands: one file and one line each; one of somebody else's comes by an entry point."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

from lightning_app import commands
from lightning_app.commands import COMMANDS, LIGHTNING, find_command
from lightning_app.commands.parser import CommandParser, add_switches, words
from tests.command_line import RunMain, refused


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_a_module_with_run_and_a_parser(name: str) -> None:
    module = importlib.import_module(f"lightning_app.commands.{name.replace('-', '_')}")
    assert find_command(name) is module.run
    parser = module.build_parser()
    assert parser.prog == f"main.py {name}"
    assert parser.description.endswith("."), "the first line of the function's docstring"
    assert name not in LIGHTNING
    assert COMMANDS[name] == COMMANDS[name].strip()


def test_no_command_is_forgotten() -> None:
    """A module with `run` is a command, and has its line."""
    found = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    able = {name for name in found if hasattr(importlib.import_module(f"{commands.__name__}.{name}"), "run")}
    assert able == {name.replace("-", "_") for name in COMMANDS}


def test_an_options_help_is_the_docstrings() -> None:
    """Two texts of one option grow apart; only what is no argument of the function has words of its own."""
    own: set[object] = set()
    for path in Path(commands.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and any(
                word.arg == "help" and not isinstance(word.value, ast.Subscript) for word in call.keywords
            ):
                own.update(one.value for one in call.args if isinstance(one, ast.Constant))
    assert own == {"-c", "--config", "--trust", "--make-sign-key"}


def test_words_and_switches() -> None:
    def act(far: bool = False, how: int = 3) -> None:
        """Do it.

        Args:
            far: go
                far.
            how: often.
        """

    assert words(act) == {"far": "go far.", "how": "often."}
    parser = CommandParser(exit_on_error=False)
    assert add_switches(parser, act, "--far") == {"far"}
    assert [parser.parse_args(args).far for args in ([], ["--far"], ["--far", "false"])] == [
        False,
        True,
        False,
    ]


def test_a_command_of_somebody_elses(
    run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy_command.py").write_text(
        "def run(args):\n    if args:\n        raise ValueError(f'{args[0]}: give nothing')\n"
        "    print('toy says hello')\n"
    )
    description = tmp_path / "toy-1.0.dist-info"
    description.mkdir()
    (description / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (description / "entry_points.txt").write_text("[faceveil.commands]\nsay-hello = toy_command:run\n")
    assert "no command 'say-hello'" in refused(capsys, lambda: run_main("say-hello"))
    monkeypatch.syspath_prepend(str(tmp_path))
    run_main("say-hello")
    assert "toy says hello" in capsys.readouterr().out
    assert "--x: give nothing" in refused(capsys, lambda: run_main("say-hello", "--x"))
    assert "sweep-levels, say-hello" in refused(capsys, lambda: run_main("nothing"))
