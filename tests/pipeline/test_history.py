"""Runs, read from a record that ml_metadata has written: the list, and two side by side."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd
from rich.console import Console
from typer.testing import CliRunner

from components.evaluator.artifact import ALL, EvaluationResult, GateReport, GateResult, SliceMetrics
from components.image_example_gen.artifact import SplitCounts, Summary
from pipeline.cli import history_tables
from pipeline.cli.app import app
from pipeline.cli.json_output import compare_output, history_run
from pipeline.config import loading
from pipeline.config.messages import ConfigError
from pipeline.history import comparison, metadata_store, run_history
from trainer_module import locations, tasks

STATES = mlmd.Execution


def evaluated(accuracy, recall, slices, classes=("finch", "owl")):
    def row(name, value, examples):
        return SliceMetrics(
            name=name,
            examples=examples,
            metrics={"accuracy": value, "cross_entropy": 1 - value},
            support=dict.fromkeys(classes, 10),
            class_metrics={
                name: {"precision": 0.9, "recall": value, "f1": value}
                for name, value in zip(classes, recall, strict=True)
            },
            confusion_matrix=[[1, 0], [0, 1]],
        )

    result = EvaluationResult(
        task="classification",
        split="test",
        classes=classes,
        count_unit="images",
        metrics=[metric for metric in tasks.get("classification").evaluation.metrics(3) if metric.name != "auc"],
        candidate=[row(ALL, accuracy, 20), *(row(name, *values) for name, values in slices.items())],
    )
    return result.model_dump_json()


def gates(*failures):
    results = [
        GateResult(
            setting="evaluation.thresholds",
            metric="accuracy",
            title="accuracy",
            slice=ALL,
            value=0.9,
            bound=0.5,
            higher_is_better=True,
            examples=20,
            passed=True,
            detail="0.9, at least 0.5",
        ),
        *failures,
    ]
    return GateReport(has_baseline=False, results=results).model_dump_json()


def data(fingerprint, **splits):
    parameters = {
        "options": json.dumps({"fingerprint": fingerprint, "data": {"max_pixels": 7, "splits": {"test": 0.1}}})
    }
    summary = Summary(
        examples=sum(splits.values()),
        quarantined=0,
        reasons={},
        splits={split: SplitCounts(examples=count, classes={"finch": count}) for split, count in splits.items()},
        duplicates={},
    )
    return parameters, summary.model_dump_json()


MISSED = GateResult(
    setting="evaluation.class_thresholds",
    metric="recall",
    title="recall",
    slice="light = dusk",
    class_name="owl",
    value=0.4,
    bound=0.6,
    higher_is_better=True,
    examples=9,
    passed=False,
    detail="is 0.4; it must be at least 0.6",
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, recorder):
    """A pipeline's folder with eight runs, each of another end."""
    folder = tmp_path_factory.mktemp("runs") / "birds"
    folder.mkdir()
    write = recorder(folder)
    complete, cached = STATES.COMPLETE, STATES.CACHED
    parameters, summary = data("aaaaaaaaaaaa", train=80, test=20)
    quarantine = write.artifact("quarantine-1", {"summary.json": summary})
    read = ("ImageExampleGen", complete, parameters, {"quarantine": quarantine})
    options = {"training": {"epochs": 3, "seed": 1}, "classes": ["finch", "owl"]}
    first = evaluated(0.9, (0.95, 0.85), {"light = day": (0.95, 11), "light = dusk": (0.8, 9), "old = yes": (0.5, 2)})
    model_run = write.artifact("model-run-1", {"options.json": options})
    good_checks = {
        "format": 1,
        "checks": [{"name": "size in MB", "passed": True, "detail": "1 MB", "value": 1.0, "bound": None}],
    }
    pushed = write.artifact("pushed-1", pushed=1, pushed_version="1700000001")
    trained = ("Trainer", complete, {}, {"model_run": model_run})
    judged = {
        "evaluation": write.artifact("evaluation-1", {"evaluation.json": first, "gates.json": gates()}),
        "blessing": write.artifact("blessing-1", blessed=1),
    }
    served = {"blessing": write.artifact("infra-1", {"checks.json": good_checks}, blessed=1)}
    write.run(
        "2026-01-01T10:00:00.5",
        read,
        trained,
        ("Evaluator", complete, {}, judged),
        ("ServingValidator", complete, {"limits": '{"tolerance": 0.1}'}, served),
        ("Pusher", complete, {}, {"pushed_model": pushed}),
    )
    write.run(
        "2026-01-02T10:00:00.5",
        ("ImageExampleGen", cached, parameters, {"quarantine": quarantine}),
        ("Trainer", cached, {}, {"model_run": model_run}),
        ("Evaluator", cached, {}, judged),
        ("ServingValidator", cached, {"limits": '{"tolerance": 0.1}'}, served),
        ("Pusher", cached, {}, {"pushed_model": pushed}),
    )
    parameters, summary = data("bbbbbbbbbbbb", train=60, test=25)
    second = evaluated(0.85, (0.97, 0.6), {"light = day": (0.97, 15), "light = dusk": (0.6, 9), "new = yes": (0.7, 1)})
    write.run(
        "2026-01-03T10:00:00.5",
        (
            "ImageExampleGen",
            complete,
            parameters,
            {"quarantine": write.artifact("quarantine-3", {"summary.json": summary})},
        ),
        (
            "Trainer",
            complete,
            {},
            {
                "model_run": write.artifact(
                    "model-run-3", {"options.json": options | {"training": {"epochs": 9, "seed": 1}}}
                )
            },
        ),
        (
            "Evaluator",
            complete,
            {},
            {
                "evaluation": write.artifact("evaluation-3", {"evaluation.json": second, "gates.json": gates(MISSED)}),
                "blessing": write.artifact("blessing-3", blessed=0),
            },
        ),
        (
            "ServingValidator",
            complete,
            {"limits": '{"tolerance": 0.2}'},
            {"blessing": write.artifact("infra-3", {"checks.json": good_checks}, blessed=1)},
        ),
        ("Pusher", complete, {}, {"pushed_model": write.artifact("pushed-3", pushed=0)}),
    )
    slow = {"format": 1, "checks": [{"name": "latency", "passed": False, "detail": "9 ms, allowed 1"}]}
    write.run(
        "2026-01-04T10:00:00.5",
        read,
        # As a version that did not write evaluation.json left it.
        ("Evaluator", complete, {}, {"evaluation": write.artifact("evaluation-4"), "blessing": judged["blessing"]}),
        (
            "ServingValidator",
            complete,
            {},
            {"blessing": write.artifact("infra-4", {"checks.json": slow}, blessed=0)},
        ),
    )
    refusal = "The images have drifted from those of span 2.\n  train split, image/mean/luma: moved"
    write.run("2026-01-05T10:00:00.5", read, ("ExampleValidator", STATES.FAILED, {metadata_store.REFUSAL: refusal}, {}))
    write.run("2026-01-06T10:00:00.5", read, ("Trainer", STATES.FAILED, {}, {}))
    write.run("2026-01-06T10:30:00.5", read, ("Trainer", STATES.RUNNING, {}, {}))
    write.run("2026-01-07T10:00:00.5", read)
    return folder


@pytest.fixture(scope="module")
def loaded(recorded):
    return loading.load(
        "images", overrides=[f"pipeline.root={recorded.parent}", "pipeline.name=birds"], needs_data=False
    )


@pytest.fixture(scope="module")
def runs(loaded):
    return run_history.read(loaded).newest(100)[::-1]


def test_every_outcome_of_a_run_is_listed(runs):
    assert [(run.number, str(run.verdict), run.version) for run in runs] == [
        (1, "pushed", 1700000001),
        (2, "pushed", 1700000001),  # all of it from the cache
        (3, "refused by Evaluator", None),
        (4, "refused by ServingValidator", None),
        (5, "refused by ExampleValidator", None),
        (6, "failed at Trainer", None),
        (7, "unfinished at Trainer", None),
        (8, "stopped after ImageExampleGen", None),
    ]


def test_a_run_as_json(runs):
    assert history_run(runs[2]).model_dump() == {
        "number": 3,
        "id": "2026-01-03T10:00:00.5",
        "verdict": {"status": "refused", "node": "Evaluator"},
        "version": None,
        "data": {"examples": 85, "splits": {"train": 60, "test": 25}, "fingerprint": "bbbbbbbbbbbb", "span": 0},
        "metric": {"name": "accuracy", "value": 0.85},
        "reasons": ["Evaluator: recall of class owl, light = dusk is 0.4; it must be at least 0.6"],
    }
    assert history_run(runs[3]).model_dump()["metric"] is None  # of an older version: what is known is listed
    assert runs[3].reasons == ["ServingValidator: latency: 9 ms, allowed 1"]
    assert runs[4].reasons[-1] == "ExampleValidator:   train split, image/mean/luma: moved"


def test_the_printed_list(runs):
    for width in (80, 120):
        out = io.StringIO()
        history_tables.show_runs(Console(file=out, width=width), runs[::-1])
        lines = [re.split(r"\s{2,}", line.strip()) for line in out.getvalue().splitlines() if line.strip()]
        assert lines[0] == ["began", "data", "accuracy", "verdict"]
        assert lines[-1] == ["1", "2026-01-01 10:00", "100 aaaaaa", "0.9000", "pushed 1700000001"]
        assert ["6", "2026-01-06 10:00", "100 aaaaaa", "-", "failed at Trainer"] in lines
        assert ["4", "2026-01-04 10:00", "100 aaaaaa", "-", "refused by ServingValidator"] in lines
        assert max(map(len, out.getvalue().splitlines())) <= width


@pytest.mark.parametrize(
    ("name", "number"),
    [("3", 3), ("last", 8), ("last-1", 7), ("last-7", 1), ("1700000001", 1), ("2026-01-05", 5), ("2026-01-06T10:3", 7)],
)
def test_ways_to_name_a_run(loaded, name, number):
    assert run_history.read(loaded).find(name).number == number


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("9", r"no run `9`.*Known runs: 1 to 8\."),
        ("last-8", r"no run `last-8`"),
        ("lst", r"no run `lst`. Did you mean `last`\?"),
        ("1700000002", r"Did you mean `1700000001`\?"),
        ("2026-01-06", r"2 runs started at 2026-01-06.*\(6 and 7\)"),
        ("None", r"no run `None`"),  # what was not pushed has no version
        ("0", r"no run `0`"),
        ("", r"name of the run is empty"),
    ],
)
def test_an_unknown_run(loaded, name, message):
    with pytest.raises(ConfigError, match=message):
        run_history.read(loaded).find(name)


def test_no_run_at_all(tmp_path, recorder):
    recorder(tmp_path)
    with pytest.raises(ConfigError, match=r"no run `last`\..*none yet"):
        read_in(tmp_path).find("last")


def test_only_printed_runs_are_read(loaded, monkeypatch):
    opened = []
    read = locations.read
    monkeypatch.setattr(locations, "read", lambda path: (opened.append(Path(path).parent.name), read(path))[1])
    run_history._artifact.cache_clear()
    runs = run_history.read(loaded)
    assert len(runs) == 8 and not opened
    assert [run.number for run in runs.newest(5)] == [8, 7, 6, 5, 4]
    assert "evaluation-4" in opened and not {"evaluation-1", "evaluation-3", "model-run-1"} & set(opened)
    del opened[:]
    assert runs.find("1700000001").number == 1
    assert "evaluation-1" in opened and "evaluation-3" not in opened


def test_an_unreadable_store_is_an_error_not_a_run_without_metrics():
    with pytest.raises(ConfigError, match=r"s4://bucket/evaluation.json cannot be read: .*not implemented"):
        run_history._read_text("s4://bucket/evaluation.json")
    with pytest.raises(ConfigError, match=r"s4://bucket cannot be read: .*not implemented"):
        run_history._artifact(EvaluationResult, "s4://bucket")


def test_two_runs_compared(runs):
    output = compare_output(comparison.compare(runs[0], runs[2])).model_dump()
    change = output["metrics"]["accuracy"]
    assert change == {"first": 0.9, "second": 0.85, "change": pytest.approx(-0.05), "better": False}
    assert output["metrics"]["cross_entropy"]["better"] is False  # more of it is worse
    assert output["metrics"]["examples"] == {"first": 20.0, "second": 20.0, "change": 0.0, "better": None}
    assert list(output["classes"]) == ["owl", "finch"]
    assert output["classes"]["finch"]["recall"]["better"] is True
    assert list(output["slices"]) == ["light = dusk", "light = day", "new = yes", "old = yes"]
    assert output["slices"]["new = yes"]["accuracy"] == {"first": None, "second": 0.7, "change": None, "better": None}
    assert output["settings"] == {
        "serving.tolerance": {"first": 0.1, "second": 0.2},
        "training.epochs": {"first": 3, "second": 9},
    }
    assert output["data"] == {
        "examples": {"first": 100, "second": 85},
        "examples.test": {"first": 20, "second": 25},
        "examples.test.finch": {"first": 20, "second": 25},
        "examples.train": {"first": 80, "second": 60},
        "examples.train.finch": {"first": 80, "second": 60},
        "fingerprint": {"first": "aaaaaaaaaaaa", "second": "bbbbbbbbbbbb"},
    }
    assert (
        output["first"] == history_run(runs[0]).model_dump() and output["second"] == history_run(runs[2]).model_dump()
    )
    json.dumps(output, allow_nan=False)


def shown(first, second, width=80):
    out = io.StringIO()
    history_tables.show_comparison(Console(file=out, width=width), comparison.compare(first, second))
    return out.getvalue()


def test_two_runs_side_by_side(runs):
    text = shown(runs[0], runs[2])
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    for row in (
        ["run", "1", "3"],
        ["verdict", "pushed", "refused by Evaluator"],
        ["version", "1700000001", "-"],
        ["accuracy", "0.9000", "0.8500", "-0.0500"],
        ["cross-entropy", "0.1000", "0.1500", "+0.0500"],
        ["owl", "0.8500", "0.6000", "-0.2500", "=", "-0.2500", "10"],
        ["light = dusk", "0.8000", "0.6000", "-0.2000", "9"],
        ["light = day", "0.9500", "0.9700", "+0.0200", "11→15"],
        ["new = yes", "-", "0.7000", "only second", "-→1"],
        ["old = yes", "0.5000", "-", "only first", "2→-"],
        ["training.epochs", "3", "9"],
        ["fingerprint", "aaaaaa", "bbbbbb"],
    ):
        assert row in rows, row
    assert "Reasons against 3\n  ✗ Evaluator: recall of class owl, light = dusk is 0.4; it must be at least 0.6" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_new_metric_is_listed_in_words_and_by_its_range(tmp_path, kappa, recorder):
    write = recorder(tmp_path)
    for number, value in (("1", -0.25), ("2", -0.75)):
        content = json.loads(evaluated(0.9, (0.9, 0.8), {}))
        content["candidate"][0]["metrics"][kappa.name] = value
        evaluation = write.artifact(f"evaluation-{number}", {"evaluation.json": content})
        write.run(f"2026-01-0{number}T10:00:00", ("Evaluator", STATES.COMPLETE, {}, {"evaluation": evaluation}))
    new, old = read_in(tmp_path).newest(2)
    entry = compare_output(comparison.compare(old, new)).metrics[kappa.name].model_dump()
    assert entry == {"first": -0.25, "second": -0.75, "change": -0.5, "better": False}
    assert re.search(r"Cohen's kappa +-0\.2500 +-0\.7500 +-0\.5000", shown(old, new))


def test_runs_of_two_tasks_are_not_ranked(tmp_path, recorder):
    write = recorder(tmp_path)
    segmentation = EvaluationResult(
        task="segmentation",
        split="test",
        classes=["sky"],
        count_unit="pixels",
        metrics=tasks.get("segmentation").evaluation.metrics(3),
        candidate=[SliceMetrics(name=ALL, examples=7, metrics={"mean_iou": 0.5})],
    )
    for number, content in (("1", evaluated(0.9, (0.9, 0.8), {})), ("2", segmentation.model_dump_json())):
        evaluation = write.artifact(f"evaluation-{number}", {"evaluation.json": content})
        write.run(f"2026-01-0{number}T10:00:00", ("Evaluator", STATES.COMPLETE, {}, {"evaluation": evaluation}))
    new, old = read_in(tmp_path).newest(2)
    text = shown(old, new)
    assert "The tasks of the two runs differ" in text and "Classes" not in text
    assert re.search(r"mean IoU +- +0.5000 +only second", text)
    out = io.StringIO()
    history_tables.show_runs(Console(file=out, width=120), [new, old])
    assert "mean IoU 0.5000" in out.getvalue() and "accuracy 0.9000" in out.getvalue()


def test_better_is_green_and_worse_is_red(runs):
    out = io.StringIO()
    differences = comparison.compare(runs[0], runs[2])
    history_tables.show_comparison(
        Console(file=out, width=80, force_terminal=True, color_system="standard"), differences
    )
    red, green = "\x1b[31m", "\x1b[32m"
    assert f"{red}-0.0500" in out.getvalue() and f"{red}+0.0500" in out.getvalue()  # accuracy, and cross-entropy
    assert f"{green}+0.0200" in out.getvalue()


def test_a_run_without_evaluation_compares_as_far_as_possible(runs):
    text = shown(runs[0], runs[5])
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    assert ["accuracy", "0.9000", "-", "only first"] in rows
    assert ["training.epochs", "3", "-"] in rows
    assert "Images: no differences" in text
    assert "Neither run has an evaluation" in shown(runs[5], runs[6])


def read_in(folder):
    """The runs of a record in a folder."""
    target = name_of(folder)
    overrides = [f"pipeline.root={folder}", f"pipeline.name={target}"]
    return run_history.read(loading.load("images", overrides=overrides, needs_data=False))


def test_an_evaluation_that_this_version_cannot_read_is_ignored(tmp_path, recorder):
    write = recorder(tmp_path)
    evaluation = write.artifact("evaluation", {"evaluation.json": '{"of": "another version"}', "gates.json": "{}"})
    write.run("2026-01-01T10:00:00.5", ("Evaluator", STATES.COMPLETE, {}, {"evaluation": evaluation}))
    (run,) = read_in(tmp_path).newest(9)
    assert (run.evaluation, str(run.verdict)) == (None, "stopped after Evaluator")


# As a version before [data] was passed on wrote it.
OLD_OPTIONS = (
    '{"classes": ["a"], "split_folders": [], "validation": 0.15, "metadata_csv": null, "fingerprint": "abcdef0"}'
)


@pytest.mark.parametrize(
    "options",
    [OLD_OPTIONS, "", "{", "[]", "null", '"data"', '{"data": 3}', '{"data": [1], "fingerprint": 7}', "[" * 100_000],
    ids=["old", "none", "cut", "list", "null", "text", "number", "of other types", "deep"],
)
def test_runs_with_parameters_of_another_version_are_listed(tmp_path, options, recorder):
    write = recorder(tmp_path)
    done = [
        (node, STATES.COMPLETE, {"options": options, "limits": options}, {})
        for node in ("ImageExampleGen", "ExampleValidator", "Evaluator", "ServingValidator")
    ]
    write.run("2026-01-01T10:00:00.5", *done)
    parameters, _ = data("bbbbbbb", train=1)
    write.run("2026-01-02T10:00:00.5", ("ImageExampleGen", STATES.COMPLETE, parameters, {}))
    new, old = read_in(tmp_path).newest(9)
    assert (old.fingerprint, str(old.verdict)) == (
        "abcdef0" if options == OLD_OPTIONS else None,
        "stopped after ServingValidator",
    )
    assert not [key for key in old.settings if key.startswith("data.")]
    assert new.settings["data.max_pixels"] == 7
    for text in (compare_output(comparison.compare(old, new)).as_text(), shown(old, new)):
        assert "max_pixels" in text


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"candidate": []}',
        '[{"name": "latency"}]',
        '{"examples": "many", "splits": 3}',
        '{"task": "segmentation", "split": "test", "classes": [], "candidate": []}',
        '{"training": {"epochs": NaN}}',
        '{"training": {"epochs": 1e999}}',
        b"\xff\xfe",
    ],
)
def test_runs_with_files_of_another_version_are_listed(tmp_path, content, recorder):
    write = recorder(tmp_path)
    names = ("summary.json", "evaluation.json", "gates.json", "checks.json", "options.json")
    folder = write.artifact("everything", blessed=1, pushed=1, pushed_version="of old")
    for name in names if content is not None else ():
        (tmp_path / "everything" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write.run(
        "2026-01-01T10:00:00.5",
        ("ImageExampleGen", STATES.COMPLETE, {}, {"quarantine": folder}),
        ("Trainer", STATES.COMPLETE, {}, {"model_run": folder}),
        ("Evaluator", STATES.COMPLETE, {}, {"evaluation": folder}),
        ("ServingValidator", STATES.COMPLETE, {}, {"blessing": folder}),
        ("Pusher", STATES.COMPLETE, {}, {"pushed_model": folder}),
    )
    (run,) = read_in(tmp_path).newest(9)
    assert (run.evaluation, run.examples, run.splits, run.reasons, run.version) == (None, None, {}, [], None)
    assert str(run.verdict) == "pushed"
    assert compare_output(comparison.compare(run, run)).as_text()
    out = io.StringIO()
    history_tables.show_runs(Console(file=out, width=120), [run])
    assert re.search(r"- -\s+-\s+pushed", out.getvalue())


def test_stored_values_are_printed_as_plain_text(tmp_path, recorder):
    write = recorder(tmp_path)
    parameters = {"options": json.dumps({"fingerprint": "[/x]..", "data": {"[/red]": "[/bold]"}})}
    write.run("2026-01-01T10:00:00.5", ("ImageExampleGen", STATES.COMPLETE, parameters, {}))
    write.run("2026-01-02T10:00:00.5", ("[/red]", STATES.FAILED, {metadata_store.REFUSAL: "[/red]"}, {}))
    new, old = read_in(tmp_path).newest(9)
    text = shown(old, new)
    assert "[/x].." in text and "data.[/red]" in text and "refused by [/red]" in text
    history_tables.show_runs(Console(file=io.StringIO()), [new, old])


def name_of(folder):
    """A folder under a name that a pipeline may have."""
    target = folder / "record"
    if not target.exists():
        os.symlink(folder, target)
    return target.name


def test_a_node_that_starts_while_the_history_is_read(tmp_path, recorder):
    write = recorder(tmp_path)
    write.run("2026-01-01T10:00:00.5", ("Trainer", STATES.COMPLETE, {}, {}))
    runs = read_in(tmp_path)
    execution = mlmd.Execution(type_id=write.execution_type, last_known_state=STATES.RUNNING)
    (context,) = write.store.get_contexts_by_type(metadata_store.RUN_CONTEXT)
    write.store.put_execution(execution, [], [context, write.nodes["Trainer"]])
    (run,) = runs.newest(1)
    assert str(run.verdict) == "stopped after Trainer"


def test_a_running_pipeline_does_not_block_readers(recorded, loaded):
    writer = metadata_store.open_store(recorded / "metadata.sqlite")
    assert len(run_history.read(loaded)) == len(writer.get_contexts_by_type(metadata_store.RUN_CONTEXT))


# --- The commands -----------------------------------------------------------------------------------------------


def tfx_vision(*arguments):
    """Runs a command in this process, which has imported everything already."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def of(recorded):
    return ("--set", f"pipeline.root={recorded.parent}", "--set", "pipeline.name=birds")


def test_the_commands_print_json(recorded, runs):
    start = time.monotonic()
    command = [sys.executable, "-m", "pipeline", "history", "images", "--num", "2", "--json", *of(recorded)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert time.monotonic() - start < 30  # a second or two on an idle machine; TFX alone takes forty
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"runs": [history_run(runs[7]).model_dump(), history_run(runs[6]).model_dump()]}
    done = tfx_vision("compare", "images", 1, "last-5", "--json", *of(recorded))
    assert json.loads(done.stdout) == compare_output(comparison.compare(runs[0], runs[2])).model_dump()


def test_the_commands_print_tables(recorded):
    done = tfx_vision("history", "images", *of(recorded))
    assert done.exit_code == 0 and "refused by ServingValidator" in done.stdout
    done = tfx_vision("compare", "images", 1, 3, *of(recorded))
    assert done.exit_code == 0 and "Classes, F1, worst change first" in done.stdout


def test_the_command_names_the_run_of_an_outdated_report(tmp_path, recorder):
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>")
    write = recorder(tmp_path)
    reported = ("ModelReport", STATES.COMPLETE, {}, {"report": write.artifact("page")})

    def report():
        overrides = ("--set", f"pipeline.root={tmp_path}", "--set", f"pipeline.name={name_of(tmp_path)}")
        done = tfx_vision("report", "images", *overrides)
        assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/record/report.html\n")
        return done.stderr

    write.run("2026-01-01T10:00:00.5", reported)
    write.run("2026-01-02T10:00:00.5", ("ModelReport", STATES.CACHED, {}, dict(reported[3])))
    assert report() == ""
    refused = {metadata_store.REFUSAL: "The images have drifted."}
    write.run("2026-01-03T10:00:00.5", ("ExampleValidator", STATES.FAILED, refused, {}))
    assert report() == (
        "note: the report belongs to run 2 (2026-01-02 10:00); the last run, 3 (2026-01-03 10:00), has none: refused "
        "by ExampleValidator.\n"
    )
    write.run("2026-01-04T10:00:00.5", reported)
    assert report() == ""
    (tmp_path / "metadata.sqlite").write_text("")
    assert report().startswith("note: cannot determine the run of this report: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("history", "images", "--set", "pipeline.name=bees"), ("bees has no runs yet", "metadata.sqlite")),
        (("compare", "images", "1", "99"), ("There is no run `99`", "Known runs: 1 to 8.")),
        (("history", "images", "--set", "pipeline.nam=x"), ("Unknown key `nam`",)),
        (("compare", "images", "", "1"), ("name of the run is empty",)),
        (
            ("history", "images", "--set", "pipeline.name=broken"),
            ("cannot be read: file is not a database.", "move it away", "starts a new history"),
        ),
        (("history", "images", "--set", "pipeline.name=empty"), ("cannot be read: no such table", "move it away")),
    ],
    ids=["never run", "no such run", "wrong key", "empty name", "no database", "empty file"],
)
def test_errors_are_one_message(recorded, arguments, words):
    for name, content in (("broken", "this is not a database, whatever its name says" * 100), ("empty", "")):
        (recorded.parent / name).mkdir(exist_ok=True)
        (recorded.parent / name / "metadata.sqlite").write_text(content)
    command, *rest = arguments
    done = tfx_vision(command, *rest[:1], *of(recorded), *rest[1:])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
