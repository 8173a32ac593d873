"""What figures and rules are called by people."""

from __future__ import annotations

import re
from collections.abc import Iterable

from components.evaluator import metric_names

# Figure → name and what it says.
_FIGURES = {
    "examples": ("Examples", "Pictures that were measured."),
    "accuracy": ("Accuracy", "Share of the pictures whose most probable class is right."),
    "macro_precision": (
        "Macro precision",
        "Mean over the classes; of what is called a class, the share that is of it.",
    ),
    "macro_recall": ("Macro recall", "Mean over the classes; of the pictures of a class, the share that is found."),
    "macro_f1": ("Macro F1", "Mean over the classes; the harmonic mean of precision and recall."),
    "weighted_precision": ("Weighted precision", "Every class counts by its pictures."),
    "weighted_recall": ("Weighted recall", "Every class counts by its pictures."),
    "weighted_f1": ("Weighted F1", "Every class counts by its pictures."),
    "macro_auc": ("Macro ROC AUC", "How well the probability of a class ranks its pictures above others."),
    "cross_entropy": ("Cross-entropy", "Punishes confidence in a wrong class; lower is better."),
    "expected_calibration_error": (
        "Calibration error",
        "Mean distance between how sure the model is and how often it is right; lower is better.",
    ),
    "pixel_accuracy": ("Pixel accuracy", "Share of the pixels whose class is right."),
    "mean_iou": ("Mean IoU", "Mean over the classes; overlap of mask and truth over what either covers."),
    "mean_dice": ("Mean Dice", "Mean over the classes; twice the overlap over the sum of both areas."),
    "precision": ("Precision", ""),
    "recall": ("Recall", ""),
    "f1": ("F1", ""),
    "auc": ("ROC AUC", ""),
    "iou": ("IoU", ""),
    "dice": ("Dice", ""),
    "support": ("Support", ""),
    "loss": ("Loss", ""),
}
_TOP_K = re.compile(r"top_(\d+)_accuracy")


def figure(name: str) -> str:
    """A figure's name for people; of an unknown one its words."""
    if found := _TOP_K.fullmatch(name):
        return f"Top {found[1]} accuracy"
    return _FIGURES[name][0] if name in _FIGURES else name.replace("_", " ").capitalize()


def meaning(name: str) -> str:
    """What a figure says, in a sentence; of an unknown one nothing."""
    if found := _TOP_K.fullmatch(name):
        return f"Share of the pictures whose class is among the {found[1]} most probable."
    return _FIGURES[name][1] if name in _FIGURES else ""


def main(figures: Iterable[str], task: str) -> str:
    """The figure that a run is told by; empty if it is not there."""
    name = metric_names.MAIN[task]
    return name if name in set(figures) else ""
