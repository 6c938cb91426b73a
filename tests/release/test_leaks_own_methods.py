"""An audit of methods that change next to nothing, are somebody's own, or find nothing to change."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_app.desensitize import CentreBlur, Desensitizer, GaussianBlur, Mosaic
from lightning_app.release.audit.against_raw import AS_CLEAN
from lightning_app.studies.audit import audit
from tests.release.by_hand import SIZE, write_release
from tests.release.leaks import Grain, Nothing, Owner, Speck, audited, config_of

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("face", ["smooth", "dark", "of one colour"])
@pytest.mark.parametrize("desensitizer", [GaussianBlur(9), CentreBlur(0.5, 9), Mosaic(8)])
def test_faces_that_no_method_could_change_much_pass(
    tmp_path: Path, owner: Owner, desensitizer: Desensitizer, face: str
) -> None:
    """Their dSSIM from the raw images is next to nothing, though all was done to them that can be."""
    rows, columns = np.mgrid[:48, :48]
    for person, number in itertools.product("ab", range(2)):
        grey = {"smooth": 90 + rows / 4 + columns / 5 + number, "of one colour": rows * 0 + 40 + number}
        grey["dark"] = (7 * rows + 5 * columns + number) % 11 // 10  # a grey level here and there
        path = tmp_path / "raw" / person / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey[face].astype(np.uint8)).save(path)
    write_release(tmp_path / "released", tmp_path / "raw", desensitizer, channels=1)
    found = audited(tmp_path / "released", tmp_path / "raw", owner, False, True)
    assert found.findings == []
    assert found.compared is not None
    assert found.compared.images == 4


def test_a_weak_method_of_ours_is_as_good_as_clean(tmp_path: Path, raw: Path, owner: Owner) -> None:
    write_release(tmp_path / "released", raw, CentreBlur(0.35, 2, 0.5))
    found = audited(tmp_path / "released", raw, owner, False, True)
    said = {finding.file: finding.what for finding in found.findings}
    assert said["images"].startswith("are as good as clean: dSSIM")
    assert said["manifest.json"].startswith("sigma 0.5 with 3 weights blurs by 0.4"), (
        "without the raw set too"
    )


@pytest.mark.parametrize("desensitizer", [Nothing(), Grain(), Speck()])
def test_a_class_that_changes_next_to_nothing_is_found_though_the_config_names_it(
    tmp_path: Path, raw: Path, owner: Owner, desensitizer: Desensitizer
) -> None:
    write_release(tmp_path / "released", raw, desensitizer)
    (tmp_path / "d.yaml").write_text(config_of(raw, f"tests.release.leaks.{type(desensitizer).__name__}"))
    config = str(tmp_path / "d.yaml")
    alone = audit(str(tmp_path / "released"), config=config)
    assert [finding.what for finding in alone.findings] == [
        "it has no mask, and nothing shows that its faces are desensitized: give --raw and --key as well"
    ]
    beside = audit(str(tmp_path / "released"), config=config, key=str(owner[2]))
    said = [finding.what for finding in beside.findings]
    assert any("are as good as clean: dSSIM from the raw images is 0.00" in what for what in said)
    assert said.count("is clean: its pixels are those of the raw image") == (
        6 if type(desensitizer) is Nothing else 0
    )


@pytest.mark.parametrize("black", [2, 6])
def test_images_that_are_black_under_the_mask_anyway_are_told_from_clean_ones(
    tmp_path: Path, raw: Path, owner: Owner, black: int
) -> None:
    """Cut-out faces on black: nothing of them is hidden, and nothing of them leaks."""
    cut = Path(shutil.copytree(raw, tmp_path / "raw"))
    files = sorted(cut.rglob("*.png"))
    for file in files[:black]:
        pixels = np.array(Image.open(file))
        pixels[:, 20:] = 0  # of 48; the crop takes 44, and the mask hides their right half
        Image.fromarray(pixels).save(file)
    left = torch.zeros(1, SIZE, SIZE)
    left[..., : SIZE // 2] = 1
    write_release(tmp_path / "released", cut, hides=left)
    found = audited(tmp_path / "released", cut, owner, False, True)
    assert found.compared is not None
    assert (found.compared.images, found.compared.black) == (len(files), black)
    if black < len(files):
        assert found.findings == []
        assert (
            f"{black} of {len(files)} images compared are black under the mask in the raw set too"
            in " ".join(found.notes)
        )
    else:
        (finding,) = found.findings
        assert finding.file == "images"
        assert "black under the mask in the raw set too, so that it hides nothing" in finding.what


class Inverted(Desensitizer):
    """A method of one's own that changes every pixel."""

    def desensitize(self, image: Tensor) -> Tensor:
        return 1 - image


def test_a_class_of_ones_own_passes_where_the_config_names_it(
    tmp_path: Path, raw: Path, owner: Owner
) -> None:
    write_release(tmp_path / "released", raw, Inverted())
    (tmp_path / "d.yaml").write_text(config_of(raw, "tests.release.test_leaks_own_methods.Inverted"))
    found = audit(str(tmp_path / "released"), config=str(tmp_path / "d.yaml"), key=str(owner[2]))
    assert found.findings == []
    assert found.compared is not None
    assert found.compared.images == 6


class Favours(Desensitizer):
    """Changes one pixel of some people's images, and every pixel of the others'."""

    def desensitize(self, image: Tensor) -> Tensor:
        spared = image[:, :, SIZE // 2, SIZE // 2].sum(1) * 255 % 2 < 1  # an odd or an even colour
        return torch.where(spared.view(-1, 1, 1, 1), Speck().desensitize(image), 1 - image)


def test_a_class_that_spares_some_is_found_though_most_are_changed(
    tmp_path: Path, raw: Path, owner: Owner
) -> None:
    write_release(tmp_path / "released", raw, Favours())
    (tmp_path / "d.yaml").write_text(config_of(raw, "tests.release.test_leaks_own_methods.Favours"))
    found = audit(str(tmp_path / "released"), config=str(tmp_path / "d.yaml"), key=str(owner[2]))
    assert found.compared is not None
    assert found.compared.mean_dssim is not None
    assert found.compared.mean_dssim > AS_CLEAN
    said = [finding.what for finding in found.findings]
    assert 0 < len(said) < 6
    assert all(what.startswith("is as good as clean: dSSIM from its raw image is 0.00") for what in said)
