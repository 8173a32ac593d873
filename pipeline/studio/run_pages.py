"""Pages about runs: pipelines, runs, live progress, reports, comparison and rollback."""

from __future__ import annotations

import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from components.evaluator import default_rules
from components.evaluator.artifact import EvaluationResult, GateReport
from components.grad_cam.artifact import PAGE_FILE
from components.image_example_gen import corrections
from components.model_report import gate_tables, metric_tables
from components.model_report.artifact import Report
from components.serving_validator.artifact import ServingCheckReport
from components.stored import IncompatibleArtifactError, Stored
from pipeline.history import comparison
from pipeline.history.metadata_store import Outputs
from pipeline.studio import comparison_tables, pages, progress
from pipeline.studio.pages import number_in, pipeline_of, render, url
from trainer_module import locations, model_versions
from trainer_module.model_versions import VersionError

_RUNS_PER_PAGE = 25
# The report and the explanations are documents of their own: they may not act as a page of the studio.
_SCRIPT_DIGEST = re.compile(r"script-src '(sha256-[A-Za-z0-9+/=]+)'")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_MEDIA_TYPES = {"html": "text/html", "png": "image/png", "json": "application/json"}


def list_pipelines(request: Request) -> Response:
    """Lists all pipelines with their newest run."""
    rows = []
    for pipeline in pages.studio_of(request).pipelines.all():
        try:
            run, error = pipeline.newest_run(), ""
        except Exception as failure:  # one damaged history must not hide the other pipelines
            run, error = None, str(failure)
        served = model_versions.list_versions(pipeline.config.model_base_path).served if not error else ()
        rows.append({"pipeline": pipeline, "run": run, "error": error, "served": served[:1]})
    root = pages.studio_of(request).options.root
    return render(request, "pipelines.html.j2", rows=rows, root=str(root or ""))


def show_pipeline(request: Request) -> Response:
    """Shows the runs of a pipeline, its progress and its versions."""
    pipeline = pipeline_of(request)
    page = number_in(request.query_params, "page", 10**6) or 0
    runs, count = [], 0
    if pipeline.has_runs:
        history = pipeline.runs()
        count = len(history)
        first = count - page * _RUNS_PER_PAGE
        runs = [history.find(str(number)) for number in range(first, max(0, first - _RUNS_PER_PAGE), -1)]
    return render(
        request,
        "pipeline.html.j2",
        pipeline=pipeline,
        tab="",
        runs=runs,
        count=count,
        page=page,
        pages=-(-count // _RUNS_PER_PAGE),
        progress=progress.read(pipeline),
        versions=model_versions.list_versions(pipeline.config.model_base_path),
    )


def show_progress(request: Request) -> Response:
    """Renders the progress of the newest run, which the page requests again and again."""
    pipeline = pipeline_of(request)
    return render(request, "progress.html.j2", pipeline=pipeline, progress=progress.read(pipeline))


def show_run(request: Request) -> Response:
    """Shows one run."""
    pipeline, number = pipeline_of(request), _run_number(request)
    runs = pipeline.runs()
    run, outputs = runs.find(str(number)), runs.outputs(number)
    notes = list[str]()
    gates = _read(GateReport, outputs, "Evaluator", "evaluation", notes)
    checks = _read(ServingCheckReport, outputs, "ServingValidator", "blessing", notes)
    history = progress.history_of(pipeline, runs, number)
    return render(
        request,
        "run.html.j2",
        pipeline=pipeline,
        tab="",
        run=run,
        corrected=corrections.describe(run.corrections) if run.corrections else "",
        notes=notes,
        nodes=runs.nodes(number),
        tables=_evaluation_tables(run.evaluation, gates),
        checks=gate_tables.checks_table(checks.checks) if checks else None,
        charts=progress.curves(pipeline, history),
        settings=sorted(run.settings.items()),
        has_report="report" in outputs.get("ModelReport", {}),
        has_explanations="explanations" in outputs.get("GradCam", {}),
    )


def _evaluation_tables(evaluation: EvaluationResult | None, gates: GateReport | None) -> list[Any]:
    results = gates.results if gates else ()
    tables: list[Any] = []
    if evaluation:
        tables = [metric_tables.metrics_table(evaluation), metric_tables.class_table(evaluation, results)]
        if slices := metric_tables.slice_table(evaluation, results):
            tables.append(slices)
        if gates:
            descriptions = {metric.name: metric.description for metric in evaluation.metrics}
            rules = default_rules.descriptions(evaluation.task)
            tables.append(gate_tables.thresholds_table(results, descriptions | rules))
    return tables


def _read(kind: type[Any], outputs: Outputs, node: str, output: str, notes: list[str]) -> Any:
    """Reads the file of an artifact; None, and a note, if that fails."""
    artifact = outputs.get(node, {}).get(output)
    if artifact is None:
        return None
    assert issubclass(kind, Stored)
    try:
        return kind.read(artifact.uri)
    except (OSError, IncompatibleArtifactError) as error:
        notes.append(str(error))
        return None


def show_report(request: Request) -> Response:
    """Serves the report of a run, without the rights of a page of the studio."""
    pipeline, number = pipeline_of(request), _run_number(request)
    artifact = pipeline.runs().outputs(number).get("ModelReport", {}).get("report")
    if artifact is None:
        raise HTTPException(404, f"Run {number} has no report.")
    html = Report.read(artifact.uri).html
    digest = _SCRIPT_DIGEST.search(html)
    scripts = f"script-src '{digest[1]}'; " if digest else ""
    return _document(html.encode(), "text/html", scripts)


def show_explanations(request: Request) -> Response:
    """Serves a file of GradCam's explanations."""
    pipeline, number = pipeline_of(request), _run_number(request)
    artifact = pipeline.runs().outputs(number).get("GradCam", {}).get("explanations")
    parts = (request.path_params["file"] or PAGE_FILE).split("/")
    kind = _MEDIA_TYPES.get(parts[-1].rpartition(".")[2])
    if artifact is None or kind is None or not all(map(_FILE_NAME.fullmatch, parts)):
        raise HTTPException(404, f"Run {number} has no such explanation.")
    try:
        content = locations.read(locations.join(artifact.uri, *parts))
    except (FileNotFoundError, IsADirectoryError):
        raise HTTPException(404, f"Run {number} has no such explanation.") from None
    return _document(content, kind)


def _document(content: bytes, media_type: str, scripts: str = "") -> Response:
    # With scripts, its origin is an opaque one; without, it may load its own images.
    sandbox = "allow-scripts allow-downloads" if scripts else "allow-same-origin"
    policy = f"sandbox {sandbox}; default-src 'none'; {scripts}img-src 'self' data:; style-src 'unsafe-inline'; "
    headers = {"Content-Security-Policy": policy + "frame-ancestors 'none'"}
    return Response(content, media_type=media_type, headers=headers)


def compare_runs(request: Request) -> Response:
    """Compares two runs."""
    pipeline = pipeline_of(request)
    first, second = (request.query_params.get(key, "") for key in ("first", "second"))
    if not first or not second:
        raise HTTPException(400, "Choose two runs.")
    runs = pipeline.runs()
    compared = comparison.compare(runs.find(first), runs.find(second))
    return render(
        request,
        "compare.html.j2",
        pipeline=pipeline,
        tab="",
        compared=compared,
        tables=comparison_tables.tables(compared),
        same_task=compared.evaluation is not None or not (compared.first.evaluation and compared.second.evaluation),
    )


def confirm_rollback(request: Request) -> Response:
    """Asks for a confirmation of a rollback, and says what it does."""
    pipeline = pipeline_of(request)
    to = number_in(request.query_params, "to", 10**18)
    versions = model_versions.list_versions(pipeline.config.model_base_path)
    if to is None or to not in versions.served + versions.withdrawn:
        raise HTTPException(404, f"There is no version {to}.")
    return render(
        request,
        "rollback.html.j2",
        pipeline=pipeline,
        tab="",
        to=to,
        versions=versions,
        withdrawn=[version for version in versions.served if version > to],
    )


async def roll_back(request: Request) -> Response:
    """Rolls back to the version that was confirmed, if the newest version is still the one that the page showed."""
    pipeline = pipeline_of(request)
    form = await pages.form_of(request)
    to, newest = number_in(form, "to", 10**18), number_in(form, "newest", 10**18)
    served = model_versions.list_versions(pipeline.config.model_base_path).served
    if to is None or newest != (served[0] if served else None):
        message = "Another version has become the newest meanwhile. Nothing was changed: look at the versions again."
        raise HTTPException(409, message)
    try:
        model_versions.roll_back(pipeline.config.model_base_path, to)
    except VersionError as error:
        raise HTTPException(409, str(error)) from None
    return RedirectResponse(url("p", pipeline.name) + "#versions", status_code=303)


def _run_number(request: Request) -> int:
    return int(request.path_params["number"])


ROUTES = [
    Route("/", list_pipelines),
    Route("/p/{name}", show_pipeline),
    Route("/p/{name}/progress", show_progress),
    Route("/p/{name}/compare", compare_runs),
    Route("/p/{name}/rollback", confirm_rollback),
    Route("/p/{name}/rollback", roll_back, methods=["POST"]),
    Route("/p/{name}/runs/{number:int}", show_run),
    Route("/p/{name}/runs/{number:int}/report", show_report),
    Route("/p/{name}/runs/{number:int}/explanations/{file:path}", show_explanations),
]
