"""What stands for a method that a trainer cannot put raw images through keeps the contract as far as it can."""

from __future__ import annotations

import pytest

from datamodules import DrawnFaces
from lightning_app.desensitize import Desensitizer, LearnedMask
from lightning_app.release.format.keyed import WithoutKey
from lightning_app.release.format.manifest import Manifest
from lightning_app.release.format.own_masks import OwnMasks
from tests.desensitize.contract import KeylessContract
from tests.masker import write_masker
from tests.release import tensor_release


class TestWithoutKey(KeylessContract):
    @pytest.fixture(scope="class")
    def manifest(self, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
        home = tmp_path_factory.mktemp("keyed")
        tensor_release.released(home, DrawnFaces(2, 2, self.size), "out", tensor_release.method(home))
        return Manifest.read(home / "out")

    @pytest.fixture(autouse=True)
    def _manifest(self, manifest: Manifest) -> None:
        self.theirs = manifest

    def make(self) -> WithoutKey:
        return WithoutKey(self.theirs)

    def method(self, made: Desensitizer) -> str:
        return "FrequencyMask"

    def test_it_is_of_the_images_of_its_release(self) -> None:
        made = self.made()
        assert (made.called, made.out_channels, made.out_size(self.size)) == ("FrequencyMask", 15, 8)
        with pytest.raises(ValueError, match=r"the release was made of images of 32 px, not 64"):
            made.out_size(64)


class TestOwnMasks(KeylessContract):
    @pytest.fixture(scope="class")
    def manifest(self, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
        home = tmp_path_factory.mktemp("masks")
        masker = LearnedMask(write_masker(home / "masker.ckpt", self.size), 0.24, "codebook")
        tensor_release.released(home, DrawnFaces(2, 2, self.size), "out", masker)
        return Manifest.read(home / "out")

    @pytest.fixture(autouse=True)
    def _manifest(self, manifest: Manifest) -> None:
        self.theirs = manifest

    def make(self) -> OwnMasks:
        return OwnMasks(self.theirs)

    def method(self, made: Desensitizer) -> str:
        return "LearnedMask"

    def test_it_promises_masks(self) -> None:
        assert (self.made().has_mask, self.made().is_image) == (True, True)
