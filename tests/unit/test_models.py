"""Conformance: what holds for every model in the folder."""

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from trainer_module import augmentation, features, models
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import AugmentationOptions, TrainerOptions, TransformOptions
from trainer_module.tasks import classification

STATISTICS = PixelStatistics(np.array([100.0, 110.0, 120.0], np.float32), np.array([900.0, 400.0, 2500.0], np.float32))
ALL_AUGMENTATIONS = AugmentationOptions(
    horizontal_flip=True, rotation=0.1, zoom=0.2, translation=0.2, contrast=0.3, brightness=0.2, random_erasing=0.5
)


def options(name: str, **sections) -> TrainerOptions:
    model, normalization = {"name": name}, "dataset"
    if models.get(name).Options().has_backbone():
        model, normalization = {"name": name, "weights": "none"}, "backbone"
    return TrainerOptions(
        classes=("a", "b", "c"),
        transform=TransformOptions(image_size=32, normalization=normalization),
        model=model,
        **sections,
    )


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


# Those that tell classes of whole pictures; masks have tests of their own.
CLASSIFIERS = [name for name in models.names() if models.get(name).Options.task == "classification"]


@pytest.fixture(params=CLASSIFIERS)
def name(request):
    return request.param


def test_shapes_and_named_layers(name, images):
    model = classification.build_model(options(name), STATISTICS)
    assert model(images).shape == (4, 3)
    assert len(model.get_layer(features.FEATURES_LAYER).output.shape) == 4
    assert len(model.get_layer(features.EMBEDDING_LAYER).output.shape) == 2


def test_the_keras_file_gives_the_same_numbers(name, images, tmp_path):
    model = classification.build_model(options(name), STATISTICS)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model(images), again(images))


def test_augmentation_is_off_outside_training_and_on_inside(name, images):
    model = classification.build_model(options(name), STATISTICS)
    fitted = augmentation.in_model(model, ALL_AUGMENTATIONS, seed=3)
    np.testing.assert_array_equal(model(images), fitted(images, training=False))
    np.testing.assert_array_equal(model(images), model(images))  # nothing random is in what is saved and exported
    assert {id(weight) for weight in model.weights} <= {id(weight) for weight in fitted.weights}
    different = [np.abs(fitted(images, training=True) - model(images, training=True)).max() for _ in range(3)]
    # A deep network with random weights answers very small numbers.
    assert min(different) > 1e-3 * min(1.0, float(np.abs(model(images)).max()))


def test_no_augmentation_is_the_model_itself(name):
    model = classification.build_model(options(name), STATISTICS)
    assert augmentation.in_model(model, AugmentationOptions(), seed=3) is model


def test_one_picture_alone_is_answered_as_in_a_batch(name, images):
    model = classification.build_model(options(name), STATISTICS)
    singly = np.concatenate([model(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(model(images), singly, atol=1e-5)


def test_every_trainable_weight_gets_a_gradient(name, images):
    import tensorflow as tf

    model = classification.build_model(options(name), STATISTICS)
    with tf.GradientTape() as tape:
        loss = classification.loss(options(name))(
            np.array([0, 1, 2, 0]), model(tf.cast(images, tf.float32), training=True)
        )
    gradients = tape.gradient(loss, model.trainable_weights)
    assert all(gradient is not None for gradient in gradients)


def test_an_unknown_key_is_refused(name):
    with pytest.raises(ValidationError, match="Extra inputs"):
        models.get(name).Options(no_such_key=1)


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown model 'vgg'\. Known models: .*scratch_cnn"):
        models.get("vgg")


def test_normalisation_by_the_data_sets_statistics(images):
    model = classification.build_model(options("scratch_cnn"), STATISTICS)
    normalized = model.get_layer("normalize")(images.astype(np.float32))
    expected = (images - STATISTICS.mean) / np.sqrt(STATISTICS.variance)
    np.testing.assert_allclose(normalized, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options_", "side"), [({}, 8), ({"blocks": [[4]]}, 32), ({"blocks": [[4], [4], [4], [4], [4], [4]]}, 1)]
)
def test_scratch_cnn_halves_the_picture_between_blocks(options_, side):
    sections = TrainerOptions(
        classes=("a", "b"), transform=TransformOptions(image_size=32), model={"name": "scratch_cnn", **options_}
    )
    model = classification.build_model(sections, STATISTICS)
    assert model.get_layer(features.FEATURES_LAYER).output.shape[1:3] == (side, side)
    assert sections.model.smallest_image() * side == 32


def test_scratch_cnn_default_size():
    # Kernel height x width x input channels x filters, no bias; 4 numbers a filter for batch normalisation.
    convolutions = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128)]
    expected = sum(9 * c_in * c_out + 4 * c_out for c_in, c_out in convolutions)
    expected += 128 * 256 + 256 + 256 * 3 + 3
    model = classification.build_model(options("scratch_cnn"), STATISTICS)
    in_normalisation = model.get_layer("normalize").count_params()
    assert model.count_params() - in_normalisation == expected
