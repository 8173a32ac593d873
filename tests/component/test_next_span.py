"""Images with confirmed labels become the next span, which ImageExampleGen reads with the same labels."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from components.image_example_gen import spans
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.labelled_span import Provenance
from pipeline.config import loading
from pipeline.labeling import next_span
from pipeline.labeling.confirmed import ConfirmedImage
from trainer_module import features


@pytest.fixture
def image(make_image):
    """A confirmed image, by default of a random image and the class `cat`."""

    def make(label=None, name="a.png", encoded=None, **more):
        label = {features.CLASS_TEXT: ["cat"]} if label is None else label
        return ConfirmedImage(name, encoded or make_image(), label, **{"confirmed_by": "table", **more})

    return make


@pytest.fixture
def dataset(tmp_path, class_folders):
    """A dataset of one span with the classes cat and dog, as configuration."""
    (tmp_path / "data").mkdir()
    folder = class_folders({"cat": 4, "dog": 4}, name="data/day-1")

    def load(*overrides, preset="images"):
        settings = [f"pipeline.root={tmp_path / 'runs'}", "data.spans=all", *overrides]
        return loading.load(preset, data=f"{folder.parent}/day-{{SPAN}}", overrides=settings)

    load.root = folder.parent
    return load


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def read(config):
    return inspect_dataset(config.data_location, config.data_options)


def labels_in(dataset, span):
    return {entry.path.rpartition("/")[2]: dict(entry.label) for entry in dataset.entries if span in entry.path}


def test_images_are_read_with_the_others_of_another_layout(dataset, image):
    config = dataset()
    written = next_span.write(
        config,
        [image(), image({features.CLASS_TEXT: ["dog"]}, "a.png", request_id="r-1", source="request log")],
    )
    assert (written.number, written.images, written.known, written.is_read_with_others) == (2, 2, (), True)
    assert written.path == str(dataset.root / "day-2")
    whole = read(config)
    assert (whole.span, len(whole.entries), whole.layout) == (2, 10, "class_folders")
    labels = labels_in(whole, "day-2")
    assert sorted(label[features.CLASS_TEXT] for label in labels.values()) == [("cat",), ("dog",)]
    assert {entry.slices for entry in whole.entries} == {("1",), ("2",)}
    origins = Provenance.read(written.path).origins
    assert [(origin.request_id, origin.source, origin.confirmed_by) for origin in origins.values()] == [
        ("", "", "table"),
        ("r-1", "request log", "table"),
    ]


def test_a_dataset_of_one_configured_layout_can_grow(dataset, image):
    config = dataset("data.layout=class_folders")
    next_span.write(config, [image()])
    assert len(read(config).entries) == 9


def test_nothing_is_replaced_and_numbers_increase(dataset, image):
    config = dataset()
    (dataset.root / "day-7").mkdir()
    (dataset.root / "day-7" / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError):  # day-7 has no images
        next_span.write(config, [image()])
    (dataset.root / "day-7" / "mine.txt").unlink()
    (dataset.root / "day-7").rmdir()
    assert [next_span.write(config, [image()]).number for _ in range(2)] == [2, 3]
    assert sorted(path.name for path in dataset.root.iterdir()) == ["day-1", "day-2", "day-3"]


def test_two_writers_take_two_numbers(dataset, image, monkeypatch):
    config = dataset()
    next_number = spans.next_span
    late = iter([spans.Span(1, 0, "day-1")])  # as if day-1 had been written meanwhile
    monkeypatch.setattr(spans, "next_span", lambda *arguments: next(late, None) or next_number(*arguments))
    before = sorted(path.name for path in (dataset.root / "day-1" / "cat").iterdir())
    assert next_span.write(config, [image()]).number == 2
    assert sorted(path.name for path in (dataset.root / "day-1" / "cat").iterdir()) == before


def test_one_bad_image_writes_nothing(dataset, image):
    config = dataset()
    damaged = image(name="damaged.png", encoded=b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(DatasetError, match=r"damaged\.png"):
        next_span.write(config, [image(), damaged])
    with pytest.raises(DatasetError, match=r"text\.png is not an image file"):
        next_span.write(config, [image(), image(name="text.png", encoded=b"hello")])
    assert [path.name for path in dataset.root.iterdir()] == ["day-1"]


def test_unknown_classes_and_other_kinds_of_labels_are_refused(dataset, image):
    config = dataset()
    with pytest.raises(DatasetError, match=r"`fox` \(of a.png\): not a class.*--new-classes"):
        next_span.write(config, [image({features.CLASS_TEXT: ["fox"]})])
    with pytest.raises(DatasetError, match="another kind"):
        next_span.write(config, [image({features.MASK_ENCODED: [b""]})])
    with pytest.raises(DatasetError, match="Not exactly one class"):
        next_span.write(config, [image({features.CLASS_TEXT: ["cat", "dog"]})])
    foxes = [image({features.CLASS_TEXT: ["fox"]}, f"{number}.png") for number in range(3)]
    next_span.write(config, foxes, allow_new_classes=True)
    assert read(config).classes == ("cat", "dog", "fox")


def test_known_images_are_left_out_or_refused(dataset, image):
    config = dataset()
    known = next((dataset.root / "day-1" / "cat").iterdir()).read_bytes()
    written = next_span.write(config, [image(encoded=known, name="known.png"), image()])
    assert (written.images, written.known) == (1, ("known.png",))
    with pytest.raises(DatasetError, match=r"cat/.*with another label.*data.corrections"):
        next_span.write(config, [image({features.CLASS_TEXT: ["dog"]}, encoded=known)])
    with pytest.raises(DatasetError, match="nothing to add"):
        next_span.write(config, [image(encoded=known)])


def test_the_same_image_with_two_labels_is_refused(dataset, image):
    first = image()
    with pytest.raises(DatasetError, match="same image with different labels"):
        next_span.write(dataset(), [first, image({features.CLASS_TEXT: ["dog"]}, "b.png", encoded=first.encoded)])
    with pytest.raises(DatasetError, match="nothing to add"):
        next_span.write(dataset(), [])


def test_only_confirmed_labels_are_accepted(image):
    with pytest.raises(ValueError, match="only confirmed labels"):
        image(confirmed_by="")


def test_a_path_without_a_placeholder_is_explained(tmp_path, class_folders, image):
    folder = class_folders({"cat": 3, "dog": 3})
    config = loading.load("images", data=str(folder), overrides=[f"pipeline.root={tmp_path}"])
    with pytest.raises(DatasetError) as refused:
        next_span.write(config, [image()])
    moved = tmp_path / f"{folder.name}-spans" / "1"
    assert f"{moved.parent}/{{SPAN}}" in str(refused.value) and str(moved) in str(refused.value)
    moved.parent.mkdir()
    folder.rename(moved)
    config = loading.load(
        "images", data=f"{moved.parent}/{{SPAN}}", overrides=[f"pipeline.root={tmp_path}", "data.spans=all"]
    )
    assert next_span.write(config, [image()]).number == 2


def test_sets_of_classes(tmp_path, make_image, image):
    folder = tmp_path / "data" / "1"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.png").write_bytes(make_image())
    rows = "".join(f"{number}.png,{'cat|dog' if number % 2 else 'cat'}\n" for number in range(6))
    (folder / "manifest.csv").write_text(f"path,label\n{rows}")
    config = loading.load(
        "images",
        data=f"{folder.parent}/{{SPAN}}",
        overrides=[f"pipeline.root={tmp_path}", "data.spans=all", "task.name=multi_label"],
    )
    next_span.write(
        config,
        [image({features.CLASS_TEXT: names}, f"{len(names)}.png") for names in ([], ["dog"], ["dog", "cat"])],
    )
    labels = labels_in(read(config), "2/")
    assert {name: label[features.CLASS_TEXT] for name, label in labels.items()} == {
        "0.png": (),
        "1.png": ("dog",),
        "2.png": ("cat", "dog"),
    }


@pytest.mark.parametrize(
    ("class_file", "settings", "encode"),
    [
        ("sky\nroad\n255 ignored\n", [], lambda ids: png(ids)),
        (
            "sky 10 20 30\nroad 200 100 0\nignored 0 0 0\n",
            ["data.ignore_id=255"],
            lambda ids: png(np.array([(10, 20, 30), (200, 100, 0), *[(0, 0, 0)] * 254], np.uint8)[ids]),
        ),
        (None, ['data.classes=["sky", "road"]', "data.mask_values=[0, 200]", "data.ignore_id=255"], None),
    ],
    ids=["ids", "colours", "values"],
)
def test_masks_are_written_as_the_dataset_has_them(tmp_path, rng, image, class_file, settings, encode):
    folder = tmp_path / "data" / "1"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)

    def random_ids():
        ids = rng.integers(0, 2, (6, 8)).astype(np.uint8)
        ids[0, 0] = 255
        return ids

    encode = encode or (lambda ids: png(np.where(ids == 1, 200, ids).astype(np.uint8)))
    for number in range(6):
        (folder / "images" / f"{number}.png").write_bytes(png(rng.integers(0, 255, (6, 8, 3), np.uint8)))
        (folder / "masks" / f"{number}.png").write_bytes(encode(random_ids()))
    if class_file:
        (folder / "classes.txt").write_text(class_file)
    config = loading.load(
        "images",
        data=f"{folder.parent}/{{SPAN}}",
        overrides=[
            *(f"pipeline.root={tmp_path}", "data.spans=all", "task.name=segmentation", "model.name=unet"),
            "transform.image_size=32",
            *settings,
        ],
    )
    ids = random_ids()
    pixels = png(rng.integers(0, 255, (6, 8, 3), np.uint8))
    written = next_span.write(config, [image({features.MASK_ENCODED: [png(ids)]}, encoded=pixels)])
    assert (folder.parent / "2" / "masks" / "a.png").read_bytes() == encode(ids)
    assert written.number == 2 and len(read(config).entries) == 7
    wrong = image({features.MASK_ENCODED: [png(np.zeros((5, 5), np.uint8))]}, name="wrong.png")
    with pytest.raises(DatasetError, match=r"wrong\.png"):
        next_span.write(config, [wrong])


def boxes(*rows):
    ymin, xmin, ymax, xmax, names = zip(*rows, strict=True) if rows else ([],) * 5
    values = dict(zip(features.BOX_CORNERS, map(list, (ymin, xmin, ymax, xmax)), strict=True))
    return {**values, features.BOX_CLASSES: list(names)}


def test_boxes_beside_another_format(tmp_path, make_image, image):
    folder = tmp_path / "data" / "1"
    folder.mkdir(parents=True)
    annotations = []
    for number in range(6):
        (folder / f"{number}.png").write_bytes(make_image(height=20, width=40))
        bbox = [2, 3, 10, 8]
        annotations.append({"id": number, "image_id": number, "category_id": number % 2, "bbox": bbox, "iscrowd": 0})
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in range(6)],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    (folder / "coco.json").write_text(json.dumps(document))
    config = loading.load(
        "boxes", data=f"{folder.parent}/{{SPAN}}", overrides=[f"pipeline.root={tmp_path}", "data.spans=all"]
    )
    label = boxes((0.1, 0.2, 0.5, 0.725, "dog"), (0.0, 0.0, 1.0, 1.0, "cat"))
    small = {"encoded": make_image(height=20, width=40)}
    both = boxes(
        (0.1, 0.2, 0.5, 0.7, "dog"), (0.1, 0.2, 0.5, 0.7, "cat")
    )  # a box with two classes is unusual, not wrong
    next_span.write(
        config,
        [
            image(label, **small),
            image(boxes(), "none.png"),
            image(both, "both.png", encoded=make_image(height=20, width=40)),
        ],
    )
    labels = labels_in(read(config), "2/")
    assert labels["both.png"][features.BOX_CLASSES] == ("dog", "cat")
    assert labels["none.png"][features.BOX_CLASSES] == ()
    assert sorted(labels["a.png"][features.BOX_XMAX]) == pytest.approx([0.725, 1.0])
    outside = image(boxes((0.2, 0.2, 0.4, 1.4, "dog")), "outside.png", encoded=make_image(height=20, width=40))
    with pytest.raises(DatasetError, match=r"exceeds its image: `outside\.png`"):
        next_span.write(config, [outside])
