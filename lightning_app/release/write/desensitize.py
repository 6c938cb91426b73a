"""A whole aligned image set to the released set that may leave the house."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from datamodules.readers.base import FaceReader
from lightning_app.core.csv_text import csv_text
from lightning_app.core.files import PRIVATE, is_plain_name, write_atomically
from lightning_app.core.key_file import load_key, make_key
from lightning_app.core.printing import counted
from lightning_app.core.progress import progress_bar
from lightning_app.desensitize import Desensitizer
from lightning_app.desensitize.mask_kinds import mask_kind
from lightning_app.release.format.method import each_text
from lightning_app.release.format.names import MANIFEST
from lightning_app.release.format.pseudonyms import refuse_inside
from lightning_app.release.format.signing import load_signing_key
from lightning_app.release.format.tensors import LARGEST
from lightning_app.release.write.batch_writer import NothingToRelease
from lightning_app.release.write.finish import remove_if_empty
from lightning_app.release.write.writer import LOCK, LOSSY_WEBP, Release, write_release
from lightning_app.release.write.writer import Progress as Report
from lightning_app.report import print_table, write_metrics

log = logging.getLogger("faceveil")
_SHARE = 0.1  # of the images, between two lines in a log that shows no bar


def desensitize(
    reader: FaceReader,
    desensitizer: Desensitizer,
    output: str,
    key: str | None = None,
    sign_key: str | None = None,
    compression: int = 1,
    batch_size: int = 8,
    workers: int | None = None,
    allow_lossy_webp: bool = False,
    pseudonym_table: bool = False,
    name: str = "desensitize",
    runs: str = "runs",
    overwrite: bool = False,
    dtype: Literal["uint8", "float16"] | None = None,
    mix_once: bool = False,
    accept_interference: bool = False,
) -> Release:
    """Write the released set of an aligned image set: desensitized, pseudonymous PNG files with a manifest.

    Representations, and mixes, are written as tensors in safetensors shards instead, their values quantised; how
    large the release will be is told before. A keyed method needs its key as a file.

    Pixels equal those that `fit` makes on the fly with the same reader and desensitizer. Every batch is probed: with
    noise under the mask the same images must come, else the command ends and releases nothing of the batch. A method
    without a mask hides no pixel, so there is nothing to probe. A bad image is refused, never replaced.

    A release that was stopped is gone on with when the command is given again; images whose source has changed are
    made again, and refused ones tried again. What stays with the owner is in `runs/<name>/`: the key, `refused.csv`
    (file, reason, message), the journal, `metrics.json`. Next: `python main.py audit OUTPUT`.

    Args:
        reader: the raw set, such as datamodules.FolderFaces.
        desensitizer: how it is desensitized, such as lightning_app.desensitize.MaskOut; one mask for all images, or
            LearnedMask, whose masks are released beside their images.
        output: the folder that may leave the house.
        key: file of the key that pseudonyms are made with, made on first use; `runs/<name>/pseudonyms.key` by
            default. Keep it: with it, names can be matched with pseudonyms, and without it never again.
        sign_key: PEM file of an Ed25519 private key that signs the manifest; see --make-sign-key.
        compression: zlib's level, 0 … 9; 1 is fast, and for desensitized faces about as small as 6.
        batch_size: images desensitized at a time.
        workers: processes; one per CPU by default, 0 works in this one.
        allow_lossy_webp: also release WebP images that are coded with loss. There hidden pixels leave traces in visible
            ones, however far away: no guard keeps them out. They are refused otherwise.
        pseudonym_table: also write `runs/<name>/pseudonyms.csv`: file, pseudonym. It undoes the pseudonyms.
        name: name of the owner's folder; by default the config's.
        runs: folder in which `<name>/` lies.
        overwrite: begin anew, and replace a release that is there.
        dtype: type of stored representations: `uint8` or `float16`; by default uint8 where the method's values lie on
            a grid of 256 levels, as normalised channels do.
        mix_once: mix images once for all, where the method mixes (MixUp, InstaHide). Mixed labels and their shares
            travel with the images then: they tell who is in each mix, and how much. Without it a method that mixes is
            refused.
        accept_interference: also release images under masks that are made of what they hide (LearnedMask of kind
            `free`): a mask may be a drawing of it. The first line of every audit then says so.

    Raises:
        FileExistsError: the output holds something else.
        FileNotFoundError: the set, the mask or the key to sign with are not there.
        OSError: the disk is full, or cannot be written.
        ValueError: an argument is out of range, the release was begun with other settings, or no image is good.
    """
    if not is_plain_name(name):
        raise ValueError(f"name: {name!r}; give a plain name, the folder is {runs}/<name>")
    owner = Path(runs) / name
    key_path = Path(key) if key is not None else owner / "pseudonyms.key"
    for argument, path in (("the owner's folder", owner), ("--key", key_path), ("--sign-key", sign_key)):
        if path is not None:
            refuse_inside(path, output, argument)
    signer = None if sign_key is None else load_signing_key(sign_key)
    reader.open()
    started = time.monotonic()
    begun = owner.exists(), key_path.exists()
    with _bar() as report:
        try:
            release = write_release(
                reader, desensitizer, output, owner, _key(key_path), signer=signer, compression=compression,
                batch_size=batch_size, workers=workers, allow_lossy_webp=allow_lossy_webp, overwrite=overwrite,
                progress=report, dtype=dtype, mix_once=mix_once, accept_interference=accept_interference,
            )  # fmt: skip
        except NothingToRelease:
            _take_back(owner, key_path, *begun)
            raise
    seconds = time.monotonic() - started
    _write_csv(owner / "refused.csv", ("file", "reason", "message"), release.refused)
    if pseudonym_table:
        plan = release.plan
        rows = ((reader.stable_name(plan.index(place)), plan.label(place)) for place in release.places)
        _write_csv(owner / "pseudonyms.csv", ("file", "pseudonym"), rows)
    metrics = _metrics(release, seconds)
    write_metrics(owner / "metrics.json", metrics)
    _print_summary(release, Path(output), owner, metrics)
    return release


def _take_back(owner: Path, key: Path, had_owner: bool, had_key: bool) -> None:
    """Remove the folder and the key that this call made: nothing was released that they belong to."""
    if not had_key:
        key.unlink(missing_ok=True)
    if not had_owner:
        (owner / LOCK).unlink(missing_ok=True)
        remove_if_empty(owner)


def _key(path: Path) -> bytes:
    if path.exists():
        return load_key(path)
    made = make_key(path)
    log.info("A new key for pseudonyms: %s. Keep it, and keep it secret.", path)
    return made


@contextmanager
def _bar() -> Iterator[Report]:
    """Show a bar with the time left, or a line for every tenth where no terminal looks on."""
    with progress_bar() as bar:
        line = bar.add_task("reading the set", total=None)
        begun, reported = "", 0.0  # what is reported on, and the share that the last line told of

        def report(what: str, done: int, total: int) -> None:
            nonlocal begun, reported
            if what != begun:
                bar.reset(line, description=what, total=total, completed=done)  # its own time left
                begun, reported = what, done / total
            bar.update(line, completed=done)
            if not bar.console.is_terminal and (done / total >= reported + _SHARE or done == total):
                reported = done / total
                log.info("%s: %d of %d images", what, done, total)

        yield report


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    # names that are no UTF-8 are written as the file system has them
    write_atomically(path, csv_text([head, *rows]).encode("utf-8", "surrogateescape"), mode=PRIVATE)


def _metrics(release: Release, seconds: float) -> dict[str, float | str | None]:
    manifest = release.manifest
    metrics: dict[str, float | str | None] = {
        "release/images": manifest.images,
        "release/identities": manifest.identities,
        "release/refused": len(release.refused),
        "release/made": release.made,
        "release/kept": release.kept,
        "release/seconds": seconds,
        "release/images_per_s": release.made / seconds,
        "release/peak_memory_mb": _peak(resource.RUSAGE_SELF),
        "release/peak_memory_worker_mb": _peak(resource.RUSAGE_CHILDREN),
        "release/method": str(manifest.method["method"]),
        "release/signer": manifest.signer,
    }
    if manifest.tensors is not None:
        metrics["release/clipped"] = release.clipped
    if manifest.mask is not None:
        metrics |= {
            "release/mask_ratio": manifest.mask.mask_ratio,
            "release/mask_hash": manifest.mask.mask_hash,
        }
    if manifest.masks is not None:
        metrics["release/mask_ratio"] = manifest.method["mask_ratio"]
    return metrics | {f"release/refused/{reason}": count for reason, count in manifest.refused.items()}


def _peak(who: int) -> float:
    """Return the most memory of this process, or of the largest one it has waited for, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(who).ru_maxrss * unit / 1e6


def _print_summary(
    release: Release, output: Path, owner: Path, metrics: dict[str, float | str | None]
) -> None:
    manifest = release.manifest
    rows: list[list[object]] = [
        ["images", f"{manifest.images:,} of {manifest.identities:,} identities"],
        ["method", manifest.method["method"]],
    ]
    if manifest.mask is not None:
        guard = f", guard {manifest.mask.guard} px" if manifest.mask.guard else ""
        rows.append(
            ["mask ratio", f"{manifest.mask.mask_ratio:.4f}, hash {manifest.mask.mask_hash[:12]}{guard}"]
        )
    if manifest.masks is not None:
        rows.append(["masks", f"{each_text(manifest)}, {manifest.method['bits']:g} bits may be told by one"])
        if manifest.masks.pairs:
            rows.append(["pairs", f"{manifest.masks.pairs:,} to verify on"])
        if release.made:
            rows.append(["noise probe", mask_kind(manifest.method).probed])
    elif manifest.mask is None:
        rows.append(["noise probe", "none: without a mask every pixel released depends on the face"])
    if manifest.tensors is not None:
        tensors, kept = manifest.tensors, "×".join(map(str, manifest.tensors.shape))
        grid = f", value = (level − {tensors.offset}) / {tensors.scale}" if tensors.dtype == "uint8" else ""
        rows.append(["tensors", f"{kept} {tensors.dtype}{grid}, {counted(len(tensors.rows), 'shard')}"])
        beyond = "the grid" if tensors.dtype == "uint8" else f"±{LARGEST:g}, the largest float16"
        rows.append(["cut off", f"{release.clipped:.2%} of the values made now lay beyond {beyond}"])
        if tensors.mixed > 1:
            rows.append(
                ["mixed", f"{tensors.mixed} images each, once; the labels tell who is in a mix, and how much"]
            )
        if tensors.pairs:
            rows.append(["pairs", f"{tensors.pairs:,} to verify on"])
    elif manifest.mask is not None and release.made:
        rows.append(["noise probe", "passed with every batch: no hidden pixel reaches a visible one"])
    if release.kept:
        rows.append(["made earlier", f"{release.kept:,}"])
    rows += [
        ["made now", f"{release.made:,} in {metrics['release/seconds']:.1f} s, {metrics['release/images_per_s']:.0f} a "
                     "second"],
        ["most memory", f"{metrics['release/peak_memory_mb']:.0f} MB"],
        ["signed by", "nobody" if manifest.signer is None else manifest.signer[:16]],
        ["stays here", f"{owner} (key, refused.csv, journal)"],
    ]  # fmt: skip
    print_table(f"released: {output / MANIFEST}", rows, ["what", "value"])
    if manifest.refused:
        reasons = [[reason, count] for reason, count in sorted(manifest.refused.items())]
        print_table(f"refused, see {owner / 'refused.csv'}", reasons, ["reason", "files"])
    if lossy := manifest.refused.get(LOSSY_WEBP):
        log.warning(
            "%d images are refused as WebP coded with loss: hidden pixels leave traces all over them. Give their "
            "originals; --allow_lossy_webp releases them as they are.", lossy,
        )  # fmt: skip
