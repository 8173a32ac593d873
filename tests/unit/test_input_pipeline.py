"""Images are decoded as often as the cache requires, and are the same in every cache."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import features, free_memory, input_pipeline
from trainer_module.options import TransformOptions

SIZE, COUNT = 8, 5


@pytest.fixture
def files(tmp_path, rng):
    pixels = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    with tf.io.TFRecordWriter(str(tmp_path / "part-0")) as writer:
        for image in pixels:
            writer.write(image.tobytes())
    return [str(tmp_path / "part-*")], pixels


@pytest.mark.parametrize(
    ("cache", "max_bytes", "times", "is_file"),
    [
        ("auto", 10**9, 1, False),
        ("auto", 0, 1, True),
        ("memory", 0, 1, False),
        ("disk", 10**9, 1, True),
        ("none", 10**9, 3, False),
    ],
)
def test_images_are_cached_in_memory_or_in_a_file(files, tmp_path, monkeypatch, cache, max_bytes, times, is_file):
    patterns, pixels = files
    decoded = []

    def transform(serialized):
        counted = tf.py_function(lambda x: decoded.append(len(x)) or x, [serialized], tf.string)
        return {features.IMAGE_PIXELS: tf.ensure_shape(counted, [None]), features.LABEL: tf.strings.length(serialized)}

    monkeypatch.setattr(free_memory, "available_bytes", lambda: 4 * max_bytes)
    examples = input_pipeline.read_examples(
        patterns,
        transform,
        TransformOptions(image_size=SIZE),
        num_examples=COUNT,
        cache_dir=str(tmp_path / "cache"),
        cache=cache,
        read_label=lambda transformed, _: transformed[features.LABEL],
    )
    assert int(examples.cardinality()) == COUNT
    for batch_size in (2, 3, 2):  # datasets with another batch size share the cache
        images = np.concatenate([batch for batch, _ in input_pipeline.batch_examples(examples, batch_size)])
        np.testing.assert_array_equal(images, pixels)
    assert sum(decoded) == times * COUNT
    assert bool(list(tmp_path.glob("cache/*"))) == is_file


def test_the_order_differs_between_epochs_and_is_reproducible():
    def orders():
        examples = tf.data.Dataset.range(100).map(lambda n: (tf.fill([1, 1, 1], tf.cast(n, tf.uint8)), n))
        shuffled = input_pipeline.batch_examples(examples, 100, shuffle_seed=7)
        return [next(iter(shuffled))[1].numpy().tolist() for _ in range(2)]

    one, other = orders()
    assert one != other and sorted(one) == sorted(other) == list(range(100))
    assert orders() == [one, other]
