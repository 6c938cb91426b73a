"""`compare` takes no figures, attackers or settings that do not go together; each is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from PIL import Image, ImageOps
from torch import Tensor

from datamodules import DrawnFaces, FolderFaces
from datamodules.readers.base import FaceReader
from lightning_app.attacks import Attack, MeanFace, Telea, TrainedRestorer, Unshuffle
from lightning_app.desensitize import BlockDCT
from lightning_app.studies.compare import AttackerRun, ComparedMethod, Method
from lightning_app.studies.compare.named_run import renamed
from lightning_app.studies.compare.strangers import Looks, check_strangers, copies
from tests.attacks.test_trained import checkpoint
from tests.command_line import RunMain, refused


def test_a_checkpoints_own_figures_are_taken_only_where_they_are_the_methods(
    config: Callable[..., Path], fitted: Path, drawn_root: Path, tmp_path: Path
) -> None:
    home = fitted / "runs/tiny"
    fit = yaml.safe_load((fitted / "tiny.yaml").read_text())

    def place(name: str = "m", **changed: Any) -> Path:
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(fit | changed))
        method = Method(str(tmp_path / "other.yaml"), checkpoint=str(home / "checkpoints/last.ckpt"))
        return ComparedMethod(name, method, "both", Path("runs"), 0).run

    own = Path("runs/both/m")
    assert place() == home
    assert (
        place(seed_everything=3, model=fit["model"] | {"class_path": "lightning_app.models.ResNetFSM"})
        == home
    )
    verification, *others = fit["trainer"]["callbacks"]
    for change in ({"flip": True}, {"crop": 40}, {"bootstrap": 30}):
        callback = verification | {"init_args": verification["init_args"] | change}
        assert place(trainer=fit["trainer"] | {"callbacks": [callback, *others]}) == own, change
    data = fit["data"]["init_args"]
    reader = data["reader"] | {"init_args": data["reader"]["init_args"] | {"crop": 40}}
    for init_args in (data | {"reader": reader}, data | {"desensitizer": None}):
        assert place(data=fit["data"] | {"init_args": init_args}) == own
    with pytest.raises(
        ValueError, match=r"methods\.m: checkpoint .*: trained on pixels normalised with mean 0\.5"
    ):
        place(data=fit["data"] | {"init_args": data | {"mean": 0.4}})


def test_what_was_verified_of_another_checkpoint_is_not_taken(
    config: Callable[..., Path], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods={"none": methods["none"]}, attacks={}, judges={}, privacy_axis="dssim")
    run_main("compare", "--config", path)
    record = Path("runs/both/jobs/none.json")
    description = json.loads(record.read_text())
    record.write_text(json.dumps(description | {"checkpoint": "0" * 64}))
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert "runs/both/none was made with other settings" in line


def test_a_trained_run_that_was_verified_otherwise_is_refused(
    config: Callable[..., Path], fitted: Path, tmp_path: Path
) -> None:
    fit = yaml.safe_load((fitted / "tiny.yaml").read_text())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/shared").symlink_to(fitted / "runs/tiny")
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(fit))
    ComparedMethod("m", Method(str(path), run="shared"), "both", Path("runs"), 0)
    fit["trainer"]["callbacks"][0]["init_args"]["flip"] = True
    path.write_text(yaml.safe_dump(fit))
    with pytest.raises(
        ValueError, match=r"methods\.m: runs/shared holds a .*verification\.flip is false, not true"
    ):
        ComparedMethod("m", Method(str(path), run="shared"), "both", Path("runs"), 0)


def test_a_named_run_of_another_seed_is_another_folder(config: Callable[..., Path], fitted: Path) -> None:
    Path("runs").mkdir()
    for name in ("shared", "shared_s4"):
        Path("runs", name).symlink_to(fitted / "runs/tiny")  # of seed 0

    def of(seed: int, run: str, *args: str) -> ComparedMethod:
        method = Method(str(fitted / "tiny.yaml"), [*args], run=run)
        return ComparedMethod("m", method, "both", Path("runs"), seed)

    for seed, run, name in (
        (0, "shared", "shared"), (1, "shared", "shared_s1"), (2, "shared", "shared_s2"), (1, "new", "new"),
        (2, "new", "new_s2"), (2, "new_s2", "new_s2"), (2, "seed2_new", "seed2_new"), (2, "new_s20", "new_s20_s2"),
    ):  # fmt: skip
        assert of(seed, run).run == Path("runs", name), (seed, run)
    with pytest.raises(
        ValueError, match=r"methods\.m: runs/shared_s4 holds a run .*seed_everything is 0, not 4"
    ):
        of(4, "shared")
    assert renamed({"m": of(0, "shared")}) == ""
    assert renamed({"m": of(0, "shared"), "n": of(2, "shared")}) == "runs/shared_s2 for n"
    Path("runs/new_s2").mkdir()
    Path("runs/new_s2/config.yaml").write_text("seed_everything: 2")
    with pytest.raises(ValueError, match=r"^methods\.m: .*new_s2/config\.yaml is not the config of a run"):
        of(2, "new_s2")


def test_an_attacker_who_knows_the_people_is_refused(
    config: Callable[..., Path],
    fitted: Path,
    drawn_root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit, last = fitted / "tiny.yaml", str(fitted / "runs/tiny/checkpoints/last.ckpt")
    candidates = {"mask": ComparedMethod("mask", Method(str(fit), checkpoint=last), "both", Path("runs"), 0)}

    def told(attacks: dict[str, Attack], restorer: AttackerRun | None = None) -> list[str]:
        caplog.clear()
        with caplog.at_level("WARNING", "faceveil"):
            unknown = check_strangers(candidates, attacks, [restorer] if restorer else [], 0, restorer)
        assert [record.getMessage() for record in caplog.records] == unknown
        return unknown

    strangers = MeanFace(DrawnFaces(identities=5, images_per_identity=1, size=32, first_identity=900))
    assert told({"mean face": strangers, "Telea": Telea()}) == []
    with pytest.raises(
        ValueError, match="mean face: 4 of the 6 people who are attacked are among those"
    ) as raised:
        told({"mean face": MeanFace(DrawnFaces(identities=4, images_per_identity=1, size=32))})
    assert "Drawn" not in str(raised.value)
    with pytest.raises(ValueError, match="RFR-Net: 6 of the 6 people"):  # any `fit` on these people
        told({}, AttackerRun(str(fit), label="RFR-Net"))
    for number, folder in enumerate(sorted(path for path in drawn_root.iterdir() if path.is_dir())):
        shutil.copytree(folder, tmp_path / f"others/Somebody_{number}")  # the same pictures under other names
    with pytest.raises(ValueError, match=r"mean face: \d+ of their images .*are among those"):
        told({"mean face": MeanFace(FolderFaces(tmp_path / "others", size=32, crop=44))})
    for number, picture in enumerate(
        sorted(drawn_root.rglob("*.png"))
    ):  # one of them, mirrored and saved again
        (tmp_path / f"again/Anybody_{number}").mkdir(parents=True)
        other = tmp_path / f"again/Anybody_{number}/0.jpg"
        ImageOps.mirror(Image.open(picture)).convert("RGB").save(other, quality=40)
    with pytest.raises(ValueError, match=r"\d+ of their images \(the same, mirrored, or saved again\)"):
        told({"mean face": MeanFace(FolderFaces(tmp_path / "again", size=32, crop=44))})
    (line,) = told({"mean face": MeanFace(FolderFaces("gone"))})
    assert (
        "mean face: whether it has learnt from people who are attacked cannot be checked (root=gone" in line
    )
    verification = candidates["mask"].setting.verification
    assert verification is not None
    assert verification.reader is not None
    verification.reader.identities = []
    (line,) = told({"mean face": strangers})
    assert "cannot be checked: lfw does not tell who is on its images" in line


class Pictures:
    """What a reader gives of images that are there."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return {"image": self.images[rows]}


def looks(images: Tensor) -> Looks:
    return Looks.of(cast(FaceReader, Pictures(images)))


def test_what_pictures_have_in_common_makes_no_copies() -> None:
    drawn = DrawnFaces(60, 2, 32, first_identity=100).__getitems__(range(120))["image"]
    others = DrawnFaces(60, 2, 32, first_identity=900).__getitems__(range(120))["image"]
    side = torch.linspace(-1, 1, 32)
    oval = (side[:, None].square() + (1.4 * side).square() < 0.9).to(torch.uint8)
    solid = torch.arange(100, 220, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    for images, attacked, found in (
        (others, drawn, 0), (others * oval, drawn * oval, 0), (drawn * oval, drawn * oval, 120),
        (drawn.flip(-1), drawn, 120), (drawn[:7] // 2 * 2, drawn, 7), (solid[:60], solid[60:], 0),
        (solid[:60], solid[50:], 10), (drawn[:0], drawn, 0), (drawn, drawn[:0], 0),
    ):  # fmt: skip
        assert copies(looks(images), looks(attacked)) == found


def test_an_attacker_of_another_method_is_told(
    config: Callable[..., Path], fitted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fit = str(fitted / "tiny.yaml")
    own = ComparedMethod("mask", Method(fit), "both", Path("runs"), 0).setting.data.desensitizer.describe()

    def told(desensitizer: dict[str, Any]) -> str:
        caplog.clear()
        path = checkpoint(tmp_path / "restorer.ckpt", FaceDataModule={"desensitizer": desensitizer})
        with caplog.at_level("WARNING", "faceveil"):
            ComparedMethod("mask", Method(fit, restorer=str(path)), "both", Path("runs"), 0)
        return caplog.text

    assert told(own) == ""
    assert "methods.mask.restorer: " in told({"method": "Mosaic", "block": 8})
    assert "was trained against Mosaic, this is MaskOut" in caplog.text
    assert "was trained against a method it does not tell" in told({})
    candidate = ComparedMethod(
        "mask", Method(fit, restorer=str(tmp_path / "restorer.ckpt")), "both", Path("runs"), 0
    )
    with caplog.at_level("WARNING", "faceveil"):
        check_strangers({"mask": candidate}, {}, [], 0)
    assert (
        "methods.mask.restorer: whether it has learnt from people who are attacked cannot be checked"
        in caplog.text
    )
    given = TrainedRestorer(tmp_path / "restorer.ckpt")
    then = Unshuffle(BlockDCT(), then=tmp_path / "restorer.ckpt")
    check_strangers({"mask": candidate}, {"theirs": given, "unshuffled": then}, [], 0)
    for label in ("theirs", "unshuffled"):
        assert f"{label}: whether it has learnt from people who are attacked cannot be checked" in caplog.text
    home = tmp_path / "attacker"  # a whole run tells on whom it was trained
    (home / "checkpoints").mkdir(parents=True)
    (tmp_path / "restorer.ckpt").rename(home / "checkpoints/last.ckpt")
    (home / "config.yaml").write_bytes((fitted / "runs/tiny/config.yaml").read_bytes())
    candidate = ComparedMethod("mask", Method(fit, restorer=str(home)), "both", Path("runs"), 0)
    with pytest.raises(ValueError, match=r"methods\.mask\.restorer: 6 of the 6 people who are attacked"):
        check_strangers({"mask": candidate}, {}, [], 0)
    none = {"mask": ComparedMethod("mask", Method(fit), "both", Path("runs"), 0)}
    with pytest.raises(ValueError, match="theirs: 6 of the 6 people who are attacked"):
        check_strangers(none, {"theirs": TrainedRestorer(home)}, [], 0)
    # a class that the config beside the attacker names is not imported, and nothing is trained before that is settled
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = {"class_path": "evil.Reader", "init_args": {}}
    (home / "config.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"reader": reader}}}))
    with pytest.raises(
        ValueError, match=r"methods\.mask\.restorer: .*'evil\.Reader'.* give --trust evil\.Reader"
    ):
        check_strangers({"mask": candidate}, {}, [], 0)
    (tmp_path / "restorer.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"methods\.mask\.restorer: .*restorer\.ckpt"):
        ComparedMethod("mask", Method(fit, restorer=str(tmp_path / "restorer.ckpt")), "both", Path("runs"), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {}}, "methods: none given"),
        ({"methods": {"a": {"config": "gone.yaml"}}}, "no config 'gone.yaml'"),
        ({"methods": {"a/b": {"config": "demo.yaml"}}}, "methods: 'a/b' is no label"),
        (
            {"methods": {"a b": {"config": "demo.yaml"}, "a_b": {"config": "demo.yaml"}}},
            "have the same folder name",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "args": ["--data.cash", "1"]}}},
            "methods.a: .*data.*cash",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "checkpoint": "x.ckpt"}}},
            "methods.a.checkpoint x.ckpt: no such",
        ),
        (
            {"methods": {"a": {"config": "demo.yaml", "run": "../x"}}},
            "methods.a.run: '../x'; give a plain name",
        ),
        (
            {"methods": {"a": {"config": "inpaint_rfr.yaml"}}},
            "methods.a: .*inpaint_rfr.yaml|methods.a: .*mask",
        ),
        (
            {
                "judges": {
                    "x": {
                        "class_path": "lightning_app.evaluation.RecogniserJudge",
                        "init_args": {"checkpoint": "nowhere.ckpt"},
                    }
                }
            },
            r"judges\.x: checkpoint nowhere\.ckpt: no such file",
        ),
        (
            {"judges": {"x": {"class_path": "lightning_app.attacks.Telea"}}},
            r"judges.*lightning_app\.attacks\.Telea",
        ),
        ({"judges": {"x": "nowhere.ckpt"}}, "judges.x nowhere.ckpt: no such checkpoint"),
        ({"privacy_axis": "beauty"}, "privacy_axis: 'beauty'"),
        ({"judges": {}}, "privacy_axis: 'rank1' is measured by judges"),
        ({"name": "../x"}, "name: '../x'; give a plain name"),
        ({"examples": 0}, "examples: 0; give at least 1"),
        ({"device": "tpu9"}, "device: 'tpu9' cannot be used"),
    ],
)
def test_bad_input_is_told(
    config: Callable[..., Path], change: dict[str, object], message: str, run_main: RunMain,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # judges of the three methods would be missed first where the methods are others
    path = config(**(({"judges": {}, "privacy_axis": "dssim"} if "methods" in change else {}) | change))
    assert re.search(message, refused(capsys, lambda: run_main("compare", "--config", path)))


def test_methods_on_other_people_cannot_be_compared(
    config: Callable[..., Path], run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = yaml.safe_load(config().read_text())["methods"]
    path = config(methods=methods | {"demo": {"config": "demo.yaml"}})
    line = refused(capsys, lambda: run_main("compare", "--config", path))
    assert "methods.demo is verified on other pairs, crop or size than methods.none" in line
