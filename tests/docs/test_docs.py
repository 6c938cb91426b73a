"""The pages keep their word: links, configs, commands, options, keys and examples are there."""

from __future__ import annotations

import ast
import contextlib
import doctest
import io
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from lightning_app.commands import COMMANDS, LIGHTNING
from tests.docs.pages import (
    NAMES,
    PAGES,
    ROOT,
    anchors,
    calls,
    code_spans,
    configs,
    crowded,
    fenced,
    links,
    split_lists,
)

ALL = set(LIGHTNING) | set(COMMANDS)
SOURCES = ("lightning_app", "callbacks")
# first parts of log keys
PARTS = (
    "train", "val", "test", "privacy", "lfw", "fsm", "inpaint", "run", "time", "memory", "release", "align",
    "search", "sweep", "scorers", "ablation", "compare", "federated", "pictures", "results", "mixing",
)  # fmt: skip
KEY = re.compile(rf"(?:{'|'.join(PARTS)})/[a-z0-9_]+")
DOTTED = re.compile(r"(?<![\w./-])(?:lightning_app|datamodules|callbacks)\.[\w.]*\w(?![\w/])")
PLACE = re.compile(
    r"(?:lightning_app|datamodules|callbacks|tests|configs|deploy|docs|benchmarks)/[\w./-]*\w\.\w+|main\.py"
)


def read(name: str) -> str:
    """Return a page by its name in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_links_and_anchors_resolve(name: str) -> None:
    page = ROOT / name
    wrong = []
    for target in links(read(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(to.read_text(encoding="utf-8")):
            wrong.append(f"{target}: no such heading")
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_blank_lines_stand_before_headings_and_not_within_lists(name: str) -> None:
    text = read(name)
    assert crowded(text) == []
    assert split_lists(text) == []


def test_crowded_headings_and_split_lists_are_found() -> None:
    text = "a\n## One\n\n## Two\n\n- b\n  more\n\n- c\n- d\n"
    assert crowded(text) == ["## One"]
    assert split_lists(text) == ["- c"]


def test_every_page_is_linked_to() -> None:
    reached, queue = {ROOT / "README.md"}, [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        for target in links(page.read_text(encoding="utf-8")):
            to = (page.parent / target.partition("#")[0]).resolve()
            if to.suffix == ".md" and to.is_file() and to not in reached:
                reached.add(to)
                queue.append(to)
    assert {str(page.relative_to(ROOT)) for page in set(PAGES) - reached} == set()


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_shipped_or_the_users_own(name: str) -> None:
    text = read(name)
    for config in configs(text):
        shipped = (ROOT / "configs" / config).is_file()
        own = re.search(
            rf"^cp .* {re.escape(config)}\b|^# {re.escape(config)}$|`{re.escape(config)}` \(yours", text, re.M
        )
        assert shipped or own or config == "NAME.yaml" or config.startswith("runs/"), f"{name}: {config}"


@cache
def options_of(command: str) -> frozenset[str]:
    """Return the options in a command's `--help`."""
    from main import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
        main([command, "--help"])
    return frozenset(re.findall(r"--[A-Za-z][\w.-]*\w", shown.getvalue()))


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_are_there(name: str) -> None:
    wrong = []
    for call in calls(read(name), ALL):
        if call.command not in ALL:
            wrong.append(f"no command {call.command}")
            continue
        known = options_of(call.command)
        for option in call.options:
            parts = option.rstrip("+").split(".")
            # what a class takes is named behind it: --data.reader.init_args.root is --data's, or --reader's
            heads = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            if option != "--config" and not heads & known:
                wrong.append(f"{call.command} has no {option}")
    assert wrong == []


def test_calls_are_found() -> None:
    found = [call for name in NAMES for call in calls(read(name), ALL)]
    assert {call.command for call in found} == ALL
    block = (
        "python main.py frobnicate --x 1  # --y\npython main.py fit \\\n    --config a.yaml --data.seed=3\n"
    )
    text = f"```\n{block}```\n`audit --raw`"
    assert [tuple(call) for call in calls(text, ALL)] == [
        ("frobnicate", ["--x"]),
        ("fit", ["--config", "--data.seed"]),
        ("audit", ["--raw"]),
    ]


def test_readme_is_short_and_names_every_command() -> None:
    text = read("README.md")
    lines = text.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
    rows = [line for line in lines if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])} == ALL
    assert all(links(row) for row in rows)
    assert text.count("![") == 1


@pytest.mark.parametrize("name", NAMES)
def test_named_files_of_the_repository_are_there(name: str) -> None:
    places = {place for span in code_spans(read(name)) for place in PLACE.findall(span)}
    assert {place for place in places if not (ROOT / place).exists()} == set()


@pytest.mark.parametrize("name", NAMES)
def test_named_modules_and_classes_are_there(name: str) -> None:
    text = read(name)
    dotted = {word.rstrip(".") for word in DOTTED.findall(text)}
    assert {word for word in dotted if not _is_ours(word)} == set()


def _is_ours(dotted: str) -> bool:
    """Return whether a dotted name is a module of ours, or stands in one."""
    parts, file = dotted.split("."), ROOT
    while parts and ((file / parts[0]).is_dir() or (file / f"{parts[0]}.py").is_file()):
        file /= parts.pop(0)
    source = file.with_suffix(".py") if file.with_suffix(".py").is_file() else file / "__init__.py"
    return all(re.search(rf"\b{part}\b", source.read_text(encoding="utf-8")) for part in parts)


def test_log_keys_are_explained() -> None:
    page = read("docs/log_keys.md")
    missing = set()
    for path in (file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")):
        if not KEY.search(text := path.read_text(encoding="utf-8")):
            continue
        docs = _docstrings(tree := ast.parse(text))
        for node in ast.walk(tree):
            word = node.value if isinstance(node, ast.Constant) and id(node) not in docs else None
            if isinstance(word, str) and KEY.fullmatch(word) and f"`{word}" not in page:
                missing.add(word)
    assert missing == set()


def _docstrings(tree: ast.AST) -> set[int]:
    bodies = [
        node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    first = [body[0] for body in bodies if body]
    return {id(node.value) for node in first if isinstance(node, ast.Expr)}


def test_examples_of_the_library_run(
    drawn_root: Path,
    fitted: Path,
    run_main: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "faces").symlink_to(drawn_root)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(fitted / "runs/tiny")
    run_main("draw-mask", "--ratio", "0.755", "0.765", "--size", "112", "--output", "masks/mine.png")
    capsys.readouterr()
    test = doctest.DocTestParser().get_doctest(_examples(), {}, "library.md", "docs/library.md", 0)
    assert len(test.examples) >= 15
    with caplog.at_level(logging.ERROR, "faceveil"):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0, capsys.readouterr().out


def _examples() -> str:
    """Return the examples of library.md, with a blank line after each block, as doctest asks for."""
    return "\n\n".join(block for block in fenced(read("docs/library.md"), "python"))


def test_citation_names_this_version_and_the_papers_of_the_readme() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert f'version = "{cited["version"]}"' in read("pyproject.toml")
    first = " ".join(read("README.md").split("![")[0].split())
    named = re.findall(r"\*([^*]+)\*", first)
    assert len(named) == 3
    assert [reference["title"].strip() for reference in cited["references"]] == named
    for reference in cited["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        assert all(set(author) == {"family-names", "given-names"} for author in reference["authors"])


def test_hooks_are_local_and_the_packages_are_typed() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert {hook["id"] for hook in hooks[0]["hooks"]} == {"ruff", "ruff-format", "mypy"}
    assert all(
        (ROOT / package / "py.typed").is_file() for package in ("lightning_app", "datamodules", "callbacks")
    )
