"""`tfx-vision audit`: a table of suspects of any dataset, and clear messages without weights."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.data_audit.images import LABEL_ISSUE
from pipeline.cli.app import app
from pipeline.execution import dataset_audit
from trainer_module import embedding
from trainer_module.model_input import Geometry


def mean_colors(encoded):
    """Stands in for a network."""
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in encoded]
    return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images], np.float32)


def rows_of(table):
    return list(csv.DictReader(table.read_text().splitlines()))


@pytest.fixture
def folder(tmp_path, rng):
    """Twenty red and twenty blue images in folders of these names; the first one of each folder is in the wrong one."""
    root = tmp_path / "images"
    for name, channel in (("red", 0), ("blue", 2)):
        (root / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel if index else 2 - channel] += 120
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    (root / "red" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


@pytest.fixture
def audit(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_audit, "embedder", lambda config, model_dir: (mean_colors, "mean colours"))
    output = tmp_path / "suspects.csv"

    def run(*arguments):
        settings = ["--output", str(output), "--set", "data.max_bad_fraction=0.1"]
        return CliRunner().invoke(app, ["audit", *settings, *map(str, arguments)]), output

    return run


def test_the_table_lists_images_in_the_wrong_folder(audit, folder, capfd):
    done, output = audit(folder)
    assert done.exit_code == 0, done.output
    assert "2 label issue" in capfd.readouterr().out
    rows = rows_of(output)
    assert list(rows[0]) == ["filename", "label", "reason", "score", "proposed_label"]
    issues = {row["filename"]: row for row in rows if row["reason"] == LABEL_ISSUE}
    assert issues.keys() == {"red/0.png", "blue/0.png"}
    assert (issues["red/0.png"]["label"], issues["red/0.png"]["proposed_label"]) == ("red", "blue")


def test_json_and_corrections(audit, folder, tmp_path, capfd):
    table = tmp_path / "fixed.csv"
    table.write_text("filename,action,label\nred/0.png,relabel,blue\nblue/0.png,keep,\n")
    _, output = audit(folder, "--json", "--set", f"data.corrections={table}")
    document = json.loads(capfd.readouterr().out)
    assert document["images"] == 40 and document["source"] == "mean colours" and document["table"] == str(output)
    assert document["unusable"] and "damaged.png" in document["unusable"][0]
    assert LABEL_ISSUE not in document["reasons"]


def test_masks_and_boxes_are_audited_by_their_classes(audit, tmp_path, rng):
    root = tmp_path / "masked"
    for index in range(24):
        value, pixels = index % 2, rng.integers(0, 100, (8, 8, 3), dtype=np.uint8)
        pixels[..., 0] += np.uint8(140 * value)
        for name, image in (("images", pixels), ("masks", np.full((8, 8), value if index else 1, np.uint8))):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{index}.png")
    done, output = audit(root, "--set", 'data.classes=["ground", "object"]')
    assert done.exit_code == 0, done.output
    issues = {row["filename"]: row for row in rows_of(output) if row["reason"] == LABEL_ISSUE}
    assert issues["images/0.png"]["label"] == "object" and issues["images/0.png"]["proposed_label"] == "ground"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("suspects.txt", "must end with .csv"),
        ("missing/suspects.csv", "does not exist. Create it first"),
        ("images/suspects.csv", "is in the data folder, where a table is read as labels"),
    ],
)
def test_outputs_that_are_refused(folder, tmp_path, output, message):
    done = CliRunner().invoke(app, ["audit", str(folder), "--output", str(tmp_path / output)])
    assert done.exit_code == 2 and message in " ".join(done.stderr.split())


def test_without_weights_the_message_has_the_alternatives(folder, tmp_path):
    settings = ["--set", "model.weights=/nowhere/weights.h5", "--set", "data.max_bad_fraction=0.1"]
    done = CliRunner().invoke(app, ["audit", str(folder), "--output", str(tmp_path / "a.csv"), *settings])
    text = " ".join(done.stderr.split())
    assert done.exit_code == 2 and "An audit requires a pre-trained network" in text and "--model DIR" in text


def test_embeddings_of_an_exported_model(tiny_model, tmp_path):
    embed = embedding.from_saved_model(tiny_model.serving_dir)
    vectors = embedding.embed_all(embed, tiny_model.image_bytes)
    assert vectors.shape[0] == 12 and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(12), abs=1e-5)
    with pytest.raises(embedding.NoEmbeddingError, match="is not a SavedModel that can be loaded"):
        embedding.from_saved_model(str(tmp_path))


def test_embeddings_of_a_backbone():
    embed = embedding.from_backbone("mobilenet_v2", weights="none", geometry=Geometry.of(32))
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    assert embedding.embed_all(embed, [buffer.getvalue()] * 3).shape == (3, 1280)
    assert embedding.embed_all(embed, []).shape == (0, 0)
