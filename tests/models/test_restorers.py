"""U-Net and pix2pix as attackers, trained by `fit` on drawn faces: what they learn, resume and refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional as F

from datamodules import DrawnFaces, FaceDataModule
from lightning_app.attacks import TrainedRestorer
from lightning_app.attacks.losses import discriminator_loss, generator_loss
from lightning_app.desensitize import BlockDCT, Mosaic
from lightning_app.metrics import psnr
from lightning_app.models import CGAN, UNetRestorer
from lightning_app.networks.pix2pix import PatchDiscriminator, Pix2PixGenerator, RestorationUNet, Restoring
from tests.command_line import RunMain, refused
from tests.models.attacked_data import attacked_data

SIZE = 32
MASK = {"class_path": "lightning_app.desensitize.MaskOut", "init_args": {"freeform": [0.3, 0.4]}}
MOSAIC = {"class_path": "lightning_app.desensitize.Mosaic", "init_args": {"block": 2}}
DCT = {"class_path": "lightning_app.desensitize.BlockDCT", "init_args": {"upsample": 1, "dc": True}}


def write(path: Path, model: str, desensitizer: object = MASK, epochs: int = 2, **arguments: object) -> Path:
    """A `fit` of an attacker on 8 drawn people at 32 px."""
    config: dict[str, Any] = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "log_every_n_steps": 1,
            "callbacks": [{"class_path": "callbacks.RestorationPictures", "init_args": {"images": 2}}],
        },
        "model": {
            "class_path": f"lightning_app.models.{model}",
            "init_args": {"width": 8, "depth": 3} | arguments,
        },
        "data": attacked_data(desensitizer, SIZE),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def column(run: Path, name: str) -> list[float]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [float(row[name]) for row in rows if row.get(name)]


def last(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return found


def others() -> Tensor:
    faces = DrawnFaces(identities=3, images_per_identity=2, size=SIZE, first_identity=500)
    return faces.__getitems__(list(range(6)))["image"].float() / 255


def test_cgans_losses_are_the_written_out_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    real, drawn = (torch.randn(3, 1, 4, 4, generator=generator) for _ in range(2))
    output, clean = (torch.rand(3, 3, 8, 8, generator=generator) for _ in range(2))
    share_real, share_drawn = 1 / (1 + (-real).exp()), 1 / (1 + (-drawn).exp())
    expected = 0.5 * (-share_real.log().mean() - (1 - share_drawn).log().mean())
    torch.testing.assert_close(discriminator_loss(real, drawn), expected)
    parts = generator_loss(drawn, output, clean, 100.0)
    torch.testing.assert_close(parts["adversarial"], -share_drawn.log().mean())
    torch.testing.assert_close(parts["l1"], 100 * ((2 * output - 1) - (2 * clean - 1)).abs().mean())


def test_cgan_steps_as_written_out(tmp_path: Path, run_main: RunMain) -> None:
    """The discriminator steps first, on a detached picture; the generator then against the new one."""
    run_main("fit", "--config", write(tmp_path / "a.yaml", "CGAN", epochs=1, dropout=0.0))
    torch.manual_seed(0)
    generator, judge = Pix2PixGenerator(3, 8, 3, 0.0), PatchDiscriminator(7, 8)
    model = CGAN(width=8, depth=3, dropout=0.0, input_size=SIZE, channels_last=False)
    model.network.load_state_dict(generator.state_dict())
    model.discriminator.load_state_dict(judge.state_dict())
    model.pixels, model.pictures = SIZE, True
    image, clean = torch.rand(4, 3, SIZE, SIZE), torch.rand(4, 3, SIZE, SIZE)
    made = model.configure_optimizers()
    model.optimizers = lambda *a, **k: list(made)  # type: ignore[method-assign,assignment]
    model.manual_backward = lambda loss, *a, **k: loss.backward()  # type: ignore[method-assign]
    model.seen = lambda batch: batch["image"]  # type: ignore[method-assign]
    logged: dict[str, Tensor] = {}
    model.trained_on = lambda batch, loss, **parts: logged.update(loss=loss, **parts)  # type: ignore[method-assign]
    model.training_step(
        {"image": image, "clean": clean, "mask": None, "mask_index": torch.zeros(4).long()}, 0
    )

    of_judge = torch.optim.Adam(judge.parameters(), 2e-4, betas=(0.5, 0.999))
    of_generator = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    seen = generator.condition(image, None, None, (SIZE, SIZE))
    output = generator.drawn(seen, image)
    right, wrong = judge(seen, clean), judge(seen, output.detach())
    loss = (
        F.binary_cross_entropy_with_logits(right, torch.ones_like(right))
        + F.binary_cross_entropy_with_logits(wrong, torch.zeros_like(wrong))
    ) / 2
    of_judge.zero_grad()
    loss.backward()
    of_judge.step()
    judged = judge(seen, output)
    total = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
    total = total + 100 * 2 * (output - clean).abs().mean()
    of_generator.zero_grad()
    total.backward()
    of_generator.step()
    torch.testing.assert_close(logged["discriminator"], loss)
    torch.testing.assert_close(logged["loss"], total)
    for mine, theirs in ((model.network, generator), (model.discriminator, judge)):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("model", ["UNetRestorer", "CGAN"])
def test_a_run_learns_and_its_checkpoint_attacks(model: str, tmp_path: Path, run_main: RunMain) -> None:
    more = {"learning_rate": 5e-3} if model == "UNetRestorer" else {"learning_rate": 2e-3}
    run_main("fit", "--config", write(tmp_path / "attack.yaml", model, epochs=6, **more))
    run = tmp_path / "runs" / "attack"
    seen = column(run, "train/loss")
    assert len(seen) == 18  # one a batch, of two optimisers too
    assert sum(seen[-5:]) < 0.7 * sum(seen[:5])
    metrics = json.loads((run / "metrics.json").read_text())
    parts = {key for key in metrics if key.startswith(("train/", "restore/"))}
    expected = {"train/loss", "restore/psnr", "restore/psnr_before"}
    if model == "CGAN":
        expected |= {"train/adversarial", "train/l1", "train/discriminator"}
    assert parts == expected
    assert metrics["restore/psnr"] > metrics["restore/psnr_before"] + 0.3
    assert metrics["run/steps"] == 18  # and not one for each optimiser
    assert (run / "restored.png").is_file()
    attack = TrainedRestorer(run)
    description = attack.describe()
    assert (description["kind"], description["step"], description["pixels"]) == (model, 18, SIZE)
    assert attack.needs_mask
    assert attack.needs_image


@pytest.mark.parametrize("model", ["UNetRestorer", "CGAN"])
def test_going_on_is_the_same_as_never_having_stopped(model: str, tmp_path: Path, run_main: RunMain) -> None:
    whole = write(tmp_path / "whole.yaml", model)
    run_main("fit", "--config", whole)
    run_main("fit", "--config", whole, "--name", "part", "--trainer.max_epochs", 1)
    run_main("fit", "--config", whole, "--name", "part", "--ckpt_path", "last")
    one, two = (last(tmp_path / "runs" / name) for name in ("whole", "part"))
    assert one["restorer"] == two["restorer"]
    assert one["restorer"]["batches"] == 6
    assert one["global_step"] == two["global_step"] == (12 if model == "CGAN" else 6)
    assert ("discriminator.network.0.weight" in one["state_dict"]) == (model == "CGAN")
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("model", ["UNetRestorer", "CGAN"])
def test_a_representation_is_attacked(model: str, tmp_path: Path, run_main: RunMain) -> None:
    config = write(tmp_path / "a.yaml", model, DCT, epochs=1)
    run_main("fit", "--config", config)
    attack = TrainedRestorer(tmp_path / "runs/a")
    assert not attack.needs_image
    assert not attack.needs_mask
    clean, method = others(), BlockDCT(upsample=1, dc=True)
    method.prepare((SIZE, SIZE))
    batch = method({"image": clean, "index": torch.arange(6)})
    restored = attack.restore(batch)
    assert restored.shape == (6, 3, SIZE, SIZE)
    assert batch["image"].shape[1:] != restored.shape[1:]
    network = attack.restorer.network
    assert isinstance(network, Restoring)
    with torch.no_grad():
        expected = network(batch["image"], None, None, (SIZE, SIZE)).clamp(0, 1)
    torch.testing.assert_close(restored, expected)
    with pytest.raises(
        ValueError, match=r"trained on \d+ channels, these images have 3|was trained on images of"
    ):
        attack.restore({"image": clean[..., :4, :4]})


def test_what_hides_little_is_undone(tmp_path: Path, run_main: RunMain) -> None:
    """A mosaic of 2 px hides little: the U-Net comes nearer to the clean face than what was released."""
    run_main("fit", "--config", write(tmp_path / "a.yaml", "UNetRestorer", MOSAIC, epochs=4))
    clean = others()
    seen = Mosaic(2)({"image": clean, "index": torch.arange(6)})
    restored = TrainedRestorer(tmp_path / "runs/a").restore(seen)
    assert psnr(restored, clean).mean() > psnr(seen["image"], clean).mean()


def test_what_does_not_suit_is_refused(
    tmp_path: Path, run_main: RunMain, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.yaml", "UNetRestorer", epochs=1)
    for arguments, message in (
        (["--data.keep_clean", "false"], "UNetRestorer learns from clean faces: set data.keep_clean to true"),
        (["--model.width", "0"], "width: 0; give at least 1"),
        (
            ["--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt"],
            "is not of a UNetRestorer but of ResNetFSM",
        ),
    ):
        assert message in refused(capsys, lambda given=arguments: run_main("fit", "--config", config, *given))  # type: ignore[misc]
    with pytest.raises(ValueError, match="dropout=1"):
        CGAN(dropout=1)
    run_main("fit", "--config", config)
    line = refused(
        capsys, lambda: run_main("validate", "--config", config, "--ckpt_path", "last", "--model.width", 16)
    )
    assert "of another network (width=8; yours: width=16)" in line
    line = refused(capsys, lambda: run_main("predict", "--config", config, "--ckpt_path", "last"))
    assert "predict writes embeddings, UNetRestorer has none" in line


@pytest.mark.parametrize("limit", ["max", "min"])
def test_cgan_takes_no_limit_that_counts_both_optimisers(limit: str) -> None:
    model, data = CGAN(width=4, depth=2, input_size=SIZE), attacked(SIZE)
    off: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        f"{limit}_steps": 3,
    }
    model._trainer = L.Trainer(**off)
    model._trainer.state.fn = TrainerFn.FITTING
    model._trainer.datamodule = data  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError, match=rf"trainer\.{limit}_steps=3: .* give trainer\.{limit}_epochs instead"
    ):
        model.prepare_data()
    model._trainer.state.fn = TrainerFn.VALIDATING
    model.prepare_data()


def test_faces_too_small_for_cgan_are_refused() -> None:
    model = CGAN(width=4, depth=2)
    with pytest.raises(ValueError, match=r"CGAN: faces of 23 px are too small .*: give 24 px or more"):
        model.check_fit(attacked(23))
    model.check_fit(attacked(24))
    seen, picture = torch.zeros(1, 4, 24, 24), torch.zeros(1, 3, 24, 24)
    assert model.discriminator(seen, picture).shape == (1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="Kernel size"):
        model.discriminator.eval()(seen[..., :23, :23], picture[..., :23, :23])


def attacked(size: int) -> FaceDataModule:
    return FaceDataModule(DrawnFaces(2, 4, size), Mosaic(4), keep_clean=True)


@pytest.mark.parametrize(("channels", "side", "size"), [(3, 30, 30), (63, 32, 32), (5, 4, 32), (3, 8, 32)])
def test_any_side_and_any_channels(channels: int, side: int, size: int) -> None:
    x = torch.rand(2, channels, side, side)
    for network in (RestorationUNet(channels, 8, 4), Pix2PixGenerator(channels, 8, 4)):
        assert network(x, None, None, (size, size)).shape == (2, 3, size, size)
        masks = (torch.rand(2, 1, size, size) > 0.5).float()
        seen = network.condition(x, masks, torch.tensor([1, 0]), (size, size))
        assert torch.equal(seen[:, -1:], masks[[1, 0]])


def test_a_picture_is_where_the_plain_unet_begins() -> None:
    network = RestorationUNet(3, 8, 2)
    x = torch.rand(2, 3, 30, 30)
    assert torch.equal(network(x, None, None, (30, 30)), x)


def test_the_patch_that_pix2pix_judges_is_70_pixels() -> None:
    judge = PatchDiscriminator(7).eval()
    seen, picture = torch.zeros(1, 4, 128, 128), torch.zeros(1, 3, 128, 128, requires_grad=True)
    logits = judge(seen, picture)
    logits[0, 0, 7, 7].backward()
    assert picture.grad is not None
    touched = picture.grad.abs().sum((0, 1)) > 0
    assert (int(touched.any(0).sum()), int(touched.any(1).sum())) == (70, 70)
    assert UNetRestorer().hparams["learning_rate"] == 1e-3
    assert CGAN().hparams["learning_rate"] == 2e-4
