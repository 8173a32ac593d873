"""Our StatisticsGen and Transform write what TFX's do."""

import json

import numpy as np
import pytest

from trainer_module import features

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
                    for name in FLOATS:
                        feature[name].float_list.value.append(rng.uniform(0, 255))
                    writer.write(example.SerializeToString())
    schema = schema_pb2.Schema()
    names = [(features.IMAGE_ENCODED, schema_pb2.BYTES), (features.CLASS_TEXT, schema_pb2.BYTES)]
    names += [(features.IMAGE_HEIGHT, schema_pb2.INT), *((name, schema_pb2.FLOAT) for name in FLOATS)]
    for name, kind in names:
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=1)
    schema_artifact = standard_artifacts.Schema()
    schema_artifact.uri = str(tmp_path_factory.mktemp("schema"))
    io_utils.write_pbtxt_file(f"{schema_artifact.uri}/schema.pbtxt", schema)
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(root), artifact_utils.encode_split_names(list(SPLITS))
    return examples, schema_artifact


def context(tmp_path):
    from tfx.dsl.components.base import base_beam_executor

    arguments = ["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--sdk_container_image=none"]
    return base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=arguments, tmp_dir=str(tmp_path), unique_id="1"
    )


@pytest.mark.parametrize("sample_rate", [None, 1.0], ids=["ours", "handed to TFX"])
def test_statistics_are_those_of_tfx(artifacts, tmp_path, sample_rate):
    import tensorflow_data_validation as tfdv
    from tfx.components.statistics_gen import executor as tfx_executor
    from tfx.types import standard_artifacts

    from components.statistics_gen import executor

    examples, _ = artifacts
    options = tfdv.StatsOptions(
        feature_allowlist=[features.CLASS_TEXT, features.IMAGE_HEIGHT, *FLOATS], sample_rate=sample_rate
    )
    found = {}
    for of in (executor, tfx_executor):
        statistics = standard_artifacts.ExampleStatistics()
        statistics.uri = str(tmp_path / of.__name__)
        of.Executor(context(tmp_path)).Do(
            {"examples": [examples]},
            {"statistics": [statistics]},
            {"stats_options_json": options.to_json(), "exclude_splits": '["validation"]'},
        )
        assert statistics.split_names == '["train"]'
        (dataset,) = tfdv.load_stats_binary(f"{statistics.uri}/Split-train/FeatureStats.pb").datasets
        assert dataset.num_examples == 140
        found[of] = {feature.path.step[0]: feature for feature in dataset.features}
    ours, theirs = found[executor], found[tfx_executor]
    assert list(ours) == list(theirs)
    assert ours[features.CLASS_TEXT] == theirs[features.CLASS_TEXT]
    for name in FLOATS:
        for figure in ("mean", "std_dev", "min", "median", "max"):
            assert getattr(ours[name].num_stats, figure) == pytest.approx(getattr(theirs[name].num_stats, figure))


def transform(executor, artifacts, tmp_path):
    import tensorflow as tf
    import tensorflow_transform as tft
    from tfx.types import standard_artifacts

    examples, schema = artifacts
    graph = standard_artifacts.TransformGraph()
    graph.uri = str(tmp_path / executor.__name__)
    tf.io.gfile.makedirs(graph.uri)
    executor.Executor(context(tmp_path)).Do(
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


def test_transform_graph_is_that_of_tfx(artifacts, tmp_path):
    from tfx.components.transform import executor as tfx_executor

    from components.transform import executor

    schema, ours = transform(executor, artifacts, tmp_path)
    expected_schema, theirs = transform(tfx_executor, artifacts, tmp_path)
    assert schema == expected_schema
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        if values.dtype.is_floating:
            np.testing.assert_allclose(ours[name], values, rtol=1e-6)
        else:
            assert np.array_equal(ours[name], values)


def test_other_analyzers_are_found():
    import tensorflow as tf
    import tensorflow_transform as tft

    from components.transform import executor

    spec = {"x": tf.io.FixedLenFeature([1], tf.float32), "s": tf.io.FixedLenFeature([1], tf.string)}

    def centred(inputs):
        return inputs["x"] - tft.mean(inputs["x"])

    analysis = executor.find_analysis(lambda inputs: {"x": centred(inputs)}, spec)
    assert list(analysis.spec) == ["x"] and len(analysis.analyzers) == 1
    for function in (
        lambda inputs: dict(inputs),
        lambda inputs: {"x": centred(inputs) / tft.max(centred(inputs))},
        lambda inputs: {"s": tft.compute_and_apply_vocabulary(inputs["s"])},
    ):
        with pytest.raises(executor.OtherAnalyzerError):
            executor.find_analysis(function, spec)
