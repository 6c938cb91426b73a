"""The audit of a release: proof that nothing under the mask left, nor a name, nor anything else."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from lightning_app.core.printing import counted
from lightning_app.desensitize import is_clean
from lightning_app.masks import mask_hash, mask_ratio
from lightning_app.masks.io import sidecar
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.each_mask import check_codes
from lightning_app.release.audit.findings import Findings
from lightning_app.release.audit.images import (
    Checked,
    Checks,
    Listed,
    check_images,
    read_at_most,
    read_small,
    useful_workers,
)
from lightning_app.release.audit.shards import Shards, check_pairs, check_shards
from lightning_app.release.format.canonical import RUNS, mask_faults
from lightning_app.release.format.each_mask import mask_file
from lightning_app.release.format.manifest import Manifest, most_bytes
from lightning_app.release.format.method import is_known, margin_faults, method_faults, method_text, traces_of
from lightning_app.release.format.names import MANIFEST, MASK, MASK_FACTS, SIGNATURE, is_image_file
from lightning_app.release.format.png import read_png
from lightning_app.release.format.public import guard_of, made_with
from lightning_app.release.format.signing import fingerprint, signature_holds
from lightning_app.release.format.strict_json import strict_json
from lightning_app.release.format.tensor_method import tensor_faults
from lightning_app.release.format.traces import Traces, too_many
from lightning_app.release.format.tree import Tree, walk_release
from lightning_app.release.write.finish import mask_facts

_SIGNED = re.compile(rb"[0-9a-f]{128}\n")
_PLACE = re.compile(r"^(/|~|[A-Za-z]:[/\\])|(^|[/\\])\.\.([/\\]|$)")  # text that names a place on a disk


@dataclass(frozen=True)
class Compared:
    """Which images were released again from their raw ones.

    Attributes:
        images: how many they were.
        seed: of the draw of them, and of the noise.
        mean_dssim: between raw and released image, of the images of a release without a mask; None under a mask,
            and where images are too small to measure it.
        black: of how many the raw one, too, has nothing but 0 under the mask: of them nothing was hidden.
        values: of representations: how many values were compared.
        apart: how many of them lie on the next level.
        shares: of mixes: how many shares of images were compared.
        shares_apart: how many of them differ, by no more than rounding.
        mask_pixels: of images with a mask each: in how many pixels those of the masker run again differ.
        together: images were drawn in groups of so many at most, those that were made together.
    """

    images: int
    seed: int
    mean_dssim: float | None = None
    black: int = 0
    values: int = 0
    apart: int = 0
    shares: int = 0
    shares_apart: int = 0
    mask_pixels: int = 0
    together: int = 1


@dataclass
class Audit(Findings):
    """What an audit found.

    Attributes:
        findings: what a release must not have; it is good where there are none.
        notes: what was not checked, and why.
        unproven: what nobody can know from what was checked, for the first line of the verdict.
        files: images that were decoded.
        bytes: their length together.
        manifest: of the release; None where it cannot be read.
        compared: what was compared with the raw set; None where nothing was tried.
        shards: what was found in the shards of a release of representations; None of pictures.
        classes_compared: whether the names of a task's classes were held against the raw set's.
        pairs_compared: whether the list of pairs was held against the raw set's.
        mask_held: whether the one mask was held against the masker that it is said to come from.
    """

    notes: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    manifest: Manifest | None = None
    compared: Compared | None = None
    shards: Shards | None = None
    classes_compared: bool = False
    pairs_compared: bool = False
    mask_held: bool = False


def audit(
    root: str | Path,
    public_key: Ed25519PublicKey | None = None,
    *,
    agreed: Agreed | None = None,
    times: bool = True,
    workers: int | None = None,
    begin: Callable[[int], None] = lambda total: None,
    advance: Callable[[int], None] = lambda done: None,
) -> Audit:
    """Check a release by itself; see `lightning_app.release.audit.against_raw` for what needs the raw set.

    Every file is read once: hash, chunks and pixels are of the same bytes.

    Args:
        root: the released folder.
        public_key: of the owner. Without it a signature is not checked, and a note says so.
        agreed: which mask and method the release must have.
        times: also check that every time stamp is the one all releases bear (a copy may have lost it).
        workers: processes; by default one per CPU where there are files enough.
        begin: told the number of images, before the first is read.
        advance: told how many more are done.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the one that `desensitize` wrote")
    found = Audit()
    manifest = _manifest(root, found)
    if manifest is None:
        return found
    found.manifest = manifest
    tree = walk_release(root, manifest, marks=True, times=times)
    found.findings += tree.findings
    found.notes += tree.notes
    if not times:
        found.notes.append("time stamps were not checked")
    _signature(root, manifest, public_key, tree, found)
    visible = _mask(root, manifest, tree, found) if manifest.masks is None else None
    codes = None if manifest.masks is None else check_codes(root, manifest, tree, found)
    hidden = None if visible is None else ((1 - visible) * 255).to(torch.uint8).numpy()[..., None]
    agreed = agreed or Agreed()
    _method(root, manifest, visible, agreed, found, codes)
    for file, what in agreed.faults(manifest):
        found.add(file, what)
    if manifest.tensors is not None:
        begin(manifest.images)
        shards = found.shards = check_shards(root, manifest, tree.files, advance, secrets.randbits(48))
        found.findings += shards.findings
        found.files, found.bytes = shards.files, shards.bytes
        found.findings.sort()
        return found
    names = sorted(name for name in manifest.files if is_image_file(name) and name in tree.files)
    begin(len(names))
    shown = None if manifest.masks is None else manifest.masks.shown
    checks = Checks(
        os.fspath(root), manifest.size, manifest.channels, hidden, traces=_traces(manifest), shown=shown
    )
    checked = check_images(
        checks, _listed(manifest, names), workers or useful_workers(len(names)), advance,
        level=manifest.compression, other=_is_other(manifest, "zlib"),
    )  # fmt: skip
    _images(root, checked, tree, found)
    if manifest.pairs:
        people = {PurePath(name).stem: name.split("/")[1] for name in names}
        check_pairs(root, manifest, tree.files, people, found)
    found.findings.sort()
    return found


def _listed(manifest: Manifest, names: list[str]) -> list[Listed]:
    """List images with their hashes, and those of their own masks."""
    files = manifest.files
    if manifest.masks is None:
        return [(name, files[name]) for name in names]
    return [(name, files[name], files[mask_file(name)]) for name in names]


def _manifest(root: Path, found: Audit) -> Manifest | None:
    path = root / MANIFEST
    if path.is_symlink() or not path.is_file():
        found.add(MANIFEST, "is missing: this is no finished release; nothing else was checked")
        return None
    most = most_bytes(root)  # a sparse file of many gigabytes takes no room on a disk
    if path.stat().st_size > most:
        found.add(MANIFEST, "is larger than a manifest of these files can be; nothing else was checked")
        return None
    content = path.read_bytes()
    try:
        manifest = Manifest.parse(content, MANIFEST)
    except ValueError as error:
        found.add(MANIFEST, f"{str(error).removeprefix(f'{MANIFEST}: ')}; nothing else was checked")
        return None
    if manifest.to_bytes() != content:
        found.add(MANIFEST, "is not written as `desensitize` writes it: something was changed or added")
    return manifest


def _signature(
    root: Path, manifest: Manifest, public_key: Ed25519PublicKey | None, tree: Tree, found: Audit
) -> None:
    if manifest.signer is None:
        if public_key is not None:
            found.add(MANIFEST, "is not signed, but --public-key was given")
        else:
            found.notes.append("the release is not signed")
        return
    if SIGNATURE not in tree.files:
        return  # said already: it is missing
    signature = read_small(root / SIGNATURE)
    if not _SIGNED.fullmatch(signature):
        found.add(SIGNATURE, "is not 128 hexadecimal digits and a newline")
    elif public_key is None:
        found.notes.append("signature not checked: give the owner's --public-key")
    elif fingerprint(public_key) != manifest.signer:
        found.add(MANIFEST, "names another signer than --public-key")
    elif not signature_holds((root / MANIFEST).read_bytes(), signature.decode("ascii"), public_key):
        found.add(
            SIGNATURE, f"does not hold: {MANIFEST} was changed after it was signed, or another key signed"
        )


def _mask(root: Path, manifest: Manifest, tree: Tree, found: Audit) -> torch.Tensor | None:
    """Check mask and sidecar; the mask `[size,size]`, 1 = visible, if it can be known."""
    entry = manifest.mask
    if manifest.tensors is not None:
        found.notes.append(
            "representations: every value depends on the face, and a network trained on pairs makes faces of them "
            "(docs/representations.md)"
        )
        if manifest.tensors.mixed > 1:
            found.notes.append("its labels are mixed: they tell who is in each mix, and how much")
        return None
    if entry is None:
        found.notes.append("the release has no mask: no pixel is hidden, and none is checked to be black")
        return None
    if MASK_FACTS in tree.files:
        _mask_facts(read_small(root / MASK_FACTS), manifest, found)
    if MASK not in tree.files:
        found.notes.append(f"hidden pixels were not checked: {MASK} is missing")
        return None
    data = read_at_most(root / MASK, manifest.size)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        found.add(MASK, "its SHA-256 is not the manifest's")
    png = read_png(data)
    for fault in png.faults:
        found.add(MASK, fault)
    visible = None if png.pixels is None else _binary(png.pixels, manifest.size, found)
    if visible is not None and png.pixels is not None and not png.faults:
        old = manifest.version == 1
        faults = mask_faults(data, png.pixels, old, _is_other(manifest, "zlib", "pillow"))
        for fault in faults or ():
            found.add(MASK, fault)
        if faults is None:
            found.unproven.append(
                f"that the bytes of {MASK} carry nothing else (made by other versions of Pillow or zlib)"
            )
    if visible is None or mask_hash(visible) != entry.mask_hash:
        if visible is not None:
            found.add(MASK, "its pixels are not those whose hash the manifest gives")
        found.notes.append(f"hidden pixels were not checked: {MASK} is not the manifest's")
        return None
    if mask_ratio(visible) != entry.mask_ratio:  # to the last digit, which is nobody's to choose
        found.add(MANIFEST, f"gives mask ratio {entry.mask_ratio!r}, {MASK} has {mask_ratio(visible)!r}")
    for what in margin_faults(manifest, visible[None]):
        found.add(MASK, what)
    return visible


def _binary(pixels: NDArray[np.uint8], size: int, found: Audit) -> torch.Tensor | None:
    height, width, channels = pixels.shape
    if (height, width, channels) != (size, size, 1):
        found.add(MASK, f"has {width}×{height} pixels of {channels} channels, not {size}×{size} of one")
        return None
    if not np.isin(pixels, (0, 255)).all() or not pixels.any() or pixels.all():
        found.add(MASK, "is not a mask of 0 (hidden) and 255 (visible), some of each")
        return None
    return torch.from_numpy((pixels[..., 0] // 255).astype(np.float32))


def _mask_facts(data: bytes, manifest: Manifest, found: Audit) -> None:
    assert manifest.mask is not None
    if hashlib.sha256(data).hexdigest() != manifest.files[MASK_FACTS]:
        found.add(MASK_FACTS, "its SHA-256 is not the manifest's")
    try:
        facts = strict_json(data)
    except ValueError as error:
        found.add(MASK_FACTS, f"is not JSON ({error})")
        return
    if not isinstance(facts, dict):
        found.add(MASK_FACTS, "is not a JSON object")
        return
    said = {
        "mask_hash": manifest.mask.mask_hash,
        "mask_ratio": manifest.mask.mask_ratio,
        "size": [manifest.size] * 2,
        "file_hash": manifest.mask.sha256,
        "guard": manifest.mask.guard,
    }
    for key, value in said.items():
        if facts.get(key) != value:
            found.add(MASK_FACTS, f"its {key} is not that of the mask in the manifest")
    own = ("mask_ratio", "size", "mask_hash", "file_hash")  # in the order of `save_mask`
    more = mask_facts(manifest.mask.guard, manifest.method["method"], manifest.versions.get("faceveil", ""))
    if data != sidecar({key: said[key] for key in own} | more):
        found.add(MASK_FACTS, "is not written as `desensitize` writes it: something was changed or added")
    if any(_PLACE.search(text) for text in strings(facts)):
        found.add(MASK_FACTS, "names a place on a disk")


def _method(
    root: Path,
    manifest: Manifest,
    visible: torch.Tensor | None,
    agreed: Agreed,
    found: Audit,
    codes: torch.Tensor | None,
) -> None:
    name = manifest.method["method"]
    if is_clean(manifest.method):
        found.add(MANIFEST, f"its method is {name}: every released image is a clean one")
    elif (
        (manifest.mask, manifest.masks) == (None, None) and not is_known(name) and agreed.desensitizer is None
    ):
        found.add(
            MANIFEST,
            f"its method {name} is none of FaceVeil's, and it has no mask: nothing shows that its faces are "
            "desensitized; give --config, --raw and --key",
        )
    for what in method_faults(root, manifest, None if visible is None else visible[None], codes):
        found.add(MANIFEST, what)
    if manifest.tensors is not None:
        for what in tensor_faults(manifest):
            found.add(MANIFEST, what)
    if manifest.mask is not None and guard_of(manifest.method) != manifest.mask.guard:
        found.add(MANIFEST, "method.guard is not mask.guard")


def _traces(manifest: Manifest) -> Traces | None:
    """Return what the manifest's method must have left in every image, where it is one that can be told."""
    try:
        masked = manifest.mask is not None or manifest.masks is not None
        return None if masked else traces_of(manifest.method, manifest.size)
    except ValueError:  # which `_method` has said
        return None


def _is_other(manifest: Manifest, *packages: str) -> bool:
    """Return whether the manifest names another version of a package than this one."""
    ours, theirs = made_with(), manifest.versions
    return any(name in theirs and theirs[name] != ours[name] for name in packages)


def _images(root: Path, checked: Checked, tree: Tree, found: Audit) -> None:
    """Take over what was found in the images; say of a file with another's content whose it is."""
    assert found.manifest is not None
    files = found.manifest.files
    found.files, found.bytes = checked.files, checked.bytes
    if 0 < checked.channels < found.manifest.channels:
        found.add(
            MANIFEST, f"channels is {found.manifest.channels}, no image has more than {checked.channels}"
        )
    if too_many(checked.sharp, checked.files):
        found.add(
            "images",
            f"{checked.sharp} of {checked.files} are sharper than noise would be after {method_text(found.manifest)}: "
            "they were not blurred so",
        )
    if checked.unproven:
        theirs, ours = found.manifest.versions["zlib"], made_with()["zlib"]
        found.unproven.append(
            f"that the bytes of {counted(checked.unproven, 'image')} carry nothing else (made by zlib {theirs}, "
            f"this is {ours})"
        )
        found.notes.append(
            f"{counted(checked.unproven, 'image')} with other bytes than this zlib gives their pixels: chunks, filters "
            f"and blocks are as zlib writes them, but which matches and codes it took is not proven; audit with zlib "
            f"{theirs}, or release at compression {RUNS}, whose bytes every build of zlib gives"
        )
    for faulty in checked.faulty:
        for fault in faulty.faults:
            found.add(faulty.name, fault)
    odd = {faulty.name: faulty.sha256 for faulty in checked.faulty if faulty.sha256 is not None}
    missing = [name for name in files if name not in tree.files]
    owners = {files[name]: name for name in [*odd, *missing]}
    if missing:
        stray = sorted(name for name in tree.files if name.endswith(".png") and name not in files)
        odd |= {
            name: hashlib.sha256(read_at_most(root / name, found.manifest.size)).hexdigest() for name in stray
        }
    for name, digest in odd.items():
        if digest in owners:
            found.add(name, f"holds what {owners[digest]} should hold")


def strings(value: object) -> Iterator[str]:
    """Yield every text in a JSON value, the names of its entries among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
