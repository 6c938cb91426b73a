"""Releases that carry what they must not: each is refused with the raw set and without, signed and not."""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from PIL import Image
from torch import Tensor

from datamodules import DrawnFaces, FolderFaces
from lightning_app.desensitize import CentreBlock, CentreBlur, Desensitizer, GaussianBlur, Mosaic
from lightning_app.desensitize.blur import default_sigma
from lightning_app.release import Pseudonyms
from lightning_app.release.audit.against_raw import AS_CLEAN
from lightning_app.release.audit.run import Audit
from lightning_app.release.format.public import made_with
from lightning_app.release.format.signing import fingerprint
from lightning_app.release.write.writer import write_release as release
from lightning_app.studies.audit import audit
from tests.release.by_hand import (
    KEY,
    SIZE,
    as_written,
    images,
    oval,
    png,
    relist,
    set_times,
    sha256,
    sign_as_it_is,
    write_release,
)

FACE = base64.b64encode(bytes(range(256)) * 12).decode()  # as long as a raw image of 32 px
Json = dict[str, Any]
Plant = Callable[[Path, Path], object]


class Nothing(Desensitizer):
    """Releases clean faces, under a name of its own."""

    def desensitize(self, image: Tensor) -> Tensor:
        return image


class Grain(Desensitizer):
    """Changes every pixel by a grey level at most."""

    def desensitize(self, image: Tensor) -> Tensor:
        noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return (image + noise / 128).clamp(0, 1)


class Speck(Desensitizer):
    """Changes one pixel."""

    def desensitize(self, image: Tensor) -> Tensor:
        changed = image.clone()
        changed[..., 9, 9] = 1 - changed[..., 9, 9]
        return changed


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


_good: dict[tuple[Path, str], Path] = {}  # releases that are made once and copied


def good(root: Path, raw: Path, desensitizer: Desensitizer | None = None) -> None:
    """A good release to spoil."""
    name = "mask" if desensitizer is None else type(desensitizer).__name__
    if (raw, name) not in _good:
        write_release(raw.parent / name, raw, desensitizer)
        _good[raw, name] = raw.parent / name
    shutil.copytree(_good[raw, name], root)


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
    raw_one = torch.from_numpy(_pixels(other / one.relative_to(root)))
    one.write_bytes(png(pixels(raw_one).numpy()))
    relist(root)


def _pixels(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(Image.open(path).convert("RGB"))


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


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three drawn people with two images each."""
    root = tmp_path_factory.mktemp("faces") / "raw"
    DrawnFaces(identities=3, images_per_identity=2, size=48, seed=2).write(root, count_per_class=1, folds=2)
    return root


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ed25519PrivateKey, Path, Path]:
    """A signing key, its public half, and the key of the pseudonyms."""
    home, key = tmp_path_factory.mktemp("owner"), Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (home / "sign.pub").write_bytes(public)
    (home / "key").write_text(KEY.hex() + "\n")
    (home / "key").chmod(0o600)
    return key, home / "sign.pub", home / "key"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show no tables: they take a third of the time here, and tests/commands/test_audit.py reads them."""
    monkeypatch.setattr("lightning_app.studies.audit._print_verdict", lambda *shown: None)


Owner = tuple[Ed25519PrivateKey, Path, Path]


def _audited(root: Path, raw: Path, owner: Owner, signed: bool, with_raw: bool) -> Audit:
    key, public, pseudonyms = owner
    if signed:
        path = root / "manifest.json"
        mine = f'"signer": "{fingerprint(key.public_key())}"'.encode()
        path.write_bytes(path.read_bytes().replace(b'"signer": null', mine))
        sign_as_it_is(root, key)
    set_times(root)
    return audit(
        str(root), raw=str(raw) if with_raw else None, key=str(pseudonyms) if with_raw else None,
        public_key=str(public) if signed else None,
    )  # fmt: skip


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("with_raw", [False, True], ids=["alone", "raw"])
@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_found(
    tmp_path: Path, raw: Path, owner: Owner, plant: str, with_raw: bool, signed: bool
) -> None:
    make, words = PLANTS[plant]
    make(tmp_path / "released", raw)
    found = _audited(tmp_path / "released", raw, owner, signed, with_raw)
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
    found = _audited(tmp_path / "released", raw, owner, signed, with_raw)
    assert found.findings == []
    hidden = [words for words in found.unproven if words.startswith("that any pixel is hidden (no mask")]
    assert bool(hidden) == (GOOD[method] is not None)


@pytest.mark.parametrize("face", ["smooth", "dark", "of one colour"])
@pytest.mark.parametrize("desensitizer", [GaussianBlur(9), CentreBlur(0.5, 9), Mosaic(8)])
def test_faces_that_no_method_could_change_much_pass(
    tmp_path: Path, owner: Owner, desensitizer: Desensitizer, face: str
) -> None:
    """Their dSSIM from the raw images is next to nothing, though all was done to them that can be."""
    rows, columns = np.mgrid[:48, :48]
    for person, number in itertools.product("ab", range(2)):
        grey = {"smooth": 90 + rows / 4 + columns / 5 + number, "of one colour": rows * 0 + 40 + number}
        grey["dark"] = (7 * rows + 5 * columns + number) % 11 // 10  # a grey level here and there
        path = tmp_path / "raw" / person / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[face].astype(np.uint8)).save(path)
    write_release(tmp_path / "released", tmp_path / "raw", desensitizer, channels=1)
    found = _audited(tmp_path / "released", tmp_path / "raw", owner, False, True)
    assert found.findings == []
    assert found.compared is not None
    assert found.compared.images == 4


def test_a_weak_method_of_ours_is_as_good_as_clean(tmp_path: Path, raw: Path, owner: Owner) -> None:
    write_release(tmp_path / "released", raw, CentreBlur(0.35, 2, 0.5))
    found = _audited(tmp_path / "released", raw, owner, False, True)
    said = {finding.file: finding.what for finding in found.findings}
    assert said["images"].startswith("are as good as clean: dSSIM")
    assert said["manifest.json"].startswith("sigma 0.5 with 3 weights blurs by 0.4"), (
        "without the raw set too"
    )


@pytest.mark.parametrize("desensitizer", [Nothing(), Grain(), Speck()])
def test_a_class_that_changes_next_to_nothing_is_found_though_the_config_names_it(
    tmp_path: Path, raw: Path, owner: Owner, desensitizer: Desensitizer
) -> None:
    write_release(tmp_path / "released", raw, desensitizer)
    (tmp_path / "d.yaml").write_text(_config(raw, f"tests.release.test_leaks.{type(desensitizer).__name__}"))
    config = str(tmp_path / "d.yaml")
    alone = audit(str(tmp_path / "released"), config=config)
    assert [finding.what for finding in alone.findings] == [
        "it has no mask, and nothing shows that its faces are desensitized: give --raw and --key as well"
    ]
    beside = audit(str(tmp_path / "released"), config=config, key=str(owner[2]))
    said = [finding.what for finding in beside.findings]
    assert any("are as good as clean: dSSIM from the raw images is 0.00" in what for what in said)
    assert said.count("is clean: its pixels are those of the raw image") == (
        6 if type(desensitizer) is Nothing else 0
    )


@pytest.mark.parametrize("black", [2, 6])
def test_images_that_are_black_under_the_mask_anyway_are_told_from_clean_ones(
    tmp_path: Path, raw: Path, owner: Owner, black: int
) -> None:
    """Cut-out faces on black: nothing of them is hidden, and nothing of them leaks."""
    cut = Path(shutil.copytree(raw, tmp_path / "raw"))
    files = sorted(cut.rglob("*.png"))
    for file in files[:black]:
        pixels = np.array(Image.open(file))
        pixels[:, 20:] = 0  # of 48; the crop takes 44, and the mask hides their right half
        Image.fromarray(pixels).save(file)
    left = torch.zeros(1, SIZE, SIZE)
    left[..., : SIZE // 2] = 1
    write_release(tmp_path / "released", cut, hides=left)
    found = _audited(tmp_path / "released", cut, owner, False, True)
    assert found.compared is not None
    assert (found.compared.images, found.compared.black) == (len(files), black)
    if black < len(files):
        assert found.findings == []
        assert (
            f"{black} of {len(files)} images compared are black under the mask in the raw set too"
            in " ".join(found.notes)
        )
    else:
        (finding,) = found.findings
        assert finding.file == "images"
        assert "black under the mask in the raw set too, so that it hides nothing" in finding.what


class Inverted(Desensitizer):
    """A method of one's own that changes every pixel."""

    def desensitize(self, image: Tensor) -> Tensor:
        return 1 - image


def test_a_class_of_ones_own_passes_where_the_config_names_it(
    tmp_path: Path, raw: Path, owner: Owner
) -> None:
    write_release(tmp_path / "released", raw, Inverted())
    (tmp_path / "d.yaml").write_text(_config(raw, "tests.release.test_leaks.Inverted"))
    found = audit(str(tmp_path / "released"), config=str(tmp_path / "d.yaml"), key=str(owner[2]))
    assert found.findings == []
    assert found.compared is not None
    assert found.compared.images == 6


class Favours(Desensitizer):
    """Changes one pixel of some people's images, and every pixel of the others'."""

    def desensitize(self, image: Tensor) -> Tensor:
        spared = image[:, :, SIZE // 2, SIZE // 2].sum(1) * 255 % 2 < 1  # an odd or an even colour
        return torch.where(spared.view(-1, 1, 1, 1), Speck().desensitize(image), 1 - image)


def test_a_class_that_spares_some_is_found_though_most_are_changed(
    tmp_path: Path, raw: Path, owner: Owner
) -> None:
    write_release(tmp_path / "released", raw, Favours())
    (tmp_path / "d.yaml").write_text(_config(raw, "tests.release.test_leaks.Favours"))
    found = audit(str(tmp_path / "released"), config=str(tmp_path / "d.yaml"), key=str(owner[2]))
    assert found.compared is not None
    assert found.compared.mean_dssim is not None
    assert found.compared.mean_dssim > AS_CLEAN
    said = [finding.what for finding in found.findings]
    assert 0 < len(said) < 6
    assert all(what.startswith("is as good as clean: dSSIM from its raw image is 0.00") for what in said)


def _config(raw: Path, desensitizer: str) -> str:
    init = {"root": str(raw), "size": SIZE, "crop": 44, "cache_index": False}
    reader = {"class_path": "datamodules.FolderFaces", "init_args": init}
    return json.dumps({"reader": reader, "desensitizer": {"class_path": desensitizer}})


def test_another_file_name_is_found_with_the_key_alone(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """80 bits of a name: without key and raw set nobody can tell, and the first line says so."""
    root = tmp_path / "released"
    write_release(root, raw)
    one = images(root)[0]
    other = one.with_name("a" * 20 + ".png")
    one.rename(other)
    whole = json.loads((root / "manifest.json").read_text())
    old, new = (path.relative_to(root).as_posix() for path in (one, other))
    whole["files"][new] = whole["files"].pop(old)
    (root / "manifest.json").write_text(as_written(whole))
    alone = _audited(root, raw, owner, signed=False, with_raw=False)
    assert alone.findings == []
    assert any("pseudonyms and counts carry nothing else (--raw, --key)" in words for words in alone.unproven)
    beside = _audited(root, raw, owner, signed=False, with_raw=True)
    assert [(f.file, f.what) for f in beside.findings] == [(new, "bears the pseudonym of no raw image")]


def test_refused_counts_are_counted_with_the_raw_set(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """A count that the schema allows still carries bits: with the raw set it is held against what is there."""
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "Drawn_00000" / "none.png").write_bytes(b"")
    write_release(tmp_path / "released", raw)  # of the good ones
    relist(tmp_path / "released", refused={"outside the identities' folders": 1, "empty file": 7})
    config = tmp_path / "d.yaml"
    config.write_text(_config(tmp_path / "raw", "lightning_app.desensitize.MaskOut"))
    part = json.loads(config.read_text())
    part["desensitizer"]["init_args"] = {"mask": str(tmp_path / "released" / "mask.png")}
    config.write_text(json.dumps(part))
    too_many = audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2]))
    assert [f.what for f in too_many.findings] == [
        "refused counts 7 files for 'empty file', the raw set has 1"
    ]
    relist(tmp_path / "released", refused={"outside the identities' folders": 1})
    assert audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2])).findings == []
    exact = audit(str(tmp_path / "released"), config=str(config), key=str(owner[2]))
    assert [f.what for f in exact.findings] == ["refused counts 0 files for 'empty file', the raw set has 1"]
    relist(tmp_path / "released", refused={"outside the identities' folders": 1, "empty file": 1})
    assert audit(str(tmp_path / "released"), config=str(config), key=str(owner[2])).findings == []


def test_channels_are_those_of_the_images(tmp_path: Path, raw: Path) -> None:
    root = tmp_path / "released"
    write_release(root, raw)
    for one in images(root):
        one.write_bytes(png(_pixels(one)[..., :1].repeat(3, 2)))
    relist(root)
    assert [f.what for f in audit(str(root)).findings] == ["channels is 3, no image has more than 1"]
    relist(root, channels=1)
    assert audit(str(root)).findings == []


@pytest.mark.parametrize("allowed", [False, True])
def test_lossy_sources_are_counted_as_they_were_refused(
    tmp_path: Path, raw: Path, owner: Owner, allowed: bool
) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    with Image.open(raw / "Drawn_00000" / "Drawn_00000_0001.png") as image:
        image.save(tmp_path / "raw" / "Drawn_00000" / "lossy.webp", quality=80)
    config = tmp_path / "d.yaml"
    config.write_text(_config(tmp_path / "raw", "lightning_app.desensitize.GaussianBlur"))
    reader = FolderFaces(tmp_path / "raw", size=SIZE, crop=44, cache_index=False)
    made = release(
        reader, GaussianBlur(), tmp_path / "out", tmp_path / "owner", KEY, workers=0, allow_lossy_webp=allowed
    )
    assert made.manifest.images == 6 + allowed
    assert made.manifest.refused.get("lossy WebP", 0) == (not allowed)
    for folder, given in ((str(tmp_path / "raw"), None), (None, str(config))):
        found = audit(str(tmp_path / "out"), raw=folder, config=given, key=str(owner[2]))
        assert found.findings == []
        assert found.compared is not None
        assert found.compared.images == 6 + allowed


def test_nothing_compared_is_a_finding(tmp_path: Path, raw: Path, owner: Owner) -> None:
    write_release(tmp_path / "released", raw)
    shutil.copytree(raw, tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*.png"):
        path.write_bytes(b"\x89PNG")
    found = audit(str(tmp_path / "released"), raw=str(tmp_path / "raw"), key=str(owner[2]))
    said = {f.what for f in found.findings}
    assert "none of 6 images could be compared with its raw one" in said
    assert "was released, but its raw image cannot be decoded" in said
    assert found.compared is not None
    assert found.compared.images == 0


def test_a_good_release_of_a_centre_block(tmp_path: Path, raw: Path, owner: Owner) -> None:
    block = CentreBlock(0.5)
    block.prepare((SIZE, SIZE))
    assert block.mask is not None
    write_release(tmp_path / "released", raw, hides=block.mask[0])
    description = block.describe()
    mask_json = tmp_path / "released" / "mask.json"
    mask_json.write_text(mask_json.read_text().replace("MaskOut", "CentreBlock"))
    relist(tmp_path / "released", method=description)
    found = _audited(tmp_path / "released", raw, owner, signed=False, with_raw=True)
    assert found.findings == []
    relist(
        tmp_path / "released", method=description | {"fraction": 0.49}
    )  # another fraction, the same pixels
    assert _audited(tmp_path / "released", raw, owner, signed=False, with_raw=True).findings == []
    relist(tmp_path / "released", method=description | {"fraction": 0.4})
    (finding,) = _audited(tmp_path / "released", raw, owner, signed=False, with_raw=True).findings
    assert "is not what CentreBlock says of itself" in finding.what


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


def test_a_pipe_for_a_mask_is_not_waited_for(tmp_path: Path, raw: Path, owner: Owner) -> None:
    """With the raw set the audit opened it, and never ended."""
    good(tmp_path / "released", raw)
    (tmp_path / "released" / "mask.png").unlink()
    os.mkfifo(tmp_path / "released" / "mask.png")
    found = _audited(tmp_path / "released", raw, owner, False, True)
    said = [finding.what for finding in found.findings if finding.file in ("images", "mask.png")]
    assert any("is neither file nor folder: name one PNG file" in what for what in said)
    assert "is missing" in said
