"""Turns the page's values into one HTML file that needs no network."""

from __future__ import annotations

import base64
import functools
import hashlib

import jinja2
import markupsafe

from components.model_report import charts
from components.model_report.page import Page


def render(page: Page) -> str:
    """Renders the report; file and class names are the user's text and are escaped.

    Args:
      page: From `page.build`.

    Returns:
      A whole document. It names the digest of its one script, so that a browser runs no other, whatever a name holds.
    """
    script = markupsafe.Markup(_environment().get_template("script.js.j2").render())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html.j2")
    rendered = template.render(page=page, sections=sections(page), layout=charts, script=script, script_digest=digest)
    return rendered.strip() + "\n"


def sections(page: Page) -> dict[str, str]:
    """The sections that this page has, by their anchors, in order."""
    pictures = "Weakest pictures" if page.comparisons else "Mistakes"
    found: list[tuple[str, str, object]] = [
        ("figures", "Figures", True),
        ("classes", "Classes", True),
        ("slices", "Slices", page.slices),
        ("confusion", "Confusion", True),
        ("calibration", "Calibration", page.reliability),
        ("pictures", pictures, page.explained or page.comparisons),
        ("gates", "Gates", True),
        ("data", "Data", True),
        ("training", "Training", True),
        ("lineage", "Lineage", True),
        ("reproduce", "Reproduce", True),
    ]
    return {anchor: title for anchor, title, shown in found if shown}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("components.model_report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["known"] = lambda value: value is not None and value == value
    return environment
