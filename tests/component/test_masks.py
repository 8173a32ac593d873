"""Masks on their way through the nodes: from files to a checked export."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import layout
from pipeline import config, execution
from trainer_module import features
from trainer_module.session_model import SessionModel


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Thirty pictures whose bright part is class 1, with a border of pixels that do not count."""
    root = tmp_path_factory.mktemp("data") / "street"
    rng = np.random.default_rng(8)
    for index in range(30):
        mask = np.zeros((20, 24), np.uint8)
        mask[5 : rng.integers(8, 18), 5 : rng.integers(8, 22)] = 1
        picture = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8) + mask[..., np.newaxis] * 150
        mask[:, :2] = 255
        for folder, pixels in (("images", picture.astype(np.uint8)), ("masks", mask)):
            path = root / folder / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / layout.CLASSES_FILE).write_text("road\ncar\n255 ignored\n")
    return root


def load(street, *overrides):
    said = ["transform.image_size=18", f"pipeline.root={street.parent / 'runs'}"]
    said += ["training.epochs=2", "training.batch_size=4", *overrides]
    loaded = config.load("pictures", data=str(street), overrides=said)
    return loaded, execution.prepare(loaded)


UNET = ("model.name=unet", "model.depth=2", "model.filters=4", "segmentation.class_weights=balanced")


@pytest.mark.parametrize(
    ("model", "to_node", "message"),
    [
        ((), None, r"has masks.*scratch_cnn tells classes of whole pictures.*model\.name=unet"),
        ((), "Trainer", "has masks"),
        (UNET, None, "Evaluator, GradCam, Pusher do not know masks yet.*--to ServingValidator"),
        (UNET, "GradCam", "do not know masks yet"),
    ],
)
def test_what_cannot_run_is_said_before_anything_runs(street, model, to_node, message):
    with pytest.raises(config.ConfigError, match=message):
        execution.execute(*load(street, *(model or ["model.blocks=[[4], [4]]"])), to_node=to_node)


def test_a_network_for_masks_refuses_whole_pictures(class_folders):
    root = class_folders({"a": 3, "b": 3})
    loaded = config.load("pictures", data=str(root), overrides=[UNET[0]])
    with pytest.raises(config.ConfigError, match="unet needs a mask for every picture"):
        execution.execute(loaded, execution.prepare(loaded), to_node="Trainer")


def test_from_files_to_a_checked_export(street):
    loaded, found = load(street, *UNET)
    assert (found.classes, found.ignore_id) == (("road", "car"), 255)
    outcome = execution.execute(loaded, found, to_node="ServingValidator")
    assert outcome.error is None
    assert {node.id: node.state for node in outcome.nodes}["Evaluator"] == "skipped"
    assert outcome.result.servable is True
    assert all(check["passed"] for check in outcome.result.checks) and len(outcome.result.checks) == 8

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
    rows_, columns = (np.floor((np.arange(18) + 0.5) * side / 18).astype(int) for side in (20, 24))
    np.testing.assert_array_equal(label, np.asarray(Image.open(io.BytesIO(raw)))[np.ix_(rows_, columns)])
    served.close()
