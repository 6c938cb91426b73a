"""The config of `desensitize` as `audit` takes it: its reader and desensitizer, and what overrides them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datamodules.readers.base import FaceReader
from datamodules.readers.folder import FolderFaces
from lightning_app.cli.command_parser import CommandParser
from lightning_app.cli.configs import find_config
from lightning_app.cli.fit_config import make_reader
from lightning_app.core.foreign import read_yaml
from lightning_app.desensitize import Desensitizer
from lightning_app.release.audit.run import Audit
from lightning_app.release.format.names import MANIFEST
from lightning_app.release.write.preflight import be_strict
from lightning_app.release.write.writer import LOSSY_WEBP


def read_part(config: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the config of `desensitize`, or the data of a `fit`'s, with what overrides it.

    Args:
        config: a path or a bare name.
        overrides: such as `["--reader.init_args.root", "data/aligned"]`.

    Returns:
        With `reader`, and `desensitizer` where there is one.

    Raises:
        FileNotFoundError, ValueError: there is no such config, or it has no reader.
    """
    path = find_config(config)
    part = read_yaml(path)
    for level in ("data", "init_args"):  # the config of a `fit` has its reader there
        if isinstance(part, dict) and level in part:
            part = part[level]
    if not isinstance(part, dict) or not part.get("reader"):
        raise ValueError(f"config: {path} has no `reader`; give the config of `desensitize`")
    return _overridden(part, overrides) if overrides else part


def _overridden(part: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Put what the command line says in the place of what the config says, as `desensitize` does."""
    parser = CommandParser(prog="main.py audit")
    parser.add_argument("--reader", type=FaceReader)
    parser.add_argument("--desensitizer", type=Desensitizer | None, default=None)
    given = [f"--{key}={json.dumps(part[key])}" for key in ("reader", "desensitizer") if part.get(key)]
    values: dict[str, Any] = parser.parse_args([*given, *overrides]).as_dict()
    return part | values


def reader_of(raw: str | None, part: dict[str, Any] | None, found: Audit) -> FaceReader:
    """Make the reader of the raw set: the config's, else of folders as the manifest says.

    Args:
        raw: folder of the raw set; None with a config alone.
        part: of the config, see `read_part`.
        found: the audit, with its manifest; gets a finding where the reader cuts otherwise.

    Raises:
        ValueError: the reader gives images of another size.
    """
    manifest = found.manifest
    assert manifest is not None
    if part is None:
        assert raw is not None
        crop = manifest.crop
        box = (crop[0], crop[1], crop[2], crop[3]) if isinstance(crop, list) else crop
        reader: FaceReader = FolderFaces(raw, crop=box, size=manifest.size, cache_index=False)
    else:
        reader = make_reader(part["reader"])
    if reader.size != manifest.size:
        raise ValueError(
            f"config: its reader gives {reader.size} px images, the release has {manifest.size} px"
        )
    cut = reader.crop
    if (list(cut) if isinstance(cut, tuple | list) else cut) != manifest.crop:
        found.add(MANIFEST, f"its crop is {manifest.crop}, --config's reader cuts {cut}")
    be_strict(reader, allow_lossy_webp=LOSSY_WEBP not in manifest.refused)  # as `desensitize` read
    return reader.open()
