"""Monitoring of every task: predictions as numbers, and their comparison with feedback."""

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from trainer_module import features, tasks

CLASSES = ("cat", "dog", "owl")


def png(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


MASKS = np.zeros((2, 4, 6), np.uint8)
MASKS[1, :, 3:] = 2

# Task → outputs of two images; raw labels that agree with both; labels that disagree with both.
RESPONSES = {
    "classification": (
        {"probabilities": np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)},
        [{features.CLASS_TEXT: [b"cat"]}, {features.CLASS_TEXT: [b"owl"]}],
        ["owl", "a class that the model does not know"],
    ),
    "multi_label": (
        {
            "probabilities": np.array([[0.9, 0.6, 0.1], [0.2, 0.1, 0.1]], np.float32),
            "thresholds": np.array([[0.5, 0.5, 0.5]] * 2, np.float32),
            "predicted": np.array([[True, True, False], [False, False, False]]),
        },
        [{features.CLASS_TEXT: [b"dog", b"cat"]}, {features.CLASS_TEXT: []}],
        [["owl"], ["cat"]],
    ),
    "segmentation": (
        {
            "class_pixels": np.array([[24, 0, 0], [12, 0, 12]]),
            "mask_png_bytes": np.array([png(mask) for mask in MASKS], dtype=object),
        },
        [{features.MASK_ENCODED: [png(mask)]} for mask in MASKS],
        [base64.b64encode(png(np.full((4, 6), 1, np.uint8))).decode()] * 2,
    ),
    "detection": (
        {
            "detection_boxes": np.array([[[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]], [[0, 0, 0, 0]] * 2], np.float32),
            "detection_scores": np.array([[0.9, 0.2], [0.0, 0.0]], np.float32),
            "detection_classes": np.array([[2.0, 1.0], [0.0, 0.0]], np.float32),
            "served_threshold": np.array([0.5, 0.5], np.float32),
        },
        [
            {
                **{key: [0.1] for key in features.BOX_CORNERS[:2]},
                **{key: [0.4] for key in features.BOX_CORNERS[2:]},
                features.BOX_CLASSES: [b"dog"],
                features.BOX_DIFFICULT: [0],
                features.BOX_IS_CROWD: [0],
            },
            {
                **{key: [] for key in features.BOX_CORNERS},
                features.BOX_CLASSES: [],
                features.BOX_DIFFICULT: [],
                features.BOX_IS_CROWD: [],
            },
        ],
        [
            [{"label": "unknown", "box": [0.1, 0.1, 0.4, 0.4]}],
            [{"label": "cat", "box": [0.0, 0.0, 1.0, 1.0]}],
        ],
    ),
}


def test_every_task_is_tested():
    assert sorted(RESPONSES) == tasks.names()


@pytest.mark.parametrize("name", tasks.names())
def test_predictions_are_numbers_of_one_shape(name):
    monitoring, (outputs, *_) = tasks.get(name).monitoring, RESPONSES[name]
    assert set(monitoring.outputs) == outputs.keys()
    predictions = monitoring.predictions(outputs, 3)
    assert predictions.scores.shape == (2, 3) and predictions.scores.dtype == np.float32
    assert (predictions.scores >= 0).all() and (predictions.scores <= 1).all()
    assert predictions.class_ids.shape == (2,) and predictions.class_ids.dtype == np.int64
    assert predictions.confidence is None or predictions.confidence.shape == (2,)


@pytest.mark.parametrize("name", tasks.names())
def test_a_prediction_agrees_with_its_ground_truth_only(name):
    monitoring, (outputs, raw, others) = tasks.get(name).monitoring, RESPONSES[name]
    for index in range(2):
        label = json.loads(json.dumps(monitoring.ground_truth(raw[index])))  # as a client sends it
        value = monitoring.quality(outputs, index, label, CLASSES, None)
        # Without an object and a detection, the F1 of boxes is undefined.
        assert value == 1.0 or (math.isnan(value) and label == [])
        assert monitoring.quality(outputs, index, others[index], CLASSES, None) < 0.6
    assert all(isinstance(each, str) for each in monitoring.label_classes(monitoring.ground_truth(raw[0])))


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("label", [3, {"a": 1}, [[]], ["cat", 1]])
def test_a_label_of_another_kind_is_refused(name, label):
    monitoring, (outputs, *_) = tasks.get(name).monitoring, RESPONSES[name]
    with pytest.raises(ValueError, match=r"^(it is not|the mask)"):
        monitoring.quality(outputs, 0, label, CLASSES, None)


def predicted(name):
    return tasks.get(name).monitoring.predictions(RESPONSES[name][0], 3)


def test_predicted_classes_and_confidence():
    assert predicted("classification").class_ids.tolist() == [0, 2]
    assert predicted("classification").confidence == pytest.approx([0.7, 0.8])
    # The class that exceeds its threshold most; none.
    assert predicted("multi_label").class_ids.tolist() == [0, -1]
    assert predicted("multi_label").confidence == pytest.approx([(0.9 + 0.6 + 0.9) / 3, (0.8 + 0.9 + 0.9) / 3])
    assert predicted("segmentation").scores.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]
    # The cat is below the served threshold.
    assert predicted("detection").class_ids.tolist() == [1, -1]
    np.testing.assert_allclose(predicted("detection").scores, [[0.2, 0.9, 0.0], [0.0, 0.0, 0.0]], rtol=1e-6)


def test_masks_of_another_size_and_ignored_pixels():
    monitoring, (outputs, *_) = tasks.get("segmentation").monitoring, RESPONSES["segmentation"]
    small = base64.b64encode(png(np.zeros((2, 2), np.uint8))).decode()
    with pytest.raises(ValueError, match="the mask has the shape"):
        monitoring.quality(outputs, 0, small, CLASSES, None)
    mask = np.full((4, 6), 255, np.uint8)
    mask[0, 0] = 0
    ignored = base64.b64encode(png(mask)).decode()
    assert monitoring.quality(outputs, 0, ignored, CLASSES, 255) == 1.0


def test_difficult_objects_need_not_be_detected():
    monitoring, (outputs, raw, _) = tasks.get("detection").monitoring, RESPONSES["detection"]
    label = monitoring.ground_truth(raw[0])
    missed = {"label": "owl", "box": [0.0, 0.6, 0.2, 0.9]}
    assert monitoring.quality(outputs, 0, [*label, missed], CLASSES, None) == pytest.approx(2 / 3)
    assert monitoring.quality(outputs, 0, [*label, missed | {"difficult": True}], CLASSES, None) == 1.0
