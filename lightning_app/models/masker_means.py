"""The mean mask and the codebook of a masker in training, out of its masks of some training faces."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_app.core.draws import hashed
from lightning_app.masks.learned import FEWEST_FACES, Growth, codebook_of, grown, soft_mask

log = logging.getLogger("faceveil")
_FACES = 122  # salt of this draw
CHUNK = 64  # faces that masks are made of, at a time


def chosen_faces(count: int, faces: int, seed: int) -> Tensor:
    """Choose the faces whose masks are taken: the same ones after every epoch, and after a resume.

    Args:
        count: of the training images.
        faces: how many are chosen; all where there are fewer.
        seed: of the data.

    Returns:
        Their numbers, int64, ascending.
    """
    return torch.argsort(hashed(torch.arange(count), _FACES, seed))[:faces].sort().values


@torch.no_grad()
def mean_masks(
    masker: nn.Module, pictures: Iterable[Tensor], shown: int, growth: Growth, codes: int
) -> dict[str, Tensor]:
    """Make the mean of a masker's soft masks, and the means of their clusters.

    Args:
        masker: maps `[B,3,H,W]` to logits `[B,1,H,W]`; it is in `eval()` while it is called.
        pictures: `[B,3,H,W]` in [0,1] each, at least one.
        shown: pixels shown of each.
        growth: how masks grow.
        codes: clusters asked for.

    Returns:
        `mean [H,W]`, `codes [C,H,W]`, float32 in [0,1], and `faces`, how many both are made of; on the CPU.
    """
    training = masker.training
    masker.eval()
    maps = [soft_mask(*grown(masker, image, shown, growth))[:, 0].cpu() for image in pictures]
    masker.train(training)
    every = torch.cat(maps)
    if len(every) < FEWEST_FACES:
        log.warning(
            "AdversarialMasker: the mean mask is of %d faces, and may show single ones: no release can be made of "
            "it, keep it to yourself.",
            len(every),
        )
    # added up in fp64: the order of images counts for nothing
    mean = every.double().mean(0).float()
    return {"mean": mean, "codes": codebook_of(every, codes), "faces": torch.tensor(len(every))}
