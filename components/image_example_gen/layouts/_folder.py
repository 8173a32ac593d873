"""A data folder before its layout is known."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components.image_example_gen import files
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.files import File
from components.image_example_gen.spooled_items import SpooledItems
from trainer_module import features
from trainer_module.locations import join

# Names of splits in folders, files and tables, in any case. `eval` is a test split, as in Hugging Face's `datasets`.
SPLIT_NAMES = {
    features.TRAIN: ("train", "training"),
    features.VALIDATION: ("validation", "valid", "val", "dev"),
    features.TEST: ("test", "testing", "eval", "evaluation"),
}
_SPLIT_BY_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}

# Folders inside a folder of images or masks that are listed to detect the layout.
_MOST_NESTED = 20

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

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "files": self.files}  # without what was listed since

    @property
    def subfolders(self) -> list[str]:
        """Names of the folders in it, in alphabetical order."""
        return [file.path for file in self.files if file.is_folder]

    @property
    def split_folders(self) -> list[str]:
        """Names of the folders in it that mean a split, in alphabetical order."""
        return [name for name in self.subfolders if split_named(name)]

    @functools.cached_property
    def names_in_splits(self) -> frozenset[str]:
        """Names of the files and folders in the split folders, as far as these can be listed."""
        return frozenset(name for split in self.split_folders for name in self.names_in(split))

    @functools.cached_property
    def _names(self) -> dict[str, frozenset[str]]:
        return {"": frozenset(file.path for file in self.files)}

    @functools.cached_property
    def all_files(self) -> Iterable[File]:
        """All files below it; lists them once."""
        return SpooledItems(files.walk(self.root, ""))

    def names_in(self, path: str) -> frozenset[str]:
        """Returns the names of the files and folders in a folder, as far as it can be listed; lists it once."""
        if path not in self._names:
            self._names[path] = frozenset(files.names(self.root, path))
        return self._names[path]

    def stems_directly(self, path: str) -> frozenset[str]:
        """Returns the names of the image files in a folder, without suffix."""
        return frozenset(name.rpartition(".")[0] for name in self.names_in(path) if is_image_name(name))

    def stems(self, path: str) -> frozenset[str]:
        """Returns the paths of the image files in a folder and in the folders directly in it, without suffix.

        If the folder itself has images, folders in it are not listed. Folders in split folders are.
        """
        stems = self.stems_directly(path)
        if stems:
            return stems
        # A name with a dot may be that of a folder too: `001.Black_footed_Albatross`.
        nested = sorted(self.names_in(path), key=lambda name: ("." in name, name))[:_MOST_NESTED]
        return frozenset(
            f"{name}/{stem}"
            for name in nested
            for stem in (self.stems if split_named(name) else self.stems_directly)(f"{path}/{name}")
        )

    def path_of(self, path: str, stem: str) -> str:
        """Returns the path of the first image file in a folder with that stem; empty if there is none."""
        nested, _, last = f"{path}/{stem}".rpartition("/")
        names = (name for name in sorted(self.names_in(nested)) if name.rpartition(".")[0] == last)
        return next((f"{nested}/{name}" for name in names if is_image_name(name)), "")

    def split_of(self) -> dict[str, str]:
        """Returns the split that each split folder means.

        Raises:
          LayoutError: If two folders mean the same split.
        """
        split_of = {name: split_named(name) for name in self.split_folders}
        for split in features.SPLITS:
            same = [name for name in split_of if split_of[name] == split]
            if len(same) > 1:
                raise LayoutError(
                    f"{self.root}: the folders {' and '.join(f'`{name}`' for name in same)} are the same split "
                    f"({split}). Merge them, or rename one: the names of splits are {known_split_names()}."
                )
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


def split_named(name: str) -> str:
    """Returns the split that a name means, in any case: `Val` → `validation`; empty if it means none."""
    return _SPLIT_BY_NAME.get(name.strip().lower(), "")


def known_split_names() -> str:
    """Lists the names of all splits for a message."""
    return "; ".join(f"{split}: {', '.join(names)}" for split, names in SPLIT_NAMES.items())


def is_image_name(path: str) -> bool:
    """Whether a file looks like an image by its name."""
    return path.lower().endswith(_IMAGE_SUFFIXES)
