"""The result of monitoring one window of the request log: `monitor.json`.

Other commands ask this file whether there is an alarm for the served version. Imports no TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer_module import locations

FILE = "monitor.json"

# The compared values: statistics of the pixels, embeddings, the scores of the classes, the predicted class, the
# confidence in it, and the quality of the predictions by feedback.
Kind = Literal["inputs", "embeddings", "outputs", "classes", "confidence", "quality"]


class ResultError(Exception):
    """The file of a result cannot be read; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Window(_Part):
    """The tested part of a request log.

    Attributes:
      log: Prefix of the log.
      first: Time of the first request, seconds since 1970.
      last: Time of the last one.
      requests: Number of requests.
      images: Number of images in them.
      labelled: Number of images with feedback.
    """

    log: str
    first: float
    last: float
    requests: int
    images: int
    labelled: int = 0


class DriftTest(_Part):
    """One statistical test of the window against the reference.

    Attributes:
      kind: The compared values.
      name: The tested value: `brightness`, the name of a class; empty if the kind has one test.
      method: The test, in words.
      statistic: Its statistic; larger is more different.
      p_value: Probability of such a statistic without drift.
      adjusted_p_value: The same, corrected for the number of tests; drift if it is at most the false-alarm rate.
      drift: Whether this test raises the alarm.
      reference: Mean of the value in the reference; None for values without one.
      window: The same in the window.
    """

    kind: Kind
    name: str
    method: str
    statistic: float
    p_value: float
    adjusted_p_value: float
    drift: bool
    reference: float | None = None
    window: float | None = None


class SliceQuality(_Part):
    """The quality of the predictions in a slice, by feedback.

    Attributes:
      slice: `all`, or such as `brightness=dark`, `label=cat`.
      images: Number of images with feedback.
      value: Mean quality, range [0, 1].
      low: Lower end of its 95 % confidence interval.
      high: Upper end.
      reference: Mean quality on the test split; None if it has no image of this slice.
      reference_low: Lower end of its 95 % confidence interval.
      reference_high: Upper end.
      worse: Whether the window is significantly worse, corrected for the number of slices.
    """

    slice: str
    images: int
    value: float
    low: float
    high: float
    reference: float | None = None
    reference_low: float | None = None
    reference_high: float | None = None
    worse: bool = False


class MonitorResult(_Part):
    """The result of monitoring one window.

    Attributes:
      format: Number of the file format.
      created: When the window was tested, seconds since 1970.
      model: Name of the model.
      version: The version whose requests were compared with its own reference.
      alarm: Whether any test detected drift.
      false_alarm_rate: Upper bound of the probability of an alarm without drift, for all tests of a window together.
      window: The tested requests.
      reference_images: Number of images of the reference.
      split_images: Number of images of its split, of which it is a random sample; None if it is not known.
      tests: The tests, those with the smallest p-value first.
      quality_name: Name of the quality that feedback measures: "accuracy"; empty without feedback.
      quality: By slice, `all` first; empty without feedback.
      notes: Values, requests and feedback that were not used, and why.
    """

    format: Literal[1] = 1
    created: float
    model: str
    version: int
    alarm: bool
    false_alarm_rate: float
    window: Window
    reference_images: int
    split_images: int | None = None
    tests: tuple[DriftTest, ...]
    quality_name: str = ""
    quality: tuple[SliceQuality, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> tuple[DriftTest, ...]:
        """The tests that raise the alarm."""
        return tuple(test for test in self.tests if test.drift)

    def is_alarm_for(self, version: int | None) -> bool:
        """Whether there is an alarm for the served version: that of an earlier version is over when another is pushed.

        Args:
          version: The newest version, which servers serve; None if there is none.
        """
        return self.alarm and self.version == version

    def write(self, folder: Path) -> Path:
        """Replaces the file in a folder, so that a reader sees the old or the new one; returns its path.

        Raises:
          OSError: If it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        locations.replace(str(path), self.model_dump_json(indent=2).encode() + b"\n")
        return path


def read(folder: Path) -> MonitorResult | None:
    """Reads the last result in the output folder of `tfx-vision monitor`; None if there is none yet.

    Raises:
      ResultError: If the file is damaged, or another version of tfx-vision wrote it.
      OSError: If it cannot be read.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return MonitorResult.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise ResultError(
            f"{path} cannot be read: {where}: {first['msg']}. Delete it; `tfx-vision monitor` writes a new one."
        ) from None
