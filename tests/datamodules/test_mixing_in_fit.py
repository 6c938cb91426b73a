"""Training batches are mixed, and nothing else is: by an explicit word, whatever mode a module is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from datamodules import Augment, DrawnFaces, FaceDataModule
from lightning_app import load_recogniser
from lightning_app.cli.configs import CONFIGS
from lightning_app.core.batch import AS_TRAINED, Batch, DrawKey
from lightning_app.core.key_file import make_key
from lightning_app.desensitize import Chain, Desensitizer, InstaHide, MixUp, Mosaic, RandomMixUp, mixer_of
from lightning_app.federated.owner.terms import check_changes
from lightning_app.federated.protocol.shared_mask import mask_and_hash
from tests.command_line import RunMain, refused, write_config
from tests.desensitize.test_chain import Halves

SIZE = 32


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "owner.key"
    make_key(path)
    return path


def data(desensitizer: Desensitizer, stage: str | None, **more: Any) -> FaceDataModule:
    """A DataModule in the middle of `fit`, of a validation or of `predict`; without a trainer where there is none."""
    made = FaceDataModule(
        DrawnFaces(4, 4, SIZE), desensitizer, Augment(flip=0.5), global_batch_size=8, seed=1, mean=0.0, std=1.0, **more
    )  # fmt: skip
    if stage is None:
        return made

    class Trainer:
        training, current_epoch, global_step, world_size = stage == "fit", 2, 3, 1
        lightning_module = type("Model", (), {"mixes_itself": False})()
        state = type("State", (), {"fn": type("Fn", (), {"value": stage})})
        precision_plugin = type("Plain", (), {"convert_input": staticmethod(lambda batch: batch)})

    made.trainer = Trainer()  # type: ignore[assignment]
    return made


def raw(count: int = 8) -> Batch:
    return DrawnFaces(4, 4, SIZE).__getitems__(list(range(0, 2 * count, 2)))


@pytest.mark.parametrize("kind", [MixUp, InstaHide])
def test_only_training_batches_are_mixed(kind: type[MixUp], key: Path) -> None:
    made = kind(3, key=key)
    mixed = data(made, "fit").on_after_batch_transfer(raw(), 0)
    assert mixed["target"].shape == mixed["weight"].shape == (8, 3)
    clean = raw()["image"].float() / 255
    assert not torch.equal(mixed["image"], clean)
    for stage in ("validate", "test", "predict", None):
        module = data(made.train(), stage)
        out = module.on_after_batch_transfer(raw(), 0)
        assert torch.equal(out["image"], clean)
        assert not {"target", "weight"} & {*out}
        assert torch.equal(module.prepare(raw()["image"])["image"], clean)


def test_mixed_pictures_are_on_the_grid_of_pixels_and_flipped_as_a_whole(key: Path) -> None:
    module = data(MixUp(2, key=key), "fit")
    out = module.on_after_batch_transfer(raw(), 0)
    torch.testing.assert_close(out["image"] * 255, (out["image"] * 255).round(), rtol=0, atol=1e-4)
    alone = module.desensitize_batch(raw(), DrawKey(1, 2, 3, mix=True))["image"]
    flipped = [not torch.equal(a, b) for a, b in zip(out["image"], alone, strict=True)]
    assert 0 < sum(flipped) < 8
    assert torch.equal(out["image"][flipped], alone[flipped].flip(-1))


def test_raw_images_are_flipped_before_signs(key: Path) -> None:
    out = data(InstaHide(2, key=key), "fit").on_after_batch_transfer(raw(), 0)
    flipped = data(Mosaic(40), "fit").augment(
        {**raw(), "image": raw()["image"].float() / 255, "mask": None, "mask_index": torch.zeros(8, dtype=torch.int64)},
        DrawKey(1, 2, 3),
    )  # fmt: skip
    expected = InstaHide(2, key=key)(flipped, DrawKey(mix=True))["image"]
    torch.testing.assert_close(out["image"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_attackers_get_mixes_in_training_and_of_held_out_images(stage: str, key: Path) -> None:
    module = data(MixUp(3, key=key), stage, keep_clean=True)
    out = module.on_after_batch_transfer(raw(), 0)
    assert out["weight"].shape == (8, 3)
    if stage == "validate":
        assert torch.equal(out["clean"], raw()["image"].float() / 255), "the first image of each mix"
        left_over = module.on_after_batch_transfer(raw(2), 0)
        assert all(len(left_over[name]) == 0 for name in ("image", "clean", "identity", "index"))
    unmixed = data(MixUp(3, key=key), "predict", keep_clean=True).on_after_batch_transfer(raw(2), 0)
    assert torch.equal(unmixed["image"], raw(2)["image"].float() / 255)


def test_k_is_drawn_uniformly_by_the_step_and_outside_training_by_the_images(key: Path) -> None:
    made = RandomMixUp([2, 3, 5], key=key)
    index = torch.arange(8)
    drawn = [made.images_of(index, DrawKey(1, step // 50, step, mix=True)) for step in range(3000)]
    for k in (2, 3, 5):
        assert drawn.count(k) / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert drawn[:20] == [
        made.images_of(index.flip(0) + 9, DrawKey(1, 0, step, mix=True)) for step in range(20)
    ], "whatever images a process has, for all draw the same"
    shown = {made.images_of(index + start, AS_TRAINED) for start in range(40)}
    assert shown == {2, 3, 5}
    module = data(made, "fit")
    out = module.on_after_batch_transfer(raw(), 0)
    assert out["weight"].shape == (8, made.images_of(raw()["index"], DrawKey(1, 2, 3, mix=True)))
    again = RandomMixUp.from_description(json.loads(json.dumps(made.describe())))
    assert again.candidates == (2, 3, 5)


def test_a_model_that_chooses_gets_them_unmixed_and_mixes_them_as_the_data_would(key: Path) -> None:
    made = RandomMixUp([2, 3, 5], key=key)
    module = data(made, "fit")
    draw_key = DrawKey(1, 2, 3, mix=True)
    expected = module.on_after_batch_transfer(raw(), 0)
    module.trainer.lightning_module.mixes_itself = True  # type: ignore[union-attr]
    unmixed = module.on_after_batch_transfer(raw(), 0)
    assert not {"target", "weight"} & {*unmixed}
    pixels = unmixed["image"] * 255
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)
    before = unmixed["image"].clone()
    mixed = module.mixed(unmixed, draw_key, made.images_of(raw()["index"], draw_key))
    assert torch.equal(unmixed["image"], before)
    for name in ("image", "target", "weight"):
        assert torch.equal(mixed[name], expected[name]), name
    with pytest.raises(ValueError, match="MixUp leaves k to nobody"):
        data(MixUp(2, key=key), "fit").mixed(unmixed, draw_key, 2)
    assert mixer_of(Chain([Mosaic(4), made])) is made
    assert mixer_of(Chain([made, Mosaic(4)])) is None


@pytest.mark.parametrize(
    ("k", "cap", "message"),
    [
        ([], 0.55, r"k: \[\]; give different numbers of images, such as \[2, 3, 4\]"),
        ([2, 2], 0.55, r"k: \[2, 2\]; give different numbers"),
        ([1, 3], 0.55, r"k: 1 images in a mix; give 2 to 64"),
        ([4, 2], 0.5, r"cap: 0\.5 is not above 1/k = 0\.5"),
    ],
)
def test_candidates_that_cannot_be(k: list[int], cap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomMixUp(k, cap)


def test_too_small_batches_are_told_before_training(key: Path) -> None:
    module = FaceDataModule(DrawnFaces(4, 4, SIZE), MixUp(4, key=key), global_batch_size=3)
    with pytest.raises(
        ValueError, match=r"global_batch_size=3: MixUp mixes k=4 images of a batch, .* has 3; give 4"
    ):
        module.setup("fit")
    module.setup("validate")  # which mixes nothing


def test_owners_mix_with_their_own_keys(key: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "other.key")
    other = tmp_path / "other.key"
    assert mask_and_hash(MixUp(2, key=key), SIZE) == mask_and_hash(MixUp(2, key=other), SIZE)
    assert mask_and_hash(MixUp(2, key=key), SIZE) != mask_and_hash(MixUp(3, key=key), SIZE)
    chains = [Chain([Mosaic(8), InstaHide(2, key=path)]) for path in (key, other)]
    assert mask_and_hash(chains[0], SIZE) == mask_and_hash(chains[1], SIZE)
    assert chains[0].describe() != chains[1].describe()
    check_changes(FaceDataModule(DrawnFaces(4, 4, SIZE), MixUp(3, key=key)))  # of mixes it is true


def mixing_config(path: Path, root: Path, key: Path, k: int = 2, **data: object) -> Path:
    config = yaml.safe_load(write_config(path, root).read_text())
    config["data"]["init_args"]["desensitizer"] = {
        "class_path": "lightning_app.desensitize.MixUp",
        "init_args": {"k": k, "key": str(key)},
    }
    config["data"]["init_args"] |= data
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_run_is_trained_on_mixes_and_verified_on_faces(
    drawn_root: Path, key: Path, tmp_path: Path, run_main: RunMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool, bool]] = []
    forward: Callable[..., Batch] = MixUp.forward

    def spied(self: MixUp, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        out = forward(self, batch, draw_key)
        mixed = not torch.equal(out["image"], batch["image"])
        seen.append((draw_key is not None and draw_key.mix, mixed, "identity" in batch))
        return out

    monkeypatch.setattr(MixUp, "forward", spied)
    config = mixing_config(tmp_path / "mixed.yaml", drawn_root, key)
    run_main("fit", "--config", config)
    assert {(asked, mixed) for asked, mixed, _ in seen} == {(True, True), (False, False)}
    # with labels, of batches that are asked to be mixed: two epochs of two training steps
    assert sum(asked and labels for asked, _, labels in seen) == 2 * 2
    metrics = json.loads(Path("runs/mixed/metrics.json").read_text())
    for figure in ("accuracy", "auc"):  # who is not mixed is a clean face, in every situation
        assert metrics[f"lfw/{figure}_s1"] == metrics[f"lfw/{figure}_s2"] == metrics[f"lfw/{figure}_s3"]
    assert metrics["privacy/dssim"] > 0.02, "of the mixes that are trained on, not of a face alone"
    seen.clear()
    run_main("validate", "--config", config, "--ckpt_path", "last")
    again = json.loads(Path("runs/mixed/metrics.json").read_text())
    assert again["lfw/auc"] == pytest.approx(metrics["lfw/auc"], abs=1e-6)
    assert again["val/loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)
    checkpoint = torch.load("runs/mixed/checkpoints/last.ckpt", weights_only=True)
    description = checkpoint["FaceDataModule"]["desensitizer"]
    assert description == MixUp(2, key=key).describe()
    loaded = load_recogniser("runs/mixed")
    assert "an image alone is taken as it is" in repr(loaded)
    faces = DrawnFaces(2, 2, SIZE).__getitems__([0, 1, 2])["image"].permute(0, 2, 3, 1).numpy()
    asis = load_recogniser("runs/mixed", desensitize=False).embed_images(faces)
    assert np.array_equal(loaded.embed_images(faces), asis)
    secret = key.read_text().strip()
    for file in Path("runs/mixed").rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_another_key_is_refused_in_training_and_does_not_matter_to_faces_alone(
    key: Path, tmp_path: Path
) -> None:
    make_key(tmp_path / "other.key")
    chains = [Chain([Mosaic(8), MixUp(2, key=path)]) for path in (key, tmp_path / "other.key")]
    state = data(chains[0], "validate").state_dict()
    for stage in ("validate", "predict"):
        data(chains[1], stage).load_state_dict(dict(state))
    with pytest.raises(ValueError, match=r"was trained with the owner's key .* here Chain draws from"):
        data(chains[1], "fit").load_state_dict(dict(state))


def test_signed_pixels_are_normalised_as_pixels_are(key: Path) -> None:
    for made, expected in (
        (InstaHide(2, key=key), 0.5), (Chain([Mosaic(4), InstaHide(2, key=key)]), 0.5),
        (MixUp(2, key=key), 0.5), (Chain([Halves(), InstaHide(2, key=key)]), 0.0), (Chain([Halves()]), 0.0),
    ):  # fmt: skip
        assert FaceDataModule(DrawnFaces(4, 4, SIZE), made).mean == expected


def test_too_many_images_in_a_mix_are_one_line(
    drawn_root: Path, key: Path, tmp_path: Path, run_main: RunMain, capsys: pytest.CaptureFixture[str]
) -> None:
    config = mixing_config(tmp_path / "mixed.yaml", drawn_root, key, k=5, global_batch_size=4)
    line = refused(capsys, lambda: run_main("fit", "--config", config))
    assert (
        "data.global_batch_size=4: MixUp mixes k=5 images of a batch, and each of 1 processes has 4; give 5"
        in line
    )
    assert not Path("runs/mixed/checkpoints").exists()


@pytest.mark.parametrize("name", ["mixup", "instahide", "hybrid", "adamixup"])
def test_the_shipped_config_trains(
    name: str, drawn_root: Path, key: Path, tmp_path: Path, run_main: RunMain
) -> None:
    """Five steps of eight images at 32 px, on drawn faces."""
    config = yaml.safe_load((CONFIGS / f"lfwa_quick_{name}.yaml").read_text())
    folder = {"root": str(drawn_root), "size": SIZE, "crop": 44}
    config["data"]["init_args"]["reader"]["init_args"] = folder
    config["data"]["init_args"]["global_batch_size"] = 8
    desensitizer = config["data"]["init_args"]["desensitizer"]
    for step in desensitizer["init_args"].get("steps", [desensitizer]):
        step["init_args"]["key"] = str(key)
    config["model"]["init_args"]["width"] = 8
    if name == "adamixup":
        config["model"]["init_args"]["strategy_width"] = 8
    config["trainer"]["callbacks"][0]["init_args"] = {"root": str(drawn_root), "bootstrap": 20}
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 5, "check_val_every_n_epoch": 1,
                          "precision": "32-true", "accelerator": "cpu"}  # fmt: skip
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(config))
    run_main("fit", "--config", tmp_path / "quick.yaml")
    metrics = json.loads(Path("runs/quick/metrics.json").read_text())
    assert metrics["train/loss"] > 0
    assert "lfw/accuracy_s1" in metrics
    assert torch.load("runs/quick/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    if name == "adamixup":
        assert sum(metrics[f"mixing/share_{k}"] for k in (2, 3, 4)) == pytest.approx(1)
        assert Path("runs/quick/mixing.png").is_file()
        # the control, as configs/frequency_adamixup.yaml has it: k drawn uniformly, under the same config
        run_main("fit", "--config", tmp_path / "quick.yaml", "--model=lightning_app.models.ResNet", "--name", "control",
                 "--trainer.limit_train_batches=3")  # fmt: skip
        metrics = json.loads(Path("runs/control/metrics.json").read_text())
        assert sum(metrics[f"mixing/share_{k}"] for k in (2, 3, 4)) == pytest.approx(1)
        assert "mixing/reward1" not in metrics


def test_mixes_of_a_representation_are_trained_on(
    drawn_root: Path, key: Path, tmp_path: Path, run_main: RunMain
) -> None:
    config = yaml.safe_load(mixing_config(tmp_path / "chain.yaml", drawn_root, key).read_text())
    mixing = config["data"]["init_args"]["desensitizer"]
    halves = {"class_path": f"{Halves.__module__}.{Halves.__name__}"}
    config["data"]["init_args"]["desensitizer"] = {
        "class_path": "lightning_app.desensitize.Chain",
        "init_args": {"steps": [halves, mixing]},
    }
    config["trainer"]["max_epochs"] = 1
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(config))
    run_main("fit", "--config", tmp_path / "chain.yaml")
    checkpoint = torch.load("runs/chain/checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["hyper_parameters"]["in_channels"], checkpoint["hyper_parameters"]["input_size"]) == (
        12,
        16,
    )
    assert [step["method"] for step in checkpoint["FaceDataModule"]["desensitizer"]["steps"]] == [
        "Halves",
        "MixUp",
    ]
    metrics = json.loads(Path("runs/chain/metrics.json").read_text())
    assert "lfw/accuracy_s1" in metrics
