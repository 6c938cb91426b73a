"""Any recogniser in ONNX as a judge: InsightFace's models, or what `export` wrote."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from lightning_app.core.normalise import normalised
from lightning_app.evaluation.judges.base import Judge
from lightning_app.metrics.reidentification import EmbeddingMetric

log = logging.getLogger("faceveil")
# ArcFace's template of 112 px: x and y of the eye on the left and the eye on the right, in sides of the image
ARCFACE_EYES = (38.29 / 112, 51.6 / 112, 73.53 / 112, 51.6 / 112)
_LUMA = (0.299, 0.587, 0.114)  # BT.601
_LARGE = 10.0  # of a deviation of pixels in [0,1]: none is so large
_BATCH = 64  # images a call, where the network takes any number
Eyes = tuple[float, float, float, float]


class OnnxJudge(Judge):
    """Embed faces with a recogniser in ONNX that you have; nothing is downloaded.

    Pixels come to the network as (scale · x − mean) / std, with x in [0,1]. Many networks of InsightFace take
    `scale: 255, mean: 127.5, std: 127.5`, in RGB; what `export` writes takes `mean: 0, std: 1`. What the file says of
    its input is compared with these arguments, and it is run once. What it does not say, such as the order of the
    channels, only its accuracy on clean faces shows.

    Args:
        path: the `.onnx` file; its weights lie in it.
        size: height and width of the network's input, in pixels.
        mean: subtracted from each channel after `scale`; one number, or one for each.
        std: what each channel is divided by then; likewise.
        scale: what pixels in [0,1] are multiplied by first: 255 for recipes on 0 … 255.
        channels: `rgb`, `bgr`, or `grey` for a network of one channel.
        layout: `nchw`, or `nhwc` with the channels last.
        eyes: where the eyes are in the images at hand: x, y of the left one, x, y of the right one (as seen), in sides
            of the image. The image is then turned, scaled and shifted so that they come to `template`. By default the
            faces are where the network wants them. LFW-a's central 150 px have (0.3333, 0.4267, 0.6667, 0.4267).
        template: where the network wants the eyes, likewise in sides of its input; by default ArcFace's template.
        output: name of the output that is the embedding; needed where there are several.
        metric: how embeddings are compared: `cosine`, or `euclidean`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: onnxruntime is not installed, the file is no network it can run, or its input is another.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 112,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        scale: float = 1.0,
        channels: Literal["rgb", "bgr", "grey"] = "rgb",
        layout: Literal["nchw", "nhwc"] = "nchw",
        eyes: Eyes | None = None,
        template: Eyes = ARCFACE_EYES,
        output: str | None = None,
        metric: EmbeddingMetric = "cosine",
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size}: give the side of the network's input in pixels, at least 1")
        for name, value, known in (
            ("channels", channels, ("rgb", "bgr", "grey")),
            ("layout", layout, ("nchw", "nhwc")),
            ("metric", metric, get_args(EmbeddingMetric)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: give one of {', '.join(known)}")
        self.path, self.size, self.scale, self.metric = Path(path), size, scale, metric
        self.channels, self.layout = channels, layout
        self.mean, self.std = (self._values(name, one) for name, one in (("mean", mean), ("std", std)))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std={std}: give positive numbers")
        if not 0 < scale < math.inf:
            raise ValueError(
                f"scale={scale}: give a positive number, such as 1, or 255 for recipes on 0 … 255"
            )
        if eyes is None and tuple(template) != ARCFACE_EYES:
            raise ValueError("template: says where faces are moved to; give eyes too, where they are now")
        if float(self.std.min()) > _LARGE and scale == 1:
            log.warning(
                "OnnxJudge: std=%s with scale=1: pixels in [0,1] become nearly one value; recipes on 0 … 255 take "
                "scale: 255.", std,
            )  # fmt: skip
        # where the face is moved to its place, this is done straight from the image's own pixels
        self.input_size = size if eyes is None else None
        self.eyes, self.template = eyes, template
        self._move = (
            None if eyes is None else _similarity(_checked("template", template), _checked("eyes", eyes))
        )
        self._session, self.sha256 = _opened(self.path)
        self._input, self._one_each = self._check_input()
        self._output = self._check_output(output)
        self.dim = self._check_run()

    def embed(self, images: Tensor) -> Tensor:
        """Embed faces, see `Judge.embed`.

        Returns:
            `[B,D]` float32 on the CPU.

        Raises:
            ValueError: the images are of another shape.
        """
        sides = images.shape[-2:]
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or (self._move is None and sides != (self.size, self.size))
        ):
            of = "H,W" if self._move is not None else f"{self.size},{self.size}"
            raise ValueError(f"images are {tuple(images.shape)}; expected [B,3,{of}]")
        ready = self.prepared(images.detach()).cpu().numpy()
        parts = np.split(ready, range(1, len(ready))) if self._one_each else _chunks(ready)
        found = [self._session.run([self._output], {self._input: part})[0] for part in parts if len(part)]
        if not found:
            return torch.empty(0, self.dim)
        return torch.from_numpy(np.concatenate(found).reshape(len(ready), -1)).float()

    def prepared(self, images: Tensor) -> Tensor:
        """Make of faces what the network takes.

        Args:
            images: `[B,3,H,W]` float in [0,1].

        Returns:
            `[B,C,size,size]` float32, or `[B,size,size,C]` with `layout: nhwc`.
        """
        images = images.float()
        if self._move is not None:
            theta = self._move.to(images.device).expand(len(images), -1, -1)
            grid = affine_grid(theta, [len(images), 3, self.size, self.size], align_corners=False)
            images = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if self.channels == "bgr":
            images = images.flip(1)
        elif self.channels == "grey":
            images = (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        ready = normalised(images * self.scale, self.mean.to(images.device), self.std.to(images.device))
        return (ready if self.layout == "nchw" else ready.permute(0, 2, 3, 1)).contiguous()

    def describe(self) -> dict[str, object]:
        """Return the start of the file's hash and how pixels come to the network."""
        return {
            "judge": "ONNX", "file": self.sha256[:12], "size": self.size, "scale": self.scale,
            "mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist(), "channels": self.channels,
            "layout": self.layout, "eyes": None if self.eyes is None else list(self.eyes),
            "template": None if self.eyes is None else list(self.template), "output": self._output,
            "metric": self.metric,
        }  # fmt: skip

    @property
    def description(self) -> str:
        """The hash of its file and how pixels come to it."""
        return f"OnnxJudge {self.sha256} {self.describe()}"

    def _values(self, name: str, value: float | Sequence[float]) -> Tensor:
        count = 1 if self.channels == "grey" else 3
        values = [value] * count if isinstance(value, int | float) else list(value)
        if len(values) != count:
            raise ValueError(f"{name}={value}: give one number, or {count} (channels: {self.channels})")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}={value}: give finite numbers")
        return torch.tensor(values, dtype=torch.float32).view(1, count, 1, 1)

    def _check_input(self) -> tuple[str, bool]:
        """Compare the network's input with what it will be given: its name, and whether it takes one image a call."""
        inputs = self._session.get_inputs()
        count = self.mean.numel()
        wanted = [count, self.size, self.size] if self.layout == "nchw" else [self.size, self.size, count]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            said = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise ValueError(f"{self.path}: takes {said}; a judge gives it one input, [B,C,H,W] or [B,H,W,C]")
        shape = inputs[0].shape
        if inputs[0].type != "tensor(float)":
            raise ValueError(f"{self.path}: takes {inputs[0].type}; a judge gives it tensor(float)")
        if any(isinstance(there, int) and there != own for there, own in zip(shape[1:], wanted, strict=True)):
            raise ValueError(
                f"{self.path}: takes {shape}, and size={self.size}, channels={self.channels}, layout={self.layout} "
                f"make {['B', *wanted]}: give what the network was trained with"
            )
        if isinstance(shape[0], int) and shape[0] != 1:
            raise ValueError(
                f"{self.path}: takes {shape[0]} images a call, no more and no less; export it for one or any number"
            )
        return inputs[0].name, shape[0] == 1

    def _check_output(self, asked: str | None) -> str:
        names = [one.name for one in self._session.get_outputs()]
        if asked is None and len(names) == 1:
            return str(names[0])
        if asked not in names:
            raise ValueError(
                f"output={asked}: {self.path} has {', '.join(names)}; name the one that is the embedding"
            )
        return str(asked)

    def _check_run(self) -> int:
        """Run the network on one image: the length of its embedding."""
        count = self.mean.numel()
        shape = (
            (1, count, self.size, self.size) if self.layout == "nchw" else (1, self.size, self.size, count)
        )
        image = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        try:
            found = self._session.run([self._output], {self._input: image})[0]
        except Exception as error:  # onnxruntime's own errors have no common base
            raise ValueError(f"{self.path}: cannot be run on {list(shape)} ({_line(error)})") from error
        found = np.asarray(found)
        length = int(found.size)
        if found.dtype.kind != "f" or length < 2 or found.shape[0] != 1 or not np.isfinite(found).all():
            raise ValueError(
                f"{self.path}: output {self._output} of one image is {list(found.shape)} {found.dtype}, or not finite; "
                "an embedding is [1,D] floats"
            )
        return length


def _opened(path: Path) -> tuple[Any, str]:
    """Open a network from its bytes, so that the hash is that of all that is run; and the SHA-256."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"OnnxJudge needs onnxruntime, which is not installed ({error}): pip install onnxruntime"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"path={path}: no such file; give the ONNX file of a face recogniser")
    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # nothing: what goes wrong is raised, and onnxruntime would write names out of the file to the terminal as they are
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common base
        raise ValueError(f"path={path}: no ONNX file that onnxruntime can run ({_line(error)})") from error
    return session, hashlib.sha256(content).hexdigest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _chunks(images: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _checked(name: str, eyes: Sequence[float]) -> Eyes:
    if len(eyes) != 4 or not all(0 <= value <= 1 for value in eyes) or eyes[0] >= eyes[2]:
        raise ValueError(
            f"{name}={list(eyes)}: give x, y of the left eye and x, y of the right one, in sides of the image (0 … 1)"
        )
    return (eyes[0], eyes[1], eyes[2], eyes[3])


def _similarity(source: Eyes, target: Eyes) -> Tensor:
    """Find the similarity that brings two points to two others, for `affine_grid`: `[1,2,3]`.

    Points are given in sides of the image, 0 … 1; `affine_grid` counts from −1 to 1. As complex numbers w = a·z + b.
    """
    z = [complex(2 * source[at] - 1, 2 * source[at + 1] - 1) for at in (0, 2)]
    w = [complex(2 * target[at] - 1, 2 * target[at + 1] - 1) for at in (0, 2)]
    a = (w[1] - w[0]) / (z[1] - z[0])
    b = w[0] - a * z[0]
    return torch.tensor([[[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]], dtype=torch.float32)
