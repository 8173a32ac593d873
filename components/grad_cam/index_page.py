"""The HTML page of the explanations of a run, and of their faithfulness."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import jinja2

from components.grad_cam.artifact import (
    CLASS_GROUP_PREFIX,
    CONFIDENT_RIGHT,
    CONFIDENT_WRONG,
    UNCERTAIN,
    ExplainedPrediction,
    ExplanationIndex,
    FaithfulnessReport,
)
from trainer_module import overlays, tasks
from trainer_module.options import TrainerOptions

_CRITERIA = (CONFIDENT_RIGHT, CONFIDENT_WRONG, UNCERTAIN)
_METHODS = {"grad_cam": "Grad-CAM", "grad_cam_plus_plus": "Grad-CAM++", "hires_cam": "HiResCAM"}


class _Card(NamedTuple):
    """A prediction in a section: the criterion by which it was selected, and its caption."""

    criterion: str
    entry: ExplainedPrediction
    caption: str


class _Section(NamedTuple):
    """A class or a slice with its predictions."""

    title: str
    cards: list[_Card]

    @property
    def has_incorrect(self) -> bool:
        return any(not card.entry.correct for card in self.cards)


def render(index: ExplanationIndex, report: FaithfulnessReport, options: TrainerOptions) -> str:
    """Renders `index.html`; names of files, classes and slices are the user's text and are escaped.

    Args:
      index: The explained predictions.
      report: Their faithfulness.
      options: The configuration of the run.
    """
    template = (resources.files("components.grad_cam") / "index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    colors = overlays.color_table(options.grad_cam.colormap)
    explanation = tasks.get(options.task.name).explanation
    return environment.from_string(template).render(
        sections=_sections(index.predictions, options.classes, explanation.incorrect_caption),
        report=report,
        method=explanation.method_prefix + _METHODS[report.method],
        has_regions=explanation.has_regions,
        has_boxes=explanation.boxes is not None,
        stops=", ".join(f"rgb({', '.join(str(round(channel)) for channel in color)})" for color in colors[::15]),
    )


def _sections(entries: Sequence[ExplainedPrediction], classes: Sequence[str], incorrect_caption: str) -> list[_Section]:
    """Groups predictions by class, in the order of their ids, then by slice."""
    by_group: dict[str, list[tuple[int, int, _Card]]] = {CLASS_GROUP_PREFIX + name: [] for name in classes}
    slices = sorted({reason.group for entry in entries for reason in entry.reasons} - by_group.keys())
    by_group.update({name: [] for name in slices})
    for entry in entries:
        caption = entry.predicted
        if not entry.correct:
            caption = incorrect_caption.format(label=entry.label, predicted=entry.predicted)
        # Once per section, by the first of its reasons.
        for group in {reason.group for reason in entry.reasons}:
            order, rank, criterion = min(
                (_CRITERIA.index(reason.criterion), reason.rank, reason.criterion)
                for reason in entry.reasons
                if reason.group == group
            )
            by_group[group].append((order, rank, _Card(criterion, entry, caption)))
    return [
        _Section(group.removeprefix(CLASS_GROUP_PREFIX), [card for *_, card in sorted(ranked, key=lambda row: row[:2])])
        for group, ranked in by_group.items()
    ]
