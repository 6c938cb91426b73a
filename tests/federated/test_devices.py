"""An owner with several devices: its ranks are spawned, and each step is that of the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_app.federated.owner.link import LocalLink
from lightning_app.federated.protocol.plan import add_arguments, read_plan
from lightning_app.federated.server.run import Server
from lightning_app.networks.backbones import BackboneMaker
from tests.federated.tiny import Tiny, TinyBackbone, config, owners, weights_of


class WithoutBatchNorm(Tiny):
    """Batch norm counts each rank's share: without it two ranks take the very steps of one. Tells of its ranks."""

    def configure_backbone(self, backbone: BackboneMaker | str, input_size: int, in_channels: int) -> Any:
        made = TinyBackbone()
        made.bn1 = nn.Identity()  # type: ignore[assignment]
        return made

    def on_train_start(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        (folder / f"rank-{self.global_rank}-of-{self.trainer.world_size}").touch()


def trained(run_dir: Path, **trainer: Any) -> Server:
    values = config(clients=1, rounds=1, trainer=trainer, data={"global_batch_size": 16})
    values["model"]["class_path"] = f"{__name__}.WithoutBatchNorm"
    parser = ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    plan, parts = read_plan(parser.parse_object(values))
    server = Server(plan, parts, run_dir)
    server.serve(LocalLink(owners(plan, parts, run_dir)))
    return server


def test_two_spawned_ranks_take_the_steps_of_one_device(tmp_path: Path) -> None:
    two, one = trained(tmp_path / "two", devices=2), trained(tmp_path / "one")
    assert [path.name for path in sorted((tmp_path / "two" / "clients" / "0").glob("rank-*"))] == [
        "rank-0-of-2",
        "rank-1-of-2",
    ]
    weights, reference = weights_of(two), weights_of(one)
    assert two.rounds[0]["client0/drift"] > 0.01  # it has moved
    # 48 images in global batches of 16
    for record in (two.rounds[0], one.rounds[0]):
        assert (record["images"], record["batches"]) == (48, 3)
    assert abs(two.rounds[0]["client0/loss"] - one.rounds[0]["client0/loss"]) < 1e-5
    for name, value in weights.items():
        torch.testing.assert_close(value, reference[name], rtol=1e-5, atol=1e-6)
