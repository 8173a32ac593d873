"""The page that corrects labels: a review queue with keyboard control."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from components.image_example_gen.errors import DatasetError
from pipeline.studio import data_pages, pages, review, selections, thumbnails
from pipeline.studio.dataset import Dataset
from pipeline.studio.journal import Decision
from pipeline.studio.pages import number_in, pipeline_of, render, url
from pipeline.studio.pipelines import StudioPipeline
from pipeline.studio.review import InvalidDecisionError, Review, ReviewItem
from trainer_module.image_statistics import decode_rgb

_PAGE = 50
_MOST_BODY_BYTES = 64 * 1024
_MOST_SELECTED = 10_000


def show(request: Request) -> Response:
    """Shows the page."""
    pipeline = pipeline_of(request)
    if page := data_pages.waiting_page(request, pipeline, "correct"):
        return page
    dataset = data_pages.dataset_of(request, pipeline)
    opened = _review(request, pipeline)
    queue = opened.queue(dataset, number_in(request.query_params, "image"))
    return render(
        request,
        "correct.html.j2",
        pipeline=pipeline,
        tab="correct",
        dataset=dataset,
        image=request.query_params.get("image", ""),
        log=pages.studio_of(request).options.request_log,
        selection=selections.newest(pipeline),
        num_confirmed=len(opened.confirmed()),
        num_undecided=len(opened.undecided()),
        progress=review.progress(queue, opened.journal.decisions()),
        can_relabel=not dataset.has_places,
        redrawn_files=_redrawn_files(dataset),
        num_redrawn=len(opened.redrawn()) if dataset.has_places else 0,
        redrawn_folder=opened.redrawn_folder,
        takes_sets=dataset.task.takes_label_sets,
        corrections=opened.corrections_path,
        has_corrections=opened.corrections_path.is_file(),
    )


def _redrawn_files(dataset: Dataset) -> list[str]:
    """Returns the names of the files with masks or boxes that are drawn again; empty if labels are classes."""
    if not dataset.has_places:
        return []
    from pipeline.labeling import formats

    return formats.files_for(dataset.task.label_features)


def list_queue(request: Request) -> Response:
    """Returns a part of the queue, with the decisions so far."""
    pipeline = pipeline_of(request)
    dataset, opened = data_pages.dataset_of(request, pipeline), _review(request, pipeline)
    offset = number_in(request.query_params, "offset", 10**9) or 0
    decisions = opened.journal.decisions()
    queue = opened.queue(dataset, number_in(request.query_params, "image"))
    if request.query_params.get("open"):
        # The first image without a decision, with a page around it.
        index = next((number for number, item in enumerate(queue) if item.key not in decisions), 0)
        offset = index - index % _PAGE
    items = [_item(pipeline, dataset, item, decisions) for item in queue[offset : offset + _PAGE]]
    return JSONResponse({"offset": offset, "items": items, "progress": review.progress(queue, decisions)})


def _item(
    pipeline: StudioPipeline, dataset: Dataset, item: ReviewItem, decisions: dict[str, Decision]
) -> dict[str, Any]:
    value: dict[str, Any] = {**item._asdict(), "score": round(item.score, 4), "decision": None}
    if item.source == "log":
        value["image_url"] = value["thumbnail"] = url("p", pipeline.name, "correct", "selected", key=item.key)
    row = dataset.catalog.image(item.image) if item.image is not None else None
    if row is not None:
        card = data_pages.card(pipeline, dataset, row)
        value |= {key: card[key] for key in ("url", "thumbnail")}
        form = "drawn" if dataset.has_places else "file"
        value["image_url"] = url("p", pipeline.name, "images", row.id, form, key=dataset.artifacts.key)
    if (decision := decisions.get(item.key)) is not None:
        value["decision"] = {"action": decision.action, "new_label": decision.new_label}
    return value


async def decide(request: Request) -> Response:
    """Stores a decision; responds only when it is on the disk."""
    body = _object(await request.body())
    return JSONResponse(await run_in_threadpool(_decide, request, body))


def _decide(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    pipeline = pipeline_of(request)
    dataset, opened = data_pages.dataset_of(request, pipeline), _review(request, pipeline)
    image = body.get("image")
    queue = opened.queue(dataset, image if isinstance(image, int) else None)
    item = next((entry for entry in queue if entry.key == body.get("key")), None)
    if item is None:
        raise HTTPException(404, "This image is not in the queue any more. Reload the page.")
    try:
        opened.decide(item, str(body.get("action", "")), str(body.get("new_label", "")), dataset)
    except InvalidDecisionError as error:
        raise HTTPException(422, str(error)) from None
    return {"progress": review.progress(queue, opened.journal.decisions())}


async def undo(request: Request) -> Response:
    """Takes the last decision back."""
    return JSONResponse(await run_in_threadpool(_undo, request))


def _undo(request: Request) -> dict[str, Any]:
    pipeline = pipeline_of(request)
    dataset, opened = data_pages.dataset_of(request, pipeline), _review(request, pipeline)
    undone = opened.undo()
    decisions = opened.journal.decisions()
    decision = decisions.get(undone.key) if undone else None
    return {
        "key": undone.key if undone else None,
        "filename": undone.filename if undone else None,
        "decision": {"action": decision.action, "new_label": decision.new_label} if decision else None,
        "progress": review.progress(opened.queue(dataset), decisions),
    }


async def select(request: Request) -> Response:
    """Starts the selection of images of the request log."""
    body = _object(await request.body())
    return JSONResponse(await run_in_threadpool(_select, request, body))


def _select(request: Request, body: dict[str, Any]) -> dict[str, Any]:
    pipeline, studio = pipeline_of(request), pages.studio_of(request)
    num = body.get("num")
    if studio.options.request_log is None:
        raise HTTPException(400, "Start the studio with --request-log PREFIX.")
    if not isinstance(num, int) or not 0 < num <= _MOST_SELECTED:
        raise HTTPException(400, f"num is a number from 1 to {_MOST_SELECTED}.")
    model = pages.model_name(request, pipeline)
    studio.selections.start(pipeline, studio.options.request_log, model, studio.server.client(model), num)
    return _selection_state(request)


def show_selection(request: Request) -> Response:
    """Returns the state of the selection."""
    return JSONResponse(_selection_state(request))


def _selection_state(request: Request) -> dict[str, Any]:
    job = pages.studio_of(request).selections.job(pipeline_of(request))
    return {"running": False} if job is None else {"running": job.is_running, "step": job.step, "error": job.error}


def send_selected(request: Request) -> Response:
    """Sends an image of the request log, with its proposed mask or boxes; only images of the newest selection."""
    pipeline = pipeline_of(request)
    dataset, newest = data_pages.dataset_of(request, pipeline), selections.newest(pipeline)
    key = request.query_params.get("key", "")
    image = (
        next((entry for entry in newest[1].images if review.log_key(newest[0], entry) == key), None) if newest else None
    )
    if newest is None or image is None:
        raise HTTPException(404, "The newest selection has no such image.")
    window = pages.studio_of(request).datasets.window(pipeline)
    pixels = np.asarray(decode_rgb((newest[0] / image.path).read_bytes(), window))
    return thumbnails.respond_drawing(dataset.draw(pixels, image.label() or {}))


def send_selection_file(request: Request) -> Response:
    """Sends a file for a labelling program, with the images that have no decision."""
    return _send_label_file(request, lambda opened, name: opened.label_file(name))


def send_redrawn_file(request: Request) -> Response:
    """Sends a file for a labelling program, with the images of the dataset that are drawn again."""
    dataset = data_pages.dataset_of(request, pipeline_of(request))
    return _send_label_file(request, lambda opened, name: opened.redrawn_file(name, dataset))


def _send_label_file(request: Request, read: Callable[[Review, str], bytes | None]) -> Response:
    name = request.path_params["file"]
    try:
        content = read(_review(request, pipeline_of(request)), name)
    except (InvalidDecisionError, DatasetError) as error:
        raise HTTPException(422, str(error)) from None
    if content is None:
        raise HTTPException(404, "These images have no such file.")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
    return Response(content, media_type="application/octet-stream", headers=headers)


async def write_span(request: Request) -> Response:
    """Writes the next span."""
    return JSONResponse(await run_in_threadpool(_write_span, request))


def _write_span(request: Request) -> dict[str, Any]:
    pipeline = pipeline_of(request)
    dataset, opened = data_pages.dataset_of(request, pipeline), _review(request, pipeline)
    try:
        written = opened.write_span(dataset)
    except (InvalidDecisionError, DatasetError) as error:
        raise HTTPException(422, str(error)) from None
    return {
        "number": written.number,
        "path": written.path,
        "images": written.images,
        "is_read_with_others": written.is_read_with_others,
    }


def send_corrections(request: Request) -> Response:
    """Sends the corrections file."""
    opened = _review(request, pipeline_of(request))
    if not opened.corrections_path.is_file():
        raise HTTPException(404, "Nothing has been decided yet.")
    headers = {"Content-Disposition": f'attachment; filename="{opened.corrections_path.name}"'}
    return Response(opened.corrections_path.read_bytes(), media_type="text/csv", headers=headers)


def _review(request: Request, pipeline: StudioPipeline) -> Review:
    return pages.studio_of(request).reviews.get(pipeline)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body) if len(body) <= _MOST_BODY_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise HTTPException(400, "Send a JSON object.")
    return value


ROUTES = [
    Route("/p/{name}/correct", show),
    Route("/p/{name}/correct/queue", list_queue),
    Route("/p/{name}/correct/decide", decide, methods=["POST"]),
    Route("/p/{name}/correct/undo", undo, methods=["POST"]),
    Route("/p/{name}/correct/corrections.csv", send_corrections),
    Route("/p/{name}/correct/select", show_selection),
    Route("/p/{name}/correct/select", select, methods=["POST"]),
    Route("/p/{name}/correct/selected", send_selected),
    Route("/p/{name}/correct/files/{file}", send_selection_file),
    Route("/p/{name}/correct/redraw/{file}", send_redrawn_file),
    Route("/p/{name}/correct/span", write_span, methods=["POST"]),
]
