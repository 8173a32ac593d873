"""What GradCam leaves, as it is stored: needs neither TFX nor TensorFlow to be read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

INDEX_FILE = "index.json"  # a list of Entry
PAGE_FILE = "index.html"
FAITHFULNESS_FILE = "faithfulness.json"  # a Report
HEATMAPS_PREFIX = "heatmaps"  # TFRecord files of tf.Examples with the keys below, GZIP

RIGHT, WRONG = "right", "wrong"
# Why a decision was chosen.
CONFIDENT_RIGHT, CONFIDENT_WRONG, UNCERTAIN = "most confident right", "most confident wrong", "least certain"

# --- Keys of a heat map's tf.Example, beside `image/filename` and `image/sha256` ---------------------------------
CLASS_ID = "explanation/class/label"  # int64, the explained class
CLASS_TEXT = "explanation/class/text"  # its name
PREDICTED_TEXT = "explanation/predicted/text"  # the predicted class; with masks the explained one
TRUE_TEXT = "explanation/true/text"  # the true class; not with masks
SCORE = "explanation/score"  # float32, the explained class's probability
IS_RIGHT = "explanation/right"  # int64, 1 where the decision is right
HEATMAP = "explanation/heatmap"  # float32 [height * width], row by row, range [0, 1]
HEIGHT = "explanation/height"  # int64, pixels
WIDTH = "explanation/width"  # int64, pixels


class Reason(BaseModel):
    """Why a decision was chosen.

    Attributes:
      of: The class or the slice: `class = cat`, `camera = b`.
      why: `most confident right`, `most confident wrong` or `least certain`.
      rank: From 1.
    """

    of: str
    why: str
    rank: int


class Entry(BaseModel):
    """An explained decision.

    Attributes:
      filename: As in the data.
      class_: The true class; with masks the explained one.
      explained: The class whose heat map it is.
      predicted: The predicted class; with masks the explained one.
      score: The explained class's probability; with masks its mean over the explained region.
      kind: `right` or `wrong`.
      empty: Whether nothing speaks for the class.
      reasons: Why it was chosen.
      picture: PNG of what the model saw.
      heatmap: PNG of the heat map, grey.
      overlay: PNG of both.
    """

    filename: str
    class_: str
    explained: str
    predicted: str
    score: float
    kind: str
    empty: bool
    reasons: list[Reason]
    picture: str
    heatmap: str
    overlay: str


class Figure(BaseModel):
    """A figure of faithfulness, and what is demanded of it.

    Attributes:
      name: `deletion_auc` and so on.
      value: The mean; None where it could not be measured on a single decision.
      count: Decisions that it is the mean of.
      bound: Of `grad_cam.thresholds`; None where nothing is demanded.
      passed: The verdict; None where nothing is demanded.
      detail: What it says, in words.
    """

    name: str
    value: float | None
    count: int
    bound: float | None = None
    passed: bool | None = None
    detail: str = ""


class Report(BaseModel):
    """`faithfulness.json`.

    Attributes:
      split: The explained split.
      method: How channels were weighed.
      layer: Whose map is explained.
      steps: In how many parts pixels were deleted and inserted.
      decisions: Measured ones.
      figures: Those that exist for the task.
    """

    split: str
    method: str
    layer: str
    steps: int
    decisions: int
    figures: list[Figure]

    @property
    def blessed(self) -> bool:
        """Whether every demand is met."""
        return all(figure.passed is not False for figure in self.figures)

    def failures(self) -> list[Figure]:
        """The demands that are not met."""
        return [figure for figure in self.figures if figure.passed is False]


def judge(name: str, values: tuple[float, int] | None, bound: float | None, higher_is_better: bool) -> Figure:
    """Holds a figure against its bound.

    Args:
      name: Of the figure.
      values: Mean and count; None where it could not be measured.
      bound: None where nothing is demanded.
      higher_is_better: Of the figure.
    """
    value, count = values or (None, 0)
    if bound is None:
        return Figure(name=name, value=value, count=count)
    demand = f"must be {'at least' if higher_is_better else 'at most'} {bound:.4g}"
    if value is None:
        # What does not exist cannot be said to reach a bound.
        detail = f"{name} does not exist: no decision of the sample could be measured; it {demand}"
        return Figure(name=name, value=None, count=0, bound=bound, passed=False, detail=detail)
    passed = value >= bound if higher_is_better else value <= bound
    detail = f"{name} is {value:.4f}; it {demand}"
    return Figure(name=name, value=value, count=count, bound=bound, passed=passed, detail=detail)


def as_rows(entries: list[Entry]) -> list[dict[str, Any]]:
    """What `index.json` holds: the class is called `class` there."""
    return [{"class" if key == "class_" else key: value for key, value in e.model_dump().items()} for e in entries]
