"""A label that is corrected on the page, and a logged image that is labelled there, reach a new span and a new run."""

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from components.image_example_gen import corrections
from components.image_example_gen.artifact import Summary
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from pipeline.studio import app as studio_app
from pipeline.studio import selections
from pipeline.studio.options import StudioOptions
from pipeline.studio.pipelines import StudioPipeline
from trainer_module import features

ORIGIN = "http://127.0.0.1:8600"
CLASSES = ("bright", "dark")


def write_image(path, value, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 40, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise + np.uint8(value)).save(path)


@pytest.fixture
def settings(tmp_path):
    """A dataset of two spans; one bright image is labelled dark."""
    for number in range(40):
        for name, value in zip(CLASSES, (180, 20), strict=True):
            write_image(tmp_path / f"spans/1/{name}/{number:02}.png", value, 2 * number + (name == "dark"))
    write_image(tmp_path / "spans/2/dark/wrong.png", 180, 999)
    write_image(tmp_path / "spans/2/bright/right.png", 180, 998)
    data = [f"data.path={tmp_path / 'spans/{SPAN}'}", "data.spans=all"]
    return [f"pipeline.root={tmp_path / 'runs'}", "pipeline.name=lamps", *data]


def run(settings, *more):
    """Runs ImageExampleGen; returns its summary."""
    config = loading.load("images", overrides=[*settings, *more])
    outcome = local_run.execute(config, dataset.prepare(config), to_node="ImageExampleGen")
    assert outcome.status == "done", outcome.cause
    return outcome.result.data


@pytest.fixture
def client(tmp_path, settings):
    config = loading.load("images", overrides=settings)
    with TestClient(studio_app.create_app(StudioOptions(configs=(config,))), base_url=ORIGIN) as client:
        client.headers["origin"] = ORIGIN
        yield client


def labels_of(client):
    images = client.get("/p/lamps/images/list?limit=500").json()["images"]
    return {image["filename"]: image["label"] for image in images}


def test_corrections_reach_a_new_span_and_a_new_run(client, settings, tmp_path):
    first = run(settings)
    assert isinstance(first, Summary) and first.examples == 82

    # The wrong label is corrected from the page of its image.
    (image,) = client.get("/p/lamps/images/list?text=wrong").json()["images"]
    assert image["label"] == "dark"
    key = f"dataset/{image['filename']}"
    body = {"key": key, "action": "relabel", "new_label": "bright", "image": image["id"]}
    assert client.post("/p/lamps/correct/decide", json=body).status_code == 200
    table = tmp_path / "runs/lamps/studio/corrections.csv"
    assert corrections.read(str(table))[image["filename"]].label == "bright"

    # Of two selected images of a request log, one proposal is accepted, and the other image gets another label.
    config = loading.load("images", overrides=settings)
    folder = StudioPipeline("lamps", config).folder / "selections" / "20260101-000000"
    for name, value in (("new.png", 180), ("other.png", 20)):
        write_image(folder / "images" / name, value, 5000 + len(name))
    selections.Selection(
        files=(),
        images=tuple(
            selections.SelectedImage(
                path=f"images/{name}",
                proposal={features.CLASS_TEXT: ["bright"]},
                reason="uncertain",
                uncertainty=0.9,
                request_id="request-1",
                source="request log",
            )
            for name in ("new.png", "other.png")
        ),
    ).write(str(folder))
    queue = client.get("/p/lamps/correct/queue").json()["items"]
    assert [(item["source"], item["proposed"]) for item in queue] == [("log", "bright"), ("log", "bright")]
    assert client.get(queue[0]["image_url"]).headers["content-type"] == "image/png"
    for item, action, label in zip(queue, ("keep", "relabel"), ("", "dark"), strict=True):
        decision = {"key": item["key"], "action": action, "new_label": label}
        assert client.post("/p/lamps/correct/decide", json=decision).status_code == 200
    response = client.post("/p/lamps/correct/span", json={})
    assert response.status_code == 200, response.text
    written = response.json()
    assert written["number"] == 3 and written["images"] == 2
    # What is in a span is not in the queue any more, and is not written again.
    assert client.get("/p/lamps/correct/queue").json()["items"] == []
    assert client.post("/p/lamps/correct/span", json={}).status_code == 422

    second = run(settings, f"data.corrections={table}")
    assert second.span == 3 and second.examples == 84 and second.corrections == {"relabel": 1}
    labels = labels_of(client)
    assert [label for name, label in labels.items() if name.endswith("wrong.png")] == ["bright"]
    assert [label for name, label in labels.items() if "new" in name] == ["bright"]
    assert [label for name, label in labels.items() if "other" in name] == ["dark"]
