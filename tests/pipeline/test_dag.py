"""The compiled DAG against its golden file; `pytest --update-goldens` writes the file."""

import json
import tomllib
from pathlib import Path

import pytest
from tfx.dsl.compiler import compiler

from components.evaluator.options import EvaluationOptions
from components.image_example_gen.dataset import inspect_dataset
from pipeline import dag, nodes
from pipeline.config import loading
from pipeline.eval_config import eval_config

GOLDEN = Path(__file__).parent / "golden" / "dag.json"


@pytest.fixture
def compiled(class_folders, tmp_path):
    def make(*overrides, counts=None):
        root = class_folders(counts or {"a": 3, "b": 3})
        loaded = loading.load("digits", data=str(root), overrides=[f"pipeline.root={tmp_path}", *overrides])
        pipeline = dag.create_pipeline(loaded, inspect_dataset(str(root), loaded.data.options()))
        return compiler.Compiler().compile(pipeline)

    return make


def graph(compiled):
    """Every node with its kind and where each of its inputs comes from."""
    result = {}
    for entry in compiled.nodes:
        node = entry.pipeline_node
        inputs = {}
        for key, spec in node.inputs.inputs.items():
            sources = {f"{c.producer_node_query.id}.{c.output_key}" for c in spec.channels if c.output_key}
            inputs[key] = sorted(sources) or ["(any run)"]
        result[node.node_info.id] = {
            "type": node.node_info.type.name,
            "inputs": dict(sorted(inputs.items())),
            "after": sorted(node.upstream_nodes),
            "outputs": {key: spec.artifact_spec.type.name for key, spec in sorted(node.outputs.outputs.items())},
        }
    return result


def test_the_dag_is_the_golden_one(compiled, request):
    text = json.dumps(graph(compiled()), indent=2) + "\n"
    if request.config.getoption("--update-goldens"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_the_command_knows_every_node(compiled):
    assert sorted(graph(compiled("tuner.enabled=true", "audit.enabled=true"))) == sorted(nodes.NODE_IDS)


def test_the_tuner_precedes_the_trainer_and_changes_no_other_node(compiled):
    plain, tuned = json.loads(GOLDEN.read_text()), graph(compiled("tuner.enabled=true"))
    assert tuned.pop("Tuner") == {
        "type": "components.tuner.component.TableTuner",
        "inputs": {
            "examples": ["ImageExampleGen.examples"],
            "transform_graph": ["Transform.transform_graph"],
        },
        "after": ["ImageExampleGen", "Transform"],
        "outputs": {"best_hyperparameters": "HyperParameters", "tuner_results": "TunerResults"},
    }
    assert tuned["Trainer"]["inputs"].pop("hyperparameters") == ["Tuner.best_hyperparameters"]
    assert tuned["Trainer"]["after"] == sorted([*plain["Trainer"].pop("after"), "Tuner"])
    del tuned["Trainer"]["after"]
    assert tuned["ModelReport"]["inputs"].pop("tuner_results") == ["Tuner.tuner_results"]
    assert tuned["ModelReport"]["after"] == sorted([*plain["ModelReport"].pop("after"), "Tuner"])
    del tuned["ModelReport"]["after"]
    assert tuned == plain


def test_only_the_report_waits_for_the_audit(compiled):
    plain, audited = json.loads(GOLDEN.read_text()), graph(compiled("audit.enabled=true"))
    assert audited.pop("DataAudit") == {
        "type": "components.data_audit.component.DataAudit",
        "inputs": {
            "examples": ["ImageExampleGen.examples"],
            "model": ["Trainer.model"],
            "model_run": ["Trainer.model_run"],
            "quarantine": ["ImageExampleGen.quarantine"],
        },
        "after": ["ImageExampleGen", "Trainer"],
        "outputs": {"audit": "components.DataAudit"},
    }
    assert audited["ModelReport"]["inputs"].pop("audit") == ["DataAudit.audit"]
    assert audited["ModelReport"]["after"] == sorted([*plain["ModelReport"].pop("after"), "DataAudit"])
    del audited["ModelReport"]["after"]
    assert audited == plain


def parameters(compiled, node_id):
    (node,) = [e.pipeline_node for e in compiled.nodes if e.pipeline_node.node_info.id == node_id]
    values = {key: value.field_value for key, value in node.parameters.parameters.items()}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


def test_the_reports_configuration_has_no_relative_path(compiled, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    overrides = tomllib.loads(parameters(compiled("pipeline.root=runs"), "ModelReport")["configuration"])
    assert overrides["pipeline"]["root"] == str(tmp_path / "runs")


@pytest.fixture
def changed_by(class_folders, tmp_path):
    """The nodes whose parameters an override changes."""

    def find(override, *always):
        root = class_folders({"a": 3, "b": 3})

        def compile_with(*overrides):
            loaded = loading.load("digits", data=str(root), overrides=[f"pipeline.root={tmp_path}", *overrides])
            return compiler.Compiler().compile(
                dag.create_pipeline(loaded, inspect_dataset(str(root), loaded.data.options()))
            )

        before, after = compile_with(*always), compile_with(*always, override)
        changed = {node for node in graph(before) if parameters(before, node) != parameters(after, node)}
        # The report holds the whole configuration.
        assert "ModelReport" in changed
        return changed - {"ModelReport"}

    return find


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("training.epochs=3", {"Trainer", "ServingValidator", "GradCam"}),
        ("grad_cam.least_certain=3", {"GradCam"}),
        ("grad_cam.thresholds.average_drop=0.5", {"GradCam"}),
        ("grad_cam.layer=block2_relu1", {"Trainer", "ServingValidator", "GradCam"}),
        ("grad_cam.alpha=0.5", {"Trainer", "ServingValidator", "GradCam"}),
        ("transform.image_size=24", {"Transform", "Trainer", "ServingValidator", "GradCam"}),
        ("evaluation.thresholds.accuracy=0.1", {"Evaluator"}),
        ("serving.validation_examples=3", {"ServingValidator"}),
        ("serving.max_size_mb=3", {"ServingValidator"}),
        ("serving.allowed_operations=['Birds>Sing']", {"ServingValidator"}),
        ("validation.on_skew=stop", {"ExampleValidator"}),
        ("data.max_pixels=1000", {"ImageExampleGen"}),
        ("data.near_duplicates=together", {"ImageExampleGen"}),
        # All later nodes read the class names beside the examples, which are new then.
        ("data.classes=['b', 'a']", {"ImageExampleGen"}),
        ("validation.drift_threshold=0.2", {"ExampleValidator"}),
        ("validation.domain_margin=0.2", {"SchemaGen", "ExampleValidator"}),
    ],
)
def test_a_setting_affects_only_the_nodes_that_read_it(changed_by, override, changed):
    assert changed_by(override) == changed


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("tuner.trials=3", {"Tuner"}),
        ("tuner.space.training.batch_size={choices=[8, 16]}", {"Tuner"}),
        ("training.epochs=3", {"Tuner", "Trainer", "ServingValidator", "GradCam"}),
        ("grad_cam.alpha=0.5", {"Trainer", "ServingValidator", "GradCam"}),
        ("evaluation.thresholds.accuracy=0.1", {"Evaluator"}),
    ],
)
def test_a_setting_affects_the_tuner_if_trials_read_it(changed_by, override, changed):
    assert changed_by(override, "tuner.enabled=true") == changed


def test_a_moved_image_affects_example_gen(class_folders, tmp_path):
    root = class_folders({"a": 3, "b": 3})

    def compile_now():
        loaded = loading.load("digits", data=str(root), overrides=[f"pipeline.root={tmp_path}"])
        return compiler.Compiler().compile(
            dag.create_pipeline(loaded, inspect_dataset(str(root), loaded.data.options()))
        )

    before = compile_now()
    (root / "a" / "0.png").rename(root / "b" / "moved.png")
    after = compile_now()
    assert {n for n in graph(before) if parameters(before, n) != parameters(after, n)} == {
        "ImageExampleGen",
        "Pusher",  # which stores what identifies the dataset
        "ModelReport",  # which names the fingerprint of the data
    }


def test_an_edit_of_the_code_affects_the_nodes_that_run_it(compiled, monkeypatch):
    before = compiled()
    monkeypatch.setattr(dag, "source_hash", lambda **_: "another")
    loaded = loading.load("digits", data=parameters(before, "ImageExampleGen")["input_base"])
    after = compiler.Compiler().compile(
        dag.create_pipeline(loaded, inspect_dataset(loaded.data_location, loaded.data.options()))
    )
    changed = {node for node in graph(before) if parameters(before, node) != parameters(after, node)}
    assert set(graph(before)) - changed <= {"StatisticsGen", "SchemaGen", "PreviousSpan", "Resolver", "Pusher"}


def test_an_edit_of_the_page_affects_the_report_only(monkeypatch, tmp_path):
    for name in ("components/model_report/page.j2", "components/grad_cam/executor.py", "trainer_module/features.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    monkeypatch.setattr(dag.resources, "files", lambda package: tmp_path / package)

    def hashes():
        return dag.source_hash(), dag.source_hash(with_report=True)

    first = hashes()
    (tmp_path / "components/model_report/page.j2").write_text("second")
    second = hashes()
    assert second[0] == first[0] and second[1] != first[1]
    (tmp_path / "components/grad_cam/executor.py").write_text("second")
    assert not set(hashes()) & {*first, *second}


def test_an_edit_of_code_for_kubeflow_affects_no_local_node(monkeypatch, tmp_path):
    (tmp_path / "components/cluster").mkdir(parents=True)
    monkeypatch.setattr(dag.resources, "files", lambda package: tmp_path / package)
    before = dag.source_hash(with_report=True)
    (tmp_path / "components/cluster/executor.py").write_text("another")
    assert dag.source_hash(with_report=True) == before


def test_without_a_test_share_the_validation_split_is_evaluated(compiled):
    split = parameters(compiled("data.splits={train=0.8,validation=0.2,test=0.0}"), "Evaluator")["split"]
    assert split == "validation"


def test_every_slice_is_measured():
    slices = ["brightness", ("brightness", "camera")]
    specs = eval_config(EvaluationOptions(), "classification", ["a", "b"], slices).slicing_specs
    assert [list(spec.feature_keys) for spec in specs] == [
        [],
        ["slice/brightness"],
        ["slice/brightness", "slice/camera"],
    ]


def test_thresholds_are_options_of_the_evaluator(compiled):
    overrides = ("evaluation.thresholds={macro_f1=0.7}", "evaluation.class_thresholds.recall=0.5")
    options = json.loads(parameters(compiled(*overrides), "Evaluator")["options"])
    assert (options["thresholds"], options["class_thresholds"]) == ({"macro_f1": 0.7}, {"recall": 0.5})


def test_slices_are_the_configured_or_all_columns():
    columns = ("brightness", "camera")
    assert EvaluationOptions().evaluated_slices(columns) == columns
    assert EvaluationOptions(label_groups={"some": ["a"]}).evaluated_slices(columns) == (*columns, "label_group")
    chosen = ("brightness", ("brightness", "resolution"))
    assert EvaluationOptions(slices=chosen).evaluated_slices(columns) == chosen
