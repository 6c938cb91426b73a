"""The checkpoints that a command line names within its classes: a desensitizer's masker, a model to begin with."""

from __future__ import annotations

import yaml

KEYS = ("checkpoint", "init_from", "teacher")  # arguments of classes that are checkpoints, or folders of runs


class NestedCheckpoints:
    """Where in the settings a checkpoint is named; what comes later takes the place of what came before."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, ...], str] = {}

    @property
    def names(self) -> list[str]:
        """Return the names that are left, as they were given."""
        return list(dict.fromkeys(self._at.values()))

    def config(self, said: object) -> None:
        """Take in what a config says.

        Args:
            said: its content.
        """
        self._put((), said)

    def option(self, name: str, text: str) -> None:
        """Take in an option.

        Args:
            name: such as `--data.desensitizer`.
            text: its value, as the command line has it.
        """
        value: object = None if text in ("null", "None") else text
        if text.startswith(("{", "[")):
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                value = text  # the command that is run with it says what is wrong
        path = tuple(part for part in name.lstrip("-").split(".") if part != "init_args")
        self._put(path, value)

    def _put(self, path: tuple[str, ...], value: object) -> None:
        if not isinstance(value, dict) or "class_path" in value:  # another value, or another class
            self._at = {at: name for at, name in self._at.items() if at[: len(path)] != path}
        if isinstance(value, dict):
            for key, inner in value.items():
                self._put(path if key == "init_args" else (*path, str(key)), inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                self._put((*path, str(number)), inner)
        elif isinstance(value, str) and len(path) > 1 and path[-1] in KEYS:
            self._at[path] = value
