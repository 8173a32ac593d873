"""Which folders are spans, and which spans are selected."""

import pytest

from components.image_example_gen import spans
from components.image_example_gen.errors import DatasetError


def resolve(root, pattern, selection="newest"):
    return [tuple(span) for span in spans.resolve(f"{root}/{pattern}", selection)]


@pytest.fixture
def folders(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).mkdir(parents=True)
        return tmp_path

    return make


def test_the_newest_version_of_every_span(folders):
    root = folders("span-1/v1", "span-1/v3", "span-2/v1", "span-x/v9", "other")
    assert resolve(root, "span-{SPAN}/v{VERSION}") == [(2, 1, "span-2/v1")]
    assert resolve(root, "span-{SPAN}/v{VERSION}", "1-2") == [(1, 3, "span-1/v3"), (2, 1, "span-2/v1")]


def test_dates_are_days_since_1970(folders):
    root = folders("2026-11-21", "2026-11-22", "2026-13-45")
    assert resolve(root, "{YYYY}-{MM}-{DD}") == [(20779, 0, "2026-11-22")]
    assert resolve(root, "{YYYY}-{MM}-{DD}", "newest:9") == [(20778, 0, "2026-11-21"), (20779, 0, "2026-11-22")]


def test_a_width_and_a_subfolder(folders):
    root = folders("s001/images", "s0002/images", "s003")
    assert resolve(root, "s{SPAN:3}/images") == [(1, 0, "s001/images")]


def test_the_same_number_twice_must_agree(folders):
    root = folders("1/day-1", "1/day-2", "2/day-2")
    assert resolve(root, "{SPAN}/day-{SPAN}", "newest:5") == [(1, 0, "1/day-1"), (2, 0, "2/day-2")]


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        (["day-1", "day-01"], "day-{SPAN}", "both span 1, version 0"),
        (["day-x"], "day-{SPAN}", "no folder matches"),
        (["2026"], "{YYYY}", r"needs \{SPAN\}"),
        (["a"], "b/day-{SPAN}", "does not exist"),
    ],
)
def test_spans_that_cannot_be_resolved(folders, names, pattern, message):
    with pytest.raises(DatasetError, match=message):
        resolve(folders(*names), pattern)


def test_the_root_is_above_the_first_placeholder():
    assert spans.root_of("/data/x/day-{SPAN}/v{VERSION}") == "/data/x"
    assert spans.root_of("gs://bucket/x/{YYYY}") == "gs://bucket/x"
    assert spans.has_spans("/data/{YYYY}") and not spans.has_spans("/data/{x}")
