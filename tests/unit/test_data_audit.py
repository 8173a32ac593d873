"""The audit of labels: confident learning, neighbours, and what is reported about a dataset with known errors."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from components.data_audit import audit, confident_learning, label_errors, neighbors, out_of_fold
from components.data_audit.artifact import COLUMNS, Audit, to_csv
from components.data_audit.images import (
    CONFLICTING_DUPLICATE,
    LABEL_ISSUE,
    NEAR_DUPLICATE,
    OUTLIER,
    AuditedImages,
    Disagreement,
    LabelledImage,
)
from components.stored import IncompatibleArtifactError

CLASSES = ("cat", "dog", "fox")
PER_CLASS = 40
WRONG = (3, 50, 95)  # one image of every class with the label of the next one


@pytest.fixture(scope="module")
def clusters():
    """Embeddings of three clusters, float [120, 8], and their true class ids."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), PER_CLASS)
    return (4.0 * np.eye(3, 8)[labels] + random.normal(size=(len(labels), 8))), labels


@pytest.fixture(scope="module")
def wrong_labels(clusters):
    labels = clusters[1].copy()
    labels[list(WRONG)] = (labels[list(WRONG)] + 1) % 3
    return labels


def audited(embeddings, labels, **changes):
    images = [LabelledImage(f"{index}.png", (CLASSES[label],)) for index, label in enumerate(labels)]
    return AuditedImages(images=images, embeddings=embeddings, classes=CLASSES, **changes)


# === Confident learning ===

# Two classes; the threshold of class 0 is 0.7, that of class 1 is 0.6.
LABELS = np.array([0, 0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])


def test_the_confident_joint_follows_from_the_mean_confidence_of_classes():
    assert confident_learning.class_thresholds(LABELS, PROBABILITIES) == pytest.approx([0.7, 0.6])
    # The last image reaches neither threshold.
    assert confident_learning.confident_joint(LABELS, PROBABILITIES).tolist() == [[2, 1], [0, 1]]
    joint = confident_learning.joint_distribution(LABELS, PROBABILITIES)
    assert joint * 5 == pytest.approx(np.array([[2.0, 1.0], [0.0, 2.0]]))


def test_both_rules_of_pruning_mark_the_expected_number_of_images():
    joint = confident_learning.joint_distribution(LABELS, PROBABILITIES)
    expected = [False, False, True, False, False]
    assert confident_learning.prune_by_class(LABELS, PROBABILITIES, joint).tolist() == expected
    assert confident_learning.prune_by_noise_rate(LABELS, PROBABILITIES, joint).tolist() == expected
    assert confident_learning.issues(LABELS, PROBABILITIES).tolist() == expected


def test_scores_of_single_images():
    assert confident_learning.self_confidence(LABELS, PROBABILITIES).tolist() == [0.9, 0.9, 0.3, 0.8, 0.4]


def test_a_class_without_images_has_no_errors():
    probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.7, 0.2, 0.1], [0.2, 0.1, 0.7]])
    joint = confident_learning.joint_distribution(np.array([0, 2, 0, 2]), probabilities)
    assert joint[1].tolist() == joint[:, 1].tolist() == [0.0, 0.0, 0.0] and joint.sum() == pytest.approx(1.0)


# === Out-of-fold probabilities ===


def test_folds_spread_classes_and_keep_groups_together():
    labels, groups = np.repeat([0, 1], [20, 5]), np.arange(25)
    groups[:4] = 0
    folds = out_of_fold.assign_folds(labels, groups)
    assert len(set(folds[:4])) == 1
    assert np.bincount(folds[20:], minlength=5).tolist() == [1] * 5
    assert max(np.bincount(folds[4:20], minlength=5)) <= 4


def test_probabilities_come_from_the_other_folds(clusters):
    embeddings, labels = clusters
    features = out_of_fold.compress(embeddings)
    folds = out_of_fold.assign_folds(labels, np.arange(len(labels)))
    predicted = out_of_fold.probabilities(features, labels, 4, folds)
    assert predicted.shape == (120, 4) and predicted.sum(axis=1) == pytest.approx(np.ones(120))
    assert (predicted.argmax(axis=1) == labels).mean() > 0.95 and not predicted[:, 3].any()
    # Noise cannot be predicted; a classifier that had seen the images would.
    noise = np.random.default_rng(1).integers(0, 3, 120)
    assert (out_of_fold.probabilities(features, noise, 3, folds).argmax(axis=1) == noise).mean() < 0.5


def test_components_of_constant_features(clusters):
    embeddings = np.concatenate([clusters[0], np.ones((120, 300))], axis=1)
    features = out_of_fold.compress(embeddings)
    assert features.shape == (120, 8)
    assert np.square(features).sum(axis=1).mean() == pytest.approx(1.0)


def test_one_known_class_in_the_training_folds():
    predicted = out_of_fold.probabilities(np.eye(6), np.zeros(6, np.int64), 2, np.arange(6) % 5)
    assert predicted.tolist() == [[1.0, 0.0]] * 6


# === Neighbours ===


def test_neighbors_by_cosine():
    near = neighbors.find(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), 5)
    assert near.indices.shape == (3, 2) and near.indices[0].tolist() == [1, 2]
    assert near.distances[0] == pytest.approx([0.0, 1.0])
    assert neighbors.find(np.ones((1, 2)), 5).indices.shape == (1, 0)


def test_votes_are_weighted_by_distance():
    near = neighbors.Neighbors(np.array([[1, 2]]), np.array([[0.1, 0.3]]))
    (votes,) = neighbors.votes(np.eye(3)[[0, 1, 2]], near, 2)[:1]
    assert votes[0] == 0.0 and votes[1] > votes[2] > 0.0 and votes.sum() == pytest.approx(1.0)


def test_an_outlier_is_far_from_its_neighbors():
    distances = np.full((20, 3), 0.1) + np.linspace(0.0, 0.02, 20)[:, np.newaxis]
    distances[7] = 0.5
    scores = neighbors.outliers(neighbors.Neighbors(np.zeros((20, 3), int), distances))
    assert np.flatnonzero(scores > 0.5).tolist() == [7] and scores.argmax() == 7


def test_pairs_of_duplicates_are_listed_once():
    near = neighbors.Neighbors(np.array([[1, 2], [0, 2], [0, 1]]), np.array([[0.001, 0.4], [0.001, 0.4], [0.4, 0.4]]))
    assert neighbors.duplicate_pairs(near)[0].tolist() == []
    distances = np.array([[0.0, 0.4], [0.0, 0.4], [0.4, 0.4]])
    pairs, between = neighbors.duplicate_pairs(near._replace(distances=distances))
    assert pairs.tolist() == [[0, 1]] and between.tolist() == [0.0]


# === Audit ===


def test_wrong_labels_are_ranked_first(clusters, wrong_labels):
    embeddings, _ = clusters
    near = neighbors.find(embeddings, label_errors.NUM_VOTES)
    folds = out_of_fold.assign_folds(wrong_labels, np.arange(120))
    assessed = label_errors.assess(out_of_fold.compress(embeddings), wrong_labels, 3, near, folds)
    is_wrong = np.isin(np.arange(120), WRONG)
    assert average_precision_score(is_wrong, assessed.suspicion) == 1.0
    assert assessed.is_issue[is_wrong].all() and assessed.is_issue.sum() <= 5
    assert assessed.proposed[is_wrong].tolist() == [0, 1, 2]


def test_suspects_have_reasons_scores_and_proposals(clusters, wrong_labels):
    embeddings = clusters[0].copy()
    embeddings[20] = embeddings[60] = [-9.0] * 8  # the same image with two labels, unlike all others
    embeddings[11] = embeddings[10]
    result = audit.run(audited(embeddings, wrong_labels, reviewed=frozenset({"95.png"}), source="clusters"))
    by_reason = {}
    for suspect in result.suspects:
        by_reason.setdefault(suspect.reason, {})[suspect.filename] = suspect
    assert {"3.png", "50.png"} <= by_reason[LABEL_ISSUE].keys() and "95.png" not in by_reason[LABEL_ISSUE]
    suspect = by_reason[LABEL_ISSUE]["3.png"]
    assert (suspect.label, suspect.proposed_label) == ("dog", "cat") and suspect.score > 0.5
    assert by_reason[CONFLICTING_DUPLICATE].keys() == {"20.png", "60.png"}
    assert by_reason[NEAR_DUPLICATE].keys() == {"11.png"}
    scores = [suspect.score for suspect in result.suspects]
    assert scores == sorted(scores, reverse=True) and all(0.0 <= score <= 1.0 for score in scores)
    summary = result.summary
    assert summary.images == 120 and summary.source == "clusters" and summary.agreement > 0.9
    assert summary.reasons[CONFLICTING_DUPLICATE] == 2


def test_an_image_that_is_unlike_all_others(clusters):
    embeddings = clusters[0].copy()
    embeddings[5] = [0.0] * 7 + [9.0]
    result = audit.run(audited(embeddings, clusters[1]))
    assert "5.png" in {suspect.filename for suspect in result.suspects if suspect.reason == OUTLIER}


def test_ambiguous_classes_are_confused_in_both_directions():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    centers = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 3.2, 1.0]])
    result = audit.run(audited(centers[labels] + random.normal(size=(180, 3)), labels))
    pair = result.summary.ambiguous[0]
    assert pair.classes == ("dog", "fox") and pair.images > 3 and 0.0 < pair.share < 1.0


def test_sets_of_classes_are_assessed_by_class(clusters):
    embeddings, true = clusters
    images = [LabelledImage(f"{index}.png", (CLASSES[label], "pet")) for index, label in enumerate(true)]
    images[3] = images[3]._replace(classes=("cat", "fox", "pet"))
    images[50] = images[50]._replace(classes=("pet",))
    result = audit.run(AuditedImages(images=images, embeddings=embeddings, classes=(*CLASSES, "pet"), has_sets=True))
    proposals = {suspect.filename: suspect for suspect in result.suspects if suspect.reason == LABEL_ISSUE}
    assert proposals["3.png"].proposed_label == "cat|pet" and proposals["3.png"].label == "cat|fox|pet"
    assert proposals["50.png"].proposed_label == "dog|pet"


def test_predictions_that_disagree_with_masks_or_boxes(clusters):
    disagreements = {"1.png": Disagreement(0.9, "missed objects"), "2.png": Disagreement(0.1, "duplicates")}
    result = audit.run(audited(clusters[0], clusters[1], disagreements=disagreements))
    (missed,) = [suspect for suspect in result.suspects if suspect.reason == "missed objects"]
    assert (missed.filename, missed.score) == ("1.png", 0.9)


@pytest.mark.parametrize("num", [0, 1, 4])
def test_few_images(num, clusters):
    result = audit.run(audited(clusters[0][:num], clusters[1][:num]))
    assert result.summary.images == num and result.summary.agreement is None


def test_the_artifact_is_read_as_it_was_written(clusters, wrong_labels, tmp_path):
    result = audit.run(audited(clusters[0], wrong_labels))
    result.write(str(tmp_path))
    assert Audit.read(str(tmp_path)) == result
    (tmp_path / "suspects.csv").write_text(",".join(COLUMNS) + "\na.png,cat,outlier,high,\n")
    with pytest.raises(IncompatibleArtifactError, match=r"suspects\.csv cannot be read"):
        Audit.read(str(tmp_path))


def test_the_table_has_the_documented_columns():
    assert to_csv([]) == "filename,label,reason,score,proposed_label\n"
