"""Export of recognisers trained under learned masks: one in the graph, or one for each image as a second input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from lightning_app.desensitize import LearnedMask
from lightning_app.masks import load_mask, mask_hash
from lightning_app.models import ResNet, ResNetFSM, ResNetPartial
from lightning_app.studies.export import export
from tests.masker import write_masker

SIZE = 32


@pytest.fixture(scope="module")
def masker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masker(tmp_path_factory.mktemp("masker") / "m.ckpt", size=SIZE)


def written(folder: Path, model: Any, description: dict[str, Any]) -> Path:
    """A checkpoint as Lightning leaves it."""
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.mul_(torch.linspace(0.5, 2, len(value)))
    settings = {**model.hparams, "_class_path": f"lightning_app.models.{type(model).__name__}"}
    kept = {"epoch": 1, "global_step": 8, "hyper_parameters": settings, "state_dict": model.state_dict()}
    data = {"desensitizer": description, "mean": 0.4, "std": 0.25}
    torch.save(kept | {"FaceDataModule": data}, folder / "model.ckpt")
    return folder / "model.ckpt"


def described(masker: Path, kind: str) -> dict[str, Any]:
    made = LearnedMask(masker, 0.25, kind)  # type: ignore[arg-type]
    made.prepare((SIZE, SIZE))
    return made.describe()


KINDS: list[tuple[str, type[Any], dict[str, Any]]] = [
    ("core_first", ResNetFSM, {"insertion_points": ["layer1", "layer2"]}),
    ("free", ResNetPartial, {"partial_until": "layer1"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model", "more"), KINDS)
def test_a_gated_recogniser_takes_each_images_mask(
    kind: str, model: type[Any], more: dict[str, Any], masker: Path, tmp_path: Path
) -> None:
    made = model(backbone="resnet18", width=8, input_size=SIZE, num_classes=4, **more).eval()
    card = export(str(written(tmp_path, made, described(masker, kind))), output=str(tmp_path / "out"))
    assert card["input"]["masks"] is True
    assert card["mask"] is None
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["image", "mask"]
    draw = torch.Generator().manual_seed(2)
    for count in (1, 2, 5):
        image = torch.rand(count, 3, SIZE, SIZE, generator=draw)
        mask = (torch.rand(count, 1, SIZE, SIZE, generator=draw) < 0.3).float()
        theirs = session.run(["embedding"], {"image": image.numpy(), "mask": mask.numpy()})[0]
        with torch.inference_mode():
            ours = made.embed((image * mask - 0.4) / 0.25, mask, torch.arange(count))
        assert float((torch.from_numpy(theirs) - torch.nn.functional.normalize(ours)).abs().max()) < 1e-4
    text = (tmp_path / "out/README.md").read_text()
    assert "Every image comes with a mask of its own" in text
    assert '"mask": np.stack([mask("a_mask.png"), mask("b_mask.png")])' in text
    assert "computed from each image's mask" in text or model is not ResNetFSM
    with pytest.raises(ValueError, match="trained under a mask for each image: leave --mask out"):
        export(str(tmp_path / "model.ckpt"), output=str(tmp_path / "more"), mask="mask.png")


@pytest.mark.slow
def test_one_that_sees_pixels_alone_takes_none(masker: Path, tmp_path: Path) -> None:
    made = ResNet(backbone="resnet18", width=8, input_size=SIZE, num_classes=4).eval()
    card = export(str(written(tmp_path, made, described(masker, "codebook"))), output=str(tmp_path / "out"))
    assert card["input"]["masks"] is False
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["image"]
    assert "Images must be desensitized before" in (tmp_path / "out/README.md").read_text()


@pytest.mark.slow
def test_the_mask_of_the_population_is_in_the_graph(masker: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs/learned"
    (run / "checkpoints").mkdir(parents=True)
    made = ResNetFSM(
        backbone="resnet18", width=8, input_size=SIZE, num_classes=4, insertion_points=["layer2"]
    ).eval()
    description = described(masker, "population")
    written(run / "checkpoints", made, description).rename(run / "checkpoints/last.ckpt")
    (run / "config.yaml").write_text(
        f"data: {{init_args: {{desensitizer: {{init_args: {{checkpoint: {masker}}}}}}}}}\n"
    )
    card = export(str(run))
    assert card["mask"] == {
        "hash": description["mask_hash"], "ratio": description["mask_ratio"], "in_graph": True, "chosen": False,
    }  # fmt: skip
    assert mask_hash(load_mask(run / "export/mask.png", SIZE)) == description["mask_hash"]
    assert "m.ckpt" not in (run / "export/README.md").read_text()
