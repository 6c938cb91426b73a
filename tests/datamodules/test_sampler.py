import pytest

from datamodules.sampler import EpochBatchSampler


def test_order_is_a_function_of_seed_and_epoch() -> None:
    a, b = EpochBatchSampler(50, 8, seed=3), EpochBatchSampler(50, 8, seed=3)
    first = list(a)
    assert first == list(b) == list(a)
    b.set_epoch(1)
    assert list(b) != first
    assert list(EpochBatchSampler(50, 8, seed=4)) != first


def test_every_image_at_most_once_and_only_the_incomplete_batch_is_dropped() -> None:
    batches = list(EpochBatchSampler(50, 8))
    seen = [i for batch in batches for i in batch]
    assert [len(b) for b in batches] == [8] * 6
    assert len(set(seen)) == len(seen) == 48
    kept = list(EpochBatchSampler(50, 8, drop_last=False))
    assert sorted(i for batch in kept for i in batch) == list(range(50))
    assert len(kept) == len(EpochBatchSampler(50, 8, drop_last=False)) == 7


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_global_batch_in_the_order_of_one_process(world: int) -> None:
    one = list(EpochBatchSampler(100, 12, seed=1))
    ranks = [list(EpochBatchSampler(100, 12 // world, seed=1, rank=r, world=world)) for r in range(world)]
    for step, batch in enumerate(one):
        assert [i for rank in ranks for i in rank[step]] == batch


def test_uneven_rest_is_dealt_without_padding() -> None:
    ranks = [
        list(EpochBatchSampler(13, 4, shuffle=False, drop_last=False, rank=r, world=2)) for r in range(2)
    ]
    assert ranks == [[[0, 1, 2, 3], [8, 9, 10, 11]], [[4, 5, 6, 7], [12]]]


def test_a_resumed_epoch_starts_late_once() -> None:
    sampler = EpochBatchSampler(50, 8, seed=3)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.global_batch_size=128 is more than the 100 training images"):
        EpochBatchSampler(100, 64, world=2)
