"""The batches of a release: which are done, as the journal says and the disk confirms, and those that are left."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lightning_app.core.files import file_sha256, write_atomically
from lightning_app.release.format.each_mask import Masks, mask_file
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.signing import fingerprint
from lightning_app.release.format.tensors import PAIRS
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.each import EachDesensitizer
from lightning_app.release.write.finish import PARTS, open_release, write_codes, write_mask
from lightning_app.release.write.journal import Done, Journal
from lightning_app.release.write.pairs import pairs_of_plan
from lightning_app.release.write.work import Work, work_through

LOSSY_WEBP, NOT_UPRIGHT = "lossy WebP", "not upright (EXIF)"  # as `datamodules.readers.decode` words them
_CHECKED = 4096  # batches compared between two reports of progress
Progress = Callable[[str, int, int], None]


class NothingToRelease(ValueError):
    """No image of a set can be released."""


class BatchWriter:
    """The images of a release, batch after batch in the plan's order.

    Args:
        work: the batches.
        journal: what is done of them.
        progress: told what is done, how many images of it, of how many.

    Attributes:
        count: images done.
        bad: what was refused, by place in the plan.
    """

    def __init__(self, work: Work, journal: Journal, progress: Progress | None) -> None:
        count = len(work.plan)
        self.work, self.journal, self.total = work, journal, count
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.digests = np.zeros((count, 32), np.uint8)  # SHA-256 of each file
        self.each = work.desensitize if isinstance(work.desensitize, EachDesensitizer) else None
        self.mask_digests = np.zeros((count if self.each else 0, 32), np.uint8)  # of each image's mask
        self.channels = np.zeros(count, np.uint8)  # of each file; 0 where there is none
        self.sources = np.full((count, 2), -1, np.int64)  # of each: bytes and time of its source
        self.done = np.zeros(len(work), np.bool_)  # which batches are done
        self.bad: dict[int, Done] = {}  # by place in the plan
        self.count = 0  # images done

    def take_up(self) -> int:
        """Take over what the journal says and the disk confirms; tell how many images that is."""
        for batch, images in self.journal.batches():
            if batch < len(self.done) and len(images) == len(self.work.places(batch)):
                self._note(batch, images)
        begun, self.count = np.flatnonzero(self.done), 0
        with ThreadPoolExecutor(cpus()) as pool:  # hashing and reading let the interpreter's lock go
            for part in np.array_split(begun, -(-len(begun) // _CHECKED) or 1):
                self.done[part] = list(pool.map(self._is_there, part.tolist()))
                self.count += sum(len(self.work.places(batch)) for batch in part[self.done[part]].tolist())
                self.progress("checking", self.count, self.total)
        return self.count

    @property
    def clipped(self) -> float:
        """Share of the values released that were cut off; none of pictures."""
        return 0.0

    def size_note(self) -> str:
        """Return how large the release will be, where that is known beforehand."""
        return ""

    def check_room(self) -> int:
        """Return how many bytes are still to be written, where that is known; 0 of pictures, which are compressed."""
        return 0

    def write(self, workers: int) -> int:
        """Make what is left; tell how many images that was."""
        open_release(self.work.output)
        left = np.flatnonzero(~self.done).tolist()
        if not left:
            return 0
        kept = self.count
        (self.work.output / PARTS).mkdir(parents=True)
        try:
            for batch, images in work_through(self.work, left, workers):
                self.journal.add(batch, images)
                self._note(batch, images)
                self.count += len(images)
                self.progress("writing", self.count, self.total)
        finally:
            open_release(self.work.output)
        return self.count - kept

    def refused(self) -> list[tuple[str, str, str]]:
        """List the files refused: those that could not be taken, and those that are no images of the set."""
        reader, plan = self.work.reader, self.work.plan
        found = [(reader.name(plan.index(at)), done.reason, done.message) for at, done in self.bad.items()]
        return sorted(found + [(path, reason, "") for path, reason in reader.passed_over()])

    def good(self, refused: dict[str, int]) -> list[int]:
        """List the places of what is released.

        Args:
            refused: reason -> how many files were refused for it.

        Raises:
            NothingToRelease: there is nothing.
        """
        good: list[int] = np.flatnonzero(self.channels).tolist()
        if not good:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(refused.items()))
            hint = "; give originals, or --allow_lossy_webp" if LOSSY_WEBP in refused else ""
            hint += "; `align` writes them upright" if NOT_UPRIGHT in refused else ""
            raise NothingToRelease(f"no image of the set can be released ({reasons}){hint}")
        return good

    def manifest(
        self, facts: dict[str, Any], refused: dict[str, int], guard: int, signer: Ed25519PrivateKey | None
    ) -> Manifest:
        """Write the mask and word the manifest.

        Args:
            facts: entries that are known beforehand.
            refused: reason -> how many files were refused for it.
            guard: of the mask, in pixels.
            signer: signs it.

        Raises:
            ValueError: nothing can be released.
        """
        good = self.good(refused)
        names = [self.work.plan.file(place) for place in good]
        files = {name: self.digests[at].tobytes().hex() for name, at in zip(names, good, strict=True)}
        assert self.work.desensitize is not None
        mask = masks = None
        if self.each is not None:
            masks, hashes = self._masks(self.each, good, names)
            files |= hashes
        elif isinstance(self.work.desensitize, PixelDesensitizer) and self.work.desensitize.mask is not None:
            lies_on = self.work.desensitize.mask
            mask, hashes = write_mask(self.work.output, lies_on, guard, facts["method"]["method"])
            files |= hashes
        people = {name.split("/")[1] for name in names}
        return Manifest(
            **of_people(facts, people), channels=3 if (self.channels == 3).any() else 1, mask=mask, masks=masks,
            images=len(good), identities=len(people), refused=refused, files=files,
            signer=None if signer is None else fingerprint(signer.public_key()),
        )  # fmt: skip

    def _masks(
        self, each: EachDesensitizer, good: list[int], names: list[str]
    ) -> tuple[Masks, dict[str, str]]:
        """Write the codebook and the list of pairs, where there are any; list them, and the masks of images."""
        work = self.work
        files = {
            mask_file(name): self.mask_digests[at].tobytes().hex()
            for name, at in zip(names, good, strict=True)
        }
        files |= write_codes(work.output, each.codes)
        text = pairs_of_plan(work, self.bad)
        if text:
            write_atomically(work.output / PAIRS, text.encode())
            files[PAIRS] = hashlib.sha256(text.encode()).hexdigest()
        codes = 0 if each.codes is None else len(each.codes)
        return Masks(each.shown, work.batch_size, codes, text.count("\n")), files

    def _note(self, batch: int, images: list[Done]) -> None:
        for place, done in zip(self.work.places(batch), images, strict=True):
            self.channels[place] = done.channels
            self.sources[place] = done.size, done.mtime_ns
            self.bad.pop(place, None)
            if done.channels:
                self.digests[place] = np.frombuffer(bytes.fromhex(done.sha256), np.uint8)
                if self.each is not None and done.mask:
                    self.mask_digests[place] = np.frombuffer(bytes.fromhex(done.mask), np.uint8)
            else:
                self.bad[place] = done
        self.done[batch] = True

    def _is_there(self, batch: int) -> bool:
        """Compare a batch's files with the journal's hashes, and their sources with what they were."""
        for place in self.work.places(batch):
            name = self.work.plan.file(place)
            if self.work.source(place) != tuple(self.sources[place].tolist()):
                return False
            if not self.channels[place]:
                if not self.work.is_refused(place, self.bad[place].reason):
                    return False
            elif not self._holds(name, self.digests[place].tobytes()):
                return False
            if self.each is None or not self.channels[place]:
                continue
            if not self._holds(mask_file(name), self.mask_digests[place].tobytes()):
                return False
        return True

    def _holds(self, name: str, digest: bytes) -> bool:
        """Return whether a file is there, and is what the journal says."""
        path = self.work.output / name
        return path.is_file() and not path.is_symlink() and file_sha256(path) == digest.hex()


def of_people(facts: dict[str, Any], people: Collection[str]) -> dict[str, Any]:
    """Leave out the names of classes of which no image is released.

    Args:
        facts: of a manifest.
        people: pseudonyms of those that are.
    """
    classes = facts.get("classes")
    return (
        facts if classes is None else facts | {"classes": {p: n for p, n in classes.items() if p in people}}
    )


def cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
