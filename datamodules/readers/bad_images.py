"""Images that cannot be decoded, and how many of them a set may have."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

BAD_SHARE = 0.01  # more bad images than this are no accident: the set itself is broken


class BadImage(ValueError):
    """An image that cannot be decoded or must not be taken; its message is one line naming the file.

    Args:
        message: the line.
        reason: why, in words that name nothing, for counts.
    """

    def __init__(self, message: str, reason: str = "cannot be decoded") -> None:
        super().__init__(message)
        self.reason = reason


class BadImages:
    """Count the images that could not be decoded, over epochs and workers.

    Args:
        total: how many images the set has.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.numbers: set[int] = set()

    def add(self, numbers: Tensor | Iterable[int]) -> None:
        """Note a batch's `bad`; an image counts once, however often it is met."""
        self.numbers.update(numbers.tolist() if isinstance(numbers, Tensor) else numbers)

    def check(self, name: Callable[[int], str] | None = None) -> None:
        """Refuse a set of which more than 1 % cannot be decoded.

        Args:
            name: names an image by its number, with the reason, to show the first of them.

        Raises:
            ValueError: naming the count, the share and the first few.
        """
        if len(self.numbers) > BAD_SHARE * self.total:
            raise ValueError(
                f"{len(self.numbers)} of {self.total} images cannot be decoded, more than "
                f"{BAD_SHARE:.0%}{self._first(name)}: fetch them again or remove them"
            )

    def warning(self, name: Callable[[int], str]) -> str | None:
        """Return the one warning about replaced images; None where there are none.

        Args:
            name: see `check`.
        """
        if not self.numbers:
            return None
        count = f"{len(self.numbers)} of {self.total} images"
        return f"{count} cannot be decoded and were replaced{self._first(name)}"

    def _first(self, name: Callable[[int], str] | None, shown: int = 3) -> str:
        if name is None:
            return ""
        names = [name(number) for number in sorted(self.numbers)[:shown]]
        return f" ({', '.join(names)}{', …' if len(self.numbers) > shown else ''})"
