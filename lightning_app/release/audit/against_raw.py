"""The part of an audit that the owner alone can do: a release compared with the raw set it was made of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader
from lightning_app.core.draws import hashed
from lightning_app.core.printing import counted
from lightning_app.desensitize import OURS
from lightning_app.desensitize.blur import blur, gaussian_taps
from lightning_app.metrics import dssim
from lightning_app.release.audit.images import read_at_most, read_small
from lightning_app.release.audit.run import Audit, Compared, strings
from lightning_app.release.format.each_mask import CODES, MASKS, is_code_file
from lightning_app.release.format.entries import OTHER, REASONS, VERSION
from lightning_app.release.format.method import is_known
from lightning_app.release.format.names import IMAGES, MANIFEST, MASK, MASK_FACTS, SIGNATURE, is_image_file
from lightning_app.release.format.png import read_png
from lightning_app.release.format.pseudonyms import DIGITS
from lightning_app.release.format.public import made_with
from lightning_app.release.format.strict_json import strict_json
from lightning_app.release.format.tensors import PAIRS, SHARDS, is_shard_file
from lightning_app.release.format.tree import entries

AS_CLEAN = (
    0.01  # dSSIM: blur with kernel 9 makes 0.12 of photographs, a grey level more or less at random 0.005
)
_PLAIN, _LITTLE = 9, 0.05  # kernel of a blur, and which share of what it changes is next to nothing
_WINDOW = 6  # pixels a side that dSSIM needs at least
_SAMPLE = 410  # salt of the draw of the images that are released again
_SHORTEST = 4  # a name of fewer characters is found in any text by chance
_OWN = (MANIFEST, SIGNATURE, MASK, MASK_FACTS, IMAGES, SHARDS, PAIRS, MASKS, CODES)
_PSEUDONYM = re.compile(rf"[0-9a-f]{{{DIGITS}}}(\.png)?")
_PARTS = re.compile(r"[\W_]+")
# words of FaceVeil's own methods and masks: a raw file called mask.png makes no finding of `mask_ratio`
_OWN_WORDS = frozenset({
    "batch", "black", "block", "brush", "count", "desensitize", "draw", "file_hash", "fraction", "freeform", "guard",
    "hidden", "hide", "image", "kernel", "levels", "made_by", "mask_hash", "mask_ratio", "mask_ratio_range", "masks",
    "max_angle", "max_brush_width", "max_length", "max_vertex", "method", "min_vertex", "reveal", "seed", "sigma",
    "size", "strokes", "taps", "version", "white",
    "epoch", "fixed", "grey", "once", "ycbcr",
}).union(*(schema for kind in OURS.values() for schema in kind.entries(1, VERSION)))  # fmt: skip


def find_names(root: Path, audit: Audit, names: Iterable[str]) -> None:
    """Look for names of the raw set in every path of a release, its manifest and its mask's facts.

    The images hold no text: `audit` lets no chunk pass that could. Names are compared without regard to case
    and to what stands between their words. In text those count that have four characters or more, with a
    letter among them; in paths every folder and file name is compared as a whole, with and without its suffix.

    The words of FaceVeil's own descriptions do not count.

    Args:
        root: the released folder.
        audit: of it, gets the findings. They do not repeat the name.
        names: of identities and of files, with and without suffix.
    """
    manifest = audit.manifest
    assert manifest is not None
    exact = {name.casefold() for name in names if name}
    words = {_plain(name) for name in exact}
    words = {word for word in words if len(word) >= _SHORTEST + 2 and re.search(r"[^\W\d]", word)}
    for path, _ in entries(root):
        if path in _OWN or is_shard_file(path) or is_code_file(path):
            continue
        parts = [part.casefold() for part in path.split("/") if part not in (IMAGES, MASKS)]
        stems = [part.rpartition(".")[0] for part in parts]
        foreign = " ".join(part for part in parts if not _PSEUDONYM.fullmatch(part))
        if not exact.isdisjoint([*parts, *stems]) or (foreign and _mentions(foreign, words)):
            audit.add(path, "bears the name of an identity or a file of the raw set")
    own = _OWN_WORDS | REASONS | made_with().keys()
    texts = {MANIFEST: [*strings(manifest.method), *manifest.refused, *strings(manifest.versions)]}
    if (root / MASK_FACTS).is_file():
        data = read_small(root / MASK_FACTS)
        try:
            texts[MASK_FACTS] = list(strings(strict_json(data)))
        except ValueError:  # no JSON, which has been said; a name may stand in it all the same
            texts[MASK_FACTS] = [data.decode(errors="replace")]
    for file, found in texts.items():
        if any(_mentions(text, words) for text in found if text not in own):
            audit.add(file, "holds the name of an identity or a file of the raw set")


def _plain(text: str) -> str:
    """Return its words in lower case, one space between, before and after."""
    return f" {_PARTS.sub(' ', text.casefold()).strip()} "


def _mentions(text: str, words: Iterable[str]) -> bool:
    plain = _plain(text)
    return any(word in plain for word in words)


def compare_images(
    root: Path,
    audit: Audit,
    origin: Mapping[str, int],
    read: Callable[[int], Tensor],
    release: Callable[[Tensor], Tensor],
    visible: Tensor | None,
    sample: int | None,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Release a sample of the raw images again, their hidden pixels replaced by noise: the same pixels must come.

    `audit` has seen that every file's bytes are those of its pixels.

    Args:
        root: the released folder.
        audit: of it, gets the findings, and what was compared.
        origin: path in the release -> number of its raw image, for every raw image, by the owner's key.
        read: the raw image of a number, uint8 `[3,H,W]`; a ValueError where it cannot be decoded.
        release: desensitizes uint8 `[B,3,H,W]` as `fit` does on the fly.
        visible: the mask `[1,H,W]`, 1 = visible; None where nothing is hidden.
        sample: how many images; all where there are fewer, or where it is None.
        seed: of the draw of images and of the noise.
        advance: told how many more are done.
    """
    manifest = audit.manifest
    assert manifest is not None
    released = sorted(name for name in manifest.files if is_image_file(name))
    known = [name for name in released if name in origin]
    audit.compared = Compared(0, seed)
    if not known:
        audit.add("images", "no image bears the pseudonym of a raw one: other raw images, or another --key")
        return
    for name in released:
        if name not in origin:
            audit.add(name, "bears the pseudonym of no raw image")
    order = torch.argsort(hashed(torch.arange(len(known)), _SAMPLE, seed), stable=True)[:sample]
    generator = torch.Generator().manual_seed(seed)
    found: list[_Beside] = []
    for name in (known[i] for i in sorted(order.tolist())):
        path = root / name
        if path.is_file() and not path.is_symlink():  # what is missing has been said
            data = read_at_most(path, manifest.size)
            beside = _beside(data, manifest.size, origin[name], read, release, visible, generator)
            found.append(beside)
            if beside.fault:
                audit.add(name, beside.fault)
            elif beside.is_clean and not is_known(manifest.method["method"]):
                audit.add(name, f"is as good as clean: dSSIM from its raw image is {beside.dssim:.4f}")
        advance(1)
    differences = [beside.dssim for beside in found if beside.dssim is not None]
    mean = sum(differences) / len(differences) if differences else None
    compared = sum(beside.compared for beside in found)
    black = sum(beside.black for beside in found)
    audit.compared = Compared(compared, seed, mean, black)
    if not compared:
        audit.add("images", f"none of {counted(len(order), 'image')} could be compared with its raw one")
    elif black == compared:
        audit.add(
            "images",
            f"are clean: all {black} that were compared are black under the mask in the raw set too, so that it hides "
            "nothing of them",
        )
    elif black:
        audit.notes.append(
            f"{black} of {counted(compared, 'image')} compared are black under the mask in the raw set too: nothing to "
            "hide"
        )
    if (
        compared
        and mean is not None
        and mean < AS_CLEAN
        and not (
            # smooth and dark images have little that any method could change; what ours does to them has been compared
            is_known(manifest.method["method"]) and mean >= _LITTLE * _changeable(found)
        )
    ):
        audit.add("images", f"are as good as clean: dSSIM from the raw images is {mean:.4f} on average")


def count_refused(
    audit: Audit, reader: FaceReader, origin: Mapping[str, int], exact: bool, released: Collection[str]
) -> None:
    """Hold the counts of refused files against the raw set: a count is a number, and a number may carry a message.

    Args:
        audit: of the release, gets the findings.
        reader: the raw set, as `desensitize` read it.
        origin: path in the release -> number of its raw image, for every raw image.
        exact: the reader is the very one, so the counts must be equal; else it may have more people than were
            released, and counts may be smaller.
        released: the paths, as `origin` has them, of what is released.
    """
    manifest = audit.manifest
    assert manifest is not None
    there = Counter(_reason(reason) for _, reason in reader.passed_over())
    if exact or any(count > there[reason] for reason, count in manifest.refused.items()):
        kept_back = (number for name, number in origin.items() if name not in released)
        there.update(reason for number in kept_back if (reason := _refusal(reader, number)))
    for reason in sorted(there.keys() | manifest.refused.keys()):
        said, counted = manifest.refused.get(reason, 0), there[reason]
        if said > counted or (exact and said != counted):
            audit.add(MANIFEST, f"refused counts {said} files for {reason!r}, the raw set has {counted}")


def _refusal(reader: FaceReader, number: int) -> str | None:
    """Return why an image is refused; None where it can be read."""
    try:
        reader.read(number)
    except BadImage as error:
        return _reason(error.reason)
    return None


def _reason(reason: str) -> str:
    return reason if reason in REASONS else OTHER


class _Beside(NamedTuple):
    """A released image beside its raw one: what is wrong, whether they were compared, how far they are apart.

    `black`: under the mask the raw one has nothing but 0 either. Where they are hardly apart, `changeable`
    is the dSSIM that a plain blur would make; else it is that of theirs.
    """

    fault: str | None = None
    compared: bool = False
    dssim: float | None = None
    changeable: float = 0.0
    black: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether next to nothing was changed, though there is something to change."""
        return self.dssim is not None and self.dssim < min(AS_CLEAN, _LITTLE * self.changeable)


def _changeable(found: Iterable[_Beside]) -> float:
    """Return how far a blur of 9 pixels would be from the raw images on average, as dSSIM."""
    there = [beside.changeable for beside in found if beside.dssim is not None]
    return sum(there) / len(there)


def _beside(
    data: bytes,
    size: int,
    number: int,
    read: Callable[[int], Tensor],
    release: Callable[[Tensor], Tensor],
    visible: Tensor | None,
    generator: torch.Generator,
) -> _Beside:
    """Compare one released image with what becomes of its raw one."""
    pixels = read_png(data).pixels
    if pixels is None or pixels.shape[:2] != (
        size,
        size,
    ):  # no raw one is brought to a size that is only claimed
        return _Beside()  # has been said
    try:
        raw = read(number)
    except ValueError:
        return _Beside("was released, but its raw image cannot be decoded")
    found = torch.from_numpy(pixels.copy()).permute(2, 0, 1).expand(3, -1, -1)
    if found.shape != raw.shape:
        return _Beside()  # has been said: the reader gives images of the manifest's size
    apart = _dssim(found, raw) if visible is None else None
    changeable = apart or 0.0
    if apart is not None and apart < AS_CLEAN:
        changeable = _dssim(blur(raw[None].float(), gaussian_taps(_PLAIN))[0], raw) or 0.0
    black = visible is not None and not bool(raw[:, ~visible[0].bool()].any())
    if torch.equal(found, raw) and not black and not _is_flat(raw):
        return _Beside("is clean: its pixels are those of the raw image", True, apart, changeable)
    honest = release(raw[None])[0]
    noise = torch.randint(0, 256, raw.shape, generator=generator, dtype=torch.uint8)
    changed = raw if visible is None else torch.where(visible.bool(), raw, noise)
    again = release(changed[None])[0]
    fault = None
    if not torch.equal(again, honest):
        fault = "depends on hidden pixels: releasing it with others under the mask gives another image"
    elif not torch.equal(found, again):
        differing = int((found != again).any(0).sum())
        fault = f"differs in {differing} pixels from its raw image released again"
    return _Beside(fault, True, apart, changeable, black)


def _dssim(found: Tensor, raw: Tensor) -> float | None:
    if min(raw.shape[-2:]) < _WINDOW:
        return None
    return float(dssim(found[None].float() / 255, raw[None].float() / 255))


def _is_flat(image: Tensor) -> bool:
    """Return whether an image `[3,H,W]` is of one colour: nothing could be hidden of it."""
    return bool((image == image[:, :1, :1]).all())
