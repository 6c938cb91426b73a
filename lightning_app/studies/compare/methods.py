"""What a comparison is told: its methods, and the attackers that are trained on each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """A way to desensitize, and the recogniser that is trained on what it releases.

    Attributes:
        config: of `fit`.
        args: overrides, such as `[--data.desensitizer, lightning_app.desensitize.Mosaic]`.
        checkpoint: of a finished run; nothing is trained then. Its folder's metrics.json gives the accuracies where it
            was trained with this very desensitizer and verified alike; otherwise it is verified anew.
        run: name of the run's folder in `runs`, to share a run with others; by default one of the comparison's own.
            Where the comparison has another seed than that run, or one above 1, `_s2` (its seed) stands behind the
            name, unless the name tells the seed.
        restorer: checkpoint of an attacker trained on this method, where the comparison shall not train one.
        train: whether a recogniser is trained on it; without one it has no accuracy, and only its privacy is measured.
    """

    config: str
    args: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    run: str | None = None
    restorer: str | None = None
    train: bool = True


@dataclass(frozen=True)
class AttackerRun:
    """An attacker that is trained for each method, on faces of other people desensitized by that method.

    Attributes:
        config: of `fit`, of a `lightning_app.models.Inpainter`, `UNetRestorer` or `CGAN`.
        args: overrides; the desensitizer is the method's.
        label: what tables call it.
        after: label of an `Unshuffle` among the attacks, which puts channels back before: it is trained on that one's
            reference, and attacks the methods whose channels are shuffled alone.
    """

    config: str
    args: list[str] = field(default_factory=list)
    label: str = "trained restorer"
    after: str = ""


@dataclass(frozen=True)
class Linking(AttackerRun):
    """A linker that is trained for each method, and once on clean faces: its own ceiling.

    Attributes:
        config: of `fit`, of a `lightning_app.models.Linker`.
        args: overrides; the desensitizer is the method's.
        label: what tables call it, as a judge.
        teacher: label of the judge whose embeddings of clean faces it learns. Of one that is given by `class_path`, the
            config names the same as `model.teacher`.
        after: see `AttackerRun`.
    """

    label: str = "linker"
    teacher: str = ""

    @property
    def student(self) -> tuple[str, tuple[str, ...], str]:
        """What decides which student it is, whatever comes before it: config, overrides, teacher."""
        return self.config, tuple(self.args), self.teacher
