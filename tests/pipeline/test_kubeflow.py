"""The documents for Kubeflow Pipelines against golden files; `pytest --update-goldens` writes the files."""

import dataclasses
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from components.image_example_gen.dataset import inspect_dataset
from pipeline import dag, nodes
from pipeline.cli import deployment_commands
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.kubeflow import compiler, workflow_size

GOLDEN = Path(__file__).parent / "golden"
CLUSTER = """
[pipeline]
name = "animals"
root = "{root}"

[data]
path = "{data}"

[transform]
image_size = 16

[evaluation.thresholds]
accuracy = 0.5

[kubeflow]
image = "registry.example/tfx-vision:1"
image_pull_secrets = ["registry"]
pipeline_root = "minio://mlpipeline/v2/artifacts"
data_path = "/images/animals"
work_path = "/work"
node_selector = {{pool = "cpu"}}
tolerations = [{{key = "batch", value = "yes", effect = "NoExecute", seconds = 60}}]
env = {{HTTPS_PROXY = "proxy.example:3128"}}

[kubeflow.gpu]
count = 1
image = "registry.example/tfx-vision:1-gpu"
node_selector = {{"cloud.google.com/gke-accelerator" = "nvidia-l4"}}
tolerations = [{{key = "nvidia.com/gpu", operator = "Exists", effect = "NoSchedule"}}]
shared_memory = "2Gi"

[kubeflow.nodes.Trainer]
cpu_limit = 8
memory_limit = "32Gi"
accelerators = 4

[[kubeflow.volumes]]
claim = "images"
mount_path = "/images"
sub_path = "2026"

[[kubeflow.volumes]]
claim = "work"
mount_path = "/work"

[[kubeflow.secrets]]
name = "bucket"
env = {{AWS_SECRET_ACCESS_KEY = "secretkey"}}
mount_path = "/secrets/bucket"
"""
GPU_NODES = {"Trainer", "Tuner", "GradCam"}


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    """Three images of each of two classes; only their names are read."""
    root = tmp_path_factory.mktemp("images")
    for name in "ab":
        (root / name).mkdir()
        for index in range(3):
            (root / name / f"{index}.png").write_bytes(bytes(10))
    return root


@pytest.fixture(scope="module")
def load(image_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("configuration") / "cluster.toml"
    path.write_text(CLUSTER.format(root=path.parent / "runs", data=image_dir))
    return lambda *overrides: loading.load(str(path), overrides=overrides)


@pytest.fixture(scope="module")
def compiled(load):
    def make(*overrides):
        loaded = load(*overrides)
        return compiler.compile_pipeline(loaded, inspect_dataset(loaded.data_location, loaded.data.options()))

    return make


@pytest.fixture(scope="module")
def documents(compiled):
    """Documents with a tuner and an audit, so that they contain every node."""
    return compiled("tuner.enabled=true", "audit.enabled=true")


@pytest.fixture(scope="module")
def spec(documents):
    return json_format.ParseDict(documents.spec, pipeline_spec_pb2.PipelineSpec())


@pytest.fixture(scope="module")
def containers(documents):
    deployment = json_format.ParseDict(documents.spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    return {label.removesuffix("_executor"): executor.container for label, executor in deployment.executors.items()}


@pytest.fixture(scope="module")
def pods(documents):
    platform = json_format.ParseDict(documents.platform, pipeline_spec_pb2.PlatformSpec())
    (name,) = platform.platforms
    assert name == "kubernetes"
    executors = platform.platforms[name].deployment_spec.executors
    return {
        label.removesuffix("_executor"): json_format.ParseDict(
            json_format.MessageToDict(executor), kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        )
        for label, executor in executors.items()
    }


@pytest.fixture(scope="module")
def tasks(spec):
    return {**spec.components["tfx-dag"].dag.tasks, "RunVerdict": spec.root.dag.tasks["RunVerdict"]}


def without_details(value):
    """Replaces settings as text and the hash of the code, which other golden files cover."""
    if isinstance(value, dict):
        return {key: without_details(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_details(entry) for entry in value]
    if not isinstance(value, str) or value.startswith("{{$"):
        return value
    return "..." if value[:1] in ("{", "[") or "\n" in value or re.fullmatch("[0-9a-f]{16}", value) else value


@pytest.mark.parametrize(("name", "index"), [("kubeflow_pipeline.yaml", 0), ("kubeflow_platform.yaml", 1)])
def test_the_documents_equal_the_golden_files(documents, request, name, index):
    text = yaml.safe_dump(without_details(documents[index]), sort_keys=True)
    if request.config.getoption("--update-goldens"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_loader_of_kubeflow_reads_the_file(documents):
    loaded = components.load_component_from_text(documents.as_yaml())
    assert loaded.pipeline_spec.pipeline_info.name == "animals"
    assert set(loaded.platform_spec.platforms) == {"kubernetes"}
    assert loaded.pipeline_spec.schema_version == "2.1.0"
    assert loaded.pipeline_spec.default_pipeline_root == "minio://mlpipeline/v2/artifacts"


def test_every_node_is_a_pod_with_settings_for_kubernetes(tasks, containers, pods):
    assert set(tasks) == set(containers) == set(pods) == set(nodes.KUBEFLOW_NODE_IDS)


def test_the_nodes_that_run_the_network_have_gpus(containers, pods):
    for node, container in containers.items():
        accelerator = container.resources.accelerator
        if node in GPU_NODES:
            count = "4" if node == "Trainer" else "1"
            assert (accelerator.resource_type, accelerator.resource_count) == ("nvidia.com/gpu", count)
            assert container.image == "registry.example/tfx-vision:1-gpu"
            assert dict(pods[node].node_selector.labels) == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
            (memory,) = pods[node].empty_dir_mounts
            assert (memory.mount_path, memory.medium, memory.size_limit) == ("/dev/shm", "Memory", "2Gi")
        else:
            assert not container.resources.HasField("accelerator")
            assert container.image == "registry.example/tfx-vision:1"
            assert dict(pods[node].node_selector.labels) == {"pool": "cpu"}
            assert not pods[node].empty_dir_mounts
        keys = [toleration.key for toleration in pods[node].tolerations]
        assert keys == (["batch", "nvidia.com/gpu"] if node in GPU_NODES else ["batch"])
    assert pods["Pusher"].tolerations[0].toleration_seconds == 60


def test_requests_and_limits(containers):
    resources = containers["Trainer"].resources
    assert (resources.resource_cpu_request, resources.resource_cpu_limit) == ("1", "8")
    assert (resources.resource_memory_request, resources.resource_memory_limit) == ("4Gi", "32Gi")
    assert containers["Pusher"].resources.resource_cpu_limit == ""


def test_volumes_secrets_and_variables_reach_every_pod(containers, pods):
    for node, pod in pods.items():
        mounts = [(mount.constant, mount.mount_path, mount.sub_path) for mount in pod.pvc_mount]
        assert mounts == [("images", "/images", "2026"), ("work", "/work", "")]
        names = [mount.pvc_name_parameter.runtime_value.constant.string_value for mount in pod.pvc_mount]
        assert names == ["images", "work"]
        (variable,) = pod.secret_as_env[0].key_to_env
        assert (pod.secret_as_env[0].secret_name, variable.secret_key, variable.env_var) == (
            "bucket",
            "secretkey",
            "AWS_SECRET_ACCESS_KEY",
        )
        assert pod.secret_as_volume[0].mount_path == "/secrets/bucket"
        assert pod.image_pull_secret[0].secret_name == "registry"
        assert [(variable.name, variable.value) for variable in containers[node].env] == [
            ("HTTPS_PROXY", "proxy.example:3128")
        ]


def test_nodes_that_depend_on_earlier_runs_are_not_cached(compiled, tasks):
    cached = {node for node, task in tasks.items() if task.caching_options.enable_cache}
    never = {"ImageExampleGen", "PreviousSpan", "Resolver", "Pusher", "DatasetGate", "ModelGate", "RunVerdict"}
    assert set(nodes.KUBEFLOW_NODE_IDS) - cached == never
    other = compiled("kubeflow.cache_examples=true").spec["components"]["tfx-dag"]["dag"]["tasks"]
    assert other["ImageExampleGen"]["cachingOptions"] == {"enableCache": True}
    none = compiled("pipeline.cache=false", "kubeflow.cache_examples=true").spec["components"]["tfx-dag"]["dag"][
        "tasks"
    ]
    assert not any(task["cachingOptions"] for task in none.values())


def test_failures_are_retried_and_refusals_are_not(tasks):
    for node, task in tasks.items():
        if node in nodes.GATE_IDS:
            assert not task.HasField("retry_policy")
        else:
            assert task.retry_policy.max_retry_count == 2
            assert task.retry_policy.backoff_duration.seconds == 30
            # Argo measures from the first attempt; 0 ends the retries at once.
            assert task.retry_policy.backoff_max_duration.seconds >= 7 * 24 * 3600


def test_no_argument_is_passed_twice(containers):
    for container in containers.values():
        flags = [arg.partition("=")[0] for arg in container.args if arg.startswith("--")]
        assert len(set(flags)) == len(flags)


def test_the_exit_handler_always_runs_last(spec):
    handler = spec.root.dag.tasks["RunVerdict"]
    completed = pipeline_spec_pb2.PipelineTaskSpec.TriggerPolicy.ALL_UPSTREAM_TASKS_COMPLETED
    assert handler.trigger_policy.strategy == completed
    assert list(handler.dependent_tasks) == ["tfx-dag"]
    assert handler.inputs.parameters["final_status"].task_final_status.producer_task == "tfx-dag"


def test_the_gates_are_upstream_of_the_right_nodes(tasks):
    assert "DatasetGate" in tasks["Transform"].dependent_tasks
    # After a failed node no other starts.
    assert "ModelReport" in tasks["ModelGate"].dependent_tasks


def test_every_input_has_the_type_of_its_output(spec, tasks, containers):
    for node, task in tasks.items():
        component = spec.components[node]
        arguments = list(containers[node].args)
        inputs_spec = json.loads(arguments[arguments.index("--json_serialized_inputs_spec_args") + 1])
        assert inputs_spec == json_format.MessageToDict(component.input_definitions)
        assert arguments[0] == f"--node_id={node}"
        assert list(containers[node].command) == ["python", "-m", "pipeline.kubeflow.entrypoint"]
        for name, artifact in task.inputs.artifacts.items():
            source = artifact.task_output_artifact
            output = spec.components[source.producer_task].output_definitions.artifacts[source.output_artifact_key]
            assert output.artifact_type == component.input_definitions.artifacts[name].artifact_type


def test_the_path_of_the_images_is_a_parameter_of_the_run(spec, documents):
    assert documents.data_path == "/images/animals"
    passed = spec.root.dag.tasks["tfx-dag"].inputs.parameters["data_path"]
    assert passed.component_input_parameter == "data_path"
    received = spec.components["tfx-dag"].dag.tasks["ImageExampleGen"].inputs.parameters["input_base"]
    assert received.component_input_parameter == "data_path"


def test_the_documents_contain_no_path_of_this_machine(documents, image_dir, load):
    text = documents.as_yaml()
    assert str(image_dir) not in text and str(load().pipeline.root) not in text


def test_compile_writes_its_output_and_nothing_else(tmp_path, monkeypatch):
    """Also where it could: a generated dataset, the metadata store of local runs, and the volume of the pods."""
    config = tmp_path / "cluster.toml"
    text = CLUSTER.format(root=tmp_path / "runs", data="")
    config.write_text(text.replace('path = ""', 'source = "digits"').replace('"/work"', f'"{tmp_path}/volume"'))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    deployment_commands.compile_(str(config), tmp_path / "pipeline.yaml")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "pipeline.yaml"}


def test_the_resolvers_of_tfx_do_not_compile(load, monkeypatch):
    # An injected fault: TFX's own node instead of ours.
    monkeypatch.setattr(compiler, "PreviousSpan", lambda current, spans_dir: dag.previous_span(current))
    loaded = load()
    with pytest.raises(TypeError, match="Unexpected resolver policy"):
        compiler.compile_pipeline(loaded, inspect_dataset(loaded.data_location, loaded.data.options()))


def test_the_infra_validator_of_tfx_does_not_compile(load, monkeypatch):
    # An injected fault instead of ServingValidator.
    from tfx.components import InfraValidator
    from tfx.proto import infra_validator_pb2

    def stand_in(*, model, **_):
        serving = infra_validator_pb2.ServingSpec(tensorflow_serving={"tags": ["latest"]})
        return InfraValidator(model=model, serving_spec=serving).with_id("ServingValidator")

    monkeypatch.setattr(dag, "ServingValidator", stand_in)
    with pytest.raises(NotImplementedError, match="InfraValidator"):
        compiler.compile_pipeline(load(), inspect_dataset(load().data_location, load().data.options()))


def of_classes(load, num, *overrides):
    """The configuration, and a dataset with so many classes, whose names have 20 characters."""
    loaded = load(*overrides)
    dataset = inspect_dataset(loaded.data_location, loaded.data.options())
    random = np.random.default_rng(1)
    names = {"".join(random.choice(list("abcdefghijklmnopqrstuvwxyz"), 20)) for _ in range(num)}
    return loaded, dataclasses.replace(dataset, classes=tuple(sorted(names)))


def test_the_size_does_not_depend_on_the_number_of_classes(load, documents):
    few, many = (compiler.compile_pipeline(*of_classes(load, num)) for num in (2, 10_000))
    assert len(many.as_yaml()) < 300_000
    assert len(many.as_yaml()) - len(few.as_yaml()) < 100
    assert workflow_size.of_run(*many) < workflow_size.MAX_BYTES / 4


def test_argo_can_store_a_run_with_many_classes(load, kubeflow_harness, tmp_path):
    documents = compiler.compile_pipeline(*of_classes(load, 10_000)).as_yaml()

    def does_nothing(command, environment, folder, log):
        log.write_text("")
        return 0

    installation = kubeflow_harness.Harness(documents, tmp_path, container=does_nothing)
    run = installation.run()
    assert set(run.tasks) == set(installation.executor_names())
    assert installation.size(run) < kubeflow_harness.MOST_BYTES_OF_RUN / 4


@pytest.mark.parametrize(
    ("module", "limit", "message"),
    [
        (
            compiler,
            "_MAX_PARAMETER_BYTES",
            r"ModelReport has [\d,]+ bytes of parameters, and a container accepts [\d,]+\.",
        ),
        (workflow_size, "MAX_BYTES", r"would need [\d,]+ bytes in Kubernetes, with the status of its nodes, and Argo"),
    ],
)
def test_settings_that_do_not_fit_are_rejected_and_the_advice_helps(load, monkeypatch, module, limit, message):
    # Long names: the time of writing them as TOML grows with the square of their number.
    groups = {f"{number} {'group ' * 50}": ("a", "b") for number in range(300)}
    loaded, dataset = of_classes(load, 2)
    evaluation = loaded.evaluation.model_copy(update={"label_groups": groups})
    large = loaded.model_copy(update={"evaluation": evaluation})
    if module is workflow_size:
        monkeypatch.setattr(compiler, "_MAX_PARAMETER_BYTES", 10**6)
        monkeypatch.setattr(workflow_size, "MAX_BYTES", 250_000)  # regular texts are compressed too well
    with pytest.raises(ConfigError, match=message) as caught:
        compiler.compile_pipeline(large, dataset)
    assert re.search(
        r"Shorten or remove the largest settings: evaluation\.label_groups \([\d,]+ bytes\), ", str(caught.value)
    )
    compiler.compile_pipeline(loaded, dataset)


def test_random_names_in_settings_exceed_what_argo_accepts(load):
    """Without an injected limit: Argo's compression does not help against names that repeat nothing."""
    loaded, dataset = of_classes(load, 9000)
    names = dataset.classes
    evaluation = loaded.evaluation.model_copy(
        update={
            "label_groups": {f"group {start}": names[start : start + 500] for start in range(0, 5500, 500)},
            "class_thresholds": {"recall": dict.fromkeys(names[5500:5700], 0.5)},
        }
    )
    data = loaded.data.model_copy(update={"rename_classes": {name: name[::-1] for name in names[6000:6300]}})
    with pytest.raises(ConfigError, match=r"bytes (in Kubernetes|of parameters)"):
        compiler.compile_pipeline(loaded.model_copy(update={"evaluation": evaluation, "data": data}), dataset)
