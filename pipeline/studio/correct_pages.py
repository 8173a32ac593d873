"""The page that corrects labels: a review queue with keyboard control."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.studio import data_pages, pages, review
from pipeline.studio.dataset import Dataset
from pipeline.studio.journal import Decision
from pipeline.studio.pages import number_in, pipeline_of, render, url
from pipeline.studio.pipelines import StudioPipeline
from pipeline.studio.review import InvalidDecisionError, Review, ReviewItem

_PAGE = 50
_MOST_BODY_BYTES = 64 * 1024


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
        progress=review.progress(queue, opened.journal.decisions()),
        can_relabel=review.can_relabel(dataset),
        takes_sets=dataset.task.takes_label_sets,
        corrections=opened.corrections_path,
        has_corrections=opened.corrections_path.is_file(),
    )


def list_queue(request: Request) -> Response:
    """Returns a part of the queue, with the decisions so far."""
    pipeline = pipeline_of(request)
    dataset, opened = data_pages.dataset_of(request, pipeline), _review(request, pipeline)
    offset = number_in(request.query_params, "offset", 0, 10**9) or 0
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
    row = dataset.catalog.image(item.image) if item.image is not None else None
    if row is not None:
        card = data_pages.card(pipeline, dataset, row)
        value |= {key: card[key] for key in ("url", "thumbnail", "small")}
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
]
