"""Backbones, a file each: a class with `names` is found by name, one of somebody else's by `class_path`.

To add one, copy `resnet.py`. What it must state: `base.Backbone`. Every subclass that lies in this package may stand in
a checkpoint untrusted: nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from lightning_app.networks.backbones.base import Backbone, BackboneMaker, Stage, apply_gate, named
from lightning_app.networks.backbones.resnet import WIDTH

__all__ = ["BACKBONES", "WIDTH", "Backbone", "BackboneMaker", "Stage", "apply_gate", "make_backbone", "named"]


def make_backbone(
    backbone: BackboneMaker | str, in_channels: int, input_size: int, width: int = WIDTH
) -> Backbone:
    """Make a backbone without gates.

    Args:
        backbone: a name of ours, or what makes one of (in_channels, input_size).
        in_channels: channels of the images.
        input_size: height and width of the images, in pixels.
        width: channels of the first stage, of ours that have it.

    Raises:
        ValueError: there is no such backbone, it has no `width`, or what is made is no `Backbone`.
    """
    if isinstance(backbone, str):
        kind = named(backbone)
        if width == WIDTH:
            return kind(backbone, in_channels=in_channels, input_size=input_size)
        if "width" in inspect.signature(kind).parameters:
            return kind(backbone, in_channels=in_channels, input_size=input_size, width=width)
        raise ValueError(f"width: {width}, but {backbone} has none: leave it out")
    if width != WIDTH:
        raise ValueError(f"width: {width} is of our backbones by name; give yours in backbone.init_args")
    try:
        made = backbone(in_channels, input_size)
    except TypeError as error:
        raise ValueError(
            f"backbone: cannot be made of (in_channels, input_size) and its init_args ({error})"
        ) from error
    if not isinstance(made, Backbone):
        raise ValueError(f"backbone: {type(made).__name__} is no subclass of lightning_app.networks.Backbone")
    return made


# what a checkpoint may name untrusted: the subclasses that lie here, whether they have names or not
BACKBONES: dict[str, type[Backbone]] = {
    kind.__name__: kind
    for module in [
        importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)
    ]
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Backbone) and kind is not Backbone
}
