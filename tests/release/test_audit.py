from __future__ import annotations

import errno
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_app.core.png import encode_png
from lightning_app.desensitize import Identity
from lightning_app.release.audit.run import audit
from tests.release.by_hand import blur, images, oval, relist, said, set_times, sha256, write_release


def save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    path.write_bytes(encode_png(pixels))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_release_passes(made: Path, workers: int) -> None:
    totals: list[int] = []
    done: list[int] = []
    found = audit(made, workers=workers, begin=totals.append, advance=done.append)
    assert found.findings == []
    assert found.notes == ["the release is not signed"]
    assert found.files == sum(totals) == sum(done) == 48
    assert found.bytes == sum(path.stat().st_size for path in images(made))


def test_a_release_without_a_mask_passes_and_says_so(tmp_path: Path, drawn_root: Path) -> None:
    write_release(tmp_path / "blurred", drawn_root, blur())
    found = audit(tmp_path / "blurred")
    assert found.findings == []
    assert any("no mask: no pixel is hidden" in note for note in found.notes)


def test_a_release_of_clean_faces_does_not(tmp_path: Path, drawn_root: Path) -> None:
    write_release(tmp_path / "clean", drawn_root, Identity())
    assert said(audit(tmp_path / "clean")) == {
        "manifest.json": ["its method is Identity: every released image is a clean one"]
    }


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("listed", [False, True])
def test_a_hidden_pixel_is_found_in_any_channel(released: Path, channel: int, listed: bool) -> None:
    hidden = np.argwhere(oval()[0].numpy() == 0)
    row, column = hidden[len(hidden) // 2].tolist()
    one = images(released)[7]
    pixels = np.array(Image.open(one).convert("RGB"))
    pixels[row, column, channel] ^= 1
    save(one, pixels)
    set_times(released)
    if listed:
        relist(released)
    name = one.relative_to(released).as_posix()
    wanted = [f"1 hidden pixel is not 0, the first at row {row}, column {column}"]
    wanted += [] if listed else ["its SHA-256 is not the manifest's"]
    assert said(audit(released)) == {name: wanted}


def test_a_visible_pixel_is_found_by_its_hash(released: Path) -> None:
    row, column = np.argwhere(oval()[0].numpy() == 1)[0].tolist()
    one = images(released)[3]
    pixels = np.array(Image.open(one))
    pixels[row, column] ^= 1
    save(one, pixels)
    set_times(released)
    assert said(audit(released)) == {
        one.relative_to(released).as_posix(): ["its SHA-256 is not the manifest's"]
    }


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", [b"tEXt", b"eXIf", b"tIME"])
def test_a_planted_chunk_is_found(released: Path, name: bytes, listed: bool) -> None:
    one = images(released)[0]
    data = one.read_bytes()
    one.write_bytes(data[:33] + chunk(name, b"Name\0Ann") + data[33:])
    set_times(released)
    if listed:
        relist(released)
    found = said(audit(released))
    assert list(found) == [one.relative_to(released).as_posix()]
    assert (
        f"has a chunk {name.decode()} of 8 bytes: only IHDR, IDAT and IEND may be there"
        in found[one.relative_to(released).as_posix()]
    )


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("what", ["an image", "mask.png"])
def test_an_appended_byte_is_found(released: Path, what: str, listed: bool) -> None:
    one = images(released)[-1] if what == "an image" else released / "mask.png"
    one.write_bytes(one.read_bytes() + b"\0")
    set_times(released)
    if listed and what == "an image":
        relist(released)
    found = said(audit(released))
    assert list(found) == [one.relative_to(released).as_posix()]
    assert "has 1 bytes after IEND" in found[one.relative_to(released).as_posix()]


def test_strays_are_found(released: Path) -> None:
    (released / "notes.txt").write_text("Ann is face 7")
    (released / ".DS_Store").write_bytes(b"\0")
    (released / "images" / "thumbs").mkdir()
    folder = images(released)[0].parent
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "face.png").write_bytes(b"x")
    (released / "link").symlink_to("/etc/hostname")
    os.mkfifo(released / "pipe")
    set_times(released)
    below = folder.relative_to(released).as_posix()
    assert said(audit(released)) == {
        "notes.txt": ["is a file that the manifest does not list"],
        ".DS_Store": ["is a hidden file that the manifest does not list"],
        "images/thumbs": ["is a folder that the manifest does not list"],
        f"{below}/.hidden.png": ["is a hidden file that the manifest does not list"],
        f"{below}/deeper": ["is a folder that the manifest does not list"],
        f"{below}/deeper/face.png": ["is a file that the manifest does not list"],
        "link": ["is a symbolic link"],
        "pipe": ["is neither file nor folder"],
    }


def test_a_listed_file_that_became_a_link_is_not_followed(released: Path, tmp_path: Path) -> None:
    one = images(released)[0]
    one.rename(tmp_path / "elsewhere.png")
    one.symlink_to(tmp_path / "elsewhere.png")
    set_times(released)
    assert said(audit(released)) == {
        one.relative_to(released).as_posix(): ["is a symbolic link", "is missing"]
    }


def test_a_renamed_file_is_found(released: Path) -> None:
    one = images(released)[4]
    other = one.with_name("0123456789abcdef0123.png")
    one.rename(other)
    set_times(released)
    old, new = (path.relative_to(released).as_posix() for path in (one, other))
    assert said(audit(released)) == {
        old: ["is missing"],
        new: [f"holds what {old} should hold", "is a file that the manifest does not list"],
    }


@pytest.mark.parametrize("what", ["an image", "mask.png", "mask.json"])
def test_a_missing_file_is_found(released: Path, what: str) -> None:
    one = images(released)[4] if what == "an image" else released / what
    one.unlink()
    set_times(released)
    assert said(audit(released)) == {one.relative_to(released).as_posix(): ["is missing"]}


def test_swapped_files_are_found(released: Path) -> None:
    a, b = images(released)[2], images(released)[40]
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    set_times(released)
    one, other = (path.relative_to(released).as_posix() for path in (a, b))
    assert said(audit(released)) == {
        one: [f"holds what {other} should hold", "its SHA-256 is not the manifest's"],
        other: [f"holds what {one} should hold", "its SHA-256 is not the manifest's"],
    }


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_found(released: Path, data: bytes) -> None:
    one = images(released)[1]
    one.write_bytes(data)
    set_times(released)
    found = said(audit(released))
    assert list(found) == [one.relative_to(released).as_posix()]
    assert len(next(iter(found.values()))) == 2


def test_an_image_of_another_size_or_more_channels_is_found(released: Path) -> None:
    a, b = images(released)[:2]
    save(a, np.zeros((16, 32), np.uint8))
    pixels = np.array(Image.open(b).convert("RGB"))
    save(b, pixels)
    relist(released, channels=1)
    found = said(audit(released))
    assert found[a.relative_to(released).as_posix()] == ["has 32×16 pixels, the manifest says 32×32"]
    assert found[b.relative_to(released).as_posix()] == ["has 3 channels, the manifest says 1"]


def _counted(text: str) -> str:
    return text.replace('"images": 48', '"images": 47')


def _sized(text: str) -> str:
    manifest = json.loads(text)
    manifest["size"], manifest["method"]["size"] = 33, [33, 33]
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def _spaced(text: str) -> str:
    return text.replace('"images": 48', '"images":  48')


def _twice(text: str) -> str:
    return text.replace('"images": 48', '"images": 48, "images": 48')


def _added(text: str) -> str:
    return text.replace('"images": 48', '"images": 48, "made_by": "Ann"')


def _ratio(text: str) -> str:
    manifest = json.loads(text)
    manifest["mask"]["mask_ratio"] += 0.01
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def _placed(text: str) -> str:
    manifest = json.loads(text)
    manifest["method"]["from"] = "/home/ann/faces"
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_counted, "images is 47, but its files have 48"),
        (_spaced, "is not written as `desensitize` writes it"),
        (_twice, "a name stands in it twice"),
        (_added, "'made_by' does not belong there"),
        (_ratio, "gives mask ratio"),
        (_placed, "method: it has entries that MaskOut is not described by"),
        (lambda text: text[:-40], "is not JSON"),
        (lambda text: text.replace("images/", "../"), "does not belong there"),
    ],
)
def test_an_altered_manifest_is_found(released: Path, change: Callable[[str], str], words: str) -> None:
    path = released / "manifest.json"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    set_times(released)
    assert any(words in what for what in said(audit(released))["manifest.json"])


def test_a_manifest_of_another_size_is_found_in_every_image(released: Path) -> None:
    path = released / "manifest.json"
    path.write_text(_sized(path.read_text()))
    set_times(released)
    found = said(audit(released))
    assert found["mask.png"] == ["has 32×32 pixels of 1 channels, not 33×33 of one"]
    assert sum(what == ["has 32×32 pixels, the manifest says 33×33"] for what in found.values()) == 48


def test_a_folder_without_manifest_is_no_release(released: Path, tmp_path: Path) -> None:
    (released / "manifest.json").unlink()
    assert said(audit(released)) == {
        "manifest.json": ["is missing: this is no finished release; nothing else was checked"]
    }
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        audit(tmp_path / "nowhere")


def test_an_altered_mask_is_found_and_not_believed(released: Path) -> None:
    path = released / "mask.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0] = 255 - pixels[0, 0]
    save(path, pixels)
    set_times(released)
    found = audit(released)
    assert said(found) == {
        "mask.png": [
            "its SHA-256 is not the manifest's",
            "its pixels are not those whose hash the manifest gives",
        ]
    }
    assert "hidden pixels were not checked: mask.png is not the manifest's" in found.notes


@pytest.mark.parametrize("value", [0, 255, 128])
def test_a_mask_that_is_none_is_found(released: Path, value: int) -> None:
    save(released / "mask.png", np.full((32, 32), value, np.uint8))
    set_times(released)
    assert "is not a mask of 0 (hidden) and 255 (visible), some of each" in said(audit(released))["mask.png"]


def test_facts_of_the_mask_are_the_manifests(released: Path) -> None:
    path = released / "mask.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"mask_ratio": 0.99, "made_from": "~/faces/ann"}))
    set_times(released)
    assert said(audit(released)) == {
        "mask.json": [
            "is not written as `desensitize` writes it: something was changed or added",
            "its SHA-256 is not the manifest's",
            "its mask_ratio is not that of the mask in the manifest",
            "names a place on a disk",
        ]
    }


@pytest.mark.parametrize("change", [
    lambda text: text.replace("{", '{"Anna Secret": 1,', 1),
    lambda text: text.replace('"made_by"', '"guard": 0, "made_by"'),  # twice: `json.loads` takes the last
    lambda text: text.replace("  ", " "),
    lambda text: text.replace('"version": "', '"version": "Anna '),
])  # fmt: skip
def test_facts_of_the_mask_hold_nothing_more(released: Path, change: Callable[[str], str]) -> None:
    path = released / "mask.json"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    relist(released)
    (finding,) = said(audit(released))["mask.json"]
    assert "something was changed or added" in finding or "a name stands in it twice" in finding


def _changed(released: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    path = released / "manifest.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
    set_times(released)
    found = said(audit(released))
    assert list(found) == ["manifest.json"]
    return found["manifest.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(size=10**7), "size is 10000000, not a number of pixels from 1 to 2048"),
        (lambda m: m.update(size=10**19), "it holds a number that is too large"),
        (lambda m: m["mask"].update(guard=10**400), "it holds a number that is too large"),
        (lambda m: m["mask"].update(guard=33), "guard is 33, wider than the images of 32 px"),
        (lambda m: m["method"].update(sigma=float("nan")), "it holds a number that is not finite"),
        (lambda m: m["method"].update(sigma=-float("inf")), "it holds a number that is not finite"),
        (lambda m: m["method"].update(guard=2), "method.guard is not mask.guard"),
        (
            lambda m: m["versions"].update({"Anna Secret": "1"}),
            "its versions have an entry that is no package's",
        ),
    ],
)
def test_a_crafted_manifest_is_found(
    released: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    (finding,) = _changed(released, change)
    assert words in finding
    assert "Anna" not in finding


@pytest.mark.parametrize("inner", ["[" * 200_000, "[" * 300 + "]" * 300, "1e999", "9" * 5000])
def test_json_that_breaks_its_readers_is_found(released: Path, inner: str) -> None:
    for name, begin in (("mask.json", "{"), ("manifest.json", '"method": {')):
        path = released / name
        path.write_text(path.read_text().replace(begin, begin + f'"x": {inner}, ', 1))
        set_times(released)
        assert any("is not JSON (" in what for what in said(audit(released))[name])


def test_a_guard_is_said_the_same_everywhere(released: Path) -> None:
    path = released / "manifest.json"
    description = json.loads(path.read_text())
    description["mask"]["guard"] = description["method"]["guard"] = 2
    path.write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")
    set_times(released)
    assert "its guard is not that of the mask in the manifest" in said(audit(released))["mask.json"]


def test_a_copy_without_time_stamps_is_one_finding(released: Path) -> None:
    for one in (released, *images(released)):
        os.utime(one)
    assert [(f.file, f.what) for f in audit(released).findings] == [
        (".", "49 files and folders bear other time stamps than every released file does, as after `cp -r`: copy with "
              "`cp -a`, or audit with --ignore-times"),
    ]  # fmt: skip


def test_a_file_system_without_attributes_is_noted(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object, **more: object) -> list[str]:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "listxattr", unsupported)
    found = audit(released)
    assert found.findings == []
    assert found.notes.count("extended attributes were not checked: this file system keeps none") == 1


def test_a_time_stamp_tells(released: Path) -> None:
    one = images(released)[9]
    os.utime(one, (1_700_000_000, 1_700_000_000))
    os.utime(one.parent, (1_700_000_000, 1_700_000_000))
    wanted = ["its time stamp is not the one that every released file bears"]
    found = audit(released)
    assert said(found) == {path.relative_to(released).as_posix(): wanted for path in (one, one.parent)}
    later = audit(released, times=False)
    assert later.findings == []
    assert "time stamps were not checked" in later.notes


def test_a_huge_file_is_not_read_whole(released: Path) -> None:
    one = images(released)[0]
    with one.open("r+b") as file:
        file.seek(20_000_000_000)  # sparse: 20 GB that take no room
        file.write(b"x")
    set_times(released)
    assert "its SHA-256 is not the manifest's" in said(audit(released))[one.relative_to(released).as_posix()]


@pytest.mark.parametrize("name", ["mask.png", "images"])
def test_a_picture_that_only_claims_its_size_takes_no_memory(released: Path, name: str) -> None:
    """Some kilobytes of nothing that stand for 16384 × 16384 pixels."""
    one = images(released)[0] if name == "images" else released / name
    nothing = zlib.compress(bytes((1 << 14) * ((1 << 12) + 1)), 9)  # the first quarter of it
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 1 << 14, 1 << 14, 8, 0, 0, 0, 0)),
        (b"IDAT", nothing),
        (b"IEND", b""),
    )
    one.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in parts)
    )
    entry = json.loads((released / "manifest.json").read_text())["mask"]
    relist(released, mask=entry | {"sha256": sha256(released / "mask.png")})
    tracemalloc.start()
    found = said(audit(released, workers=1))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "claims 16384×16384 pixels: not decoded" in found[one.relative_to(released).as_posix()]
    assert most < 1 << 23
