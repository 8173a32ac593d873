"""ImageExampleGen's work: examine every picture once, decide where each belongs, write it there or to quarantine.

Two passes, both data-parallel. The first reads, decodes and describes; between them the division is made, since copies,
groups and exact shares can only be seen from all pictures together; the second copies finished records to their splits.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import logging
import math
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils

from components.image_example_gen import files, layout, mask, picture, splits
from components.image_example_gen.options import DataOptions
from components.image_example_gen.quarantine import DUPLICATES_FILE, QUARANTINE_FILE, SUMMARY_FILE
from trainer_module import features
from trainer_module.error_text import first_line
from trainer_module.locations import join
from trainer_module.section import Section

_UNDIVIDED_FOLDER = ".undivided"
# Large enough that what a shard costs by itself does not count, small enough for many workers.
_FILES_PER_SHARD = 2000
_BYTES_PER_SHARD = 512 * 2**20
# Reasons listed in an error; the log has all of them.
_MOST_REASONS = 10
# Frame of a TFRecord: length (uint64, little-endian) and its checksum (uint32), the record, its checksum (uint32).
_FRAME_HEAD, _FRAME_TAIL = struct.Struct("<QI"), 4


class Options(Section):
    """What the executor is told beside the data's place.

    Attributes:
      data: `[data]`.
      classes: Class names; with masks in the order of the ids.
      ignore_id: With masks, the id of pixels that count for nothing, if there is one.
      columns: Slice columns.
      with_masks: Whether pictures have masks instead of classes.
      fingerprint: Of every file's path, size and time of change, and of what tables say of it: the cache sees by it
        that the data have changed.
    """

    data: DataOptions = DataOptions()
    classes: tuple[str, ...]
    ignore_id: int | None = None
    columns: tuple[str, ...] = ()
    with_masks: bool = False
    fingerprint: str = ""


class DamagedContainerError(RuntimeError):
    """A file of many pictures cannot be read to its end: how many are lost, nobody can tell."""


class LostFilesError(RuntimeError):
    """The first pass has not given back what it was given; this is a fault of the program."""


class TooManyBadFilesError(RuntimeError):
    """The share of unusable files is above `data.max_bad_fraction`."""


class EmptySplitError(RuntimeError):
    """A split that is needed has no usable picture."""


class ClassWithoutTrainingPicturesError(RuntimeError):
    """A class has no usable picture in the train split."""


class ClassesChangedError(RuntimeError):
    """The data no longer have the classes for which the pipeline was made."""


class Shard(NamedTuple):
    """The unit of work: some files, and the number that the files written for them carry.

    Attributes:
      number: Number of the shard.
      of: Number of shards.
      entries: Files to read.
    """

    number: int
    of: int
    entries: list[layout.Entry]


def shards_of(entries: Iterable[layout.Entry], per_shard: int = _FILES_PER_SHARD) -> list[Shard]:
    """Divides files among shards, mixed by the hash of their names: no shard, and no part of one, is of one class."""
    mixed = sorted(
        entries,
        key=lambda entry: hashlib.md5(entry.path.encode(errors="surrogateescape"), usedforsecurity=False).digest(),
    )
    num_bytes = sum(entry.size for entry in mixed)
    count = max(1, math.ceil(len(mixed) / per_shard), min(len(mixed), math.ceil(num_bytes / _BYTES_PER_SHARD)))
    return [Shard(index, count, mixed[index::count]) for index in range(count)]


def to_example(
    filename: str,
    encoded: bytes,
    found: picture.Picture,
    *,
    class_text: str = "",
    mask_encoded: bytes = b"",
    mask_classes: Iterable[str] = (),
    slices: dict[str, str],
) -> tf.train.Example:
    """Builds the raw example of one picture: with a class, or with a mask."""
    example = tf.train.Example()
    feature = example.features.feature
    strings: dict[str, str | bytes] = {
        features.IMAGE_ENCODED: encoded,
        features.IMAGE_FORMAT: found.format,
        features.IMAGE_FILENAME: filename,
        features.IMAGE_SHA256: hashlib.sha256(encoded).hexdigest(),
    }
    if mask_encoded:
        strings[features.MASK_ENCODED] = mask_encoded
        feature[features.MASK_CLASSES].bytes_list.value.extend(name.encode() for name in mask_classes)
    else:
        strings[features.CLASS_TEXT] = class_text
    strings |= {features.SLICE_PREFIX + name: value for name, value in slices.items()}
    for key, value in strings.items():
        feature[key].bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
    feature[features.IMAGE_HEIGHT].int64_list.value.append(found.height)
    feature[features.IMAGE_WIDTH].int64_list.value.append(found.width)
    for channel in features.CHANNELS:
        feature[features.mean_key(channel)].float_list.value.append(found.mean[channel])
        feature[features.deviation_key(channel)].float_list.value.append(found.deviation[channel])
    return example


# --- First pass -------------------------------------------------------------------------------------------------


class _Candidate(NamedTuple):
    """A picture before it is examined."""

    filename: str
    encoded: bytes | picture.UnreadablePictureError
    label: str = ""
    mask: bytes | None = None  # None for classification
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()


class _Output:
    """What the first pass leaves of a shard: a TFRecord file of examples, and beside it what is known of each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._records: list[splits.Record] = []
        self.bad: list[dict[str, str]] = []

    def __enter__(self) -> _Output:
        self._writer = tf.io.TFRecordWriter(self._path)
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        _write_json(self._path + ".json", {"records": self._records, "bad": self.bad})

    def add(self, record: splits.Record, example: tf.train.Example) -> None:
        self._writer.write(example.SerializeToString())
        self._records.append(record)


class _Examine(beam.DoFn):
    """Writes the usable pictures of its shards as examples.

    Nothing goes through Beam picture by picture: shuffling and writing single records in Python took twice the time of
    reading and decoding them. A shard that is tried again writes the same files again.
    """

    def __init__(self, root: str, kind: str, undivided_dir: str, options: Options) -> None:
        self._root = root
        self._kind = kind
        self._undivided_dir = undivided_dir
        self._options = options

    def start_bundle(self) -> None:
        self._numbers: list[int] = []

    def process(self, number: int) -> None:
        self._numbers.append(number)

    def finish_bundle(self) -> None:
        """Goes through all shards with one decoder: starting one costs as much as a thousand small pictures."""
        candidates: collections.deque[tuple[int, _Candidate]] = collections.deque()

        def contents() -> Iterator[bytes | picture.UnreadablePictureError]:
            read = self._read_records if self._kind == "tfrecord" else self._read_files
            for number in self._numbers:
                listed = _read_json(_work_path(self._undivided_dir, _LISTED, number))
                entries = [layout.Entry._make([*said, tuple(slices)]) for *said, slices in listed]
                for candidate in read(entries):
                    candidates.append((number, candidate))
                    yield candidate.encoded

        with contextlib.ExitStack() as stack:
            outputs = iter([_Output(_work_path(self._undivided_dir, _EXAMINED, number)) for number in self._numbers])
            numbers = iter(self._numbers)
            current = None
            for examined in picture.examine_all(contents(), self._options.data.max_pixels):
                number, candidate = candidates.popleft()
                while current != number:  # shards come one after another, and some may hold nothing
                    stack.close()
                    current, output = next(numbers), stack.enter_context(next(outputs))
                try:
                    if isinstance(examined.result, picture.UnreadablePictureError):
                        raise examined.result
                    output.add(*self._example(candidate, examined.encoded, examined.result))
                except (picture.UnreadablePictureError, mask.UnusableMaskError) as error:
                    output.bad.append({"path": candidate.filename, "reason": str(error)})
            stack.close()
            for empty in outputs:
                with empty:
                    pass

    def _read_files(self, entries: list[layout.Entry]) -> Iterator[_Candidate]:
        contents = files.read_all(self._root, [entry.path for entry in entries])
        for entry, content in zip(entries, contents, strict=True):
            encoded: bytes | picture.UnreadablePictureError
            truth: bytes | None = None
            try:
                encoded = content if isinstance(content, bytes) else picture.UnreadablePictureError(str(content))
                if entry.mask:
                    truth = files.read(self._root, entry.mask)
            except files.UnreadableFileError as error:
                encoded = picture.UnreadablePictureError(f"its mask {error}")
            yield _Candidate(
                files.readable(entry.path), encoded, entry.label, truth, entry.split, entry.group, entry.slices
            )

    def _read_records(self, entries: list[layout.Entry]) -> Iterator[_Candidate]:
        """Examples that somebody else has written, with the keys of the raw contract."""
        for entry in entries:
            dataset = files.records(join(self._root, entry.path))
            number = 0
            try:
                for number, serialized in enumerate(dataset.as_numpy_iterator(), start=1):
                    yield self._candidate(serialized, entry, f"{files.readable(entry.path)}#{number - 1}")
            except tf.errors.OpError as error:
                raise DamagedContainerError(
                    f"{files.readable(entry.path)} is damaged behind record {number} ({first_line(error)}). "
                    "Write it again, or remove it."
                ) from None

    def _candidate(self, serialized: bytes, entry: layout.Entry, place: str) -> _Candidate:
        try:
            feature = tf.train.Example.FromString(serialized).features.feature
        except Exception:  # protobuf's decode error has another class in every implementation
            return _Candidate(place, picture.UnreadablePictureError("not a tf.Example"))

        def value(key: str) -> bytes:
            values = feature[key].bytes_list.value if key in feature else ()
            return bytes(values[0]) if values else b""

        encoded, truth = value(features.IMAGE_ENCODED), value(features.MASK_ENCODED)
        label = value(features.CLASS_TEXT).decode(errors="replace")
        name = value(features.IMAGE_FILENAME).decode(errors="replace") or place
        reason = ""
        if not encoded:
            reason = f"no feature {features.IMAGE_ENCODED}"
        elif self._options.with_masks and not truth:
            reason = f"no feature {features.MASK_ENCODED}, which other records have"
        elif not self._options.with_masks and truth:
            reason = f"a feature {features.MASK_ENCODED}, which other records do not have"
        elif not truth and label not in self._options.classes:
            reason = f"class `{label}` is not among data.classes"
        if reason:
            return _Candidate(place, picture.UnreadablePictureError(reason))
        slices = tuple(
            value(features.SLICE_PREFIX + column).decode(errors="replace") or layout.UNKNOWN
            for column in self._options.columns
        )
        group = value(features.SLICE_PREFIX + (self._options.data.group_column or "")).decode(errors="replace")
        group = group or layout.matched_group(name, self._options.data)
        return _Candidate(name, encoded, "" if truth else label, truth or None, entry.split, group, slices)

    def _example(
        self, candidate: _Candidate, encoded: bytes, found: picture.Picture
    ) -> tuple[splits.Record, tf.train.Example]:
        mask_encoded, mask_ids = b"", list[int]()
        if candidate.mask is not None:
            mask_encoded, mask_ids = mask.normalize(
                candidate.mask,
                height=found.height,
                width=found.width,
                num_classes=len(self._options.classes),
                ignore_id=self._options.ignore_id,
            )
        slices = picture.slices_of(found) | dict(zip(self._options.columns, candidate.slices, strict=True))
        example = to_example(
            candidate.filename,
            encoded,
            found,
            class_text=candidate.label,
            mask_encoded=mask_encoded,
            mask_classes=[self._options.classes[class_id] for class_id in mask_ids],
            slices=slices,
        )
        record = splits.Record(
            path=candidate.filename,
            label=candidate.label,
            split=candidate.split,
            group=candidate.group,
            sha256=example.features.feature[features.IMAGE_SHA256].bytes_list.value[0].decode(),
            truth=hashlib.sha256(mask_encoded).hexdigest() if mask_encoded else candidate.label,
            perceptual_hash=found.perceptual_hash,
        )
        return record, example


# --- Second pass ------------------------------------------------------------------------------------------------


class _Divide(beam.DoFn):
    """Copies a shard's records to the splits they belong to, frame by frame: nothing is parsed or encoded anew."""

    def __init__(self, undivided_dir: str, split_dirs: dict[str, str]) -> None:
        self._undivided_dir = undivided_dir
        self._split_dirs = split_dirs

    def process(self, number: int) -> None:
        work = _read_json(_work_path(self._undivided_dir, _DIVIDED, number))
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(tf.io.gfile.GFile(_work_path(self._undivided_dir, _EXAMINED, number), "rb"))
            targets: dict[str, Any] = {}
            for split in work["splits"]:
                head = source.read(_FRAME_HEAD.size)
                frame = head + source.read(_FRAME_HEAD.unpack(head)[0] + _FRAME_TAIL)
                if not split:
                    continue
                if split not in targets:
                    path = os.path.join(self._split_dirs[split], f"data_tfrecord-{number:05d}-of-{work['of']:05d}")
                    targets[split] = stack.enter_context(tf.io.gfile.GFile(path, "wb"))
                targets[split].write(frame)


# --- Work lists -------------------------------------------------------------------------------------------------

# Lists of files go to workers by way of files: a Beam graph that held a million names would be refused by a cluster.
_LISTED, _EXAMINED, _DIVIDED = "listed", "examined", "divided"


def _work_path(undivided_dir: str, kind: str, number: int) -> str:
    return os.path.join(undivided_dir, f"{kind}-{number:05d}")


def _write_json(path: str, content: Any) -> None:
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(content))


def _read_json(path: str) -> Any:
    with tf.io.gfile.GFile(path) as file:
        return json.loads(file.read())


# --- The component ----------------------------------------------------------------------------------------------


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
          output_dict: `examples` (with the span and version that were read) and `quarantine`, one artifact each.
          exec_properties: `input_base` (which may name spans) and `options`.

        Raises:
          ClassesChangedError: If the data's classes are not those of the options.
          TooManyBadFilesError: If more than `max_bad_fraction` of the files are unusable.
          ClassTooSmallError: If a class cannot be on every side of the split.
          ClassWithoutTrainingPicturesError: If a class has no picture in the train split.
          EmptySplitError: If a split has no picture at all.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        options = Options.model_validate_json(exec_properties["options"])
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        found = layout.inspect(exec_properties["input_base"], options.data)
        if found.classes != options.classes:
            raise ClassesChangedError(
                f"The data have the classes {', '.join(found.classes)}, and the pipeline was made for "
                f"{', '.join(options.classes)}. Compile it again."
            )
        undivided_dir = os.path.join(examples.uri, _UNDIVIDED_FOLDER)
        tf.io.gfile.makedirs(undivided_dir)
        shards = shards_of(found.entries, 1 if found.kind == "tfrecord" else _FILES_PER_SHARD)
        for shard in shards:
            _write_json(_work_path(undivided_dir, _LISTED, shard.number), shard.entries)
        self._run(shards, _Examine(found.root, found.kind, undivided_dir, options))

        by_shard = []
        bad = [refused._asdict() for refused in found.refused]
        for shard in shards:
            content = _read_json(_work_path(undivided_dir, _EXAMINED, shard.number) + ".json")
            by_shard.append([splits.Record(*record) for record in content["records"]])
            bad += content["bad"]
            if found.kind != "tfrecord" and len(content["records"]) + len(content["bad"]) != len(shard.entries):
                raise LostFilesError(f"Shard {shard.number} has not given back all of its {len(shard.entries)} files.")
        records = [record for shard_records in by_shard for record in shard_records]
        _log_and_refuse(bad, len(records) + len(bad), bad, options)
        division = splits.divide(records, options.data, found.own_splits)
        conflicting = [{"path": records[index].path, "reason": reason} for index, reason in division.refused.items()]
        bad += conflicting
        _log_and_refuse(conflicting, len(records) + len(bad) - len(conflicting), bad, options)
        names = options.data.written_splits(found.own_splits)
        counts = collections.Counter(
            (split, record.label) for record, split in zip(records, division.splits, strict=True) if split
        )
        _refuse_untrainable(counts, names, () if found.with_masks else options.classes)

        examples.split_names = artifact_utils.encode_split_names(list(names))
        examples.span, examples.version = found.span, found.version
        split_dirs = {split: artifact_utils.get_split_uri([examples], split) for split in names}
        for directory in split_dirs.values():
            tf.io.gfile.makedirs(directory)
        chosen = iter(division.splits)
        for shard, shard_records in zip(shards, by_shard, strict=True):
            work = {"of": shard.of, "splits": [next(chosen) for _ in shard_records]}
            _write_json(_work_path(undivided_dir, _DIVIDED, shard.number), work)
        self._run(shards, _Divide(undivided_dir, split_dirs))
        tf.io.gfile.rmtree(undivided_dir)
        _write_quarantine(quarantine, found, records, counts, bad, names, division)

    def _run(self, shards: list[Shard], work: beam.DoFn) -> None:
        numbers = [shard.number for shard in shards]
        with self._make_beam_pipeline() as pipeline:
            _ = pipeline | "Shards" >> beam.Create(numbers) | "Spread" >> beam.Reshuffle() | "Work" >> beam.ParDo(work)


def _write_quarantine(
    quarantine: types.Artifact,
    found: layout.Layout,
    records: list[splits.Record],
    counts: collections.Counter[tuple[str, str]],
    bad: list[dict[str, str]],
    names: Iterable[str],
    division: splits.Division,
) -> None:
    tf.io.gfile.makedirs(quarantine.uri)
    bad = sorted(bad, key=lambda record: record["path"])
    by_split: dict[str, dict[str, int]] = {split: {} for split in names}
    for (split, class_text), count in sorted(counts.items()):
        by_split[split][class_text] = count
    summary = {
        "examples": counts.total(),
        "quarantined": len(bad),
        "reasons": dict(collections.Counter(record["reason"].split(":")[0] for record in bad).most_common()),
        "splits": by_split,
        "duplicates": splits.summary(division),
        "span": found.span,
        "version": found.version,
    }
    for name, lines in ((QUARANTINE_FILE, bad), (DUPLICATES_FILE, splits.report(records, division))):
        with tf.io.gfile.GFile(os.path.join(quarantine.uri, name), "w") as file:
            file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    with tf.io.gfile.GFile(os.path.join(quarantine.uri, SUMMARY_FILE), "w") as file:
        file.write(json.dumps(summary, indent=2, ensure_ascii=False))
    quarantine.set_int_custom_property("quarantined", len(bad))
    quarantine.set_int_custom_property("examples", counts.total())


def _log_and_refuse(new: list[dict[str, str]], total: int, bad: list[dict[str, str]], options: Options) -> None:
    """Logs what is newly refused, and stops where all that is refused is too much of all that there is."""
    for record in new:
        logging.warning("Quarantined %s: %s", record["path"], record["reason"])
    if len(bad) <= options.data.max_bad_fraction * total:
        return
    bad = sorted(bad, key=lambda record: record["path"])
    listed = "".join(f"\n  {record['path']}: {record['reason']}" for record in bad[:_MOST_REASONS])
    rest = f"\n  and {len(bad) - _MOST_REASONS} more" if len(bad) > _MOST_REASONS else ""
    raise TooManyBadFilesError(
        f"{len(bad)} of {total} files ({len(bad) / total:.1%}) are not usable pictures; "
        f"data.max_bad_fraction allows {options.data.max_bad_fraction:.1%}.{listed}{rest}\n"
        "Mend or remove them, or raise data.max_bad_fraction."
    )


def _refuse_untrainable(
    counts: collections.Counter[tuple[str, str]], names: Iterable[str], labels: Iterable[str]
) -> None:
    untrained = [label for label in labels if (features.TRAIN, label) not in counts]
    if untrained:
        raise ClassWithoutTrainingPicturesError(
            f"No usable picture of class {', '.join(f'`{name}`' for name in untrained)} is in the train split. "
            "Add pictures of it, or change data.splits."
        )
    for split in names:
        if not any(name == split for name, _ in counts):
            raise EmptySplitError(
                f"Split `{split}` has no usable picture. Add pictures, give the split a folder, or set "
                'data.splits.by = "class", which gives every split its exact share.'
            )
        absent = [label for label in labels if (split, label) not in counts]
        if absent:
            logging.warning("Split %s has no picture of class %s.", split, ", ".join(absent))
