"""Faces as studies of masks take them, chosen by a seed and held as uint8; and checkpoints that know such faces."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader
from lightning_app.core.batch import learnt
from lightning_app.core.draws import hashed
from lightning_app.models.checkpoints import CheckpointFacts

log = logging.getLogger("faceveil")
SCORED = 312  # salt of the draw of images that masks are scored on
_CHUNK = 64


def refuse_released(data: FaceDataModule, what: str) -> None:
    """Refuse a released set where clean faces are needed.

    Args:
        data: what the command is given.
        what: the command, for the message.

    Raises:
        ValueError: the reader's faces are desensitized already.
    """
    if data.released:
        raise ValueError(
            f"data.reader: {what} lays masks on clean faces, and this set is a release, whose faces are hidden "
            "already; give the raw images"
        )


def drawn_numbers(total: int, count: int, salt: int, seed: int, what: str) -> Tensor:
    """Draw `count` of `total` images without repetition, as a function of (salt, seed) alone.

    Args:
        total: images there are.
        count: images wanted.
        salt: names the draw.
        seed: of the draw.
        what: the argument that asked for them, for the message.

    Returns:
        `[count]` int64, in the order drawn.

    Raises:
        ValueError: more are wanted than there are, or none.
    """
    if not 1 <= count <= total:
        raise ValueError(f"{what}={count}: the set has {total} images; give a number from 1 to {total}")
    return torch.argsort(hashed(torch.arange(total), salt, seed), stable=True)[:count]


def load_faces(reader: FaceReader, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Read images into memory.

    Args:
        reader: where from.
        numbers: `[N]` int64 positions in it.

    Returns:
        uint8 `[N,3,H,W]` and their classes `[N]` int64.
    """
    batches = [reader.__getitems__(part.tolist()) for part in numbers.split(_CHUNK)]
    return torch.cat([b["image"] for b in batches]), torch.cat([learnt(b)[0] for b in batches])


def scored_faces(data: FaceDataModule, images: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Read the held-out images that masks are scored on; training images where none is held out.

    Args:
        data: the image set, set up for `fit`.
        images: how many, drawn by the seed, or all that there are where these are fewer; None for all.
        seed: of the draw.

    Returns:
        uint8 `[N,3,H,W]` and their classes `[N]` int64.

    Raises:
        ValueError: none are asked for.
    """
    held = data.held_out or data.training
    assert held is not None
    count = len(held) if images is None else min(images, len(held))
    return load_faces(held, drawn_numbers(len(held), count, SCORED, seed, "images"))


def mates_of(labels: Tensor, numbers: Tensor, salt: int, seed: int) -> Tensor:
    """Choose for each image another one of its identity.

    Args:
        labels: `[N]` int64, class of every image.
        numbers: `[K]` int64, the images that need a mate.
        salt: names the draw.
        seed: of the draw.

    Returns:
        `[K]` int64 positions.

    Raises:
        ValueError: an image is the only one of its identity.
    """
    order = torch.argsort(hashed(torch.arange(len(labels)), salt, seed), stable=True)
    order = order[torch.argsort(labels[order], stable=True)]  # by identity, drawn order within
    counts = torch.bincount(labels)
    starts = torch.cumsum(counts, 0) - counts
    if (counts[labels[numbers]] < 2).any():
        raise ValueError(
            "target=mate: some identities have a single image and so no mate; use min_images: 2 in the reader, "
            "or target=identity"
        )
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - starts[labels[order]]
    mine = labels[numbers]
    following = (place[numbers] + 1) % counts[mine]
    return order[starts[mine] + following]


def check_trained_on(path: str, facts: CheckpointFacts, data: FaceDataModule, clean: bool) -> None:
    """Refuse a checkpoint of other images or identities; warn where its metrics would say little.

    Args:
        path: as the user gave it.
        facts: what the checkpoint says of itself.
        data: the image set, set up for `fit`.
        clean: whether it should have been trained on clean faces.

    Raises:
        ValueError: its images have another size or were normalised otherwise, or its identities another number; or
            it was trained on other images than these, or held out others (see `FaceDataModule.check_split`).
    """
    if facts.input_size != data.size:
        raise ValueError(
            f"checkpoint {path}: trained on {facts.input_size} px images, these have {data.size} px: give the data "
            "config it was trained with"
        )
    known = facts.data.get("num_classes")
    if known is not None and known != data.num_classes:
        raise ValueError(
            f"checkpoint {path}: knows {known} identities, this set has {data.num_classes}: give the data config it "
            "was trained with"
        )
    facts.check_normalised(data.mean, data.std)
    if clean and facts.clean is False:
        log.warning(
            "%s was trained on desensitized faces: its saliency shows what the desensitizer left.", path
        )
    split = facts.data.get("split") or {}
    if data.held_out is None:
        log.warning(
            "data.val_share holds no image out: candidates are scored on images that the model was trained on."
        )
    elif "hash" not in split:
        log.warning(
            "%s does not tell which images it held out: some of these may be its training images.", path
        )
    if "hash" in split:
        data.check_split(split, f"checkpoint {path}")
