"""How many faces CenterFace and dlib align, in what time, and how far apart they put the eyes.

`python -m benchmarks.detectors ROOT [--count 500]` on a folder of folders of faces, such as LFW-a's 112 px images: the
metrics of docs/release.md. A detector that is not installed is left out.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lightning_app.alignment.centerface import CenterFaces
from lightning_app.alignment.detect import DlibFaces, choose_face
from lightning_app.alignment.finders import Finder
from lightning_app.alignment.pixels import read_upright
from lightning_app.alignment.place import Rules, fault_of
from lightning_app.alignment.similarity import Points

FINDERS: Mapping[str, Callable[[], Finder]] = {"centerface": CenterFaces, "dlib": DlibFaces}
_EYES = 2  # the first points of five


@dataclass(frozen=True)
class Found:
    """What a detector made of images.

    Attributes:
        points: `[5,2]` of each image; None where its face would not be aligned.
        faults: why, and how often.
        seconds: of CPU, an image.
    """

    points: list[Points | None]
    faults: Counter[str]
    seconds: float

    @property
    def aligned(self) -> list[Points]:
        """Landmarks of the faces that are aligned."""
        return [points for points in self.points if points is not None]

    def scatter(self) -> list[float]:
        """Return how far each eye lies from its mean place, the median in pixels."""
        eyes = np.stack(self.aligned)[:, :_EYES]
        return [float(value) for value in np.median(np.linalg.norm(eyes - eyes.mean(0), axis=-1), axis=0)]


def look(finder: Finder, files: Sequence[Path]) -> Found:
    """Find the face of every image, as `align` does.

    Args:
        finder: finds faces.
        files: images.
    """
    points: list[Points | None] = []
    faults: Counter[str] = Counter()
    began = time.process_time()
    for file in files:
        pixels = read_upright(str(file))
        height, width = pixels.shape[:2]
        faces = finder.find(pixels)
        choice = choose_face([face.box for face in faces], width, height)
        if choice.number is None:
            points.append(None)
            faults["several faces" if faces else "no face"] += 1
            continue
        face = faces[choice.number]
        own = face.points if face.points is not None else finder.landmarks(pixels, face.box)
        fault = fault_of(own, width, height, Rules("", "", max(width, height), None, 20.0, 0.35, 0.5))
        points.append(own if fault is None else None)
        faults.update([] if fault is None else [fault])
    return Found(points, faults, (time.process_time() - began) / len(files))


def apart(one: Found, other: Found) -> tuple[float, float]:
    """Return how far two detectors put the eyes apart, in distances of the eyes: median and 95th percentile.

    Args:
        one: its eyes' distance is the unit.
        other: of the same images.
    """
    pairs = [(a, b) for a, b in zip(one.points, other.points, strict=True) if a is not None and b is not None]
    first, second = (np.stack(side) for side in zip(*pairs, strict=True))
    unit = np.linalg.norm(first[:, 1] - first[:, 0], axis=1)
    share = np.linalg.norm(first - second, axis=-1)[:, :_EYES].mean(1) / unit
    return float(np.median(share)), float(np.quantile(share, 0.95))


def chosen(root: Path, count: int) -> list[Path]:
    """Return one image of each of so many people, drawn once for all.

    Args:
        root: a folder of a folder of images per person.
        count: how many people; all where there are fewer.
    """
    people = sorted(folder for folder in root.iterdir() if folder.is_dir())
    random.Random(0).shuffle(people)
    return [sorted(folder.iterdir())[0] for folder in people[:count]]


def table(found: Mapping[str, Found]) -> Table:
    """Return the table of what detectors made of the same images."""
    made = Table("detector", "aligned", "ms of CPU an image", "eyes off their mean place, px", "not aligned")
    for name, one in found.items():
        scatter = " and ".join(f"{value:.1f}" for value in one.scatter())
        faults = ", ".join(f"{number} {fault}" for fault, number in one.faults.items())
        made.add_row(
            name, f"{len(one.aligned)} of {len(one.points)}", f"{1e3 * one.seconds:.1f}", scatter, faults
        )
    return made


def _made(name: str, console: Console) -> Finder | None:
    try:
        finder: Finder = FINDERS[name]()
    except ValueError as error:  # it is not installed
        console.print(f"{name} is left out: {error}", markup=False)
        return None
    return finder


def main(args: Sequence[str] | None = None) -> None:
    """Print the table for the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--count", type=int, default=500)
    given = parser.parse_args(args)
    files, found, console = chosen(given.root, given.count), dict[str, Found](), Console(width=140)
    for name in FINDERS:
        if (finder := _made(name, console)) is not None:
            found[name] = look(finder, files)
    if found:
        console.print(table(found))
    if len(found) == len(FINDERS):
        median, most = apart(found["dlib"], found["centerface"])
        console.print(
            f"eyes apart: {median:.1%} of their distance in the median, {most:.1%} in the 95th percentile"
        )


if __name__ == "__main__":
    main()
