"""Releases of representations that the owner makes again: what may differ, and what is found where more does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_app.studies.audit import audit as command
from tests.release.tensor_release import KEY, SIZE, findings, owner_key, rewrite, tensors


def config(home: Path, root: Path, mixed: bool = False) -> Path:
    """The config of `desensitize`."""
    step = {
        "class_path": "lightning_app.desensitize.FrequencyMask",
        "init_args": {
            "block": 4,
            "upsample": 1,
            "stride": 4,
            "permutation": "image",
            "key": str(owner_key(home)),
        },
    }
    mix = {
        "class_path": "lightning_app.desensitize.MixUp",
        "init_args": {"k": 3, "key": str(owner_key(home))},
    }
    chain = {"class_path": "lightning_app.desensitize.Chain", "init_args": {"steps": [step, mix]}}
    reader = {"class_path": "datamodules.FolderFaces",
              "init_args": {"root": str(root), "crop": 44, "size": SIZE, "cache_index": False}}  # fmt: skip
    path = home / f"config{mixed}.yaml"
    path.write_text(json.dumps({"reader": reader, "desensitizer": chain if mixed else step}))
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "pseudonyms.key"
    path.write_text(KEY.hex())
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("name", ["plain", "half", "mixed"])
def test_the_owner_makes_it_again(
    home: Path, drawn_root: Path, name: str, key_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = command(
        str(home / name),
        key=key_file,
        config=str(config(home, drawn_root, name == "mixed")),
        compare_all=True,
    )
    assert found.findings == []
    assert found.compared is not None
    assert (found.compared.images, found.compared.apart) == (48, 0)
    assert found.compared.values == tensors(home / name)["image"].size
    said = " ".join(capsys.readouterr().out.split())
    assert "all on the same level" in said
    assert ("0 of 144 shares differ" in said) == (name == "mixed")


def by(step: int, share: float) -> Callable[[dict[str, np.ndarray[Any, Any]]], None]:
    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        one = values["image"][0].reshape(-1)
        count = max(1, round(share * one.size))
        some = np.flatnonzero((one > 5) & (one < 250))[:count]
        one[some] += np.uint8(step)

    return change


@pytest.mark.parametrize(
    ("step", "share", "words"),
    [
        (1, 0.005, None),
        (1, 0.5, "more than another machine's rounding leaves"),
        (2, 0.0, "differs by more than a level in 1 of 960 values"),
    ],
)
def test_a_level_may_differ_and_no_more(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, step: int, share: float,
    words: str | None,
) -> None:  # fmt: skip
    root = spoilt("plain")
    rewrite(root, by(step, share))
    found = command(str(root), key=key_file, config=str(config(home, drawn_root)), compare_all=True)
    told = " ".join(finding.what for finding in found.findings)
    if words is None:
        assert told == ""
        assert found.compared is not None
        assert found.compared.apart == 5
        assert any("5 of 46,080 values carry nothing else" in line for line in found.unproven)
    else:
        assert words in told


@pytest.mark.parametrize(("bits", "sign"), [(1, True), (1, False), (6, True)])
def test_a_message_in_the_shares_of_mixes_is_counted_or_found(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, bits: int, sign: bool,
) -> None:  # fmt: skip
    """The lowest bits of float32 shares have room for a name; what rounding may leave is told as not proven."""

    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        raw = values["weight"].view(np.uint32)
        raw ^= np.uint32((1 << bits) - 1) if sign else np.uint32(0)

    root = spoilt("mixed")
    rewrite(root, change)
    found = command(str(root), key=key_file, config=str(config(home, drawn_root, True)), compare_all=True)
    told = " ".join(finding.what for finding in found.findings)
    assert found.compared is not None
    assert found.compared.shares == 48 * 3
    assert found.compared.shares_apart == (24 * 3 if sign else 0)  # of the first shard
    open_ = [line for line in found.unproven if "72 of 144 shares of mixes carry nothing else" in line]
    assert len(open_) == int(sign)
    assert ("holds other shares of a mix" in told) == (bits == 6)
    assert bool(told) == (bits == 6)


def test_images_that_change_places_are_found_by_the_owner(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str
) -> None:
    """Where `permutation: image` draws by number, another place is another image; so are the people on it."""

    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        values["image"][[0, 1]] = values["image"][[1, 0]]

    root = spoilt("plain")
    rewrite(root, change)
    assert findings(root) == []  # nobody else can tell
    found = command(str(root), key=key_file, config=str(config(home, drawn_root)), compare_all=True)
    assert sum("differs by more than a level" in finding.what for finding in found.findings) == 2


def test_other_labels_and_other_keys_are_found_by_the_owner(
    home: Path, spoilt: Callable[[str], Path], drawn_root: Path, key_file: str, tmp_path: Path
) -> None:
    def change(values: dict[str, np.ndarray[Any, Any]]) -> None:
        values["identity"][0, 1] = values["identity"][5, 0]
        values["identity"][1, 1] = values["identity"][6, 0]
        values["identity"][2, 1] = values["identity"][7, 0]

    root = spoilt("mixed")
    rewrite(root, change)
    found = command(str(root), key=key_file, config=str(config(home, drawn_root, True)), compare_all=True)
    assert any("other people are on them" in finding.what for finding in found.findings)
    other = tmp_path / "other"
    other.mkdir()
    found = command(str(home / "plain"), key=key_file, config=str(config(other, drawn_root)))
    assert any(
        "its method is not that of --config's FrequencyMask: key_hash" in f.what for f in found.findings
    )
    found = command(str(home / "plain"), raw=str(drawn_root), key=key_file)
    assert any("whose desensitizer names the owner's key file" in finding.what for finding in found.findings)
