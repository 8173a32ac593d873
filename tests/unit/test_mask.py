"""Which masks are usable, and what they become."""

import io

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import mask

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
def test_every_way_to_say_the_same(image):
    encoded, classes = normalize(saved(image))
    assert classes == [0, 1, 2]
    result = Image.open(io.BytesIO(encoded))
    assert (result.format, result.mode) == ("PNG", "L")
    assert (np.asarray(result) == IDS).all()


def test_black_and_white_are_0_and_1():
    encoded, classes = normalize(saved(Image.fromarray(IDS == 2)), num_classes=2, ignore_id=None)
    assert classes == [0, 1]
    assert (np.asarray(Image.open(io.BytesIO(encoded))) == (IDS == 2)).all()


@pytest.mark.parametrize(
    ("encoded", "changes", "reason"),
    [
        (saved(Image.fromarray(IDS)), {"height": 3}, "its mask is 3 x 2, the picture 3 x 3"),
        (saved(Image.fromarray(IDS)), {"ignore_id": None}, r"id 255, which is none of the 3 classes \(0 to 2\)$"),
        (saved(Image.fromarray(IDS)), {"num_classes": 2}, "id 2, .* and not data.ignore_id = 255"),
        (saved(Image.new("RGB", (3, 2), (1, 2, 3))), {}, "colours"),
        (saved(Image.fromarray(IDS))[:40], {}, "damaged mask"),
        (saved(Image.fromarray(IDS), "JPEG"), {}, "damaged mask: cannot identify"),
        (b"", {}, "damaged mask"),
    ],
)
def test_unusable_masks(encoded, changes, reason):
    with pytest.raises(mask.UnusableMaskError, match=reason):
        normalize(encoded, **changes)
