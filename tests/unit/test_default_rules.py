"""The default rules refuse models that have learned nothing, and no others."""

import itertools
import math

import numpy as np
import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.evaluator import chance, default_rules, gates, options
from components.evaluator.artifact import EvaluationResult, GateReport, SliceMetrics
from components.evaluator.options import EvaluationOptions
from trainer_module import tasks
from trainer_module.evaluation import baselines, pixels
from trainer_module.evaluation.spec import Parameters, in_scope

RULES = ("beats_constant", "beats_chance", "classes_in_train", "classes_predicted", "classes_correct")


def summary_of(task, elements, num_classes):
    accumulator = tasks.get(task).evaluation.accumulator(Parameters(num_classes, 3))
    for element in elements:
        accumulator.add(element)
    return accumulator.summarize()


def labels_of(labels, predicted, num_classes):
    rows = np.eye(num_classes, dtype=np.float32)[list(predicted)]
    return summary_of("classification", zip(map(int, labels), rows, strict=True), num_classes)


def masks_of(pairs, num_classes, ignore_id=None):
    counts = [pixels.count_pixels(np.asarray(a), np.asarray(b), num_classes, ignore_id) for a, b in pairs]
    return summary_of("segmentation", counts, num_classes)


def report_of(task, summary, classes, *, train=None, ignore_id=None, **configured):
    """Applies rules and thresholds: the report of the gates."""
    evaluation = tasks.get(task).evaluation
    metrics = evaluation.metrics(3)
    values = {metric.name: metric.compute(summary) for metric in in_scope(metrics, "overall")}
    by_class = {metric.name: metric.compute(summary) for metric in in_scope(metrics, "per_class")}
    support = evaluation.support(summary).tolist()
    measured = SliceMetrics(
        name="all",
        examples=int(evaluation.evidence(summary)[baselines.OCCURRING].max()),
        metrics=values,
        support=dict(zip(classes, support, strict=True)),
        class_metrics={
            name: {metric: float(by_class[metric][index]) for metric in by_class} for index, name in enumerate(classes)
        },
    )
    result = EvaluationResult(
        task=task,
        split="test",
        classes=classes,
        count_unit=evaluation.count_unit,
        metrics=metrics,
        candidate=(measured,),
    )
    chosen = EvaluationOptions.model_validate(configured).with_task_defaults(task)
    options.check_bounds(chosen, task)
    counts = dict.fromkeys(classes, 20) if train is None else train
    rules = default_rules.apply_rules(result, evaluation.evidence(summary), counts, chosen.disabled_rules, ignore_id)
    return gates.apply_gates(result, chosen, rules)


def results(report: GateReport) -> dict[str, bool | None]:
    """Rule → passed; of several results the first."""
    by_rule: dict[str, bool | None] = {}
    for result in report.rules:
        by_rule.setdefault(result.rule, result.passed)
    return by_rule


def of_labels(labels, predicted, classes=None, **more):
    num_classes = 1 + int(max(*labels, *predicted)) if classes is None else len(classes)
    classes = classes or [f"class {index}" for index in range(num_classes)]
    return report_of("classification", labels_of(labels, predicted, num_classes), classes, **more)


def of_masks(pairs, classes=("background", "object"), ignore_id=None, **more):
    summary = masks_of(pairs, len(classes), ignore_id)
    return report_of("segmentation", summary, list(classes), ignore_id=ignore_id, **more)


def blocks(random, count=20, size=16):
    """Masks with one square object each."""
    masks = np.zeros((count, size, size), np.int64)
    for mask, row, column in zip(masks, *random.integers(0, size - 6, (2, count)), strict=True):
        mask[row : row + 5, column : column + 5] = 1
    return masks


# === Worthless models ===


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        # 300 : 30 of pure noise, of which a seventh is evaluated.
        ("majority", {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        ("minority", {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        ("absent class", {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        ("two balanced classes", {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        ("shuffled", {"beats_constant", "beats_chance"}),
        ("coin", {"beats_constant", "beats_chance"}),
        ("two of ten", {"classes_predicted", "classes_correct"}),
        ("two of ten, five images each", {"classes_predicted", "classes_correct"}),
        ("two of ten at random", {"beats_constant", "beats_chance", "classes_predicted", "classes_correct"}),
        ("swapped", {"beats_constant", "beats_chance", "classes_correct"}),
        ("rare third class", {"classes_predicted", "classes_correct"}),
    ],
)
def test_predictions_that_do_not_depend_on_the_image(name, failed):
    random = np.random.default_rng(3)
    ten = np.repeat(range(10), 10)
    cases = {
        "majority": ([0] * 45 + [1] * 4, [0] * 49),
        "minority": ([0] * 45 + [1] * 4, [1] * 49),
        "absent class": ([0] * 30 + [1] * 30, [2] * 60),
        "two balanced classes": ([0] * 30 + [1] * 30, [1] * 60),
        "shuffled": (ten, random.permutation(ten)),
        "coin": ([0] * 30 + [1] * 30, random.integers(0, 2, 60)),
        "two of ten": (ten, np.where(ten < 5, 0, 9)),
        "two of ten, five images each": (ten[::2], np.where(ten[::2] < 5, 0, 9)),
        "two of ten at random": (ten, random.integers(0, 2, 100)),
        "swapped": ([0] * 30 + [1] * 30, [1] * 30 + [0] * 30),
        "rare third class": ([0] * 30 + [1] * 30 + [2] * 3, [0] * 30 + [1] * 30 + [0, 1, 0]),
    }
    report = of_labels(*cases[name], thresholds={"accuracy": 0.0})
    assert not report.blessed
    assert {rule for rule, passed in results(report).items() if passed is False} == failed
    assert all(gate.value <= gate.bound or math.isnan(gate.value) for gate in report.failures)


def test_majority_guessing_is_described():
    report = of_labels([0] * 45 + [1] * 4, [0] * 49, ["dust", "hair"])
    by_rule = {gate.rule: gate for gate in report.rules}
    constant = by_rule["beats_constant"]
    assert (constant.value, constant.bound, constant.passed, constant.slice) == (0.5, 0.5, False, "all")
    assert f"{constant.subject} {constant.detail}" == (
        "balanced accuracy is 0.5000; it must be above 0.5000, given the 0.5000 of one class for every image (always "
        "`dust` has an accuracy of 0.9184) (permutation test, p = 1, level 0.01)"
    )
    predicted = by_rule["classes_predicted"]
    assert (predicted.value, predicted.bound) == (1, 2)
    assert f"{predicted.subject} {predicted.detail}" == "predicted classes are 1 of 2: `hair` has no prediction"
    assert by_rule["classes_correct"].detail == "are 1 of 2: `hair` has no correct prediction"


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("background", set(RULES) - {"classes_in_train"}),
        ("object", set(RULES) - {"classes_in_train"}),
        ("noise", {"beats_constant", "beats_chance"}),
        ("beside", {"beats_constant", "beats_chance", "classes_correct"}),
        ("few wrong pixels", {"beats_constant", "beats_chance", "classes_correct"}),
    ],
)
def test_masks_that_do_not_depend_on_the_image(rng, name, failed):
    truth = blocks(rng)
    few = np.where((rng.random(truth.shape) < 0.005) & (truth == 0), 1, 0)
    predicted = {
        "background": np.zeros_like(truth),
        "object": np.ones_like(truth),
        "noise": rng.integers(0, 2, truth.shape),
        "beside": np.where(truth == 1, 0, np.roll(truth, 8, axis=1)),
        "few wrong pixels": few,
    }[name]
    report = of_masks(zip(truth, predicted, strict=True), thresholds={"mean_iou": 0.0})
    assert not report.blessed
    refusing = {rule for rule, passed in results(report).items() if passed is False}
    assert refusing >= failed - {"beats_chance"} and "beats_constant" in refusing


def test_a_class_without_pixels_is_refused_although_all_pixels_are_correct(rng):
    # The object was only in the alpha channel of the masks.
    empty = np.zeros((20, 8, 8), np.int64)
    report = of_masks(zip(empty, empty, strict=True), train={"background": 100})
    assert not report.blessed
    (failure,) = report.failures
    assert failure.rule == "classes_in_train"
    assert f"{failure.subject} {failure.detail}" == "classes in the train split are 1 of 2: `object` has no pixels"
    not_compared = [gate for gate in report.rules if gate.passed is None]
    assert {gate.rule for gate in not_compared} == set(RULES) - {"classes_in_train"}
    assert "no evaluated mask has several classes" in not_compared[0].detail
    assert "`object` has no pixels" in not_compared[-1].detail


@pytest.mark.parametrize(("ignored", "blessed"), [("void", True), ("background", False)])
def test_an_ignored_class_need_not_occur(rng, ignored, blessed):
    """`data.ignore_id` may be the id of a class with a name; its pixels count neither here nor in training."""
    masks = blocks(rng)
    masks[:, 0] = 2
    classes = ("background", "object", "void")
    train = {"background": 20, "object": 20}
    report = of_masks(zip(masks, masks, strict=True), classes, classes.index(ignored), train=train)
    assert report.blessed == blessed
    assert ("void" in "".join(result.detail for result in report.rules)) != blessed


def test_a_class_that_does_not_occur_in_the_train_split():
    report = of_labels([0, 1] * 20, [0, 1] * 20, ["cat", "dog", "owl"], train={"cat": 100, "owl": 0, "other": 5})
    (failure,) = report.failures
    assert failure.rule == "classes_in_train"
    assert failure.detail == "are 1 of 3: `dog`, `owl` have no images"


# === Models that have learned something ===


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [
        ([0, 1] * 20, [0, 1] * 18 + [1, 0] * 2),
        # A rare class that is found at the price of an accuracy below that of the frequent class.
        ([0] * 190 + [1] * 10, [0] * 175 + [1] * 15 + [1] * 9 + [0]),
        ([0] * 30 + [1] * 3, [0] * 30 + [1] * 3),
        # An accuracy of 0.36 with ten classes.
        (np.repeat(range(10), 20), np.where(np.tile(range(20), 10) < 7, np.repeat(range(10), 20), 5)),
    ],
)
def test_useful_models_pass(labels, predicted):
    report = of_labels(labels, predicted, thresholds={"accuracy": 0.0})
    assert report.blessed
    assert results(report) == dict.fromkeys(RULES, True)


@pytest.mark.parametrize("ignore_id", [None, 9])
def test_useful_masks_pass(rng, ignore_id):
    truth = blocks(rng)
    predicted = np.where(truth == 1, rng.random(truth.shape) < 0.7, rng.random(truth.shape) < 0.02).astype(int)
    if ignore_id:
        truth[:, :2] = ignore_id
    report = of_masks(zip(truth, predicted, strict=True), ignore_id=ignore_id)
    assert report.blessed and results(report) == dict.fromkeys(RULES, True)


def test_most_masks_may_be_empty(rng):
    truth = blocks(rng, 100)
    truth[15:] = 0
    predicted = truth.copy()
    predicted[50:, 0, 0] = 1  # false alarms
    assert of_masks(zip(truth, predicted, strict=True)).blessed


def test_few_examples_of_many_classes_do_not_blame_the_model(rng):
    # 200 classes with two images each, 70 % of them correct: some classes are wrong twice.
    labels = np.repeat(range(200), 2)
    predicted = np.where(rng.random(400) < 0.7, labels, rng.integers(0, 200, 400))
    report = of_labels(labels, predicted)
    assert report.blessed
    rows = [gate for gate in report.rules if gate.rule == "classes_correct"]
    assert [gate.passed for gate in rows] == [True, None]
    assert rows[0].value == rows[0].bound < 200
    assert "and" in rows[1].detail and "at most 2 images, too few to blame the model" in rows[1].detail
    # With ten images per class, a class that is never correct is a fault.
    labels = np.repeat(range(200), 10)
    predicted = np.where((rng.random(2000) < 0.7) & (labels != 7), labels, (labels + 1) % 200)
    (failure,) = of_labels(labels, predicted).failures
    assert failure.rule == "classes_correct" and "`class 7` has no correct prediction" in failure.detail


def test_a_class_that_is_not_evaluated_is_not_compared():
    report = of_labels([0, 1] * 10, [0, 1] * 10, ["cat", "dog", "owl"])
    assert report.blessed
    rows = [(gate.rule, gate.passed) for gate in report.rules]
    assert rows == [
        *((rule, True) for rule in RULES[:4]),
        ("classes_predicted", None),
        ("classes_correct", True),
        ("classes_correct", None),
    ]
    assert report.rules[4].detail == "are not compared in the test split: `owl` has no images"


@pytest.mark.parametrize(
    ("labels", "predicted", "passed"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], None),
        ([0, 0, 1, 1], [0, 0, 1, 0], None),
        ([0, 0, 1, 1], [0, 0, 0, 0], False),
        ([0, 0, 0, 0], [0, 0, 0, 0], None),
        ([0] * 4 + [1] * 4, [0] * 4 + [1] * 4, None),
        ([0] * 5 + [1] * 5, [0] * 5 + [1] * 5, True),
    ],
)
def test_a_test_needs_examples(labels, predicted, passed):
    report = of_labels(labels, predicted, ["cat", "dog"])
    assert results(report)["beats_constant"] is results(report)["beats_chance"] is passed
    constant = report.rules[0]
    if passed is None and 1 in labels:
        assert f"{len(labels)} images are too few" in constant.detail


@pytest.mark.parametrize(("count", "passed"), [(6, None), (7, True)])
def test_masks_need_seven_images(rng, count, passed):
    truth = blocks(rng, count)
    report = of_masks(zip(truth, truth, strict=True))
    assert results(report)["beats_constant"] is results(report)["beats_chance"] is passed


# === Tests ===


def test_the_permutation_test_has_the_p_value_of_fishers_exact_test():
    scipy_stats = pytest.importorskip("scipy.stats")
    for table in ([[26, 1], [1, 2]], [[12, 8], [7, 13]], [[5, 0], [1, 4]]):
        table = np.array(table)
        exact = scipy_stats.fisher_exact(table, alternative="greater").pvalue
        for weights in (np.ones(2), 1.0 / table.sum(axis=1)):
            test = baselines.permutation_test(table.sum(axis=1), table.sum(axis=0), np.diag(table), weights)
            assert test.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999) + 2e-4)
            assert (test.value > test.bound) == (test.p_value <= baselines.LEVEL)


def test_chance_passes_at_the_level_of_the_tests():
    random = np.random.default_rng(1)
    passed = []
    for _ in range(30):
        labels, predicted = (random.choice(3, 40, p=[0.6, 0.3, 0.1]) for _ in range(2))
        matrix = labels_of(labels, predicted, 3).matrix
        weights = np.ones(3)
        test = baselines.permutation_test(matrix.support, matrix.predicted, matrix.correct, weights)
        passed.append(test.p_value <= baselines.LEVEL)
    assert np.mean(passed) <= 0.05


def of_differences(differences):
    scores = np.array(differences)
    return baselines.sign_flip_test(500 + scores, np.full_like(scores, 500))


@pytest.mark.parametrize(
    ("differences", "p_value"),
    [
        ([1] * 7, 1 / 128),
        ([1] * 9 + [-1], 11 / 1024),
        ([1, 2, 3, 4, 5, 6, 7, -8], 25 / 256),
        # One image is slightly worse, nine are much better: Fisher's test counts by how much.
        ([100] * 9 + [-1], 2 / 1024),
        ([100] * 9 + [-1] * 3, 8 / 4096),
        ([0] * 12, 1.0),
    ],
)
def test_the_sign_flip_test_is_exact(differences, p_value):
    flips = np.array(list(itertools.product([1, -1], repeat=len(differences)))) @ differences
    test = of_differences(differences)
    assert test.p_value == pytest.approx(p_value) == np.mean(flips >= sum(differences))
    assert (test.value > test.bound + 1e-12) == (test.p_value <= baselines.LEVEL)
    assert test.smallest_p_value == 0.5 ** len(differences)


def test_the_exchange_test_is_exact_for_few_images(rng):
    scores = rng.integers(0, 1000, (5, 5))
    sums = [scores[range(5), order].sum() for order in itertools.permutations(range(5))]
    test = baselines.exchange_test(scores, 1000 * np.eye(5, dtype=int))
    assert test.p_value == np.mean(np.array(sums) >= np.trace(scores))
    assert test.reference == pytest.approx(np.mean(sums) / 5000) and test.value == np.trace(scores) / 5000
    assert test.smallest_p_value == 1 / 120
    assert baselines.exchange_test(scores[:1, :1], scores[:1, :1]).p_value == 1.0


@pytest.mark.parametrize("count", [5, 6, 30])
def test_predictions_that_fit_their_own_images_only_have_the_smallest_p_value(count):
    perfect = 1000 * np.eye(count, dtype=int)
    test = baselines.exchange_test(perfect, perfect)
    assert test.p_value == test.smallest_p_value < baselines.LEVEL and test.value > test.bound
    # If all images have the same ground truth, no model can be distinguished from one that ignores the image.
    same = np.full_like(perfect, 1000)
    assert baselines.exchange_test(same, same).smallest_p_value == 1.0


def test_the_tests_on_images_pass_chance_at_their_level():
    random = np.random.default_rng(2)
    exchanged, flipped = [], []
    for _ in range(60):
        quality = random.integers(0, 700, 12)  # some images are easier than others
        scores = quality[:, np.newaxis] + random.integers(0, 300, (12, 12))
        exchanged.append(baselines.exchange_test(scores, 1000 * np.eye(12, dtype=int)).p_value)
        flipped.append(baselines.sign_flip_test(scores[:, 0], scores[:, 1]).p_value)
    for p_values in (exchanged, flipped):
        assert np.mean(np.array(p_values) <= baselines.LEVEL) <= 0.05 and 0.3 < np.mean(p_values) < 0.7


def test_a_sample_is_the_same_whatever_the_order(rng):
    images = [(np.array([value]), np.zeros(value % 3)) for value in range(3 * baselines.SAMPLE_SIZE)]
    samples = []
    for _ in range(2):
        order, parts = rng.permutation(len(images)), [baselines.ImageSample() for _ in range(3)]
        for index in order:
            parts[index % 3].add(images[index], rank=0 if index < 10 else 1)
        for part in parts[1:]:
            parts[0].merge(part)
        samples.append([int(image[0].item()) for image in parts[0].images()])
    assert samples[0] == samples[1] and len(samples[0]) == baselines.SAMPLE_SIZE
    assert set(range(10)) < set(samples[0])


# === Settings ===


def test_rules_are_disabled_by_name():
    labels, predicted = [0] * 45 + [1] * 4, [0] * 49
    some = of_labels(labels, predicted, disabled_rules=("beats_constant", "classes_correct"))
    assert {gate.rule for gate in some.failures} == {"beats_chance", "classes_predicted"}
    report = of_labels(labels, predicted, disabled_rules=RULES)
    assert report.blessed and results(report) == dict.fromkeys(RULES)
    assert report.rules[0].detail == "is disabled by evaluation.disabled_rules"
    assert report.not_compared == []


def test_classes_of_the_train_split_are_read_from_its_statistics():
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    features = statistics.datasets.add().features
    for name, counts in (("mask/class/text", {"road": 40, "car": 3}), ("slice/camera", {"car": 9, "bus": 1})):
        feature = features.add()
        feature.path.step.append(name)
        for label, count in counts.items():
            feature.string_stats.rank_histogram.buckets.add(label=label, sample_count=count)
    assert default_rules.class_counts(statistics, ("mask/class/text",)) == {"road": 40, "car": 3}
    assert default_rules.class_counts(statistics, ("image/class/text",)) == {}


@pytest.mark.parametrize("task", tasks.names())
def test_every_task_has_the_rules(task):
    names = default_rules.rule_names(task)
    assert set(RULES) <= set(names) and len(set(names)) == len(names)
    assert all(text.endswith(".") for text in default_rules.descriptions(task).values())
    with pytest.raises(ValueError, match=r"no default rule `beats_constants`\. Did you mean `beats_constant`\?"):
        options.check_bounds(EvaluationOptions(disabled_rules=("beats_constants",)).with_task_defaults(task), task)
    with pytest.raises(ValueError, match=r"They are: beats_constant, "):
        options.check_bounds(EvaluationOptions(disabled_rules=("xyz",)).with_task_defaults(task), task)


# === Thresholds at chance level ===


@pytest.mark.parametrize(
    ("configured", "warning"),
    [
        ({}, "evaluation.thresholds: accuracy = 0.5 is not above chance: on the test split, 0.9 is reached"),
        ({"thresholds": {"accuracy": 0.9}}, "accuracy = 0.9 is not above chance"),
        ({"thresholds": {"accuracy": 0.91}}, None),
        ({"thresholds": {"macro_recall": 0.5}}, "macro_recall = 0.5 is not above chance"),
        ({"thresholds": {"macro_recall": 0.51}}, None),
        ({"thresholds": {"macro_auc": 0.4}}, "macro_auc = 0.4 is not above chance: on the test split, 0.5"),
        (
            {"thresholds": {"cross_entropy": 0.33}},
            "cross_entropy = 0.33 is not below chance: on the test split, 0.3251",
        ),
        ({"thresholds": {"cross_entropy": 0.32}}, None),
        (
            {"thresholds": {"accuracy": 0.95}, "class_thresholds": {"recall": 0.05}},
            "evaluation.class_thresholds: recall = 0.05 (`a`, `b`) is not above chance",
        ),
        ({"thresholds": {"accuracy": 0.95}, "class_thresholds": {"recall": {"b": 0.2}}}, None),
    ],
)
def test_thresholds_at_chance_level_are_reported(configured, warning):
    report = of_labels([0] * 36 + [1] * 4, [0] * 36 + [1] * 4, ["a", "b"], **configured)
    assert len(report.warnings) == (warning is not None)
    assert report.blessed
    if warning:
        assert warning in report.warnings[0]


def test_thresholds_of_masks_at_chance_level(rng):
    truth = blocks(rng)
    report = of_masks(zip(truth, truth, strict=True), thresholds={"mean_iou": 0.45, "pixel_accuracy": 0.95})
    assert [text.split(" = ")[0] for text in report.warnings] == ["evaluation.thresholds: mean_iou"]


def test_slices_at_chance_level_are_one_warning():
    slices = [
        SliceMetrics(
            name=f"camera = {name}", key=(("camera", name),), examples=40, metrics={}, support={"a": count, "b": 10}
        )
        for name, count in (("x", 30), ("y", 90), ("z", 10))
    ]
    overall = SliceMetrics(name="all", examples=40, metrics={}, support={"a": 10, "b": 10})
    evaluation = EvaluationResult(
        task="classification",
        split="test",
        classes=("a", "b"),
        count_unit="images",
        metrics=tasks.get("classification").evaluation.metrics(3),
        candidate=(overall, *slices),
    )
    configured = EvaluationOptions(thresholds={"accuracy": 0.6}, slice_thresholds={"accuracy": 0.6})
    (warning,) = chance.warnings(evaluation, configured)
    assert "slice_thresholds: accuracy = 0.6 (`camera = x`, `camera = y`)" in warning and "0.9 is reached" in warning
