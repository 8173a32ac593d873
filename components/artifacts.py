"""Artifact types of our own; import them as `components.<Type>`."""

from tfx.types.artifact import Artifact

Artifacts = dict[str, list[Artifact]]  # the inputs or the outputs of an executor, by name


class DataAudit(Artifact):
    """Suspicious images with reasons; see `components.data_audit.artifact`."""

    TYPE_NAME = "components.DataAudit"


class GradCamExplanations(Artifact):
    """Heat maps (TFRecord, PNG), overlays, `index.html` and faithfulness; see `components.grad_cam.artifact`.

    The int property `blessed` is 1 if no faithfulness metric misses its threshold.
    """

    TYPE_NAME = "components.GradCamExplanations"


class ModelReport(Artifact):
    """`report.html`: one file with the metrics, gates, data and training of a model."""

    TYPE_NAME = "components.ModelReport"


class MonitoringReference(Artifact):
    """The test split as the pushed version sees it; see `components.monitoring_reference.artifact`.

    The int property `version` is the pushed version; without it no model was pushed, and there are no files.
    """

    TYPE_NAME = "components.MonitoringReference"


class Quarantine(Artifact):
    """Unusable files, duplicates and counts of ImageExampleGen; see `components.image_example_gen.artifact`."""

    TYPE_NAME = "components.Quarantine"


for _type in (DataAudit, GradCamExplanations, ModelReport, MonitoringReference, Quarantine):
    _type.__module__ = "components"
