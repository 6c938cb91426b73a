"""A measurement keeps number, interval, label and direction together, in memory and in flat files."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from lightning_app.core import files, log_keys
from lightning_app.core import measurement as measurement_module
from lightning_app.core.log_keys import (
    KINDS,
    higher_is_better,
    is_verification,
    kind_of,
    measurement,
    read,
    value_key,
)
from lightning_app.core.measurement import Measurement, find, flat
from lightning_app.metrics import verification

SPREAD = Measurement(
    "lfw/accuracy_s2", 0.8, 0.7, 0.9, True, "lfw accuracy, clean vs desensitized", 0.05, "lfw/std_s2", "_s2"
)


def test_the_tail_stays_at_the_end_of_every_key() -> None:
    assert SPREAD.flat() == {
        "lfw/accuracy_s2": 0.8, "lfw/std_s2": 0.05, "lfw/accuracy_low_s2": 0.7, "lfw/accuracy_high_s2": 0.9
    }  # fmt: skip
    judged = Measurement("rank1/dlib", 0.5, 0.4, 0.6, tail="/dlib")
    assert list(judged.flat()) == ["rank1/dlib", "rank1_low/dlib", "rank1_high/dlib"]
    assert find(judged.flat(), "rank1/dlib", "/dlib") == judged
    assert find({}, "rank1/dlib", "/dlib") is None
    assert Measurement("a/b", 0.5).interval == (0.5, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tail": "_s3"}, r"^Measurement: key 'a/b' does not end with its tail '_s3'$"),
        ({"std": 0.1}, r"^Measurement: a/b has std=0\.1: give std_key, the log key of it, too$"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Measurement("a/b", 1.0, **given)  # type: ignore[arg-type]


def test_the_tables_line_gives_label_direction_and_keys() -> None:
    assert measurement("lfw/accuracy_s2", 0.8, 0.7, 0.9, 0.05) == SPREAD
    tar = measurement("lfw/tar_at_far_1e-2", 0.4)
    assert (tar.label, tar.higher_is_better) == ("lfw TAR@FAR=1e-2", True)
    gate = measurement("fsm/contribution_layer3", 0.1, 0.0, 0.2)
    assert gate.label == "fsm contribution of the gate at layer3"
    assert list(gate.flat()) == [gate.key, "fsm/contribution_layer3_low", "fsm/contribution_layer3_high"]
    assert measurement("privacy/psnr", 20.0).higher_is_better is False  # hides less where it is higher
    foreign = measurement("my/figure", 1.0)
    assert (foreign.label, foreign.higher_is_better, foreign.form) == ("my/figure", None, ".4f")


def test_flat_figures_are_read_as_they_were_born() -> None:
    scores, same, folds = [0.9, 0.2, 0.8, 0.4] * 5, [True, False] * 10, [1, 1, 2, 2] * 5
    found = verification(scores, same, folds, bootstrap=20)
    born = [one for suffix in ("", "_s2") for one in found.measurements("lfw", suffix)]
    assert flat(born) == {**found.as_dict("lfw"), **found.as_dict("lfw", "_s2")}
    assert sorted(read(flat(born)), key=lambda one: one.key) == sorted(born, key=lambda one: one.key)


def test_what_was_known_at_birth_goes_before_the_table_and_numbers_are_the_files() -> None:
    mine = Measurement("my/gap", 0.123456789, 0.1, 0.2, False, "gap between groups")
    shown = read({"my/gap": 0.1234568, "my/gap_low": 0.1, "my/gap_high": 0.2, "privacy/dssim": 0.5}, [mine])
    assert [(one.label, one.value) for one in shown] == [("dSSIM", 0.5), ("gap between groups", 0.1234568)]


def test_a_value_whose_key_ends_like_an_end_is_a_value() -> None:
    born = [
        Measurement(f"val/recall_{name}", 0.5, 0.4, 0.6, True, f"recall, {name}")
        for name in ("low", "mid", "high")
    ]
    born += [Measurement("my/too_high", 0.3, label="too high"), Measurement("my/std", 0.2, label="spread")]
    assert sorted(read(flat(born), born), key=lambda one: one.key) == sorted(born, key=lambda one: one.key)
    # nobody knows them any more: what could be an end of nothing is a value, and the interval is nobody else's
    keys = [one.key for one in read({"val/recall_low": 0.5, "val/recall_high": 0.6, "image/std": 0.1})]
    assert sorted(keys) == ["image/std", "val/recall_high", "val/recall_low"]
    mine = [Measurement("val/recall_low", 0.5), Measurement("val/recall_high", 0.6)]
    (whole,) = (one for one in read({"val/recall": 0.7} | flat(mine), mine) if one.key == "val/recall")
    assert whole.interval == (0.7, 0.7)


def test_every_line_is_found_by_its_key_and_by_no_other() -> None:
    for kind in KINDS:
        places = ("lfw", "layer3")[: kind.key.count("{}")]
        assert kind_of(kind.key.format(*places)) == (kind, places)
    for key in ("accuracy", "/accuracy", "a/b/accuracy", "lfw/accuracy_low", "lfw/tar_at_far_", "lfw/std"):
        assert kind_of(key) is None, key
    assert value_key("lfw/std") == "lfw/accuracy"
    assert value_key("fsm/contribution_all_high") == "fsm/contribution_all"
    assert value_key("my_low") == "my_low"


@pytest.mark.parametrize(
    ("key", "theirs"),
    [
        ("lfw/accuracy", True), ("lfw/std_s3", True), ("lfw/tar_at_far_1e-2_low_s2", True), ("own/eer_high", True),
        ("lfw/auc_std", False), ("lfw/std_low", False), ("fsm/contribution_all", False), ("privacy/dssim", False),
        ("lfw/accurcy", False),
    ],
)  # fmt: skip
def test_keys_of_a_verification_are_told_from_others(key: str, theirs: bool) -> None:
    assert is_verification(key) is theirs


@pytest.mark.parametrize(
    ("key", "better"),
    [
        ("ablation/a/b/accuracy", True), ("release/images_per_s", True), ("train/loss_epoch", False),
        ("my/held_out_auc_s2", True), ("compare/m/Telea/psnr", False), ("compare/m/psnr_hidden", None),
        ("my/inaccuracy", None), ("accuracy", None), ("inpaint/psnr", True), ("restore/psnr", True),
        ("restore/psnr_before", None), ("link/similarity", True), ("privacy/psnr", False),
    ],
)  # fmt: skip
def test_the_better_way_is_told_by_the_last_words(key: str, better: bool | None) -> None:
    assert higher_is_better(key) is better


@pytest.mark.parametrize("module", [files, log_keys, measurement_module])
def test_examples_in_docstrings(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)
