"""The page that sends an image to a model server and shows what it returns."""

from __future__ import annotations

import base64
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.studio import map_pages, pages, served_prediction, snippets, thumbnails, uploads
from pipeline.studio.pages import model_name, number_in, pipeline_of, render, url
from pipeline.studio.pipelines import StudioPipeline
from pipeline.studio.uploads import UnusableUploadError
from serving.errors import InvalidArgumentError
from trainer_module import features, image_statistics, locations
from trainer_module.error_text import first_line

_STOPS = 32  # of the colour scale of heat maps


def show(request: Request) -> Response:
    """Shows the page."""
    pipeline = pipeline_of(request)
    server = pages.studio_of(request).server.model(model_name(request, pipeline))
    number = number_in(request.query_params, "image")
    return render(
        request,
        "try.html.j2",
        pipeline=pipeline,
        tab="try",
        server=server,
        address=pages.studio_of(request).server.address,
        image=url("p", pipeline.name, "images", number, "file") if number else "",
        colors=_color_scale(pipeline.config.grad_cam.colormap),
        max_upload_mb=pages.studio_of(request).options.max_upload_bytes / 2**20,
    )


async def predict(request: Request) -> Response:
    """Sends the image in the body to one version; responds with everything that the page shows."""
    pipeline, studio = pipeline_of(request), pages.studio_of(request)
    version = number_in(request.query_params, "version", 10**18)
    if version is None:
        raise HTTPException(400, "version is missing.")
    body = await request.body()
    return JSONResponse(await run_in_threadpool(_predict, request, pipeline, version, body, studio))


def _predict(request: Request, pipeline: StudioPipeline, version: int, body: bytes, studio: Any) -> dict[str, Any]:
    model = model_name(request, pipeline)
    try:
        image = uploads.prepare(body, studio.options.max_pixels)
        served = served_prediction.request(
            studio.server, _pool(), model, version, image, class_names(pipeline, version)
        )
    except UnusableUploadError as error:
        raise HTTPException(415, str(error)) from None
    except InvalidArgumentError as error:
        raise HTTPException(422, f"The model refuses this image: {first_line(error)}") from None
    view = served.view
    if image_statistics.is_deep_png(image):  # a browser shows values of fewer than 16 bits almost black
        shown = image_statistics.decode_rgb(image, studio.datasets.window(pipeline))
        view["image"] = base64.b64encode(thumbnails.png(shown)).decode()
    view |= map_pages.nearest_cards(request, pipeline, model, version, served.embedding)
    threshold = view["boxes"]["threshold"] if "boxes" in view else 0.5
    code = snippets.snippets(
        view["method"], model, version, grpc=studio.server.address, rest=studio.options.rest, threshold=threshold
    )
    view["snippets"] = [snippet._asdict() for snippet in code]
    return view


def class_names(pipeline: StudioPipeline, version: int) -> list[str]:
    """Reads the class names of a pushed version by id; empty if its folder is not accessible."""
    path = locations.join(pipeline.config.model_base_path, str(version), features.LABELS_FILE)
    try:
        names = json.loads(locations.read(path))
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Threads that only wait for the model server."""
    return ThreadPoolExecutor(16, thread_name_prefix="predict")


@functools.cache
def _color_scale(colormap: str) -> list[list[int]]:
    """Colours of a heat map from no evidence to most, as the report and the export show them: [32, 3], [0, 255]."""
    import matplotlib

    colors = matplotlib.colormaps[colormap]
    return [[round(255 * value) for value in colors(index / (_STOPS - 1))[:3]] for index in range(_STOPS)]


ROUTES = [
    Route("/p/{name}/try", show),
    Route("/p/{name}/predict", predict, methods=["POST"]),
]
