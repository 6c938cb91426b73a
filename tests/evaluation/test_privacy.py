from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.attacks import Attack, MeanFace, Telea
from lightning_app.core.batch import Batch
from lightning_app.desensitize import CentreBlock, Desensitizer, GaussianBlur, Identity, MaskOut, Precomputed
from lightning_app.evaluation import Judge, RecogniserJudge
from lightning_app.evaluation.privacy import (
    Stored,
    Subjects,
    applies,
    gives_masks,
    keep,
    measure,
    measure_clean,
    measured,
    part_key,
)
from lightning_app.evaluation.privacy_metrics import clean_metrics, privacy_metrics
from lightning_app.masks.io import save_mask
from lightning_app.metrics import dssim, verification
from tests.planted_leak import PlantedLeak

SIZE, PEOPLE, IMAGES = 32, 12, 4


class Counting(Judge):
    """A judge that looks at colours in a 4×4 grid, and counts the images it was shown."""

    def __init__(self, name: str = "grid", side: int = 4) -> None:
        super().__init__()
        self.name, self.seen, self.side = name, 0, side

    def embed(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return adaptive_avg_pool2d(images, self.side).flatten(1) - 0.5

    def describe(self) -> dict[str, object]:
        return {"judge": self.name, "side": self.side}


class Blind(Judge):
    """Finds all faces alike."""

    def embed(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 3)


class Perfect(Attack):
    """Knows the clean images."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean, self.at = clean, 0

    def guess(self, released: Batch) -> Tensor:
        found = self.clean[self.at : self.at + len(released["image"])]
        self.at += len(released["image"])
        return found


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    reader = DrawnPairs(PEOPLE, IMAGES, SIZE, first_identity=100, folds=4, pairs_per_fold=10)
    return Subjects(reader, batch_size=20)


def data_of(desensitizer: Desensitizer | None = None) -> FaceDataModule:
    return FaceDataModule(reader=DrawnFaces(4, 2, SIZE), desensitizer=desensitizer)


def clean_of(subjects: Subjects) -> Tensor:
    return subjects.raw(torch.arange(len(subjects))).float() / 255


def test_figures_against_plain_loops(subjects: Subjects) -> None:
    data, grid = data_of(CentreBlock(0.5)), Counting()
    judges = {"grid": grid}
    found = privacy_metrics(measure(subjects, data, None, [grid], [grid]), subjects, judges, judges)
    clean = clean_of(subjects)
    hidden = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    hidden[8:24, 8:24] = True
    seen = clean.masked_fill(hidden, 0)
    one, two = clean.double().numpy(), seen.double().numpy()
    skimage: Any = peak_signal_noise_ratio  # untyped
    psnr = [skimage(a, b, data_range=1) for a, b in zip(one, two, strict=True)]
    under = [-10 * math.log10(np.square(a[:, 8:24, 8:24]).mean()) for a in one]
    assert found["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
    assert found["psnr_hidden"] == pytest.approx(np.mean(under), rel=1e-5)
    assert found["dssim"] == pytest.approx(dssim(clean, seen).mean().item(), abs=1e-6)
    a = adaptive_avg_pool2d(clean, 4).flatten(1).double().numpy() - 0.5
    b = adaptive_avg_pool2d(seen, 4).flatten(1).double().numpy() - 0.5
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    right = [
        int(np.argmax([b[i] @ a[person * IMAGES] for person in range(PEOPLE)]) == i // IMAGES)
        for i in range(len(b)) if i % IMAGES
    ]  # fmt: skip
    assert 0 < sum(right) < len(right)
    assert found["rank1/grid"] == pytest.approx(np.mean(right))
    assert found["rank1_low/grid"] <= found["rank1/grid"] <= found["rank1_high/grid"]
    assert found["similarity/grid"] == pytest.approx((a * b).sum(1).mean(), abs=1e-6)
    people = [(a * b).sum(1)[i : i + IMAGES].mean() for i in range(0, len(a), IMAGES)]
    assert found["worst/similarity/grid"] == pytest.approx(
        np.quantile(people, 0.95, method="higher"), abs=1e-6
    )
    p = subjects.pairs
    for name, first in (("verification", a), ("accuracy", b)):
        scores = (first[p.a] * b[p.b]).sum(1)
        wanted = verification(scores, p.same.numpy(), p.folds.numpy(), bootstrap=0)
        assert found[f"{name}/grid"] == pytest.approx(wanted.accuracy)
    worst = [dssim(clean, seen)[i : i + IMAGES].mean().item() for i in range(0, len(a), IMAGES)]
    assert found["worst/dssim"] == pytest.approx(np.quantile(worst, 0.05, method="lower"), abs=1e-6)


def test_clean_images_hide_nothing_and_a_perfect_attack_sees_all(subjects: Subjects) -> None:
    grid = Counting()
    judges = {"grid": grid}
    clean = privacy_metrics(measure(subjects, data_of(), None, [grid]), subjects, judges, {})
    assert clean["dssim"] == 0
    assert clean["worst/dssim"] == 0
    assert clean["psnr"] == clean["psnr_high"] == clean["worst/psnr"] == math.inf
    assert clean["similarity/grid"] == pytest.approx(1, abs=1e-6)
    assert "psnr_hidden" not in clean
    desensitized = data_of(MaskOut(freeform=(0.7, 0.8), size=SIZE))
    attacked = measure(subjects, desensitized, Perfect(clean_of(subjects)), [grid])
    found = privacy_metrics(attacked, subjects, judges, {})
    assert found["psnr"] == found["psnr_hidden"] == math.inf
    for key in ("rank1/grid", "verification/grid", "dssim"):
        assert found[key] == clean[key], key
    released = privacy_metrics(measure(subjects, desensitized, None, [grid]), subjects, judges, {})
    assert released["rank1/grid"] < clean["rank1/grid"]


@pytest.mark.parametrize("bootstrap", [0, 20])
def test_a_value_that_is_no_number_is_not_passed_over(subjects: Subjects, bootstrap: int) -> None:
    """Whoever measures sees it, and leaves the verdict open; intervals that were not asked for are no such values."""
    part = measure(subjects, data_of(), None)
    part["psnr"] = part["psnr"].clone()
    part["psnr"][3] = math.nan
    found = privacy_metrics(part, subjects, {}, {}, bootstrap)
    assert [key for key, value in found.items() if math.isnan(value)] == ["psnr"]
    assert ("dssim_low" in found) is bool(bootstrap)


def test_an_interval_of_what_never_happened_is_not_empty(subjects: Subjects) -> None:
    """Nobody of 12 people is found: up to 1 − 0.05^(1/12) = 22.1 % may be (the exact binomial bound)."""
    blind = Blind()
    part = measure(subjects, data_of(), None, [blind])
    found = privacy_metrics(part, subjects, {"blind": blind}, {}, bootstrap=20)
    assert [found[f"rank1{end}/blind"] for end in ("", "_low")] == [0, 0]
    assert found["rank1_high/blind"] == pytest.approx(0.2209, abs=1e-4)


def test_nothing_is_computed_twice(subjects: Subjects) -> None:
    grid, data = Counting("twice"), data_of(GaussianBlur(9))
    part = measure(subjects, data, None, [grid], [grid])
    count = len(subjects)
    assert grid.seen == 2 * count  # every image clean and as seen, though judge and recogniser are one
    assert measure(subjects, data, None, [grid], [grid], part) == part
    measure(subjects, data_of(GaussianBlur(18)), None, [grid])
    assert grid.seen == 3 * count  # the gallery is embedded once per judge
    other, before = Counting("another", 2), grid.seen
    both = measure(subjects, data, None, [grid, other], [], part)
    assert (grid.seen, other.seen) == (before, 2 * count)
    assert part.items() <= both.items()
    ticks: list[int] = []
    measure(subjects, data, None, [], [], {}, ticks.append)
    assert sum(ticks) == count


def test_a_part_holds_no_face_and_no_embedding(subjects: Subjects, tmp_path: Path) -> None:
    grid = Counting()
    part = measure(subjects, data_of(GaussianBlur(9)), None, [grid], [grid])
    assert {value.ndim for value in part.values()} == {1}
    assert {len(value) for value in part.values()} == {len(subjects), len(subjects.pairs)}
    path, had = measured(tmp_path, "blur", "abc")
    assert had == {}
    keep(path, part)
    again: Stored = measured(tmp_path, "blur", "abc")[1]
    assert again.keys() == part.keys()
    assert all(torch.equal(again[name], part[name]) for name in part)
    judges = {"grid": grid}
    assert privacy_metrics(again, subjects, judges, judges) == privacy_metrics(part, subjects, judges, judges)


def test_keys_tell_methods_attacks_and_their_state_apart(subjects: Subjects) -> None:
    faces = clean_of(subjects)
    pairs: list[tuple[float, Attack | None]] = [
        (0.5, None), (0.6, None), (0.5, Telea()), (0.5, Telea(5.0)),
        (0.5, MeanFace.of(faces[:10])), (0.5, MeanFace.of(faces[10:20])),
    ]  # fmt: skip
    keys = [part_key(subjects, data_of(CentreBlock(share)), attack) for share, attack in pairs]
    assert len(set(keys)) == len(keys)
    assert part_key(subjects, data_of(CentreBlock(0.5)), MeanFace.of(faces[:10])) == keys[4]


def test_which_attacks_can_be_mounted() -> None:
    masked, blurred, clean = data_of(CentreBlock(0.5)), data_of(GaussianBlur(9)), data_of(Identity())
    mean, free = MeanFace.of(torch.zeros(1, 3, SIZE, SIZE)), Perfect(torch.zeros(1, 3, SIZE, SIZE))
    assert [applies(mean, data) for data in (masked, blurred, clean)] == [True, False, False]
    assert [applies(free, data) for data in (masked, blurred, clean)] == [True, True, False]
    assert [applies(None, data) for data in (masked, blurred, clean)] == [True, True, True]
    assert applies(Telea(), data_of(MaskOut(freeform=(0.7, 0.8))))  # its mask is drawn when it is asked


def test_a_mask_that_is_handed_out_without_a_word_is_attacked(tmp_path: Path) -> None:
    mask = torch.ones(SIZE, SIZE, dtype=torch.uint8)
    mask[16:] = 0
    save_mask(mask, tmp_path / "mask.png")
    leak = PlantedLeak(tmp_path / "mask.png", side=8)
    assert leak.has_mask is None
    assert not {"mask_hash", "mask_ratio"} & leak.describe().keys()
    assert gives_masks(data_of(leak))
    assert applies(Telea(), data_of(leak))
    assert [gives_masks(data_of(one)) for one in (CentreBlock(0.5), GaussianBlur(9), Identity())] == [
        True, False, False,
    ]  # fmt: skip


def test_another_programs_pictures_are_not_asked_for_of_a_black_image(tmp_path: Path) -> None:
    class Theirs(Precomputed):
        """A class of one's own inherits no promise."""

    DrawnFaces(2, 1, SIZE).write_images(tmp_path)
    assert Theirs(tmp_path).has_mask is None
    assert not gives_masks(data_of(Theirs(tmp_path)))
    assert not applies(Telea(), data_of(Theirs(tmp_path)))


def test_a_trained_recogniser_judges(fitted: Path, subjects: Subjects) -> None:
    judge = RecogniserJudge(fitted / "runs/tiny")
    clean = subjects.embedded(judge)
    assert clean.shape == (len(subjects), 64)
    torch.testing.assert_close(clean.norm(dim=1), torch.ones(len(subjects)))
    data = data_of(MaskOut(freeform=(0.7, 0.8), size=SIZE))
    found = privacy_metrics(
        measure(subjects, data, None, [], [judge]), subjects, {}, {"own": judge}, bootstrap=50
    )
    assert found["accuracy_low/own"] <= found["accuracy/own"] <= found["accuracy_high/own"]
    with pytest.raises(
        ValueError, match=r"a recogniser for 3 channels of 32 px; these images have 3 of 64 px"
    ):
        judge.check_size(64)
    with pytest.raises(ValueError, match=r"trained on pixels normalised with mean 0\.5 and std 0\.5"):
        RecogniserJudge(fitted / "runs/tiny", mean=0.4)


def test_readers_without_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="reader=DrawnFaces: it has no list of pairs"):
        Subjects(DrawnFaces(4, 2, SIZE))
    pairs = DrawnPairs(PEOPLE, IMAGES, SIZE, folds=4, pairs_per_fold=10)
    with pytest.raises(ValueError, match="batch_size: 0; give at least 1"):
        Subjects(pairs, batch_size=0)


class Tiring(Judge):
    """Raises an error, or gives something else, after so many batches."""

    def __init__(self, batches: int, gives: Tensor | None = None) -> None:
        super().__init__()
        self.batches, self.left, self.gives = batches, batches, gives

    def embed(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            return images.flatten(1)
        if self.gives is None:
            raise KeyError("tired")
        return self.gives[: len(images)]

    def describe(self) -> dict[str, object]:
        return {"judge": "tiring", "batches": self.batches, "gives": self.gives is not None}


@pytest.mark.parametrize("batches", [0, 1, 3])  # 3: all that is seen, and none of the clean faces
def test_a_judge_that_raises_takes_nobody_elses_figures(subjects: Subjects, batches: int) -> None:
    data, grid, tired, odd = data_of(GaussianBlur(9)), Counting(), Tiring(batches), Tiring(1, torch.ones(3))
    alone = measure(subjects, data, None, [grid], [grid])
    failed: dict[str, str] = {}
    part = measure(subjects, data, None, [tired, grid, odd], [tired, grid], None, failed=failed)
    assert part.keys() == alone.keys()
    assert all(torch.equal(part[key], alone[key]) for key in part)
    assert failed == {
        tired.description: "KeyError: 'tired'",
        odd.description: "ValueError: embed gave [3] for 20 faces; give [20, 3072], a row for each",
    }
    failed.clear()
    clean = measure_clean(subjects, [Tiring(1), grid], None, failed)
    assert [*failed.values()] == ["KeyError: 'tired'"]
    assert [*clean_metrics(clean, subjects, {"tired": tired, "grid": grid}, 0)] == [
        "judge_accuracy/grid", "judge_rank1/grid",
    ]  # fmt: skip
    with pytest.raises(KeyError, match="tired"):
        measure(subjects, data, None, [Tiring(0), grid])


@pytest.mark.parametrize("batches", [0, 1, 3])  # 3: all that is seen, and none of the clean faces
def test_a_judge_whose_embeddings_are_no_numbers_is_a_hole_of_its_own(
    subjects: Subjects, batches: int
) -> None:
    data, grid = data_of(GaussianBlur(9)), Counting()
    wrong = torch.ones(20, SIZE * SIZE * 3)
    wrong[4, 7] = math.nan
    lost, failed = Tiring(batches, wrong), dict[str, str]()
    alone = measure(subjects, data, None, [grid], [grid])
    part = measure(subjects, data, None, [lost, grid], [lost, grid], None, failed=failed)
    assert part.keys() == alone.keys()
    assert all(torch.equal(part[key], alone[key]) for key in part)
    (said,) = failed.values()
    assert said.startswith("ValueError: embed gave NaN or infinite values for ")
    failed.clear()
    if batches < 3:  # a recogniser, which sees no clean face
        part = measure(subjects, data, None, [grid], [Tiring(batches, wrong), grid], None, failed=failed)
        assert part.keys() == alone.keys()
        (said,) = failed.values()
        assert said.startswith("ValueError: embed gave NaN or infinite values for ")
        failed.clear()
    clean = measure_clean(subjects, [Tiring(1, wrong), grid], None, failed)
    assert [*clean_metrics(clean, subjects, {"lost": lost, "grid": grid}, 0)] == [
        "judge_accuracy/grid", "judge_rank1/grid",
    ]  # fmt: skip
