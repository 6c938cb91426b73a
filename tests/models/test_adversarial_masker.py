"""The masker's training: whose turn it is, what moves in it, its losses, its resumes, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional as F

from lightning_app.desensitize import BlockDCT, LearnedMask, MixUp
from lightning_app.desensitize.masker import load_masker
from lightning_app.models import AdversarialMasker
from lightning_app.models.batch_counter import BatchCounter
from tests.models.masker_run import SETTINGS, SIZE, SPOT, Turns, fit
from tests.small_run import Collector, Diary, state


def made(**settings: Any) -> AdversarialMasker:
    torch.manual_seed(1)
    return AdversarialMasker(**(SETTINGS | {"num_classes": 4} | settings))


# -- turns


@pytest.mark.parametrize("adversary", ["obfuscator", "restorer"])
def test_three_to_one_and_who_moves(adversary: Any, tmp_path: Path) -> None:
    turns = Turns()
    model = fit(tmp_path, turns, adversary=adversary, limits={"max_epochs": 3})
    assert [turn for turn, _, _ in turns.turns] == 3 * [False, False, False, True]
    assert [done for _, done, _ in turns.turns] == list(range(12))
    assert model.batches.done == model.trainer.global_step == 12, "a batch is a step"
    for turn, _, moved in turns.turns:
        own = {name for name, one in moved.items() if one}
        assert own == ({"masker state", "masker moments"} if turn else set(moved))


@pytest.mark.parametrize("steps", [1, 2])
def test_another_cycle(steps: int, tmp_path: Path) -> None:
    turns = Turns()
    fit(tmp_path, turns, predictor_steps=steps, limits={"max_epochs": 1})
    assert [turn for turn, _, _ in turns.turns] == [n % (steps + 1) == steps for n in range(4)]


def test_without_an_adversary_and_with_accumulated_gradients(tmp_path: Path) -> None:
    turns = Turns()
    fit(tmp_path / "alone", turns, adversarial=False, limits={"max_epochs": 2})
    assert not any(turn for turn, _, _ in turns.turns)
    turns = Turns()
    model = fit(tmp_path / "added", turns, limits={"max_epochs": 2, "accumulate_grad_batches": 2})
    assert [done for _, done, _ in turns.turns] == [0, 0, 1, 1, 2, 2, 3, 3], (
        "one kind of step is never half done"
    )
    assert model.batches.done == model.trainer.global_step == 4


def test_limits_and_schedules_count_batches(tmp_path: Path) -> None:
    diary = Diary()
    model = fit(tmp_path, diary, limits={"max_steps": 7}, schedule="cosine")
    steps = [event for event in diary.events if event[0] == "step"]
    assert [event[2] for event in steps] == list(range(1, 8))
    expected = [3e-3 * (1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * n / 7))) for n in range(1, 8)]
    assert [event[-1] for event in steps] == pytest.approx(expected, rel=1e-6)
    assert model.batches.done == 7


def test_a_resumed_run_ends_as_the_whole_one(tmp_path: Path) -> None:
    diary, turns = Diary(), Turns()
    (tmp_path / "copies").mkdir()
    collector = Collector(tmp_path / "copies", diary)
    fit(tmp_path / "whole", diary, turns, logger=collector, limits={"max_steps": 10}, every=1)
    whole = state(tmp_path / "whole/checkpoints/last.ckpt")
    kept = [torch.load(file, weights_only=True)["masker"]["batches"] for file, _ in collector.copies]
    for batches in (2, 3, 4):  # within a cycle, before the adversary's turn, and after it at an epoch's end
        after = Turns()
        fit(
            tmp_path / f"from {batches}", after, ckpt_path=collector.copies[kept.index(batches)][0],
            limits={"max_steps": 10}, every=1,
        )  # fmt: skip
        assert after.turns == turns.turns[batches:]
        found = torch.load(tmp_path / f"from {batches}/checkpoints/last.ckpt", weights_only=True)["masker"]
        assert found["batches"] == 10
        other = state(tmp_path / f"from {batches}/checkpoints/last.ckpt")
        assert other.keys() == whole.keys()
        assert [key for key in whole if whole[key] != other[key]] == []
        masks = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)["masker"]
        assert all(torch.equal(masks[key], found[key]) for key in ("mean", "codes"))


def test_the_counter() -> None:
    counter = BatchCounter()
    counter.count()
    counter.count()
    assert (counter.done, counter.place(2), counter.place(4)) == (2, 0, 2)
    again = BatchCounter()
    again.load(counter.state())
    assert again.done == 2
    for damaged in ({}, {"batches": -1}, {"batches": 1.5}):
        with pytest.raises(ValueError, match="it is damaged, take an earlier one"):
            again.load(damaged)


# -- losses, by hand


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("weights", ["straight_through", "soft"])
def test_the_cut(weights: Any, rounds: int) -> None:
    model = made(weights=weights, rounds=rounds, core=0.25)
    logits: list[Tensor] = []

    def noted(module: Any, given: Any, out: Tensor) -> None:
        out.retain_grad()
        logits.append(out)

    model.masker.register_forward_hook(noted)
    image = torch.rand(3, 3, SIZE, SIZE)
    cut = model.cut(image)
    assert cut.mask.flatten(1).sum(1).tolist() == [36] * 3
    soft = logits[-1].sigmoid()
    if weights == "straight_through":
        assert torch.equal(cut.shown, cut.mask)
        assert torch.equal(cut.hidden, 1 - cut.mask)
    elif rounds == 0:
        torch.testing.assert_close(cut.shown, cut.mask * soft)
        torch.testing.assert_close(cut.hidden, soft - cut.mask * soft)  # the paper's (m − m_topK)
    (cut.shown * image[:, :1]).sum().backward()
    gradient = logits[-1].grad
    assert gradient is not None
    reached = torch.ones_like(soft) if weights == "straight_through" else cut.mask
    if rounds == 0:
        torch.testing.assert_close(gradient, image[:, :1] * reached * (soft * (1 - soft)).detach())
    else:
        assert len(logits) == 2
        assert all(one.grad is not None and bool(one.grad.any()) for one in logits)


def test_the_obfuscators_loss(tmp_path: Path) -> None:
    model = fit(tmp_path, limits={"max_steps": 1})
    image = torch.rand(4, 3, SIZE, SIZE)
    model.train()
    cut = model.cut(image)
    loss = model._against_predictor(image, cut, {"image": image})
    model.backbone.eval()
    seen = (image * cut.hidden - 0.5) / 0.5
    logits = model.head.logits(model.backbone(seen))
    uniform = torch.full_like(logits, 1 / 4)
    torch.testing.assert_close(loss, F.cross_entropy(logits, uniform))
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_restorers_error() -> None:
    model = made(adversary="restorer")
    assert model.restorer is not None
    model.restorer.eval()
    image, mask = torch.rand(2, 3, SIZE, SIZE), model(torch.rand(2, 3, SIZE, SIZE))
    drawn = model.restorer((image * 2 - 1) * mask).sigmoid()
    hidden = (1 - mask).expand_as(image) == 1
    expected = (drawn - image).abs()[hidden].mean()
    torch.testing.assert_close(model._drawing_error(image, mask, 1 - mask), expected)


# -- what it learns


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    fit(folder, limits={"max_epochs": 15}, each=40, logger=CSVLogger(folder, name="", version=""))
    return folder


def test_it_shows_what_tells_the_classes(trained: Path) -> None:
    made = LearnedMask(trained)
    made.prepare((SIZE, SIZE))
    assert made.mask is not None
    assert float(made.mask[0, 0][SPOT].mean()) > 0.35, "by chance 0.14 of the pixels shown lie in the spot"


def test_what_it_logs(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "metrics.csv").read_text().splitlines()))
    held = [row for row in rows if row["val/accuracy"]]
    assert float(held[-1]["val/accuracy"]) > 0.9
    assert 0 <= float(held[-1]["masker/accuracy_hidden"]) <= 1
    assert {"train/loss", "train/confusion", "train/lr", "train/accuracy", "val/loss"} <= rows[0].keys()
    # Lightning logs every 50th step: the last of each kind of step, whichever comes then
    assert all(row["train/loss"] and row["train/confusion"] for row in rows if row["train/lr"])


def test_its_checkpoint(trained: Path) -> None:
    masker = load_masker(trained)
    assert (masker.faces, masker.input_size, masker.share) == (16, SIZE, 36 / 256)
    checkpoint = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    model = AdversarialMasker(**SETTINGS)
    model.on_load_checkpoint(checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    assert model.head.num_classes == 4
    assert torch.equal(model.mean_mask, masker.mean)  # type: ignore[arg-type]
    image = torch.rand(5, 3, SIZE, SIZE)
    free = LearnedMask(trained, kind="free")({"image": image, "index": torch.arange(5)})
    assert torch.equal(free["mask"], model.eval()(image))


@pytest.mark.parametrize("settings", [{"rounds": 2}, {"weights": "soft"}, {"adversary": "restorer"}])
def test_other_settings_train_and_serve(settings: dict[str, Any], tmp_path: Path) -> None:
    fit(tmp_path, limits={"max_epochs": 1}, **settings)
    for kind in ("population", "codebook", "core_first"):
        found = LearnedMask(tmp_path, kind=kind)(
            {"image": torch.rand(2, 3, SIZE, SIZE), "index": torch.arange(2)}
        )
        assert found["mask"].flatten(1).sum(1).eq(36).all()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_it_trains_in_every_precision_that_a_recogniser_does(precision: str, tmp_path: Path) -> None:
    model = fit(tmp_path, precision=precision, limits={"max_steps": 4})  # with a step of the adversary
    assert model.trainer.global_step == 4
    assert {"train/confusion", "train/loss"} <= {*model.trainer.callback_metrics}


def test_bf16_ranks_in_fp32(tmp_path: Path) -> None:
    counts: list[float] = []
    kinds: set[torch.dtype] = set()

    class Looks(Turns):
        def on_train_start(self, trainer: Any, model: Any) -> None:
            model.masker.register_forward_hook(lambda module, given, out: kinds.add(out.dtype))
            cut = model.cut

            def noted(image: Tensor) -> Any:
                found = cut(image)
                counts.extend(found.mask.flatten(1).sum(1).tolist())
                return found

            model.cut = noted

    fit(tmp_path, Looks(), precision="bf16-mixed", limits={"max_epochs": 1})
    assert kinds == {torch.float32}
    assert counts == [36.0] * 32


# -- what it refuses


@pytest.mark.parametrize(("setting", "message"), [
    ({"share": 0.0}, "share=0.0: give the share"), ({"weights": "hard"}, "weights='hard': choose one of"),
    ({"adversary": "nobody"}, "adversary='nobody': choose one of obfuscator, restorer"),
    ({"predictor_steps": 0}, "predictor_steps=0: give at least 1"), ({"faces": 15}, "faces=15: give at least 16"),
    ({"codes": 0}, "codes=0"), ({"rounds": -1}, "rounds=-1"), ({"core": 1.0}, "core=1.0"),
    ({"core": 0.9}, "core=0.9: is for masks that grow; give rounds: 4 too"),
    ({"adversarial": False, "adversary": "restorer"}, "adversary=restorer: is of the adversary, whom adversarial: fal"),
    ({"adversarial": False, "predictor_steps": 7}, "predictor_steps=7: is of the adversary"),
    ({"in_channels": 63}, "in_channels=63: a masker chooses pixels of pictures"),
    ({"backbone": "vgg"}, "backbone='vgg'"), ({"masker_depth": 0}, "masker_depth=0: give 1 to 8"),
    ({"masker_width": 4}, "masker_width=4: give at least 8"), ({"lr": -1.0}, r"model\.lr=-1\.0: give a number of 0 or"),
    ({"masker_lr": float("nan")}, r"model\.masker_lr=nan"), ({"weight_decay": -1.0}, r"model\.weight_decay=-1\.0"),
    ({"warmup": 2.0}, r"model\.warmup=2\.0: give a share"), ({"rounds": 100}, "rounds=100: give 0 to 64"),
])  # fmt: skip
def test_settings_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**setting)


@pytest.mark.parametrize(("desensitizer", "message"), [
    (BlockDCT(), "BlockDCT gives no pictures"), (MixUp(2), "MixUp mixes images; a masker learns from single ones"),
])  # fmt: skip
def test_data_it_cannot_learn_from(desensitizer: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, desensitized=desensitizer)


@pytest.mark.parametrize(("setting", "message"), [
    ({"masker_width": 16}, r"another masker \(masker_width=8; yours: masker_width=16\)"),
    ({"share": 0.5}, "share=0.140625; yours: share=0.5"), ({"predictor_steps": 2}, "predictor_steps=3"),
    ({"backbone": "resnet18"}, "backbone=Small; yours: backbone=resnet18"),
])  # fmt: skip
def test_another_maskers_checkpoint(
    setting: dict[str, Any], message: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, ckpt_path=trained / "checkpoints/last.ckpt", **setting)


def test_it_embeds_nothing() -> None:
    with pytest.raises(ValueError, match="desensitize with LearnedMask and its checkpoint"):
        made().predict_step({}, 0)


def test_json_of_its_description(trained: Path) -> None:
    made = LearnedMask(trained)
    made.prepare((SIZE, SIZE))
    assert json.loads(json.dumps(made.describe())) == made.describe()
