"""Renders the pages: templates, what they all need, and the errors that they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import jinja2
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from components.model_report import charts
from components.model_report.rendering import create_environment
from pipeline.history.run_history import start_time
from pipeline.studio.pipelines import StudioPipeline
from pipeline.studio.state import Studio

# Tabs of a pipeline: path below it and title.
TABS = {"": "Runs", "try": "Try", "data": "Data", "map": "Map", "correct": "Correct"}
_MAX_FORM_BYTES = 64 * 1024
_TONES = {"pushed": "good", "refused": "bad", "failed": "bad", "rolled back": "warn", "unfinished": "warn"}


def environment() -> jinja2.Environment:
    """Creates the environment of the templates, which use those of the report."""
    templates = create_environment("pipeline.studio")
    filters: dict[str, Callable[..., str]] = {
        "number": lambda value: f"{value:,}",
        "start_time": start_time,
        "duration": duration,
    }
    templates.filters |= filters
    templates.globals |= {"url": url, "layout": charts, "tabs": TABS, "tones": _TONES}
    return templates


def url(*parts: Any, **query: Any) -> str:
    """Builds a path from unescaped parts, and a query without the empty values."""
    path = "/" + "/".join(quote(str(part), safe="") for part in parts)
    values = {key: value for key, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(values)}" if values else path


def duration(seconds: float | None) -> str:
    """Formats a time: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 4 min`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def render(
    request: Request,
    template: str,
    *,
    pipeline: StudioPipeline | None = None,
    tab: str | None = None,
    status_code: int = 200,
    **values: Any,
) -> HTMLResponse:
    """Renders a page.

    Args:
      request: The request.
      template: Name of the template.
      pipeline: The pipeline that the page is about.
      tab: Key of `TABS` that is current.
      status_code: Of the response.
      **values: Further variables of the template.
    """
    studio = studio_of(request)
    names = [entry.name for entry in studio.pipelines.all()]
    text = studio.templates.get_template(template).render(pipeline=pipeline, tab=tab, pipeline_names=names, **values)
    return HTMLResponse(text, status_code=status_code)


def studio_of(request: Request) -> Studio:
    """Returns what the process holds."""
    studio: Studio = request.app.state.studio
    return studio


def pipeline_of(request: Request) -> StudioPipeline:
    """Returns the pipeline of the path; 404 if there is none."""
    pipeline = studio_of(request).pipelines.get(request.path_params["name"])
    if pipeline is None:
        raise HTTPException(404, "There is no such pipeline.")
    return pipeline


def model_name(request: Request, pipeline: StudioPipeline) -> str:
    """The name of the pipeline's model on the server."""
    return studio_of(request).options.model or pipeline.config.model_name


async def form_of(request: Request) -> dict[str, str]:
    """Reads a form in the encoding that browsers use without files; the last value of a key counts."""
    body = await request.body()
    if len(body) > _MAX_FORM_BYTES:
        raise HTTPException(413, "The form is too large.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    return {key: values[-1] for key, values in fields.items()}


def number_in(values: Mapping[str, Any], key: str, most: int = 2**53) -> int | None:
    """Reads a number of a query or a form; 400 if it is not one between 0 and the largest.

    Returns:
      None if the key is absent or empty.
    """
    text = values.get(key, "")
    if text == "":
        return None
    if not str(text).isdecimal() or int(text) > most:
        raise HTTPException(400, f"{key}: {str(text)[:50]!r} is not a number from 0 to {most}.")
    return int(text)


def error_page(request: Request, status_code: int, title: str, message: str) -> Response:
    """Renders an error."""
    return render(request, "error.html.j2", status_code=status_code, title=title, message=message)
