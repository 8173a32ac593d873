"""Assignment of images to splits, and the summary of duplicates."""

import hashlib
import re
from collections import Counter

import pytest

from components.image_example_gen import boxes
from components.image_example_gen.artifact import DuplicateGroup, DuplicateImage
from components.image_example_gen.errors import ClassTooSmallError
from components.image_example_gen.observations import Occurrences
from components.image_example_gen.options import DataOptions
from components.image_example_gen.splits import Record


def digest(text) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def record(name, label="a", *, split="", group="", content=None, label_digest="", image_hash=None) -> Record:
    content = name if content is None else content
    classes = (label,) if label else ()
    return Record(str(name), classes, split, group, digest(content), label_digest or label, image_hash)


def duplicates(division, kind):
    counts = division.duplicates[kind]
    return counts.groups, counts.duplicates, counts.leaking_groups


def shares(records, division, label=None) -> dict[str, float]:
    counts = Counter(
        split for one, split in zip(records, division.splits, strict=True) if label is None or label in one.classes
    )
    return {split: count / counts.total() for split, count in counts.items()}


def options(**settings) -> DataOptions:
    return DataOptions(**settings)


MANY = [record(i, "ab"[i % 2]) for i in range(5000)]


def test_split_fractions(divide):
    division = divide(MANY, options(splits={"train": 0.7, "validation": 0.2, "test": 0.1}), ())
    assert shares(MANY, division) == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.02)


def test_an_image_keeps_its_split_when_images_are_added(divide):
    before = divide(MANY[:1000], options(), ())
    after = divide(MANY, options(), ())
    assert after.splits[:1000] == before.splits


def test_assigned_splits_are_kept_and_are_not_drawn_from(divide):
    records = [record(i, "ab"[i % 2], split="test" if i % 5 == 0 else "") for i in range(2000)]
    division = divide(records, options(), ("train", "test"))
    assert all(split == "test" for i, split in enumerate(division.splits) if i % 5 == 0)
    drawn = [i for i in range(2000) if i % 5]
    assert {division.splits[i] for i in drawn} == {"train", "validation"}
    assert sum(division.splits[i] == "validation" for i in drawn) / len(drawn) == pytest.approx(0.15, abs=0.03)


def test_no_test_split_without_a_fraction(divide):
    division = divide(MANY, options(splits={"train": 0.8, "validation": 0.2, "test": 0.0}), ())
    assert set(division.splits) == {"train", "validation"}


def test_by_class_every_class_has_its_exact_fractions(divide):
    records = [record(i, "a" if i % 10 else "b") for i in range(1000)]
    division = divide(records, options(splits={"by": "class"}), ())
    for label in "ab":
        assert shares(records, division, label) == {"train": 0.7, "validation": 0.15, "test": 0.15}


@pytest.mark.parametrize("count", [3, 4, 5, 9])
def test_by_class_a_small_class_is_in_every_split(divide, count):
    records = [record(f"{label}{i}", label) for label in "ab" for i in range(count)]
    division = divide(records, options(splits={"by": "class"}), ())
    for label in "ab":
        assert set(shares(records, division, label)) == {"train", "validation", "test"}


@pytest.mark.parametrize("by", ["content", "class"])
def test_a_class_too_small_for_its_fractions_is_refused_with_advice_that_works(divide, by):
    records = [*MANY, record("x", "rare"), record("y", "rare")]
    with pytest.raises(
        ClassTooSmallError, match=r"`rare` has 2 different images.*one in each of validation, test, train"
    ) as caught:
        divide(records, options(splits={"by": by}), ())
    advice = dict(re.findall(r"--set data\.splits\.(\w+)=([\d.]+)", str(caught.value)))
    without_test = divide(records, options(splits={"by": by, **{key: float(text) for key, text in advice.items()}}), ())
    assert sorted(without_test.splits[-2:]) == ["train", "validation"]


def test_a_class_of_one_image_is_refused(divide):
    with pytest.raises(ClassTooSmallError, match="`rare` has 1 different image to divide, too few for one in each"):
        divide([*MANY, record("x", "rare")], options(), ())


# --- Small classes ----------------------------------------------------------------------------------------------

FRACTIONS = [(0.7, 0.15, 0.15), (0.8, 0.1, 0.1), (0.72, 0.08, 0.2), (0.34, 0.33, 0.33), (0.9, 0.1, 0.0)]


def assigned(divide, records, settings) -> dict[str, str]:
    return dict(zip([one.path for one in records], divide(records, settings, ()).splits, strict=True))


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_a_small_class_is_divided_exactly(divide, fractions):
    settings = options(splits=dict(zip(("train", "validation", "test"), fractions, strict=True)))
    written = sum(fraction > 0 for fraction in fractions)
    for count in [*range(written, 13), 17, 25, 43]:
        records = [record(f"{count}-{i}", "rare") for i in range(count)]
        counts = Counter(divide([*MANY, *records], settings, ()).splits[len(MANY) :])
        assert len(counts) == written
        for split, fraction in zip(("train", "validation", "test"), fractions, strict=True):
            # Rounding, and at least one in each: of three images, one is in each split.
            assert counts[split] == pytest.approx(count * fraction, abs=1.0 + (count < 7) * 1.2)


@pytest.mark.parametrize("fractions", FRACTIONS)
def test_an_image_that_is_added_to_a_small_class_moves_few_others(divide, fractions):
    settings = options(splits=dict(zip(("train", "validation", "test"), fractions, strict=True)))
    records = [record(f"grown-{i}", "rare") for i in range(45)]
    before = assigned(divide, records[:3], settings)
    for count in range(4, 45):  # with each of these fractions, the class is small
        after = assigned(divide, records[:count], settings)
        assert sum(after[path] != split for path, split in before.items()) <= 3
        before = after


def test_a_small_class_does_not_change_the_splits_of_large_ones(divide, reference_division):
    alone = divide(MANY, options(), ()).splits
    assert divide([*MANY, *(record(f"r{i}", "rare") for i in range(12))], options(), ()).splits[: len(MANY)] == alone
    # A large class is drawn by position, as before there were small ones.
    fractions = {"validation": 0.15, "test": 0.15, "train": 0.7}
    positions = [reference_division.position_of(one.sha256) for one in MANY]
    assert alone == [reference_division._split_at(position, fractions) for position in positions]


def test_a_growing_class_changes_few_splits_where_it_becomes_large(divide):
    records = [record(f"growing-{i}", "rare") for i in range(100)]
    small, large = assigned(divide, records[:99], options()), assigned(divide, records, options())
    assert sum(small[path] != large[path] for path in small) <= 15
    assert [large[one.path] for one in records] == divide([*records, *MANY], options(), ()).splits[:100]


def test_duplicates_and_groups_of_a_small_class_stay_together(divide):
    records = [record(f"{i}-{copy}", "rare", content=i) for i in range(5) for copy in range(4)]
    records += [record(f"p{i}", "other", group=f"patient-{i % 4}") for i in range(20)]
    division = divide(records, options(), ())
    split_of = dict(zip(records, division.splits, strict=True))
    for key, num_units in (("sha256", 5), ("group", 4)):
        units = {}
        for one, split in split_of.items():
            if getattr(one, key) and (key == "group") == bool(one.group):
                units.setdefault(getattr(one, key), set()).add(split)
        assert len(units) == num_units and all(len(unit) == 1 for unit in units.values())
        assert set().union(*units.values()) == {"train", "validation", "test"}


def test_patients_with_several_classes_are_divided_by_the_rarest(divide):
    records = [record(f"{i}-{j}", "ab"[j % 2], group=f"patient-{i}") for i in range(9) for j in range(6)]
    records += [record(f"rare-{i}", "rare", group=f"patient-{i}") for i in range(3)]
    for by in ("content", "class"):
        division = divide(records, options(splits={"by": by}), ())
        for label in ("a", "b", "rare"):
            assert set(shares(records, division, label)) == {"train", "validation", "test"}


def test_a_few_images_with_masks_are_divided(divide):
    counts = Counter(divide([record(i, "") for i in range(12)], options(), ()).splits)
    assert counts == {"train": 8, "validation": 2, "test": 2}


@pytest.mark.parametrize("by", ["content", "class"])
def test_groups_stay_together(divide, by):
    records = [record(i, "ab"[i % 2], group=f"patient-{i // 10}") for i in range(3000)]
    division = divide(records, options(splits={"by": by}), ())
    for start in range(0, 3000, 10):
        assert len(set(division.splits[start : start + 10])) == 1
    assert shares(records, division)["train"] == pytest.approx(0.7, abs=0.06)


def test_the_same_image_in_two_groups_connects_them(divide):
    records = [record(i, "ab"[i % 2], group=f"g{i // 2}") for i in range(2000)]
    records += [
        record(f"copy-{i}", "ab"[i % 2], group=f"g{(i // 2 + 500) % 1000}", content=i) for i in range(0, 2000, 50)
    ]
    division = divide(records, options(), ())
    by_content, by_group = {}, {}
    for one, split in zip(records, division.splits, strict=True):
        assert by_content.setdefault(one.sha256, split) == split
        assert by_group.setdefault(one.group, split) == split


def test_exact_duplicates_are_reported_and_stay_in_one_split(divide):
    records = [*MANY, *(record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(200))]
    division = divide(records, options(), ())
    assert division.refused == {}
    assert duplicates(division, "exact") == (200, 200, 0)
    for i in range(200):
        assert division.splits[i] == division.splits[5000 + i]


def test_leaking_duplicates_of_assigned_splits_are_counted(divide):
    records = [record(i, "ab"[i % 2], split="train" if i % 2 else "test") for i in range(100)]
    records += [record("copy", "a", split="train", content=0), record("copy-2", "b", split="test", content=1)]
    division = divide(records, options(), ("train", "test", "validation"))
    assert duplicates(division, "exact")[2] == 2
    images = [
        DuplicateImage(path=path, classes=("a",), split=split) for path, split in (("0", "test"), ("copy", "train"))
    ]
    assert division.groups[0] == DuplicateGroup(kind="exact", images=tuple(images))


def test_all_images_with_conflicting_labels_are_refused(divide):
    records = [*MANY, record("wrong", "b", content=0), record("right", "a", content=0)]
    division = divide(records, options(), ())
    assert set(division.refused) == {0, 5000, 5001}
    assert division.refused[5000] == "conflicting labels: the same image has class a in 0"
    assert division.refused[0] == "conflicting labels: the same image has class b in wrong"
    assert [division.splits[i] for i in (0, 5000, 5001)] == ["", "", ""]


def test_one_image_with_two_masks_is_a_conflict(divide):
    records = [
        record("x", "", label_digest="m1"),
        record("y", "", content="x", label_digest="m2"),
        *(record(i, "") for i in range(99)),
    ]
    assert "another label in y" in divide(records, options(), ()).refused[0]


def test_one_image_with_two_sets_of_classes_is_a_conflict(divide):
    same = digest("same")
    sets = {"x": ("a", "b"), "y": ("a",), "z": ("a", "b")}
    records = [Record(name, classes, "", "", same, "+".join(classes), None) for name, classes in sets.items()]
    division = divide([*records, *(record(i, "ab"[i % 2]) for i in range(99))], options(), ())
    assert division.refused == {
        0: "conflicting labels: the same image has class a in y",
        1: "conflicting labels: the same image has class a, b in x",
        2: "conflicting labels: the same image has class a in y",
    }
    agreeing = divide([records[0], records[2], *(record(i, "ab"[i % 2]) for i in range(99))], options(), ())
    assert not agreeing.refused and duplicates(agreeing, "exact")[0] == 1


def test_near_duplicates_are_reported_and_on_request_kept_together(divide):
    records = [record(i, "ab"[i % 2], image_hash=hash_of(i // 3)) for i in range(3000)]
    apart = divide(records, options(), ())
    groups, duplicate_images, leaking = duplicates(apart, "near")
    assert (groups, duplicate_images) == (1000, 2000) and leaking > 300
    together = divide(records, options(near_duplicates="together"), ())
    assert duplicates(together, "near") == (1000, 2000, 0)
    off = divide(records, options(near_duplicates="off"), ())
    assert duplicates(off, "near")[0] == 0 and off.splits == apart.splits


def hash_of(number) -> int:
    return int(digest(number)[:15], 16)


def test_the_same_bytes_are_exact_duplicates_only(divide):
    records = [record("x", image_hash=5), record("copy", content="x", image_hash=5), *MANY]
    division = divide(records, options(), ())
    assert [group.kind for group in division.groups] == ["exact"]


def test_a_few_groups_of_images_with_masks_are_divided(divide):
    records = [record(i, "", group=f"sequence-{i % 3}") for i in range(90)]
    by_class = options(splits={"by": "class"}, group_pattern="(x)")
    assert set(divide(records, by_class, ()).splits) == {"train", "validation", "test"}
    with pytest.raises(ClassTooSmallError, match="There are only 2 groups of images to divide, too few"):
        divide([one for one in records if one.group != "sequence-0"], by_class, ())


def test_an_image_follows_its_duplicate_or_group_with_an_assigned_split(divide):
    records = [record(f"named-{i}", "ab"[i % 2], split="test", content=i) for i in range(200)]
    records += [record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(200)]
    records += [record(f"group-{i}", "ab"[i % 2], split="test", group=f"g{i}") for i in range(50)]
    records += [record(f"member-{i}", "ab"[i % 2], group=f"g{i}") for i in range(50)]
    records += MANY
    for by in ("content", "class"):
        division = divide(records, options(splits={"by": by}), ("test",))
        assert set(division.splits[:500]) == {"test"}
        assert duplicates(division, "exact")[2] == 0


def test_a_duplicate_without_a_group_does_not_move_the_group(divide):
    grouped = [record(i, "ab"[i % 2], group=f"g{i // 10}") for i in range(2000)]
    before = divide(grouped, options(), ()).splits
    copies = [record(f"copy-{i}", "ab"[i % 2], content=i) for i in range(0, 2000, 10)]
    assert divide([*grouped, *copies], options(), ()).splits[:2000] == before


def test_every_class_of_an_image_counts(divide):
    records = [Record(f"{i}", ("a", "b") if i % 3 else ("b",), "", "", digest(i), "", None) for i in range(2000)]
    for by in ("content", "class"):
        division = divide(records, options(splits={"by": by}), ())
        counts = division.tally.counts(("train", "validation", "test"), ("a", "b"))
        for split, split_counts in counts.items():
            members = [one for one, its_split in zip(records, division.splits, strict=True) if its_split == split]
            assert split_counts.examples == split_counts.classes["b"] == len(members)
            assert split_counts.classes["a"] == sum("a" in one.classes for one in members) < len(members)
    rare = [*records, Record("x", ("b", "rare"), "", "", digest("x"), "", None)]
    with pytest.raises(ClassTooSmallError, match="`rare` has 1 different image"):
        divide(rare, options(), ())


# --- Images with boxes ------------------------------------------------------------------------------------------


def boxed(name, *classes) -> Record:
    return Record(str(name), classes, "", "", digest(name), str(name), None)


def test_boxes_are_stratified_by_the_rarest_class_of_an_image(divide):
    rare = [boxed(f"rare{i}", "cell", "rare") for i in range(4)]
    records = [*rare, *(boxed(i, "cell") for i in range(60)), *(boxed(f"both{i}", "cell", "other") for i in range(20))]
    division = divide(records, options(splits={"by": "class"}), ())
    for name in ("rare", "other", "cell"):
        assert shares(records, division, name).keys() == {"train", "validation", "test"}
    assert shares(records, division, "cell") == pytest.approx(
        {"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.05
    )


@pytest.mark.parametrize("by", ["class", "content"])
@pytest.mark.parametrize("negatives", [1, 2])
def test_few_images_without_boxes_are_no_reason_to_stop(divide, by, negatives):
    records = [boxed(i, "cell") for i in range(60)] + [boxed(f"empty{i}") for i in range(negatives)]
    assert all(divide(records, options(splits={"by": by}), ()).splits)


def test_identical_images_with_similar_boxes_are_used_together(divide):
    similar = [boxed(i, "cell")._replace(sha256=digest("same")) for i in range(3)]
    corners = [(0.1, 0.2, 0.5, 0.6), (0.11, 0.2, 0.5, 0.6), (0.6, 0.6, 0.9, 0.9)]
    encoded = [boxes.encode([boxes.Box(*four, "cell")], ("cell",)) for four in corners]
    similar = [record._replace(boxes=each) for record, each in zip(similar, encoded, strict=True)]
    others = [boxed(f"x{i}", "cell") for i in range(40)]
    division = divide([*similar[:2], *others], options(), ())
    assert not division.refused and len(set(division.splits[:2])) == 1
    assert division.similar == Occurrences(2, ("0", "1"))
    division = divide([*similar, *others], options(), ())
    assert division.refused == {
        0: "conflicting labels: the same image has another label in 2",
        1: "conflicting labels: the same image has another label in 2",
        2: "conflicting labels: the same image has another label in 0",
    }
