"""The examples with the worst predictions: image, ground truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from components.model_report import images
from components.model_report.images import EmbeddedImage
from trainer_module.tasks import Comparison


@dataclass(frozen=True)
class ComparedExample:
    """One example on the page.

    Attributes:
      filename: As in the dataset.
      score: By which examples are sorted, range [0, 1].
      main_error: The most frequent error, in words; empty if there is none.
      panels: Title and image: the photograph first.
      error_type: The type of error that it is shown under; empty if the task has none.
      num_images: Number of images of the split with this type of error.
    """

    filename: str
    score: float
    main_error: str
    panels: tuple[tuple[str, EmbeddedImage], ...]
    error_type: str = ""
    num_images: int = 0


def compare(
    comparison: Comparison,
    filename: str,
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    ignore_id: int | None,
) -> ComparedExample:
    """Draws one example.

    Args:
      comparison: That of the task.
      filename: As in the dataset.
      image: The image, uint8 [h, w, 1 or 3].
      label: Its label.
      prediction: The model's prediction.
      classes: Class names; the index is the id.
      ignore_id: Id of pixels without a class, if there is one.
    """
    photo = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    panels = [("Image", images.embed_photo(photo, filename))]
    for panel in comparison.panels(image, label, prediction, classes, ignore_id):
        alt = f"{panel.title} of {filename}: {panel.description}"
        panels.append((panel.title, images.embed_drawing(panel.pixels, alt)))
    return ComparedExample(
        filename,
        comparison.score(label, prediction, ignore_id),
        comparison.main_error(label, prediction, classes, ignore_id),
        tuple(panels),
    )
