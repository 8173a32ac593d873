"""The Grad-CAM overlays of the report."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from components.grad_cam.artifact import ExplainedPrediction, ExplanationIndex, FaithfulnessReport
from components.model_report import images
from components.model_report.images import EmbeddedImage
from trainer_module import locations


@dataclass(frozen=True)
class ExplainedExample:
    """A prediction with its Grad-CAM overlay.

    Attributes:
      filename: As in the dataset.
      label: Its class.
      prediction: The predicted class.
      score: Probability of the predicted class.
      image: The explained image.
      overlay: The heat map over it.
      empty: Whether the heat map is zero everywhere.
    """

    filename: str
    label: str
    prediction: str
    score: float
    image: EmbeddedImage
    overlay: EmbeddedImage
    empty: bool = False


def read(uri: str) -> tuple[list[ExplainedExample], list[ExplainedExample]]:
    """Reads the most confident incorrect and the most confident correct predictions that GradCam explained."""
    ranked = sorted(ExplanationIndex.read(uri).predictions, key=lambda entry: (-entry.score, entry.filename))
    incorrect, correct = ([entry for entry in ranked if entry.correct == is_correct] for is_correct in (False, True))
    return (
        [_embed(uri, entry) for entry in incorrect[: images.NUM_INCORRECT]],
        [_embed(uri, entry) for entry in correct[: images.NUM_CORRECT]],
    )


def _embed(uri: str, entry: ExplainedPrediction) -> ExplainedExample:
    def image(path: str, alt: str) -> EmbeddedImage:
        return images.embed_photo(Image.open(io.BytesIO(locations.read(locations.join(uri, path)))), alt)

    return ExplainedExample(
        filename=entry.filename,
        label=entry.label,
        prediction=entry.predicted,
        score=entry.score,
        image=image(entry.image, entry.filename),
        overlay=image(entry.overlay, f"Heat map over {entry.filename} for class {entry.predicted}"),
        empty=entry.empty,
    )


def read_failures(uri: str) -> list[str]:
    """Reads why GradCam's gate refuses the model, one line per failed threshold."""
    return [result.detail for result in FaithfulnessReport.read(uri).failures()]


def color_scale(colormap: str) -> list[str]:
    """Samples a colormap as CSS colours, from no evidence to most."""
    from trainer_module import overlays

    colors = overlays.color_table(colormap)[::17].round().astype(int)
    return [f"rgb({red}, {green}, {blue})" for red, green, blue in colors]
