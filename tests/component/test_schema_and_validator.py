"""The curated schema, and the validator as a gate."""

import os

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils

from components.example_validator import executor as validator
from components.schema_gen import executor as schema_gen
from trainer_module import features


def statistics(classes, format_="JPEG", brightness="dark", drop=None):
    """TFDV's statistics of a few examples with these classes."""
    import pandas as pd

    frame = pd.DataFrame(
        {
            features.CLASS_TEXT: classes,
            features.IMAGE_FORMAT: [format_] * len(classes),
            features.IMAGE_HEIGHT: [32] * len(classes),
            features.IMAGE_WIDTH: [48] * len(classes),
            features.SLICE_BRIGHTNESS: [brightness] * len(classes),
        }
    )
    return tfdv.generate_statistics_from_dataframe(frame.drop(columns=drop) if drop else frame)


@pytest.fixture
def schema():
    return schema_gen.curate(tfdv.infer_schema(statistics(["a", "b", "b"])))


@pytest.fixture
def validate(tmp_path, schema):
    def run(**by_split):
        stats, schema_artifact, anomalies = (
            standard_artifacts.ExampleStatistics(),
            standard_artifacts.Schema(),
            standard_artifacts.ExampleAnomalies(),
        )
        for name, artifact in (("stats", stats), ("schema", schema_artifact), ("anomalies", anomalies)):
            artifact.uri = str(tmp_path / name)
            os.makedirs(artifact.uri)
        stats.split_names = str(list(by_split)).replace("'", '"')
        stats.span = 0
        for split, proto in by_split.items():
            os.makedirs(f"{stats.uri}/Split-{split}")
            with tf.io.gfile.GFile(f"{stats.uri}/Split-{split}/FeatureStats.pb", "wb") as file:
                file.write(proto.SerializeToString())
        io_utils.write_pbtxt_file(f"{schema_artifact.uri}/schema.pbtxt", schema)
        validator.Executor().Do(
            {"statistics": [stats], "schema": [schema_artifact]}, {"anomalies": [anomalies]}, {"exclude_splits": "[]"}
        )

    return run


def test_the_schema_knows_what_the_statistics_do_not(schema):
    by_name = {feature.name: feature for feature in schema.feature}
    for name in schema_gen.UNCOUNTED:
        assert by_name[name].type == schema_pb2.BYTES
        assert by_name[name].presence.min_fraction == 1.0
    assert list(by_name[features.IMAGE_FORMAT].string_domain.value) == ["JPEG", "PNG"]
    assert not by_name[features.SLICE_BRIGHTNESS].domain
    assert [list(domain.value) for domain in schema.string_domain] == [["a", "b"]]


def test_transform_can_parse_examples_with_the_schema(schema):
    from tensorflow_transform.tf_metadata import schema_utils

    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    assert spec[features.IMAGE_ENCODED] == tf.io.FixedLenFeature([1], tf.string)
    assert spec[features.CLASS_TEXT] == tf.io.FixedLenFeature([1], tf.string)


def test_pictures_that_fit_pass(validate):
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
def test_an_anomaly_stops_the_run_with_its_text(validate, stats, text):
    with pytest.raises(validator.AnomaliesFoundError, match=text):
        validate(train=statistics(["a", "b"]), test=stats)
