"""Folders of images and of their masks, detected by the folders' names, by file names, or by the files."""

from __future__ import annotations

import io
import re
import shlex
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from components.image_example_gen import files
from components.image_example_gen.layouts._folder import SPLIT_NAMES, Folder, split_named

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_WORDS = frozenset(
    (
        *("image", "images", "img", "imgs", "jpegimages", "input", "inputs", "data", "photo", "photos", "rgb"),
        *("frames", "leftimg8bit"),  # Cityscapes
    )
)
_MASK_WORDS = frozenset(
    (
        *("mask", "masks", "label", "labels", "segmentationclass", "annotation", "annotations", "annot", "annots"),
        *("gt", "groundtruth", "segmentation", "segmentations", "seg", "segs", "target", "targets"),
        *("gtfine", "gtcoarse"),  # Cityscapes
    )
)
_SPLIT_WORDS = sorted((name for names in SPLIT_NAMES.values() for name in names), key=len, reverse=True)


def _affixes(words: Iterable[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    joined = "|".join(sorted(words, key=len, reverse=True))
    return re.compile(rf"^({joined})[ _.-]+", re.IGNORECASE), re.compile(rf"[ _.-]+({joined})$", re.IGNORECASE)


_IMAGE_AFFIXES, _MASK_AFFIXES = (
    _affixes(_IMAGE_WORDS),
    _affixes((*_MASK_WORDS, "ground_truth", *("gtFine_labelIds", "gtFine_labelTrainIds", "gtCoarse_labelIds"))),
)

_WORD_SEPARATOR = re.compile("[ _.-]+")
_ROLE_WORD = re.compile(
    "|".join((*_IMAGE_WORDS, *_MASK_WORDS, "ground", "truth", "labelIds", "labelTrainIds")), re.IGNORECASE
)

# Share of common file names from which two folders belong together.
_ENOUGH_COMMON = 0.5
_MOST_READ_PAIRS = 4
_SAMPLE_SIDE = 128
_MOST_MASK_COLOURS = 64


class FolderPair(NamedTuple):
    """A folder of images and the folder of their masks.

    Attributes:
      images: Path relative to the root; empty for the root itself.
      masks: Path relative to the root; the same folder if the names of masks have a suffix.
      split: The split that the folders' names mean, or empty.
    """

    images: str
    masks: str
    split: str = ""


class SharedNames(NamedTuple):
    """Two folders of unknown names whose files have equal names, and which may be images and masks.

    Attributes:
      images: Name of the folder that is rather that of the images.
      masks: Name of the other.
      observation: The shared names.
      in_splits: Whether the folders are inside split folders.
    """

    images: str
    masks: str
    observation: str
    in_splits: bool


# === By the folders' names ===


def named_pairs(folder: Folder) -> list[FolderPair]:
    """Returns the pairs of folders with known names: in the data folder, or else inside its split folders."""
    return _pairs_among(folder, folder.subfolders, "", "") or [
        pair
        for parent in folder.split_folders
        for pair in _pairs_among(folder, folder.names_in(parent), f"{parent}/", split_named(parent))
    ]


def role_of(name: str) -> str:
    """Returns `images` or `masks` if the name of a folder means that, alone or beside other words; else empty."""
    return _parse(name)[1]


def _parse(name: str) -> tuple[str, str]:
    """Divides the name of a folder into the words before or after its role, and the role: `train_labels`, `img_val`."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    for count in (2, 1):  # `ground_truth`
        for outer, rest in ((words[-count:], words[:-count]), (words[:count], words[count:])):
            if "".join(outer) in _IMAGE_WORDS:
                return "_".join(rest), "images"
            if "".join(outer) in _MASK_WORDS:
                return "_".join(word for word in rest if word not in _IMAGE_WORDS), "masks"
    text = "".join(words)
    for split_name in _SPLIT_WORDS:  # `trainannot`, as in SegNet's tutorial
        if text.startswith(split_name) and text[len(split_name) :] in _MASK_WORDS:
            return split_name, "masks"
    return "_".join(words), ""


def _pairs_among(folder: Folder, names: Iterable[str], parent: str, split: str) -> list[FolderPair]:
    by_base: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names):
        base, role = _parse(name)
        by_base[split_named(base) or base][role].append(f"{parent}{name}")
    pairs = []
    for base, by_role in by_base.items():
        images = by_role["images"] or (by_role[""] if base else [])
        masks = by_role["masks"]
        if len(masks) > 1 or (masks and not split_named(base) and base):
            masks = [path for path in masks if folder.stems(path)]
        if len(images) != 1 or len(masks) != 1 or not _has_images(folder, masks[0]):
            continue
        if not by_role["images"] and not split_named(base) and not _are_common(*_stems_of(folder, images[0], masks[0])):
            continue
        pairs.append(FolderPair(images[0], masks[0], split or split_named(base)))
    return pairs


def splits_of_images(folder: Folder) -> bool:
    """Whether all folders are images of splits, without classes or masks: `train_images/` and `test_images/`."""
    parsed = [_parse(name) for name in folder.subfolders]
    return bool(parsed) and all(split_named(base) and role == "images" for base, role in parsed)


def _stems_of(folder: Folder, images: str, masks: str) -> tuple[frozenset[str], frozenset[str]]:
    """Returns the stems of images and of masks, without words that mean these."""
    stems = frozenset(without_role(stem, "images") for stem in folder.stems(images))
    return stems, frozenset(without_role(stem, "masks") for stem in folder.stems(masks))


def _has_images(folder: Folder, path: str) -> bool:
    """Whether a folder contains image files, or nothing at all: an empty folder of masks is reported later."""
    return bool(folder.stems(path)) or not folder.names_in(path)


def _are_common(first: frozenset[str], second: frozenset[str]) -> bool:
    smaller = min(len(first), len(second))
    return smaller > 0 and len(first & second) >= _ENOUGH_COMMON * smaller


# === By file names ===


def masked_stem(stem: str) -> str:
    """Returns the stem of the image to which a mask belongs by its suffix: `a_mask` → `a`; empty without a suffix."""
    if not stem[-1:].isalpha():  # most names end with a number
        return ""
    match = _MASK_AFFIXES[1].search(stem)
    return stem[: match.start()] if match else ""


def without_role(stem: str, role: str) -> str:
    """Removes the words that mean images or masks from both ends of a file's stem: `mask_7` and `image_7` → `7`."""
    folder, slash, name = stem.rpartition("/")
    for affix in _IMAGE_AFFIXES if role == "images" else _MASK_AFFIXES:
        name = affix.sub("", name, count=1) or name
    return folder + slash + name


def without_roles(stem: str) -> str:
    """Removes the words that mean images or masks, wherever they are.

    Stems from which `without_role` makes the same one are equal then, in whatever order it removes words.
    """
    folder, slash, name = stem.rpartition("/")
    words = _WORD_SEPARATOR.split(name)
    return folder + slash + "_".join(word for word in words if not _ROLE_WORD.fullmatch(word))


def masks_beside_images(stems: Iterable[str]) -> frozenset[str]:
    """Returns the stems that are masks of images in the same folder, by their suffix: `a_mask` of `a` or `a_image`."""
    stems = frozenset(stems)
    masked = {stem: image for stem in stems if (image := masked_stem(stem))}
    if not masked:
        return frozenset()
    images = {without_role(stem, "images") for stem in stems if stem not in masked}
    return frozenset(stem for stem, image in masked.items() if image in images)


def pairs_by_suffix(folder: Folder) -> tuple[list[FolderPair], str]:
    """Returns the folders in which images and masks lie side by side, and an example; only if half of the images do."""
    own = [
        path for path in ("", *folder.split_folders, *folder.subfolders[:1]) if _is_mixed(folder.stems_directly(path))
    ]
    if not own:
        return [], ""
    example = min(masks_beside_images(folder.stems_directly(own[0])))
    observation = f"`{example}` beside `{masked_stem(example)}`" + (f" in {own[0]}" if own[0] else "")
    if set(own) == set(folder.split_folders):
        return [FolderPair(path, path, split_named(path)) for path in own], observation
    return [FolderPair("", "")], observation


def _is_mixed(stems: frozenset[str]) -> bool:
    return 2 * len(masks_beside_images(stems)) >= _ENOUGH_COMMON * len(stems) and bool(masks_beside_images(stems))


# === By the files ===


def shared_names(folder: Folder) -> SharedNames | None:
    """Returns two folders of unknown names that may be images and masks; None if they are classes.

    Files of two classes have equal names too if each class is numbered. Then some pairs decide: images and masks have
    equal sizes, and only one of the two has few colours, another file format, or a name that means images; or the sizes
    of pairs are equal and those of different pairs are not. Equal names that are not numbers are not chance.
    """
    parent = f"{folder.split_folders[0]}/" if folder.split_folders else ""
    names = sorted(folder.names_in(folder.split_folders[0])) if parent else folder.subfolders
    if len(names) != 2 or (parent and set(folder.subfolders) - set(folder.split_folders)):
        return None
    first, second = (f"{parent}{name}" for name in names)
    stems = folder.stems(first), folder.stems(second)
    if not _are_common(*stems):
        return None
    common = sorted(stems[0] & stems[1])
    kinds = _compare(folder, first, second, common)
    if kinds is None:
        return None
    are_named = [role_of(name) == "images" for name in names]
    if _is_numbered(common) and not (kinds.differ or kinds.sizes_vary or any(are_named)):
        return None
    if are_named[1] or (kinds.first_is_mask and not kinds.second_is_mask):
        names = names[::-1]
    example = common[0].rpartition("/")[2]
    observation = (
        f"{len(common):,} equal file names in `{names[0]}` and `{names[1]}`, such as {files.readable(example)}"
    )
    return SharedNames(names[0], names[1], observation, bool(parent))


def masks_of_split(folder: Folder, splits: Iterable[str], others: Iterable[str]) -> str:
    """Returns the settings that read a split folder as images and another one as their masks; empty if none can be."""
    for images in splits:
        for masks in others:
            if _are_common(folder.stems(images), folder.stems(masks)):
                return f"--set data.images_folder={shlex.quote(images)} --set data.masks_folder={shlex.quote(masks)}"
    return ""


def _is_numbered(stems: Collection[str]) -> bool:
    """Whether most of the files are numbered, with one prefix and fewer gaps than files: `0001`, `img_1`."""
    numbers_of: dict[str, set[int]] = defaultdict(set)
    for stem in stems:
        if match := re.fullmatch(r"(.*?)(\d+)", stem):
            numbers_of[match.group(1)].add(int(match.group(2)))
    numbers = max(numbers_of.values(), key=len, default=set())
    # A single number may be chance, unless it is the only file.
    enough = len(numbers) > 1 or len(stems) == 1
    return enough and 2 * len(numbers) >= len(stems) and max(numbers) - min(numbers) < 2 * len(stems)


class _Comparison(NamedTuple):
    """Properties that sampled pairs of two folders share; the sizes of the images of each pair are equal.

    Attributes:
      first_is_mask: Whether images of the first folder look like masks.
      second_is_mask: Whether those of the second folder do.
      differ: Whether the folders differ in this, or in the file format.
      sizes_vary: Whether different pairs have different sizes.
    """

    first_is_mask: bool
    second_is_mask: bool
    differ: bool
    sizes_vary: bool


def _compare(folder: Folder, first: str, second: str, common: Sequence[str]) -> _Comparison | None:
    """Compares files of equal names in two folders; None if the sizes show that they are not pairs."""
    from PIL import Image

    votes = [0, 0]
    formats: list[set[str]] = [set(), set()]
    pair_sizes = set()
    pairs = common[:: max(1, len(common) // _MOST_READ_PAIRS)][:_MOST_READ_PAIRS]
    for stem in pairs:
        sizes = set()
        for number, path in enumerate((first, second)):
            try:
                content = files.read(folder.root, folder.path_of(path, stem))
                with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
                    warnings.simplefilter("ignore")  # of very large images
                    sizes.add(image.size)
                    formats[number].add(image.format or "")
                    votes[number] += 1 if _looks_like_mask(image) else -1
            except Exception:  # unreadable files are reported later
                continue
        if len(sizes) > 1:
            return None
        pair_sizes |= sizes
    are_masks = (votes[0] > 0, votes[1] > 0)
    differ = are_masks[0] != are_masks[1] or (all(formats) and not formats[0] & formats[1])
    return _Comparison(*are_masks, differ, len(pair_sizes) > 1)


def _looks_like_mask(image: Image) -> bool:
    """Whether an image has few colours, or four that cover almost all of it."""
    import numpy as np
    from PIL import Image as image_module

    is_lossy = image.format in ("JPEG", "MPO", "WEBP")
    image.draft("RGB", (_SAMPLE_SIDE, _SAMPLE_SIDE))
    side = (min(image.width, _SAMPLE_SIDE), min(image.height, _SAMPLE_SIDE))
    sample = np.asarray(image.convert("RGB").resize(side, image_module.Resampling.NEAREST)).reshape(-1, 3)
    if not is_lossy and len(np.unique(sample, axis=0)) <= _MOST_MASK_COLOURS:
        return True
    _, counts = np.unique(sample >> 4, axis=0, return_counts=True)
    return bool(np.sort(counts)[-4:].sum() >= 0.95 * counts.sum())
