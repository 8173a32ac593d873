"""Renders the content of the report as one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import functools
import hashlib

import jinja2
import markupsafe

from components.model_report import charts
from components.model_report.page import Page

_PACKAGE = "components.model_report"


def render(page: Page) -> str:
    """Renders the report; names of files and classes come from users and are escaped.

    Args:
      page: From `page.build`.

    Returns:
      A complete document. It contains the digest of its one script: a browser runs no other, whatever a name contains.
    """
    return render_template("page.html.j2", page=page, sections=sections(page))


def render_template(name: str, package: str = _PACKAGE, **values: object) -> str:
    """Renders a page with the style, the script and the macros of the report.

    Args:
      name: Of the template.
      package: The package that contains it.
      **values: Variables of the template. `layout`, `script` and `script_digest` are added: the digest allows a browser
        to run this script, and no other.
    """
    environment = _environment(package)
    script = markupsafe.Markup(environment.get_template("script.js.j2").render())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rendered = environment.get_template(name).render(layout=charts, script=script, script_digest=digest, **values)
    return rendered.strip() + "\n"


def sections(page: Page) -> dict[str, str]:
    """Returns the anchors and titles of the sections of a page, in order."""
    candidates: list[tuple[str, str, object]] = [
        ("metrics", "Metrics", True),
        ("classes", "Classes", True),
        ("plots", "Curves and errors", page.plots),
        ("slices", "Slices", page.slices),
        ("corruptions", "Corruptions", page.corruptions),
        ("confusion", "Confusion", True),
        ("calibration", "Calibration", page.reliability),
        (
            "predictions",
            "Worst predictions" if page.sources.compared else "Incorrect predictions",
            page.sources.explained or page.sources.compared,
        ),
        ("gates", "Gates", True),
        ("data", "Dataset", True),
        ("training", "Training", True),
        ("lineage", "Lineage", True),
        ("reproduce", "Reproduce", True),
        ("definitions", "Metric definitions", True),
    ]
    return {anchor: title for anchor, title, shown in candidates if shown}


def create_environment(package: str) -> jinja2.Environment:
    """Creates the environment of a package's templates, which may use those of the report; everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each) for each in (package, _PACKAGE)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["known"] = lambda value: value is not None and value == value
    return environment


_environment = functools.cache(create_environment)
