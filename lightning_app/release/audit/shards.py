"""Every shard of a release of representations, read once: hash, every byte of its header, order, values, labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_app.desensitize import OURS
from lightning_app.desensitize.block_dct import NORMALISED
from lightning_app.release.audit.findings import Findings
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.pairs import LONGEST, pairs_text, read_pairs_text
from lightning_app.release.format.tensors import NAME, PAIRS, Layout
from lightning_app.release.write.shard_writer import rows_of_a_shard

_LOOKED_AT = 2  # images of a shard, drawn anew each time, whose values are looked at one by one
_MEAN, _SPREAD = 0.25, 1.1  # of a normalised channel: 0 and 1 but for what was rounded and cut off
_CHANCE = 6.0  # standard deviations; of random signs, whose mean over n values deviates by 1/√n
_SUM = 1e-4  # how far the shares of a mix are from 1 at most
_LONGEST = 1 << 16  # bytes of a header that is taken apart to say what is wrong with it
_SIGN = {"float16": (0x7FFF, 0x7C00, 0x8000), "float32": (0x7FFFFFFF, 0x7F800000, 0x80000000)}  # IEEE 754


@dataclass
class Shards(Findings):
    """What was found in the shards of a release.

    Attributes:
        findings: what must not be.
        files: images in the shards that are whole.
        bytes: length of the shards that were read, together.
        names: identity's and image's pseudonym of every image in a whole shard, by (shard, row).
        sound: shards whose header and length are right: their tensors can be looked at.
    """

    files: int = 0
    bytes: int = 0
    names: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    sound: set[str] = field(default_factory=set)


def check_shards(
    root: Path, manifest: Manifest, there: frozenset[str], advance: Callable[[int], None], seed: int
) -> Shards:
    """Check all shards, one after the other; no more than one is in memory.

    Args:
        root: the released folder.
        manifest: its own, with tensors.
        there: the files that are there.
        advance: told how many more images are done.
        seed: of the draw of the images that are looked at one by one.
    """
    assert manifest.tensors is not None
    found = Shards()
    draw = np.random.default_rng(seed)
    last = b""
    owners: set[bytes] = set()
    partners: set[bytes] = set()
    for name, rows in zip(manifest.shards, manifest.tensors.rows, strict=True):
        if name not in there:
            continue  # said already
        layout = Layout.of(manifest.tensors.stored, manifest.tensors.mixed, rows)
        if rows > rows_of_a_shard(manifest.tensors.stored, manifest.tensors.mixed):
            found.add(name, f"has {rows} images, more than `desensitize` puts into a shard; it was not read")
            continue
        try:
            data = _read_at_most(root / name, layout.size)
        except OSError as error:
            found.add(name, f"cannot be read ({error.strerror})")
            continue
        found.bytes += len(data)
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            found.add(name, "its SHA-256 is not the manifest's")
        faults = _frame_faults(data, layout)
        for what in faults:
            found.add(name, what)
        if not faults:
            found.sound.add(name)
            found.files += rows
            names = [bytes(one) for one in layout.view(data, "name")]
            if any(a >= b for a, b in zip([last, *names], names, strict=False)):
                found.add(name, "its images are not in the order of their names, each once")
            last = names[-1]
            identity = layout.view(data, "identity")
            for row in range(rows):
                found.names[name, row] = bytes(identity[row, 0]).hex(), names[row].hex()
            owners.update(bytes(one) for one in identity[:, 0])
            partners.update(bytes(one) for one in identity[:, 1:].reshape(-1, NAME))
            for what in (
                *_weight_faults(data, layout, manifest),
                *_value_faults(data, layout, manifest, draw),
            ):
                found.add(name, what)
        advance(rows)
    if len(found.sound) == len(manifest.shards):
        if len(owners) != manifest.identities:
            found.add("manifest.json", f"identities is {manifest.identities}, its shards have {len(owners)}")
        if strangers := len(partners - owners):
            found.add(
                "shards", f"{strangers} people are in mixes, and on no image: no pseudonym of the release"
            )
        people = {image: person for person, image in found.names.values()}
        check_pairs(root, manifest, there, people, found)
        if manifest.classes is not None and manifest.classes.keys() != {one.hex() for one in owners}:
            found.add("manifest.json", "its classes are not those that its shards have")
    return found


def _read_at_most(path: Path, most: int) -> bytes:
    """Read a file, and one byte more than it should have at most; room is made for what is there alone."""
    with path.open("rb") as file:
        return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)


def _frame_faults(data: bytes, layout: Layout) -> list[str]:
    """Return how header and length differ from what `desensitize` writes."""
    faults = []
    if data[: len(layout.head)] != layout.head:
        faults += _head_faults(data, layout)
    if len(data) > layout.size:
        faults.append("has bytes after its tensors; what follows was not read")
    elif len(data) < layout.size:
        faults.append(f"has {len(data)} bytes, its tensors take {layout.size}: it is cut off")
    return faults


def _head_faults(data: bytes, layout: Layout) -> list[str]:
    """Return in what a header differs; names in it are not repeated, they may say something."""
    length = int.from_bytes(data[:8], "little")
    wanted = json.loads(layout.head[8:])
    try:
        header = json.loads(data[8 : 8 + min(length, _LONGEST)])
    except (ValueError, RecursionError):
        return ["its header is none"]
    if not isinstance(header, dict):
        return ["its header is none"]
    faults = []
    if "__metadata__" in header:
        faults.append("its header holds __metadata__, which no shard has")
    if extra := len(header.keys() - wanted.keys() - {"__metadata__"}):
        faults.append(f"holds {extra} tensors that the manifest does not name")
    faults += [f"lacks the tensor {name}" for name in wanted if name not in header]
    for name in wanted.keys() & header.keys():
        for key in ("dtype", "shape", "data_offsets"):
            if not isinstance(header[name], dict) or header[name].get(key) != wanted[name][key]:
                faults.append(f"its tensor {name} has another {key} than the manifest's {wanted[name][key]}")
                break
    return faults or ["its header is not written as `desensitize` writes it: something was changed or added"]


def _weight_faults(data: bytes, layout: Layout, manifest: Manifest) -> list[str]:
    """Return what is wrong with the shares of mixes."""
    if "weight" not in layout.parts:
        return []
    weight = layout.view(data, "weight")
    if faults := _bit_faults(weight, "share"):
        return faults
    cap = most_of_a_mix(manifest.method)
    if (weight < 0).any() or (np.abs(weight.sum(1, dtype=np.float64) - 1) > _SUM).any():
        return ["holds shares of a mix that are negative, or do not sum to 1"]
    if cap is not None and (weight > cap + _SUM).any():
        return [f"holds a share of a mix above its method's cap of {cap}"]
    return []


def most_of_a_mix(description: Mapping[str, Any]) -> float | None:
    """Return the cap of a method's mixes; None where it is not known.

    Args:
        description: `method` of a manifest.
    """
    return next(
        (float(step["cap"]) for step in (description, *description.get("steps", ())) if "cap" in step), None
    )


def _value_faults(data: bytes, layout: Layout, manifest: Manifest, draw: np.random.Generator) -> list[str]:
    """Return what is wrong with values: bits that stand for none, and channels that no honest image has."""
    tensors = manifest.tensors
    assert tensors is not None
    image = layout.view(data, "image")
    faults = _bit_faults(image, "value") if tensors.dtype == "float16" else []
    kind = OURS.get(str(manifest.method["method"]))
    if faults or kind is None or kind.grid(manifest.method) != NORMALISED:
        return faults
    rows = draw.choice(len(image), min(_LOOKED_AT, len(image)), replace=False)
    seen = (image[rows].astype(np.float32) - tensors.offset) / tensors.scale
    mean, spread = seen.mean((2, 3)), seen.std((2, 3))
    odd = (np.abs(mean) > _farthest(manifest.method, seen.shape[2] * seen.shape[3])) | (spread > _SPREAD)
    if odd.any():
        row, channel = np.argwhere(odd)[0].tolist()
        return [
            f"channel {channel} of image {rows[row]} has mean {mean[row, channel]:.2f} and deviation "
            f"{spread[row, channel]:.2f}: its method leaves 0 and 1"
        ]
    return []


def _farthest(description: Mapping[str, Any], values: int) -> float:
    """Return how far a channel's mean may be from 0: of values with random signs it is as far as chance takes it."""
    steps = (description, *description.get("steps", ()))
    signed = any(
        (kind := OURS.get(str(step.get("method")))) is not None and kind.flips_signs for step in steps
    )
    return max(_MEAN, _CHANCE / values**0.5) if signed else _MEAN


def _bit_faults(values: NDArray[Any], what: str) -> list[str]:
    """Find floats that are not finite, and zeros with a sign: their bits would be room for something else."""
    digits, infinite, negative = _SIGN[values.dtype.name]
    bits = values.view(f"<u{values.dtype.itemsize}")
    faults = []
    if ((bits & digits) >= infinite).any():
        faults.append(f"holds a {what} that is not finite")
    if (bits == negative).any():
        faults.append(f"holds a {what} of minus zero, which `desensitize` never writes")
    return faults


def check_pairs(
    root: Path, manifest: Manifest, there: frozenset[str], people: Mapping[str, str], found: Findings
) -> None:
    """Check the list of pairs: its form, its names, and that it says of no two people that they are one.

    Args:
        root: the released folder.
        manifest: its own.
        there: the files that are there.
        people: image's pseudonym -> identity's, of all images.
        found: gets the findings.
    """
    count = manifest.pairs
    if not count or PAIRS not in there:
        return
    data = _read_at_most(root / PAIRS, count * LONGEST)
    if hashlib.sha256(data).hexdigest() != manifest.files[PAIRS]:
        found.add(PAIRS, "its SHA-256 is not the manifest's")
    if len(data) > count * LONGEST:
        found.add(
            PAIRS, f"is longer than the {count} pairs that the manifest says; the rest of it was not read"
        )
        return
    try:
        pairs = read_pairs_text(data)
    except ValueError as error:
        found.add(PAIRS, str(error))
        return
    if pairs_text((p.a, p.b, p.same, p.fold) for p in pairs).encode() != data or len(pairs) != count:
        found.add(PAIRS, f"has {len(pairs)} pairs, the manifest says {count}")
    elif any(pair.a not in people or pair.b not in people for pair in pairs):
        found.add(PAIRS, "names an image that is not released")
    elif any((people[pair.a] == people[pair.b]) != pair.same for pair in pairs):
        others = "folders" if manifest.tensors is None else "shards"
        found.add(PAIRS, f"says of a pair whether it is one person otherwise than its {others} do")


def read_rows(path: Path, layout: Layout, rows: Sequence[int] | range) -> dict[str, NDArray[Any]]:
    """Read some rows of a shard that was found to be sound.

    Args:
        path: of the shard.
        layout: its own.
        rows: which.

    Returns:
        Tensor -> its rows.
    """
    found: dict[str, NDArray[Any]] = {}
    with open(path, "rb") as file:
        for name, part in layout.parts.items():
            each = (part.stop - part.start) // part.shape[0]
            taken = []
            for row in rows:
                file.seek(part.start + row * each)
                taken.append(file.read(each))
            kind = np.dtype(part.kind).newbyteorder("<")
            found[name] = np.frombuffer(b"".join(taken), kind).reshape(len(taken), *part.shape[1:])
    return found
