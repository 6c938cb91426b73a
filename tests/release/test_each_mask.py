"""Releases under a mask for each image: what they hold, how they are audited, and gone on with."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_app.core.batch import Batch
from lightning_app.core.key_file import write_secret
from lightning_app.desensitize import Chain, LearnedMask
from lightning_app.desensitize import masker as masker_module
from lightning_app.masks.learned import grown, shown_pixels, top_mask
from lightning_app.release import Manifest, Pseudonyms
from lightning_app.release.audit.agreed import Agreed
from lightning_app.release.audit.run import audit
from lightning_app.release.audit.verdict import first_line, left_open
from lightning_app.release.format.method import describe
from lightning_app.release.write import batch_writer, finish, work
from lightning_app.studies.audit import audit as audit_command
from tests.command_line import RunMain, refused
from tests.release.each import KINDS, SHOWN, checkpoint, learned, pairs_of_files, pixels, release_each
from tests.release.released import CONSTANT, CROP, KEY, SIZE, contents, raw_tree, reader_of, times

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `raw`, `key`, the maskers, and a release of each kind."""
    home = tmp_path_factory.mktemp("each")
    raw_tree(home / "raw")
    write_secret(home / "key", KEY.hex().encode() + b"\n")
    for kind in KINDS:
        release_each(home, home / "raw", kind)
    return home


def audited(home: Path, kind: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"raw": str(home / "raw"), "key": str(home / "key"), "masker": str(checkpoint(home, kind)),
             "compare_all": True, "accept_interference": kind == "free"}  # fmt: skip
    audit_command(str(home / kind), json_path=str(tmp_path / "audit.json"), **(given | more))
    found: dict[str, Any] = json.loads((tmp_path / "audit.json").read_text())
    return found


# -- what is written


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_and_its_mask_are_those_made_on_the_fly(kind: str, home: Path) -> None:
    reader, made, names = reader_of(home / "raw"), learned(home, kind), Pseudonyms(KEY)
    by_name = {}
    for index in range(len(reader)):
        person = reader.identities[int(reader.labels[index])]
        by_name[f"{names.identity(person)}/{names.image(person, reader.stable_name(index))}.png"] = index
    assert made.kind == kind
    for image, mask in pairs_of_files(home / kind):
        index = by_name[image.relative_to(home / kind / "images").as_posix()]
        batch: Batch = {"image": reader[index]["image"].float() / 255, "index": torch.tensor([index])}
        out = made(batch)
        seen = out["mask"][out["mask_index"]][0, 0].numpy()
        assert (pixels(mask)[..., 0] == seen * 255).all()
        assert seen.sum() == SHOWN == shown_pixels(0.24, SIZE)
        wanted = (out["image"][0] * 255).round().permute(1, 2, 0).numpy()
        assert (pixels(image) == wanted).all()


@pytest.mark.parametrize("kind", KINDS)
def test_its_manifest(kind: str, home: Path) -> None:
    manifest = Manifest.read(home / kind)
    assert manifest.version == 4
    assert manifest.mask is None
    assert manifest.masks is not None
    assert (manifest.masks.shown, manifest.masks.batch) == (SHOWN, 4)
    assert manifest.method["kind"] == kind
    assert manifest.method["masker_hash"] == learned(home, kind).describe()["masker_hash"]
    assert (manifest.masks.codes > 1) == (kind == "codebook")
    assert "ckpt" not in (home / kind / "manifest.json").read_text()
    assert times(home / kind) == CONSTANT


def test_bytes_do_not_depend_on_workers_or_batch(home: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        release_each(tmp_path, home / "raw", kind, desensitizer=learned(home, kind), workers=2)
        assert contents(tmp_path / kind) == contents(home / kind)


# -- what an audit says


@pytest.mark.parametrize("kind", KINDS)
def test_its_audit_with_raw(kind: str, home: Path, tmp_path: Path) -> None:
    found = audited(home, kind, tmp_path)
    assert found["passed"], found["findings"]
    assert found["released_again"] == 20
    assert (found["mask_kind"], found["mask_pixels_apart"]) == (kind, 0)
    assert found["mask_ratio"] == 1 - SHOWN / SIZE**2
    said = {
        "core_first": "mask ratio 0.7604, none depends on what it hides",
        "codebook": "which of 3 public masks lies on an image may tell 1.585 bits of what it hides",
        "free": "audit PASSED; THE MASK OF AN IMAGE DEPENDS ON WHAT IT HIDES (kind free: up to 452.86 bits",
    }
    assert said[kind] in found["verdict"]
    assert not any("mask" in line for line in found["not_proven"])


@pytest.mark.parametrize("kind", KINDS)
def test_its_audit_without_raw(kind: str, home: Path) -> None:
    found = audit(home / kind)
    assert not found.findings
    assert found.files == 20
    line = first_line(found, left_open(found, Agreed(), False), 1.0)
    open_ = (
        "that no mask depends on what it hides"
        if kind == "core_first"
        else "that the masks are their masker's"
    )
    assert f"NOT PROVEN: {open_} (--masker, --raw, --key)" in line
    assert ("DEPENDS ON WHAT IT HIDES" in line) == (kind == "free")
    assert "none depends" not in line


def test_a_sample_is_whole_batches(home: Path, tmp_path: Path) -> None:
    found = audited(home, "core_first", tmp_path, compare_all=False, sample=5, seed=1)
    assert found["passed"]
    assert found["released_again"] == 8


def test_another_masker_is_refused(home: Path, tmp_path: Path) -> None:
    other = checkpoint(home, "core_first")
    saved = torch.load(other, weights_only=True)
    saved["state_dict"]["masker.last.bias"] += 1
    torch.save(saved, tmp_path / "other.ckpt")
    found = audited(home, "core_first", tmp_path, masker=str(tmp_path / "other.ckpt"))
    assert not found["passed"]
    assert "other.ckpt: its masker's hash is" in str(found["findings"])
    missing = audited(home, "core_first", tmp_path, masker=None)
    assert "could not be compared with the raw set: give --masker" in str(missing["findings"])


def write_config(home: Path, path: Path, kind: str, **more: Any) -> Path:
    path.write_text(json.dumps({
        "reader": {"class_path": "datamodules.FolderFaces",
                   "init_args": {"root": str(home / "raw"), "crop": CROP, "size": SIZE}},
        "desensitizer": {"class_path": "lightning_app.desensitize.LearnedMask",
                         "init_args": {"checkpoint": str(checkpoint(home, kind)), "kind": kind, "share": 0.24}},
        "output": str(path.parent / "out"), "workers": 0, "batch_size": 4,
    } | more))  # fmt: skip
    return path


def test_a_config_names_the_masker(home: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        config = write_config(home, tmp_path / f"{kind}.yaml", kind)
        found = audited(home, kind, tmp_path, raw=None, masker=None, config=str(config))
        assert found["passed"], found["findings"]
    other = write_config(home, tmp_path / "other.yaml", "free")
    found = audited(home, "codebook", tmp_path, raw=None, masker=None, config=str(other))
    assert "its method is not that of --config's LearnedMask" in str(found["findings"])


@pytest.mark.parametrize(("option", "said"), [
    ({"mask_hash": "0" * 64}, "it has a mask for each image, but --mask-hash was agreed on"),
    ({"min_mask_ratio": 0.8}, "hides 0.7604 of the pixels, less than --min-mask-ratio 0.8"),
])  # fmt: skip
def test_what_was_agreed_on(option: dict[str, Any], said: str, home: Path, tmp_path: Path) -> None:
    assert said in str(audited(home, "core_first", tmp_path, **option)["findings"])


# -- what is refused


def test_free_must_be_asked_for(
    home: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(home, tmp_path / "free.yaml", "free")
    line = refused(capsys, lambda: run_main("desensitize", "--config", config))
    assert "an image's mask depends on what it hides, and may be a drawing of it" in line
    assert "--accept-interference" in line
    assert not (tmp_path / "out").exists()
    run_main("desensitize", "--config", config, "--accept-interference")
    assert Manifest.read(tmp_path / "out").method["kind"] == "free"
    told = re.search(
        r"^Next: python main\.py (audit .* --accept-interference)$", capsys.readouterr().out, re.M
    )
    assert told is not None
    run_main(*told[1].split())
    assert "audit PASSED; THE MASK OF AN IMAGE DEPENDS" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="1"):  # whoever reads the exit code alone is told, too
        run_main(*told[1].split()[:-1])
    said = " ".join(capsys.readouterr().out.split())
    assert "audit FAILED" in said
    assert "--accept-interference where that was agreed on" in said
    found = audited(home, "core_first", tmp_path, accept_interference=True)
    assert found["passed"]
    assert any("--accept-interference was not needed" in note for note in found["notes"])
    core = write_config(home, tmp_path / "core.yaml", "core_first", accept_interference=True)
    line = refused(capsys, lambda: run_main("desensitize", "--config", core, "--overwrite"))
    assert "accept_interference: true, but kind core_first is bounded; leave it out" in line


class Own(LearnedMask):
    """A class of the user's."""


class Promising(LearnedMask):
    """A class of the user's that promises."""

    has_mask, hides_only, explains_masks = True, True, True


def test_of_other_classes_and_chains_there_is_no_release(home: Path, tmp_path: Path) -> None:
    own = Own(checkpoint(home, "core_first"), 0.24, "core_first")
    with pytest.raises(
        ValueError, match="Own gives each image a mask of its own and does not promise to explain its masks"
    ):
        release_each(tmp_path, home / "raw", "core_first", desensitizer=own)
    own.explains_masks = True  # an object adds nothing to what its class promises
    with pytest.raises(ValueError, match="Own gives each image a mask of its own and does not promise"):
        release_each(tmp_path, home / "raw", "core_first", desensitizer=own)
    promising = Promising(checkpoint(home, "core_first"), 0.24, "core_first")
    with pytest.raises(
        ValueError, match=r"Promising gives each image .* of FaceVeil's own classes alone: an audit"
    ):
        release_each(tmp_path, home / "raw", "core_first", desensitizer=promising)
    promising.prepare((SIZE, SIZE))
    with pytest.raises(ValueError, match=r"Promising gives .* are described of FaceVeil's own classes alone"):
        describe(promising, SIZE, None, each=True)
    chain = Chain([learned(home, "core_first")])
    with pytest.raises(ValueError, match="Chain: its step LearnedMask gives each image a mask of its own"):
        release_each(tmp_path, home / "raw", "core_first", desensitizer=chain)


@pytest.fixture
def peeking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted masker: it draws the hidden pixels, whatever it should look at."""

    def drawn(network: Any, image: Any, shown: int, growth: Any) -> Any:
        mask = top_mask(image.mean(1, keepdim=True), shown)
        return mask, [(image.mean(1, keepdim=True), mask)]

    monkeypatch.setattr(masker_module, "grown", drawn)
    monkeypatch.setattr(masker_module, "runs", lambda *given: iter(()))  # rounding makes no other mask of it


def test_a_masker_that_draws_hidden_pixels_is_found_while_it_releases(
    peeking: None, home: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match="lets hidden pixels reach masks: with noise under its mask 4 of 4 images"
    ):
        release_each(tmp_path, home / "raw", "core_first", desensitizer=learned(home, "core_first"))
    assert not list((tmp_path / "core_first").rglob("*.png"))


def test_and_by_the_audit_with_raw(peeking: None, home: Path, tmp_path: Path) -> None:
    found = audited(home, "core_first", tmp_path)
    text = str(found["findings"])
    assert "depends on hidden pixels: the masker makes another mask of its image with noise under it" in text
    assert "is not the masker's: run again on the raw image it differs in" in text


def test_masks_of_another_number_of_pixels(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = grown
    monkeypatch.setattr(masker_module, "grown", lambda n, i, shown, g: honest(n, i, shown + 1, g))
    with pytest.raises(ValueError, match=r"shows \[139\] pixels of images, not 138"):
        release_each(tmp_path, home / "raw", "free", desensitizer=learned(home, "free"))


# -- stopped and gone on with


def dying(home: Path, raw: Path, kind: str, name: str, at: int) -> None:
    """Release, and be killed in the midst: before that call of that function."""
    module: Any = work if name == "encode_png" else batch_writer if name in vars(batch_writer) else finish
    kept, left = getattr(module, name), [at]

    def dies(*args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return kept(*args, **more)

    setattr(module, name, dies)
    release_each(home, raw, kind)


@pytest.mark.parametrize(("kind", "name", "at", "kept"), [
    ("core_first", "write_codes", 0, 20), ("codebook", "write_codes", 0, 20), ("codebook", "encode_mask", 1, 20),
    ("codebook", "walk_release", 0, 20), ("free", "encode_png", 6, 4), ("core_first", "encode_png", 11, 8),
])  # fmt: skip
def test_a_kill_leaves_no_trace(kind: str, name: str, at: int, kept: int, home: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint(home, kind), tmp_path)
    process = FORK.Process(target=dying, args=(tmp_path, home / "raw", kind, name, at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = release_each(tmp_path, home / "raw", kind)
    assert (again.made, again.kept) == (20 - kept, kept)
    assert contents(tmp_path / kind) == contents(home / kind)
    assert times(tmp_path / kind) == CONSTANT


def test_what_was_lost_or_spoilt_is_made_again(home: Path, tmp_path: Path) -> None:
    release_each(tmp_path, home / "raw", "core_first", desensitizer=learned(home, "core_first"))
    files = pairs_of_files(tmp_path / "core_first")
    files[3][1].unlink()
    files[9][1].write_bytes(files[10][1].read_bytes())
    again = release_each(tmp_path, home / "raw", "core_first", desensitizer=learned(home, "core_first"))
    assert again.made == 8  # two batches of four
    assert contents(tmp_path / "core_first") == contents(home / "core_first")


def test_another_release_takes_its_place(home: Path, tmp_path: Path) -> None:
    made = {kind: learned(home, kind) for kind in KINDS}
    release_each(tmp_path, home / "raw", "codebook", "out", desensitizer=made["codebook"])
    release_each(tmp_path, home / "raw", "core_first", "out", desensitizer=made["core_first"], overwrite=True)
    assert contents(tmp_path / "out") == contents(home / "core_first")
    (tmp_path / "out" / "masks" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds masks/notes\.txt, which is of no release"):
        release_each(tmp_path, home / "raw", "free", "out", desensitizer=made["free"], overwrite=True)


def test_a_bad_image_leaves_no_mask(home: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(home / "raw", tmp_path / "raw"))
    release_each(tmp_path, raw, "free", desensitizer=learned(home, "free"))
    (raw / "Person 0" / "2.jpg").write_bytes(b"no image")
    release_each(tmp_path, raw, "free", desensitizer=learned(home, "free"))
    found = Manifest.read(tmp_path / "free")
    assert (found.images, len(pairs_of_files(tmp_path / "free"))) == (19, 19)
    assert not audit(tmp_path / "free").findings
    write_secret(tmp_path / "key", KEY.hex().encode() + b"\n")
    audit_command(str(tmp_path / "free"), raw=str(raw), key=str(tmp_path / "key"), compare_all=True,
                  accept_interference=True,
                  masker=str(checkpoint(home, "free")), json_path=str(tmp_path / "a.json"))  # fmt: skip
    said = json.loads((tmp_path / "a.json").read_text())
    assert said["passed"], said["findings"]
    assert (said["released_again"], said["mask_pixels_apart"]) == (19, 0)
