"""A sheet of Grad-CAM overlays for the documentation: one correct prediction per class, then incorrect ones.

python tests/bench/overlay_sheet.py EXPLANATIONS --output docs/images/overlays.jpg [--side 120] [--incorrect 5]

EXPLANATIONS is the folder of an artifact of GradCam. The predictions shown are the most confident ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from components.grad_cam.artifact import ExplainedPrediction, ExplanationIndex

COLUMNS = 5
MARGIN, CAPTION = 8, 22


def select(entries: Sequence[ExplainedPrediction], num_incorrect: int) -> list[ExplainedPrediction]:
    """Selects one correct prediction per class, in the order of the classes, and some incorrect ones."""
    ranked = sorted(entries, key=lambda entry: -entry.score)
    classes = sorted({entry.label for entry in entries})
    correct = [next(entry for entry in ranked if entry.label == name and entry.correct) for name in classes]
    return correct + [entry for entry in ranked if not entry.correct][:num_incorrect]


def draw(entries: Sequence[ExplainedPrediction], folder: Path, side: int) -> Image.Image:
    """Draws images and overlays side by side, with a caption below each pair."""
    rows = -(-len(entries) // COLUMNS)
    width, height = 2 * side + MARGIN, side + CAPTION + MARGIN
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, entry in enumerate(entries):
        left, top = MARGIN + index % COLUMNS * width, MARGIN + index // COLUMNS * height
        for column, path in enumerate((entry.image, entry.overlay)):
            image = Image.open(folder / path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (left + column * side, top))
        caption = entry.predicted if entry.correct else f"{entry.label} predicted as {entry.predicted}"
        color = "#1a7f37" if entry.correct else "#cf222e"
        canvas.text((left, top + side + 3), f"{caption}  {entry.score:.0%}", fill=color, font=font)
    return sheet


def main() -> None:
    """Writes the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("explanations", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--side", type=int, default=120)
    parser.add_argument("--incorrect", type=int, default=COLUMNS)
    arguments = parser.parse_args()
    entries = ExplanationIndex.read(str(arguments.explanations)).predictions
    sheet = draw(select(entries, arguments.incorrect), arguments.explanations, arguments.side)
    sheet.save(arguments.output, quality=88, optimize=True)


if __name__ == "__main__":
    main()
