"""Labels that are corrected on the page, and logged images that are labelled there, reach a new span and a new run."""

import contextlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ml_metadata.proto import metadata_store_pb2
from PIL import Image
from starlette.testclient import TestClient

from components.grad_cam.artifact import ExplanationIndex
from components.image_example_gen import corrections
from components.image_example_gen.artifact import Summary
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from pipeline.history import metadata_store, run_history
from pipeline.studio import app as studio_app
from pipeline.studio import selections
from pipeline.studio.options import StudioOptions
from pipeline.studio.pipelines import StudioPipeline
from trainer_module import features

ORIGIN = "http://127.0.0.1:8600"
CLASSES = ("left", "right")
SETS = ((), ("left",), ("right",), CLASSES)
NUM_OF_SET = 20
WRONG = "wrong.png"
TRAINING = (
    "task.name=multi_label",
    "transform.image_size=16",
    "augmentation.horizontal_flip=false",
    "model.blocks=[[8], [16]]",
    "training.epochs=6",
    "training.batch_size=8",
    "training.learning_rate=0.02",
    # That of the preset is a metric of other tasks.
    "evaluation.thresholds={macro_average_precision=0.0}",
)


def write_image(path, names, seed):
    """Writes an image whose halves are bright if it has their class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (16, 16, 3), dtype=np.uint8)
    for name in names:
        pixels[:, slice(0, 8) if name == "left" else slice(8, 16)] += 170
    Image.fromarray(pixels).save(path)


def write_span(folder, labels):
    """Writes images and their manifest: file name → (classes in the image, classes of the label)."""
    for seed, (name, (names, _)) in enumerate(labels.items()):
        write_image(folder / name, names, seed)
    rows = "".join(f"{name},{'|'.join(names)}\n" for name, (_, names) in labels.items())
    (folder / "manifest.csv").write_text(f"path,label\n{rows}")


class Loop:
    """The dataset of two spans, its pipeline, and a studio without a browser."""

    def __init__(self, root):
        """Writes the spans."""
        self.root = root
        numbers = range(len(SETS) * NUM_OF_SET)
        write_span(root / "spans/1", {f"{number:02}.png": (SETS[number % 4],) * 2 for number in numbers})
        # The label of an image is wrong.
        write_span(root / "spans/2", {WRONG: (CLASSES, ("left",)), "good.png": (("right",),) * 2})
        self.settings = [f"pipeline.root={root / 'runs'}", "pipeline.name=halves", *TRAINING]
        self.settings += [f"data.path={root / 'spans/{SPAN}'}", "data.spans=all"]

    def load(self, *more):
        """Loads the configuration."""
        return loading.load("images", overrides=[*self.settings, *more])

    def run(self, *more, **arguments):
        """Runs the pipeline."""
        config = self.load(*more)
        outcome = local_run.execute(config, dataset.prepare(config), **arguments)
        assert outcome.status == "done", outcome.cause or outcome.refusals
        return outcome

    @contextlib.contextmanager
    def studio(self):
        """Opens a studio without a browser; only one at a time can correct labels."""
        with TestClient(studio_app.create_app(StudioOptions(configs=(self.load(),))), base_url=ORIGIN) as client:
            client.headers["origin"] = ORIGIN
            yield client

    @property
    def corrections(self):
        """The file that the studio writes."""
        return self.root / "runs/halves/studio/corrections.csv"


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    return Loop(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def first(loop):
    return loop.run(to_node="ImageExampleGen").result.data


@pytest.fixture(scope="module")
def corrected(first, loop):
    """The wrong label is corrected from the page of its image."""
    with loop.studio() as client:
        (image,) = client.get("/p/halves/images/list?text=wrong").json()["images"]
        assert image["label"] == "left"
        key = f"dataset/{image['filename']}"
        body = {"key": key, "action": "relabel", "new_label": "left|right", "image": image["id"]}
        assert client.post("/p/halves/correct/decide", json=body).status_code == 200
    assert corrections.read(str(loop.corrections))[image["filename"]].label == "left|right"


@pytest.fixture(scope="module")
def written(corrected, loop):
    """Accepts the proposal of one of two selected images of a request log, and gives the other one another label."""
    folder = StudioPipeline("halves", loop.load()).folder / "selections" / "20260101-000000"
    truth = {"new.png": ("left",), "other.png": CLASSES}
    for name, names in truth.items():
        write_image(folder / "images" / name, names, 5000 + len(name))
    selections.Selection(
        files=(),
        images=tuple(
            selections.SelectedImage(
                path=f"images/{name}",
                proposal={features.CLASS_TEXT: ["left"]},
                reason="uncertain",
                uncertainty=0.9,
                request_id="request-1",
                source="request log",
            )
            for name in truth
        ),
    ).write(str(folder))
    with loop.studio() as client:
        queue = client.get("/p/halves/correct/queue").json()["items"]
        assert [(item["source"], item["proposed"]) for item in queue] == [("log", "left"), ("log", "left")]
        assert client.get(queue[0]["image_url"]).headers["content-type"] == "image/png"
        for item, action, label in zip(queue, ("keep", "relabel"), ("", "right|left"), strict=True):
            decision = {"key": item["key"], "action": action, "new_label": label}
            assert client.post("/p/halves/correct/decide", json=decision).status_code == 200
        response = client.post("/p/halves/correct/span", json={})
        assert response.status_code == 200, response.text
        # The images of a span are not in the queue any more, and are not written again.
        assert client.get("/p/halves/correct/queue").json()["items"] == []
        assert client.post("/p/halves/correct/span", json={}).status_code == 422
    return response.json()


@pytest.fixture(scope="module")
def second(written, loop):
    """The next run, which pushes a model."""
    return loop.run(f"data.corrections={loop.corrections}")


def test_labelled_images_are_the_next_span(first, written):
    assert isinstance(first, Summary) and first.examples == len(SETS) * NUM_OF_SET + 2
    assert (written["number"], written["images"]) == (3, 2)


def test_the_next_run_reads_corrections_and_the_new_span(second, loop):
    data = second.result.data
    assert (data.span, data.examples, data.corrections) == (3, len(SETS) * NUM_OF_SET + 4, {"relabel": 1})
    with loop.studio() as client:
        images = client.get("/p/halves/images/list?limit=500").json()["images"]
    labels = {Path(image["filename"]).name: image["label"] for image in images}
    assert {name: labels[name] for name in (WRONG, "good.png", "new.png", "other.png")} == {
        WRONG: "left|right",
        "good.png": "right",
        "new.png": "left",
        "other.png": "left|right",
    }


def test_the_model_is_trained_on_the_corrected_labels(second, loop):
    config = loop.load()
    runs, store = run_history.read(config), metadata_store.open_store(config.metadata_path, read_only=True)
    examples = runs.outputs(2)["ImageExampleGen"]["examples"]
    counts = dict.fromkeys(("|".join(names) for names in SETS), 0)
    for path in Path(examples.uri).glob("Split-*/*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature[features.CLASS_TEXT]
            counts["|".join(name.decode() for name in feature.bytes_list.value)] += 1
    assert counts == {"": NUM_OF_SET, "left": NUM_OF_SET + 1, "right": NUM_OF_SET + 1, "left|right": NUM_OF_SET + 2}
    (trainer,) = (node for node in runs.nodes(2) if node.name == "Trainer" and node.state == "complete")
    events = store.get_events_by_execution_ids([trainer.id])
    assert examples.id in {event.artifact_id for event in events if event.type == metadata_store_pb2.Event.INPUT}


def test_the_page_of_the_run_shows_span_and_corrections(second, loop):
    with loop.studio() as client:
        page = client.get("/p/halves/runs/2", headers={"accept": "text/html"}).text
    assert "84 images, span 3, corrections: 1 image relabelled" in page
    assert ">pushed" in page and '<polyline class="curve curve-1"' in page


def test_the_report_shows_every_class_and_explains_every_predicted_one(second, loop):
    evaluation = second.result.evaluation
    page = Path(second.result.report).read_text(encoding="utf-8")
    value = f"{evaluation.overall.metrics['macro_average_precision']:.4f}"
    assert re.search(rf'>Macro AP</dt><dd class="value">{value}<', page)
    for name in CLASSES:
        values = [f"{value:.4f}" for value in evaluation.overall.class_metrics[name].values()]
        cells = "".join(rf"<td[^>]*>{value}</td>" for value in (*values, evaluation.overall.support[name]))
        assert re.search(rf"<th[^>]*>{name}</th>{cells}</tr>", page), name
    outputs = run_history.read(loop.load()).outputs(2)["GradCam"]["explanations"]
    entries = ExplanationIndex.read(outputs.uri).predictions
    assert {entry.explained for entry in entries} == set(CLASSES)
    assert all(entry.explained == entry.label == entry.predicted for entry in entries)
    several = Counter(entry.filename for entry in entries)
    assert max(several.values()) == 2  # an image with both classes


# === In a browser, with the model that was trained ===


@pytest.fixture(scope="module")
def address(second, loop, studio_browser, running_server):
    config = loop.load()
    with running_server(config.model_name, Path(config.model_base_path)) as server:
        options = studio_browser.options(server, configs=(config,))
        with studio_browser.serve(options) as address:
            yield address


def test_sets_of_classes_are_predicted_and_explained(address, loop, open_page, studio_browser):
    from playwright.sync_api import expect

    page = open_page(address)
    page.goto("/p/halves/try")
    view = studio_browser.predict(page, lambda: page.locator("#file").set_input_files(loop.root / "spans/2" / WRONG))
    assert view["summary"] == "left|right"
    assert sorted(page.locator(".scores .chosen th").all_inner_texts()) == list(CLASSES)
    overlay, choice = page.locator("#columns .overlay"), page.locator("#heatmap-class")
    for number, heatmap in enumerate(view["heatmaps"]):
        choice.select_option(str(number))
        expect(overlay).to_have_attribute("aria-label", f"Heat map for class {heatmap['label']}")
        assert studio_browser.overlay_pixels(page) > 0
    assert sorted(heatmap["label"] for heatmap in view["heatmaps"]) == list(CLASSES)


def test_sets_of_classes_are_corrected_by_keyboard(address, loop, open_page, studio_browser):
    from playwright.sync_api import expect

    page = open_page(address)
    page.goto("/p/halves/images?text=good")
    page.locator("#images .thumb").click()
    page.get_by_role("link", name="Correct its label").click()
    expect(page.locator("#item-label")).to_have_text("right")
    page.keyboard.press("r")
    expect(page.locator("#new-label")).to_have_value("right")
    # A button of a class adds or removes it.
    studio_browser.tab_to(page, page.locator("#quick button").first)
    page.keyboard.press("Enter")
    expect(page.locator("#new-label")).to_have_value("right|left")
    page.keyboard.press("Enter")
    studio_browser.tab_to(page, page.locator("#quick button").last)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Relabel", exact=True).press("Enter")
    expect(page.locator("#item-decision")).to_have_text("relabel to no class")
    names = corrections.read(str(loop.corrections))
    assert {Path(name).name: (entry.action, entry.label) for name, entry in names.items()} == {
        WRONG: ("relabel", "left|right"),
        "good.png": ("relabel", ""),
    }
