"""The client and its commands against a served model, over both protocols, with and without asyncio."""

import asyncio
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.serve_command import ServeOptions
from serving import client as clients
from serving import similarity
from serving.request_log.options import LogOptions

VERSION = 1700000000


@pytest.fixture(scope="module")
def server(tiny_model, running_server, tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "colours"
    shutil.copytree(tiny_model.serving_dir, base / str(VERSION))
    with running_server("colours", base) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(server):
    return {"grpc": f"127.0.0.1:{server.grpc_port}", "rest": f"http://127.0.0.1:{server.rest_port}"}


@pytest.fixture(params=["grpc", "rest"])
def protocol(request):
    return request.param


@pytest.fixture
def client(protocol, addresses):
    client_class = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with client_class(addresses[protocol], "colours", batch_size=5) as client:
        yield client


def test_it_is_ready(client, protocol):
    assert client.wait_until_ready(timeout_s=60) == (VERSION if protocol == "grpc" else None)
    assert client.status() == [(VERSION, "AVAILABLE")]


def test_metadata(client):
    metadata = client.metadata()
    names = {"serving_default", "examples", "classify", "transform_features", "explain", "embed"}
    assert metadata.version == VERSION and names <= set(metadata.signatures)
    assert metadata.signatures["serving_default"].inputs == {"image_bytes": ("DT_STRING", (None,))}
    assert metadata.signatures["serving_default"].outputs["probabilities"] == ("DT_FLOAT", (None, 3))


def test_every_form_of_an_image_has_the_same_prediction(client, tiny_model, tmp_path):
    content = tiny_model.image_bytes[1]  # a PNG file, which is lossless
    path = tmp_path / "image.png"
    path.write_bytes(content)
    image = Image.open(path)
    predictions = client.predict([content, path, str(path), image, np.asarray(image)], top_k=3).or_raise()
    first, *others = [dict(prediction.top) for prediction in predictions]
    # The rows of a batch may be computed in another order.
    assert others == [pytest.approx(first, abs=1e-6)] * 4


@pytest.mark.parametrize("top_k", [1, 3])
def test_an_invalid_image_does_not_affect_the_others(client, tiny_model, top_k):
    images = list(tiny_model.image_bytes)
    expected = client.predict(images, top_k).or_raise()
    truncated = images[3][: len(images[3]) // 2]
    responses = client.predict([*images[:3], truncated, b"", *images[3:], "no/such/file.png"], top_k)
    assert sorted(responses.errors) == [3, 4, 14]
    assert {error.code for error in responses.errors.values()} == {"INVALID_ARGUMENT"}
    good = [result for result in responses if not isinstance(result, clients.ServerError)]
    assert [result.label for result in good] == [result.label for result in expected]
    np.testing.assert_allclose([result.score for result in good], [result.score for result in expected], rtol=1e-5)


def test_explanations_and_embeddings(client, tiny_model):
    images = tiny_model.image_bytes[:7]
    labels = [result.label for result in client.predict(images).or_raise()]
    explanations = client.explain(images).or_raise()
    assert [tiny_model.options.classes[each.class_id] for each in explanations] == labels
    assert {each.label for each in explanations} <= {None, *labels}
    for each in explanations:
        assert each.heatmap.shape == (16, 16) and 0 <= each.heatmap.min() <= each.heatmap.max() <= 1
        assert Image.open(io.BytesIO(each.overlay_png)).format == "PNG"
    vectors = [each.vector for each in client.embed(images).or_raise()]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert similarity.most_similar(vectors[4], vectors, 1)[0].position == 4


def test_both_protocols_and_both_kinds_agree(addresses, tiny_model):
    async def run(client_class, address):
        async with client_class(address, "colours", batch_size=5) as client:
            return await client.predict(tiny_model.image_bytes, 3), await client.embed(tiny_model.image_bytes[:2])

    responses = []
    for client_class, protocol in ((clients.GrpcClient, "grpc"), (clients.RestClient, "rest")):
        with client_class(addresses[protocol], "colours") as client:
            responses.append((client.predict(tiny_model.image_bytes, 3), client.embed(tiny_model.image_bytes[:2])))
    responses.append(asyncio.run(run(clients.AsyncGrpcClient, addresses["grpc"])))
    responses.append(asyncio.run(run(clients.AsyncRestClient, addresses["rest"])))
    for predictions, embeddings in responses[1:]:
        assert [[label for label, _ in each.top] for each in predictions] == [
            [label for label, _ in each.top] for each in responses[0][0]
        ]
        for ours, first in zip(embeddings, responses[0][1], strict=True):
            np.testing.assert_allclose(ours.vector, first.vector, rtol=1e-4, atol=1e-6)


def test_a_classification_model_has_no_masks(client, tiny_model):
    with pytest.raises(clients.InvalidArgumentError, match="has no `mask_png_bytes` and `class_pixels`"):
        client.segment(tiny_model.image_bytes[:1])


@pytest.mark.parametrize(
    ("options", "error_class", "message"),
    [
        ({"version": 7}, clients.NotFoundError, r"Specific\(colours, 7\)"),
        ({"label": "canary"}, clients.InvalidArgumentError, "Unrecognized servable version label: canary"),
    ],
)
def test_a_missing_version(protocol, addresses, tiny_model, options, error_class, message):
    client_class = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with client_class(addresses[protocol], "colours", **options) as client, pytest.raises(error_class, match=message):
        client.predict(tiny_model.image_bytes)


def test_a_pinned_version_is_reported_over_rest_too(protocol, addresses, tiny_model):
    client_class = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with client_class(addresses[protocol], "colours", version=VERSION) as client:
        assert client.predict(tiny_model.image_bytes[:1])[0].version == VERSION


# --- The commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def image_dir(tiny_model, tmp_path):
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number, content in enumerate(tiny_model.image_bytes):
        suffix = "PNG" if number % 2 else "jpg"
        (folder / ("below" if number > 5 else "") / f"{number}.{suffix}").write_bytes(content)
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def run_command(protocol, addresses):
    def run(*arguments):
        server = [f"--{protocol}", addresses[protocol], "--model", "colours", "--batch-size", "3"]
        return CliRunner().invoke(app, [*map(str, arguments), *server])

    return run


def test_predict_reports_every_result_it_has(run_command, image_dir):
    bad = image_dir / "bad.png"
    bad.write_bytes(b"not an image")
    good = [image_dir / "0.jpg", image_dir / "1.PNG"]
    done = run_command("predict", good[0], bad, good[1], "--top-k", 2)
    assert done.exit_code == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [str(path) for path in good]
    assert len(done.stdout.splitlines()[0].split("  ")) == 3
    assert done.stderr.startswith(f"error: {bad}: INVALID_ARGUMENT: ") and done.stderr.count("\n") == 1
    done = run_command("predict", good[0], bad, good[1], "--json")
    assert done.exit_code == 1
    output = json.loads(done.stdout)
    assert [row["image"] for row in output["predictions"]] == [str(path) for path in good]
    assert [row["image"] for row in output["errors"]] == [str(bad)]
    assert run_command("predict", *good).exit_code == 0
    missing = run_command("predict", good[0], image_dir / "missing.png")
    assert (missing.exit_code, missing.stdout) == (2, "")


@pytest.mark.parametrize("option", [[], ["--version", VERSION]])
def test_the_only_model_needs_no_name(protocol, addresses, image_dir, option):
    command = ["predict", image_dir / "0.jpg", f"--{protocol}", addresses[protocol], *option]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output


def test_explain_writes_overlays_and_heat_maps(run_command, image_dir, tmp_path, tiny_model):
    out = tmp_path / "out"
    done = run_command("explain", image_dir / "0.jpg", image_dir / "1.PNG", "--output-dir", out, "--heatmaps")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["image", "class", "score", "explanation"]
    assert [line.split()[-1] for line in lines[1:]] == [str(out / "0.png"), str(out / "1.png")]
    assert sorted(path.name for path in out.iterdir()) == ["0.npy", "0.png", "1.npy", "1.png"]
    heatmap = np.load(out / "0.npy")
    assert (heatmap.shape, heatmap.dtype) == ((16, 16), np.float32)
    assert (out / "1.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(run_command("explain", image_dir / "0.jpg", "--output-dir", out, "--json").stdout)["explanations"]
    assert rows[0]["overlay"] == str(out / "0.png") and "heatmap" not in rows[0]
    assert tiny_model.options.classes[rows[0]["class_id"]] in (rows[0]["label"] or tiny_model.options.classes)


def test_an_explanation_does_not_replace_its_image(run_command, image_dir):
    before = (image_dir / "below" / "6.jpg").read_bytes()
    (image_dir / "a.png").write_bytes(before)
    done = run_command("explain", image_dir / "a.png", "--output-dir", image_dir)
    assert done.exit_code == 2 and "would be replaced by its own explanation" in done.stderr
    assert (image_dir / "a.png").read_bytes() == before


def test_similar_finds_copies_first(run_command, image_dir):
    (image_dir / "below" / "copy.png").write_bytes((image_dir / "1.PNG").read_bytes())
    (image_dir / "bad.png").write_bytes(b"not an image")
    done = run_command("similar", image_dir / "1.PNG", image_dir, "--top-k", 3, "--json")
    assert done.exit_code == 1
    output = json.loads(done.stdout)
    assert output["searched"] == 12
    assert output["similar"][0] == {"image": str(image_dir / "below" / "copy.png"), "similarity": pytest.approx(1.0)}
    similarities = [row["similarity"] for row in output["similar"]]
    assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
    assert [row["image"] for row in output["errors"]] == [str(image_dir / "bad.png")]
    (image_dir / "bad.png").unlink()
    done = run_command("similar", image_dir / "1.PNG", image_dir, "--top-k", 2)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"1.000000  {image_dir / 'below' / 'copy.png'}"
    assert len(done.stdout.splitlines()) == 2


def test_similar_to_a_file_that_is_not_an_image(run_command, image_dir, tmp_path):
    done = run_command("similar", image_dir / "notes.txt", image_dir)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "notes.txt: INVALID_ARGUMENT" in done.stderr
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((image_dir / "1.PNG", tmp_path / "empty"), "contains no other image"),
        ((image_dir / "1.PNG", tmp_path / "missing"), "is not a folder"),
        ((image_dir / "missing.png", image_dir), "No such file"),
    ):
        done = run_command("similar", *arguments)
        assert done.exit_code == 2 and message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--version", 7), "Specific(colours, 7)"),
        (("--label", "canary"), "Unrecognized servable version label: canary"),
    ],
)
def test_a_command_pins_a_version(run_command, image_dir, arguments, message):
    done = run_command("predict", image_dir / "1.PNG", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr


def test_invalid_options_of_a_command(run_command, image_dir, tmp_path, protocol):
    token = tmp_path / "token"
    token.write_text("abc\n")
    assert run_command("predict", image_dir / "1.PNG", "--token-file", token).exit_code == 0
    token.write_text("two words")
    for arguments, message in (
        (("--version", 7, "--label", "x"), "not both"),
        (("--token-file", token), "line break"),
        (("--token-file", tmp_path / "missing"), "missing: No such file"),
        (("--cert-file", token), "belong together"),
    ):
        done = run_command("predict", image_dir / "1.PNG", *arguments)
        assert done.exit_code == 2 and message in done.stderr, done.output


def test_serve_takes_the_name_of_the_model_from_its_folder(tmp_path):
    (tmp_path / "colours").mkdir()
    options = ServeOptions(model_base_path=tmp_path / "colours", port=0, rest_api_port=0, max_pixels=123)
    server = options.server(LogOptions())
    try:
        assert server.source.names() == ["colours"]
    finally:
        server.stop()
