"""Fixtures and options of all tests. The folder of a test is its marker."""

from __future__ import annotations

import functools
import gc
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import trainer_module  # noqa: F401  (says which Keras before anything imports TensorFlow)

_TESTS = Path(__file__).parent
_FOLDERS = ("unit", "component", "pipeline", "e2e", "bench")
# The files that take longest, the longest first: with two processes the last file to begin must be a short one.
_LONGEST = (
    # Before networks become garbage: these tests collect it, which takes a minute and more afterwards.
    "unit/test_large_annotation_files.py",
    "unit/test_large_annotations.py",
    "unit/test_large_tables.py",
    "e2e/test_loop.py",
    "e2e/test_digits.py",
    "component/test_tasks.py",
    "component/test_backbone_networks.py",
    "component/test_resize_modes.py",
    "component/test_evaluator.py",
    "e2e/test_boxes.py",
    "component/test_kubeflow_entrypoint.py",
    "component/test_masks.py",
    "unit/test_unet.py",
    "unit/test_models.py",
    "component/test_resumed_training.py",
    "e2e/test_studio.py",
    "unit/test_training.py",
    "unit/test_client.py",
    "e2e/test_digit_scenes.py",
    "e2e/test_remote_artifacts.py",
    "e2e/test_tuner.py",
    "component/test_explanation_conformance.py",
    "component/test_image_example_gen.py",
    "component/test_statistics_and_transform.py",
    "component/test_serving_validator.py",
    "unit/test_grad_cam.py",
    "component/test_backbone_records.py",
    "component/test_distribution.py",
    "pipeline/test_command.py",
    "pipeline/test_network_summary.py",
    "pipeline/test_kubeflow.py",
)

# TensorFlow, Keras and TFX create a million objects that stay. Collecting garbage visits them again and again unless
# it rarely runs, and not before they are imported.
gc.disable()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the flags that write golden files, start every pod from nothing, and allow an engine of Beam's."""
    parser.addoption("--update-goldens", action="store_true", help="write the golden files instead of comparing")
    parser.addoption(
        "--engine",
        action="append",
        default=[],
        choices=("flink", "spark", "multi_processing"),
        help="run the data-parallel nodes there too; may be repeated",
    )
    parser.addoption("--fresh-pods", action="store_true", help="a new process for every node of a run on Kubeflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with the name of its folder, and puts the files that take longest first."""
    for item in items:
        folder = item.path.relative_to(_TESTS).parts[0]
        if folder in _FOLDERS:
            item.add_marker(getattr(pytest.mark, folder))
    ranks = {name: rank for rank, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(_TESTS).as_posix(), len(ranks)))


def pytest_collection_finish() -> None:
    """Collects garbage from now on, but not among the objects of the imported modules."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 10)
    gc.enable()


def encode(pixels: np.ndarray, format_: str = "PNG") -> bytes:
    """Encodes uint8 [h, w] or [h, w, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format_)
    return buffer.getvalue()


def _module(name: str) -> Any:
    """A module beside this one; test folders are not packages."""
    spec = importlib.util.spec_from_file_location(name, _TESTS / f"{name}.py")
    assert spec and spec.loader
    # Dataclasses look their module up.
    module = sys.modules.setdefault(name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recorder() -> Any:
    """The class that writes run histories."""
    return _module("run_recorder").Recorder


@pytest.fixture(scope="session")
def recorded_colors(recorder: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a pipeline with two runs on images of three colours; returns the root of its folder `colors`."""
    module = _module("recorded_colors")

    def write(**options: Any) -> Path:
        return module.write(recorder, tmp_path_factory.mktemp("runs"), **options)

    return write


@pytest.fixture(scope="session")
def studio_browser() -> Any:
    """The module that opens the studio in Chromium; skips the test without Chromium."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    module = _module("studio_browser")
    if module.CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    return module


@pytest.fixture(scope="module")
def browser(studio_browser: Any) -> Iterator[Any]:
    """Chromium, one per file: playwright's event loop would disturb other tests."""
    with studio_browser.launch() as browser:
        yield browser


@pytest.fixture
def open_page(studio_browser: Any, browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens pages of an address."""
    with studio_browser.pages(browser) as open_one:
        yield open_one


@pytest.fixture(scope="session")
def kubeflow_harness() -> Any:
    """The module that plays Kubeflow Pipelines."""
    return _module("kubeflow_harness")


@pytest.fixture(scope="session")
def request_logs() -> Any:
    """The module that writes request logs without a server."""
    return _module("request_logs")


@pytest.fixture(scope="session")
def divide() -> Any:
    """The function that divides records that a test has in memory."""
    return _module("division_runs").divide


@pytest.fixture(scope="session")
def reference_division() -> Any:
    """The module that divides records in one process."""
    return _module("reference_division")


@pytest.fixture(scope="session")
def reference_listing() -> Any:
    """The module that lists class folders one after another."""
    return _module("reference_listing")


@pytest.fixture(scope="session")
def beam_servers() -> Any:
    """The module that starts job servers and worker pools."""
    return _module("beam_servers")


@pytest.fixture(scope="session")
def job_endpoint(beam_servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Gives an engine's job server, host:port, by the engine's name; it runs until the end of the tests."""
    known: dict[str, str] = {}
    with ExitStack() as servers:

        def find(name: str) -> str:
            if name not in known:
                log = tmp_path_factory.mktemp(name) / "job-server.log"
                known[name] = servers.enter_context(beam_servers.job_server(name, log))
            return known[name]

        yield find


@pytest.fixture(scope="module")
def ram_files() -> Iterator[None]:
    """TFX and Beam know `ram://`, as TensorFlow does."""
    with pytest.MonkeyPatch.context() as patch:
        _module("ram_files").register(patch)
        yield


@pytest.fixture(scope="session")
def many_tasks() -> Any:
    """The class of an exchange that runs steps as an engine does."""
    return _module("many_tasks").ManyTasks


@pytest.fixture
def set_buffers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Keeps only so many images of a dataset in memory, see `buffers.set_buffers`."""
    return functools.partial(_module("buffers").set_buffers, monkeypatch)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture
def make_image(rng: np.random.Generator) -> Callable[..., bytes]:
    """Encodes a random image."""

    def make(height: int = 12, width: int = 10, format_: str = "PNG", channels: int = 3) -> bytes:
        shape = (height, width) if channels == 1 else (height, width, channels)
        return encode(rng.integers(0, 256, shape, dtype=np.uint8), format_)

    return make


@pytest.fixture
def class_folders(tmp_path: Path, make_image: Callable[..., bytes]) -> Callable[..., Path]:
    """Writes class folders of random images: class (or split/class) → number of images."""

    def make(counts: dict[str, int], name: str = "images") -> Path:
        root = tmp_path / name
        root.mkdir()
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for index in range(count):
                (root / folder / f"{index}.png").write_bytes(make_image())
        return root

    return make


@dataclass(frozen=True)
class TinyModel:
    """An untrained model of three classes, exported as a trainer exports it.

    Attributes:
      options: The configuration that made it.
      model: From pixels to logits.
      serving_dir: The SavedModel.
      run_dir: Holds the Keras file.
      image_bytes: Twelve images, four of each class.
      examples: The same as serialised raw examples.
    """

    options: Any
    model: Any
    serving_dir: str
    run_dir: str
    image_bytes: list[bytes]
    examples: list[bytes]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Exports the model once for all tests."""
    import keras
    import tensorflow as tf

    from components.image_example_gen import image_file, raw_examples
    from components.image_example_gen.options import DataOptions
    from trainer_module import export, features
    from trainer_module.input_pipeline import PixelStatistics
    from trainer_module.network import build as build_network
    from trainer_module.options import TrainerOptions, TransformOptions

    class TransformLayer(tf.Module):
        """Stands in for Transform's graph: class name → label."""

        def __init__(self, classes: tuple[str, ...]) -> None:
            super().__init__()
            initializer = tf.lookup.KeyValueTensorInitializer(
                tf.constant(classes), tf.range(len(classes), dtype=tf.int64)
            )
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        def __call__(self, raw: dict[str, Any]) -> dict[str, Any]:
            return {features.LABEL: self.table.lookup(raw[features.CLASS_TEXT])}

    keras.utils.set_random_seed(11)
    options = TrainerOptions(
        classes=("blue", "green", "red"),
        transform=TransformOptions(image_size=16),
        model={"name": "scratch_cnn", "blocks": [[8], [16]]},
        task={"dense_units": 12},
    )
    statistics = PixelStatistics(np.full(3, 100.0, np.float32), np.full(3, 2500.0, np.float32))
    model = build_network(options, statistics)
    random = np.random.default_rng(3)
    image_bytes, examples = [], []
    for index in range(12):
        channel = index % 3
        pixels = random.integers(0, 80, (20 + index, 24, 3), dtype=np.uint8)
        pixels[..., 2 - channel] += 150
        image_bytes.append(encode(pixels, "PNG" if index % 2 else "JPEG"))
        name = options.classes[channel]
        properties = image_file.examine(image_file.prepare(image_bytes[-1], DataOptions(max_pixels=10_000)))
        label = {features.CLASS_TEXT: [name]}
        example = raw_examples.serialize(
            f"{name}/{index}.png", image_bytes[-1], properties, label=label, slices=properties.slices()
        )
        examples.append(example)
    root = tmp_path_factory.mktemp("tiny")
    # Where TFX's Trainer puts them.
    serving_dir, run_dir = str(root / "model" / "Format-Serving"), str(root / "model_run")
    layer = TransformLayer(options.classes)
    spec = {features.CLASS_TEXT: tf.io.FixedLenFeature([], tf.string)}
    export.export(model, options, tft_layer=layer, raw_feature_spec=spec, serving_dir=serving_dir, run_dir=run_dir)
    return TinyModel(options, model, serving_dir, run_dir, image_bytes, examples)


@pytest.fixture(scope="session")
def other_numbers(tiny_model: TinyModel) -> Any:
    """The tiny model's configuration with another value for every number that a search could change."""
    from trainer_module import search_space, tasks

    kinds = search_space.numeric_fields(tiny_model.options)
    unsupported = {f"augmentation.{key}" for key in tasks.get(tiny_model.options.task.name).unsupported_augmentation}
    values = {
        name: 3 if kind is int else 0.125
        for name, kind in kinds.items()
        if name not in unsupported and not search_space.missing_condition(tiny_model.options, name)
    }
    return search_space.replace_values(tiny_model.options, values)


@pytest.fixture(scope="session")
def tiny_session(tiny_model: TinyModel) -> Iterator[Any]:
    """The exported model, loaded as TF Serving loads it."""
    from trainer_module.session_model import SessionModel

    model = SessionModel(tiny_model.serving_dir)
    yield model
    model.close()


@pytest.fixture(scope="session")
def running_server() -> Callable[..., AbstractContextManager[Any]]:
    """Serves the models of a folder on free ports of 127.0.0.1 within a `with` block."""
    from serving.local_server.server import LocalServer

    @contextmanager
    def run(*arguments: Any, port: int | None = 0, **named: Any) -> Iterator[LocalServer]:
        server = LocalServer(*arguments, port=port, rest_api_port=0, **named)
        try:
            server.source.poll()
            server.start()
            yield server
        finally:
            server.stop(5.0)

    return run


@pytest.fixture(scope="session")
def both_clients() -> Callable[..., AbstractContextManager[Any]]:
    """Connects the clients of gRPC and of REST to a model of a running server within a `with` block."""
    from serving.client import GrpcClient, RestClient

    @contextmanager
    def connect(server: Any, model: str) -> Iterator[tuple[GrpcClient, RestClient]]:
        with (
            GrpcClient(f"127.0.0.1:{server.grpc_port}", model) as by_grpc,
            RestClient(f"http://127.0.0.1:{server.rest_port}", model) as by_rest,
        ):
            yield by_grpc, by_rest

    return connect


@pytest.fixture(scope="session")
def small_backbones() -> Callable[[], Any]:
    """A context in which every backbone has five small convolutions, which compile quickly."""
    import types
    from contextlib import contextmanager

    import keras

    from trainer_module import backbones, features

    def build(*, image_size: int, weights: str) -> keras.Model:
        inputs = keras.Input([*image_size, 3])
        x = keras.layers.Rescaling(1 / 16, offset=-8.0)(inputs)
        for filters in (2, 3, 4, 5, 6):
            x = keras.layers.Conv2D(filters, 3, 2, "same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.ReLU()(x)
        return keras.Model(inputs, x, name=features.BACKBONE_LAYER)

    small = types.SimpleNamespace(
        build=build,
        skips=lambda model: [layer.output for layer in model.layers if isinstance(layer, keras.layers.ReLU)][:-1],
        skip_strides=(2, 4, 8, 16),
        smallest_image=1,
        trainable=True,
        check_weights=lambda **_: None,
    )

    @contextmanager
    def replaced() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbones, "get", lambda _: small)
            yield

    return replaced


@pytest.fixture(scope="session")
def eagerly() -> Callable[[], AbstractContextManager[None]]:
    """A context in which Keras trains without graphs: tracing one takes as long as hundreds of small steps."""
    import warnings

    import tensorflow as tf

    @contextmanager
    def run() -> Iterator[None]:
        tf.config.run_functions_eagerly(True)
        try:
            with warnings.catch_warnings():
                # tf.data has graphs all the same.
                warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_functions_eagerly`")
                yield
        finally:
            tf.config.run_functions_eagerly(False)

    return run


@pytest.fixture(scope="session")
def vector_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A feature-vector SavedModel as TensorFlow Hub has them: a callable object with a signature."""
    import tensorflow as tf

    class Vectors(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(tf.random.stateless_normal([3, 7], seed=[1, 2]))

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
        def __call__(self, images: tf.Tensor) -> tf.Tensor:
            return tf.nn.relu(tf.reduce_mean(images, [1, 2]) @ self.kernel)

    module = Vectors()
    folder = str(tmp_path_factory.mktemp("hub"))
    tf.saved_model.save(module, folder, signatures=module.__call__)
    return folder


@pytest.fixture
def kappa(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new metric of classification: one more entry, whose range is not [0, 1]. The task has details, and no plots."""
    import dataclasses

    from trainer_module.evaluation.spec import MetricSpec
    from trainer_module.tasks import classification

    def compute(summary: Any) -> float:
        matrix = summary.matrix
        total = matrix.counts.sum()
        chance = (matrix.support * matrix.predicted).sum() / total**2 if total else 1.0
        return (matrix.accuracy - chance) / (1.0 - chance) if chance < 1.0 else float("nan")

    metric = MetricSpec(
        name="cohen_kappa",
        title="Cohen's kappa",
        description="Agreement with the ground truth beyond that of chance; 0 for random predictions.",
        minimum=-1.0,
        undefined_when="there are no examples, or one class only, and it is always predicted",
        in_slices=True,
        compute=compute,
    )
    evaluation = classification.TASK.evaluation
    extended = dataclasses.replace(
        evaluation,
        metrics=lambda top_k: (*evaluation.metrics(top_k), metric),
        details=lambda summary: {"support": np.column_stack([summary.matrix.support, summary.matrix.support * np.nan])},
        confusion_matrix=None,
        reliability=None,
    )
    monkeypatch.setattr(classification, "TASK", dataclasses.replace(classification.TASK, evaluation=extended))
    return metric


@pytest.fixture(scope="session")
def evaluation_of() -> Callable[..., Any]:
    """Computes the results of Evaluator from classes, labels [n], probabilities [n, C] and slices (name → bool [n])."""
    from components.evaluator.artifact import ConfidenceInterval, EvaluationResult, ReliabilityBin, SliceMetrics
    from trainer_module import tasks
    from trainer_module.evaluation.spec import Parameters, in_scope

    evaluation = tasks.get("classification").evaluation
    metrics = evaluation.metrics(3)

    def evaluate(name: str, classes: list[str], labels: np.ndarray, probabilities: np.ndarray) -> SliceMetrics:
        accumulator = evaluation.accumulator(Parameters(len(classes), 3))
        for element in zip(labels.tolist(), probabilities.astype(np.float32), strict=True):
            accumulator.add(element)
        summary = accumulator.summarize()
        overall = {metric.name: metric.compute(summary) for metric in in_scope(metrics, "overall")}
        by_class = {metric.name: metric.compute(summary) for metric in in_scope(metrics, "per_class")}
        spread = 1.96 * np.sqrt(overall["accuracy"] * (1 - overall["accuracy"]) / len(labels))
        num_bins = summary.bins.shape[1]
        return SliceMetrics(
            name=name,
            examples=len(labels),
            metrics=overall,
            support=dict(zip(classes, evaluation.support(summary).tolist(), strict=True)),
            class_metrics={
                class_name: {metric: float(values[index]) for metric, values in by_class.items()}
                for index, class_name in enumerate(classes)
            },
            confusion_matrix=evaluation.confusion_matrix(summary).tolist(),
            reliability=[
                ReliabilityBin(
                    lower=index / num_bins,
                    upper=(index + 1) / num_bins,
                    count=int(count),
                    confidence=confidence / count if count else float("nan"),
                    accuracy=correct / count if count else float("nan"),
                )
                for index, (count, confidence, correct) in enumerate(summary.bins.T)
            ],
            intervals={"accuracy": ConfidenceInterval(overall["accuracy"] - spread, overall["accuracy"] + spread)},
        )

    def make(
        classes: list[str], labels: np.ndarray, p: np.ndarray, slices: dict[str, np.ndarray], baseline: Any = None
    ) -> EvaluationResult:
        chosen = {"all": np.full(len(labels), True)} | slices
        candidate, before = (
            [evaluate(name, classes, labels[inside], rows[inside]) for name, inside in chosen.items()]
            if rows is not None
            else None
            for rows in (p, baseline)
        )
        return EvaluationResult(
            task="classification",
            split="test",
            classes=classes,
            count_unit=evaluation.count_unit,
            metrics=metrics,
            candidate=candidate,
            baseline=before,
        )

    return make
