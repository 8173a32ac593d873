"""Checks of masks and bit depths that need all images: palettes, classes without pixels, orientations. Pure functions.

A check that stops the run raises an error; the others return warnings with a count and two file names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from components.image_example_gen.artifact import SplitCounts
from components.image_example_gen.errors import AmbiguousMasksError, ClassWithoutPixelsError
from components.image_example_gen.observations import (
    ALPHA_ONLY,
    EIGHT_BITS,
    FRAMES,
    IGNORED_ORIENTATION,
    ORIENTATION,
    PALETTE,
    PALETTE_COLOR,
    PROFILE,
    TYPICAL_BITS,
    USED_BITS,
    Observations,
    Occurrences,
)
from components.image_example_gen.options import AUTO, DataOptions
from components.image_example_gen.splits import IGNORED
from components.image_example_gen.tally import Tally
from trainer_module import features
from trainer_module.error_text import listed
from trainer_module.model_input import FULL_WINDOW, HIGHEST_BIT_DEPTH, Window

# An image whose values need so many bits fewer than are read is in the darkest eighth of the range.
_DARK = 3
_MOST_NAMES = 5


def refuse_differing_palettes(observations: Observations) -> None:
    """Refuses masks with palettes in which ids and colours do not belong together in the same way.

    An index is the class id, whatever its colour. But programs that choose a palette for every file use the same index
    for different classes.

    Raises:
      AmbiguousMasksError: If an id has several colours, or a colour has several ids, and not all palettes are equal.
    """
    if len(observations.details(PALETTE)) <= 1:
        return
    colors_of_id: dict[str, dict[str, Occurrences]] = defaultdict(dict)
    ids_of_color: dict[str, dict[str, Occurrences]] = defaultdict(dict)
    for detail, occurrences in observations.details(PALETTE_COLOR).items():
        number, _, color = detail.partition(" ")
        colors_of_id[number][color] = occurrences
        ids_of_color[color][number] = occurrences
    conflicts = [(f"id {number} is", "colour", uses) for number, uses in colors_of_id.items() if len(uses) > 1]
    conflicts += [(f"colour {color} is", "id", uses) for color, uses in ids_of_color.items() if len(uses) > 1]
    if not conflicts:
        return
    subject, kind, uses = max(conflicts, key=lambda conflict: _minority(conflict[2]))
    (one, first), (other, second) = sorted(uses.items(), key=lambda item: -item[1].num)[:2]
    total = observations.total(PALETTE).num
    raise AmbiguousMasksError(
        f"The palettes of the masks differ: {subject} {kind} {one} in {first.num:,} of {total:,} masks "
        f"({first.names[0]}) and {kind} {other} in {second.num:,} ({second.names[0]}), so that an id may mean "
        "different classes. Write the colour of every class into classes.txt (a line such as `road 128 64 128`) or set "
        "data.mask_colors, and masks are read by colour; or, if the ids are right, set "
        'data.mask_source = "values".'
    )


def _minority(uses: Mapping[str, Occurrences]) -> int:
    counts = [occurrences.num for occurrences in uses.values()]
    return sum(counts) - max(counts)


def check_mask_classes(
    tally: Tally, splits: Mapping[str, SplitCounts], classes: Sequence[str], ignore_id: int | None
) -> list[str]:
    """Refuses masks from which classes cannot be learned; returns warnings of classes without pixels.

    Args:
      tally: Counts of all usable images.
      splits: Counts per split.
      classes: Class names.
      ignore_id: The id of pixels that do not count, if there is one.

    Raises:
      ClassWithoutPixelsError: If only one class has pixels, or if a class has none in the train split but some in
        another one.
    """
    present = [name for name in classes if any(counts.pixels.get(name) for counts in splits.values())]
    absent = [name for number, name in enumerate(classes) if name not in present and number != ignore_id]
    num_masks, ignored = tally.num_records, tally.masks_with(IGNORED)
    having_ignored = f"{ignored.num:,} of {num_masks:,} masks have ignored pixels, of value {ignore_id} ({ignored})"
    if len(present) <= 1:
        only = f"only class `{present[0]}` has" if present else "no class has"
        advice = "Check the masks, and the list of classes."
        if ignored.num and ignore_id is not None:
            values = [*range(len(classes) - 1), ignore_id]
            advice = (
                f"{having_ignored}. If {ignore_id} is the value of class `{classes[-1]}`, set data.mask_values = "
                f"{values}, which has precedence over the ignored id."
            )
        raise ClassWithoutPixelsError(
            f"Nothing can be learned from the {num_masks:,} masks: {only} pixels in them. {advice}"
        )
    untrained = [name for name in present if not splits[features.TRAIN].pixels.get(name)]
    if untrained:
        number = classes.index(untrained[0])
        having = tally.masks_with(number)
        raise ClassWithoutPixelsError(
            f"No mask of the train split has a pixel of class {listed(untrained, _MOST_NAMES)}. `{untrained[0]}` "
            f"occurs in {having.num:,} masks ({having}): assign some of them to the split `train`, by a folder or a "
            "manifest, or add images."
        )
    warnings = []
    if absent:
        hint = f"; {having_ignored}" if ignored.num > num_masks / 2 else ""
        warnings.append(f"No mask has a pixel of class {listed(absent, _MOST_NAMES)}{hint}.")
    for split, counts in splits.items():
        if missing := [name for name in present if not counts.pixels.get(name)]:
            warnings.append(f"No mask of the {split} split has a pixel of class {listed(missing, _MOST_NAMES)}.")
    return warnings


def orientation_warnings(observations: Observations, options: DataOptions) -> list[str]:
    """Reports rotated images with masks, unless the configuration says how these are drawn."""
    rotated = observations.total(ORIENTATION)
    if not rotated.num or options.mask_orientation != AUTO:
        return []
    tags = ", ".join(sorted(observations.details(ORIENTATION)))
    return [
        f"{rotated.num:,} images with masks are rotated by their EXIF orientation ({tags}): {rotated}. Their masks "
        'are taken as drawn on the upright image; set data.mask_orientation to "upright" to confirm, or "stored".'
    ]


def window_warnings(observations: Observations, window: Window, options: DataOptions) -> list[str]:
    """Reports images of 16 bits, and the values that are read from them."""
    by_bits = {int(bits): occurrences for bits, occurrences in observations.details(USED_BITS).items()}
    if not by_bits:
        return []
    deep, eight = observations.total(USED_BITS), observations.total(EIGHT_BITS)
    depth = window.high.bit_length()
    if options.window is None:
        read, setting, advice = f"as {depth} bits", f"data.bit_depth = {depth}", "data.bit_depth sets another number."
    else:
        read, setting, advice = f"in the window {list(window)}", f"data.window = {list(window)}", "data.window sets it."
    is_detected = options.window is None and options.bit_depth == AUTO
    warnings = []
    if window != FULL_WINDOW:
        warnings.append(
            f"{deep.num:,} images have 16 bits per channel and are read {read} "
            f"({'detected from the largest value' if is_detected else 'as configured'}): {deep}. {advice}"
        )
    clipped = _of_bits(by_bits, lowest=depth + 1)
    if clipped.num:
        warnings.append(
            f"{clipped.num:,} images have values above {setting}, which are clipped: {clipped}. They use up to "
            f"{max(by_bits)} bits."
        )
    typical = {int(bits): occurrences for bits, occurrences in observations.details(TYPICAL_BITS).items()}
    dark = _of_bits(typical, highest=depth - _DARK)
    if dark.num > deep.num / 2:
        most = max(bits for bits in typical if bits <= depth - _DARK)
        advised = f"data.bit_depth = {most}" if options.window is None else f"data.window = {[window.low, 2**most - 1]}"
        warnings.append(
            f"{dark.num:,} of {deep.num:,} images of 16 bits are dark: 99 % of their values need at most {most} bits, "
            f"and {depth} are read: {dark}. If larger values are markers or defects, set {advised}."
        )
    if eight.num:
        warnings.append(
            f"{deep.num:,} images have 16 bits per channel ({deep}), and {eight.num:,} have 8 ({eight}). Check "
            "that they are equally bright."
        )
    return warnings


def lost_information_warnings(observations: Observations) -> list[str]:
    """Reports images with information that is not read: transparency, orientation, colour profiles, further frames."""
    warnings = []
    for name, frames in sorted(observations.details(FRAMES).items()):
        warnings.append(f"{frames.num:,} {name} images have several frames or pages; the first is used: {frames}.")
    if (profiles := observations.total(PROFILE)).num:
        names = ", ".join(sorted(observations.details(PROFILE))[:_MOST_NAMES])
        warnings.append(
            f"{profiles.num:,} JPEG or PNG images have a colour profile other than sRGB ({names}), which is applied "
            f"neither in training nor in serving: {profiles}. If requests have other profiles, convert all to sRGB."
        )
    if (rotated := observations.total(IGNORED_ORIENTATION)).num:
        warnings.append(
            f"{rotated.num:,} PNG images have an EXIF orientation, which is applied to JPEG only: {rotated}. If they "
            "are not upright, save them rotated."
        )
    if (flat := observations.total(ALPHA_ONLY)).num:
        warnings.append(
            f"{flat.num:,} images have a single colour, and their content only in the transparency, which is dropped: "
            f"{flat}. Save them on an opaque background."
        )
    return warnings


def _of_bits(by_bits: Mapping[int, Occurrences], lowest: int = 0, highest: int = HIGHEST_BIT_DEPTH) -> Occurrences:
    return sum((images for bits, images in by_bits.items() if lowest <= bits <= highest), Occurrences())
