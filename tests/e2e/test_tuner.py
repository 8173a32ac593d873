"""The search in the pipeline: what Tuner finds, Trainer uses, and the cache knows both."""

import csv
import json
from pathlib import Path

import pytest

from pipeline.cli.json_output import run_output
from pipeline.config import loading
from pipeline.execution import dataset, local_run
from trainer_module import features
from trainer_module.options import TrainerOptions


def test_the_trainer_uses_the_best_hyperparameters(class_folders, tmp_path):
    root = class_folders({"a": 12, "b": 12, "c": 12})
    space = '{"training.learning_rate"={min=1e-4,max=1e-2,sampling="log"},"training.batch_size"={choices=[3,8]}}'
    overrides = [
        f"pipeline.root={tmp_path}/runs",
        "pipeline.name=tiny",
        "data.splits.by=class",
        "transform.image_size=8",
        "model.blocks=[[4]]",
        "training.epochs=2",
        "tuner.enabled=true",
        "tuner.trials=2",
        "tuner.epochs=1",
        "tuner.max_examples=12",
        f"tuner.space={space}",
    ]

    def execute(*more, to_node="Trainer", **arguments):
        loaded = loading.load("images", data=str(root), overrides=[*overrides, *more])
        outcome = local_run.execute(loaded, dataset.prepare(loaded), to_node=to_node, **arguments)
        assert outcome.error is None
        return outcome, {node.id: node.state for node in outcome.nodes}

    first, states = execute()
    assert states["Tuner"] == states["Trainer"] == "complete"
    tuning = run_output(first).model_dump()["tuning"]
    assert (tuning["objective"], tuning["trials"], tuning["failed"]) == ("val_loss", 2, 0)
    with open(tuning["table"], newline="") as file:
        trials = list(csv.DictReader(file))
    best = min(trials, key=lambda trial: float(trial["value"]))
    assert best["rank"] == "1" and tuning["value"] == float(best["value"])
    assert {name: float(best[name]) for name in tuning["values"]} == tuning["values"]
    assert list(tuning["values"]) == ["training.learning_rate", "training.batch_size"]

    (model_run,) = Path(tmp_path, "runs/tiny/artifacts/Trainer/model_run").iterdir()
    used = TrainerOptions.model_validate_json((model_run / features.OPTIONS_FILE).read_text())
    assert used.training.learning_rate == tuning["values"]["training.learning_rate"]
    assert used.training.batch_size == tuning["values"]["training.batch_size"]
    assert used.training.epochs == 2
    with open(model_run / features.HISTORY_FILE, newline="") as file:
        rate = float(next(csv.DictReader(file))["learning_rate"])
    assert rate == pytest.approx(used.training.learning_rate)
    kept = Path(tmp_path, "runs/tiny/artifacts/Tuner")
    assert not list(kept.rglob("pixels*")) and not list(kept.rglob("trial.json"))

    again, states = execute()
    assert (states["Tuner"], states["Trainer"]) == ("cached", "cached")
    assert json.dumps(run_output(again).model_dump()["tuning"]) == json.dumps(tuning)

    fewer, states = execute("tuner.trials=1", from_node="Tuner", to_node="Tuner")
    assert {node for node, state in states.items() if state != "skipped"} == {"Tuner"}
    assert run_output(fewer).model_dump()["tuning"]["trials"] == 1
