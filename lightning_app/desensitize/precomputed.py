"""What another program made of the images: a folder of pictures of the same names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.files import given_folder
from lightning_app.core.text_file import composed
from lightning_app.desensitize.base import Desensitizer

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Precomputed(Desensitizer):
    """Take the pictures that any other program made of these very images, from a folder of the same names.

    DeepPrivacy2, CIAGAN, a face blurrer or a vendor's product so becomes a method like any other: it can be trained on,
    verified, attacked and compared. An image is found by its name within its set (`Person/Person_0001.jpg`), whatever
    the case and kind of the suffix. A picture is either of the size of its original file, and is then cropped and
    resized as that is, or of the very size at which faces are read.

    No release is made of it, and no face that is not in the folder can be desensitized.

    Args:
        root: the folder, laid out as the images' own. People that attackers learn from are in it as well.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
    """

    in_words = (
        "Another program made these pictures; FaceVeil knows the result and not how it was made. They were found "
        "by the images' names."
    )
    has_mask = False
    elsewhere = True

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__()
        self.root = given_folder(root)
        self._files: dict[str, list[str]] | None = None
        self._hash = ""

    @property
    def files(self) -> Mapping[str, list[str]]:
        """Return paths within the folder by their name without suffix; they are read once.

        Raises:
            FileNotFoundError: no such folder, or no picture in it.
            ValueError: a picture is a link that leads out of the folder, or is no file.
        """
        if self._files is None:
            if not self.root.is_dir():
                raise FileNotFoundError(
                    f"Precomputed root={self.root}: no such folder (looked for the pictures that another program made)"
                )
            found: dict[str, list[str]] = {}
            inside = self.root.resolve()
            for folder, inner, names in os.walk(self.root):
                inner[:] = sorted(one for one in inner if not one.startswith("."))
                for name in sorted(names):
                    if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                        path = Path(folder, name).relative_to(self.root).as_posix()
                        self._check_file(path, inside)
                        found.setdefault(stem(path), []).append(path)
            if not found:
                raise FileNotFoundError(
                    f"Precomputed root={self.root}: no picture in it (looked for {', '.join(SUFFIXES)})"
                )
            self._files = found
        return self._files

    def _check_file(self, path: str, inside: Path) -> None:
        """Refuse a link that leads out of the folder: to the original itself, say, which would pass for a method."""
        whole = self.root / path
        if whole.is_symlink() and inside not in whole.resolve().parents:
            raise ValueError(
                f"Precomputed root={self.root}: {path} is a link that leads out of the folder; put the picture itself "
                "there"
            )
        if not whole.is_file():
            raise ValueError(f"Precomputed root={self.root}: {path} is no file")

    def file(self, name: str) -> Path | None:
        """Find the picture of an image; None where there is none.

        Args:
            name: of the image within its set, with or without suffix.

        Raises:
            ValueError: there are several, and none has the image's own suffix.
        """
        found = self.files.get(stem(name), [])
        if len(found) > 1:
            same = [one for one in found if _normal(one) == _normal(name)]
            if len(same) != 1:
                raise ValueError(
                    f"Precomputed root={self.root}: {' and '.join(found)} are both of {name}: leave one"
                )
            found = same
        return self.root / found[0] if found else None

    def prepare(self, size: tuple[int, int]) -> None:
        """Scan the folder, and hash all it holds.

        Raises:
            FileNotFoundError: no such folder, or no picture in it.
        """
        if not self._hash:
            digest = hashlib.sha256()
            for name in sorted(path for paths in self.files.values() for path in paths):
                content = (self.root / name).read_bytes()
                digest.update(f"{_normal(name)} {hashlib.sha256(content).hexdigest()}\n".encode())
            self._hash = digest.hexdigest()

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Put the pictures in the images' places.

        Args:
            batch: `image [B,3,H,W]`, and `elsewhere` uint8 of the same shape: the pictures, which the data found.
            draw_key: of no account.

        Raises:
            ValueError: the batch has no pictures: its images are not of a set, such as drawn faces or noise.
        """
        if "elsewhere" not in batch:
            raise ValueError(
                f"desensitizer: Precomputed root={self.root} has pictures of a set's images, found by name, and none "
                "of others: drawn faces, noise, or images given without their reader"
            )
        made = batch.copy()
        made["image"] = made.pop("elsewhere").to(batch["image"].device).float() / 255
        made["mask"], made["mask_index"] = None, batch["index"].new_zeros(len(batch["index"]))
        return made

    def describe(self) -> dict[str, object]:
        """Return how many pictures there are and the SHA-256 of all of them; no path."""
        self.prepare((0, 0))
        return super().describe() | {
            "pictures": sum(map(len, self.files.values())),
            "pictures_hash": self._hash,
        }

    def why_not_released(self) -> str:
        """Return that what another program made is released by whoever made it."""
        return (
            "Precomputed: its pictures were made by another program, whose doing no manifest can state and no audit "
            "can check: hand on that program's own output, and compare it here"
        )

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Refuse: a description does not hold the pictures.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{cls.__name__} cannot be made from its description: give the folder of pictures")


def stem(name: str) -> str:
    """Return a name without its suffix, where that is a picture's, accents composed: what it is found by.

    Args:
        name: of an image within its set.

    Example:
        >>> stem("Ada/Ada_0001.JPG"), stem("Ada/Ada_0001"), stem("Ada/Dr. Ada")
        ('Ada/Ada_0001', 'Ada/Ada_0001', 'Ada/Dr. Ada')
    """
    whole, suffix = os.path.splitext(_normal(name))
    return whole if suffix.lower() in SUFFIXES else _normal(name)


def _normal(name: str) -> str:
    return composed(name.replace("\\", "/"))
