"""What figures and rules are called by people."""

from __future__ import annotations

import re
from collections.abc import Iterable

from components.evaluator import metric_names

# Figure → what it says.
_MEANINGS = {
    metric_names.EXAMPLES: "Pictures that were measured.",
    "accuracy": "Share of the pictures whose most probable class is right.",
    "macro_precision": "Mean over the classes; of what is called a class, the share that is of it.",
    "macro_recall": "Mean over the classes; of the pictures of a class, the share that is found.",
    "macro_f1": "Mean over the classes; the harmonic mean of precision and recall.",
    "weighted_precision": "Every class counts by its pictures.",
    "weighted_recall": "Every class counts by its pictures.",
    "weighted_f1": "Every class counts by its pictures.",
    "macro_auc": "How well the probability of a class ranks its pictures above others.",
    "cross_entropy": "Punishes confidence in a wrong class; lower is better.",
    "expected_calibration_error": "Mean distance of how sure the model is from how often it is right; lower is better.",
    "pixel_accuracy": "Share of the pixels whose class is right.",
    "mean_iou": "Mean over the classes; overlap of mask and truth over what either covers.",
    "mean_dice": "Mean over the classes; twice the overlap over the sum of both areas.",
}
_TOP_K = re.compile(r"top_(\d+)_accuracy")


def figure(name: str) -> str:
    """A figure's name as a heading."""
    return heading(metric_names.title(name))


def heading(words: str) -> str:
    """Words as the beginning of a sentence."""
    return words[0].upper() + words[1:]


def meaning(name: str) -> str:
    """What a figure says, in a sentence; of an unknown one nothing."""
    if found := _TOP_K.fullmatch(name):
        return f"Share of the pictures whose class is among the {found[1]} most probable."
    return _MEANINGS.get(name, "")


def main(figures: Iterable[str], task: str) -> str:
    """The figure that a run is told by; empty if it is not there."""
    name = metric_names.MAIN[task]
    return name if name in set(figures) else ""
