"""How alike desensitized faces and their clean ones look to a judge that knows faces."""

from __future__ import annotations

import torch
from torch import Tensor

from callbacks.raw_faces import MeasuresRawFaces, SeenFaces
from lightning_app.attacks.base import Attack
from lightning_app.core.log_keys import measurement
from lightning_app.core.measurement import Measurement
from lightning_app.evaluation.embed import Shown, embed_images
from lightning_app.evaluation.judges.base import Judge
from lightning_app.metrics.face_similarity import face_similarity

_AT_A_TIME = 64  # images the judge is given


class FaceSimilarityReport(MeasuresRawFaces):
    """Let a judge compare desensitized faces with their clean ones, and log what it sees.

    Keys: `privacy/face_similarity` (cosine of a desensitized face and its own clean one, each side's mean subtracted,
    with its 95 % interval), `privacy/face_similarity_impostor` (the same of a desensitized face and others' clean
    ones: the level that says nothing), `privacy/rank1` (share whose own clean image is the most similar of all). With
    an `attack`, the same of what it restores, `…_restored`; an attack that needs a mask leaves out batches without.
    Images need no names of people: each is its own person, so have one image of a person where it matters.

    Where the desensitized pixels are those of the last time, so are the metrics. Under DDP every rank measures the
    same images.

    Args:
        judge: knows faces, by class_path, such as `lightning_app.evaluation.judges.DlibJudge`.
        images: how many validation images, at least 2; fewer where there are fewer.
        attack: restores desensitized images first, such as `lightning_app.attacks.Telea`.

    Raises:
        ValueError: `images` is below 2.

    Source: third paper, "Face Similarity" (4, Evaluation), centred.
    """

    def __init__(self, judge: Judge, images: int = 180, attack: Attack | None = None) -> None:
        super().__init__(images)
        if images < 2:
            raise ValueError(
                f"FaceSimilarityReport: images={images}: give at least 2, to have others to compare"
            )
        self.judge, self.attack = judge, attack
        self._clean: Tensor | None = None  # [n,D] on the CPU

    def logged(self) -> tuple[str, ...]:
        """Return its log keys, as patterns."""
        return "privacy/face_similarity*", "privacy/rank1*"

    def measure(self, found: SeenFaces, device: torch.device) -> list[Measurement]:
        """Measure; see `MeasuresRawFaces.measure`."""
        if len(found.clean) < 2:
            self.tell("FaceSimilarityReport: one image has no others to compare with: skipped.")
            return []
        self.judge.check_size(found.clean.shape[-1])
        self.judge.eval().to(device)
        if self._clean is None:
            self._clean = self._embed(found.clean)
        measured = self._compare(found.pictures, "")
        if (restored := self._restored(found)) is not None:
            measured += self._compare(restored, "_restored")
        return measured

    def _restored(self, found: SeenFaces) -> Tensor | None:
        if self.attack is None or (self.attack.needs_mask and found.desensitized["mask"] is None):
            return None
        picture = found.desensitized["image"].shape[1] == 3
        if self.attack.needs_image and not picture:
            return None
        return self.attack.eval().to(found.pictures.device).restore(found.desensitized)

    def _compare(self, pictures: Tensor, tail: str) -> list[Measurement]:
        assert self._clean is not None
        found = face_similarity(self._embed(pictures), self._clean)
        return [
            measurement(f"privacy/face_similarity{tail}", found.mean, found.low, found.high),
            measurement(f"privacy/face_similarity_impostor{tail}", found.impostor),
            measurement(f"privacy/rank1{tail}", found.rank1),
        ]

    def _embed(self, images: Tensor) -> Tensor:
        shown = ([Shown(part, {"judge": self.judge})] for part in images.split(_AT_A_TIME))
        return embed_images(shown)["judge"].cpu()
