"""Who looks at faces in a comparison: judges and recognisers, found by what the config says of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from lightning_app.distributed.precision import Precision
from lightning_app.evaluation import Judge, RecogniserJudge
from lightning_app.evaluation.judges.named import NAMES, named_judge
from lightning_app.evaluation.privacy import Subjects
from lightning_app.report.columns import RELEASED
from lightning_app.studies.compare.candidate import ComparedMethod
from lightning_app.studies.compare.outcome import Outcome

OWN = "own"  # of `recognisers`: the one trained on the method's images
GivenJudge = str | Judge  # a judge, or what stands for one


class JudgeMaker:
    """Makes judges and recognisers of what stands for them.

    Args:
        judges: label -> who links faces.
        recognisers: label -> who compares two faces as seen.
        candidates: the methods.
        device: where they compute.
        mean: subtracted from every channel, for judges given as a checkpoint.
        std: what every channel is divided by then.
        precision: of judges and recognisers.

    Attributes:
        ready: labels of the methods whose recogniser is trained.
    """

    def __init__(
        self, judges: Mapping[str, GivenJudge], recognisers: Mapping[str, GivenJudge],
        candidates: Mapping[str, ComparedMethod], device: torch.device, mean: float, std: float, precision: Precision,
    ) -> None:  # fmt: skip
        self._judges, self._recognisers, self.candidates = judges, recognisers, candidates
        self.device, self._given = device, (mean, std, precision)
        texts = {one for one in (*judges.values(), *recognisers.values()) if isinstance(one, str)}
        self._named = {
            text: NAMES[text]().to(device) for text in sorted(texts - {*candidates}) if text in NAMES
        }
        self.ready: set[str] = set()

    def judges(self, subjects: Subjects, out: Outcome) -> dict[str, Judge]:
        """Return the judges by label; one that cannot be made is told, and leaves every verdict open.

        Args:
            subjects: whom they look at.
            out: where failures go.
        """
        found = self._found("judge", self._judges, subjects, out)
        for label, who in self._judges.items():
            if label in found:
                continue
            why = f"{who} is not trained" if self._untrained(who) else "it could not be made"
            for method in out.candidates:
                out.leave_open(method, RELEASED, f"judge {label}: {why}")
        return found

    def shared(self, subjects: Subjects, out: Outcome) -> dict[str, Judge]:
        """Return the recognisers that look at every method, by label.

        Args:
            subjects: whom they look at.
            out: where failures go.
        """
        return self._found(
            "recogniser", {k: v for k, v in self._recognisers.items() if v != OWN}, subjects, out
        )

    def own(self, candidate: ComparedMethod, subjects: Subjects, out: Outcome) -> dict[str, Judge]:
        """Return a method's own recogniser, by label; empty where it is not trained or not asked for.

        Args:
            candidate: the method.
            subjects: whom it looks at.
            out: where failures go.
        """
        own = {k: v for k, v in self._recognisers.items() if v == OWN}
        return self._found(
            "recogniser", own if candidate.label in self.ready else {}, subjects, out, candidate
        )

    def _found(
        self, kind: str, given: Mapping[str, GivenJudge], subjects: Subjects, out: Outcome,
        of: ComparedMethod | None = None,
    ) -> dict[str, Judge]:  # fmt: skip
        found = {}
        for label, who in given.items():
            if self._untrained(who):
                out.failed.append(f"{kind} {label}: {who} is not trained")
            elif (
                one := out.tried(f"{kind} {label}", partial(self._judge, who, subjects.reader.size, of))
            ) is not None:
                found[label] = one
        return found

    def _untrained(self, who: GivenJudge) -> bool:
        return who in self.candidates and who not in self.ready

    def _judge(self, one: GivenJudge, side: int, of: ComparedMethod | None) -> Judge:
        target = of if one == OWN else self.candidates.get(one) if isinstance(one, str) else None
        if target is not None:
            precision = self._given[2]
            target.facts()
            data = target.setting.data
            channels = None if data.desensitizer.is_image else data.in_channels
            if one == OWN and data.desensitizer.mixes > 1:
                channels = data.in_channels  # it is used on faces that are not mixed
            if channels is not None and one != OWN:
                raise ValueError(
                    f"the recogniser of {one} takes what that method releases, which is no picture"
                )
            found: Judge = RecogniserJudge(target.checkpoint, data.mean, data.std, precision, channels)
            side = data.input_size
        else:
            return self.made(one, side)
        found.check_size(side)
        return found.to(self.device)

    def made(self, one: GivenJudge, side: int) -> Judge:
        """Return a judge that is no method's recogniser.

        Args:
            one: the judge, or a name or a checkpoint that stands for one.
            side: of the images it looks at, in pixels.

        Raises:
            FileNotFoundError, ValueError: it cannot be made, or does not take such images.
        """
        mean, std, precision = self._given
        found = (
            (self._named.get(one) or named_judge(one, mean, std, precision)) if isinstance(one, str) else one
        )
        found.check_size(side)
        return found.to(self.device)


def in_words(given: Mapping[str, GivenJudge]) -> dict[str, str]:
    """Return what judges are: what stands for them, or their description.

    Args:
        given: label -> judge.
    """
    return {label: one if isinstance(one, str) else one.title for label, one in given.items()}
