"""The plots of the report that tasks define, and the statistics of labels; values, no pages."""

import math

import numpy as np
import pytest
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.evaluator.artifact import EvaluationResult, SliceMetrics
from components.model_report import label_statistics, reading, task_plots
from components.model_report.label_statistics import Distribution, SplitLabels, bin_shares
from components.model_report.tables import NO_VALUE
from trainer_module import features, tasks
from trainer_module.evaluation import box_plots
from trainer_module.evaluation.box_matching import ERROR_TYPES
from trainer_module.evaluation.plots import BarPlot, CurvePlot

DETECTION = tasks.get("detection")
CLASSES = ("cat", "dog", "owl")


def evaluation(precision, precision_75, class_metrics, lost, threshold=0.4, classes=CLASSES):
    overall = SliceMetrics(
        name="all",
        examples=9,
        metrics={"ap50": 0.6, **{f"ap_lost_{name}": value for name, value in zip(ERROR_TYPES, lost, strict=True)}},
        support=dict.fromkeys(classes, 3),
        class_metrics=dict(zip(classes, class_metrics, strict=True)),
        details={
            "precision_by_recall": precision,
            "precision_by_recall_75": precision_75,
            "served_threshold": [[threshold]] * len(classes),
            "errors": [[0] * 6] * len(classes),
        },
    )
    return EvaluationResult(
        task="detection",
        split="test",
        classes=classes,
        count_unit="boxes",
        metrics=DETECTION.evaluation.metrics(3),
        candidate=(overall,),
    )


def metrics_of(ap50, ap75=0.1, recall=0.5, precision=0.8):
    return {"class_ap50": ap50, "class_ap75": ap75, "recall": recall, "precision": precision}


HALF = [1.0] * 51 + [0.0] * 50  # half of the objects are found, without errors
WHOLE = [1.0] * 101
UNDEFINED = [math.nan] * 101


@pytest.fixture
def groups():
    result = evaluation(
        [WHOLE, HALF, UNDEFINED],
        [HALF, [0.0] * 101, UNDEFINED],
        [metrics_of(1.0), metrics_of(0.5, recall=0.4, precision=0.9), metrics_of(math.nan, recall=math.nan)],
        [0.1, 0.3, 0.0, 0.0, 0.0, math.nan],
    )
    return task_plots.draw(result)


def test_every_class_with_objects_has_its_curves_the_weakest_first(groups):
    curves, _ = groups
    assert [chart.title for chart in curves.charts] == ["dog", "cat"] and not curves.bars
    assert [line.name for line in curves.charts[0].lines] == ["IoU 0.5", "IoU 0.75"]
    assert curves.charts[0].description == "AP50 0.500, AP75 0.100"
    assert "served threshold, 0.4;" in curves.text and curves.text.startswith("Every class")
    assert len({chart.key for chart in curves.charts}) == 2


def test_the_served_threshold_is_a_point_at_its_recall_and_precision(groups):
    dog = groups[0].charts[0]
    ends = [tick.position for tick in (dog.x_ticks[0], dog.x_ticks[-1], dog.y_ticks[0], dog.y_ticks[-1])]
    left, right, bottom, top = ends
    assert dog.dot.x == pytest.approx(left + 0.4 * (right - left), abs=0.02)
    assert dog.dot.y == pytest.approx(bottom + 0.9 * (top - bottom), abs=0.02)
    assert "recall 0.400, precision 0.900" in dog.dot.text


def test_a_curve_ends_at_the_largest_recall_that_is_reached(groups):
    dog = groups[0].charts[0]
    left, right = (dog.x_ticks[index].position for index in (0, -1))
    bottom, top = (dog.y_ticks[index].position for index in (0, -1))
    (line,) = dog.lines[0].parts
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    middle = pytest.approx((left + right) / 2, abs=0.01)
    # From recall 0 to 0.5 at precision 1, then down; the 49 points between are not stored.
    assert points == [(left, top), (middle, top), (middle, bottom)]
    assert dog.lines[1].parts == []  # no detection with this overlap
    values = {row[0].text: [cell.text for cell in row[1:]] for row in dog.table.rows}
    assert values["0.5"] == ["1.000", NO_VALUE] and values["0.6"] == [NO_VALUE, NO_VALUE] and len(values) == 11


def test_errors_are_sorted_by_the_precision_that_they_cost(groups):
    (bars,) = groups[1].bars
    assert [(bar.name, bar.text, bar.share) for bar in bars.bars[:2]] == [
        ("Localisation", "0.3000", "75%"),
        ("Classification", "0.1000", "25%"),
    ]
    assert len(bars.bars) == len(ERROR_TYPES) and all(bar.meaning.endswith(".") for bar in bars.bars)
    assert "0.6000" in groups[1].text


def test_a_model_without_errors_has_bars_of_no_length():
    result = evaluation([WHOLE] * 3, [WHOLE] * 3, [metrics_of(1.0)] * 3, [0.0] * 6)
    (bars,) = task_plots.draw(result)[1].bars
    assert {(bar.value, bar.share) for bar in bars.bars} == {(0.0, "0%")}


def test_of_many_classes_the_weakest_are_plotted():
    names = tuple(f"class {index:02d}" for index in range(40))
    values = [metrics_of(index / 40) for index in range(40)]
    result = evaluation([HALF] * 40, [HALF] * 40, values, [0.0] * 6, classes=names)
    (curves, _) = task_plots.draw(result)
    assert [chart.title for chart in curves.charts] == list(names[: box_plots.MAX_PLOTTED_CLASSES])
    assert curves.text.startswith("The 24 weakest of 40 classes")


def test_slices_and_tasks_without_details_have_no_plots():
    empty = SliceMetrics(name="all", examples=0, metrics={})
    for name in tasks.names():
        assert tasks.get(name).evaluation.plots(empty) == ()


def test_plots_are_made_of_what_the_evaluation_stores(rng):
    """From an accumulator through JSON to the charts."""
    from trainer_module.evaluation.spec import Parameters

    specification, parameters = DETECTION.evaluation, Parameters(num_classes=3, top_k=3)
    accumulator = specification.accumulator(parameters)
    for class_id in (0, 1, 0):
        accumulator.add(specification.element(*specification.random_example(rng, parameters, class_id), parameters))
    summary = accumulator.summarize()
    values = {metric.name: np.atleast_1d(metric.compute(summary)) for metric in specification.metrics(3)}
    overall = SliceMetrics(
        name="all",
        examples=3,
        metrics={
            metric.name: values[metric.name][0] for metric in specification.metrics(3) if metric.scope == "overall"
        },
        class_metrics={
            name: {m.name: values[m.name][index] for m in specification.metrics(3) if m.scope == "per_class"}
            for index, name in enumerate(CLASSES)
        },
        details={name: array.tolist() for name, array in specification.details(summary).items()},
    )
    curves, errors = specification.plots(SliceMetrics.model_validate_json(overall.model_dump_json()))
    assert {plot.title for plot in curves.plots} == {"cat", "dog"}
    assert all(isinstance(plot, CurvePlot) for plot in curves.plots) and isinstance(errors.plots[0], BarPlot)


# === Statistics of labels ===


@pytest.mark.parametrize(
    ("buckets", "edges", "whole", "shares"),
    [
        # A bucket of equal values is a point.
        ([(1, 1, 30), (1, 2, 50), (2, 3, 20)], [0.5, 1.5, 2.5, 3.5], True, [0.3, 0.5, 0.2]),
        ([(0, 0, 2), (0, 4, 8)], [-0.5, 0.5, 2.5, 4.5], True, [0.2, 0.4, 0.4]),
        ([(0.0, 1.0, 10)], [0.0, 0.25, 1.0], False, [0.25, 0.75]),
        ([(0.2, 0.4, 5), (0.4, 0.4, 5)], [0.0, 0.3, 0.4], False, [0.25, 0.75]),
        ([], [0.0, 1.0], False, [0.0]),
    ],
)
def test_quantiles_become_shares_of_bins(buckets, edges, whole, shares):
    assert bin_shares(buckets, edges, whole) == pytest.approx(shares)


def statistics_of(boxes_per_image, sizes, classes):
    message = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = message.datasets.add()
    for key, values in ((features.BOX_COUNT, boxes_per_image), (features.BOX_SIZE, sizes)):
        feature = dataset.features.add()
        feature.path.step.append(key)
        stats = feature.num_stats
        stats.common_stats.tot_num_values, stats.num_zeros = len(values), values.count(0)
        stats.min, stats.median, stats.max = min(values), float(np.median(values)), max(values)
        stats.histograms.add(type=statistics_pb2.Histogram.STANDARD).buckets.add(low_value=0, high_value=9)
        quantiles = stats.histograms.add(type=statistics_pb2.Histogram.QUANTILES)
        for value in values:
            quantiles.buckets.add(low_value=value, high_value=value, sample_count=1)
    feature = dataset.features.add()
    feature.path.step.append(features.BOX_CLASSES)
    for name, number in classes.items():
        feature.string_stats.rank_histogram.buckets.add(label=name, sample_count=number)
    return message


def labels_of(split, *values):
    keys = [statistic.feature for statistic in DETECTION.label_statistics]
    return reading.split_labels(split, statistics_of(*values), keys, DETECTION.class_features)


def test_boxes_are_counted_by_split_and_class():
    labels = [
        labels_of("train", [0, 1, 2, 0], [0.1, 0.2, 0.3], {"cat": 1, "dog": 2}),
        labels_of("test", [3], [0.5, 0.5, 1.0], {"dog": 3}),
    ]
    summary = label_statistics.summarize(labels, DETECTION.label_statistics, CLASSES, "boxes")
    train, test = summary.table.rows
    assert [cell.text for cell in train[:4]] == ["train", "3", "0.5", "0.2"]
    assert train[2].note == "0 to 2; 2 without" and test[2].note == "3 to 3" and train[3].note == "0.1 to 0.3"
    assert train[4].text == NO_VALUE  # no statistics of the aspect ratio
    assert [[cell.text for cell in row] for row in summary.classes.rows] == [
        ["owl", "0", "0.0%", "0", "0.0%"],
        ["cat", "1", "33.3%", "0", "0.0%"],
        ["dog", "2", "66.7%", "3", "100.0%"],
    ]
    counts, sizes = summary.charts
    # All values of a split have a share of at most 100 %: its axis ends there.
    assert [tick.label for tick in counts.y_ticks] == ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
    assert [line.name for line in counts.lines] == ["train", "test"]
    assert [row[0].text for row in counts.table.rows] == ["0", "1", "2", "3"]
    assert [row[1].text for row in counts.table.rows] == ["50.0", "25.0", "25.0", "0.0"]
    assert len(sizes.table.rows) == 20 and counts.title == "Boxes per image"


def test_distributions_of_one_value_and_of_many_counts_are_drawn():
    (statistic,) = [entry for entry in DETECTION.label_statistics if entry.scale == "ratio"]
    single = Distribution(3, 0, 1.0, 1.0, 1.0, ((1.0, 1.0, 3.0),))
    labels = [SplitLabels("train", {"cat": 3}, {statistic.feature: single})]
    (chart,) = label_statistics.summarize(labels, DETECTION.label_statistics, CLASSES, "boxes").charts
    assert [tick.label for tick in chart.x_ticks] == ["1/2", "1", "2"]
    assert sum(row[1].sort for row in chart.table.rows) == pytest.approx(100.0)
    many = Distribution(2, 0, 0, 400, 900, ((0.0, 400.0, 1.0), (400.0, 900.0, 1.0)))
    labels = [SplitLabels("train", {}, {features.BOX_COUNT: many})]
    (chart,) = label_statistics.summarize(labels, DETECTION.label_statistics, CLASSES, "boxes").charts
    assert 20 < len(chart.table.rows) <= 42 and sum(row[1].sort for row in chart.table.rows) == pytest.approx(
        100, abs=1
    )


def test_a_task_without_such_statistics_has_no_summary():
    assert label_statistics.summarize([], DETECTION.label_statistics, CLASSES, "boxes") is None
    labels = [SplitLabels("train", {}, {})]
    assert label_statistics.summarize(labels, tasks.get("classification").label_statistics, CLASSES, "images") is None
