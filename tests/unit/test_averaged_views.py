"""Test-time augmentation: averages over views of an image, in predictions, exports and explanations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.serving_validator import checks
from components.serving_validator.options import ServingLimits
from trainer_module import (
    export,
    features,
    grad_cam,
    network,
    preprocessing,
    stored_options,
    tasks,
    test_time_augmentation,
)
from trainer_module.feature_maps import find_layer
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.mask_labels import PADDING_ID
from trainer_module.model_input import Geometry
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel
from trainer_module.tasks import Subject

CLASSES = ("road", "car", "tree")
UNET = {"name": "unet", "depth": 2, "filters": 4}
STATISTICS = PixelStatistics(np.full(3, 110.0, np.float32), np.full(3, 900.0, np.float32))


def options(task="segmentation", model=UNET, size=(16, 24), **views):
    return TrainerOptions.model_validate(
        {
            "classes": CLASSES,
            "transform": {"image_size": size},
            "model": model,
            "task": {"name": task},
            "test_time_augmentation": views,
        }
    )


def network_of(given):
    keras.utils.set_random_seed(3)
    return network.build(given, STATISTICS)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (3, 16, 24, 3)).astype(np.float32)


def test_without_views_the_network_predicts_itself():
    model = network_of(options())
    assert test_time_augmentation.averaged(model, options()) is model


@pytest.mark.parametrize("task", ["classification", "multi_label"])
def test_logits_of_an_image_and_its_mirror_image_are_averaged(images, task):
    given = options(task, {"name": "scratch_cnn"}, size=(16, 24), horizontal_flip=True)
    model = network_of(given)
    predictor = test_time_augmentation.averaged(model, given)
    expected = (model(images).numpy() + model(images[:, :, ::-1]).numpy()) / 2
    np.testing.assert_allclose(predictor(images), expected, atol=1e-5)
    np.testing.assert_allclose(predictor(images[:, :, ::-1]), expected, atol=1e-5)
    assert not np.allclose(model(images), expected, atol=1e-3)


def test_logits_of_pixels_return_to_their_positions(images):
    given = options(horizontal_flip=True, scales=[0.5, 1.5])
    model = network_of(given)
    predictor = test_time_augmentation.averaged(model, given)
    total = 0.0
    for size in ((16, 24), (8, 12), (24, 36)):
        at_size = network_of(options(size=size))
        at_size.set_weights(model.get_weights())
        for step in (1, -1):
            seen = tf.image.resize(images, size)[:, :, ::step]
            total = total + tf.image.resize(at_size(seen)[:, :, ::step], (16, 24))
    np.testing.assert_allclose(predictor(images), total / 6, atol=1e-4)
    mirrored = predictor(images[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(mirrored, predictor(images), atol=1e-4)
    with pytest.raises(ValueError, match="expected shape"):
        model(np.zeros((1, 8, 12, 3), np.float32))  # the network still checks what it is given directly


def test_mirrored_views_have_all_sizes(images):
    given = options(scales=[0.5])
    model = network_of(given)
    predicted = test_time_augmentation.averaged(model, given)(images).numpy()
    mirrored = options(scales=[0.5], horizontal_flip=True)
    both = test_time_augmentation.averaged(model, mirrored)(images).numpy()
    other_half = test_time_augmentation.averaged(model, given)(images[:, :, ::-1])[:, :, ::-1].numpy()
    np.testing.assert_allclose(both, (predicted + other_half) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "model", "views", "message"),
    [
        ("detection", {"name": "scratch_cnn"}, {"horizontal_flip": True}, r"cannot be averaged: remove the section"),
        (
            "segmentation",
            {"name": "scratch_cnn"},
            {"scales": [0.5]},
            r'scales requires a network .*"unet", or set .*\[\]',
        ),
        ("segmentation", UNET, {"scales": [1.02]}, r"scales: 1.02 gives the same size as 1, \[16, 24\] px: remove one"),
        ("segmentation", UNET, {"scales": [0.5, 1.5, 0.55]}, r"0.55 gives the same size as 0.5, \[8, 12\] px"),
        ("segmentation", UNET, {"scales": [0.1]}, r"greater than or equal to 0.25"),
    ],
)
def test_views_that_cannot_be_averaged(task, model, views, message):
    with pytest.raises(ValueError, match=message):
        options(task, model, **views)


def test_a_classifier_that_takes_any_size_averages_scales(images):
    given = options("classification", scales=[0.5])
    model = network_of(given)
    smaller = network_of(options("classification", size=(8, 12)))
    smaller.set_weights(model.get_weights())
    expected = (model(images) + smaller(tf.image.resize(images, (8, 12)))) / 2
    np.testing.assert_allclose(test_time_augmentation.averaged(model, given)(images), expected, atol=1e-5)


def test_sizes_follow_the_network_that_tuner_has_changed(tmp_path):
    configured = options(size=(32, 48), scales=[0.5])
    tuned = configured.model_copy(update={"model": configured.model.model_copy(update={"depth": 4})})
    assert (configured.view_sizes[1], tuned.view_sizes[1]) == ((16, 24), (16, 32))
    (tmp_path / features.OPTIONS_FILE).write_text(tuned.model_dump_json())
    assert stored_options.with_trained_network(configured, str(tmp_path)).view_sizes == tuned.view_sizes
    assert tuned.largest_view == (32, 48)


def test_sizes_without_padding_are_required():
    with pytest.raises(
        ValueError, match=r"test_time_augmentation.scales requires .* multiples of 4, .* set \[16, 24\]"
    ):
        options(size=(16, 25), scales=[0.5])
    assert options(size=(16, 25), horizontal_flip=True).test_time_augmentation.horizontal_flip


# === Explanations ===


def test_the_explanation_is_that_of_the_averaged_prediction(images):
    given = options("classification", {"name": "scratch_cnn"}, horizontal_flip=True)
    model = network_of(given)
    predictor = test_time_augmentation.averaged(model, given)
    assert find_layer(predictor) == find_layer(model)
    explanation = tasks.get("classification").explanation
    explained = grad_cam.explainer(predictor, explanation)(tf.constant(images))
    probabilities = tf.nn.softmax(predictor(images)).numpy()
    np.testing.assert_array_equal(explained.subject.class_ids, probabilities.argmax(-1))
    np.testing.assert_allclose(explained.score, probabilities.max(-1), atol=1e-5)
    # The positions are those of the unchanged image.
    subject = Subject(explained.subject.class_ids)
    plain = grad_cam.explainer(model, explanation)(tf.constant(images), subject)
    np.testing.assert_allclose(explained.heatmap, plain.heatmap, atol=1e-4)


# === Export ===


class _TransformLayer(tf.Module):
    """Replaces the transform graph."""

    def __call__(self, raw):
        encoded = tf.reshape(raw[features.MASK_ENCODED], [-1])
        masks = preprocessing.decode_masks(encoded, Geometry((16, 24), "stretch"), PADDING_ID)
        return {features.LABEL: preprocessing.pack(masks)}


def test_the_exported_model_averages_and_the_keras_file_does_not(tmp_path, images):
    given = options(scales=[1.5])
    model = network_of(given)
    # Without training, most pixels would be of one class.
    kernel, bias = model.get_layer(features.LOGITS_LAYER).get_weights()
    model.get_layer(features.LOGITS_LAYER).set_weights([kernel, bias - model(images).numpy().mean(axis=(0, 1, 2))])
    export.export(
        model,
        given,
        tft_layer=_TransformLayer(),
        raw_feature_spec={features.MASK_ENCODED: tf.io.FixedLenFeature([], tf.string)},
        serving_dir=str(tmp_path / "serving"),
        run_dir=str(tmp_path),
    )
    plain = keras.models.load_model(tmp_path / features.KERAS_FILE, compile=False)
    np.testing.assert_allclose(plain(images), model(images), atol=1e-4)

    predictor = test_time_augmentation.load(str(tmp_path / features.KERAS_FILE), given)
    files = [tf.io.encode_png(tf.cast(image, tf.uint8)).numpy() for image in images]
    masks = tf.argmax(predictor(images), -1).numpy()
    assert (masks != tf.argmax(plain(images), -1).numpy()).any()
    served = SessionModel(str(tmp_path / "serving"))
    outputs = served.run_on("serving_default", files)
    for encoded, mask in zip(outputs["mask_png_bytes"], masks, strict=True):
        assert (
            tf.io.decode_png(encoded)[..., 0].numpy() != mask
        ).mean() <= 1e-2  # equal logits of an untrained network
    served.close()

    examples = []
    for encoded, mask in zip(files, masks, strict=True):
        example = tf.train.Example()
        png = tf.io.encode_png(mask.astype(np.uint8)[..., None]).numpy()
        for key, value in ((features.IMAGE_ENCODED, encoded), (features.MASK_ENCODED, png)):
            example.features.feature[key].bytes_list.value.append(value)
        examples.append(example.SerializeToString())
    limits = ServingLimits()
    assert not checks.check_export(str(tmp_path / "serving"), predictor, given, examples, limits).failures()
    differing = checks.check_export(str(tmp_path / "serving"), plain, given, examples, limits).failures()
    assert {check.name for check in differing} == {
        f"{name} agrees with the Keras model" for name in ("serving_default", "examples")
    }
