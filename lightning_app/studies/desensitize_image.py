"""One photo under a mask, and how it looks beside it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import get_console

from datamodules.pixels import desensitize_on_grid
from datamodules.readers.decode import decode, read_bytes, size_of
from lightning_app.alignment.detect import choose_face
from lightning_app.alignment.finders import Detector, make_finder
from lightning_app.alignment.pixels import read_upright
from lightning_app.alignment.place import Rules, fault_of
from lightning_app.alignment.similarity import align_face
from lightning_app.core.files import PRIVATE, write_atomically
from lightning_app.core.png import encode_png
from lightning_app.desensitize import MaskOut
from lightning_app.masks import load_mask

log = logging.getLogger("faceveil")
_GAP = 4  # white pixels between the pictures of a preview
Picture = NDArray[np.uint8]


def desensitize_image(
    photo: str,
    output: str,
    mask: str,
    align: bool = False,
    resize: bool = False,
    crop: int | tuple[int, int, int, int] | None = None,
    guard: int = 0,
    preview: str | None = None,
    detector: Detector | None = None,
    allow_lossy_webp: bool = False,
    overwrite: bool = False,
) -> None:
    """Put one photo under a mask, and write the result as a PNG of pixels and nothing else.

    Nothing but the photo and the mask is read, nothing but `output` (and `preview`) written. Hidden pixels are black,
    and nothing of the photo's file (EXIF, thumbnail, profile, name) is in the result. It has no manifest: to release a
    set, take `desensitize`.

    Args:
        photo: a JPEG, PNG or WebP file.
        output: the PNG file to write.
        mask: a mask file, such as `draw-mask` or `search-mask` writes; its size is that of the result.
        align: find the face, and bring it to its fixed place at the mask's size; see `align`.
        resize: the photo is an aligned face of another size: bring it to the mask's.
        crop: part of the photo to take with `resize`: the box (left, top, right, bottom) or the side of the central
            square to take of the photo.
        guard: hide so many pixels more around the mask's edge, see `lightning_app.desensitize.MaskOut`.
        preview: also write this PNG: the face as it is, beside what is left of it. It shows the face: keep it.
        detector: finder of the face, `dlib` or `centerface`; by default the one that is installed.
        allow_lossy_webp: also take a WebP that is coded with loss, where hidden pixels leave traces in visible ones.
        overwrite: replace the files to write where there are any.

    Raises:
        FileNotFoundError: the photo or the mask is not there.
        FileExistsError: a file to write is there.
        ValueError: the photo cannot be decoded, has another size than the mask, shows no face or several, or a name
            will not do.
    """
    written = [path for path in (output, preview) if path is not None]
    _check_paths(photo, mask, written, overwrite)
    height, width = load_mask(mask).shape[-2:]
    if height != width:
        raise ValueError(f"mask {mask} is {width}×{height} px; give a square one, as aligned faces are")
    if align and (resize or crop is not None):
        raise ValueError("--align brings the face to the mask's size itself: leave out --resize and --crop")
    data = read_bytes(photo)
    lossy_webp = allow_lossy_webp  # told where it is decoded
    decoded = decode(data, None if align else crop, height, photo, upright=not align, lossy_webp=lossy_webp)
    if align:
        face = _aligned(photo, height, detector)
    else:
        _check_size(photo, data, height, mask, resize, crop)
        face = np.broadcast_to(decoded, (3, height, height)).transpose(1, 2, 0)
    if guard < 1 and (align or _cut_out(data, crop) != (height, height)):
        log.warning(
            "The photo is resized: visible pixels at the mask's edge are hidden ones to an eighth on average. "
            "--guard 1 keeps a lossless one apart, a JPEG needs more: docs/threat_model.md, 'The margin'."
        )
    left, hidden = _desensitized(face, mask, guard)
    write_atomically(output, encode_png(left))
    get_console().print(f"{height}×{height} px, {hidden:.1%} hidden: {output}", soft_wrap=True)
    if preview is not None:
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        write_atomically(preview, encode_png(np.concatenate([face, gap, left], 1)), mode=PRIVATE)
        get_console().print(f"it shows the face, keep it here: {preview}", soft_wrap=True)


def _check_paths(photo: str, mask: str, written: list[str], overwrite: bool) -> None:
    if not Path(photo).is_file():
        what = "is a folder: `desensitize` takes sets" if Path(photo).is_dir() else "no such file"
        raise FileNotFoundError(f"photo {photo}: {what}")
    places = {Path(photo).resolve(): "the photo", Path(mask).resolve(): "the mask"}
    for path in written:
        if Path(path).suffix.lower() != ".png":
            raise ValueError(
                f"{path}: does not end in .png; what is under a mask is written without loss, as PNG"
            )
        if (other := places.get(Path(path).resolve())) is not None:
            raise ValueError(f"{path}: is {other}; give another file to write")
        places[Path(path).resolve()] = "written already"
        if Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path}: is there; give another name, or --overwrite")


def _check_size(
    photo: str, data: bytes, side: int, mask: str, resize: bool, crop: int | tuple[int, int, int, int] | None
) -> None:
    found = size_of(data)
    assert found is not None  # it was decoded
    if found == (side, side) and crop is None:
        return
    if not resize:
        taken = "" if crop is None else f", cropped to {crop}"
        raise ValueError(
            f"photo {photo} is {found[0]}×{found[1]} px{taken}, mask {mask} {side}×{side}: give --align, which finds "
            "the face, or --resize where the photo is an aligned face"
        )
    if crop is None and found[0] != found[1]:
        log.warning("photo %s: %d×%d px are squeezed to a square.", photo, *found)


def _cut_out(data: bytes, crop: int | tuple[int, int, int, int] | None) -> tuple[int, int] | None:
    """Return width and height of what is taken of a photo, before it is resized."""
    if crop is None:
        return size_of(data)
    return (crop, crop) if isinstance(crop, int) else (crop[2] - crop[0], crop[3] - crop[1])


def _aligned(photo: str, side: int, detector: Detector | None) -> Picture:
    pixels = read_upright(photo)
    height, width = pixels.shape[:2]
    finder = make_finder(detector)
    faces = finder.find(pixels)
    choice = choose_face([face.box for face in faces], width, height)
    if choice.number is None:
        what = (
            f"{len(faces)} faces, none clearly in the middle: crop it to one"
            if faces
            else "no face was found"
        )
        raise ValueError(f"photo {photo}: {what}")
    face = faces[choice.number]
    points = face.points if face.points is not None else finder.landmarks(pixels, face.box)
    fault = fault_of(points, width, height, Rules("", "", side, None, 20.0, 0.35, 0.5))
    if fault is not None:
        raise ValueError(f"photo {photo}: its face cannot be aligned ({fault}); take another photo")
    placed = align_face(pixels, points, side)
    return placed if placed.ndim == 3 else np.repeat(placed[..., None], 3, 2)


def _desensitized(face: Picture, mask: str, guard: int) -> tuple[Picture, float]:
    """Hide a face's pixels as a release does; give the result `[S,S,3]` and the hidden share."""
    method = MaskOut(mask=mask, guard=guard)
    image = torch.from_numpy(np.ascontiguousarray(face.transpose(2, 0, 1)))[None].float() / 255
    with torch.no_grad():
        batch = desensitize_on_grid(
            {"image": image, "index": torch.zeros(1, dtype=torch.int64)}, method.eval()
        )
    shown = batch["mask"]
    assert shown is not None
    left: Picture = (batch["image"][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    hidden = shown[0, 0].numpy() == 0
    assert not left[hidden].any()
    return np.ascontiguousarray(left), float(hidden.mean())
