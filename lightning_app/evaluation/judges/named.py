"""Judges by a short name: what a config may write in place of `class_path` and `init_args`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lightning_app.distributed.precision import Precision
from lightning_app.evaluation.judges.base import Judge
from lightning_app.evaluation.judges.dlib import DlibJudge
from lightning_app.evaluation.judges.recogniser import RecogniserJudge

NAMES: Mapping[str, Callable[[], Judge]] = {"dlib": DlibJudge}


def known_name(text: str) -> bool:
    """Return whether a text stands for a judge: a name of `NAMES`, or a checkpoint that is there.

    Args:
        text: as a config has it.
    """
    return text in NAMES or Path(text).exists()


def named_judge(text: str, mean: float = 0.5, std: float = 0.5, precision: Precision = "32-true") -> Judge:
    """Make the judge that a text stands for.

    Args:
        text: a name of `NAMES`, or the path of a checkpoint, whose recogniser judges then.
        mean: subtracted from every channel, on [0,1] pixels, for a checkpoint.
        std: what every channel is divided by then.
        precision: of a checkpoint's recogniser, see `RecogniserJudge`.

    Raises:
        FileNotFoundError: there is neither such a name nor such a file.
        ValueError: the judge cannot be made; the message says why.
    """
    return NAMES[text]() if text in NAMES else RecogniserJudge(text, mean, std, precision)
