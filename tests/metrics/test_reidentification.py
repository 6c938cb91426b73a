from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lightning_app.metrics.reidentification import (
    mate_ranks,
    mean_over_people,
    one_of_each,
    rank_k,
    similarity,
    worst_identities,
)


@pytest.fixture
def faces() -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of 30 people, 4 images each, noisy enough to be confused."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(30, 16, generator=generator)
    labels = torch.arange(30).repeat_interleave(4)
    return people[labels] + 1.2 * torch.randn(120, 16, generator=generator), labels


@pytest.mark.filterwarnings("ignore:The number of unique classes")  # one image each: a gallery
def test_rank_1_is_a_nearest_neighbour(faces: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = faces
    gallery = one_of_each(labels)
    ranks = mate_ranks(embedding, labels, embedding[gallery], labels[gallery])
    probes = torch.arange(120) % 4 != 0
    nearest = KNeighborsClassifier(1, metric="cosine").fit(embedding[gallery], labels[gallery])
    wanted = float((nearest.predict(embedding[probes]) == labels[probes].numpy()).mean())
    assert 0.2 < wanted < 0.95
    assert rank_k(ranks[probes]) == pytest.approx(wanted, abs=1e-12)


def test_ranks_against_a_plain_loop(faces: tuple[torch.Tensor, torch.Tensor]) -> None:
    embedding, labels = (part.numpy() for part in faces)
    gallery = np.array([0, 1, 4, 8, 9, 10, 60])  # some people twice and more, most not at all
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    wanted = []
    for number in range(len(unit)):
        scores = [(float(unit[number] @ unit[g]), labels[g] == labels[number]) for g in gallery]
        mates = [score for score, own in scores if own]
        wanted.append(1 + sum(s >= max(mates) for s, own in scores if not own) if mates else 0)
    assert 0 in wanted
    found = mate_ranks(*faces, faces[0][gallery], faces[1][gallery])
    assert found.tolist() == wanted
    counted = [rank for rank in wanted if rank]
    for k in (1, 2, 5):
        assert rank_k(found, k) == pytest.approx(sum(r <= k for r in counted) / len(counted))


def test_a_judge_who_finds_all_alike_recognises_nobody() -> None:
    same = torch.ones(6, 4)
    labels = torch.arange(6)
    assert rank_k(mate_ranks(same, labels, same, labels)) == 0


def test_unknown_people_are_neither_probes_nor_gallery() -> None:
    labels = torch.tensor([-1, 0, 0, -1])
    assert one_of_each(labels).tolist() == [1]
    ranks = mate_ranks(torch.eye(4), labels, torch.eye(4)[[0, 1]], torch.tensor([-1, 0]))
    assert ranks.tolist()[0] == ranks.tolist()[3] == 0
    assert ranks.tolist()[1] == 1
    assert math.isnan(rank_k(torch.zeros(3, dtype=torch.int64)))


def test_an_empty_gallery_finds_nobody() -> None:
    none = mate_ranks(torch.eye(2), torch.arange(2), torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    assert none.tolist() == [0, 0]


def test_similarity_is_the_cosine(faces: tuple[torch.Tensor, torch.Tensor]) -> None:
    a, b = faces[0][:60], 3 * faces[0][60:]
    x, y = a.double().numpy(), b.double().numpy()
    wanted = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(similarity(a, b).numpy(), wanted, atol=1e-6)
    assert similarity(torch.zeros(1, 4), torch.ones(1, 4)).tolist() == [0.0]


def test_the_worst_person_of_twenty() -> None:
    labels = torch.arange(20).repeat_interleave(3)
    values = labels.double() / 10 + torch.tensor([-0.01, 0.0, 0.01]).repeat(20)
    means = [values[labels == person].mean().item() for person in range(20)]
    assert worst_identities(values, labels) == pytest.approx(np.quantile(means, 0.95, method="higher"))
    assert worst_identities(values, labels, 0.5) == pytest.approx(np.quantile(means, 0.5, method="higher"))
    assert worst_identities(torch.full((60,), math.inf), labels) == math.inf
    assert math.isnan(worst_identities(values, torch.full((60,), -1)))


def test_an_interval_resamples_people_not_images() -> None:
    """30 people, 10 equal images each: the standard error is that of 30 values, not of 300."""
    people = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, labels = people.repeat_interleave(10), torch.arange(30).repeat_interleave(10)
    mean, low, high = mean_over_people(values, labels, bootstrap=4000)
    assert mean == pytest.approx(people.mean().item())
    error = float(people.std(correction=0)) / 30**0.5
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)
    alone = mean_over_people(values, torch.full_like(labels, -1), bootstrap=4000)
    assert (alone[2] - alone[1]) * 10**0.5 == pytest.approx(high - low, rel=0.12)


def test_intervals_of_perfect_pictures_and_of_nothing() -> None:
    labels = torch.arange(4)
    infinite = torch.tensor([30.0, math.inf, 20.0, 10.0])
    assert mean_over_people(infinite, labels) == (math.inf,) * 3
    assert all(math.isnan(v) for v in mean_over_people(torch.empty(0), torch.empty(0, dtype=torch.int64)))
    mean, low, high = mean_over_people(torch.arange(4.0), labels, bootstrap=0)
    assert mean == 1.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_bad_input_is_told() -> None:
    eye, labels = torch.eye(2), torch.arange(2)
    with pytest.raises(ValueError, match=r"a is \[2, 2\] and b \[2, 3\]"):
        similarity(eye, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"probe embeddings are \[2, 2\] and labels \[3\]"):
        mate_ranks(eye, torch.arange(3), eye, labels)
    with pytest.raises(ValueError, match="probes have 2 numbers, the gallery 3"):
        mate_ranks(eye, labels, torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match="k is 0"):
        rank_k(labels, 0)
    with pytest.raises(ValueError, match=r"quantile is 1\.5"):
        worst_identities(torch.zeros(2), labels, 1.5)
    for function in (worst_identities, mean_over_people):
        with pytest.raises(ValueError, match=r"give \[N\] each"):
            function(torch.zeros(3), labels)
