"""TF Serving's REST responses, case by case."""

import base64
import contextlib
import gzip
import json
import shutil
import socket
import time
from http.client import HTTPResponse

import httpx
import numpy as np
import pytest

from serving.local_server import monitoring
from serving.local_server.model_config import ModelConfig, VersionPolicy
from serving.local_server.servable import LoadOptions
from serving.local_server.server_options import ServerOptions


@pytest.fixture(scope="module")
def http(toy_saved, running_server, tmp_path_factory):
    base = tmp_path_factory.mktemp("rest") / "toy"
    for version, b in ((123, 2.0), (124, 3.0)):
        shutil.copytree(toy_saved(b), base / str(version))
    options = ServerOptions(
        models=(ModelConfig("toy", str(base), VersionPolicy(None), {"stable": 123, "a b": 124}),),
        metrics_path=monitoring.DEFAULT_PATH,
        rest_timeout_s=2.0,
        max_request_bytes=200_000,
        load=LoadOptions(max_pixels=10_000),
    )
    with (
        running_server(port=None, options=options) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.rest_port}", trust_env=False, timeout=30) as client,
    ):
        yield client


TOY = "/v1/models/toy"
B64 = {"b64": base64.b64encode(b"\x00\xff").decode()}


# --- Routes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{TOY}:predict", 3.5),
        ("/V1/MODELS/toy:predict", 3.5),
        ("/v1/models/%74oy:predict", 3.5),
        (f"{TOY}/versions/123:predict", 2.5),
        (f"{TOY}/versions/0000124:predict", 3.5),
        (f"{TOY}/labels/stable:predict", 2.5),
        (f"{TOY}/labels/a%20b:predict", 3.5),
    ],
)
def test_routes_of_predict(http, path, expected):
    response = http.post(path, content='{"instances": [[1.0]]}', headers={"content-type": "text/nonsense"})
    assert (response.status_code, response.json()) == (200, {"predictions": [[expected]]})
    assert response.headers["content-type"] == "application/json"
    assert "content-encoding" not in response.headers and "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{TOY}:predict?x=1"),
        ("POST", f"{TOY}%3Apredict"),
        ("POST", f"{TOY}:Predict"),
        ("POST", f"{TOY}:explain"),
        ("POST", f"{TOY}/versions/x:predict"),
        ("POST", f"{TOY}/versions/123/labels/stable:predict"),
        ("POST", TOY),
        ("GET", f"{TOY}:predict"),
        ("GET", f"{TOY}/other"),
        ("PUT", f"{TOY}:predict"),
        ("DELETE", TOY),
        ("PATCH", TOY),
        ("GET", "/v1/"),
    ],
)
def test_malformed(http, method, path):
    response = http.request(method, path, content="{}" if method != "GET" else None)
    assert (response.status_code, response.json()) == (400, {"error": f"Malformed request: {method} {path}"})


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/v2/models/toy", "GET"), ("/v1", "POST")])
def test_outside_of_v1_the_response_is_html(http, path, method):
    response = http.request(method, path)
    assert response.status_code == 404 and response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("POST", "/v1/models/m:predict", 404, "Servable not found for request: Latest(m)"),
        ("POST", f"{TOY}/versions/7:predict", 404, "Servable not found for request: Specific(toy, 7)"),
        ("POST", f"{TOY}/versions/7:regress", 404, "Servable not found for request: Specific(toy, 7)"),
        ("POST", f"{TOY}/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/m", 404, "Could not find any versions of model m"),
        ("GET", f"{TOY}/versions/7", 404, "Could not find version 7 of model toy"),
        ("GET", "/v1/models/m/metadata", 404, "Servable not found for request: Latest(m)"),
        ("GET", f"{TOY}/labels/x/metadata", 400, "Unrecognized servable version label: x"),
    ],
)
def test_missing_models_versions_and_labels(http, method, path, status, error):
    content = '{"examples": [{"x": 1.0}]}' if "regress" in path else None
    response = http.request(method, path, content=content)
    assert (response.status_code, response.json()) == (status, {"error": error})


@pytest.mark.parametrize("path", ["/v1/models", "/V1/Models"])
def test_the_error_of_a_missing_model_name_lists_the_models_in_a_header(http, path):
    assert http.get(path).headers["model-names"] == '["toy"]'
    assert "model-names" not in http.get("/v1/models/m").headers


@pytest.mark.parametrize("path", [f"{TOY}/versions/9223372036854775808", f"{TOY}/versions/{'9' * 3000}"])
def test_a_version_beyond_int64_gets_an_empty_response(http, path):
    for response in (http.get(path), http.get(f"{path}/metadata"), http.post(f"{path}:predict", content="{}")):
        assert (response.status_code, response.content) == (400, b"")


# --- Predict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": [1, 3.0]}, {"predictions": [3.5, 4.5]}),
        ({"instances": [{"x": 1.0}]}, {"predictions": [3.5]}),
        ({"inputs": [1.0, 3.0]}, {"outputs": [3.5, 4.5]}),
        ({"inputs": {"x": [1.0], "extra": 5}}, {"outputs": [3.5]}),
        ({"inputs": 1.0}, {"outputs": 3.5}),
    ],
)
def test_row_and_column(http, body, expected):
    response = http.post(f"{TOY}:predict", json={"signature_name": "plain", **body})
    assert response.json() == expected


def test_several_inputs_and_outputs(http):
    rows = [{"n": 2, "x": 1.5}, {"x": -1, "n": 1}]
    response = http.post(f"{TOY}:predict", json={"signature_name": "named", "instances": rows})
    assert response.json() == {"predictions": [{"text": "2", "total": 3.5}, {"text": "1", "total": 0.0}]}
    response = http.post(f"{TOY}:predict", json={"signature_name": "named", "inputs": {"x": [1.5], "n": [2]}})
    assert response.json() == {"outputs": {"text": ["2"], "total": [3.5]}}
    assert b"3.5" in response.content and b'"total":[3.5]' in response.content.replace(b" ", b"")


def test_bytes_are_read_from_b64_and_written_by_output_name(http):
    plain = {"b64": base64.b64encode(b"plain").decode()}
    response = http.post(f"{TOY}:predict", json={"signature_name": "texts", "instances": [plain, "text"]})
    assert response.json()["predictions"] == [
        {"s": "plain", "s_bytes": plain},
        {"s": "text", "s_bytes": {"b64": base64.b64encode(b"text").decode()}},
    ]
    response = http.post(f"{TOY}:predict", json={"signature_name": "texts", "inputs": {"s": [B64]}})
    assert response.json()["outputs"]["s_bytes"] == [B64]


def test_nan_and_infinity_are_read_and_written(http):
    body = '{"signature_name": "plain", "instances": [NaN, Infinity, -Infinity, 2]} and more'
    response = http.post(f"{TOY}:predict", content=body)
    assert response.content == b'{"predictions":[NaN,Infinity,-Infinity,4.0]}'


def test_gzip(http):
    body = b'{"instances": [[1.0]]}'
    headers = {"content-encoding": "gzip"}
    assert http.post(f"{TOY}:predict", content=gzip.compress(body), headers=headers).json() == {"predictions": [[3.5]]}
    bomb = gzip.compress(b" " * 3_000_000 + body)
    for broken in (body, gzip.compress(body)[:-9], bomb, b""):
        response = http.post(f"{TOY}:predict", content=broken, headers=headers)
        assert (response.status_code, response.json()) == (400, {"error": "JSON Parse error: The document is empty"})


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "JSON Parse error: The document is empty"),
        ("{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("[]", 400, "JSON Value: [] Is not object"),
        ("{}", 400, "Missing 'inputs' or 'instances' key"),
        ('{"signature_name": "x", "instances": [1]}', 400, 'Serving signature name: "x" not found in signature def'),
        ('{"signature_name": 100}', 400, "'signature_name' key must be a string value."),
        ('{"instances": [1], "inputs": 1}', 400, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ('{"instances": []}', 400, "No values in 'instances' array"),
        (
            '{"instances": [{"z": 1}]}',
            400,
            "Failed to process element: 0 key: z of 'instances' list. "
            "Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        ('{"inputs": {"z": 1}}', 400, "Missing named input: x in 'inputs' object."),
        ('{"instances": ["a"]}', 400, 'JSON Value: "a" Type: String is not of expected type: float'),
        ('{"instances": [true]}', 400, "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [[1], [2, 3]]}', 400, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ('{"instances": [[[1, 2]], [[1], [2]]]}', 400, "Expecting shape [1,2] but got: [2,1]"),
        ('{"signature_name": "named", "instances": [{"x": 1, "n": 2.0}]}', 400, "is not of expected type: int64"),
        ('{"signature_name": "named", "instances": [1]}', 400, "as multiple input tensors required"),
        ('{"signature_name": "halves", "inputs": [1.0]}', 501, "to type: half"),
        ('{"signature_name": "scalar", "instances": [1.0]}', 400, "Tensor name: total has no shape information"),
        ('{"signature_name": "strict", "instances": [1.0]}', 400, "eshape"),
        ('{"signature_name": "texts", "instances": [{"b64": "!"}]}', 400, "Unable to base64 decode"),
        ('{"signature_name": "spin", "instances": [150000]}', 504, "Timed out waiting for notification"),
    ],
)
def test_predict_errors(http, body, status, error):
    response = http.post(f"{TOY}:predict", content=body)
    assert response.status_code == status
    assert set(response.json()) == {"error"} and error in response.json()["error"]
    assert response.headers["content-type"] == "application/json"


def test_the_server_responds_while_an_abandoned_call_still_runs(http):
    assert http.post(f"{TOY}:predict", content='{"instances": [[1.0]]}').json() == {"predictions": [[3.5]]}


def test_shapes_are_not_checked_against_the_signature(http):
    response = http.post(f"{TOY}:predict", content='{"instances": [[1.0, 2.0], [3.0, 4.0]]}')
    assert response.json() == {"predictions": [[3.5, 4.0], [4.5, 5.0]]}


def test_a_body_that_is_too_large_is_not_read(http):
    response = http.post(f"{TOY}:predict", content=b"x" * 300_000)
    assert response.status_code == 413 and "200000" in response.json()["error"]

    def chunks():
        for _ in range(30):
            yield b"x" * 10_000

    assert http.post(f"{TOY}:predict", content=chunks()).status_code == 413


def test_an_image_of_too_many_pixels_is_not_decoded(http):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30_000).to_bytes(4, "big") * 2
    image = {"b64": base64.b64encode(header).decode()}
    for verb, body in (
        ("predict", {"signature_name": "texts", "instances": [image]}),
        ("regress", {"signature_name": "regress", "examples": [{"image/encoded": image, "x": 1.0}]}),
    ):
        response = http.post(f"{TOY}:{verb}", json=body)
        assert response.status_code == 400 and "30000 x 30000 pixels" in response.json()["error"]


# --- Classify and Regress ---------------------------------------------------------------------------------------


def test_classify_and_regress(http):
    examples = {"examples": [{"x": 1.0}, {"x": [3.0]}]}
    response = http.post(f"{TOY}/versions/123:classify", json={"signature_name": "classify", **examples})
    assert response.json() == {"results": [[["up", 2.5], ["down", -2.5]], [["up", 3.5], ["down", -3.5]]]}
    response = http.post(f"{TOY}:regress", json={"signature_name": "regress", **examples})
    assert response.json() == {"results": [3.5, 4.5]}
    shared = {"signature_name": "regress", "context": {"x": 1.0}, "examples": [{}, {"x": 5.0}]}
    assert http.post(f"{TOY}/labels/stable:regress", json=shared).json() == {"results": [2.5, 4.5]}


@pytest.mark.parametrize(
    ("verb", "body", "error"),
    [
        ("classify", {"signature_name": "x", "examples": [{}]}, "No signature was found with the name: x"),
        ("regress", {"signature_name": "x", "examples": [{}]}, "No signature was found with the name: x"),
        ("classify", {"instances": [1]}, "key 'examples' is expected and was not found"),
        ("regress", {"signature_name": "regress", "examples": []}, "'examples' value is an empty array"),
        # A whole number makes an int64 feature.
        ("regress", {"signature_name": "regress", "examples": [{"x": 1}]}, "Data type: int64 but expected type: float"),
        ("regress", {"signature_name": "regress", "examples": [{"x": [[1]]}]}, "unexpected JSON type: Array"),
        ("regress", {"signature_name": "classify", "examples": [{"x": 1.0}]}, "Expected one output Tensor."),
    ],
)
def test_classify_and_regress_errors(http, verb, body, error):
    response = http.post(f"{TOY}:{verb}", json=body)
    assert response.status_code == 400 and error in response.json()["error"]


# --- Status, metadata, CORS, metrics ----------------------------------------------------------------------------


def state(version):
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        (TOY, [124, 123]),
        (f"{TOY}/versions/123", [123]),
        (f"{TOY}/labels/nonsense", [124, 123]),  # labels are ignored
        (f"{TOY}/METADATA", [124, 123]),  # matched in lower case only
    ],
)
def test_status(http, path, versions):
    assert http.get(path).json() == {"model_version_status": [state(version) for version in versions]}


@pytest.mark.parametrize(
    ("path", "version"),
    [(TOY, "124"), (f"{TOY}/versions/123", "123"), (f"{TOY}/labels/stable", "123")],
)
def test_metadata(http, path, version):
    response = http.get(f"{path}/metadata").json()
    assert response["model_spec"] == {"name": "toy", "signature_name": "", "version": version}
    signature = response["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
        "name": "serving_default_x:0",
    }
    assert signature["method_name"] == "tensorflow/serving/predict"


def test_options_requires_an_origin(http):
    assert http.options(f"{TOY}:predict").status_code == 400
    response = http.options(f"{TOY}:predict", headers={"origin": "https://example.org"})
    assert (response.status_code, response.content) == (200, b"")
    assert "access-control-allow-origin" not in response.headers


def test_cors(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    running = start_server("toy", tmp_path / "toy", options=ServerOptions(cors=True))
    url = f"http://127.0.0.1:{running.rest_port}{TOY}"
    response = httpx.get(url, trust_env=False)
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-methods"] == "POST, GET"
    assert response.headers["access-control-allow-headers"] == "Content-Type"
    # Metrics exist only if they are enabled.
    assert httpx.get(url.replace(TOY, monitoring.DEFAULT_PATH), trust_env=False).status_code == 404


def metric(http, start):
    lines = http.get(monitoring.DEFAULT_PATH).text.splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith(start)}


def test_metrics_have_tf_servings_names(http):
    ok = ':tensorflow:serving:request_count{model_name="toy",status="OK"}'
    before = metric(http, ok).get(ok, 0)
    for _ in range(3):
        http.post(f"{TOY}:predict", content='{"instances": [[1.0]]}')
    assert metric(http, ok)[ok] == before + 3
    http.post("/v1/models/made-up:predict", content="{}")
    text = http.get(monitoring.DEFAULT_PATH).text
    assert "made-up" not in text
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}' in text
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert "# TYPE :tensorflow:serving:request_latency histogram" in text
    labels = 'model_name="toy",API="predict",entrypoint="REST"'
    buckets = metric(http, f":tensorflow:serving:request_latency_bucket{{{labels}")
    assert list(buckets.values()) == sorted(buckets.values())
    assert len(buckets) == 34 and any(key.endswith('le="+Inf"}') for key in buckets)
    (count,) = metric(http, f":tensorflow:serving:request_latency_count{{{labels}").values()
    assert count == max(buckets.values()) >= 3
    assert any(":runtime_latency_sum" in line and 'runtime="TF1"' in line for line in text.splitlines())
    assert "request_example_count_total{" in text


def test_other_parsers_read_the_response(http):
    response = http.post(f"{TOY}:predict", json={"signature_name": "plain", "instances": list(np.arange(50.0))})
    assert json.loads(response.content)["predictions"] == list(0.5 * np.arange(50) + 3)


# --- HTTP: other protocols, other methods, slow clients ---------------------------------------------------------


def raw(http, data):
    """Sends bytes and returns the first response: (status, text)."""
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=20) as connection:
        connection.sendall(data)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read().decode()


@pytest.mark.parametrize(
    "upgrade",
    [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    ],
)
def test_an_upgrade_is_ignored(http, upgrade):
    body = '{"instances": [[1.0]]}'
    head = f"POST {TOY}:predict HTTP/1.1\r\nHost: a\r\n{upgrade}\r\nContent-Length: {len(body)}\r\n\r\n"
    assert raw(http, (head + body).encode()) == (200, '{"predictions":[[3.5]]}')
    status, _ = raw(http, f"GET {TOY} HTTP/1.1\r\n{upgrade}\r\n\r\n".encode())
    assert status == 200


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_are_not_implemented(http, method):
    assert raw(http, f"{method} {TOY} HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0] == 501


def test_the_path_of_the_metrics_has_no_query(http):
    response = http.get(f"{monitoring.DEFAULT_PATH}?x=1")
    assert response.status_code == 400 and response.headers["content-type"].startswith("text/plain")
    assert response.text == f"Unexpected path: {monitoring.DEFAULT_PATH}?x=1. Should be {monitoring.DEFAULT_PATH}"


def test_status_and_metadata_are_indented(http):
    entry = '  {\n   "version": "123",\n   "state": "AVAILABLE",\n   "status": {\n    "error_code": "OK",\n'
    text = http.get(f"{TOY}/versions/123").text
    assert text == '{\n "model_version_status": [\n' + entry + '    "error_message": ""\n   }\n  }\n ]\n}\n'
    assert http.get(f"{TOY}/metadata").text.startswith('{\n "model_spec": {\n  "name": "toy",')


def test_a_scalar_string(http):
    response = http.post(f"{TOY}:predict", content=b'{"signature_name": "texts", "inputs": "ab"}')
    assert response.json() == {"outputs": {"s": "ab", "s_bytes": {"b64": "YWI="}}}
    wrapped = http.post(f"{TOY}:predict", content=b'{"signature_name": "texts", "inputs": {"b64": "YW\\nI ="}}')
    assert wrapped.json() == response.json()


def test_numbers_as_in_tf_serving(http):
    body = '{"signature_name": "plain", "instances": [16777217, 1e39, Inf, -Inf], "instances": [5]}'
    assert http.post(f"{TOY}:predict", content=body).content == (
        b'{"predictions":[8388611.0,Infinity,Infinity,-Infinity]}'
    )
    response = http.post(f"{TOY}:predict", content='{"signature_name": "plain", "instances": [1e400]}')
    assert response.status_code == 400 and "Number too big to be stored in double." in response.text


def test_slow_bodies_do_not_block_others(http):
    """More than can run and wait, one byte each."""
    head = f"POST {TOY}:predict HTTP/1.1\r\nContent-Length: 50\r\n\r\n{{".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            connection = socket.create_connection((http.base_url.host, http.base_url.port), timeout=20)
            stack.enter_context(connection).sendall(head)
        started = time.monotonic()
        assert http.post(f"{TOY}:predict", content='{"instances": [[1.0]]}').json() == {"predictions": [[3.5]]}
        assert time.monotonic() - started < 1.9 and http.get("/readyz").status_code == 200


def test_a_rest_client_that_leaves_frees_its_place(start_server, push_toy, tmp_path):
    push_toy(tmp_path / "toy", 1)
    running = start_server("toy", tmp_path / "toy", options=ServerOptions(max_running=1, max_waiting=4))
    body = '{"signature_name": "spin", "inputs": [3000]}'
    request = f"POST {TOY}:predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    waiting = [socket.create_connection(("127.0.0.1", running.rest_port), timeout=20) for _ in range(5)]
    for connection in waiting:
        connection.sendall(request)
        time.sleep(0.05)
    time.sleep(0.1)  # ended with the request, they would wait for the response
    for connection in waiting[1:]:
        connection.close()
    response = httpx.post(f"http://127.0.0.1:{running.rest_port}{TOY}:predict", content=body, trust_env=False)
    assert response.json() == {"outputs": [3000.0]}
    waiting[0].close()
