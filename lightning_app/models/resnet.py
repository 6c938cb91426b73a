"""The two recognisers that do not look at the mask: `resnet` and `resnet-mask` (paper, 4.1)."""

from __future__ import annotations

import logging

from lightning_app.models.base import Recogniser

log = logging.getLogger("faceveil")


class ResNet(Recogniser):
    """A plain ResNet recogniser, which ignores the mask (paper, 4.1: `resnet`)."""


class ResNetMask(ResNet):
    """A plain ResNet trained on desensitized images (paper, 4.1: `resnet-mask`).

    It differs from `ResNet` only in what it is fed, and warns when the data is not desensitized.
    """

    def on_fit_start(self) -> None:
        """Warn when the DataModule hides nothing."""
        desensitizer = getattr(getattr(self.trainer, "datamodule", None), "desensitizer", None)
        if desensitizer is not None and not desensitizer.hides:
            log.warning(
                "ResNetMask is trained on desensitized images, but data.desensitizer hides nothing: set one, or "
                "use ResNet."
            )
