"""`python main.py federate` end to end, on the engine of one process."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from lightning_app.federated.owner.client import Client
from lightning_app.federated.owner.config import read_config
from lightning_app.federated.owner.link import LocalLink
from lightning_app.masks import freeform_masks, mask_hash, save_mask
from tests.command_line import refused
from tests.federated.tiny import config

RunMain = Callable[..., None]
WATCH = {
    "class_path": "callbacks.LFWVerification",
    "init_args": {
        "bootstrap": 20,
        "reader": {
            "class_path": "datamodules.DrawnPairs",
            "init_args": {
                "identities": 8, "images_per_identity": 4, "first_identity": 5000, "size": 32, "folds": 2,
                "pairs_per_fold": 10,
            },
        },
    },
}  # fmt: skip


def written(path: Path, **more: object) -> Path:
    path.write_text(yaml.safe_dump(config(real=True, trainer={"callbacks": [WATCH]}, **more)))
    return path


@pytest.mark.slow
def test_rounds_table_figure_checkpoint_and_what_takes_it(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = written(tmp_path / "three.yaml")
    run_main("federate", "--config", given)
    said = capsys.readouterr().out
    assert "round 2 of 2" in said
    assert "nobody else's" in said
    run = tmp_path / "runs" / "three"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["federated/rounds"] == 2
    assert metrics["federated/images"] == 3 * 16 * 2
    assert 0 <= metrics["lfw/accuracy_low"] <= metrics["lfw/accuracy"] <= metrics["lfw/accuracy_high"] <= 1
    # fp32 weights of the backbone, its gate and the head, to three owners and back
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = sum(value.numel() for value in state.values() if value.is_floating_point())
    traffic = (metrics["federated/bytes_down_per_round"], metrics["federated/bytes_up_per_round"])
    assert traffic == (3 * 4 * weights, 3 * 4 * weights)
    assert metrics["time/overhead_s"] > 0
    lines = (run / "rounds.csv").read_text().splitlines()
    assert len(lines) == 3
    assert {"lfw/accuracy", "client2/loss", "client0/drift", "client1/cosine"} <= set(lines[0].split(","))
    assert (run / "rounds.png").stat().st_size > 1000
    assert "bn1" not in (run / "config.yaml").read_text()

    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    run_main("federate", "--config", run / "federate.yaml")  # all is done
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before

    (run / "metrics.json").rename(tmp_path / "before.json")
    run_main("validate", "--config", "runs/three/config.yaml", "--ckpt_path", "runs/three")
    assert json.loads((run / "metrics.json").read_text())["lfw/accuracy"] == metrics["lfw/accuracy"]

    line = refused(capsys, lambda: run_main("federate", "--config", given, "--rounds", "3"))
    assert "was made with other settings" in line
    run_main("federate", "--config", given, "--rounds", "1", "--overwrite", "--verify_every", "5")
    assert len((run / "rounds.csv").read_text().splitlines()) == 2
    assert "lfw/accuracy" in (run / "rounds.csv").read_text()  # the last round is always verified


def test_a_checkpoint_without_a_head_gets_no_figures_of_held_out_images(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where heads are private; embeddings must not be counted as logits."""
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config(partition="identities", clients=2, rounds=1)))
    run_main("federate", "--config", "two.yaml")
    capsys.readouterr()
    run_main("validate", "--config", "runs/two/config.yaml", "--ckpt_path", "runs/two", "--name", "checked",
         "--data.init_args.val_share", "0.25")  # fmt: skip
    assert "has no head" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "runs" / "checked" / "metrics.json").read_text())
    assert not [key for key in metrics if key.startswith("val/")]


def test_the_federation_of_a_serverapp_is_exported_with_a_card_of_its_own(
    run_main: RunMain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mask is found by the config, which is there before the first round; traffic is no figure of quality."""
    pytest.importorskip("flwr")
    from lightning_app.federated.flower import serverapp

    monkeypatch.setattr(
        serverapp, "_end_with", lambda parent: None
    )  # no process of Flower's started this one
    mask = freeform_masks(1, 32, generator=torch.Generator().manual_seed(1))[0]
    save_mask(mask, tmp_path / "mask.png")
    desensitized = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"mask": "mask.png"}}
    values = config(
        real=True,
        partition="own",
        clients=1,
        rounds=1,
        trainer={"callbacks": [WATCH]},
        data={"desensitizer": desensitized},
    )
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(values))
    given = {"config": "server.yaml", "name": "hospital"}
    before = torch.get_float32_matmul_precision()
    try:
        serve = serverapp._serve(SimpleNamespace(run_config=given))  # type: ignore[arg-type]
        assert (tmp_path / "runs" / "hospital" / "config.yaml").is_file()
        serve(LocalLink([Client(*read_config(given), 0, tmp_path / "owner-0")]))
    finally:
        torch.set_float32_matmul_precision(before)

    run_main("export", "--ckpt_path", "runs/hospital")
    folder = tmp_path / "runs" / "hospital" / "export"
    card, text = json.loads((folder / "card.json").read_text()), (folder / "README.md").read_text()
    assert card["mask"]["hash"] == mask_hash(mask)
    assert "lfw/accuracy" in card["figures"]
    assert not [key for key in card["figures"] if key.startswith(("federated/", "time/"))]
    told = {"owners": 1, "partition": "own", "local_epochs": 1, "rounds": 1, "images": 48}
    assert card["training"]["federation"] == told
    assert "Measured by `federate` on the global model after the last round" in text
    assert (
        "| federated | 1 owner, each with faces of its own (partition `own`); 1 round of 1 local epoch |"
        in text
    )
    assert "bytes" not in text.partition("## Metrics")[2]


def test_without_flower_one_line_names_the_extra(
    run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "flwr" else found(name, *a)
    )
    line = refused(
        capsys, lambda: run_main("federate", "--config", written(tmp_path / "a.yaml"), "--engine", "flower")
    )
    assert "pip install 'faceveil[federated]'" in line
    assert "--engine local" in line
    assert not (tmp_path / "runs").exists()


def test_bad_input(run_main: RunMain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = written(tmp_path / "a.yaml")
    for options, words in (
        (["--partition", "own"], "partition: own is of a real deployment"),
        (["--clients", "0"], "clients=0: give at least 1"),
        (["--name", "a/b"], "give a plain name"),
        (["--partition", "identities", "--clients", "7"], "would have no image"),
        (["--engine", "rsync"], "engine"),
    ):
        line = refused(capsys, partial(run_main, "federate", "--config", given, *options))
        assert words in line
