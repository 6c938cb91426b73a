"""A trained linker as a judge: what was released by its student, clean faces by the recogniser it learnt from."""

from __future__ import annotations

import hashlib

from torch import Tensor

from lightning_app.attacks.link import LinkAttack
from lightning_app.attacks.unshuffle import Unshuffle
from lightning_app.evaluation.judges.base import Judge
from lightning_app.evaluation.judges.recogniser import RecogniserJudge


class LinkJudge(Judge):
    """Find who is on a released image among clean faces, though nobody restores it.

    Args:
        attack: the student, trained on this very method.
        teacher: who embeds the clean faces: the recogniser that the student learnt from.
        before: what puts the channels of what was released back, where the student learnt from its reference.

    Raises:
        ValueError: the student learnt from another one.
    """

    of_released = True

    def __init__(self, attack: LinkAttack, teacher: Judge, before: Unshuffle | None = None) -> None:
        super().__init__()
        if attack.teacher not in teacher_hashes(teacher):
            raise ValueError(
                f"checkpoint {attack.path}: learnt from a recogniser of hash {attack.teacher[:12]}, the judge given "
                f"has {teacher_hashes(teacher)[0][:12]}: give the judge it learnt from"
            )
        self.before = before
        self.attack, self._teacher = attack, [teacher]  # in a list: the teacher is no part of its state

    def embed(self, images: Tensor) -> Tensor:
        """Embed what was released.

        Args:
            images: `[B,C,h,w]` as released: a picture in [0,1], or a representation.

        Returns:
            `[B,D]` float.
        """
        return self.attack.embed(
            {"image": images if self.before is None else self.before.put_back(images.float())}
        )

    def clean_side(self) -> Judge:
        """Return the teacher, who embeds clean faces."""
        return self._teacher[0]

    def describe(self) -> dict[str, object]:
        """Return the attack and what it was trained on."""
        before = {} if self.before is None else {"before": self.before.describe()}
        return {"judge": type(self).__name__, **self.attack.describe(), **before}


def teacher_hashes(judge: Judge) -> list[str]:
    """Return what a `Linker` may have written down of its teacher, for a judge that might be it.

    Args:
        judge: a recogniser's, of which it is the SHA-256 of the checkpoint where the linker was given that, and of
            what it says of itself where it was given the judge; or another, of which it is the latter.
    """
    own = hashlib.sha256(judge.description.encode()).hexdigest()
    return [judge.facts.sha256, own] if isinstance(judge, RecogniserJudge) else [own]
