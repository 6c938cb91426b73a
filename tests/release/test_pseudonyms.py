from __future__ import annotations

import hashlib
import os
import random
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import DrawnFaces
from lightning_app.core.files import PRIVATE, replacing, write_atomically
from lightning_app.core.key_file import is_guessable, load_key, make_key, write_secret
from lightning_app.release import Pseudonyms
from lightning_app.release.format.pseudonyms import DIGITS, refuse_inside
from lightning_app.release.write.plan import ReleasePlan

KEY = bytes(range(32))


def by_hand(key: bytes, *parts: bytes) -> str:
    """HMAC-SHA256 as RFC 2104 writes it, over parts with their lengths before them."""
    message = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).hexdigest()[:20]


def test_against_an_hmac_by_hand() -> None:
    names = Pseudonyms(KEY)
    assert DIGITS == 20
    assert names.identity("Ann Lee") == by_hand(KEY, b"identity", b"Ann Lee")
    assert names.image("Ann Lee", "Ann Lee/1.jpg") == by_hand(KEY, b"image", b"Ann Lee", b"Ann Lee/1.jpg")
    assert names.fingerprint == by_hand(KEY, b"fingerprint")[:16]


def test_names_are_bytes() -> None:
    names = Pseudonyms(KEY)
    raw = os.fsdecode(b"\xff\xfe.jpg")  # no UTF-8
    spelled = ["a.jpg", "A.jpg", "é.jpg", "e\u0301.jpg", raw, "b", ""]
    assert len({names.image("x", name) for name in spelled}) == len(spelled)
    assert names.image("x", raw) == by_hand(KEY, b"image", b"x", b"\xff\xfe.jpg")
    assert names.image("ab", "c") != names.image("a", "bc")
    assert names.identity("a") != Pseudonyms(KEY[::-1]).identity("a")


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="key: 31 bytes; 32 are needed"):
        Pseudonyms(KEY[1:])


def test_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "names.key"
    made = make_key(path)
    assert load_key(path) == made
    assert len(set(made)) > 8, "hardly random"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["names.key"]
    with pytest.raises(FileExistsError, match=r"names\.key is there already"):
        make_key(path)
    assert load_key(path) == made
    assert make_key(tmp_path / "other.key") != made
    with pytest.raises(FileNotFoundError, match=r"key .*none: no such file"):
        load_key(tmp_path / "none")
    path.write_text("5ecret" * 10)  # a file of another kind is told so, whatever its rights are
    with pytest.raises(ValueError, match="holds 60 bytes, not 64 hexadecimal digits") as found:
        load_key(path)
    assert "5ecret" not in str(found.value)


def test_a_secret_does_not_lie_in_the_release(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for inside in (
        tmp_path / "out" / "k",
        tmp_path / "link" / "deep" / "k",
        tmp_path / "x" / ".." / "out" / "k",
    ):
        with pytest.raises(ValueError, match=r"--key .*: lies in the released folder"):
            refuse_inside(inside, tmp_path / "out", "--key")
    refuse_inside(tmp_path / "out.key", tmp_path / "out", "--key")


def test_the_order_is_that_of_the_pseudonyms() -> None:
    faces = DrawnFaces(identities=40, images_per_identity=10, size=16)
    plan = ReleasePlan(faces, Pseudonyms(KEY))
    files = [plan.file(place) for place in range(len(plan))]
    assert files == sorted(files)
    assert sorted(plan.order.tolist()) == list(range(400))
    names = Pseudonyms(KEY)
    for place in (0, 17, 399):
        index = plan.index(place)
        who = faces.identities[int(faces.labels[index])]
        assert files[place] == f"images/{names.identity(who)}/{names.image(who, faces.name(index))}.png"
    # ranks that say nothing: a correlation of 400 shuffled ranks has σ 0.05
    assert abs(np.corrcoef(plan.order, np.arange(400))[0, 1]) < 0.25
    other = ReleasePlan(faces, Pseudonyms(KEY[::-1]))
    assert other.hash != plan.hash
    assert ReleasePlan(DrawnFaces(identities=40, images_per_identity=10, size=16), names).hash == plan.hash


def test_equal_names_are_refused() -> None:
    faces = DrawnFaces(identities=2, images_per_identity=2, size=16)
    faces.stable_name = lambda index: "same"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="get one pseudonym"):
        ReleasePlan(faces, Pseudonyms(KEY))


def key_file(path: Path, key: bytes = KEY, mode: int = 0o600) -> Path:
    path.write_bytes(key.hex().encode() + b"\n")
    path.chmod(mode)
    return path


@pytest.mark.skipif(os.name != "posix", reason="rights are POSIX's")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o666, 0o700 | 0o010, 0o777])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path / "my key", mode=mode)
    with pytest.raises(
        PermissionError, match=rf"key .*my key: others may read it \(mode {mode:04o}\)"
    ) as found:
        load_key(path)
    assert f"chmod 600 '{path}'" in str(found.value)
    path.chmod(0o600)
    assert load_key(path) == KEY
    path.chmod(0o400)
    assert load_key(path) == KEY


@pytest.mark.skipif(os.name != "posix", reason="owners are POSIX's")
def test_another_users_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = key_file(tmp_path / "key")
    mine = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(PermissionError, match=f"is another user's .number {mine}."):
        load_key(path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # root works with mounted files of others
    assert load_key(path) == KEY


GUESSABLE = {
    "zeros": bytes(32), "ones": b"\xff" * 32, "one byte": b"k" * 32, "two bytes": b"ab" * 16, "a word": b"faceveil" * 4,
    "zeros and a tail": bytes(20) + KEY[:12], "sixteen bytes twice": b"0123456789abcdef" * 2,
}  # fmt: skip


@pytest.mark.parametrize("what", GUESSABLE)
def test_a_key_that_was_never_random_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(ValueError, match="too much alike to be random"):
        Pseudonyms(GUESSABLE[what])
    with pytest.raises(ValueError, match=r"key .*key: its bytes are too much alike to be random") as found:
        load_key(key_file(tmp_path / "key", GUESSABLE[what]))
    assert GUESSABLE[what].hex() not in str(found.value)


def test_random_keys_are_not_refused() -> None:
    assert not any(is_guessable(random.Random(seed).randbytes(32)) for seed in range(2000))


@pytest.mark.parametrize("links", [True, False])
def test_a_secret_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Not even what comes while it is written."""
    path = tmp_path / "key"
    if not links:

        def refused(*args: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)  # as FAT has it
    before = os.umask(0)
    try:
        write_secret(path, b"secret")
    finally:
        os.umask(before)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"secret", 0o600)
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    if links:
        late = tmp_path / "late"
        real = tempfile.mkstemp

        def mkstemp(**options: Any) -> Any:
            late.write_bytes(b"another's")
            return real(**options)

        monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
        with pytest.raises(FileExistsError, match="late is there already"):
            write_secret(late, b"secret")
        assert late.read_bytes() == b"another's"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["key", "late"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link is there already"):
        write_secret(tmp_path / "link", b"secret")


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with replacing(tmp_path / "names.csv", mode=PRIVATE) as file:
            file.write(b"names")
            (part,) = tmp_path.iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
        write_atomically(tmp_path / "figures.csv", "figures")
        (tmp_path / "figures.csv").chmod(0o644)
        write_atomically(tmp_path / "figures.csv", "names", mode=PRIVATE)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
