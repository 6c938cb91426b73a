"""What becomes of a reader's uint8 pixels on the device: [0,1], desensitized on the uint8 grid, normalised."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor

from datamodules.precomputed import with_pictures
from datamodules.readers.base import FaceReader
from lightning_app.core.batch import AS_TRAINED, Batch, DrawKey
from lightning_app.core.normalise import denormalised, normalised
from lightning_app.desensitize import Desensitizer, mixer_of
from lightning_app.masks.bits import unpack_masks
from lightning_app.release.format.tensors import Stored


def desensitize_on_grid(batch: Batch, desensitizer: Desensitizer, draw_key: DrawKey | None = None) -> Batch:
    """Desensitize a batch on its device; a picture comes on the uint8 grid, as a released file has it.

    Args:
        batch: `image` `[B,3,H,W]` float in [0,1], `index [B]`.
        desensitizer: moved to the batch's device.
        draw_key: what random draws are a function of; None outside training.

    Returns:
        `image`, a multiple of 1/255 where it is a picture; `mask`, `mask_index`.
    """
    out: Batch = desensitizer.to(batch["image"].device).forward(batch, draw_key)
    if desensitizer.is_image:
        out["image"] = (out["image"] * 255).round() / 255
    return out


class PixelDataModule(L.LightningDataModule):
    """Bring pixels to what a model takes.

    Attributes:
        desensitizer: how the images are desensitized.
        mean: subtracted from every channel, on [0,1] pixels.
        std: what every channel is divided by then.
        keep_clean: give batches the clean faces too, as `clean [B,3,H,W]` float in [0,1].
    """

    desensitizer: Desensitizer
    mean: float
    std: float
    keep_clean: bool

    @torch.no_grad()
    def desensitize_batch(
        self,
        batch: Batch,
        draw_key: DrawKey | None = None,
        desensitize: bool = True,
        by: Desensitizer | None = None,
        stored: Stored | None = None,
        reader: FaceReader | None = None,
    ) -> Batch:
        """Convert a reader's batch to [0,1] and desensitize it, rounded to the uint8 grid.

        Args:
            batch: `image` uint8 `[B,3,H,W]` and `index [B]`; `mask_bits`, where images were released with a mask
                each: they are not desensitized again.
            draw_key: what the masks' draws are a function of; None outside training.
            desensitize: False gives the clean images, with no mask.
            by: another desensitizer than these data's own.
            stored: how the images are stored, where they are representations already: these are not desensitized.
            reader: whose images they are, `index` being positions in it; only where pictures are found by name
                (`Precomputed`).

        Returns:
            `image` float in [0,1], a multiple of 1/255 where it is a picture; `mask`, `mask_index`.
        """
        out = batch.copy()
        if stored is not None:
            out["image"] = stored.values(batch["image"])
            out["mask"], out["mask_index"] = None, batch["index"].new_zeros(len(batch["index"]))
            return out
        out["image"] = batch["image"].float() / 255
        if "mask_bits" in out:  # released with its own mask: black again is black
            sides = (int(out["image"].shape[-2]), int(out["image"].shape[-1]))
            out["mask"] = unpack_masks(out.pop("mask_bits"), sides)
            return out
        if self.keep_clean:
            out["clean"] = out["image"]
        if not desensitize:
            out["mask"], out["mask_index"] = None, batch["index"].new_zeros(len(batch["index"]))
            return out
        how = by or self.desensitizer
        return desensitize_on_grid(with_pictures(out, how, reader), how, draw_key)

    def desensitized(
        self,
        images: Tensor,
        index: Tensor | None = None,
        draw_key: DrawKey | None = None,
        reader: FaceReader | None = None,
    ) -> Batch:
        """Desensitize raw pixels as validation does; `image` stays in [0,1].

        Args:
            images: uint8 `[B,3,H,W]`.
            index: `[B]` int64 numbers that per-image masks are drawn by; 0 … B−1 by default.
            draw_key: what the draws are a function of; `as_trained` gives what training images go through.
            reader: see `desensitize_batch`.
        """
        index = torch.arange(len(images), device=images.device) if index is None else index
        return self.desensitize_batch({"image": images, "index": index}, draw_key, reader=reader)

    def as_trained(self, count: int) -> DrawKey | None:
        """Return the draw key by which so many images are mixed with each other, as training images are.

        Args:
            count: how many images there are.

        Returns:
            None where nothing is mixed, or where there are fewer images than are in a mix.
        """
        return AS_TRAINED if 1 < self.desensitizer.mixes <= count else None

    def prepare(
        self,
        images: Tensor,
        index: Tensor | None = None,
        *,
        desensitize: bool = True,
        draw_key: DrawKey | None = None,
        by: Desensitizer | None = None,
        stored: Stored | None = None,
        own: Batch | None = None,
        reader: FaceReader | None = None,
    ) -> Batch:
        """Make of raw pixels what a model takes: desensitized (or clean, with no mask) and normalised.

        Args:
            images: uint8 `[B,3,H,W]`.
            index: `[B]` int64 numbers that per-image masks are drawn by; 0 … B−1 by default.
            desensitize: False gives clean images.
            draw_key: what the masks' draws are a function of.
            by: another desensitizer than these data's own.
            stored: see `desensitize_batch`.
            own: `mask_bits` and `mask_index` of released images that came with a mask each.
            reader: see `desensitize_batch`.
        """
        index = torch.arange(len(images), device=images.device) if index is None else index
        batch: Batch = {"image": images, "index": index}
        if own is not None:
            batch.update(own)
        return self._normalised(self.desensitize_batch(batch, draw_key, desensitize, by, stored, reader))

    @torch.no_grad()
    def mixed(self, batch: Batch, draw_key: DrawKey, k: int) -> Batch:
        """Mix a training batch that came unmixed, because its model decides of how many images (`mixes_itself`).

        Args:
            batch: as `fit` gave it, desensitized and normalised; not changed.
            draw_key: of the batch.
            k: images in a mix.

        Returns:
            What `fit` would have given, had the data mixed so many; a picture is on the uint8 grid again.

        Raises:
            ValueError: the desensitizer leaves k to nobody, or the batch has fewer than k images.
        """
        mixer = mixer_of(self.desensitizer)
        if mixer is None:
            raise ValueError(f"data.desensitizer: {self.desensitizer.called} leaves k to nobody")
        if (
            not self.desensitizer.is_image
        ):  # a mix of normalised values is the mix, normalised: shares sum to 1
            return mixer.mixed(batch, draw_key, k)
        pixels = batch.copy()
        pixels["image"] = (denormalised(batch["image"], self.mean, self.std) * 255).round() / 255
        out = mixer.mixed(pixels, draw_key, k)
        out["image"] = (out["image"] * 255).round() / 255
        return self._normalised(out)

    def _normalised(self, batch: Batch) -> Batch:
        if (self.mean, self.std) != (0, 1):  # a representation may be large: it is not copied for nothing
            batch["image"] = normalised(batch["image"], self.mean, self.std)
        if self.trainer is None:
            return batch
        ready: Batch = self.trainer.precision_plugin.convert_input(batch)  # for bf16-true and 16-true
        return ready
