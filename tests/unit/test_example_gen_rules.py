"""How ImageExampleGen divides pictures among the splits."""

import hashlib

import pytest

from components.image_example_gen.executor import Options, split_of

DIGESTS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(5000)]


def shares(options: Options, folder: str | None) -> dict[str, float]:
    chosen = [split_of(digest, folder, options) for digest in DIGESTS]
    return {split: chosen.count(split) / len(chosen) for split in set(chosen)}


def test_shares_are_those_asked_for():
    found = shares(Options(classes=("a", "b"), validation=0.2, test=0.1), None)
    assert found == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)


def test_a_split_depends_on_the_content_alone():
    options = Options(classes=("a", "b"))
    assert len({split_of(DIGESTS[0], None, options) for _ in range(10)}) == 1


@pytest.mark.parametrize("folder", ["validation", "test"])
def test_a_folder_decides(folder):
    options = Options(classes=("a", "b"), split_folders=("train", folder))
    assert shares(options, folder) == {folder: 1.0}


def test_a_split_without_a_folder_gets_its_share_of_train():
    only_train = Options(classes=("a", "b"), split_folders=("train",), validation=0.2, test=0.1)
    assert shares(only_train, "train") == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)
    with_test = Options(classes=("a", "b"), split_folders=("train", "test"), validation=0.2, test=0.1)
    assert shares(with_test, "train") == pytest.approx({"train": 0.8, "validation": 0.2}, abs=0.02)
    complete = Options(classes=("a", "b"), split_folders=("train", "validation", "test"))
    assert shares(complete, "train") == {"train": 1.0}


def test_the_test_split_can_be_left_out():
    assert Options(classes=("a", "b"), test=0.0).splits() == ["train", "validation"]
    assert Options(classes=("a", "b"), test=0.0, split_folders=("train", "test")).splits() == [
        "train",
        "validation",
        "test",
    ]
