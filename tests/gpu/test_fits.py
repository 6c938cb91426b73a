"""`fit` on the GPU, through the command line: precisions, DDP, compiled, resumed bit for bit, the set on the device."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_app.distributed.precision import computes_in
from lightning_app.networks.graphed import GraphedBackbone
from tests.command_line import refused, write_config

RunMain = Callable[..., None]
STEPS = 6


@pytest.fixture
def config(tmp_path: Path, drawn_root: Path, accelerator: str) -> Callable[..., Path]:
    """Writes a `fit` of six steps of 16 images, verified on drawn pairs."""

    def write(
        name: str, model: str = "ResNetFSM", data: dict[str, Any] | None = None, **trainer: Any
    ) -> Path:
        path = write_config(tmp_path / f"{name}.yaml", drawn_root, model)
        content = yaml.safe_load(path.read_text())
        content["trainer"] |= {
            "accelerator": accelerator,
            "devices": 1,
            "max_epochs": -1,
            "max_steps": STEPS,
            **trainer,
        }
        content["model"]["init_args"] |= {"width": 16, "schedule": "constant"}
        content["data"]["init_args"] |= {"cache": True, "seed": 0, **(data or {})}
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def metrics(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/{name}/metrics.json").read_text())
    return found


def weights(name: str, file: str = "last.ckpt") -> dict[str, Any]:
    """What training has made: weights, moments, counters."""
    found = torch.load(f"runs/{name}/checkpoints/{file}", weights_only=True, map_location="cpu")
    optimizer = found["optimizer_states"][0]["state"]
    moments = {f"{n}.{key}": value for n, state in optimizer.items() for key, value in state.items()}
    return {**found["state_dict"], **moments, "step": torch.tensor(found["global_step"])}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert set(one) == set(other)
    for key, value in one.items():
        assert value is None or torch.equal(value, other[key]), key


def test_a_compiled_backbone_trains_as_the_plain_one(
    run_main: RunMain, config: Callable[..., Path], gpu: torch.device
) -> None:
    if gpu.type == "cpu":
        pytest.skip("compiling for the CPU takes minutes")
    try:
        torch.compile(lambda x: x * 2)(torch.ones(2, device=gpu))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {str(error).splitlines()[0][:200]}")
    losses = []
    for name, compiled in (("plain", False), ("compiled", True)):
        path = config(name, "ResNet", max_steps=2, callbacks=[])
        run_main("fit", "--config", path, "--model.compile", str(compiled).lower())
        losses.append(metrics(name)["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_precisions(
    precision: str, run_main: RunMain, config: Callable[..., Path], gpu: torch.device
) -> None:
    if precision == "16-mixed" and gpu.type == "cpu":
        pytest.skip("a loss scaler needs a GPU")
    run_main("fit", "--config", config("run", precision=precision, data={"cache": "device"}))
    found = metrics("run")
    assert math.isfinite(found["train/loss"])
    assert found["run/steps"] == STEPS
    assert 0 <= found["lfw/accuracy"] <= 100
    assert ("memory/gpu_peak_mb" in found) == (gpu.type == "cuda")
    assert all(value.isfinite().all() for value in weights("run").values() if torch.is_tensor(value))


def test_bf16_is_computed_by_the_card_itself(gpu: torch.device) -> None:
    if gpu.type == "cpu" or torch.cuda.get_device_capability(gpu) < (8, 0):
        pytest.skip("of cards since A100")
    assert computes_in(torch.bfloat16, gpu)


def test_figures_are_those_of_the_cpu(
    run_main: RunMain, config: Callable[..., Path], accelerator: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One checkpoint validated on both: the same pairs, the same threshold's side, the same dSSIM."""
    path = config("run")
    run_main("fit", "--config", path)
    found = []
    for device in (accelerator, "cpu"):
        run_main("validate", "--config", path, "--ckpt_path", "last", "--trainer.accelerator", device)
        found.append(metrics("run"))
    for key in ("lfw/accuracy", "lfw/auc", "lfw/eer", "val/accuracy"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-6), (
            key
        )  # few pairs: none may change sides
    for key in ("privacy/dssim", "privacy/psnr", "privacy/mask_ratio"):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-4), key
    # the command line lets matrix products be TF32's: the head is one
    assert found[0]["val/loss"] == pytest.approx(found[1]["val/loss"], rel=2e-3)


def test_one_rank_of_ddp_trains_what_a_single_process_does(
    run_main: RunMain, config: Callable[..., Path], gpu: torch.device
) -> None:
    """NCCL, with a SyncBatchNorm; within the rounding of its other kernels. Lightning seeds heads of DDP otherwise, so
    both go on from one checkpoint.
    """
    begun = config("single")
    run_main("fit", "--config", begun, "--trainer.max_steps", 2)
    shutil.copytree("runs/single", "runs/ddp")
    more = {"sync_batchnorm": True} if gpu.type == "cuda" else {}  # torch has none for the CPU
    run_main("fit", "--config", config("ddp", strategy="ddp", **more), "--ckpt_path", "last")
    if gpu.type == "cuda":
        assert torch.distributed.get_backend() == "nccl"
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    run_main("fit", "--config", begun, "--ckpt_path", "last")
    one, other = metrics("ddp"), metrics("single")
    assert one["train/loss"] == pytest.approx(other["train/loss"], rel=2e-3)
    mine, theirs = weights("ddp"), weights("single")
    assert set(mine) == set(theirs)
    for key, value in theirs.items():
        if torch.is_tensor(value) and value.is_floating_point() and value.ndim > 1:
            assert float((mine[key] - value).norm() / value.norm().clamp(min=1e-6)) < 2e-2, key


def test_a_deterministic_run_goes_on_bit_for_bit(run_main: RunMain, config: Callable[..., Path]) -> None:
    data = {"cache": "device"}
    run_main("fit", "--config", config("whole", deterministic=True, data=data))
    part = config("part", deterministic=True, data=data)
    run_main("fit", "--config", part, "--trainer.max_steps", 4)  # in the midst of the second epoch
    run_main("fit", "--config", part, "--ckpt_path", "last")
    same(weights("part"), weights("whole"))


def test_the_set_on_the_device_trains_what_the_one_in_memory_does(
    run_main: RunMain, config: Callable[..., Path], gpu: torch.device
) -> None:
    for name, cache in (("device", "device"), ("memory", True)):
        run_main("fit", "--config", config(name, deterministic=True, data={"cache": cache}))
    same(weights("device"), weights("memory"))
    assert metrics("device")["val/loss"] == metrics("memory")["val/loss"]
    assert metrics("device")["privacy/dssim"] == metrics("memory")["privacy/dssim"]


def test_a_loss_that_is_no_number_ends_the_run(
    run_main: RunMain, config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config("spoilt", "ResNet", max_steps=60)
    content = path.read_text().replace(
        "lightning_app.models.ResNet", "tests.callbacks.test_finite.ResNetSpoilt"
    )
    path.write_text(content)
    line = refused(capsys, lambda: run_main("fit", "--config", path))
    assert "the loss is inf at step 4 of epoch " in line
    kept = torch.load("runs/spoilt/checkpoints/nonfinite.ckpt", weights_only=True)
    assert kept["nonfinite"]["step"] == 4
    assert len(kept["nonfinite"]["index"]) == 16


@pytest.mark.parametrize("model", ["ResNet", "ResNetFSM", "ResNetPartial"])
def test_cuda_graphs_train_what_single_kernels_do(
    model: str,
    run_main: RunMain,
    config: Callable[..., Path],
    gpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss, weights and batch norms' statistics after twelve steps; on a GPU a graph was captured for them."""
    captured: list[object] = []
    capture = GraphedBackbone._captured

    def counted(self: GraphedBackbone, args: tuple[Any, ...]) -> Any:
        made = capture(self, args)
        captured.append(None if made is self.backbone else made)
        return made

    monkeypatch.setattr(GraphedBackbone, "_captured", counted)
    found = []
    for name, graphs in (("plain", "false"), ("graphs", "true")):
        path = config(name, model, max_steps=12, precision="32-true", deterministic=True, callbacks=[])
        run_main("fit", "--config", path, "--model.cuda_graphs", graphs)
        found.append((metrics(name)["train/loss"], weights(name)))
    if gpu.type == "cuda":
        assert captured
        assert None not in captured
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    for key, value in found[0][1].items():
        if torch.is_tensor(value):
            assert torch.allclose(value.float(), found[1][1][key].float(), rtol=1e-2, atol=1e-4), key


def test_a_teacher_is_asked_on_the_device(
    run_main: RunMain, config: Callable[..., Path], gpu: torch.device
) -> None:
    clean = config("clean", "ResNet", max_steps=2, precision="bf16-mixed", callbacks=[])
    content = yaml.safe_load(clean.read_text())
    del content["data"]["init_args"]["desensitizer"]
    clean.write_text(yaml.safe_dump(content))
    run_main("fit", "--config", clean)
    path = config("student", "ResNetMask", max_steps=2, precision="bf16-mixed", data={"keep_clean": True})
    run_main("fit", "--config", path, "--model.teacher", "runs/clean", "--model.distillation", "1.0")
    assert math.isfinite(metrics("student")["train/distillation"])
