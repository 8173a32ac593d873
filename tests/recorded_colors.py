"""Writes a pipeline with two runs and all artifacts that the studio reads, without a training."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_metadata.proto import metadata_store_pb2 as mlmd
from PIL import Image

from components.data_audit.artifact import Audit, AuditSummary, Suspect
from components.evaluator.artifact import ALL, EvaluationResult, GateReport, GateResult, SliceMetrics
from components.example_validator.artifact import DriftReport, Finding
from components.image_example_gen.artifact import (
    ClassNames,
    DuplicateCounts,
    DuplicateGroup,
    DuplicateImage,
    Quarantine,
    QuarantinedFile,
    SplitCounts,
    Summary,
)
from pipeline.config import loading
from pipeline.config.sections import PipelineConfig
from serving import tfrecord
from serving.local_server.protos import example_pb2
from trainer_module import features, tasks

CLASSES = ("blue", "green", "red")
SPLITS = {"train": 18, "validation": 6, "test": 6}
# In names of files: nothing of this may run, or be read as a path.
HOSTILE = "<img src=x onerror=alert(1)>.png"
LEAKING = ("red/17.png", "red/29.png")
_COMPLETE = mlmd.Execution.COMPLETE
_HISTORY = "epoch,phase,seconds,learning_rate,loss,accuracy,val_loss,val_accuracy\n"
_REPORT = (
    '<!doctype html><meta http-equiv="Content-Security-Policy" content="script-src \'sha256-AAAA\'">'
    "<title>report</title><h1>The report</h1>"
)


def pixels(class_id: int, number: int) -> np.ndarray:
    """An image of one colour with noise, uint8 [h, w, 3]."""
    values = np.random.default_rng(number).integers(0, 80, (20 + number % 5, 24, 3), dtype=np.uint8)
    values[..., 2 - class_id] += 150
    return values


def encode(values: np.ndarray) -> bytes:
    """PNG."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def filename(number: int) -> str:
    """File name of an image, by its number from 0."""
    return HOSTILE if number == 0 else f"{CLASSES[number % 3]}/{number}.png"


def example(number: int) -> bytes:
    """A serialised raw example."""
    values = pixels(number % 3, number)
    encoded = encode(values)
    built = example_pb2.Example()
    feature = built.features.feature
    texts = {
        features.IMAGE_ENCODED: encoded,
        features.IMAGE_FORMAT: b"PNG",
        features.IMAGE_FILENAME: filename(number).encode(),
        features.IMAGE_SHA256: hashlib.sha256(encoded).hexdigest().encode(),
        features.CLASS_TEXT: CLASSES[number % 3].encode(),
        features.SLICE_BRIGHTNESS: b"dark" if number % 2 else b"normal",
    }
    for key, value in texts.items():
        feature[key].bytes_list.value.append(value)
    feature[features.mean_key(features.LUMA)].float_list.value.append(float(-number))
    for key, size in ((features.IMAGE_HEIGHT, values.shape[0]), (features.IMAGE_WIDTH, values.shape[1])):
        feature[key].int64_list.value.append(size)
    return bytes(built.SerializeToString())


@functools.cache
def examples() -> dict[str, bytes]:
    """The files of the examples artifact, by path."""
    files, number = {}, 0
    for split, count in SPLITS.items():
        records = [tfrecord.frame(example(number + index)) for index in range(count)]
        half = count // 2
        files[f"Split-{split}/data_tfrecord-00000-of-00002"] = b"".join(records[:half])
        files[f"Split-{split}/data_tfrecord-00001-of-00002"] = b"".join(records[half:])
        number += count
    return files


def evaluation(accuracy: float) -> EvaluationResult:
    """An evaluation with one slice."""

    def row(name: str, value: float, count: int) -> SliceMetrics:
        return SliceMetrics(
            name=name,
            examples=count,
            metrics={"accuracy": value, "cross_entropy": 1.0 - value},
            support=dict.fromkeys(CLASSES, 2),
            class_metrics={name: {"precision": value, "recall": value, "f1": value} for name in CLASSES},
            confusion_matrix=np.eye(3, dtype=int).tolist(),
        )

    return EvaluationResult(
        task="classification",
        split="test",
        classes=CLASSES,
        count_unit="images",
        metrics=[metric for metric in tasks.get("classification").evaluation.metrics(3) if metric.name != "auc"],
        candidate=[row(ALL, accuracy, 6), row("brightness = dark", accuracy - 0.1, 3)],
    )


def gates(accuracy: float) -> GateReport:
    """One gate: accuracy of at least 0.8."""
    result = GateResult(
        setting="evaluation.thresholds",
        metric="accuracy",
        title="accuracy",
        slice=ALL,
        value=accuracy,
        bound=0.8,
        higher_is_better=True,
        examples=6,
        passed=accuracy >= 0.8,
        detail=f"is {accuracy}; it must be at least 0.8",
    )
    return GateReport(has_baseline=False, results=[result])


def configuration(root: Path) -> PipelineConfig:
    """The configuration of the pipeline."""
    overrides = [f"pipeline.root={root}", "pipeline.name=colors", f"data.path={root / 'images'}"]
    return loading.load("images", overrides=overrides)


def write(recorder: Any, root: Path, *, audit: bool = True) -> Path:
    """Writes two runs: the first is pushed, the second is refused; returns the root.

    Args:
      recorder: The class that writes run histories.
      root: An empty folder.
      audit: Whether DataAudit ran.
    """
    folder = root / "colors"
    folder.mkdir()
    (root / "images").mkdir()
    (root / "images" / "broken.png").write_bytes(b"not an image")
    (root / "images" / "same.png").write_bytes(encode(pixels(1, 3)))
    (root / "secret.png").write_bytes(encode(pixels(1, 4)))
    config = loading.as_toml(configuration(root))
    run = recorder(folder)
    generated = {"examples": run.artifact("examples", examples()), "quarantine": run.artifact("quarantine")}
    ClassNames(names=CLASSES).write(generated["examples"].uri)
    quarantine().write(generated["quarantine"].uri)
    anomalies = run.artifact("anomalies")
    DriftReport(previous_span=None, skew=skew()).write(anomalies.uri)
    for number, accuracy in enumerate((0.9, 0.7), start=1):
        blessed = accuracy >= 0.8
        epochs = "".join(
            f"{epoch},whole,1.5,0.01,{1 / (epoch + 1)},0.9,{1.1 / (epoch + 1)},0.8\n" for epoch in range(4)
        )
        evaluated = run.artifact(f"evaluation-{number}")
        evaluation(accuracy).write(evaluated.uri)
        gates(accuracy).write(evaluated.uri)
        pushed = run.artifact(f"pushed-{number}", pushed=int(blessed), pushed_version="100")
        pushed.custom_properties["pushed_destination"].string_value = str(folder / "serving/colors/100")
        nodes = [
            ("ImageExampleGen", _COMPLETE, {"options": json.dumps({"fingerprint": "abcdef"})}, generated),
            ("ExampleValidator", _COMPLETE, {}, {"anomalies": anomalies}),
            (
                "Trainer",
                _COMPLETE,
                {},
                {"model_run": run.artifact(f"model-{number}", {"history.csv": _HISTORY + epochs})},
            ),
            (
                "Evaluator",
                _COMPLETE,
                {},
                {"evaluation": evaluated, "blessing": run.artifact(f"blessing-{number}", blessed=int(blessed))},
            ),
            ("Pusher", _COMPLETE, {}, {"pushed_model": pushed}),
            (
                "ModelReport",
                _COMPLETE,
                {"configuration": config},
                {"report": run.artifact(f"report-{number}", {"report.html": _REPORT})},
            ),
        ]
        if audit:
            artifact = run.artifact(f"audit-{number}")
            suspects().write(artifact.uri)
            nodes.insert(-1, ("DataAudit", _COMPLETE, {}, {"audit": artifact}))
        run.run(f"2026-01-0{number}T10:00:00.5", *nodes)
    return root


def quarantine() -> Quarantine:
    """One group that leaks, one that does not, and files that are not used."""
    groups = [
        DuplicateGroup(
            kind="exact",
            images=tuple(DuplicateImage(path=f"blue/{n}.png", classes=("blue",), split="train") for n in (3, 6)),
        ),
        DuplicateGroup(
            kind="near",
            images=tuple(
                DuplicateImage(path=path, classes=("red",), split=split)
                for path, split in zip(LEAKING, ("train", "test"), strict=True)
            ),
        ),
    ]
    files = ["broken.png", "same.png", "../secret.png"]
    summary = Summary(
        examples=sum(SPLITS.values()),
        quarantined=len(files),
        reasons={"cannot be decoded": 2, "duplicate with another label": 1},
        splits={
            split: SplitCounts(examples=count, classes=dict.fromkeys(CLASSES, count // 3))
            for split, count in SPLITS.items()
        },
        duplicates={
            "exact": DuplicateCounts(groups=1, duplicates=1, leaking_groups=0),
            "near": DuplicateCounts(groups=1, duplicates=1, leaking_groups=1),
        },
    )
    return Quarantine(
        summary, tuple(QuarantinedFile(path=path, reason="cannot be decoded") for path in files), tuple(groups)
    )


def skew() -> tuple[Finding, ...]:
    """Differences of a number, a class, a format, and a feature that is in no list."""
    rows = [
        (features.mean_key(features.LUMA), None),
        (features.CLASS_TEXT, "red"),
        (features.IMAGE_FORMAT, "PNG"),
        ("dataset", None),
    ]
    return tuple(
        Finding(kind="skew", split="test", feature=name, value=value, detail="differs <b>much</b>")
        for name, value in rows
    )


def suspects() -> Audit:
    """Three suspicious images, one of them for two reasons."""
    rows = [
        (filename(0), "blue", "label issue", 0.99, "red"),
        ("green/1.png", "green", "label issue", 0.97, "blue"),
        ("green/1.png", "green", "outlier", 0.6, ""),
        ("red/2.png", "red", "near duplicate", 0.45, ""),
    ]
    rows_of_audit = tuple(
        Suspect(filename=name, label=label, reason=reason, score=score, proposed_label=proposed)
        for name, label, reason, score, proposed in rows
    )
    summary = AuditSummary(
        images=30, source="the trained network", reasons={"label issue": 2, "outlier": 1, "near duplicate": 1}
    )
    return Audit(summary, rows_of_audit)
