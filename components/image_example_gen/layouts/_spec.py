"""The record of a layout: how it is detected, listed and read."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import files
from components.image_example_gen.entries import Entry
from components.image_example_gen.labels import Value
from components.image_example_gen.layouts._class_folder import ClassFolders
from components.image_example_gen.layouts._entries import Listing
from components.image_example_gen.layouts._folder import Folder

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions, ExampleGenOptions


# === Detection ===


class Confidence(enum.IntEnum):
    """How specific the evidence for a layout is. The layout with the highest value is chosen."""

    NONE = 0  # the layout does not match
    FALLBACK = 1  # folders of any name
    FOLDER_NAME = 2  # a folder with a reserved name
    FOLDER_COMBINATION = 3  # several folders with reserved names that belong together
    LABEL_FILES = 4  # a label file for every image
    FILE_FORMAT = 5  # files in a format that only this layout uses
    ANNOTATION_FILE = 6  # a file with all labels, in the format of another program
    INDEX_FILE = 7  # a file that lists the dataset
    CONFIGURED = 8  # the configuration names a file of this layout


@dataclass(frozen=True)
class Evidence:
    """Evidence of a data folder for one layout.

    Attributes:
      layout: Name of the layout.
      confidence: How specific the evidence is.
      supporting: Observations for the layout.
      contradicting: Observations against it.
      settings: Options of the command that choose this layout; `data.layout` by default.
    """

    layout: str
    confidence: Confidence
    supporting: tuple[str, ...] = ()
    contradicting: tuple[str, ...] = ()
    settings: str = ""

    @property
    def is_relevant(self) -> bool:
        """Whether it says more than that nothing of the layout is there."""
        return bool(self.confidence or self.supporting) or not all(
            text.startswith("no ") for text in self.contradicting
        )

    def __str__(self) -> str:
        """One line: the layout, whether it matches, the observations for it and those against it."""
        observations = "; but ".join(filter(None, (", ".join(self.supporting), ", ".join(self.contradicting))))
        return f"{self.layout}: {'yes' if self.confidence else 'no'}, {observations}"


class Detection(NamedTuple):
    """The layout of a folder.

    Attributes:
      layout: Its name.
      evidence: For every layout, the most specific first; empty if the configuration names the layout.
    """

    layout: str
    evidence: tuple[Evidence, ...] = ()

    def __str__(self) -> str:
        """The evidence as the end of an error message; empty if there is none.

        Layouts of which the folder shows nothing are only named.
        """
        others = ", ".join(line.layout for line in self.evidence if not line.is_relevant)
        lines = [str(line) for line in self.evidence if line.is_relevant]
        if others:
            lines.append(f"nothing of the layout{'s' if ', ' in others else ''} {others}")
        return "".join(f"\n  {line}" for line in lines)


# === Reading ===


class Candidate(NamedTuple):
    """An image and its label, read but not yet checked.

    Attributes:
      filename: The path, or the place in a file of many examples.
      encoded: Bytes of the image file.
      label: Raw example features and their values.
      split: As in the entry.
      group: As in the entry.
      slices: Values of the slice columns.
      problem: Why it cannot be used; empty if it may be.
    """

    filename: str
    encoded: bytes = b""
    label: Mapping[str, Sequence[Value]] = {}
    split: str = ""
    group: str = ""
    slices: tuple[str, ...] = ()
    problem: str = ""


def read_files(root: str, entries: Sequence[Entry], options: ExampleGenOptions) -> Iterator[Candidate]:
    """Reads image files, and the label files that belong to them."""
    del options
    paths = (path for entry in entries for path in (entry.path, *(file.path for file in entry.label_files)))
    contents = files.read_all(root, paths)
    for entry in entries:
        name, label, problem = files.readable(entry.path), dict[str, Sequence[Value]](entry.label), ""
        content = next(contents)
        if isinstance(content, files.UnreadableFileError):
            content, problem = b"", str(content)
        for file, label_content in zip(entry.label_files, contents, strict=False):
            if isinstance(label_content, files.UnreadableFileError):
                problem = problem or f"its label file {label_content}"
            else:
                label[file.feature] = (label_content,)
        if problem:
            yield Candidate(name, problem=problem)
        else:
            yield Candidate(name, content, label, entry.split, entry.group, entry.slices)


# === Layout ===


@dataclass(frozen=True, kw_only=True)
class LayoutSpec:
    """One way to arrange images and labels on disk.

    Attributes:
      name: Name of the module, and the value of `data.layout`.
      interpretation: The meaning of the files, as a clause; for the choice between two layouts.
      detect: (folder, options) → the evidence for this layout. It reads names and at most a few files, and never fails.
      list_entries: (folder, options) → the files to read. Raises LayoutError if they are not arranged as required, and
        DatasetError if a table contradicts itself.
      parts: (folder, options) → parts of the table that lists the files, if they can be listed apart from each other;
        empty without such a table, or if it is small. Named tuples, whose `rows` may be replaced by the rows that parts
        leave unresolved.
      list_part: (folder, options, part) → the files of a part; None for layouts without parts. Raises
        IndivisibleTableError if the parts must be listed together, otherwise as `list_entries`.
      class_folders: (folder, options) → the class folders, if the label of every file follows from its folder; None for
        layouts without them. `list_entries` lists the same folders. Raises as `list_entries`.
      read: (root, entries, options) → the images and labels of the entries, in their order.
      entries_are_containers: Whether an entry is a file of many examples, which have their own labels and slices.
      unsupported_options: Key of `[data]` that cannot be set with this layout → what to do instead.
    """

    name: str
    interpretation: str = ""
    detect: Callable[[Folder, DataOptions], Evidence]
    list_entries: Callable[[Folder, DataOptions], Listing]
    parts: Callable[[Folder, DataOptions], Sequence[Any]] = lambda folder, options: ()
    list_part: Callable[[Folder, DataOptions, Any], Listing] | None = None
    class_folders: Callable[[Folder, DataOptions], ClassFolders] | None = None
    read: Callable[[str, Sequence[Entry], ExampleGenOptions], Iterator[Candidate]] = read_files
    entries_are_containers: bool = False
    unsupported_options: Mapping[str, str] = field(default_factory=lambda: {"manifest": "Remove one of them."})
