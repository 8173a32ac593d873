"""Mutated files: every one is used or quarantined, and all decoders agree on which."""

import io
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image

from components.image_example_gen import picture
from trainer_module import preprocessing

NUM_MUTATIONS = 1000
MAX_PIXELS = 1_000_000


def originals(rng):
    """Real encodings of one picture: baseline, progressive and grey JPEG; colour, palette and 16-bit PNG."""
    noise = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 48))
    variants = [
        (image, "JPEG", {"quality": 85}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("L"), "JPEG", {}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {}),
        (image.convert("P"), "PNG", {}),
        (image.convert("L").convert("I;16"), "PNG", {}),
    ]
    encoded = []
    for variant, format_, options in variants:
        buffer = io.BytesIO()
        variant.save(buffer, format_, **options)
        encoded.append(buffer.getvalue())
    return encoded


def mutate(rng, data):
    """One damage of each kind that files meet, and that attackers make."""
    data = bytearray(data)
    kind = rng.integers(8)
    if kind == 0:  # flipped bits
        for position in rng.integers(0, len(data), rng.integers(1, 20)):
            data[position] ^= 1 << rng.integers(8)
    elif kind == 1:  # truncated
        del data[rng.integers(0, len(data)) :]
    elif kind == 2:  # lies in the header
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
        data += b"PK\x03\x04" + rng.bytes(200)
    elif kind == 6:  # a part twice
        start, stop = sorted(rng.integers(0, len(data), 2))
        data[stop:stop] = data[start:stop]
    else:  # something else altogether
        data = bytearray(rng.bytes(rng.integers(0, 300)))
    return bytes(data)


def test_what_is_used_can_be_trained_on_and_served_and_nothing_else_is_lost(tiny_session):
    rng = np.random.default_rng(20)
    sources = originals(rng)
    for source in sources:
        picture.examine(source, MAX_PIXELS)
    tally = {"used": 0}
    for index in range(NUM_MUTATIONS):
        encoded = mutate(rng, sources[index % len(sources)])
        try:
            found = picture.examine(encoded, MAX_PIXELS)
        except picture.UnreadablePictureError as error:
            reason = str(error).split(":")[0]
            assert reason
            tally[reason] = tally.get(reason, 0) + 1
            continue
        tally["used"] += 1
        # What ImageExampleGen lets through, Transform (grey and colour) and the serving signature must be able to read.
        for channels in (1, 3):
            assert preprocessing.decode_and_resize(tf.constant([encoded]), 16, channels).shape == (1, 16, 16, channels)
        answer = tiny_session.run_on("serving_default", [encoded])
        assert np.isfinite(answer["probabilities"]).all()
        assert found.height * found.width <= MAX_PIXELS
    assert sum(tally.values()) == NUM_MUTATIONS
    assert tally["used"] > 50 and len(tally) >= 4
    print(tally)
