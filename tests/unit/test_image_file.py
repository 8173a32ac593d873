"""Usable image files, their properties, and the reasons to refuse the others."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms

from components.image_example_gen import image_file, image_properties
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.image_properties import ImageProperties
from components.image_example_gen.options import DataOptions

OPTIONS = DataOptions(max_pixels=10_000)


def examine(encoded: bytes, **options) -> ImageProperties:
    return image_file.examine(image_file.prepare(encoded, OPTIONS.model_copy(update=options)))


def saved(image: Image.Image, format_: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "format_"), [("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG")]
)
def test_every_kind_of_png(mode, format_):
    properties = examine(saved(Image.new(mode, (6, 4)), format_))
    assert (properties.format, properties.height, properties.width) == ("PNG", 4, 6)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(mode, progressive):
    properties = examine(saved(Image.new(mode, (6, 4)), "JPEG", progressive=progressive))
    assert (properties.format, properties.height, properties.width) == ("JPEG", 4, 6)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_brightness_is_the_mean_luma(level):
    properties = examine(saved(Image.new("RGB", (5, 5), (level, level, level)), "PNG"))
    assert properties.mean["luma"] == pytest.approx(level, abs=1e-3)


def test_brightness_weighs_the_colours():
    green = examine(saved(Image.new("RGB", (5, 5), (0, 255, 0)), "PNG"))
    assert green.mean["luma"] == pytest.approx(0.587 * 255, abs=1e-3)


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_files_are_refused(rng, format_, keep):
    whole = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format_)
    with pytest.raises(UnusableImageError, match="damaged or truncated"):
        examine(whole[: int(len(whole) * keep)])


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty file"),
        (b"these are words, not an image", "not an image file"),
        (b"PK\x03\x04" + bytes(100), "not an image file"),
        (b"%PDF-1.7" + bytes(40), "a PDF file; save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video file; save it as JPEG or PNG"),
        (b"RIFF....WEBPVP8 ", "damaged WebP file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "damaged HEIC file"),
    ],
)
def test_other_formats_are_refused(encoded, reason):
    with pytest.raises(UnusableImageError, match=reason):
        examine(encoded)


@pytest.mark.parametrize("format_", ["WEBP", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_converted(rng, format_):
    image = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    encoded = saved(image, format_, lossless=True) if format_ == "WEBP" else saved(image, format_)
    (examined,) = image_file.examine_all([encoded], OPTIONS)
    assert (examined.result.format, examined.result.height, examined.result.width) == ("PNG", 4, 6)
    assert [kind for kind, _ in examined.observations] == ["converted"]
    with Image.open(io.BytesIO(examined.encoded)) as decoded, Image.open(io.BytesIO(encoded)) as source:
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(source))


def test_a_conversion_keeps_the_orientation_for_the_labels():
    exif = Image.Exif()
    exif[0x0112] = 6
    properties = examine(saved(Image.new("RGB", (6, 4)), "WEBP", exif=exif))
    assert (properties.height, properties.width, properties.orientation) == (6, 4, 6)


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_can_be_used(format_):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime")]
    options = OPTIONS.model_copy(update={"animated": "first"})
    encoded = saved(frames[0], format_, save_all=True, append_images=frames[1:])
    (examined,) = image_file.examine_all([encoded], options)
    assert examined.result.mean["red"] > 250 and examined.result.mean["green"] < 5
    assert ("frames", {"WEBP": "WebP"}.get(format_, format_)) in examined.observations


def test_a_colour_profile_is_observed():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    prepared = image_file.prepare(saved(Image.new("RGB", (4, 4)), "PNG", icc_profile=profile), OPTIONS)
    assert [kind for kind, _ in prepared.observations] == ["profile"]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert image_file.prepare(saved(Image.new("RGB", (4, 4)), "JPEG", icc_profile=srgb), OPTIONS).observations == ()


def test_a_gif_of_one_frame_is_used():
    properties = examine(saved(Image.new("RGB", (6, 4), "red"), "GIF"))
    assert (properties.format, properties.height, properties.width) == ("GIF", 4, 6)
    assert (properties.mean["red"], properties.mean["green"]) == (255.0, 0.0)


@pytest.mark.parametrize("side", [4, 300])
def test_an_animated_gif_is_refused_however_large_its_later_frames(side):
    frames = [Image.new("RGB", (4, 4), "red"), Image.new("RGB", (side, side), "lime")]
    with pytest.raises(UnusableImageError, match="animated: 2 frames"):
        examine(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def test_a_rotated_photograph_has_the_size_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert (examine(saved(Image.new("RGB", (6, 4)), "JPEG", exif=exif)).height) == 6


@pytest.mark.parametrize("first_other", [None, 0, 70, 199])
def test_batches_give_the_results_of_single_images(rng, first_other):
    whole = [saved(Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)), "PNG") for _ in range(200)]
    if first_other is not None:  # images of one size are measured together until another one comes
        exif = Image.Exif()
        exif[0x0112] = 6
        whole[first_other::20] = [saved(Image.new("RGB", (20, 30), "red"), "JPEG", exif=exif)] * len(
            whole[first_other::20]
        )
        whole[-1] = saved(Image.new("RGB", (300, 200), "red"), "PNG")
    contents = [b"" if i % 50 == 7 else each[:60] if i % 50 == 9 else each for i, each in enumerate(whole)]
    contents[1] = contents[198] = b"words"
    contents[100] = UnusableImageError("cannot be read: Permission denied")
    examined = list(image_file.examine_all(iter(contents), OPTIONS))
    assert len(examined) == 200
    for content, (encoded, result, *_) in zip(contents, examined, strict=True):
        if isinstance(content, UnusableImageError):
            assert result is content
            continue
        try:
            alone = examine(content)
            assert result._replace(mean={}, deviation={}) == alone._replace(mean={}, deviation={})
            assert encoded == content
            assert result.mean == pytest.approx(alone.mean) and result.deviation == pytest.approx(alone.deviation)
        except UnusableImageError as error:
            assert str(result) == str(error)


@pytest.mark.parametrize("shape", [(9, 8, 3), (32, 32, 3), (40, 70), (1, 1)])
def test_images_measured_together_have_the_same_results(rng, shape):
    encoded = [saved(Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)), "PNG") for _ in range(5)]
    together = image_properties.measure_together_function()(tf.constant(encoded))
    single = zip(*map(image_properties.measure_function(), map(tf.constant, encoded)), strict=True)
    for batched, alone in zip(together, single, strict=True):
        np.testing.assert_array_equal(batched, np.stack(alone))


def test_an_error_while_reading_is_raised(make_image):
    def contents():
        yield from [make_image() for _ in range(50)]
        raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        list(image_file.examine_all(contents(), OPTIONS))


def test_many_damaged_files_do_not_accumulate(rng, monkeypatch):
    monkeypatch.setattr(image_file, "_MOST_BYTES_WAITING", 100_000)
    whole = saved(Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)), "JPEG", quality=95)
    taken = 0

    def contents():
        nonlocal taken
        for _ in range(500):
            taken += 1
            yield whole[:-500]

    ahead = []
    for returned, examined in enumerate(image_file.examine_all(contents(), OPTIONS), start=1):
        assert isinstance(examined.result, UnusableImageError)
        ahead.append(taken - returned)
    assert len(ahead) == 500
    assert max(ahead) < 300


def test_no_images_to_examine():
    assert list(image_file.examine_all([], OPTIONS)) == []


def test_animated_png_is_refused():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    encoded = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableImageError, match="animated: 3 frames"):
        examine(encoded)


@pytest.mark.parametrize("side", [101, 12_000, 30_000])
def test_large_images_are_refused_by_their_header_alone(side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # Only a header: there is nothing to decode, so an error about pixels proves that nothing was decoded.
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    encoded = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(UnusableImageError, match=r"data\.max_pixels = 10000"):
        examine(encoded)


def test_a_second_image_behind_a_jpeg_is_ignored():
    first, second = Image.new("RGB", (6, 4)), Image.new("RGB", (6, 4), "red")
    encoded = saved(first, "MPO", save_all=True, append_images=[second])
    assert examine(encoded).format == "JPEG"


@pytest.mark.parametrize(
    ("height", "width", "brightness", "expected"),
    [
        (100, 100, 10.0, {"brightness": "dark", "resolution": "small", "orientation": "square"}),
        (128, 300, 100.0, {"brightness": "normal", "resolution": "medium", "orientation": "landscape"}),
        (900, 600, 200.0, {"brightness": "bright", "resolution": "large", "orientation": "portrait"}),
        (511, 512, 85.0, {"brightness": "normal", "resolution": "medium", "orientation": "square"}),
        (512, 512, 170.0, {"brightness": "bright", "resolution": "large", "orientation": "square"}),
    ],
)
def test_slices(height, width, brightness, expected):
    assert ImageProperties("PNG", height, width, {"luma": brightness}, {}).slices() == expected


def test_moments_are_numpys(rng):
    pixels = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    properties = examine(saved(Image.fromarray(pixels), "PNG"))
    for index, color in enumerate(("red", "green", "blue")):
        assert properties.mean[color] == pytest.approx(pixels[..., index].mean(), rel=1e-6)
        assert properties.deviation[color] == pytest.approx(pixels[..., index].std(), rel=1e-5)
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert properties.mean["luma"] == pytest.approx(luma.mean(), rel=1e-6)
    assert properties.deviation["luma"] == pytest.approx(luma.std(), rel=1e-5)


def test_large_images_are_sampled_well_enough():
    y, x = np.mgrid[0:1500, 0:2000]
    pixels = np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    properties = examine(saved(Image.fromarray(pixels), "PNG", compress_level=1), max_pixels=10_000_000)
    assert properties.mean["red"] == pytest.approx(pixels[..., 0].mean(), rel=0.01)
    assert properties.deviation["green"] == pytest.approx(pixels[..., 1].std(), rel=0.01)


def test_a_large_flat_image_is_exact_and_has_no_hash():
    properties = examine(saved(Image.new("RGB", (2000, 2000), (201, 201, 201)), "PNG"), max_pixels=10_000_000)
    assert properties.mean == pytest.approx(dict.fromkeys(properties.mean, 201.0), rel=1e-6)
    assert max(properties.deviation.values()) < 1e-3
    assert properties.perceptual_hash is None


def test_the_perceptual_hash_survives_size_format_and_brightness(rng):
    noise = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    other = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((240, 200))
    original = noise.resize((240, 200))
    same = [
        saved(original.resize((120, 100)), "PNG"),
        saved(original, "JPEG", quality=60),
        saved(original.point(lambda value: value * 0.8 + 20), "PNG"),
    ]
    hashed = examine(saved(original, "PNG"), max_pixels=1_000_000).perceptual_hash
    for encoded in same:
        assert (examine(encoded, max_pixels=1_000_000).perceptual_hash ^ hashed).bit_count() <= 4
    assert (examine(saved(other, "PNG"), max_pixels=1_000_000).perceptual_hash ^ hashed).bit_count() > 12


def test_the_orientation_of_a_png_is_reported_because_it_is_not_applied():
    image, exif = Image.new("RGB", (6, 4)), Image.Exif()
    exif[0x0112] = 6
    rotated = saved(image, "PNG", exif=exif)
    assert examine(rotated).height == 4
    assert image_file.ignored_orientation(rotated) == 6
    start = rotated.index(b"eXIf") + 4
    assert image_file.ignored_orientation(rotated[:start] + bytes(30) + rotated[start + 30 :]) == 1  # damaged
    assert image_file.ignored_orientation(saved(image, "PNG")) == 1
    assert image_file.ignored_orientation(saved(image, "JPEG", exif=exif)) == 1


def test_an_object_only_in_the_transparency():
    shape = Image.fromarray(np.eye(6, dtype=np.uint8) * 255)
    flat, other = Image.new("RGBA", (6, 6)), Image.merge("RGBA", [shape] * 4)
    opaque = Image.new("RGBA", (6, 6), (0, 0, 0, 9))
    flat.putalpha(shape)
    contents = [saved(image, "PNG") for image in (flat, other, opaque, flat.convert("RGB"))]
    results = [image_file.has_object_in_alpha(content, examine(content)) for content in contents]
    assert results == [True, False, False, False]
    assert not image_file.has_object_in_alpha(contents[0][:-30], examine(contents[0]))
