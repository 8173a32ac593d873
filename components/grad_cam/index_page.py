"""The page that shows all explanations of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2

from trainer_module import grad_cam
from trainer_module.options import TrainerOptions


def render(entries: Sequence[dict[str, Any]], options: TrainerOptions, split: str) -> str:
    """Renders `index.html`; file and class names are the user's text and are escaped.

    Args:
      entries: Rows of `index.json`.
      options: The configuration of the run.
      split: The explained split.
    """
    template = (resources.files("components.grad_cam") / "index.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    by_class = {name: [entry for entry in entries if entry["class"] == name] for name in options.classes}
    colors = grad_cam.color_table(options.grad_cam.colormap)
    stops = ", ".join(
        f"rgb({', '.join(str(round(channel)) for channel in colors[index])})" for index in range(0, 256, 15)
    )
    return environment.from_string(template).render(by_class=by_class, split=split, stops=stops)
