"""A whole image set to a released one: desensitized, renamed, encoded, hashed; gone on with after a kill."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock, Timeout

from datamodules.readers.base import FaceReader
from lightning_app.desensitize import Desensitizer
from lightning_app.release.format.entries import EACH, OTHER, REASONS, TENSORS, VERSION
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.method import describe
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.public import guard_of, made_with
from lightning_app.release.format.tensors import DType
from lightning_app.release.write.batch_writer import LOSSY_WEBP, BatchWriter, NothingToRelease, Progress, cpus
from lightning_app.release.write.desensitizing import PixelDesensitizer
from lightning_app.release.write.each import EachDesensitizer
from lightning_app.release.write.finish import finish, make_room, remove_if_empty
from lightning_app.release.write.journal import Journal
from lightning_app.release.write.keys import keep_keys_out
from lightning_app.release.write.plan import ReleasePlan, ShardPlan, released_classes
from lightning_app.release.write.preflight import (
    be_strict,
    check_arguments,
    check_people,
    check_signature,
    warn_of_resize,
)
from lightning_app.release.write.representing import Representer, needs_tensors
from lightning_app.release.write.shard_work import ShardWork
from lightning_app.release.write.shard_writer import ShardWriter, rows_of_a_shard
from lightning_app.release.write.work import Work

__all__ = ["JOURNAL", "LOSSY_WEBP", "Progress", "Release", "cpus", "write_release"]

log = logging.getLogger("faceveil")
LOCK = "desensitize.lock"  # in the owner's folder
JOURNAL = "journal.jsonl"
_PATIENCE = 10.0  # seconds: processes may outlive a killed parent for one, and hold its lock
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Release:
    """What `write_release` did.

    Attributes:
        manifest: of the release.
        plan: which image became which file.
        refused: (file, reason, message) of every file that was refused; for the owner alone.
        made: images desensitized and written by this call.
        kept: images that an earlier call had written.
        places: of the plan, of the images that are released.
        clipped: share of the values released that were cut off, being beyond the grid; 0 of pictures.
    """

    manifest: Manifest
    plan: ReleasePlan
    refused: list[tuple[str, str, str]]
    made: int
    kept: int
    places: list[int]
    clipped: float = 0.0


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
    dtype: DType | None = None,
    mix_once: bool = False,
    accept_interference: bool = False,
) -> Release:
    """Write a released set; one that was stopped is gone on with.

    What a desensitizer returns that is no picture, or is mixed, becomes shards of tensors: of each value what `stored`
    keeps, see `lightning_app.release.format.tensors`. Of the same raw set, key, machine and versions of packages the
    bytes are the same; elsewhere a value may fall on the next level.

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
        dtype: type of stored representations: `uint8` or `float16`; None takes uint8 where the method's values lie on
            a grid.
        mix_once: mix images once for all, where the method mixes; mixed labels with their shares are released then.
        accept_interference: also release images under masks that are made of what they hide (`LearnedMask` of kind
            `free`); such a release is marked.

    Raises:
        FileExistsError: the output holds something that is not this release's beginning.
        OSError: the disk is full, or has not the room that is needed, or cannot be written.
        NothingToRelease: no image is good; of the release nothing stays, in the owner's folder neither.
        ValueError: of these a release cannot be made, it was begun with other settings, or the
            desensitizer lets hidden pixels through: nothing of that batch is written.
    """
    output, owner = Path(output), Path(owner)
    check_arguments(reader, output, owner, compression, batch_size, workers)
    of_tensors = needs_tensors(desensitizer, reader)
    represent = None
    desensitize: PixelDesensitizer | EachDesensitizer | None = None
    each = desensitizer.masks_each and not of_tensors
    if accept_interference and not each:
        raise ValueError(
            f"accept_interference: true, but {type(desensitizer).__name__} gives no image a mask of its own; leave it "
            "out"
        )
    if of_tensors:
        represent = Representer(desensitizer, reader.size, dtype, mix_once)
        if compression != 1:
            raise ValueError(
                f"compression: {compression}, but representations are not compressed; leave it out"
            )
    else:
        _refuse_of_pictures(desensitizer, dtype, mix_once)
        if each:
            desensitize = EachDesensitizer(desensitizer, reader.size, accept_interference)
        else:
            desensitize = PixelDesensitizer(desensitizer, reader.size)
    keep_keys_out(desensitizer, output)
    mask = desensitize.mask if isinstance(desensitize, PixelDesensitizer) else None
    be_strict(reader, allow_lossy_webp)
    check_people(reader.open())
    work: Work
    if represent is None:
        work = Work(
            reader, desensitize, ReleasePlan(reader, Pseudonyms(key)), output, compression, batch_size
        )
    else:
        rows = rows_of_a_shard(represent.stored, represent.mixed)
        work = ShardWork(reader, represent, ShardPlan(reader, Pseudonyms(key), rows), output, batch_size)
    plan = work.plan
    crop = reader.crop
    classes = released_classes(reader, plan)
    number = TENSORS if of_tensors else VERSION
    facts: dict[str, Any] = {
        "method": describe(desensitizer, reader.size, mask, number, each), "size": reader.size,
        "compression": compression,
        "crop": list(crop) if isinstance(crop, tuple | list) else crop, "versions": made_with(),
    }  # fmt: skip
    if each or classes is not None:
        facts |= {"version": EACH, "classes": classes}
    header = facts | {
        "output": str(output.resolve()), "key": Pseudonyms(key).fingerprint, "images": plan.hash,
        "batch_size": batch_size,
    }  # fmt: skip
    if represent is not None:
        header["tensors"] = {"dtype": represent.stored.dtype, "mixed": represent.mixed, "rows": rows}
    if allow_lossy_webp:  # left out otherwise, as in journals from before it could be asked for
        header["allow_lossy_webp"] = True
    check_signature(output, signer, overwrite)
    guard = guard_of(facts["method"])
    if mask is not None or each:
        warn_of_resize(reader, guard)
    with _alone(owner, output), closing(Journal(owner / JOURNAL, header, overwrite)) as journal:
        writer = (ShardWriter if represent is not None else BatchWriter)(work, journal, progress)
        if said := writer.size_note():
            log.info(said)
        try:
            if journal.is_new:
                make_room(output, overwrite)
            journal.open()
            kept = writer.take_up()
            writer.check_room()
            made = writer.write(cpus() if workers is None else workers)
            refused = writer.refused()
            manifest = writer.manifest(facts, _counts(refused), guard, signer)
            finish(output, manifest, signer, (plan.file(place) for place in writer.bad if represent is None))
        except NothingToRelease:  # who mends the set begins anew, with whatever settings
            journal.remove()
            remove_if_empty(output)
            raise
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OSError(
                f"no space left on the disk ({error.strerror}): {writer.count} of {len(plan)} images are done in "
                f"{output}; make room and give the same command again, it goes on from there"
            ) from error
    places = [place for place in range(len(plan)) if place not in writer.bad]
    return Release(manifest, plan, refused, made, kept, places, writer.clipped)


def _refuse_of_pictures(desensitizer: Desensitizer, dtype: str | None, mix_once: bool) -> None:
    """Refuse what is said of tensors where pictures are released."""
    for argument, given in (("dtype", dtype), ("mix_once", "true" if mix_once else None)):
        if given is not None:
            raise ValueError(
                f"{argument}: {given}, but {type(desensitizer).__name__} returns pictures that are not mixed, "
                "and those are released as PNG; leave it out"
            )


def _counts(refused: list[tuple[str, str, str]]) -> dict[str, int]:
    return dict(Counter(reason if reason in REASONS else OTHER for _, reason, _ in refused))


@contextmanager
def _alone(owner: Path, output: Path) -> Iterator[None]:
    """Keep a second `desensitize` out of the owner's folder, and out of the released one."""
    released = output.resolve()
    locks = {  # the released folder holds nothing but the release, so its lock lies beside it
        FileLock(owner / LOCK): (owner, "--name"),
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
