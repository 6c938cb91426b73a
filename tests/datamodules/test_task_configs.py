"""The shipped configs of tasks, on drawn stand-ins of the same layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lightning_app.commands.ablate import build_parser
from lightning_app.commands.parser import parsed
from lightning_app.studies import runner
from lightning_app.studies.ablate import System, Variant, ablate
from tests.command_line import RunMain
from tests.datamodules.face_files import encoded, picture
from tests.datamodules.task_files import drawn_classes, hair, write_celeba

SMALL = (
    "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.accelerator=cpu",
    "--trainer.precision=32-true", "--model.init_args.width=8", "--data.init_args.global_batch_size=4",
)  # fmt: skip
COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


def test_celeba_hair_runs_on_a_stand_in(tmp_path: Path, run_main: RunMain) -> None:
    rows = [(f"{n + 1:06d}.jpg", hair(**{COLOURS[n % 4]: 1}), n // 8, n % 3) for n in range(24)]
    root = write_celeba(tmp_path / "data/celeba", rows)
    for n, (name, *_) in enumerate(rows):
        (root / "img_align_celeba" / name).write_bytes(encoded(picture(n, width=178, height=218)))
    run_main("fit", "--config", "celeba_hair.yaml", *SMALL, "--data.init_args.num_workers=0")
    run_main(
        "test",
        "--config",
        "celeba_hair.yaml",
        *SMALL,
        "--data.init_args.num_workers=0",
        "--ckpt_path",
        "last",
    )
    found = json.loads((tmp_path / "runs/celeba_hair/metrics.json").read_text())
    for stage in ("val", "test"):
        assert [found[f"{stage}/images_{name}"] for name in COLOURS] == [2, 2, 2, 2]
        assert f"{stage}/accuracy_low" in found


def test_fer3_quick_runs_on_a_stand_in(tmp_path: Path, run_main: RunMain) -> None:
    drawn_classes(
        tmp_path / "data/fer3", {"train": 4, "validation": 2, "test": 2}, ("happy", "neutral", "surprise"), 48
    )
    run_main("fit", "--config", "fer3_quick.yaml", *SMALL)
    found = json.loads((tmp_path / "runs/fer3_quick/metrics.json").read_text())
    assert [found[f"val/images_{name}"] for name in ("happy", "neutral", "surprise")] == [2, 2, 2]


def fer3(root: Path) -> None:
    drawn_classes(root, {"train": 6, "validation": 2, "test": 2}, ("happy", "neutral", "surprise"), 48)


def celeba(root: Path) -> None:
    rows = [(f"{n + 1:06d}.jpg", hair(**{COLOURS[n % 4]: 1}), n // 8, n % 3) for n in range(24)]
    write_celeba(root, rows)
    for n, (name, *_) in enumerate(rows):
        (root / "img_align_celeba" / name).write_bytes(encoded(picture(n, width=178, height=218)))


MASKER = ("--model.masker_width=8", "--model.masker_depth=2", "--model.faces=16", "--model.codes=2")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["fer3", "celeba"])
def test_maskers_and_the_parts_of_their_masks_run_on_a_stand_in(
    task: str, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masker's config, and every run that the table's config would start, in this process."""
    {"fer3": fer3, "celeba": celeba}[task](tmp_path / "data" / task)
    more = (
        "--data.init_args.num_workers=0",
        *(f"--data.init_args.{of}.init_args.size=32" for of in ("reader", "validation", "test")),
    )
    for name, rounds in ((f"{task}_masker_s1", 0), (f"{task}_masker_core_s1", 4)):
        options = (f"--name={name}", f"--model.rounds={rounds}", *SMALL, *more, *MASKER)
        run_main("fit", "--config", f"{task}_masker.yaml", *options)
    # the table's runs are not made, but for three below: that it is there is enough
    shutil.copytree(f"runs/{task}_masker_s1", f"runs/{task}_masker_plain_s1")
    values = parsed(build_parser(), ["--config", f"{task}_masks.yaml"])
    variants = {
        key: Variant(**one) if isinstance(one, dict) else one for key, one in values["variants"].items()
    }
    systems = {key: System(**one) if isinstance(one, dict) else one for key, one in values["systems"].items()}
    assert list(systems) == ["released", "mask alone", "hidden part alone"]
    assert len(variants) == 8
    asked: list[tuple[str, ...]] = []

    def do(args: Any, run: Path, output: Path, group: str, *, figure: str) -> bool:
        asked.append(tuple(args))
        assert figure == "val/accuracy"
        run.mkdir(parents=True)
        (run / "metrics.json").write_text('{"val/accuracy": 0.5}')
        return True

    monkeypatch.setattr(runner, "do", do)
    released = systems["released"]
    assert released.args == ["--config", "overlays/face_similarity.yaml"]
    systems["released"] = System(released.config)  # dlib is an extra, and its judge has tests of its own
    plan = {"variants": variants, "systems": systems, "seeds": [1], "args": [*SMALL, *more]}
    ablate(**(values | plan))
    assert (
        len(asked) == 18
    )  # of 24: one mask for all tells nothing by itself, and without one there is no other part
    table = json.loads((tmp_path / f"runs/{task}_masks/metrics.json").read_text())
    assert table["ablation/core first/mask alone/accuracy"] == 0.5
    assert not any("auc" in key for key in table)
    for label, part in (("core_first", "hidden"), ("codebook", "mask"), ("centre_blur", "released")):
        args = next(
            one for one in asked if label in str(one) and (part == "released" or f"part={part}" in str(one))
        )
        own = [arg for arg in args if arg != args[0]]
        at = own.index("--runs")
        run_main("fit", *own[:at], "--runs", str(tmp_path / "again"), *own[at + 2 :])
