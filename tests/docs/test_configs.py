"""Every config that the README and the docs show parses, by what it is; one that lacks parts, over a shipped one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from tests.cli.fit_parser import fit_parser
from tests.docs.pages import NAMES, ROOT, fenced


class Kind(NamedTuple):
    """What a block of YAML may be.

    Attributes:
        reader: `fit`, or the module of `lightning_app.commands` that reads it.
        keys: those that it may have.
        whole: those that a whole config has; one with fewer is laid over `under`.
        under: a shipped config.
    """

    reader: str
    keys: frozenset[str]
    whole: frozenset[str]
    under: str


LEARNERS = ("attackers", "linkers", "methods")
KINDS = (
    Kind("fit", frozenset({"data", "model", "trainer"}), frozenset({"data", "model", "trainer"}), "demo.yaml"),
    Kind("compare", frozenset({*LEARNERS, "attacks", "bootstrap", "judges", "linker", "name"}),
         frozenset({"methods", "name"}), "compare.yaml"),
    Kind("desensitize", frozenset({"desensitizer", "output", "reader"}), frozenset({"output", "reader"}),
         "desensitize.yaml"),
    Kind("federate", frozenset({"strategy"}), frozenset({"data", "model", "rounds"}), "federated_demo.yaml"),
)  # fmt: skip
# what the recipes of docs/architecture.md and docs/compare.md name as somebody's own
THEIRS = """
from datamodules.readers.base import FaceReader
from lightning_app.desensitize import Desensitizer
from lightning_app.evaluation import Judge
from lightning_app.federated.protocol.strategy import FedAvg
from lightning_app.networks import Backbone, Head

class MyMethod(Desensitizer):
    def __init__(self, strength: int) -> None: ...

class MyHead(Head):
    def __init__(self, dim: int, classes: int) -> None: ...

class MyBackbone(Backbone):
    def __init__(self, in_channels: int = 3, input_size: int = 224) -> None: ...

class MyFaces(FaceReader):
    def __init__(self, root: str, size: int) -> None: ...
    def read(self, index): ...
    def name(self, index): ...

class MyJudge(Judge):
    def __init__(self, weights: str | None = None) -> None: ...

class Median(FedAvg): ...
"""


def kind_of(block: Mapping[str, object]) -> Kind:
    """Return what a block is.

    Raises:
        AssertionError: none of those there are.
    """
    found = [kind for kind in KINDS if block.keys() <= kind.keys]
    assert len(found) == 1, (
        f"keys {', '.join(block)}: a config of which kind? Add it to KINDS, or mend the page"
    )
    return found[0]


def blocks() -> Iterator[Any]:
    """Return the blocks of YAML of all pages, each under the page and its number there."""
    for name in NAMES:
        for number, block in enumerate(fenced((ROOT / name).read_text(encoding="utf-8"), "yaml"), 1):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgumentParser]:
    """The parser of `fit`, where Python finds what the pages call somebody's own."""
    home = tmp_path_factory.mktemp("theirs")
    (home / "my_package.py").write_text(THEIRS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["main.py"])
        patch.syspath_prepend(str(home))
        yield fit_parser()
    sys.modules.pop("my_package", None)


def parse(block: str, fit: ArgumentParser, folder: Path) -> None:
    """Parse a block by what it is, and the runs that it is to start.

    Raises:
        ArgumentError, ValueError, OSError: it cannot be parsed.
    """
    path = folder / "block.yaml"
    path.write_text(block)
    asked = yaml.safe_load(block)
    kind = kind_of(asked)
    under = [] if kind.whole <= asked.keys() else ["--config", kind.under]
    if kind.reader == "fit":
        fit.parse_args([*under, "--config", str(path)])
        return
    parser = import_module(f"lightning_app.commands.{kind.reader}").build_parser()
    parser.exit_on_error = False
    parser.parse_args([*under, "--config", str(path)])
    linker = [asked["linker"]] if "linker" in asked else []
    for run in (*linker, *(run for key in LEARNERS for run in asked.get(key, {}).values())):
        fit.parse_args(["--config", run["config"], *run.get("args", [])])


@pytest.mark.parametrize("block", blocks())
def test_every_config_of_the_pages_parses(block: str, fit: ArgumentParser, tmp_path: Path) -> None:
    parse(block, fit, tmp_path)


def test_the_network_to_begin_with_is_the_one_that_the_readme_takes() -> None:
    assert "Take `ResNetMask`." in (ROOT / "README.md").read_text(encoding="utf-8")
    (fit,) = (kind for kind in KINDS if kind.reader == "fit")
    copied = [block for name in ("README.md", "docs/train.md")
              for block in map(yaml.safe_load, fenced((ROOT / name).read_text(encoding="utf-8"), "yaml"))
              if fit.whole <= block.keys()]  # fmt: skip
    assert [block["model"]["class_path"] for block in copied] == ["lightning_app.models.ResNetMask"] * 2


def test_every_block_is_found() -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in NAMES]
    assert len([*blocks()]) == sum(page.count("```yaml") for page in pages) > 15
    # a config in a block that says no language would be passed over
    loose = [block for page in pages for block in fenced(page, "") if "class_path:" in block]
    assert [block for block in loose if isinstance(_read(block), dict)] == []


def _read(block: str) -> object:
    try:
        return yaml.safe_load(block)
    except yaml.YAMLError:
        return None


@pytest.mark.parametrize(
    "block",
    [
        "trainer: {max_epoch: 1}",
        "data: {reader: {class_path: my_package.MyFaces, init_args: {size: 112}}}",
        "methods: {none: {config: lfwa_quick_resnet.yaml, trane: false}}",
        "methods: {none: {config: gone.yaml}}",
        "attackers: {a: {config: lfwa_quick_unet.yaml, args: [--model.no_such=1]}}",
        "judges: {a: {class_path: my_package.MyJudge, init_args: {wights: a}}}",
        "desensitizer: {class_path: lightning_app.desensitize.Mosaik}",
        "strategy: {class_path: my_package.Mean}",
    ],
)
def test_a_wrong_one_is_told(block: str, fit: ArgumentParser, tmp_path: Path) -> None:
    with pytest.raises((ArgumentError, ValueError, OSError)):
        parse(block, fit, tmp_path)


def test_a_block_of_no_known_kind_is_told() -> None:
    with pytest.raises(AssertionError, match="keys people, radius: a config of which kind"):
        kind_of({"people": 3, "radius": 2})
