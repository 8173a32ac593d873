"""tf.Transform's analyzers and saved model in one pass over the examples: three Beam stages instead of forty.

Uses private names of tf.Transform and TFX. They are all imported by name here, so that a renamed one fails before
anything runs; see `trainer_module.private_api`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.analyzer_nodes import (
    TENSOR_REPLACEMENTS,
    CacheableCombineAccumulate,
    CacheableCombineMerge,
    Combiner,
    ExtractCombineMergeOutputs,
    TensorSource,
)
from tensorflow_transform.graph_tools import AnalyzersFingerprint, get_analyzers_fingerprint, get_dependent_inputs
from tensorflow_transform.impl_helper import (
    METADATA_DIR_NAME,
    get_type_specs_from_feature_specs,
    trace_and_write_v2_saved_model,
    trace_preprocessing_function,
)
from tensorflow_transform.tf_metadata.dataset_metadata import DatasetMetadata
from tensorflow_transform.tf_metadata.metadata_io import write_metadata
from tensorflow_transform.tf_metadata.schema_utils import schema_as_feature_spec
from tfx.components.transform.executor_utils import ResolveSplitsConfig
from tfx.components.util.udf_utils import get_fn
from tfx.types import artifact_utils
from tfx.utils import io_utils, json_utils

from components import records
from components.artifacts import Artifacts

PreprocessingFn = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]
# For every analyzer of a function, the values of its input tensors.
Inputs = tuple[tuple[np.ndarray, ...], ...]

# tft.mean, tft.var, tft.min and the like consist of these nodes; a vocabulary, for example, does not.
_COMBINER_NODES = (ExtractCombineMergeOutputs, CacheableCombineMerge, CacheableCombineAccumulate, TensorSource)


class UnsupportedAnalyzerError(ValueError):
    """A preprocessing_fn has no analyzers, or one that is not a combiner of raw features."""


class Analyzer(NamedTuple):
    """An analyzer of a preprocessing_fn.

    Attributes:
      combiner: tf.Transform's combiner of batches.
      inputs: Names of the tensors that it combines.
      outputs: For every tensor that stands for one of its results: name, type, index of the result.
    """

    combiner: Combiner
    inputs: list[str]
    outputs: list[tuple[str, tf.DType, int]]


class Analysis(NamedTuple):
    """Statistics that a preprocessing_fn requires from the examples.

    Attributes:
      analyzers: The analyzers.
      graph: Serialized GraphDef from raw features to the inputs of the analyzers.
      spec: How to parse the features that the graph takes.
      placeholders: The names of their tensors, in the same order.
      fingerprint: Identifies the analyzers when tf.Transform traces the function again.
    """

    analyzers: list[Analyzer]
    graph: bytes
    spec: dict[str, tf.io.FixedLenFeature]
    placeholders: list[str]
    fingerprint: dict[str, AnalyzersFingerprint]


@dataclass(frozen=True)
class SinglePass:
    """A transform graph to write.

    Attributes:
      analysis: What is computed from the examples.
      preprocessing_fn: The function.
      schema: The schema of the examples.
      groups: The files of the analysed splits, in groups.
      uri: Folder of the transform graph.
    """

    analysis: Analysis
    preprocessing_fn: PreprocessingFn
    schema: schema_pb2.Schema
    groups: list[list[str]]
    uri: str

    def run(self) -> None:
        """Analyses the examples and writes the transform graph in this process."""
        read, combine = _Read(self.analysis), self._combine()
        read.setup()
        results = combine.apply(itertools.chain.from_iterable(map(read.process, self.groups)))
        self._write_schema()
        write(results, self.analysis, self.preprocessing_fn, self._spec(), self.uri)

    def add_to(self, pipeline: beam.Pipeline) -> None:
        """Adds the analysis and the writing of the transform graph to a Beam pipeline."""
        self._write_schema()
        (
            pipeline
            | "Files" >> beam.Create(self.groups)
            | "Read" >> beam.ParDo(_Read(self.analysis))
            | "Analyze" >> beam.CombineGlobally(self._combine()).without_defaults()
            | "Write" >> beam.Map(write, self.analysis, self.preprocessing_fn, self._spec(), self.uri)
        )

    def _combine(self) -> _Combine:
        return _Combine([analyzer.combiner for analyzer in self.analysis.analyzers])

    def _spec(self) -> dict[str, tf.io.FixedLenFeature]:
        spec: dict[str, tf.io.FixedLenFeature] = schema_as_feature_spec(self.schema).feature_spec
        return spec

    def _write_schema(self) -> None:
        write_metadata(DatasetMetadata(self.schema), os.path.join(self.uri, tft.TFTransformOutput.RAW_METADATA_DIR))


def prepare(input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> SinglePass | None:
    """Prepares an execution of TFX's Transform.

    Args:
      input_dict: `examples`, `schema`.
      output_dict: `transform_graph`.
      exec_properties: `preprocessing_fn`, `custom_config`, `splits_config`.

    Returns:
      None if more than the graph is to be written, or an analyzer is not supported.
    """
    if output_dict.keys() != {"transform_graph"}:
        return None
    function, custom_config = (
        get_fn(exec_properties, "preprocessing_fn"),
        json_utils.loads(exec_properties["custom_config"]),
    )

    def preprocessing_fn(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = function(inputs, custom_config)
        return outputs

    schema = io_utils.SchemaReader().read(
        io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
    )
    try:
        analysis = find_analysis(preprocessing_fn, schema_as_feature_spec(schema).feature_spec)
    except UnsupportedAnalyzerError:
        return None
    examples = artifact_utils.get_single_instance(input_dict["examples"])
    splits = ResolveSplitsConfig(exec_properties["splits_config"], [examples]).analyze
    groups = [group for split in splits for group in records.file_groups(examples, split)]
    uri = artifact_utils.get_single_uri(output_dict["transform_graph"])
    return SinglePass(analysis, preprocessing_fn, schema, groups, uri)


def find_analysis(preprocessing_fn: PreprocessingFn, spec: dict[str, tf.io.FixedLenFeature]) -> Analysis:
    """Traces a preprocessing_fn and finds its analyzers.

    Args:
      preprocessing_fn: The function.
      spec: How to parse the features that it takes.

    Raises:
      UnsupportedAnalyzerError: If there are none, or one that is not a combiner of raw features.
    """
    graph, inputs, _ = trace_preprocessing_function(
        preprocessing_fn, get_type_specs_from_feature_specs(spec), use_tf_compat_v1=False
    )
    analyzers: dict[Any, Analyzer] = {}
    combined = []
    sinks = graph.get_collection(TENSOR_REPLACEMENTS)
    for sink in sinks:
        operation = sink.future.parent_operation
        chain = [operation]
        while len(chain[-1].inputs) == 1:
            chain.append(chain[-1].inputs[0].parent_operation)
        definitions = [node.operation_def for node in chain]
        if tuple(map(type, definitions)) != _COMBINER_NODES:
            raise UnsupportedAnalyzerError(f"{sink.tensor.name} is not a combiner")
        if operation not in analyzers:
            combined += definitions[-1].tensors
            names = [tensor.name for tensor in definitions[-1].tensors]
            analyzers[operation] = Analyzer(definitions[-2].combiner, names, [])
        analyzers[operation].outputs.append((sink.tensor.name, sink.tensor.dtype, sink.future.value_index))
    if not analyzers:
        raise UnsupportedAnalyzerError("there are no analyzers")
    needed = get_dependent_inputs(graph, inputs, combined)
    before = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [tensor.op.name for tensor in combined])
    known = {tensor.op.name for tensor in needed.values()}
    results = {sink.tensor.op.name for sink in sinks}
    for node in before.node:
        # Other placeholders than features are tables and other resources that are created outside the graph.
        if node.name in results or (node.op == "Placeholder" and node.name not in known):
            raise UnsupportedAnalyzerError(f"{node.name}, an input of an analyzer, is not a raw feature")
    return Analysis(
        list(analyzers.values()),
        before.SerializeToString(),
        {name: spec[name] for name in needed},
        [tensor.name for tensor in needed.values()],
        dict(get_analyzers_fingerprint(graph, inputs)),
    )


def write(
    results: list[Any],
    analysis: Analysis,
    preprocessing_fn: PreprocessingFn,
    spec: dict[str, tf.io.FixedLenFeature],
    uri: str,
) -> None:
    """Writes a preprocessing_fn as tf.Transform does, with the results of its analyzers as constants.

    Args:
      results: The results of every analyzer.
      analysis: From `find_analysis`.
      preprocessing_fn: The function.
      spec: How to parse the features that it takes.
      uri: Folder of the transform graph.
    """
    constants = {
        name: tf.constant(values[index], dtype)
        for analyzer, values in zip(analysis.analyzers, results, strict=True)
        for name, dtype, index in analyzer.outputs
    }
    specs = get_type_specs_from_feature_specs(spec)
    model = os.path.join(uri, tft.TFTransformOutput.TRANSFORM_FN_DIR)
    trace_and_write_v2_saved_model(model, preprocessing_fn, specs, None, analysis.fingerprint, constants, None, None)
    tf.io.gfile.rename(
        os.path.join(model, METADATA_DIR_NAME),
        os.path.join(uri, tft.TFTransformOutput.TRANSFORMED_METADATA_DIR),
        overwrite=True,
    )


class _Read(beam.DoFn):
    """Reads files and computes the inputs of the analyzers, batch by batch."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis

    def setup(self) -> None:
        graph = tf.compat.v1.GraphDef.FromString(self._analysis.graph)
        function = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
        tensor = function.graph.get_tensor_by_name
        self._function = function.prune(
            [tensor(name) for name in self._analysis.placeholders],
            [tuple(tensor(name) for name in analyzer.inputs) for analyzer in self._analysis.analyzers],
        )

    def process(self, paths: list[str]) -> Iterator[Inputs]:
        @tf.autograph.experimental.do_not_convert
        def inputs(serialized: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], ...]:
            # The image is not among the parsed features.
            parsed = tf.io.parse_example(serialized, self._analysis.spec)
            return tuple(self._function(*(parsed[name] for name in self._analysis.spec)))

        yield from records.batches(paths).map(inputs).as_numpy_iterator()


class _Combine(beam.CombineFn):
    """Applies several of tf.Transform's combiners to the same batches."""

    def __init__(self, combiners: list[Combiner]) -> None:
        self._combiners = combiners

    def create_accumulator(self) -> list[Any]:
        return [combiner.create_accumulator() for combiner in self._combiners]

    def add_input(self, accumulator: list[Any], batch: Inputs) -> list[Any]:
        parts = zip(self._combiners, accumulator, batch, strict=True)
        return [combiner.add_input(part, inputs) for combiner, part, inputs in parts]

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        parts = zip(self._combiners, zip(*accumulators, strict=True), strict=True)
        return [combiner.merge_accumulators(part) for combiner, part in parts]

    def compact(self, accumulator: list[Any]) -> list[Any]:
        return [combiner.compact(part) for combiner, part in zip(self._combiners, accumulator, strict=True)]

    def extract_output(self, accumulator: list[Any]) -> list[Any]:
        return [combiner.extract_output(part) for combiner, part in zip(self._combiners, accumulator, strict=True)]
