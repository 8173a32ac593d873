"""A sheet of overlays for the documentation: the most confident right prediction per class, then wrong ones.

python tests/bench/overlay_sheet.py RUN --output docs/images/overlays.jpg [--side 120] [--mistakes 5]

RUN is the folder of GradCam's artifact, with `index.json`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from components.grad_cam.artifact import ExplainedPrediction, ExplanationIndex

COLUMNS = 5
MARGIN, CAPTION = 8, 22


def select(entries: Sequence[ExplainedPrediction], mistakes: int) -> list[ExplainedPrediction]:
    """Selects one right prediction per class, in the order of the classes, and the most confident wrong ones."""
    ranked = sorted(entries, key=lambda entry: -entry.score)
    classes = sorted({entry.label for entry in entries})
    right = [next(entry for entry in ranked if entry.label == name and entry.correct) for name in classes]
    return right + [entry for entry in ranked if not entry.correct][:mistakes]


def draw(entries: Sequence[ExplainedPrediction], folder: Path, side: int) -> Image.Image:
    """Draws images and overlays side by side, with a caption below each pair."""
    rows = -(-len(entries) // COLUMNS)
    width, height = 2 * side + MARGIN, side + CAPTION + MARGIN
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, entry in enumerate(entries):
        left, top = MARGIN + index % COLUMNS * width, MARGIN + index // COLUMNS * height
        for at, path in enumerate((entry.image, entry.overlay)):
            image = Image.open(folder / path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (left + at * side, top))
        caption = entry.predicted if entry.correct else f"{entry.label} predicted as {entry.predicted}"
        color = "#1a7f37" if entry.correct else "#cf222e"
        pen.text((left, top + side + 3), f"{caption}  {entry.score:.0%}", fill=color, font=font)
    return sheet


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--side", type=int, default=120)
    parser.add_argument("--mistakes", type=int, default=COLUMNS)
    arguments = parser.parse_args()
    entries = ExplanationIndex.read(str(arguments.run)).predictions
    sheet = draw(select(entries, arguments.mistakes), arguments.run, arguments.side)
    sheet.save(arguments.output, quality=88, optimize=True)


if __name__ == "__main__":
    main()
