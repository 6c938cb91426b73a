"""The shipped configs of tasks, on drawn stand-ins of the same layout."""

from __future__ import annotations

import json
from pathlib import Path

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
