"""The page that shows the explanations of a run, and how faithful they are."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import jinja2

from components.grad_cam.findings import CONFIDENT_RIGHT, CONFIDENT_WRONG, UNCERTAIN, Entry, Figure, Report
from trainer_module import overlays
from trainer_module.options import FAITHFULNESS, TrainerOptions

_ORDER = (CONFIDENT_RIGHT, CONFIDENT_WRONG, UNCERTAIN)
_METHODS = {"grad_cam": "Grad-CAM", "grad_cam_plus_plus": "Grad-CAM++"}
_MEANINGS = {
    "deletion_auc": "mean probability while the hottest pixels are deleted",
    "insertion_auc": "mean probability while the hottest pixels are inserted into a blurred picture",
    "average_drop": "part of the probability that is lost where only the heat is left",
    "increase_in_confidence": "decisions that are surer where only the heat is left",
    "pointing_game": "maps whose hottest pixel lies on the class",
    "energy_inside": "part of the heat that lies on the class",
}


class _Section(NamedTuple):
    """A class or a slice: its title, and of every decision why it is shown."""

    title: str
    shown: list[tuple[str, Entry]]
    wrong: bool


class _Row(NamedTuple):
    """A figure of faithfulness, what it means, and which way is good."""

    figure: Figure
    meaning: str
    good: str


def render(entries: Sequence[Entry], report: Report, options: TrainerOptions) -> str:
    """Renders `index.html`; the names of files, classes and slices are the user's text and are escaped.

    Args:
      entries: The explained decisions.
      report: The figures of faithfulness.
      options: The configuration of the run.
    """
    template = (resources.files("components.grad_cam") / "index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    colors = overlays.color_table(options.grad_cam.colormap)
    stops = ", ".join(
        f"rgb({', '.join(str(round(channel)) for channel in colors[index])})" for index in range(0, 256, 15)
    )
    masks = options.task.name == "segmentation"
    method = _METHODS[report.method]
    return environment.from_string(template).render(
        sections=_sections(entries, options),
        rows=[
            _Row(figure, _MEANINGS[figure.name], "higher" if FAITHFULNESS[figure.name] else "lower")
            for figure in report.figures
        ],
        report=report,
        method=f"Seg-{method}" if masks else method,
        masks=masks,
        stops=stops,
    )


def _sections(entries: Sequence[Entry], options: TrainerOptions) -> list[_Section]:
    """Classes in the order of their ids, then slices."""
    of: dict[str, list[tuple[int, int, str, Entry]]] = {f"class = {name}": [] for name in options.classes}
    slices = sorted({reason.of for entry in entries for reason in entry.reasons} - of.keys())
    of.update({name: [] for name in slices})
    for entry in entries:
        # Once in a section, by the first of its reasons.
        for title in {reason.of for reason in entry.reasons}:
            why = min(
                (_ORDER.index(reason.why), reason.rank, reason.why) for reason in entry.reasons if reason.of == title
            )
            of[title].append((*why, entry))
    sections = []
    for title, found in of.items():
        found.sort(key=lambda row: row[:2])
        shown = [(why, entry) for *_, why, entry in found]
        sections.append(_Section(title.removeprefix("class = "), shown, any(e.kind == "wrong" for _, e in shown)))
    return sections
