"""The pages of the studio on recorded runs, without a browser and without a model server."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from components.data_audit import thumbnails as audit_thumbnails
from components.image_example_gen import corrections
from pipeline.studio import app as studio_app
from pipeline.studio import dataset, served_prediction, uploads
from pipeline.studio.options import StudioOptions
from trainer_module import features

ORIGIN = "http://127.0.0.1:8600"
HTML = {"accept": "text/html"}
# Nothing listens there.
NO_SERVER = "127.0.0.1:9"


@pytest.fixture(scope="module")
def shared_root(recorded_colors):
    """Two runs that tests only read: recording them takes longer than most tests."""
    return recorded_colors()


@pytest.fixture
def root(recorded_colors):
    """Two runs that a test may change."""
    return recorded_colors()


@pytest.fixture
def open_studio(request, shared_root):
    """Opens a studio, on runs of its own if the test has `root`."""
    default = request.getfixturevalue("root") if "root" in request.fixturenames else shared_root
    clients = []

    def open_one(**options):
        options = StudioOptions(root=options.pop("root", default), grpc=NO_SERVER, **options)
        client = TestClient(studio_app.create_app(options), base_url=ORIGIN, raise_server_exceptions=False)
        client.headers["origin"] = ORIGIN
        client.__enter__()
        clients.append(client)
        return client

    yield open_one
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(open_studio):
    return open_studio()


def page(client, path, status=200):
    response = client.get(path, headers=HTML)
    assert response.status_code == status, response.text[:2000]
    return response.text


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# === Runs ===


def test_pipelines_below_the_root_are_listed(client):
    text = text_of(page(client, "/"))
    assert "colors" in text and "refused by Evaluator" in text and "run 2" in text and "30" in text


def test_an_empty_root_says_how_to_begin(open_studio, tmp_path):
    assert "tfx-vision run images --data FOLDER" in page(open_studio(root=tmp_path), "/")


def test_a_damaged_history_does_not_hide_other_pipelines(open_studio, root):
    (root / "broken").mkdir()
    (root / "broken" / "metadata.sqlite").write_bytes(b"no database")
    text = text_of(page(open_studio(), "/"))
    assert "cannot be read" in text and "refused by Evaluator" in text


def test_a_pipeline_shows_runs_progress_and_curves(client):
    html = page(client, "/p/colors")
    text = text_of(html)
    assert "Run 2" in text and "Run 1" in text and "pushed" in text and "0.9000" in text and "0.7000" in text
    assert '<polyline class="curve curve-1"' in html
    assert page(client, "/p/colors/progress").count('<li class="complete">') == 7


def test_a_run_shows_verdict_metrics_and_gates(client):
    text = text_of(page(client, "/p/colors/runs/2"))
    assert "refused by Evaluator" in text and "it must be at least 0.8" in text and "brightness = dark" in text


def test_two_runs_are_compared(client):
    text = text_of(page(client, "/p/colors/compare?first=1&second=2"))
    assert "0.2000" in text and "worse" in text and "All examples" in text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/p/nothing", 404),
        ("/p/colors/runs/3", 500),
        ("/p/colors/compare?first=1", 400),
        ("/p/colors/images/31", 404),
        ("/p/colors/quarantine/9", 404),
        ("/p/colors?page=x", 400),
        ("/p/colors/runs/1/explanations/index.html", 404),
    ],
)
def test_what_does_not_exist_is_a_page_with_a_message(client, path, status):
    html = page(client, path, status)
    assert "<h1>" in html and "Traceback" not in html


def test_the_report_has_no_rights_of_the_studio(client):
    response = client.get("/p/colors/runs/1/report")
    assert "The report" in response.text
    policy = response.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    assert "script-src 'sha256-AAAA'" in policy and "connect-src" not in policy


def test_a_run_that_has_just_begun_has_pages(open_studio, recorder, tmp_path):
    from ml_metadata.proto import metadata_store_pb2

    (tmp_path / "new").mkdir()
    write = recorder(tmp_path / "new")
    client = open_studio(root=tmp_path)
    assert "No runs yet" in page(client, "/p/new")
    write.run("2026-01-01T10:00:00.5", ("ImageExampleGen", metadata_store_pb2.Execution.RUNNING, {}, {}))
    assert "interrupted" in page(client, "/p/new")
    for path in ("/", "/p/new/runs/1", "/p/new/try", "/p/new/data", "/p/new/images", "/p/new/map", "/p/new/correct"):
        page(client, path)


def test_a_live_run_is_recognised_by_its_lock(client, root):
    assert 'data-running="0"' in page(client, "/p/colors/progress")
    code = (
        f"import fcntl, sys; file = open({str(root / 'colors/.lock')!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print(1, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline()
        html = page(client, "/p/colors/progress")
        assert 'data-running="1"' in html and 'class="pending"' in html and "StatisticsGen" in html
    finally:
        process.communicate()
    assert 'data-running="0"' in page(client, "/p/colors/progress")


@pytest.fixture
def versions(root):
    base = root / "colors/serving/colors"
    for version in (100, 200):
        (base / str(version)).mkdir(parents=True)
        (base / str(version) / "saved_model.pb").touch()
    return base


def test_a_rollback_is_confirmed_first(client, versions):
    html = page(client, "/p/colors/rollback?to=100")
    assert "Versions 200" in text_of(html) or "Version 200" in text_of(html)
    assert sorted(path.name for path in versions.iterdir()) == ["100", "200"]
    form = {"to": "100", "newest": "200"}
    assert client.post("/p/colors/rollback", data=form, follow_redirects=False).status_code == 303
    assert sorted(path.name for path in versions.iterdir()) == ["100", "withdrawn-200"]
    assert "withdrawn" in page(client, "/p/colors")


def test_a_rollback_of_another_state_than_the_confirmed_one_is_refused(client, versions):
    page(client, "/p/colors/rollback?to=100")
    (versions / "300").mkdir()
    (versions / "300" / "saved_model.pb").touch()
    response = client.post("/p/colors/rollback", data={"to": "100", "newest": "200"})
    assert response.status_code == 409 and "Nothing was changed" in response.text
    assert sorted(path.name for path in versions.iterdir()) == ["100", "200", "300"]


# === Protection ===


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::"])
def test_other_hosts_are_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8600", "127.0.0.1:9999", "[::1]:8600"])
def test_this_machine_may_have_any_port(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:8601", "http://127.0.0.1:8600.evil.example", "file://"],
)
def test_writing_requests_of_other_pages_are_refused(client, versions, origin):
    for path in (
        "/p/colors/rollback",
        "/p/colors/correct/decide",
        "/p/colors/predict?version=1",
        "/p/colors/map/start",
    ):
        assert client.post(path, headers={"origin": origin}, data={"to": "100", "newest": "200"}).status_code == 403
    assert sorted(path.name for path in versions.iterdir()) == ["100", "200"]


def test_every_response_has_a_strict_policy(client):
    for path in ("/", "/p/colors", "/p/colors/data", "/static/try.js", "/nothing", "/p/colors/images/1/file"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


PAGES = [
    "/", "/p/colors", "/p/colors/runs/1", "/p/colors/compare?first=1&second=2", "/p/colors/try", "/p/colors/data",
    "/p/colors/images", "/p/colors/images/1", "/p/colors/map", "/p/colors/correct", "/p/nothing",
]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_no_inline_code_and_load_nothing_from_elsewhere(client, path):
    html = client.get(path, headers=HTML).text
    assert not re.search(r"<script(?![^>]*\ssrc=\"/static/)", html)
    assert not re.search(r"\sstyle=|\son[a-z]+=\"|<style", html)
    assert not re.search(r"(?:src|href|action)=\"(?!/|#)", html)
    assert "{{" not in html and "Undefined" not in html


def test_scripts_are_small_and_name_no_other_host(client):
    folder = Path(studio_app.__file__).parent / "static"
    size = sum(path.stat().st_size for path in folder.glob("*.js"))
    assert size + len(client.get("/static/sorting.js").content) < 300_000
    for path in folder.iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text()), path


def test_names_of_files_are_escaped(client):
    for path in ("/p/colors/data", "/p/colors/images/1", "/p/colors/images", "/p/colors/correct"):
        html = page(client, path)
        assert "<img src=x" not in html and "<b>much" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in page(client, "/p/colors/images/1")


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "../app.py", "%2e%2e/%2e%2e/options.py", "..\\app.py"])
def test_static_files_are_those_of_one_folder(client, path):
    assert client.get(f"/static/{path}").status_code == 404


def test_quarantined_files_outside_of_the_data_folder_are_not_sent(client):
    assert client.get("/p/colors/quarantine/2").headers["content-type"] == "image/png"
    assert client.get("/p/colors/quarantine/1").status_code == 415
    assert client.get("/p/colors/quarantine/3").status_code == 404


def test_large_requests_are_refused(open_studio):
    client = open_studio(max_upload_bytes=1000)
    assert client.post("/p/colors/predict?version=1", content=b"x" * 1001).status_code == 413
    assert client.post("/p/colors/predict?version=1", content=iter([b"x" * 600, b"x" * 600])).status_code == 413


def test_a_token_is_required_everywhere(open_studio):
    client = open_studio(token="0123456789abcdef")
    for path in [*PAGES, "/p/colors/images/1/file"]:
        assert client.get(path, headers=HTML, follow_redirects=False).headers["location"] == "/login"
        assert client.get(path).status_code == 401
    assert client.post("/p/colors/correct/undo").status_code == 401
    assert client.get("/", headers={"authorization": "Bearer 0123456789abcdef"}).status_code == 200
    assert client.get("/", headers={"authorization": "Bearer 0123456789abcdee"}).status_code == 401


def test_a_login_lasts(open_studio):
    client = open_studio(token="0123456789abcdef")
    assert client.post("/login", data={"token": "wrong"}).status_code == 403
    response = client.post("/login", data={"token": "0123456789abcdef"}, follow_redirects=False)
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and "0123456789abcdef" not in cookie
    assert client.get("/", headers=HTML).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [({"host": "0.0.0.0"}, "--token-file"), ({"token": "short"}, "at least 16"), ({"host": "::"}, "--token-file")],
)
def test_other_machines_need_a_token(options, message):
    with pytest.raises(ValueError, match=message):
        StudioOptions(**options)


# === Try ===


def test_try_without_a_server_says_how_to_start_one(client, shared_root):
    text = text_of(page(client, "/p/colors/try"))
    assert "does not respond" in text and f"--model-base-path {shared_root}/colors/serving/colors" in text


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"GIF89a"])
def test_what_is_not_an_image_is_refused_before_the_server_is_asked(client, content):
    response = client.post("/p/colors/predict?version=1", content=content)
    assert response.status_code == 415 and "image" in response.json()["error"]


def deep(format_, highest=4095):
    """A ramp of 12 bits in a file of 16."""
    buffer = io.BytesIO()
    ramp = np.linspace(0, highest, 64 * 48).reshape(48, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_sixteen_bits_reach_the_model(format_):
    prepared = uploads.prepare(deep(format_), 10_000)
    assert prepared.startswith(b"\x89PNG") and prepared[24] == 16
    assert np.asarray(Image.open(io.BytesIO(prepared))).max() == 4095


def test_sixteen_bits_are_shown_as_the_model_reads_them(client, root, monkeypatch):
    answer = served_prediction.ServedPrediction({"method": "predict", "version": 1}, None)
    monkeypatch.setattr(served_prediction, "request", lambda *arguments: answer._replace(view=dict(answer.view)))

    def shown(content):
        response = client.post("/p/colors/predict?version=1", content=content)
        assert response.status_code == 200, response.text
        image = response.json().get("image")
        return image and np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))

    # Without images of 16 bits in the dataset, all values are used.
    assert shown(deep("PNG"))[..., 0].max() == 4095 >> 8
    quarantine = next((root / "colors").rglob("summary.json"))
    summary = json.loads(quarantine.read_text()) | {"window": [0, 4095]}
    quarantine.write_text(json.dumps(summary))
    assert shown(deep("PNG")).shape == (48, 64, 3)
    assert (shown(deep("PNG"))[0, 0].tolist(), shown(deep("PNG"))[-1, -1].tolist()) == ([0] * 3, [255] * 3)
    assert shown(deep("TIFF"))[-1, -1].tolist() == [255] * 3
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    assert shown(buffer.getvalue()) is None  # the browser has it


def test_thumbnails_of_sixteen_bits_are_not_clipped():
    for format_ in ("PNG", "TIFF"):
        small = np.asarray(Image.open(io.BytesIO(audit_thumbnails.shrink(deep(format_, 65535)))).convert("L"))
        assert 100 < small.mean() < 150


def test_an_image_with_too_many_pixels_is_refused(open_studio):
    buffer = io.BytesIO()
    Image.new("1", (2000, 2000)).save(buffer, "PNG")
    response = open_studio(max_pixels=1_000_000).post("/p/colors/predict?version=1", content=buffer.getvalue())
    assert response.status_code == 415 and "2000 x 2000 pixels" in response.json()["error"]


def test_a_server_that_does_not_respond_is_a_message(client):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    response = client.post("/p/colors/predict?version=1", content=buffer.getvalue())
    assert response.status_code == 502 and response.json()["error"]


# === Data ===


def test_the_dataset_is_counted(client):
    text = text_of(page(client, "/p/colors/data"))
    for words in ("train", "18", "20 to 24", "PNG 18", "1 in several splits (leakage)", "dark", "label issue"):
        assert words in text
    assert "cannot be decoded" in text and "broken.png" in text and "differs &lt;b&gt;much" in text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 30), ("split=test", 6), ("class=red", 10), ("class=red&split=test", 2), ("slice=brightness=dark", 15),
        ("suspect=any", 3), ("suspect=outlier", 1), ("format=PNG", 30), ("format=GIF", 0),
        ("text=blue/", 9), ("text=%25", 0), ("class=nothing", 0),
    ],
)  # fmt: skip
def test_images_are_filtered(client, query, count):
    images = client.get(f"/p/colors/images/list?{query}").json()["images"]
    assert len(images) == count
    assert f"{count} image" in text_of(page(client, f"/p/colors/images?{query}"))


def test_every_link_of_the_dataset_leads_to_its_images(client):
    html = page(client, "/p/colors/data")
    links = set(re.findall(r'href="(/p/colors/images[^"]*)"', html))
    assert len(links) > 20
    for link in links:
        page(client, link.replace("&amp;", "&"))


def test_differences_link_to_their_images(client):
    html = page(client, "/p/colors/data")
    for query in ("split=test&amp;class=red", "split=test&amp;format=PNG", "split=test"):
        assert f'href="/p/colors/images?{query}"' in html
    for sort in ("image%2Fmean%2Fluma", "-image%2Fmean%2Fluma"):
        assert f'href="/p/colors/images?split=test&amp;sort={sort}"' in html


def test_images_are_sorted_by_a_number(client):
    def ids(sort):
        images = client.get(f"/p/colors/images/list?split=test&sort={sort}").json()["images"]
        return [image["id"] for image in images]

    # Of the recorded images, a later one is darker.
    assert ids("-image/mean/luma") == ids("") == list(range(25, 31))
    assert ids("image/mean/luma") == list(range(30, 24, -1))
    html = page(client, "/p/colors/images?split=test&sort=image/mean/luma")
    assert '<option value="image/mean/luma" selected>' in html


def test_lists_are_sent_in_parts(client):
    first = client.get("/p/colors/images/list?limit=7").json()["images"]
    rest = client.get("/p/colors/images/list?offset=7&limit=500").json()["images"]
    assert [image["id"] for image in first + rest] == list(range(1, 31))


def test_images_are_sent_as_they_are(client):
    stored = client.get("/p/colors/images/5/file")
    assert stored.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(stored.content)) as image:
        assert image.size == (24, 24)
    with Image.open(io.BytesIO(client.get("/p/colors/images/5/thumbnail").content)) as image:
        assert image.size == (24, 24)
    assert client.get("/p/colors/images/5/other").status_code == 404


def test_suspects_come_in_the_order_of_their_score(client):
    images = client.get("/p/colors/images/list?suspect=any").json()["images"]
    assert [image["id"] for image in images] == [1, 2, 3]


def test_a_new_run_has_a_new_catalog(client, root):
    page(client, "/p/colors/data")
    assert len(list((root / "colors/studio").glob("catalog-*.sqlite"))) == 1


def test_masks_and_boxes_are_drawn_from_their_examples():
    from serving.local_server.protos import example_pb2

    mask = example_pb2.Example()
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).save(buffer, "PNG")
    mask.features.feature[features.MASK_ENCODED].bytes_list.value.append(buffer.getvalue())
    label = dataset.label_values(mask.features.feature)
    assert dataset.label_array(label, ("a", "b")).tolist() == [[0, 1], [1, 1]]
    boxes = example_pb2.Example()
    for key, value in zip(features.BOX_CORNERS, (0.1, 0.2, 0.5, 0.6), strict=True):
        boxes.features.feature[key].float_list.value.extend([value, value])
    boxes.features.feature[features.BOX_CLASSES].bytes_list.value.extend([b"b", b"unknown"])
    boxes.features.feature[features.BOX_DIFFICULT].int64_list.value.extend([0, 1])
    array = dataset.label_array(dataset.label_values(boxes.features.feature), ("a", "b"))
    np.testing.assert_allclose(array[:, :4], [[0.1, 0.2, 0.5, 0.6]] * 2)
    assert array[:, 4:].tolist() == [[1.0, 0.0], [-2.0, 1.0]]
    empty = example_pb2.Example()
    for key in (*features.BOX_CORNERS, features.BOX_CLASSES):
        empty.features.feature[key].SetInParent()
    assert dataset.label_array(dataset.label_values(empty.features.feature), ("a", "b")).shape == (0, 6)
    assert dataset.label_array(dataset.label_values({}), ("a", "b")) is None


# === Correct ===


def decide(client, key, action, new_label="", **more):
    return client.post("/p/colors/correct/decide", json={"key": key, "action": action, "new_label": new_label, **more})


def read_corrections(root):
    return corrections.read(str(root / "colors/studio/corrections.csv"))


def test_the_queue_joins_the_reasons_of_an_image(client):
    queue = client.get("/p/colors/correct/queue").json()
    assert [(item["filename"], item["reason"], item["proposed"]) for item in queue["items"]] == [
        ("<img src=x onerror=alert(1)>.png", "label issue", "red"),
        ("green/1.png", "label issue, outlier", "blue"),
        ("red/2.png", "near duplicate", ""),
    ]
    assert queue["progress"] == {
        "total": 3,
        "decided": 0,
        "labelled": 0,
        "actions": {"relabel": 0, "drop": 0, "keep": 0},
    }


def test_decisions_become_corrections_that_a_run_reads(client, root):
    assert decide(client, "dataset/<img src=x onerror=alert(1)>.png", "relabel", "red").status_code == 200
    assert decide(client, "dataset/green/1.png", "keep").status_code == 200
    progress = decide(client, "dataset/red/2.png", "drop").json()["progress"]
    assert progress == {"total": 3, "decided": 3, "labelled": 0, "actions": {"relabel": 1, "drop": 1, "keep": 1}}
    decisions = read_corrections(root)
    assert {name: (entry.action, entry.label) for name, entry in decisions.items()} == {
        "<img src=x onerror=alert(1)>.png": ("relabel", "red"),
        "green/1.png": ("keep", ""),
        "red/2.png": ("drop", ""),
    }
    sent = client.get("/p/colors/correct/corrections.csv")
    assert sent.headers["content-disposition"].startswith("attachment")
    assert next(csv.reader(io.StringIO(sent.text))) == [
        "filename",
        "label",
        "reason",
        "score",
        "proposed_label",
        "action",
    ]


def test_undo_restores_the_decision_before(client, root):
    decide(client, "dataset/green/1.png", "keep")
    decide(client, "dataset/green/1.png", "drop")
    undone = client.post("/p/colors/correct/undo").json()
    assert undone["key"] == "dataset/green/1.png" and undone["decision"] == {"action": "keep", "new_label": ""}
    assert read_corrections(root)["green/1.png"].action == "keep"
    client.post("/p/colors/correct/undo")
    assert client.post("/p/colors/correct/undo").json()["key"] is None
    assert read_corrections(root) == {}


def test_any_image_can_be_corrected_from_its_page(client, root):
    row = client.get("/p/colors/correct/queue?image=12").json()["items"][0]
    assert row["filename"] == "red/11.png" and row["reason"] == "chosen by hand"
    assert decide(client, "dataset/red/11.png", "relabel", "green").status_code == 404
    assert decide(client, "dataset/red/11.png", "relabel", "green", image=12).status_code == 200
    assert read_corrections(root)["red/11.png"].label == "green"


@pytest.mark.parametrize(
    ("action", "label", "words"),
    [
        ("relabel", "", "requires a class"),
        ("relabel", "rde", "Did you mean `red`?"),
        ("relabel", "red|green", "has one class"),
        ("delete", "", "Unknown action"),
    ],
)
def test_impossible_decisions_change_nothing(client, root, action, label, words):
    response = decide(client, "dataset/green/1.png", action, label)
    assert response.status_code == 422 and words in response.json()["error"]
    assert not (root / "colors/studio/corrections.csv").exists()


def test_decisions_survive_the_end_of_the_process(open_studio, root):
    first = open_studio()
    decide(first, "dataset/green/1.png", "keep")
    journal = root / "colors/studio/corrections.jsonl"
    first.__exit__(None, None, None)
    # The process ended while it wrote the next decision, which nobody has a response for.
    with journal.open("ab") as file:
        file.write(b'{"kind": "decision", "key": "dataset/red/2.p')
    second = open_studio()
    queue = second.get("/p/colors/correct/queue").json()
    assert [item["decision"] for item in queue["items"]] == [None, {"action": "keep", "new_label": ""}, None]
    decide(second, "dataset/red/2.png", "drop")
    assert [json.loads(line)["filename"] for line in journal.read_text().splitlines()] == ["green/1.png", "red/2.png"]
    assert set(read_corrections(root)) == {"green/1.png", "red/2.png"}


def test_a_second_studio_does_not_write_the_same_journal(open_studio, client):
    page(client, "/p/colors/correct")
    other = open_studio()
    assert "in use by another studio" in page(other, "/p/colors/correct", 500)
    assert decide(other, "dataset/green/1.png", "keep").status_code == 500


def test_earlier_corrections_are_kept(recorded_colors, open_studio):
    from pipeline.config import loading

    root = recorded_colors()
    earlier = root / "earlier.csv"
    earlier.write_text("filename,label,action\nblue/3.png,green,relabel\nred/2.png,,keep\n")
    config = loading.load(
        "images",
        overrides=[f"pipeline.root={root}", "pipeline.name=colors", f"data.corrections={earlier}"],
        needs_data=False,
    )
    client = open_studio(root=None, configs=(config,))
    decide(client, "dataset/red/2.png", "drop")
    decisions = read_corrections(root)
    assert {name: (entry.action, entry.label) for name, entry in decisions.items()} == {
        "blue/3.png": ("relabel", "green"),
        "red/2.png": ("drop", ""),
    }


def test_without_an_audit_the_page_says_how_to_get_one(recorded_colors, open_studio):
    client = open_studio(root=recorded_colors(audit=False))
    assert "audit.enabled=true" in page(client, "/p/colors/correct")
    assert "audit.enabled=true" in page(client, "/p/colors/data")
