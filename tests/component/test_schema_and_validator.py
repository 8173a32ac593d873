"""The curated schema, and ExampleValidator as a gate."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components.example_validator import drift
from components.example_validator import executor as validator
from components.example_validator.artifact import DriftReport
from components.example_validator.findings import AnomaliesFoundError
from components.example_validator.options import DriftOptions
from components.image_example_gen.labels import CLASS_LABEL, MASK_LABEL, MULTI_LABEL
from components.schema_gen import curation
from components.schema_gen.options import SchemaOptions
from trainer_module import features


def statistics(classes, format_="JPEG", brightness="dark", luma=None, drop=None):
    """TFDV's statistics of a few examples with these classes."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            features.CLASS_TEXT: classes,
            features.IMAGE_FORMAT: [format_] * len(classes),
            features.IMAGE_HEIGHT: [32] * len(classes),
            features.IMAGE_WIDTH: [48] * len(classes),
            features.mean_key(features.LUMA): luma
            if luma is not None
            else [float(i % 100) for i in range(len(classes))],
            features.SLICE_BRIGHTNESS: [brightness] * len(classes),
        }
    )
    return tfdv.generate_statistics_from_dataframe(
        frame.drop(columns=drop) if drop else frame,
        tfdv.StatsOptions(num_quantiles_histogram_buckets=drift.NUM_QUANTILES),
    )


def curate(train, *others, margin=0.5, classes=("a", "b"), label=CLASS_LABEL, single_valued=CLASS_LABEL):
    options = SchemaOptions(domain_margin=margin, label_features=label, single_valued_features=single_valued)
    return curation.curate(tfdv.infer_schema(train), [train, *others], options, classes)


def make_schema(stats, margin=0.5):
    return curate(stats, margin=margin, classes=tuple(sorted(class_names(stats))))


def class_names(stats):
    (feature,) = [f for f in stats.datasets[0].features if f.path.step[0] == features.CLASS_TEXT]
    return {bucket.label for bucket in feature.string_stats.rank_histogram.buckets}


@pytest.fixture
def schema():
    return make_schema(statistics(["a", "b", "b"]))


@pytest.fixture
def validate(tmp_path, schema):
    """Runs the validator on statistics by split; returns its report."""

    def artifact(artifact_type, name, by_split=None, proto=None, span=0):
        result = artifact_type()
        result.uri = str(tmp_path / name)
        os.makedirs(result.uri)
        if by_split:
            result.split_names = json.dumps(list(by_split))
            result.span = span
            for split, stats in by_split.items():
                os.makedirs(f"{result.uri}/Split-{split}")
                with tf.io.gfile.GFile(f"{result.uri}/Split-{split}/FeatureStats.pb", "wb") as file:
                    file.write(stats.SerializeToString())
        if proto is not None:
            io_utils.write_pbtxt_file(f"{result.uri}/schema.pbtxt", proto)
        return result

    def run(previous=None, own=None, options=None, **by_split):
        inputs = {
            "statistics": [artifact(standard_artifacts.ExampleStatistics, "stats", by_split, span=2)],
            "schema": [artifact(standard_artifacts.Schema, "schema", proto=own or schema)],
        }
        if previous is not None:
            inputs["previous_statistics"] = [
                artifact(standard_artifacts.ExampleStatistics, "previous", {"train": previous}, span=1)
            ]
            inputs["previous_schema"] = [
                artifact(standard_artifacts.Schema, "previous_schema", proto=make_schema(previous))
            ]
        anomalies = artifact(standard_artifacts.ExampleAnomalies, "anomalies")
        options = (options or DriftOptions()).model_dump_json()
        validator.Executor().Do(inputs, {"anomalies": [anomalies]}, {"options": options})
        return DriftReport.read(str(tmp_path / "anomalies"))

    return run


def test_the_schema_has_types_without_statistics(schema):
    by_name = {feature.name: feature for feature in schema.feature}
    for name in curation.UNCOUNTED:
        assert by_name[name].type == schema_pb2.BYTES
        assert by_name[name].presence.min_fraction == 1.0
    assert list(by_name[features.IMAGE_FORMAT].string_domain.value) == ["GIF", "JPEG", "PNG"]
    assert not by_name[features.SLICE_BRIGHTNESS].domain
    assert list(by_name[features.CLASS_TEXT].string_domain.value) == ["a", "b"]


def test_transform_can_parse_examples_with_the_schema(schema):
    from tensorflow_transform.tf_metadata import schema_utils

    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert spec[features.IMAGE_ENCODED] == tf.io.FixedLenFeature([1], tf.string)
    assert spec[features.CLASS_TEXT] == tf.io.FixedLenFeature([1], tf.string)


def test_images_that_match_the_schema_are_accepted(validate):
    validate(train=statistics(["a", "b"]), test=statistics(["a"], format_="PNG", brightness="bright"))


@pytest.mark.parametrize(
    ("stats", "text"),
    [
        (statistics(["a", "c"]), r"test split, image/class/text: Unexpected string values: .*c"),
        (statistics(["a", "b"], format_="TIFF"), r"test split, image/format: Unexpected string values: .*TIFF"),
        (statistics(["a", "b"], drop=[features.IMAGE_HEIGHT]), r"test split, image/height: Column dropped"),
    ],
    ids=["new class", "new format", "lost feature"],
)
def test_an_anomaly_refuses_the_dataset_with_its_text(validate, stats, text):
    with pytest.raises(AnomaliesFoundError, match=text):
        validate(train=statistics(["a", "b"]), test=stats)


def test_ranges_are_those_of_all_splits_widened():
    train, test = statistics(["a", "b"], luma=[50.0, 100.0]), statistics(["a"], luma=[120.0])
    schema = curate(train, test)
    by_name = {feature.name: feature for feature in schema.feature}
    luma = by_name[features.mean_key(features.LUMA)].float_domain
    assert (luma.min, luma.max) == (15.0, 155.0)
    assert (by_name[features.IMAGE_HEIGHT].int_domain.min, by_name[features.IMAGE_HEIGHT].int_domain.max) == (21, 48)


def test_masks_are_expected_if_they_are_part_of_the_label():
    stats = statistics(["a", "b"])
    names = {feature.name for feature in curate(stats, label=MASK_LABEL).feature}
    assert features.MASK_ENCODED in names
    assert features.MASK_ENCODED not in {feature.name for feature in make_schema(stats).feature}


def multi_valued(name, values):
    import pandas as pd

    return tfdv.generate_statistics_from_dataframe(pd.DataFrame({name: values}))


@pytest.mark.parametrize(
    ("name", "label"),
    [(features.MASK_CLASSES, MASK_LABEL), (features.CLASS_TEXT, CLASS_LABEL)],
    ids=lambda value: value,
)
def test_a_label_with_several_classes_may_have_any_number_of_them(name, label):
    stats = multi_valued(name, [["road", "car"]] * 20)
    schema = curate(stats, classes=("road", "car", "tree"), label=label, single_valued=())
    later = multi_valued(name, [["road"], None, ["tree", "road", "car"]])
    assert not tfdv.validate_statistics(later, schema, environment=curation.STATISTICS_ENVIRONMENT).anomaly_info
    unknown = multi_valued(name, [["road", "sea"]])
    anomalies = tfdv.validate_statistics(unknown, schema, environment=curation.STATISTICS_ENVIRONMENT).anomaly_info
    assert "sea" in anomalies[name].description


def test_a_label_of_one_class_must_have_one(schema):
    stats = multi_valued(features.CLASS_TEXT, [["a", "b"], ["a"]])
    anomalies = tfdv.validate_statistics(stats, schema, environment=curation.STATISTICS_ENVIRONMENT).anomaly_info
    assert "value lengths vary" in anomalies[features.CLASS_TEXT].description


def test_the_number_of_classes_has_a_range_and_a_drift_of_its_own():
    labels = [["a"], ["a", "b"], None, ["b"]] * 50
    stats = multi_valued(features.CLASS_TEXT, labels)
    schema = curate(stats, label=MULTI_LABEL, single_valued=())
    assert not tfdv.validate_statistics(stats, schema, environment=curation.STATISTICS_ENVIRONMENT).anomaly_info
    counts = multi_valued(features.CLASS_COUNT, [[1], [2], [0], [1]] * 50)
    (feature,) = [
        f for f in curate(counts, label=MULTI_LABEL, single_valued=()).feature if f.name == features.CLASS_COUNT
    ]
    assert feature.int_domain.min == 0 and not feature.HasField("value_count")
    moved = multi_valued(features.CLASS_COUNT, [[3], [2], [3], [1]] * 50)
    (difference,) = drift.compare(moved, counts, 0.1)
    assert difference.feature == features.CLASS_COUNT


# --- Drift ------------------------------------------------------------------------------------------------------


def sample(rng, size, shift=0.0, share=0.5):
    classes = ["a" if value < share else "b" for value in rng.random(size)]
    return statistics(classes, luma=list(np.clip(rng.normal(120 + shift, 30, size), 0, 255)))


@pytest.mark.parametrize("size", [60, 300, 3000])
def test_two_samples_of_the_same_images_are_accepted(validate, rng, size):
    now = sample(rng, size)
    report = validate(previous=sample(rng, size), train=now, own=make_schema(now))
    assert report == DriftReport(previous_span=1, skew=())


def test_without_a_previous_span_nothing_is_compared(validate):
    assert validate(train=statistics(["a", "b"])) == DriftReport(previous_span=None, skew=())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"shift": -45.0},
            r"drifted from those of span 1\.\s+train split, image/mean/luma: the distribution has moved by 0\.[4-9]",
        ),
        ({"share": 0.85}, r"train split, image/class/text: the share of `.` has moved"),
    ],
    ids=["darker", "another class balance"],
)
def test_planted_drift_is_detected(validate, rng, changes, text):
    now = sample(rng, 600, **changes)
    with pytest.raises(AnomaliesFoundError, match=text):
        validate(previous=sample(rng, 600), train=now, own=make_schema(now))


def test_findings_have_their_numbers(validate, rng):
    now = sample(rng, 600, shift=-45.0, share=0.85)
    with pytest.raises(AnomaliesFoundError) as raised:
        validate(previous=sample(rng, 600), train=now, own=make_schema(now))
    balance, luma = raised.value.findings
    assert (balance.kind, balance.split, balance.feature) == ("drift", "train", features.CLASS_TEXT)
    assert balance.value in ("a", "b") and balance.distance == pytest.approx(0.35, abs=0.06)
    assert (luma.feature, luma.value) == (features.mean_key(features.LUMA), None)
    assert luma.distance > luma.allowed > 0.1
    assert all(f"allowed {finding.allowed:.2f}" in str(finding) in str(raised.value) for finding in (balance, luma))


def test_drift_can_be_accepted(validate, rng):
    now = sample(rng, 600, shift=-45.0)
    report = validate(previous=sample(rng, 600), train=now, own=make_schema(now), options=DriftOptions(on_drift="warn"))
    assert len(report.drift) == 1 and report.drift[0].feature == "image/mean/luma"


def test_values_outside_the_ranges_of_the_previous_span(validate):
    before = statistics(["a", "b"] * 50, luma=[100.0 + i % 20 for i in range(100)])
    now = statistics(["a", "b"] * 50, luma=[100.0 + i % 20 for i in range(99)] + [250.0])
    with pytest.raises(AnomaliesFoundError, match=r"train split, image/mean/luma: Out-of-range values"):
        validate(previous=before, train=now, own=make_schema(now))


def test_odd_images_and_few_sizes_are_not_drift(rng):
    """Buckets between the smallest and the largest value would report drift."""
    import pandas as pd

    def stats(**columns):
        options = tfdv.StatsOptions(num_quantiles_histogram_buckets=drift.NUM_QUANTILES)
        return tfdv.generate_statistics_from_dataframe(pd.DataFrame(columns), options)

    sizes = rng.choice([480, 500, 600, 640], 1000)
    flat = np.full(1000, 100)
    colors = rng.normal(120, 5, 1000)
    before = stats(a=sizes, b=flat, c=rng.choice([480, 640], 1000), d=colors)
    now = stats(
        a=np.append(rng.choice([480, 500, 600, 640], 999), 4000),
        b=np.append(flat[1:], 130),
        c=np.append(rng.choice([480, 640], 999), 900),
        d=np.append(rng.normal(120, 5, 998), [1.0, 254.0]),
    )
    assert drift.compare(now, before, 0.1) == drift.compare(before, now, 0.1) == []
    moved = stats(a=sizes + 40, b=flat + 1, c=rng.choice([480, 640], 1000, p=[0.2, 0.8]), d=colors + 5)
    assert [difference.feature for difference in drift.compare(moved, before, 0.1)] == ["a", "b", "c", "d"]


def test_the_distance_of_distributions_is_scipys(rng):
    from scipy.stats import ks_2samp

    for first, second in (
        (rng.normal(0, 1, 5000), rng.normal(0.7, 1, 5000)),
        (rng.integers(0, 4, 5000), rng.integers(0, 5, 5000)),
        (np.zeros(500), np.ones(500)),
    ):
        quantiles = [np.quantile(values, np.linspace(0, 1, drift.NUM_QUANTILES + 1)) for values in (first, second)]
        expected = ks_2samp(first, second).statistic
        assert drift.kolmogorov_smirnov(*quantiles) == pytest.approx(expected, abs=1 / drift.NUM_QUANTILES)


# --- Skew -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"shift": -45.0},
            r"The splits differ\.\s+test split, image/mean/luma: the distribution differs by 0\.[4-9]\d .*; "
            r"median 1\d\d\S* in train, \d\d\S* in test",
        ),
        ({"share": 0.85}, r"test split, image/class/text: the share of `.` differs .*% in train, .*% in test"),
    ],
    ids=["darker", "another class balance"],
)
def test_planted_skew_is_refused_if_configured(validate, rng, changes, text):
    train = sample(rng, 600)
    with pytest.raises(AnomaliesFoundError, match=text) as raised:
        validate(train=train, test=sample(rng, 600, **changes), own=make_schema(train), options=STRICT)
    (finding,) = raised.value.findings
    assert (finding.kind, finding.split) == ("skew", "test") and finding.distance > finding.allowed
    assert 'validation.on_skew="warn"' in str(raised.value)


STRICT = DriftOptions(on_skew="stop")


@pytest.mark.parametrize("size", [60, 3000])
def test_splits_of_the_same_images_are_accepted(validate, rng, size):
    train = sample(rng, size)
    schema = make_schema(train, margin=2.0)
    assert validate(train=train, test=sample(rng, size // 2), own=schema, options=STRICT).skew == ()


def test_skew_is_reported_or_ignored(validate, tmp_path, rng):
    train, test = sample(rng, 600), sample(rng, 600, shift=-45.0)
    (line,) = validate(train=train, test=test, own=make_schema(train)).skew
    assert str(line).startswith("test split, image/mean/luma: the distribution differs by")
    for folder in tmp_path.iterdir():
        shutil.rmtree(folder)
    ignored = DriftOptions(on_skew="ignore")
    assert validate(train=train, test=test, own=make_schema(train), options=ignored).skew is None


def test_a_larger_difference_can_be_allowed(validate, rng):
    train, test = sample(rng, 600), sample(rng, 600, share=0.85)
    wide = DriftOptions(on_skew="stop", skew_threshold=0.5)
    assert validate(train=train, test=test, own=make_schema(train), options=wide).skew == ()


def test_all_reasons_of_a_refusal_are_reported_at_once(validate, rng):
    before, now = sample(rng, 600), sample(rng, 600, shift=-45.0)
    with pytest.raises(AnomaliesFoundError) as raised:
        validate(previous=before, train=now, test=sample(rng, 600), own=make_schema(statistics(["a"])), options=STRICT)
    assert {finding.kind for finding in raised.value.findings} == {"anomaly", "drift", "skew"}
    for heading in ("do not match the schema", "have drifted from those of span 1", "The splits differ"):
        assert heading in str(raised.value)


def test_slice_columns_may_be_added_and_removed(validate):
    now = statistics(["a", "b"] * 50, brightness="bright")
    before = statistics(["a", "b"] * 50, drop=[features.SLICE_BRIGHTNESS])
    assert validate(previous=before, train=now, own=make_schema(now)).drift == ()


def test_more_than_a_hundred_classes_are_in_the_schema(validate):
    names = [f"class-{i:03d}" for i in range(150)]
    now = statistics([*names, "new"])
    with pytest.raises(AnomaliesFoundError, match="missing from the schema: new"):
        validate(previous=statistics(names), train=now, own=make_schema(now))


def test_a_class_that_the_previous_span_did_not_have(validate):
    now = statistics(["a", "b", "c"] * 30)
    with pytest.raises(AnomaliesFoundError, match=r"image/class/text: .*missing from the schema: c"):
        validate(previous=statistics(["a", "b"] * 45), train=now, own=make_schema(now))
