"""Principal components of other people's faces, for `EigenfaceNoise`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from datamodules.readers.base import FaceReader
from lightning_app.desensitize.eigenfaces import Eigenfaces
from lightning_app.report import print_table

_CHUNK = 64


def eigenfaces(
    reader: FaceReader,
    output: str,
    apart_from: list[FaceReader] | None = None,
    components: int = 64,
    side: int = 32,
    overwrite: bool = False,
) -> Eigenfaces:
    """Compute principal components of faces, and the bounds of their coefficients, from people who are in no other set.

    `lightning_app.desensitize.EigenfaceNoise` takes the file. Give every set that will go through it, and those it is
    verified on, as `apart_from`: whoever is in one of them is left out. The file holds components, their mean and
    bounds, and a hash of 64 bits of every image, by which `EigenfaceNoise` refuses it; it stays with the owner.

    Args:
        reader: the faces.
        output: the file to write, `.safetensors`.
        apart_from: sets whose people are left out, by name.
        components: how many; an image's budget is ε times that.
        side: side of the small grey faces in pixels.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: the file is there.
        ValueError: the file is called otherwise, too few images are left, an argument is out of range, or a set is a
            release or does not say who is on its images.
    """
    if Path(output).suffix != ".safetensors":
        raise ValueError(f"output {output}: give a name that ends in .safetensors")
    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"output {output} is there already: name another, or give --overwrite true")
    kept = others(reader, apart_from or [])
    made = Eigenfaces.of(_batches(reader, kept), components, side)
    made.write(output)
    people = len({int(one) for one in reader.labels[torch.tensor(kept)]})
    rows: list[list[object]] = [
        ["people", people], ["images", len(kept)], ["components", components], ["side, px", side],
        ["set hash", made.set_hash[:16]],
    ]  # fmt: skip
    print_table(f"eigenfaces: {output}", rows, ["", ""])
    return made


def others(reader: FaceReader, apart_from: Sequence[FaceReader]) -> list[int]:
    """Return the numbers of the images of people who are in no other set.

    Args:
        reader: the set.
        apart_from: the other sets.

    Raises:
        ValueError: a set is a release, whose people have pseudonyms, or does not say who is on its images; or nobody is
            left.
    """
    for name, one in [("reader", reader), *((f"apart_from.{n}", one) for n, one in enumerate(apart_from))]:
        if one.desensitizer() is not None:
            raise ValueError(f"{name}: is a release, whose people have other names; give the raw images")
        if not one.identities or bool((one.labels < 0).any()):
            raise ValueError(
                f"{name}: {type(one).__name__} does not say who is on its images; give a set that does"
            )
    taken = {name for one in apart_from for name in one.identities}
    left = torch.tensor([name not in taken for name in reader.identities])
    kept: list[int] = torch.nonzero(left[reader.labels]).flatten().tolist()
    if not kept:
        raise ValueError(
            f"reader: all of its {len(reader.identities)} people are in a set of apart_from; give other people's faces"
        )
    return kept


def _batches(reader: FaceReader, numbers: Sequence[int]) -> Iterator[Tensor]:
    for first in range(0, len(numbers), _CHUNK):
        yield reader.__getitems__(list(numbers[first : first + _CHUNK]))["image"]
