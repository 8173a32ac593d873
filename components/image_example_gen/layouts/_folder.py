"""A data folder before its layout is known."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError, LayoutError
from trainer_module import features
from trainer_module.locations import join

# Names of folders and files that mean a split.
SPLIT_NAMES = {
    **{split: split for split in features.SPLITS},
    "training": features.TRAIN,
    "val": features.VALIDATION,
    "valid": features.VALIDATION,
    "testing": features.TEST,
}

# Files that look like images are reported where the layout does not expect any; licences and tables are not.
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif"),
)


@dataclass(frozen=True)
class Folder:
    """A data folder, before its layout is known.

    Attributes:
      root: Its location.
      files: The files and folders directly in it, by name.
    """

    root: str
    files: tuple[files.File, ...]

    @property
    def subfolders(self) -> list[str]:
        """Names of the folders in it, in alphabetical order."""
        return [file.path for file in self.files if file.is_folder]

    @property
    def split_folders(self) -> list[str]:
        """Names of the folders in it that mean a split, in alphabetical order."""
        return [name for name in self.subfolders if name in SPLIT_NAMES]

    @functools.cached_property
    def names_in_splits(self) -> frozenset[str]:
        """Names of the files and folders in the split folders, as far as these can be listed."""
        return frozenset(name for split in self.split_folders for name in files.names(self.root, split))

    def split_of(self) -> dict[str, str]:
        """Returns the split that each split folder means.

        Raises:
          LayoutError: If two folders mean the same split.
        """
        split_of = {name: SPLIT_NAMES[name] for name in self.split_folders}
        for split in features.SPLITS:
            same = [name for name in split_of if split_of[name] == split]
            if len(same) > 1:
                raise LayoutError(f"{self.root}: {' and '.join(same)} are the same split. Merge these folders.")
        return split_of

    def find(self, name: str) -> str | None:
        """Returns the location of a file that is directly in the folder, or None.

        Raises:
          DatasetError: If the file exists but must not be read.
        """
        for file in self.files:
            if file.path == name and not file.is_folder:
                if file.problem:
                    raise DatasetError(f"{join(self.root, name)}: {file.problem}.")
                return join(self.root, name)
        return None


def is_image_name(path: str) -> bool:
    """Whether a file looks like an image by its name."""
    return path.lower().endswith(_IMAGE_SUFFIXES)
