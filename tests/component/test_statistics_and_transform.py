"""ImageStatisticsGen and ImageTransform write what TFX's StatisticsGen and Transform write, with other releases too."""

import ast
import importlib
import importlib.metadata
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from components.image_example_gen.artifact import ClassNames
from trainer_module import features, private_api

pytestmark = pytest.mark.component

FLOATS = [key(channel) for key in (features.mean_key, features.deviation_key) for channel in features.CHANNELS]
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Examples of two splits, two files each, and their schema."""
    import tensorflow as tf
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.types import artifact_utils, standard_artifacts
    from tfx.utils import io_utils

    root = tmp_path_factory.mktemp("examples")
    rng = np.random.default_rng(1)
    png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
    for split in SPLITS:
        for shard in range(2):
            path = root / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-00002"
            path.parent.mkdir(exist_ok=True)
            with tf.io.TFRecordWriter(str(path)) as writer:
                for number in range(70):
                    example = tf.train.Example()
                    feature = example.features.feature
                    feature[features.IMAGE_ENCODED].bytes_list.value.append(png)
                    feature[features.CLASS_TEXT].bytes_list.value.append(b"ab"[number % 2 :][:1])
                    feature[features.IMAGE_HEIGHT].int64_list.value.append(number)
                    feature[features.IMAGE_WIDTH].int64_list.value.append(number)
                    for name in FLOATS:
                        feature[name].float_list.value.append(rng.uniform(0, 255))
                    writer.write(example.SerializeToString())
    schema = schema_pb2.Schema()
    names = [(features.IMAGE_ENCODED, schema_pb2.BYTES), (features.CLASS_TEXT, schema_pb2.BYTES)]
    names += [(key, schema_pb2.INT) for key in (features.IMAGE_HEIGHT, features.IMAGE_WIDTH)]
    names += [(name, schema_pb2.FLOAT) for name in FLOATS]
    for name, kind in names:
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=1)
    schema_artifact = standard_artifacts.Schema()
    schema_artifact.uri = str(tmp_path_factory.mktemp("schema"))
    io_utils.write_pbtxt_file(f"{schema_artifact.uri}/schema.pbtxt", schema)
    examples = standard_artifacts.Examples()
    ClassNames(names=("a", "b")).write(str(root))
    examples.uri, examples.split_names = str(root), artifact_utils.encode_split_names(list(SPLITS))
    return examples, schema_artifact


# With one worker, the single passes run without Beam. Two are threads of this process here.
NUM_WORKERS = (1, 2)


def context(tmp_path, num_workers=1):
    from tfx.dsl.components.base import base_beam_executor

    arguments = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--sdk_container_image=none"]
    arguments.append(f"--direct_num_workers={num_workers}")
    return base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=arguments, tmp_dir=str(tmp_path), unique_id="1"
    )


# --- Other releases ---------------------------------------------------------------------------------------------


def install(monkeypatch, package, version):
    """Makes a package look like another release."""
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else installed(name))


def rename(monkeypatch, module, name, user):
    """Hides a name of a module from `user`, which is imported again. The module itself still works."""
    renamed = types.ModuleType(module)
    renamed.__dict__.update(vars(importlib.import_module(module)))
    delattr(renamed, name)
    monkeypatch.setitem(sys.modules, module, renamed)
    package, _, submodule = user.rpartition(".")
    monkeypatch.delitem(sys.modules, user, raising=False)
    monkeypatch.delattr(importlib.import_module(package), submodule, raising=False)


def lines_logged(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "root"]


@pytest.mark.parametrize("api", [private_api.TRANSFORM, private_api.STATISTICS], ids=lambda api: api.module)
def test_any_renamed_name_is_detected_before_anything_runs(api, caplog):
    path = Path(importlib.import_module(api.module).__file__)
    private = ("tensorflow_transform.", "tensorflow_data_validation.", "tfx_bsl.", "tfx.components.")
    names = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module.startswith(private)
        for alias in node.names
    ]
    assert len(names) >= 5
    for module, name in names:
        with pytest.MonkeyPatch.context() as monkeypatch:
            rename(monkeypatch, module, name, api.module)
            caplog.clear()
            assert private_api.prepare(api, lambda: importlib.import_module(api.module)) is None, name
            assert len(caplog.records) == 1


# --- StatisticsGen ----------------------------------------------------------------------------------------------


def statistics(executor, artifacts, tmp_path, num_workers=1, **options):
    """Runs an executor; returns the features of the train split by name."""
    import tensorflow_data_validation as tfdv
    from tfx.types import standard_artifacts

    examples, _ = artifacts
    options = tfdv.StatsOptions(feature_allowlist=[features.CLASS_TEXT, features.IMAGE_HEIGHT, *FLOATS], **options)
    artifact = standard_artifacts.ExampleStatistics()
    artifact.uri = str(tmp_path / executor.__name__)
    os.makedirs(artifact.uri)
    executor.Executor(context(tmp_path, num_workers)).Do(
        {"examples": [examples]},
        {"statistics": [artifact]},
        {"stats_options_json": options.to_json(), "exclude_splits": '["validation"]'},
    )
    assert artifact.split_names == '["train"]'
    (dataset,) = tfdv.load_stats_binary(f"{artifact.uri}/Split-train/FeatureStats.pb").datasets
    assert dataset.num_examples == 140
    return {feature.path.step[0]: feature for feature in dataset.features}


def assert_same_statistics(actual, expected):
    assert list(actual) == list(expected)
    assert actual[features.CLASS_TEXT] == expected[features.CLASS_TEXT]
    for name in FLOATS:
        for value in ("mean", "std_dev", "min", "median", "max"):
            assert getattr(actual[name].num_stats, value) == pytest.approx(getattr(expected[name].num_stats, value))


@pytest.fixture(scope="module")
def expected_statistics(artifacts, tmp_path_factory):
    from tfx.components.statistics_gen import executor

    return statistics(executor, artifacts, tmp_path_factory.mktemp("statistics"))


@pytest.mark.parametrize("num_workers", NUM_WORKERS)
def test_statistics_are_those_of_tfx(artifacts, tmp_path, expected_statistics, num_workers, caplog):
    from components.statistics_gen import executor

    assert_same_statistics(statistics(executor, artifacts, tmp_path, num_workers), expected_statistics)
    assert lines_logged(caplog) == []


def test_statistics_of_several_groups_are_the_same_with_and_without_beam(artifacts, tmp_path, monkeypatch):
    from components import records
    from components.statistics_gen import executor

    monkeypatch.setattr(records, "_FILES_PER_GROUP", 1)  # several units of work
    alone, with_beam = (statistics(executor, artifacts, tmp_path / str(number), number) for number in NUM_WORKERS)
    assert_same_statistics(alone, with_beam)  # Beam merges the groups in any order: the last digits differ


def test_statistics_with_another_release_are_those_of_tfx(
    artifacts, tmp_path, expected_statistics, monkeypatch, caplog
):
    from components.statistics_gen import executor

    install(monkeypatch, "tensorflow-data-validation", "1.22.0")
    assert_same_statistics(statistics(executor, artifacts, tmp_path), expected_statistics)
    assert lines_logged(caplog) == [
        "components.statistics_gen.single_pass is not used, TFX's StatisticsGen executor runs instead: "
        "tensorflow-data-validation 1.22.0 (supported: 1.21)."
    ]


def test_statistics_with_other_options_are_those_of_tfx(artifacts, tmp_path):
    from tfx.components.statistics_gen import executor as tfx_executor

    from components.statistics_gen import executor

    actual, expected = (statistics(module, artifacts, tmp_path, sample_rate=1.0) for module in (executor, tfx_executor))
    assert_same_statistics(actual, expected)


# --- Transform --------------------------------------------------------------------------------------------------


def transform(executor, artifacts, tmp_path, num_workers=1):
    import tensorflow as tf
    import tensorflow_transform as tft
    from tfx.types import standard_artifacts

    examples, schema = artifacts
    graph = standard_artifacts.TransformGraph()
    graph.uri = str(tmp_path / executor.__name__)
    tf.io.gfile.makedirs(graph.uri)
    executor.Executor(context(tmp_path, num_workers)).Do(
        {"examples": [examples], "schema": [schema]},
        {"transform_graph": [graph]},
        {
            "preprocessing_fn": "trainer_module.hooks.transform.preprocessing_fn",
            "custom_config": json.dumps(
                {"classes": ["a", "b"], "transform": '{"image_size": 8}', "task": "classification"}
            ),
            "splits_config": '{"analyze": ["train"]}',
            "disable_statistics": 1,
        },
    )
    output = tft.TFTransformOutput(graph.uri)
    files = tf.io.gfile.glob(f"{examples.uri}/Split-validation/*")
    (batch,) = tf.data.TFRecordDataset(sorted(files)[:1]).batch(100)
    parsed = tf.io.parse_example(batch, output.raw_feature_spec())
    return output.transformed_metadata.schema, output.transform_features_layer()(parsed)


@pytest.fixture(scope="module")
def expected_transform(artifacts, tmp_path_factory):
    from tfx.components.transform import executor

    return transform(executor, artifacts, tmp_path_factory.mktemp("transform"))


def assert_same_transform(actual, expected):
    (schema, tensors), (expected_schema, expected_tensors) = actual, expected
    assert schema == expected_schema
    assert set(tensors) == set(expected_tensors)
    for name, values in expected_tensors.items():
        if values.dtype.is_floating:
            np.testing.assert_allclose(tensors[name], values, rtol=1e-6)
        else:
            assert np.array_equal(tensors[name], values)


@pytest.mark.parametrize("num_workers", NUM_WORKERS)
def test_transform_graph_is_that_of_tfx(artifacts, tmp_path, expected_transform, num_workers, caplog):
    from components.transform import executor

    assert_same_transform(transform(executor, artifacts, tmp_path, num_workers), expected_transform)
    assert lines_logged(caplog) == []


def test_transform_graph_after_a_renaming_is_that_of_tfx(artifacts, tmp_path, expected_transform, monkeypatch, caplog):
    from components.transform import executor

    rename(
        monkeypatch, "tensorflow_transform.impl_helper", "trace_and_write_v2_saved_model", private_api.TRANSFORM.module
    )
    assert_same_transform(transform(executor, artifacts, tmp_path), expected_transform)
    (line,) = lines_logged(caplog)
    assert line.startswith(
        "components.transform.single_pass is not used, TFX's Transform executor runs instead: ImportError: "
        "cannot import name 'trace_and_write_v2_saved_model' from 'tensorflow_transform.impl_helper'"
    )


def test_unsupported_analyzers_are_detected():
    import tensorflow as tf
    import tensorflow_transform as tft

    from components.transform import single_pass

    spec = {"x": tf.io.FixedLenFeature([1], tf.float32), "s": tf.io.FixedLenFeature([1], tf.string)}

    def centred(inputs):
        return inputs["x"] - tft.mean(inputs["x"])

    analysis = single_pass.find_analysis(lambda inputs: {"x": centred(inputs)}, spec)
    assert list(analysis.spec) == ["x"] and len(analysis.analyzers) == 1
    for function in (
        lambda inputs: dict(inputs),
        lambda inputs: {"x": centred(inputs) / tft.max(centred(inputs))},
        lambda inputs: {"s": tft.compute_and_apply_vocabulary(inputs["s"])},
    ):
        with pytest.raises(single_pass.UnsupportedAnalyzerError):
            single_pass.find_analysis(function, spec)
