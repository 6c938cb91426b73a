"""A trained recogniser out of its checkpoint, without the config it was trained with."""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lightning_app.core.files import file_sha256
from lightning_app.core.foreign import parse_json
from lightning_app.core.plain import is_count
from lightning_app.desensitize import described, is_clean
from lightning_app.desensitize.dctdp import LOGITS
from lightning_app.models.base import Recogniser
from lightning_app.models.dctdp import DCTDPRecogniser
from lightning_app.models.known import known_class, known_maker, ours
from lightning_app.models.resnet import ResNet, ResNetMask
from lightning_app.models.resnet_fsm import ResNetFSM
from lightning_app.models.resnet_partial import ResNetPartial
from lightning_app.models.saved_network import head_weights
from lightning_app.networks import Backbone, Head
from lightning_app.runs.checkpoint_bounds import DATA_STATE, check_claim, check_described
from lightning_app.runs.checkpoint_part import check_finite
from lightning_app.runs.folder import read_checkpoint

_BY_WEIGHTS = (ResNet, ResNetMask, ResNetFSM, ResNetPartial, DCTDPRecogniser)  # told apart by them
_LARGEST = 4096  # px; the size of an input is a setting, and nothing in the weights bounds it
WEIGHTS_FORMAT = "weights/1"  # metadata `faceveil` of the safetensors that `export` writes


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says of itself beside its weights.

    Attributes:
        path: the file.
        sha256: of the file's bytes, in hexadecimal.
        model: name of the recogniser's class.
        input_size: height and width of the images it was trained on, in pixels.
        in_channels: channels of those images.
        step: optimiser steps done.
        data: the DataModule's state, see `FaceDataModule.state_dict`; empty where there was another or none.
        origins: SHA-256 of the checkpoints that its training took from: `init_from`, its first weights; `teacher`.
    """

    path: Path
    sha256: str
    model: str
    input_size: int
    in_channels: int
    step: int
    data: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def desensitizer(self) -> dict[str, Any] | None:
        """Return the description of how the training faces were desensitized; None where it is not known."""
        description = self.data.get("desensitizer")
        return dict(description) if isinstance(description, dict) and description else None

    @property
    def clean(self) -> bool | None:
        """Whether it was trained on clean faces; None where it is not known."""
        description = self.desensitizer
        return None if description is None else is_clean(description)

    @property
    def pictures(self) -> bool:
        """Whether it takes pictures; a representation of them otherwise."""
        description = self.desensitizer
        kind = described(description)
        if kind is not None and description is not None:  # what mixes takes a single image as it is
            description = dict(kind.for_one(description))
        steps = description.get("steps") if description is not None else None
        kinds = [described(step) for step in (steps if isinstance(steps, list) else [description])]
        return self.in_channels == 3 and all(kind is None or kind.is_image for kind in kinds)

    @property
    def pixels(self) -> int:
        """Height and width in pixels of the images that a representation is made of; of pictures the input's."""
        made_of = self.data.get("pixels")
        size = made_of.get("size") if isinstance(made_of, dict) and not self.pictures else None
        return int(size) if size is not None and is_count(size, 1, _LARGEST) else self.input_size

    def check_normalised(self, mean: float, std: float) -> None:
        """Refuse to show it pixels that are normalised otherwise than in its training, where that is known.

        Args:
            mean: subtracted from pixels in [0,1].
            std: what they are divided by then.

        Raises:
            ValueError: its training had another mean or standard deviation.
        """
        own_mean, own_std = self.data.get("mean", mean), self.data.get("std", std)
        if (own_mean, own_std) != (mean, std):
            raise ValueError(
                f"checkpoint {self.path}: trained on pixels normalised with mean {own_mean:g} and std {own_std:g}; "
                f"give mean and std so, not {mean:g} and {std:g}"
            )


def read_recogniser(path: str | Path) -> tuple[Recogniser, CheckpointFacts]:
    """Build the recogniser a checkpoint holds, with its weights, for inference.

    The class follows from the weights: gates make a `ResNetFSM`, all else is a `ResNet` (`ResNetMask` by name, the
    same network); the setting `partial_until` makes a `ResNetPartial`. Nothing in the file is run: it may hold weights
    and plain values alone, and a class of somebody else's that it names is imported only within
    `lightning_app.models.known.trusting`. Its settings take no memory before they are found to ask for no more weights
    than the file has.

    Args:
        path: a `.ckpt`, a `.safetensors` that `export` wrote (without a head it embeds, and refuses to classify),
            or the folder of a run, of which `checkpoints/last.ckpt` is taken.

    Returns:
        The model in `eval()`, in fp32 on the CPU, its weights without gradients; and what else the file says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than weights, or such as are no numbers, is no recogniser's, or of a class
            that is not trusted.
    """
    file, checkpoint = _read(Path(path))
    state, saved = checkpoint["state_dict"], checkpoint.get("hyper_parameters")
    if not isinstance(saved, dict) or not any(key.startswith("backbone.") for key in state):
        raise ValueError(
            f"checkpoint {file}: not of a recogniser (it has no backbone with its settings); give one that "
            "`python main.py fit` wrote for ResNet, ResNetMask, ResNetFSM or ResNetPartial"
        )
    kind = _class_of(state, saved, file)
    check_described(checkpoint.get(DATA_STATE), f"checkpoint {file}")
    known = signature(Recogniser).parameters.keys() | signature(kind).parameters.keys()
    # a compiled network would be compiled again for every shape of batch, and keys of Lightning's begin with _
    settings = {key: value for key, value in saved.items() if key in known} | {"compile": False}
    for part, base in (("backbone", Backbone), ("head", Head)):
        if isinstance(settings.get(part), dict) and (part != "head" or _has_head(state)):
            settings[part] = known_maker(settings[part], base, f"checkpoint {file}: {part}")
    if not _has_head(state):
        settings["head"] = None
    try:
        if int(settings.get("input_size", 0)) > _LARGEST:
            raise ValueError(f"input_size {settings['input_size']} px, more than {_LARGEST}")
        settings["num_classes"] = None
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # no memory before the check
            settings["num_classes"] = kind(**settings).classes_in(state)
        check_claim(lambda: kind(**settings), state)
        step = int(checkpoint.get("global_step", 0))
        model = kind(**settings)
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"checkpoint {file}: its weights do not fit a {kind.__name__} ({reason[:300]})"
        ) from error
    try:
        check_finite(state)
    except ValueError as error:
        raise ValueError(f"checkpoint {file}: {error}") from error
    model.eval().requires_grad_(False)
    data = checkpoint.get(DATA_STATE)
    return model, CheckpointFacts(
        path=file,
        sha256=file_sha256(file),
        model=kind.__name__,
        input_size=int(model.hparams["input_size"]),
        in_channels=int(model.hparams["in_channels"]),
        step=step,
        data=data if isinstance(data, dict) else {},
        origins=model.origins,
    )


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    if path.is_dir():
        try:
            return read_checkpoint("last", path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"checkpoint {path}: the folder has no checkpoints/last.ckpt; give a .ckpt or the folder of a run"
            ) from error
        except ValueError as error:
            raise _without_option(error) from error
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path}: no such file; give a .ckpt of a run, or the run's folder"
        )
    if path.suffix == ".safetensors":
        return path, _exported(path)
    try:
        content = read_checkpoint(str(path.absolute()), path.parent)[
            1
        ]  # absolute: a file may be called `last`
    except ValueError as error:
        raise _without_option(error) from error
    return path, content


def _has_head(state: dict[str, Any]) -> bool:
    return bool(head_weights(state))


def _exported(file: Path) -> dict[str, Any]:
    """Read what `export` wrote, in the form of a checkpoint."""
    try:
        with safe_open(file, framework="pt") as opened:
            description = opened.metadata() or {}
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {file}: the file is truncated or no safetensors ({error})") from error
    if description.get("faceveil") != WEIGHTS_FORMAT:
        raise ValueError(
            f"checkpoint {file}: not of a recogniser (its metadata are not {WEIGHTS_FORMAT}); give one that "
            "`python main.py export` wrote"
        )
    try:
        what = "its metadata"
        settings = parse_json(description["settings"], what) | {
            "_class_path": f"lightning_app.models.{description['model']}"
        }
        data, step = parse_json(description["data"], what), int(description["step"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"checkpoint {file}: its metadata are damaged ({error!r}); export again") from error
    return {"state_dict": state, "hyper_parameters": settings, "global_step": step, DATA_STATE: data}


def _without_option(error: ValueError) -> ValueError:
    # the user of this function gave no --ckpt_path
    return ValueError(str(error).replace("--ckpt_path ", "checkpoint ", 1))


def _class_of(state: dict[str, Any], saved: dict[str, Any], file: Path) -> type[Recogniser]:
    named = str(saved.get("_class_path") or "")
    kind = ours(named)
    if named and kind is None:
        return known_class(named, Recogniser, f"checkpoint {file}: hyper_parameters")
    by_weights = kind is None or kind in _BY_WEIGHTS or getattr(kind, "mixes_itself", False)
    if kind is not None and not by_weights and issubclass(kind, Recogniser):
        return kind
    # of checkpoints from before they named their class; and what learns to mix is used as what it is without
    if any(key.startswith("backbone.gates.") for key in state):
        return ResNetFSM
    if LOGITS in state:
        return DCTDPRecogniser
    if "partial_until" in saved:  # the names of its weights are a ResNet's
        return ResNetPartial
    return ResNetMask if named.endswith(".ResNetMask") else ResNet
