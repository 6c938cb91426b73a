"""A linker trained by `fit` on drawn faces: what it learns, what it refuses, and what its judge sees."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules import DrawnFaces
from lightning_app.attacks import LinkAttack
from lightning_app.desensitize import BlockDCT
from lightning_app.evaluation import Judge, LinkJudge, RecogniserJudge
from lightning_app.models import Linker, ResNet
from tests.command_line import RunMain, refused
from tests.models.attacked_data import attacked_data

SIZE = 32
BLUR = {"class_path": "lightning_app.desensitize.GaussianBlur", "init_args": {"kernel": 9}}
DCT = {"class_path": "lightning_app.desensitize.BlockDCT", "init_args": {"upsample": 1, "dc": True}}


class Corners(Judge):
    """Embeds a face by the means of its parts: a teacher without a checkpoint."""

    def embed(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1) - 0.5


ASKED: list[int] = []


class Counted(Corners):
    """Notes how many images it is asked about."""

    def embed(self, images: Tensor) -> Tensor:
        ASKED.append(len(images))
        return super().embed(images)


class Stranger(Judge):
    """Another one."""

    def embed(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def write(
    path: Path, teacher: object, desensitizer: object = None, epochs: int = 2, **arguments: object
) -> Path:
    config: dict[str, Any] = {
        "trainer": {"accelerator": "cpu", "max_epochs": epochs, "log_every_n_steps": 1},
        "model": {
            "class_path": "lightning_app.models.Linker",
            "init_args": {"teacher": teacher, "width": 8, "learning_rate": 1e-2} | arguments,
        },
        "data": attacked_data(desensitizer, SIZE),
    }
    path.write_text(yaml.safe_dump(config))
    return path


def teacher(path: Path) -> Path:
    """A recogniser that nobody trained, as a checkpoint."""
    torch.manual_seed(0)
    made = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=SIZE)
    torch.save({"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams)}, path)
    return path


def last(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return found


def test_it_learns_the_teachers_embedding_and_goes_on(tmp_path: Path, run_main: RunMain) -> None:
    file = teacher(tmp_path / "clean.ckpt")
    whole = write(tmp_path / "whole.yaml", str(file), BLUR)
    run_main("fit", "--config", whole)
    run_main("fit", "--config", whole, "--name", "part", "--trainer.max_epochs", 1)
    # the schedule is that of the whole run, so a shorter one differs; what is resumed goes on counting
    run_main("fit", "--config", whole, "--name", "part", "--ckpt_path", "last")
    one, two = (last(tmp_path / "runs" / name) for name in ("whole", "part"))
    assert one["linker"]["batches"] == two["linker"]["batches"] == 6
    judge = RecogniserJudge(file)
    assert one["linker"]["teacher"] == judge.facts.sha256
    assert one["linker"]["dim"] == 64
    assert not any(str(tmp_path) in str(value) for value in one["hyper_parameters"].values())
    assert all(key.startswith("network.") for key in one["state_dict"])  # nothing of the teacher
    rows = csv.DictReader((tmp_path / "runs/whole/metrics.csv").read_text().splitlines())
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    metrics = json.loads((tmp_path / "runs/whole/metrics.json").read_text())
    assert 0 < metrics["link/similarity"] <= 1
    attack = LinkAttack(tmp_path / "runs/whole")
    link = LinkJudge(attack, judge)
    images = torch.rand(3, 3, SIZE, SIZE)
    network = Linker.load_from_checkpoint(
        tmp_path / "runs/whole/checkpoints/last.ckpt", map_location="cpu"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(link(images), network(images))
    assert torch.equal(link.clean_side()(images), judge(images))
    assert attack.describe()["trained_on"] == {"method": "GaussianBlur", "kernel": 9} | {
        key: value for key, value in attack.trained_on.items() if key not in ("method", "kernel")
    }


def test_a_teacher_is_asked_once_for_each_image(tmp_path: Path, run_main: RunMain) -> None:
    """Three epochs learn the same whether the teacher's answers are kept or not, and no checkpoint has them."""
    asked = {}
    for name, remember in (("plain", False), ("kept", True)):
        ASKED.clear()
        teacher = {"class_path": f"{__name__}.Counted"}
        run_main("fit", "--config", write(tmp_path / f"{name}.yaml", teacher, BLUR, 3, remember=remember))
        asked[name] = sum(ASKED)
    one, other = (last(tmp_path / "runs" / name) for name in asked)
    assert one["hyper_parameters"] == other["hyper_parameters"]
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(value, other["state_dict"][key], rtol=1e-4, atol=1e-6)
    images, width = 64, 1  # one question tells how wide its embeddings are
    assert asked["plain"] >= 3 * images + width
    assert asked["kept"] <= 2 * images + width  # each, and its mirror image


def test_the_loss_is_one_minus_cosine(tmp_path: Path, run_main: RunMain) -> None:
    model = Linker(Corners(), width=8, input_size=SIZE)
    assert not [*model.parameters()], "the teacher is no part of it"
    model.pixels, model._teach = SIZE, [Corners()]
    model._make(12)
    model._trainer = SimpleNamespace(datamodule=SimpleNamespace(mean=0.5, std=0.25))  # type: ignore[assignment]
    released, clean = torch.rand(2, 4, 3, SIZE, SIZE)
    batch: Any = {"image": (released - 0.5) / 0.25, "clean": clean}
    with torch.no_grad():
        model.eval()
        student, taught = model(released), Corners()(clean)
        expected = (student * taught).sum(1) / (student.norm(dim=1) * taught.norm(dim=1))
        torch.testing.assert_close(model.similarities(batch), expected)
        model.log = lambda *a, **k: None  # type: ignore[method-assign]
        model._trainer.optimizers = [torch.optim.SGD(model.parameters(), 1.0)]  # type: ignore[union-attr]
        torch.testing.assert_close(model.training_step(batch, 0), 1 - expected.mean())


def test_another_teacher_is_refused_by_the_judge(tmp_path: Path, run_main: RunMain) -> None:
    run_main("fit", "--config", write(tmp_path / "a.yaml", {"class_path": f"{__name__}.Corners"}, epochs=1))
    attack = LinkAttack(tmp_path / "runs/a")
    LinkJudge(attack, Corners())
    with pytest.raises(ValueError, match="give the judge it learnt from"):
        LinkJudge(attack, Stranger())


def test_a_recogniser_as_the_judge_that_is_learnt_from(tmp_path: Path, run_main: RunMain) -> None:
    checkpoint = str(teacher(tmp_path / "clean.ckpt"))
    judge = {
        "class_path": "lightning_app.evaluation.RecogniserJudge",
        "init_args": {"checkpoint": checkpoint},
    }
    run_main("fit", "--config", write(tmp_path / "a.yaml", judge, epochs=1))
    LinkJudge(LinkAttack(tmp_path / "runs/a"), RecogniserJudge(checkpoint))
    with pytest.raises(ValueError, match="give the judge it learnt from"):
        LinkJudge(LinkAttack(tmp_path / "runs/a"), RecogniserJudge(checkpoint, precision="bf16-mixed"))


def test_a_representation_is_linked(tmp_path: Path, run_main: RunMain) -> None:
    run_main(
        "fit", "--config", write(tmp_path / "a.yaml", {"class_path": f"{__name__}.Corners"}, DCT, epochs=1)
    )
    clean = DrawnFaces(3, 2, SIZE, first_identity=500).__getitems__(range(6))["image"].float() / 255
    method = BlockDCT(upsample=1, dc=True)
    method.prepare((SIZE, SIZE))
    attack = LinkAttack(tmp_path / "runs/a")
    assert attack.embed(method({"image": clean, "index": torch.arange(6)})).shape == (6, 12)
    with pytest.raises(ValueError, match=r"was trained on .* channels of 4 px, these images have 3 of 32 px"):
        attack.embed({"image": clean})


def test_what_does_not_suit_is_refused(
    tmp_path: Path, run_main: RunMain, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.yaml", str(teacher(tmp_path / "clean.ckpt")), BLUR, epochs=1)
    for arguments, message in (
        (["--data.keep_clean", "false"], "Linker learns from clean faces: set data.keep_clean to true"),
        (["--model.teacher", "null"], "model.teacher: None; give the recogniser"),
        (["--model.teacher", str(fitted / "runs/tiny")], "was trained on desensitized faces"),
        (["--data.reader.size", "48"], "takes 3 channels of 32 px, the clean faces have 3 of 48 px"),
        (["--ckpt_path", fitted / "runs/tiny/checkpoints/last.ckpt"], "is not of a Linker but of ResNetFSM"),
    ):
        assert message in refused(capsys, lambda given=arguments: run_main("fit", "--config", config, *given))  # type: ignore[misc]
    run_main("fit", "--config", config)
    torch.manual_seed(1)
    other = ResNet(backbone="resnet18", width=8, num_classes=2, input_size=SIZE)
    torch.save(
        {"state_dict": other.state_dict(), "hyper_parameters": dict(other.hparams)}, tmp_path / "o.ckpt"
    )
    given = ["--ckpt_path", "last", "--trainer.max_epochs", 2, "--model.teacher", tmp_path / "o.ckpt"]
    assert "this run learnt from" in refused(capsys, lambda: run_main("fit", "--config", config, *given))
    with pytest.raises(ValueError, match="is not of a Linker but of ResNetFSM"):
        LinkAttack(fitted / "runs/tiny")
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*gone\.ckpt: no such file"):
        LinkAttack(tmp_path / "gone.ckpt")
    assert isinstance(Linker().network, nn.Module | None)
