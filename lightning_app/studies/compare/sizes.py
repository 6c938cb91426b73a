"""The side of the faces that attackers learn from: that of the faces attacked, or all that is trained would be lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightning_app.attacks import Attack
from lightning_app.attacks.trained import load_restorer
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.config_place import said_at


def check_sizes(candidates: Mapping[str, ComparedMethod], attacks: Mapping[str, Attack]) -> None:
    """Check what attacks without training have learnt from, and the checkpoints that they and methods bring.

    Args:
        candidates: the methods, all on faces of one size.
        attacks: label -> attack.

    Raises:
        FileNotFoundError: a checkpoint is not there.
        ValueError: one learns from faces of another size, or was trained on such; or its checkpoint cannot be read.
    """
    size = next(iter(candidates.values())).setting.data.size
    for label, attack in attacks.items():
        with said_at(f"attacks.{label}"):
            for side in _sides(attack):
                check_size(side, size)
    for label, candidate in candidates.items():
        if candidate.method.restorer is not None:
            with said_at(f"methods.{label}.restorer"):
                check_size(load_restorer(candidate.method.restorer).pixels, candidate.setting.data.size)


def _sides(attack: Attack) -> Iterator[int]:
    yield from (reader.size for reader in attack.readers())
    yield from (load_restorer(path).pixels for path in attack.checkpoints())


def check_size(side: int, size: int) -> None:
    """Check that an attacker learns from faces as large as those that it attacks.

    Args:
        side: of the faces that it learns from, in pixels.
        size: of those attacked.

    Raises:
        ValueError: they are not.
    """
    if side != size:
        raise ValueError(
            f"it learns from faces of {side} px, and those of the methods have {size} px: give it faces of {size} px"
        )
