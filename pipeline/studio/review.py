"""The review queue of a pipeline: images that a person should look at, and what was decided about them."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.data_audit.images import join_names
from components.image_example_gen.artifact import Action
from pipeline.studio import corrections_file, selections
from pipeline.studio.dataset import Dataset, label_values, read_original
from pipeline.studio.journal import ACTIONS, Decision, Journal, Source
from pipeline.studio.pipelines import StudioPipeline
from pipeline.studio.selections import SelectedImage
from trainer_module import features, tasks
from trainer_module.error_text import did_you_mean

JOURNAL_FILE, CORRECTIONS_FILE = "corrections.jsonl", "corrections.csv"
_REDRAWN_FOLDER, _IMAGES = "redraw", "images"
_CHOSEN_BY_HAND = "chosen by hand"


class InvalidDecisionError(Exception):
    """A decision that cannot be stored; the message says why."""


class ReviewItem(NamedTuple):
    """One image of the queue.

    Attributes:
      key: Of the image, see `journal.Decision`.
      source: Where it is.
      image: Number in the catalog; None for a logged image.
      filename: Relative to the data folder.
      label: Its label.
      proposed: The more probable label; empty without a proposal.
      reason: Why it is in the queue; several reasons are joined.
      score: Of the strongest reason, range [0, 1].
    """

    key: str
    source: Source
    image: int | None
    filename: str
    label: str
    proposed: str
    reason: str
    score: float


class Review:
    """The review of one pipeline: its queue, its journal and its corrections file."""

    def __init__(self, pipeline: StudioPipeline) -> None:
        """Opens the journal; JournalLockedError if another process has it."""
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self.journal = Journal(pipeline.folder / JOURNAL_FILE)

    @property
    def corrections_path(self) -> Path:
        """The file for `data.corrections`."""
        return self._pipeline.folder / CORRECTIONS_FILE

    def queue(self, dataset: Dataset, first: int | None = None) -> list[ReviewItem]:
        """Returns all images to review: selected images of the request log, and the suspects of DataAudit.

        Args:
          dataset: The dataset.
          first: Number of an image that comes first, whether it is suspicious or not.
        """
        items: dict[str, ReviewItem] = {}
        chosen = dataset.catalog.image(first) if first is not None else None
        if chosen is not None:
            key = dataset_key(chosen.filename)
            items[key] = ReviewItem(key, "dataset", chosen.id, chosen.filename, chosen.label, "", _CHOSEN_BY_HAND, 0.0)
        items |= {item.key: item for item in self._logged()}
        for row in dataset.catalog.all_suspects():
            key = dataset_key(row.filename)
            known = items.get(key)
            if known is None:
                items[key] = ReviewItem(
                    key, "dataset", row.image, row.filename, row.label, row.proposed, row.reason, row.score
                )
            elif row.reason not in known.reason:
                reason = row.reason if known.reason == _CHOSEN_BY_HAND else f"{known.reason}, {row.reason}"
                items[key] = known._replace(
                    reason=reason, proposed=known.proposed or row.proposed, score=max(known.score, row.score)
                )
        return list(items.values())

    def _logged(self) -> list[ReviewItem]:
        """Returns the images of the newest selection that are not in a span yet."""
        newest = selections.newest(self._pipeline)
        if newest is None:
            return []
        folder, selection = newest
        written = self.journal.in_spans()
        items = [
            ReviewItem(
                log_key(folder, image), "log", None, image.path, "", image.describe(), image.reason, image.uncertainty
            )
            for image in selection.images
        ]
        return [item for item in items if item.key not in written]

    def confirmed(self) -> dict[str, Decision]:
        """Returns the decisions that give images of the request log a label: those of the next span."""
        return {key: decision for key, decision in self.journal.decisions().items() if decision.labels_logged_image}

    def undecided(self) -> list[SelectedImage]:
        """Returns the images of the newest selection without a decision."""
        newest = selections.newest(self._pipeline)
        decided = {*self.journal.decisions(), *self.journal.in_spans()}
        return [image for image in newest[1].images if log_key(newest[0], image) not in decided] if newest else []

    def label_file(self, name: str) -> bytes | None:
        """Writes a file for a labelling program with the images that have no decision; None if there is no such file.

        Raises:
          InvalidDecisionError: If all images have one.
          DatasetError: If the dataset cannot be read.
        """
        newest = selections.newest(self._pipeline)
        if newest is None or name not in newest[1].files:
            return None
        folder, selection = newest
        with self._lock:
            images = self.undecided()
            if not images:
                raise InvalidDecisionError("All images of the selection have a decision.")
            selections.write_label_files(self._pipeline.config, folder, selection, images)
            return (folder / name).read_bytes()

    @property
    def redrawn_folder(self) -> Path:
        """Folder of the images whose masks or boxes are drawn again, for labelling programs."""
        return self._pipeline.folder / _REDRAWN_FOLDER

    def redrawn(self) -> list[str]:
        """Returns the file names of the images of the dataset whose masks or boxes are drawn again elsewhere."""
        return [
            decision.filename
            for decision in self.journal.decisions().values()
            if decision.source == "dataset" and decision.action == "relabel"
        ]

    def redrawn_file(self, name: str, dataset: Dataset) -> bytes | None:
        """Writes a file for a labelling program, with the images to draw again and their labels; None for other names.

        Raises:
          InvalidDecisionError: If there are no such images.
          DatasetError: If the dataset cannot be read.
        """
        from pipeline.labeling import annotated_images, formats, labelled_data
        from pipeline.labeling.image_files import file_name, upright_size

        if not dataset.has_places or name not in formats.files_for(dataset.task.label_features):
            return None
        rows = dataset.catalog.named(self.redrawn())
        if not rows:
            raise InvalidDecisionError("No image of the dataset is to be drawn again.")
        listed = labelled_data.dataset_of(self._pipeline.config)
        project = annotated_images.project_of(listed, fills_ignored=dataset.has_ignored_pixels, model="the dataset")
        images, taken = [], set[str]()
        with self._lock:
            shutil.rmtree(self.redrawn_folder, ignore_errors=True)
            (self.redrawn_folder / _IMAGES).mkdir(parents=True)
            for row in rows:
                encoded = read_original(self._pipeline, row.filename) or dataset.image(row)
                label = label_values(dataset.features(row))
                digest = hashlib.sha256(encoded).hexdigest()
                path = f"{_IMAGES}/{file_name(row.filename, encoded, digest, taken)}"
                (self.redrawn_folder / path).write_bytes(encoded)
                width, height, _ = upright_size(row.filename, encoded)
                images.append(formats.ProposedImage(path, width, height, label, source=row.filename))
            formats.export(self.redrawn_folder, images, project)
            return (self.redrawn_folder / name).read_bytes()

    def write_span(self, dataset: Dataset) -> Any:
        """Writes the labelled images of the request log as the next span of the dataset.

        Returns:
          A `WrittenSpan`.

        Raises:
          InvalidDecisionError: If there are none.
          DatasetError: If the dataset cannot have another span, or if an image cannot be used.
        """
        from pipeline.labeling import next_span

        confirmed = self.confirmed()
        newest = selections.newest(self._pipeline)
        by_key = {log_key(newest[0], image): image for image in newest[1].images} if newest else {}
        images = [
            confirmed_image(newest[0], by_key[key], decision)
            for key, decision in confirmed.items()
            if newest and key in by_key
        ]
        if not images:
            raise InvalidDecisionError("No image of the request log has a label yet.")
        written = next_span.write(self._pipeline.config, images)
        self.journal.add_span([key for key in confirmed if key in by_key], written.path)
        return written

    def decide(self, item: ReviewItem, action: str, new_label: str, dataset: Dataset) -> Decision:
        """Stores a decision and writes the corrections file.

        Raises:
          InvalidDecisionError: If the action or the label is not possible.
          OSError: If it cannot be stored.
        """
        chosen = next((known for known in ACTIONS if known == action), None)
        if chosen is None:
            raise InvalidDecisionError(f"Unknown action {action[:50]!r}. Actions: {', '.join(ACTIONS)}.")
        if item.source == "log" and chosen == "keep" and not item.proposed:
            raise InvalidDecisionError("There is no proposal to accept. Relabel the image, or drop it.")
        if dataset.has_places and chosen == "relabel":
            if item.source == "log":
                raise InvalidDecisionError(
                    "Masks and boxes are drawn in Label Studio or CVAT, whose files contain all images of the log "
                    "without a decision."
                )
            label = ""
        else:
            label = self._checked_label(chosen, new_label, dataset)
        decision = Decision(
            key=item.key,
            source=item.source,
            filename=item.filename,
            action=chosen,
            label=item.label,
            new_label=label,
            reason=item.reason,
            score=item.score,
            time=time.time(),
        )
        self.journal.add(decision)
        self.write_corrections()
        return decision

    def undo(self) -> Decision | None:
        """Takes the last decision back; None if there is none."""
        undone = self.journal.undo()
        if undone is not None:
            self.write_corrections()
        return undone

    def write_corrections(self) -> None:
        """Writes the corrections file: the decisions, and those of the file that the configuration names."""
        with self._lock:
            earlier = self._pipeline.config.data_options.corrections
            if earlier is not None and Path(earlier).absolute() == self.corrections_path.absolute():
                earlier = None  # it is this file, whose decisions are in the journal
            decisions = list(self.journal.decisions().values())
            if tasks.get(self._pipeline.config.task.name).drawing.has_places:
                # The image comes back with its new label in another span, and its old label must not.
                decisions = [
                    decision._replace(action="drop") if decision.action == "relabel" else decision
                    for decision in decisions
                ]
            text = corrections_file.to_csv(decisions, earlier)
            corrections_file.write(self.corrections_path, text)

    def _checked_label(self, action: Action, new_label: str, dataset: Dataset) -> str:
        if action != "relabel":
            return ""
        names = list(dict.fromkeys(filter(None, new_label.split("|"))))
        if not names and not dataset.task.takes_label_sets:
            raise InvalidDecisionError("A new label requires a class. Choose one, or drop the image.")
        if len(names) > 1 and not dataset.task.takes_label_sets:
            raise InvalidDecisionError("An image of this dataset has one class. Choose one of them.")
        for name in names:
            if name not in dataset.classes:
                hint = did_you_mean(name, dataset.classes) or f". Classes: {', '.join(dataset.classes[:20])}."
                raise InvalidDecisionError(f"Unknown class `{name[:100]}`{hint}")
        return join_names(names)


def log_key(folder: Path, image: SelectedImage) -> str:
    """Key of an image of the request log."""
    return f"log/{folder.name}/{image.path}"


def confirmed_image(folder: Path, image: SelectedImage, decision: Decision) -> Any:
    """Returns an image with the label that a person has confirmed or given: a `ConfirmedImage`."""
    from pipeline.labeling.confirmed import ConfirmedImage

    label = image.label() or {}
    if decision.action == "relabel":
        label = {features.CLASS_TEXT: decision.new_label.split("|") if decision.new_label else []}
    return ConfirmedImage(
        filename=Path(image.path).name,
        encoded=(folder / image.path).read_bytes(),
        label=label,
        confirmed_by="studio",
        source=image.source,
        request_id=image.request_id,
    )


def dataset_key(filename: str) -> str:
    """Key of an image of the dataset."""
    return f"dataset/{filename}"


class Reviews:
    """The reviews of all pipelines, opened on demand and kept open."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._lock = threading.Lock()
        self._open: dict[Path, Review] = {}

    def get(self, pipeline: StudioPipeline) -> Review:
        """Returns the review of a pipeline; JournalLockedError if another process has its journal."""
        with self._lock:
            if pipeline.folder not in self._open:
                self._open[pipeline.folder] = Review(pipeline)
            return self._open[pipeline.folder]

    def close(self) -> None:
        """Closes all journals."""
        with self._lock:
            for review in self._open.values():
                review.journal.close()
            self._open.clear()


def counts(decisions: Mapping[str, Decision]) -> dict[str, int]:
    """Counts decisions by action."""
    return {action: sum(decision.action == action for decision in decisions.values()) for action in ACTIONS}


def progress(queue: Sequence[ReviewItem], decisions: Mapping[str, Decision]) -> dict[str, Any]:
    """Returns the numbers of the queue: all images, decided ones, those of the next span, and decisions by action."""
    decided = [decisions[item.key] for item in queue if item.key in decisions]
    labelled = sum(decision.labels_logged_image for decision in decided)
    return {"total": len(queue), "decided": len(decided), "labelled": labelled, "actions": counts(decisions)}
