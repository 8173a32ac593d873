"""The entries of a listing: files to read, with their labels as far as they are known, and files that are not used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from components.image_example_gen.labels import Label, class_names


class LabelFile(NamedTuple):
    """A file that contains the label of one image.

    Attributes:
      feature: The raw example feature that takes its bytes.
      path: Relative to the root.
      size: Bytes.
      changed_ns: Time of the last change.
    """

    feature: str
    path: str
    size: int = 0
    changed_ns: int = 0


class Entry(NamedTuple):
    """One image file, or one file that contains many examples.

    Attributes:
      path: Relative to the root.
      size: Bytes.
      changed_ns: Time of the last change.
      label: Raw example features and their values, as far as the layout knows them without reading.
      label_files: Files that contain the rest of the label.
      split: The split that the dataset assigns; empty if the split is drawn.
      group: Stays in one split with all others of that name; empty if it is on its own.
      slices: Values of the listing's columns.
    """

    path: str
    size: int = 0
    changed_ns: int = 0
    label: Label = ()
    label_files: tuple[LabelFile, ...] = ()
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> Self:
        """Restores an entry that was stored as a JSON array."""
        path, size, changed_ns, label, label_files, *others, slices = values
        known = tuple((feature, tuple(feature_values)) for feature, feature_values in label)
        files_ = tuple(LabelFile(*file) for file in label_files)
        return cls._make([path, size, changed_ns, known, files_, *others, tuple(slices)])

    def below(self, folder: str) -> Self:
        """Returns the entry with paths that start from the folder above."""
        label_files = tuple(file._replace(path=f"{folder}/{file.path}") for file in self.label_files)
        return self._replace(path=f"{folder}/{self.path}", label_files=label_files)

    @property
    def num_bytes(self) -> int:
        """Size of the file and of its label files."""
        return self.size + sum(file.size for file in self.label_files) if self.label_files else self.size

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of the image, as far as the layout knows them without reading."""
        return class_names(self.label)


class RefusedFile(NamedTuple):
    """A file that is not used, and the reason."""

    path: str
    reason: str
