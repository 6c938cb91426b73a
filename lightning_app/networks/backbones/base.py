"""What every backbone is: images in, embeddings out, with room for a gate after each of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_app.networks.fsm import FSM, Normaliser


@dataclass(frozen=True)
class Stage:
    """The feature map after a stage of a backbone.

    Attributes:
        channels: of the map.
        size: height (= width) of the map.
    """

    channels: int
    size: int


class Backbone(nn.Module):
    """Base of backbones: images in, embeddings out, gated where asked.

    A subclass takes (in_channels, input_size) first, and what else it needs, with defaults, after them. It states
    `dim`, `points`, `stages` and `smallest`, and says what is before, in and after the stages: `stem_of`, `stage_of`,
    `embedding_of`. Gates are placed, frozen and left out here.

    `Backbone(name, …)` makes one of ours by name, as `pathlib.Path` makes the platform's: `Backbone("resnet34")`.

    Attributes:
        dim: width D of the embeddings.
        points: names of the stages, in order; an FSM can sit after each.
        smallest: height and width of the smallest images it takes, in pixels.
        gates: insertion point → FSM, in the order they were asked for.
        foldable: whether each batch norm follows the convolution before it in the order of modules, with nothing
            between the two, so that an export may fold it. A subclass may compute otherwise than its base, so it never
            inherits this: it states it.
    """

    dim: int
    points: ClassVar[tuple[str, ...]] = ()
    smallest: ClassVar[int] = 1
    foldable: ClassVar[bool] = False
    names: ClassVar[dict[str, type[Backbone]]] = {}  # filled by `__init_subclass__`
    _frozen: tuple[Tensor, dict[str, Tensor]] | None = None
    _off: frozenset[str] = frozenset()

    def __init_subclass__(cls, names: Sequence[str] = (), **kwargs: Any) -> None:
        """Register a class under the names that `backbone: NAME` may give; it then takes the name first."""
        super().__init_subclass__(**kwargs)
        if "foldable" not in vars(cls):
            cls.foldable = False
        Backbone.names.update(dict.fromkeys(names, cls))

    def __new__(cls, *args: Any, **kwargs: Any) -> Backbone:
        """Make an instance; of `Backbone` itself, one of the class that has the name.

        Raises:
            ValueError: no backbone has that name.
        """
        if cls is not Backbone:
            return super().__new__(cls)
        return super().__new__(named(args[0] if args else kwargs.get("name", "resnet34")))

    def __init__(
        self, *args: Any, **kwargs: Any
    ) -> None:  # typed so for `Backbone(name, …)`, which is another's
        if args or kwargs:
            raise TypeError(f"{type(self).__name__} takes no arguments, got {[*args, *kwargs]}")
        super().__init__()
        self.gates = nn.ModuleDict()

    def hold_constant(self, mask: Tensor) -> None:
        """Take this mask for every image from now on, where embeddings depend on masks otherwise than by gates.

        Args:
            mask: `[1,1,H,W]`, 1 = visible.
        """

    @property
    def looks_at_masks(self) -> bool:
        """Whether embeddings depend on the masks that `forward` is given, and not on pixels alone; gates do."""
        return len(self.gates) > 0

    def stages(self, input_size: int) -> dict[str, Stage]:
        """Describe the feature map after each of `points`.

        Args:
            input_size: height and width of the images.
        """
        raise NotImplementedError

    def stem_of(self, image: Tensor) -> Tensor:
        """Return what the first stage takes, of normalised images `[B,C,H,W]`."""
        raise NotImplementedError

    def stage_of(self, point: str, x: Tensor) -> Tensor:
        """Return the feature map after a stage; by default the submodule of that name."""
        found: Tensor = getattr(self, point)(x)
        return found

    def embedding_of(self, x: Tensor) -> Tensor:
        """Return the embeddings `[B,D]` of the last stage's maps; by default their mean over the cells."""
        return x.mean(dim=(2, 3))

    def place_gates(
        self, insertion_points: Sequence[str], input_size: int, normalise: Normaliser = "sigmoid"
    ) -> Backbone:
        """Put an FSM after each of some stages, in place of those that are there.

        Args:
            insertion_points: stages after which an FSM gates the feature map; empty for none.
            input_size: height and width of images and masks.
            normalise: how the FSMs come to (0,1).

        Returns:
            The backbone itself.

        Raises:
            ValueError: an unknown stage, a feature map that no FSM fits, or images too small for the network.
        """
        if input_size < self.smallest:
            raise ValueError(
                f"input_size={input_size}: {type(self).__name__} takes images of {self.smallest} px or more"
            )
        self._modules.pop("gates", None)  # last of the modules, wherever it was: state dicts keep their order
        self.gates, self._frozen, self._off = nn.ModuleDict(), None, frozenset()
        stages = self.stages(input_size) if insertion_points else {}
        for point in insertion_points:
            if point not in stages:
                raise ValueError(f"insertion point {point!r}: choose among {', '.join(stages)}")
            stage = stages[point]
            if stage.size <= 1:
                raise ValueError(
                    f"insertion point {point!r}: the feature map of {input_size} px images is 1×1 there; "
                    "use larger images or an earlier insertion point"
                )
            try:
                self.gates[point] = FSM(stage.channels, stage.size, input_size, normalise)
            except ValueError as error:
                raise ValueError(f"insertion point {point!r}: {error}") from error
        return self

    def gate(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the gate of each mask at each insertion point.

        Args:
            mask: `[M,1,H,W]`, 1 = visible.

        Returns:
            insertion point → `[M,C,h,w]` in [0,1].
        """
        return {point: fsm(mask) for point, fsm in self.gates.items()}

    @torch.no_grad()
    def freeze_gate(self, mask: Tensor) -> None:
        """Cache the gate of a mask for inference; `train()` clears it.

        Args:
            mask: `[M,1,H,W]`, the only mask that `forward` then takes.

        Raises:
            RuntimeError: the network is in training mode, where the gate changes every step.
        """
        if self.training:
            raise RuntimeError("freeze_gate in training mode: call eval() first")
        self._frozen = (mask.detach().clone(), self.gate(mask))

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training or evaluation; training clears a frozen gate."""
        if mode:
            self._frozen = None
        super().train(mode)
        return self

    @contextmanager
    def gates_off(self, *points: str) -> Iterator[None]:
        """Leave gates out of `forward` while it lasts: each is then exactly 1, as with no mask.

        `gate` and `freeze_gate` still see them. Contexts within one another add up.

        Args:
            *points: insertion points; `*backbone.gates` for all, none leaves all on.

        Raises:
            ValueError: the network has no gate there.
        """
        unknown = [point for point in points if point not in self.gates]
        if unknown:
            raise ValueError(
                f"gates_off({unknown[0]!r}): this network has the gates {', '.join(self.gates) or '(none)'}; choose "
                "among these"
            )
        before = self._off
        self._off = before.union(points)
        try:
            yield
        finally:
            self._off = before

    def _gates_of(self, mask: Tensor) -> dict[str, Tensor]:
        if self._frozen is None:
            return {point: fsm(mask) for point, fsm in self.gates.items() if point not in self._off}
        frozen, gates = self._frozen
        if not torch.equal(mask, frozen):
            raise ValueError(
                "mask differs from the one the gate was frozen for: call freeze_gate with this mask, or train() "
                "to clear it"
            )
        return {point: gate for point, gate in gates.items() if point not in self._off}

    def forward(self, image: Tensor, mask: Tensor | None = None, mask_index: Tensor | None = None) -> Tensor:
        """Embed images.

        Args:
            image: `[B,C,H,W]`, normalised.
            mask: `[M,1,H,W]`, 1 = visible; None means all visible, hence a gate of 1.
            mask_index: `[B]` int64, which mask lies on each image; may be None where M is 1 or B.

        Returns:
            `[B,D]`.
        """
        gates = self._gates_of(mask) if mask is not None and len(self.gates) else {}
        x = self.stem_of(image)
        for point in self.points:
            x = self.stage_of(point, x)
            if point in gates:
                x = apply_gate(x, gates[point], mask_index)
        return self.embedding_of(x)


BackboneMaker = Callable[[int, int], Backbone]  # (in_channels, input_size): a subclass, or a partial of one


def named(name: object) -> type[Backbone]:
    """Return the class of ours that has a name.

    Raises:
        ValueError: none has it.
    """
    kind = Backbone.names.get(name) if isinstance(name, str) else None
    if kind is None:
        lost = "no such class where Python looks (PYTHONPATH); " if "." in str(name) else ""
        raise ValueError(
            f"backbone={name!r}: {lost}choose one of {', '.join(Backbone.names)}, or give the class_path of a "
            "lightning_app.networks.Backbone"
        )
    return kind


def apply_gate(x: Tensor, gate: Tensor, mask_index: Tensor | None) -> Tensor:
    """Multiply a feature map by each image's gate.

    Args:
        x: `[B,C,h,w]`.
        gate: `[M,C,h,w]`.
        mask_index: `[B]` int64 into the M gates; None where M is 1 or B.

    Returns:
        `[B,C,h,w]` in x's dtype and memory format.

    Raises:
        ValueError: several gates, not one per image, and no `mask_index`.
    """
    gate = gate.to(x.dtype)
    if mask_index is None and torch.compiler.is_exporting():
        return x * gate  # one for each image: a comparison of numbers of images would fix them in the graph
    if len(gate) == 1 or (mask_index is None and len(gate) == len(x)):
        return x * gate
    if mask_index is None:
        raise ValueError(
            f"{len(gate)} masks for {len(x)} images: mask_index says which lies on which; pass it"
        )
    return x * gate.index_select(0, mask_index)
