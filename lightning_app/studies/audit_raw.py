"""A release compared with the raw set, which only its owner has: names, pixels, masks, tensors, pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader
from lightning_app.core.threads import one_thread
from lightning_app.desensitize import Desensitizer, MaskEach, described
from lightning_app.masks import load_mask
from lightning_app.release.audit.against_raw import compare_images, count_refused
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.classes import class_names_faults
from lightning_app.release.audit.each_against_raw import compare_each
from lightning_app.release.audit.run import Audit
from lightning_app.release.audit.shards_against_raw import compare_shards
from lightning_app.release.format.method import describe, desensitizer_of, is_known, key_hashes
from lightning_app.release.format.names import MANIFEST, MASK, image_file
from lightning_app.release.format.pseudonyms import Pseudonyms
from lightning_app.release.format.tensors import PAIRS
from lightning_app.release.write.each import EachDesensitizer
from lightning_app.release.write.pairs import pairs_of_release
from lightning_app.release.write.representing import Representer

NOT_COMPARED = "could not be compared with the raw set"
_NAMES_THE_KEY = "give --config too, whose desensitizer names the owner's key file"


@dataclass(frozen=True)
class OwnersSide:
    """What only the owner of a release has, and how much of it is compared.

    Attributes:
        reader: the raw set, as `desensitize` read it.
        pseudonyms: by the owner's key.
        agreed: with the desensitizer of the owner's config, where there is one.
        configured: whether the reader comes from the owner's config, which knows classes and pairs too.
        masker: checkpoint of a learned mask's masker; None where none is given.
        sample: how many images are released again; None for all.
        seed: of the draw of these images, and of noise.
    """

    reader: FaceReader
    pseudonyms: Pseudonyms
    agreed: Agreed
    configured: bool
    masker: str | None
    sample: int | None
    seed: int


def compare_with_raw(
    root: Path, found: Audit, owner: OwnersSide, advance: Callable[[int], None] = lambda done: None
) -> None:
    """Release a sample of the raw images again, and hold it and the owner's tables against what was released.

    Args:
        root: the released folder.
        found: the audit of it so far, with its manifest; gets findings and what was compared.
        owner: what only the owner has.
        advance: told how many more images are done.
    """
    manifest, shards = found.manifest, found.shards
    assert manifest is not None
    origin = _origin(owner)
    found.classes_compared = owner.configured
    if owner.masker is not None and manifest.masks is None:
        _hold_against_masker(found, owner.masker)
    if owner.configured:
        for what in class_names_faults(manifest, owner.reader, owner.pseudonyms):
            found.add(MANIFEST, what)
    released = manifest.files if shards is None else {image_file(*names) for names in shards.names.values()}
    count_refused(found, owner.reader, origin, owner.configured, released)
    if shards is not None:
        _compare_shards(root, found, owner, origin, advance)
    elif manifest.masks is not None:
        _compare_pairs(root, found, owner)
        _compare_each(root, found, owner, origin, advance)
    else:
        _compare(root, found, owner, origin, advance)


def names_of(raw: str | None, reader: FaceReader) -> set[str]:
    """Return all names of the raw set: of identities, folders and files, these with and without suffix.

    Args:
        raw: its folder; None where a config's reader alone knows it.
        reader: of the raw set.
    """
    names = set(reader.identities)
    if raw is None:
        files = (os.path.basename(reader.name(index)) for index in range(len(reader)))
        names.update(part for file in files for part in (file, os.path.splitext(file)[0]))
    else:
        for _, folders, files_ in os.walk(raw):
            names.update(folders)
            names.update(part for file in files_ for part in (file, os.path.splitext(file)[0]))
    return names


def _origin(owner: OwnersSide) -> dict[str, int]:
    """Return the path in the release of every raw image, and its number."""
    reader, pseudonyms = owner.reader, owner.pseudonyms
    identities = [pseudonyms.identity(name) for name in reader.identities]
    origin = {}
    for index, label in enumerate(reader.labels.tolist()):
        image = pseudonyms.image(reader.identities[label], reader.stable_name(index))
        origin[image_file(identities[label], image)] = index
    return origin


def _compare(
    root: Path, found: Audit, owner: OwnersSide, origin: dict[str, int], advance: Callable[[int], None]
) -> None:
    assert found.manifest is not None
    agreed, reader = owner.agreed, owner.reader
    if agreed.desensitizer is None and key_hashes(found.manifest.method):
        found.add("images", f"{NOT_COMPARED}: {_NAMES_THE_KEY}")
        return
    if not agreed.has_made(found.manifest):  # every image would differ, and hide why
        found.add(
            "images",
            f"{NOT_COMPARED}: --config's desensitizer has not made this release; give the config that did",
        )
        return
    try:
        desensitizer = agreed.desensitizer or desensitizer_of(root, found.manifest)
        visible = None if found.manifest.mask is None else load_mask(root / MASK, reader.size)
    except (ValueError, FileNotFoundError) as error:
        found.add("images", f"{NOT_COMPARED}: {error}; --config names the desensitizer")
        return
    data = FaceDataModule(reader, desensitizer)

    def read(number: int) -> Tensor:
        return torch.from_numpy(reader.read(number).copy()).expand(3, -1, -1)

    def release(images: Tensor) -> Tensor:
        return (data.desensitized(images)["image"] * 255).round().to(torch.uint8)

    try:
        with one_thread():
            compare_images(root, found, origin, read, release, visible, owner.sample, owner.seed, advance)
    except ValueError as error:  # of another size, say: what was agreed on has not made this release
        found.add("images", f"{NOT_COMPARED}: {error}")


def _compare_each(
    root: Path, found: Audit, owner: OwnersSide, origin: dict[str, int], advance: Callable[[int], None]
) -> None:
    manifest = found.manifest
    assert manifest is not None
    configured, masker = owner.agreed.desensitizer, owner.masker
    if masker is None and configured is None:
        found.add(
            "images", f"{NOT_COMPARED}: give --masker, the masker's checkpoint, or --config, which names it"
        )
        return
    try:
        with one_thread():
            if masker is not None:
                keys = configured.owner_keys() if isinstance(configured, MaskEach) else []
                kind = _of_a_masker(manifest.method)
                if kind is None:
                    found.add("images", f"{NOT_COMPARED}: its masks are none of a masker's")
                    return
                made: Desensitizer = kind.with_masker(
                    manifest.method, masker, next((key.path for key in keys), None)
                )
            else:
                assert configured is not None
                made = configured
            each = EachDesensitizer(made, manifest.size, bool(made.interference), key_file=False)
            if describe(made, manifest.size, None, manifest.version, each=True) != manifest.method:
                found.add(
                    "images",
                    f"{NOT_COMPARED}: --config's masker, or what it is asked for, is not the manifest's",
                )
                return
            compare_each(root, found, origin, owner.reader, each, owner.sample, owner.seed, advance)
    except (ValueError, FileNotFoundError) as error:
        found.add("images", f"{NOT_COMPARED}: {error}")


def _hold_against_masker(found: Audit, masker: str) -> None:
    """Hold the one mask of a release against the masker that its manifest says it came from."""
    manifest = found.manifest
    assert manifest is not None
    kind = _of_a_masker(manifest.method)
    if manifest.mask is None or kind is None or kind.describes_each(manifest.method):
        found.notes.append("--masker was not used: the release's masks are none of a masker's")
        return
    try:
        kind.with_masker(manifest.method, masker)
    except (ValueError, FileNotFoundError) as error:
        found.add(MASK, f"is not the masker's: {error}")
    else:
        found.mask_held = True


def _of_a_masker(description: Mapping[str, object]) -> type[MaskEach] | None:
    kind = described(description)
    return kind if kind is not None and issubclass(kind, MaskEach) else None


def _compare_shards(
    root: Path, found: Audit, owner: OwnersSide, origin: dict[str, int], advance: Callable[[int], None]
) -> None:
    manifest = found.manifest
    assert manifest is not None
    assert manifest.tensors is not None
    assert found.shards is not None
    agreed = owner.agreed
    if agreed.desensitizer is None and (
        key_hashes(manifest.method) or not is_known(manifest.method["method"])
    ):
        found.add("shards", f"{NOT_COMPARED}: {_NAMES_THE_KEY}")
        return
    try:
        with one_thread():
            represent = Representer(
                agreed.desensitizer or desensitizer_of(root, manifest),
                manifest.size,
                "float16" if manifest.tensors.dtype == "float16" else "uint8",
                manifest.tensors.mixed > 1,
                key_file=False,
            )
            _compare_pairs(root, found, owner)
            compare_shards(
                root,
                found,
                found.shards,
                origin,
                owner.reader,
                represent,
                owner.pseudonyms,
                owner.sample,
                owner.seed,
                advance,
            )
    except (ValueError, FileNotFoundError) as error:
        found.add("shards", f"{NOT_COMPARED}: {error}")


def _compare_pairs(root: Path, found: Audit, owner: OwnersSide) -> None:
    """Hold the list of pairs of a release against the reader's: it must be the same to the last pair."""
    assert found.manifest is not None
    if PAIRS not in found.manifest.files or not (root / PAIRS).is_file():
        return
    if getattr(owner.reader, "pairs", None) is None:
        found.notes.append("its list of pairs was not compared: give --config, whose reader has one")
        return
    found.pairs_compared = True
    wanted = pairs_of_release(owner.reader, owner.pseudonyms).encode()
    with (root / PAIRS).open("rb") as file:
        same = file.read(len(wanted) + 1) == wanted
    if not same:
        found.add(PAIRS, "is not the raw set's list of pairs")
