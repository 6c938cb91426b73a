"""The parser of a command line of `fit`, made once for the tests that only read one."""

from __future__ import annotations

from collections.abc import Iterator

import lightning as L
import pytest
from jsonargparse import ArgumentParser

from lightning_app.cli.app import FaceVeilCLI


class Parsed(FaceVeilCLI):
    """Reads a command line of `fit` and makes nothing."""

    def before_instantiate_classes(self) -> None:
        """Leave run folders alone."""

    def instantiate_classes(self) -> None:
        """Make nothing."""


@pytest.fixture(scope="module")
def parser() -> Iterator[ArgumentParser]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["main.py"])  # Lightning warns of arguments beside its own
        yield _parser()


def _parser() -> ArgumentParser:
    read = Parsed(
        L.LightningModule, L.LightningDataModule, save_config_callback=None, subclass_mode_model=True,
        subclass_mode_data=True, auto_configure_optimizers=False, seed_everything_default=0, run=False, args=[],
        parser_kwargs={"exit_on_error": False},
    )  # fmt: skip
    return read.parser
