"""Images of several shapes and a model input that is not square, from TFRecords to a served model."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image

from components import compared_predictions
from components.grad_cam.artifact import ExplanationIndex
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from trainer_module import features, keras_file, preprocessing, stored_options, tasks
from trainer_module.model_input import limited
from trainer_module.session_model import SessionModel
from trainer_module.tasks import _signatures

CLASSES = ("dark", "light")
SHAPES = ((30, 48), (48, 30), (24, 24), (20, 64))
INPUT = (32, 48)


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, how its images are resized, and its overrides."""

    task: str
    resize: str
    overrides: tuple[str, ...]


# Classification has labels without positions, as multi-label classification has, and is served the same way.
CASES = (
    Case("multi_label", "crop", ("model.blocks=[[4],[4]]", "data.labels_per_image=any")),
    Case("segmentation", "pad", ("model.name=unet", "model.depth=2", "model.filters=4")),
    Case(
        "detection",
        "crop",
        (
            *("model.blocks=[[4],[4],[8],[8]]", "task.max_detections=5"),
            *("task.score_threshold=0.0", "task.served_threshold=0.0"),
        ),
    ),
)


def label_of(task, mask, class_id):
    """The label features of an image with one object, whose pixels are 1 in the mask."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    box = [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]
    return {
        "multi_label": {features.CLASS_TEXT: list(CLASSES[: class_id + 1])},
        "segmentation": {features.MASK_ENCODED: [tf.io.encode_png(mask[..., np.newaxis]).numpy()]},
        "detection": {
            **{key: [float(value)] for key, value in zip(features.BOX_CORNERS, box, strict=True)},
            features.BOX_CLASSES: [CLASSES[class_id]],
        },
    }[task]


def write_dataset(root, task):
    """Forty images with a rectangle, in one TFRecord file."""
    random = np.random.default_rng(5)
    with tf.io.TFRecordWriter(str(root / "images.tfrecord")) as writer:
        for index in range(40):
            height, width = SHAPES[index % 4]
            class_id = index % 2
            mask = np.zeros((height, width), np.uint8)
            mask[2 : 2 + random.integers(6, 14), 3 : 3 + random.integers(6, 14)] = 1
            pixels = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
            pixels[mask == 1] += np.uint8(60 + 120 * class_id)
            label = {features.IMAGE_ENCODED: [tf.io.encode_png(pixels).numpy()], **label_of(task, mask, class_id)}
            feature = {}
            for key, values in label.items():
                if isinstance(values[0], float):
                    feature[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
                else:
                    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
                    feature[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.task}-{case.resize}")
def run(request, tmp_path_factory):
    """Runs the pipeline as far as the explanations: the case, the folder of artifacts, and the outcome."""
    case = request.param
    root = tmp_path_factory.mktemp(case.task)
    (root / "data").mkdir()
    write_dataset(root / "data", case.task)
    overrides = [
        *(f"task.name={case.task}", f"transform.image_size={list(INPUT)}", f"transform.resize={case.resize}"),
        *("training.epochs=1", "training.batch_size=8", "data.classes=['dark','light']", f"pipeline.root={root}"),
        *("grad_cam.faithfulness_sample=4", "grad_cam.faithfulness_steps=2", *case.overrides),
    ]
    loaded = loading.load("images", data=str(root / "data"), overrides=overrides)
    outcome = local_run.execute(loaded, dataset.prepare(loaded), to_node="GradCam")
    assert outcome.error is None
    return case, loaded.run_dir / "artifacts", outcome


@pytest.fixture(scope="module")
def served(run):
    """The exported model, in a session; the raw examples of the test split, parsed and serialized."""
    _, artifacts, _ = run
    (shard,) = artifacts.glob("ImageExampleGen/examples/*/Split-test/*")
    serialized = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    session = SessionModel(str(next(artifacts.glob("Trainer/model/*/Format-Serving"))))
    yield session, serialized, [tf.train.Example.FromString(record).features.feature for record in serialized]
    session.close()


def images_of(examples):
    return [example[features.IMAGE_ENCODED].bytes_list.value[0] for example in examples]


def sizes_of(examples):
    return [tasks.TaskSpec.image_size(example) for example in examples]


def test_training_and_serving_see_the_same_pixels(run, served):
    case, artifacts, _ = run
    _, serialized, examples = served
    output = tft.TFTransformOutput(str(next(artifacts.glob("Transform/transform_graph/*"))))
    raw = tf.io.parse_example(serialized, output.raw_feature_spec())
    transformed = output.transform_features_layer()(raw)
    options = stored_options.read(str(next(artifacts.glob("Trainer/model_run/*"))))
    assert options.transform.geometry == ((32, 48), case.resize)
    trained = preprocessing.unpack(transformed[features.IMAGE_PIXELS], INPUT, 3)
    requested = _signatures.read_images(tf.constant(images_of(examples)), options)
    np.testing.assert_array_equal(trained, requested.pixels)
    np.testing.assert_array_equal(requested.sizes, sizes_of(examples))
    # The label that training reads is that of the components, which read raw examples.
    task = tasks.get(case.task)
    np.testing.assert_array_equal(
        task.read_label(transformed, options.transform),
        task.labels([task.raw_label(example) for example in examples], sizes_of(examples), options),
    )


def test_responses_refer_to_the_original_images(run, served):
    case, artifacts, outcome = run
    session, serialized, examples = served
    run_dir = str(next(artifacts.glob("Trainer/model_run/*")))
    options, task = stored_options.read(run_dir), tasks.get(case.task)
    model = keras_file.load(f"{run_dir}/{features.KERAS_FILE}")
    encoded = images_of(examples)
    expected = task.predict(model, options, encoded)
    for signature, values in ((features.SERVING_DEFAULT, encoded), (features.EXAMPLES, serialized)):
        agreement = task.export.compare(session.run_on(signature, values), expected, options, 1e-4)
        assert agreement.passed, agreement.detail
    explained = session.run_on(features.EXPLAIN, encoded)
    assert explained["heatmap"].shape == (len(examples), *INPUT)
    overlays = [Image.open(io.BytesIO(png)).size[::-1] for png in explained["overlay_png_bytes"]]
    assert overlays == sizes_of(examples)
    if features.EXPLAIN_DETECTIONS in session.signatures:
        detections, explained = (
            session.run_on(name, encoded) for name in (features.SERVING_DEFAULT, features.EXPLAIN_DETECTIONS)
        )
        exists = explained["class_ids"] >= 0
        assert exists.any()
        np.testing.assert_allclose(
            explained["boxes"][exists], detections["detection_boxes"][:, : exists.shape[1]][exists], atol=1e-6
        )
        names = [example[features.IMAGE_FILENAME].bytes_list.value[0].decode() for example in examples]
        boxes = dict(zip(names, detections["detection_boxes"], strict=True))
        (index,) = artifacts.glob("GradCam/explanations/*")
        entries = [entry for entry in ExplanationIndex.read(str(index)).predictions if entry.filename in boxes]
        assert entries and all(np.abs(boxes[entry.filename] - entry.box).max(axis=-1).min() < 1e-5 for entry in entries)
    assert outcome.result.evaluation.candidate[0].examples == len(examples)


@pytest.mark.parametrize("run", [CASES[1]], indirect=True, ids=["segmentation"])
def test_masks_are_evaluated_in_the_size_of_the_images(run, served):
    _, _, outcome = run
    session, serialized, examples = served
    response = session.run_on(features.SERVING_DEFAULT, images_of(examples))
    truth = session.run_on(features.TRANSFORM_FEATURES, serialized)[features.LABEL]
    masks, labels = (
        [np.asarray(Image.open(io.BytesIO(png))) for png in pngs] for pngs in (response["mask_png_bytes"], truth)
    )
    assert [mask.shape for mask in masks] == [label.shape for label in labels] == sizes_of(examples)
    np.testing.assert_array_equal(response["class_pixels"], [np.bincount(mask.ravel(), minlength=2) for mask in masks])
    flat, flat_labels = (np.concatenate([mask.ravel() for mask in each]) for each in (masks, labels))
    metrics = outcome.result.evaluation.candidate[0].metrics
    assert metrics["pixel_accuracy"] == pytest.approx((flat == flat_labels).mean(), abs=1e-6)


@pytest.mark.parametrize("run", [CASES[2]], indirect=True, ids=["detection"])
def test_objects_that_crop_removes_are_evaluated_but_not_learned(run, served):
    _, artifacts, outcome = run
    session, serialized, examples = served
    labels = session.run_on(features.TRANSFORM_FEATURES, serialized)[features.LABEL].reshape(len(examples), -1, 6)
    expected = [[example[key].float_list.value[0] for key in features.BOX_CORNERS] for example in examples]
    np.testing.assert_allclose(labels[:, 0, :4], expected, atol=1e-6)
    assert sum(outcome.result.evaluation.candidate[0].support.values()) == len(examples)
    options = stored_options.read(str(next(artifacts.glob("Trainer/model_run/*"))))
    task = tasks.get("detection")
    trained = task.labels([task.raw_label(example) for example in examples], sizes_of(examples), options).numpy()
    # In wide images, the crop removes the object near the left edge, or part of it.
    assert (trained[..., 4] >= 0).sum() < (labels[..., 4] >= 0).sum()


@pytest.mark.parametrize("run", CASES[1:], indirect=True, ids=["segmentation", "detection"])
def test_compared_predictions_are_those_of_the_original_images(run, served):
    case, artifacts, _ = run
    session, _, examples = served
    run_dir = str(next(artifacts.glob("Trainer/model_run/*")))
    comparer = compared_predictions.Comparer(f"{run_dir}/{features.KERAS_FILE}", stored_options.read(run_dir))
    compared = list(comparer.compare(examples))
    # The longest side of the model input is 48 pixels.
    expected = [limited(size, 48) for size in sizes_of(examples)]
    assert [each.image(3).shape[:2] for each in compared] == expected
    assert {(30, 48), (48, 30), (24, 24), (15, 48)} >= set(expected) and len(set(expected)) > 1
    response = session.run_on(features.SERVING_DEFAULT, images_of(examples))
    for index, each in enumerate(compared):
        if case.task == "segmentation" and expected[index] == sizes_of(examples)[index]:
            mask = np.asarray(Image.open(io.BytesIO(response["mask_png_bytes"][index])))
            assert (each.prediction != mask).mean() < 1e-3
            truth = Image.open(io.BytesIO(examples[index][features.MASK_ENCODED].bytes_list.value[0]))
            np.testing.assert_array_equal(each.label, np.asarray(truth))
        if case.task == "detection":
            boxes = each.prediction[each.prediction[:, 4] >= 0][:, :4]
            served_boxes = response["detection_boxes"][index][: len(boxes)]
            np.testing.assert_allclose(boxes, served_boxes, atol=1e-4)
            box = [examples[index][key].float_list.value[0] for key in features.BOX_CORNERS]
            np.testing.assert_allclose(each.label[0, :4], box, atol=1e-6)
