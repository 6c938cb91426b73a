"""The config of one side of a real deployment, named by Flower's run config or node config."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jsonargparse import ArgumentParser

from lightning_app.configs import FindConfig
from lightning_app.federated.plan import Parts, Plan, add_arguments, read_plan


def read_config(given: Mapping[str, object]) -> tuple[Plan, Parts]:
    """Read the YAML that `config` names.

    Args:
        given: Flower's run config (server) or node config (owner).

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: none is named, or it cannot be used.
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
    return read_plan(parser.parse_args(["--config", str(given["config"])]))
