"""Every benchmark runs at a tiny size: `make bench` must not be found broken by who wants its table."""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import detectors, gpu, gpu_steps, near_ties, scale
from benchmarks.timing import Row
from datamodules import DrawnFaces, FolderFaces
from lightning_app.alignment.detect import Box, Face
from lightning_app.alignment.similarity import Pixels, Points, template
from lightning_app.masks.learned import Growth, grown
from lightning_app.masks.rounding import SLACK

FOUND = command.found()


def cases() -> list[Any]:
    """Each module with the sizes it names: `TINY`, and `TINY_SLOW` for what starts processes."""
    named = [
        pytest.param(name, sizes, id=f"{name}-{sizes}", marks=[pytest.mark.slow] if "SLOW" in sizes else [])
        for name, module in FOUND.items()
        for sizes in ("TINY", "TINY_SLOW")
        if hasattr(module, sizes)
    ]
    bare = [
        name
        for name, module in FOUND.items()
        if not hasattr(module, "TINY") and not hasattr(module, "TINY_SLOW")
    ]
    return [*named, *(pytest.param(name, "TINY", id=f"{name}-names no sizes") for name in bare)]


@pytest.mark.parametrize(("name", "sizes"), cases())
def test_it_runs_at_a_tiny_size(
    name: str, sizes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEVEIL_DATA", str(tmp_path))  # made-up faces, whatever lies on this machine
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = FOUND[name].measure(**getattr(FOUND[name], sizes))
    assert rows
    for row in rows:
        assert row.bound > 0
        assert all(math.isfinite(value) for value in (row.ours_s, row.peer_s, row.ratio)), row
        assert row.low <= row.ratio <= row.high, row
    assert len({row.name for row in rows}) == len(rows)
    command._table(rows)


def test_every_size_is_an_argument() -> None:
    """What `make bench` measures are the defaults: the tiny sizes override some of them and nothing else."""
    for module in FOUND.values():
        known = inspect.signature(module.measure).parameters
        named = {*getattr(module, "TINY", {}), *getattr(module, "TINY_SLOW", {})}
        assert {"repeats", *named} <= known.keys(), module.__name__
        assert all(one.default is not inspect.Parameter.empty for one in known.values()), module.__name__
    assert set(FOUND) >= {"audit", "ddp", "dssim", "ebp", "fit", "memory", "reader", "release", "search"}


def test_the_tables_of_scale() -> None:
    small = scale.cost("resnet18", size=64, points=("layer3",))
    assert small.flops > 0
    speed, bound = scale.images_per_s(small, small, 64, 1, 100, 1.0)
    assert speed > 0
    assert bound in ("arithmetic and memory", "kernel launches", "all-reduce")


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_can_be_tried_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--quick"]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [line["what"][:3] for line in found["lines"]] == ["fit", "FSM"]
    assert all(0 < line["low"] <= line["ratio"] <= line["high"] for line in found["lines"])
    assert found["lines"][0]["mfu"] > 0
    assert not found["left_out"]
    words = (tmp_path / "profile.txt").read_text()
    assert "== fit: resnet18" in words
    assert "== bare loop: resnet18" in words
    assert "fit ÷ bare loop" in capsys.readouterr().out


def out_of_memory() -> None:
    raise torch.cuda.OutOfMemoryError


def test_what_is_over_the_budget_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.plan(quick=False, cuda=True)[0] == ("graphs", gpu_steps.Sizes("resnet34", 112, 128, 6, 39, 3))
    bench = gpu_steps.Bench(torch.device("cpu"), "32-true", tmp_path, budget=1)
    with bench.case("too large"):
        out_of_memory()
    assert bench.left_out == ["too large: does not fit into the card's memory"]
    assert json.loads((tmp_path / "gpu.json").read_text())["left_out"] == bench.left_out


def module(*rows: Row, fails: str = "") -> SimpleNamespace:
    def measure(repeats: int = 1) -> Sequence[Row]:
        assert not fails, fails
        return list(rows)

    return SimpleNamespace(measure=measure)


def row(name: str) -> Row:
    return Row(name, 1.0, 2.0, 0.5, 0.4, 0.6, bound=1)


def test_one_that_fails_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = {
        "first": module(row("one")), "broken": module(fails="3 of [7] are\nodd"),
        "last": module(row("two"), row("three")),
    }  # fmt: skip
    monkeypatch.setattr(command, "found", lambda: there)
    assert command.main(["--json", str(tmp_path / "rows.json")]) == 1
    shown, errors = capsys.readouterr()
    assert [one["name"] for one in json.loads((tmp_path / "rows.json").read_text())] == [
        "one",
        "two",
        "three",
    ]
    for name in ("one", "two", "three"):
        assert name in shown
    assert shown.splitlines()[-1] == "failed: broken: AssertionError: 3 of [7] are"
    assert "Traceback" in errors, "what its author needs"
    assert command.main(["first", "last"]) == 0
    assert "failed" not in capsys.readouterr().out
    assert command.main(["broken"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "broken: 0 s",
        "failed: broken: AssertionError: 3 of [7] are",
    ]


def test_what_is_measured_is_shown_where_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Sequence[Row]:
        raise KeyboardInterrupt

    there = {
        "first": module(row("one")), "second": SimpleNamespace(measure=interrupted), "third": module(row("three")),
    }  # fmt: skip
    monkeypatch.setattr(command, "found", lambda: there)
    assert command.main([]) == 1
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "three" not in shown
    assert shown.splitlines()[-1] == "failed: second: interrupted, and what comes after it was not measured"


def test_unknown_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "found", lambda: {"first": module(row("one"))})
    with pytest.raises(SystemExit):
        command.main(["second"])
    assert "no benchmark named second; there are: first" in capsys.readouterr().err


class Placed:
    """A detector that puts landmarks where it is told, and finds nobody every third time."""

    def __init__(self, right: float, misses: bool = False) -> None:
        self.right, self.misses, self.asked = right, misses, 0

    def find(self, pixels: Pixels) -> list[Face]:
        self.asked += 1
        if self.misses and self.asked % 3 == 0:
            return []
        side = pixels.shape[0]
        return [Face((4.0, 4.0, side - 4.0, side - 4.0), 1.0, template(side) + np.array([self.right, 0]))]

    def landmarks(self, pixels: Pixels, box: Box) -> Points:
        raise AssertionError("landmarks came with the face")


def test_detectors_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DrawnFaces(6, 1, 112).write_images(tmp_path)
    files = detectors.chosen(tmp_path, 6)
    assert len(files) == 6
    one, other = (detectors.look(finder, files) for finder in (Placed(0), Placed(1.5, misses=True)))
    assert (len(one.aligned), len(other.aligned)) == (6, 4)
    assert other.faults == {"no face": 2}
    assert one.scatter() == pytest.approx([0, 0], abs=1e-9)
    eyes = template(112)[:2]
    assert detectors.apart(one, other) == pytest.approx([1.5 / math.dist(*eyes)] * 2)
    with mock.patch.dict(detectors.FINDERS, {"centerface": lambda: Placed(0), "dlib": lambda: Placed(1.5)}):
        detectors.main([str(tmp_path), "--count", "6"])
    said = capsys.readouterr().out
    assert "6 of 6" in said
    assert "in the median" in said


def test_near_ties_are_counted(drawn_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What another library makes of masks is followed; a masker that is drawn anew is not one of near ties."""
    reader = FolderFaces(drawn_root, size=32, cache_index=False).open()
    images = reader.__getitems__(range(8))["image"].expand(-1, 3, -1, -1).float() / 255
    network = near_ties.masker_of(images, 8, 2)
    for growth in near_ties.GROWTHS:
        found = near_ties.changed(network, images, growth)
        assert found.images == 8
        assert found.followed == found.differing
    assert near_ties.score_error(network, images) < SLACK
    other = near_ties.masker_of(images * 0.5, 8, 2)
    with mock.patch.object(near_ties, "grown", side_effect=_in_turn(network, other)):
        found = near_ties.changed(network, images, Growth(4))
    assert found.differing == 8
    assert found.most > 0
    assert found.followed < 8
    near_ties.main([str(drawn_root), "--count", "2", "--size", "32"])
    assert "scores are off by" in capsys.readouterr().out


def _in_turn(*networks: nn.Module) -> Callable[..., Any]:
    turn = itertools.cycle(networks)
    return lambda _, *rest: grown(next(turn), *rest)
