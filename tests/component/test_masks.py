"""Segmentation from files to a served model: images and masks, metrics, explanations, both protocols."""

import base64
import csv
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.image_example_gen.class_list import CLASSES_FILE
from pipeline.cli.app import app
from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import dataset, local_run
from trainer_module import features
from trainer_module.session_model import SessionModel


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Thirty images whose bright region is class 1, with a border of ignored pixels; 12 bits in files of 16."""
    import tensorflow as tf

    root = tmp_path_factory.mktemp("data") / "street"
    rng = np.random.default_rng(8)
    for index in range(30):
        mask = np.zeros((20, 24), np.uint8)
        mask[5 : rng.integers(8, 18), 5 : rng.integers(8, 22)] = 1
        image = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8) + mask[..., np.newaxis] * 150
        mask[:, :2] = 255
        deep = image.astype(np.uint16) * 16 + rng.integers(0, 16, image.shape, dtype=np.uint16)
        for folder, pixels in (("images", deep), ("masks", mask[..., np.newaxis])):
            path = root / folder / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    (root / CLASSES_FILE).write_text("road\ncar\n255 ignored\n")
    return root


def load(street, *overrides):
    overrides = ["training.epochs=2", "training.batch_size=4", *overrides]
    overrides += ["transform.image_size=18", f"pipeline.root={street.parent / 'runs'}"]
    loaded = loading.load("images", data=str(street), overrides=overrides)
    return loaded, dataset.prepare(loaded)


UNET = ("task.name=segmentation", "model.name=unet", "model.depth=2", "model.filters=4", "task.class_weights=balanced")


@pytest.mark.parametrize(
    ("model", "to_node", "message"),
    [
        ((), None, r"requires one class per image, .*has a mask per image\. Use --set task\.name=segmentation"),
        ((), "Trainer", "has a mask per image"),
    ],
)
def test_an_unsuitable_task_is_refused_before_anything_runs(street, model, to_node, message):
    with pytest.raises(ConfigError, match=message):
        local_run.execute(*load(street, *(model or ["model.blocks=[[4], [4]]"])), to_node=to_node)


def test_segmentation_refuses_images_without_masks(class_folders):
    root = class_folders({"a": 3, "b": 3})
    loaded = loading.load("images", data=str(root), overrides=[UNET[0]])
    with pytest.raises(ConfigError, match=r"requires a mask per image, .* has one class per image"):
        local_run.execute(loaded, dataset.prepare(loaded), to_node="Trainer")


EVALUATION = (
    "evaluation.thresholds={mean_iou=0.0}",
    # Two epochs are not enough to beat them.
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
    "evaluation.min_slice_examples=1",
    "grad_cam.faithfulness_sample=4",
    "evaluation.label_groups={vehicles=['car'], ground=['road']}",
    'evaluation.slices=["brightness", "label_group", ["brightness", "orientation"]]',
)


@pytest.fixture(scope="module")
def run(street):
    """Runs the whole pipeline: the configuration and the outcome."""
    loaded, inspected = load(street, *UNET, *EVALUATION)
    assert (inspected.classes, inspected.ignore_id) == (("road", "car"), 255)
    return loaded, local_run.execute(loaded, inspected)


def test_from_files_to_a_served_model(run):
    loaded, outcome = run
    assert (outcome.error, outcome.exit_code) == (None, 0)
    nodes = [node.id for node in outcome.nodes]
    assert {"ServingValidator", "Evaluator", "GradCam"} == set(nodes[-6:-3])
    assert nodes[-3:] == ["Pusher", "ModelReport", "MonitoringReference"]
    assert outcome.result.num_explained and outcome.result.faithfulness.blessed
    values = outcome.result.faithfulness.values
    assert run_output(outcome).model_dump()["faithfulness"] == values and "pointing_game" in values
    assert outcome.result.servable is True and outcome.result.blessed is True
    assert all(check.passed for check in outcome.result.checks)
    assert (Path(loaded.model_base_path) / str(outcome.result.pushed_version) / "saved_model.pb").is_file()
    report = (loaded.run_dir / "report.html").read_text()
    assert "Worst predictions" in report and report.count("data:image/") >= 12 and len(report) < 5_000_000
    assert f"Pushed as version {outcome.result.pushed_version}" in report


def test_requests_are_decoded_like_the_images_of_training(run, street):
    """Sends the files of 16 bits themselves, of which 12 are used; the examples contain 8 bits."""
    import tensorflow as tf

    loaded, outcome = run
    warning, *_ = run_output(outcome).warnings
    assert run_output(outcome).bit_depth == 12
    assert warning.startswith("30 images have 16 bits per channel and are read as 12 bits (detected from the largest")
    artifacts = loaded.run_dir / "artifacts"
    assert warning.split(":")[0] in (loaded.run_dir / "report.html").read_text()
    (shard,) = artifacts.glob("ImageExampleGen/examples/*/Split-test/*")
    serialized = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    features_of = [tf.train.Example.FromString(record).features.feature for record in serialized]
    names = [feature[features.IMAGE_FILENAME].bytes_list.value[0].decode() for feature in features_of]
    files = [(street / name).read_bytes() for name in names]
    assert all(
        file != feature[features.IMAGE_ENCODED].bytes_list.value[0]
        for file, feature in zip(files, features_of, strict=True)
    )
    served = SessionModel(str(next(artifacts.glob("Trainer/model/*/Format-Serving"))))
    from_examples, from_files = served.run_on("examples", serialized), served.run_on("serving_default", files)
    embeddings = [
        served.run_on("embed", contents)["embedding"]
        for contents in (files, [feature[features.IMAGE_ENCODED].bytes_list.value[0] for feature in features_of])
    ]
    served.close()
    assert from_examples["mask_png_bytes"].tolist() == from_files["mask_png_bytes"].tolist()
    np.testing.assert_allclose(*embeddings, atol=1e-6)


def test_mask_metrics_equal_a_direct_count(run):
    """Compares every slice with numpy on the responses of the exported model; the border is ignored."""
    import tensorflow as tf

    loaded, outcome = run
    artifacts = loaded.run_dir / "artifacts"
    (shard,) = artifacts.glob("ImageExampleGen/examples/*/Split-test/*")
    serialized = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    served = SessionModel(str(next(artifacts.glob("Trainer/model/*/Format-Serving"))))
    predicted = served.run_on("examples", serialized)["mask_png_bytes"]
    truth = served.run_on("transform_features", serialized)["label"]
    served.close()
    truth, predicted = (
        np.stack([np.asarray(Image.open(io.BytesIO(png))) for png in encoded]) for encoded in (truth, predicted)
    )
    features_of = [tf.train.Example.FromString(record).features.feature for record in serialized]
    slices = {"all": np.full(len(serialized), True)}
    for key, names in (("slice/brightness", ("dark", "normal", "bright")), ("mask/class/text", ("car", "road"))):
        for name in names:
            inside = np.array([name.encode() in feature[key].bytes_list.value for feature in features_of])
            title = f"brightness = {name}" if "slice" in key else {"car": "label_group = vehicles"}.get(name)
            slices |= {title or "label_group = ground": inside} if inside.any() else {}
            if "slice" in key and inside.any():  # every image is wider than high
                slices[f"brightness = {name}, orientation = landscape"] = inside
    evaluation = outcome.result.evaluation
    assert {slice_metrics.name for slice_metrics in evaluation.candidate} == set(slices)
    for slice_metrics in evaluation.candidate:
        inside = slices[slice_metrics.name]
        labels, predictions = truth[inside], predicted[inside]
        assert slice_metrics.examples == inside.sum()
        counted = labels != 255
        assert slice_metrics.metrics["pixel_accuracy"] == pytest.approx(
            (labels == predictions)[counted].mean(), abs=1e-6
        )
        ious, dices = [], []
        for class_id, name in enumerate(evaluation.classes):
            actual, guess = (labels == class_id) & counted, (predictions == class_id) & counted
            both, either = (actual & guess).sum(), (actual | guess).sum()
            ious.append(both / either if either else np.nan)
            dices.append(2 * both / (actual.sum() + guess.sum()) if either else np.nan)
            assert slice_metrics.class_metrics[name]["iou"] == pytest.approx(ious[-1], abs=1e-6, nan_ok=True)
            assert slice_metrics.class_metrics[name]["dice"] == pytest.approx(dices[-1], abs=1e-6, nan_ok=True)
            assert slice_metrics.support[name] == actual.sum()
            if slice_metrics.name == "all":
                assert slice_metrics.confusion_matrix[class_id] == [
                    (actual & (predictions == other)).sum() for other in range(2)
                ]
        assert slice_metrics.metrics["mean_iou"] == pytest.approx(np.nanmean(ious), abs=1e-6)
        assert slice_metrics.metrics["mean_dice"] == pytest.approx(np.nanmean(dices), abs=1e-6)


def test_served_explanations_equal_those_of_grad_cam(run):
    """Compares Seg-Grad-CAM of the largest class but the background with GradCam's files."""
    import tensorflow as tf

    from components.grad_cam import artifact

    loaded, outcome = run
    artifacts = loaded.run_dir / "artifacts"
    (shard,) = artifacts.glob("ImageExampleGen/examples/*/Split-test/*")
    images = {}
    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        (name,), (encoded,) = (feature[f"image/{key}"].bytes_list.value for key in ("filename", "encoded"))
        images[name] = encoded
    served = SessionModel(str(next(artifacts.glob("Trainer/model/*/Format-Serving"))))
    response = served.run_on("explain", list(images.values()))
    masks = served.run_on("serving_default", list(images.values()))["class_pixels"]
    served.close()
    np.testing.assert_array_equal(response["class_id"], (masks[:, 1] > 0).astype(int))
    names = [outcome.result.evaluation.classes[class_id].encode() for class_id in response["class_id"]]
    assert response["label"].tolist() == names
    for encoded, overlay in zip(images.values(), response["overlay_png_bytes"], strict=True):
        assert Image.open(io.BytesIO(overlay)).size == Image.open(io.BytesIO(encoded)).size
    (folder,) = artifacts.glob("GradCam/explanations/*")
    stored = tf.data.TFRecordDataset([str(path) for path in folder.glob("heatmaps*.gz")], "GZIP")
    heatmaps = [tf.train.Example.FromString(record).features.feature for record in stored.as_numpy_iterator()]
    assert heatmaps
    for feature in heatmaps:
        index = list(images).index(feature["image/filename"].bytes_list.value[0])
        heatmap = np.reshape(feature[artifact.HEATMAP].float_list.value, (18, 18))
        np.testing.assert_allclose(heatmap, response["heatmap"][index], atol=1e-4)
        assert feature[artifact.CLASS_ID].int64_list.value[0] == response["class_id"][index]
        assert feature[artifact.SCORE].float_list.value[0] == pytest.approx(response["score"][index], abs=1e-4)


def test_masks_are_served_over_both_protocols(run, street, running_server, tmp_path):
    loaded, _outcome = run
    images = sorted((street / "images").glob("1*.png"))[:3]
    with running_server("street", Path(loaded.model_base_path)) as server:
        ports = (f"--grpc=127.0.0.1:{server.grpc_port}", f"--rest=http://127.0.0.1:{server.rest_port}")
        masks = []
        for number, port in enumerate(ports):
            folder = tmp_path / str(number)
            command = ["segment", *map(str, images), "--output-dir", str(folder), port, "--model=street", "--json"]
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            rows = json.loads(done.stdout)["masks"]
            assert [row["image"] for row in rows] == list(map(str, images))
            masks.append([np.asarray(Image.open(row["mask"])) for row in rows])
            for mask, row in zip(masks[-1], rows, strict=True):
                assert mask.shape == (20, 24) and mask.dtype == np.uint8
                assert np.bincount(mask.ravel(), minlength=2).tolist() == row["class_pixels"]
        np.testing.assert_array_equal(*masks)
        refused = CliRunner().invoke(app, ["predict", str(images[0]), ports[0], "--model=street"])
        assert refused.exit_code == 1 and "the model's response has no `label` and `score`" in refused.stderr


def test_an_image_is_not_replaced_by_its_mask(street):
    image = street / "images" / "1.png"
    refused = CliRunner().invoke(app, ["segment", str(image), "--output-dir", str(image.parent)])
    assert refused.exit_code == 2 and "would be replaced by its own mask" in refused.stderr


def test_the_label_is_the_mask_of_the_file(run):
    loaded, _ = run
    artifacts = loaded.run_dir / "artifacts"
    (history,) = artifacts.glob("Trainer/model_run/*/history.csv")
    rows = list(csv.DictReader(history.read_text().splitlines()))
    assert len(rows) == 2
    assert 0.0 <= float(rows[-1]["val_mean_iou"]) <= 1.0
    (serving_dir,) = artifacts.glob("Trainer/model/*/Format-Serving")
    assert json.loads((serving_dir / "assets.extra" / "labels.json").read_text()) == ["road", "car"]

    import tensorflow as tf

    (shard,) = artifacts.glob("ImageExampleGen/examples/*/Split-train/*")
    (serialized,) = tf.data.TFRecordDataset(str(shard)).take(1).as_numpy_iterator()
    served = SessionModel(str(serving_dir))
    label = np.asarray(Image.open(io.BytesIO(served.run_on("transform_features", [serialized])["label"][0])))
    raw = tf.train.Example.FromString(serialized).features.feature[features.MASK_ENCODED].bytes_list.value[0]
    np.testing.assert_array_equal(label, np.asarray(Image.open(io.BytesIO(raw))))
    served.close()


# === The studio in a browser ===


@pytest.fixture(scope="module")
def studio(run, street, studio_browser, running_server, request_logs, tmp_path_factory):
    """Address of a studio with the model, a dataset that can have further spans, and a request log."""
    loaded, _ = run
    root = tmp_path_factory.mktemp("studio")
    shutil.copytree(street, root / "spans" / "1")
    overrides = [*UNET, f"pipeline.root={loaded.pipeline.root}", f"pipeline.name={loaded.pipeline.name}"]
    config = loading.load("images", data=f"{root}/spans/{{SPAN}}", overrides=[*overrides, "data.spans=all"])
    log = request_logs.LogWriter(root / "requests" / "street")
    rng = np.random.default_rng(4)
    for number in range(4):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
        pixels[4:12, 6 : 10 + 3 * number] += 150
        Image.fromarray(pixels).save(buffer, "PNG")
        log.add(1000.0 + number, [buffer.getvalue()], {}, model=config.model_name)
    log.close()
    with running_server(config.model_name, Path(config.model_base_path)) as server:
        options = studio_browser.options(server, configs=(config,), request_log=root / "requests" / "street")
        with studio_browser.serve(options) as address:
            yield config, address


def test_masks_are_shown_by_class(studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    config, address = studio
    page = open_page(address)
    page.goto(f"/p/{config.pipeline.name}/images/1")
    (tmp_path / "image.png").write_bytes(page.request.get(f"{page.url}/file").body())
    view = studio_browser.predict(page, page.get_by_role("link", name="Try this image").click)
    shares = {row["name"]: row["share"] for row in view["mask"]["classes"]}
    overlay = page.locator("#columns .overlay")
    expect(overlay).to_have_attribute("aria-label", f"Mask: {view['summary']}")
    painted = {name: 0 for name in shares}
    total = overlay.evaluate("(canvas) => canvas.width * canvas.height")
    for name in shares:
        for other in shares:
            page.locator("#class-toggles").get_by_label(other).set_checked(other == name)
        painted[name] = studio_browser.overlay_pixels(page) / total
    assert painted == pytest.approx(shares, abs=1e-3)
    page.locator("#opacity").fill("30")
    assert overlay.evaluate("(canvas) => canvas.style.opacity") == "0.3"
    studio_browser.assert_accessible(page)
    page.locator("#overlay").select_option("heatmap")
    expect(page.locator("#class-toggles")).to_be_hidden()

    # The code below the image returns the same mask.
    printed = studio_browser.run_snippets(page, tmp_path)
    shown = base64.b64decode(view["mask"]["png"])
    (by_curl,) = json.loads(printed["curl"])["predictions"]
    assert base64.b64decode(by_curl["mask_png_bytes"]["b64"]) == shown == (tmp_path / "mask.png").read_bytes()
    (by_command,) = (tmp_path / "masks").glob("*.png")
    np.testing.assert_array_equal(
        *(np.asarray(Image.open(io.BytesIO(content))) for content in (shown, by_command.read_bytes()))
    )


def test_masks_of_a_request_log_are_accepted_or_sent_to_cvat(studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    config, address = studio
    page = open_page(address)
    page.goto(f"/p/{config.pipeline.name}/correct")
    studio_browser.choose_images(page, 3)
    expect(page.locator("#item-proposed")).to_have_text("a mask")
    studio_browser.assert_accessible(page)
    assert not page.get_by_role("link", name="selected.csv").count()  # it cannot contain masks
    studio_browser.wait_until(page, "document.getElementById('photo').naturalWidth > 24")
    page.keyboard.press("k")
    expect(page.locator("#review-text")).to_contain_text("1 of 3")
    page.get_by_role("button", name="Write the next span").click()
    expect(page.locator("#span-state")).to_contain_text("span 2: 1 image in")
    spans = Path(config.data.path).parent
    (accepted,) = (spans / "2" / "masks").iterdir()
    with Image.open(accepted) as mask:
        assert mask.size == (24, 20)
    with page.expect_download() as download:
        page.get_by_role("link", name="cvat_annotations.xml").click()
    document = ElementTree.parse(download.value.path())
    for image in document.iter("image"):  # a person has looked at all of them
        ElementTree.SubElement(image, "tag", {"label": "reviewed", "source": "manual"})
    document.write(tmp_path / "annotations.xml")
    (selection,) = (config.run_dir / "studio" / "selections").iterdir()
    (tmp_path / "street.toml").write_text(loading.as_toml(config))
    done = CliRunner().invoke(
        app, ["label", str(tmp_path / "street.toml"), str(tmp_path / "annotations.xml"), "--images", str(selection)]
    )
    assert done.exit_code == 0, done.output
    assert len(list((spans / "3" / "masks").iterdir())) == 2


def test_masks_of_the_dataset_are_drawn_again(studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    config, address = studio
    page = open_page(address)
    page.goto(f"/p/{config.pipeline.name}/images/1")
    page.get_by_role("link", name="Correct its label").click()
    expect(page.locator("#item-reason")).to_have_text("chosen by hand")
    filename = page.locator("#photo-link").inner_text()
    page.keyboard.press("r")
    expect(page.locator("#review-text")).to_contain_text("1 draw again")
    section = page.locator("#redraw-files")
    command = section.locator("code").inner_text()
    with page.expect_download() as download:
        section.get_by_role("link", name="cvat_annotations.xml").click()
    document = ElementTree.parse(download.value.path())
    (image,) = document.iter("image")
    ElementTree.SubElement(image, "tag", {"label": "reviewed", "source": "manual"})
    document.write(tmp_path / "annotations.xml")
    (tmp_path / "street.toml").write_text(loading.as_toml(config))
    words = command.split()[1:]
    words = [
        {"CONFIG": str(tmp_path / "street.toml"), "EXPORT": str(tmp_path / "annotations.xml")}.get(word, word)
        for word in words
    ]
    spans = Path(config.data.path).parent
    earlier = set(spans.iterdir())
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (written,) = set(spans.iterdir()) - earlier
    # The run was made without spans: the studio sends the image that it stored, and its mask with the ignored border.
    (again,) = (written / "images").iterdir()
    original = spans / "1" / filename
    assert np.asarray(Image.open(again)).shape == np.asarray(Image.open(original)).shape
    masks = [written / "masks" / again.name, original.parents[1] / "masks" / original.name]
    first, second = (np.asarray(Image.open(path)) for path in masks)
    np.testing.assert_array_equal(first, second)
    assert (first == 255).any()
