"""Images under masks of their own compared with the raw set, by its owner: the masker is run again, in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from lightning_app.core.draws import hashed
from lightning_app.core.printing import counted
from lightning_app.desensitize.masker import CHUNK
from lightning_app.release.audit.images import read_at_most
from lightning_app.release.audit.run import Audit, Compared
from lightning_app.release.format.each_mask import mask_faults, mask_file
from lightning_app.release.format.names import is_image_file
from lightning_app.release.format.png import read_png
from lightning_app.release.write.desensitizing import stack
from lightning_app.release.write.each import EachDesensitizer, Remade

_SAMPLE = 412  # salt of the draw of the batches that are made again
_NEARLY = 1e-5  # how far a public mask's worth, and its probability, may be off by another machine's rounding


class _Batch(NamedTuple):
    names: list[str]  # of images, in the release
    raw: Tensor  # uint8 [B,3,H,W]
    numbers: list[int]  # in the reader


def compare_each(
    root: Path,
    audit: Audit,
    origin: Mapping[str, int],
    reader: FaceReader,
    each: EachDesensitizer,
    sample: int | None,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Run the masker again on a sample of raw images, in the batches they were made in, and with noise under masks.

    The mask stored must be the masker's, or one that it makes where scores that are equal but for rounding fall the
    other way (`masks.rounding`); the picture must be the raw one times the mask stored, to the last bit. Of
    `core_first` the masker must make the same mask, to the last pixel, of the image with noise under it. Of `codebook`
    the mask must be the one that is chosen again, or one that is as good.

    Args:
        root: the released folder.
        audit: of it, gets the findings, and what was compared.
        origin: path in the release -> position in the reader, for every raw image, by the owner's key.
        reader: the raw set, as `desensitize` read it.
        each: the desensitizer, with the masker.
        sample: how many images at least; all where it is None.
        seed: of the draw of batches, and of the noise.
        advance: told how many more are done.
    """
    manifest = audit.manifest
    assert manifest is not None
    assert manifest.masks is not None
    audit.compared = Compared(0, seed)
    released = {name for name in manifest.files if is_image_file(name)}
    strangers = sorted(released - origin.keys())
    if len(strangers) == len(released):
        audit.add("images", "no image bears the pseudonym of a raw one: other raw images, or another --key")
        return
    for name in strangers:
        audit.add(name, "bears the pseudonym of no raw image")
    step, plan = manifest.masks.batch, sorted(origin)  # as they were made: those that were refused count, too
    made = ([name for name in plan[at : at + step] if name in released] for at in range(0, len(plan), step))
    # the masker sees so many at a time, however many a batch says to hold
    batches = [names[at : at + CHUNK] for names in made for at in range(0, len(names), CHUNK)]
    order = torch.argsort(hashed(torch.arange(len(batches)), _SAMPLE, seed), stable=True).tolist()
    generator = torch.Generator().manual_seed(seed)
    done = black = apart = 0
    for at in order:
        if sample is not None and done >= sample:
            break
        batch = _read(audit, batches[at], origin, reader)
        if batch is not None:
            one_black, one_apart = _compare(root, audit, batch, each, generator)
            done, black, apart = done + len(batch.names), black + one_black, apart + one_apart
            advance(len(batch.names))
    audit.compared = Compared(done, seed, black=black, mask_pixels=apart, together=max(map(len, batches)))
    if not done:
        audit.add("images", "no image could be compared with its raw one")
    elif black == done:
        audit.add(
            "images",
            f"are clean: all {black} that were compared are black under their masks in the raw set too, so that these "
            "hide nothing of them",
        )
    elif black:
        audit.notes.append(
            f"{black} of {counted(done, 'image')} compared are black under their masks in the raw set too: nothing to "
            "hide"
        )


def _read(audit: Audit, names: Sequence[str], origin: Mapping[str, int], reader: FaceReader) -> _Batch | None:
    """Read the raw images of a batch; None where there is none of them."""
    kept, pixels = [], []
    for name in names:
        try:
            pixels.append(reader.read(origin[name]))
        except BadImage:
            audit.add(name, "was released, but its raw image cannot be decoded")
            continue
        kept.append(name)
    if not kept:
        return None
    return _Batch(kept, stack(pixels), [reader.number(origin[name]) for name in kept])


def _compare(
    root: Path, audit: Audit, batch: _Batch, each: EachDesensitizer, generator: torch.Generator
) -> tuple[int, int]:
    """Compare a batch: how many raw images are black under their masks, and how many mask pixels are others."""
    made = each.remade(batch.raw, batch.numbers)
    if each.promises:
        noise = torch.randint(0, 256, batch.raw.shape, generator=generator, dtype=torch.uint8)
        again = each.remade(torch.where(made.mask.bool(), batch.raw, noise), batch.numbers)
        for row in (again.mask != made.mask).flatten(1).any(1).nonzero().flatten().tolist():
            audit.add(
                mask_file(batch.names[row]),
                "depends on hidden pixels: the masker makes another mask of its image with noise under it",
            )
    black = apart = 0
    for row, name in enumerate(batch.names):
        mask = _own(root / mask_file(name), each)
        if mask is None:
            continue  # said already
        black += not bool(batch.raw[row][:, mask == 0].any())
        _compare_picture(root / name, audit, name, batch.raw[row] * mask)
        differing = int((mask != made.mask[row, 0]).sum())
        if not differing:
            continue
        if what := _other_mask(each, made, batch, row, mask, differing):
            audit.add(mask_file(name), what)
        else:
            apart += differing
    return black, apart


def _other_mask(
    each: EachDesensitizer, made: Remade, batch: _Batch, row: int, mask: Tensor, differing: int
) -> str | None:
    """Return what is wrong with a mask that is not the one made again; None where another machine may have made it."""
    masker = each.desensitizer
    image = batch.raw[row][None].float() / 255
    if each.codes is None:
        if any(True for _ in masker.possible(image, mask[None, None].float())):
            return None
        return (
            f"is not the masker's: run again on the raw image it differs in {differing} pixels, more than "
            "another machine's rounding leaves"
        )
    same = (each.codes[:, 0] == mask).flatten(1).all(1).nonzero().flatten().tolist()
    if not same:
        return "is none of the masker's public masks"
    number = torch.tensor([batch.numbers[row]])
    if any(masker.may_choose(soft, number, same[0], _NEARLY) for soft in masker.possible(image)):
        return None
    return f"is public mask {same[0]}, the masker run again chooses {int(made.which[row])}"


def _own(path: Path, each: EachDesensitizer) -> Tensor | None:
    size = each.desensitizer.size
    assert size is not None, "prepared"
    if not path.is_file() or path.is_symlink():
        return None
    _, mask = mask_faults(read_at_most(path, size[0]), size[0], each.shown)
    return None if mask is None else torch.from_numpy(np.ascontiguousarray(mask))


def _compare_picture(path: Path, audit: Audit, name: str, wanted: Tensor) -> None:
    if not path.is_file() or path.is_symlink():
        return
    pixels = read_png(read_at_most(path, wanted.shape[-1])).pixels
    if pixels is None or pixels.shape[:2] != tuple(wanted.shape[1:]):
        return  # said already
    found = torch.from_numpy(pixels.copy()).permute(2, 0, 1).expand(3, -1, -1)
    if not torch.equal(found, wanted):
        differing = int((found != wanted).any(0).sum())
        audit.add(name, f"differs in {differing} pixels from its raw image under its mask")
