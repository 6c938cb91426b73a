"""bf16 is asked for only where the device has it, and a run that has it emulated says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from callbacks import TrainerOptions
from lightning_app.cli.configs import CONFIGS
from lightning_app.commands import compare, sweep_levels
from lightning_app.distributed.precision import autocast, computes_in, warn_of_emulation
from tests.federated.tiny import plan_and_parts
from tests.small_run import write_small_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RunMain = Callable[..., None]


@pytest.fixture
def old_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bf16 and fp16, as one without AVX-512 is."""
    for kind in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", lambda: False, raising=False)


@pytest.fixture
def new_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with bf16 and without fp16."""
    for kind in ("bf16", "fp16"):
        monkeypatch.setattr(
            torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", lambda kind=kind: kind == "bf16", raising=False
        )


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings until now, each on one line."""
    caplog.set_level(logging.WARNING, "faceveil")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "faceveil"]


def test_an_old_cpu_computes_in_float32_alone(old_cpu: None) -> None:
    assert not computes_in(torch.bfloat16, CPU)
    assert not computes_in(torch.float16, CPU)
    assert computes_in(torch.float32, CPU)


def test_a_new_cpu_computes_in_bf16(new_cpu: None) -> None:
    assert computes_in(torch.bfloat16, CPU)
    assert not computes_in(torch.float16, CPU)


@pytest.mark.parametrize(
    ("capability", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_a_gpu_has_bf16_from_ampere_on(
    capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    assert computes_in(torch.bfloat16, GPU) is has
    assert computes_in(torch.float16, GPU)
    warn_of_emulation("bf16-mixed", GPU, "--precision")
    assert [line.endswith("give --precision 16-mixed") for line in said()] == [True] * (not has)


@pytest.mark.parametrize(
    ("precision", "kind"),
    [("bf16-mixed", "bfloat16"), ("bf16-true", "bfloat16"), ("bf16", "bfloat16"), ("16-true", "float16"),
     ("16-mixed", "float16"), (16, "float16"), ("32-true", None), (32, None), ("64-true", None), (None, None)],
)  # fmt: skip
def test_what_an_old_cpu_emulates_is_said_in_one_line(
    precision: str | int | None, kind: str | None, old_cpu: None, said: Callable[[], list[str]]
) -> None:
    warn_of_emulation(precision, CPU, "--trainer.precision")
    told = f"--trainer.precision {precision}: this CPU has no {kind}, torch emulates it, "
    wanted = [told + "several times slower than float32: give --trainer.precision 32-true"]
    assert said() == (wanted if kind else [])


def test_autocast_is_that_of_a_fit() -> None:
    one = torch.ones(2, 2)
    for precision, dtype in {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}.items():
        with autocast(precision, CPU):
            assert (one @ one).dtype == dtype


def test_shipped_configs_for_a_cpu_ask_for_what_every_cpu_has() -> None:
    found = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        trainer = config.get("trainer") or {}
        if trainer.get("accelerator") == "cpu" or "demo" in path.name:
            found[path.name] = {trainer.get("precision"), config.get("precision")}
    assert {"demo.yaml", "federated_demo.yaml", "compare_demo.yaml", "compare_demo_fit.yaml", "cpu.yaml"} <= {
        *found
    }
    assert {name for name, asked in found.items() if asked - {None, "32-true"}} == set()


def test_a_run_says_what_is_emulated_and_in_which_precision_it_goes_on(
    run_main: RunMain,
    tmp_path: Path,
    old_cpu: None,
    said: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = write_small_config(tmp_path, epochs=1)
    begin = ("fit", "--config", config, "--trainer.enable_model_summary", "false")
    run_main(*begin, "--trainer.precision", "bf16-mixed")
    last = next(tmp_path.rglob("last.ckpt"))
    assert torch.load(last, weights_only=True)["precision"] == "bf16-mixed"
    (line,) = (line for line in said() if "precision" in line)
    assert line.startswith("--trainer.precision bf16-mixed: this CPU has no bfloat16")

    caplog.clear()
    run_main(*begin, "--ckpt_path", "last", "--trainer.max_epochs", "2")  # in 32-true
    assert [line for line in said() if "precision" in line] == [
        "The run goes on with trainer.precision 32-true; until now it was bf16-mixed (--trainer.precision bf16-mixed "
        "keeps it)."
    ]
    assert torch.load(last, weights_only=True)["precision"] == "32-true"


@pytest.mark.parametrize(
    "checkpoint", [{}, {"precision": "32-true"}, {"precision": "\x1b[2J"}, {"precision": [1]}]
)
def test_of_the_same_precision_and_of_an_unknown_one_nothing_is_said(
    checkpoint: dict[str, object], said: Callable[[], list[str]]
) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    TrainerOptions().on_load_checkpoint(trainer, L.LightningModule(), checkpoint)
    assert said() == []


def test_other_commands_say_it_before_they_begin(
    tmp_path: Path, old_cpu: None, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(
        "{name: c, methods: {a: {config: demo.yaml, args: [--data.cash, '1']}}, judges: {a: a}}",
        encoding="utf-8",
    )
    with pytest.raises((ValueError, OSError)):
        sweep_levels.run(["--checkpoints.a", "nowhere.ckpt", "--masks", "nowhere", "--root", "nowhere", "--name", "s",
                          "--device", "cpu", "--precision", "bf16-mixed"])  # fmt: skip
    with pytest.raises((ValueError, OSError)):
        compare.run(["--config", "c.yaml", "--device", "cpu", "--precision", "bf16-mixed"])
    assert [line.startswith("--precision bf16-mixed: this CPU has no") for line in said()] == [True, True]


def test_a_federation_says_it_too(old_cpu: None, said: Callable[[], list[str]]) -> None:
    plan_and_parts(trainer={"accelerator": "cpu", "precision": "bf16-mixed"})
    assert [line.startswith("--trainer.precision bf16-mixed: this CPU has no") for line in said()] == [True]
