"""pipeline/deploy/flink and pipeline/deploy/kubeflow against Kubernetes's schemas, themselves and the configuration."""

import copy
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import pipeline
from pipeline.config.sections import PipelineConfig
from pipeline.execution.beam_options import BeamSection
from pipeline.kubeflow import cluster_config

FOLDER = Path(pipeline.__path__[0]) / "deploy" / "flink"
KUBERNETES = ("1.29", str(kubernetes_validate.latest_version()))


@pytest.fixture(scope="module")
def kustomization():
    return yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


@pytest.fixture(scope="module")
def manifests(kustomization):
    """The documents by kind and name, with the images' tags and the generated ConfigMap."""
    documents = {}
    for resource in kustomization["resources"]:
        for document in yaml.safe_load_all((FOLDER / resource).read_text()):
            documents[document["kind"], document["metadata"]["name"]] = document
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    for container in containers(documents).values():
        container["image"] += f":{tags[container['image']]}"
    (generator,) = kustomization["configMapGenerator"]
    data = {name: (FOLDER / name).read_text() for name in generator["files"]}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
    return documents | {("ConfigMap", generator["name"]): config_map}


@pytest.fixture(scope="module")
def flink_config():
    return yaml.safe_load((FOLDER / "config.yaml").read_text())


def containers(manifests):
    return {
        container["name"]: container
        for (kind, _), document in manifests.items()
        if kind == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    }


def pods(manifests):
    return [document["spec"]["template"] for (kind, _), document in manifests.items() if kind == "Deployment"]


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid(manifests, version):
    kinds = {kind for kind, _ in manifests}
    assert kinds == {"ConfigMap", "Deployment", "NetworkPolicy", "PersistentVolumeClaim", "Service"}
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_detects_errors(manifests):
    broken = copy.deepcopy(manifests["Deployment", "flink-taskmanager"])
    broken["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


def test_every_file_is_used(kustomization):
    used = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"], "kustomization.yaml"}
    assert used == {path.name for path in FOLDER.iterdir()}


def test_containers_are_not_root_and_have_limits(manifests):
    for pod in pods(manifests):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            own = container["securityContext"]
            assert (own.get("runAsUser") or spec["securityContext"]["runAsUser"]) > 0
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) == set(container["resources"]["requests"]) == {"cpu", "memory"}
    dockerfile = (Path(pipeline.__path__[0]).parent / "Dockerfile").read_text()
    assert f"USER {containers(manifests)['python']['securityContext']['runAsUser']}:" in dockerfile


def test_services_and_volumes_match_their_pods(manifests):
    for (kind, name), document in manifests.items():
        if kind == "Service":
            (pod,) = (
                pod
                for pod in pods(manifests)
                if document["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
            )
            ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports, name
    for pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in manifests
            if config_map := volume.get("configMap"):
                assert ("ConfigMap", config_map["name"]) in manifests


def test_flinks_configuration_names_its_own_services(manifests, flink_config):
    service = manifests["Service", flink_config["jobmanager"]["rpc"]["address"]]
    assert flink_config["rest"]["address"] == service["metadata"]["name"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert ports["rpc"] == flink_config["jobmanager"]["rpc"]["port"]
    assert ports["blob"] == flink_config["blob"]["server"]["port"]
    assert ports["rest"] == flink_config["rest"]["port"]
    arguments = containers(manifests)["job-server"]["args"]
    assert f"--flink-master={service['metadata']['name']}:{ports['rest']}" in arguments


def test_the_configuration_in_the_comment_matches_the_manifests(manifests, flink_config):
    """The recommended configuration is read, reaches the job server and the workers, and uses all slots."""
    section = BeamSection.model_validate(recommended(FOLDER)["beam"])
    assert section.runner == "flink"
    host, port = section.flink.job_endpoint.split(":")
    service = manifests["Service", host]
    assert int(port) in [port["port"] for port in service["spec"]["ports"]]
    assert f"--job-port={port}" in containers(manifests)["job-server"]["args"]
    (artifacts,) = section.options
    assert artifacts == f"--artifact_endpoint={host}:8098"
    assert "--artifact-port=8098" in containers(manifests)["job-server"]["args"]
    pool = containers(manifests)["python"]
    assert [f"--service_port={section.flink.worker_pool.split(':')[1]}"] == pool["args"]
    slots = flink_config["taskmanager"]["numberOfTaskSlots"]
    assert section.flink.worker_processes == slots == int(pool["resources"]["limits"]["cpu"])
    assert section.flink.parallelism == slots * manifests["Deployment", "flink-taskmanager"]["spec"]["replicas"]


def test_the_images_have_one_version(kustomization):
    tags = {image["name"]: image["newTag"] for image in kustomization["images"]}
    (job_server,) = (name for name in tags if "job_server" in name)
    assert tags[job_server] == metadata.version("apache-beam")
    flink = re.search(r"beam_flink([0-9.]+)_job_server", job_server)[1]
    assert tags["flink"].startswith(f"{flink}-")


def test_the_sidecar_starts_a_module_that_beam_has(manifests):
    module = containers(manifests)["python"]["command"][-1]
    assert module.replace(".", "/") + ".py" in map(str, metadata.files("apache-beam"))


# --- Beside Kubeflow Pipelines ----------------------------------------------------------------------------------

KUBEFLOW = FOLDER.parent / "kubeflow"


def recommended(folder):
    """The configuration in the comment of a kustomization."""
    head = (folder / "kustomization.yaml").read_text().partition("apiVersion")[0]
    lines = [line.removeprefix("#   ") for line in head.splitlines() if re.match(r"#   (\[|\w+ = )", line)]
    return tomllib.loads("\n".join(lines))


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pods_of_kubeflow_reach_the_job_server(manifests, version):
    overlay = yaml.safe_load((KUBEFLOW / "kustomization.yaml").read_text())
    assert set(overlay["resources"]) == {"../flink", *(path.name for path in KUBEFLOW.iterdir())} - {
        "kustomization.yaml"
    }
    policy = yaml.safe_load((KUBEFLOW / "network-policy.yaml").read_text())
    kubernetes_validate.validate(policy, version, strict=True)
    base = manifests["NetworkPolicy", "flink-job-server"]
    assert policy["metadata"]["name"] != base["metadata"]["name"]
    assert policy["spec"]["podSelector"] == base["spec"]["podSelector"]
    assert policy["spec"]["ingress"][0]["ports"] == base["spec"]["ingress"][0]["ports"]


def test_the_configuration_for_kubeflow_compiles_and_shares_the_volume_of_the_workers(manifests):
    values = recommended(KUBEFLOW)
    config = PipelineConfig.model_validate(values | {"data": {"path": "/anywhere"}})
    cluster_config.check(config)
    assert values["beam"] == recommended(FOLDER)["beam"]
    (volume,) = config.kubeflow.volumes
    pod = manifests["Deployment", "flink-taskmanager"]["spec"]["template"]["spec"]
    claims = {
        entry["persistentVolumeClaim"]["claimName"]: entry["name"]
        for entry in pod["volumes"]
        if "persistentVolumeClaim" in entry
    }
    (mount,) = (m for m in containers(manifests)["python"]["volumeMounts"] if m["name"] == claims[volume.claim])
    assert mount["mountPath"] == volume.mount_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["flink", "--jar", "/nowhere.jar"], 3, "job_server: "),
        (["spark", "--jar", "/nowhere.jar"], 3, "job_server: "),
        (["flink", "--colour", "red"], 2, "unknown option --colour"),
        ([], 2, "name the engine: flink or spark"),
    ],
)
def test_exit_codes_of_the_job_server_script(arguments, code, message):
    """Exit code 3 skips the tests on engines; an invalid call must not skip them."""
    script = Path(__file__).parents[2] / "scripts" / "job_server.sh"
    done = subprocess.run([str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code and message in done.stderr
