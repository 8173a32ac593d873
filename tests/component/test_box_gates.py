"""Gates of a detector and of its dataset: every injected failure is refused by the intended gate, and by no other."""

import contextlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv

from components.example_validator import findings
from components.grad_cam import faithfulness_gate
from components.grad_cam.artifact import (
    BOX,
    HEATMAP,
    HEATMAPS_PREFIX,
    INSTANCE_ID,
    ExplanationIndex,
    FaithfulnessReport,
)
from components.image_example_gen import boxes, image_file, labels, raw_examples
from components.image_example_gen.boxes import Box
from components.image_example_gen.options import DataOptions
from components.schema_gen import curation
from components.schema_gen.options import SchemaOptions
from components.serving_validator import checks, graph_walk
from components.serving_validator.options import ServingLimits
from trainer_module import export, features, network, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.options import TrainerOptions
from trainer_module.session_model import SessionModel

CLASSES, SIZE, COUNT = ("cat", "dog"), 64, 6
PIXELS = PixelStatistics(np.full(3, 90.0, np.float32), np.full(3, 4000.0, np.float32))


def build(seed, options):
    keras.utils.set_random_seed(seed)
    return network.build(options, PIXELS)


class TransformLayer(tf.Module):
    """Stands in for Transform's graph; no gate before Pusher reads the label."""

    def __init__(self, max_objects):
        """Keeps the size of the label."""
        super().__init__()
        self.max_objects = max_objects

    def __call__(self, raw):
        """Returns an empty label."""
        return {features.LABEL: tf.zeros([raw[features.BOX_CLASSES].dense_shape[0], self.max_objects * 6])}


class Detector:
    """An untrained detector that detects something in every image, its export, and raw examples."""

    def __init__(self, root):
        """Exports it."""
        self.options = TrainerOptions(
            classes=CLASSES,
            transform={"image_size": SIZE},
            model={"name": "scratch_cnn", "blocks": [[4], [4], [8], [8]]},
            task={"name": "detection", "score_threshold": 0.0, "served_threshold": 0.0, "max_detections": 5},
            grad_cam={"faithfulness_steps": 2, "target": "true", "select": "everything", "least_certain": 0},
        )
        self.model = build(2, self.options)
        random = np.random.default_rng(4)
        self.examples = []
        for index in range(COUNT):
            pixels = random.integers(0, 90, (SIZE, SIZE + 16, 3), dtype=np.uint8)
            pixels[10:30, 10 : 20 + 5 * index] += 150
            encoded = tf.io.encode_png(pixels).numpy()
            objects = [Box(10 / 80, 10 / 64, (20 + 5 * index) / 80, 30 / 64, CLASSES[index % 2])]
            properties = image_file.examine(image_file.prepare(encoded, DataOptions()))
            label = boxes.raw_label(objects, height=SIZE, width=SIZE + 16)
            example = raw_examples.serialize(
                f"{index}.png", encoded, properties, label=label, slices=properties.slices()
            )
            self.examples.append(example)
        self.serving_dir, self.run_dir = str(root / "model"), str(root / "run")

        export.export(
            self.model,
            self.options,
            tft_layer=TransformLayer(self.options.transform.max_objects),
            raw_feature_spec={features.BOX_CLASSES: tf.io.VarLenFeature(tf.string)},
            serving_dir=self.serving_dir,
            run_dir=self.run_dir,
        )

    def refused(self, serving_dir="", model=None):
        """The checks of ServingValidator that fail, with their reasons."""
        report = checks.check_export(
            serving_dir or self.serving_dir, model or self.model, self.options, self.examples, ServingLimits()
        )
        return {check.name: check.detail for check in report.checks if not check.passed}


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector(tmp_path_factory.mktemp("detector"))


# === ServingValidator ===

SERVING = "serving_default agrees with the Keras model"


def assign(name, value):
    return lambda response: response.update({name: value(response[name])})


FAULTS = {
    "x before y": (assign("detection_boxes", lambda v: v[..., [1, 0, 3, 2]]), "largest difference"),
    "corners exchanged": (assign("detection_boxes", lambda v: v[..., [2, 3, 0, 1]]), "largest difference"),
    "pixels": (assign("detection_boxes", lambda v: v * SIZE), "largest difference"),
    "centres": (
        assign("detection_boxes", lambda v: np.concatenate([(v[..., :2] + v[..., 2:]) / 2, v[..., 2:]], axis=-1)),
        "largest difference",
    ),
    "classes from 0": (assign("detection_classes", lambda v: v - 1), "detection_labels do not belong"),
    "classes from 2": (assign("detection_classes", lambda v: v + 1), "detection_labels do not belong"),
    "other names": (
        lambda r: r.update(detection_labels=np.where(r["detection_labels"] == b"cat", b"dog", b"cat")),
        "detection_labels do not belong",
    ),
    "logits": (assign("detection_scores", lambda v: np.log(v / (1 - v))), "largest difference"),
    "not a number": (assign("detection_scores", lambda v: np.full_like(v, np.nan)), "largest difference"),
    "fewer detections": (assign("num_detections", lambda v: v * 0.0), "no counterpart"),
    "no scores": (lambda r: r.pop("detection_scores"), "missing outputs: detection_scores"),
    "no names": (lambda r: r.pop("detection_labels"), "missing outputs: detection_labels"),
    "images exchanged": (assign("detection_boxes", lambda v: v[::-1]), "largest difference"),
}


def test_serving_validator_passes_a_good_export_and_refuses_every_wrong_response(detector, monkeypatch):
    """One loaded model responds to all faults."""
    assert detector.refused() == {}
    served = SessionModel(detector.serving_dir)
    run_on = served.run_on
    monkeypatch.setattr(checks, "SessionModel", lambda _: served)
    monkeypatch.setattr(served, "close", lambda: None)
    # What does not depend on the response is computed once.
    images = [checks._image_of(example) for example in detector.examples]
    expected = tasks.get("detection").predict(detector.model, detector.options, images)
    monkeypatch.setattr(tasks.TaskSpec, "predict", lambda *_: expected)
    monkeypatch.setattr(graph_walk, "not_allowed", lambda *_: [])
    responses = {}
    for name, (fault, reason) in FAULTS.items():

        def faulty(signature, values, fault=fault):
            if signature not in responses and len(values) == COUNT:
                responses[signature] = run_on(signature, values)
            response = dict(responses[signature])
            if signature == features.SERVING_DEFAULT:
                fault(response)
            return response

        monkeypatch.setattr(served, "run_on", faulty)
        refused = detector.refused()
        assert refused.keys() == {SERVING} and reason in refused[SERVING], (name, refused)


def test_serving_validator_refuses_other_weights(detector):
    refused = detector.refused(model=build(3, detector.options))
    assert refused.keys() == {SERVING, "examples agrees with the Keras model"}


def test_serving_validator_refuses_a_forbidden_operation(detector, tmp_path):
    shutil.copytree(detector.serving_dir, tmp_path / "model")
    saved = graph_walk.read(str(tmp_path / "model"))
    saved.meta_graphs[0].graph_def.node.add(name="custom", op="PyFunc")
    (tmp_path / "model" / "saved_model.pb").write_bytes(saved.SerializeToString())
    refused = detector.refused(str(tmp_path / "model"))
    assert refused.keys() == {"only allowed operations"} and "PyFunc" in refused["only allowed operations"]


# === GradCam ===


@pytest.fixture(scope="module")
def faithfulness_report(detector, run_grad_cam, tmp_path_factory):
    """Runs GradCam with a bound that no model reaches."""
    options = with_thresholds(detector.options, energy_inside=0.999, pointing_game=0.0)
    root = tmp_path_factory.mktemp("grad_cam")
    folder, explanations = run_grad_cam(detector.examples, detector.run_dir, root, options)
    return FaithfulnessReport.read(str(folder)), explanations


def with_thresholds(options, **thresholds):
    return options.model_copy(update={"grad_cam": options.grad_cam.model_copy(update={"thresholds": thresholds})})


def test_grad_cam_refuses_a_detector_that_looks_beside_the_boxes(faithfulness_report):
    report, artifact = faithfulness_report
    assert [failure.metric.name for failure in report.failures()] == ["energy_inside"]
    assert not report.blessed and artifact.get_int_custom_property("blessed") == 0
    counts = {result.metric.name: result.count for result in report.results}
    assert counts["pointing_game"] == counts["energy_inside"] == COUNT


def test_grad_cam_explains_every_detection_and_so_does_the_export(detector, run_grad_cam, tmp_path):
    chosen = {"target": "predicted", "most_confident_right": 50, "most_confident_wrong": 50, "faithfulness_sample": 7}
    options = detector.options.model_copy(update={"grad_cam": detector.options.grad_cam.model_copy(update=chosen)})
    folder, _ = run_grad_cam(detector.examples, detector.run_dir, tmp_path, options)
    entries, report = ExplanationIndex.read(str(folder)).predictions, FaithfulnessReport.read(str(folder))
    assert report.num_predictions == 7
    with contextlib.closing(SessionModel(detector.serving_dir)) as served:
        images = [checks._image_of(example) for example in detector.examples]
        detections, explained = (
            served.run_on(signature, images) for signature in (features.SERVING_DEFAULT, features.EXPLAIN_DETECTIONS)
        )
    np.testing.assert_array_equal(explained["boxes"], detections["detection_boxes"][:, :4])
    np.testing.assert_array_equal(explained["labels"], detections["detection_labels"][:, :4])
    np.testing.assert_allclose(explained["scores"], detections["detection_scores"][:, :4], atol=1e-6)
    # Objects of one class have heat maps of their own: of equal ones, the position would be that of the best.
    assert len(np.unique(explained["heatmaps"].round(3), axis=1)[0]) > 1
    files = sorted(map(str, folder.glob(f"{HEATMAPS_PREFIX}*.gz")))
    stored = [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files, "GZIP")]
    assert len(stored) == 5 * COUNT == len(entries)
    for index in range(COUNT):
        of_image = [e.features.feature for e in stored if name_of(e) == f"{index}.png"]
        drawn = [entry for entry in entries if entry.filename == f"{index}.png"]
        assert len({feature[INSTANCE_ID].int64_list.value[0] for feature in of_image}) == 5
        assert len({entry.overlay for entry in drawn}) == 5
        for box, heatmap, png in zip(
            *(explained[key][index] for key in ("boxes", "heatmaps", "overlay_png_bytes")), strict=True
        ):
            feature = min(of_image, key=lambda each, box=box: np.abs(each[BOX].float_list.value - box).sum())
            np.testing.assert_allclose(feature[BOX].float_list.value, box, atol=1e-5)
            np.testing.assert_allclose(np.reshape(feature[HEATMAP].float_list.value, [SIZE, SIZE]), heatmap, atol=1e-4)
            entry = min(drawn, key=lambda each, box=box: np.abs(np.array(each.box) - box).sum())
            assert entry.box == pytest.approx(box, abs=1e-5)
            # The white line of the outline, in the overlay of the server.
            overlay = tf.io.decode_png(png).numpy()
            top, left, bottom, right = np.round(box * [SIZE, SIZE + 16, SIZE, SIZE + 16]).astype(int)
            if bottom - top > 2 and right - left > 2:
                assert (overlay[top + 1, left + 1 : right - 1] == 255).all()


def name_of(example):
    return example.features.feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()


@pytest.mark.parametrize("name", ["pointing_game", "energy_inside"])
def test_each_metric_of_localisation_has_its_own_gate(detector, name):
    means = {metric: (0.4, 10) for metric in ("pointing_game", "energy_inside")}
    for bound, refused in ((0.5, [name]), (0.3, [])):
        report = faithfulness_gate.report(with_thresholds(detector.options, **{name: bound}), "test", means)
        assert [failure.metric.name for failure in report.failures()] == refused


# === ExampleValidator ===


def raw_features(rng, num, *, sides=(20, 40), count=2, names=CLASSES, size=100, **changes):
    """Features of images with boxes; `changes` replaces values by key."""
    for index in range(num):
        low = rng.uniform(0, size - max(sides), (count, 2))
        high = low + rng.uniform(*sides, (count, 2))
        objects = [
            Box(x, y, right, bottom, names[(index + number) % len(names)])
            for number, ((x, y), (right, bottom)) in enumerate(zip(low / size, high / size, strict=True))
        ]
        label = boxes.raw_label(objects, height=size, width=size) | changes
        feature = tf.train.Example().features.feature
        for key, values in label.items():
            kind = {"string": "bytes_list", "float32": "float_list", "int64": "int64_list"}[features.BOX_DTYPES[key]]
            encoded = [value.encode() if isinstance(value, str) else value for value in values]
            getattr(feature[key], kind).value.extend(encoded)
        yield feature


COUNTED = [name for name in labels.BOX_LABEL if name not in curation.UNCOUNTED_LABELS]


def statistics(examples):
    from tensorflow_data_validation.statistics import stats_impl
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    from components.example_validator import drift

    options = tfdv.StatsOptions(feature_allowlist=COUNTED, num_quantiles_histogram_buckets=drift.NUM_QUANTILES)
    serialized = [
        tf.train.Example(features=tf.train.Features(feature=dict(one))).SerializeToString() for one in examples
    ]
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(serialized)
    return stats_impl.generate_statistics_in_memory(
        batch.select([n for n in COUNTED if n in batch.schema.names]), options
    )


@pytest.fixture(scope="module")
def trained_on():
    """Statistics of a train split, and the schema of SchemaGen."""
    given = statistics(raw_features(np.random.default_rng(1), 150))
    options = SchemaOptions(domain_margin=0.5, label_features=labels.BOX_LABEL, single_valued_features=())
    return given, curation.curate(tfdv.infer_schema(given), [given], options, CLASSES)


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({}, None),
        ({"names": ("cat", "dog", "cow")}, features.BOX_CLASSES),
        ({features.BOX_SIZE: [1.5, 0.1]}, features.BOX_SIZE),
        ({features.BOX_ASPECT_RATIO: [-1.0, 2.0]}, features.BOX_ASPECT_RATIO),
        ({features.BOX_COUNT: [-1]}, features.BOX_COUNT),
        ({features.BOX_DIFFICULT: [0, 2]}, features.BOX_DIFFICULT),
        ({features.BOX_IS_CROWD: [7, 0]}, features.BOX_IS_CROWD),
    ],
)
def test_example_validator_refuses_boxes_that_do_not_match_the_schema(trained_on, rng, changes, feature):
    split = {"test": statistics(raw_features(rng, 40, **changes))}
    reported = findings.describe("anomaly", findings.validate(split, trained_on[1]))
    assert {finding.feature for finding in reported} == ({feature} if feature else set())


@pytest.mark.parametrize(
    ("changes", "drifted"),
    [
        ({}, set()),
        ({"sides": (70, 90)}, {features.BOX_SIZE}),
        ({"count": 7}, {features.BOX_COUNT}),
        ({"names": (*["cat"] * 7, "dog")}, {features.BOX_CLASSES}),
        ({features.BOX_ASPECT_RATIO: [5.0, 6.0]}, {features.BOX_ASPECT_RATIO}),
    ],
)
def test_boxes_drift_by_count_size_aspect_ratio_and_class(trained_on, rng, changes, drifted):
    before, schema = trained_on
    spans = {features.TRAIN: statistics(raw_features(rng, 150, **changes))}
    reported = findings.find_drift(spans, before, schema, 0.15)
    assert {finding.feature for finding in reported} == drifted
    skewed = findings.find_skew({features.TRAIN: before, "test": spans[features.TRAIN]}, 0.15)
    assert {finding.feature for finding in skewed} == drifted
