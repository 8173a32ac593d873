"""Layouts with boxes: one test per problem that users report; every box is used, corrected or refused by name."""

import json

import pytest

from components.image_example_gen import boxes
from components.image_example_gen.boxes import Annotation, normalize
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.options import DataOptions

SIZE = {"height": 80, "width": 100}  # of all images


@pytest.fixture
def write(tmp_path):
    """Writes files below the data folder; names of images get a few bytes, which no layout reads."""

    def run(*images, **texts):
        for name in images:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"image")
        for name, text in texts.pop("texts", {}).items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if isinstance(text, str) else json.dumps(text))
        return tmp_path / "data"

    return run


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


def annotations(dataset):
    return {entry.path: Annotation.from_label(dict(entry.label)) for entry in dataset.entries}


def fitted(dataset):
    """Returns name and corners in pixels of every box, by path, and the corrections of all images."""
    results, corrections = {}, {}
    for path, annotation in annotations(dataset).items():
        normalized = normalize(annotation, **SIZE)
        results[path] = [
            (box.name, *(round(value * side, 3) for value, side in zip(box[:4], (100, 80, 100, 80), strict=True)))
            for box in normalized.boxes
        ]
        corrections |= {kind: corrections.get(kind, 0) + count for kind, count in normalized.corrections.items()}
    return results, corrections


def reasons(dataset):
    return dict(dataset.refused)


# --- Pascal VOC -------------------------------------------------------------------------------------------------


def voc_object(*corners, name="cat", more=""):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags if value is not None)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


VOC_SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"
CAT, DOG = voc_object(11, 21, 50, 60), voc_object(1, 1, 100, 80, name="dog")


def voc(*objects, size=VOC_SIZE, filename="x.jpg"):
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def write_voc(write):
    """Writes `Annotations` and `JPEGImages`: stem → document. Two more images have one box of each class."""

    def run(texts=None, *images, **documents):
        documents = {"a": voc(CAT, DOG), "b": voc(CAT, DOG), **documents}
        names = [f"JPEGImages/{stem}.jpg" for stem in documents]
        texts = {f"Annotations/{stem}.xml": document for stem, document in documents.items()} | (texts or {})
        return write(*names, *images, texts=texts)

    return run


def test_voc_counts_pixels_from_one(write_voc):
    dataset = inspect(write_voc())
    assert (dataset.layout, dataset.classes) == ("voc", ("cat", "dog"))
    boxes_of, corrections = fitted(dataset)
    assert boxes_of["JPEGImages/a.jpg"] == [("dog", 0, 0, 100, 80), ("cat", 10, 20, 50, 60)]
    assert not corrections


def test_voc_from_zero_is_detected_over_all_files(write_voc):
    at_zero = voc(voc_object(0, 20, 50, 60), voc_object(10, 0, 50, 60), voc_object(0, 0, 100, 80, name="dog"))
    dataset = inspect(write_voc(c=at_zero))
    assert fitted(dataset)[0]["JPEGImages/c.jpg"][0] == ("dog", 0, 0, 100, 80)
    assert fitted(dataset)[0]["JPEGImages/a.jpg"][-1] == ("cat", 11, 21, 50, 60)
    assert "coordinates begin at 0" in dataset.notes[0]
    single = inspect(write_voc(c=voc(voc_object(0, 20, 50, 60))))  # one such box beside two at 1 is an error in it
    assert single.notes == ()
    assert fitted(single)[0]["JPEGImages/c.jpg"] == [("cat", 0, 19, 50, 60)]


def test_voc_difficult_objects_are_kept(write_voc):
    more = "<pose>Left</pose><truncated>1</truncated><difficult>1</difficult>"
    given = annotations(inspect(write_voc(c=voc(CAT, voc_object(1, 1, 9, 9, more=more)))))["JPEGImages/c.jpg"]
    assert [box.difficult for box in given.boxes] == [False, True]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (voc(voc_object(11, 21, None, 60)), r"an incomplete box: <xmax> of object 1 \(`cat`\) is missing"),
        (voc(CAT, voc_object(11, "x", 5, 60)), r"an incomplete box: <ymin> of object 2 \(`cat`\) is `x`"),
        (voc(voc_object("nan", 2, 3, 4)), "is `nan`"),
        (voc(voc_object(1, 2, 3, 4, name=" ")), "an object without a name: object 1"),
        (voc("<object><name>cat</name></object>"), "an object without a box"),
        (voc("<object><name>cat</name><robndbox><cx>5</cx></robndbox></object>"), "a rotated box: object 1"),
        ("<annotations></annotations>", "its root is <annotations>"),
        (voc(CAT)[:-5], "not XML"),
        (f"<annotation>{'<object>' * 20_000}{'</object>' * 20_000}</annotation>", "an object without a name"),
        ("", "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>', "declares entities"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "declares entities"),
    ],
)
def test_unusable_voc_files_quarantine_their_image(write_voc, document, reason):
    dataset = inspect(write_voc(c=document))
    assert len(dataset.entries) == 2
    ((path, given),) = dataset.refused
    assert path == "JPEGImages/c.jpg" and given.startswith("unusable annotation: Annotations/c.xml: ")
    assert reason.replace("\\", "") in given


@pytest.mark.parametrize(
    "document",
    [
        voc(CAT, size=""),
        voc(CAT, size="<size><width>0</width><height>0</height></size>"),
        voc(CAT, size="<size><width>?</width></size>"),
        voc(CAT).replace("<filename>x.jpg</filename>", ""),
        voc(CAT).replace("<object>", "<object><part><name>head</name><bndbox/></part>"),
        voc(voc_object("11.0", " 21 ", "50", "60")),
    ],
)
def test_missing_tags_that_nothing_depends_on(write_voc, document):
    dataset = inspect(write_voc(c=document))
    assert dataset.refused == ()
    assert fitted(dataset)[0]["JPEGImages/c.jpg"] == [("cat", 10, 20, 50, 60)]


def test_voc_boxes_without_area_swapped_and_outside(write_voc):
    given = voc(
        voc_object(30, 40, 30, 40),  # a click, as in BCCD
        voc_object(50, 60, 11, 21),
        voc_object(91, 71, 120, 90, name="dog"),
        voc_object(91, 71, 120, 90, name="dog"),
    )
    boxes_of, corrections = fitted(inspect(write_voc(c=given)))
    assert boxes_of["JPEGImages/c.jpg"] == [("cat", 10, 20, 50, 60), ("dog", 90, 70, 100, 80)]
    assert corrections == {boxes.EMPTY: 1, boxes.SWAPPED: 1, boxes.CLIPPED: 2, boxes.DUPLICATE: 1}


def test_images_without_boxes_are_negatives(write_voc):
    dataset = inspect(write_voc(c=voc()))
    assert annotations(dataset)["JPEGImages/c.jpg"].boxes == () and len(dataset.entries) == 3
    assert dataset.entries[2].classes == ()


def test_voc_image_sets_name_splits_and_images(write_voc):
    sets = {
        "ImageSets/Main/train.txt": "a\nJPEGImages/b.jpg\ngone\nboth\n",
        "ImageSets/Main/val.txt": "c  1\nboth\nbare\n",
        "ImageSets/Main/trainval.txt": "a\nb\nc\nd\n",
        "ImageSets/Main/cat_train.txt": "e 1\n",
    }
    root = write_voc(sets, "JPEGImages/bare.jpg", *(), c=voc(CAT, DOG), d=voc(CAT), e=voc(CAT), both=voc(DOG))
    dataset = inspect(root)
    assert {entry.path[11]: entry.split for entry in dataset.entries} == {
        **{"a": "train", "b": "train", "c": "validation", "d": ""}
    }
    assert reasons(dataset) == {
        "JPEGImages/bare.jpg": "no annotation; for a negative write an XML file without objects",
        "JPEGImages/both.jpg": "in several lists of ImageSets: train, validation",
        "gone": "listed in ImageSets, but there is no such image",
    }
    assert dataset.notes == ("1 images are in no list of ImageSets/Main and are not used: JPEGImages/e.jpg",)


def test_voc_lists_of_single_classes_name_splits_if_there_are_no_others(write_voc):
    sets = {
        "ImageSets/Main/cat_train.txt": "a  1\nb -1\n",
        "ImageSets/Main/dog_train.txt": "a  0\nb  1\n",
        "ImageSets/Main/cat_val.txt": "c  1\n",
        "ImageSets/Main/readme.txt": "d\n",
    }
    dataset = inspect(write_voc(sets, c=voc(CAT, DOG), d=voc(CAT)))
    # Without images of the test split, those for training are divided.
    assert {entry.path[11]: entry.split for entry in dataset.entries} == {"a": "", "b": "", "c": "validation"}
    assert dataset.own_splits == ("train", "validation")
    assert dataset.notes == ("1 images are in no list of ImageSets/Main and are not used: JPEGImages/d.jpg",)


@pytest.mark.parametrize("name", ["my cat {}", "cat 1 -{}", "a.b {}"])
def test_names_in_image_sets_may_have_spaces_and_end_with_a_number(write, name):
    """The number behind a name is one of a list of a class only if it is not part of the name."""
    stems = [name.format(number) for number in (0, 1)]
    texts = {f"Annotations/{stem}.xml": voc(CAT, DOG) for stem in stems}
    texts |= {f"ImageSets/Main/{split}.txt": f"{stem}\n" for split, stem in zip(("train", "val"), stems, strict=True)}
    dataset = inspect(write(*(f"JPEGImages/{stem}.jpg" for stem in stems), texts=texts))
    assert (dataset.own_splits, dataset.refused) == (("train", "validation"), ())


@pytest.mark.parametrize(
    "filename", ["other.png", "../x/9.jpg", "", "b.jpg"], ids=["another", "path", "empty", "of another image"]
)
def test_voc_files_belong_to_the_image_of_their_name(write_voc, filename):
    """`filename` is often that of another machine or of a copied file; it counts only if there is nothing else."""
    dataset = inspect(write_voc(c=voc(CAT, filename=filename)))
    assert dataset.refused == () and len(annotations(dataset)["JPEGImages/c.jpg"].boxes) == 1


def test_voc_files_of_other_names_belong_to_the_image_that_they_name(write_voc):
    given = {"Annotations/0001.xml": voc(CAT, filename="photo 1.jpg"), "Annotations/0002.xml": voc(DOG, filename="x")}
    dataset = inspect(write_voc(given, "JPEGImages/photo 1.jpg"))
    assert len(annotations(dataset)["JPEGImages/photo 1.jpg"].boxes) == 1
    assert reasons(dataset) == {"Annotations/0002.xml": "an annotation without an image"}


@pytest.mark.parametrize(("encoding", "name"), [("GB2312", "猫"), ("Shift_JIS", "ねこ"), ("windows-1251", "кот")])
def test_xml_in_other_encodings(write_voc, encoding, name):
    root = write_voc()
    document = voc(voc_object(11, 21, 50, 60, name=name), DOG)
    for stem in "cd":
        (root / "JPEGImages" / f"{stem}.jpg").write_bytes(b"x")
        encoded = f"<?xml version='1.0' encoding='{encoding}'?>{document}".encode(encoding)
        (root / "Annotations" / f"{stem}.xml").write_bytes(encoded)
    dataset = inspect(root)
    assert dataset.refused == () and name in dataset.classes
    (root / "Annotations" / "d.xml").write_bytes(
        b"<?xml version='1.0' encoding='GB2312'?><annotation>\xff</annotation>"
    )
    assert "not XML" in reasons(inspect(root, classes=["cat", "dog"]))["JPEGImages/d.jpg"]


def test_voc_numbers_with_decimals(write_voc):
    given = voc(voc_object(11.5, 21.25, 50.75, 60.5), voc_object("1e1", " 20.0", "5e1", "60", name="dog"))
    boxes_of, _ = fitted(inspect(write_voc(c=given)))
    assert boxes_of["JPEGImages/c.jpg"] == [("dog", 9, 19, 50, 60), ("cat", 10.5, 20.25, 50.75, 60.5)]


def test_files_without_their_counterpart(write_voc):
    dataset = inspect(write_voc({"Annotations/alone.xml": voc(CAT)}, "JPEGImages/bare.jpg"))
    assert reasons(dataset)["Annotations/alone.xml"] == "an annotation without an image"
    assert reasons(dataset)["JPEGImages/bare.jpg"].startswith("no annotation")


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("{split}/{name}.xml", "{split}/{name}.png"),
        ("{split}/annotations/{name}.xml", "{split}/images/{name}.png"),
        ("annotations/{split}/{name}.xml", "images/{split}/{name}.png"),
        ("annotations/{name}.xml", "images/{split}/{name}.png"),
        ("{split}_zip/{split}/{name}.xml", "{split}_zip/{split}/{name}.png"),
        ("Annotations/{split}/{name}.XML", "Images/{split}/{name}.PNG"),
    ],
)
def test_voc_beside_images_and_in_split_folders(write, xml, image):
    places = [{"split": split, "name": f"{split}.{name}"} for split in ("train", "valid") for name in "ab"]
    texts = {xml.format(**place): voc(CAT, DOG) for place in places}
    dataset = inspect(write(*(image.format(**place) for place in places), texts=texts))
    assert (dataset.layout, dataset.own_splits, len(dataset.entries)) == ("voc", ("train", "validation"), 4)


def test_a_single_class_is_enough_for_boxes(write):
    texts = {f"{name}.xml": voc(CAT) for name in "ab"}
    assert inspect(write("a.jpg", "b.jpg", texts=texts)).classes == ("cat",)


def test_boxes_of_other_classes_are_left_out_and_counted(write_voc):
    dataset = inspect(write_voc(), classes=["dog"])
    boxes_of, corrections = fitted(dataset)
    assert dataset.classes == ("dog",) and corrections == {boxes.OTHER_CLASS: 2}
    assert boxes_of["JPEGImages/a.jpg"] == [("dog", 0, 0, 100, 80)]
    with pytest.raises(
        DatasetError, match=r"data\.classes and the classes of the dataset differ: the dataset has no class `cow`"
    ):
        inspect(write_voc(), classes=["dog", "cow"])


def test_a_class_in_one_image_can_be_left_out(write_voc):
    root = write_voc(c=voc(voc_object(1, 1, 5, 5, name="cow")))
    with pytest.raises(DatasetError, match=r"only one image of class `cow`.*naming the others in data\.classes"):
        inspect(root)
    assert inspect(root, classes=["cat", "dog"]).classes == ("cat", "dog")


def test_annotations_without_any_box_are_refused(write):
    with pytest.raises(LayoutError, match="2 images are annotated, but none of them has a box"):
        inspect(write("a.jpg", "b.jpg", texts={"a.xml": voc(), "b.xml": voc()}))


def test_classes_of_boxes_are_renamed_before_others_are_left_out(write_voc):
    names = {"c": voc(voc_object(1, 1, 9, 9, name="traffic light"), voc_object(1, 1, 9, 9, name="Cat"))}
    dataset = inspect(write_voc(**names), classes=["cat"], rename_classes={"Cat": "cat"})
    assert dataset.classes == ("cat",) and dataset.entries[2].classes == ("cat",)
    names |= {
        stem: names["c"].replace("Cat", word) for stem, word in zip("defg", ["traffic", "light"] * 2, strict=True)
    }
    assert "traffic light" in inspect(write_voc(**names), rename_classes={"Cat": "cat"}).classes


# --- COCO -------------------------------------------------------------------------------------------------------


def coco_box(image_id=1, category_id=1, bbox=(10, 20, 40, 40), **others):
    return {"id": 5, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), "iscrowd": 0, **others}


def coco(*annotations, images=("a", "b"), categories=("cat", "dog"), first=1, **others):
    return {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": 100, "height": 80}
            for number, name in enumerate(images, start=first)
        ],
        "annotations": [
            *(coco_box(first + image, number) for image in range(2) for number in range(first, first + 2)),
            *annotations,
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=first)],
    } | others


@pytest.fixture
def write_coco(write):
    def run(document, *images):
        names = [item["file_name"] for item in document["images"] if isinstance(item, dict) and "file_name" in item]
        return write(*(f"images/{name}" for name in (*names, *images)), texts={"annotations/instances.json": document})

    return run


@pytest.mark.parametrize("first", [0, 1])
def test_coco_ids_from_0_or_1(write_coco, first):
    dataset = inspect(write_coco(coco(first=first)))
    assert (dataset.layout, dataset.classes) == ("coco", ("cat", "dog"))
    boxes_of, corrections = fitted(dataset)
    assert boxes_of["images/a.jpg"] == [("cat", 10, 20, 50, 60), ("dog", 10, 20, 50, 60)]
    assert corrections == {boxes.SEVERAL_CLASSES: 2}


def test_coco_ids_with_gaps_and_as_text(write_coco):
    document = coco(
        coco_box(70, 90, (0, 0, 10, 10)),
        coco_box("900", "90", (5, 5, 10, 10)),
        images=("a", "b"),
        categories=("cat", "dog"),
    )
    document["images"] += [{"id": 70, "file_name": "c.jpg"}, {"id": "900", "file_name": "d.jpg"}]
    document["categories"] += [{"id": 90, "name": "cow"}, {"id": 7, "name": "unused"}]
    boxes_of, _ = fitted(inspect(write_coco(document)))
    assert boxes_of["images/c.jpg"] == [("cow", 0, 0, 10, 10)] and boxes_of["images/d.jpg"] == [("cow", 5, 5, 15, 15)]


def test_coco_crowds_are_kept(write_coco):
    rle = {"counts": [272, 2, 4, 4, 1], "size": [80, 100]}
    polygons = [[1, 2, 30, 2, 30, 40], [0, 5, 1, 5, 1, 7]]
    document = coco(
        coco_box(3, iscrowd=1, segmentation=rle),
        coco_box(3, bbox=(), segmentation=polygons),
        images=("a", "b", "c"),
    )
    given = annotations(inspect(write_coco(document)))["images/c.jpg"]
    assert [box.is_crowd for box in given.boxes] == [True, False]
    assert given.boxes[1][:4] == (0, 2, 30, 40) and given.corrections == (boxes.POLYGON,)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (coco_box(3, 9), "an unknown category: annotation 5 has category_id 9"),
        (coco_box(3, None), "an unknown category"),
        (coco_box(3, bbox=(1, 2, 3)), "an incomplete box: annotation 5 (`cat`) has bbox [1, 2, 3]"),
        (coco_box(3, bbox=(1, 2, 3, None)), "an incomplete box"),
        (coco_box(3, bbox=(1, 2, 3, "4")), "an incomplete box"),
        (coco_box(3, bbox=(), segmentation={"counts": "abc", "size": [80, 100]}), "an incomplete box"),
        (coco_box(3, bbox=(1, 2, 3, 4, 30)), "a rotated box: annotation 5 (`cat`)"),
        (coco_box(3, attributes={"rotation": 12.5}), "a rotated box: annotation 5 (`cat`)"),
    ],
)
def test_unusable_coco_annotations_quarantine_their_image(write_coco, annotation, reason):
    dataset = inspect(write_coco(coco(annotation, images=("a", "b", "c"))))
    ((path, given),) = dataset.refused
    assert path == "images/c.jpg" and given.startswith(reason) and len(dataset.entries) == 2


def test_coco_boxes_without_area_outside_and_with_negative_sides(write_coco):
    shapes = [(30, 40, 0, 0), (50, 60, -40, -40), (90, 70, 30, 20), (1, 1, 5, 0)]
    document = coco(*(coco_box(3, bbox=shape) for shape in shapes), images=("a", "b", "c"))
    boxes_of, corrections = fitted(inspect(write_coco(document)))
    assert boxes_of["images/c.jpg"] == [("cat", 10, 20, 50, 60), ("cat", 90, 70, 100, 80)]
    assert corrections == {boxes.EMPTY: 2, boxes.SWAPPED: 1, boxes.CLIPPED: 1, boxes.SEVERAL_CLASSES: 2}


def test_coco_names_that_no_file_can_have(write_coco):
    root = write_coco(coco())
    (root / "annotations" / "instances.json").write_text(json.dumps(coco(images=("a", "b", "\ud800c"))))
    assert reasons(inspect(root)) == {"?c.jpg": "the file does not exist"}


def test_coco_images_without_boxes_missing_and_unlisted(write_coco):
    document = coco(coco_box(77), images=("a", "b", "empty"))
    root = write_coco(document, "stray.jpg", "stray2.jpg", "stray3.jpg")
    (root / "images" / "b.jpg").unlink()
    document["images"] += [{"id": 9, "file_name": "x.jpg"}, {"id": 9, "file_name": "y.jpg"}, {"id": 10}]
    (root / "annotations" / "instances.json").write_text(json.dumps(document))
    (root / "images" / "a2.jpg").write_bytes(b"x")
    document["images"].append({"id": 11, "file_name": "a2.jpg"})
    document["annotations"] += [coco_box(11), coco_box(11, 2)]
    (root / "annotations" / "instances.json").write_text(json.dumps(document))
    dataset = inspect(root)
    assert annotations(dataset)["images/empty.jpg"].boxes == ()
    assert reasons(dataset) == {
        "b.jpg": "the file does not exist",
        "x.jpg": "an ambiguous id: 2 images have the id 9",
        "y.jpg": "an ambiguous id: 2 images have the id 9",
        "instances.json, images[5]": "no file_name",
    }
    assert dataset.notes == (
        "1 annotations in instances.json belong to no listed image and are not used, such as: 5",
        "3 images are not listed in the annotations and are not used: images/stray.jpg, images/stray2.jpg, …",
    )


@pytest.mark.parametrize(
    "file_name",
    [
        "{}.jpg",
        "images/{}.jpg",
        "./images/{}.jpg",
        "C:\\data\\images\\{}.jpg",
        "/home/me/data/{}.jpg",
        "http://images.cocodataset.org/train2017/{}.jpg",
        "https://x.com/a%20b/{}.jpg?token=a/b.jpg#c",
        "IMAGES/{}.JPG",
        "%61/{}.jpg",
    ],
)
def test_how_coco_files_name_their_images(write, file_name):
    document = coco()
    for item, name in zip(document["images"], "ab", strict=True):
        item["file_name"] = file_name.format(name)
    dataset = inspect(write("images/a.jpg", "images/b.jpg", texts={"instances.json": document}))
    assert [entry.path for entry in dataset.entries] == ["images/a.jpg", "images/b.jpg"] and not dataset.refused


def test_images_of_the_same_name_in_other_folders_and_with_other_suffixes(write):
    document = coco(images=("x/a", "y/a", "a", "c"))
    root = write("images/x/a.jpg", "images/y/a.jpg", "images/c.png", texts={"instances.json": document})
    dataset = inspect(root)
    assert [entry.path for entry in dataset.entries] == ["images/x/a.jpg", "images/y/a.jpg"]
    assert reasons(dataset) == {
        "a.jpg": "2 files have this name: images/x/a.jpg, images/y/a.jpg",
        "c.jpg": "the file does not exist, but `images/c.png` does",
    }


def test_roboflow_lists_a_class_that_only_groups_the_others(write):
    texts, names = {}, []
    for split in ("train", "valid", "test"):
        document = coco(images=(f"{split}1", f"{split}2"))
        document["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            *({**item, "supercategory": "animals"} for item in document["categories"]),
        ]
        texts[f"{split}/_annotations.coco.json"] = document
        names += [f"{split}/{split}{number}.jpg" for number in (1, 2)]
    dataset = inspect(write(*names, texts=texts | {"README.roboflow.txt": "x", "train/README.md": "x"}))
    assert (dataset.classes, dataset.own_splits) == (("cat", "dog"), ("train", "validation", "test"))
    assert len(dataset.entries) == 6 and not dataset.refused


def test_two_files_that_list_the_same_images(write):
    root = write("a.jpg", "b.jpg", "c.jpg", texts={"old.json": coco(), "new.json": coco(images=("a", "b", "c"))})
    with pytest.raises(
        DatasetError, match=r"new\.json and old\.json list the same images \(2, such as a\.jpg\)\. Keep"
    ):
        inspect(root)
    # A single image in two of them is refused alone.
    texts = {"train.json": coco(images=("a", "b", "c")), "test.json": coco(images=("c", "d"))}
    dataset = inspect(write("d.jpg", texts=texts | {"old.json": "{}", "new.json": "{}"}))
    assert reasons(dataset) == {"c.jpg": "annotated 2 times: in test.json, train.json"}
    assert {entry.path: entry.split for entry in dataset.entries} == {"a.jpg": "", "b.jpg": "", "d.jpg": "test"}
    assert dataset.own_splits == ("train", "test")


@pytest.mark.parametrize(
    "first", [{"dataset": "mine", "version": 3}, {"licenses": [], "info": {}}, {"classes": ["cat"]}]
)
def test_coco_files_may_begin_with_anything(write, first):
    assert inspect(write("a.jpg", "b.jpg", texts={"x.json": {**first, **coco()}})).layout == "coco"


def test_the_advice_for_a_file_that_looks_like_coco_works(write):
    document = {"padding": "x" * 70_000, **coco()}  # longer than what the detection reads
    root = write("images/a.jpg", "images/b.jpg", texts={"instances.json": document})
    with pytest.raises(LayoutError, match=r"instances\.json"):
        inspect(root)
    assert inspect(root, layout="coco").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("index", "image", "split"),
    [
        ("train/_annotations.coco.json", "train/{}.jpg", "train"),
        ("annotations/instances_train2017.json", "train2017/{}.jpg", "train"),
        ("annotations/instances_val.json", "images/val/{}.jpg", "validation"),
        ("annotations.json", "images/{}.jpg", ""),
        ("labels.json", "data/{}.jpg", ""),
        ("x.coco.json", "{}.jpg", ""),
    ],
)
def test_where_coco_files_and_their_images_are(write, index, image, split):
    texts = {index: coco(), "annotations/captions_train2017.json": coco()}
    if "instances" not in index:
        del texts["annotations/captions_train2017.json"]
    others = {index.replace("val", "train"): coco()} if split == "validation" else {}
    names = [image.format(name) for name in "ab"]
    dataset = inspect(write(*names, *(name.replace("val", "train") for name in names), texts=texts | others))
    assert {entry.path: entry.split for entry in dataset.entries if entry.path in names} == dict.fromkeys(
        names, "" if split == "train" else split
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"images": [', "is not JSON"),
        ('{"images": ' + "[" * 100_000, "is not JSON"),
        ('{"images": [], "annotations": []}', "has no list `categories`"),
        ('{"images": {}}', "has no list `images`"),
        (coco(categories=("cat", "")), r"categories\[1\] has no `id` or no `name`"),
        (coco(categories=[None]), r"categories\[0\]"),
        (coco(annotations=[coco_box(bbox=(0.1, 0.2, 0.3, 0.4))]), "all coordinates are between 0 and 1"),
        (coco(annotations=[coco_box(bbox=(60, 50, 90, 70))]), "1 of 1 boxes exceed their images, and all look like"),
        (coco(annotations=[]), "2 images are annotated, but none of them has a box"),
    ],
)
def test_unusable_coco_files(write, document, message):
    with pytest.raises(DatasetError, match=message):
        inspect(write("images/a.jpg", "images/b.jpg", texts={"annotations/instances.json": document}))


# --- YOLO -------------------------------------------------------------------------------------------------------

YOLO_BOXES = "0 0.3 0.5 0.4 0.5\n1 0.5 0.5 1 1\n"


@pytest.fixture
def write_yolo(write):
    """Writes images and labels: stem → text, or None for no label file. Two more images have a box of each class."""

    def run(texts=None, *, names="classes.txt", **labels):
        labels = {"a": YOLO_BOXES, "b": YOLO_BOXES, **labels}
        given = {f"labels/{stem}.txt": text for stem, text in labels.items() if text is not None}
        given |= {names: "cat\ndog\n"} if names else {}
        return write(*(f"images/{stem}.jpg" for stem in labels), texts=given | (texts or {}))

    return run


def test_yolo_boxes_are_centres_and_sizes(write_yolo):
    dataset = inspect(write_yolo(c="\n 1 0.5 0.5 0.2 0.5 \r\n\n"))
    assert (dataset.layout, dataset.classes) == ("yolo", ("cat", "dog"))
    boxes_of, corrections = fitted(dataset)
    assert boxes_of["images/a.jpg"] == [("dog", 0, 0, 100, 80), ("cat", 10, 20, 50, 60)]
    assert boxes_of["images/c.jpg"] == [("dog", 40, 20, 60, 60)] and not corrections


def test_yolo_coordinates_above_1(write_yolo):
    dataset = inspect(write_yolo(c="0 0.95 0.5 0.2 0.5\n", d="0 1.5 0.5 0.2 0.2", e="0 352 200 50 60"))
    boxes_of = {path: normalize(given, **SIZE) for path, given in annotations(dataset).items() if "d.jpg" not in path}
    assert boxes_of["images/c.jpg"].corrections == {boxes.CLIPPED: 1}
    with pytest.raises(Exception, match="a box outside of the image"):
        normalize(annotations(dataset)["images/d.jpg"], **SIZE)
    assert "coordinates are not fractions of the image: line 1 has 352" in reasons(dataset)["images/e.jpg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "an unknown class id: line 1 has 2; known are 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "not a class id: line 1 begins with -1"),
        ("0.5 0.5 0.5 0.1 0.1", "not a class id"),
        ("cat 0.5 0.5 0.1 0.1", "not numbers: line 1"),
        ("0 0.5 nan 0.1 0.1", "not numbers: line 1"),
        ("0 0.5 0.5 0.1", "not a box: line 1 has 4 values"),
        ("0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1 0.9", "predictions instead of labels: line 2"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.9", "not a box: line 1 has 8 values"),
        ("0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5", "a rotated box: line 1 has four points"),
    ],
)
def test_unusable_yolo_labels_quarantine_their_image(write_yolo, text, reason):
    dataset = inspect(write_yolo(c=text))
    ((path, given),) = dataset.refused
    assert path == "images/c.jpg" and given.startswith("unusable labels: labels/c.txt: ") and reason in given


def test_yolo_polygons_become_boxes(write_yolo):
    polygons = "0 0.1 0.1 0.5 0.1 0.5 0.9\n1 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n"
    given = annotations(inspect(write_yolo(c=polygons)))["images/c.jpg"]
    assert [box[:4] for box in given.boxes] == [(0.1, 0.1, 0.5, 0.9), (0.1, 0.1, 0.9, 0.9)]
    assert given.corrections == (boxes.POLYGON, boxes.POLYGON)
    upright = annotations(inspect(write_yolo(c="0 0.1 0.2 0.5 0.2 0.5 0.9 0.1 0.9")))["images/c.jpg"]
    assert upright.boxes[0][:4] == (0.1, 0.2, 0.5, 0.9) and upright.corrections == ()


def test_yolo_negatives_and_labels_without_images(write_yolo):
    dataset = inspect(write_yolo({"labels/alone.txt": YOLO_BOXES, "labels/classes.txt": "cat\ndog"}, c="", d=None))
    assert [given.boxes for path, given in annotations(dataset).items() if path[7] in "cd"] == [(), ()]
    assert dataset.notes == ("1 images have no label file and are used as negatives: images/d.jpg",)
    assert reasons(dataset) == {"labels/alone.txt": "labels without an image"}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("data.yaml", "names: [cat, dog]\nnc: 2\n"),
        ("data.yaml", "names:\n  0: cat\n  1: dog\n"),
        ("dataset.yml", "train: ../train/images\nnames: ['cat', dog]\n"),
        ("obj.names", "cat\ndog\n"),
        ("labels/classes.txt", "\ufeffcat\r\ndog\r\n\r\n"),
    ],
)
def test_names_of_yolo_classes(write_yolo, names, text):
    assert inspect(write_yolo({names: text}, names="")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x]\nnames: *a\n", "aliases are not read"),
        ("names: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML"),
        ("names: [" * 5000, "cannot be read as YAML"),
        ("names: cat\n", "`names` is not a list"),
        ("names: [cat, [dog]]\n", "an entry that is not a name"),
        ("names: [cat, '']\n", "an entry that is not a name"),
        ("#" * 300_000, "larger than 256 KB"),
        ("names: [cat, cow]\n", "no image"),
    ],
)
def test_unusable_yaml(write_yolo, text, message):
    texts = {"data.yaml": text}
    if message == "no image":
        texts["other.yaml"] = "names: [cat, dog]"
        message = r"the classes in data\.yaml and other\.yaml differ"
    with pytest.raises(DatasetError, match=message):
        inspect(write_yolo(texts, names=""))


@pytest.mark.parametrize("name", ["yes", "No", "on", "true"])
def test_names_that_yaml_reads_as_truth_values_need_quotes(write_yolo, name):
    with pytest.raises(DatasetError, match=r"not a name\. Write the name of id 1 in quotes"):
        inspect(write_yolo({"data.yaml": f"names: [cat, {name}]\n"}, names=""))
    quoted = inspect(write_yolo({"data.yaml": f"names: [cat, '{name}']\n"}, names=""))
    assert set(quoted.classes) == {"cat", name}


def test_yolo_keypoints_are_not_points_of_polygons(write_yolo):
    line = "0 0.3 0.5 0.4 0.5 0.4 0.4 2 0.6 0.6 2\n"
    yaml = {"data.yaml": "names: [cat, dog]\nkpt_shape: [2, 3]\n"}
    dataset = inspect(write_yolo(yaml, names="", c=line))
    assert fitted(dataset)[0]["images/c.jpg"] == [("cat", 10, 20, 50, 60)]
    assert dataset.notes == ("keypoints are not used",)


LISTS = {"train.txt": "./images/a.jpg\n\nimages/b.jpg\n", "val.txt": "/home/me/images/c.jpg\nimages\\d.jpg\r\n"}


@pytest.mark.parametrize(
    "settings",
    [
        {"data.yaml": "train: train.txt\nval: [val.txt]\nnames: [cat, dog]\n"},
        {"data.yaml": "path: ../x\ntrain: ./train.txt\nval: /home/me/x/val.txt\nnames: [cat, dog]\n"},
        {"obj.names": "cat\ndog\n", "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\n"},
        {"obj.names": "cat\ndog\n"},
    ],
    ids=["YAML", "YAML of another machine", "Darknet", "lists only"],
)
def test_yolo_lists_of_images_name_splits(write_yolo, settings):
    dataset = inspect(write_yolo(LISTS | settings, names="", c=YOLO_BOXES, d=YOLO_BOXES, e=YOLO_BOXES))
    assert {entry.path[7]: entry.split for entry in dataset.entries} == {
        **{"a": "", "b": "", "c": "validation", "d": "validation"}
    }
    assert dataset.own_splits == ("train", "validation")
    assert dataset.notes == ("1 images are in no list of splits and are not used: images/e.jpg",)


def test_yolo_lists_with_missing_and_repeated_images(write_yolo):
    lists = {"train.txt": "images/a.jpg\nimages/b.jpg\nimages/gone.jpg\n", "val.txt": "images/b.jpg\nimages/c.jpg\n"}
    yaml = {"data.yaml": "train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat, dog]\n"}
    dataset = inspect(write_yolo(lists | yaml, names="", c=YOLO_BOXES, d=YOLO_BOXES))
    assert reasons(dataset) == {
        "images/b.jpg": "in several lists of splits: train, validation",
        "images/gone.jpg": "listed in train.txt, but there is no such image",
    }
    assert dataset.notes[0] == "data.yaml names test.txt as `test`, which does not exist"


def test_yolo_folders_that_are_both_splits_are_divided(write_yolo):
    """As in Ultralytics' coco128.yaml."""
    yaml = {"data.yaml": "path: ../coco128\ntrain: images/all\nval: images/all\ntest:\nnames: {0: cat, 1: dog}\n"}
    texts = {f"labels/all/{name}.txt": YOLO_BOXES for name in "xy"}
    dataset = inspect(write_yolo(yaml | texts, names="", **{"all/x": YOLO_BOXES, "all/y": YOLO_BOXES}))
    assert dataset.own_splits == ()
    assert "the same images are named for train and validation; their splits are drawn" in dataset.notes


def test_labels_whose_names_differ_only_by_case_belong_to_their_own_image(write_yolo):
    dataset = inspect(write_yolo({"test.txt": "some words"}, C="0 0.5 0.5 0.1 0.1", c="1 0.5 0.5 0.2 0.2"))
    assert {path: given.boxes[0].name for path, given in annotations(dataset).items() if path[7] in "cC"} == {
        **{"images/C.jpg": "cat", "images/c.jpg": "dog"}
    }
    assert dataset.refused == () and dataset.notes == ()


def test_yolo_without_names(write_yolo):
    with pytest.raises(DatasetError, match=r"contain class ids.*classes\.txt"):
        inspect(write_yolo(names=""))
    assert inspect(write_yolo(names=""), classes=["dog", "cat"]).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("image", "label", "extra"),
    [
        ("{split}/images/{name}.jpg", "{split}/labels/{name}.txt", {}),
        ("images/{split}/{name}.jpg", "labels/{split}/{name}.txt", {}),
        ("{split}/{name}.jpg", "{split}/{name}.txt", {}),
        ("{split}/{name}.jpg", "{split}/labels/{name}.txt", {}),
        ("Images/{split}/{name}.JPG", "Labels/{split}/{name}.TXT", {}),
        (
            "images/{split}_set/{name}.jpg",
            "labels/{split}_set/{name}.txt",
            {
                "data.yaml": "path: /home/me/data\ntrain: ../images/train_set\nval: [images/valid_set]\n"
                "names: [cat, dog]",
            },
        ),
    ],
)
def test_where_yolo_files_are(write, image, label, extra):
    places = [{"split": split, "name": f"{split}.{name}"} for split in ("train", "valid") for name in "ab"]
    texts = {label.format(**place): YOLO_BOXES for place in places} | {"obj.names": "cat\ndog\n"} | extra
    dataset = inspect(write(*(image.format(**place) for place in places), texts=texts))
    assert (dataset.layout, dataset.own_splits, len(dataset.entries)) == ("yolo", ("train", "validation"), 4)


def test_yolo_labels_in_many_folders_are_detected(write):
    folders = [f"{number:05d}" for number in range(12)]
    texts = {f"labels/{name}/a.txt": YOLO_BOXES for name in folders} | {"classes.txt": "cat\ndog\n"}
    dataset = inspect(write(*(f"images/{name}/a.jpg" for name in folders), texts=texts))
    assert (dataset.layout, len(dataset.entries)) == ("yolo", 12)


@pytest.mark.parametrize("line", [YOLO_BOXES, "1 0.1 0.1 0.5 0.1 0.5 0.9\n"])
def test_yolo_labels_beside_images_need_no_setting(write, line):
    texts = {f"{name}.txt": line for name in "ab"}
    with pytest.raises(DatasetError, match=r"contain class ids.*classes\.txt"):
        inspect(write("a.jpg", "b.jpg", texts=texts))
    assert inspect(write(texts={"classes.txt": "cat\ndog\n"})).layout == "yolo"


def test_datasets_inside_the_folders_of_an_archive_are_named(write):
    root = write(*(f"top/VOC2012/JPEGImages/{name}.jpg" for name in "ab"), texts={"README.md": "x"})
    for name in "ab":
        path = root / f"top/VOC2012/Annotations/{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(voc(CAT, DOG))
    with pytest.raises(
        LayoutError, match=r"contains the dataset top/VOC2012 \(voc: XML files.*Use --data .*top/VOC2012\."
    ):
        inspect(root)
    assert inspect(root / "top" / "VOC2012").layout == "voc"
    write("other/a.jpg", texts={"other/instances.json": coco()})
    with pytest.raises(LayoutError, match=r"datasets other \(coco: .*\), top/VOC2012 \(voc: .*, or another one\."):
        inspect(root)


# --- Label Studio -----------------------------------------------------------------------------------------------


def region(*sides, labels=("cat",), **others):
    value = dict(zip(("x", "y", "width", "height"), sides, strict=True)) | {"rotation": 0, "rectanglelabels": [*labels]}
    value |= others.pop("value", {})
    return {"type": "rectanglelabels", "value": value, "original_width": 100, "original_height": 80, **others}


def task(image, *results, **others):
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": [*results], **others}]}


@pytest.fixture
def write_tasks(write):
    both = region(10, 25, 40, 50), region(0, 0, 100, 100, labels=["dog"])

    def run(*tasks, images=("c.jpg",)):
        known = [task("/data/upload/1/0a1b2c3d-a.jpg", *both), task("s3://bucket/path/b.jpg?x=1", *both)]
        return write("images/0a1b2c3d-a.jpg", "images/b.jpg", *images, texts={"project-1.json": [*known, *tasks]})

    return run


def test_label_studio_percentages(write_tasks):
    local = task("/data/local-files/?d=some%20folder/c.jpg", region(50, 50, 10, 10, labels=["cat", "dog"]))
    dataset = inspect(write_tasks(local))
    assert (dataset.layout, dataset.classes, dataset.refused) == ("label_studio", ("cat", "dog"), ())
    boxes_of, _ = fitted(dataset)
    assert boxes_of["images/0a1b2c3d-a.jpg"] == [("dog", 0, 0, 100, 80), ("cat", 10, 20, 50, 60)]
    assert boxes_of["c.jpg"] == [("cat", 50, 40, 60, 48), ("dog", 50, 40, 60, 48)]
    assert annotations(dataset)["c.jpg"][1:4] == (100, 80, True)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (region(1, 2, 3, 4, value={"rotation": 12.5}), "a rotated box: region 1 (12.5°)"),
        (region(1, 2, 3, 4, image_rotation=90), "the image was rotated in Label Studio"),
        (region(1, 2, 3, 4, labels=()), "a region without a label: region 1"),
        (region(1, 2, 3, None), "not a box: region 1"),
        (region(1, 2, 3, 4) | {"value": None}, "a region without a value"),
        (
            {"type": "brushlabels", "value": {"rle": [1, 2], "brushlabels": ["cat"]}},
            "not a box: region 1 is of type br",
        ),
    ],
)
def test_unusable_regions_quarantine_their_image(write_tasks, result, reason):
    ((path, given),) = inspect(write_tasks(task("c.jpg", result))).refused
    assert path == "c.jpg" and given.startswith(reason)


def test_label_studio_tasks_without_boxes_images_and_annotations(write_tasks):
    polygon = {"type": "polygonlabels", "value": {"points": [[0, 0], [10, 0], [10, 50]], "polygonlabels": ["cat"]}}
    choice = {"type": "choices", "value": {"choices": ["night"]}}
    tasks = [
        task("c.jpg", choice),
        task("d.jpg", region(1, 2, 3, 4), was_cancelled=True),
        task("gone.jpg", region(1, 2, 3, 4)),
        task("p.jpg", polygon),
        {"data": {"text": "words"}, "annotations": []},
        "not a task",
        {"image": "/m.jpg", "label": [region(0, 0, 50, 50)["value"]], "annotator": 1},  # JSON-MIN
    ]
    tasks[3]["annotations"].insert(0, {"result": [choice]})
    dataset = inspect(write_tasks(*tasks, images=("c.jpg", "d.jpg", "p.jpg", "m.jpg")))
    given = annotations(dataset)
    assert given["c.jpg"].boxes == () and given["p.jpg"].boxes[0][:4] == (0, 0, 0.1, 0.5)
    assert given["m.jpg"].boxes[0][:4] == (0, 0, 0.5, 0.5)
    assert reasons(dataset) == {
        "gone.jpg": "the file does not exist",
        "project-1.json, task 7": "the task names no image",
        "project-1.json, task 8": "the task names no image",
    }
    assert dataset.notes == (
        "1 tasks have no submitted annotation and are not used: d.jpg",
        "1 tasks have several annotations, of which the last is used: p.jpg",
    )


def test_label_studio_names_of_uploads(write):
    """Uploaded files have a prefix in the export, and have it or not in the folder."""
    texts = {"export.json": [task(f"/data/upload/7/0a1b2c3d-{name}.jpg", region(0, 0, 50, 50)) for name in "abc"]}
    dataset = inspect(write("images/a.jpg", "upload/7/0a1b2c3d-b.jpg", "0a1b2c3d-c.jpg", texts=texts))
    assert len(dataset.entries) == 3 and not dataset.refused


def test_a_minimal_export_of_label_studio(write):
    tasks = [
        {"id": 1, "image": f"/data/upload/1/{name}.jpg", "label": [region(0, 0, 50, 50)["value"]]} for name in "ab"
    ]
    dataset = inspect(write("images/a.jpg", "images/b.jpg", texts={"project-1.json": tasks}))
    assert (dataset.layout, len(dataset.entries)) == ("label_studio", 2)


def test_several_exports_of_label_studio(write_tasks):
    root = write_tasks(task("c.jpg", region(0, 0, 50, 50)))
    (root / "part2.json").write_text(json.dumps([task("d.jpg", region(0, 0, 50, 50))]))
    (root / "d.jpg").write_bytes(b"x")
    assert len(inspect(root).entries) == 4
    (root / "later.json").write_text((root / "project-1.json").read_text())
    with pytest.raises(DatasetError, match=r"later\.json and project-1\.json list the same images"):
        inspect(root)


def test_exports_of_label_studio_without_annotations_are_explained(write):
    tasks = [{"data": {"image": f"{name}.jpg"}, "predictions": [{"result": [region(1, 2, 3, 4)]}]} for name in "ab"]
    with pytest.raises(LayoutError, match=r"no usable files[\s\S]*2 tasks have no submitted annotation"):
        inspect(write("a.jpg", "b.jpg", texts={"x.json": tasks}))


def test_exports_of_other_programs_are_not_those_of_label_studio(write):
    box = {"label": "cat", "coordinates": {"x": 1, "y": 2, "width": 3, "height": 4}}
    createml = [{"image": f"{name}.jpg", "annotations": [box]} for name in "ab"]
    with pytest.raises(LayoutError, match=r"_annotations\.createml\.json looks like annotations of CreateML"):
        inspect(write("a.jpg", "b.jpg", texts={"_annotations.createml.json": createml}))


# --- CVAT -------------------------------------------------------------------------------------------------------

CVAT_BOXES = (
    '<box label="cat" xtl="10.00" ytl="20.00" xbr="50.00" ybr="60.00" z_order="0"></box>'
    '<box label="dog" xtl="0" ytl="0" xbr="100" ybr="80"><attribute name="difficult">true</attribute></box>'
)


@pytest.fixture
def write_cvat(write):
    def run(more="", images=("c.jpg",)):
        images_of = "".join(
            f'<image id="{name}" name="{name}.jpg" width="100" height="80">{CVAT_BOXES}</image>' for name in "ab"
        )
        document = f"<annotations><version>1.1</version><meta><task/></meta>{images_of}{more}</annotations>"
        return write("images/a.jpg", "images/b.jpg", *images, texts={"annotations.xml": document})

    return run


def test_cvat_boxes(write_cvat):
    more = '<image name="c.jpg" subset="Validation" width="100" height="80"><tag label="x"/></image>'
    dataset = inspect(write_cvat(more))
    assert (dataset.layout, dataset.classes, dataset.own_splits) == ("cvat", ("cat", "dog"), ("validation",))
    assert fitted(dataset)[0]["images/a.jpg"] == [("dog", 0, 0, 100, 80), ("cat", 10, 20, 50, 60)]
    assert [box.difficult for box in annotations(dataset)["images/a.jpg"].boxes] == [False, True]
    assert annotations(dataset)["c.jpg"] == Annotation((), 100, 80)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (
            '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="12.5"/>',
            "a rotated box: shape 1 (`cat`) (12.5°)",
        ),
        ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "an incomplete box: shape 1 (`cat`)"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "a shape without a label: shape 1"),
        ('<cuboid label="cat" xtl1="1"/>', "not a box: shape 1 (`cat`) is of type cuboid"),
        ('<polygon label="cat" points="1,2;3"/>', "an incomplete polygon: shape 1"),
    ],
)
def test_unusable_cvat_shapes_quarantine_their_image(write_cvat, shape, reason):
    ((path, given),) = inspect(write_cvat(f'<image name="c.jpg">{shape}</image>')).refused
    assert path == "c.jpg" and given.startswith(reason)


def test_cvat_polygons_missing_and_unlisted_images(write_cvat):
    more = (
        '<image name="c.jpg"><polygon label="cat" points="1,2;30,2;30,40.5"/></image><image name="gone.jpg"/><image/>'
    )
    dataset = inspect(write_cvat(more, images=("c.jpg", "stray.jpg")))
    assert annotations(dataset)["c.jpg"].boxes[0][:4] == (1, 2, 30, 40.5)
    assert reasons(dataset) == {
        "gone.jpg": "the file does not exist",
        "annotations.xml, image 4": "no name",
    }
    assert dataset.notes == ("1 images are not listed in the annotations and are not used: stray.jpg",)


@pytest.mark.parametrize("name", ["annotations.xml", "annotations/annotations.xml", "job_12_annotations.xml", "x.xml"])
def test_where_the_export_of_cvat_is(write, name):
    images_of = "".join(f'<image name="{image}.jpg">{CVAT_BOXES}</image>' for image in "ab")
    text = f"<?xml version='1.0' encoding='utf-8'?>\n<annotations>{images_of}</annotations>"
    dataset = inspect(write("images/a.jpg", "images/b.jpg", texts={name: text}))
    assert (dataset.layout, len(dataset.entries)) == ("cvat", 2)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<annotations><track/></annotations>", "tracks of a video"),
        ("<annotation/>", "its root is <annotation>"),
        ("<annotations>", "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "declares entities"),
    ],
)
def test_unusable_cvat_files(write, document, message):
    with pytest.raises(DatasetError, match=message):
        inspect(write("a.jpg", texts={"annotations.xml": document}))


# --- Manifest and TFRecords -------------------------------------------------------------------------------------

BOX_ROWS = "a.jpg,10,20,50,60,cat\na.jpg,0,0,100,80,dog\nb.jpg,10,20,50,60,cat\nb.jpg,0,0,100,80,dog\n"


@pytest.fixture
def write_table(write):
    def run(rows, columns="", known=BOX_ROWS):
        text = f"path,xmin,ymin,xmax,ymax,label{columns}\n{known}{rows}"
        return write("a.jpg", "b.jpg", "c.jpg", texts={"manifest.csv": text})

    return run


def test_a_manifest_with_one_row_per_box(write_table):
    rows = "c.jpg,5,5,9,9,cat,1,yes,200,160,val,p1,north\nc.jpg,7,7,9,9,dog,0,,200,160,val,p1,north\n"
    dataset = inspect(write_table(rows, ",difficult,is_crowd,width,height,split,group,camera"))
    assert (dataset.layout, dataset.classes, dataset.columns) == ("manifest", ("cat", "dog"), ("camera",))
    assert fitted(dataset)[0]["a.jpg"] == [("dog", 0, 0, 100, 80), ("cat", 10, 20, 50, 60)]
    given = annotations(dataset)["c.jpg"]
    assert [box[5:] for box in given.boxes] == [(True, True), (False, False)] and given[1:4] == (200, 160, False)
    entry = dataset.entries[2]
    assert (entry.split, entry.group, entry.slices) == ("validation", "p1", ("north",))


def test_a_manifest_of_fractions_and_negatives(write_table):
    known = "a.jpg,0.1,0.25,0.5,0.75,cat\nb.jpg,0.1,0.25,0.5,0.75,cat\n"
    dataset = inspect(write_table("c.jpg,,,,,\n", known=known))
    boxes_of = fitted(dataset)[0]
    assert boxes_of.pop("c.jpg") == [] and len(boxes_of) == 2
    assert all(each == [("cat", 10, 20, 50, 60)] for each in boxes_of.values())


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("c.jpg,1,2,x,4,cat\n", "an incomplete box: xmax is `x` (manifest.csv, line 6)"),
        ("c.jpg,1,2,,4,cat\n", "an incomplete box: xmax is ``"),
        ("c.jpg,1,2,nan,4,cat\n", "an incomplete box"),
        ("c.jpg,1,2,3,4,\n", "a box without a label (manifest.csv, line 6)"),
        ("c.jpg,1,2,3,4,cat,train\nc.jpg,1,2,3,4,cat,test\n", "rows of one image differ in split"),
        ("c.jpg,1,2,3,4,cat,,maybe\n", "difficult is `maybe`; expected 0 or 1"),
    ],
)
def test_unusable_rows_of_boxes_quarantine_their_image(write_table, rows, reason):
    ((path, given),) = inspect(write_table(rows, ",split,difficult")).refused
    assert path == "c.jpg" and given.startswith(reason)


def test_unusable_tables_of_boxes(write_table, write):
    with pytest.raises(DatasetError, match="column `object_size` has the name of a built-in slice"):
        inspect(write_table("", ",object_size"))
    with pytest.raises(DatasetError, match="unknown split `x`"):
        inspect(write_table("c.jpg,1,2,3,4,cat,x\n", ",split"))
    with pytest.raises(DatasetError, match=r"no column `label`|neither a column `label`"):
        inspect(write("a.jpg", texts={"manifest.csv": "path,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n"}))


def test_a_box_manifest_counts_files_that_do_not_exist(write_table):
    assert reasons(inspect(write_table("gone.jpg,1,2,3,4,cat\n"))) == {"gone.jpg": "the file does not exist"}


def test_columns_of_a_table_of_boxes_are_chosen_by_their_names(write):
    rows = "".join(f"{name}.jpg,100,80,cat,11,21,51,61,0\n" * 2 for name in "ab")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax,difficult\n"
    dataset = inspect(write("images/a.jpg", "images/b.jpg", texts={"train_labels.csv": header + rows}))
    assert (dataset.layout, dataset.classes, dataset.columns) == ("manifest", ("cat",), ())
    assert fitted(dataset)[1] == {boxes.DUPLICATE: 2}
    without = header.replace("class", "number"), rows.replace("cat", "7")
    with pytest.raises(DatasetError, match=r"column|label"):
        inspect(write("images/a.jpg", "images/b.jpg", texts={"train_labels.csv": "".join(without)}))


@pytest.mark.parametrize(
    "header",
    [
        "image,x1,y1,x2,y2,class",
        "filename,XMin,YMin,XMax,YMax,LabelName",
        "file,bbox_x1,bbox_y1,bbox_x2,bbox_y2,category",
        "image_name,left,top,right,bottom,label",
    ],
)
def test_other_names_of_the_columns_of_boxes(write, header):
    rows = "".join(f"{name}.jpg,10,20,50,60,cat\n" for name in "ab")
    dataset = inspect(write("images/a.jpg", "images/b.jpg", texts={"boxes.csv": f"{header}\n{rows}"}))
    assert fitted(dataset)[0]["images/a.jpg"] == [("cat", 10, 20, 50, 60)] and dataset.columns == ()


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("image,x,y,w,h,label", "10,20,40,40,cat", "`h`, `w`, `x`, `y`"),
        ("image,bbox,label", '"[10, 20, 40, 40]",cat', "`bbox`"),
        ("image,x_center,y_center,width,height,label", "10,20,40,40,cat", "`x_center`, `y_center`"),
    ],
)
def test_tables_with_boxes_that_are_not_corners_are_refused(write, header, row, columns):
    """Otherwise one row per box would be one class per image."""
    rows = "".join(f"{name}.jpg,{row}\n{name}.jpg,{row.replace('cat', 'dog')}\n" for name in "ab")
    root = write("a.jpg", "b.jpg", texts={"boxes.csv": f"{header}\n{rows}"})
    with pytest.raises(DatasetError, match=f"has boxes in the columns {columns}; write their corners into the columns"):
        inspect(root)


def test_a_table_of_boxes_without_a_header(write):
    """Following the advice works; RetinaNet's tables have no header, and rows of AutoML have empty fields."""
    rows = "".join(f"images/{name}.jpg,11,21,51,61,cat\n" for name in "ab")
    images = ("images/a.jpg", "images/b.jpg")
    with pytest.raises(DatasetError, match="not a header") as caught:
        inspect(write(*images, texts={"annotations.csv": rows}))
    header = str(caught.value).rpartition("for example ")[2].removesuffix(".")
    dataset = inspect(write(*images, texts={"annotations.csv": f"{header}\n{rows}"}))
    assert (dataset.layout, dataset.classes, len(dataset.entries)) == ("manifest", ("cat",), 2)
    automl = "".join(f"TRAIN,images/{name}.jpg,cat,0.1,0.1,,,0.5,0.5,,\n" for name in "ab")
    with pytest.raises(DatasetError, match="if the file has no header, write a line of column names"):
        inspect(write(*images, texts={"annotations.csv": automl}))


BOX_TABLE = "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(
    f"{name}.jpg,100,80,cat,10,20,50,60\n" for name in "ab"
)


def test_tables_of_boxes_in_other_folders(write):
    """Roboflow writes one beside the images of every split, others into a folder of their own."""
    images = [f"{split}/{name}.jpg" for split in ("train", "valid") for name in "ab"]
    texts = {f"{split}/_annotations.csv": BOX_TABLE for split in ("train", "valid")}
    dataset = inspect(write(*images, texts=texts))
    assert (dataset.layout, dataset.own_splits, len(dataset.entries)) == ("manifest", ("train", "validation"), 4)


def test_a_table_of_boxes_in_a_folder_of_its_own(write):
    root = write("images/a.jpg", "images/b.jpg", texts={"data/raccoon_labels.csv": BOX_TABLE})
    assert len(inspect(root).entries) == 2
    write(texts={"data/copy_labels.csv": BOX_TABLE})
    with pytest.raises(
        LayoutError, match=r"2 tables that list images\. Choose one:\n  --set data\.manifest=.*copy_labels"
    ):
        inspect(root)
    assert len(inspect(root, manifest=str(root / "data/copy_labels.csv")).entries) == 2
