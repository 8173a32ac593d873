"""The U-Net: logits of every pixel at any image size, a backbone as encoder, export."""

import io
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pydantic import ValidationError

from components.serving_validator import checks
from components.serving_validator.options import ServingLimits
from trainer_module import backbones, export, features, models, preprocessing, tasks, training
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.mask_labels import PADDING_ID
from trainer_module.model_input import Geometry
from trainer_module.models import unet
from trainer_module.network import build as build_network
from trainer_module.options import AugmentationOptions, TrainerOptions, TransformOptions
from trainer_module.session_model import SessionModel

STATISTICS = PixelStatistics(np.array([100.0, 110.0, 120.0], np.float32), np.array([900.0, 400.0, 2500.0], np.float32))
CLASSES = ("road", "car", "tree")


def options(size=16, **sections):
    model = {"name": "unet", "depth": 2, "filters": 4} | sections.pop("model", {})
    normalization = "backbone" if model.get("encoder") else "dataset"
    transform = TransformOptions(image_size=size, normalization=normalization)
    task = {"name": "segmentation"} | sections.pop("task", {})
    return TrainerOptions(classes=CLASSES, transform=transform, model=model, task=task, **sections)


def build(given):
    return build_network(given, STATISTICS)


def test_tasks_by_name():
    assert tasks.get("segmentation").name == "segmentation"
    assert tasks.names() == ["classification", "detection", "multi_label", "segmentation"]
    with pytest.raises(ValueError, match="Unknown task 'detections'"):
        tasks.get("detections")


@pytest.mark.parametrize("size", [8, 13, 16, 31])
@pytest.mark.parametrize("depth", [1, 4])
def test_every_pixel_has_logits_at_any_image_size(rng, size, depth):
    model = build(options(size, model={"depth": depth}))
    assert model(rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8)).shape == (2, size, size, 3)
    bottleneck = model.get_layer(features.FEATURES_LAYER).output
    assert bottleneck.shape[1:] == (-(-size // 2**depth), -(-size // 2**depth), 4 * 2**depth)


def test_padding_does_not_shift_the_image():
    # A diagonal in the image must be on the same diagonal of the logits, also of a network with random weights.
    keras.utils.set_random_seed(0)
    given = options(13, model={"depth": 1, "block_dropout": 0.0}, augmentation=AugmentationOptions())
    model = build(given)
    response = tf.abs(
        model(np.eye(13)[np.newaxis, ..., np.newaxis] * 255 * np.ones(3)) - model(np.zeros((1, 13, 13, 3)))
    )
    strength = response.numpy().sum(axis=-1)[0]
    assert np.trapezoid(strength.diagonal()) > np.trapezoid(np.fliplr(strength).diagonal())


def test_the_keras_file_has_the_same_predictions(rng, tmp_path):
    images = rng.integers(0, 256, (2, 13, 13, 3), dtype=np.uint8)
    model = build(options(13))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model(images), again(images))


def test_every_trainable_weight_gets_a_gradient(rng):
    given = options()
    model = build(given)
    with tf.GradientTape() as tape:
        logits = model(rng.integers(0, 256, (2, 16, 16, 3)).astype(np.float32), training=True)
        loss = tasks.get(given.task.name).loss(given)(rng.integers(0, 3, (2, 16, 16)), logits)
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_weights))


# --- A backbone as encoder --------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """A small backbone in place of the registered ones; its weights are always random."""
    layers = keras.layers

    def build(*, image_size, weights):
        x = inputs = keras.Input([*image_size, 3])
        for level in range(5):
            x = layers.Conv2D(4, 3, strides=2, padding="same", name=f"stage{level}_conv")(x)
            x = layers.BatchNormalization(name=f"stage{level}_bn")(x)
            x = layers.ReLU(name=f"stage{level}")(x)
        return keras.Model(inputs, x)

    def skips(model):
        return [model.get_layer(f"stage{level}").output for level in range(4)]

    record = types.SimpleNamespace(build=build, skips=skips, skip_strides=(2, 4, 8, 16))
    monkeypatch.setattr(backbones, "names", lambda: ["tiny"])
    monkeypatch.setattr(backbones, "get", lambda _: record)


def with_encoder(size=32, weights="imagenet", **sections):
    model = {"encoder": "tiny", "encoder_weights": weights, "filters": 2} | sections.pop("model", {})
    return options(size, model=model, ignore_id=255, **sections)


def trained(model):
    """Names of the encoder's layers with trainable weights."""
    return [layer.name for layer in model.get_layer(features.BACKBONE_LAYER).layers if layer.trainable_weights]


CONVOLUTIONS = [f"stage{level}_conv" for level in range(5)]
NORMS = [f"stage{level}_bn" for level in range(5)]


def test_the_decoder_reads_the_maps_of_the_encoder(tiny, rng, tmp_path):
    model = build(with_encoder(40))
    images = rng.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    assert model(images).shape == (2, 40, 40, 3)
    assert "normalize" not in {layer.name for layer in model.layers}
    assert model.get_layer(features.FEATURES_LAYER).output.shape[1:] == (2, 2, 4)
    maps = [model.get_layer(f"skip{level}").input[0].shape[1] for level in range(5)]
    assert maps == [64, 32, 16, 8, 4]  # one per level; the map at full size is not from the backbone
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(model(images), again(images))


@pytest.mark.parametrize(
    ("weights", "how", "begins", "names"),
    [
        ("imagenet", "frozen_first", True, []),
        ("imagenet", "from_start", False, CONVOLUTIONS),
        ("none", "frozen_first", False, [*CONVOLUTIONS, *NORMS]),
        ("none", "from_start", False, [*CONVOLUTIONS, *NORMS]),
    ],
)
def test_trainable_layers_of_the_encoder_at_the_start(tiny, weights, how, begins, names):
    given = with_encoder(weights=weights, model={"encoder_training": how})
    assert given.model.begins_frozen() == begins
    assert sorted(trained(build(given))) == sorted(names)


def test_unfrozen_layers_are_counted_from_the_end(tiny):
    model = build(with_encoder())
    for num_layers, names in ((3, CONVOLUTIONS[4:]), (6, CONVOLUTIONS[3:]), (1000, CONVOLUTIONS), (0, [])):
        models.unfreeze(model, num_layers)
        assert trained(model) == names


def test_two_phases(tiny, tmp_path, eagerly):
    keras.utils.set_random_seed(1)
    epoch = {"epochs": 1, "learning_rate": 0.01}
    given = with_encoder(training={"batch_size": 8, **epoch}, fine_tuning={"unfreeze_layers": 3, **epoch})
    model = build(given)
    encoder, logits = model.get_layer(features.BACKBONE_LAYER), model.get_layer(features.LOGITS_LAYER)
    before = [np.array(weight) for weight in [*encoder.weights, *logits.weights]]
    data = squares(8, 32)
    with eagerly():
        history = training.train(model, given, train_data=data, validation_data=data, run_dir=str(tmp_path)).history
    assert history["phase"] == ["head", "fine_tuning"]
    assert history["val_loss"][1] < history["val_loss"][0]  # otherwise the weights of the first phase are restored
    after = [*encoder.weights, *logits.weights]
    changed = [weight.path for weight, old in zip(after, before, strict=True) if not np.array_equal(weight, old)]
    assert [path.split("/")[-2] for path in changed] == ["stage4_conv"] * 2 + [features.LOGITS_LAYER] * 2


def test_a_pre_trained_encoder_uses_its_learned_statistics_in_training(tiny, rng):
    images = rng.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    for how in ("frozen_first", "from_start"):
        encoder = build(with_encoder(model={"encoder_training": how})).get_layer(features.BACKBONE_LAYER)
        np.testing.assert_array_equal(encoder(images, training=True)[-1], encoder(images, training=False)[-1])
    encoder = build(with_encoder(weights="none")).get_layer(features.BACKBONE_LAYER)
    assert np.abs(encoder(images, training=True)[-1] - encoder(images, training=False)[-1]).max() > 0.01


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_only_an_encoder_that_starts_frozen_can_be_fine_tuned(tiny, weights):
    how = "frozen_first" if weights == "none" else "from_start"
    with pytest.raises(ValidationError, match="no backbone that starts frozen"):
        with_encoder(weights=weights, model={"encoder_training": how}, fine_tuning={"epochs": 1})


STRIDES = (2, 4, 8, 16)


@pytest.mark.parametrize("name", [name for name in backbones.names() if backbones.get(name).skip_strides == STRIDES])
def test_every_backbone_with_maps_is_an_encoder(name):
    # That the maps have the right sizes is tested of the backbones themselves.
    assert unet.Options(encoder=name).smallest_image() == 32


def test_the_error_for_missing_weights_names_the_key():
    with pytest.raises(
        backbones.MissingWeightsError, match=r"no weights file '/nowhere\.h5'. model\.encoder_weights is"
    ):
        build(options(32, model={"encoder": "mobilenet_v2", "encoder_weights": "/nowhere.h5"}))


@pytest.mark.parametrize("name", ["vgg16", "saved_model", "_weights"])
def test_an_encoder_requires_a_backbone_with_maps(name):
    with pytest.raises(ValidationError, match=f"the backbone `{name}` cannot be an encoder; known: densenet121"):
        unet.Options(encoder=name)


# --- Training ---------------------------------------------------------------------------------------------------


def squares(count, size=16, ignore_id=255):
    """Bright squares (car) on a dark ground (road), one column of unknown pixels."""
    rng = np.random.default_rng(5)
    images, masks = rng.integers(0, 60, (count, size, size, 3)), np.zeros((count, size, size), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        row, column = rng.integers(0, size - 6, 2)
        image[row : row + 6, column : column + 6] += 150
        mask[row : row + 6, column : column + 6] = 1
    masks[:, :, 0] = ignore_id
    return tf.data.Dataset.from_tensor_slices((images.astype(np.uint8), masks)).batch(8)


def test_training_learns_squares(tmp_path):
    keras.utils.set_random_seed(1)
    given = options(
        ignore_id=255,
        task={"loss": "cross_entropy_dice", "class_weights": "balanced"},
        augmentation=AugmentationOptions(horizontal_flip=True, translation=0.1, contrast=0.1),
        training={"epochs": 6, "batch_size": 8, "learning_rate": 0.01},
    )
    history = training.train(
        build(given), given, train_data=squares(48), validation_data=squares(16), run_dir=str(tmp_path)
    ).history
    assert history["val_mean_iou"][-1] > 0.8
    assert history["val_iou/car"][-1] > 0.7
    header = (tmp_path / features.HISTORY_FILE).read_text().splitlines()[0]
    assert {"val_pixel_accuracy", "val_dice", "val_iou/road", "val_dice/car", "mean_iou"} <= set(header.split(","))


# --- Resizing ---------------------------------------------------------------------------------------------------


def png(ids):
    buffer = io.BytesIO()
    Image.fromarray(ids).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(24, 24), (7, 11), (100, 37), (16, 16)])
def test_masks_take_the_nearest_pixel(rng, shape):
    ids = rng.integers(0, 256, shape, dtype=np.uint8)
    resized = preprocessing.decode_masks(tf.constant([png(ids)]), Geometry.of(16), PADDING_ID).numpy()[0]
    rows, columns = (np.floor((np.arange(16) + 0.5) * side / 16).astype(int) for side in shape)
    np.testing.assert_array_equal(resized, ids[np.ix_(rows, columns)])


@pytest.mark.parametrize("side", [48, 40, 9])
def test_a_resized_mask_is_aligned_with_its_resized_image(side):
    # The right part is bright and of class 1. The brightness is half where the class changes, within a pixel.
    image = np.zeros((side, side, 3), np.uint8)
    image[:, side // 3 :] = 255
    mask = (image[..., 0] // 255).astype(np.uint8)
    pixels = preprocessing.decode_and_resize(tf.constant([png(image)]), Geometry.of(16), 3).numpy()[0, :, :, 0]
    ids = preprocessing.decode_masks(tf.constant([png(mask)]), Geometry.of(16), PADDING_ID).numpy()[0]
    assert np.abs((pixels > 127).sum(axis=1) - ids.sum(axis=1)).max() <= 1
    assert (ids[:, pixels[0] == 0] == 0).all() and (ids[:, pixels[0] == 255] == 1).all()


# --- Export -----------------------------------------------------------------------------------------------------


class _TransformLayer(tf.Module):
    """Replaces the transform graph."""

    def __call__(self, raw):
        masks = preprocessing.decode_masks(raw[features.MASK_ENCODED], Geometry.of(13), PADDING_ID)
        return {features.LABEL: preprocessing.pack(masks), features.PIXEL_MEAN: tf.zeros([tf.shape(masks)[0], 3])}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An untrained network for images that are padded, with four examples."""
    keras.utils.set_random_seed(2)
    given = options(13)
    model = build(given)
    root = tmp_path_factory.mktemp("unet")
    spec = {features.MASK_ENCODED: tf.io.FixedLenFeature([], tf.string)}
    serving_dir = str(root / "serving")
    export.export(
        model, given, tft_layer=_TransformLayer(), raw_feature_spec=spec, serving_dir=serving_dir, run_dir=str(root)
    )
    rng = np.random.default_rng(4)
    examples = []
    for side in (13, 20, 26, 9):
        example = tf.train.Example()
        image, mask = rng.integers(0, 256, (side, side, 3), dtype=np.uint8), rng.integers(0, 3, (side, side))
        example.features.feature[features.IMAGE_ENCODED].bytes_list.value.append(png(image))
        example.features.feature[features.MASK_ENCODED].bytes_list.value.append(png(mask.astype(np.uint8)))
        examples.append(example.SerializeToString())
    return given, model, serving_dir, examples


def test_responses_of_a_session_equal_those_of_the_network(exported):
    given, model, serving_dir, examples = exported
    served = SessionModel(serving_dir)
    assert set(served.signatures) == {"serving_default", "examples", "transform_features", "explain", "embed"}
    images = [checks._image_of(example) for example in examples]
    response = served.run_on("serving_default", images)
    assert set(response) == {"mask_png_bytes", "class_pixels"}
    masks = [np.asarray(Image.open(io.BytesIO(encoded))) for encoded in response["mask_png_bytes"]]
    for mask, expected in zip(masks, tasks.get(given.task.name).predict(model, given, images), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert masks[0].dtype == np.uint8
    np.testing.assert_array_equal(response["class_pixels"], [np.bincount(mask.ravel(), minlength=3) for mask in masks])
    alone = served.run_on("examples", examples[1:2])
    assert alone["mask_png_bytes"][0] == response["mask_png_bytes"][1]
    embedding = served.run_on("embed", images)["embedding"]
    assert embedding.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)
    label = served.run_on("transform_features", examples)["label"]
    truth = tf.train.Example.FromString(examples[0]).features.feature[features.MASK_ENCODED].bytes_list.value[0]
    np.testing.assert_array_equal(Image.open(io.BytesIO(label[0])), Image.open(io.BytesIO(truth)))
    assert [Image.open(io.BytesIO(png)).size for png in label] == [mask.shape[::-1] for mask in masks]
    served.close()


def test_serving_validator_compares_masks(exported):
    given, model, serving_dir, examples = exported
    valid = checks.check_export(serving_dir, model, given, examples, ServingLimits())
    assert [check.detail for check in valid.failures()] == []
    assert len(valid.checks) == 9
    other = keras.models.clone_model(model)
    report = checks.check_export(serving_dir, other, given, examples, ServingLimits())
    refused = {check.name: check.detail for check in report.failures()}
    assert set(refused) == {"serving_default agrees with the Keras model", "examples agrees with the Keras model"}
    assert all("of the pixels differ, allowed 0.0001" in detail for detail in refused.values())


def test_the_tolerance_is_a_share_of_the_pixels(exported):
    given, _, _, _ = exported
    masks = np.zeros((1, 50, 50), np.uint8)
    response = {"mask_png_bytes": [png(masks[0])], "class_pixels": np.array([[2500, 0, 0]])}
    expected = masks.copy()
    expected[0, 0, 0] = 2
    task = tasks.get(given.task.name).export
    assert task.compare(response, expected, given, 1e-3)[0]
    assert not task.compare(response, expected, given, 1e-4)[0]
    inconsistent = response | {"class_pixels": np.array([[2499, 1, 0]])}
    assert task.compare(inconsistent, masks, given, 1e-3) == (False, "class_pixels do not belong to the masks", None)
