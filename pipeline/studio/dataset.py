"""The dataset of a pipeline: its catalog, and the images and labels in the files of its examples."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.data_audit.artifact import Audit
from components.data_audit.images import join_names
from components.example_validator.artifact import DriftReport
from components.image_example_gen import labels, spans
from components.image_example_gen.artifact import ClassNames, Quarantine, Summary
from components.stored import IncompatibleArtifactError
from pipeline.history.run_history import Runs
from pipeline.nodes import DATA_AUDIT
from pipeline.studio.catalog import FORMAT, Catalog, CatalogWriter, ImageRow
from pipeline.studio.pipelines import StudioPipeline
from serving import tfrecord
from trainer_module import box_drawing, box_labels, features, locations, mask_labels, tasks
from trainer_module.image_statistics import decode_rgb
from trainer_module.locations import join
from trainer_module.mask_drawing import BACKGROUND
from trainer_module.model_input import FULL_WINDOW, Window

_GEN, _EXAMPLES, _QUARANTINE = "ImageExampleGen", "examples", "quarantine"
_SPLIT_PREFIX = "Split-"  # of TFX
# A small dataset is ready before the page is rendered.
_PATIENCE_S = 0.8

Features = Mapping[str, Any]  # of a tf.Example
LabelValues = Mapping[str, Sequence[Any]]  # raw example features of a label
_BOX_KEYS = (features.BOX_CLASSES, features.BOX_DIFFICULT, features.BOX_IS_CROWD)


class Artifacts(NamedTuple):
    """The artifacts of a dataset: those of the newest run that has any.

    Attributes:
      examples: Folder of the examples.
      splits: Names of the splits.
      quarantine: Folder of the quarantine.
      audit: Folder of DataAudit's result; empty if it did not run.
      anomalies: Folder of ExampleValidator's result; empty if it did not run.
      images_key: Changes with the images.
      key: Changes with the artifacts that the catalog is made from.
    """

    examples: str
    splits: tuple[str, ...]
    quarantine: str
    audit: str
    anomalies: str
    images_key: str
    key: str

    def drift(self) -> DriftReport | None:
        """Reads drift and skew; None if they were not measured."""
        try:
            return DriftReport.read(self.anomalies) if self.anomalies else None
        except (OSError, IncompatibleArtifactError):
            return None


def find_artifacts(runs: Runs) -> Artifacts | None:
    """Finds the artifacts of the dataset; None if no run has read images."""
    generated = runs.newest_outputs(_GEN)
    if _EXAMPLES not in generated or _QUARANTINE not in generated:
        return None
    examples, quarantine = generated[_EXAMPLES], generated[_QUARANTINE]
    audit = runs.newest_outputs(DATA_AUDIT).get("audit")
    anomalies = runs.newest_outputs("ExampleValidator").get("anomalies")
    key = "-".join(str(artifact.id) for artifact in (examples, quarantine, audit, anomalies) if artifact)
    return Artifacts(
        examples.uri,
        _splits(examples.uri),
        quarantine.uri,
        audit.uri if audit else "",
        anomalies.uri if anomalies else "",
        str(examples.id),
        key,
    )


def _splits(examples_uri: str) -> tuple[str, ...]:
    """Lists the splits that have a folder, in their usual order."""
    with locations.os_errors(examples_uri):
        names = [str(name).rstrip("/") for name in locations.file_system(examples_uri).listdir(examples_uri)]
    splits = [name.removeprefix(_SPLIT_PREFIX) for name in names if name.startswith(_SPLIT_PREFIX)]
    return tuple(
        sorted(splits, key=lambda name: (name not in features.SPLITS, [*features.SPLITS, name].index(name), name))
    )


class Dataset:
    """The dataset of a pipeline."""

    def __init__(self, pipeline: StudioPipeline, artifacts: Artifacts, catalog: Catalog) -> None:
        """Takes the complete catalog."""
        self.pipeline, self.artifacts, self.catalog = pipeline, artifacts, catalog
        self.task = tasks.get(pipeline.config.task.name)
        self.classes = _class_names(artifacts.examples)

    def summary(self) -> Summary:
        """Reads the counts of ImageExampleGen."""
        return Summary.read(self.artifacts.quarantine)

    def features(self, row: ImageRow) -> Features:
        """Reads the example of an image."""
        with locations.os_errors(row.file), locations.file_system(row.file).GFile(row.file, "rb") as file:
            file.seek(row.position)
            _, data = next(tfrecord.records(file))
        return _parse(data)

    def image(self, row: ImageRow) -> bytes:
        """Reads the file of an image."""
        return bytes(self.features(row)[features.IMAGE_ENCODED].bytes_list.value[0])

    def drawn(self, row: ImageRow) -> np.ndarray:
        """Draws an image with its label, if that has places: uint8 [h, w, 3]."""
        example = self.features(row)
        pixels = np.asarray(decode_rgb(bytes(example[features.IMAGE_ENCODED].bytes_list.value[0])))
        return self.draw(pixels, label_values(example))

    def draw(self, pixels: np.ndarray, label: LabelValues) -> np.ndarray:
        """Draws a label with places over an image, uint8 [h, w, 3]; a small image is enlarged for lines and names."""
        array = label_array(label, self.classes)
        if array is None:
            return pixels
        scale = box_drawing.readable_scale(*pixels.shape[:2])
        return self.task.drawing.draw(pixels, array, self.classes, self.ignore_id, scale)

    @property
    def ignore_id(self) -> int | None:
        """The id of pixels without a class."""
        return self.pipeline.config.data.ignore_id

    @property
    def has_ignored_pixels(self) -> bool:
        """Whether pixels of a label may have no class."""
        return labels.has_class_ids(self.task.label_features) and self.ignore_id is not None

    @property
    def has_places(self) -> bool:
        """Whether labels have places in the image, which are drawn."""
        return self.task.drawing.has_places

    def embeddings_folder(self, model: str, version: int) -> Path:
        """Folder of the embeddings that a model version computed of this dataset."""
        return self.pipeline.folder / "embeddings" / f"{model}-{version}-{self.artifacts.images_key}"


def read_original(pipeline: StudioPipeline, path: str) -> bytes | None:
    """Reads a file of a local data folder; None if it is elsewhere, even by a link, or does not exist."""
    location = pipeline.config.data_location
    root = spans.root_of(location) if spans.has_spans(location) else location
    if locations.is_remote(root):
        return None
    folder = Path(root).resolve()
    target = (folder / path).resolve()
    return target.read_bytes() if target.is_relative_to(folder) and target.is_file() else None


def label_values(example: Features) -> dict[str, list[Any]]:
    """Reads the features of a label with places: feature name → values; empty if the label has none."""
    values = {}
    for key in (features.MASK_ENCODED, *features.BOX_CORNERS, *_BOX_KEYS):
        if key in example:
            kind = example[key].WhichOneof("kind")
            values[key] = list(getattr(example[key], kind).value) if kind else []
    values[features.BOX_CLASSES] = [name.decode() for name in values.get(features.BOX_CLASSES, ())]
    return values if features.MASK_ENCODED in values or features.BOX_YMIN in values else {}


def label_array(label: LabelValues, classes: Sequence[str]) -> np.ndarray | None:
    """Reads the places of a label as the drawing functions of its task take them.

    Args:
      label: Raw example features of the label and their values.
      classes: Class names; the index is the id.

    Returns:
      A mask uint8 [h, w], or boxes float32 [M, 6] as in `box_labels`; None if the label has no places.
    """
    if label.get(features.MASK_ENCODED):
        return mask_labels.decode(label[features.MASK_ENCODED][0])
    return box_labels.pack(label, classes) if features.BOX_YMIN in label else None


def _parse(data: bytes) -> Features:
    from serving.local_server.protos import example_pb2

    parsed: Features = example_pb2.Example.FromString(data).features.feature
    return parsed


def _class_names(examples_uri: str) -> tuple[str, ...]:
    try:
        return ClassNames.read(examples_uri).names
    except (OSError, IncompatibleArtifactError):
        return ()


# === Building catalogs ===


@dataclass
class Building:
    """A catalog that is being built.

    Attributes:
      done: Number of images so far.
      error: Why it failed; empty if it did not.
      finished: Set at the end, also after an error.
    """

    done: int = 0
    error: str = ""
    finished: threading.Event = field(default_factory=threading.Event)


class Datasets:
    """Opens datasets; builds their catalogs in the background."""

    def __init__(self) -> None:
        """Knows no dataset yet."""
        self._lock = threading.Lock()
        self._building: dict[Path, Building] = {}
        self._open: dict[Path, Dataset] = {}
        self._artifacts: dict[Path, tuple[int, Artifacts | None]] = {}

    def get(self, pipeline: StudioPipeline) -> Dataset | Building | None:
        """Returns the dataset, its state while the catalog is built, or None if no run has read images.

        Raises:
          ConfigError: If the run history cannot be read.
        """
        artifacts = self._artifacts_of(pipeline) if pipeline.has_runs else None
        if artifacts is None:
            return None
        path = pipeline.folder / f"catalog-{FORMAT}-{artifacts.key}.sqlite"
        with self._lock:
            if path in self._open:
                return self._open[path]
            building = self._building.get(path)
            if not path.is_file() and (building is None or building.finished.is_set()):
                building = self._building[path] = Building()
                threading.Thread(target=_build, args=(path, pipeline, artifacts, building), daemon=True).start()
        if building is not None and not building.finished.wait(_PATIENCE_S):
            return building
        if building is not None and building.error:
            return building
        with self._lock:
            self._building.pop(path, None)
            return self._open.setdefault(path, Dataset(pipeline, artifacts, Catalog(path)))

    def window(self, pipeline: StudioPipeline) -> Window:
        """Returns which values of 16-bit images the newest run reads as black and white; all without a run."""
        artifacts = self._artifacts_of(pipeline) if pipeline.has_runs else None
        return (artifacts and Summary.read(artifacts.quarantine).window) or FULL_WINDOW

    def _artifacts_of(self, pipeline: StudioPipeline) -> Artifacts | None:
        """Finds the artifacts again when the run history has changed: every thumbnail of a page asks for them."""
        path = pipeline.config.metadata_path
        changed = path.stat().st_mtime_ns
        known = self._artifacts.get(path)
        if known is None or known[0] != changed:
            known = self._artifacts[path] = (changed, find_artifacts(pipeline.runs()))
        return known[1]


def _build(path: Path, pipeline: StudioPipeline, artifacts: Artifacts, building: Building) -> None:
    try:
        build(path, artifacts, tasks.get(pipeline.config.task.name).class_features, building)
        for old in path.parent.glob("catalog-*.sqlite"):
            if old != path:
                old.unlink(missing_ok=True)
    except Exception as error:
        logging.getLogger(__name__).exception("The catalog of %s cannot be built.", pipeline.name)
        building.error = f"The dataset cannot be read: {error}"
    finally:
        building.finished.set()


def build(path: Path, artifacts: Artifacts, class_features: Sequence[str], building: Building) -> None:
    """Builds the catalog of a dataset.

    Args:
      path: Its file.
      artifacts: The artifacts of the dataset.
      class_features: Features with the class names of an example.
      building: Receives the progress.

    Raises:
      OSError: If a file cannot be read.
      IncompatibleArtifactError: If another version has written an artifact.
    """
    quarantine = Quarantine.read(artifacts.quarantine)
    suspects = Audit.read(artifacts.audit).suspects if artifacts.audit else ()
    drift = artifacts.drift()
    differing = {finding.feature for finding in (*drift.drift, *(drift.skew or ()))} if drift else set[str]()
    with CatalogWriter(path) as writer:
        for row, example in _examples(artifacts, class_features):
            writer.add_image(row, _classes(example, class_features), _slices(example), _numbers(example, differing))
            building.done += 1
        writer.add_quarantine([(entry.path, entry.reason) for entry in quarantine.files])
        writer.finish(
            [(row.filename, row.label, row.reason, row.score, row.proposed_label) for row in suspects],
            [
                (
                    number,
                    group.kind,
                    len({image.split for image in group.images if image.split}) > 1,
                    image.path,
                    image.split,
                )
                for number, group in enumerate(quarantine.duplicates)
                for image in group.images
            ],
        )


def _examples(artifacts: Artifacts, class_features: Sequence[str]) -> Iterator[tuple[ImageRow, Features]]:
    files = locations.file_system(artifacts.examples)
    for split in artifacts.splits:
        folder = join(artifacts.examples, _SPLIT_PREFIX + split)
        with locations.os_errors(folder):
            names = sorted(str(name).rstrip("/") for name in files.listdir(folder))
        for location in (join(folder, name) for name in names):
            with locations.os_errors(location), files.GFile(location, "rb") as file:
                position = 0
                for end, data in tfrecord.records(file):
                    example = _parse(data)
                    yield _row(example, _classes(example, class_features), split, location, position), example
                    position = end


def _classes(example: Features, class_features: Sequence[str]) -> list[str]:
    names = (value for key in class_features if key in example for value in example[key].bytes_list.value)
    return list(dict.fromkeys(name.decode() for name in names))


def _slices(example: Features) -> dict[str, str]:
    return {
        key.removeprefix(features.SLICE_PREFIX): example[key].bytes_list.value[0].decode()
        for key in example
        if key.startswith(features.SLICE_PREFIX) and example[key].bytes_list.value
    }


def _numbers(example: Features, names: Iterable[str]) -> dict[str, Sequence[float]]:
    lists = {name: (example[name].int64_list, example[name].float_list) for name in names if name in example}
    return {name: [*integers.value, *floats.value] for name, (integers, floats) in lists.items()}


def _row(example: Features, classes: Sequence[str], split: str, location: str, position: int) -> ImageRow:
    width, height = (example[key].int64_list.value[0] for key in (features.IMAGE_WIDTH, features.IMAGE_HEIGHT))
    return ImageRow(
        id=0,
        split=split,
        filename=example[features.IMAGE_FILENAME].bytes_list.value[0].decode(),
        label=join_names(name for name in classes if name != BACKGROUND or features.MASK_ENCODED not in example),
        width=width,
        height=height,
        format=example[features.IMAGE_FORMAT].bytes_list.value[0].decode(),
        bytes=len(example[features.IMAGE_ENCODED].bytes_list.value[0]),
        file=location,
        position=position,
    )
