"""Images are decoded as often as the cache requires, and are the same in every cache."""

import numpy as np
import pytest
import tensorflow as tf

from trainer_module import features, free_memory, input_pipeline
from trainer_module.distribution import ALL_EXAMPLES, Shard
from trainer_module.options import TransformOptions

SIZE, COUNT = 8, 5


@pytest.fixture
def files(tmp_path, rng):
    pixels = rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    with tf.io.TFRecordWriter(str(tmp_path / "part-0")) as writer:
        for image in pixels:
            writer.write(image.tobytes())
    return [str(tmp_path / "part-*")], pixels


def read(patterns, folder, **arguments):
    """Returns the examples, and a list to which the number of every decoded batch is added."""
    decoded = []

    def transform(serialized):
        counted = tf.py_function(lambda x: decoded.append(len(x)) or x, [serialized], tf.string)
        return {features.IMAGE_PIXELS: tf.ensure_shape(counted, [None]), features.LABEL: tf.strings.length(serialized)}

    examples = input_pipeline.read_examples(
        patterns,
        transform,
        TransformOptions(image_size=SIZE),
        num_examples=COUNT,
        cache_dir=str(folder / "cache"),
        read_label=lambda transformed, _: transformed[features.LABEL],
        **arguments,
    )
    return examples, decoded


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
    monkeypatch.setattr(free_memory, "available_bytes", lambda: 4 * max_bytes)
    examples, decoded = read(patterns, tmp_path, cache=cache)
    assert int(examples.cardinality()) == COUNT
    for batch_size in (2, 3, 2):  # datasets with another batch size share the cache
        images = np.concatenate([batch for batch, _ in input_pipeline.batch_examples(examples, batch_size)])
        np.testing.assert_array_equal(images, pixels)
    assert sum(decoded) == times * COUNT
    assert bool(list(tmp_path.glob("cache/*"))) == is_file


@pytest.mark.parametrize(("num_shards", "size"), [(2, 3), (5, 1), (12, 1)])
def test_a_worker_decodes_its_own_images_only(files, tmp_path, num_shards, size):
    patterns, pixels = files
    images = []
    for index in range(num_shards):
        examples, decoded = read(patterns, tmp_path, cache="memory", shard=Shard(index, num_shards))
        assert int(examples.cardinality()) == size
        images += [image.numpy() for image, _ in examples]
        assert sum(decoded) == size
    # The first images are repeated, so that all workers have equally many.
    in_order = (
        np.stack(images).reshape(num_shards, size, *pixels.shape[1:]).swapaxes(0, 1).reshape(-1, *pixels.shape[1:])
    )
    np.testing.assert_array_equal(in_order, np.resize(pixels, in_order.shape))


def test_batches_are_divided_equally(monkeypatch):
    assert ALL_EXAMPLES.batch_size(7) == 7 and Shard(1, 2).batch_size(8) == 4
    strategy = type("Strategy", (), {"num_replicas_in_sync": 6})
    monkeypatch.setattr(tf.distribute, "get_strategy", strategy)
    assert Shard(0, 3).batch_size(12) == 4
    with pytest.raises(ValueError, match=r"batch_size = 16 is not a multiple of 6.*; use 18"):
        Shard(0, 3).batch_size(16)


def test_the_order_differs_between_epochs_and_is_reproducible():
    def orders():
        examples = tf.data.Dataset.range(100).map(lambda n: (tf.fill([1, 1, 1], tf.cast(n, tf.uint8)), n))
        shuffled = input_pipeline.batch_examples(examples, 100, shuffle_seed=7)
        return [next(iter(shuffled))[1].numpy().tolist() for _ in range(2)]

    one, other = orders()
    assert one != other and sorted(one) == sorted(other) == list(range(100))
    assert orders() == [one, other]
