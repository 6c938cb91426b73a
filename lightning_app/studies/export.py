"""A recogniser as ONNX and safetensors, with its mask and a model card."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.same_description import alone
from lightning_app.cli.configs import find_config
from lightning_app.core.files import write_atomically
from lightning_app.core.normalise import normalised
from lightning_app.core.version import version
from lightning_app.desensitize import is_clean
from lightning_app.export import (
    Agreement,
    Deployed,
    ModelInput,
    compare,
    find_model_input,
    require,
    to_onnx,
    to_safetensors,
)
from lightning_app.export.card import render
from lightning_app.export.folder import check_output, named_after, renamed
from lightning_app.export.graph import OPSET
from lightning_app.export.source import TrainedRun, measured_on, normalisation, read_run, training_data
from lightning_app.masks import mask_hash, mask_ratio, save_mask
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.parts import called
from lightning_app.networks.backbones import WIDTH
from lightning_app.report import print_table, rows_of
from lightning_app.runs.atomic import files_at_once, folder_at_once
from lightning_app.runs.state import read_state

log = logging.getLogger("faceveil")

_WHAT = {
    "model.onnx": "the network as one graph for onnxruntime and others",
    "model.safetensors": "its weights, for PyTorch",
    "mask.png": "the mask, 255 = visible, 0 = hidden",
    "mask.json": "its facts",
}
_DONE = ("finished", "unfinished")  # the latter: of another command, or of a version that kept no state
_FILES = (*_WHAT, "README.md", "card.json")


def export(
    ckpt_path: str = "last",
    output: str | None = None,
    config: str | None = None,
    name: str | None = None,
    runs: str = "runs",
    mask: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    trained_on: str | None = None,
    normalise: bool = True,
    head: bool = False,
    opset: int = OPSET,
    mean: float | None = None,
    std: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a trained recogniser for others to run: ONNX, safetensors, the mask and a model card.

    The ONNX graph takes pixels in [0,1], desensitizes them by the mask where all images share one, normalises them, and
    gates with constants: neither a mask nor FaceVeil is needed to run it. Trained under a mask for each image, a gated
    recogniser's graph takes the masks as a second input, `mask`. It is held against PyTorch before
    anything is written. No path and no name of a person gets into the files. Needs `pip install 'faceveil[export]'`.

    Args:
        ckpt_path: a recogniser's checkpoint, the folder of its run, or `last` of the run that `config` or `name` name.
        output: the folder to write, by default `export` in the run's; or a file `NAME.onnx`, beside which the others
            are called `NAME.safetensors`, `NAME_mask.png`, `NAME.md` and so on.
        config: the config that the run was trained with, whose name is the run's.
        name: the run's, where it is another than the config's.
        runs: the folder in which `<name>` lies.
        mask: the mask file. By default it is looked for by the checkpoint's hash; a ResNetFSM that was trained under
            several masks needs it.
        title: the model's name in the card; by default the run's.
        licence: licence of the weights: an SPDX identifier, or text.
        trained_on: what the training data are, in words, for the card.
        normalise: embeddings of length 1, whose dot product is the cosine similarity that verification takes; off
            gives what `predict` writes.
        head: also write the classification head, a row per training identity, into model.safetensors.
        opset: version of ONNX's operators.
        mean: subtracted from every channel, on [0,1] pixels; for checkpoints that do not tell.
        std: what every channel is divided by then; for checkpoints that do not tell.
        overwrite: replace an earlier export.

    Returns:
        What `card.json` holds.

    Raises:
        FileExistsError: the output has an export.
        FileNotFoundError: the checkpoint or the mask is not there.
        ValueError: an argument cannot be used, a package is missing, or onnxruntime differs from PyTorch by more
            than 1e-4 of the embedding's length.

    Source: ours; the mask's gate as a constant follows from formula 6 of On Mask-based Image Set Desensitization
    with Recognition Support.
    """
    packages = require()
    for argument, text in (("--title", title), ("--licence", licence), ("--trained_on", trained_on)):
        if text is not None and (not text.strip() or (argument == "--title" and "\n" in text)):
            raise ValueError(f"{argument} {text!r}: give words, or leave it out")
    checkpoint = _checkpoint(ckpt_path, config, name, runs)
    if output is not None:
        check_output(Path(output), named_after(output, _FILES), overwrite)
    model, facts = read_recogniser(checkpoint)
    if model.why_not_exported:
        raise ValueError(
            f"checkpoint {facts.path}: no {facts.model} is exported, for {model.why_not_exported}"
        )
    run = read_run(checkpoint, facts)
    state = read_state(run.folder)[0] if run.folder is not None else "finished"
    if state not in _DONE:
        log.warning(
            "%s: its training is %s, not finished: exported is the checkpoint of step %d, and the card says so.",
            run.folder, state, facts.step,
        )  # fmt: skip
    if output is None:
        if run.folder is None:
            raise ValueError(f"--ckpt_path {checkpoint}: lies in no run's folder; give --output DIR")
        output = str(run.folder / "export")
        check_output(Path(output), named_after(output, _FILES), overwrite)
    target, names = Path(output), named_after(output, _FILES)
    centre, spread = normalisation(facts, run, mean, std)
    model_input = find_model_input(facts, run.config, mask, gated=model.backbone.looks_at_masks)
    own_title = title
    title = title or (run.folder.resolve().name if run.folder is not None else facts.path.stem)
    weights = to_safetensors(model, facts, model_input.description, centre, spread, head)
    with_masks = model_input.each and model.backbone.looks_at_masks
    network = Deployed(
        model.backbone, model_input.mask, model_input.multiplies, centre, spread, normalise, with_masks
    )
    properties = _properties(title, facts, model_input, normalise, packages)
    graph = to_onnx(network, facts.in_channels, facts.input_size, properties, opset)
    agreement = compare(
        graph, _embed(model, model_input.mask, centre, spread, normalise),
        lambda image: image if model_input.mask is None or not model_input.multiplies else image * model_input.mask,
        facts.in_channels, facts.input_size, with_masks,
    )  # fmt: skip
    with (
        files_at_once(target.parent, names) if target.suffix.lower() == ".onnx" else folder_at_once(target)
    ) as folder:
        write_atomically(folder / "model.onnx", graph)
        write_atomically(folder / "model.safetensors", weights)
        if model_input.mask is not None:
            own = ("size", "masks", "mask_hash", "mask_ratio", "mask_ratio_range", "draw")
            description = (
                {}
                if model_input.chosen
                else {k: v for k, v in (model_input.description or {}).items() if k not in own}
            )
            save_mask(model_input.mask, folder / "mask.png", **description, version=version())
        card = _card(title, model, facts, run, model_input, agreement, packages)
        card["training"]["state"] = state
        card |= {
            "licence": licence,
            "trained_on": trained_on,
            "head": head,
            "input": {"name": "image", "channels": facts.in_channels, "size": facts.input_size,
                      "range": [0, 1] if facts.pictures else None, "mean": centre, "std": spread,
                      "pixels": facts.pixels, "masks": with_masks},
            "output": {"name": "embedding", "dimensions": model.backbone.dim, "unit": normalise},
            "opset": opset,
            "command": _command(run, facts, own_title, mask, licence, trained_on, normalise, head, opset),
            "files": {names[file]: _description(folder / file) for file in _WHAT if (folder / file).exists()},
        }  # fmt: skip
        write_atomically(folder / "README.md", renamed(render(card, rows_of(run.metrics)), names))
        write_atomically(folder / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        sizes = {names[file]: (folder / file).stat().st_size for file in _FILES if (folder / file).exists()}
    _print_summary(target, sizes, model_input, agreement, with_masks)
    if unsaid := [f"--{key}" for key in ("licence", "trained_on") if card[key] is None]:
        log.info("The card does not state what you did not: give %s to say it.", " and ".join(unsaid))
    return card


def _embed(model: Recogniser, mask: Tensor | None, mean: float, std: float, unit: bool) -> Any:
    """Embed as PyTorch does, by the model itself: its own FSM, its batch norms not folded."""

    def embed(image: Tensor, own: Tensor | None = None) -> Tensor:
        embedding = model.embed(normalised(image, mean, std), mask if own is None else own)
        return torch.nn.functional.normalize(embedding) if unit else embedding

    return embed


def _properties(
    name: str, facts: CheckpointFacts, model_input: ModelInput, unit: bool, packages: dict[str, str]
) -> dict[str, str]:
    size = f"{facts.input_size} px"
    found = {
        "name": name,
        "model": facts.model,
        "checkpoint_sha256": facts.sha256,
        "input": f"RGB in [0,1], {size}" if facts.pictures else f"{facts.in_channels} channels, no picture, {size}",
        "embedding": "length 1" if unit else "not normalised",
        "desensitizer": model_input.method or "not known",
        "veils": str(model_input.multiplies and model_input.mask is not None).lower(),
        "versions": json.dumps(_versions(packages)),
    }  # fmt: skip
    if model_input.mask is not None:
        found |= {
            "mask_hash": mask_hash(model_input.mask),
            "mask_ratio": f"{mask_ratio(model_input.mask[0]):.6f}",
        }
    return {f"faceveil.{key}": value for key, value in found.items()}


def _card(
    name: str,
    model: Recogniser,
    facts: CheckpointFacts,
    run: TrainedRun,
    model_input: ModelInput,
    agreement: Agreement,
    packages: dict[str, str],
) -> dict[str, Any]:
    mask = None
    if model_input.mask is not None:
        mask = {"hash": mask_hash(model_input.mask), "ratio": mask_ratio(model_input.mask[0]), 
                "in_graph": model_input.multiplies, "chosen": model_input.chosen}  # fmt: skip
    settings = model.hparams
    return {
        "format": "faceveil-export/1",
        "name": name,
        "model": {
            "class": facts.model,
            "backbone": called(settings["backbone"]),
            "width": settings.get("width", WIDTH),
            "insertion_points": list(settings.get("insertion_points", ())),
            "normalise": settings.get("normalise"),
            "partial_until": settings.get("partial_until"),
            "parameters": sum(p.numel() for p in model.backbone.parameters()),
        },
        "checkpoint": {"sha256": facts.sha256, "step": facts.step},
        "desensitizer": model_input.description,
        "mask": mask,
        "training": training_data(facts, run),
        "figures": run.metrics,
        "measured_on": measured_on(run),
        "agreement": {"difference": agreement.difference, "cosine": agreement.cosine,
                      "batches": list(agreement.batches)},
        "versions": _versions(packages),
    }  # fmt: skip


def _versions(packages: dict[str, str]) -> dict[str, str]:
    return {
        "faceveil": version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **packages,
    }


def _command(
    run: TrainedRun,
    facts: CheckpointFacts,
    title: str | None,
    mask: str | None,
    licence: str | None,
    trained_on: str | None,
    normalise: bool,
    head: bool,
    opset: int,
) -> str:
    """Return the command without the folders of this machine."""
    place = facts.path.name if run.folder is None else f"runs/{run.folder.resolve().name}"
    words = ["python", "main.py", "export", "--ckpt_path", place]
    words += [] if title is None else ["--title", title]
    words += [] if mask is None else ["--mask", Path(mask).name]
    words += [] if licence is None else ["--licence", licence]
    words += [] if trained_on is None else ["--trained_on", trained_on]
    words += ([] if normalise else ["--normalise", "false"]) + (["--head"] if head else [])
    return shlex.join(words + ([] if opset == OPSET else ["--opset", str(opset)]))


def _description(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "what": _WHAT[file.name]}


def _print_summary(
    target: Path, sizes: dict[str, int], model_input: ModelInput, agreement: Agreement, masks: bool
) -> None:
    rows: list[list[object]] = [[file, f"{size:,} bytes"] for file, size in sizes.items()]
    if model_input.mask is not None:
        rows.append(
            ["mask ratio, hash", f"{mask_ratio(model_input.mask[0]):.4f}, {mask_hash(model_input.mask)[:12]}"]
        )
    desensitized = model_input.multiplies and model_input.mask is not None
    clean = model_input.description is not None and is_clean(
        alone(model_input.description)
    )  # mixes take faces as they are
    rows += [
        [
            "images are desensitized",
            "by the graph" if desensitized else "no" if clean else "under masks" if masks else "before",
        ],
        ["onnxruntime − PyTorch", f"{agreement.difference:.1e} of the embedding's length"],
        ["lowest cosine", f"{agreement.cosine:.8f}"],
    ]
    print_table(f"exported: {target}", rows, ["what", "value"])


def _checkpoint(ckpt_path: str, config: str | None, name: str | None, runs: str) -> str:
    """Find what `--ckpt_path` means: `last` is the run's that the config or the name tell."""
    if ckpt_path != "last":
        return ckpt_path
    if config is None and name is None:
        raise ValueError(
            "--ckpt_path last: of which run? Give --config NAME.yaml or --name of the run, or a path"
        )
    folder = Path(runs) / (name or find_config(str(config)).stem)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--ckpt_path last: no run in {folder}; train first, or give --name of the run"
        )
    return str(folder)
