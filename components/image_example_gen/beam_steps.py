"""The two passes over a dataset: examining every image, and copying the examples to their splits.

Both are data-parallel. The images are divided between them, since duplicates, groups and exact fractions can only be
seen from all images together: `division` does so, on an engine by the exchange of `beam_exchange`.
"""

from __future__ import annotations

import collections
import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import image_file, layouts, raw_examples, shards, splits
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.layouts import Candidate
from components.image_example_gen.observations import Observations
from components.image_example_gen.options import ExampleGenOptions
from components.image_example_gen.records import columns_of
from components.image_example_gen.shards import WorkFolder
from trainer_module.model_input import FULL_WINDOW

# Frame of a TFRecord: length (uint64, little-endian) and its checksum (uint32), the record, its checksum (uint32).
_FRAME_HEAD, _FRAME_TAIL = struct.Struct("<QI"), 4
_BLOCK_BYTES = 4 * 2**20


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
        self._folder.store(shards.RECORDS, self._number, columns_of(self._records))
        # Apart from the records: one process reads the results of all shards.
        results = {
            "num_records": len(self._records),
            "refused": self._refused,
            "observations": self.observations.to_json(),
        }
        self._folder.write(shards.RESULTS, self._number, results)

    def add(self, record: splits.Record, example: bytes) -> None:
        self._writer.write(example)
        self._records.append(record)

    def refuse(self, path: str, reason: str) -> None:
        self._refused.append((path, reason))


# Runs a pass for some shards.
Pass = Callable[[Sequence[int]], None]


class ExamineImages:
    """Writes the usable images of shards as examples.

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

    def __call__(self, shard_numbers: Sequence[int]) -> None:
        """Examines all shards with one decoder: starting one costs as much as a thousand small images."""
        waiting: collections.deque[tuple[int, Candidate]] = collections.deque()

        def contents() -> Iterator[bytes | UnusableImageError]:
            for number in shard_numbers:
                for candidate in self._read(number):
                    waiting.append((number, candidate))
                    yield UnusableImageError(candidate.problem) if candidate.problem else candidate.encoded

        with contextlib.ExitStack() as stack:
            outputs = iter([_Output(self._folder, number) for number in shard_numbers])
            numbers = iter(shard_numbers)
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


class WriteSplits:
    """Copies the examples of shards to their splits, frame by frame: nothing is parsed or encoded again."""

    def __init__(self, folder: WorkFolder, split_dirs: dict[str, str]) -> None:
        """Configures the pass.

        Args:
          folder: Contains the examples of every shard, and the split of each.
          split_dirs: Folder of every split.
        """
        self._folder = folder
        self._split_dirs = split_dirs

    def __call__(self, shard_numbers: Sequence[int]) -> None:
        """Copies shards."""
        for number in shard_numbers:
            self._copy(number)

    def _copy(self, number: int) -> None:
        work = self._folder.read(shards.SPLITS, number)
        with contextlib.ExitStack() as stack:
            path = self._folder.path(shards.EXAMPLES, number)
            frames = _frames(stack.enter_context(tf.io.gfile.GFile(path, "rb")))
            targets: dict[str, _Blocks] = {}
            for split, frame in zip(work["splits"], frames, strict=False):
                if not split:
                    continue
                if split not in targets:
                    path = os.path.join(
                        self._split_dirs[split], f"data_tfrecord-{number:05d}-of-{work['num_shards']:05d}"
                    )
                    targets[split] = stack.enter_context(_Blocks(path))
                targets[split].append(frame)


def _frames(file: Any) -> Iterator[bytes]:
    """Reads the frames of a TFRecord file in blocks: a call of the file system takes longer than a small frame.

    It does not end: as many frames are taken as the file has.
    """
    block, start = b"", 0
    while True:
        if len(block) - start < _FRAME_HEAD.size:
            block, start = block[start:] + file.read(_BLOCK_BYTES), 0
        size = _FRAME_HEAD.size + _FRAME_HEAD.unpack_from(block, start)[0] + _FRAME_TAIL
        if len(block) - start < size:
            block, start = block[start:] + file.read(max(size, _BLOCK_BYTES)), 0
        yield block[start : start + size]
        start += size


class _Blocks:
    """A file that is written in blocks, for the same reason."""

    def __init__(self, path: str) -> None:
        self._file = tf.io.gfile.GFile(path, "wb")
        self._frames: list[bytes] = []
        self._num_bytes = 0

    def __enter__(self) -> _Blocks:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._file.close()

    def append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._num_bytes += len(frame)
        if self._num_bytes >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write(b"".join(self._frames))
        self._frames, self._num_bytes = [], 0


class OnShards(beam.DoFn):
    """Runs a pass for all shards of a bundle together."""

    def __init__(self, work: Pass) -> None:
        """Configures the function with its pass."""
        self._work = work

    def start_bundle(self) -> None:
        """Begins a list of shards."""
        self._numbers: list[int] = []

    def process(self, number: int) -> None:
        """Adds one shard to the list."""
        self._numbers.append(number)

    def finish_bundle(self) -> None:
        """Runs the pass."""
        self._work(self._numbers)
