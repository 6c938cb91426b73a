"""Proof that nothing under the mask left, nor a name, nor anything else."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import get_console

from lightning_app.cli.fit_config import make_desensitizer
from lightning_app.core.files import write_atomically
from lightning_app.core.key_file import load_key
from lightning_app.core.plain import is_hash
from lightning_app.core.printing import printable
from lightning_app.core.progress import progress_bar
from lightning_app.desensitize.mask_kinds import mask_kind
from lightning_app.masks import load_mask
from lightning_app.release.audit.against_raw import find_names
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.run import Audit
from lightning_app.release.audit.run import audit as audit_release
from lightning_app.release.audit.verdict import compared_line, left_open, metrics
from lightning_app.release.format.marks import OF_TIMES
from lightning_app.release.format.method import is_known
from lightning_app.release.format.names import MANIFEST
from lightning_app.release.format.pseudonyms import Pseudonyms, refuse_inside
from lightning_app.release.format.signing import load_public_key
from lightning_app.studies.audit_config import read_part, reader_of
from lightning_app.studies.audit_raw import NOT_COMPARED, OwnersSide, compare_with_raw, names_of

_SHOWN = 20  # findings in the table; --json has them all
_LARGEST_REPORT = 1 << 28  # bytes
_SEED_BITS = 48  # of a seed drawn anew: nobody guesses the sample, and JSON holds the number


def audit(
    released: str,
    raw: str | None = None,
    key: str | None = None,
    config: str | None = None,
    public_key: str | None = None,
    mask: str | None = None,
    mask_hash: str | None = None,
    min_mask_ratio: float | None = None,
    sample: int = 64,
    compare_all: bool = False,
    seed: int | None = None,
    json_path: str | None = None,
    ignore_times: bool = False,
    workers: int | None = None,
    overrides: Sequence[str] = (),
    masker: str | None = None,
    accept_interference: bool = False,
) -> Audit:
    """Prove of a released set that it holds what its manifest says and nothing else, or say what is wrong, by file.

    Every file is decoded again: hidden pixels are 0, no chunk holds more than pixels, every file is listed and
    has the hash listed, the signature holds, and every value of the manifest is one that its schema allows. With
    the raw set, which only the owner has, no name of it occurs anywhere, and a sample of images, released again with
    noise under the mask, gives the same bytes. The first line of the verdict says how much is hidden, and what was
    not proven.

    Args:
        released: the released folder.
        raw: the raw set that was released, a folder of images per identity; takes key too, or nothing could be
            compared, which is a finding.
        key: the owner's key file, which made the pseudonyms; needs raw or config.
        config: the config of `desensitize`: its reader reads the raw set (by default FolderFaces, with crop
            and size of the manifest), and its desensitizer, mask and parameters must be the release's. What is given as
            `--reader…` and `--desensitizer…` goes over it.
        public_key: PEM file of the owner's public key: the release must be signed by it.
        mask: the mask file that was agreed on: the release must be under it, or under it widened by its guard.
        mask_hash: hash of the mask that was agreed on, 64 hexadecimal digits, as `mask_hash` in a mask's JSON.
        min_mask_ratio: share of the pixels that must be hidden at least, in [0,1]; by default 0.1.
        sample: how many images are released again.
        compare_all: release all images again, not a sample.
        seed: seed of the draw of these images, and of the noise; drawn anew each time by default, and printed.
        json_path: where to write verdict, findings, notes and metrics as JSON.
        ignore_times: do not check time stamps: a copy made without keeping them has others.
        workers: processes; by default one per CPU where there are files enough.
        overrides: of the config's reader and desensitizer, as `desensitize` takes them on its command line, such as
            `["--reader.init_args.root", "data/aligned"]`.
        masker: the masker of a release under a learned mask: its checkpoint, or its run's folder, whose hash must be
            the manifest's. Where images have a mask each it is run again; or give config, which names it.
        accept_interference: accept that an image's mask depends on what it hides, as was agreed (LearnedMask of kind
            free); else it is a finding.

    Returns:
        Findings, notes and counts.

    Raises:
        FileNotFoundError, ValueError: an argument cannot be used. Findings raise nothing.
        OSError: the JSON file cannot be written; raised after the verdict is shown.
    """
    if key is not None and raw is None and config is None:
        raise ValueError(f"key: {key} is of use with the raw set only; give --raw RAW_DIR too")
    if compare_all and key is None:
        raise ValueError(
            "--all: releases all images again, which takes --key and the raw set (--raw or --config)"
        )
    if masker is not None and key is None:
        raise ValueError(
            f"masker: {masker} is run again on the raw set, which takes --key and the raw set (--raw or --config)"
        )
    if masker is not None and not Path(masker).exists():
        raise FileNotFoundError(f"masker: {masker}: no such checkpoint, nor a run's folder")
    if sample < 1:
        raise ValueError(f"sample: {sample}; give at least 1 image")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: {workers}; give at least 1 process")
    if raw is not None and not Path(raw).is_dir():
        raise FileNotFoundError(f"raw: {raw}: no such folder; give the raw set that was released")
    if json_path is not None:
        refuse_inside(json_path, released, "--json")
        _refuse_other_files(json_path)
    if overrides and config is None:
        raise ValueError(f"{overrides[0]}: overrides what --config says; give --config too")
    part = None if config is None else read_part(config, overrides)
    agreed = _agreed(mask, mask_hash, min_mask_ratio, part)
    pseudonyms = None if key is None else Pseudonyms(load_key(key))
    signer = None if public_key is None else load_public_key(public_key)
    seed = secrets.randbits(_SEED_BITS) if seed is None else seed
    begun = time.monotonic()
    with progress_bar() as bar:
        advance: list[Callable[[int], None]] = []

        def begin(total: int) -> None:
            task = bar.add_task("Decoding every released image", total=total)
            advance.append(lambda done: bar.advance(task, done))

        found = audit_release(
            released, signer, agreed=agreed, times=not ignore_times, workers=workers, begin=begin,
            advance=lambda done: advance[-1](done),
        )  # fmt: skip
        if found.manifest is not None and (raw is not None or part is not None):
            reader = reader_of(raw, part, found)
            find_names(Path(released), found, names_of(raw, reader))
            if pseudonyms is None and raw is not None:
                found.add(
                    "images",
                    f"{NOT_COMPARED}: give the owner's --key as well; without --raw the release is checked by itself",
                )
            elif pseudonyms is None:
                found.notes.append("pixels were not compared with the raw set: give the owner's --key")
            else:
                images = found.manifest.images
                task = bar.add_task(
                    "Releasing a sample again", total=images if compare_all else min(sample, images)
                )
                owner = OwnersSide(
                    reader,
                    pseudonyms,
                    agreed,
                    part is not None,
                    masker,
                    None if compare_all else sample,
                    seed,
                )
                compare_with_raw(Path(released), found, owner, lambda done: bar.advance(task, done))
        elif found.manifest is not None:
            found.notes.append(
                "names and pixels were not compared with the raw set: its owner gives --raw and --key"
            )
    _unknown(found)
    _interference(found, accept_interference)
    found.findings.sort()
    found.unproven = left_open(found, agreed, signer is not None)
    report = metrics(found, found.unproven, agreed, time.monotonic() - begun)
    unwritten = None if json_path is None else _write(json_path, report)
    _print_verdict(released, found, str(report["verdict"]), None if unwritten else json_path)
    if unwritten is not None:
        raise OSError(
            f"--json {json_path}: was not written ({unwritten.strerror}); the verdict above stands"
        ) from unwritten
    return found


def _refuse_other_files(json_path: str) -> None:
    """Refuse to write the report over anything but an earlier one: a key that is gone is gone."""
    path = Path(json_path)
    if not path.is_file():
        return
    content: object = None
    if path.stat().st_size <= _LARGEST_REPORT:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):  # no JSON, no report
            content = None
    if not isinstance(content, dict) or not {"verdict", "findings"} <= content.keys():
        raise FileExistsError(
            f"--json {json_path}: is there already, and is no report of an audit; give another name"
        )


def _write(json_path: str, report: dict[str, object]) -> OSError | None:
    """Write the report; the error that kept it from being written, for a full disk must not hide the verdict."""
    try:
        write_atomically(json_path, json.dumps(report, indent=2) + "\n")  # in ASCII: names may be no UTF-8
    except OSError as error:
        return error
    return None


def _unknown(found: Audit) -> None:
    """Find a release of a class that only --config knows, without a mask, of which nothing was compared."""
    manifest, compared = found.manifest, found.compared
    if (
        manifest is None
        or (manifest.mask, manifest.masks) != (None, None)
        or is_known(manifest.method["method"])
    ):
        return
    if (compared is None or not compared.images) and not any(
        "nothing shows" in f.what for f in found.findings
    ):
        found.add(
            MANIFEST,
            "it has no mask, and nothing shows that its faces are desensitized: give --raw and --key as well",
        )


def _interference(found: Audit, accepted: bool) -> None:
    """Find masks that are made of what they hide, where nobody said that this was agreed on."""
    manifest = found.manifest
    each = {} if manifest is None or manifest.masks is None else manifest.method
    unbounded = not mask_kind(each).bounded
    if unbounded and not accepted:
        found.add(MANIFEST, f"an image's mask depends on what it hides (kind {each['kind']}), and may be a drawing of "
                  "it: --accept-interference where that was agreed on")  # fmt: skip
    if accepted and not unbounded:
        found.notes.append("--accept-interference was not needed: no mask is of kind free")


def _agreed(
    mask: str | None, mask_hash: str | None, min_mask_ratio: float | None, part: dict[str, Any] | None
) -> Agreed:
    """Read what was agreed on."""
    if mask_hash is not None and not is_hash(mask_hash):
        raise ValueError(
            f"mask_hash: {mask_hash[:80]!r} is not 64 hexadecimal digits in lower case; a mask's JSON has it"
        )
    if min_mask_ratio is not None and not 0 <= min_mask_ratio <= 1:
        raise ValueError(f"min_mask_ratio: {min_mask_ratio} is not a share in [0,1]")
    method = None if part is None else part.get("desensitizer")
    return Agreed(
        mask=None if mask is None else load_mask(mask), mask_hash=mask_hash, min_mask_ratio=min_mask_ratio,
        desensitizer=None if not method else make_desensitizer(method),
    )  # fmt: skip


def _print_verdict(released: str, found: Audit, verdict: str, json_path: str | None) -> None:
    console = get_console()
    if found.findings:
        lines, file = [f"audit of {released}: faults found"], ""
        for finding in found.findings[:_SHOWN]:
            lines += [f"  {finding.file}"] if finding.file != file else []
            lines.append(f"    {finding.what}")
            file = finding.file
        for line in lines:  # a name as it is, so that it can be copied
            console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        if more := len(found.findings) - _SHOWN:
            where = f"all of them: {json_path}" if json_path else "--json PATH writes them all"
            if more > 0:
                console.print(f"and {more} more; {where}", markup=False, highlight=False)
    compared = compared_line(found)
    hints = ["only time stamps differ, as in a copy made without them: --ignore-times checks all else"]
    for line in (
        verdict, *([compared] if compared else []), *(hints if only_times(found) else []),
        *(f"note: {note}" for note in found.notes),
    ):  # fmt: skip
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def only_times(found: Audit) -> bool:
    """Return whether time stamps are the only findings.

    Args:
        found: by the audit.
    """
    return bool(found.findings) and all(OF_TIMES in finding.what for finding in found.findings)
