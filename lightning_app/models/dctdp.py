"""The recogniser that learns how to spread a privacy budget over frequencies."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_app.desensitize import BlockDCT
from lightning_app.desensitize.dct import coefficient_ranges
from lightning_app.desensitize.dctdp import check_clip
from lightning_app.models.base import Recogniser
from lightning_app.models.saved_network import warn_of_kept
from lightning_app.networks.budget_noise import BudgetNoise


class DCTDPRecogniser(Recogniser):
    """A recogniser of `BlockDCT` channels, to which it adds Laplace noise whose spread over them it learns.

    The owner trains it on faces of his own, with `desensitizer: BlockDCT` in the data (no DC, not normalised). Then
    `lightning_app.desensitize.DCTDP` takes the frozen shares from its checkpoint, and others train on what that
    returns. The noise in here is drawn by the run's seed and step, and in validation by what the image shows: it is
    there to learn the shares, and protects nobody.

    Args:
        epsilon: the budget of a coefficient, averaged over the channels, that the shares are learnt at; 3 in the paper.
        clip: share of what a coefficient can be, beyond which it is cut off before the noise, see
            `lightning_app.desensitize.DCTDP`.
        budget_lr: learning rate of the shares' logits at its highest; it follows the same schedule.
        **kwargs: as for `ResNet`.

    Raises:
        ValueError: epsilon, clip or budget_lr is out of range; in `fit`, the data give no such channels.

    Source: Ji et al., "Privacy-preserving face recognition with learnable privacy budgets in frequency domain",
    ECCV 2022.
    """

    why_not_exported = (
        "it adds noise of its own to what it embeds, to learn a budget: it stays with its owner. Train a recogniser "
        "under desensitize.DCTDP of its checkpoint, and export that one"
    )

    def __init__(
        self, epsilon: float = 3.0, budget_lr: float = 1.0, clip: float = 1.0, **kwargs: Any
    ) -> None:
        if not budget_lr >= 0:
            raise ValueError(f"budget_lr: {budget_lr}; give 0 or more (0 leaves the budget spread evenly)")
        super().__init__(**kwargs)
        self.budget_lr, self.clip = budget_lr, check_clip(clip)
        self.noise = BudgetNoise(int(self.hparams["in_channels"]), epsilon)

    def prepare_data(self) -> None:
        """Check what the data give, before a run is written; see also the base class.

        Raises:
            ValueError: no channels of `BlockDCT`, or with the DC, or normalised.
        """
        self._transform()
        super().prepare_data()

    def setup(self, stage: str) -> None:
        """Take from the transform how far the coefficients of each channel can lie apart, in `fit`.

        Raises:
            ValueError: see `prepare_data`.
        """
        super().setup(stage)
        transform = self._transform()
        if transform is not None:
            size = int(self.trainer.datamodule.size)  # type: ignore[attr-defined]
            ranges = coefficient_ranges(transform.blocks, transform.keep, (size, size))
            self.noise.ranges.copy_(ranges * self.clip)

    def embed(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed images with noise; arguments and result as in `Recogniser.embed`."""
        salt = (self._seed(), self.global_step, self.global_rank) if self.training else (-1,)
        most = self.noise.ranges[:, None, None] / 2
        shown = image if self.clip == 1 else image.float().clamp(-most, most)
        return super().embed(self.noise(shown, *salt), mask, mask_index)

    def _seed(self) -> int:
        trainer = self._trainer
        return int(getattr(getattr(trainer, "datamodule", None), "seed", 0))

    def _transform(self) -> BlockDCT | None:
        """Return the data's transform, in `fit`."""
        if self.trainer.state.fn != "fit":
            return None
        made = getattr(getattr(self.trainer, "datamodule", None), "desensitizer", None)
        if type(made) is not BlockDCT or made.normalise or made.dc:
            name = getattr(made, "called", type(made).__name__) + (
                " with other settings" if type(made) is BlockDCT else ""
            )
            raise ValueError(
                f"data.desensitizer: {name}; DCTDPRecogniser learns a budget for the channels of BlockDCT with dc: "
                "false and normalise: false"
            )
        return made

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse shares that were learnt at another budget; see also the base class.

        Raises:
            ValueError: they were.
        """
        super().on_load_checkpoint(checkpoint)
        saved, own = checkpoint.get("hyper_parameters", {}), self.hparams
        for name, before in (("epsilon", own["epsilon"]), ("clip", 1.0)):  # earlier checkpoints have no clip
            if saved.get(name, before) != own[name]:
                raise ValueError(
                    f"this checkpoint learns how to spread a budget with {name}={saved.get(name, before)}, yours is "
                    f"{own[name]}: go on with that one, or start anew with --overwrite"
                )
        if self._trainer is not None and self.trainer.state.fn == "fit":
            warn_of_kept(("budget_lr",), saved, own)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the base's groups, and the shares' logits with a rate of their own."""
        logits: nn.Parameter = self.noise.logits
        groups = super().parameter_groups()
        for group in groups:
            group["params"] = [p for p in group["params"] if p is not logits]
        return [*groups, {"params": [logits], "weight_decay": 0.0, "lr": self.budget_lr}]
