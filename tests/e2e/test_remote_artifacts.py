"""A run whose artifacts are not local files: in a bucket, for engines whose workers share no folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import artifact_store, dataset, local_run
from pipeline.history import run_history
from pipeline.nodes import DATA_AUDIT, NODE_IDS, TUNER

PLACE = "ram://bucket/runs"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three colours, 20 images each."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(3)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for number in range(20):
            pixels = random.integers(0, 80, (16, 16, 3), np.uint8)
            pixels[..., channel] += 150
            (folder / name / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (folder / "red" / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def loaded(images, ram_files, tmp_path_factory):
    return loading.load(
        "images",
        data=str(images),
        overrides=[
            f"pipeline.root={tmp_path_factory.mktemp('runs')}",
            f"pipeline.artifacts={PLACE}",
            "data.max_bad_fraction=0.05",
            "data.splits.by=class",
            "transform.image_size=16",
            "model.blocks=[[4],[8]]",
            "training.epochs=2",
            "evaluation.thresholds={accuracy=0.0}",
            # Two epochs are not enough to beat them.
            "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
        ],
    )


@pytest.fixture(scope="module")
def outcome(loaded):
    return local_run.execute(loaded, dataset.prepare(loaded))


def test_every_node_reads_and_writes_there(loaded, outcome):
    assert outcome.error is None
    assert {node.id for node in outcome.nodes if node.state == "complete"} == {*NODE_IDS} - {TUNER, DATA_AUDIT}
    for node in ("ImageExampleGen", "Transform", "Trainer", "Evaluator", "GradCam", "ModelReport"):
        assert tf.io.gfile.isdir(f"{PLACE}/{loaded.pipeline.name}/{node}")
    assert not (loaded.run_dir / "artifacts").exists()
    # What is not handed on from node to node stays here: the served model, the record, the last report.
    served = Path(outcome.result.serving_dir)
    assert served.name == str(outcome.result.pushed_version) and served.is_relative_to(loaded.run_dir)
    assert (served / "saved_model.pb").is_file()
    assert "<html" in loaded.report_path.read_text(encoding="utf-8")


def test_an_unwritable_location_is_reported_before_anything_runs(loaded, outcome):
    elsewhere = loaded.model_copy(update={"pipeline": loaded.pipeline.model_copy(update={"artifacts": "s4://bucket"})})
    with pytest.raises(ConfigError, match=r"cannot write to s4://bucket/.*scheme 's4' not implemented"):
        local_run.execute(elsewhere, dataset.prepare(elsewhere))


def test_artifacts_belong_to_one_metadata_store(loaded, outcome, tmp_path):
    """Another one counts its executions from 1 again, and would write into the folders that are there."""
    place = f"{PLACE}/{loaded.pipeline.name}"
    before = sorted(tf.io.gfile.listdir(place))
    other = loaded.model_copy(update={"pipeline": loaded.pipeline.model_copy(update={"root": tmp_path})})
    with pytest.raises(ConfigError, match=r"artifacts of another metadata store than /.*metadata.sqlite"):
        local_run.execute(other, dataset.prepare(other))
    assert sorted(tf.io.gfile.listdir(place)) == before and not other.metadata_path.exists()


def test_a_claim_without_a_run_can_be_repeated(loaded, tmp_path):
    of = {"root": tmp_path / "root", "artifacts": str(tmp_path / "volume")}
    chosen = loaded.model_copy(update={"pipeline": loaded.pipeline.model_copy(update=of)})
    for _ in range(2):
        artifact_store.claim(chosen)
    assert [path.name for path in Path(chosen.artifacts_location).iterdir()] == [artifact_store.MARKER]


def test_a_restored_metadata_store_finds_its_artifacts(loaded, outcome, tmp_path):
    moved = loaded.metadata_path.rename(tmp_path / "metadata.sqlite")
    with pytest.raises(ConfigError, match=r"or restore that metadata store"):
        artifact_store.claim(loaded)
    moved.rename(loaded.metadata_path)
    artifact_store.claim(loaded)


def test_history_reads_the_remote_artifacts(loaded, outcome):
    assert [file.path for file in outcome.result.quarantined] == ["red/empty.png"]
    (run,) = run_history.read(loaded).newest(1)
    assert str(run.verdict) == "pushed"
    assert run.evaluation == outcome.result.evaluation and run.settings["training.epochs"] == 2


def test_a_second_run_uses_the_cache(loaded, outcome):
    again = local_run.execute(loaded, dataset.prepare(loaded))
    assert again.error is None and again.result.evaluation == outcome.result.evaluation
    assert {node.id for node in again.nodes if node.state != "cached"} <= {"Resolver", "PreviousSpan"}
