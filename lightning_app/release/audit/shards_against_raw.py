"""A release of representations compared with the raw set it was made of, by its owner, who has the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.core.draws import hashed
from lightning_app.release.audit.run import Audit, Compared
from lightning_app.release.audit.shards import Shards, read_rows
from lightning_app.release.format.method import is_known
from lightning_app.release.format.names import image_file
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.tensors import Layout
from lightning_app.release.write.representing import Representer

_SAMPLE = 411  # salt of the draw of the images that are made again
# share of an image's values that may lie on the next level, as another machine's rounding leaves them; float16 has
# finer steps. Who makes the release may hide a message in as many: kilobytes in an image of many channels
_MOST_APART = {"uint8": 0.01, "float16": 0.05}
_AS_CLEAN = 0.95  # correlation of a channel with the image, grey and as small
_SHARE = 1e-6  # how far the shares of a mix may be from those drawn again, as another machine's rounding leaves them


def compare_shards(
    root: Path,
    audit: Audit,
    shards: Shards,
    origin: Mapping[str, int],
    reader: FaceReader,
    represent: Representer,
    pseudonyms: Pseudonyms,
    sample: int | None,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Make a sample of images again, in the batches they were made in: the same levels must come, or the next ones.

    Args:
        root: the released folder.
        audit: of it, gets the findings, and what was compared.
        shards: what was found in its shards.
        origin: path that an image has in a release of pictures -> position in the reader, by the owner's key.
        reader: the raw set, as `desensitize` read it.
        represent: makes the representations, with the owner's key where the method has one.
        pseudonyms: the owner's.
        sample: how many images at least; all where it is None.
        seed: of the draw of them.
        advance: told how many more images are done.
    """
    manifest = audit.manifest
    assert manifest is not None
    tensors = manifest.tensors
    assert tensors is not None
    audit.compared = Compared(0, seed)
    if represent.stored != tensors.stored or represent.mixed != tensors.mixed:
        audit.add(
            "manifest.json",
            f"--config's method gives {represent.stored}, mixed of {represent.mixed}: not its tensors",
        )
        return
    known = {place: origin.get(image_file(*names)) for place, names in shards.names.items()}
    unknown = [shards.names[place] for place, index in known.items() if index is None]
    if known and len(unknown) == len(known):
        audit.add("shards", "no image bears the pseudonym of a raw one: other raw images, or another --key")
        return
    for person, image in unknown[:8]:
        audit.add("shards", f"image {image} of {person} bears the pseudonym of no raw image")
    if len(unknown) > 8:
        audit.add("shards", f"{len(unknown) - 8} more images bear the pseudonym of no raw image")
    rows_of = dict(zip(manifest.shards, tensors.rows, strict=True))
    batches: list[tuple[str, range]] = []
    for name in sorted(shards.sound):
        step = rows_of[name] if tensors.mixed > 1 else tensors.batch
        batches += [(name, range(at, min(at + step, rows_of[name]))) for at in range(0, rows_of[name], step)]
    ours = is_known(manifest.method["method"])
    order = torch.argsort(hashed(torch.arange(len(batches)), _SAMPLE, seed), stable=True).tolist()
    people = np.array(
        [list(bytes.fromhex(pseudonyms.identity(name))) for name in reader.identities], np.uint8
    )
    done = values = apart = shares = shares_apart = 0
    for at in order:
        if sample is not None and done >= sample:
            break
        name, rows = batches[at]
        indices = [known[name, row] for row in rows]
        if any(index is None for index in indices):
            continue  # said already
        layout = Layout.of(tensors.stored, tensors.mixed, rows_of[name])
        there = read_rows(root / name, layout, rows)
        try:
            pixels = [reader.read(index) for index in indices if index is not None]
        except BadImage:
            audit.add(name, "holds an image whose raw image cannot be decoded")
            continue
        labels = [int(reader.labels[index]) for index in indices if index is not None]
        numbers = [reader.number(index) for index in indices if index is not None]
        made = represent(pixels, labels, numbers)
        if not np.array_equal(there["identity"], people[made.labels]):
            audit.add(name, "says of images in it that other people are on them than its raw images do")
        if made.weight is not None:
            gap = np.abs(made.weight - there["weight"])
            if (gap > _SHARE).any():
                audit.add(name, "holds other shares of a mix than are drawn for its images")
            shares, shares_apart = shares + gap.size, shares_apart + int((gap > 0).sum())
        if not ours and tensors.mixed == 1:
            _find_clean(audit, name, there["image"], pixels)
        steps = _steps(there["image"], made.image, represent.own_steps)
        for row, step in zip(rows, steps, strict=True):
            image = shards.names[name, row][1]
            far, next_to = int((step > 1).sum()), int((step == 1).sum())
            if far:
                audit.add(name, f"image {image} differs by more than a level in {far} of {step.size} values from its "
                          "raw image made again")  # fmt: skip
            elif next_to > _MOST_APART[tensors.dtype] * step.size:
                audit.add(name, f"image {image} differs by a level in {next_to} of {step.size} values from its raw "
                          "image made again: more than another machine's rounding leaves")  # fmt: skip
            values, apart = values + step.size, apart + next_to
        done += len(rows)
        advance(len(rows))
    together = max((len(rows) for _, rows in batches), default=1)
    audit.compared = Compared(
        done,
        seed,
        values=values,
        apart=apart,
        shares=shares,
        shares_apart=shares_apart,
        together=together,
    )
    if not done:
        audit.add("shards", "no image could be compared with its raw one")


def _find_clean(audit: Audit, name: str, image: NDArray[np.generic], pixels: Sequence[Pixels]) -> None:
    """Find a channel that is the image: of a class of one's own nothing else tells what it leaves."""
    for row, raw in zip(image, pixels, strict=True):
        grey = torch.from_numpy(raw.astype(np.float32)).mean(0)[None, None]
        small = F.interpolate(grey, row.shape[-2:], mode="area").numpy().reshape(1, -1)
        flat = row.reshape(len(row), -1).astype(np.float32)
        small, flat = small - small.mean(), flat - flat.mean(1, keepdims=True)
        length = np.linalg.norm(flat, axis=1) * np.linalg.norm(small)
        alike = np.abs(flat @ small[0]) / np.maximum(length, 1e-9)
        if alike.max() > _AS_CLEAN:
            channel = int(alike.argmax())
            audit.add(
                name, f"channel {channel} is as good as the clean image: correlation {alike[channel]:.2f}"
            )
            return


def _steps(
    a: NDArray[np.generic], b: NDArray[np.generic], own: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Count the levels between stored values, `[n,C,h,w]`; one of a method's own steps `[C]` is a level, too."""
    if a.dtype == np.uint8:
        return np.abs(a.astype(np.int16) - b.astype(np.int16)).astype(np.int64)
    found: NDArray[np.int64] = np.abs(_ordered(a) - _ordered(b))
    if own is not None:  # near 0 float16 has many levels within one of them
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
        found[(found > 1) & (gap <= own[:, None, None] + (_rounding(a) + _rounding(b)))] = 1
    return found


def _rounding(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return how far a value may have moved when it was rounded to float16: half the way to the next one."""
    exponent = np.frexp(values.astype(np.float64))[1] - 11
    found: NDArray[np.float64] = np.ldexp(0.5, np.maximum(exponent, -24))
    return found


def _ordered(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Number the float16 values in their order."""
    bits = np.ascontiguousarray(values).view(np.uint16).astype(np.int64)
    found: NDArray[np.int64] = np.where(bits & 0x8000, 0x8000 - bits, bits)
    return found
