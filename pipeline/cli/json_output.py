"""The objects that commands print with `--json`. `tfx-vision schema COMMAND` prints the JSON schema of one.

The files in `schemas/` are the contract; `pytest tests/pipeline/test_json_output.py --update-goldens` writes them. A
renamed key keeps its old name beside the new one for one release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from components.data_audit.artifact import Audit
    from components.evaluator.artifact import GateResult
    from pipeline.execution import results
    from pipeline.execution.outcome import Outcome
    from pipeline.history import run_history
    from pipeline.history.comparison import Comparison, Differences
    from pipeline.kubeflow.submission import Submission
    from pipeline.labeling.next_span import WrittenSpan
    from pipeline.labeling.selected_images import SelectedImages
    from pipeline.preview.network_summary import Inspection
    from serving.monitor.result import MonitorResult
    from trainer_module import architecture


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no NaN and no infinity: a number that is undefined is null.
Number = Annotated[float | None, BeforeValidator(_finite)]
Metrics = dict[str, Number]


class JsonObject(BaseModel):
    """An object, or a part of one, that a command prints."""

    # A later release may add keys: the schema does not forbid them.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        json_schema_extra=lambda schema: schema.pop("additionalProperties", None),
    )

    def as_text(self) -> str:
        """One line of JSON."""
        # An optional key that is not set is absent.
        return json.dumps(self.model_dump(mode="json", exclude_unset=True), ensure_ascii=False, allow_nan=False)


# --- run --------------------------------------------------------------------------------------------------------


class Node(JsonObject):
    """One node of a run."""

    id: str
    state: Literal["complete", "cached", "skipped", "refused", "failed"]
    seconds: float
    """Wall time."""


class Refusal(JsonObject):
    """A value that a gate compared with a bound, or another reason why a gate refused."""

    gate: str
    """The node that refused."""
    metric: str = Field(serialization_alias="figure")
    """The metric."""
    applies_to: str = Field(serialization_alias="whom")
    """The class, slice or split; `all` for all examples."""
    value: Number
    bound: Number
    missed_by: Number
    """Distance of the value from the bound."""
    detail: str
    """The whole reason as one line of text."""


class DefaultRule(JsonObject):
    """The result of a default rule, which refuses models that have learned nothing."""

    name: str
    """The rule; `evaluation.disabled_rules` disables it."""
    result: Literal["passed", "failed", "not compared"]
    value: Number
    bound: Number
    detail: str
    """All of it as one line of text."""


class Tuning(JsonObject):
    """The result of Tuner."""

    objective: str
    value: float
    """The best value of the objective."""
    values: dict[str, int | float]
    """The hyperparameters of the best trial: `section.key` → value."""
    trials: int
    failed: int
    """Failed trials."""
    table: str
    """CSV file of all trials."""


class Duplicates(JsonObject):
    """Images that occur several times in the dataset."""

    groups: int
    duplicates: int = Field(serialization_alias="copies")
    """Images that are duplicates of others."""
    leaking_groups: int = Field(serialization_alias="astride")  # codespell:ignore
    """Groups that span several splits: leakage."""


class Drift(JsonObject):
    """The comparison with the previous span, and of the splits with each other."""

    previous_span: int | None
    drift: list[str] = Field(serialization_alias="found")
    """Drift from the previous span, one line per feature and split."""
    skew: list[str] | None
    """Differences between the splits; null if they were not compared."""


class QuarantinedFile(JsonObject):
    """A file that cannot be used."""

    path: str
    reason: str


class AmbiguousPair(JsonObject):
    """Two classes that are confused in both directions."""

    classes: tuple[str, str]
    images: int
    """Number of images of one class for which the other is proposed."""
    share: float
    """The same, as a share of the images of both."""


class AuditCounts(JsonObject):
    """The counts of an audit."""

    images: int
    source: str
    """Source of the embeddings."""
    agreement: Number
    """Share of the labels that an out-of-fold classifier predicts."""
    reasons: dict[str, int]
    """Number of suspicious images by reason."""
    ambiguous: list[AmbiguousPair]


class RunOutput(JsonObject):
    """Output of `tfx-vision run --json`. A key whose node did not run is null or empty."""

    status: Literal["done", "refused", "failed"]
    nodes: list[Node]
    """In the order in which they ran."""
    tuning: Tuning | None
    task: str | None
    metrics: Metrics
    """Metrics over all examples."""
    classes: dict[str, Metrics]
    """Metrics per class."""
    confusion_matrix: list[list[int]]
    """Number of examples, pixels or boxes by [actual class id][predicted class id]; of boxes the last is background."""
    slices: dict[str, Metrics]
    """Metrics per slice."""
    blessed: bool | None
    """Verdict of Evaluator."""
    servable: bool | None
    """Verdict of ServingValidator."""
    comparison: str | None
    """How the model was compared with the last blessed one if their class lists differ."""
    rules: list[DefaultRule]
    """Default rules of Evaluator, at least one result per rule."""
    warnings: list[str]
    """Problems that ImageExampleGen detected in the images; thresholds at or below the level of chance."""
    not_held: list[Refusal]
    """Thresholds of Evaluator that could not be evaluated."""
    refusals: list[Refusal]
    """Reasons of all gates that refused."""
    pushed_version: int | None
    serving_dir: str | None
    """Folder of the pushed version."""
    audit: AuditCounts | None
    """Counts of DataAudit."""
    suspects: str | None
    """CSV file of DataAudit with the images to review."""
    report: str | None
    """HTML file of ModelReport."""
    explanations: str | None
    """Index page of GradCam."""
    faithfulness: Metrics
    """Faithfulness metrics of GradCam."""
    examples: int | None
    """Images that were used."""
    span: int | None
    """The newest span that was read."""
    duplicates: dict[Literal["exact", "near"], Duplicates] | None
    drift: Drift | None
    quarantined: list[QuarantinedFile]
    corrections: dict[Literal["relabel", "drop", "keep"], int]
    """Number of images by action of `data.corrections`."""
    bit_depth: int | None
    """Bits that are read from images of 16 bits per channel; null if there are none, or `data.window` is set."""
    window: tuple[int, int] | None
    """Values of images of 16 bits per channel that are read as black and white; null if there are none."""
    log: str
    """Log file."""
    error: str | None
    """The failed node and its error message."""


def run_output(outcome: Outcome) -> RunOutput:
    """Describes the outcome of a run."""
    result = outcome.result
    slices = result.slices if result else ()
    data, drift = (result.data, result.drift) if result else (None, None)
    return RunOutput.model_validate(
        {
            "status": outcome.status,
            "nodes": [
                {"id": node.id, "state": node.state, "seconds": round(node.seconds, 2)} for node in outcome.nodes
            ],
            "tuning": result and result.tuning,
            "task": result.evaluation.task if result and result.evaluation else None,
            "metrics": slices[0].metrics_and_examples if slices else {},
            "classes": slices[0].class_metrics_and_support if slices else {},
            "confusion_matrix": slices[0].confusion_matrix if slices else [],
            "slices": {entry.name: entry.metrics_and_examples for entry in slices[1:]},
            "blessed": result and result.blessed,
            "servable": result and result.servable,
            "comparison": (result.gates.comparison or None) if result and result.gates else None,
            "rules": [_rule(gate) for gate in result.gates.rules] if result and result.gates else [],
            "warnings": [
                *(data.warnings if data else ()),
                *(result.gates.warnings if result and result.gates else ()),
            ],
            "not_held": [_refusal(row) for row in result.not_compared] if result else [],
            "refusals": [_refusal(row) for row in outcome.refusals],
            "pushed_version": result and result.pushed_version,
            "serving_dir": result and result.serving_dir,
            "audit": result and result.audit and result.audit.model_dump(exclude={"format"}),
            "suspects": result and result.suspects,
            "report": result and result.report,
            "explanations": result and result.explanations,
            "faithfulness": result.faithfulness.values if result and result.faithfulness else {},
            "examples": data and data.examples,
            "span": data and data.span,
            "duplicates": data and {kind: counts.model_dump() for kind, counts in data.duplicates.items()},
            "drift": drift
            and {
                "previous_span": drift.previous_span,
                "drift": list(map(str, drift.drift)),
                "skew": None if drift.skew is None else list(map(str, drift.skew)),
            },
            "quarantined": [file.model_dump() for file in result.quarantined] if result else [],
            "corrections": data.corrections if data else {},
            "bit_depth": data and data.bit_depth,
            "window": data and data.window,
            "log": str(outcome.log_path),
            "error": f"{outcome.error[0]}: {outcome.cause}" if outcome.error else None,
        }
    )


def _rule(gate: GateResult) -> DefaultRule:
    return DefaultRule(
        name=gate.name,
        result="not compared" if gate.passed is None else "passed" if gate.passed else "failed",
        value=gate.value,
        bound=gate.bound,
        detail=f"{gate.subject} {gate.detail}",
    )


def _refusal(row: results.Refusal) -> Refusal:
    return Refusal.model_validate(row._asdict())


# --- audit --------------------------------------------------------------------------------------------------------


class Suspect(JsonObject):
    """An image that should be reviewed, for one reason."""

    filename: str
    label: str
    """Class names, with `|` between those of a set."""
    reason: str
    score: float
    """Range [0, 1], higher is more suspicious."""
    proposed_label: str
    """Empty if there is none."""


class AuditOutput(AuditCounts):
    """Output of `tfx-vision audit --json`."""

    suspects: list[Suspect]
    """The most suspicious first."""
    table: str
    """CSV file of the suspects."""
    unusable: list[str]
    """Files that were skipped, with reasons."""


def audit_output(result: Audit, table: str, unusable: list[str]) -> AuditOutput:
    """Describes an audit."""
    return AuditOutput.model_validate(
        {
            **result.summary.model_dump(exclude={"format"}),
            "suspects": [suspect.model_dump() for suspect in result.suspects],
            "table": table,
            "unusable": unusable,
        }
    )


# --- monitor ----------------------------------------------------------------------------------------------------


class MonitoredWindow(JsonObject):
    """The tested part of a request log."""

    log: str
    """Prefix of the log."""
    first: float
    """Time of the first request, seconds since 1970."""
    last: float
    requests: int
    images: int
    labelled: int
    """Number of images with feedback."""


class DriftTest(JsonObject):
    """One statistical test of the window against the reference."""

    kind: Literal["inputs", "embeddings", "outputs", "classes", "confidence", "quality"]
    name: str
    """The tested value, such as `brightness`, a class or a slice; empty if the kind has one test."""
    method: str
    statistic: float
    p_value: float
    adjusted_p_value: float
    """Corrected for the number of tests; drift if it is at most `false_alarm_rate`."""
    drift: bool
    reference: Number
    """Mean of the value in the reference; null for values without one."""
    window: Number
    """The same in the window."""


class SliceQuality(JsonObject):
    """The quality of the predictions in a slice, by feedback."""

    slice: str
    """`all`, or such as `brightness=dark`, `label=cat`."""
    images: int
    value: float
    low: float
    """Lower end of the 95 % confidence interval."""
    high: float
    reference: Number
    """The same on the test split; null without an image of this slice."""
    reference_low: Number
    reference_high: Number
    worse: bool
    """Whether the window is significantly worse."""


class MonitorOutput(JsonObject):
    """Output of `tfx-vision monitor --json`; with `--follow` one object per window."""

    created: float
    """Time of the test, seconds since 1970."""
    model: str
    version: int
    """The version whose requests were compared with its own reference."""
    alarm: bool
    false_alarm_rate: float
    """Upper bound of the probability of an alarm without drift, for all tests of a window together."""
    window: MonitoredWindow
    reference_images: int
    """Images of the test split in the reference."""
    split_images: int | None
    """All images of the test split; null if the result does not have them."""
    tests: list[DriftTest]
    """The smallest p-value first."""
    quality_name: str
    """The quality that feedback measures; empty without feedback."""
    quality: list[SliceQuality]
    """`all` first."""
    notes: list[str]
    """Values, requests and feedback that were not used, and why."""
    page: str
    """HTML page."""
    metrics: str
    """Prometheus metrics."""


def monitor_output(result: MonitorResult, page: str, metrics: str) -> MonitorOutput:
    """Describes the test of a window."""
    return MonitorOutput.model_validate({**result.model_dump(exclude={"format"}), "page": page, "metrics": metrics})


# --- select, label ----------------------------------------------------------------------------------------------


class NotUsed(JsonObject):
    """An image that was skipped."""

    name: str
    reason: str


class SelectedImage(JsonObject):
    """An image whose label would help the model."""

    filename: str
    """Relative to the folder of the selection."""
    reason: Literal["uncertain", "novel"]
    uncertainty: float
    """Range 0 to 1."""
    novelty: float
    """Above 0.5 for an image that would be an outlier among the labelled ones."""
    proposed_label: str
    """Class names of the prediction, with `|` between several; empty for masks."""
    request_id: str
    """Id of the request that contained the image; empty if it is from a folder."""
    source: str
    """Path of the image, or `request log`."""


class SelectOutput(JsonObject):
    """Output of `tfx-vision select --json`."""

    output_dir: str
    model: str
    """The model that judged the images."""
    candidates: int
    """Number of usable images among which was chosen."""
    labelled: int
    """Number of images with labels, with which they were compared."""
    known: int
    """Candidates that are in the dataset already, or nearly so."""
    repeated: int
    """Candidates with the same bytes as another one."""
    near_duplicates: int
    """Candidates that look like a selected image."""
    unusable: list[NotUsed]
    """Files that are not images."""
    files: list[str]
    """The table, and the files for labelling programs."""
    images: list[SelectedImage]
    """The most useful first."""


class LabelOutput(JsonObject):
    """Output of `tfx-vision label --json`."""

    span: int
    """Number of the new span."""
    path: str
    """Its folder."""
    images: int
    """Number of images in it."""
    known: list[str]
    """Images that the dataset contained already, with the same label."""
    skipped: list[NotUsed]
    """Images without a confirmed label, and others that cannot be used."""


def select_output(result: SelectedImages, output_dir: str, model: str) -> SelectOutput:
    """Describes a selection."""
    from pipeline.labeling.formats.table import describe

    return SelectOutput(
        output_dir=output_dir,
        model=model,
        candidates=result.candidates,
        labelled=result.labelled,
        known=result.selection.known,
        repeated=result.selection.repeated,
        near_duplicates=result.selection.near_duplicates,
        unusable=_not_used(result.unusable),
        files=list(result.files),
        images=[
            SelectedImage(
                filename=image.path,
                reason=cast(Literal["uncertain", "novel"], image.reason),
                uncertainty=image.uncertainty,
                novelty=image.novelty,
                proposed_label=describe(image.proposal) if image.proposal is not None else "",
                request_id=image.request_id,
                source=image.source,
            )
            for image in result.images
        ],
    )


def label_output(written: WrittenSpan, skipped: Iterable[tuple[str, str]]) -> LabelOutput:
    """Describes a span that was written."""
    return LabelOutput(
        span=written.number,
        path=written.path,
        images=written.images,
        known=list(written.known),
        skipped=_not_used(skipped),
    )


def _not_used(pairs: Iterable[tuple[str, str]]) -> list[NotUsed]:
    return [NotUsed(name=name, reason=reason) for name, reason in pairs]


# --- history, compare, rollback ---------------------------------------------------------------------------------


class Verdict(JsonObject):
    """The end of a run."""

    status: Literal["pushed", "rolled back", "refused", "failed", "unfinished", "stopped"]
    node: str
    """The gate that refused, the node that failed or is running, or the last one that ran."""


class Dataset(JsonObject):
    """The dataset of a run."""

    examples: int | None
    splits: dict[str, int]
    """Number of images per split."""
    fingerprint: str | None
    """Digest of the paths, sizes and modification times of the files."""
    span: int | None


class MainMetric(JsonObject):
    """The main metric of the task, over all examples."""

    name: str
    value: Number


class Run(JsonObject):
    """One run of a pipeline."""

    number: int
    """1 for the oldest."""
    id: str
    """ISO time of its start."""
    verdict: Verdict
    version: int | None
    """The pushed version."""
    data: Dataset
    metric: MainMetric | None
    reasons: list[str]
    """Reasons of the gates that refused."""


class HistoryOutput(JsonObject):
    """Output of `tfx-vision history --json`."""

    runs: list[Run]
    """The newest first."""


class Difference(JsonObject):
    """A metric of two runs."""

    first: Number
    second: Number
    change: Number
    """second - first; null if one is missing."""
    better: bool | None
    """Whether the second value is better; null for counts, equal and missing values."""


class Pair(JsonObject):
    """Two values that differ."""

    first: Any
    second: Any


class CompareOutput(JsonObject):
    """Output of `tfx-vision compare --json`."""

    first: Run
    second: Run
    metrics: dict[str, Difference]
    """Over all examples."""
    classes: dict[str, dict[str, Difference]]
    slices: dict[str, dict[str, Difference]]
    settings: dict[str, Pair]
    """`section.key` → the values of both runs, if they differ."""
    data: dict[str, Pair]
    """Properties of the datasets that differ."""


class RollbackOutput(JsonObject):
    """Output of `tfx-vision rollback --json`."""

    base_path: str
    """The folder of versions."""
    served: list[int]
    """Versions that model servers see, the newest first."""
    withdrawn: list[int]


def history_run(run: run_history.Run) -> Run:
    """Describes one run of the history."""
    metric = {"name": run.main_metric.name, "value": run.main_value} if run.main_metric else None
    return Run.model_validate(
        {
            "number": run.number,
            "id": run.id,
            "verdict": run.verdict._asdict(),
            "version": run.version,
            "data": {
                "examples": run.examples,
                "splits": {split: counts.examples for split, counts in run.splits.items()},
                "fingerprint": run.fingerprint,
                "span": run.span,
            },
            "metric": metric,
            "reasons": run.reasons,
        }
    )


def compare_output(comparison: Comparison) -> CompareOutput:
    """Describes the differences of two runs."""

    def differences(metrics: Differences) -> dict[str, Difference]:
        return {
            name: Difference(first=pair.first, second=pair.second, change=pair.change, better=pair.is_better)
            for name, pair in metrics.items()
        }

    def pairs(values: Mapping[str, tuple[Any, Any]]) -> dict[str, Pair]:
        return {key: Pair(first=first, second=second) for key, (first, second) in values.items()}

    return CompareOutput(
        first=history_run(comparison.first),
        second=history_run(comparison.second),
        metrics=differences(comparison.metrics),
        classes={name: differences(metrics) for name, metrics in comparison.classes.items()},
        slices={name: differences(metrics) for name, metrics in comparison.slices.items()},
        settings=pairs(comparison.settings),
        data=pairs(comparison.data),
    )


# --- predict, segment, detect, explain, similar -----------------------------------------------------------------


class ImageError(JsonObject):
    """An image without a response."""

    image: str
    code: str
    """Status code of gRPC: `INVALID_ARGUMENT`, for one."""
    message: str


class ClassScore(JsonObject):
    """A class and its probability."""

    label: str
    score: float


class Prediction(JsonObject):
    """The predicted class of an image."""

    image: str
    label: str
    score: float
    top: list[ClassScore]
    """The `--top-k` best classes, the best first; of a multi-label model the predicted ones by default."""
    labels: list[ClassScore] | None = None
    """The predicted classes of a multi-label model, by class id; absent for one class per image, or with `--top-k`."""


class PredictOutput(JsonObject):
    """Output of `tfx-vision predict --json`."""

    predictions: list[Prediction]
    errors: list[ImageError]


class Mask(JsonObject):
    """The predicted mask of an image."""

    image: str
    mask: str
    """PNG file of class ids."""
    class_pixels: list[int]
    """Number of pixels by class id."""


class SegmentOutput(JsonObject):
    """Output of `tfx-vision segment --json`."""

    masks: list[Mask]
    errors: list[ImageError]


class DetectedObject(JsonObject):
    """One object in an image."""

    label: str | None
    """The name of its class; null if the model does not return names."""
    class_id: int
    """Its class, from 1."""
    score: float
    box: tuple[float, float, float, float]
    """(ymin, xmin, ymax, xmax), relative to the upright image, range [0, 1]."""


class DetectedImage(JsonObject):
    """The objects in an image."""

    image: str
    drawing: str
    """PNG file: the image with the boxes, enlarged if it is small."""
    min_score: float
    """Smallest score of these objects: `--min-score`, or the served threshold of the model."""
    objects: list[DetectedObject]
    """The best first."""


class DetectOutput(JsonObject):
    """Output of `tfx-vision detect --json`."""

    images: list[DetectedImage]
    errors: list[ImageError]


class Explanation(JsonObject):
    """The Grad-CAM explanation of an image."""

    image: str
    label: str | None
    """The explained class; null if the model does not return names."""
    class_id: int
    score: float
    overlay: str
    """PNG file: the image with the heat map over it."""
    box: tuple[float, float, float, float] | None = None
    """With `--every-detection`, the box (ymin, xmin, ymax, xmax), relative to the upright image."""
    heatmap: str | None = None
    """NPY file of the heat map, with `--heatmaps`."""


class ExplainOutput(JsonObject):
    """Output of `tfx-vision explain --json`."""

    explanations: list[Explanation]
    errors: list[ImageError]


class SimilarImage(JsonObject):
    """An image that is similar to the query."""

    image: str
    similarity: float
    """Cosine of the embeddings, in [-1, 1]."""


class SimilarOutput(JsonObject):
    """Output of `tfx-vision similar --json`."""

    image: str
    """The query."""
    searched: int
    """Number of images that were compared with it."""
    similar: list[SimilarImage]
    """The most similar first."""
    errors: list[ImageError]


# --- submit, model, presets, doctor -----------------------------------------------------------------------------


class SubmitOutput(JsonObject):
    """Output of `tfx-vision submit --json`."""

    status: Literal["started", "scheduled", "pushed", "refused", "failed"]
    run_id: str
    """Id of the run, or of the recurring run."""
    url: str
    """Its page."""
    tasks: dict[str, str]
    """State of every node that has started."""
    detail: str | None
    """Why the run was not successful."""


class ReceptiveField(JsonObject):
    """The part of the image that one position of a feature map depends on."""

    size: tuple[int | float, int | float] | None
    """Height and width, pixels; null for the whole image."""
    stride: tuple[int, int]
    """Distance of neighbouring positions, pixels: down and across."""


class Layer(JsonObject):
    """One use of a layer."""

    name: str
    type: str
    output_shapes: list[list[int | None]]
    """Shape of every output, without the batch dimension."""
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    parameters: int
    trainable_parameters: int
    macs: int | None
    """Multiply-adds for one image; null if unknown."""
    receptive_field: ReceptiveField | None
    layers: list[Layer]
    """The layers of a network within the network."""


class ModelOutput(JsonObject):
    """Output of `tfx-vision model --json`."""

    model: str
    task: str
    input_shape: list[int]
    num_classes: int
    num_classes_from: str
    """The source of the number of classes."""
    note: str | None
    """Why the number of classes is assumed."""
    parameters: int
    trainable_parameters: int
    macs: int | None
    """Multiply-adds for one image; null if unknown."""
    feature_map: Layer | None
    """The layer that Grad-CAM explains."""
    layers: list[Layer]


class PresetsOutput(JsonObject):
    """Output of `tfx-vision presets --json`."""

    presets: dict[str, str]
    """Name → description."""


class Check(JsonObject):
    """One check of the machine."""

    name: str
    passed: bool
    detail: str


class DoctorOutput(JsonObject):
    """Output of `tfx-vision doctor --json`."""

    checks: list[Check]


def submit_output(submission: Submission) -> SubmitOutput:
    """Describes a submitted run."""
    return SubmitOutput.model_validate(
        {
            "status": submission.status,
            "run_id": submission.run_id,
            "url": submission.url,
            "tasks": submission.tasks,
            "detail": submission.detail or None,
        }
    )


def model_output(inspection: Inspection) -> ModelOutput:
    """Describes a network."""
    network, transform = inspection.architecture, inspection.config.transform
    return ModelOutput(
        model=inspection.config.model.name,
        task=inspection.config.task.name,
        input_shape=[*transform.image_size, transform.num_channels],
        num_classes=inspection.num_classes.number,
        num_classes_from=inspection.num_classes.origin,
        note=inspection.num_classes.problem or None,
        parameters=network.parameters,
        trainable_parameters=network.trainable_parameters,
        macs=network.macs,
        feature_map=network.feature_map and _layer(network.feature_map),
        layers=[_layer(layer) for layer in network.layers],
    )


def _layer(layer: architecture.Layer) -> Layer:
    field = layer.receptive_field
    return Layer.model_validate(
        {
            **layer._asdict(),
            "receptive_field": field
            and ReceptiveField(size=None if field.is_whole_image else field.size, stride=field.stride),
            "layers": [_layer(inner) for inner in layer.layers],
        }
    )


# --- Schemas ----------------------------------------------------------------------------------------------------

OUTPUTS: Mapping[str, type[JsonObject]] = {
    "run": RunOutput,
    "submit": SubmitOutput,
    "predict": PredictOutput,
    "segment": SegmentOutput,
    "detect": DetectOutput,
    "explain": ExplainOutput,
    "similar": SimilarOutput,
    "audit": AuditOutput,
    "monitor": MonitorOutput,
    "select": SelectOutput,
    "label": LabelOutput,
    "model": ModelOutput,
    "history": HistoryOutput,
    "compare": CompareOutput,
    "rollback": RollbackOutput,
    "presets": PresetsOutput,
    "doctor": DoctorOutput,
}


def schema(command: str) -> str:
    """Generates the JSON schema of a command's output, as text."""
    document = {"$schema": GenerateJsonSchema.schema_dialect}
    document |= OUTPUTS[command].model_json_schema(mode="serialization")
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
