"""ImageExampleGen's work: read every file once, examine it, write it to its split or to quarantine."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from pydantic import BaseModel, ConfigDict
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.utils import proto_utils

from components.image_example_gen import layout, picture
from trainer_module import features

QUARANTINE_FILE = "quarantine.jsonl"
SUMMARY_FILE = "summary.json"
NO_METADATA = "unknown"  # slice value of a picture that the metadata CSV does not name

# What looks like a picture and lies outside of the class folders is reported; a licence or a table there is not.
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic")
_BAD = "bad"
# Large enough that Beam's cost for a shard does not count, small enough that two workers finish together.
_FILES_PER_SHARD = 500
# Reasons listed in an error; the log has all of them.
_MOST_REASONS = 10


class Options(BaseModel):
    """What the executor is told beside the input's place.

    Attributes:
      classes: Class names.
      split_folders: Splits that have a folder of their own; the others get their share of `train`, by content hash.
      validation: Share of the validation split.
      test: Share of the test split; 0 leaves it out.
      metadata_csv: Where slice values come from.
      metadata_columns: The slice columns.
      metadata_sha256: Of the CSV: an edit runs the node again.
      fingerprint: Of every file's path, size and time of change, from `layout.inspect`.
      max_pixels: Larger pictures are refused before they are decoded.
      max_bad_fraction: Above this share of refused files the run stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    split_folders: tuple[str, ...] = ()
    validation: float = 0.15
    test: float = 0.15
    metadata_csv: str | None = None
    metadata_columns: tuple[str, ...] = ()
    metadata_sha256: str = ""
    fingerprint: str = ""
    max_pixels: int = 50_000_000
    max_bad_fraction: float = 0.01

    def splits(self) -> list[str]:
        """The splits that will be written."""
        optional = self.test > 0 or features.TEST in self.split_folders
        return [split for split in features.SPLITS if split != features.TEST or optional]


class TooManyBadFilesError(RuntimeError):
    """The share of unreadable files is above `data.max_bad_fraction`."""


class EmptySplitError(RuntimeError):
    """A split that is needed has no usable picture."""


class ClassWithoutTrainingPicturesError(RuntimeError):
    """A class has no usable picture in the train split."""


def split_of(sha256: str, folder_split: str | None, options: Options) -> str:
    """Chooses a picture's split.

    A folder decides; what has no folder of its own takes its share of `train`, by the hash of the file's bytes, so
    that identical files are never on two sides.

    Args:
      sha256: Hex digest of the file's bytes.
      folder_split: Name of the split folder the file lies in, or None.
      options: Shares and split folders.
    """
    if folder_split not in (None, features.TRAIN):
        assert folder_split is not None
        return folder_split
    position = int(sha256[:15], 16) / 16**15
    for split, share in ((features.VALIDATION, options.validation), (features.TEST, options.test)):
        if split in options.split_folders:
            continue
        if position < share:
            return split
        position -= share
    return features.TRAIN


def to_example(
    relative_path: str, encoded: bytes, found: picture.Picture, class_text: str, slices: dict[str, str]
) -> tf.train.Example:
    """Builds the raw example of one picture."""
    example = tf.train.Example()
    feature = example.features.feature
    strings: dict[str, str | bytes] = {
        features.IMAGE_ENCODED: encoded,
        features.IMAGE_FORMAT: found.format,
        features.IMAGE_FILENAME: relative_path,
        features.IMAGE_SHA256: hashlib.sha256(encoded).hexdigest(),
        features.CLASS_TEXT: class_text,
    }
    strings |= {features.SLICE_PREFIX + name: value for name, value in slices.items()}
    for key, value in strings.items():
        feature[key].bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    feature[features.IMAGE_HEIGHT].int64_list.value.append(found.height)
    feature[features.IMAGE_WIDTH].int64_list.value.append(found.width)
    for channel in features.CHANNELS:
        feature[features.mean_key(channel)].float_list.value.append(found.mean[channel])
        feature[features.deviation_key(channel)].float_list.value.append(found.deviation[channel])
    return example


class Shard(NamedTuple):
    """The unit of work: some files, and the number that the files written for them carry.

    Attributes:
      number: Number of the shard.
      of: Number of shards.
      paths: Files to read.
    """

    number: int
    of: int
    paths: list[str]


class _WriteShard(beam.DoFn):
    """Reads the files of a shard and writes a TFRecord file for each split: one element in, a few counts out.

    Going through Beam picture by picture (to shuffle, partition and compress them in Python) took twice the time of
    reading and decoding them. A shard that is tried again writes the same files again.
    """

    def __init__(self, input_base: str, split_dirs: dict[str, str], options: Options) -> None:
        self._input_base = input_base
        self._split_dirs = split_dirs
        self._options = options
        self._metadata: dict[str, dict[str, str]] = {}

    def setup(self) -> None:
        if self._options.metadata_csv:
            self._metadata = layout.read_metadata(Path(self._options.metadata_csv))

    def process(self, shard: Shard) -> Iterable[Any]:
        name = f"data_tfrecord-{shard.number:05d}-of-{shard.of:05d}"
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        with contextlib.ExitStack() as stack:
            writers: dict[str, tf.io.TFRecordWriter] = {}
            for path in shard.paths:
                try:
                    split, class_text, example = self._read(path)
                except (picture.UnreadablePictureError, tf.errors.OpError) as error:
                    yield beam.pvalue.TaggedOutput(_BAD, {"path": self._relative(path), "reason": str(error)})
                    continue
                if split not in writers:
                    writer = tf.io.TFRecordWriter(os.path.join(self._split_dirs[split], name))
                    writers[split] = stack.enter_context(writer)
                writers[split].write(example.SerializeToString())
                counts[split, class_text] += 1
        yield from counts.items()

    def _read(self, path: str) -> tuple[str, str, tf.train.Example]:
        relative = self._relative(path)
        *folders, _ = relative.split("/")
        if tf.io.gfile.isdir(path):
            raise picture.UnreadablePictureError("a folder inside a class folder; its files are not read")
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
        found = picture.examine(encoded, self._options.max_pixels)
        row = self._metadata.get(relative, {})
        slices = picture.slices_of(found)
        slices |= {column: row.get(column) or NO_METADATA for column in self._options.metadata_columns}
        example = to_example(relative, encoded, found, folders[-1], slices)
        folder_split = folders[0] if self._options.split_folders else None
        sha256 = example.features.feature[features.IMAGE_SHA256].bytes_list.value[0].decode()
        return split_of(sha256, folder_split, self._options), folders[-1], example

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._input_base).replace(os.sep, "/")


def shards_of(paths: list[str], input_base: str) -> list[Shard]:
    """Divides files among shards, mixed by the hash of their names: no shard, and no part of one, is of one class."""
    mixed = sorted(
        paths, key=lambda path: hashlib.md5(os.path.relpath(path, input_base).encode(), usedforsecurity=False).digest()
    )
    count = max(1, math.ceil(len(mixed) / _FILES_PER_SHARD))
    return [Shard(index, count, mixed[index::count]) for index in range(count)]


class Executor(base_beam_executor.BaseBeamExecutor):
    """Beam executor of ImageExampleGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes every picture of the data folder.

        Args:
          input_dict: Empty.
          output_dict: `examples` and `quarantine`, one artifact each.
          exec_properties: `input_base`, `input_config` (the driver has put the span into its pattern), `options`.

        Raises:
          TooManyBadFilesError: If more than `max_bad_fraction` of the files are unusable.
          ClassWithoutTrainingPicturesError: If a class has no picture in the train split.
          EmptySplitError: If a split has no picture at all.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        options = Options.model_validate_json(exec_properties["options"])
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        input_base = exec_properties["input_base"]
        paths, stray = _list_files(input_base, exec_properties["input_config"])
        splits = options.splits()
        examples.split_names = artifact_utils.encode_split_names(splits)
        split_dirs = {split: artifact_utils.get_split_uri([examples], split) for split in splits}
        for directory in split_dirs.values():
            tf.io.gfile.makedirs(directory)

        counts_path = os.path.join(quarantine.uri, "counts")
        bad_path = os.path.join(quarantine.uri, "bad")
        with self._make_beam_pipeline() as pipeline:
            written = (
                pipeline
                | "Shards" >> beam.Create(shards_of(paths, input_base))
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.ParDo(_WriteShard(input_base, split_dirs, options)).with_outputs(_BAD, main="counts")
            )
            for label, lines, path in (
                ("Counts", written.counts | beam.CombinePerKey(sum), counts_path),
                ("Bad", written[_BAD], bad_path),
            ):
                (
                    lines
                    | f"{label}Json" >> beam.Map(json.dumps)
                    | f"{label}Write" >> beam.io.WriteToText(path, shard_name_template="")
                )

        counts = {(split, name): count for (split, name), count in map(json.loads, _take_lines(counts_path))}
        bad = [json.loads(line) for line in _take_lines(bad_path)]
        bad += [
            {"path": os.path.relpath(path, input_base), "reason": "not inside a class folder; it is not used"}
            for path in stray
        ]
        bad.sort(key=lambda record: record["path"])
        _write_quarantine(quarantine, counts, bad, splits)
        _refuse(counts, bad, options)


def _list_files(input_base: str, input_config_json: str) -> tuple[list[str], list[str]]:
    """All files in class folders, and the pictures that lie outside of them; hidden entries are neither."""
    input_config = example_gen_pb2.Input()
    proto_utils.json_to_proto(input_config_json, input_config)
    pattern = input_config.splits[0].pattern

    def visible(glob: str) -> list[str]:
        found = tf.io.gfile.glob(os.path.join(input_base, glob))
        # TensorFlow's * matches a leading dot too.
        return sorted(
            path
            for path in found
            if not any(part.startswith(".") for part in os.path.relpath(path, input_base).split(os.sep))
        )

    levels = pattern.split("/")
    stray = [
        path
        for depth in range(1, len(levels))
        for path in visible("/".join(levels[:depth]))
        if path.lower().endswith(_PICTURE_SUFFIXES) and not tf.io.gfile.isdir(path)
    ]
    return visible(pattern), stray


def _take_lines(path: str) -> list[str]:
    """Reads and removes an intermediate text file."""
    with tf.io.gfile.GFile(path) as file:
        lines: list[str] = file.read().splitlines()
    tf.io.gfile.remove(path)
    return lines


def _write_quarantine(
    quarantine: types.Artifact,
    counts: dict[tuple[str, str], int],
    bad: list[dict[str, str]],
    splits: list[str],
) -> None:
    by_split: dict[str, dict[str, int]] = {split: {} for split in splits}
    for (split, class_text), count in sorted(counts.items()):
        by_split[split][class_text] = count
    summary = {
        "examples": sum(counts.values()),
        "quarantined": len(bad),
        "reasons": dict(collections.Counter(record["reason"].split(":")[0] for record in bad).most_common()),
        "splits": by_split,
    }
    with tf.io.gfile.GFile(os.path.join(quarantine.uri, QUARANTINE_FILE), "w") as file:
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in bad))
    with tf.io.gfile.GFile(os.path.join(quarantine.uri, SUMMARY_FILE), "w") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False))
    quarantine.set_int_custom_property("quarantined", len(bad))
    quarantine.set_int_custom_property("examples", summary["examples"])
    for record in bad:
        logging.warning("Quarantined %s: %s", record["path"], record["reason"])


def _refuse(counts: dict[tuple[str, str], int], bad: list[dict[str, str]], options: Options) -> None:
    total = sum(counts.values()) + len(bad)
    if len(bad) > options.max_bad_fraction * total:
        listed = "".join(f"\n  {record['path']}: {record['reason']}" for record in bad[:_MOST_REASONS])
        rest = f"\n  and {len(bad) - _MOST_REASONS} more" if len(bad) > _MOST_REASONS else ""
        raise TooManyBadFilesError(
            f"{len(bad)} of {total} files ({len(bad) / total:.1%}) are not usable pictures; "
            f"data.max_bad_fraction allows {options.max_bad_fraction:.1%}.{listed}{rest}\n"
            "Mend or remove them, or raise data.max_bad_fraction."
        )
    untrained = [name for name in options.classes if (features.TRAIN, name) not in counts]
    if untrained:
        raise ClassWithoutTrainingPicturesError(
            f"No usable picture of class {', '.join(f'`{name}`' for name in untrained)} is in the train split. "
            "Add pictures of it, or change data.splits."
        )
    for split in options.splits():
        if not any(name == split for name, _ in counts):
            raise EmptySplitError(
                f"Split `{split}` has no usable picture. Add pictures, change data.splits, or give the split a folder."
            )
        absent = [name for name in options.classes if (split, name) not in counts]
        if absent:
            logging.warning("Split %s has no picture of class %s.", split, ", ".join(absent))
