"""Artifact types of our own; import them as `components.<Type>`."""

from tfx.types.artifact import Artifact


class GradCamExplanations(Artifact):
    """Heat maps (TFRecord, PNG), overlays, `index.html`, how faithful they are; see `components.grad_cam.findings`.

    The int property `blessed` is GradCam's verdict on its figures.
    """

    TYPE_NAME = "components.GradCamExplanations"


class ModelReport(Artifact):
    """`report.html`: one file that says all that is known of a model."""

    TYPE_NAME = "components.ModelReport"


class Quarantine(Artifact):
    """What ImageExampleGen refused: `quarantine.jsonl` (path, reason) and `summary.json` (counts)."""

    TYPE_NAME = "components.Quarantine"


for _type in (GradCamExplanations, ModelReport, Quarantine):
    _type.__module__ = "components"
