"""What a manifest says of a method, and what no release is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_app.core.batch import Batch
from lightning_app.desensitize import (
    CentreBlock,
    CentreBlur,
    Desensitizer,
    GaussianBlur,
    Identity,
    MaskOut,
    Mosaic,
)
from lightning_app.masks import save_mask
from lightning_app.release.format.method import describe
from lightning_app.release.format.schema import is_version, plain_version
from tests.release.released import SIZE, mask_file, raw_tree, release


class Own(Desensitizer):
    """A class of one's own that tells everything."""

    def __init__(self, name: str = "Own") -> None:
        super().__init__()
        self.name = name

    def desensitize(self, image: Tensor) -> Tensor:
        return 1 - image

    def describe(self) -> dict[str, object]:
        return {"method": self.name, "guard": 1, "note": "Anna Secret", "people": ["Anna Secret"]}


class Leaky(MaskOut):
    """What is made of ours is not ours."""


def _mask(desensitizer: Desensitizer) -> Tensor | None:
    desensitizer.prepare((SIZE, SIZE))
    batch: Batch = desensitizer({"image": torch.rand(2, 3, SIZE, SIZE), "index": torch.arange(2)})
    return batch["mask"]


def test_of_a_mask_it_is_what_it_is_and_not_where_it_came_from(tmp_path: Path) -> None:
    mask_file(tmp_path / "set" / "of Ann.png")
    sources = (
        MaskOut(mask=tmp_path / "set" / "of Ann.png"), MaskOut(folder=tmp_path / "set", hidden="black"),
        MaskOut(folder=tmp_path / "set", hidden="black", levels=[(0.1, 0.9)]),
        MaskOut(freeform=(0.5, 0.6), seed=123456),
    )  # fmt: skip
    said = [describe(desensitizer, SIZE, _mask(desensitizer)) for desensitizer in sources]
    assert said[0] == said[1] == said[2]
    for description in said:
        assert description.keys() == {"method", "size", "masks", "mask_hash", "mask_ratio"}
    guarded = MaskOut(mask=tmp_path / "set" / "of Ann.png", guard=1)
    assert describe(guarded, SIZE, _mask(guarded))["guard"] == 1


def test_of_ours_all_and_of_others_the_name() -> None:
    for ours in (GaussianBlur(9), GaussianBlur(18), CentreBlur(0.5, 9), CentreBlock(0.4), Mosaic(5)):
        mask = _mask(ours)
        assert describe(ours, SIZE, mask) == ours.describe()
    assert describe(Own(), SIZE, None) == {"method": "Own"}
    assert describe(Own(), SIZE, torch.eye(SIZE)[None, None]) == {"method": "Own", "guard": 1}
    leaky = Leaky(freeform=(0.5, 0.6))
    assert describe(leaky, SIZE, _mask(leaky)) == {"method": "Leaky"}


def test_of_these_no_release_is_made(tmp_path: Path) -> None:
    raw = raw_tree(tmp_path / "raw", people=2, each=2)
    one = torch.ones(1, SIZE, SIZE)
    one[0, 5, 5] = 0
    save_mask(one, tmp_path / "one.png")
    impostor = type("GaussianBlur", (Own,), {})("GaussianBlur")
    for desensitizer, words in (
        (
            MaskOut(mask=tmp_path / "one.png"),
            r"MaskOut: its mask hides 0\.0017 of the pixels, less than 0\.1",
        ),
        (CentreBlock(0.1), "CentreBlock: its mask hides 0"),
        (CentreBlur(0.1, 9), r"CentreBlur: fraction 0\.1 blurs 0\.0069 of the pixels, less than 0\.1"),
        (GaussianBlur(9, 1.23456), r"GaussianBlur: sigma 1\.23456 has more than 3 decimals"),
        (
            CentreBlur(0.51234, 9),
            r"method\.fraction is 0\.51234, not a share in \(0,1\) of 3 decimals at most",
        ),
        (Mosaic(25), r"Mosaic: method\.block is 25, not a number of pixels from 2 to 24"),
        (impostor, "GaussianBlur bears the name of FaceVeil's own GaussianBlur; rename"),
        (type("A" * 60, (Own,), {})(), r"method\.method is .*, not the name of a class"),
        (Identity(), "changes nothing, the release would be the raw set"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            release(tmp_path, raw, desensitizer=desensitizer)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("package", "text", "good"), [
    ("python", "3.11.7", True), ("python", "3.13.0rc1", True), ("python", "3.14.0b2+", True),
    ("torch", "2.10.0.dev20251101+cu128", True), ("torch", "2.4.0a0+f70bd71a48.nv24.06", True),
    ("torch", "2.4.0a0+git1234567", True), ("torch", "2.5.1+rocm6.2", True), ("zlib", "1.3.1.zlib-ng", True),
    ("zlib", "1.2.13", True), ("torch", "2.4.1+cu121", True), ("faceveil", "other", True),
    ("python", "3.11.7\n", False), ("python", "3" * 9, False), ("torch", "2+anna", False),
    ("torch", "2.4+" + "a" * 7, False), ("python", "", False), ("python", "٣.١١", False),
    ("torch", "3.1.1.1.1", False),
])  # fmt: skip
def test_versions(package: str, text: str, good: bool) -> None:
    assert is_version(package, text) == good
    assert is_version(package, plain_version(text))
    assert plain_version(text) == (text if good else "other")
    assert not is_version("anna", text)
