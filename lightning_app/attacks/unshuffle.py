"""Channels that were shuffled per image, put back by what each frequency looks like; then the linear map inverted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lightning_app.attacks.base import Attack, faces_of
from lightning_app.attacks.trained import TrainedRestorer
from lightning_app.core.batch import Batch
from lightning_app.desensitize import BlockDCT, Desensitizer

if TYPE_CHECKING:
    from datamodules.readers.base import FaceReader

_BATCH = 32  # images at a time
_SPREAD = 1e-3  # least deviation of a statistic, so that one that never moves does not decide alone
_NOTHING = 1e-6  # deviation of a channel that carries nothing


class Unshuffle(Attack):
    """Put channels back that are in another order for every image, without the owner's key, and make a picture of them.

    What a frequency looks like differs from frequency to frequency much more than from face to face. From other
    people's faces, transformed by the same method without its shuffle, the attack learns ten statistics of every
    channel, and its mean and scale where the method leaves them; each released image's channels are then assigned to
    frequencies so that the statistics fit best together (the Hungarian method). What is put back is brought to those
    faces' mean deviation, channel by channel, and the method's linear map is inverted by least squares; or a restorer
    that was trained without the shuffle goes on from there.

    It stops where channels are mixed with their neighbours (`FrequencyMask` with `mix: true`): a sum of two channels
    has the statistics of neither.

    Args:
        reference: the method without its shuffle: a `BlockDCT` of the same options, with `normalise: true` where the
            method normalises channels.
        reader: clean faces of other people, by `class_path`, framed as those attacked.
        images: how many of them are learnt from, spread evenly over the set; fewer where there are fewer.
        then: checkpoint of a restorer that was trained on `reference`; by default the linear map is inverted.

    Raises:
        FileNotFoundError, ValueError: an argument cannot be used; the message says why.

    Source: findings on the second paper's method; Kuhn, "The Hungarian method for the assignment problem", 1955.
    """

    needs_image = False
    mean: Tensor | None  # [C,S]
    deviation: Tensor | None  # [C,S]
    spread: Tensor | None  # [C], of the values before they are normalised

    def __init__(
        self, reference: Desensitizer, reader: FaceReader | None = None, images: int = 500,
        then: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if reference.is_image:
            raise ValueError(
                f"reference: {type(reference).__name__} gives pictures, whose channels nobody shuffles; give the "
                "method without its shuffle, such as a BlockDCT"
            )
        if images < 2:
            raise ValueError(f"images: {images}; learn from at least 2 faces")
        self.reference, self.reader, self.images = reference, reader, images
        self.then = None if then is None else TrainedRestorer(then)
        for name in ("mean", "deviation", "spread"):
            self.register_buffer(name, None, persistent=False)

    def learn(self, faces: Tensor) -> None:
        """Learn what the channels of faces look like.

        Args:
            faces: `[N,3,H,W]` float in [0,1], of other people; N ≥ 2.
        """
        size = (int(faces.shape[2]), int(faces.shape[3]))
        self.reference.prepare(size)
        raw = self._before_normalising()
        found, squares = [], []
        for part in faces.split(_BATCH):
            batch: Batch = {"image": part, "index": torch.arange(len(part), device=part.device)}
            found.append(channel_statistics(self.reference(batch)["image"], self._scaled()))
            squares.append(raw(batch)["image"].float().flatten(2).var(2, unbiased=False))
        statistics = torch.cat(found)
        self.mean = statistics.mean(0)
        self.deviation = statistics.std(0).clamp(min=_SPREAD)
        self.spread = torch.cat(squares).sqrt().mean(0)

    def _before_normalising(self) -> Desensitizer:
        """Return the method without its normalisation: what the deviations of its channels are."""
        one = self.reference
        if not isinstance(one, BlockDCT) or not one.normalise:
            return one
        return type(one).from_description(one.describe() | {"normalise": False})

    def _scaled(self) -> bool:
        """Return whether channels keep their mean and scale."""
        return not bool(self.reference.describe().get("normalise"))

    def put_back(self, image: Tensor) -> Tensor:
        """Put the channels of released images back into the order of their frequencies.

        Args:
            image: `[B,C,h,w]` as released.

        Returns:
            The same values, channels permuted per image.

        Raises:
            ValueError: it has other channels than the reference, or there are no faces to learn from.
        """
        if self.mean is None or self.deviation is None:
            self.learn(faces_of(self.reader, self.images, type(self).__name__).to(image.device))
        assert self.mean is not None
        assert self.deviation is not None
        if image.shape[1] != len(self.mean):
            raise ValueError(
                f"reference: {type(self.reference).__name__} has {len(self.mean)} channels, what was released has "
                f"{image.shape[1]}; give the released method without its shuffle"
            )
        order = assigned(
            channel_statistics(image, self._scaled()),
            self.mean.to(image.device),
            self.deviation.to(image.device),
        )
        return image.gather(1, order[:, :, None, None].expand_as(image))

    def guess(self, released: Batch) -> Tensor:
        """Put the channels back, and make pictures of them."""
        image = self.put_back(released["image"].float())
        if self.then is not None:
            return self.then.guess({**released, "image": image})
        raw = self._before_normalising()
        if raw is not self.reference and self.spread is not None:
            image = image * self.spread.to(image.device)[None, :, None, None]
        return raw.look(image)

    def going_on(self, then: str | Path) -> Unshuffle:
        """Return the attack that a restorer goes on from.

        Args:
            then: its checkpoint, trained on the reference.
        """
        return Unshuffle(self.reference, self.reader, self.images, Path(then))

    def against(self, method: Desensitizer) -> Unshuffle | None:
        """Return the attack where a method releases as many channels as the reference; None elsewhere."""
        alike = not method.is_image and method.out_channels == self.reference.out_channels
        return self if alike and method.mixes < 2 else None

    def readers(self) -> list[FaceReader]:
        """Return the set it learns from."""
        return [] if self.reader is None else [self.reader]

    def describe(self) -> dict[str, object]:
        """Return the attack, the method it undoes, and how many faces it learns from."""
        then = None if self.then is None else self.then.describe()
        return super().describe() | {
            "reference": self.reference.describe(), "images": self.images, "then": then,
        }  # fmt: skip


def channel_statistics(image: Tensor, scale: bool = False) -> Tensor:
    """Describe each channel of each image, whatever its mean and scale: ten numbers that no shuffle of channels moves.

    How alike neighbours are (one step across, down and along both diagonals, two steps across and down), the third
    and fourth moment's roots, the mean absolute value, and the share of values beyond one deviation.

    Args:
        image: `[B,C,h,w]`, sides of at least 3.
        scale: describe mean and deviation as well, where a method does not take them away.

    Returns:
        `[B,C,10]` float32, zeros of a channel whose values are all the same; with `scale` `[B,C,12]`, behind them the
        deviation's logarithm and the mean.
    """
    x = image.float()
    middle = x.mean((2, 3), keepdim=True)
    x = x - middle
    deviation = x.square().mean((2, 3), keepdim=True).sqrt()
    x = torch.where(deviation > 0, x / deviation.clamp(min=1e-30), 0.0)
    more = [deviation.clamp(min=_NOTHING).log().flatten(1), middle.flatten(1)] if scale else []

    def alike(down: int, across: int) -> Tensor:
        height, width = x.shape[2] - down, x.shape[3] - abs(across)
        one = x[:, :, :height, max(0, -across) :][..., :width]
        other = x[:, :, down:, max(0, across) :][..., :width]
        return (one * other).mean((2, 3))

    third, fourth = x.pow(3).mean((2, 3)), x.pow(4).mean((2, 3))
    beyond = (x.abs() > 1).float().mean((2, 3))
    return torch.stack([
        alike(0, 1), alike(1, 0), alike(1, 1), alike(1, -1), alike(0, 2), alike(2, 0),
        third.sign() * third.abs().pow(1 / 3), fourth.pow(1 / 4), x.abs().mean((2, 3)), beyond, *more,
    ], 2)  # fmt: skip


def assigned(statistics: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Assign the channels of images to frequencies so that the statistics fit best together.

    Args:
        statistics: `[B,C,S]`, of released channels.
        mean: `[C,S]`, of each frequency over other faces.
        deviation: `[C,S]`, likewise, above 0.

    Returns:
        `[B,C]` int64: for each frequency the channel that carries it, so that `gather` puts them back.

    Source: `scipy.optimize.linear_sum_assignment`, on minus the log-likelihood of independent normal statistics.
    """
    gap = (statistics[:, None] - mean[None, :, None]) / deviation[None, :, None]  # [B, frequency, channel, S]
    cost = (gap.square() / 2).sum(3) + deviation.log().sum(1)[None, :, None]
    orders = [torch.from_numpy(linear_sum_assignment(one)[1]) for one in cost.cpu().numpy()]
    return torch.stack(orders).to(statistics.device)
