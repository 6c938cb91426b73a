"""The study behind `compare`: every method trained, attacked and measured alike."""

from lightning_app.studies.compare.candidate import Candidate as Candidate
from lightning_app.studies.compare.methods import Linking as Linking
from lightning_app.studies.compare.methods import Method as Method
from lightning_app.studies.compare.methods import Restorer as Restorer
