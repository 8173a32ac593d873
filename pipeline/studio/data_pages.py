"""Pages about the dataset: counts, quarantine, duplicates, suspects, drift, lists of images, and single images."""

from __future__ import annotations

import contextlib
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from components.data_audit import thumbnails as audit_thumbnails
from components.example_validator.artifact import Finding
from pipeline.studio import pages, thumbnails
from pipeline.studio.catalog import ImageFilter, ImageRow
from pipeline.studio.dataset import Dataset, read_original
from pipeline.studio.pages import number_in, pipeline_of, render, url
from pipeline.studio.pipelines import StudioPipeline
from trainer_module import features

_PAGE = 100
_MOST_PER_REQUEST = 500
_GROUPS, _FILES, _CLASSES = 30, 50, 500
# Images with a shorter longer side are shown with square pixels.
_SMALL = 160


def dataset_of(request: Request, pipeline: StudioPipeline) -> Dataset:
    """Returns the dataset; 404 if no run has read images, 503 while its catalog is built."""
    dataset = pages.studio_of(request).datasets.get(pipeline)
    if isinstance(dataset, Dataset):
        return dataset
    if dataset is None:
        raise HTTPException(404, "No run of this pipeline has read its images yet.")
    raise HTTPException(503, dataset.error or f"The images are being listed: {dataset.done:,} so far. Try again soon.")


def waiting_page(request: Request, pipeline: StudioPipeline, tab: str) -> Response | None:
    """Returns the page that is shown instead while there is no catalog; None if there is one."""
    dataset = pages.studio_of(request).datasets.get(pipeline)
    if isinstance(dataset, Dataset):
        return None
    return render(request, "waiting.html.j2", pipeline=pipeline, tab=tab, building=dataset)


def show_data(request: Request) -> Response:
    """Shows the dataset."""
    pipeline = pipeline_of(request)
    if page := waiting_page(request, pipeline, "data"):
        return page
    dataset = dataset_of(request, pipeline)
    catalog, summary = dataset.catalog, dataset.summary()
    offset = number_in(request.query_params, "files", 10**9) or 0
    first_group = number_in(request.query_params, "groups", 10**9) or 0
    classes = catalog.by_class_and_split()
    return render(
        request,
        "data.html.j2",
        pipeline=pipeline,
        tab="data",
        dataset=dataset,
        summary=summary,
        sizes=catalog.sizes(),
        classes=dict(list(classes.items())[:_CLASSES]),
        num_classes=len(classes),
        slices=catalog.by_slice(),
        reasons=catalog.by_reason(),
        quarantine=catalog.quarantine(offset, _FILES),
        first_file=offset,
        files_per_page=_FILES,
        groups=catalog.duplicate_groups(first_group, _GROUPS),
        first_group=first_group,
        groups_per_page=_GROUPS,
        num_groups=sum(counts.groups for counts in summary.duplicates.values()),
        drift=dataset.artifacts.drift(),
        places=lambda finding: _places(dataset, finding),
    )


def _places(dataset: Dataset, finding: Finding) -> dict[str, dict[str, str]]:
    """Returns where the images of a difference are listed: title of the link → query."""
    split = {"split": finding.split} if finding.split in dataset.artifacts.splits else {}
    if finding.feature in dataset.catalog.number_names():
        return {
            "smallest first": {**split, "sort": finding.feature},
            "largest first": {**split, "sort": f"-{finding.feature}"},
        }
    if finding.value is not None and finding.feature in dataset.task.class_features:
        return {"images": {**split, "class": finding.value}}
    if finding.value is not None and finding.feature == features.IMAGE_FORMAT:
        return {"images": {**split, "format": finding.value}}
    return {"images": split}


def filter_of(request: Request) -> ImageFilter:
    """Reads the filter of a list of images."""
    query = request.query_params
    name, _, value = query.get("slice", "").partition("=")
    return ImageFilter(
        split=query.get("split", ""),
        class_name=query.get("class", ""),
        slice_name=name,
        slice_value=value,
        suspect=query.get("suspect", ""),
        format=query.get("format", ""),
        text=query.get("text", "")[:500],
        sort=query.get("sort", ""),
    )


def show_images(request: Request) -> Response:
    """Shows a list of images, which its script fills."""
    pipeline = pipeline_of(request)
    if page := waiting_page(request, pipeline, "data"):
        return page
    dataset, chosen = dataset_of(request, pipeline), filter_of(request)
    return render(
        request,
        "images.html.j2",
        pipeline=pipeline,
        tab="data",
        count=dataset.catalog.count(chosen),
        chosen=chosen,
        splits=dataset.artifacts.splits,
        classes=sorted(dataset.catalog.by_class_and_split()),
        slices=dataset.catalog.by_slice(),
        reasons=dataset.catalog.by_reason(),
        formats=sorted({name for row in dataset.catalog.sizes() for name in row["formats"]}),
        numbers=dataset.catalog.number_names(),
        query=str(request.query_params),
        first=dataset.catalog.images(chosen, 0, _PAGE),
        card=lambda row: card(pipeline, dataset, row),
    )


def list_images(request: Request) -> Response:
    """Returns a part of a list of images."""
    pipeline = pipeline_of(request)
    dataset = dataset_of(request, pipeline)
    offset = number_in(request.query_params, "offset", 10**9) or 0
    limit = min(number_in(request.query_params, "limit", 10**6) or _PAGE, _MOST_PER_REQUEST)
    rows = dataset.catalog.images(filter_of(request), offset, limit)
    return JSONResponse({"images": [card(pipeline, dataset, row) for row in rows]})


def card(pipeline: StudioPipeline, dataset: Dataset, row: ImageRow) -> dict[str, Any]:
    """Returns what a list shows of an image."""
    return {
        "id": row.id,
        "url": url("p", pipeline.name, "images", row.id),
        "thumbnail": url("p", pipeline.name, "images", row.id, "thumbnail", key=dataset.artifacts.key),
        "label": row.label,
        "filename": row.filename,
        "split": row.split,
        "small": max(row.width, row.height) < _SMALL,
    }


def show_image(request: Request) -> Response:
    """Shows one image with everything that is known about it."""
    pipeline = pipeline_of(request)
    dataset = dataset_of(request, pipeline)
    row = _row(request, dataset)
    catalog = dataset.catalog
    duplicates = catalog.duplicates_of(row.id)
    return render(
        request,
        "image.html.j2",
        pipeline=pipeline,
        tab="data",
        dataset=dataset,
        row=row,
        count=catalog.count(),
        slices=catalog.slices_of(row.id),
        suspects=catalog.suspects(row.id),
        duplicates=[
            (entry, card(pipeline, dataset, other))
            for entry in duplicates
            if entry.image is not None and (other := catalog.image(entry.image))
        ],
        small=max(row.width, row.height) < _SMALL,
    )


def send_image(request: Request) -> Response:
    """Sends the file of an image, a thumbnail, or the image with its label."""
    pipeline = pipeline_of(request)
    dataset = dataset_of(request, pipeline)
    row, form = _row(request, dataset), request.path_params["form"]
    if form == "file":
        return thumbnails.respond(dataset.image(row), row.format)
    if form == "drawn":
        return thumbnails.respond_drawing(dataset.drawn(row))
    if form == "thumbnail":
        if dataset.has_places:
            return thumbnails.respond(thumbnails.shrink_drawing(dataset.drawn(row)), "PNG")
        return thumbnails.respond(audit_thumbnails.shrink(dataset.image(row)), "PNG")
    raise HTTPException(404, "An image has a file, a thumbnail and a drawing.")


def send_quarantined(request: Request) -> Response:
    """Sends a thumbnail of a quarantined file, if it can be decoded; only files that the quarantine lists."""
    pipeline = pipeline_of(request)
    dataset = dataset_of(request, pipeline)
    entry = dataset.catalog.quarantined(int(request.path_params["number"]))
    content = None if entry is None else read_original(pipeline, entry.path)
    if content is None:
        raise HTTPException(404, "There is no such file, or it is not on this machine.")
    with contextlib.suppress(Exception):  # a damaged image has many errors
        window = pages.studio_of(request).datasets.window(pipeline)
        return thumbnails.respond(audit_thumbnails.shrink(content, window), "PNG")
    raise HTTPException(415, "This file cannot be decoded.")


def _row(request: Request, dataset: Dataset) -> ImageRow:
    row = dataset.catalog.image(int(request.path_params["number"]))
    if row is None:
        raise HTTPException(404, "The dataset has no such image.")
    return row


ROUTES = [
    Route("/p/{name}/data", show_data),
    Route("/p/{name}/images", show_images),
    Route("/p/{name}/images/list", list_images),
    Route("/p/{name}/images/{number:int}", show_image),
    Route("/p/{name}/images/{number:int}/{form}", send_image),
    Route("/p/{name}/quarantine/{number:int}", send_quarantined),
]
