"""The batch every part of FaceVeil speaks of, and the draw key that its random draws are a function of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


class Batch(TypedDict, total=False):
    """One batch of faces (design, section 3).

    Shapes: B images, M distinct masks, H×W pixels.

    Attributes:
        image: `[B,3,H,W]`; uint8 as the reader yields it, float in [0,1] for a desensitizer, normalised
            for a model.
        target: what is learnt: `[B]` int64 classes, or `[B,k]` where labels are mixed, with `weight`. Left out where
            it is the identity. Of a task such as emotion it is the number of the reader's class.
        weight: `[B,k]` float, the mixed labels' shares, rows summing to 1; never dense over the classes.
        identity: `[B]` int64, who is on the image: the number of the reader's class, of a task the number of the
            person; -1 where it is not known. Of a mix, who is on its first image.
        mask: `[M,1,H,W]` float, 1 = visible, 0 = hidden; None where nothing is hidden.
        mask_index: `[B]` int64, which of the M masks lies on each image.
        index: `[B]` int64, the image's number in its reader.
        clean: `[B,3,H,W]` float in [0,1], the raw faces; only for attackers, see `FaceDataModule`'s `keep_clean`.
        elsewhere: uint8 `[B,3,H,W]`, what another program made of the images; only for a desensitizer that says so.
        bad: `[K]` int64, numbers of images that could not be decoded and were replaced.
        mask_bits: `[M,ceil(H·W/8)]` uint8, masks that came with released images, packed; `mask_index` says which lies
            on each. In place of `mask`, until the batch is on the device.
        places: `[3,B]` or `[4,B]` int64, in place of the others where the set lies on the device, until the batch is
            there.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    identity: Tensor
    mask: Tensor | None
    mask_index: Tensor
    index: Tensor
    clean: Tensor
    elsewhere: Tensor
    bad: Tensor
    mask_bits: Tensor
    places: Tensor


def labelled(classes: Tensor, people: Tensor | None) -> Batch:
    """Return the part of a batch that says what is learnt of images and who is on them.

    Args:
        classes: `[B]` int64, the reader's class of each image.
        people: `[B]` int64, who is on each, -1 where it is not known; None where the classes are the people.

    Returns:
        `identity` alone where the classes are the people; else `target` and `identity`.
    """
    return {"identity": classes} if people is None else {"target": classes, "identity": people}


def learnt(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return what a model learns of a batch.

    Args:
        batch: with a `target`, or else with the `identity` that is learnt.

    Returns:
        Classes `[B]` and None; or mixed labels `[B,k]` and their shares `[B,k]`.

    Raises:
        ValueError: a `target [B,k]` comes without its weight.
    """
    target = batch["target"] if "target" in batch else batch["identity"]
    weight = batch.get("weight")
    if target.ndim > 1 and weight is None:
        raise ValueError(
            f"target of shape {list(target.shape)}: mixed labels need a weight of that shape, whose rows sum to 1"
        )
    return target, weight if target.ndim > 1 else None


@dataclass(frozen=True)
class DrawKey:
    """When a batch is drawn: what all its random draws are a function of, never a stream.

    Per-image draws come from (seed, epoch, index), per-batch draws from (seed, step).

    Attributes:
        seed: the run's data seed.
        epoch: number of the epoch, from 0.
        step: number of the optimiser step, from 0; 0 outside training; -1 where images are mixed outside training, as
            training images are: what a step decides there, the images of the batch decide.
        mix: whether a desensitizer that mixes images, or flips their signs, does so now. True for training images, of
            recognisers and attackers alike; verification, validation and `predict` never mix.
    """

    seed: int = 0
    epoch: int = 0
    step: int = 0
    mix: bool = False


AS_TRAINED = DrawKey(step=-1, mix=True)  # of images that nobody learns from, shown as training images are
