"""Where configs are found: as given, then in `configs/`; and what a later one does to the lists of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]  # exported without __all__

from lightning_app.cli.places import FILES

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def shipped() -> list[str]:
    """List the configs that come with FaceVeil, overlays as `overlays/NAME.yaml`."""
    return sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """Find a config by path or by bare name.

    Args:
        name: a path, or `NAME[.yaml]`, looked up in the working directory, then in `configs/`.

    Raises:
        FileNotFoundError: there is none; lists those that are shipped.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml", CONFIGS / "overlays" / f"{name}.yaml"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no config {name!r} in {Path.cwd()} nor in {CONFIGS}; there are: {', '.join(shipped())}"
    )


class FindConfig(ActionConfigFile):
    """`--config` that finds bare names (design, section 1), and whose lists replace those of earlier configs."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply one config file."""
        path = find_config(values)
        FILES.read.append(path)
        forget_lists(cfg, _content(path))
        self.apply_config(parser, cfg, self.dest, str(path))


def _content(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except yaml.YAMLError:
        return None  # the parser reads it next, and says what is wrong with it


def forget_lists(earlier: Namespace, later: object) -> None:
    """Empty the lists that a later config gives anew, so that they replace the earlier ones whole.

    jsonargparse merges two lists item by item where they happen to be of one length (4.53): what an overlay means
    would depend on how many callbacks the config before it has.

    Args:
        earlier: what was parsed so far; changed.
        later: the config's content. `KEY+` appends, and empties nothing.
    """
    if not isinstance(later, Mapping):
        return
    for key, value in later.items():
        within = earlier
        if key not in within and isinstance(inner := within.get("init_args"), Namespace):
            within = inner  # `data: {reader: …}` stands for `data: {init_args: {reader: …}}`
        if not isinstance(key, str) or key not in within:
            continue
        before = within[key]
        if isinstance(value, list) and isinstance(before, list):
            within[key] = []
        elif isinstance(before, Namespace):
            forget_lists(before, value)
