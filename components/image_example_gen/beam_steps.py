"""The two passes over a dataset: examining every image, and copying the examples to their splits.

Both are data-parallel. The images are divided between them, since duplicates, groups and exact fractions can only be
seen from all images together.
"""

from __future__ import annotations

import collections
import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import image_file, layouts, raw_examples, shards, splits
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.layouts import Candidate, Entry
from components.image_example_gen.observations import Observations
from components.image_example_gen.options import ExampleGenOptions
from components.image_example_gen.shards import WorkFolder
from trainer_module.model_input import FULL_WINDOW

# Frame of a TFRecord: length (uint64, little-endian) and its checksum (uint32), the record, its checksum (uint32).
_FRAME_HEAD, _FRAME_TAIL = struct.Struct("<QI"), 4


class _Output:
    """The results of the first pass for one shard: a TFRecord file of examples, and the records beside it."""

    def __init__(self, folder: WorkFolder, number: int) -> None:
        self._folder = folder
        self._number = number
        self._records: list[splits.Record] = []
        self._refused: list[tuple[str, str]] = []
        self.observations = Observations()

    def __enter__(self) -> _Output:
        self._writer = tf.io.TFRecordWriter(self._folder.path(shards.EXAMPLES, self._number))
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()
        content = {
            "records": self._records,
            "refused": self._refused,
            "observations": self.observations.to_json(),
        }
        self._folder.write(shards.RECORDS, self._number, content)

    def add(self, record: splits.Record, example: tf.train.Example) -> None:
        self._writer.write(example.SerializeToString())
        self._records.append(record)

    def refuse(self, path: str, reason: str) -> None:
        self._refused.append((path, reason))


class ExamineImages(beam.DoFn):
    """Writes the usable images of its shards as examples.

    Single images do not go through Beam: shuffling and writing records one by one in Python took twice the time of
    reading and decoding them. A shard that is retried writes the same files again.
    """

    def __init__(self, root: str, layout: str, folder: WorkFolder, options: ExampleGenOptions) -> None:
        """Configures the pass.

        Args:
          root: Of the dataset.
          layout: Name of its layout.
          folder: Contains the entries of every shard, and takes the results.
          options: Of ImageExampleGen.
        """
        self._root = root
        self._layout = layout
        self._folder = folder
        self._options = options

    def start_bundle(self) -> None:
        """Begins a list of shards."""
        self._numbers: list[int] = []

    def process(self, number: int) -> None:
        """Adds one shard to the list."""
        self._numbers.append(number)

    def finish_bundle(self) -> None:
        """Examines all shards with one decoder: starting one costs as much as a thousand small images."""
        waiting: collections.deque[tuple[int, Candidate]] = collections.deque()

        def contents() -> Iterator[bytes | UnusableImageError]:
            for number in self._numbers:
                for candidate in self._read(number):
                    waiting.append((number, candidate))
                    yield UnusableImageError(candidate.problem) if candidate.problem else candidate.encoded

        with contextlib.ExitStack() as stack:
            outputs = iter([_Output(self._folder, number) for number in self._numbers])
            numbers = iter(self._numbers)
            current = None
            options = self._options
            for examined in image_file.examine_all(contents(), options.data, options.window or FULL_WINDOW):
                number, candidate = waiting.popleft()
                while current != number:  # shards come one after another, and some may be empty
                    stack.close()
                    current, output = next(numbers), stack.enter_context(next(outputs))
                try:
                    output.add(*raw_examples.build(candidate, examined, options, output.observations))
                except UnusableImageError as error:
                    output.refuse(candidate.filename, str(error))
            stack.close()
            for empty in outputs:
                with empty:
                    pass

    def _read(self, number: int) -> Iterator[Candidate]:
        entries = [Entry.from_json(values) for values in self._folder.read(shards.ENTRIES, number)]
        return layouts.get(self._layout).read(self._root, entries, self._options)


class WriteSplits(beam.DoFn):
    """Copies the examples of a shard to their splits, frame by frame: nothing is parsed or encoded again."""

    def __init__(self, folder: WorkFolder, split_dirs: dict[str, str]) -> None:
        """Configures the pass.

        Args:
          folder: Contains the examples of every shard, and the split of each.
          split_dirs: Folder of every split.
        """
        self._folder = folder
        self._split_dirs = split_dirs

    def process(self, number: int) -> None:
        """Copies one shard."""
        work = self._folder.read(shards.SPLITS, number)
        with contextlib.ExitStack() as stack:
            path = self._folder.path(shards.EXAMPLES, number)
            source = stack.enter_context(tf.io.gfile.GFile(path, "rb"))
            targets: dict[str, Any] = {}
            for split in work["splits"]:
                head = source.read(_FRAME_HEAD.size)
                frame = head + source.read(_FRAME_HEAD.unpack(head)[0] + _FRAME_TAIL)
                if not split:
                    continue
                if split not in targets:
                    path = os.path.join(
                        self._split_dirs[split], f"data_tfrecord-{number:05d}-of-{work['num_shards']:05d}"
                    )
                    targets[split] = stack.enter_context(tf.io.gfile.GFile(path, "wb"))
                targets[split].write(frame)
