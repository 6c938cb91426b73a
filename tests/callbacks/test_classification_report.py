"""`fit`, `validate` and `test` of a task, and what the report says of its classes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from callbacks import ClassificationReport
from lightning_app.core.log_keys import read
from lightning_app.metrics.classification import wilson
from tests.command_line import refused
from tests.datamodules.task_files import drawn_classes

CLASSES = ("calm", "glad", "sad")


def config_of(root: Path, **data: object) -> dict[str, Any]:
    """A `fit` of six epochs on class folders of 24 px."""

    def reader(split: str) -> dict[str, object]:
        init = {"root": str(root), "split": split, "size": 24, "cache_index": False}
        return {"class_path": "datamodules.ClassFolders", "init_args": init}

    init_args = {"reader": reader("train"), "validation": reader("validation"), "test": reader("test")}
    return {
        "trainer": {
            "accelerator": "cpu", "max_epochs": 6, "log_every_n_steps": 1,
            "callbacks": [{"class_path": "callbacks.ClassificationReport"}],
        },
        "model": {
            "class_path": "lightning_app.models.ResNet", "init_args": {"backbone": "resnet18", "width": 8, "lr": 0.05},
        },
        "data": {
            "class_path": "datamodules.FaceDataModule", "init_args": {"global_batch_size": 12, **init_args, **data},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a task was fitted, validated and tested: `faces`, `runs/task`, `task.yaml`."""
    from main import main

    home = tmp_path_factory.mktemp("task")
    root = drawn_classes(home / "faces", {"train": 12, "val": 5, "test": 4}, CLASSES)
    shutil.rmtree(root / "val" / "calm")  # so that its own numbers of classes are others
    (home / "task.yaml").write_text(yaml.safe_dump(config_of(root)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        main(["fit", "--config", "task.yaml"])
        main(["test", "--config", "task.yaml", "--ckpt_path", "last"])
    return home


def metrics(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs/task/metrics.json").read_text())
    return found


def test_fit_and_test_leave_figures_of_each_class(task: Path) -> None:
    found = metrics(task)
    for stage, images in (
        ("val", {"calm": 0, "glad": 5, "sad": 5}),
        ("test", {"calm": 4, "glad": 4, "sad": 4}),
    ):
        assert {name: found[f"{stage}/images_{name}"] for name in CLASSES} == images
        with (task / f"runs/task/confusion_{stage}.csv").open(newline="") as file:
            head, *rows = csv.reader(file)
        assert head == ["true", *CLASSES]
        counts = torch.tensor([[int(cell) for cell in row[1:]] for row in rows])
        assert dict(zip(CLASSES, counts.sum(1).tolist(), strict=True)) == images
        right, total = int(counts.diagonal().sum()), int(counts.sum())
        assert found[f"{stage}/accuracy"] == pytest.approx(right / total, rel=1e-6)
        ends = (found[f"{stage}/accuracy_low"], found[f"{stage}/accuracy_high"])
        assert ends == pytest.approx(wilson(right, total), rel=1e-6)
        with Image.open(task / f"runs/task/confusion_{stage}.png") as picture:
            assert picture.width > 100
    assert "val/recall_calm" not in found  # it has no images to validate on
    assert "test/recall_calm" in found
    assert found["test/accuracy"] > 0.5, (
        "a tint is learnt in no time: the classes' numbers do not go together"
    )
    rows_of_table = {one.key for one in read(found)}
    assert not {key for key in rows_of_table if key.endswith(("_low", "_high"))}


def test_the_checkpoint_knows_its_classes(task: Path) -> None:
    from lightning_app.models.checkpoints import read_recogniser

    _, facts = read_recogniser(task / "runs/task")
    assert facts.data["classes"] == [*CLASSES]
    assert facts.data["num_classes"] == 3


def test_validate_and_test_need_no_training_set(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classes' numbers are the checkpoint's."""
    from main import main

    before = metrics(task)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(task / "runs", tmp_path / "runs")
    shutil.copytree(task / "faces" / "val", tmp_path / "faces" / "valid")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config_of(tmp_path / "faces")))
    main(["validate", "--config", "task.yaml", "--ckpt_path", "last"])
    after = metrics(tmp_path)
    assert {key: after[key] for key in after if key.startswith("val/")} == {
        key: before[key] for key in before if key.startswith("val/")
    }


def test_a_run_does_not_go_on_with_other_classes(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from main import main

    monkeypatch.chdir(tmp_path)
    shutil.copytree(task / "runs", tmp_path / "runs")
    root = drawn_classes(tmp_path / "faces", {"train": 4, "val": 2, "test": 2}, ("calm", "glad", "mad"))
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config_of(root)))
    line = refused(
        capsys,
        lambda: main(["fit", "--config", "task.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "7"]),
    )
    assert "classes are calm, glad, sad; here they are calm, glad, mad" in line


def make_trainer(**more: object) -> L.Trainer:
    """What the report asks a trainer for."""
    fields = {
        "sanity_checking": False, "is_global_zero": True, "loggers": [], "fast_dev_run": False, "datamodule": None,
        "state": SimpleNamespace(fn="validate"),
    }  # fmt: skip
    return cast(L.Trainer, SimpleNamespace(**{**fields, **more}))


class Classifier(L.LightningModule):
    """Three classes, and what it logs."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(1, classes)
        self.head.num_classes = classes  # type: ignore[assignment]
        self.logged: dict[str, float] = {}

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        self.logged |= dict(dictionary)


def report(classes: int, data: object, tmp_path: Path) -> tuple[ClassificationReport, Classifier]:
    """Two batches through the callback; a third one is mixed, and has no outputs."""
    callback, model = ClassificationReport(), Classifier(classes)
    trainer = make_trainer(datamodule=data, default_root_dir=str(tmp_path))
    callback.on_validation_epoch_start(trainer, model)
    for start in (0, 3):
        target = torch.arange(start, start + 3) % classes
        outputs: Any = {"logits": torch.eye(classes)[target], "target": target}
        callback.on_validation_batch_end(trainer, model, outputs, {}, 0)
    callback.on_validation_batch_end(trainer, model, None, {}, 2)
    callback.on_validation_epoch_end(trainer, model)
    return callback, model


def test_nothing_is_said_of_single_people(tmp_path: Path) -> None:
    callback, model = report(3, SimpleNamespace(class_names=None), tmp_path)
    assert sorted(model.logged) == ["val/accuracy_high", "val/accuracy_low", "val/balanced_accuracy"]
    assert not list(tmp_path.iterdir())
    assert callback.matrix is not None
    assert callback.matrix.diagonal().tolist() == [2, 2, 2]


def test_names_become_keys_and_stay_apart(tmp_path: Path) -> None:
    _, model = report(2, SimpleNamespace(class_names=["very sad/low", "glad"]), tmp_path)
    assert "val/recall_very_sad_low" in model.logged
    _, model = report(2, SimpleNamespace(class_names=["a b", "a/b"]), tmp_path)
    assert {"val/recall_0", "val/recall_1"} <= {*model.logged}
    # the second one's recall would have the key of the lower end of the first one's
    _, model = report(2, SimpleNamespace(class_names=["sad", "sad_low"]), tmp_path)
    assert {"val/recall_0", "val/recall_1"} <= {*model.logged}


def test_nothing_evaluated_is_nothing_logged(tmp_path: Path) -> None:
    callback, model = ClassificationReport(), Classifier()
    trainer = make_trainer(default_root_dir=str(tmp_path))
    callback.on_validation_epoch_start(trainer, model)
    callback.on_validation_epoch_end(trainer, model)
    callback.teardown(trainer, model, "validate")
    assert not model.logged
    headless = Classifier(1)
    callback.on_test_epoch_start(trainer, headless)
    callback.on_test_epoch_end(trainer, headless)
    assert not headless.logged
