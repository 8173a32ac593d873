"""A dataset of boxes the whole way: images and annotations in; a judged, served and reported detector out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.execution import dataset, local_run

CLASSES = ("dark", "light")
SPLITS = {"train": 24, "valid": 8, "test": 8}
SIDE = 64

# A network that trains in seconds, and finds little: the default rules would refuse it. Every score is returned.
SMALL = (
    "transform.image_size=64",
    "model.weights='none'",
    "model.channels=16",
    "training.epochs=1",
    "fine_tuning.epochs=0",
    "training.batch_size=8",
    "task.score_threshold=0.0",
    "task.served_threshold=0.0",
    "task.max_detections=10",
    "grad_cam.faithfulness_steps=2",
    "evaluation.thresholds={average_precision=0.0}",
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
)


def write_coco(root: Path) -> None:
    """Writes squares on noise as Roboflow exports them: a folder per split, with the images and one JSON file."""
    random = np.random.default_rng(1)
    for split, count in SPLITS.items():
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for image_id in range(count):
            pixels = random.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
            for class_id in range(1 + image_id % 2):
                side, x, y = (int(number) for number in random.integers([16, 0, 0], [28, 36, 36]))
                pixels[y : y + side, x : x + side] = 255 * class_id
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
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    write_coco(root / "data")
    loaded = loading.load("boxes", data=str(root / "data"), overrides=[*SMALL, f"pipeline.root={root / 'runs'}"])
    return loaded, local_run.execute(loaded, dataset.prepare(loaded))


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


def test_detections_are_served(run, running_server, both_clients):
    loaded, outcome = run
    image = (Path(loaded.data_location) / "test/test1.png").read_bytes()
    with running_server("boxes", Path(loaded.model_base_path)) as server, both_clients(server, "boxes") as clients:
        objects = []
        for client in clients:
            assert client.status() == [(outcome.result.pushed_version, "AVAILABLE")]
            (detections,) = client.detect([image])
            objects.append(detections.objects)
    assert len(objects[0]) == 10 and {entry.label for entry in objects[0]} <= set(CLASSES)
    for own, other in zip(*objects, strict=True):
        assert own.label == other.label and own.score == pytest.approx(other.score, abs=1e-6)
        assert own.box == pytest.approx(other.box, abs=1e-6)
