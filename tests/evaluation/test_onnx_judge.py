"""A judge out of an ONNX file: keeps the contract, feeds the network as told, refuses what does not go together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from datamodules import DrawnFaces
from lightning_app.evaluation import Judge, OnnxJudge
from lightning_app.models.known import make_known
from tests.evaluation.judge_contract import JudgeContract

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
SHARED = Path("/work/shared/data/judges/fr_feature.onnx")


def write_network(
    path: Path, shape: Sequence[int | str] = ("N", 3, 16, 16), nhwc: bool = False, outputs: int = 1
) -> Path:
    """A network whose embedding is the means of its input over 4×4 pixels, channel after channel."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    nodes = (
        [node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2])]
        if nhwc
        else [node("Identity", ["image"], ["x"])]
    )
    nodes += [node("AveragePool", ["x"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4])]
    nodes += [node("Flatten", ["pooled"], [f"embedding{place or ''}"]) for place in range(outputs)]
    found = [value(f"embedding{place or ''}", kind, [shape[0], None]) for place in range(outputs)]
    graph = onnx.helper.make_graph(nodes, "judge", [value("image", kind, shape)], found)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def faces(size: int = 16, count: int = 5) -> Tensor:
    return DrawnFaces(count, 1, size).__getitems__(range(count))["image"].float() / 255


class TestOnnxJudge(JudgeContract):
    @pytest.fixture(autouse=True)
    def _network(self, tmp_path: Path) -> None:
        self.path = write_network(tmp_path / "judge.onnx")

    def make(self) -> OnnxJudge:
        return OnnxJudge(self.path, size=16)


class TestOnnxJudgeMovesEyes(JudgeContract):
    """One image a call, images of any size."""

    @pytest.fixture(autouse=True)
    def _network(self, tmp_path: Path) -> None:
        self.path = write_network(tmp_path / "judge.onnx", (1, 3, 16, 16))

    def make(self) -> OnnxJudge:
        return OnnxJudge(self.path, size=16, eyes=(0.3333, 0.4267, 0.6667, 0.4267), metric="euclidean")


def test_pixels_come_as_the_recipe_says(tmp_path: Path) -> None:
    images = faces()
    judge = OnnxJudge(
        write_network(tmp_path / "a.onnx"), 16, mean=[10, 20, 30], std=128, scale=255, channels="bgr"
    )
    ready = (images.flip(1) * 255 - torch.tensor([10.0, 20, 30]).view(1, 3, 1, 1)) / 128
    torch.testing.assert_close(judge(images), avg_pool2d(ready, 4).flatten(1), rtol=1e-5, atol=1e-5)
    last = OnnxJudge(write_network(tmp_path / "b.onnx", ("N", 16, 16, 3), True), 16, layout="nhwc")
    torch.testing.assert_close(last(images), avg_pool2d(images * 2 - 1, 4).flatten(1), rtol=1e-5, atol=1e-5)
    grey = OnnxJudge(write_network(tmp_path / "c.onnx", (1, 1, 16, 16)), 16, 0.0, 1.0, channels="grey")
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey(images), avg_pool2d(luma, 4).flatten(1), rtol=1e-5, atol=1e-5)
    assert judge(images[:0]).shape == (0, 48)
    assert len({one.description for one in (judge, last, grey)}) == 3


def test_eyes_are_brought_to_their_place(tmp_path: Path) -> None:
    """Two bright spots of an image end where the template has them; a template that is met changes nothing."""
    path = write_network(tmp_path / "judge.onnx", ("N", 3, 64, 64))
    template = (0.25, 0.5, 0.75, 0.5)
    judge = OnnxJudge(path, 64, 0.0, 1.0, eyes=(0.3, 0.2, 0.3 + 0.3, 0.2 + 0.1), template=template)
    image = torch.zeros(1, 3, 100, 100)
    for x, y in ((30, 20), (60, 30)):
        image[..., y - 2 : y + 2, x - 2 : x + 2] = 1
    moved = judge.prepared(image)[0, 0]
    rows, columns = torch.nonzero(moved > 0.5).unbind(1)
    left = columns < 32
    for side, x in ((left, 16), (~left, 48)):
        assert columns[side].float().mean() + 0.5 == pytest.approx(x, abs=1)
        assert rows[side].float().mean() + 0.5 == pytest.approx(32, abs=1)
    same = OnnxJudge(path, 64, 0.0, 1.0, eyes=template, template=template)
    torch.testing.assert_close(same.prepared(faces(64)), faces(64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        (
            ("N", 3, 16, 16),
            {"size": 20},
            r"takes \['N', 3, 16, 16\], and size=20, channels=rgb, layout=nchw make",
        ),
        (("N", 3, 16, 16), {"size": 16, "layout": "nhwc"}, "give what the network was trained with"),
        (("N", 3, 16, 16), {"size": 16, "channels": "grey"}, "channels=grey"),
        ((4, 3, 16, 16), {"size": 16}, "takes 4 images a call"),
        (("N", 3, 16, 16), {"size": 16, "output": "other"}, r"output=other: .* has embedding; name the one"),
        (("N", 3, 16, 16), {"size": 16, "mean": [1, 2]}, r"mean=\[1, 2\]: give one number, or 3"),
        (("N", 3, 16, 16), {"size": 16, "std": 0}, "std=0: give positive numbers"),
        (("N", 3, 16, 16), {"size": 16, "std": float("nan")}, "std=nan: give finite numbers"),
        (("N", 3, 16, 16), {"size": 16, "mean": [0.5, float("inf"), 0.5]}, "give finite numbers"),
        (("N", 3, 16, 16), {"size": 16, "scale": 0.0}, r"scale=0\.0: give a positive number"),
        (("N", 3, 16, 16), {"size": 16, "scale": float("inf")}, "scale=inf: give a positive number"),
        (
            ("N", 3, 16, 16),
            {"size": 16, "metric": "manhattan"},
            "metric='manhattan': give one of cosine, euclidean",
        ),
        (
            ("N", 3, 16, 16),
            {"size": 16, "template": (0.3, 0.4, 0.6, 0.4)},
            "template: says where .* give eyes too",
        ),
        (("N", 3, 16, 16), {"size": 0}, "size=0: give the side"),
        (("N", 3, 16, 16), {"size": 16, "channels": "gbr"}, "channels='gbr': give one of rgb, bgr, grey"),
        (("N", 3, 16, 16), {"size": 16, "eyes": (0.7, 0.4, 0.3, 0.4)}, r"eyes=.*: give x, y of the left eye"),
        (
            ("N", 1, 4, 4),
            {"size": 4, "channels": "grey"},
            r"of one image is \[1, 1\] float32.*\[1,D\] floats",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, shape: Sequence[int | str], options: dict[str, object], said: str
) -> None:
    path = write_network(tmp_path / "judge.onnx", shape)
    with pytest.raises(ValueError, match=said):
        OnnxJudge(path, **options)  # type: ignore[arg-type]


def test_several_outputs_need_a_name(tmp_path: Path) -> None:
    path = write_network(tmp_path / "judge.onnx", outputs=2)
    with pytest.raises(ValueError, match=r"output=None: .* has embedding, embedding1; name the one"):
        OnnxJudge(path, 16)
    assert OnnxJudge(path, 16, output="embedding1").dim == 48


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; give the ONNX file"):
        OnnxJudge(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match="no ONNX file that onnxruntime can run"):
        OnnxJudge(tmp_path / "text.onnx")
    path = write_network(tmp_path / "judge.onnx")
    with pytest.raises(ValueError, match=r"images are \(5, 3, 20, 20\); expected \[B,3,16,16\]"):
        OnnxJudge(path, 16).embed(faces(20))
    part = {"class_path": "lightning_app.evaluation.OnnxJudge", "init_args": {"path": str(path), "size": 16}}
    assert isinstance(make_known(part, Judge, "compare.yaml"), OnnxJudge)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="OnnxJudge needs onnxruntime, which is not installed"):
        OnnxJudge(path, 16)


@pytest.mark.skipif(not SHARED.is_file(), reason="data of studies is absent: judges/fr_feature.onnx")
def test_the_judge_of_our_studies_takes_its_recipe() -> None:
    judge = OnnxJudge(SHARED, 112, 127, 128, 255, eyes=(0.3333, 0.4267, 0.6667, 0.4267))
    assert judge.dim == 512
    with torch.no_grad():
        found = judge(faces(112, 2))
    assert found.shape == (2, 512)
    assert bool(found.isfinite().all())


def test_a_recipe_of_bytes_without_its_scale_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_network(tmp_path / "judge.onnx")
    with caplog.at_level("WARNING", "faceveil"):
        OnnxJudge(path, size=16, mean=127.5, std=127.5, scale=255)
        assert not caplog.messages
        OnnxJudge(path, size=16, mean=127.5, std=127.5)
    assert "recipes on 0 … 255 take scale: 255" in caplog.text


def test_names_in_a_file_do_not_reach_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Onnxruntime would write the name of a node that fails to standard error as it is, escapes and all."""
    made, value, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [2], [7, 11])
    node = made("Reshape", ["image", "shape"], ["embedding"], name="w\x1b]0;owned\x07\x1b[2J")
    ends = [value("image", kind, ["N", 3, 16, 16])], [value("embedding", kind, ["N", 11])]
    graph = onnx.helper.make_graph([node], "judge", *ends, [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "judge.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="Reshape"):
        OnnxJudge(tmp_path / "judge.onnx", size=16)(faces())
    assert "\x1b" not in capfd.readouterr().err
