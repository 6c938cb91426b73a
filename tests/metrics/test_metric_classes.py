from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lightning_app.metrics import DSSIM, PSNR, Verification, dssim, psnr, verification
from tests.processes import pool

Pairs = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]
MakePairs = Callable[..., Pairs]


@pytest.mark.parametrize("name", ["paired", "ssim", "verification", "stateful"])
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"lightning_app.metrics.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_image_metrics_average_over_images(images: tuple[Tensor, Tensor]) -> None:
    a, b = images
    similarity, noise = DSSIM(), PSNR()
    mask = (a[:, :1] > 0.4).float()
    for rows in (slice(0, 1), slice(1, 5)):  # uneven batches: a mean of means would differ
        similarity.update(a[rows], b[rows])
        noise.update(a[rows], b[rows], mask[rows])
    assert similarity.compute().item() == pytest.approx(dssim(a, b).mean().item(), abs=1e-6)
    assert noise.compute().item() == pytest.approx(psnr(a, b, mask).mean().item(), rel=1e-5)
    similarity.reset()
    assert similarity(a[:2], b[:2]).item() == pytest.approx(dssim(a, b)[:2].mean().item(), abs=1e-6)


def tensors(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores, same, folds = (torch.from_numpy(values) for values in pairs)
    return scores, same, folds, torch.arange(len(scores))


def test_verification_knows_neither_order_nor_duplicates(pairs: MakePairs) -> None:
    columns = tensors(pairs(200, 4))
    metric = Verification(bootstrap=30, prefix="own", suffix="_s1")
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat((shuffled, shuffled[:7]))
    for rows in torch.split(shuffled, 64):
        metric.update(*(column[rows] for column in columns))
    wanted = verification(*pairs(200, 4), bootstrap=30)
    assert metric.compute() == wanted.as_dict("own", "_s1")
    assert metric.result == wanted
    metric.reset()
    assert metric.result is None


def test_verification_takes_the_lower_of_two_scores_of_a_pair(pairs: MakePairs) -> None:
    scores, same, folds, index = tensors(pairs(200, 4))
    metric = Verification(bootstrap=30)
    metric.update(scores[:5] + 1e-7, same[:5], folds[:5], index[:5])
    metric.update(scores, same, folds, index)
    assert metric.compute() == verification(*pairs(200, 4), bootstrap=30).as_dict()


def test_verification_refuses_one_index_for_two_pairs(pairs: MakePairs) -> None:
    scores, same, folds, index = tensors(pairs(200, 4))
    metric = Verification(bootstrap=0)
    metric.update(scores, same, folds, index)
    metric.update(scores[9:10], ~same[9:10], folds[9:10], index[9:10])
    with pytest.raises(ValueError, match="pair 9 was given twice with another same or fold"):
        metric.compute()


def test_verification_refuses_ragged_columns(pairs: MakePairs) -> None:
    scores, same, folds, index = tensors(pairs(200, 4))
    with pytest.raises(ValueError, match=r"got scores \[200\], same \[200\], folds \[200\], index \[199\]"):
        Verification().update(scores, same, folds, index[1:])


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_verification_without_pairs_says_so() -> None:
    with pytest.raises(ValueError, match="scores is empty; give at least one pair"):
        Verification().compute()


def measure(rank: int, world: int, images: tuple[Tensor, Tensor], pairs: Pairs) -> dict[str, Any]:
    """Feed this rank's share: images uneven, pairs padded with a duplicate, once all pairs on rank 0."""
    a, b = images
    half = -(-len(a) // world)
    mine = slice(rank * half, (rank + 1) * half)
    similarity, noise = DSSIM(), PSNR()
    for i in range(len(a))[mine]:
        similarity.update(a[i : i + 1], b[i : i + 1])
    noise.update(a[mine], b[mine])
    columns = tensors(pairs)
    count = len(columns[0])
    dealt, lonely = Verification(bootstrap=20), Verification(bootstrap=20)
    rows = torch.arange(rank, count + count % world, world) % count  # as a padding sampler deals them
    for part in torch.split(rows, 50):
        dealt.update(*(column[part] for column in columns))
    if rank == 0:
        lonely.update(*columns)
    return {
        "dssim": similarity.compute().item(),
        "psnr": noise.compute().item(),
        "dealt": dealt.compute(),
        "lonely": lonely.compute(),
        "kept": len(torch.cat(dealt.scores)),  # the rank's own pairs are back after the gathering
    }


def drawn_images() -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, 13, 3, 16, 16, generator=torch.Generator().manual_seed(0))  # 13 = 7 + 6
    return a, b


def run_rank(rank: int, store: Path, pairs: Pairs) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = measure(rank, 2, drawn_images(), pairs)
    torch.distributed.destroy_process_group()
    return found


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path, pairs: MakePairs) -> None:
    listed = pairs(201, 4)
    one = measure(0, 1, drawn_images(), listed)
    with pool(2) as processes:
        ranks = [processes.submit(run_rank, rank, tmp_path / "store", listed) for rank in range(2)]
        found = [rank.result() for rank in ranks]
    for two in found:
        assert two["dssim"] == pytest.approx(one["dssim"], abs=1e-6)
        assert two["psnr"] == pytest.approx(one["psnr"], rel=1e-5)
        assert two["dealt"] == one["dealt"]
        assert two["lonely"] == one["lonely"]
        assert two["kept"] == 101


@pytest.mark.parametrize("count", [1, 6, 7, 64, 100])
def test_what_callbacks_report_is_the_plain_mean_bit_for_bit(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    a, b = (torch.rand(count, 3, 12, 12, generator=generator) for _ in range(2))
    for metric, plain in ((DSSIM(sync_on_compute=False), dssim), (PSNR(sync_on_compute=False), psnr)):
        metric.update(a, b)
        assert metric.compute().item() == plain(a, b).mean().item()
