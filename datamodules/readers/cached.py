"""Decoded images kept in memory."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from datamodules.readers.bad_images import BadImage
from datamodules.readers.base import FaceReader, Pixels
from lightning_app.core.batch import Batch, labelled


class CachedReader(FaceReader):
    """Keep the decoded images of a reader in memory, one uint8 tensor shared by all workers.

    Filled when made, with threads. A set that is grey throughout takes one channel, any other three.

    Args:
        reader: what to keep.
        threads: how many decode at a time; by default one per CPU.

    Attributes:
        pixels: uint8 `[N,1 or 3,size,size]`, each bad image's place holding its replacement.
        bad: `[K]` int64, numbers of the images that could not be decoded.
        given: `[N]` int64, the class that came with each image.
        given_people: `[N]` int64, who came with each, see `FaceReader.who`; None where the classes are the people.

    Raises:
        ValueError: the images do not fit into the memory available; names the size needed.
    """

    def __init__(self, reader: FaceReader, threads: int | None = None) -> None:
        self.reader = reader
        self.size = reader.size
        self.identities = reader.identities
        self.labels = reader.labels
        self.on_bad_image, self.stored, self.crop = reader.on_bad_image, reader.stored, reader.crop
        self.released, self.own_masks, self.few_masks = reader.released, reader.own_masks, reader.few_masks
        self.classes_are_people, self.person = reader.classes_are_people, reader.person
        self.pixels, self.bad, self.given, people, masks = _fill(reader, threads or os.cpu_count() or 1)
        self.bits = masks.bits() if reader.own_masks else None
        self.mask_of = masks.places() if reader.own_masks else None
        self.given_people = None if reader.classes_are_people else people
        self._known = frozenset(self.bad.tolist())

    def places(self) -> list[Path]:
        """Return where the images were read from."""
        return self.reader.places()

    def read(self, index: int) -> Pixels:
        """Return one image of the cache.

        Raises:
            BadImage: it could not be decoded; in batches the place holds its replacement.
        """
        if self.number(index) in self._known:
            raise BadImage(f"{self.name(index)}: cannot be decoded")
        kept: Pixels = self.pixels[index].cpu().numpy()
        return kept

    def name(self, index: int) -> str:
        """Return the name of an image, see `FaceReader.name`."""
        return self.reader.name(index)

    def why_bad(self, index: int) -> str:
        """Return the name of an image that could not be decoded, see `FaceReader.why_bad`."""
        return self.reader.why_bad(index)

    def encoded(self, index: int) -> bytes | None:
        """Return the bytes of an image's file, see `FaceReader.encoded`."""
        return self.reader.encoded(index)

    def file(self, index: int) -> str:
        """Return the path of an image's file, see `FaceReader.file`."""
        return self.reader.file(index)

    def stable_name(self, index: int) -> str:
        """Return the name of an image within its set, see `FaceReader.stable_name`."""
        return self.reader.stable_name(index)

    def stable_names(self) -> Iterator[str]:
        """Yield all stable names in order."""
        return self.reader.stable_names()

    def content(self, index: int) -> bytes:
        """Return an image as it is stored."""
        return self.reader.content(index)

    def pixel_facts(self) -> dict[str, object]:
        """Return what the cached reader returns."""
        return self.reader.pixel_facts()

    def mixed_labels(self, indices: Sequence[int]) -> Batch:
        """Return the labels of mixes, see `FaceReader.mixed_labels`."""
        return self.reader.mixed_labels(indices)

    def masks(self, indices: Sequence[int]) -> Batch:
        """Return the masks of images, see `FaceReader.masks`; of one that was replaced that of its replacement."""
        if self.bits is None or self.mask_of is None:
            return {}
        at = torch.tensor(indices, dtype=torch.int64).to(self.mask_of.device)
        found = self.masks_at(at)
        found["mask_bits"], found["mask_index"] = found["mask_bits"].cpu(), found["mask_index"].cpu()
        return found

    def masks_at(self, row: Tensor) -> Batch:
        """Return the masks of images, on the device that they lie on; nothing where none has one of its own.

        Args:
            row: `[B]` int64, positions in this reader.
        """
        if self.bits is None or self.mask_of is None:
            return {}
        places = self.mask_of.index_select(0, row)
        if self.few_masks:
            return {"mask_bits": self.bits, "mask_index": places}
        index = torch.arange(len(places), device=places.device)
        return {"mask_bits": self.bits.index_select(0, places), "mask_index": index}

    def number(self, index: int) -> int:
        """Return the image's number in the whole reader."""
        return self.reader.number(index)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Gather a batch from memory, equal to what the reader gives."""
        at = torch.tensor(indices, dtype=torch.int64)
        numbers = torch.tensor([self.number(index) for index in indices], dtype=torch.int64)
        return {
            "image": self.pixels[at.to(self.pixels.device)]
            .cpu()
            .expand(-1, self.pixel_shape[0], -1, -1)
            .contiguous(),
            **labelled(self.given[at], None if self.given_people is None else self.given_people[at]),
            "index": numbers,
            "bad": numbers[torch.isin(numbers, self.bad)],
            **self.mixed_labels(indices),
            **self.masks(indices),
        }

    def to(self, device: torch.device) -> None:
        """Keep the pixels on a device, and nowhere else; those already there stay where they are.

        Raises:
            ValueError: they do not fit into its free memory; names the size needed.
        """
        if self.pixels.device == device:
            return
        needed, free = self.pixels.nbytes, float("inf")
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
        try:
            moved = self.pixels.to(device) if needed <= free else None
        except torch.cuda.OutOfMemoryError:
            moved = None
        if moved is None:
            count, *shape = self.pixels.shape
            there = f"{free / 2**30:.1f} GiB are free there" if free < float("inf") else "it has not so much"
            raise ValueError(
                f"data.cache: device: {count} images of {'×'.join(map(str, shape))} take {needed / 2**30:.1f} GiB on "
                f"{device}, {there}: give data.cache: true, or a smaller size"
            )
        self.pixels = moved
        if self.bits is not None and self.mask_of is not None:
            self.bits, self.mask_of = self.bits.to(device), self.mask_of.to(device)


class _Masks:
    """The packed masks of a set, gathered batch by batch: each once where a few serve all images, else one each."""

    def __init__(self) -> None:
        self._bits: list[Tensor] = []
        self._places: list[Tensor] = []
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Take those of a batch."""
        bits, index = batch["mask_bits"], batch["mask_index"]
        if self._bits and bits.shape == self._bits[0].shape and torch.equal(bits, self._bits[0]):
            self._places.append(index)
            return
        self._bits.append(bits)
        self._places.append(index + self._count)
        self._count += len(bits)

    def bits(self) -> Tensor:
        """Return all masks, `[M,…]`."""
        return torch.cat(self._bits)

    def places(self) -> Tensor:
        """Return which of them lies on each image, `[N]` int64."""
        return torch.cat(self._places)


def _fill(reader: FaceReader, threads: int, chunk: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor, _Masks]:
    """Decode a whole reader: pixels `[N,1 or 3,size,size]`, numbers of the bad, class, person and mask of each."""
    count = len(reader)
    _, height, width = reader.pixel_shape
    channels, dtype = 1 if reader.stored is None else reader.stored.shape[0], reader.pixel_dtype
    pixels = _allocate(count, (channels, height, width), dtype)
    given, people = torch.empty(2, count, dtype=torch.int64)
    bad: list[Tensor] = []
    masks = _Masks()
    chunks = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    with ThreadPoolExecutor(threads) as pool:
        for rows, batch in zip(chunks, _ahead(pool, reader.__getitems__, chunks, 2 * threads), strict=True):
            image = batch["image"]
            if reader.stored is None and pixels.shape[1] == 1 and not bool((image == image[:, :1]).all()):
                kept = pixels
                pixels = _allocate(count, reader.pixel_shape, dtype)
                pixels[: rows.start] = kept[: rows.start]
                del kept
            pixels[rows.start : rows.stop] = image[:, : pixels.shape[1]]
            classes = batch["identity"] if reader.classes_are_people else batch["target"]
            given[rows.start : rows.stop] = classes
            people[rows.start : rows.stop] = batch["identity"]
            bad.append(batch["bad"])
            if "mask_bits" in batch:
                masks.add(batch)
    return pixels, torch.cat(bad) if bad else torch.empty(0, dtype=torch.int64), given, people, masks


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Sequence[int]], Batch], items: Sequence[range], depth: int
) -> Iterator[Batch]:
    """Map in order with at most `depth` results waiting: `pool.map` would hold the whole set twice."""
    waiting = [pool.submit(work, item) for item in items[:depth]]
    for following in range(depth, len(items) + depth):
        if not waiting:
            return
        yield waiting.pop(0).result()
        if following < len(items):
            waiting.append(pool.submit(work, items[following]))


def available_memory() -> int:
    """Return how many bytes can be allocated without swapping, as the system or the container's limit says."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{what}") for what in ("max", "current"))
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def _allocate(count: int, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    needed = count * math.prod(shape) * dtype.itemsize
    available = available_memory()
    if needed > available:
        raise ValueError(
            f"cache: {count} images of {'×'.join(map(str, shape))} take {needed / 2**30:.1f} GiB, "
            f"{available / 2**30:.1f} GiB are available: switch the cache off or take a smaller size"
        )
    shared = Path("/dev/shm")
    # where /dev/shm is too small (containers give 64 MB), writing to it would kill the process;
    # private memory filled before the workers fork is shared with them just as well
    fits = not shared.exists() or shutil.disk_usage(shared).free > needed
    pixels = torch.empty(count, *shape, dtype=dtype)
    if fits:
        pixels.untyped_storage().share_memory_()
    return pixels
