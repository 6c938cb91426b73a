"""An overlay means the same on every config: what it states holds as stated, the rest stays as the config has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser, Namespace

from lightning_app.cli.command_parser import CommandParser
from lightning_app.cli.configs import CONFIGS, FindConfig, shipped

OVERLAYS = [name for name in shipped() if name.startswith("overlays/")]
FITS = [
    name
    for name in shipped()
    if name not in OVERLAYS and {"trainer", "model"} <= {*yaml.safe_load((CONFIGS / name).read_text())}
]
LFW = "callbacks.LFWVerification"


@pytest.fixture(scope="module")
def defaults(parser: ArgumentParser) -> Namespace:
    return parser.get_defaults()


def _apply(parser: ArgumentParser, config: Namespace, name: str) -> Namespace:
    (action,) = (action for action in parser._actions if isinstance(action, FindConfig))
    config = config.clone()
    action(parser, config, name)
    config.pop("config")
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {key: _plain(part) for key, part in vars(value).items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    else:
        yield path, value


def _states(overlay: str) -> set[tuple[str, ...]]:
    return {path for path, _ in _leaves(yaml.safe_load((CONFIGS / overlay).read_text()))}


@pytest.mark.parametrize("name", FITS)
def test_every_overlay_means_the_same_on_every_config(
    name: str, parser: ArgumentParser, defaults: Namespace
) -> None:
    before = _apply(parser, defaults, name)
    for overlay in OVERLAYS:
        stated = _states(overlay)
        alone = dict(_leaves(_plain(_apply(parser, defaults, overlay))))
        after = dict(_leaves(_plain(_apply(parser, before, overlay))))
        kept = dict(_leaves(_plain(before)))
        appended = {(*path[:-1], path[-1].removesuffix("+")) for path in stated if path[-1].endswith("+")}
        for path in after:
            wanted = alone[path] if path in stated else kept[path]
            if path in appended:
                wanted = [*(kept[path] or []), *alone[path]]
                assert len(wanted) > len(kept[path] or [])
            assert after[path] == wanted, (name, overlay, ".".join(path))
        assert {path for path in stated if not path[-1].endswith("+")} | appended <= {*after}, (name, overlay)


def _two_configs(tmp_path: Path, earlier: str, later: str) -> list[str]:
    for file, content in (("earlier.yaml", earlier), ("later.yaml", later)):
        (tmp_path / file).write_text(content)
    return ["--config", str(tmp_path / "earlier.yaml"), "--config", str(tmp_path / "later.yaml")]


def _crops(config: Any) -> list[tuple[str, object]]:
    return [(one.class_path, one.init_args.get("crop")) for one in config.trainer.callbacks]


ONE = f"trainer: {{callbacks: [{{class_path: {LFW}, init_args: {{root: a, crop: 150, flip: true}}}}]}}"
OTHER = f"trainer: {{callbacks: [{{class_path: {LFW}, init_args: {{root: b}}}}]}}"


def test_a_list_of_a_later_config_replaces_one_of_the_same_length(
    parser: ArgumentParser, tmp_path: Path
) -> None:
    read = parser.parse_args(_two_configs(tmp_path, ONE, OTHER))
    assert _crops(read) == [(LFW, None)]
    assert read.trainer.callbacks[0].init_args.flip is False


@pytest.mark.parametrize(
    "order",
    ["OPTION --config ONE", "--config ONE OPTION --config=OTHER", "OPTION -c OTHER -c ONE",
     "--config=OTHER OPTION -c ONE"],
)  # fmt: skip
def test_what_is_typed_wins_over_every_config_wherever_it_stands(order: str, tmp_path: Path) -> None:
    made = {"ONE": "seed: 1\nname: one", "OTHER": "seed: 5"}
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    words = {name: str(tmp_path / name) for name in made}
    args = re.sub(r"\b(ONE|OTHER)\b", lambda found: words[found[0]], order)
    parser = CommandParser()
    parser.add_argument("-c", "--config", action=FindConfig)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--name", type=str)
    read = parser.parse_args(args.replace("OPTION", "--seed 2").split())
    assert (read.seed, read.name) == (2, "one")
    read = parser.parse_args(args.replace("OPTION", "--seed=2").split())
    assert (read.seed, read.name) == (2, "one")


def test_an_option_before_the_config_of_fit_is_not_lost(
    run_main: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's own option too: the config says which model it is."""
    with pytest.raises(SystemExit):
        run_main(
            "fit",
            "--seed_everything",
            2,
            "--model.rounds",
            4,
            "--config",
            "fer3_masker.yaml",
            "--print_config",
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed_everything"] == 2
    assert printed["model"]["init_args"]["rounds"] == 4


def test_a_list_on_the_command_line_replaces_a_config_s(parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    given = f"[{{class_path: {LFW}, init_args: {{root: b}}}}]"
    for args in ([f"--trainer.callbacks={given}"], ["--trainer.callbacks", given]):
        read = parser.parse_args(["--config", str(tmp_path / "one.yaml"), *args])
        assert _crops(read) == [(LFW, None)]


def test_a_list_within_a_class_is_replaced_too(parser: ArgumentParser, tmp_path: Path) -> None:
    def chain(key: str, **init: object) -> str:
        steps = [{"class_path": "lightning_app.desensitize.MixUp", "init_args": {"key": key, **init}}]
        made = {"class_path": "lightning_app.desensitize.Chain", "init_args": {"steps": steps}}
        return yaml.safe_dump({"data": {"desensitizer": made}})  # the short form, without init_args

    read = parser.parse_args(_two_configs(tmp_path, chain("a", k=3, cap=0.6), chain("b")))
    (step,) = read.data.init_args.desensitizer.init_args.steps
    assert (step.init_args.key, step.init_args.k) == ("b", 2)


def test_what_is_appended_is_kept(parser: ArgumentParser, tmp_path: Path) -> None:
    later = "trainer: {callbacks+: [{class_path: callbacks.DSSIMReport}]}"
    read = parser.parse_args(_two_configs(tmp_path, ONE, later))
    assert _crops(read) == [(LFW, 150), ("callbacks.DSSIMReport", None)]
