"""Mutated files through the whole component: every file is used or quarantined, and all decoders agree."""

import io
import json
import resource
import zipfile
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.image_example_gen import artifact, bit_depth
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from trainer_module import features, image_statistics, preprocessing
from trainer_module.model_input import Geometry, Window

NUM_MUTATIONS = 1000
NUM_ORIGINALS = 9
MAX_PIXELS = 1_000_000


def originals(rng):
    """Encodes one image as JPEG of every kind, one of them rotated, and as PNG in colour, palette, alpha, 16 bit."""
    noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 48))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    variants = [
        (image, "JPEG", {"quality": 85}),
        (image, "JPEG", {"quality": 85, "exif": rotated}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {}),
        (image.convert("P"), "PNG", {}),
        (image.convert("RGBA"), "PNG", {}),
        (image.convert("L").convert("I;16"), "PNG", {}),
    ]
    encoded = []
    for variant, format_, options in variants:
        buffer = io.BytesIO()
        variant.save(buffer, format_, **options)
        encoded.append(buffer.getvalue())
    return encoded


def class_of(index):
    """Returns the class of the original, so that two equal mutations have equal labels."""
    return "ab"[index % NUM_ORIGINALS % 2]


def bomb(side):
    """Encodes a black PNG of side x side, a thousand times larger than its file."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes((side // 8 + 2) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def mutate(rng, data):
    """Damages a file as storage, transmission or an attacker would."""
    data = bytearray(data)
    kind = rng.integers(8)
    if kind == 0:  # flipped bits
        for position in rng.integers(0, len(data), rng.integers(1, 20)):
            data[position] ^= 1 << rng.integers(8)
    elif kind == 1:  # truncated
        del data[rng.integers(0, len(data)) :]
    elif kind == 2:  # wrong values in the header
        for position in rng.integers(0, min(64, len(data)), rng.integers(1, 6)):
            data[position] = rng.integers(256)
    elif kind == 3:  # huge dimensions, with a right checksum where there is one
        side = int(rng.integers(1, 2**31 - 1)).to_bytes(4, "big")
        if data.startswith(b"\x89PNG"):
            data[16:20] = side
            data[20:24] = side
            data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        else:
            frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
            data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    elif kind == 4:  # a hole of zeros
        start = rng.integers(0, len(data))
        data[start : start + 50] = bytes(len(data[start : start + 50]))
    elif kind == 5:  # another file behind it
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(zipfile.ZipInfo("bomb.txt"), bytes(1_000_000), zipfile.ZIP_DEFLATED)
        data += archive.getvalue()
    elif kind == 6 and data.startswith(b"\x89PNG") and rng.integers(2):  # a bomb: small when packed
        return bomb(int(rng.integers(500, 20_000)))
    elif kind == 6:  # a part twice
        start, stop = sorted(rng.integers(0, len(data), 2))
        data[stop:stop] = data[start:stop]
    else:  # something else altogether
        data = bytearray(rng.bytes(rng.integers(0, 300)))
    return bytes(data)


def decoder(channels):
    """Decodes image files, string [N], in a graph, as Transform does."""
    return tf.function(
        lambda encoded: preprocessing.decode_and_resize(encoded, Geometry.of(16), channels),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


def test_every_mutated_file_is_decodable_or_quarantined(tmp_path, tiny_session, run_image_example_gen):
    rng = np.random.default_rng(20)
    sources = originals(rng)
    assert len(sources) == NUM_ORIGINALS
    root = tmp_path / "images"
    for index in range(NUM_MUTATIONS):
        encoded = mutate(rng, sources[index % len(sources)])
        path = root / class_of(index) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    data = DataOptions(max_pixels=MAX_PIXELS, max_bad_fraction=1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    examples, quarantine = run_image_example_gen(root, ExampleGenOptions(data=data, classes=("a", "b")))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 1024  # of the 2 GiB, TensorFlow and TFX take the other half

    contents = artifact.Quarantine.read(quarantine.uri)
    summary, refused = contents.summary, {file.path: file.reason for file in contents.files}
    used = {}
    for split in json.loads(examples.split_names):
        for serialized in tf.data.TFRecordDataset(tf.io.gfile.glob(f"{examples.uri}/Split-{split}/*")):
            feature = tf.train.Example.FromString(serialized.numpy()).features.feature
            used[feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()] = feature
    every = {f"{class_of(index)}/{index}.jpg" for index in range(NUM_MUTATIONS)}
    assert not used.keys() & refused.keys() and used.keys() | refused.keys() == every
    assert all(refused.values())

    # Transform (grey and colour) and the serving signature must be able to read every image that is used, and none that
    # is refused as damaged.
    decode = {channels: decoder(channels) for channels in (1, 3)}
    for name in every:
        encoded = (root / name).read_bytes()
        if name in used:
            # The original of 16 bits uses 8 of them.
            stored = bit_depth.reduce(encoded, Window.of_bits(8)) if image_statistics.is_deep_png(encoded) else encoded
            assert used[name][features.IMAGE_ENCODED].bytes_list.value[0] == stored
            for channels, decode_one in decode.items():
                assert decode_one([encoded]).shape == (1, 16, 16, channels)
            assert np.isfinite(tiny_session.run_on("serving_default", [encoded])["probabilities"]).all()
        elif refused[name].startswith("damaged or truncated"):
            with pytest.raises(tf.errors.OpError):
                decode[3]([encoded])
    assert summary.examples == len(used) > 200
    assert len(summary.reasons) >= 5 and summary.bit_depth == 8
    print({"used": len(used), **summary.reasons}, f"memory +{grown_mib:.0f} MiB")
