"""What an audit comes to, in words and as metrics."""

from __future__ import annotations

from lightning_app.core.printing import counted
from lightning_app.desensitize.mask_kinds import mask_kind
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.each_mask import tells
from lightning_app.release.audit.odds import typical
from lightning_app.release.audit.run import Audit
from lightning_app.release.format.classes import unknown
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.method import each_text, method_text

_CASES = {"one": "one image that leaks", "ten": "ten", "one_percent": "1 % of them"}


def left_open(found: Audit, agreed: Agreed, public_key: bool) -> list[str]:
    """Return what nobody can know from what was checked, for the first line of the verdict.

    Args:
        found: by the audit.
        agreed: what the release was held against.
        public_key: whether the owner's was given.

    Returns:
        Each to be read after "not proven:", with the options that would prove it.
    """
    manifest = found.manifest
    if manifest is None:
        return ["anything"]
    compared = 0 if found.compared is None else found.compared.images
    said = []
    if manifest.tensors is not None:
        said.append(f"that no face can be made of it (representations, {method_text(manifest)})")
        if not compared:
            said.append("that the faces are desensitized (--config, --key)")
        elif found.compared is not None and found.compared.apart:
            said.append(
                f"that {found.compared.apart} of {found.compared.values:,} values carry nothing else: they lie "
                "on the next "
                "level, as another machine or version leaves them"
            )
        if found.compared is not None and found.compared.shares_apart:
            said.append(
                f"that {found.compared.shares_apart} of {found.compared.shares:,} shares of mixes carry nothing else: "
                "they differ by rounding, as another machine or version leaves them"
            )
    elif manifest.masks is not None:
        if not compared:
            said.append(f"{mask_kind(manifest.method).unproven} (--masker, --raw, --key)")
    elif manifest.mask is None:
        said.append(f"that any pixel is hidden (no mask, {method_text(manifest)})")
        if not compared:
            said.append("that the faces are desensitized (--raw, --key)")
    elif not agreed.names_a_mask:
        said.append("which mask was agreed on (--mask, --mask-hash)")
    kind = mask_kind(manifest.method)
    if kind.one_for_all and not found.mask_held and agreed.desensitizer is None:
        said.append(f"{kind.unproven} (--masker, --raw, --key)")
    if not compared:
        said.append("that visible pixels, pseudonyms and counts carry nothing else (--raw, --key)")
    elif compared < manifest.images:
        said.append(
            f"that nothing else is in the {counted(manifest.images - compared, 'image')} not compared (--all)"
        )
    if found.compared is not None and found.compared.mask_pixels:
        said.append(
            f"that nothing else is in the {counted(found.compared.mask_pixels, 'pixel')} of masks that the masker, run "
            "again here, has otherwise (another machine or version may)"
        )
    if manifest.pairs and not found.pairs_compared:
        said.append(f"that the list of {manifest.pairs} pairs carries nothing else (--config, --key)")
    if not found.classes_compared and (strange := unknown(manifest.classes)):
        said.append(f"that the names of {strange} classes are no people's (--config, --key)")
    if manifest.signer is None:
        said.append("who released it (not signed)")
    elif not public_key:
        said.append("who released it (--public-key)")
    return said + found.unproven


def first_line(found: Audit, unproven: list[str], seconds: float) -> str:
    """Return the verdict in one line: passed or not, how much is hidden, how much was compared, what is not proven.

    Args:
        found: by the audit.
        unproven: see `left_open`.
        seconds: that it took.
    """
    manifest = found.manifest
    files = len({finding.file for finding in found.findings})
    verdict = (
        f"FAILED: {counted(len(found.findings), 'finding')} in {counted(files, 'file')}"
        if found.findings
        else "PASSED"
    )
    if manifest is None:
        return f"audit {verdict}; nothing else was checked"
    kept = "" if manifest.tensors is None else f" in {counted(len(manifest.shards), 'shard')}"
    mask = "no mask" if manifest.mask is None else f"mask ratio {manifest.mask.mask_ratio:.4f}"
    warning = f"; {warned}" if (warned := tells(manifest)) else ""
    compared = 0 if found.compared is None else found.compared.images
    images, people = counted(found.files, "image"), counted(manifest.identities, "identity")
    if manifest.masks is not None:
        mask = f"masks {each_text(manifest)}{_proven(found, manifest)}"
    line = (
        f"audit {verdict}{warning}; {images} of {people}{kept} decoded, {mask}, {compared} "
        f"released again, {found.bytes / 1e6:.1f} MB, {seconds:.1f} s"
    )
    return line + (f"; NOT PROVEN: {'; '.join(unproven)}" if unproven and not found.findings else "")


def _proven(found: Audit, manifest: Manifest) -> str:
    """Return that no mask depends on what it hides, where those compared are their masker's to the last pixel."""
    compared = found.compared
    if not mask_kind(manifest.method).looks_at_shown or found.findings or compared is None:
        return ""
    if not compared.images or compared.mask_pixels:  # a pixel that is not the masker's may be anybody's
        return ""
    of = "" if compared.images >= manifest.images else f" of {compared.images} compared"
    return f", none{of} depends on what it hides"


def compared_line(found: Audit) -> str | None:
    """Return what share of the images was compared with the raw set, and how surely that finds a leak.

    Args:
        found: by the audit.

    Returns:
        One line; None where nothing was compared.
    """
    manifest, compared = found.manifest, found.compared
    if manifest is None or compared is None or not compared.images:
        return None
    odds = typical(manifest.images, min(compared.images, manifest.images), compared.together)
    words = [f"{what} with probability {odds[key]:.3g}" for key, what in _CASES.items() if key in odds]
    apart = (
        ""
        if compared.mean_dssim is None
        else f"; dSSIM from the raw images {compared.mean_dssim:.3f} on average"
    )
    if compared.values:
        levels = "the same level" if not compared.apart else f"{compared.apart} of them on the next level"
        shares = (
            "" if not compared.shares else f", {compared.shares_apart} of {compared.shares:,} shares differ"
        )
        return (
            f"compared with the raw set: {compared.images} of {counted(manifest.images, 'image')} made again, drawn by "
            f"--seed {compared.seed}, {compared.values:,} values: "
            f"{'all on ' if not compared.apart else ''}{levels}{shares}"
        )
    if compared.images >= manifest.images:
        return (
            f"compared with the raw set: all {counted(manifest.images, 'image')} (noise by --seed {compared.seed}), so "
            f"that any one that leaks is found{apart}"
        )
    return (
        f"compared with the raw set: {compared.images} of {counted(manifest.images, 'image')} "
        f"({compared.images / manifest.images:.1%}), drawn by --seed {compared.seed}; "
        f"this finds {', '.join(words)}{apart}"
    )


def _ratio(manifest: Manifest | None) -> float | None:
    if manifest is None or (manifest.mask, manifest.masks) == (None, None):
        return None
    return float(manifest.method["mask_ratio"]) if manifest.mask is None else manifest.mask.mask_ratio


def metrics(found: Audit, unproven: list[str], agreed: Agreed, seconds: float) -> dict[str, object]:
    """Return all that an audit found as JSON can hold it.

    Args:
        found: by the audit.
        unproven: see `left_open`.
        agreed: what the release was held against.
        seconds: that it took.
    """
    manifest, compared = found.manifest, found.compared
    entry = None if manifest is None else manifest.mask
    images = 0 if compared is None else compared.images
    return {
        "passed": not found.findings,
        "verdict": first_line(found, unproven, seconds),
        "not_proven": unproven,
        "images": found.files,
        "identities": None if manifest is None else manifest.identities,
        "bytes": found.bytes,
        "format_version": None if manifest is None else manifest.version,
        "method": None if manifest is None else manifest.method,
        "mask_ratio": _ratio(manifest),
        "mask_hash": None if entry is None else entry.mask_hash,
        "mask_kind": None if manifest is None or manifest.masks is None else manifest.method["kind"],
        "mask_bits": None if manifest is None or manifest.masks is None else manifest.method["bits"],
        "mask_pixels_apart": 0 if compared is None else compared.mask_pixels,
        "mask_agreed": agreed.names_a_mask,
        "min_mask_ratio": agreed.min_mask_ratio,
        "signer": None if manifest is None else manifest.signer,
        "released_again": images,
        "compared_share": None if manifest is None else images / manifest.images,
        "seed": None if compared is None else compared.seed,
        "detection": None
        if manifest is None
        else typical(
            manifest.images, min(images, manifest.images), 1 if compared is None else compared.together
        ),
        "values_compared": 0 if compared is None else compared.values,
        "values_on_next_level": 0 if compared is None else compared.apart,
        "shares_compared": 0 if compared is None else compared.shares,
        "shares_apart": 0 if compared is None else compared.shares_apart,
        "black_under_mask": 0 if compared is None else compared.black,
        "mean_dssim": None if compared is None else compared.mean_dssim,
        "seconds": round(seconds, 3),
        "findings": [{"file": finding.file, "what": finding.what} for finding in found.findings],
        "notes": found.notes,
    }
