"""State of the studio's process between requests."""

from __future__ import annotations

from dataclasses import dataclass

import jinja2

from pipeline.studio.dataset import Datasets
from pipeline.studio.embeddings import EmbeddingStore
from pipeline.studio.model_server import ModelServer
from pipeline.studio.options import StudioOptions
from pipeline.studio.pipelines import Pipelines
from pipeline.studio.projections import Projections
from pipeline.studio.review import Reviews
from pipeline.studio.selections import Selections


@dataclass
class Studio:
    """State that all requests share.

    Attributes:
      options: The options.
      templates: The templates.
      pipelines: Finds pipelines.
      server: Connections to the model server.
      datasets: Opens the datasets of pipelines.
      embeddings: Computes embeddings of datasets.
      projections: Computes their projections to the plane.
      reviews: Queues and journals of corrections.
      selections: Selects images of the request log.
    """

    options: StudioOptions
    templates: jinja2.Environment
    pipelines: Pipelines
    server: ModelServer
    datasets: Datasets
    embeddings: EmbeddingStore
    projections: Projections
    reviews: Reviews
    selections: Selections
