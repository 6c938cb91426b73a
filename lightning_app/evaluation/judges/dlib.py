"""An independent recogniser that anybody can have: dlib's, to see who can still be recognised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_app.alignment.detect import LANDMARKS_5, RECOGNISER, load_dlib, model_path
from lightning_app.alignment.similarity import Pixels
from lightning_app.evaluation.judges.base import Judge
from lightning_app.metrics.reidentification import EmbeddingMetric

_CHIP = 150  # pixels; the side that dlib's network takes
_SIDE = 250  # pixels; a smaller image is enlarged: dlib rounds landmarks to whole pixels
_BATCH = 32  # chips a call
# of the side of an aligned face: where dlib's detector sees it, in crops of 150 px of LFW-a as in the ArcFace template
BOX = (0.5, 0.57, 0.75)


class DlibJudge(Judge):
    """Embed aligned faces with dlib's recogniser, whatever has been done to them.

    A face chip needs landmarks, and these a box. dlib's detector may see no face any more in one that was
    desensitized or restored; since the faces are aligned, a fixed box does as well, and every image gets an
    embedding. Two faces are the same person's, says dlib, if their embeddings are less than 0.6 apart.

    On 200 pairs of our dev list of LFW-a (ten folds; the standard error is 0.7 points): 99.0 % with the detector
    at 250 px, 99.0 % with the default box on what `crop: 150, size: 112` leaves of them, 98.0 % with the
    whole frame for a box. About 0.09 s of processor time an image, while other threads wait.

    Args:
        detect: look for the face with dlib's detector, and take the box where it finds none.
        box: (x, y of the centre, side) of the face's box, in sides of the image. The default suits faces
            aligned by `align` and LFW-a's central 150 pixels; LFW-a's whole 250 need (0.51, 0.54, 0.45).
        metric: `cosine`, as other judges compare, or dlib's own `euclidean`.

    Raises:
        ValueError: dlib or its models are not installed, or the box is none.

    Source: King, dlib's `face_recognition_resnet_model_v1` (ResNet with 29 convolutions), 2017.
    """

    def __init__(
        self, detect: bool = False, box: tuple[float, float, float] = BOX, metric: EmbeddingMetric = "cosine"
    ) -> None:
        super().__init__()
        if not (0 <= box[0] <= 1 and 0 <= box[1] <= 1 and 0 < box[2] <= 1):
            raise ValueError(f"box: {box}; give the centre's x and y and the side, in sides of the image")
        self._dlib = load_dlib("DlibJudge")
        self._detector = self._dlib.get_frontal_face_detector() if detect else None
        self._predictor = self._dlib.shape_predictor(model_path(LANDMARKS_5))
        self._network = self._dlib.face_recognition_model_v1(model_path(RECOGNISER))
        self.box, self.metric = box, metric

    def embed(self, images: Tensor) -> Tensor:
        """Embed aligned faces.

        Args:
            images: `[B,3,H,W]` or `[B,1,H,W]` float in [0,1].

        Returns:
            `[B,128]` float32 on the CPU.

        Raises:
            ValueError: the images are of another shape.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images are {tuple(images.shape)}; expected [B,3,H,W]")
        embeddings = torch.empty(len(images), 128)  # on the CPU, where dlib works
        for start in range(0, len(images), _BATCH):
            chips = [self.chip(image) for image in images[start : start + _BATCH]]
            found = self._network.compute_face_descriptor(chips)
            embeddings[start : start + len(chips)] = torch.tensor(np.array(found), dtype=torch.float32)
        return embeddings

    def describe(self) -> dict[str, object]:
        """Return dlib's network, and the box in which it looks for landmarks."""
        return {"judge": "dlib face_recognition_resnet_model_v1", "box": list(self.box),
                "detect": self._detector is not None, "metric": self.metric}  # fmt: skip

    @property
    def description(self) -> str:
        """The network and its box, as parts of earlier comparisons name them."""
        detect = ", detector" if self._detector is not None else ""
        metric = "" if self.metric == "cosine" else f", {self.metric}"
        return f"dlib face_recognition_resnet_model_v1, box {tuple(self.box)}{detect}{metric}"

    def chip(self, image: Tensor) -> Pixels:
        """Cut out the face as the network wants it.

        Args:
            image: `[3,H,W]` or `[1,H,W]` float in [0,1].

        Returns:
            uint8 `[150,150,3]`, turned upright by the corners of the eyes and the nose.
        """
        pixels = image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1)[None]
        if max(pixels.shape[2:]) < _SIDE:
            by = _SIDE / max(pixels.shape[2:])
            size = (round(pixels.shape[2] * by), round(pixels.shape[3] * by))
            pixels = interpolate(pixels, size, mode="bilinear", align_corners=False)
        array = np.ascontiguousarray(pixels[0].permute(1, 2, 0).mul(255).round().byte().numpy())
        landmarks = self._predictor(array, self._box(array))
        return np.asarray(self._dlib.get_face_chip(array, landmarks, _CHIP), np.uint8)

    def _box(self, pixels: Pixels) -> object:
        height, width = pixels.shape[:2]
        x, y, half = self.box[0] * width, self.box[1] * height, self.box[2] * max(width, height) / 2
        if self._detector is not None:
            found = list(self._detector(pixels, 0))
            if found:
                # beside a face the detector may see another one in the background
                return min(found, key=lambda b: abs(b.center().x - x) + abs(b.center().y - y))
        return self._dlib.rectangle(round(x - half), round(y - half), round(x + half), round(y + half))
