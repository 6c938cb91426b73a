"""The recogniser that learns how to spread a privacy budget, from `fit` to the desensitizer that takes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from torch import nn

from datamodules import DrawnFaces
from lightning_app import load_recogniser
from lightning_app.cli.configs import CONFIGS
from lightning_app.core.batch import Batch
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import DCTDP, BlockDCT
from lightning_app.desensitize.dct import coefficient_ranges
from lightning_app.models import DCTDPRecogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.networks.budget_noise import BudgetNoise, shares_of
from tests.command_line import RunMain, refused
from tests.small_run import state

FIRST, SECOND = "lfwa_quick_dctdp_budget", "lfwa_quick_dctdp"


def test_the_budget_is_what_was_asked_whatever_is_learnt() -> None:
    for logits in (torch.zeros(5), torch.tensor([-30.0, 0, 1, 2, 500])):
        noise = BudgetNoise(5, 2.5)
        noise.logits.data = logits
        assert float(shares_of(logits).sum()) == pytest.approx(1, abs=1e-12)
        assert float(noise.epsilons().detach().sum()) == pytest.approx(5 * 2.5, rel=1e-9)
        assert bool(noise(torch.zeros(2, 5, 3, 3)).isfinite().all())
    with pytest.raises(ValueError, match="epsilon: 0; give a number above 0"):
        BudgetNoise(5, 0)


def test_noise_is_a_function_of_salt_and_image() -> None:
    noise = BudgetNoise(4, 1.0)
    noise.ranges.copy_(torch.tensor([1.0, 2, 4, 8]))
    image = torch.rand(60, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    first = noise(image, 1, 7)
    assert torch.equal(noise(image, 1, 7), first)
    assert torch.equal(noise(image[3:4], 1, 7)[0], first[3]), "whatever the batch"
    assert not torch.equal(noise(image, 1, 8), first)
    size = (first - image).abs().mean((0, 2, 3))  # of Laplace noise the mean size is the scale
    torch.testing.assert_close(size, noise.ranges, rtol=0.05, atol=0)


def test_the_gradient_goes_through_the_scale() -> None:
    """Against a finite difference, of the same draws."""
    noise = BudgetNoise(3, 0.5).double()
    image = torch.rand(4, 3, 5, 5)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        noise.logits.data = logits
        found: torch.Tensor = noise(image, 1).double() ** 2 * torch.tensor([1.0, 2, 3])[:, None, None]
        return found.sum()

    at = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    loss(at).backward()
    found = noise.logits.grad
    assert found is not None
    with torch.no_grad():
        for number in range(3):
            away = torch.zeros(3, dtype=torch.float64)
            away[number] = 1e-2
            slope = float(loss(at + away) - loss(at - away)) / 2e-2
            assert float(found[number]) == pytest.approx(slope, rel=1e-2)


def test_the_budget_moves_to_what_recognition_needs() -> None:
    """Eight channels, of which two tell four people apart: these get the most, and noise there becomes less."""
    generator = torch.Generator().manual_seed(0)
    noise, head = BudgetNoise(8, 2.0), nn.Linear(8, 4)
    nn.init.normal_(head.weight, std=0.3, generator=generator)
    optimizer = torch.optim.SGD(
        [{"params": [noise.logits], "lr": 1.0}, {"params": head.parameters(), "lr": 0.1}],
        lr=0.1,
        momentum=0.9,
    )
    where = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    for step in range(150):
        who = torch.randint(0, 4, (64,), generator=generator)
        image = torch.randn(64, 8, 2, 2, generator=generator) * 0.1
        image[:, [2, 5]] += where[who][:, :, None, None]
        loss = nn.functional.cross_entropy(head(noise(image, step).mean((2, 3))), who)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = noise.epsilons().detach()
    needed, others = found[[2, 5]], found[[0, 1, 3, 4, 6, 7]]
    assert float(needed.min()) > 2 * float(others.max())
    assert float(found.sum()) == pytest.approx(16, rel=1e-6)


def tiny(name: str, root: Path) -> dict[str, Any]:
    """The shipped config on drawn faces: six steps of 8 images of 32 px."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu", "precision": "32-true", "max_epochs": 2, "log_every_n_steps": 1,
                          "limit_train_batches": 3, "check_val_every_n_epoch": 1}  # fmt: skip
    config["trainer"]["callbacks"][0]["init_args"] = {"root": str(root), "bootstrap": 20}
    config["model"]["init_args"]["width"] = 8
    data = config["data"]["init_args"]
    data["global_batch_size"] = 8
    data["reader"]["init_args"] = {"root": str(root), "crop": 44, "size": 32}
    return config


class Keep(L.Callback):
    """Copies the checkpoint of the first epoch."""

    def __init__(self, to: str) -> None:
        self.to = Path(to)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and not self.to.exists():
            shutil.copy(Path(trainer.default_root_dir) / "checkpoints/last.ckpt", self.to)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, drawn_root: Path) -> Path:
    """A folder in which the owner has trained, and then a recogniser on what he hands on."""
    from main import main

    home = tmp_path_factory.mktemp("dctdp")
    make_key(home / "owner.key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        for name in (FIRST, SECOND):
            config = tiny(name, drawn_root)
            settings = config["data"]["init_args"]["desensitizer"]
            if name == FIRST:
                keep = {"class_path": f"{__name__}.Keep", "init_args": {"to": str(home / "first.ckpt")}}
                config["trainer"]["callbacks"].append(keep)
            else:
                assert settings["init_args"]["checkpoint"] == f"runs/{FIRST}"
                settings["init_args"] |= {
                    "checkpoint": str(home / "runs" / FIRST),
                    "key": str(home / "owner.key"),
                }
            (home / f"{name}.yaml").write_text(yaml.safe_dump(config))
            main(["fit", "--config", str(home / f"{name}.yaml"), "--runs", str(home / "runs")])
    return home


def test_the_owner_learns_a_budget(fitted: Path) -> None:
    run = fitted / "runs" / FIRST
    assert (run / "budget.png").stat().st_size > 0
    assert "lfw/accuracy_s1" in json.loads((run / "metrics.json").read_text())
    weights = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert float(weights["noise.logits"].std()) > 0, "it moved"
    made = BlockDCT()
    torch.testing.assert_close(
        weights["noise.ranges"], coefficient_ranges(made.blocks, made.keep, (32, 32)).float()
    )
    model, facts = read_recogniser(run)
    assert isinstance(model, DCTDPRecogniser)
    assert facts.in_channels == 63
    image = torch.rand(2, 63, 32, 32)
    assert torch.equal(model.embed(image), model.embed(image)), "one image, one embedding"


def test_a_recogniser_trains_on_the_frozen_budget(fitted: Path) -> None:
    run = fitted / "runs" / SECOND
    assert "lfw/accuracy_s1" in json.loads((run / "metrics.json").read_text())
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    description = checkpoint["FaceDataModule"]["desensitizer"]
    made = DCTDP(fitted / "runs" / FIRST, key=fitted / "owner.key")
    made.prepare((32, 32))
    assert description == made.describe()
    assert (description["epsilon"], description["epsilon_image"]) == (3, 3 * 63 * 32 * 32)
    logits = torch.load(fitted / "runs" / FIRST / "checkpoints/last.ckpt", weights_only=True)["state_dict"][
        "noise.logits"
    ]
    torch.testing.assert_close(made.epsilons, shares_of(logits) * 63 * 3)
    secret = (fitted / "owner.key").read_text().strip().encode()
    assert not [path for path in run.rglob("*") if path.is_file() and secret in path.read_bytes()]
    loaded = load_recogniser(run, desensitize=True)
    assert loaded.embed_images(torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy()).shape == (1, 64)


def test_what_is_cut_off_takes_its_share_of_the_noise(fitted: Path) -> None:
    run, key = fitted / "runs" / FIRST, fitted / "owner.key"
    whole, tenth = DCTDP(run, key=key), DCTDP(run, key=key, clip=0.1)
    faces = DrawnFaces(4, 4, size=32).__getitems__(range(16))
    batch: Batch = {"image": faces["image"].float() / 255, "index": faces["index"]}
    clean = BlockDCT()(batch)["image"]
    ranges = coefficient_ranges(tenth.blocks, tenth.keep, (32, 32)).float()[:, None, None]
    cut = clean.clamp(-0.05 * ranges, 0.05 * ranges)
    assert 0 < float((cut != clean).float().mean()) < 0.5, "some coefficients are cut off, not most"
    scale = ranges / tenth.epsilons.float()[:, None, None]
    for made, shown, share in ((whole, clean, 1.0), (tenth, cut, 0.1)):
        noise = (made(batch)["image"] - shown) / (share * scale)  # Laplace's mean size is its scale
        assert float(noise.abs().mean()) == pytest.approx(1, rel=0.02)
    assert "clip" not in whole.describe(), "descriptions from before stay as they were"
    assert tenth.describe() == whole.describe() | {"clip": 0.1}
    assert "beyond 0.1 of what it can be" in DCTDP.recipe(tenth.describe())
    for odd in (0, -1, 1.5, float("nan"), True, 0.12345678):
        with pytest.raises(ValueError, match=r"clip: .*; give a share above 0 and up to 1"):
            DCTDP(run, key=key, clip=odd)


def test_shares_are_learnt_under_what_is_cut_off(fitted: Path, tmp_path: Path, run_main: RunMain) -> None:
    given = ("--config", fitted / f"{FIRST}.yaml", "--runs", tmp_path, "--trainer.max_epochs", 1)
    run_main("fit", *given, "--model.clip", 0.25, "--name", "clipped")
    made = DCTDP(tmp_path / "clipped")
    assert made.clip == 0.25, "by default that of the checkpoint"
    last = torch.load(tmp_path / "clipped/checkpoints/last.ckpt", weights_only=True)
    wanted = coefficient_ranges(made.blocks, made.keep, (32, 32)) / 4
    torch.testing.assert_close(last["state_dict"]["noise.ranges"].double(), wanted, rtol=1e-6, atol=0)
    last["hyper_parameters"]["clip"] = -2.0
    torch.save(last, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="damaged: clip is no share"):
        DCTDP(tmp_path / "odd.ckpt")


def test_going_on_gives_the_same_bits(fitted: Path, tmp_path: Path, run_main: RunMain) -> None:
    """The noise of a step is a function of the step."""
    given = ("--config", fitted / f"{FIRST}.yaml", "--runs", tmp_path)
    run_main("fit", *given, "--ckpt_path", fitted / "first.ckpt")
    last = Path(FIRST) / "checkpoints/last.ckpt"
    whole, again = state(fitted / "runs" / last), state(tmp_path / last)
    weights = [key for key in whole if key.startswith("/state_dict")]
    assert len(weights) > 60
    different = [key for key in weights if whole[key] != again.get(key)]
    assert different == []


def test_another_budget_is_no_going_on_and_it_stays_with_its_owner(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--config", fitted / f"{FIRST}.yaml", "--runs", tmp_path, "--ckpt_path", fitted / "first.ckpt")
    line = refused(capsys, lambda: run_main("fit", *given, "--model.epsilon", 5))
    assert "learns how to spread a budget with epsilon=3.0, yours is 5.0: go on with that one" in line
    line = refused(capsys, lambda: run_main("fit", *given, "--model.clip", 0.5))
    assert "learns how to spread a budget with clip=1.0, yours is 0.5: go on with that one" in line
    run_main("fit", *given, "--model.budget_lr", 0.5, "--trainer.max_epochs", 1)
    assert "model.budget_lr=0.5 is not used: the checkpoint goes on with 1.0" in " ".join(
        capsys.readouterr().out.split()
    )
    line = refused(capsys, lambda: run_main("export", "--ckpt_path", fitted / "runs" / FIRST))
    assert "no DCTDPRecogniser is exported, for it adds noise of its own" in line


def test_it_learns_from_block_dct_alone(
    fitted: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--config", fitted / f"{FIRST}.yaml", "--runs", tmp_path)
    for part, name in (
        ("{class_path: lightning_app.desensitize.FrequencyMask}", "FrequencyMask;"),
        (
            "{class_path: lightning_app.desensitize.BlockDCT, init_args: {normalise: true}}",
            "BlockDCT with other settings;",
        ),
    ):
        line = refused(capsys, lambda part=part: run_main("fit", *given, "--data.desensitizer", part))  # type: ignore[misc]
        assert (
            f"data.desensitizer: {name} DCTDPRecogniser learns a budget for the channels of BlockDCT" in line
        )
    assert not (tmp_path / FIRST / "checkpoints").exists()
