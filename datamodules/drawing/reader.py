"""Faces drawn from a seed: nobody's, aligned, in any number; the default of the demo and the tests."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.drawing.draw import draw_face
from datamodules.drawing.parameters import Pixels, person, shot
from datamodules.readers.base import FaceReader
from lightning_app.core.files import write_atomically

Pair = tuple[int, int, bool, int]
Numbers = NDArray[np.int64]


class DrawnFaces(FaceReader):
    """Cartoon portraits of people who do not exist, with the eyes and the mouth where alignment puts them.

    Image j of identity i is a pure function of (seed, i, j, size, nuisance): it does not change with how many
    others are drawn, in which order or by which worker. Persons differ in the outline of the head, skin,
    hair, eyes, brows, nose, mouth, ears, beard, freckles and wrinkles; the images of one person in pose,
    expression, light, glasses, clothes, background and noise. Images are in order of identity, and are drawn
    when read: put a `CachedReader` around the set where it is read more than once.

    Args:
        identities: how many people, at least 2.
        images_per_identity: images of each, at least 1.
        size: height and width of the images in pixels, 16 … 1024.
        seed: seed of the whole set, at least 0.
        first_identity: number of the first person, at least 0: sets whose ranges do not overlap have no
            person in common.
        nuisance: how much the images of one person vary, 0 (all the same) … 2.

    Raises:
        ValueError: an argument is outside its range.
    """

    of_nobody = True

    def __init__(
        self,
        identities: int = 64,
        images_per_identity: int = 16,
        size: int = 112,
        seed: int = 0,
        first_identity: int = 0,
        nuisance: float = 1.0,
    ) -> None:
        for name, value, least, most in (
            ("identities", identities, 2, 10**7), ("images_per_identity", images_per_identity, 1, 10**6),
            ("size", size, 16, 1024), ("seed", seed, 0, 2**63 - 1),
            ("first_identity", first_identity, 0, 10**9), ("nuisance", nuisance, 0, 2),
        ):  # fmt: skip
            if not least <= value <= most:
                raise ValueError(f"drawn faces: {name}={value}: give a number from {least} to {most}")
        self.size = size
        self.seed = seed
        self.first_identity = first_identity
        self.images_per_identity = images_per_identity
        self.nuisance = nuisance
        numbers = range(first_identity, first_identity + identities)
        digits = max(
            5, len(str(numbers[-1]))
        )  # of one width, so that the names are in the order of the classes
        self.identities = [f"Drawn_{number:0{digits}d}" for number in numbers]
        self.labels = torch.arange(identities).repeat_interleave(images_per_identity)

    def read(self, index: int) -> Pixels:
        """Draw one image.

        Args:
            index: position in the set.

        Returns:
            uint8 `[3,size,size]`.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)} drawn faces")
        label, image = divmod(index, self.images_per_identity)
        number = self.first_identity + label
        return draw_face(person(self.seed, number), shot(self.seed, number, image, self.size, self.nuisance))

    def name(self, index: int) -> str:
        """Return the name of an image as `write` does: `Drawn_00012/Drawn_00012_0001.png`, images counted from 1."""
        label, image = divmod(index, self.images_per_identity)
        who = self.identities[label]
        return f"{who}/{who}_{image + 1:04d}.png"

    def pixel_facts(self) -> dict[str, object]:
        """Return what decides the pixels beside who is drawn."""
        return {**super().pixel_facts(), "seed": self.seed, "nuisance": self.nuisance}

    def draw_pairs(self, count_per_class: int, folds: int = 10, seed: int = 0) -> list[Pair]:
        """Draw verification pairs as LFW's View 2 has them: no person in two folds, no pair twice.

        Args:
            count_per_class: pairs of the same person in each fold, and as many of different ones (LFW: 300).
            folds: how many folds, at least 2. Where there are fewer than 2 identities a fold, all folds share
                all identities; no pair occurs twice then either.
            seed: of the pairs.

        Returns:
            (position, position, same person, fold), fold by fold, in each those of the same person first.

        Raises:
            ValueError: the set has not that many different pairs; names the most there are.
        """
        for name, value, least in (
            ("count_per_class", count_per_class, 1),
            ("folds", folds, 2),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"pairs: {name}={value}: give at least {least}")
        most = self.most_pairs(folds)
        if count_per_class > most:
            raise ValueError(
                f"pairs: count_per_class={count_per_class}: {len(self.identities)} identities with "
                f"{self.images_per_identity} images give at most {most} in each of {folds} folds"
            )
        generator = np.random.default_rng([self.seed, 3, seed])
        order = generator.permutation(len(self.identities))
        if len(order) >= 2 * folds:
            drawn = [
                self._draw_group(generator, group, count_per_class) for group in np.array_split(order, folds)
            ]
        else:
            same, different = self._draw_group(generator, order, count_per_class * folds)
            step = range(0, count_per_class * folds, count_per_class)
            drawn = [(same[at : at + count_per_class], different[at : at + count_per_class]) for at in step]
        return [
            (a, b, kind == 0, fold)
            for fold, classes in enumerate(drawn)
            for kind, rows in enumerate(classes)
            for a, b in rows.tolist()
        ]

    def most_pairs(self, folds: int) -> int:
        """Return the largest count_per_class that `draw_pairs` can fulfil.

        Args:
            folds: as for `draw_pairs`.
        """
        people, images = len(self.identities), self.images_per_identity
        shared = people < 2 * folds
        group = people if shared else people // folds  # array_split's smallest part
        most = min(group * images * (images - 1) // 2, group * (group - 1) // 2 * images**2)
        return most // folds if shared else most

    def _draw_group(
        self, generator: np.random.Generator, group: Numbers, count: int
    ) -> tuple[Numbers, Numbers]:
        """Draw `count` pairs of each class among the identities `group`: two arrays [count,2]."""
        images = self.images_per_identity
        first, second = np.triu_indices(images, 1)
        who, which = np.divmod(generator.choice(len(group) * len(first), count, replace=False), len(first))
        same = group[who, None] * images + np.stack([first[which], second[which]], 1)
        one, other = np.triu_indices(len(group), 1)
        who, which = np.divmod(generator.choice(len(one) * images**2, count, replace=False), images**2)
        people = np.stack([group[one[who]], group[other[who]]], 1)
        return same, people * images + np.stack(np.divmod(which, images), 1)

    def write(
        self, root: str | Path, count_per_class: int | None = None, folds: int = 10, seed: int = 0
    ) -> list[Pair]:
        """Write the set as a folder tree in LFW's layout, with a `pairs.txt` in LFW's format.

        Args:
            root: folder to write to; made where it does not exist.
            count_per_class: as for `draw_pairs`; by default LFW's 300, or the most the set gives if less.
            folds: as for `draw_pairs`.
            seed: as for `draw_pairs`.

        Returns:
            The pairs in `pairs.txt`, as `draw_pairs` gives them.

        Raises:
            ValueError: the set has not that many different pairs.
        """
        root = Path(root)
        count = (
            max(1, min(300, self.most_pairs(max(2, folds)))) if count_per_class is None else count_per_class
        )
        pairs = self.draw_pairs(count, folds, seed)
        self.write_images(root)
        lines = [f"{folds}\t{count}"]
        for a, b, same, _ in pairs:
            (label_a, image_a), (label_b, image_b) = (
                divmod(index, self.images_per_identity) for index in (a, b)
            )
            fields = [self.identities[label_a], str(image_a + 1)]
            fields += [str(image_b + 1)] if same else [self.identities[label_b], str(image_b + 1)]
            lines.append("\t".join(fields))
        table = "\n".join(lines) + "\n"
        write_atomically(root / "pairs.txt", table)
        return pairs

    def write_images(self, root: str | Path) -> None:
        """Write the images as a folder tree in LFW's layout, one folder of PNG files a person.

        Args:
            root: folder to write to; made where it does not exist.
        """
        root = Path(root)
        for index in range(len(self)):
            encoded = BytesIO()
            Image.fromarray(self.read(index).transpose(1, 2, 0)).save(encoded, format="PNG")
            write_atomically(root / self.name(index), encoded.getvalue())
