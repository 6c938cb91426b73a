"""Files that somebody else made, a checkpoint and what lies beside it: no code runs, no more memory than they have."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules import DrawnFaces, ReleasedFaces
from datamodules.readers.base import FaceReader
from lightning_app.attacks.trained import load_restorer
from lightning_app.cli.fit_config import read_fit_settings, saved_fit_settings, saved_measured, saved_reader
from lightning_app.commands import compare, export, rank_scorers, search_mask, sweep_levels
from lightning_app.core.foreign import parse_json, parse_yaml
from lightning_app.export.model_input import _sources, find_model_input
from lightning_app.export.source import read_run, training_data
from lightning_app.models import Inpainter, ResNet
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.known import MODELS, READERS, make_known, ours, trusting
from lightning_app.runs.checkpoint_io import AtomicCheckpointIO
from lightning_app.runs.folder import resolve_checkpoint
from tests.command_line import write_config

EVIL = """
from pathlib import Path
Path("ran").touch()
from datamodules import DrawnFaces
from lightning_app.desensitize import Identity
from lightning_app.models import ResNet
class Reader(DrawnFaces): ...
class Desensitize(Identity): ...
class Net(ResNet): ...
def call(*args, **kwargs): Path("called").touch()
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder beside a module that tells by a file when its code runs."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    return run


def with_reader(run: Path, reader: object) -> Path:
    config = {"data": {"class_path": "datamodules.FaceDataModule", "init_args": {"reader": reader}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


DRAWN = {"identities": 2, "images_per_identity": 2, "size": 32}


@pytest.mark.parametrize(
    "reader",
    [
        {"class_path": "evil.Reader", "init_args": DRAWN},
        {
            "class_path": "datamodules.ReleasedFaces",
            "init_args": {"root": ".", "own_desensitizer": {"class_path": "evil.Desensitize"}},
        },
        {"class_path": "evil.FolderFaces", "init_args": {"root": "."}},
        {"class_path": "evil.call"},
        {"class_path": "os.system", "init_args": {"command": "touch ran"}},
    ],
)
def test_a_class_that_a_run_folder_names_is_not_imported(
    reader: dict[str, Any], evil: Path, tmp_path: Path
) -> None:
    named = (
        reader["init_args"]["own_desensitizer"]["class_path"] if "Released" in reader["class_path"] else None
    )
    with pytest.raises(ValueError, match=f"give --trust {named or reader['class_path']}"):
        saved_reader(with_reader(evil, reader))
    assert "evil" not in sys.modules
    assert not (tmp_path / "ran").exists()


def test_a_trusted_class_is_made_and_one_of_another_kind_is_refused_without_a_call(
    evil: Path, tmp_path: Path
) -> None:
    with_reader(evil, {"class_path": "evil.Reader", "init_args": DRAWN})
    with trusting(["evil.Reader"]):
        assert type(saved_reader(evil)).__name__ == "Reader"
    with pytest.raises(ValueError, match="--trust"):  # no longer
        saved_reader(evil)
    # what stands in a config of the user's own is trusted
    assert len(saved_reader(evil, {"evil.Reader"}).identities) == 2
    for path in ("evil.call", "os.system", "evil.Net", "evil.nothing", "nowhere.Reader"):
        with trusting([path]), pytest.raises(ValueError, match=r"is no FaceReader|no such class"):
            saved_reader(with_reader(evil, {"class_path": path}))
    assert not (tmp_path / "called").exists()
    # a class of ours where another kind is due
    with pytest.raises(ValueError, match=r"'lightning_app\.models\.ResNet' is no FaceReader"):
        saved_reader(with_reader(evil, {"class_path": "lightning_app.models.ResNet"}))


def test_our_own_readers_are_known_by_a_table(evil: Path) -> None:
    found = saved_reader(with_reader(evil, {"class_path": "datamodules.DrawnFaces", "init_args": DRAWN}))
    assert isinstance(found, DrawnFaces)
    assert (len(found), found.size) == (4, 32)
    for name, kind in {**READERS, **MODELS}.items():
        assert ours(f"{kind.__module__}.{name}") is ours(f"{kind.__module__.split('.')[0]}.{name}") is kind
    assert ours("datamodules.evil.FolderFaces") is None
    assert ours("FolderFaces") is None
    with pytest.raises(ValueError, match="cannot be made of its init_args"):
        saved_reader(with_reader(evil, {"class_path": "datamodules.DrawnFaces", "init_args": {"sise": 3}}))
    desensitized = {"class_path": "lightning_app.desensitize.Mosaic", "init_args": {"block": 8}}
    with pytest.raises(FileNotFoundError):  # the desensitizer is one of ours: it comes as far as the folder
        make_known(
            {"class_path": "datamodules.ReleasedFaces", "init_args": {"root": "x", "veil": desensitized}},
            FaceReader,  # type: ignore[type-abstract]
            "here",
        )
    assert READERS["ReleasedFaces"] is ReleasedFaces


@pytest.mark.parametrize(
    "config", ["3", "{}", "data: 3", "data: {init_args: 3}", "data: {init_args: {reader: 3}}"]
)
def test_a_config_beside_a_checkpoint_that_is_none(config: str, evil: Path) -> None:
    (evil / "config.yaml").write_text(config)
    for read in (saved_reader, saved_fit_settings, saved_measured):
        with pytest.raises(ValueError, match=r"config\.yaml"):
            read(evil)
    facts = CheckpointFacts(evil / "checkpoints/last.ckpt", "", "ResNet", 32, 3, 1, {})
    run = read_run(evil, facts)
    assert training_data(facts, run)["reader"] is None
    assert [name for name, _ in _sources(facts, run.config, {"method": "MaskOut"})] == []


def test_the_commands_take_trust_more_than_once() -> None:
    for module in (compare, export, rank_scorers, search_mask, sweep_levels):
        action = next(a for a in module.build_parser()._actions if "--trust" in a.option_strings)
        assert action.default == []
    values = export.build_parser().parse_args(["--trust", "a.B", "--trust", "c.D", "--ckpt_path", "x"])
    assert values.trust == ["a.B", "c.D"]


def test_a_users_own_config_names_its_classes(drawn_root: Path, tmp_path: Path) -> None:
    classes = read_fit_settings(["--config", str(write_config(tmp_path / "tiny.yaml", drawn_root))]).classes
    assert {"datamodules.FolderFaces", "lightning_app.desensitize.MaskOut"} <= classes


@pytest.mark.parametrize(
    ("option", "path"),
    [("--data.init_args.desensitizer", "os.system"), ("--data.init_args.reader", "evil.call")],
)
def test_a_class_of_another_kind_in_a_config_of_the_users_is_not_called(
    option: str, path: str, evil: Path, drawn_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("called"))
    config = write_config(tmp_path / "tiny.yaml", drawn_root)
    with pytest.raises(ValueError, match=path):
        read_fit_settings(["--config", str(config), option, path])
    assert not (tmp_path / "called").exists()


def small(**more: object) -> dict[str, Any]:
    model = ResNet("resnet18", num_classes=2, input_size=32)
    settings = {**model.hparams, "_class_path": "lightning_app.models.ResNet"} | more
    return {"state_dict": model.state_dict(), "hyper_parameters": settings, "global_step": 1}


def test_a_class_that_a_checkpoint_names_is_not_imported(evil: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(small(_class_path="evil.Net", _instantiator="evil.call"), path)
    with pytest.raises(
        ValueError, match=r"a\.ckpt: hyper_parameters: names the class 'evil\.Net'.*--trust evil"
    ):
        read_recogniser(path)
    assert "evil" not in sys.modules
    torch.save(small(_instantiator="evil.call"), path)
    assert type(read_recogniser(path)[0]) is ResNet
    assert not (tmp_path / "called").exists()
    torch.save(small(_class_path="evil.Net"), path)
    with trusting(["evil.Net"]):
        assert type(read_recogniser(path)[0]).__name__ == "Net"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"in_channels": 10**9}, "its settings ask for"),
        ({"backbone": "resnet50"}, "its settings ask for"),
        ({"input_size": 10**9}, "input_size 1000000000 px, more than 4096"),
        ({"input_size": "x"}, "do not fit"),
        ({"input_size": math.inf}, "cannot convert float infinity"),
        ({"num_classes": 10**10}, None),  # the head's own weights count
    ],
)
def test_settings_take_no_memory_before_they_fit(
    more: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(small(**more), path)
    if said is None:
        assert read_recogniser(path)[0].head.weight.shape == (2, 512)
        return
    with pytest.raises(ValueError, match=said):
        read_recogniser(path)


def test_a_number_of_steps_that_is_none(tmp_path: Path) -> None:
    torch.save(small() | {"global_step": math.inf}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="do not fit a ResNet"):
        read_recogniser(tmp_path / "a.ckpt")


def test_what_an_export_reads_beside_a_checkpoint_ends_in_no_traceback(tmp_path: Path) -> None:
    """Epochs without end, a desensitizer that says nothing, one that says nothing of its masks."""
    (tmp_path / "metrics.json").write_text('{"run/steps": 1, "run/epochs": Infinity}')

    def facts(description: dict[str, Any]) -> CheckpointFacts:
        return CheckpointFacts(tmp_path / "a.ckpt", "", "ResNet", 32, 3, 1, {"desensitizer": description})

    assert read_run(tmp_path, facts({})).epochs is None
    assert find_model_input(facts({}), {}, None, False).method is None
    silent = {"method": "MaskOut", "mask_hash": "ab" * 32, "masks": None}
    with pytest.raises(ValueError, match=r"the mask it was trained under .* is not found"):
        find_model_input(facts(silent), {}, None, False)


@pytest.mark.parametrize(("key", "value"), [("width", 1 << 16), ("recurrences", 10**9), ("depth", "x")])
def test_a_restorers_settings_take_no_memory(key: str, value: object, tmp_path: Path) -> None:
    model = Inpainter(width=8, recurrences=1, depth=2, input_size=32)
    settings = {**model.hparams, key: value}
    kept = {"state_dict": model.state_dict(), "hyper_parameters": settings, "inpainter": {"masked": True}}
    torch.save(kept, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="do not fit its settings"):
        load_restorer(tmp_path / "a.ckpt")


class Made:
    """Pickles as a call with arguments."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call, self.arguments


def doubled(levels: int) -> list[object]:
    value: list[object] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels: int) -> tuple[object, ...]:
    value: tuple[object, ...] = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: {"x": 3}, "holds int at 'x', which is no tensor"),
        (lambda: 3, "its state_dict are no mapping"),
        (lambda: {"x": Made(bytearray, 10**10)}, "bytearray"),
        (lambda: {"x": Made(torch.FloatTensor, 10**10)}, "FloatTensor"),
        (lambda: {"w": torch.zeros(1).expand(10**5, 10**5)}, "claims more values than the file has"),
        (lambda: {"w": torch.zeros(3, 3).to_sparse()}, "holds more than weights"),
        (lambda: {"x": doubled(60)}, "stands for more than"),
        (lambda: {"x": nested(100)}, "nested more than 64 levels"),
        (lambda: {"x": [b"x" * 10**6], "y": [bytes([66]) * 7 for _ in range(99)]}, "stand for more bytes"),
    ],
)
def test_a_checkpoint_that_stands_for_more_than_it_has(
    content: Callable[[], dict[str, Any]], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": content()}, path)
    with pytest.raises(ValueError, match=said):
        resolve_checkpoint(str(path), tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"hyper_parameters": 3}, "its hyper_parameters are no mapping"),
        ({"FaceDataModule": {"desensitizer": "x"}}, "desensitizer is 'x'"),
        ({"FaceDataModule": {"desensitizer": {"mask_hash": "x"}}}, r"desensitizer\.method is '\(\)'"),
        ({"FaceDataModule": {"desensitizer": {"method": "MaskOut", "mask_ratio": "x"}}}, "mask_ratio is 'x'"),
        ({"FaceDataModule": {"mean": [1]}}, r"mean is '\[1\]'"),
        ({"FaceDataModule": {"split": {"images": "x", "held_out": 1}}}, r"split\.images is 'x'"),
        ({"FaceDataModule": {"split": {"images": 9, "held_out": [1]}}}, r"split\.held_out is '\[1\]'"),
    ],
)
def test_a_checkpoint_with_values_of_other_kinds(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {}} | more, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=said):
        resolve_checkpoint(str(tmp_path / "a.ckpt"), tmp_path)


def test_a_checkpoint_that_is_compressed_or_claims_more_bytes(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(4)}}, tmp_path / "a.ckpt")
    assert resolve_checkpoint(str(tmp_path / "a.ckpt"), tmp_path)
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive, zipfile.ZipFile(tmp_path / "b.ckpt", "w") as other:
        for part in archive.infolist():
            other.writestr(part.filename, archive.read(part), zipfile.ZIP_DEFLATED)
        other.writestr("archive/data/9", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        resolve_checkpoint(str(tmp_path / "b.ckpt"), tmp_path)
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive, zipfile.ZipFile(tmp_path / "c.ckpt", "w") as other:
        for part in archive.infolist():
            content = archive.read(part)
            if part.filename.endswith("data.pkl"):  # four values become 2^30
                content = content.replace(b"K\x04", b"J\0\0\0\x40")
            other.writestr(part.filename, content)
    with pytest.raises(ValueError, match="damaged"):
        resolve_checkpoint(str(tmp_path / "c.ckpt"), tmp_path)


def test_no_code_is_read_out_of_a_checkpoint_whatever_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"state_dict": {"x": Made(os.mkdir, str(tmp_path / "ran"))}}, tmp_path / "a.ckpt")
    for asked in (None, False):
        with pytest.raises(Exception, match="mkdir"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=asked)
    assert not (tmp_path / "ran").exists()


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "stands for more than 1000000 values"),
        (MERGES, "merge key <<"),
        ("&a [*a]", "holds itself"),
        ("[" * 70 + "]" * 70, "nested more than 64 levels"),
        ("- " * 5000, "nested more than 64 levels"),
        ("{a: " * 5000, "nested more than 64 levels"),
        ("a: !!python/object/apply:os.system [x]", "no YAML of plain values"),
        ("a: !!python/name:os.system", "no YAML of plain values"),
        (f"a: {'9' * 400}", "holds a number of 1329 bits"),
        ("a: 2026-99-99", "no YAML of plain values"),
    ],
)
def test_yaml_of_somebody_else_is_bounded(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        parse_yaml(text, "its config")
    assert str(raised.value).startswith("its config")


def test_json_of_somebody_else_is_bounded() -> None:
    for text in ("[" * 100_000, "[" * 70 + "]" * 70, '{"a":' * 5000):
        with pytest.raises(ValueError, match="it"):
            parse_json(text, "it")
    with pytest.raises(ValueError, match="it: holds a number of 1329 bits"):
        parse_json("9" * 400, "it")
    assert parse_json("[" * 60 + "]" * 60, "it")
    shared = parse_yaml("a: &a [1, 2]\nb: *a\n", "it")
    assert shared == {"a": [1, 2], "b": [1, 2]}
