"""A sheet of overlays for the documents: of every class the surest right decision, and below the surest mistakes.

python tests/bench/overlay_sheet.py RUN --output docs/images/overlays.jpg [--side 120] [--mistakes 5]

RUN is a folder that GradCam has written, with `index.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 5
MARGIN, CAPTION = 8, 22


def chosen(entries: list[dict[str, Any]], mistakes: int) -> list[dict[str, Any]]:
    """One right decision a class, in the order of the classes, and the surest mistakes."""
    surest = sorted(entries, key=lambda entry: -entry["score"])
    classes = sorted({entry["class"] for entry in entries})
    right = [next(e for e in surest if e["class"] == name and e["kind"] == "right") for name in classes]
    return right + [entry for entry in surest if entry["kind"] == "wrong"][:mistakes]


def draw(entries: list[dict[str, Any]], folder: Path, side: int) -> Image.Image:
    """Pictures and overlays side by side, a caption below each pair."""
    rows = -(-len(entries) // COLUMNS)
    width, height = 2 * side + MARGIN, side + CAPTION + MARGIN
    sheet = Image.new("RGB", (COLUMNS * width + MARGIN, rows * height + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, entry in enumerate(entries):
        left, top = MARGIN + index % COLUMNS * width, MARGIN + index // COLUMNS * height
        for at, name in enumerate(("picture", "overlay")):
            image = Image.open(folder / entry[name]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (left + at * side, top))
        right = entry["kind"] == "right"
        said = entry["predicted"] if right else f"{entry['class']}, taken for {entry['predicted']}"
        color = "#1a7f37" if right else "#cf222e"
        pen.text((left, top + side + 3), f"{said}  {entry['score']:.0%}", fill=color, font=font)
    return sheet


def main() -> None:
    """Draws the sheet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--side", type=int, default=120)
    parser.add_argument("--mistakes", type=int, default=COLUMNS)
    arguments = parser.parse_args()
    entries = json.loads((arguments.run / "index.json").read_text(encoding="utf-8"))
    sheet = draw(chosen(entries, arguments.mistakes), arguments.run, arguments.side)
    sheet.save(arguments.output, quality=88, optimize=True)


if __name__ == "__main__":
    main()
