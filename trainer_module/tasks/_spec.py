"""The records that describe a task.

Importing this module, or a task, imports neither TensorFlow nor Keras: checking a configuration, rendering a report and
describing a metric do not need them. The functions of a task import them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from trainer_module import features
from trainer_module.evaluation.spec import Evaluation
from trainer_module.model_input import Size
from trainer_module.section import TaskOptions

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from trainer_module.models import FeatureMaps
    from trainer_module.monitored import MonitoredPredictions
    from trainer_module.options import TrainerOptions, TransformOptions

# === Data ===


class LabelStatistic(NamedTuple):
    """A feature of raw examples that describes the parts of a label, which the report shows by split.

    Attributes:
      feature: Its key.
      title: Its heading: "Boxes per image".
      description: One sentence.
      axis: The quantity with its unit: "Width / height".
      of: What its values belong to: "images", "boxes".
      scale: `count` for whole numbers, `linear` for a share, `ratio` for quotients around 1.
    """

    feature: str
    title: str
    description: str
    axis: str
    of: str
    scale: Literal["count", "linear", "ratio"]


# === Training ===


class Objective(NamedTuple):
    """A value of the training history that Tuner can optimise.

    Attributes:
      name: Column of the history, such as `val_accuracy`.
      direction: Whether Tuner looks for the smallest or the largest value.
    """

    name: str
    direction: Literal["min", "max"]


class Condition(NamedTuple):
    """Condition under which an option of a task has an effect.

    Attributes:
      text: The condition as in the configuration: `task.loss = "focal"`.
      holds: Options of the task → whether the condition is met.
    """

    text: str
    holds: Callable[[Any], bool]


# === Export ===


class Endpoint(NamedTuple):
    """One signature of an export.

    Attributes:
      compute: Maps tensors to a dict of named tensors, all with a batch dimension.
      inputs: The specification of each argument, named.
    """

    compute: Callable[..., dict[str, tf.Tensor]]
    inputs: list[tf.TensorSpec]

    def traced(self) -> Endpoint:
        """Returns the same endpoint with its graph made, which functions that call it share."""
        import tensorflow as tf

        graph = tf.function(self.compute, input_signature=self.inputs, autograph=False).get_concrete_function()

        def compute(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs: dict[str, tf.Tensor] = graph(*inputs)
            return outputs

        return Endpoint(compute, self.inputs)


class Agreement(NamedTuple):
    """Whether the response of an export equals the prediction of the Keras model.

    Attributes:
      passed: Whether they are equal within the tolerance.
      detail: The difference, or the error.
      difference: The value that was compared with the tolerance; None if there is no such number.
    """

    passed: bool
    detail: str
    difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class Export:
    """The signatures of a task's SavedModel, and how they are verified.

    Attributes:
      required: Signatures that every export must have.
      signatures: (model, options, tft_layer, raw_feature_spec) → name → endpoint.
      compare: (response, predictions, options, tolerance) → whether a response of `serving_default` or `examples`
        equals the result of `TaskSpec.predict`.
      command: The CLI command for one prediction, without `tfx-vision`: "predict IMAGE".
    """

    required: tuple[str, ...]
    signatures: Callable[[keras.Model, TrainerOptions, Any, dict[str, Any]], dict[str, Endpoint]]
    compare: Callable[[Mapping[str, np.ndarray], Any, TrainerOptions, float], Agreement]
    command: str


# === Explanation ===

ExplanationMethod = Literal["grad_cam", "grad_cam_plus_plus", "hires_cam"]
# With `auto` for the default of the task.
ChosenExplanationMethod = Literal["auto", ExplanationMethod]


class Subject(NamedTuple):
    """Explained class and place in every image of a batch; what is None is chosen by `Explanation.target`.

    Attributes:
      class_ids: int64 [N], the explained class.
      regions: bool [N, h, w], the explained pixels; None for the whole image.
      positions: int64 [N], where the explained value lies in the outputs of the network; None if the task has one value
        per class, or per class and pixel.
    """

    class_ids: Any = None
    regions: Any = None
    positions: Any = None


class Target(NamedTuple):
    """Explained scalar of every image of a batch.

    Attributes:
      subject: What is explained, complete.
      logit: float32 [N], the scalar whose gradient Grad-CAM computes: any function of the network's outputs.
    """

    subject: Subject
    logit: tf.Tensor


class Instances(NamedTuple):
    """M predictions, or classes and objects of the ground truth, of N examples; each is explained separately.

    Attributes:
      indices: int64 [M], the example of each.
      subject: What is explained; arrays of length M.
      ids: int64 [M], which tell instances of one class in an example apart; None if there is at most one.
    """

    indices: np.ndarray
    subject: Subject
    ids: np.ndarray | None = None


class PredictionOutcomes(NamedTuple):
    """How N explained predictions compare with the ground truth.

    Attributes:
      predicted_ids: int64 [N], the predicted class.
      listed_ids: int64 [N], the class under which the prediction is selected and shown; -1 for none.
      true_ids: int64 [N], the class of the image; None if the label is not one class per image.
      confidence: float [N], confidence in the prediction, range [0, 1].
      margin: float [N], difference to the confidence in the next class, range [0, 1].
      correct: bool [N].
      exists: bool [N], whether there is something to explain: whether the region has pixels.
    """

    predicted_ids: np.ndarray
    listed_ids: np.ndarray
    true_ids: np.ndarray | None
    confidence: np.ndarray
    margin: np.ndarray
    correct: np.ndarray
    exists: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """How predictions are explained by Grad-CAM, and compared with the ground truth.

    Ground truth is what `TaskSpec.labels` returns for a batch of raw examples, as an array. Outputs are those of the
    network: one tensor, or any structure of tensors float32 [N, ...], such as class logits and boxes by pyramid level.

    Attributes:
      target: (outputs, subject, size of the model input) → what is explained. Without class ids the predicted class;
        without regions, if the task has any, the pixels where the class is predicted.
      score: (outputs, subject) → the probability of the class, float32 [N], range [0, 1].
      true_instances: (ground truth, options) → every class of every example, or every object.
      predicted_instances: (outputs, image sizes int [N, 2], options) → every prediction; None if `target` chooses the
        only one of an image.
      true_regions: (ground truth, subject) → the pixels of the class or the object, bool [N, h, w]; None if the ground
        truth has no regions. Metrics of localisation require it.
      boxes: (outputs, subject) → the predicted boxes (ymin, xmin, ymax, xmax), relative to the model input, float32
        [N, 4]; None if predictions have none.
      outcomes: (outputs, subject, ground truth, options) → how the predictions compare with it.
      incorrect_caption: Describes an incorrect prediction, with the fields `label` and `predicted`.
      default_method: The value of `grad_cam.method` that `auto` stands for.
      method_prefix: Prefix of the method's name: "Seg-".
      pixels_at_once: Most pixels (images times height times width) of a batch; limits memory.
    """

    target: Callable[[Any, Subject, Size], Target]
    score: Callable[[Any, Subject], tf.Tensor]
    true_instances: Callable[[np.ndarray, TrainerOptions], Instances]
    predicted_instances: Callable[[Any, tf.Tensor, TrainerOptions], Instances] | None = None
    true_regions: Callable[[np.ndarray, Subject], np.ndarray] | None = None
    boxes: Callable[[Any, Subject], tf.Tensor] | None = None
    outcomes: Callable[[Any, Subject, np.ndarray, TrainerOptions], PredictionOutcomes]
    incorrect_caption: str
    default_method: ExplanationMethod = "grad_cam"
    method_prefix: str = ""
    pixels_at_once: int = 2**22

    def images_at_once(self, image_size: Sequence[int]) -> int:
        """Returns the largest number of images of which the activations of all layers may be in memory."""
        return max(1, min(_LARGEST_BATCH, self.pixels_at_once // math.prod(image_size)))

    def method(self, chosen: ChosenExplanationMethod) -> ExplanationMethod:
        """Returns the method that a value of `grad_cam.method` stands for."""
        return self.default_method if chosen == "auto" else chosen

    @property
    def has_regions(self) -> bool:
        """Whether regions of the image are explained, and the ground truth contains them."""
        return self.true_regions is not None


_LARGEST_BATCH = 64  # of explanations

# === Drawing ===

Color = tuple[int, int, int]  # red, green, blue, range [0, 255]


class Panel(NamedTuple):
    """One image of a comparison.

    Attributes:
      title: Its heading: "Ground truth".
      pixels: uint8 [h, w, 3].
      description: What it shows, for readers who do not see it.
    """

    title: str
    pixels: np.ndarray
    description: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the report shows the examples with the worst predictions.

    Attributes:
      score_name: Name of the score in a sentence: "pixel accuracy".
      score: (label, prediction, ignore_id) → a value in [0, 1], higher is better; NaN if it is undefined.
      panels: (image, label, prediction, classes, ignore_id) → the images shown beside the input.
      main_error: (label, prediction, classes, ignore_id) → the most frequent error in words; empty if there is none.
      note: options → one sentence or two that explain the panels.
      counted: (prediction, options) → the part of it that is compared; by default all of it.
      error_types: Type of error → its meaning, as a clause, by which the report groups examples; empty for one group.
      error_type: (label, prediction, ignore_id) → the type of error that the example is shown under; empty for none.
    """

    score_name: str
    score: Callable[[np.ndarray, np.ndarray, int | None], float]
    panels: Callable[[np.ndarray, np.ndarray, np.ndarray, Sequence[str], int | None], tuple[Panel, ...]]
    main_error: Callable[[np.ndarray, np.ndarray, Sequence[str], int | None], str]
    note: Callable[[TrainerOptions], str]
    counted: Callable[[np.ndarray, TrainerOptions], np.ndarray] = lambda prediction, options: prediction
    error_types: Mapping[str, str] = field(default_factory=dict)
    error_type: Callable[[np.ndarray, np.ndarray, int | None], str] = lambda label, prediction, ignore_id: ""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How an image is shown with its label or its prediction: in the report, contact sheets and on the command line.

    An image is uint8 [h, w, 1 or 3]. A label is one example of what `TaskSpec.labels` or `TaskSpec.augment` returns, a
    prediction one of `TaskSpec.decode`; both without batch dimension. None of these functions needs TensorFlow.

    Attributes:
      draw: (image, label or prediction, classes, ignore_id, scale) → the image with it, enlarged by a whole factor
        without smoothing: uint8 [scale * h, scale * w, 3].
      caption: (label or prediction, classes) → lines of text below the image; none if the drawing shows everything.
      legend: (classes, ignore_id, labels) → name and colour of every class, or with labels of the classes that `draw`
        paints in them; empty if colours have no meaning.
      comparison: How the worst predictions are shown; None if the report shows Grad-CAM overlays instead.
    """

    draw: Callable[[np.ndarray, Any, Sequence[str], int | None, int], np.ndarray]
    caption: Callable[[Any, Sequence[str]], list[str]]
    legend: Callable[[Sequence[str], int | None, Sequence[Any] | None], list[tuple[str, Color]]]
    comparison: Comparison | None = None

    @property
    def has_places(self) -> bool:
        """Whether labels have places in the image, and are drawn on it, as masks and boxes are."""
        return self.comparison is not None


# === Monitoring ===


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """How served predictions are compared with those for the test split, and with ground truth that arrives later.

    Outputs are those of `serving_default` for N images: arrays by name, strings as bytes. A label is what
    `Client.feedback` accepts: a JSON value. None of these functions needs TensorFlow.

    Attributes:
      outputs: Names of the outputs that the functions read.
      predictions: (outputs, number of classes) → the predictions as numbers, which two sets of images are compared by.
      ground_truth: `TaskSpec.raw_label` of an example → its label.
      label_classes: label → the class names in it, for slices; empty if the label is not about classes of the image.
      quality_name: Name of the quality in a sentence: "accuracy".
      quality: (outputs, index of the image, label, classes, ignore_id) → how well the prediction agrees with the label,
        range [0, 1]; NaN if that is undefined. Raises ValueError, with a clause, for a label that it cannot read;
        `label_classes` does so too.
    """

    outputs: tuple[str, ...]
    predictions: Callable[[Mapping[str, np.ndarray], int], MonitoredPredictions]
    ground_truth: Callable[[Mapping[str, Sequence[Any]]], Any]
    label_classes: Callable[[Any], tuple[str, ...]] = lambda label: ()
    quality_name: str
    quality: Callable[[Mapping[str, np.ndarray], int, Any, Sequence[str], int | None], float]


# === Labelling ===

# Raw example features of a label and their values.
RawLabel = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Labeling:
    """How images without labels are judged by the outputs of a model, to choose those that a person should label.

    None of these functions needs TensorFlow.

    Attributes:
      outputs: Signature → names of the outputs that are read; all of them belong to the same N images.
      uncertainty: Output name → array [N, ...] → float64 [N], range [0, 1], higher is less certain.
      proposal: (output name → array [N, ...], classes) → what the model predicts, as labels. They help a person who
        labels the images, and are not labels before that.
      agreement: (label, another label of the same image) → range [0, 1]; 1 if they are equal.
      from_feedback: A JSON value that `Client.feedback` accepts → the label. Raises ValueError, with a clause, for a
        value that is not a label of the task.
    """

    outputs: Mapping[str, tuple[str, ...]]
    uncertainty: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    proposal: Callable[[Mapping[str, np.ndarray], Sequence[str]], list[RawLabel]]
    agreement: Callable[[RawLabel, RawLabel], float]
    from_feedback: Callable[[Any], RawLabel]


# === Task ===


def same_outputs(outputs: tf.Tensor, is_mirrored: bool, size: Size) -> tf.Tensor:
    """Restores outputs of whole images, which have no positions."""
    return outputs


def _without_sample_weight(train_data: tf.data.Dataset, options: TrainerOptions) -> tf.data.Dataset:
    return train_data


def _without_calibration(
    model: keras.Model, validation_data: tf.data.Dataset, options: TrainerOptions
) -> TrainerOptions:
    return options


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Everything task-specific. Code outside `trainer_module/tasks` reads this record and never compares names.

    In the signatures N is the batch size, C the number of classes, h and w the size of the model input.

    Attributes:
      name: Name of the module, and of the task in configurations.
      label_noun: What one example is labelled with, in messages: "one class per image", "a mask per image".
      options: The keys of `[task]`.
      label_features: Raw example features of the label and their dtypes; a layout must write all of them.
      class_features: Raw example features of class names, for slices and label groups.
      label_limit: (label feature, key of `[transform]`): an example has at most so many values of the feature; None
        without such a limit.
      single_valued_features: Label features with exactly one value in every example; the others may have any number and
        are sparse tensors in `transform_label`.
      label_statistics: Features of the parts of a label that the report shows.
      example_label: (class ids, classes, image_size) → label and class features of an example (feature name → values)
        with these classes; only the first one if a label has one class. Conformance tests label their images with it.
      transform_label: (raw features, classes, transform options) → the label in the transform graph. A label with an
        unknown class must not train: it has no effect on the loss, or the loss raises an error.
      read_label: (transformed features, transform options) → a batch of labels for training, in coordinates of the
        model input.
      geometry_moves_labels: Whether geometric augmentation changes labels too; it then runs in tf.data.
      unsupported_augmentation: Keys of `[augmentation]` that the label does not support.
      augment: options → (seed int [2], images, labels, *sample weights) → the same, augmented.
      head: (feature maps, num_classes, options) → logits, with the layer name `features.LOGITS_LAYER`.
      restore_outputs: (outputs for a view of the image, whether it is mirrored, height and width of the model input) →
        the outputs in positions of the model input, which can be averaged with others. None if outputs cannot be
        averaged: `[test_time_augmentation]` is not supported then.
      loss: (options, train data) → the loss of logits and labels; without train data class weights are 1.
      sample_weight: (train data, options) → the train data, with a third component if examples have weights.
      training_metrics: options → metrics that are computed during training.
      objectives: Values that Tuner can optimise.
      loss_options: Keys of `[task]` that change the loss, so losses with different values are not comparable.
      option_conditions: Key of `[task]` → the condition under which it has an effect.
      calibrate: (trained model, validation data in batches, options) → the options of the export, with what the task
        chooses after the training, such as decision thresholds; stored with the model.
      evaluation: How it is evaluated.
      export: How it is served.
      explanation: How a prediction is explained.
      decode: (outputs of the head, options, sizes of the images int [N, 2] or None) → the predictions of the batch; in
        coordinates of the original images, or without sizes of the model input. Predictions whose shape is that of the
        image, such as masks, require images of one size.
      drawing: How labels and predictions are shown.
      monitoring: How served predictions are compared with those for the test split.
      labeling: How images are chosen for labelling.
    """

    name: str
    label_noun: str
    options: type[TaskOptions]
    label_features: Mapping[str, Literal["string", "int64", "float32"]]
    class_features: tuple[str, ...]
    label_limit: tuple[str, str] | None = None
    single_valued_features: tuple[str, ...] = ()
    label_statistics: tuple[LabelStatistic, ...] = ()
    example_label: Callable[[Sequence[int], Sequence[str], int], dict[str, list[Any]]]
    transform_label: Callable[[Mapping[str, tf.Tensor], Sequence[str], TransformOptions], tf.Tensor]
    read_label: Callable[[dict[str, tf.Tensor], TransformOptions], tf.Tensor]
    geometry_moves_labels: bool = False
    unsupported_augmentation: tuple[str, ...] = ()
    augment: Callable[[TrainerOptions], Callable[..., tuple[tf.Tensor, ...]]]
    head: Callable[[FeatureMaps, int, TrainerOptions], keras.KerasTensor]
    restore_outputs: Callable[[tf.Tensor, bool, Size], tf.Tensor] | None = None
    loss: Callable[..., keras.losses.Loss]
    sample_weight: Callable[[tf.data.Dataset, TrainerOptions], tf.data.Dataset] = _without_sample_weight
    training_metrics: Callable[[TrainerOptions], list[keras.metrics.Metric]]
    objectives: tuple[Objective, ...]
    loss_options: tuple[str, ...] = ()
    option_conditions: Mapping[str, Condition] = field(default_factory=dict)
    calibrate: Callable[[keras.Model, tf.data.Dataset, TrainerOptions], TrainerOptions] = _without_calibration
    evaluation: Evaluation
    export: Export
    explanation: Explanation
    decode: Callable[..., tf.Tensor]
    drawing: Drawing
    monitoring: Monitoring
    labeling: Labeling

    @property
    def takes_label_sets(self) -> bool:
        """Whether an image may have any number of classes."""
        return features.CLASS_TEXT in self.label_features and features.CLASS_TEXT not in self.single_valued_features

    @staticmethod
    def image_size(feature: Mapping[str, tf.train.Feature]) -> Size:
        """Reads height and width of the original image of a parsed raw example, pixels."""
        height, width = (feature[key].int64_list.value[0] for key in (features.IMAGE_HEIGHT, features.IMAGE_WIDTH))
        return height, width

    def raw_label(self, feature: Mapping[str, tf.train.Feature]) -> dict[str, list[Any]]:
        """Reads `label_features` of a parsed raw example: feature name → values."""
        values = {}
        for key in self.label_features:
            kind = feature[key].WhichOneof("kind")
            values[key] = list(getattr(feature[key], kind).value) if kind else []
        return values

    def labels(
        self, raw_labels: Sequence[Mapping[str, Sequence[Any]]], image_sizes: Sequence[Size], options: TrainerOptions
    ) -> tf.Tensor:
        """Reads labels as `read_label` does, without a transform graph.

        Args:
          raw_labels: `label_features` of every example: feature name → values.
          image_sizes: Height and width of every original image, pixels.
          options: `classes` and `transform` are read.
        """
        import tensorflow as tf

        raw_features: dict[str, Any] = {}
        for key, dtype in self.label_features.items():
            values = [list(label[key]) for label in raw_labels]
            if key in self.single_valued_features:
                raw_features[key] = tf.constant(values, dtype)
            else:
                raw_features[key] = tf.ragged.constant(values, dtype, ragged_rank=1).to_sparse()
        label = self.transform_label(raw_features, options.classes, options.transform)
        heights, widths = tf.unstack(tf.reshape(tf.constant(list(image_sizes), tf.int64), [-1, 2]), axis=1)
        transformed = {features.LABEL: label, features.IMAGE_HEIGHT: heights, features.IMAGE_WIDTH: widths}
        return self.read_label(transformed, options.transform)

    def predict(self, model: keras.Model, options: TrainerOptions, image_bytes: Sequence[bytes]) -> list[Any]:
        """Computes the Keras model's predictions for image files, one by one.

        The network receives a few at a time: outside of a graph, Keras keeps the outputs of all layers until the last.

        Returns:
          For every image what `decode` returns in its coordinates, as NumPy array without batch dimension.
        """
        import tensorflow as tf

        from trainer_module.tasks._signatures import read_images

        at_once = self.explanation.images_at_once(options.largest_view)
        return [
            prediction
            for first in range(0, len(image_bytes), at_once)
            for prediction in self._predict_batch(
                model, options, read_images(tf.constant(list(image_bytes[first : first + at_once])), options)
            )
        ]

    def _predict_batch(self, model: keras.Model, options: TrainerOptions, images: Any) -> list[Any]:
        import tensorflow as tf

        outputs = model(images.pixels, training=False)

        def predict_one(index: int) -> Any:
            one = tf.nest.map_structure(lambda tensor: tensor[index : index + 1], outputs)
            predictions = self.decode(one, options, images.sizes[index : index + 1])
            return tf.nest.map_structure(lambda tensor: tensor.numpy()[0], predictions)

        return [predict_one(index) for index in range(len(images.pixels))]
