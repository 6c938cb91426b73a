"""Masks on disk: a one-channel PNG of 0 (hidden) and 255 (visible) with its facts in a JSON beside it."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_app.core.files import file_sha256, is_temporary, publish, replacing
from lightning_app.core.pixel_limit import check_pixels
from lightning_app.core.png import encode_png
from lightning_app.masks.bits import Array, Size, as_array, as_size, pack_masks, size_text

# What Pillow raises for files that are no image, broken, cut short or absurdly large.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
    axis=1, dtype=np.uint8
)  # [256] bits set


_LEFT_S = 3600.0  # a temporary file so old is nobody's any more


def draw_hint(path: str | Path, size: Size | None = None) -> str:
    """Return the command that draws a mask of this size, for error messages.

    Where no mask of this name is there it draws to this path, the very mask that the pages draw; else to a name beside
    it, for others may use the one that is there.
    """
    height, width = (None, None) if size is None else as_size(size)
    if height != width:
        return f"draw one with lightning_app.masks.freeform_masks(1, ({height}, {width})) and save_mask"
    side = "SIDE" if height is None else str(height)
    free = _free_name(Path(path), side)
    again = " --overwrite" if free.with_suffix(".json").exists() else ""  # left behind by a kill
    return (
        f"draw one with `python main.py draw-mask --ratio 0.755 0.765 --size {side} --seed 0 --output "
        f"{shlex.quote(str(free))}{again}`" + ("" if size is not None else " (SIDE: that of the images)")
    )


def _free_name(path: Path, side: str) -> Path:
    """Return the path where no mask is there, else a name beside it where none is."""
    ends = itertools.chain(["", f"_{side}"], (f"_{side}_{number}" for number in itertools.count(2)))
    return next(one for one in (path.with_name(f"{path.stem}{end}.png") for end in ends) if not one.exists())


def load_mask(path: str | Path, size: Size | None = None) -> Tensor:
    """Read a mask file.

    Args:
        path: a one-channel PNG of 0 (hidden) and 255 (visible).
        size: side or (height, width) it must have; None takes it as it is.

    Returns:
        `[1,H,W]` float32, 1 = visible, 0 = hidden.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be decoded, has another size, several channels or grey values, hides every
            pixel or none.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"mask {path} is a folder: name one PNG file, or give the folder as `folder`")
    if not path.exists() and not finish_saving(path):
        raise FileNotFoundError(f"mask {path}: no such file; {draw_hint(path, size)}")
    if not path.is_file():  # a pipe would be waited for, without end
        raise ValueError(f"mask {path} is neither file nor folder: name one PNG file")
    try:
        with Image.open(path) as picture:
            check_pixels(picture)
            if size is None or (picture.height, picture.width) == as_size(size):
                picture.load()  # else the size is refused below, whatever its pixels are
    except DECODE_ERRORS as error:
        raise ValueError(f"mask {path} cannot be decoded ({error}); {draw_hint(path, size)}") from error
    if picture.mode not in ("1", "L"):
        channels = len(picture.getbands())
        found = f"{channels} channels (mode {picture.mode})" if channels > 1 else f"mode {picture.mode}"
        raise ValueError(
            f"mask {path} has {found}: a mask is an 8-bit one-channel PNG of 0 and 255; "
            f"save it as grey, or {draw_hint(path, size)}"
        )
    if size is not None and (picture.height, picture.width) != as_size(size):
        raise ValueError(
            f"mask {path} is {size_text((picture.height, picture.width))}, {size_text(size)} is needed (height×width): "
            f"{draw_hint(path, size)}, or set the images' size to the mask's"
        )
    pixels: Array = np.asarray(picture.convert("L"), dtype=np.uint8)
    grey = ~np.isin(pixels, (0, 255))
    if grey.any():
        seen = ", ".join(str(value) for value in np.unique(pixels[grey])[:3])
        raise ValueError(
            f"mask {path} has {int(grey.sum())} of {pixels.size} pixels that are neither 0 nor 255 "
            f"(such as {seen}): threshold it, or {draw_hint(path, size)}"
        )
    _refuse_empty(pixels, f"mask {path}", draw_hint(path, size))
    return torch.from_numpy(pixels // 255).to(torch.float32).unsqueeze(0)


def save_mask(mask: Tensor, path: str | Path, **facts: object) -> None:
    """Write a mask as PNG and, beside it, what is known of it as `NAME.json`; each file atomically, the PNG last.

    A kill never leaves a PNG without its facts, or with another's. One that comes between the two files leaves both of
    the new ones under other names: `load_mask` and the next `save_mask` put them in their places (`finish_saving`).

    The JSON holds `mask_ratio`, `size` (height, width), `mask_hash` (SHA-256 of the pixels, the
    same on every machine), `file_hash` (SHA-256 of the PNG's bytes) and the facts given.

    Args:
        mask: `[H,W]`, `[1,H,W]` or `[1,1,H,W]`, 1 = visible, 0 = hidden.
        path: where to, ending in `.png`; its folder is made where it is missing; a file there is replaced.
        facts: anything JSON can hold: how it was made, seed, objective.

    Raises:
        ValueError: on values other than 0 and 1, several masks, a mask that hides all or nothing, a path that
            does not end in `.png`, or facts that JSON cannot hold or that bear one of the names above.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path: {path} does not end in .png, and masks are saved as PNG")
    array = as_array(mask)
    if len(array) != 1:
        raise ValueError(f"mask: {len(array)} masks do not fit one file; save them one by one")
    _refuse_empty(array[0] * np.uint8(255), "mask", "it would protect or teach nothing")
    content = encode_png(array[0] * np.uint8(255))  # the same bytes on every machine: an audit compares them
    own: dict[str, object] = {
        "mask_ratio": mask_ratio(mask.reshape(mask.shape[-2:])),
        "size": list(array.shape[1:]),
        "mask_hash": mask_hash(mask),
        "file_hash": hashlib.sha256(content).hexdigest(),
    }
    if taken := sorted(own.keys() & facts.keys()):
        raise ValueError(f"facts: {', '.join(taken)} is measured from the mask; leave it out")
    try:
        said = sidecar(own | facts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts: JSON cannot hold them ({error})") from error
    if not path.exists():
        finish_saving(path)
    _remove_old_parts(path)
    with replacing(path) as picture:
        picture.write(content)
        picture.flush()
        with replacing(path.with_suffix(".json")) as beside:
            beside.write(said)
            beside.flush()
            # both are on the disk, which was not too full; no earlier mask stands beside the new one's facts
            path.unlink(missing_ok=True)


def finish_saving(path: Path) -> bool:
    """Put a mask in its place that a killed `save_mask` had written and not yet named.

    Args:
        path: of the PNG, which is not there.

    Returns:
        Whether there was one, whole, with its facts.
    """
    beside = path.with_suffix(".json")
    pictures = [(part, file_sha256(part)) for part in _parts(path)]
    for facts in [beside, *_parts(beside)] if pictures else []:
        try:
            said = json.loads(facts.read_text(encoding="utf-8"))["file_hash"]
        except (OSError, ValueError, KeyError, TypeError):  # not there, or cut short
            continue
        for part, found in pictures:
            if found == said:
                if facts != beside:
                    publish(facts, beside)
                publish(part, path)
                return True
    return False


def _parts(path: Path) -> list[Path]:
    there = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
    return sorted(part for part in there if is_temporary(part.name, path.name))


def _remove_old_parts(path: Path) -> None:
    """Remove what kills have left; none that another process may be writing now."""
    for part in (*_parts(path), *_parts(path.with_suffix(".json"))):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > _LEFT_S:
                part.unlink()


def sidecar(facts: Mapping[str, object]) -> bytes:
    """Return the content of the JSON file that stands beside a mask.

    Args:
        facts: in the order they shall have.

    Raises:
        TypeError, ValueError: JSON cannot hold them.
    """
    return json.dumps(facts, indent=2, allow_nan=False).encode() + b"\n"


def mask_ratio(mask: Tensor) -> float | Tensor:
    """Return hidden pixels / all pixels (the paper's P, formula 2, as the hidden share).

    Args:
        mask: one mask `[H,W]` or `[1,H,W]`, or a batch `[N,1,H,W]`; 1 = visible, 0 = hidden.

    Returns:
        A float in [0,1] for one mask; for a batch, whatever its N, `[N]` float32 on the mask's device.

    Raises:
        ValueError: on another shape, or values other than 0 and 1.
    """
    ratios = bits_ratio(pack_masks(mask), _size_of(mask))
    return float(ratios[0]) if mask.ndim < 4 else ratios.to(mask.device, torch.float32)


def mask_hash(mask: Tensor) -> str:
    """Return the SHA-256 of masks: of `N×H×W` in ASCII, then of their packed bits (`pack_masks`).

    It depends on the pixels alone, not on dtype, device or how a PNG was compressed; `[H,W]`, `[1,H,W]` and
    `[1,1,H,W]` of the same pixels hash alike.

    Args:
        mask: `[H,W]`, `[1,H,W]` or `[N,1,H,W]`, 1 = visible, 0 = hidden.

    Raises:
        ValueError: on another shape, or values other than 0 and 1.
    """
    return bits_hash(pack_masks(mask), _size_of(mask))


def bits_hash(bits: Tensor, size: Size) -> str:
    """Return what `mask_hash` returns for the masks that were packed to these bits.

    Args:
        bits: `[N, ceil(H·W/8)]` uint8.
        size: side or (height, width) of the masks.
    """
    height, width = as_size(size)
    return hashlib.sha256(f"{len(bits)}x{height}x{width}".encode() + bits.cpu().numpy().tobytes()).hexdigest()


def bits_ratio(bits: Tensor, size: Size) -> Tensor:
    """Return the mask ratios of the masks that were packed to these bits.

    Args:
        bits: `[N, ceil(H·W/8)]` uint8; bits beyond the last pixel are 0.
        size: side or (height, width) of the masks.

    Returns:
        `[N]` float64 on the CPU.
    """
    height, width = as_size(size)
    visible = _ONES[bits.cpu().numpy()].sum(axis=1, dtype=np.int64)
    return torch.from_numpy((height * width - visible) / (height * width))


def _refuse_empty(pixels: Array, name: str, advice: str) -> None:
    if not pixels.any():
        raise ValueError(f"{name} hides every pixel (all 0): nothing is left to recognise; {advice}")
    if pixels.all():
        raise ValueError(f"{name} hides no pixel (all 255): the images would stay as they are; {advice}")


def _size_of(mask: Tensor) -> tuple[int, int]:
    return int(mask.shape[-2]), int(mask.shape[-1])
