"""`tfx-vision model`: the network, its table, and the messages for invalid configurations."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.cli import network_table
from pipeline.cli.app import app
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.preview import network_summary

TINY = ["model.blocks=[[2],[3]]", "task.dense_units=4"]


def loaded(*overrides, data=None, name="images"):
    return loading.load(name, data=data and str(data), overrides=overrides, needs_data=False)


def shown(inspection, width=80, expand=False):
    out = io.StringIO()
    network_table.show(Console(file=out, width=width), inspection, expand=expand)
    return out.getvalue()


# --- Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digts"], "Did you mean `digits`?"),
        (["digits", "--set", "model.convolutoin=separable"], "Did you mean `convolution`?"),
        (["digits", "--set", "model.convolution=seperable"], "must be one of standard, separable, mobilenet"),
        (["digits", "--set", 'model.downsampling=["max"]'], "downsampling has 1 values and blocks has 3"),
        (["digits", "--set", "model.name=vgg"], "Unknown model 'vgg'"),
        (["digits", "--set", "model.name=transfer", "--set", "model.backbone=vgg16"], "unknown backbone `vgg16`"),
        (["digits", "--num-classes", "1"], "--num-classes"),
        (["digits", "--depth", "2"], "No such option"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_invalid_names_have_one_message(arguments, words):
    done = CliRunner().invoke(app, ["model", *arguments])
    assert done.exit_code == 2 and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_missing_saved_model_has_one_message(tmp_path):
    overrides = ["model.name=transfer", "model.backbone=saved_model", "transform.normalization=backbone"]
    with pytest.raises(ConfigError, match=r"cannot be built: There is no SavedModel in 'nowhere'"):
        network_summary.inspect(loaded(*overrides, "model.weights=nowhere"))


# --- The number of classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "number", "origin"),
    [
        ("digits", [], 10, "data.source = digits"),
        ("digit_scenes", [], 11, "data.source = digit_scenes"),
        ("images", ['data.classes=["a", "b", "c"]'], 3, "data.classes"),
    ],
)
def test_the_number_of_classes_of_the_configuration(name, overrides, number, origin):
    num_classes = network_summary.count_classes(loaded(*overrides, name=name))
    assert num_classes == (number, origin, "")


def test_the_number_of_class_folders(class_folders):
    folder = class_folders({"a": 3, "b": 3, "c": 3})
    assert network_summary.count_classes(loaded(data=folder)) == (3, str(folder), "")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (None, "the configuration names no images"),
        ("gs://bucket/birds", "not on this machine"),
        ("/no/such/folder", "The data folder /no/such/folder does not exist"),
    ],
)
def test_ten_classes_are_assumed_with_a_note(data, problem):
    inspection = network_summary.inspect(loaded(*TINY, data=data))
    assert (inspection.num_classes.number, inspection.num_classes.origin) == (10, "assumed")
    assert problem in inspection.num_classes.problem
    assert f"note: 10 classes are assumed: {inspection.num_classes.problem}" in shown(inspection, 300)
    assert "note" not in shown(network_summary.inspect(loaded(*TINY, data=data), num_classes=3))


# --- Output -----------------------------------------------------------------------------------------------------


def test_the_command_prints_one_object_and_imports_no_tfx():
    code = (
        "import sys; from pipeline.cli import app\n"
        "sys.argv = ['tfx-vision', 'model', 'digits', '--num-classes', '7', '--json']\n"
        "try: app.main()\n"
        "except SystemExit as done: assert done.code in (0, None)\n"
        "assert not {'tfx', 'apache_beam', 'tensorflow_transform'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stderr == ""
    output = json.loads(done.stdout)
    assert (output["model"], output["task"], output["input_shape"]) == ("scratch_cnn", "classification", [16, 16, 1])
    assert (output["num_classes"], output["num_classes_from"], output["note"]) == (7, "--num-classes", None)
    assert output["parameters"] == sum(row["parameters"] for row in output["layers"])
    assert output["macs"] == sum(row["macs"] for row in output["layers"])
    assert output["feature_map"]["receptive_field"] == {"size": [24, 24], "stride": [4, 4]}
    (conv,) = [row for row in output["layers"] if row["name"] == "block1_conv2"]
    assert conv["output_shapes"] == [[16, 16, 32]] and conv["kernel"] == [3, 3] and conv["type"] == "Conv2D"
    assert output["layers"][-1]["output_shapes"] == [[7]]
    assert output["layers"][-1]["receptive_field"]["size"] is None


@pytest.fixture(scope="module")
def with_backbone():
    overrides = ["model.name=transfer", "transform.normalization=backbone", "transform.image_size=64"]
    return network_summary.inspect(loaded(*overrides), num_classes=4)


@pytest.mark.parametrize("width", [80, 140])
def test_every_layer_has_a_line(width):
    keys = ["model.convolution=mobilenet", "model.downsampling=stride", "transform.image_size=96"]
    inspection = network_summary.inspect(loaded(*keys), num_classes=1234)
    text = shown(inspection, width)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for row in inspection.architecture.layers:
        line = lines[row.name]
        assert len(line) <= width and "x".join(map(str, row.output_shapes[0])) in line
        assert (f"{row.parameters:,}" in line) if row.parameters else True
    assert "3x3 /2" in lines["block1_depthwise1"] and "/" not in lines["block1_pointwise1"]
    assert ("field" in text.split("Parameters")[0]) == (width == 140)
    assert f"{inspection.architecture.parameters:,}: {inspection.architecture.trainable_parameters:,} trainable" in text
    assert f"{inspection.architecture.macs:,} (" in text
    # A depthwise 3x3 at strides 1, 2, 4 and 8.
    assert "receptive field 31x31 pixels of 96x96, stride 8 pixels" in text


def test_a_backbone_is_one_line_or_all_of_them(with_backbone):
    summary, whole = shown(with_backbone), shown(with_backbone, expand=True)
    assert "155 layers" in summary and "2,257,984" in summary
    assert "block_5_expand" not in summary and "--expand shows the layers of backbone" in summary
    assert "block_5_expand" in whole and "--expand" not in whole
    assert len(whole.splitlines()) - len(summary.splitlines()) == 155 - 2


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (999, "999"), (1000, "1 k"), (55_021_952, "55 M"), (999_999, "1 M"), (1_700_167_680, "1.7 G")],
)
def test_large_numbers_are_short(number, text):
    assert network_table._short(number) == text
