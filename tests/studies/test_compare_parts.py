"""Parts of a comparison that need no run: whether a loss still falls, budgets, choices, the second paper's scores."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from datamodules import DrawnFaces
from lightning_app.metrics.scores import Indicators
from lightning_app.models import Linker
from lightning_app.report.columns import RELEASED, columns_of
from lightning_app.studies.compare import AttackerRun, Linking, Method, outcome, training
from lightning_app.studies.compare.attackers import check_folders
from lightning_app.studies.compare.choosing import chosen, longer, with_args
from lightning_app.studies.compare.curves import Curve, budgets, read_curve, still_falls, why_open
from lightning_app.studies.compare.measuring import measure_all
from lightning_app.studies.compare.outcome import Outcome
from lightning_app.studies.compare.scoring import flat, indicators, scored
from tests.commands.compared import Pool
from tests.models.attacked_data import attacked_data
from tests.models.test_linker import Corners

BLURRED = {"class_path": "lightning_app.desensitize.GaussianBlur"}


def test_a_loss_that_still_falls_is_told_from_one_that_is_flat() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = (0.02 * torch.randn(100, generator=generator)).tolist()
    falling = [2 - 0.01 * step + noise[step] for step in range(100)]
    flat_end = [2 - 0.04 * min(step, 40) + noise[step] for step in range(100)]
    rising = [1 + 0.01 * step + noise[step] for step in range(100)]
    assert still_falls(falling) is True
    assert still_falls(flat_end) is False
    assert still_falls(rising) is False
    assert still_falls([0.5] * 40) is False
    assert still_falls(falling[:19]) is None
    assert why_open(Curve(losses=tuple(falling))) == "its loss still falls"
    assert why_open(Curve(losses=tuple(flat_end))) == ""
    assert "19 were logged, 20 are needed" in why_open(Curve(losses=tuple(falling[:19])))


def test_a_schedule_that_ends_near_0_does_not_make_a_loss_flat() -> None:
    """Flat at the end because of the rate: what the loss did while the rate was high tells."""
    generator = torch.Generator().manual_seed(0)
    noise = (0.004 * torch.randn(100, generator=generator)).tolist()
    rates = tuple(1.0 if step < 70 else 0.01 for step in range(100))
    falling = tuple(2 - 0.01 * min(step, 70) + noise[step] for step in range(100))
    flat = tuple(2 - 0.04 * min(step, 20) + noise[step] for step in range(100))
    assert still_falls(falling) is False
    assert (
        why_open(Curve(losses=falling, rates=rates))
        == "its loss still fell when its learning rate was taken down"
    )
    assert why_open(Curve(losses=flat, rates=rates)) == ""
    assert why_open(Curve(losses=falling, rates=(1.0,) * 100)) == ""  # never taken down: the end tells
    early = tuple(1.0 if step < 19 else 0.01 for step in range(100))
    assert "19 were logged until then, 20 are needed" in why_open(Curve(losses=flat, rates=early))


def test_rates_are_read_where_all_were_logged(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/lr\n9,2.0,0.1\n19,1.0,0.2\n")
    assert read_curve(tmp_path).rates == (0.1, 0.2)
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/lr\n9,2.0,\n19,1.0,0.2\n")
    assert read_curve(tmp_path).rates == ()


def test_a_curve_is_read_with_what_was_logged_before_a_kill(tmp_path: Path) -> None:
    (tmp_path / "metrics.0.csv").write_text("epoch,step,train/l1,train/loss\n,9,50.0,70\n,19,40.0,60\n")
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/l1,train/loss\n,19,41.0,61\n,29,30.0,50\n1,29,,\n"
    )
    (tmp_path / "metrics.json").write_text('{"time/fit_s": 12.5, "run/steps": 30}')
    os.utime(tmp_path / "metrics.0.csv")  # copied last: the numbers tell the order, and no time stamps
    curve = read_curve(tmp_path)
    assert curve.steps == (9, 19, 29)
    assert curve.losses == (50.0, 41.0, 30.0)  # a GAN's L1, not its loss; of a step logged twice the later
    assert (curve.batches, curve.seconds) == (30, 12.5)
    assert read_curve(tmp_path / "nothing").steps == ()


def test_an_attack_that_measured_no_number_leaves_its_verdict_open() -> None:
    telea = mock.Mock()
    telea.against.return_value = telea
    out = mock.Mock(
        attacks=["Telea"], candidates={"blur": mock.MagicMock(), "mask": mock.MagicMock()}, results={}
    )
    for candidate in out.candidates.values():
        candidate.utility.return_value = {}
    out.open, out.tried = {}, lambda what, work: work()
    out.leave_open = partial(Outcome.leave_open, out)
    found = iter([{"psnr": 9.0}, {"psnr": math.nan}, {"psnr": 9.0}, {"psnr": math.inf}])
    linked = mock.Mock(attacked=lambda *given: {"rank1/linker": math.nan, "rank5/linker": 0.5})
    measurer = mock.Mock(subjects=[0], attacked=lambda *given: next(found), with_judge=lambda link: linked)
    maker = mock.Mock(shared=lambda *given: {}, own=lambda *given: {})
    links = {"mask": [("linker", mock.Mock())]}
    measure_all(out, measurer, maker, {"Telea": telea}, {}, links, mock.Mock(), mock.Mock(), 0, False, {})
    assert out.open == {
        "blur": {"Telea": "a metric of it is not a number"},
        "mask": {"linker": "a metric of it is not a number"},
    }
    assert out.results == {
        "blur": {"psnr": 9.0},
        "mask": {"psnr": 9.0, "Telea/psnr": math.inf, "rank5/linker": 0.5},
    }


def test_a_failed_attack_costs_no_other_example_and_is_one_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def pictures(data: object, released: object, attack: object, size: object) -> torch.Tensor:
        if attack == "breaks":
            raise ValueError("no such picture")
        return torch.zeros(2, 3, 16, 16)

    monkeypatch.setattr(outcome, "applies", lambda attack, data: True)
    monkeypatch.setattr(outcome, "pictures_of", pictures)
    out = mock.Mock(failed=[], examples={})
    out.tried = partial(Outcome.tried, out)
    candidate = mock.Mock(label="blur")
    candidate.setting.data.desensitizer.elsewhere = False
    reader = DrawnFaces(2, 2, 16)
    subjects = mock.Mock(reader=reader, device="cpu", labels=reader.labels)
    subjects.raw = lambda rows: reader.__getitems__(rows.tolist())["image"]
    attacks: dict[str, Any] = {RELEASED: None, "Telea": "breaks", "U-Net": "works"}
    Outcome.show(out, candidate, attacks, subjects, 2, True)
    assert [one.caption for one in out.examples["blur"]] == [RELEASED, "U-Net"]
    assert [one.caption for one in out.examples["verification set: blur"]] == [RELEASED, "U-Net"]
    assert out.failed == ["blur, Telea: examples: no such picture"]


@pytest.mark.parametrize("breaks", [RELEASED, "Telea"])
def test_what_could_not_be_measured_is_not_tried_again_for_examples(breaks: str) -> None:
    telea = mock.Mock()
    telea.against.return_value = telea
    out = mock.Mock(attacks=["Telea"], candidates={"blur": mock.MagicMock()}, results={}, open={}, failed=[])
    out.candidates["blur"].utility.return_value = {}
    out.tried, out.leave_open = partial(Outcome.tried, out), partial(Outcome.leave_open, out)
    out.show.side_effect = lambda candidate, attacks, *rest: shown.extend(attacks)
    shown: list[str] = []

    def attacked(candidate: object, attack: object, label: str, *rest: object) -> dict[str, float]:
        if label == breaks:
            raise ValueError("it breaks")
        return {"psnr": 9.0}

    measurer = mock.Mock(subjects=[0], attacked=attacked)
    maker = mock.Mock(shared=lambda *given: {}, own=lambda *given: {})
    measure_all(out, measurer, maker, {"Telea": telea}, {}, {}, mock.Mock(), mock.Mock(), 2, False, {})
    assert out.failed == [f"blur, {breaks}: it breaks"]
    assert shown == ([] if breaks == RELEASED else [RELEASED])


def test_budgets_are_said_to_be_the_same_or_each_methods_own() -> None:
    same = {"blur": Curve(batches=30, seconds=10.0), "mosaic": Curve(batches=30, seconds=14.0)}
    assert budgets(same) == "30 batches for each method, 10 to 14 s"
    other = same | {"mask": Curve(batches=20, seconds=9.0)}
    assert budgets(other).startswith("not the same for each method, in batches: blur 30, mosaic 30, mask 20")


def test_some_methods_are_chosen_and_attackers_are_trained_longer(tmp_path: Path) -> None:
    assert chosen("only", {"a": 1, "b": 2, "c": 3}, ["c", "a"]) == {"a": 1, "c": 3}
    assert chosen("only", {"a": 1}, None) == {"a": 1}
    with pytest.raises(ValueError, match="only: 'z'; there are a, b"):
        chosen("only", {"a": 1, "b": 2}, ["z"])
    config = tmp_path / "attacker.yaml"

    def trained(**trainer: object) -> None:
        model = {"class_path": "lightning_app.models.UNetRestorer"}
        config.write_text(json.dumps({"trainer": trainer, "model": model, "data": attacked_data(None, 32)}))

    trained(max_epochs=3, check_val_every_n_epoch=3)
    made = longer(AttackerRun(str(config)), 4)
    assert made.args == ["--trainer.max_epochs", "12", "--trainer.check_val_every_n_epoch", "12"]
    for given in (
        ["--trainer.max_epochs=8"],
        ["--trainer", "{max_epochs: 8}"],
        ["--trainer={max_epochs: 8}"],
    ):
        linker = Linking(str(config), given, teacher="x")
        assert longer(linker, 0.5).args[len(given) :] == [
            "--trainer.max_epochs",
            "4",
            "--trainer.check_val_every_n_epoch",
            "2",
        ], given
    assert longer(linker, 1) is linker
    with pytest.raises(ValueError, match="budget: 0; give how many times"):
        longer(linker, 0)
    trained(max_epochs=3, max_steps=6)  # whichever comes first ends it
    made = longer(AttackerRun(str(config)), 4)
    assert made.args == ["--trainer.max_epochs", "12", "--trainer.max_steps", "24"]
    trained(max_epochs=1)
    made = longer(AttackerRun(str(config)), 4)
    assert made.args == ["--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "4"]
    trained(max_steps=3)
    with pytest.raises(ValueError, match=r"budget: .*attacker\.yaml has no trainer\.max_epochs"):
        longer(AttackerRun(str(config)), 2)
    trained(max_epochs=3, max_time="00:01:00:00")
    with pytest.raises(
        ValueError, match=r"budget: .* has trainer\.max_time=00:01:00:00, which ends its training"
    ):
        longer(AttackerRun(str(config)), 2)
    with pytest.raises(ValueError, match=r"U-Net: .*max_epoks"):
        longer(AttackerRun(str(config), ["--trainer.max_epoks=3"], label="U-Net"), 2)


@pytest.mark.parametrize(
    ("labels", "attackers", "message"),
    [
        (
            {"clean": BLURRED},
            [Linking("l.yaml")],
            "linker on methods.clean and linker on clean faces would share the folder runs/both/clean_linker: rename",
        ),
        (
            {"blur": BLURRED, "blur_U-Net": None},
            [AttackerRun("u.yaml", label="U-Net")],
            "U-Net on methods.blur and methods.blur_U-Net would share the folder runs/both/blur_U-Net",
        ),
        (
            {"blur": BLURRED},
            [AttackerRun("u.yaml", label="x"), Linking("l.yaml", label="x")],
            "x on methods.blur and x on methods.blur would share",
        ),
        ({"parts": None}, [], "methods.parts and what the comparison writes there would share the folder"),
        ({"clean": None, "blur": BLURRED, "a": BLURRED}, [Linking("l.yaml"), AttackerRun("u.yaml")], ""),
        (
            {"blur": BLURRED},
            [Linking("l.yaml"), Linking("l.yaml", label="after", after="unshuffle")],
            "",
        ),
    ],
)
def test_labels_that_would_share_a_folder_are_refused(
    labels: dict[str, object], attackers: list[AttackerRun], message: str
) -> None:
    candidates: dict[str, Any] = {}
    for label, desensitizer in labels.items():
        candidates[label] = mock.Mock(label=label, folder=Path("runs/both"))
        candidates[label].setting.desensitizer = desensitizer
    if not message:
        check_folders(candidates, attackers)
        return
    with pytest.raises(ValueError, match=message):
        check_folders(candidates, attackers)


def test_overrides_of_every_run_come_before_its_own() -> None:
    small = ["--data.reader.init_args.size=64"]
    assert with_args(Method("a.yaml", ["--trainer.max_epochs=2"]), small).args == [
        *small,
        "--trainer.max_epochs=2",
    ]
    linker = with_args(Linking("b.yaml", teacher="x"), small)
    assert (linker.args, linker.teacher) == (small, "x")
    assert with_args(AttackerRun("c.yaml", ["--x"]), None).args == ["--x"]


RESULTS = {
    "none": {"accuracy": 0.9, "lpips": 0.0, "similarity/good": 1.0},
    "blur": {"accuracy": 0.81, "lpips": 0.2, "similarity/good": 0.7, "U-Net/lpips": 0.1, "U-Net/similarity/good": 0.8,
             "Telea/lpips": 0.15, "Telea/similarity/good": 0.75},
    "mask": {"accuracy": 0.72, "lpips": 0.6, "similarity/good": 0.1, "U-Net/lpips": 0.5, "U-Net/similarity/good": 0.4},
    "untrained": {"lpips": 0.6, "similarity/good": 0.1, "U-Net/lpips": 0.5, "U-Net/similarity/good": 0.4},
    "unattacked": {"accuracy": 0.72, "lpips": 0.6, "similarity/good": 0.1},
}  # fmt: skip


def test_indicators_are_raw_and_scores_are_of_the_rows() -> None:
    found = indicators(RESULTS, ["U-Net", "Telea"], "good", "none")
    assert set(found) == {"blur", "mask"}  # a row without an indicator is none, and clean faces are no row
    expected = Indicators(0.2, 0.3, 0.1, 0.2, 0.9)
    one, attack, told = found["blur"]
    assert (attack, told) == ("U-Net", "")  # which leaves less private than Telea
    assert vars(one) == pytest.approx(vars(expected))
    stored = flat(found)
    assert stored["compare/mask/indicator/s5"] == pytest.approx(0.8)
    assert stored["compare/blur/indicator/attack"] == "U-Net"
    assert not [key for key in stored if "privacy" in key]
    heads, cells = scored(found, "good", "none").table()
    rows = [[cell.text for cell in row] for row in cells]
    assert rows[0][:7] == ["blur", "0.200", "0.300", "0.100", "0.200", "0.900", "U-Net"]
    assert heads[-4:] == ["privacy", "accuracy", "product (text)", "mean (Table 2)"]
    assert [row[-4:] for row in rows] == [
        ["0.500", "1.000", "0.500", "0.750"],
        ["1.000", "0.500", "0.500", "0.750"],
    ]
    assert indicators(RESULTS, ["U-Net"], "good", "") == {}
    assert indicators({k: {n: v for n, v in f.items() if "lpips" not in n} for k, f in RESULTS.items()},
                      ["U-Net"], "good", "none") == {}  # fmt: skip


def test_a_failed_attack_is_a_hole_of_the_scores_and_no_good_one() -> None:
    """Of `mask` the U-Net failed, and Telea alone would make it the most private; of `blur` its loss still falls."""
    results = {label: dict(metrics) for label, metrics in RESULTS.items()}
    results["mask"] |= {"Telea/lpips": 0.59, "Telea/similarity/good": 0.15}
    for key in ("U-Net/lpips", "U-Net/similarity/good"):
        del results["mask"][key]
    left_open = {
        "mask": {"U-Net": "its run failed", "linker": "its run failed"},
        "blur": {"U-Net": "it still falls"},
    }
    found = indicators(results, ["U-Net", "Telea"], "good", "none", left_open)
    assert math.isnan(found["mask"].of.s3)
    assert found["mask"][1:] == ("", "U-Net: its run failed")  # a linker restores nothing
    assert flat(found)["compare/mask/indicator/open"] == "U-Net: its run failed"
    assert not [key for key, value in flat(found).items() if value != value or "mask/indicator/s3" in key]
    made = scored(found, "good", "none")
    rows = {row[0].text: row[1:] for row in made.table()[1]}
    assert [cell.text for cell in rows["mask"]] == [
        "0.600",
        "0.900",
        "–",
        "–",
        "0.800",
        "–",
        "–",
        "0.500",
        "–",
        "–",
    ]
    assert rows["blur"][5].interval == "at most, U-Net: it still falls"
    assert rows["blur"][6].text == "1.000"  # the only row whose privacy is known
    assert made.plain()["mask"]["privacy"] is None


def test_what_was_measured_of_nobody_has_no_column() -> None:
    with_it = [column.figure for column, _ in columns_of(["good"], [], RESULTS)]
    without = [column.figure for column, _ in columns_of(["good"], [], {"none": {"dssim": 0.0}})]
    assert "lpips" in with_it
    assert "lpips" not in without
    assert "psnr_hidden" in without


def test_a_linker_that_would_learn_from_another_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on clean faces nor on any method: all of it would be lost."""
    setting = mock.Mock(model=Linker(teacher=Corners()))
    monkeypatch.setattr(training, "linker_settings", lambda *given: setting)
    monkeypatch.setattr(training, "train_attacker", lambda *given: pytest.fail("trained"))
    out = mock.Mock(failed=[], open={})
    out.tried, out.leave_open = partial(Outcome.tried, out), partial(Outcome.leave_open, out)
    measurer = mock.Mock(judges={"clean": Pool()})
    linker = Linking("linker.yaml", label="linker", teacher="clean")
    found = training.train_linkers({"blur": mock.Mock()}, [linker], {}, measurer, 0, out, {})
    assert found == ({}, {})
    assert out.open == {"blur": {"linker": "judge clean is not the teacher that it learns from"}}
    assert len(out.failed) == 1
    assert out.failed[0].startswith("training: linker: model.teacher in linker.yaml has the hash ")
