"""The command line: one clear message and the right exit code, without importing TFX."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import machine_checks
from pipeline.cli.app import app
from pipeline.config import loading
from serving import client

HEAVY = ("tensorflow", "keras", "tfx", "apache_beam", "tensorflow_transform", "tensorflow_model_analysis")


@dataclass
class Done:
    """A command that has ended; the fields are those of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def tfx_vision(*arguments):
    """Runs the command in this process, which has imported everything already."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def process(*arguments):
    """Runs the command as a user does."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The root of commands that fail before the first node; the digits are written there once."""
    return f"pipeline.root={tmp_path_factory.mktemp('runs')}"


@pytest.fixture
def run_in(root):
    def run(*arguments):
        return tfx_vision("run", *arguments, "--set", root)

    return run


def assert_one_message(done, code, *words):
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\nerror:") == 0
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.epoch=3", ("Unknown key `epoch`", "Did you mean `epochs`?")),
        ("training.epochs=many", ("training.epochs", "valid integer")),
        ("training.epochs=-1", ("training.epochs", "greater than or equal to 1")),
        ("evaluation.slices=['brigtness']", ("unknown slice `brigtness`", "Did you mean `brightness`?")),
        (
            'evaluation.slice_thresholds.accuracy={"brightness, orientation"=0.5}',
            (
                "`brightness, orientation` is not an evaluated slice",
                "Evaluated slices: brightness, resolution, orientation",
            ),
        ),
        ("evaluation.class_thresholds.recall={9a=0.5}", ("evaluation.class_thresholds: unknown class `9a`",)),
        ("evaluation.label_groups={some=['9a']}", ("evaluation.label_groups.some: unknown class `9a`",)),
    ],
    ids=["key", "type", "range", "slice", "cross", "class", "class of a group"],
)
def test_an_invalid_configuration(run_in, override, words):
    assert_one_message(run_in("digits", "--set", override), 2, *words)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (None, ("does not exist", "data.path")),
        ({"a": 3, "b": 0}, ("no images of class `b`",)),
        ({"a": 3}, ("single class (a)",)),
        ({"a": 1, "b": 9}, ("only one image of class `a`",)),
    ],
    ids=["missing folder", "empty class", "single class", "one image in a class"],
)
def test_a_dataset_that_cannot_be_used(run_in, class_folders, tmp_path, counts, words):
    data = class_folders(counts) if counts is not None else tmp_path / "nowhere"
    assert_one_message(run_in("digits", "--data", data), 2, *words)


def test_an_unknown_node(run_in):
    assert_one_message(run_in("digits", "--to", "Trainr"), 2, "--to: unknown node `Trainr`", "Did you mean `Trainer`?")


def test_the_tuner_must_be_enabled(run_in):
    done = run_in("digits", "--to", "Tuner")
    assert_one_message(done, 2, "--to: Tuner is disabled", "tuner.enabled=true")


def test_nodes_in_the_wrong_order(run_in):
    done = run_in("digits", "--from", "GradCam", "--to", "Trainer")
    assert_one_message(done, 2, "--from GradCam is after --to Trainer")


def test_several_machines(run_in):
    done = run_in("digits", "--set", "training.distribution=multi_worker")
    assert_one_message(done, 2, "that a cluster starts on several machines", 'set "mirrored"')


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    done = tfx_vision("run", "digits", "--set", f"pipeline.root={tmp_path / 'file'}")
    assert_one_message(done, 1, "Not a directory", str(tmp_path / "file"))


def test_an_unknown_preset():
    assert_one_message(process("run", "digit"), 2, "Did you mean `digits`?")


def test_usage_errors_of_the_command_line():
    assert process("run").returncode == 2
    assert tfx_vision("run", "digits", "--no-such-option").returncode == 2
    assert tfx_vision("no-such-command").returncode == 2


def test_predict_without_a_server(tmp_path, make_image):
    image = tmp_path / "a.png"
    image.write_bytes(make_image())
    for option, address in (("--grpc", "127.0.0.1:9"), ("--rest", "http://127.0.0.1:9")):
        assert_one_message(tfx_vision("predict", image, option, address), 1, "UNAVAILABLE")
    assert_one_message(tfx_vision("predict", image, "--rest", "http://host:port"), 2, "http://host:port")
    assert_one_message(tfx_vision("predict", image, "--rest", "x", "--grpc", "y"), 2, "not both")
    assert_one_message(tfx_vision("predict", tmp_path / "missing.png"), 2, "missing.png", "No such file")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["digits", "cats"], "error: The server has several models: cats, digits. Give --model NAME.\n"),
        ([], "error: The server has no model. Give --model NAME.\n"),
        (None, "error: The server does not list its models. Give --model NAME.\n"),
    ],
    ids=["several", "none", "no listing"],
)
def test_the_model_must_be_named_unless_there_is_only_one(tmp_path, make_image, monkeypatch, names, message):
    def model_names(self):
        if names is None:
            raise client.UnimplementedError("UNIMPLEMENTED", "not listed")
        return names

    monkeypatch.setattr(client.Client, "model_names", model_names)
    image = tmp_path / "a.png"
    image.write_bytes(make_image())
    done = CliRunner().invoke(app, ["predict", str(image)])
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", message)


def test_every_image_has_its_own_mask(tmp_path, make_image, monkeypatch):
    class Server:
        def __init__(self, address, model_name, **options):
            pass

        def segment(self, images):
            return [client.Mask(b"mask %d" % number, (1, 2)) for number, _ in enumerate(images)]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(client, "GrpcClient", Server)
    images = [tmp_path / name for name in ("x/a.png", "y/a.png", "x/a-2.png", "y/a-2.jpg", "z/a.png")]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_image())
    masks = tmp_path / "masks"
    done = CliRunner().invoke(app, ["segment", *map(str, images), "--output-dir", str(masks), "--model=m", "--json"])
    assert done.exit_code == 0, done.output
    written = [row["mask"] for row in json.loads(done.stdout)["masks"]]
    assert written == [str(masks / name) for name in ("a.png", "a-2.png", "a-2-2.png", "a-2-3.png", "a-3.png")]
    assert [Path(path).read_bytes() for path in written] == [b"mask %d" % number for number in range(5)]


def test_serve_without_a_folder(tmp_path):
    done = tfx_vision("serve", "--model-base-path", tmp_path / "nowhere")
    assert_one_message(done, 2, "--model-base-path", "is not a folder")


def test_serve_requires_one_source_of_models_and_batching_for_its_parameters(tmp_path):
    assert_one_message(tfx_vision("serve"), 2, "--model-base-path", "--model-config-file")
    both = tfx_vision("serve", "--model-base-path", tmp_path, "--model-config-file", tmp_path / "models.config")
    assert_one_message(both, 2, "--model-base-path", "--model-config-file")
    file = tmp_path / "batching.config"
    alone = tfx_vision("serve", "--model-base-path", tmp_path, "--batching-parameters-file", file)
    assert_one_message(alone, 2, "--enable-batching")
    missing = process("serve", "--model-base-path", tmp_path, "--enable-batching", "--batching-parameters-file", file)
    assert_one_message(missing, 2, str(file), "No such file")


def test_augment_draws_a_sheet(tmp_path, class_folders, monkeypatch):
    data = class_folders({"a": 3, "b": 3})
    (data / "a" / "0.png").write_bytes(b"nothing")
    sheet = tmp_path / "sheet.png"
    monkeypatch.chdir(tmp_path)
    done = tfx_vision("augment", "images", "--data", data, "--output", sheet, "--num", 6)
    assert (done.returncode, done.stdout) == (0, f"{sheet}: 5 images, 7 samples of each\n")
    assert done.stderr == "skipped: a/0.png: not an image file\n"
    with Image.open(sheet) as image:
        assert image.width > 8 * 128 and image.height > 5 * 128
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "sheet.png"]


NO_AUGMENTATION = [f"--set=augmentation.{key}=0" for key in ("rotation", "zoom", "translation")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--output", "sheet.jpg"), ("--output", "must end with .png")),
        (("--output", "sheet.png", "--set", "augmentation.mixup=-1"), ("augmentation.mixup", "greater than")),
        (("--output", "sheet.png", "--data", "nowhere"), ("does not exist",)),
        (
            ("--output", "sheet.png", *NO_AUGMENTATION),
            ("[augmentation] sets nothing", "--set augmentation.rotation=0.05"),
        ),
        (("--output", "no/sheet.png"), ("--output", "folder no does not exist")),
    ],
    ids=["not an image file", "out of range", "missing folder", "no augmentation", "missing output folder"],
)
def test_augment_rejects_invalid_options(tmp_path, root, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_one_message(tfx_vision("augment", "digits", *arguments, "--set", root), 2, *words)


def test_report_prints_the_path_of_the_last_report(tmp_path):
    root = ("--set", f"pipeline.root={tmp_path}")
    done = tfx_vision("report", "digits", *root)
    assert_one_message(done, 1, f"{tmp_path}/digits/report.html does not exist", "ModelReport")
    for name in ("digits", "cats"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text("<!doctype html>")
    for arguments, name in (((), "digits"), (("--data", "/images/cats"), "cats")):
        done = tfx_vision("report", "digits", *arguments, *root)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path}/{name}/report.html\n")
        assert done.stderr.startswith("note: cannot determine the run of this report: ")
    # The path of the report does not depend on that of the images.
    assert_one_message(tfx_vision("report", "images", *root), 1, "images/report.html")
    assert_one_message(tfx_vision("report", "digit"), 2, "Did you mean `digits`?")
    assert_one_message(tfx_vision("report", "digits", "--set", "training.epoch=3"), 2, "Unknown key `epoch`")


def test_deploy_writes_files_once(tmp_path):
    done = tfx_vision("deploy", "digits", "--output", tmp_path / "out", "--set", "serving.model_name=cats")
    assert (done.returncode, done.stderr) == (0, "")
    files = [Path(line) for line in done.stdout.splitlines()]
    assert tmp_path / "out" / "compose.yaml" in files and all(path.is_file() for path in files)
    assert_one_message(tfx_vision("deploy", "digits", "--output", tmp_path / "out"), 2, "is not empty")
    assert_one_message(tfx_vision("deploy", "digit", "--output", tmp_path / "new"), 2, "Did you mean `digits`?")
    assert_one_message(tfx_vision("deploy", "digits", "--output", files[0]), 1, str(files[0]))


def test_presets_lists_all():
    presets = json.loads(tfx_vision("presets", "--json").stdout)["presets"]
    assert sorted(presets) == loading.preset_names()


STATEMENTS = (
    "from pipeline.cli import app",
    "import serving.client, serving.wire",
    "from pipeline.config import loading; loading.load('digits')",
    "from pipeline.execution import local_run; from components.image_example_gen import dataset",
    "from pipeline.preview import contact_sheet",
    "from pipeline.history import run_history; from pipeline.cli import history_tables",
    "import components; import trainer_module.options; import trainer_module.models.scratch_cnn",
)


@pytest.fixture(scope="module")
def heavy_imports():
    """Heavy modules after each statement. None is allowed after any, so that one process is enough for all."""
    checks = (f"{each}; print([name for name in {HEAVY!r} if name in sys.modules])" for each in STATEMENTS)
    code = "\n".join(["import sys", *checks])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(STATEMENTS, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_fast_commands_import_nothing_heavy(heavy_imports, statement):
    assert heavy_imports[statement] == "[]"


def test_help_does_not_load_the_configuration():
    heavy = "{'pydantic', 'numpy', 'pipeline.config'}"
    code = f"from pipeline.cli import app; import sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_doctor_accepts_this_environment():
    done = process("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0
    assert all(check["passed"] for check in checks.values())
    assert checks["tfx"]["detail"].startswith("1.21")
    assert "CPU:0" in checks["devices"]["detail"]


def test_doctor_names_what_does_not_load(monkeypatch):
    monkeypatch.setattr(machine_checks, "_COMPILED", ("json", "no_such_extension", "csv"))
    monkeypatch.setattr(machine_checks, "_DEVICES", "print('a device')")
    assert [(check.name, check.passed, check.detail) for check in machine_checks._checks_in_python()] == [
        ("import json", True, "loads"),
        ("import no_such_extension", False, "ModuleNotFoundError: No module named 'no_such_extension'"),
        ("import csv", True, "loads"),
        ("devices", True, "a device"),
    ]
