"""The data-parallel nodes on Flink, on Spark and in several processes: what one process writes, they write.

Every node runs once in this process and once on the engine, on the same inputs. `make test-flink` and `make test-spark`
run them; they need Java and Beam's job server (`scripts/job_server.sh` says how that is found).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from google.protobuf import json_format
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils, standard_artifacts

import components
from components.evaluator import executor as evaluator
from components.evaluator.options import EvaluationOptions
from components.grad_cam import executor as grad_cam
from components.image_example_gen import exchange, shards
from components.image_example_gen import executor as example_gen
from components.image_example_gen.dataset import inspect_dataset
from components.image_example_gen.options import DataOptions, ExampleGenOptions
from components.statistics_gen import executor as statistics_gen
from components.transform import executor as transform
from pipeline.eval_config import eval_config
from pipeline.execution import node_runner
from pipeline.execution.beam_options import BeamSection
from trainer_module import features

FLOATS = [key(channel) for key in (features.mean_key, features.deviation_key) for channel in features.CHANNELS]
SLICES = ("brightness", "orientation")
pytestmark = [
    # Beam drops the sockets and processes of the workers that it starts, and Python says so when it frees them.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Threads of workers in this process end with an error when Spark, which keeps them for the next job, hangs up: in
    # whichever test the job server ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


# --- Engines ----------------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=["flink", "flink in two processes", "spark", "multi_processing"],
)
def engine(request, job_endpoint):
    """Beam's arguments, as the configuration gives them."""
    name = request.param.partition(" ")[0]
    if name not in request.config.getoption("--engine"):
        pytest.skip(
            f"takes a minute and more, and an engine in Java: --engine {name} (make test-flink, make test-spark)"
        )
    if name == "multi_processing":
        return BeamSection(runner=name, workers=2).arguments()
    node_runner.let_workers_find_python()
    entry = {"job_endpoint": job_endpoint(name)}
    if name == "flink":
        entry["parallelism"] = 2
    if request.param == "flink in two processes":
        entry["worker_processes"] = 2
    return BeamSection.model_validate({"runner": name, name: entry}).arguments()


# --- Inputs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(tiny_model, tmp_path_factory):
    """Folders of images that the tiny model knows, with noise; and what comes of them in one process."""
    root = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(5)
    for index in range(150):
        encoded = tiny_model.image_bytes[index % 12]
        pixels = tf.io.decode_image(encoded).numpy()
        noisy = np.clip(pixels + random.normal(0, 60, pixels.shape), 0, 255).astype(np.uint8)
        path = root / "images" / tiny_model.options.classes[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path)
    path.write_text("not an image")
    # Identical images, with the same label and with another.
    copies = {"blue/0.png": "blue/200.png", "green/1.png": "green/201.png", "green/4.png": "red/202.png"}
    for source, copy in copies.items():
        (root / "images" / copy).write_bytes((root / "images" / source).read_bytes())
    inputs = {"tiny_model": tiny_model, "images": root / "images"}
    image_example_gen(BeamSection().arguments(), root, inputs)
    examples = standard_artifacts.Examples()
    examples.uri, examples.split_names = str(root / "examples"), '["train", "validation", "test"]'
    schema = standard_artifacts.Schema()
    schema.uri = str(root / "schema")
    (record, *_) = records(root / "examples" / "Split-train")
    (root / "schema").mkdir()
    (root / "schema" / "schema.pbtxt").write_text(str(schema_of(record)))
    inputs |= {"examples": examples, "schema": schema}
    statistics(BeamSection().arguments(), root, inputs)
    inputs["statistics"] = standard_artifacts.ExampleStatistics()
    inputs["statistics"].uri, inputs["statistics"].split_names = str(root / "statistics"), examples.split_names
    return inputs


def schema_of(example):
    schema = schema_pb2.Schema()
    kinds = {"bytes_list": schema_pb2.BYTES, "float_list": schema_pb2.FLOAT, "int64_list": schema_pb2.INT}
    for name, feature in sorted(example.features.feature.items()):
        entry = schema.feature.add(name=name, type=kinds[feature.WhichOneof("kind")])
        entry.presence.min_fraction = 1.0
        entry.shape.dim.add(size=1)
    return schema


def run(executor, arguments, root, inputs, outputs, exec_properties):
    """Runs an executor; the outputs' artifacts get folders below root."""
    for name, artifact in outputs.items():
        artifact.uri = str(root / name)
        os.makedirs(artifact.uri)
    context = executor.Executor.Context(beam_pipeline_args=arguments, tmp_dir=str(root / "tmp"), unique_id="1")
    executor.Executor(context).Do(
        {name: [artifact] for name, artifact in inputs.items()},
        {name: [artifact] for name, artifact in outputs.items()},
        exec_properties,
    )


# --- Nodes: run one below a folder, and read what it has written ------------------------------------------------


def image_example_gen(arguments, root, inputs):
    data = DataOptions(max_bad_fraction=0.1, near_duplicates="together", group_pattern=r"/(1?\d\d)")
    dataset = inspect_dataset(str(inputs["images"]), data)
    options = ExampleGenOptions(data=data, classes=dataset.classes)
    outputs = {"examples": standard_artifacts.Examples(), "quarantine": components.Quarantine()}
    properties = {"input_base": str(inputs["images"]), "options": options.parameter().model_dump_json()}
    with pytest.MonkeyPatch.context() as patch:
        # Several shards and partitions of few images: otherwise there were nothing to share out.
        patch.setattr(shards, "FILES_PER_SHARD", 20)
        patch.setattr(exchange, "IMAGES_PER_PARTITION", 40)
        run(example_gen, arguments, root, {}, outputs, properties)
    splits = artifact_utils.decode_split_names(outputs["examples"].split_names)
    folders = {split: root / "examples" / f"Split-{split}" for split in splits}
    # Which file holds a record may differ, what is in it may not.
    return {
        "examples": {
            split: sorted(record.SerializeToString(deterministic=True) for record in records(folder))
            for split, folder in folders.items()
        },
        "quarantine": files(root / "quarantine"),
    }


def statistics(arguments, root, inputs):
    outputs = {"statistics": standard_artifacts.ExampleStatistics()}
    options = tfdv.StatsOptions(feature_allowlist=[features.CLASS_TEXT, features.IMAGE_HEIGHT, *FLOATS])
    properties = {"stats_options_json": options.to_json(), "exclude_splits": "[]"}
    run(statistics_gen, arguments, root, {"examples": inputs["examples"]}, outputs, properties)
    statistics_of_split = {}
    for split in ("train", "validation", "test"):
        proto = tfdv.load_stats_binary(str(root / "statistics" / f"Split-{split}" / "FeatureStats.pb"))
        statistics_of_split[split] = json_format.MessageToDict(proto)
    return statistics_of_split


def transform_graph(arguments, root, inputs):
    entry = {"transform": '{"image_size": 8}'}
    properties = {
        "preprocessing_fn": "trainer_module.hooks.transform.preprocessing_fn",
        "custom_config": json.dumps(entry | {"task": "classification"}),
        "splits_config": '{"analyze": ["train"]}',
        "disable_statistics": 1,
    }
    known = {name: inputs[name] for name in ("examples", "schema")}
    run(transform, arguments, root, known, {"transform_graph": standard_artifacts.TransformGraph()}, properties)
    output = tft.TFTransformOutput(str(root / "transform_graph"))
    some = records(Path(inputs["examples"].uri) / "Split-test")[:1]
    parsed = tf.io.parse_example([record.SerializeToString() for record in some], output.raw_feature_spec())
    transformed = output.transform_features_layer()(parsed)  # the moments of the train split are among it
    return {name: values.numpy().tolist() for name, values in transformed.items()}


def evaluation(arguments, root, inputs):
    model = inputs["tiny_model"]
    artifact = standard_artifacts.Model()
    artifact.uri, artifact.id = str(Path(model.serving_dir).parent), 4
    options = EvaluationOptions(label_groups={"warm": ("red",)}, thresholds={"accuracy": 0.0})
    options = options.with_task_defaults("classification")
    properties = {
        "eval_config": json_format.MessageToJson(
            eval_config(options, "classification", model.options.classes, (*SLICES, "label_group"))
        ),
        "split": "train",
        "batch_size": 16,
        "task": "classification",
        "options": options.model_dump_json(),
    }
    known = {name: inputs[name] for name in ("examples", "schema", "statistics")} | {"model": artifact}
    outputs = {"evaluation": standard_artifacts.ModelEvaluation(), "blessing": standard_artifacts.ModelBlessing()}
    run(evaluator, arguments, root, known, outputs, properties)
    result = {name: json.loads((root / "evaluation" / name).read_text()) for name in ("evaluation.json", "gates.json")}
    return result | {"blessing": sorted(os.listdir(root / "blessing"))}


def explanations(arguments, root, inputs):
    model = inputs["tiny_model"]
    known = {
        "examples": inputs["examples"],
        "model_run": standard_artifacts.ModelRun(),
        "model": standard_artifacts.Model(),
    }
    known["model_run"].uri, known["model"].id = model.run_dir, 4
    properties = {
        "options": model.options.model_dump_json(exclude={"classes"}),
        "split": "train",
        "slices": json.dumps(SLICES),
    }
    run(grad_cam, arguments, root, known, {"explanations": components.GradCamExplanations()}, properties)
    return files(root / "explanations")


NODES = {
    "ImageExampleGen": image_example_gen,
    "StatisticsGen": statistics,
    "Transform": transform_graph,
    "Evaluator": evaluation,
    "GradCam": explanations,
}


def records(folder):
    paths = [str(path) for path in sorted(folder.iterdir())]
    return [tf.train.Example.FromString(record) for record in tf.data.TFRecordDataset(paths).as_numpy_iterator()]


def files(folder):
    """Reads the files of a folder; records of TFRecords by filename, because their shards and order may differ."""
    contents = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            contents[name] = json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            contents[name] = [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".png":
            contents[name] = np.asarray(Image.open(path)).astype(int)
        elif path.suffix == ".gz":
            for record in tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator():
                entry = json_format.MessageToDict(tf.train.Example.FromString(record))["features"]["feature"]
                filename = entry[features.IMAGE_FILENAME]["bytesList"]["value"][0]
                contents[f"{name.partition('-')[0]} of {filename}"] = entry
    return contents


def assert_same(one, other, place="", tolerance=1e-6):
    """Compares nested lists and dicts; numbers to the tolerance, pixels of images to one step."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key, value in one.items():
            assert_same(value, other[key], f"{place}/{key}", tolerance)
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{place}/{index}", tolerance)
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape and np.abs(one - other).max() <= 1, place
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance, nan_ok=True), place
    else:
        assert one == other, place


@pytest.fixture(scope="module")
def of_one_process(inputs, tmp_path_factory):
    """Outputs of nodes in this process, by name; a node runs when its output is first read."""
    made = {}

    def find(node):
        if node not in made:
            made[node] = NODES[node](BeamSection().arguments(), tmp_path_factory.mktemp("one"), inputs)
        return made[node]

    return find


@pytest.mark.parametrize("node", NODES)
def test_a_node_writes_the_same_files_as_in_one_process(node, engine, inputs, of_one_process, tmp_path):
    output = NODES[node](engine, tmp_path, inputs)
    expected = of_one_process(node)
    assert output
    assert_same(output, expected)


def test_the_comparison_detects_a_difference():
    for other in ({"a": [1.0, 2.1]}, {"a": [1.0]}, {"b": [1.0, 2.0]}):
        with pytest.raises(AssertionError):
            assert_same({"a": [1.0, 2.0]}, other)
