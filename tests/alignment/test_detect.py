from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_app.alignment import DlibFaces, choose_face, off_centre, template
from lightning_app.alignment.pixels import read_upright
from lightning_app.alignment.similarity import align_face
from lightning_app.evaluation.judges.dlib import DlibJudge

LFW = Path(__file__).parents[2] / "data" / "lfw"
has_dlib = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("dlib", "face_recognition_models")),
    reason="needs the extra dlib",
)


def square(x: float, y: float, side: float) -> tuple[float, float, float, float]:
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def test_how_far_off_the_centre() -> None:
    # image centre of 101 px is (50, 50); (80, 90) is 50 px away, two sides of 25 px
    assert off_centre(square(80, 90, 25), 101, 101) == pytest.approx(2)
    assert off_centre(square(50, 50, 25), 101, 101) == 0


def test_one_of_several_faces_must_be_clearly_central() -> None:
    assert choose_face([], 101, 101).number is None
    only = choose_face([square(5, 5, 10)], 101, 101)
    assert (only.number, only.following) == (0, None)
    sides = choose_face([square(20, 50, 40), square(80, 50, 40)], 101, 101)
    assert (sides.number, sides.central, sides.following) == (None, 0.75, 0.75)
    clear = choose_face([square(95, 50, 20), square(55, 50, 40)], 101, 101)
    assert (clear.number, clear.central, clear.following) == (1, 0.125, 2.25)
    # a passer-by right in the middle does not win over the large face around it
    small = choose_face([square(58, 50, 10), square(44, 50, 60)], 101, 101)
    assert (small.number, small.central) == (1, 0.1)
    edge = [square(50, 50, 40), square(70, 50, 40)]  # half a face further off
    assert choose_face(edge, 101, 101).number == 0
    assert choose_face(edge, 101, 101, margin=0.51).number is None


def test_without_dlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"DlibJudge needs dlib .* pip install 'faceveil\[dlib\]'"):
        DlibJudge()
    with pytest.raises(ValueError, match=r"landmarks: null needs dlib .* pip install 'faceveil\[dlib\]'"):
        DlibFaces()


@has_dlib
def test_nothing_is_found_where_nothing_is() -> None:
    assert DlibFaces().find(np.full((120, 150), 90, np.uint8)) == []


@has_dlib
def test_the_judge_embeds_every_image_the_same_alone_and_in_a_batch() -> None:
    judge = DlibJudge()
    images = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    together = judge.embed(images)
    assert (together.shape, together.dtype) == ((3, 128), torch.float32)
    assert bool(together.isfinite().all())
    torch.testing.assert_close(judge.embed(images[1:2]), together[1:2], rtol=0, atol=1e-5)
    grey = images[:, :1]
    torch.testing.assert_close(judge.embed(grey[:1]), judge.embed(grey[:1].expand(-1, 3, -1, -1)))
    assert judge.embed(images[:0]).shape == (0, 128)
    with pytest.raises(ValueError, match=r"images are \(3, 112, 112\); expected \[B,3,H,W\]"):
        judge.embed(images[0])
    with pytest.raises(ValueError, match="box: "):
        DlibJudge(box=(0.5, 0.5, 1.5))


@has_dlib
@pytest.mark.data
def test_on_real_faces_eyes_land_on_the_template_and_people_are_known() -> None:
    if not LFW.is_dir():
        pytest.skip("needs data/lfw")
    files = [LFW / n / f"{n}_000{k}.jpg" for n in ("Abdullah_Gul", "Adrien_Brody") for k in (1, 2)]
    faces, aligned = DlibFaces(), []
    for file in files:
        pixels = read_upright(str(file))
        assert pixels.shape == (250, 250)
        found = faces.find(pixels)
        number = choose_face([face.box for face in found], 250, 250).number
        assert number is not None
        aligned.append(align_face(pixels, faces.landmarks(pixels, found[number].box), 112))
        again = faces.find(aligned[-1])
        assert len(again) == 1
        off = np.linalg.norm(faces.landmarks(aligned[-1], again[0].box) - template(), axis=1)
        assert off.mean() < 7, "mean over 271 images of LFW-a: 3.2 px, at most 7.1"
    batch = torch.from_numpy(np.stack(aligned))[:, None].float() / 255
    embeddings = DlibJudge().embed(batch)
    distance = torch.cdist(embeddings, embeddings)
    assert max(distance[0, 1], distance[2, 3]) < 0.6 < distance[:2, 2:].min(), distance
