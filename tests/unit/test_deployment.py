"""The files of serving/deploy against the schemas and messages of their readers, and against each other."""

import copy
import dataclasses
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

import serving
from pipeline.cli.gateway_command import GatewayCommandOptions
from pipeline.cli.request_log_options import RequestLogOptions
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.deploy import model_server
from serving.client_options import ClientOptions

DEPLOY = Path(serving.__path__[0]) / "deploy"
GATEWAY = DEPLOY / "kubernetes" / "components" / "gateway"
BASE, OVERLAYS = DEPLOY / "kubernetes" / "base", DEPLOY / "kubernetes" / "overlays"
# The oldest release of Kubernetes that a vendor still supports, and the newest with a schema.
KUBERNETES = ("1.29", str(kubernetes_validate.latest_version()))


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def merged(base, patch):
    """Merges like kustomize's strategic merge, for the fields of these patches.

    Objects are merged, lists of objects with names by these names, and other lists are replaced.
    """
    if isinstance(base, dict) and isinstance(patch, dict):
        return {
            key: merged(base[key], patch[key]) if key in base and key in patch else {**base, **patch}[key]
            for key in {**base, **patch}
        }
    if isinstance(patch, list) and isinstance(base, list) and all("name" in entry for entry in patch):
        by_name = {entry["name"]: entry for entry in base}
        return list({**by_name, **{new["name"]: merged(by_name.get(new["name"], {}), new) for new in patch}}.values())
    return patch


def rendered(overlay):
    """Returns an overlay's documents by kind and name, as kustomize builds them without labels and hashes."""
    (own,) = documents(OVERLAYS / overlay / "kustomization.yaml")
    (base,) = documents(BASE / "kustomization.yaml")
    assert own["resources"] == ["../../base"]
    rendering = {}
    for resource in base["resources"]:
        if resource == "../../config":
            (generator,) = yaml.safe_load((DEPLOY / "config" / "kustomization.yaml").read_text())["configMapGenerator"]
            data = {name: (DEPLOY / "config" / name).read_text() for name in generator["files"]}
            metadata = {"name": generator["name"]}
            rendering["ConfigMap", generator["name"]] = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": data,
            }
            continue
        for document in documents(BASE / resource):
            rendering[document["kind"], document["metadata"]["name"]] = document
    for patch in own.get("patches", ()):
        for document in documents(OVERLAYS / overlay / patch["path"]):
            key = document["kind"], document["metadata"]["name"]
            rendering[key] = merged(rendering[key], document)
    (image,) = own["images"]
    container = container_of(rendering)
    assert container["image"] == image["name"]
    container["image"] += f":{image['newTag']}"
    return rendering


def container_of(rendering):
    (container,) = rendering["Deployment", "model-server"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(params=["cpu", "gpu"])
def overlay(request):
    return request.param


@pytest.fixture
def manifests(overlay):
    return rendered(overlay)


# --- Kubernetes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid(manifests, version):
    assert {kind for kind, _ in manifests} == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    }
    for document in manifests.values():
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_rejects_errors(manifests):
    broken = copy.deepcopy(manifests["Deployment", "model-server"])
    broken["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[0], strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_itself_builds_the_same(overlay, manifests):
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    # The ConfigMap's name ends with a hash of its data, wherever it is named.
    text = re.sub(r"name: model-server-[a-z0-9]{10}\n", "name: model-server\n", done.stdout)
    built = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    for document in built.values():
        kubernetes_validate.validate(document, KUBERNETES[0], strict=True)
        labels = document["metadata"].pop("labels")
        assert labels["app.kubernetes.io/part-of"] == "tfx-vision"
    assert built.keys() == manifests.keys()
    for each in (built, manifests):
        container_of(each)["env"].sort(key=lambda entry: entry["name"])
    for key, document in manifests.items():
        assert built[key] == document


def test_all_documents_refer_to_the_same_pods(manifests):
    template = manifests["Deployment", "model-server"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    selectors = [document["spec"]["selector"] for (kind, _), document in manifests.items() if kind == "Service"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        selectors.append(manifests[kind, "model-server"]["spec"]["selector"]["matchLabels"])
    selectors.append(manifests["NetworkPolicy", "model-server"]["spec"]["podSelector"]["matchLabels"])
    for constraint in template["spec"]["topologySpreadConstraints"]:
        selectors.append(constraint["labelSelector"]["matchLabels"])
    assert len(selectors) == 6
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = manifests["HorizontalPodAutoscaler", "model-server"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "model-server")
    assert manifests["HorizontalPodAutoscaler", "model-server"]["spec"]["minReplicas"] >= 2
    ports = {port["name"] for port in container_of(manifests)["ports"]}
    for (kind, _), document in manifests.items():
        if kind == "Service":
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container_of(manifests)["volumeMounts"]} == volumes.keys()
    claim = volumes["models"]["persistentVolumeClaim"]
    assert claim["readOnly"] and ("PersistentVolumeClaim", claim["claimName"]) in manifests


def test_the_readiness_probe_is_404_until_a_version_is_loaded(manifests):
    container = container_of(manifests)
    (model,) = model_config().model_config_list.config
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": f"/v1/models/{model.name}/metadata", "port": "http"}
    assert container["livenessProbe"]["httpGet"]["path"] == f"/v1/models/{model.name}"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["models"] == model.base_path


def test_the_pod_has_few_rights(manifests):
    pod = manifests["Deployment", "model-server"]["spec"]["template"]["spec"]
    context = container_of(manifests)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert manifests["NetworkPolicy", "model-server"]["spec"]["egress"] == []


def test_the_command_line_agrees_with_the_files(manifests, overlay):
    container = container_of(manifests)
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    environment["CORES"] = container["resources"]["limits"]["cpu"]
    arguments = [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], text) for text in container["args"]]
    flags = dict(text.removeprefix("--").split("=", 1) for text in arguments if "=" in text)
    files = manifests["ConfigMap", "model-server"]["data"]
    for name, value in flags.items():
        if name.endswith("_file"):
            assert value.removeprefix("/etc/tf-serving/") in files
    # Without this flag the file is a startup error.
    assert "--enable_batching" in arguments
    batching = parsed(files[flags["batching_parameters_file"].rsplit("/", 1)[1]], batching_message())
    assert flags["batching_parameters_file"].endswith(f"batching-{overlay}.config")
    assert batching.num_batch_threads.value == int(flags["tensorflow_intra_op_parallelism"])
    for name in ("grpc_max_threads", "rest_api_num_threads"):
        assert int(flags[name]) >= 2 * batching.max_batch_size.value
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (ports["grpc"], ports["http"]) == (int(flags["port"]), int(flags["rest_api_port"]))


def with_gateway(manifests):
    """Applies the component `gateway`, as kustomize does."""
    (component,) = documents(GATEWAY / "kustomization.yaml")
    rendering = copy.deepcopy(manifests)
    for resource in component["resources"]:
        for document in documents(GATEWAY / resource):
            rendering[document["kind"], document["metadata"]["name"]] = document
    for patch in component["patches"]:
        if "path" in patch:
            (document,) = documents(GATEWAY / patch["path"])
            key = document["kind"], document["metadata"]["name"]
            rendering[key] = merged(rendering[key], document)
            continue
        for operation in yaml.safe_load(patch["patch"]):
            assert operation["op"] == "replace"
            value = rendering[patch["target"]["kind"], patch["target"]["name"]]
            *parents, last = (int(part) if part.isdigit() else part for part in operation["path"][1:].split("/"))
            for part in parents:
                value = value[part]
            assert value[last]  # `replace` requires it
            value[last] = operation["value"]
    return rendering


def test_the_gateway_is_in_front_of_the_server(manifests):
    rendering = with_gateway(manifests)
    for document in rendering.values():
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
    template = rendering["Deployment", "model-server"]["spec"]["template"]["spec"]
    server, gateway = template["containers"]
    flags = dict(text.removeprefix("--").split("=", 1) for text in gateway["args"])
    names = {
        parameter.name
        for command in (GatewayCommandOptions, RequestLogOptions)
        for parameter in dataclasses.fields(command)
    }
    assert {flag.replace("-", "_") for flag in flags} <= names
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert (int(flags["port"]), int(flags["rest-api-port"])) == (ports["gateway-grpc"], ports["gateway-http"])
    served = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert flags["target"] == f"127.0.0.1:{served['grpc']}"
    assert flags["rest-target"] == f"http://127.0.0.1:{served['http']}"
    for (kind, _), document in rendering.items():
        if kind == "Service":
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports.keys()
    clients, prometheus = rendering["NetworkPolicy", "model-server"]["spec"]["ingress"]
    assert {port["port"] for port in clients["ports"]} == ports.keys()
    assert {port["port"] for port in prometheus["ports"]} == {"http", "gateway-http"}
    volumes = {volume["name"] for volume in template["volumes"]}
    assert {mount["name"] for mount in gateway["volumeMounts"]} <= volumes
    assert gateway["securityContext"] == server["securityContext"]
    log = next(mount for mount in gateway["volumeMounts"] if mount["name"] == "request-log")
    assert flags["request-log"].startswith(log["mountPath"] + "/")


def test_only_the_gpu_overlay_requests_a_gpu():
    cpu, gpu = rendered("cpu"), rendered("gpu")
    assert container_of(gpu)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in container_of(cpu)["resources"]["limits"]
    (toleration,) = gpu["Deployment", "model-server"]["spec"]["template"]["spec"]["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"
    assert container_of(gpu)["image"] == f"{container_of(cpu)['image']}-gpu"
    # The shared part has one definition.
    assert container_of(gpu)["args"] == container_of(cpu)["args"]


# --- The server's own files -------------------------------------------------------------------------------------


def declared(messages):
    """Builds message classes from name → field → (number, type or message's name, repeated)."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="declared.proto", package="declared", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind, repeated) in fields.items():
            field = message.field.add(name=field_name, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"declared.{name}")) for name in messages]


def batching_message():
    """Returns session_bundle_config.proto's BatchingParameters; no package contains the generated code."""
    types, number = descriptor_pb2.FieldDescriptorProto, ".google.protobuf.Int64Value"
    (message,) = declared(
        {
            "BatchingParameters": {
                "max_batch_size": (1, number, False),
                "batch_timeout_micros": (2, number, False),
                "max_enqueued_batches": (3, number, False),
                "num_batch_threads": (4, number, False),
                "thread_pool_name": (5, ".google.protobuf.StringValue", False),
                "allowed_batch_sizes": (6, types.TYPE_INT64, True),
                "pad_variable_length_inputs": (7, types.TYPE_BOOL, False),
            }
        }
    )
    return message()


def parsed(text, message):
    return text_format.Parse(text, message)


def model_config():
    return parsed((DEPLOY / "config" / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())


def test_the_model_config_is_the_servers_message():
    (model,) = model_config().model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("digits", "/models/digits", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 1


def test_the_batching_files_are_the_servers_message(overlay):
    message = parsed((DEPLOY / "config" / f"batching-{overlay}.config").read_text(), batching_message())
    # A request of the client fits in, and the queue is bounded.
    assert message.max_batch_size.value >= ClientOptions().batch_size
    assert message.max_enqueued_batches.value > 0
    sizes = list(message.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert not sizes or sizes[-1] == message.max_batch_size.value


def test_the_monitoring_file_is_the_servers_message(manifests):
    """No package contains the generated code of monitoring_config.proto."""
    types = descriptor_pb2.FieldDescriptorProto
    _, message = declared(
        {
            "PrometheusConfig": {"enable": (1, types.TYPE_BOOL, False), "path": (2, types.TYPE_STRING, False)},
            "MonitoringConfig": {"prometheus_config": (1, ".declared.PrometheusConfig", False)},
        }
    )
    parameters = parsed((DEPLOY / "config" / "monitoring.config").read_text(), message())
    assert parameters.prometheus_config.enable
    annotations = manifests["Deployment", "model-server"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == parameters.prometheus_config.path


def test_a_misspelled_field_is_an_error():
    with pytest.raises(text_format.ParseError):
        parsed("max_batch_sizes { value: 1 }", batching_message())


# --- Compose ----------------------------------------------------------------------------------------------------

# The used keys of a service in the Compose Specification, with their types.
_SERVICE_KEYS = {
    "image": str,
    "profiles": list,
    "entrypoint": list,
    "command": list,
    "init": bool,
    "restart": str,
    "user": str,
    "read_only": bool,
    "tmpfs": list,
    "cap_drop": list,
    "security_opt": list,
    "ports": list,
    "volumes": list,
    "healthcheck": dict,
    "environment": dict,
    "deploy": dict,
}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_is_valid(compose):
    assert set(compose) == {"name", "services", "x-model-server"}
    for name, service in compose["services"].items():
        assert service["profiles"] == [name]
        for key, value in service.items():
            assert isinstance(value, _SERVICE_KEYS[key]), key
        for volume in service["volumes"]:
            assert volume.keys() == {"type", "source", "target", "read_only"} and volume["read_only"]
        assert set(service["healthcheck"]) == {"test", "interval", "timeout", "start_period"}
        # No port is open to other machines.
        assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
        assert service["user"].split(":")[0] != "0"
    (device,) = compose["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_compose_and_kubernetes_agree(compose, overlay, manifests):
    service, container = compose["services"][overlay], container_of(manifests)
    assert service["image"] == container["image"]
    assert service["entrypoint"] == container["command"]
    own = {argument for argument in service["command"] if "batching_parameters" not in argument}
    assert own < set(container["args"])
    assert f"--batching_parameters_file=/etc/tf-serving/batching-{overlay}.config" in service["command"]
    targets = {volume["target"] for volume in service["volumes"]}
    assert targets == {"/models/digits", "/etc/tf-serving"}


@pytest.mark.parametrize(("status", "healthy"), [("200 OK", True), ("404 Not Found", False), ("500 x", False)])
def test_the_health_check_requires_a_loaded_model(compose, status, healthy):
    first, *command = compose["services"]["cpu"]["healthcheck"]["test"]
    assert first == "CMD"
    requests = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def respond():
            connection, _ = listening.accept()
            with connection:
                received = b""
                while not received.endswith(b"\r\n\r\n"):
                    received += connection.recv(4096)
                requests.append(received.decode())
                connection.sendall(f"HTTP/1.0 {status}\r\n\r\n{{}}".encode())

        thread = threading.Thread(target=respond)
        thread.start()
        port = str(listening.getsockname()[1])
        done = subprocess.run([part.replace("8501", port) for part in command], check=False, timeout=20)
        thread.join()
    assert (done.returncode == 0) == healthy
    assert requests == ["GET /v1/models/digits/metadata HTTP/1.0\r\n\r\n"]


# --- The command ------------------------------------------------------------------------------------------------


def test_deploy_writes_the_files_for_a_model(tmp_path):
    with pytest.raises(ConfigError):
        loading.load("digits", overrides=["serving.model_name=../x"], needs_data=False)
    overrides = ["serving.model_name=cats-2", f"pipeline.root={tmp_path}/runs"]
    loaded = loading.load("digits", overrides=overrides, needs_data=False)
    written = model_server.write(loaded, tmp_path / "out")
    shipped = sorted(path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "out") for path in written] == sorted([Path(".env"), *shipped])
    models = parsed(
        (tmp_path / "out" / "config" / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    )
    assert (models.model_config_list.config[0].name, models.model_config_list.config[0].base_path) == (
        "cats-2",
        "/models/cats-2",
    )
    (document,) = documents(tmp_path / "out" / "kubernetes" / "base" / "deployment.yaml")
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/cats-2/metadata"
    assert not [path for path in written if path.name != ".env" and "digits" in path.read_text()]
    assert (tmp_path / "out" / ".env").read_text() == f"MODELS_DIR='{tmp_path}/runs/digits/serving/cats-2'\n"
    with pytest.raises(model_server.NotEmptyError, match="not empty"):
        model_server.write(loaded, tmp_path / "out")
