"""Several desensitizers, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Self

from lightning_app.core.batch import Batch, DrawKey
from lightning_app.core.plain import Schema
from lightning_app.desensitize.base import Desensitizer

_MOST = 8  # steps


class Chain(Desensitizer):
    """Do one thing after another, such as a representation and then a mix of it.

    What it says of itself follows from its steps: channels, size, `is_image`, `flips`, `mixes`, `look`. It promises
    nothing of its masks; a batch has the mask of its first step, where the others keep it.

    Args:
        steps: the desensitizers, in their order. One that hides pixels under a mask comes first: others may spread
            pixels. After a representation only those can come that take any (`MixUp`, `InstaHide`); at most one mixes.

    Raises:
        ValueError: no steps or too many, a chain in a chain, two that mix, or one that cannot follow.
    """

    ours: ClassVar[Mapping[str, type[Desensitizer]]] = {}  # by the name in a description; filled by `ours.py`

    def __init__(self, steps: list[Desensitizer]) -> None:
        super().__init__()
        if not 1 <= len(steps) <= _MOST:
            raise ValueError(f"steps: {len(steps)} of them; give 1 to {_MOST}")
        self.out_channels, self.is_image, self._looker = 3, True, -1
        for number, step in enumerate(steps):
            self._add(number, step, steps)
        mixing = [type(step).__name__ for step in steps if step.mixes > 1]
        if len(mixing) > 1:
            raise ValueError(f"steps: {' and '.join(mixing)} both mix images; mix once, with a larger k")
        self.hides, self.flips = any(s.hides for s in steps), all(s.flips for s in steps)
        self.mixes, self.keyed = max(step.mixes for step in steps), any(s.keyed for s in steps)
        self.has_tails, self.flips_signs = (
            any(step.has_tails for step in steps),
            any(step.flips_signs for step in steps),
        )
        self.elsewhere = steps[0].elsewhere
        self.steps = nn.ModuleList(steps)

    def _add(self, number: int, step: Desensitizer, steps: list[Desensitizer]) -> None:
        if isinstance(step, Chain):
            raise ValueError(f"steps.{number}: a Chain in a Chain; write its steps here")
        if not self.is_image and not step.takes_any:
            before = type(steps[number - 1]).__name__
            raise ValueError(
                f"steps.{number}: {type(step).__name__} takes pictures, and what comes from {before} is none: put it "
                "before"
            )
        if number and step.has_mask:
            before = type(steps[number - 1]).__name__
            raise ValueError(
                f"steps.{number}: {type(step).__name__} hides pixels under a mask, and {before} may have spread them "
                "before: put it first"
            )
        if number and step.elsewhere:
            raise ValueError(
                f"steps.{number}: {type(step).__name__} takes the pictures that another program made of raw images, so "
                "that what comes before it is lost: put it first"
            )
        if step.raw_alone and any(earlier.hides for earlier in steps[:number]):
            raise ValueError(
                f"steps.{number}: {type(step).__name__} compares the faces that it gets with those that its components "
                "are of, and a step before it would make others of them: put it first"
            )
        step.after(self.is_image)
        if not step.is_image and (not step.takes_any or self.is_image):
            self._looker = (
                number  # who makes a representation of pictures can show it; what follows is shown alike
            )
        self.is_image = self.is_image and step.is_image
        self.out_channels = self.out_channels if step.takes_any else step.out_channels

    @property
    def scale(self) -> tuple[float, float]:
        """Return what the step is normalised by that makes a representation."""
        return super().scale if self._looker < 0 else self.in_order[self._looker].scale

    @property
    def in_order(self) -> list[Desensitizer]:
        """The steps."""
        return [step for step in self.steps if isinstance(step, Desensitizer)]

    def prepare(self, size: tuple[int, int]) -> None:
        """Prepare each step for what comes to it.

        Raises:
            ValueError: a step cannot take it.
        """
        for step in self.in_order:
            step.prepare(size)
            size = step.out_size(size[0]), step.out_size(size[1])

    def forward(self, batch: Batch, draw_key: DrawKey | None = None) -> Batch:
        """Put a batch through all steps; arguments as in `Desensitizer.forward`."""
        for step in self.in_order:
            batch = step.forward(batch, draw_key)
        return batch

    @property
    def may_show_hidden(self) -> bool:
        """Whether a step shows what is hidden."""
        return any(step.may_show_hidden for step in self.in_order)

    @property
    def lacks_key(self) -> bool:
        """Whether a step lacks its key."""
        return any(step.lacks_key for step in self.in_order)

    @property
    def words(self) -> str:
        """What its steps do."""
        return " Then: ".join(step.words for step in self.in_order)

    def why_not_released(self) -> str:
        """Return what the first step says of which no release can be made; of masks for each image there is none."""
        each = next((step for step in self.in_order if step.masks_each), None)
        if each is not None:
            return (
                f"Chain: its step {type(each).__name__} gives each image a mask of its own, and a release holds such "
                "masks of that step alone; give it without the chain"
            )
        return next((why for step in self.in_order if (why := step.why_not_released())), "")

    def masking_step(self) -> Desensitizer | None:
        """Return the first step, where it puts masks on the images: no other may."""
        return self.in_order[0].masking_step()

    def out_size(self, size: int) -> int:
        """Return the side of what the last step returns, in pixels."""
        for step in self.in_order:
            size = step.out_size(size)
        return size

    def look(self, image: Tensor) -> Tensor:
        """Make pictures of what it returns, as the step does that makes a representation."""
        return image if self._looker < 0 else self.in_order[self._looker].look(image)

    def describe(self) -> dict[str, object]:
        """Return the steps' descriptions."""
        return super().describe() | {"steps": [step.describe() for step in self.in_order]}

    def agreed(self) -> dict[str, object]:
        """Return what owners must have in common of each step."""
        return super().describe() | {"steps": [step.agreed() for step in self.in_order]}

    @classmethod
    def for_one(cls, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Describe the steps that do something to a single image."""
        given = description.get("steps")
        if not isinstance(given, list) or not all(isinstance(described, Mapping) for described in given):
            return description  # somebody else's file may hold anything
        steps = []
        for described in given:
            kind = cls.ours.get(str(described.get("method")))
            one = described if kind is None else kind.for_one(described)
            if one.get("method") != "Identity":
                steps.append(one)
        if len(steps) > 1:
            return {**description, "steps": steps}
        return steps[0] if steps else {"method": "Identity"}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], mask: str | Path | None = None) -> Self:
        """Make it of its steps, which must be FaceVeil's own."""
        found = cls._known(description)
        return cls([
            kind.from_description(described, mask if kind.needs_file(described) else None) for kind, described in found
        ])  # fmt: skip

    @classmethod
    def needs_file(cls, description: Mapping[str, Any]) -> bool:
        """Return whether a step needs a mask's file."""
        return any(kind.needs_file(described) for kind, described in cls._known(description))

    @classmethod
    def recipe(cls, description: Mapping[str, Any]) -> str:
        """Return what the steps say, in their order."""
        try:
            recipes = [kind.recipe(described) for kind, described in cls._known(description)]
        except (ValueError, LookupError, TypeError):
            return ""
        return " Then: ".join(words for words in recipes if words)

    @classmethod
    def entries(cls, size: int, version: int) -> list[Schema]:
        """List what a manifest may say of it: steps, each as its own class may be described; none with a mask."""

        def fits(value: Any) -> bool:
            if not isinstance(value, list) or not 1 <= len(value) <= _MOST:
                return False
            kinds = [
                cls.ours.get(str(described.get("method"))) if isinstance(described, dict) else None
                for described in value
            ]
            return all(
                isinstance(described, dict)
                and cls._fits(
                    described, size, version, not any(k is not None and k.hides for k in kinds[:number])
                )
                for number, described in enumerate(value)
            )

        return [{"steps": (fits, f"1 to {_MOST} steps without a mask, each described as its class is")}]

    @classmethod
    def _fits(cls, described: Mapping[str, Any], size: int, version: int, first: bool) -> bool:
        kind = cls.ours.get(str(described.get("method")))
        if kind is None or kind.has_mask is not False or (kind.raw_alone and not first):
            return False
        rest = {key: value for key, value in described.items() if key != "method"}
        schemas = kind.entries(size, version)
        return any(
            rest.keys() == one.keys() and all(check(rest[key]) for key, (check, _) in one.items())
            for one in schemas
        )

    @classmethod
    def weaknesses(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what is wrong with every step, where none of them changes enough of an image."""
        each = [
            kind.weaknesses(described, size) if kind.hides else [f"{kind.__name__} changes nothing"]
            for kind, described in cls._known(description)
        ]
        return [] if not all(each) else [fault for faults in each for fault in faults]

    @classmethod
    def inconsistencies(cls, description: Mapping[str, Any], size: int) -> list[str]:
        """Return what each step says of itself that does not follow from the rest; and more than one key."""
        found, faults = cls._known(description), []
        for kind, described in found:
            faults += kind.inconsistencies(described, size)
            try:
                shape = None if kind.takes_any else kind.shape(described, size)
            except ValueError:  # blocks that do not fill the images, which an audit says by itself
                break
            size = size if shape is None else shape[1]
        if len({described["key_hash"] for _, described in found if "key_hash" in described}) > 1:
            faults.append("its steps have keys of their own: a chain is one owner's, and has one key")
        return faults

    @classmethod
    def grid(cls, description: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return that of the last step which makes something else of what it is given."""
        found: tuple[int, int] | None = (255, 0)
        for kind, described in cls._known(description):
            found = found if kind.takes_any else kind.grid(described)
        return found

    @classmethod
    def shape(cls, description: Mapping[str, Any], size: int) -> tuple[int, int, int] | None:
        """Return that of the last step which makes something else of what it is given."""
        found: tuple[int, int, int] | None = (3, size, size)
        for kind, described in cls._known(description):
            if not kind.takes_any:
                found = None if found is None else kind.shape(described, found[1])
        return found

    @classmethod
    def leaves(cls, description: Mapping[str, Any], size: int) -> dict[str, Any] | None:
        """Return what the last step leaves of those that change anything."""
        found = [(kind, described) for kind, described in cls._known(description) if kind.hides]
        if not found:
            return None
        kind, described = found[-1]
        return kind.leaves(described, size)

    @classmethod
    def _known(cls, description: Mapping[str, Any]) -> list[tuple[type[Desensitizer], Mapping[str, Any]]]:
        """Find the classes of a description's steps.

        Raises:
            ValueError: a step is none of FaceVeil's own.
        """
        steps = description["steps"]
        if not isinstance(steps, list) or not 1 <= len(steps) <= _MOST:
            raise ValueError(f"its steps are not a list of 1 to {_MOST}")
        found = []
        for described in steps:
            kind = cls.ours.get(str(described.get("method"))) if isinstance(described, Mapping) else None
            if kind is None or issubclass(kind, Chain):
                raise ValueError("a step of its description is none of FaceVeil's own methods")
            found.append((kind, described))
        return found
