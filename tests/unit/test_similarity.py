"""Cosine similarity against its definition."""

import numpy as np
import pytest

from serving import similarity


def test_the_most_similar_come_first(rng):
    query, vectors = rng.normal(size=8), rng.normal(size=(50, 8))
    cosines = [float(query @ vector / np.linalg.norm(query) / np.linalg.norm(vector)) for vector in vectors]
    ranked = similarity.most_similar(query, vectors, 7)
    assert [image.position for image in ranked] == sorted(range(50), key=lambda index: -cosines[index])[:7]
    np.testing.assert_allclose([image.similarity for image in ranked], sorted(cosines, reverse=True)[:7], rtol=1e-9)


def test_length_does_not_matter_and_a_cosine_is_at_most_one(rng):
    vector = rng.normal(size=300).astype(np.float32)
    same, opposite = similarity.most_similar(vector, [vector * 3, -vector], 2)
    assert same == (0, pytest.approx(1.0)) and same.similarity <= 1.0
    assert opposite == (1, pytest.approx(-1.0)) and opposite.similarity >= -1.0


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 9])
def test_ties_keep_their_order(top_k):
    vectors = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    ranked = similarity.most_similar(np.array([1.0, 0.0]), vectors, top_k)
    assert [image.position for image in ranked] == [1, 2, 3, 0][:top_k]


def test_no_vectors():
    assert similarity.most_similar(np.ones(3), [], 5) == []


@pytest.mark.parametrize(
    ("query", "vectors", "message"),
    [
        (np.ones(2), np.ones([3, 4]), "cannot be compared"),
        (np.zeros(2), np.ones([3, 2]), "no direction"),
        (np.ones(2), np.array([[1.0, np.nan]]), "no direction"),
    ],
)
def test_vectors_without_a_cosine(query, vectors, message):
    with pytest.raises(ValueError, match=message):
        similarity.most_similar(query, vectors, 1)
