"""`python main.py search-mask`: find one mask for the whole aligned set (Algorithm 1) and write it with its facts."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.face import FaceDataModule
from lightning_app.commands.faces import drawn_numbers, load_faces, mates_of, refuse_released
from lightning_app.commands.parser import CommandParser, add_trust, command_parser, parsed
from lightning_app.commands.search_report import SearchProgress, print_search, save_picture, save_template
from lightning_app.core.files import is_plain_name
from lightning_app.core.version import version
from lightning_app.desensitize import LearnedMask
from lightning_app.distributed.precision import computes_in
from lightning_app.masks import (
    BrushRange,
    MaskLevels,
    MaskScorer,
    mask_ratio,
    save_mask,
    search,
    write_candidates,
)
from lightning_app.masks.freeform import check_ratio
from lightning_app.masks.levels import Hidden
from lightning_app.masks.saliency.explain import Explainer, find_template
from lightning_app.masks.saliency.template import check_threshold
from lightning_app.masks.search.objective import check_gamma
from lightning_app.masks.search.run import Strategy
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.models.known import trusting
from lightning_app.report import write_metrics
from lightning_app.runs.atomic import files_at_once, recover

log = logging.getLogger("faceveil")
# salts of the draws of images: those explained, their mates, those scored on; of the masks of a given set
_EXPLAINED, _MATES, _SCORED, _GIVEN = 310, 311, 312, 313
_JOURNAL = "search.jsonl"
_RESULT = (
    "mask.png",
    "mask.json",
    "candidates.csv",
    "metrics.json",
    "search.png",
    "saliency.png",
    "template.png",
    "template.json",
)


@dataclass(frozen=True)
class GivenMasks:
    """A folder of masks to search in, in place of drawn candidates (paper, 4.2, Table 2).

    Attributes:
        folder: PNG masks of any size, at any depth, see `MaskLevels`.
        level: search only masks with low < mask ratio <= high; None takes them all.
        hidden: the colour that hides, `white` in NVIDIA's test masks.
        count: how many, drawn from the level by the seed; None takes all.
    """

    folder: str
    level: tuple[float, float] | None = None
    hidden: Hidden = "white"
    count: int | None = 2000


def search_mask(
    checkpoint: str,
    data: FaceDataModule,
    name: str = "searched",
    output: str = "masks",
    scorer: str | None = None,
    ratio: tuple[float, float] = (0.76, 0.80),
    gamma: float = 1.0,
    ebp: bool | None = None,
    threshold: float = 0.5,
    faces: int = 256,
    sigma: float = 3.0,
    explainer: str = "lightning_app.masks.ExcitationBackprop",
    explainer_args: dict[str, Any] | None = None,
    attribute_args: dict[str, Any] | None = None,
    target: Literal["identity", "mate"] = "identity",
    strategy: Strategy = "halving",
    candidates: int = 512,
    images: int | None = 1024,
    min_images: int = 16,
    brushes: BrushRange | None = None,
    given: GivenMasks | None = None,
    from_masker: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    bf16: bool | None = None,
    overwrite: bool = False,
) -> None:
    """Find the mask that hides most at the least cost in recognition, and write it to `<output>/<name>/`.

    The mean saliency map of K faces gives the critical template S (formula 4); free-form candidates ∪ S
    (formula 5) with a mask ratio in the asked range are scored by F − γ·P (formula 3) with a trained model.
    A search that was killed goes on where it was when the command is given again.

    Args:
        checkpoint: of the clean model (`fit --config …`, on faces that were not desensitized).
        data: the image set, as in the config that the checkpoint was trained with: same val_share and seed.
        name: of the folder that the mask gets.
        output: the folder of masks.
        scorer: another checkpoint to score candidates with, one trained under random masks; saliency always
            comes from `checkpoint`.
        ratio: lowest and highest mask ratio, in [0,1], of a drawn candidate with its template.
        gamma: γ, in nats of cross-entropy per unit of mask ratio.
        ebp: off leaves the template away, for the ablation (Table 6); by default on, but off with `given`.
        threshold: T of formula 4, in [0,1): what is above it in the mean saliency map stays visible.
        faces: K of formula 4, training images that the mean saliency map is made of.
        sigma: of the Gaussian that smooths saliency maps after enlarging, in pixels; 0 does not smooth.
        explainer: class path of what makes the saliency maps: ours, or any captum `Attribution` such as
            `captum.attr.IntegratedGradients`, `captum.attr.LayerGradCam` or `captum.attr.Occlusion`.
        explainer_args: its arguments beyond the model, such as `{layer: layer1}`; a captum layer is given by
            name, such as `{layer: backbone.layer4}`.
        attribute_args: further arguments of its `attribute`; lists become tuples, such as
            `{sliding_window_shapes: [3, 15, 15]}`.
        target: whose excitation: the face's own `identity`, or the embedding of a `mate`, another image of
            the same identity.
        strategy: `random` scores each candidate on all images (the paper's); `halving` all on few images and
            the better half on twice as many, again and again; `evolve` mutates and crosses the best.
        candidates: n of Algorithm 1.
        images: how many held-out images candidates are scored on, drawn by the seed; null takes all.
        min_images: what `halving` starts with.
        brushes: ranges of the five hyper-parameters that each candidate draws its own from.
        given: search among the masks of a folder (`--given.folder masks/levels --given.level "[0.4, 0.5]"`, also
            `.hidden` and `.count`), with no template unless `--ebp true` is given too; `ratio` and `candidates`
            are not looked at then, and `brushes` refused.
        from_masker: checkpoint (or run folder) of an `AdversarialMasker` whose population mask, of the lowest ratio
            asked, joins the drawn candidates as it is, without the template. Not with `evolve`, nor with `given`.
        seed: of faces, images and candidates.
        batch_size: images per step.
        bf16: score in bfloat16, twice as fast where the processor has it, which by default decides; reported figures
            are in float32. A search goes on only with what it began with.
        overwrite: replace a mask that is there. Scores of a search of the same images, scorer, template and seed are
            kept, so that one that was killed goes on and another `gamma` needs few new ones.

    Raises:
        FileExistsError: the folder has a mask already and overwrite is off.
        FileNotFoundError: checkpoint, faces or masks are not there.
        ValueError: an argument is out of range, or no mask of the asked ratio can be; the message says why.
    """
    started = time.monotonic()
    if not is_plain_name(name):
        raise ValueError(f"name {name!r}: give a plain name, the folder is {output}/<name>")
    folder = Path(output) / name
    recover(folder)
    if (folder / "mask.png").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a mask already: give --overwrite, or another --name")
    # at once, not after the saliency maps of K faces
    check_gamma(gamma)
    check_threshold(threshold)
    if from_masker is not None and (given is not None or strategy == "evolve"):
        other = "--given" if given is not None else "--strategy evolve"
        raise ValueError(
            f"from_masker: joins drawn candidates, which {other} has not; leave one of the two out"
        )
    if given is None:
        check_ratio(ratio)
    refuse_released(data, "search-mask")
    ebp = given is None if ebp is None else ebp
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = computes_in(torch.bfloat16, device) if bf16 is None else bf16
    if low and not computes_in(torch.bfloat16, device):
        log.warning(
            "bf16 true: this device has no bfloat16, torch emulates it, several times slower: leave it out"
        )
    model, facts = read_recogniser(checkpoint)
    model.eval().to(device)
    judge, judge_facts = (model, facts) if scorer is None else read_recogniser(scorer)
    data.setup("fit")
    for path, known in {checkpoint: facts, scorer or checkpoint: judge_facts}.items():
        check_checkpoint(path, known, data, clean=path == checkpoint)
    assert data.training is not None
    held = data.held_out or data.training

    with SearchProgress() as watch:
        template, mates_used = None, 0
        if ebp:
            method = Explainer(explainer, explainer_args or {}, attribute_args or {})
            chosen = drawn_numbers(len(data.training), faces, _EXPLAINED, seed, "faces: K")
            pixels, labels = load_faces(data.training, chosen)
            mates = mates_of(data.training.labels, chosen, _MATES, seed) if target == "mate" else None
            mates_used = 0 if mates is None else len(set(mates.tolist()) - set(chosen.tolist()))
            template = find_template(
                model, pixels, labels, method, threshold=threshold, sigma=sigma,
                mates=None if mates is None else load_faces(data.training, mates)[0], mean=data.mean,
                std=data.std, batch_size=min(batch_size, 32), seed=seed, device=device, progress=watch.faces,
            )  # fmt: skip
        count = len(held) if images is None else min(images, len(held))
        pixels, labels = load_faces(held, drawn_numbers(len(held), count, _SCORED, seed, "images"))
        settings: dict[str, Any] = {
            "mean": data.mean, "std": data.std, "batch_size": batch_size, "device": device,
        }  # fmt: skip
        fast = MaskScorer(judge, pixels, labels, bf16=low, **settings)
        learned = None if from_masker is None else _learned(from_masker, data, ratio[0])
        files, pool = ([], None) if given is None else _pool(given, data.size, seed)
        folder.mkdir(parents=True, exist_ok=True)
        description = {"T": threshold, "K": faces, "sigma": sigma, "target": target}
        # shown at once where there is no earlier result: the search may find the template too large
        if template is not None and not (folder / "mask.png").exists():
            save_template(folder, template, **description)
        found = search(
            fast, data.size, ratio if given is None else None,
            template=None if template is None else template.mask, gamma=gamma, strategy=strategy,
            candidates=candidates if given is None else None, brushes=brushes, seed=seed,
            min_images=min(min_images, len(labels)), journal=folder / _JOURNAL, replace=overwrite,
            progress=watch, given=pool, extra=None if learned is None else learned.mask,
        )  # fmt: skip
    exact = MaskScorer(judge, pixels, labels, bf16=False, **settings)
    loss, share = exact.score(found.mask), mask_ratio(found.mask)
    assert isinstance(share, float)
    report: dict[str, Any] = {
        "F": loss, "P": share, "objective": loss - gamma * share, "gamma": gamma,
        "F_clean": exact.score(torch.ones_like(found.mask)), "strategy": strategy, "seed": seed,
        "candidates": len({row.number for row in found.rows}), "number": found.best.number,
        "images": len(labels), "held_out": data.held_out is not None, "passes": found.asked,
        "passes_made": found.passes, "bf16": low,
        "checkpoint": facts.sha256, "scorer": judge_facts.sha256, "ebp": ebp,
    }  # fmt: skip
    if strategy == "halving":
        report["min_images"] = min(min_images, len(labels))
    if template is not None:
        report |= {
            "T": threshold, "K": faces, "sigma": sigma, "target": target, "explainer": template.explainer,
            "template_ratio": float(1 - template.mask.mean()), "template_hash": template.hash,
            "constant_maps": template.constant,
        }  # fmt: skip
    made: dict[str, Any] = {
        "method": "search", "version": version(), "time_s": round(time.monotonic() - started, 1),
        "template_from_private_faces": 0 if template is None else faces + mates_used,
    }  # fmt: skip
    if template is not None:
        made |= {"explainer_args": explainer_args or {}, "attribute_args": attribute_args or {}}
    if found.candidate is not None:
        made["candidate"] = found.candidate.to_dict()
    if learned is not None:
        made["from_masker"] = learned.describe() | {
            "number": max(row.number for row in found.rows),
            "found": found.candidate is None,
        }
    if given is not None:
        folder_name = Path(given.folder).resolve().name  # no path: the mask leaves the house
        made["given"] = {
            "folder": folder_name, "level": given.level and list(given.level), "file": files[found.best.number],
        }  # fmt: skip
    else:
        made |= {"ratio": list(ratio), "brushes": asdict(brushes or BrushRange())}
    # an earlier result goes only now that there is a new one; mask.png comes last: its presence means a finished search
    with files_at_once(folder, {file: file for file in _RESULT}) as work:
        if template is not None:
            save_template(work, template, **description)
        write_candidates(found.rows, work / "candidates.csv")
        save_picture(work, found, template, report, folder.name)
        write_metrics(work / "metrics.json", {f"search/{key}": value for key, value in report.items()})
        save_mask(found.mask, work / "mask.png", **report, **made)
    print_search(folder, report, data.num_classes)


def check_checkpoint(path: str, facts: CheckpointFacts, data: FaceDataModule, clean: bool) -> None:
    """Refuse a checkpoint of other images or identities; warn where its figures would say little.

    Args:
        path: as the user gave it.
        facts: what the checkpoint says of itself.
        data: the image set, set up for `fit`.
        clean: whether it should have been trained on clean faces.

    Raises:
        ValueError: its images have another size or were normalised otherwise, or its identities another number; or
            it was trained on other images than these, or held out others (see `FaceDataModule.check_split`).
    """
    if facts.input_size != data.size:
        raise ValueError(
            f"checkpoint {path}: trained on {facts.input_size} px images, these have {data.size} px: give the data "
            "config it was trained with"
        )
    known = facts.data.get("num_classes")
    if known is not None and known != data.num_classes:
        raise ValueError(
            f"checkpoint {path}: knows {known} identities, this set has {data.num_classes}: give the data config it "
            "was trained with"
        )
    facts.check_normalised(data.mean, data.std)
    if clean and facts.clean is False:
        log.warning(
            "%s was trained on desensitized faces: its saliency shows what the desensitizer left.", path
        )
    split = facts.data.get("split") or {}
    if data.held_out is None:
        log.warning(
            "data.val_share holds no image out: candidates are scored on images that the model was trained on."
        )
    elif "hash" not in split:
        log.warning(
            "%s does not tell which images it held out: some of these may be its training images.", path
        )
    if "hash" in split:
        data.check_split(split, f"checkpoint {path}")


def _learned(checkpoint: str, data: FaceDataModule, hidden: float) -> LearnedMask:
    """Read the population mask of a masker, which must not have learnt from the images that score candidates."""
    made = LearnedMask(checkpoint, share=1 - hidden)
    made.prepare((data.size, data.size))
    split = made.data.get("split") or {}
    if "hash" in split:
        data.check_split(split, f"from_masker {checkpoint}")
    else:
        log.warning(
            "%s does not tell which images its masker held out: it may have learnt from these.", checkpoint
        )
    return made


def _pool(given: GivenMasks, size: int, seed: int) -> tuple[list[str], Tensor]:
    levels = None if given.level is None else [given.level]
    found = MaskLevels(given.folder, size, levels=levels, hidden=given.hidden)
    count = len(found) if given.count is None else min(given.count, len(found))
    numbers = drawn_numbers(len(found), count, _GIVEN, seed, "given.count").sort().values
    return [found.files[number] for number in numbers.tolist()], found.masks(numbers)


def build_parser() -> CommandParser:
    """Return the parser of `search-mask`; its help comes from `search_mask`'s docstring."""
    parser = command_parser(search_mask)
    parser.add_argument("--ratio", type=float, nargs=2, default=[0.76, 0.80], metavar=("LOW", "HIGH"),
                        help="lowest and highest mask ratio, in [0,1].")  # fmt: skip
    parser.add_argument("--overwrite", type=bool, nargs="?", const=True, default=False,
                        help="replace a mask that is there.")  # fmt: skip
    add_trust(parser)
    parser.add_function_arguments(search_mask, skip={"ratio", "overwrite"})
    return parser


def run(args: list[str]) -> None:
    """Run `search-mask` with the command line's arguments after the subcommand's name.

    Args:
        args: such as `["--config", "search_mask.yaml", "--seed", "1"]`.

    Raises:
        ValueError, OSError: see `search_mask`.
    """
    values = parsed(build_parser(), args)
    low, high = values.pop("ratio")
    with trusting(values.pop("trust")):
        search_mask(ratio=(low, high), **values)
