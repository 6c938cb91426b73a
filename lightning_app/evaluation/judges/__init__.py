"""Who looks for a person in what a desensitized set shows: one file each, used by `compare` by `class_path`."""

from lightning_app.evaluation.judges.base import Judge
from lightning_app.evaluation.judges.dlib import DlibJudge
from lightning_app.evaluation.judges.linking import LinkJudge
from lightning_app.evaluation.judges.onnx import OnnxJudge
from lightning_app.evaluation.judges.recogniser import RecogniserJudge
from lightning_app.models.known import add_known

__all__ = ["DlibJudge", "Judge", "LinkJudge", "OnnxJudge", "RecogniserJudge"]

add_known(Judge, DlibJudge, OnnxJudge, RecogniserJudge)
