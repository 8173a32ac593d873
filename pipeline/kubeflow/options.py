"""`[kubeflow]`: how pods of Kubeflow Pipelines are made. Imports nothing heavy."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline.nodes import GRAD_CAM, KUBEFLOW_NODE_IDS, TUNER
from trainer_module.error_text import did_you_mean
from trainer_module.locations import is_remote
from trainer_module.section import Section


def _as_text(value: Any) -> Any:
    """`cpu_limit = 8` is as good as `"8"`."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"),
]
ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")]
# Of a Kubernetes object.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,315}[A-Za-z0-9])?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, StringConstraints(pattern=r"^/[^:{}]+$")]

# Where Kubeflow's launcher and the kernel keep their own things.
_TAKEN_PATHS = ("/gcs", "/minio", "/s3", "/oci", "/kfp-launcher", "/tmp/kfp_outputs", "/proc", "/sys", "/dev")

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTP", start=1)}


def amount(quantity: str) -> float:
    """A quantity as a number: `500m` → 0.5, `2Gi` → 2147483648."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


class Toleration(Section):
    """A taint of nodes that pods may run on all the same."""

    key: str | None = Field(default=None, min_length=1, description="Key of the taint; every key, with Exists.")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="Exists takes any value of the key.")
    value: str | None = Field(default=None, description="Value of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; every effect if it is not said."
    )
    seconds: int | None = Field(default=None, ge=0, description="How long the pod may stay, with NoExecute.")

    @model_validator(mode="after")
    def _fits_together(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError('operator = "Exists" takes any value: leave value out')
        if self.operator == "Equal" and self.key is None:
            raise ValueError('key is missing (every key is tolerated with operator = "Exists")')
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError('seconds is for effect = "NoExecute"')
        return self


class Volume(Section):
    """A persistent volume claim, mounted into every pod."""

    claim: Name = Field(description="Name of the claim, which exists in the namespace of the runs.")
    mount_path: MountPath = Field(description="Where pods see it.")
    sub_path: str = Field(default="", description="A folder in it; its root if nothing is said.")


class Secret(Section):
    """A secret, given to every pod as variables, as files, or both."""

    name: Name = Field(description="Name of the secret, which exists in the namespace of the runs.")
    env: dict[Variable, str] = Field(default={}, description="Environment variable → key of the secret.")
    mount_path: MountPath | None = Field(default=None, description="Folder that receives a file for every key.")

    @model_validator(mode="after")
    def _is_given_somehow(self) -> Secret:
        if not self.env and self.mount_path is None:
            raise ValueError(f"secret `{self.name}` goes nowhere: name variables in env, or a mount_path")
        return self


class Resources(Section):
    """What pods ask the cluster for, and may use at most."""

    cpu_request: Quantity | None = Field(default=None, description="Cores that are kept free for it.")
    cpu_limit: Quantity | None = Field(default=None, description="Cores that it may use.")
    memory_request: Quantity | None = Field(default=None, description="Bytes that are kept free for it.")
    memory_limit: Quantity | None = Field(default=None, description="Bytes above which it is killed.")

    @model_validator(mode="after")
    def _requests_below_limits(self) -> Resources:
        for name in ("cpu", "memory"):
            request, limit = getattr(self, f"{name}_request"), getattr(self, f"{name}_limit")
            if request is not None and limit is not None and amount(request) > amount(limit):
                raise ValueError(f"{name}_request = {request} is above {name}_limit = {limit}")
        return self


class NodeResources(Resources):
    """What one node's pod is made of; what is not said is as for all."""

    accelerators: int | None = Field(default=None, ge=0, le=64, description="GPUs; instead of gpu.count.")
    node_selector: dict[Label, str] | None = Field(default=None, description="Instead of what holds for the others.")
    tolerations: tuple[Toleration, ...] | None = Field(
        default=None, description="Instead of what holds for the others."
    )


class Gpu(Section):
    """The GPUs of the nodes that compute with the network."""

    resource: ResourceName = Field(default="nvidia.com/gpu", description="What the device plugin calls them.")
    count: int = Field(default=0, ge=0, le=64, description="For each of these nodes; 0 for none.")
    nodes: tuple[str, ...] = Field(default=("Trainer", TUNER, GRAD_CAM), description="Which nodes get them.")
    image: str | None = Field(default=None, min_length=1, description="Image of these nodes; that of all if not said.")
    node_selector: dict[Label, str] = Field(default={}, description="Labels of the machines with GPUs.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints of the machines with GPUs.")
    shared_memory: Quantity | None = Field(
        default=None, description="Size of /dev/shm; several GPUs need more than the usual 64 MiB."
    )

    @field_validator("nodes")
    @classmethod
    def _known(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_known_node(node) for node in nodes)


class KubeflowOptions(Section):
    """`[kubeflow]`: read by `compile` and `submit` alone."""

    image: str | None = Field(
        default=None, min_length=1, description="Container image of this project, in a registry the cluster can reach."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When machines fetch it."
    )
    image_pull_secrets: tuple[Name, ...] = Field(default=(), description="Secrets of that registry.")
    pipeline_root: str | None = Field(
        default=None,
        pattern=r"^(minio|s3|gs)://[^/]+(/.*)?$",
        description="Where artifacts go; the installation's default (minio://mlpipeline/v2/artifacts) if not said.",
    )
    data_path: str | None = Field(
        default=None, description="data.path as pods see it: below a volume's mount_path, or gs:// and the like."
    )
    work_path: MountPath | None = Field(
        default=None,
        description="pipeline.root as pods see it, below a volume's mount_path: served versions, checkpoints and what "
        "spans and models are compared with outlive a run there.",
    )
    resources: Resources = Field(
        default=Resources(cpu_request="1", memory_request="4Gi"), description="Of the pods of all nodes."
    )
    nodes: dict[str, NodeResources] = Field(default={}, description="Of single nodes, by name.")
    node_selector: dict[Label, str] = Field(default={}, description="Labels of the machines for nodes without GPU.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints that all pods tolerate.")
    gpu: Gpu = Gpu()
    volumes: tuple[Volume, ...] = Field(default=(), description="Claims that all pods mount.")
    secrets: tuple[Secret, ...] = Field(default=(), description="Secrets that all pods are given.")
    env: dict[Variable, str] = Field(default={}, description="Environment variables of all pods.")
    service_account: Name | None = Field(default=None, description="Account of the pods; given with the run.")
    retries: int = Field(default=2, ge=0, le=10, description="How often a node that failed is tried again.")
    retry_delay_s: int = Field(default=30, ge=0, le=3600, description="Wait before that, twice as long every time.")
    cache_examples: bool = Field(
        default=False,
        description="Take earlier examples where the data were the same when the pipeline was compiled. Not for "
        "recurring runs, which would not see new pictures.",
    )

    @field_validator("nodes")
    @classmethod
    def _known(cls, nodes: dict[str, NodeResources]) -> dict[str, NodeResources]:
        return {_known_node(node): resources for node, resources in nodes.items()}

    @model_validator(mode="after")
    def _mounts_do_not_meet(self) -> KubeflowOptions:
        mounts = [volume.mount_path for volume in self.volumes]
        mounts += [secret.mount_path for secret in self.secrets if secret.mount_path]
        for index, mount in enumerate(mounts):
            taken = next((path for path in _TAKEN_PATHS if is_below(mount, path) or is_below(path, mount)), None)
            if taken:
                raise ValueError(f"mount_path {mount}: {taken} is used by the pods themselves; take another path")
            if any(mount.rstrip("/") == other.rstrip("/") for other in mounts[:index]):
                raise ValueError(f"mount_path {mount} is used twice")
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
                raise ValueError(f"nodes.{node}: with what holds for all nodes, {text}") from None
        return self

    def check_mounted(self, name: str, path: str) -> None:
        """Refuses a path that no pod can see, or that is gone with the pod.

        Raises:
          ValueError: If no volume holds it.
        """
        if not any(is_below(path.partition("{")[0], volume.mount_path) for volume in self.volumes):
            mounts = ", ".join(volume.mount_path for volume in self.volumes) or "none"
            raise ValueError(f"{name} = {path} lies on no volume that pods mount (kubeflow.volumes: {mounts})")

    def resources_of(self, node: str) -> Resources:
        """What a node's pod asks for: its own words before those for all."""
        own = self.nodes.get(node, NodeResources())
        said = {key: getattr(own, key) or getattr(self.resources, key) for key in Resources.model_fields}
        return Resources.model_validate(said)

    def accelerators_of(self, node: str) -> int:
        """How many GPUs a node's pod asks for."""
        own = self.nodes.get(node, NodeResources()).accelerators
        return own if own is not None else self.gpu.count if node in self.gpu.nodes else 0

    def node_selector_of(self, node: str) -> dict[str, str]:
        """Labels of the machines on which a node may run."""
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
    """Whether a path is a folder or lies in it."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _known_node(node: str) -> str:
    if node not in KUBEFLOW_NODE_IDS:
        suggestion = did_you_mean(node, KUBEFLOW_NODE_IDS) or f". Nodes: {', '.join(KUBEFLOW_NODE_IDS)}."
        raise ValueError(f"unknown node `{node}`{suggestion}")
    return node
