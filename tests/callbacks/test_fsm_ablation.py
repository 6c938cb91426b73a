"""FSMAblation against LFWVerification of the network that lacks the gate, in one process and in two."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from callbacks import FSMAblation, LFWVerification
from callbacks.fsm_ablation import _GateMean
from datamodules import DrawnFaces, DrawnPairs, FaceDataModule
from lightning_app.desensitize import Desensitizer, GaussianBlur, Identity, MaskOut
from lightning_app.models import ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.report import rows_of
from tests.callbacks.test_lfw_verification import SIZE, CountingPairs
from tests.command_line import RunMain, write_config

POINTS = ("layer1", "layer2")


def mask_out(count: int = 5) -> MaskOut:
    """A mask per image, so that gates differ from image to image."""
    return MaskOut(freeform=(0.5, 0.7), count=count, draw="image", size=SIZE)


def network(*points: str, of: Recogniser | None = None) -> Recogniser:
    """One with gates at these points, with the weights of another as far as it has them."""
    torch.manual_seed(2)
    kept = {"backbone": "resnet18", "width": 8, "num_classes": 4, "input_size": SIZE}
    model: Recogniser = ResNetFSM(list(points), **kept) if points else ResNet(**kept)  # type: ignore[arg-type]
    if of is not None:
        model.load_state_dict({k: v for k, v in of.state_dict().items() if k in model.state_dict()})
        return model
    for gate in getattr(model, "backbone").gates.values():  # noqa: B009  # ResNet has none
        torch.nn.init.normal_(gate.blocks[-3].weight, std=2.0)  # gates near 0 and 1 as well as between
    return model


def run(
    model: L.LightningModule,
    tmp_path: Path,
    *callbacks: L.Callback,
    desensitizer: Desensitizer | None = None,
    strategy: str = "auto",
    devices: int = 1,
) -> dict[str, float]:
    data = FaceDataModule(
        DrawnFaces(identities=4, images_per_identity=4, size=SIZE),
        desensitizer if desensitizer is not None else mask_out(),
        global_batch_size=12,
    )
    trainer = L.Trainer(
        accelerator="cpu", logger=False, callbacks=list(callbacks), enable_progress_bar=False, devices=devices,
        enable_checkpointing=False, default_root_dir=tmp_path, enable_model_summary=False, strategy=strategy,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.validate(model, datamodule=data, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("flip", [False, True])
def test_off_is_the_network_without_it_and_contributions_are_differences(flip: bool, tmp_path: Path) -> None:
    model, reader = network(*POINTS), CountingPairs()
    verify = LFWVerification(reader=reader, flip=flip, situations=[1], bootstrap=0)
    ablation = FSMAblation(bootstrap=100)
    found = run(model, tmp_path, ablation, verify)
    assert sorted(reader.reads) == sorted([*range(40)] * 2)  # by each of the two once
    assert found["fsm/accuracy"] == found["lfw/accuracy"]
    rest = {"layer1": ("layer2",), "layer2": ("layer1",), "all": ()}
    for point, points in rest.items():
        other = LFWVerification(reader=CountingPairs(), flip=flip, situations=[1], bootstrap=0)
        alone = run(network(*points, of=model), tmp_path, other)["lfw/accuracy"]
        assert found[f"fsm/accuracy_without_{point}"] == pytest.approx(alone, abs=1e-6)
        gain = found[f"fsm/contribution_{point}"]
        assert gain == pytest.approx(found["lfw/accuracy"] - alone, abs=1e-6)
        assert found[f"fsm/contribution_{point}_low"] <= gain <= found[f"fsm/contribution_{point}_high"]
        assert ablation.results[point].gain == pytest.approx(gain, abs=1e-6)
    assert len({found[f"fsm/accuracy_without_{point}"] for point in rest} | {found["fsm/accuracy"]}) > 1
    assert not model.backbone._off


@torch.no_grad()
def test_mean_gate_is_that_of_hidden_cells_of_all_images(tmp_path: Path) -> None:
    model, reader = network(*POINTS), CountingPairs()
    found = run(model, tmp_path, LFWVerification(reader=reader, bootstrap=0), FSMAblation(bootstrap=0))
    data = FaceDataModule(DrawnFaces(identities=4, size=SIZE), mask_out())
    for point, size in zip(POINTS, (8, 4), strict=True):
        values = []
        for index in range(40):
            ready = data.prepare(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8), torch.tensor([index]))
            assert ready["mask"] is not None
            mask = ready["mask"][ready["mask_index"]]
            gate = model.eval().backbone.gate(mask)[point]
            values.append(gate[(F.adaptive_avg_pool2d(mask, size) < 0.5).expand_as(gate)])
        assert found[f"fsm/gate_mean_{point}"] == pytest.approx(torch.cat(values).mean().item(), abs=1e-5)
    assert found["fsm/gate_mean_layer1"] != pytest.approx(found["fsm/gate_mean_layer2"], abs=1e-4)
    assert not any(key.endswith(("_low", "_high")) for key in found if key.startswith("fsm/"))


@pytest.mark.filterwarnings(
    "ignore:It is recommended to use `self.log"
)  # figures are summed over the ranks before
def test_two_ranks_give_the_figures_of_one_process(tmp_path: Path) -> None:
    """37 images: one rank has 19, the other 18."""

    class Fewer(DrawnPairs):
        def __init__(self) -> None:
            super().__init__(identities=8, images_per_identity=5, size=SIZE, folds=4, pairs_per_fold=8)
            self.labels = self.labels[:37]
            self.pairs.a.remainder_(37)
            self.pairs.b.remainder_(37)

    found = []
    for strategy, devices in (("auto", 1), ("ddp_fork", 2)):
        callbacks = LFWVerification(reader=Fewer(), bootstrap=0), FSMAblation(bootstrap=20)
        found.append(run(network(*POINTS), tmp_path, *callbacks, strategy=strategy, devices=devices))
    one, two = ({k: v for k, v in metrics.items() if k.startswith("fsm/")} for metrics in found)
    assert len(one) == 1 + 3 * 4 + 2
    assert two == pytest.approx(one, abs=1e-6)


def test_the_mean_gate_is_summed_up_in_fp32_under_autocast() -> None:
    class Gates:
        def gate(self, mask: Tensor) -> dict[str, Tensor]:
            return {"layer1": torch.full((len(mask), 3, 7, 7), 0.5)}

    mean = _GateMean(Gates())  # type: ignore[arg-type]
    batch = {"mask": torch.zeros(2, 1, 7, 7), "mask_index": torch.tensor([0] * 5 + [1] * 14)}
    with torch.autocast("cpu", torch.bfloat16):
        mean.add(batch)  # type: ignore[arg-type]
    assert mean.sums[0].tolist() == [[19 * 147 / 2, 19 * 147]]  # 2793 is no bf16 number


def test_without_gates_or_mask_it_says_so_once_and_logs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases: list[tuple[Recogniser, Desensitizer, str]] = [
        (network(), mask_out(), "ResNet has no gates"),
        (network("layer2"), GaussianBlur(9), "has no mask"),
        (network("layer2"), Identity(), "has no mask"),
    ]
    for model, desensitizer, words in cases:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "faceveil"):
            verify = LFWVerification(reader=CountingPairs(), situations=[1], bootstrap=0)
            found = run(model, tmp_path, verify, FSMAblation(), desensitizer=desensitizer)
        assert [r.getMessage() for r in caplog.records if words in r.getMessage()] == caplog.messages
        assert len(caplog.messages) == 1
        assert "lfw/accuracy" in found
        assert not any(key.startswith("fsm/") for key in found)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_n_epochs=0: give at least 1"):
        FSMAblation(every_n_epochs=0)
    with pytest.raises(ValueError, match="bootstrap=-1"):
        FSMAblation(bootstrap=-1)
    with pytest.raises(ValueError, match=r"verification=None: .* the run has none; add one"):
        run(network("layer2"), tmp_path, FSMAblation())
    verify = LFWVerification(reader=CountingPairs(), bootstrap=0)
    with pytest.raises(ValueError, match=r"verification=cfp: .* the run has lfw; add one"):
        run(network("layer2"), tmp_path, FSMAblation(verification="cfp"), verify)


def test_in_a_fit_it_measures_when_due_and_is_in_table_and_metrics(
    drawn_root: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    real = FSMAblation.measure

    def counted(self: FSMAblation, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epochs.append(trainer.current_epoch)
        real(self, trainer, pl_module)

    monkeypatch.setattr(FSMAblation, "measure", counted)
    config = yaml.safe_load(write_config(Path("tiny.yaml"), drawn_root, "ResNetFSM").read_text())
    watching = config["trainer"]["callbacks"][:1]
    own = {"class_path": "callbacks.FSMAblation", "init_args": {"every_n_epochs": 3, "bootstrap": 20}}
    config["trainer"]["callbacks"] = [own, *watching]
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    run_main("fit", "--config", "tiny.yaml")
    assert epochs == [1]  # of 0 and 1 the last
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert metrics["fsm/accuracy"] == metrics["lfw/accuracy"]
    assert metrics["fsm/contribution_layer2"] == metrics["fsm/contribution_all"]
    assert 0 < metrics["fsm/gate_mean_layer2"] < 1
    assert "fsm contribution of the gate at layer2" in " ".join(capsys.readouterr().out.split())
    run_main("validate", "--config", "tiny.yaml", "--ckpt_path", "last")
    assert len(epochs) == 2
    again = json.loads(Path("runs/tiny/metrics.json").read_text())
    for key in (key for key in metrics if key.startswith("fsm/")):
        assert again[key] == pytest.approx(metrics[key], abs=1e-6), key


def test_rows_name_the_gates() -> None:
    metrics = {
        "fsm/accuracy": 0.8, "fsm/accuracy_without_layer3": 0.7, "fsm/contribution_layer3": 0.1,
        "fsm/contribution_layer3_low": 0.05, "fsm/contribution_layer3_high": 0.15, "fsm/gate_mean_layer3": 0.25,
        "fsm/accuracy_without_all": 0.7, "fsm/contribution_all": 0.1, "fsm/contribution_all_low": 0.05,
    }  # fmt: skip
    rows = [
        ["fsm verification accuracy", "0.8000"],
        ["fsm accuracy, the gate at layer3 off", "0.7000"],
        ["fsm contribution of the gate at layer3", "+0.1000  [0.0500, 0.1500]"],
        ["fsm mean of the gate at layer3, hidden cells", "0.2500"],
    ]
    assert rows_of(metrics) == rows
    two = metrics | {"fsm/accuracy_without_layer1": 0.75}
    assert ["fsm accuracy, all gates off", "0.7000"] in rows_of(two)
    assert ["fsm contribution of all gates", "+0.1000"] in rows_of(two)
