"""What must be right before a release is begun."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from datamodules.reader import CachedReader, FaceReader, Subset
from lightning_app.release.manifest import MANIFEST, Manifest
from lightning_app.release.pseudonyms import refuse_inside
from lightning_app.release.signing import fingerprint


def check_arguments(
    reader: FaceReader, output: Path, owner: Path, compression: int, batch_size: int, workers: int | None
) -> None:
    """Refuse arguments that no release can be made with.

    Args:
        reader: the raw set.
        output: the folder that may leave the house.
        owner: the folder that stays.
        compression: zlib's level.
        batch_size: images veiled at a time.
        workers: processes, or None.

    Raises:
        ValueError: naming the argument and the value received.
    """
    if not 0 <= compression <= 9:
        raise ValueError(f"compression: {compression}; give a zlib level from 0 to 9")
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name}: {value}; give at least {least}")
    if reader.desensitizer() is not None:
        raise ValueError("reader: is a released set already; give the raw one")
    refuse_inside(owner, output, "the owner's folder")
    for attribute in ("root", "path"):
        raw = getattr(reader, attribute, None)
        if raw is not None:
            inner, outer = output.resolve(), Path(raw).resolve()
            if inner == outer or outer in inner.parents or inner in outer.parents:
                raise ValueError(
                    f"output {output}: the raw set {raw} and the release must not lie in one another"
                )


def be_strict(reader: FaceReader) -> None:
    """Have a reader refuse what a release must not make do with.

    Args:
        reader: the raw set, not yet looked through.

    Raises:
        ValueError: its images were read already.
    """
    if isinstance(reader, CachedReader):
        raise ValueError(
            "reader: a release reads every image once, from its file: give the reader without a cache"
        )
    reader.strict = True
    if isinstance(reader, Subset):
        be_strict(reader.reader)


def check_signature(output: Path, signer: Ed25519PrivateKey | None, overwrite: bool) -> None:
    """Refuse to take a release's signature away, or to replace it by another one's, unasked.

    Args:
        output: the released folder.
        signer: the key given now.
        overwrite: whether the release may be replaced.

    Raises:
        ValueError: the release is signed by another key.
    """
    if overwrite or not (output / MANIFEST).is_file():
        return
    theirs = Manifest.read(output).signer
    ours = None if signer is None else fingerprint(signer.public_key())
    if theirs not in (None, ours):
        given = "not given" if ours is None else f"another one ({ours[:16]})"
        raise ValueError(
            f"{output} is signed by {theirs[:16]}, --sign-key is {given}: give the key it was signed with, or replace "
            "the release (--overwrite)"
        )
