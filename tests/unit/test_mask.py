"""Which masks are usable, and the PNG of class ids that they become."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import mask
from components.image_example_gen.errors import UnusableImageError

IDS = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


def saved(image: Image.Image, format_="PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def normalize(encoded, **changes):
    return mask.normalize(encoded, **({"height": 2, "width": 3, "num_classes": 3, "ignore_id": 255} | changes))


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


@pytest.mark.parametrize(
    ("encoded", "changes", "reason"),
    [
        (saved(Image.fromarray(IDS)), {"height": 3}, "its mask is 3 x 2, the image 3 x 3"),
        (saved(Image.fromarray(IDS)), {"ignore_id": None}, r"id 255, which is not one of the 3 classes \(0 to 2\)$"),
        (saved(Image.fromarray(IDS)), {"num_classes": 2}, "id 2, .* and not the ignored id 255"),
        (saved(Image.new("RGB", (3, 2), (1, 2, 3))), {}, "colours"),
        (saved(Image.fromarray(IDS))[:40], {}, "damaged mask"),
        (saved(Image.fromarray(IDS), "JPEG"), {}, "damaged mask: cannot identify"),
        (b"", {}, "damaged mask"),
        (saved(Image.fromarray(np.full((2, 3), np.nan, np.float32)), "TIFF"), {}, "fractions"),
    ],
)
def test_unusable_masks(encoded, changes, reason):
    with pytest.raises(UnusableImageError, match=reason):
        normalize(encoded, **changes)
