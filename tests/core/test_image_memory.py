"""A memory of what a network made of images: what it asks for again, and when it is full."""

from __future__ import annotations

import torch

from lightning_app.core.image_memory import ImageMemory


def test_a_batch_with_a_new_image_is_made_whole_and_a_full_memory_takes_no_more() -> None:
    asked: list[int] = []

    def make(image: torch.Tensor) -> torch.Tensor:
        asked.append(len(image))
        return (image.flatten(1).sum(1, keepdim=True) * 8).to(torch.uint8)  # one byte

    memory, seen = ImageMemory(most=5), torch.rand(8, 3, 4, 4)
    first = memory.rows(seen[:4], make)
    assert torch.equal(memory.rows(seen[:4].flip(0), make), first.flip(0))
    memory.rows(seen[2:6], make)
    assert asked == [4, 4]
    assert (len(memory), memory.bytes) == (5, 5)
    memory.rows(seen[4:6], make)
    memory.rows(seen[4:5], make)  # the fifth image found room
    assert asked == [4, 4, 2]


def test_where_a_batch_need_not_be_whole_what_is_new_alone_is_made() -> None:
    asked: list[int] = []

    def make(image: torch.Tensor) -> torch.Tensor:
        asked.append(len(image))
        return image.flatten(1).cumsum(1)

    memory, seen = ImageMemory(whole_batches=False), torch.rand(8, 3, 4, 4)
    memory.rows(seen[:4], make)
    for part in ([2, 5, 0, 6, 5], [6, 5], [7]):
        assert torch.equal(memory.rows(seen[part], make), seen[part].flatten(1).cumsum(1))
    mirrored = seen[:2].flip(-1)
    assert torch.equal(memory.rows(mirrored, make), mirrored.flatten(1).cumsum(1))
    assert asked == [4, 3, 1, 2]
    full = ImageMemory(most=0, whole_batches=False)
    for _ in range(2):
        assert torch.equal(full.rows(seen[:2], make), seen[:2].flatten(1).cumsum(1))
