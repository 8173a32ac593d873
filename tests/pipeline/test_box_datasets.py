"""A dataset with boxes in the pipeline: nodes, slices, and the message for a task of another label."""

import json
from pathlib import Path

import pytest

from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.errors import DatasetError
from pipeline import dag
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.execution import dataset
from trainer_module import features


@pytest.fixture
def boxes(tmp_path, make_image):
    """Images with boxes in COCO's format, and the configuration of a classification."""
    root = tmp_path / "data"
    root.mkdir()
    for name in "abc":
        (root / f"{name}.png").write_bytes(make_image())
    document = {
        "images": [{"id": name, "file_name": f"{name}.png"} for name in "abc"],
        "annotations": [{"image_id": name, "category_id": 1, "bbox": [1, 2, 5, 6]} for name in "ab"],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "instances.json").write_text(json.dumps(document))
    config = loading.load("images", data=str(root), overrides=[f"pipeline.root={tmp_path / 'runs'}"])
    return config, inspect_dataset(str(root), config.data.options())


def test_statistics_schema_and_slices_cover_boxes(boxes):
    config, images = boxes
    nodes = {node.id: node for node in dag.create_pipeline(config, images).components}
    counted = json.loads(nodes["StatisticsGen"].exec_properties["stats_options_json"])["_feature_allowlist"]
    expected = {features.BOX_CLASSES, features.BOX_COUNT, features.BOX_SIZE, features.BOX_ASPECT_RATIO}
    assert expected | set(features.BOX_SLICES) <= set(counted)
    assert not set(features.BOX_CORNERS) & set(counted)
    slices = json.dumps(nodes["Evaluator"].exec_properties["eval_config"])
    assert "slice/object_size" in slices and "slice/object_count" in slices


def test_a_task_of_another_label_is_refused(boxes):
    config, images = boxes
    with pytest.raises(ConfigError, match=r'task\.name = "classification" requires one class per image, .* has boxes'):
        dataset.refuse_other_task(config, images, "Trainer")
    with pytest.raises(ConfigError, match=r"Use the preset `boxes` or --set task\.name=detection; or use --to "):
        dataset.refuse_other_task(config, images, "Trainer")
    dataset.refuse_other_task(config, images, "ExampleValidator")


def test_the_preset_of_boxes_trains_on_them(boxes):
    config, images = boxes
    preset = loading.load("boxes", data=config.data.path)
    dataset.refuse_other_task(preset, images, "Trainer")
    assert loading.presets_for("detection") == ["boxes"]
    assert preset.pipeline.name == config.pipeline.name


def test_slices_of_boxes_can_be_named(boxes, class_folders, tmp_path):
    config, images = boxes
    chosen = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"slices": ("object_size",)})})
    dataset.check_names(chosen, images)
    others = inspect_dataset(str(class_folders({"a": 2, "b": 2})), config.data.options())
    with pytest.raises(ConfigError, match="unknown slice `object_size`"):
        dataset.check_names(chosen, others)


def test_more_boxes_than_transform_has_room_for_are_refused_before_the_first_node(boxes):
    config, _ = boxes
    config = loading.load(
        "images",
        data=str(config.data.path),
        overrides=["task.name=detection", "transform.max_objects=2", f"pipeline.root={config.pipeline.root}"],
    )
    path = f"{config.data.path}/instances.json"
    document = json.loads(Path(path).read_text())
    document["annotations"] += [{"image_id": "b", "category_id": 1, "bbox": [n, n, 3, 3]} for n in range(3)]
    Path(path).write_text(json.dumps(document))
    images = inspect_dataset(str(config.data.path), config.data.options())
    with pytest.raises(
        ConfigError,
        match=r"max_objects = 2, and 1 images .* more boxes: b\.png \(4\)\. Use --set transform\.max_objects=4,",
    ):
        dataset.refuse_other_task(config, images, "Trainer")
    dataset.refuse_other_task(config, images, "ExampleValidator")
    room = config.transform.model_copy(update={"max_objects": 4})
    dataset.refuse_other_task(config.model_copy(update={"transform": room}), images, "Trainer")


@pytest.mark.parametrize("kind", ["yolo", "masks"])
def test_missing_names_and_the_wrong_task_are_one_error(tmp_path, make_image, kind):
    root = tmp_path / "data"
    for folder in ("images", "labels" if kind == "yolo" else "masks"):
        (root / folder).mkdir(parents=True)
        for name in "ab":
            label = kind == "yolo" and folder == "labels"
            content = b"0 0.5 0.5 0.2 0.2" if label else make_image(channels=1 if folder == "masks" else 3)
            (root / folder / f"{name}.{'txt' if label else 'png'}").write_bytes(content)
    task = "detection" if kind == "yolo" else "segmentation"
    overrides = [f"pipeline.root={tmp_path / 'runs'}"]
    with pytest.raises(DatasetError, match=rf"class ids[\s\S]*data\.classes[\s\S]*--set task\.name={task}"):
        dataset.prepare(loading.load("images", data=str(root), overrides=overrides))
    with pytest.raises(DatasetError) as caught:
        dataset.prepare(loading.load("images", data=str(root), overrides=[*overrides, f"task.name={task}"]))
    assert "task.name" not in str(caught.value)
