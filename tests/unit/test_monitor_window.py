"""Windows of a request log: which requests they contain, in every content mode, and why there is none."""

import numpy as np
import pytest

from serving.monitor import window
from serving.monitor.errors import WindowError
from serving.monitor.window import WindowOptions
from serving.request_log.options import Content

NOW = 1_700_000_000.0
OPTIONS = WindowOptions(images=20, min_images=5, max_age_s=3600.0)


@pytest.fixture
def writer(request_logs, tmp_path):
    def make(content=Content.IMAGE):
        return request_logs.LogWriter(tmp_path / "logs" / "birds", content)

    return make


def probabilities(num, value=0.5):
    return {"probabilities": np.full((num, 2), value, np.float32)}


def read(tmp_path, options=OPTIONS, version=7, now=NOW, outputs=("probabilities",)):
    return window.read(tmp_path / "logs" / "birds", "birds", version, outputs, options, now)


def test_the_newest_images_are_a_window(writer, tmp_path):
    log = writer()
    for index in range(30):
        log.add(NOW - 100 + index, [b"image %d" % index], probabilities(1, index / 100))
    log.close()
    loaded = read(tmp_path)
    assert loaded.files() == [b"image %d" % index for index in range(10, 30)]
    np.testing.assert_allclose(loaded.outputs()["probabilities"][:, 0], np.arange(10, 30) / 100, rtol=1e-6)
    assert (loaded.window.first, loaded.window.last) == (NOW - 90, NOW - 71)
    assert (loaded.window.images, loaded.window.requests, loaded.window.labelled) == (20, 20, 0)
    assert loaded.skipped == {} and loaded.embeddings() is None


def test_images_of_several_servers_are_ordered_by_time(writer, tmp_path):
    first, second = writer(), writer()
    for index in range(10):
        first.add(NOW - 50 + 2 * index, [b"%d" % (2 * index)], probabilities(1))
        second.add(NOW - 50 + 2 * index + 1, [b"%d" % (2 * index + 1)], probabilities(1))
    second.close()
    first.close()
    assert read(tmp_path, OPTIONS._replace(images=6)).files() == [b"%d" % index for index in range(14, 20)]


def test_a_request_with_several_images_and_feedback(writer, tmp_path):
    log = writer()
    log.add(NOW - 9, [b"a", b"b", b"c"], probabilities(3), labels=["cat", "dog"])
    log.add(NOW - 8, [b"d", b"e", b"f"], probabilities(3))
    log.close()
    loaded = read(tmp_path)
    assert [image.label for image in loaded.images] == ["cat", "dog", None, None, None, None]
    assert (loaded.window.images, loaded.window.requests, loaded.window.labelled) == (6, 2, 2)


def test_embeddings_and_responses_only(writer, tmp_path):
    log = writer(Content.EMBEDDING)
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    log.add(NOW - 9, [b"a"] * 6, probabilities(6), embeddings=vectors)
    log.close()
    loaded = read(tmp_path)
    assert loaded.files() is None
    np.testing.assert_array_equal(loaded.embeddings(), vectors)
    log = writer(Content.RESPONSE)
    log.add(NOW - 8, [b"a"] * 2, probabilities(2))
    log.close()
    mixed = read(tmp_path).embeddings()
    assert mixed.shape == (8, 2) and np.isnan(mixed[6:]).all() and not np.isnan(mixed[:6]).any()


def test_other_requests_are_skipped_and_counted(writer, tmp_path):
    log = writer()
    log.add(NOW - 9, [b"a"] * 5, probabilities(5))
    log.add(NOW - 8, [b"b"], probabilities(1), version=6)
    log.add(NOW - 7, [b"c"], probabilities(1), model="fish")
    log.add(NOW - 6, [b"d"], {"embedding": np.zeros((1, 2), np.float32)}, signature="embed")
    log.add(NOW - 4000, [b"old"] * 5, probabilities(5))
    log.close()
    loaded = read(tmp_path)
    assert loaded.files() == [b"a"] * 5
    assert loaded.skipped == {
        "of version 6": 1,
        "of the model `fish`": 1,
        "of the signature `embed`, whose outputs are not monitored": 1,
    }


def test_only_requests_after_a_time(writer, tmp_path):
    log = writer()
    for second in (30, 20, 10):
        log.add(NOW - second, [b"%d" % second] * 5, probabilities(5))
    log.close()
    assert set(read(tmp_path, OPTIONS._replace(after=NOW - 20)).files()) == {b"10"}


def test_windows_follow_each_other_without_a_gap(writer, tmp_path):
    log = writer()
    for index in range(50):
        # Two images a second: the 20th and the 21st have the same time.
        log.add(NOW - 100 + (index + 1) // 2, [b"%d" % index], probabilities(1))
    log.close()
    options, tested, sizes = OPTIONS._replace(after=NOW - 101), [], []
    for _ in range(3):
        loaded = read(tmp_path, options)
        tested += loaded.files()
        sizes.append(loaded.window.images)
        assert not loaded.untested
        options = options._replace(after=loaded.window.last)
    assert tested == [b"%d" % index for index in range(50)] and sizes == [21, 20, 9]
    with pytest.raises(WindowError, match="0 images"):
        read(tmp_path, options)


def test_windows_that_arrive_faster_than_they_are_tested_are_skipped(writer, tmp_path):
    log = writer()
    for index in range(405):
        log.add(NOW - 500 + index, [b"%d" % index], probabilities(1))
    log.close()
    loaded = read(tmp_path, OPTIONS._replace(after=NOW - 501))
    assert loaded.files() == [b"%d" % index for index in range(385, 405)] and loaded.untested == 385
    loaded = read(tmp_path, OPTIONS._replace(after=NOW - 501 + 5))
    assert loaded.files() == [b"%d" % index for index in range(5, 25)] and not loaded.untested


def test_older_files_are_read_if_the_newest_are_not_enough(writer, tmp_path):
    log = writer()
    for hour in range(20, 0, -1):
        log.add(NOW - 3600 * hour, [b"x"], probabilities(1))
    log.close()
    day = OPTIONS._replace(max_age_s=24 * 3600.0)
    assert read(tmp_path, day).window.images == 20
    assert read(tmp_path, OPTIONS._replace(max_age_s=10.5 * 3600.0)).window.images == 10


def test_no_log(tmp_path):
    with pytest.raises(WindowError, match=r"There is no request log .*birds.* --request-log"):
        read(tmp_path)


def test_too_few_requests(writer, tmp_path):
    log = writer()
    log.add(NOW - 9, [b"a"] * 3, probabilities(3))
    log.add(NOW - 8, [b"b"] * 2, probabilities(2), version=6)
    log.close()
    message = r"has 3 images of version 7 in the last 1 hours; at least 5 are needed; 1 requests of version 6"
    with pytest.raises(WindowError, match=message):
        read(tmp_path)


def test_classify_responses_have_probabilities():
    outputs = {"classes": np.array([[b"a", b"b"]], dtype=object), "scores": np.array([[0.2, 0.8]], np.float32)}
    assert window._with_probabilities(outputs)["probabilities"].tolist() == outputs["scores"].tolist()
