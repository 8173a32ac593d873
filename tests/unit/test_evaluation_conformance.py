"""The contract of the evaluation of every task, and the errors of metrics that break it."""

import itertools
import math
import pickle

import numpy as np
import pydantic
import pytest

from trainer_module import tasks
from trainer_module.evaluation.baselines import CORRECT, OCCURRING, PREDICTED
from trainer_module.evaluation.spec import Evaluation, MetricSpec, Parameters, in_scope

PARAMETERS = Parameters(num_classes=4, top_k=3, ignore_id=255)
TOLERANCE = 1e-9
REPETITIONS = 3  # random datasets for each subset of classes


@pytest.fixture(params=tasks.names())
def evaluation(request):
    return tasks.get(request.param).evaluation


def elements(evaluation: Evaluation, random, class_ids, parameters=PARAMETERS):
    """Counts of examples of these classes."""
    examples = [evaluation.random_example(random, parameters, class_id) for class_id in class_ids]
    return [evaluation.element(*example, parameters) for example in examples]


def count(evaluation: Evaluation, added):
    accumulator = evaluation.accumulator(PARAMETERS)
    for element in added:
        accumulator.add(element)
    return accumulator


def values(evaluation: Evaluation, accumulator):
    """Metric → float64 [1], or [num_classes] if it is per class."""
    summary = accumulator.summarize()
    return {
        metric.name: np.atleast_1d(metric.compute(summary)).astype(float)
        for metric in evaluation.metrics(PARAMETERS.top_k)
    }


def check_metrics(evaluation: Evaluation, random) -> None:
    """Values have the declared shape and range, and all metrics that share a reason are undefined together."""
    metrics = evaluation.metrics(PARAMETERS.top_k)
    ids = range(PARAMETERS.num_classes)
    subsets = [subset for size in range(len(ids) + 1) for subset in itertools.combinations(ids, size)]
    for subset in subsets * REPETITIONS:
        class_ids = random.choice(subset, 6) if subset else []
        result = values(evaluation, count(evaluation, elements(evaluation, random, class_ids)))
        undefined: dict[tuple[str, str], np.ndarray] = {}
        for metric in metrics:
            computed = result[metric.name]
            assert len(computed) == (PARAMETERS.num_classes if metric.scope == "per_class" else 1), metric.name
            for value in computed[~np.isnan(computed)]:
                message = f"{metric.name} is {value}, which is not {metric.range_text}"
                assert abs(metric.clip(value) - value) <= TOLERANCE, message
            expected = undefined.setdefault((metric.scope, metric.undefined_when), np.isnan(computed))
            np.testing.assert_array_equal(np.isnan(computed), expected, metric.name)
        if not subset:
            assert all(cells.all() for cells in undefined.values()), "metrics without examples are undefined"


def test_records_describe_all_metrics(evaluation):
    metrics = evaluation.metrics(5)
    assert len({metric.name for metric in metrics}) == len(metrics)
    assert {metric.name for metric in evaluation.metrics(7)} - {metric.name for metric in metrics} in (
        set(),
        {"top_7_accuracy"},
    )
    overall = {metric.name for metric in in_scope(metrics, "overall")}
    for scope in ("overall", "per_class"):
        assert sum(metric.main for metric in in_scope(metrics, scope)) == 1
    assert any(metric.threshold is not None for metric in metrics), "without thresholds any first model would be pushed"
    for metric in metrics:
        assert metric.description.endswith(".") and metric.description[0].isupper()
        assert metric.heading and not metric.undefined_when.endswith(".")
        assert metric.mean_metric is None or (metric.scope == "per_class" and metric.mean_metric in overall)
        stored = MetricSpec.model_validate_json(metric.model_dump_json())
        assert stored == metric.model_copy(update={"compute": None, "chance": None}) and metric.compute is not None


def test_values_have_the_declared_range_and_are_undefined_as_declared(evaluation, rng):
    check_metrics(evaluation, rng)


def test_all_metrics_are_defined_if_all_classes_have_examples(evaluation, rng):
    class_ids = np.tile(range(PARAMETERS.num_classes), 25)
    accumulator = count(evaluation, elements(evaluation, rng, class_ids))
    for name, computed in values(evaluation, accumulator).items():
        assert np.isfinite(computed).all(), name
    summary = accumulator.summarize()
    support = evaluation.support(summary)
    assert support.shape == (PARAMETERS.num_classes,) and (support > 0).all()
    if evaluation.confusion_matrix:
        matrix = evaluation.confusion_matrix(summary)
        assert matrix.shape == (PARAMETERS.num_classes + evaluation.has_background,) * 2
        np.testing.assert_array_equal(matrix.sum(axis=1)[: PARAMETERS.num_classes], support)
    if evaluation.reliability:
        number, confidence, correct = evaluation.reliability(summary)
        assert (confidence <= number).all() and (correct <= number).all() and number.sum() > 0


def test_chance_is_a_possible_value_below_a_perfect_one(evaluation, rng):
    shares = rng.dirichlet(np.ones(PARAMETERS.num_classes))
    for metric in evaluation.metrics(2):
        if metric.chance is not None:
            levels = np.atleast_1d(metric.chance(shares))
            assert levels.shape == ((PARAMETERS.num_classes,) if metric.scope == "per_class" else (1,)), metric.name
            best = metric.maximum if metric.higher_is_better else metric.minimum
            assert all(metric.allows(level) and metric.is_better(best, level) for level in levels), metric.name
    defaults = [metric for metric in evaluation.metrics(2) if metric.threshold is not None]
    assert all(metric.chance is not None for metric in defaults), "a default bound must be comparable with chance"


def test_random_predictions_do_not_beat_chance(evaluation, rng):
    class_ids = rng.integers(0, PARAMETERS.num_classes, 60)
    summary = count(evaluation, elements(evaluation, rng, class_ids)).summarize()
    evidence = {name: np.array(counts.tolist()) for name, counts in evaluation.evidence(summary).items()}
    occurring, predicted, correct = (evidence[key] for key in (OCCURRING, PREDICTED, CORRECT))
    for counts in (occurring, predicted, correct):
        assert counts.shape == (PARAMETERS.num_classes,) and counts.dtype == np.int64
    assert (occurring > 0).all() and (correct <= np.minimum(occurring, predicted)).all()
    classes = [f"class {index}" for index in range(PARAMETERS.num_classes)]
    assert {"constant", "chance"} <= {baseline.name for baseline in evaluation.constant_baselines}
    # Noise may beat masks of one class if each image has another frequent class, but not guesses.
    passed = {baseline.name: baseline.compare(evidence, classes).passed for baseline in evaluation.constant_baselines}
    assert passed["chance"] is False


def test_counts_can_be_added_in_any_order(evaluation, rng):
    parts = [elements(evaluation, rng, rng.integers(0, PARAMETERS.num_classes, 7)) for _ in range(3)]
    expected = values(evaluation, count(evaluation, itertools.chain(*parts)))
    for order in itertools.permutations(range(3)):
        merged, first, second = (evaluation.accumulator(PARAMETERS) for _ in range(3))
        accumulators = [pickle.loads(pickle.dumps(count(evaluation, parts[index]))) for index in order]
        # a + (b + c) and (a + b) + c
        first.merge(accumulators[1])
        first.merge(accumulators[2])
        merged.merge(accumulators[0])
        merged.merge(first)
        for accumulator in accumulators:
            second.merge(accumulator)
        whole = evaluation.evidence(count(evaluation, itertools.chain(*parts)).summarize())
        for accumulator in (merged, second):
            for name, counts in evaluation.evidence(accumulator.summarize()).items():
                np.testing.assert_array_equal(counts, whole[name], name)
        for computed in (values(evaluation, merged), values(evaluation, second)):
            for name, value in computed.items():
                np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
    # A summary does not change with later examples.
    before = merged.summarize()
    kept = [metric.compute(before) for metric in evaluation.metrics(3)]
    merged.add(parts[0][0])
    for metric, value in zip(evaluation.metrics(3), kept, strict=True):
        np.testing.assert_array_equal(metric.compute(before), value, metric.name)


def test_labels_out_of_range_are_rejected(evaluation, rng):
    with pytest.raises(ValueError, match=r"class|label"):
        count(evaluation, elements(evaluation, rng, [PARAMETERS.num_classes]))


# === Injected faults ===


def with_metric(evaluation: Evaluation, **fields) -> Evaluation:
    """The evaluation of a task with one more metric."""
    extra = MetricSpec(
        **{"name": "extra", "description": "A metric of this test.", "undefined_when": "there are no examples"} | fields
    )
    replaced = {name: getattr(evaluation, name) for name in evaluation.__dataclass_fields__}
    return Evaluation(**replaced | {"metrics": lambda top_k: (*evaluation.metrics(top_k), extra)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compute": lambda summary: summary.cross_entropy + 1.0}, r"extra is .*, which is not between 0 and 1"),
        ({"compute": lambda summary: summary.matrix.accuracy - 0.5}, r"extra is -0.*, which is not between 0 and 1"),
        ({"compute": lambda summary: summary.auc}, "extra"),
        ({"compute": lambda summary: float(np.nan_to_num(summary.matrix.accuracy))}, "extra"),
        ({"compute": lambda summary: 0.5, "undefined_when": "pigs fly"}, "metrics without examples are undefined"),
        (
            {
                "compute": lambda summary: summary.auc,
                "scope": "per_class",
                "undefined_when": "the class has no examples",
            },
            "extra",
        ),
    ],
    ids=["above", "below", "shape", "defined without examples", "never undefined", "wrong reason"],
)
def test_a_metric_that_breaks_its_record_fails_the_conformance_test(rng, fields, message):
    with pytest.raises(AssertionError, match=message):
        check_metrics(with_metric(tasks.get("classification").evaluation, **fields), rng)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"description": ""}, "at least 20 characters"),
        ({"description": None}, "valid string"),
        ({"undefined_when": ""}, "at least 1 character"),
        ({"name": "Top K"}, "match pattern"),
        ({"minimum": 1.0}, "minimum 1 is not below maximum 1"),
        ({"threshold": 1.5}, "threshold 1.5 is not between 0 and 1"),
        ({"change_threshold": 2.5, "minimum": -1.0}, "change_threshold 2.5 is not between 0 and 2"),
        ({"range": (0, 1)}, "Extra inputs are not permitted"),
    ],
)
def test_an_incomplete_or_contradictory_record_is_rejected(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        MetricSpec(
            **{"name": "extra", "description": "A metric of this test.", "undefined_when": "there are no examples"}
            | fields
        )


def test_every_record_needs_a_description_and_a_reason():
    required = {name for name, field in MetricSpec.model_fields.items() if field.is_required()}
    assert required == {"name", "description", "undefined_when"}


# === Ranges ===


@pytest.mark.parametrize(
    ("minimum", "maximum", "allowed", "refused", "text", "change_text"),
    [
        (0.0, 1.0, 0.5, -0.1, "between 0 and 1", "between 0 and 1"),
        (-1.0, 1.0, -0.5, -1.1, "between -1 and 1", "between 0 and 2"),
        (0.0, None, 7.0, -0.1, "0 or more", "0 or more"),
        (None, 0.0, -7.0, 0.1, "0 or less", "0 or more"),
        (None, None, -7.0, math.nan, "any number", "0 or more"),
    ],
)
def test_ranges(minimum, maximum, allowed, refused, text, change_text):
    metric = MetricSpec(
        name="extra",
        description="A metric of this test.",
        undefined_when="there are no examples",
        minimum=minimum,
        maximum=maximum,
    )
    assert metric.allows(allowed) and not metric.allows(refused)
    assert metric.clip(allowed) == allowed and not math.isinf(metric.clip(allowed))
    assert (metric.range_text, metric.change_range_text) == (text, change_text)
    assert metric.allows_change(0.0) and not metric.allows_change(-0.1)
    assert metric.allows_change(2.5) == (minimum is None or maximum is None)
    assert (metric.title, metric.heading) == ("extra", "Extra")
