"""Judges: ours and a toy keep the contract; names stand for judges; somebody else's file runs no code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_app.attacks.link import KEPT, LinkAttack
from lightning_app.evaluation import DlibJudge, Judge, LinkJudge, RecogniserJudge
from lightning_app.evaluation.judges.linking import teacher_hashes
from lightning_app.evaluation.judges.named import known_name, named_judge
from lightning_app.metrics.reidentification import mate_ranks, similarity
from lightning_app.models.known import Untrusted, make_known, trusting
from lightning_app.networks.linking import LinkStudent
from tests.evaluation.judge_contract import SIZE, JudgeContract

WITH_DLIB = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


class Grid(Judge):
    """A toy: colours in a grid, compared by distance."""

    input_size = 16
    metric = "euclidean"

    def __init__(self, side: int = 4) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.ones(1))

    def embed(self, images: Tensor) -> Tensor:
        assert images.shape[2:] == (16, 16)
        return self.weight * adaptive_avg_pool2d(images, self.side).flatten(1)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"side": self.side}


class TestGrid(JudgeContract):
    def make(self) -> Judge:
        return Grid()


class TestRecogniserJudge(JudgeContract):
    refuses_other_sizes = True

    @pytest.fixture(autouse=True)
    def _run(self, fitted: Path) -> None:
        self.run = fitted / "runs/tiny"

    def make(self) -> RecogniserJudge:
        return RecogniserJudge(self.run)


class TestLinkJudge(JudgeContract):
    """A student that nobody trained, beside the teacher that it names."""

    of_released = True

    @pytest.fixture(autouse=True)
    def _student(self, tmp_path: Path) -> None:
        self.path, dim = tmp_path / "linker.ckpt", 48
        torch.manual_seed(0)
        weights = LinkStudent("resnet18", 3, SIZE, dim, 8).state_dict()
        torch.save(
            {
                "state_dict": {f"network.{name}": value for name, value in weights.items()},
                "hyper_parameters": {
                    "backbone": "resnet18",
                    "width": 8,
                    "in_channels": 3,
                    "input_size": SIZE,
                },
                KEPT: {"pixels": SIZE, "dim": dim, "teacher": teacher_hashes(Grid())[0], "batches": 1},
            },
            self.path,
        )

    def make(self) -> LinkJudge:
        return LinkJudge(LinkAttack(self.path), Grid())


@pytest.mark.skipif(not WITH_DLIB, reason="dlib is not installed")
class TestDlibJudge(JudgeContract):
    def make(self) -> DlibJudge:
        return DlibJudge()


def test_judges_that_differ_are_told_apart() -> None:
    other = Grid()
    nn.init.constant_(other.weight, 2)
    assert len({judge.description for judge in (Grid(), Grid(3), other)}) == 3
    assert Grid(3).title == "Grid, side 3"


def test_distance_is_a_metric_of_its_own() -> None:
    """By direction the first is nearer to (2, 0), by distance to (0, 1)."""
    gallery, probes, zero = (
        torch.tensor([[3.0, 0.0], [0.5, 0.5]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([0]),
    )
    people = torch.tensor([0, 1])
    assert mate_ranks(probes, zero, gallery, people).tolist() == [1]
    assert mate_ranks(probes, zero, gallery, people, "euclidean").tolist() == [2]
    found = similarity(probes.expand(2, -1), gallery, "euclidean")
    torch.testing.assert_close(found, torch.tensor([-2.0, -(0.5**0.5)]))


def test_a_mask_is_resized_with_the_image() -> None:
    seen: list[Tensor] = []

    class Masked(Grid):
        def embed_masked(self, images: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
            assert mask is not None
            seen.append(mask)
            return self.embed(images)

    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    Masked()(torch.rand(2, 3, 32, 32), mask, torch.zeros(2, dtype=torch.int64))
    assert seen[0].shape == (1, 1, 16, 16)
    assert seen[0][0, 0, :, 0].tolist() == [1] * 16
    assert seen[0].mean() == 0.5


def test_names_stand_for_judges(fitted: Path) -> None:
    run = str(fitted / "runs/tiny")
    assert [known_name(text) for text in ("dlib", run, "nowhere.ckpt")] == [True, True, False]
    judge = named_judge(run, precision="bf16-mixed")
    assert isinstance(judge, RecogniserJudge)
    assert judge.description.endswith(" 0.5 0.5 bf16-mixed")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt: no such file"):
        named_judge("nowhere.ckpt")


def test_a_judge_without_embed_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Judge does not override embed"):
        Judge()(torch.zeros(1, 3, 8, 8))


def test_a_file_beside_a_checkpoint_makes_no_judge_of_its_own(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of ours it may name; another is not imported unless it is trusted."""
    part = {"class_path": "lightning_app.evaluation.RecogniserJudge",
            "init_args": {"checkpoint": str(fitted / "runs/tiny")}}  # fmt: skip
    assert isinstance(make_known(part, Judge, "their.yaml: judge"), RecogniserJudge)
    (tmp_path / "their_judge.py").write_text(
        "import lightning_app.evaluation as e\nclass Theirs(e.Judge):\n    pass\nran = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = {"class_path": "their_judge.Theirs"}
    with pytest.raises(Untrusted, match=r"their\.yaml: judge: names .* give --trust their_judge\.Theirs"):
        make_known(theirs, Judge, "their.yaml: judge")
    with trusting(["their_judge.Theirs"]):
        assert type(make_known(theirs, Judge, "their.yaml: judge")).__name__ == "Theirs"
