"""Selection of images for labelling: uncertain, diverse and novel ones, without duplicates."""

import numpy as np
import pytest

from pipeline.labeling import selection
from pipeline.labeling.selection import NOVEL, UNCERTAIN, ImageSet
from trainer_module import decision_thresholds, tasks
from trainer_module.features import BOX_CORNERS

BITS = 2**60 - 1


@pytest.fixture
def cloud(rng):
    """Makes images around a direction of an 8-dimensional space."""

    def make(axis, num, spread=0.1, prefix="x"):
        center = np.eye(8)[axis]
        digests = tuple(f"{prefix}{axis}-{index}" for index in range(num))
        embeddings = (center + spread * rng.normal(size=(num, 8))).astype(np.float32)
        return ImageSet(embeddings, digests, rng.integers(0, BITS, num))

    return make


def joined(*sets):
    return ImageSet(
        np.concatenate([each.embeddings for each in sets]),
        tuple(digest for each in sets for digest in each.sha256),
        np.concatenate([each.hashes for each in sets]),
    )


def test_uncertain_images_are_diverse(cloud):
    training = cloud(0, 50, prefix="t")
    candidates = joined(cloud(0, 40), cloud(1, 20), cloud(2, 20))
    uncertainty = np.array([0.1] * 40 + [0.9] * 40)
    chosen = selection.select(candidates, uncertainty, training, 10, novel_share=0.0)
    places = [choice.position // 20 for choice in chosen.choices]
    assert set(places[:2]) == {2, 3}  # one of each uncertain group first
    assert {choice.reason for choice in chosen.choices} == {UNCERTAIN}


def naive_facility_location(vectors, known, weights, num):
    """Chooses by computing every sum."""
    similarity = np.maximum(vectors @ vectors.T, 0.0)
    covered = np.maximum(vectors @ known.T, 0.0).max(axis=1)
    chosen = []
    for _ in range(num):
        sums = [
            -1.0 if index in chosen else (weights * np.maximum(similarity[[*chosen, index]].max(axis=0), covered)).sum()
            for index in range(len(vectors))
        ]
        chosen.append(int(np.argmax(sums)))
    return chosen


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("most_pairs", [2**24, 100])
def test_uncertain_images_represent_the_others(cloud, rng, monkeypatch, most_pairs):
    monkeypatch.setattr(selection, "_MOST_PAIRS", most_pairs)  # 100: in blocks of a few rows
    training = joined(cloud(0, 10, 0.4, prefix="t"), cloud(3, 20, prefix="t"))
    candidates = joined(cloud(0, 20, 0.4), cloud(1, 12, 0.4), cloud(2, 4, 0.4))
    uncertainty = rng.uniform(0.6, 1.0, 36)
    chosen = selection.select(candidates, uncertainty, training, 12, novel_share=0.0)
    embeddings = unit(candidates.embeddings)
    vectors, known = (
        unit((each - embeddings.mean(axis=0)) / embeddings.std(axis=0))
        for each in (embeddings, unit(training.embeddings))
    )
    expected = naive_facility_location(vectors, known, uncertainty, 12)
    assert [choice.position for choice in chosen.choices] == expected


def test_an_uncertain_outlier_represents_nothing(cloud):
    group, outlier = cloud(1, 30), cloud(4, 1)
    uncertainty = np.append(np.linspace(0.5, 0.9, 30), 0.9)
    chosen = selection.select(joined(group, outlier), uncertainty, cloud(0, 50, prefix="t"), 10, novel_share=0.0)
    assert chosen.choices[0].position < 30


def test_the_least_certain_images_can_be_chosen_alone(cloud):
    candidates = cloud(1, 90)
    uncertainty = np.where(np.arange(90) < 30, 0.9, 0.1)
    chosen = selection.select(candidates, uncertainty, cloud(0, 50, prefix="t"), 10, novel_share=0.0)
    assert all(choice.position < 30 for choice in chosen.choices) and len(chosen.choices) == 10


def test_images_that_the_model_is_sure_about_are_not_chosen_for_their_looks(cloud):
    candidates = joined(cloud(1, 5, 0.01), cloud(2, 5), cloud(4, 5))
    uncertainty = np.array([0.9] * 5 + [0.1] * 10)
    chosen = selection.select(candidates, uncertainty, cloud(0, 50, prefix="t"), 5, novel_share=0.0)
    assert {choice.position for choice in chosen.choices} == set(range(5))


@pytest.mark.parametrize("unknown", [0, 4, 9])
def test_images_of_an_unknown_class_are_novel(unknown):
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    known = np.flatnonzero(labels != unknown)
    candidates = np.append(known[1::2], np.flatnonzero(labels == unknown))

    def images(rows):
        return ImageSet(pixels[rows].astype(np.float32), tuple(map(str, rows)), np.full(len(rows), -1))

    chosen = selection.select(images(candidates), np.ones(len(candidates)), images(known[::2]), 2000, novel_share=1.0)
    is_novel = np.zeros(len(candidates), bool)
    is_novel[[choice.position for choice in chosen.choices if choice.novelty > 0.5]] = True
    is_unknown = labels[candidates] == unknown
    assert is_novel[is_unknown].mean() > 0.7
    assert is_novel[~is_unknown].mean() < 0.1  # by definition 0.05 of the images that are labelled already
    assert all((choice.reason == NOVEL) == (choice.novelty > 0.5) for choice in chosen.choices[: is_novel.sum()])


def test_novel_images_get_their_share(cloud):
    training = joined(cloud(0, 50, prefix="t"), cloud(1, 50, prefix="t"))
    candidates = joined(cloud(0, 60), cloud(5, 30))
    uncertainty = np.array([0.9] * 60 + [0.0] * 30)  # the model is certain about what it does not know
    chosen = selection.select(candidates, uncertainty, training, 10, novel_share=0.3)
    novel = [choice for choice in chosen.choices if choice.reason == NOVEL]
    assert len(novel) == 3 and all(choice.position >= 60 and choice.novelty > 0.5 for choice in novel)
    assert sum(choice.position < 60 for choice in chosen.choices) == 7
    without = selection.select(candidates, uncertainty, training, 10, novel_share=0.0)
    assert all(choice.position < 60 for choice in without.choices)


def test_duplicates_are_skipped(cloud):
    training = cloud(0, 50, prefix="t")
    known = ImageSet(training.embeddings[:3], training.sha256[:3], training.hashes[:3])
    # Compressed again: other bytes, almost the same embedding and hash.
    near_known = ImageSet(training.embeddings[3:5] + 1e-5, ("n1", "n2"), training.hashes[3:5] ^ 1)
    others = cloud(1, 5)
    repeated = ImageSet(others.embeddings, others.sha256, others.hashes)
    near = ImageSet(others.embeddings + 1e-5, tuple(f"{name}-small" for name in others.sha256), others.hashes ^ 2)
    # The same embedding with another hash is another image.
    different = ImageSet(others.embeddings[:1], ("different",), others.hashes[:1] ^ (BITS >> 20))
    candidates = joined(known, near_known, others, repeated, near, different)
    chosen = selection.select(candidates, np.full(len(candidates), 0.5), training, 50)
    names = [candidates.sha256[choice.position].removesuffix("-small") for choice in chosen.choices]
    assert sorted(names) == sorted([*others.sha256, "different"])
    assert (chosen.known, chosen.repeated, chosen.near_duplicates) == (5, 5, 5)


def test_images_without_structure_are_not_near_duplicates(cloud):
    flat = cloud(1, 4, spread=0.0)
    candidates = ImageSet(flat.embeddings, flat.sha256, np.full(4, -1))
    assert len(selection.select(candidates, np.ones(4), cloud(0, 20, prefix="t"), 4).choices) == 4


def test_without_training_images_and_without_candidates(cloud):
    empty = ImageSet(np.zeros((0, 8), np.float32), (), np.zeros(0, np.int64))
    candidates = cloud(1, 10)
    assert len(selection.select(candidates, np.ones(10), empty, 4).choices) == 4
    assert selection.select(empty, np.zeros(0), candidates, 4).choices == ()


# === Functions of the tasks ===


def png(pixels):
    from pipeline.labeling.formats._regions import png_of

    return png_of(np.array(pixels, np.uint8))


DETECTIONS = {
    "detection_boxes": np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]]], np.float32),
    "detection_scores": np.array([[0.95, 0.41], [0.0, 0.0]], np.float32),
    "num_detections": np.array([2.0, 0.0], np.float32),
    "detection_labels": np.array([[b"cat", b"dog"], [b"", b""]], object),
    "served_threshold": np.array([0.4, 0.4], np.float32),
}
OUTPUTS = {
    "classification": {
        "probabilities": np.array([[0.5, 0.5, 0.0], [0.9, 0.06, 0.04]]),
        "label": np.array([b"cat", b"dog"], object),
    },
    "multi_label": {
        "probabilities": np.array([[0.5, 0.3, 0.4], [0.99, 0.01, 0.9]]),
        "thresholds": np.array([[0.5, 0.3, 0.5]] * 2),
        "predicted": np.array([[True, True, False], [True, False, True]]),
    },
    "segmentation": {
        "mask_png_bytes": np.array([png([[0, 1]]), png([[1, 1]])], object),
        "score": np.array([0.55, 0.99]),
    },
    "detection": DETECTIONS,
}


@pytest.fixture(params=tasks.names())
def task(request):
    return tasks.get(request.param)


def test_the_first_image_is_the_less_certain_one(task):
    outputs = OUTPUTS[task.name]
    assert set(outputs) == {name for names in task.labeling.outputs.values() for name in names}
    uncertainty = task.labeling.uncertainty(outputs)
    assert uncertainty.shape == (2,) and 0.0 <= uncertainty[1] < uncertainty[0] <= 1.0


def test_proposals_are_labels_of_the_task(task):
    first, second = task.labeling.proposal(OUTPUTS[task.name], ("cat", "dog", "fox"))
    assert set(first) <= set(task.label_features)
    assert task.labeling.agreement(first, first) == task.labeling.agreement(second, second) == 1.0
    assert 0.0 <= task.labeling.agreement(first, second) < 1.0


def test_one_object_is_proposed_with_its_best_class():
    box, near, other = [0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.59], [0.1, 0.2, 0.5, 0.45]
    outputs = {
        "detection_boxes": np.array([[box, near, other, box]], np.float32),
        "detection_scores": np.array([[0.9, 0.8, 0.7, 0.6]], np.float32),
        "num_detections": np.array([4.0], np.float32),
        "detection_labels": np.array([[b"cat", b"dog", b"dog", b"fox"]], object),
        "served_threshold": np.array([0.5], np.float32),
    }
    (label,) = tasks.get("detection").labeling.proposal(outputs, ())
    assert label["image/object/class/text"] == ["cat", "dog"]
    assert label[BOX_CORNERS[3]] == pytest.approx([0.6, 0.45])


def test_agreement_counts_what_both_labels_have():
    assert tasks.get("segmentation").labeling.agreement(
        {"mask/encoded": [png([[0, 1, 1, 1]])]}, {"mask/encoded": [png([[0, 1, 1, 0]])]}
    ) == pytest.approx(0.75)
    sets = tasks.get("multi_label").labeling.agreement
    assert sets({"image/class/text": ["a", "b"]}, {"image/class/text": ["b", "c"]}) == pytest.approx(1 / 3)
    assert sets({"image/class/text": []}, {"image/class/text": []}) == 1.0
    both, none = tasks.get("detection").labeling.proposal(DETECTIONS, ())
    one = {key: values[:1] for key, values in both.items()}
    agreement = tasks.get("detection").labeling.agreement
    assert agreement(one, both) == pytest.approx(2 / 3) and agreement(none, none) == 1.0 and agreement(one, none) == 0.0
    moved = {**one, BOX_CORNERS[0]: [0.45], BOX_CORNERS[2]: [0.85]}
    assert agreement(one, moved) == 0.0


def test_closeness_to_a_threshold():
    scores = decision_thresholds.closeness(np.array([0.0, 0.2, 0.4, 0.7, 1.0]), np.array(0.4))
    assert scores == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
