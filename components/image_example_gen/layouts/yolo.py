"""YOLO: one text file per image, in `labels` or beside the image; `data.yaml` or `classes.txt` names the classes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from components.image_example_gen import boxes, files, labels
from components.image_example_gen.boxes import Annotation, Box
from components.image_example_gen.entries import RefusedFile
from components.image_example_gen.errors import DatasetError, LayoutError, UnnamedClassesError, UnusableImageError
from components.image_example_gen.external_sort import grouped_by_key
from components.image_example_gen.layouts import _annotations, _yaml
from components.image_example_gen.layouts._boxes import (
    MOST_BYTES_PER_IMAGE,
    AnnotatedImage,
    ImageIndex,
    Names,
    folder_split,
    make_listing,
    names_below,
    stem_of,
)
from components.image_example_gen.layouts._entries import Listing, refuse
from components.image_example_gen.layouts._folder import Folder, is_image_name, split_named
from components.image_example_gen.layouts._spec import Confidence, Evidence, LayoutSpec
from components.image_example_gen.spooled_items import kept
from components.image_example_gen.stored_mapping import collect_mapping
from trainer_module.error_text import first_line
from trainer_module.locations import join

if TYPE_CHECKING:
    from components.image_example_gen.options import DataOptions

IMAGES_FOLDER, LABELS_FOLDER = "images", "labels"
# Files with one name per line, in the order of the ids.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "classes.names")
_LISTS = ("_darknet.labels", "obj.names", "data.yaml")
_YAML = (".yaml", ".yml")

_BOX, _BOX_AND_CONFIDENCE, _QUADRANGLE = 5, 6, 9  # numbers of values in a line
# Coordinates beyond this are pixels and not fractions of a box that exceeds its image.
_LARGEST_FRACTION = 2.0


def _detect(folder: Folder, options: DataOptions) -> Evidence:
    del options
    below = names_below(folder, (LABELS_FOLDER, IMAGES_FOLDER))
    paths = sorted({path for path in below if path.lower().endswith(".txt") or path.rpartition("/")[2] in _LISTS})
    names = [path for path in paths if _is_label(path)]
    lists = [path for path in paths if path.rpartition("/")[2] in _LISTS]
    if names:
        return Evidence("yolo", Confidence.LABEL_FILES, (f"label files such as {files.readable(names[0])}",))
    if lists and any(path.endswith(".txt") for path in paths):
        return Evidence("yolo", Confidence.LABEL_FILES, (f"text files and {files.readable(lists[0])}",))
    if beside := _annotations.yolo_beside_images(folder):
        return Evidence("yolo", Confidence.LABEL_FILES, (f"label files beside the images, such as {beside}",))
    return Evidence("yolo", Confidence.NONE, contradicting=(f"no text files in a folder `{LABELS_FOLDER}`",))


def _list_entries(folder: Folder, options: DataOptions) -> Listing:
    index = ImageIndex(folder.root)
    description = _describe(folder.root, index)
    names = description.names or dict(enumerate(options.classes or ()))
    if not names:
        raise UnnamedClassesError(
            f"{folder.root}: the labels contain class ids, and no data.yaml or {_NAME_FILES[0]} names them. Write one "
            "name per line into classes.txt, or set data.classes.",
            labels.BOX_LABEL,
        )
    num_values: set[int] = set()
    labelled = kept(_read_labels(folder.root, index, description.keypoints, num_values))
    used = collect_mapping((image.label_path, None) for image in labelled if image.label_path)
    if not used:
        raise LayoutError(f"{folder.root} has no label files: images/a.jpg needs labels/a.txt.")
    # Polygons of objects do not all have four points.
    rotated = num_values - {_BOX - 1} == {_QUADRANGLE - 1}
    refused = list(description.missing)
    negatives, unlisted = Names(), Names()

    def annotate() -> Iterator[AnnotatedImage]:
        for image in labelled:
            split = description.split_of(image.file.path)
            if split is None:
                unlisted.add(image.file.path)
                continue
            if not image.label_path:
                negatives.add(image.file.path)
            try:
                if "," in split:
                    raise UnusableImageError(f"in several lists of splits: {split}")
                annotation = _annotation(image, names, rotated)
            except UnusableImageError as error:
                refused.append(refuse(image.file, str(error)))
            else:
                yield AnnotatedImage(image.file, annotation, split)

    annotated = kept(annotate())
    alone = (path for path in index.files if _is_label(path) and path not in used)
    refused += [refuse(index.files[path], "labels without an image") for path in alone]
    notes = [*description.notes, *negatives.note("images have no label file and are used as negatives")]
    notes += unlisted.note("images are in no list of splits and are not used")
    return make_listing(folder, options, annotated, refused, notes)


class _Labelled(NamedTuple):
    """An image with the lines of its label file.

    Attributes:
      file: The image.
      label_path: Its label file; empty for a negative.
      lines: The lines of the file.
      problem: Why the file cannot be used; empty if it can be.
    """

    file: files.File
    label_path: str = ""
    lines: Sequence[Line] = ()
    problem: str = ""


def _read_labels(root: str, index: ImageIndex, keypoints: int, num_values: set[int]) -> Iterator[_Labelled]:
    """Reads the label files of all images, in the order of these; adds the numbers of values that lines have."""
    label_files = _LabelFiles(index)
    pairs, again = itertools.tee((file, label_files.of(path)) for path, file in index.images.items())
    contents = _read(root, (label for _, label in again if label))
    for file, label in pairs:
        if not label:
            yield _Labelled(file)
            continue
        try:
            content = next(contents)
            if isinstance(content, files.UnreadableFileError):
                raise UnusableImageError(str(content))
            lines = parse(content, keypoints)
            num_values.update(len(line.values) for line in lines)
            yield _Labelled(file, label.path, lines)
        except UnusableImageError as error:
            yield _Labelled(file, label.path, problem=str(error))


def _annotation(image: _Labelled, names: Mapping[int, str], rotated: bool) -> Annotation:
    if not image.label_path:
        return Annotation()
    try:
        if image.problem:
            raise UnusableImageError(image.problem)
        return to_annotation(image.lines, names, rotated)
    except UnusableImageError as error:
        raise UnusableImageError(f"unusable labels: {files.readable(image.label_path)}: {error}") from None


# === Files ===


class _Description(NamedTuple):
    """Contents of the files beside images and labels.

    Attributes:
      names: Class id → name; empty if no file names classes.
      folders: Folder → split, of `data.yaml`; empty if it is drawn.
      images: Image → split, of the lists of images; several splits are joined by commas. Empty without lists.
      missing: Images of the lists that do not exist.
      notes: What users should know.
      keypoints: Number of values of keypoints behind every box.
    """

    names: Mapping[int, str]
    folders: Mapping[str, str]
    images: Mapping[str, str]
    missing: tuple[RefusedFile, ...]
    notes: tuple[str, ...]
    keypoints: int = 0

    def split_of(self, path: str) -> str | None:
        """Returns the split of an image; None if there are lists of images, and none has it.

        It is that of its list or of its folder in `data.yaml`, otherwise that which the folder's name means.
        """
        listed = self.images.get(path)
        if listed is not None:
            return listed
        for folder, split in self.folders.items():
            if path.startswith(f"{folder}/"):
                return split
        return None if self.images else folder_split(path)


def _describe(root: str, index: ImageIndex) -> _Description:
    """Reads `data.yaml`, or any YAML file with `names` beside it, and lists of names."""
    beside = {path: index.files[path] for path in index.files if _is_description(path)}
    documents = {}
    for path, file in beside.items():
        if path.lower().endswith(_YAML) and path.count("/") <= 1:
            document = _yaml.parse(_content(root, file), join(root, files.readable(path)))
            if isinstance(document, dict) and "names" in document:
                documents[path] = document
    lists = {path: _content(root, file) for path, file in beside.items() if _is_name_file(path)}
    names_by_file = {path: _names(document["names"], join(root, path)) for path, document in documents.items()}
    if not names_by_file:
        names_by_file = {path: _listed_names(content, join(root, path)) for path, content in lists.items()}
    if len({tuple(sorted(names.items())) for names in names_by_file.values()}) > 1:
        raise DatasetError(
            f"{root}: the classes in {' and '.join(sorted(names_by_file))} differ. Keep one of these files."
        )
    splits = _Splits(root, index)
    for path, document in documents.items():
        splits.add(path, document)
    for path, file in beside.items():
        if path.endswith(".data") and "/" not in path:  # Darknet's `obj.data`
            splits.add(path, _settings(_content(root, file)))
    if next(splits.listed(), None) is None:
        for path, file in beside.items():
            if _is_list(path) and _lists_images(_lines(root, file)):
                splits.add(path, {stem_of(path): path})
    description = splits.describe(next(iter(names_by_file.values()), {}))
    keypoints = next(filter(None, (_num_keypoints(document.get("kpt_shape")) for document in documents.values())), 0)
    notes = ("keypoints are not used",) if keypoints else ()
    return description._replace(keypoints=keypoints, notes=description.notes + notes)


def _is_description(path: str) -> bool:
    return path.lower().endswith((*_YAML, ".data")) or _is_name_file(path) or _is_list(path)


def _is_list(path: str) -> bool:
    """Whether it may be Darknet's `train.txt`."""
    return "/" not in path and path.endswith(".txt") and bool(split_named(stem_of(path)))


def _lists_images(lines: Iterable[str]) -> bool:
    return is_image_name(next(filter(None, map(str.strip, lines)), ""))


def _num_keypoints(shape: Any) -> int:
    is_shape = isinstance(shape, list) and all(isinstance(side, int) and 0 < side < 1000 for side in shape)
    return math.prod(shape) if is_shape else 0


@contextlib.contextmanager
def _reading(root: str, file: files.File) -> Iterator[None]:
    """Converts the errors of reading a file in the block."""
    try:
        if file.problem:
            raise files.UnreadableFileError(file.problem)
        yield
    except files.UnreadableFileError as error:
        raise DatasetError(f"{join(root, files.readable(file.path))}: {error}") from None


def _content(root: str, file: files.File) -> bytes:
    with _reading(root, file):
        return files.read(root, file.path)


def _lines(root: str, file: files.File) -> Iterator[str]:
    """Reads the lines of a file of any length; bytes that are not UTF-8 are replaced."""
    with _reading(root, file):
        yield from files.lines(root, file.path, errors="replace")


def _names(value: Any, location: str) -> dict[int, str]:
    items = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(items, dict) or not all(str(key).isdecimal() for key in items):
        raise DatasetError(f"{location}: `names` is not a list of class names, nor a table of ids and names.")
    # YAML reads `yes`, `no`, `on` and `off` as truth values.
    truths = [key for key, name in items.items() if isinstance(name, bool)]
    names = {int(key): str(name).strip() for key, name in items.items() if isinstance(name, str | int | float)}
    if len(names) < len(items) or not all(names.values()) or truths:
        quotes = f" Write the name of id {truths[0]} in quotes." if truths else ""
        raise DatasetError(f"{location}: `names` contains an entry that is not a name.{quotes}")
    return names


def _listed_names(content: bytes, location: str) -> dict[int, str]:
    try:
        lines = content.decode("utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{location} cannot be read: {first_line(error)}") from None
    names = {number: line.strip() for number, line in enumerate(lines)}
    if not all(names.values()):
        raise DatasetError(f"{location}: a line without a name. The line number, from 0, is the class id.")
    return names


def _settings(content: bytes) -> dict[str, str]:
    """Reads Darknet's settings: `train = data/train.txt` in every line."""
    pairs = (line.partition("=") for line in content.decode("utf-8-sig", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}


class _Splits:
    """Collects the folders and the lists of images that files of settings name for every split."""

    def __init__(self, root: str, index: ImageIndex) -> None:
        self._root, self._index = root, index
        self._folders: dict[str, set[str]] = defaultdict(set)
        self._lists: list[Iterable[tuple[str, str]]] = []
        self._missing: list[RefusedFile] = []
        self._notes: list[str] = []

    @functools.cached_property
    def _known(self) -> set[str]:
        """The folders with images, and those above them."""
        return {path[:end] for path in self._index.images for end, letter in enumerate(path) if letter == "/"}

    def add(self, path: str, document: Mapping[str, Any]) -> None:
        """Adds what one file names; programs write paths relative to different places."""
        base = document.get("path")
        bases = dict.fromkeys((base if isinstance(base, str) else "", ""))
        for key, value in document.items():
            split = split_named(str(key))
            for entry in value if isinstance(value, list) else [value]:
                if not split or not isinstance(entry, str) or not entry.strip():
                    continue
                ends = [end for prefix in bases for end in _ends(path.rpartition("/")[0], prefix, entry)]
                is_list = entry.lower().endswith(".txt")
                match = next((end for end in ends if end in (self._index.files if is_list else self._known)), "")
                if not match:
                    self._notes.append(f"{path} names {files.readable(entry)} as `{key}`, which does not exist")
                elif is_list:
                    self._lists.append(kept(self._read(match, split)))
                else:
                    self._folders[match].add(split)

    def listed(self) -> Iterator[tuple[str, str]]:
        """Yields the images of all lists, with their splits."""
        return itertools.chain.from_iterable(self._lists)

    def _read(self, path: str, split: str) -> Iterator[tuple[str, str]]:
        for line in _lines(self._root, self._index.files[path]):
            if not line.strip():
                continue
            ends = _ends(path.rpartition("/")[0], "", line.strip())
            if image := next((end for end in ends if end in self._index.images), ""):
                yield image, split
            else:
                reason = f"listed in {files.readable(path)}, but there is no such image"
                self._missing.append(RefusedFile(files.readable(line.strip()[:200]), reason))

    def describe(self, names: Mapping[int, str]) -> _Description:
        """Decides the splits: if all images of one are in another one too, both are drawn."""
        folders: Mapping[str, str] = {path: _joined(own) for path, own in self._folders.items()}
        images = collect_mapping((path, _joined(own)) for path, own in grouped_by_key(self.listed()))
        folders = self._drawn_if_shared(folders, next(iter(folders), ""))
        images = self._drawn_if_shared(images, next(self.listed(), ("", ""))[0])
        return _Description(names, folders, images, tuple(self._missing), tuple(self._notes))

    def _drawn_if_shared(self, splits: Mapping[str, str], first: str) -> Mapping[str, str]:
        if not splits or not all("," in own for _, own in splits.items()):
            return splits
        shown = splits[first].replace(", ", " and ")
        self._notes.append(f"the same images are named for {shown}; their splits are drawn")
        return collect_mapping((path, "") for path in splits)


def _joined(splits: Iterable[str]) -> str:
    return ", ".join(sorted(set(splits)))


def _ends(parent: str, prefix: str, entry: str) -> Iterator[str]:
    """Yields the ends of a path, the longest first."""
    path = posixpath.normpath(posixpath.join(parent, prefix, entry.replace("\\", "/")))
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return ("/".join(parts[start:]) for start in range(len(parts)))


class _LabelFiles:
    """Finds the label files of images."""

    def __init__(self, index: ImageIndex) -> None:
        self._index = index

    @functools.cached_property
    def _by_lower_path(self) -> Mapping[str, list[files.File]]:
        texts = ((path.lower(), file) for path, file in self._index.files.items() if path.lower().endswith(".txt"))
        return collect_mapping(grouped_by_key(item for item in texts if not _is_name_file(item[1].path)))

    def of(self, image: str) -> files.File | None:
        """Returns the label file of an image: the last folder `images` becomes `labels`; or beside it.

        Args:
          image: Path of the image.

        Returns:
          The file, in another case if there is only one; None if there is none.
        """
        stem = image[: image.rfind(".")]
        folders = stem.split("/")
        candidates = [stem]
        candidates.append("/".join([*folders[:-1], LABELS_FOLDER, folders[-1]]))
        for place in reversed([number for number, name in enumerate(folders[:-1]) if name.lower() == IMAGES_FOLDER]):
            candidates.insert(0, "/".join([*folders[:place], LABELS_FOLDER, *folders[place + 1 :]]))
        for path in (f"{candidate}.txt" for candidate in candidates):
            if (file := self._index.files.get(path)) and not _is_name_file(path):
                return file
            same = self._by_lower_path.get(path.lower(), ())
            if len(same) == 1:
                return same[0]
        return None


def _is_name_file(path: str) -> bool:
    return path.rpartition("/")[2] in _NAME_FILES


def _is_label(path: str) -> bool:
    *folders, name = path.lower().split("/")
    return name.endswith(".txt") and LABELS_FOLDER in folders and name not in _NAME_FILES


def _read(root: str, label_files: Iterable[files.File]) -> Iterator[bytes | files.UnreadableFileError]:
    label_files, again = itertools.tee(label_files)
    for file, content in zip(label_files, files.read_all(root, (file.path for file in again)), strict=True):
        problem = file.problem or ("larger than 10 MB" if file.size > MOST_BYTES_PER_IMAGE else "")
        yield files.UnreadableFileError(problem) if problem else content


# === Labels ===


class Line(NamedTuple):
    """One line.

    Attributes:
      number: Line number, from 1.
      class_id: Class id.
      values: Fractions of the image: centre and size of a box, or the points of a polygon.
    """

    number: int
    class_id: int
    values: tuple[float, ...]


def parse(content: bytes, keypoints: int = 0) -> list[Line]:
    """Reads a label file; empty lines are ignored.

    Args:
      content: The file.
      keypoints: Number of values of keypoints behind every box, which are not used.

    Raises:
      UnusableImageError: If a line is not a box or a polygon, or if coordinates are pixels.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableImageError("not text in UTF-8") from None
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            first, *values = map(float, words)
        except ValueError:
            raise UnusableImageError(f"not numbers: line {number} is `{line[:40]}`") from None
        if not first.is_integer() or not 0 <= first < 1e6:
            raise UnusableImageError(f"not a class id: line {number} begins with {words[0][:20]}")
        if not all(map(math.isfinite, values)):
            raise UnusableImageError(f"not numbers: line {number} is `{line[:40]}`")
        if keypoints and len(words) == _BOX + keypoints:
            words, values = words[:_BOX], values[: _BOX - 1]
        if len(words) == _BOX_AND_CONFIDENCE:
            raise UnusableImageError(f"predictions instead of labels: line {number} has a sixth value, a confidence")
        if len(words) != _BOX and (len(words) < 7 or not len(words) % 2):
            raise UnusableImageError(
                f"not a box: line {number} has {len(words)} values; expected class id, x_center, y_center, width and "
                "height"
            )
        largest = max(values, key=abs)
        if abs(largest) > _LARGEST_FRACTION:
            raise UnusableImageError(
                f"coordinates are not fractions of the image: line {number} has {largest:g}; divide pixels by its "
                "width and height"
            )
        lines.append(Line(number, int(first), tuple(values)))
    return lines


def to_annotation(lines: Iterable[Line], names: Mapping[int, str], rotated: bool) -> Annotation:
    """Converts lines to boxes.

    Args:
      lines: From `parse`.
      names: Class id → name.
      rotated: Whether four points are a rotated box, and not a polygon.

    Raises:
      UnusableImageError: If a class id has no name, or if a box is rotated.
    """
    objects, corrections = [], []
    for line in lines:
        if line.class_id not in names:
            known = f"0 to {max(names)}" if len(names) == max(names) + 1 else ", ".join(map(str, sorted(names)[:10]))
            raise UnusableImageError(f"an unknown class id: line {line.number} has {line.class_id}; known are {known}")
        if len(line.values) == 4:
            x, y, width, height = line.values
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        else:
            xs, ys = line.values[::2], line.values[1::2]
            corners = (min(xs), min(ys), max(xs), max(ys))
            is_upright = len(xs) == 4 and len(set(xs)) <= 2 and len(set(ys)) <= 2
            if rotated and not is_upright:
                raise UnusableImageError(f"a rotated box: line {line.number} has four points; export upright boxes")
            if not is_upright:
                corrections.append(boxes.POLYGON)
        objects.append(Box(*corners, names[line.class_id]))
    return Annotation(tuple(objects), is_relative=True, corrections=tuple(corrections))


LAYOUT = LayoutSpec(
    name="yolo",
    interpretation="every image has a text file with its boxes",
    detect=_detect,
    list_entries=_list_entries,
)
