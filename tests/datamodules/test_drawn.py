"""Drawn faces: the same from the same numbers, people who differ, and pairs as LFW has them."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.drawing.reader import DrawnFaces

ROOT = Path(__file__).parents[2]


def _all(faces: DrawnFaces) -> torch.Tensor:
    return faces.__getitems__(range(len(faces)))["image"]


def test_yields_whole_batches() -> None:
    faces = DrawnFaces(identities=3, images_per_identity=4, size=32, first_identity=7)
    batch = faces.__getitems__([0, 5, 11])
    assert len(faces) == 12
    assert faces.identities == ["Drawn_00007", "Drawn_00008", "Drawn_00009"]
    assert batch["image"].shape == (3, 3, 32, 32)
    assert batch["image"].dtype == torch.uint8
    assert batch["identity"].tolist() == [0, 1, 2]
    assert batch["index"].tolist() == [0, 5, 11]
    assert batch["bad"].numel() == 0
    assert faces.name(5) == "Drawn_00008/Drawn_00008_0002.png"
    # a picture, not a plain surface: every image spans a good part of the grey levels
    assert (batch["image"].float().flatten(1).std(1) > 20).all()


def test_same_from_another_process() -> None:
    faces = DrawnFaces(identities=3, images_per_identity=2, size=32, seed=5)
    # a bare package: importing all of it, Lightning included, would take seconds
    code = (
        "import hashlib, sys, types\n"
        "package = types.ModuleType('datamodules'); package.__path__ = ['datamodules']\n"
        "sys.modules['datamodules'] = package\n"
        "from datamodules.drawing.draw import draw_face\n"
        "from datamodules.drawing.parameters import person, shot\n"
        "order = [5, 0, 3, 1, 4, 2]\n"
        "got = {i: draw_face(person(5, i // 2), shot(5, i // 2, i % 2, 32, 1.0)) for i in order}\n"
        "print(hashlib.sha256(b''.join(got[i].tobytes() for i in range(6))).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    here = hashlib.sha256(b"".join(faces.read(i).tobytes() for i in range(6))).hexdigest()
    assert told.stdout.strip() == here


def test_same_from_workers() -> None:
    faces = DrawnFaces(identities=2, images_per_identity=4, size=32)
    loader = DataLoader(faces, batch_size=4, num_workers=1, collate_fn=lambda batch: batch)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), _all(faces))


def test_person_does_not_depend_on_the_others() -> None:
    few = DrawnFaces(identities=2, images_per_identity=2, size=32, seed=3, first_identity=4)
    many = DrawnFaces(identities=6, images_per_identity=5, size=32, seed=3)
    for image in range(2):
        assert np.array_equal(few.read(2 + image), many.read(5 * 5 + image))  # identity 5 in both


def test_seed_and_range_change_everybody() -> None:
    sets = [
        DrawnFaces(4, 1, 32, seed=seed, first_identity=at, nuisance=0) for seed in (0, 1) for at in (0, 4)
    ]
    pictures = torch.cat([_all(faces) for faces in sets])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 16


def test_without_nuisance_a_person_looks_the_same() -> None:
    faces = DrawnFaces(identities=4, images_per_identity=3, size=32, nuisance=0)
    image = _all(faces).view(4, 3, -1)
    assert (image == image[:, :1]).all()
    assert len(torch.unique(image[:, 0], dim=0)) == 4


@pytest.mark.parametrize("nuisance", [0.5, 1.0])
def test_people_differ_more_than_their_images(nuisance: float) -> None:
    """Fisher's ratio about the eyes, nose and mouth, contrast normalised: between against within people.

    Were identity absent from the pixels, the ratio would be about 1; measured are 28 and 9.
    """
    image = _all(DrawnFaces(identities=40, images_per_identity=8, size=32, nuisance=nuisance)).float()
    inner = image[:, :, 6:28, 8:24].mean(1).flatten(1)
    inner = (inner - inner.mean(1, keepdim=True)) / inner.std(1, keepdim=True)
    people = inner.view(40, 8, -1)
    between = 8 * people.mean(1).var(0).sum()
    within = people.var(1).mean(0).sum()
    assert between / within > 4


def test_nuisance_grows() -> None:
    spread = [
        float(_all(DrawnFaces(8, 6, 32, nuisance=nuisance)).float().view(8, 6, -1).var(1).mean())
        for nuisance in (0.3, 0.6, 1.2)
    ]
    assert spread[0] < spread[1] < spread[2]


def test_aligned() -> None:
    """Dark pupils on light eyeballs lie at y = 0.43, on average over people."""
    image = _all(DrawnFaces(identities=60, images_per_identity=2, size=64)).float().mean(1)
    rows = image[:, 20:44, 12:52].std(2).mean(0)  # contrast along each row about the eyes
    assert abs(20 + int(rows.argmax()) - 0.43 * 64) <= 2


def test_pairs_like_view_2() -> None:
    faces = DrawnFaces(identities=23, images_per_identity=4, size=16)
    pairs = faces.draw_pairs(6, folds=5, seed=1)
    assert Counter((fold, same) for _, _, same, fold in pairs) == {
        (f, s): 6 for f in range(5) for s in (True, False)
    }
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs)
    people: list[set[int]] = [set() for _ in range(5)]
    for a, b, same, fold in pairs:
        assert a != b
        assert (faces.labels[a] == faces.labels[b]).item() == same
        people[fold] |= {int(faces.labels[a]), int(faces.labels[b])}
    assert sum(len(group) for group in people) == len(set().union(*people))  # nobody in two folds
    assert faces.draw_pairs(6, folds=5, seed=1) == pairs
    assert faces.draw_pairs(6, folds=5, seed=2) != pairs


def test_pairs_of_few_people_share_folds_without_repeats() -> None:
    pairs = DrawnFaces(identities=4, images_per_identity=5, size=16).draw_pairs(4, folds=10)
    assert Counter(same for _, _, same, _ in pairs) == {True: 40, False: 40}
    assert len({frozenset(pair[:2]) for pair in pairs}) == 80


def test_written_as_lfw(tmp_path: Path) -> None:
    faces = DrawnFaces(identities=6, images_per_identity=3, size=24, first_identity=12)
    pairs = faces.write(tmp_path, folds=3)
    lines = [line.split("\t") for line in (tmp_path / "pairs.txt").read_text().splitlines()]
    assert lines[0] == ["3", "6"]  # 2 people a fold, with 3 pairs each
    assert len(lines) == 1 + 3 * 2 * 6 == 1 + len(pairs)
    for (a, b, same, _), fields in zip(pairs, lines[1:], strict=True):
        assert len(fields) == (3 if same else 4)
        named = [fields[0], fields[1], fields[0], fields[2]] if same else fields
        for index, (who, number) in zip((a, b), (named[:2], named[2:]), strict=True):
            path = tmp_path / who / f"{who}_{int(number):04d}.png"
            read = cv2.imread(str(path))
            assert read is not None
            assert np.array_equal(read[..., ::-1].transpose(2, 0, 1), faces.read(index))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 18 + 1  # nothing temporary stays


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DrawnFaces(identities=1), "identities=1: give a number from 2 to"),
        (lambda: DrawnFaces(images_per_identity=0), "images_per_identity=0: give a number from 1 to"),
        (lambda: DrawnFaces(size=8), "size=8: give a number from 16 to 1024"),
        (lambda: DrawnFaces(seed=-1), "seed=-1: give a number from 0 to"),
        (lambda: DrawnFaces(first_identity=-3), "first_identity=-3: give a number from 0 to"),
        (lambda: DrawnFaces(nuisance=3.0), "nuisance=3.0: give a number from 0 to 2"),
        (
            lambda: DrawnFaces(20, 2).draw_pairs(3),
            "20 identities with 2 images give at most 2 in each of 10 folds",
        ),
        (lambda: DrawnFaces().draw_pairs(0), "count_per_class=0: give at least 1"),
        (lambda: DrawnFaces().draw_pairs(5, folds=1), "folds=1: give at least 2"),
        (lambda: DrawnFaces().draw_pairs(5, seed=-1), "seed=-1: give at least 0"),
        (lambda: DrawnFaces().write("nowhere", folds=0), "folds=0: give at least 2"),
        (lambda: DrawnFaces(20, 1).write("nowhere"), "20 identities with 1 images give at most 0 in each"),
    ],
)
def test_bad_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
