"""A model is compared with one that has a different class list on the classes that both have."""

import json

import numpy as np
import pytest
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from components.evaluator import baseline_model, gates
from components.evaluator.artifact import EvaluationResult, SliceMetrics
from components.evaluator.class_lists import ClassLists, eval_config_of_shared_classes
from components.evaluator.options import EvaluationOptions
from pipeline.eval_config import eval_config
from trainer_module import box_labels, features, tasks
from trainer_module.evaluation import boxes, pixels
from trainer_module.evaluation.spec import Parameters, SharedIds

LISTS = ClassLists(new=("ant", "bee", "cow", "dog"), blessed=("dog", "elk", "bee"))


def test_classes_are_matched_by_name():
    assert (LISTS.shared, LISTS.added, LISTS.removed) == (("bee", "dog"), ("ant", "cow"), ("elk",))
    assert LISTS.shared_ids(LISTS.new) == [-1, 0, -1, 1]
    assert LISTS.shared_ids(LISTS.blessed) == [1, -1, 0]
    assert LISTS.not_comparable == ""


@pytest.mark.parametrize(
    ("blessed", "number"), [(("nail", "screw"), "none of"), (("nail", "bee"), "1 of"), ((), "none of")]
)
def test_too_few_shared_classes(blessed, number):
    reason = ClassLists(LISTS.new, blessed).not_comparable
    assert f"include {number} this model's 4 classes." in reason


def export(path, classes, outputs=("probabilities", "label")):
    saved_model = saved_model_pb2.SavedModel()
    graph = saved_model.meta_graphs.add()
    for name in outputs:
        graph.signature_def[features.EXAMPLES].outputs[name].name = name
    (path / features.LABELS_FILE).parent.mkdir(parents=True)
    (path / features.LABELS_FILE).write_text(json.dumps(classes))
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return str(path)


@pytest.mark.parametrize(
    ("classes", "outputs", "same", "shared", "reason"),
    [
        (LISTS.new, ("probabilities", "label"), True, False, ""),
        (LISTS.new[::-1], ("probabilities", "label"), False, True, ""),
        (LISTS.blessed, ("probabilities", "label"), False, True, ""),
        (("nail", "screw"), ("probabilities", "label"), False, False, "`nail`, `screw` include none of"),
        (LISTS.new, ("mask_png_bytes", "class_pixels"), False, False, "as those of another task"),
    ],
)
def test_which_blessed_models_are_compared(tmp_path, classes, outputs, same, shared, reason):
    new = export(tmp_path / "new", LISTS.new)
    blessed = export(tmp_path / "blessed", classes, outputs)
    result = baseline_model.read(new, blessed, LISTS.new)
    assert (result.has_same_classes, result.shares_classes) == (same, shared)
    assert reason in result.not_comparable and bool(reason) == bool(result.not_comparable)
    assert result.path == (None if reason else blessed)
    first = baseline_model.read(new, None, LISTS.new)
    assert first.path is None and not (first.has_same_classes or first.shares_classes or first.not_comparable)


def test_the_configuration_restricts_both_models():
    original = eval_config(EvaluationOptions(), "classification", LISTS.new, ["brightness"], ignore_id=None)
    text = eval_config_of_shared_classes(json_format.MessageToJson(original), LISTS, "candidate", "baseline")
    restricted = json_format.Parse(text, type(original)())
    parameters = json.loads(restricted.metrics_specs[0].metrics[0].config)
    assert parameters == json.loads(original.metrics_specs[0].metrics[0].config) | {
        "num_classes": 2,
        "shared": {
            "candidate": {"model": [-1, 0, -1, 1], "dataset": [-1, 0, -1, 1]},
            "baseline": {"model": [1, -1, 0], "dataset": [-1, 0, -1, 1]},
        },
    }
    assert restricted.slicing_specs == original.slicing_specs


def parameters(own, ignore_id=None):
    ids = tuple(LISTS.shared_ids(own))
    return Parameters(len(LISTS.shared), 3, ignore_id, shared=SharedIds(ids, tuple(LISTS.shared_ids(LISTS.new))))


def accumulate(task, examples, own, ignore_id=None):
    evaluation, chosen = tasks.get(task).evaluation, parameters(own, ignore_id)
    accumulator = evaluation.accumulator(chosen)
    for example in examples:
        element = evaluation.element(*example, chosen)
        if element is not None:
            accumulator.add(element)
    return accumulator.summarize()


@pytest.mark.parametrize("own", [LISTS.new, LISTS.blessed])
def test_a_label_model_chooses_among_the_shared_classes(rng, own):
    labels = rng.integers(0, len(own), 60)
    probabilities = rng.dirichlet(np.ones(len(own)), 60).astype(np.float32)
    labels[:5] = -1  # the transform graph of a model does not know the class
    examples = [
        ({features.LABEL: np.array([label])}, {"probabilities": row})
        for label, row in zip(labels, probabilities, strict=True)
    ]
    summary = accumulate("classification", examples, own)
    columns = [own.index(name) for name in LISTS.shared]
    inside = np.isin(labels, columns)
    predicted = probabilities[inside][:, columns].argmax(axis=1)
    true = np.array([columns.index(label) for label in labels[inside]])
    assert summary.matrix.counts.sum() == inside.sum()
    assert summary.matrix.accuracy == np.mean(true == predicted)


def test_a_label_model_that_gives_the_shared_classes_no_probability():
    example = ({features.LABEL: np.array([1])}, {"probabilities": np.array([1.0, 0.0, 0.0, 0.0], np.float32)})
    element = tasks.get("classification").evaluation.element(*example, parameters(LISTS.new))
    assert element[0] == 0 and element[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("own", [LISTS.new, LISTS.blessed])
def test_masks_are_compared_where_the_label_is_a_shared_class(rng, own):
    truth = rng.integers(0, len(LISTS.new), (10, 6, 7))  # the ids of the dataset
    truth[:, 0] = 255
    predicted = rng.integers(0, len(own), truth.shape)  # the ids of the model
    examples = [
        ({features.LABEL: pixels._encode(mask)}, {"mask_png_bytes": pixels._encode(guess)})
        for mask, guess in zip(truth, predicted, strict=True)
    ]
    summary = accumulate("segmentation", examples, own, ignore_id=255)
    for index, name in enumerate(LISTS.shared):
        actual, guess = truth == LISTS.new.index(name), predicted == own.index(name)
        counted = np.isin(truth, [LISTS.new.index(shared) for shared in LISTS.shared])
        assert summary.support[index] == actual.sum()
        assert summary.iou[index] == pytest.approx((actual & guess).sum() / (counted & (actual | guess)).sum())
    metrics = {metric.name: metric.compute(summary) for metric in pixels.metrics(3)}
    assert metrics["mean_iou"] == pytest.approx(summary.iou.mean())
    assert tasks.get("segmentation").evaluation.confusion_matrix(summary).shape == (2, 2)


EVALUATIONS = {name: tasks.get(name).evaluation for name in tasks.names()} | {"boxes": boxes.EVALUATION}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_every_task_restricts_its_metrics(rng, name):
    def values(chosen):
        accumulator = evaluation.accumulator(chosen)
        for example in examples:
            element = evaluation.element(*example, chosen)
            if element is not None:
                accumulator.add(element)
        summary = accumulator.summarize()
        computed = {metric.name: np.atleast_1d(metric.compute(summary)) for metric in evaluation.metrics(2)}
        return computed | {"support": evaluation.support(summary)}

    evaluation, everything = EVALUATIONS[name], Parameters(4, 2, 255)
    examples = [evaluation.random_example(rng, everything, class_id) for class_id in (0, 1, 2, 3) * 4]
    expected, same = values(everything), tuple(range(4))
    for metric, computed in values(everything._replace(shared=SharedIds(same, same))).items():
        np.testing.assert_allclose(computed, expected[metric], atol=1e-6, err_msg=metric)
    some = (-1, 0, -1, 1)
    restricted = values(Parameters(2, 2, 255, shared=SharedIds(some, some)))
    assert restricted["support"].tolist() == expected["support"][[1, 3]].tolist()
    for metric in evaluation.metrics(2):
        assert restricted[metric.name].shape == ((2,) if metric.scope == "per_class" else (1,)), metric.name
        assert np.isfinite(restricted[metric.name]).any(), metric.name


def test_boxes_of_classes_that_only_one_model_has_are_dropped():
    label = np.full((2, box_labels.NUM_COLUMNS), box_labels.UNKNOWN_CLASS, np.float32)
    label[:, :4], label[:, 5] = [0.1, 0.1, 0.5, 0.5], box_labels.OBJECT
    label[1, 4] = 0
    one = {"detection_boxes": [[0.1, 0.1, 0.5, 0.5]] * 2, "detection_scores": [0.9, 0.8], "detection_classes": [1, 2]}
    example = (
        {features.LABEL: label.ravel(), features.IMAGE_HEIGHT: np.array([40]), features.IMAGE_WIDTH: np.array([40])},
        {key: np.array(value, np.float32) for key, value in one.items()} | {"num_detections": np.array(2.0)},
    )
    evaluation, chosen = boxes.EVALUATION, parameters(LISTS.blessed)  # class 0 is `dog`, 1 is `elk`
    accumulator = evaluation.accumulator(chosen)
    accumulator.add(evaluation.element(*example, chosen))
    summary = accumulator.summarize()
    assert evaluation.support(summary).tolist() == [0, 1]
    main = next(metric for metric in evaluation.metrics(2) if metric.main and metric.scope == "overall")
    assert main.compute(summary) == pytest.approx(1.0)


@pytest.mark.parametrize(("before", "blessed"), [(0.91, True), (0.95, False)])
def test_change_thresholds_compare_the_shared_classes(before, blessed):
    def row(accuracy, recall, examples):
        return SliceMetrics(
            name="all",
            examples=examples,
            metrics={"accuracy": accuracy},
            support=dict.fromkeys(recall, examples // len(recall)),
            class_metrics={name: {"recall": value} for name, value in recall.items()},
        )

    evaluation = EvaluationResult(
        task="classification",
        split="test",
        classes=LISTS.new,
        count_unit="images",
        metrics=tasks.get("classification").evaluation.metrics(3),
        candidate=(row(0.6, dict.fromkeys(LISTS.new, 0.6), 80),),
    )
    shared = evaluation.model_copy(
        update={
            "classes": LISTS.shared,
            "candidate": (row(0.9, dict.fromkeys(LISTS.shared, 0.9), 40),),
            "baseline": (row(before, dict.fromkeys(LISTS.shared, 0.9), 80),),
        }
    )
    compared = evaluation.with_shared_classes(shared, LISTS.added, LISTS.removed)
    assert EvaluationResult.model_validate_json(compared.model_dump_json()).shared == compared.shared
    options = EvaluationOptions(
        thresholds={"accuracy": 0.5}, change_thresholds={"accuracy": 0.02}, class_change_thresholds={"recall": 0.0}
    )
    report = gates.apply_gates(compared, options)
    assert report.blessed is blessed
    assert report.comparison == compared.shared.sentence
    assert "2 classes that both have (added: `ant`, `cow`; removed: `elk`)" in report.comparison
    by_setting = [(gate.setting.split(".")[1], gate.class_name, gate.value) for gate in report.results]
    assert by_setting[:2] == [("thresholds", None, 0.6), ("change_thresholds", None, 0.9)]
    assert [gate.class_name for gate in report.not_compared] == ["ant", "cow"]


def test_another_order_of_the_classes_is_reported():
    lists = ClassLists(("a", "b"), ("b", "a"))
    assert lists.shared == ("a", "b") and lists.shared_ids(lists.blessed) == [1, 0] and not lists.not_comparable
    assert not lists.added and not lists.removed
