"""The application: routes, errors, and the checks of every request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from components.stored import IncompatibleArtifactError
from pipeline.config.messages import ConfigError
from pipeline.studio import correct_pages, data_pages, map_pages, pages, run_pages, try_pages
from pipeline.studio.dataset import Datasets
from pipeline.studio.embeddings import EmbeddingStore
from pipeline.studio.guard import LOGIN_PATH, Guard, is_token, session_cookie
from pipeline.studio.model_server import ModelServer
from pipeline.studio.options import StudioOptions
from pipeline.studio.pipelines import Pipelines
from pipeline.studio.projections import Projections
from pipeline.studio.review import Reviews
from pipeline.studio.selections import Selections
from pipeline.studio.state import Studio
from serving.errors import ServerError

_FAILED_LOGIN_PAUSE_S = 0.5
_SESSION_S = 30 * 24 * 3600


def create_app(options: StudioOptions) -> Starlette:
    """Creates the application.

    Args:
      options: The options.
    """
    server = ModelServer(options)
    studio = Studio(
        options=options,
        templates=pages.environment(),
        pipelines=Pipelines(options),
        server=server,
        datasets=Datasets(),
        embeddings=EmbeddingStore(server),
        projections=Projections(),
        reviews=Reviews(),
        selections=Selections(),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        studio.embeddings.stop()
        studio.reviews.close()
        studio.server.close()

    app = Starlette(
        routes=[
            *run_pages.ROUTES,
            *try_pages.ROUTES,
            *data_pages.ROUTES,
            *map_pages.ROUTES,
            *correct_pages.ROUTES,
            Route(LOGIN_PATH, _login_form),
            Route(LOGIN_PATH, _log_in, methods=["POST"]),
            Route("/static/report.css", _report_style),
            Route("/static/sorting.js", _report_sorting),
            Mount("/static", StaticFiles(packages=[("pipeline.studio", "static")])),
        ],
        middleware=[Middleware(Guard, options=options)],
        exception_handlers={
            HTTPException: _http_error,
            ConfigError: _expected_error(500),
            IncompatibleArtifactError: _expected_error(500),
            ServerError: _expected_error(502),
            OSError: _expected_error(500),
            Exception: _unexpected_error,
        },
        lifespan=lifespan,
    )
    app.state.studio = studio
    return app


# === Login ===


def _login_form(request: Request) -> Response:
    if pages.studio_of(request).options.token is None:
        return RedirectResponse("/", status_code=303)
    return pages.render(request, "login.html.j2", wrong=False)


async def _log_in(request: Request) -> Response:
    options = pages.studio_of(request).options
    given = (await pages.form_of(request)).get("token", "")
    if options.token is None or not is_token(given, options.token):
        await run_in_threadpool(time.sleep, _FAILED_LOGIN_PAUSE_S)
        return pages.render(request, "login.html.j2", status_code=403, wrong=True)
    response = RedirectResponse("/", status_code=303)
    name, value = session_cookie(options)
    response.set_cookie(name, value, max_age=_SESSION_S, httponly=True, samesite="strict")
    return response


# === Files of the report that pages use too ===


def _report_style(request: Request) -> Response:
    return _from_report(request, "style.css.j2", "text/css")


def _report_sorting(request: Request) -> Response:
    return _from_report(request, "sorting.js.j2", "text/javascript")


def _from_report(request: Request, template: str, media_type: str) -> Response:
    text = pages.studio_of(request).templates.get_template(template).render()
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-cache"})


# === Errors ===


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not _wants_page(request):
        return JSONResponse({"error": error.detail}, status_code=error.status_code)
    return pages.error_page(request, error.status_code, f"Error {error.status_code}", error.detail)


def _expected_error(status_code: int) -> Callable[[Request, Exception], Response]:
    def respond(request: Request, error: Exception) -> Response:
        message = getattr(error, "message", None) or str(error)
        if not _wants_page(request):
            return JSONResponse({"error": message}, status_code=status_code)
        return pages.error_page(request, status_code, "This page cannot be shown", message)

    return respond


def _unexpected_error(request: Request, error: Exception) -> Response:
    """Responds without the traceback, which uvicorn prints where the studio was started."""
    message = f"{type(error).__name__}. Details are printed where the studio was started."
    if not _wants_page(request):
        return JSONResponse({"error": message}, status_code=500)
    return pages.error_page(request, 500, "This page cannot be shown", message)
