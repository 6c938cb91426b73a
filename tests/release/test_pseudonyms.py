from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest

from datamodules import DrawnFaces
from lightning_app.release import Pseudonyms
from lightning_app.release.plan import Plan
from lightning_app.release.pseudonyms import DIGITS, load_key, make_key, refuse_inside

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
    path.write_text("5ecret" * 10)
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
    plan = Plan(faces, Pseudonyms(KEY))
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
    other = Plan(faces, Pseudonyms(KEY[::-1]))
    assert other.hash != plan.hash
    assert Plan(DrawnFaces(identities=40, images_per_identity=10, size=16), names).hash == plan.hash


def test_equal_names_are_refused() -> None:
    faces = DrawnFaces(identities=2, images_per_identity=2, size=16)
    faces.stable_name = lambda index: "same"  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="get one pseudonym"):
        Plan(faces, Pseudonyms(KEY))
