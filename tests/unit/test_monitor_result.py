"""The stored files of monitoring: the result that other commands ask, and the reference."""

import dataclasses
import json

import numpy as np
import pytest

from components.monitoring_reference.artifact import ARRAYS_FILE, Reference, ReferenceSummary
from components.stored import IncompatibleArtifactError
from serving.monitor import result as results
from serving.monitor.result import DriftTest, MonitorResult, ResultError, Window
from trainer_module import image_statistics
from trainer_module.monitored import (
    MonitoredImages,
    MonitoredPredictions,
    TrainingImages,
    distances,
    stored_embeddings,
)


def result_of(alarm=True, version=7):
    test = DriftTest(
        kind="inputs", name="brightness", method="Kolmogorov-Smirnov", statistic=0.4, p_value=1e-6,
        adjusted_p_value=1e-5, drift=alarm, reference=100.0, window=float("nan"),
    )  # fmt: skip
    window = Window(log="requests/birds", first=10.0, last=20.0, requests=90, images=100)
    return MonitorResult(
        created=30.0, model="birds", version=version, alarm=alarm, false_alarm_rate=0.01, window=window,
        reference_images=200, tests=(test,),
    )  # fmt: skip


def test_a_result_is_read_as_it_was_written(tmp_path):
    assert results.read(tmp_path) is None
    folder = tmp_path / "new" / "monitor"
    assert result_of().write(folder) == folder / "monitor.json"
    read = results.read(folder)
    # NaN is not JSON.
    assert read.tests[0].window is None
    assert read.model_copy(update={"tests": ()}) == result_of().model_copy(update={"tests": ()})
    assert [path.name for path in folder.iterdir()] == ["monitor.json"]
    assert [test.name for test in read.drifted] == ["brightness"]


def test_an_alarm_is_over_when_another_version_is_served():
    assert result_of().is_alarm_for(7)
    assert not result_of().is_alarm_for(8) and not result_of().is_alarm_for(None)
    assert not result_of(alarm=False).is_alarm_for(7)


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_result_is_one_message(tmp_path, content):
    (tmp_path / "monitor.json").write_text(content)
    with pytest.raises(ResultError, match=r"monitor.json cannot be read: .*writes a new one"):
        results.read(tmp_path)


@pytest.fixture
def reference(rng):
    num, scores = 30, rng.dirichlet([1.0] * 3, 30).astype(np.float32)
    images = MonitoredImages(
        statistics=rng.normal(size=(num, len(image_statistics.NAMES))).astype(np.float32),
        embeddings=stored_embeddings(rng.normal(size=(num, 5))),
        predictions=MonitoredPredictions(scores, scores.argmax(axis=1), scores.max(axis=1)),
        quality=np.where(np.arange(num) % 3 == 0, np.nan, 1.0).astype(np.float32),
        labels=[("ä", "b")] * 10 + [()] * 20,
    )
    summary = ReferenceSummary(
        version=7, task="classification", classes=("ä", "b", "c"), ignore_id=None, window=(0, 65535), split="test",
        images=num, split_images=40,
    )  # fmt: skip
    thumbnails = rng.integers(0, 256, (num + 12, 64)).astype(np.float32)
    training = TrainingImages(stored_embeddings(rng.normal(size=(12, 5))), np.arange(12) % 2, thumbnails[num:])
    images = dataclasses.replace(images, distances=distances(images.embeddings, thumbnails[:num], training))
    return Reference(summary, images, training)


def test_a_reference_is_read_as_it_was_written(reference, tmp_path):
    reference.write(str(tmp_path / "reference"))
    read = Reference.read(str(tmp_path / "reference"))
    assert read.summary == reference.summary and list(read.images.labels) == list(reference.images.labels)
    for first, second in zip(read.training, reference.training, strict=True):
        np.testing.assert_array_equal(first, second)
    for name in ("statistics", "embeddings", "quality", "distances"):
        np.testing.assert_array_equal(getattr(read.images, name), getattr(reference.images, name))
    for first, second in zip(read.images.predictions, reference.images.predictions, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_reference_without_confidence(reference, tmp_path):
    predictions = reference.images.predictions._replace(confidence=None)
    dataclasses.replace(reference, images=dataclasses.replace(reference.images, predictions=predictions)).write(
        str(tmp_path)
    )
    assert Reference.read(str(tmp_path)).images.predictions.confidence is None


def test_a_reference_of_an_earlier_version_has_no_training_images(reference, tmp_path):
    earlier = dataclasses.replace(reference.images, distances=None)
    Reference(reference.summary, earlier).write(str(tmp_path))
    read = Reference.read(str(tmp_path))
    assert read.training is None and read.images.distances is None


def test_distances_of_another_kind_of_an_earlier_version_are_not_compared(reference, tmp_path):
    reference.write(str(tmp_path))
    with np.load(tmp_path / "reference.npz") as arrays:
        np.savez(tmp_path / "reference.npz", **{name: arrays[name] for name in arrays if name != "training_groups"})
    read = Reference.read(str(tmp_path))
    assert read.training is None and read.images.distances is None and len(read.images) == len(reference.images)


def test_a_reference_of_an_earlier_version_has_no_thumbnails(reference, tmp_path):
    embeddings = reference.images.distances[:, 0]
    earlier = dataclasses.replace(reference.images, distances=embeddings)
    Reference(reference.summary, earlier, reference.training._replace(thumbnails=None)).write(str(tmp_path))
    read = Reference.read(str(tmp_path))
    assert read.training.thumbnails is None
    np.testing.assert_array_equal(read.images.distances[:, 0], embeddings)
    assert read.images.distances.shape == (30, 2) and np.isnan(read.images.distances[:, 1]).all()


def test_a_reference_of_another_version_is_refused(reference, tmp_path, monkeypatch):
    reference.write(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(image_statistics, "NAMES", ("brightness",))
        with pytest.raises(IncompatibleArtifactError, match="another version"):
            Reference.read(str(tmp_path))
    document = json.loads((tmp_path / "reference.json").read_text())
    (tmp_path / ARRAYS_FILE).write_bytes(b"PK broken")
    with pytest.raises(IncompatibleArtifactError, match=r"reference.npz cannot be read"):
        Reference.read(str(tmp_path))
    (tmp_path / "reference.json").write_text(json.dumps(document | {"format": 9}))
    with pytest.raises(IncompatibleArtifactError, match="its format is 9"):
        Reference.read(str(tmp_path))
