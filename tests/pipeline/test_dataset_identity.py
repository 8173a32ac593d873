"""Names of pipelines, and the dataset that a pipeline or a served model belongs to."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.config.names import name_of_data
from pipeline.execution import dataset_identity
from pipeline.execution.dataset import prepare
from pipeline.execution.dataset_identity import DatasetIdentity
from trainer_module import features, model_versions


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/srv/birds/train", "birds"),
        ("/srv/birds/data/Train", "birds"),
        ("/srv/Nail & Screw/dataset/images", "nail-screw"),
        ("/srv/birds/archive (1)", "birds"),
        ("/srv/birds-2/data", "birds-2"),
        ("/data", "default"),
        ("/tmp/data", "default"),
        ("/srv/data/train", "default"),
        ("gs://birds/data", "birds"),
        ("gs://data/train", "default"),
        ("/srv/birds/data/manifest.csv", "birds"),
        ("/srv/birds/data/labels.csv", "birds-labels"),
        ("/srv/birds/train.csv", "birds"),
        ("/srv/birds/data/{SPAN}", "birds"),
        ("/srv/birds/data/day-{SPAN}", "data-day"),
        ("/srv/database", "database"),
    ],
)
def test_generic_folder_names_are_not_used(path, name):
    assert name_of_data(path, "default") == name


def test_the_home_folder_is_not_a_name(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "alice"))
    assert name_of_data(str(tmp_path / "alice" / "data"), "default") == "default"
    assert name_of_data(str(tmp_path / "alice" / "birds" / "data"), "default") == "birds"


@pytest.mark.parametrize(
    ("preset", "data", "name"),
    [
        ("cifar10", "/srv/cifar/train", "cifar10"),
        ("camvid", "/srv/street", "camvid"),
        ("clothing", "/data/train", "clothing"),
        ("images", "/data/train", "images"),
        ("digits", "/srv/birds/train", "birds"),
        ("digits", "/data", "images"),
    ],
)
def test_the_name_of_a_preset_wins(preset, data, name):
    assert loading.load(preset, data=data).pipeline.name == name
    named = loading.load(preset, data=data, overrides=["pipeline.name=mine"])
    assert (named.pipeline.name, named.model_name) == ("mine", "mine")


def test_the_name_in_a_file_wins(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text('pipeline.name = "own"\n')
    assert loading.load(str(file), data="/srv/birds").pipeline.name == "own"


# === The dataset of a pipeline ===


@pytest.fixture
def project(tmp_path, make_image):
    """Writes images into `<project>/data`: project, classes, images per class."""

    def make(name, *classes, count=4):
        root = tmp_path / name / "data"
        for class_name in classes:
            # Images of equal names and sizes in two folders may be pairs.
            width = 9 + sum(map(ord, class_name)) % 11
            (root / class_name).mkdir(parents=True, exist_ok=True)
            existing = len(list((root / class_name).iterdir()))
            for index in range(existing, count):
                (root / class_name / f"{index}.png").write_bytes(make_image(8 + index, width))
        return root

    return make


@pytest.fixture
def load(tmp_path):
    def run(data, *overrides, name="data"):
        root = tmp_path / "runs"
        return loading.load(
            "images", data=str(data), overrides=[f"pipeline.root={root}", f"pipeline.name={name}", *overrides]
        )

    return run


def check(config, *, to_node="Pusher", adopt=False):
    dataset, identity = dataset_identity.check(config, prepare(config), to_node=to_node, adopt=adopt)
    return dataset.notes, identity


def run_once(config, **options):
    """Stores the identity, as a run does once ImageExampleGen has read the dataset."""
    notes, identity = check(config, **options)
    dataset_identity.store(config, identity)
    return notes


def test_another_dataset_stops_and_both_kinds_of_advice_work(project, load):
    pets, tools = project("pets", "cat", "dog"), project("tools", "nail", "screw")
    run_once(load(pets))
    with pytest.raises(ConfigError) as raised:
        check(load(tools))
    message = str(raised.value)
    assert (
        f"Pipeline `data` in {load(pets).run_dir} belongs to another dataset: {pets} (2 classes: cat, dog)" in message
    )
    assert f"This run has {tools} (2 classes: nail, screw)" in message
    assert "--set pipeline.name=tools" in message and "--adopt" in message
    run_once(load(tools, name="tools"))
    assert run_once(load(tools), adopt=True) == ()
    # From now on, the pipeline belongs to the new dataset.
    assert run_once(load(tools)) == ()
    with pytest.raises(ConfigError, match="belongs to another dataset"):
        check(load(pets))


def test_equal_class_names_are_not_the_same_dataset(project, load):
    run_once(load(project("bolts", "good", "bad")))
    with pytest.raises(ConfigError, match=r"--set pipeline\.name=welds"):
        check(load(project("welds", "good", "bad")))


def test_other_images_in_the_same_folder(project, load):
    root = project("shop", "cat", "dog")
    run_once(load(root))
    shutil.rmtree(root)
    project("shop", "nail", "screw")
    with pytest.raises(ConfigError, match=r"cat, dog.*nail, screw"):
        check(load(root))


def test_a_dataset_that_grew(project, load):
    root = project("pets", "cat", "dog")
    assert run_once(load(root)) == ()
    project("pets", "cat", "dog", count=40)
    assert run_once(load(root)) == ()
    project("pets", "bird")
    assert run_once(load(root)) == ("new classes: bird",)
    shutil.rmtree(root / "dog")
    assert run_once(load(root)) == ("classes that are gone: dog",)


def test_a_folder_that_moved(project, load, tmp_path):
    root = project("pets", "cat", "dog", count=20)
    run_once(load(root))
    moved = tmp_path / "elsewhere" / "images"
    moved.parent.mkdir()
    root.rename(moved)
    assert run_once(load(moved)) == (f"the dataset moved from {root}",)
    # Moved again, and grown.
    again = tmp_path / "pets" / "all"
    moved.rename(again)
    for index in range(10):
        Image.new("RGB", (30 + index, 30)).save(again / "cat" / f"new-{index}.png")
    assert run_once(load(again)) == (f"the dataset moved from {moved}",)


def test_the_folder_of_runs_may_move(project, load, tmp_path):
    root = project("pets", "cat", "dog")
    run_once(load(root))
    (tmp_path / "runs").rename(tmp_path / "moved")
    config = load(root, f"pipeline.root={tmp_path / 'moved'}")
    assert dataset_identity.read(config).root == str(root)
    assert run_once(config) == ()


def test_a_new_span_is_the_same_dataset(project, load, tmp_path):
    pattern = str(tmp_path / "day-{SPAN}" / "data")
    project("day-1", "cat", "dog")
    run_once(load(pattern))
    project("day-2", "cat", "dog", count=9)
    assert run_once(load(pattern)) == ()


@pytest.mark.parametrize("number", [10, 64, 500])
def test_the_share_of_common_files_is_estimated(project, load, number, monkeypatch):
    def read_all(root, paths, most_bytes=-1):
        return (path.encode() for path in paths)

    monkeypatch.setattr(dataset_identity.files, "read_all", read_all)
    config = load(project("pets", "cat", "dog"))
    dataset = prepare(config)

    def identity(first, last):
        entries = [dataset.entries[0]._replace(path=f"cat/{index}.png", size=index) for index in range(first, last)]
        return DatasetIdentity.of(config, dataclasses.replace(dataset, entries=tuple(entries), sketch=()))

    def share(one, other):
        return dataset_identity._common_files(one.files, other.files)

    whole = identity(0, number)
    assert share(whole, identity(0, number)) == 1.0
    assert share(whole, identity(0, 5 * number)) == 1.0
    assert share(whole, identity(number, 2 * number)) == 0.0
    assert share(whole, identity(number // 2, number // 2 + number)) == pytest.approx(0.5, abs=0.25)


def test_a_damaged_record_is_one_message(project, load):
    config = load(project("pets", "cat", "dog"))
    run_once(config)
    (config.run_dir / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"dataset\.json.*[Dd]elete"):
        check(config)
    (config.run_dir / "dataset.json").unlink()
    assert run_once(config) == ()


# === The served model ===


@pytest.fixture
def serve(tmp_path):
    """Pushes a model for a configuration, as Pusher does, or as an earlier release did."""
    model = tmp_path / "model"
    (model / "assets.extra").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")

    def push(config, *, earlier_release=False):
        _, identity = dataset_identity.check(config, prepare(config), to_node="Pusher", adopt=True)
        (model / features.LABELS_FILE).write_text(json.dumps(identity.classes))
        provenance = (
            {} if earlier_release else {"dataset": json.loads(identity.provenance()) | {"classes": identity.classes}}
        )
        model_versions.push(str(model), config.model_base_path, provenance=provenance)

    return push


@pytest.mark.parametrize("earlier_release", [False, True])
def test_the_served_model_of_another_dataset_is_not_replaced(project, load, serve, tmp_path, earlier_release):
    shared = f"serving.base_directory={tmp_path / 'served'}"
    pets, tools = project("pets", "cat", "dog"), project("tools", "nail", "screw")
    serve(load(pets, shared, f"pipeline.root={tmp_path / 'first'}"), earlier_release=earlier_release)
    other = load(tools, shared, f"pipeline.root={tmp_path / 'second'}")
    with pytest.raises(ConfigError, match=r"served model `data`.*cat, dog.*nail, screw.*pipeline\.name=tools"):
        check(other)
    # Without Pusher, nothing is replaced.
    check(other, to_node="Evaluator")
    check(load(tools, shared, name="tools"))
    check(load(pets, shared))
    with pytest.raises(ConfigError, match=r"--set serving\.model_name=tools"):
        check(load(tools, shared, "serving.model_name=data", name="other"))
    check(load(tools, shared, "serving.model_name=tools", name="other"))
    run_once(other, adopt=True)
    # A run that a gate refused did not push: the model of the other dataset is still served, and its end is agreed on.
    check(other)
    serve(other)
    check(other)


# === The command ===


def test_the_command_stops_before_anything_is_written(project, tmp_path):
    pets, tools = project("pets", "cat", "dog"), project("tools", "nail", "screw")
    shared = ["--set", f"pipeline.root={tmp_path / 'runs'}", "--set", "pipeline.name=shared"]
    config = loading.load("images", data=str(pets), overrides=shared[1::2])
    run_once(config)
    done = CliRunner().invoke(app, ["run", "images", "--data", str(tools), *shared])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: Pipeline `shared`")
    assert done.stderr.count("\n") == 1
    assert dataset_identity.read(config).root == str(pets)
    assert not config.metadata_path.exists()
