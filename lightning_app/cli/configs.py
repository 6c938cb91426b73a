"""Where configs are found: as given, then in `configs/`; and what a later one does to the lists of an earlier one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]  # exported without __all__

from lightning_app.cli.places import FILES
from lightning_app.cli.yaml_file import read_config_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_NEAREST = 4  # configs that are named where there is none of a name


def shipped() -> list[str]:
    """List the configs that come with FaceVeil, overlays as `overlays/NAME.yaml`."""
    return sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """Find a config by path or by bare name.

    Args:
        name: a path, or `NAME[.yaml]`, looked up in the working directory, then in `configs/`.

    Raises:
        FileNotFoundError: there is none; names the nearest, or all that are shipped.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml", CONFIGS / "overlays" / f"{name}.yaml"):
        if path.is_file():
            return path
    if Path(name).is_dir():
        raise FileNotFoundError(f"no config {name!r}: it is a folder; give a YAML file")
    known = shipped()
    stems = {
        Path(other).stem: other for other in (*known, *(path.name for path in Path.cwd().glob("*.yaml")))
    }
    near = [stems[stem] for stem in difflib.get_close_matches(Path(name).stem, stems, _NEAREST)]
    meant = (
        f"; did you mean {' or '.join(near)}?"
        if near
        else f", which has {len(known)}, such as {', '.join(known[:_NEAREST])}"
    )
    raise FileNotFoundError(f"no config {name!r} in {Path.cwd()} nor in {CONFIGS}{meant}")


class FindConfig(ActionConfigFile):
    """`--config` that finds bare names (design, section 1), and whose lists replace those of earlier configs."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply one config file."""
        path = find_config(values)
        FILES.read.append(path)
        content = read_config_file(path)
        _check_groups(content, path, [action.dest for action in parser._actions])
        forget_lists(cfg, content)
        self.apply_config(parser, cfg, self.dest, str(path))


def _check_groups(content: Mapping[str, Any], path: Path, dests: Sequence[str], above: str = "") -> None:
    """Refuse what jsonargparse would pass over (4.53): `trainer: [1]`, and a name there is not with nothing in it."""
    for name, value in content.items():
        key = f"{above}{name}"
        inner = any(dest.startswith(f"{key}.") for dest in dests)
        group = inner and f"{key}.help" not in dests  # else a class
        if group and not isinstance(value, Mapping | str | None):
            raise ValueError(
                f"{path}: {key}: {value!r} is no mapping; it takes keys, such as `{key}: {{KEY: VALUE}}`"
            )
        if not inner and value == {} and key.removesuffix("+") not in dests:
            near = difflib.get_close_matches(key, {*dests, *(dest.split(".")[0] for dest in dests)}, 1)
            raise ValueError(f"{path}: there is no {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
        if group and isinstance(value, Mapping):
            _check_groups(value, path, dests, f"{key}.")


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
