"""Conversion of image files to PNG: pixels, orientation, colours, limits."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from serving import image_encoding
from serving.errors import UnreadableImageError
from trainer_module import image_formats

MAX_PIXELS = 10_000


def saved(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def pixels_of(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


def convert(encoded, **options):
    return image_formats.to_png(encoded, MAX_PIXELS, **options)


LOSSLESS = {"WEBP": {"lossless": True, "exact": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}
MODES = {"WEBP": ("RGB", "RGBA"), "BMP": ("1", "L", "P", "RGB"), "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}


def image_of(rng, mode):
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (5, 7), np.uint16))
    return Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8)).convert(mode)


@pytest.mark.parametrize(("format_", "mode"), [(format_, mode) for format_ in MODES for mode in MODES[format_]])
def test_pixels_do_not_change(rng, format_, mode):
    image = image_of(rng, mode)
    converted = convert(saved(image, format_, **LOSSLESS[format_]))
    with Image.open(io.BytesIO(converted.png)) as result:
        assert result.format == "PNG"
        same = "RGBA" if mode in ("LA", "RGBA") else "I;16" if mode == "I;16" else "RGB"
        np.testing.assert_array_equal(np.asarray(result.convert(same)), np.asarray(image.convert(same)))
    assert converted[1:] == (image_formats.name_of(saved(image, format_)), 1, 1, "")


def test_heic(rng):
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 16, 0), 16, 1))
    pillow_heif.register_heif_opener()
    encoded = saved(image, "HEIF", quality=95)
    converted = convert(encoded)
    assert converted.source == image_formats.name_of(encoded) == "HEIC"
    difference = np.abs(pixels_of(converted.png).astype(int) - np.asarray(image))
    assert np.median(difference) <= 4  # the format is lossy


def test_heic_without_the_extra_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(image_formats, "_registers_heif", lambda: False)
    with pytest.raises(image_formats.ConversionError, match=r"pip install 'tfx-vision\[heif\]'"):
        convert(b"\0\0\0\x18ftypheic" + bytes(40))


@pytest.mark.parametrize("format_", ["WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_applied(format_, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros((32, 48, 3), np.uint8)
    corner[:8, :8] = 255
    converted = convert(saved(Image.fromarray(corner), format_, exif=exif))
    upright = {1: corner, 3: corner[::-1, ::-1], 6: np.rot90(corner, -1), 8: np.rot90(corner)}[orientation]
    assert pixels_of(converted.png).shape == upright.shape
    assert np.abs(pixels_of(converted.png).astype(int) - upright).mean() < 3
    assert converted.orientation == orientation


def profile_with_red_and_blue_exchanged():
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = content.index(b"rXYZ"), content.index(b"bXYZ")
    content[red : red + 4], content[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(content).replace("sRGB".encode("utf-16-be"), "BGRx".encode("utf-16-be"))


@pytest.mark.parametrize("format_", ["TIFF", "WEBP", "AVIF"])
def test_colours_with_a_profile_become_srgb(format_):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    plain, profiled = (
        convert(saved(image, format_, **extra))
        for extra in ({"icc_profile": b""}, {"icc_profile": profile_with_red_and_blue_exchanged()})
    )
    assert plain.profile == "" and "BGRx" in profiled.profile
    difference = pixels_of(profiled.png)[..., ::-1].astype(int) - pixels_of(plain.png)
    assert np.abs(difference).max() <= 3
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert convert(saved(image, format_, icc_profile=srgb)).png == plain.png


def test_a_profile_for_other_colours_is_ignored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.new("RGB", (4, 4), (200, 100, 50))
    assert convert(saved(image, "TIFF", icc_profile=profile)).png == convert(saved(image, "TIFF")).png


def test_the_first_page_of_a_tiff_and_the_first_frame():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime")]
    pages = convert(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), first_frame=False)
    assert pages.num_frames == 2 and pixels_of(pages.png)[0, 0].tolist() == [255, 0, 0]
    animated = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(image_formats.ConversionError, match=r'animated: 2 frames; data\.animated = "first"'):
        convert(animated, first_frame=False)
    assert pixels_of(convert(animated).png)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((3, 3), np.float32), "floating-point values"),
        (np.full((3, 3), -5, np.int32), "32-bit values from -5 to -5"),
        (np.full((3, 3), 70_000, np.int32), "32-bit values from 70000 to 70000"),
    ],
)
def test_values_without_a_known_range_are_refused(pixels, reason):
    with pytest.raises(image_formats.ConversionError, match=reason):
        convert(saved(Image.fromarray(pixels), "TIFF"))


def colors_of_16_bits() -> bytes:
    """A TIFF file of 4 x 3 pixels with three channels of 16 bits, which Pillow cannot write."""
    width, height, short, long = 4, 3, 3, 4
    pixels = np.arange(width * height * 3, dtype="<u2").tobytes()
    first_value = 8 + 2 + 9 * 12 + 4  # after header, number of entries, entries, and the next directory
    first_pixel = first_value + 6
    entries = [
        *((256, short, 1, width), (257, short, 1, height), (258, short, 3, first_value), (259, short, 1, 1)),
        *((262, short, 1, 2), (273, long, 1, first_pixel), (277, short, 1, 3), (278, short, 1, height)),
        (279, long, 1, len(pixels)),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + struct.pack("<I3H", 0, 16, 16, 16) + pixels


def test_colours_of_16_bits_are_refused_instead_of_cut():
    with Image.open(io.BytesIO(colors_of_16_bits())) as image:
        assert image.mode == "RGB"  # Pillow drops the lower bits
    with pytest.raises(image_formats.ConversionError, match="a colour image with 16 bits per channel; save it as PNG"):
        image_formats.to_png(colors_of_16_bits(), max_pixels=100)


def test_32_bit_values_that_fit_are_kept():
    converted = convert(saved(Image.fromarray(np.array([[0, 65_535]], np.int32)), "TIFF"))
    assert pixels_of(converted.png).tolist() == [[0, 65_535]]


@pytest.mark.parametrize("format_", ["WEBP", "BMP", "TIFF", "AVIF"])
def test_damaged_and_large_files_are_refused(rng, format_):
    whole = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)), format_)
    for length in (12, 40, len(whole) // 2):
        with pytest.raises(image_formats.ConversionError, match="damaged"):
            convert(whole[:length])
    with pytest.raises(image_formats.TooManyPixelsError, match="more than 4095 pixels: 64 x 64"):
        image_formats.to_png(whole, 4095)


@pytest.mark.parametrize("format_", ["WEBP", "BMP", "TIFF", "AVIF"])
def test_clients_send_what_training_has_read(rng, format_, tmp_path):
    encoded = saved(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)), format_)
    path = tmp_path / "image"
    path.write_bytes(encoded)
    assert image_encoding.encode(encoded) == image_encoding.encode(path) == convert(encoded).png
    with pytest.raises(UnreadableImageError, match="damaged"):
        image_encoding.encode(encoded[:12])


def test_other_files_are_sent_unchanged():
    for content in (b"", b"words", saved(Image.new("L", (4, 4)), "PNG"), saved(Image.new("L", (4, 4)), "JPEG")):
        assert image_encoding.encode(content) == content
