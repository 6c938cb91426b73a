"""The search for one mask from beginning to end: template, candidates, the best of them, and what is left of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.face import FaceDataModule
from lightning_app.core.files import is_plain_name
from lightning_app.distributed.precision import computes_in
from lightning_app.masks import BrushRange, MaskScorer, search
from lightning_app.masks.freeform import check_ratio
from lightning_app.masks.saliency.explain import Explainer
from lightning_app.masks.saliency.template import check_threshold
from lightning_app.masks.search.objective import check_gamma
from lightning_app.masks.search.run import Strategy
from lightning_app.models.base import Recogniser
from lightning_app.models.checkpoints import CheckpointFacts, read_recogniser
from lightning_app.runs.atomic import recover
from lightning_app.studies.faces import check_trained_on, refuse_released, scored_faces
from lightning_app.studies.search_mask.finals import FinalsSource, check_finals, check_held_out, play_finals
from lightning_app.studies.search_mask.pool import GivenMasks, given_pool, masker_mask
from lightning_app.studies.search_mask.record import SearchRecord, write_search
from lightning_app.studies.search_mask.report import SearchProgress, save_template
from lightning_app.studies.search_mask.template import AskedTemplate, make_template

log = logging.getLogger("faceveil")
_JOURNAL = "search.jsonl"
Known = tuple[Recogniser, CheckpointFacts]


@dataclass(frozen=True)
class SearchedMask:
    """What a search found.

    Attributes:
        folder: of the mask.
        metrics: of it, as `metrics.json` has them.
        identities: that the scorer tells apart.
    """

    folder: Path
    metrics: dict[str, Any]
    identities: int


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
    finalists: int = 0,
    finalist_images: int = 4096,
    finalist_lr: float = 0.01,
    seed: int = 0,
    batch_size: int = 64,
    bf16: bool | None = None,
    overwrite: bool = False,
) -> SearchedMask:
    """Find the mask that hides most at the least cost in recognition, and write it to `<output>/<name>/`.

    The mean saliency map of K faces gives the critical template S (formula 4); free-form candidates ∪ S
    (formula 5) with a mask ratio in the asked range are scored by F − γ·P (formula 3) with a trained model.
    A search that was killed goes on where it was when the command is given again.

    Args:
        checkpoint: checkpoint of the clean model (`fit --config …`, on faces that were not desensitized).
        data: the image set, as in the config that the checkpoint was trained with: same val_share and seed.
        name: name of the folder that the mask gets.
        output: the folder of masks.
        scorer: another checkpoint to score candidates with, one trained under random masks; saliency always
            comes from `checkpoint`.
        ratio: lowest and highest mask ratio, in [0,1], of a drawn candidate with its template.
        gamma: γ, in nats of cross-entropy per unit of mask ratio.
        ebp: off leaves the template away, for the ablation (Table 6); by default on, but off with `given`.
        threshold: T of formula 4, in [0,1): what is above it in the mean saliency map stays visible.
        faces: K of formula 4, training images that the mean saliency map is made of.
        sigma: width of the Gaussian that smooths saliency maps after enlarging, in pixels; 0 does not smooth.
        explainer: class path of what makes the saliency maps: ours, or any captum `Attribution` such as
            `captum.attr.IntegratedGradients`, `captum.attr.LayerGradCam` or `captum.attr.Occlusion`.
        explainer_args: the explainer's arguments beyond the model, such as `{layer: layer1}`; a captum layer is given
            by name, such as `{layer: backbone.layer4}`.
        attribute_args: further arguments of its `attribute`; lists become tuples, such as
            `{sliding_window_shapes: [3, 15, 15]}`.
        target: target of the excitation: the face's own `identity`, or the embedding of a `mate`, another image of
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
        finalists: how many of the best candidates are judged by training in the end, see
            `lightning_app.masks.search.finals`; 0 chooses by F − γ·P alone.
        finalist_images: how many training images that takes, drawn by the seed, or all where there are fewer.
        finalist_lr: learning rate that it begins with.
        seed: seed of faces, images and candidates.
        batch_size: images per step.
        bf16: score in bfloat16, twice as fast where the processor has it, which by default decides; reported metrics
            are in float32. A search goes on only with what it began with.
        overwrite: replace a mask that is there. Scores of a search of the same images, scorer, template and seed are
            kept, so that one that was killed goes on and another `gamma` needs few new ones.

    Returns:
        The folder, and the metrics of the mask that was found.

    Raises:
        FileExistsError: the folder has a mask already and overwrite is off.
        FileNotFoundError: checkpoint, faces or masks are not there.
        ValueError: an argument is out of range, or no mask of the asked ratio can be; the message says why.
    """
    started = time.monotonic()
    folder = _free_folder(name, output, overwrite)
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
    check_finals(finalists, finalist_images, finalist_lr)
    refuse_released(data, "search-mask")
    ebp = given is None if ebp is None else ebp
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = _takes_bf16(bf16, device)
    (model, facts), (judge, judge_facts) = _recognisers(checkpoint, scorer, data, device)
    if finalists:
        check_held_out(data)
    learned = None if from_masker is None else masker_mask(from_masker, data, ratio[0])
    asked = AskedTemplate(
        threshold, faces, sigma, target, Explainer(explainer, explainer_args or {}, attribute_args or {})
    )
    with SearchProgress() as watch:
        template = make_template(model, data, asked, batch_size, seed, device, watch.faces) if ebp else None
        pixels, labels = scored_faces(data, images, seed)
        settings: dict[str, Any] = {
            "mean": data.mean, "std": data.std, "batch_size": batch_size, "device": device,
        }  # fmt: skip
        fast = MaskScorer(judge, pixels, labels, bf16=low, **settings)
        pool = None if given is None else given_pool(given, data.size, seed)
        folder.mkdir(parents=True, exist_ok=True)
        # shown at once where there is no earlier result: the search may find the template too large
        if template is not None and not (folder / "mask.png").exists():
            save_template(folder, template.template, **asked.facts)
        found = search(
            fast, data.size, ratio if pool is None else None,
            template=None if template is None else template.template.mask, gamma=gamma, strategy=strategy,
            candidates=candidates if pool is None else None, brushes=brushes, seed=seed,
            min_images=min(min_images, len(labels)), journal=folder / _JOURNAL, replace=overwrite,
            progress=watch, given=None if pool is None else pool.masks, extra=None if learned is None else learned.mask,
        )  # fmt: skip
        last = None
        if finalists:
            source = FinalsSource(judge, data, finalist_images, finalist_lr, low, seed, device)
            last = play_finals(
                source, (pixels, labels), found, finalists, gamma, folder, overwrite, watch.finals
            )
            found = last.found
    record = SearchRecord(
        found, template, learned, pool, ratio, gamma, strategy, brushes, seed, len(labels),
        min(min_images, len(labels)), data.held_out is not None, low, facts.sha256, judge_facts.sha256, last,
    )  # fmt: skip
    metrics = record.metrics(MaskScorer(judge, pixels, labels, bf16=False, **settings))
    write_search(folder, record, metrics, record.how_made(time.monotonic() - started))
    if learned is not None:
        log.info(
            "The masker's mask is candidate %(number)d: F %(F).4f on %(images)d images, mask ratio %(P).3f, place "
            "%(place)d of %(of)d.", record.of_masker,
        )  # fmt: skip
    return SearchedMask(folder, metrics, data.num_classes)


def _free_folder(name: str, output: str, overwrite: bool) -> Path:
    """Return the folder of the mask, without one in it unless that is to be replaced."""
    if not is_plain_name(name):
        raise ValueError(f"name {name!r}: give a plain name, the folder is {output}/<name>")
    folder = Path(output) / name
    recover(folder)
    if (folder / "mask.png").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a mask already: give --overwrite, or another --name")
    return folder


def _takes_bf16(asked: bool | None, device: torch.device) -> bool:
    """Return whether candidates are scored in bfloat16; warn where it is asked for and only emulated."""
    low = computes_in(torch.bfloat16, device) if asked is None else asked
    if low and not computes_in(torch.bfloat16, device):
        log.warning(
            "bf16 true: this device has no bfloat16, torch emulates it, several times slower: leave it out"
        )
    return low


def _recognisers(
    checkpoint: str, scorer: str | None, data: FaceDataModule, device: torch.device
) -> tuple[Known, Known]:
    """Read the clean model and the scorer, which may be the same; set the data up, which must be theirs."""
    clean = read_recogniser(checkpoint)
    clean[0].eval().to(device)
    judge = clean if scorer is None else read_recogniser(scorer)
    data.setup("fit")
    for path, known in {checkpoint: clean[1], scorer or checkpoint: judge[1]}.items():
        check_trained_on(path, known, data, clean=path == checkpoint)
    return clean, judge
