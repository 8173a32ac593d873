"""The embedding map: points, colours, selections, and the nearest images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.studio import data_pages, pages, projections
from pipeline.studio.catalog import ImageRow
from pipeline.studio.dataset import Dataset
from pipeline.studio.embeddings import Embedded
from pipeline.studio.pages import model_name, number_in, pipeline_of, render
from pipeline.studio.pipelines import StudioPipeline
from trainer_module.mask_drawing import palette

_SHOWN_IMAGES = 120
_MOST_SELECTED = projections.MAX_POINTS
# More values of a colour share one entry.
_MOST_COLORS = 60
_OTHER = "(other)"
_CORRECT, _INCORRECT = "correct", "incorrect"


class _Map(NamedTuple):
    """Embeddings and rows that the requests of a map read."""

    pipeline: StudioPipeline
    dataset: Dataset
    model: str
    version: int
    embedded: Embedded | None

    def points(self) -> np.ndarray:
        """Positions of the shown images."""
        return projections.sample(self.dataset.catalog.count())


def _open(request: Request) -> _Map:
    pipeline = pipeline_of(request)
    dataset, model = data_pages.dataset_of(request, pipeline), model_name(request, pipeline)
    version = number_in(request.query_params, "version", 10**18)
    if version is None:
        raise HTTPException(400, "version is missing.")
    embedded = pages.studio_of(request).embeddings.get(dataset, model, version)
    return _Map(pipeline, dataset, model, version, embedded)


def _complete(opened: _Map) -> Embedded:
    if opened.embedded is None:
        raise HTTPException(409, "The embeddings of this version have not been computed yet.")
    return opened.embedded


def show_map(request: Request) -> Response:
    """Shows the page."""
    pipeline = pipeline_of(request)
    if page := data_pages.waiting_page(request, pipeline, "map"):
        return page
    dataset, studio = data_pages.dataset_of(request, pipeline), pages.studio_of(request)
    model = model_name(request, pipeline)
    server = studio.server.model(model)
    stored = stored_versions(dataset, model)
    return render(
        request,
        "map.html.j2",
        pipeline=pipeline,
        tab="map",
        count=dataset.catalog.count(),
        server=server,
        versions=sorted({*server.versions, *stored}, reverse=True),
        slices=sorted(dataset.catalog.by_slice()),
        max_points=projections.MAX_POINTS,
    )


def stored_versions(dataset: Dataset, model: str) -> list[int]:
    """Versions of a model whose embeddings of this dataset are stored; they are shown without a server too."""
    prefix, suffix = f"{model}-", f"-{dataset.artifacts.images_key}"
    folder = dataset.embeddings_folder(model, 0).parent
    names = [path.name for path in folder.glob(f"*{suffix}")] if folder.is_dir() else []
    numbers = [name.removeprefix(prefix).removesuffix(suffix) for name in names if name.startswith(prefix)]
    return [int(number) for number in numbers if number.isdecimal()]


def show_state(request: Request) -> Response:
    """Returns the progress of embeddings and t-SNE."""
    opened, studio = _open(request), pages.studio_of(request)
    if opened.embedded is not None:
        vectors = opened.embedded.vectors[opened.points()]
        folder = opened.dataset.embeddings_folder(opened.model, opened.version)
        state: dict[str, Any] = {"state": "complete", "points": len(vectors), "tsne": "complete"}
        if studio.projections.get("tsne", folder, vectors) is None:
            state["tsne"] = studio.projections.start_tsne(folder, vectors).error or "running"
        return JSONResponse(state)
    job = studio.embeddings.job(opened.dataset, opened.model, opened.version)
    if job is None:
        return JSONResponse({"state": "missing", "total": opened.dataset.catalog.count()})
    state_name = "running" if job.is_running else "failed" if job.error else "missing"
    return JSONResponse({"state": state_name, "done": job.done, "total": job.total, "error": job.error})


def start(request: Request) -> Response:
    """Starts the computation of the embeddings."""
    opened = _open(request)
    pages.studio_of(request).embeddings.start(opened.dataset, opened.model, opened.version)
    return show_state(request)


def send_points(request: Request) -> Response:
    """Returns the coordinates of the points, float32 [N, 2], little-endian."""
    opened = _open(request)
    name = request.query_params.get("projection", "pca")
    if name not in ("pca", "tsne"):
        raise HTTPException(400, "projection is pca or tsne.")
    vectors = _complete(opened).vectors[opened.points()]
    folder = opened.dataset.embeddings_folder(opened.model, opened.version)
    points = pages.studio_of(request).projections.get("tsne" if name == "tsne" else "pca", folder, vectors)
    if points is None:
        raise HTTPException(409, "The t-SNE is still being computed.")
    return Response(np.ascontiguousarray(points, "<f4").tobytes(), media_type="application/octet-stream")


def send_colors(request: Request) -> Response:
    """Returns the numbers of the images, and their value in the property that colours the points."""
    opened = _open(request)
    embedded, points = _complete(opened), opened.points()
    rows = opened.dataset.catalog.query("SELECT id, split, label FROM images ORDER BY id")
    kind, _, name = request.query_params.get("color", "class").partition("=")
    values = [""] * len(rows)
    if kind == "class":
        values = [label or "no label" for _, _, label in rows]
    elif kind == "split":
        values = [split for _, split, _ in rows]
    elif kind == "error":
        values = [_CORRECT if entry.correct else _INCORRECT for entry in embedded.predictions]
    elif kind == "predicted":
        values = [entry.text for entry in embedded.predictions]
    elif kind == "suspect":
        suspects = {image for (image,) in opened.dataset.catalog.query("SELECT image FROM suspects")}
        values = ["suspect" if number in suspects else "not suspicious" for number, _, _ in rows]
    elif kind == "slice":
        of_image = dict(opened.dataset.catalog.query("SELECT image, value FROM slices WHERE name = ?", [name]))
        values = [of_image.get(number, "none") for number, _, _ in rows]
    else:
        raise HTTPException(400, "color is class, predicted, error, split, suspect or slice=NAME.")
    shown = [values[position] for position in points]
    names = _names(shown, kind)
    codes = {value: code for code, value in enumerate(names)}
    return JSONResponse(
        {
            "ids": [int(rows[position][0]) for position in points],
            "names": names,
            "colors": _colors(names, kind),
            "codes": [codes.get(value, len(names) - 1) for value in shown],
        }
    )


def _names(values: Sequence[str], kind: str) -> list[str]:
    """Returns the values by frequency; rare ones beyond the largest number of colours share the last entry."""
    if kind == "error":
        return [_CORRECT, _INCORRECT]
    counts = Counter(values)
    names = [value for value, _ in counts.most_common(_MOST_COLORS)]
    if len(counts) > _MOST_COLORS:
        return [*sorted(names[: _MOST_COLORS - 1]), _OTHER]
    return sorted(names)


def _colors(names: Sequence[str], kind: str) -> list[tuple[int, int, int]]:
    if kind == "error":
        return [(86, 180, 233), (213, 94, 0)]
    return palette(len(names))


async def select(request: Request) -> Response:
    """Returns the metrics and the images of a selection."""
    numbers = numbers_of(await request.body(), _MOST_SELECTED)
    return JSONResponse(await run_in_threadpool(_selection, request, numbers))


def numbers_of(body: bytes, most: int) -> list[int]:
    """Reads `{"ids": [1, 2]}`; 400 if it is something else."""
    try:
        numbers = json.loads(body)["ids"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HTTPException(400, 'Send {"ids": [...]}.') from None
    if not isinstance(numbers, list) or len(numbers) > most or not all(type(number) is int for number in numbers):
        raise HTTPException(400, f"ids is a list of at most {most} numbers.")
    return numbers


def _selection(request: Request, numbers: list[int]) -> dict[str, Any]:
    opened = _open(request)
    embedded, catalog = _complete(opened), opened.dataset.catalog
    valid = [number for number in numbers if 0 < number <= len(embedded.predictions)]
    rows = [row for first in range(0, len(valid), 500) for row in catalog.chosen(valid[first : first + 500])]
    predicted = [embedded.predictions[row.id - 1] for row in rows]
    offset = number_in(request.query_params, "offset", 10**6) or 0
    shown = rows[offset : offset + _SHOWN_IMAGES]
    cards = [
        data_pages.card(opened.pipeline, opened.dataset, row)
        | {"predicted": embedded.predictions[row.id - 1].text, "correct": embedded.predictions[row.id - 1].correct}
        for row in shown
    ]
    scores = [entry.score for entry in predicted if entry.score == entry.score]
    return {
        "count": len(rows),
        "correct": sum(entry.correct for entry in predicted),
        "mean_score": sum(scores) / len(scores) if scores else None,
        "classes": _by_class(rows, embedded),
        "images": cards,
        "next": offset + _SHOWN_IMAGES if offset + _SHOWN_IMAGES < len(rows) else None,
    }


def _by_class(rows: Sequence[ImageRow], embedded: Embedded) -> list[dict[str, Any]]:
    counts, correct = Counter[str](), Counter[str]()
    for row in rows:
        for name in filter(None, row.label.split("|")):
            counts[name] += 1
            correct[name] += embedded.predictions[row.id - 1].correct
    return [
        {"name": name, "count": count, "correct": correct[name]} for name, count in counts.most_common(_MOST_COLORS)
    ]


def nearest_cards(
    request: Request, pipeline: StudioPipeline, model: str, version: int, vector: np.ndarray | None, top_k: int = 12
) -> dict[str, Any]:
    """Returns the training images nearest to an embedding, or why there are none.

    Args:
      request: The request.
      pipeline: The pipeline.
      model: Name of the model.
      version: The version that computed the embedding.
      vector: float32 [D].
      top_k: Number of images.
    """
    dataset = pages.studio_of(request).datasets.get(pipeline)
    if vector is None:
        return {"nearest_note": "This model has no signature `embed`."}
    if not isinstance(dataset, Dataset):
        return {"nearest_note": "The images of the dataset are still being listed, or there are none."}
    embedded = pages.studio_of(request).embeddings.get(dataset, model, version)
    if embedded is None:
        return {"nearest_note": "", "nearest_missing": True}
    try:
        nearest = embedded.nearest(np.asarray(vector), top_k)
    except ValueError as error:
        return {"nearest_note": f"There is no nearest image: {error}."}
    rows = {row.id: row for row in dataset.catalog.chosen([entry.position + 1 for entry in nearest])}
    return {
        "nearest": [
            data_pages.card(pipeline, dataset, rows[entry.position + 1]) | {"similarity": entry.similarity}
            for entry in nearest
        ]
    }


ROUTES = [
    Route("/p/{name}/map", show_map),
    Route("/p/{name}/map/state", show_state),
    Route("/p/{name}/map/start", start, methods=["POST"]),
    Route("/p/{name}/map/points", send_points),
    Route("/p/{name}/map/colors", send_colors),
    Route("/p/{name}/map/selection", select, methods=["POST"]),
]
