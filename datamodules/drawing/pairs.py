"""Verification on drawn faces: pairs of people who do not exist and were not trained on."""

from __future__ import annotations

import torch

from datamodules.drawing.reader import DrawnFaces
from datamodules.verification.readers import PairList


class DrawnPairs(DrawnFaces):
    """Drawn faces with a list of pairs, as LFW's View 2 has them.

    Args:
        identities: how many people.
        images_per_identity: images of each.
        size: height and width of the images in pixels.
        seed: seed of the set; give the training set's, and another range of identities.
        first_identity: number of the first person; beyond the training set's last.
        nuisance: how much the images of one person vary, 0 … 2.
        folds: how many folds.
        pairs_per_fold: pairs of the same person in each fold, and as many of different persons (LFW: 300).

    Attributes:
        pairs: the list, `a` and `b` being positions in this reader.

    Raises:
        ValueError: an argument is outside its range, or the set has not that many different pairs.
    """

    pairs: PairList
    of_nobody = True

    def __init__(
        self,
        identities: int = 100,
        images_per_identity: int = 8,
        size: int = 112,
        seed: int = 0,
        first_identity: int = 5000,
        nuisance: float = 1.0,
        folds: int = 10,
        pairs_per_fold: int = 100,
    ) -> None:
        super().__init__(identities, images_per_identity, size, seed, first_identity, nuisance)
        a, b, same, fold = zip(*self.draw_pairs(pairs_per_fold, folds), strict=True)
        self.pairs = PairList(
            names=[self.name(index) for index in range(len(self))],
            a=torch.tensor(a), b=torch.tensor(b), same=torch.tensor(same), folds=torch.tensor(fold),
            identities=self.identities, labels=self.labels,
        )  # fmt: skip
