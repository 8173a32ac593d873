"""Boxes from files to raw examples, statistics, schema and drift."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from PIL import Image

from components.example_validator import drift
from components.image_example_gen import artifact, labels
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from components.schema_gen import curation
from components.schema_gen.options import SchemaOptions
from trainer_module import features


def jpeg(rng, height=80, width=100, orientation=1):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def annotation(name, *bbox, category_id=1, **others):
    return {"image_id": name, "category_id": category_id, "bbox": list(bbox), **others}


@pytest.fixture
def generate(run_image_example_gen):
    """Runs ImageExampleGen on a dataset; returns the features of all examples by name, and the quarantine."""

    def run(root, **settings):
        data = DataOptions(max_bad_fraction=1.0, **settings)
        dataset = inspect_dataset(str(root), data)
        options = ExampleGenOptions(
            data=data, classes=dataset.classes, columns=dataset.columns, label_features=dataset.label_features
        )
        examples, quarantine = run_image_example_gen(root, options)
        by_name = {}
        for path in tf.io.gfile.glob(f"{examples.uri}/Split-*/*"):
            for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
                feature = tf.train.Example.FromString(record).features.feature
                by_name[feature[features.IMAGE_FILENAME].bytes_list.value[0].decode()] = feature
        return by_name, artifact.Quarantine.read(quarantine.uri)

    return run


@pytest.fixture
def dataset(tmp_path, rng):
    """Forty images in COCO's format with one to three boxes, and some of every kind that needs attention."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    names = [f"{number:02}" for number in range(40)]
    given = [annotation(name, 10, 20, 40, 40, category_id=1 + number % 2) for number, name in enumerate(names)]
    given += [annotation(name, 5, 5, 20, 10, iscrowd=int(name < "05")) for name in names[::2]]
    sizes = dict.fromkeys(names, (100, 80)) | {"turned": (80, 100), "upright": (100, 80), "same": (100, 80)}
    given += [annotation(name, 0, 0, 40, 20) for name in ("turned", "upright", "same")]
    contents = {name: jpeg(rng) for name in names}
    contents |= {"turned": jpeg(rng, 100, 80, 6), "upright": jpeg(rng, 100, 80, 6), "same": jpeg(rng, 80, 100, 3)}
    contents |= {
        "negative": jpeg(rng),
        "outside": jpeg(rng),
        "clipped": jpeg(rng),
        "copy": contents["00"],
        "twin": contents["01"],
    }
    sizes |= dict.fromkeys(("negative", "outside", "clipped", "copy", "twin"), (100, 80))
    given += [annotation("outside", 200, 10, 5, 5), annotation("clipped", 90, 10, 50, 50)]
    given += [annotation("copy", 10, 20, 40, 41), annotation("copy", 60, 5, 20, 10)]
    given += [annotation("twin", 11, 20, 40, 40, category_id=2)]
    for name, content in contents.items():
        (root / "images" / f"{name}.jpg").write_bytes(content)
    images = [{"id": name, "file_name": f"{name}.jpg", "width": w, "height": h} for name, (w, h) in sizes.items()]
    document = {
        "images": images,
        "annotations": given,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (root / "instances.json").write_text(json.dumps(document))
    return root


def box(feature, number=0):
    return [feature[key].float_list.value[number] for key in features.BOX_CORNERS]


def test_boxes_become_raw_examples(dataset, generate):
    """Also covers: EXIF, negatives, quarantine, conflicting duplicates, warnings, statistics, schema and drift."""
    examples, quarantine = generate(dataset, splits={"by": "class"})
    first = examples["images/02.jpg"]
    assert box(first, 1) == pytest.approx([0.25, 0.1, 0.75, 0.5])
    assert list(first[features.BOX_CLASSES].bytes_list.value) == [b"cat", b"cat"]
    assert list(first[features.BOX_IS_CROWD].int64_list.value) == [1, 0]
    assert first["slice/object_count"].bytes_list.value[0] == b"few"
    # The stored pixels are 80 x 100: turned by a quarter, their upper left corner is the upper right one.
    assert box(examples["images/turned.jpg"]) == pytest.approx([0, 0.8, 0.5, 1])
    assert box(examples["images/upright.jpg"]) == pytest.approx([0, 0, 0.25, 0.4])
    assert box(examples["images/same.jpg"]) == pytest.approx([0, 0, 0.25, 0.4])
    negative = examples["images/negative.jpg"]
    for key, dtype in features.BOX_DTYPES.items():
        kind = {"string": "bytes_list", "float32": "float_list", "int64": "int64_list"}[dtype]
        assert negative[key].WhichOneof("kind") == first[key].WhichOneof("kind") == kind
        assert list(getattr(negative[key], kind).value) == ([0] if key == features.BOX_COUNT else [])
    refused = {file.path: file.reason for file in quarantine.files}
    assert refused.keys() == {"images/00.jpg", "images/copy.jpg", "images/outside.jpg"}
    assert refused["images/00.jpg"] == "conflicting labels: the same image has another label in images/copy.jpg"
    assert refused["images/outside.jpg"].startswith("a box outside of the image: box 1 (`cat`)")
    clipped, undecided, similar = quarantine.summary.warnings
    assert similar == (
        "2 images are exact duplicates of each other with boxes that differ slightly; all of them are used: "
        "images/01.jpg, images/twin.jpg."
    )
    assert clipped == "1 boxes exceeded their image and were clipped: images/clipped.jpg."
    assert undecided.startswith("1 images are rotated by their EXIF orientation") and "images/same.jpg" in undecided
    _check_statistics([feature for name, feature in examples.items() if name != "images/00.jpg"])


def test_boxes_become_sets_of_classes(dataset, generate):
    """Boxes are checked as before; difficult objects and crowds are in the image; only the set must not conflict."""
    examples, quarantine = generate(dataset, splits={"by": "class"}, labels_from="boxes")

    def classes(name):
        return [value.decode() for value in examples[f"images/{name}.jpg"][features.CLASS_TEXT].bytes_list.value]

    assert (classes("01"), classes("02"), classes("03"), classes("negative")) == (["dog"], ["cat"], ["dog"], [])
    assert examples["images/negative.jpg"][features.CLASS_TEXT].WhichOneof("kind") == "bytes_list"
    for name, feature in examples.items():
        assert list(feature[features.CLASS_COUNT].int64_list.value) == [len(classes(name[7:-4]))]
        assert not any(key.startswith(("image/object/", "slice/object_")) for key in feature)
    # Other boxes of the same classes are the same label.
    assert [file.path for file in quarantine.files] == ["images/outside.jpg"]
    assert any("boxes exceeded their image" in warning for warning in quarantine.summary.warnings)


def _check_statistics(examples):
    names = [features.BOX_CLASSES, features.BOX_COUNT, features.BOX_SIZE, features.BOX_ASPECT_RATIO]
    names += [features.BOX_DIFFICULT, features.BOX_IS_CROWD]
    counted = [name for name in labels.BOX_LABEL if name not in curation.UNCOUNTED_LABELS]
    assert set(counted) == set(names)
    stats = statistics(examples, counted)
    options = SchemaOptions(domain_margin=0.5, label_features=labels.BOX_LABEL, single_valued_features=())
    schema = curation.curate(tfdv.infer_schema(stats), [stats], options, ("cat", "dog"))
    anomalies = tfdv.validate_statistics(stats, schema, environment=curation.STATISTICS_ENVIRONMENT)
    assert not anomalies.anomaly_info
    by_name = {feature.name: feature for feature in schema.feature}
    assert by_name[features.BOX_XMIN].float_domain.max == 1.0
    assert list(by_name[features.BOX_CLASSES].string_domain.value) == ["cat", "dog"]
    from tensorflow_transform.tf_metadata import schema_utils

    spec = schema_utils.schema_as_feature_spec(schema).feature_spec
    for key, dtype in features.BOX_DTYPES.items():
        assert spec[key] == tf.io.VarLenFeature(tf.as_dtype(dtype))
    serialized = [
        tf.train.Example(features=tf.train.Features(feature=dict(one))).SerializeToString() for one in examples
    ]
    parsed = tf.io.parse_example(serialized, {key: spec[key] for key in features.BOX_DTYPES})
    assert parsed[features.BOX_XMIN].dense_shape[0] == len(examples)
    # Drift: other classes, larger boxes, more boxes.
    assert drift.compare(stats, stats, 0.1) == []
    moved = [tf.train.Features(feature=dict(one)).feature for one in examples]
    for feature in moved:
        count = feature[features.BOX_COUNT].int64_list.value
        count[0] += 5
        sizes = feature[features.BOX_SIZE].float_list.value
        sizes[:] = [size * 2 for size in sizes]
        classes = feature[features.BOX_CLASSES].bytes_list.value
        classes[:] = [b"dog"] * len(classes)
    differences = {each.feature: each.value for each in drift.compare(statistics(moved, counted), stats, 0.1)}
    assert differences.keys() >= {features.BOX_COUNT, features.BOX_SIZE, features.BOX_CLASSES}
    assert differences[features.BOX_CLASSES] in ("cat", "dog")


def statistics(examples, names):
    """TFDV's statistics of examples, with its generators in memory as StatisticsGen uses them."""
    from tensorflow_data_validation.statistics import stats_impl
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    options = tfdv.StatsOptions(feature_allowlist=names, num_quantiles_histogram_buckets=drift.NUM_QUANTILES)
    serialized = [
        tf.train.Example(features=tf.train.Features(feature=dict(one))).SerializeToString() for one in examples
    ]
    batch = ExamplesToRecordBatchDecoder().DecodeBatch(serialized).select(names)
    return stats_impl.generate_statistics_in_memory(batch, options)


def test_tfrecords_with_the_keys_of_the_object_detection_api(tmp_path, generate, rng):
    """Negatives come first, without any key of boxes; some examples have no flags and no size."""
    root = tmp_path / "data"
    root.mkdir()

    def example(name, *boxes, **others):
        result = tf.train.Example()
        feature = result.features.feature
        feature[features.IMAGE_ENCODED].bytes_list.value.append(jpeg(rng))
        feature[features.IMAGE_FILENAME].bytes_list.value.append(name.encode())
        for four, label in boxes:
            feature[features.BOX_CLASSES].bytes_list.value.append(label)
            for key, value in zip(features.BOX_CORNERS, four, strict=True):
                feature[key].float_list.value.append(value)
        for key, values in others.items():
            feature[f"image/object/{key}"].int64_list.value.extend(values)
        return result.SerializeToString()

    one = ((0.25, 0.1, 0.75, 0.5), b"cat")
    records = [example("negative")] + [example(f"{number}", one, ((0, 0, 1, 1), b"dog")) for number in range(20)]
    records += [example("hard", one, difficult=[1]), example("crowd", one, is_crowd=[1], difficult=[0])]
    records += [example("pixels", ((10, 20, 50, 60), b"cat")), example("uneven", one, difficult=[1, 0])]
    records += [example("cow", one, ((0, 0, 0.5, 0.5), b"cow"))]
    with tf.io.TFRecordWriter(str(root / "x.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    examples, quarantine = generate(root, classes=["cat", "dog"])
    assert box(examples["3"], 1) == pytest.approx([0.25, 0.1, 0.75, 0.5])
    assert list(examples["hard"][features.BOX_DIFFICULT].int64_list.value) == [1]
    assert list(examples["crowd"][features.BOX_IS_CROWD].int64_list.value) == [1]
    assert list(examples["negative"][features.BOX_COUNT].int64_list.value) == [0]
    assert list(examples["cow"][features.BOX_CLASSES].bytes_list.value) == [b"cat"]
    reasons = sorted(file.reason for file in quarantine.files)
    assert reasons == [
        "coordinates are not fractions of the image: 60",
        "incomplete boxes: image/object/difficult has 2 values, other features 1",
    ]
    assert quarantine.summary.warnings == ("1 boxes of classes that data.classes does not name were removed: cow.",)


@pytest.mark.parametrize("where", ["", "train/"])
def test_tfrecords_with_ids_and_a_label_map(tmp_path, generate, rng, where):
    """As the scripts of the Object Detection API and Roboflow write them: names are in a label map, ids begin at 1."""
    root = tmp_path / "data"
    (root / where).mkdir(parents=True)
    items = (
        "# classes\nitem {\n  id: 2\n  name: 'hot dog'\n}\n"
        'item {\n  name: "cat"\n  id: 1\n  display_name: "A cat" # sits\n}\n'
    )
    (root / f"{where}animals_label_map.pbtxt").write_text(items)
    (root / f"{where}schema.pbtxt").write_text('feature {\n  name: "image/encoded"\n}\n')
    with tf.io.TFRecordWriter(str(root / f"{where}animals.tfrecord")) as writer:
        for number in range(30):
            feature = (example := tf.train.Example()).features.feature
            feature[features.IMAGE_ENCODED].bytes_list.value.append(jpeg(rng))
            feature[features.IMAGE_FILENAME].bytes_list.value.append(f"{number}".encode())
            if number:  # the first is a negative without any key of boxes
                for key, value in zip(features.BOX_CORNERS, (0.25, 0.1, 0.75, 0.5), strict=True):
                    feature[key].float_list.value.append(value)
                feature["image/object/class/label"].int64_list.value.append(5 if number == 7 else 1 + number % 2)
            writer.write(example.SerializeToString())
    dataset = inspect_dataset(str(root), DataOptions())
    assert (dataset.layout, dataset.classes) == ("tfrecord", ("cat", "hot dog"))
    examples, quarantine = generate(root)
    assert list(examples["3"][features.BOX_CLASSES].bytes_list.value) == [b"hot dog"]
    assert list(examples["4"][features.BOX_CLASSES].bytes_list.value) == [b"cat"]
    (refused,) = quarantine.files
    assert refused.reason == "an unknown class id: image/object/class/label has 5; known are 1 to 2"
    (root / f"{where}animals_label_map.pbtxt").write_text(items.replace("id: 2", "id: 3"))
    with pytest.raises(DatasetError, match=r"label_map\.pbtxt: the ids of the items are not 1, 2"):
        inspect_dataset(str(root), DataOptions())
