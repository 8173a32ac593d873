"""A data folder whose layout is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.image_example_gen import files, label_sets, labelled_span, layouts, tables
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import Detection, Folder, LayoutSpec, Listing
from components.image_example_gen.options import AUTO, DataOptions
from trainer_module.locations import join


@dataclass(frozen=True)
class OpenedFolder:
    """A folder whose layout is known.

    Attributes:
      root: The folder that all paths start from.
      folder: The files and folders directly in it.
      options: `[data]`, as the folder requires it.
      layout: Its layout.
      detection: Why that layout was chosen.
    """

    root: str
    folder: Folder
    options: DataOptions
    layout: LayoutSpec
    detection: Detection

    @contextlib.contextmanager
    def with_evidence(self) -> Iterator[None]:
        """Adds the evidence to the errors of the layout."""
        try:
            yield
        except LayoutError as error:
            raise LayoutError(f"{error}{self.detection}") from None

    def list_files(self) -> Listing:
        """Lists its files, without judging whether they can be trained on.

        Raises:
          DatasetError: If its layout or a table contradicts itself.
        """
        with self.with_evidence():
            return label_sets.convert(self.layout.list_entries(self.folder, self.options), self.options, self.root)

    def parts(self) -> Sequence[Any]:
        """Returns parts that `list_part` lists, together all files; none if they cannot be listed apart."""
        return self.layout.parts(self.folder, self.options)

    def list_part(self, part: Any) -> Listing:
        """Lists a part, without judging whether it can be trained on.

        Raises:
          IndivisibleTableError: If the parts must be listed together.
          DatasetError: If a table contradicts itself.
        """
        assert self.layout.list_part is not None
        listing = self.layout.list_part(self.folder, self.options, part)
        return label_sets.convert(listing, self.options, self.root)

    def has_separate_folders(self) -> bool:
        """Whether folders decide about their files, and nothing else does: no table, and no label that is a set."""
        options = self.options
        tables_ = (options.metadata_csv, options.group_column, options.corrections)
        return (
            self.layout.class_folders is not None
            and not any(tables_)
            and all(file.path != tables.METADATA_FILE for file in self.folder.files)
            and not options.allows_label_sets
            and options.labels_from == AUTO
        )


def open_folder(location: str, options: DataOptions) -> OpenedFolder:
    """Detects the layout of a folder, or of that of a manifest.

    Raises:
      DatasetError: If it does not exist, must not be read, or does not fit the options.
    """
    root = location.rstrip("/")
    if root.endswith(tables.SUFFIXES) and files.is_file(root):
        options = options.model_copy(update={"manifest": root})
        root = root.rpartition("/")[0]
    if not files.is_folder(root):
        raise DatasetError(f"The data folder {root} does not exist. Set data.path, or give --data DIR.")
    # Corrections in the data folder are not another table of labels.
    folder = Folder(root, tuple(file for file in files.listing(root) if join(root, file.path) != options.corrections))
    for file in folder.files:
        if file.is_folder and file.problem:
            raise DatasetError(f"{join(root, files.readable(file.path))}: {file.problem}.")
    if labelled_span.is_one(root):
        options = labelled_span.options_of(options)
    detection = layouts.detect(folder, options) if options.layout == AUTO else Detection(options.layout)
    layout = layouts.get(detection.layout)
    for key, advice in layout.unsupported_options.items():
        if value := getattr(options, key):
            raise DatasetError(f'data.{key} = {value} cannot be used with data.layout = "{layout.name}". {advice}')
    return OpenedFolder(root, folder, options, layout, detection)
