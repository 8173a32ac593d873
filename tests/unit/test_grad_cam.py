"""Grad-CAM: closed-form results, invariances, and its dependence on the weights."""

import dataclasses
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer_module import faithfulness, features, grad_cam, overlays, tasks
from trainer_module.feature_maps import find_layer, with_feature_map
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions
from trainer_module.tasks import ExplanationMethod, Subject, Target

SIZE, CHANNELS, CLASSES = 8, 3, 4
STATISTICS = PixelStatistics(np.full(3, 60.0, np.float32), np.full(3, 1200.0, np.float32))
METHODS = typing.get_args(ExplanationMethod)


CLASSIFICATION, SEGMENTATION = (tasks.get(name).explanation for name in ("classification", "segmentation"))


def explainer(model, method="grad_cam", layer=""):
    """Explains logits [N, h, w, C] as masks, and logits [N, C] as classes."""
    explanation = SEGMENTATION if len(model.output.shape) == 4 else CLASSIFICATION
    return grad_cam.explainer(model, explanation, method, layer)


@pytest.fixture
def weights(rng):
    return rng.normal(size=(CHANNELS, CLASSES)).astype(np.float32)


@pytest.fixture
def linear_model(weights):
    """Logits are a linear function of the mean of every channel: the gradient is the weight over the area."""
    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = keras.layers.Activation("linear", name=features.FEATURES_LAYER)(inputs)
    x = keras.layers.GlobalAveragePooling2D(name=features.EMBEDDING_LAYER)(x)
    outputs = keras.layers.Dense(CLASSES, use_bias=False, name=features.LOGITS_LAYER)(x)
    model = keras.Model(inputs, outputs)
    model.get_layer(features.LOGITS_LAYER).set_weights([weights])
    return model


@pytest.fixture
def images(rng):
    return rng.uniform(0, 1, (5, SIZE, SIZE, CHANNELS)).astype(np.float32)


@pytest.fixture
def image_batch(rng):
    return rng.integers(0, 256, (4, 32, 32, 3)).astype(np.float32)


def network(task="classification", classes=3, head=None, **model):
    keras.utils.set_random_seed(5)
    names = tuple("abcdefgh"[:classes])
    normalization = "backbone" if model["name"] == "transfer" else "dataset"
    transform = {"image_size": 32, "normalization": normalization}
    given = TrainerOptions(classes=names, transform=transform, model=model, task={"name": task, **(head or {})})
    return build_network(given, STATISTICS)


@pytest.fixture(scope="module")
def transfer():
    """A backbone within a network; its tests only read it."""
    return network(name="transfer", backbone="mobilenet_v2", weights="none")


def scratch_cnn(head=None, **keys):
    return network(name="scratch_cnn", head={"dense_units": 12} | (head or {}), **({"blocks": [[8], [16]]} | keys))


def unet(classes=3):
    return network("segmentation", classes, name="unet", depth=2, filters=4)


def normalized(maps):
    maps = np.maximum(maps, 0.0)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-30)


def correlations(ones, others):
    return [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(ones, others, strict=True)]


# --- Closed form ------------------------------------------------------------------------------------------------


def test_a_linear_model_gives_the_weighted_feature_map(linear_model, images, weights):
    class_ids = np.array([0, 1, 2, 3, 0])
    explanation = explainer(linear_model)(tf.constant(images), Subject(tf.constant(class_ids)))
    expected = normalized(np.einsum("nhwc,cn->nhw", images, weights[:, class_ids]))
    np.testing.assert_allclose(explanation.heatmap, expected, atol=1e-5)


def test_grad_cam_plus_plus_of_a_linear_model_follows_the_equations(linear_model, images, weights):
    class_ids = np.array([0, 1, 2, 3, 0])
    explanation = explainer(linear_model, "grad_cam_plus_plus")(tf.constant(images), Subject(tf.constant(class_ids)))
    # Every position has the same gradient: alphas and their sums are those of one position times the area.
    gradients = weights[:, class_ids].T / SIZE**2
    alphas = gradients**2 / (2 * gradients**2 + gradients**3 * images.sum(axis=(1, 2)))
    channel_weights = SIZE**2 * alphas * np.maximum(gradients, 0.0)
    np.testing.assert_allclose(
        explanation.heatmap, normalized(np.einsum("nhwc,nc->nhw", images, channel_weights)), atol=1e-5
    )


@pytest.fixture
def pixel_model(weights):
    """Logits of a pixel are a linear function of the 2x2 means below it: an encoder and a decoder in closed form."""
    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = keras.layers.AveragePooling2D(2, name="coarse")(inputs)
    x = keras.layers.UpSampling2D(2)(x)
    outputs = keras.layers.Conv2D(CLASSES, 1, use_bias=False, name=features.LOGITS_LAYER)(x)
    model = keras.Model(inputs, outputs)
    model.get_layer(features.LOGITS_LAYER).set_weights([weights[np.newaxis, np.newaxis]])
    return model


def test_the_region_of_a_mask_weights_the_channels(pixel_model, images, weights):
    regions = np.zeros((5, SIZE, SIZE), bool)
    regions[:, :2, :4] = True
    class_ids = np.array([0, 1, 2, 3, 0])
    explanation = explainer(pixel_model)(tf.constant(images), Subject(tf.constant(class_ids), tf.constant(regions)))
    coarse = images.reshape(5, 4, 2, 4, 2, CHANNELS).mean(axis=(2, 4))
    maps = np.maximum(np.einsum("nhwc,cn->nhw", coarse, weights[:, class_ids]), 0.0)
    # The weights of all channels have the factor 8 / 16, which cancels in the normalisation.
    enlarged = tf.image.resize(maps[..., np.newaxis], [SIZE, SIZE])[..., 0].numpy()
    np.testing.assert_allclose(explanation.heatmap, normalized(enlarged), atol=1e-5)
    logits = pixel_model(images).numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = [probabilities[n, :2, :4, class_id].mean() for n, class_id in enumerate(class_ids)]
    np.testing.assert_allclose(explanation.score, expected, rtol=1e-5)


def test_with_masks_the_largest_foreground_class_is_explained_where_it_is_predicted(image_batch):
    model = unet(classes=4)
    # One image is all background; in another the background is the largest class.
    predicted = np.array([[[0, 0], [0, 0]], [[0, 0], [3, 2]], [[1, 1], [2, 2]], [[2, 2], [2, 3]]])
    target = SEGMENTATION.target(tf.one_hot(predicted, 4), Subject(), predicted.shape[1:3]).subject
    np.testing.assert_array_equal(target.class_ids, [0, 2, 1, 2])
    np.testing.assert_array_equal(target.regions, predicted == np.reshape([0, 2, 1, 2], (-1, 1, 1)))
    explanation = explainer(model)(tf.constant(image_batch))
    masks = model(image_batch, training=False).numpy().argmax(axis=-1)
    largest = [1 + np.bincount(mask.ravel(), minlength=4)[1:].argmax() if mask.any() else 0 for mask in masks]
    np.testing.assert_array_equal(explanation.subject.class_ids, largest)
    np.testing.assert_array_equal(explanation.subject.regions, masks == np.reshape(largest, (-1, 1, 1)))


def test_a_region_without_pixels_has_no_evidence(image_batch):
    nowhere = tf.zeros([4, 32, 32], tf.bool)
    explanation = explainer(unet())(tf.constant(image_batch), Subject(tf.zeros([4], tf.int64), nowhere))
    assert not explanation.heatmap.numpy().any() and not explanation.score.numpy().any()


def test_the_predicted_class_is_explained_unless_another_is_named(linear_model, images):
    explanation = explainer(linear_model)(tf.constant(images))
    logits = linear_model(images).numpy()
    np.testing.assert_array_equal(explanation.subject.class_ids, logits.argmax(axis=1))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(explanation.score, probabilities.max(axis=1), rtol=1e-5)


def test_a_saturated_softmax_does_not_change_the_map(linear_model, images):
    before = explainer(linear_model)(tf.constant(images))
    (weights,) = linear_model.get_layer(features.LOGITS_LAYER).get_weights()
    linear_model.get_layer(features.LOGITS_LAYER).set_weights([weights * 1e4])
    after = explainer(linear_model)(tf.constant(images))
    np.testing.assert_array_equal(after.score, np.ones(5, np.float32))
    np.testing.assert_allclose(after.heatmap, before.heatmap, atol=1e-5)


# --- Several outputs ------------------------------------------------------------------------------------------------


@pytest.fixture
def pyramid_model(rng):
    """Class logits at 4x4 and at 2x2 positions, linear in the means of the pixels below a position; and a box each."""
    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = keras.layers.Activation("linear", name=features.FEATURES_LAYER)(inputs)
    outputs = {}
    for name, stride in (("fine", 2), ("coarse", 4)):
        level = keras.layers.AveragePooling2D(stride, name=f"{name}_map")(x)
        outputs[name] = {
            "class_logits": keras.layers.Conv2D(CLASSES, 1, use_bias=False, name=f"{name}_logits")(level),
            "boxes": keras.layers.Conv2D(4, 1, use_bias=False, name=f"{name}_boxes")(level),
        }
    return keras.Model(inputs, outputs)


def explain_position(level, row, column):
    """An explanation of the class logit at one position of one level of `pyramid_model`."""

    def logits(outputs):
        return outputs[level]["class_logits"][:, row, column]

    def target(outputs, subject, size):
        class_ids = tf.argmax(logits(outputs), axis=-1) if subject.class_ids is None else subject.class_ids
        return Target(Subject(class_ids), tf.gather(logits(outputs), class_ids, axis=-1, batch_dims=1))

    def score(outputs, subject):
        return tf.gather(tf.nn.sigmoid(logits(outputs)), subject.class_ids, axis=-1, batch_dims=1)

    return dataclasses.replace(CLASSIFICATION, target=target, score=score)


@pytest.mark.parametrize(("level", "stride"), [("fine", 2), ("coarse", 4)])
def test_hires_cam_shows_what_one_position_depends_on(pyramid_model, images, level, stride):
    """The closed form: g is the kernel at the pixels below the position, and 0 elsewhere."""
    class_ids, explanation = np.array([0, 1, 2, 3, 0]), explain_position(level, 1, 0)
    explain = grad_cam.explainer(pyramid_model, explanation, "hires_cam")
    explained = explain(tf.constant(images), Subject(tf.constant(class_ids)))
    weights = pyramid_model.get_layer(f"{level}_logits").get_weights()[0][0, 0][:, class_ids]
    below = np.zeros((1, SIZE, SIZE))
    below[:, stride : 2 * stride, :stride] = 1.0
    expected = normalized(below * np.einsum("nhwc,cn->nhw", images, weights))
    np.testing.assert_allclose(explained.heatmap, expected, atol=1e-5)
    elsewhere = grad_cam.explainer(pyramid_model, explanation)(tf.constant(images), Subject(tf.constant(class_ids)))
    assert (elsewhere.heatmap.numpy() * (1.0 - below)).any()  # Grad-CAM's mean gradient is not local


@pytest.mark.parametrize(("level", "row", "column"), [("fine", 3, 1), ("coarse", 0, 1)])
def test_a_task_can_explain_one_position_of_one_output(pyramid_model, images, level, row, column):
    class_ids, explanation = np.array([0, 1, 2, 3, 0]), explain_position(level, row, column)
    explained = grad_cam.explainer(pyramid_model, explanation)(tf.constant(images), Subject(tf.constant(class_ids)))
    weights = pyramid_model.get_layer(f"{level}_logits").get_weights()[0][0, 0][:, class_ids]
    np.testing.assert_allclose(explained.heatmap, normalized(np.einsum("nhwc,cn->nhw", images, weights)), atol=1e-5)
    outputs = pyramid_model(images)
    tf.nest.map_structure(np.testing.assert_allclose, explained.outputs, outputs)
    logits = outputs[level]["class_logits"].numpy()[np.arange(5), row, column, class_ids]
    np.testing.assert_allclose(explained.score, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    values = faithfulness.measurer(pyramid_model, explanation, steps=2)(tf.constant(images), explained, None)
    assert values.keys() == {metric.name for metric in faithfulness.metrics_of(explanation)}
    assert np.isfinite(values["deletion_auc"]).all()


def test_a_layer_that_the_explained_output_does_not_depend_on_is_refused(pyramid_model, images):
    explain = grad_cam.explainer(pyramid_model, explain_position("fine", 0, 0), layer="coarse_map")
    with pytest.raises(ValueError, match="does not depend on the layer 'coarse_map'"):
        explain(tf.constant(images))


# --- The textbook implementation ------------------------------------------------------------------------------


def textbook(model, image, class_id, layer):
    """The tutorial's loop: a model with two outputs, one image, an eager tape through the whole network."""
    inner = keras.Model(model.input, [model.get_layer(layer).output, model.output])
    with tf.GradientTape() as tape:
        maps, logits = inner(image[np.newaxis], training=False)
        score = logits[0, class_id]
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(0, 1, 2))
    maps = np.maximum((maps[0] * weights).numpy().sum(axis=-1), 0.0)
    return tf.image.resize(maps[np.newaxis, ..., np.newaxis], image.shape[:2])[0, ..., 0].numpy()


@pytest.mark.parametrize("head", ["global_average", "global_max", "flatten"])
def test_the_cut_network_agrees_with_the_whole_one(head, image_batch):
    model = scratch_cnn({"pooling": head})
    for layer in (features.FEATURES_LAYER, "block1_relu1"):
        explanation = explainer(model, layer=layer)(tf.constant(image_batch))
        expected = [
            textbook(model, image, int(class_id), layer)
            for image, class_id in zip(image_batch, explanation.subject.class_ids, strict=True)
        ]
        np.testing.assert_allclose(explanation.heatmap, normalized(np.stack(expected)), atol=1e-4)


def test_a_map_inside_a_network_within_the_network(transfer, image_batch):
    model = transfer
    base = model.get_layer(features.BACKBONE_LAYER)
    whole = keras.Model(base.input, [base.get_layer("block_13_expand_relu").output, base.output])
    head = [model.get_layer(name) for name in (features.FEATURES_LAYER, "pooled", "embedding", features.LOGITS_LAYER)]
    with tf.GradientTape() as tape:
        maps, x = whole(image_batch, training=False)
        for layer in head:
            x = layer(x)
        total = tf.reduce_sum(x[:, 1])
    weights = tf.reduce_mean(tape.gradient(total, maps), axis=(1, 2), keepdims=True)
    maps = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
    expected = normalized(tf.image.resize(maps, [32, 32])[..., 0].numpy())
    for name in ("block_13_expand_relu", "backbone/block_13_expand_relu"):
        explain = explainer(model, layer=name)
        np.testing.assert_allclose(
            explain(tf.constant(image_batch), Subject(tf.ones([4], tf.int64))).heatmap, expected, atol=1e-3
        )


# --- Which layer ------------------------------------------------------------------------------------------------


def default_map(model):
    layer = find_layer(model)
    return layer, with_feature_map(model, layer).outputs[0].shape[1:]


def test_the_default_layer_is_the_last_spatial_one(transfer):
    assert default_map(scratch_cnn()) == (features.FEATURES_LAYER, (16, 16, 16))
    # At 32 pixels a pre-trained network ends in one position: the default is the last map with several.
    layer, shape = default_map(transfer)
    assert shape[:2] == (2, 2) and layer.startswith("backbone/")
    only = keras.Sequential([keras.Input([1, 1, 2]), keras.layers.ReLU(name="r"), keras.layers.Flatten()])
    assert find_layer(only) == "r"


def test_the_default_layer_of_an_encoder_decoder_is_the_bottleneck():
    model = unet()
    assert default_map(model) == (features.FEATURES_LAYER, (8, 8, 16))
    image_batch = tf.constant(np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32))
    default = explainer(model)(image_batch).heatmap
    for layer in (features.FEATURES_LAYER, "bottleneck_dropout"):
        by_name = explainer(model, layer=layer)(image_batch)
        np.testing.assert_allclose(by_name.heatmap, default, atol=1e-6)


def test_the_default_layer_is_not_in_the_head():
    # The head has a map of class scores, of the same size as the features.
    model = network("segmentation", name="scratch_cnn", blocks=[[8], [16]])
    assert default_map(model) == (features.FEATURES_LAYER, (16, 16, 16))
    assert with_feature_map(model, "class_scores").outputs[0].shape[1:] == (16, 16, 3)


def test_a_layer_used_twice_and_a_model_used_as_a_layer(images):
    shared = keras.layers.Conv2D(CHANNELS, 3, padding="same", name="shared")
    inner = keras.Sequential([keras.Input([SIZE, SIZE, CHANNELS]), shared, keras.layers.ReLU()], name="inner")
    inputs = keras.Input([SIZE, SIZE, CHANNELS])
    x = keras.layers.Add()([inner(inner(inputs)), inputs])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalMaxPooling2D()(x)))
    images = tf.constant(images)
    for layer in ("", "inner", "shared"):
        feature_map, outputs = with_feature_map(model, find_layer(model, layer))(images)
        assert feature_map.shape == (5, SIZE, SIZE, CHANNELS)
        np.testing.assert_allclose(outputs, model(images), atol=1e-5)
    assert find_layer(model, "shared") == "inner/shared"
    # The last use counts.
    last, _ = with_feature_map(model, "inner/shared")(images)
    np.testing.assert_allclose(last, shared(inner(images)), atol=1e-5)


def test_nothing_before_the_map_is_differentiated(image_batch):
    model = unet()
    explain = explainer(model).get_concrete_function(tf.TensorSpec([None, 32, 32, 3]))
    operations = [operation.type for operation in explain.graph.get_operations()]
    # Two convolutions in each of three encoder levels and two decoder levels, the logits, and two up-convolutions,
    # which are themselves gradients of a convolution.
    assert (operations.count("Conv2D"), operations.count("Conv2DBackpropInput")) == (11 + 2, 5 + 2)
    outputs = explain(tf.constant(image_batch)).outputs
    np.testing.assert_allclose(outputs, model(image_batch, training=False), atol=1e-5)


def test_explaining_does_not_change_the_model(small_backbones, image_batch, tmp_path):
    with small_backbones():
        model = network(name="transfer", backbone="mobilenet_v2", weights="none")
    inner = [layer.name for layer in model.get_layer(features.BACKBONE_LAYER).layers]
    before = model.get_config(), model(image_batch, training=False).numpy()
    for layer in ("", f"backbone/{inner[-3]}"):
        explainer(model, layer=layer)(tf.constant(image_batch))
    assert model.get_config() == before[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(image_batch, training=False), before[1])


def test_an_unsuitable_layer_is_refused(linear_model):
    with pytest.raises(ValueError, match=r"needs a layer with output \[N, h, w, c\]; 'embedding' gives \[N, 3\]"):
        explainer(linear_model, layer=features.EMBEDDING_LAYER)
    with pytest.raises(ValueError, match=r"no layer 'feature'. Did you mean `features`"):
        explainer(linear_model, layer="feature")
    with pytest.raises(ValueError, match=r"no layer 'x'. It has: features"):
        explainer(linear_model, layer="x")
    inputs = keras.Input([4])
    with pytest.raises(ValueError, match="and this model has none"):
        explainer(keras.Model(inputs, keras.layers.Dense(2)(inputs)))


def test_an_unknown_layer_is_refused_before_training():
    with pytest.raises(ValueError, match=r"no layer 'block9_relu1'\. Did you mean `block"):
        build_network(
            TrainerOptions(classes=("a", "b"), model={"name": "scratch_cnn"}, grad_cam={"layer": "block9_relu1"}),
            STATISTICS,
        )


# --- Invariances ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("build", [scratch_cnn, unet])
def test_a_batch_agrees_with_single_images(build, method, image_batch):
    explain = explainer(build(), method)
    together = explain(tf.constant(image_batch))
    singly = [explain(tf.constant(image_batch[i : i + 1])) for i in range(len(image_batch))]
    np.testing.assert_allclose(together.heatmap, np.concatenate([one.heatmap for one in singly]), atol=1e-4)
    np.testing.assert_array_equal(together.subject.class_ids, np.concatenate([one.subject.class_ids for one in singly]))
    assert together.heatmap.numpy().max() == pytest.approx(1.0)


@pytest.fixture(scope="module", params=[scratch_cnn, unet])
def symmetric(request):
    """A network that is invariant to mirroring."""
    model = request.param()
    for variable in model.trainable_variables:
        if len(variable.shape) == 4:
            variable.assign(
                (variable + tf.reverse(variable, [0]) + tf.reverse(variable, [1]) + tf.reverse(variable, [0, 1])) / 4.0
            )
    return model


@pytest.fixture(scope="module", params=METHODS)
def explain(request, symmetric):
    """Explains the predictions of `symmetric`, by one method."""
    return explainer(symmetric, request.param)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_image_has_the_mirrored_map(explain, axis, image_batch):
    straight = explain(tf.constant(image_batch)).heatmap.numpy()
    mirrored = explain(tf.constant(np.flip(image_batch, axis))).heatmap.numpy()
    assert straight.std() > 0.01
    np.testing.assert_allclose(np.flip(straight, axis), mirrored, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_without_evidence_is_zero_and_finite(linear_model, images, method):
    linear_model.get_layer(features.LOGITS_LAYER).set_weights([-np.ones((CHANNELS, CLASSES), np.float32)])
    for given in (images, np.zeros_like(images)):
        heatmap = explainer(linear_model, method)(tf.constant(given)).heatmap.numpy()
        np.testing.assert_array_equal(heatmap, np.zeros_like(heatmap))


# --- A known cue, and random weights -----------------------------------------------------------------


@pytest.fixture(scope="module")
def cued():
    """A network trained to detect a bright patch in the upper left, and 64 new images with one."""
    random = np.random.default_rng(2)

    def draw(count):
        images = random.integers(0, 120, (count, 32, 32, 3)).astype(np.float32)
        labels = np.arange(count) % 2
        for index in np.flatnonzero(labels):
            top, left = random.integers(0, 5, 2)
            images[index, top : top + 8, left : left + 8] += 130.0
        return images, labels

    model = scratch_cnn({"dropout": 0.0}, block_dropout=0.0)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*draw(512), batch_size=32, epochs=5, verbose=0)
    images, labels = draw(128)
    assert np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels) > 0.98
    return model, images[labels == 1]


@pytest.mark.parametrize("method", METHODS)
def test_the_map_points_at_the_cue(cued, method):
    model, images = cued
    heatmap = explainer(model, method)(tf.constant(images), Subject(tf.ones([len(images)], tf.int64))).heatmap.numpy()
    rows, columns = np.unravel_index(heatmap.reshape(len(images), -1).argmax(axis=1), (32, 32))
    assert np.mean((rows < 12) & (columns < 12)) >= 0.95
    assert heatmap[:, :14, :14].sum() / heatmap.sum() > 0.7


def test_random_weights_change_the_map_layer_by_layer(cued):
    """Adebayo et al. 2018, https://arxiv.org/abs/1810.03292, section 3.1: cascading randomisation, from the top."""
    model, images = cued
    images, class_ids = tf.constant(images), tf.ones([len(images)], tf.int64)
    trained = model.get_weights()
    learned = explainer(model)(images, Subject(class_ids)).heatmap.numpy()
    keras.utils.set_random_seed(23)
    means = []
    try:
        for name in (features.LOGITS_LAYER, features.EMBEDDING_LAYER, "block2_conv1", "block1_conv1"):
            kernel = model.get_layer(name).kernel
            kernel.assign(keras.initializers.GlorotUniform()(kernel.shape))
            random = explainer(model)(images, Subject(class_ids)).heatmap.numpy()
            means.append(np.mean(np.nan_to_num(correlations(learned, random))))
    finally:
        model.set_weights(trained)
    assert means[-1] < 0.5 and min(means) < 0.3
    np.testing.assert_array_equal(explainer(model)(images, Subject(class_ids)).heatmap, learned)


# --- Other implementations --------------------------------------------------------------------------------------
# Neither is installed with the project; tests/bench/grad_cam.py describes how to add them.


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus"])
def test_xplique_agrees(cued, method):
    attributions = pytest.importorskip("xplique.attributions", reason="xplique is not installed")
    model, images = cued
    images = images[:16]
    attribution = {"grad_cam": attributions.GradCAM, "grad_cam_plus_plus": attributions.GradCAMPP}[method]
    theirs = attribution(model, conv_layer=find_layer(model))(images, np.eye(3, dtype=np.float32)[np.ones(16, int)])
    ours = explainer(model, method)(tf.constant(images), Subject(tf.ones([16], tf.int64))).heatmap
    assert min(correlations(np.asarray(ours), np.asarray(theirs))) >= 0.99


@pytest.mark.filterwarnings("ignore")
def test_tf_keras_vis_agrees(cued):
    gradcam = pytest.importorskip("tf_keras_vis.gradcam", reason="tf-keras-vis is not installed")
    model, images = cued
    images = images[:16]
    theirs = gradcam.Gradcam(model, clone=False)(
        lambda outputs: outputs[:, 1],
        images,
        penultimate_layer=find_layer(model),
        seek_penultimate_conv_layer=False,
    )
    ours = explainer(model)(tf.constant(images), Subject(tf.ones([16], tf.int64))).heatmap
    assert min(correlations(np.asarray(ours), theirs)) >= 0.99


# --- Overlays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (65, 130)])
def test_overlay_blends_by_alpha(rng, size):
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    heat = rng.uniform(0, 1, size).astype(np.float32)
    colors = overlays.color_table("jet")
    np.testing.assert_array_equal(overlays.blend(tf.constant(image), heat, colors, 0.0), image)
    full = colors[np.round(heat * 255).astype(int)]
    expected = np.round(0.6 * image + 0.4 * full)
    difference = overlays.blend(tf.constant(image), heat, colors, 0.4).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_an_overlay_has_the_size_of_its_image(rng):
    grey = rng.integers(0, 256, (70, 30, 1), dtype=np.uint8)
    heat = tf.constant(rng.uniform(0, 1, (7, 9)), tf.float32)
    resized = tf.image.resize(heat[..., tf.newaxis], (70, 30))[..., 0].numpy()
    expected = 0.5 * grey + 0.5 * overlays.color_table("jet")[np.round(resized * 255).astype(int)]
    difference = np.abs(overlays.blend(tf.constant(grey), heat, overlays.color_table("jet"), 0.5).numpy() - expected)
    assert difference.shape == (70, 30, 3) and np.mean(difference > 3) < 0.01  # a heat between two colours


@pytest.mark.parametrize(
    ("size", "shown"), [((16, 16), (224, 224)), ((100, 120), (300, 360)), ((300, 223), (600, 446)), ((300, 224),) * 2]
)
def test_small_images_are_enlarged_by_a_whole_factor(size, shown):
    assert overlays.enlarged(tf.zeros([*size, 1], tf.uint8)).shape == (*shown, 1)


@pytest.mark.parametrize("box", [(0.25, 0.1, 0.75, 0.5), (0.0, 0.0, 1.0, 1.0), (0.9, 0.9, 1.0, 1.0)])
def test_an_outline_is_drawn_inside_the_box_and_changes_nothing_else(rng, box):
    image = rng.integers(1, 255, (80, 100, 3), dtype=np.uint8)
    drawn = overlays.outline(tf.constant(image), tf.constant(box, tf.float32)).numpy()
    top, left, bottom, right = np.round(np.array(box) * [80, 100, 80, 100]).astype(int)
    expected = image.copy()
    expected[top:bottom, left:right] = 0
    expected[top + 1 : bottom - 1, left + 1 : right - 1] = 255
    expected[top + 2 : bottom - 2, left + 2 : right - 2] = 0
    expected[top + 3 : bottom - 3, left + 3 : right - 3] = image[top + 3 : bottom - 3, left + 3 : right - 3]
    np.testing.assert_array_equal(drawn, expected)


def test_an_unknown_colour_map_names_some():
    with pytest.raises(ValueError, match="Unknown colour map 'rainbows'"):
        overlays.color_table("rainbows")
