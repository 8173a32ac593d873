"""Image files in other formats than JPEG, PNG and GIF → lossless PNG files, which every served model decodes.

TensorFlow Serving's releases differ in what `tf.io.decode_image` reads: WebP came late, BMP is read without palettes,
and TIFF and HEIC not at all. ImageExampleGen and the clients convert such files with this module, so that training data
and requests have the same pixels. It imports Pillow only.
"""

from __future__ import annotations

import functools
import io
import warnings
from typing import Any, NamedTuple

# What the decoders of a served model read.
NATIVE = ("JPEG", "PNG", "GIF")
# Names that differ from Pillow's.
_NAMES = {"WEBP": "WebP", "HEIF": "HEIC"}
# Pillow's names of the formats that are converted. `formats` keeps its other parsers away from untrusted bytes.
_CONVERTED = ("WEBP", "BMP", "TIFF", "AVIF", "HEIF", "PNG", "GIF")
# PNG stores these modes unchanged.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_ORIENTATION_TAG, _BITS_TAG = 0x0112, 0x0102
_HIGHEST_16_BITS = 65535
# Pillow has no mode for colours with more than 8 bits per channel, and would drop the lower ones.
_COLOR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "LAB", "YCbCr")
_INSTALL_HEIF = "install the extra `heif` (pip install 'tfx-vision[heif]'), or save it as JPEG or PNG"


class ConversionError(ValueError):
    """A file is not an image that can be converted; the message is a clause that says why."""


class TooManyPixelsError(ConversionError):
    """An image has more pixels than the limit."""


class Converted(NamedTuple):
    """An image in a format that every decoder reads.

    Attributes:
      png: Bytes of a PNG file, upright; 16 bits per channel if the source has one channel of 16 bits.
      source: Name of the source's format.
      orientation: EXIF orientation that was applied, 1 (none) to 8.
      num_frames: Number of frames or pages of the source; the first one was taken.
      profile: Name of the colour profile that was converted to sRGB; empty if there was none, or sRGB itself.
    """

    png: bytes
    source: str
    orientation: int = 1
    num_frames: int = 1
    profile: str = ""


def name_of(encoded: bytes) -> str:
    """Returns the format that the first bytes of a file show: `JPEG`, `PNG`, …; empty for an unknown one."""
    brand = encoded[8:12]
    if encoded[4:8] == b"ftyp":
        if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "HEIC"
        return "AVIF" if brand in (b"avif", b"avis") else "video"
    if encoded.startswith(b"RIFF"):
        return "WebP" if brand == b"WEBP" else ""
    for start, name in _SIGNATURES:
        if encoded.startswith(start):
            return name
    return ""


_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
)


def is_converted(encoded: bytes) -> bool:
    """Whether the first bytes are those of a format that `to_png` is for."""
    return name_of(encoded) in ("WebP", "BMP", "TIFF", "HEIC", "AVIF")


def to_png(encoded: bytes, max_pixels: int, *, first_frame: bool = True) -> Converted:
    """Converts an image file, or the first of its frames or pages, without loss to PNG.

    Colours with an embedded profile other than sRGB are converted to sRGB; gray values are not changed. Transparency is
    kept. Floating-point images are refused, since only their author knows the range.

    Args:
      encoded: Bytes of a WebP, BMP, TIFF, HEIC or AVIF file, or of an animated PNG or GIF file.
      max_pixels: Limit of height x width, checked before anything is decoded.
      first_frame: Whether the first frame of an animated file is taken. The first page of TIFF always is.

    Raises:
      ConversionError: If the file is damaged, animated, too large, or not convertible.
    """
    from PIL import Image, ImageOps

    source = name_of(encoded)
    if source == "HEIC" and not _registers_heif():
        raise ConversionError(f"a HEIC file; {_INSTALL_HEIF}")
    Image.init()
    known = [name for name in _CONVERTED if name in Image.OPEN]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded), formats=known) as image:
            source = _NAMES.get(image.format or "", image.format or "")
            if image.width * image.height > max_pixels:
                raise TooManyPixelsError(f"more than {max_pixels} pixels: {image.width} x {image.height}")
            num_frames = getattr(image, "n_frames", 1)
            if num_frames > 1 and source != "TIFF" and not first_frame:
                raise ConversionError(f'animated: {num_frames} frames; data.animated = "first" uses the first one')
            if source == "TIFF" and image.mode in _COLOR_MODES and _bits_per_channel(image) > 8:
                raise ConversionError(
                    "a colour image with 16 bits per channel; save it as PNG, or with 8 bits per channel"
                )
            # Pillow applies the orientation of a TIFF file when it is loaded.
            orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
            image.load()
            pixels, profile = _standard_colors(image)
            if source != "TIFF":
                pixels = ImageOps.exif_transpose(pixels)
            buffer = io.BytesIO()
            _storable(pixels).save(buffer, "PNG", compress_level=1, icc_profile=None)
    except ConversionError:
        raise
    except Image.DecompressionBombError:
        raise TooManyPixelsError(f"more than {max_pixels} pixels") from None
    except Exception as error:  # a damaged file can break Pillow's parsers in any way
        reason = "it cannot be read" if "cannot identify" in str(error) else str(error).partition("\n")[0]
        raise ConversionError(f"damaged {source or 'image'} file: {reason}") from None
    return Converted(buffer.getvalue(), source, orientation if 1 <= orientation <= 8 else 1, num_frames, profile)


def _bits_per_channel(image: Any) -> int:
    bits = image.getexif().get(_BITS_TAG, 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _storable(image: Any) -> Any:
    """Returns the image in a mode that PNG has.

    Raises:
      ConversionError: If its values do not fit 8 or 16 bits.
    """
    if image.mode in _PNG_MODES:
        return image
    if image.mode.startswith("I;16"):
        return image.convert("I;16") if image.mode != "I;16B" else image.convert("I").convert("I;16")
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 or high > _HIGHEST_16_BITS:
            raise ConversionError(f"32-bit values from {low} to {high}; save it with 8 or 16 bits per channel")
        return image.convert("I;16")
    if image.mode == "F":
        raise ConversionError("floating-point values; save it with 8 or 16 bits per channel")
    return image.convert("RGBA" if image.mode in ("PA", "RGBa", "La") else "RGB")


def _standard_colors(image: Any) -> tuple[Any, str]:
    """Converts colours with a profile other than sRGB; returns the image and the profile's name."""
    from PIL import Image, ImageCms

    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return image, ""
    profile = profile_of(image.info)
    if not profile:
        return image, ""
    opaque = image if image.mode in ("RGB", "CMYK", "LAB") else image.convert("RGB")
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    try:
        converted = ImageCms.profileToProfile(opaque, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:  # a profile for other colours than those of the image
        return image, ""
    assert isinstance(converted, Image.Image)
    if image.mode in ("RGBA", "PA"):
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    exif = image.getexif()
    converted.info.pop("icc_profile", None)
    if exif:
        converted.info["exif"] = exif.tobytes()
    return converted, profile


def profile_of(info: dict[str | tuple[int, int], Any]) -> str:
    """Returns the name of an embedded colour profile; empty without one, and for sRGB.

    Args:
      info: Pillow's `Image.info`.
    """
    content = info.get("icc_profile")
    return _profile_name(content) if content else ""


# Most images of a dataset have one of a few profiles.
@functools.lru_cache(maxsize=64)
def _profile_name(content: bytes) -> str:
    from PIL import ImageCms

    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(content))).strip()
    except Exception:  # a damaged profile is none
        return ""
    # Variants of sRGB and its gray counterparts differ from it by less than the rounding to 8 bits.
    return "" if "srgb" in name.lower().replace(" ", "") or name in ("c2", "sGry") else name or "unnamed"


@functools.cache
def _registers_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
