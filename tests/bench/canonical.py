"""Image classification data as TFX's guides do it: the form that ours is compared with.

A file-based ExampleGen that reads every image, statistics and schema over all features, and a Transform that decodes
every image in `tf.map_fn` and materialises floats.
"""

import os

import apache_beam as beam
import tensorflow as tf
from tfx.components import FileBasedExampleGen, SchemaGen, StatisticsGen, Transform
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.dsl.components.base import executor_spec
from tfx.orchestration import metadata, pipeline
from tfx.proto import example_gen_pb2

IMAGE, LABEL = "image_raw", "label"


def _to_example(path: str) -> tf.train.Example:
    with tf.io.gfile.GFile(path, "rb") as file:
        encoded = file.read()
    label = os.path.basename(os.path.dirname(path)).encode()
    feature = {
        IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        LABEL: tf.train.Feature(bytes_list=tf.train.BytesList(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature))


@beam.ptransform_fn
def _read(root, exec_properties, split_pattern):
    paths = tf.io.gfile.glob(os.path.join(exec_properties["input_base"], split_pattern))
    return root | beam.Create(paths) | beam.Map(_to_example)


class Executor(BaseExampleGenExecutor):
    """One example a file."""

    def GetInputSourceToExamplePTransform(self):
        """See the base class."""
        return _read


def preprocessing_fn(inputs):
    """Decodes and scales every image."""
    import tensorflow_transform as tft

    def decode(encoded):
        pixels = tf.io.decode_png(encoded, channels=3)
        return tf.ensure_shape(tf.cast(pixels, tf.float32) / 255.0, [32, 32, 3])

    images = tf.map_fn(decode, tf.reshape(inputs[IMAGE], [-1]), fn_output_signature=tf.float32)
    return {"image": images, "label_id": tft.compute_and_apply_vocabulary(tf.reshape(inputs[LABEL], [-1]))}


def create_pipeline(data_dir: str, run_dir: str, beam_arguments: list[str]) -> pipeline.Pipeline:
    """The four nodes."""
    split = example_gen_pb2.SplitConfig
    example_gen = FileBasedExampleGen(
        input_base=data_dir,
        input_config=example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="all", pattern="*/*")]),
        output_config=example_gen_pb2.Output(
            split_config=split(
                splits=[split.Split(name="train", hash_buckets=7), split.Split(name="eval", hash_buckets=3)]
            )
        ),
        custom_executor_spec=executor_spec.BeamExecutorSpec(Executor),
    )
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"])
    schema_gen = SchemaGen(statistics=statistics_gen.outputs["statistics"])
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="canonical.preprocessing_fn",
    )
    return pipeline.Pipeline(
        pipeline_name="canonical",
        pipeline_root=os.path.join(run_dir, "artifacts"),
        components=[example_gen, statistics_gen, schema_gen, transform],
        enable_cache=False,
        metadata_connection_config=metadata.sqlite_metadata_connection_config(os.path.join(run_dir, "metadata.sqlite")),
        beam_pipeline_args=beam_arguments,
    )
