"""Folders that are spans, and the selection of spans."""

import datetime

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


def test_the_next_span_follows_the_newest_and_keeps_the_form_of_the_folders(tmp_path):
    today = datetime.date(2026, 3, 4)
    for name in ("span-08", "span-09"):
        (tmp_path / name).mkdir()
    assert spans.next_span(str(tmp_path / "span-{SPAN:2}"), today) == spans.Span(10, 0, "span-10")
    (tmp_path / "span-99").mkdir()
    with pytest.raises(DatasetError, match=r"span 100 has more than 2 digits\. Rename the folders, and use \{SPAN:3\}"):
        spans.next_span(str(tmp_path / "span-{SPAN:2}"), today)
    # Without a span, the first version of the first one.
    assert spans.next_span(str(tmp_path / "{SPAN:3}/v{VERSION}/images"), today) == spans.Span(1, 1, "001/v1/images")


def test_a_day_has_one_span(tmp_path):
    pattern, today = str(tmp_path / "{YYYY}-{MM}-{DD}"), datetime.date(2026, 3, 4)
    assert spans.next_span(pattern, today) == spans.Span(20516, 0, "2026-03-04")  # days since 1970
    (tmp_path / "2026-03-04").mkdir()
    with pytest.raises(DatasetError, match=r"there is a span of 2026-03-04 already\. Write the next one tomorrow"):
        spans.next_span(pattern, today)
