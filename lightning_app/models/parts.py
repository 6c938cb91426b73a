"""A head or a backbone that is given by its class: how a checkpoint describes it, and how it is made of that again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_app.networks import Backbone, Head
from lightning_app.networks.backbones import BACKBONES, BackboneMaker
from lightning_app.networks.heads import HEADS, HeadMaker, SoftmaxHead

ClassWithArguments = Mapping[str, Any]  # class_path and init_args
_GIVEN = 2  # arguments that the recogniser gives: (dim, classes), (in_channels, input_size)


def described(maker: object, base: type[nn.Module]) -> dict[str, Any]:
    """Describe what makes a part, in plain values that a checkpoint keeps.

    Args:
        maker: a subclass of `base`, `functools.partial` of one with keywords, or what jsonargparse makes of a
            `class_path`.
        base: `Head` or `Backbone`.

    Returns:
        `class_path`, and `init_args` with their defaults.

    Raises:
        ValueError: it is another kind of thing, such as an instance or a lambda.
    """
    parts = (maker.func, *maker.args) if isinstance(maker, functools.partial) else (maker,)
    kind = next((part for part in parts if inspect.isclass(part) and issubclass(part, base)), None)
    if kind is None:
        raise ValueError(
            f"{base.__name__.lower()}: {maker!r} is no {base.__name__} class; give a class_path, in Python a subclass "
            "or functools.partial of one with its arguments by keyword"
        )
    own = list(inspect.signature(kind).parameters.values())[_GIVEN:]
    found = {p.name: p.default for p in own if p.default is not p.empty}
    found |= maker.keywords if isinstance(maker, functools.partial) else {}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": found}


def describe_parts(
    backbone: BackboneMaker | ClassWithArguments | str, head: HeadMaker | ClassWithArguments | None
) -> dict[str, BackboneMaker | HeadMaker | ClassWithArguments | str | None]:
    """Return backbone and head in plain values that a checkpoint keeps, by the names `backbone` and `head`.

    Args:
        backbone: a name, a description or what makes one.
        head: likewise; None is the softmax head.

    Raises:
        ValueError: one is no part of its kind.
    """
    return {
        "backbone": described(backbone, Backbone) if callable(backbone) else backbone,
        "head": described(head, Head) if callable(head) else head,
    }


def head_maker(head: HeadMaker | ClassWithArguments | None) -> HeadMaker | None:
    """Return what makes a head; a description must be of one of ours.

    Raises:
        ValueError: a checkpoint describes somebody else's head.
    """
    return _maker("head", head, HEADS) if isinstance(head, Mapping) else head


def backbone_maker(backbone: BackboneMaker | ClassWithArguments | str) -> BackboneMaker | str:
    """Return what makes a backbone, or its name; a description must be of one of ours.

    Raises:
        ValueError: a checkpoint describes somebody else's backbone.
    """
    return _maker("backbone", backbone, BACKBONES) if isinstance(backbone, Mapping) else backbone


def _maker(
    name: str, part: ClassWithArguments, known: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    path = str(part.get("class_path"))
    package, _, kind = path.rpartition(".")
    if kind not in known or package.partition(".")[0] != "lightning_app":
        raise ValueError(
            f"{name}: the checkpoint names the class {path!r}, which is none of FaceVeil's: load it within "
            "lightning_app.models.known.trusting([…]), or give the class"
        )
    return functools.partial(known[kind], **dict(part.get("init_args") or {}))


def called(part: object) -> str:
    """Return the name of a part for people: of a description its class's, else the name itself.

    Args:
        part: a name, or `class_path` and `init_args`; None is the softmax head.
    """
    if isinstance(part, Mapping):
        return str(part.get("class_path")).rpartition(".")[2]
    return SoftmaxHead.__name__ if part is None else str(part)


def same(first: object, second: object) -> bool:
    """Return whether two descriptions are of one part; arguments that only one knows do not count.

    Args:
        first: a name, `class_path` and `init_args`, or None for the softmax head.
        second: likewise.
    """
    if called(first) != called(second):
        return False
    one, other = (
        dict(part.get("init_args") or {}) if isinstance(part, Mapping) else {} for part in (first, second)
    )
    # how labels are smoothed is of the training, and makes no other head
    return all(one[key] == other[key] for key in one.keys() & other.keys() - {"label_smoothing"})


def classes_of_data(trainer: object) -> int:
    """Return how many classes the training set has.

    Args:
        trainer: whose DataModule knows it.

    Raises:
        ValueError: there is none that does.
    """
    count: int | None = getattr(getattr(trainer, "datamodule", None), "num_classes", None)
    if count is None:
        raise ValueError("num_classes: give it, or train on a DataModule that has it")
    return count


def has_dropout(module: nn.Module) -> bool:
    """Return whether a network, or a part of it, draws dropout.

    Args:
        module: the network.
    """
    return any(isinstance(part, _DropoutNd) and part.p > 0 for part in module.modules())
