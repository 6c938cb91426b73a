"""A trained recogniser for who embeds images: everything that training did to pixels is done here too."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from datamodules.pixels import desensitize_on_grid
from datamodules.readers.decode import Crop, decode, is_turned, pixels_of, read_bytes, upright_size
from datamodules.same_description import alone, key_hashes, same_desensitizer, summary
from lightning_app.core.normalise import normalised
from lightning_app.desensitize import Desensitizer, Identity, described, is_clean
from lightning_app.evaluation.embed import Shown, embed_images, rank_share
from lightning_app.export.model_input import find_model_input
from lightning_app.export.source import TrainedRun, normalisation, read_run
from lightning_app.models import checkpoints
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import CheckpointFacts
from lightning_app.models.known import make_known, trusting

log = logging.getLogger("faceveil")
_MODEL = "model"  # the one who embeds
Images = NDArray[np.uint8] | Sequence[str | Path | Image.Image]
_GIVE = "give a NumPy array [N,H,W,3] of uint8, or a list of paths or of PIL images"


class LoadedRecogniser:
    """A recogniser with all that training did to its pixels; made by `load_recogniser`.

    Attributes:
        model: the network, in `eval()`; what it takes itself is desensitized and normalised.
        facts: what the checkpoint says beside its weights.
        size: height and width of the images that `embed_images` takes, in pixels.
        crop: what `embed_images` cuts out of a file before it is resized, see `datamodules.readers.decode`.
        hides: how images are desensitized before they are embedded, in words.
    """

    def __init__(
        self,
        model: Recogniser,
        facts: CheckpointFacts,
        normalised: tuple[float, float],
        crop: Crop,
        desensitizer: Desensitizer,
        mask: Tensor | None,
        hides: str,
    ) -> None:
        self.model, self.facts, self.crop, self.hides = model, facts, crop, hides
        self.size = _raw_size(desensitizer, facts)
        self._mean, self._std = normalised
        self._desensitizer, self._mask = desensitizer, mask
        self._told_turned = self._told_squeezed = False

    def __repr__(self) -> str:
        """Return the model, its input, and what is hidden of it."""
        return f"{self.facts.model}({self.size} px, {self.hides}) of {self.facts.path}"

    def to(self, device: str | torch.device) -> LoadedRecogniser:
        """Move the network to a device.

        Args:
            device: such as `cuda`.
        """
        self.model.to(device)
        return self

    @torch.no_grad()
    def embed_images(self, images: Images, batch_size: int = 64) -> NDArray[np.float32]:
        """Embed images: desensitize and normalise them as in training, and return unit vectors.

        The scalar product of two rows is the cosine similarity that verification compares.

        Args:
            images: uint8 `[N,H,W,3]`, RGB, as large as the model takes; or paths of aligned image files, or PIL images
                of such, which are cropped and resized as in training.
            batch_size: images that are embedded at a time.

        Returns:
            float32 `[N,D]`, each row of length 1.

        Raises:
            ValueError: the images are of another type, shape or size.
            datamodules.readers.bad_images.BadImage: a file cannot be decoded.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give at least 1")
        if isinstance(images, str | Path | Tensor | Image.Image):
            raise ValueError(f"images: a {type(images).__name__}; {_GIVE}")
        for one in () if isinstance(images, np.ndarray) else images:
            if not isinstance(one, str | Path | Image.Image):
                raise ValueError(f"images: a list with a {type(one).__name__}; {_GIVE}")
        pixels = self._checked(images) if isinstance(images, np.ndarray) else None

        def shown() -> Iterator[list[Shown]]:
            for rows in rank_share(len(images), batch_size):
                first, last = int(rows[0]), int(rows[-1]) + 1
                chosen = self._read(images[first:last]) if pixels is None else pixels[first:last]  # type: ignore[arg-type]
                yield [self._shown(torch.from_numpy(np.ascontiguousarray(chosen)), rows)]

        embedding = embed_images(shown()).get(_MODEL, torch.empty(0, self.model.backbone.dim))
        found: NDArray[np.float32] = normalize(embedding).cpu().numpy()
        return found

    def _shown(self, pixels: Tensor, index: Tensor) -> Shown:
        device = self.model.device
        image = pixels.to(device).permute(0, 3, 1, 2).float() / 255
        batch = desensitize_on_grid({"image": image, "index": index.to(device)}, self._desensitizer)
        mask = batch["mask"] if self._mask is None else self._mask.to(device)
        among = batch["mask_index"] if self._mask is None else None
        return Shown(
            normalised(batch["image"], self._mean, self._std), {_MODEL: self.model.embed}, mask, among
        )

    def _checked(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if images.dtype != np.uint8:
            raise ValueError(
                f"images: an array of {images.dtype}; give pixels as uint8, 0 to 255: they are normalised here"
            )
        if images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images: an array of shape {images.shape}; give [N,H,W,3], RGB")
        if len(images) and images.shape[1:3] != (self.size, self.size):
            raise ValueError(
                f"images: of {images.shape[1]}×{images.shape[2]} pixels, and the model takes {self.size}×{self.size}: "
                "crop and resize them as the training set was, or give paths of the files"
            )
        return images

    def _read(self, images: Sequence[str | Path | Image.Image]) -> NDArray[np.uint8]:
        read = []
        for image in images:
            if isinstance(image, Image.Image):
                name, sides = "an image of the list", image.size
                read.append(pixels_of(image, self.crop, self.size, name))
            else:
                name, data = str(image), read_bytes(str(image))
                read.append(decode(data, self.crop, self.size, name))
                looks = self.crop is None and not self._told_squeezed
                sides = (upright_size(data) if looks else None) or (0, 0)
                if not self._told_turned and is_turned(data):
                    self._told_turned = True
                    log.warning(
                        "%s is turned upright, as its EXIF says, and others may be: align faces first.", name
                    )
            if self.crop is None and sides[0] != sides[1] and not self._told_squeezed:
                self._told_squeezed = True
                log.warning(
                    "%s has %d×%d pixels, and is squeezed into a square, as others may be: align faces first.",
                    name, *sides,
                )  # fmt: skip
        return np.stack(
            [np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0) for pixels in read]
        )


def load_recogniser(
    run_or_checkpoint: str | Path,
    mask: str | Path | None = None,
    desensitize: bool | None = None,
    trust: Collection[str] = (),
) -> LoadedRecogniser:
    """Load a trained recogniser that takes pixels: it desensitizes and normalises them itself.

    What is hidden of every image is logged in one line: as a warning, which is seen without any set-up, where nobody
    said whether to desensitize.

    Args:
        run_or_checkpoint: a run's folder, a `.ckpt`, or the `.safetensors` of an export.
        mask: PNG of the mask that lies on every image, where the checkpoint was trained under many or does not tell.
        desensitize: True does to every image what training did, and so does None, which says so in a warning; False
            is for images that are desensitized already: their mask still opens the gates.
        trust: class paths of somebody else's classes that the checkpoint names and that may be imported.

    Raises:
        FileNotFoundError: there is no such checkpoint or mask.
        ValueError: it is damaged, of a class that is not trusted, or does not tell how its images were desensitized
            or normalised.
    """
    with trusting(trust):
        model, facts = checkpoints.read_recogniser(run_or_checkpoint)
        run = read_run(run_or_checkpoint, facts)
        normalised = normalisation(facts, run, None, None)
        gated = model.backbone.looks_at_masks
        try:
            model_input = find_model_input(facts, run.config, mask, gated)
        except ValueError as error:  # an option of the command line is an argument here
            raise ValueError(str(error).replace("--mask PNG", 'mask="….png"')) from error
        if desensitize is False and gated and model_input.each:
            raise ValueError(
                f"checkpoint {facts.path}: its gates take the mask of each image, which images alone do not bring: "
                "give both to the model, `lightning_app.models.checkpoints.read_recogniser(…)[0].embed(images, masks)`"
            )
        # a class that is not ours may do more than multiply by the mask: then it is made itself
        multiplied = model_input.mask if model_input.multiplies else None
        desensitizer, hides = _desensitizer(facts, run, multiplied, desensitize is not False)
    if desensitize is None and desensitizer.hides:
        log.warning(
            "%s: %s. desensitize=True says that this is meant, False takes images as they are.",
            facts.path,
            hides,
        )
    else:
        log.info("%s: %s.", facts.path, hides)
    return LoadedRecogniser(model, facts, normalised, _crop(run), desensitizer, model_input.mask, hides)


class _Masked(Desensitizer):
    """Multiply images by one mask, as `MaskOut` and `CentreBlock` do."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def desensitize(self, image: Tensor) -> Tensor:
        mask = self.get_buffer("mask")
        return image * mask


def _desensitizer(
    facts: CheckpointFacts, run: TrainedRun, mask: Tensor | None, wanted: bool
) -> tuple[Desensitizer, str]:
    """Return what is done to images before they are embedded, and that in words."""
    description = facts.desensitizer
    if not wanted and not facts.pictures:
        raise ValueError(
            f"checkpoint {facts.path}: its recogniser takes {facts.in_channels} channels, which are no pictures: leave "
            "desensitize out to have images made into them"
        )
    if not wanted:
        return Identity(), "images are taken as they are, desensitized already (desensitize=False)"
    if mask is not None:
        return _Masked(mask), f"{1 - float(mask.mean()):.1%} of every image is hidden under its mask"
    if description is None:
        raise ValueError(
            f"checkpoint {facts.path}: does not tell how its training images were desensitized: give mask=, or "
            "desensitize=False for images that are what it was trained on"
        )
    if facts.clean:
        return Identity(), "trained on clean faces, nothing is hidden"
    kind = described(description)
    if kind is not None and (one := alone(description)) != description:
        description, kind = one, described(one)
        if is_clean(description):
            return Identity(), "trained on faces mixed with each other; an image alone is taken as it is"
    if kind is not None and kind.elsewhere:
        raise ValueError(
            f"checkpoint {facts.path}: trained on pictures that another program made of its images: give "
            "desensitize=False, and pictures which that program made"
        )
    words = f"every image is desensitized by {description.get('method')}, as in training"
    # of these a description tells all, that of a release too
    if kind is not None and kind.has_mask is False and not kind.keyed:
        try:
            return _prepared(kind.from_description(description), facts), words
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"checkpoint {facts.path}: describes no {kind.__name__} ({error}); it is damaged"
            ) from error
    data = run.config.get("data")
    part = data.get("init_args", {}).get("desensitizer") if isinstance(data, dict) else None
    where = f"checkpoint {facts.path}: config.yaml of its run"
    if part is None and kind is not None and kind.describes_each(description):
        raise ValueError(
            f"checkpoint {facts.path}: trained on a release under a mask for each image, which its owner's masker "
            "makes: give desensitize=False, and images that it has desensitized"
        )
    if part is None:
        raise ValueError(
            f"checkpoint {facts.path}: trained on images desensitized by {description.get('method')}, and no "
            "config.yaml of its run tells its settings: give the run's folder"
            + (", or desensitize=False for images that are desensitized already" if facts.pictures else "")
        )
    made = make_known(part, Desensitizer, where)
    made = _prepared(made, facts)
    if key_hashes(alone(made.describe())) != key_hashes(description):
        raise ValueError(
            f"checkpoint {facts.path}: was trained with another owner's key than the one that its config.yaml leads to "
            f"({summary(description)}): give `key: FILE` there, the file that the run was given, or embed what is "
            "made already with `.model.embed`"
        )
    if not same_desensitizer(alone(made.describe()), description):
        raise ValueError(
            f"checkpoint {facts.path}: was trained on images desensitized by {summary(description)}, and its "
            f"config.yaml leads to {summary(made.describe())}: give back what the run was given (a masker that "
            "was trained again under the same name is another one), or desensitize=False for images that are "
            "desensitized already"
        )
    return made, words


def _prepared(made: Desensitizer, facts: CheckpointFacts) -> Desensitizer:
    size = _raw_size(made, facts)
    made.prepare((size, size))
    return made.eval()


def _raw_size(desensitizer: Desensitizer, facts: CheckpointFacts) -> int:
    """Return the side in pixels of what is desensitized for a recogniser; of pictures what it takes itself."""
    size = facts.pixels
    made = (desensitizer.out_channels, desensitizer.out_size(size))
    if made != (facts.in_channels, facts.input_size):
        raise ValueError(
            f"checkpoint {facts.path}: its recogniser takes {facts.in_channels} channels of {facts.input_size} px, and "
            f"{type(desensitizer).__name__} makes {made[0]} of {made[1]} px from images of {size} px: it is "
            "damaged, or of another desensitizer"
        )
    return size


def _crop(run: TrainedRun) -> Crop:
    data = run.config.get("data")
    found: Any = data.get("init_args", {}) if isinstance(data, dict) else {}
    for key in ("reader", "init_args", "crop"):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, int):
        return found
    if isinstance(found, list | tuple) and len(found) == 4:
        left, top, right, bottom = (int(side) for side in found)
        return left, top, right, bottom
    return None
