"""GradCam: the right pictures are chosen, and what is written is what the algorithm gives."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts

import components
from components.grad_cam import executor, index_page
from trainer_module import grad_cam, preprocessing
from trainer_module.tasks import classification


def run_executor(tiny_model, root, options):
    split_dir = root / "examples" / "Split-test"
    split_dir.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split_dir / "data-00000-of-00001")) as writer:
        for example in tiny_model.examples:
            writer.write(example)
    examples, model_run = standard_artifacts.Examples(), standard_artifacts.ModelRun()
    explanations = components.GradCamExplanations()
    examples.uri, examples.split_names = str(root / "examples"), '["test"]'
    model_run.uri, explanations.uri = tiny_model.run_dir, str(root / "explanations")
    os.makedirs(explanations.uri)
    executor.Executor().Do(
        {"examples": [examples], "model_run": [model_run]},
        {"explanations": [explanations]},
        {"options": options.model_dump_json(), "split": "test"},
    )
    return Path(explanations.uri), explanations


@pytest.fixture(scope="module")
def explained(tiny_model, tmp_path_factory):
    return run_executor(tiny_model, tmp_path_factory.mktemp("explain"), tiny_model.options)


def test_the_most_confident_decisions_of_every_class_are_explained(tiny_model, explained):
    folder, artifact = explained
    entries = json.loads((folder / "index.json").read_text())
    probabilities = classification.expected(tiny_model.model, tiny_model.options, tiny_model.image_bytes)
    truth = np.array([0, 1, 2] * 4)
    expected = set()
    for class_id, name in enumerate(tiny_model.options.classes):
        for kind, right in (("right", True), ("wrong", False)):
            chosen = np.flatnonzero((truth == class_id) & ((probabilities.argmax(axis=1) == truth) == right))
            best = sorted(chosen, key=lambda i: -probabilities[i].max())[: tiny_model.options.grad_cam.per_class]
            expected |= {(name, kind, rank, f"{name}/{i}.png") for rank, i in enumerate(best, start=1)}
    assert {(e["class"], e["kind"], e["rank"], e["filename"]) for e in entries} == expected
    assert artifact.get_int_custom_property("explained") == len(entries)
    assert {entry["kind"] for entry in entries} == {"right", "wrong"}


def test_the_written_maps_are_the_algorithms(tiny_model, explained):
    folder, _ = explained
    explain = grad_cam.explainer(tiny_model.model)
    for entry in json.loads((folder / "index.json").read_text()):
        index = int(entry["filename"].split("/")[1].removesuffix(".png"))
        pixels = preprocessing.decode_and_resize(tf.constant([tiny_model.image_bytes[index]]), 16, 3)
        expected = explain(pixels)
        written = np.asarray(Image.open(folder / entry["heatmap"]))[..., 0] / 255.0
        np.testing.assert_allclose(written, expected.heatmap[0], atol=1e-2)
        assert entry["score"] == pytest.approx(float(expected.score[0]), abs=1e-4)
        assert entry["predicted"] == tiny_model.options.classes[int(expected.class_id[0])]
        assert np.asarray(Image.open(folder / entry["overlay"])).shape == (224, 224, 3)


def test_what_a_search_changes_is_not_asked_for(tiny_model, explained, tmp_path, other_numbers):
    # The component is given the configuration as it was before the search.
    folders = [explained[0], run_executor(tiny_model, tmp_path, other_numbers)[0]]
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    )
    assert one == other and len(one) > 3


def test_names_on_the_page_are_text_not_markup(tiny_model):
    options = tiny_model.options.model_copy(update={"classes": ("<script>alert(1)</script>", "b")})
    entry = {
        "class": options.classes[0],
        "kind": "wrong",
        "rank": 1,
        "filename": '"><img src=x onerror=alert(1)>.png',
        "predicted": "b",
        "score": 0.9,
        "empty": False,
        "picture": "p.png",
        "overlay": "o.png",
        "heatmap": "h.png",
    }
    page = index_page.render([entry], options, "test")
    assert "<script>" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
