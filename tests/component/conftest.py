"""Executors on folders; and a model for the local server's tests: small, with a signature for every call."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Finds unused ports of 127.0.0.1, all different."""

    def find(count: int) -> list[int]:
        with ExitStack() as opened:
            sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return [each.getsockname()[1] for each in sockets]

    return find


@pytest.fixture(scope="session")
def size_for() -> Callable[[Any], int]:
    """Returns the smallest multiple of 32 that a backbone takes as the side of an image."""
    return lambda record: -(-int(record.smallest_image) // 32) * 32


@pytest.fixture
def run_image_example_gen(tmp_path: Path) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Runs ImageExampleGen with ExampleGenOptions; returns its artifacts: examples and quarantine."""
    from tfx.types import standard_artifacts

    import components
    from components.image_example_gen import executor

    def run(location: Any, options: Any) -> tuple[Any, Any]:
        examples, quarantine = standard_artifacts.Examples(), components.Quarantine()
        examples.uri, quarantine.uri = str(tmp_path / "examples"), str(tmp_path / "quarantine")
        executor.Executor().Do(
            {},
            {"examples": [examples], "quarantine": [quarantine]},
            {"input_base": str(location), "options": options.parameter().model_dump_json()},
        )
        return examples, quarantine

    return run


@pytest.fixture(scope="session")
def run_grad_cam() -> Callable[..., tuple[Path, Any]]:
    """Runs GradCam on serialised examples, in two shards below a folder; returns its output folder and the artifact."""
    import tensorflow as tf
    from tfx.types import standard_artifacts

    import components
    from components.grad_cam import executor
    from components.image_example_gen.artifact import ClassNames

    def run(
        examples: Sequence[bytes], run_dir: str, root: Path, options: Any, slices: Sequence[str] = ()
    ) -> tuple[Path, Any]:
        split_dir = root / "examples" / "Split-test"
        split_dir.mkdir(parents=True)
        for shard in range(2):
            with tf.io.TFRecordWriter(str(split_dir / f"data-{shard:05d}-of-00002")) as writer:
                for example in examples[shard::2]:
                    writer.write(example)
        inputs = {
            "examples": standard_artifacts.Examples(),
            "model_run": standard_artifacts.ModelRun(),
            "model": standard_artifacts.Model(),
        }
        explanations = components.GradCamExplanations()
        inputs["examples"].uri, inputs["examples"].split_names = str(root / "examples"), '["test"]'
        inputs["model_run"].uri, explanations.uri = run_dir, str(root / "explanations")
        inputs["model"].id = 42
        Path(explanations.uri).mkdir()
        ClassNames(names=options.classes).write(inputs["examples"].uri)
        executor.Executor().Do(
            {name: [artifact] for name, artifact in inputs.items()},
            {"explanations": [explanations]},
            {"options": options.model_dump_json(exclude={"classes"}), "split": "test", "slices": json.dumps(slices)},
        )
        return Path(explanations.uri), explanations

    return run


@pytest.fixture(scope="session")
def toy_builder() -> Callable[[Path, float], None]:
    """Saves the model into a folder. Its `serving_default` is TF Serving's own half plus two: y = 0.5 x + b."""
    import tensorflow as tf

    float_ = tf.float32

    class Toy(tf.Module):
        def __init__(self, b: float) -> None:
            super().__init__()
            self.a, self.b = tf.Variable(0.5), tf.Variable(b)

        def signatures(self) -> dict[str, Any]:
            def spec(dtype: Any, name: str, shape: Any = (None,)) -> tf.TensorSpec:
                return tf.TensorSpec(shape, dtype, name=name)

            def parsed(examples: tf.Tensor) -> tf.Tensor:
                return tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], float_)})["x"]

            def half_plus(x: tf.Tensor) -> tf.Tensor:
                return self.a * x + self.b

            def scores(examples: tf.Tensor) -> tf.Tensor:
                x = parsed(examples)
                return tf.stack([half_plus(x), -half_plus(x)], axis=1)

            def labels(examples: tf.Tensor) -> tf.Tensor:
                return tf.repeat(tf.constant([["up", "down"]]), tf.shape(examples)[0], axis=0)

            def spin(n: tf.Tensor) -> tf.Tensor:
                """Keeps a core busy: n[0] steps of about a tenth of a millisecond."""
                square = tf.eye(96) * 1.0001
                steps = tf.reduce_max(n)
                result = tf.while_loop(lambda i, _: i < steps, lambda i, m: (i + 1, m @ square), (0, square))[1]
                return tf.cast(n, float_) + 0.0 * result[0, 1]

            examples = spec(tf.string, "inputs")
            functions = {
                "serving_default": (lambda x: {"y": half_plus(x)}, [spec(float_, "x", (None, 1))]),
                "named": (
                    lambda x, n: {"total": x + tf.cast(n, float_), "text": tf.strings.as_string(n)},
                    [spec(float_, "x"), spec(tf.int64, "n")],
                ),
                "plain": (lambda x: {"y": half_plus(x)}, [spec(float_, "x")]),
                "texts": (lambda s: {"s": s, "s_bytes": s}, [spec(tf.string, "s")]),
                "scalar": (lambda x: {"total": tf.reduce_sum(x)}, [spec(float_, "x")]),
                "halves": (lambda h: {"h": h * 2}, [spec(tf.float16, "h")]),
                "strict": (lambda x: {"y": tf.reshape(x, [-1, 2])}, [spec(float_, "x")]),
                "spin": (lambda n: {"n": spin(n)}, [spec(tf.int32, "n")]),
                "classify": (lambda inputs: {"classes": labels(inputs), "scores": scores(inputs)}, [examples]),
                "scores": (lambda inputs: {"scores": scores(inputs)}, [examples]),
                "regress": (lambda inputs: {"outputs": half_plus(parsed(inputs))}, [examples]),
                "regress_column": (lambda inputs: {"outputs": half_plus(parsed(inputs))[:, None]}, [examples]),
            }
            return {name: tf.function(function, input_signature=given) for name, (function, given) in functions.items()}

    def build(folder: Path, b: float = 2.0) -> None:
        toy = Toy(b)
        tf.saved_model.save(toy, str(folder), signatures=toy.signatures())

    return build


@pytest.fixture(scope="session")
def toy_saved(toy_builder: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Returns the folder of a saved model, created once for every b."""
    saved: dict[float, Path] = {}

    def get(b: float) -> Path:
        if b not in saved:
            saved[b] = tmp_path_factory.mktemp("toy") / "model"
            toy_builder(saved[b], b)
        return saved[b]

    return get


@pytest.fixture
def push_toy(toy_saved: Callable[[float], Path]) -> Callable[..., Path]:
    """Copies a version into a base path and renames it there, as Pusher does."""

    def push(base: Path, version: int | str, b: float = 2.0) -> Path:
        base.mkdir(parents=True, exist_ok=True)
        staged = base / f"staged-{version}"
        shutil.copytree(toy_saved(b), staged)
        return staged.rename(base / str(version))

    return push


@pytest.fixture
def start_server(running_server: Callable[..., AbstractContextManager[Any]]) -> Iterator[Callable[..., Any]]:
    """Starts servers that run until the end of the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **named: stack.enter_context(running_server(*arguments, **named))
