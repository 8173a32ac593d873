"""Images of the request log that a person should label: selected in the background, and kept with their proposals.

`pipeline.labeling` selects them, and writes the files for Label Studio and CVAT beside the images.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from components.data_audit.images import join_names
from components.stored import IncompatibleArtifactError, Stored, StoredPart
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.studio.pipelines import StudioPipeline
from serving.client import Client
from trainer_module import features, tasks

_FOLDER, _IMAGES = "selections", "images"
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}")
_NOVEL_SHARE = 0.2
_Values = list[str | int | float]


class SelectedImage(StoredPart):
    """An image of the request log, and what the model proposes.

    Attributes:
      path: Relative to the folder of the selection.
      proposal: Raw example features of the label and their values, masks in base64; None without a proposal.
      reason: `uncertain` or `novel`.
      uncertainty: Of the prediction, range [0, 1].
      novelty: How different the image is from the training data, range [0, 1).
      request_id: Of the request that contained it.
      source: Where it comes from, in words.
    """

    path: str
    proposal: dict[str, _Values] | None
    reason: str
    uncertainty: float
    novelty: float = 0.0
    request_id: str
    source: str

    def label(self) -> dict[str, list[Any]] | None:
        """Returns the proposal with masks as files."""
        if self.proposal is None:
            return None
        label: dict[str, list[Any]] = dict(self.proposal)
        if masks := label.get(features.MASK_ENCODED):
            label[features.MASK_ENCODED] = [base64.b64decode(mask) for mask in masks]
        return label

    def describe(self) -> str:
        """Describes the proposal: the classes, of boxes with their numbers; empty without one."""
        label = self.proposal or {}
        if features.BOX_CLASSES in label:
            names = list(map(str, label[features.BOX_CLASSES]))
            return ", ".join(f"{name} ({names.count(name)})" for name in dict.fromkeys(names)) or "no boxes"
        if features.MASK_ENCODED in label:
            return "a mask"
        return join_names(map(str, label.get(features.CLASS_TEXT, ())))


class Selection(Stored):
    """All images of a selection, the most useful first.

    Attributes:
      files: Names of the files for labelling programs.
      model: The model of the proposals, in words.
      images: The images.
    """

    FILE: ClassVar[str] = "selection.json"

    format: Literal[1] = 1
    files: tuple[str, ...]
    model: str = ""
    images: tuple[SelectedImage, ...]


@dataclass
class SelectionJob:
    """A selection that is being made.

    Attributes:
      step: What is done, in words.
      error: Why it failed; empty if it did not.
      is_running: Whether its thread runs.
    """

    step: str = ""
    error: str = ""
    is_running: bool = True


class Selections:
    """The selections of all pipelines."""

    def __init__(self) -> None:
        """Knows no job yet."""
        self._lock = threading.Lock()
        self._jobs: dict[Path, SelectionJob] = {}

    def job(self, pipeline: StudioPipeline) -> SelectionJob | None:
        """Returns the newest job of a pipeline; None if there was none."""
        return self._jobs.get(pipeline.folder)

    def start(self, pipeline: StudioPipeline, log: Path, model: str, client: Client, num: int) -> SelectionJob:
        """Starts a selection, or returns the running one.

        Args:
          pipeline: The pipeline.
          log: Prefix of the request log.
          model: Name of the model on the server, and in the log.
          client: Its client.
          num: Number of images.
        """
        with self._lock:
            job = self._jobs.get(pipeline.folder)
            if job is None or not job.is_running:
                job = self._jobs[pipeline.folder] = SelectionJob("starting")
                folder = pipeline.folder / _FOLDER / time.strftime("%Y%m%d-%H%M%S")
                arguments = (pipeline.config, log, model, client, num, folder, job)
                threading.Thread(target=_select, args=arguments, daemon=True).start()
            return job


def newest(pipeline: StudioPipeline) -> tuple[Path, Selection] | None:
    """Reads the newest selection and its folder; None if there is none."""
    parent = pipeline.folder / _FOLDER
    folders = sorted((path for path in parent.glob("*") if _NAME.fullmatch(path.name)), reverse=True)
    for folder in folders:
        try:
            return folder, Selection.read(str(folder))
        except (OSError, IncompatibleArtifactError):
            continue  # it is being written, or another version has written it
    return None


def write_label_files(
    config: PipelineConfig, folder: Path, selection: Selection, images: Sequence[SelectedImage]
) -> None:
    """Writes the files for labelling programs again, with some of the images.

    Raises:
      DatasetError: If the dataset cannot be read.
    """
    from pipeline.labeling import annotated_images, formats, labelled_data
    from pipeline.labeling.image_files import upright_size

    project = annotated_images.project_of(labelled_data.dataset_of(config), model=selection.model)
    proposed = []
    for image in images:
        width, height, _ = upright_size(image.path, (folder / image.path).read_bytes())
        values = image.model_dump(exclude={"proposal"})
        proposed.append(formats.ProposedImage(**values, width=width, height=height, proposal=image.label()))
    formats.export(folder, proposed, project)


def _select(
    config: PipelineConfig, log: Path, model: str, client: Client, num: int, folder: Path, job: SelectionJob
) -> None:
    try:
        from components.image_example_gen.errors import DatasetError
        from pipeline.labeling import candidates, formats, predictors, selected_images

        def set_step(step: str) -> None:
            job.step = step

        try:
            predictor = predictors.ServedModel(client)
            result = selected_images.select(
                config,
                candidates.source_of(str(log), model),
                predictor,
                num,
                folder,
                novel_share=_NOVEL_SHARE,
                on_step=set_step,
            )
        except (ConfigError, DatasetError) as error:
            job.error = str(error)
            return
        label_features = tasks.get(config.task.name).label_features
        images = tuple(
            SelectedImage(
                path=image.path,
                proposal=None if image.proposal is None else _stored(image.proposal),
                reason=image.reason,
                uncertainty=image.uncertainty,
                novelty=image.novelty,
                request_id=image.request_id,
                source=image.source,
            )
            for image in result.images
        )
        Selection(files=tuple(formats.files_for(label_features)), model=predictor.description, images=images).write(
            str(folder)
        )
    except Exception as error:
        logging.getLogger(__name__).exception("The selection from the request log failed.")
        job.error = getattr(error, "message", None) or str(error)
    finally:
        job.is_running = False


def _stored(label: Any) -> dict[str, _Values]:
    return {
        key: [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in values]
        for key, values in label.items()
    }
