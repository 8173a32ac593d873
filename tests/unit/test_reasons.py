"""Reasons of unusable files: for people, without objects, classes and internals of Python and its libraries."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import image_file, mask
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import UnusableImageError
from components.image_example_gen.limits import group_by_reason
from components.image_example_gen.mask_encoding import MaskEncoding
from components.image_example_gen.options import DataOptions

INTERNAL = re.compile(
    r"<[^>]*object|\b0x[0-9a-f]{5,}|\b[A-Z]\w+(Error|Exception)\b|function_node|\[Op:|/job:|\.(py|cc|h):\d|Traceback|\{\{"
)


def saved(image, format_="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def contents():
    """Unusable and damaged files of all formats: cut off, with changed bytes, and of other formats."""
    random = np.random.default_rng(5)
    pixels = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for format_ in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        whole = saved(pixels, format_)
        yield whole
        for length in (1, 4, 9, 20, 40, len(whole) // 2, len(whole) - 3):
            yield whole[:length]
        for _ in range(12):
            damaged = bytearray(whole)
            for position in random.integers(0, min(len(whole), 120), 5):
                damaged[position] = random.integers(0, 256)
            yield bytes(damaged)
    yield from (b"", b"text", b"<html>", b"\0" * 100, b"%PDF-1.4", b"\0\0\0\x18ftypheic", b"RIFF\0\0\0\0WAVE")
    yield saved(Image.new("I;16", (24, 24), 70))
    yield saved(pixels.quantize(8), save_all=True, append_images=[pixels.quantize(4)])


def reasons(check):
    for content in contents():
        try:
            check(content)
        except UnusableImageError as error:
            yield str(error)


@pytest.mark.parametrize(
    "check",
    [
        lambda content: image_file.examine(image_file.prepare(content, DataOptions(max_pixels=10_000))),
        lambda content: image_file.examine(image_file.prepare(content, DataOptions(max_pixels=100))),
        lambda content: mask.normalize(content, height=24, width=24, encoding=MaskEncoding(num_classes=2)),
        lambda content: mask.normalize(content, height=24, width=23, encoding=MaskEncoding(num_classes=2)),
    ],
    ids=["image", "large image", "mask", "mask of another size"],
)
def test_reasons_have_nothing_internal(check):
    given = list(reasons(check))
    assert len(given) > 20
    assert [reason for reason in given if not reason or INTERNAL.search(reason)] == []


def test_reasons_of_listed_files_have_nothing_internal(tmp_path, make_image):
    for name in ("a", "b"):
        (tmp_path / "images" / name / "deep").mkdir(parents=True)
        for number in range(2):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(make_image())
        (tmp_path / "images" / name / "deep" / "x.png").write_bytes(make_image())
        (tmp_path / "images" / name / "gone.png").symlink_to("nowhere")
        (tmp_path / "images" / name / "out.png").symlink_to("/etc/hostname")
    (tmp_path / "images" / "stray.png").write_bytes(make_image())
    refused = inspect_dataset(str(tmp_path / "images"), DataOptions()).refused
    assert len(refused) >= 7
    assert [file for file in refused if INTERNAL.search(file.reason)] == []
    # The same reasons are one group, whatever the names in them.
    assert len(group_by_reason(refused)) == len({re.sub("/[ab]/", "/", reason) for _, reason in refused})
