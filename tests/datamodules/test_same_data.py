"""A checkpoint meets data: the same, or others, which are named and refused."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml

from datamodules import DrawnFaces, FaceDataModule, FolderFaces
from datamodules.readers.base import FaceReader
from datamodules.readers.cached import CachedReader
from datamodules.readers.subset import Subset
from datamodules.same_data import BY_NUMBER, Split, check_place, differences
from datamodules.split import digest, held_out, name_keys
from lightning_app.desensitize import MaskOut
from tests.command_line import RunMain, refused, write_config
from tests.small_run import Diary, fit

SIZE = 16


class Named(FaceReader):
    """Images that are names alone."""

    def __init__(self, counts: dict[str, int], more: tuple[str, ...] = ()) -> None:
        self.size, self.identities = SIZE, sorted(counts)
        names = [f"{who}/{i:03d}" for who in self.identities for i in range(counts[who])] + list(more)
        self.names = sorted(names)
        self.labels = torch.tensor([self.identities.index(name.split("/")[0]) for name in self.names])

    def read(self, index: int) -> Any:
        return np.zeros((1, SIZE, SIZE), np.uint8)

    def name(self, index: int) -> str:
        return self.names[index]


def _held(reader: Named, share: float = 0.3, seed: int = 0) -> set[str]:
    chosen = Split(reader, share, seed).chosen
    return {reader.names[i] for i in torch.nonzero(chosen).flatten().tolist()}


class TestDraw:
    COUNTS: ClassVar[dict[str, int]] = {f"p{i:02d}": n for i, n in enumerate([1, 2, 3, 10, 25, 7, 11, 20])}

    def test_counts_are_exact_and_one_stays(self) -> None:
        split = Split(Named(self.COUNTS), 0.3, 0)
        per = torch.bincount(split.whole.labels[split.chosen], minlength=8).tolist()
        assert per == [0, 0, 0, 3, 7, 2, 3, 6]
        most = Split(Named(self.COUNTS), 0.99, 0)
        assert torch.bincount(most.whole.labels[~most.chosen]).min() == 1
        assert Split(Named(self.COUNTS), 0.0, 0).held_out is None

    def test_it_hangs_on_names_and_seed(self) -> None:
        assert _held(Named(self.COUNTS)) == _held(Named(self.COUNTS))
        assert _held(Named(self.COUNTS)) != _held(Named(self.COUNTS), seed=1)

    def test_a_new_person_changes_nothing_for_others(self) -> None:
        before = _held(Named(self.COUNTS))
        after = _held(Named({"a": 9, **self.COUNTS}))  # all image numbers move
        assert {name for name in after if not name.startswith("a/")} == before

    @pytest.mark.parametrize("new", ["p04/000a", "p04/zzz", "p01/new"])
    def test_a_new_image_changes_its_own_people_at_most(self, new: str) -> None:
        before = _held(Named(self.COUNTS))
        after = _held(Named(self.COUNTS, (new,)))
        assert len(before ^ after) <= 2
        assert {name.split("/")[0] for name in before ^ after} <= {new.split("/")[0]}

    def test_keys_are_uniform(self) -> None:
        keys = name_keys((f"a/{i}" for i in range(4000)), 3)
        assert len(keys.unique()) == 4000
        share = float((keys < 0).float().mean())
        assert abs(share - 0.5) < 5 * 0.5 / 4000**0.5


class TestNames:
    def test_readers_give_their_stable_names_at_once(self, drawn_root: Path) -> None:
        folder = FolderFaces(drawn_root, size=SIZE, cache_index=False).open()
        for reader in (folder, Subset(folder, torch.tensor([3, 40, 7])), DrawnFaces(3, 4, SIZE)):
            assert list(reader.stable_names()) == [reader.stable_name(i) for i in range(len(reader))]
        assert next(iter(folder.stable_names())).startswith("Drawn_00000/")
        cached = CachedReader(DrawnFaces(3, 4, SIZE), threads=1)
        assert list(cached.stable_names()) == list(DrawnFaces(3, 4, SIZE).stable_names())

    def test_a_copy_elsewhere_is_the_same_set(self, drawn_root: Path, tmp_path: Path) -> None:
        shutil.copytree(drawn_root, tmp_path / "copy")
        one, other = (
            FolderFaces(root, size=SIZE, cache_index=False).open() for root in (drawn_root, tmp_path / "copy")
        )
        assert digest(one) == digest(other)
        assert Split(one, 0.2, 0).facts == Split(other, 0.2, 0).facts

    @pytest.mark.parametrize("index", [0, 47])
    def test_other_files_under_the_same_names_are_another(
        self, drawn_root: Path, tmp_path: Path, index: int
    ) -> None:
        shutil.copytree(drawn_root, tmp_path / "copy")
        one, other = (
            FolderFaces(root, size=SIZE, cache_index=False).open() for root in (drawn_root, tmp_path / "copy")
        )
        with open(other.name(index), "ab") as file:
            file.write(b"x")
        assert digest(one) == digest(other)
        found = differences(Split(other, 0.0, 0).facts, Split(one, 0.0, 0).facts)
        assert found == ["names of identities or images, their order, or the files under them"]

    def test_no_name_and_no_quick_digest_of_names_is_kept(self) -> None:
        """Who has a guess at the whole set needs scrypt for it; single names cannot be tested."""
        reader = Named({"ann": 3, "bob": 2})
        facts = Split(reader, 0.4, 0).facts
        text = json.dumps(facts)
        assert "ann" not in text
        whole = hashlib.sha256()
        for name in (*reader.identities, "", *reader.names):
            whole.update(name.encode() + b"\0")
        whole.update(reader.labels.numpy().tobytes())
        for index in range(5):
            whole.update(hashlib.sha256(reader.content(index)).digest())
        slow = hashlib.scrypt(whole.digest(), salt=b"faceveil: data of a checkpoint", n=2**14, r=8, p=1, maxmem=2**26,
                              dklen=32)  # fmt: skip
        assert facts["set"] == slow.hex()
        assert whole.hexdigest() not in text
        held = Split(reader, 0.4, 0).chosen.numpy().tobytes()
        assert facts["hash"] == hashlib.sha256(slow + held).hexdigest()


def test_what_differs_is_named() -> None:
    counts = {"ann": 5, "bob": 6}
    ours = Split(Named(counts), 0.4, 0).facts

    def of(other: dict[str, int], share: float = 0.4, seed: int = 0, held: bool = True) -> list[str]:
        return differences(Split(Named(other), share, seed).facts, ours, held)

    assert of(counts) == []
    assert of(counts, seed=1) == ["data.seed 1, here 0"]
    assert of(counts, share=0.2) == ["data.val_share 0.2, here 0.4", "held-out images 2, here 4"]
    assert of({"ann": 6, "bob": 6}) == ["images 12, here 11"]
    assert of({"ann": 5, "cyd": 6}) == ["names of identities or images, their order, or the files under them"]
    assert of({"ann": 5, "bob": 3, "cyd": 3})[0] == "identities 3, here 2"
    assert of(counts, seed=1, share=0.2, held=False) == []
    assert of({"ann": 5, "cyd": 6}, held=False) == [
        "names of identities or images, their order, or the files under them"
    ]
    plain = [Split(Named(counts), 0.0, seed).facts for seed in (0, 1)]
    assert differences(plain[1], plain[0]) == []  # a seed draws nothing then


def _earlier(reader: FaceReader, share: float, seed: int) -> dict[str, Any]:
    """`split` as FaceVeil wrote it before it drew by names."""
    held = held_out(reader.labels, share, seed)
    text = reader.labels.numpy().tobytes() + held.numpy().tobytes()
    return {"images": len(held), "held_out": int(held.sum()), "hash": hashlib.sha256(text).hexdigest()}


class TestEarlierCheckpoints:
    def test_their_images_are_drawn_as_they_were(self, caplog: pytest.LogCaptureFixture) -> None:
        faces = DrawnFaces(4, 6, SIZE)
        data = FaceDataModule(faces, val_share=0.34, seed=0)
        data.setup("fit")
        new = Split(faces, 0.34, 0).chosen
        old = held_out(faces.labels, 0.34, 0)
        assert not torch.equal(new, old)
        with caplog.at_level(logging.INFO, "faceveil"):
            data.load_state_dict({**data.state_dict(), "split": _earlier(faces, 0.34, 0)})
        assert data.held_out is not None
        assert data.training is not None
        assert [
            data.held_out.number(i) for i in range(len(data.held_out))
        ] == old.nonzero().flatten().tolist()
        assert [data.training.number(i) for i in range(len(data.training))] == (
            ~old
        ).nonzero().flatten().tolist()
        assert "drew its held-out images by number" in caplog.text
        again = data.state_dict()["split"]  # of a run that goes on
        assert (again["version"], again["hash"]) == (BY_NUMBER, _earlier(faces, 0.34, 0)["hash"])
        another = FaceDataModule(faces, val_share=0.34, seed=0)
        another.setup("fit")
        another.load_state_dict(data.state_dict())
        assert another.state_dict()["split"] == again

    def test_of_other_data_they_are_refused(self) -> None:
        data = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34, seed=1)
        data.setup("fit")
        with pytest.raises(
            ValueError, match=r"other data \(which images are held out: data\.val_share, data\.seed"
        ):
            data.load_state_dict({**data.state_dict(), "split": _earlier(data.reader, 0.34, 0)})

    def test_two_checkpoints_drawn_in_two_ways_do_not_go_together(self) -> None:
        data = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34, seed=0)
        data.setup("fit")
        now = dict(data.state_dict()["split"])
        data.check_split(_earlier(data.reader, 0.34, 0), "checkpoint a")
        with pytest.raises(
            ValueError, match=r"^checkpoint b was made with other data \(held-out images are drawn by name"
        ):
            data.check_split(now, "checkpoint b")


def _met(theirs: FaceDataModule, ours: FaceDataModule, stage: str = "fit") -> FaceDataModule:
    theirs.setup("fit")
    ours.setup(stage)
    ours.load_state_dict(theirs.state_dict())
    return ours


class TestDataModule:
    def test_accept_says_so_and_goes_on(self, caplog: pytest.LogCaptureFixture) -> None:
        made = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34, seed=0)
        ours = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34, seed=1, other_data="accept")
        _met(made, ours, "validate")
        assert ours.held_out is not None
        assert (
            "data.seed 0, here 1): metrics of held-out images may be of images it was trained on"
            in caplog.text
        )

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                {"mean": 0.4},
                r"normalised with mean 0\.5 and std 0\.5: give data\.mean and data\.std so, not 0\.4",
            ),
            ({"std": 0.25}, r"normalised with mean 0\.5 and std 0\.5"),
            ({"reader": DrawnFaces(4, 6, SIZE, first_identity=7)}, "names of identities or images"),
        ],
    )
    @pytest.mark.parametrize("stage", ["fit", "validate", "test"])
    def test_what_makes_figures_wrong(self, other: dict[str, Any], message: str, stage: str) -> None:
        arguments: dict[str, Any] = {"reader": DrawnFaces(4, 6, SIZE), "val_share": 0.34}
        with pytest.raises(ValueError, match=message):
            _met(FaceDataModule(**arguments), FaceDataModule(**(arguments | other)), stage)

    def test_without_held_out_images_other_people_are_welcome(self) -> None:
        made = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34)
        _met(made, FaceDataModule(DrawnFaces(4, 6, SIZE, first_identity=7)), "validate")

    def test_a_checkpoint_that_does_not_tell_gets_no_held_out_figures(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """That of a federation: its owners held out images of their own."""
        data = FaceDataModule(DrawnFaces(4, 6, SIZE), val_share=0.34)
        data.setup("validate")
        data.load_state_dict({**data.state_dict(), "split": None})
        assert data.held_out is None
        assert "does not tell which images it held out" in caplog.text


class TestGoingOn:
    """`fit` with a checkpoint, the data being 18 training images in batches of four."""

    @pytest.fixture(scope="class")
    def halfway(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("run")
        fit(folder, None, schedule="constant", max_steps=6)
        return folder / "checkpoints" / "last.ckpt"

    @pytest.fixture(scope="class")
    def ended(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("run")
        fit(folder, None, schedule="constant", max_epochs=1)
        return folder / "checkpoints" / "last.ckpt"

    @pytest.fixture
    def change(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        from tests import small_run

        def to(**others: Any) -> None:
            def made(_: object = None, **more: Any) -> FaceDataModule:
                faces = DrawnFaces(identities=3, images_per_identity=others.pop("images", 8), size=16,
                                   seed=others.pop("drawn", 0))  # fmt: skip
                desensitizer = MaskOut(
                    freeform=(0.4, 0.8), count=12, draw="batch", seed=others.pop("mask_seed", 0)
                )
                given = {"global_batch_size": 4, "val_share": 0.25, "cache": True} | more | others
                return FaceDataModule(faces, desensitizer, **given)

            monkeypatch.setattr(small_run, "data", made)

        return to

    @pytest.mark.parametrize(
        ("others", "message"),
        [
            ({"global_batch_size": 6}, r"after 2 of its batches.*data\.global_batch_size 4, here 6"),
            (
                {"global_batch_size": 9},
                r"data\.global_batch_size 4, here 9",
            ),  # two batches are an epoch of these
            ({"seed": 5, "val_share": 0.0}, r"other data \(data\.val_share 0\.25, here 0\.0"),
            ({"seed": 5}, r"other data \(data\.seed 0, here 5\)"),
            ({"drawn": 1}, r"other pixels \(reader\.seed 0, here 1\): go on with its config\.yaml"),
            ({"images": 9}, r"other data \(images 24, here 27\): go on with those of its config\.yaml"),
            (
                {"mask_seed": 1},
                r"desensitized by MaskOut \(mask ratio 0\.4574, .*, here they are desensitized by",
            ),
            (
                {"mask_seed": 1, "other_data": "accept"},
                r"after 2 of its batches, and its settings were others \(data\.desensitizer\)",
            ),
        ],
    )
    def test_in_the_midst_of_an_epoch(
        self, halfway: Path, tmp_path: Path, change: Callable[..., None], others: dict[str, Any], message: str
    ) -> None:
        change(**others)
        diary = Diary()
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, halfway, diary, schedule="constant", max_steps=12)
        assert not [event for event in diary.events if event[0] == "step"]

    def test_at_an_epoch_s_end_a_batch_size_may_change(
        self, ended: Path, tmp_path: Path, change: Callable[..., None]
    ) -> None:
        change(global_batch_size=6)
        diary = Diary()
        fit(tmp_path, ended, diary, schedule="constant", max_epochs=2)
        shown = [image for event in diary.events if event[0] == "step" for image in event[4]]
        assert len(shown) == len(set(shown)) == 18
        change(images=9)
        with pytest.raises(ValueError, match=r"other data \(images 24, here 27"):
            fit(tmp_path / "b", ended, schedule="constant", max_epochs=2)


def test_an_epoch_s_rest_has_to_be_what_was_not_shown() -> None:
    desensitizer, other = ({"method": "MaskOut", "mask_hash": name} for name in "ab")
    before = {"global_batch_size": 4, "seed": 0, "desensitizer": desensitizer, "batches_done": 3}
    now = {**before, "seed": 1, "desensitizer": other}
    with pytest.raises(
        ValueError, match=r"after 3 of its batches.*data\.seed 0, here 1; data\.desensitizer\)"
    ):
        check_place(before, now)
    check_place({**before, "batches_done": 0}, now)
    check_place({}, now)  # of an earlier FaceVeil


LONGER = ("fit", "--trainer.max_epochs", "3")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("validate", "--seed_everything", "1"), "data.seed 0, here 1"),
        ((*LONGER, "--data.init_args.val_share", "0.4"), "data.val_share 0.2, here 0.4"),
        ((*LONGER, "image"), "images 48, here 49"),
    ],
)  # fmt: skip
def test_the_command_line_refuses_other_data_and_leaves_the_run_as_it_was(
    run_main: RunMain,
    fitted: Path,
    drawn_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    message: str,
) -> None:
    shutil.copytree(fitted / "runs", tmp_path / "runs")
    root = drawn_root
    if args[-1] == "image":
        root, args = tmp_path / "faces", args[:-1]
        shutil.copytree(drawn_root, root)
        shutil.copyfile(root / "Drawn_00002/Drawn_00002_0001.png", root / "Drawn_00002/Drawn_00002_0009.png")
    config = write_config(tmp_path / "tiny.yaml", root, "ResNetFSM")
    before = yaml.safe_load((tmp_path / "runs/tiny/config.yaml").read_text())
    line = refused(capsys, lambda: run_main(args[0], "--config", config, *args[1:], "--ckpt_path", "last"))
    assert message in line
    assert yaml.safe_load((tmp_path / "runs/tiny/config.yaml").read_text()) == before
