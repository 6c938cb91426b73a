"""What `predict` leaves behind: both of its files or neither, and never fewer embeddings than there were unasked."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import Embeddings, embeddings
from datamodules import DrawnFaces
from tests.runs.test_atomic import killed


def trainer_of(folder: Path, people: int, first: int = 0) -> Any:
    reader = DrawnFaces(people, 2, 16, first_identity=first)
    return SimpleNamespace(
        datamodule=SimpleNamespace(reader=reader), default_root_dir=str(folder), fast_dev_run=False, world_size=1,
        global_rank=0, limit_predict_batches=1.0, num_predict_batches=[1], predict_dataloaders=None,
    )  # fmt: skip


def write(trainer: Any, overwrite: bool = True) -> None:
    callback, reader = Embeddings(overwrite=overwrite), trainer.datamodule.reader
    callback.setup(trainer, L.LightningModule(), "predict")
    part = {
        "embedding": torch.zeros(len(reader), 4),
        "identity": reader.labels.clone(),
        "index": torch.arange(len(reader)),
    }
    callback.write_on_epoch_end(trainer, L.LightningModule(), [part], None)


def found(folder: Path) -> tuple[int, int]:
    """How many embeddings there are, and how many names."""
    rows = csv.DictReader((folder / "embeddings.csv").read_text().splitlines())
    return len(load_file(folder / "embeddings.safetensors")["index"]), len([*rows])


def test_no_names_of_another_set_stand_beside_embeddings_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step of writing; the next `predict` ends what was decided."""
    monkeypatch.setattr(embeddings, "_set", lambda trainer, reader: str(len(reader)))  # which is slow to hash
    sizes, calls = set(), 0
    while True:
        calls += 1
        folder = tmp_path / str(calls)
        write(trainer_of(folder, 3))
        came = killed(lambda folder=folder: write(trainer_of(folder, 2, 5)), calls, True, True)  # type: ignore[misc]
        if (folder / "embeddings.safetensors").exists() and (folder / "embeddings.csv").exists():
            assert found(folder) in ((6, 6), (4, 4))
        Embeddings(overwrite=True).setup(trainer_of(folder, 2), L.LightningModule(), "predict")
        sizes.add(found(folder))
        assert sorted(path.name for path in folder.iterdir()) == ["embeddings.csv", "embeddings.safetensors"]
        assert not any(path.stat().st_mode & 0o077 for path in folder.iterdir())
        if not came:
            break
    assert sizes == {(6, 6), (4, 4)}


class Embeds(L.LightningModule):
    """Gives every image its number as its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.none, self.seen = nn.Identity(), 0

    def predict_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        self.seen += 1
        return {"embedding": batch[:, None].float(), "index": batch}


def test_fewer_embeddings_take_the_place_of_more_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    module, loader = Embeds(), DataLoader(torch.arange(48), batch_size=5)  # type: ignore[arg-type, var-annotated]

    def predict(limit: float, overwrite: bool = False) -> None:
        callback = Embeddings(str(path), overwrite)
        callback.setup = lambda *args, **more: None  # type: ignore[method-assign]  # a set of no reader
        L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback],
            limit_predict_batches=limit, enable_model_summary=False,
        ).predict(module, loader, return_predictions=False)  # fmt: skip

    predict(3)
    assert len(load_file(path)["index"]) == 15
    predict(4)
    predict(4)
    seen = module.seen
    words = (
        r"some.safetensors holds 20 embeddings of this set, and 5 would take their place "
        r"\(--trainer.limit_predict_batches 1\): embed all, give another --output NAME.safetensors, or --overwrite"
    )
    with pytest.raises(FileExistsError, match=words):
        predict(1)
    assert module.seen == seen, "refused before anything is embedded"
    predict(1, overwrite=True)
    assert len(load_file(path)["index"]) == 5
    predict(1.0)
    assert len(load_file(path)["index"]) == 48


def test_fewer_embeddings_of_a_loader_that_does_not_tell_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "_set", lambda trainer, reader: "the same")
    write(trainer_of(tmp_path, 3))
    with pytest.raises(FileExistsError, match="holds 6 embeddings of this set, and 4 would take their place"):
        write(trainer_of(tmp_path, 2), overwrite=False)
    assert found(tmp_path) == (6, 6)
