"""A run on Kubeflow Pipelines whose Beam nodes run on Flink, against the same run in one process.

Pods and Flink's workers share one folder and nothing else: a worker pool of its own starts the workers, as beside the
machines of a cluster. It needs Java and Beam's job server: `--engine flink` (make test-flink).
"""

import shutil

import numpy as np
import pytest
from PIL import Image

from components.evaluator.artifact import EvaluationResult
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from pipeline.kubeflow import compiler

# Beam drops the sockets of the workers that it starts, and Python says so when it frees them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
COLORS = {"blue": (40, 60, 160), "green": (50, 150, 70), "red": (170, 60, 50)}
OVERRIDES = [
    "pipeline.name=days",
    "transform.image_size=16",
    "data.splits.by=class",
    "model.blocks=[[4], [8]]",
    "training.epochs=1",
    "training.batch_size=8",
    "evaluation.thresholds={accuracy=0.0}",
    "evaluation.disabled_rules=['beats_constant','beats_chance','classes_predicted','classes_correct']",
    "grad_cam.most_confident_right=1",
    "grad_cam.faithfulness=false",
]


@pytest.fixture(scope="module")
def flink(request, job_endpoint):
    """The address of a job server."""
    if "flink" not in request.config.getoption("--engine"):
        pytest.skip("takes minutes, and an engine in Java: --engine flink (make test-flink)")
    return job_endpoint("flink")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(3)
    for name, color in COLORS.items():
        (folder / name).mkdir()
        for index in range(16):
            pixels = np.array(color) + random.normal(0, 30, (12, 12, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def local(images, tmp_path_factory):
    """The result of a run in one process."""
    root = tmp_path_factory.mktemp("local")
    loaded = loading.load("images", data=str(images), overrides=[f"pipeline.root={root}", *OVERRIDES])
    outcome = local_run.execute(loaded, dataset.prepare(loaded))
    assert outcome.error is None and outcome.refusal is None
    return outcome.result


def harness(kubeflow_harness, images, volume, cluster, *overrides):
    """Copies the images to a volume, and compiles for it."""
    shutil.copytree(images, volume / "data")
    loaded = loading.load(
        "images",
        data=str(images),
        overrides=[
            f"pipeline.root={cluster / 'here'}",
            "kubeflow.image=registry.example/tfx-vision:1",
            f"kubeflow.volumes=[{{claim='images', mount_path='{volume}'}}]",
            f"kubeflow.data_path={volume}/data",
            f"kubeflow.work_path={volume}/work",
            *OVERRIDES,
            *overrides,
        ],
    )
    documents = compiler.compile_pipeline(loaded, dataset.prepare(loaded)).as_yaml()
    return kubeflow_harness.Harness(documents, cluster, container=kubeflow_harness.this_process)


def assert_same_result(installation, run, artifacts, local):
    """All nodes ran, their files are in the shared folder and not in KFP's store, and the metrics are the same."""
    print(run.table())
    assert {name: task.exit_code for name, task in run.tasks.items()} == dict.fromkeys(installation.executor_names(), 0)
    assert run.tasks["RunVerdict"].last_line.startswith("verdict: pushed version")
    logs = [path.name for path in installation.store.rglob("*") if path.is_file()]
    assert set(logs) == {"executor-logs-0"}
    uri = run.tasks["Evaluator"].outputs["evaluation"]["uri"]
    measured = EvaluationResult.read(f"{artifacts}/{uri.partition('://')[2]}")
    assert measured.overall.metrics == pytest.approx(local.slices[0].metrics, rel=1e-6)
    assert measured.overall.confusion_matrix == local.slices[0].confusion_matrix


def test_beam_nodes_run_on_flink(flink, kubeflow_harness, beam_servers, images, local, tmp_path):
    volume = tmp_path / "volume"
    with beam_servers.worker_pool(tmp_path / "workers.log") as pool:
        installation = harness(
            kubeflow_harness,
            images,
            volume,
            tmp_path / "cluster",
            f"pipeline.artifacts={volume}/artifacts",
            "beam.runner=flink",
            "beam.flink.parallelism=2",
            "beam.flink.environment=external",
            f"beam.flink.worker_pool={pool}",
            f"beam.flink.job_endpoint={flink}",
        )
        run = installation.run(at_once=1)
    assert_same_result(installation, run, f"{volume}/artifacts/days", local)
