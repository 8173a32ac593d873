"""The gate before Pusher: a good export passes, every planted fault is refused."""

import os
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.image_example_gen.artifact import ClassNames
from components.serving_validator import checks, executor, graph_operations, graph_walk
from components.serving_validator.artifact import ServingCheck, ServingCheckReport
from components.serving_validator.options import ServingLimits
from trainer_module import tasks


def validate(export_dir, tiny_model, model=None, options=None, **limits):
    return checks.check_export(
        str(export_dir),
        model or tiny_model.model,
        options or tiny_model.options,
        tiny_model.examples,
        ServingLimits(**limits),
    ).checks


def failures(results):
    return {check.name: check.detail for check in results if not check.passed}


@pytest.fixture(scope="module")
def good(tiny_model):
    """The checks of a good export."""
    return validate(tiny_model.serving_dir, tiny_model)


def test_a_good_export_passes_every_check(good):
    assert failures(good) == {}
    assert [check.name for check in good] == [
        "size in MB",
        "only allowed operations",
        "loads in a session",
        "has all signatures",
        "serving_default agrees with the Keras model",
        "examples agrees with the Keras model",
        "explain responds",
        "embed responds",
        "latency in ms, 95th percentile",
    ]


def test_values_that_tuner_changes_do_not_matter(tiny_model, other_numbers, good):
    # The component receives the configuration as it was before Tuner ran.
    results = validate(tiny_model.serving_dir, tiny_model, options=other_numbers)
    assert results[:-1] == good[:-1]  # the last one is a time


def test_a_model_that_keras_alone_can_load_is_refused(tiny_model, tmp_path):
    # All signatures, saved as in TFX's own examples: tf.saved_model.load loads it, and the loaded model responds.
    options = tiny_model.options
    task = tasks.get(options.task.name)
    endpoints = task.export.signatures(tiny_model.model, options, None, {})
    del endpoints["transform_features"]
    signatures = {
        name: tf.function(endpoint.compute, input_signature=endpoint.inputs) for name, endpoint in endpoints.items()
    }
    wrong = str(tmp_path / "wrong")
    tf.saved_model.save(tiny_model.model, wrong, signatures=signatures)
    loaded = tf.saved_model.load(wrong).signatures["serving_default"]
    probabilities = loaded(image_bytes=tf.constant(tiny_model.image_bytes))["probabilities"]
    expected = task.predict(tiny_model.model, options, tiny_model.image_bytes)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)

    failed = failures(validate(wrong, tiny_model))
    assert "serving_default agrees with the Keras model" in failed
    assert "Could not find variable" in failed["serving_default agrees with the Keras model"]


def test_other_weights_are_refused(tiny_model):
    other = keras.models.clone_model(tiny_model.model)
    results = validate(tiny_model.serving_dir, tiny_model, model=other)
    refused = [check for check in results if not check.passed]
    assert [check.name for check in refused] == [
        "serving_default agrees with the Keras model",
        "examples agrees with the Keras model",
    ]
    assert all("largest difference of a probability" in check.detail for check in refused)
    assert all(check.value > check.bound == 1e-4 for check in refused)
    assert len(results) == 9  # the other checks are reported too


def test_exchanged_labels_are_refused(tiny_model):
    exchanged = tiny_model.options.model_copy(update={"classes": ("green", "blue", "red")})
    failed = failures(validate(tiny_model.serving_dir, tiny_model, options=exchanged))
    assert all("labels" in detail for detail in failed.values()) and failed


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index"])
def test_a_half_copied_export_is_refused(tiny_model, tmp_path, lost):
    shutil.copytree(tiny_model.serving_dir, tmp_path / "half")
    os.remove(tmp_path / "half" / lost)
    failed = failures(validate(tmp_path / "half", tiny_model))
    assert set(failed) & {"loads in a session", "only allowed operations"}


def test_a_missing_signature_is_refused(tiny_model, tmp_path):
    archive = keras.export.ExportArchive()
    archive.track(tiny_model.model)
    archive.add_endpoint(
        "serving_default",
        lambda image_bytes: {"probabilities": tf.zeros([tf.shape(image_bytes)[0], 3])},
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    archive.write_out(str(tmp_path / "poor"), verbose=False)
    failed = failures(validate(tmp_path / "poor", tiny_model))
    assert failed["has all signatures"] == "missing: examples, classify, explain, embed"


# --- Bounds ---------------------------------------------------------------------------------------------------


LATENCY, SIZE = "latency in ms, 95th percentile", "size in MB"


def test_bounds_on_latency_and_size(tiny_model, good):
    by_name = {check.name: check for check in good}
    for name in (LATENCY, SIZE):
        assert by_name[name].passed and by_name[name].value > 0 and by_name[name].bound is None
    refused = validate(tiny_model.serving_dir, tiny_model, max_latency_ms=1e-4, max_size_mb=1e-4)
    assert set(failures(refused)) == {LATENCY, SIZE}
    assert all("allowed 0.0001" in detail for detail in failures(refused).values())
    assert all(check.value > check.bound == 1e-4 for check in refused if not check.passed)
    assert failures(validate(tiny_model.serving_dir, tiny_model, max_latency_ms=1e6, max_size_mb=1e6)) == {}


def test_the_size_is_that_of_every_file(tiny_model, tmp_path):
    shutil.copytree(tiny_model.serving_dir, tmp_path / "model")
    size = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*") if path.is_file()) / 1e6
    assert checks._size(str(tmp_path / "model"), size) == ServingCheck(
        name=SIZE, passed=True, detail=f"{size:.4g} MB, allowed {size:g}", value=size, bound=size
    )
    (tmp_path / "model" / "assets.extra" / "more").write_bytes(b"x" * 500_000)
    larger = checks._size(str(tmp_path / "model"), size)
    assert not larger.passed and larger.value == pytest.approx(size + 0.5)


def test_warm_up_requests_are_not_timed(monkeypatch):
    clock = iter(np.cumsum([[0.0, 9.0] if i < checks.WARM_UP_REQUESTS else [0.0, 0.002] for i in range(55)]))
    monkeypatch.setattr(checks.time, "perf_counter", lambda: next(clock))
    requests = []
    assert checks._time(requests.append) == pytest.approx([0.002] * checks.TIMED_REQUESTS)
    assert requests == list(range(55))


# --- Operations -------------------------------------------------------------------------------------------------


def saved(folder, compute, module=None):
    """Saves a SavedModel whose `serving_default` is this function of strings."""
    module = module or tf.Module()
    module.weight = tf.Variable(1.0)
    signature = tf.function(compute, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    module.serve = signature
    tf.saved_model.save(module, str(folder), signatures={"serving_default": signature.get_concrete_function()})
    return folder


def writes(target):
    def compute(image_bytes):
        with tf.control_dependencies([tf.io.write_file(str(target), "written")]):
            return {"output": tf.identity(image_bytes)}

    return compute


def reads(image_bytes):
    return {"output": tf.map_fn(tf.io.read_file, image_bytes)}


def runs_python(image_bytes):
    return {"output": tf.py_function(lambda value: value, [image_bytes], tf.string)}


def prints(image_bytes):
    tf.print(image_bytes, output_stream="file:///tmp/printed")
    return {"output": image_bytes}


def contains_a_dataset(image_bytes):
    return {"output": tf.data.Dataset.from_tensors(image_bytes[0]).map(tf.io.read_file).get_single_element()}


def saves_a_checkpoint(image_bytes):
    tf.raw_ops.SaveV2(prefix="/tmp/saved", tensor_names=["a"], shape_and_slices=[""], tensors=[image_bytes])
    return {"output": image_bytes}


def reads_a_checkpoint(image_bytes):
    (restored,) = tf.raw_ops.RestoreV2(
        prefix="/tmp/saved", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.string]
    )
    return {"output": tf.concat([image_bytes, tf.reshape(restored, [-1])], axis=0)}


def nested_deeply(image_bytes):
    @tf.function
    def inner(value):
        return tf.cond(tf.size(value) > 3, lambda: tf.strings.join([tf.io.read_file(value[0]), value]), lambda: value)

    (_, output) = tf.while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, inner(value)), [0, image_bytes])
    return {"output": output}


def changes_its_weights(module):
    def compute(image_bytes):
        module.weight.assign_add(1.0)
        return {"output": image_bytes}

    return compute


@pytest.mark.parametrize(
    ("compute", "operations"),
    [
        (writes("/tmp/written"), ["WriteFile"]),
        (reads, ["ReadFile"]),
        (runs_python, ["EagerPyFunc"]),
        (prints, ["PrintV2"]),
        (nested_deeply, ["ReadFile"]),
        (saves_a_checkpoint, ["SaveV2"]),
        (reads_a_checkpoint, ["RestoreV2"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_operation_with_side_effects_is_refused_by_name(tmp_path, compute, operations):
    refused = graph_walk.not_allowed(graph_walk.read(str(saved(tmp_path / "model", compute))))
    assert [operation.name for operation in refused] == operations
    assert all(operation.place.startswith("signature `serving_default`") for operation in refused)
    assert graph_walk.not_allowed(graph_walk.read(str(tmp_path / "model")), operations) == []


def test_a_dataset_is_refused_with_its_functions(tmp_path):
    refused = graph_walk.not_allowed(graph_walk.read(str(saved(tmp_path / "model", contains_a_dataset))))
    assert {"TensorDataset", "MapDataset", "DatasetToSingleElement", "ReadFile"} <= {
        operation.name for operation in refused
    }


def test_a_signature_that_changes_the_weights_is_refused(tmp_path):
    module = tf.Module()
    refused = graph_walk.not_allowed(
        graph_walk.read(str(saved(tmp_path / "model", changes_its_weights(module), module)))
    )
    assert [operation.name for operation in refused] == ["AssignAddVariableOp"]


def test_a_table_that_is_filled_from_a_file_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\n")
    module = tf.Module()
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    initializer = tf.lookup.TextFileInitializer(str(tmp_path / "words.txt"), tf.string, line, tf.int64, number)
    module.table = tf.lookup.StaticHashTable(initializer, -1)
    folder = saved(tmp_path / "model", lambda image_bytes: {"output": module.table.lookup(image_bytes)}, module)
    (operation,) = graph_walk.not_allowed(graph_walk.read(str(folder)))
    assert operation.name == "InitializeTableFromTextFileV2" and operation.place.startswith("initialisation, function")


def test_a_function_that_nothing_calls_is_refused_too(tmp_path):
    module = tf.Module()
    module.other = tf.function(lambda path: tf.io.read_file(path), input_signature=[tf.TensorSpec([], tf.string)])
    folder = saved(tmp_path / "model", lambda image_bytes: {"output": image_bytes}, module)
    (operation,) = graph_walk.not_allowed(graph_walk.read(str(folder)))
    assert operation.name == "ReadFile" and operation.place.startswith("reached by no signature, function")


def test_functions_in_attributes_and_gradients_are_followed(tmp_path):
    # An attribute of an attribute: a signature may not change weights this way either.
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    module.outer = tf.function(lambda: module.weight.assign(2.0), input_signature=[])
    folder = saved(tmp_path / "model", lambda image_bytes: {"output": image_bytes}, module)
    model = graph_walk.read(str(folder))
    assert graph_walk.not_allowed(model) == []
    (graph,) = model.meta_graphs
    functions = graph.graph_def.library.function
    changing = [f.signature.name for f in functions if any(node.op == "AssignVariableOp" for node in f.node_def)]
    output = graph.signature_def["serving_default"].outputs["output"].name.partition(":")[0]
    node = next(node for node in graph.graph_def.node if node.name == output)
    node.attr["f"].func.name = "unknown"
    node.attr["f"].func.attr["g"].func.name = changing[0]
    assert "AssignVariableOp" in {operation.name for operation in graph_walk.not_allowed(model)}
    # And as the gradient of one.
    node.attr["f"].func.Clear()
    node.attr["f"].func.name = "forward"
    graph.graph_def.library.gradient.add(function_name="forward", gradient_func=changing[0])
    assert "AssignVariableOp" in {operation.name for operation in graph_walk.not_allowed(model)}


def test_variables_of_another_model_are_refused(tmp_path):
    # The saver receives the path of the model's own variables; here it reads another path.
    folder = saved(tmp_path / "model", lambda image_bytes: {"output": image_bytes})
    model = graph_walk.read(str(folder))
    assert graph_walk.not_allowed(model) == []
    (graph,) = model.meta_graphs
    restore = next(node for node in graph.graph_def.node if node.name == graph.saver_def.restore_op_name)
    path = restore.input[0]
    for elsewhere in ("constant", f"{path}:1"):
        restore.input[0] = elsewhere
        (operation,) = graph_walk.not_allowed(model)
        assert operation.name == "RestoreV2" and "reading a file other than the model's variables" in operation.place
    restore.input[0] = f"{path}:0"
    assert graph_walk.not_allowed(model) == []


def test_a_custom_operation_can_be_allowed(tiny_model, tmp_path):
    shutil.copytree(tiny_model.serving_dir, tmp_path / "model")
    model = graph_walk.read(str(tmp_path / "model"))
    model.meta_graphs[0].graph_def.node.add(name="custom", op="Birds>Sing")
    (operation,) = graph_walk.not_allowed(model)
    assert operation == ("Birds>Sing", "graph, reached by no signature")
    assert graph_walk.not_allowed(model, ServingLimits(allowed_operations=("Birds>Sing",)).allowed_operations) == []


def test_a_refused_graph_is_not_loaded(tiny_model, tmp_path, monkeypatch):
    target = tmp_path / "written"
    saved(tmp_path / "model", writes(target))
    monkeypatch.setattr(checks, "SessionModel", lambda _: pytest.fail("loaded"))
    results = validate(tmp_path / "model", tiny_model)
    assert [(check.name, check.passed) for check in results] == [
        ("size in MB", True),
        ("only allowed operations", False),
    ]
    assert "WriteFile in signature `serving_default`" in results[1].detail
    assert "add it to serving.allowed_operations" in results[1].detail
    assert not target.exists()
    monkeypatch.undo()
    allowed = validate(tmp_path / "model", tiny_model, allowed_operations=("WriteFile",))
    assert allowed[1].passed and allowed[2].name == "loads in a session"
    assert target.exists()  # it does write the file


def test_a_second_graph_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model.serving_dir, tmp_path / "model")
    (tmp_path / "model" / "saved_model.pbtxt").write_text("")
    failed = failures(validate(tmp_path / "model", tiny_model))
    assert failed == {
        "only allowed operations": "saved_model.pb must be the only graph file; the folder contains: saved_model.pb, "
        "saved_model.pbtxt"
    }


def test_the_allow_list_has_only_operations_of_tensorflow_that_compute():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session as session

    buffer = session.TF_GetBuffer(session.TF_GetAllOpList())
    known = {operation.name for operation in op_def_pb2.OpList.FromString(buffer).op}
    listed = graph_operations.COMPUTING | graph_operations.PREPARING
    assert listed | graph_operations.RESTORING | graph_operations.SAVING <= known
    dangerous = re.compile(
        "File|PyFunc|Print|Dataset|Iterator|Summary|Save|Restore|Checkpoint|Remote|Rpc|Send|Recv|Collective|Reader|"
        "Debug|Dump|Xla|TPU|Session|Queue|Proto|ImmutableConst|RemapMatrix|VocabRemapping|CandidateSampler|Copy"
    )
    assert {name for name in listed if dangerous.search(name)} == {"DisableCopyOnRead"}
    assert len([name for name in known if dangerous.search(name)]) > 500  # the pattern matches many


MODEL_ID = 4


def run_executor(tiny_model, tmp_path, classes=(), **changes):
    split_dir = tmp_path / "examples" / "Split-test"
    split_dir.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(split_dir / "data_tfrecord-00000-of-00001")) as writer:
        for example in tiny_model.examples:
            writer.write(example)
    examples, model, model_run = (
        standard_artifacts.Examples(),
        standard_artifacts.Model(),
        standard_artifacts.ModelRun(),
    )
    examples.uri, examples.split_names = str(tmp_path / "examples"), '["test"]'
    ClassNames(names=classes or tiny_model.options.classes).write(examples.uri)
    model.uri, model.id = os.path.dirname(tiny_model.serving_dir), MODEL_ID
    model_run.uri = tiny_model.run_dir
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(tmp_path / "blessing")
    os.makedirs(blessing.uri)
    properties = {
        "options": tiny_model.options.model_dump_json(exclude={"classes"}),
        "split": "test",
        "limits": ServingLimits(validation_examples=5, max_size_mb=100).model_dump_json(),
    } | changes
    executor.Executor().Do(
        {"examples": [examples], "model": [model], "model_run": [model_run]}, {"blessing": [blessing]}, properties
    )
    return blessing


def test_the_component_blesses_as_infra_validator_does(tiny_model, tmp_path):
    blessing = run_executor(tiny_model, tmp_path)
    assert blessing.get_int_custom_property("blessed") == 1
    assert blessing.get_int_custom_property("current_model_id") == MODEL_ID
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_BLESSED", "checks.json"]
    report = ServingCheckReport.read(blessing.uri)
    assert report.blessed and report.failures() == ()
    assert any(check.detail.startswith("5 examples") for check in report.checks)
    assert 0 < report.checks[0].value < report.checks[0].bound == 100


def test_the_component_refuses(tiny_model, tmp_path):
    blessing = run_executor(tiny_model, tmp_path, classes=("red", "green", "blue"))
    assert blessing.get_int_custom_property("blessed") == 0
    assert sorted(os.listdir(blessing.uri)) == ["INFRA_NOT_BLESSED", "checks.json"]
    report = ServingCheckReport.read(blessing.uri)
    assert not report.blessed
    assert report.failures() == tuple(check for check in report.checks if not check.passed)
