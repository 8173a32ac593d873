"""A dataset of boxes the whole way: images and annotations in; a judged, served and reported detector out."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.image_example_gen import layouts
from pipeline.cli.app import app
from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from trainer_module import features, keras_file, tasks

CLASSES = ("dark", "light")
SPLITS = {"train": 24, "valid": 8, "test": 8}
SIDE = 64

# Trains in seconds and finds little: the default rules would refuse it. Every score is returned.
SMALL = (
    "transform.image_size=64",
    "model.weights='none'",
    "model.channels=16",
    "model.coarsest_stride=32",
    "task.head='anchor_based'",
    "task.head_convolutions=1",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "fine_tuning.epochs=0",
    "training.batch_size=8",
    "task.score_threshold=0.0",
    "task.served_threshold=0.0",
    "task.max_detections=10",
    "grad_cam.faithfulness_steps=2",
    "evaluation.thresholds={average_precision=0.0}",
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
)


def squares(random: np.random.Generator, num: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """An image of noise with squares, dark and light; side, x and y of each."""
    pixels, placed = random.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8), []
    for class_id in range(num):
        side, x, y = (int(number) for number in random.integers([16, 0, 0], [28, 36, 36]))
        pixels[y : y + side, x : x + side] = 255 * class_id
        placed.append((side, x, y))
    return pixels, placed


def write_coco(root: Path) -> None:
    """Writes squares on noise as Roboflow exports them: a folder per split, with the images and one JSON file."""
    random = np.random.default_rng(1)
    for split, count in SPLITS.items():
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for image_id in range(count):
            pixels, placed = squares(random, 1 + image_id % 2)
            for class_id, (side, x, y) in enumerate(placed):
                annotations.append(
                    {"id": len(annotations), "image_id": image_id, "category_id": class_id + 1}
                    | {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
                )
            name = f"{split}{image_id}.png"
            Image.fromarray(pixels).save(root / split / name)
            images.append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
        # Roboflow's first category is the name of the project.
        categories = [{"id": index, "name": name} for index, name in enumerate(("squares", *CLASSES))]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_backbones):
    root = tmp_path_factory.mktemp("boxes")
    write_coco(root / "data" / "1")
    overrides = [*SMALL, f"pipeline.root={root / 'runs'}", "data.spans=all"]
    loaded = loading.load("boxes", data=str(root / "data" / "{SPAN}"), overrides=overrides)
    with small_backbones():
        return loaded, local_run.execute(loaded, dataset.prepare(loaded))


def image_of(loaded) -> Path:
    """An image of the test split."""
    return Path(loaded.data_location).parent / "1" / "test" / "test1.png"


def test_the_detector_is_evaluated_explained_and_pushed(run):
    _, outcome = run
    assert (outcome.error, outcome.status, outcome.exit_code) == (None, "done", 0)
    overall = outcome.result.evaluation.overall
    assert overall.examples == SPLITS["test"] and overall.support == {"dark": 8, "light": 4}
    assert {"average_precision", "ap50", "served_recall"} <= overall.metrics.keys()
    assert "object_count = few" in {figures.name for figures in outcome.result.slices}
    assert outcome.result.num_explained and "energy_inside" in run_output(outcome).model_dump()["faithfulness"]
    page = Path(outcome.result.report).read_text(encoding="utf-8")
    assert "Worst predictions" in page and "data:image/" in page


@pytest.fixture(scope="module")
def served(run, running_server):
    """The model of the run, served."""
    loaded, _ = run
    with running_server("boxes", Path(loaded.model_base_path)) as server:
        yield server


def test_detections_are_served(run, served, both_clients):
    loaded, outcome = run
    image = image_of(loaded).read_bytes()
    with both_clients(served, "boxes") as clients:
        objects = []
        for client in clients:
            assert client.status() == [(outcome.result.pushed_version, "AVAILABLE")]
            (detections,) = client.detect([image])
            objects.append(detections.objects)
            explained = client.explain_detections([image]).or_raise()[0]
            assert len(explained) == 4 == len({entry.heatmap.tobytes() for entry in explained})
            for entry, detected in zip(explained, detections.objects, strict=False):
                assert entry.box == pytest.approx(detected.box, abs=1e-6) and entry.label == detected.label
    assert len(objects[0]) == 10 and {entry.label for entry in objects[0]} <= set(CLASSES)
    for own, other in zip(*objects, strict=True):
        assert own.label == other.label and own.score == pytest.approx(other.score, abs=1e-6)
        assert own.box == pytest.approx(other.box, abs=1e-6)
    # The trainer's model, without export and server.
    (path,) = (loaded.run_dir / "artifacts" / "Trainer").rglob(features.KERAS_FILE)
    (expected,) = tasks.get("detection").predict(keras_file.load(path), loaded.trainer_options(CLASSES), [image])
    assert len(expected) == len(objects[0])
    for own, row in zip(objects[0], expected, strict=True):
        assert own.label == CLASSES[int(row[4])] and own.score == pytest.approx(row[6], abs=1e-4)
        assert own.box == pytest.approx(row[:4], abs=1e-4)


def test_a_client_of_the_object_detection_api_needs_no_change(run, served):
    """Reads the responses as clients of that API's exported models do, without this project's client."""
    import grpc
    import requests
    from tensorflow import make_tensor_proto
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    image = image_of(run[0]).read_bytes()
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "boxes", "serving_default"
    request.inputs["image_bytes"].CopyFrom(make_tensor_proto([image]))
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60).outputs
    num = int(outputs["num_detections"].float_val[0])
    boxes = np.reshape(outputs["detection_boxes"].float_val, [-1, 4])[:num]
    scores = list(outputs["detection_scores"].float_val)[:num]
    category_index = {1: {"id": 1, "name": "dark"}, 2: {"id": 2, "name": "light"}}
    names = [category_index[int(class_id)]["name"] for class_id in list(outputs["detection_classes"].float_val)[:num]]
    assert num == 10 and scores == sorted(scores, reverse=True)
    assert (boxes[:, :2] <= boxes[:, 2:]).all() and boxes.min() >= 0.0 and boxes.max() <= 1.0

    body = {"instances": [{"image_bytes": {"b64": base64.b64encode(image).decode()}}]}
    url = f"http://127.0.0.1:{served.rest_port}/v1/models/boxes:predict"
    (prediction,) = requests.post(url, json=body, timeout=60).json()["predictions"]
    assert prediction["num_detections"] == 10.0
    np.testing.assert_allclose(prediction["detection_boxes"], boxes, atol=1e-6)
    np.testing.assert_allclose(prediction["detection_scores"], scores, atol=1e-6)
    assert [category_index[int(class_id)]["name"] for class_id in prediction["detection_classes"]] == names


def test_the_command_explains_every_detection(run, served, tmp_path):
    image, address = image_of(run[0]), f"127.0.0.1:{served.grpc_port}"
    command = ["explain", str(image), "--output-dir", str(tmp_path), "--every-detection", "--grpc", address]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["explanations"]
    assert [row["overlay"] for row in rows] == [str(tmp_path / f"test1_object{number}.png") for number in range(1, 5)]
    for row in rows:
        with Image.open(row["overlay"]) as overlay:
            assert overlay.size == (SIDE, SIDE) and len(row["box"]) == 4
    both = CliRunner().invoke(app, [*command, "--every-label"])
    assert both.exit_code == 2 and "use one of them" in both.output
    # A classifier's signature: the server's answer says what the model lacks.
    other = CliRunner().invoke(app, [each if each != "--every-detection" else "--every-label" for each in command])
    assert other.exit_code == 1 and "explain_labels" in other.stderr


# === The studio in a browser ===


@pytest.fixture(scope="module")
def studio(run, studio_browser, running_server, request_logs, tmp_path_factory):
    """Address of a studio with the model, and a request log of new images."""
    loaded, _ = run
    prefix = tmp_path_factory.mktemp("requests") / "boxes"
    log = request_logs.LogWriter(prefix)
    for number in range(4):
        buffer = io.BytesIO()
        Image.fromarray(squares(np.random.default_rng(100 + number), 2)[0]).save(buffer, "PNG")
        log.add(1000.0 + number, [buffer.getvalue()], {}, model=loaded.model_name)
    log.close()
    with running_server(loaded.model_name, Path(loaded.model_base_path)) as server:
        options = studio_browser.options(server, configs=(loaded,), request_log=prefix)
        with studio_browser.serve(options) as address:
            yield address


def test_boxes_are_drawn_by_score_and_class(run, studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    loaded, _ = run
    image = tmp_path / "image.png"
    image.write_bytes(image_of(loaded).read_bytes())
    page = open_page(studio)
    page.goto(f"/p/{loaded.pipeline.name}/try")
    view = studio_browser.predict(page, lambda: page.locator("#file").set_input_files(image))
    assert len(view["boxes"]["objects"]) == 10 and view["boxes"]["threshold"] == 0.0
    overlay = page.locator("#columns .overlay")
    expect(overlay).to_have_attribute("aria-label", "10 boxes with a score of at least 0.00")
    assert studio_browser.overlay_pixels(page) > 0
    studio_browser.assert_accessible(page)
    names = [entry["name"] for entry in view["boxes"]["objects"]]
    page.locator("#class-toggles").get_by_label(names[0]).uncheck()
    left = len(names) - names.count(names[0])
    expect(overlay).to_have_attribute("aria-label", re.compile(rf"^{left} box.* of at least 0.00"))
    page.locator("#class-toggles").get_by_label(names[0]).check()
    page.locator("#score").fill("100")
    expect(overlay).to_have_attribute("aria-label", "0 boxes with a score of at least 1.00")
    assert studio_browser.overlay_pixels(page) == 0

    # The code below the image returns the same boxes.
    printed = studio_browser.run_snippets(page, tmp_path)
    (by_curl,) = json.loads(printed["curl"])["predictions"]
    best = view["boxes"]["objects"][0]
    assert by_curl["detection_scores"][0] == pytest.approx(best["score"], abs=1e-6)
    assert by_curl["detection_boxes"][0] == pytest.approx(best["box"], abs=1e-6)
    assert printed["Python"].count("DetectedObject(") == 10 and f"{best['score']:.4f}" in printed["Command line"]


def test_boxes_of_a_request_log_are_accepted_or_sent_to_label_studio(run, studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    loaded, _ = run
    page = open_page(studio)
    page.goto(f"/p/{loaded.pipeline.name}/correct")
    studio_browser.choose_images(page, 3)
    expect(page.locator("#item-proposed")).to_have_text(re.compile("dark|light|no boxes"))
    assert not page.locator("#accept, #relabel").count()
    studio_browser.assert_accessible(page)
    assert not page.get_by_role("link", name="selected.csv").count()  # it cannot contain boxes
    page.keyboard.press("k")
    expect(page.locator("#review-text")).to_contain_text("1 of 3")
    page.get_by_role("button", name="Write the next span").click()
    expect(page.locator("#span-state")).to_contain_text("span 2: 1 image in")
    with page.expect_download() as download:
        page.get_by_role("link", name="label_studio_tasks.json").click()
    tasks = json.loads(Path(download.value.path()).read_text())
    for task in tasks:  # a person submits the proposals
        task["annotations"] = [{"id": 1, "result": task["predictions"][0]["result"]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    (tmp_path / "boxes.toml").write_text(loading.as_toml(loaded))
    (selection,) = (loaded.run_dir / "studio" / "selections").iterdir()
    done = CliRunner().invoke(
        app, ["label", str(tmp_path / "boxes.toml"), str(tmp_path / "export.json"), "--images", str(selection)]
    )
    assert done.exit_code == 0, done.output
    rows = (Path(loaded.data.path).parent / "3" / "manifest.csv").read_text().splitlines()[1:]
    assert len({row.split(",")[0] for row in rows}) == 2


def test_boxes_of_the_dataset_are_drawn_again(run, studio, open_page, studio_browser, tmp_path):
    from playwright.sync_api import expect

    loaded, _ = run
    page = open_page(studio)
    page.goto(f"/p/{loaded.pipeline.name}/images/1")
    page.get_by_role("link", name="Correct its label").click()
    expect(page.locator("#item-reason")).to_have_text("chosen by hand")
    expect(page.locator("#redraw-files")).to_be_hidden()
    name = page.locator("#photo-link").inner_text()
    page.keyboard.press("r")
    expect(page.locator("#review-text")).to_contain_text("1 draw again")
    studio_browser.assert_accessible(page)
    with page.expect_download() as download:
        page.locator("#redraw-files").get_by_role("link", name="label_studio_tasks.json").click()
    (task,) = json.loads(Path(download.value.path()).read_text())
    boxes = task["predictions"][0]["result"]
    assert boxes and not page.locator("#redraw-files").get_by_role("link", name="selected.csv").count()
    boxes[0]["value"] |= {"x": 25.0, "y": 50.0, "width": 12.5, "height": 25.0}  # a person moves a box, and submits
    task["annotations"] = [{"id": 1, "result": boxes[:1]}]
    (tmp_path / "export.json").write_text(json.dumps([task]))
    (tmp_path / "boxes.toml").write_text(loading.as_toml(loaded))
    folder = loaded.run_dir / "studio"
    (image,) = (folder / "redraw" / "images").iterdir()
    corrections = f"data.corrections={folder / 'corrections.csv'}"
    settings = ["--images", str(folder / "redraw"), "--set", corrections, "--json"]
    done = CliRunner().invoke(app, ["label", str(tmp_path / "boxes.toml"), str(tmp_path / "export.json"), *settings])
    assert done.exit_code == 0, done.output

    # The next run reads the image once, with its new box.
    changed = loading.load(str(tmp_path / "boxes.toml"), overrides=[corrections, "data.spans=all"])
    prepared = dataset.prepare(changed)
    assert [(each.path, each.action) for each in prepared.corrections] == [(name, "drop")]
    assert name not in {entry.path for entry in prepared.entries}
    reading = dataset.example_gen_options(changed, prepared)
    same = [
        candidate
        for candidate in layouts.get(prepared.layout).read(prepared.root, prepared.entries, reading)
        if candidate.encoded == image.read_bytes()
    ]
    assert len(same) == 1
    (row,) = [
        row
        for span in Path(loaded.data.path).parent.glob("*/manifest.csv")
        for row in span.read_text().splitlines()
        if row.startswith(f"images/{image.name},")
    ]
    assert [float(value) for value in re.findall(r"0\.\d+", row)] == [0.25, 0.5, 0.375, 0.75]
