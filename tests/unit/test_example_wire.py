"""Serialized examples against those of TensorFlow's message objects."""

import pytest
import tensorflow as tf

from components.image_example_gen import example_wire

LISTS = {"bytes_list": b"", "float_list": 0.0, "int64_list": 0}
FEATURES = {"bytes_list": example_wire.bytes_feature, "float_list": example_wire.float_feature}
FEATURES["int64_list"] = example_wire.int_feature


def serialized(values):
    """Serializes features by name: kind of list and values."""
    message = tf.train.Example()
    for name, (kind, of_feature) in values.items():
        each = getattr(message.features.feature[name], kind)
        each.SetInParent()
        each.value.extend(of_feature)
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", [0, 1, 2, 100, 127, 128, 129, 16_383, 16_384, 3_000_000])
def test_strings_of_any_length(size):
    for values in ([b"x" * size], [b"", b"y" * size], [b"x"] * (size % 1000)):
        name = "n" * min(size, 300)
        expected = serialized({name: ("bytes_list", values)})
        assert example_wire.example([example_wire.bytes_feature(name, values)]) == expected


@pytest.mark.parametrize("values", [[], [0], [127, 128, -1], [2**63 - 1, -(2**63)], list(range(-200, 200))])
def test_integers(values):
    assert example_wire.example([example_wire.int_feature("a", values)]) == serialized({"a": ("int64_list", values)})


@pytest.mark.parametrize("values", [[], [0.1], [float("inf"), -0.0, 1e-40], [number / 7 for number in range(300)]])
def test_floats(values):
    assert example_wire.example([example_wire.float_feature("a", values)]) == serialized({"a": ("float_list", values)})


def test_single_floats():
    values = {"a": 0.1, "n" * 300: float("-inf"), "image/ä": 1e-40}
    expected = b"".join(example_wire.float_feature(name, [value]) for name, value in values.items())
    assert example_wire.single_floats(tuple(values), values.values()) == expected
    assert example_wire.single_floats((), ()) == b""


def test_several_features():
    values = {f"feature/{number}/ä": (kind, [value] * number) for number in range(3) for kind, value in LISTS.items()}
    entries = [FEATURES[kind](name, of_feature) for name, (kind, of_feature) in sorted(values.items())]
    assert example_wire.example(entries) == serialized(values)
    assert example_wire.example([]) == tf.train.Example(features=tf.train.Features()).SerializeToString()
