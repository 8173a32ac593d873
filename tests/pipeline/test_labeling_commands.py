"""`tfx-vision select` and `label`: from images without labels to the next span."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.image_example_gen.dataset import inspect_dataset
from pipeline.cli.app import app
from pipeline.continuous import shadow
from pipeline.labeling import feedback, predictors
from pipeline.labeling.formats import cvat, label_studio, table
from serving import tfrecord
from serving.local_server.protos import prediction_log_pb2
from serving.request_log import reader
from trainer_module import tasks


class MeanColors:
    """Stands in for a model: red images are `red`, blue ones `blue`, and it is uncertain about purple ones."""

    description, key, classes = "colours, version 3", "colours-3", ("blue", "red")

    images = 0  # number of images that were judged

    def outputs(self, wanted, encoded):
        """Returns embeddings, probabilities and labels by mean colours."""
        self.images += len(encoded)
        images = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float) for content in encoded]
        means = np.array([image.mean(axis=(0, 1)) for image in images])
        red = means[:, 0] / (means[:, 0] + means[:, 2])
        probabilities = np.stack([1.0 - red, red], axis=1)
        labels = np.array([[b"blue", b"red"][index] for index in probabilities.argmax(axis=1)], object)
        values = {"embedding": means.astype(np.float32), "probabilities": probabilities, "label": labels}
        return {name: values[name] for names in wanted.values() for name in names}


def save(path, rng, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.array(color) + rng.normal(0, 25, (16, 16, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def project(tmp_path, rng, monkeypatch):
    """A dataset of red and blue images, and a folder of new ones, most of them certain."""
    for index in range(12):
        save(tmp_path / "data" / "day-1" / "red" / f"{index}.png", rng, (200, 30, 30))
        save(tmp_path / "data" / "day-1" / "blue" / f"{index}.png", rng, (30, 30, 200))
        save(tmp_path / "new" / f"certain-{index}.png", rng, (200, 30, 30))
    for index in range(4):
        save(tmp_path / "new" / "deep" / f"purple-{index}.png", rng, (110, 30, 110))
    (tmp_path / "new" / "copy.png").write_bytes((tmp_path / "data" / "day-1" / "red" / "0.png").read_bytes())
    (tmp_path / "new" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model = MeanColors()
    monkeypatch.setattr(predictors, "pushed", lambda config: model)

    def run(command, *arguments):
        settings = ["--data", f"{tmp_path}/data/day-{{SPAN}}", "--set", f"pipeline.root={tmp_path / 'runs'}"]
        settings += ["--set", "data.spans=all", "--set", "serving.model_name=colours"]
        options = [command, "images", *settings, *map(str, arguments)]
        return CliRunner().invoke(app, options)

    run.root, run.model = tmp_path, model
    return run


def test_from_candidates_to_the_next_span(project, capfd):
    root, output = project.root, project.root / "selected"
    done = project("select", "--from", root / "new", "--num", 4, "--output-dir", output, "--novel-share", 0, "--json")
    assert done.exit_code == 0, done.output
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert sorted(image["filename"] for image in result["images"]) == [f"images/purple-{n}.png" for n in range(4)]
    assert (result["candidates"], result["known"], result["labelled"]) == (17, 1, 24)
    assert [entry["name"] for entry in result["unusable"]] == ["damaged.png"] and "damaged.png" in captured.err
    assert all(image["source"] == f"{root}/new/deep/{image['filename'][7:]}" for image in result["images"])
    assert set(result["files"]) == {
        *(table.TABLE_FILE, label_studio.TASKS_FILE, label_studio.CONFIG_FILE),
        *(cvat.ANNOTATIONS_FILE, cvat.LABELS_FILE),
    }
    # A second selection does not embed the labelled images again.
    before = project.model.images
    project("select", "--from", root / "new", "--num", 1, "--output-dir", root / "again")
    assert project.model.images - before == 17 + 1

    capfd.readouterr()

    # Proposals alone are not labels.
    refused = project("label", output / table.TABLE_FILE)
    assert refused.exit_code == 2 and "no images with confirmed labels" in refused.output
    rows = list(csv.DictReader((output / table.TABLE_FILE).read_text().splitlines()))
    with (output / "labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": "blue" if number else ""} for number, row in enumerate(rows))
    done = project("label", output / "labelled.csv", "--json")
    assert done.exit_code == 0, done.output
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert (result["span"], result["images"], len(result["skipped"])) == (2, 3, 1) and "no label" in captured.err
    dataset = inspect_dataset(f"{root}/data/day-{{SPAN}}", project_options())
    assert sum("day-2/" in entry.path and entry.classes == ("blue",) for entry in dataset.entries) == 3


def project_options():
    from components.image_example_gen.options import DataOptions

    return DataOptions(spans="all")


def logged(content, request_id, time, model="colours"):
    """A record of a request with one image."""
    record = prediction_log_pb2.PredictionLog()
    record.log_metadata.request_origin = request_id
    record.log_metadata.timestamp_secs = time
    request = record.predict_log.request
    request.model_spec.name = model
    request.inputs["image_bytes"].dtype = 7  # DT_STRING
    request.inputs["image_bytes"].string_val.append(content)
    request.inputs["image_bytes"].tensor_shape.dim.add(size=1)
    return tfrecord.frame(record.SerializeToString())


@pytest.fixture
def log(project):
    """A request log with the new images, the first one twice, and an image for another model; the prefix."""
    prefix = project.root / "requests" / "colours"
    prefix.parent.mkdir()
    files = sorted((project.root / "new").rglob("*.png"))
    contents = [path.read_bytes() for path in (files[0], *files)]
    records = [logged(content, f"r-{number}", 1000 + number) for number, content in enumerate(contents)]
    other = io.BytesIO()
    Image.new("RGB", (16, 16), (120, 120, 120)).save(other, "PNG")
    records.append(logged(other.getvalue(), "r-1", 1500, "shapes"))  # a client may use an id twice
    name = f"{prefix.name}-20260101T000000000000Z-host-1-0123abcd-000001"
    (prefix.parent / f"{name}.tfrecord").write_bytes(b"".join(records))
    entry = {"time": 2000.0, "model": "colours", "request_id": "r-1", "index": 0, "label": "red"}
    wrong = {"time": 2000.0, "model": "colours", "request_id": "r-2", "index": 0, "label": 3}
    (prefix.parent / f"{name}.feedback.jsonl").write_text(f"{json.dumps(entry)}\n{json.dumps(wrong)}\n")
    return prefix


def test_images_of_a_log_keep_their_request(project, log, capfd):
    output = project.root / "selected"
    done = project("select", "--from", log, "--num", 4, "--output-dir", output, "--novel-share", 0, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(capfd.readouterr().out)
    assert (result["candidates"], result["repeated"], result["known"]) == (18, 1, 1)
    assert {image["source"] for image in result["images"]} == {"request log"}
    assert all(image["request_id"].startswith("r-") for image in result["images"])
    empty = project("select", "--from", log, "--num", 4, "--output-dir", project.root / "late", "--days", 1)
    assert empty.exit_code == 2 and "contains no images for the model colours in this time" in empty.output


def test_images_of_other_models_in_a_log_are_not_selected(project, log, capfd):
    arguments = ["--from", log, "--num", 40, "--novel-share", 1, "--json"]
    done = project("select", *arguments, "--output-dir", project.root / "colours")
    assert done.exit_code == 0, done.output
    assert json.loads(capfd.readouterr().out)["candidates"] == 18
    done = project("select", *arguments, "--output-dir", project.root / "shapes", "--set", "serving.model_name=shapes")
    assert done.exit_code == 0, done.output
    (image,) = json.loads(capfd.readouterr().out)["images"]
    assert image["request_id"] == "r-1"
    done = project("select", *arguments, "--output-dir", project.root / "dots", "--set", "serving.model_name=dots")
    assert done.exit_code == 2 and "for the model dots, only requests to colours, shapes" in done.output


def test_feedback_is_a_confirmed_label_of_its_image(log):
    read_label = tasks.get("classification").labeling.from_feedback
    labelled = feedback.confirmed(log, "colours", read_label)
    (image,) = labelled.images
    assert (image.request_id, image.confirmed_by, image.label) == ("r-1", "feedback", {"image/class/text": ["red"]})
    assert labelled.problems == (("r-2", "it is not a class name"),)
    # Labels of one model are not labels of another one that is served beside it.
    assert feedback.confirmed(log, "shapes", read_label) == ((), ())


def test_feedback_is_read_again_when_there_is_more(log, monkeypatch):
    opened = []
    read = reader._open
    monkeypatch.setattr(reader, "_open", lambda path: (opened.append(path.suffix), read(path))[1])
    new = feedback.NewFeedback(log, "colours", tasks.get("classification").labeling.from_feedback)
    assert len(new.read().images) == 1
    del opened[:]
    assert new.read() is None and opened == []
    # Another file of requests has no feedback: it alone is read.
    requests, entries = sorted(log.parent.iterdir(), key=lambda path: path.suffix, reverse=True)
    later = requests.with_name(requests.name.replace("000001", "000002"))
    later.write_bytes(logged(b"", "r-30", 1030))
    assert new.read() is None and sorted(opened) == [".jsonl", ".tfrecord"]
    # Feedback about an image of the first file.
    entry = {"time": 3000.0, "model": "colours", "request_id": "r-3", "index": 0, "label": "blue"}
    entries.with_name(entries.name.replace("000001", "000002")).write_text(f"{json.dumps(entry)}\n")
    assert len(new.read().images) == 2
    # Requests whose feedback came first.
    requests.with_name(requests.name.replace("000001", "000003")).write_bytes(requests.read_bytes())
    assert len(new.read().images) == 2
    assert new.read() is None


def test_the_shadow_comparison_reads_different_images_of_its_model(log):
    read_label = tasks.get("classification").labeling.from_feedback
    newest = shadow.newest_images(log, "colours", read_label, 5)
    assert [image.request_id for image in newest] == [f"r-{number}" for number in range(14, 19)]
    assert all(image.label is None for image in newest)
    every = shadow.newest_images(log, "colours", read_label, 500)
    assert len(every) == len({image.encoded for image in every}) == 18  # the first one was sent twice
    assert [image.label for image in every if image.label] == [{"image/class/text": ["red"]}]
    assert [image.request_id for image in shadow.newest_images(log, "shapes", read_label, 5)] == ["r-1"]
    assert shadow.newest_images(log, "dots", read_label, 5) == []


def test_a_span_that_is_trained_on_alone_is_noted(project, capfd):
    labels = project.root / "new" / "labels.csv"
    labels.write_text("filename,label\ncertain-0.png,red\n")
    done = CliRunner().invoke(
        app,
        ["label", "images", str(labels), "--data", f"{project.root}/data/day-{{SPAN}}", "--set",
         f"pipeline.root={project.root / 'runs'}"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "trains on span 2 alone" in capfd.readouterr().err.replace("\n", " ")


def test_what_cannot_be_selected_from_is_explained(project):
    root = project.root
    arguments = ["--num", 1, "--output-dir", root / "out"]
    refused = project("select", "--from", root / "absent", *arguments)
    assert refused.exit_code == 2 and "neither a folder of images nor the prefix" in refused.output
    (root / "empty").mkdir()
    assert "contains no images" in project("select", "--from", root / "empty", *arguments).output
    (root / "out").mkdir()
    (root / "out" / "mine.txt").write_text("keep")
    refused = project("select", "--from", root / "new", *arguments)
    assert refused.exit_code == 2 and "not an empty folder" in refused.output


def test_a_model_is_required(tmp_path, class_folders):
    folder = class_folders({"cat": 3, "dog": 3})
    done = CliRunner().invoke(
        app,
        ["select", "images", "--data", str(folder), "--from", str(folder), "--num", "1", "--output-dir",
         str(tmp_path / "out"), "--set", f"pipeline.root={tmp_path}"],
    )  # fmt: skip
    assert done.exit_code == 2 and "has no pushed version" in done.output


def test_files_that_are_not_annotations_are_refused(project):
    (project.root / "notes.csv").write_text("x,y\n1,2\n")
    refused = project("label", project.root / "notes.csv")
    assert refused.exit_code == 2 and "Label Studio" in refused.output
    assert project("label", project.root / "absent.csv").exit_code == 2
    labels = project.root / "labels.csv"
    labels.write_text("filename,label\na.png,red\n")
    assert "--fill-class requires masks" in project("label", labels, "--fill-class", "red").output
