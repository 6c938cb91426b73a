"""The log keys that tables know: what they call them, in which order, and which way is better.

A new number needs one line in `KINDS`. A key that stands in no line is shown under its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lightning_app.core.measurement import Measurement

SITUATIONS = ("_s1", "_s2", "_s3")  # which images of a pair are desensitized: both, the second, none
ALL = "all"  # all gates of a model at once
_ENDS = ("_low", "_high")


def _gate(point: str) -> str:
    return "all gates" if point == ALL else f"the gate at {point}"


@dataclass(frozen=True)
class KnownNumber:
    """What is known of a number before it is measured.

    Attributes:
        key: its log key. A first `{}` stands for the name of a verification set, a last one for what differs, such as
            a false accept rate.
        label: what tables call it, with the same places; where it is empty, tables do not show it.
        higher_is_better: see `Measurement`.
        form: see `Measurement`.
        tail: see `Measurement`.
        std_key: see `Measurement`; with the first place of the key.
        words: what is said for the last place.
    """

    key: str
    label: str = ""
    higher_is_better: bool | None = None
    form: str = ".4f"
    tail: str = ""
    std_key: str = ""
    words: Callable[[str], str] = str

    @property
    def figure(self) -> str:
        """Return what stands behind the slash, without tail and open place: `accuracy` of `{}/accuracy_s2`."""
        return self.key.partition("/")[2].removesuffix(self.tail).removesuffix("_{}")


# in the order of a table's rows
KINDS = (
    KnownNumber("privacy/mask_ratio", "mask ratio"),
    KnownNumber("{}/accuracy", "{} verification accuracy", True, std_key="{}/std"),
    KnownNumber(
        "{}/accuracy_s1", "", True, tail="_s1", std_key="{}/std_s1"
    ),  # the same as without a situation
    KnownNumber(
        "{}/accuracy_s2", "{} accuracy, clean vs desensitized", True, tail="_s2", std_key="{}/std_s2"
    ),
    KnownNumber("{}/accuracy_s3", "{} accuracy, both clean", True, tail="_s3", std_key="{}/std_s3"),
    KnownNumber("{}/auc", "{} AUC", True),
    *(KnownNumber(f"{{}}/auc{tail}", "", True, tail=tail) for tail in SITUATIONS),
    KnownNumber("{}/eer", "{} EER", False),
    *(KnownNumber(f"{{}}/eer{tail}", "", False, tail=tail) for tail in SITUATIONS),
    KnownNumber("{}/tar_at_far_{}", "{} TAR@FAR={}", True),
    *(KnownNumber(f"{{}}/tar_at_far_{{}}{tail}", "", True, tail=tail) for tail in SITUATIONS),
    KnownNumber("{}/threshold", "{} threshold of the cosine"),
    *(KnownNumber(f"{{}}/threshold{tail}", "", tail=tail) for tail in SITUATIONS),
    KnownNumber("{}/accuracy_without_{}", "{} accuracy, {} off", words=_gate),
    KnownNumber("{}/contribution_{}", "{} contribution of {}", form="+.4f", words=_gate),
    KnownNumber("{}/gate_mean_{}", "{} mean of {}, hidden cells", words=_gate),
    KnownNumber("privacy/dssim", "dSSIM", True),
    KnownNumber("privacy/psnr", "PSNR, dB", False),  # of the desensitized faces: lower hides more
    *(
        kind
        for tail, after in (("", ""), ("_restored", ", restored"))
        for kind in (
            KnownNumber(f"privacy/face_similarity{tail}", f"face similarity{after}", False),
            KnownNumber(f"privacy/face_similarity_impostor{tail}", f"face similarity of strangers{after}"),
            KnownNumber(f"privacy/rank1{tail}", f"rank-1{after}", False),
        )
    ),
    KnownNumber("train/loss", "training loss", False),
    KnownNumber("train/mean_loss", "", False),  # beside the loss of the last step it would puzzle in a table
    KnownNumber("train/accuracy", "training accuracy", True),
    KnownNumber("train/distillation", "distance from the teacher", False),
    KnownNumber("train/confusion", "adversary's loss"),
    KnownNumber("train/restorer", "restorer's error"),
    KnownNumber("train/lr", "last learning rate", form=".4g"),
    KnownNumber("mixing/mean_k", "mean images in a mix", form=".2f"),
    KnownNumber("{}/share_{}", "{}, share of batches with k = {}"),
    KnownNumber("{}/probability_{}", "{}, last probability of k = {}"),
    KnownNumber("mixing/entropy", "entropy of the strategy, nats", form=".3f"),
    KnownNumber("mixing/reward1", "loss that the strategy looks for"),
    KnownNumber("mixing/reward2", "that loss one step ahead"),
    KnownNumber("val/loss", "validation loss", False),
    KnownNumber("val/accuracy", "validation accuracy", True),
    KnownNumber("val/balanced_accuracy", "validation balanced accuracy", True),
    KnownNumber("test/loss", "test loss", False),
    KnownNumber("test/accuracy", "test accuracy", True),
    KnownNumber("test/balanced_accuracy", "test balanced accuracy", True),
    # of attackers, whose better is everybody else's worse
    *(
        kind
        for name in ("inpaint", "restore")
        for kind in (
            KnownNumber(f"{name}/psnr", "PSNR after restoring, dB", True, form=".2f"),
            KnownNumber(f"{name}/psnr_before", "PSNR before restoring, dB", form=".2f"),
        )
    ),
    KnownNumber("link/similarity", "mean cosine with the teacher", True),
    KnownNumber("masker/accuracy_hidden", "accuracy on the hidden part"),
    KnownNumber("run/epochs", "epochs", form=".0f"),
    KnownNumber("run/steps", "steps", form=".0f"),
    KnownNumber("time/fit_s", "time", form="time"),
    KnownNumber("time/validate_s", "time", form="time"),
    KnownNumber("time/test_s", "time", form="time"),
    KnownNumber("time/images_per_s", "training images/s", True, form=".0f"),
    KnownNumber("time/data_wait_share", "share of training time waiting for data"),
    KnownNumber("memory/peak_mb", "peak memory, MB", form=".0f"),
    KnownNumber("memory/gpu_peak_mb", "peak GPU memory, MB", form=".0f"),
    KnownNumber("memory/validate_peak_mb", "peak memory, MB", form=".0f"),
    KnownNumber("memory/validate_gpu_peak_mb", "peak GPU memory, MB", form=".0f"),
    KnownNumber("memory/test_peak_mb", "peak memory, MB", form=".0f"),
    KnownNumber("memory/test_gpu_peak_mb", "peak GPU memory, MB", form=".0f"),
)
_VERIFIED = ("accuracy", "auc", "eer", "tar_at_far", "threshold")  # what a verification of pairs measures
ORDER = {kind: number for number, kind in enumerate(KINDS)}
_KNOWN = {kind.key: kind for kind in KINDS}
_OPEN = [kind for kind in KINDS if kind.key.count("{}") == 2]
# what a key of somebody else's is taken to be by its end: what attackers are proud of is theirs alone
_BY_END = [kind for kind in KINDS if kind.key.partition("/")[0] not in ("inpaint", "restore", "link")]
_BETTER = {
    kind.figure: kind.higher_is_better
    for kind in _BY_END
    if kind.higher_is_better is not None and not kind.tail
}
_FORMS = {kind.figure: kind.form for kind in _BY_END}


def kind_of(key: str) -> tuple[KnownNumber, tuple[str, ...]] | None:
    """Find the line of `KINDS` that a log key belongs to.

    Args:
        key: of a value, such as `lfw/tar_at_far_1e-2`.

    Returns:
        The line and what fills its places, such as `("lfw", "1e-2")`; None where no line fits.
    """
    if key in _KNOWN:
        return _KNOWN[key], ()
    name, _, figure = key.partition("/")
    if not name or "/" in figure:
        return None
    if found := _KNOWN.get(f"{{}}/{figure}"):
        return found, (name,)
    for kind in _OPEN:
        start = f"{kind.figure}_"
        rest = figure.removesuffix(kind.tail).removeprefix(start)
        if figure == f"{start}{rest}{kind.tail}" and rest and "_" not in rest:
            return kind, (name, rest)
    return None


def set_of(key: str) -> str:
    """Return what stands before the slash of a log key: the verification set, or the kind of number, such as `train`.

    Args:
        key: any log key.

    Example:
        >>> set_of("cfp_fp/accuracy_s2")
        'cfp_fp'
    """
    return key.partition("/")[0]


def accuracies(keys: Iterable[str]) -> dict[str, str]:
    """Find the verification accuracies among log keys, without those of another situation.

    Args:
        keys: any log keys.

    Returns:
        Verification set → its key, in the order of the keys.

    Example:
        >>> accuracies(["val/accuracy", "lfw/accuracy", "lfw/accuracy_low", "lfw/accuracy_s2"])
        {'lfw': 'lfw/accuracy'}
    """
    return {set_of(key): key for key in keys if key.endswith("/accuracy") and is_verification(key)}


def tail_of(key: str) -> str:
    """Return the situation that ends a log key, such as `_s2`; '' where none does."""
    return next((tail for tail in SITUATIONS if key.endswith(tail)), "")


def value_key(key: str) -> str:
    """Return the key of the value that a key belongs to: itself, or that of which it is an end or the spread.

    Args:
        key: any log key.

    Example:
        >>> value_key("lfw/accuracy_low_s2"), value_key("lfw/std_s2"), value_key("lfw/accuracy_s2")
        ('lfw/accuracy_s2', 'lfw/accuracy_s2', 'lfw/accuracy_s2')
    """
    tail = tail_of(key)
    stem = key.removesuffix(tail)
    name, slash, figure = stem.partition("/")
    if figure == "std":
        return f"{name}/accuracy{tail}"
    end = next((end for end in _ENDS if slash and figure.endswith(end)), "")
    return f"{stem.removesuffix(end)}{tail}" if end else key


def is_verification(key: str) -> bool:
    """Return whether a verification of pairs logs this key: a value, an end of an interval, or the spread."""
    found = kind_of(value_key(key))
    if found is None or not found[0].key.startswith("{}/") or found[0].figure not in _VERIFIED:
        return False
    one = measurement(value_key(key), 0.0)
    return key in (one.key, one.low_key, one.high_key, one.std_key)


def higher_is_better(key: str) -> bool | None:
    """Return which way a number is better: as `KINDS` says, else by what its key ends with; None where nobody looks.

    Args:
        key: any log key, of a command's report too, such as `ablation/LABEL/COLUMN/accuracy`.
    """
    if key in _KNOWN:
        return _KNOWN[key].higher_is_better
    head, slash, figure = key.rpartition("/")
    if not slash or not head:
        return None
    figure = figure.removesuffix(tail_of(figure)).removesuffix("_step").removesuffix("_epoch")
    start = "tar_at_far_"
    if start in figure and "_" not in figure.partition(start)[2]:
        return _BETTER[start.removesuffix("_")]
    return next((better for name, better in _BETTER.items() if f"_{figure}".endswith(f"_{name}")), None)


def measurement(
    key: str, value: float, low: float | None = None, high: float | None = None, std: float | None = None
) -> Measurement:
    """Make a measurement whose label, direction, form and further keys `KINDS` knows; under its own key otherwise.

    Args:
        key: of the value.
        value: the number.
        low: see `Measurement`.
        high: likewise.
        std: likewise.
    """
    found = kind_of(key)
    if found is None:
        spread, form = "" if std is None else f"{key}_std", _FORMS.get(key.rpartition("/")[2], ".4f")
        return Measurement(key, value, low, high, higher_is_better(key), key, std, spread, tail_of(key), form)
    kind, places = found
    words = (*places[:-1], kind.words(places[-1])) if len(places) == 2 else places
    return Measurement(
        key, value, low, high, kind.higher_is_better, kind.label.format(*words), std,
        kind.std_key.format(*places), kind.tail, kind.form,
    )  # fmt: skip


def read(metrics: Mapping[str, float], known: Iterable[Measurement] = ()) -> list[Measurement]:
    """Make measurements of flat metrics, as `metrics.json` has them, of runs made before too.

    Args:
        metrics: log key → number.
        known: measurements made where the numbers were born; the others are looked up in `KINDS`.

    Returns:
        One for each value, with its ends and its spread, in the order of a table's rows; the numbers are the metrics'.
        A key that ends like an end of an interval, such as `val/recall_low` of a class `low`, is a value where it was
        made as one, or where there is nothing that it could be an end of.
    """
    born = {one.key: one for one in known}
    ends = {end for one in born.values() for end in (one.low_key, one.high_key, one.std_key)} - born.keys()
    rest = {key: value for key, value in metrics.items() if key not in born}
    made = []
    for key in metrics:
        if key in born:
            made.append(born[key].taken_from(metrics))
        elif key not in ends and ((of := value_key(key)) == key or of not in rest):
            made.append(measurement(key, metrics[key]).taken_from(rest))
    return sorted((one for one in made if not _is_the_only_gate(one.key, metrics)), key=row_order)


def row_order(one: Measurement) -> tuple[int, str]:
    """Return what tables sort by: the line of `KINDS`, then the label."""
    found = kind_of(one.key)
    return len(KINDS) if found is None else ORDER[found[0]], one.label


def _is_the_only_gate(key: str, metrics: Mapping[str, float]) -> bool:
    """Return whether a key speaks of all gates of a model that has one: switching all off is switching it off."""
    found = kind_of(key)
    if found is None or found[1][1:] != (ALL,):
        return False
    others = [
        places for kind, places in filter(None, map(kind_of, metrics)) if kind.figure == "accuracy_without"
    ]
    return len([point for name, point in others if name == found[1][0] and point != ALL]) == 1
