"""The picture of a privacy budget that is being learnt."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.media import log_media
from callbacks.place import steps_done
from lightning_app.desensitize import BlockDCT
from lightning_app.networks.budget_noise import BudgetNoise
from lightning_app.report.budget import budget_figure


class BudgetPicture(L.Callback):
    """Draw `budget.png` into the run folder after each validation: the budget of each channel, as it is learnt.

    The model is a `DCTDPRecogniser`. The picture shows C numbers of all training images together, and no face.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw.

        Raises:
            ValueError: the model learns no budget, or the data are no channels of `BlockDCT`.
        """
        if trainer.sanity_checking:
            return
        noise: Any = getattr(pl_module, "noise", None)
        data: Any = getattr(trainer, "datamodule", None)
        transform = getattr(data, "desensitizer", None)
        if not isinstance(noise, BudgetNoise) or not isinstance(transform, BlockDCT):
            raise ValueError(
                "BudgetPicture needs a DCTDPRecogniser and BlockDCT in data.desensitizer; leave it out"
            )
        title = f"{type(pl_module).__name__} · ε = {noise.epsilon:g} on average"
        if trainer.state.fn == "fit":
            title += f" · epoch {trainer.current_epoch + 1}, step {steps_done(trainer)}"
        picture = budget_figure(
            noise.epsilons(), transform.keep, transform.blocks.block, transform.plane_names, title
        )
        log_media(trainer, "pictures/budget", picture=picture, save_as="budget.png")
