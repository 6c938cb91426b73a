from __future__ import annotations

from pathlib import Path

import lightning as L
import matplotlib
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from PIL import Image

from callbacks import Pictures
from callbacks.media import log_media
from callbacks.pictures import _shows_a_raw_face
from lightning_app.desensitize import BlockDCT, Chain, FrequencyMask, LearnedMask, MaskOut, MixUp
from lightning_app.report import face_grid, gate_heatmap
from tests.callbacks.tiny_run import (
    HIDDEN,
    GatedModel,
    LowerHalf,
    MakeTrainer,
    NoPicture,
    Open,
    Recorder,
    TinyData,
    TinyModel,
)
from tests.callbacks.tiny_run import (
    SIZE as TINY,
)
from tests.masker import write_masker

Pixels = NDArray[np.uint8]


def pixels(picture: Image.Image | Path) -> Pixels:
    return np.asarray(picture if isinstance(picture, Image.Image) else Image.open(picture).convert("RGB"))


def has_hidden_colour(picture: Image.Image | Path) -> bool:
    return bool((pixels(picture) == np.array(HIDDEN)).all(-1).any())


def run(
    make_trainer: MakeTrainer, data: TinyData, model: L.LightningModule | None = None, **options: bool
) -> tuple[Path, Recorder]:
    recorder = Recorder()
    trainer = make_trainer(Pictures(images=4, **options), epochs=1, logger=recorder)
    trainer.fit(model if model is not None else GatedModel(), datamodule=data)
    return Path(trainer.default_root_dir) / "faces.png", recorder


def test_real_faces_nothing_hidden_is_in_any_picture(make_trainer: MakeTrainer) -> None:
    faces, recorder = run(make_trainer, TinyData())
    ((key, remote, step),) = recorder.images
    assert (key, step) == ("pictures/faces", 3)
    assert not has_hidden_colour(faces)
    assert np.array_equal(pixels(faces), pixels(remote))


def test_show_faces_stays_local(make_trainer: MakeTrainer) -> None:
    faces, recorder = run(make_trainer, TinyData(), show_faces=True)
    ((_, remote, _),) = recorder.images
    assert has_hidden_colour(faces)
    assert not has_hidden_colour(remote)


def test_drawn_faces_are_shown_and_logged(make_trainer: MakeTrainer) -> None:
    faces, recorder = run(make_trainer, TinyData(drawn=True))
    assert has_hidden_colour(faces)
    assert has_hidden_colour(recorder.images[0][1])


@pytest.mark.parametrize("desensitizer", [Open(), LowerHalf(spared=True)], ids=["identity", "one spared"])
@pytest.mark.parametrize("show_faces", [False, True])
def test_raw_real_faces_are_never_logged(
    make_trainer: MakeTrainer, desensitizer: Open, show_faces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    faces, recorder = run(make_trainer, TinyData(desensitizer), TinyModel(), show_faces=show_faces)
    assert recorder.images == []
    assert faces.exists() == show_faces
    assert sum("Pictures:" in r.message for r in caplog.records) == 1


def test_a_representation_that_looks_like_the_raw_face_is_not_drawn(make_trainer: MakeTrainer) -> None:
    faces, recorder = run(make_trainer, TinyData(NoPicture()), TinyModel())
    assert recorder.images == []
    assert not faces.exists()


def test_a_representation_is_drawn_as_it_looks(make_trainer: MakeTrainer) -> None:
    height = pixels(run(make_trainer, TinyData(LowerHalf()), TinyModel())[0]).shape[0]
    faces, recorder = run(make_trainer, TinyData(FrequencyMask()), TinyModel())
    assert pixels(faces).shape[0] == height
    assert not has_hidden_colour(faces)
    assert len(recorder.images) == 1
    assert pixels(run(make_trainer, TinyData(BlockDCT(), drawn=True), TinyModel())[0]).shape[0] > height
    # without a key anybody turns the channels back; a mix of little else is the face as well
    for raw in (BlockDCT(), BlockDCT(dc=True), BlockDCT(channels=[1, 8], normalise=True)):
        assert run(make_trainer, TinyData(raw), TinyModel())[1].images == [], "it is the face"


def test_a_mix_of_little_else_than_a_face_is_the_face() -> None:
    clean = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for share, bare in ((0.95, True), (0.5, False)):
        seen = share * clean + (1 - share) * clean.roll(1, 0)
        assert _shows_a_raw_face(seen, clean, MixUp(cap=1.0)) == bare
        assert not _shows_a_raw_face(seen, clean, MaskOut(freeform=(0.5, 0.6))), (
            "a picture that mixes nothing"
        )


@pytest.mark.parametrize("kind", ["free", "population"])
def test_masks_that_may_draw_a_face_go_to_no_logger(
    kind: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    masker = write_masker(tmp_path / "masker.ckpt", TINY)
    for method in (LearnedMask(masker, kind=kind), Chain([LearnedMask(masker, kind=kind)])):  # type: ignore[arg-type]
        faces, recorder = run(make_trainer, TinyData(method), GatedModel())
        assert (recorder.images == []) == (kind == "free")
        assert faces.exists() == (kind != "free")


def test_a_row_per_insertion_point(make_trainer: MakeTrainer) -> None:
    without, _ = run(make_trainer, TinyData(), TinyModel())
    height = pixels(without).shape[0]
    faces, _ = run(make_trainer, TinyData(), GatedModel())
    # a face of 32 px is shown 4 times as large, with a gap of 6
    assert pixels(faces).shape[0] - height == 2 * (4 * 32 + 6)
    viridis = {
        tuple((255 * c + 0.5).astype(int)) for c in matplotlib.colormaps["viridis"]([0.0, 1.0, 0.5])[:, :3]
    }
    colours = {tuple(int(v) for v in c) for c in pixels(faces).reshape(-1, 3)}
    assert len(viridis & colours) == 3  # gate 0 and 1 at layer2, 0 and 0.5 at layer3


def test_every_n_epochs_and_the_last(make_trainer: MakeTrainer) -> None:
    recorder = Recorder()
    trainer = make_trainer(Pictures(every_n_epochs=2), epochs=3, logger=recorder)
    trainer.fit(GatedModel(), datamodule=TinyData())
    assert [step for _, _, step in recorder.images] == [6, 9]
    trainer.validate(GatedModel(), datamodule=TinyData(), verbose=False)
    assert len(recorder.images) == 3


def test_other_loggers_are_passed_over(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(logger=CSVLogger(tmp_path))
    log_media(
        trainer, "pictures/x", picture=Image.new("RGB", (4, 4)), table=(["a"], [["b"]]), save_as="x.png"
    )
    assert pixels(tmp_path / "run" / "x.png").shape == (4, 4, 3)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["x.png"]  # no temporary file left


def test_faces_are_shown_pixel_for_pixel() -> None:
    images = torch.randint(0, 256, (2, 3, 120, 130), dtype=torch.uint8)
    picture = pixels(face_grid({"one": images / 255, "two": images[:, :1] / 255}, ["a", "b"], title="t"))
    above = 22 + 22 + 6
    for column in range(2):
        x = 150 + column * (130 + 6)
        assert np.array_equal(
            picture[above : above + 120, x : x + 130], images[column].permute(1, 2, 0).numpy()
        )
    grey = picture[above + 126 : above + 246, 150:280]
    assert np.array_equal(grey, images[0, :1].expand(3, -1, -1).permute(1, 2, 0).numpy())


def test_gate_heatmap_by_hand() -> None:
    gate = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]]])  # [2,1,2]: means 0 and 0.5
    shown = gate_heatmap(gate, (4, 6))
    viridis = matplotlib.colormaps["viridis"]
    assert shown.shape == (3, 4, 6)
    assert torch.allclose(shown[:, 3, 2], torch.tensor(viridis(0.0)[:3], dtype=torch.float32), atol=1e-6)
    assert torch.allclose(shown[:, 0, 3], torch.tensor(viridis(0.5)[:3], dtype=torch.float32), atol=1e-6)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Pictures: every_n_epochs=0: give at least 1"):
        Pictures(every_n_epochs=0)
    with pytest.raises(ValueError, match="nothing to draw"):
        face_grid({})
    with pytest.raises(ValueError, match=r"rows\['b'\] is \(2, 3, 8, 9\); expected \[2, 3 or 1, 8, 8\]"):
        face_grid({"a": torch.rand(2, 3, 8, 8), "b": torch.rand(2, 3, 8, 9)})
    with pytest.raises(ValueError, match="1 texts for 2 faces"):
        face_grid({"a": torch.rand(2, 3, 8, 8)}, captions=["x"])
    with pytest.raises(ValueError, match=r"gate is \(2, 2\); expected \[C,h,w\]"):
        gate_heatmap(torch.rand(2, 2), (4, 4))
