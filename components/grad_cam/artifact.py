"""The files that GradCam writes; reading them requires neither TFX nor TensorFlow."""

from __future__ import annotations

from typing import ClassVar, Literal

from components.stored import Stored, StoredPart
from trainer_module.faithfulness import FaithfulnessMetric
from trainer_module.tasks import ExplanationMethod

PAGE_FILE = "index.html"
HEATMAPS_PREFIX = "heatmaps"  # TFRecord files of tf.Examples with the keys below, GZIP

# Criteria by which predictions are selected.
CONFIDENT_RIGHT, CONFIDENT_WRONG, UNCERTAIN = "most confident right", "most confident wrong", "least certain"
# A group of predictions is a class, `class = cat`, or a slice, `camera = b`.
CLASS_GROUP_PREFIX = "class = "

Box = tuple[float, float, float, float]  # ymin, xmin, ymax, xmax, relative to the image, range [0, 1]

# --- Keys of a heat map's tf.Example, in addition to `image/filename` and `image/sha256` -------------------------
CLASS_ID = "explanation/class/label"  # int64, the explained class
CLASS_TEXT = "explanation/class/text"  # its name
INSTANCE_ID = "explanation/instance"  # int64, tells the objects of one class in an image apart; else 0
BOX = "explanation/box"  # float32 [4], the predicted box in the image (ymin, xmin, ymax, xmax), [0, 1]; if there is one
PREDICTED_TEXT = "explanation/predicted/text"  # the predicted class; with masks the explained one
TRUE_TEXT = "explanation/true/text"  # the ground truth; only if it is one class per image
SCORE = "explanation/score"  # float32, probability of the explained class
IS_CORRECT = "explanation/right"  # int64, 1 if the prediction is correct
HEATMAP = "explanation/heatmap"  # float32 [height * width], row by row, range [0, 1]
HEIGHT = "explanation/height"  # int64, pixels
WIDTH = "explanation/width"  # int64, pixels


class SelectionReason(StoredPart):
    """Why a prediction was selected.

    Attributes:
      group: The class or the slice: `class = cat`, `camera = b`.
      criterion: `most confident right`, `most confident wrong` or `least certain`.
      rank: Rank in the group by this criterion, from 1.
    """

    group: str
    criterion: str
    rank: int


class ExplainedPrediction(StoredPart):
    """A prediction with its heat map.

    Attributes:
      filename: As in the dataset.
      label: The class of the ground truth; with masks the explained one.
      explained: The explained class.
      predicted: The predicted class; with masks the explained one.
      score: Probability of the explained class; with masks its mean over the explained region.
      correct: Whether the prediction is correct.
      empty: Whether the heat map is zero everywhere: nothing is evidence for the class.
      reasons: Why it was selected.
      image: PNG of the image, not larger than 1,024 pixels.
      heatmap: PNG of the heat map, grey.
      overlay: PNG of both.
      box: The predicted box (ymin, xmin, ymax, xmax), relative to the image; None if predictions have none.
    """

    filename: str
    label: str
    explained: str
    predicted: str
    score: float
    correct: bool
    empty: bool
    reasons: tuple[SelectionReason, ...]
    image: str
    heatmap: str
    overlay: str
    box: Box | None = None


class ExplanationIndex(Stored):
    """`index.json`.

    Attributes:
      predictions: The selected predictions, by class, correct ones first, the most confident first.
    """

    FILE: ClassVar[str] = "index.json"

    format: Literal[1] = 1
    predictions: tuple[ExplainedPrediction, ...]


class FaithfulnessResult(StoredPart):
    """The value of a faithfulness metric, compared with its bound.

    Attributes:
      metric: The metric.
      value: The mean over the measured predictions; None if it is undefined.
      count: Number of predictions for which it is defined.
      bound: Threshold of `grad_cam.thresholds`; None if there is none.
      passed: Whether the value meets the bound; None without a bound.
      detail: The comparison in words; empty without a bound.
    """

    metric: FaithfulnessMetric
    value: float | None
    count: int
    bound: float | None = None
    passed: bool | None = None
    detail: str = ""


class FaithfulnessReport(Stored):
    """`faithfulness.json`.

    Attributes:
      split: The explained split.
      method: How channels were weighted.
      layer: The explained layer; empty for the default.
      steps: Number of parts in which pixels were deleted and inserted.
      num_predictions: Number of measured predictions.
      results: One for every metric of the task; empty if faithfulness was not measured.
    """

    FILE: ClassVar[str] = "faithfulness.json"

    format: Literal[1] = 1
    split: str
    method: ExplanationMethod
    layer: str
    steps: int
    num_predictions: int
    results: tuple[FaithfulnessResult, ...]

    @property
    def blessed(self) -> bool:
        """Whether no bound is missed."""
        return not self.failures()

    @property
    def values(self) -> dict[str, float | None]:
        """The value of every metric, by name."""
        return {result.metric.name: result.value for result in self.results}

    def failures(self) -> tuple[FaithfulnessResult, ...]:
        """The results that miss their bound."""
        return tuple(result for result in self.results if result.passed is False)
