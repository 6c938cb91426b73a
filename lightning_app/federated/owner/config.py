"""The config of one side of a real deployment, named by Flower's run config or node config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser

from lightning_app.cli.configs import FindConfig, find_config
from lightning_app.federated.protocol.plan import Parts, Plan, add_arguments, read_plan


def read_config(given: Mapping[str, object]) -> tuple[Plan, Parts]:
    """Read the YAML that `config` names; one that is silent on `partition` has `own`.

    Args:
        given: Flower's run config (server) or node config (owner).

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: none is named, it cannot be used, or its `partition` is one of a simulation, whose rules for heads
            and for names hold where all images lie on one machine.
    """
    if "config" not in given:
        raise ValueError('config: name the YAML of this side, as in --run-config \'config="federated.yaml"\' (server) '
                         'or --node-config \'config="owner.yaml" partition-id=0\' (owner)')  # fmt: skip
    torch.set_float32_matmul_precision("high")  # as the command line does
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("-c", "--config", action=FindConfig)
    for option in ("name", "runs", "overwrite"):  # of `federate`; a deployment's come from Flower
        parser.add_argument(f"--{option}", default=None)
    add_arguments(parser)
    parser.set_defaults({"partition": "own"})
    path = find_config(str(given["config"]))
    values = _with_none_named(path)
    read = parser.parse_args(["--config", str(path)]) if values is None else parser.parse_object(values)
    if read.partition != "own":
        raise ValueError(
            f"partition: {read.partition} in {path} deals one set out on one machine, to simulate; in a deployment "
            "each owner has a set of its own: give own, or leave it out"
        )
    return read_plan(read)


def _with_none_named(path: Path) -> dict[str, Any] | None:
    """Read a file that says `desensitizer: none`, with the class in its place; None where it says something else.

    `null`, and a file that is silent, mean that the mask is the server's: clean faces have to be asked for.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:  # the parser says what is wrong with it
        return None
    arguments = values
    for key in ("data", "init_args"):
        arguments = arguments.get(key) if isinstance(arguments, dict) else None
    if not (isinstance(arguments, dict) and arguments.get("desensitizer") == "none"):
        return None
    arguments["desensitizer"] = {"class_path": "lightning_app.desensitize.Identity"}
    whole: dict[str, Any] = values
    return whole
