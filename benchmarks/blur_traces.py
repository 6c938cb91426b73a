"""How many clean faces an audit without the raw set tells from blurred ones, and blurred ones from clean.

`python -m benchmarks.blur_traces ROOT` on a folder of faces such as LFW-a: the numbers of docs/threat_model.md.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules import FolderFaces
from datamodules.pixels import desensitize_on_grid
from lightning_app.desensitize import CentreBlur, Desensitizer, GaussianBlur
from lightning_app.release.format.traces import Traces, too_many

SIZES = (112, 224)
METHODS: tuple[Desensitizer, ...] = (
    *(GaussianBlur(kernel) for kernel in (6, 9, 18)),
    GaussianBlur(9, 1.25),
    *(CentreBlur(fraction, kernel) for fraction in (0.32, 0.5) for kernel in (6, 9, 18)),
    *(CentreBlur(fraction, 9, 1.25) for fraction in (0.32, 0.5)),
)


def seen(images: Tensor, method: Desensitizer) -> int:
    """Count images that an audit takes for others than the method's.

    Args:
        images: `[N,3,H,H]` uint8.
        method: that they are said to have gone through.
    """
    size = images.shape[-1]
    traces = Traces(size, **(method.leaves(method.describe(), size) or {}))
    return sum(traces.look(image.permute(1, 2, 0).numpy()).sharp for image in images)


def rows(root: str, count: int = 60, crop: int | None = 150) -> list[tuple[str, int, int, int, bool, bool]]:
    """Return a row for each size and method.

    Args:
        root: a folder of a folder of images per person.
        count: how many images, evenly over the set.
        crop: side of the central square that is taken of each.

    Returns:
        Method, size, clean images that are found sharp, blurred ones that are, and whether the one set and the other
        would be a finding.
    """
    found = []
    for size in SIZES:
        reader = FolderFaces(root, crop=crop, size=size, cache_index=False).open()
        numbers = torch.linspace(0, len(reader) - 1, count).long().tolist()
        clean = torch.stack([torch.from_numpy(reader.read(i).copy()).expand(3, -1, -1) for i in numbers])
        for method in METHODS:
            batch = desensitize_on_grid({"image": clean.float() / 255, "index": torch.arange(count)}, method)
            blurred = (batch["image"] * 255).round().byte()
            name = ", ".join(f"{key} {value}" for key, value in method.describe().items() if key != "method")
            sharp = seen(clean, method), seen(blurred, method)
            words = f"{type(method).__name__} {name}"
            found.append((words, size, *sharp, too_many(sharp[0], count), too_many(sharp[1], count)))
    return found


def main() -> None:
    """Print the table for the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--count", type=int, default=60)
    given = parser.parse_args()
    table = Table(
        "method", "px", "clean found sharp", "blurred found sharp", "clean set fails", "blurred set fails"
    )
    for row in rows(given.root, given.count):
        table.add_row(*map(str, row))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
