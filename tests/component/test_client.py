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
from serving import client as clients
from serving import similarity

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
    kind = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with kind(addresses[protocol], "colours", batch_size=5) as made:
        yield made


def test_it_is_ready(client, protocol):
    assert client.wait_until_ready(timeout_s=60) == (VERSION if protocol == "grpc" else None)
    assert client.status() == [(VERSION, "AVAILABLE")]


def test_what_the_model_can_be_asked(client):
    found = client.metadata()
    names = {"serving_default", "examples", "classify", "transform_features", "explain", "embed"}
    assert found.version == VERSION and names <= set(found.signatures)
    assert found.signatures["serving_default"].inputs == {"image_bytes": ("DT_STRING", (None,))}
    assert found.signatures["serving_default"].outputs["probabilities"] == ("DT_FLOAT", (None, 3))


def test_every_form_of_a_picture_has_the_same_answer(client, tiny_model, tmp_path):
    content = tiny_model.image_bytes[1]  # a PNG file, so that nothing is lost
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    image = Image.open(path)
    answers = client.predict([content, path, str(path), image, np.asarray(image)], top_k=3).or_raise()
    assert [answer.top for answer in answers] == [answers[0].top] * 5


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_bad_picture_harms_no_other(client, tiny_model, top_k):
    images = list(tiny_model.image_bytes)
    expected = client.predict(images, top_k).or_raise()
    cut_off = images[3][: len(images[3]) // 2]
    answers = client.predict([*images[:3], cut_off, b"", *images[3:], "no/such/file.png"], top_k)
    assert sorted(answers.errors) == [3, 4, 14]
    assert {error.code for error in answers.errors.values()} == {"INVALID_ARGUMENT"}
    good = [answer for answer in answers if not isinstance(answer, clients.ServerError)]
    assert [answer.label for answer in good] == [answer.label for answer in expected]
    np.testing.assert_allclose([answer.score for answer in good], [answer.score for answer in expected], rtol=1e-5)


def test_explanations_and_vectors(client, tiny_model):
    images = tiny_model.image_bytes[:7]
    labels = [answer.label for answer in client.predict(images).or_raise()]
    explanations = client.explain(images).or_raise()
    assert [tiny_model.options.classes[each.class_id] for each in explanations] == labels
    assert {each.label for each in explanations} <= {None, *labels}
    for each in explanations:
        assert each.heatmap.shape == (16, 16) and 0 <= each.heatmap.min() <= each.heatmap.max() <= 1
        assert Image.open(io.BytesIO(each.overlay_png)).format == "PNG"
    vectors = [each.vector for each in client.embed(images).or_raise()]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert similarity.most_similar(vectors[4], vectors, 1)[0].place == 4


def test_both_protocols_and_both_kinds_agree(addresses, tiny_model):
    async def ask(kind, address):
        async with kind(address, "colours", batch_size=5) as client:
            return await client.predict(tiny_model.image_bytes, 3), await client.embed(tiny_model.image_bytes[:2])

    found = []
    for kind, protocol in ((clients.GrpcClient, "grpc"), (clients.RestClient, "rest")):
        with kind(addresses[protocol], "colours") as client:
            found.append((client.predict(tiny_model.image_bytes, 3), client.embed(tiny_model.image_bytes[:2])))
    found.append(asyncio.run(ask(clients.AsyncGrpcClient, addresses["grpc"])))
    found.append(asyncio.run(ask(clients.AsyncRestClient, addresses["rest"])))
    for predictions, embeddings in found[1:]:
        assert [[label for label, _ in each.top] for each in predictions] == [
            [label for label, _ in each.top] for each in found[0][0]
        ]
        for ours, first in zip(embeddings, found[0][1], strict=True):
            np.testing.assert_allclose(ours.vector, first.vector, rtol=1e-4, atol=1e-6)


def test_a_model_of_classes_has_no_masks(client, tiny_model):
    with pytest.raises(clients.InvalidArgumentError, match="is it a model of masks"):
        client.segment(tiny_model.image_bytes[:1])


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"version": 7}, clients.NotFoundError, r"Specific\(colours, 7\)"),
        ({"label": "canary"}, clients.InvalidArgumentError, "Unrecognized servable version label: canary"),
    ],
)
def test_a_version_that_is_not_there(protocol, addresses, tiny_model, options, kind, words):
    make = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with make(addresses[protocol], "colours", **options) as client, pytest.raises(kind, match=words):
        client.predict(tiny_model.image_bytes)


def test_a_pinned_version_is_told_over_rest_too(protocol, addresses, tiny_model):
    make = clients.GrpcClient if protocol == "grpc" else clients.RestClient
    with make(addresses[protocol], "colours", version=VERSION) as client:
        assert client.predict(tiny_model.image_bytes[:1])[0].version == VERSION


# --- The commands -----------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tiny_model, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number, content in enumerate(tiny_model.image_bytes):
        suffix = "PNG" if number % 2 else "jpg"
        (folder / ("below" if number > 5 else "") / f"{number}.{suffix}").write_bytes(content)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def ask(protocol, addresses):
    def run(*arguments):
        server = [f"--{protocol}", addresses[protocol], "--model", "colours", "--batch-size", "3"]
        return CliRunner().invoke(app, [*map(str, arguments), *server])

    return run


def test_predict_answers_what_it_can(ask, pictures):
    bad = pictures / "bad.png"
    bad.write_bytes(b"no picture")
    good = [pictures / "0.jpg", pictures / "1.PNG"]
    done = ask("predict", good[0], bad, good[1], "--top-k", 2)
    assert done.exit_code == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [str(path) for path in good]
    assert len(done.stdout.splitlines()[0].split("  ")) == 3
    assert done.stderr.startswith(f"error: {bad}: INVALID_ARGUMENT: ") and done.stderr.count("\n") == 1
    done = ask("predict", good[0], bad, good[1], "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [row["image"] for row in found["predictions"]] == [str(path) for path in good]
    assert [row["image"] for row in found["errors"]] == [str(bad)]
    assert ask("predict", *good).exit_code == 0
    missing = ask("predict", good[0], pictures / "missing.png")
    assert (missing.exit_code, missing.stdout) == (2, "")


def test_explain_writes_overlays_and_heat_maps(ask, pictures, tmp_path, tiny_model):
    out = tmp_path / "out"
    done = ask("explain", pictures / "0.jpg", pictures / "1.PNG", "--output-dir", out, "--heatmaps")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["picture", "class", "score", "explanation"]
    assert [line.split()[-1] for line in lines[1:]] == [str(out / "0.png"), str(out / "1.png")]
    assert sorted(path.name for path in out.iterdir()) == ["0.npy", "0.png", "1.npy", "1.png"]
    heatmap = np.load(out / "0.npy")
    assert (heatmap.shape, heatmap.dtype) == ((16, 16), np.float32)
    assert (out / "1.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads(ask("explain", pictures / "0.jpg", "--output-dir", out, "--json").stdout)["explanations"]
    assert rows[0]["overlay"] == str(out / "0.png") and "heatmap" not in rows[0]
    assert tiny_model.options.classes[rows[0]["class_id"]] in (rows[0]["label"] or tiny_model.options.classes)


def test_an_explanation_does_not_replace_its_picture(ask, pictures):
    before = (pictures / "below" / "6.jpg").read_bytes()
    (pictures / "a.png").write_bytes(before)
    done = ask("explain", pictures / "a.png", "--output-dir", pictures)
    assert done.exit_code == 2 and "would be replaced by its own explanation" in done.stderr
    assert (pictures / "a.png").read_bytes() == before


def test_similar_finds_copies_first(ask, pictures):
    (pictures / "below" / "copy.png").write_bytes((pictures / "1.PNG").read_bytes())
    (pictures / "bad.png").write_bytes(b"no picture")
    done = ask("similar", pictures / "1.PNG", pictures, "--top-k", 3, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["searched"] == 12
    assert found["similar"][0] == {"image": str(pictures / "below" / "copy.png"), "similarity": pytest.approx(1.0)}
    similarities = [row["similarity"] for row in found["similar"]]
    assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
    assert [row["image"] for row in found["errors"]] == [str(pictures / "bad.png")]
    (pictures / "bad.png").unlink()
    done = ask("similar", pictures / "1.PNG", pictures, "--top-k", 2)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == f"1.000000  {pictures / 'below' / 'copy.png'}"
    assert len(done.stdout.splitlines()) == 2


def test_similar_to_what_is_no_picture(ask, pictures, tmp_path):
    done = ask("similar", pictures / "notes.txt", pictures)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "notes.txt: INVALID_ARGUMENT" in done.stderr
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((pictures / "1.PNG", tmp_path / "empty"), "holds no other picture"),
        ((pictures / "1.PNG", tmp_path / "missing"), "is not a folder"),
        ((pictures / "missing.png", pictures), "No such file"),
    ):
        done = ask("similar", *arguments)
        assert done.exit_code == 2 and words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", 7), "Specific(colours, 7)"),
        (("--label", "canary"), "Unrecognized servable version label: canary"),
    ],
)
def test_a_command_pins_a_version(ask, pictures, arguments, words):
    done = ask("predict", pictures / "1.PNG", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert words in done.stderr


def test_options_of_a_command_that_cannot_be_used(ask, pictures, tmp_path, protocol):
    token = tmp_path / "token"
    token.write_text("abc\n")
    assert ask("predict", pictures / "1.PNG", "--token-file", token).exit_code == 0
    token.write_text("two words")
    for arguments, words in (
        (("--version", 7, "--label", "x"), "not both"),
        (("--token-file", token), "line break"),
        (("--token-file", tmp_path / "missing"), "missing: No such file"),
        (("--cert-file", token), "go together"),
    ):
        done = ask("predict", pictures / "1.PNG", *arguments)
        assert done.exit_code == 2 and words in done.stderr, done.output
