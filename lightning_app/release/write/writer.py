"""A whole image set to a released one: desensitized, renamed, encoded, hashed; gone on with after a kill."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock, Timeout

from datamodules.readers.base import FaceReader
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.manifest import OTHER, REASONS, Manifest, guard_of, made_with
from lightning_app.release.format.method import describe
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.signing import fingerprint
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.finish import PARTS, finish, make_room, open_release, write_mask
from lightning_app.release.write.journal import Done, Journal
from lightning_app.release.write.plan import Plan
from lightning_app.release.write.preflight import (
    be_strict,
    check_arguments,
    check_people,
    check_signature,
    warn_of_resize,
)
from lightning_app.release.write.work import Work, work_through

JOURNAL = "journal.jsonl"
LOSSY_WEBP = "lossy WebP"  # as `datamodules.readers.decode` words it
_PATIENCE = 10.0  # seconds: processes may outlive a killed parent for one, and hold its lock
_CHECKED = 4096  # batches compared between two reports of progress
_FULL = (errno.ENOSPC, errno.EDQUOT)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Release:
    """What `write_release` did.

    Attributes:
        manifest: of the release.
        plan: which image became which file.
        refused: (file, reason, message) of every file that was refused; for the owner alone.
        made: images desensitized and written by this call.
        kept: images that an earlier call had written.
    """

    manifest: Manifest
    plan: Plan
    refused: list[tuple[str, str, str]]
    made: int
    kept: int


def write_release(
    reader: FaceReader,
    desensitizer: Desensitizer,
    output: str | Path,
    owner: str | Path,
    key: bytes,
    *,
    signer: Ed25519PrivateKey | None = None,
    compression: int = 1,
    batch_size: int = 8,
    workers: int | None = None,
    allow_lossy_webp: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Release:
    """Write a released set; one that was stopped is gone on with.

    Pixels are those that `FaceDataModule` makes on the fly in a validation: the reader's, to [0,1],
    desensitized, rounded to the uint8 grid. At most 4 · `workers` batches are under way, so memory holds some 80
    bytes an image beside them, and the manifest at the end. Gone on with, an image is made again where its released
    file or its source has changed, or where it was refused and can be read now.

    Args:
        reader: the raw set; its `strict` is switched on.
        desensitizer: how images are desensitized; put into `eval()`, probed with every batch, see `PixelDesensitizer`.
        output: the folder that may leave the house.
        owner: the folder that stays: journal of what is done.
        key: 32 bytes that pseudonyms are made with.
        signer: signs the manifest.
        compression: zlib's level, see `encode_png`.
        batch_size: images desensitized at a time; small ones stay in the processor's cache.
        workers: processes; by default one per CPU that this one may use, 0 works in this one.
        allow_lossy_webp: also release WebP images that are coded with loss, whose visible pixels carry traces of
            hidden ones; they are refused otherwise.
        overwrite: begin anew, and replace a release that is there.
        progress: called with what is done (`checking`, `writing`), how many images of it, of how many.

    Raises:
        FileExistsError: the output holds something that is not this release's beginning.
        OSError: the disk is full, or cannot be written.
        ValueError: of these a release cannot be made, it was begun with other settings, no image is good, or the
            desensitizer lets hidden pixels through: nothing of that batch is written.
    """
    output, owner = Path(output), Path(owner)
    check_arguments(reader, output, owner, compression, batch_size, workers)
    desensitize = PixelDesensitizer(desensitizer, reader.size)
    be_strict(reader, allow_lossy_webp)
    check_people(reader.open())
    plan = Plan(reader, Pseudonyms(key))
    crop = getattr(reader, "crop", None)
    facts: dict[str, Any] = {
        "method": describe(desensitizer, reader.size, desensitize.mask), "size": reader.size,
        "compression": compression,
        "crop": list(crop) if isinstance(crop, tuple | list) else crop, "versions": made_with(),
    }  # fmt: skip
    header = facts | {
        "output": str(output.resolve()), "key": Pseudonyms(key).fingerprint, "images": plan.hash,
        "batch_size": batch_size,
    }  # fmt: skip
    if allow_lossy_webp:  # left out otherwise, as in journals from before it could be asked for
        header["allow_lossy_webp"] = True
    check_signature(output, signer, overwrite)
    guard = guard_of(facts["method"])
    if desensitize.mask is not None:
        warn_of_resize(reader, guard)
    with _alone(owner, output), closing(Journal(owner / JOURNAL, header, overwrite)) as journal:
        writer = _Writer(Work(reader, desensitize, plan, output, compression, batch_size), journal, progress)
        try:
            if journal.is_new:
                make_room(output, overwrite)
            journal.open()
            kept = writer.take_up()
            made = writer.write(cpus() if workers is None else workers)
            refused = writer.refused()
            manifest = writer.manifest(facts, _counts(refused), guard, signer)
            finish(output, manifest, signer, (plan.file(place) for place in writer.bad))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OSError(
                f"no space left on the disk ({error.strerror}): {writer.count} of {len(plan)} images are done in "
                f"{output}; make room and give the same command again, it goes on from there"
            ) from error
    return Release(manifest, plan, refused, made, kept)


def _counts(refused: list[tuple[str, str, str]]) -> dict[str, int]:
    return dict(Counter(reason if reason in REASONS else OTHER for _, reason, _ in refused))


@contextmanager
def _alone(owner: Path, output: Path) -> Iterator[None]:
    """Keep a second `desensitize` out of the owner's folder, and out of the released one."""
    released = output.resolve()
    locks = {  # the released folder holds nothing but the release, so its lock lies beside it
        FileLock(owner / "desensitize.lock"): (owner, "--name"),
        FileLock(released.parent / f".{released.name}.desensitize.lock"): (output, "--output"),
    }
    with ExitStack() as held:
        for lock, (folder, argument) in locks.items():
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(lock.acquire(timeout=_PATIENCE))
            except Timeout as error:
                raise ValueError(
                    f"{folder}: another desensitize is at work there; wait for it, or give another {argument}"
                ) from error
        yield


class _Writer:
    """The images of a release, batch after batch in the plan's order."""

    def __init__(self, work: Work, journal: Journal, progress: Progress | None) -> None:
        count = len(work.plan)
        self.work, self.journal, self.total = work, journal, count
        self.progress: Progress = progress or (lambda what, done, total: None)
        self.digests = np.zeros((count, 32), np.uint8)  # SHA-256 of each file
        self.channels = np.zeros(count, np.uint8)  # of each file; 0 where there is none
        self.sources = np.full((count, 2), -1, np.int64)  # of each: bytes and time of its source
        self.whole = np.zeros(len(work), np.bool_)  # which batches are done
        self.bad: dict[int, Done] = {}  # by place in the plan
        self.count = 0  # images done

    def take_up(self) -> int:
        """Take over what the journal says and the disk confirms; tell how many images that is."""
        for batch, images in self.journal.batches():
            if batch < len(self.whole) and len(images) == len(self.work.places(batch)):
                self._note(batch, images)
        begun, self.count = np.flatnonzero(self.whole), 0
        with ThreadPoolExecutor(cpus()) as pool:  # hashing and reading let the interpreter's lock go
            for part in np.array_split(begun, -(-len(begun) // _CHECKED) or 1):
                self.whole[part] = list(pool.map(self._is_there, part.tolist()))
                self.count += sum(len(self.work.places(batch)) for batch in part[self.whole[part]].tolist())
                self.progress("checking", self.count, self.total)
        return self.count

    def write(self, workers: int) -> int:
        """Make what is left; tell how many images that was."""
        open_release(self.work.output)
        left = np.flatnonzero(~self.whole).tolist()
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

    def manifest(
        self, facts: dict[str, Any], refused: dict[str, int], guard: int, signer: Ed25519PrivateKey | None
    ) -> Manifest:
        """Write the mask and word the manifest."""
        good = np.flatnonzero(self.channels).tolist()
        if not good:
            reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(refused.items()))
            hint = "; give originals, or --allow_lossy_webp" if LOSSY_WEBP in refused else ""
            raise ValueError(f"no image of the set can be released ({reasons}){hint}")
        names = [self.work.plan.file(place) for place in good]
        files = {name: self.digests[at].tobytes().hex() for name, at in zip(names, good, strict=True)}
        mask, lies_on = None, self.work.desensitize.mask
        if lies_on is not None:
            mask, hashes = write_mask(self.work.output, lies_on, guard, facts["method"]["method"])
            files |= hashes
        return Manifest(
            **facts, channels=3 if (self.channels == 3).any() else 1, mask=mask, images=len(good),
            identities=len({name.split("/")[1] for name in names}), refused=refused, files=files,
            signer=None if signer is None else fingerprint(signer.public_key()),
        )  # fmt: skip

    def _note(self, batch: int, images: list[Done]) -> None:
        for place, done in zip(self.work.places(batch), images, strict=True):
            self.channels[place] = done.channels
            self.sources[place] = done.size, done.mtime_ns
            self.bad.pop(place, None)
            if done.channels:
                self.digests[place] = np.frombuffer(bytes.fromhex(done.sha256), np.uint8)
            else:
                self.bad[place] = done
        self.whole[batch] = True

    def _is_there(self, batch: int) -> bool:
        """Compare a batch's files with the journal's hashes, and their sources with what they were."""
        for place in self.work.places(batch):
            path = self.work.output / self.work.plan.file(place)
            if self.work.source(place) != tuple(self.sources[place].tolist()):
                return False
            if not self.channels[place]:
                if not self.work.is_refused(place, self.bad[place].reason):
                    return False
            else:
                if not path.is_file() or path.is_symlink():
                    return False
                if hashlib.sha256(path.read_bytes()).digest() != self.digests[place].tobytes():
                    return False
        return True


def cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
