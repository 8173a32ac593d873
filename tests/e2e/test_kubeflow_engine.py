"""A run on Kubeflow Pipelines whose Beam nodes run on Flink, against the same run in one process.

Pods and Flink's workers share one folder and nothing else: a worker pool of its own starts the workers, as beside the
machines of a cluster. It needs Java and Beam's job server: `--engine flink` (make test-flink).
"""

import pytest

from components.evaluator.artifact import EvaluationResult
from pipeline.config import loading
from pipeline.execution import dataset, local_run

# Beam drops the sockets of the workers that it starts, and Python says so when it frees them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def flink(request, job_endpoint):
    """The address of a job server."""
    if "flink" not in request.config.getoption("--engine"):
        pytest.skip("takes minutes, and an engine in Java: --engine flink (make test-flink)")
    return job_endpoint("flink")


@pytest.fixture(scope="module")
def volume(kubeflow_harness, tmp_path_factory):
    """A folder that pods mount, with images."""
    folder = tmp_path_factory.mktemp("volume")
    kubeflow_harness.write_images(folder / "data")
    return folder


@pytest.fixture(scope="module")
def local(volume, kubeflow_harness, tmp_path_factory):
    """The result of a run in one process."""
    overrides = [f"pipeline.root={tmp_path_factory.mktemp('local')}", *kubeflow_harness.SMALL_RUN]
    loaded = loading.load("images", data=f"{volume}/data", overrides=overrides)
    outcome = local_run.execute(loaded, dataset.prepare(loaded))
    assert outcome.error is None and outcome.refusal is None
    return outcome.result


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


def test_beam_nodes_run_on_flink(flink, kubeflow_harness, beam_servers, volume, local, tmp_path):
    with beam_servers.worker_pool(tmp_path / "workers.log") as pool:
        installation = kubeflow_harness.install(
            tmp_path / "cluster",
            volume,
            f"{volume}/data",
            f"pipeline.artifacts={volume}/artifacts",
            "beam.runner=flink",
            "beam.flink.parallelism=2",
            "beam.flink.environment=external",
            f"beam.flink.worker_pool={pool}",
            f"beam.flink.job_endpoint={flink}",
        )
        run = installation.run(at_once=1)
    assert_same_result(installation, run, f"{volume}/artifacts/days", local)
