"""`[kubeflow]`: the pods of Kubeflow Pipelines. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.nodes import GRAD_CAM, KUBEFLOW_NODE_IDS, TUNER
from trainer_module.error_text import did_you_mean
from trainer_module.locations import is_remote
from trainer_module.section import Section


def _as_text(value: Any) -> Any:
    """Accepts `cpu_limit = 8` as well as `"8"`."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"),
]
ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")]
# Name of a Kubernetes object.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


def _as_volume_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ValueError(
            f"`{name}` becomes the name of a volume of the pod, which must be a DNS label: 1 to 63 lower-case letters, "
            "digits and hyphens, without dots. Create one with such a name"
        )
    return name


# Name of an object that also becomes the name of a volume of the pod.
VolumeName = Annotated[str, AfterValidator(_as_volume_name)]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,315}[A-Za-z0-9])?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, StringConstraints(pattern=r"^/[^:{}]+$")]

SHARED_MEMORY_VOLUME = "shared-memory"
# Paths that Kubeflow's launcher and the kernel use.
_RESERVED_PATHS = ("/gcs", "/minio", "/s3", "/oci", "/kfp-launcher", "/tmp/kfp_outputs", "/proc", "/sys", "/dev")

# Volumes that the pods of Kubeflow Pipelines and Argo have themselves (kubeflow/pipelines 2.17,
# backend/src/v2/compiler/argocompiler/container.go; Argo Workflows 4.0).
_RESERVED_VOLUMES = (
    *("kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch", "dot-cache-scratch"),
    *("dot-config-scratch", "artifact-local-root", "ca-bundle", "var-run-argo", "tmp-dir-argo", "input-artifacts"),
    *("argo-workflow-agent-ca-certificates", SHARED_MEMORY_VOLUME),
)

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTP", start=1)}


def amount(quantity: str) -> float:
    """Converts a quantity to a number: `500m` → 0.5, `2Gi` → 2147483648."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


class Toleration(Section):
    """A taint of machines that pods tolerate."""

    key: str | None = Field(
        default=None, min_length=1, description="Key of the taint; without it every key, with Exists."
    )
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="`Exists` matches every value of the key."
    )
    value: str | None = Field(default=None, description="Value of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; default: every effect."
    )
    seconds: int | None = Field(default=None, ge=0, description="How long the pod stays, with NoExecute.")

    @model_validator(mode="after")
    def _fits_together(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError('operator = "Exists" matches every value: remove value')
        if self.operator == "Equal" and self.key is None:
            raise ValueError('key is missing; operator = "Exists" tolerates every key')
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError('seconds requires effect = "NoExecute"')
        return self


class Volume(Section):
    """A persistent volume claim that every pod mounts."""

    claim: VolumeName = Field(description="Name of the claim, in the namespace of the runs.")
    mount_path: MountPath = Field(description="Mount path in the pods.")
    sub_path: str = Field(default="", description="Folder of the volume; default: its root.")


class Secret(Section):
    """A secret that every pod receives as environment variables, as files, or both."""

    name: VolumeName = Field(description="Name of the secret, in the namespace of the runs.")
    env: dict[Variable, str] = Field(default={}, description="Environment variable → key of the secret.")
    mount_path: MountPath | None = Field(default=None, description="Folder with one file per key.")

    @model_validator(mode="after")
    def _is_used(self) -> Secret:
        if not self.env and self.mount_path is None:
            raise ValueError(f"secret `{self.name}` is not used: set env or mount_path")
        return self


class Resources(Section):
    """Resource requests and limits of pods."""

    cpu_request: Quantity | None = Field(default=None, description="Reserved cores.")
    cpu_limit: Quantity | None = Field(default=None, description="Maximum cores.")
    memory_request: Quantity | None = Field(default=None, description="Reserved memory.")
    memory_limit: Quantity | None = Field(default=None, description="Maximum memory; a pod that exceeds it is killed.")

    @model_validator(mode="after")
    def _requests_below_limits(self) -> Resources:
        for name in ("cpu", "memory"):
            request, limit = getattr(self, f"{name}_request"), getattr(self, f"{name}_limit")
            if request is not None and limit is not None and amount(request) > amount(limit):
                raise ValueError(f"{name}_request = {request} is above {name}_limit = {limit}")
        return self


class NodeResources(Resources):
    """Settings of the pod of one node; the others apply where a setting is absent."""

    accelerators: int | None = Field(default=None, ge=0, le=64, description="Number of GPUs; replaces gpu.count.")
    node_selector: dict[Label, str] | None = Field(default=None, description="Replaces the setting of all nodes.")
    tolerations: tuple[Toleration, ...] | None = Field(default=None, description="Replaces the setting of all nodes.")


class Gpu(Section):
    """The GPUs of the nodes that run the network."""

    resource: ResourceName = Field(default="nvidia.com/gpu", description="Resource name of the device plugin.")
    count: int = Field(default=0, ge=0, le=64, description="GPUs per node in gpu.nodes; 0 for none.")
    nodes: tuple[str, ...] = Field(default=("Trainer", TUNER, GRAD_CAM), description="Nodes with GPUs.")
    image: str | None = Field(
        default=None, min_length=1, description="Container image of these nodes; default: kubeflow.image."
    )
    node_selector: dict[Label, str] = Field(default={}, description="Labels of the machines with GPUs.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints of the machines with GPUs.")
    shared_memory: Quantity | None = Field(
        default=None, description="Size of /dev/shm; several GPUs require more than the default 64 MiB."
    )

    @field_validator("nodes")
    @classmethod
    def _known(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_known_node(node) for node in nodes)


class KubeflowOptions(Section):
    """`[kubeflow]`: read only by `compile` and `submit`."""

    image: str | None = Field(
        default=None,
        min_length=1,
        description="Container image of this project, in a registry that the cluster can reach.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When machines pull the image."
    )
    image_pull_secrets: tuple[Name, ...] = Field(default=(), description="Secrets for the registry.")
    pipeline_root: str | None = Field(
        default=None,
        pattern=r"^(minio|s3|gs)://[^/]+(/.*)?$",
        description="Folder of the artifacts; default: the installation's own (minio://mlpipeline/v2/artifacts).",
    )
    data_path: str | None = Field(
        default=None, description="data.path in the pods: below the mount_path of a volume, or gs:// and the like."
    )
    work_path: MountPath | None = Field(
        default=None,
        description="pipeline.root in the pods, below the mount_path of a volume: served versions, checkpoints, and "
        "the previous span and model stay there after a run.",
    )
    resources: Resources = Field(
        default=Resources(cpu_request="1", memory_request="4Gi"), description="Resources of the pods of all nodes."
    )
    nodes: dict[str, NodeResources] = Field(default={}, description="Settings of single nodes, by name.")
    node_selector: dict[Label, str] = Field(default={}, description="Labels of the machines for nodes without GPU.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints that all pods tolerate.")
    gpu: Gpu = Gpu()
    volumes: tuple[Volume, ...] = Field(default=(), description="Volumes of all pods.")
    secrets: tuple[Secret, ...] = Field(default=(), description="Secrets of all pods.")
    env: dict[Variable, str] = Field(default={}, description="Environment variables of all pods.")
    service_account: Name | None = Field(default=None, description="Service account of the pods.")
    retries: int = Field(default=2, ge=0, le=10, description="How often a failed node is retried.")
    retry_delay_s: int = Field(
        default=30, ge=0, le=3600, description="Delay before the first retry; doubles with every retry."
    )
    cache_examples: bool = Field(
        default=False,
        description="Reuse the examples of an earlier run if the data was the same when the pipeline was compiled. Not "
        "for recurring runs, which would not see new images.",
    )

    @field_validator("nodes")
    @classmethod
    def _known(cls, nodes: dict[str, NodeResources]) -> dict[str, NodeResources]:
        return {_known_node(node): resources for node, resources in nodes.items()}

    @model_validator(mode="after")
    def _mounts_are_distinct(self) -> KubeflowOptions:
        mounts = [volume.mount_path for volume in self.volumes]
        mounts += [secret.mount_path for secret in self.secrets if secret.mount_path]
        for index, mount in enumerate(mounts):
            reserved = next((path for path in _RESERVED_PATHS if is_below(mount, path) or is_below(path, mount)), None)
            if reserved:
                raise ValueError(f"mount_path {mount}: pods use {reserved} themselves; choose another path")
            if any(mount.rstrip("/") == other.rstrip("/") for other in mounts[:index]):
                raise ValueError(f"mount_path {mount} is used twice")
        return self

    @model_validator(mode="after")
    def _volumes_are_distinct(self) -> KubeflowOptions:
        """Claims and mounted secrets become volumes of the pod with their own names."""
        claims = {volume.claim for volume in self.volumes}
        for kind, names in (
            ("claim", claims),
            ("secret", {secret.name for secret in self.secrets if secret.mount_path}),
        ):
            for name in sorted(names):
                if name in _RESERVED_VOLUMES:
                    raise ValueError(
                        f"{kind} `{name}`: pods have a volume of this name themselves; create the {kind} with another "
                        "name"
                    )
                if kind == "secret" and name in claims:
                    raise ValueError(f"claim and secret `{name}` would be two volumes of one name; rename one of them")
        return self

    @model_validator(mode="after")
    def _paths_are_mounted(self) -> KubeflowOptions:
        for name in ("data_path", "work_path"):
            path = getattr(self, name)
            if path is not None and not is_remote(path):
                self.check_mounted(f"kubeflow.{name}", path)
        return self

    @model_validator(mode="after")
    def _requests_fit(self) -> KubeflowOptions:
        for node in KUBEFLOW_NODE_IDS:
            try:
                self.resources_of(node)
            except ValidationError as error:
                text = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"nodes.{node}: together with kubeflow.resources, {text}") from None
        return self

    def check_mounted(self, name: str, path: str) -> None:
        """Rejects a path that pods cannot see or that does not outlive the pod.

        Raises:
          ValueError: If no volume contains it.
        """
        if not any(is_below(path.partition("{")[0], volume.mount_path) for volume in self.volumes):
            mounts = ", ".join(volume.mount_path for volume in self.volumes) or "none"
            raise ValueError(f"{name} = {path} is not on a mounted volume (kubeflow.volumes: {mounts})")

    def resources_of(self, node: str) -> Resources:
        """Resources of a node's pod: its own settings, then those of all nodes."""
        own = self.nodes.get(node, NodeResources())
        values = {key: getattr(own, key) or getattr(self.resources, key) for key in Resources.model_fields}
        return Resources.model_validate(values)

    def accelerators_of(self, node: str) -> int:
        """Number of GPUs of a node's pod."""
        own = self.nodes.get(node, NodeResources()).accelerators
        return own if own is not None else self.gpu.count if node in self.gpu.nodes else 0

    def node_selector_of(self, node: str) -> dict[str, str]:
        """Labels of the machines that can run a node."""
        own = self.nodes.get(node, NodeResources()).node_selector
        if own is not None:
            return own
        return self.gpu.node_selector if self.accelerators_of(node) else self.node_selector

    def tolerations_of(self, node: str) -> tuple[Toleration, ...]:
        """Taints that a node's pod tolerates."""
        own = self.nodes.get(node, NodeResources()).tolerations
        if own is not None:
            return own
        return self.tolerations + (self.gpu.tolerations if self.accelerators_of(node) else ())


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or inside it."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _known_node(node: str) -> str:
    if node not in KUBEFLOW_NODE_IDS:
        suggestion = did_you_mean(node, KUBEFLOW_NODE_IDS) or f". Nodes: {', '.join(KUBEFLOW_NODE_IDS)}."
        raise ValueError(f"unknown node `{node}`{suggestion}")
    return node
