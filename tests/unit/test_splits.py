"""How pictures are divided, and what is said of copies."""

import hashlib
from collections import Counter

import pytest

from components.image_example_gen import splits
from components.image_example_gen.options import DataOptions
from components.image_example_gen.splits import ClassTooSmallError, Record, divide


def digest(text) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def record(name, label="a", *, split="", group="", content=None, truth=None, hashed=None) -> Record:
    content = name if content is None else content
    return Record(str(name), label, split, group, digest(content), label if truth is None else truth, hashed)


def shares(records, division, label=None) -> dict[str, float]:
    counts = Counter(
        split for found, split in zip(records, division.splits, strict=True) if label in (None, found.label)
    )
    return {split: count / counts.total() for split, count in counts.items()}


def options(**said) -> DataOptions:
    return DataOptions(**said)


MANY = [record(i, "ab"[i % 2]) for i in range(5000)]


def test_shares_are_those_asked_for():
    found = divide(MANY, options(splits={"train": 0.7, "validation": 0.2, "test": 0.1}), ())
    assert shares(MANY, found) == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)


def test_a_picture_keeps_its_side_whatever_is_added():
    before = divide(MANY[:1000], options(), ())
    after = divide(MANY, options(), ())
    assert after.splits[:1000] == before.splits


def test_splits_of_the_data_are_kept_and_take_no_share():
    records = [record(i, "ab"[i % 2], split="test" if i % 5 == 0 else "") for i in range(2000)]
    found = divide(records, options(), ("train", "test"))
    assert all(split == "test" for i, split in enumerate(found.splits) if i % 5 == 0)
    drawn = [i for i in range(2000) if i % 5]
    assert {found.splits[i] for i in drawn} == {"train", "validation"}
    assert sum(found.splits[i] == "validation" for i in drawn) / len(drawn) == pytest.approx(0.15, abs=0.03)


def test_without_a_test_share_there_is_no_test():
    found = divide(MANY, options(splits={"train": 0.8, "validation": 0.2, "test": 0.0}), ())
    assert set(found.splits) == {"train", "validation"}


def test_by_class_every_class_has_its_exact_shares():
    records = [record(i, "a" if i % 10 else "b") for i in range(1000)]
    found = divide(records, options(splits={"by": "class"}), ())
    for label in "ab":
        assert shares(records, found, label) == {"train": 0.7, "validation": 0.15, "test": 0.15}


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_by_class_a_small_class_is_on_every_side(count):
    records = [record(f"{label}{i}", label) for label in "ab" for i in range(count)]
    found = divide(records, options(splits={"by": "class"}), ())
    for label in "ab":
        assert set(shares(records, found, label)) == {"train", "validation", "test"}


def test_a_class_too_small_for_its_shares_is_named():
    records = [*MANY, record("x", "rare"), record("y", "rare")]
    with pytest.raises(
        ClassTooSmallError, match=r"`rare` has 2 different pictures.*one in each of validation, test, train"
    ):
        divide(records, options(splits={"by": "class"}), ())


def test_a_class_that_the_hash_keeps_out_of_a_split_is_named():
    records = [*MANY, record("x", "rare")]
    with pytest.raises(ClassTooSmallError, match=r'`rare` has 1 pictures.*data\.splits\.by = "class"'):
        divide(records, options(), ())


@pytest.mark.parametrize("by", ["content", "class"])
def test_groups_stay_together(by):
    records = [record(i, "ab"[i % 2], group=f"patient-{i // 10}") for i in range(3000)]
    found = divide(records, options(splits={"by": by}), ())
    for start in range(0, 3000, 10):
        assert len(set(found.splits[start : start + 10])) == 1
    assert shares(records, found)["train"] == pytest.approx(0.7, abs=0.06)


def test_the_same_picture_in_two_groups_ties_them():
    records = [record(i, "ab"[i % 2], group=f"g{i // 2}") for i in range(2000)]
    records += [
        record(f"copy-{i}", "ab"[i % 2], group=f"g{(i // 2 + 500) % 1000}", content=i) for i in range(0, 2000, 50)
    ]
    found = divide(records, options(), ())
    by_content, by_group = {}, {}
    for one, split in zip(records, found.splits, strict=True):
        assert by_content.setdefault(one.sha256, split) == split
        assert by_group.setdefault(one.group, split) == split


def test_the_same_bytes_are_reported_and_stay_on_one_side():
    records = [*MANY, *(record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(200))]
    found = divide(records, options(), ())
    assert found.refused == {}
    assert splits.summary(found)["exact"] == {"groups": 200, "copies": 200, "astride": 0}
    for i in range(200):
        assert found.splits[i] == found.splits[5000 + i]


def test_copies_that_the_data_put_on_two_sides_are_counted():
    records = [record(i, "ab"[i % 2], split="train" if i % 2 else "test") for i in range(100)]
    records += [record("copy", "a", split="train", content=0), record("copy-2", "b", split="test", content=1)]
    found = divide(records, options(), ("train", "test", "validation"))
    assert splits.summary(found)["exact"]["astride"] == 2
    (first, _) = splits.report(records, found)
    assert first["pictures"] == [
        {"path": "0", "class": "a", "split": "test"},
        {"path": "copy", "class": "a", "split": "train"},
    ]


def test_conflicting_labels_are_refused_all_of_them():
    records = [*MANY, record("wrong", "b", content=0), record("right", "a", content=0)]
    found = divide(records, options(), ())
    assert set(found.refused) == {0, 5000, 5001}
    assert found.refused[5000] == "conflicting labels: the same picture is a in 0"
    assert found.refused[0] == "conflicting labels: the same picture is b in wrong"
    assert [found.splits[i] for i in (0, 5000, 5001)] == ["", "", ""]


def test_one_picture_with_two_masks_is_a_conflict():
    records = [
        record("x", "", truth="m1"),
        record("y", "", content="x", truth="m2"),
        *(record(i, "") for i in range(99)),
    ]
    assert "another mask in y" in divide(records, options(), ()).refused[0]


def test_pictures_that_look_alike_are_reported_and_on_request_kept_together():
    records = [record(i, "ab"[i % 2], hashed=hash_of(i // 3)) for i in range(3000)]
    apart = divide(records, options(), ())
    assert splits.summary(apart)["near"] == {
        "groups": 1000,
        "copies": 2000,
        "astride": splits.summary(apart)["near"]["astride"],
    }
    assert splits.summary(apart)["near"]["astride"] > 300
    together = divide(records, options(near_duplicates="together"), ())
    assert splits.summary(together)["near"] == {"groups": 1000, "copies": 2000, "astride": 0}
    off = divide(records, options(near_duplicates="off"), ())
    assert splits.summary(off)["near"]["groups"] == 0 and off.splits == apart.splits


def hash_of(number) -> int:
    return int(digest(number)[:15], 16)


def test_the_same_bytes_are_not_near_but_exact():
    records = [record(0, content="x", hashed=5), record(1, content="x", hashed=5), *MANY]
    found = divide(records, options(), ())
    assert [duplicates.kind for duplicates in found.duplicates] == ["exact"]


def test_a_few_groups_of_pictures_with_masks_are_divided():
    records = [record(i, "", group=f"sequence-{i % 3}") for i in range(90)]
    by_class = options(splits={"by": "class"}, group_pattern="(x)")
    assert set(divide(records, by_class, ()).splits) == {"train", "validation", "test"}
    with pytest.raises(ClassTooSmallError, match="There are only 2 groups of pictures, too few"):
        divide([one for one in records if one.group != "sequence-0"], by_class, ())


def test_what_the_data_do_not_name_goes_with_its_copy_that_they_name():
    records = [record(f"named-{i}", "ab"[i % 2], split="test", content=i) for i in range(200)]
    records += [record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(200)]
    records += [record(f"group-{i}", "ab"[i % 2], split="test", group=f"g{i}") for i in range(50)]
    records += [record(f"member-{i}", "ab"[i % 2], group=f"g{i}") for i in range(50)]
    records += MANY
    for by in ("content", "class"):
        found = divide(records, options(splits={"by": by}), ("test",))
        assert set(found.splits[:500]) == {"test"}
        assert splits.summary(found)["exact"]["astride"] == 0


def test_a_copy_without_a_group_does_not_move_the_group():
    grouped = [record(i, "ab"[i % 2], group=f"g{i // 10}") for i in range(2000)]
    before = divide(grouped, options(), ()).splits
    copies = [record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(0, 2000, 10)]
    assert divide([*grouped, *copies], options(), ()).splits[:2000] == before
