"""`init_from` and `teacher`: what a recogniser takes from another one's checkpoint, and what it does not keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from lightning_app.core.files import file_sha256
from lightning_app.export.source import TrainedRun, training_data
from lightning_app.models import ResNet, ResNetFSM, ResNetMask, ResNetPartial
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.models.other_checkpoints import ORIGINS, Teacher, start_from
from tests.command_line import RunMain, clean_config, refused, write_config
from tests.models.test_checkpoints import write
from tests.models.test_recogniser import logged

SMALL: dict[str, Any] = {"backbone": "resnet18", "width": 8, "num_classes": 4, "input_size": 32}
CLEAN = {"desensitizer": {"method": "Identity"}, "mean": 0.5, "std": 0.5}
DATA = SimpleNamespace(mean=0.5, std=0.5, keep_clean=True, released=False, size=32)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write(tmp_path_factory.mktemp("clean") / "clean.ckpt", ResNet(**SMALL), FaceDataModule=CLEAN)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNetMask(**(SMALL | {"num_classes": 9})),
        lambda: ResNetPartial(**SMALL),
        lambda: ResNetFSM(["layer1", "layer2"], **SMALL),
    ],
)
def test_a_backbone_starts_from_anothers_weights(clean: Path, make: Callable[[], Recogniser]) -> None:
    model, source = make(), read_recogniser(clean)[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert start_from(clean, model.backbone, DATA) == file_sha256(clean)
    for name, value in model.state_dict().items():
        kept = name.startswith(("head.", "backbone.gates."))  # new, or not in the other
        assert torch.equal(value, before[name] if kept else source.state_dict()[name]), name


def test_gates_are_taken_where_the_other_has_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    gated = ResNetFSM(["layer2"], **SMALL)
    path = write(tmp_path / "gated.ckpt", gated)
    again = ResNetFSM(["layer2"], **SMALL)
    start_from(path, again.backbone, DATA)
    assert all(torch.equal(a, b) for a, b in zip(gated.backbone.state_dict().values(),
                                                  again.backbone.state_dict().values(), strict=True))  # fmt: skip
    with pytest.raises(
        ValueError, match=r"a ResNetFSM of another network, .* the first is backbone\.gates\.layer2"
    ):
        start_from(path, ResNet(**SMALL).backbone, DATA)


def test_another_network_is_refused_by_its_first_weight(clean: Path) -> None:
    wider = ResNet(**(SMALL | {"width": 16}))
    before = {name: value.clone() for name, value in wider.backbone.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"first is backbone\.layer1\.0\.bn1\.bias \(8 there, 16 here\)"
    ) as error:
        start_from(clean, wider.backbone, DATA)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in wider.backbone.state_dict().items())
    with pytest.raises(ValueError, match=r"backbone\.conv1\.weight \(64×3×7×7 there, 64×1×7×7 here\)"):
        start_from(clean, ResNet(**(SMALL | {"in_channels": 1})).backbone, DATA)
    with pytest.raises(ValueError, match=r"normalised with mean 0\.5 and std 0\.5"):
        start_from(clean, ResNet(**SMALL).backbone, SimpleNamespace(mean=0.4, std=0.5))
    with pytest.raises(FileNotFoundError, match="no such file"):
        start_from(clean.parent / "none.ckpt", wider.backbone, DATA)


def test_the_loss_is_one_minus_the_cosine_to_the_teachers_embedding_of_the_clean_face(clean: Path) -> None:
    faces = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    source = read_recogniser(clean)[0]
    with torch.no_grad():
        expected = source.embed((faces - 0.5) / 0.5)
    # what the learner's images are normalised with does not matter: a representation's is 0 and 1
    teacher = Teacher(clean, 64, SimpleNamespace(**(vars(DATA) | {"mean": 0.0, "std": 1.0})))
    learner = torch.randn(5, 64, requires_grad=True)
    loss = teacher.loss(learner, faces)
    ours, theirs = F.normalize(learner.detach()), F.normalize(expected)
    far = [1 - float(a @ b) for a, b in zip(ours, theirs, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(far) / 5, rel=1e-5)
    loss.backward()
    assert learner.grad is not None
    assert float(teacher.loss(3 * expected, faces)) == pytest.approx(0, abs=1e-6)


def test_which_teachers_and_data_are_refused(clean: Path, tmp_path: Path) -> None:
    def said(words: str, path: Path = clean, dim: int = 64, **data: Any) -> None:
        with pytest.raises(ValueError, match=words) as error:
            Teacher(path, dim, SimpleNamespace(**(vars(DATA) | data)))
        assert "\n" not in str(error.value)

    said("set data.keep_clean to true", keep_clean=False)
    said("a released set has none", keep_clean=False, released=True)
    said("takes 3 channels of 32 px, the clean faces have 3 of 48 px", size=48)
    said("embeds in 64 dimensions, this backbone in 512: give a teacher as wide", dim=512)
    said("mixes images, and a mixed one has no clean face to be like", desensitizer=SimpleNamespace(mixes=3))
    said("was trained on desensitized faces", write(tmp_path / "masked.ckpt", ResNetMask(**SMALL)))
    with pytest.raises(ValueError, match=r"its hash is \w{12}, this run learnt from a{12}"):
        Teacher(clean, 64, DATA).check_same("a" * 64)
    with pytest.raises(ValueError, match="distillation=-1: give 0 or more"):
        ResNet(distillation=-1, **SMALL)


def test_hashes_in_somebody_elses_checkpoint_are_hashes_or_nothing(tmp_path: Path) -> None:
    told = {"init_from": "0" * 64, "teacher": "/home/me/secret.ckpt", "more": "1" * 64}
    facts = read_recogniser(write(tmp_path / "a.ckpt", ResNet(**SMALL), **{ORIGINS: told}))[1]
    assert facts.origins == {"init_from": "0" * 64}


def test_a_card_tells_of_them(tmp_path: Path) -> None:
    facts = read_recogniser(
        write(tmp_path / "a.ckpt", ResNet(**SMALL), FaceDataModule=CLEAN, **{ORIGINS: {"teacher": "0" * 64}})
    )[1]
    assert training_data(facts, TrainedRun(None))["origins"] == {"teacher": "0" * 64}


@pytest.fixture(scope="module")
def learnt(fitted_clean: Path, drawn_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one epoch of a masked run has started from the clean run, and learnt from it too."""
    from main import main

    home = tmp_path_factory.mktemp("learnt")
    config = write_config(home / "pupil.yaml", drawn_root, "ResNetPartial")
    content = yaml.safe_load(config.read_text())
    content["trainer"] |= {"callbacks": [], "max_epochs": 1}
    other = home / "other.ckpt"
    other.write_bytes((fitted_clean / "runs/clean/checkpoints/last.ckpt").read_bytes())
    content["model"]["init_args"] |= {"init_from": str(other), "teacher": str(other), "distillation": 0.5}
    content["data"]["init_args"]["keep_clean"] = True
    config.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        main(["fit", "--config", str(config), "--runs", str(home / "runs")])
    return home


def test_a_run_keeps_the_hash_of_what_it_took_and_nothing_else_of_it(learnt: Path) -> None:
    file = learnt / "runs/pupil/checkpoints/last.ckpt"
    saved = torch.load(file, weights_only=True)
    digest = file_sha256(learnt / "other.ckpt")
    assert saved[ORIGINS] == {"init_from": digest, "teacher": digest}
    assert read_recogniser(file)[1].origins == saved[ORIGINS]
    plain = ResNetPartial(**(SMALL | {"num_classes": 6}))
    assert set(saved["state_dict"]) == set(plain.state_dict())
    assert str(learnt) not in str(
        {k: v for k, v in saved.items() if k not in ("state_dict", "optimizer_states")}
    )
    metrics = (learnt / "runs/pupil/metrics.json").read_text()
    assert '"train/distillation"' in metrics


def test_another_weight_of_the_teacher_is_refused_where_a_run_goes_on(
    learnt: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--config", learnt / "pupil.yaml", "--runs", learnt / "runs", "--ckpt_path", "last")
    said = refused(
        capsys, lambda: run_main("fit", *given, "--model.distillation", "2", "--trainer.max_epochs", "2")
    )
    assert "model.distillation=2.0, this run learnt with 0.5: give that" in said


def test_afterwards_the_files_are_not_needed(
    learnt: Path, run_main: RunMain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To go on without a teacher is the user's choice: then `teacher` and `distillation` are left out."""
    (learnt / "other.ckpt").rename(learnt / "gone.ckpt")
    try:
        given = ("--config", learnt / "pupil.yaml", "--runs", learnt / "runs", "--ckpt_path", "last")
        run_main("validate", *given)
        assert read_recogniser(learnt / "runs/pupil")[1].step == 2
        alone = ("--model.teacher", "null", "--model.distillation", "0", "--trainer.max_epochs", "2")
        run_main("fit", *given, *alone)
        assert "learnt from a teacher; it goes on without one" in caplog.text
        facts = read_recogniser(learnt / "runs/pupil")[1]
        assert facts.step == 4
        assert set(facts.origins) == {"init_from", "teacher"}  # still true of its weights
    finally:
        (learnt / "gone.ckpt").rename(learnt / "other.ckpt")


def test_what_fit_refuses(fitted_clean: Path, drawn_root: Path, run_main: RunMain, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    config, run = clean_config(tmp_path / "c.yaml", drawn_root), fitted_clean / "runs/clean"

    def line(*args: object) -> str:
        found = refused(capsys, lambda: run_main("fit", "--config", config, *args))
        assert not (tmp_path / "runs/c/config.yaml").exists()
        return found

    assert "give both, a checkpoint and a weight above 0, or neither" in line("--model.teacher", run)
    assert "give both" in line("--model.distillation", "1")
    assert "set data.keep_clean to true" in line("--model.teacher", run, "--model.distillation", "1")
    assert "backbone.layer1.0.bn1.bias (8 there, 16 here)" in line(
        "--model.init_from", run, "--model.width", "16"
    )
    assert "no such file" in line("--model.init_from", tmp_path / "none.ckpt")


def test_mixed_images_have_no_clean_face(clean: Path) -> None:
    model = ResNet(**SMALL)
    model._teachers = [Teacher(clean, 64, DATA)]
    batch: Any = {
        "image": torch.randn(2, 3, 32, 32), "mask": None, "mask_index": torch.zeros(2, dtype=torch.int64),
        "target": torch.tensor([[0, 1], [2, 3]]), "weight": torch.full((2, 2), 0.5), "clean": torch.rand(2, 3, 32, 32),
    }  # fmt: skip
    with pytest.raises(ValueError, match="mixes images, and a mixed one has no clean face to be like"):
        logged(model, [batch])
