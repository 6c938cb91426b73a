"""The columns of a comparison: one entry each, read by the page and by the terminal's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_app.core.measurement import Measurement, find

RELEASED = "as released"  # what is seen without any attack


@dataclass(frozen=True)
class Column:
    """A column of the table of everything measured.

    Attributes:
        head: on the page; `{}` stands for the label of the judge or recogniser.
        figure: which figure, by its key; that of a judge or recogniser has `/LABEL` behind it.
        of: whether each judge, or each recogniser, has a column of its own.
        scale: what the metric is multiplied by to be shown: 100 for shares.
        short: head on the terminal; a column without one is on the page alone.
        optional: left out where nothing was measured of any method, as of what needs a package that is not there.
    """

    head: str
    figure: str
    of: Literal["", "judges", "recognisers"] = ""
    scale: float = 1
    short: str = ""
    optional: bool = False


# in the order of the page; what a judge has stands together
COLUMNS = (
    Column("dSSIM", "dssim", short="dSSIM"),
    Column("worst dSSIM", "worst/dssim"),
    Column("LPIPS", "lpips", short="LPIPS", optional=True),
    Column("worst LPIPS", "worst/lpips", optional=True),
    Column("PSNR", "psnr", short="PSNR"),
    Column("PSNR hidden", "psnr_hidden", short="hidden"),
    Column("worst PSNR hidden", "worst/psnr_hidden"),
    Column("rank-1 ({})", "rank1", "judges", 100, short="rank-1"),
    Column("rank-5 ({})", "rank5", "judges", 100),
    Column("verification ({})", "verification", "judges", 100, short="verif."),
    Column("similarity ({})", "similarity", "judges"),
    Column("worst similarity ({})", "worst/similarity", "judges"),
    Column("accuracy ({})", "accuracy", "recognisers", 100, short="acc. {}"),
)
# what the columns mean, in plain words
WORDS = (
    ("accuracy s1", "How useful the released set is: a recogniser trained on it tells, of two desensitized "
     "faces, whether they are the same person; share of right answers in %, 50 is guessing. The situation of "
     "the outsourced trainer (situation 1)."),
    ("s2, s3", "The same recogniser when the first face is clean and the second desensitized (situation 2), and "
     "when both are clean (situation 3). High values here mean that a trainer who gets hold of clean faces can "
     "link them to the release. Where nothing is hidden all three are one."),
    ("hidden", "Share of the pixels under the mask, in %; – for methods without a mask."),
    ("dSSIM", "How different the seen face looks from the clean one, as a picture: 0 is the same, about 1 has "
     "nothing in common. Higher is more private."),
    ("LPIPS", "How different the seen face looks from the clean one to a network that was trained on pictures "
     "(AlexNet): 0 is the same. Higher is more private. Left out where its weights are not installed."),
    ("PSNR", "How far its pixels are from the clean ones, in decibels; ∞ is the very same picture. Lower is more "
     "private. ‘PSNR hidden’ counts the pixels under the mask alone."),
    ("seen", f"What somebody looks at: the images ‘{RELEASED}’, or what an attack made of them. An attack that "
     "needs a mask is left out where there is none."),
    ("rank-1, rank-5", "Re-identification: the judge holds one clean photo of each person and is shown another "
     "face as seen. Share of faces, in %, whose own person comes first (among the first five). Lower is more "
     "private."),
    ("verification", "The judge is shown a clean face and one as seen, and tells whether they are the same "
     "person: share of right answers in %, 50 is guessing. Lower is more private."),
    ("similarity", "How alike the judge finds a face as seen and the same photo clean (cosine): 1 is the same; "
     "what strangers get depends on the judge, so compare rows, not judges. Lower is more private."),
    ("worst …", "The mean hides those who fare worst. For each person the mean of their images is taken; one "
     "person in twenty is worse off than this value (95th percentile)."),
    ("accuracy (…)", "A recogniser that compares two faces, both as seen: does restoring them help it? (The "
     "paper's Table 2.) ‘own’ is the one trained on this method's images."),
    ("[low, high]", "95 % interval: people (for verification: pairs) are drawn again with replacement. Two values "
     "whose intervals overlap widely should not be told apart. Training the recogniser again with another seed "
     "would move accuracies further."),
)  # fmt: skip


def columns_of(
    judges: Sequence[str],
    recognisers: Sequence[str],
    results: Mapping[str, Mapping[str, float]] | None = None,
) -> Iterator[tuple[Column, str]]:
    """Return the columns of a table: all that speak of nobody, then those of each judge, then of each recogniser.

    Args:
        judges: labels.
        recognisers: labels.
        results: method -> metrics: optional columns without any metric are left out then.

    Yields:
        A column and the label of whom it speaks; empty for nobody.
    """
    for of, labels in (("", [""]), ("judges", judges), ("recognisers", recognisers)):
        for label in labels:
            yield from (
                (column, label)
                for column in COLUMNS
                if column.of == of
                and not (column.optional and results is not None and not _measured(column.figure, results))
            )


def _measured(figure: str, results: Mapping[str, Mapping[str, float]]) -> bool:
    return any(key == figure or key.endswith(f"/{figure}") for found in results.values() for key in found)


def find_metric(
    metrics: Mapping[str, float], name: str, label: str = "", attack: str = RELEASED
) -> Measurement | None:
    """Read a metric of a method.

    Args:
        metrics: of the method.
        name: of the metric, such as `rank1`.
        label: of the judge or recogniser; empty for metrics that have none.
        attack: label of the attack.

    Returns:
        Value and interval; None where it was not measured.
    """
    tail = f"/{label}" if label else ""
    return find(metrics, under(attack, f"{name}{tail}"), tail)


def under(attack: str, key: str) -> str:
    """Return the key of a method's metrics for what an attack found.

    Args:
        attack: label of the attack, or `RELEASED`.
        key: of the metric, such as `rank1/dlib`.
    """
    return key if attack == RELEASED else f"{attack}/{key}"


def by_attack(metrics: Mapping[str, float], attacks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Sort a method's metrics by the attack that they are of.

    Args:
        metrics: of the method.
        attacks: labels.

    Returns:
        `RELEASED` and attack → its metrics, by their own keys; attacks without any are left out.
    """
    own: dict[str, dict[str, float]] = {RELEASED: {}}
    for key, value in metrics.items():
        attack = next((one for one in attacks if key.startswith(under(one, ""))), RELEASED)
        own.setdefault(attack, {})[key.removeprefix(under(attack, ""))] = value
    return own
