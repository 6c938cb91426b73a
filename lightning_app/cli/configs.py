"""Where configs are found: as given, then in `configs/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # exported without __all__

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
    """`--config` that finds bare names (design, section 1)."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply one config file."""
        self.apply_config(parser, cfg, self.dest, str(find_config(values)))
