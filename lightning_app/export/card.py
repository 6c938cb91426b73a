"""The model card: what the files are, what they were measured at, what they give away."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datamodules.same_description import EARLIER, alone, summary
from lightning_app.core.log_keys import accuracies
from lightning_app.desensitize import described, is_clean
from lightning_app.release.format.method import key_hashes

_TEMPLATE = "card.md.j2"
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_SPECIAL = re.compile(r"[\\`*_\[\]|~$]")
_BEGINNING = re.compile(r"^([0-9]*)([.)](?=\s)|[+\-](?=\s)|#+(?=\s)|[=\-]+$)")  # of a list, a heading, a rule
_TICKS = re.compile(r"`+")
_TAGS = ["face-recognition", "face-verification", "desensitized", "faceveil", "onnx", "safetensors"]
_LFW = 6000  # pairs of LFW's own list
_METRICS = {"accuracy": "accuracy", "auc": "roc_auc", "eer": "equal_error_rate"}  # ours -> the Hub's


def render(card: dict[str, Any], rows: list[list[str]]) -> str:
    """Write a card in Markdown, with the front matter that model hubs read.

    Args:
        card: what `card.json` holds.
        rows: the metrics as (name, value with its interval).

    Returns:
        The text of `README.md`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=plain_text,
    )  # fmt: skip
    environment.filters |= {"number": _number, "code": code, "block": _block, "ready": Ready}
    matter = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True)
    page = environment.get_template(_TEMPLATE).render(
        c=card, rows=rows, desensitizing=desensitizing(card), desensitized_before=desensitized_before(card),
        opening=opening(card), thresholds=thresholds(card), keyed=bool(key_hashes(alone(card["desensitizer"] or {}))),
        faces=faces(card), desensitizers=desensitizers(card),
    )  # fmt: skip
    return f"---\n{matter}---\n\n{page}"


class Ready(str):
    """Markdown already: it is put into the card as it is."""

    __slots__ = ()


def plain_text(value: object) -> object:
    """Escape text so that Markdown shows it letter by letter, in one line, in a table's cell too.

    What a checkpoint, or the config beside it, calls things stands in the card: neither HTML nor Markdown of theirs
    counts.

    Args:
        value: of an expression in the template; numbers, and what is `Ready`, stay as they are.
    """
    if value is None or isinstance(value, int | float | Ready):
        return value
    text = _SPECIAL.sub(r"\\\g<0>", _one_line(str(value)).replace("&", "&amp;"))
    return _BEGINNING.sub(r"\1\\\2", text.replace("<", "&lt;").replace(">", "&gt;"))


def code(value: object) -> Ready:
    """Make a code span of text, whatever backticks and bars are in it.

    Args:
        value: made text.
    """
    text = _one_line(str(value)).replace("|", "\\|")
    ticks = "`" * (1 + max(map(len, _TICKS.findall(text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return Ready(f"{ticks}{space}{text}{space}{ticks}")


def _block(value: str) -> Ready:
    ticks = "`" * max(3, 1 + max(map(len, _TICKS.findall(value)), default=0))
    return Ready(f"{ticks}\n{value}\n{ticks}")


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def front_matter(card: dict[str, Any]) -> dict[str, Any]:
    """Make the YAML head of a model card as the Hugging Face Hub defines it.

    Args:
        card: what `card.json` holds.
    """
    licence = card["licence"]
    head: dict[str, Any] = {"license": "other"}
    if licence is None:
        head["license_name"] = "not-stated"
    elif _SPDX.fullmatch(licence):
        head["license"] = licence.lower()
    else:
        head["license_name"] = "see-the-card"
    head |= {"library_name": "onnx", "pipeline_tag": "image-feature-extraction", "tags": list(_TAGS)}
    if results := _results(card["figures"], {one["name"]: one.get("pairs") for one in card["measured_on"]}):
        head["model-index"] = [{"name": card["name"], "results": results}]
    return head


def _results(metrics: dict[str, float], pairs: dict[str, int | None]) -> list[dict[str, Any]]:
    """List what was measured of each set, `pairs` of them; one called lfw that is not LFW's list goes by its size."""
    results = []
    for name in accuracies(metrics):
        found = [
            {"type": kind, "value": metrics[f"{name}/{ours}"], "name": f"{name}/{ours}"}
            for ours, kind in _METRICS.items()
            if f"{name}/{ours}" in metrics
        ]
        task = {"type": "face-verification", "name": "Face verification, both images desensitized"}
        count = pairs.get(name)
        own = name == "lfw" and count not in (None, _LFW)
        dataset = (
            {"name": f"own list of {count} pairs", "type": "own"} if own else {"name": name, "type": name}
        )
        results.append({"task": task, "dataset": dataset, "metrics": found})
    return results


def faces(card: dict[str, Any]) -> str:
    """Return in a word or three what faces the training saw: clean, desensitized, or first the one, then the other.

    Args:
        card: what `card.json` holds.
    """
    kinds = {is_clean(one) for one in (*card["training"].get(EARLIER, ()), card["desensitizer"])}
    return "clean and desensitized" if len(kinds) > 1 else "clean" if kinds == {True} else "desensitized"


def desensitizers(card: dict[str, Any]) -> list[str]:
    """Return in short every desensitizer that the run trained under: earlier ones, clean faces first, then the last.

    Args:
        card: what `card.json` holds.
    """
    last = card["desensitizer"]
    found = [
        f"{summary(one)}{': clean faces' if is_clean(one) else ''}"
        for one in card["training"].get(EARLIER, ())
    ]
    return [*found, "not known" if last is None else last["method"]]


def desensitized_before(card: dict[str, Any]) -> bool:
    """Return whether images must be desensitized before the graph takes them: neither it does, nor are they clean.

    Args:
        card: what `card.json` holds.
    """
    description, mask = card["desensitizer"], card["mask"]
    in_graph = mask is not None and mask["in_graph"]
    return not in_graph and not (description is not None and is_clean(alone(description)))


def opening(card: dict[str, Any]) -> list[Ready]:
    """Return the lines of Python that bring an opened `image` to what the graph takes; none where it is that already.

    Args:
        card: what `card.json` holds.
    """
    if desensitized_before(card) or card["input"].get("masks"):
        return []
    size, crop = int(card["input"]["size"]), card["training"]["crop"]
    lines = []
    if isinstance(crop, int):
        lines.append(f"left, top = round((image.width - {crop}) / 2), round((image.height - {crop}) / 2)")
        lines.append(f"image = image.crop((left, top, left + {crop}, top + {crop}))")
    elif crop is not None:  # four numbers, see `training_data`
        lines.append(f"image = image.crop({tuple(crop)})")
    lines.append(f"image = image.resize(({size}, {size}), Image.Resampling.BILINEAR)")
    return [Ready(line) for line in lines]


def thresholds(card: dict[str, Any]) -> list[tuple[str, float, bool]]:
    """Return the threshold of the cosine that each verification set gave, where it is known.

    Args:
        card: what `card.json` holds.

    Returns:
        For each: the list of pairs, or the set where its list is not named; the threshold; whether the recogniser was,
        by an interval, no better there than guessing.
    """
    lists, metrics = {one["name"]: one["list"] for one in card["measured_on"]}, card["figures"]
    return [
        (
            lists.get(name) or name,
            metrics[f"{name}/threshold"],
            any(metrics.get(f"{name}/{kind}_low", 1.0) <= 0.5 for kind in ("accuracy", "auc")),
        )
        for name in accuracies(metrics)
        if f"{name}/threshold" in metrics
    ]


def desensitizing(card: dict[str, Any]) -> str:
    """Return in a sentence or two how images must be desensitized before the graph takes them.

    Args:
        card: what `card.json` holds.
    """
    description, mask = card["desensitizer"], card["mask"]
    if mask is not None and mask["in_graph"]:
        return (
            "The graph multiplies every image by the mask (`mask.png`) before anything else. Released images stay as "
            "they are by that; a clean image that is fed by mistake is masked as in training. This keeps the result "
            "right, it protects nobody: who runs the model has the image."
        )
    if description is None:
        return "The checkpoint does not say how its training images were made; feed images desensitized likewise."
    if card["input"].get("masks"):
        kind, size = plain_text(description.get("kind")), card["input"]["size"]
        return (
            f"Every image comes with a mask of its own, as in training ({code(description['method'])} of kind {kind}): "
            f"`mask`, float32 `[batch, 1, {size}, {size}]`, 1 = visible, 0 = hidden. A release has it "
            "beside each image, in `masks/`, as a PNG of 255 and 0. The graph multiplies images by it and computes its "
            "gates from it; the masker is not in it."
        )
    if is_clean(description):
        return "The model takes clean faces: images are not desensitized, and the graph desensitizes nothing."
    kind, single = described(description), alone(description)
    if single != description:
        mixing = f"Training images were mixed together ({code(json.dumps(description))}); those to be embedded are not."
        return f"{mixing} {desensitizing({**card, 'desensitizer': single})}"
    rest = {key: value for key, value in description.items() if key not in ("method", "mask_hash")}
    how = ", ".join(f"{plain_text(key)} {plain_text(json.dumps(value))}" for key, value in rest.items())
    if kind is not None and kind.hides_only:
        low, high = description.get("mask_ratio_range", (description.get("mask_ratio"),) * 2)
        ratios = "not known" if low is None or high is None else f"{low:.4f} … {high:.4f}"
        how = f"hidden pixels black, {description.get('masks', 'several')} masks of mask ratio {ratios}"
    recipe = kind.recipe(description) if kind is not None else ""
    return (
        f"**Images must be desensitized before**, as in training: {code(description['method'])}"
        f"{f' ({how})' if how else ''}. "
        f"{plain_text(recipe)}{' ' if recipe else ''}The "
        "graph does not desensitize: a clean image, or one made in another way, gives an embedding that means little."
    )


def _number(value: float | int | None) -> str:
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
