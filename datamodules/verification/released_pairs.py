"""A release to verify on: images that the owner desensitized, and the list of pairs that came with them."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Literal

import torch

from datamodules.readers.released import ReleasedFaces
from datamodules.verification.pair_list import PairList, checked_pairs
from lightning_app.core.files import read_bounded
from lightning_app.release.format.pairs import LONGEST, read_pairs_text
from lightning_app.release.format.tensors import PAIRS


class ReleasedPairs(ReleasedFaces):
    """Read a release that was made to verify on, for a trainer who has not the owner's key, or his masker.

    The owner makes it of a set of pairs (`datamodules.PairFaces` as the reader of `desensitize`), by the method and the
    key of the training set's release. Give it to `LFWVerification` as its `reader`.

    Args:
        root: the released folder, the one with `manifest.json`.
        verify: see `ReleasedFaces`.
        public_key: see `ReleasedFaces`.

    Attributes:
        pairs: the list, `a` and `b` being positions in this reader.

    Raises:
        FileNotFoundError: no such folder, or no manifest in it.
        ValueError: the release has no pairs, or is not what its manifest says.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        verify: Literal["all", "list"] = "all",
        public_key: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(root, verify, public_key)
        if not self.manifest.pairs:
            raise ValueError(
                f"reader.init_args.root={root}: this release has no pairs to verify on; the owner makes one with "
                "datamodules.PairFaces as the reader of `desensitize`"
            )
        if self.mixes:
            raise ValueError(
                f"reader.init_args.root={root}: its images are mixes, on which nothing can be verified"
            )

    @property
    def pairs(self) -> PairList:
        """The list of pairs, read when it is first asked for."""
        if "_listed" not in self.__dict__:
            self._listed = self._read_pairs()
        return self._listed

    @pairs.setter
    def pairs(self, listed: PairList) -> None:
        self._listed = listed

    def _read_pairs(self) -> PairList:
        path = self.root / PAIRS
        names = [PurePath(name).stem for name in self.stable_names()]
        at = {name: index for index, name in enumerate(names)}
        content = read_bounded(path, self.manifest.pairs * LONGEST)
        try:
            found = read_pairs_text(content)
            ends = [(at[pair.a], at[pair.b]) for pair in found]
        except (ValueError, KeyError) as error:
            what = "names an image that is not there" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} {what}; see `python main.py audit {self.root}`") from error
        listed = PairList(
            names=names,
            a=torch.tensor([a for a, _ in ends]),
            b=torch.tensor([b for _, b in ends]),
            same=torch.tensor([pair.same for pair in found]),
            folds=torch.tensor([pair.fold for pair in found]),
            identities=self.identities,
            labels=self.labels,
        )
        return checked_pairs(listed, len(self), f"reader={self.root}")
