"""What a file system says of a release beside its content: each of it may say something that must not leave."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lightning_app.release.audit.run import audit
from lightning_app.release.format.marks import Marks
from tests.release.by_hand import images, relist, said, set_times
from tests.release.released import raw_tree, release

pytestmark = pytest.mark.skipif(os.name != "posix", reason="rights, owners and links are POSIX's")


Attributes = Callable[[Callable[[str], dict[str, bytes]]], None]


@pytest.fixture
def attributes(monkeypatch: pytest.MonkeyPatch) -> Attributes:
    """Return files extended attributes, also where the file system has none, or only root may."""

    def give(of: Callable[[str], dict[str, bytes]]) -> None:
        monkeypatch.setattr(os, "listxattr", lambda path, follow_symlinks: list(of(path)), raising=False)
        monkeypatch.setattr(os, "getxattr", lambda path, key, follow_symlinks: of(path)[key], raising=False)

    return give


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("user.Ann", "(user)"),
        ("trusted.Ann", "(trusted)"),
        ("security.capability", "(security)"),
        ("security.ima", "(security)"),
        ("system.posix_acl_access", "(system)"),
        ("system.posix_acl_default", "(system)"),
        ("com.apple.Ann", "(of no known namespace)"),
    ],
)
def test_an_extended_attribute_of_any_namespace_is_found(
    released: Path, attributes: Attributes, key: str, words: str
) -> None:
    given = {images(released)[3], released / "mask.png", released / "images", released / "manifest.json"}
    attributes(lambda path: {key: b"Ann"} if Path(path) in given else {})
    wanted = {one.relative_to(released).as_posix(): [f"has 1 extended attributes {words}"] for one in given}
    assert said(audit(released, times=False)) == wanted


def test_a_true_attribute_is_found(released: Path) -> None:
    one = images(released)[3]
    try:
        os.setxattr(one, "user.face", b"x" * 100)
    except (OSError, AttributeError):
        pytest.skip("this file system keeps none")
    assert said(audit(released)) == {
        one.relative_to(released).as_posix(): ["has 1 extended attributes (user)"]
    }


CONTEXT = "security.selinux"
ACL = "system.nfs4_acl"


@pytest.mark.parametrize("key", [CONTEXT, ACL])
def test_what_a_system_gives_to_every_file_says_nothing(
    released: Path, attributes: Attributes, key: str
) -> None:
    attributes(lambda path: {key: b"u:r:folder" if os.path.isdir(path) else b"u:r:file"})
    assert audit(released).findings == []
    odd = str(images(released)[3])
    name = images(released)[3].relative_to(released).as_posix()
    for other in ({key: b"u:r:Ann"}, {}):
        attributes(lambda path, other=other: other if path == odd else {key: b"u:r:file"})  # type: ignore[misc]
        assert list(said(audit(released))) == [name]
    attributes(lambda path: {key: b"u:r:" + os.path.basename(path).partition(".")[0].encode()})
    found = said(audit(released))
    assert all(f"kinds of {key}" in what for what in found["."])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (CONTEXT, b"\x89PNG\r\n\x1a\n a face", "is no context (user:role:type[:level])"),
        (CONTEXT, b"u:r:t:a face", "is no context (user:role:type[:level])"),
        (CONTEXT, b"u:r", "is no context (user:role:type[:level])"),
        (CONTEXT, b"u:r:t:s0:c1" + b",c2" * 40, "has 131 bytes, more than 128"),
        (ACL, bytes(257), "has 257 bytes, more than 256"),
    ],
)
def test_an_attribute_of_the_system_has_no_room_for_a_face(
    released: Path, attributes: Attributes, key: str, value: bytes, words: str
) -> None:
    """All files have the same, and so has the folder itself; and so it is where the folder alone has it."""
    what = f"its {key} {words}: copy it with `cp -r --preserve=mode,timestamps`"
    attributes(lambda path: {key: value})
    found = said(audit(released))
    assert {".", "manifest.json", "mask.png", "images"} < set(found)
    assert set(map(tuple, found.values())) == {(what,)}
    attributes(lambda path: {key: value} if path == str(released) else {})
    assert said(audit(released)) == {".": [what]}


@pytest.mark.parametrize(
    "value",
    [
        b"system_u:object_r:nfs_t:s0\0",
        b"unconfined_u:object_r:user_home_t:s0",
        b"system_u:object_r:container_file_t:s0:c123,c456\0",
        b"staff_u:object_r:user_home_t:s0-s15:c0.c1023",
        b"u:object_r:sdcardfs",
    ],
)
def test_a_context_of_selinux_may_be_there(released: Path, attributes: Attributes, value: bytes) -> None:
    attributes(lambda path: {CONTEXT: value})
    assert audit(released).findings == []


def test_an_access_list_of_nfs_is_said_to_be_unread(released: Path, attributes: Attributes) -> None:
    attributes(lambda path: {ACL: bytes(80)})
    found = audit(released)
    assert found.findings == []
    (note,) = [note for note in found.notes if ACL in note]
    assert note == "system.nfs4_acl was not read: anything may stand in its bytes, 256 at most"


def test_attributes_that_cannot_be_listed_are_said(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "listxattr", raising=False)
    assert "extended attributes were not checked: Python lists none on this system" in audit(released).notes

    def refused(path: str, follow_symlinks: bool) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listxattr", refused, raising=False)
    assert (
        "its extended attributes cannot be read (Permission denied)" in said(audit(released))["manifest.json"]
    )


@pytest.mark.parametrize(("bit", "word"), [(0o4000, "setuid"), (0o2000, "setgid"), (0o1000, "sticky")])
def test_a_special_bit_is_found(released: Path, bit: int, word: str) -> None:
    for one in (
        images(released)[3],
        images(released)[3].parent,
        released / "mask.png",
        released / "manifest.json",
    ):
        before = stat.S_IMODE(one.stat().st_mode)
        one.chmod(before | bit)
        if not one.stat().st_mode & bit:
            pytest.skip("this user may not set it")
        set_times(released)
        found = said(audit(released, times=False))
        assert found == {one.relative_to(released).as_posix(): [f"has special rights ({word})"]}
        one.chmod(before)


def test_rights_are_the_same_for_all(released: Path) -> None:
    files = images(released)
    for one in files:
        one.chmod(0o640)
    for one in (released / "manifest.json", released / "mask.png", released / "mask.json"):
        one.chmod(0o640)
    assert audit(released).findings == [], "which they are is free"
    files[3].chmod(0o604)
    files[5].chmod(0o755)
    what = ["differs in the rights of files from the 49 others"]
    assert said(audit(released)) == {files[at].relative_to(released).as_posix(): what for at in (3, 5)}
    for at, one in enumerate(files):  # nine bits a file
        one.chmod(0o400 + at)
    (finding,) = audit(released).findings
    assert finding.file == "."
    assert "kinds of rights of files, there must be one: give `chmod -R u=rwX,go=rX`" in finding.what
    for one in files:
        one.chmod(0o640)
    files[3].parent.chmod(0o700)
    assert said(audit(released)) == {
        files[3].parent.relative_to(released).as_posix(): [
            "differs in the rights of folders from the 6 others"
        ]
    }


def test_owners_are_the_same_for_all(tmp_path: Path) -> None:
    facts = list(tmp_path.stat())
    marks = Marks(None)
    for number in range(20):
        facts[0], facts[3], facts[4] = stat.S_IFREG | 0o644, 1, 77 if number == 4 else 1000
        assert list(marks.of(f"{number}.png", str(tmp_path), os.stat_result(facts))) == []
    (finding,) = marks.differing()
    assert (finding.file, finding.what) == ("4.png", "differs in the owners from the 19 others")


def test_a_hard_link_is_found(released: Path, tmp_path: Path) -> None:
    one = images(released)[3]
    os.link(one, tmp_path / "elsewhere.png")
    assert said(audit(released)) == {
        one.relative_to(released).as_posix(): [
            "has 2 names (hard links): make a copy of the release, and audit that"
        ]
    }


@pytest.fixture
def deep(released: Path) -> Iterator[Path]:
    """A release with a folder whose path is too long for any system call, and deeper than Python's stack."""
    here = handle = os.open(released, os.O_RDONLY)
    for name in ["d"] * 1000 + ["d" * 200] * 12:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.utime(inner, (315532800, 315532800))
        if here != handle:
            os.close(here)
        here = inner
    os.close(os.open("face.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    os.close(handle)
    os.utime(released, (315532800, 315532800))
    yield released
    subprocess.run(["rm", "-rf", str(released / "d")], check=True)  # shutil's is a recursion


def test_a_deep_tree_is_no_way_out(deep: Path) -> None:
    found = said(audit(deep))
    assert found["d"] == ["is a folder that the manifest does not list"]
    deepest = max(found, key=len)
    assert deepest.count("/") > 1000
    assert "cannot be looked into (File name too long)" in found[deepest]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_release_has_the_same_rights_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    raw = raw_tree(tmp_path / "raw", people=2, each=2)
    before = os.umask(umask)
    try:
        release(tmp_path, raw, batch_size=2)
    finally:
        os.umask(before)
    modes: dict[bool, set[int]] = {True: set(), False: set()}
    for path in (tmp_path / "out").rglob("*"):
        modes[path.is_dir()].add(stat.S_IMODE(path.stat().st_mode))
    assert modes == {True: {0o755}, False: {0o644}}
    assert stat.S_IMODE((tmp_path / "out of the owner" / "journal.jsonl").stat().st_mode) == 0o600
    assert audit(tmp_path / "out").findings == []


def test_a_journal_that_others_could_read_is_made_private(tmp_path: Path) -> None:
    raw = raw_tree(tmp_path / "raw", people=2, each=2)
    release(tmp_path, raw)
    journal = tmp_path / "out of the owner" / "journal.jsonl"
    journal.chmod(0o644)  # as it was made until now
    release(tmp_path, raw)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600


def test_a_listed_file_may_be_special_too(released: Path) -> None:
    """A pipe in the place of an image is not opened."""
    one = images(released)[2]
    one.unlink()
    os.mkfifo(one)
    relisted = one.relative_to(released).as_posix()
    set_times(released)
    assert said(audit(released))[relisted] == ["is missing", "is neither file nor folder"]
    one.unlink()
    one.write_bytes(b"")
    relist(released)
    assert said(audit(released))[relisted] == ["is no PNG"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("manifest.json", "is larger than a manifest of these files can be; nothing else was checked"),
        ("mask.json", "its SHA-256 is not the manifest's"),
        ("mask.png", "its SHA-256 is not the manifest's"),
    ],
)
def test_a_sparse_file_of_many_gigabytes_is_not_read(released: Path, name: str, words: str) -> None:
    with (released / name).open("r+b") as file:
        file.truncate(50_000_000_000)
    set_times(released)
    found = said(audit(released))
    assert list(found) == [name]
    assert words in found[name]
