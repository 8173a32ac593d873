"""Usable masks, and the PNG of class ids that they become."""

import io
import re
import zlib

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import color_tables, mask
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.mask_encoding import MaskEncoding

IDS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


def saved(image: Image.Image, format_="PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def normalize(encoded, *, height=2, width=3, orientation=1, **changes):
    """Returns the ids of the mask, and the numbers of the classes in it."""
    encoding = MaskEncoding(**({"num_classes": 3, "ignore_id": 255} | changes))
    result = mask.normalize(encoded, height=height, width=width, encoding=encoding, orientation=orientation)
    return result.png, list(result.pixels)


def ids_of(encoded, **changes):
    image = Image.open(io.BytesIO(normalize(encoded, **changes)[0]))
    assert (image.format, image.mode) == ("PNG", "L")
    return np.asarray(image).tolist()


def palette(ids):
    image = Image.fromarray(ids).convert("L")
    image.putpalette([index * 7 % 256 for index in range(768)])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(IDS),
        palette(IDS),
        Image.fromarray(np.repeat(IDS[..., np.newaxis], 3, axis=-1)),
        Image.fromarray(IDS.astype(np.uint16)),
    ],
    ids=["grey", "palette", "three equal channels", "16 bit"],
)
def test_equivalent_encodings_give_the_same_ids(image):
    encoded, classes = normalize(saved(image))
    assert classes == [0, 1, 2]
    result = Image.open(io.BytesIO(encoded))
    assert (result.format, result.mode) == ("PNG", "L")
    assert (np.asarray(result) == IDS).all()


def test_black_and_white_are_0_and_1():
    encoded, classes = normalize(saved(Image.fromarray(IDS == 2)), num_classes=2, ignore_id=None)
    assert classes == [0, 1]
    assert (np.asarray(Image.open(io.BytesIO(encoded))) == (IDS == 2)).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_not_stretched(bits):
    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    ids = [0, 1, 2, 3]
    packed = 0
    for value in ids:
        packed = packed << bits | value
    header = (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    rows = zlib.compress(b"\0" + packed.to_bytes(4 * bits // 8, "big"))
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    result, classes = normalize(encoded, height=1, width=4, num_classes=4, ignore_id=None)
    assert classes == ids and np.asarray(Image.open(io.BytesIO(result))).tolist() == [ids]


def test_alpha_beside_grey_is_ignored():
    image = Image.merge("LA", [Image.fromarray(IDS), Image.new("L", (3, 2), 9)])
    assert normalize(saved(image))[1] == [0, 1, 2]


def test_pixels_are_counted_without_ignored_ones():
    encoding = MaskEncoding(num_classes=3, ignore_id=255)
    result = mask.normalize(saved(Image.fromarray(IDS)), height=2, width=3, encoding=encoding)
    assert (result.pixels, result.ignored) == ({0: 1, 1: 2, 2: 2}, 1)


@pytest.mark.parametrize(
    ("encoded", "changes", "reason"),
    [
        (saved(Image.fromarray(IDS)), {"height": 3}, "its mask is 3 x 2, the image 3 x 3"),
        (
            saved(Image.fromarray(IDS)),
            {"ignore_id": None},
            r"id 255, which is not one of the 3 classes \(0 to 2\): if pixels of 255 do not count, .*ignore_id = 255$",
        ),
        (saved(Image.fromarray(IDS)), {"num_classes": 2}, "id 2, .* and not the ignored id 255"),
        (saved(Image.new("RGB", (3, 2), (1, 2, 3))), {}, "colours; .* classes.txt .* data.mask_colors"),
        (saved(Image.fromarray(IDS))[:40], {}, "damaged mask"),
        (
            saved(Image.fromarray(IDS), "JPEG"),
            {},
            "a JPEG file, whose compression can change class ids; save masks as PNG",
        ),
        (saved(Image.fromarray(IDS), "WebP"), {}, "a WebP file"),
        (b"words", {}, "damaged mask: not a PNG, BMP, TIFF or GIF file$"),
        (b"", {}, "its mask is an empty file"),
        (saved(Image.fromarray(np.full((2, 3), np.nan, np.float32)), "TIFF"), {}, "fractions"),
        (saved(Image.new("CMYK", (3, 2)), "TIFF"), {}, "colours of the kind CMYK"),
    ],
)
def test_unusable_masks(encoded, changes, reason):
    with pytest.raises(UnusableImageError, match=reason):
        normalize(encoded, **changes)


def test_an_animation_is_not_a_mask():
    frames, buffer = [Image.fromarray(IDS), Image.fromarray(IDS[::-1])], io.BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(UnusableImageError, match=r"2 frames or pages"):
        normalize(buffer.getvalue())


def test_channels_of_16_bits_are_refused_because_pillow_keeps_only_the_high_byte():
    import tensorflow as tf

    encoded = tf.io.encode_png(np.repeat(IDS[..., np.newaxis], 3, -1).astype(np.uint16)).numpy()
    with pytest.raises(UnusableImageError, match=r"several channels of 16 bits; save it with 8"):
        normalize(encoded)


# === Values ===

HALVES = np.array([[0, 0, 128], [255, 255, 128]], np.uint8)
BINARY = np.array([[0, 0, 255], [255, 255, 0]], np.uint8)


@pytest.mark.parametrize(
    ("image", "values", "expected"),
    [
        (Image.fromarray(BINARY), (0, 255), [[0, 0, 1], [1, 1, 0]]),
        (Image.fromarray(BINARY), (255, 0), [[1, 1, 0], [0, 0, 1]]),
        (Image.fromarray(BINARY == 255), (0, 255), [[0, 0, 1], [1, 1, 0]]),  # black and white of one bit
        (Image.fromarray(np.repeat(BINARY[..., np.newaxis], 3, -1)), (0, 255), [[0, 0, 1], [1, 1, 0]]),
        (Image.fromarray(BINARY.astype(np.uint16) * 257), (0, 65535), [[0, 0, 1], [1, 1, 0]]),
        (Image.fromarray(BINARY).convert("P"), (0, 255), [[0, 0, 1], [1, 1, 0]]),
        (Image.fromarray(BINARY).convert("RGB").quantize(2), (0, 255), [[0, 0, 1], [1, 1, 0]]),
        (Image.fromarray(HALVES), (0, 128, 255), [[0, 0, 1], [2, 2, 1]]),
    ],
    ids=["grey", "inverted", "one bit", "RGB", "16 bits", "palette", "palette of two", "three values"],
)
def test_values_are_classes_by_their_index(image, values, expected):
    assert ids_of(saved(image), values=values, num_classes=len(values), ignore_id=None) == expected


def test_values_have_precedence_over_the_ignored_id():
    assert ids_of(saved(Image.fromarray(BINARY)), values=(0, 255), num_classes=2, ignore_id=255) == [
        [0, 0, 1],
        [1, 1, 0],
    ]
    assert ids_of(saved(Image.fromarray(HALVES)), values=(0, 128), num_classes=2, ignore_id=255)[1] == [255, 255, 1]


@pytest.mark.parametrize(
    ("pixels", "num_classes", "setting"),
    [
        (BINARY, 2, r"data.mask_values = \[0, 255\]"),
        (BINARY[1:, :2], 2, r"data.mask_values = \[0, 255\]"),
        (HALVES, 3, r"data.mask_values = \[0, 128, 255\]"),
        (HALVES[:1], 3, r"data.mask_values = \[0, 128, 255\]"),
        (HALVES // 2, 3, r"data.mask_values = \[0, 64, 127\]"),
        (BINARY.astype(np.uint16) * 257, 2, r"data.mask_values = \[0, 65535\]"),
        (BINARY // 255 * 7, 2, r"data.mask_values = \[0, 7\]"),
        (np.array([[10, 20], [30, 10]], np.uint8), 3, r"data.mask_values = \[10, 20, 30\]"),
    ],
)
def test_an_unknown_id_names_the_setting_and_the_setting_works(pixels, num_classes, setting):
    encoded = saved(Image.fromarray(pixels))
    arguments = {"height": pixels.shape[0], "width": pixels.shape[1], "num_classes": num_classes, "ignore_id": None}
    with pytest.raises(UnusableImageError, match=setting) as refused:
        normalize(encoded, **arguments)
    values = re.search(r"data.mask_values = \[(.*?)\]", str(refused.value))[1]
    normalize(encoded, **arguments, values=tuple(map(int, values.split(","))))


def test_blurred_edges_are_refused():
    blurred = np.tile(np.arange(0, 255, 5, dtype=np.uint8), (4, 1))
    size = {"height": 4, "width": blurred.shape[1], "num_classes": 2, "ignore_id": None}
    for changes in ({}, {"values": (0, 255)}):
        with pytest.raises(UnusableImageError, match=r"51 different values, as antialiased edges .* threshold"):
            normalize(saved(Image.fromarray(blurred)), **size, **changes)


# === Alpha ===


def with_alpha(mode, colors, alpha):
    colors = Image.fromarray(np.asarray(colors, np.uint8)).convert(mode.removesuffix("A"))
    colors.putalpha(Image.fromarray(np.asarray(alpha, np.uint8)))
    return saved(colors)


FLAT = np.zeros((2, 3), np.uint8)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_object_only_in_the_alpha_channel_is_refused_and_read_with_the_setting(mode):
    encoded = with_alpha(mode, FLAT, BINARY)
    with pytest.raises(UnusableImageError, match=r'only in the transparency .* data.mask_source = "alpha"'):
        normalize(encoded, num_classes=2)
    assert ids_of(encoded, num_classes=2, source="alpha") == [[0, 0, 1], [1, 1, 0]]
    assert ids_of(encoded, num_classes=2, source="values") == FLAT.tolist()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_with_more_information_than_the_colours_is_refused(mode):
    encoded = with_alpha(mode, [[0, 1, 1], [0, 0, 2]], [[0, 255, 9], [0, 0, 255]])
    with pytest.raises(UnusableImageError, match=r'pixels of the same colour; .* "values" .* "alpha"'):
        normalize(encoded)
    assert ids_of(encoded, source="values") == [[0, 1, 1], [0, 0, 2]]


@pytest.mark.parametrize("alpha", [FLAT + 255, FLAT + 9, (IDS > 0) * 255], ids=["opaque", "constant", "agrees"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_without_information_is_dropped(mode, alpha):
    assert ids_of(with_alpha(mode, IDS, alpha)) == IDS.tolist()


def test_a_transparent_entry_of_a_palette():
    image = palette(BINARY // 255)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    assert ids_of(buffer.getvalue()) == (BINARY // 255).tolist()
    assert ids_of(buffer.getvalue(), num_classes=2, source="alpha") == (BINARY // 255).tolist()


def test_a_mask_without_transparency_is_refused_where_it_is_read():
    with pytest.raises(UnusableImageError, match=r"no transparency"):
        normalize(saved(Image.fromarray(IDS)), source="alpha")


def test_several_classes_in_the_alpha_channel():
    encoded = with_alpha("RGBA", FLAT, HALVES)
    assert ids_of(encoded, source="alpha", values=(0, 128, 255)) == [[0, 0, 1], [2, 2, 1]]
    with pytest.raises(UnusableImageError, match=r"transparency 128, .* data.mask_values"):
        normalize(encoded, source="alpha")


# === Colours ===

TABLE = {"class_names": ("road", "car", "sky"), "colors": ((128, 64, 128), (0, 0, 142), (70, 130, 180))}
TABLE |= {"ignored_colors": ((0, 0, 0),)}
COLORED = np.array([*TABLE["colors"], (0, 0, 0)], np.uint8)[np.array([[0, 1, 2], [2, 3, 0]])]
COLORED_IDS = [[0, 1, 2], [2, 255, 0]]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(COLORED),
        Image.fromarray(COLORED).convert("RGBA"),
        Image.fromarray(COLORED).quantize(4),
    ],
    ids=["RGB", "RGBA", "palette in any order"],
)
def test_colours_of_a_table(image):
    assert ids_of(saved(image), **TABLE) == COLORED_IDS


def test_an_unknown_colour_is_refused_with_its_neighbours():
    pixels = COLORED.copy()
    pixels[0, :2] = (0, 0, 140)
    pixels[1, 0] = (9, 9, 9)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).quantize(8)):
        with pytest.raises(UnusableImageError) as refused:
            normalize(saved(image), **TABLE)
        assert re.search(
            r"\(0, 0, 140\) in 2 pixels and 1 more unknown colours; nearest: car \(0, 0, 142\), ignored \(0, 0, 0\)",
            str(refused.value),
        )


def test_ids_beside_a_table_are_read_as_ids_unless_they_are_colours_too():
    assert ids_of(saved(Image.fromarray(IDS[:, :3])), **TABLE | {"ignored_colors": ()}) == IDS.tolist()
    table = {"num_classes": 2, "class_names": ("ground", "object"), "colors": ((0, 0, 0), (255, 255, 255))}
    assert ids_of(saved(Image.fromarray(BINARY)), **table, ignore_id=None) == (BINARY // 255).tolist()
    assert ids_of(saved(Image.fromarray(BINARY > 0)), **table, ignore_id=None) == (BINARY // 255).tolist()
    inverted = table | {"colors": ((255, 255, 255), (0, 0, 0))}
    assert ids_of(saved(Image.fromarray(BINARY)), **inverted, ignore_id=None) == (1 - BINARY // 255).tolist()
    black = saved(Image.fromarray(FLAT))
    with pytest.raises(UnusableImageError, match=r'read in two ways: .* data.mask_source = "values"'):
        normalize(black, **inverted, ignore_id=None)
    assert ids_of(black, **inverted, ignore_id=None, source="values") == FLAT.tolist()


@pytest.mark.parametrize(
    ("name", "num_classes", "known"),
    [
        ("camvid", 31, {"Road": (128, 64, 128), "Sky": (128, 128, 128), "Wall": (64, 192, 0)}),
        ("pascal_voc", 21, {"background": (0, 0, 0), "cat": (64, 0, 0), "tvmonitor": (0, 64, 128)}),
        ("cityscapes", 19, {"road": (128, 64, 128), "car": (0, 0, 142), "bicycle": (119, 11, 32)}),
    ],
)
def test_published_tables(name, num_classes, known):
    table = color_tables.get(name)
    assert (
        len(table.names) == len(table.colors) == len(set(table.colors) | set(table.names)) - num_classes == num_classes
    )
    assert not set(table.colors) & set(table.ignored_colors) and table.ignore_id == 255
    colors = dict(zip(table.names, table.colors, strict=True))
    assert {class_name: colors[class_name] for class_name in known} == known
    image = Image.fromarray(np.array([[*table.colors, table.ignored_colors[0]]], np.uint8))
    encoding = {"num_classes": num_classes, "class_names": table.names, "colors": table.colors}
    encoding |= {"ignored_colors": table.ignored_colors, "height": 1, "width": num_classes + 1}
    assert ids_of(saved(image), **encoding) == [[*range(num_classes), 255]]


def test_the_border_of_pascal_voc_is_ignored():
    assert color_tables.get("pascal_voc").ignored_colors == ((224, 224, 192),)


# === Orientation ===


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_on_the_stored_pixels_is_rotated_like_its_image(orientation):
    import tensorflow as tf

    from trainer_module import orientation as image_orientation

    upright = image_orientation.upright(tf.constant(IDS[..., np.newaxis]), tf.constant(orientation)).numpy()[..., 0]
    size = {"height": upright.shape[0], "width": upright.shape[1], "orientation": orientation}
    encoded = saved(Image.fromarray(IDS))
    encoding = MaskEncoding(num_classes=3, ignore_id=255, orientation="stored")
    result = mask.normalize(encoded, encoding=encoding, **size)
    assert (np.asarray(Image.open(io.BytesIO(result.png))) == upright).all()
    assert ids_of(saved(Image.fromarray(upright)), **size) == upright.tolist()
    if orientation >= 5:
        with pytest.raises(UnusableImageError, match=r'stored pixels, .* data.mask_orientation = "stored"'):
            normalize(encoded, **size)
        with pytest.raises(UnusableImageError, match=r'upright pixels, .* data.mask_orientation = "upright"'):
            mask.normalize(saved(Image.fromarray(upright)), encoding=encoding, **size)


def test_a_mask_with_an_orientation_of_its_own_is_refused_unless_the_setting_is_explicit():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(IDS).save(buffer, "PNG", exif=exif)
    with pytest.raises(UnusableImageError, match=r"EXIF orientation of its own"):
        normalize(buffer.getvalue())
    encoding = MaskEncoding(num_classes=3, ignore_id=255, orientation="upright")
    assert mask.normalize(buffer.getvalue(), height=2, width=3, encoding=encoding).pixels == {0: 1, 1: 2, 2: 2}
