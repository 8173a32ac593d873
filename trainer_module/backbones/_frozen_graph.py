"""A Keras layer around a TensorFlow graph whose weights are constants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from trainer_module import backbones
from trainer_module.model_input import Size

_GRAPH_FILE = "graph.pb"
_SIGNATURES = ("serving_default", "default")
_OUTPUTS = ("default", "feature_vector")


@keras.saving.register_keras_serializable(package="tfx_vision")
class FrozenGraph(keras.layers.Layer):
    """Maps images to vectors; the Keras file contains the graph, so that the SavedModel is no longer needed.

    The weights are constants because no Keras layer owns the variables of a restored object: an export would not track
    them, and a session would not find them.
    """

    def __init__(self, units: int, input_name: str, output_name: str, **layer: Any) -> None:
        """Creates the layer without its graph.

        Args:
          units: Size of the vector.
          input_name: Tensor of the images.
          output_name: Tensor of the vectors.
          **layer: Options of every Keras layer.
        """
        super().__init__(trainable=False, dtype="float32", **layer)
        self.units, self.input_name, self.output_name = units, input_name, output_name
        self._graph_def = b""
        self._function: Any = None
        self.supports_jit = False  # a foreign graph may contain operations that XLA cannot compile

    def set_graph(self, graph_def: bytes) -> None:
        """Sets the graph, a serialised GraphDef without variables."""
        definition = tf.compat.v1.GraphDef.FromString(graph_def)
        imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
        self._graph_def = graph_def
        self._function = imported.prune(
            imported.graph.get_tensor_by_name(self.input_name), imported.graph.get_tensor_by_name(self.output_name)
        )

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Float32 [N, s, s, 3] → float32 [N, units]."""
        vectors = self._function(images)
        return tf.ensure_shape(vectors, [None, self.units])

    def compute_output_spec(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """The shape, which does not need the graph: a Keras file is read layers first, assets last."""
        return keras.KerasTensor([images.shape[0], self.units], dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {"units": self.units, "input_name": self.input_name, "output_name": self.output_name}
        return {"name": self.name, **own}

    def save_assets(self, dir_path: str) -> None:
        """Writes the graph to the Keras file."""
        (Path(dir_path) / _GRAPH_FILE).write_bytes(self._graph_def)

    def load_assets(self, dir_path: str) -> None:
        """Reads the graph from the Keras file."""
        self.set_graph((Path(dir_path) / _GRAPH_FILE).read_bytes())


def from_saved_model(folder: str, image_size: Size) -> FrozenGraph:
    """Builds the layer for a SavedModel's feature vector.

    Args:
      folder: Contains `saved_model.pb`.
      image_size: Height and width of the images, pixels.

    Raises:
      MissingWeightsError: If the SavedModel does not map images of this size to vectors.
    """
    loaded = tf.saved_model.load(folder)
    signatures = getattr(loaded, "signatures", {})
    signature = next((signatures[name] for name in _SIGNATURES if name in signatures), None)

    @tf.function(input_signature=[tf.TensorSpec([None, *image_size, 3], tf.float32)], autograph=False)
    def vectors(images: tf.Tensor) -> tf.Tensor:
        if signature is None:
            outputs = loaded(images)
        else:
            (argument,) = signature.structured_input_signature[1]
            outputs = signature(**{argument: images})
        if isinstance(outputs, dict):
            outputs = next((outputs[name] for name in _OUTPUTS if name in outputs), next(iter(outputs.values())))
        return tf.cast(outputs, tf.float32)

    try:
        function = convert_variables_to_constants_v2(vectors.get_concrete_function())
    except (TypeError, ValueError) as error:
        raise backbones.MissingWeightsError(
            f"The SavedModel in {folder!r} does not accept images of {image_size[0]} x {image_size[1]} pixels: {error}"
        ) from error
    (output,) = function.outputs
    if output.shape.rank != 2 or output.shape[1] is None:
        raise backbones.MissingWeightsError(
            f"The SavedModel in {folder!r} returns {output.shape}, not one vector per image: "
            "use a feature-vector model."
        )
    layer = FrozenGraph(output.shape[1], function.inputs[0].name, output.name, name="feature_vector")
    layer.set_graph(function.graph.as_graph_def().SerializeToString())
    return layer
