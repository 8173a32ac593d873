"""Compiles the DAG for Kubeflow Pipelines 2: the pipeline spec, and the settings of the pods for Kubernetes.

The DAG is that of a local run, with replacements for what Kubeflow Pipelines cannot do: nodes read the previous span
and the baseline model from a volume, gates end a refused run, and an exit handler reports the result. Pods start
`pipeline.kubeflow.entrypoint`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.components.base import base_component
from tfx.orchestration import data_types
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.kubeflow.decorators import FinalStatusStr
from tfx.orchestration.kubeflow.utils import TFX_DAG_NAME
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

from components.cluster.component import DatasetGate, ModelGate, PreviousSpan, RunVerdict, ServedModel
from components.image_example_gen.dataset import Dataset
from pipeline import dag
from pipeline.config.messages import ConfigError
from pipeline.config.sections import PipelineConfig
from pipeline.kubeflow import cluster_config, workflow_size
from pipeline.kubeflow.options import SHARED_MEMORY_VOLUME, KubeflowOptions, Toleration
from pipeline.nodes import DATASET_GATE, GATE_IDS, MODEL_GATE, RUN_VERDICT

ENTRYPOINT = "pipeline.kubeflow.entrypoint"
DATA_PATH = "data_path"  # the only parameter of a run

# Their results depend on earlier runs: a cached result would be wrong.
_NEVER_CACHED = ("PreviousSpan", "Resolver", "Pusher", *GATE_IDS, RUN_VERDICT)
# Kubeflow's driver replaces this by the id of the run.
_RUN_ID = "{{$.pipeline_job_uuid}}"
# Argo starts no attempt later than this after the beginning of the first one: KFP's usual hour would end the retries of
# a long training, and without a value KFP passes 0, which ends them at once.
_RETRY_PERIOD_S = 30 * 24 * 3600
# Linux limits an argument to 128 KiB, and the parameters of a node are part of one.
_MAX_PARAMETER_BYTES = 100_000
# Settings that the message about a size names.
_NUM_NAMED_SETTINGS = 3


class Documents(NamedTuple):
    """The two documents for Kubeflow Pipelines.

    Attributes:
      spec: PipelineSpec, schema 2.1.0.
      platform: PlatformSpec: the settings for Kubernetes.
    """

    spec: dict[str, Any]
    platform: dict[str, Any]

    def as_yaml(self) -> str:
        """Both documents as one YAML file."""
        # The emitter in C writes the same in a quarter of the time.
        text: str = yaml.dump_all(self, Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True)
        return text

    @property
    def num_nodes(self) -> int:
        """Number of tasks that become pods."""
        return len(self.spec["deploymentSpec"]["executors"])

    @property
    def data_path(self) -> str:
        """Default path of the images."""
        return str(self.spec["root"]["inputDefinitions"]["parameters"][DATA_PATH]["defaultValue"])


def compile_pipeline(config: PipelineConfig, dataset: Dataset) -> Documents:
    """Compiles the pipeline of a configuration.

    Args:
      config: The whole configuration.
      dataset: The dataset; pods fail if they find other classes.

    Raises:
      ConfigError: If the configuration cannot run on a cluster.
    """
    cluster = cluster_config.for_pods(config)
    options = cluster.kubeflow
    pipeline = _pipeline(cluster, dataset)
    images: dict[str, str] = {"default_image_path": str(options.image)}
    if options.gpu.image:
        images |= {node.id: options.gpu.image for node in pipeline.components if options.accelerators_of(node.id)}
    runner = KubeflowV2DagRunner(
        KubeflowV2DagRunnerConfig(
            default_image=images, default_commands=["python", "-m", ENTRYPOINT], use_pipeline_spec_2_1=True
        )
    )
    runner.set_exit_handler(
        RunVerdict(final_status=FinalStatusStr(), verdicts_dir=_verdicts_dir(cluster), run_id=_RUN_ID).with_id(
            RUN_VERDICT
        )
    )
    job = runner.run(pipeline, write_out=False)
    spec = json_format.ParseDict(job["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
    _set_executors(spec, cluster)
    _set_tasks(spec, cluster)
    _pass_parameter(spec, cluster.data_location)
    # TFX writes its own version; readers should know which program compiled the pipeline.
    spec.sdk_version = f"tfx-vision-{importlib.metadata.version('tfx-vision')}"
    if options.pipeline_root:
        spec.default_pipeline_root = options.pipeline_root
    documents = Documents(json_format.MessageToDict(spec), _platform(spec, options))
    _check_sizes(documents, config)
    return documents


# --- The DAG ----------------------------------------------------------------------------------------------------


def _pipeline(config: PipelineConfig, dataset: Dataset) -> tfx_pipeline.Pipeline:
    spans_dir = str(config.run_dir / "spans")
    pipeline = dag.create_pipeline(
        config,
        dataset,
        find_previous_span=lambda statistics: PreviousSpan(current=statistics, spans_dir=spans_dir),
        find_baseline_model=lambda model: ServedModel(candidate=model, model_base_path=config.model_base_path),
    )
    nodes: dict[str, base_component.BaseComponent] = {node.id: node for node in pipeline.components}
    # Known when the pipeline is compiled, but wrong for later spans.
    nodes["ModelReport"].spec.exec_properties["data_fingerprint"] = ""
    nodes["ImageExampleGen"].spec.exec_properties["input_base"] = data_types.RuntimeParameter(
        name=DATA_PATH, ptype=str, default=config.data_location
    )
    dataset_gate = DatasetGate(
        anomalies=nodes["ExampleValidator"].outputs["anomalies"],
        statistics=nodes["StatisticsGen"].outputs["statistics"],
        schema=nodes["SchemaGen"].outputs["schema"],
        spans_dir=spans_dir,
        verdicts_dir=_verdicts_dir(config),
        run_id=_RUN_ID,
    ).with_id(DATASET_GATE)
    nodes["Transform"].add_upstream_node(dataset_gate)
    model_gate = ModelGate(
        pushed_model=nodes["Pusher"].outputs["pushed_model"],
        blessing=nodes["Evaluator"].outputs["blessing"],
        infra_blessing=nodes["ServingValidator"].outputs["blessing"],
        explanations=nodes["GradCam"].outputs["explanations"],
        verdicts_dir=_verdicts_dir(config),
        run_id=_RUN_ID,
    ).with_id(MODEL_GATE)
    # After a failed node no other starts, but a refused model needs a report too.
    model_gate.add_upstream_node(nodes["ModelReport"])
    # The pipeline registered its nodes when it was created.
    registry = pipeline.dsl_context_registry
    with registry.temporary_mutable():
        for gate in (dataset_gate, model_gate):
            registry.put_node(gate)
    pipeline.components = [*pipeline.components, dataset_gate, model_gate]
    return pipeline


def _verdicts_dir(config: PipelineConfig) -> str:
    return str(config.run_dir / "verdicts")


# --- The pipeline spec ------------------------------------------------------------------------------------------


def _set_executors(spec: pipeline_spec_pb2.PipelineSpec, config: PipelineConfig) -> None:
    """Sets resources, environment, node name and folder of the artifacts of every pod."""
    options = config.kubeflow
    shared = [f"--artifacts={config.artifacts_location}"] if config.pipeline.artifacts else []
    deployment = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), pipeline_spec_pb2.PipelineDeploymentConfig()
    )
    for label, executor in deployment.executors.items():
        node = label.removesuffix("_executor")
        container = executor.container
        container.args[:] = [f"--node_id={node}", *shared, *_without_repeated_flags(container.args)]
        for name, value in sorted(options.env.items()):
            container.env.add(name=name, value=value)
        resources = options.resources_of(node)
        container.resources.resource_cpu_request = resources.cpu_request or ""
        container.resources.resource_cpu_limit = resources.cpu_limit or ""
        container.resources.resource_memory_request = resources.memory_request or ""
        container.resources.resource_memory_limit = resources.memory_limit or ""
        if count := options.accelerators_of(node):
            container.resources.accelerator.resource_type = options.gpu.resource
            container.resources.accelerator.resource_count = str(count)
    spec.deployment_spec.Clear()
    spec.deployment_spec.update(json_format.MessageToDict(deployment))


def _without_repeated_flags(args: Sequence[str]) -> list[str]:
    """Removes flags that are given again: TFX passes those of Beam once for the executor and once for the pipeline."""
    result: list[str] = []
    for arg, following in zip(args, [*args[1:], "--"], strict=True):
        # Another flag has its value in the next argument.
        is_whole = arg.startswith("--") and ("=" in arg or following.startswith("--"))
        if not (is_whole and arg in result):
            result.append(arg)
    return result


def _set_tasks(spec: pipeline_spec_pb2.PipelineSpec, config: PipelineConfig) -> None:
    """Sets caching and retries of every task."""
    options = config.kubeflow
    for tasks in (spec.root.dag.tasks, spec.components[TFX_DAG_NAME].dag.tasks):
        for node, task in tasks.items():
            if node == TFX_DAG_NAME:
                continue
            cacheable = options.cache_examples if node == "ImageExampleGen" else node not in _NEVER_CACHED
            task.caching_options.enable_cache = config.pipeline.cache and cacheable
            # Retrying a gate does not change its verdict.
            if options.retries and node not in GATE_IDS:
                task.retry_policy.max_retry_count = options.retries
                task.retry_policy.backoff_duration.seconds = options.retry_delay_s
                task.retry_policy.backoff_factor = 2.0
                task.retry_policy.backoff_max_duration.seconds = _RETRY_PERIOD_S


def _pass_parameter(spec: pipeline_spec_pb2.PipelineSpec, default: str) -> None:
    """Passes the parameter of the run to the nodes: with an exit handler, TFX leaves it at the root."""
    parameters = spec.root.input_definitions.parameters
    # TFX omits it.
    parameters[DATA_PATH].default_value.string_value = default
    parameters[DATA_PATH].description = "Path of the images in the pods."
    spec.components[TFX_DAG_NAME].input_definitions.parameters[DATA_PATH].CopyFrom(parameters[DATA_PATH])
    passed = spec.root.dag.tasks[TFX_DAG_NAME].inputs.parameters[DATA_PATH]
    passed.component_input_parameter = DATA_PATH


def _check_sizes(documents: Documents, config: PipelineConfig) -> None:
    """Rejects a pipeline that Kubernetes cannot store or start: only settings of the user can be that large."""
    advice = f"Shorten or remove the largest settings: {', '.join(_largest_settings(config))}."
    for node, task in documents.spec["components"][TFX_DAG_NAME]["dag"]["tasks"].items():
        size = _num_bytes(task.get("inputs", {}))
        if size > _MAX_PARAMETER_BYTES:
            raise ConfigError(
                f"{node} has {size:,} bytes of parameters, and a container accepts {_MAX_PARAMETER_BYTES:,}. {advice}"
            )
    size = workflow_size.of_run(documents.spec, documents.platform)
    if size > workflow_size.MAX_BYTES:
        raise ConfigError(
            f"The run would need {size:,} bytes in Kubernetes, with the status of its nodes, and Argo accepts "
            f"{workflow_size.MAX_BYTES:,}. {advice}"
        )


def _largest_settings(config: PipelineConfig) -> list[str]:
    sizes = {
        f"{section}.{key}": _num_bytes(value)
        for section, values in config.model_dump(mode="json", exclude_defaults=True).items()
        for key, value in values.items()
    }
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:_NUM_NAMED_SETTINGS]
    return [f"{name} ({sizes[name]:,} bytes)" for name in largest]


def _num_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


# --- The platform spec ------------------------------------------------------------------------------------------


def _platform(spec: pipeline_spec_pb2.PipelineSpec, options: KubeflowOptions) -> dict[str, Any]:
    labels = sorted(json_format.MessageToDict(spec.deployment_spec)["executors"])
    executors = {label: _pod(label.removesuffix("_executor"), options) for label in labels}
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def _pod(node: str, options: KubeflowOptions) -> dict[str, Any]:
    """KubernetesExecutorConfig of a node, as JSON.

    Names of objects occur twice: the first form is deprecated, but older installations read no other.
    """
    pod: dict[str, Any] = {
        "imagePullPolicy": options.image_pull_policy,
        "imagePullSecret": [_named("secretName", name) for name in options.image_pull_secrets],
        "nodeSelector": {"labels": selector} if (selector := options.node_selector_of(node)) else {},
        "tolerations": [_toleration(toleration) for toleration in options.tolerations_of(node)],
        "pvcMount": [
            {
                "constant": volume.claim,
                "pvcNameParameter": _constant(volume.claim),
                "mountPath": volume.mount_path,
                **({"subPath": volume.sub_path} if volume.sub_path else {}),
            }
            for volume in options.volumes
        ],
        "secretAsEnv": [
            {
                **_named("secretName", secret.name),
                "keyToEnv": [{"secretKey": key, "envVar": name} for name, key in sorted(secret.env.items())],
            }
            for secret in options.secrets
            if secret.env
        ],
        "secretAsVolume": [
            {**_named("secretName", secret.name), "mountPath": secret.mount_path}
            for secret in options.secrets
            if secret.mount_path
        ],
        "emptyDirMounts": [],
    }
    if options.gpu.shared_memory and node in options.gpu.nodes:
        # Not `enabledSharedMemory`, which Kubeflow Pipelines ignores.
        pod["emptyDirMounts"].append(
            {
                "volumeName": SHARED_MEMORY_VOLUME,
                "mountPath": "/dev/shm",
                "medium": "Memory",
                "sizeLimit": options.gpu.shared_memory,
            }
        )
    return {key: value for key, value in pod.items() if value}


def _toleration(toleration: Toleration) -> dict[str, Any]:
    fields: dict[str, Any] = toleration.model_dump(exclude_none=True)
    if "seconds" in fields:
        fields["tolerationSeconds"] = str(fields.pop("seconds"))
    return fields


def _named(key: str, name: str) -> dict[str, Any]:
    return {key: name, f"{key}Parameter": _constant(name)}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}
