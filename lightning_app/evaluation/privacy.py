"""What a desensitized image set gives away: likeness, and who is found again, before and after attacks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader
from lightning_app.attacks import Attack
from lightning_app.core.batch import AS_TRAINED, Batch
from lightning_app.core.draws import hashed
from lightning_app.core.files import write_atomically
from lightning_app.evaluation.embed import Shown, Tick, embed_images, no_tick, rank_share
from lightning_app.evaluation.judges.base import Judge, state_hash
from lightning_app.evaluation.judges.holes import Holes, check_numbers
from lightning_app.evaluation.pair_images import PairImages
from lightning_app.metrics import dssim, psnr
from lightning_app.metrics.lpips import LPIPS, SMALLEST, Missing, lpips_model, published
from lightning_app.metrics.reidentification import (
    mate_ranks,
    one_of_each,
    similarity,
)

log = logging.getLogger("faceveil")
Stored = dict[str, Tensor]
_FORM = 1  # of a part; another number, and what was measured before is measured again
_TOGETHER = 64  # images that are mixed with one another, whatever the batch size: mixes depend on it
_VISITED = 360  # salt of the order in which images are mixed


class Subjects(PairImages):
    """The people whose privacy is measured: the images of a verification set, read once.

    The gallery is the first image of each person, clean. Everybody's other images are looked for in it.

    Args:
        reader: images and an attribute `pairs`.
        batch_size: images at a time.
        device: where everything is computed.

    Attributes:
        labels: `[N]` int64, person of each; −1 where not known.
        gallery: `[G]` int64, positions of the gallery's images.
        hash: SHA-256 of pixels, people and pairs.
    """

    def __init__(self, reader: FaceReader, batch_size: int = 64, device: torch.device | None = None) -> None:
        super().__init__(reader, batch_size, device)
        self.labels = reader.labels
        self.gallery = one_of_each(self.labels)
        self.hash = self.digest(self.labels)
        self._clean: dict[str, Tensor] = {}

    @property
    def probes(self) -> Tensor:
        """Positions `[K]` int64 of the images that are looked for: their person has another in the gallery."""
        enrolled = torch.zeros(len(self), dtype=torch.bool)
        enrolled[self.gallery] = True
        return torch.nonzero((self.labels >= 0) & ~enrolled).flatten()

    @torch.inference_mode()
    def embedded(self, judge: Judge, tick: Tick = no_tick) -> Tensor:
        """Embed every clean image, once per judge however often it is asked for: `[N,D]` on the CPU.

        Where the judge compares by cosine, of length 1.
        """
        judge = judge.clean_side()
        if judge.description not in self._clean:
            by = {judge.description: judge}
            shown = ([Shown(self.clean(rows), by)] for rows in rank_share(len(self), self.batch_size))
            found = embed_images(shown, tick=tick)[judge.description]
            self._clean[judge.description] = _scaled(check_numbers(found), judge)
        return self._clean[judge.description]


def applies(attack: Attack | None, data: FaceDataModule) -> bool:
    """Return whether an attack can be mounted on what a method releases.

    Args:
        attack: None stands for looking at the released images as they are.
        data: the method's data, of which the desensitizer matters.
    """
    desensitizer = data.desensitizer
    desensitizer.prepare((data.size, data.size))  # a mask is known by its hash once it is read or drawn
    if attack is None:
        return True
    if attack.needs_image and not desensitizer.is_image:
        return False
    return desensitizer.hides and (not attack.needs_mask or gives_masks(data))


def gives_masks(data: FaceDataModule, device: torch.device | None = None) -> bool:
    """Return whether a mask comes with every image that a method releases.

    A class may promise it (`has_mask`) and a description may name one; else it is asked of a black image.

    Args:
        data: the method's data.
        device: where that image is desensitized; None is the CPU.
    """
    if data.reader.own_masks:  # released images come with theirs, and nothing else gets one here
        return True
    desensitizer = data.desensitizer
    if not desensitizer.hides:
        return False
    if desensitizer.has_mask is not None:
        return desensitizer.has_mask
    # masks made for each image have a ratio and no hash
    if {"mask_hash", "mask_ratio"} & desensitizer.describe().keys():
        return True
    # another program has made pictures of the set's images, and none of a black one
    if desensitizer.elsewhere:
        return False
    black = torch.zeros(1, 3, data.size, data.size, dtype=torch.uint8, device=device)
    return data.prepare(black)["mask"] is not None


def part_key(subjects: Subjects, data: FaceDataModule, attack: Attack | None) -> str:
    """Return what a part depends on beside its judges: images, method, attack with its weights; 16 hex digits.

    Args:
        subjects: whose images are attacked.
        data: the method's; its desensitizer is prepared for these images.
        attack: None for the released images as they are.
    """
    size = subjects.reader.size
    data.desensitizer.prepare((size, size))
    description: dict[str, object] = {
        "form": _FORM,
        "images": subjects.hash,
        "method": data.desensitizer.describe(),
        "attack": None,
    }
    if data.desensitizer.mixes > 1:
        description["mixed"] = [_TOGETHER, _VISITED]
    if attack is not None:
        attack.to(subjects.device).eval()
        some = data.desensitized(subjects.raw(torch.arange(1)), reader=subjects.reader)
        if applies(attack, data):  # what an attack learns or loads at the first need is there after it
            attack.restore(some)
        description["attack"] = {**attack.describe(), "state": state_hash(attack)}
    return _hex(json.dumps(description, sort_keys=True, default=str))


def pictures_of(data: FaceDataModule, released: Batch, attack: Attack | None, size: Sequence[int]) -> Tensor:
    """Make what is seen of a released batch: pictures `[B,3,H,W]` in [0,1] of the raw images' size.

    Args:
        data: the method's, of which the desensitizer matters.
        released: what it hands out.
        attack: whose restoration is seen; None for the released pictures, or what `Desensitizer.look` shows of a
            representation.
        size: (height, width) of the raw images.

    Raises:
        ValueError: the attack restores pictures of another size.
    """
    if attack is None:
        return data.desensitizer.pictures(released["image"], (size[0], size[1]))
    restored = attack.restore(released)
    if tuple(restored.shape[2:]) != tuple(size):
        raise ValueError(
            f"{type(attack).__name__}: restored images of {list(restored.shape[2:])} px, the raw ones are {list(size)}"
        )
    return restored


def _visits(subjects: Subjects, mixes: bool) -> list[Tensor]:
    """Return the positions of each batch.

    A list of pairs has a person's images side by side. Training batches are drawn, so what is mixed is visited in a
    drawn order, the same for all methods: in a list's order a mix would hold one person twice, and labels would not
    tell which image of hers it is.
    """
    if not mixes:
        return rank_share(len(subjects), subjects.batch_size)
    order = torch.argsort(hashed(torch.arange(len(subjects)), _VISITED))
    return list(order.split(_TOGETHER))


def _mixed(subjects: Subjects, data: FaceDataModule, rows: Tensor) -> Batch:
    """Mix images as training images are; few that are left over at the end are mixed with the first ones too.

    Returns:
        A batch that begins with the images `rows`.

    Raises:
        ValueError: there are fewer images than are in a mix.
    """
    more = max(0, data.desensitizer.mixes - len(rows))
    others = torch.arange(len(subjects))
    rows = torch.cat([rows, others[~torch.isin(others, rows)][:more]])
    raw = subjects.raw(rows)
    index = rows.to(raw.device)
    # whoever trains on mixes is told whom they are of, and how much of each: so is whoever attacks
    return data.desensitize_batch(
        {"image": raw, "index": index, "identity": subjects.labels[rows].to(raw.device)}, AS_TRAINED,
        reader=subjects.reader,
    )  # fmt: skip


@torch.inference_mode()
def measure(
    subjects: Subjects,
    data: FaceDataModule,
    attack: Attack | None,
    judges: Sequence[Judge] = (),
    recognisers: Sequence[Judge] = (),
    have: Stored | None = None,
    tick: Tick = no_tick,
    failed: dict[str, str] | None = None,
) -> Stored:
    """Desensitize every image, attack it, and measure what is seen then; whole batches on the device.

    Nothing of a face stays in the result: no pixel and no embedding, only metrics per image and per pair.

    Args:
        subjects: whose images.
        data: the method's, of which the desensitizer is used.
        attack: None for the released images as they are, or of a representation what its `look` shows.
        judges: who link what is seen to clean images; those that take what is released (`LinkJudge`) see that, and
            no attack's pictures.
        recognisers: who compare what is seen with what is seen (paper, Table 2).
        have: what was measured before with other judges; that is not measured again.
        tick: called with the number of images done.
        failed: takes `Judge.description` -> error of every judge that raised one; the others go on. Where it is None,
            the first error is raised.

    Returns:
        `dssim`, `psnr`, `lpips` (where it is installed) and, under a mask, `psnr_hidden` `[N]` against the clean image;
        for each judge, J standing
        for the start of its hash: `own/J` `[N]` cosine similarity with its own clean image, `rank/J` `[N]` int64
        rank of its person in the clean gallery (0 for the gallery's own images), `linked/J` `[P]` similarity of
        each pair's first image, clean, and its second, as seen; for each recogniser `pairs/J` `[P]`, both as
        seen. And all that was had before.
    """
    part, holes = dict(have or {}), Holes(failed)
    if attack is not None:  # its pictures are nothing that such a one has learnt to take
        recognisers = [one for one in recognisers if not one.of_released]
        judges = [one for one in judges if not one.of_released]
    wanted = {j.description: j for j in judges if f"own/{short_hash(j)}" not in part}
    looking = wanted | {r.description: r for r in recognisers if f"pairs/{short_hash(r)}" not in part}
    likeness = "dssim" not in part
    perceptual = perceptual_of(subjects) if "lpips" not in part else None
    if not looking and not likeness and perceptual is None:
        return part
    alike: dict[str, list[Tensor]] = {}
    of_pictures = {
        description: holes.around(one) for description, one in looking.items() if not one.of_released
    }
    linking = {description: holes.around(one) for description, one in wanted.items() if one.of_released}
    visits = _visits(subjects, data.desensitizer.mixes > 1)
    of_released = {
        description: holes.around(one)
        for description, one in looking.items()
        if one.of_released and description not in linking
    }

    def released() -> Iterator[list[Shown]]:
        for rows in visits:
            raw = subjects.raw(rows)
            desensitized = data.desensitized(raw, rows.to(raw.device), reader=subjects.reader)
            handed_out = _mixed(subjects, data, rows) if data.desensitizer.mixes > 1 else desensitized
            mask, which = handed_out["mask"], handed_out["mask_index"]
            seen = pictures_of(data, handed_out, attack, raw.shape[2:])[: len(rows)]
            which = which[: len(rows)]
            if likeness:
                _compare(raw.float() / 255, seen, mask, which, alike)
            if perceptual is not None:
                alike.setdefault("lpips", []).append(perceptual(raw.float() / 255, seen.float()).cpu())
            # an attacker's picture has no hidden pixel left, so the judge is told of none
            shown_mask = (mask, which) if attack is None else (None, None)
            own = (desensitized["mask"], desensitized["mask_index"]) if attack is None else (None, None)
            # a recogniser is used on images that are not mixed
            # one that links was trained on what is handed out, mixed where that is
            yield [Shown(seen, of_pictures, *shown_mask), Shown(desensitized["image"], of_released, *own),
                   Shown(handed_out["image"][: len(rows)], linking)]  # fmt: skip

    found = embed_images(released(), tick=tick)
    back = torch.argsort(torch.cat(visits))  # from the order visited to that of the images
    found = {name: values[back.to(values.device)] for name, values in found.items()}
    part |= {name: torch.cat(values)[back] for name, values in alike.items()}
    pairs, gallery = subjects.pairs, subjects.gallery
    for judge in looking.values():
        if holes.has(judge):
            continue
        with holes.beside(judge):
            embedded = _scaled(check_numbers(found[judge.description]), judge)
            short, by = short_hash(judge), judge.metric
            made = {f"pairs/{short}": similarity(embedded[pairs.a], embedded[pairs.b], by)}
            if judge.description in wanted:
                clean = subjects.embedded(judge)
                ranks = mate_ranks(embedded, subjects.labels, clean[gallery], subjects.labels[gallery], by)
                ranks[gallery] = 0  # the very picture, or its restoration, is no probe
                made |= {f"own/{short}": similarity(embedded, clean, by), f"rank/{short}": ranks}
                made[f"linked/{short}"] = similarity(clean[pairs.a], embedded[pairs.b], by)
            part |= made
    return part


def perceptual_of(subjects: Subjects) -> LPIPS | None:
    """Return the network that LPIPS is measured with, on the subjects' device; None, with a line, where there is none.

    Args:
        subjects: whose images; LPIPS takes none of less than 31 px.
    """
    if subjects.reader.size < SMALLEST:
        _once(f"LPIPS is left out: images of {subjects.reader.size} px, it takes {SMALLEST} or more.")
        return None
    try:
        return lpips_model().to(subjects.device)
    except Missing as error:
        _once(f"{error}. It is left out.")
        return None


def check_perceptual(size: int) -> None:
    """Check the weights that LPIPS is measured with, where there are any; where there are none it is left out.

    Args:
        size: side of the images in px.

    Raises:
        ValueError, OSError: they cannot be read, or are not the published ones.
    """
    if size >= SMALLEST:
        with suppress(Missing):
            published()


@cache
def _once(line: str) -> None:
    log.warning(line)


def measure_clean(
    subjects: Subjects,
    judges: Sequence[Judge],
    have: Stored | None = None,
    failed: dict[str, str] | None = None,
) -> Stored:
    """Let judges look at clean faces: what they cannot tell apart there says nothing about a method.

    Args:
        subjects: whose images.
        judges: who link faces.
        have: what was measured before with other judges; that is not measured again.
        failed: takes the errors of judges, see `measure`.

    Returns:
        For each judge, J standing for the start of its hash, `pairs/J` `[P]` and `rank/J` `[N]`, as `measure` has them;
        and all that was had before.
    """
    part, pairs, gallery = dict(have or {}), subjects.pairs, subjects.gallery
    holes = Holes(failed)
    for judge in judges:
        short = short_hash(judge)
        if f"pairs/{short}" in part:
            continue
        with holes.beside(judge):
            clean = subjects.embedded(judge)
            ranks = mate_ranks(clean, subjects.labels, clean[gallery], subjects.labels[gallery], judge.metric)
            ranks[gallery] = 0
            part[f"rank/{short}"] = ranks
            part[f"pairs/{short}"] = similarity(clean[pairs.a], clean[pairs.b], judge.metric)
    return part


def clean_key(subjects: Subjects) -> str:
    """Return what a part of `measure_clean` depends on beside its judges; 16 hex digits."""
    return _hex(f"{_FORM} {subjects.hash} clean")


def measured(folder: Path, label: str, key: str) -> tuple[Path, Stored]:
    """Find a part measured before.

    Args:
        folder: of the parts.
        label: a plain name for people; `key` alone decides.
        key: of `part_key`.

    Returns:
        Where it lies or will lie, and what it holds; empty where there is none.
    """
    path = folder / f"{label}-{key}.safetensors"
    return path, load_file(path) if path.is_file() else {}


def keep(path: Path, part: Stored) -> None:
    """Write a part, whole or not at all."""
    write_atomically(path, save({name: values.contiguous() for name, values in part.items()}))


def _compare(
    clean: Tensor, seen: Tensor, mask: Tensor | None, which: Tensor, alike: dict[str, list[Tensor]]
) -> None:
    alike.setdefault("dssim", []).append(dssim(clean, seen).cpu())
    alike.setdefault("psnr", []).append(psnr(clean, seen).cpu())
    if mask is not None:
        hidden = 1 - (mask if len(mask) == 1 else mask.index_select(0, which))
        alike.setdefault("psnr_hidden", []).append(psnr(clean, seen, hidden).cpu())


def short_hash(judge: Judge) -> str:
    """Return what stands for a judge in a part: the start of the hash of what it is."""
    return _hex(judge.description)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _scaled(embedding: Tensor, judge: Judge) -> Tensor:
    """Bring embeddings `[N,D]` to the CPU; to length 1 where only their direction counts."""
    return (F.normalize(embedding) if judge.metric == "cosine" else embedding).cpu()
