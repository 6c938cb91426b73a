"""The parser of a command line of `fit`, made once for the tests that only read one."""

from __future__ import annotations

import lightning as L
from jsonargparse import ArgumentParser

from lightning_app.cli.app import FaceVeilCLI


class Parsed(FaceVeilCLI):
    """Reads a command line of `fit` and makes nothing."""

    def before_instantiate_classes(self) -> None:
        """Leave run folders alone."""

    def instantiate_classes(self) -> None:
        """Make nothing."""


def fit_parser() -> ArgumentParser:
    """Return the parser; `sys.argv` must hold no arguments, of which Lightning warns beside its own."""
    read = Parsed(
        L.LightningModule, L.LightningDataModule, save_config_callback=None, subclass_mode_model=True,
        subclass_mode_data=True, auto_configure_optimizers=False, seed_everything_default=0, run=False, args=[],
        parser_kwargs={"exit_on_error": False},
    )  # fmt: skip
    return read.parser
