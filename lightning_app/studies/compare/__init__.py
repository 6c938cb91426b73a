"""The study behind `compare`: every method trained, attacked and measured alike."""

from lightning_app.studies.compare.candidate import ComparedMethod as ComparedMethod
from lightning_app.studies.compare.methods import AttackerRun as AttackerRun
from lightning_app.studies.compare.methods import Linking as Linking
from lightning_app.studies.compare.methods import Method as Method
from lightning_app.studies.compare.study import compare as compare
