"""LFWVerification against a written-out embedding of every pair; on several ranks: tests/distributed/test_ddp.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from callbacks import LFWVerification
from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Desensitizer, FrequencyMask, Identity, MaskOut
from lightning_app.metrics import verification
from lightning_app.metrics.paired import decided_rightly
from lightning_app.models import ResNet, ResNetFSM, ResNetPartial
from lightning_app.models.base import Recogniser
from tests.callbacks.tiny_run import NoPicture

SIZE = 32


class CountingPairs(DrawnPairs):
    """Counts how often each image is read."""

    def __init__(self) -> None:
        super().__init__(identities=8, images_per_identity=5, size=SIZE, folds=4, pairs_per_fold=8)
        self.reads: list[int] = []

    def read(self, index: int):  # type: ignore[no-untyped-def]  # as the base has it
        self.reads.append(index)
        return super().read(index)


def trained_a_little() -> ResNetFSM:
    torch.manual_seed(0)
    return ResNetFSM(["layer2"], backbone="resnet18", width=8, num_classes=4, input_size=SIZE)


def partial_a_little() -> ResNetPartial:
    torch.manual_seed(0)
    return ResNetPartial("layer2", backbone="resnet18", width=8, num_classes=4, input_size=SIZE)


def run(
    callback: LFWVerification, desensitizer: Desensitizer, model: L.LightningModule, tmp_path: Path
) -> dict[str, float]:
    data = FaceDataModule(
        DrawnFaces(identities=4, images_per_identity=4, size=SIZE), desensitizer, global_batch_size=7
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[callback], enable_progress_bar=False,
        enable_checkpointing=False, default_root_dir=tmp_path, enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(model, datamodule=data, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


@torch.no_grad()
def written_out(
    reader: DrawnPairs, desensitizer: Desensitizer, model: Recogniser, situation: int, flip: bool
) -> float:
    """Embed both images of every pair, one image at a time, and count."""
    data = FaceDataModule(DrawnFaces(identities=4, size=SIZE), desensitizer)
    model.eval()

    @cache  # an image stands in several pairs
    def embed(index: int, desensitized: bool) -> Tensor:
        image = torch.from_numpy(DrawnPairs.read(reader, index).copy())[None]
        ready = data.prepare(image, torch.tensor([index]), desensitize=desensitized)
        embedding = model.embed(ready["image"], ready["mask"], ready["mask_index"])
        if flip:
            mask = None if ready["mask"] is None else ready["mask"].flip(-1)
            embedding = embedding + model.embed(ready["image"].flip(-1), mask, ready["mask_index"])
        return F.normalize(embedding)[0]

    first, second = situation == 1, situation != 3
    scores = [
        float(embed(a, first) @ embed(b, second))
        for a, b in zip(reader.pairs.a.tolist(), reader.pairs.b.tolist(), strict=True)
    ]
    return verification(scores, reader.pairs.same.tolist(), reader.pairs.folds.tolist(), bootstrap=0).accuracy


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.slow
def test_three_situations_equal_the_written_out_way_and_read_every_image_once(
    flip: bool, count: int, tmp_path: Path
) -> None:
    reader, model = CountingPairs(), trained_a_little()
    desensitizer = MaskOut(freeform=(0.5, 0.7), count=count, draw="image", size=SIZE)
    found = run(LFWVerification(reader=reader, flip=flip, bootstrap=20), desensitizer, model, tmp_path)
    assert sorted(reader.reads) == list(range(40))
    for situation in (1, 2, 3):
        expected = written_out(reader, desensitizer, model, situation, flip)
        assert found[f"lfw/accuracy_s{situation}"] == pytest.approx(expected, abs=1e-6)
    assert found["lfw/accuracy"] == found["lfw/accuracy_s1"]
    assert found["lfw/accuracy_low"] <= found["lfw/accuracy"] <= found["lfw/accuracy_high"]
    assert len({found[f"lfw/auc_s{s}"] for s in (1, 2, 3)}) == 3


@torch.no_grad()
@pytest.mark.parametrize("make", [trained_a_little, partial_a_little])
def test_the_mirrored_image_meets_its_mirrored_mask(make: Callable[[], Recogniser], tmp_path: Path) -> None:
    reader, model = CountingPairs(), make()
    desensitizer = MaskOut(freeform=(0.5, 0.7), count=5, draw="image", size=SIZE)
    asked: list[tuple[Tensor, Tensor]] = []
    of_the_model = model.embed

    def embed(image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        assert mask is not None
        assert mask_index is not None
        asked.append((image, mask.index_select(0, mask_index)))
        return of_the_model(image, mask, mask_index)

    model.embed = embed  # type: ignore[method-assign]
    found = run(
        LFWVerification(reader=reader, situations=[1], flip=True, bootstrap=0), desensitizer, model, tmp_path
    )
    model.embed = of_the_model  # type: ignore[method-assign]
    for (image, mask), (mirrored, its) in zip(asked[::2], asked[1::2], strict=True):
        assert torch.equal(mirrored, image.flip(-1))
        assert torch.equal(its, mask.flip(-1))
        hidden = (its == 0).expand_as(mirrored)
        assert bool((mirrored[hidden] == -1).all())  # black, normalised
    expected = written_out(reader, desensitizer, model, 1, True)
    assert found["lfw/accuracy"] == pytest.approx(expected, abs=1e-6)


def test_without_a_desensitizer_there_is_one_situation(tmp_path: Path) -> None:
    reader, model = CountingPairs(), trained_a_little()
    found = run(LFWVerification(reader=reader, bootstrap=20), Identity(), model, tmp_path)
    assert found["lfw/accuracy"] == pytest.approx(written_out(reader, Identity(), model, 3, False), abs=1e-6)
    assert "lfw/accuracy_s2" not in found


def test_chosen_situations_embed_no_more_than_they_need(tmp_path: Path) -> None:
    model, calls = trained_a_little(), []
    model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    run(
        LFWVerification(reader=CountingPairs(), situations=[1], bootstrap=0),
        MaskOut(freeform=(0.5, 0.7)),
        model,
        tmp_path,
    )
    assert sum(calls) == 40
    calls.clear()
    run(
        LFWVerification(reader=CountingPairs(), situations=[3], bootstrap=0),
        MaskOut(freeform=(0.5, 0.7)),
        model,
        tmp_path,
    )
    assert sum(calls) == 40


def test_figures_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    found = [
        run(LFWVerification(reader=CountingPairs(), batch_size=size, bootstrap=20),
            MaskOut(freeform=(0.5, 0.7), count=9, size=SIZE), trained_a_little(), tmp_path)
        for size in (3, 40)
    ]  # fmt: skip
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, abs=1e-5), key


def test_pairs_that_do_not_tell_who_is_who_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = CountingPairs()
    reader.identities = []
    data = FaceDataModule(DrawnFaces(identities=4, images_per_identity=2, size=SIZE), global_batch_size=8)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[LFWVerification(reader=reader, bootstrap=0)],
        enable_progress_bar=False, enable_checkpointing=False, default_root_dir=tmp_path, max_steps=1,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "faceveil"):
        trainer.fit(ResNet(backbone="resnet18", width=8, num_classes=4, input_size=SIZE), datamodule=data)
    assert "some are in the training set too cannot be checked" in caplog.text


def test_shared_identities_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = FaceDataModule(
        DrawnFaces(identities=6, images_per_identity=4, size=SIZE, first_identity=4998), global_batch_size=8
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=[LFWVerification(reader=CountingPairs(), bootstrap=0)],
        enable_progress_bar=False, enable_checkpointing=False, default_root_dir=tmp_path, max_steps=1,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "faceveil"):
        trainer.fit(ResNet(backbone="resnet18", width=8, num_classes=6, input_size=SIZE), datamodule=data)
    assert (
        "4 of 8 identities are in the training set too (Drawn_05000, Drawn_05001, Drawn_05002, …)"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of them"),
        ({"root": Path("a"), "bin": Path("b")}, "exactly one of them"),
        ({"reader": DrawnFaces(identities=2, size=SIZE)}, "has no list of pairs"),
        ({"root": Path("a"), "every_n_epochs": 0}, "every_n_epochs=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LFWVerification(**arguments)  # type: ignore[arg-type]  # the mistakes under test


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    reader = DrawnPairs(identities=8, images_per_identity=5, size=48, folds=4, pairs_per_fold=8)
    with pytest.raises(ValueError, match="48 px, the training images 32 px"):
        run(LFWVerification(reader=reader), Identity(), trained_a_little(), tmp_path)


def test_a_desensitizer_of_its_own_is_what_it_verifies_under(tmp_path: Path) -> None:
    """Trained under one mask, tested under others: the data module's own mask does not matter."""
    reader, model = CountingPairs(), trained_a_little()
    own = MaskOut(freeform=(0.5, 0.7), count=5, draw="image", size=SIZE, seed=9)
    trained_under = MaskOut(freeform=(0.2, 0.3), size=SIZE)
    callback = LFWVerification(reader=reader, bootstrap=0, desensitizer=own, name="unseen")
    found = run(callback, trained_under, model, tmp_path)
    scores = {1: found["unseen/accuracy"], 2: found["unseen/accuracy_s2"], 3: found["unseen/accuracy_s3"]}
    for situation, accuracy in scores.items():
        assert accuracy == pytest.approx(written_out(reader, own, model, situation, False), abs=1e-6)
    assert scores[1] != written_out(reader, trained_under, model, 1, False)


def test_a_desensitizer_of_its_own_that_the_network_does_not_take_is_refused(tmp_path: Path) -> None:
    callback = LFWVerification(reader=CountingPairs(), desensitizer=NoPicture(), name="other")
    with pytest.raises(ValueError, match="other: desensitizer NoPicture gives 5 channels of 32 px"):
        run(callback, Identity(), trained_a_little(), tmp_path)


def test_another_owners_key_is_refused(tmp_path: Path) -> None:
    """Under another shuffle the network would be measured on noise."""
    paths = [tmp_path / name for name in ("ours.key", "theirs.key")]
    ours, theirs = (FrequencyMask(key=path) for path in paths if make_key(path))
    data = FaceDataModule(DrawnFaces(identities=4, size=SIZE), ours)
    LFWVerification(reader=CountingPairs(), desensitizer=FrequencyMask(key=paths[0]))._check_desensitizer(
        data
    )
    with pytest.raises(ValueError, match="give the file of that key"):
        LFWVerification(reader=CountingPairs(), desensitizer=theirs)._check_desensitizer(data)


def test_why_only_situation_1_is_measured_is_told_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Of raw pairs under a representation nothing was released: the network takes no clean face."""
    pairs = CountingPairs()
    with caplog.at_level(logging.INFO, "faceveil"):
        data = FaceDataModule(DrawnFaces(identities=4, size=SIZE), FrequencyMask())
        assert LFWVerification(reader=pairs)._possible(data) == [1]
        assert "FrequencyMask releases no pictures, and its recogniser takes no clean ones" in caplog.text
        assert "are released ones" not in caplog.text
        caplog.clear()
        pairs.released = True
        data = FaceDataModule(DrawnFaces(identities=4, size=SIZE), Identity())
        assert LFWVerification(reader=pairs)._possible(data) == [1]
        assert "its images are released ones, no clean ones are here" in caplog.text


def test_kept_scores_give_the_accuracy_again(tmp_path: Path) -> None:
    found = run(
        LFWVerification(reader=CountingPairs(), bootstrap=0, keep_scores=True, name="drawn"),
        MaskOut(freeform=(0.5, 0.7), size=SIZE),
        trained_a_little(),
        tmp_path,
    )
    kept = load_file(tmp_path / "scores" / "drawn.safetensors")
    for situation in (1, 2, 3):
        right = decided_rightly(kept[f"scores_s{situation}"], kept["same"].bool(), kept["folds"].long())
        assert right.mean() == pytest.approx(found[f"drawn/accuracy_s{situation}"], abs=1e-6)
