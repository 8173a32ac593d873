"""GradCam: selection, stored heat maps, faithfulness and its gate, compared with the algorithms themselves."""

import functools
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tfx.components.pusher import executor as tfx_pusher

import components
from components.grad_cam import artifact as stored_keys
from components.grad_cam import faithfulness_gate, index_page
from components.grad_cam.artifact import (
    ExplainedPrediction,
    ExplanationIndex,
    FaithfulnessReport,
    SelectionReason,
)
from components.image_example_gen import image_file, raw_examples
from components.image_example_gen.options import DataOptions
from components.pusher import executor as pusher
from components.stored import IncompatibleArtifactError
from trainer_module import faithfulness, features, grad_cam, preprocessing, tasks
from trainer_module.input_pipeline import PixelStatistics
from trainer_module.model_input import Geometry
from trainer_module.network import build as build_network
from trainer_module.options import TrainerOptions, TransformOptions
from trainer_module.tasks import Subject

SLICES = ("brightness", "camera")
CLASSIFICATION, SEGMENTATION = (tasks.get(name) for name in ("classification", "segmentation"))
METRICS = {metric.name: metric for metric in faithfulness.METRICS}


def with_cameras(serialized):
    """The same examples, each with one of two cameras."""
    for index, record in enumerate(serialized):
        example = tf.train.Example.FromString(record)
        example.features.feature["slice/camera"].bytes_list.value[:] = [b"<front>" if index % 4 else b"rear"]
        yield example.SerializeToString()


@pytest.fixture(scope="module")
def run_executor(run_grad_cam):
    """Returns the folder and the artifact; with the slices of this file."""
    return functools.partial(run_grad_cam, slices=SLICES)


def heatmaps_in(folder, side=16):
    """Reads the stored heat maps, by file name and explained class."""
    spec = {
        features.IMAGE_FILENAME: tf.io.FixedLenFeature([], tf.string),
        features.IMAGE_SHA256: tf.io.FixedLenFeature([], tf.string),
        stored_keys.CLASS_ID: tf.io.FixedLenFeature([], tf.int64),
        stored_keys.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string),
        stored_keys.PREDICTED_TEXT: tf.io.FixedLenFeature([], tf.string),
        stored_keys.SCORE: tf.io.FixedLenFeature([], tf.float32),
        stored_keys.IS_CORRECT: tf.io.FixedLenFeature([], tf.int64),
        stored_keys.HEATMAP: tf.io.FixedLenFeature([side, side], tf.float32),
        stored_keys.HEIGHT: tf.io.FixedLenFeature([], tf.int64),
        stored_keys.WIDTH: tf.io.FixedLenFeature([], tf.int64),
    }
    files = sorted(map(str, folder.glob(f"{stored_keys.HEATMAPS_PREFIX}*.gz")))
    records = tf.data.TFRecordDataset(files, "GZIP").map(lambda record: tf.io.parse_single_example(record, spec))
    rows = list(records.as_numpy_iterator())
    by_prediction = {(row[features.IMAGE_FILENAME].decode(), int(row[stored_keys.CLASS_ID])): row for row in rows}
    assert len(by_prediction) == len(rows)
    return by_prediction


def shown_size(encoded):
    """Height and width of a written image: enlarged by a whole factor, so that no side is smaller than 224."""
    width, height = Image.open(io.BytesIO(encoded)).size
    factor = -(-224 // min(height, width))
    return height * factor, width * factor


def entries_in(folder):
    return ExplanationIndex.read(str(folder)).predictions


def report_in(folder):
    return FaithfulnessReport.read(str(folder))


def options_with(options, **changes):
    return options.model_copy(update={"grad_cam": options.grad_cam.model_copy(update=changes)})


# --- Whole images ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tiny_model):
    return list(with_cameras(tiny_model.examples))


@pytest.fixture(scope="module")
def explained(tiny_model, examples, tmp_path_factory, run_executor):
    options = options_with(tiny_model.options, most_confident_right=2, most_confident_wrong=1, faithfulness_sample=5)
    return run_executor(examples, tiny_model.run_dir, tmp_path_factory.mktemp("explain"), options)


def test_the_most_informative_predictions_of_every_class_and_slice_are_selected(tiny_model, examples, explained):
    folder, artifact = explained
    p = np.stack(CLASSIFICATION.predict(tiny_model.model, tiny_model.options, tiny_model.image_bytes))
    truth, best = np.array([0, 1, 2] * 4), np.sort(p, axis=1)
    right, margin = p.argmax(axis=1) == truth, best[:, -1] - best[:, -2]
    groups = {f"class = {name}": truth == index for index, name in enumerate(tiny_model.options.classes)}
    parsed = [tf.train.Example.FromString(record).features.feature for record in examples]
    for key in SLICES:
        values = np.array([feature[f"slice/{key}"].bytes_list.value[0].decode() for feature in parsed])
        groups |= {f"{key} = {value}": values == value for value in set(values)}
    names = [feature[features.IMAGE_FILENAME].bytes_list.value[0].decode() for feature in parsed]
    expected = set()
    for group, inside in groups.items():
        for why, among, order, count in (
            (stored_keys.CONFIDENT_RIGHT, right, -best[:, -1], 2),
            (stored_keys.CONFIDENT_WRONG, ~right, -best[:, -1], 1),
            (stored_keys.UNCERTAIN, np.full(12, True), margin, 1),
        ):
            chosen = sorted(np.flatnonzero(inside & among), key=lambda index: order[index])[:count]
            expected |= {(names[index], group, why, rank) for rank, index in enumerate(chosen, start=1)}
    entries = entries_in(folder)
    assert {(e.filename, r.group, r.criterion, r.rank) for e in entries for r in e.reasons} == expected
    assert {entry.correct for entry in entries} == {True, False}
    assert len({entry.filename for entry in entries}) == len(entries)
    assert artifact.get_int_custom_property("explained") == len(entries)


def test_written_heat_maps_equal_those_of_the_algorithm(tiny_model, explained):
    folder, _ = explained
    explain, stored = grad_cam.explainer(tiny_model.model, CLASSIFICATION.explanation), heatmaps_in(folder)
    entries = entries_in(folder)
    assert {entry.filename for entry in entries} == {name for name, _ in stored}
    for entry in entries:
        index = int(entry.filename.split("/")[1].removesuffix(".png"))
        pixels = preprocessing.decode_and_resize(tf.constant([tiny_model.image_bytes[index]]), Geometry.of(16), 3)
        expected = explain(pixels)
        class_id = int(expected.subject.class_ids[0])
        row = stored[entry.filename, class_id]
        np.testing.assert_allclose(row[stored_keys.HEATMAP], expected.heatmap[0], atol=1e-4)
        assert row[stored_keys.SCORE] == pytest.approx(float(expected.score[0]), abs=1e-4)
        assert (row[stored_keys.HEIGHT], row[stored_keys.WIDTH]) == (16, 16)
        assert row[stored_keys.IS_CORRECT] == entry.correct
        name = tiny_model.options.classes[class_id]
        assert row[stored_keys.CLASS_TEXT].decode() == entry.predicted == entry.explained == name
        assert entry.score == pytest.approx(float(expected.score[0]), abs=1e-4)
        written = np.asarray(Image.open(folder / entry.heatmap)) / 255.0
        shown = shown_size(tiny_model.image_bytes[index])
        resized = tf.image.resize(expected.heatmap[0][..., tf.newaxis], shown)[..., 0]
        np.testing.assert_allclose(written, resized, atol=1e-2)
        for path in (entry.image, entry.overlay):
            assert np.asarray(Image.open(folder / path)).shape == (*shown, 3)


def test_the_served_explanations_are_the_components(tiny_model, tiny_session, explained):
    folder, _ = explained
    response = tiny_session.run_on("explain", tiny_model.image_bytes)
    overlays = {entry.filename: folder / entry.overlay for entry in entries_in(folder)}
    for (name, class_id), row in heatmaps_in(folder).items():
        index = int(name.split("/")[1].removesuffix(".png"))
        np.testing.assert_allclose(row[stored_keys.HEATMAP], response["heatmap"][index], atol=1e-4)
        assert response["class_id"][index] == class_id
        assert response["label"][index] == row[stored_keys.CLASS_TEXT]
        assert response["score"][index] == pytest.approx(row[stored_keys.SCORE], abs=1e-4)
        served = np.asarray(Image.open(io.BytesIO(response["overlay_png_bytes"][index]))).astype(int)
        factor = shown_size(tiny_model.image_bytes[index])[0] // len(served)
        # The centres of the squares that the written overlay shows for each pixel; the heat differs by half a pixel.
        written = np.asarray(Image.open(overlays[name]))[factor // 2 :: factor, factor // 2 :: factor].astype(int)
        assert served.shape == written.shape and np.mean(np.abs(served - written) > 24) < 0.05


def test_faithfulness_is_measured_on_a_sample_by_digest(tiny_model, examples, explained):
    folder, artifact = explained
    report = report_in(folder)
    parsed = [tf.train.Example.FromString(record).features.feature for record in examples]
    digests = [feature[features.IMAGE_SHA256].bytes_list.value[0] for feature in parsed]
    drawn = sorted(range(12), key=lambda index: digests[index])[:5]
    pixels = preprocessing.decode_and_resize(
        tf.constant([tiny_model.image_bytes[i] for i in drawn]), Geometry.of(16), 3
    )
    explanation = grad_cam.explainer(tiny_model.model, CLASSIFICATION.explanation)(pixels)
    measure = faithfulness.measurer(tiny_model.model, CLASSIFICATION.explanation, report.steps)
    measured = measure(pixels, explanation, None)
    assert {result.metric.name for result in report.results} == measured.keys()
    for result in report.results:
        name = result.metric.name
        expected = float(np.mean(measured[name]))
        assert result.value == pytest.approx(expected, abs=1e-4)
        assert (result.count, result.bound, result.passed) == (5, None, None)
        assert result.metric.description == METRICS[name].description
        assert artifact.get_float_custom_property(name) == pytest.approx(expected, abs=1e-4)
    assert report.num_predictions == 5 and report.blessed
    assert artifact.get_int_custom_property("blessed") == 1
    assert artifact.get_int_custom_property("current_model_id") == 42


def test_values_that_tuner_changes_do_not_matter(
    tiny_model, examples, explained, tmp_path, other_numbers, run_executor
):
    # The component receives the configuration as it was before Tuner ran.
    same = other_numbers.model_copy(
        update={"grad_cam": options_with(tiny_model.options, most_confident_wrong=1, faithfulness_sample=5).grad_cam}
    )
    folders = [explained[0], run_executor(examples, tiny_model.run_dir, tmp_path, same)[0]]
    one, other = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")} for folder in folders)
    assert one == other and len(one) > 3
    assert entries_in(folders[0]) == entries_in(folders[1])


def test_every_image_for_one_class_and_a_gate_that_refuses(tiny_model, examples, tmp_path, run_executor):
    options = options_with(
        tiny_model.options,
        target="red",
        select="everything",
        method="grad_cam_plus_plus",
        layer="block1_relu1",
        most_confident_right=0,
        most_confident_wrong=1,
        least_certain=0,
        thresholds={"insertion_auc": 0.99, "deletion_auc": 1.0},
    )
    folder, artifact = run_executor(examples, tiny_model.run_dir, tmp_path, options, slices=())
    stored = heatmaps_in(folder)
    assert len(stored) == 12 and {class_id for _, class_id in stored} == {2}
    explain = grad_cam.explainer(tiny_model.model, CLASSIFICATION.explanation, "grad_cam_plus_plus", "block1_relu1")
    for (name, _), row in stored.items():
        index = int(name.split("/")[1].removesuffix(".png"))
        pixels = preprocessing.decode_and_resize(tf.constant([tiny_model.image_bytes[index]]), Geometry.of(16), 3)
        np.testing.assert_allclose(
            row[stored_keys.HEATMAP], explain(pixels, Subject(tf.constant([2]))).heatmap[0], atol=1e-4
        )
    assert {r.criterion for entry in entries_in(folder) for r in entry.reasons} == {stored_keys.CONFIDENT_WRONG}
    report = report_in(folder)
    (failure,) = report.failures()
    assert failure.metric.name == "insertion_auc" and "must be at least 0.99" in failure.detail
    assert not report.blessed and artifact.get_int_custom_property("blessed") == 0
    page = (folder / stored_keys.PAGE_FILE).read_text()
    assert "✗ refused: ≥ 0.99" in page and "Grad-CAM++" in page


def test_without_faithfulness_nothing_is_measured(tiny_model, examples, tmp_path, run_executor):
    options = options_with(tiny_model.options, target="true", faithfulness=False)
    folder, _ = run_executor(examples, tiny_model.run_dir, tmp_path, options)
    assert report_in(folder).results == () and "Faithfulness" not in (folder / stored_keys.PAGE_FILE).read_text()
    assert all(entry.explained == entry.label for entry in entries_in(folder))


# --- Masks ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """An untrained network for masks of three classes, eight images, and the folder of its Keras file."""
    keras.utils.set_random_seed(4)
    options = TrainerOptions(
        classes=("ground", "box", "disc"),
        ignore_id=255,
        transform=TransformOptions(image_size=16),
        model={"name": "unet", "depth": 1, "filters": 4},
        task={"name": "segmentation"},
        grad_cam={"faithfulness_steps": 2, "least_certain": 0},
    )
    model = build_network(options, PixelStatistics(np.full(3, 90.0, np.float32), np.full(3, 900.0, "f")))
    random = np.random.default_rng(9)
    images, masks, written = [], [], []
    for index in range(8):
        pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        mask = np.zeros((16, 16), np.uint8)
        mask[2:8, 2 : 4 + index] = 1 + index % 2
        mask[:, 0] = 255
        pixels[mask == 1] += 120
        encoded = [tf.io.encode_png(image).numpy() for image in (pixels, mask[..., np.newaxis])]
        properties = image_file.examine(image_file.prepare(encoded[0], DataOptions(max_pixels=10_000)))
        label = {features.MASK_ENCODED: [encoded[1]]}
        example = raw_examples.serialize(
            f"{index}.png", encoded[0], properties, label=label, slices=properties.slices()
        )
        images.append(pixels)
        masks.append(mask)
        written.append(example)
    run_dir = tmp_path_factory.mktemp("masked") / "run"
    run_dir.mkdir()
    model.save(run_dir / features.KERAS_FILE)
    return options, model, np.stack(images), np.stack(masks), written, str(run_dir)


def test_with_masks_the_largest_predicted_class_is_explained(masked, tmp_path, run_executor):
    options, model, images, masks, examples, run_dir = masked
    folder, _ = run_executor(examples, run_dir, tmp_path, options_with(options, select="everything"))
    expected = grad_cam.explainer(model, SEGMENTATION.explanation)(tf.constant(images))
    stored = heatmaps_in(folder)
    assert len(stored) == 8
    predicted = model(images, training=False).numpy().argmax(axis=-1)
    for index in range(8):
        class_id = int(expected.subject.class_ids[index])
        row = stored[f"{index}.png", class_id]
        np.testing.assert_allclose(row[stored_keys.HEATMAP], expected.heatmap[index], atol=1e-4)
        region, truth = (predicted[index] == class_id) & (masks[index] != 255), masks[index] == class_id
        assert row[stored_keys.IS_CORRECT] == ((region & truth).sum() / (region | truth).sum() >= 0.5)
    results = {result.metric.name: result for result in report_in(folder).results}
    inside = masks == expected.subject.class_ids.numpy()[:, np.newaxis, np.newaxis]
    probe = faithfulness.Probe(tf.constant(images), expected.heatmap, tf.constant(inside), lambda images: None, 2)
    for name in ("pointing_game", "energy_inside"):
        values, result = METRICS[name].compute(probe).numpy(), results[name]
        assert result.count == np.sum(~np.isnan(values))
        assert result.value == (pytest.approx(np.nanmean(values), abs=1e-4) if result.count else None)
    assert "Seg-Grad-CAM" in (folder / stored_keys.PAGE_FILE).read_text()


def test_with_masks_every_true_class_can_be_explained_in_its_region(masked, tmp_path, run_executor):
    options, model, images, masks, examples, run_dir = masked
    options = options_with(options, target="true", select="everything", thresholds={"energy_inside": 1.0})
    folder, artifact = run_executor(examples, run_dir, tmp_path, options)
    stored = heatmaps_in(folder)
    pairs = [(index, class_id) for index in range(8) for class_id in (0, 1 + index % 2)]
    assert stored.keys() == {(f"{index}.png", class_id) for index, class_id in pairs}
    pixels, class_ids = images[[i for i, _ in pairs]], np.array([c for _, c in pairs])
    regions = masks[[i for i, _ in pairs]] == class_ids[:, np.newaxis, np.newaxis]
    explain = grad_cam.explainer(model, SEGMENTATION.explanation)
    expected = explain(tf.constant(pixels), Subject(tf.constant(class_ids), tf.constant(regions)))
    for (index, class_id), heatmap in zip(pairs, expected.heatmap, strict=True):
        np.testing.assert_allclose(stored[f"{index}.png", class_id][stored_keys.HEATMAP], heatmap, atol=1e-4)
    pointing = next(result for result in report_in(folder).results if result.metric.name == "pointing_game")
    assert pointing.count == len(pairs) and pointing.passed is None
    assert [result.metric.name for result in report_in(folder).failures()] == ["energy_inside"]
    assert artifact.get_int_custom_property("blessed") == 0


# --- The gate before Pusher -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("others", "faithful", "pushes"), [(True, 1, True), (True, 0, False), (False, 1, False)])
def test_pusher_waits_for_grad_cam(monkeypatch, others, faithful, pushes):
    monkeypatch.setattr(tfx_pusher.Executor, "CheckBlessing", lambda self, input_dict: others)
    explanations = components.GradCamExplanations()
    explanations.set_int_custom_property("blessed", faithful)
    assert pusher.Executor().CheckBlessing({"explanations": [explanations]}) is pushes


def test_an_undefined_metric_fails_every_bound():
    undefined = faithfulness_gate.compare(METRICS["pointing_game"], None, 0.5)
    assert undefined.passed is False and "pointing_game is undefined: nothing that the sample" in undefined.detail
    assert faithfulness_gate.compare(METRICS["average_drop"], (0.2, 3), 0.2).passed is True
    assert faithfulness_gate.compare(METRICS["average_drop"], (0.21, 3), 0.2).passed is False
    assert faithfulness_gate.compare(METRICS["insertion_auc"], (0.2, 3), 0.2).passed is True
    assert faithfulness_gate.compare(METRICS["insertion_auc"], (0.19, 3), 0.2).passed is False
    assert faithfulness_gate.compare(METRICS["insertion_auc"], (0.19, 3), None).passed is None


@pytest.mark.parametrize("kind", [ExplanationIndex, FaithfulnessReport])
def test_files_of_another_version_are_refused(tmp_path, kind):
    (tmp_path / kind.FILE).write_text("[]")
    with pytest.raises(
        IncompatibleArtifactError, match=rf"{kind.FILE} cannot be read .* its format is none, expected 1"
    ):
        kind.read(str(tmp_path))


# --- The page ---------------------------------------------------------------------------------------------------


def test_names_on_the_page_are_text_not_markup(tiny_model):
    options = tiny_model.options.model_copy(update={"classes": ("<script>alert(1)</script>", "b")})
    entry = ExplainedPrediction(
        label=options.classes[0],
        correct=False,
        filename='"><img src=x onerror=alert(1)>.png',
        predicted="b",
        explained="b",
        score=0.9,
        empty=False,
        reasons=[SelectionReason(group="camera = <b>", criterion=stored_keys.UNCERTAIN, rank=1)],
        image="p.png",
        overlay="o.png",
        heatmap="h.png",
    )
    report = FaithfulnessReport(split="test", method="grad_cam", layer="", steps=2, num_predictions=0, results=())
    page = index_page.render(ExplanationIndex(predictions=(entry,)), report, options)
    assert "<script>" not in page and "<img src=x" not in page and "camera = <b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_every_selected_prediction_is_on_the_page_once_per_section(explained):
    folder, _ = explained
    page = (folder / stored_keys.PAGE_FILE).read_text()
    for entry in entries_in(folder):
        assert page.count(entry.overlay) == len({reason.group for reason in entry.reasons})
    assert "camera = &lt;front&gt;" in page and "insertion auc" in page
