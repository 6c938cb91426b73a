"""What is wrong with a command line or a config, in one line: jsonargparse says it in up to twenty."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import sys
from argparse import HelpFormatter
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from lightning_app.cli.configs import CONFIGS
from lightning_app.cli.places import FILES
from lightning_app.core.printing import as_called, one_line

_KEY = re.compile(r'Parser key "(.*)":$')
_CLASS = re.compile(r"Problem with given class_path '(.*)':$")
_OPTION = re.compile(r"[Oo]ption '([^']*)' is not accepted")
_UNKNOWN = re.compile(
    r"unrecognized arguments: (--?[^\s=]+)|[Kk]ey '([^']*)' is not expected|No action for key '([^']*)'"
    r"|does not accept option '([^']*)'|[Oo]ption '([^']*)' is not accepted"
)
_OF_GROUP = re.compile(r"Group '([^']*)' does not accept option '([^']*)'")
_WRONG = re.compile(r"Expected an? (<class '[\w.]+'>)\. Got value: (.*)")
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)")
_DOTTED = re.compile(r"Expected a dot import path string: (\S+)")
_REQUIRED = "arguments are required"
_PLAIN = re.compile(r"Expected a <class '\w+'>$")
_LISTED = re.compile(r"^(?:- )+")
_NO_CLASS = re.compile(r"Not a valid subclass of (\w+)(?:\. Got value: (.*))?$", re.M)
_PARSER_KEY = re.compile(r'Parser key "(.*)":$', re.M)
_GIVEN = re.compile(r"Given value: (.*)$", re.M)
# a head, a backbone: jsonargparse names the class that takes it above, and what was given below
_MAKER = re.compile(
    r"expects a function or a callable class: (.*?)$.*?Given value: (?:\{'class_path': ')?([\w.]+)",
    re.S | re.M,
)
_KIND = re.compile(r"<class '(?:[\w.]*\.)?(\w+)'>")
# what says how jsonargparse looked, and not what is wrong
_NOISE = (
    "Does not validate against any", "Subtypes:", "Errors:", "Given value", "Expected a path but",
    "Not a valid subclass", "Subclass types expect", "a class path (str)", "a dict with",
    "Expected a <class 'NoneType'>",
)  # fmt: skip
_MOST = 12  # names that are listed
_LONGEST = 400
_NEAR = 0.6  # of difflib
_FIT = ("trainer", "model", "data")  # what a config of `fit` has at its top
# where what is named without its package may lie
_SHOWN = (
    "callbacks",
    "datamodules",
    "lightning_app.desensitize",
    "lightning_app.models",
    "lightning_app.attacks",
)


class OneReason(ArgumentParser):
    """A parser that ends with the one line that matters, and takes no option cut short; `--help` shows every option."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **more: Any) -> None:
        # a cut option would be whichever one begins so, until a new one does as well
        super().__init__(*args, allow_abbrev=allow_abbrev, **more)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with code 2 and one line; a parser within another hands the whole message on."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [name for action in parser._actions for name in action.option_strings]
        options += [name.removeprefix("--") for name in options] + [*_dests(self)]
        words = _of_another(message, parser) or FILES.place(message) + the_reason(message, options)
        if _REQUIRED in words and any("--config" in action.option_strings for action in parser._actions):
            words += f"; give them, or --config NAME.yaml{_example(str(parser.prog).split()[-1])}"
        sys.stderr.write(f"error: {as_called(one_line(words))}\n")
        self.exit(2)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """Return the help, without the backspace that jsonargparse (4.53) puts before `--print_config`'s flags."""
        return super().format_help(formatter).replace(" \b[", "[")

    def print_usage(self, file: Any = None) -> None:
        """Print nothing."""


def _dests(parser: Any) -> Iterator[str]:
    """Yield what configs may set, of the commands too; the first part of a key is one as well."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                yield from _dests(inner)
        else:
            yield from (action.dest, action.dest.split(".")[0])


def _of_another(message: str, parser: Any) -> str:
    """Return words that say so where another command was given a config of `fit`; empty where it is none."""
    command = str(parser.prog).split()[-1]
    found = _UNKNOWN.search(message)
    top = next((group for group in found.groups() if group), "").split(".")[0] if found else ""
    if command == "fit" and top in ("reader", "desensitizer") and FILES.read:
        return f"{FILES.read[-1]} is a config of another command: fit takes {top!r} under `data`"
    known = {name.split(".")[0] for name in _dests(parser)}
    if not top or not FILES.read or top in known:
        return ""
    file = FILES.read[-1]
    tops = FILES.tops(file)
    of_fit = top in _FIT and len(tops & {*_FIT}) > 1
    if not of_fit and (command == "fit" or top not in tops or len(tops - known) < min(2, len(tops))):
        return ""  # one key is a slip, several are another command's
    needed = [action.dest for action in parser._actions if getattr(action, "required", False)]
    needs = f"; it needs {', '.join(sorted(needed))}" if needed else ""
    whose = "fit" if of_fit else "another command"
    return f"{file} is a config of {whose}: {command} takes no {top!r}{needs}{_example(command)}"


def _example(command: str) -> str:
    """Return words that name the config that is shipped for a command, where there is one."""
    example = CONFIGS / f"{command.replace('-', '_')}.yaml"
    return f", see configs/{example.name}" if example.is_file() else ""


def the_reason(message: str, options: Iterable[str] = ()) -> str:
    """Cut a message of jsonargparse to the line that matters: key, class, what is wrong, and the nearest name.

    Args:
        message: of a parser's error, of one line or many.
        options: names of options of the command, to find the one that was meant by an unknown one.

    Returns:
        One line, such as `trainer.callbacks: callbacks.LFWVerification has no 'rot'; did you mean 'root'?`
    """
    message = _OF_GROUP.sub(r"'\1' does not accept option '\1.\2'", message)
    if given := re.search(r"Given value: ([\w.]+)$", message, re.M):  # of a class without arguments
        message = message.replace("Import path does", f"Import path {given[1]} does")
    lines = [line for line in message.splitlines() if line.strip()]
    path, owner, reasons = _dig(lines)
    if (maker := _MAKER.search(message)) and reasons and maker[1] in " ".join(reasons):
        owner, reasons = maker[2], [maker[1]]
    if reasons and all(
        map(_PLAIN.match, reasons)
    ):  # of `str | Judge`: what is wrong with the class says more
        deeper = _dig([line for line in lines if not _PLAIN.match(_LISTED.sub("", line.strip()))])
        path, owner, reasons = deeper if deeper[2] and deeper[1] else (path, owner, reasons)
        if (values := _GIVEN.findall(message)) and not owner:
            reasons = [f"{one}. Got value: {values[-1]}" for one in reasons if _PLAIN.match(one)] or reasons
    if not reasons:
        words = _no_class_given(message) or " ".join(message.split())
    else:
        words = " or ".join(dict.fromkeys(reasons))
        if one_of := _LITERAL.search(words):
            names = re.findall(r"'([^']*)'", one_of[1])
            near = difflib.get_close_matches(one_of[2], names, 1, _NEAR)
            words = f"{one_of[2]!r} is none of {', '.join(names)}" + (
                f"; did you mean {near[0]!r}?" if near else ""
            )
        elif dotted := _DOTTED.search(words):
            words = _no_class(dotted[1])
        elif (found := _OPTION.search(words)) and owner:
            name = found[1].split(".")[0]
            words = f"{owner} has no {name!r}{_meant(name, _arguments(owner), ('class_path', 'init_args'))}"
        elif owner and any(
            text in words for text in ("has no attribute", "No module named", "Unexpected import path")
        ):
            words = _no_class(owner)
        elif owner:
            words = f"{owner}: {words}"
        words = f"{path}: {words}" if path else words
    if unknown := _UNKNOWN.search(words):
        name = next(group for group in unknown.groups() if group)
        words += _meant(name, options) or _meant(name.split(".")[0], options)
    return _KIND.sub(r"\1", _WRONG.sub(r"\2 is no \1", words))[:_LONGEST]


def _no_class_given(message: str) -> str:
    """Return what stands where a class belongs; nothing where the message is of something else."""
    if (found := _NO_CLASS.search(message)) is None:
        return ""
    path, given = ".".join(_PARSER_KEY.findall(message)), found[2] or _GIVEN.findall(message)[0]
    return f"{path}: {given} is no {found[1]}; give a class_path and its init_args"


def _dig(lines: list[str]) -> tuple[str, str, list[str]]:
    """Find the first reason, what stands beside it, and under which keys and class."""
    above: list[tuple[int, str, str]] = []  # indent, kind, name of the heads over a line
    reasons, place = list[str](), None
    for line in lines:
        indent, text = len(line) - len(line.lstrip(" -")), _LISTED.sub("", line.strip())
        above = [head for head in above if head[0] < indent]
        if place is not None and (indent < place[0] or above != place[1]):
            break
        for kind, pattern in (("key", _KEY), ("class", _CLASS)):
            if found := pattern.match(text):
                above.append((indent, kind, found[1]))
                break
        else:
            if not text.startswith(_NOISE):
                reasons.append(text)
                place = place or (indent, list(above))
    heads = place[1] if place else []
    keys = [name for _, kind, name in heads if kind == "key"]
    classes = [name for _, kind, name in heads if kind == "class"]
    return ".".join(keys), classes[-1] if classes else "", reasons


def _meant(name: str, names: Iterable[str], also: Iterable[str] = (), verb: str = "takes") -> str:
    known = sorted(set(names))
    if near := difflib.get_close_matches(name, [*known, *also], 1, _NEAR):
        return f"; did you mean {near[0]!r}?"
    return f"; it {verb} {', '.join(known)}" if 0 < len(known) <= _MOST else ""


def _arguments(class_path: str) -> set[str]:
    """Return the arguments of a class, of its bases too."""
    found = imported(class_path)
    if not isinstance(found, type):
        return set()
    names: set[str] = set()
    for base in found.__mro__:
        if "__init__" in vars(base) and base is not object:
            names |= {
                name
                for name, one in inspect.signature(vars(base)["__init__"]).parameters.items()
                if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and name != "self"
            }
    return names


def imported(class_path: str) -> object:
    """Return what a class path names; None where there is no such thing.

    Args:
        class_path: such as `callbacks.LFWVerification`.
    """
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):  # no such module, or an empty name
        return None


def _no_class(class_path: str) -> str:
    """Return which part of a class path there is not, and what may have been meant."""
    parts = class_path.split(".")
    if len(parts) < 2:
        known = {name: module for module in _SHOWN for name in _public(importlib.import_module(module))}
        near = difflib.get_close_matches(class_path, known, 1, _NEAR)
        meant = (
            f"; did you mean {known[near[0]]}.{near[0]}?" if near else " such as callbacks.LFWVerification"
        )
        return f"{class_path!r} is no class path{meant}"
    for upto in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:upto])
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            lacking = getattr(error, "name", None) or name
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{lacking}."):
                continue  # of the path itself: a shorter part may be there
            return f"{name} cannot be imported: {error}"
        return f"{module.__name__} has no {parts[upto]!r}{_meant(parts[upto], _public(module), verb='has')}"
    ours = ("callbacks", "datamodules", "lightning_app", "lightning", "torch")
    near = difflib.get_close_matches(parts[0], ours, 1, _NEAR)
    return f"there is no module {parts[0]!r}" + (
        f"; did you mean {near[0]!r}?" if near else " where Python looks; name its folder in PYTHONPATH"
    )


def _public(module: ModuleType) -> set[str]:
    """Return the classes and modules in a module."""
    names = {name for name, one in vars(module).items() if isinstance(one, type) and not name.startswith("_")}
    names |= set(getattr(module, "__all__", ()))
    return names | {one.name for one in pkgutil.iter_modules(getattr(module, "__path__", ()))}
