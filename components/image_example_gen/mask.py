"""Masks: any lossless image file of class ids, values or colours → one grey PNG of class ids."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.image_example_gen.class_list import Color
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.mask_encoding import UNKNOWN, MaskEncoding, pack, unpack
from trainer_module.error_text import first_line

_FORMATS = ["PNG", "BMP", "TIFF", "GIF"]  # no lossy format: it would change ids
_OTHER_FORMATS = ((b"\xff\xd8", "JPEG"), (b"RIFF", "WebP"), (b"%PDF", "PDF"))
# More different values than this in one mask are not classes, but blurred edges.
_MOST_LISTED = 8


class Mask(NamedTuple):
    """A mask that can be used.

    Attributes:
      png: Grey PNG of uint8 ids [height, width], upright.
      pixels: Number of pixels of every class id that occurs.
      ignored: Number of pixels that do not count.
      palette: The colour of every id that occurs, if ids are indices of a palette.
      palette_digest: Differs between two palettes; 0 without one.
    """

    png: bytes
    pixels: dict[int, int]
    ignored: int = 0
    palette: tuple[tuple[int, Color], ...] = ()
    palette_digest: int = 0


def normalize(encoded: bytes, *, height: int, width: int, encoding: MaskEncoding, orientation: int = 1) -> Mask:
    """Checks a mask and writes it as a grey PNG.

    Args:
      encoded: Bytes of the file: grey, black and white, palette, or colours.
      height: Height of the upright image, pixels.
      width: Width of the upright image, pixels.
      encoding: How the masks of the dataset encode classes.
      orientation: EXIF orientation of the image, 1 to 8.

    Raises:
      UnusableImageError: If it is damaged, in a lossy format, of another size than its image, if it has an unknown id,
        value or colour, or if its transparency contains what its colours do not.
    """
    if not encoded:
        raise UnusableImageError("its mask is an empty file")
    for start, name in _OTHER_FORMATS:
        if encoded.startswith(start):
            raise UnusableImageError(
                f"its mask is a {name} file, whose compression can change class ids; save masks as PNG"
            )
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            _check_file(image, encoded)
            _check_size(image, height, width, orientation, encoding)
            ids, palette, palette_digest = _read(image, encoded, encoding)
            own_orientation = _own_orientation(image)
    except UnusableImageError:
        raise
    except Exception as error:  # a damaged file can break Pillow's parsers in any way
        reason = "not a PNG, BMP, TIFF or GIF file" if "cannot identify" in str(error) else first_line(error)
        raise UnusableImageError(f"damaged mask: {reason}") from None
    if own_orientation != 1 and encoding.orientation == "auto":
        raise UnusableImageError(
            f"its mask has an EXIF orientation of its own ({own_orientation}), so that it is unclear how it is drawn; "
            'set data.mask_orientation = "upright" or "stored", which ignore that of the mask'
        )
    if encoding.orientation == "stored":
        ids = _upright(ids, orientation)
    counts = _histogram(ids)
    pixels = {number: count for number, count in enumerate(counts) if count and number != encoding.ignore_id}
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return Mask(buffer.getvalue(), pixels, ids.size - sum(pixels.values()), palette, palette_digest)


# === Checking ===


def _check_file(image: Image.Image, encoded: bytes) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnusableImageError(f"its mask has {frames} frames or pages; save one image per mask")
    # Pillow keeps only the high byte of such a channel.
    if encoded.startswith(b"\x89PNG") and encoded[24] == 16 and encoded[25] != 0:
        raise UnusableImageError("its mask has several channels of 16 bits; save it with 8 bits per channel")


def _check_size(image: Image.Image, height: int, width: int, orientation: int, encoding: MaskEncoding) -> None:
    upright = width, height
    stored = (height, width) if orientation >= 5 else upright
    is_stored = encoding.orientation == "stored"
    if image.size == (stored if is_stored else upright):
        return
    described = f"its mask is {image.width} x {image.height}, the image {width} x {height} pixels"
    if is_stored and image.size == upright:
        raise UnusableImageError(
            f"{described} upright: the mask is drawn on the upright pixels, after the rotation by EXIF orientation "
            f'{orientation}; set data.mask_orientation = "upright"'
        )
    if image.size == stored:
        raise UnusableImageError(
            f"{described} upright: the mask is drawn on the stored pixels, before the rotation by EXIF orientation "
            f'{orientation}; set data.mask_orientation = "stored"'
        )
    raise UnusableImageError(described)


def _own_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of the mask's file, if it is a PNG: Pillow applies that of a TIFF file."""
    return int(image.getexif().get(0x0112, 1)) if image.format == "PNG" and "exif" in image.info else 1


def _upright(ids: np.ndarray, orientation: int) -> np.ndarray:
    """Rotates and flips as `trainer_module.orientation.upright` does: uint8 [h, w] → [h, w] or [w, h]."""
    ids = ids.T if orientation >= 5 else ids
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(ids[rows, columns])


# === Reading ===


def _read(
    image: Image.Image, encoded: bytes, encoding: MaskEncoding
) -> tuple[np.ndarray, tuple[tuple[int, Color], ...], int]:
    """Returns uint8 ids [h, w], and the palette if the ids are its indices."""
    has_alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    if encoding.source == "alpha":
        if not has_alpha and "transparency" not in image.info:
            raise UnusableImageError('its mask has no transparency; data.mask_source = "alpha" reads it')
        return _ids_of_values(*_codes(np.asarray(image.convert("RGBA"))[..., 3]), encoding), (), 0
    if has_alpha and encoding.source == "auto":
        _check_alpha(image)
    if image.mode in ("P", "PA"):
        return _read_palette(image, encoding)
    pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
    if not np.issubdtype(pixels.dtype, np.integer):
        raise UnusableImageError("its mask contains fractions; expected class ids")
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa"):
        is_grey = bool((pixels[..., :3] == pixels[..., :1]).all())
        if not is_grey or (encoding.colors and encoding.source == "auto"):
            return _ids_of_colors(pixels[..., :3], encoding), (), 0
        return _ids_of_values(*_codes(pixels[..., 0]), encoding), (), 0
    if pixels.ndim == 3 and image.mode not in ("LA", "La"):
        raise UnusableImageError(f"its mask has colours of the kind {image.mode}; save it as grey, palette or RGB")
    scale = _scale(encoded, image.mode)
    values = (pixels if pixels.ndim == 2 else pixels[..., 0]) // scale
    present, codes = _codes(values)
    if encoding.colors and encoding.source == "auto":
        grey = {value: encoding.id_of_color.get(value * scale * 0x010101, UNKNOWN) for value in present}
        return _ids_of_either(present, codes, grey, encoding, "grey levels are colours of the table"), (), 0
    if encoding.values and scale > 1:
        grey = {value: encoding.id_of_value(value * scale) for value in present}
        return _ids_of_either(present, codes, grey, encoding, "grey levels are in data.mask_values"), (), 0
    return _ids_of_values(present, codes, encoding), (), 0


def _read_palette(image: Image.Image, encoding: MaskEncoding) -> tuple[np.ndarray, tuple[tuple[int, Color], ...], int]:
    """Reads indices of a palette: by their colours if the dataset has a colour table, otherwise as ids."""
    pixels = np.asarray(image)
    present, codes = _codes(pixels if pixels.ndim == 2 else pixels[..., 0])
    palette = image.getpalette("RGB") or []
    color_of: dict[int, Color] = {
        index: (palette[3 * index], palette[3 * index + 1], palette[3 * index + 2])
        for index in present
        if 3 * index + 2 < len(palette)
    }
    if encoding.colors and encoding.source == "auto":
        counts = _histogram(codes)
        colors = {index: color_of.get(index, (0, 0, 0)) for index in present}
        ids = {index: encoding.id_of_color.get(pack(color), UNKNOWN) for index, color in colors.items()}
        unknown = {colors[index]: counts[index] for index in present if ids[index] == UNKNOWN}
        if unknown:
            raise UnusableImageError(_unknown_colors(unknown, encoding))
        return _gather(ids, codes), (), 0
    if encoding.values and encoding.source == "auto":
        grey = {
            index: encoding.id_of_value(color[0]) if len(set(color)) == 1 else UNKNOWN
            for index, color in color_of.items()
        }
        return _ids_of_either(present, codes, grey, encoding, "colours are in data.mask_values"), (), 0
    ids_of_indices = _ids_of_values(present, codes, encoding)
    if encoding.source == "values":
        return ids_of_indices, (), 0
    return ids_of_indices, tuple(color_of.items()), zlib.crc32(bytes(palette))


def _check_alpha(image: Image.Image) -> None:
    """Refuses transparency that contains more than the colours: it would be lost."""
    pixels = np.asarray(image)
    alpha = pixels[..., -1]
    lowest, highest = int(alpha.min()), int(alpha.max())
    if lowest == highest:
        return
    packed = np.zeros(alpha.shape, np.int64)
    for channel in range(pixels.shape[-1] - 1):
        packed = packed << 8 | pixels[..., channel]
    num_colors = np.unique(packed).size
    if num_colors == 1:
        raise UnusableImageError(
            f"its mask has one colour, and the object only in the transparency ({lowest} to {highest}); "
            'set data.mask_source = "alpha" to read the transparency'
        )
    if np.unique(packed << 8 | alpha).size > num_colors:
        raise UnusableImageError(
            "its mask has transparency that differs between pixels of the same colour; set data.mask_source = "
            '"values" to ignore the transparency, or "alpha" to read only the transparency'
        )


def _codes(values: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Returns the values that occur, ascending, and the values as they are: integer [h, w]."""
    if values.dtype == np.uint8:
        return [value for value, count in enumerate(_histogram(values)) if count], values
    return np.unique(values).tolist(), values


def _histogram(values: np.ndarray) -> list[int]:
    """Counts every value: uint8 [h, w] → 256 numbers. Pillow does it ten times faster than NumPy."""
    return Image.fromarray(values).histogram()


def _ids_of_values(present: Sequence[int], codes: np.ndarray, encoding: MaskEncoding) -> np.ndarray:
    ids = {value: encoding.id_of_value(value) for value in present}
    unknown = [value for value in present if ids[value] == UNKNOWN]
    if unknown:
        raise UnusableImageError(_unknown_values(present, unknown, encoding))
    return _gather(ids, codes)


def _ids_of_either(
    present: Sequence[int], codes: np.ndarray, by_color: Mapping[int, int], encoding: MaskEncoding, reading: str
) -> np.ndarray:
    """Reads values as ids or as colours, whichever is possible; refuses a mask for which both are, with other ids."""
    by_value = {value: encoding.id_of_value(value) for value in present}
    are_colors = all(by_color.get(value, UNKNOWN) != UNKNOWN for value in present)
    are_values = all(number != UNKNOWN for number in by_value.values())
    if are_colors and are_values and any(by_color[value] != by_value[value] for value in present):
        raise UnusableImageError(
            f"its mask can be read in two ways: its values are ids, and its {reading}; save it as RGB, or set "
            'data.mask_source = "values" to read ids'
        )
    if are_colors:
        return _gather(by_color, codes)
    return _ids_of_values(present, codes, encoding)


def _gather(ids: Mapping[int, int], codes: np.ndarray) -> np.ndarray:
    """Replaces every value by its id: integer [h, w] → uint8 [h, w]."""
    if codes.dtype == np.uint8 and all(number == value for value, number in ids.items()):
        return codes
    if codes.dtype == np.uint8:
        table = np.zeros(256, np.uint8)
        table[list(ids)] = list(ids.values())
        replaced: np.ndarray = table[codes]
        return replaced
    values = np.array(sorted(ids))
    replaced = np.array([ids[value] for value in values.tolist()], np.uint8)[np.searchsorted(values, codes)]
    return replaced


@functools.lru_cache(maxsize=8)
def _sorted_colors(encoding: MaskEncoding) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colours of the table, packed and ascending, int32 [n], and their ids, uint8 [n]."""
    table = sorted(encoding.id_of_color.items())
    return np.array([color for color, _ in table], np.int32), np.array([number for _, number in table], np.uint8)


def _ids_of_colors(pixels: np.ndarray, encoding: MaskEncoding) -> np.ndarray:
    """Reads colours by the table: uint8 [h, w, 3] → uint8 [h, w]."""
    if not encoding.colors:
        raise UnusableImageError(
            "its mask has colours; expected one channel of class ids. Write the colour of every class into classes.txt "
            "(a line such as `road 128 64 128`), or set data.mask_colors for a published table"
        )
    packed = pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]
    colors, ids = _sorted_colors(encoding)
    nearest = np.minimum(np.searchsorted(colors, packed), len(colors) - 1)
    is_known = colors[nearest] == packed
    if not is_known.all():
        others, counts = np.unique(packed[~is_known], return_counts=True)
        unknown = dict(zip(map(unpack, others.tolist()), counts.tolist(), strict=True))
        raise UnusableImageError(_unknown_colors(unknown, encoding))
    class_ids: np.ndarray = ids[nearest]
    return class_ids


def _scale(encoded: bytes, mode: str) -> int:
    """Returns the factor by which Pillow multiplies ids: it stretches grey of 1, 2 and 4 bits to the range of 8.

    Pillow does not report the bit depth of a file, so it is read from the header.

    Reference: PNG (W3C, third edition), 11.2.1: the bit depth is byte 24 of the file, the colour type byte 25.
    """
    if mode == "1":
        return 255
    is_grey_png = encoded.startswith(b"\x89PNG") and encoded[25] == 0
    return {2: 85, 4: 17}.get(encoded[24], 1) if is_grey_png else 1


# === Messages ===


def suggested_values(present: Sequence[int], num_classes: int) -> tuple[int, ...]:
    """Guesses `data.mask_values` from the values of a mask that are not ids; empty if there is no plausible guess.

    Args:
      present: The values that occur, ascending.
      num_classes: Number of classes.

    Returns:
      Values that are evenly spaced from 0 to 255, or to the largest one, and contain all of `present`; or `present`
      itself, if it has one value per class.
    """
    if present[0] < 0:
        return ()
    for top in dict.fromkeys((255, 65535 if present[-1] > 255 else 255, present[-1])):
        for rounding in (0.0, 0.5):
            levels = tuple(int(number * top / (num_classes - 1) + rounding) for number in range(num_classes))
            if set(present) <= set(levels) and len(set(levels)) == num_classes:
                return levels
    return tuple(present) if len(present) == num_classes else ()


def _unknown_values(present: Sequence[int], unknown: Sequence[int], encoding: MaskEncoding) -> str:
    ignored = "" if encoding.ignore_id is None else f" and not the ignored id {encoding.ignore_id}"
    if encoding.source == "alpha" and not encoding.values:
        return (
            f"its mask has the transparency {unknown[0]}, which is not a class{ignored}: set data.mask_values to the "
            f"transparency of each class; {_blurred(present, encoding)}"
        )
    if encoding.values:
        return (
            f"its mask has the value {unknown[0]}, which is not in data.mask_values = {list(encoding.values)}{ignored}"
            f": {_blurred(present, encoding)}"
        )
    reason = (
        f"its mask has id {unknown[0]}, which is not one of the {encoding.num_classes} classes "
        f"(0 to {encoding.num_classes - 1}){ignored}"
    )
    candidates = [value for value in present if value != encoding.ignore_id]
    guess = suggested_values(candidates, encoding.num_classes)
    ignorable = len(unknown) == 1 and 0 <= unknown[0] <= 255 and encoding.ignore_id is None
    advice = []
    if guess:
        advice.append(f"if the classes have the values {list(guess)}, set data.mask_values = {list(guess)}")
    if ignorable:
        advice.append(f"if pixels of {unknown[0]} do not count, set data.ignore_id = {unknown[0]}")
    if not advice:
        advice = [_blurred(present, encoding)]
    return f"{reason}: {'; '.join(advice)}"


def _blurred(present: Sequence[int], encoding: MaskEncoding) -> str:
    if len(present) <= encoding.num_classes + 1:
        return f"it has the values {', '.join(map(str, present[:_MOST_LISTED]))}; check the list of classes"
    return (
        f"it has {len(present)} different values, as antialiased edges and lossy compression leave behind; save it "
        "without them, for example with a threshold"
    )


def _unknown_colors(unknown: Mapping[Color, int], encoding: MaskEncoding) -> str:
    """Describes the most frequent colour that is not in the table, and the classes with the most similar colours."""
    color, count = max(unknown.items(), key=lambda item: (item[1], item[0]))
    names = {tuple(color): name for color, name in zip(encoding.colors, encoding.class_names, strict=False)}
    names |= {tuple(color): "ignored" for color in encoding.ignored_colors}
    nearest = sorted(names, key=lambda known: sum((one - other) ** 2 for one, other in zip(known, color, strict=True)))
    similar = ", ".join(f"{names[known]} {known}" for known in nearest[:2])
    more = f" and {len(unknown) - 1} more unknown colours" if len(unknown) > 1 else ""
    blurred = "; so many colours are antialiased edges or lossy compression" if len(unknown) > _MOST_LISTED else ""
    return (
        f"its mask has a colour that is not in the colour table: {color} in {count} pixels{more}; nearest: {similar}"
        f"{blurred}. Correct the mask, or add the colour to the table (`ignored` with a colour ignores it)"
    )
