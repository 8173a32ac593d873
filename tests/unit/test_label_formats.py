"""Exports to Label Studio and CVAT, and annotations that come back: never predictions."""

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import labels
from components.image_example_gen.errors import DatasetError, UnusableImageError
from pipeline.labeling import annotated_images, formats
from pipeline.labeling.formats import LabelProject, ProposedImage, _brush, _regions, cvat, label_studio, table
from pipeline.labeling.image_files import mask_ids
from trainer_module import features

CLASSES = ("background", "cat", "dog")
WIDTH, HEIGHT = 40, 20
CLASS = LabelProject(labels.CLASS_LABEL, CLASSES, model="digits, version 3")
SETS = LabelProject(labels.MULTI_LABEL, CLASSES)
MASKS = LabelProject(labels.MASK_LABEL, CLASSES, fill_id=0, colors=((0, 0, 0), (255, 0, 0), (0, 0, 255)))
BOXES = LabelProject(labels.BOX_LABEL, CLASSES)


@pytest.fixture
def ids(rng):
    """A mask with two areas on a background."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 5:30], mask[7:20, 28:40] = 1, 2
    mask[rng.random(mask.shape) < 0.1] = 1
    return mask


@pytest.fixture
def proposals(ids):
    box = {
        features.BOX_YMIN: [0.1, 0.0],
        features.BOX_XMIN: [0.25, 0.0],
        features.BOX_YMAX: [0.6, 1.0],
        features.BOX_XMAX: [0.75, 1.0],
        features.BOX_CLASSES: ["cat", "dog"],
    }
    return {
        "class": (CLASS, {features.CLASS_TEXT: ["dog"]}),
        "sets": (SETS, {features.CLASS_TEXT: ["cat", "dog"]}),
        "masks": (MASKS, {features.MASK_ENCODED: [_regions.png_of(ids)]}),
        "boxes": (BOXES, box),
    }


def export(entry, folder, project, proposal, name="images/a.png"):
    folder.mkdir(exist_ok=True)
    images = [ProposedImage(name, WIDTH, HEIGHT, proposal, uncertainty=0.25)]
    entry.export(folder, images, project)
    return [folder / file for file in entry.files]


def assert_same(first, second):
    if features.MASK_ENCODED in first:
        assert np.array_equal(mask_ids(first), mask_ids(second))
        return
    for key in (features.CLASS_TEXT, features.BOX_CLASSES):
        assert sorted(first.get(key, ())) == sorted(second.get(key, ()))
    for key in features.BOX_CORNERS:
        assert sorted(first.get(key, ())) == pytest.approx(sorted(second.get(key, ())), abs=1e-3)


KINDS = ["class", "sets", "masks", "boxes"]


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_of_label_studio_become_labels_only_as_annotations(tmp_path, proposals, kind):
    project, proposal = proposals[kind]
    tasks_file, _ = export(label_studio.FORMAT, tmp_path / "selected", project, proposal)
    (task,) = json.loads(tasks_file.read_text())
    assert task["data"] == {"image": "/data/local-files/?d=selected/images/a.png"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == project.model and prediction["score"] == 0.75
    # The tasks as they are contain no annotation.
    assert label_studio.FORMAT.read(tasks_file, project).images == ()
    # A person submits the prediction; another annotation was cancelled.
    task["annotations"] = [{"result": prediction["result"]}, {"was_cancelled": True, "result": []}]
    tasks_file.write_text(json.dumps([task]))
    assert formats.of_file(tasks_file, project) is label_studio.FORMAT
    (annotated,) = label_studio.FORMAT.read(tasks_file, project).images
    assert annotated.name.endswith("images/a.png")
    assert_same(annotated.label, proposal)
    # Without the predictions, the annotation is the same.
    task["predictions"] = []
    tasks_file.write_text(json.dumps([task]))
    assert_same(label_studio.FORMAT.read(tasks_file, project).images[0].label, proposal)


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_of_cvat_become_labels_only_if_they_are_confirmed(tmp_path, proposals, kind):
    project, proposal = proposals[kind]
    file, _ = export(cvat.FORMAT, tmp_path, project, proposal)
    assert formats.of_file(file, project) is cvat.FORMAT
    unchanged = cvat.FORMAT.read(file, project)
    assert unchanged.images == () and "nobody has confirmed" in unchanged.skipped[0][1]
    text = file.read_text()
    for source in ("manual", "semi-auto"):
        file.write_text(text.replace('source="auto"', f'source="{source}"'))
        (annotated,) = cvat.FORMAT.read(file, project).images
        assert annotated.name == "a.png"
        assert_same(annotated.label, proposal)
    # CVAT exports shapes that were uploaded with the source `file`.
    file.write_text(text.replace('source="auto"', 'source="file"'))
    assert not cvat.FORMAT.read(file, project).images
    reviewed = text.replace("</image>", '<tag label="reviewed" source="manual"/></image>')
    file.write_text(reviewed)
    assert_same(cvat.FORMAT.read(file, project).images[0].label, proposal)


def test_the_project_of_label_studio(tmp_path):
    config = ElementTree.fromstring(label_studio.labeling_config(SETS))
    assert config.find("Choices").get("choice") == "multiple"
    assert [entry.get("value") for entry in config.iter("Choice")] == list(CLASSES)
    quoted = label_studio.labeling_config(CLASS._replace(classes=('a "b"', "c<d&e")))
    assert [entry.get("value") for entry in ElementTree.fromstring(quoted).iter("Choice")] == ['a "b"', "c<d&e"]
    masks = ElementTree.fromstring(label_studio.labeling_config(MASKS))
    assert [entry.get("background") for entry in masks.find("BrushLabels")] == ["#000000", "#ff0000", "#0000ff"]


def test_the_labels_of_cvat(tmp_path, proposals):
    _, labels_file = export(cvat.FORMAT, tmp_path, *proposals["boxes"])
    specs = json.loads(labels_file.read_text())
    assert [(spec["name"], spec["type"]) for spec in specs] == [
        *((name, "rectangle") for name in CLASSES),
        ("reviewed", "tag"),
    ]
    with pytest.raises(DatasetError, match="Rename it"):
        export(cvat.FORMAT, tmp_path, BOXES._replace(classes=("reviewed",)), None)


def test_the_mask_of_cvat_as_documented():
    # The example of the documentation: rows of a 3 x 3 mask, whose first value counts the pixels outside.
    inside = np.array([[0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    assert cvat.encode_mask(inside) == {"rle": "0, 3, 2, 1", "left": "1", "top": "0", "width": "2", "height": "3"}
    element = ElementTree.Element("mask", cvat.encode_mask(inside))
    assert np.array_equal(cvat.decode_mask(element, 4, 3), inside)
    for change in ({"rle": "0, 3"}, {"left": "3"}, {"rle": "x"}, {"rle": "-1, 7"}):
        with pytest.raises(UnusableImageError):
            cvat.decode_mask(ElementTree.Element("mask", {**element.attrib, **change}), 4, 3)


def test_the_brush_of_label_studio_is_bit_for_bit_that_of_its_sdk():
    # label_studio_sdk.converter.brush.encode_rle(np.repeat(mask.ravel() * 255, 4)) of a 2 x 3 mask.
    inside = np.array([[0, 1, 1], [1, 0, 0]], bool)
    assert _brush.encode(inside) == SDK_BRUSH[:-1]  # the SDK always adds bits, so that its last byte is empty here
    assert np.array_equal(_brush.decode(SDK_BRUSH, 2, 3), inside)


SDK_BRUSH = [0, 0, 0, 24, 57, 27, 252, 96, 22, 255, 231, 0, 0]


def test_the_brush_restores_any_mask(rng):
    for height, width, share in ((1, 1, 0.5), (7, 5, 0.5), (300, 301, 0.001), (64, 64, 0.0), (200, 200, 1.0)):
        inside = rng.random((height, width)) < share
        encoded = _brush.encode(inside)
        assert all(0 <= value <= 255 for value in encoded)
        assert np.array_equal(_brush.decode(encoded, height, width), inside)
    with pytest.raises(UnusableImageError, match="of another image"):
        _brush.decode(_brush.encode(np.ones((4, 4), bool)), 4, 5)
    with pytest.raises(UnusableImageError, match="damaged"):
        _brush.decode(_brush.encode(np.ones((40, 40), bool))[:9], 40, 40)


def test_polygons_and_boxes_are_drawn_into_masks(tmp_path):
    def region(kind, value):
        size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
        return {"type": kind, "value": value, **size}

    polygon = region("polygonlabels", {"points": [[25, 0], [75, 0], [75, 50], [25, 50]], "polygonlabels": ["cat"]})
    box = region("rectanglelabels", {"x": 50, "y": 0, "width": 25, "height": 50, "rectanglelabels": ["dog"]})
    file = tmp_path / "export.json"
    file.write_text(json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [polygon, box]}]}]))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:10, 10:30], expected[:10, 20:30] = 1, 2
    (annotated,) = label_studio.FORMAT.read(file, MASKS).images
    assert np.array_equal(mask_ids(annotated.label), expected)
    skipped = label_studio.FORMAT.read(file, MASKS._replace(fill_id=None)).skipped
    assert "600 pixels without a class" in skipped[0][1]

    file = tmp_path / "annotations.xml"
    file.write_text(
        f'<annotations><image name="a.png" width="{WIDTH}" height="{HEIGHT}">'
        '<polygon label="dog" source="manual" points="20,0;30,0;30,10;20,10" z_order="1"/>'
        '<polygon label="cat" source="manual" points="10,0;30,0;30,10;10,10" z_order="0"/>'
        "</image></annotations>"
    )
    (annotated,) = cvat.FORMAT.read(file, MASKS).images
    assert np.array_equal(mask_ids(annotated.label), expected)


@pytest.mark.parametrize(
    ("project", "task", "reason"),
    [
        (CLASS, {"annotations": []}, "no submitted annotation"),
        (CLASS, {"label": [{"choices": ["cat"]}]}, "not JSON-MIN"),
        (CLASS, {"annotations": [{"result": []}]}, "no class"),
        (CLASS, {"annotations": [{"result": [{"value": {"choices": ["cat", "dog"]}}]}]}, "2 classes instead of one"),
        (MASKS, {"annotations": [{"result": []}]}, "no regions"),
        (
            MASKS,
            {"annotations": [{"result": [{"value": {"rle": [1, 2], "brushlabels": ["cat"]}, "original_width": 4}]}]},
            "region 1 has no size",
        ),
        (
            BOXES,
            {"annotations": [{"result": [{"value": {"x": 1, "rotation": 5}, "type": "rectanglelabels"}]}]},
            "rotat",
        ),
    ],
)
def test_why_a_task_of_label_studio_is_not_used(tmp_path, project, task, reason):
    file = tmp_path / "export.json"
    file.write_text(json.dumps([{"data": {"image": "a.png"}, **task}]))
    read = label_studio.FORMAT.read(file, project)
    assert read.images == () and reason in read.skipped[0][1]


def test_an_empty_annotation_is_an_empty_set_and_no_box(tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": []}]}]))
    assert label_studio.FORMAT.read(file, SETS).images[0].label == {features.CLASS_TEXT: []}
    assert label_studio.FORMAT.read(file, BOXES).images[0].label[features.BOX_CLASSES] == []


def test_the_table_takes_classes_and_ignores_proposals(tmp_path, proposals):
    project, proposal = proposals["class"]
    (file,) = export(table.FORMAT, tmp_path, project, proposal)
    assert formats.of_file(file, project) is table.FORMAT
    header, row = file.read_text().splitlines()
    assert header.split(",") == list(table.COLUMNS) and row.split(",")[4:6] == ["dog", ""]
    assert table.FORMAT.read(file, project) == ((), (("images/a.png", "no label"),))
    file.write_text(f"{header}\nimages/a.png,,,,dog,cat,r-1,log\n")
    assert table.FORMAT.read(file, project).images == (("images/a.png", {features.CLASS_TEXT: ["cat"]}),)
    file.write_text("filename,label\na.png,cat|dog\nb.png,|\n")
    assert [image.label[features.CLASS_TEXT] for image in table.FORMAT.read(file, SETS).images] == [["cat", "dog"], []]
    with pytest.raises(DatasetError, match=r"cannot contain masks or boxes. Files that can: .*CVAT"):
        formats.of_file(file, BOXES)


@pytest.mark.parametrize("kind", KINDS)
def test_files_for_labels_are_those_that_are_read(tmp_path, proposals, kind):
    project, proposal = proposals[kind]
    image = ProposedImage("images/a.png", WIDTH, HEIGHT, proposal, request_id="r-1", source="request log")
    formats.export(tmp_path, [image], project)
    files = formats.files_for(project.label_features)
    assert set(files) <= set(formats.files()) == {path.name for path in tmp_path.iterdir()}
    assert (table.TABLE_FILE in files) == (kind in ("class", "sets"))
    # The table without a place for labels still says where an image comes from.
    header = (tmp_path / table.TABLE_FILE).read_text().splitlines()[0].split(",")
    assert ("label" in header) == (kind in ("class", "sets"))
    assert table.origins(tmp_path) == {"images/a.png": ("r-1", "request log")}
    read = [formats.of_file(tmp_path / name, project).name for name in files if is_read(tmp_path / name)]
    assert sorted(read) == [entry.name for entry in formats.of_labels(project.label_features)]


def is_read(path):
    """Whether it is a file with annotations; the others configure the labelling program."""
    return any(formats.get(name).is_one(path.name, path.read_bytes()) for name in formats.names())


def test_images_are_found_and_keep_their_origin(tmp_path, proposals):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    file = tmp_path / "selected.csv"
    file.write_text("filename,label,request_id,source\nimages/a.png,cat,r-1,request log\nimages/b.png,dog,,\n")
    read = annotated_images.read(file, tmp_path, CLASS)
    ((image,), ((missing, reason),)) = read
    assert (image.request_id, image.source, image.confirmed_by) == ("r-1", "request log", "table")
    assert missing == "images/b.png" and "does not exist" in reason
    # Label Studio writes a prefix before the names of uploaded files.
    export_file = tmp_path / "export.json"
    task = {
        "data": {"image": "/data/upload/1/0a1b2c3d-a.png"},
        "annotations": [{"result": [{"value": {"choices": ["dog"]}}]}],
    }
    export_file.write_text(json.dumps([task]))
    ((image,), skipped) = annotated_images.read(export_file, tmp_path, CLASS)
    assert (image.request_id, image.confirmed_by, skipped) == ("r-1", "label_studio", ())


def test_files_of_other_programs_are_refused(tmp_path):
    for name, content in (("a.json", "{}"), ("a.xml", "<annotation/>"), ("a.csv", "x,y\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DatasetError, match="Label Studio"):
            formats.of_file(tmp_path / name, CLASS)


@pytest.mark.parametrize("entry", [label_studio.FORMAT, cvat.FORMAT], ids=["label_studio", "cvat"])
def test_ignored_pixels_stay_ignored(tmp_path, ids, entry):
    ids[:, :2] = 255
    listed = SimpleNamespace(label_features=labels.MASK_LABEL, classes=CLASSES, ignore_id=255, colors=())
    project = annotated_images.project_of(listed, fills_ignored=True)
    file, _ = export(entry, tmp_path, project, {features.MASK_ENCODED: [_regions.png_of(ids)]})
    if entry is cvat.FORMAT:
        document = ElementTree.parse(file)
        ElementTree.SubElement(next(document.iter("image")), "tag", {"label": "reviewed", "source": "manual"})
        document.write(file)
    else:
        (task,) = json.loads(file.read_text())
        file.write_text(json.dumps([task | {"annotations": [{"result": task["predictions"][0]["result"]}]}]))
    (annotated,) = entry.read(file, project).images
    np.testing.assert_array_equal(mask_ids(annotated.label), ids)
    # By default they would become background.
    assert annotated_images.project_of(listed).fill_id == 0
    with pytest.raises(DatasetError, match="--fill-ignored requires masks"):
        annotated_images.project_of(SimpleNamespace(label_features=labels.CLASS_LABEL), fills_ignored=True)
