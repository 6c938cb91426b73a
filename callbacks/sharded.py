"""Embed every image of a verification set once, dealt to the ranks without padding, and gather what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.face import FaceDataModule
from datamodules.readers.base import FaceReader, whole
from datamodules.resumable import ResumableLoader, ignore_signals
from datamodules.verification.readers import PairList
from lightning_app.core.batch import Batch
from lightning_app.desensitize import Desensitizer
from lightning_app.distributed.ranks import share_buffers
from lightning_app.evaluation.embed import Embedder, Shown, embed_images, rank_share
from lightning_app.networks import Backbone


@dataclass(frozen=True)
class ImageState:
    """One way to embed an image.

    Attributes:
        desensitized: desensitized, or clean and then with no mask.
        off: insertion points whose gates are left out.
    """

    desensitized: bool
    off: tuple[str, ...] = ()


@torch.no_grad()
def embed_sharded(
    trainer: L.Trainer,
    pl_module: L.LightningModule,
    data: FaceDataModule,
    reader: FaceReader,
    ways: Mapping[str, ImageState],
    *,
    batch_size: int | None = None,
    flip: bool = False,
    title: str = "Verifying",
    watch: Callable[[Batch], None] | None = None,
    by: Desensitizer | None = None,
) -> dict[str, Tensor]:
    """Embed every image of a reader once per way; each is read once, and desensitized once for all ways.

    Every rank calls this. It reads its share with no collective in the loop; then all gather.

    Args:
        trainer: whose ranks, device and precision.
        pl_module: a recogniser, unwrapped.
        data: prepares the images: desensitizes and normalises them.
        reader: of the images.
        ways: name → way.
        batch_size: images per step; the DataModule's by default.
        flip: add the embedding of the mirrored image.
        title: of the bar that shows how far it is.
        by: another desensitizer than the DataModule's.
        watch: is shown every batch of desensitized images, with the network in eval mode and the run's precision.

    Returns:
        Name → `[N,D]`, normalised, in the reader's order, on the CPU.
    """
    count = len(reader)
    steps = rank_share(count, batch_size or data.batch_size, trainer.global_rank, trainer.world_size)
    mine = torch.cat(steps) if steps else torch.empty(0, dtype=torch.int64)
    loader = ResumableLoader(
        reader, batch_sampler=[rows.tolist() for rows in steps], collate_fn=whole, num_workers=data.num_workers,
        worker_init_fn=ignore_signals,
    )  # fmt: skip
    device = trainer.strategy.root_device
    precision = trainer.precision_plugin.val_step_context
    embedders_of = {
        desensitized: {
            name: _embedder(pl_module, way.off)
            for name, way in ways.items()
            if way.desensitized == desensitized
        }
        for desensitized in dict.fromkeys(way.desensitized for way in ways.values())
    }

    def states(batch: Batch) -> Iterator[Shown]:
        images, index = batch["image"].to(device), batch["index"].to(device)
        for desensitized, embedders in embedders_of.items():
            own: Batch = {}
            if "mask_bits" in batch:
                own = {
                    "mask_bits": batch["mask_bits"].to(device),
                    "mask_index": batch["mask_index"].to(device),
                }
            ready = data.prepare(
                images, index, desensitize=desensitized, by=by, stored=reader.stored, own=own, reader=reader
            )
            if watch is not None and desensitized:
                with precision():
                    watch(ready)
            mirrored = None
            if (
                flip and desensitized and not reader.released and not (by or data.desensitizer).flips
            ):  # then the raw image is mirrored
                other = data.prepare(images.flip(-1), index, desensitize=True, by=by, reader=reader)
                mirrored = Shown(other["image"], embedders, other["mask"], other["mask_index"])
            yield Shown(ready["image"], embedders, ready["mask"], ready["mask_index"], mirrored)

    share_buffers(pl_module)
    was_training = pl_module.training
    pl_module.eval()
    with _ticking(trainer, title, len(mine)) as advance:
        found = embed_images(map(states, loader), flip=flip, precision=precision, tick=advance)
    pl_module.train(was_training)
    # a rank without images learns from the others how long an embedding is
    width = max((own.shape[1] for own in found.values()), default=0)
    width = int(trainer.strategy.reduce(torch.tensor(width, device=device), reduce_op="max"))
    gathered = {}
    for name in ways:
        own = found.get(name, torch.empty(0, width, device=device))
        gathered[name] = F.normalize(_gathered(trainer, own, mine.to(device), count)).cpu()
    return gathered


def cosine_scores(first: Tensor, second: Tensor, pairs: PairList) -> npt.NDArray[np.float64]:
    """Return the cosine similarity of every pair, `[P]`.

    Args:
        first: `[N,D]`, normalised, the embeddings of the pairs' first images.
        second: `[N,D]` of their second images.
        pairs: positions in both.
    """
    scores: npt.NDArray[np.float64] = (first[pairs.a] * second[pairs.b]).sum(1).double().numpy()
    return scores


def datamodule_of(trainer: L.Trainer, asker: str) -> FaceDataModule:
    """Return a run's DataModule.

    Args:
        trainer: of the run.
        asker: the callback's name, for the message.

    Raises:
        TypeError: it is no FaceDataModule.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, FaceDataModule):
        raise TypeError(f"{asker} needs a FaceDataModule: it owns the desensitizer and the images' size")
    return data


def is_due(trainer: L.Trainer, every_n_epochs: int) -> bool:
    """Return whether to measure now: in `fit` every so many epochs and after the last, else always.

    Args:
        trainer: in its validation.
        every_n_epochs: how often within `fit`.
    """
    if trainer.sanity_checking:
        return False
    done, epochs = trainer.current_epoch + 1, trainer.max_epochs
    last = epochs is not None and 0 < epochs <= done
    return trainer.state.fn != "fit" or done % every_n_epochs == 0 or last


def _embedder(pl_module: L.LightningModule, off: tuple[str, ...]) -> Embedder:
    """Make of a recogniser what embeds images, with the gates at some insertion points left out."""
    embed: Embedder = pl_module.embed  # type: ignore[assignment]  # what recognisers offer beside forward
    if not off:
        return embed
    backbone = pl_module.backbone
    assert isinstance(backbone, Backbone)

    def without(image: Tensor, mask: Tensor | None, mask_index: Tensor | None) -> Tensor:
        with backbone.gates_off(*off):
            return embed(image, mask, mask_index)

    return without


def _gathered(trainer: L.Trainer, own: Tensor, ids: Tensor, count: int) -> Tensor:
    """Bring the ranks' embeddings into the images' order: `[n,D]` with ids `[n]` → `[count,D]`."""
    if trainer.world_size == 1:
        return own
    longest = -(-count // trainer.world_size)
    padded = F.pad(own, (0, 0, 0, longest - len(own)))
    numbers = F.pad(ids, (0, longest - len(ids)), value=-1)
    all_ids = trainer.strategy.all_gather(numbers).flatten()
    every = trainer.strategy.all_gather(padded).flatten(0, 1)
    real = all_ids >= 0
    order = torch.argsort(all_ids[real])
    assert torch.equal(all_ids[real][order], torch.arange(count, device=ids.device))
    return every[real][order]


@contextmanager
def _ticking(trainer: L.Trainer, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a task in the trainer's own rich progress bar while it lasts; nothing where there is none."""
    progress: Any = getattr(trainer.progress_bar_callback, "progress", None)
    if progress is None or not hasattr(progress, "add_task"):
        yield lambda n: None
        return
    task = progress.add_task(f"[white]{title}", total=total)

    def advance(n: int) -> None:
        progress.update(task, advance=n, refresh=True)

    yield advance
    progress.update(task, visible=False)
