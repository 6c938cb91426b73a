"""`python main.py audit RELEASED_DIR`: proof that nothing under the mask left, nor a name, nor anything else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich import get_console
from torch import Tensor

from datamodules.face import FaceDataModule
from datamodules.folder import FolderFaces
from datamodules.reader import FaceReader
from lightning_app.commands.parser import CommandParser, command_parser
from lightning_app.configs import find_config
from lightning_app.files import write_atomically
from lightning_app.foreign import read_yaml
from lightning_app.masks import load_mask
from lightning_app.printing import printable
from lightning_app.progress import progress_bar
from lightning_app.release.against_raw import compare_images, find_names
from lightning_app.release.audit import Audit
from lightning_app.release.audit import audit as audit_release
from lightning_app.release.manifest import MASK, image_file
from lightning_app.release.method import desensitizer_of
from lightning_app.release.pseudonyms import Pseudonyms, load_key, refuse_inside
from lightning_app.release.signing import load_public_key
from lightning_app.report import print_table
from lightning_app.setting import make_reader

_SHOWN = 20  # findings in the table; --json has them all


def audit(
    released: str,
    raw: str | None = None,
    key: str | None = None,
    config: str | None = None,
    public_key: str | None = None,
    sample: int = 64,
    seed: int = 0,
    json_path: str | None = None,
    ignore_times: bool = False,
    workers: int | None = None,
) -> Audit:
    """Prove of a released set that it holds what its manifest says and nothing else, or say what is wrong, by file.

    Every file is decoded again: hidden pixels are 0, no chunk holds more than pixels, every file is listed and
    has the hash listed, the signature holds. With the raw set, which only the owner has, no name of it occurs
    anywhere, and a sample of images, released again with noise under the mask, gives the same bytes.

    Args:
        released: the released folder.
        raw: the raw set that was released, a folder of images per identity.
        key: the owner's key file, which made the pseudonyms; needs raw or config.
        config: the config of `desensitize`, whose reader reads the raw set (by default FolderFaces, with crop
            and size of the manifest).
        public_key: PEM file of the owner's public key: the release must be signed by it.
        sample: how many images are released again.
        seed: of the draw of these images, and of the noise.
        json_path: where to write all findings, notes and counts as JSON.
        ignore_times: do not check time stamps: a copy made without keeping them has others.
        workers: processes; by default one per CPU where there are files enough.

    Returns:
        Findings, notes and counts.

    Raises:
        FileNotFoundError, ValueError: an argument cannot be used. Findings raise nothing.
    """
    if key is not None and raw is None and config is None:
        raise ValueError(f"key: {key} is of use with the raw set only; give --raw RAW_DIR too")
    if sample < 1:
        raise ValueError(f"sample: {sample}; give at least 1 image")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: {workers}; give at least 1 process")
    if raw is not None and not Path(raw).is_dir():
        raise FileNotFoundError(f"raw: {raw}: no such folder; give the raw set that was released")
    if json_path is not None:
        refuse_inside(json_path, released, "--json")
    pseudonyms = None if key is None else Pseudonyms(load_key(key))
    signer = None if public_key is None else load_public_key(public_key)
    begun, compared = time.monotonic(), 0
    with progress_bar() as bar:
        advance: list[Callable[[int], None]] = []

        def begin(total: int) -> None:
            task = bar.add_task("Decoding every released image", total=total)
            advance.append(lambda done: bar.advance(task, done))

        found = audit_release(
            released, signer, times=not ignore_times, workers=workers, begin=begin,
            advance=lambda done: advance[-1](done),
        )  # fmt: skip
        if found.manifest is not None and (raw is not None or config is not None):
            reader = _reader(raw, config, found)
            find_names(Path(released), found, _names(raw, reader))
            if pseudonyms is None:
                found.notes.append("pixels were not compared with the raw set: give the owner's --key")
            else:
                task = bar.add_task("Releasing a sample again", total=min(sample, found.manifest.images))
                compared = _compare(
                    Path(released),
                    found,
                    reader,
                    pseudonyms,
                    sample,
                    seed,
                    lambda done: bar.advance(task, done),
                )
        elif found.manifest is not None:
            found.notes.append(
                "names and pixels were not compared with the raw set: its owner gives --raw and --key"
            )
    found.findings.sort()
    figures = _figures(found, compared, time.monotonic() - begun)
    if json_path is not None:
        write_atomically(json_path, json.dumps(figures, indent=2) + "\n")  # in ASCII: names may be no UTF-8
    _tell(released, found, figures, json_path)
    return found


def _reader(raw: str | None, config: str | None, found: Audit) -> FaceReader:
    """Make the reader of the raw set: the config's, else of folders as the manifest says."""
    manifest = found.manifest
    assert manifest is not None
    if config is None:
        assert raw is not None
        crop = manifest.crop
        box = (crop[0], crop[1], crop[2], crop[3]) if isinstance(crop, list) else crop
        reader: FaceReader = FolderFaces(raw, crop=box, size=manifest.size, cache_index=False)
    else:
        reader = _configured(config)
    if reader.size != manifest.size:
        raise ValueError(
            f"config: its reader gives {reader.size} px images, the release has {manifest.size} px"
        )
    reader.strict = True  # as `desensitize` reads
    return reader.open()


def _configured(config: str) -> FaceReader:
    path = find_config(config)
    part = read_yaml(path)
    for level in ("data", "init_args"):  # the config of a `fit` has its reader there
        if isinstance(part, dict) and level in part:
            part = part[level]
    if not isinstance(part, dict) or not part.get("reader"):
        raise ValueError(f"config: {path} has no `reader`; give the config of `desensitize`")
    return make_reader(part["reader"])


def _names(raw: str | None, reader: FaceReader) -> set[str]:
    """All names of the raw set: of identities, folders and files, these with and without suffix."""
    names = set(reader.identities)
    if raw is None:
        files = (os.path.basename(reader.name(index)) for index in range(len(reader)))
        names.update(part for file in files for part in (file, os.path.splitext(file)[0]))
    else:
        for _, folders, files_ in os.walk(raw):
            names.update(folders)
            names.update(part for file in files_ for part in (file, os.path.splitext(file)[0]))
    return names


def _compare(
    root: Path,
    found: Audit,
    reader: FaceReader,
    pseudonyms: Pseudonyms,
    sample: int,
    seed: int,
    advance: Callable[[int], None],
) -> int:
    assert found.manifest is not None
    try:
        desensitizer = desensitizer_of(root, found.manifest)
    except (ValueError, FileNotFoundError) as error:
        found.notes.append(f"pixels were not compared with the raw set: {error}")
        return 0
    data = FaceDataModule(reader, desensitizer)
    identities = [pseudonyms.identity(name) for name in reader.identities]
    origin = {}
    for index, label in enumerate(reader.labels.tolist()):
        image = pseudonyms.image(reader.identities[label], reader.stable_name(index))
        origin[image_file(identities[label], image)] = index

    def read(number: int) -> Tensor:
        return torch.from_numpy(reader.read(number).copy()).expand(3, -1, -1)

    def release(images: Tensor) -> Tensor:
        return (data.desensitized(images)["image"] * 255).round().to(torch.uint8)

    visible = None if found.manifest.mask is None else load_mask(root / MASK, data.size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one small image at a time: threads would only wait for each other
    try:
        return compare_images(root, found, origin, read, release, visible, sample, seed, advance)
    finally:
        torch.set_num_threads(threads)


def _figures(found: Audit, compared: int, seconds: float) -> dict[str, object]:
    manifest = found.manifest
    return {
        "passed": not found.findings,
        "images": found.files,
        "identities": None if manifest is None else manifest.identities,
        "bytes": found.bytes,
        "released_again": compared,
        "seconds": round(seconds, 3),
        "findings": [{"file": finding.file, "what": finding.what} for finding in found.findings],
        "notes": found.notes,
    }


def _tell(released: str, found: Audit, figures: dict[str, object], json_path: str | None) -> None:
    console = get_console()
    if found.findings:
        rows = [[printable(finding.file), printable(finding.what)] for finding in found.findings[:_SHOWN]]
        print_table(f"audit of {released}: what must not be", rows, ["file", "finding"])
        if more := len(found.findings) - _SHOWN:
            where = f"all of them: {json_path}" if json_path else "--json PATH writes them all"
            if more > 0:
                console.print(f"and {more} more; {where}", markup=False, highlight=False)
    for note in found.notes:
        console.print(f"note: {printable(note)}", markup=False, highlight=False, soft_wrap=True)
    files = len({finding.file for finding in found.findings})
    verdict = f"FAILED: {len(found.findings)} findings in {files} files" if found.findings else "PASSED"
    console.print(
        f"audit {verdict}; {found.files} images of {figures['identities']} identities decoded, "
        f"{found.bytes / 1e6:.1f} MB, {figures['released_again']} released again, {figures['seconds']} s",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def build_parser() -> CommandParser:
    """Return the parser of `audit`; its help comes from `audit`'s docstring."""
    parser = command_parser(audit, config=False)
    parser.add_argument("released", type=str, metavar="RELEASED_DIR", help="the released folder.")
    parser.add_argument("--json", type=str | None, default=None, metavar="PATH",
                        help="where to write all findings, notes and counts as JSON.")  # fmt: skip
    parser.add_argument("--ignore-times", action="store_true",
                        help="do not check time stamps: a copy made without keeping them has others.")  # fmt: skip
    parser.add_argument("-c", "--config", type=str | None, default=None,
                        help="the config of `desensitize`, whose reader reads the raw set.")  # fmt: skip
    parser.add_argument("--public-key", type=str | None, default=None, metavar="PEM",
                        help="the owner's public key: the release must be signed by it.")  # fmt: skip
    parser.add_function_arguments(
        audit, skip={"released", "json_path", "ignore_times", "config", "public_key"}
    )
    return parser


def run(args: list[str]) -> None:
    """Run `audit` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["released/lfw", "--raw", "data/lfw", "--key", "release.key"]`.

    Raises:
        SystemExit: with code 1, where there are findings.
        FileNotFoundError, ValueError: see `audit`.
    """
    values = build_parser().parse_args(args).as_dict()
    if audit(json_path=values.pop("json"), **values).findings:
        sys.exit(1)
