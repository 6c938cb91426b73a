"""Releases that carry what they must not: each is refused with the raw set and without, signed and not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_app.desensitize import CentreBlur, Desensitizer, GaussianBlur, Mosaic
from lightning_app.desensitize.blur import default_sigma
from lightning_app.release import Pseudonyms
from lightning_app.release.format.public import made_with
from tests.release.by_hand import KEY, SIZE, as_written, images, oval, png, relist, sha256, write_release
from tests.release.leaks import Grain, Nothing, Owner, Speck, audited, good, pixels_of

pytestmark = pytest.mark.usefixtures("quiet")
FACE = base64.b64encode(bytes(range(256)) * 12).decode()  # as long as a raw image of 32 px
Json = dict[str, Any]
Plant = Callable[[Path, Path], object]


def blurred(kernel: int = 9, sigma: float | None = None, **more: object) -> Json:
    description: Json = {"method": "GaussianBlur", "kernel": kernel, "taps": kernel // 2 * 2 + 1}
    return description | {"sigma": default_sigma(kernel) if sigma is None else sigma} | more


def clean(**method: object) -> Plant:
    """Clean faces that their manifest calls something else."""
    changed: Json = {"method": method} if method else {}
    return lambda root, raw: write_release(root, raw, Nothing(), **changed)


def own(desensitizer: Desensitizer) -> Plant:
    return lambda root, raw: write_release(root, raw, desensitizer)


def under(mask: Tensor) -> Plant:
    """Faces under a mask that hides next to nothing, all as its manifest says."""
    return lambda root, raw: write_release(root, raw, hides=mask)


def told(change: Callable[[Json], object], desensitizer: Desensitizer | None = None) -> Plant:
    """A good release whose manifest says more, written as `desensitize` would write it."""

    def plant(root: Path, raw: Path) -> None:
        good(root, raw, desensitizer)
        whole = json.loads((root / "manifest.json").read_text())
        change(whole)
        (root / "manifest.json").write_text(as_written(whole))

    return plant


def written(change: Callable[[str], str]) -> Plant:
    """A good release whose manifest says the same in other bytes."""

    def plant(root: Path, raw: Path) -> None:
        good(root, raw)
        path = root / "manifest.json"
        before = path.read_bytes()
        path.write_bytes(change(before.decode()).encode())
        assert path.read_bytes() != before

    return plant


def facts(change: Callable[[str], str]) -> Plant:
    """A good release whose mask.json says more, or the same in other bytes; hash and all are as they must be."""

    def plant(root: Path, raw: Path) -> None:
        good(root, raw)
        path = root / "mask.json"
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before
        relist(root)

    return plant


def spot(hidden: int) -> Tensor:
    mask = torch.ones(1, SIZE, SIZE)
    mask.view(-1)[torch.arange(hidden) * 7] = 0
    return mask


def _renumbered(value: float) -> float:
    """The next number of as many digits as a float has: 52 bits of it are anybody's."""
    return math.nextafter(value, 1)


def _replaced(
    root: Path, raw: Path, desensitizer: Desensitizer | None, pixels: Callable[[Tensor], Tensor]
) -> None:
    """One image of a good release made of its raw one in another way; the manifest knows it."""
    other = root.with_name("other")
    write_release(root, raw, desensitizer)
    write_release(other, raw, Nothing())
    one = images(root)[1]
    raw_one = torch.from_numpy(pixels_of(other / one.relative_to(root)))
    one.write_bytes(png(pixels(raw_one).numpy()))
    relist(root)


FRACTION = CentreBlur(0.5, 9)

FREEFORM: Json = {
    "freeform": [0.7, 0.8], "count": 1, "seed": 3, "draw": "batch",
    "brush": {"min_vertex": 4, "max_vertex": 11, "max_length": 90.0, "max_brush_width": 40.0, "max_angle": 360.0,
              "strokes": "hide"},
}  # fmt: skip

PLANTS: dict[str, tuple[Plant, str]] = {
    "clean, a name of its own": (clean(), "none of FaceVeil's"),
    "clean, called Identity": (clean(method="Identity"), "every released image is a clean one"),
    "clean, called MaskOut": (clean(method="MaskOut"), "its method is MaskOut, but it has no mask"),
    "clean, called CentreBlock": (clean(method="CentreBlock"), "but it has no mask"),
    "clean, called a blur": (clean(**blurred()), "is not blurred as its method says"),
    "clean, called a wide blur": (clean(**blurred(18)), "is not blurred as its method says"),
    "clean, called a blurred centre": (
        clean(**blurred(18, method="CentreBlur", fraction=0.5)), "is not blurred as its method says"
    ),
    "clean, called a weakly blurred centre": (
        clean(**blurred(9, 1.3, method="CentreBlur", fraction=0.5)), "are sharper than noise would be after CentreBlur"
    ),
    "clean, called a weak blur": (clean(**blurred(9, 1.0)), "blurs by 1.00 pixels, less than 1.20"),
    "clean, called a mosaic": (clean(method="Mosaic", block=8), "is no mosaic"),
    "clean, sigma of nothing": (clean(**blurred(9, 0.01)), "sigma: 0.01 blurs next to nothing"),
    "clean, sigma of no number": (clean(**blurred(9, 1e-300)), "sigma: 1e-300 blurs next to nothing"),
    "clean, kernel 1": (clean(**blurred(1)), "method.kernel is 1"),
    "clean, block 1": (clean(method="Mosaic", block=1), "method.block is 1"),
    "clean, no fraction": (
        clean(**blurred(9, method="CentreBlur", fraction=0)), "method.fraction is 0, not a share in (0,1)"
    ),
    "clean, a fraction of nothing": (
        clean(**blurred(9, method="CentreBlur", fraction=0.01)), "fraction 0.01 blurs 0.0010 of the pixels"
    ),
    "a grey level more or less": (own(Grain()), "none of FaceVeil's"),
    "one pixel": (own(Speck()), "none of FaceVeil's"),
    "one pixel hidden": (under(spot(1)), "its mask hides 0.0010 of the pixels"),
    "few pixels hidden": (under(spot(100)), "its mask hides 0.0977 of the pixels"),
    "one clean among blurred": (
        lambda root, raw: _replaced(root, raw, GaussianBlur(9), lambda one: one), "is not blurred"
    ),
    "one clean among mosaics": (
        lambda root, raw: _replaced(root, raw, Mosaic(8), lambda one: one), "is no mosaic"
    ),
    "one clean among masked": (
        lambda root, raw: _replaced(root, raw, None, lambda one: one), "hidden pixels are not 0"
    ),
    "a face as version": (told(lambda m: m["versions"].update(python=FACE)), "one that is no version"),
    "a name as version": (
        told(lambda m: m["versions"].update(torch="2.4+anna.secret")), "one that is no version"
    ),
    "a number as version": (told(lambda m: m["versions"].update(torch="9" * 20)), "one that is no version"),
    "another package": (told(lambda m: m["versions"].update(x="1")), "an entry that is no package's"),
    "a face as reason": (told(lambda m: m.update(refused={FACE: 1})), "a reason that is none of FaceVeil's"),
    "a number of refused": (told(lambda m: m.update(refused={"truncated": 2**53})), "refused counts more than"),
    "numbers of refused": (
        told(lambda m: m.update(refused={"truncated": 700, "other": 700})), "refused counts more than"
    ),
    "a refused count of 3.0": (told(lambda m: m.update(refused={"truncated": 3.0})), "refused is"),
    "a refused count of true": (told(lambda m: m.update(refused={"truncated": True})), "refused is"),
    "a face as brush": (told(lambda m: m["method"].update(brush=FACE)), "entries that MaskOut is not"),
    "a face as strokes": (told(lambda m: m["method"].update(strokes=FACE)), "entries that MaskOut is not"),
    "a face as entry": (told(lambda m: m["method"].update({FACE: 1})), "entries that MaskOut is not"),
    "a face as key": (told(lambda m: m.update({FACE: 1})), "does not belong there"),
    "a face as method": (told(lambda m: m["method"].update(method=FACE)), "not the name of a class"),
    "a face as mask entry": (told(lambda m: m["mask"].update(note=FACE)), "does not belong there"),
    "what version 1 said": (told(lambda m: m["method"].update(FREEFORM)), "entries that MaskOut is not"),
    "a seed": (told(lambda m: m["method"].update(seed=2**52 + 1)), "entries that MaskOut is not"),
    "another mask's hash": (told(lambda m: m["method"].update(mask_hash="ab" * 32)), "not what MaskOut says"),
    "another ratio": (told(lambda m: m["method"].update(mask_ratio=0.9)), "not what MaskOut says"),
    "digits of a ratio": (
        told(lambda m: m["method"].update(mask_ratio=_renumbered(m["method"]["mask_ratio"]))),
        "not what MaskOut says",
    ),
    "digits of the mask's ratio": (
        told(lambda m: m["mask"].update(mask_ratio=_renumbered(m["mask"]["mask_ratio"]))), "gives mask ratio"
    ),
    "1.0 for 1": (told(lambda m: m["method"].update(masks=1.0)), "method.masks is 1.0, not 1"),
    "true for 1": (told(lambda m: m["method"].update(masks=True)), "method.masks is true, not 1"),
    "32.0 for 32": (told(lambda m: m["method"].update(size=[32.0, 32])), "method.size is [32.0, 32]"),
    "a mask's guard": (
        told(lambda m: (m["mask"].update(guard=3), m["method"].update(guard=3))), "has no margin of 3 pixels"
    ),
    "a method's guard": (told(lambda m: m["method"].update(guard=2)), "method.guard is not mask.guard"),
    "digits of sigma": (
        told(lambda m: m["method"].update(sigma=1.7000000000000055), GaussianBlur(9)), "more than 3 decimals"
    ),
    "digits of a fraction": (
        told(lambda m: m["method"].update(fraction=0.5000000000000001), FRACTION), "method.fraction is 0.5"
    ),
    "other taps": (told(lambda m: m["method"].update(taps=11), GaussianBlur(9)), "not what GaussianBlur says"),
    "a huge kernel": (told(lambda m: m["method"].update(kernel=10**9), GaussianBlur(9)), "method.kernel is"),
    "a huge sigma": (told(lambda m: m["method"].update(sigma=1e200), GaussianBlur(9)), "method.sigma is"),
    "a huge block": (told(lambda m: m["method"].update(block=10**9), Mosaic(8)), "method.block is"),
    "a blur under a mask": (told(lambda m: m.update(method={"method": "GaussianBlur"})), "which has no mask"),
    "a block that is none": (
        told(lambda m: m.update(method=_block(m, 0.5))), "not what CentreBlock says of itself"
    ),
    "a crop of numbers": (told(lambda m: m.update(crop=2**50)), "crop is 1125899906842624"),
    "a box of numbers": (told(lambda m: m.update(crop=[2**50, 1, 2**51, 2])), "crop is"),
    "a box inside out": (told(lambda m: m.update(crop=[9, 9, 3, 3])), "crop is"),
    "a compression": (told(lambda m: m.update(compression=10)), "compression is 10"),
    "no compression": (told(lambda m: m.update(compression=None)), "compression is of another version"),
    "another version": (told(lambda m: m.update(version=1)), "compression is of another version"),
    "a signer": (told(lambda m: m.update(signer=FACE)), "signer is"),
    "another order": (
        written(lambda t: json.dumps(dict(reversed(json.loads(t).items())), indent=1) + "\n"), "is not written as"
    ),
    "spaces": (written(lambda t: t.replace(": ", ":  ")), "is not written as"),
    "more lines": (written(lambda t: t + "\n"), "is not written as"),
    "other line ends": (written(lambda t: t.replace("\n", "\r\n")), "is not written as"),
    "an escape": (written(lambda t: t.replace('"MaskOut"', '"Mask\\u004fut"')), "is not written as"),
    "a key twice": (written(lambda t: t.replace('"size": 32', '"size": 32, "size": 32')), "stands in it twice"),
    "an exponent": (written(lambda t: t.replace("0.71875", "7.1875e-1")), "is not written as"),
    "a zero more": (written(lambda t: t.replace("0.71875", "0.718750")), "is not written as"),
    "a face in mask.json": (facts(lambda t: t.replace("{", f'{{"note": "{FACE}",', 1)), "is not written as"),
    "a face as mask.json's method": (facts(lambda t: t.replace("MaskOut", FACE)), "is not written as"),
    "a version of mask.json's own": (
        facts(lambda t: t.replace('"version": "', '"version": "9')), "is not written as"
    ),
    "spaces in mask.json": (facts(lambda t: t.replace("  ", "   ")), "is not written as"),
    "a key twice in mask.json": (
        facts(lambda t: t.replace('"guard": 0', '"guard": 0,\n  "guard": 0')), "stands in it twice"
    ),
    "an exponent in mask.json": (facts(lambda t: t.replace("0.71875", "7.1875e-1")), "is not written as"),
}  # fmt: skip


def _block(manifest: Json, fraction: float) -> Json:
    lies = {key: manifest["method"][key] for key in ("size", "mask_hash", "mask_ratio")}
    return {"method": "CentreBlock", "fraction": fraction} | lies


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("with_raw", [False, True], ids=["alone", "raw"])
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_found(
    tmp_path: Path, raw: Path, owner: Owner, plant: str, with_raw: bool, signed: bool
) -> None:
    make, words = PLANTS[plant]
    make(tmp_path / "released", raw)
    found = audited(tmp_path / "released", raw, owner, signed, with_raw)
    said = [finding.what for finding in found.findings]
    assert any(words in what for what in said), said
    assert not any(FACE[:40] in what or "anna" in what for what in said)


GOOD: dict[str, Desensitizer | None] = {
    "mask": None, "blur": GaussianBlur(9), "wide blur": GaussianBlur(18), "own sigma": GaussianBlur(9, 2.125),
    "whole sigma": GaussianBlur(9, 2), "mosaic": Mosaic(8), "small mosaic": Mosaic(2), "centre": CentreBlur(0.5, 9),
}  # fmt: skip


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("with_raw", [False, True], ids=["alone", "raw"])
@pytest.mark.parametrize("method", GOOD)
def test_what_is_good_passes(
    tmp_path: Path, raw: Path, owner: Owner, method: str, with_raw: bool, signed: bool
) -> None:
    write_release(tmp_path / "released", raw, GOOD[method])
    found = audited(tmp_path / "released", raw, owner, signed, with_raw)
    assert found.findings == []
    hidden = [words for words in found.unproven if words.startswith("that any pixel is hidden (no mask")]
    assert bool(hidden) == (GOOD[method] is not None)


def test_the_plants_are_what_they_say(tmp_path: Path, raw: Path) -> None:
    """The clean release holds the raw pixels, and names are those of the key: else nothing above says much."""
    write_release(tmp_path / "clean", raw, Nothing())
    assert len(images(tmp_path / "clean")) == 6
    names = Pseudonyms(KEY)
    person = names.identity("Drawn_00000")
    assert (tmp_path / "clean" / "images" / person).is_dir()
    assert sha256(images(tmp_path / "clean")[0]) in (tmp_path / "clean" / "manifest.json").read_text()
    assert made_with().keys() >= {"faceveil", "torch"}
    assert 0.5 < 1 - float(oval().mean()) < 0.8
