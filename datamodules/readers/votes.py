"""FER+'s ten votes on a face, and the majority rule by which they become an emotion."""

from __future__ import annotations

from collections.abc import Sequence

# in the order of FER+'s columns
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
COLUMNS = (*EMOTIONS, "unknown", "NF")  # NF: no face


def majority(votes: Sequence[int]) -> str | None:
    """Return the emotion that most of ten people saw, by FER+'s official rule.

    Single votes are dropped. The emotion with the most votes counts if it has more than half of those that are left;
    'unknown' and 'no face' are among them, and where one of these two wins, the image has no emotion.

    Args:
        votes: ten numbers, in the order of `COLUMNS`.

    Returns:
        One of `EMOTIONS`; None where there is no majority, or it is for 'unknown' or 'no face'.

    Raises:
        ValueError: not ten numbers of 0 or more.

    Source: Barsoum et al., 2016; `_process_data` with mode 'majority' in Microsoft's FERPlus.

    Example:
        >>> majority([0, 6, 1, 0, 0, 0, 0, 0, 3, 0])
        'happiness'
        >>> majority([4, 4, 0, 0, 0, 0, 0, 0, 2, 0]) is None
        True
    """
    if len(votes) != len(COLUMNS) or min(votes) < 0:
        raise ValueError(
            f"votes {list(votes)}: give ten numbers of 0 or more, in the order {', '.join(COLUMNS)}"
        )
    counted = [vote if vote > 1 else 0 for vote in votes]
    most = max(counted)
    if most * 2 <= sum(counted):
        return None
    winner = COLUMNS[counted.index(most)]
    return winner if winner in EMOTIONS else None
