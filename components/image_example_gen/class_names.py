"""Class names of folders and tables: renamed as configured, and refused where one name is likely another one's."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from components.image_example_gen import files
from components.image_example_gen.entries import Entry
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.labels import CLASS_NAMES, has_boxes, has_class_ids, has_sets
from components.image_example_gen.layouts import Listing
from trainer_module.error_text import did_you_mean

# Between two letters these characters separate words: `hot_dog` is `hot dog`. Before a digit, `-` may be a sign.
_WORD_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])")
# Between labels, `,`, `;` and `|` are usual; the others are part of many names, and count only between other classes.
_LABEL_SEPARATORS = re.compile(r"[,;|]")
_ANY_SEPARATORS = re.compile(r"\s+and\s+|_and_|[,;|+&/\s_-]+")
_SHOWN_FILES = 2
# Longer lists of classes are not printed in a message.
_MOST_CLASSES = 60


def rename(listing: Listing, new_names: Mapping[str, str], root: str) -> Listing:
    """Renames the class names of a listing; its entries are renamed where they are listed.

    Args:
      listing: All files; its entries do not matter.
      new_names: `data.rename_classes`.
      root: The data folder.

    Raises:
      DatasetError: If the dataset does not have one of the old names, or has masks.
    """
    if new_names and has_class_ids(listing.label_features):
        raise DatasetError(
            f"data.rename_classes: the masks of {root} contain ids. Rename the class where its id is named."
        )
    # Without names in the listing, they are inside the files, and are renamed where these are read.
    if not new_names or not listing.class_names:
        return listing
    for name in new_names:
        if name not in listing.class_names:
            suggestion = did_you_mean(name, sorted(listing.class_names)) or "."
            raise DatasetError(f"data.rename_classes: {root} has no class `{name}`{suggestion}")
    class_names = frozenset(new_names.get(name, name) for name in listing.class_names)
    return dataclasses.replace(listing, class_names=class_names)


def renamed(entry: Entry, new_names: Mapping[str, str]) -> Entry:
    """Returns an entry with renamed classes."""
    return entry._replace(
        label=tuple(
            (key, tuple(new_names.get(str(value), value) for value in values) if key in CLASS_NAMES else values)
            for key, values in entry.label
        )
    )


def check(listing: Listing, configured: Sequence[str] | None, root: str) -> None:
    """Refuses class names that look like the same class, or like several labels of one image.

    Args:
      listing: All files, with classes renamed as configured.
      configured: `data.classes`: these names are meant as they are.
      root: The data folder.

    Raises:
      DatasetError: If names differ only by case, whitespace, separators or Unicode normalization; if a name consists of
        the names of other classes; or if `data.classes` lacks a class or names another one.
    """
    names, intended = listing.class_names, set(configured or ())
    if not names:
        return
    if groups := [group for group in _same_names(names) if not intended.issuperset(group)]:
        raise DatasetError(_same_class(groups, listing, root))
    combined = {name: parts for name, parts in _combined_names(names).items() if name not in intended}
    if combined and not has_boxes(listing.label_features):  # a box has one class, whatever its name is
        raise DatasetError(_several_labels(combined, listing, root))
    if configured is None or names == intended:
        return
    examples = _Examples(listing.entries)
    problems = [
        f"it lacks {examples.of(name)}: add the name, or move these files elsewhere"
        for name in _first(names - intended)
    ]
    for name in _first(intended - names):
        suggestion = did_you_mean(name, sorted(names - intended)) or ""
        problems.append(f"the dataset has no class `{name}`{suggestion.rstrip('?').rstrip('.')}")
    raise DatasetError(
        f"{root}: data.classes and the classes of the dataset differ: {'; '.join(problems)}. To use all classes in "
        f"alphabetical order, remove data.classes. {_list_all(names)}"
    )


def _first(names: Iterable[str]) -> list[str]:
    return sorted(names)[:5]


# === Names of the same class ===


def _key(name: str) -> str:
    """Returns a text that is equal for names that look alike."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    text = _WORD_SEPARATORS.sub("", text)
    return "".join(
        character for character in text if not character.isspace() and unicodedata.category(character) != "Cf"
    )


def _same_names(names: Iterable[str]) -> list[list[str]]:
    by_key: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        by_key[_key(name)].append(name)
    return [group for group in by_key.values() if len(group) > 1]


def _difference(group: Sequence[str]) -> str:
    normal = {unicodedata.normalize("NFC", name) for name in group}
    if len(normal) == 1:
        return "Unicode normalization"
    if len({"".join(name.split()) for name in normal}) == 1:
        return "whitespace"
    if len({name.casefold() for name in normal}) == 1:
        return "case"
    return "case, whitespace, separators or Unicode normalization"


def _same_class(groups: Sequence[Sequence[str]], listing: Listing, root: str) -> str:
    examples = _Examples(listing.entries)
    new_names: dict[str, str] = {}
    lines = []
    for group in groups:
        kept = max(
            group, key=lambda name: (name == unicodedata.normalize("NFC", " ".join(name.split())), examples.count(name))
        )
        new_names |= {name: kept for name in group if name != kept}
        lines.append(f"{' and '.join(map(examples.of, group))} differ only by {_difference(group)}")
    return (
        f"{root}: class names look alike.{_lines(lines)}\nIf these are the same class, use "
        f"{setting('rename_classes', new_names)}. If they are different classes, list all classes. "
        f"{_list_all(listing.class_names)}"
    )


# === Names of several classes ===


def _parts(name: str, separators: re.Pattern[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(_key, separators.split(name)))))


def _combined_names(names: Collection[str]) -> dict[str, list[str]]:
    """Returns the names that consist of several, with the names of the other classes among these."""
    name_of = {_key(name): name for name in sorted(names)}
    listed = {name: _parts(name, _LABEL_SEPARATORS) for name in sorted(names)}
    uses = Counter(part for parts in listed.values() for part in parts)
    combined = {}
    for name, parts in listed.items():
        any_parts = _parts(name, _ANY_SEPARATORS)
        known = [name_of[part] for part in parts if part in name_of]
        # `projectile, missile` next to `missile`; `a|b` next to `b|c` and `a|c`; `cat_dog` next to `cat` and `dog`.
        if len(parts) > 1 and (known or all(uses[part] > 1 for part in parts)):
            combined[name] = known
        elif len(any_parts) > 1 and all(part in name_of for part in any_parts):
            combined[name] = [name_of[part] for part in any_parts]
    return combined


def _several_labels(combined: Mapping[str, Sequence[str]], listing: Listing, root: str) -> str:
    examples = _Examples(listing.entries)
    lines = []
    for name, known in combined.items():
        classes = " and ".join(f"`{each}`" for each in known)
        reason = (
            f"next to the class{'es' if len(known) > 1 else ''} {classes}"
            if known
            else "whose parts occur in other names too"
        )
        lines.append(f"{examples.of(name)}, {reason}")
    first, known = next(iter(combined.items()))
    target = known[0] if known else "…"
    are_sets = has_sets(listing.label_features)
    fact = "are not separated" if are_sets else "here an image has exactly one class"
    return (
        f"{root}: class names look like several labels of one image, and {fact}."
        f"{_lines(lines)}\nRemove these images, or choose one class for them: "
        f"{setting('rename_classes', {first: target})}. If they are classes of their own, list all classes. "
        f"{_list_all(listing.class_names)}{_separation(first, listing, are_sets)}"
    )


def _separation(name: str, listing: Listing, are_sets: bool) -> str:
    """Returns the advice to separate the labels in a name, if that does not take other names apart."""
    match = _LABEL_SEPARATORS.search(name) or re.search(r"\band\b|[+&/_-]", name) or re.search(r"\s", name)
    separator = match.group() if match else ""
    keys = {_key(other) for other in listing.class_names}
    parts = {_key(part) for other in listing.class_names if other != name for part in other.split(separator or None)}
    if not separator or (not _LABEL_SEPARATORS.search(name) and not parts <= keys):
        return ""
    task = "" if are_sets else "--set task.name=multi_label "
    return f"\nIf an image may have several labels, use {task}{setting('label_separator', separator)}."


# === Texts ===


class _Examples:
    """Counts and file names of classes, for messages."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._counts: Counter[str] = Counter()
        self._paths: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            for name in entry.classes:
                self._counts[name] += 1
                if self._counts[name] <= _SHOWN_FILES:
                    self._paths[name].append(entry.path)

    def count(self, name: str) -> int:
        return self._counts[name]

    def of(self, name: str) -> str:
        """Describes a class: its name, the number of its images and two of them."""
        shown = ", ".join(map(files.readable, self._paths.get(name, ())))
        images = f"{self.count(name):,} image{'' if self.count(name) == 1 else 's'}"
        return f"`{_visible(name)}` ({images}{f', such as {shown}' if shown else ''})"


def _lines(lines: Sequence[str]) -> str:
    rest = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
    return "".join(f"\n  {line}" for line in [*lines[:5], *rest])


def _visible(name: str) -> str:
    """Escapes characters that look like others or are invisible, as in TOML."""
    return "".join(
        character
        if character == " " or unicodedata.category(character)[0] not in "MZC"
        else (f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}")
        for character in name
    )


def _toml(text: str) -> str:
    """Writes a TOML string: quotes are escaped as in JSON."""
    return _visible(json.dumps(text, ensure_ascii=False))


def setting(key: str, value: Mapping[str, str] | Sequence[str]) -> str:
    """Returns the option of the command that sets a key of `[data]`, quoted for a shell."""
    if isinstance(value, str):
        text = _toml(value)
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{_toml(old)} = {_toml(new)}" for old, new in value.items()) + "}"
    else:
        text = "[" + ", ".join(map(_toml, value)) + "]"
    return f"--set data.{key}={shlex.quote(text)}"


def _list_all(names: Collection[str]) -> str:
    if len(names) > _MOST_CLASSES:
        return f"data.classes lists all {len(names)} classes in the order of their ids."
    return f"All classes: {setting('classes', sorted(names))}"
