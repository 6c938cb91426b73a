"""What a linear map released, turned back into pictures by least squares, learnt from other people's faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_app.attacks.base import Attack, faces_of
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer

if TYPE_CHECKING:
    from datamodules.readers.base import FaceReader

_BATCH = 32  # images at a time
_RIDGE = 1e-7  # of the mean square of what is released: what keeps the equations solvable
_MOST = 4096  # values that a cell is guessed from: their squares are kept


class LeastSquares(Attack):
    """Guess every pixel as the same linear function of what was released around it.

    From other people's faces, desensitized by the method that is attacked, the attack learns the linear map that
    leaves the least squared error (ridge regression in closed form: no training). A linear method, such as `BlockDCT`,
    is turned back exactly, up to what it dropped; of that the best linear guess comes back. A fixed order of the
    channels and sums of them are linear too. It stops at what is drawn anew for every image: shuffles, noise, signs,
    mixes; and at masks, of which each hidden place would need a map of its own.

    Args:
        reader: clean faces of other people, by `class_path`, framed as those attacked.
        images: how many of them are learnt from, spread evenly over the set; fewer where there are fewer.
        neighbours: cells on each side of a pixel's own that it is guessed from too.

    Raises:
        ValueError: an argument is out of range, or too many values would be looked at.
    """

    needs_image = False
    weight: Tensor | None  # [F+1, 3·s·s] float64, the constant last

    def __init__(self, reader: FaceReader | None = None, images: int = 300, neighbours: int = 1) -> None:
        super().__init__()
        for name, value, least in (("images", images, 1), ("neighbours", neighbours, 0)):
            if value < least:
                raise ValueError(f"{name}: {value}; give at least {least}")
        self.reader, self.images, self.neighbours = reader, images, neighbours
        self._method: list[Desensitizer] = []  # in a list: no part of the attack's weights
        # a buffer: what was learnt decides whether metrics that were measured before are its own
        self.register_buffer("weight", None, persistent=False)
        self.cell = 1  # pixels a side that one released value stands for
        self.size = (0, 0)  # of the faces

    def against(self, method: Desensitizer) -> LeastSquares | None:
        """Return the attack on one method, which it learns at the first need.

        None where pixels are masked, and where another program makes the pictures, which it cannot ask to make more.
        """
        if not method.hides or method.elsewhere or method.masking_step() is not None:
            return None
        made = LeastSquares(self.reader, self.images, self.neighbours)
        made._method = [method]
        return made

    @torch.no_grad()
    def learn(self, faces: Tensor) -> None:
        """Learn the map.

        Args:
            faces: `[N,3,H,W]` float in [0,1], of other people.

        Raises:
            ValueError: there is no method, see `against`; or what it releases has too many channels.
        """
        if not self._method:
            raise ValueError("LeastSquares: against which method is not known; call against(method) first")
        gram = cross = None
        self.size = int(faces.shape[2]), int(faces.shape[3])
        count = 0
        for number, part in enumerate(faces.split(_BATCH)):
            index = torch.arange(len(part), device=part.device) + number * _BATCH
            released = self._method[0]({"image": part, "index": index})["image"].float()
            self.cell = max(1, part.shape[2] // released.shape[2])
            seen, wanted = self._seen(released), self._wanted(part, released)
            gram = seen.T @ seen if gram is None else gram + seen.T @ seen
            cross = seen.T @ wanted if cross is None else cross + seen.T @ wanted
            count += len(seen)
        if gram is None or cross is None:
            raise ValueError("LeastSquares: there are no faces to learn from")
        ridge = torch.full((len(gram),), _RIDGE * float(gram.diagonal()[:-1].mean()), dtype=gram.dtype)
        ridge[-1] = 0
        self.weight = torch.linalg.lstsq(gram.cpu() + ridge.diag(), cross.cpu()).solution.to(faces.device)

    def _seen(self, released: Tensor) -> Tensor:
        """Return what each cell is guessed from: `[B·h·w, F+1]` float64, a constant behind it."""
        reach = self.neighbours
        if (values := released.shape[1] * (2 * reach + 1) ** 2) > _MOST:
            raise ValueError(
                f"neighbours: {reach} of {released.shape[1]} channels are {values} values; at most {_MOST}"
            )
        padded = F.pad(released, (reach,) * 4, mode="replicate") if reach else released
        parts = F.unfold(padded, 2 * reach + 1).transpose(1, 2).flatten(0, 1).double()
        return torch.cat([parts, parts.new_ones(len(parts), 1)], 1)

    def _wanted(self, faces: Tensor, released: Tensor) -> Tensor:
        """Return the pixels of each cell: `[B·h·w, 3·s·s]` float64."""
        size = released.shape[2] * self.cell, released.shape[3] * self.cell
        fitting = faces if tuple(faces.shape[2:]) == size else F.interpolate(faces, size, mode="bilinear")
        return F.pixel_unshuffle(fitting, self.cell).permute(0, 2, 3, 1).flatten(0, 2).double()

    def guess(self, released: Batch) -> Tensor:
        """Put every image through the map."""
        image = released["image"].float()
        if self.weight is None:
            self.learn(faces_of(self.reader, self.images, type(self).__name__).to(image.device))
        assert self.weight is not None
        done = []
        for part in image.split(_BATCH):
            cells = self._seen(part) @ self.weight.to(part.device)
            shaped = cells.float().unflatten(0, (len(part), *part.shape[2:])).permute(0, 3, 1, 2)
            done.append(F.pixel_shuffle(shaped, self.cell))
        whole = torch.cat(done)
        fits = tuple(whole.shape[2:]) == self.size
        return whole if fits else F.interpolate(whole, self.size, mode="bilinear", align_corners=False)

    def readers(self) -> list[FaceReader]:
        """Return the set it learns from."""
        return [] if self.reader is None else [self.reader]

    def describe(self) -> dict[str, object]:
        """Return the attack, the method it undoes, and what it learns from."""
        method = self._method[0].describe() if self._method else None
        return super().describe() | {"method": method, "images": self.images, "neighbours": self.neighbours}
