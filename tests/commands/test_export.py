"""`export` end to end: what onnxruntime gives is what `predict` writes, and the files tell no path and no name."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import lightning_app
from datamodules import FolderFaces
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Chain, MaskOut, MixUp, Mosaic
from lightning_app.export import graph, to_safetensors
from lightning_app.masks import freeform_masks, load_mask, mask_hash, save_mask
from lightning_app.models import Inpainter, ResNet, ResNetFSM
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import read_recogniser
from lightning_app.studies import export as command
from tests.command_line import RunMain, refused

pytestmark = pytest.mark.slow

MEAN, STD = 0.4, 0.25  # others than the defaults, so that forgetting them shows
FILES = ["README.md", "card.json", "mask.json", "mask.png", "model.onnx", "model.safetensors"]


@pytest.fixture(scope="module")
def run(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of ResNet-FSM under one drawn mask, exported."""
    from main import main

    run = tmp_path_factory.mktemp("home") / "runs/tiny"
    shutil.copytree(fitted / "runs/tiny", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["init_args"] |= {"mean": MEAN, "std": STD}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["FaceDataModule"]["mean"], checkpoint["FaceDataModule"]["std"]) == (0.5, 0.5)
    checkpoint["FaceDataModule"] |= {"mean": MEAN, "std": STD}
    # after four steps the running statistics are still those of the beginning: folding them must show
    for key, value in checkpoint["state_dict"].items():
        if key.endswith("running_mean"):
            value += torch.linspace(-0.3, 0.3, len(value))
        elif key.endswith("running_var"):
            value *= torch.linspace(0.5, 2, len(value))
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    main(["export", "--ckpt_path", str(run), "--licence", "CC-BY-NC-4.0"])
    return run


def embedded(folder: Path, images: Tensor) -> Tensor:
    """What onnxruntime makes of images in [0,1], in a fresh session."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["embedding"], {"image": images.numpy()})[0])


def written(path: Path, model: Recogniser, desensitizer: dict[str, Any], **data: Any) -> Path:
    """A checkpoint as Lightning leaves it, in no run's folder."""
    settings = {**model.hparams, "_class_path": f"lightning_app.models.{type(model).__name__}"}
    kept = {"epoch": 1, "global_step": 8, "hyper_parameters": settings, "state_dict": model.state_dict()}
    torch.save(kept | {"FaceDataModule": {"desensitizer": desensitizer} | data}, path)
    return path


def noise(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_the_graph_gives_what_predict_writes(run: Path, drawn_root: Path, run_main: RunMain) -> None:
    run_main(
        "predict",
        "--config",
        run / "config.yaml",
        "--ckpt_path",
        "last",
        "--name",
        "tiny",
        "--runs",
        run.parent,
    )
    ours = F.normalize(load_file(run / "embeddings.safetensors")["embedding"])
    reader = FolderFaces(drawn_root, size=32, crop=44, cache_index=False).open()
    pixels = torch.stack([torch.from_numpy(reader.read(i).copy()) for i in range(len(reader))]).float() / 255
    assert len(ours) == len(pixels) == 48
    assert float((ours[0] - ours[-1]).norm()) > 0.01  # else anything would agree
    desensitized = pixels * load_mask(run / "export/mask.png", 32)
    for images in (pixels, desensitized):  # clean ones are desensitized by the graph
        for size in (1, 3, 32):
            theirs = embedded(run / "export", images[:size])
            assert float((theirs - ours[:size]).abs().max()) < 1e-5
            assert theirs.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    # the front door, of pixels that nobody has masked
    loaded = lightning_app.load_recogniser(run)
    raw = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert float((torch.from_numpy(loaded.embed_images(raw)) - ours).abs().max()) < 1e-5


def test_the_graph_is_plain_and_says_what_it_is(run: Path) -> None:
    proto = onnx.load(run / "export/model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    (image,), (embedding,) = proto.graph.input, proto.graph.output
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert [d.dim_param or d.dim_value for d in embedding.type.tensor_type.shape.dim] == ["batch", 64]
    operators = {node.op_type for node in proto.graph.node}
    assert "BatchNormalization" not in operators
    assert not operators & {
        "Sigmoid",
        "AveragePool",
        "GreaterOrEqual",
    }  # the FSM is gone, its gate is a constant
    mask = load_mask(run / "export/mask.png", 32)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["faceveil.mask_hash"] == mask_hash(mask)
    assert properties["faceveil.checkpoint_sha256"] == read_recogniser(run)[1].sha256
    assert properties["faceveil.veils"] == "true"
    assert json.loads(properties["faceveil.versions"])["torch"] == torch.__version__


def test_weights_come_back_bit_for_bit(run: Path, tmp_path: Path) -> None:
    model, facts = read_recogniser(run)
    back, told = read_recogniser(run / "export/model.safetensors")
    assert isinstance(back, ResNetFSM)
    mask = load_mask(run / "export/mask.png", 32)[None]
    with torch.no_grad():
        assert torch.equal(back.embed(noise(), mask), model.embed(noise(), mask))
        with pytest.raises(ValueError, match="without the head"):
            back(noise(), mask)
    assert (told.step, told.input_size, told.data["mean"]) == (facts.step, 32, MEAN)
    assert told.desensitizer is not None
    assert told.desensitizer["mask_hash"] == mask_hash(mask[0])
    with safe_open(run / "export/model.safetensors", framework="pt") as opened:
        assert not [key for key in opened.keys() if key.startswith("head")]  # noqa: SIM118
        assert opened.metadata()["checkpoint_sha256"] == facts.sha256
    (tmp_path / "head.safetensors").write_bytes(
        to_safetensors(model, facts, facts.desensitizer, 0.5, 0.5, True)
    )
    whole = read_recogniser(tmp_path / "head.safetensors")[0]
    with torch.no_grad():
        assert torch.equal(whole(noise(), mask), model(noise(), mask))


def test_the_card(
    run: Path, drawn_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "export"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    text, card = (folder / "README.md").read_text(), json.loads((folder / "card.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    matter = yaml.safe_load(text.split("---\n")[1])
    assert matter["license"] == "cc-by-nc-4.0"
    (result,) = matter["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]}["accuracy"] == metrics["lfw/accuracy"]
    (pairs,) = (one["pairs"] for one in card["measured_on"])
    assert result["dataset"] == {"name": f"own list of {pairs} pairs", "type": "own"}  # none of LFW's
    assert card["figures"]["lfw/accuracy_low"] == metrics["lfw/accuracy_low"]
    interval = f"[{metrics['lfw/accuracy_low']:.4f}, {metrics['lfw/accuracy_high']:.4f}]"
    assert f"{metrics['lfw/accuracy']:.4f} ± {metrics['lfw/std']:.4f}  {interval}" in text
    # of 8 images each, one of six people is held out at a share of 0.2
    assert (card["training"]["images"], card["training"]["identities"], card["training"]["crop"]) == (
        42,
        6,
        44,
    )
    (measured,) = card["measured_on"]
    assert (measured["list"], measured["pairs"], measured["folds"]) == ("pairs.txt", 48, 4)
    assert card["agreement"]["difference"] <= 1e-4
    assert card["mask"]["hash"] in text
    assert card["command"] == "python main.py export --ckpt_path runs/tiny --licence CC-BY-NC-4.0"
    # the example of the card, as it stands
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    for name, image in zip("ab", noise(2), strict=True):
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(run / f"{name}.png")
    shutil.copy(folder / "model.onnx", run)
    monkeypatch.chdir(run)
    exec(compile(code, "README.md", "exec"), {})
    shown = float(capsys.readouterr().out.removeprefix("cosine similarity "))
    grid = torch.stack([torch.from_numpy(np.array(Image.open(f"{n}.png"))).permute(2, 0, 1) for n in "ab"])
    one, other = embedded(folder, grid.float() / 255)
    assert shown == pytest.approx(float(one @ other), abs=1e-5)
    threshold = card["figures"]["lfw/threshold"]
    assert f"On the pairs of `pairs.txt` it was {threshold:.3f} (the mean over folds)" in text
    # images as those of the training set: the example crops and resizes them as the reader does
    files = sorted(drawn_root.rglob("*.png"))[::20][:2]
    for name, file in zip("ab", files, strict=True):
        shutil.copy(file, run / f"{name}.png")
    exec(compile(code, "README.md", "exec"), {})
    shown = float(capsys.readouterr().out.removeprefix("cosine similarity "))
    one, other = torch.from_numpy(lightning_app.load_recogniser(run, desensitize=True).embed_images(files))
    assert shown == pytest.approx(float(one @ other), abs=1e-5)


def test_no_path_and_no_name_leaves(run: Path, drawn_root: Path) -> None:
    folder = run / "export"
    names = FolderFaces(drawn_root, cache_index=False).open().identities
    for path in folder.iterdir():
        content = path.read_bytes()
        for secret in (
            *names,
            str(drawn_root),
            str(run),
            str(Path(__file__).parents[2]),
            "site-packages",
            "pkg.torch",
        ):
            assert secret.encode() not in content, f"{secret} in {path.name}"
        if path.suffix in (".md", ".json"):
            assert not re.search(r"(?<![\w:/<.])/\w+/", content.decode())
    proto = onnx.load(folder / "model.onnx")
    for tensor in proto.graph.initializer:
        tensor.ClearField("raw_data")
    assert not re.search(rb"[\w.]/[\w.]", proto.SerializeToString())
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        assert "/" not in json.dumps({k: v for k, v in opened.metadata().items() if k != "faceveil"})


def test_blurred_faces_are_desensitized_before(
    tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = ResNet(backbone="resnet18", width=8, num_classes=5, input_size=32).eval()
    desensitized_by = {"method": "GaussianBlur", "kernel": 9, "taps": 9, "sigma": 1.7}
    path = written(tmp_path / "blur.ckpt", model, desensitized_by)
    line = refused(capsys, lambda: run_main("export", "--ckpt_path", path, "--output", "out"))
    assert "give --mean and --std" in line
    line = refused(capsys, lambda: run_main("export", "--ckpt_path", path, "--mean", 0.5, "--std", 0.5))
    assert "give --output DIR" in line
    run_main("export", "--ckpt_path", path, "--output", "out", "--mean", 0.5, "--std", 0.5, "--normalise", "false",
         "--head", "--licence", "Ask first. Nothing else.", "--opset", 20)  # fmt: skip
    with torch.no_grad():
        ours = model.embed((noise() - 0.5) / 0.5)
    assert float((embedded(Path("out"), noise()) - ours).abs().max()) < 1e-4 * float(ours.norm(dim=1).min())
    text = Path("out/README.md").read_text()
    assert "Images must be desensitized before" in text
    assert "`GaussianBlur` (kernel 9, taps 9, sigma 1.7)" in text
    assert "head is included" in text
    assert "Ask first." in text
    assert "no `metrics.json`" in text
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "other"
    assert not Path("out/mask.png").exists()
    assert onnx.load("out/model.onnx").opset_import[0].version == 20
    out = capsys.readouterr()
    assert "onnxruntime" in out.out
    assert not re.search("torch.onnx|[Ww]arning", out.out + out.err)
    mask = tmp_path / "any.png"
    save_mask(freeform_masks(1, 32)[0], mask)
    known = ("--ckpt_path", path, "--mean", 0.5, "--std", 0.5)
    line = refused(capsys, lambda: run_main("export", *known, "--output", "x", "--mask", mask))
    assert "GaussianBlur, which has no mask" in line


@pytest.mark.parametrize("chained", [False, True])
def test_what_was_trained_on_mixes_takes_faces_that_are_not_mixed(
    chained: bool, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = ResNet(backbone="resnet18", width=8, num_classes=5, input_size=32).eval()
    make_key(tmp_path / "owner.key")
    mixing = MixUp(2, key=tmp_path / "owner.key")
    description = Chain([Mosaic(4), mixing]).describe() if chained else mixing.describe()
    path = written(tmp_path / "mixed.ckpt", model, description, mean=0.5, std=0.5)
    run_main("export", "--ckpt_path", path, "--output", "out")
    with torch.no_grad():
        ours = F.normalize(model.embed((noise() - 0.5) / 0.5))
    assert float((embedded(Path("out"), noise()) - ours).abs().max()) < 1e-5
    text = Path("out/README.md").read_text()
    assert "Training images were mixed together" in text
    assert "those to be embedded are not" in text
    assert ("as in training: `Mosaic` (block 4)" in text) is chained
    assert ("The model takes clean faces" in text) is not chained
    assert ("desensitized as above" in text) is chained
    said = " ".join(capsys.readouterr().out.split())
    assert f"images are desensitized {'before' if chained else 'no'} " in said
    secret = (tmp_path / "owner.key").read_text().strip()
    assert not [file for file in Path("out").iterdir() if secret.encode() in file.read_bytes()]


def test_random_masks_need_one_for_the_gate(
    tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = ResNetFSM(("layer1", "layer2"), backbone="resnet18", width=8, num_classes=5, input_size=32).eval()
    description = MaskOut(freeform=(0.7, 0.8), count=3, size=32).describe()
    path = written(tmp_path / "random.ckpt", model, description, mean=0.5, std=0.5)
    line = refused(capsys, lambda: run_main("export", "--ckpt_path", path, "--output", "out"))
    assert "a ResNetFSM trained under 3 masks" in line
    assert "--mask PNG" in line
    mask = freeform_masks(1, 32, (0.7, 0.8), generator=torch.Generator().manual_seed(9))[0]
    save_mask(mask, tmp_path / "own.png")
    run_main("export", "--ckpt_path", path, "--output", "out", "--mask", tmp_path / "own.png")
    with torch.no_grad():
        ours = F.normalize(model.embed((noise() * mask - 0.5) / 0.5, mask[None]))
        without = F.normalize(model.embed((noise() * mask - 0.5) / 0.5))
    theirs = embedded(Path("out"), noise())
    assert float((theirs - ours).abs().max()) < 1e-5
    assert float((theirs - without).abs().max()) > 1e-3  # the gate is there
    assert "chosen at the export" in Path("out/README.md").read_text()
    # without gates any of the masks will do, and the graph cannot know which
    plain = ResNet(backbone="resnet18", width=8, num_classes=5, input_size=32).eval()
    again = written(tmp_path / "plain.ckpt", plain, description, mean=0.5, std=0.5)
    run_main("export", "--ckpt_path", again, "--output", "plain")
    assert "hidden pixels black, 3 masks of mask ratio 0.7" in Path("plain/README.md").read_text()
    with torch.no_grad():
        assert (
            float((embedded(Path("plain"), noise()) - F.normalize(plain.embed(noise() * 2 - 1))).abs().max())
            < 1e-5
        )


def test_what_is_refused(
    run: Path,
    tmp_path: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def line(*args: object, checkpoint: Path = run, output: object = "out") -> str:
        where = ("--output", output) if output else ()
        return refused(capsys, lambda: run_main("export", "--ckpt_path", checkpoint, *where, *args))

    save_mask(freeform_masks(1, 32, generator=torch.Generator().manual_seed(3))[0], tmp_path / "other.png")
    assert re.search(
        r"other\.png: its hash is \w{12}, the checkpoint was trained under", line("--mask", "other.png")
    )
    save_mask(freeform_masks(1, 48)[0], tmp_path / "large.png")
    assert "48×48" in line("--mask", "large.png")
    assert "no such file" in line("--mask", "none.png")
    assert "there is an export already; give --overwrite" in line(output=None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    assert "holds letter.txt, which no export wrote" in line("--overwrite", output="mine")
    assert "trained with 0.4" in line("--mean", 0.5)
    assert "opset=3: give a number from 18" in line("--opset", 3)
    assert "--licence ' '" in line("--licence", " ")
    assert "has no head" in line("--head", checkpoint=run / "export/model.safetensors")
    attacker = Inpainter(width=8, recurrences=1, depth=2)
    torch.save(
        {"state_dict": attacker.state_dict(), "hyper_parameters": dict(attacker.hparams)}, tmp_path / "a.ckpt"
    )
    assert "not of a recogniser" in line(checkpoint=tmp_path / "a.ckpt")
    (tmp_path / "cut.safetensors").write_bytes((run / "export/model.safetensors").read_bytes()[:999])
    assert "truncated or no safetensors" in line(checkpoint=tmp_path / "cut.safetensors")
    save_file({"embedding": noise()}, tmp_path / "embeddings.safetensors")
    assert "not of a recogniser" in line(checkpoint=tmp_path / "embeddings.safetensors")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert "pip install 'faceveil[export]'" in line()
    # a graph that differs is never written, and the export before it stays
    before = (run / "export/model.onnx").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(graph, "TOLERANCE", 0.0)
        # the graph is the one of before: writing it anew takes seconds, and comparing is the point
        patch.setattr(command, "to_onnx", lambda *rest: (run / "export/model.onnx").read_bytes())
        assert "onnxruntime differs from PyTorch by" in line("--overwrite", output=None)
    assert (run / "export/model.onnx").stat().st_mtime_ns == before
    assert sorted(path.name for path in run.glob("*export*")) == ["export"]
    assert not Path("out").exists()


def test_a_run_is_found_by_its_config_and_one_file_is_named(
    run: Path,
    tmp_path: Path,
    run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--config tiny.yaml --ckpt_path last --output model.onnx`, in a folder that has other files."""
    (tmp_path / "tiny.yaml").write_text("{}")
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.chdir(tmp_path)
    known = ("export", "--config", "tiny.yaml", "--ckpt_path", "last", "--runs", run.parent)
    run_main(*known, "--output", "face.onnx")
    made = {"face.onnx", "face.safetensors", "face.md", "face_card.json", "face_mask.png", "face_mask.json"}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == made | {"tiny.yaml", "README.md"}
    assert (tmp_path / "README.md").read_text() == "mine"
    text, card = Path("face.md").read_text(), json.loads(Path("face_card.json").read_text())
    assert 'InferenceSession("face.onnx"' in text
    assert "model.onnx" not in text
    assert set(card["files"]) == {"face.onnx", "face.safetensors", "face_mask.png", "face_mask.json"}
    assert Path("face.onnx").read_bytes() == (run / "export/model.onnx").read_bytes()
    assert torch.equal(load_mask("face_mask.png", 32), load_mask(run / "export/mask.png", 32))
    line = refused(capsys, lambda: run_main(*known, "--output", "face.onnx"))
    assert "face.onnx is there already; give --overwrite" in line
    made_before = Path("face.onnx").read_bytes()
    monkeypatch.setattr(command, "to_onnx", lambda *rest: made_before)
    run_main(*known, "--output", "face.onnx", "--overwrite")
    assert "of which run?" in refused(capsys, lambda: run_main("export", "--output", "x"))
    assert "no run in" in refused(capsys, lambda: run_main("export", "--name", "none", "--output", "x"))


def test_a_run_that_has_not_ended_says_so(
    run: Path, tmp_path: Path, run_main: RunMain, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half/state.json").write_text('{"state": "running"}')  # and no process holds it
    with caplog.at_level(logging.WARNING, "faceveil"):
        run_main("export", "--ckpt_path", tmp_path / "half", "--output", tmp_path / "out")
    assert "half: its training is killed, not finished" in caplog.text
    assert "**the training had not ended** (killed)" in (tmp_path / "out/README.md").read_text()
