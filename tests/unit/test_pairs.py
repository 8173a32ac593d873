"""Images and masks, annotations of objects, and classes: the arrangement is recognised, asked for, or refused."""

import io
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import files, labels, layouts
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError, LayoutError
from components.image_example_gen.layouts import Folder
from components.image_example_gen.options import DataOptions
from pipeline.config import loading

RANDOM = np.random.default_rng(7)


def photo(suffix="JPEG", side=24):
    """An image of many colours."""
    return encoded(Image.fromarray(RANDOM.integers(0, 256, (side, side, 3), np.uint8)), suffix)


def photo_as_png():
    return photo("PNG")


def drawing(suffix="PNG", side=24):
    """An image of two values."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[side // 4 : side // 2, side // 4 : side // 2] = 255
    return encoded(Image.fromarray(pixels), suffix)


def encoded(image, suffix):
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path):
    """Writes files: path → content."""

    def make(contents, name="dataset"):
        root = tmp_path / name
        for path, content in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return root

    return make


def inspect(root, **options):
    return inspect_dataset(str(root), DataOptions(**options))


def inspect_masks(root, **options):
    dataset = inspect(root, classes=["ground", "car"], **options)
    assert dataset.layout == "mask_pairs" and dataset.label_features == labels.MASK_LABEL
    return {(entry.path, entry.label_files[0].path, entry.split) for entry in dataset.entries}, dataset


def settings(message):
    """Every line of choices in a message → its `--set` arguments, as a shell and the configuration would read them."""
    choices = {}
    for line in message.splitlines():
        if line.startswith("If "):
            meaning, _, arguments = line.partition(": ")
            words = [word for word in shlex.split(arguments) if word != "--set"]
            parsed = [loading._parsed(word, lambda text: None) for word in words]
            choices[meaning] = {key.removeprefix("data."): value for key, value in parsed}
    return choices


# --- Known names ------------------------------------------------------------------------------------------------

FOLDERS = [
    *(("images", "labels"), ("image", "mask"), ("Images", "Masks"), ("JPEGImages", "SegmentationClass")),
    *(
        ("img", "gt"),
        ("imgs", "Ground_Truth"),
        ("input", "target"),
        ("IMAGES", "Segmentations"),
        ("data", "annotations"),
    ),
    *(
        ("train_images", "train_masks"),
        ("images_train", "labels_train"),
        ("train", "train_labels"),
        ("Train", "trainannot"),
    ),
    *(("street", "street_masks"), ("x-images", "x-image-labels")),
]


@pytest.mark.parametrize(("images", "masks"), FOLDERS)
def test_folders_with_common_names_are_images_and_masks(write, images, masks):
    contents = {f"{images}/{name}.jpg": photo() for name in "abc"} | {
        f"{masks}/{name}.png": drawing() for name in "abc"
    }
    pairs, dataset = inspect_masks(write(contents))
    assert {pair[:2] for pair in pairs} == {(f"{images}/{name}.jpg", f"{masks}/{name}.png") for name in "abc"}
    assert dataset.refused == ()


ARRANGEMENTS = [
    ("{split}/images/a.jpg", "{split}/labels/a.png"),
    ("{split}/Image/a.jpg", "{split}/Mask/a.png"),
    ("images/{split}/a.jpg", "labels/{split}/a.png"),
    ("{split}/a.jpg", "{split}_labels/a.png"),
    ("{split}_images/a.jpg", "{split}_masks/a.png"),
    ("{split}/a.jpg", "{split}annot/a.png"),
    ("images_{split}/a.jpg", "masks_{split}/a.png"),
    ("{split}/a.jpg", "{split}/a_mask.png"),
]


@pytest.mark.parametrize(("image", "mask"), ARRANGEMENTS)
@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "Validation", "Testing")])
def test_splits_of_images_and_masks(write, image, mask, names):
    paths = [(image.format(split=split), mask.format(split=split)) for split in names]
    root = write({path: photo() for path, _ in paths} | {path: drawing() for _, path in paths})
    pairs, dataset = inspect_masks(root)
    splits = ("train", "validation", "test")
    assert pairs == {(*path, split) for path, split in zip(paths, splits, strict=True)}
    assert dataset.own_splits == splits


@pytest.mark.parametrize(
    "name",
    [
        "{}_mask.png",
        "{}_gt.png",
        "{}_seg.png",
        "{}_label.png",
        "{}-labels.png",
        "mask_{}.png",
        "{}_MASK.png",
        "{}.mask.png",
    ],
)
def test_suffixes_of_masks_in_their_folder(write, name):
    contents = {f"images/{stem}.jpg": photo() for stem in ("a", "b_1")}
    root = write(contents | {f"masks/{name.format(stem)}": drawing() for stem in ("a", "b_1")})
    assert {pair[:2] for pair in inspect_masks(root)[0]} == {
        (f"images/{stem}.jpg", f"masks/{name.format(stem)}") for stem in ("a", "b_1")
    }


@pytest.mark.parametrize("name", ["{}_mask.png", "{}_gt.png", "{}_seg.png", "{}_labels.png", "{}_Mask.png"])
@pytest.mark.parametrize("folder", ["", "all/"])
def test_suffixes_of_masks_beside_their_images(write, name, folder):
    contents = {f"{folder}{stem}.jpg": photo() for stem in "ab"}
    root = write(contents | {f"{folder}{name.format(stem)}": drawing() for stem in "ab"})
    pairs, dataset = inspect_masks(root)
    assert {pair[:2] for pair in pairs} == {(f"{folder}{stem}.jpg", f"{folder}{name.format(stem)}") for stem in "ab"}
    assert dataset.refused == ()


def test_numbered_images_and_masks(write):
    root = write(
        {f"images/image_{i}.jpg": photo() for i in range(3)} | {f"masks/mask_{i}.png": drawing() for i in range(3)}
    )
    assert {pair[:2] for pair in inspect_masks(root)[0]} == {
        (f"images/image_{i}.jpg", f"masks/mask_{i}.png") for i in range(3)
    }


def test_two_masks_of_one_image_by_suffix(write):
    contents = {"images/a.jpg": photo(), "images/b.jpg": photo(), "masks/b.png": drawing()}
    root = write(contents | {"masks/a_mask.png": drawing(), "masks/a_gt.png": drawing()})
    assert inspect_masks(root)[1].refused == (
        ("images/a.jpg", "unusable mask: masks/a_mask.png: masks/a_gt.png belongs to the same image"),
    )


def test_folders_of_pascal_voc_that_are_not_read_are_noted(write):
    contents = {
        "JPEGImages/a.jpg": photo(),
        "SegmentationClass/a.png": drawing(),
        "SegmentationObject/a.png": drawing(),
    }
    root = write(contents | {"Annotations/a.xml": b"<annotation>", "ImageSets/Main/train.txt": b"a\n"})
    with pytest.raises(LayoutError, match=r"the layouts mask_pairs, voc") as caught:
        inspect(root)
    assert settings(str(caught.value)).keys() >= {"If every image has an XML file with its boxes"}
    pairs, dataset = inspect_masks(root, layout="mask_pairs")
    assert {pair[:2] for pair in pairs} == {("JPEGImages/a.jpg", "SegmentationClass/a.png")}
    assert dataset.notes == ("not read: the folders Annotations, ImageSets, SegmentationObject",)


def test_other_images_beside_a_pair_in_a_split_folder_stop_the_run(write):
    names = ("images/1_training", "mask/1_training_mask", "1st_manual/1_training")
    root = write({f"training/{name}.png": photo("PNG") if "images" in name else drawing() for name in names})
    with pytest.raises(LayoutError, match=r"training/1st_manual: expected training/images and training/mask"):
        inspect_masks(root)
    pairs, dataset = inspect_masks(root, images_folder="images", masks_folder="1st_manual")
    assert pairs == {("training/images/1_training.png", "training/1st_manual/1_training.png", "")}
    assert dataset.notes == ("not read: the folders training/mask",)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/001.Albatross/a.jpg", "segmentations/001.Albatross/a.png"),
        ("ISIC_Input/ISIC_7.jpg", "ISIC_GroundTruth/ISIC_7_segmentation.png"),
        ("cells/c.jpg", "cells_gt/c_gt.png"),
    ],
)
def test_published_arrangements(write, image, mask):
    assert {pair[:2] for pair in inspect_masks(write({image: photo(), mask: drawing()}))[0]} == {(image, mask)}


def test_images_of_splits_are_not_classes(write):
    root = write({f"{split}_images/{split}{i}.jpg": photo() for split in ("train", "test") for i in range(4)})
    with pytest.raises(
        LayoutError, match="folders of the images of splits, without classes: test_images, train_images"
    ):
        inspect(root)
    (root / "train.csv").write_text("image_id,label\n" + "".join(f"train{i}.jpg,{i % 2}\n" for i in range(4)))
    assert inspect(root).classes == ("0", "1") and len(inspect(root).entries) == 4


def test_a_split_without_masks_stops_the_run(write):
    root = write({"train/a.jpg": photo(), "train_labels/a.png": drawing(), "test/b.jpg": photo()})
    with pytest.raises(LayoutError, match=r"test: expected train and train_labels.*Move it elsewhere"):
        inspect_masks(root)


# --- Unknown names ----------------------------------------------------------------------------------------------


def two_folders(first, second, names, *, parent="", suffixes=("jpg", "png")):
    paths = (f"{parent}{{}}/{{}}.{suffix}" for suffix in suffixes)
    contents = (
        {path.format(folder, name): make() for name in names}
        for path, (folder, make) in zip(paths, (first, second), strict=True)
    )
    return {path: content for folder in contents for path, content in folder.items()}


ASKED = {
    "unique names": (photo, drawing, ["IMG_20240131_7", "0006R0_f00930", "x"], ("jpg", "png")),
    "numbered, one folder has two values": (photo, drawing, ["0001", "0002", "0003"], ("jpg", "png")),
    "equal formats": (lambda: photo("PNG"), drawing, ["1", "2", "3"], ("png", "png")),
    "masks as JPEG": (photo, lambda: drawing("JPEG"), ["1", "2", "3"], ("jpg", "jpg")),
    "unique names, both photographs": (photo, photo, ["id-8f31", "id-77aa"], ("jpg", "jpg")),
    "numbered photographs in two formats": (photo, photo_as_png, ["1", "2", "3"], ("jpg", "png")),
}


@pytest.mark.parametrize("case", ASKED)
@pytest.mark.parametrize("parent", ["", "train/"])
@pytest.mark.parametrize("masks_first", [False, True])
def test_equal_names_in_two_folders_are_asked_for_with_settings_that_work(write, case, parent, masks_first):
    images, masks, names, suffixes = ASKED[case]
    folders = ("zebra", "apple") if masks_first else ("apple", "zebra")
    root = write(two_folders((folders[0], images), (folders[1], masks), names, parent=parent, suffixes=suffixes))
    with pytest.raises(LayoutError, match=f"{len(names)} equal file names in ") as caught:
        inspect(root)
    choices = settings(str(caught.value))
    assert len(choices) == 2
    as_classes, as_masks = sorted(choices.values(), key=lambda chosen: "masks_folder" in chosen)
    dataset = inspect(root, **as_classes)
    assert (dataset.classes, len(dataset.entries)) == (("apple", "zebra"), 2 * len(names))
    pairs, _ = inspect_masks(root, **as_masks)
    assert len(pairs) == len(names)
    if masks not in (photo, photo_as_png):
        assert {pair[0].split("/")[-2] for pair in pairs} == {folders[0]}


@pytest.mark.parametrize("masks_first", [False, True])
def test_numbered_files_beside_a_folder_that_means_images_are_asked_for(write, masks_first):
    folders = ("rgb", "zdepth" if masks_first else "depth")
    root = write(two_folders(*((name, photo) for name in folders), ["1", "2", "3"], suffixes=("jpg", "jpg")))
    with pytest.raises(LayoutError, match=r"--set data\.images_folder=rgb --set data\.masks_folder=z?depth"):
        inspect(root)


def test_numbered_files_whose_sizes_vary_in_the_same_way_are_asked_for(write):
    contents = {f"{name}/{i}.jpg": photo(side=16 + 8 * i) for name in ("before", "outlines") for i in range(4)}
    with pytest.raises(LayoutError, match="4 equal file names"):
        inspect(write(contents))


CLASSES = {
    "numbers and other names": (photo, photo, [["1", "2", "3", *(f"copy-{i}-1" for i in range(9))], ["1", "2", "3"]]),
    "photographs of both, numbered": (photo, photo, [["1", "2", "3"], ["1", "2", "3", "4"]]),
    "drawings of both, numbered": (lambda: drawing("JPEG"), lambda: drawing("JPEG"), [["1", "2", "3"]] * 2),
    "prefixed numbers": (photo, photo, [["img_1", "img_2", "img_3"]] * 2),
    "other sizes": (photo, lambda: drawing("JPEG", side=20), [["1", "2", "3"]] * 2),
    "few equal names": (photo, lambda: drawing("JPEG"), [["a", "b", "x"], ["c", "d", "x"]]),
}


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("parent", ["", "train/"])
def test_numbered_files_of_two_classes_are_classes(write, case, parent):
    first, second, names = CLASSES[case]
    contents = {f"{parent}cat/{name}.jpg": first() for name in names[0]}
    dataset = inspect(write(contents | {f"{parent}dog/{name}.jpg": second() for name in names[1]}))
    assert dataset.classes == ("cat", "dog") and len(dataset.entries) == len(contents) + len(names[1])


def test_three_folders_with_equal_names_are_classes(write):
    contents = {
        f"{name}/{i}.png": make() for name, make in (("a", photo), ("b", drawing), ("c", drawing)) for i in range(3)
    }
    assert inspect(write(contents)).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "names", [("mask", "no_mask"), ("with_mask", "without_mask"), ("label", "sticker"), ("gt", "gl")]
)
def test_words_of_masks_in_names_of_classes(write, names):
    contents = {f"{name}/{name}-{i}.jpg": photo() for name in names for i in range(3)}
    assert inspect(write(contents)).classes == tuple(sorted(names))


def test_a_split_folder_and_another_with_equal_names_have_two_interpretations(write):
    root = write(two_folders(("train", photo), ("outlines", drawing), ["x1", "x7", "x"]))
    with pytest.raises(LayoutError, match="have equal names") as caught:
        inspect(root)
    arguments = re.findall(r"--set data\.(\w+)=(\w+)", str(caught.value))
    assert len(inspect_masks(root, **dict(arguments[:2]))[0]) == 3
    assert inspect(root, **dict(arguments[2:])).classes == ("outlines", "train")


def test_the_error_of_masks_without_names_has_the_setting_for_classes(write):
    root = write(two_folders(("images", photo), ("labels", drawing), ["1", "2", "3"]))
    with pytest.raises(
        DatasetError, match=r"mask_pairs \(images/1\.jpg and labels/1\.png\); if every folder"
    ) as caught:
        inspect(root)
    (setting,) = re.findall(r"--set data\.layout=(\w+)", str(caught.value))
    assert inspect(root, layout=setting).classes == ("images", "labels")


def test_two_classes_can_be_forced(write):
    root = write({f"{name}/{i}.png": photo("PNG") for name in ("images", "labels") for i in range(3)})
    assert inspect(root, layout="class_folders").classes == ("images", "labels")


def test_folders_of_masks_that_do_not_exist(write):
    root = write({f"{name}/{i}.png": photo("PNG") for name in ("photos", "outlines") for i in range(3)})
    assert len(inspect_masks(root, images_folder="photos", masks_folder="outlines")[0]) == 3
    with pytest.raises(LayoutError, match=r"masks_folder = outline are not both folders .* Folders: outlines, photos"):
        inspect(root, images_folder="photos", masks_folder="outline")
    with pytest.raises(ValueError, match="must be set together"):
        DataOptions(images_folder="photos")


def test_masks_inside_class_folders_are_asked_for_with_settings_that_work(write):
    names = [f"{kind}/{kind} ({i})" for kind in ("benign", "malignant") for i in range(3)]
    root = write({f"{name}.png": photo("PNG") for name in names} | {f"{name}_mask.png": drawing() for name in names})
    with pytest.raises(LayoutError, match=r"`benign \(0\)_mask` beside `benign \(0\)`") as caught:
        inspect(root)
    choices = settings(str(caught.value))
    as_classes, as_masks = sorted(choices.values(), key=lambda chosen: chosen["layout"])
    dataset = inspect(root, **as_classes)
    assert len(dataset.entries) == 6 and dataset.classes == ("benign", "malignant")
    assert dataset.notes == (
        "6 masks beside their images are not used, such as benign/benign (0)_mask.png, benign/benign (1)_mask.png",
    )
    assert len(inspect_masks(root, **as_masks)[0]) == 6


# --- Annotations of objects -------------------------------------------------------------------------------------

YOLO, VOC = b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.05 1e-2\n", b"<annotation>\n <object/></annotation>"
COCO = b'{"images": [], "annotations": []}'
BOXES = [
    ("bounding boxes of YOLO", {"images/a.jpg": None, "labels/a.txt": YOLO}),
    ("polygons of YOLO", {"images/a.jpg": None, "labels/a.txt": b"0 0.1 0.1 0.2 0.2 0.3 0.1\n"}),
    ("bounding boxes of YOLO", {"train/images/a.jpg": None, "train/labels/a.txt": YOLO}),
    ("bounding boxes of YOLO", {"images/train/a.jpg": None, "labels/train/a.txt": YOLO}),
    ("bounding boxes of YOLO", {"bikes/b.jpg": None, "bikes/b.txt": YOLO, "cars/a.jpg": None, "cars/a.txt": YOLO}),
    ("bounding boxes of Pascal VOC", {"JPEGImages/a.jpg": None, "Annotations/a.xml": VOC}),
    ("bounding boxes of Pascal VOC", {"a.jpg": None, "a.xml": VOC}),
    ("bounding boxes of Pascal VOC", {"cat/a.jpg": None, "cat/a.xml": VOC, "dog/b.jpg": None, "dog/b.xml": VOC}),
    ("bounding boxes of COCO", {"images/a.jpg": None, "annotations/instances.json": COCO}),
    ("bounding boxes of COCO", {"train/a.jpg": None, "train/_annotations.coco.json": COCO}),
    ("annotations of LabelMe", {"images/a.jpg": None, "labels/a.json": b'{"shapes": []}'}),
    ("annotations of VGG", {"a.jpg": None, "via_region_data.json": b'{"a": {"regions": [{"shape_attributes": {}}]}}'}),
]


LAYOUTS = {"YOLO": "yolo", "Pascal VOC": "voc", "COCO": "coco"}


@pytest.mark.parametrize(("kind", "contents"), BOXES)
def test_annotations_of_objects_are_read_or_refused_by_name(write, kind, contents):
    root = write({path: content or photo() for path, content in contents.items()})
    path = next(path for path, content in contents.items() if content)
    layout = next((layout for words, layout in LAYOUTS.items() if words in kind), "")
    folder = Folder(str(root), tuple(files.listing(str(root))))
    if layout and not path.startswith(("bikes", "cat")):
        assert layouts.detect(folder, DataOptions()).layout == layout
        return
    advice = f"--set data.layout={layout}" if layout else "export them as COCO"
    with pytest.raises(LayoutError, match=f"{re.escape(path)} looks like {kind}.*{advice}"):
        inspect(root)


def test_a_text_beside_class_folders_is_not_an_annotation(write):
    contents = {f"{name}/{i}.jpg": photo() for name in ("cat", "dog") for i in range(3)}
    root = write(contents | {"LICENSE.txt": b"CC0", "cat/readme.txt": b"0 1 2 3 4"})
    assert inspect(root).layout == "class_folders"


# --- Nested folders ---------------------------------------------------------------------------------------------


def test_nested_folders_of_classes_follow_the_advice(write):
    names = [
        f"{kind}/{day}/{i}.jpg"
        for kind in ("cat", "dog")
        for day in ("monday", "tuesday")
        for i in (f"{kind}-1", f"{kind}-2")
    ]
    root = write({name: photo() for name in names})
    with pytest.raises(
        DatasetError, match=r"8 images are in folders inside class folders, such as cat/monday/cat-1\.jpg, "
    ):
        inspect(root)
    dataset = inspect(root, recursive=True)
    assert dataset.classes == ("cat", "dog") and len(dataset.entries) == 8 and dataset.refused == ()
    grouped = inspect(root, recursive=True, group_pattern="/([^/]+)/")
    assert {entry.group for entry in grouped.entries} == {"monday", "tuesday"}


def test_nested_folders_of_classes_in_splits(write):
    root = write({f"train/{kind}/day/{kind}-{i}.jpg": photo() for kind in ("cat", "dog") for i in range(3)})
    with pytest.raises(DatasetError, match=r"--set data\.recursive=true"):
        inspect(root)
    assert len(inspect(root, recursive=True).entries) == 6


def test_masks_in_nested_folders_of_classes_are_not_images(write):
    names = [
        f"{kind}/{folder}/{kind}-{i}.png"
        for kind in ("covid", "normal")
        for folder in ("images", "masks")
        for i in range(3)
    ]
    root = write({name: drawing() if "/masks/" in name else photo("PNG") for name in names})
    dataset = inspect(root, recursive=True)
    assert all("/images/" in entry.path for entry in dataset.entries) and len(dataset.entries) == 6
    assert dataset.notes == (
        "6 masks beside their images are not used, such as covid/masks/covid-0.png, covid/masks/covid-1.png",
    )


def test_one_folder_above_the_classes_is_named(write):
    root = write({f"photos/{kind}/{kind}-{i}.jpg": photo() for kind in ("cat", "dog") for i in range(3)})
    for recursive in (False, True):
        with pytest.raises(LayoutError, match=r"contains the folders `cat`, `dog`: use --data .*/photos\.") as caught:
            inspect(root, recursive=recursive)
    location = re.search(r"--data (\S+)\.$", str(caught.value), re.MULTILINE).group(1)
    assert inspect(location).classes == ("cat", "dog")


# --- Common datasets --------------------------------------------------------------------------------------------


def test_cityscapes(write):
    contents = {}
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        name = f"{split}/{city}/{city}_000001_000019"
        contents |= {f"leftImg8bit/{name}_leftImg8bit.png": photo("PNG")}
        contents |= {f"gtFine/{name}_gtFine_labelIds.png": drawing()}
    pairs, dataset = inspect_masks(write(contents))
    assert len(pairs) == 3 and dataset.own_splits == ("train", "validation")


def test_images_and_masks_beside_each_other_with_a_suffix_each(write):
    contents = {f"case{i}_{role}.png": make() for i in range(3) for role, make in (("image", photo), ("seg", drawing))}
    pairs, _ = inspect_masks(write(contents))
    assert len(pairs) == 3
