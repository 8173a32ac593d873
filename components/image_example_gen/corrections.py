"""`data.corrections`: what a person decided about single images, applied before classes and splits are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

from components.image_example_gen import files, label_sets, labels, missing_files, tables
from components.image_example_gen.artifact import Action, Correction
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.layouts import Listing
from components.image_example_gen.options import DataOptions
from components.image_example_gen.stored_entries import collect
from trainer_module.error_text import did_you_mean

ACTION_COLUMN, LABEL_COLUMN, PROPOSED_LABEL_COLUMN = "action", "label", "proposed_label"
ACTIONS: tuple[Action, ...] = get_args(Action)
_SHOWN_FILES = 2


class Decision(NamedTuple):
    """A row of the table that has an action.

    Attributes:
      line: Line number in the file, from 1.
      action: What to do with the image.
      label: The text of the new label.
    """

    line: int
    action: Action
    label: str


class Corrected(NamedTuple):
    """A listing after its corrections.

    Attributes:
      listing: Without the dropped images, and with the new labels.
      corrections: Those that match an image, by path.
    """

    listing: Listing
    corrections: tuple[Correction, ...] = ()


def apply(listing: Listing, options: DataOptions, root: str, *, has_spans: bool = False) -> Corrected:
    """Applies the corrections of a dataset to its listing.

    Args:
      listing: All files, with classes renamed as configured.
      options: `[data]`.
      root: The data folder.
      has_spans: Whether the dataset consists of spans. Then a table may list only images of other spans.

    Raises:
      DatasetError: If the table cannot be used, if none of its rows matches an image, or if a label is not one that the
        dataset can have.
    """
    if options.corrections is None:
        return Corrected(listing)
    decisions = read(options.corrections)
    corrections: list[Correction] = []

    def corrected_entries() -> Iterator[Entry]:
        for entry in listing.entries:
            decision = decisions.get(files.readable(entry.path))
            if decision is None:
                yield entry
                continue
            correction = _correct(entry, decision, listing, options)
            corrections.append(correction)
            if correction.action == "relabel":
                # Boxes that would only have been read for their classes are not needed any more.
                yield entry._replace(label=_label(correction.after, listing), label_files=())
            elif correction.action == "keep":
                yield entry

    entries = collect(corrected_entries())
    unmatched = sorted(decisions.keys() - {correction.path for correction in corrections})
    if unmatched and not corrections and not has_spans:
        raise DatasetError(
            f"data.corrections: no row of {options.corrections} matches an image. `{tables.FILENAME_COLUMN}` is the "
            f"path from the data folder. The table has {len(decisions):,} paths, "
            f"{missing_files.describe(root, unmatched)}"
        )
    removed = listing.class_names & _classes_of(listing.entries) - _classes_of(entries)
    corrected = dataclasses.replace(
        listing,
        entries=entries,
        class_names=listing.class_names - removed | _classes_of(entries) if listing.class_names else frozenset(),
        notes=(*listing.notes, *_notes(options.corrections, corrections, unmatched, sorted(removed))),
    )
    return Corrected(corrected, tuple(sorted(corrections, key=lambda correction: correction.path)))


def read(location: str) -> dict[str, Decision]:
    """Reads the rows that have an action: path of the image → decision.

    Raises:
      DatasetError: If the table does not exist, lacks a column, or contradicts itself.
    """
    if not files.is_file(location):
        raise DatasetError(f"data.corrections: {location} does not exist.")
    table = tables.read(location, required=tables.FILENAME_COLUMN)
    if ACTION_COLUMN not in table.columns:
        raise DatasetError(
            f"{location} has no column `{ACTION_COLUMN}`. Add it, and write {_listed(ACTIONS)} into the rows that you "
            "have reviewed; the others may stay empty."
        )
    label_column = PROPOSED_LABEL_COLUMN if PROPOSED_LABEL_COLUMN in table.columns else LABEL_COLUMN
    decisions: dict[str, Decision] = {}
    for row in table.rows:
        text, name = row.values[ACTION_COLUMN].lower(), row.values[tables.FILENAME_COLUMN].removeprefix("./")
        action = next((action for action in ACTIONS if action == text), None)
        if action is None:
            if not text:
                continue
            suggestion = did_you_mean(text, ACTIONS) or "."
            raise DatasetError(
                f"{location}, line {row.line}: unknown action `{text}`{suggestion} Actions: {_listed(ACTIONS)}."
            )
        if action == "relabel" and label_column not in table.columns:
            raise DatasetError(
                f"{location} has no column `{LABEL_COLUMN}` with the new labels for `relabel`. Add it, or rename one."
            )
        decision = Decision(row.line, action, row.values[label_column] if action == "relabel" else "")
        first = decisions.setdefault(name, decision)
        if first[1:] != decision[1:]:
            raise DatasetError(
                f"{location}: lines {first.line} and {row.line} contradict each other about {name}. Remove one of them."
            )
    return decisions


def _listed(words: Sequence[str]) -> str:
    *others, last = (f"`{word}`" for word in words)
    return f"{', '.join(others)} or {last}"


def _correct(entry: Entry, decision: Decision, listing: Listing, options: DataOptions) -> Correction:
    before = entry.classes
    after = _new_classes(decision, listing, options) if decision.action == "relabel" else before
    # The label of the dataset may have been fixed since the table was written.
    action = "keep" if decision.action == "relabel" and after == before else decision.action
    return Correction(path=files.readable(entry.path), action=action, before=before, after=after)


def _new_classes(decision: Decision, listing: Listing, options: DataOptions) -> tuple[str, ...]:
    place = f"{options.corrections}, line {decision.line}"
    if listing.label_features == labels.CLASS_LABEL:
        names = [decision.label] if decision.label else []
        if not names:
            raise DatasetError(f"{place}: `relabel` requires a class. Write it into the table, or use `drop`.")
    elif labels.has_sets(listing.label_features):
        names = sorted(set(label_sets.split(decision.label, options.label_separator or label_sets.SEPARATOR)))
    else:
        raise DatasetError(
            f"{place}: `relabel` requires classes per image, and the dataset has {labels.noun(listing.label_features)}."
            " Use `drop`, or edit the annotation of the image."
        )
    known = listing.class_names | set(options.classes or ())
    for name in names:
        if name not in known:
            suggestion = did_you_mean(name, sorted(known)) or f". Classes: {', '.join(sorted(known))}."
            raise DatasetError(f"{place}: unknown class `{name}`{suggestion} data.classes may list a new one.")
    return tuple(names)


def _label(names: Sequence[str], listing: Listing) -> labels.Label:
    return labels.of_classes(names) if labels.has_sets(listing.label_features) else labels.of_class(names[0])


def _classes_of(entries: Sequence[Entry]) -> frozenset[str]:
    return frozenset(name for entry in entries for name in entry.classes)


def _notes(
    location: str, corrections: Sequence[Correction], unmatched: Sequence[str], removed: Sequence[str]
) -> list[str]:
    name = location.rpartition("/")[2]
    counts = count(corrections)
    notes = [f"{name}: {describe(counts)}"] if counts else []
    if removed:
        notes.append(f"{name}: no image is left of the classes {', '.join(removed)}, which are not used any more")
    if unmatched:
        shown = ", ".join(unmatched[:_SHOWN_FILES]) + (", …" if len(unmatched) > _SHOWN_FILES else "")
        notes.append(f"{name}: {len(unmatched):,} rows match no image and are not applied: {shown}")
    return notes


def count(corrections: Sequence[Correction]) -> dict[Action, int]:
    """Counts corrections by action; actions that do not occur are absent."""
    counts = {action: sum(correction.action == action for correction in corrections) for action in ACTIONS}
    return {action: number for action, number in counts.items() if number}


def reviewed(corrections: Sequence[Correction]) -> frozenset[str]:
    """Returns the paths of the images whose labels a person has confirmed."""
    return frozenset(correction.path for correction in corrections if correction.action == "keep")


def describe(counts: dict[Action, int]) -> str:
    """Describes the numbers of corrections by action."""
    verbs: dict[Action, str] = {"relabel": "relabelled", "drop": "dropped", "keep": "reviewed and unchanged"}
    return ", ".join(
        f"{number:,} image{'' if number == 1 else 's'} {verbs[action]}" for action, number in counts.items()
    )
