"""The study behind `ablate`: the same recognisers under several masks or settings, run after run, into one table."""

from lightning_app.studies.ablate.plan import AblationPlan as AblationPlan
from lightning_app.studies.ablate.plan import System as System
from lightning_app.studies.ablate.plan import Variant as Variant
from lightning_app.studies.ablate.study import ablate as ablate
