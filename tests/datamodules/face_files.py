"""Small image files, trees and InsightFace sets that the tests of the readers make for themselves."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

MAGIC = struct.pack("<I", 0xCED7230A)


def picture(seed: int, mode: str = "RGB", width: int = 60, height: int = 50) -> Image.Image:
    """A coloured gradient with shapes and noise, so that every pixel and channel differs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x * 3, y * 4, (x + y) * 2], 2) + rng.integers(0, 40, (height, width, 3))
    image = Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 4, height // 4, width // 2, height // 2), fill=(seed * 37 % 256, 90, 200))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width)).astype(np.uint8)))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_tree(root: Path, people: dict[str, int], mode: str = "L", kind: str = "JPEG") -> Path:
    """One folder per person with so many pictures `NAME_0001.jpg`, each of its own."""
    suffix = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
    seed = 0
    for name, count in people.items():
        (root / name).mkdir(parents=True)
        for number in range(1, count + 1):
            seed += 1
            path = root / name / f"{name}_{number:04d}.{suffix}"
            path.write_bytes(encoded(picture(seed, mode), kind))
    return root


def framed(payload: bytes) -> bytes:
    """Frame a record as dmlc-core's RecordIOWriter does: cut where the magic stands at a multiple of four."""
    cuts = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == MAGIC]
    starts, stops = [0, *(at + 4 for at in cuts)], [*cuts, len(payload)]
    out = b""
    for part, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        flag = 0 if not cuts else 1 if part == 0 else 3 if part == len(cuts) else 2
        body = payload[start:stop]
        out += MAGIC + struct.pack("<I", flag << 29 | len(body)) + body + b"\0" * (-len(body) % 4)
    return out


def record(labels: Sequence[float], image: bytes = b"", key: int = 0, extended: bool = False) -> bytes:
    """An IRHeader and what follows it; several labels (or `extended`) stand after the header."""
    if len(labels) == 1 and not extended:
        return struct.pack("<IfQQ", 0, labels[0], key, 0) + image
    head = struct.pack("<IfQQ", len(labels), 0.0, key, 0)
    return head + struct.pack(f"<{len(labels)}f", *labels) + image


def write_records(path: Path, records: Sequence[bytes], index: bool = True) -> None:
    offsets, out = [], b""
    for payload in records:
        offsets.append(len(out))
        out += framed(payload)
    path.write_bytes(out)
    if index:
        path.with_suffix(".idx").write_text("".join(f"{key}\t{at}\n" for key, at in enumerate(offsets)))


def insightface_records(images: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """Records as `train.rec` has them: header record 0, images, one record per identity. Sorted by label."""
    count = len(images)
    labels = [label for label, _ in images]
    people = sorted(set(labels))
    ranges = [(1 + labels.index(p), 1 + labels.index(p) + labels.count(p)) for p in people]
    return [
        record([count + 1, count + 1 + len(people)]),
        *(record([label, 1.0], image, key) for key, (label, image) in enumerate(images, 1)),
        *(record([float(a), float(b)], key=count + 1 + i) for i, (a, b) in enumerate(ranges)),
    ]
