"""The layer table of a network against formulas, published values and gradients."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainer_module import architecture, features
from trainer_module.options import TrainerOptions, TransformOptions

KINDS = ("standard", "separable", "mobilenet")
DOWNSAMPLINGS = ("max", "average", "stride")
HEADS = ("global_average", "global_max", "flatten")


def rows_of(model):
    return {row.name: row for row in architecture.describe(model).layers}


def options(model, size=32, channels=3, classes=10, normalization="dataset", task=None):
    transform = TransformOptions(image_size=size, channels=channels, normalization=normalization)
    task = task or {"name": "segmentation" if model["name"] == "unet" else "classification"}
    return TrainerOptions(classes=tuple(map(str, range(classes))), transform=transform, model=model, task=task)


def side_after(side, kernel, stride, same, dilation=1):
    """floor((W - K + 2P) / S) + 1, with 2P the padding of both sides together."""
    kernel = (kernel - 1) * dilation + 1
    padding = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) if same else 0
    return (side - kernel + padding) // stride + 1


# --- Single layers ----------------------------------------------------------------------------------------------

GEOMETRIES = [
    # side, kernel, stride, padding, dilation
    (17, 3, 1, "same", 1),
    (17, 3, 2, "same", 1),
    (16, 3, 2, "same", 1),
    (21, 7, 2, "valid", 1),
    (20, 5, 3, "valid", 1),
    (20, 3, 1, "valid", 3),
    (20, 3, 1, "same", 2),
    (9, 1, 1, "valid", 1),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions_agree_with_their_formulas(geometry, bias):
    side, k, stride, padding, dilation = geometry
    c_in, c_out, multiplier, groups = 6, 4, 2, 2
    shared = {"strides": stride, "padding": padding, "use_bias": bias, "dilation_rate": dilation}
    x = keras.Input([side, side, c_in])
    outputs = [
        layers.Conv2D(c_out, k, name="standard", **shared)(x),
        layers.Conv2D(c_out, k, groups=groups, name="grouped", **shared)(x),
        layers.DepthwiseConv2D(k, depth_multiplier=multiplier, name="depthwise", **shared)(x),
        layers.SeparableConv2D(c_out, k, depth_multiplier=multiplier, name="separable", **shared)(x),
    ]
    rows = rows_of(keras.Model(x, outputs))
    out = side_after(side, k, stride, padding == "same", dilation)
    depthwise = k * k * c_in * multiplier
    for name, channels, weights in (
        ("standard", c_out, k * k * c_in * c_out),
        ("grouped", c_out, k * k * c_in // groups * c_out),
        ("depthwise", c_in * multiplier, depthwise),
        ("separable", c_out, depthwise + c_in * multiplier * c_out),
    ):
        row = rows[name]
        assert row.output_shapes == ((out, out, channels),), name
        assert row.parameters == row.trainable_parameters == weights + channels * bias, name
        assert row.macs == out * out * weights, name
        assert (row.kernel, row.stride) == ((k, k), (stride, stride))
        assert row.receptive_field == (((k - 1) * dilation + 1,) * 2, (stride, stride))


def test_sides_and_kernels_may_differ():
    x = keras.Input([20, 30, 2])
    y = layers.Conv2D(4, (3, 5), strides=(1, 2), padding="same", name="a")(x)
    rows = rows_of(keras.Model(x, layers.Conv2D(4, (5, 1), padding="same", name="b")(y)))
    assert rows["a"].output_shapes == ((20, 15, 4),)
    assert rows["a"].macs == 20 * 15 * 3 * 5 * 2 * 4
    assert rows["b"].receptive_field == ((7, 5), (1, 2))


@pytest.mark.parametrize(("layer", "same"), [(layers.MaxPooling2D, True), (layers.AveragePooling2D, False)])
@pytest.mark.parametrize(("side", "pool", "stride"), [(16, 2, 2), (17, 2, 2), (17, 3, 2), (9, 3, 1)])
def test_pooling_costs_nothing_and_widens_the_receptive_field(layer, same, side, pool, stride):
    x = keras.Input([side, side, 3])
    y = layer(pool, strides=stride, padding="same" if same else "valid", name="pool")(x)
    row = rows_of(keras.Model(x, y))["pool"]
    out = side_after(side, pool, stride, same)
    assert row.output_shapes == ((out, out, 3),)
    assert (row.parameters, row.macs, row.kernel, row.stride) == (0, 0, (pool, pool), (stride, stride))
    assert row.receptive_field == ((pool, pool), (stride, stride))


def test_a_transposed_convolution_comes_after_the_feature_map():
    x = keras.Input([5, 5, 3])
    y = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    row = rows_of(keras.Model(x, y))["up"]
    assert row.output_shapes == ((10, 10, 4),)
    assert (row.parameters, row.macs) == (2 * 2 * 3 * 4 + 4, 5 * 5 * 2 * 2 * 3 * 4)
    assert row.receptive_field is None


def test_dense_layers():
    x = keras.Input([5, 6, 7])
    pointwise = layers.Dense(4, name="pointwise")(x)
    whole = layers.Dense(3, use_bias=False, name="whole")(layers.Flatten(name="flat")(pointwise))
    rows = rows_of(keras.Model(x, whole))
    assert (rows["pointwise"].parameters, rows["pointwise"].macs) == (7 * 4 + 4, 5 * 6 * 7 * 4)
    assert rows["pointwise"].receptive_field == rows["flat"].receptive_field == ((1, 1), (1, 1))
    assert rows["whole"].parameters == rows["whole"].macs == 5 * 6 * 4 * 3
    assert rows["whole"].receptive_field.is_whole_image


def test_batch_normalisation_has_two_frozen_parameters_per_channel():
    x = keras.Input([5, 6, 7])
    row = rows_of(keras.Model(x, layers.BatchNormalization(name="bn")(x)))["bn"]
    assert (row.parameters, row.trainable_parameters, row.macs) == (4 * 7, 2 * 7, 0)


# --- Graphs -----------------------------------------------------------------------------------------------------


def test_a_shared_layer_is_counted_once_and_computed_twice():
    shared = layers.Conv2D(3, 3, padding="same", use_bias=False, name="shared")
    x = keras.Input([8, 8, 3])
    model = keras.Model(x, shared(shared(x)))
    summary = architecture.describe(model)
    assert summary.parameters == model.count_params() == 9 * 3 * 3
    assert summary.macs == 2 * 8 * 8 * 9 * 3 * 3
    assert [row.receptive_field.size for row in summary.layers] == [(1, 1), (3, 3), (5, 5)]


def test_joined_branches_have_the_largest_receptive_field():
    x = keras.Input([32, 32, 3])
    short = layers.Conv2D(4, 1, strides=2, name="short")(x)
    long = layers.Conv2D(4, 5, padding="same", name="five")(layers.MaxPooling2D(2)(x))
    rows = rows_of(keras.Model(x, layers.Concatenate(name="both")([short, long])))
    assert rows["short"].receptive_field == ((1, 1), (2, 2))
    assert rows["both"].receptive_field == rows["five"].receptive_field == ((2 + 4 * 2,) * 2, (2, 2))


@pytest.mark.parametrize("sequential", [False, True])
def test_a_network_within_the_network_continues_the_receptive_field(sequential):
    inner = [keras.Input([8, 8, 4]), layers.Conv2D(4, 3, padding="same", name="inner_conv"), layers.ReLU()]
    base = keras.Sequential(inner, name="base")
    if not sequential:
        base = keras.Model(base.inputs, base.outputs[0], name="base")
    base.trainable = False
    x = keras.Input([16, 16, 3])
    y = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(x)
    model = keras.Model(x, layers.Conv2D(2, 3, name="after")(base(y)))
    summary = architecture.describe(model)
    rows = {row.name: row for row in summary.layers}
    assert summary.parameters == model.count_params()
    assert summary.trainable_parameters == sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert rows["base"].parameters == 9 * 4 * 4 + 4 and rows["base"].trainable_parameters == 0
    assert rows["base"].macs == 8 * 8 * 9 * 4 * 4
    assert "inner_conv" in [row.name for row in rows["base"].layers]
    assert rows["base"].receptive_field == ((3 + 2 * 2,) * 2, (2, 2))
    assert rows["after"].receptive_field == ((3 + 2 * 2 + 2 * 2,) * 2, (2, 2))


def test_a_gate_on_the_mean_of_a_map_depends_on_the_whole_image():
    x = keras.Input([16, 16, 4])
    y = layers.Conv2D(4, 3, strides=2, padding="same")(x)
    gate = layers.Dense(4)(layers.Reshape([1, 1, 4])(layers.GlobalAveragePooling2D()(y)))
    row = rows_of(keras.Model(x, layers.Multiply(name="gated")([y, gate])))["gated"]
    assert row.receptive_field.is_whole_image and row.receptive_field.stride == (2, 2)


class _OwnLayer(layers.Layer):
    def call(self, x):
        return x + tf.reverse(x, axis=[1])


@pytest.mark.parametrize("layer", [_OwnLayer(), layers.MultiHeadAttention(2, 3)], ids=["own", "attention"])
def test_unknown_layers_have_no_values(layer):
    x = keras.Input([8, 8, 3])
    y = layer(x) if isinstance(layer, _OwnLayer) else layer(x, x)
    model = keras.Model(x, layers.Conv2D(2, 3, name=features.FEATURES_LAYER)(y))
    summary = architecture.describe(model)
    assert summary.macs is None and summary.feature_map.receptive_field is None
    assert summary.feature_map.macs == 6 * 6 * 9 * 3 * 2
    assert summary.parameters == model.count_params()


# --- Published networks -----------------------------------------------------------------------------------------


def test_a_stack_like_vgg16_by_hand():
    # Blocks of 2, 2, 3, 3, 3 convolutions with 2x2 pooling. Simonyan & Zisserman 2015; the receptive field of the last
    # pooling, 212 with stride 32, is also that of Araujo et al. 2019.
    filters = 1
    x = inputs = keras.Input([64, 64, 1])
    for block, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(count):
            x = layers.Conv2D(filters, 3, padding="same", name=f"conv{block}_{index + 1}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{block}")(x)
    summary = architecture.describe(keras.Model(inputs, x))
    sizes = {row.name: row.receptive_field.size[0] for row in summary.layers}
    by_hand = {"conv1_2": 5, "pool1": 6, "conv2_2": 14, "pool2": 16, "conv3_3": 40, "pool3": 44, "pool4": 100}
    assert by_hand.items() <= sizes.items()
    assert (sizes["conv5_3"], sizes["pool5"]) == (196, 212)
    assert summary.layers[-1].receptive_field.stride == (32, 32)
    assert summary.macs == 9 * (2 * 64**2 + 2 * 32**2 + 3 * 16**2 + 3 * 8**2 + 3 * 4**2)


def test_mobilenet_v2_has_its_published_size():
    # Sandler et al. 2018, table 4: 3.4 M parameters, 300 M multiply-adds (of Keras's: with statistics 3,538,984).
    summary = architecture.describe(keras.applications.MobileNetV2(weights=None))
    rows = {row.name: row for row in summary.layers}
    assert (summary.parameters, summary.trainable_parameters) == (3_538_984, 3_504_872)
    assert summary.macs == pytest.approx(300e6, rel=0.01)
    # Stem: 3; a depthwise convolution adds 2 * stride: one at 2, one at 2, one at 4, one at 4, two at 8, one at 8,
    # six at 16, one at 16, three at 32.
    by_hand = 3 + 2 * (2 * 2 + 2 * 4 + 3 * 8 + 7 * 16 + 3 * 32)
    assert rows["out_relu"].receptive_field == ((by_hand, by_hand), (32, 32))
    assert by_hand == 491


def test_resnet50_has_its_published_size():
    # He et al. 2016, table 1: 3.8e9 multiply-adds. Receptive field: 7, 11 with pooling, then 2 * stride for every
    # 3x3 convolution: 3 at 4, 4 at 8, 6 at 16, 3 at 32.
    summary = architecture.describe(keras.applications.ResNet50(weights=None))
    rows = {row.name: row for row in summary.layers}
    assert summary.parameters == 25_636_712
    assert summary.macs == pytest.approx(3.86e9, rel=0.01)
    by_hand = 11 + 2 * (3 * 4 + 4 * 8 + 6 * 16 + 3 * 32)
    assert rows["conv5_block3_out"].receptive_field == ((by_hand, by_hand), (32, 32))
    assert by_hand == 483


# --- The receptive field, measured ------------------------------------------------------------------------------


def measured_field(model, layer):
    """Size of the region that the gradient of the centre of a map reaches, and its offset for the next position."""
    to_map = keras.Model(model.input, model.get_layer(layer).output)
    image = tf.Variable(np.ones([1, *model.input_shape[1:]], np.float32))

    def reached(row, column):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(to_map(image, training=False)[0, row, column])
        return np.nonzero(tape.gradient(value, image).numpy()[0].sum(axis=-1))

    height, width = to_map.output_shape[1:3]
    rows, columns = reached(height // 2, width // 2)
    rows_below, columns_beside = reached(height // 2 + 1, width // 2 + 1)
    assert rows.min() > 0 and columns.max() < image.shape[2] - 1, "the image is smaller than the receptive field"
    size = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
    return size, (rows_below.min() - rows.min(), columns_beside.min() - columns.min())


def make_positive(model):
    """Sets all kernels positive, so that no path through the network cancels another; ReLU is then the identity."""
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization):
            layer.set_weights([np.full(weight.shape, 0.1) for weight in layer.weights])


@pytest.mark.parametrize("downsampling", ["average", "stride", ("average", "stride", "stride", "average")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_receptive_field_is_where_gradients_are_not_zero(kind, downsampling):
    model = {"name": "scratch_cnn", "blocks": [[2, 2], [2], [2, 2], [2]], "convolution": kind}
    network = architecture.network(options(model | {"downsampling": downsampling}, size=112, channels=1))
    make_positive(network)
    field = architecture.describe(network).feature_map.receptive_field
    assert measured_field(network, features.FEATURES_LAYER) == (field.size, field.stride)


def test_the_receptive_field_of_a_graph_is_where_gradients_are_not_zero():
    x = inputs = keras.Input([120, 100, 2])
    x = layers.Conv2D(3, 5, strides=2, padding="same")(x)
    short = layers.Conv2D(3, 1)(x)
    x = layers.Conv2D(3, 3, dilation_rate=3, padding="same")(x)
    x = layers.Add()([short, layers.DepthwiseConv2D((1, 3), padding="same")(x)])
    x = layers.AveragePooling2D(3, strides=2, padding="same")(x)
    base_inputs = keras.Input(x.shape[1:])
    base = keras.Model(base_inputs, layers.SeparableConv2D(4, 3, padding="same")(base_inputs))
    x = layers.ZeroPadding2D(1)(layers.Conv2D(2, (3, 1))(base(x)))
    model = keras.Model(inputs, layers.Activation("linear", name=features.FEATURES_LAYER)(x))
    make_positive(model)
    field = architecture.describe(model).feature_map.receptive_field
    assert measured_field(model, features.FEATURES_LAYER) == (field.size, field.stride)
    assert field.size[0] != field.size[1]


# --- The networks of this product -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (37, 1)])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("downsampling", DOWNSAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_scratch_cnn_in_every_combination_by_formula(kind, downsampling, head, size, channels):
    blocks, units, classes = ((4, 6), (8,), (10, 12)), 16, 7
    model = {"name": "scratch_cnn", "blocks": blocks, "convolution": kind, "downsampling": downsampling}
    given = options(model, size, channels, classes, task={"pooling": head, "dense_units": units})
    network = architecture.network(given)
    summary = architecture.describe(network)
    rows = {row.name: row for row in summary.layers}

    side, c_in, parameters, macs = size, channels, 0, 0
    for block, filters in enumerate(blocks, start=1):
        for index, c_out in enumerate(filters, start=1):
            ends_block = index == len(filters) and block < len(blocks)
            side = side_after(side, 3, 2 if ends_block and downsampling == "stride" else 1, same=True)
            depthwise, pointwise = 9 * c_in, c_in * c_out
            weights = 9 * c_in * c_out if kind == "standard" else depthwise + pointwise
            parameters += weights + 4 * c_out + (4 * c_in if kind == "mobilenet" else 0)
            macs += side * side * weights
            names = ("depthwise", "pointwise") if kind == "mobilenet" else ("conv",)
            assert sum(rows[f"block{block}_{name}{index}"].macs for name in names) == side * side * weights
            assert rows[f"block{block}_{names[-1]}{index}"].output_shapes == ((side, side, c_out),)
            c_in = c_out
        if block < len(blocks) and downsampling != "stride":
            side = side_after(side, 2, 2, same=False)
            assert rows[f"block{block}_pool"].output_shapes == ((side, side, c_in),)
    pooled = side * side * c_in if head == "flatten" else c_in
    parameters += pooled * units + units + units * classes + classes
    macs += pooled * units + units * classes

    assert rows[features.FEATURES_LAYER].output_shapes == ((side, side, c_in),)
    assert rows[features.POOLED_LAYER].output_shapes == ((pooled,),)
    assert (summary.parameters, summary.macs) == (parameters, macs)
    assert summary.parameters == network.count_params()
    assert summary.trainable_parameters == sum(math.prod(weight.shape) for weight in network.trainable_weights)
    assert rows[features.LOGITS_LAYER].receptive_field.is_whole_image


def test_scratch_cnn_with_default_options():
    summary = architecture.describe(architecture.network(options({"name": "scratch_cnn"}, size=96)))
    assert (summary.parameters, summary.trainable_parameters) == (175_978, 175_338)
    assert summary.feature_map.receptive_field == ((24, 24), (4, 4))


@pytest.mark.parametrize(
    ("model", "feature_map"),
    [
        ({"name": "transfer", "weights": "nowhere.h5"}, features.FEATURES_LAYER),
        ({"name": "unet", "encoder": "mobilenet_v2", "filters": 2}, features.FEATURES_LAYER),
    ],
    ids=["transfer", "unet"],
)
def test_pre_trained_weights_are_not_needed(model, feature_map, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    network = architecture.network(options(model, size=64, normalization="backbone"))
    summary = architecture.describe(network)
    assert summary.parameters == network.count_params()
    assert summary.trainable_parameters == sum(math.prod(weight.shape) for weight in network.trainable_weights)
    assert summary.feature_map.name == feature_map
    assert summary.feature_map.receptive_field == ((491, 491), (32, 32))
    assert summary.macs == sum(row.macs for row in summary.layers)


def test_receptive_fields_end_at_the_bottleneck_of_a_unet():
    rows = rows_of(architecture.network(options({"name": "unet", "depth": 2, "filters": 2}, size=16)))
    # Two 3x3 convolutions at strides 1, 2 and 4, two poolings between them.
    assert rows[features.FEATURES_LAYER].receptive_field == ((1 + 2 * 2 + 1 + 2 * 4 + 2 + 2 * 8,) * 2, (4, 4))
    assert rows["up1"].receptive_field is rows["skip1"].receptive_field is rows["logits"].receptive_field is None
    assert rows["up1"].macs == 4 * 4 * 2 * 2 * 8 * 4
