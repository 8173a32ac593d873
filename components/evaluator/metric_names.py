"""Which figures there are, by task, and on which side of a bound a good model lies. Imports nothing."""

from __future__ import annotations

CLASSIFICATION, SEGMENTATION = "classification", "segmentation"

EXAMPLES = "examples"  # how many there are; not a figure of the model

# The figure that a run is told by, and its default bounds.
MAIN = {CLASSIFICATION: "accuracy", SEGMENTATION: "mean_iou"}
DEFAULT_THRESHOLDS = {CLASSIFICATION: {"accuracy": 0.5}, SEGMENTATION: {"mean_iou": 0.3}}
DEFAULT_CHANGE_THRESHOLDS = {CLASSIFICATION: {"accuracy": 0.02}, SEGMENTATION: {"mean_iou": 0.02}}

# Figures of which less is better; all others lie between 0 and 1, and more is better.
LOWER_IS_BETTER = ("cross_entropy", "expected_calibration_error")
UNBOUNDED = "cross_entropy"  # has no largest value

_OVERALL = {
    CLASSIFICATION: (
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "weighted_precision",
        "weighted_recall",
        "weighted_f1",
        "macro_auc",
        "cross_entropy",
        "expected_calibration_error",
    ),
    SEGMENTATION: ("pixel_accuracy", "mean_iou", "mean_dice"),
}
PER_CLASS = {
    CLASSIFICATION: ("precision", "recall", "f1", "auc"),
    SEGMENTATION: ("iou", "dice", "precision", "recall"),
}
# Those that are told slice by slice, as far as there are any.
OF_SLICES = {
    CLASSIFICATION: ("accuracy", "macro_f1", "macro_auc", "cross_entropy"),
    SEGMENTATION: ("mean_iou", "mean_dice", "pixel_accuracy"),
}
# The figure by which classes are put in order.
LEADING = {CLASSIFICATION: "f1", SEGMENTATION: "iou"}
SUPPORT = "support"  # examples, or pixels, of a class; not a figure of the model

# Where a figure's words are not its name's.
_TITLES = {"cross_entropy": "cross-entropy", "expected_calibration_error": "calibration error"}
_WORDS = {"f1": "F1", "auc": "AUC", "iou": "IoU", "dice": "Dice"}


def top_k_name(k: int) -> str:
    """The share of examples whose class is among the k most probable ones: `top_3_accuracy`."""
    return f"top_{k}_accuracy"


def title(name: str) -> str:
    """What people call a figure, in the middle of a sentence; of an unknown one its words."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_")) if name not in _TITLES else _TITLES[name]


def overall(task: str, top_k: int) -> tuple[str, ...]:
    """The figures of a slice, in the order in which they are shown."""
    names = _OVERALL[task]
    if task == CLASSIFICATION:
        return (names[0], top_k_name(top_k), *names[1:])
    return names


def higher_is_better(name: str) -> bool:
    """Whether more of a figure is better."""
    return name not in LOWER_IS_BETTER
